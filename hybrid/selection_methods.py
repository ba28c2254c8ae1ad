"""Selectors that rank columns or fit models, and all selectors by name.

Each is fitted on the training rows of a fold only, repeats itself for a given seed, and works with 15 rows and 1000
columns. Put one into a pipeline behind imputation::

    make_pipeline(SimpleImputer(), make_selector("mrmr_miq", k=10), StandardScaler(), LogisticRegression())

What a selection costs is that it must be repeated in every fold; what it risks is instability. Look at
``hybrid.analysis.reliability`` for how stable a selection is over folds before reading anything into the chosen names.
"""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable
from typing import Any, Final, Literal

import numpy as np
from scipy import stats
from scipy.spatial.distance import cdist
from sklearn.base import BaseEstimator
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_selection import RFE
from sklearn.linear_model import Lasso, LassoCV, LogisticRegression, LogisticRegressionCV
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler
from sklearn.svm import l1_min_c

from .errors import InputError, unknown_name
from .mrmr import MRMRSelector, f_statistic
from .selection import (
    MAX_FEATURES,
    BaseFilter,
    ConstantFilter,
    CorrelationClusterFilter,
    CorrelationFilter,
    ICCFilter,
    TopFilter,
    VarianceFilter,
    at_least_one,
    check_classes,
    check_count,
    check_fraction,
    mask_of,
)

LASSO_MODELS: Final = ("linear", "logistic")

MIN_SHADOWS: Final = 5
"""Fewest shadow columns of Boruta, as in the paper."""

N_PENALTIES: Final = 50
N_LOGISTIC_PENALTIES: Final = 20

Splits = list[tuple[np.ndarray, np.ndarray]]


class LassoSelector(BaseFilter):
    """Columns with a non-zero coefficient in a model with an L1 penalty, which is chosen by internal folds.

    Columns are standardised first. Internal folds are stratified by outcome, of single rows: when patients have several
    rows, the penalty is chosen a little too small, while the outer evaluation stays honest. Of nearly equal
    columns the lasso takes one, and which is a matter of chance: filter correlated columns before. For two classes.

    Parameters
    ----------
    model : {"linear", "logistic"}
        Least squares on the outcome coded 0 and 1 (Tibshirani 1996, doi:10.1111/j.2517-6161.1996.tb02080.x), which is
        fast; or a logistic model, whose penalty is that of the smallest log loss.
    k : int, optional
        Keep at most this many, those with the largest coefficients. Default: all that are not 0.
    folds : int
        Internal folds; lowered to the size of the smallest class, which must be 2 or more.
    one_standard_error : bool
        Take the largest penalty whose error lies within one standard error of the smallest: fewer columns (Hastie et
        al., The Elements of Statistical Learning, section 7.10).
    seed : int
        Of the internal folds.

    Attributes
    ----------
    coefficients_ : ndarray of shape (p,)
        Per standard deviation of a column.
    is_empty_ : bool
        Whether the model chose nothing, so that the column with the largest F statistic was kept instead.
    """

    def __init__(
        self,
        model: Literal["linear", "logistic"] = "linear",
        *,
        k: int | None = None,
        folds: int = 5,
        one_standard_error: bool = False,
        seed: int = 0,
    ) -> None:
        self.model = model
        self.k = k
        self.folds = folds
        self.one_standard_error = one_standard_error
        self.seed = seed

    def _keep(self, X: np.ndarray, y: Any) -> np.ndarray:
        check_count("k", self.k, optional=True)
        if self.model not in LASSO_MODELS:
            raise unknown_name("lasso model", self.model, LASSO_MODELS)
        check_count("folds", self.folds, smallest=2)
        codes = check_classes(y, len(X), smallest=2)
        if codes.max() > 1:
            raise InputError(f"The lasso is for two classes; found {codes.max() + 1}.", advice="Choose mRMR or RFE.")
        folds = min(self.folds, int(np.bincount(codes).min()))
        splits = list(StratifiedKFold(folds, shuffle=True, random_state=self.seed).split(X, codes))
        scaled = StandardScaler().fit_transform(X)
        fit = _linear_lasso if self.model == "linear" else _logistic_lasso
        self.coefficients_ = fit(scaled, codes, splits, self.one_standard_error)
        sizes = np.abs(self.coefficients_)
        self.is_empty_ = not sizes.any()
        chosen = np.argsort(-sizes, kind="stable")[: self.k]
        return at_least_one(mask_of(chosen, X.shape[1]) & (sizes > 0), f_statistic(X, codes))


class BorutaSelector(BaseFilter):
    """Columns that a random forest uses more than the best of permuted copies of all columns.

    Boruta (Kursa and Rudnicki 2010, doi:10.18637/jss.v036.i11): in each run a forest is fitted to the columns and to
    shadows, permuted copies of them; a column scores a hit when its importance exceeds that of every shadow. Columns
    with more hits than chance are confirmed, with fewer are rejected and leave (binomial tests, Bonferroni-corrected
    for the number of columns). Importance is the mean decrease of impurity, not the paper's permutation importance:
    shadows share its bias, and it is much faster. Meant to find *all* relevant columns: correlated ones stay together.

    Parameters
    ----------
    n_trees : int
        Trees of each forest.
    max_runs : int
        Most forests.
    alpha : float
        Level of the tests.
    max_depth : int, optional
        Of the trees.
    keep_tentative : bool
        Keep columns on which no decision was reached.
    k : int, optional
        Keep at most this many, those with most hits. Default: all that are confirmed.
    seed : int
        Of permutations and forests.

    Attributes
    ----------
    hits_ : ndarray of int, shape (p,)
        Runs in which a column beat every shadow.
    decision_ : ndarray of int, shape (p,)
        1 confirmed, 0 tentative, -1 rejected.
    n_runs_ : int
        Forests that were fitted.
    is_empty_ : bool
        Whether nothing was left, so that the column with most hits (then the largest F statistic) was kept instead.
    """

    def __init__(
        self,
        *,
        n_trees: int = 100,
        max_runs: int = 50,
        alpha: float = 0.05,
        max_depth: int | None = 5,
        keep_tentative: bool = False,
        k: int | None = None,
        seed: int = 0,
    ) -> None:
        self.n_trees = n_trees
        self.max_runs = max_runs
        self.alpha = alpha
        self.max_depth = max_depth
        self.keep_tentative = keep_tentative
        self.k = k
        self.seed = seed

    def _keep(self, X: np.ndarray, y: Any) -> np.ndarray:
        for name in ("n_trees", "max_runs", "max_depth", "k"):
            check_count(name, getattr(self, name), optional=name in ("max_depth", "k"))
        check_fraction("alpha", self.alpha)
        codes = check_classes(y, len(X))
        rng = np.random.default_rng(self.seed)
        p = X.shape[1]
        self.hits_, self.decision_ = np.zeros(p, dtype=np.intp), np.zeros(p, dtype=np.intp)
        for run in range(1, self.max_runs + 1):
            left = np.flatnonzero(self.decision_ >= 0)
            real, shadow = self._importances(X[:, left], codes, rng)
            self.hits_[left[real > shadow.max()]] += 1
            self._decide(run)
            self.n_runs_ = run
            if not (self.decision_ == 0).any():
                break
        found = self.decision_ >= (0 if self.keep_tentative else 1)
        strength = np.lexsort((f_statistic(X, codes), self.hits_)).argsort()
        self.is_empty_ = not found.any()
        chosen = np.argsort(-np.where(found, strength, -1), kind="stable")[: self.k]
        return at_least_one(found & mask_of(chosen, p), strength)

    def _importances(self, X: np.ndarray, codes: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Of the columns, and of their shadows."""
        p = X.shape[1]
        sources = np.resize(np.arange(p), max(p, MIN_SHADOWS))
        shadows = rng.permuted(X[:, sources], axis=0)
        forest = RandomForestClassifier(
            self.n_trees, max_depth=self.max_depth, n_jobs=1, random_state=int(rng.integers(2**31))
        )
        importances = forest.fit(np.column_stack([X, shadows]), codes).feature_importances_
        return importances[:p], importances[p:]

    def _decide(self, run: int) -> None:
        """Confirm or reject columns on which no decision was reached."""
        level = self.alpha / len(self.hits_)
        is_open = self.decision_ == 0
        more = stats.binom.sf(self.hits_ - 1, run, 0.5) <= level
        fewer = stats.binom.cdf(self.hits_, run, 0.5) <= level
        self.decision_[is_open & more] = 1
        self.decision_[is_open & fewer] = -1


class RFESelector(BaseFilter):
    """Recursive feature elimination: fit a logistic model, drop the columns with the smallest coefficients, repeat.

    scikit-learn's :class:`~sklearn.feature_selection.RFE` (Guyon et al. 2002, doi:10.1023/A:1012487302797, with a
    logistic model in place of the support vector machine) on standardised columns.

    Parameters
    ----------
    k : int
        How many are left; all when there are fewer.
    step : float
        Share of all columns that leave in each round.
    C : float
        Inverse strength of the model's L2 penalty.

    Attributes
    ----------
    ranking_ : ndarray of int, shape (p,)
        1 for kept columns; the larger, the earlier a column left.
    """

    def __init__(self, k: int = MAX_FEATURES, *, step: float = 0.05, C: float = 1.0) -> None:
        self.k = k
        self.step = step
        self.C = C

    def _keep(self, X: np.ndarray, y: Any) -> np.ndarray:
        check_count("k", self.k)
        if not 0 < self.step < 1:
            raise InputError(f"step must lie between 0 and 1; found {self.step!r}.", advice="Try 0.05.")
        if not self.C > 0:
            raise InputError(f"C must be above 0; found {self.C!r}.", advice="Try 1.")
        codes = check_classes(y, len(X))
        if self.k >= X.shape[1]:
            self.ranking_ = np.ones(X.shape[1], dtype=np.intp)
            return self.ranking_ == 1
        model = LogisticRegression(C=self.C, max_iter=5000)
        search = RFE(model, n_features_to_select=self.k, step=self.step)
        search.fit(StandardScaler().fit_transform(X), codes)
        self.ranking_ = search.ranking_
        return np.asarray(search.support_, dtype=bool)


class ReliefFSelector(BaseFilter):
    """ReliefF: columns that differ between nearest patients of other classes and agree between those of the same.

    Robnik-Sikonja and Kononenko 2003 (doi:10.1023/A:1025667309714) with every row as a target, Manhattan distances on
    columns scaled to [0, 1], and equal weights of the neighbours. It sees columns that matter only together, but with
    hundreds of noise columns the neighbours are arbitrary.

    Parameters
    ----------
    k : int
        How many; all when there are fewer.
    neighbours : int
        Of each class, for each patient; fewer when a class has fewer.

    Attributes
    ----------
    weights_ : ndarray of shape (p,)
        In [-1, 1]; a useless column has about 0.
    """

    def __init__(self, k: int = MAX_FEATURES, *, neighbours: int = 10) -> None:
        self.k = k
        self.neighbours = neighbours

    def _keep(self, X: np.ndarray, y: Any) -> np.ndarray:
        check_count("k", self.k)
        check_count("neighbours", self.neighbours)
        codes = check_classes(y, len(X), smallest=2)
        spread = np.ptp(X, axis=0)
        scaled = (X - X.min(axis=0)) / np.where(spread > 0, spread, 1.0)
        self.weights_ = _relieff(scaled, codes, self.neighbours)
        return mask_of(np.argsort(-self.weights_, kind="stable")[: self.k], X.shape[1])


SELECTORS: Final[dict[str, Callable[..., BaseEstimator]]] = {
    "constant": ConstantFilter,
    "variance": VarianceFilter,
    "correlation": CorrelationFilter,
    "correlation_clusters": CorrelationClusterFilter,
    "icc": ICCFilter,
    "top": TopFilter,
    "mrmr_mid": functools.partial(MRMRSelector, scheme="MID"),
    "mrmr_miq": functools.partial(MRMRSelector, scheme="MIQ"),
    "mrmr_fcd": functools.partial(MRMRSelector, scheme="FCD"),
    "mrmr_fcq": functools.partial(MRMRSelector, scheme="FCQ"),
    "lasso": LassoSelector,
    "logistic_lasso": functools.partial(LassoSelector, "logistic"),
    "boruta": BorutaSelector,
    "rfe": RFESelector,
    "relieff": ReliefFSelector,
}
"""Selectors by name.

``constant``, ``variance``, ``correlation_clusters`` and ``icc`` do not look at the outcome (the clusters only when told
to); ``correlation`` and ``top`` choose by the AUC of single columns; ``mrmr_*`` by the criteria of
:data:`hybrid.mrmr.MRMR_SCHEMES`; ``lasso``, ``logistic_lasso``, ``boruta``, ``rfe`` by fitted models; ``relieff`` by
nearest patients. ``icc`` needs a table: ``make_selector("icc", icc=...)``.
"""


def make_selector(name: str, *, seed: int = 0, **options: Any) -> BaseEstimator:
    """Build an unfitted selector by name.

    Parameters
    ----------
    name : str
        Name in :data:`SELECTORS`.
    seed : int
        For selectors that draw at random; the others ignore it.
    **options
        Parameters of the selector, for example ``k=10``.

    Returns
    -------
    estimator
        A scikit-learn transformer.

    Raises
    ------
    InputError
        For an unknown name or option; the nearest valid one is given.
    """
    if name not in SELECTORS:
        raise unknown_name("selector", name, SELECTORS)
    factory = SELECTORS[name]
    valid = list(inspect.signature(factory).parameters)
    for option in options:
        if option not in valid:
            raise unknown_name(f"option of selector {name!r}:", option, valid)
    return factory(**options, **({"seed": seed} if "seed" in valid else {}))


def _linear_lasso(X: np.ndarray, codes: np.ndarray, splits: Splits, one_standard_error: bool) -> np.ndarray:
    with warnings.catch_warnings():
        # Coordinate descent may stop short for the smallest penalties, where the error is largest.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = LassoCV(alphas=N_PENALTIES, cv=splits, max_iter=5000).fit(X, codes)
        if one_standard_error:
            largest = model.alphas_[_strongest(model.mse_path_.T)]
            model = Lasso(alpha=largest, max_iter=5000).fit(X, codes)
    return np.asarray(model.coef_)


def _logistic_lasso(X: np.ndarray, codes: np.ndarray, splits: Splits, one_standard_error: bool) -> np.ndarray:
    if not X.any():
        return np.zeros(X.shape[1])
    # From the penalty that leaves nothing to one a thousand times smaller.
    strengths = l1_min_c(X, codes, loss="log") * np.logspace(0, 3, N_LOGISTIC_PENALTIES)
    settings: dict[str, Any] = {"solver": "liblinear", "random_state": 0, "max_iter": 1000}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        search = LogisticRegressionCV(
            Cs=strengths, l1_ratios=(1.0,), cv=splits, scoring="neg_log_loss", tol=1e-3, refit=False,
            use_legacy_attributes=False, **settings,
        ).fit(X, codes)  # fmt: skip
        errors = -search.scores_[:, 0, :]
        chosen = _strongest(errors) if one_standard_error else int(np.argmin(errors.mean(axis=0)))
        # Precise, because an unfinished search leaves coefficients that should be 0.
        model = LogisticRegression(C=strengths[chosen], l1_ratio=1.0, tol=1e-6, **settings).fit(X, codes)
    return np.asarray(model.coef_[0])


def _strongest(errors: np.ndarray) -> int:
    """First of the penalties (folds, penalties), strongest first, within one standard error of the best."""
    means = errors.mean(axis=0)
    best = int(np.argmin(means))
    limit = means[best] + errors[:, best].std(ddof=1) / np.sqrt(len(errors))
    return int(np.argmax(means <= limit))


def _relieff(X: np.ndarray, codes: np.ndarray, neighbours: int) -> np.ndarray:
    """Mean difference to near rows of other classes, minus that to near rows of the own class."""
    shares = np.bincount(codes) / len(codes)
    distances = cdist(X, X, "cityblock")
    np.fill_diagonal(distances, np.inf)
    weights = np.zeros(X.shape[1])
    for group, share in enumerate(shares):
        members = np.flatnonzero(codes == group)
        for row, own in enumerate(codes):
            size = min(neighbours, len(members) - (own == group))
            near = members[np.argsort(distances[row, members], kind="stable")[:size]]
            difference = np.abs(X[near] - X[row]).mean(axis=0)
            weights += -difference if own == group else difference * share / (1 - shares[own])
    return weights / len(X)
