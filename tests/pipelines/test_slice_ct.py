"""Findings on slices: tables, thresholds, maps on the source grid, the study with both splits, bad input."""

from __future__ import annotations

import argparse
import json
import shutil

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from PIL import Image

from hybrid.analysis.slices import FINDING, NO_FINDING
from hybrid.deep.classification.inputs import CT_WINDOWS, SliceInput
from hybrid.errors import InputError, LeakageError
from hybrid.images import orientation_of, read_image, to_array
from hybrid.pipelines import cli_slices
from hybrid.pipelines.slice_ct import as_slices, find_in_slices, operating_point, save_threshold, slice_rows
from hybrid.pipelines.systems.head_slices import compare_models, run_head_ct_study
from hybrid.pipelines.train_classifier import read_predictions

PATIENTS, SLICES, SIZE, SPACING = 24, 4, 40, (5.0, 5.0, 6.0)
INPUT = SliceInput(size=(40, 40), windows=(CT_WINDOWS["brain"], CT_WINDOWS["bone"]))


def head(number: int) -> tuple[np.ndarray, np.ndarray]:
    """A skull with brain; in every second patient a bleed on the two middle slices, off the middle."""
    rng = np.random.default_rng(number)
    z, y, x = np.indices((SLICES, SIZE, SIZE))
    radius = np.hypot((y - SIZE / 2) / 17, (x - SIZE / 2) / 14)
    values = np.where(radius < 1, np.where(radius < 0.88, 32.0, 900.0), -1000.0)
    values += rng.normal(0, 4, values.shape)
    side = 1 if number % 4 < 2 else -1
    bleed = (np.hypot(y - 20 - rng.integers(-5, 6), x - 20 + 7 * side) < 3.6) & (z >= 1) & (z <= 2)
    mask = bleed & (number % 2 == 0)
    return np.where(mask, 72.0 + rng.normal(0, 4, values.shape), values).astype(np.float32), mask.astype(np.uint8)


def write(path, array, direction=(1, 0, 0, 0, 1, 0, 0, 0, 1)):
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(SPACING)
    image.SetOrigin((-80.0, 10.0, 5.0))
    image.SetDirection(direction)
    sitk.WriteImage(image, str(path))
    return path


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """A table of slices of 24 patients in two centres; half of the volumes are stored with flipped axes."""
    folder = tmp_path_factory.mktemp("heads")
    rows = []
    for number in range(PATIENTS):
        values, mask = head(number)
        name, direction = f"p{number:02d}", (1, 0, 0, 0, 1, 0, 0, 0, 1)
        if number % 3 == 0:
            values, mask, direction = values[:, ::-1, ::-1], mask[:, ::-1, ::-1], (-1, 0, 0, 0, -1, 0, 0, 0, 1)
        write(folder / f"{name}.nii.gz", np.ascontiguousarray(values), direction)
        write(folder / f"{name}_mask.nii.gz", np.ascontiguousarray(mask), direction)
        for k in range(SLICES):
            label = "bleed" if mask[k].any() else "normal"
            rows.append((name, name, f"{name}.nii.gz", f"{name}_mask.nii.gz", k, label, "AB"[number % 5 > 2]))
    columns = ["case_id", "patient_id", "image", "mask", "slice", "label", "site"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "slices.csv", index=False)
    return folder / "slices.csv"


@pytest.fixture(scope="module")
def study(cohort, tmp_path_factory):
    out = tmp_path_factory.mktemp("study")
    page = run_head_ct_study(
        cohort, out, network="resnet10", input=INPUT, ratio=(5, 2, 3), epochs=10, mirror=False, n_boot=200,
        progress=False, network_options={"widen": 0.25, "max_pool": False}, simulated=True, target_layer="layer3",
        compare_layers=["layer2", "layer3"],
        settings={"accelerator": "cpu", "learning_rate": 3e-3, "ema": 0.8, "batch": 8},
    )  # fmt: skip
    assert page == out / "report.html"
    return out


def test_every_slice_of_every_test_patient_is_a_row(study, cohort):
    slices = pd.read_csv(study / "slices.csv", keep_default_na=False)
    predictions = read_predictions(study / "model" / "predictions.csv")
    test = predictions[predictions["split"] == "test"]
    assert set(slices["patient_id"]) == set(test["patient_id"])
    assert len(slices) == len(test) == SLICES * slices["patient_id"].nunique()
    given = pd.read_csv(cohort).set_index(["case_id", "slice"])["label"]
    assert [given[key] for key in zip(slices["case_id"], slices["slice"], strict=True)] == slices["y_true"].tolist()
    # The same probabilities as those that the training wrote.
    both = slices.assign(id=slices["case_id"] + "/" + slices["slice"].astype(str)).merge(test, on="id")
    assert both["probability"].to_numpy() == pytest.approx(both["y_prob_bleed_y"].to_numpy(), abs=1e-9)
    called = slices["probability"] >= slices["threshold"]
    assert (np.where(called, "bleed", "normal") == slices["prediction"]).all()


def test_the_threshold_comes_from_the_tuning_slices(study, tmp_path):
    predictions = read_predictions(study / "model" / "predictions.csv")
    tuning = predictions[predictions["split"] == "tuning"]
    stored = json.loads((study / "model" / "threshold.json").read_text(encoding="utf-8"))
    point = operating_point(study / "model", negative="normal")
    assert point.threshold == stored["threshold"]
    ill, score = tuning["y_true"] == "bleed", tuning["y_prob_bleed"]
    youden = [(score[ill] >= cut).mean() + (score[~ill] < cut).mean() for cut in (*score, point.threshold)]
    assert youden[-1] == pytest.approx(max(youden))
    assert operating_point(study / "model", threshold=0.3).threshold == 0.3
    with pytest.raises(InputError, match="between 0 and 1"):
        operating_point(study / "model", threshold=3)
    shutil.copytree(study / "model", tmp_path / "bare")
    (tmp_path / "bare" / "threshold.json").unlink()
    assert operating_point(tmp_path / "bare", negative="normal") == point
    assert save_threshold(tmp_path / "bare").read_text(encoding="utf-8") == (
        study / "model" / "threshold.json"
    ).read_text(encoding="utf-8")
    for name in ("threshold.json", "predictions.csv"):
        (tmp_path / "bare" / name).unlink()
    assert operating_point(tmp_path / "bare").threshold == 0.5
    assert "no tuning slices" in operating_point(tmp_path / "bare").source


def test_patients_are_the_mean_of_their_three_highest_slices(study):
    slices = pd.read_csv(study / "slices.csv")
    patients = pd.read_csv(study / "patients.csv").set_index("patient_id")
    for name, own in slices.groupby("patient_id"):
        top = own["probability"].nlargest(3).mean()
        assert patients.loc[name, "probability"] == pytest.approx(top)
        assert patients.loc[name, "y_true"] == (FINDING if (own["y_true"] == "bleed").any() else NO_FINDING)


def test_maps_lie_on_the_source_grid_and_point_at_the_bleed(study, cohort):
    maps = pd.read_csv(study / "saliency" / "maps.csv")
    true = maps[maps["kind"] == "true positive"]
    assert len(true) >= 4
    assert set(maps["layer"]) == {"layer3"}
    assert true["hit"].astype(bool).mean() >= 0.6  # a network of ten epochs; by chance about one in ten
    for name, own in maps.groupby("case_id"):
        source = read_image(cohort.parent / f"{name}.nii.gz")
        written = read_image(study / "saliency" / own["nifti"].iloc[0])
        assert written.GetSize() == source.GetSize()
        assert written.GetDirection() == pytest.approx(source.GetDirection())
        assert written.GetOrigin() == pytest.approx(source.GetOrigin())
        values = to_array(written)
        assert set(np.flatnonzero(values.any(axis=(1, 2)))) <= set(own["slice"])
        for row in own[own["kind"] == "true positive"].to_dict("records"):
            inside = np.argwhere(to_array(read_image(cohort.parent / f"{name}_mask.nii.gz"))[row["slice"]])
            plane = values[row["slice"]]
            peaks = np.argwhere(plane == plane.max())
            off = np.linalg.norm(peaks - peaks.mean(axis=0), axis=1)
            # The middle of the highest cells; two may be as near to it, and a flipped volume lists them otherwise.
            middle = peaks[off < off.min() + 1e-6]
            distances = [5.0 * np.linalg.norm(inside - peak, axis=1).min() for peak in middle]
            assert min(abs(distance - row["distance_mm"]) for distance in distances) < 0.01
        assert all((study / "saliency" / picture).is_file() for picture in own["picture"])


def test_both_splits_are_shown_and_the_one_by_image_shares_patients(study):
    splits = pd.read_csv(study / "splits.csv").set_index("split_by")
    assert splits.loc["patient", "n_shared_patients"] == 0
    assert splits.loc["image", "n_shared_patients"] > 0
    again = compare_models([study / "model"], negative="normal").iloc[0]
    assert again["auc"] == pytest.approx(splits.loc["patient", "auc"])
    figures = pd.read_csv(study / "tables" / "figures.csv")
    area = figures[(figures["level"] == "slice") & (figures["metric"] == "auc")].iloc[0]
    assert area["value"] == pytest.approx(splits.loc["patient", "auc"])
    assert area["value"] > 0.9


def test_the_report_says_what_it_must(study):
    page = (study / "report.html").read_text(encoding="utf-8")
    for text in (
        "slices of one patient not taken as independent", "Simulated patients", "By patient (honest)",
        "By image (inflated)", "Mean grey value", "Histogram", "layer3", "untrained copies", "Shortcuts",
        "Published and own figures", "0.973",
    ):  # fmt: skip
        assert text in page, text
    assert "/tmp/" not in page
    baselines = pd.read_csv(study / "tables" / "baselines.csv")
    assert baselines["model"].tolist() == ["Network", "Mean grey value", "Histogram"]


def test_layers_are_compared_on_the_same_slices_as_the_maps(study):
    table = pd.read_csv(study / "tables" / "layers.csv").set_index(["kind", "layer"])
    pointing = pd.read_csv(study / "tables" / "pointing.csv").set_index("kind").loc["true positive"]
    same = table.loc[("true positive", "layer3")]
    assert (same["n"], same["hits"], same["chance"]) == (pointing["n"], pointing["hits"], pointing["chance"])
    assert same["cells"] == "5 x 5"
    assert table.loc[("true positive", "layer2"), "cells"] == "10 x 10"
    assert "Pointing score by layer" in (study / "report.html").read_text(encoding="utf-8")


def test_masks_and_neighbours_take_part_in_a_study_and_new_slices_need_no_mask(cohort, tmp_path):
    run_head_ct_study(
        cohort, tmp_path / "study", network="resnet10", size=32, neighbours=1, mask_weight=1.0, ratio=(5, 2, 3),
        epochs=2, saliency=None, audit=False, compare_splits=False, n_boot=50, progress=False,
        network_options={"widen": 0.125, "max_pool": False}, settings={"accelerator": "cpu", "batch": 8},
    )  # fmt: skip
    card = json.loads((tmp_path / "study" / "model" / "model.json").read_text(encoding="utf-8"))
    assert card["settings"]["mask_weight"] == 1.0
    assert card["preprocessing"]["neighbours"] == 1
    table = pd.read_csv(cohort).drop(columns=["mask", "label"])
    first = table[table["case_id"] == "p01"]
    found = find_in_slices(
        first, tmp_path / "study" / "model", tmp_path / "new", saliency=None, folder=cohort.parent, progress=False
    )
    assert found["probability"].notna().all()
    alone = find_in_slices(
        first[first["slice"] == 2], tmp_path / "study" / "model", tmp_path / "one", saliency=None,
        folder=cohort.parent, progress=False,
    )  # fmt: skip
    assert alone["probability"].iloc[0] == found.loc[found["slice"] == 2, "probability"].iloc[0]


def test_smoothing_goes_with_the_model_and_leaves_the_own_probability(study, cohort, tmp_path):
    shutil.copytree(study / "model", tmp_path / "model")
    plain = operating_point(study / "model", negative="normal")
    save_threshold(tmp_path / "model", negative="normal", smoothing=1)
    point = operating_point(tmp_path / "model", negative="normal")
    assert (plain.smoothing, point.smoothing) == (0, 1)
    assert operating_point(tmp_path / "model", threshold=0.3).smoothing == 1
    names = pd.read_csv(study / "slices.csv")["case_id"].unique()[:2]
    rows = pd.read_csv(cohort)
    rows = rows[rows["case_id"].isin(names)]
    options = {"saliency": None, "folder": cohort.parent, "progress": False, "n_boot": 50}
    alone = find_in_slices(rows, study / "model", tmp_path / "alone", **options)
    found = find_in_slices(rows, tmp_path / "model", tmp_path / "smooth", **options)
    assert found["own_probability"].to_numpy() == pytest.approx(alone["probability"].to_numpy())
    own = found["own_probability"].iloc[:4].to_numpy()
    assert found["probability"].iloc[1] == pytest.approx((own[1] + (own[0] + own[2]) / 2) / 2)
    assert found["y_prob_bleed"].to_numpy() == pytest.approx(found["probability"].to_numpy())
    assert (found["threshold"] == point.threshold).all()
    assert "up to one slice of the scan" in (tmp_path / "smooth" / "report.html").read_text(encoding="utf-8")
    # The same arithmetic on the tuning slices: ids end in the slice number.
    tuned = read_predictions(tmp_path / "model" / "predictions.csv")
    tuned = tuned[tuned["split"] == "tuning"]
    smooth = as_slices(tuned, negative="normal", threshold=0.5, smoothing=1)
    raw = tuned["y_prob_bleed"].to_numpy()
    assert smooth["probability"].iloc[1] == pytest.approx((raw[1] + (raw[0] + raw[2]) / 2) / 2)


def test_labelled_training_patients_are_refused_and_unlabelled_ones_are_not(study, cohort, tmp_path):
    table = pd.read_csv(cohort)
    predictions = read_predictions(study / "model" / "predictions.csv")
    trained = predictions.loc[predictions["split"] == "train", "patient_id"].iloc[0]
    own = table[table["patient_id"] == trained]
    options = {"folder": cohort.parent, "progress": False, "saliency": None}
    with pytest.raises(LeakageError, match=trained):
        find_in_slices(own, study / "model", tmp_path / "a", **options)
    slices = find_in_slices(own[["case_id", "image", "slice"]], study / "model", tmp_path / "b", **options)
    assert (slices["y_true"] == "").all()
    assert "No slice is labelled" in (tmp_path / "b" / "report.html").read_text(encoding="utf-8")


def dicom_series(folder, values, skip=()):
    """Axial CT series with the rescale intercept that scanners write."""
    folder.mkdir()
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for k, plane in enumerate(values):
        if k in skip:
            continue
        image = sitk.GetImageFromArray(np.rint(plane).astype(np.int16))
        image.SetSpacing(SPACING[:2])
        tags = {
            "0008|0060": "CT", "0020|000d": "1.2.3", "0020|000e": "1.2.3.4", "0008|0018": f"1.2.3.4.{k}",
            "0020|0032": f"-80\\10\\{5 + 6 * k}", "0020|0037": "1\\0\\0\\0\\1\\0", "0020|0013": str(k),
            "0028|1052": "0", "0028|1053": "1", "0010|0010": "Secret^Name",
        }  # fmt: skip
        for name, value in tags.items():
            image.SetMetaData(name, value)
        writer.SetFileName(str(folder / f"{k}.dcm"))
        writer.Execute(image)
    return folder


def test_volumes_series_and_broken_files_none_is_lost(study, tmp_path):
    """Whole volumes, a DICOM series, a label for a volume, and seven kinds of trouble in one table."""
    values, mask = head(100)
    write(tmp_path / "v.nii.gz", values)
    write(tmp_path / "v_mask.nii.gz", mask)
    dicom_series(tmp_path / "series", head(101)[0])
    dicom_series(tmp_path / "gap", np.concatenate([head(102)[0]] * 2), skip=(2,))
    (tmp_path / "broken.nii.gz").write_bytes(b"no image")
    Image.fromarray(np.zeros((40, 40), np.uint16)).save(tmp_path / "grey.png")
    rows = [
        ("masked", "v.nii.gz", "v_mask.nii.gz", "", ""), ("normal", "series", "", "", "normal"),
        ("ill", "v.nii.gz", "", "", "bleed"), ("gap", "gap", "", "", ""), ("broken", "broken.nii.gz", "", "", ""),
        ("absent", "absent.nii.gz", "", "3", ""), ("far", "v.nii.gz", "", "17", ""), ("empty", "", "", "", "bleed"),
        ("png", "grey.png", "", "", ""),
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=["case_id", "image", "mask", "slice", "label"])
    table.to_csv(tmp_path / "table.csv", index=False)
    slices = find_in_slices(tmp_path / "table.csv", study / "model", tmp_path / "out", progress=False, n_boot=50)
    counts = slices.groupby("case_id")["probability"].agg(["size", "count"])
    assert counts.loc[["masked", "normal", "ill"]].to_numpy().tolist() == [[4, 4]] * 3
    assert counts.loc[["gap", "broken", "absent", "far", "png"]].to_numpy().tolist() == [[1, 0]] * 5
    truth = slices.groupby("case_id")["y_true"].agg(list)
    assert truth["masked"] == ["normal", "bleed", "bleed", "normal"]
    assert truth["normal"] == ["normal"] * 4
    assert truth["ill"] == [""] * 4
    patients = pd.read_csv(tmp_path / "out" / "patients.csv", keep_default_na=False).set_index("patient_id")
    assert patients.loc["ill", "y_true"] == FINDING
    assert patients.loc["gap", "probability"] == ""
    failures = pd.read_csv(tmp_path / "out" / "failures.csv", dtype=str).set_index("case_id")["message"]
    assert set(failures.index) == {"gap", "broken", "absent", "far", "empty", "png"}
    for name, words in {"far": "from 0 to 3", "absent": "does not exist", "empty": "no image", "png": "not HU"}.items():
        assert words in failures[name]
    for file in (tmp_path / "out").rglob("*"):
        assert not (
            file.is_file()
            and file.suffix in (".csv", ".html", ".json")
            and "Secret" in file.read_text(encoding="utf-8")
        )


def test_a_second_run_takes_the_stored_results(study, cohort, tmp_path):
    table = pd.read_csv(cohort)
    own = table[table["patient_id"].isin(pd.read_csv(study / "slices.csv")["patient_id"].head(1))]
    options = {"folder": cohort.parent, "progress": False, "n_boot": 50, "target_layer": "layer3"}
    first = find_in_slices(own, study / "model", tmp_path, **options)
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.json")}
    assert stamps
    pd.testing.assert_frame_equal(find_in_slices(own, study / "model", tmp_path, **options), first)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.json")} == stamps
    lower = find_in_slices(own, study / "model", tmp_path, threshold=0.0, **options)
    assert (lower["prediction"] == "bleed").all()
    assert lower["probability"].tolist() == first["probability"].tolist()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{"case_id": "a", "image": "x.png", "slice": 1}, {"case_id": "a", "image": "x.png", "slice": 1}],
            "several rows",
        ),
        ([{"case_id": "a", "image": "x.png", "slice": ""}, {"case_id": "a", "image": "x.png", "slice": 1}], "several"),
        ([{"case_id": "a", "image": "x.png", "slice": -1}], "whole number"),
        ([{"case_id": "", "image": "x.png"}], "no case_id"),
        ([{"case_id": "a", "file": "x.png"}], "image"),
        ([{"case_id": "a", "image": "x.png", "label": "blood"}], "blood"),
    ],
)
def test_unclear_tables_are_refused(rows, message):
    with pytest.raises(InputError, match=message):
        slice_rows(pd.DataFrame(rows), classes=("bleed", "normal"))


def test_png_slices_are_read_and_their_maps_have_their_size(tmp_path):
    """A classifier of 8-bit slices, mixed sizes, transparency: maps as pictures and as NIfTI of one slice."""
    from hybrid.deep.classification.classifier import ImageClassifier
    from hybrid.deep.classification.networks import build_classifier, classifier_architecture

    network = build_classifier(
        classifier_architecture("resnet10", dims=2, in_channels=1, classes=2, widen=0.125), seed=1
    )
    display = SliceInput(size=(32, 32), intensity="display")
    ImageClassifier(display, ("normal", "bleed"), (network,), ({},)).save(tmp_path / "model")
    rng = np.random.default_rng(0)
    for name, shape in (("a", (40, 30)), ("b", (25, 50))):
        Image.fromarray(rng.integers(0, 255, shape).astype(np.uint8)).save(tmp_path / f"{name}.png")
    table = pd.DataFrame({"case_id": ["a", "b"], "patient_id": ["p", "p"], "image": ["a.png", "b.png"]})
    found = find_in_slices(
        table.assign(label=["bleed", "normal"]), tmp_path / "model", tmp_path / "out", threshold=0.0, folder=tmp_path,
        saliency="gradcam++", progress=False, n_boot=50,
    )  # fmt: skip
    assert found["slice"].tolist() == [0, 0]
    maps = pd.read_csv(tmp_path / "out" / "saliency" / "maps.csv")
    assert maps["kind"].tolist() == ["true positive", "false positive"]
    assert maps["hit"].isna().all()
    sizes = [read_image(tmp_path / "out" / "saliency" / name).GetSize() for name in maps["nifti"]]
    assert sizes == [(30, 40, 1), (50, 25, 1)]


def test_the_command_line_calls_the_function(study, cohort, tmp_path):
    parser = argparse.ArgumentParser()
    work = argparse.ArgumentParser(add_help=False)
    work.add_argument("--jobs", type=int, default=1)
    work.add_argument("--backend", default="loky")
    work.add_argument("--quiet", action="store_true")
    said: list[str] = []
    cli_slices.add_verbs(parser.add_subparsers(), work, said.append)
    names = pd.read_csv(study / "slices.csv")["case_id"].unique()[:2]
    table = pd.read_csv(cohort)
    table = table[table["case_id"].isin(names)].assign(image=[str(cohort.parent / p) for p in table["image"]][:8])
    table.drop(columns=["mask"]).to_csv(tmp_path / "t.csv", index=False)
    words = [
        "slice-ct", str(tmp_path / "t.csv"), "--model", str(study / "model"), "--out", str(tmp_path / "o"), "--quiet",
        "--saliency", "none",
    ]  # fmt: skip
    options = parser.parse_args(words)
    assert options.verb(options) == 0
    assert "8 slices, 0 of them" in said[0]
    assert not (tmp_path / "o" / "saliency").exists()


def test_flipped_volumes_are_stored_as_the_fixture_says(cohort):
    """The maps' test above covers a volume whose rows and columns are stored in reverse."""
    flipped = orientation_of(read_image(cohort.parent / "p00.nii.gz"))
    assert flipped.flips[1:] == (True, True)
