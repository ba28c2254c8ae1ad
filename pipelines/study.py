"""A whole study from one file: cohort, features, evaluation, comparison, report.

``run_study`` only calls the public functions, in order, and writes what they return.
"""

from __future__ import annotations

import datetime
import functools
import logging
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pandas as pd

from hybrid.analysis import Report, check_design, compare_models, evaluate_models, export_report, write_checklists
from hybrid.analysis.validation import measure_validation
from hybrid.cases import Cohort
from hybrid.errors import InputError, unknown_name
from hybrid.files import write_csv
from hybrid.fold_options import fold_facts
from hybrid.handcrafted import PRESETS, describe_preset, load_settings
from hybrid.provenance import code_version, digest, versions
from hybrid.tables import PROBLEM_COLUMNS, SELECTED

from .config import StudyConfig, load_cohort
from .evaluate import cross_validate, permutation_null
from .explain_models import explain_models
from .extract import extract_features, plan_parts
from .files import read_header, write_json
from .models import fit_model, load_model, trained_on, validate_model
from .ready_features import feature_columns_of, meaningful_columns, read_ready_features
from .resample import DeclaredPipeline, bootstrap_632, optimism_bootstrap
from .study_table import prepare_batches, prepare_table

logger = logging.getLogger(__name__)

SEQUENCE_MODEL: Final = "sequence_model"
"""Beside a frozen model: the classifier that checks the images of new patients, where the study has one."""

INTERNAL_FILE: Final = "internal_performance.csv"
"""Beside a frozen model: what cross-validation on its own patients measured."""


def run_study(
    config: StudyConfig,
    out: str | Path,
    *,
    n_jobs: int = 1,
    backend: str = "loky",
    progress: bool = True,
) -> Path:
    """Run a study from images to report; a second call resumes and gives the same tables.

    Parameters
    ----------
    config : StudyConfig
        What to do.
    out : path-like
        Folder for ``report.html``, ``features.csv``, ``predictions.csv``, ``tables/``, ``failures.csv``,
        ``run_record.json`` and the cache.
    n_jobs, backend, progress
        See :func:`hybrid.pipelines.run_tasks`; they do not change any number.

    Returns
    -------
    Path
        The report.

    Raises
    ------
    InputError
        For settings that do not fit the cohort, before work starts where that can be known.
    """
    out = Path(out)
    work: dict[str, Any] = {"n_jobs": n_jobs, "backend": backend, "progress": progress}
    cohort = study_cohort(config)
    _check_images(config, cohort)
    problems = pd.concat([cohort.check(progress=progress), study_sequences(config, cohort, out, work)])
    write_csv(problems, out / "problems.csv")
    features = study_features(config, cohort, out, work)
    design = study_design(config, cohort, features)
    write_csv(design, out / "design_checks.csv")
    predictions = study_predictions(config, cohort, features, out, work)
    null = study_null(config, cohort, features, out, work)
    explanations = study_explanations(config, cohort, features, out, work)
    resampled = study_resampling(config, cohort, features, out, work)
    metrics = evaluate_models(predictions, n_bootstrap=config.bootstraps, seed=config.seed)
    comparison = compare_models(
        predictions, contrast=config.contrast, null=null, n_bootstrap=config.bootstraps, seed=config.seed,
        baselines=list(config.baselines),
    )  # fmt: skip
    record = run_record(config, cohort, features, predictions)
    write_json(record, out / "run_record.json")
    config.to_yaml(out / "study.yaml")
    report = Report(
        cohort, features, predictions, comparison, metrics=metrics, null=null, problems=problems,
        failures=pd.DataFrame(features.attrs["failures"]), run_record=record, title=config.title,
        simulated=config.simulated, baselines=list(config.baselines), design=design, explanations=explanations,
        relative_cost=config.relative_cost, risk_categories=config.risk_categories, resampled=resampled,
    )  # fmt: skip
    return _write_report(report, out, record)


def study_design(config: StudyConfig, cohort: Cohort, features: pd.DataFrame) -> pd.DataFrame:
    """Check the table that is going to be evaluated, see :func:`hybrid.analysis.check_design`; warnings are logged."""
    known = [name for name in config.covariates if name in cohort.to_frame().columns]
    study = prepare_table(features, cohort, covariates=known, positive=config.positive)
    columns = [name for name in study.table.columns if name not in study.categorical]
    rows = pd.Index([f"{case}/{i}" for i, case in enumerate(study.cases)], name="case_id")
    if config.harmonise:
        sites = prepare_batches(cohort, study.cases, config.harmonise).set_axis(rows).rename(config.harmonise)
    else:
        sites = pd.Series([cohort[case].site or "" for case in study.cases], index=rows, name="site")
    found = check_design(
        study.table[columns].set_axis(rows), pd.Series(study.y, index=rows),
        patients=pd.Series(study.patients, index=rows), batches=sites if sites.nunique() > 1 else None,
    )  # fmt: skip
    for row in found[found["level"] != "info"].itertuples():
        logger.warning("%s %s", row.finding, row.advice)
    return found


def _write_report(report: Report, out: Path, record: Mapping[str, Any]) -> Path:
    """Write the report as a page, for Word, Excel and LaTeX, and the reporting checklists."""
    page = report.save(out / "report.html")
    export_report(report, out)
    write_checklists(out / "checklists", record, report.tables())
    return page


def study_cohort(config: StudyConfig) -> Cohort:
    """Read the cohort of a study; ids must be unique."""
    cohort = load_cohort(config.cohort, without=feature_columns_of(config))
    cohort.require_unique_ids()
    return cohort


def _check_images(config: StudyConfig, cohort: Cohort) -> None:
    for name in config.images:
        if name not in cohort.image_names:
            raise unknown_name("image", name, cohort.image_names, path=config.cohort.file)


def study_sequences(config: StudyConfig, cohort: Cohort, out: Path, work: dict[str, Any]) -> pd.DataFrame:
    """Refuse images of another sequence than the study names; what could not be decided comes back as problems."""
    if config.sequences is None:
        return pd.DataFrame(columns=list(PROBLEM_COLUMNS))
    from .sequence_id import AS_EXPECTED, require_sequence

    check = config.sequences
    table = require_sequence(cohort, check.model, check.expected, out=out, threshold=check.threshold, **work)
    doubtful = table[table["verdict"] != AS_EXPECTED]
    rows = [
        (row["case_id"], "warning", f"Image {row['image']}: expected {row['expected']}; {_opinion(row)}.",
         "Look at the image; it stays in the study.")
        for row in doubtful.to_dict("records")
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=list(PROBLEM_COLUMNS))


def _opinion(row: Mapping[str, Any]) -> str:
    if pd.isna(row["confidence"]):
        return f"the sequence could not be told ({row['note']})"
    return f"the pixels say {row['class']} with a confidence of {row['confidence']:.2f} only"


def study_features(config: StudyConfig, cohort: Cohort, out: Path, work: dict[str, Any]) -> pd.DataFrame:
    """Extract the features of a study into ``out``, or read the ready table that it starts from."""
    if config.features is not None:
        known = {*meaningful_columns(config), *config.covariates}
        features = read_ready_features(config.features, known=sorted(known), cases=[case.case_id for case in cohort])
        features.attrs["failures"] = []
        write_csv(features.reset_index(), out / "features.csv")
        return features
    return extract_features(cohort, **_extraction_settings(config), out=out, **work)


def _extraction_settings(config: StudyConfig) -> dict[str, Any]:
    return {
        "handcrafted": {name: image.handcrafted for name, image in config.images.items()},
        "encoder": config.encoder,
        "scale": {name: image.scale for name, image in config.images.items()},
        "modality": {name: image.modality for name, image in config.images.items()},
    }


def extraction_digests(config: StudyConfig, cohort: Cohort) -> dict[str, str]:
    """Digest of everything that determines the values of each kind of feature: parameters, encoder, scale.

    Nothing for a ready feature table: how its values came about is not known.
    """
    if config.features is not None:
        return {}
    return {part.stage: digest(part.settings) for part in plan_parts(cohort, **_extraction_settings(config))}


def _evaluation_settings(config: StudyConfig) -> dict[str, Any]:
    sets = config.feature_sets
    declared: dict[str, Any] = dict(sets) if isinstance(sets, dict) else {name: name for name in sets}
    return {
        "feature_sets": declared | dict(config.baselines),
        "classifiers": config.classifiers,
        "covariates": config.covariates,
        "folds": config.folds,
        "inner_folds": config.inner_folds,
        "positive": config.positive,
        "calibration": config.calibration,
        **_fold_options(config),
        "seed": config.seed,
    }


def _fold_options(config: StudyConfig) -> dict[str, Any]:
    names = ("selector", "harmonise", "unseen_batch", "imbalance")
    return {name: getattr(config, name) for name in names}


def study_predictions(
    config: StudyConfig, cohort: Cohort, features: pd.DataFrame, out: Path, work: dict[str, Any]
) -> pd.DataFrame:
    """Cross-validate the models of a study; write ``predictions.csv``."""
    encoder = None
    if config.infold_encoder is not None:
        from hybrid.deep import OutcomeEncoder

        encoder = functools.partial(OutcomeEncoder, **config.infold_encoder)
    predictions = cross_validate(
        features, cohort, repeats=config.repeats, encoder=encoder, out=out, **_evaluation_settings(config), **work
    )
    write_csv(predictions, out / "predictions.csv")
    return predictions


def study_null(
    config: StudyConfig, cohort: Cohort, features: pd.DataFrame, out: Path, work: dict[str, Any]
) -> pd.DataFrame | None:
    """Repeat the declared pipeline on permuted outcomes; write ``tables/permutation_null.csv``."""
    if not config.permutations:
        return None
    settings = _evaluation_settings(config)
    # Trivial baselines need no null of their own; an encoder per fold and permutation would cost hours.
    settings["feature_sets"] = {
        name: what
        for name, what in settings["feature_sets"].items()
        if name not in config.baselines and not (isinstance(what, str) and "infold" in what)
    }
    null = permutation_null(features, cohort, n_permutations=config.permutations, out=out, **settings, **work)
    write_csv(null, out / "tables" / "permutation_null.csv")
    return null


def study_explanations(
    config: StudyConfig, cohort: Cohort, features: pd.DataFrame, out: Path, work: dict[str, Any]
) -> pd.DataFrame | None:
    """Explain the models of the declared comparison on unseen patients; write ``explanations.csv``."""
    settings = _evaluation_settings(config)
    compared = dict.fromkeys(name for pair in config.contrast for name in pair)
    sets = {name: settings["feature_sets"][name] for name in compared if name in settings["feature_sets"]}
    # Embeddings of an encoder that is trained in each fold have no names that folds share.
    settings["feature_sets"] = {
        name: what for name, what in sets.items() if not (isinstance(what, str) and "infold" in what)
    }
    repeats = min(config.explained_repeats, config.repeats)
    if not repeats or not settings["feature_sets"]:
        return None
    explanations = explain_models(features, cohort, repeats=repeats, out=out, **settings, **work)
    write_csv(explanations, out / "explanations.csv")
    return explanations


def study_resampling(
    config: StudyConfig, cohort: Cohort, features: pd.DataFrame, out: Path, work: dict[str, Any]
) -> pd.DataFrame | None:
    """Refit the first declared feature set on bootstrap samples of patients; write ``tables/resampled.csv``."""
    settings = _evaluation_settings(config)
    sets = settings.pop("feature_sets")
    declared = [name for pair in config.contrast for name in pair if name in sets]
    name = next(iter([*declared, *sets]))
    # An encoder that is trained on every bootstrap sample would cost hours.
    if not config.resamples or (isinstance(sets[name], str) and "infold" in sets[name]):
        return None
    shared: dict[str, Any] = {"seed": settings.pop("seed"), "positive": settings.pop("positive"), **work}
    pipeline = DeclaredPipeline(
        feature_set={name: sets[name]}, **{key: value for key, value in settings.items() if key != "folds"}
    )
    tables = [
        resample(features, cohort, pipeline, n_bootstrap=config.resamples, out=out, **shared)
        for resample in (bootstrap_632, optimism_bootstrap)
    ]
    found = pd.concat(tables, ignore_index=True).drop_duplicates(["metric", "method"], ignore_index=True)
    write_csv(found, out / "tables" / "resampled.csv")
    return found


def run_record(
    config: StudyConfig, cohort: Cohort, features: pd.DataFrame, predictions: pd.DataFrame
) -> dict[str, Any]:
    """Gather what was run, with what and on what: the source of the methods paragraph."""
    used = [image.handcrafted for image in config.images.values()]
    presets = [name for name in PRESETS if name in used]
    return {
        "title": config.title,
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "settings": _portable(config).model_dump(mode="json"),
        "settings_digest": config.digest,
        "code_version": code_version(),
        "versions": versions(),
        "n_cases": len(cohort),
        "n_patients": len({case.patient_id for case in cohort}),
        "n_evaluated": int(predictions["case_id"].nunique()),
        "n_features": features.shape[1],
        "features_digest": digest(features.reset_index().to_csv(index=False)),
        "predictions_digest": digest(predictions.to_csv(index=False)),
        "presets": {name: describe_preset(name).to_dict("records") for name in presets},
        "in_fold": _in_fold(config, cohort, predictions),
    }


def _in_fold(config: StudyConfig, cohort: Cohort, predictions: pd.DataFrame) -> dict[str, Any]:
    """Facts on what was fitted inside the folds, and on how many cases harmonisation reached."""
    facts = fold_facts(**_fold_options(config))
    if facts["harmonisation"] is not None and "harmonised" in predictions.columns:
        is_model = (predictions["classifier"] == SELECTED) & ~predictions["feature_set"].isin(list(config.baselines))
        modelled = predictions[is_model]
        adjusted = modelled.groupby("case_id")["harmonised"].agg(["any", "all"])
        batches = prepare_batches(cohort, adjusted.index, str(config.harmonise)).value_counts().sort_index()
        facts["harmonisation"] |= {
            "cases_by_batch": {str(name): int(count) for name, count in batches.items()},
            "n_cases_never_adjusted": int((~adjusted["any"]).sum()),
            "n_cases_at_times_unadjusted": int((adjusted["any"] & ~adjusted["all"]).sum()),
        }
    return facts


def _is_preset(settings: Any) -> bool:
    return isinstance(settings, str) and settings in PRESETS


def fit_study(
    config: StudyConfig,
    out: str | Path,
    *,
    feature_set: str | None = None,
    is_estimated: bool = True,
    n_jobs: int = 1,
    backend: str = "loky",
    progress: bool = True,
) -> Path:
    """Freeze the declared pipeline of a study on all its patients.

    Parameters
    ----------
    config : StudyConfig
        The study.
    out : path-like
        Model folder to write; the features are cached in ``<out>/work``.
    feature_set : str, optional
        By default the first feature set of the study.
    is_estimated : bool
        Whether the same pipeline is also cross-validated with the repeats and folds of the study, so that
        ``internal_performance.csv`` stands beside the model: the internal column of :func:`validate_study`.
    n_jobs, backend, progress
        See :func:`hybrid.pipelines.run_tasks`.

    Returns
    -------
    Path
        The model folder: the fitted pipeline, cut-off, calibration, settings (``study.yaml``), hashed patients, and
        the cross-validated performance (estimates with intervals, no patient).
    """
    out = Path(out)
    cohort = study_cohort(config)
    _check_images(config, cohort)
    work: dict[str, Any] = {"n_jobs": n_jobs, "backend": backend, "progress": progress}
    study_sequences(config, cohort, out / "work", work)
    features = study_features(config, cohort, out / "work", work)
    settings = _evaluation_settings(config)
    sets = settings.pop("feature_sets")
    name = feature_set or next(iter(sets))
    if name not in sets:
        raise unknown_name("feature set", name, sets)
    model = fit_model(features, cohort, feature_set={name: sets[name]}, **settings)
    replace(model, card=model.card | {"extraction": extraction_digests(config, cohort)}).save(out)
    _portable(_with_sequence_model(config, out)).to_yaml(out / "study.yaml")
    if is_estimated:
        predictions = cross_validate(
            features, cohort, feature_sets={name: sets[name]}, repeats=config.repeats, baselines=(), out=out / "work",
            **settings, **work,
        )  # fmt: skip
        chosen = predictions[predictions["classifier"] == SELECTED]
        write_csv(measure_validation(chosen, n_bootstrap=config.bootstraps, seed=config.seed), out / INTERNAL_FILE)
    return out


def _with_sequence_model(config: StudyConfig, out: Path) -> StudyConfig:
    """Copy the classifier that checks sequences beside the frozen model, so that new patients meet the same check."""
    if config.sequences is None:
        return config
    shutil.copytree(config.sequences.model, out / SEQUENCE_MODEL, dirs_exist_ok=True)
    return config.model_copy(
        update={"sequences": config.sequences.model_copy(update={"model": str(out / SEQUENCE_MODEL)})}
    )


def _portable(config: StudyConfig) -> StudyConfig:
    """Leave out the cohort's folder, and put the content of parameter files in place of their paths."""
    images = {
        name: image
        if image.handcrafted is None or _is_preset(image.handcrafted)
        else image.model_copy(update={"handcrafted": load_settings(image.handcrafted).parameters})
        for name, image in config.images.items()
    }
    cohort = config.cohort.model_copy(update={"file": Path(config.cohort.file).name})
    features = config.features and config.features.model_copy(update={"table": Path(config.features.table).name})
    sequences = config.sequences and config.sequences.model_copy(update={"model": Path(config.sequences.model).name})
    return config.model_copy(update={"images": images, "cohort": cohort, "features": features, "sequences": sequences})


def validate_study(
    model_folder: str | Path,
    cohort: Cohort,
    out: str | Path,
    *,
    features: str | Path | None = None,
    development: Cohort | None = None,
    n_jobs: int = 1,
    backend: str = "loky",
    progress: bool = True,
) -> Path:
    """Apply a frozen model to new patients, untouched, and report beside its internal performance.

    Parameters
    ----------
    model_folder : path-like
        Written by :func:`fit_study`.
    cohort : Cohort
        The new patients, with the image names of the study.
    out : path-like
        Folder for ``features.csv``, ``predictions.csv``, ``tables/`` and ``report.html``.
    features : path-like, optional
        Feature table of the new patients, for a model that was fitted on a ready table, and only for such a model.
    development : Cohort, optional
        The patients that the model was fitted on, for a table that describes them beside the new ones. A model folder
        holds no patient data, so that nobody else can supply them.
    n_jobs, backend, progress
        See :func:`hybrid.pipelines.run_tasks`.

    Returns
    -------
    Path
        The report.

    Raises
    ------
    LeakageError
        When a patient was among those that the model was trained on.
    InputError
        When a feature table is missing, or given where features are extracted from images, or ``development`` lacks
        patients of the model.
    """
    out = Path(out)
    model = load_model(model_folder)
    config = _with_features(StudyConfig.from_yaml(Path(model_folder) / "study.yaml"), features)
    _check_images(config, cohort)
    for stage, expected in model.card.get("extraction", {}).items():
        if extraction_digests(config, cohort).get(stage) != expected:
            raise InputError(
                f"The features of {stage} would not be those that the model was fitted on: its parameters or encoder "
                "have changed.",
                advice="Use the version of this package and the encoder file that the model was made with.",
                path=model_folder,
            )
    work: dict[str, Any] = {"n_jobs": n_jobs, "backend": backend, "progress": progress}
    problems = study_sequences(config, cohort, out, work)
    table = study_features(config, cohort, out, work)
    predictions = validate_model(model, table, cohort)
    write_csv(predictions, out / "predictions.csv")
    metrics = evaluate_models(predictions, n_bootstrap=config.bootstraps, seed=config.seed)
    record = run_record(config, cohort, table, predictions) | {"model": str(Path(model_folder).name)}
    write_json(record, out / "run_record.json")
    internal = Path(model_folder) / INTERNAL_FILE
    report = Report(
        cohort, table, predictions, None, metrics=metrics, problems=problems,
        failures=pd.DataFrame(table.attrs["failures"]), run_record=record,
        title=f"External validation: {config.title}", simulated=config.simulated,
        internal=pd.read_csv(internal) if internal.is_file() else None,
        development=None if development is None else trained_on(model.card, development),
    )  # fmt: skip
    return _write_report(report, out, record)


def _with_features(config: StudyConfig, table: str | Path | None) -> StudyConfig:
    """Give the settings of a frozen model the feature table of the new patients."""
    if table is None:
        if config.features is None:
            return config
        raise InputError(
            "This model was fitted on a ready feature table; the new patients need one with the same columns.",
            advice="Name it: --features TABLE.",
        )
    if config.features is None:
        raise InputError(
            "This model extracts its features from images; a feature table was given.", advice="Leave --features out."
        )
    return config.model_copy(update={"features": config.features.model_copy(update={"table": str(table)})})


def new_patients(model_folder: str | Path, file: str | Path, features: str | Path | None = None) -> Cohort:
    """Read the cohort table of new patients for a frozen model, with the column names that its study knows.

    Parameters
    ----------
    model_folder : path-like
        Written by :func:`fit_study`.
    file : path-like
        Cohort table. Columns are renamed as in the study when the table has no ``case_id`` column of its own.
    features : path-like, optional
        Feature table of the new patients; may be the same file.
    """
    config = _with_features(StudyConfig.from_yaml(Path(model_folder) / "study.yaml"), features)
    renamed = config.cohort.columns.get("case_id")
    if renamed is None or "case_id" in read_header(file):
        cohort = config.cohort.model_copy(update={"columns": {}, "image_name_column": None})
    else:
        cohort = config.cohort
    cohort = cohort.model_copy(update={"file": str(file)})
    return study_cohort(config.model_copy(update={"cohort": cohort}))
