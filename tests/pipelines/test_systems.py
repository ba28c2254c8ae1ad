"""The published systems on small simulated cohorts, end to end."""

import json

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
import torch

from hybrid.cases import Case, Cohort
from hybrid.errors import InputError
from hybrid.phantoms.painted import ScanStyle, paint_ct
from hybrid.pipelines.runner import single_thread
from hybrid.pipelines.systems.lesion_mri import run_lesion_mri, split_cohort
from hybrid.pipelines.systems.renal_mass import _small_network, run_renal_mass, train_cascade

from .test_masks import write_cohort


def kidneys(seed):
    """A label map of two kidneys with a tumour and a cyst."""
    rng = np.random.default_rng(seed)
    grid = np.indices((48, 40, 74)).astype(float)
    labels = np.zeros(grid.shape[1:], np.uint8)
    for centre in ((24, 20, 14), (22, 20, 58)):
        distance = sum(((g - c) / r) ** 2 for g, c, r in zip(grid, centre, (17, 8, 9), strict=True))
        labels[distance < 1] = 1
    for value, middle in ((2, (rng.uniform(14, 32), 20, 20)), (3, (rng.uniform(14, 32), 18, 52))):
        labels[sum((g - c) ** 2 for g, c in zip(grid, middle, strict=True)) < rng.uniform(3.5, 5.5) ** 2] = value
    image = sitk.GetImageFromArray(labels)
    image.SetSpacing((3.0, 3.0, 3.0))
    image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    return image


@pytest.fixture(scope="module")
def renal(tmp_path_factory):
    folder = tmp_path_factory.mktemp("renal")
    style = ScanStyle("coarse", "nephrographic", 10.0, 1.5, 2.5, 4.0, 4.0)
    rows, lesions = [], []
    for seed in range(9):
        case = paint_ct(kidneys(seed), style, seed=seed, field_mm=(240.0, 300.0, 350.0))
        for part, item in (("images", case.image), ("masks", case.mask)):
            (folder / part).mkdir(exist_ok=True)
            sitk.WriteImage(item, str(folder / part / f"k{seed}.nii.gz"))
        split = "test" if seed > 6 else "validation" if seed == 0 else "train"
        rows.append((f"k{seed}", f"p{seed}", f"images/k{seed}.nii.gz", f"masks/k{seed}.nii.gz", split))
        lesions.append(case.lesions.assign(case_id=f"k{seed}"))
    pd.DataFrame(rows, columns=["case_id", "patient_id", "image", "mask", "split"]).to_csv(
        folder / "cohort.csv", index=False
    )
    return folder, Cohort.from_csv(folder / "cohort.csv"), pd.concat(lesions, ignore_index=True)


def test_renal_mass_from_table_to_report(renal, tmp_path):
    _, cohort, lesions = renal
    report = run_renal_mass(
        cohort, tmp_path, lesions=lesions, network="unet", epochs=3, members=2, kidney_spacing_mm=8.0,
        mass_spacing_mm=4.0, simulated=True, progress=False,
    )  # fmt: skip
    page = report.read_text(encoding="utf-8")
    assert "Simulated patients" in page
    assert "Class of each lesion" in page
    assert '<a href="#curves">Training</a>' in page
    assert "Test Dice, kidney and mass" in page
    table = pd.read_csv(tmp_path / "masks.csv")
    kidney = table[(table["structure"] == "kidney_and_mass") & (table["metric"] == "dice")]
    assert set(kidney["case_id"]) == {"k7", "k8"}
    assert kidney["value"].between(0, 1).all()
    assert "HU threshold: mass" in page
    classified = pd.read_csv(tmp_path / "classified_lesions.csv")
    assert set(classified["y_true"]) <= {"solid", "cyst", "aml"}
    assert len(classified) == 4
    for name in ("masks", "kidneys", "masses", "classes"):
        assert (tmp_path / "predicted" / name / "k7.nii.gz").is_file()
    assert {"predicted_class", "confidence"} <= set(pd.read_csv(tmp_path / "predicted" / "lesions.csv").columns)


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU the networks are wide")
def test_without_a_gpu_both_stages_are_narrow_and_masses_are_learnt_from_small_patches(renal, tmp_path):
    _, cohort, _ = renal
    small = Cohort(list(cohort)[:4])
    train_cascade(
        small, tmp_path, epochs=1, members=1, kidney_spacing_mm=16.0, mass_spacing_mm=4.0, progress=False,
        settings={"steps": 5},
    )  # fmt: skip
    cards = {s: json.loads((tmp_path / s / "model.json").read_text(encoding="utf-8")) for s in ("kidney", "mass")}
    for card in cards.values():
        assert (card["plan"]["width"], card["settings"]["learning_rate"]) == (8, 3e-3)
    assert max(cards["kidney"]["plan"]["patch"]) * 16 > 200
    assert cards["mass"]["plan"]["patch"] == [24, 24, 24]  # 96 mm
    assert _small_network("dynunet", {"width": 16}) == _small_network("segresnet", {}) == {}


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU the stages are trained in turn")
def test_both_stages_trained_side_by_side_are_those_trained_in_turn(renal, tmp_path):
    _, cohort, _ = renal
    small = Cohort(list(cohort)[:4])
    options = {"epochs": 1, "members": 1, "kidney_spacing_mm": 16.0, "mass_spacing_mm": 6.0, "settings": {"steps": 3}}
    with single_thread():
        for jobs in (1, 2):
            train_cascade(small, tmp_path / f"jobs_{jobs}", n_jobs=jobs, progress=False, **options)
    for stage in ("kidney", "mass"):
        folders = [tmp_path / f"jobs_{jobs}" / stage for jobs in (1, 2)]
        first, second = ((folder / "model.safetensors").read_bytes() for folder in folders)
        assert first == second
        assert sorted(path.name for path in folders[1].iterdir()) == ["curves.csv", "model.json", "model.safetensors"]


def test_lesion_mri_shows_all_sets_side_by_side(tmp_path):
    cohort = Cohort.from_csv(write_cohort(tmp_path, count=8, test=2))
    report = run_lesion_mri(
        cohort, tmp_path / "out", network="unet", epochs=2, sizes=[2], bias_correction=False, progress=False,
        plan={"width": 8},
    )  # fmt: skip
    page = report.read_text(encoding="utf-8")
    for text in ("Training (n = 5)", "Validation (n = 1)", "Test (n = 2)", "Generalisation gap", "Volumes"):
        assert text in page
    gap = pd.read_csv(tmp_path / "out" / "tables" / "generalisation_gap.csv")
    assert gap["threshold"].item() == 0.05
    sizes = pd.read_csv(tmp_path / "out" / "tables" / "gap_by_training_size.csv")
    assert list(sizes["training_size"]) == [2, 5]


def test_patients_without_a_split_are_drawn_and_kept_together():
    cohort = split_cohort(Cohort(Case(f"c{i}", f"p{i // 2}") for i in range(40)), seed=1)
    frame = cohort.to_frame()
    assert frame.groupby("patient_id")["split"].nunique().max() == 1
    assert frame.drop_duplicates("patient_id")["split"].value_counts().to_dict() == {
        "train": 12, "validation": 4, "test": 4,
    }  # fmt: skip


def test_too_few_patients_for_three_sets_are_refused():
    with pytest.raises(InputError, match="five patients"):
        split_cohort(Cohort(Case(f"c{i}", f"p{i}") for i in range(4)), seed=0)


def test_a_declared_split_needs_test_patients():
    cases = [Case(f"c{i}", f"p{i}", covariates={"split": "train"}) for i in range(6)]
    with pytest.raises(InputError, match="train and test"):
        split_cohort(Cohort(cases), seed=0)


def test_training_size_beyond_the_training_set_is_refused(tmp_path):
    cohort = Cohort.from_csv(write_cohort(tmp_path, count=8, test=2))
    with pytest.raises(InputError, match="50 patients"):
        run_lesion_mri(cohort, tmp_path / "out", sizes=[50])
