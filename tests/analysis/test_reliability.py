"""Reliability of features against published tables and R, against definitions, and at the edges."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pandas as pd
import pytest
from scipy import special, stats

from hybrid.analysis.multiplicity import adjust
from hybrid.analysis.reliability import (
    CONCORDANCE_COLUMNS,
    ICC_COLUMNS,
    ICC_KINDS,
    SCREENING_COLUMNS,
    concordance,
    icc,
    limits_of_agreement,
    selection_stability,
    stack_raters,
    univariate_screening,
)
from hybrid.analysis.roc import auc
from hybrid.errors import InputError

# Six subjects rated by four judges: Shrout and Fleiss 1979 (doi:10.1037/0033-2909.86.2.420), table 2.
SHROUT_FLEISS = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]])
PUBLISHED = {"ICC(1,1)": 0.17, "ICC(2,1)": 0.29, "ICC(3,1)": 0.71, "ICC(1,k)": 0.44, "ICC(2,k)": 0.62, "ICC(3,k)": 0.91}
# R's psych 2.2.9, ICC: estimate, bounds, F, df1, df2, p.
PSYCH = {
    "ICC(1,1)": (0.165741768405476, -0.132932324874751, 0.722560062328121, 1.79467849223947, 5, 18, 0.16476880834464),
    "ICC(2,1)": (0.289763779527559, 0.018786513374712, 0.761084369648953, 11.0272479564033, 5, 15, 1.34566516484337e-4),
    "ICC(3,1)": (0.714840714840715, 0.342464765033925, 0.94585825995536, 11.0272479564033, 5, 15, 1.34566516484337e-4),
    "ICC(1,k)": (0.442797133679269, -0.884442155238119, 0.912415420340776, 1.79467849223947, 5, 18, 0.16476880834464),
    "ICC(2,k)": (
        0.620050547598989,
        0.0711368153025035,
        0.927232040167722,
        11.0272479564033,
        5,
        15,
        1.34566516484337e-4,
    ),
    "ICC(3,k)": (0.909315542377069, 0.675674713816305, 0.985891678169062, 11.0272479564033, 5, 15, 1.34566516484337e-4),
}
NUMBERS = ["icc", "lower", "upper", "f", "df1", "df2", "p"]


def simulate(n=12, k=3, m=5, seed=0, noise=0.7, shift=0.3):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 1, m)) + shift * rng.normal(size=(1, k, m)) + noise * rng.normal(size=(n, k, m))


def numbers_of(table):
    return table[NUMBERS].to_numpy(dtype=float)


@pytest.mark.parametrize("kind", ICC_KINDS)
def test_icc_equals_psych_on_shrout_and_fleiss(kind):
    row = icc(SHROUT_FLEISS, kinds=[kind])
    np.testing.assert_allclose(numbers_of(row)[0], PSYCH[kind], rtol=1e-10)
    assert row["icc"].iloc[0] == pytest.approx(PUBLISHED[kind], abs=0.005)
    assert row.loc[0, ["feature", "kind", "n_subjects", "n_raters", "n_dropped", "reason"]].to_list() == [
        0, kind, 6, 4, 0, "",
    ]  # fmt: skip


def test_reference_file_holds_the_ratings_typed_in_here(benchmarks):
    folder = benchmarks / "statistics"
    stored = pd.read_csv(folder / "shrout_fleiss_1979.csv", index_col="subject")
    np.testing.assert_array_equal(stored, SHROUT_FLEISS)
    rows = json.loads((folder / "icc.json").read_text(encoding="utf-8"))["shrout_fleiss"]
    keys = ("ICC", "lower bound", "upper bound", "F", "df1", "df2", "p")
    np.testing.assert_allclose(numbers_of(icc(stored)), [[row[key] for key in keys] for row in rows], rtol=1e-10)


def test_many_features_at_once_equal_one_at_a_time():
    ratings = simulate()
    together = icc(ratings, features=list("abcde"))
    assert tuple(together.columns) == ICC_COLUMNS
    assert together["feature"].to_list() == [name for name in "abcde" for _ in ICC_KINDS]
    for i, name in enumerate("abcde"):
        alone = icc(ratings[:, :, i], features=[name])
        own = together[together["feature"] == name].reset_index(drop=True)
        np.testing.assert_allclose(numbers_of(own), numbers_of(alone), rtol=1e-11, atol=1e-14)


def test_one_way_f_is_the_analysis_of_variance_of_subjects():
    ratings = simulate(m=1)[:, :, 0]
    f, p = stats.f_oneway(*ratings)
    row = icc(ratings, kinds=["ICC(1,1)"]).iloc[0]
    assert (row["f"], row["p"]) == pytest.approx((f, p), rel=1e-10)


def test_consistency_of_the_mean_is_cronbachs_alpha():
    ratings = simulate(m=1, k=4)[:, :, 0]
    covariance = np.cov(ratings.T)
    alpha = 4 / 3 * (1 - np.trace(covariance) / covariance.sum())
    assert icc(ratings, kinds=["ICC(3,k)"])["icc"].iloc[0] == pytest.approx(alpha, rel=1e-12)


def test_order_of_subjects_and_raters_and_the_unit_do_not_matter():
    ratings, rng = simulate(), np.random.default_rng(1)
    expected = numbers_of(icc(ratings))
    for changed in (ratings[rng.permutation(12)], ratings[:, [2, 0, 1]], 1e-6 * ratings + 4, -250 * ratings):
        np.testing.assert_allclose(numbers_of(icc(changed)), expected, rtol=1e-7, atol=1e-9)


def test_a_large_offset_costs_no_accuracy_beyond_its_rounding():
    ratings = simulate()
    np.testing.assert_allclose(numbers_of(icc(ratings + 1e6)), numbers_of(icc(ratings)), rtol=1e-6, atol=1e-9)


def test_shifts_between_raters_leave_consistency_alone_and_lower_agreement():
    ratings = simulate(shift=0.0)
    plain = icc(ratings).pivot(index="feature", columns="kind", values="icc")
    shifted = icc(ratings + np.array([0.0, 1.0, 3.0])[:, None]).pivot(index="feature", columns="kind", values="icc")
    np.testing.assert_allclose(shifted["ICC(3,1)"], plain["ICC(3,1)"], rtol=1e-10)
    assert (shifted["ICC(2,1)"] < plain["ICC(2,1)"]).all()


@pytest.mark.parametrize("n", [3, 20])
def test_identical_raters_agree_perfectly(n):
    ratings = np.repeat(np.random.default_rng(2).normal(100, 7, (n, 1, 4)), 3, axis=1)
    table = icc(ratings)
    np.testing.assert_array_equal(table[["icc", "lower", "upper"]], 1.0)
    assert np.isinf(table["f"]).all()
    assert (table["reason"] == "").all()


def test_constant_shifts_between_raters_are_perfect_consistency():
    table = icc(np.arange(6.0)[:, None] + [0, 1, 2]).set_index("kind")
    assert table.loc["ICC(3,1)", ["icc", "lower", "upper"]].to_list() == [1, 1, 1]
    agreement = table.loc["ICC(2,1)"]
    # Variance of subjects 3.5, of raters 1: 3.5 / (3.5 + 1).
    assert agreement["icc"] == pytest.approx(3.5 / 4.5, rel=1e-12)
    assert 0 < agreement["lower"] < agreement["icc"] < agreement["upper"] < 1


def test_three_subjects_with_ties_give_finite_intervals_around_the_estimate():
    table = icc([[1, 2], [2, 2], [4, 3]])
    assert np.isfinite(numbers_of(table.iloc[:3])[:, :3]).all()
    # The mean of ratings has no lower limit: Spearman and Brown's formula leaves the range.
    assert table.set_index("kind").loc["ICC(2,k)", "lower"] == -np.inf
    assert ((table["lower"] <= table["icc"]) & (table["icc"] <= table["upper"])).all()


def test_single_ratings_stay_within_their_range():
    rng = np.random.default_rng(3)
    for n, k in itertools.product((2, 3, 10), (2, 3, 6)):
        table = icc(rng.integers(0, 3, (n, k, 300)).astype(float), kinds=["ICC(1,1)", "ICC(2,1)", "ICC(3,1)"])
        table = table[table["reason"] == ""]
        assert (table["icc"] <= 1).all()
        assert (table["upper"] <= 1 + 1e-12).all()
        assert (table["lower"] <= table["icc"] + 1e-12).all()
        assert (table["icc"] <= table["upper"] + 1e-12).all()


def test_undefined_coefficients_are_nan_with_a_reason():
    values = np.stack([np.ones((4, 3)), np.full((4, 3), 0.3), np.tile([1.0, 2.0, 3.0], (4, 1))], axis=2)
    values[1, 1, 1] = 0.1 + 0.2
    table = icc(values, features=["constant", "rounding", "raters only"])
    assert 0.1 + 0.2 != 0.3
    for name in ("constant", "rounding"):
        rows = table[table["feature"] == name]
        assert rows[["icc", "lower", "upper", "f", "p"]].isna().all(axis=None)
        assert (rows["reason"] == "all values are equal").all()
    rows = table[table["feature"] == "raters only"].set_index("kind")
    assert rows.loc["ICC(1,1)", "icc"] == pytest.approx(-1 / 2)
    assert np.isnan(rows.loc["ICC(1,k)", "icc"])
    assert "too little variation between subjects" in rows.loc["ICC(1,k)", "reason"]


def test_a_mean_of_ratings_never_gets_a_positive_coefficient_from_negative_variances():
    # Error far above the variation between subjects: numerator and denominator of ICC(2,k) are both negative.
    row = icc([[1, 9], [9, 1], [5, 5.5]], kinds=["ICC(2,k)"]).iloc[0]
    assert np.isnan(row["icc"])
    assert row["reason"].startswith("undefined")


def test_missing_ratings_are_refused_by_default():
    ratings = simulate()
    ratings[[1, 4], [0, 2], 3] = np.nan
    with pytest.raises(InputError, match="1 of 5 features have missing values; 'd' lacks them for 2 of 12 subjects"):
        icc(ratings, features=list("abcde"))
    with pytest.raises(InputError, match="missing"):
        concordance(ratings[:, :2])


def test_dropped_subjects_are_counted_and_concern_their_feature_only():
    ratings = simulate(m=4)
    complete = icc(ratings)
    ratings[1, 0, 2], ratings[4, 1, 2], ratings[4, 2, 2], ratings[7, 1, 0] = np.nan, np.inf, np.nan, np.nan
    table = icc(ratings, missing="drop")
    assert table["n_dropped"].to_list() == [1] * 6 + [0] * 6 + [2] * 6 + [0] * 6
    assert (table["n_subjects"] + table["n_dropped"] == 12).all()
    for feature, rows in ((0, [7]), (2, [1, 4])):
        expected = icc(np.delete(ratings[:, :, feature], rows, axis=0))
        np.testing.assert_allclose(numbers_of(table[table["feature"] == feature]), numbers_of(expected), rtol=1e-10)
    untouched = table["feature"].isin([1, 3])
    np.testing.assert_allclose(numbers_of(table[untouched]), numbers_of(complete[untouched]), rtol=1e-10)


def test_features_with_too_few_complete_subjects_have_a_reason():
    ratings = simulate(m=3)
    ratings[1:, 0, 0] = np.nan
    ratings[:, 1, 1] = np.nan
    table = icc(ratings, missing="drop").groupby("feature").first()
    assert table["n_subjects"].to_list() == [1, 0, 12]
    assert table["reason"].to_list() == ["too few complete subjects"] * 2 + [""]
    assert table["icc"].isna().to_list() == [True, True, False]


@pytest.mark.parametrize(("kind", "truth"), [("ICC(1,1)", 0.5), ("ICC(2,1)", 1 / 2.25), ("ICC(3,1)", 0.5)])
def test_intervals_cover_the_true_coefficient(kind, truth):
    rng, m = np.random.default_rng(4), 2000
    # Agreement needs many raters, because the variance between them is estimated from as many values.
    k = 6 if kind == "ICC(2,1)" else 3
    shifts = 0.5 * rng.normal(size=(1, k, m)) if kind == "ICC(2,1)" else 0.0
    table = icc(rng.normal(size=(25, 1, m)) + shifts + rng.normal(size=(25, k, m)), kinds=[kind])
    covered = ((table["lower"] <= truth) & (truth <= table["upper"])).mean()
    assert 0.93 < covered < 0.97


def test_intervals_widen_with_the_level():
    wide, narrow = icc(simulate(), level=0.99), icc(simulate(), level=0.8)
    assert (wide["lower"] < narrow["lower"]).all()
    assert (wide["upper"] > narrow["upper"]).all()


def test_tables_of_raters_are_matched_by_names():
    first = pd.DataFrame({"a": [1.0, 2, 3], "b": [4.0, 5, 6]}, index=["x", "y", "z"])
    second = pd.DataFrame({"b": [60.0, 40, 50], "a": [30.0, 10, 20]}, index=["z", "x", "y"])
    ratings, features = stack_raters([first, second])
    assert features == ["a", "b"]
    np.testing.assert_array_equal(ratings[:, 1], 10 * ratings[:, 0])
    assert icc(ratings, features=features)["feature"].unique().tolist() == ["a", "b"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.drop(index="y"), "Tables 1 and 2 differ in 1 subjects; the first is 'y'"),
        (lambda table: table.rename(columns={"b": "c"}), "differ in 2 features"),
        (lambda table: table.set_axis(["x", "x", "z"]), "Table 2 has subject 'x' twice"),
    ],
)
def test_tables_that_do_not_match_are_refused(change, message):
    table = pd.DataFrame({"a": [1.0, 2, 3], "b": [4.0, 5, 6]}, index=["x", "y", "z"])
    with pytest.raises(InputError, match=message):
        stack_raters([table, change(table)])
    with pytest.raises(InputError, match="two or more raters; found 1"):
        stack_raters([table])


def r_normal(seed, n):
    """The numbers of ``set.seed(seed); rnorm(n)`` in R: Mersenne Twister and inversion."""
    words = [seed]
    for _ in range(50 + 625):
        words.append((69069 * words[-1] + 1) % 2**32)
    generator = np.random.MT19937()
    key = np.array(words[-624:], dtype=np.uint32)
    generator.state = {"bit_generator": "MT19937", "state": {"key": key, "pos": 624}}
    uniform = generator.random_raw(2 * n) * 2.3283064365386963e-10
    return special.ndtri((np.floor(2**27 * uniform[0::2]) + uniform[1::2]) / 2**27)


def test_concordance_equals_calc_ccc_of_r_on_its_own_test():
    # stufield/helpr, tests/testthat/test-calc-ccc.R: set.seed(101); x <- rnorm(100); y <- rnorm(100).
    row = concordance(r_normal(101, 200).reshape(2, 100).T).iloc[0]
    assert row["ccc"] == pytest.approx(0.10752819, abs=5e-9)
    assert (row["lower"], row["upper"]) == pytest.approx((-0.089276638680582, 0.296252008416967), abs=1e-14)


def test_concordance_is_precision_times_accuracy():
    ratings = simulate(k=2, n=30)
    table = concordance(ratings, features=list("abcde"))
    assert tuple(table.columns) == CONCORDANCE_COLUMNS
    pearson = [stats.pearsonr(ratings[:, 0, i], ratings[:, 1, i]).statistic for i in range(5)]
    np.testing.assert_allclose(table["pearson"], pearson, rtol=1e-10)
    np.testing.assert_allclose(table["ccc"], table["pearson"] * table["bias_correction"], rtol=1e-12)
    x, y = ratings[:, 0], ratings[:, 1]
    by_definition = 1 - ((x - y) ** 2).mean(0) / (x.var(0) + y.var(0) + (x.mean(0) - y.mean(0)) ** 2)
    np.testing.assert_allclose(table["ccc"], by_definition, rtol=1e-10)


def test_concordance_does_not_depend_on_order_or_unit():
    ratings, rng = simulate(k=2), np.random.default_rng(5)
    numbers = ["ccc", "lower", "upper"]
    expected = concordance(ratings)[numbers]
    for changed in (ratings[:, ::-1], ratings[rng.permutation(12)], 3 - 40 * ratings):
        np.testing.assert_allclose(concordance(changed)[numbers], expected, rtol=1e-9)


def test_concordance_of_extremes():
    x = np.array([1.0, 2, 4, 7])
    same = concordance(np.stack([x, x], axis=1)).iloc[0]
    assert same[["ccc", "lower", "upper", "pearson", "bias_correction"]].to_list() == pytest.approx([1] * 5, abs=1e-15)
    mirrored = concordance(np.stack([x, 7 - x], axis=1)).iloc[0]
    assert mirrored["ccc"] == pytest.approx(-1.0, abs=1e-15)
    unrelated = concordance([[1.0, 1], [1, -1], [-1, 1], [-1, -1]]).iloc[0]
    assert unrelated["ccc"] == 0
    assert unrelated["lower"] == pytest.approx(-unrelated["upper"])
    assert unrelated["upper"] > 0.5


def test_constant_ratings_have_no_concordance():
    x = np.array([1.0, 2, 4, 7])
    values = np.stack([np.stack(pair, axis=1) for pair in ((x, x + 1), (x, 0 * x), (0 * x + 2, 0 * x + 2))], axis=2)
    table = concordance(values)
    assert table["ccc"].isna().to_list() == [False, True, True]
    assert table["reason"].to_list() == ["", "the values of one rater are all equal", "all values are equal"]


def test_concordance_drops_incomplete_subjects_when_asked():
    ratings = simulate(k=2, n=9, m=2)
    ratings[3, 1, 1] = np.nan
    table = concordance(ratings, missing="drop")
    assert table["n_dropped"].to_list() == [0, 1]
    expected = concordance(np.delete(ratings[:, :, 1], 3, axis=0)).iloc[0]
    assert table["lower"].iloc[1] == pytest.approx(expected["lower"], rel=1e-12)
    ratings[2:, 0, 0] = np.nan
    assert concordance(ratings, missing="drop")["reason"].to_list() == ["too few complete subjects", ""]


def test_interval_of_concordance_covers_the_truth():
    rng, m = np.random.default_rng(6), 3000
    subjects = rng.normal(size=(40, 1, m))
    ratings = np.concatenate([subjects, 0.4 + 1.2 * subjects], axis=1) + 0.5 * rng.normal(size=(40, 2, m))
    truth = 2 * 1.2 / (1.25 + 1.44 + 0.25 + 0.16)
    table = concordance(ratings)
    covered = ((table["lower"] <= truth) & (truth <= table["upper"])).mean()
    assert 0.93 < covered < 0.97


def kuncheva(selected):
    """Mean over pairs of sets of equal size of their overlap, corrected for chance (Kuncheva 2007)."""
    size, n_features = selected[0].sum(), selected.shape[1]
    pairs = [
        ((first & second).sum() - size**2 / n_features) / (size - size**2 / n_features)
        for first, second in itertools.combinations(selected, 2)
    ]
    return np.mean(pairs)


def random_sets(n_sets, n_features, size, seed):
    rng = np.random.default_rng(seed)
    return np.argsort(rng.random((n_sets, n_features)), axis=1) < size


def test_stability_of_sets_of_equal_size_is_kunchevas_index():
    for seed in range(5):
        selected = random_sets(7, 20, 6, seed)
        selected[:, :2] = selected[:, [0]]
        selected = selected[selected.sum(axis=1) == np.bincount(selected.sum(axis=1)).argmax()]
        assert selection_stability(selected).stability == pytest.approx(kuncheva(selected), abs=1e-12)


def test_stability_by_hand():
    # Two sets {1, 2} and {1, 3} of four features: mean variance (0.5 + 0.5) / 4, by chance 1/4: 1 - 1 = 0.
    assert selection_stability([[1, 1, 0, 0], [1, 0, 1, 0]]).stability == pytest.approx(0.0, abs=1e-15)
    # Disjoint halves are the least stable choice.
    assert selection_stability([[1, 1, 0, 0], [0, 0, 1, 1]]).stability == pytest.approx(-1.0)


def test_equal_sets_are_perfectly_stable_without_an_interval():
    result = selection_stability(np.tile([True, False, True], (5, 1)))
    assert result.stability == pytest.approx(1.0)
    assert np.isnan(result.lower)
    assert "variance is 0" in result.reason
    assert (result.n_sets, result.n_features, result.mean_selected) == (5, 3, pytest.approx(2.0))


def test_random_sets_are_unstable_on_average():
    values = [selection_stability(random_sets(10, 30, 8, seed)).stability for seed in range(300)]
    assert np.mean(values) == pytest.approx(0.0, abs=0.01)


@pytest.mark.parametrize("value", [0, 1])
def test_stability_of_empty_or_full_sets_is_undefined(value):
    result = selection_stability(np.full((4, 6), value))
    assert np.isnan(result.stability)
    assert "every set is empty or holds all features" in result.reason


def test_order_of_sets_and_features_does_not_matter():
    rng = np.random.default_rng(7)
    selected = rng.random((8, 25)) < np.linspace(0.05, 0.9, 25)
    one, other = (
        selection_stability(selected),
        selection_stability(selected[rng.permutation(8)][:, rng.permutation(25)]),
    )
    assert (one.stability, one.standard_error) == pytest.approx((other.stability, other.standard_error), rel=1e-12)


def test_variance_of_stability_agrees_with_the_jackknife():
    rng = np.random.default_rng(8)
    selected = rng.random((300, 25)) < np.linspace(0.05, 0.9, 25)
    left_out = [selection_stability(np.delete(selected, i, axis=0)).stability for i in range(300)]
    jackknife = np.sqrt(299 * np.var(left_out))
    assert selection_stability(selected).standard_error == pytest.approx(jackknife, rel=0.02)


def test_interval_of_stability_covers_the_truth():
    rng = np.random.default_rng(9)
    shares = np.linspace(0.05, 0.9, 25)
    truth = 1 - (shares * (1 - shares)).mean() / (shares.mean() * (1 - shares.mean()))
    results = [selection_stability(rng.random((40, 25)) < shares) for _ in range(1000)]
    assert 0.92 < np.mean([result.lower <= truth <= result.upper for result in results]) < 0.98


def test_screening_equals_r_on_birth_weights(benchmarks):
    # R 4.2.2, wilcox.test with continuity correction, by low birth weight.
    table = pd.read_csv(benchmarks / "statistics" / "birthwt.csv")
    result = univariate_screening(table[["age", "lwt", "bwt"]], table["low"])
    expected = [0.247146581731148, 0.012782242220945, 3.65849585559151e-28]
    np.testing.assert_allclose(result["p"], expected, rtol=1e-9)
    np.testing.assert_allclose(result["p_adjusted"], [expected[0], 1.5 * expected[1], 3 * expected[2]], rtol=1e-9)


def screening_data(n=30, m=6, seed=0, decimals=None):
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.repeat([0, 1], [n - 8, 8]))
    values = rng.normal(size=(n, m)) + np.outer(y, np.linspace(0, 1.5, m))
    return pd.DataFrame(values if decimals is None else values.round(decimals)).rename(columns="f{}".format), y


def test_screening_gives_auc_and_adjusted_p_of_every_feature():
    features, y = screening_data(decimals=1)
    result = univariate_screening(features, y)
    assert tuple(result.columns) == SCREENING_COLUMNS
    assert result["feature"].to_list() == list(features.columns)
    np.testing.assert_allclose(result["auc"], [auc(y, features[name]) for name in features], rtol=1e-12)
    np.testing.assert_allclose(result["p_adjusted"], adjust(result["p"], "benjamini_hochberg").p)
    holm = univariate_screening(features, y, method="holm")
    np.testing.assert_allclose(holm["p_adjusted"], adjust(result["p"], "holm").p)
    assert (result[["n_positive", "n_negative", "n_tests"]] == [8, 22, 6]).all(axis=None)


def test_exact_p_values_equal_all_permutations():
    features, y = screening_data(n=10, m=3)
    y = np.repeat([0, 1], [6, 4])
    result = univariate_screening(features, y)
    assert (result["p_method"] == "exact").all()
    for name, p in zip(result["feature"], result["p"], strict=True):
        ranks = stats.rankdata(features[name])
        sums = np.array([ranks[list(rows)].sum() for rows in itertools.combinations(range(10), 4)])
        observed = abs(ranks[y == 1].sum() - 22)
        assert p == pytest.approx(np.mean(np.abs(sums - 22) >= observed), rel=1e-12)


def test_ties_in_one_feature_do_not_change_the_p_value_of_another():
    features, y = screening_data()
    alone = univariate_screening(features[["f2"]], y)
    rounded = univariate_screening(features.assign(f0=features["f0"].round()), y)
    assert rounded["p_method"].iloc[0].startswith("normal approximation")
    assert rounded.loc[2, ["p", "p_method"]].to_list() == alone.loc[0, ["p", "p_method"]].to_list()
    assert alone["p_method"].iloc[0] == "exact"


def test_screening_does_not_depend_on_the_order_of_cases_or_a_monotone_scale():
    features, y = screening_data(seed=1)
    order = np.random.default_rng(1).permutation(30)
    expected = univariate_screening(features, y)
    pd.testing.assert_frame_equal(univariate_screening(features.iloc[order], y[order]), expected)
    pd.testing.assert_frame_equal(univariate_screening(np.exp(features), y), expected)


def test_missing_values_are_refused_or_left_out_of_their_feature():
    features, y = screening_data()
    expected = univariate_screening(features, y)
    features.loc[[0, 5], "f1"] = np.nan
    features.loc[[2], "f3"] = np.inf
    with pytest.raises(InputError, match="2 of 6 features have missing values; 'f1' lacks them for 2 of 30"):
        univariate_screening(features, y)
    result = univariate_screening(features, y, missing="drop")
    assert result["n_dropped"].to_list() == [0, 2, 0, 1, 0, 0]
    kept = features["f1"].notna().to_numpy()
    alone = univariate_screening(features.loc[kept, ["f1"]], y[kept])
    assert result.loc[1, "p"] == alone.loc[0, "p"]
    np.testing.assert_array_equal(result.loc[[0, 2, 4, 5], "p"], expected.loc[[0, 2, 4, 5], "p"])


def test_constant_features_and_lost_classes_are_undefined_members_of_the_family():
    features, y = screening_data(m=4)
    features["f1"] = 3.0
    features.loc[y == 1, "f2"] = np.nan
    result = univariate_screening(features, y, missing="drop")
    assert result["p"].isna().to_list() == [False, True, True, False]
    assert result["p_adjusted"].isna().to_list() == [False, True, True, False]
    assert result["reason"].to_list() == ["", "all values are equal", "values of one class only", ""]
    assert result["auc"].iloc[1] == 0.5
    assert np.isnan(result["auc"].iloc[2])
    assert (result["n_tests"] == 4).all()


def test_p_values_are_uniform_without_any_effect():
    rng = np.random.default_rng(10)
    result = univariate_screening(pd.DataFrame(rng.normal(size=(60, 2000))), rng.permutation(np.repeat([0, 1], 30)))
    assert stats.kstest(result["p"], "uniform").pvalue > 0.001
    assert result["p_adjusted"].min() > 0.05


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: icc(np.ones(5)), r"found \(5,\)"),
        (lambda: icc(np.ones((1, 3, 2))), r"two or more subjects and raters; found \(1, 3, 2\)"),
        (lambda: icc(np.ones((5, 1, 2))), r"found \(5, 1, 2\)"),
        (lambda: icc(SHROUT_FLEISS, kinds=["ICC(2,4)"]), r"Unknown kind of ICC 'ICC\(2,4\)'. Did you mean"),
        (lambda: icc(SHROUT_FLEISS, features=["a", "b"]), "2 names for 1 features"),
        (lambda: icc(SHROUT_FLEISS, missing="omit"), "Unknown treatment of missing values 'omit'"),
        (lambda: icc(SHROUT_FLEISS, level=95), "found 95"),
        (lambda: concordance(SHROUT_FLEISS), "compares two ratings; found 4"),
        (lambda: selection_stability([[1, 0]]), r"found \(1, 2\)"),
        (lambda: selection_stability([[1, 0.5], [0, 1]]), "selected or not; found 0.5"),
        (lambda: univariate_screening(pd.DataFrame({"a": ["x", "y"]}), [0, 1]), "column 'a' is not"),
        (lambda: univariate_screening(pd.DataFrame({"a": [1.0, 2.0]}), [0, 2]), "must be 0 or 1; found 2"),
        (lambda: univariate_screening(pd.DataFrame({"a": [1.0, 2.0]}), [0, 1, 1]), "one entry per case"),
        (lambda: univariate_screening(pd.DataFrame({"a": [1.0, 2.0]}), [1, 1]), "one class only"),
    ],
)  # fmt: skip
def test_invalid_input_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_limits_of_agreement_are_those_of_the_definition_and_of_volumes():
    rng = np.random.default_rng(3)
    first = rng.normal(50, 10, (30, 2))
    second = first + np.array([2.0, -1.0]) + rng.normal(0, 3, (30, 2))
    table = limits_of_agreement(np.stack([first, second], axis=1), features=["volume", "mean"]).set_index("feature")
    difference = (second - first)[:, 0]
    sd = difference.std(ddof=1)
    row = table.loc["volume"]
    assert row["bias"] == pytest.approx(difference.mean())
    assert row["upper_limit"] - row["lower_limit"] == pytest.approx(2 * 1.96 * sd)
    expected = stats.t.interval(0.95, 29, loc=difference.mean(), scale=sd / np.sqrt(30))
    assert (row["bias_lower"], row["bias_upper"]) == pytest.approx(expected)
    assert row["limit_margin"] == pytest.approx(stats.t.ppf(0.975, 29) * sd * np.sqrt(3 / 30))


def test_limits_of_agreement_of_two_subjects_and_of_three_raters():
    with pytest.raises(InputError, match="compare two ratings; found 3"):
        limits_of_agreement(np.zeros((4, 3, 1)))
    table = limits_of_agreement(np.arange(4.0).reshape(2, 2, 1))
    assert np.isnan(table["bias"][0])
    assert table["reason"][0] == "too few complete subjects"
    missing = np.array([[1.0, 2.0], [3.0, np.nan], [2.0, 2.0], [5.0, 4.0]])
    assert limits_of_agreement(missing, missing="drop")["n_dropped"][0] == 1
