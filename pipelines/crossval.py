"""One training set: nested selection, the refit, and predictions for patients outside it.

Everything here works on one training set and one set of test rows; :mod:`.evaluate` runs it over repeats and folds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, clone
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold

from hybrid.classifiers import BASELINES, Classifier, candidates, make_prefix
from hybrid.errors import unknown_name
from hybrid.fold_options import BATCH_COLUMN, BatchHarmoniser, check_fold_options, check_weights, fit_estimator
from hybrid.fusion import FeatureSet, combine, fit_stacker, logit
from hybrid.selection import MAX_CORRELATION, MAX_FEATURES, MIN_ICC
from hybrid.tables import SELECTED

SMALLEST_SLOPE: Final = 0.05
"""Recalibration never inverts a ranking: a slope below this says that training patients carry no signal."""


@dataclass(frozen=True)
class Settings:
    """What is fitted inside a fold.

    Attributes
    ----------
    classifiers : dict of str to Classifier
        Candidates.
    inner_folds : int
        Folds inside the training set that choose hyper-parameters and classifier.
    calibration : None or "sigmoid"
        Recalibration of the probabilities on out-of-fold predictions of training patients.
    categorical : tuple of str
        Clinical columns that hold categories.
    max_correlation, max_features, min_icc
        See :mod:`hybrid.selection`.
    selector : str or None
        See :func:`hybrid.classifiers.make_prefix`.
    harmonise : str or None
        Column of the cohort that names the batch; its values stand in the column
        :data:`~hybrid.fold_options.BATCH_COLUMN` of the table.
    unseen_batch : {"unadjusted", "error"}
        See :class:`hybrid.fold_options.BatchHarmoniser`.
    imbalance : None or "class_weight"
        See :func:`hybrid.fold_options.fit_estimator`.
    """

    classifiers: dict[str, Classifier]
    inner_folds: int = 3
    calibration: str | None = None
    categorical: tuple[str, ...] = ()
    max_correlation: float = MAX_CORRELATION
    max_features: int = MAX_FEATURES
    min_icc: float = MIN_ICC
    selector: str | None = None
    harmonise: str | None = None
    unseen_batch: str = "unadjusted"
    imbalance: str | None = None

    def check(self) -> None:
        """Raise for options that are unknown, or that a classifier cannot follow.

        Raises
        ------
        InputError
            See :func:`hybrid.fold_options.check_fold_options` and :func:`hybrid.fold_options.check_weights`.
        """
        if self.calibration not in (None, "sigmoid"):
            raise unknown_name("calibration", self.calibration, ["sigmoid", None])
        check_fold_options(self.selector, self.unseen_batch, self.imbalance)
        for name, classifier in self.classifiers.items():
            if name not in BASELINES:
                check_weights(name, classifier.make(0), self.imbalance)


@dataclass(frozen=True)
class Recalibration:
    """Logistic recalibration (Cox 1958, doi:10.1093/biomet/45.3-4.562): ``logit(p') = intercept + slope logit(p)``."""

    intercept: float = 0.0
    slope: float = 1.0

    def __call__(self, probabilities: np.ndarray) -> np.ndarray:
        """Recalibrated probabilities; the identity returns them bit for bit."""
        if (self.intercept, self.slope) == (0.0, 1.0):
            return probabilities
        return 1 / (1 + np.exp(-(self.intercept + self.slope * logit(probabilities))))


@dataclass(frozen=True)
class Fitted:
    """One fitted model with what was learnt about it from training patients only.

    Attributes
    ----------
    prefixes, estimators : tuple
        One fitted prefix and estimator per part of the feature set.
    parts : tuple of FeatureSet
        The parts.
    stacker : LogisticRegression or None
        Of a stacked set.
    chosen : str
        Classifier, or classifiers of the parts joined by ``+``.
    inner_auc : float
        Mean AUC over the inner folds.
    threshold : float
        Cut-off with the largest Youden index on out-of-fold predictions of training patients.
    recalibration : Recalibration
        Of the probabilities.
    out_of_fold : ndarray
        Recalibrated out-of-fold probabilities of the training patients.
    """

    prefixes: tuple[Any, ...]
    estimators: tuple[Any, ...]
    parts: tuple[FeatureSet, ...]
    stacker: LogisticRegression | None
    chosen: str
    inner_auc: float
    threshold: float
    recalibration: Recalibration
    out_of_fold: np.ndarray = field(repr=False)

    def predict(self, table: pd.DataFrame) -> np.ndarray:
        """Probability of the positive class for each row of a table with the parts' columns."""
        return self.predict_reduced(self.reduce(table))

    def reduce(self, table: pd.DataFrame) -> list[np.ndarray]:
        """Preprocess rows: what the estimator of each part sees."""
        return [prefix.transform(table[list(prefix.feature_names_in_)]) for prefix in self.prefixes]

    def predict_reduced(self, reduced: Sequence[np.ndarray]) -> np.ndarray:
        """Probability of the positive class from what :meth:`reduce` returns."""
        columns = [_probability(estimator, rows) for rows, estimator in zip(reduced, self.estimators, strict=True)]
        joined = columns[0] if len(columns) == 1 else combine(np.column_stack(columns), self.stacker)
        return self.recalibration(joined)

    def is_harmonised(self, table: pd.DataFrame) -> np.ndarray:
        """Whether all image features of each row are adjusted for their batch, shape (n,)."""
        steps = [step for prefix in self.prefixes for step in _harmonisers(prefix)]
        if not steps:
            return np.zeros(len(table), dtype=bool)
        return np.all([step.is_adjusted(table) for step in steps], axis=0)


def _harmonisers(prefix: Any) -> list[BatchHarmoniser]:
    """Fitted harmonisers of the blocks of a prefix."""
    blocks = [step for name, step, _ in prefix.transformers_ if name.startswith("block")]
    return [block.named_steps["harmonise"] for block in blocks if "harmonise" in block.named_steps]


@dataclass(frozen=True)
class _Candidate:
    """Best hyper-parameters of one classifier on one part."""

    estimator: BaseEstimator
    inner_auc: float
    out_of_fold: np.ndarray


def fit_models(
    table: pd.DataFrame,
    y: np.ndarray,
    groups: np.ndarray,
    feature_sets: Mapping[str, FeatureSet],
    settings: Settings,
    seed: int,
) -> dict[tuple[str, str], Fitted]:
    """Fit every classifier on every feature set, choosing inside the training set only.

    Parameters
    ----------
    table : DataFrame
        Training rows.
    y : ndarray of shape (n,)
        0 or 1.
    groups : ndarray of shape (n,)
        Patients; one patient is never on both sides of an inner split.
    feature_sets : mapping
        By name.
    settings : Settings
        What is fitted.
    seed : int
        Of inner splits and estimators.

    Returns
    -------
    dict of (feature set, classifier) to Fitted
        With the additional classifier ``"selected"``: the one with the largest mean inner AUC.
    """
    splits = list(inner_splits(y, groups, settings.inner_folds, seed))
    searched: dict[FeatureSet, _Part] = {}
    fitted: dict[tuple[str, str], Fitted] = {}
    for name, feature_set in feature_sets.items():
        parts = []
        for part in feature_set.parts:
            key = FeatureSet("", part.blocks, "early", part.clinical)
            if key not in searched:
                searched[key] = _Part(table, y, splits, key, settings, seed)
            parts.append(searched[key])
        for classifier in [*settings.classifiers, SELECTED]:
            fitted[name, classifier] = _assemble(parts, feature_set, classifier, y, settings)
    return fitted


class _Part:
    """All classifiers on one block set: prefixes are fitted once per training set and shared."""

    def __init__(
        self,
        table: pd.DataFrame,
        y: np.ndarray,
        splits: Sequence[tuple[np.ndarray, np.ndarray]],
        feature_set: FeatureSet,
        settings: Settings,
        seed: int,
    ) -> None:
        self.feature_set, self.y, self.imbalance = feature_set, y, settings.imbalance
        batch = [BATCH_COLUMN] if settings.harmonise and feature_set.blocks else []
        rows = table[[*feature_set.columns, *batch]]
        inner = []
        for fit, held_out in splits:
            prefix = _prefix(feature_set, settings, seed)
            reduced = prefix.fit_transform(rows.iloc[fit], y[fit])
            inner.append((fit, held_out, reduced, prefix.transform(rows.iloc[held_out])))
        self.candidates = {
            name: _best(candidates(classifier, seed), inner, y, settings.imbalance)
            for name, classifier in settings.classifiers.items()
        }
        self.selected = max(self.candidates, key=lambda name: self.candidates[name].inner_auc)
        self.prefix = _prefix(feature_set, settings, seed)
        self.reduced = self.prefix.fit_transform(rows, y)
        self.estimators: dict[str, BaseEstimator] = {}

    def refit(self, classifier: str) -> BaseEstimator:
        """Fit the classifier with its best hyper-parameters on the whole training set, once."""
        if classifier not in self.estimators:
            estimator = clone(self.candidates[classifier].estimator)
            self.estimators[classifier] = fit_estimator(estimator, self.reduced, self.y, self.imbalance)
        return self.estimators[classifier]


def _prefix(feature_set: FeatureSet, settings: Settings, seed: int) -> Any:
    return make_prefix(
        feature_set,
        categorical=settings.categorical,
        max_correlation=settings.max_correlation,
        max_features=settings.max_features,
        min_icc=settings.min_icc,
        selector=settings.selector,
        harmonise=BATCH_COLUMN if settings.harmonise else None,
        unseen_batch=settings.unseen_batch,
        seed=seed,
    )


def _best(
    estimators: Sequence[BaseEstimator], inner: Sequence[tuple[Any, ...]], y: np.ndarray, imbalance: str | None
) -> _Candidate:
    """Candidate with the largest mean AUC over the inner folds; the first of equals."""
    best: _Candidate | None = None
    for estimator in estimators:
        out_of_fold, areas = np.full(len(y), np.nan), []
        for fit, held_out, reduced_fit, reduced_held_out in inner:
            model = fit_estimator(clone(estimator), reduced_fit, y[fit], imbalance)
            out_of_fold[held_out] = _probability(model, reduced_held_out)
            areas.append(roc_auc_score(y[held_out], out_of_fold[held_out]))
        area = float(np.mean(areas))
        if best is None or area > best.inner_auc:
            best = _Candidate(estimator, area, out_of_fold)
    if best is None:
        raise ValueError("A classifier needs at least one candidate.")
    return best


def _assemble(
    parts: Sequence[_Part], feature_set: FeatureSet, classifier: str, y: np.ndarray, settings: Settings
) -> Fitted:
    names = [part.selected if classifier == SELECTED else classifier for part in parts]
    chosen = [part.candidates[name] for part, name in zip(parts, names, strict=True)]
    columns = np.column_stack([candidate.out_of_fold for candidate in chosen])
    stacker = fit_stacker(columns, y) if feature_set.fusion == "stacking" else None
    joined = columns[:, 0] if len(parts) == 1 else combine(columns, stacker)
    recalibration = fit_recalibration(joined, y) if settings.calibration == "sigmoid" else Recalibration()
    out_of_fold = recalibration(joined)
    return Fitted(
        prefixes=tuple(part.prefix for part in parts),
        estimators=tuple(part.refit(name) for part, name in zip(parts, names, strict=True)),
        parts=tuple(part.feature_set for part in parts),
        stacker=stacker,
        chosen="+".join(names),
        inner_auc=float(np.mean([candidate.inner_auc for candidate in chosen])),
        threshold=youden_threshold(out_of_fold, y),
        recalibration=recalibration,
        out_of_fold=out_of_fold,
    )


def _probability(estimator: Any, reduced: np.ndarray) -> np.ndarray:
    positive = list(estimator.classes_).index(1)
    return np.clip(np.asarray(estimator.predict_proba(reduced)[:, positive], dtype=np.float64), 0.0, 1.0)


def inner_splits(y: np.ndarray, groups: np.ndarray, folds: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Stratified, patient-grouped splits in which both sides hold both classes.

    The number of folds is lowered to the number of patients of the rarer class, two at least.
    """
    rarer = min(len(np.unique(groups[y == value])) for value in (0, 1))
    splitter = StratifiedGroupKFold(max(2, min(folds, rarer)), shuffle=True, random_state=seed)
    for fit, held_out in splitter.split(np.zeros(len(y)), y, groups):
        if len(np.unique(y[fit])) == 2 and len(np.unique(y[held_out])) == 2:
            yield fit, held_out


def youden_threshold(probabilities: np.ndarray, y: np.ndarray) -> float:
    """Cut-off with the largest sensitivity + specificity - 1 (Youden 1950).

    Parameters
    ----------
    probabilities : ndarray of shape (n,)
        Out-of-fold; NaN where a patient was never held out.
    y : ndarray of shape (n,)
        0 or 1.

    Returns
    -------
    float
        Midway between two observed probabilities; a case is positive when ``probability >= cut-off``. 0.5 when all
        probabilities are equal.
    """
    known = np.isfinite(probabilities)
    values, outcome = probabilities[known], y[known]
    levels = np.unique(values)
    if len(levels) < 2:
        return 0.5
    cuts = (levels[:-1] + levels[1:]) / 2
    called = values[None, :] >= cuts[:, None]
    index = called[:, outcome == 1].mean(axis=1) - called[:, outcome == 0].mean(axis=1)
    return float(cuts[int(np.argmax(index))])


def fit_recalibration(probabilities: np.ndarray, y: np.ndarray) -> Recalibration:
    """Fit slope and intercept on out-of-fold probabilities; the slope stays positive, so that ranks are kept."""
    known = np.isfinite(probabilities)
    scores, outcome = logit(probabilities[known]), y[known]
    model = LogisticRegression(C=1e4).fit(scores[:, None], outcome)
    if model.coef_[0, 0] >= SMALLEST_SLOPE:
        return Recalibration(float(model.intercept_[0]), float(model.coef_[0, 0]))
    prevalence = float(np.clip(outcome.mean(), 1e-3, 1 - 1e-3))
    return Recalibration(float(logit(np.array([prevalence]))[0] - SMALLEST_SLOPE * scores.mean()), SMALLEST_SLOPE)
