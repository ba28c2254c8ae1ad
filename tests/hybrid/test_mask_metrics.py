from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk

from hybrid import InputError
from hybrid.analysis.conventions import CONVENTIONS, by_convention
from hybrid.mask_metrics import (
    KITS_TOLERANCES_MM,
    MASK_METRICS,
    MATCHING_RULES,
    STRUCTURES_KITS,
    match_lesions,
    measure_masks,
)

SPACING = (3.0, 0.5, 0.8)
"""z, y, x in mm."""


def mask(array, spacing_zyx=(1.0, 1.0, 1.0)):
    image = sitk.GetImageFromArray(np.asarray(array).astype(np.uint8))
    image.SetSpacing([float(value) for value in spacing_zyx[::-1]])
    return image


def box(*parts, shape=(8, 10, 12), value=1):
    array = np.zeros(shape, dtype=np.uint8)
    for part in parts:
        array[part] = value
    return array


def values_of(prediction, reference, spacing=(1.0, 1.0, 1.0), **options):
    table = measure_masks(mask(prediction, spacing), mask(reference, spacing), {"s": (1,)}, **options)
    return table.set_index("metric")["value"]


def random_pair(seed, shape=(40, 22, 22)):
    """Two smooth blobs that overlap, over more planes than are looked at in one go."""
    rng = np.random.default_rng(seed)
    z, y, x = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    noise = [
        sitk.GetArrayFromImage(sitk.SmoothingRecursiveGaussian(mask(rng.integers(0, 99, shape)), 2.0)) for _ in "ab"
    ]
    shifts = rng.uniform(-0.2, 0.2, (2, 3))
    return [
        (z - a) ** 2 + (y - b) ** 2 + (x - c) ** 2 < 0.4 + 0.05 * (field - 49)
        for (a, b, c), field in zip(shifts, noise, strict=True)
    ]


def test_counts_volumes_and_overlap_by_hand():
    reference = box(np.s_[1:3, 2:6, 2:7])  # 2 x 4 x 5 = 40
    prediction = box(np.s_[2:4, 2:6, 4:9])  # 40, shared 1 x 4 x 3 = 12
    found = values_of(prediction, reference, SPACING)
    assert found.index.tolist() == list(MASK_METRICS)
    assert found[["tp_voxels", "fp_voxels", "fn_voxels", "tn_voxels"]].tolist() == [12, 28, 28, 960 - 68]
    assert found["reference_volume_ml"] == pytest.approx(40 * 1.2 / 1000)
    assert found["volume_error_ml"] == pytest.approx(0, abs=1e-12)
    assert found[["dice", "iou", "precision", "sensitivity", "specificity"]].tolist() == pytest.approx(
        [24 / 80, 12 / 68, 12 / 40, 12 / 40, 892 / 920]
    )


def test_distances_by_hand_with_anisotropic_voxels():
    reference, prediction = box(np.s_[2, 3, 2]), box(np.s_[4, 3, 2], np.s_[2, 5, 2])
    found = values_of(prediction, reference, SPACING)
    # Prediction to reference 6.0 and 1.0; reference to prediction 1.0.
    assert found["hd95_mm"] == pytest.approx(1.0 + 0.95 * 5.0)
    assert found["assd_mm"] == pytest.approx((6.0 + 1.0 + 1.0) / 3)


def test_hd95_and_assd_look_at_boundary_voxels_only():
    reference, prediction = box(np.s_[1:6, 2:7, 2:7]), box(np.s_[1:6, 2:7, 2:7])
    prediction[3, 4, 4] = 0  # a hole of one voxel: six new boundary voxels, each one voxel inside the boundary
    found = values_of(prediction, reference)
    assert found["hd95_mm"] == pytest.approx(0.85)  # 98 distances of 0, 6 of 1: position 97.85
    assert found["assd_mm"] == pytest.approx(6 * 1.0 / (98 + 98 + 6))


def test_equal_masks_agree_entirely():
    reference = box(np.s_[1:6, 2:7, 2:7])
    found = values_of(reference, reference, SPACING)
    assert found[["dice", "surface_dice", "hd95_mm", "assd_mm"]].tolist() == [1, 1, 0, 0]


def test_surface_dice_is_one_for_a_shift_of_the_tolerance_and_zero_for_masks_far_apart():
    reference, prediction = box(np.s_[1:7, 1:9, 2:6]), box(np.s_[1:7, 1:9, 4:8])
    assert values_of(prediction, reference, tolerances_mm=2.0)["surface_dice"] == pytest.approx(1.0)
    none = values_of(box(np.s_[1:7, 1:9, 9:11]), box(np.s_[1:7, 1:9, 1:3]), tolerances_mm=2.0)["surface_dice"]
    assert none == 0


def test_surface_dice_of_single_voxels_by_hand():
    """Each voxel has eight cells, corners of the voxel; two voxels side by side share four of them."""
    reference, prediction = box(np.s_[3, 3, 3]), box(np.s_[3, 3, 4])
    assert values_of(prediction, reference, tolerances_mm=0.0)["surface_dice"] == pytest.approx(0.5)
    assert values_of(prediction, reference, SPACING, tolerances_mm=0.79)["surface_dice"] == pytest.approx(0.5)
    assert values_of(prediction, reference, SPACING, tolerances_mm=0.8)["surface_dice"] == pytest.approx(1.0)


def test_surface_dice_weighs_surface_elements_by_area():
    """A plate of 4 x 4 voxels, found exactly, and one voxel too many far above it."""
    z, y, x = spacing = (1.0, 2.0, 4.0)
    reference = box(np.s_[2, 2:6, 2:6])
    prediction = box(np.s_[2, 2:6, 2:6], np.s_[6, 4, 4])
    # Each of the eight cells around one voxel holds a triangle through the midpoints of three edges of the cell.
    triangle = 0.5 * math.hypot(z * y / 4, y * x / 4, z * x / 4)
    # Top and bottom of the plate: 9 flat cells, 6 chamfers along x, 6 along y, and 4 such triangles each.
    plate = 18 * y * x + 12 * x * math.hypot(z / 2, y / 2) + 12 * y * math.hypot(z / 2, x / 2) + 8 * triangle
    found = values_of(prediction, reference, spacing, tolerances_mm=0.5)["surface_dice"]
    assert found == pytest.approx(2 * plate / (2 * plate + 8 * triangle), rel=1e-6)


@pytest.mark.parametrize("seed", range(6))
def test_surface_metrics_equal_those_of_monai(seed):
    torch = pytest.importorskip("torch")
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice

    prediction, reference = random_pair(seed)
    spacing = [(1.0, 1.0, 1.0), (3.0, 0.8, 0.8), (5.0, 0.7, 0.7)][seed % 3]
    pair = [torch.as_tensor(part)[None, None] for part in (prediction, reference)]
    options = {"include_background": True, "spacing": spacing}
    found = values_of(prediction, reference, spacing, tolerances_mm=1.15)
    theirs = compute_surface_dice(*pair, class_thresholds=[1.15], use_subvoxels=True, **options)
    assert 0.05 < found["surface_dice"] < 0.999
    assert found["surface_dice"] == pytest.approx(float(theirs), abs=1e-5)
    assert found["hd95_mm"] == pytest.approx(
        float(compute_hausdorff_distance(*pair, percentile=95, **options)), rel=1e-5
    )
    assd = compute_average_surface_distance(*pair, symmetric=True, **options)
    assert found["assd_mm"] == pytest.approx(float(assd), rel=1e-5)


def test_masks_at_the_border_of_the_volume_are_measured_alike():
    inner, outer = np.zeros((9, 9, 9), dtype=np.uint8), np.zeros((5, 5, 5), dtype=np.uint8)
    inner[2:7, 2:7, 2:7] = outer[:] = 1
    moved = [array.copy() for array in (inner, outer)]
    moved[0][2, 2:7, 2:7] = moved[1][0] = 0
    a, b = values_of(moved[0], inner), values_of(moved[1], outer)
    names = ["dice", "surface_dice", "hd95_mm", "assd_mm"]
    assert a[names].tolist() == pytest.approx(b[names].tolist())


def test_empty_masks_leave_undefined_what_is_undefined():
    nothing, something = box(), box(np.s_[1:3, 1:3, 1:3])
    both = values_of(nothing, nothing)
    assert both[["dice", "iou", "precision", "sensitivity", "surface_dice", "hd95_mm", "assd_mm"]].isna().all()
    assert both["specificity"] == 1
    missed = values_of(nothing, something)
    assert missed[["dice", "iou", "sensitivity", "surface_dice"]].tolist() == [0, 0, 0, 0]
    assert missed[["precision", "hd95_mm", "assd_mm"]].isna().all()
    extra = values_of(something, nothing)
    assert extra[["dice", "iou", "precision", "surface_dice"]].tolist() == [0, 0, 0, 0]
    assert extra[["sensitivity", "hd95_mm", "assd_mm"]].isna().all()


def test_structures_of_kits_are_unions_of_labels():
    reference = box(np.s_[1:7, 1:9, 1:5])
    reference[2:4, 2:4, 2:4] = 2
    reference[5, 5:7, 2:4] = 3
    prediction = reference.copy()
    prediction[prediction == 3] = 2
    table = measure_masks(
        mask(prediction), mask(reference), STRUCTURES_KITS, tolerances_mm=KITS_TOLERANCES_MM, case_id="one"
    )
    dice = table[table["metric"] == "dice"].set_index("structure")["value"]
    assert dice.to_dict() == pytest.approx({"kidney_and_mass": 1, "mass": 1, "tumor": 2 * 8 / (8 + 12)})


def test_labels_of_the_reference_without_structure_are_background():
    reference = box(np.s_[1:3, 1:3, 1:3]) + box(np.s_[5, 5, 5], value=7)
    assert values_of(box(np.s_[1:3, 1:3, 1:3]), reference)["dice"] == 1


def test_unusable_masks_are_refused_with_the_case():
    good = mask(box(np.s_[1, 1, 1]))
    moved = sitk.Image(good)
    moved.SetOrigin((0.02, 0, 0))
    other = mask(box(np.s_[1, 1, 1], value=9))
    for prediction, message in [
        (mask(np.ones((3, 3, 3))), "differ in size"),
        (moved, "different grids"),
        (other, "belong to no structure: 9"),
        (sitk.Cast(good, sitk.sitkFloat32), "whole numbers"),
    ]:
        with pytest.raises(InputError, match=message) as caught:
            measure_masks(prediction, good, {"s": (1,)}, case_id="case 7")
        assert "case 7" in str(caught.value)


@pytest.mark.parametrize(
    ("structures", "tolerances", "message"),
    [
        ({}, 2.0, "at least one structure"),
        ({"s": ()}, 2.0, "labels of structure 's'"),
        ({"s": (0,)}, 2.0, "labels of structure 's'"),
        ({"s": (1,)}, {"t": 1.0}, "No surface tolerance"),
        ({"s": (1,)}, -1.0, "0 mm or more"),
    ],
)
def test_unusable_structures_and_tolerances_are_refused(structures, tolerances, message):
    good = mask(box(np.s_[1, 1, 1]))
    with pytest.raises(InputError, match=message):
        measure_masks(good, good, structures, tolerances_mm=tolerances)


def five_cases():
    """Good; small and shifted; both empty; false positive on an empty reference; missed lesion."""
    large, small = np.s_[1:7, 1:9, 1:9], np.s_[2:4, 2:4, 2:4]
    pairs = {
        "good": (box(np.s_[1:7, 1:9, 2:9]), box(large)),
        "shifted": (box(np.s_[2:4, 2:4, 3:5]), box(small)),
        "both_empty": (box(), box()),
        "false_positive": (box(small), box()),
        "missed": (box(), box(small)),
    }
    tables = [measure_masks(mask(a), mask(b), {"s": (1,)}).assign(case_id=name) for name, (a, b) in pairs.items()]
    return pd.concat(tables, ignore_index=True)


def test_the_mean_of_five_cases_depends_on_the_convention():
    raw = five_cases()
    good, shifted = 2 * 336 / (336 + 384), 2 * 4 / 16
    sums = {"nnunet": (good + shifted) / 4, "kits": (good + shifted + 1) / 5, "monai": (good + shifted) / 3}
    for name, expected in sums.items():
        stated = by_convention(raw, name)
        assert stated[stated["metric"] == "dice"]["value"].mean() == pytest.approx(expected)
    assert len({round(value, 3) for value in sums.values()}) == 3
    assert set(sums) == set(CONVENTIONS)


def test_a_convention_changes_only_the_overlap_of_empty_masks_and_can_be_changed_back():
    raw = five_cases()
    kept = raw.copy()
    kits = by_convention(raw, "kits")
    pd.testing.assert_frame_equal(raw, kept)
    changed = raw[~(np.isclose(kits["value"], raw["value"], equal_nan=True))]
    assert set(changed["metric"]) == {"dice", "iou", "surface_dice"}
    assert set(changed["case_id"]) == {"both_empty"}
    pd.testing.assert_frame_equal(by_convention(by_convention(kits, "monai"), "nnunet"), raw)


def test_the_monai_convention_is_what_monai_returns():
    torch = pytest.importorskip("torch")
    from monai.metrics import compute_dice, compute_iou, compute_surface_dice

    raw = five_cases()
    stated = by_convention(raw, "monai").set_index(["case_id", "metric"])["value"]
    empty, some = (torch.zeros(1, 1, 6, 6, 6), torch.zeros(1, 1, 6, 6, 6))
    some[..., 2:4, 2:4, 2:4] = 1
    for name, pair in {"both_empty": (empty, empty), "false_positive": (some, empty), "missed": (empty, some)}.items():
        theirs = (
            compute_dice(*pair, include_background=True),
            compute_iou(*pair, include_background=True),
            compute_surface_dice(*pair, class_thresholds=[1.0], include_background=True, use_subvoxels=True),
        )
        for metric, value in zip(("dice", "iou", "surface_dice"), theirs, strict=True):
            assert stated[name, metric] == pytest.approx(float(value), nan_ok=True), (name, metric)


def test_rows_of_lesions_are_left_alone():
    raw = five_cases().assign(lesion_id="")
    lesion = pd.DataFrame(
        [{"structure": "s", "metric": "dice", "value": 0.4, "case_id": "both_empty", "lesion_id": "r1"}]
    )
    stated = by_convention(pd.concat([raw, lesion], ignore_index=True), "kits")
    assert stated["value"].iloc[-1] == 0.4


def test_a_convention_needs_its_name_and_the_counts():
    raw = five_cases()
    with pytest.raises(InputError, match="Did you mean 'kits'"):
        by_convention(raw, "kit")
    with pytest.raises(InputError, match="No fp_voxels for"):
        by_convention(raw[raw["metric"] != "fp_voxels"], "kits")
    with pytest.raises(InputError, match="more than once"):
        by_convention(raw.drop(columns="case_id"), "kits")
    with pytest.raises(InputError, match="no column value"):
        by_convention(raw.drop(columns="value"), "kits")


def regions(*arrays):
    return [array.astype(bool) for array in arrays]


def test_a_found_a_missed_and_a_false_lesion():
    prediction, reference = regions(
        box(np.s_[1:3, 1:3, 2:5], np.s_[6, 8, 8]),  # 12 voxels, and one false
        box(np.s_[1:3, 1:3, 1:3], np.s_[5:8, 1, 9]),  # 8 voxels, and three missed
    )
    probability = np.where(prediction, 0.6, 0.1)
    probability[1, 1, 2], probability[6, 8, 8] = 0.9, 0.7
    wanted, found = match_lesions(prediction, reference, SPACING, probability=probability)
    assert wanted["detected"].tolist() == [True, False]
    assert wanted["n_matched"].tolist() == [1, 0]
    assert wanted["dice"].tolist() == pytest.approx([2 * 4 / 20, 0])
    assert wanted["best_confidence"].tolist() == pytest.approx([0.9, math.nan], nan_ok=True)
    assert wanted["volume_ml"].tolist() == pytest.approx([8 * 1.2 / 1000, 3 * 1.2 / 1000])
    assert wanted["max_diameter_mm"].tolist() == pytest.approx([math.hypot(6, 0.5, 0.8), 9.0])
    assert found["true_positive"].tolist() == [True, False]
    assert found["confidence"].tolist() == pytest.approx([0.9, 0.7])


def test_splits_and_merges_are_counted():
    one = box(np.s_[3, 3, 1:11])
    two = box(np.s_[3, 3, 1:5], np.s_[3, 3, 7:11])
    wanted, found = match_lesions(*regions(two, one), (1, 1, 1))
    assert wanted["n_matched"].tolist() == [2]
    assert wanted["dice"].tolist() == pytest.approx([2 * 8 / 18])
    assert found["n_matched"].tolist() == [1, 1]
    wanted, found = match_lesions(*regions(one, two), (1, 1, 1))
    assert wanted["n_matched"].tolist() == [1, 1]
    assert wanted["dice"].tolist() == pytest.approx([2 * 4 / 14] * 2)
    assert found["n_matched"].tolist() == [2]


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        (11, {"any_overlap": True, "iou_0.1": True, "iou_0.5": True, "centre_in_mask": True}),  # all of 10
        (6, {"any_overlap": True, "iou_0.1": True, "iou_0.5": True, "centre_in_mask": True}),  # exactly half
        (5, {"any_overlap": True, "iou_0.1": True, "iou_0.5": False, "centre_in_mask": True}),
        (2, {"any_overlap": True, "iou_0.1": True, "iou_0.5": False, "centre_in_mask": True}),  # exactly a tenth
    ],
)
def test_rules_for_a_prediction_inside_the_lesion(stop, expected):
    pair = regions(box(np.s_[3, 3, 1:stop]), box(np.s_[3, 3, 1:11]))
    found = {rule: bool(match_lesions(*pair, (1, 1, 1), rule=rule)[0]["detected"][0]) for rule in MATCHING_RULES}
    assert found == expected


def test_rules_for_a_prediction_that_only_grazes_the_lesion():
    pair = regions(box(np.s_[3, 3, 2:12]), box(np.s_[3, 1:4, 1:3]))  # shares one voxel of 10 and 6
    found = {rule: bool(match_lesions(*pair, (1, 1, 1), rule=rule)[0]["detected"][0]) for rule in MATCHING_RULES}
    assert found == {"any_overlap": True, "iou_0.1": False, "iou_0.5": False, "centre_in_mask": False}


def test_lesions_that_touch_by_a_corner_are_one_lesion():
    pair = regions(box(np.s_[3, 3, 3], np.s_[4, 4, 4]), box(np.s_[3, 3, 3]))
    wanted, found = match_lesions(*pair, (1, 1, 1))
    assert (len(wanted), len(found)) == (1, 1)
    assert wanted["dice"][0] == pytest.approx(2 / 3)


def test_small_lesions_are_left_out_of_both():
    pair = regions(box(np.s_[1, 1, 1], np.s_[5:7, 5, 5]), box(np.s_[1, 1, 1:3], np.s_[6, 9, 9]))
    wanted, found = match_lesions(*pair, (1, 1, 1), min_volume_mm3=2)
    assert wanted["detected"].tolist() == [False]
    assert found["true_positive"].tolist() == [False]


def test_empty_regions_give_empty_tables_with_all_columns():
    nothing, something = regions(box(), box(np.s_[1, 1, 1]))
    for rule in MATCHING_RULES:
        wanted, found = match_lesions(nothing, nothing, (1, 1, 1), rule=rule)
        assert (len(wanted), len(found)) == (0, 0)
        assert {"detected", "best_confidence"} <= set(wanted)
        wanted, found = match_lesions(nothing, something, (1, 1, 1), rule=rule)
        assert (wanted["detected"].tolist(), wanted["dice"].tolist(), len(found)) == ([False], [0.0], 0)
        wanted, found = match_lesions(something, nothing, (1, 1, 1), rule=rule)
        assert (found["true_positive"].tolist(), found["confidence"].isna().all(), len(wanted)) == ([False], True, 0)


def test_matching_refuses_unknown_rules_and_unequal_shapes():
    region = box(np.s_[1, 1, 1]).astype(bool)
    with pytest.raises(InputError, match="Unknown matching rule 'iou'"):
        match_lesions(region, region, (1, 1, 1), rule="iou")
    with pytest.raises(InputError, match="differ in shape"):
        match_lesions(region, region[1:], (1, 1, 1))
    with pytest.raises(InputError, match="array of bool"):
        match_lesions(region.astype(int), region, (1, 1, 1))
