"""ComBat inside a fold: location and scale of scanners or sites, learnt from training patients only.

The model is that of Johnson, Li and Rabinovic 2007 (doi:10.1093/biostatistics/kxj037): a feature of patient j at site i
is ``alpha + x_j beta + gamma_i + delta_i e_ij``. The shifts gamma and scales delta of a site are shrunk towards their
distribution over all features, which is what makes sites with few patients usable. Results equal those of ``ComBat`` of
the R package sva, which is fitted and applied to the same rows; here the two are apart, so that test patients never
shape the adjustment (on rows that it was not fitted on, ComBat is an extrapolation, and less exact the fewer patients a
site has).

**A site that training patients do not have** is refused by default. ``unseen="unadjusted"`` leaves its values as they
are, which is the pooled scale with neither shift nor scale of a site, logs a warning, and :meth:`ComBat.is_adjusted`
flags the rows.

**The outcome is never a covariate**: it is unknown for the patient to be predicted, and with it the adjusted features
would carry the answer. Covariates are what is known before: age, sex, slice thickness. When the outcome is much more
frequent at one site, ComBat removes signal together with the site effect; no setting repairs that.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Sequence
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from pandas.api.types import is_bool_dtype, is_numeric_dtype
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from .errors import InputError, unknown_name
from .tables import CLINICAL_PREFIX, require_columns

logger = logging.getLogger(__name__)

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

UNSEEN: Final = ("error", "unadjusted")
"""What may be done with a batch that was not there when ComBat was fitted."""

OUTCOME_NAMES: Final = ("outcome", "y", "y_true", "y_prob", "label", "target")
"""Names of columns that can never be a covariate, with or without the prefix of clinical columns."""

TOLERANCE: Final = 1e-10
"""The empirical Bayes estimates have converged when none changes by more than this, relative to its scale.

The R package stops at 1e-4; the adjusted values then differ by about 1e-6 of a feature's standard deviation.
"""

MAX_ITERATIONS: Final = 10_000


class ComBat(TransformerMixin, BaseEstimator):
    """Harmonise features of several batches (scanners, sites), fitted on training rows only.

    Parameters
    ----------
    batch : str
        Column that names the batch of each row.
    covariates : sequence of str
        Columns whose effect on the features is kept: numeric ones enter linearly, all others (text, categories, bool)
        as groups. They have to be known for new patients; the outcome is refused.
    parametric : bool
        Normal and inverse gamma distributions of the batch effects over features; otherwise their empirical
        distribution (Johnson 2007, section 3.2 and supplement).
    mean_only : bool
        Adjust shifts and leave scales. As in sva, the shift is then shrunk as if it came from one patient.
    reference : hashable, optional
        Batch that stays as it is; the others are brought to its mean and scale. Default: the mean of all batches,
        weighted by their rows.
    unseen : {"error", "unadjusted"}
        Rule for rows of a batch that training rows do not have, see the module.

    Attributes
    ----------
    features_ : list of str
        Columns that are harmonised: all but the batch and the covariates, which are not in the result.
    batches_ : list
        Batches of the training rows.
    n_rows_ : ndarray of shape (n_batches,)
        Training rows of each.
    gamma_, delta_ : ndarray of shape (n_batches, n_features)
        Shift and variance of each batch, in standard deviations of a feature.
    mean_, scale_ : ndarray of shape (n_features,)
        Pooled mean (at the mean of numeric covariates and the first group of others), and standard deviation within
        batches.
    unadjusted_ : list of str
        Features that are left as they are, because they are constant within a batch (as in sva) or fully explained by
        the covariates.

    Notes
    -----
    Missing values (NaN) are left out of the estimates and stay missing. The pooled variance is always divided by the
    number of values of its feature; sva divides by one less, for all features, as soon as one value is missing.

    Examples
    --------
    >>> table = pd.DataFrame({"site": list("aaabbb"), "f": [1., 2, 3, 11, 12, 13.5], "g": [4., 6, 5, 8, 9.5, 7]})
    >>> ComBat("site").fit_transform(table).groupby(table["site"]).mean().round(1)["f"].to_list()
    [7.0, 7.2]
    """

    def __init__(
        self,
        batch: str = "site",
        *,
        covariates: Sequence[str] = (),
        parametric: bool = True,
        mean_only: bool = False,
        reference: Hashable | None = None,
        unseen: Literal["error", "unadjusted"] = "error",
    ) -> None:
        self.batch = batch
        self.covariates = covariates
        self.parametric = parametric
        self.mean_only = mean_only
        self.reference = reference
        self.unseen = unseen

    def fit(self, X: pd.DataFrame, y: ArrayLike | None = None) -> ComBat:
        """Estimate the batch effects.

        Parameters
        ----------
        X : DataFrame of shape (n, columns)
            Training rows: batch, covariates, and two or more numeric features.
        y : array-like of shape (n,), optional
            Outcome. Never used to adjust: only to refuse covariates and batches that tell it.

        Raises
        ------
        InputError
            For absent columns, features that are not numbers, fewer than two batches, a batch with too few rows,
            covariates that are confounded with the batch, or an outcome among the covariates.
        """
        self._check_settings(X)
        if y is not None:
            _refuse_outcome(X, self.batch, list(self.covariates), y)
        values = self._values(X)
        labels = self._labels(X)
        self.batches_ = sorted(set(labels), key=str)
        codes = self._codes(labels)
        self.n_rows_ = np.bincount(codes, minlength=len(self.batches_))
        self._check_batches(values, codes)
        self._coding = _CovariateCoding(X, list(self.covariates))
        covariates = self._coding.encode(X)
        design = np.column_stack([codes[:, None] == np.arange(len(self.batches_)), covariates])
        self._check_design(design)
        self._standardise(values, design, codes)
        self._shrink((values - self._expected(covariates)) / self.scale_, codes)
        return self

    def transform(self, X: pd.DataFrame) -> pd.DataFrame:
        """Adjust the features of a table; each row on its own, so that other rows do not matter.

        Parameters
        ----------
        X : DataFrame of shape (n, columns)
            With the columns of the training table, in any order.

        Returns
        -------
        DataFrame of shape (n, n_features)
            Columns :attr:`features_`, in the units of the input; the index is kept.

        Raises
        ------
        InputError
            For absent columns, a category that training rows did not have, or an unseen batch (see ``unseen``).
        """
        seen = self.is_adjusted(X)
        values, labels = self._values(X), self._labels(X)
        if not seen.all():
            self._report_unseen([label for label, known in zip(labels, seen, strict=True) if not known])
        codes = self._codes(labels)
        expected = self._expected(self._coding.encode(X))
        standardised = (values - expected) / self.scale_
        adjusted = (standardised - self.gamma_[codes]) / np.sqrt(self.delta_[codes]) * self.scale_ + expected
        untouched = ~seen | np.asarray([label == self.reference for label in labels], dtype=bool)
        adjusted[untouched] = values[untouched]
        left = np.isin(self.features_, self.unadjusted_)
        adjusted[:, left] = values[:, left]
        return pd.DataFrame(adjusted, index=X.index, columns=self.features_)

    def is_adjusted(self, X: pd.DataFrame) -> BoolArray:
        """Whether each row comes from a batch that was there when ComBat was fitted, shape (n,)."""
        check_is_fitted(self, "gamma_")
        require_columns(_table(X), [self.batch, *self.covariates, *self.features_], "feature")
        return np.asarray([label in self.batches_ for label in self._labels(X)], dtype=bool)

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:
        """Names of the harmonised columns."""
        check_is_fitted(self, "features_")
        return np.asarray(self.features_, dtype=object)

    def _check_settings(self, X: pd.DataFrame) -> None:
        if self.unseen not in UNSEEN:
            raise unknown_name("rule for unseen batches", self.unseen, UNSEEN)
        if isinstance(self.covariates, str):
            raise InputError(
                f"Covariates must be a list of columns; found the text {self.covariates!r}.",
                advice=f"Write covariates=[{self.covariates!r}].",
            )
        for name in self.covariates:
            if name.removeprefix(CLINICAL_PREFIX).lower() in OUTCOME_NAMES:
                raise _outcome_error(name)
        require_columns(_table(X), [self.batch, *self.covariates], "feature")
        if X.columns.has_duplicates:
            raise InputError(f"Column {X.columns[X.columns.duplicated()][0]!r} is there twice.", advice="Rename one.")
        self.features_ = [column for column in X.columns if column not in (self.batch, *self.covariates)]
        if len(self.features_) < 2:
            raise InputError(
                f"ComBat shrinks batch effects over features and needs two or more; found {len(self.features_)}.",
                advice="Harmonise all features of a modality together.",
            )

    def _values(self, X: pd.DataFrame) -> FloatArray:
        for column in self.features_:
            if not is_numeric_dtype(X[column]):
                raise InputError(
                    f"Feature {column!r} must hold numbers; found {X[column].dtype}.",
                    advice="Name columns that are no features as batch or covariates, or leave them out.",
                )
        values = X[self.features_].to_numpy(dtype=np.float64)
        if np.isinf(values).any():
            column = self.features_[int(np.flatnonzero(np.isinf(values).any(axis=0))[0])]
            raise InputError(f"Feature {column!r} is infinite.", advice="Repair it, or set it to missing.")
        return values

    def _labels(self, X: pd.DataFrame) -> list[Any]:
        missing = int(X[self.batch].isna().sum())
        if missing:
            raise InputError(
                f"Column {self.batch!r} must name the batch of every row; {missing} of {len(X)} are missing.",
                advice="Look the scanner or site up, or leave these rows out.",
            )
        return X[self.batch].tolist()

    def _codes(self, labels: list[Any]) -> NDArray[np.intp]:
        position = {label: i for i, label in enumerate(self.batches_)}
        return np.asarray([position.get(label, 0) for label in labels], dtype=np.intp)

    def _check_batches(self, values: FloatArray, codes: NDArray[np.intp]) -> None:
        if len(self.batches_) < 2:
            raise InputError(
                f"ComBat needs two or more batches; column {self.batch!r} has {len(self.batches_)}.",
                advice="Leave harmonisation out.",
            )
        if self.reference is not None and self.reference not in self.batches_:
            raise unknown_name("reference batch", self.reference, self.batches_)
        needed = 1 if self.mean_only else 2
        for i, batch in enumerate(self.batches_):
            known = np.isfinite(values[codes == i]).sum(axis=0)
            if known.min() < needed:
                column = self.features_[int(known.argmin())]
                raise InputError(
                    f"Batch {batch!r} needs {needed} or more training rows with a value of {column!r}; "
                    f"found {known.min()}.",
                    advice="Join small batches, or leave them out"
                    + ("." if self.mean_only else "; mean_only=True works with one row."),
                )

    def _check_design(self, design: FloatArray) -> None:
        rows, columns = design.shape
        if np.linalg.matrix_rank(design) < columns:
            raise InputError(
                f"Covariates {', '.join(map(repr, self.covariates))} are confounded with the batch or with each other.",
                advice="Leave a covariate out that one batch, or the other covariates, determine.",
            )
        if rows <= columns:
            raise InputError(
                f"{rows} training rows cannot determine {columns} effects of batches and covariates.",
                advice="Use fewer covariates, or join batches.",
            )

    def _standardise(self, values: FloatArray, design: FloatArray, codes: NDArray[np.intp]) -> None:
        """Pooled mean, covariate effects and standard deviation of each feature (Johnson 2007, section 3.1)."""
        effects = _least_squares(values, design, self.features_)
        n_batches = len(self.batches_)
        rows = np.ones(len(values), dtype=bool)
        weights = self.n_rows_ / self.n_rows_.sum()
        if self.reference is not None:
            weights = np.asarray([batch == self.reference for batch in self.batches_], dtype=np.float64)
            rows = weights[codes] == 1
        self.mean_ = weights @ effects[:n_batches]
        self._slopes = effects[n_batches:]
        residuals = (values - design @ effects)[rows]
        scale = np.sqrt(np.nanmean(residuals**2, axis=0))
        spread = np.nanmax(values, axis=0) - np.nanmin(values, axis=0)
        fixed = scale <= 1e-12 * np.maximum(spread, np.abs(self.mean_))
        for i in range(n_batches):
            if self.n_rows_[i] > 1:
                fixed |= np.nanmax(values[codes == i], axis=0) == np.nanmin(values[codes == i], axis=0)
        if (~fixed).sum() < 2:
            raise InputError(
                "ComBat needs two or more features that vary within every batch; "
                f"found {(~fixed).sum()} of {len(fixed)}.",
                advice="Leave constant features out, or join small batches.",
            )
        self.unadjusted_ = [name for name, is_fixed in zip(self.features_, fixed, strict=True) if is_fixed]
        self.scale_ = np.where(fixed, 1.0, scale)

    def _expected(self, covariates: FloatArray) -> FloatArray:
        """Compute what a row would be without its batch, shape (n, n_features)."""
        # One covariate after the other: a matrix product may round a row alone otherwise than among others.
        expected = np.repeat(self.mean_[None], len(covariates), axis=0)
        for column, slopes in zip(covariates.T, self._slopes, strict=True):
            expected = expected + column[:, None] * slopes
        return expected

    def _shrink(self, standardised: FloatArray, codes: NDArray[np.intp]) -> None:
        """Empirical Bayes estimates of every batch (Johnson 2007, section 3.2)."""
        self.gamma_ = np.zeros((len(self.batches_), standardised.shape[1]))
        self.delta_ = np.ones_like(self.gamma_)
        varying = ~np.isin(self.features_, self.unadjusted_)
        for i, batch in enumerate(self.batches_):
            if batch == self.reference:
                continue
            rows = standardised[codes == i][:, varying]
            counts = np.isfinite(rows).sum(axis=0).astype(np.float64)
            means = np.nanmean(rows, axis=0)
            variances = np.ones_like(means) if self.mean_only else np.nanvar(rows, axis=0, ddof=1)
            if not self.parametric:
                shrunk = shrink_nonparametric(means, variances, counts)
            elif self.mean_only:
                shrunk = shrink_means(means), variances
            else:
                shrunk = shrink_parametric(means, variances, counts)
            self.gamma_[i, varying], self.delta_[i, varying] = shrunk

    def _report_unseen(self, labels: list[Any]) -> None:
        names = ", ".join(sorted({repr(label) for label in labels}))
        fitted = ", ".join(map(repr, self.batches_))
        if self.unseen == "error":
            raise InputError(
                f"ComBat was fitted on batches {fitted}; found {len(labels)} rows of {names}.",
                advice='Pass unseen="unadjusted" to leave such rows as they are, and report how many there are.',
            )
        logger.warning("ComBat was fitted on batches %s: %d rows of %s are not adjusted.", fitted, len(labels), names)


class _CovariateCoding:
    """Columns of the design that stand for covariates: standardised numbers, and one indicator per further category."""

    def __init__(self, table: pd.DataFrame, names: list[str]) -> None:
        self.numeric: dict[str, tuple[float, float]] = {}
        self.levels: dict[str, list[Any]] = {}
        for name in names:
            column = self._complete(table, name)
            if is_numeric_dtype(column) and not is_bool_dtype(column):
                numbers = column.to_numpy(dtype=np.float64)
                self.numeric[name] = float(numbers.mean()), float(numbers.std())
            else:
                self.levels[name] = sorted(column.unique().tolist(), key=str)

    def encode(self, table: pd.DataFrame) -> FloatArray:
        """Shape (n, columns); covariates that did not vary in training rows have no column."""
        numbers = [
            (self._complete(table, name).to_numpy(dtype=np.float64) - mean) / spread
            for name, (mean, spread) in self.numeric.items()
            if spread > 1e-12 * max(abs(mean), 1e-300)
        ]
        return np.column_stack([np.empty((len(table), 0)), *numbers, self._indicators(table)])

    def _indicators(self, table: pd.DataFrame) -> FloatArray:
        columns = []
        for name, levels in self.levels.items():
            column = self._complete(table, name)
            new = sorted(set(column.tolist()) - set(levels), key=str)
            if new:
                raise InputError(
                    f"Covariate {name!r} has the category {new[0]!r}, which training rows do not have.",
                    advice="Join rare categories before, or leave the covariate out.",
                )
            columns += [(column == level).to_numpy(dtype=np.float64) for level in levels[1:]]
        return np.column_stack([np.empty((len(table), 0)), *columns])

    def _complete(self, table: pd.DataFrame, name: str) -> pd.Series:
        missing = int(table[name].isna().sum())
        if missing:
            raise InputError(
                f"Covariate {name!r} must be known for every row; {missing} of {len(table)} are missing.",
                advice="Impute it inside the fold before, or leave it out.",
            )
        return table[name]


def shrink_parametric(means: ArrayLike, variances: ArrayLike, counts: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Posterior shift and variance of one batch under normal and inverse gamma priors.

    The priors' parameters are moments over features; shift and variance are conditional posterior means of each other,
    iterated until both stand (Johnson et al. 2007, section 3.2, doi:10.1093/biostatistics/kxj037).

    Parameters
    ----------
    means, variances : array-like of shape (p,)
        Of the standardised features within the batch; variances with n - 1.
    counts : array-like of shape (p,)
        Rows behind them.

    Returns
    -------
    gamma, delta : ndarray of shape (p,)
        Shift and variance.
    """
    shift, variance, n = (np.asarray(item, dtype=np.float64) for item in (means, variances, counts))
    gamma_bar, tau2 = shift.mean(), shift.var(ddof=1)
    v_bar, v_spread = variance.mean(), variance.var(ddof=1)
    gamma, delta = shift, variance
    for _ in range(MAX_ITERATIONS):
        new_gamma = (n * tau2 * shift + delta * gamma_bar) / (n * tau2 + delta)
        squares = (n - 1) * variance + n * (shift - new_gamma) ** 2
        # (theta + squares / 2) / (n / 2 + lambda - 1), multiplied by the spread, so that a spread of 0 is allowed.
        new_delta = (v_bar * (v_spread + v_bar**2) + v_spread * squares / 2) / (v_spread * n / 2 + v_spread + v_bar**2)
        moved = max(np.abs(new_gamma - gamma).max(), np.abs(new_delta / delta - 1).max())
        gamma, delta = new_gamma, new_delta
        if moved < TOLERANCE:
            break
    return gamma, delta


def shrink_nonparametric(means: ArrayLike, variances: ArrayLike, counts: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Posterior shift and variance of one batch when their prior is the empirical distribution over features.

    For each feature the shifts and variances of all *other* features are averaged, weighted by the likelihood of the
    feature's own values (Johnson et al. 2007, supplement). The likelihood needs only mean, variance and count; it is
    computed on the log scale, so that large batches do not underflow.

    Parameters and returned values are those of :func:`shrink_parametric`.
    """
    shift, variance, n = (np.asarray(item, dtype=np.float64) for item in (means, variances, counts))
    own_squares = np.where(n > 1, (n - 1) * variance, 0.0)
    squares = own_squares[:, None] + n[:, None] * (shift[:, None] - shift[None, :]) ** 2
    log_weights = -0.5 * (n[:, None] * np.log(variance)[None, :] + squares / variance[None, :])
    np.fill_diagonal(log_weights, -np.inf)
    weights = np.exp(log_weights - log_weights.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    return weights @ shift, weights @ variance


def shrink_means(means: ArrayLike) -> FloatArray:
    """Posterior shift of one batch when scales are left alone, shrunk as if it came from one row (as in sva).

    Parameters
    ----------
    means : array-like of shape (p,)
        Of the standardised features within the batch.
    """
    shift = np.asarray(means, dtype=np.float64)
    tau2 = shift.var(ddof=1)
    return np.asarray((tau2 * shift + shift.mean()) / (tau2 + 1))


def _least_squares(values: FloatArray, design: FloatArray, names: Sequence[str]) -> FloatArray:
    """Coefficients of each feature on the rows where it is known, shape (design columns, features)."""
    missing = np.isnan(values).any(axis=0)
    effects = np.empty((design.shape[1], values.shape[1]))
    effects[:, ~missing] = np.linalg.lstsq(design, values[:, ~missing])[0]
    for column in np.flatnonzero(missing):
        known = np.isfinite(values[:, column])
        effects[:, column], _, rank, _ = np.linalg.lstsq(design[known], values[known, column])
        if rank < design.shape[1]:
            raise InputError(
                f"Feature {names[int(column)]!r} has too few values for the effects of batches and covariates.",
                advice="Leave it out, or impute it inside the fold before.",
            )
    return effects


def _table(X: Any) -> pd.DataFrame:
    if not isinstance(X, pd.DataFrame):
        raise InputError(
            f"ComBat needs a DataFrame with named columns; found {type(X).__name__}.",
            advice='Call set_output(transform="pandas") on the steps before it.',
        )
    return X


def _refuse_outcome(table: pd.DataFrame, batch: str, covariates: Sequence[str], y: ArrayLike) -> None:
    outcome = np.asarray(y)
    if outcome.shape != (len(table),):
        raise InputError(f"Expected {len(table)} outcomes; found shape {outcome.shape}.", advice="Pass one per row.")
    if _tells(table[batch], outcome):
        raise InputError(
            f"Every batch of {batch!r} has one outcome only: no adjustment can tell the two apart.",
            advice="Without patients of both outcomes in a batch, such data cannot answer the question.",
        )
    for name in covariates:
        if _tells(table[name], outcome):
            raise _outcome_error(name)


def _tells(column: pd.Series, outcome: NDArray[Any]) -> bool:
    """Whether a column of groups determines the outcome: each group has one, and groups hold three rows on average."""
    groups = pd.Series(outcome).groupby(column.to_numpy(), dropna=False, observed=True)
    repeated = 3 * groups.ngroups <= len(outcome)
    return bool(len(np.unique(outcome)) > 1 and repeated and (groups.nunique() == 1).all())


def _outcome_error(name: str) -> InputError:
    return InputError(
        f"Covariate {name!r} is the outcome, or tells it: adjusted features would carry the answer.",
        advice="Use covariates that are known before the outcome, or none.",
    )
