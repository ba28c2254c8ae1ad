"""One training set of a survival study: the joined table, preprocessing, the choice of the penalty, the Cox model.

:mod:`.survival` runs it over folds, :mod:`.survival_models` freezes it on all patients.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import pandas as pd

from hybrid.analysis.survival import concordance_index
from hybrid.analysis.survival_panel import comparable_pairs, one_time_per_patient
from hybrid.cases import Cohort
from hybrid.classifiers import make_prefix
from hybrid.cox import CoxElasticNet, CoxScoreFilter
from hybrid.errors import InputError, unknown_name
from hybrid.fusion import FeatureSet, resolve_feature_sets
from hybrid.provenance import code_version, digest
from hybrid.selection import CorrelationClusterFilter
from hybrid.tables import CLINICAL_PREFIX, check_survival

from .crossval import inner_splits
from .evaluate import FeatureSets
from .study_table import StudyTable, clinical_columns, prepare_table

STRENGTHS: Final = (0.02, 0.1, 0.3)
"""Penalties to try, as shares of the smallest penalty that removes every feature; the weakest wins ties."""

L1_RATIOS: Final = (0.1, 0.5, 1.0)
DEFAULT_HORIZONS: Final = 8

NO_FEATURES: Final = "no_features"
"""Baseline that gives every patient the survival curve of the training patients."""

CLINICAL: Final = "clinical"
VOLUME: Final = "volume"
BASELINE_SETS: Final = (CLINICAL, VOLUME, NO_FEATURES)
VOLUME_ENDINGS: Final = ("shape_VoxelVolume", "shape_MeshVolume")


@dataclass(frozen=True)
class SurvivalTable:
    """Features, covariates and follow-up of the cases that can be evaluated; see :class:`StudyTable`."""

    study: StudyTable
    time: np.ndarray
    event: np.ndarray
    horizons: tuple[float, ...]

    @property
    def strata(self) -> np.ndarray:
        """What splits are stratified by: the event, or early and late times when hardly anybody was censored."""
        censored = len(np.unique(self.study.patients[~self.event]))
        return self.event.astype(int) if censored >= 5 else (self.time > np.median(self.time)).astype(int)


def prepare_survival(
    features: pd.DataFrame,
    cohort: Cohort,
    *,
    time: str,
    event: str,
    event_value: Any = None,
    covariates: Sequence[str] = (),
    horizons: Sequence[float] | None = None,
) -> SurvivalTable:
    """Join features, covariates and follow-up.

    Parameters
    ----------
    features, cohort, time, event, event_value, covariates, horizons
        See :func:`cross_validate_survival`.

    Raises
    ------
    InputError
        See :func:`cross_validate_survival`.
    """
    for name in (time, event):
        if name in covariates:
            raise InputError(f"Column {name!r} is the outcome and cannot be a covariate.", advice="Leave it out.")
    ids = [case.case_id for case in cohort]
    status = _column(cohort, event)
    if event_value is not None:
        known = sorted({str(value) for value in status if value is not None})
        if str(event_value) not in known:
            raise unknown_name(f"value of column {event!r}:", event_value, known)
        status = [None if value is None else int(str(value) == str(event_value)) for value in status]
    times, events = check_survival(_column(cohort, time), status, cases=ids)
    one_time_per_patient([case.patient_id for case in cohort], times, events)
    follow_up = dict(zip(ids, zip(times, events, strict=True), strict=True))
    known_cohort = Cohort(replace(case, outcome=int(follow_up[case.case_id][1])) for case in cohort)
    study = prepare_table(features, known_cohort, covariates=covariates, need_both=False)
    own_times, own_events = (np.array([follow_up[case][k] for case in study.cases]) for k in (0, 1))
    check_survival(own_times, own_events)
    return SurvivalTable(study, own_times, own_events.astype(bool), _horizons(own_times, own_events, horizons))


def _column(cohort: Cohort, name: str) -> list[Any]:
    available = {key for case in cohort for key in case.covariates} | {"outcome"}
    if name not in available:
        raise unknown_name("column of the cohort table:", name, available)
    return [case.outcome if name == "outcome" else case.covariates.get(name) for case in cohort]


def _horizons(time: np.ndarray, event: np.ndarray, wanted: Sequence[float] | None) -> tuple[float, ...]:
    """Return the wanted times, or evenly spaced ones that span most of the events, with three digits."""
    if wanted is not None:
        wrong = [value for value in wanted if not 0 < value < time.max()]
        if wrong:
            raise InputError(
                f"A horizon must lie between 0 and the longest follow-up, {time.max():g}; found {wrong[0]:g}.",
                advice="Choose times at which enough patients are still followed.",
            )
        return tuple(sorted({float(value) for value in wanted}))
    first, last = np.quantile(time[event.astype(bool)], [0.1, 0.9])
    rounded = {float(f"{value:.3g}") for value in np.linspace(first, last, DEFAULT_HORIZONS)}
    return tuple(sorted(value for value in rounded if 0 < value < time.max()))


@dataclass(frozen=True)
class Plan:
    """Everything that a task needs besides its rows."""

    feature_sets: dict[str, FeatureSet]
    categorical: tuple[str, ...]
    inner_folds: int
    max_correlation: float
    max_features: int
    seed: int
    digest: str


def make_plan(
    data: SurvivalTable,
    feature_sets: FeatureSets,
    volume: str | None,
    inner_folds: int,
    max_correlation: float,
    max_features: int,
    seed: int,
) -> Plan:
    """Resolve feature sets and settings once, with a digest of everything that the results depend on."""
    columns = [name for name in data.study.table.columns if not name.startswith(CLINICAL_PREFIX)]
    sets = model_sets(feature_sets, columns, clinical_columns(data.study.table), volume)
    settings = (inner_folds, max_correlation, max_features, seed)
    described = digest([
        {name: [fs.blocks, fs.clinical] for name, fs in sets.items()}, settings, data.horizons, STRENGTHS, L1_RATIOS,
        code_version(),
    ])  # fmt: skip
    return Plan(sets, data.study.categorical, *settings, described)


def model_sets(
    feature_sets: FeatureSets, columns: Sequence[str], clinical: tuple[str, ...], volume: str | None
) -> dict[str, FeatureSet]:
    """Feature sets, then the baselines that the tables allow."""
    sets = resolve_feature_sets(feature_sets, columns, clinical)
    for name, feature_set in sets.items():
        if feature_set.fusion != "early":
            raise InputError(
                f"Feature set {name!r} fuses probabilities, which Cox models do not give.", advice="Use 'fused'."
            )
    if volume is not None and volume not in columns:
        raise unknown_name("feature", volume, columns)
    found = [name for ending in VOLUME_ENDINGS for name in columns if name.endswith(ending)]
    chosen = [volume] if volume is not None else found[:1]
    if clinical:
        sets.setdefault(CLINICAL, FeatureSet(CLINICAL, (), "early", clinical))
    if chosen:
        sets.setdefault(VOLUME, FeatureSet(VOLUME, (tuple(chosen),)))
    return {**sets, NO_FEATURES: FeatureSet(NO_FEATURES, ())}


@dataclass(frozen=True)
class FittedCox:
    """Preprocessing (None without columns) and Cox model of one training set.

    Categories that the training set does not have count as none of those it has.
    """

    prefix: Any
    estimator: CoxElasticNet

    def reduce(self, table: pd.DataFrame) -> np.ndarray:
        """Preprocessed columns of each row."""
        if self.prefix is None:
            return np.empty((len(table), 0))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Found unknown categories")
            return np.asarray(self.prefix.transform(table), dtype=np.float64)

    def predict(self, table: pd.DataFrame) -> np.ndarray:
        """Risk of each row: log hazard ratio to an average training patient."""
        return self.estimator.predict(self.reduce(table))

    def predict_survival(self, table: pd.DataFrame, times: Sequence[float]) -> np.ndarray:
        """Probability of no event until each time, shape (n_times, n)."""
        return self.estimator.predict_survival(self.reduce(table), times)

    @property
    def selected(self) -> list[str]:
        """Names of the columns that the filters left."""
        return [] if self.prefix is None else [str(name) for name in self.prefix.get_feature_names_out()]


def fit_cox(
    plan: Plan,
    feature_set: FeatureSet,
    table: pd.DataFrame,
    outcome: np.ndarray,
    patients: np.ndarray,
    strata: np.ndarray,
    place: tuple[int, int] = (0, 0),
) -> FittedCox:
    """Choose the penalty by the mean C-index of inner folds, then fit on the whole training set.

    Parameters
    ----------
    plan : Plan
        Settings.
    feature_set : FeatureSet
        Its columns are those of ``table``.
    table : DataFrame
        Training rows.
    outcome : ndarray of shape (n, 2)
        Follow-up time and event.
    patients, strata : ndarray of shape (n,)
        What inner folds are grouped and stratified by.
    place : (int, int)
        Repeat and fold, which the seed of the inner folds depends on.
    """
    prefix = _prefix(plan, feature_set)
    if prefix is None:
        return FittedCox(None, CoxElasticNet().fit(np.empty((len(table), 0)), outcome))
    seed = int(np.random.SeedSequence([plan.seed, *place]).generate_state(1)[0])
    candidates = [CoxElasticNet(*setting) for setting in itertools.product(STRENGTHS, L1_RATIOS)]
    scores = [
        _inner_scores(prefix, candidates, table, outcome, fit, held_out)
        for fit, held_out in inner_splits(strata, patients, plan.inner_folds, seed)
        if _is_usable(outcome, fit, held_out)
    ]
    best = int(np.argmax(np.mean(scores, axis=0))) if scores else 0
    fitted = _prefix(plan, feature_set).fit(table, outcome)
    return FittedCox(fitted, candidates[best].fit(fitted.transform(table), outcome))


def _is_usable(outcome: np.ndarray, fit: np.ndarray, held_out: np.ndarray) -> bool:
    """Whether there is an event to learn from and a pair to compare."""
    own = outcome[held_out]
    return bool(outcome[fit, 1].any()) and bool(comparable_pairs(own[:, 0], own[:, 1] == 1).any())


def _inner_scores(
    prefix: Any,
    candidates: Iterable[CoxElasticNet],
    table: pd.DataFrame,
    outcome: np.ndarray,
    fit: np.ndarray,
    held_out: np.ndarray,
) -> list[float]:
    reduced = prefix.fit(table.iloc[fit], outcome[fit]).transform(table.iloc[fit])
    seen = prefix.transform(table.iloc[held_out])
    time, event = outcome[held_out].T
    return [
        concordance_index(time, event, candidate.fit(reduced, outcome[fit]).predict(seen)).c for candidate in candidates
    ]


def _prefix(plan: Plan, feature_set: FeatureSet) -> Any:
    """Preprocessing of :func:`hybrid.classifiers.make_prefix` with filters that understand censored outcomes."""
    if not feature_set.columns:
        return None
    prefix = make_prefix(feature_set, categorical=plan.categorical)
    for i in range(len(feature_set.blocks)):
        prefix.set_params(**{
            f"block{i}__correlation": CorrelationClusterFilter(plan.max_correlation),
            f"block{i}__select": CoxScoreFilter(plan.max_features),
        })  # fmt: skip
    return prefix
