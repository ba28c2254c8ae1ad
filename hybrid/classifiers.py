"""Interchangeable classifiers: a plain dictionary of factories, each with a small hyper-parameter space.

Every classifier becomes a scikit-learn ``Pipeline`` of a preprocessing prefix and the estimator; see
:func:`make_classifier`. Estimators run on one thread, so that a result does not depend on the machine's cores.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Final

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.compose import ColumnTransformer
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import ExtraTreesClassifier, HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import SVC
from xgboost import XGBClassifier

from .errors import InputError, unknown_name
from .fold_options import OWN_CORRELATION_STEP, BatchHarmoniser, check_fold_options, fold_selector
from .fusion import FeatureSet
from .selection import MAX_CORRELATION, MAX_FEATURES, MIN_ICC, ConstantFilter, CorrelationFilter, RepeatFilter
from .tables import REPEAT_SUFFIX

Grid = Mapping[str, tuple[Any, ...]]


@dataclass(frozen=True)
class Classifier:
    """A factory and its hyper-parameter space.

    Attributes
    ----------
    make : callable
        ``make(seed)`` gives an unfitted estimator with ``predict_proba``.
    grid : mapping of str to tuple
        Values to try, by parameter of the estimator; the first of each is the default.
    """

    make: Callable[[int], BaseEstimator]
    grid: Grid = field(default_factory=dict)


class ProbabilitySVC(ClassifierMixin, BaseEstimator):
    """Support vector machine with probabilities from a logistic model of its decision values.

    The logistic model is fitted on the training rows (Platt 1999, section 2.1, without internal folds): on 20 patients
    internal folds can turn its slope negative, which would invert the machine's ranking.

    Parameters
    ----------
    kernel : {"linear", "rbf"}
        As in :class:`sklearn.svm.SVC`.
    C : float
        Penalty.
    """

    def __init__(self, kernel: str = "rbf", C: float = 1.0) -> None:
        self.kernel = kernel
        self.C = C

    def fit(self, X: np.ndarray, y: np.ndarray, sample_weight: np.ndarray | None = None) -> ProbabilitySVC:
        """Fit the machine, then the logistic model of its decision values.

        Without ``sample_weight`` the machine weighs classes inversely to their size and the logistic model does not;
        with it both use these weights.
        """
        weights = "balanced" if sample_weight is None else None
        self.machine_ = SVC(kernel=self.kernel, C=self.C, class_weight=weights).fit(X, y, sample_weight)
        self.platt_ = LogisticRegression().fit(self.machine_.decision_function(X)[:, None], y, sample_weight)
        self.classes_ = self.machine_.classes_
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Probabilities, shape (n, 2)."""
        return self.platt_.predict_proba(self.machine_.decision_function(X)[:, None])

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Classes by the machine's own boundary."""
        return self.machine_.predict(X)


CLASSIFIERS: Final[dict[str, Classifier]] = {
    "logistic": Classifier(lambda seed: LogisticRegression(max_iter=5000), {"C": (1.0, 0.01, 0.1, 10.0)}),
    "elastic_net": Classifier(
        lambda seed: LogisticRegression(solver="saga", l1_ratio=0.5, max_iter=2000, tol=1e-3, random_state=seed),
        {"C": (1.0, 0.1), "l1_ratio": (0.5, 0.9)},
    ),
    "linear_svm": Classifier(lambda seed: ProbabilitySVC("linear"), {"C": (1.0, 0.01, 0.1)}),
    "rbf_svm": Classifier(lambda seed: ProbabilitySVC("rbf"), {"C": (1.0, 0.1, 10.0)}),
    "random_forest": Classifier(
        lambda seed: RandomForestClassifier(100, random_state=seed, n_jobs=1), {"min_samples_leaf": (2, 5)}
    ),
    "extra_trees": Classifier(
        lambda seed: ExtraTreesClassifier(100, random_state=seed, n_jobs=1), {"min_samples_leaf": (2, 5)}
    ),
    "xgboost": Classifier(
        lambda seed: XGBClassifier(
            n_estimators=60, learning_rate=0.1, subsample=0.8, colsample_bytree=0.8, min_child_weight=1,
            tree_method="hist", n_jobs=1, random_state=seed,
        ),
        {"max_depth": (2, 4)},
    ),
    "hist_gradient_boosting": Classifier(
        lambda seed: HistGradientBoostingClassifier(
            max_iter=60, min_samples_leaf=5, early_stopping=False, random_state=seed
        ),
        {"max_leaf_nodes": (4, 8)},
    ),
    "knn": Classifier(lambda seed: KNeighborsClassifier(weights="distance"), {"n_neighbors": (5, 3, 9)}),
    "naive_bayes": Classifier(lambda seed: GaussianNB()),
    "lda": Classifier(
        lambda seed: LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto"), {"shrinkage": ("auto", 0.5)}
    ),
    "clinical": Classifier(lambda seed: LogisticRegression(max_iter=5000), {"C": (1.0, 0.1)}),
    "majority": Classifier(lambda seed: DummyClassifier(strategy="prior")),
}  # fmt: skip
"""Classifiers by name; the grid's values are few because cohorts are small: a large search fits the inner folds' noise.

``logistic`` L2 penalty; ``elastic_net`` L1 and L2; ``linear_svm``, ``rbf_svm`` (also ``svm``); ``random_forest``,
``extra_trees`` 100 trees; ``xgboost``, ``hist_gradient_boosting`` 60 shallow trees; ``knn``; ``naive_bayes``; ``lda``
with shrinkage. Two baselines: ``clinical`` is a logistic model that sees the clinical columns only, ``majority``
predicts the more frequent class.
"""

BASELINES: Final = ("majority", "clinical")
"""Classifiers that do not look at features of the image; each is fitted once, whatever the feature sets."""

ALIASES: Final = {"svm": "rbf_svm"}


def resolve_classifiers(
    classifiers: Iterable[str | BaseEstimator] | Mapping[str, str | BaseEstimator],
) -> dict[str, Classifier]:
    """Classifiers by name from names, instances, or a mapping of your own names to either.

    Raises
    ------
    InputError
        For an unknown name (the nearest valid one is given), or an object without ``predict_proba``.
    """
    pairs = (
        classifiers.items() if isinstance(classifiers, Mapping) else [(_name_of(item), item) for item in classifiers]
    )
    resolved: dict[str, Classifier] = {}
    for name, item in pairs:
        if name in resolved:
            raise InputError(f"Classifier {name!r} was given twice.", advice="Pass a dict with two names.")
        resolved[name] = _by_name(item) if isinstance(item, str) else _instance(item)
    if not resolved:
        raise InputError("No classifier was given.", advice=f"Choose from {', '.join(CLASSIFIERS)}.")
    return resolved


def _name_of(item: str | BaseEstimator) -> str:
    return item if isinstance(item, str) else type(item).__name__


def _by_name(name: str) -> Classifier:
    known = ALIASES.get(name, name)
    if known not in CLASSIFIERS:
        raise unknown_name("classifier", name, [*CLASSIFIERS, *ALIASES])
    return CLASSIFIERS[known]


def _instance(estimator: BaseEstimator) -> Classifier:
    if isinstance(estimator, type) or not hasattr(estimator, "predict_proba"):
        raise InputError(
            f"A classifier must be an instance with predict_proba; found {estimator!r}.",
            advice="Pass an instance, for example LogisticRegression(); SVC needs probabilities.",
        )
    return Classifier(functools.partial(_clone, estimator))


def _clone(estimator: BaseEstimator, seed: int) -> BaseEstimator:
    return clone(estimator)


def candidates(classifier: Classifier, seed: int) -> list[BaseEstimator]:
    """Unfitted estimators for every combination of the grid, the default first."""
    names = list(classifier.grid)
    return [
        classifier.make(seed).set_params(**dict(zip(names, values, strict=True)))
        for values in product(*classifier.grid.values())
    ]


def make_prefix(
    feature_set: FeatureSet,
    *,
    categorical: Sequence[str] = (),
    max_correlation: float = MAX_CORRELATION,
    max_features: int = MAX_FEATURES,
    min_icc: float = MIN_ICC,
    selector: str | None = None,
    harmonise: str | None = None,
    unseen_batch: str = "unadjusted",
    seed: int = 0,
) -> ColumnTransformer:
    """Preprocessing prefix that all classifiers share, unfitted.

    Parameters
    ----------
    feature_set : FeatureSet
        With early fusion; its blocks are reduced separately.
    categorical : sequence of str
        Which of the clinical columns hold categories.
    max_correlation, max_features
        See :class:`~hybrid.selection.CorrelationFilter` and :class:`~hybrid.selection.TopFilter`.
    min_icc : float
        Where the table holds second measurements (columns ``<name>__repeat``): smallest agreement of a feature that
        enters, see :class:`~hybrid.selection.RepeatFilter`.
    selector : str, optional
        Name in :data:`~hybrid.selection_methods.SELECTORS`, in place of the last step; keeps at most ``max_features``
        columns where it has such a limit. ``"correlation_clusters"`` also takes the place of the correlation filter.
    harmonise : str, optional
        Column that names the batch (site, scanner) of each row: each block is harmonised by ComBat before imputation.
        Clinical columns are not.
    unseen_batch : {"unadjusted", "error"}
        See :class:`~hybrid.fold_options.BatchHarmoniser`.
    seed : int
        Of selectors that draw at random.

    Returns
    -------
    sklearn.compose.ColumnTransformer
        For each block: harmonisation if asked for, median imputation, constant columns out, standardisation, correlated
        columns out, the best ``max_features`` (or what the selector keeps). Clinical columns: imputation and
        standardisation, or one column per category (a category that training patients do not have counts as none of
        them).

    Raises
    ------
    InputError
        For an unknown selector or rule.
    """
    check_fold_options(selector, unseen_batch, None)
    steps: list[tuple[str, Any, list[str]]] = []
    for i, block in enumerate(feature_set.blocks):
        reduce = _reduction(selector or "top", max_correlation, max_features, seed)
        columns = list(block)
        if any(column.endswith(REPEAT_SUFFIX) for column in block):
            if harmonise is not None:
                raise InputError(
                    "Second measurements of the features cannot be harmonised.",
                    advice="Harmonise, or choose by agreement, not both.",
                )
            reduce.steps.insert(0, ("agreement", RepeatFilter(min_icc)))
        if harmonise is not None:
            reduce.steps.insert(0, ("harmonise", BatchHarmoniser(harmonise, unseen=unseen_batch)))
            columns.append(harmonise)
        steps.append((f"block{i}", reduce, columns))
    numeric = [column for column in feature_set.clinical if column not in categorical]
    levels = [column for column in feature_set.clinical if column in categorical]
    if numeric:
        fill = Pipeline(
            [("impute", SimpleImputer(strategy="median", keep_empty_features=True)), ("scale", StandardScaler())]
        )
        steps.append(("clinical", fill, numeric))
    if levels:
        encode = OneHotEncoder(handle_unknown="ignore", sparse_output=False, drop="if_binary")
        steps.append(("categories", encode, levels))
    return ColumnTransformer(steps, verbose_feature_names_out=False)


def _reduction(selector: str, max_correlation: float, max_features: int, seed: int) -> Pipeline:
    """Build the steps that turn the columns of one block into the few that a classifier sees."""
    steps: list[tuple[str, Any]] = [
        ("impute", SimpleImputer(strategy="median", keep_empty_features=True)),
        ("constant", ConstantFilter()),
        ("scale", StandardScaler()),
    ]
    if selector not in OWN_CORRELATION_STEP:
        steps.append(("correlation", CorrelationFilter(max_correlation)))
    chosen = fold_selector(selector, max_correlation=max_correlation, max_features=max_features, seed=seed)
    return Pipeline([*steps, ("select", chosen)])


def make_classifier(
    classifier: str | BaseEstimator, feature_set: FeatureSet, *, seed: int = 0, **prefix: Any
) -> Pipeline:
    """Build a whole pipeline, prefix and estimator, as one would fit it alone.

    Parameters
    ----------
    classifier : str or estimator
        Name in :data:`CLASSIFIERS`, or an instance with ``predict_proba``.
    feature_set : FeatureSet
        Which columns it looks at.
    seed : int
        Of the estimator.
    **prefix
        See :func:`make_prefix`.

    Returns
    -------
    sklearn.pipeline.Pipeline
        Steps ``"prefix"`` and ``"classifier"``, unfitted, with the default hyper-parameters.
    """
    estimator = candidates(next(iter(resolve_classifiers([classifier]).values())), seed)[0]
    return Pipeline([("prefix", make_prefix(feature_set, **prefix)), ("classifier", estimator)])
