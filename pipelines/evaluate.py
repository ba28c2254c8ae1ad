"""Cross-validated predictions, the permutation null, and frozen models.

The loop over repeats and folds is ours: scikit-learn loses patient groups in nested cross-validation. One task is one
(repeat, outer fold) with all its models.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold

from hybrid.cases import Cohort
from hybrid.classifiers import BASELINES, CLASSIFIERS, resolve_classifiers
from hybrid.errors import InputError, LeakageError, unknown_name
from hybrid.fusion import INFOLD_PREFIX, FeatureSet, resolve_feature_sets
from hybrid.provenance import code_version, digest
from hybrid.selection import MAX_CORRELATION, MAX_FEATURES, MIN_ICC, univariate_auc
from hybrid.tables import PREDICTION_COLUMNS, SELECTED, check_predictions

from .crossval import Fitted, Settings, fit_models
from .runner import Rows, Task, TaskResults, run_tasks
from .study_table import StudyTable, clinical_columns, feature_columns, prepare_table

logger = logging.getLogger(__name__)

DEFAULT_SETS: Final = ("handcrafted", "deep", "fused")
DEFAULT_CLASSIFIERS: Final = ("logistic", "elastic_net", "rbf_svm", "random_forest", "xgboost")
BASELINE_SET: Final = "baseline"
"""Feature set of the majority baseline, which looks at nothing."""

FeatureSets = Iterable[str] | Mapping[str, str | Sequence[str]]
EncoderFactory = Callable[..., Any]


def cross_validate(
    features: pd.DataFrame,
    cohort: Cohort,
    *,
    feature_sets: FeatureSets = DEFAULT_SETS,
    classifiers: Iterable[Any] | Mapping[str, Any] = DEFAULT_CLASSIFIERS,
    covariates: Sequence[str] = (),
    repeats: int = 5,
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
    encoder: EncoderFactory | None = None,
    baselines: Sequence[str] = BASELINES,
    n_jobs: int = 1,
    backend: str = "loky",
    out: Any = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Out-of-fold predictions of every model: repeated, stratified, patient-grouped, nested.

    Parameters
    ----------
    features : DataFrame
        Index ``case_id``; not modified. Its row order does not matter.
    cohort : Cohort
        Outcomes, patients, covariates (and images, for an in-fold encoder).
    feature_sets : iterable of str, or mapping
        See :func:`hybrid.fusion.resolve_feature_sets`.
    classifiers : iterable of str or estimator, or mapping
        See :data:`hybrid.classifiers.CLASSIFIERS`; instances with ``predict_proba`` are welcome.
    covariates : sequence of str
        Clinical columns of the cohort, for sets that ask for them and for the clinical baseline.
    repeats, folds, inner_folds : int
        Outer repeats and folds, and inner folds.
    seed : int
        Of all splits and estimators.
    positive : optional
        Outcome that counts as positive; may be left out for outcomes 0/1 and False/True.
    max_correlation, max_features, min_icc
        Of the preprocessing prefix, see :func:`hybrid.classifiers.make_prefix`.
    calibration : None or "sigmoid"
        Recalibration inside the fold.
    selector : str, optional
        Name in :data:`hybrid.selection_methods.SELECTORS`: what chooses the features inside the fold, see
        :func:`hybrid.classifiers.make_prefix`.
    harmonise : str, optional
        ``"site"``, or a column of the cohort that names the scanner or centre: ComBat fitted on the training rows of
        each fold, without the outcome, see :class:`hybrid.fold_options.BatchHarmoniser`. The table then has a column
        ``harmonised``.
    unseen_batch : {"unadjusted", "error"}
        What happens to rows of a batch that has fewer than two training rows.
    imbalance : None or "class_weight"
        Whether classes are weighted inversely to their size in training. Probabilities then lean towards the rarer
        class; recalibrate them.
    encoder : callable, optional
        ``encoder(seed=...)`` gives an object with ``fit(cases, y)`` and ``transform(cases)`` (a DataFrame indexed by
        ``case_id``), such as :class:`hybrid.deep.OutcomeEncoder`. It is trained once per outer fold on one half of the
        training patients; models of the sets ``deep_infold`` and ``fused_infold`` are fitted on the other half, so
        that their training rows do not carry overfitted embeddings.
    baselines : sequence of str
        ``"majority"`` and ``"clinical"`` (the latter when there are covariates).
    n_jobs, backend, out, progress
        See :func:`hybrid.pipelines.run_tasks`.

    Returns
    -------
    DataFrame
        :data:`hybrid.tables.PREDICTION_COLUMNS` plus ``chosen`` (the classifier behind ``selected``). ``threshold`` is
        the cut-off chosen on training patients. ``.attrs["left_out"]`` lists the cases that could not be used.

    Raises
    ------
    InputError
        For unknown names, an outcome that is not binary, too few patients of a class, or ids that do not match.
    """
    study = prepare_table(features, cohort, covariates=covariates, positive=positive, harmonise=harmonise)
    plan = _plan(
        study, feature_sets, classifiers, baselines, encoder, inner_folds=inner_folds, calibration=calibration,
        max_correlation=max_correlation, max_features=max_features, min_icc=min_icc, selector=selector,
        harmonise=harmonise, unseen_batch=unseen_batch, imbalance=imbalance, seed=seed,
    )  # fmt: skip
    tasks = _tasks(plan, study, cohort if encoder is not None else None, study.y, repeats, folds, "")
    results = run_tasks(_fold_rows, tasks, stage="evaluate", out=out, n_jobs=n_jobs, backend=backend, progress=progress)
    table = _gather(results)
    _report_unadjusted(table)
    table.attrs["left_out"] = study.left_out.to_dict("records")
    return table


def permutation_null(
    features: pd.DataFrame,
    cohort: Cohort,
    *,
    n_permutations: int = 20,
    feature_sets: FeatureSets = DEFAULT_SETS,
    classifiers: Iterable[Any] | Mapping[str, Any] = DEFAULT_CLASSIFIERS,
    covariates: Sequence[str] = (),
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
    """AUC of the declared pipeline when outcomes are shuffled among patients: what chance looks like here.

    With few patients the mean of this null is not 0.5 (a patient who is held out shifts the class balance of the
    training set the other way), so that it stands beside every AUC.

    Parameters
    ----------
    n_permutations : int
        Shuffles; each runs one repeat of the whole nested procedure.
    features, cohort, feature_sets, classifiers, covariates, folds, inner_folds, seed, positive
        See :func:`cross_validate`.
    max_correlation, max_features, min_icc, calibration, selector, harmonise, unseen_batch, imbalance
        See :func:`cross_validate`.
    n_jobs, backend, out, progress
        See :func:`hybrid.pipelines.run_tasks`.

    Returns
    -------
    DataFrame
        ``feature_set, permutation, auc`` of the classifier chosen in the inner loop.
    """
    study = prepare_table(features, cohort, covariates=covariates, positive=positive, harmonise=harmonise)
    plan = _plan(
        study, feature_sets, classifiers, (), None, inner_folds=inner_folds, calibration=calibration,
        max_correlation=max_correlation, max_features=max_features, min_icc=min_icc, selector=selector,
        harmonise=harmonise, unseen_batch=unseen_batch, imbalance=imbalance, seed=seed,
    )  # fmt: skip
    tasks = []
    for number in range(n_permutations):
        y = _shuffled(study, np.random.default_rng([seed, number, 1]))
        tasks += _tasks(plan, study, None, y, 1, folds, f"p{number:04d}-")
    results = run_tasks(
        _fold_rows, tasks, stage="permutation_null", out=out, n_jobs=n_jobs, backend=backend, progress=progress
    )
    _require_all(results)
    by_permutation: dict[int, Rows] = {}
    for task_id, fold_rows in results.rows.items():
        by_permutation.setdefault(int(task_id[1:5]), []).extend(fold_rows)
    rows = [
        {"feature_set": name, "permutation": number, "auc": _auc(group)}
        for number, fold_rows in by_permutation.items()
        for name, group in pd.DataFrame(fold_rows).query("classifier == @SELECTED").groupby("feature_set", sort=False)
    ]
    return pd.DataFrame(rows, columns=["feature_set", "permutation", "auc"])


def _auc(group: pd.DataFrame) -> float:
    return float(univariate_auc(group[["y_prob"]].to_numpy(), group["y_true"].to_numpy())[0])


def _shuffled(study: StudyTable, rng: np.random.Generator) -> np.ndarray:
    """Outcomes permuted among patients: rows of one patient move together."""
    patients, first = np.unique(study.patients, return_index=True)
    own = study.y[first]
    new = dict(zip(patients, rng.permutation(own), strict=True))
    return np.asarray([new[patient] for patient in study.patients])


@dataclass(frozen=True)
class _Plan:
    """Everything that a task needs besides its rows."""

    feature_sets: dict[str, FeatureSet]
    names: tuple[str, ...]
    own_classifiers: dict[str, Any]
    baselines: tuple[str, ...]
    clinical: tuple[str, ...]
    settings: dict[str, Any]
    encoder: EncoderFactory | None
    seed: int
    digest: str


def _plan(
    study: StudyTable,
    feature_sets: FeatureSets,
    classifiers: Any,
    baselines: Sequence[str],
    encoder: EncoderFactory | None,
    *,
    seed: int,
    **settings: Any,
) -> _Plan:
    columns, clinical = feature_columns(study.table), clinical_columns(study.table)
    # The number of an encoder's columns is not known yet; one stands for all.
    resolved = resolve_feature_sets(feature_sets, [*columns, *([f"{INFOLD_PREFIX}*"] if encoder else [])], clinical)
    named = resolve_classifiers(classifiers)
    Settings(named, **settings).check()
    own = {name: item for name, item in named.items() if CLASSIFIERS.get(name) is not item}
    asked = [name for name in BASELINES if name in baselines or name in named]
    for name in baselines:
        if name not in BASELINES:
            raise unknown_name("baseline", name, BASELINES)
    names = tuple(name for name in named if name not in BASELINES)
    description = [
        {name: [fs.blocks, fs.fusion, fs.clinical] for name, fs in resolved.items()}, names, asked, settings, seed,
        {name: [repr(item.make(0)), item.grid] for name, item in own.items()}, repr(encoder), code_version(),
    ]  # fmt: skip
    return _Plan(
        resolved, names, own, tuple(name for name in asked if name != "clinical" or clinical), clinical,
        {**settings, "categorical": study.categorical}, encoder, seed, digest(description),
    )  # fmt: skip


@dataclass(frozen=True)
class _Fold:
    """Payload of one task."""

    plan: _Plan
    table: pd.DataFrame
    cases: np.ndarray
    patients: np.ndarray
    regions: np.ndarray | None
    y: np.ndarray
    train: np.ndarray
    test: np.ndarray
    repeat: int
    fold: int
    cohort: Cohort | None


def _tasks(
    plan: _Plan, study: StudyTable, cohort: Cohort | None, y: np.ndarray, repeats: int, folds: int, prefix: str
) -> list[Task]:
    content = digest(
        [study.table.to_csv(index=False), study.cases, study.patients, study.regions, y, plan.digest, folds]
    )
    tasks = []
    for repeat in range(repeats):
        for fold, (train, test) in enumerate(outer_splits(y, study.patients, folds, plan.seed + repeat)):
            payload = _Fold(
                plan, study.table, study.cases, study.patients, study.regions, y, train, test, repeat, fold, cohort
            )
            tasks.append(Task(f"{prefix}r{repeat}f{fold}", digest([content, repeat, fold]), payload))
    return tasks


def outer_splits(y: np.ndarray, patients: np.ndarray, folds: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Stratified, patient-grouped folds; every test fold and every training set holds both classes.

    Raises
    ------
    InputError
        When a class has fewer patients than folds.
    """
    counts = {value: len(np.unique(patients[y == value])) for value in (0, 1)}
    fewest = min(counts.values())
    if fewest < folds:
        raise InputError(
            f"{folds} folds need {folds} patients of each outcome; found {counts[1]} positive, {counts[0]} negative.",
            advice=f"Use folds={fewest}." if fewest >= 2 else "More patients of the rarer outcome are needed.",
        )
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    splits = list(splitter.split(np.zeros(len(y)), y, patients))
    for train, test in splits:
        if set(patients[train]) & set(patients[test]):
            raise LeakageError("A patient fell on both sides of a split.", advice="Please report this.")
        if len(np.unique(y[train])) < 2:
            raise InputError("A training fold has one outcome only.", advice="Use fewer folds.")
    return splits


def fold_seed(seed: int, repeat: int, fold: int) -> int:
    """Seed of inner splits and estimators of one training set."""
    return int(np.random.SeedSequence([seed, repeat, fold]).generate_state(1)[0])


def _fold_rows(payload: _Fold, seed: int) -> Rows:
    """Fit all models on one training set and predict its test rows."""
    plan = payload.plan
    rng_seed = fold_seed(plan.seed, payload.repeat, payload.fold)
    classifiers = {name: plan.own_classifiers.get(name) or resolve_classifiers([name])[name] for name in plan.names}
    settings = Settings(classifiers, **plan.settings)
    rows: Rows = []
    plain = {name: fs for name, fs in plan.feature_sets.items() if not fs.infold}
    infold = {name: fs for name, fs in plan.feature_sets.items() if fs.infold}
    train, test = payload.train, payload.test
    if plain:
        models = fit_models(
            payload.table.iloc[train], payload.y[train], payload.patients[train], plain, settings, rng_seed
        )
        rows += _predictions(models, payload, payload.table.iloc[test])
    if infold:
        rows += _infold_rows(payload, infold, settings, rng_seed)
    return rows + _baseline_rows(payload, settings, rng_seed)


def _baseline_rows(payload: _Fold, settings: Settings, seed: int) -> Rows:
    rows: Rows = []
    train, test = payload.train, payload.test
    if "majority" in payload.plan.baselines:
        # The prevalence of a training fold moves against that of its test fold: as a probability it would rank
        # patients worse than chance. Everybody gets 0.5, and the cut-off says which class is the majority.
        cutoff = 0.5 if payload.y[train].mean() >= 0.5 else 1.0
        calls = _Calls(np.full(len(test), 0.5), cutoff, "majority", np.zeros(len(test), dtype=bool))
        rows += _rows(payload, BASELINE_SET, "majority", calls)
    if "clinical" in payload.plan.baselines:
        only = {"clinical": FeatureSet("clinical", (), "early", payload.plan.clinical)}
        own = Settings({"clinical": CLASSIFIERS["clinical"]}, **payload.plan.settings)
        models = fit_models(payload.table.iloc[train], payload.y[train], payload.patients[train], only, own, seed)
        del models["clinical", SELECTED]
        rows += _predictions(models, payload, payload.table.iloc[test])
    return rows


def _infold_rows(payload: _Fold, sets: Mapping[str, FeatureSet], settings: Settings, seed: int) -> Rows:
    """Train the encoder on half of the training patients, the models on the other half."""
    train, test = payload.train, payload.test
    if payload.plan.encoder is None or payload.cohort is None:
        raise InputError("A set with in-fold embeddings needs an encoder.", advice="Give encoder= a factory.")
    halves = StratifiedGroupKFold(2, shuffle=True, random_state=seed)
    first, second = next(iter(halves.split(train, payload.y[train], payload.patients[train])))
    learn, fit = train[first], train[second]
    encoder = payload.plan.encoder(seed=seed)
    encoder.fit([payload.cohort[case] for case in payload.cases[learn]], payload.y[learn])
    used = np.concatenate([fit, test])
    embedded = encoder.transform([payload.cohort[case] for case in payload.cases[used]])
    embedded = embedded.set_axis([f"{INFOLD_PREFIX}{i:04d}" for i in range(embedded.shape[1])], axis=1)
    rows = payload.table.iloc[used].reset_index(drop=True)
    table = pd.concat([rows, embedded.loc[payload.cases[used]].reset_index(drop=True)], axis=1)
    known = {name: _with_infold(fs, tuple(embedded.columns)) for name, fs in sets.items()}
    models = fit_models(table.iloc[: len(fit)], payload.y[fit], payload.patients[fit], known, settings, seed)
    return _predictions(models, payload, table.iloc[len(fit) :])


def _with_infold(feature_set: FeatureSet, columns: tuple[str, ...]) -> FeatureSet:
    blocks = tuple(columns if block[0].startswith(INFOLD_PREFIX) else block for block in feature_set.blocks)
    return FeatureSet(feature_set.name, blocks, feature_set.fusion, feature_set.clinical)


def _predictions(models: Mapping[tuple[str, str], Fitted], payload: _Fold, test_rows: pd.DataFrame) -> Rows:
    rows: Rows = []
    for (feature_set, classifier), model in models.items():
        calls = _Calls(model.predict(test_rows), model.threshold, model.chosen, model.is_harmonised(test_rows))
        rows += _rows(payload, feature_set, classifier, calls)
    return rows


@dataclass(frozen=True)
class _Calls:
    """What one model says about the test rows of a fold."""

    probabilities: np.ndarray
    threshold: float
    chosen: str
    harmonised: np.ndarray


def _rows(payload: _Fold, feature_set: str, classifier: str, calls: _Calls) -> Rows:
    rows: Rows = []
    is_harmonised = payload.plan.settings["harmonise"] is not None
    for i, probability, adjusted in zip(payload.test, calls.probabilities, calls.harmonised, strict=True):
        row = {
            "case_id": str(payload.cases[i]), "patient_id": str(payload.patients[i]), "feature_set": feature_set,
            "classifier": classifier, "split": "test", "repeat": payload.repeat, "fold": payload.fold,
            "y_true": int(payload.y[i]), "y_prob": float(probability), "threshold": float(calls.threshold),
            "chosen": calls.chosen,
        }  # fmt: skip
        if is_harmonised:
            row["harmonised"] = bool(adjusted)
        if payload.regions is not None:
            row["lesion_id"] = str(payload.regions[i])
        rows.append(row)
    return rows


def _require_all(results: TaskResults) -> None:
    if len(results.failures):
        first = results.failures.iloc[0]
        raise InputError(
            f"{len(results.failures)} of {len(results.failures) + len(results.rows)} folds failed; the first, "
            f"{first['case_id']}: {first['message']}",
            advice=first["advice"],
        )


def _report_unadjusted(table: pd.DataFrame) -> None:
    """Warn of cases that harmonisation left as they are because of their batch."""
    if "harmonised" not in table.columns:
        return
    by_case = table.groupby("case_id")["harmonised"].any()
    if not by_case.all():
        logger.warning(
            "%d of %d cases were never harmonised, because their batch has too few training rows.",
            int((~by_case).sum()), len(by_case),
        )  # fmt: skip


def _gather(results: TaskResults) -> pd.DataFrame:
    """All folds as one table, ordered by model, repeat and fold."""
    _require_all(results)
    table = pd.DataFrame([row for rows in results.rows.values() for row in rows])
    order = {name: i for i, name in enumerate(table["feature_set"].drop_duplicates())}
    position = {name: i for i, name in enumerate(table["classifier"].drop_duplicates())}
    keys = pd.DataFrame({"a": table["feature_set"].map(order), "b": table["classifier"].map(position)})
    table = table.iloc[keys.assign(r=table["repeat"], f=table["fold"]).sort_values(list("abrf"), kind="stable").index]
    others = [column for column in table.columns if column not in PREDICTION_COLUMNS]
    return check_predictions(table[[*PREDICTION_COLUMNS, *others]].reset_index(drop=True))
