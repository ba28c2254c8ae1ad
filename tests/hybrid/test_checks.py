"""Every problem that ``Cohort.check`` names, each with a real file on disk."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk

from hybrid import Case, Cohort


@pytest.fixture
def check(write_scan, tmp_path):
    """Check a cohort of one sound case and one altered by the test; return the rows of the altered one."""

    def run(alter=None, **columns):
        good_image, good_mask = write_scan("good", seed=1)
        image, mask = write_scan("bad", seed=2)
        if alter is not None:
            alter(image, mask)
        bad = Case("bad", "p2", **{"image": image, "mask": mask, "outcome": 1} | columns)
        table = Cohort([Case("good", "p1", good_image, good_mask, outcome=0), bad]).check()
        assert "good" not in set(table["case_id"])
        return table

    return run


def rewrite(path, change):
    image = sitk.ReadImage(str(path))
    array = sitk.GetArrayFromImage(image)
    result = change(array)
    new = sitk.GetImageFromArray(result)
    if result.shape == array.shape:
        new.CopyInformation(image)
    sitk.WriteImage(new, str(path))


def only(table: pd.DataFrame) -> pd.Series:
    assert len(table) == 1, table.to_string()
    return table.iloc[0]


def test_sound_cohort_gives_an_empty_table(check):
    table = check()
    assert table.empty
    assert list(table.columns) == ["case_id", "severity", "problem", "advice"]


def test_missing_file(check):
    row = only(check(lambda image, mask: image.unlink()))
    assert row.severity == "error"
    assert "does not exist" in row.problem
    assert "bad_image.nii.gz" in row.problem


def test_unreadable_image(check):
    row = only(check(lambda image, mask: image.write_bytes(b"not an image")))
    assert "cannot be read" in row.problem


def test_truncated_image(check):
    row = only(check(lambda image, mask: image.write_bytes(image.read_bytes()[:2000])))
    assert row.severity == "error"


def test_two_dimensional_image(check):
    row = only(check(lambda image, mask: sitk.WriteImage(sitk.Image(9, 9, sitk.sitkFloat32), str(image))))
    assert "3D" in row.problem


def test_empty_mask(check):
    row = only(check(lambda image, mask: rewrite(mask, lambda array: array * 0)))
    assert "empty" in row.problem


def test_one_voxel_mask(check):
    def alter(image, mask):
        rewrite(mask, lambda array: np.where(np.indices(array.shape).sum(axis=0) == 0, 1, 0).astype(np.uint8))

    assert "one voxel" in only(check(alter)).problem


def test_one_slice_mask_is_a_warning(check):
    def alter(image, mask):
        rewrite(mask, lambda array: array * (np.arange(len(array)) == 7)[:, None, None].astype(np.uint8))

    row = only(check(alter))
    assert row.severity == "warning"
    assert "one slice" in row.problem


def test_absent_label(check):
    row = only(check(roi_label=3))
    assert "Label 3 is not in the mask; found 1" in row.problem


def test_nan_and_infinite_voxels(check):
    def alter(image, mask):
        def change(array):
            array[0, 0, 0], array[1, 1, 1] = np.nan, np.inf
            return array

        rewrite(image, change)

    assert only(check(alter)).problem.startswith("2 voxels are NaN or infinite")


def test_mask_with_fractions_is_not_a_mask(check):
    row = only(check(lambda image, mask: rewrite(mask, lambda array: array.astype(np.float32) * 0.5)))
    assert "whole numbers" in row.problem


def test_header_noise_below_a_hundredth_of_a_millimetre_is_no_problem(check):
    def alter(image, mask):
        moved = sitk.ReadImage(str(mask))
        moved.SetOrigin([value + 0.004 for value in moved.GetOrigin()])
        sitk.WriteImage(moved, str(mask))

    assert check(alter).empty


def test_mask_on_a_smaller_grid_inside_the_image_is_resampled(check):
    def alter(image, mask):
        sitk.WriteImage(sitk.ReadImage(str(mask))[3:16, 3:16, 3:16], str(mask))

    row = only(check(alter))
    assert row.severity == "warning"
    assert "different grids" in row.problem


def test_mask_of_another_scan_is_refused(check):
    def alter(image, mask):
        moved = sitk.ReadImage(str(mask))
        moved.SetOrigin((300.0, 0.0, 0.0))
        sitk.WriteImage(moved, str(mask))

    row = only(check(alter))
    assert row.severity == "error"
    assert "do not belong together" in row.problem
    assert "mm" in row.problem


def test_duplicate_ids(write_scan):
    first, second = write_scan("a", seed=1), write_scan("b", seed=2)
    table = Cohort([Case("x", "p1", *first, outcome=0), Case("x", "p2", *second, outcome=1)]).check()
    assert "stands in 2 rows" in only(table).problem


def test_patient_with_two_outcomes(write_scan):
    first, second = write_scan("a", seed=1), write_scan("b", seed=2)
    table = Cohort([Case("a", "p", *first, outcome=0), Case("b", "p", *second, outcome=1)]).check()
    assert "two outcomes" in only(table).problem


def test_outcome_with_one_class(write_scan):
    first, second = write_scan("a", seed=1), write_scan("b", seed=2)
    table = Cohort([Case("a", "p", *first, outcome=1), Case("b", "q", *second, outcome=1)]).check()
    assert "Every case has the outcome 1" in only(table).problem


def test_identical_voxels_under_two_patients(write_scan):
    first, second = write_scan("a", seed=1), write_scan("b", seed=1)
    table = Cohort([Case("a", "p", *first, outcome=0), Case("b", "q", *second, outcome=1)]).check()
    row = only(table)
    assert row.case_id == "b"
    assert "equal those of case a" in row.problem


def test_two_lesions_of_one_scan_are_no_duplicate(write_scan):
    image, mask = write_scan("a")
    _, other = write_scan("b", cube=5)
    cases = [Case("a", "p", image, mask, outcome=1), Case("b", "p", image, other, outcome=1)]
    good = write_scan("c", seed=5)
    assert Cohort([*cases, Case("c", "q", *good, outcome=0)]).check().empty


def test_missing_outcome_is_a_warning(write_scan):
    scans = {name: write_scan(name, seed=i) for i, name in enumerate("abc")}
    outcomes = {"a": 0, "b": 1, "c": None}
    table = Cohort(Case(name, "", *scan, outcome=outcomes[name]) for name, scan in scans.items()).check()
    assert only(table).severity == "warning"


def test_real_mask_edge_cases_are_named(benchmarks):
    folder = benchmarks / "prostate" / "autorad_nifti"
    names = ("seg_one_label", "seg_empty", "seg_single_slice", "seg_two_labels")
    cases = [Case(name, "p", folder / "img.nii.gz", folder / f"{name}.nii.gz") for name in names]
    table = Cohort(cases).check().set_index("case_id")["problem"]
    assert "empty" in table["seg_empty"]
    assert "one slice" in table["seg_single_slice"]
    assert "seg_one_label" not in table
    assert "seg_two_labels" not in table
