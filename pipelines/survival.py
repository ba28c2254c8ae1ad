"""Follow-up times with censoring: Cox models with an elastic net, cross-validated over patients.

One repeat of the cross-validation gives one risk score per case; splits are grouped by patient and stratified by event.
Imputation, standardisation, filters, the choice of penalty and the cut between risk groups see training rows only.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from hybrid.analysis.survival import concordance_index
from hybrid.analysis.survival_curves import log_rank
from hybrid.analysis.survival_panel import SURVIVAL_COLUMNS, SurvivalPanel, horizon_column
from hybrid.cases import Cohort
from hybrid.errors import InputError
from hybrid.files import write_csv
from hybrid.provenance import digest, versions
from hybrid.selection import MAX_CORRELATION, MAX_FEATURES
from hybrid.tables import CLINICAL_PREFIX

from .evaluate import DEFAULT_SETS, FeatureSets, outer_splits
from .runner import Rows, Task, TaskResults, run_tasks
from .survival_fit import BASELINE_SETS, Plan, SurvivalTable, fit_cox, make_plan, model_sets, prepare_survival

logger = logging.getLogger(__name__)

FEW_EVENTS: Final = 10

DESIGN_COLUMNS: Final = ("feature_set", "n_columns", "n_parameters", "events_in_training", "events_per_parameter")
"""Columns of the table that :func:`events_per_parameter` returns."""


def cross_validate_survival(
    features: pd.DataFrame,
    cohort: Cohort,
    *,
    time: str,
    event: str,
    event_value: Any = None,
    feature_sets: FeatureSets = DEFAULT_SETS,
    covariates: Sequence[str] = (),
    volume: str | None = None,
    horizons: Sequence[float] | None = None,
    repeats: int = 5,
    folds: int = 5,
    inner_folds: int = 3,
    seed: int = 0,
    max_correlation: float = MAX_CORRELATION,
    max_features: int = MAX_FEATURES,
    n_jobs: int = 1,
    backend: str = "loky",
    out: str | Path | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Out-of-fold risk scores of Cox models: repeated, stratified by event, grouped by patient, nested.

    Parameters
    ----------
    features : DataFrame
        Index ``case_id``; not modified.
    cohort : Cohort
        With the columns ``time`` and ``event``.
    time, event : str
        Columns of the cohort table: follow-up in any unit, and 1 for an event, 0 for censoring.
    event_value : optional
        Value of the event column that means an event, where it is not coded 0/1; every other value means censoring.
    feature_sets : iterable of str, or mapping
        See :func:`hybrid.fusion.resolve_feature_sets`; sets that fuse probabilities (late, stacking) are not available.
    covariates : sequence of str
        Clinical columns, for the baseline ``clinical`` and for sets that ask for them.
    volume : str, optional
        Feature of the baseline ``volume``; by default the first shape volume of the feature table, if there is one.
    horizons : sequence of float, optional
        Times for which survival probabilities are predicted; by default :data:`DEFAULT_HORIZONS` evenly spaced ones
        from the first to the last decile of the event times.
    repeats, folds, inner_folds, seed, max_correlation, max_features
        See :func:`hybrid.pipelines.cross_validate`. Columns that correlate are clustered without looking at the
        outcome; then those with the largest Cox score statistic are kept.
    n_jobs, backend, out, progress
        See :func:`hybrid.pipelines.run_tasks`.

    Returns
    -------
    DataFrame
        :data:`hybrid.analysis.survival.SURVIVAL_COLUMNS`, the chosen ``penalty`` and ``l1_ratio``, the number of
        features ``n_nonzero`` of the model, and ``survival_at_<time>``. Besides the feature sets there are the
        baselines :data:`BASELINE_SETS`. ``.attrs["left_out"]`` lists cases without features.

    Raises
    ------
    InputError
        For missing or negative times, events other than 0/1, no events, a patient with two follow-up times (the cases
        are named), unknown names, or too few patients for the folds.
    """
    data = prepare_survival(
        features, cohort, time=time, event=event, event_value=event_value, covariates=covariates, horizons=horizons
    )
    plan = make_plan(data, feature_sets, volume, inner_folds, max_correlation, max_features, seed)
    _warn_if_few(data)
    tasks = _tasks(plan, data, repeats, folds, "")
    results = run_tasks(_fold_rows, tasks, stage="survival", out=out, n_jobs=n_jobs, backend=backend, progress=progress)
    table = _gather(results, plan)
    table.attrs["left_out"] = data.study.left_out.to_dict("records")
    return table


def survival_null(
    features: pd.DataFrame,
    cohort: Cohort,
    *,
    time: str,
    event: str,
    event_value: Any = None,
    feature_sets: FeatureSets = DEFAULT_SETS,
    covariates: Sequence[str] = (),
    volume: str | None = None,
    n_permutations: int = 20,
    folds: int = 5,
    inner_folds: int = 3,
    seed: int = 0,
    max_correlation: float = MAX_CORRELATION,
    max_features: int = MAX_FEATURES,
    n_jobs: int = 1,
    backend: str = "loky",
    out: str | Path | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """C-index and log-rank statistic when follow-up is shuffled among patients: what chance looks like here.

    Parameters
    ----------
    n_permutations : int
        Shuffles of time and event together; each runs one repeat of the whole nested procedure.
    features, cohort, time, event, event_value, feature_sets, covariates, volume, folds, inner_folds, seed
        See :func:`cross_validate_survival`.
    max_correlation, max_features, n_jobs, backend, out, progress
        See :func:`cross_validate_survival`.

    Returns
    -------
    DataFrame
        ``feature_set, permutation, c_index, chi2``; ``chi2`` compares the risk groups.
    """
    data = prepare_survival(features, cohort, time=time, event=event, event_value=event_value, covariates=covariates)
    plan = make_plan(data, feature_sets, volume, inner_folds, max_correlation, max_features, seed)
    tasks: list[Task] = []
    for number in range(n_permutations):
        shuffled = _shuffled(data, np.random.default_rng([seed, number, 2]))
        tasks += _tasks(plan, shuffled, 1, folds, f"p{number:04d}-")
    results = run_tasks(
        _fold_rows, tasks, stage="survival_null", out=out, n_jobs=n_jobs, backend=backend, progress=progress
    )
    _require_all(results)
    frames = [pd.DataFrame(rows).assign(permutation=int(name[1:5])) for name, rows in results.rows.items()]
    rows = []
    for number, own in pd.concat(frames).groupby("permutation") if frames else []:
        panel = SurvivalPanel.from_predictions(own)
        for name, risk, groups in zip(panel.feature_sets, panel.risk[:, 0], panel.groups(), strict=True):
            c = concordance_index(panel.time, panel.event, risk).c
            rows.append((name, int(number), c, log_rank(panel.time, panel.event, groups).chi2))
    return pd.DataFrame(rows, columns=["feature_set", "permutation", "c_index", "chi2"])


def _shuffled(data: SurvivalTable, rng: np.random.Generator) -> SurvivalTable:
    """Follow-up permuted among patients: rows of one patient move together."""
    patients, first, position = np.unique(data.study.patients, return_index=True, return_inverse=True)
    source = first[rng.permutation(len(patients))][position]
    return replace(data, time=data.time[source], event=data.event[source])


def events_per_parameter(
    features: pd.DataFrame,
    predictions: pd.DataFrame,
    *,
    feature_sets: FeatureSets = DEFAULT_SETS,
    covariates: Sequence[str] = (),
    volume: str | None = None,
    max_features: int = MAX_FEATURES,
) -> pd.DataFrame:
    """How many events of a training set stand behind each parameter that a model may use.

    Parameters
    ----------
    features : DataFrame
        Feature table.
    predictions : DataFrame
        From :func:`cross_validate_survival`.
    feature_sets, covariates, volume, max_features
        As given there.

    Returns
    -------
    DataFrame
        Columns :data:`DESIGN_COLUMNS`; ``n_parameters`` counts at most ``max_features`` columns of each block and all
        clinical columns.
    """
    columns = [str(name) for name in features.columns]
    sets = model_sets(feature_sets, columns, tuple(f"{CLINICAL_PREFIX}{name}" for name in covariates), volume)
    patients = predictions.drop_duplicates("patient_id")
    folds = predictions["fold"].nunique()
    events = float(patients["event"].sum()) * (folds - 1) / folds if folds > 1 else float(patients["event"].sum())
    rows = []
    for name, feature_set in sets.items():
        parameters = sum(min(len(block), max_features) for block in feature_set.blocks) + len(feature_set.clinical)
        if parameters:
            rows.append((name, len(feature_set.columns), parameters, events, events / parameters))
    return pd.DataFrame(rows, columns=list(DESIGN_COLUMNS))


@dataclass(frozen=True)
class _Fold:
    """Payload of one task."""

    plan: Plan
    data: SurvivalTable = field(repr=False)
    train: np.ndarray = field(repr=False)
    test: np.ndarray = field(repr=False)
    repeat: int
    fold: int


def _tasks(plan: Plan, data: SurvivalTable, repeats: int, folds: int, prefix: str) -> list[Task]:
    study = data.study
    content = digest([
        study.table.to_csv(index=False), study.cases, study.patients, data.time, data.event, plan.digest, folds
    ])  # fmt: skip
    _require_events(data, folds)
    tasks = []
    for repeat in range(repeats):
        for fold, (train, test) in enumerate(outer_splits(data.strata, study.patients, folds, plan.seed + repeat)):
            payload = _Fold(plan, data, train, test, repeat, fold)
            tasks.append(Task(f"{prefix}r{repeat}f{fold}", digest([content, repeat, fold]), payload))
    return tasks


def _require_events(data: SurvivalTable, folds: int) -> None:
    n_events = len(np.unique(data.study.patients[data.event]))
    if n_events < folds:
        raise InputError(
            f"{folds} folds need {folds} patients with an event; found {n_events}.",
            advice=f"Use folds={n_events}." if n_events >= 2 else "Follow the patients longer, or collect more.",
        )


def _warn_if_few(data: SurvivalTable) -> None:
    n_events = len(np.unique(data.study.patients[data.event]))
    if n_events < FEW_EVENTS:
        logger.warning("Only %d patients have an event: no model of survival can be trusted with so few.", n_events)


def _fold_rows(payload: _Fold, seed: int) -> Rows:
    """Fit every feature set on one training set and give the risks of its test rows."""
    rows: Rows = []
    plan, data, study = payload.plan, payload.data, payload.data.study
    outcome = np.column_stack([data.time, data.event.astype(np.float64)])
    for name, feature_set in plan.feature_sets.items():
        table = study.table[list(feature_set.columns)]
        train, test = table.iloc[payload.train], table.iloc[payload.test]
        with warnings.catch_warnings():
            # A category that training patients do not have counts as none of them, as documented.
            warnings.filterwarnings("ignore", message="Found unknown categories")
            model = fit_cox(
                plan, feature_set, train, outcome[payload.train], study.patients[payload.train],
                data.strata[payload.train], (payload.repeat, payload.fold),
            )  # fmt: skip
            cut, risks = float(np.median(model.predict(train))), model.predict(test)
            survival = model.predict_survival(test, data.horizons)
        for j, i in enumerate(payload.test):
            row = {
                "repeat": payload.repeat, "fold": payload.fold, "case_id": str(study.cases[i]),
                "patient_id": str(study.patients[i]), "feature_set": name, "time": float(data.time[i]),
                "event": int(data.event[i]), "risk": float(risks[j]), "group": "high" if risks[j] > cut else "low",
                "penalty": model.estimator.penalty_, "l1_ratio": model.estimator.l1_ratio,
                "n_nonzero": int(np.count_nonzero(model.estimator.coef_)),
            }  # fmt: skip
            if study.regions is not None:
                row["lesion_id"] = str(study.regions[i])
            rows.append(row | {horizon_column(h): float(survival[k, j]) for k, h in enumerate(data.horizons)})
    return rows


def _require_all(results: TaskResults) -> None:
    if len(results.failures):
        first = results.failures.iloc[0]
        raise InputError(
            f"{len(results.failures)} of {len(results.failures) + len(results.rows)} folds failed; the first, "
            f"{first['case_id']}: {first['message']}",
            advice=first["advice"],
        )


def _gather(results: TaskResults, plan: Plan) -> pd.DataFrame:
    """All folds as one table, ordered by feature set, repeat and fold."""
    _require_all(results)
    table = pd.DataFrame([row for rows in results.rows.values() for row in rows])
    order = {name: i for i, name in enumerate(plan.feature_sets)}
    table = table.sort_values(
        ["feature_set", "repeat", "fold"], key=lambda c: c.map(order) if c.name == "feature_set" else c, kind="stable"
    )
    others = [column for column in table.columns if column not in SURVIVAL_COLUMNS]
    return table[[*SURVIVAL_COLUMNS, *others]].reset_index(drop=True)


def run_survival(
    features: pd.DataFrame,
    cohort: Cohort,
    out: str | Path,
    *,
    time: str,
    event: str,
    event_value: Any = None,
    feature_sets: FeatureSets = DEFAULT_SETS,
    covariates: Sequence[str] = (),
    volume: str | None = None,
    horizons: Sequence[float] | None = None,
    repeats: int = 5,
    folds: int = 5,
    inner_folds: int = 3,
    n_permutations: int = 0,
    time_unit: str = "",
    title: str = "Survival",
    seed: int = 0,
    n_boot: int = 2000,
    **running: Any,
) -> Path:
    """Cross-validate, compare, and write ``predictions.csv``, ``tables/``, ``figures/`` and ``report.html``.

    Parameters
    ----------
    features, cohort, time, event, event_value, feature_sets, covariates, volume, horizons
        See :func:`cross_validate_survival`.
    repeats, folds, inner_folds, seed
        See :func:`cross_validate_survival`.
    out : path-like
        Folder.
    n_permutations : int
        Shuffles of the follow-up, see :func:`survival_null`; 0 leaves them out.
    time_unit : str
        Unit of ``time``, for the axes.
    title : str
        Heading of the report.
    n_boot : int
        Bootstrap draws of all intervals.
    **running
        ``n_jobs, backend, progress``.

    Returns
    -------
    Path
        The report.
    """
    from hybrid.analysis.survival_report import SurvivalReport

    out = Path(out)
    shared: dict[str, Any] = {
        "time": time, "event": event, "event_value": event_value, "feature_sets": feature_sets,
        "covariates": covariates, "volume": volume, "folds": folds, "inner_folds": inner_folds, "seed": seed,
    }  # fmt: skip
    predictions = cross_validate_survival(
        features, cohort, **shared, horizons=horizons, repeats=repeats, out=out, **running
    )
    write_csv(predictions, out / "predictions.csv")
    null = None
    if n_permutations:
        null = survival_null(features, cohort, **shared, n_permutations=n_permutations, out=out, **running)
    design = events_per_parameter(
        features, predictions, feature_sets=feature_sets, covariates=covariates, volume=volume
    )
    settings = shared | {"repeats": repeats, "horizons": horizons, "n_permutations": n_permutations}
    if not isinstance(feature_sets, Mapping):
        settings["feature_sets"] = list(feature_sets)
    report = SurvivalReport(
        predictions, design=design, null=null, time_unit=time_unit, title=title, n_boot=n_boot, seed=seed,
        left_out=predictions.attrs["left_out"], baselines=BASELINE_SETS,
        run_record={"settings": settings, "versions": versions()},
    )  # fmt: skip
    return report.save(out / "report.html")
