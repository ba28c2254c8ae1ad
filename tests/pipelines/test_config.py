from __future__ import annotations

import pandas as pd
import pytest

from hybrid import InputError
from hybrid.pipelines import StudyConfig
from hybrid.pipelines.config import find_study, gather_images, load_cohort, study_names


def write(tmp_path, text: str):
    path = tmp_path / "study.yaml"
    path.write_text(text)
    return path


def test_bundled_studies_are_found_by_name_and_valid(monkeypatch):
    monkeypatch.setenv("HYBRID_BENCHMARKS", "somewhere")
    assert study_names() == ["demo", "sarcoma"]
    for name in study_names():
        config = StudyConfig.from_yaml(find_study(name))
        assert config.contrast[0] == ("handcrafted", "deep")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cohort: c.csv\nrepeets: 3\n", "Did you mean 'repeats'"),
        ("cohort: c.csv\nimages:\n  image: {handcrafed: ct}\n", "Did you mean 'handcrafted'"),
        ("cohort: {file: c.csv, colums: {}}\n", "Did you mean 'columns'"),
        ("cohort: c.csv\nfolds: 1\n", "'folds'.*Found 1"),
        ("title: x\n", "'cohort'"),
        ("- a\n", "key: value"),
        ("cohort: [\n", "not valid YAML"),
    ],
)
def test_wrong_study_file_gives_one_clear_error(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        StudyConfig.from_yaml(write(tmp_path, text))


def test_unknown_study_names_the_nearest():
    with pytest.raises(InputError, match="Did you mean 'sarcoma'"):
        find_study("sarkoma")


def test_unset_environment_variable_is_named(monkeypatch):
    monkeypatch.delenv("HYBRID_BENCHMARKS", raising=False)
    with pytest.raises(InputError, match=r"HYBRID_BENCHMARKS.*--cohort"):
        StudyConfig.from_yaml(find_study("sarcoma"))


def test_paths_resolve_against_the_study_file(tmp_path):
    (tmp_path / "mine.yaml").write_text("setting: {}\n")
    text = "cohort: data/c.csv\nencoder: mine.pt\nimages:\n  image: {handcrafted: mine.yaml}\n"
    config = StudyConfig.from_yaml(write(tmp_path, text))
    assert config.cohort.file == str(tmp_path / "data" / "c.csv")
    assert config.images["image"].handcrafted == str(tmp_path / "mine.yaml")


def test_written_study_reads_back_the_same(tmp_path):
    config = StudyConfig.from_dict({"cohort": "/data/c.csv", "contrast": [["handcrafted", "fused"]], "seed": 3})
    again = StudyConfig.from_yaml(config.to_yaml(tmp_path / "again.yaml"))
    assert again == config
    assert again.digest == config.digest


def test_one_row_per_image_becomes_one_row_per_case():
    table = pd.DataFrame(
        {
            "case_id": ["b", "b", "a"],
            "modality": ["CT", "PET", "CT"],
            "image": ["b1", "b2", "a1"],
            "mask": ["m1", "m2", "m3"],
            "outcome": [1, 1, 0],
            "volume": [1.0, 2.0, 3.0],
        }
    )
    wide = gather_images(table, "modality", {"CT": "ct", "PET": "pet"})
    assert list(wide.columns) == ["case_id", "outcome", "image_ct", "image_pet", "mask_ct", "mask_pet"]
    assert wide["case_id"].tolist() == ["b", "a"]
    assert pd.isna(wide["image_pet"].iloc[1])


def test_sarcoma_cohort_is_read_as_26_patients_with_three_images(benchmarks, monkeypatch):
    monkeypatch.setenv("HYBRID_BENCHMARKS", str(benchmarks))
    cohort = load_cohort(StudyConfig.from_yaml(find_study("sarcoma")).cohort)
    assert len(cohort) == 26
    assert cohort.image_names == ["ct", "t1", "pet"]
    assert cohort.outcomes.sum() == 8


def test_misspelt_column_of_the_study_file_names_the_nearest(tmp_path):
    (tmp_path / "c.csv").write_text("patient,image,mask\na,i,m\n")
    config = StudyConfig.from_yaml(write(tmp_path, "cohort: {file: c.csv, columns: {case_id: pateint}}\n"))
    with pytest.raises(InputError, match="Did you mean 'patient'"):
        load_cohort(config.cohort)


def test_options_of_the_fold_are_off_by_default_and_checked(tmp_path):
    plain = StudyConfig.from_dict({"cohort": "c.csv"})
    assert (plain.selector, plain.harmonise, plain.imbalance) == (None, None, None)
    text = "cohort: c.csv\nselector: lasso\nharmonise: site\nunseen_batch: error\nimbalance: class_weight\n"
    config = StudyConfig.from_yaml(write(tmp_path, text))
    assert (config.selector, config.harmonise, config.unseen_batch) == ("lasso", "site", "error")
    assert StudyConfig.from_yaml(config.to_yaml(tmp_path / "again.yaml")) == config
    with pytest.raises(InputError, match="Did you mean 'boruta'"):
        StudyConfig.from_yaml(write(tmp_path, "cohort: c.csv\nselector: borutta\n"))
    with pytest.raises(InputError, match=r"'imbalance'.*Found 'smote'"):
        StudyConfig.from_yaml(write(tmp_path, "cohort: c.csv\nimbalance: smote\n"))
