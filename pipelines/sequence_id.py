"""Which sequence is this? Series of a folder or cohort, classified by pixels and geometry alone (system d).

The classifier never sees a header. What the DICOM tags say is put beside its answer, and where the two disagree the
series is listed: one of them is wrong. Tables hold no identifier from a header: series are named by folder.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import numpy as np
import pandas as pd

from hybrid.cases import Cohort
from hybrid.errors import InputError, unknown_name
from hybrid.files import write_csv
from hybrid.provenance import code_version, digest, file_digest, versions
from hybrid.tables import FAILURE_COLUMNS

from .dicom_series import Series, TagOpinion, find_series, read_stack, tag_opinion, tags_agree
from .runner import Rows, Task, run_tasks, write_failures

if TYPE_CHECKING:
    import SimpleITK as sitk

    from hybrid.analysis.sequence_report import Thumbnail
    from hybrid.deep.classification.classifier import ImageClassifier

logger = logging.getLogger(__name__)

STAGE: Final = "sequence-id"
SERIES: Final = "series.csv"
CHECKED: Final = "sequence_check.csv"
REPORT: Final = "report.html"

SERIES_COLUMNS: Final = (
    "series", "case_id", "image", "file", "n_files", "class", "confidence", "decision", "tag_class", "tag_reason",
    "b_value", "agrees", "note",
)  # fmt: skip
"""Columns of ``series.csv`` besides ``y_prob_<class>``. ``class`` is the most probable one, also where the classifier
abstains; ``case_id`` and ``image`` are filled for a cohort; ``agrees`` is empty where the tags do not say."""

ACCEPTED: Final = "accepted"
ABSTAINED: Final = "abstained"
UNREADABLE: Final = "unreadable"
SKIPPED: Final = "no scan"
"""Values of the column ``decision``."""

AS_EXPECTED: Final = "as expected"
LOW_CONFIDENCE: Final = "low confidence"
WRONG: Final = "another sequence"
"""Values of the column ``verdict`` of :func:`require_sequence`, besides :data:`UNREADABLE`."""

MASK_VALUES: Final = 8
"""An image with at most so many different values is a mask, not a scan."""

MASK_SAMPLES: Final = 1_000_000
"""Voxels, at most twice, that are looked at for that."""

MAX_THUMBNAILS: Final = 12
_SHOWN: Final = 5
_LONGEST_NAME: Final = 180


def identify_sequences(
    source: str | Path | Cohort,
    model: str | Path,
    out: str | Path,
    *,
    threshold: float | None = None,
    report: bool = True,
    title: str = "Which sequence is this?",
    n_jobs: int = 1,
    backend: str = "loky",
    progress: bool = True,
) -> pd.DataFrame:
    """Name the sequence of every series of a folder or cohort.

    Parameters
    ----------
    source : path-like or Cohort
        A folder with DICOM series, NIfTI, NRRD or MetaImage files anywhere below it; a cohort table (CSV, Excel); or a
        cohort: every image of every case.
    model : path-like
        Folder of a classifier of volumes, see :func:`hybrid.pipelines.train_classifier`.
    out : path-like
        Gets ``series.csv``, ``failures.csv`` (when something failed), ``report.html`` and a cache.
    threshold : float, optional
        Confidence below which it abstains, 0 to 1; default: the one of the model, which may have none.
    report : bool
        Write the report.
    title : str
        Of the report.
    n_jobs, backend, progress
        See :func:`hybrid.pipelines.run_tasks`.

    Returns
    -------
    DataFrame
        :data:`SERIES_COLUMNS` and ``y_prob_<class>``, one row per series; none is lost: what cannot be read has the
        decision ``"unreadable"`` and a note.

    Raises
    ------
    InputError
        When the source holds no image, the folder is no model of volumes, or the threshold lies outside 0 to 1.
    """
    out = Path(out)
    classifier = _load(model)
    threshold = _checked_threshold(threshold, classifier)
    items = _items(source, progress)
    options = {"n_jobs": n_jobs, "backend": backend, "progress": progress}
    table = _identify(items, Path(model), classifier, threshold, out, options)
    write_csv(table, out / SERIES)
    for row in table[table["agrees"].eq(False)].to_dict("records"):
        logger.warning("%s: the pixels say %s, the tags say %s.", row["series"], row["class"], row["tag_class"])
    if report:
        from hybrid.analysis.sequence_report import SequenceReport

        record = {"settings": {"model": classifier.describe(), "threshold": threshold}, "versions": versions()}
        page = SequenceReport(
            series=table, classes=classifier.classes, threshold=threshold, title=title, run_record=record,
            thumbnails=_thumbnails(table, items),
        )  # fmt: skip
        page.save(out / REPORT)
    return table


@dataclass(frozen=True)
class _Item:
    """One volume to classify: a series, and what the cohort calls it."""

    series: Series
    case_id: str = ""
    image: str = ""

    @property
    def task_id(self) -> str:
        """Name of the cache file: that of the series, cut where a file system would refuse it."""
        name = self.series.name
        return name if len(quote(name)) <= _LONGEST_NAME else f"{digest(name)[:12]} {name[-40:]}"

    @property
    def is_dicom(self) -> bool:
        return bool(self.series.header)


def _items(source: str | Path | Cohort, progress: bool) -> list[_Item]:
    if isinstance(source, (str, Path)) and not Path(source).is_file():
        return [_Item(series) for series in find_series(source, progress=progress)]
    cohort = source if isinstance(source, Cohort) else Cohort.read(source)
    return _cohort_items(cohort, cohort.image_names)


def _cohort_items(cohort: Cohort, names: Sequence[str]) -> list[_Item]:
    """Images of a cohort by name; a case without an image of that name is left out."""
    cohort.require_unique_ids()
    items = []
    for case in cohort:
        for name in names:
            if name in case.images:
                label = case.case_id if len(cohort.image_names) == 1 else f"{case.case_id}/{name}"
                items.append(_Item(_series_at(case.images[name], label), case.case_id, name))
    if not items:
        raise InputError("The cohort names no image.", advice="Fill the column 'image'.")
    return items


def _series_at(path: Path, label: str) -> Series:
    """Series of one image of a cohort: a file, or a folder with one DICOM series."""
    if not path.is_dir():
        problem = "" if path.is_file() else "The file does not exist."
        return Series(label, (path,), path.name, problem=problem)
    try:
        found = [series for series in find_series(path) if not series.skipped]
    except InputError as error:
        return Series(label, (path,), path.name, problem=error.message)
    if len(found) != 1:
        text = f"Expected one series in the folder, found {len(found)}."
        return Series(label, (path,), path.name, problem=text)
    own = found[0]
    return Series(label, own.files, path.name, own.header, own.note, own.problem)


@functools.lru_cache(maxsize=1)
def _loaded(model: str, stamp: int) -> ImageClassifier:
    from hybrid.deep.classification.classifier import ImageClassifier

    return ImageClassifier.load(model)


def _load(model: str | Path) -> ImageClassifier:
    from hybrid.deep.classification.inputs import VolumeInput

    card = Path(model) / "model.json"
    classifier = _loaded(str(model), card.stat().st_mtime_ns if card.is_file() else 0)
    if not isinstance(classifier.input, VolumeInput):
        raise InputError(
            "Sequences are identified by whole volumes; this is a classifier of slices.",
            advice='Train one with task="volume".',
            path=model,
        )
    return classifier


def _checked_threshold(threshold: float | None, classifier: ImageClassifier) -> float:
    chosen = classifier.threshold if threshold is None else threshold
    if chosen is not None and not 0 <= chosen <= 1:
        raise InputError(f"Expected a threshold from 0 to 1; found {chosen}.", advice="It is a probability.")
    return float(chosen or 0.0)


def _identify(
    items: Sequence[_Item],
    model: Path,
    classifier: ImageClassifier,
    threshold: float,
    out: Path | None,
    options: Mapping[str, Any],
) -> pd.DataFrame:
    """Classify every item and lay the answers beside the tags."""
    usable = [item for item in items if not item.series.problem]
    common = digest([classifier.digest, code_version()])
    tasks = [Task(item.task_id, digest([common, _contents(item)]), item) for item in usable]
    results = run_tasks(functools.partial(classify_series, model=model), tasks, stage=STAGE, out=out, **options)
    failures = results.failures.set_index("case_id")["message"].to_dict()
    rows = [
        _row(item, results.rows.get(item.task_id), failures.get(item.task_id, ""), classifier, threshold)
        for item in items
    ]
    if out is not None:
        problems = [
            (item.series.name, STAGE, "InputError", item.series.problem, "Export the complete series again.")
            for item in items
            if item.series.problem and not item.series.skipped
        ]
        table = pd.DataFrame(problems, columns=list(FAILURE_COLUMNS))
        write_failures(pd.concat([table, results.failures], ignore_index=True), out, STAGE)
    return pd.DataFrame(rows)


def _contents(item: _Item) -> list[str]:
    return [file_digest(path) for path in item.series.files]


def classify_series(item: _Item, seed: int, *, model: Path) -> Rows:
    """Read, check and classify one series; returns its probabilities by class number."""
    classifier = _load(model)
    prepared = classifier.input.prepare(_read(item))
    return [{str(number): float(value) for number, value in enumerate(classifier.probabilities(prepared))}]


def _read(item: _Item) -> sitk.Image:
    """Volume of a series.

    Raises
    ------
    InputError
        When it cannot be read, holds NaN or infinity, or is a mask.
    """
    from hybrid.images import nonfinite_voxels, read_image, to_array

    path = item.series.files[0]
    image = read_stack(item.series) if item.is_dicom else read_image(path)
    if nonfinite_voxels(path, image) is not None:
        raise InputError("The image holds NaN or infinity.", advice="Export it again.", path=path)
    voxels = to_array(image).ravel()
    values = np.unique(voxels[:: max(1, voxels.size // MASK_SAMPLES)])
    if values.size <= MASK_VALUES and (values == np.round(values)).all():
        raise InputError(
            f"The image holds {values.size} different values only: a mask or empty, not a scan.",
            advice="Keep masks outside the folder.",
            path=path,
        )
    return image


def _row(item: _Item, rows: Rows | None, message: str, classifier: ImageClassifier, threshold: float) -> dict[str, Any]:
    series = item.series
    opinion = tag_opinion(series.header) if item.is_dicom else TagOpinion("", "no tags")
    values = np.full(len(classifier.classes), np.nan)
    if rows:
        values = np.array([rows[0][str(number)] for number in range(len(values))])
    answer = classifier.row(values)
    confidence, name = answer["confidence"], answer["y_pred"]
    decision = ACCEPTED if confidence >= threshold else ABSTAINED
    if not rows:
        decision = SKIPPED if series.skipped else UNREADABLE
    found = {
        "series": series.name, "case_id": item.case_id, "image": item.image, "file": series.place,
        "n_files": len(series.files), "class": name, "confidence": confidence, "decision": decision,
        "tag_class": opinion.sequence, "tag_reason": opinion.reason, "b_value": opinion.b_value,
        "agrees": tags_agree(opinion.sequence, name, classifier.classes) if rows else None,
        "note": "; ".join(filter(None, (series.note, series.problem or message))),
    }  # fmt: skip
    return {**found, **{name: value for name, value in answer.items() if name.startswith("y_prob_")}}


def _thumbnails(table: pd.DataFrame, items: Sequence[_Item]) -> list[Thumbnail]:
    """Middle slices of what a reader should look at: abstained, then where the tags disagree."""
    from hybrid.analysis.sequence_report import Thumbnail

    doubtful = table[(table["decision"] == ABSTAINED) | table["agrees"].eq(False)]
    pictures = []
    for place, row in doubtful.sort_values("confidence").head(MAX_THUMBNAILS).iterrows():
        pixels, aspect = _middle_slice(_read(items[place]))
        pictures.append(Thumbnail(row["series"], f"{row['class']} ({row['confidence']:.2f})", pixels, aspect))
    return pictures


def _middle_slice(image: sitk.Image) -> tuple[np.ndarray, float]:
    """Middle slice along the axis of the largest voxel size, as it is read, and its row by column spacing."""
    import SimpleITK as sitk

    from hybrid.images import to_array

    turned = sitk.DICOMOrient(image, "LPS")
    spacing = np.array(turned.GetSpacing()[::-1])
    axis = int(np.argmax(spacing))
    values = to_array(turned)
    pixels = np.take(values, values.shape[axis] // 2, axis=axis)
    row, column = np.delete(spacing, axis)
    return (pixels if axis == 0 else np.flipud(pixels)), float(row / column)


def require_sequence(
    cohort: Cohort,
    model: str | Path,
    expected: Mapping[str, str],
    *,
    out: str | Path | None = None,
    threshold: float | None = None,
    n_jobs: int = 1,
    backend: str = "loky",
    progress: bool = True,
) -> pd.DataFrame:
    """Refuse a cohort in which an image is another sequence than the study expects.

    Parameters
    ----------
    cohort : Cohort
        The study's cases.
    model : path-like
        See :func:`identify_sequences`.
    expected : mapping of str to str
        Class that every image of a name must have: ``{"t2": "T2", "adc": "ADC"}``; a cohort with the plain column
        ``image`` has the name ``"image"``. Cases without such an image are not looked at.
    out : path-like, optional
        Folder of a cache, ``sequence_check.csv`` (the returned table, written before anything is refused) and
        ``failures.csv``; default: nothing is written.
    threshold : float, optional
        Below this confidence a wrong answer is a warning, not a refusal; default: the one of the model.
    n_jobs, backend, progress
        See :func:`hybrid.pipelines.run_tasks`.

    Returns
    -------
    DataFrame
        As from :func:`identify_sequences`, with ``expected`` and ``verdict``: as expected, low confidence, or
        unreadable; the last two are logged as warnings.

    Raises
    ------
    InputError
        When an image is, with enough confidence, another sequence: the first by case and file, and how many there are.
        Also for unknown image names or classes.
    """
    classifier = _load(model)
    threshold = _checked_threshold(threshold, classifier)
    for name, label in expected.items():
        if name not in cohort.image_names:
            raise unknown_name("image name", name, cohort.image_names)
        if label not in classifier.classes:
            raise unknown_name("class of the model", label, classifier.classes)
    items = _cohort_items(cohort, list(expected))
    options = {"n_jobs": n_jobs, "backend": backend, "progress": progress}
    where = None if out is None else Path(out)
    table = _identify(items, Path(model), classifier, threshold, where, options)
    table["expected"] = table["image"].map(dict(expected))
    table["verdict"] = [_verdict(row) for row in table.to_dict("records")]
    if where is not None:
        write_csv(table, where / CHECKED)
    _refuse_wrong(table, items)
    for row in table[table["verdict"] != AS_EXPECTED].to_dict("records"):
        logger.warning("Case %s, image %s: %s %s", row["case_id"], row["image"], row["verdict"], row["note"])
    return table


def _verdict(row: Mapping[str, Any]) -> str:
    if row["decision"] not in (ACCEPTED, ABSTAINED):
        return UNREADABLE
    if row["decision"] == ABSTAINED:
        return LOW_CONFIDENCE
    return AS_EXPECTED if row["class"] == row["expected"] else WRONG


def _refuse_wrong(table: pd.DataFrame, items: Sequence[_Item]) -> None:
    wrong = table[table["verdict"] == WRONG]
    if wrong.empty:
        return
    first = wrong.iloc[0]
    series = items[wrong.index[0]].series
    path = series.files[0] if len(series.files) == 1 else series.files[0].parent
    others = [f"{row.case_id} ({row.image})" for row in wrong.iloc[1 : 1 + _SHOWN].itertuples()]
    more = f" Also: {', '.join(others)}{' ...' if len(wrong) > 1 + _SHOWN else ''}." if others else ""
    raise InputError(
        f"Expected the sequence {first['expected']} as image {first['image']!r}; found {first['class']} (confidence "
        f"{first['confidence']:.2f}). {len(wrong)} of {len(table)} images are another sequence than expected.{more}",
        advice="Check which file the cohort table names; raise the threshold only if the classifier is wrong.",
        case_id=first["case_id"],
        path=path,
    )
