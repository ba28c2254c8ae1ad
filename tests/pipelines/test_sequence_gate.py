"""A study file that names the sequence of each image: wrong ones are refused, doubtful ones are in the report."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
import yaml

from hybrid import InputError
from hybrid.deep.classification.inputs import VolumeInput
from hybrid.pipelines import StudyConfig, run_study
from hybrid.pipelines.study import fit_study, new_patients, validate_study
from hybrid.pipelines.train_classifier import train_classifier

SHAPE = (12, 16, 16)
N = 24


def scan(seed, name):
    """A ball; small and dark in one sequence, large and bright in the other."""
    rng = np.random.default_rng(seed)
    grid = np.ogrid[tuple(slice(0, n) for n in SHAPE)]
    inside = sum((g - n / 2) ** 2 for g, n in zip(grid, SHAPE, strict=True)) <= {"ADC": 3, "T2": 5}[name] ** 2
    return np.clip(200 + 40 * rng.standard_normal(SHAPE) + 600 * inside, 0, 4000).astype(np.int16)


def write(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(values), str(path))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A classifier of two sequences, and a cohort with a ready feature table whose images are all T2."""
    folder = tmp_path_factory.mktemp("gated")
    rows = []
    for patient in range(24):
        for name in ("ADC", "T2"):
            image = write(folder / "volumes" / f"{patient}_{name}.nii.gz", scan(2 * patient + (name == "T2"), name))
            rows.append((f"p{patient}{name}", f"p{patient}", image, name))
    train_classifier(
        pd.DataFrame(rows, columns=["case_id", "patient_id", "image", "label"]), folder / "sequences",
        network="resnet10", network_options={"widen": 0.125}, input=VolumeInput((16, 16, 16)), epochs=8,
        ratio=(3, 1, 1), accuracy=0.9, progress=False,
        settings={"accelerator": "cpu", "learning_rate": 3e-3, "ema": 0.9, "batch": 6},
    )  # fmt: skip
    for name, first in (("cohort", 0), ("new", 100)):
        cohort(folder, name, first).to_csv(folder / f"{name}.csv", index=False)
    return folder


def cohort(folder, name, first):
    rng = np.random.default_rng(first)
    y = np.arange(N) % 2
    images = [write(folder / name / f"{i}.nii.gz", scan(500 + first + i, "T2")) for i in range(N)]
    table = {"case_id": [f"c{first + i}" for i in range(N)], "image_t2": images, "outcome": y}
    return pd.DataFrame({**table, **{f"rad_{k}": rng.normal(size=N) + y for k in "abc"}})


def study(folder, **check):
    config = {
        "cohort": {"file": "cohort.csv"}, "features": {"table": "cohort.csv"},
        "feature_sets": {"all": ["rad_*"], "a": ["rad_a"]}, "contrast": [["all", "a"]], "classifiers": ["logistic"],
        "repeats": 1, "folds": 2, "inner_folds": 2, "permutations": 0, "bootstraps": 100, "explained_repeats": 0,
        "sequences": {"model": "sequences", "expected": {"t2": "T2"}, **check},
    }  # fmt: skip
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return StudyConfig.from_yaml(path)


@pytest.fixture
def spoilt(folder):
    """One image of the cohort is another sequence while the test runs."""
    path = folder / "cohort" / "7.nii.gz"
    kept = path.read_bytes()
    write(path, scan(900, "ADC"))
    yield folder
    path.write_bytes(kept)


def test_a_study_with_the_right_sequences_runs_and_says_that_they_were_checked(folder, tmp_path):
    report = run_study(study(folder, threshold=0.5), tmp_path, progress=False)
    table = pd.read_csv(tmp_path / "sequence_check.csv")
    assert table["verdict"].tolist() == ["as expected"] * N
    page = report.read_text(encoding="utf-8")
    assert "every image was the expected sequence: T2 for t2" in " ".join(page.split())
    record = json.loads((tmp_path / "run_record.json").read_text(encoding="utf-8"))
    assert record["settings"]["sequences"] == {"model": "sequences", "expected": {"t2": "T2"}, "threshold": 0.5}


def test_a_study_with_a_wrong_sequence_is_refused_before_any_feature(spoilt, tmp_path):
    with pytest.raises(InputError, match="Expected the sequence T2 as image 't2'; found ADC") as caught:
        run_study(study(spoilt, threshold=0.5), tmp_path, progress=False)
    assert caught.value.case_id == "c7"
    assert not (tmp_path / "features.csv").exists()
    table = pd.read_csv(tmp_path / "sequence_check.csv").set_index("case_id")
    assert table.loc["c7", "verdict"] == "another sequence"
    assert len(table) == N


def test_a_doubtful_sequence_is_a_problem_in_the_report(spoilt, tmp_path):
    report = run_study(study(spoilt, threshold=1.0), tmp_path, progress=False)
    problems = pd.read_csv(tmp_path / "problems.csv").set_index("case_id")
    assert "expected T2; the pixels say ADC" in problems.loc["c7", "problem"]
    assert "expected T2; the pixels say ADC" in report.read_text(encoding="utf-8")


def test_a_frozen_model_carries_the_check_to_new_patients(folder, tmp_path):
    fit_study(study(folder, threshold=0.5), tmp_path / "model", is_estimated=False, progress=False)
    moved = shutil.move(tmp_path / "model", tmp_path / "elsewhere")
    new = new_patients(moved, folder / "new.csv", folder / "new.csv")
    validate_study(moved, new, tmp_path / "good", features=folder / "new.csv", progress=False)
    assert pd.read_csv(tmp_path / "good" / "sequence_check.csv")["verdict"].eq("as expected").all()
    write(folder / "new" / "3.nii.gz", scan(901, "ADC"))
    with pytest.raises(InputError, match="found ADC") as caught:
        validate_study(moved, new, tmp_path / "bad", features=folder / "new.csv", progress=False)
    assert caught.value.case_id == "c103"


def test_misspelt_settings_of_the_check_name_the_nearest(folder):
    with pytest.raises(InputError, match="'expected'"):
        study(folder, expectd={"t2": "T2"})
    with pytest.raises(InputError, match=r"sequences\.threshold"):
        study(folder, threshold=2)
