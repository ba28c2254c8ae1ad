"""The patient bootstrap: against R, against brute force, and what it must never do."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hybrid.analysis import auc, bootstrap
from hybrid.analysis.resampling import patient_weights, weighted_auc
from hybrid.errors import InputError

REFERENCE = Path(__file__).parents[1] / "reference/statistics"
CITY = json.loads((REFERENCE / "boot_city.json").read_text(encoding="utf-8"))
PROC = json.loads((REFERENCE / "proc_asah.json").read_text(encoding="utf-8"))


def test_percentile_and_bca_intervals_equal_r_boot_on_the_city_ratio():
    u, x = np.array(CITY["u"], float), np.array(CITY["x"], float)
    result = bootstrap(lambda weights: ((x @ weights) / (u @ weights))[None], np.zeros(10), n_bootstrap=99_999, seed=1)
    assert result.estimate[0] == pytest.approx(CITY["stat"], abs=1e-12)
    # Three Monte-Carlo standard errors of the 2.5 % and 97.5 % quantiles of 99999 replicates.
    assert result.interval(kind="percentile")[0] == pytest.approx(CITY["percent"], abs=0.012)
    assert result.interval(kind="bca")[0] == pytest.approx(CITY["bca"], abs=0.012)


def test_stratified_auc_interval_equals_proc_on_the_wfns_grades():
    tn, tp = (np.array(PROC["roc_counts"]["wfns"][name]) for name in ("tn", "tp"))
    scores = np.concatenate([np.repeat(np.arange(5.0), counts) for counts in (np.diff(tn), -np.diff(tp))])
    y = np.repeat([False, True], [72, 41])
    result = bootstrap(lambda weights: weighted_auc(y, scores, weights)[None], y, n_bootstrap=20_000, seed=42)
    low, _, high = PROC["bootstrap_ci_auc_stratified_20000_seed42"]["wfns"]
    assert result.interval(kind="percentile")[0] == pytest.approx([low, high], abs=0.004)


def test_weighted_auc_equals_the_auc_of_the_repeated_rows():
    rng = np.random.default_rng(2)
    y = rng.permutation(np.repeat([False, True], [14, 9]))
    scores = rng.integers(0, 8, y.size).astype(float)
    weights = rng.integers(0, 4, (y.size, 20)).astype(float)
    found = weighted_auc(y, scores, weights)
    for column, value in zip(weights.T.astype(int), found, strict=True):
        assert value == pytest.approx(auc(np.repeat(y, column), np.repeat(scores, column)), abs=1e-14)


def test_weighted_auc_without_weight_in_a_class_is_undefined():
    assert np.isnan(weighted_auc(np.array([True, False]), np.array([1.0, 2.0]), np.array([[0.0], [1.0]])))[0]


def test_draws_keep_the_number_of_patients_in_each_class():
    strata = np.repeat([0, 1], [18, 8])
    weights = patient_weights(strata, 50, np.random.default_rng(0))
    assert (weights[:18].sum(axis=0) == 18).all()
    assert (weights[18:].sum(axis=0) == 8).all()


def test_the_same_seed_gives_the_same_draws_and_another_does_not():
    def run(seed):
        values = np.arange(12.0)
        return bootstrap(lambda weights: (values @ weights)[None], np.zeros(12), n_bootstrap=50, seed=seed).draws

    np.testing.assert_array_equal(run(3), run(3))
    assert not np.array_equal(run(3), run(4))


def test_memory_bound_does_not_change_the_draws(monkeypatch):
    def run():
        values = np.arange(12.0)
        return bootstrap(lambda weights: (values @ weights)[None], np.zeros(12), n_bootstrap=50, seed=0)

    whole = run()
    monkeypatch.setattr("hybrid.analysis.resampling.MAX_CELLS", 60)
    pieces = run()
    np.testing.assert_allclose(whole.influence, pieces.influence, rtol=1e-7)
    np.testing.assert_array_equal(whole.draws, pieces.draws)


def test_differences_of_equal_statistics_are_exactly_zero():
    values = np.random.default_rng(0).normal(size=15)
    result = bootstrap(lambda weights: np.stack([values @ weights] * 2), np.zeros(15), n_bootstrap=100)
    difference = result.pairs([0], [1])
    assert difference.interval().tolist() == [[0.0, 0.0]]
    assert difference.p_two_sided()[0] == 1.0
    np.testing.assert_array_equal(difference.draws, result.contrast([[1, -1]]).draws)


def test_a_class_with_one_patient_has_no_interval():
    values = np.arange(3.0)
    result = bootstrap(lambda weights: (values @ weights)[None], [0, 0, 1], n_bootstrap=100)
    assert np.isnan(result.interval()).all()
    assert np.isnan(result.p_two_sided()).all()


def test_unknown_kind_names_the_nearest():
    result = bootstrap(lambda weights: weights[:1], np.zeros(4), n_bootstrap=10)
    with pytest.raises(InputError, match="Did you mean 'percentile'"):
        result.interval(kind="percentil")


def test_no_draws_are_refused():
    with pytest.raises(InputError, match="at least one draw"):
        bootstrap(lambda weights: weights, np.zeros(4), n_bootstrap=0)


@pytest.mark.slow
def test_bca_interval_of_the_auc_covers_at_its_level():
    rng = np.random.default_rng(11)
    y = np.repeat([True, False], [30, 30])
    shift, truth, hits, n = 1.1902, 0.8, 0, 2000
    for seed in range(n):
        scores = rng.normal(size=60) + shift * y
        result = bootstrap(lambda weights, s=scores: weighted_auc(y, s, weights)[None], y, n_bootstrap=1000, seed=seed)
        lower, upper = result.interval()[0]
        hits += lower <= truth <= upper
    assert 0.93 <= hits / n <= 0.97
