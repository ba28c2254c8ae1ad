"""Feature filters that are fitted inside a fold: constant, correlated, uninformative columns.

All follow scikit-learn's protocol and name the columns that they keep (``get_feature_names_out``).
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from scipy import stats
from sklearn.base import BaseEstimator
from sklearn.feature_selection import SelectorMixin
from sklearn.utils.validation import check_is_fitted, validate_data

MAX_CORRELATION: Final = 0.9
"""Columns more alike than this carry nearly the same information."""

MAX_FEATURES: Final = 10
"""Most columns that a block of features hands to a classifier.

With 20 to 500 patients and an event rate of a third there are 7 to 170 events; ten candidates keep the number of events
per parameter within reach of the usual advice for the larger of these cohorts, and tuned shrinkage does the rest.
"""


def univariate_auc(X: np.ndarray, y: np.ndarray) -> np.ndarray:
    """AUC of each column alone, ties counting half.

    Parameters
    ----------
    X : ndarray of shape (n, p)
        Without missing values.
    y : ndarray of shape (n,)
        0 or 1.

    Returns
    -------
    ndarray of shape (p,)
        In [0, 1].
    """
    positive = np.asarray(y) == 1
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    ranks = stats.rankdata(X, axis=0)
    return (ranks[positive].sum(axis=0) - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative)


class _Filter(SelectorMixin, BaseEstimator):
    """A filter whose :meth:`fit` sets ``support_``."""

    def fit(self, X: Any, y: Any = None) -> _Filter:
        values = validate_data(self, X, dtype=np.float64)
        self.support_ = self._keep(values, y)
        return self

    def _keep(self, X: np.ndarray, y: Any) -> np.ndarray:
        raise TypeError("A filter defines which columns it keeps.")

    def _get_support_mask(self) -> np.ndarray:
        check_is_fitted(self, "support_")
        return self.support_


class ConstantFilter(_Filter):
    """Drop columns with one value only; the first is kept when all are constant, so that a model can be fitted."""

    def _keep(self, X: np.ndarray, y: Any) -> np.ndarray:
        keep = np.ptp(X, axis=0) > 1e-12 * np.maximum(np.abs(X).max(axis=0), 1e-300)
        if not keep.any():
            keep[:1] = True
        return keep


class CorrelationFilter(_Filter):
    """Of columns that correlate above a threshold keep the one that separates the classes best.

    Parameters
    ----------
    threshold : float
        Largest absolute Pearson correlation between two kept columns.
    """

    def __init__(self, threshold: float = MAX_CORRELATION) -> None:
        self.threshold = threshold

    def _keep(self, X: np.ndarray, y: Any) -> np.ndarray:
        strength = np.abs(univariate_auc(X, y) - 0.5)
        order = np.argsort(-strength, kind="stable")
        with np.errstate(invalid="ignore", divide="ignore"):
            alike = np.abs(np.nan_to_num(np.corrcoef(X, rowvar=False).reshape(X.shape[1], -1))) > self.threshold
        keep, dropped = np.zeros(X.shape[1], bool), np.zeros(X.shape[1], bool)
        for column in order:
            if not dropped[column]:
                keep[column] = True
                dropped |= alike[column]
        return keep


class TopFilter(_Filter):
    """Keep the columns whose own AUC lies furthest from one half.

    Parameters
    ----------
    k : int
        How many; all when there are fewer.
    """

    def __init__(self, k: int = MAX_FEATURES) -> None:
        self.k = k

    def _keep(self, X: np.ndarray, y: Any) -> np.ndarray:
        strength = np.abs(univariate_auc(X, y) - 0.5)
        return _first(np.argsort(-strength, kind="stable")[: self.k], X.shape[1])


def _first(chosen: np.ndarray, n: int) -> np.ndarray:
    keep = np.zeros(n, bool)
    keep[chosen] = True
    return keep
