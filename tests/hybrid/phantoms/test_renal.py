from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from scipy import ndimage
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import RepeatedStratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hybrid import InputError
from hybrid.handcrafted import extract_handcrafted
from hybrid.images import read_image, to_array
from hybrid.phantoms import SITES, TRIVIAL_BASELINES, simulate_renal_cohort, simulate_renal_patient
from hybrid.phantoms.fields import blur, correlated_noise
from hybrid.phantoms.renal import draw_mass, paint_patient, shown_contrast
from hybrid.selection import univariate_auc


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return simulate_renal_cohort(tmp_path_factory.mktemp("renal"), n=10, seed=4, progress=False)


def labels_of(case):
    return sitk.ReadImage(str(case.image.parents[1] / "labels" / case.image.name))


def voxels(path):
    return to_array(read_image(path))


def test_same_seed_gives_the_same_voxels_and_a_smaller_cohort_is_a_prefix(cohort, tmp_path):
    again = simulate_renal_cohort(tmp_path, n=4, seed=4, progress=False)
    for case in again:
        for one, two in ((case.image, cohort[case.case_id].image), (case.mask, cohort[case.case_id].mask)):
            np.testing.assert_array_equal(voxels(one), voxels(two))
    tables = [pd.read_csv(case.image.parents[1] / "truth.csv") for case in (again[0], cohort[0])]
    pd.testing.assert_frame_equal(tables[0], tables[1].head(4), check_dtype=False)
    other = simulate_renal_cohort(tmp_path / "other", n=2, seed=5, progress=False)
    assert not np.array_equal(voxels(other[0].image), voxels(again[0].image))


def test_one_patient_alone_equals_the_same_patient_of_the_cohort(cohort, tmp_path):
    row, truth = simulate_renal_patient(7, 4, tmp_path)
    case = cohort[row["case_id"]]
    np.testing.assert_array_equal(voxels(tmp_path / row["image"]), voxels(case.image))
    assert (row["outcome"], row["site"], row["age"]) == (case.outcome, case.site, case.covariates["age"])
    assert truth["malignant"] == case.outcome


def test_cohort_has_no_problems_and_balanced_outcomes(cohort):
    assert cohort.check().empty
    assert cohort.outcomes.sum() == 5
    assert set(cohort[0].covariates) == {"age", "sex"}


def test_truth_is_kept_apart_from_the_cohort_table(cohort):
    folder = cohort[0].image.parents[1]
    truth = pd.read_csv(folder / "truth.csv")
    table = pd.read_csv(folder / "cohort.csv")
    assert {"kind", "fat_fraction"} <= set(truth)
    assert set(table) == {"case_id", "patient_id", "image", "mask", "outcome", "site", "age", "sex"}
    assert (truth["fat_fraction"] > 0).equals(truth["kind"] == "angiomyolipoma")


def test_image_masks_and_labels_share_one_grid_of_16_bit_hounsfield_units(cohort):
    for case in cohort:
        image, labels = read_image(case.image), labels_of(case)
        assert image.GetPixelID() == sitk.sitkInt16
        assert image.GetSize() == labels.GetSize() == read_image(case.mask).GetSize()
        assert image.GetSpacing() == labels.GetSpacing() == pytest.approx(SITES[case.site].spacing[::-1])
        assert set(np.unique(to_array(labels))) == {0, 1, 2}


def test_mass_is_one_piece_at_a_kidney_and_inside_the_scan(cohort):
    for case in cohort:
        labels, mask = to_array(labels_of(case)), voxels(case.mask)
        for mass in (labels == 2, mask == 1):
            assert ndimage.label(mass, np.ones((3, 3, 3)))[1] == 1
            assert np.pad(mass[1:-1, 1:-1, 1:-1], 1).sum() == mass.sum()
        assert (ndimage.binary_dilation(labels == 2) & (labels == 1)).any()


def test_tissues_have_their_densities(cohort):
    for case in cohort:
        values, labels = voxels(case.image), to_array(labels_of(case))
        assert values[:, 0, 0].mean() == pytest.approx(-1000, abs=10)
        assert 90 < np.median(values[labels == 1]) < 180


def test_drawn_mask_follows_the_exact_mass_imperfectly(cohort):
    for case in cohort:
        drawn = voxels(case.mask) == 1
        exact = to_array(labels_of(case)) == 2
        dice = 2 * (drawn & exact).sum() / (drawn.sum() + exact.sum())
        assert 0.8 < dice < 1.0


def test_volume_of_the_mass_matches_its_radius(cohort):
    truth = pd.read_csv(cohort[0].image.parents[1] / "truth.csv").set_index("case_id")
    for case in cohort:
        labels = labels_of(case)
        volume = (to_array(labels) == 2).sum() * np.prod(labels.GetSpacing())
        expected = 4 / 3 * np.pi * truth.loc[case.case_id, "radius_mm"] ** 3
        assert 0.7 < volume / expected < 1.5


def test_sites_differ_in_slice_thickness_and_noise():
    mass = draw_mass(True, SITES["A"], np.random.default_rng(0))
    noise = {}
    for name, site in SITES.items():
        image, labels, _ = paint_patient(mass, site, np.random.default_rng(1))
        assert image.GetSpacing()[2] == site.spacing[0]
        kidney = ndimage.binary_erosion(to_array(labels) == 1, iterations=2)
        steps = np.diff(to_array(image).astype(float), axis=2)
        noise[name] = np.median(np.abs(steps[kidney[..., 1:] & kidney[..., :-1]]))
    assert noise["B"] > noise["A"] > noise["C"]


@pytest.mark.parametrize("scale", [2.0, 4.6])
@pytest.mark.parametrize("name", ["A", "C"])
def test_shown_contrast_predicts_what_the_scanner_leaves(scale, name):
    site = SITES[name]
    fine = (site.spacing[0] / 2, *site.spacing[1:])
    texture = correlated_noise((64, 96, 96), scale, fine, np.random.default_rng(0))
    blurred = blur(texture, site.blur_mm, fine)
    shown = blurred.reshape(-1, 2, 96, 96).mean(axis=1).std()
    assert shown == pytest.approx(shown_contrast(scale, site), rel=0.06)


def test_outcome_shifts_texture_shape_and_necrosis_but_not_size():
    rng = np.random.default_rng(0)
    site = SITES["A"]
    drawn = [draw_mass(malignant, site, rng) for malignant in (False, True) for _ in range(500)]
    names = ["radius_mm", "texture_scale_mm", "irregularity", "necrosis_fraction"]
    table = np.asarray([[getattr(mass.lesion, name) for name in names] for mass in drawn])
    area = dict(zip(names, univariate_auc(table, np.repeat([0, 1], 500)), strict=True))
    assert abs(area["radius_mm"] - 0.5) < 0.06
    assert area["texture_scale_mm"] < 0.1
    assert area["irregularity"] > 0.8
    assert area["necrosis_fraction"] > 0.6


def test_mean_density_of_a_mass_does_not_depend_on_its_necrosis():
    mass = next(
        drawn
        for drawn in (draw_mass(True, SITES["A"], np.random.default_rng(seed)) for seed in range(50))
        if drawn.kind == "solid" and drawn.lesion.necrosis_fraction > 0.15
    )
    site = replace(SITES["A"], noise_hu=0.0)
    image, labels, _ = paint_patient(mass, site, np.random.default_rng(2))
    lesion = mass.lesion
    expected = (1 - lesion.necrosis_fraction) * (100 + lesion.contrast_hu) + lesion.necrosis_fraction * 15
    inside = ndimage.binary_erosion(to_array(labels) == 2)
    # The rim (up to 25 HU) and the neighbourhood add some.
    assert to_array(image)[inside].mean() == pytest.approx(expected, abs=20)


@pytest.mark.slow
def test_volume_and_mean_density_hardly_tell_the_outcomes_apart(tmp_path):
    cohort = simulate_renal_cohort(tmp_path, n=160, seed=12, progress=False)
    rows = []
    for case in cohort:
        inside = voxels(case.mask) == 1
        rows.append((inside.sum() * np.prod(SITES[case.site].spacing), voxels(case.image)[inside].mean()))
    areas = univariate_auc(np.asarray(rows, float), cohort.outcomes.to_numpy(int))
    assert np.abs(areas - 0.5).max() < 0.16
    assert set(TRIVIAL_BASELINES) == {"volume", "mean_hu", "histogram"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 1}, "at least 2"),
        ({"n": 4, "seed": -1}, "seed"),
        ({"n": 4, "sites": ()}, "list of sites"),
        ({"n": 4, "sites": "A"}, "list of sites"),
        ({"n": 4, "sites": ("a",)}, "Unknown site 'a'"),
    ],
)
def test_impossible_cohorts_are_refused_before_anything_is_written(tmp_path, arguments, message):
    with pytest.raises(InputError, match=message):
        simulate_renal_cohort(tmp_path / "new", progress=False, **arguments)
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_texture_and_shape_together_do_better_than_the_histogram(tmp_path):
    cohort = simulate_renal_cohort(tmp_path, n=100, seed=21, progress=False)
    settings = {
        "setting": {"binWidth": 10, "resampledPixelSpacing": [2, 2, 2], "interpolator": "sitkLinear"},
        "imageType": {"Original": {}},
        "featureClass": {name: [] for name in ("shape", "firstorder", "glcm", "gldm", "glrlm", "glszm", "ngtdm")},
    }
    rows = [extract_handcrafted(read_image(case.image), read_image(case.mask), settings) for case in cohort]
    features = pd.DataFrame(rows).filter(regex="^rad_").astype(float)
    outcome = cohort.outcomes.to_numpy(int)
    histogram = features.filter(like="firstorder")
    areas = [
        cross_val_score(
            make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=3000)),
            columns, outcome, scoring="roc_auc", cv=RepeatedStratifiedKFold(n_splits=5, n_repeats=2, random_state=0),
        ).mean()
        for columns in (histogram, features.drop(columns=histogram.columns))
    ]  # fmt: skip
    assert areas[0] < 0.8
    assert areas[1] > max(0.8, areas[0] + 0.08)
