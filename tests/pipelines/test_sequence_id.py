"""Naming of sequences: series on disk, tags, the classifier's answers, the gate of a cohort, and the whole study."""

import argparse
import zipfile

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk

from hybrid.analysis.per_class import choose_abstention
from hybrid.cases import Case, Cohort
from hybrid.deep.classification.inputs import VolumeInput
from hybrid.errors import InputError
from hybrid.pipelines.cli_sequence import add_verbs
from hybrid.pipelines.dicom_series import (
    b_value_of,
    find_series,
    read_stack,
    sequence_of_class,
    tag_opinion,
    tags_agree,
)
from hybrid.pipelines.sequence_id import SERIES_COLUMNS, identify_sequences, require_sequence
from hybrid.pipelines.systems.sequences import run_sequence_study
from hybrid.pipelines.train_classifier import read_predictions, train_classifier

TINY = {
    "network": "resnet10", "network_options": {"widen": 0.125}, "input": VolumeInput((16, 16, 16)), "epochs": 10,
    "progress": False,
    "settings": {"accelerator": "cpu", "learning_rate": 3e-3, "ema": 0.9, "batch": 6},
}  # fmt: skip
RADII = {"ADC": 3, "T2": 6}
SHAPE = (14, 18, 18)


def ball(seed, name):
    rng = np.random.default_rng(seed)
    grid = np.ogrid[tuple(slice(0, n) for n in SHAPE)]
    centre = np.array(SHAPE) / 2 + rng.uniform(-1, 1, 3)
    inside = sum((g - c) ** 2 for g, c in zip(grid, centre, strict=True)) <= RADII[name] ** 2
    return np.clip(200 + 60 * rng.standard_normal(SHAPE) + 500 * inside, 0, 4000).astype(np.int16)


def write_nifti(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(values), str(path))
    return path


def write_dicom(folder, values, *, uid="1.2.3", leave_out=(), start=0, **tags):
    """A DICOM series, one file per slice, with a patient in its header."""
    folder.mkdir(parents=True, exist_ok=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for number, pixels in enumerate(values):
        if number in leave_out:
            continue
        image = sitk.GetImageFromArray(pixels[None])
        image.SetSpacing((1.0, 1.0, 3.0))
        image.SetOrigin((0.0, 0.0, 3.0 * number))
        held = {
            "0008|0060": "MR", "0010|0010": "Doe^Jane", "0010|0020": "MRN4711", "0020|000e": uid,
            "0008|0018": f"{uid}.{start + number + 1}", "0020|000d": "1.9.9", "0020|0013": str(start + number + 1),
            "0020|0032": f"0\\0\\{3 * number}", "0020|0037": "1\\0\\0\\0\\1\\0", **tags,
        }  # fmt: skip
        for key, text in held.items():
            image.SetMetaData(key, text)
        writer.SetFileName(str(folder / f"{start + number:03d}.dcm"))
        writer.Execute(image)
    return folder


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Thirty patients of three centres with one volume of each of two sequences."""
    folder = tmp_path_factory.mktemp("volumes")
    rows = []
    for patient in range(30):
        for i, name in enumerate(RADII):
            path = write_nifti(folder / f"{patient}_{i}.nii.gz", ball(10 * patient + i, name) * (1 + patient % 4))
            rows.append((f"p{patient}s{i}", f"p{patient}", path, name, "ABC"[patient % 3]))
    return pd.DataFrame(rows, columns=["case_id", "patient_id", "image", "label", "site"])


@pytest.fixture(scope="module")
def model(table, tmp_path_factory):
    return train_classifier(table, tmp_path_factory.mktemp("trained") / "model", ratio=(3, 1, 1), accuracy=0.9, **TINY)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Series of every kind: good ones, lying ones and broken ones."""
    root = tmp_path_factory.mktemp("series")
    write_nifti(root / "nifti" / "a.nii.gz", ball(1001, "T2"))
    write_dicom(root / "dicom" / "t2", ball(1002, "T2"), uid="1.2.31", **{"0008|103e": "t2_tse_tra for Jane Doe"})
    write_dicom(root / "dicom" / "lying", ball(1003, "T2"), uid="1.2.32", **{"0008|103e": "ADC map"})
    write_dicom(root / "dicom" / "gap", ball(1004, "ADC"), uid="1.2.33", leave_out=(5, 6))
    write_dicom(root / "dicom" / "seg", ball(1005, "ADC"), uid="1.2.34", **{"0008|0060": "SEG"})
    mask = (ball(1006, "T2") > 500).astype(np.uint8)
    write_nifti(root / "nifti" / "mask.nii.gz", mask)
    good = (root / "nifti" / "a.nii.gz").read_bytes()
    (root / "nifti" / "cut.nii.gz").write_bytes(good[: len(good) // 2])
    (root / "dicom" / "broken").mkdir()
    (root / "dicom" / "broken" / "x.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"nonsense")
    (root / "notes.txt").write_text("not an image")
    return root


@pytest.fixture(scope="module")
def identified(folder, model, tmp_path_factory):
    out = tmp_path_factory.mktemp("identified")
    return identify_sequences(folder, model, out, threshold=0.5, progress=False), out


# A folder


def test_every_series_is_a_row_and_none_is_lost(identified):
    table, out = identified
    assert list(table.columns) == [*SERIES_COLUMNS, "y_prob_ADC", "y_prob_T2"]
    assert table.set_index("series")["decision"].to_dict() == {
        "dicom/broken": "unreadable", "dicom/gap": "unreadable", "dicom/lying": "accepted", "dicom/seg": "no scan",
        "dicom/t2": "accepted", "nifti/a.nii.gz": "accepted", "nifti/cut.nii.gz": "unreadable",
        "nifti/mask.nii.gz": "unreadable",
    }  # fmt: skip
    notes = table.set_index("series")["note"]
    assert "Slices are missing" in notes["dicom/gap"]
    assert "mask" in notes["nifti/mask.nii.gz"]
    assert "cut off" in notes["nifti/cut.nii.gz"]
    assert "SEG" in notes["dicom/seg"]
    pd.testing.assert_frame_equal(
        pd.read_csv(out / "series.csv", keep_default_na=False)[["series", "class", "note"]],
        table[["series", "class", "note"]],
    )
    failures = pd.read_csv(out / "failures.csv")
    assert set(failures["case_id"]) == set(table.loc[table["decision"] == "unreadable", "series"])


def test_pixels_decide_and_tags_only_disagree(identified):
    found = identified[0].set_index("series")
    assert found.loc[["dicom/t2", "dicom/lying", "nifti/a.nii.gz"], "class"].tolist() == ["T2"] * 3
    assert found.loc["dicom/lying", ["tag_class", "agrees"]].tolist() == ["adc", False]
    assert found.loc["dicom/t2", ["tag_class", "agrees"]].tolist() == ["t2", True]
    assert found.loc["nifti/a.nii.gz", "agrees"] is None
    listed = pd.read_csv(identified[1] / "tables" / "disagreements.csv")
    assert listed["series"].tolist() == ["dicom/lying"]


def test_nothing_of_the_patient_leaves_the_headers(identified):
    for path in identified[1].rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            for secret in (b"Jane", b"Doe^", b"MRN4711", b"1.2.31", b"1.9.9"):
                assert secret not in content, path


def test_the_page_counts_lists_and_shows(identified):
    page = (identified[1] / "report.html").read_text(encoding="utf-8")
    assert "8 series: 3 named with enough confidence, 4 unreadable and 1 no scan." in page
    assert "The DICOM tags say something else for 1." in page
    assert "Pixels and DICOM tags disagree" in page
    assert 'id="figure-thumbnails"' in page


def test_the_threshold_decides_who_is_answered(folder, model, tmp_path):
    table = identify_sequences(folder / "nifti", model, tmp_path, threshold=1.0, report=False, progress=False)
    assert table["decision"].tolist() == ["abstained", "unreadable", "unreadable"]
    assert table["class"].tolist() == ["T2", "", ""]
    with pytest.raises(InputError, match="from 0 to 1"):
        identify_sequences(folder, model, tmp_path, threshold=1.5, progress=False)


def test_two_threads_and_a_second_run_give_the_same_table(folder, model, identified, tmp_path):
    for _ in range(2):
        again = identify_sequences(
            folder, model, tmp_path, threshold=0.5, report=False, n_jobs=2, backend="threading", progress=False
        )
        pd.testing.assert_frame_equal(again, identified[0])


def test_a_folder_without_images_and_a_wrong_model_are_refused(folder, model, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="No image lies below"):
        identify_sequences(tmp_path / "empty", model, tmp_path / "out", progress=False)
    with pytest.raises(InputError, match="does not exist"):
        identify_sequences(tmp_path / "nowhere", model, tmp_path / "out", progress=False)
    with pytest.raises(InputError, match="not a model folder"):
        identify_sequences(folder, tmp_path / "empty", tmp_path / "out", progress=False)


# Series on disk


def test_a_series_with_several_b_values_is_several_volumes(tmp_path):
    for number, b_value in enumerate((50, 400, 800)):
        write_dicom(
            tmp_path / "dwi", ball(b_value, "T2"), start=100 * number,
            **{"0018|0024": f"*ep_b{b_value}t", "0008|103e": "ep2d_diff"},
        )  # fmt: skip
    found = find_series(tmp_path)
    assert [series.name for series in found] == ["dwi#1", "dwi#2", "dwi#3"]
    assert [tag_opinion(series.header).sequence for series in found] == ["dwi_low", "dwi_low", "dwi_high"]
    for series, b_value in zip(found, (50, 400, 800), strict=True):
        np.testing.assert_array_equal(sitk.GetArrayFromImage(read_stack(series)), ball(b_value, "T2"))


def test_directions_of_one_b_value_leave_the_first_image_of_each_position(tmp_path):
    for number in range(3):
        tags = {"0008|103e": "dwi b800", "0018|9087": "800"}
        write_dicom(tmp_path / "dwi", ball(number, "T2"), start=100 * number, **tags)
    (series,) = find_series(tmp_path)
    assert series.note == f"{3 * SHAPE[0]} images at {SHAPE[0]} positions: the first of each"
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read_stack(series)), ball(0, "T2"))


def test_slices_are_ordered_by_position_not_by_name(tmp_path):
    write_dicom(tmp_path / "s", ball(0, "T2"))
    for path in sorted((tmp_path / "s").iterdir()):
        path.rename(path.with_name(f"{99 - int(path.stem):03d}.dcm"))
    (series,) = find_series(tmp_path)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read_stack(series)), ball(0, "T2"))


def test_two_series_in_one_folder_get_numbers(tmp_path):
    write_dicom(tmp_path / "mixed", ball(0, "T2"), uid="1.5")
    write_dicom(tmp_path / "mixed", ball(1, "T2"), uid="1.4", start=50)
    assert [series.name for series in find_series(tmp_path)] == ["mixed#1", "mixed#2"]


# Tags


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ({"modality": "CT"}, "ct"),
        ({"modality": "PT"}, "pet"),
        ({"description": "t2_tse_sag", "scan_options": "SAT1"}, "t2"),
        ({"description": "AXIAL SE T2 FAT SAT - RESEARCH"}, "t2_fs"),
        ({"description": "t2_tse_tra", "scan_options": "PFP\\FS"}, "t2_fs"),
        ({"description": "tfl_3d PD ref_tra"}, "pd"),
        ({"description": "Apparent Diffusion Coefficient", "b_value_ge": "1400\\8\\0\\0"}, "adc"),
        ({"image_type": "DERIVED\\PRIMARY\\DIFFUSION\\ADC\\DIS2D", "scan_options": "PFP\\FS"}, "adc"),
        ({"image_type": "DERIVED\\PRIMARY\\DIFFUSION\\TRACEW", "sequence_name": "*ep_b800t"}, "dwi_high"),
        ({"image_type": "DERIVED\\PRIMARY\\DIFFUSION\\TRACEW", "sequence_name": "*ep_b50_800"}, "dwi"),
        ({"description": "ep2d_diff_tra_DYNDISTCALC_BVAL", "sequence_name": "*ep_b50_800"}, "dwi_high"),
        ({"description": "dwi", "b_value": "500"}, "dwi_high"),
        ({"description": "dwi", "b_value_siemens": "499"}, "dwi_low"),
        ({"description": "DWI b50 400 800"}, "dwi"),
        ({"description": "ax dwi b=1400"}, "dwi_high"),
        ({"description": "T2W_TSE_ax", "b_value_philips": "0"}, "t2"),
        ({"description": "t2*_gre", "scanning_sequence": "GR"}, ""),
        ({"scanning_sequence": "SE", "echo_time": "101", "repetition_time": "4000"}, "t2"),
        ({"scanning_sequence": "SE", "echo_time": "12", "repetition_time": "600"}, "t1"),
        ({"scanning_sequence": "GR", "echo_time": "12", "repetition_time": "600"}, ""),
        ({}, ""),
    ],
)
def test_tags_are_read_by_written_rules(header, expected):
    assert tag_opinion({"modality": "MR", **header}).sequence == expected


def test_b_values_of_derived_ge_images_are_cleared_of_their_offset():
    assert b_value_of({"b_value_ge": "1000000800\\8\\0\\0"}) == 800
    assert np.isnan(b_value_of({"description": "T1 2024"}))


def test_names_of_classes_are_understood_in_many_spellings():
    names = ["T2", "T2WI_fs", "DWI_High (b>=500)", "dwi low", "ADC", "MR_T1", "PET", "CT", "pathology"]
    expected = ["t2", "t2_fs", "dwi_high", "dwi_low", "adc", "t1", "pet", "ct", ""]
    assert [sequence_of_class(name) for name in names] == expected


def test_agreement_follows_what_the_classifier_can_tell_apart():
    assert tags_agree("t2_fs", "T2", ["T2", "ADC"]) is True
    assert tags_agree("t2_fs", "T2", ["T2", "T2 fs"]) is False
    assert tags_agree("dwi", "DWI high", ["DWI high", "DWI low"]) is True
    assert tags_agree("pd", "T2", ["T2", "ADC"]) is False
    assert tags_agree("", "T2", ["T2"]) is None
    assert tags_agree("t2", "class 3", ["class 3"]) is None


def test_tags_of_real_prostate_series_say_what_they_are(benchmarks, tmp_path):
    source = benchmarks / "prostate"
    for name in ("ProstateX-0000_7series.zip", "QIN-PROSTATE-001_ADC_with_SEG.zip"):
        with zipfile.ZipFile(source / name) as archive:
            archive.extractall(tmp_path)
    found = [series for series in find_series(tmp_path) if not series.skipped]
    truth = pd.read_csv(source / "series_truth.csv").set_index("folder")["label"].to_dict()
    expected = {"T2_SAG": "t2", "T2_TRA": "t2", "T2_COR": "t2", "ADC": "adc", "DWI_CALC_HIGHB": "dwi_high", "PD": "pd"}
    named = {series.name: tag_opinion(series.header).sequence for series in found}
    diffusion = [name for folder, label in truth.items() if label == "DWI" for name in named if name.startswith(folder)]
    assert [named.pop(name) for name in sorted(diffusion)] == ["dwi_low", "dwi_low", "dwi_high"]
    assert len(named) == 7
    for name, sequence in named.items():
        assert sequence == expected[truth[name]], name


# The gate of a cohort


def two_images(folder, swapped):
    paths = {name: write_nifti(folder / f"{name}.nii.gz", ball(2000 + i, name)) for i, name in enumerate(("ADC", "T2"))}
    first = Case("case1", image={"t2": paths["T2"], "adc": paths["ADC"]})
    second = {"t2": paths["ADC" if swapped else "T2"], "adc": paths["ADC"]}
    return Cohort([first, Case("case2", image=second)])


def test_a_cohort_with_the_right_sequences_passes(model, tmp_path):
    expected = {"t2": "T2", "adc": "ADC"}
    table = require_sequence(two_images(tmp_path, False), model, expected, threshold=0.5, progress=False)
    assert table["verdict"].tolist() == ["as expected"] * 4
    assert table["series"].tolist() == ["case1/t2", "case1/adc", "case2/t2", "case2/adc"]


def test_a_wrong_sequence_is_refused_by_case_and_file(model, tmp_path):
    cohort = two_images(tmp_path, True)
    with pytest.raises(InputError, match="Expected the sequence T2 as image 't2'; found ADC") as caught:
        require_sequence(cohort, model, {"t2": "T2", "adc": "ADC"}, threshold=0.5, progress=False)
    assert caught.value.case_id == "case2"
    assert caught.value.path.endswith("ADC.nii.gz")
    assert "1 of 4 images" in caught.value.message


def test_a_doubtful_image_is_a_warning_not_a_refusal(model, tmp_path, caplog):
    cohort = Cohort([*two_images(tmp_path, True), Case("case3", image={"t2": tmp_path / "gone.nii.gz"})])
    table = require_sequence(cohort, model, {"t2": "T2"}, threshold=1.0, progress=False)
    assert table["verdict"].tolist() == ["low confidence", "low confidence", "unreadable"]
    assert "case3" in caplog.text


def test_unknown_names_are_refused(model, tmp_path):
    cohort = two_images(tmp_path, False)
    with pytest.raises(InputError, match="image name 't1'"):
        require_sequence(cohort, model, {"t1": "T2"}, progress=False)
    with pytest.raises(InputError, match="class of the model 'T3'"):
        require_sequence(cohort, model, {"t2": "T3"}, progress=False)


# The command and the study


def run_command(*words):
    parser, said = argparse.ArgumentParser(), []
    work = argparse.ArgumentParser(add_help=False)
    work.add_argument("--jobs", type=int, default=1)
    work.add_argument("--backend", default="loky")
    work.add_argument("--quiet", action="store_true")
    add_verbs(parser.add_subparsers(), work, said.append)
    options = parser.parse_args(["sequence-id", *map(str, words), "--quiet"])
    return options.verb(options), said


def test_the_command_writes_the_table_and_says_what_it_found(folder, model, tmp_path):
    code, said = run_command(folder / "dicom", "--model", model, "--out", tmp_path, "--threshold", "0.5")
    assert code == 0
    assert said[0] == "5 series: 2 unreadable, 2 accepted, 1 no scan; the DICOM tags disagree with 1."
    assert (tmp_path / "series.csv").is_file()


def test_the_command_stops_at_a_wrong_sequence(model, tmp_path):
    two_images(tmp_path, True).to_frame().to_csv(tmp_path / "cohort.csv", index=False)
    words = (tmp_path / "cohort.csv", "--model", model, "--out", tmp_path / "out", "--threshold", "0.5", "--expect")
    assert run_command(*words, "adc=ADC")[0] == 0
    with pytest.raises(InputError, match="case2"):
        run_command(*words, "t2=T2", "adc=ADC")


def test_a_study_reports_the_internal_test_a_held_out_centre_and_a_histogram(table, tmp_path):
    page = run_sequence_study(
        table, tmp_path, held_out_site="C", split=(2, 1, 1), accuracy=0.9, simulated=True, n_boot=200, **TINY
    ).read_text(encoding="utf-8")
    predictions = read_predictions(tmp_path / "model" / "predictions.csv")
    assert set(predictions.loc[predictions["split"] == "external", "site"]) == {"C"}
    assert "C" not in set(predictions.loc[predictions["split"] != "external", "site"])
    assert predictions.groupby("patient_id")["split"].nunique().max() == 1
    for words in ("held-out centre C", "histogram of grey values alone", "Simulated patients", "By centre"):
        assert words in page
    judged = pd.read_csv(tmp_path / "tables" / "per_class.csv")
    assert set(zip(judged["split"], judged["model"], strict=True)) == {
        (split, model) for split in ("test", "external") for model in ("network", "histogram")
    }
    beside = read_predictions(tmp_path / "histogram_predictions.csv")
    assert beside["id"].tolist() == predictions["id"].tolist()
    assert (beside["y_prob_ADC"] + beside["y_prob_T2"]).to_numpy() == pytest.approx(1)
    chosen = choose_abstention(predictions[predictions["split"] == "tuning"], 0.9)
    text = "Every series is answered" if chosen.threshold is None else f"confidence of {chosen.threshold:.3f}"
    assert text in page


def test_an_unknown_centre_and_unusable_rows_are_refused(table, tmp_path):
    with pytest.raises(InputError, match="Unknown centre 'Z'"):
        run_sequence_study(table, tmp_path, held_out_site="Z", **TINY)
    with pytest.raises(InputError, match="1 rows cannot be used"):
        run_sequence_study(table.assign(label=[None, *table["label"][1:]]), tmp_path, **TINY)
