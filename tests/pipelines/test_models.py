from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from hybrid import Case, Cohort, InputError, LeakageError
from hybrid.pipelines import fit_model, load_model, validate_model
from hybrid.tables import PREDICTION_COLUMNS


def make(n=30, seed=0, prefix="a"):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    ids = [f"{prefix}{i:02d}" for i in range(n)]
    columns = [*(f"rad_{i}" for i in range(12)), *(f"deep_{i:04d}" for i in range(12))]
    table = pd.DataFrame(rng.normal(size=(n, 24)), columns=columns, index=pd.Index(ids, name="case_id"))
    table["rad_0"] += 2 * y
    cases = [
        Case(c, f"patient-{c}", outcome=int(v), covariates={"sex": "mf"[i % 3 % 2]})
        for i, (c, v) in enumerate(zip(ids, y, strict=True))
    ]
    return table, Cohort(cases)


@pytest.mark.parametrize(
    "classifier", ["logistic", "rbf_svm", "random_forest", "xgboost", "lda", "hist_gradient_boosting"]
)
@pytest.mark.parametrize("feature_set", ["fused", "stacking"])
def test_stored_model_predicts_bit_for_bit_what_it_predicted_before(tmp_path, classifier, feature_set):
    table, cohort = make()
    model = fit_model(table, cohort, feature_set=feature_set, classifiers=[classifier], calibration="sigmoid")
    new, strangers = make(n=10, seed=1, prefix="b")
    again = load_model(model.save(tmp_path / "model"))
    one, two = (validate_model(m, new, strangers) for m in (model, again))
    pd.testing.assert_frame_equal(one, two, check_exact=True)
    assert list(one.columns[: len(PREDICTION_COLUMNS)]) == list(PREDICTION_COLUMNS)
    assert set(one["split"]) == {"external"}


def test_training_patients_are_refused_unless_asked_for(tmp_path):
    table, cohort = make()
    model = load_model(fit_model(table, cohort, classifiers=["logistic"]).save(tmp_path))
    with pytest.raises(LeakageError, match="30 of 30 cases"):
        validate_model(model, table, cohort)
    renamed = Cohort(Case(f"x{i}", case.patient_id, outcome=case.outcome) for i, case in enumerate(cohort))
    with pytest.raises(LeakageError, match="trained on"):
        validate_model(model, table.set_axis([case.case_id for case in renamed]).rename_axis("case_id"), renamed)
    assert set(model.predict(table, cohort, split="train")["split"]) == {"train"}


def test_model_card_names_no_patient(tmp_path):
    table, cohort = make()
    fit_model(table, cohort, classifiers=["logistic"], covariates=["sex"], feature_set="handcrafted+clinical").save(
        tmp_path
    )
    text = (tmp_path / "model.json").read_text(encoding="utf-8")
    assert "patient-a" not in text
    card = json.loads(text)
    assert len(card["patients"]) == card["n_patients"] == 30
    assert card["selected_features"][0]
    assert 0 < card["threshold"] < 1


def test_new_patients_of_one_outcome_can_be_predicted(tmp_path):
    table, cohort = make()
    model = fit_model(table, cohort, classifiers=["logistic"])
    new, strangers = make(n=6, seed=2, prefix="b")
    only = Cohort(Case(case.case_id, outcome=1) for case in strangers)
    assert validate_model(model, new, only)["y_true"].tolist() == [1] * 6


def test_missing_columns_damaged_and_foreign_files_are_refused(tmp_path):
    table, cohort = make()
    model = fit_model(table, cohort, classifiers=["logistic"])
    new, strangers = make(n=6, seed=2, prefix="b")
    with pytest.raises(InputError, match=r"lacks 1 columns.*'rad_3'"):
        validate_model(model, new.drop(columns="rad_3"), strangers)
    model.save(tmp_path)
    content = bytearray((tmp_path / "classifier.skops").read_bytes())
    content[len(content) // 2] ^= 255
    (tmp_path / "classifier.skops").write_bytes(bytes(content))
    with pytest.raises(InputError, match="is not the one"):
        load_model(tmp_path)
    (tmp_path / "model.json").unlink()
    with pytest.raises(InputError, match=r"model\.json is missing"):
        load_model(tmp_path)


def test_cut_off_and_calibration_come_from_training_patients_only():
    table, cohort = make(n=60)
    model = fit_model(table, cohort, classifiers=["logistic"], calibration="sigmoid")
    assert model.fitted.recalibration.slope > 0
    assert np.isfinite(model.fitted.out_of_fold).all()
    plain = fit_model(table, cohort, classifiers=["logistic"])
    new, strangers = make(n=20, seed=3, prefix="b")
    scores = [validate_model(m, new, strangers)["y_prob"].rank().tolist() for m in (model, plain)]
    assert scores[0] == scores[1]


@pytest.mark.parametrize("selector", ["lasso", "mrmr_fcq", "rfe", "correlation_clusters"])
def test_options_are_stored_with_the_model_and_a_new_site_is_left_unadjusted(tmp_path, selector, caplog):
    def at_sites(table, cohort, names):
        sites = [names[(i // 2) % len(names)] for i in range(len(cohort))]
        table = table + 4.0 * (np.array(sites) == "B")[:, None]
        return table, Cohort(
            Case(c.case_id, c.patient_id, outcome=c.outcome, site=site) for c, site in zip(cohort, sites, strict=True)
        )

    table, cohort = at_sites(*make(), "AB")
    options = {"selector": selector, "harmonise": "site", "imbalance": "class_weight"}
    model = fit_model(table, cohort, feature_set="fused", classifiers=["logistic"], **options)
    again = load_model(model.save(tmp_path))
    assert again.card["settings"]["selector"] == again.card["in_fold"]["selection"]["selector"] == selector
    assert again.card["in_fold"]["harmonisation"]["batch"] == "site"
    new, strangers = at_sites(*make(n=12, seed=1, prefix="b"), ["A", "B", "C"])
    with caplog.at_level("WARNING"):
        one, two = (validate_model(m, new, strangers) for m in (model, again))
    pd.testing.assert_frame_equal(one, two, check_exact=True)
    assert one["harmonised"].tolist() == [case.site != "C" for case in strangers]
    assert "4 of 12 rows are not harmonised: the model cannot adjust site 'C'" in caplog.text


def test_model_with_the_strict_rule_refuses_a_new_site(tmp_path):
    table, cohort = make()
    sites = Cohort(
        Case(c.case_id, c.patient_id, outcome=c.outcome, site="AB"[i // 2 % 2]) for i, c in enumerate(cohort)
    )
    model = fit_model(table, sites, classifiers=["logistic"], harmonise="site", unseen_batch="error")
    new, strangers = make(n=6, seed=2, prefix="b")
    elsewhere = Cohort(Case(c.case_id, c.patient_id, outcome=c.outcome, site="Z") for c in strangers)
    with pytest.raises(InputError, match="6 rows come from batch 'Z'"):
        validate_model(model, new, elsewhere)
