from __future__ import annotations

import zipfile

import numpy as np
import pytest
import SimpleITK as sitk

from hybrid import GeometryError, InputError
from hybrid.images import (
    align_mask,
    compare_geometry,
    from_array,
    index_to_point,
    labels_in,
    read_image,
    read_mask,
    resample_to_spacing,
    to_array,
    write_image,
)


@pytest.fixture
def oblique() -> sitk.Image:
    image = sitk.GetImageFromArray(np.arange(6 * 5 * 4, dtype=np.float32).reshape(6, 5, 4))
    transform = sitk.Euler3DTransform((0, 0, 0), 0.3, -0.2, 0.5)
    image.SetDirection(transform.GetMatrix())
    image.SetSpacing((0.7, 0.9, 3.0))
    image.SetOrigin((-10.0, 20.0, 5.0))
    return image


def test_index_to_point_agrees_with_simpleitk_on_oblique_grids(oblique):
    points = index_to_point(oblique, np.array([[1, 2, 3], [0, 0, 5]]))
    expected = [oblique.TransformIndexToPhysicalPoint(index) for index in ((1, 2, 3), (0, 0, 5))]
    np.testing.assert_allclose(points, expected)


def test_written_image_reads_back_with_geometry(oblique, tmp_path):
    path = write_image(oblique, tmp_path / "sub" / "x.nii.gz")
    again = read_image(path)
    np.testing.assert_array_equal(to_array(again), to_array(oblique))
    assert compare_geometry(oblique, again).verdict == "equal"
    assert [item.name for item in path.parent.iterdir()] == ["x.nii.gz"]


def test_array_of_the_wrong_shape_is_refused(oblique):
    with pytest.raises(GeometryError, match=r"\(6, 5, 4\)"):
        from_array(np.zeros((4, 5, 6)), oblique)


def test_resampling_keeps_the_centre_of_the_field_of_view(oblique):
    resampled = resample_to_spacing(oblique, (1.0, 1.0, 1.0))
    centres = [
        image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()])
        for image in (oblique, resampled)
    ]
    np.testing.assert_allclose(*centres, atol=1e-9)
    assert resampled.GetSize() == (3, 5, 18)


def test_aligned_mask_covers_the_same_physical_region(oblique):
    mask = sitk.Cast(oblique > 60, sitk.sitkUInt8)
    aligned, report = align_mask(oblique, mask[0:4, 0:5, 2:6])
    assert report.verdict == "resample"
    np.testing.assert_array_equal(to_array(aligned), to_array(mask))


def test_flipped_mask_header_is_resampled_into_place_not_ignored(oblique):
    mask = sitk.Cast(oblique > 60, sitk.sitkUInt8)
    flipped = sitk.Flip(mask, (False, False, True))
    aligned, report = align_mask(oblique, flipped)
    assert report.verdict == "resample"
    np.testing.assert_array_equal(to_array(aligned), to_array(mask))


def test_labels_are_counted(oblique):
    assert labels_in(sitk.Cast(oblique > 60, sitk.sitkUInt8)) == {1: 59}


def test_probability_map_is_not_a_mask(oblique, tmp_path):
    path = write_image(oblique / 100, tmp_path / "p.nii.gz")
    with pytest.raises(InputError, match=r"p\.nii\.gz.*whole numbers"):
        read_mask(path, case_id="a")


def test_dicom_series_with_a_missing_slice_is_refused(benchmarks, tmp_path):
    with zipfile.ZipFile(benchmarks / "totalsegmentator" / "example_ct_dicom.zip") as archive:
        archive.extractall(tmp_path)
    files = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    folder = files[0].parent
    image = read_image(folder)
    assert image.GetSize()[2] == len(files)
    files[len(files) // 2].unlink()
    with pytest.raises(InputError, match="doubled or missing"):
        read_image(folder, case_id="a")
