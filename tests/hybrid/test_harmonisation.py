from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pytest
import skops.io
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hybrid.errors import InputError
from hybrid.harmonisation import ComBat, shrink_nonparametric, shrink_parametric
from hybrid.selection import univariate_auc

MADE_UP = pd.DataFrame(
    [
        ["a", "f", 61, 13.1, 23.6, 32.2, 39.5],
        ["a", "m", 55, 14.3, 20.8, 34.9, 50.1],
        ["a", "f", 70, 13.0, 22.3, 35.0, 44.9],
        ["a", "m", 48, 14.5, 20.5, 34.3, 47.2],
        ["b", "f", 66, 13.6, 19.5, 22.4, 39.0],
        ["b", "f", 59, 12.3, 20.0, 25.8, 51.1],
        ["b", "m", 73, 19.0, 20.9, 21.0, 47.3],
        ["b", "m", 50, 17.4, 21.0, 25.8, 46.7],
        ["b", "m", 64, 16.2, 18.0, 42.1, 44.7],
        ["c", "f", 57, 11.8, 27.9, 33.8, 39.6],
        ["c", "m", 69, 14.5, 27.5, 35.2, 42.6],
        ["c", "f", 62, 12.9, 25.2, 36.6, 40.4],
    ],
    columns=["site", "sex", "age", "f0", "f1", "f2", "f3"],
)
"""Twelve invented patients."""

FEATURES = ["f0", "f1", "f2", "f3"]
ROWS = [0, 3, 6, 8, 10]

# ComBat of sva 3.46.0 (R 4.2.2) on MADE_UP, rows ROWS, with the iteration of it.sol run to conv = 1e-14 (default 1e-4):
# plain: no model; the others: mod = model.matrix(~ sex + age), with par.prior, mean.only and ref.batch = "b" as named.
SVA = {
    "plain": [
        [13.173829, 23.796615, 30.138726, 39.234927],
        [15.104524, 20.726301, 33.170813, 46.669454],
        [16.976691, 22.781901, 26.893254, 45.942373],
        [15.023252, 20.596767, 41.387001, 44.035645],
        [16.245301, 23.175600, 31.593488, 46.927734],
    ],
    "covariates": [
        [13.630264, 24.160456, 30.651602, 38.435663],
        [14.740011, 20.544592, 32.399184, 46.737798],
        [17.797364, 22.783079, 27.408502, 46.098652],
        [15.666351, 20.643670, 41.926043, 44.503654],
        [15.210075, 23.208843, 30.502000, 45.391669],
    ],
    "nonparametric": [
        [13.312507, 24.165161, 31.708439, 40.460740],
        [14.691961, 20.624135, 33.823131, 48.402200],
        [18.050636, 22.102840, 25.193253, 45.371225],
        [15.972021, 20.286602, 40.392358, 43.880798],
        [12.896314, 28.152929, 39.064393, 45.641422],
    ],
    "mean_only": [
        [13.224682, 23.713122, 31.829207, 39.424590],
        [14.624682, 20.613122, 33.929207, 47.124590],
        [18.497727, 22.625394, 24.567386, 46.951733],
        [15.697727, 19.725394, 45.667386, 44.351733],
        [15.166425, 23.575882, 31.238691, 44.740288],
    ],
    "mean_only_nonparametric": [
        [13.242207, 23.796274, 31.820719, 39.239875],
        [14.642207, 20.696274, 33.920719, 46.939875],
        [18.669876, 21.942455, 27.224968, 44.391235],
        [15.869876, 19.042455, 48.324968, 41.791235],
        [15.346348, 26.540221, 39.972542, 45.629634],
    ],
    "reference": [
        [14.871401, 22.353505, 25.172507, 37.772013],
        [15.704195, 18.385161, 26.639288, 47.087497],
        [19.000000, 20.900000, 21.000000, 47.300000],
        [16.200000, 18.000000, 42.100000, 44.700000],
        [15.936451, 20.827742, 25.619818, 46.626653],
    ],
    "reference_nonparametric": [
        [13.056922, 24.598685, 21.737835, 32.962693],
        [14.246295, 20.914823, 23.757512, 41.139490],
        [19.000000, 20.900000, 21.000000, 47.300000],
        [16.200000, 18.000000, 42.100000, 44.700000],
        [8.037481, 31.134539, 47.674941, 49.461097],
    ],
}
BOTH = ("sex", "age")
SETTINGS = {
    "plain": {},
    "covariates": {"covariates": BOTH},
    "nonparametric": {"covariates": BOTH, "parametric": False},
    "mean_only": {"covariates": BOTH, "mean_only": True},
    "mean_only_nonparametric": {"covariates": BOTH, "mean_only": True, "parametric": False},
    "reference": {"covariates": BOTH, "reference": "b"},
    "reference_nonparametric": {"covariates": BOTH, "reference": "b", "parametric": False},
}


def made_up(settings):
    return MADE_UP if settings.get("covariates") else MADE_UP.drop(columns=[*BOTH])


def two_sites(n=60, p=30, shift=3.0, scale=2.0, seed=0):
    """Noise from two sites of unlike shift and scale, the same for all features up to a little."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(n, p))
    site = np.arange(n) % 2
    values[site == 1] = values[site == 1] * scale + shift + 0.2 * rng.normal(size=p)
    table = pd.DataFrame(values, columns=[f"rad_{i}" for i in range(p)], index=[f"c{i}" for i in range(n)])
    table.insert(0, "site", np.array(["A", "B"])[site])
    return table


@pytest.mark.parametrize("name", SVA)
def test_every_variant_equals_the_r_package_sva(name):
    settings = SETTINGS[name]
    adjusted = ComBat("site", **settings).fit_transform(made_up(settings))
    np.testing.assert_allclose(adjusted[FEATURES].to_numpy()[ROWS], SVA[name], atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("name", "settings", "tolerance"),
    [
        # sva stops its parametric iteration at a relative change of 1e-4, ours goes on: 5e-7 of a standard deviation.
        ("par_nomod", {}, 2e-6),
        ("par_mod", {"covariates": ["sex"]}, 2e-6),
        ("nonpar_mod", {"covariates": ["sex"], "parametric": False}, 1e-12),
    ],
)
def test_crabs_equal_the_r_package_sva(benchmarks, name, settings, tolerance):
    folder = benchmarks / "statistics"
    table = pd.read_csv(folder / "combat_crabs_input.csv").drop(columns="sp")
    expected = pd.read_csv(folder / f"combat_crabs_{name}.csv")
    if not settings:
        table = table.drop(columns="sex")
    adjusted = ComBat("batch", **settings).fit_transform(table)
    assert list(adjusted) == list(expected)
    assert ((adjusted - expected).abs() / table[list(expected)].std()).to_numpy().max() < tolerance


def test_features_constant_within_a_batch_stay_as_they_are_like_in_sva():
    table = made_up({}).copy()
    table.loc[table["site"] == "b", "f1"] = 20.0
    combat = ComBat("site").fit(table)
    adjusted = combat.transform(table)
    assert combat.unadjusted_ == ["f1"]
    pd.testing.assert_series_equal(adjusted["f1"], table["f1"])
    # sva 3.46.0 as above, rows 0 and 10.
    sva = [[12.930427, 23.6, 29.099137, 38.782528], [16.671417, 27.5, 32.425684, 47.630157]]
    np.testing.assert_allclose(adjusted.to_numpy()[[0, 10]], sva, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_row_is_adjusted_alone_as_among_others(name):
    settings = SETTINGS[name]
    table = made_up(settings)
    combat = ComBat("site", **settings).fit(table)
    together = combat.transform(table)
    alone = pd.concat([combat.transform(table.iloc[[i]]) for i in range(len(table))])
    pd.testing.assert_frame_equal(together, alone, check_exact=True)
    pd.testing.assert_frame_equal(combat.transform(table.iloc[::-1]).iloc[::-1], together, check_exact=True)


@pytest.mark.parametrize("parametric", [True, False])
def test_units_of_a_feature_do_not_matter(parametric):
    table = made_up({})
    other = table.assign(f0=table["f0"] * 1000 - 7)
    one = ComBat("site", parametric=parametric).fit_transform(table)
    two = ComBat("site", parametric=parametric).fit_transform(other)
    np.testing.assert_allclose(two["f0"], one["f0"] * 1000 - 7, rtol=1e-8)
    np.testing.assert_allclose(two[["f1", "f2", "f3"]], one[["f1", "f2", "f3"]], rtol=1e-8)


def test_sites_learnt_on_training_patients_are_removed_from_held_out_ones():
    table = two_sites(n=120)
    train, test = table.iloc[:60], table.iloc[60:]
    combat = ComBat("site").fit(train)
    adjusted = combat.transform(test)
    at_b = (test["site"] == "B").to_numpy()
    before = univariate_auc(test.drop(columns="site").to_numpy(), at_b.astype(int))
    after = univariate_auc(adjusted.to_numpy(), at_b.astype(int))
    assert before.mean() > 0.85
    assert abs(after.mean() - 0.5) < 0.05
    ratio = adjusted[at_b].std() / adjusted[~at_b].std()
    assert abs(np.log(ratio)).mean() < 0.25


def test_the_reference_batch_does_not_change_at_all():
    table = MADE_UP
    adjusted = ComBat("site", covariates=BOTH, reference="b").fit_transform(table)
    at_b = table["site"] == "b"
    pd.testing.assert_frame_equal(adjusted[at_b], table.loc[at_b, FEATURES].astype(float), check_exact=True)


def test_an_unseen_batch_is_refused_by_default():
    combat = ComBat("site").fit(two_sites())
    new = two_sites().assign(site="C")
    with pytest.raises(InputError, match=r"fitted on batches 'A', 'B'; found 60 rows of 'C'.*unadjusted"):
        combat.transform(new)


def test_an_unseen_batch_can_be_left_unadjusted_with_a_warning_and_a_flag(caplog):
    table = two_sites()
    combat = ComBat("site", unseen="unadjusted").fit(table)
    mixed = table.copy()
    mixed.loc[mixed.index[:10], "site"] = "C"
    with caplog.at_level(logging.WARNING):
        adjusted = combat.transform(mixed)
    assert "10 rows of 'C' are not adjusted" in caplog.text
    flags = combat.is_adjusted(mixed)
    assert flags.sum() == 50
    assert not flags[:10].any()
    pd.testing.assert_frame_equal(adjusted.iloc[:10], mixed.drop(columns="site").iloc[:10], check_exact=True)
    pd.testing.assert_frame_equal(adjusted.iloc[10:], combat.transform(table).iloc[10:], check_exact=True)


@pytest.mark.parametrize("name", ["outcome", "clin_outcome", "y_true"])
def test_a_covariate_with_the_name_of_the_outcome_is_refused(name):
    table = two_sites().assign(**{name: np.arange(60) // 2 % 2})
    with pytest.raises(InputError, match="is the outcome, or tells it"):
        ComBat("site", covariates=[name]).fit(table)


@pytest.mark.parametrize("grade", [[0.0, 1.0], ["benign", "malignant"], [True, False]])
def test_a_covariate_that_tells_the_outcome_is_refused(grade):
    y = np.arange(60) // 2 % 2
    table = two_sites().assign(grade=[grade[value] for value in y])
    with pytest.raises(InputError, match="'grade' is the outcome"):
        ComBat("site", covariates=["grade"]).fit(table, y)


def test_a_grade_from_which_the_outcome_follows_is_refused_and_an_age_is_not():
    y = np.arange(60) // 2 % 2
    table = two_sites().assign(grade=np.where(y == 1, 3 + np.arange(60) % 3, np.arange(60) % 2), age=np.arange(60) + 20)
    with pytest.raises(InputError, match="'grade' is the outcome"):
        ComBat("site", covariates=["grade"]).fit(table, y)
    adjusted = ComBat("site", covariates=["age"]).fit_transform(table.drop(columns="grade"), y)
    assert "age" not in adjusted


def test_batches_of_one_outcome_each_are_refused():
    table = two_sites()
    with pytest.raises(InputError, match="Every batch of 'site' has one outcome only"):
        ComBat("site").fit(table, (table["site"] == "B").astype(int))


def test_the_outcome_never_changes_the_adjustment():
    table, rng = two_sites(), np.random.default_rng(1)
    without = ComBat("site").fit_transform(table)
    pd.testing.assert_frame_equal(ComBat("site").fit(table, rng.integers(0, 2, 60)).transform(table), without)


def test_missing_values_stay_missing_and_hardly_move_the_others():
    table = two_sites(n=200)
    holes = table.copy()
    holes.iloc[::10, 5] = np.nan
    full, partial = ComBat("site").fit_transform(table), ComBat("site").fit_transform(holes)
    assert partial["rad_4"].isna().to_numpy().tolist() == holes["rad_4"].isna().to_numpy().tolist()
    assert partial.drop(columns="rad_4").notna().all(axis=None)
    known = partial["rad_4"].notna()
    assert (partial["rad_4"] - full["rad_4"])[known].abs().max() < 0.5
    assert (partial - full).drop(columns="rad_4").abs().max(axis=None) < 0.02


def test_shrinkage_lies_between_the_batch_and_all_features():
    rng = np.random.default_rng(2)
    means, variances = rng.normal(0.5, 1, 40), rng.gamma(5, 0.2, 40)
    for shrink in (shrink_parametric, shrink_nonparametric):
        few, _ = shrink(means, variances, np.full(40, 3.0))
        many, delta = shrink(means, variances, np.full(40, 3000.0))
        assert few.std() < means.std()
        if shrink is shrink_parametric:
            np.testing.assert_allclose(many, means, atol=0.01)
            np.testing.assert_allclose(delta, variances, rtol=0.02)


def test_large_batches_do_not_underflow_without_a_parametric_prior():
    table = two_sites(n=3000, p=8)
    adjusted = ComBat("site", parametric=False).fit_transform(table)
    assert np.isfinite(adjusted.to_numpy()).all()


def test_fifteen_rows_and_a_thousand_features_are_enough():
    table = two_sites(n=15, p=1000)
    for parametric in (True, False):
        adjusted = ComBat("site", parametric=parametric).fit_transform(table)
        assert adjusted.shape == (15, 1000)
        gap = adjusted[table["site"] == "B"].mean() - adjusted[table["site"] == "A"].mean()
        assert abs(gap.mean()) < 0.1


def test_it_works_as_a_step_of_a_pipeline_inside_cross_validation():
    table = two_sites()
    y = np.arange(60) // 2 % 2
    table.loc[y == 1, "rad_0"] += 4
    pipeline = make_pipeline(ComBat("site"), StandardScaler(), LogisticRegression())
    scores = cross_val_predict(pipeline, table, y, cv=StratifiedKFold(5), method="predict_proba")[:, 1]
    assert univariate_auc(scores[:, None], y)[0] > 0.75


def test_names_index_and_input_are_kept():
    table = two_sites()
    before = table.copy(deep=True)
    combat = clone(ComBat("site")).set_output(transform="pandas").fit(table)
    adjusted = combat.transform(table[table.columns[::-1]])
    assert list(adjusted) == list(combat.get_feature_names_out()) == [f"rad_{i}" for i in range(30)]
    assert list(adjusted.index) == list(table.index)
    pd.testing.assert_frame_equal(table, before)


def test_a_fitted_adjustment_survives_saving(tmp_path):
    combat = ComBat("site", covariates=list(BOTH)).fit(MADE_UP)
    skops.io.dump(combat, tmp_path / "combat.skops")
    types = skops.io.get_untrusted_types(file=tmp_path / "combat.skops")
    assert all(name.startswith("hybrid.") for name in types)
    loaded = skops.io.load(tmp_path / "combat.skops", trusted=types)
    pd.testing.assert_frame_equal(loaded.transform(MADE_UP), combat.transform(MADE_UP), check_exact=True)


@pytest.mark.parametrize(
    ("settings", "change", "message"),
    [
        ({"unseen": "ignore"}, {}, "Unknown rule for unseen batches 'ignore'"),
        ({"batch": "scanner"}, {}, "no column 'scanner'"),
        ({"covariates": ["agee"]}, {}, "no column 'agee'"),
        ({"covariates": "age"}, {}, "must be a list of columns"),
        ({"reference": "z"}, {}, "Unknown reference batch 'z'"),
        ({"covariates": BOTH}, {"f0": "text"}, "'f0' must hold numbers"),
        ({"covariates": BOTH}, {"f0": np.inf}, "'f0' is infinite"),
        ({"covariates": BOTH}, {"site": "a"}, "needs two or more batches; column 'site' has 1"),
        ({"covariates": BOTH}, {"site": [None, *"aaabbbbbccc"]}, "1 of 12 are missing"),
        ({"covariates": BOTH}, {"age": [np.nan, *range(11)]}, "'age' must be known for every row; 1 of 12"),
        ({"covariates": BOTH}, {"site": [*"aaaabbbbbccd"]}, "Batch 'd' needs 2 or more training rows.*found 1"),
        ({"covariates": BOTH}, {"sex": [*"mmmmfffffmmm"], "age": [4] * 4 + [5] * 5 + [6] * 3}, "confounded"),
        ({"covariates": BOTH}, {"f0": [*[np.nan] * 3, *range(9)]}, "Batch 'a' needs 2 or more .* of 'f0'; found 1"),
        ({"covariates": [*BOTH, "f1", "f2", "f3"]}, {}, "needs two or more; found 1"),
        ({"covariates": BOTH}, {"f0": 1.0, "f1": 1.0, "f2": 1.0}, "vary within every batch; found 1 of 4"),
    ],
)
def test_impossible_input_is_refused_with_a_reason(settings, change, message):
    table = MADE_UP.drop(columns=[*BOTH]) if "covariates" not in settings else MADE_UP
    with pytest.raises(InputError, match=message):
        ComBat(**{"batch": "site", **settings}).fit(table.assign(**change))


def test_a_batch_of_one_row_can_have_its_mean_adjusted():
    table = made_up({}).assign(site=[*"aaaabbbbbccd"])
    adjusted = ComBat("site", mean_only=True).fit_transform(table)
    assert np.isfinite(adjusted.to_numpy()).all()


def test_new_categories_arrays_and_too_many_covariates_are_refused():
    combat = ComBat("site", covariates=BOTH).fit(MADE_UP)
    with pytest.raises(InputError, match="'sex' has the category 'x'"):
        combat.transform(MADE_UP.assign(sex="x"))
    with pytest.raises(InputError, match="needs a DataFrame"):
        combat.transform(MADE_UP.to_numpy())
    few = MADE_UP.iloc[[0, 1, 4, 6]]
    with pytest.raises(InputError, match="4 training rows cannot determine 4 effects"):
        ComBat("site", covariates=BOTH).fit(few)
