"""AUC and DeLong against R's pROC, against the definition, and at the edges."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hybrid.analysis import auc, delong_covariance, delong_interval, delong_test, roc_points
from hybrid.analysis.roc import delong_pairs, perfect_interval
from hybrid.errors import InputError

PROC = json.loads((Path(__file__).parents[1] / "reference/statistics/proc_asah.json").read_text(encoding="utf-8"))
MARKERS = ("wfns", "s100b", "ndka", "age")


def from_counts(marker):
    """Outcome and rank of each patient, rebuilt from the points of pROC's curve."""
    tn, tp = (np.array(PROC["roc_counts"][marker][name]) for name in ("tn", "tp"))
    negatives, positives = np.diff(tn), -np.diff(tp)
    scores = np.concatenate([np.repeat(np.arange(negatives.size), counts) for counts in (negatives, positives)])
    return np.repeat([0, 1], [negatives.sum(), positives.sum()]), scores


@pytest.fixture
def asah(benchmarks):
    table = pd.read_csv(benchmarks / "statistics" / "aSAH.csv")
    return (table["outcome"] == "Poor").to_numpy(int), {name: table[name].to_numpy(float) for name in MARKERS}


def kernel_delong(y, curves):
    """DeLong's covariance by its definition, over all pairs of a positive and a negative case."""
    kernel = np.stack([
        np.heaviside(scores[y == 1][:, None] - scores[y == 0][None, :], 0.5) for scores in curves
    ])  # fmt: skip
    v10, v01 = kernel.mean(axis=2), kernel.mean(axis=1)
    return kernel.mean(axis=(1, 2)), np.cov(v10) / v10.shape[1] + np.cov(v01) / v01.shape[1]


@pytest.mark.parametrize("marker", ["wfns", "s100b"])
def test_auc_and_variance_equal_proc_on_asah_curves(marker):
    y, scores = from_counts(marker)
    areas, covariance = delong_covariance(y, scores)
    assert areas[0] == pytest.approx(PROC["auc"][marker]["auc"], abs=1e-14)
    assert covariance[0, 0] == pytest.approx(PROC["auc"][marker]["delong_var"], rel=1e-12)


@pytest.mark.parametrize("marker", ["wfns", "s100b"])
@pytest.mark.parametrize("level", [0.95, 0.90])
def test_plain_interval_equals_proc_on_asah_curves(marker, level):
    y, scores = from_counts(marker)
    expected = PROC["auc"][marker][f"ci{100 * level:.0f}"]
    assert delong_interval(y, scores, level=level, scale="plain")[1:] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("marker", MARKERS)
def test_auc_variance_and_interval_equal_proc_on_asah(asah, marker):
    y, markers = asah
    estimate, lower, upper = delong_interval(y, markers[marker], scale="plain")
    expected = PROC["auc"][marker]
    assert estimate == pytest.approx(expected["auc"], abs=1e-14)
    assert (lower, upper) == pytest.approx(expected["ci95"], abs=1e-12)


def test_covariances_of_all_pairs_equal_proc_on_asah(asah):
    y, markers = asah
    _, covariance = delong_covariance(y, np.stack([markers[name] for name in MARKERS]))
    for row in PROC["delong_cov"]:
        assert covariance[MARKERS.index(row["a"]), MARKERS.index(row["b"])] == pytest.approx(row["cov"], rel=1e-10)


@pytest.mark.parametrize("row", PROC["delong_paired"], ids=lambda row: f"{row['a']}-{row['b']}")
def test_paired_test_equals_proc_on_asah(asah, row):
    y, markers = asah
    result = delong_test(y, markers[row["a"]], markers[row["b"]])
    assert result.z == pytest.approx(row["statistic"], rel=1e-10)
    assert result.p == pytest.approx(row["p"], rel=1e-9)
    assert (result.lower, result.upper) == pytest.approx(row["ci"], abs=1e-12)


@pytest.mark.parametrize("row", PROC["delong_paired_greater"], ids=lambda row: f"{row['a']}-{row['b']}")
def test_one_sided_paired_test_equals_proc_on_asah(asah, row):
    y, markers = asah
    assert delong_test(y, markers[row["a"]], markers[row["b"]], alternative="greater").p == pytest.approx(
        row["p"], rel=1e-9
    )


@pytest.mark.parametrize("ties", [False, True])
def test_midranks_equal_the_definition(ties):
    rng = np.random.default_rng(3)
    y = rng.permutation(np.repeat([0, 1], [37, 18]))
    curves = rng.normal(size=(4, y.size)) + 0.5 * y
    curves = curves.round(0) if ties else curves
    areas, covariance = delong_covariance(y, curves)
    expected_areas, expected = kernel_delong(y, curves)
    np.testing.assert_allclose(areas, expected_areas, rtol=0, atol=1e-15)
    np.testing.assert_allclose(covariance, expected, rtol=1e-12, atol=1e-16)


def test_all_pairs_in_one_call_equal_single_tests():
    rng = np.random.default_rng(4)
    y = np.repeat([0, 1], 20)
    curves = rng.normal(size=(5, 40)) + 0.4 * y
    pairs = list(itertools.combinations(range(5), 2))
    table = delong_pairs(y, curves, pairs)
    for (i, j), row in zip(pairs, table.itertuples(), strict=True):
        single = delong_test(y, curves[i], curves[j])
        assert (row.z, row.p) == (single.z, single.p)


def test_label_swap_gives_one_minus_auc():
    rng = np.random.default_rng(5)
    y, scores = rng.permutation(np.repeat([0, 1], [30, 12])), rng.normal(size=42)
    assert auc(1 - y, scores) == pytest.approx(1 - auc(y, scores), abs=1e-15)


def test_direction_is_never_flipped():
    assert auc([0, 0, 1, 1], [4, 3, 2, 1]) == 0.0


def test_all_tied_scores_give_one_half():
    assert auc([0, 1, 0, 1, 1], [0.3] * 5) == 0.5


def test_row_order_is_irrelevant():
    rng = np.random.default_rng(6)
    y, first, second = np.repeat([0, 1], [20, 9]), rng.normal(size=29), rng.normal(size=29)
    order = rng.permutation(29)
    one, other = delong_test(y, first, second), delong_test(y[order], first[order], second[order])
    assert (one.difference, one.p) == pytest.approx((other.difference, other.p), rel=1e-12)


def test_identical_and_monotone_transformed_curves_give_p_one():
    rng = np.random.default_rng(7)
    y, scores = np.repeat([0, 1], [16, 11]), rng.normal(size=27)
    for other in (scores, np.exp(scores), 3 * scores - 1):
        result = delong_test(y, scores, other)
        assert (result.difference, result.z, result.p) == (0.0, 0.0, 1.0)
        assert (result.lower, result.upper) == (0.0, 0.0)


def test_perfect_separation_of_both_models_gives_p_one():
    y = [0, 0, 0, 1, 1, 1]
    assert delong_test(y, [1, 2, 3, 4, 5, 6], [0, 0, 0, 1, 1, 1]).p == 1.0


def test_difference_without_sampling_variance_has_no_p_value():
    result = delong_test([0, 0, 1, 1], [1, 2, 3, 4], [0.5] * 4)
    assert result.difference == 0.5
    assert np.isnan([result.p, result.lower, result.upper]).all()


def test_perfect_separation_has_an_honest_interval():
    y = np.repeat([0, 1], [18, 8])
    for scale in ("plain", "logit"):
        estimate, lower, upper = delong_interval(y, y + 0.0, scale=scale)
        assert (estimate, upper) == (1.0, 1.0)
        assert lower == pytest.approx(0.025 ** (1 / 8))
    assert delong_interval(y, 1.0 - y)[1:] == (0.0, pytest.approx(1 - 0.025 ** (1 / 8)))


def test_exact_bound_equals_clopper_pearson_of_29_out_of_29():
    # Newcombe 1998 (doi:10.1002/(SICI)1097-0258(19980430)17:8<857::AID-SIM777>3.0.CO;2-E), table I: 0.8806 to 1.
    assert perfect_interval(1.0, 29) == (pytest.approx(0.8806, abs=5e-5), 1.0)


def test_logit_interval_stays_inside_and_is_asymmetric():
    y = np.repeat([0, 1], [18, 8])
    scores = np.arange(26.0)
    scores[17], scores[18] = 18, 17
    estimate, lower, upper = delong_interval(y, scores)
    assert 0 < lower < estimate < upper < 1
    assert estimate - lower > upper - estimate


def test_three_cases_have_an_auc_but_no_delong_variance():
    assert auc([0, 0, 1], [1, 3, 2]) == 0.5
    with pytest.raises(InputError, match="at least two cases of each class; found 1"):
        delong_interval([0, 0, 1], [1, 3, 2])


@pytest.mark.parametrize(
    ("y", "scores", "message"),
    [
        ([1, 1, 1], [1, 2, 3], "one class only: all 3 cases are 1"),
        ([0, 1, 2], [1, 2, 3], "0 or 1; found 2.0"),
        ([0, 1], [1, 2, 3], "one entry per case"),
        ([0, 1, 1], [1, np.nan, 3], "finite; found NaN"),
        ([0, 1, 1], [1, np.inf, 3], "finite; found NaN or infinity"),
        ([], [], "one class only"),
    ],
)
def test_bad_input_is_one_clear_error(y, scores, message):
    with pytest.raises(InputError, match=message):
        auc(y, scores)


def test_unknown_scale_and_alternative_name_the_nearest():
    with pytest.raises(InputError, match="Did you mean 'logit'"):
        delong_interval([0, 0, 1, 1], [1, 2, 3, 4], scale="logits")
    with pytest.raises(InputError, match="Did you mean 'two-sided'"):
        delong_test([0, 0, 1, 1], [1, 2, 3, 4], [1, 2, 4, 3], alternative="two_sided")


def test_level_in_percent_is_refused():
    with pytest.raises(InputError, match="between 0 and 1; found 95"):
        delong_interval([0, 0, 1, 1], [1, 2, 3, 4], level=95)


def test_roc_points_equal_proc_on_the_wfns_grades():
    y, scores = from_counts("wfns")
    points = roc_points(y, scores)
    assert list(points["tp"]) == PROC["roc_counts"]["wfns"]["tp"][::-1]
    assert list(points["tn"]) == PROC["roc_counts"]["wfns"]["tn"][::-1]


def test_roc_rule_is_greater_or_equal_at_observed_scores():
    points = roc_points([0, 1, 0, 1], [0.2, 0.2, 0.1, 0.9])
    assert list(points["threshold"]) == [np.inf, 0.9, 0.2, 0.1]
    assert list(points["sensitivity"]) == [0, 0.5, 1, 1]
    assert list(points["specificity"]) == [1, 1, 0.5, 0]


def test_area_under_the_points_is_the_auc():
    rng = np.random.default_rng(8)
    y, scores = rng.permutation(np.repeat([0, 1], [30, 20])), rng.integers(0, 6, 50)
    points = roc_points(y, scores)
    assert np.trapezoid(points["sensitivity"], 1 - points["specificity"]) == pytest.approx(auc(y, scores), abs=1e-14)
