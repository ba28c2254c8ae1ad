"""Studies that start from a ready feature table, through the command line."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import yaml

from hybrid import InputError
from hybrid.pipelines import StudyConfig
from hybrid.pipelines.cli import main
from hybrid.pipelines.config import FeatureTableConfig
from hybrid.pipelines.ready_features import read_ready_features
from hybrid.pipelines.study import study_cohort

STUDY = {
    "cohort": {"file": "table.csv", "columns": {"case_id": "ID", "outcome": "Target"}},
    "features": {"table": "table.csv", "case_id": "ID"},
    "covariates": ["age"],
    "positive": "mutated",
    "feature_sets": {"everything": ["rad_*"], "first": ["rad_T1_Mean"]},
    "contrast": [["everything", "first"]],
    "classifiers": ["logistic"],
    "repeats": 1,
    "folds": 3,
    "inner_folds": 2,
    "permutations": 0,
    "bootstraps": 200,
    "resamples": 10,
    "risk_categories": [0.3, 0.6],
}


def one_table(n=60, seed=0, first=0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    columns = {f"T1-{name}": rng.normal(size=n) + 0.8 * y for name in ("Mean", "SD (HU)", "Max")}
    table = {"ID": [f"{i + first:03d}" for i in range(n)], **columns, "age": rng.integers(30, 80, n)}
    return pd.DataFrame(table | {"Target": np.where(y == 1, "mutated", "wild type")})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ready")
    one_table().to_csv(folder / "table.csv", index=False)
    one_table(40, seed=1, first=500).to_csv(folder / "new.csv", index=False)
    (folder / "study.yaml").write_text(yaml.safe_dump(STUDY), encoding="utf-8")
    return folder


def run(folder, *words):
    return main([*words, "--jobs", "1", "--quiet"])


def test_a_study_runs_from_a_table_that_holds_features_and_outcome(folder):
    assert run(folder, "run", str(folder / "study.yaml"), "--out", str(folder / "run")) == 0
    features = pd.read_csv(folder / "run" / "features.csv", dtype={"case_id": str})
    assert list(features.columns) == ["case_id", "rad_T1_Mean", "rad_T1_SD_HU", "rad_T1_Max"]
    assert features["case_id"].iloc[0] == "000"
    predictions = pd.read_csv(folder / "run" / "predictions.csv")
    assert predictions.groupby("feature_set")["case_id"].nunique()["everything"] == 60
    page = (folder / "run" / "report.html").read_text(encoding="utf-8")
    assert "Features were read from a ready table (table.csv, 3 columns)" in page
    assert "PyRadiomics (distribution" not in page
    assert "Change of the risk category" in page
    resampled = pd.read_csv(folder / "run" / "tables" / "resampled.csv").query("metric == 'auc'")
    assert set(resampled["feature_set"]) == {"everything"}
    assert resampled["method"].tolist() == ["resubstitution", "out_of_bag", "632", "632_plus", "optimism_corrected"]
    described = set(pd.read_csv(folder / "run" / "tables" / "cohort.csv")["variable"])
    assert "age" in described
    assert not any(name.startswith("T1-") for name in described)
    record = json.loads((folder / "run" / "run_record.json").read_text(encoding="utf-8"))
    assert record["settings"]["features"]["table"] == "table.csv"


def test_a_model_of_a_ready_table_is_validated_on_new_patients_only(folder, capsys):
    model = str(folder / "model")
    assert run(folder, "fit", str(folder / "study.yaml"), "--out", model) == 0
    new, own = str(folder / "new.csv"), str(folder / "table.csv")
    words = ["validate", model, new, "--features", new, "--development", own, "--out", str(folder / "external")]
    assert run(folder, *words) == 0
    predictions = pd.read_csv(folder / "external" / "predictions.csv")
    assert len(predictions) == 40
    beside = pd.read_csv(folder / "external" / "tables" / "cohort_by_split.csv").set_index(["variable", "group"])
    assert beside.loc[("patients", ["internal", "external"]), "count"].tolist() == [60, 40]
    assert beside.loc[("age", "internal"), "test_name"] == "Mann-Whitney test"
    assert 0 < beside.loc[("age", "internal"), "p"] < 1
    page = (folder / "external" / "report.html").read_text(encoding="utf-8")
    assert "The patients by split" in page
    assert "AUC in new patients against the internal one" in page
    assert run(folder, *words[:-3], new, "--out", str(folder / "none")) == 2
    assert "60 of the 60 patients that the model was fitted on are not in" in capsys.readouterr().err
    assert run(folder, "validate", model, new, "--out", str(folder / "none")) == 2
    assert "Name it: --features TABLE" in capsys.readouterr().err
    assert run(folder, "validate", model, own, "--features", own, "--out", str(folder / "none")) == 2
    assert "patients that the model was trained on" in capsys.readouterr().err


def config_with(tmp_path, **changes):
    one_table().to_csv(tmp_path / "table.csv", index=False)
    return StudyConfig.from_dict({**STUDY, **changes}, source=tmp_path / "study.yaml")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": {"image": {"handcrafted": "ct"}}}, "'features', a ready table, or 'images'"),
        ({"encoder": "bundled"}, "or 'encoder'"),
        ({"risk_categories": [0.3, 0.1]}, "borders of risk categories must increase"),
        ({"risk_categories": [0.3, 1.5]}, "lie between 0 and 1"),
        ({"features": {"tabel": "table.csv"}}, "Did you mean 'table'"),
        ({"features": {"table": "${NO_SUCH_FOLDER}/t.csv"}}, "NO_SUCH_FOLDER, which is not set"),
        ({"features": {"table": "table.csv", "prefix": "x_"}}, "'features.prefix'"),
    ],
)
def test_wrong_settings_of_the_table_give_one_clear_error(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        config_with(tmp_path, **changes)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"table": "nowhere.csv"}, "does not exist"),
        ({"case_id": "Id"}, "Did you mean 'ID'"),
        ({"leave_out": ["T9*"]}, "'leave_out' names 'T9"),
        ({"leave_out": ["T1*", "age", "Target"]}, "has no features"),
        ({}, "'rad_Target' must be numeric"),
    ],
)
def test_a_table_that_cannot_be_used_gives_one_clear_error(tmp_path, source, message):
    one_table().to_csv(tmp_path / "table.csv", index=False)
    values = {"table": "table.csv", "case_id": "ID"} | source
    values["table"] = str(tmp_path / values["table"])
    with pytest.raises(InputError, match=message):
        read_ready_features(FeatureTableConfig(**values))


def test_cases_that_the_cohort_lacks_are_named(tmp_path):
    one_table().to_csv(tmp_path / "table.csv", index=False)
    source = FeatureTableConfig(table=str(tmp_path / "table.csv"), case_id="ID", leave_out=["Target"])
    with pytest.raises(InputError, match=r"1 case\(s\) of the feature table are not in the cohort.*'059'"):
        read_ready_features(source, cases=[f"{i:03d}" for i in range(59)])


def test_names_that_become_one_are_refused(tmp_path):
    table = pd.DataFrame({"case_id": ["a", "b"], "T1-Mean": [1.0, 2.0], "T1 Mean": [1.0, 2.0]})
    table.to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(InputError, match="two columns named 'rad_T1_Mean'"):
        read_ready_features(FeatureTableConfig(table=str(tmp_path / "t.csv")))


def test_outcome_and_covariates_of_the_same_file_are_never_features(tmp_path):
    config = config_with(tmp_path)
    cohort = study_cohort(config)
    assert set(cohort[0].covariates) == {"age"}
    assert cohort.outcomes.nunique() == 2
    assert StudyConfig.from_yaml(config.to_yaml(tmp_path / "again.yaml")) == config


def test_published_table_runs_through_the_command_line(benchmarks, tmp_path, monkeypatch):
    monkeypatch.setenv("HYBRID_BENCHMARKS", str(benchmarks))
    study = STUDY | {
        "cohort": {"file": "${HYBRID_BENCHMARKS}/feature_tables/Zhang2024B.csv.gz",
                   "columns": {"case_id": "ID", "outcome": "Target"}},
        "features": {"table": "${HYBRID_BENCHMARKS}/feature_tables/Zhang2024B.csv.gz", "case_id": "ID"},
        "covariates": [], "positive": 1,
        "feature_sets": {"everything": ["rad_*"], "unfiltered": ["rad_original_*"]},
        "contrast": [["everything", "unfiltered"]],
    }  # fmt: skip
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study), encoding="utf-8")
    assert run(tmp_path, "run", str(tmp_path / "study.yaml"), "--out", str(tmp_path / "run")) == 0
    metrics = pd.read_csv(tmp_path / "run" / "tables" / "metrics.csv")
    area = metrics.query("feature_set == 'everything' and classifier == 'selected' and metric == 'auc'").iloc[0]
    assert area["n_patients"] == 192
    assert 0.5 < area["estimate"] < 0.8
