"""Features of a whole cohort: handcrafted and deep, one cache file per case, image and kind."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from hybrid.cases import Case, Cohort, load_pair
from hybrid.errors import InputError, unknown_name
from hybrid.files import write_csv
from hybrid.handcrafted import PRESETS, extract_handcrafted, feature_dictionary, load_settings
from hybrid.images import labels_in
from hybrid.tables import FAILURE_COLUMNS

from .runner import Rows, TaskResults, run_cases, write_failures

logger = logging.getLogger(__name__)
T = TypeVar("T")

ROI_ERROR = "_roi_error"
PARAMETER_KEYS = ("setting", "imageType", "featureClass", "voxelSetting")


@dataclass(frozen=True)
class Part:
    """What is extracted from one image of each case: one stage of the runner."""

    stage: str
    image: str
    function: Any
    settings: Mapping[str, Any]


def extract_features(
    cohort: Cohort,
    *,
    handcrafted: str | Path | Mapping[str, Any] | None = None,
    encoder: str | Path | None = None,
    scale: float | Mapping[str, float] = 1.0,
    modality: str | Mapping[str, str | None] | None = None,
    out: str | Path | None = None,
    n_jobs: int = 1,
    backend: str = "loky",
    progress: bool = True,
) -> pd.DataFrame:
    """Extract handcrafted and deep features from every image of every case.

    Parameters
    ----------
    cohort : Cohort
        Cases with images and masks. A case without ``roi_label`` gives one row per label of its mask.
    handcrafted : str, path-like or mapping, optional
        A preset (``"ct"``, ``"mr"``, ``"pet"``), a PyRadiomics parameter file, PyRadiomics parameters as a dict, or -
        when cases have several images - a mapping of image name to one of these. None leaves them out.
    encoder : str or path-like, optional
        ``"bundled"``, or a weight file or model folder. None leaves deep features out.
    scale : float or mapping of image name to float
        Factor on the stored voxel values before anything else, for example 0.001 for SUV stored times 1000.
    modality : str or mapping of image name to str, optional
        ``"ct"``, ``"mr"`` or ``"pet"``: how the encoder normalises intensities. By default the name of the
        handcrafted preset.
    out : path-like, optional
        Folder for ``features.csv``, ``feature_dictionary.csv``, ``failures.csv`` and the cache.
    n_jobs, backend, progress
        See :func:`hybrid.pipelines.run_tasks`.

    Returns
    -------
    DataFrame
        Every requested case has a row (NaN where extraction failed); index ``case_id``, or ``case_id`` and
        ``roi_label`` when a case has several regions. Columns ``rad_...`` and ``deep_...``, with the image name in
        second place when the cohort has several images. ``.attrs["failures"]`` lists what failed as rows of
        ``failures.csv``.

    Raises
    ------
    InputError
        For unknown settings, encoders or image names, or when neither kind of feature is asked for.
    """
    parts = plan_parts(cohort, handcrafted=handcrafted, encoder=encoder, scale=scale, modality=modality)
    results = {}
    for part in parts:
        cases = Cohort(_only(case, part.image) for case in cohort)
        results[part.stage] = run_cases(
            part.function, cases, stage=part.stage, settings=part.settings, out=out, n_jobs=n_jobs,
            backend=backend, progress=progress,
        )  # fmt: skip
    features, failures = assemble(cohort, results)
    features.attrs["failures"] = failures.to_dict("records")
    if len(failures):
        names = ", ".join(dict.fromkeys(failures["case_id"]))
        logger.warning("Extraction failed in %d place(s), cases: %s. See failures.csv.", len(failures), names)
    if out is not None:
        write_csv(features.reset_index(), Path(out) / "features.csv")
        write_csv(feature_dictionary(features.columns), Path(out) / "feature_dictionary.csv")
        for stage in results:
            write_failures(failures[failures["stage"] == stage], out, stage)
    return features


def plan_parts(
    cohort: Cohort,
    *,
    handcrafted: str | Path | Mapping[str, Any] | None,
    encoder: str | Path | None,
    scale: float | Mapping[str, float],
    modality: str | Mapping[str, str | None] | None,
) -> list[Part]:
    """Resolve the arguments of :func:`extract_features` into stages, before any image is read."""
    names = cohort.image_names
    if not names:
        raise InputError("The cohort has no images.", advice="Fill the 'image' column, or pass a feature table.")
    if handcrafted is None and encoder is None:
        raise InputError("Nothing to extract.", advice="Give handcrafted='ct' (or 'mr', 'pet'), encoder='bundled'.")
    is_parameters = isinstance(handcrafted, Mapping) and any(key in PARAMETER_KEYS for key in handcrafted)
    settings: dict[str, Any] = per_image(None if is_parameters else handcrafted, names, "handcrafted")
    if is_parameters:
        settings = dict.fromkeys(names, handcrafted)
    factors = {name: factor if factor is not None else 1.0 for name, factor in per_image(scale, names, "scale").items()}
    modalities: dict[str, Any] = per_image(modality, names, "modality")
    several = len(names) > 1
    parts = [
        _handcrafted_part(name, settings[name], factors[name], several)
        for name in names
        if settings[name] is not None
    ]  # fmt: skip
    if encoder is not None:
        for name in names:
            preset = settings[name]
            chosen = modalities[name] or (preset if isinstance(preset, str) and preset in PRESETS else None)
            parts.append(_deep_part(name, encoder, factors[name], chosen, several))
    return parts


def per_image(value: T | Mapping[str, T] | None, names: Iterable[str], what: str) -> dict[str, T | None]:
    """Spread an argument that is one value, or a mapping by image name, over the image names.

    Raises
    ------
    InputError
        When the mapping names an image that no case has.
    """
    names = list(names)
    if not isinstance(value, Mapping):
        return dict.fromkeys(names, value)
    for name in value:
        if name not in names:
            error = unknown_name("image", name, names)
            raise InputError(f"{what!r} names an image that no case has: {name!r}.", advice=error.advice)
    return {name: value.get(name) for name in names}


def _handcrafted_part(name: str, settings: Any, scale: float, several: bool) -> Part:
    resolved = load_settings(settings)
    function = functools.partial(
        _handcrafted_rows, name=name, settings=resolved, scale=scale, image_name=name if several else None
    )
    return Part(f"handcrafted_{name}", name, function, {"settings": resolved.text, "scale": scale, "named": several})


def _deep_part(name: str, encoder: str | Path, scale: float, modality: str | None, several: bool) -> Part:
    from hybrid.deep import load_encoder

    loaded = load_encoder(encoder, modality=modality)
    function = functools.partial(
        _deep_rows, name=name, encoder=str(encoder), modality=modality, scale=scale,
        image_name=name if several else None,
    )  # fmt: skip
    return Part(f"deep_{name}", name, function, {"encoder": loaded.digest, "scale": scale, "named": several})


def _only(case: Case, name: str) -> Case:
    """Keep one image and its mask, so that the key of a part does not depend on the case's other files."""
    images = {key: path for key, path in case.images.items() if key == name}
    masks = {key: path for key, path in case.masks.items() if key == name}
    return replace(case, image=images, mask=masks)


def _handcrafted_rows(case: Case, seed: int, *, name: str, settings: Any, scale: float, image_name: str | None) -> Rows:
    def measure(image: Any, mask: Any, label: int) -> dict[str, float]:
        return extract_handcrafted(
            image, mask, settings, label=label, scale=scale, case_id=case.case_id, image_name=image_name
        )

    return _rows_per_label(case, name, measure)


def _deep_rows(
    case: Case, seed: int, *, name: str, encoder: str, modality: str | None, scale: float, image_name: str | None
) -> Rows:
    loaded = _worker_encoder(encoder, modality)

    def measure(image: Any, mask: Any, label: int) -> dict[str, float]:
        return loaded.embed(image, mask, label=label, scale=scale, case_id=case.case_id, image_name=image_name)

    return _rows_per_label(case, name, measure)


@functools.lru_cache(maxsize=4)
def _worker_encoder(encoder: str, modality: str | None) -> Any:
    """Load an encoder once per process."""
    from hybrid.deep import load_encoder

    return load_encoder(encoder, modality=modality)


def _rows_per_label(case: Case, name: str, measure: Any) -> Rows:
    image, mask, _ = load_pair(case, name)
    present = labels_in(mask)
    path = case.masks[name]
    if not present:
        raise InputError(
            "The mask is empty.", advice="Draw the region, or leave the case out.", case_id=case.case_id, path=path
        )
    if case.roi_label is not None and case.roi_label not in present:
        raise InputError(
            f"Label {case.roi_label} is not in the mask; found {', '.join(map(str, present))}.",
            advice="Draw the region, or correct the roi_label column.",
            case_id=case.case_id,
            path=path,
        )
    labels = [case.roi_label] if case.roi_label is not None else list(present)
    if len(labels) == 1:
        return [{"roi_label": labels[0], **measure(image, mask, labels[0])}]
    rows: Rows = []
    for label in labels:
        try:
            rows.append({"roi_label": label, **measure(image, mask, label)})
        except InputError as error:  # one bad region must not cost the others of the case
            rows.append({"roi_label": label, ROI_ERROR: f"Region {label}: {error.message}"})
    return rows


def assemble(cohort: Cohort, results: Mapping[str, TaskResults]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Join the parts into one feature table with a row for every case.

    Returns
    -------
    features : DataFrame
        See :func:`extract_features`.
    failures : DataFrame
        Failed cases and failed regions of all parts.
    """
    several = any(len(rows) > 1 for result in results.values() for rows in result.rows.values())
    keys = ["case_id", "roi_label"] if several else ["case_id"]
    failures = [result.failures for result in results.values() if len(result.failures)]
    tables = []
    for stage, result in results.items():
        rows, failed = [], []
        for case_id, case_rows in result.rows.items():
            for row in case_rows:
                values = {key: value for key, value in row.items() if key not in ("roi_label", ROI_ERROR)}
                rows.append({"case_id": case_id, "roi_label": row["roi_label"], **values})
                if ROI_ERROR in row:
                    failed.append((case_id, stage, "InputError", row[ROI_ERROR], "Redraw or remove the region."))
        table = pd.DataFrame(rows, columns=None if rows else ["case_id", "roi_label"])
        tables.append(table.drop(columns=[] if several else "roi_label").set_index(keys))
        if failed:
            failures.append(pd.DataFrame(failed, columns=list(FAILURE_COLUMNS)))
    joined = pd.concat(tables, axis=1, sort=False) if len(tables) > 1 else tables[0]
    empty = pd.DataFrame(columns=list(FAILURE_COLUMNS))
    return _every_case(joined, cohort, several), pd.concat([empty, *failures], ignore_index=True)


def _every_case(table: pd.DataFrame, cohort: Cohort, several: bool) -> pd.DataFrame:
    """Order the rows as the cohort does and add a row of NaN for a case without any."""
    ids = [case.case_id for case in cohort]
    if not several:
        return table.reindex(pd.Index(ids, name="case_id"))
    order = {case_id: i for i, case_id in enumerate(ids)}
    found = set(table.index.get_level_values(0))
    index = [*table.index, *((case_id, 0) for case_id in ids if case_id not in found)]
    index.sort(key=lambda pair: (order[pair[0]], pair[1]))
    return table.reindex(pd.MultiIndex.from_tuples(index, names=["case_id", "roi_label"]))
