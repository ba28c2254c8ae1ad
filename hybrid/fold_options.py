"""Options of what is fitted inside a fold: a named selector, harmonisation of batches, weights of the classes.

All are off by default. They are resolved here once, so that cross-validation, resampling and frozen models do the same,
and :func:`fold_facts` tells the run record what was done.
"""

from __future__ import annotations

import inspect
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.validation import check_is_fitted, has_fit_parameter

from .errors import InputError, unknown_name
from .harmonisation import UNSEEN, ComBat
from .selection import MAX_CORRELATION, MAX_FEATURES
from .selection_methods import SELECTORS, make_selector

BATCH_COLUMN: Final = "batch_to_harmonise"
"""Column of a joined table that names the batch of each row; never a feature."""

SMALLEST_BATCH: Final = 2
"""Training rows that a batch needs: ComBat estimates its variance."""

IMBALANCE: Final = ("class_weight",)
"""What may be done about classes of unequal size."""

NEEDS_TABLE: Final = ("icc",)
"""Selectors that need a table besides the features, which a study cannot name."""

OWN_CORRELATION_STEP: Final = ("correlation_clusters",)
"""Selectors that deal with correlated columns themselves: no filter of correlated columns stands before them."""


def check_fold_options(selector: str | None, unseen_batch: str, imbalance: str | None) -> None:
    """Raise when an option is unknown; the nearest valid one is named.

    Raises
    ------
    InputError
        For an unknown selector, rule or way to weigh, and for a selector that needs a table of its own.
    """
    usable = [name for name in SELECTORS if name not in NEEDS_TABLE]
    if selector in NEEDS_TABLE:
        raise InputError(
            f"The selector {selector!r} needs a table of its own, which a study does not have.",
            advice="Leave features with a low ICC out of the feature table before, or choose another selector.",
        )
    if selector is not None and selector not in usable:
        raise unknown_name("selector", selector, usable)
    if unseen_batch not in UNSEEN:
        raise unknown_name("rule for unseen batches", unseen_batch, UNSEEN)
    if imbalance is not None and imbalance not in IMBALANCE:
        raise unknown_name("handling of imbalance", imbalance, IMBALANCE)


def has_limit(selector: str) -> bool:
    """Whether a selector has a parameter ``k``: how many columns are kept at most."""
    return "k" in inspect.signature(SELECTORS[selector]).parameters


def fold_selector(
    selector: str, *, max_correlation: float = MAX_CORRELATION, max_features: int = MAX_FEATURES, seed: int = 0
) -> BaseEstimator:
    """Build the selector of a fold, unfitted.

    Parameters
    ----------
    selector : str
        Name in :data:`~hybrid.selection_methods.SELECTORS`.
    max_correlation : float
        Of :data:`OWN_CORRELATION_STEP`.
    max_features : int
        Columns that are kept at most, by selectors that have such a limit.
    seed : int
        Of selectors that draw at random.
    """
    options: dict[str, Any] = {"k": max_features} if has_limit(selector) else {}
    if selector in OWN_CORRELATION_STEP:
        options["threshold"] = max_correlation
    return make_selector(selector, seed=seed, **options)


class BatchHarmoniser(TransformerMixin, BaseEstimator):
    """ComBat for a fold of a small cohort: says what happens to batches that cannot be adjusted.

    ComBat (:class:`hybrid.harmonisation.ComBat`) is fitted without covariates on training rows of batches with
    :data:`SMALLEST_BATCH` rows or more. A row of any other batch (unseen, or too small in this training set) is left as
    it is, or refused. Features that are constant within a batch, or known for fewer than two of its rows, are left as
    they are; so is a block in which fewer than two features (or batches) remain, because ComBat shrinks over features,
    and a training set in which every batch has one outcome only.

    Parameters
    ----------
    batch : str
        Column that names the batch.
    unseen : {"unadjusted", "error"}
        Rule for rows of batches that cannot be adjusted.

    Attributes
    ----------
    features_ : list of str
        Columns of the result: all but the batch.
    batches_ : list
        Batches that are adjusted.
    harmonised_ : list of str
        Features that are adjusted; empty when nothing can be.
    combat_ : ComBat or None
        Fitted.
    """

    def __init__(self, batch: str = BATCH_COLUMN, *, unseen: str = "unadjusted") -> None:
        self.batch = batch
        self.unseen = unseen

    def fit(self, X: pd.DataFrame, y: ArrayLike | None = None) -> BatchHarmoniser:
        """Estimate the batch effects on training rows.

        Parameters
        ----------
        X : DataFrame of shape (n, columns)
            Batch and numeric features.
        y : array-like of shape (n,), optional
            Outcome; it never shapes the adjustment. Where every batch has one outcome only (by chance, in a small
            training set), harmonisation would remove the outcome too: such a training set is left as it is.

        Raises
        ------
        InputError
            With ``unseen="error"``, for batches that are too small or that tell the outcome.
        """
        if self.unseen not in UNSEEN:
            raise unknown_name("rule for unseen batches", self.unseen, UNSEEN)
        self.features_ = [column for column in X.columns if column != self.batch]
        sizes = X[self.batch].value_counts()
        self.batches_ = sorted(sizes.index[sizes >= SMALLEST_BATCH], key=str)
        small = sorted(set(sizes.index) - set(self.batches_), key=str)
        if small and self.unseen == "error":
            raise InputError(
                f"Batch {small[0]!r} has {sizes[small[0]]} of {len(X)} training rows; {SMALLEST_BATCH} are needed.",
                advice='Join small batches, or choose unseen_batch="unadjusted".',
            )
        rows = X[self.batch].isin(self.batches_).to_numpy()
        outcome = None if y is None else np.asarray(y)[rows]
        is_possible = len(self.batches_) > 1 and (
            self.unseen == "error" or not _tells(X.loc[rows, self.batch], outcome)
        )
        self.harmonised_ = self._adjustable(X[rows]) if is_possible else []
        self.combat_ = None
        if len(self.harmonised_) < 2:
            self.harmonised_ = []
        else:
            self.combat_ = ComBat(self.batch).fit(X.loc[rows, [self.batch, *self.harmonised_]], outcome)
        return self

    def _adjustable(self, X: pd.DataFrame) -> list[str]:
        """Features with two or more different values in every batch."""
        groups = X.groupby(self.batch, observed=True)[self.features_]
        varies = (groups.max() > groups.min()).all()
        return [column for column in self.features_ if varies[column]]

    def transform(self, X: pd.DataFrame) -> pd.DataFrame:
        """Adjust the rows of known batches.

        Returns
        -------
        DataFrame of shape (n, n_features)
            Columns :attr:`features_`.

        Raises
        ------
        InputError
            With ``unseen="error"``, for rows of a batch that cannot be adjusted.
        """
        check_is_fitted(self, "features_")
        known = X[self.batch].isin(self.batches_).to_numpy()
        if self.unseen == "error" and not known.all():
            names = sorted(X.loc[~known, self.batch].unique(), key=str)
            raise InputError(
                f"{int((~known).sum())} rows come from batch {names[0]!r}, which the training rows do not have.",
                advice='Join small batches, or choose unseen_batch="unadjusted", which leaves such rows as they are.',
            )
        values = X[self.features_].astype(np.float64)
        if self.combat_ is None or not known.any():
            return values
        positions = [self.features_.index(column) for column in self.harmonised_]
        adjusted = values.to_numpy(copy=True)
        rows = self.combat_.transform(X.loc[known, [self.batch, *self.harmonised_]])
        adjusted[np.ix_(known, positions)] = rows.to_numpy()
        return pd.DataFrame(adjusted, index=X.index, columns=self.features_)

    def is_adjusted(self, X: pd.DataFrame) -> NDArray[np.bool_]:
        """Whether each row is adjusted, shape (n,)."""
        check_is_fitted(self, "features_")
        return X[self.batch].isin(self.batches_ if self.combat_ is not None else []).to_numpy()

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:
        """Names of the columns of the result."""
        check_is_fitted(self, "features_")
        return np.asarray(self.features_, dtype=object)


def _tells(batches: pd.Series, outcome: NDArray[Any] | None) -> bool:
    """Whether every batch has one outcome only."""
    return outcome is not None and bool((pd.Series(outcome).groupby(batches.to_numpy()).nunique() == 1).all())


def fit_estimator(estimator: BaseEstimator, X: np.ndarray, y: np.ndarray, imbalance: str | None = None) -> Any:
    """Fit an estimator, with classes weighted inversely to their size when asked for.

    Parameters
    ----------
    estimator : estimator
        Unfitted.
    X, y : ndarray of shape (n, p) and (n,)
        Training rows.
    imbalance : None or "class_weight"
        ``"class_weight"`` gives each class the same total weight: by ``sample_weight``, or by equal ``priors`` where an
        estimator has those instead (linear discriminant analysis).

    Returns
    -------
    estimator
        Fitted.

    Raises
    ------
    InputError
        When the estimator can weigh neither.
    """
    if imbalance is None:
        return estimator.fit(X, y)
    how = _weighting(estimator)
    if how == "priors":
        return estimator.set_params(priors=[0.5, 0.5]).fit(X, y)
    return estimator.fit(X, y, sample_weight=compute_sample_weight("balanced", y))


def check_weights(name: str, estimator: BaseEstimator, imbalance: str | None) -> None:
    """Raise before any work when a classifier cannot weigh classes.

    Raises
    ------
    InputError
        When classes are to be weighted and the estimator cannot.
    """
    if imbalance is not None and not _weighting(estimator):
        raise InputError(
            f"The classifier {name!r} cannot weigh classes.",
            advice="Leave it out of the classifiers, or choose no handling of imbalance.",
        )


def _weighting(estimator: BaseEstimator) -> str:
    if has_fit_parameter(estimator, "sample_weight"):
        return "sample_weight"
    return "priors" if "priors" in estimator.get_params() else ""


def fold_facts(
    *,
    selector: str | None = None,
    harmonise: str | None = None,
    unseen_batch: str = "unadjusted",
    imbalance: str | None = None,
    max_correlation: float = MAX_CORRELATION,
    max_features: int = MAX_FEATURES,
) -> dict[str, Any]:
    """Describe what is fitted inside each fold, as plain data for the run record.

    Returns
    -------
    dict
        ``imputation``, ``scaling``, ``selection`` (``max_correlation`` and ``max_features`` are None where they do not
        apply), ``harmonisation`` (None when there is none) and ``imbalance``.
    """
    name = selector or "top"
    combat: dict[str, Any] = {
        "method": "ComBat", "batch": harmonise, "covariates": [], "unseen_batch": unseen_batch,
        "smallest_batch": SMALLEST_BATCH,
    }  # fmt: skip
    return {
        "imputation": "median of the training patients",
        "scaling": "mean and standard deviation of the training patients",
        "selection": {
            "selector": name,
            "max_correlation": max_correlation,
            "is_filtered_before": name not in OWN_CORRELATION_STEP,
            "max_features": max_features if has_limit(name) else None,
        },
        "harmonisation": combat if harmonise else None,
        "imbalance": imbalance,
    }
