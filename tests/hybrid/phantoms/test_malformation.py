from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from hybrid import InputError
from hybrid.cases import Cohort
from hybrid.images import compare_geometry, read_image, to_array
from hybrid.phantoms.malformation import (
    COHORT_COLUMNS,
    MR_SITES,
    SHAPE,
    TYPES,
    simulate_malformation_cohort,
    simulate_malformation_patient,
    threshold_baseline,
)


@pytest.fixture(scope="module")
def patients():
    return [simulate_malformation_patient(number, 2) for number in range(24)]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vm")
    assert len(simulate_malformation_cohort(folder, n=4, seed=2)) == 4
    return folder / "cohort.csv"


def voxels(image):
    return to_array(image).astype(float)


def dice(one, two):
    one, two = to_array(one) > 0, to_array(two) > 0
    return 2 * (one & two).sum() / (one.sum() + two.sum())


def around(inside):
    return ndimage.binary_dilation(inside, iterations=4) & ~ndimage.binary_dilation(inside, iterations=1)


def test_same_seed_gives_the_same_voxels_and_a_smaller_cohort_is_a_prefix(cohort, tmp_path, patients):
    simulate_malformation_cohort(tmp_path, n=2, seed=2)
    again = tmp_path / "cohort.csv"
    for name in ("cohort.csv", "truth.csv"):
        large, small = (pd.read_csv(path.with_name(name)) for path in (cohort, again))
        pd.testing.assert_frame_equal(small, large.head(2))
    for number, row in pd.read_csv(again).iterrows():
        for part, simulated in zip(("image", "mask"), patients[number][:2], strict=True):
            np.testing.assert_array_equal(voxels(read_image(tmp_path / row[part])), voxels(simulated))
    other, _, row = simulate_malformation_patient(0, 3)
    assert row["case_id"] != patients[0][2]["case_id"]
    assert not np.array_equal(voxels(other), voxels(patients[0][0]))


def test_cohort_table_holds_no_truth_and_reads_as_a_cohort_without_problems(cohort):
    assert list(pd.read_csv(cohort).columns) == list(COHORT_COLUMNS)
    assert not pd.read_csv(cohort)["image"].str.startswith("/").any()
    truth = pd.read_csv(cohort.with_name("truth.csv"))
    assert {"case_id", "type", "volume_ml", "n_lobes", "region", "side", "n_phleboliths"} <= set(truth.columns)
    read = Cohort.from_csv(cohort)
    assert len(read) == 4
    assert read.check().empty


def test_image_and_mask_share_an_anisotropic_grid_and_are_not_empty(patients):
    for image, mask, row in patients:
        assert compare_geometry(image, mask).verdict == "equal"
        assert tuple(reversed(image.GetSize())) == SHAPE
        assert image.GetSpacing() == MR_SITES[row["site"]].spacing[::-1]
        values, labels = voxels(image), to_array(mask)
        assert set(np.unique(labels)) == {0, 1}
        assert values.min() >= 0
        assert labels.sum() * np.prod(image.GetSpacing()) / 1000 == pytest.approx(row["volume_ml"])
        assert 0.1 < row["volume_ml"] < 200
        assert ndimage.label(labels)[1] == 1


def test_half_are_on_each_side_and_the_mask_lies_there(patients):
    assert sum(row["side"] == "left" for _, _, row in patients) == 12
    for _, mask, row in patients:
        if row["region"] in ("masseter", "parotid", "temple"):
            middle = np.argwhere(to_array(mask))[:, 2].mean() - (SHAPE[2] - 1) / 2
            assert (middle > 0) == (row["side"] == "left")


def test_types_sites_volumes_and_gains_vary(patients):
    rows = pd.DataFrame([row for _, _, row in patients])
    assert set(rows["type"]) == set(TYPES)
    assert set(rows["site"]) == set(MR_SITES)
    assert rows["volume_ml"].max() > 5 * rows["volume_ml"].min()
    medians = [np.median(voxels(image)) for image, _, _ in patients]
    assert max(medians) > 4 * min(medians)


def test_malformation_is_brighter_than_what_surrounds_it_and_infiltrating_ones_least(patients):
    contrast = {kind: [] for kind in TYPES}
    for image, mask, row in patients:
        inside, values = to_array(mask) > 0, voxels(image)
        contrast[row["type"]].append(values[inside].mean() / values[around(inside)].mean())
    assert np.mean([ratio > 1 for ratios in contrast.values() for ratio in ratios]) > 0.9
    assert np.mean(contrast["infiltrating"]) < np.mean(contrast["multilobed"])


def test_much_outside_the_malformation_is_as_bright_as_inside(patients):
    shares = []
    for image, mask, _ in patients:
        inside, values = to_array(mask) > 0, voxels(image)
        shares.append((values[~inside] > np.median(values[inside])).sum() / inside.sum())
    assert np.median(shares) > 1


def test_threshold_does_badly_on_the_grid_of_the_image(patients):
    found = [threshold_baseline(image) for image, _, _ in patients]
    assert np.mean([dice(one, mask) for one, (_, mask, _) in zip(found, patients, strict=True)]) < 0.6
    assert compare_geometry(patients[0][0], found[0]).verdict == "equal"
    assert all(to_array(one).any() for one in found)


def test_wrong_arguments_are_refused(tmp_path):
    with pytest.raises(InputError, match="at least 1 patient"):
        simulate_malformation_cohort(tmp_path, n=0)
    for number, seed in ((-1, 0), (0, -1)):
        with pytest.raises(InputError, match="0 or more"):
            simulate_malformation_patient(number, seed)
