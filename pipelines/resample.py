"""Honest performance of one declared pipeline when there are too few patients to set some aside.

Every training set (a bootstrap sample, or all patients but two) runs the whole pipeline: preprocessing, selection,
tuning and choice of the classifier happen inside it, exactly as in a training fold of
:func:`hybrid.pipelines.cross_validate`. Patients are resampled, not rows: all rows of a patient are drawn together, and
the copies of a patient in a bootstrap sample share an inner fold. The arithmetic is in
:mod:`hybrid.analysis.optimism`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hybrid.analysis.optimism import (
    Refits,
    estimates_632,
    leave_one_out_error,
    leave_pair_out_auc,
    optimism_corrected,
    tournament_scores,
)
from hybrid.analysis.resampling import patient_weights
from hybrid.analysis.roc import check_level
from hybrid.cases import Cohort
from hybrid.classifiers import CLASSIFIERS, resolve_classifiers
from hybrid.errors import InputError, unknown_name
from hybrid.fusion import CLINICAL_SUFFIX, INFOLD_PREFIX, NAMED_SETS, FeatureSet, resolve_feature_sets
from hybrid.provenance import code_version, digest
from hybrid.selection import MAX_CORRELATION, MAX_FEATURES, MIN_ICC
from hybrid.tables import SELECTED

from .crossval import Settings, fit_models
from .evaluate import DEFAULT_CLASSIFIERS
from .runner import Rows, Task, run_tasks
from .study_table import StudyTable, clinical_columns, feature_columns, prepare_table

FEWEST_PATIENTS: Final = 4
"""Patients of each outcome that resampling needs: without two of them, two remain for the inner folds."""

BOOTSTRAP_STAGE: Final = "bootstrap"
PAIRS_STAGE: Final = "leave_pair_out"
WHOLE: Final = "whole_sample"

Fits = dict[str, pd.DataFrame]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class DeclaredPipeline:
    """One feature set and how a model is made of it, declared before the data are looked at.

    Parameters
    ----------
    feature_set : str or mapping of one name
        See :func:`hybrid.fusion.resolve_feature_sets`.
    classifiers : iterable of str or estimator, or mapping
        See :func:`hybrid.pipelines.cross_validate`; of several, the inner folds of each training set choose one.
    covariates : sequence of str
        Clinical columns of the cohort, for sets that ask for them.
    inner_folds : int
        Folds inside each training set.
    calibration : None or "sigmoid"
        Recalibration inside each training set.
    max_correlation, max_features, min_icc, selector
        See :func:`hybrid.classifiers.make_prefix`.
    harmonise, unseen_batch, imbalance
        See :func:`hybrid.pipelines.cross_validate`.
    """

    feature_set: str | Mapping[str, str | Sequence[str]] = "handcrafted"
    classifiers: Iterable[Any] | Mapping[str, Any] = DEFAULT_CLASSIFIERS
    covariates: Sequence[str] = ()
    inner_folds: int = 3
    calibration: str | None = None
    max_correlation: float = MAX_CORRELATION
    max_features: int = MAX_FEATURES
    min_icc: float = MIN_ICC
    selector: str | None = None
    harmonise: str | None = None
    unseen_batch: str = "unadjusted"
    imbalance: str | None = None

    def settings(self, categorical: Sequence[str] = ()) -> Settings:
        """Give the settings of every fit.

        Parameters
        ----------
        categorical : sequence of str
            Clinical columns that hold categories.
        """
        return Settings(
            classifiers=resolve_classifiers(self.classifiers),
            inner_folds=self.inner_folds,
            calibration=self.calibration,
            categorical=tuple(categorical),
            max_correlation=self.max_correlation,
            max_features=self.max_features,
            min_icc=self.min_icc,
            selector=self.selector,
            harmonise=self.harmonise,
            unseen_batch=self.unseen_batch,
            imbalance=self.imbalance,
        )


def bootstrap_632(
    features: pd.DataFrame,
    cohort: Cohort,
    pipeline: DeclaredPipeline,
    *,
    n_bootstrap: int = 200,
    level: float = 0.95,
    seed: int = 0,
    positive: Any = None,
    n_jobs: int = 1,
    backend: str = "loky",
    out: Any = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Out-of-bag, .632 and .632+ estimates of one pipeline.

    Parameters
    ----------
    features : DataFrame
        Index ``case_id``; not modified.
    cohort : Cohort
        Outcomes, patients and covariates.
    pipeline : DeclaredPipeline
        What is fitted on every bootstrap sample.
    n_bootstrap : int
        Bootstrap samples of patients, drawn within each outcome. Samples with fewer than two different patients of an
        outcome cannot be tuned and are drawn again. The first samples are the same for any number. With fewer than
        100 the standard errors are rough.
    level : float
        Confidence level.
    seed : int
        Of draws, inner folds and estimators.
    positive, n_jobs, backend, out, progress
        See :func:`hybrid.pipelines.cross_validate`. With ``out``, :func:`optimism_bootstrap` uses the same fits.

    Returns
    -------
    DataFrame
        ``feature_set, classifier``, then :data:`hybrid.analysis.optimism.RESAMPLING_COLUMNS`, one row per measure and
        method; see :func:`hybrid.analysis.optimism.estimates_632`. ``.attrs["chosen"]`` counts the classifiers that the
        fits chose, ``.attrs["left_out"]`` lists cases that could not be used.

    Raises
    ------
    InputError
        For unknown names, an outcome that is not binary, fewer than four patients of an outcome, or a fit that failed.
    """
    check_level(level)
    study = _declare(features, cohort, pipeline, seed, positive)
    fits = _fit(study, _bootstrap_samples(study, n_bootstrap), BOOTSTRAP_STAGE, n_jobs, backend, out, progress)
    return _finish(estimates_632(_refits(study, fits, n_bootstrap), level=level), study, fits)


def optimism_bootstrap(
    features: pd.DataFrame,
    cohort: Cohort,
    pipeline: DeclaredPipeline,
    *,
    n_bootstrap: int = 200,
    level: float = 0.95,
    seed: int = 0,
    positive: Any = None,
    n_jobs: int = 1,
    backend: str = "loky",
    out: Any = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Optimism-corrected performance of one pipeline (Harrell's bootstrap).

    Parameters
    ----------
    features, cohort, pipeline, n_bootstrap, level, seed, positive, n_jobs, backend, out, progress
        See :func:`bootstrap_632`.

    Returns
    -------
    DataFrame
        As :func:`bootstrap_632`; see :func:`hybrid.analysis.optimism.optimism_corrected`. The estimate of a pipeline
        that fits its training patients perfectly is far too good, and is marked so in ``is_optimistic``.

    Raises
    ------
    InputError
        See :func:`bootstrap_632`.
    """
    check_level(level)
    study = _declare(features, cohort, pipeline, seed, positive)
    fits = _fit(study, _bootstrap_samples(study, n_bootstrap), BOOTSTRAP_STAGE, n_jobs, backend, out, progress)
    return _finish(optimism_corrected(_refits(study, fits, n_bootstrap), level=level), study, fits)


def leave_pair_out(
    features: pd.DataFrame,
    cohort: Cohort,
    pipeline: DeclaredPipeline,
    *,
    n_pairs: int | None = None,
    level: float = 0.95,
    seed: int = 0,
    positive: Any = None,
    n_jobs: int = 1,
    backend: str = "loky",
    out: Any = None,
    progress: bool = True,
) -> pd.DataFrame:
    """AUC of one pipeline refitted without each pair of a positive and a negative patient.

    Parameters
    ----------
    n_pairs : int, optional
        Pairs of patients, spread evenly over patients; by default all (50 patients with 20 events need 600 fits).
    features, cohort, pipeline, level, seed, positive, n_jobs, backend, out, progress
        See :func:`bootstrap_632`.

    Returns
    -------
    DataFrame
        As :func:`bootstrap_632`, one row; see :func:`hybrid.analysis.optimism.leave_pair_out_auc`. Both patients are
        left out with all their rows.

    Raises
    ------
    InputError
        See :func:`bootstrap_632`; also for fewer than two pairs.
    """
    check_level(level)
    study = _declare(features, cohort, pipeline, seed, positive)
    pairs = _mixed_pairs(study)
    if n_pairs is not None:
        pairs = _spread(pairs, n_pairs, seed)
    fits = _fit(study, _without_pairs(study, pairs), PAIRS_STAGE, n_jobs, backend, out, progress)
    compared = [_compared(study, fits[_pair_id(pair)], pair) for pair in pairs]
    return _finish(leave_pair_out_auc(pd.concat(compared, ignore_index=True), level=level), study, fits)


def tournament_leave_pair_out(
    features: pd.DataFrame,
    cohort: Cohort,
    pipeline: DeclaredPipeline,
    *,
    seed: int = 0,
    positive: Any = None,
    n_jobs: int = 1,
    backend: str = "loky",
    out: Any = None,
    progress: bool = True,
) -> pd.DataFrame:
    """One score per patient from leave-pair-out over all pairs, for a ROC curve.

    Parameters
    ----------
    features, cohort, pipeline, seed, positive, n_jobs, backend, out, progress
        See :func:`bootstrap_632`; one case per patient. With ``out``, the fits of :func:`leave_pair_out` are used.

    Returns
    -------
    DataFrame
        ``case_id, patient_id, y_true, score, n_comparisons``; see
        :func:`hybrid.analysis.optimism.tournament_scores`. ``score`` is the share of comparisons that the case won:
        a rank, not a probability.

    Raises
    ------
    InputError
        See :func:`bootstrap_632`; also when a patient has several cases.
    """
    study = _declare(features, cohort, pipeline, seed, positive)
    if study.n_patients < len(study.data.y):
        raise InputError(
            f"A tournament needs one row per patient; found {len(study.data.y)} rows of {study.n_patients} patients.",
            advice="Use leave_pair_out, which compares all rows of two patients.",
        )
    pairs = list(itertools.combinations(range(study.n_patients), 2))
    fits = _fit(study, _without_pairs(study, pairs), PAIRS_STAGE, n_jobs, backend, out, progress)
    met = [(*fits[_pair_id(pair)].index, *fits[_pair_id(pair)]["y_prob"]) for pair in pairs]
    scores = tournament_scores(pd.DataFrame(met, columns=["case_first", "case_second", "score_first", "score_second"]))
    rows = scores.pop("case_id").to_numpy()
    data = study.data
    names = {"case_id": data.cases[rows], "patient_id": data.patients[rows], "y_true": data.y[rows]}
    table = pd.concat([pd.DataFrame(names), scores], axis=1)
    table.attrs |= {**scores.attrs, "left_out": data.left_out.to_dict("records")}
    return table


METHODS: Final[dict[str, Callable[..., pd.DataFrame]]] = {
    "bootstrap_632": bootstrap_632,
    "optimism_bootstrap": optimism_bootstrap,
    "leave_pair_out": leave_pair_out,
}
"""Resampling methods by name."""


def resample(
    method: str, features: pd.DataFrame, cohort: Cohort, pipeline: DeclaredPipeline, **options: Any
) -> pd.DataFrame:
    """Run one of :data:`METHODS` by its name.

    Parameters
    ----------
    method : {"bootstrap_632", "optimism_bootstrap", "leave_pair_out"}
        ``"leave_one_out"`` is refused with the reason.
    features, cohort, pipeline
        See :func:`bootstrap_632`.
    **options
        Of the method.

    Raises
    ------
    InputError
        For an unknown method, or leave-one-out.
    """
    if method in ("leave_one_out", "loo"):
        raise leave_one_out_error()
    if method not in METHODS:
        raise unknown_name("resampling method", method, METHODS)
    return METHODS[method](features, cohort, pipeline, **options)


@dataclass(frozen=True)
class _Study:
    """The data and the one pipeline, with everything that a fit needs besides its training rows."""

    data: StudyTable
    feature_set: FeatureSet
    pipeline: DeclaredPipeline
    seed: int
    digest: str
    position: NDArray[np.intp] = field(repr=False)

    @property
    def n_patients(self) -> int:
        return int(self.position.max()) + 1

    @property
    def has(self) -> NDArray[np.bool_]:
        """Whether each patient has negative and positive rows, shape (2, n_patients)."""
        has = np.zeros((2, self.n_patients), dtype=bool)
        has[self.data.y, self.position] = True
        return has

    def rows(self, counts: IntArray) -> NDArray[np.intp]:
        """Row positions of a sample of patients, copies included."""
        return np.repeat(np.arange(len(self.position)), counts[self.position])

    def draw(self, number: int) -> IntArray:
        """Draw patients within each outcome, until both outcomes have two different ones."""
        rng = np.random.default_rng([self.seed, number])
        has = self.has
        strata = has[1].astype(np.int64)
        while True:
            counts = patient_weights(strata, 1, rng)[:, 0].astype(np.int64)
            if (has & (counts > 0)).sum(axis=1).min() >= 2:
                return counts


@dataclass(frozen=True)
class _Sample:
    """Training and test rows of one fit."""

    name: str
    train: NDArray[np.intp]
    test: NDArray[np.intp]


@dataclass(frozen=True)
class _Payload:
    table: pd.DataFrame
    y: IntArray
    patients: NDArray[Any]
    feature_set: FeatureSet
    pipeline: DeclaredPipeline
    categorical: tuple[str, ...]
    sample: _Sample
    seed: int


def _declare(features: pd.DataFrame, cohort: Cohort, pipeline: DeclaredPipeline, seed: int, positive: Any) -> _Study:
    """Join the data and resolve every name of the pipeline."""
    data = prepare_table(
        features, cohort, covariates=pipeline.covariates, positive=positive, harmonise=pipeline.harmonise
    )
    given = pipeline.classifiers
    kept = dict(given) if isinstance(given, Mapping) else tuple(given)
    fixed = replace(pipeline, classifiers=kept, covariates=tuple(pipeline.covariates))
    settings = fixed.settings(data.categorical)
    settings.check()
    feature_set = _one_set(pipeline, data)
    named = settings.classifiers
    own = {name: [repr(item.make(0)), item.grid] for name, item in named.items() if CLASSIFIERS.get(name) is not item}
    position = np.unique(data.patients, return_inverse=True)[1].astype(np.intp)
    description = [
        data.table.to_csv(index=False), data.cases, data.patients, data.regions, data.y,
        [feature_set.name, feature_set.blocks, feature_set.fusion, feature_set.clinical], own,
        {**vars(settings), "classifiers": list(named)}, seed, code_version(),
    ]  # fmt: skip
    study = _Study(data, feature_set, fixed, seed, digest(description), position)
    negative, found = study.has.sum(axis=1)
    if min(negative, found) < FEWEST_PATIENTS:
        raise InputError(
            f"Resampling needs {FEWEST_PATIENTS} patients of each outcome; found {found} positive and {negative} "
            "negative.",
            advice="More patients of the rarer outcome are needed.",
        )
    return study


def _one_set(pipeline: DeclaredPipeline, data: StudyTable) -> FeatureSet:
    given = pipeline.feature_set
    wanted = {given: given} if isinstance(given, str) else dict(given)
    for name, what in wanted.items():
        if isinstance(what, str) and INFOLD_PREFIX in NAMED_SETS.get(what.removesuffix(CLINICAL_SUFFIX), ((), ""))[0]:
            raise InputError(
                f"Feature set {name!r} trains an encoder in every fit, which resampling does not do.",
                advice="Use cross_validate for it.",
            )
    sets = resolve_feature_sets(wanted, feature_columns(data.table), clinical_columns(data.table))
    if len(sets) != 1:
        raise InputError(f"A declared pipeline has one feature set; found {', '.join(sets)}.", advice="Name one.")
    return next(iter(sets.values()))


def _bootstrap_samples(study: _Study, n_bootstrap: int) -> Iterator[_Sample]:
    """Yield the original sample and bootstrap samples of it; each model predicts every row."""
    if n_bootstrap < 2:
        raise InputError(f"A bootstrap needs two samples or more; found {n_bootstrap}.", advice="Use n_bootstrap=200.")
    everybody = np.arange(len(study.position))
    yield _Sample(WHOLE, everybody, everybody)
    for number in range(n_bootstrap):
        yield _Sample(_draw_id(number), study.rows(study.draw(number)), everybody)


def _draw_id(number: int) -> str:
    return f"b{number:04d}"


def _refits(study: _Study, fits: Fits, n_bootstrap: int) -> Refits:
    drawn = [fits[_draw_id(number)] for number in range(n_bootstrap)]
    return Refits(
        y=study.data.y.astype(np.float64),
        patient=study.position,
        apparent=fits[WHOLE]["y_prob"].to_numpy(),
        threshold=float(fits[WHOLE]["threshold"].iloc[0]),
        drawn=np.stack([one["y_prob"].to_numpy() for one in drawn]),
        thresholds=np.array([one["threshold"].iloc[0] for one in drawn]),
        counts=np.stack([study.draw(number) for number in range(n_bootstrap)]).astype(np.float64),
    )


Pair = tuple[int, int]


def _mixed_pairs(study: _Study) -> list[Pair]:
    """Pairs of patients of whom one has a positive and the other a negative row, ordered by position."""
    negative, positive = study.has
    found = {(min(a, b), max(a, b)) for a in np.flatnonzero(positive) for b in np.flatnonzero(negative) if a != b}
    return sorted((int(a), int(b)) for a, b in found)


def _spread(pairs: Sequence[Pair], n_pairs: int, seed: int) -> list[Pair]:
    """Take pairs one by one, always of those whose patients occurred least so far."""
    if not 2 <= n_pairs <= len(pairs):
        raise InputError(
            f"n_pairs must lie between 2 and {len(pairs)}, the number of pairs; found {n_pairs}.",
            advice="Leave it out for all pairs.",
        )
    order = np.random.default_rng([seed, 3]).permutation(len(pairs))
    members = np.asarray(pairs)[order]
    used = np.zeros(members.max() + 1, dtype=np.int64)
    free = np.ones(len(pairs), dtype=bool)
    for _ in range(n_pairs):
        load = np.where(free, used[members].sum(axis=1), np.iinfo(np.int64).max)
        best = int(np.argmin(load))
        free[best] = False
        used[members[best]] += 1
    return sorted((int(a), int(b)) for a, b in members[~free])


def _pair_id(pair: Pair) -> str:
    return f"p{pair[0]:04d}-{pair[1]:04d}"


def _without_pairs(study: _Study, pairs: Iterable[Pair]) -> Iterator[_Sample]:
    for pair in pairs:
        out = np.isin(study.position, pair)
        yield _Sample(_pair_id(pair), np.flatnonzero(~out), np.flatnonzero(out))


def _compared(study: _Study, fit: pd.DataFrame, pair: Pair) -> pd.DataFrame:
    """All comparisons of a positive row of one patient with a negative row of the other."""
    scored = pd.DataFrame(
        {"patient": study.position[fit.index], "positive": study.data.y[fit.index] == 1, "score": fit["y_prob"]}
    )
    both = scored[scored["positive"]].merge(scored[~scored["positive"]], "cross", suffixes=("_positive", "_negative"))
    return both[both["patient_positive"] != both["patient_negative"]]


def _fit(
    study: _Study, samples: Iterable[_Sample], stage: str, n_jobs: int, backend: str, out: Any, progress: bool
) -> Fits:
    """Fit the pipeline on every sample: a table of ``y_prob, threshold`` by row position for each."""
    data = study.data
    tasks = []
    for sample in samples:
        key = digest([study.digest, sample.name, sample.train, sample.test])
        seed = int(np.random.SeedSequence([study.seed, int(digest(sample.name)[:8], 16)]).generate_state(1)[0])
        payload = _Payload(
            data.table, data.y, data.patients, study.feature_set, study.pipeline, data.categorical, sample, seed
        )
        tasks.append(Task(sample.name, key, payload))
    results = run_tasks(_fit_rows, tasks, stage=stage, out=out, n_jobs=n_jobs, backend=backend, progress=progress)
    if len(results.failures):
        first = results.failures.iloc[0]
        raise InputError(
            f"{len(results.failures)} of {len(tasks)} fits failed; the first, {first['case_id']}: {first['message']}",
            advice=first["advice"],
        )
    return {name: pd.DataFrame(rows).set_index("row") for name, rows in results.rows.items()}


def _fit_rows(payload: _Payload, seed: int) -> Rows:
    """Fit the pipeline on the training rows and predict the test rows."""
    pipeline, train, test = payload.pipeline, payload.sample.train, payload.sample.test
    settings = pipeline.settings(payload.categorical)
    table = payload.table.iloc[train].reset_index(drop=True)
    sets = {payload.feature_set.name: payload.feature_set}
    models = fit_models(table, payload.y[train], payload.patients[train], sets, settings, payload.seed)
    model = models[payload.feature_set.name, SELECTED]
    probabilities = model.predict(payload.table.iloc[test])
    return [
        {"row": int(row), "y_prob": float(probability), "threshold": float(model.threshold), "chosen": model.chosen}
        for row, probability in zip(test, probabilities, strict=True)
    ]


def _finish(table: pd.DataFrame, study: _Study, fits: Fits) -> pd.DataFrame:
    """Name the pipeline in front of its results."""
    names = list(resolve_classifiers(study.pipeline.classifiers))
    table.insert(0, "feature_set", study.feature_set.name)
    table.insert(1, "classifier", names[0] if len(names) == 1 else SELECTED)
    chosen = pd.Series([fit["chosen"].iloc[0] for fit in fits.values()]).value_counts()
    table.attrs["chosen"] = {str(name): int(count) for name, count in sorted(chosen.items())}
    table.attrs["left_out"] = study.data.left_out.to_dict("records")
    return table
