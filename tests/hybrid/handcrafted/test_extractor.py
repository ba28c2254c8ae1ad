"""Features equal a direct PyRadiomics call to the last digit; a bad region costs only itself."""

from __future__ import annotations

import logging
import pickle

import numpy as np
import pytest
import SimpleITK as sitk

from hybrid.errors import GeometryError, InputError
from hybrid.handcrafted import (
    PRESETS,
    column_name,
    count_bins,
    extract_handcrafted,
    extract_regions,
    load_settings,
    scale_image,
)

PLAIN = {"featureClass": {"shape": [], "firstorder": [], "glcm": []}}

EVERY_FILTER = {
    "setting": {"binCount": 32},
    "imageType": {
        "Original": {}, "LoG": {"sigma": [0.5, 1, 2.0]}, "Wavelet": {}, "Gradient": {}, "Square": {}, "SquareRoot": {},
        "Logarithm": {}, "Exponential": {},
    },
}  # fmt: skip

VARIANTS = {
    "every filter": EVERY_FILTER,
    "two wavelet levels": {"imageType": {"Wavelet": {"wavelet": "db3", "level": 2, "start_level": 1, "binCount": 16}}},
    "resegmented": {"setting": {"resegmentRange": [-1.5, 1.5], "resegmentMode": "sigma"}, **PLAIN},
    "resegmented shape": {"setting": {"resegmentRange": [20, 90], "resegmentShape": True}, **PLAIN},
    "flat": {"setting": {"force2D": True, "binWidth": 5}, "imageType": {"Wavelet": {}}, "featureClass": {"glrlm": []}},
    "cropped first": {
        "setting": {"preCrop": True, "padDistance": 3},
        "imageType": {"Original": {}, "LoG": {"sigma": [1.0]}},
    },
    "spline": {"setting": {"resampledPixelSpacing": [1.5, 1.5, 0], "normalize": True, "removeOutliers": 2.0}},
    "named features": {"featureClass": {"glcm": ["Contrast"], "shape": None}},
    "tolerance": {"setting": {"geometryTolerance": 1e-3, "additionalInfo": True, "correctMask": True}, **PLAIN},
}


@pytest.fixture(scope="module")
def scan() -> sitk.Image:
    rng = np.random.default_rng(3)
    noise = sitk.GetImageFromArray(rng.normal(0, 1, (24, 53, 60)))
    image = sitk.Cast(sitk.DiscreteGaussian(noise, 1.0) * 150 + 50, sitk.sitkInt16)
    image.SetSpacing((0.9, 0.9, 2.5))
    image.SetOrigin((-31.7, 12.3, -88.1))
    return image


def region(scan: sitk.Image, *boxes: tuple[slice, slice, slice], labels=(1,)) -> sitk.Image:
    """Mask with one ellipsoid (label by label) inscribed in each box, given as slices (z, y, x)."""
    mask = np.zeros(scan.GetSize()[::-1], np.uint8)
    for box, label in zip(boxes, labels, strict=True):
        axes = np.meshgrid(*(np.linspace(-1, 1, part.stop - part.start) for part in box), indexing="ij")
        mask[box][sum(axis**2 for axis in axes) <= 1.2] = label
    image = sitk.GetImageFromArray(mask)
    image.CopyInformation(scan)
    return image


CENTRE = (slice(7, 17), slice(20, 38), slice(24, 40))
BORDER = (slice(0, 9), slice(38, 53), slice(2, 16))


def direct(image: sitk.Image, mask: sitk.Image, document: dict | str, label: int = 1) -> dict[str, float]:
    from radiomics.featureextractor import RadiomicsFeatureExtractor

    values = RadiomicsFeatureExtractor(document).execute(image, mask, label=label)
    return {column_name(name): float(v) for name, v in values.items() if not name.startswith("diagnostics")}


def assert_identical(found: dict[str, float], expected: dict[str, float]) -> None:
    assert list(found) == list(expected)
    np.testing.assert_array_equal(list(found.values()), list(expected.values()))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("box", [CENTRE, BORDER], ids=["centre", "border"])
def test_parameter_documents_give_the_values_of_a_direct_call(scan, variant, box):
    mask = region(scan, box)
    expected = direct(scan, mask, VARIANTS[variant])
    assert expected
    assert_identical(extract_handcrafted(scan, mask, VARIANTS[variant]), expected)


PARAMETER_FILE = """\
# A parameter file as users of PyRadiomics keep them.
imageType:
  Original: {}
  LoG:
    sigma: [1.0, 3.0]  # several sizes
  Wavelet:
    binWidth: 10
featureClass:
  shape:
  firstorder: []
  glcm:
    - 'Autocorrelation'
    - 'JointEntropy'
setting:
  normalize: true
  normalizeScale: 100
  interpolator: 'sitkBSpline'
  resampledPixelSpacing: [1.5, 1.5, 1.5]
  padDistance: 10
  binWidth: 5
  voxelArrayShift: 300
  label: 1
"""


def test_parameter_file_of_pyradiomics_works_unchanged(scan, tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(PARAMETER_FILE)
    mask = region(scan, CENTRE)
    assert_identical(extract_handcrafted(scan, mask, path), direct(scan, mask, str(path)))


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("pixel", [sitk.sitkInt16, sitk.sitkFloat32])
def test_presets_give_the_values_of_a_direct_call(scan, preset, pixel):
    image = sitk.Cast(scan, pixel)
    if preset == "pet":
        image = scale_image(image, 0.05)
    mask = region(scan, (slice(2, 22), slice(8, 48), slice(10, 50)))
    assert_identical(extract_handcrafted(image, mask, preset), direct(image, mask, PRESETS[preset]))


@pytest.mark.parametrize("case", ["brain1", "brain2", "breast1", "sts"])
@pytest.mark.parametrize("preset", PRESETS)
def test_real_cases_give_the_values_of_a_direct_call(benchmarks, case, preset):
    paths = [benchmarks / "pyradiomics" / f"{case}_{kind}.nrrd" for kind in ("image", "label")]
    if case == "sts":
        paths = [benchmarks / "sts_cohort" / "STS_008" / name for name in ("CT.nii.gz", "CT_gtv.nii.gz")]
    image, mask = (sitk.ReadImage(str(path)) for path in paths)
    image = scale_image(image, 0.01 if preset == "pet" else 1.0)
    if (case, preset) == ("breast1", "pet"):
        with pytest.raises(InputError, match=r"no voxel after resampling to \[4.0, 4.0, 4.0\] mm"):
            extract_handcrafted(image, mask, preset)
    else:
        assert_identical(extract_handcrafted(image, mask, preset), direct(image, mask, PRESETS[preset]))


def test_scale_is_applied_before_binning(scan):
    mask = region(scan, CENTRE)
    stored = sitk.Cast(scan, sitk.sitkInt16) * 10
    found = extract_handcrafted(stored, mask, PLAIN, scale=0.1)
    plain = extract_handcrafted(scan, mask, PLAIN)
    assert found["rad_original_firstorder_Mean"] == pytest.approx(plain["rad_original_firstorder_Mean"], rel=1e-12)
    assert found["rad_original_glcm_Contrast"] == plain["rad_original_glcm_Contrast"]


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_scale_must_be_above_zero(scan, scale):
    with pytest.raises(InputError, match="scale"):
        scale_image(scan, scale)


def test_image_name_is_part_of_the_columns(scan):
    found = extract_handcrafted(scan, region(scan, CENTRE), PLAIN, image_name="t1_ce")
    assert "rad_t1_ce_original_shape_MeshVolume" in found
    assert all(name.isidentifier() for name in found)
    with pytest.raises(InputError, match="t1-ce"):
        extract_handcrafted(scan, region(scan, CENTRE), PLAIN, image_name="t1-ce")


def test_every_label_gives_a_row_equal_to_that_label_alone(scan):
    both = region(scan, CENTRE, BORDER, labels=(2, 7))
    result = extract_regions(scan, both, PLAIN)
    assert [row["roi_label"] for row in result.rows] == [2, 7]
    assert result.failures == {}
    for row, box in zip(result.rows, (CENTRE, BORDER), strict=True):
        alone = extract_handcrafted(scan, region(scan, box), PLAIN)
        assert {name: value for name, value in row.items() if name != "roi_label"} == alone


def test_degenerate_label_does_not_cost_the_others(scan):
    values = sitk.GetArrayFromImage(region(scan, CENTRE, labels=(1,)))
    values[1, 1, 1] = 2
    values[3, 40:50, 40:50] = 3
    mask = sitk.GetImageFromArray(values)
    mask.CopyInformation(scan)
    result = extract_regions(scan, mask, "ct", case_id="p7")
    assert [row["roi_label"] for row in result.rows] == [1]
    assert "single voxel" in str(result.failures[2])
    assert "10 x 10 x 1" in str(result.failures[3]) or "x 1 voxels" in str(result.failures[3])
    assert all(error.case_id == "p7" for error in result.failures.values())


def test_several_labels_need_a_choice(scan):
    both = region(scan, CENTRE, BORDER, labels=(2, 7))
    with pytest.raises(InputError, match=r"labels \[2, 7\]"):
        extract_handcrafted(scan, both, PLAIN)
    assert extract_handcrafted(scan, both, PLAIN, label=7) == extract_handcrafted(scan, region(scan, BORDER), PLAIN)


def test_label_of_the_parameter_file_is_used(scan):
    both = region(scan, CENTRE, BORDER, labels=(2, 7))
    document = {"setting": {"label": 7}, **PLAIN}
    assert extract_handcrafted(scan, both, document) == extract_handcrafted(scan, both, PLAIN, label=7)
    assert [row["roi_label"] for row in extract_regions(scan, both, document).rows] == [7]


def test_absent_label_lists_those_present(scan):
    with pytest.raises(InputError, match=r"Label 5 has no voxel.*\[1\]"):
        extract_handcrafted(scan, region(scan, CENTRE), PLAIN, label=5)


def test_empty_mask_is_named(scan):
    empty = region(scan, labels=())
    with pytest.raises(InputError, match="empty"):
        extract_handcrafted(scan, empty, PLAIN, case_id="p1")
    with pytest.raises(InputError, match="empty"):
        extract_regions(scan, empty, PLAIN, case_id="p1")


def test_too_few_voxels_name_the_limit(scan):
    values = np.zeros(scan.GetSize()[::-1], np.uint8)
    values[5:8, 5:9, 5:9] = 1
    mask = sitk.GetImageFromArray(values)
    mask.CopyInformation(scan)
    with pytest.raises(InputError, match=r"has \d+ voxels after resampling.*minimumROISize"):
        extract_handcrafted(scan, mask, "ct")


def test_slice_is_accepted_by_settings_for_slices(scan):
    mask = region(scan, (slice(5, 6), slice(5, 25), slice(5, 25)))
    with pytest.raises(InputError, match="minimumROIDimensions"):
        extract_handcrafted(scan, mask, "mr")
    document = {"setting": {"force2D": True}, "featureClass": {"shape2D": [], "glcm": []}}
    assert_identical(extract_handcrafted(scan, mask, document), direct(scan, mask, document))


def test_resegmentation_that_leaves_nothing_is_explained(scan):
    document = {"setting": {"resegmentRange": [5000, 6000]}, **PLAIN}
    with pytest.raises(InputError, match="Resegmentation excluded too many voxels"):
        extract_handcrafted(scan, region(scan, CENTRE), document)


def test_nan_near_the_region_is_refused_and_far_away_is_harmless(scan):
    values = sitk.GetArrayFromImage(scan).astype(np.float32)
    values[0, 0, 0] = np.nan
    far = sitk.GetImageFromArray(values)
    far.CopyInformation(scan)
    mask = region(scan, CENTRE)
    assert np.isfinite(list(extract_handcrafted(far, mask, PLAIN).values())).all()
    with pytest.raises(InputError, match="NaN"):
        extract_handcrafted(far, mask, {"setting": {"normalize": True}, **PLAIN})
    values[12, 29, 32] = np.inf
    near = sitk.GetImageFromArray(values)
    near.CopyInformation(scan)
    with pytest.raises(InputError, match="1 voxels needed"):
        extract_handcrafted(near, mask, PLAIN)


def test_settings_of_another_modality_are_refused_before_memory_runs_out(scan):
    with pytest.raises(InputError, match="grey levels"):
        extract_handcrafted(scan * 40, region(scan, CENTRE), {"setting": {"binWidth": 0.25}})


def test_other_grid_is_refused(scan):
    mask = region(scan, CENTRE)
    mask.SetSpacing((1.0, 1.0, 2.5))
    with pytest.raises(GeometryError, match="align_mask"):
        extract_handcrafted(scan, mask, PLAIN)


def test_header_noise_between_image_and_mask_does_not_matter(scan):
    mask = region(scan, CENTRE)
    noisy = sitk.Image(mask)
    noisy.SetOrigin([value + 1e-4 for value in mask.GetOrigin()])
    assert extract_handcrafted(scan, noisy, PLAIN) == extract_handcrafted(scan, mask, PLAIN)


def test_constant_region_gives_numbers(scan):
    mask = region(scan, CENTRE)
    constant = sitk.Cast(scan * 0 + 7, sitk.sitkInt16)
    found = extract_handcrafted(constant, mask, {"featureClass": {"firstorder": [], "glcm": [], "glszm": []}})
    assert found["rad_original_firstorder_Variance"] == 0
    assert found["rad_original_glcm_Contrast"] == 0


def test_inputs_and_global_state_stay_as_they_are(scan):
    mask = region(scan, CENTRE)
    before = sitk.Hash(scan), sitk.Hash(mask)
    tolerance = sitk.ProcessObject.GetGlobalDefaultCoordinateTolerance()
    logger = logging.getLogger("radiomics")
    level, handlers = logger.level, list(logger.handlers)
    extract_handcrafted(scan, mask, VARIANTS["tolerance"])
    assert (sitk.Hash(scan), sitk.Hash(mask)) == before
    assert sitk.ProcessObject.GetGlobalDefaultCoordinateTolerance() == tolerance
    assert (logger.level, logger.handlers) == (level, handlers)


def test_nothing_is_printed(scan, capfd):
    extract_handcrafted(scan, region(scan, CENTRE), EVERY_FILTER)
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


def test_two_voxels_give_numbers_without_noise(scan, capfd):
    values = np.zeros(scan.GetSize()[::-1], np.uint8)
    values[5, 5, 5] = values[6, 6, 6] = 1
    mask = sitk.GetImageFromArray(values)
    mask.CopyInformation(scan)
    found = extract_handcrafted(scan, mask, {"setting": {"binWidth": 25}})
    assert_identical(found, direct(scan, mask, {"setting": {"binWidth": 25}}))
    assert capfd.readouterr().err == ""


def test_bins_are_counted_per_image_and_extremes_flagged(scan):
    mask = region(scan, CENTRE)
    table = count_bins(scan, mask, {"imageType": {"Original": {"binWidth": 500}, "Wavelet": {"binCount": 32}}})
    assert table["image_filter"].tolist()[:2] == ["original", "wavelet_LLH"]
    assert table.loc[0, "n_bins"] <= 2
    assert "smaller width" in table.loc[0, "warning"]
    assert (table.loc[1:, "n_bins"] == 32).all()
    assert (table.loc[1:, "warning"] == "").all()
    fine = count_bins(scan, mask, {"setting": {"binWidth": 0.5}})
    assert "larger width" in fine.loc[0, "warning"]


def test_default_width_on_normalised_mr_is_flagged_and_the_preset_is_not(scan):
    mask = region(scan, (slice(2, 22), slice(8, 48), slice(10, 50)))
    trap = count_bins(scan, mask, {"setting": {"normalize": True}})
    assert trap.loc[0, "n_bins"] <= 2
    assert "nearly constant" in trap.loc[0, "warning"]
    assert (count_bins(scan, mask, "mr")["warning"] == "").all()


def test_settings_and_errors_survive_the_way_to_a_worker_process(scan):
    settings = load_settings("ct")
    assert pickle.loads(pickle.dumps(settings)) == settings
    with pytest.raises(InputError) as caught:
        extract_handcrafted(scan, region(scan, CENTRE), PLAIN, label=9, case_id="p3")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
