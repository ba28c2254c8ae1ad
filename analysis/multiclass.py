"""AUCs for outcomes with more than two classes: Hand and Till's M, one class against the rest, and their averages.

``M`` (Hand and Till 2001, doi:10.1023/A:1010920819831) averages over pairs of classes and does not depend on how common
the classes are. One-versus-rest AUCs do: each mixes the other classes in the proportions of the sample.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from hybrid.errors import InputError

from .clustered import check_patients, disjoint_pairs
from .resampling import FloatArray, Resampled, bootstrap, weighted_auc
from .roc import check_level, perfect_interval

MULTICLASS_COLUMNS: Final = (
    "measure",
    "class",
    "other",
    "auc",
    "se",
    "ci_low",
    "ci_high",
    "n_class",
    "n_other",
    "method",
)
"""Columns of the table that :func:`multiclass_aucs` returns."""

HAND_TILL: Final = "hand_till"
ONE_VS_ONE: Final = "one_vs_one"
ONE_VS_REST: Final = "one_vs_rest"
MACRO: Final = "macro"
WEIGHTED: Final = "weighted"


@dataclass(frozen=True)
class _Classes:
    """Class of each row as a number, and the probabilities of all classes."""

    names: list[str]
    codes: NDArray[np.intp]
    probabilities: FloatArray

    @property
    def pairs(self) -> list[tuple[int, int]]:
        return list(itertools.combinations(range(len(self.names)), 2))

    def pairwise(self, weights: FloatArray) -> FloatArray:
        """Mean of A(i|j) and A(j|i) for each pair of classes, of shape (n_pairs, b)."""
        return np.stack([(self._against(i, j, weights) + self._against(j, i, weights)) / 2 for i, j in self.pairs])

    def _against(self, one: int, other: int, weights: FloatArray) -> FloatArray:
        """A(one|other) of Hand and Till: how well the probability of ``one`` separates it from ``other``."""
        rows = (self.codes == one) | (self.codes == other)
        return weighted_auc(self.codes[rows] == one, self.probabilities[rows, one], weights[rows])

    def one_vs_rest(self, weights: FloatArray) -> FloatArray:
        """AUC of each class against all others, of shape (n_classes, b)."""
        return np.stack([
            weighted_auc(self.codes == c, self.probabilities[:, c], weights) for c in range(len(self.names))
        ])  # fmt: skip

    def shares(self, weights: FloatArray) -> FloatArray:
        """Share of each class, of shape (n_classes, b)."""
        totals = np.stack([weights[self.codes == c].sum(axis=0) for c in range(len(self.names))])
        return np.asarray(totals / totals.sum(axis=0))


def _classes(y: ArrayLike, probabilities: ArrayLike | pd.DataFrame, classes: Sequence[object] | None) -> _Classes:
    if classes is None and isinstance(probabilities, pd.DataFrame):
        classes = list(probabilities.columns)
    values = np.asarray(probabilities, dtype=np.float64)
    labels = np.asarray(y)
    if labels.ndim != 1 or values.ndim != 2 or values.shape[0] != labels.size:
        raise InputError(
            f"One class and one row of probabilities per case were expected; found shapes {labels.shape} and "
            f"{values.shape}.",
            advice="Pass probabilities as a table of cases by classes.",
        )
    if pd.isna(np.asarray(y, dtype=object)).any() or not np.isfinite(values).all():
        raise InputError("Classes and probabilities must not be missing or infinite.", advice="Remove these cases.")
    found = np.unique(labels)
    order = list(found if classes is None else classes)
    if len(order) != values.shape[1] or len(order) < 2 or len(set(map(str, order))) != len(order):
        raise InputError(
            f"Each column of probabilities needs one class of its own; found {values.shape[1]} columns and the classes "
            f"{', '.join(map(str, order))}.",
            advice="Name the class of each column with classes=[...].",
        )
    names = [str(name) for name in order]
    position = {name: i for i, name in enumerate(names)}
    strange = [str(label) for label in found if str(label) not in position]
    absent = sorted(set(names) - {str(label) for label in found})
    if strange or absent:
        raise InputError(
            f"The outcome must hold every class of the columns and no other; "
            f"{'unknown' if strange else 'without cases'}: {', '.join(strange or absent)}.",
            advice="Check classes, and drop the column of a class that has no cases.",
        )
    return _Classes(names, np.array([position[str(label)] for label in labels], dtype=np.intp), values)


def hand_till(
    y: ArrayLike, probabilities: ArrayLike | pd.DataFrame, *, classes: Sequence[object] | None = None
) -> float:
    """Hand and Till's M: the AUC averaged over all pairs of classes (2001, doi:10.1023/A:1010920819831).

    Parameters
    ----------
    y : array-like of shape (n,)
        Class of each case.
    probabilities : array-like or DataFrame of shape (n, n_classes)
        Probability, or any finite score, of each class.
    classes : sequence, optional
        Class of each column; the column names of a DataFrame, otherwise the sorted classes of ``y``.

    Returns
    -------
    float
        The AUC for two classes whose probabilities add up to 1; 0.5 for useless scores.

    Raises
    ------
    InputError
        When cases, classes and columns do not fit together, or for missing values.

    Examples
    --------
    >>> hand_till(["a", "a", "b", "b"], [[0.9, 0.1], [0.4, 0.6], [0.6, 0.4], [0.2, 0.8]])
    0.75
    """
    data = _classes(y, probabilities, classes)
    return float(data.pairwise(np.ones((data.codes.size, 1))).mean())


def multiclass_aucs(
    y: ArrayLike,
    probabilities: ArrayLike | pd.DataFrame,
    *,
    classes: Sequence[object] | None = None,
    patients: ArrayLike | None = None,
    level: float = 0.95,
    kind: Literal["bca", "percentile"] = "bca",
    n_bootstrap: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """AUCs of a model with several classes, with intervals that resample patients.

    Parameters
    ----------
    y, probabilities, classes
        See :func:`hand_till`.
    patients : array-like of shape (n,), optional
        Patient of each row; every row is a patient by default.
    level : float
        Confidence level.
    kind : {"bca", "percentile"}
        Of the bootstrap interval.
    n_bootstrap, seed : int
        Draws of the bootstrap and their seed. Draws keep the number of patients of each class, unless some patient has
        rows of several classes: then patients are drawn without regard to class.

    Returns
    -------
    DataFrame
        Columns :data:`MULTICLASS_COLUMNS`. One row each for ``hand_till`` (M), ``macro`` (plain mean of the
        one-versus-rest AUCs) and ``weighted`` (mean weighted by the rows of each class); one row per class for
        ``one_vs_rest`` and per pair of classes for ``one_vs_one`` (mean of both directions). ``n_class`` and
        ``n_other`` count rows. An AUC of 0 or 1 has the interval of :func:`hybrid.analysis.roc.perfect_interval`
        with the patients of the smallest class concerned, and no standard error. All other intervals are NaN when a
        class has fewer than two patients.

    Raises
    ------
    InputError
        See :func:`hand_till`; also for missing patients.
    """
    check_level(level)
    data = _classes(y, probabilities, classes)
    if patients is None:
        # Rows in an order of their own: the draws then do not depend on the order of the table.
        order = np.lexsort((*data.probabilities.T, data.codes))
        data = _Classes(data.names, data.codes[order], data.probabilities[order])
        codes = np.arange(data.codes.size)
    else:
        codes = check_patients(patients, data.codes.size)

    def statistic(weights: FloatArray) -> FloatArray:
        rows = weights[codes]
        pairwise, rest = data.pairwise(rows), data.one_vs_rest(rows)
        means = np.stack([pairwise.mean(axis=0), rest.mean(axis=0), (rest * data.shares(rows)).sum(axis=0)])
        return np.concatenate([means, rest, pairwise])

    drawn = bootstrap(statistic, _strata(data.codes, codes), n_bootstrap=n_bootstrap, seed=seed, n_rows=data.codes.size)
    table = _labels(data)
    bounds, errors, methods = _intervals(drawn, _trials(data, codes), level, kind)
    table["auc"], table["se"], table["method"] = drawn.estimate, errors, methods
    table["ci_low"], table["ci_high"] = bounds.T
    return table[list(MULTICLASS_COLUMNS)]


def _labels(data: _Classes) -> pd.DataFrame:
    counts = np.bincount(data.codes, minlength=len(data.names))
    total = data.codes.size
    rows: list[tuple[str, str, str, int, int]] = [(name, "", "", total, 0) for name in (HAND_TILL, MACRO, WEIGHTED)]
    rows += [(ONE_VS_REST, name, "rest", int(n), total - int(n)) for name, n in zip(data.names, counts, strict=True)]
    rows += [(ONE_VS_ONE, data.names[i], data.names[j], int(counts[i]), int(counts[j])) for i, j in data.pairs]
    return pd.DataFrame(rows, columns=["measure", "class", "other", "n_class", "n_other"])


def _strata(classes: NDArray[np.intp], patients: NDArray[np.intp]) -> NDArray[np.intp]:
    """Class of each patient, or one stratum for all when a patient has rows of several classes."""
    lowest = np.full(patients.max() + 1, classes.max() + 1)
    highest = np.full(patients.max() + 1, -1)
    np.minimum.at(lowest, patients, classes)
    np.maximum.at(highest, patients, classes)
    return np.asarray(lowest if (lowest == highest).all() else np.zeros_like(lowest), dtype=np.intp)


def _trials(data: _Classes, patients: NDArray[np.intp]) -> list[int]:
    """Independent pairs behind each statistic, for the interval of a perfect AUC; the smallest one for means.

    A mean of AUCs is perfect only if each of them is, and at least one of them lies at or below its true value.
    """
    rest = [disjoint_pairs(data.codes == c, patients) for c in range(len(data.names))]
    pairwise = []
    for i, j in data.pairs:
        rows = (data.codes == i) | (data.codes == j)
        pairwise.append(disjoint_pairs(data.codes[rows] == i, patients[rows]))
    return [min(pairwise), min(rest), min(rest), *rest, *pairwise]


def _intervals(
    drawn: Resampled, trials: list[int], level: float, kind: Literal["bca", "percentile"]
) -> tuple[FloatArray, FloatArray, list[str]]:
    bounds = drawn.interval(level=level, kind=kind)
    spread = drawn.draws.shape[1] > 1 and drawn.is_estimable
    errors = np.nanstd(drawn.draws, axis=1, ddof=1) if spread else np.full(len(trials), np.nan)
    methods = [f"patient bootstrap, {'BCa' if kind == 'bca' else 'percentile'}"] * len(trials)
    for i, estimate in enumerate(drawn.estimate):
        # Means of perfect AUCs can miss 1 by the last bit.
        nearest = float(np.rint(estimate))
        if abs(estimate - nearest) <= 1e-12:
            bounds[i] = perfect_interval(nearest, trials[i], level=level)
            errors[i] = np.nan
            methods[i] = "exact bound for an AUC of 0 or 1, patients of the smallest class"
    return bounds, errors, methods
