import json
import logging

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
import torch
from PIL import Image

from hybrid.cases import Cohort
from hybrid.deep.classification import training
from hybrid.deep.classification.classifier import ImageClassifier, abstention_threshold
from hybrid.deep.classification.inputs import SliceInput, VolumeInput
from hybrid.errors import InputError, LeakageError, WeightsError
from hybrid.pipelines.image_splits import greedy_split, make_splits
from hybrid.pipelines.image_tables import class_names, image_table
from hybrid.pipelines.train_classifier import read_predictions, train_classifier

SMALL = {
    "network": "resnet10", "network_options": {"widen": 0.125}, "progress": False,
    "settings": {"accelerator": "cpu", "learning_rate": 3e-3, "ema": 0.9, "batch": 6},
}  # fmt: skip
VOLUMES = {**SMALL, "input": VolumeInput((16, 16, 16)), "ratio": (3, 1, 1)}


def ball(seed, radius, shape=(16, 16, 16)):
    rng = np.random.default_rng(seed)
    grid = np.ogrid[tuple(slice(0, n) for n in shape)]
    centre = np.array(shape) / 2 + rng.uniform(-1, 1, len(shape))
    inside = sum((g - c) ** 2 for g, c in zip(grid, centre, strict=True)) <= radius**2
    return (rng.normal(0, 0.3, shape) + 2 * inside).astype(np.float32)


def write(path, values):
    sitk.WriteImage(sitk.GetImageFromArray(values), str(path))
    return path


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Twenty patients with two volumes each; sizes and units of the files differ."""
    folder = tmp_path_factory.mktemp("volumes")
    rows = []
    for number in range(40):
        patient, label = number // 2, "big" if number // 2 % 2 else "small"
        shape = (16, 14 + number % 3 * 4, 18)
        values = ball(number, 6 if label == "big" else 3, shape) * (1 + number % 5 * 100)
        write(folder / f"{number}.nii.gz", values)
        rows.append({"case_id": f"c{number}", "patient_id": f"p{patient}", "image": f"{number}.nii.gz", "label": label})
    pd.DataFrame(rows).to_csv(folder / "table.csv", index=False)
    return folder / "table.csv"


@pytest.fixture(scope="module")
def trained(table, tmp_path_factory):
    return train_classifier(table, tmp_path_factory.mktemp("trained") / "model", epochs=10, accuracy=1.0, **VOLUMES)


def weights_of(folder):
    return json.loads((folder / "model.json").read_text(encoding="utf-8"))["sha256"]


def frame(patients, labels, per_patient=1):
    return pd.DataFrame(
        [
            {"id": f"{p}-{i}", "patient_id": p, "label": label, "split": None}
            for p, label in zip(patients, labels, strict=True)
            for i in range(per_patient)
        ]
    )


# Training


def test_volumes_are_trained_and_every_image_is_predicted(trained, table):
    found = read_predictions(trained / "predictions.csv")
    assert list(found.columns) == [
        "id", "patient_id", "site", "slice", "fold", "split", "y_true", "y_pred", "confidence", "abstained",
        "y_prob_big", "y_prob_small",
    ]  # fmt: skip
    assert found["id"].tolist() == pd.read_csv(table)["case_id"].tolist()
    assert found.groupby("patient_id")["split"].nunique().max() == 1
    assert found.groupby("split")["patient_id"].nunique().to_dict() == {"test": 4, "train": 12, "tuning": 4}
    assert (found["y_prob_big"] + found["y_prob_small"]).to_numpy() == pytest.approx(1)
    assert (found["y_pred"] == found["y_true"])[found["split"] == "test"].mean() >= 0.9
    assert not (trained / "prepared").exists()
    assert not (trained / "failures.csv").exists()
    assert not (trained / "checkpoint.pt").exists()


def test_a_size_that_gives_the_label_away_is_warned_about_before_training(tmp_path, caplog):
    rng, rows = np.random.default_rng(0), []
    for number in range(24):
        side = 24 if number % 2 else 30
        Image.fromarray(rng.integers(0, 255, (side, side), dtype=np.uint8)).save(tmp_path / f"{number}.png")
        split = "test" if number > 19 else "tuning" if number > 15 else "train"
        rows.append((f"s{number}", f"p{number}", f"{number}.png", "yes" if number % 2 else "no", split))
    columns = ["case_id", "patient_id", "image", "label", "split"]
    with caplog.at_level(logging.WARNING):
        train_classifier(
            pd.DataFrame(rows, columns=columns), tmp_path / "model", task="slice", folder=tmp_path, epochs=1,
            input=SliceInput((16, 16), intensity="display"), **SMALL,
        )  # fmt: skip
    table = pd.read_csv(tmp_path / "model" / "shortcuts.csv").set_index("fact")
    assert table.loc["rows", "auc"] == 1.0
    assert table.loc["rows", "n_patients"] == 20
    assert table.loc["bit_depth", "auc"] == 0.5
    assert "Shortcut: rows alone tells" in caplog.text


def test_the_model_predicts_what_the_table_says(trained, table):
    found = read_predictions(trained / "predictions.csv")
    model = ImageClassifier.load(trained)
    again = model.predict([table.parent / f"{number}.nii.gz" for number in range(40)], ids=found["id"].tolist())
    for name in ("y_prob_big", "y_prob_small", "y_pred", "confidence", "abstained"):
        pd.testing.assert_series_equal(again[name], found[name], check_exact=True)


def test_patients_of_training_and_tuning_are_refused_and_those_of_the_test_are_not(trained):
    found, model = read_predictions(trained / "predictions.csv"), ImageClassifier.load(trained)
    model.refuse_trained(found.loc[found["split"] == "test", "patient_id"])
    for split in ("train", "tuning"):
        with pytest.raises(LeakageError):
            model.refuse_trained(found.loc[found["split"] == split, "patient_id"].head(1))


def test_the_card_says_how_the_model_was_made(trained):
    card = json.loads((trained / "model.json").read_text(encoding="utf-8"))
    assert card["split_by"] == "patient"
    assert card["warnings"] == []
    assert card["counts"]["train"]["big"] == {"images": 12, "patients": 6}
    assert card["class_weights"] == {"big": 1.0, "small": 1.0}
    assert card["settings"]["epochs"] == 10
    assert card["calibration"]["images"] == 8
    assert card["trained_on"]["threads"] == torch.get_num_threads()
    assert pd.read_csv(trained / "curves.csv")["epoch"].tolist() == list(range(1, 11))


def test_the_threshold_is_that_of_the_tuning_set(trained):
    model = ImageClassifier.load(trained)
    assert model.threshold == abstention_threshold(model.curve, 1.0)
    tuned = read_predictions(trained / "predictions.csv").query("split == 'tuning'")
    assert (tuned["y_pred"] == tuned["y_true"])[~tuned["abstained"]].all()
    assert model.curve["n"].max() == len(tuned)


def test_a_finished_training_is_not_repeated(table, tmp_path, caplog):
    out = train_classifier(table, tmp_path / "m", epochs=1, **VOLUMES)
    before = (out / "model.safetensors").stat().st_mtime_ns
    with caplog.at_level(logging.INFO):
        train_classifier(table, tmp_path / "m", epochs=1, **VOLUMES)
    assert (out / "model.safetensors").stat().st_mtime_ns == before
    assert "trained already" in caplog.text


@pytest.mark.parametrize("folds", [None, 2])
def test_an_interrupted_training_ends_with_the_same_bits(table, tmp_path, monkeypatch, folds):
    options = {**VOLUMES, "epochs": 3, "folds": folds}
    options["settings"] = {**options["settings"], "checkpoint_minutes": 1e-9}
    whole = train_classifier(table, tmp_path / "whole", **options)
    original, seen = training._Run.one_epoch, []

    def interrupted(run):
        row = original(run)
        seen.append(row)
        if len(seen) in (2, 5):
            raise KeyboardInterrupt
        return row

    monkeypatch.setattr(training._Run, "one_epoch", interrupted)
    for _ in range(2 if folds is None else 3):
        try:
            resumed = train_classifier(table, tmp_path / "resumed", **options)
        except KeyboardInterrupt:
            continue
    assert len(seen) == (3 if folds is None else 6)  # no epoch was repeated
    pd.testing.assert_frame_equal(
        read_predictions(resumed / "predictions.csv"), read_predictions(whole / "predictions.csv"), check_exact=True
    )
    assert (resumed / "predictions.csv").read_bytes() == (whole / "predictions.csv").read_bytes()


def test_two_processes_prepare_the_same_model(table, tmp_path, trained):
    other = train_classifier(table, tmp_path / "m", epochs=10, accuracy=1.0, n_jobs=2, backend="threading", **VOLUMES)
    assert weights_of(other) == weights_of(trained)


def test_test_images_change_nothing_but_their_predictions(table, tmp_path):
    rows = pd.read_csv(table)
    splits = make_splits(image_table(rows)[0], ratio=(3, 1, 1))[0]
    rows["split"] = splits.to_numpy()
    first = train_classifier(rows, tmp_path / "a", epochs=2, folder=table.parent, **VOLUMES)
    other = rows.copy()
    chosen = other["split"] == "test"
    other.loc[chosen, "label"] = other.loc[chosen, "label"].map({"big": "small", "small": "big"})
    for number, path in enumerate(other.loc[chosen, "image"]):
        other = other.replace({"image": {path: str(write(tmp_path / path, ball(1000 + number, 4)))}})
    second = train_classifier(other, tmp_path / "b", epochs=2, folder=table.parent, **VOLUMES)
    assert weights_of(first) == weights_of(second)
    cards = [json.loads((folder / "model.json").read_text(encoding="utf-8")) for folder in (first, second)]
    assert cards[0]["calibration"] == cards[1]["calibration"]
    tables = [read_predictions(folder / "predictions.csv") for folder in (first, second)]
    pd.testing.assert_frame_equal(*(t[t["split"] != "test"] for t in tables), check_exact=True)


def test_folds_test_every_image_once_and_make_an_ensemble(table, tmp_path):
    out = train_classifier(table, tmp_path / "cv", folds=3, epochs=1, **VOLUMES)
    found = read_predictions(out / "predictions.csv")
    tested = found[found["split"] == "test"]
    assert sorted(tested["id"]) == sorted(pd.read_csv(table)["case_id"])
    assert found.groupby(["fold", "patient_id"])["split"].nunique().max() == 1
    model = ImageClassifier.load(out)
    assert len(model.networks) == 3
    for number in range(3):
        ImageClassifier.load(out / f"fold_{number}").refuse_trained(tested.query(f"fold == {number}")["patient_id"])
    with pytest.raises(LeakageError):
        model.refuse_trained(tested["patient_id"].head(1))
    assert model.predict([table.parent / "0.nii.gz"])["problem"].tolist() == [""]


def test_slices_of_volumes_are_trained_by_patient(tmp_path):
    rows = []
    for patient in range(12):
        bright = np.zeros(6, bool)
        bright[: 1 + patient % 3] = True
        plane = np.random.default_rng(patient).integers(-50, 50, (6, 20, 20)).astype(np.int16)
        plane[bright, 6:14, 6:14] += 300
        write(tmp_path / f"{patient}.nii.gz", plane)
        rows += [
            {"series_id": f"s{patient}", "patient_id": f"p{patient}", "image": f"{patient}.nii.gz", "slice": k,
             "label": int(bright[k]), "site": f"h{patient % 2}"}
            for k in range(6)
        ]  # fmt: skip
    options = {**SMALL, "task": "slice", "input": SliceInput((20, 20)), "ratio": (2, 1, 1), "folder": tmp_path}
    out = train_classifier(pd.DataFrame(rows), tmp_path / "m", epochs=5, **options)
    found = read_predictions(out / "predictions.csv")
    assert found["id"].tolist()[:2] == ["s0/0", "s0/1"]
    assert found["slice"].tolist() == [row["slice"] for row in rows]
    assert found["site"].tolist() == [row["site"] for row in rows]
    assert found.groupby("patient_id")["split"].nunique().max() == 1
    assert found.groupby("split")["y_true"].nunique().min() == 2
    model = ImageClassifier.load(out)
    assert model.classes == ("0", "1")
    assert model.input.shape == (3, 20, 20)
    weights = json.loads((out / "model.json").read_text(encoding="utf-8"))["class_weights"]
    train = found[found["split"] == "train"]["y_true"].value_counts()
    assert weights["1"] / weights["0"] == pytest.approx(train["0"] / train["1"])


def test_masks_change_a_training_only_when_they_are_asked_for(tmp_path):
    rows, rng = [], np.random.default_rng(0)
    for patient in range(12):
        plane, ill = rng.integers(-50, 50, (2, 40, 40)).astype(np.int16), patient % 2
        inside = np.zeros(plane.shape, np.uint8)
        inside[ill:, 6:14, 6:14] = ill
        write(tmp_path / f"{patient}.nii.gz", plane + 300 * inside.astype(np.int16))
        write(tmp_path / f"{patient}_mask.nii.gz", inside)
        rows += [
            {"case_id": f"s{patient}", "patient_id": f"p{patient}", "image": f"{patient}.nii.gz", "slice": k,
             "label": "yn"[not inside[k].any()], "mask": f"{patient}_mask.nii.gz"}
            for k in range(2)
        ]  # fmt: skip
    table = pd.DataFrame(rows)
    settings = {**SMALL["settings"], "mask_weight": 2.0}
    own = {**SMALL, "task": "slice", "input": SliceInput((32, 32)), "ratio": (2, 1, 1), "folder": tmp_path, "epochs": 2}
    own["network_options"] = {"widen": 0.125, "max_pool": False}
    plain = train_classifier(table, tmp_path / "plain", **own)
    bare = train_classifier(table.drop(columns="mask"), tmp_path / "bare", **own)
    taught = train_classifier(table, tmp_path / "taught", **{**own, "settings": settings})
    none = train_classifier(table.assign(mask=None), tmp_path / "none", **{**own, "settings": settings})
    assert weights_of(plain) == weights_of(bare) == weights_of(none)
    assert weights_of(taught) != weights_of(plain)
    assert ImageClassifier.load(taught).input == SliceInput((32, 32))
    # A mask that was drawn anew is another training.
    write(tmp_path / "1_mask.nii.gz", np.ones((2, 40, 40), np.uint8))
    assert train_classifier(table, tmp_path / "taught", **{**own, "settings": settings}) == taught
    again = weights_of(taught)
    assert again != weights_of(plain)


def test_a_missing_mask_is_named_before_training(tmp_path):
    write(tmp_path / "i.nii.gz", np.zeros((2, 20, 20), np.int16) + np.arange(20, dtype=np.int16))
    rows = [
        {"case_id": f"{n}", "patient_id": f"{n}", "image": "i.nii.gz", "slice": n % 2, "label": n % 2, "mask": "no.nii"}
        for n in range(4)
    ]
    options = {**SMALL, "task": "slice", "input": SliceInput((20, 20)), "ratio": (1, 0, 1), "folder": tmp_path}
    with pytest.raises(InputError, match="cannot be used"):
        train_classifier(pd.DataFrame(rows), tmp_path / "m", epochs=1, **{**options, "settings": {"mask_weight": 1.0}})


def test_pictures_of_mixed_sizes_and_modes_are_trained(tmp_path):
    rng, rows = np.random.default_rng(0), []
    for number in range(16):
        values = rng.integers(0, 80, (20 + number, 24)).astype(np.uint8) + 150 * np.uint8(number % 2)
        name = f"{number}.{'jpg' if number % 3 else 'png'}"
        Image.fromarray(values).convert("RGB" if number % 4 else "L").save(tmp_path / name)
        rows.append({"slice_id": number, "patient_id": number, "image": name, "label": ["dark", "bright"][number % 2]})
    options = {**SMALL, "task": "slice", "input": SliceInput((24, 24), "display"), "ratio": (2, 1, 1)}
    out = train_classifier(pd.DataFrame(rows), tmp_path / "m", epochs=8, folder=tmp_path, **options)
    found = read_predictions(out / "predictions.csv")
    assert (found["y_true"] == found["y_pred"]).mean() > 0.9


def test_a_cohort_can_be_trained(table, tmp_path):
    cohort = Cohort.from_csv(table)
    rows = cohort.to_frame().rename(columns={"label": "outcome"}).drop(columns="roi_label")
    rows["outcome"] = pd.read_csv(table)["label"]
    cohort = Cohort.from_frame(rows.loc[:, ~rows.columns.duplicated()])
    out = train_classifier(cohort, tmp_path / "m", epochs=1, **VOLUMES)
    assert len(read_predictions(out / "predictions.csv")) == 40


def test_external_images_are_predicted_and_nothing_else(table, tmp_path):
    rows = pd.read_csv(table)
    rows.loc[rows["patient_id"].isin(["p0", "p1"]), "split"] = "external"
    out = train_classifier(rows, tmp_path / "m", epochs=1, folder=table.parent, **VOLUMES)
    found = read_predictions(out / "predictions.csv")
    assert found.loc[found["split"] == "external", "patient_id"].tolist() == ["p0", "p0", "p1", "p1"]
    ImageClassifier.load(out).refuse_trained(["p0", "p1"])


def test_a_split_by_image_finds_patients_where_there_is_no_disease(tmp_path):
    """Labels are drawn at random for each patient: only the patient's own pattern can be recognised."""
    rng, rows = np.random.default_rng(5), []
    for patient in range(24):
        pattern = sitk.GetArrayFromImage(
            sitk.SmoothingRecursiveGaussian(sitk.GetImageFromArray(rng.normal(size=(24, 24))), 1.5)
        )
        for number in range(8):
            values = pattern / pattern.std() * 40 + rng.normal(0, 8, (24, 24)) + 120
            name = f"{patient}-{number}.png"
            Image.fromarray(values.clip(0, 255).astype(np.uint8)).save(tmp_path / name)
            rows.append({"slice_id": name, "patient_id": patient, "image": name, "label": int(patient % 2)})
    options = {
        **SMALL, "task": "slice", "input": SliceInput((24, 24), "display"), "ratio": (2, 1, 1), "folder": tmp_path,
        "epochs": 12, "augmentation": False, "class_weights": None,
    }  # fmt: skip
    accuracy = {}
    for split_by in ("patient", "image"):
        out = train_classifier(pd.DataFrame(rows), tmp_path / split_by, split_by=split_by, **options)
        tested = read_predictions(out / "predictions.csv").query("split == 'test'")
        accuracy[split_by] = (tested["y_true"] == tested["y_pred"]).mean()
    assert accuracy["image"] > 0.9
    assert accuracy["patient"] < 0.8


def test_split_by_image_is_warned_about_and_recorded(table, tmp_path, caplog):
    out = train_classifier(table, tmp_path / "m", epochs=1, split_by="image", **VOLUMES)
    assert "Split by image, not by patient" in caplog.text
    card = json.loads((out / "model.json").read_text(encoding="utf-8"))
    assert card["split_by"] == "image"
    assert "too good" in card["warnings"][0]
    assert read_predictions(out / "predictions.csv").groupby("patient_id")["split"].nunique().max() > 1


def test_kept_prepared_images_are_used_again(table, tmp_path):
    first = train_classifier(table, tmp_path / "a", epochs=1, cache=tmp_path / "cache", **VOLUMES)
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").glob("*.npy")}
    second = train_classifier(table, tmp_path / "b", epochs=1, cache=tmp_path / "cache", **VOLUMES)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").glob("*.npy")} == files
    assert len(files) == 40
    assert weights_of(first) == weights_of(second)


def test_pretrained_weights_start_the_training_and_misfits_are_refused_at_once(table, tmp_path, trained):
    options = {**VOLUMES, "settings": {**VOLUMES["settings"], "learning_rate": 1e-9, "ema": 0.0}}
    out = train_classifier(table, tmp_path / "m", epochs=1, weights=trained, augmentation=False, **options)
    network, source = (ImageClassifier.load(folder).networks[0] for folder in (out, trained))
    np.testing.assert_allclose(network.conv1.weight.detach(), source.conv1.weight.detach(), atol=1e-6)
    card = json.loads((out / "model.json").read_text(encoding="utf-8"))
    assert card["pretrained"]["coverage"] == 1
    assert card["pretrained"]["path"] == "model"
    with pytest.raises(WeightsError, match="are needed"):
        train_classifier(table, tmp_path / "n", weights=trained, **{**VOLUMES, "network": "resnet18"})
    assert not (tmp_path / "n").exists()


# Bad tables


def broken(table):
    rows = pd.read_csv(table)
    folder = table.parent
    (folder / "broken.nii.gz").write_bytes(b"not an image")
    rows.loc[3, "label"] = None
    rows.loc[8, "image"] = None
    rows.loc[11, "image"] = "absent.nii.gz"
    rows.loc[12, "image"] = "broken.nii.gz"
    return rows


def test_bad_rows_are_all_named_before_training(table, tmp_path):
    with pytest.raises(InputError, match=r"4 images cannot be used \(c3, c8, c11, c12\)"):
        train_classifier(broken(table), tmp_path / "m", folder=table.parent, epochs=1, **VOLUMES)
    failures = pd.read_csv(tmp_path / "m" / "failures.csv").set_index("case_id")["message"]
    for name, message in (("c3", "no label"), ("c8", "no image"), ("c11", "does not exist"), ("c12", "cannot be read")):
        assert message in failures[name]
    assert not (tmp_path / "m" / "model.json").exists()


def test_bad_rows_can_be_left_out(table, tmp_path):
    out = train_classifier(broken(table), tmp_path / "m", folder=table.parent, epochs=1, on_problem="skip", **VOLUMES)
    assert len(read_predictions(out / "predictions.csv")) == 36
    assert sorted(pd.read_csv(out / "failures.csv")["case_id"]) == ["c11", "c12", "c3", "c8"]


def test_one_image_under_two_patients_is_refused(table, tmp_path):
    rows = pd.read_csv(table)
    rows.loc[5, "image"] = rows.loc[20, "image"]
    with pytest.raises(InputError, match="same image: c5 and c20"):
        train_classifier(rows, tmp_path / "m", folder=table.parent, epochs=1, **VOLUMES)


def test_equal_blank_slices_of_two_patients_are_no_copy(tmp_path):
    rows = []
    for number in range(12):
        Image.fromarray(np.full((16, 16), 0 if number < 2 else 20 * number, np.uint8)).save(tmp_path / f"{number}.png")
        rows.append({"slice_id": number, "patient_id": number, "image": f"{number}.png", "label": number % 2})
    options = {**SMALL, "task": "slice", "input": SliceInput((16, 16), "display"), "ratio": (2, 1, 1)}
    out = train_classifier(pd.DataFrame(rows), tmp_path / "m", folder=tmp_path, epochs=1, **options)
    assert len(read_predictions(out / "predictions.csv")) == 12


def test_too_few_classes_or_patients_are_refused_before_images_are_read(tmp_path):
    rows = pd.DataFrame({"case_id": ["a", "b", "c"], "image": "absent.nii.gz", "label": ["x", "x", "y"]})
    with pytest.raises(InputError, match="Class 'y' has one patient only"):
        train_classifier(rows, tmp_path, **VOLUMES)
    with pytest.raises(InputError, match=r"at least two classes; found x \(2 patients\)"):
        train_classifier(rows.head(2), tmp_path, **VOLUMES)


def test_wrong_arguments_are_refused(table, tmp_path):
    for options, message in (
        ({"task": "volumes"}, "Unknown task"),
        ({"network": "resnet99"}, "Unknown network"),
        ({"task": "slice"}, "needs a SliceInput"),
        ({"settings": {"rate": 1}}, "Unknown setting 'rate'"),
        ({"settings": {"epochs": 1}}, "'epochs' is an argument of its own"),
        ({"augmentation": {"noize": 1}}, "Unknown augmentation"),
        ({"accuracy": 95}, "at most 1; found 95"),
        ({"folds": 99}, "at most 20 folds"),
        ({"ratio": (0, 1, 1)}, "a share for training"),
        ({"split_by": "slice"}, "Unknown value of 'split_by'"),
        ({"on_problem": "ignore"}, "Unknown value of 'on_problem'"),
        ({"class_weights": {"big": 1}}, "Every class needs a weight"),
    ):
        with pytest.raises(InputError, match=message):
            train_classifier(table, tmp_path / "m", **{**VOLUMES, "epochs": 1, **options})


# Tables


def test_ids_come_from_the_finest_column():
    rows = pd.DataFrame({"case_id": ["c", "c"], "series_id": ["s1", "s2"], "image": "i", "label": [1.0, 0.0]})
    images, problems = image_table(rows)
    assert images["id"].tolist() == ["s1", "s2"]
    assert images["patient_id"].tolist() == ["c", "c"]
    assert image_table(rows.drop(columns="case_id"))[0]["patient_id"].tolist() == ["s1", "s2"]
    assert images["label"].tolist() == ["1", "0"]
    assert problems.empty


def test_slices_need_a_patient():
    rows = pd.DataFrame({"slice_id": ["a", "b"], "image": "i", "label": [1, 0]})
    with pytest.raises(InputError, match="no column 'patient_id'"):
        image_table(rows, task="slice")
    with pytest.raises(InputError, match="slice has no patient_id") as caught:
        image_table(rows.assign(patient_id=["p", None]), task="slice")
    assert caught.value.case_id == "b"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"case_id": ["a", "a"]}, "stands in several rows"),
        ({"case_id": ["a", None]}, "Row 2 of the table of images has no case_id"),
        ({"split": ["train", "tset"]}, "Unknown split 'tset'"),
        ({"slice": ["1", "x"]}, "whole number from 0; found 'x'"),
        ({"slice": ["1", "-1"]}, "whole number from 0; found '-1'"),
    ],
)
def test_wrong_cells_are_refused(changes, message):
    rows = pd.DataFrame({"case_id": ["a", "b"], "patient_id": ["p", "q"], "image": "i", "label": [1, 0]})
    with pytest.raises(InputError, match=message):
        image_table(rows.assign(**changes), task="slice" if "slice" in changes else "volume")


def test_missing_columns_name_the_nearest():
    with pytest.raises(InputError, match=r"no column 'label'.*|no column 'outcome'"):
        image_table(pd.DataFrame({"case_id": ["a"], "image": ["i"], "lable": [1]}))
    with pytest.raises(InputError, match="expected one of the columns series_id, case_id"):
        image_table(pd.DataFrame({"image": ["i"], "label": [1]}))


def test_a_class_may_be_called_none(tmp_path):
    (tmp_path / "t.csv").write_text("case_id;image;label\na;i\\j.nii;None\nb;k.nii;bleeding\nc;k.nii;\n")
    images, problems = image_table(tmp_path / "t.csv")
    assert images["label"].tolist() == ["None", "bleeding"]
    assert problems["case_id"].tolist() == ["c"]
    assert images["image"].iloc[0] == tmp_path / "i" / "j.nii"


def test_classes_are_ordered_as_numbers_or_as_text():
    assert class_names(["10", "9", "10"]) == ("9", "10")
    assert class_names(["b", "10", "a"]) == ("10", "a", "b")


# Splits


@pytest.mark.parametrize("seed", range(20))
def test_random_splits_keep_patients_together_and_every_class_everywhere(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(30, 120))
    images = frame([f"p{i}" for i in range(n)], rng.choice(["a", "b", "c"], n, p=[0.6, 0.25, 0.15]))
    images = images.loc[images.index.repeat(rng.integers(1, 6, n))].reset_index(drop=True)
    images["id"] = [f"i{i}" for i in range(len(images))]
    split = make_splits(images, seed=seed)[0]
    where = images["id"].map(split)
    assert where.groupby(images["patient_id"]).nunique().max() == 1
    counts = pd.crosstab(images["label"], where)
    assert (counts > 0).all().all()
    assert (counts.div(counts.sum(axis=1), axis=0)["train"] - 0.8).abs().max() < 0.15
    patients = images.drop_duplicates("patient_id")["id"].map(split).value_counts(normalize=True)
    assert abs(patients["train"] - 0.8) < 0.06
    assert abs(patients["tuning"] - 0.1) < 0.06
    pd.testing.assert_series_equal(split, make_splits(images, seed=seed)[0])


def test_another_seed_gives_another_split():
    images = frame([f"p{i}" for i in range(40)], ["a", "b"] * 20)
    assert not make_splits(images, seed=0)[0].equals(make_splits(images, seed=1)[0])


def test_ten_patients_of_each_class_are_split_eight_one_one():
    images = frame([f"p{i}" for i in range(20)], ["a", "b"] * 10, per_patient=3)
    counts = pd.crosstab(images["label"], images["id"].map(make_splits(images)[0]))
    assert counts.loc["a"].to_dict() == counts.loc["b"].to_dict() == {"test": 3, "train": 24, "tuning": 3}


def test_a_class_of_two_patients_is_trained_and_tested():
    images = frame([f"p{i}" for i in range(12)], ["rare"] * 2 + ["common"] * 10)
    split = make_splits(images)[0]
    assert sorted(split[images.loc[images["label"] == "rare", "id"]]) == ["test", "train"]


def test_patients_with_several_classes_stay_together():
    images = pd.concat(
        [frame([f"p{i}" for i in range(30)], ["a"] * 30), frame([f"p{i}" for i in range(0, 30, 3)], ["b"] * 10)]
    )
    images = images.reset_index(drop=True).assign(id=[f"i{i}" for i in range(40)])
    where = images["id"].map(make_splits(images)[0])
    assert where.groupby(images["patient_id"]).nunique().max() == 1
    assert (pd.crosstab(images["label"], where) > 0).all().all()


def test_one_huge_patient_goes_to_training():
    counts = np.array([[1, 0], [0, 1], [50, 50], *([[1, 0], [0, 1]] * 10)])
    assert greedy_split(counts, np.array([0.8, 0.1, 0.1]))[2] == 0


def test_folds_are_stratified_and_test_every_patient_once():
    images = frame([f"p{i}" for i in range(30)], ["a", "a", "b"] * 10, per_patient=2)
    splits = make_splits(images, folds=5)
    tested = pd.concat([split[split == "test"] for split in splits])
    assert sorted(tested.index) == sorted(images["id"])
    for split in splits:
        counts = pd.crosstab(images["label"], images["id"].map(split))
        assert counts.loc["a", "test"] == 8
        assert counts.loc["b", "test"] == 4
        assert (counts > 0).all().all()


def test_declared_split_is_kept_and_validation_is_tuning():
    images = image_table(
        pd.DataFrame({"case_id": list("abcdef"), "image": "i", "label": [0, 1] * 3,
                      "split": ["train", "Train", "validation", "tuning", "test", "external"]})
    )[0]  # fmt: skip
    assert make_splits(images)[0].tolist() == ["train", "train", "tuning", "tuning", "test", "external"]


def test_tuning_patients_are_taken_from_the_declared_training_patients():
    images = frame([f"p{i}" for i in range(40)], ["a", "b"] * 20).assign(split=["train"] * 30 + ["test"] * 10)
    split = make_splits(images)[0]
    assert (split.to_numpy()[30:] == "test").all()
    assert (split.to_numpy()[:30] == "tuning").sum() == 4  # 30 / 9, two of each class
    assert make_splits(images, ratio=(8, 0, 1))[0].tolist() == images["split"].tolist()


def test_torn_patients_and_gaps_in_a_declared_split_are_refused():
    images = frame(["p", "p", "o", "q", "r"], ["a", "a", "a", "b", "b"]).assign(id=list("vwxyz"))
    images = images.assign(split=["train", "test", "test", "train", "test"])
    with pytest.raises(LeakageError, match="'p' lies in several splits"):
        make_splits(images)
    assert make_splits(images, split_by="image", ratio=(8, 0, 1))[0].tolist() == images["split"].tolist()
    with pytest.raises(InputError, match="1 rows have no split"):
        make_splits(images.assign(split=["train", "train", "test", "train", None]))
    with pytest.raises(InputError, match="fixes the split"):
        make_splits(images, folds=2)


def test_a_class_that_training_lacks_is_refused():
    images = frame(list("pqrstu"), ["a", "b"] * 3).assign(split=["train", "test"] * 3)
    with pytest.raises(InputError, match="Class 'b' has no training images"):
        make_splits(images)
    external = frame(list("pqrst"), ["a", "a", "b", "b", "c"]).assign(split=[None] * 4 + ["external"])
    with pytest.raises(InputError, match="Only external images have the class 'c'"):
        make_splits(external)
