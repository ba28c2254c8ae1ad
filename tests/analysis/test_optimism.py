"""Resampling arithmetic against R's ipred, against enumeration, and against the methods it generalises."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.covariance import EmpiricalCovariance
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from hybrid.analysis.many_models import corrected_resampled_t
from hybrid.analysis.optimism import (
    METRICS,
    NO_INTERVAL,
    RESAMPLING_COLUMNS,
    Refits,
    estimate_632,
    estimates_632,
    leave_pair_out_auc,
    no_information_rate,
    optimism_corrected,
    out_of_bag_auc,
    out_of_bag_loss,
    permutation_p,
    repeated_cv_auc,
    tournament_scores,
)
from hybrid.analysis.roc import auc, delong_interval
from hybrid.errors import InputError

# R's ipred 0.9.13, errorest() of MASS::Pima.tr with 50 fixed bootstrap samples: resubstitution, leave-one-out
# bootstrap, no-information error, .632 and .632+.
IPRED = {
    "lda": (0.23, 0.251744777904414, 0.4296, 0.24374269963559, 0.244316662845187),
    "nearest neighbour": (0.0, 0.323184208575335, 0.4488, 0.204252419819611, 0.277894270773362),
}


class UnbiasedCovariance(EmpiricalCovariance):
    """Covariance with R's divisor, n - 2 of 200 patients in two classes; scikit-learn divides by n."""

    def fit(self, X, y=None):
        super().fit(X)
        self.covariance_ = self.covariance_ * 200 / 198
        return self


@pytest.fixture(scope="module")
def pima(benchmarks):
    folder = benchmarks / "statistics"
    table = pd.read_csv(folder / "pima_tr.csv")
    draws = pd.read_csv(folder / "pima_tr_bootstrap_indices_zero_based.csv").to_numpy()
    return table.drop(columns="type").to_numpy(float), (table["type"] == "Yes").to_numpy(int), draws


@pytest.mark.parametrize("name", IPRED)
def test_632_plus_of_pima_equals_ipred(pima, name):
    X, y, draws = pima
    resubstitution, out_of_bag, no_information, plain, plus = IPRED[name]
    if name == "lda":
        model = LinearDiscriminantAnalysis(solver="lsqr", covariance_estimator=UnbiasedCovariance())
    else:
        model, X = KNeighborsClassifier(1), (X - X.mean(axis=0)) / X.std(axis=0, ddof=1)
    called = model.fit(X, y).predict(X)
    losses = np.stack([model.fit(X[draw], y[draw]).predict(X) != y for draw in draws])
    counts = np.stack([np.bincount(draw, minlength=200) for draw in draws])
    outside = out_of_bag_loss(losses, counts)
    found = estimate_632(np.mean(called != y), outside.estimate, no_information_rate(y, called))
    assert (outside.n_units, outside.n_never_out) == (200, 0)
    assert [found.resubstitution, found.out_of_bag, found.no_information] == pytest.approx(
        [resubstitution, out_of_bag, no_information], rel=1e-12
    )
    assert [found.estimate_632, found.estimate_632_plus] == pytest.approx([plain, plus], rel=1e-12)


@pytest.mark.parametrize("name", IPRED)
def test_632_plus_from_its_pieces_equals_ipred(name):
    resubstitution, out_of_bag, no_information, plain, plus = IPRED[name]
    found = estimate_632(resubstitution, out_of_bag, no_information)
    assert [found.estimate_632, found.estimate_632_plus] == pytest.approx([plain, plus], rel=1e-12)


def test_632_plus_lies_between_632_and_out_of_bag():
    rng = np.random.default_rng(0)
    for resubstitution, out_of_bag in np.sort(rng.uniform(0, 0.5, size=(200, 2)), axis=1):
        found = estimate_632(resubstitution, out_of_bag, 0.5)
        assert found.estimate_632 - 1e-12 <= found.estimate_632_plus <= out_of_bag + 1e-12
        weighted = (1 - found.weight) * resubstitution + found.weight * out_of_bag
        assert found.estimate_632_plus == pytest.approx(weighted, rel=1e-12)


@pytest.mark.parametrize(
    ("pieces", "rate", "plus"),
    [
        ((0.2, 0.2, 0.5), 0.0, 0.2),  # nothing overfitted
        ((0.0, 0.5, 0.5), 1.0, 0.5),  # new patients are as good as a coin
        ((0.3, 0.2, 0.5), 0.0, 0.368 * 0.3 + 0.632 * 0.2),  # better on new patients than on its own
        ((0.0, 0.6, 0.5), 1.0, 0.368 * 0.5 + 0.632 * 0.6),  # worse than a coin: the rate is cut at 1, the rest is not
    ],
)
def test_relative_overfitting_is_cut_at_0_and_1(pieces, rate, plus):
    found = estimate_632(*pieces)
    assert (found.relative_overfitting, found.estimate_632_plus) == pytest.approx((rate, plus), rel=1e-12)


def test_632_of_an_auc_mirrors_that_of_its_complement():
    area, loss = estimate_632(0.95, 0.7, 0.5, higher_is_better=True), estimate_632(0.05, 0.3, 0.5)
    assert area.estimate_632_plus == pytest.approx(1 - loss.estimate_632_plus, rel=1e-12)
    assert area.estimate_632 == pytest.approx(1 - loss.estimate_632, rel=1e-12)
    assert area.relative_overfitting == pytest.approx(loss.relative_overfitting, rel=1e-12)


def test_no_information_rate_is_that_of_independent_classes():
    y, called = np.array([1, 1, 1, 0, 0]), np.array([1, 0, 0, 0, 0])
    p, q = y.mean(), called.mean()
    assert no_information_rate(y, called) == pytest.approx(p * (1 - q) + (1 - p) * q, rel=1e-12)


def test_no_information_brier_is_the_mean_over_all_shuffles():
    y, probability = np.array([1.0, 0, 0, 1]), np.array([0.9, 0.4, 0.2, 0.6])
    shuffles = [((y[list(order)] - probability) ** 2).mean() for order in itertools.permutations(range(4))]
    assert no_information_rate(y, probability) == pytest.approx(np.mean(shuffles), rel=1e-12)


def draw_counts(y, n_draws, rng):
    counts = np.zeros((n_draws, len(y)))
    for value in np.unique(y):
        members = np.flatnonzero(y == value)
        counts[:, members] = rng.multinomial(len(members), np.full(len(members), 1 / len(members)), size=n_draws)
    return counts


def refit(X, y, counts, C=1.0):
    """Logistic models of weighted patients; probabilities of all of them."""
    fitted = [LogisticRegression(C=C).fit(X, y, sample_weight=count) for count in [np.ones(len(y)), *counts]]
    probabilities = np.stack([model.predict_proba(X)[:, 1] for model in fitted])
    return Refits(
        y.astype(float), np.arange(len(y)), probabilities[0], 0.5, probabilities[1:], np.full(len(counts), 0.5), counts
    )


def simulate(n, p, signal, rng):
    y = np.arange(n) % 2
    X = rng.normal(size=(n, p))
    X[:, 0] += signal * y
    return X, y


def test_out_of_bag_auc_is_the_mean_over_pairs_of_the_models_without_both():
    rng = np.random.default_rng(3)
    y, patient = np.array([1, 1, 0, 0, 0, 1, 0]), np.array([0, 0, 1, 2, 3, 4, 4])
    counts = rng.multinomial(5, np.full(5, 0.2), size=80)
    scores = rng.integers(0, 4, size=(80, 7)).astype(float)
    pairs = []
    for i, j in itertools.product(np.flatnonzero(y == 1), np.flatnonzero(y == 0)):
        out = [b for b in range(80) if counts[b, patient[i]] == counts[b, patient[j]] == 0]
        pairs.append(np.mean([(scores[b, i] > scores[b, j]) + 0.5 * (scores[b, i] == scores[b, j]) for b in out]))
    assert out_of_bag_auc(y, scores, counts, patient=patient).estimate == pytest.approx(np.mean(pairs), rel=1e-12)


def test_pairs_that_are_never_out_of_bag_are_counted():
    counts = np.array([[0, 1, 0, 2], [1, 0, 1, 0]])
    found = out_of_bag_auc([1, 1, 0, 0], np.tile([0.9, 0.8, 0.2, 0.1], (2, 1)), counts)
    assert (found.n_units, found.n_never_out, found.estimate) == (4, 2, 1.0)


def exact_leave_one_out_bootstrap(loss, n, weights):
    """Enumerate all samples of n patients, drawn with the given chances."""
    samples = list(itertools.product(range(n), repeat=n))
    chance = np.array([np.prod(weights[list(sample)]) for sample in samples])
    means = []
    for i in range(n):
        out = np.array([i not in sample for sample in samples])
        losses = np.array([loss(sample, i) for sample in samples])
        means.append((chance * out * losses).sum() / (chance * out).sum())
    return float(weights @ means)


def test_standard_error_is_the_derivative_by_each_patients_share():
    y, n = np.array([0.3, 1.0, 2.5, 4.0]), 4

    def loss(sample, i):
        return (y[i] - y[list(sample)].mean()) ** 2

    samples = list(itertools.product(range(n), repeat=n))
    losses = np.array([[loss(sample, i) for i in range(n)] for sample in samples])
    counts = np.array([np.bincount(sample, minlength=n) for sample in samples])
    found = out_of_bag_loss(np.tile(losses, (100, 1)), np.tile(counts, (100, 1)))
    equal = np.full(n, 0.25)
    slopes = []
    for i in range(n):
        up, down = ((1 - step) * equal + step * np.eye(n)[i] for step in (1e-5, -1e-5))
        slopes.append(
            (exact_leave_one_out_bootstrap(loss, n, up) - exact_leave_one_out_bootstrap(loss, n, down)) / 2e-5
        )
    assert found.estimate == pytest.approx(exact_leave_one_out_bootstrap(loss, n, equal), rel=1e-12)
    assert found.standard_error == pytest.approx(np.sqrt(np.sum(np.square(slopes)) / (n * (n - 1))), rel=0.01)


def test_standard_error_of_models_that_do_not_change_is_delongs():
    rng = np.random.default_rng(5)
    y = np.arange(30) % 2
    scores = rng.normal(size=30) + y
    counts = draw_counts(y, 400, rng)
    found = out_of_bag_auc(y, np.tile(scores, (400, 1)), counts, strata=y)
    estimate, lower, upper = delong_interval(y, scores, scale="plain")
    assert (found.estimate, found.monte_carlo_error, found.n_never_out) == pytest.approx((estimate, 0, 0), abs=1e-12)
    assert found.standard_error == pytest.approx((upper - lower) / 2 / stats.norm.ppf(0.975), rel=1e-9)


def test_standard_error_of_a_stratified_mean_is_the_textbook_one():
    rng = np.random.default_rng(15)
    y = (np.arange(30) < 10).astype(int)
    losses = rng.uniform(size=30) + 2 * y
    counts = draw_counts(y, 300, rng)
    found = out_of_bag_loss(np.tile(losses, (300, 1)), counts, strata=y)
    within = 10 * losses[y == 1].var(ddof=1) + 20 * losses[y == 0].var(ddof=1)
    assert found.estimate == pytest.approx(losses.mean(), rel=1e-12)
    assert found.standard_error == pytest.approx(np.sqrt(within) / 30, rel=1e-9)


def centroid_scores(X, y, counts):
    """Scores along the line between the weighted means of the two classes, for all bootstrap samples at once."""
    means = [(counts * (y == value)) @ X / (counts * (y == value)).sum(axis=1)[:, None] for value in (0, 1)]
    return (means[1] - means[0]) @ X.T


def test_few_draws_add_noise_that_is_reported_and_not_counted_twice():
    rng = np.random.default_rng(6)
    X, y = simulate(24, 8, 0.7, rng)

    def estimate(n_draws):
        counts = draw_counts(y, n_draws, rng)
        return out_of_bag_auc(y, centroid_scores(X, y, counts), counts, strata=y)

    few, many = [estimate(100) for _ in range(60)], estimate(6000)
    spread = np.std([one.estimate for one in few], ddof=1)
    assert np.mean([one.monte_carlo_error for one in few]) == pytest.approx(spread, rel=0.2)
    variance = np.mean([one.standard_error**2 for one in few])
    assert variance == pytest.approx(many.standard_error**2, rel=0.08)
    # Without the correction the variance would be larger by the number of patients times the Monte-Carlo variance.
    assert 24 * spread**2 > 0.2 * many.standard_error**2


def test_table_has_every_measure_and_method_and_flags_resubstitution():
    rng = np.random.default_rng(7)
    X, y = simulate(40, 2, 1.5, rng)
    refits = refit(X, y, draw_counts(y, 60, rng))
    table = estimates_632(refits)
    assert tuple(table.columns) == RESAMPLING_COLUMNS
    assert list(table["metric"].drop_duplicates()) == list(METRICS)
    assert table["method"].tolist() == 3 * ["resubstitution", "out_of_bag", "632", "632_plus"]
    honest = table[~table["is_optimistic"]]
    assert ((honest["lower"] < honest["estimate"]) & (honest["estimate"] < honest["upper"])).all()
    flagged = table[table["method"] == "resubstitution"]
    assert flagged["is_optimistic"].all()
    assert flagged[["lower", "upper", "standard_error"]].isna().all(axis=None)
    assert (flagged["interval"] == NO_INTERVAL).all()
    assert table.loc[0, "estimate"] == auc(y, refits.apparent)
    assert table.loc[4, "estimate"] == pytest.approx(np.mean((refits.apparent - y) ** 2), rel=1e-12)
    assert table.loc[8, "estimate"] == np.mean((refits.apparent >= 0.5) != y)


def test_optimism_is_the_mean_loss_of_bootstrap_models_away_from_home():
    rng = np.random.default_rng(8)
    X, y = simulate(30, 5, 1.0, rng)
    refits = refit(X, y, draw_counts(y, 25, rng))
    table = optimism_corrected(refits).set_index(["metric", "method"])["estimate"]
    gaps = []
    for probability, count in zip(refits.drawn, refits.counts.astype(int), strict=True):
        own = np.repeat(np.arange(30), count)
        gaps.append(auc(y[own], probability[own]) - auc(y, probability))
    expected = auc(y, refits.apparent) - np.mean(gaps)
    assert table["auc", "optimism_corrected"] == pytest.approx(expected, rel=1e-12)
    assert table["auc", "resubstitution"] == auc(y, refits.apparent)
    assert table["brier", "optimism_corrected"] > table["brier", "resubstitution"]


def test_pipeline_that_fits_noise_perfectly_is_exposed():
    rng = np.random.default_rng(9)
    X, y = simulate(40, 60, 0.0, rng)
    refits = refit(X, y, draw_counts(y, 60, rng), C=1e3)
    table = estimates_632(refits).set_index(["metric", "method"])
    corrected = optimism_corrected(refits).set_index(["metric", "method"])
    assert table.loc[("auc", "resubstitution"), "estimate"] == 1.0
    for method in ("out_of_bag", "632_plus"):
        row = table.loc[("auc", method)]
        assert abs(row["estimate"] - 0.5) < 0.15
        assert row["lower"] < 0.5 < row["upper"]
    # Both lean on resubstitution; the tables must say that they are not to be believed.
    assert table.loc[("auc", "632"), "estimate"] > 0.65
    assert corrected.loc[("auc", "optimism_corrected"), "estimate"] > 0.8
    assert table.loc[("auc", "632"), "is_optimistic"]
    assert corrected["is_optimistic"].all()
    assert corrected["lower"].isna().all()


def test_perfect_separation_has_one_sided_intervals():
    rng = np.random.default_rng(10)
    X, y = simulate(24, 1, 50.0, rng)
    table = estimates_632(refit(X, y, draw_counts(y, 40, rng))).set_index(["metric", "method"])
    for method in ("out_of_bag", "632", "632_plus"):
        row = table.loc[("auc", method)]
        assert (row["estimate"], row["upper"]) == (1.0, 1.0)
        assert row["lower"] == pytest.approx(0.025 ** (1 / 12), rel=1e-12)
        assert table.loc[("error", method), "estimate"] == 0.0


def pair_table(y, scores, patients=None):
    patients = np.arange(len(y)) if patients is None else np.asarray(patients)
    rows = [
        (patients[i], patients[j], scores[i], scores[j])
        for i, j in itertools.product(np.flatnonzero(y == 1), np.flatnonzero(y == 0))
    ]
    return pd.DataFrame(rows, columns=["patient_positive", "patient_negative", "score_positive", "score_negative"])


def test_leave_pair_out_with_one_model_is_the_auc_with_delongs_interval():
    rng = np.random.default_rng(11)
    y = np.arange(25) % 2
    scores = np.round(rng.normal(size=25) + y, 1)  # with ties
    row = leave_pair_out_auc(pair_table(y, scores)).iloc[0]
    assert [row["estimate"], row["lower"], row["upper"]] == pytest.approx(delong_interval(y, scores), rel=1e-9)
    assert (row["n_fits"], row["n_patients"]) == (12 * 13, 25)


def test_several_rows_of_a_patient_count_as_one_patient():
    rng = np.random.default_rng(12)
    y = np.arange(20) % 2
    scores = rng.normal(size=20) + y
    once = leave_pair_out_auc(pair_table(y, scores)).iloc[0]
    twice = leave_pair_out_auc(pair_table(np.tile(y, 2), np.tile(scores, 2), np.tile(np.arange(20), 2))).iloc[0]
    columns = ["estimate", "lower", "upper", "standard_error", "n_fits", "n_patients"]
    assert twice[columns].tolist() == pytest.approx(once[columns].tolist(), rel=1e-9)


def test_perfect_leave_pair_out_has_the_exact_interval():
    row = leave_pair_out_auc(pair_table(np.arange(20) % 2, np.arange(20) % 2 * 1.0)).iloc[0]
    assert (row["estimate"], row["upper"]) == (1.0, 1.0)
    assert row["lower"] == pytest.approx(0.025**0.1, rel=1e-12)


def tournament_table(score):
    rows = [(i, j, score(i, j), score(j, i)) for i, j in itertools.combinations(range(5), 2)]
    return pd.DataFrame(rows, columns=["case_first", "case_second", "score_first", "score_second"])


def test_tournament_of_one_ranking_is_that_ranking():
    table = tournament_scores(tournament_table(lambda own, other: float(own)))
    assert table["score"].tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert table["n_comparisons"].tolist() == [4] * 5
    assert table.attrs["consistency"] == 1.0


def test_tournament_of_circles_has_no_ranking():
    table = tournament_scores(tournament_table(lambda own, other: float((own - other) % 5 in (1, 2))))
    assert table["score"].tolist() == [0.5] * 5
    assert table.attrs["consistency"] == pytest.approx(0.0, abs=1e-12)


def test_tournament_ties_count_half():
    table = tournament_scores(tournament_table(lambda own, other: 1.0))
    assert table["score"].tolist() == [0.5] * 5


def cv_table(seed=0, n=30, folds=5, repeats=2):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    frames = []
    for repeat in range(repeats):
        fold = np.empty(n, dtype=int)
        for value in (0, 1):
            fold[y == value] = rng.permutation(n // 2) % folds
        score = 1 / (1 + np.exp(-(rng.normal(size=n) + y)))
        cases = [f"c{i}" for i in range(n)]
        frames.append(pd.DataFrame({"case_id": cases, "repeat": repeat, "fold": fold, "y_true": y, "y_prob": score}))
    return pd.concat(frames, ignore_index=True)


def test_repeated_cross_validation_uses_the_corrected_variance_of_fold_aucs():
    table = cv_table()
    areas = [auc(fold["y_true"], fold["y_prob"]) for _, fold in table.groupby(["repeat", "fold"])]
    expected = corrected_resampled_t(areas, n_train=24, n_test=6)
    row = repeated_cv_auc(table).iloc[0]
    assert row["estimate"] == pytest.approx(np.mean(areas), rel=1e-12)
    assert row["standard_error"] == pytest.approx(np.sqrt((1 / 10 + 6 / 24) * np.var(areas, ddof=1)), rel=1e-12)
    assert (row["lower"], row["upper"]) == pytest.approx((max(0, expected.lower), min(1, expected.upper)), rel=1e-12)
    assert (row["n_fits"], row["n_patients"], row["n_folds_left_out"]) == (10, 30, 0)


def test_folds_of_one_class_are_left_out_and_counted():
    table = cv_table()
    table.loc[(table["repeat"] == 0) & (table["fold"] == 0) & (table["y_true"] == 1), "fold"] = 1
    assert repeated_cv_auc(table).iloc[0]["n_folds_left_out"] == 1


def test_leave_one_out_auc_is_refused_with_the_reason():
    table = cv_table(repeats=1).assign(fold=range(30))
    with pytest.raises(InputError, match=r"each test fold holds one patient.*leave_pair_out"):
        repeated_cv_auc(table)


def test_permutation_p_counts_ties_and_is_never_zero():
    found = permutation_p(0.8, [0.5] * 999)
    assert (found.p, found.smallest, found.n_extreme) == (0.001, 0.001, 0)
    # Nothing in 999 draws: the upper bound solves (1 - p)^999 = 0.025.
    assert (found.lower, found.upper) == pytest.approx((0.0, 1 - 0.025 ** (1 / 999)), rel=1e-9)
    assert permutation_p(0.5, [0.5] * 19).p == 1.0


def test_permutation_p_of_three_in_99_follows_from_the_counts():
    null = np.r_[np.full(3, 0.9), np.linspace(0.2, 0.7, 96)]
    found = permutation_p(0.8, null)
    assert found.p == pytest.approx(4 / 100, rel=1e-12)
    # Clopper-Pearson bounds of 3 in 99 by the beta distribution.
    assert (found.lower, found.upper) == pytest.approx((stats.beta.ppf(0.025, 3, 97), stats.beta.ppf(0.975, 4, 96)))
    assert permutation_p(0.8, null, alternative="two-sided").p == pytest.approx(0.08, rel=1e-12)
    assert permutation_p(-0.8, -null, alternative="less").p == found.p


def test_permutation_p_is_uniform_without_signal():
    rng = np.random.default_rng(13)
    p = [permutation_p(values[0], values[1:]).p for values in rng.normal(size=(1000, 20))]
    for level in (0.05, 0.1, 0.5):
        assert np.mean(np.array(p) <= level) == pytest.approx(level, abs=0.035)


COUNTS = np.array([[2, 0], [0, 2]])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: estimate_632(0.1, np.nan, 0.5), "three finite values"),
        (lambda: no_information_rate([1, 0], [0.5]), "one entry per row"),
        (lambda: out_of_bag_loss(np.zeros((3, 2)), COUNTS), "one row per bootstrap sample"),
        (lambda: out_of_bag_loss(np.zeros((2, 2)), COUNTS, patient=[0, 2]), "position of one of the 2 patients"),
        (lambda: out_of_bag_loss(np.zeros((2, 2)), COUNTS, strata=[0]), "needs a class"),
        (lambda: out_of_bag_loss(np.full((2, 2), np.nan), COUNTS), "finite value"),
        (lambda: out_of_bag_loss(np.zeros((2, 2)), np.ones((2, 2))), "outside any of the 2 bootstrap samples"),
        (lambda: out_of_bag_auc([1, 1], np.zeros((2, 2)), COUNTS), "both classes"),
        (lambda: leave_pair_out_auc(pd.DataFrame({"patient_positive": [1]})), "no column 'patient_negative'"),
        (lambda: leave_pair_out_auc(pair_table(np.array([1, 0]), np.array([np.nan, 1]))), "two finite scores"),
        (lambda: leave_pair_out_auc(pair_table(np.array([1, 0]), np.array([0, 1])), level=95), "confidence level"),
        (lambda: repeated_cv_auc(cv_table().assign(split="external")), "no rows of test folds"),
        (lambda: repeated_cv_auc(cv_table(repeats=1).assign(fold=0)), "two or more test folds"),
        (lambda: permutation_p(0.7, []), "finite observed value"),
        (lambda: permutation_p(np.nan, [0.5]), "finite observed value"),
        (lambda: permutation_p(0.7, [0.5], alternative="bigger"), "Unknown alternative 'bigger'"),
    ],
)
def test_unusable_input_says_what_was_expected(call, words):
    with pytest.raises(InputError, match=words):
        call()


@pytest.mark.slow
@pytest.mark.parametrize(("n", "p", "signal", "C"), [(60, 5, 1.0, 1.0), (40, 40, 0.0, 100.0)])
def test_out_of_bag_intervals_cover_the_auc_of_the_fitted_model(n, p, signal, C):
    rng = np.random.default_rng(14)
    new, new_y = simulate(5000, p, signal, rng)
    found = []
    for _ in range(150):
        X, y = simulate(n, p, signal, rng)
        truth = auc(new_y, LogisticRegression(C=C).fit(X, y).decision_function(new))
        table = estimates_632(refit(X, y, draw_counts(y, 60, rng), C)).set_index(["metric", "method"])
        rows = table.loc[[("auc", "out_of_bag"), ("auc", "632_plus")]]
        covered = (rows["lower"] <= truth) & (truth <= rows["upper"])
        found.append((rows["estimate"] - truth, rows["standard_error"], covered))
    gap, error, covered = np.array(found, dtype=float).transpose(1, 0, 2)
    assert (covered.mean(axis=0) > 0.9).all()
    # Out-of-bag models learn from fewer different patients; .632+ leans on resubstitution, and so a little upwards.
    assert np.abs(gap.mean(axis=0)).max() < 0.045
    assert np.sqrt((error**2).mean(axis=0)) == pytest.approx(gap.std(axis=0), rel=0.25)
