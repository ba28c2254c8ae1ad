"""Partial AUC against pROC, scikit-learn and the definition."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from hybrid.analysis import auc, delong_covariance
from hybrid.analysis.partial_auc import partial_auc, partial_auc_difference, partial_auc_intervals
from hybrid.errors import InputError

MARKERS = ("wfns", "s100b", "ndka", "age")

# pROC 1.18.0 on its data set aSAH, auc(partial.auc=, partial.auc.focus=, partial.auc.correct=): for each range first
# specificity raw and corrected, then sensitivity raw and corrected.
RANGES = [(0.9, 1.0), (0.8, 1.0), (0.8, 0.9), (0.0, 0.5)]
PROC = {
    "wfns": [
        0.0334417344173442, 0.649693339038653, 0.0400999322493225, 0.68473648552275,
        0.0932791327913279, 0.703553146642578, 0.101095302619693, 0.725264729499147,
        0.0598373983739837, 0.763749402199904, 0.0609953703703703, 0.770561002178649,
        0.488134475939354, 0.952537903757416, 0.483358739837398, 0.933434959349593,
    ],
    "s100b": [
        0.0327574525745257, 0.646091855655399, 0.0137635501355013, 0.546123948081586,
        0.0805894308943089, 0.668303974706414, 0.0488211382113821, 0.580058717253839,
        0.0478319783197832, 0.693129284234019, 0.0350575880758807, 0.617985812211063,
        0.448128387533875, 0.792513550135501, 0.478489159891599, 0.913956639566396,
    ],
    "ndka": [
        0.0107046070460705, 0.530024247610897, 0.0037940379403794, 0.493652831265155,
        0.0384823848238482, 0.551339957844023, 0.0280487804878049, 0.522357723577236,
        0.0277777777777778, 0.575163398692811, 0.0242547425474255, 0.554439662043679,
        0.416836043360434, 0.667344173441734, 0.428523035230352, 0.714092140921409,
    ],
    "age": [
        0.0143292682926829, 0.549101412066752, 0.0164642615176152, 0.560338218513764,
        0.038360433604336, 0.551001204456489, 0.0451964769647696, 0.569990213791027,
        0.0240311653116531, 0.553124501833254, 0.0287322154471545, 0.580777737924438,
        0.429708672086721, 0.718834688346883, 0.419164972899729, 0.676659891598916,
    ],
}  # fmt: skip
CASES = [
    (limits, focus, corrected)
    for limits in RANGES
    for focus in ("specificity", "sensitivity")
    for corrected in (False, True)
]


@pytest.fixture
def asah(benchmarks):
    table = pd.read_csv(benchmarks / "statistics" / "aSAH.csv")
    return (table["outcome"] == "Poor").to_numpy(int), {name: table[name].to_numpy(float) for name in MARKERS}


def wfns():
    """Outcome and five-level score of the 113 patients, from the counts on pROC's curve."""
    scores = np.concatenate([np.repeat(np.arange(1, 6), counts) for counts in ([37, 20, 3, 8, 4], [2, 12, 1, 8, 18])])
    return np.repeat([0, 1], [72, 41]), scores.astype(float)


def simulated(seed, n=90, shift=1.0, levels=None):
    rng = np.random.default_rng(seed)
    y = np.r_[0, 0, 1, 1, rng.integers(0, 2, n - 4)]
    scores = rng.normal(0, 1, n) + shift * y
    return y, scores if levels is None else np.round(scores * levels)


@pytest.mark.parametrize(("index", "case"), list(enumerate(CASES)), ids=str)
def test_partial_auc_equals_proc_on_wfns(index, case):
    (low, high), focus, corrected = case
    value = partial_auc(*wfns(), focus=focus, low=low, high=high, corrected=corrected)
    assert value == pytest.approx(PROC["wfns"][index], abs=1e-12)


@pytest.mark.parametrize("marker", MARKERS)
def test_all_partial_aucs_equal_proc_on_asah(asah, marker):
    y, markers = asah
    values = [
        partial_auc(y, markers[marker], focus=focus, low=low, high=high, corrected=corrected)
        for (low, high), focus, corrected in CASES
    ]
    assert values == pytest.approx(PROC[marker], abs=1e-12)


def test_bootstrap_interval_agrees_with_proc_on_asah(asah):
    # pROC 1.18.0, ci.auc(partial.auc = c(1, .8)), stratified, 20 000 draws, seed 42.
    y, markers = asah
    table = partial_auc_intervals(y, markers["s100b"], low=0.8, n_bootstrap=20_000, seed=1).set_index("measure")
    # The Monte-Carlo error of a 2.5 % quantile of 20 000 draws is about 0.02 standard errors of 0.0166.
    assert table.loc["raw", "ci_low"] == pytest.approx(0.0507791327913279, abs=0.0015)
    assert table.loc["raw", "ci_high"] == pytest.approx(0.115006775067751, abs=0.0015)


@pytest.mark.parametrize(("other", "z", "p"), [
    ("s100b", 2.23627454456568, 0.02533379282524),
    ("ndka", 2.81084989929868, 0.0049410830948096),
    ("age", 3.16827399747339, 0.00153346923316556),
])  # fmt: skip
def test_bootstrap_test_over_the_full_range_agrees_with_proc_on_asah(asah, other, z, p):
    # pROC 1.18.0, roc.test(method = "bootstrap"), 20 000 draws, seed 42. Both z have a relative error of 0.5 %.
    y, markers = asah
    row = partial_auc_difference(y, markers["wfns"], markers[other], low=0.0, n_bootstrap=20_000).iloc[0]
    assert row["z"] == pytest.approx(z, rel=0.021)
    assert row["p"] == pytest.approx(p, rel=0.15)


@pytest.mark.parametrize("levels", [None, 2])
@pytest.mark.parametrize("limit", [0.05, 0.1, 0.37])
def test_corrected_partial_auc_equals_scikit_learn(levels, limit):
    y, scores = simulated(1, levels=levels)
    value = partial_auc(y, scores, low=1 - limit, corrected=True)
    assert value == pytest.approx(roc_auc_score(y, scores, max_fpr=limit), abs=1e-12)


@pytest.mark.parametrize("focus", ["specificity", "sensitivity"])
@pytest.mark.parametrize("levels", [None, 1])
def test_full_range_is_the_auc_and_ranges_add_up(focus, levels):
    y, scores = simulated(2, levels=levels)
    assert partial_auc(y, scores, focus=focus, low=0.0) == pytest.approx(auc(y, scores), abs=1e-12)
    assert partial_auc(y, scores, focus=focus, low=0.0, corrected=True) == pytest.approx(auc(y, scores), abs=1e-12)
    parts = [partial_auc(y, scores, focus=focus, low=a, high=b) for a, b in ((0, 0.33), (0.33, 0.7), (0.7, 1))]
    assert sum(parts) == pytest.approx(auc(y, scores), abs=1e-12)


def test_partial_auc_is_the_mean_of_the_curve_read_at_many_points():
    y, scores = simulated(3, levels=1)
    thresholds = np.r_[np.inf, np.unique(scores)[::-1]]
    alarms = np.array([(scores[y == 0] >= t).mean() for t in thresholds])
    hits = np.array([(scores[y == 1] >= t).mean() for t in thresholds])
    x = (np.arange(200_000) + 0.5) / 200_000 * 0.3
    assert partial_auc(y, scores, low=0.7) == pytest.approx(0.3 * np.interp(x, alarms, hits).mean(), abs=1e-6)


def test_exchanging_classes_and_direction_exchanges_the_axes():
    y, scores = simulated(4, levels=2)
    mirrored = partial_auc(1 - y, -scores, focus="sensitivity", low=0.8)
    assert partial_auc(y, scores, focus="specificity", low=0.8) == pytest.approx(mirrored, abs=1e-12)


def test_swapping_the_labels_over_the_full_range_gives_one_minus_the_area():
    y, scores = simulated(5)
    assert partial_auc(1 - y, scores, low=0.0) == pytest.approx(1 - partial_auc(y, scores, low=0.0), abs=1e-12)


def test_row_order_changes_nothing_not_even_the_bootstrap():
    y, scores = simulated(6, levels=3)
    other = simulated(7)[1]
    order = np.random.default_rng(8).permutation(y.size)
    pd.testing.assert_frame_equal(
        partial_auc_intervals(y, scores, n_bootstrap=200),
        partial_auc_intervals(y[order], scores[order], n_bootstrap=200),
    )
    pd.testing.assert_frame_equal(
        partial_auc_difference(y, scores, other, n_bootstrap=200),
        partial_auc_difference(y[order], scores[order], other[order], n_bootstrap=200),
    )


def test_corrected_interval_is_the_raw_one_rescaled():
    y, scores = simulated(9)
    raw, corrected = (row for _, row in partial_auc_intervals(y, scores, low=0.8, n_bootstrap=300).iterrows())
    # Width 0.2, diagonal 0.02.
    for name in ("estimate", "ci_low", "ci_high"):
        assert corrected[name] == pytest.approx(0.5 * (1 + (raw[name] - 0.02) / 0.18))
    assert raw["ci_low"] < raw["estimate"] < raw["ci_high"]
    assert corrected["se"] == pytest.approx(raw["se"] * 0.5 / 0.18)


def test_bootstrap_error_over_the_full_range_is_close_to_delong():
    y, scores = simulated(10, n=200)
    table = partial_auc_intervals(y, scores, low=0.0, n_bootstrap=3000, kind="bca")
    assert table["se"][0] == pytest.approx(np.sqrt(delong_covariance(y, scores)[1][0, 0]), rel=0.06)


def test_identical_scores_have_p_one():
    y, scores = simulated(11)
    table = partial_auc_difference(y, scores, np.exp(scores), n_bootstrap=100)
    assert (table["difference"] == 0).all()
    assert (table["z"] == 0).all()
    assert (table["p"] == 1).all()


def test_difference_changes_sign_when_the_scores_are_exchanged():
    y, first = simulated(12, shift=1.5)
    second = simulated(13)[1]
    one = partial_auc_difference(y, first, second, low=0.5, n_bootstrap=2000)
    two = partial_auc_difference(y, second, first, low=0.5, n_bootstrap=2000)
    np.testing.assert_allclose(one["difference"], -two["difference"])
    # The two calls draw other patients: 2000 draws fix a standard error to 2 %, and log p (z about 6) to 5 %.
    assert np.log(one["p"][0]) == pytest.approx(np.log(two["p"][0]), rel=0.15)


def test_perfect_separation_reaches_the_maximum_and_has_no_interval():
    y = np.repeat([0, 1], [6, 5])
    table = partial_auc_intervals(y, y * 2.0, low=0.8, n_bootstrap=50)
    assert table["estimate"].tolist() == pytest.approx([0.2, 1.0])
    assert table[["se", "ci_low", "ci_high"]].isna().all(axis=None)


def test_perfect_against_constant_is_not_a_test():
    y = np.repeat([0, 1], [6, 5])
    table = partial_auc_difference(y, y, np.zeros(11), n_bootstrap=50)
    assert (table["difference"] > 0).all()
    assert table[["se", "z", "p", "ci_low", "ci_high"]].isna().all(axis=None)


def test_constant_score_has_the_diagonal():
    table = partial_auc_intervals([0, 0, 0, 1, 1], np.ones(5), low=0.9, n_bootstrap=50)
    assert table["estimate"].tolist() == pytest.approx([0.005, 0.5])


def test_three_cases_have_an_area_and_no_interval():
    table = partial_auc_intervals([0, 0, 1], [1, 3, 2], low=0.0, n_bootstrap=50)
    assert table["estimate"][0] == pytest.approx(0.5)
    assert table[["se", "ci_low", "ci_high"]].isna().all(axis=None)


@pytest.mark.parametrize(("low", "high"), [(0.9, 0.9), (1.0, 0.9), (-0.1, 0.5), (0.5, 1.1)])
def test_empty_and_impossible_ranges_are_refused(low, high):
    with pytest.raises(InputError, match="0 <= low < high <= 1"):
        partial_auc(*simulated(1), low=low, high=high)


def test_unusable_input_is_refused():
    with pytest.raises(InputError, match="one class only"):
        partial_auc([1, 1, 1], [1, 2, 3])
    with pytest.raises(InputError, match="specificity"):
        partial_auc(*simulated(1), focus="specifity")
    with pytest.raises(InputError, match="one entry per case"):
        partial_auc_difference([0, 1], [1, 2], [1, 2, 3])
