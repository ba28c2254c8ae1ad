"""Grad-CAM over the lesions of a cohort: of a classifier of lesions and of an encoder, through the command line."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk

from hybrid import InputError
from hybrid.cases import Cohort
from hybrid.deep.segmentation.lesion_classes import (
    default_preprocessing,
    lesion_input,
    save_lesion_classifier,
    train_lesion_classifier,
)
from hybrid.pipelines import explain_lesions
from hybrid.pipelines.cli import main

SHAPE = (16, 40, 40)


def patient(folder, number):
    """A scan with a kidney (1), a bright and a dark lesion (2)."""
    rng = np.random.default_rng(number)
    values, mask = rng.normal(30, 5, SHAPE), np.zeros(SHAPE, np.uint8)
    mask[2:14, 4:36, 4:36] = 1
    for y, level in ((8, 200), (26, -60)):
        place = (slice(5, 10), slice(y, y + 6), slice(10, 16 + number % 3))
        values[place], mask[place] = level, 2
    paths = []
    for name, array in (("image", values.astype(np.float32)), ("mask", mask)):
        image = sitk.GetImageFromArray(array)
        image.SetSpacing((1.5, 1.5, 3.0))
        paths.append(folder / f"{name}_{number}.nii.gz")
        sitk.WriteImage(image, str(paths[-1]))
    return {"case_id": f"case {number}", "patient_id": f"p{number}", "image": paths[0], "mask": paths[1]}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("explained")
    pd.DataFrame([patient(folder, i) for i in range(4)]).to_csv(folder / "cohort.csv", index=False)
    return folder / "cohort.csv"


@pytest.fixture(scope="module")
def model(cohort, tmp_path_factory):
    """A classifier that tells bright from dark lesions."""
    inputs, names = [], []
    for case in Cohort.read(cohort):
        image, mask = (sitk.ReadImage(str(path)) for path in (case.image, case.mask))
        values = sitk.GetArrayFromImage(mask) == 2
        for name, half in (("bright", slice(0, 20)), ("dark", slice(20, 40))):
            single = np.zeros(SHAPE, np.uint8)
            single[:, half] = values[:, half]
            region = sitk.GetImageFromArray(single)
            region.CopyInformation(mask)
            inputs.append(lesion_input(image, region, default_preprocessing("ct")))
            names.append(name)
    classifier = train_lesion_classifier(inputs, names, epochs=8, batch_size=4)
    return save_lesion_classifier(tmp_path_factory.mktemp("lesions") / "classifier", classifier)


@pytest.fixture(scope="module")
def explained(cohort, model, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    words = ["explain", str(cohort), "--model", str(model), "--out", str(out), "--jobs", "1", "--quiet"]
    assert main(words) == 0
    return out


def test_every_lesion_has_a_map_on_the_grid_of_its_image(explained, cohort):
    maps = pd.read_csv(explained / "saliency" / "lesion_maps.csv")
    assert maps.groupby("case_id").size().tolist() == [2] * 4
    assert set(maps["label"]) == {2}
    assert sorted(set(maps["explained"])) == ["bright", "dark"]
    assert maps["probability"].between(0.5, 1).all()
    for row in maps.itertuples():
        source = sitk.ReadImage(str(Cohort.read(cohort)[row.case_id].image))
        found = sitk.ReadImage(str(explained / "saliency" / row.nifti))
        assert found.GetSize() == source.GetSize()
        assert found.GetSpacing() == pytest.approx(source.GetSpacing())
        assert (explained / "saliency" / row.picture).read_bytes()[:4] == b"\x89PNG"


def test_shares_of_the_map_are_those_of_the_written_files(explained, cohort):
    """A map that is interpolated to the image keeps about the same share on the lesion."""
    maps = pd.read_csv(explained / "saliency" / "lesion_maps.csv")
    for row in maps[~maps["flat"]].itertuples():
        values = sitk.GetArrayFromImage(sitk.ReadImage(str(explained / "saliency" / row.nifti)))
        mask = sitk.GetArrayFromImage(sitk.ReadImage(str(Cohort.read(cohort)[row.case_id].mask)))
        half = np.zeros(SHAPE, bool)
        half[:, slice(0, 20) if row.explained == "bright" else slice(20, 40)] = True
        share = values[(mask == 2) & half].sum() / values.sum()
        assert share == pytest.approx(row.on_lesion, abs=0.1)
        assert 0 < row.lesion_share < 0.5


def test_the_page_shows_pictures_the_check_and_no_pointing_score(explained):
    page = (explained / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png") == 8
    assert "8 lesions of 4 patients." in page
    check = pd.read_csv(explained / "saliency" / "randomisation.csv")
    assert len(check) == 4 * 3
    assert "mean rank correlation is" in page


def test_an_encoder_sees_the_whole_mask_as_one_lesion(cohort, tmp_path):
    maps = explain_lesions(Cohort.read(cohort), "bundled", tmp_path, modality="ct", progress=False)
    assert maps["case_id"].tolist() == [f"case {i}" for i in range(4)]
    assert maps["explained"].eq("embedding").all()
    assert maps["probability"].isna().all()
    again = explain_lesions(Cohort.read(cohort), "bundled", tmp_path, modality="ct", progress=False)
    pd.testing.assert_frame_equal(maps, again)


def test_what_cannot_be_explained_is_said(cohort, model, tmp_path):
    with pytest.raises(InputError, match="class 'brigth'"):
        explain_lesions(Cohort.read(cohort), model, tmp_path, target="brigth", progress=False)
    with pytest.raises(InputError, match="An encoder has no classes"):
        explain_lesions(Cohort.read(cohort), "bundled", tmp_path, modality="ct", target="bright", progress=False)
    with pytest.raises(InputError, match="No lesion could be explained: the masks hold no such label"):
        explain_lesions(Cohort.read(cohort), model, tmp_path, labels=[7], progress=False)
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "model.json").write_text('{"format": "hybrid-segmenter-1"}', encoding="utf-8")
    with pytest.raises(InputError, match="a network of whole images"):
        explain_lesions(Cohort.read(cohort), tmp_path / "whole", tmp_path, progress=False)
