"""Files of nnU-Net and KiTS: hand-made ones are read to the digit, and come back the same."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest

from hybrid.analysis.interop import read_kits_csv, read_nnunet_summary, write_kits_csv, write_nnunet_summary
from hybrid.analysis.overlap import summarise_overlap
from hybrid.errors import InputError
from hybrid.tables import MASK_COLUMNS

# One case, a region and a label; means of one case are its values.
NNUNET = """{
    "foreground_mean": {
        "Dice": 0.8441295546558704, "FN": 15.0, "FP": 10.0, "IoU": 0.7303030303030302, "TN": 907.5, "TP": 67.5,
        "n_pred": 77.5, "n_ref": 82.5
    },
    "mean": {
        "(1, 2, 3)": {
            "Dice": 0.8421052631578947, "FN": 20.0, "FP": 10.0, "IoU": 0.7272727272727273, "TN": 890.0, "TP": 80.0,
            "n_pred": 90.0, "n_ref": 100.0
        },
        "2": {
            "Dice": 0.8461538461538461, "FN": 10.0, "FP": 10.0, "IoU": 0.7333333333333333, "TN": 925.0, "TP": 55.0,
            "n_pred": 65.0, "n_ref": 65.0
        }
    },
    "metric_per_case": [
        {
            "metrics": {
                "(1, 2, 3)": {
                    "Dice": 0.8421052631578947, "FN": 20, "FP": 10, "IoU": 0.7272727272727273, "TN": 890, "TP": 80,
                    "n_pred": 90, "n_ref": 100
                },
                "2": {
                    "Dice": 0.8461538461538461, "FN": 10, "FP": 10, "IoU": 0.7333333333333333, "TN": 925, "TP": 55,
                    "n_pred": 65, "n_ref": 65
                }
            },
            "prediction_file": "/results/validation/case_1.nii.gz",
            "reference_file": "/data/labelsTr/case_1.nii.gz"
        }
    ]
}"""


def entry(case, **labels):
    """One case of a summary; labels as ``name=(tp, fp, fn, tn, dice, iou)``."""
    metrics = {
        name: {"Dice": dice, "FN": fn, "FP": fp, "IoU": iou, "TN": tn, "TP": tp, "n_pred": tp + fp, "n_ref": tp + fn}
        for name, (tp, fp, fn, tn, dice, iou) in labels.items()
    }
    return {
        "metrics": metrics, "prediction_file": f"/results/{case}.nii.gz", "reference_file": f"/labels/{case}.nii.gz"
    }  # fmt: skip


@pytest.fixture
def summary(tmp_path):
    """Means by hand: region (0.8 + 0.5) / 2 with one 0/0, label (0.4 + 0) / 2 with one 0/0."""
    region = "(1, 2, 3)"
    cases = [
        entry("case_1", **{region: (40, 10, 10, 940, 0.8, 2 / 3), "2": (10, 20, 10, 960, 0.4, 0.25)}),
        entry("case_2", **{region: (20, 40, 0, 940, 0.5, 1 / 3), "2": (0, 0, 0, 1000, math.nan, math.nan)}),
        entry("case_3", **{region: (0, 0, 0, 1000, math.nan, math.nan), "2": (0, 5, 0, 995, 0.0, 0.0)}),
    ]
    mean = {
        region: {
            "Dice": 0.65, "FN": 10 / 3, "FP": 50 / 3, "IoU": 0.5, "TN": 960.0, "TP": 20.0, "n_pred": 110 / 3,
            "n_ref": 70 / 3,
        },
        "2": {
            "Dice": 0.2, "FN": 10 / 3, "FP": 25 / 3, "IoU": 0.125, "TN": 985.0, "TP": 10 / 3, "n_pred": 35 / 3,
            "n_ref": 20 / 3,
        },
    }  # fmt: skip
    overall = {name: (mean[region][name] + mean["2"][name]) / 2 for name in mean["2"]}
    path = tmp_path / "summary.json"
    content = {"foreground_mean": overall, "mean": mean, "metric_per_case": cases}
    path.write_text(json.dumps(content, indent=4), encoding="utf-8")
    return path


def assert_same(first, second):
    """Nested dicts and lists that agree to 1e-12, NaN equal to NaN."""
    assert type(first) is type(second) or {type(first), type(second)} == {int, float}
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        for name in first:
            assert_same(first[name], second[name])
    elif isinstance(first, list):
        assert len(first) == len(second)
        for a, b in zip(first, second, strict=True):
            assert_same(a, b)
    else:
        assert first == (pytest.approx(second, abs=1e-12, nan_ok=True) if not isinstance(second, str) else second)


def values(table, metric):
    own = table[table["metric"] == metric]
    return dict(zip(zip(own["case_id"], own["structure"], strict=True), own["value"], strict=True))


def test_nnunet_summary_becomes_rows_per_case_structure_and_metric(summary):
    table = read_nnunet_summary(summary, structures={"(1, 2, 3)": "kidney_and_mass", "2": "tumor"})
    assert list(table.columns) == list(MASK_COLUMNS)
    assert len(table) == 3 * 2 * 6
    dice = values(table, "dice")
    assert dice["case_1", "kidney_and_mass"] == 0.8
    assert math.isnan(dice["case_2", "tumor"])
    assert values(table, "fp_voxels")["case_3", "tumor"] == 5
    assert set(table["convention"]) == {"nnunet"}


def test_own_means_equal_those_of_nnunet(summary):
    overlap = summarise_overlap(read_nnunet_summary(summary), n_boot=50)
    means = overlap.set_index(["structure", "metric"])["mean"]
    for label, expected in json.loads(summary.read_text(encoding="utf-8"))["mean"].items():
        assert means[label, "dice"] == pytest.approx(expected["Dice"], abs=1e-12)
        assert means[label, "iou"] == pytest.approx(expected["IoU"], abs=1e-12)


def test_nnunet_round_trip_gives_back_the_file(summary, tmp_path):
    names = {"(1, 2, 3)": "kidney_and_mass", "2": "tumor"}
    write_nnunet_summary(read_nnunet_summary(summary, structures=names), tmp_path / "again.json", structures=names)
    assert_same(
        json.loads((tmp_path / "again.json").read_text(encoding="utf-8")),
        json.loads(summary.read_text(encoding="utf-8")),
    )


def test_nnunet_round_trip_gives_back_the_table(summary, tmp_path):
    table = read_nnunet_summary(summary)
    write_nnunet_summary(table, tmp_path / "again.json")
    pd.testing.assert_frame_equal(read_nnunet_summary(tmp_path / "again.json"), table, rtol=0, atol=1e-12)


def test_written_by_hand_summary_text_is_read_as_it_stands(tmp_path):
    path = tmp_path / "summary.json"
    path.write_text(NNUNET, encoding="utf-8")
    table = read_nnunet_summary(path, patients={"case_1": "patient 7"}, split="validation")
    assert values(table, "dice")["case_1", "(1, 2, 3)"] == pytest.approx(160 / 190, abs=1e-15)
    assert values(table, "tp_voxels") == {("case_1", "(1, 2, 3)"): 80, ("case_1", "2"): 55}
    assert set(table["patient_id"]) == {"patient 7"}
    assert set(table["split"]) == {"validation"}
    write_nnunet_summary(table, tmp_path / "again.json")
    assert_same(json.loads((tmp_path / "again.json").read_text(encoding="utf-8")), json.loads(NNUNET))


def test_foreground_mean_is_undefined_when_a_label_never_occurs(tmp_path):
    rows = [("a", "a", "", "test", s, "", "", m, v, "kits") for s, tp in (("1", 5), ("2", 0)) for m, v in
            (("tp_voxels", tp), ("fp_voxels", 0), ("fn_voxels", 0), ("tn_voxels", 90), ("dice", 1.0))]  # fmt: skip
    write_nnunet_summary(
        pd.DataFrame(rows, columns=list(MASK_COLUMNS)), tmp_path / "s.json", prediction_folder="pred",
        reference_folder="ref",
    )  # fmt: skip
    content = json.loads((tmp_path / "s.json").read_text(encoding="utf-8"))
    # The table says 1 for two empty masks (KiTS); nnU-Net's file says undefined.
    assert math.isnan(content["mean"]["2"]["Dice"])
    assert math.isnan(content["foreground_mean"]["Dice"])
    assert content["mean"]["1"]["Dice"] == 1.0
    assert content["metric_per_case"][0]["prediction_file"] == "pred/a.nii.gz"


def test_files_that_are_no_summary_are_refused(tmp_path, summary):
    path = tmp_path / "x.json"
    for text, reason in (("{", "JSON"), ('{"results": {"all": []}}', "version 2"), ("[]", "version 2")):
        path.write_text(text)
        with pytest.raises(InputError, match=reason):
            read_nnunet_summary(path)
    with pytest.raises(InputError, match="region"):
        read_nnunet_summary(summary, structures={"(1, 2)": "mass"})
    path.write_text(summary.read_text(encoding="utf-8").replace('"n_ref": 50', '"n_ref": 51'))
    with pytest.raises(InputError, match="n_ref"):
        read_nnunet_summary(path)


def test_summary_needs_whole_counts_of_one_split(summary, tmp_path):
    table = read_nnunet_summary(summary)
    with pytest.raises(InputError, match="Counts"):
        write_nnunet_summary(table[table["metric"] != "tn_voxels"], tmp_path / "x.json")
    mixed = pd.concat([table, table.assign(split="train")])
    with pytest.raises(InputError, match="splits"):
        write_nnunet_summary(mixed, tmp_path / "x.json")


KITS = """caseID,Dice_kidney,Dice_masses,Dice_tumor,SD_kidney,SD_masses,SD_tumor
case_00000,0.97123456,0.88000000,0.91000000,0.95000000,0.77000000,0.71000000
case_00012,0.96500000,1.00000000,0.00000000,0.94000000,1.00000000,0.00000000
average,0.96811728,0.94000000,0.45500000,0.94500000,0.88500000,0.35500000"""


@pytest.fixture
def evaluation(tmp_path):
    path = tmp_path / "evaluation.csv"
    path.write_text(KITS, encoding="utf-8")
    return path


def test_kits_file_becomes_rows_without_its_average(evaluation):
    table = read_kits_csv(evaluation)
    assert list(table.columns) == list(MASK_COLUMNS)
    assert len(table) == 2 * 6
    assert values(table, "dice")["case_00000", "kidney_and_mass"] == 0.97123456
    assert values(table, "surface_dice")["case_00012", "mass"] == 1.0
    assert set(table["case_id"]) == {"case_00000", "case_00012"}


def test_kits_round_trip_gives_back_values_and_averages(evaluation, tmp_path):
    table = read_kits_csv(evaluation)
    write_kits_csv(table, tmp_path / "again.csv")
    lines = (tmp_path / "again.csv").read_text(encoding="utf-8").splitlines()
    for ours, theirs in zip(lines, KITS.splitlines(), strict=True):
        assert ours.split(",")[0] == theirs.split(",")[0]
        if not ours.startswith("caseID"):
            numbers = [np.array(line.split(",")[1:], dtype=float) for line in (ours, theirs)]
            assert numbers[0] == pytest.approx(numbers[1], abs=1e-12)
    assert lines[0] == KITS.splitlines()[0]
    pd.testing.assert_frame_equal(read_kits_csv(tmp_path / "again.csv"), table, rtol=0, atol=0)


def test_all_digits_survive_kits_round_trip(tmp_path, evaluation):
    table = read_kits_csv(evaluation)
    table["value"] = np.random.default_rng(0).random(len(table))
    write_kits_csv(table, tmp_path / "x.csv")
    assert list(read_kits_csv(tmp_path / "x.csv")["value"]) == list(table["value"])


def kits_rows(dice, surface, tp, fp, fn):
    rows = []
    for structure in ("kidney_and_mass", "mass", "tumor"):
        for metric, value in (
            ("dice", dice), ("surface_dice", surface), ("tp_voxels", tp), ("fp_voxels", fp), ("fn_voxels", fn),
        ):  # fmt: skip
            rows.append(("case", "p", "", "test", structure, "", "", metric, value, "nnunet"))
    return pd.DataFrame(rows, columns=list(MASK_COLUMNS))


@pytest.mark.parametrize(("fp", "fn", "expected"), [(0, 0, 1.0), (7, 0, 0.0), (0, 7, 0.0)])
def test_empty_masks_are_scored_as_kits_does(tmp_path, fp, fn, expected):
    write_kits_csv(kits_rows(np.nan, np.nan, 0, fp, fn), tmp_path / "x.csv")
    assert set(read_kits_csv(tmp_path / "x.csv")["value"]) == {expected}


def test_undefined_value_of_filled_masks_is_refused(tmp_path):
    with pytest.raises(InputError, match="surface_dice"):
        write_kits_csv(kits_rows(0.5, np.nan, 5, 5, 5), tmp_path / "x.csv")


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [("SD_tumor", "SD_tumour", "header"), ("0.88000000", "1.2", "0 to 1"), ("0.88000000", "", "0 to 1"),
     ("case_00012", "case_00000", "one row")],
)  # fmt: skip
def test_files_that_kits_would_not_write_are_refused(tmp_path, old, new, reason):
    path = tmp_path / "x.csv"
    path.write_text(KITS.replace(old, new, 1))
    with pytest.raises(InputError, match=reason):
        read_kits_csv(path)
