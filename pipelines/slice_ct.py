"""Findings on CT slices: a trained classifier over a table of volumes and slices, with maps of where it looks.

Slices are scored one by one; a model folder may ask for scores averaged over the neighbouring slices of the scan, where
those are in the table, too. A slice is called positive when the
probability of any finding reaches the threshold of the model folder, which was chosen on tuning slices. A patient's
score is the mean of the three highest slices (:mod:`hybrid.analysis.slices`). Maps are Grad-CAM, brought back to the
grid of the source image.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
import SimpleITK as sitk

from hybrid.analysis.slice_report import SliceReport
from hybrid.analysis.slice_smoothing import smooth_along_scan
from hybrid.analysis.slices import (
    DEFAULT_THRESHOLD,
    FINDING,
    TOP_SLICES,
    aggregate_patients,
    choose_threshold,
    negative_class,
)
from hybrid.errors import HybridError, InputError, unknown_name
from hybrid.files import write_csv
from hybrid.images import align_mask, read_mask, to_array
from hybrid.provenance import code_version, digest, file_digest, versions
from hybrid.tables import FAILURE_COLUMNS

from .files import write_json
from .image_tables import TUNING, as_frame, resolved_path, text_column
from .runner import Rows, Task, run_tasks, write_failures
from .train_classifier import PREDICTIONS, read_predictions

if TYPE_CHECKING:
    from hybrid.deep.classification.classifier import ImageClassifier

logger = logging.getLogger(__name__)

SCORES: Final = "slices"
THRESHOLD_FILE: Final = "threshold.json"
"""Written into the model folder by :func:`save_threshold`."""

ROW_COLUMNS: Final = ("case_id", "patient_id", "image", "slice", "label", "mask", "site")
"""Columns of the table that :func:`slice_rows` returns."""


@dataclass(frozen=True)
class OperatingPoint:
    """Where slices and patients are called positive.

    Attributes
    ----------
    threshold, patient_threshold : float
        On the probability of a finding, and on the score of a patient.
    source : str
        How they were chosen, in words.
    smoothing : int
        Slices on either side whose probabilities are averaged first, see
        :func:`hybrid.analysis.slice_smoothing.smooth_along_scan`.
    """

    threshold: float
    patient_threshold: float
    source: str
    smoothing: int = 0


def find_in_slices(
    table: pd.DataFrame | str | Path,
    model: str | Path,
    out: str | Path,
    *,
    threshold: float | None = None,
    negative: str | None = None,
    saliency: str | None = "gradcam",
    target_layer: str | None = None,
    compare_layers: Sequence[str] = (),
    baselines: pd.DataFrame | None = None,
    splits: pd.DataFrame | None = None,
    shortcuts: pd.DataFrame | None = None,
    title: str = "Findings on slices",
    simulated: bool = False,
    folder: str | Path | None = None,
    device: str = "cpu",
    n_boot: int = 2000,
    n_jobs: int = 1,
    backend: str = "loky",
    progress: bool = True,
) -> pd.DataFrame:
    """Look for findings on slices; write tables, maps and a report.

    Parameters
    ----------
    table : DataFrame or path-like
        Columns ``case_id`` (or ``slice_id``), ``image`` and optionally ``slice``, ``label``, ``mask``, ``patient_id``
        (else the ``case_id``) and ``site``; see :func:`slice_rows`. A row without a slice number takes every slice of
        its volume.
    model : path-like
        Folder of a slice classifier, from :func:`hybrid.pipelines.train_classifier`.
    out : path-like
        Folder for ``slices.csv``, ``patients.csv``, ``failures.csv``, ``saliency/``, ``tables/`` and ``report.html``.
    threshold : float, optional
        On the probability of a finding; None takes that of the model, see :func:`operating_point`.
    negative : str, optional
        Class that means that nothing was found; None reads it from the names of the classes.
    saliency : {"gradcam", "gradcam++"} or None
        Maps of slices called positive and of missed ones; None writes none.
    target_layer : str, optional
        Layer that the maps are made from; None takes the last one with positions.
    compare_layers : sequence of str
        Layers whose maps are compared by how often they point at the lesion (reference masks are needed).
    baselines, splits, shortcuts : DataFrame, optional
        Shown in the report, see :class:`hybrid.analysis.slice_report.SliceReport`.
    title : str
        Of the report.
    simulated : bool
        Said at the top of the report.
    folder : path-like, optional
        Relative paths resolve against it; default: the folder of the table's file, or the present one.
    device : str
        A torch device.
    n_boot : int
        Bootstrap draws of the intervals.
    n_jobs, backend, progress
        See :func:`hybrid.pipelines.run_tasks`.

    Returns
    -------
    DataFrame
        The content of ``slices.csv``: ``case_id, patient_id, slice, y_true, probability, prediction, threshold``,
        ``y_prob_<class>``, ``lesion_area_mm2`` (NaN without a mask) and ``problem``; where the model asks for smoothing
        also ``own_probability``, that of the slice alone. Every requested slice is a row;
        one that cannot be used has no probability and says why.

    Raises
    ------
    InputError
        When the table, the model or an option cannot be used as described, or no slice could be read.
    LeakageError
        When a labelled patient was trained or tuned on.
    """
    from hybrid.deep.classification.classifier import ImageClassifier
    from hybrid.deep.saliency import METHODS

    from .slice_maps import check_maps, explain_slices, point_by_layer

    out = Path(out)
    if saliency is not None and saliency not in METHODS:
        raise unknown_name("saliency method", saliency, METHODS)
    classifier = ImageClassifier.load(model, device=device)
    _require_slices(classifier, model)
    nothing = negative_class(classifier.classes, negative)
    rows, problems = slice_rows(table, folder=folder, classes=classifier.classes)
    classifier.refuse_trained(rows.loc[_is_known(rows), "patient_id"].unique())
    point = operating_point(model, negative=nothing, threshold=threshold)
    work = {"n_jobs": n_jobs, "backend": backend, "progress": progress}
    where = {"model": Path(model).resolve(), "model_digest": classifier.digest, "device": device}
    slices, failed = _score(rows, classifier, where, nothing, point, out, work)
    volumes = rows[rows["slice"].isna() & rows["label"].notna()]
    # A patient has a finding when any volume has one.
    labels = dict(sorted(zip(volumes["patient_id"], volumes["label"], strict=True), key=lambda p: p[1] != nothing))
    patients = aggregate_patients(slices, negative=nothing, threshold=point.patient_threshold, labels=labels)
    maps, lost = pd.DataFrame(), pd.DataFrame(columns=list(FAILURE_COLUMNS))
    if saliency is not None:
        chosen = {"method": saliency, "layer": target_layer, "negative": nothing}
        maps, lost = explain_slices(slices, rows, where, chosen, out, work)
    layers = None
    if saliency is not None and compare_layers:
        several = {"method": saliency, "layers": list(compare_layers), "negative": nothing}
        layers = point_by_layer(slices, rows, where, several, out, work)
    write_failures(pd.concat([problems, failed], ignore_index=True), out, SCORES)
    write_csv(slices, out / "slices.csv")
    write_csv(patients, out / "patients.csv")
    check = check_maps(maps, classifier, rows, out) if len(maps) else None
    SliceReport(
        slices, patients, classes=classifier.classes, negative=nothing, operating=point.source, title=title,
        smoothing=point.smoothing, maps=maps if len(maps) else None, folder=out, randomisation=check, layers=layers,
        baselines=baselines, splits=splits, shortcuts=shortcuts,
        failures=pd.concat([problems, failed, lost], ignore_index=True), simulated=simulated, n_boot=n_boot,
        run_record={"settings": _settings(classifier, point, saliency, maps), "versions": versions()},
    ).save(out / "report.html")  # fmt: skip
    return slices


def _require_slices(classifier: ImageClassifier, model: str | Path) -> None:
    from hybrid.deep.classification.inputs import SliceInput

    if not isinstance(classifier.input, SliceInput):
        raise InputError(
            "The model classifies whole volumes, not slices.", advice="Train one with task='slice'.", path=model
        )


def _settings(
    classifier: ImageClassifier, point: OperatingPoint, saliency: str | None, maps: pd.DataFrame
) -> dict[str, Any]:
    return {
        "model": classifier.describe(), "input": classifier.input.to_dict(), "operating_point": asdict(point),
        "patient_rule": f"mean of the {TOP_SLICES} highest slices", "saliency": saliency,
        "target_layer": maps["layer"].iloc[0] if len(maps) else None,
    }  # fmt: skip


def slice_rows(
    table: pd.DataFrame | str | Path, *, folder: str | Path | None = None, classes: Sequence[str] | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Bring a table of volumes and slices into one form, and name the rows that cannot be used.

    Parameters
    ----------
    table : DataFrame or path-like
        See :func:`find_in_slices`.
    folder : path-like, optional
        Relative paths resolve against it.
    classes : sequence of str, optional
        Labels must be among them.

    Returns
    -------
    rows : DataFrame
        Columns :data:`ROW_COLUMNS`.
    problems : DataFrame
        Columns :data:`hybrid.tables.FAILURE_COLUMNS`: rows without an image.

    Raises
    ------
    InputError
        When a column is missing, an id is empty, a slice occurs twice, or a label or slice has an unknown value.
    """
    frame, base = as_frame(table, folder)
    ids = _case_ids(frame)
    given = text_column(frame, "patient_id", required=False)
    label = "label" if "label" in frame.columns else "outcome"
    rows = pd.DataFrame(
        {
            "case_id": ids,
            "patient_id": [name or case for name, case in zip(given, ids, strict=True)],
            "image": [resolved_path(value, base) for value in text_column(frame, "image")],
            "slice": [_whole(text, name) for text, name in zip(_numbers(frame), ids, strict=True)],
            "label": text_column(frame, label, required=False),
            "mask": [resolved_path(value, base) for value in text_column(frame, "mask", required=False)],
            "site": text_column(frame, "site", required=False),
        },
        columns=list(ROW_COLUMNS),
        dtype=object,
    )
    for row in rows.itertuples():
        if classes is not None and row.label is not None and row.label not in classes:
            raise unknown_name("label", row.label, classes, case_id=row.case_id)
    missing = rows["image"].isna()
    _refuse_doubled(rows[~missing])
    problems = [
        (row.case_id, SCORES, "InputError", "The row has no image.", "Fill it in, or leave the row out.")
        for row in rows[missing].itertuples()
    ]
    return rows[~missing].reset_index(drop=True), pd.DataFrame(problems, columns=list(FAILURE_COLUMNS))


def _case_ids(frame: pd.DataFrame) -> list[str]:
    name = next((name for name in ("case_id", "slice_id", "series_id") if name in frame.columns), "case_id")
    ids = text_column(frame, name)
    if None in ids:
        raise InputError(f"Row {ids.index(None) + 1} of the table has no {name}.", advice="Fill it in.")
    return [str(value) for value in ids]


def _numbers(frame: pd.DataFrame) -> list[str | None]:
    return text_column(frame, "slice", required=False)


def _whole(text: str | None, name: str) -> int | None:
    if text is None:
        return None
    value = pd.to_numeric(text, errors="coerce")
    if pd.isna(value) or value < 0 or value != int(value):
        raise InputError(f"A slice is a whole number from 0; found {text!r}.", case_id=name)
    return int(value)


def _refuse_doubled(rows: pd.DataFrame) -> None:
    """Refuse a slice that occurs twice, in its own row or in that of its whole volume."""
    keys = rows.assign(slice=rows["slice"].map(lambda value: -1 if value is None else value))
    whole = set(keys.loc[keys["slice"] == -1, "case_id"])
    doubled = keys.duplicated(["case_id", "slice"]) | (keys["case_id"].isin(whole) & (keys["slice"] != -1))
    if doubled.any():
        name = str(keys.loc[doubled, "case_id"].iloc[0])
        raise InputError(
            f"A slice stands in several rows of the table ({int(doubled.sum())} such rows).",
            advice="One row for each slice, or one without a slice number for the whole volume.",
            case_id=name,
        )


def operating_point(
    model: str | Path, *, negative: str | None = None, threshold: float | None = None
) -> OperatingPoint:
    """Thresholds of a model folder.

    Parameters
    ----------
    model : path-like
        Model folder.
    negative : str, optional
        Class that means that nothing was found.
    threshold : float, optional
        Use this one for slices and patients.

    Returns
    -------
    OperatingPoint
        The given threshold; else that of ``threshold.json``; else the largest Youden index of the tuning slices (and of
        the tuning patients) in ``predictions.csv``; else 0.5, which the report says.

    Raises
    ------
    InputError
        For a threshold outside 0 to 1.
    """
    model = Path(model)
    stored = model / THRESHOLD_FILE
    content = json.loads(stored.read_text(encoding="utf-8")) if stored.is_file() else {}
    smoothing = int(content.get("smoothing", 0))
    if threshold is not None:
        if not 0 <= threshold <= 1:
            raise InputError(f"A threshold on a probability lies between 0 and 1; found {threshold}.")
        return OperatingPoint(float(threshold), float(threshold), "given by the user", smoothing)
    if content and (negative is None or content["negative"] == negative):
        return OperatingPoint(content["threshold"], content["patient_threshold"], content["source"], smoothing)
    if (model / PREDICTIONS).is_file():
        return _tuned(read_predictions(model / PREDICTIONS), negative, smoothing)
    return OperatingPoint(DEFAULT_THRESHOLD, DEFAULT_THRESHOLD, "0.5: the model folder holds no tuning slices")


def _tuned(predictions: pd.DataFrame, negative: str | None, smoothing: int = 0) -> OperatingPoint:
    tuning = predictions[predictions["split"] == TUNING].drop_duplicates("id")
    classes = [name.removeprefix("y_prob_") for name in predictions.columns if name.startswith("y_prob_")]
    nothing = negative_class(classes, negative)
    truth = tuning["y_true"] != nothing
    if tuning.empty or not truth.any() or truth.all():
        return OperatingPoint(
            DEFAULT_THRESHOLD, DEFAULT_THRESHOLD, "0.5: the tuning slices do not hold both classes", smoothing
        )  # fmt: skip
    scores = as_slices(tuning, negative=nothing, threshold=DEFAULT_THRESHOLD, smoothing=smoothing)["probability"]
    chosen = choose_threshold(truth.to_numpy(), scores.to_numpy())
    slices = as_slices(tuning, negative=nothing, threshold=chosen, smoothing=smoothing)
    people = aggregate_patients(slices, negative=nothing, threshold=chosen)
    ill = (people["y_true"] == FINDING).to_numpy()
    both = ill.any() and not ill.all()
    return OperatingPoint(
        chosen,
        choose_threshold(ill, people["probability"].to_numpy()) if both else chosen,
        f"largest Youden index of {len(tuning)} tuning slices and {len(people)} tuning patients",
        smoothing,
    )


def save_threshold(model: str | Path, *, negative: str | None = None, smoothing: int = 0) -> Path:
    """Write the thresholds of the tuning slices into the model folder, so that it can be passed on without its table.

    Parameters
    ----------
    model : path-like
        Model folder with ``predictions.csv``.
    negative : str, optional
        Class that means that nothing was found.
    smoothing : int
        Slices on either side whose probabilities are averaged, in the tuning set and wherever the model is used.

    Returns
    -------
    Path
        ``threshold.json``.
    """
    from hybrid.deep.classification.classifier import ImageClassifier

    nothing = negative_class(ImageClassifier.load(model).classes, negative)
    point = _tuned(read_predictions(Path(model) / PREDICTIONS), nothing, smoothing)
    return write_json({**asdict(point), "negative": nothing}, Path(model) / THRESHOLD_FILE)


def as_slices(predictions: pd.DataFrame, *, negative: str, threshold: float, smoothing: int = 0) -> pd.DataFrame:
    """Rows of a classifier's ``predictions.csv`` as a table of slices.

    Parameters
    ----------
    predictions : DataFrame
        From :func:`hybrid.pipelines.train_classifier.read_predictions`.
    negative : str
        Class that means that nothing was found.
    threshold : float
        On the probability of a finding.
    smoothing : int
        See :func:`hybrid.analysis.slice_smoothing.smooth_along_scan`; a scan is what ids that end in "/<slice>" share.

    Returns
    -------
    DataFrame
        Columns of :data:`hybrid.analysis.slices.SLICE_COLUMNS` and ``y_prob_<class>``.
    """
    names = [name for name in predictions.columns if name.startswith("y_prob_")]
    found = predictions[["id", "patient_id", "slice", "y_true", *names]].rename(columns={"id": "case_id"})
    # The id of a slice may end in its number ("case/7"); it is unique either way.
    if smoothing:
        scans = found["case_id"].astype(str).str.replace(r"/\d+$", "", regex=True)
        found = smooth_along_scan(found.assign(scan=scans), names, smoothing, by=["scan"]).drop(columns="scan")
    return _called(found, [name.removeprefix("y_prob_") for name in names], negative, threshold)


def _called(table: pd.DataFrame, classes: Sequence[str], negative: str, threshold: float) -> pd.DataFrame:
    """Add probability, prediction and threshold to a table with ``y_prob_<class>``."""
    names = [f"y_prob_{name}" for name in classes]
    others = [name for name in classes if name != negative]
    probability = 1 - table[f"y_prob_{negative}"].astype(float)
    best = table[[f"y_prob_{name}" for name in others]].astype(float).fillna(-1).to_numpy().argmax(axis=1)
    prediction = np.where(probability >= threshold, np.array(others, dtype=object)[best], negative)
    prediction = np.where(probability.isna(), "", prediction)
    full = table.assign(probability=probability, prediction=prediction, threshold=threshold)
    first = ["case_id", "patient_id", "slice", "y_true", "probability", "prediction", "threshold", *names]
    return full[[*first, *(name for name in full.columns if name not in first)]]


def _is_known(rows: pd.DataFrame) -> pd.Series:
    return rows["label"].notna() | rows["mask"].notna()


def _score(
    rows: pd.DataFrame, classifier: ImageClassifier, where: Mapping[str, Any], negative: str, point: OperatingPoint,
    out: Path, work: Mapping[str, Any],
) -> tuple[pd.DataFrame, pd.DataFrame]:  # fmt: skip
    """Score every slice of every file; the table of slices and the failures."""
    tasks = []
    for name, own in files_of(rows).items():
        wanted = [[row["case_id"], row["patient_id"], row["slice"]] for row in own["rows"]]
        tasks.append(Task(name, digest([own["content"], wanted, where["model_digest"], code_version()]), own))
    function = functools.partial(
        score_file, model=where["model"], model_digest=where["model_digest"], device=where["device"]
    )
    results = run_tasks(function, tasks, stage=SCORES, out=out, **work)
    reasons = results.failures.set_index("case_id")
    scored, failures = [], []
    for task in tasks:
        for row in results.rows.get(task.task_id) or _unread(task.payload, reasons.loc[task.task_id], classifier):
            scored.append(row)
            if row["problem"] and task.task_id in results.rows:
                failures.append((row["case_id"], SCORES, "InputError", f"Slice {row['slice']}: {row['problem']}", ""))
    table = pd.DataFrame(scored)
    if table["y_prob_" + classifier.classes[0]].isna().all():
        raise InputError(
            f"None of the {len(table)} slices could be read. First: {table['problem'].iloc[0]}", path=out
        )  # fmt: skip
    found = next((name for name in classifier.classes if name != negative), negative)
    known = _with_truth(table, rows, negative, found if len(classifier.classes) == 2 else "")
    if point.smoothing:
        names = [f"y_prob_{name}" for name in classifier.classes]
        known = smooth_along_scan(known.assign(own_probability=1 - known[f"y_prob_{negative}"]), names, point.smoothing)
    slices = _called(known, classifier.classes, negative, point.threshold)
    own = pd.DataFrame(failures, columns=list(FAILURE_COLUMNS))
    return slices, pd.concat([results.failures, own], ignore_index=True)


def files_of(rows: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """One payload per file of a case: its rows, and the digest of its content."""
    several = rows.groupby("case_id")["image"].nunique()
    files: dict[str, dict[str, Any]] = {}
    for (case, image), own in rows.groupby(["case_id", "image"], sort=False):
        name = case if several[case] == 1 else f"{case} {image.name}"
        name = name if name not in files else f"{name} {len(files)}"
        mask = next((path for path in own["mask"] if path is not None), None)
        files[name] = {
            "image": str(image), "mask": None if mask is None else str(mask),
            "content": [_content(image), None if mask is None else _content(mask)],
            "rows": own[["case_id", "patient_id", "slice"]].to_dict("records"),
        }  # fmt: skip
    return files


def _content(path: Path) -> str:
    try:
        return file_digest(path)
    except OSError:
        return "unreadable"


def _unread(payload: Mapping[str, Any], failure: pd.Series, classifier: ImageClassifier) -> Rows:
    """Rows of a file that could not be read: none is lost."""
    empty = {f"y_prob_{name}": float("nan") for name in classifier.classes}
    return [
        {**row, "lesion_area_mm2": float("nan"), **empty, "problem": str(failure["message"])} for row in payload["rows"]
    ]


def _with_truth(table: pd.DataFrame, rows: pd.DataFrame, negative: str, found: str) -> pd.DataFrame:
    """Add ``y_true``: the label of the row, or for a file with a mask whether the slice holds a part of it.

    A label of a whole volume says nothing about its single slices; only "nothing found" holds for each of them.
    """
    labels = {
        (row.case_id, row.slice): row.label
        for row in rows.itertuples()
        if row.label is not None and (row.slice is not None or row.label == negative)
    }
    single = table.groupby("case_id")["slice"].nunique() <= 1
    whole = {row.case_id: row.label for row in rows.itertuples() if row.slice is None and row.label is not None}
    truth = []
    for row in table.itertuples():
        number = None if pd.isna(row.slice) else int(row.slice)
        label = labels.get((row.case_id, number)) or labels.get((row.case_id, None))
        label = label or (whole.get(row.case_id) if single[row.case_id] else None)
        if label is None and np.isfinite(row.lesion_area_mm2):
            label = negative if row.lesion_area_mm2 == 0 else found
        truth.append(label or "")
    return table.assign(y_true=truth, slice=table["slice"].astype("Int64"))


@functools.lru_cache(maxsize=2)
def loaded_classifier(folder: Path, model_digest: str, device: str) -> ImageClassifier:
    """Load a classifier once per process; the digest makes a changed folder another one."""
    from hybrid.deep.classification.classifier import ImageClassifier

    return ImageClassifier.load(folder, device=device)


def score_file(payload: Mapping[str, Any], seed: int, *, model: Path, model_digest: str, device: str) -> Rows:
    """Probabilities of the wanted slices of one file, one row each."""
    classifier = loaded_classifier(model, model_digest, device)
    path = Path(payload["image"])
    count = count_slices(path)
    areas = _areas(path, payload["mask"])
    rows: Rows = []
    for row in payload["rows"]:
        numbers = list(range(count)) if row["slice"] is None else [row["slice"]]
        for number, values, problem in _scored(classifier, path, numbers, row["case_id"], single=count == 1):
            named = {f"y_prob_{name}": float(v) for name, v in zip(classifier.classes, values, strict=True)}
            area = float(areas[number]) if areas is not None and number < len(areas) else float("nan")
            rows.append({**row, "slice": number, "lesion_area_mm2": area, **named, "problem": problem})
    return rows


def _scored(
    classifier: ImageClassifier, path: Path, numbers: Sequence[int], case_id: str, *, single: bool
) -> list[tuple[int, np.ndarray, str]]:
    """Score the wanted slices: number, probabilities (NaN for one that cannot be used) and problem of each."""
    prepared, problems = {}, {}
    for number in numbers:
        try:
            prepared[number] = classifier.input.read(path, number, case_id=case_id)
        except HybridError as error:
            problems[number] = f"{error.message} {error.advice}".strip()
    # A file with one slice need not fill a pass; slices of a scan give the same figures alone and together.
    several = list(prepared.values())
    found = [classifier.probabilities(v) for v in several] if single else classifier.probabilities_of(several)
    known = dict(zip(prepared, found, strict=True))
    unknown = np.full(len(classifier.classes), np.nan)
    return [(number, known.get(number, unknown), problems.get(number, "")) for number in numbers]


def opened_image(path: Path) -> sitk.Image | None:
    """Image that the slices of a file are cut from; None for a PNG or JPEG, which is one slice without a grid."""
    from hybrid.deep.classification import inputs

    if not path.exists():
        raise InputError("The file does not exist.", advice="Check the path in the table.", path=path)
    if path.suffix.lower() in inputs.PLAIN_SUFFIXES:
        return None
    status = path.stat()
    return inputs._opened(path, (status.st_mtime_ns, status.st_size)).image


def count_slices(path: Path) -> int:
    """Slices of a file."""
    image = opened_image(path)
    return 1 if image is None or image.GetDimension() == 2 else image.GetDepth()


def _areas(path: Path, mask: str | None) -> np.ndarray | None:
    """Area (mm2) of the mask on each slice."""
    aligned = mask_on(path, mask)
    if aligned is None:
        return None
    width, height = aligned.GetSpacing()[:2]
    return np.asarray((to_array(aligned) > 0).sum(axis=(1, 2)) * width * height)


def mask_on(path: Path, mask: str | None) -> sitk.Image | None:
    """Mask on the grid of the image; None without a mask or for an image without a grid."""
    image = opened_image(path)
    if mask is None or image is None or image.GetDimension() != 3:
        return None
    return align_mask(image, read_mask(mask), path=mask)[0]
