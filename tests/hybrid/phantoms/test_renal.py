from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk

from hybrid import InputError
from hybrid.images import read_image, to_array
from hybrid.phantoms import TRIVIAL_BASELINES, simulate_renal_cohort
from hybrid.selection import univariate_auc


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return simulate_renal_cohort(tmp_path_factory.mktemp("renal"), n=10, seed=4, progress=False)


def test_same_seed_gives_the_same_voxels_and_a_smaller_cohort_is_a_prefix(cohort, tmp_path):
    again = simulate_renal_cohort(tmp_path, n=4, seed=4, progress=False)
    for case in again:
        for one, two in ((case.image, cohort[case.case_id].image), (case.mask, cohort[case.case_id].mask)):
            np.testing.assert_array_equal(to_array(read_image(one)), to_array(read_image(two)))
    other = simulate_renal_cohort(tmp_path / "other", n=2, seed=5, progress=False)
    assert not np.array_equal(to_array(read_image(other[0].image)), to_array(read_image(again[0].image)))


def test_cohort_has_no_problems_and_balanced_outcomes(cohort):
    assert cohort.check().empty
    assert cohort.outcomes.sum() == 5
    assert set(cohort[0].covariates) == {"age", "sex"}


def test_truth_is_kept_apart_from_the_cohort_table(cohort):
    folder = cohort[0].image.parents[1]
    truth = pd.read_csv(folder / "truth.csv")
    table = pd.read_csv(folder / "cohort.csv")
    assert "kind" in truth
    assert not {"kind", "irregularity", "texture_scale_mm"} & set(table)


def test_drawn_mask_follows_the_exact_mass_imperfectly(cohort):
    for case in cohort:
        drawn = to_array(read_image(case.mask)) == 1
        exact = to_array(read_image(case.image.parents[1] / "labels" / case.image.name)) == 2
        dice = 2 * (drawn & exact).sum() / (drawn.sum() + exact.sum())
        assert 0.8 < dice < 1.0


def test_volume_of_the_mass_matches_its_radius(cohort):
    folder = cohort[0].image.parents[1]
    truth = pd.read_csv(folder / "truth.csv").set_index("case_id")
    for case in cohort:
        image = sitk.ReadImage(str(folder / "labels" / case.image.name))
        volume = (to_array(image) == 2).sum() * np.prod(image.GetSpacing())
        expected = 4 / 3 * np.pi * truth.loc[case.case_id, "radius_mm"] ** 3
        assert 0.7 < volume / expected < 1.5


def test_sites_differ_in_slice_thickness_and_noise(tmp_path):
    air_noise = {}
    for site in ("A", "B"):
        case = simulate_renal_cohort(tmp_path / site, n=2, seed=1, sites=(site,), progress=False)[0]
        image = read_image(case.image)
        assert image.GetSpacing()[2] == {"A": 3.0, "B": 4.0}[site]
        liver = to_array(image)[image.GetSize()[2] // 2]
        air_noise[site] = np.median(np.abs(np.diff(liver[liver > 0].astype(float))))
    assert air_noise["B"] > air_noise["A"]


@pytest.mark.slow
def test_volume_and_mean_density_hardly_tell_the_outcomes_apart(tmp_path):
    cohort = simulate_renal_cohort(tmp_path, n=120, seed=12, sites=("C",), progress=False)
    rows = []
    for case in cohort:
        inside = to_array(read_image(case.mask)) == 1
        rows.append((inside.sum(), to_array(read_image(case.image))[inside].mean()))
    areas = univariate_auc(np.asarray(rows, float), cohort.outcomes.to_numpy(int))
    assert np.abs(areas - 0.5).max() < 0.2
    assert set(TRIVIAL_BASELINES) == {"volume", "mean_hu", "histogram"}


@pytest.mark.parametrize("arguments", [{"n": 1}, {"n": 4, "sites": ("Z",)}, {"n": 4, "sites": ()}])
def test_impossible_cohorts_are_refused(tmp_path, arguments):
    with pytest.raises(InputError):
        simulate_renal_cohort(tmp_path, progress=False, **arguments)
