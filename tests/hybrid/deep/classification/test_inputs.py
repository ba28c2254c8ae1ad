import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from hybrid.deep.classification.inputs import (
    CT_WINDOWS,
    SliceInput,
    VolumeInput,
    input_from_dict,
    luma,
    read_slice,
    robust_limits,
    scaled,
    window,
)
from hybrid.errors import InputError

from .conftest import blob, write_dicom, write_volume

RAMP = np.arange(20 * 24, dtype=np.uint16).reshape(20, 24)
SMALL = SliceInput((20, 24), "display")


def image_of(values, spacing=(1.0, 1.0, 1.0)):
    image = sitk.GetImageFromArray(values)
    image.SetSpacing(spacing[::-1])
    return image


# Volumes


@pytest.mark.parametrize(("factor", "shift"), [(0.01, 0.0), (37.0, -1024.0), (1.0, 500.0)])
def test_units_do_not_change_a_robust_volume(factor, shift):
    values, one = blob(0, 4), VolumeInput((12, 12, 12))
    other = one.prepare(image_of((values * factor + shift).astype(np.float32)))
    np.testing.assert_allclose(other, one.prepare(image_of(values)), atol=2e-4)


@pytest.mark.parametrize("letters", ["RAS", "LPS", "PIR", "ASL"])
def test_stored_orientation_does_not_change_a_volume(letters):
    image = image_of(blob(1, 4, (10, 14, 18)), (2.0, 1.0, 0.5))
    turned = sitk.DICOMOrient(image, letters)
    one = VolumeInput((10, 12, 8))
    np.testing.assert_allclose(one.prepare(turned), one.prepare(image), atol=1e-5)


def test_volumes_of_any_size_have_one_shape():
    one = VolumeInput((9, 10, 11))
    for shape in ((5, 40, 30), (64, 9, 9), (2, 2, 2)):
        assert one.prepare(image_of(blob(0, 2, shape))).shape == one.shape == (1, 9, 10, 11)


def test_a_window_maps_its_edges_to_minus_one_and_one():
    values = np.array([-1000.0, 0.0, 40.0, 80.0, 3000.0], np.float32)
    np.testing.assert_array_equal(window(values, *CT_WINDOWS["brain"]), [-1, -1, 0, 1, 1])


def test_ct_volume_has_a_channel_for_each_window():
    one = VolumeInput((8, 8, 8), "ct", (CT_WINDOWS["lung"], CT_WINDOWS["bone"]))
    prepared = one.prepare(image_of(np.full((8, 8, 8), -600, np.int16)))
    assert prepared.shape == one.shape
    np.testing.assert_allclose(prepared[0], 0, atol=1e-6)
    np.testing.assert_allclose(prepared[1], (-600 - 600) / 1400)


def test_padding_keeps_the_proportions_in_mm():
    one = VolumeInput((16, 16, 16), "ct", ((0.0, 100.0),), fit="pad")
    # 8 slices of 4 mm are as long as 32 rows of 1 mm; 16 columns of 1 mm are half as wide.
    prepared = one.prepare(image_of(np.full((8, 32, 16), 1000, np.int16), (4.0, 1.0, 1.0)))[0]
    assert (prepared[:, :, 4:12] == 1).all()
    assert (prepared[:, :, :4] == -1).all()
    assert (prepared[:, :, 12:] == -1).all()


def test_geometry_channels_hold_the_voxel_size():
    one = VolumeInput((8, 8, 8), geometry=True)
    prepared = one.prepare(image_of(blob(0, 4), (4.0, 1.0, 0.5)))
    assert prepared.shape == one.shape == (4, 8, 8, 8)
    # 16 voxels become 8: the voxel size doubles.
    np.testing.assert_allclose(prepared[1:, 0, 0, 0], np.log2([8, 2, 1]) / 2)
    assert one.constant_channels == 3


def test_percentiles_of_the_voxels_above_the_minimum_map_to_minus_one_and_one():
    values = np.concatenate([np.zeros(1000), np.arange(1, 1002)])
    # NumPy's linear percentiles of 1..1001: 0.5 % is 6, 99.5 % is 996.
    assert robust_limits(values) == (6, 996)
    np.testing.assert_allclose(scaled(np.array([0.0, 6, 501, 996, 2000]), 6, 996), [-1, -1, 0, 1, 1], atol=1e-6)


def test_two_values_stay_two_values():
    values = np.zeros((9, 9, 9), np.int16)
    values[4:] = 30
    assert set(np.unique(VolumeInput((9, 9, 9)).prepare(image_of(values)))) == {-1, 1}


def test_constant_background_does_not_count_after_resampling():
    values = np.full((30, 30, 30), -1024.3, np.float32)
    values[10:20, 10:20, 10:20] = blob(0, 3, (10, 10, 10)) * 100 + 500
    one = VolumeInput((13, 13, 13))
    np.testing.assert_allclose(one.prepare(image_of(values * 0.1 + 3)), one.prepare(image_of(values)), atol=1e-3)
    assert one.prepare(image_of(values))[0, 6, 6, 6] < 0.99


# Slices of CT


@pytest.fixture
def scan(tmp_path):
    """One scan as NIfTI (axes right, anterior, superior) and as a DICOM series (left, posterior, superior)."""
    rng = np.random.default_rng(3)
    hu = rng.integers(-1000, 1500, (4, 10, 12)).astype(np.int16)
    folder = tmp_path / "series"
    folder.mkdir()
    for number, plane in enumerate(hu):
        write_dicom(folder / f"{9 - number}.dcm", plane + 1024, slope=1, intercept=-1024, z=number, number=number + 1)
    nifti = tmp_path / "scan.nii.gz"
    sitk.WriteImage(sitk.DICOMOrient(image_of(hu), "RAS"), str(nifti))
    return folder, nifti, hu


@pytest.mark.parametrize("number", [0, 3])
def test_nifti_and_dicom_series_give_the_same_slice(scan, number):
    folder, nifti, hu = scan
    one = SliceInput((10, 12))
    expected = np.stack([window(hu[number].astype(np.float32), *pair) for pair in one.windows])
    np.testing.assert_allclose(one.read(folder, number), expected, atol=1e-6)
    np.testing.assert_allclose(one.read(nifti, number), expected, atol=1e-6)


def test_a_single_dicom_file_needs_no_slice(scan):
    folder, _, hu = scan
    one = SliceInput((10, 12))
    np.testing.assert_array_equal(one.read(folder / "9.dcm"), one.prepare(image_of(hu), 0))


def test_slices_are_counted_from_zero_and_must_be_named(scan):
    with pytest.raises(InputError, match="holds 4 slices"):
        SliceInput().read(scan[1], case_id="a")
    with pytest.raises(InputError, match="from 0 to 3; found 4") as caught:
        SliceInput().read(scan[1], 4, case_id="a")
    assert caught.value.case_id == "a"


def test_rescale_that_the_file_lacks_can_be_said(tmp_path):
    whole = write_dicom(tmp_path / "whole.dcm", RAMP + 900, slope=1, intercept=-1024)
    bare = write_dicom(tmp_path / "bare.dcm", RAMP + 900)
    said = SliceInput((20, 24), rescale=(1, -1024))
    np.testing.assert_array_equal(said.read(bare), said.read(whole))
    with pytest.raises(InputError, match=r"no rescale intercept.*rescale=\(1, -1024\)"):
        SliceInput((20, 24)).read(bare)


def test_absent_slope_is_one(tmp_path):
    both = write_dicom(tmp_path / "both.dcm", RAMP + 900, slope=1, intercept=-1024)
    only = write_dicom(tmp_path / "only.dcm", RAMP + 900, intercept=-1024)
    np.testing.assert_array_equal(SliceInput((20, 24)).read(only), SliceInput((20, 24)).read(both))


def test_inverted_display_does_not_change_hu(tmp_path):
    plain = write_dicom(tmp_path / "m2.dcm", RAMP + 900, slope=1, intercept=-1024)
    inverted = write_dicom(tmp_path / "m1.dcm", RAMP + 900, slope=1, intercept=-1024, photometric="MONOCHROME1")
    np.testing.assert_array_equal(SliceInput((20, 24)).read(inverted), SliceInput((20, 24)).read(plain))


def test_ct_windows_refuse_what_has_no_hu(tmp_path):
    mr = write_dicom(tmp_path / "mr.dcm", RAMP, modality="MR")
    with pytest.raises(InputError, match="modality is MR"):
        SliceInput().read(mr)
    Image.fromarray(RAMP.astype(np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="not HU"):
        SliceInput().read(tmp_path / "a.png")


# Radiographs and photographs


def test_monochrome1_is_inverted(tmp_path):
    plain = write_dicom(tmp_path / "m2.dcm", RAMP, modality="DX")
    inverted = write_dicom(tmp_path / "m1.dcm", 4095 - RAMP, modality="DX", photometric="MONOCHROME1")
    np.testing.assert_allclose(SMALL.read(inverted), SMALL.read(plain), atol=1e-6)
    np.testing.assert_allclose(SMALL.read(plain)[0], RAMP / 4095 * 2 - 1, atol=1e-6)


@pytest.mark.parametrize(("kind", "largest"), [(np.uint8, 255), (np.uint16, 65535)])
def test_png_spans_the_range_of_its_bits(tmp_path, kind, largest):
    values = (RAMP * (largest // RAMP.max())).astype(kind) if kind is np.uint16 else (RAMP // 2).astype(kind)
    Image.fromarray(values).save(tmp_path / "a.png")
    np.testing.assert_allclose(SMALL.read(tmp_path / "a.png")[0], values / largest * 2 - 1, atol=1e-6)


def test_grey_saved_in_other_modes_is_the_same_image(tmp_path):
    grey = (RAMP // 2).astype(np.uint8)
    Image.fromarray(grey).save(tmp_path / "L.png")
    expected = SMALL.read(tmp_path / "L.png")
    for mode in ("RGB", "RGBA", "LA", "P"):
        Image.fromarray(grey).convert(mode).save(tmp_path / f"{mode}.png")
        np.testing.assert_allclose(SMALL.read(tmp_path / f"{mode}.png"), expected, atol=1e-6, err_msg=mode)
    Image.fromarray(grey).save(tmp_path / "a.jpg", quality=100)
    np.testing.assert_allclose(SMALL.read(tmp_path / "a.jpg"), expected, atol=0.03)


def test_transparency_lies_over_black(tmp_path):
    values = np.full((20, 24, 4), 200, np.uint8)
    values[:10, :, 3] = 0
    values[10:, :, 3] = 255
    Image.fromarray(values, "RGBA").save(tmp_path / "a.png")
    prepared = SMALL.read(tmp_path / "a.png")[0]
    np.testing.assert_allclose(prepared[:10], -1)
    np.testing.assert_allclose(prepared[10:], 200 / 255 * 2 - 1, atol=1e-6)


def test_luma_agrees_with_pillow():
    values = np.random.default_rng(0).integers(0, 256, (20, 24, 3)).astype(np.uint8)
    ours = luma(values.astype(np.float32).transpose(2, 0, 1))[0]
    np.testing.assert_allclose(ours, np.asarray(Image.fromarray(values).convert("L")), atol=0.51)


def test_colours_are_three_channels_and_grey_fills_them(tmp_path):
    values = np.zeros((20, 24, 3), np.uint8)
    values[..., 0] = 255
    Image.fromarray(values).save(tmp_path / "red.png")
    Image.fromarray(values[..., 0]).save(tmp_path / "grey.png")
    one = SliceInput((20, 24), "display", colour=True)
    np.testing.assert_array_equal(one.read(tmp_path / "red.png")[:, 0, 0], [1, -1, -1])
    np.testing.assert_array_equal(one.read(tmp_path / "grey.png")[:, 0, 0], [1, 1, 1])
    assert one.shape == (3, 20, 24)


def test_mixed_sizes_have_one_shape(tmp_path):
    for number, shape in enumerate([(30, 40), (400, 20), (8, 8)]):
        Image.fromarray(np.full(shape, 255, np.uint8)).save(tmp_path / f"{number}.png")
        prepared = SMALL.read(tmp_path / f"{number}.png")
        assert prepared.shape == SMALL.shape
        # Padding keeps the share of rows to columns.
        rows, columns = (prepared[0] == 1).any(axis=1).sum(), (prepared[0] == 1).any(axis=0).sum()
        scale = min(20 / shape[0], 24 / shape[1])
        assert abs(rows - shape[0] * scale) <= 0.5
        assert abs(columns - max(1, shape[1] * scale)) <= 0.5


@pytest.mark.parametrize("factor", [1, 100])
def test_units_do_not_change_a_robust_slice(tmp_path, factor):
    Image.fromarray((RAMP // 2 * factor).astype(np.uint16)).save(tmp_path / "a.png")
    prepared = SliceInput((20, 24), "robust").read(tmp_path / "a.png")
    expected = scaled(RAMP // 2, *robust_limits(RAMP // 2))[None]
    np.testing.assert_allclose(prepared, expected, atol=1e-5)


# Bad input


def test_unreadable_files_are_named(tmp_path):
    good = tmp_path / "good.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64)).astype(np.uint8)).save(good)
    for name, content in (
        ("cut.png", good.read_bytes()[:600]), ("text.png", b"hello"), ("text.dcm", b"hello"), ("empty.nii.gz", b""),
    ):  # fmt: skip
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match="cannot be read") as caught:
            SliceInput((16, 16), "robust").read(tmp_path / name, case_id="a")
        assert caught.value.path.endswith(name)
        assert caught.value.case_id == "a"
    with pytest.raises(InputError, match="does not exist"):
        read_slice(tmp_path / "absent.png")


def test_nan_is_refused(tmp_path):
    values = blob(0, 3)
    values[3, 3, 3] = np.nan
    path = write_volume(tmp_path / "a.nii.gz", values)
    with pytest.raises(InputError, match="1 voxels are NaN"):
        VolumeInput((8, 8, 8)).read(path)
    with pytest.raises(InputError, match="1 voxels are NaN"):
        SliceInput((8, 8), "robust").read(path, 0)


def test_empty_image_is_refused():
    with pytest.raises(InputError, match="every value is 7"):
        VolumeInput((8, 8, 8)).prepare(image_of(np.full((9, 9, 9), 7, np.int16)))


def test_one_slice_is_no_volume():
    with pytest.raises(InputError, match="needs a volume; found 9 × 9 × 1"):
        VolumeInput((8, 8, 8)).prepare(image_of(np.zeros((1, 9, 9), np.int16)))


def test_display_needs_a_known_range(tmp_path):
    path = write_volume(tmp_path / "a.nii.gz", blob(0, 3))
    with pytest.raises(InputError, match="which range"):
        SMALL.read(path, 0)


@pytest.mark.parametrize(
    "one",
    [VolumeInput((9, 10, 11), "ct", ((0.0, 50.0), (1.0, 2.0)), "pad", True), SliceInput(rescale=(1.0, -1024.0)), SMALL],
)
def test_input_survives_its_dictionary(one):
    assert input_from_dict(one.to_dict()) == one


def test_nonsense_settings_are_refused():
    with pytest.raises(InputError, match="3 whole numbers"):
        VolumeInput((64, 64))
    with pytest.raises(InputError, match="Unknown intensity 'robst'"):
        VolumeInput(intensity="robst")
    with pytest.raises(InputError, match="level, width"):
        SliceInput(windows=((40.0, -80.0),))
    with pytest.raises(InputError, match="no colours"):
        SliceInput(colour=True)
    with pytest.raises(InputError, match="Unknown input setting 'sise'"):
        input_from_dict({"kind": "slice", "sise": [8, 8]})


def test_neighbouring_slices_are_further_channels_from_below_to_above(tmp_path):
    values = np.arange(4, dtype=np.int16)[:, None, None] * 10 + np.zeros((4, 16, 16), np.int16)
    path = write_volume(tmp_path / "v.nii.gz", values)
    alone, beside = SliceInput(size=(16, 16)), SliceInput(size=(16, 16), neighbours=2)
    assert beside.shape == (7, 16, 16)
    for index, wanted in ((0, (0, 0, 1, 2)), (1, (0, 0, 2, 3)), (3, (1, 2, 3, 3))):
        found = beside.read(path, index)
        assert np.array_equal(found[:3], alone.read(path, index))
        assert all(np.array_equal(found[3 + k], alone.read(path, n)[0]) for k, n in enumerate(wanted))
        assert np.array_equal(found, beside.prepare(sitk.ReadImage(str(path)), index))


def test_neighbours_of_a_single_image_are_refused(tmp_path):
    Image.fromarray(np.eye(16, dtype=np.uint8)).save(tmp_path / "one.png")
    with pytest.raises(InputError, match="holds a single one"):
        SliceInput(size=(16, 16), intensity="display", neighbours=1).read(tmp_path / "one.png", 0)


@pytest.mark.parametrize("wrong", [{"neighbours": -1}, {"neighbours": 6}])
def test_impossible_numbers_of_neighbours_are_refused(wrong):
    with pytest.raises(InputError, match="0 to 5 neighbours"):
        SliceInput(**wrong)


def test_neighbours_of_colour_images_are_refused():
    with pytest.raises(InputError, match="none with colours"):
        SliceInput(intensity="display", colour=True, neighbours=1)


def test_input_with_neighbours_is_rebuilt_from_the_model_card():
    chosen = SliceInput(neighbours=1)
    assert input_from_dict(chosen.to_dict()) == chosen
    before = {name: value for name, value in SliceInput().to_dict().items() if name != "neighbours"}
    assert input_from_dict(before) == SliceInput()


@pytest.mark.parametrize("fit", ["pad", "stretch"])
def test_a_constant_frame_is_cut_off_before_anything_else(tmp_path, fit):
    inner = np.random.default_rng(0).integers(1, 255, (24, 30), dtype=np.uint8)
    framed = np.pad(inner, ((5, 9), (0, 12)))
    for name, values in (("inner", inner), ("framed", framed)):
        Image.fromarray(values).save(tmp_path / f"{name}.png")
    chosen = SliceInput(size=(24, 24), intensity="robust", fit=fit, crop_border=True)
    found = [chosen.read(tmp_path / f"{name}.png") for name in ("inner", "framed")]
    assert np.array_equal(*found)
    plain = SliceInput(size=(24, 24), intensity="robust", fit=fit)
    assert not np.array_equal(plain.read(tmp_path / "framed.png"), found[0])
    assert input_from_dict(chosen.to_dict()) == chosen


def test_neighbours_are_cut_where_their_slice_is_cut(tmp_path):
    values = np.zeros((3, 20, 20), np.int16)
    values[0, 2:8, 2:8] = 500
    values[1, 4:16, 4:16] = np.random.default_rng(0).integers(100, 900, (12, 12))
    path = write_volume(tmp_path / "v.nii.gz", values)
    found = SliceInput(size=(12, 12), fit="stretch", neighbours=1, crop_border=True).read(path, 1)
    alone = SliceInput(size=(12, 12), fit="stretch").prepare(sitk.ReadImage(str(path))[4:16, 4:16], 0)
    assert np.array_equal(found[3], alone[0])
