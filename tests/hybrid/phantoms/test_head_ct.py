import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from hybrid import InputError
from hybrid.images import read_image, to_array
from hybrid.phantoms import head_ct
from hybrid.phantoms.head_ct import (
    KINDS,
    LABELS,
    MIN_AREA_MM2,
    VARIANTS,
    simulate_head_ct_cohort,
    simulate_head_ct_patient,
    write_head_ct_pngs,
)

SMALL = {"slices": 20, "size": 64}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("heads")
    simulate_head_ct_cohort(folder, n=16, seed=4, **SMALL)
    return folder


def volumes(folder, column):
    table = pd.read_csv(folder / "cohort.csv")
    return {row["case_id"]: to_array(read_image(folder / row[column])) for row in table.to_dict("records")}


def test_the_same_seed_gives_the_same_voxels_and_the_size_of_the_cohort_does_not_matter(cohort, tmp_path):
    simulate_head_ct_cohort(tmp_path, n=3, seed=4, **SMALL)
    few, many = volumes(tmp_path, "image"), volumes(cohort, "image")
    for name, values in few.items():
        np.testing.assert_array_equal(values, many[name])
    other = to_array(simulate_head_ct_patient(0, seed=5, **SMALL).image)
    assert not np.array_equal(other, next(iter(few.values())))


def test_a_slice_is_labelled_by_the_area_of_its_findings(cohort):
    slices = pd.read_csv(cohort / "slices.csv")
    masks = volumes(cohort, "mask")
    area = (218 / 64) ** 2
    for row in slices.to_dict("records"):
        found = (masks[row["case_id"]][row["slice"]] > 0).sum() * area
        assert row["area_mm2"] == pytest.approx(found, rel=1e-6)
        assert row["label"] == LABELS[int(found >= MIN_AREA_MM2)]
    assert 0.2 < (slices["label"] == LABELS[1]).mean() < 0.6
    assert set(slices["kind"].dropna()) <= set(KINDS)


def test_blood_that_a_slice_averages_with_bone_is_in_no_mask(monkeypatch):
    def densest():
        patient = simulate_head_ct_patient(3, slices=24, size=64, seed=0)
        values, mask = to_array(patient.image), to_array(patient.mask)
        marked = (mask > 0) & (mask != KINDS["calcification"])
        return max(np.median(v[m]) for v, m in zip(values, marked, strict=True) if m.sum() > 3)

    assert densest() < 110
    monkeypatch.setattr(head_ct, "HIDDEN_HU", np.inf)
    assert densest() > 150


def test_tissues_have_their_hounsfield_values():
    patient = simulate_head_ct_patient(0, slices=24, size=96, seed=1)
    values = to_array(patient.image).astype(float)
    brain = values[14][36:60, 36:60]
    assert 15 < np.median(brain) < 45
    assert values.max() > 600
    assert values[14][:4, :4].max() < -800
    assert to_array(patient.image).dtype == np.int16


def test_findings_lie_inside_the_head_and_bleeds_are_bright(cohort):
    images, masks = volumes(cohort, "image"), volumes(cohort, "mask")
    for name, mask in masks.items():
        if (mask > 0).any():
            assert np.median(images[name][mask > 0]) > -10
    bright = [
        np.median(images[name][mask == KINDS[kind]])
        for name, mask in masks.items()
        for kind in ("intracerebral_haemorrhage", "epidural_haematoma") if (mask == KINDS[kind]).sum() > 20
    ]  # fmt: skip
    assert bright
    assert min(bright) > 25


def test_normal_variants_occur_with_and_without_findings():
    patients = [simulate_head_ct_patient(number, slices=20, size=48, seed=2) for number in range(24)]
    drawn = pd.DataFrame([{**patient.variants, "ill": bool(patient.findings)} for patient in patients])
    assert drawn["ill"].sum() == 15
    for name in ("pineal_calcification", "choroid_calcification"):
        assert drawn.groupby("ill")[name].any().all()
    assert set(VARIANTS) < set(drawn.columns)


def test_the_mean_grey_value_does_not_tell_the_label(cohort):
    slices, images = pd.read_csv(cohort / "slices.csv"), volumes(cohort, "image")
    grey = [np.clip(images[row.case_id][row.slice], 0, 80).mean() for row in slices.itertuples()]
    area = roc_auc_score(slices["label"] == LABELS[1], grey)
    assert 0.3 < area < 0.7


def test_slices_are_written_as_png_with_a_table(cohort, tmp_path):
    table = pd.read_csv(write_head_ct_pngs(cohort, tmp_path))
    assert len(table) == 16 * 20
    assert (tmp_path / table["image"].iloc[0]).is_file()
    assert to_array(read_image(cohort / pd.read_csv(cohort / "cohort.csv")["image"].iloc[0])).shape == (20, 64, 64)


@pytest.mark.parametrize("wrong", [{"n": 0}, {"slices": 5}, {"size": 10}, {"seed": -1}])
def test_arguments_out_of_range_are_refused(tmp_path, wrong):
    with pytest.raises(InputError):
        simulate_head_ct_cohort(tmp_path, **{"n": 1, **SMALL, **wrong})
