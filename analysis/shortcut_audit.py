"""Shortcuts: facts of the files that alone predict the label, so that a network need not look at the disease.

:func:`audit_shortcuts` takes one fact at a time (image size, format, border, mean grey value, a header field) and asks
how well it tells the classes apart in patients whose label it has not seen. Where one hospital gives most cases and
another one most controls, such facts are strong: sorting radiographs of two hospitals by hospital alone found pneumonia
with an AUC of 0.861 (Zech et al. 2018, doi:10.1371/journal.pmed.1002683).

Why out of fold and not simply the AUC of the fact: a fact has no direction of its own, sizes of both extremes can mean
one class, and a text field with one value per patient separates any sample perfectly. So direction, shape and the
meaning of each level are learned from other patients: for text, and for numbers with at most :data:`MAX_LEVELS` values,
the class shares of each level, drawn to equal shares by the weight of one patient; for all other numbers a logistic
model of the rank and its square. What is learned by chance does not raise the AUC in other patients; it tends to turn
round there, so that an AUC below 0.5 says that nothing was learned, and is given as 0.5.

With few patients look at the interval, too: of 200 random numbers 7.5 % were flagged with 20 patients, 6 % with 30, and
0.8 % of 120 with 50 patients (limit 0.7, two equal classes); a number with a true AUC of 0.80 was flagged in 52, 72 and
75 % of 60 samples. A table that flags nothing does not show that there is no shortcut.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from hybrid.errors import InputError, unknown_name

from .clustered import check_patients, clustered_auc
from .resampling import FloatArray
from .roc import check_level

SHORTCUT_COLUMNS: Final = (
    "fact", "kind", "class", "auc", "low", "high", "n_images", "n_patients", "flagged", "remedy", "method",
)  # fmt: skip
"""Columns of the table that :func:`audit_shortcuts` returns."""

LIMIT: Final = 0.7
"""A fact whose AUC exceeds this is flagged."""

NUMERIC: Final = "numeric"
CATEGORICAL: Final = "categorical"

MAX_LEVELS: Final = 8
"""Numbers with at most this many values, such as image sizes, are levels without an order."""

FOLDS: Final = 5
REPEATS: Final = 5
"""Random divisions into folds; the scores of an image are averaged over them."""

_SIZE = "Resample all images to one size, no larger than the smallest of them (hybrid.shortcuts.neutralise)."
_MODE = "Bring all images to one grey value per pixel (hybrid.shortcuts.to_grey) and write them in one format."
_SCALE = (
    "Scale every image by its own percentiles (hybrid.shortcuts.neutralise); a difference that stays can be anatomy."
)
_BORDER = "Cut off the constant border of all images (SliceInput(crop_border=True) or hybrid.shortcuts.crop_border)."
_CORNER = "Blank this corner in all images, of every class (hybrid.shortcuts.blank_corners)."
_SPACING = (
    "Resample all images to one grid; the sharpness of the source stays and may still tell it. Compare within equal "
    "spacings."
)
OTHER_REMEDY: Final = (
    "Cannot be taken out of the pixels (site, scanner, protocol): balance or match the classes within its values, "
    "report results within them, and hold one value out as an external test."
)
"""Remedy of header fields and of every other fact without one of its own."""

REMEDIES: Final[dict[str, str]] = {
    "file_format": _MODE,
    "pixel_mode": _MODE,
    "bit_depth": _SCALE,
    "rows": _SIZE,
    "columns": _SIZE,
    "aspect_ratio": 'Cut off the border, then stretch all images to one size (fit="stretch"), without padding.',
    "n_slices": "Resample all volumes to one grid, or cut them to the same anatomical range.",
    "spacing_rows_mm": _SPACING,
    "spacing_columns_mm": _SPACING,
    "spacing_slices_mm": _SPACING,
    "orientation": "Axes are turned on reading, but another scan plane stays visible. Use images of one plane.",
    "file_bytes": "Write all images in one format and size; what is left is content and noise, which stay visible.",
    "mean_grey": _SCALE,
    "min_grey": _SCALE,
    "max_grey": _SCALE,
    "border_share": _BORDER,
    "background_share": "Crop all images to the body or organ; a difference that stays can be anatomy.",
    "corner_top_left": _CORNER,
    "corner_top_right": _CORNER,
    "corner_bottom_left": _CORNER,
    "corner_bottom_right": _CORNER,
}  # fmt: skip
"""What to do about a flagged fact of :func:`hybrid.shortcuts.image_facts`."""

_EMPTY: Final = ("", "nan", "na", "n/a", "none")


@dataclass(frozen=True)
class _Sample:
    """Classes and patients of all images as numbers, and the divisions into folds."""

    classes: list[str]
    codes: NDArray[np.intp]
    patients: NDArray[np.intp]
    weights: FloatArray
    folds: list[tuple[NDArray[np.intp], NDArray[np.intp]]]
    level: float

    @property
    def compared(self) -> list[int]:
        """Classes to look at one against the rest; of two the second alone, because their AUCs are the same."""
        return list(range(len(self.classes))) if len(self.classes) > 2 else [1]


def audit_shortcuts(
    facts: pd.DataFrame,
    y: ArrayLike,
    patients: ArrayLike,
    *,
    limit: float = LIMIT,
    level: float = 0.95,
    columns: Sequence[str] | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """AUC of every fact alone, out of fold and grouped by patient.

    Parameters
    ----------
    facts : DataFrame of shape (n, k)
        One row per image: :func:`hybrid.shortcuts.image_facts`, and header fields or columns of the cohort table. Text
        that holds numbers or ISO dates throughout is numeric, other text categorical. A missing value is a level of its
        own.
    y : array-like of shape (n,)
        Class of each image.
    patients : array-like of shape (n,)
        Patient of each image.
    limit : float
        A fact is flagged when its AUC exceeds this.
    level : float
        Confidence level of the interval.
    columns : sequence of str, optional
        Facts to look at; default: all.
    seed : int
        Of the folds.

    Returns
    -------
    DataFrame
        Columns :data:`SHORTCUT_COLUMNS`, one row per fact, the highest AUC first. ``auc``: scores of each image come
        from models of one fact that have not seen its patient, see the top of this module; patients weigh the same in
        these models, images in the AUC. It is 0.5 or more; where nothing was learned, the interval is mirrored at 0.5.
        With more than two classes each is compared with the rest, and the ``class`` with the highest AUC is the fact's.
        ``low`` and ``high``: interval clustered by patient (Obuchowski 1997, doi:10.2307/2533958), with several classes
        at a level that holds for all of them together (Bonferroni). A constant fact has 0.5; NaN bounds say that
        nothing could be learned from other patients. ``remedy`` is empty for facts that are not flagged.

    Raises
    ------
    InputError
        When lengths or indices differ, values of ``y`` or ``patients`` are missing, there is one class only, a class
        has fewer than two patients, a column does not exist or is there twice, or limit or level is out of range.

    Examples
    --------
    >>> facts = pd.DataFrame({"rows": [512.0] * 6 + [630.0] * 6, "bit_depth": 8.0})
    >>> table = audit_shortcuts(facts, ["no"] * 6 + ["yes"] * 6, range(12))
    >>> table[["fact", "auc", "flagged"]].values.tolist()
    [['rows', 1.0, True], ['bit_depth', 0.5, False]]
    """
    check_level(level)
    if not 0.5 <= limit < 1.0:
        raise InputError(f"The limit must be at least 0.5 and below 1; found {limit}.", advice="Use 0.7.")
    names = _names(facts, columns)
    sample = _sample(facts, y, patients, level, seed)
    table = pd.DataFrame([_row(name, facts[name], sample, limit) for name in names], columns=list(SHORTCUT_COLUMNS))
    return table.sort_values("auc", ascending=False, kind="stable", ignore_index=True)


def _names(facts: pd.DataFrame, columns: Sequence[str] | None) -> list[str]:
    twice = facts.columns[facts.columns.duplicated()]
    if not len(facts.columns) or len(twice):
        raise InputError(
            f"Expected one column for each fact; found {f'{twice[0]!r} twice' if len(twice) else 'none'}.",
            advice="Build the table from image_facts, one row per image.",
        )
    for name in columns or ():
        if name not in facts.columns:
            raise unknown_name("fact", name, facts.columns)
    return list(columns) if columns else list(facts.columns)


def _sample(facts: pd.DataFrame, y: ArrayLike, patients: ArrayLike, level: float, seed: int) -> _Sample:
    for name, values in (("y", y), ("patients", patients)):
        if isinstance(values, pd.Series) and not values.index.equals(facts.index):
            raise InputError(
                f"The index of {name} differs from that of the facts.",
                advice=f"Bring it into their order: {name}.reindex(facts.index).",
            )
    labels = np.asarray(y, dtype=object)
    if labels.shape != (len(facts),) or pd.isna(labels).any():
        raise InputError(
            f"One class for each of {len(facts)} images was expected; found shape {labels.shape} with "
            f"{int(pd.isna(labels).sum())} missing.",
            advice="Leave out images without a label.",
        )
    groups = check_patients(patients, len(facts))
    found, codes = np.unique(labels.astype(str), return_inverse=True)
    codes = codes.astype(np.intp)
    counts = [len(np.unique(groups[codes == number])) for number in range(len(found))]
    if len(found) < 2 or min(counts) < 2:
        rarest = str(found[int(np.argmin(counts))])
        few = f"class {rarest!r} has one patient" if len(found) > 1 else "one class only"
        raise InputError(
            f"The audit needs at least two classes with two patients each; found: {few}.",
            advice="Leave this class out, or collect more patients.",
        )
    folds = list(_folds(codes, groups, min(FOLDS, *counts), seed))
    return _Sample([str(name) for name in found], codes, groups, _weights(codes, groups), folds, level)


def _folds(
    codes: NDArray[np.intp], patients: NDArray[np.intp], count: int, seed: int
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    from sklearn.model_selection import StratifiedGroupKFold

    for repeat in range(REPEATS):
        splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed + repeat)
        yield from splitter.split(codes[:, None], codes, patients)


def _weights(codes: NDArray[np.intp], patients: NDArray[np.intp]) -> FloatArray:
    """Weights of images: each patient of a class weighs the same, each class as many patients as the mean class."""
    _, pair, images = np.unique(np.stack([codes, patients]), axis=1, return_inverse=True, return_counts=True)
    weights = 1.0 / images[pair.ravel()]
    per_class = np.bincount(codes, weights=weights)
    return np.asarray(weights * (per_class.mean() / per_class)[codes], dtype=np.float64)


def _row(name: str, column: pd.Series, sample: _Sample, limit: float) -> dict[str, Any]:
    kind, values = _levels(column)
    row: dict[str, Any] = {
        "fact": name, "kind": kind, "class": sample.classes[sample.compared[-1]], "auc": 0.5, "low": 0.5, "high": 0.5,
        "n_images": len(column), "n_patients": int(sample.patients.max()) + 1, "method": "constant fact",
    }  # fmt: skip
    if len(np.unique(values)) > 1:
        row |= _estimate(kind, values, sample)
    flagged = bool(row["auc"] > limit)
    return row | {"flagged": flagged, "remedy": REMEDIES.get(name, OTHER_REMEDY) if flagged else ""}


def _levels(column: pd.Series) -> tuple[str, NDArray[np.intp]]:
    """Kind of a fact, and its values as whole numbers: ranks for numbers, levels for text, -1 where it is missing."""
    text = column.map(lambda value: None if pd.isna(value) or str(value).strip().lower() in _EMPTY else str(value))
    there = text.notna().to_numpy(copy=True)
    is_bool = pd.api.types.is_bool_dtype(column)
    numbers = None if is_bool else _as_numbers(column[there])
    if numbers is not None:
        there[there] = np.isfinite(numbers)
        found: np.ndarray = numbers[np.isfinite(numbers)]
    else:
        found = text[there].to_numpy(dtype=str)
    values = np.full(len(column), -1, dtype=np.intp)
    values[there] = np.unique(found, return_inverse=True)[1]
    return NUMERIC if numbers is not None else CATEGORICAL, values


def _as_numbers(column: pd.Series) -> FloatArray | None:
    """Numbers or days of a column without missing values; None when it is text."""
    if pd.api.types.is_datetime64_any_dtype(column):
        return _days(column)
    numbers = pd.to_numeric(column, errors="coerce")
    if numbers.notna().all():
        return numbers.to_numpy(dtype=np.float64)
    dates = pd.to_datetime(column.astype(str), format="ISO8601", errors="coerce", utc=True)
    return _days(dates) if dates.notna().all() else None


def _days(dates: pd.Series) -> FloatArray:
    start = pd.Timestamp(0, tz=dates.dt.tz)
    return np.asarray((dates - start) / pd.Timedelta(days=1), dtype=np.float64)


def _estimate(kind: str, values: NDArray[np.intp], sample: _Sample) -> dict[str, Any]:
    is_ranked = kind == NUMERIC and len(np.unique(values)) > MAX_LEVELS
    scores = _out_of_fold(is_ranked, values, sample)
    level = 1 - (1 - sample.level) / len(sample.compared)
    best: dict[str, Any] = {"auc": -1.0}
    for number in sample.compared:
        # Where every patient has every class and one value, the variance is 0 but for rounding: no interval.
        with np.errstate(invalid="ignore"):
            found = clustered_auc(sample.codes == number, scores[:, number], sample.patients, level=level)
        if found.auc > best["auc"]:
            best = {"class": sample.classes[number], "auc": found.auc, "low": found.lower, "high": found.upper}
    if (scores == scores[0]).all():
        best |= {"low": np.nan, "high": np.nan}
    elif best["auc"] < 0.5:
        best |= {"auc": 0.5, "high": max(best["high"], 1 - best["low"])}
    return best | {"method": _method(kind, is_ranked, values, sample)}


def _out_of_fold(is_ranked: bool, values: NDArray[np.intp], sample: _Sample) -> FloatArray:
    """Probability of each class for each image (n, n_classes), from models that have not seen its patient."""
    predict = _ranked_shares if is_ranked else _level_shares
    scores = np.zeros((len(values), len(sample.classes)))
    for train, test in sample.folds:
        scores[test] += predict(
            values[train], sample.codes[train], sample.weights[train], values[test], scores.shape[1]
        )
    # Sums of equal probabilities in another order differ in the last bit; that must not order the images.
    return np.round(scores / REPEATS, 9)


def _ranked_shares(
    train: NDArray[np.intp], codes: NDArray[np.intp], weights: FloatArray, test: NDArray[np.intp], n_classes: int
) -> FloatArray:
    """Probabilities of a logistic model of the rank and its square."""
    from sklearn.linear_model import LogisticRegression

    shares = np.zeros((len(test), n_classes))
    present = np.unique(codes)
    if len(present) == 1:
        shares[:, present] = 1.0
        return shares
    model = LogisticRegression(max_iter=1000).fit(_ranks(train, train), codes, sample_weight=weights)
    shares[:, present] = model.predict_proba(_ranks(train, test))
    return shares


def _ranks(train: NDArray[np.intp], values: NDArray[np.intp]) -> FloatArray:
    """Rank among the training values (unit variance), its square, and whether the value is missing; shape (n, 3)."""
    there = values >= 0
    known = np.sort(train[train >= 0])
    rank = np.zeros(len(values))
    if known.size:
        below = np.searchsorted(known, values[there], "left") + np.searchsorted(known, values[there], "right")
        rank[there] = (below / (2 * known.size) - 0.5) * np.sqrt(12)
    return np.stack([rank, np.where(there, rank**2 - 1, 0.0), ~there], axis=1)


def _level_shares(
    train: NDArray[np.intp], codes: NDArray[np.intp], weights: FloatArray, test: NDArray[np.intp], n_classes: int
) -> FloatArray:
    """Class shares of each level, drawn to equal shares by one patient's weight; equal shares for unknown levels."""
    n_levels = int(max(train.max(), test.max())) + 2
    sums = np.zeros((n_levels, n_classes))
    np.add.at(sums, (train + 1, codes), weights)
    shares = (sums + 1 / n_classes) / (sums.sum(axis=1, keepdims=True) + 1)
    return np.asarray(shares[test + 1])


def _method(kind: str, is_ranked: bool, values: NDArray[np.intp], sample: _Sample) -> str:
    shared = pd.Series(sample.patients).groupby(values).nunique()
    if kind == CATEGORICAL and shared.max() < 2:
        return "every level belongs to one patient: nothing can be learned from other patients"
    model = "logistic model of rank and squared rank" if is_ranked else "class shares of each level"
    text = f"{model}, out of fold by patient, direction-free; interval clustered by patient (Obuchowski 1997)"
    if len(sample.compared) == 1:
        return text
    return f"{text}; highest of {len(sample.compared)} one-vs-rest AUCs, interval for all of them (Bonferroni)"
