"""Minimum redundancy, maximum relevance: one of the selectors of :mod:`hybrid.selection_methods`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final, Literal

import numpy as np
from scipy import special

from .errors import InputError, unknown_name
from .selection import MAX_FEATURES, BaseFilter, check_classes, check_count, mask_of

MRMR_SCHEMES: Final = {
    "MID": "mutual information, difference: I(x; y) - mean I(x; s)",
    "MIQ": "mutual information, quotient: I(x; y) / mean I(x; s)",
    "FCD": "F statistic and correlation, difference: F(x, y) - mean |r(x, s)|",
    "FCQ": "F statistic and correlation, quotient: F(x, y) / mean |r(x, s)|",
}
"""Criteria of mRMR, for a candidate x, the outcome y, and the columns s chosen so far."""

LARGEST_F: Final = 1e200
"""Stands for the infinite F statistic of a column that is constant within each class."""


class MRMRSelector(BaseFilter):
    """Minimum redundancy, maximum relevance: columns that tell the outcome and not the same as those chosen before.

    The first column is the most relevant; each further one has the best :data:`MRMR_SCHEMES` criterion (Ding and Peng
    2005, doi:10.1142/S0219720005001004; Peng et al. 2005, doi:10.1109/TPAMI.2005.159). Mutual information is that of
    three states, below, within and above ``mean +- width * standard deviation``, as in Peng's experiments. In ``"FCD"``
    a large F outweighs every correlation, which is at most 1; ``"FCQ"`` has no such scale.

    Parameters
    ----------
    k : int
        How many; all when there are fewer.
    scheme : {"MID", "MIQ", "FCD", "FCQ"}
        Criterion.
    width : float
        Half width of the middle state in standard deviations; only for mutual information.

    Attributes
    ----------
    order_ : ndarray of int, shape (k,)
        Positions of the chosen columns in the order in which they were chosen.
    relevance_ : ndarray of shape (p,)
        Mutual information with the outcome in nats, or F statistic; 0 for constant columns.

    Notes
    -----
    The sum of a candidate's redundancies grows by one term per step, so only those with the column chosen last are
    computed: ``k`` steps instead of ``k**2``.
    """

    def __init__(
        self, k: int = MAX_FEATURES, *, scheme: Literal["MID", "MIQ", "FCD", "FCQ"] = "MIQ", width: float = 1.0
    ) -> None:
        self.k = k
        self.scheme = scheme
        self.width = width

    def _keep(self, X: np.ndarray, y: Any) -> np.ndarray:
        check_count("k", self.k)
        if self.scheme not in MRMR_SCHEMES:
            raise unknown_name("mRMR scheme", self.scheme, MRMR_SCHEMES)
        if not self.width >= 0:
            raise InputError(f"width must be 0 or more; found {self.width!r}.", advice="Peng used 1.")
        codes = check_classes(y, len(X))
        k, quotient = min(self.k, X.shape[1]), self.scheme.endswith("Q")
        if self.scheme.startswith("MI"):
            states = _three_states(X, self.width)
            self.relevance_ = _mutual_information(states, codes[:, None] == np.arange(codes.max() + 1))
            self.order_ = _greedy(self.relevance_, functools.partial(_information_with, states), k, quotient)
        else:
            centred, squares = _centred(X)
            self.relevance_ = _f_of_centred(centred, squares, codes)
            self.order_ = _greedy_by_correlation(self.relevance_, centred, np.sqrt(squares), k, quotient)
        return mask_of(self.order_, X.shape[1])


def f_statistic(X: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """F statistic of the analysis of variance of each column between classes, shape (p,); 0 for constant columns."""
    return _f_of_centred(*_centred(X), classes)


def _centred(X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Columns less their means, and their sums of squares; exactly 0 for constant columns."""
    centred = X - X.mean(axis=0)
    squares = np.einsum("ij,ij->j", centred, centred)
    # A constant is not always its own mean: columns that hardly vary for their size are looked at one by one.
    doubtful = np.flatnonzero(squares <= 1e-20 * len(X) * np.square(X[0]))
    constant = doubtful[np.ptp(X[:, doubtful], axis=0) == 0]
    centred[:, constant], squares[constant] = 0.0, 0.0
    return centred, squares


def _f_of_centred(centred: np.ndarray, squares: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """F statistic from what :func:`_centred` returns: one matrix product instead of a pass over the rows per class."""
    groups, codes = np.unique(classes, return_inverse=True)
    n, k = len(centred), len(groups)
    if n <= k:
        return np.zeros(centred.shape[1])
    indicators = (codes[:, None] == np.arange(k)).astype(np.float64)
    sums, sizes = indicators.T @ centred, indicators.sum(axis=0)[:, None]
    between = (sums**2 / sizes).sum(axis=0)
    within = squares - between
    # Where hardly anything is left within classes, the difference of two large numbers is not trusted.
    near = np.flatnonzero(within <= 1e-6 * squares)
    within[near] = np.square(centred[:, near] - (sums / sizes)[codes][:, near]).sum(axis=0)
    within[near[within[near] <= 1e-28 * squares[near]]] = 0.0
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = between / within * ((n - k) / (k - 1))
    return np.nan_to_num(ratio, nan=0.0, posinf=LARGEST_F)


def _greedy(relevance: np.ndarray, redundancy: Callable[[int], np.ndarray], k: int, quotient: bool) -> np.ndarray:
    """Positions in the order of choice; of equal criteria the first column."""
    order = [int(np.argmax(relevance))]
    total = np.zeros(len(relevance))
    while len(order) < k:
        total += redundancy(order[-1])
        mean = total / len(order)
        criterion = _criterion(relevance, mean, quotient)
        criterion[order] = -np.inf
        order.append(int(np.argmax(criterion)))
    return np.asarray(order, dtype=np.intp)


def _criterion(relevance: np.ndarray, mean: np.ndarray, quotient: bool) -> np.ndarray:
    return relevance / np.maximum(mean, 1e-12) if quotient else relevance - mean


def _greedy_by_correlation(
    relevance: np.ndarray, centred: np.ndarray, lengths: np.ndarray, k: int, quotient: bool
) -> np.ndarray:
    """Give what :func:`_greedy` gives with absolute correlations, mostly in single precision.

    Rounding errors of a correlation of n numbers stay below ``(n + 4) * 6e-8``; columns that could be the best within
    that error are compared in double precision.
    """
    error = (len(centred) + 4) * 6e-8
    unit = np.empty(centred.shape, dtype=np.float32)
    np.divide(centred, np.where(lengths > 0, lengths, np.inf), out=unit, casting="same_kind")
    order = [int(np.argmax(relevance))]
    total = np.zeros(len(relevance))
    while len(order) < k:
        total += np.abs(unit[:, order[-1]] @ unit)
        mean = total / len(order)
        upper = _criterion(relevance, mean - error, quotient)
        lower = _criterion(relevance, mean + error, quotient)
        upper[order], lower[order] = -np.inf, -np.inf
        near = np.flatnonzero(upper >= lower.max())
        if near.size > 1:
            exact = np.mean([_correlation_with(centred, lengths, column, near) for column in order], axis=0)
            near = near[[int(np.argmax(_criterion(relevance[near], exact, quotient)))]]
        order.append(int(near[0]))
    return np.asarray(order, dtype=np.intp)


def _three_states(X: np.ndarray, width: float) -> np.ndarray:
    """Code each column as below, within or above its middle: indicators, shape (p, 3, n)."""
    mean, spread = X.mean(axis=0), X.std(axis=0, ddof=1) if len(X) > 1 else np.zeros(X.shape[1])
    below, above = (mean - width * spread > X).T, (mean + width * spread < X).T
    return np.stack([below, ~(below | above), above], axis=1).astype(np.float32)


def _mutual_information(states: np.ndarray, indicators: np.ndarray) -> np.ndarray:
    """Mutual information in nats of each column (p, 3, n) with one variable given as indicators (n, groups)."""
    p, _, n = states.shape
    # Sums of zeros and ones are exact in float32.
    joint = (states.reshape(3 * p, n) @ indicators.astype(np.float32)).reshape(p, 3, -1).astype(np.intp)
    count_log_count = special.xlogy(np.arange(n + 1), np.arange(n + 1))
    together = count_log_count[joint].sum(axis=(1, 2))
    apart = count_log_count[joint.sum(axis=2)].sum(axis=1) + count_log_count[joint.sum(axis=1)].sum(axis=1)
    return np.maximum(np.log(n) + (together - apart) / n, 0.0)


def _information_with(states: np.ndarray, chosen: int) -> np.ndarray:
    return _mutual_information(states, states[chosen].T)


def _correlation_with(centred: np.ndarray, lengths: np.ndarray, chosen: int, candidates: np.ndarray) -> np.ndarray:
    """Absolute correlation of candidates with one column; 0 for constant ones."""
    products = np.abs(centred[:, chosen] @ centred[:, candidates])
    scale = lengths[chosen] * lengths[candidates]
    return np.divide(products, scale, out=np.zeros(len(candidates)), where=scale > 0)
