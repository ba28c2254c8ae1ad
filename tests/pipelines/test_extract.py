from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk

from hybrid import Case, Cohort, InputError
from hybrid.pipelines import extract_features, read_features

SMALL = {"setting": {"binWidth": 25}, "imageType": {"Original": {}}, "featureClass": {"firstorder": [], "shape": []}}


@pytest.fixture
def cohort(write_scan):
    return Cohort(Case(f"c{i}", "", *write_scan(f"c{i}", seed=i), outcome=i % 2) for i in range(3))


def test_two_processes_give_the_same_table_as_one(cohort):
    one = extract_features(cohort, handcrafted=SMALL, encoder="bundled", progress=False)
    two = extract_features(cohort, handcrafted=SMALL, encoder="bundled", n_jobs=2, progress=False)
    pd.testing.assert_frame_equal(one, two, check_exact=True)
    assert any(column.startswith("deep_") for column in one)


def test_bad_case_costs_only_itself_and_keeps_its_row(cohort, tmp_path, write_scan):
    image, mask = write_scan("bad")
    image.write_bytes(b"broken")
    table = extract_features(
        Cohort([*cohort, Case("bad", image=image, mask=mask)]), handcrafted=SMALL, out=tmp_path / "out", progress=False
    )
    assert table.index.tolist() == ["c0", "c1", "c2", "bad"]
    assert table.loc["bad"].isna().all()
    assert table.drop("bad").notna().all(axis=None)
    failures = pd.read_csv(tmp_path / "out" / "failures.csv")
    assert failures["case_id"].tolist() == ["bad"]
    assert "bad_image.nii.gz" in failures["message"][0]


def test_repaired_case_is_picked_up_by_the_next_run(cohort, tmp_path, write_scan):
    image, mask = write_scan("bad", seed=9)
    content = image.read_bytes()
    image.write_bytes(b"broken")
    everyone = Cohort([*cohort, Case("bad", image=image, mask=mask)])
    extract_features(everyone, handcrafted=SMALL, out=tmp_path / "out", progress=False)
    image.write_bytes(content)
    repaired = extract_features(everyone, handcrafted=SMALL, out=tmp_path / "out", progress=False)
    pd.testing.assert_frame_equal(repaired, extract_features(everyone, handcrafted=SMALL, progress=False))
    assert not (tmp_path / "out" / "failures.csv").exists()


def test_written_table_reads_back_bit_for_bit(cohort, tmp_path):
    table = extract_features(cohort, handcrafted=SMALL, out=tmp_path, progress=False)
    pd.testing.assert_frame_equal(read_features(tmp_path / "features.csv"), table, check_exact=True)
    dictionary = pd.read_csv(tmp_path / "feature_dictionary.csv")
    assert dictionary["name"].tolist() == table.columns.tolist()


def test_every_label_of_a_mask_gets_a_row(write_scan):
    image, mask = write_scan("a")
    labels = sitk.ReadImage(str(mask))
    array = sitk.GetArrayFromImage(labels)
    array[15:19, 15:19, 15:19] = 4
    array[0, 0, 0] = 7  # one voxel: no shape or texture
    two = sitk.GetImageFromArray(array)
    two.CopyInformation(labels)
    sitk.WriteImage(two, str(mask))
    table = extract_features(Cohort([Case("a", image=image, mask=mask)]), handcrafted=SMALL, progress=False)
    assert table.index.tolist() == [("a", 1), ("a", 4), ("a", 7)]
    assert table.loc[("a", 7)].isna().all()
    assert table.loc[("a", 1), "rad_original_shape_VoxelVolume"] == 8**3 * 2
    assert table.loc[("a", 4), "rad_original_shape_VoxelVolume"] == 4**3 * 2
    assert "Region 7" in table.attrs["failures"][0]["message"]


def test_chosen_label_gives_one_row(write_scan):
    image, mask = write_scan("a", label=3)
    table = extract_features(
        Cohort([Case("a", image=image, mask=mask, roi_label=3)]), handcrafted=SMALL, progress=False
    )
    assert table.index.tolist() == ["a"]


def test_several_images_stand_in_the_column_names(write_scan):
    ct, pet = write_scan("ct", seed=1), write_scan("pet", seed=2, spacing=(4.0, 4.0, 4.0))
    case = Case("a", image={"ct": ct[0], "pet": pet[0]}, mask={"ct": ct[1], "pet": pet[1]})
    table = extract_features(Cohort([case]), handcrafted={"ct": SMALL, "pet": SMALL}, progress=False)
    assert table["rad_ct_original_shape_VoxelVolume"].iloc[0] == 1024
    assert table["rad_pet_original_shape_VoxelVolume"].iloc[0] == 512 * 64


def test_scale_is_applied_before_binning(write_scan):
    image, mask = write_scan("a")
    cohort = Cohort([Case("a", image=image, mask=mask)])
    plain = extract_features(cohort, handcrafted=SMALL, progress=False)
    scaled = extract_features(cohort, handcrafted=SMALL, scale=0.001, progress=False)
    name = "rad_original_firstorder_Mean"
    np.testing.assert_allclose(scaled[name], plain[name] * 0.001, rtol=1e-6)
    assert scaled["rad_original_firstorder_Entropy"].iloc[0] < plain["rad_original_firstorder_Entropy"].iloc[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"handcrafted": "cct"}, "'ct'"),
        ({"handcrafted": SMALL, "scale": {"pett": 1.0}}, "no case has: 'pett'"),
        ({"handcrafted": {**SMALL, "setting": {"binWidht": 25}}}, "binWidth"),
        ({"encoder": "bundeld"}, "bundled"),
        ({}, "Nothing to extract"),
    ],
)
def test_misspelt_settings_are_refused_before_any_image_is_read(arguments, message):
    cohort = Cohort([Case("a", image="nowhere.nii.gz", mask="nowhere_mask.nii.gz")])
    with pytest.raises(InputError, match=message):
        extract_features(cohort, progress=False, **arguments)


def test_mask_on_another_grid_gives_the_values_of_the_resampled_mask(write_scan):
    image, mask = write_scan("a")
    whole = extract_features(Cohort([Case("a", image=image, mask=mask)]), handcrafted=SMALL, progress=False)
    sitk.WriteImage(sitk.ReadImage(str(mask))[2:18, 2:18, 2:18], str(mask))
    cropped = extract_features(Cohort([Case("a", image=image, mask=mask)]), handcrafted=SMALL, progress=False)
    pd.testing.assert_frame_equal(whole, cropped, check_exact=True)
