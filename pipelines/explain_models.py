"""What the models of a cross-validation look at, judged on patients that they have not seen.

The folds, the features chosen in them and the fitted models are those of :func:`hybrid.pipelines.cross_validate` with
the same settings. A model is explained on the test rows of its fold only: importance on training rows shows what was
learnt by heart, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pandas as pd

from hybrid.cases import Cohort
from hybrid.classifiers import BASELINES, CLASSIFIERS, resolve_classifiers
from hybrid.errors import InputError
from hybrid.fusion import FeatureSet, resolve_feature_sets
from hybrid.provenance import code_version, digest
from hybrid.selection import MAX_CORRELATION, MAX_FEATURES, MIN_ICC
from hybrid.shapley import shapley_values
from hybrid.tables import SELECTED

from .crossval import Fitted, Settings, fit_models
from .evaluate import DEFAULT_CLASSIFIERS, DEFAULT_SETS, FeatureSets, fold_seed, outer_splits
from .runner import Rows, Task, run_tasks
from .study_table import StudyTable, clinical_columns, feature_columns, prepare_table

DRAWS: Final = 5
"""Permutations of each feature among the test rows of a fold."""

BACKGROUND: Final = 40
"""Training rows that stand for absent features."""


def explain_models(
    features: pd.DataFrame,
    cohort: Cohort,
    *,
    feature_sets: FeatureSets = DEFAULT_SETS,
    classifiers: Iterable[Any] | Mapping[str, Any] = DEFAULT_CLASSIFIERS,
    covariates: Sequence[str] = (),
    repeats: int = 1,
    folds: int = 5,
    inner_folds: int = 3,
    seed: int = 0,
    positive: Any = None,
    max_correlation: float = MAX_CORRELATION,
    max_features: int = MAX_FEATURES,
    min_icc: float = MIN_ICC,
    calibration: str | None = None,
    selector: str | None = None,
    harmonise: str | None = None,
    unseen_batch: str = "unadjusted",
    imbalance: str | None = None,
    n_jobs: int = 1,
    backend: str = "loky",
    out: Any = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Shapley values and permuted predictions of the classifier chosen in the inner loop, out of fold.

    Parameters
    ----------
    repeats : int
        Repeats that are explained; the first ones of :func:`hybrid.pipelines.cross_validate`.
    features, cohort, feature_sets, classifiers, covariates, folds, inner_folds, seed, positive
        See :func:`hybrid.pipelines.cross_validate`; sets with in-fold embeddings are not available.
    max_correlation, max_features, min_icc, calibration, selector, harmonise, unseen_batch, imbalance
        See :func:`hybrid.pipelines.cross_validate`.
    n_jobs, backend, out, progress
        See :func:`hybrid.pipelines.run_tasks`.

    Returns
    -------
    DataFrame
        One row per feature set, repeat, row of the study and feature that the fold chose: ``feature_set, repeat, fold,
        case_id, patient_id, y_true, y_prob, base, feature, value, shap``, and ``permuted_<k>``, the probability after
        the feature was permuted among the test rows of the fold. ``value`` is what the classifier sees (imputed and
        standardised); the Shapley values of a row sum to ``y_prob - base``. ``.attrs["candidates"]`` holds the number
        of candidate columns of each set. See :func:`hybrid.analysis.feature_importance`.

    Raises
    ------
    InputError
        See :func:`hybrid.pipelines.cross_validate`; also for sets with in-fold embeddings.
    """
    study = prepare_table(features, cohort, covariates=covariates, positive=positive, harmonise=harmonise)
    sets = resolve_feature_sets(feature_sets, feature_columns(study.table), clinical_columns(study.table))
    if any(chosen.infold for chosen in sets.values()):
        raise InputError("Embeddings that differ from fold to fold cannot be explained.", advice="Leave them out.")
    options: dict[str, Any] = {
        "inner_folds": inner_folds, "calibration": calibration, "categorical": study.categorical,
        "max_correlation": max_correlation, "max_features": max_features, "min_icc": min_icc, "selector": selector,
        "harmonise": harmonise, "unseen_batch": unseen_batch, "imbalance": imbalance,
    }  # fmt: skip
    named = {name: item for name, item in resolve_classifiers(classifiers).items() if name not in BASELINES}
    Settings(named, **options).check()
    tasks = _tasks(_Plan(sets, named, options, seed), study, repeats, folds)
    results = run_tasks(_fold_rows, tasks, stage="explain", out=out, n_jobs=n_jobs, backend=backend, progress=progress)
    if len(results.failures):
        first = results.failures.iloc[0]
        raise InputError(f"{first['case_id']}: {first['message']}", advice=first["advice"])
    table = pd.DataFrame([row for rows in results.rows.values() for row in rows])
    order = {name: i for i, name in enumerate(sets)}
    table = table.sort_values(
        ["feature_set", "repeat", "fold"], key=lambda c: c.map(order) if c.name == "feature_set" else c, kind="stable"
    ).reset_index(drop=True)
    table.attrs["candidates"] = {name: len(chosen.columns) for name, chosen in sets.items()}
    return table


@dataclass(frozen=True)
class _Plan:
    feature_sets: dict[str, FeatureSet]
    classifiers: dict[str, Any]
    options: dict[str, Any]
    seed: int


@dataclass(frozen=True)
class _Fold:
    """Payload of one task; own classifiers travel, known ones by name."""

    feature_sets: dict[str, FeatureSet]
    classifiers: dict[str, Any]
    options: dict[str, Any]
    study: StudyTable = field(repr=False)
    train: np.ndarray = field(repr=False)
    test: np.ndarray = field(repr=False)
    place: tuple[int, int] = (0, 0)
    seed: int = 0


def _tasks(plan: _Plan, study: StudyTable, repeats: int, folds: int) -> list[Task]:
    own = {name: None if CLASSIFIERS.get(name) is item else item for name, item in plan.classifiers.items()}
    content = digest([
        study.table.to_csv(index=False), study.cases, study.patients, study.regions, study.y, folds, plan.seed,
        {name: [chosen.blocks, chosen.fusion, chosen.clinical] for name, chosen in plan.feature_sets.items()},
        {name: [repr(item.make(0)), item.grid] for name, item in plan.classifiers.items()}, plan.options,
        code_version(), DRAWS, BACKGROUND,
    ])  # fmt: skip
    tasks = []
    for repeat in range(repeats):
        for fold, (train, test) in enumerate(outer_splits(study.y, study.patients, folds, plan.seed + repeat)):
            seed = fold_seed(plan.seed, repeat, fold)
            payload = _Fold(plan.feature_sets, own, plan.options, study, train, test, (repeat, fold), seed)
            tasks.append(Task(f"r{repeat}f{fold}", digest([content, repeat, fold]), payload))
    return tasks


def _fold_rows(payload: _Fold, seed: int) -> Rows:
    classifiers = {name: item or CLASSIFIERS[name] for name, item in payload.classifiers.items()}
    settings, study, train = Settings(classifiers, **payload.options), payload.study, payload.train
    models = fit_models(
        study.table.iloc[train], study.y[train], study.patients[train], payload.feature_sets, settings, payload.seed
    )
    rows: Rows = []
    for name in payload.feature_sets:
        rows += _explained(models[name, SELECTED], name, payload)
    return rows


def _explained(fitted: Fitted, name: str, payload: _Fold) -> Rows:
    """Shapley values and permuted predictions of one model for its test rows."""
    study, test = payload.study, payload.test
    rng = np.random.default_rng(payload.seed)
    seen = _Columns(fitted)
    if not seen.names:
        return []
    known, unseen = seen.join(study.table.iloc[payload.train]), seen.join(study.table.iloc[test])
    background = known[np.sort(rng.permutation(len(known))[:BACKGROUND])]
    values = shapley_values(seen.predict, unseen, background, seed=payload.seed)
    base, probability = float(seen.predict(background).mean()), seen.predict(unseen)
    mixed = np.tile(unseen, (len(seen.names), DRAWS, 1, 1))
    for j, draws in enumerate(mixed):
        for draw in draws:
            draw[:, j] = rng.permutation(unseen[:, j])
    permuted = seen.predict(mixed.reshape(-1, len(seen.names))).reshape(mixed.shape[:-1])
    rows: Rows = []
    for j, feature in enumerate(seen.names):
        for k, i in enumerate(test):
            row = {
                "feature_set": name, "repeat": payload.place[0], "fold": payload.place[1],
                "case_id": str(study.cases[i]), "patient_id": str(study.patients[i]), "y_true": int(study.y[i]),
                "y_prob": float(probability[k]), "base": base, "feature": feature, "value": float(unseen[k, j]),
                "shap": float(values[k, j]),
            }  # fmt: skip
            if study.regions is not None:
                row["lesion_id"] = str(study.regions[i])
            rows.append(row | {f"permuted_{d}": float(permuted[j, d, k]) for d in range(DRAWS)})
    return rows


class _Columns:
    """The columns that the parts of a model see, each once: clinical ones may be seen by several parts."""

    def __init__(self, fitted: Fitted) -> None:
        own = [[str(name) for name in prefix.get_feature_names_out()] for prefix in fitted.prefixes]
        self.names = list(dict.fromkeys(name for part in own for name in part))
        self._places = [[self.names.index(name) for name in part] for part in own]
        self._fitted = fitted

    def join(self, table: pd.DataFrame) -> np.ndarray:
        joined = np.empty((len(table), len(self.names)))
        for places, part in zip(self._places, self._fitted.reduce(table), strict=True):
            joined[:, places] = part
        return joined

    def predict(self, joined: np.ndarray) -> np.ndarray:
        return self._fitted.predict_reduced([joined[:, places] for places in self._places])
