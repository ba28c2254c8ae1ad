"""Feature filters that are fitted inside a fold: constant, correlated, unreliable, uninformative columns.

All follow scikit-learn's protocol, name the columns that they keep (``get_feature_names_out``, ``set_output``), and
keep one column at least, so that a model can be fitted. Selectors that fit models of their own, and the dictionary of
all selectors by name, are in :mod:`.selection_methods`.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
from scipy import stats
from scipy.cluster import hierarchy
from sklearn.base import BaseEstimator
from sklearn.feature_selection import SelectorMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from .errors import InputError, unknown_name
from .tables import REPEAT_SUFFIX

MAX_CORRELATION: Final = 0.9
"""Columns more alike than this carry nearly the same information."""

MAX_FEATURES: Final = 10
"""Most columns that a block of features hands to a classifier.

With 20 to 500 patients and an event rate of a third there are 7 to 170 events; ten candidates keep the number of events
per parameter within reach of the usual advice for the larger of these cohorts, and tuned shrinkage does the rest.
"""

MIN_ICC: Final = 0.75
"""Intraclass correlation from which agreement is called good (Koo and Li 2016, doi:10.1016/j.jcm.2016.02.012)."""

CORRELATIONS: Final = ("spearman", "pearson")
REPRESENTATIVES: Final = ("medoid", "auc")
MISSING_ICC: Final = ("error", "drop")


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


class BaseFilter(SelectorMixin, BaseEstimator):
    """A filter whose :meth:`fit` sets ``support_``: which columns are kept, from training rows only.

    Attributes
    ----------
    support_ : ndarray of bool, shape (p,)
        Which columns are kept.
    """

    def fit(self, X: Any, y: Any = None) -> BaseFilter:
        """Choose the columns.

        Parameters
        ----------
        X : array-like of shape (n, p)
            Training rows, without missing values.
        y : array-like of shape (n,), optional
            Outcome of the training rows; not needed by filters that do not look at it.

        Raises
        ------
        InputError
            For missing or infinite values, settings out of their range, or outcomes that cannot be used.
        """
        values = validate_data(self, X, dtype=np.float64, ensure_all_finite=False)
        finite = np.isfinite(values).all(axis=0)
        if not finite.all():
            names = getattr(self, "feature_names_in_", np.arange(values.shape[1])).tolist()
            raise InputError(
                f"Column {names[int(np.argmin(finite))]!r} has missing or infinite values.",
                advice="Impute inside the fold before selecting, for example with SimpleImputer.",
            )
        self.support_ = self._keep(values, y)
        return self

    def _keep(self, X: np.ndarray, y: Any) -> np.ndarray:
        raise TypeError("A filter defines which columns it keeps.")

    def _get_support_mask(self) -> np.ndarray:
        check_is_fitted(self, "support_")
        return self.support_


class ConstantFilter(BaseFilter):
    """Drop columns with one value only; the first is kept when all are constant, so that a model can be fitted."""

    def _keep(self, X: np.ndarray, y: Any) -> np.ndarray:
        keep = np.ptp(X, axis=0) > 1e-12 * np.maximum(np.abs(X).max(axis=0), 1e-300)
        if not keep.any():
            keep[:1] = True
        return keep


class CorrelationFilter(BaseFilter):
    """Of columns that correlate above a threshold keep the one that separates the classes best.

    Parameters
    ----------
    threshold : float
        Largest absolute Pearson correlation between two kept columns.
    """

    def __init__(self, threshold: float = MAX_CORRELATION) -> None:
        self.threshold = threshold

    def _keep(self, X: np.ndarray, y: Any) -> np.ndarray:
        check_fraction("threshold", self.threshold)
        strength = np.abs(univariate_auc(X, check_binary(y, len(X))) - 0.5)
        order = np.argsort(-strength, kind="stable")
        alike = np.abs(correlation_matrix(X)) > self.threshold
        keep, dropped = np.zeros(X.shape[1], bool), np.zeros(X.shape[1], bool)
        for column in order:
            if not dropped[column]:
                keep[column] = True
                dropped |= alike[column]
        return keep


class TopFilter(BaseFilter):
    """Keep the columns whose own AUC lies furthest from one half.

    Parameters
    ----------
    k : int
        How many; all when there are fewer.
    """

    def __init__(self, k: int = MAX_FEATURES) -> None:
        self.k = k

    def _keep(self, X: np.ndarray, y: Any) -> np.ndarray:
        check_count("k", self.k)
        strength = np.abs(univariate_auc(X, check_binary(y, len(X))) - 0.5)
        return mask_of(np.argsort(-strength, kind="stable")[: self.k], X.shape[1])


class VarianceFilter(BaseFilter):
    """Drop columns that hardly vary; the one that varies most is kept when all do not.

    Parameters
    ----------
    threshold : float
        Smallest variance of a kept column, or more exactly: columns with this variance or less are dropped.
    scaled : bool
        Take variances after scaling each column to [0, 1], so that units do not matter; they then lie in [0, 0.25], and
        a column with one outlier among n equal values has ``(n - 1) / n**2``. Otherwise in the column's own unit.
    """

    def __init__(self, threshold: float = 0.01, *, scaled: bool = True) -> None:
        self.threshold = threshold
        self.scaled = scaled

    def _keep(self, X: np.ndarray, y: Any) -> np.ndarray:
        if not self.threshold >= 0:
            raise InputError(f"threshold must be 0 or more; found {self.threshold!r}.", advice="0 drops constants.")
        spread = np.ptp(X, axis=0)
        scale = np.where(spread > 0, spread, 1.0) if self.scaled else 1.0
        variances = np.var(X / scale, axis=0)
        return at_least_one(variances > self.threshold, variances)


class CorrelationClusterFilter(BaseFilter):
    """Group columns that correlate, and keep one of each group.

    Columns are clustered hierarchically with the distance ``1 - |r|`` and complete linkage, so that any two columns of
    a cluster correlate by the threshold or more.

    Parameters
    ----------
    threshold : float
        Smallest absolute correlation within a cluster.
    method : {"spearman", "pearson"}
        Kind of correlation.
    representative : {"medoid", "auc"}
        The column that is most alike to the others of its cluster on average, or the one whose own AUC lies furthest
        from one half (then the outcome is looked at).

    Attributes
    ----------
    clusters_ : ndarray of int, shape (p,)
        Cluster of each column, from 0 in the order of their first columns.
    """

    def __init__(
        self,
        threshold: float = MAX_CORRELATION,
        *,
        method: Literal["spearman", "pearson"] = "spearman",
        representative: Literal["medoid", "auc"] = "medoid",
    ) -> None:
        self.threshold = threshold
        self.method = method
        self.representative = representative

    def _keep(self, X: np.ndarray, y: Any) -> np.ndarray:
        check_fraction("threshold", self.threshold)
        if self.method not in CORRELATIONS:
            raise unknown_name("correlation", self.method, CORRELATIONS)
        if self.representative not in REPRESENTATIVES:
            raise unknown_name("representative", self.representative, REPRESENTATIVES)
        alike = np.abs(correlation_matrix(stats.rankdata(X, axis=0) if self.method == "spearman" else X))
        self.clusters_ = _complete_linkage(alike, self.threshold)
        if self.representative == "auc":
            strength = np.abs(univariate_auc(X, check_binary(y, len(X))) - 0.5)
        else:
            members = self.clusters_[:, None] == self.clusters_[None, :]
            strength = (alike * members).sum(axis=1)
        order = np.argsort(-strength, kind="stable")
        _, first = np.unique(self.clusters_[order], return_index=True)
        return mask_of(order[first], X.shape[1])


class ICCFilter(BaseFilter):
    """Keep columns that repeated measurements agree on.

    The intraclass correlations are computed elsewhere, from repeated segmentations, readers, scans or perturbations,
    for example by ``hybrid.analysis.reliability.icc``. They do not depend on the outcome; compute them from patients
    outside the test set, or from a separate cohort, so that not even this is learnt from test patients.

    Parameters
    ----------
    icc : mapping of str to float, Series, or DataFrame
        Intraclass correlation by column; a DataFrame has the columns ``feature`` and ``statistic``, one row for each
        feature (choose one kind of ICC before).
    threshold : float
        Smallest value of a kept column. Columns with an undefined ICC (NaN) are dropped.
    statistic : str
        Column of a DataFrame: ``"icc"``, or ``"lower"`` to demand that the interval lies above the threshold.
    missing : {"error", "drop"}
        What to do with columns that are not in the table.
    """

    def __init__(
        self,
        icc: Mapping[str, float] | pd.Series | pd.DataFrame | None = None,
        threshold: float = MIN_ICC,
        *,
        statistic: str = "icc",
        missing: Literal["error", "drop"] = "error",
    ) -> None:
        self.icc = icc
        self.threshold = threshold
        self.statistic = statistic
        self.missing = missing

    def _keep(self, X: np.ndarray, y: Any) -> np.ndarray:
        if not -1 <= self.threshold <= 1:
            raise InputError(f"threshold must lie between -1 and 1; found {self.threshold!r}.", advice="Try 0.75.")
        if self.missing not in MISSING_ICC:
            raise unknown_name("rule for columns without ICC", self.missing, MISSING_ICC)
        if not hasattr(self, "feature_names_in_"):
            raise InputError(
                "Choosing columns by their ICC needs a DataFrame; found an array without names.",
                advice='Call set_output(transform="pandas") on the steps before it.',
            )
        known = self._by_feature()
        absent = [name for name in self.feature_names_in_ if name not in known.index]
        if absent and self.missing == "error":
            raise InputError(
                f"{len(absent)} columns have no ICC; the first is {absent[0]!r}.",
                advice='Measure them again, leave them out, or pass missing="drop".',
            )
        keep = (known.reindex(self.feature_names_in_) >= self.threshold).to_numpy()
        if not keep.any():
            raise InputError(
                f"No column has an ICC of {self.threshold} or more; the largest is {known.max():.3f}.",
                advice="Such features should not be modelled; look at how the measurements differ.",
            )
        return keep

    def _by_feature(self) -> pd.Series:
        if self.icc is None:
            raise InputError("A filter by ICC needs the table of ICCs.", advice="Pass icc={column: value}.")
        values = self.icc
        if isinstance(values, pd.DataFrame):
            for column in ("feature", self.statistic):
                if column not in values:
                    raise unknown_name("column of the ICC table:", column, values.columns)
            values = values.set_index("feature")[self.statistic]
        series = pd.Series(values, dtype=np.float64)
        if series.index.has_duplicates:
            raise InputError(
                f"The ICC table has {series.index[series.index.duplicated()][0]!r} twice.",
                advice="Choose one kind of ICC, for example kinds=['ICC(2,1)'].",
            )
        return series


class RepeatFilter(BaseFilter):
    """Keep columns that a second measurement of the training patients agrees on, by ICC(2,1).

    For a table that holds features twice, for example from a reference mask and from a predicted one: the second
    measurement of ``name`` is the column ``name__repeat``. Repeats are compared and then dropped. Unlike
    :class:`ICCFilter` the agreement is measured inside the fold. Columns without a repeat are kept.

    Parameters
    ----------
    threshold : float
        Smallest ICC of a kept column; the one with the largest is kept when all are below.

    Attributes
    ----------
    icc_ : dict of str to float
        ICC of every column with a repeat, in the training rows.
    """

    def __init__(self, threshold: float = MIN_ICC) -> None:
        self.threshold = threshold

    def __sklearn_tags__(self) -> Any:
        """Missing values are welcome: imputation comes after this filter."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    def fit(self, X: Any, y: Any = None) -> RepeatFilter:
        """Measure the agreement; rows that lack one of the two measurements do not count."""
        values = validate_data(self, X, dtype=np.float64, ensure_all_finite=False)
        if not hasattr(self, "feature_names_in_"):
            raise InputError(
                "Finding repeated measurements needs a DataFrame; found an array without names.",
                advice="Make this filter the first step of a pipeline that is fitted on a DataFrame.",
            )
        place = {name: i for i, name in enumerate(self.feature_names_in_)}
        pairs = {name: place.get(f"{name}{REPEAT_SUFFIX}") for name in place if not name.endswith(REPEAT_SUFFIX)}
        twice = [name for name, second in pairs.items() if second is not None]
        found = agreement(
            values[:, [place[n] for n in twice]], values[:, [place[f"{n}{REPEAT_SUFFIX}"] for n in twice]]
        )
        self.icc_ = dict(zip(twice, found.tolist(), strict=True))
        keep = mask_of([place[name] for name, second in pairs.items() if second is None], values.shape[1])
        for name, value in self.icc_.items():
            keep[place[name]] = value >= self.threshold
        if not keep.any():
            keep[place[max(self.icc_, key=lambda name: np.nan_to_num(self.icc_[name], nan=-1.0))]] = True
        self.support_ = keep
        return self


def agreement(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """ICC(2,1), absolute agreement of two measurements, of every column.

    Parameters
    ----------
    first, second : ndarray of shape (n, p)
        The measurements; rows where one is missing (NaN) are left out of that column.

    Returns
    -------
    ndarray of shape (p,)
        NaN for constant columns and fewer than two complete rows. Intervals and other kinds:
        ``hybrid.analysis.icc``.

    References
    ----------
    Shrout and Fleiss 1979, doi:10.1037/0033-2909.86.2.420.
    """
    both = np.where(np.isfinite(first) & np.isfinite(second), np.stack([first, second]), np.nan)
    n = np.isfinite(both[0]).sum(axis=0).astype(np.float64)
    with warnings.catch_warnings(), np.errstate(invalid="ignore", divide="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)
        grand = np.nanmean(both, axis=(0, 1))
        subjects = 2 * np.nansum((both.mean(axis=0) - grand) ** 2, axis=0) / (n - 1)
        raters = n * np.nansum((np.nanmean(both, axis=1) - grand) ** 2, axis=0)
        total = np.nansum((both - grand) ** 2, axis=(0, 1))
        error = np.maximum(total - subjects * (n - 1) - raters, 0) / (n - 1)
        value = (subjects - error) / (subjects + error + 2 * (raters - error) / n)
    flat = total <= 1e-20 * n * np.maximum(grand**2, 1e-300)
    return np.where((n < 2) | flat, np.nan, value)


def correlation_matrix(X: np.ndarray) -> np.ndarray:
    """Pearson correlations of columns, shape (p, p); 0 with a constant column."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.nan_to_num(np.corrcoef(X, rowvar=False).reshape(X.shape[1], -1))


def _complete_linkage(alike: np.ndarray, threshold: float) -> np.ndarray:
    """Clusters in which every pair is at least so alike, numbered by their first columns."""
    p = len(alike)
    if p == 1:
        return np.zeros(1, dtype=np.intp)
    distances = np.clip(1 - alike[np.triu_indices(p, 1)], 0, 1)
    # Rounding of 1 - |r| must not part two columns that correlate by exactly the threshold.
    found = hierarchy.fcluster(hierarchy.complete(distances), 1 - threshold + 1e-12, criterion="distance")
    _, first, inverse = np.unique(found, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]


def mask_of(chosen: np.ndarray | Sequence[int], n: int) -> np.ndarray:
    """Boolean mask of n columns from the positions of the chosen ones."""
    keep = np.zeros(n, bool)
    keep[chosen] = True
    return keep


def at_least_one(keep: np.ndarray, strength: np.ndarray) -> np.ndarray:
    """Return the mask, or the strongest column alone (the first of equals) when the mask is empty."""
    return keep if keep.any() else mask_of([int(np.argmax(strength))], len(keep))


def check_count(name: str, value: Any, *, smallest: int = 1, optional: bool = False) -> None:
    """Raise when a setting is not a whole number, or too small (None may be allowed)."""
    if optional and value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < smallest:
        raise InputError(
            f"{name} must be a whole number of {smallest} or more; found {value!r}.", advice="Choose how many."
        )


def check_fraction(name: str, value: Any) -> None:
    """Raise when a setting is not a number in (0, 1]."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not 0 < value <= 1:
        raise InputError(f"{name} must lie above 0 and not above 1; found {value!r}.", advice="Try 0.9.")


def check_classes(y: Any, n: int, *, smallest: int = 1) -> np.ndarray:
    """Outcome as whole numbers from 0, one for each class.

    Parameters
    ----------
    y : array-like of shape (n,)
        Classes: numbers, text, or bool.
    n : int
        Rows of the features.
    smallest : int
        Least number of rows of a class.

    Raises
    ------
    InputError
        For no outcome, a wrong length, missing values, one class only, or a class that is too small.
    """
    if y is None:
        raise InputError("This selection looks at the outcome, and none was given.", advice="Pass y to fit.")
    outcome = np.asarray(y)
    if outcome.shape != (n,):
        raise InputError(f"Expected {n} outcomes; found shape {outcome.shape}.", advice="Pass one for each row.")
    if pd.isna(outcome).any():
        raise InputError("Outcomes are missing.", advice="Leave these patients out.")
    classes, codes, counts = np.unique(outcome, return_inverse=True, return_counts=True)
    if len(classes) < 2:
        raise InputError("The outcome has one class only.", advice="Selection needs patients of both classes.")
    if counts.min() < smallest:
        raise InputError(
            f"This selection needs {smallest} or more patients of each class; class '{classes[counts.argmin()]}' has "
            f"{counts.min()}.",
            advice="Choose a selection without internal folds, such as 'top'.",
        )
    return codes


def check_binary(y: Any, n: int) -> np.ndarray:
    """Outcome as 0 and 1.

    Raises
    ------
    InputError
        As :func:`check_classes`, and for outcomes other than 0 and 1.
    """
    check_classes(y, n)
    outcome = np.asarray(y)
    if not np.isin(outcome, (0, 1)).all():
        raise InputError(
            f"Outcomes must be 0 or 1; found {outcome[~np.isin(outcome, (0, 1))][0]}.",
            advice="Code the positive class as 1.",
        )
    return outcome.astype(np.intp)
