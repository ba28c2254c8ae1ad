"""Clustered AUC against the Cleveland Clinic's function, the definition, DeLong and simulated patients."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest

from hybrid.analysis import auc, delong_covariance, delong_test
from hybrid.analysis.clustered import clustered_auc, clustered_auc_test, clustered_covariance, disjoint_pairs
from hybrid.analysis.resampling import bootstrap, weighted_auc
from hybrid.analysis.roc import perfect_interval
from hybrid.errors import InputError

# Candidate mitotic figures in 38 regions: DIDSR/mitoticFigureCounts, commit 5675b0b (CC0). One region per part; per
# candidate its truth, five times score A, observer 1, observer 2, five times score B (A, B: means of 5 observers).
MITOTIC = (
    "15115 01100 00001 00001/01010 15112 11012 12014 00001 00000/01012 03100 15115 01010 11002 00000/"
    "01010 15115 15115 00000/01010 02010 14115/01010 11014/15113 11010 00000/01010 00000/13115 01012 11010/"
    "14115 11012 01010 03011 11010 01010 00000/14115 15115 10000/12114 01010/01010 14113/00000/12013 01012 15115 "
    "14115 15114 14115 13001 12015 00001 00001 00000 00000 00000/12014 12014 10000 10000 00000 00000/10001/"
    "15115 15115 15115 01010 10000 10000 10000 10000/15114 14112 15115/01101 13115 01000 10003 00001 10000 10000 "
    "10000/15115 15114 15115 00000 10000 00000/11010 01102 15114 00001 10000/11102 10002 00001/01000 00000/"
    "14104 02010 01001 00001 00001/01000 01000 00001 00000/01000 12101/11005 00000/00001 00000 00000/12012 13111 "
    "01012 01000 02101 01100 00003 00000 00000 00000/15114 14104 00001/00000/01000 01000 01000 00000/00000 00000 "
    "00000/00001/01000 11000 11000 11000 12012 00001/01000 13104 15115/12014 14103 10001 00001 00000"
)

# doAUCcluster of that package (Cleveland Clinic code for Obuchowski 1997): auc, variance, 95 % interval.
ONE_CURVE = {
    "A": (0.792709376042709, 0.00222390777206913, 0.700280754244996, 0.885137997840422),
    "B": (0.811394728061395, 0.00167584404706505, 0.731159536924927, 0.891629919197863),
    "observer_1": (0.712962962962963, 0.00127955125929219, 0.642853452398864, 0.783072473527062),
    "observer_2": (0.6996996996997, 0.00130138671775654, 0.628994512576959, 0.770404886822441),
}
# The same for two curves: difference, its variance, 95 % interval and p (it prints B - A, but A - B for the observers).
TWO_CURVES = {
    ("B", "A"): (
        0.0186853520186853, 0.00117147083757372, -0.048397857372224, 0.0857685614095945, 0.585115280253277,
    ),
    ("observer_1", "observer_2"): (
        0.0132632632632632, 0.00174836225102367, -0.0686895377319729, 0.0952160642584994, 0.75109101818193,
    ),
}  # fmt: skip
# Each candidate its own cluster, B - A: variances of A and B, and difference, its variance, interval and p.
OWN_CLUSTERS = (
    0.00129516227901523, 0.00119210571719778,
    0.0186853520186853, 0.000876209924537171, -0.039331234776751, 0.0767019388141215, 0.527881056396605,
)  # fmt: skip


def mitotic():
    """Truth, region and scores of the 155 candidates."""
    parts = [part.split() for part in MITOTIC.split("/")]
    codes = np.array([[int(digit) for digit in code] for part in parts for code in part])
    regions = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    scores = {"A": codes[:, 1] / 5, "observer_1": codes[:, 2], "observer_2": codes[:, 3], "B": codes[:, 4] / 5}
    return codes[:, 0], regions, scores


def simulated(seed, n_patients=60, rows=4, shared=1.0, shift=1.0, levels=None):
    """Rows whose scores share a patient effect; about half of each patient's rows are positive."""
    rng = np.random.default_rng(seed)
    patients = np.repeat(np.arange(n_patients), rows)
    y = rng.integers(0, 2, patients.size)
    scores = shift * y + shared * rng.normal(size=n_patients)[patients] + rng.normal(size=patients.size)
    return y, scores if levels is None else np.round(scores * levels), patients


def by_definition(y, curves, patients):
    """Obuchowski 1997, with loops over patients and all pairs of rows."""
    ids = np.unique(patients)
    n_positive, n_negative = (y == 1).sum(), (y == 0).sum()
    pulls = []
    for scores in curves:
        wins = np.heaviside(scores[y == 1][:, None] - scores[y == 0][None, :], 0.5)
        area = wins.mean()
        pulls.append((
            [sum(wins[i].mean() - area for i in np.flatnonzero(patients[y == 1] == name)) for name in ids],
            [sum(wins[:, j].mean() - area for j in np.flatnonzero(patients[y == 0] == name)) for name in ids],
        ))  # fmt: skip
    i10, i01, i = np.unique(patients[y == 1]).size, np.unique(patients[y == 0]).size, ids.size
    covariance = np.empty((len(curves), len(curves)))
    for a, b in itertools.product(range(len(curves)), repeat=2):
        s10 = i10 / ((i10 - 1) * n_positive) * np.dot(pulls[a][0], pulls[b][0])
        s01 = i01 / ((i01 - 1) * n_negative) * np.dot(pulls[a][1], pulls[b][1])
        s11 = i / (i - 1) * (np.dot(pulls[a][0], pulls[b][1]) + np.dot(pulls[b][0], pulls[a][1]))
        covariance[a, b] = s10 / n_positive + s01 / n_negative + s11 / (n_positive * n_negative)
    return covariance


def test_typed_data_are_those_of_the_package(benchmarks):
    y, regions, scores = mitotic()
    table = pd.read_csv(benchmarks / "statistics" / "clustered_mitotic.csv")
    np.testing.assert_array_equal(y, table["truth"])
    np.testing.assert_array_equal(regions, pd.factorize(table["roiID"])[0])
    names = {"A": "score.A", "B": "score.B", "observer_1": "observer.1", "observer_2": "observer.2"}
    for ours, theirs in names.items():
        np.testing.assert_allclose(scores[ours], table[theirs], atol=1e-12)


@pytest.mark.parametrize("name", list(ONE_CURVE))
def test_one_curve_equals_the_cleveland_clinic_function(name):
    y, regions, scores = mitotic()
    result = clustered_auc(y, scores[name], regions, scale="plain")
    area, variance, lower, upper = ONE_CURVE[name]
    assert result.auc == pytest.approx(area, abs=1e-12)
    assert result.se**2 == pytest.approx(variance, rel=1e-11)
    assert (result.lower, result.upper) == pytest.approx((lower, upper), abs=1e-12)
    assert (result.n_rows, result.n_patients) == (155, 38)


@pytest.mark.parametrize("names", list(TWO_CURVES), ids="-".join)
def test_two_curves_equal_the_cleveland_clinic_function(names):
    y, regions, scores = mitotic()
    result = clustered_auc_test(y, scores[names[0]], scores[names[1]], regions)
    difference, variance, lower, upper, p = TWO_CURVES[names]
    assert result.difference == pytest.approx(difference, abs=1e-12)
    assert result.se**2 == pytest.approx(variance, rel=1e-11)
    assert (result.lower, result.upper) == pytest.approx((lower, upper), abs=1e-12)
    assert result.p == pytest.approx(p, rel=1e-11)


def test_own_clusters_equal_the_cleveland_clinic_function():
    y, _, scores = mitotic()
    rows = np.arange(y.size)
    expected = np.array(OWN_CLUSTERS)
    _, covariance = clustered_covariance(y, np.stack([scores["A"], scores["B"]]), rows)
    np.testing.assert_allclose(np.diag(covariance), expected[:2], rtol=1e-11)
    result = clustered_auc_test(y, scores["B"], scores["A"], rows)
    found = [result.difference, result.se**2, result.lower, result.upper, result.p]
    np.testing.assert_allclose(found, expected[2:], rtol=1e-10)


@pytest.mark.parametrize("levels", [None, 1])
def test_covariance_equals_the_definition(levels):
    y, first, patients = simulated(1, n_patients=15, levels=levels)
    curves = np.stack([first, simulated(2, n_patients=15, levels=levels)[1], -first])
    areas, covariance = clustered_covariance(y, curves, patients)
    np.testing.assert_allclose(covariance, by_definition(y, curves, patients), rtol=1e-10, atol=1e-15)
    np.testing.assert_allclose(areas, [auc(y, scores) for scores in curves], atol=1e-12)


def test_one_row_per_patient_is_delong():
    y, scores, _ = simulated(3, levels=2)
    curves = np.stack([scores, simulated(4)[1]])
    for ours, theirs in zip(
        clustered_covariance(y, curves, np.arange(y.size)), delong_covariance(y, curves), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10)
    ours, theirs = clustered_auc_test(y, *curves, np.arange(y.size)), delong_test(y, *curves)
    assert (ours.z, ours.p, ours.lower) == pytest.approx((theirs.z, theirs.p, theirs.lower), rel=1e-10)
    assert clustered_auc(y, scores, np.arange(y.size)).design_effect == pytest.approx(1.0)


def test_repeating_every_row_does_not_narrow_the_interval():
    y, scores, _ = simulated(5, n_patients=40, rows=2)
    rows = np.arange(y.size)
    once = clustered_auc(y, scores, rows)
    twice = clustered_auc(np.tile(y, 3), np.tile(scores, 3), np.tile(rows, 3))
    assert (twice.auc, twice.se) == pytest.approx((once.auc, once.se))
    assert twice.design_effect > 2.9


def test_standard_error_agrees_with_a_bootstrap_over_patients():
    y, scores, patients = simulated(6, n_patients=150)
    drawn = bootstrap(
        lambda weights: weighted_auc(y == 1, scores, weights[patients])[None], np.zeros(150), n_bootstrap=2000
    )
    assert clustered_auc(y, scores, patients).se == pytest.approx(drawn.draws.std(), rel=0.06)


def test_covariance_of_two_curves_gives_the_variance_of_their_difference():
    y, first, patients = simulated(7)
    second = first + simulated(8)[1]
    _, covariance = clustered_covariance(y, np.stack([first, second]), patients)
    contrast = np.array([1, -1])
    assert clustered_auc_test(y, first, second, patients).se ** 2 == pytest.approx(contrast @ covariance @ contrast)


def outcome_by_patient(seed, n_patients=60, rows=4):
    """All rows of a patient have the same outcome, and scores that share a patient effect."""
    rng = np.random.default_rng(seed)
    patients = np.repeat(np.arange(n_patients), rows)
    y = (np.arange(n_patients) % 2)[patients]
    return y, y + rng.normal(size=n_patients)[patients] + 0.5 * rng.normal(size=patients.size), patients


def coverage(make, n_simulations, **settings):
    """Share of 95 % intervals that hold the true AUC: clustered, and with rows counted as patients."""
    truth = auc(*make(0, n_patients=50_000, **settings)[:2])
    hits = np.zeros(2)
    for seed in range(1, n_simulations + 1):
        y, scores, patients = make(seed, **settings)
        for i, groups in enumerate((patients, np.arange(y.size))):
            result = clustered_auc(y, scores, groups)
            hits[i] += result.lower <= truth <= result.upper
    return hits / n_simulations


def test_clustered_interval_covers_where_counting_rows_as_patients_does_not():
    clustered, naive = coverage(outcome_by_patient, 300)
    assert clustered > 0.91
    assert naive < 0.80


@pytest.mark.slow
@pytest.mark.parametrize("rows", [2, 8])
def test_interval_covers_when_patients_have_rows_of_both_classes(rows):
    clustered, _ = coverage(simulated, 1000, rows=rows)
    assert 0.925 < clustered < 0.975


def test_swapping_the_labels_gives_one_minus_the_auc():
    y, scores, patients = simulated(9, levels=1)
    one, two = clustered_auc(y, scores, patients), clustered_auc(1 - y, scores, patients)
    assert (two.auc, two.se) == pytest.approx((1 - one.auc, one.se), abs=1e-12)
    assert (two.lower, two.upper) == pytest.approx((1 - one.upper, 1 - one.lower), abs=1e-12)
    assert (two.n_patients_positive, two.n_patients_negative) == (one.n_patients_negative, one.n_patients_positive)


def test_row_order_and_names_of_patients_are_irrelevant():
    y, scores, patients = simulated(10, levels=2)
    other = simulated(11)[1]
    order = np.random.default_rng(12).permutation(y.size)
    names = np.array([f"patient {97 - i}" for i in patients])
    one = clustered_auc_test(y, scores, other, patients)
    two = clustered_auc_test(y[order], scores[order], other[order], names[order])
    assert (two.z, two.p, two.lower, two.upper) == pytest.approx((one.z, one.p, one.lower, one.upper), rel=1e-9)


@pytest.mark.parametrize(("alternative", "p"), [("two-sided", 1.0), ("greater", 0.5), ("less", 0.5)])
def test_identical_scores_have_p_one(alternative, p):
    y, scores, patients = simulated(13)
    result = clustered_auc_test(y, scores, np.exp(scores), patients, alternative=alternative)
    assert (result.difference, result.se, result.z, result.p) == (0.0, 0.0, 0.0, p)
    assert (result.lower, result.upper) == (0.0, 0.0)


def test_sides_add_up_and_exchanging_scores_changes_the_sign():
    y, first, patients = simulated(14)
    second = simulated(15)[1]
    two, greater, less = (
        clustered_auc_test(y, first, second, patients, alternative=name) for name in ("two-sided", "greater", "less")
    )
    assert greater.p + less.p == pytest.approx(1.0)
    assert two.p == pytest.approx(2 * min(greater.p, less.p))
    turned = clustered_auc_test(y, second, first, patients)
    assert (turned.difference, turned.lower) == pytest.approx((-two.difference, -two.upper))


def test_perfect_separation_has_the_exact_interval_of_disjoint_pairs():
    y = np.array([0, 1, 0, 1, 0, 1, 0, 0])
    patients = np.array(["a", "a", "b", "b", "c", "c", "d", "d"])
    result = clustered_auc(y, y * 1.0, patients)
    assert result.auc == 1.0
    assert np.isnan(result.se)
    # Four patients give at most two pairs without a common patient.
    assert (result.lower, result.upper) == perfect_interval(1.0, 2)


def test_perfect_against_constant_is_not_a_test():
    y, _, patients = simulated(16)
    result = clustered_auc_test(y, y, np.zeros(y.size), patients)
    assert result.difference == 0.5
    assert result.z == np.inf
    assert np.isnan([result.p, result.lower, result.upper]).all()


def test_constant_score_has_an_auc_of_one_half_without_variance():
    y, _, patients = simulated(17)
    result = clustered_auc(y, np.zeros(y.size), patients)
    assert (result.auc, result.se) == (0.5, 0.0)
    assert np.isnan(result.design_effect)


@pytest.mark.parametrize(
    ("positive", "patients", "expected"),
    [
        ([1, 0, 1, 0], [0, 0, 1, 1], 1),
        ([1, 1, 0, 0], [0, 1, 2, 3], 2),
        ([1, 1, 1, 0], [0, 0, 0, 1], 1),
        ([1, 0, 0, 0, 0], [0, 0, 1, 2, 3], 1),
        ([1, 0, 1, 0, 1, 0], [0, 0, 1, 1, 2, 2], 1),
    ],
)
def test_disjoint_pairs_are_a_largest_matching(positive, patients, expected):
    assert disjoint_pairs(np.array(positive, bool), np.array(patients)) == expected


def test_three_rows_of_two_patients_are_too_few():
    with pytest.raises(InputError, match=r"at least two patients.*found 2 and 1"):
        clustered_auc([1, 0, 1], [3, 2, 1], ["a", "a", "b"])


@pytest.mark.parametrize(
    ("patients", "match"),
    [([1, 1, 2], "One patient per row"), (["a", "a", None, "b"], "1 rows have none"), ([1, 2, np.nan, 3], "have none")],
)
def test_missing_patients_are_refused(patients, match):
    with pytest.raises(InputError, match=match):
        clustered_auc([0, 1, 0, 1], [1, 2, 3, 4], patients)


def test_unusable_scores_are_refused():
    y, scores, patients = simulated(18)
    with pytest.raises(InputError, match="one class only"):
        clustered_auc(np.ones_like(y), scores, patients)
    with pytest.raises(InputError, match="One score per row"):
        clustered_auc(y, np.stack([scores, scores]), patients)
    with pytest.raises(InputError, match="one score per row"):
        clustered_auc_test(y, scores, scores[:-1], patients)
    with pytest.raises(InputError, match="scale"):
        clustered_auc(y, scores, patients, scale="log")
    with pytest.raises(InputError, match="alternative"):
        clustered_auc_test(y, scores, scores, patients, alternative="larger")
