from __future__ import annotations

import time

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk

from hybrid import InputError
from hybrid.images import compare_geometry, read_image, to_array
from hybrid.mask_baselines import Atlas, threshold_kidneys, threshold_masses
from hybrid.phantoms.painted import (
    COHORT_COLUMNS,
    LESION_COLUMNS,
    STYLES,
    ScanStyle,
    paint_ct,
    simulate_painted_cohort,
)

FIELD = (200.0, 300.0, 300.0)
SHAPE = (52, 40, 76)


def ellipsoid(centre, radii):
    """Voxels of a (z, y, x) ellipsoid on the small label map, in mm from its corner."""
    axes = np.ogrid[tuple(slice(0, 3 * n, 3) for n in SHAPE)]
    return sum(((a - c) / r) ** 2 for a, c, r in zip(axes, centre, radii, strict=True)) <= 1


def small_map():
    """Two kidneys with a tumour on the left, a tumour and a cyst on the right; 3 mm, LPS, away from the origin."""
    values = np.zeros(SHAPE, np.uint8)
    for x, z in ((45, 70), (180, 82)):
        values[ellipsoid((z, 60, x), (50, 25, 26))] = 1
    values[ellipsoid((100, 60, 196), (18, 18, 18))] = 2
    values[ellipsoid((36, 60, 36), (15, 15, 15))] = 2
    values[ellipsoid((100, 50, 34), (14, 14, 14))] = 3
    image = sitk.GetImageFromArray(values)
    image.SetSpacing((3.0, 3.0, 3.0))
    image.SetOrigin((-40.0, 110.0, -300.0))
    return image


@pytest.fixture(scope="module")
def labels():
    return small_map()


@pytest.fixture(scope="module")
def cases(labels):
    return [paint_ct(labels, "lowres", seed=seed, field_mm=FIELD) for seed in range(6)]


@pytest.fixture(scope="module")
def real_map(benchmarks):
    path = benchmarks / "kits_masks" / "kits23" / "k3" / "case_00084.nii.gz"
    if not path.is_file():
        pytest.skip(f"no label map at {path}")
    return read_image(path)


def by_phase(labels, phase, **options):
    style = ScanStyle(phase, phase, 8.0, 1.0, 1.5, 3.0, 3.0)
    return paint_ct(labels, style, seed=4, field_mm=FIELD, **options)


def millilitres(mask, label):
    return (to_array(mask) == label).sum() * np.prod(mask.GetSpacing()) / 1000


def dice(one, two):
    one, two = to_array(one) > 0, to_array(two) > 0
    return 2 * (one & two).sum() / (one.sum() + two.sum())


def mean_place(image, keep):
    """Mean position (x, y, z) in mm of the voxels in ``keep`` (z, y, x)."""
    return np.array(image.TransformContinuousIndexToPhysicalPoint(np.argwhere(keep).mean(axis=0)[::-1].tolist()))


def test_same_seed_gives_the_same_voxels_and_another_seed_does_not(labels, cases):
    again = paint_ct(labels, "lowres", seed=1, field_mm=FIELD)
    np.testing.assert_array_equal(to_array(again.image), to_array(cases[1].image))
    np.testing.assert_array_equal(to_array(again.mask), to_array(cases[1].mask))
    pd.testing.assert_frame_equal(again.lesions, cases[1].lesions)
    other = to_array(cases[2].image)
    assert other.shape != to_array(again.image).shape or (other != to_array(again.image)).mean() > 0.5


def test_image_and_mask_share_a_grid_and_the_field_is_as_large_as_asked(cases):
    for case in cases:
        assert compare_geometry(case.image, case.mask).verdict == "equal"
        extent = np.multiply(case.image.GetSize(), case.image.GetSpacing())[::-1]
        assert (extent >= np.array(FIELD) - 1e-6).all()
        assert case.image.GetPixelID() == sitk.sitkInt16
        assert case.mask.GetPixelID() == sitk.sitkUInt8


def test_a_default_field_is_35_cm_and_takes_little_time(labels):
    start = time.process_time()
    case = paint_ct(labels, "lowres", seed=0)
    assert time.process_time() - start < 4.0
    assert min(case.image.GetSize()) >= 117


def test_kidneys_and_lesions_stay_where_the_label_map_has_them(labels, cases):
    back = sitk.Resample(cases[0].mask, labels, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
    assert (to_array(back) == to_array(labels)).mean() > 0.99
    assert dice(back, labels) > 0.97


@pytest.mark.parametrize("style", ["lowres", "primary", "external"])
def test_volumes_of_all_labels_are_those_of_the_label_map(labels, style):
    case = paint_ct(labels, style, seed=3, field_mm=FIELD)
    for label in (1, 2, 3):
        assert millilitres(case.mask, label) == pytest.approx(millilitres(labels, label), rel=0.05)


def test_a_lesion_of_one_voxel_is_kept_at_the_map_s_resolution(labels):
    values = to_array(labels)
    values[20, 20, 15], values[15, 20, 60] = 3, 2
    case = paint_ct(with_values(labels, values), "lowres", seed=0, field_mm=FIELD)
    assert len(case.lesions) == 5
    assert case.lesions["volume_ml"].min() == pytest.approx(0.027)


def with_values(labels, values):
    image = sitk.GetImageFromArray(values)
    image.CopyInformation(labels)
    return image


def test_spine_lies_behind_the_kidneys_and_between_them(cases):
    for case in cases:
        values, mask = to_array(case.image), to_array(case.mask)
        rows = np.flatnonzero((mask > 0).any(axis=(1, 2)))
        half = mask.shape[2] // 2
        middle = int(np.argwhere(mask > 0)[:, 2].mean())
        near = np.zeros(values.shape, bool)
        near[rows[0] : rows[-1], :, middle - 8 : middle + 9] = True
        spine, kidneys = mean_place(case.image, near & (values > 350)), mean_place(case.image, mask > 0)
        assert 5 < spine[1] - kidneys[1] < 60
        assert (mask[:, :, :half] > 0).any()
        assert (mask[:, :, half:] > 0).any()


def test_liver_lies_on_the_patient_s_right_and_spleen_is_smaller(cases):
    for case in cases:
        values, mask = to_array(case.image), to_array(case.mask)
        top = np.flatnonzero((mask > 0).any(axis=(1, 2)))[-1]
        soft = (values[top:] > 85) & (values[top:] < 150) & (mask[top:] == 0)
        middle = int(np.argwhere(mask > 0)[:, 2].mean())
        # x grows to the patient's left: the right half comes first.
        assert soft[:, :, :middle].sum() > 1.3 * soft[:, :, middle:].sum()


def test_any_orientation_of_the_label_map_gives_the_same_patient(labels, cases):
    for code in ("RAS", "PIR"):
        case = paint_ct(sitk.DICOMOrient(labels, code), "lowres", seed=1, field_mm=FIELD)
        np.testing.assert_array_equal(to_array(case.image), to_array(cases[1].image))


def test_a_bay_of_the_kidney_holds_fat_and_no_other_organ(labels):
    values = to_array(labels)
    values[18:28, 10:24, 12:18] = 0
    shares = []
    for seed in range(5):
        case = paint_ct(with_values(labels, values), "lowres", seed=seed, field_mm=FIELD)
        near = sitk.Resample(case.image, labels, sitk.Transform(), sitk.sitkLinear, -1000)
        shares.append((to_array(near)[20:26, 16:22, 14:16] < 0).mean())
    assert np.mean(shares) > 0.7


def test_body_is_surrounded_by_air(cases):
    for case in cases:
        values = to_array(case.image)
        for edge in (values[:, 0], values[:, :, 0], values[:, :, -1]):
            assert np.median(edge) < -900
        assert np.median(values[:, values.shape[1] // 2, values.shape[2] // 2]) > -200


def test_densities_follow_the_phase(labels):
    kidney, liver, spread = {}, {}, {}
    for phase in ("unenhanced", "corticomedullary", "nephrographic", "portal"):
        case = by_phase(labels, phase)
        values, mask = to_array(case.image), to_array(case.mask)
        kidney[phase], spread[phase] = values[mask == 1].mean(), np.std(values[mask == 1])
        liver[phase] = np.median(values[(values > 20) & (values < 250) & (mask == 0)])
        assert -5 < np.median(values[mask == 3]) < 30
    assert 15 < kidney["unenhanced"] < 50
    assert 110 < kidney["nephrographic"] < 210
    assert kidney["unenhanced"] + 50 < kidney["corticomedullary"]
    assert spread["corticomedullary"] > spread["nephrographic"] > spread["unenhanced"]
    assert liver["unenhanced"] < liver["portal"]


def test_kinds_can_be_chosen_and_show_in_the_densities(labels):
    fatty = by_phase(labels, "nephrographic", kinds={1: "aml", 2: "aml"})
    solid = by_phase(labels, "nephrographic", kinds={1: "solid", 2: "solid"})
    assert list(fatty.lesions["kind"]) == ["aml", "aml", "cyst"]
    fat_share = [(to_array(case.image)[to_array(case.mask) == 2] < -15).mean() for case in (fatty, solid)]
    assert fat_share[0] > 0.08
    assert fat_share[1] < 0.01


def test_some_solid_masses_are_as_dense_as_the_kidney(labels):
    gaps = []
    for seed in range(8):
        case = paint_ct(labels, "lowres", seed=seed, field_mm=FIELD, kinds={1: "solid", 2: "solid"})
        values, mask = to_array(case.image), to_array(case.mask)
        gaps.append((np.quantile(values[mask == 2], 0.9) - np.median(values[mask == 1])) / np.std(values[mask == 1]))
    assert max(gaps) > 0
    assert np.mean(gaps) < 1


def test_lesions_are_listed_with_their_measures(cases):
    table = cases[0].lesions
    assert tuple(table.columns) == LESION_COLUMNS
    assert list(table["label"]) == [2, 2, 3]
    for label in (2, 3):
        expected = millilitres(cases[0].mask, label)
        assert table.loc[table["label"] == label, "volume_ml"].sum() == pytest.approx(expected)
    for row in table.itertuples():
        centre = (row.centre_x, row.centre_y, row.centre_z)
        assert cases[0].mask[cases[0].mask.TransformPhysicalPointToIndex(centre)] == row.label
    sphere = table["volume_ml"].mul(6000 / np.pi) ** (1 / 3)
    assert (table["diameter_mm"] > 0.9 * sphere).all()
    assert (table["diameter_mm"] < 1.6 * sphere).all()


def test_two_styles_show_the_same_patient(labels):
    thick, thin = (paint_ct(labels, style, seed=3, field_mm=FIELD) for style in ("external", "primary"))
    assert list(thick.lesions["kind"]) == list(thin.lesions["kind"])
    assert thick.image.GetSpacing() == (1.5, 1.5, 5.0)
    near = sitk.Resample(thin.image, thick.image, sitk.Transform(), sitk.sitkLinear, -1000)
    inside = to_array(sitk.Resample(thin.mask, thick.image, sitk.Transform(), sitk.sitkNearestNeighbor, 0)) > 0
    assert np.corrcoef(to_array(near).ravel(), to_array(thick.image).ravel())[0, 1] > 0.95
    assert inside.any()


def test_small_lesions_are_added_inside_the_kidneys(labels):
    case = paint_ct(labels, "thin", seed=2, field_mm=(160.0, 200.0, 200.0), small_lesions=6)
    small = case.lesions[case.lesions["lesion_id"] > 3]
    assert len(small) == 6
    assert small["volume_ml"].between(0.003, 0.7).all()
    assert (small["label"] == np.where(small["kind"] == "cyst", 3, 2)).all()
    for row in small.itertuples():
        assert labels[labels.TransformPhysicalPointToIndex((row.centre_x, row.centre_y, row.centre_z))] == 1


def test_small_lesions_need_thin_slices_and_room(labels):
    with pytest.raises(InputError, match=r"slices of at most 1\.5 mm"):
        paint_ct(labels, "primary", seed=0, small_lesions=2)
    with pytest.raises(InputError, match="find room"):
        paint_ct(labels, "thin", seed=0, field_mm=FIELD, small_lesions=500)


def test_one_kidney_or_a_fused_one_can_be_painted(labels):
    values = to_array(labels)
    alone, fused = values.copy(), values.copy()
    alone[:, :, 38:] = 0
    fused[10:16, 18:24, 12:62] = 1
    for kept in (alone, fused):
        case = paint_ct(with_values(labels, kept), "lowres", seed=5, field_mm=FIELD)
        expected = (kept > 0).sum() * 0.027
        assert (to_array(case.mask) > 0).sum() * 0.027 == pytest.approx(expected, rel=0.05)


def test_a_threshold_and_the_usual_place_are_not_enough(cases):
    found = [dice(threshold_kidneys(case.image), case.mask) for case in cases]
    assert np.mean(found) < 0.8
    assert max(found) < 0.9
    atlas = Atlas.from_cases((case.image, case.mask) for case in cases[:5])
    placed = atlas.place(cases[5].image)
    assert compare_geometry(cases[5].image, placed).verdict == "equal"
    assert 0.1 < dice(placed, cases[5].mask) < 0.95
    turned = sitk.DICOMOrient(cases[5].image, "PIR")
    assert dice(sitk.DICOMOrient(atlas.place(turned), "LPS"), placed) > 0.999


def test_masses_by_threshold_lie_near_the_kidneys_and_are_no_match_for_the_truth(cases):
    scores = []
    for case in cases:
        kidneys = case.mask == 1
        found = threshold_masses(case.image, kidneys)
        assert compare_geometry(case.image, found).verdict == "equal"
        distance = sitk.GetArrayFromImage(sitk.SignedMaurerDistanceMap(kidneys, False, False, True))
        assert distance[to_array(found) > 0].max() < 30
        scores.append(dice(found, case.mask > 1))
    assert 0.02 < np.mean(scores) < 0.8


def test_baselines_find_nothing_in_air_and_refuse_an_empty_atlas(cases):
    air = sitk.Image([20, 20, 20], sitk.sitkInt16) - 1000
    air.SetSpacing((3.0, 3.0, 3.0))
    kidneys = threshold_kidneys(air)
    assert not to_array(kidneys).any()
    assert not to_array(threshold_masses(air, kidneys)).any()
    with pytest.raises(InputError, match="at least one case"):
        Atlas.from_cases([])


def test_a_cohort_is_written_and_what_is_complete_is_kept(labels, tmp_path):
    maps = []
    for name in ("case_b", "case_a"):
        maps.append(tmp_path / f"{name}.nii.gz")
        sitk.WriteImage(labels, str(maps[-1]))
    options = {"style": "lowres", "seed": 7, "field_mm": FIELD}
    assert len(simulate_painted_cohort(tmp_path / "one", maps, **options)) == 2
    table = tmp_path / "one" / "cohort.csv"
    cohort, lesions = pd.read_csv(table), pd.read_csv(table.with_name("lesions.csv"))
    assert tuple(cohort.columns) == COHORT_COLUMNS
    assert list(cohort["case_id"]) == ["case_b", "case_a"]
    assert set(cohort["site"]) == {"lowres"}
    assert tuple(lesions.columns) == ("case_id", *LESION_COLUMNS)

    kept, lost = (table.parent / "images" / f"{name}.nii.gz" for name in ("case_a", "case_b"))
    before, stamp = to_array(read_image(lost)), kept.stat().st_mtime_ns
    lost.unlink()
    table.with_name("lesions.csv").unlink()
    simulate_painted_cohort(tmp_path / "one", maps, **options)
    assert kept.stat().st_mtime_ns == stamp
    np.testing.assert_array_equal(to_array(read_image(lost)), before)
    pd.testing.assert_frame_equal(pd.read_csv(table.with_name("lesions.csv")), lesions)

    simulate_painted_cohort(tmp_path / "two", maps[:1], **options)
    np.testing.assert_array_equal(to_array(read_image(tmp_path / "two" / "images" / "case_b.nii.gz")), before)
    assert not (to_array(read_image(kept)).shape == before.shape and (to_array(read_image(kept)) == before).all())
    with pytest.raises(InputError, match="other settings"):
        simulate_painted_cohort(tmp_path / "one", maps, **{**options, "seed": 8})
    with pytest.raises(InputError, match="same name"):
        simulate_painted_cohort(tmp_path / "three", [maps[0], maps[0]], **options)
    with pytest.raises(InputError, match="at least one"):
        simulate_painted_cohort(tmp_path / "three", [], **options)


def test_bad_input_is_named(labels):
    with pytest.raises(InputError, match=r"style 'primry'.*'primary'"):
        paint_ct(labels, "primry", seed=0)
    with pytest.raises(InputError, match="seed"):
        paint_ct(labels, "lowres", seed=-1)
    with pytest.raises(InputError, match="field_mm"):
        paint_ct(labels, "lowres", seed=0, field_mm=(350.0, 0.0, 350.0))
    with pytest.raises(InputError, match="lesion '9'"):
        paint_ct(labels, "lowres", seed=0, kinds={9: "aml"})
    with pytest.raises(InputError, match="kind for lesion 1"):
        paint_ct(labels, "lowres", seed=0, kinds={1: "cyst"})
    for values in (np.zeros((5, 5, 5), np.uint8), np.full((5, 5, 5), 7, np.uint8)):
        with pytest.raises(InputError, match="Expected labels"):
            paint_ct(sitk.GetImageFromArray(values), "lowres", seed=0)
    oblique = sitk.Image(labels)
    oblique.SetDirection((0.8, 0.6, 0.0, -0.6, 0.8, 0.0, 0.0, 0.0, 1.0))
    with pytest.raises(InputError, match="oblique"):
        paint_ct(oblique, "lowres", seed=0)
    with pytest.raises(InputError, match="phase"):
        ScanStyle("x", "late", 1.0, 1.0, 1.0, 1.0, 1.0)
    with pytest.raises(InputError, match="voxels > 0"):
        ScanStyle("x", "portal", 1.0, 1.0, 1.0, 0.0, 1.0)


def test_the_named_styles_differ_in_phase_noise_and_slices():
    primary, external = STYLES["primary"], STYLES["external"]
    assert primary.phase != external.phase
    assert external.noise_hu > primary.noise_hu
    assert external.slice_mm > primary.slice_mm
    assert STYLES["lowres"].spacing == (3.0, 3.0, 3.0)
    assert all(name == style.name for name, style in STYLES.items())


def test_a_real_label_map_keeps_its_volumes_and_is_inside_the_body(real_map):
    case = paint_ct(real_map, "lowres", seed=11)
    for label in (1, 2, 3):
        assert millilitres(case.mask, label) == pytest.approx(millilitres(real_map, label), rel=0.05)
    values, mask = to_array(case.image), to_array(case.mask)
    assert (values[mask > 0] > -300).mean() > 0.999
    assert dice(threshold_kidneys(case.image), case.mask) < 0.9
