"""Resampling of one declared pipeline: honest on noise, grouped by patient, the same on resume and on two cores."""

from __future__ import annotations

import itertools
import json
import logging

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from hybrid import Case, Cohort, InputError
from hybrid.analysis.optimism import RESAMPLING_COLUMNS
from hybrid.analysis.roc import auc
from hybrid.classifiers import resolve_classifiers
from hybrid.fusion import resolve_feature_sets
from hybrid.pipelines.crossval import Settings, fit_models
from hybrid.pipelines.resample import (
    DeclaredPipeline,
    bootstrap_632,
    leave_pair_out,
    optimism_bootstrap,
    resample,
    tournament_leave_pair_out,
)

LOGISTIC = DeclaredPipeline(classifiers={"logistic": LogisticRegression()}, inner_folds=2)
WEAK_PENALTY = DeclaredPipeline(classifiers={"logistic": LogisticRegression(C=1e4, max_iter=2000)}, inner_folds=2)
QUIET = {"progress": False}
FAST = {"n_bootstrap": 6, "progress": False}


def make(n=20, p=4, signal=1.5, seed=0, cases_per_patient=1):
    """A feature table whose first column carries the outcome, and its cohort; cases of a patient are copies."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    values = rng.normal(size=(n, p))
    values[:, 0] += signal * y
    ids = [f"c{i:03d}_{k}" for i in range(n) for k in range(cases_per_patient)]
    index = pd.Index(ids, name="case_id")
    table = pd.DataFrame(np.repeat(values, cases_per_patient, axis=0), index, [f"rad_{i}" for i in range(p)])
    cases = [
        Case(case, f"p{i // cases_per_patient}", outcome=int(y[i // cases_per_patient])) for i, case in enumerate(ids)
    ]
    return table, Cohort(cases)


def estimates(table, metric="auc"):
    return table[table["metric"] == metric].set_index("method")["estimate"]


def test_tables_are_tidy_and_name_the_pipeline():
    table, cohort = make()
    before = table.copy()
    for found in (bootstrap_632(table, cohort, LOGISTIC, **FAST), optimism_bootstrap(table, cohort, LOGISTIC, **FAST)):
        assert tuple(found.columns) == ("feature_set", "classifier", *RESAMPLING_COLUMNS)
        assert set(found["feature_set"]) == {"handcrafted"}
        assert set(found["classifier"]) == {"logistic"}
        assert set(found["n_fits"]) == {7}
        assert set(found["n_patients"]) == {20}
        assert found.attrs["chosen"] == {"logistic": 7}
    pd.testing.assert_frame_equal(table, before)


def test_noise_gives_a_half_where_resubstitution_gives_one():
    table, cohort = make(n=40, p=40, signal=0.0, seed=3)
    pipeline = DeclaredPipeline(classifiers=WEAK_PENALTY.classifiers, inner_folds=2, max_features=40)
    found = bootstrap_632(table, cohort, pipeline, n_bootstrap=40, **QUIET)
    areas = estimates(found)
    pairs = leave_pair_out(table, cohort, pipeline, n_pairs=60, **QUIET)
    assert areas["resubstitution"] > 0.99
    for estimate in (areas["out_of_bag"], areas["632_plus"], pairs["estimate"].iloc[0]):
        assert abs(estimate - 0.5) < 0.15
    leaning = found[found["method"].isin(["resubstitution", "632"]) & (found["metric"] == "auc")]
    assert leaning["is_optimistic"].all()


def test_perfect_features_give_one_everywhere():
    table, cohort = make(n=16, p=1, signal=60.0)
    found = [
        bootstrap_632(table, cohort, LOGISTIC, **FAST),
        optimism_bootstrap(table, cohort, LOGISTIC, **FAST),
        leave_pair_out(table, cohort, LOGISTIC, n_pairs=12, **QUIET),
    ]
    for one in found:
        assert (estimates(one) == 1.0).all()
    assert (estimates(found[0], "error") == 0.0).all()
    assert 0.5 < found[2]["lower"].iloc[0] < found[2]["upper"].iloc[0] == 1.0


def test_leave_pair_out_compares_scores_of_models_fitted_as_in_cross_validation():
    table, cohort = make(n=10, seed=5)
    scored = tournament_pairs(table, cohort)
    won = [(a > b) + 0.5 * (a == b) for a, b in scored]
    row = leave_pair_out(table, cohort, LOGISTIC, **QUIET).iloc[0]
    assert (row["estimate"], row["n_fits"]) == (pytest.approx(np.mean(won), rel=1e-12), 25)


def tournament_pairs(table, cohort):
    """Scores of each positive and negative case by the pipeline refitted on the others, without the resampler.

    With one classifier and no grid nothing depends on the seed.
    """
    y, patients = cohort.outcomes.to_numpy(int), np.array([case.patient_id for case in cohort])
    sets = resolve_feature_sets(["handcrafted"], table.columns)
    settings = Settings(resolve_classifiers(LOGISTIC.classifiers), inner_folds=2)
    for i, j in itertools.product(np.flatnonzero(y == 1), np.flatnonzero(y == 0)):
        rest = np.setdiff1d(np.arange(len(y)), [i, j])
        model = fit_models(table.iloc[rest], y[rest], patients[rest], sets, settings, 0)["handcrafted", "logistic"]
        yield tuple(model.predict(table.iloc[[i, j]]))


def test_patients_are_resampled_not_rows():
    # Copies of a case are the same point: a nearest neighbour that met one copy knows the other.
    pipeline = DeclaredPipeline(classifiers={"nearest": KNeighborsClassifier(1)}, inner_folds=2)
    table, cohort = make(n=30, p=6, signal=0.0, cases_per_patient=2, seed=1)
    found = bootstrap_632(table, cohort, pipeline, n_bootstrap=30, **QUIET)
    areas = estimates(found)
    assert areas["resubstitution"] == 1.0
    assert abs(areas["out_of_bag"] - 0.5) < 0.15
    pairs = leave_pair_out(table, cohort, pipeline, n_pairs=40, **QUIET).iloc[0]
    assert abs(pairs["estimate"] - 0.5) < 0.2
    assert (pairs["n_fits"], set(found["n_patients"])) == (40, {30})


def test_copies_of_a_patient_share_an_inner_fold():
    # With copies on both sides of an inner split the nearest neighbour looks better than it is: 3 of 16 fits choose it.
    table, cohort = make(n=40, p=8, signal=1.5, seed=2)
    classifiers = {"nearest": KNeighborsClassifier(1), "logistic": LogisticRegression(C=0.01)}
    found = bootstrap_632(table, cohort, DeclaredPipeline(classifiers=classifiers), n_bootstrap=15, **QUIET)
    assert set(found["classifier"]) == {"selected"}
    assert found.attrs["chosen"] == {"logistic": 16}


def test_resumed_run_gives_the_same_table(tmp_path):
    table, cohort = make()
    whole = bootstrap_632(table, cohort, LOGISTIC, out=tmp_path / "a", **FAST)
    bootstrap_632(table, cohort, LOGISTIC, out=tmp_path / "b", **{**FAST, "n_bootstrap": 3})
    stored = sorted((tmp_path / "b" / "cache" / "bootstrap").iterdir())
    assert len(stored) == 4
    stored[1].write_text("{", encoding="utf-8")
    times = [path.stat().st_mtime_ns for path in stored]
    resumed = bootstrap_632(table, cohort, LOGISTIC, out=tmp_path / "b", **FAST)
    pd.testing.assert_frame_equal(resumed, whole, check_exact=True)
    assert [path.stat().st_mtime_ns == time for path, time in zip(stored, times, strict=True)] == [
        True, False, True, True,
    ]  # fmt: skip


def test_both_bootstrap_methods_share_their_fits(tmp_path):
    table, cohort = make()
    bootstrap_632(table, cohort, LOGISTIC, out=tmp_path, **FAST)
    stored = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache" / "bootstrap").iterdir()}
    found = optimism_bootstrap(table, cohort, LOGISTIC, out=tmp_path, **FAST)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache" / "bootstrap").iterdir()} == stored
    pd.testing.assert_frame_equal(found, optimism_bootstrap(table, cohort, LOGISTIC, **FAST), check_exact=True)


def test_changed_pipeline_data_or_seed_is_fitted_again(tmp_path):
    table, cohort = make()
    pipelines = [LOGISTIC, DeclaredPipeline(classifiers={"logistic": LogisticRegression(C=0.01)}, inner_folds=2)]
    changed = table.assign(rad_0=table["rad_0"] * [*np.ones(19), -1.0])
    runs = [(table, pipelines[0], 0), (table, pipelines[1], 0), (changed, pipelines[0], 0), (table, pipelines[0], 1)]
    found = []
    for features, pipeline, seed in runs:
        kept = bootstrap_632(features, cohort, pipeline, seed=seed, out=tmp_path, **FAST)
        pd.testing.assert_frame_equal(kept, bootstrap_632(features, cohort, pipeline, seed=seed, **FAST))
        found.append(tuple(estimates(kept, "brier")))
    assert len(set(found)) == 4


def test_one_and_two_processes_give_the_same_table():
    table, cohort = make()
    one = leave_pair_out(table, cohort, LOGISTIC, n_pairs=6, **QUIET)
    two = leave_pair_out(table, cohort, LOGISTIC, n_pairs=6, n_jobs=2, **QUIET)
    pd.testing.assert_frame_equal(one, two, check_exact=True)
    one, two = (bootstrap_632(table, cohort, LOGISTIC, n_jobs=n_jobs, **FAST) for n_jobs in (1, 2))
    pd.testing.assert_frame_equal(one, two, check_exact=True)


def test_order_of_the_feature_table_does_not_matter():
    table, cohort = make()
    found = [bootstrap_632(rows, cohort, LOGISTIC, **FAST) for rows in (table, table.sample(frac=1, random_state=1))]
    pd.testing.assert_frame_equal(*found, check_exact=True)


def test_chosen_pairs_are_spread_over_patients(tmp_path):
    table, cohort = make()
    leave_pair_out(table, cohort, LOGISTIC, n_pairs=20, out=tmp_path, **QUIET)
    stored = [
        json.loads(path.read_text(encoding="utf-8")) for path in (tmp_path / "cache" / "leave_pair_out").iterdir()
    ]
    met = np.bincount([row["row"] for one in stored for row in one["rows"]], minlength=20)
    assert met.tolist() == [2] * 20


def test_tournament_scores_rank_patients_as_leave_pair_out_does(tmp_path):
    table, cohort = make(n=12, signal=3.0)
    scores = tournament_leave_pair_out(table, cohort, LOGISTIC, out=tmp_path, **QUIET)
    area = leave_pair_out(table, cohort, LOGISTIC, out=tmp_path, **QUIET)["estimate"].iloc[0]
    assert list(scores.columns) == ["case_id", "patient_id", "y_true", "score", "n_comparisons"]
    assert scores["case_id"].tolist() == [case.case_id for case in cohort]
    assert scores["y_true"].tolist() == cohort.outcomes.tolist()
    assert scores["score"].sum() == pytest.approx(12 / 2, rel=1e-12)
    assert (scores["n_comparisons"] == 11).all()
    assert scores.attrs["consistency"] > 0.8
    assert auc(scores["y_true"], scores["score"]) == pytest.approx(area, abs=0.1)


def test_smallest_cohort_can_be_resampled(recwarn):
    table, cohort = make(n=8, p=2, signal=3.0)
    found = bootstrap_632(table, cohort, LOGISTIC, n_bootstrap=40, **QUIET)
    pairs = leave_pair_out(table, cohort, LOGISTIC, **QUIET)
    assert found["estimate"].between(0, 1).all()
    assert pairs["estimate"].between(0, 1).all()
    assert not [one for one in recwarn if issubclass(one.category, RuntimeWarning)]


def test_methods_can_be_named():
    table, cohort = make()
    named = resample("leave_pair_out", table, cohort, LOGISTIC, n_pairs=4, **QUIET)
    pd.testing.assert_frame_equal(named, leave_pair_out(table, cohort, LOGISTIC, n_pairs=4, **QUIET))
    with pytest.raises(InputError, match="bootstrap_632"):
        resample("bootstrap_623", table, cohort, LOGISTIC)


def test_leave_one_out_is_refused_with_the_reason():
    table, cohort = make()
    with pytest.raises(InputError, match=r"scores of different models.*falls far below 0\.5.*leave_pair_out"):
        resample("leave_one_out", table, cohort, LOGISTIC)


class Fragile(ClassifierMixin, BaseEstimator):
    """Cannot be fitted on more than fifteen different patients: the whole sample fails, no bootstrap sample does."""

    def fit(self, X, y):
        if len(np.unique(X, axis=0)) > 15:
            raise ValueError("too many patients")
        self.model_ = LogisticRegression().fit(X, y)
        self.classes_ = self.model_.classes_
        return self

    def predict_proba(self, X):
        return self.model_.predict_proba(X)


def test_failed_fit_is_named_and_not_dropped(tmp_path):
    table, cohort = make()
    pipeline = DeclaredPipeline(classifiers={"fragile": Fragile()}, inner_folds=2)
    with pytest.raises(InputError, match="1 of 7 fits failed; the first, whole_sample: too many patients"):
        bootstrap_632(table, cohort, pipeline, out=tmp_path, **FAST)
    assert pd.read_csv(tmp_path / "failures.csv")["case_id"].tolist() == ["whole_sample"]


def test_cases_without_outcome_are_listed(caplog):
    table, cohort = make()
    cases = [*list(cohort)[:-1], Case("c019_0", "p19", outcome=None)]
    with caplog.at_level(logging.WARNING):
        found = bootstrap_632(table, Cohort(cases), LOGISTIC, **FAST)
    assert found.attrs["left_out"] == [{"case_id": "c019_0", "reason": "no outcome"}]


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        ({"feature_set": "handcraftd"}, {}, "handcrafted"),
        ({"feature_set": {"a": ["rad_0"], "b": ["rad_1"]}}, {}, "one feature set; found a, b"),
        ({"feature_set": "fused_infold"}, {}, "trains an encoder in every fit"),
        ({"classifiers": ["logistics"]}, {}, "logistic"),
        ({"calibration": "isotonic"}, {}, "calibration"),
        ({"covariates": ["age"]}, {}, "covariate"),
        ({}, {"n_bootstrap": 1}, "two samples or more; found 1"),
        ({}, {"level": 95}, "confidence level"),
    ],
)
def test_wrong_declaration_says_what_was_expected(change, options, words):
    table, cohort = make()
    with pytest.raises(InputError, match=words):
        bootstrap_632(table, cohort, DeclaredPipeline(**change), **{**FAST, "n_bootstrap": 2, **options})


def test_too_few_patients_of_an_outcome_are_refused():
    table, cohort = make(n=7)
    with pytest.raises(InputError, match="4 patients of each outcome; found 3 positive and 4 negative"):
        bootstrap_632(table, cohort, LOGISTIC, **FAST)


@pytest.mark.parametrize("n_pairs", [1, 101])
def test_impossible_number_of_pairs_is_refused(n_pairs):
    table, cohort = make()
    with pytest.raises(InputError, match=f"between 2 and 100, the number of pairs; found {n_pairs}"):
        leave_pair_out(table, cohort, LOGISTIC, n_pairs=n_pairs, **QUIET)


def test_tournament_refuses_several_rows_of_a_patient():
    table, cohort = make(cases_per_patient=2)
    with pytest.raises(InputError, match="one row per patient; found 40 rows of 20 patients"):
        tournament_leave_pair_out(table, cohort, LOGISTIC, **QUIET)


@pytest.mark.slow
def test_honest_estimates_are_unbiased_over_cohorts_of_noise():
    rows = []
    for seed in range(12):
        table, cohort = make(n=20, p=15, signal=0.0, seed=seed)
        areas = estimates(bootstrap_632(table, cohort, WEAK_PENALTY, n_bootstrap=25, **QUIET))
        pairs = leave_pair_out(table, cohort, WEAK_PENALTY, n_pairs=30, **QUIET)["estimate"].iloc[0]
        rows.append((areas["resubstitution"], areas["632"], areas["out_of_bag"], areas["632_plus"], pairs))
    resubstitution, plain, *honest = np.mean(rows, axis=0)
    assert resubstitution > 0.95
    assert plain > 0.6
    assert np.max(np.abs(np.array(honest) - 0.5)) < 0.1


def test_options_of_the_fold_reach_every_fit():
    table, cohort = make(n=24, p=6)
    sites = Cohort(
        Case(c.case_id, c.patient_id, outcome=c.outcome, site="AB"[i // 2 % 2])
        for i, c in enumerate(cohort)
        if i % 8 != 1  # weights change nothing when both classes are of one size
    )
    table = table.loc[[case.case_id for case in sites]]
    options = [{}, {"selector": "rfe", "max_features": 2}, {"harmonise": "site"}, {"imbalance": "class_weight"}]
    found = [
        bootstrap_632(table, sites, DeclaredPipeline(classifiers=LOGISTIC.classifiers, inner_folds=2, **own), **FAST)
        for own in options
    ]
    assert len({tuple(estimates(one, "brier")) for one in found}) == 4
    with pytest.raises(InputError, match="Did you mean 'rfe'"):
        bootstrap_632(table, sites, DeclaredPipeline(selector="rfee"), **FAST)
