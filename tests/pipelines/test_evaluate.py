from __future__ import annotations

import functools
import logging
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import Pipeline

from hybrid import Case, Cohort, InputError
from hybrid.classifiers import candidates, make_prefix, resolve_classifiers
from hybrid.deep import OutcomeEncoder
from hybrid.fusion import FeatureSet
from hybrid.images import read_image, read_mask, to_array
from hybrid.pipelines import cross_validate, permutation_null
from hybrid.pipelines.crossval import inner_splits
from hybrid.pipelines.evaluate import outer_splits
from hybrid.selection import univariate_auc
from hybrid.tables import PREDICTION_COLUMNS, SELECTED

QUICK = {"classifiers": ["logistic", "naive_bayes"], "repeats": 1, "folds": 3, "inner_folds": 2, "progress": False}


def make(n=36, p=20, signal=2.5, seed=0, patients=None):
    """A feature table whose first handcrafted and first deep column carry the outcome, and its cohort."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    table = pd.DataFrame(
        rng.normal(size=(n, 2 * p)),
        columns=[*(f"rad_{i}" for i in range(p)), *(f"deep_{i:04d}" for i in range(p))],
        index=pd.Index([f"c{i:03d}" for i in range(n)], name="case_id"),
    )
    table["rad_0"] += signal * y
    table["deep_0000"] += signal * y
    patients = patients or [f"p{i}" for i in range(n)]
    cohort = Cohort(
        Case(
            f"c{i:03d}",
            patients[i],
            outcome=int(y[i]),
            site="AB"[i % 2],
            covariates={"age": 50 + i % 7, "sex": "mf"[i % 3 % 2]},
        )
        for i in range(n)
    )
    return table, cohort


def auc(predictions, feature_set="handcrafted", classifier=SELECTED):
    rows = predictions[(predictions["feature_set"] == feature_set) & (predictions["classifier"] == classifier)]
    areas = [univariate_auc(g[["y_prob"]].to_numpy(), g["y_true"].to_numpy())[0] for _, g in rows.groupby("repeat")]
    return float(np.mean(areas))


def test_every_case_is_predicted_once_per_model_and_repeat():
    table, cohort = make()
    predictions = cross_validate(table, cohort, **{**QUICK, "repeats": 2})
    assert list(predictions.columns[: len(PREDICTION_COLUMNS)]) == list(PREDICTION_COLUMNS)
    counts = predictions.groupby(["feature_set", "classifier", "repeat"])["case_id"].agg(["nunique", "size"])
    assert (counts == 36).all(axis=None)
    assert set(predictions["feature_set"]) == {"handcrafted", "deep", "fused", "baseline"}
    assert auc(predictions) > 0.7


def test_patients_never_fall_on_both_sides_of_a_split():
    y = np.tile([0, 0, 1, 1], 15)
    patients = np.repeat([f"p{i}" for i in range(30)], 2)
    for train, test in outer_splits(y, patients, 5, 3):
        assert not set(patients[train]) & set(patients[test])
        assert 0.3 < y[test].mean() < 0.7
        for fit, held_out in inner_splits(y[train], patients[train], 3, 3):
            assert not set(patients[train][fit]) & set(patients[train][held_out])


def test_noise_stays_noise_where_selection_outside_the_folds_would_not():
    table, cohort = make(n=60, p=600, signal=0.0, seed=5)
    y = cohort.outcomes.to_numpy(int)
    predictions = cross_validate(
        table, cohort, feature_sets=["handcrafted"], classifiers=["logistic"], repeats=3, progress=False
    )
    assert 0.3 < auc(predictions) < 0.7
    handcrafted = table.filter(like="rad_").to_numpy()
    leaked = handcrafted[:, np.argsort(-np.abs(univariate_auc(handcrafted, y) - 0.5))[:10]]
    scores = np.zeros(60)
    for train, test in outer_splits(y, np.arange(60).astype(str), 5, 0):
        scores[test] = LogisticRegression().fit(leaked[train], y[train]).predict_proba(leaked[test])[:, 1]
    assert univariate_auc(scores[:, None], y)[0] > 0.8


@pytest.mark.parametrize("classifier", ["logistic", "rbf_svm", "random_forest", "xgboost"])
def test_shared_preprocessing_is_bit_identical_to_fitting_each_pipeline_alone(classifier):
    table, cohort = make()
    names = ["logistic", "rbf_svm", "random_forest", "xgboost"]
    shared = cross_validate(table, cohort, feature_sets=["fused"], **{**QUICK, "classifiers": names})
    rows = shared[shared["classifier"] == classifier].set_index("case_id")["y_prob"]
    columns = [tuple(c for c in table if c.startswith(prefix)) for prefix in ("rad_", "deep_")]
    feature_set = FeatureSet("fused", tuple(columns))
    y, patients = cohort.outcomes.to_numpy(int), np.asarray([case.patient_id for case in cohort])
    for fold, (train, test) in enumerate(outer_splits(y, patients, 3, 0)):
        seed = int(np.random.SeedSequence([0, 0, fold]).generate_state(1)[0])
        splits = list(inner_splits(y[train], patients[train], 2, seed))
        best = (-1.0, None)
        for estimator in candidates(resolve_classifiers([classifier])[classifier], seed):
            pipeline = Pipeline([("prefix", make_prefix(feature_set)), ("classifier", estimator)])
            areas = []
            for fit, held_out in splits:
                model = clone(pipeline).fit(table.iloc[train].iloc[fit], y[train][fit])
                scores = model.predict_proba(table.iloc[train].iloc[held_out])[:, 1].astype(float)
                areas.append(roc_auc_score(y[train][held_out], scores))
            if np.mean(areas) > best[0]:
                best = (np.mean(areas), pipeline)
        alone = clone(best[1]).fit(table.iloc[train], y[train]).predict_proba(table.iloc[test])[:, 1].astype(float)
        np.testing.assert_array_equal(rows.loc[table.index[test]].to_numpy(), alone)


def test_two_processes_and_a_resumed_run_give_the_same_table(tmp_path):
    table, cohort = make()
    one = cross_validate(table, cohort, out=tmp_path, **QUICK)
    for path in list((tmp_path / "cache" / "evaluate").glob("*.json"))[:1]:
        path.unlink()
    resumed = cross_validate(table, cohort, out=tmp_path, **QUICK)
    two = cross_validate(table, cohort, n_jobs=2, **QUICK)
    pd.testing.assert_frame_equal(one, resumed, check_exact=True)
    pd.testing.assert_frame_equal(one, two, check_exact=True)


def test_row_order_does_not_matter_and_inputs_are_not_modified():
    table, cohort = make()
    before = table.copy(deep=True)
    one = cross_validate(table, cohort, **QUICK)
    two = cross_validate(table.sample(frac=1, random_state=1), cohort, **QUICK)
    pd.testing.assert_frame_equal(one, two, check_exact=True)
    pd.testing.assert_frame_equal(table, before)


def test_seed_decides_the_splits():
    table, cohort = make()
    one, two = (cross_validate(table, cohort, **QUICK, seed=seed) for seed in (1, 2))
    assert not one["y_prob"].equals(two["y_prob"])


def test_selected_is_the_classifier_chosen_in_the_inner_loop():
    table, cohort = make()
    predictions = cross_validate(table, cohort, feature_sets=["handcrafted"], **QUICK).set_index(["case_id", "fold"])
    selected = predictions[predictions["classifier"] == SELECTED]
    for (case, fold), row in selected.iterrows():
        same = predictions.loc[(case, fold)].query("classifier == @row.chosen")
        assert same["y_prob"].iloc[0] == row["y_prob"]


def test_late_fusion_is_the_mean_of_the_parts_and_stacking_is_not():
    table, cohort = make()
    sets = ["handcrafted", "deep", "late", "stacking"]
    predictions = cross_validate(table, cohort, feature_sets=sets, **QUICK)
    wide = predictions[predictions["classifier"] == "logistic"].pivot(
        index="case_id", columns="feature_set", values="y_prob"
    )
    np.testing.assert_allclose(wide["late"], (wide["handcrafted"] + wide["deep"]) / 2, rtol=1e-12)
    assert not np.allclose(wide["stacking"], wide["late"])
    assert auc(predictions, "stacking", "logistic") > 0.7


def test_clinical_columns_join_a_set_and_make_a_baseline():
    table, cohort = make()
    predictions = cross_validate(
        table, cohort, feature_sets=["handcrafted", "handcrafted+clinical"], covariates=["age", "sex", "site"], **QUICK
    )
    assert {("clinical", "clinical"), ("baseline", "majority")} <= set(
        zip(predictions["feature_set"], predictions["classifier"], strict=True)
    )
    # The site follows the outcome in this cohort: a set that sees it must be perfect.
    assert auc(predictions, "handcrafted+clinical", "logistic") > auc(predictions, "handcrafted", "logistic")
    majority = predictions[predictions["classifier"] == "majority"]
    assert univariate_auc(majority[["y_prob"]].to_numpy(), majority["y_true"].to_numpy())[0] == 0.5


def test_category_that_training_patients_do_not_have_counts_as_none(caplog):
    table, cohort = make()
    cases = [
        Case(c.case_id, c.patient_id, outcome=c.outcome, covariates={"centre": f"x{i}"}) for i, c in enumerate(cohort)
    ]
    predictions = cross_validate(table, Cohort(cases), feature_sets=["clinical"], covariates=["centre"], **QUICK)
    assert predictions["y_prob"].notna().all()


def test_missing_values_are_imputed_and_empty_columns_tolerated():
    table, cohort = make()
    table.iloc[::3, 0] = np.nan
    table["rad_1"] = np.nan
    table["rad_2"] = 7.0
    predictions = cross_validate(table, cohort, feature_sets=["handcrafted"], **QUICK)
    assert predictions["y_prob"].between(0, 1).all()


def test_case_without_features_or_outcome_is_left_out_by_name(caplog):
    table, cohort = make()
    table.loc["c004"] = np.nan
    cases = [Case(c.case_id, c.patient_id, outcome=None if c.case_id == "c005" else c.outcome) for c in cohort]
    with caplog.at_level(logging.WARNING):
        predictions = cross_validate(table.drop(index="c006"), Cohort(cases), feature_sets=["deep"], **QUICK)
    left_out = {row["case_id"]: row["reason"] for row in predictions.attrs["left_out"]}
    assert left_out == {
        "c004": "no features (extraction failed)",
        "c005": "no outcome",
        "c006": "no row in the feature table",
    }
    assert "c004" in caplog.text
    assert not {"c004", "c005", "c006"} & set(predictions["case_id"])


def test_regions_of_a_case_become_lesions_and_stay_together():
    table, cohort = make()
    twice = pd.concat({1: table, 2: table + 0.1}, names=["roi_label"]).swaplevel()
    predictions = cross_validate(twice, cohort, feature_sets=["deep"], **QUICK)
    rows = predictions[predictions["classifier"] == SELECTED]
    assert set(rows["lesion_id"]) == {"1", "2"}
    assert (rows.groupby("case_id")["fold"].nunique() == 1).all()


def test_outcome_in_words_needs_the_positive_one():
    table, cohort = make()
    words = Cohort(Case(c.case_id, c.patient_id, outcome=["benign", "malignant"][c.outcome]) for c in cohort)
    with pytest.raises(InputError, match=r"'benign', 'malignant'.*positive="):
        cross_validate(table, words, **QUICK)
    predictions = cross_validate(table, words, positive="malignant", **QUICK)
    pd.testing.assert_series_equal(predictions["y_true"], cross_validate(table, cohort, **QUICK)["y_true"])
    with pytest.raises(InputError, match="Did you mean 'malignant'"):
        cross_validate(table, words, positive="malign", **QUICK)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"feature_sets": ["handcraftd"]}, "Did you mean 'handcrafted'"),
        ({"feature_sets": {"volume": ["rad_orignal"]}}, "rad_"),
        ({"classifiers": ["logistc"]}, "Did you mean 'logistic'"),
        ({"classifiers": [LogisticRegression]}, "instance"),
        ({"covariates": ["agee"]}, "Did you mean 'age'"),
        ({"folds": 40}, "Use folds=18"),
        ({"feature_sets": ["clinical"]}, "covariates"),
        ({"feature_sets": ["deep_infold"]}, "encoder"),
        ({"calibration": "sigmoidal"}, "sigmoid"),
        ({"baselines": ["majorty"]}, "majority"),
        ({"selector": "mrmr_mix"}, "Did you mean 'mrmr_miq'"),
        ({"selector": "icc"}, "needs a table"),
        ({"harmonise": "sites"}, "Did you mean 'site'"),
        ({"unseen_batch": "drop"}, "unadjusted"),
        ({"imbalance": "class_weights"}, "Did you mean 'class_weight'"),
        ({"classifiers": ["knn"], "imbalance": "class_weight"}, "'knn' cannot weigh"),
    ],
)
def test_wrong_arguments_are_named_with_the_nearest_valid_one(change, message):
    table, cohort = make()
    with pytest.raises(InputError, match=message):
        cross_validate(table, cohort, **{**QUICK, **change})


def test_unusable_outcomes_and_ids_are_refused():
    table, cohort = make()
    three = Cohort(Case(c.case_id, outcome=i % 3) for i, c in enumerate(cohort))
    with pytest.raises(InputError, match="3 classes"):
        cross_validate(table, three, **QUICK)
    with pytest.raises(InputError, match="Every case has the outcome 1"):
        cross_validate(table, Cohort(Case(c.case_id, outcome=1) for c in cohort), **QUICK)
    with pytest.raises(InputError, match="'c035', which is not in the cohort"):
        cross_validate(table, cohort[:35], **QUICK)


class PercentileEncoder:
    """A real, small encoder: percentiles of the voxels inside the mask, shifted by what it was fitted on."""

    fitted_on: ClassVar[list[set[str]]] = []

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def fit(self, cases, y):
        self.names = {case.case_id for case in cases}
        PercentileEncoder.fitted_on.append(self.names)
        return self

    def transform(self, cases):
        assert not self.names & {case.case_id for case in cases}
        rows = {}
        for case in cases:
            inside = to_array(read_image(case.image))[to_array(read_mask(case.mask)) > 0]
            rows[case.case_id] = np.percentile(inside, [5, 25, 50, 75, 95])
        return pd.DataFrame.from_dict(rows, orient="index")


def test_encoder_of_a_fold_never_sees_the_patients_that_fit_or_test_the_classifier(write_scan):
    table, _ = make(n=24)
    cohort = Cohort(Case(name, "", *write_scan(name, seed=i), outcome=i % 2) for i, name in enumerate(table.index))
    PercentileEncoder.fitted_on.clear()
    predictions = cross_validate(
        table, cohort, feature_sets=["handcrafted", "deep_infold", "fused_infold"], encoder=PercentileEncoder, **QUICK
    )
    assert [len(names) for names in PercentileEncoder.fitted_on] == [8, 8, 8]
    assert predictions.groupby("feature_set")["case_id"].nunique().drop("baseline").eq(24).all()


def test_permutation_null_is_reproducible_and_centred_near_chance():
    table, cohort = make(n=40, signal=3.0)
    settings = {"feature_sets": ["handcrafted"], "classifiers": ["logistic"], "progress": False}
    null = permutation_null(table, cohort, n_permutations=12, **settings)
    assert null["permutation"].tolist() == list(range(12))
    assert 0.3 < null["auc"].mean() < 0.65
    pd.testing.assert_frame_equal(null, permutation_null(table, cohort, n_permutations=12, n_jobs=2, **settings))


@pytest.mark.slow
def test_outcome_encoder_is_trained_inside_every_fold(write_scan):
    table, _ = make(n=18)
    cohort = Cohort(Case(name, "", *write_scan(name, seed=i), outcome=i % 2) for i, name in enumerate(table.index))
    factory = functools.partial(OutcomeEncoder, epochs=2, modality="ct", start="random-narrow")
    settings = {**QUICK, "feature_sets": ["deep_infold"], "classifiers": ["logistic"], "encoder": factory}
    one, two = (cross_validate(table, cohort, **settings, n_jobs=jobs) for jobs in (1, 2))
    pd.testing.assert_frame_equal(one, two, check_exact=True)
    assert one["y_prob"].between(0, 1).all()


# Options of what is fitted inside the fold

OPTIONS = {"selector": "mrmr_miq", "harmonise": "site", "imbalance": "class_weight"}
ONE = {**QUICK, "feature_sets": ["handcrafted"], "classifiers": ["logistic"], "baselines": ()}


def make_sites(n=36, shift=4.0, sites="AAB"):
    """As :func:`make`, but sites do not follow the outcome; those called B lie higher by ``shift``."""
    table, cohort = make(n=n)
    names = [sites[(i // 2) % len(sites)] for i in range(n)]
    table += shift * (np.array(names) == "B")[:, None]
    cases = [Case(c.case_id, c.patient_id, outcome=c.outcome, site=name) for c, name in zip(cohort, names, strict=True)]
    return table, Cohort(cases)


@pytest.mark.parametrize("option", OPTIONS)
def test_each_option_changes_the_predictions_and_nothing_else(option):
    table, cohort = make_sites()
    # Weights change nothing when both classes are of one size.
    cohort = Cohort(case for i, case in enumerate(cohort) if i % 6 != 1)
    table = table.loc[[case.case_id for case in cohort]]
    plain = cross_validate(table, cohort, **ONE)
    changed = cross_validate(table, cohort, **ONE, **{option: OPTIONS[option]})
    assert not np.array_equal(plain["y_prob"], changed["y_prob"])
    columns = ["case_id", "repeat", "fold", "y_true"]
    pd.testing.assert_frame_equal(plain[columns], changed[columns])
    assert ("harmonised" in changed) == (option == "harmonise")
    assert "harmonised" not in plain


def test_default_selector_by_its_name_gives_the_same_predictions():
    table, cohort = make()
    one, two = (cross_validate(table, cohort, **ONE, selector=name) for name in (None, "top"))
    pd.testing.assert_frame_equal(one, two, check_exact=True)


def test_harmonisation_removes_a_scanner_that_hides_the_signal():
    table, cohort = make_sites(n=60, shift=8.0, sites="AB")
    plain, harmonised = (auc(cross_validate(table, cohort, **ONE, harmonise=name)) for name in (None, "site"))
    assert harmonised > plain
    assert harmonised > 0.8


def test_options_are_fitted_without_the_patients_to_be_predicted():
    table, cohort = make_sites()
    settings = {**ONE, **OPTIONS, "selector": "lasso"}
    before = cross_validate(table, cohort, **settings).query("classifier == @SELECTED").set_index("case_id")
    tested = before.index[before["fold"] == 0]
    changed = table.copy()
    changed.loc[tested[0]] = 50.0
    after = cross_validate(changed, cohort, **settings).query("classifier == @SELECTED").set_index("case_id")
    same = tested[1:]
    pd.testing.assert_series_equal(before.loc[same, "y_prob"], after.loc[same, "y_prob"], check_exact=True)
    assert before.loc[tested[0], "y_prob"] != after.loc[tested[0], "y_prob"]


def test_patients_of_a_lone_site_are_flagged_or_refused(caplog):
    table, cohort = make_sites()
    cases = [Case(c.case_id, c.patient_id, outcome=c.outcome, site="lone" if i == 7 else c.site)
             for i, c in enumerate(cohort)]  # fmt: skip
    with caplog.at_level(logging.WARNING):
        predictions = cross_validate(table, Cohort(cases), **ONE, harmonise="site")
    adjusted = predictions[predictions["classifier"] == SELECTED].set_index("case_id")["harmonised"]
    assert adjusted[~adjusted].index.tolist() == ["c007"]
    assert "1 of 36 cases were never harmonised" in caplog.text
    with pytest.raises(InputError, match=r"training rows.*unseen_batch"):
        cross_validate(table, Cohort(cases), **ONE, harmonise="site", unseen_batch="error")


def test_case_without_a_batch_is_named():
    table, cohort = make_sites()
    cases = [Case(c.case_id, c.patient_id, outcome=c.outcome, site=None if i == 3 else c.site)
             for i, c in enumerate(cohort)]  # fmt: skip
    with pytest.raises(InputError, match="c003: Column 'site' must name the batch"):
        cross_validate(table, Cohort(cases), **ONE, harmonise="site")


def test_a_batch_that_is_the_outcome_is_refused():
    table, cohort = make()
    with pytest.raises(InputError, match="Every value of 'site' has one outcome only"):
        cross_validate(table, cohort, **ONE, harmonise="site")


def test_clinical_columns_and_baselines_live_beside_the_options():
    table, cohort = make()
    cohort = Cohort(
        Case(c.case_id, c.patient_id, outcome=c.outcome, site="AB"[i // 2 % 2], covariates=c.covariates)
        for i, c in enumerate(cohort)
    )
    predictions = cross_validate(
        table,
        cohort,
        feature_sets=["late", "fused+clinical", "clinical"],
        covariates=["age", "sex"],
        **QUICK,
        **OPTIONS,
    )
    assert predictions["y_prob"].between(0, 1).all()
    assert not predictions.loc[predictions["feature_set"].isin(["clinical", "baseline"]), "harmonised"].any()
    assert predictions.loc[predictions["feature_set"] == "late", "harmonised"].all()
