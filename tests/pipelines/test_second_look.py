"""Training of a cascade's second look from a cohort, with stand-ins for the networks that are exact on the phantom."""

import json
import logging

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk

from hybrid.cases import Case, Cohort
from hybrid.deep.segmentation import candidates
from hybrid.deep.segmentation.cascade import CascadeRules, RenalCascade
from hybrid.deep.segmentation.planning import SegmentationPlan
from hybrid.deep.segmentation.segmenter import Segmenter
from hybrid.errors import InputError
from hybrid.pipelines.systems import second_look
from hybrid.pipelines.systems.second_look import CANDIDATES, train_second_look
from hybrid.pipelines.training_cases import Fold

PATIENTS = 10


class ByDensity:
    """Kidney from 60 on, mass from 150 on; the first stage takes both for kidney."""

    def __init__(self, channels):
        self.channels = channels

    def __call__(self, patches):
        kidney, mass = patches[:, 0] > 60, patches[:, 0] > 150
        classes = [~kidney, kidney] if self.channels == 2 else [~kidney, kidney & ~mass, mass]
        return np.stack(classes, axis=1).astype(np.float32)


def stage(*names):
    plan = SegmentationPlan(
        network="unet", modality="ct", labels=tuple(range(1, len(names) + 1)), label_names=names,
        spacing=(2.0, 2.0, 2.0), patch=(16, 16, 16), batch=2, width=8, kernels=((3, 3, 3),) * 3,
        strides=((1, 1, 1), (2, 2, 2), (2, 2, 2)), intensity={"low": -1e4, "high": 1e4, "mean": 0.0, "sd": 1.0},
    )  # fmt: skip
    segmenter = Segmenter(plan, (), ({"sha256": "x"},), None)
    segmenter.__dict__["engine"] = ByDensity(len(names) + 1)
    return segmenter


def ball(centre, radius):
    grid = np.indices((40, 40, 40))
    return sum((grid[axis] - centre[axis]) ** 2 for axis in range(3)) <= radius**2


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Patients with one mass and two denser things that are none, the folder of a cascade, and two folds."""
    cases = []
    for number in range(PATIENTS):
        organ = ball((20, 20, 20), 14)
        values, mask = np.where(organ, 100.0, 0.0), organ.astype(np.uint8)
        for centre, density, label in (((20, 14, 14), 200, 2), ((12, 24, 24), 260, 1), ((28, 24, 24), 250, 1)):
            region = ball(centre, 2 + number % 3)
            values[region], mask[region] = density + number, label
        for part, array in (("image", values.astype(np.float32)), ("mask", mask)):
            item = sitk.GetImageFromArray(array)
            item.SetSpacing((2.0, 2.0, 2.0))
            sitk.WriteImage(item, str(tmp_path / f"{part}{number}.nii.gz"))
        files = [tmp_path / f"{part}{number}.nii.gz" for part in ("image", "mask")]
        cases.append(Case(f"c{number}", f"p{number}", *files))
    for part in ("kidney", "mass/fold_0", "mass/fold_1"):
        (tmp_path / "cascade" / part).mkdir(parents=True)
        (tmp_path / "cascade" / part / "model.json").write_text(json.dumps({"sha256": part}))
    cascade = RenalCascade(stage("kidney"), stage("kidney", "mass"), rules=CascadeRules())
    monkeypatch.setattr(second_look, "_cascade", lambda *_: cascade)
    names = [case.case_id for case in cases]
    folds = {
        "mass/fold_0": Fold(tuple(names[5:]), tuple(names[:5])),
        "mass/fold_1": Fold(tuple(names[:5]), tuple(names[5:])),
    }
    return Cohort(cases), tmp_path / "cascade", folds


def test_second_look_learns_from_the_patients_that_each_network_did_not_see(study, monkeypatch):
    cohort, folder, folds = study
    monkeypatch.setattr(candidates, "FEWEST", PATIENTS)
    look = train_second_look(cohort, folder, CascadeRules(), folds, progress=False)
    table = pd.read_csv(folder / CANDIDATES)
    names = [case.case_id for case in cohort]
    assert table.groupby("case_id").size().to_dict() == dict.fromkeys(names, 3)
    assert table.groupby("case_id")["is_mass"].sum().to_dict() == dict.fromkeys(names, 1)
    assert look.card["patients"] == PATIENTS
    kept = look.scores(table) >= look.threshold
    assert kept[table["is_mass"] == 1].all()
    assert kept[table["is_mass"] == 0].sum() <= PATIENTS
    assert not (folder / "cache").exists()


def test_too_few_candidates_leave_it_out_and_say_so(study, caplog):
    cohort, folder, folds = study
    with caplog.at_level(logging.INFO):
        assert train_second_look(cohort, folder, CascadeRules(), folds, progress=False) is None
    assert "needs 20 masses and 20 other candidates" in caplog.text
    assert (folder / CANDIDATES).is_file()


def test_an_unreadable_image_is_named(study):
    cohort, folder, folds = study
    cohort["c3"].image.write_bytes(b"no image")
    with pytest.raises(InputError, match="c3"):
        train_second_look(cohort, folder, CascadeRules(), folds, progress=False)
