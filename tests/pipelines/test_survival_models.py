"""Frozen Cox models: stored exactly, refused on their own patients, applied to new ones through the command line."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from hybrid import Cohort, InputError, LeakageError
from hybrid.pipelines import fit_survival, load_survival
from hybrid.pipelines.cli import main


def tables(n=90, seed=0, prefix="a", **columns):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 6))
    failure, censored = rng.exponential(400 * np.exp(-x[:, 0])), rng.exponential(700, n)
    ids = [f"{prefix}{i:03d}" for i in range(n)]
    features = pd.DataFrame(x, columns=[f"rad_f{i}" for i in range(6)], index=pd.Index(ids, name="case_id"))
    features["rad_original_shape_VoxelVolume"] = np.exp(rng.normal(size=n))
    known = {
        "case_id": ids, "patient_id": [f"p-{name}" for name in ids], "days": np.ceil(np.minimum(failure, censored)),
        "status": np.where(failure <= censored, "dead", "alive"), "sex": rng.choice(["f", "m"], n),
    }  # fmt: skip
    return features, pd.DataFrame(known | columns)


SETTINGS = {"time": "days", "event": "status", "event_value": "dead", "covariates": ["sex"], "inner_folds": 2}


def test_stored_model_predicts_bit_for_bit_what_it_predicted_before(tmp_path):
    features, cohort = tables()
    model = fit_survival(features, Cohort.from_frame(cohort), **SETTINGS)
    again = load_survival(model.save(tmp_path / "model"))
    new, strangers = tables(40, 1, "b")
    one, two = (m.predict(new, Cohort.from_frame(strangers)) for m in (model, again))
    pd.testing.assert_frame_equal(one, two, check_exact=True)
    assert list(dict.fromkeys(one["feature_set"])) == ["handcrafted", "clinical", "volume", "no_features"]
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["survival.skops", "survival_model.json"]
    text = (tmp_path / "model" / "survival_model.json").read_text(encoding="utf-8")
    assert "p-a000" not in text
    assert json.loads(text)["n_patients"] == 90


def test_new_patients_do_not_change_each_other(tmp_path):
    model = fit_survival(*(lambda f, c: (f, Cohort.from_frame(c)))(*tables()), **SETTINGS)
    new, strangers = tables(40, 1, "b")
    every = model.predict(new, Cohort.from_frame(strangers)).set_index(["feature_set", "case_id"])
    few = model.predict(new.iloc[:15], Cohort.from_frame(strangers.iloc[:15])).set_index(["feature_set", "case_id"])
    np.testing.assert_array_equal(few["risk"], every["risk"].loc[few.index])


def test_own_patients_are_refused_unless_asked_for_as_training():
    features, cohort = tables()
    model = fit_survival(features, Cohort.from_frame(cohort), **SETTINGS)
    with pytest.raises(LeakageError, match="90 of 90 cases"):
        model.predict(features, Cohort.from_frame(cohort))
    own = model.predict(features, Cohort.from_frame(cohort), split="train")
    groups = own[own["feature_set"] == "handcrafted"]["group"].value_counts()
    assert groups["high"] == groups["low"] == 45


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f, c: (f.drop(columns="rad_f0"), c), "lacks 1 columns.*'rad_f0'"),
        (lambda f, c: (f, c.assign(days=1.0)), "followed until 1;.*same unit"),
        (lambda f, c: (f, c.assign(days=np.nan)), "follow-up time that is missing"),
        (lambda f, c: (f, c.drop(columns="days")), "'days'"),
        (lambda f, c: (f, c.assign(status="alive")), "Unknown value of column 'status'"),
    ],
)
def test_new_patients_that_do_not_fit_give_one_clear_error(change, message):
    features, cohort = tables()
    model = fit_survival(features, Cohort.from_frame(cohort), **SETTINGS)
    new, strangers = change(*tables(40, 1, "b"))
    with pytest.raises(InputError, match=message):
        model.predict(new, Cohort.from_frame(strangers))


def test_a_changed_or_missing_file_is_refused(tmp_path):
    features, cohort = tables()
    folder = fit_survival(features, Cohort.from_frame(cohort), **SETTINGS).save(tmp_path / "model")
    (folder / "survival.skops").write_bytes((folder / "survival.skops").read_bytes() + b"x")
    with pytest.raises(InputError, match="is not the one"):
        load_survival(folder)
    (folder / "survival.skops").unlink()
    with pytest.raises(InputError, match=r"survival\.skops is missing"):
        load_survival(folder)


def test_two_feature_sets_are_refused():
    features, cohort = tables()
    with pytest.raises(InputError, match="one feature set; found a, b"):
        fit_survival(features, Cohort.from_frame(cohort), feature_set={"a": ["rad_f0"], "b": ["rad_f1"]}, **SETTINGS)


def test_command_line_freezes_validates_and_refuses(tmp_path, capsys):
    for name, (features, cohort) in {"own": tables(), "new": tables(60, 1, "b")}.items():
        features.reset_index().to_csv(tmp_path / f"{name}_features.csv", index=False)
        cohort.to_csv(tmp_path / f"{name}.csv", index=False)
    words = ["survival-fit", str(tmp_path / "own.csv"), "--features", str(tmp_path / "own_features.csv"), "--time"]
    words += ["days", "--event", "status", "--event-value", "dead", "--time-unit", "days", "--covariates", "sex"]
    words += ["--horizons", "100", "200", "300", "--horizon", "200", "--repeats", "2", "--folds", "3"]
    model = str(tmp_path / "model")
    assert main([*words, "--out", model, "--jobs", "1", "--quiet"]) == 0
    internal = pd.read_csv(tmp_path / "model" / "internal_performance.csv")
    own = internal[(internal["feature_set"] == "handcrafted") & (internal["metric"] == "c_index")].iloc[0]
    assert 0.6 < own["estimate"] < 0.85
    words = ["survival-validate", model, str(tmp_path / "new.csv"), "--features", str(tmp_path / "new_features.csv")]
    assert main([*words, "--out", str(tmp_path / "external")]) == 0
    beside = pd.read_csv(tmp_path / "external" / "tables" / "validation.csv").query("feature_set == 'handcrafted'")
    row = beside[beside["metric"] == "c_index"].iloc[0]
    assert row["internal"] == pytest.approx(own["estimate"], abs=1e-12)
    assert row["external_lower"] < row["external"] < row["external_upper"]
    assert row["n_external"] == 60
    assert beside.loc[beside["metric"] == "observed_expected_ratio", "horizon"].tolist() == [200]
    page = (tmp_path / "external" / "report.html").read_text(encoding="utf-8")
    for text in ("Does the model do in new patients", "Calibration at 200 days", "frozen before", "developed on"):
        assert text in page
    assert "come from a cross-validation" not in page
    words = ["survival-validate", model, str(tmp_path / "own.csv"), "--features", str(tmp_path / "own_features.csv")]
    assert main([*words, "--out", str(tmp_path / "refused")]) == 2
    assert "patients that the model was trained on" in capsys.readouterr().err
    assert not (tmp_path / "refused" / "report.html").exists()
