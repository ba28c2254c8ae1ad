"""Study files: the settings of a whole study, and where its cohort is.

:class:`StudyConfig` mirrors the arguments of the public functions; a study file is its YAML form. Unknown keys are
errors that name the nearest valid one.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Collection
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from hybrid.cases import Cohort
from hybrid.errors import InputError, unknown_name
from hybrid.files import write_text
from hybrid.fold_options import check_fold_options
from hybrid.provenance import digest


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CohortConfig(_Strict):
    """Where the cohort table is and how its columns are called."""

    file: str
    """Path; relative to the study file. ``${NAME}`` is replaced by an environment variable."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Our column name to the table's column name, for example ``{case_id: patient}``."""
    image_name_column: str | None = None
    """For a table with one row per image: the column that names the image."""
    image_names: dict[str, str] = Field(default_factory=dict)
    """New image names for the values of ``image_name_column``."""


class ImageConfig(_Strict):
    """How one image of each case is read and measured."""

    handcrafted: str | dict[str, Any] | None = None
    """Preset, PyRadiomics parameter file, or parameters."""
    modality: Literal["ct", "mr", "pet"] | None = None
    """Intensity normalisation of the encoder; by default the preset's name."""
    scale: float = 1.0
    """Factor on the stored values, for example 0.001 for SUV stored times 1000."""


class FeatureTableConfig(_Strict):
    """A ready feature table: the study starts from it, and no image is read."""

    table: str
    """CSV (also compressed), Excel or Parquet; relative to the study file. ``${NAME}`` is an environment variable. It
    may be the cohort's own file; columns that the study file gives another meaning are then no features."""
    case_id: str = "case_id"
    """Column of the ids."""
    prefix: Literal["rad_", "deep_"] = "rad_"
    """Stands before the names of columns that start with neither ``rad_`` nor ``deep_``."""
    leave_out: list[str] = Field(default_factory=list)
    """Columns, or shell patterns, that are no features."""


class SequenceCheck(_Strict):
    """Which sequence each image must be; a study with another one is refused before any feature is extracted."""

    model: str
    """Folder of a classifier of volumes (``hybrid train --task classification``); relative to the study file."""
    expected: dict[str, str] = Field(min_length=1)
    """Image name to class, for example ``{t2: T2, adc: ADC}``."""
    threshold: float | None = Field(default=None, ge=0, le=1)
    """Below this confidence a wrong answer is a warning; by default the threshold of the model."""


class StudyConfig(_Strict):
    """Everything that defines a study; unknown keys are errors."""

    title: str = "Handcrafted and deep features compared"
    cohort: CohortConfig
    features: FeatureTableConfig | None = None
    """A ready feature table in place of ``images`` and ``encoder``; its path alone is enough."""
    images: dict[str, ImageConfig] = Field(default_factory=lambda: {"image": ImageConfig(handcrafted="ct")})
    sequences: SequenceCheck | None = None
    """Refuse images of another sequence, found by their pixels."""
    encoder: str | None = "bundled"
    infold_encoder: dict[str, Any] | None = None
    """Arguments of :class:`hybrid.deep.OutcomeEncoder`, trained inside each fold, for the feature sets ``deep_infold``
    and ``fused_infold``."""
    outcome_name: str = "outcome"
    positive: str | int | float | bool | None = None
    covariates: list[str] = Field(default_factory=list)
    feature_sets: list[str] | dict[str, str | list[str]] = Field(
        default_factory=lambda: ["handcrafted", "deep", "fused"]
    )
    baselines: dict[str, list[str]] = Field(default_factory=dict)
    """Trivial feature sets by column pattern, shown beside the models and never part of the contrast."""
    classifiers: list[str] = Field(
        default_factory=lambda: ["logistic", "elastic_net", "rbf_svm", "random_forest", "xgboost"]
    )
    contrast: list[tuple[str, str]] = Field(default_factory=lambda: [("handcrafted", "deep")])
    """The comparisons declared beforehand; the first is the headline."""
    repeats: int = Field(default=5, ge=1)
    folds: int = Field(default=5, ge=2)
    inner_folds: int = Field(default=3, ge=2)
    permutations: int = Field(default=20, ge=0)
    bootstraps: int = Field(default=2000, ge=100)
    explained_repeats: int = Field(default=1, ge=0)
    """Repeats whose models are explained (importance, Shapley values, stability of the choice); 0 for none."""
    relative_cost: float = Field(default=1.0, gt=0)
    """How many false positives are as bad as one missed case, for the cut-off by cost."""
    risk_categories: list[float] = Field(default_factory=list)
    """Borders between categories of risk that clinicians use, for the categorical NRI; none leave it out."""
    resamples: int = Field(default=0, ge=0)
    """Refits of the first declared feature set on bootstrap samples, for .632+ and optimism; 0 for none."""
    calibration: Literal["sigmoid"] | None = None
    selector: str | None = None
    """What chooses features inside each fold, by name (``mrmr_miq``, ``lasso``, ``boruta``, ...); by default the ten of
    each block whose own AUC lies furthest from one half."""
    harmonise: str | None = None
    """``site`` or a column of the cohort that names scanner or centre: ComBat, fitted inside each fold."""
    unseen_batch: Literal["unadjusted", "error"] = "unadjusted"
    """What happens to patients of a batch with fewer than two training rows."""
    imbalance: Literal["class_weight"] | None = None
    """Whether classes are weighted inversely to their size in training."""
    seed: int = 0
    simulated: bool = False

    @field_validator("risk_categories")
    @classmethod
    def _increasing(cls, borders: list[float]) -> list[float]:
        if borders != sorted(set(borders)) or not all(0 < border < 1 for border in borders):
            raise ValueError("borders of risk categories must increase and lie between 0 and 1, for example [0.1, 0.3]")
        return borders

    @classmethod
    def from_yaml(cls, path: str | Path, *, cohort_file: str | Path | None = None) -> StudyConfig:
        """Read a study file.

        Parameters
        ----------
        path : path-like
            The study file.
        cohort_file : path-like, optional
            Cohort table in place of the one that the study file names; relative to the working folder.

        Raises
        ------
        InputError
            When the file is missing or not YAML, a key is unknown (the nearest valid one is named) or a value is
            out of range.
        """
        path = Path(path)
        if not path.is_file():
            raise InputError("The study file does not exist.", advice=_study_advice(path), path=path)
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise InputError(
                f"The study file is not valid YAML ({error}).", advice="Check indents.", path=path
            ) from error
        return cls.from_dict(values, source=path, cohort_file=cohort_file)

    @classmethod
    def from_dict(
        cls, values: Any, *, source: str | Path | None = None, cohort_file: str | Path | None = None
    ) -> StudyConfig:
        """Build from plain values; ``cohort`` may be the path alone. See :meth:`from_yaml` for errors."""
        if not isinstance(values, dict):
            raise InputError("A study file must hold 'key: value' lines.", advice="See studies/demo.yaml.", path=source)
        values = dict(values)
        if isinstance(values.get("cohort"), str):
            values["cohort"] = {"file": values["cohort"]}
        if values.get("features") is not None:
            values = _without_images(values, source)
        try:
            config = cls.model_validate(values)
        except ValidationError as error:
            raise _explain(error, source) from error
        check_fold_options(config.selector, config.unseen_batch, config.imbalance)
        folder = Path(source).parent if source is not None else Path()
        file = Path(cohort_file) if cohort_file is not None else _located(config.cohort.file, folder, source)
        images = {name: _with_file(image, folder) for name, image in config.images.items()}
        encoder = _beside(config.encoder, folder) if config.encoder else None
        cohort = config.cohort.model_copy(update={"file": str(file)})
        features = config.features
        if features is not None:
            path = _located(features.table, folder, source, "name the table by its path")
            features = features.model_copy(update={"table": str(path)})
        sequences = config.sequences
        if sequences is not None:
            path = _located(sequences.model, folder, source, "name the folder by its path")
            sequences = sequences.model_copy(update={"model": str(path)})
        return config.model_copy(
            update={
                "cohort": cohort,
                "features": features,
                "images": images,
                "encoder": encoder,
                "sequences": sequences,
            }
        )

    def to_yaml(self, path: str | Path) -> Path:
        """Write every setting, defaults included."""
        text = yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        return write_text(text, path)

    @property
    def digest(self) -> str:
        """Digest of all settings but the title and the cohort's folder."""
        values = self.model_dump(mode="json", exclude={"title"})
        values["cohort"]["file"] = Path(values["cohort"]["file"]).name
        if values["features"] is not None:
            values["features"]["table"] = Path(values["features"]["table"]).name
        if values["sequences"] is not None:
            values["sequences"]["model"] = Path(values["sequences"]["model"]).name
        return digest(values)


def _without_images(values: dict[str, Any], source: str | Path | None) -> dict[str, Any]:
    """Return the settings of a study that starts from a ready feature table: nothing is extracted."""
    for name in ("images", "encoder", "infold_encoder"):
        if values.get(name):
            raise InputError(
                f"A study has 'features', a ready table, or {name!r}, from which features are extracted; found both.",
                advice=f"Remove {name!r}, or remove 'features'.",
                path=source,
            )
    table = values["features"]
    ready = {"table": table} if isinstance(table, str) else table
    return {**values, "features": ready, "images": {}, "encoder": None}


def _explain(error: ValidationError, source: str | Path | None) -> InputError:
    # A misspelt key is the cause of a missing one.
    first = min(error.errors(), key=lambda item: item["type"] != "extra_forbidden")
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        model: type[BaseModel] = StudyConfig
        if first["loc"][0] == "cohort":
            model = CohortConfig
        elif first["loc"][0] == "images":
            model = ImageConfig
        elif first["loc"][0] == "features":
            model = FeatureTableConfig
        elif first["loc"][0] == "sequences":
            model = SequenceCheck
        return unknown_name("setting", first["loc"][-1], model.model_fields, path=source)
    found = "" if first["type"] == "missing" else f" Found {first['input']!r}."
    return InputError(f"Setting {place!r}: {first['msg']}.{found}", advice="Correct the study file.", path=source)


def _located(
    file: str, folder: Path, source: str | Path | None, otherwise: str = "name the table with --cohort FILE"
) -> Path:
    text = os.path.expandvars(file)
    if "${" in text:
        name = text.split("${", 1)[1].split("}", 1)[0]
        raise InputError(
            f"The study file uses the environment variable {name}, which is not set.",
            advice=f"Set {name}, or {otherwise}.",
            path=source,
        )
    path = Path(text).expanduser()
    return path if path.is_absolute() else folder / path


def _with_file(image: ImageConfig, folder: Path) -> ImageConfig:
    if not isinstance(image.handcrafted, str):
        return image
    return image.model_copy(update={"handcrafted": _beside(image.handcrafted, folder)})


def _beside(name: str, folder: Path) -> str:
    """Path of a file that lies beside the study file; any other name as it is."""
    return str(folder / name) if not Path(name).is_absolute() and (folder / name).exists() else name


def study_names() -> list[str]:
    """Names of the study files that come with the package."""
    return sorted(item.name.removesuffix(".yaml") for item in _studies().iterdir() if item.name.endswith(".yaml"))


def _studies() -> Any:
    return resources.files("hybrid.pipelines.studies")


def find_study(name: str | Path) -> Path:
    """Path of a study file given by path, or by the name of one that comes with the package.

    Raises
    ------
    InputError
        When neither exists; the nearest name is given.
    """
    path = Path(name)
    if path.is_file():
        return path
    if path.suffix == "" and str(name) in study_names():
        return Path(str(_studies() / f"{name}.yaml"))
    raise InputError("The study file does not exist.", advice=_study_advice(path), path=path)


def _study_advice(path: Path) -> str:
    files = [item.name for item in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, [*files, *study_names()], n=1)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    return f"{hint}Studies that come with the package: {', '.join(study_names())}."


def load_cohort(config: CohortConfig, *, without: Collection[str] = ()) -> Cohort:
    """Read the cohort of a study: rename columns, and gather one-row-per-image tables into one row per case.

    Parameters
    ----------
    config : CohortConfig
        Where it is.
    without : collection of str
        Columns of the file to leave out, named as in the file: features that stand in the same table.

    Raises
    ------
    InputError
        When a column named in the study file is not in the table.
    """
    path = Path(config.file)
    if not config.columns and config.image_name_column is None and not without:
        return Cohort.read(path)
    if not path.is_file():
        raise InputError("The cohort file does not exist.", advice="Check 'cohort' in the study file.", path=path)
    reader = pd.read_excel if path.suffix.lower() in (".xlsx", ".xls") else pd.read_csv
    table = reader(path, dtype={config.columns.get(name, name): str for name in ("case_id", "patient_id", "site")})
    for name in [*config.columns.values(), *([config.image_name_column] if config.image_name_column else [])]:
        if name not in table.columns:
            error = unknown_name("column", name, table.columns)
            raise InputError(f"The cohort table has no column {name!r}.", advice=error.advice, path=path)
    table = table.drop(columns=[name for name in table.columns if name in without])
    table = table.rename(columns={theirs: ours for ours, theirs in config.columns.items()})
    if config.image_name_column is not None:
        table = gather_images(table, config.image_name_column, config.image_names)
    return Cohort.from_frame(table, folder=path.parent, source=path)


def gather_images(table: pd.DataFrame, name_column: str, names: dict[str, str] | None = None) -> pd.DataFrame:
    """Turn a table with one row per image into one with a row per case.

    Parameters
    ----------
    table : DataFrame
        With ``case_id``, ``image``, optionally ``mask``, and a column that names the image.
    name_column : str
        That column.
    names : dict, optional
        New image names.

    Returns
    -------
    DataFrame
        ``image_<name>`` and ``mask_<name>`` columns; of the others those that are constant within every case (the
        rest describe an image, not a case).
    """
    images = [column for column in ("image", "mask") if column in table.columns]
    labels = table[name_column].astype(str).replace(names or {})
    wide = table.assign(**{name_column: labels}).pivot(index="case_id", columns=name_column, values=images)
    wide = wide[[(kind, name) for kind in images for name in labels.unique()]]
    wide.columns = [f"{kind}_{name}" for kind, name in wide.columns]
    others = table.drop(columns=[name_column, *images]).groupby("case_id", sort=False)
    constant = [column for column, count in others.nunique(dropna=False).max().items() if count == 1]
    return others[constant].first().join(wide).reset_index()
