"""From a cohort table to a model folder, masks, lesions, metrics and a report: the real thing, small."""

import json
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
import torch

from hybrid.analysis import froc
from hybrid.cases import Case, Cohort
from hybrid.deep.segmentation.segmenter import load_segmenter
from hybrid.errors import HybridError, InputError, LeakageError
from hybrid.images import read_mask, to_array
from hybrid.pipelines.cli import main
from hybrid.pipelines.evaluate_masks import evaluate_masks, overlay_slices
from hybrid.pipelines.runner import single_thread
from hybrid.pipelines.segment import segment_cohort
from hybrid.pipelines.train import networks_at_once, train_segmenter
from hybrid.pipelines.training_cases import make_folds
from hybrid.pipelines.training_progress import PROGRESS_FILE, ProgressFile, training_bar
from hybrid.tables import MASK_COLUMNS

FAST = {"width": 8, "patch": (16, 16, 16)}
CPU = {"steps": 4, "precision": "32-true", "accelerator": "cpu"}


def blob(seed, spacing=(1.0, 1.0, 1.0), shape=(24, 26, 22)):
    rng = np.random.default_rng(seed)
    grid = np.indices(shape).astype(float)
    centre = np.array(shape) / 2 + rng.uniform(-2, 2, 3)
    labels = (sum((g - c) ** 2 for g, c in zip(grid, centre, strict=True)) < 7**2).astype(np.uint8)
    labels[sum((g - c) ** 2 for g, c in zip(grid, centre + 2, strict=True)) < 3**2] = 2
    values = np.choose(labels, [0.0, 100.0, 45.0]) + rng.normal(0, 8, shape)
    image, mask = sitk.GetImageFromArray(values.astype(np.float32)), sitk.GetImageFromArray(labels)
    for item in (image, mask):
        item.SetSpacing(spacing[::-1])
    return image, mask


def write_cohort(folder, count=7, test=2, **options):
    rows = []
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for seed in range(count):
        image, mask = blob(seed, **options)
        sitk.WriteImage(image, str(folder / f"images/c{seed}.nii.gz"))
        sitk.WriteImage(mask, str(folder / f"masks/c{seed}.nii.gz"))
        split = "test" if seed >= count - test else "validation" if seed == 0 else "train"
        rows.append((f"c{seed}", f"p{seed}", f"images/c{seed}.nii.gz", f"masks/c{seed}.nii.gz", split))
    table = pd.DataFrame(rows, columns=["case_id", "patient_id", "image", "mask", "split"])
    table.to_csv(folder / "cohort.csv", index=False)
    return folder / "cohort.csv"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("masks")
    cohort = Cohort.from_csv(write_cohort(folder))
    settings = {**CPU, "steps": 25, "learning_rate": 5e-3, "ema": 0.8}
    model = train_segmenter(
        cohort, folder / "model", network="unet", epochs=8, plan=FAST, settings=settings, progress=False
    )
    return folder, cohort, model


def only(cohort, *splits):
    return Cohort(case for case in cohort if case.covariates["split"] in splits)


def test_model_folder_says_what_it_is(trained):
    _, _, model = trained
    card = json.loads((model / "model.json").read_text(encoding="utf-8"))
    assert sorted(path.name for path in model.iterdir()) == ["curves.csv", "model.json", "model.safetensors"]
    assert card["plan"]["labels"] == [1, 2]
    assert card["cases"] == {"training": 4, "validation": 1}
    assert len(card["patients"]) == 5
    assert "p1" not in json.dumps(card)
    assert card["metrics"]["validation_dice"] > 0.5


def test_finished_training_is_not_repeated(trained):
    _, cohort, model = trained
    before = (model / "model.safetensors").stat().st_mtime_ns
    settings = {**CPU, "steps": 25, "learning_rate": 5e-3, "ema": 0.8}
    train_segmenter(cohort, model, network="unet", epochs=8, plan=FAST, settings=settings, progress=False)
    assert (model / "model.safetensors").stat().st_mtime_ns == before


def test_masks_and_lesions_of_new_patients(trained, tmp_path):
    _, cohort, model = trained
    segmented = segment_cohort(only(cohort, "test"), model, tmp_path / "out", progress=False)
    lesions = pd.read_csv(tmp_path / "out" / "lesions.csv")
    assert sorted(path.name for path in (tmp_path / "out" / "masks").iterdir()) == ["c5.nii.gz", "c6.nii.gz"]
    assert set(lesions["case_id"]) == {"c5", "c6"}
    assert {"volume_ml", "max_diameter_mm", "confidence"} <= set(lesions.columns)
    for case in segmented:
        predicted = to_array(read_mask(case.mask))
        reference = to_array(read_mask(cohort[case.case_id].mask))
        assert 2 * ((predicted > 0) & (reference > 0)).sum() / ((predicted > 0).sum() + (reference > 0).sum()) > 0.8
    assert Cohort.from_csv(tmp_path / "out" / "cohort.csv")["c5"].mask == (tmp_path / "out/masks/c5.nii.gz")


def test_a_second_run_takes_masks_from_the_cache_unless_they_changed(trained, tmp_path):
    _, cohort, model = trained
    test = only(cohort, "test")
    segment_cohort(test, model, tmp_path, progress=False)
    kept, lost = tmp_path / "masks/c5.nii.gz", tmp_path / "masks/c6.nii.gz"
    stamp, content = kept.stat().st_mtime_ns, lost.read_bytes()
    lost.unlink()
    segment_cohort(test, model, tmp_path, progress=False)
    assert kept.stat().st_mtime_ns == stamp
    assert to_array(read_mask(lost)).any()
    assert len(lost.read_bytes()) == len(content)


def test_training_patients_are_refused_as_test(trained, tmp_path):
    _, cohort, model = trained
    with pytest.raises(LeakageError, match='split="train"'):
        segment_cohort(only(cohort, "train"), model, tmp_path, progress=False)
    assert len(segment_cohort(only(cohort, "train"), model, tmp_path, split="train", progress=False)) == 4


def test_one_broken_image_costs_only_itself(trained, tmp_path):
    folder, cohort, model = trained
    bad = tmp_path / "bad.nii.gz"
    bad.write_bytes((folder / "images/c5.nii.gz").read_bytes()[:200])
    cases = Cohort([*only(cohort, "test"), Case("bad", "new", bad)])
    segmented = segment_cohort(cases, model, tmp_path / "out", progress=False)
    failures = pd.read_csv(tmp_path / "out" / "failures.csv")
    assert list(failures["case_id"]) == ["bad"]
    assert segmented["bad"].mask is None
    assert segmented["c5"].mask is not None


def test_parallel_equals_serial(trained, tmp_path):
    _, cohort, model = trained
    test = only(cohort, "test")
    segment_cohort(test, model, tmp_path / "a", progress=False)
    segment_cohort(test, model, tmp_path / "b", n_jobs=2, progress=False)
    for name in ("masks/c5.nii.gz", "masks/c6.nii.gz"):
        np.testing.assert_array_equal(
            to_array(read_mask(tmp_path / "a" / name)), to_array(read_mask(tmp_path / "b" / name))
        )
    assert (tmp_path / "a/lesions.csv").read_text(encoding="utf-8") == (tmp_path / "b/lesions.csv").read_text(
        encoding="utf-8"
    )


def test_long_table_and_report(trained, tmp_path):
    _, cohort, model = trained
    segment_cohort(cohort, model, tmp_path / "seg", split="train", progress=False)
    table = evaluate_masks(
        cohort, tmp_path / "seg", tmp_path / "out", structures={"organ": [1, 2], "lesion": [2]}, progress=False
    )
    assert list(table.columns) == list(MASK_COLUMNS)
    assert set(table["split"]) == {"train", "validation", "test"}
    dice = table[(table["structure"] == "organ") & (table["metric"] == "dice")]
    assert len(dice) == 7
    assert dice["value"].mean() > 0.8
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "Training (n = 4)" in page
    assert "Surface Dice" in page
    assert (tmp_path / "out" / "tables" / "detection.csv").is_file()
    assert (tmp_path / "out" / "figures" / "froc.png").is_file()


def test_dice_of_the_table_is_that_of_the_masks(trained, tmp_path):
    _, cohort, model = trained
    test = only(cohort, "test")
    segmented = segment_cohort(test, model, tmp_path / "seg", progress=False)
    table = evaluate_masks(test, tmp_path / "seg", tmp_path / "out", report=False, progress=False)
    for case in segmented:
        predicted, reference = to_array(read_mask(case.mask)) == 1, to_array(read_mask(test[case.case_id].mask)) == 1
        expected = 2 * (predicted & reference).sum() / (predicted.sum() + reference.sum())
        row = table[
            (table["case_id"] == case.case_id) & (table["structure"] == "label_1") & (table["metric"] == "dice")
        ]
        assert row["value"].item() == pytest.approx(expected, abs=1e-12)


def test_what_a_second_look_dropped_carries_the_froc_curve_on(tmp_path):
    shape = (20, 20, 20)
    reference, drawn, dropped = (np.zeros(shape, np.uint8) for _ in range(3))
    reference[2:6, 2:6, 2:6] = reference[12:16, 12:16, 12:16] = 1
    drawn[2:6, 2:6, 2:6] = 1
    dropped[12:16, 12:16, 12:15], dropped[2:5, 14:17, 2:5] = 1, 2
    for name, values in (("reference.nii.gz", reference), ("masks/a.nii.gz", drawn), ("dropped/a.nii.gz", dropped)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        sitk.WriteImage(sitk.GetImageFromArray(values), str(tmp_path / name))
    known = {"case_id": ["a"], "patient_id": ["a"], "label": [1], "lesion_id": [1], "confidence": [0.9]}
    pd.DataFrame(known).to_csv(tmp_path / "lesions.csv", index=False)
    known = {"case_id": ["a", "a"], "patient_id": ["a", "a"], "lesion_id": [1, 2], "confidence": [0.3, 0.2]}
    pd.DataFrame(known).to_csv(tmp_path / "dropped.csv", index=False)
    cohort = Cohort([Case("a", "a", tmp_path / "reference.nii.gz", tmp_path / "reference.nii.gz")])
    table = evaluate_masks(cohort, tmp_path, tmp_path / "out", report=False, progress=False)
    wide = table[table["lesion_id"] != ""].pivot_table(index="lesion_id", columns="metric", values="value")
    assert wide["detected"].dropna().to_dict() == {"r1": 1, "r2": 0}
    assert wide["dropped_confidence"].dropna().to_dict() == pytest.approx({"r2": 0.3})
    assert wide["true_positive"].dropna().to_dict() == {"d1": 1, "d2": 0, "p1": 1}
    assert wide["confidence"].dropna().to_dict() == pytest.approx({"r1": 0.9, "p1": 0.9, "d1": 0.3, "d2": 0.2})
    points = froc(table).points
    assert list(points["sensitivity"]) == [0.0, 0.5, 1.0, 1.0]
    assert list(points["fp_per_case"]) == [0.0, 0.0, 0.0, 1.0]


def test_missing_prediction_is_a_failure_not_a_zero(trained, tmp_path):
    _, cohort, model = trained
    test = only(cohort, "test")
    segment_cohort(test, model, tmp_path / "seg", progress=False)
    (tmp_path / "seg/masks/c6.nii.gz").unlink()
    table = evaluate_masks(test, tmp_path / "seg", tmp_path / "out", report=False, progress=False)
    assert set(table["case_id"]) == {"c5"}
    assert [row["case_id"] for row in table.attrs["failures"]] == ["c6"]


def test_ensemble_of_folds_never_validates_on_its_training_patients(tmp_path):
    cohort = Cohort.from_csv(write_cohort(tmp_path, count=6, test=1))
    model = train_segmenter(
        cohort, tmp_path / "model", network="unet", epochs=1, folds=2, plan=FAST, settings=CPU, progress=False
    )
    loaded = load_segmenter(model)
    assert len(loaded.networks) == 2
    assert len(loaded.patients) == 5
    found = segment_cohort(only(cohort, "test"), model, tmp_path / "out", progress=False)
    assert found[0].mask is not None


def test_networks_trained_side_by_side_are_those_trained_in_turn(tmp_path):
    cohort = Cohort.from_csv(write_cohort(tmp_path, count=6, test=1))
    options = {"network": "unet", "epochs": 2, "folds": 2, "plan": FAST, "settings": CPU, "progress": False}
    with single_thread():
        models = [train_segmenter(cohort, tmp_path / f"jobs_{jobs}", n_jobs=jobs, **options) for jobs in (1, 2)]
    for number in range(2):
        for model in models:
            card = json.loads((model / f"fold_{number}" / "model.json").read_text(encoding="utf-8"))
            assert card["trained_on"]["threads"] == 1
        first, second = ((model / f"fold_{number}" / "model.safetensors").read_bytes() for model in models)
        assert first == second


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU networks are trained in turn")
def test_networks_side_by_side_share_the_cores_and_one_bar(tmp_path, capsys, monkeypatch):
    cohort = Cohort.from_csv(write_cohort(tmp_path, count=6, test=1))
    options = {"network": "unet", "epochs": 2, "folds": 2, "plan": FAST, "settings": CPU}
    monkeypatch.setattr("hybrid.pipelines.training_progress.SECONDS", 0.05)
    model = train_segmenter(cohort, tmp_path / "model", n_jobs=4, **options)
    for number in range(2):
        card = json.loads((model / f"fold_{number}" / "model.json").read_text(encoding="utf-8"))
        assert card["trained_on"]["threads"] == 2
    shown = capsys.readouterr().err
    assert "training 2 networks: 100%" in shown
    assert "fold_0=0." in shown
    assert not list(model.rglob(PROGRESS_FILE))


def test_the_bar_keeps_the_last_dice_that_was_computed(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("hybrid.pipelines.training_progress.SECONDS", 0.02)
    monitor = ProgressFile(tmp_path)
    with training_bar({"kidney": tmp_path}):
        for progress, dice in ((0.4, 0.9), (0.5, float("nan"))):
            monitor({"progress": progress, "validation_dice": dice})
            time.sleep(0.3)
    assert "50%" in (shown := capsys.readouterr().err)
    assert "kidney=0.900" in shown
    assert "nan" not in shown


@pytest.mark.parametrize(("networks", "jobs", "at_once"), [(5, 2, 2), (2, 4, 2), (3, 1, 1), (1, 4, 1)])
def test_no_more_networks_are_trained_at_once_than_jobs(networks, jobs, at_once, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert networks_at_once(networks, jobs) == at_once
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert networks_at_once(networks, jobs) == 1


def test_a_failed_training_beside_others_is_named(tmp_path, monkeypatch):
    cohort = Cohort.from_csv(write_cohort(tmp_path, count=6, test=1))
    out = tmp_path / "model"
    (out / "fold_1").mkdir(parents=True)
    (out / "fold_1" / "checkpoint.pt").write_bytes(b"not a checkpoint")
    options = {"network": "unet", "epochs": 1, "folds": 2, "plan": FAST, "settings": CPU, "progress": False}
    with pytest.raises(HybridError, match=r"1 of 2 trainings failed, the first one \(fold_1\)"):
        train_segmenter(cohort, out, n_jobs=2, **options)
    assert (out / "fold_0" / "model.json").is_file()


def test_few_members_of_many_folds_train_on_most_patients(tmp_path):
    cohort = Cohort.from_csv(write_cohort(tmp_path, count=6, test=0))
    options = {"network": "unet", "epochs": 1, "plan": FAST, "settings": CPU, "progress": False}
    model = train_segmenter(cohort, tmp_path / "model", folds=6, members=2, **options)
    assert len(load_segmenter(model).networks) == 2
    for number in range(2):
        card = json.loads((model / f"fold_{number}" / "model.json").read_text(encoding="utf-8"))
        assert card["cases"] == {"training": 5, "validation": 1}
    with pytest.raises(InputError, match="from 1 to the number of folds"):
        train_segmenter(cohort, tmp_path / "other", folds=3, members=4, **options)


def test_patients_stay_together_in_folds():
    cohort = Cohort(Case(f"c{i}", f"p{i // 2}") for i in range(12))
    for fold in make_folds(cohort, 3, 0.0, seed=1):
        train = {cohort[name].patient_id for name in fold.training}
        assert not train & {cohort[name].patient_id for name in fold.validation}
        assert len(fold.training) + len(fold.validation) == 12


def test_training_on_one_patient_is_refused(tmp_path):
    cohort = Cohort.from_csv(write_cohort(tmp_path, count=1, test=0))
    with pytest.raises(InputError, match="two patients"):
        train_segmenter(cohort, tmp_path / "model", epochs=1, progress=False)


def test_corrupted_training_file_is_named_before_training_starts(tmp_path):
    cohort = Cohort.from_csv(write_cohort(tmp_path))
    path = tmp_path / "images/c2.nii.gz"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(InputError, match="1 of 5 cases") as caught:
        train_segmenter(cohort, tmp_path / "model", epochs=1, plan=FAST, settings=CPU, progress=False)
    assert caught.value.case_id == "c2"
    assert not (tmp_path / "model" / "model.json").exists()


def test_flat_image_is_refused_with_its_case(tmp_path):
    cohort = Cohort.from_csv(write_cohort(tmp_path))
    for part in ("images", "masks"):
        path = str(tmp_path / part / "c3.nii.gz")
        sitk.WriteImage(sitk.ReadImage(path)[:, :, 5:6], path)
    with pytest.raises(InputError, match="volume") as caught:
        train_segmenter(cohort, tmp_path / "model", epochs=1, plan=FAST, settings=CPU, progress=False)
    assert caught.value.case_id == "c3"


def test_labels_that_are_not_declared_name_the_case(tmp_path):
    cohort = Cohort.from_csv(write_cohort(tmp_path))
    with pytest.raises(InputError, match="labels \\[2\\]") as caught:
        train_segmenter(cohort, tmp_path / "model", epochs=1, plan={**FAST, "labels": {"organ": 1}}, progress=False)
    assert caught.value.case_id


def test_thick_slices_train(tmp_path):
    cohort = Cohort.from_csv(write_cohort(tmp_path, spacing=(8.0, 0.7, 0.7), shape=(9, 40, 40)))
    model = train_segmenter(
        cohort, tmp_path / "model", network="dynunet", epochs=1, plan={"width": 8}, settings=CPU, progress=False
    )
    plan = load_segmenter(model).plan
    assert plan.spacing == pytest.approx((8.0, 0.7, 0.7))
    assert plan.kernels[0] == (1, 3, 3)


def test_model_with_other_labels_than_the_structures_is_named(trained, tmp_path):
    _, cohort, model = trained
    test = only(cohort, "test")
    segment_cohort(test, model, tmp_path / "seg", progress=False)
    table = evaluate_masks(
        test, tmp_path / "seg", tmp_path / "out", structures={"organ": [1]}, report=False, progress=False
    )
    assert table.empty
    assert "2" in table.attrs["failures"][0]["message"]


def test_commands_from_table_to_report(tmp_path, capsys):
    path = str(write_cohort(tmp_path))
    model, masks, out = str(tmp_path / "m"), str(tmp_path / "seg"), str(tmp_path / "out")
    common = ["--quiet", "--jobs", "1"]
    train = ["--task", "segmentation", "--minutes", "0.05", "--network", "unet", "--width", "8"]
    assert main(["train", path, *train, "--out", model, *common]) == 0
    test = str(tmp_path / "test.csv")
    table = pd.read_csv(path)
    table[table["split"] == "test"].to_csv(test, index=False)
    assert main(["segment", test, "--model", model, "--out", masks, *common]) == 0
    assert (Path(masks) / "masks/c5.nii.gz").is_file()
    assert (Path(masks) / "lesions.csv").is_file()
    assert main(["evaluate-masks", test, "--masks", masks, "--out", out, *common]) == 0
    assert (Path(out) / "report.html").is_file()
    assert "2 cases" in capsys.readouterr().out


def test_command_says_errors_in_one_line(tmp_path, capsys):
    path = str(write_cohort(tmp_path))
    assert main(["segment", path, "--model", str(tmp_path / "none"), "--out", str(tmp_path / "o"), "--quiet"]) == 2
    assert "no model.json" in capsys.readouterr().err
    assert main(["train", path, "--labels", "organ", "--out", str(tmp_path / "m"), "--quiet"]) == 2
    assert "NAME=VALUE" in capsys.readouterr().err


def test_report_without_any_evaluated_case_is_refused(trained, tmp_path):
    _, cohort, _ = trained
    (tmp_path / "none").mkdir()
    with pytest.raises(HybridError, match="No case could be evaluated"):
        evaluate_masks(only(cohort, "test"), tmp_path / "none", tmp_path / "out", progress=False)


def test_training_works_with_spawned_workers(tmp_path):
    cohort = Cohort.from_csv(write_cohort(tmp_path))
    settings = {**CPU, "workers": 2}
    model = train_segmenter(
        cohort, tmp_path / "m", network="unet", epochs=1, plan=FAST, settings=settings, n_jobs=2, progress=False
    )
    assert load_segmenter(model).plan.width == 8
    assert sys.modules["torch"]


def test_overlay_shows_the_slice_with_most_of_the_wanted_label(tmp_path):
    cohort = Cohort.from_csv(write_cohort(tmp_path, count=1, test=1))
    case = cohort[0]
    reference = sitk.ReadImage(str(case.mask))
    values = to_array(reference).copy()
    values[3, 5:7, 5:7] = 9
    changed = sitk.GetImageFromArray(values)
    changed.CopyInformation(reference)
    sitk.WriteImage(changed, str(case.mask))
    folder = Path(case.mask).parent
    shown = overlay_slices(cohort, folder, {"Worst": case.case_id}, labels=[9])[0]
    assert (shown["reference"] == 9).sum() == 4
    usual = overlay_slices(cohort, folder, {"Worst": case.case_id}, labels=[7])[0]
    assert (usual["reference"] > 0).sum() == (values > 0).sum(axis=(1, 2)).max()
