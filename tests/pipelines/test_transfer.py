import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk

from hybrid import Cohort, InputError, LeakageError
from hybrid.analysis import TransferReport
from hybrid.analysis.transfer import ARMS, contrast_arms, contrast_values, first_sentence, summarise_arms
from hybrid.errors import HybridError
from hybrid.pipelines import TransferStudy
from hybrid.pipelines.cli import main
from hybrid.pipelines.runner import single_thread
from hybrid.pipelines.small_sample import SmallSampleSettings
from hybrid.pipelines.systems.transfer_features import classify_transfer, predicted_masks

FAST = {"epochs": 1, "pretraining_epochs": 2, "steps": 4, "seeds": 1, "plan": {"width": 8}, "progress": False}


def write_cohort(folder, count, *, first=0, label=1, bright=100.0, split=None):
    """Balls in noise; the auxiliary cohort may use another label and brightness."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(first, first + count):
        rng = np.random.default_rng(number)
        centre = rng.uniform(8, 16, 3)
        inside = sum((axis - c) ** 2 for axis, c in zip(np.ogrid[:24, :24, :24], centre, strict=True)) < 25
        values = rng.normal(0, 10, inside.shape) + bright * inside
        for name, array in (("image", values.astype(np.float32)), ("mask", (label * inside).astype(np.uint8))):
            sitk.WriteImage(sitk.GetImageFromArray(array), str(folder / f"{number}_{name}.nii.gz"))
        row = {"case_id": f"c{number}", "patient_id": f"p{number}", "image": f"{number}_image.nii.gz",
               "mask": f"{number}_mask.nii.gz"}  # fmt: skip
        rows.append(row if split is None else {**row, "split": split(number)})
    pd.DataFrame(rows).to_csv(folder / "cohort.csv", index=False)
    return Cohort.from_csv(folder / "cohort.csv")


@pytest.fixture
def primary(tmp_path):
    return write_cohort(tmp_path / "primary", 6, split=lambda i: "test" if i > 3 else "train")


@pytest.fixture
def auxiliary(tmp_path):
    return write_cohort(tmp_path / "auxiliary", 5, first=50, bright=60.0)


def test_all_arms_from_tables_to_report_and_a_second_run_trains_nothing(primary, auxiliary, tmp_path):
    study = TransferStudy(primary, auxiliary, tmp_path / "out", sizes=(2,), weights=(0.0,), **FAST)
    report = study.run()
    page = report.read_text(encoding="utf-8")
    assert all(name in page for name in ARMS.values())
    scores = pd.read_csv(tmp_path / "out" / "scores.csv")
    assert set(scores["case_id"]) == {"c4", "c5"}
    assert set(scores["arm"]) == set(ARMS)
    assert set(scores.loc[scores["arm"] == "fine_tune", "n_training"]) == {2, 4}
    assert set(scores.loc[scores["arm"] == "joint", "weight"]) == {0.0, 0.5}
    for name in ("arms", "contrasts", "learning_curve", "dilution"):
        assert len(pd.read_csv(tmp_path / "out" / "tables" / f"{name}.csv"))
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("model.safetensors")}
    assert len(stamps) == 1 + 5 + 3 + 1
    TransferStudy(primary, auxiliary, tmp_path / "out", sizes=(2,), weights=(0.0,), **FAST).run()
    assert stamps == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("model.safetensors")}
    pd.testing.assert_frame_equal(scores, pd.read_csv(tmp_path / "out" / "scores.csv"))


def test_arms_that_are_trained_side_by_side_give_the_same_scores(primary, auxiliary, tmp_path):
    settings = {**FAST, "arms": ("primary_only", "zero_shot", "fine_tune")}
    with single_thread():  # more threads add numbers in another order
        TransferStudy(primary, auxiliary, tmp_path / "alone", **settings).run()
        TransferStudy(primary, auxiliary, tmp_path / "together", n_jobs=2, **settings).run()
    alone, together = (pd.read_csv(tmp_path / name / "scores.csv") for name in ("alone", "together"))
    keys = ["arm", "case_id", "structure", "metric"]
    for arm in settings["arms"]:
        values = [table[table["arm"] == arm].set_index(keys)["value"] for table in (alone, together)]
        pd.testing.assert_series_equal(*values)


def test_a_failed_training_is_named_and_what_is_missing_is_trained_again(primary, auxiliary, tmp_path):
    settings = {**FAST, "arms": ("primary_only", "fine_tune"), "n_jobs": 2}
    broken = tmp_path / "out" / "runs" / "fine_tune" / "seed0_n004_w0.5"
    broken.parent.mkdir(parents=True)
    broken.write_text("a file where a folder should be")
    with pytest.raises(HybridError, match=r"1 of 2 trainings failed, the first one .*fine_tune"):
        TransferStudy(primary, auxiliary, tmp_path / "out", **settings).run()
    broken.unlink()
    TransferStudy(primary, auxiliary, tmp_path / "out", **settings).run()
    assert set(pd.read_csv(tmp_path / "out" / "scores.csv")["arm"]) == {"primary_only", "fine_tune"}


def test_every_patient_is_tested_once_per_repeat_and_never_trained_on(auxiliary, tmp_path):
    primary = write_cohort(tmp_path / "own", 6)
    study = TransferStudy(primary, auxiliary, tmp_path / "out", arms=("primary_only", "fine_tune"), folds=3, repeats=2)
    for arm in ("primary_only", "fine_tune"):
        runs = [run for run in study.runs if run.arm == arm]
        assert sorted(name for run in runs for name in run.test) == sorted([f"c{i}" for i in range(6)] * 2)
        assert all(not set(run.test) & set(run.training) for run in runs)
    rounds = [[(run.training, run.test) for run in study.runs if run.arm == arm] for arm in study.arms]
    assert rounds[0] == rounds[1]


def test_folds_of_unequal_size_are_one_size_of_training_set(auxiliary, tmp_path):
    primary = write_cohort(tmp_path / "own", 5)
    settings = {**FAST, "arms": ("zero_shot", "primary_only"), "folds": 2}
    report = TransferStudy(primary, auxiliary, tmp_path / "out", **settings).run()
    scores = pd.read_csv(tmp_path / "out" / "scores.csv")
    assert scores.groupby("run")["case_id"].nunique().tolist() == [3, 2]
    assert set(scores["n_training"]) == {3}
    assert not (report.parent / "tables" / "learning_curve.csv").exists()
    report = TransferStudy(primary, auxiliary, tmp_path / "out", sizes=(2,), **settings).run()
    tested = pd.read_csv(report.parent / "tables" / "learning_curve_tests.csv")
    assert set(tested["n_training"]) == {2}
    assert set(tested["n_patients"]) == {2}  # of the fold that trained with two patients and with three


def test_labels_of_the_auxiliary_cohort_are_mapped_or_refused(primary, tmp_path):
    other = write_cohort(tmp_path / "other", 4, first=80, label=7)
    with pytest.raises(InputError, match=r"labels \[7\].*no primary label"):
        TransferStudy(primary, other, tmp_path / "out", arms=("zero_shot",), **FAST).run()
    TransferStudy(primary, other, tmp_path / "out", arms=("zero_shot",), label_map={7: 1}, **FAST).run()
    assert set(pd.read_csv(tmp_path / "out" / "scores.csv")["structure"]) == {"label_1"}


def test_a_shared_patient_is_found_by_id_and_by_pixels(primary, auxiliary, tmp_path):
    with pytest.raises(LeakageError, match=r"3 patient.*p0, p1, p2"):
        TransferStudy(primary, write_cohort(tmp_path / "same", 3), tmp_path / "a", **FAST).run()
    table = pd.read_csv(tmp_path / "auxiliary" / "cohort.csv")
    copy = sitk.ReadImage(str(tmp_path / "primary" / "2_image.nii.gz"))
    copy.SetOrigin((5.0, 5.0, 5.0))
    sitk.WriteImage(copy, str(tmp_path / "auxiliary" / "50_image.nii.gz"))
    table.to_csv(tmp_path / "auxiliary" / "cohort.csv", index=False)
    with pytest.raises(LeakageError, match="c2 and c50 have the same pixels"):
        TransferStudy(primary, Cohort.from_csv(tmp_path / "auxiliary" / "cohort.csv"), tmp_path / "b", **FAST).run()


def test_region_is_located_with_a_coarse_network(primary, auxiliary, tmp_path):
    TransferStudy(primary, auxiliary, tmp_path / "out", arms=("zero_shot", "primary_only"), locate_mm=2.0, **FAST).run()
    out = tmp_path / "out"
    assert (out / "locator" / "model.safetensors").is_file()
    scores = pd.read_csv(out / "scores.csv")
    regions = {path.stem: np.load(path)["region"] for path in (out / "located").glob("*/*.npz")}
    assert set(regions) == set(scores["case_id"])
    assert all(region.any() for region in regions.values())


def test_impossible_studies_are_refused(primary, auxiliary, tmp_path):
    with pytest.raises(InputError, match="fine_tune"):
        TransferStudy(primary, auxiliary, tmp_path, arms=("finetune",))
    with pytest.raises(InputError, match="training set of 9 patients"):
        TransferStudy(primary, auxiliary, tmp_path, sizes=(9,))
    with pytest.raises(InputError, match="2 to 5 folds"):
        TransferStudy(auxiliary, primary, tmp_path, folds=9)


def test_the_command_writes_the_report(primary, auxiliary, tmp_path, capsys):
    code = main([
        "transfer", str(tmp_path / "primary" / "cohort.csv"), str(tmp_path / "auxiliary" / "cohort.csv"), "--arms",
        "primary_only", "zero_shot", "--epochs", "1", "--pretraining-epochs", "1", "--steps", "2", "--seeds", "1",
        "--quiet", "--out", str(tmp_path / "out"),
    ])  # fmt: skip
    assert code == 0
    assert (tmp_path / "out" / "report.html").is_file()


def test_masks_come_only_from_networks_that_have_not_seen_the_patient(primary, auxiliary, tmp_path):
    study = TransferStudy(primary, auxiliary, tmp_path / "out", arms=("zero_shot", "primary_only"), **FAST)
    with pytest.raises(LeakageError, match="4 primary cases, the first is c0, have masks of 'primary_only' only"):
        predicted_masks(study, "primary_only")
    with pytest.raises(InputError, match="'joint' was not trained"):
        predicted_masks(study, "joint")
    own = write_cohort(tmp_path / "own", 6)
    folded = TransferStudy(own, auxiliary, tmp_path / "folds", arms=("primary_only",), folds=2, **FAST)
    folded.run()
    drawn = predicted_masks(folded, "primary_only")
    assert sorted(case.case_id for case in drawn) == [f"c{i}" for i in range(6)]
    assert all(case.mask.is_file() and "predicted" in case.mask.parts for case in drawn)


def test_the_outcome_is_classified_by_features_of_both_masks(auxiliary, tmp_path):
    folder = tmp_path / "own"
    write_cohort(folder, 10)
    table = pd.read_csv(folder / "cohort.csv").assign(outcome=[0, 1] * 5)
    table.to_csv(folder / "cohort.csv", index=False)
    options = FAST | {"pretraining_epochs": 8, "steps": 15}
    study = TransferStudy(
        Cohort.from_csv(folder / "cohort.csv"), auxiliary, tmp_path / "out", arms=("zero_shot",), folds=2, **options
    )
    study.run()
    shape = {"imageType": {"Original": {}}, "featureClass": {"shape": [], "firstorder": []}}
    report = classify_transfer(
        study, structure="label_1", handcrafted=shape, encoder=None,
        settings=SmallSampleSettings(repeats=1, folds=2, inner_folds=2, bootstraps=2, permutations=1),
    )  # fmt: skip
    estimates = pd.read_csv(report.parent / "tables" / "estimates.csv")
    assert set(estimates["source"]) == {"reference", "predicted"}
    assert {"handcrafted", "volume"} == set(estimates["feature_set"])
    agreement = pd.read_csv(report.parent / "tables" / "agreement.csv").set_index("feature")
    assert agreement.loc["rad_original_shape_MeshVolume", "n_subjects"] >= 3
    assert "doi:10.2307/2532051" in report.read_text(encoding="utf-8")
    with pytest.raises(InputError, match="Unknown structure 'tumour'"):
        classify_transfer(study, structure="tumour")


def scores_of(values, metric="dice", n_training=20, weight=0.5):
    """Table of scores: arm to the value of every patient."""
    return pd.DataFrame([
        {"arm": arm, "run": f"seed{k}", "case_id": f"c{i}", "patient_id": f"p{i}", "structure": "tumour",
         "metric": metric, "value": value + 0.01 * k, "n_training": n_training, "weight": weight}
        for arm, numbers in values.items() for k in range(2) for i, value in enumerate(numbers)
    ])  # fmt: skip


def test_contrasts_are_paired_by_patient():
    rng = np.random.default_rng(0)
    own = rng.uniform(0.3, 0.9, 30)
    scores = scores_of({"primary_only": own, "fine_tune": own + rng.normal(0.05, 0.01, 30), "joint": own})
    table = contrast_arms(scores).set_index("arm")
    assert table.loc["fine_tune", "difference"] == pytest.approx(0.05, abs=0.01)
    assert table.loc["fine_tune", "ci_low"] > 0.04
    assert table.loc["fine_tune", "p_holm"] < 1e-4
    assert table.loc["joint", ["difference", "p", "p_holm"]].tolist() == [0, 1, 1]
    assert first_sentence(table.reset_index()).startswith(
        "Borrowing helps: fine-tuning of all layers gains most, +0.05"
    )
    summary = summarise_arms(scores).set_index("arm")
    assert summary.loc["primary_only", "mean"] == pytest.approx(own.mean() + 0.005)
    assert summary.loc["primary_only", "run_sd"] == pytest.approx(0.01 / np.sqrt(2))


def test_no_difference_is_said_plainly():
    own = np.linspace(0.4, 0.8, 12)
    noise = np.resize([0.02, -0.02], 12)
    sentence = first_sentence(contrast_arms(scores_of({"primary_only": own, "fine_tune": own + noise})))
    assert sentence.startswith("No arm differs")


def test_trainings_that_did_not_learn_are_named(tmp_path):
    own = np.random.default_rng(4).uniform(0.7, 0.9, 12)
    scores = scores_of({"primary_only": own, "fine_tune": own + 0.02})
    assert "ended far apart" not in TransferReport(scores, n_boot=50).sentence()
    stuck = (scores["arm"] == "primary_only") & (scores["run"] == "seed1")
    scores.loc[stuck, "value"] = 0.0
    assert "ended far apart: primary cohort only (SD of Dice 0.5" in TransferReport(scores, n_boot=50).sentence()
    once = scores[scores["run"] == "seed0"]
    assert "judged a patient by one training" in TransferReport(once, n_boot=50).sentence()


def test_folds_of_different_patients_are_no_repeats(tmp_path):
    own = np.linspace(0.2, 0.9, 12)
    scores = scores_of({"primary_only": own, "fine_tune": own + 0.02})
    scores = scores[scores["run"] == "seed0"]
    late = scores["case_id"].isin([f"c{i}" for i in range(6, 12)])
    folds = scores.assign(run=np.where(late, "repeat0_fold1", "repeat0_fold0"))
    assert summarise_arms(folds, n_boot=50)["run_sd"].isna().all()
    again = folds.assign(run=folds["run"].str.replace("repeat0", "repeat1"), value=folds["value"] + 0.01)
    summary = summarise_arms(pd.concat([folds, again]), n_boot=50)
    assert summary["run_sd"].to_numpy() == pytest.approx(0.01 / np.sqrt(2))
    assert summary["n_runs"].tolist() == [4, 4]


def test_a_report_removes_the_optional_tables_of_an_earlier_one(tmp_path):
    own = np.random.default_rng(4).uniform(0.7, 0.9, 12)
    scores = scores_of({"primary_only": own, "fine_tune": own + 0.02})
    fewer = scores.assign(n_training=10, value=scores["value"] - 0.05)
    TransferReport(pd.concat([scores, fewer]), n_boot=50).save(tmp_path / "report.html")
    assert (tmp_path / "tables" / "learning_curve.csv").is_file()
    TransferReport(scores, n_boot=50).save(tmp_path / "report.html")
    assert not (tmp_path / "tables" / "learning_curve.csv").exists()
    assert (tmp_path / "tables" / "arms.csv").is_file()


def test_published_claim_is_judged_against_fine_tuning(tmp_path):
    own = np.random.default_rng(3).uniform(0.3, 0.9, 40)
    arms = {"primary_only": own - 0.2, "fine_tune": own, "dual_branch": own + np.linspace(0.02, 0.04, 40)}
    report = TransferReport(scores_of(arms))
    assert "FS-Net-style network: +0.030 Dice" in report.sentence()
    assert "for tumour" in report.sentence()
    assert ", different after Holm" in report.sentence()
    same = TransferReport(scores_of({**arms, "dual_branch": own + np.resize([0.02, -0.02], 40)}))
    assert "not different after Holm" in same.sentence()
    page = report.save(tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Does anything beat plain fine-tuning?" in page
    table = pd.read_csv(tmp_path / "tables" / "contrasts_fine_tuning.csv")
    assert table["arm"].tolist() == ["dual_branch"]
    assert "FS-Net" not in TransferReport(scores_of({"primary_only": own, "joint": own})).sentence()


def test_surface_dice_is_tested_in_one_family_with_dice():
    rng = np.random.default_rng(1)
    own = rng.uniform(0.3, 0.9, 30)
    better = {"primary_only": own, "fine_tune": own + rng.normal(0.02, 0.03, 30)}
    dice, surface = scores_of(better), scores_of(better, "surface_dice")
    both = contrast_arms(pd.concat([dice, surface, scores_of(better, "hd95_mm")]))
    assert both["metric"].tolist() == ["dice", "surface_dice"]
    assert both["p_holm"].tolist() == pytest.approx([2 * both["p"][0]] * 2)
    assert contrast_arms(dice)["p_holm"][0] == pytest.approx(both["p"][0])
    with pytest.raises(InputError, match="Unknown metric 'asd'"):
        contrast_arms(dice, metrics=["asd"])


def test_dilution_and_learning_curve_are_paired_by_patient_and_run():
    own = np.random.default_rng(2).uniform(0.3, 0.9, 25)
    scores = pd.concat([
        scores_of({"joint": own}), scores_of({"joint": own + 0.01}, weight=0.1),
        scores_of({"joint": own - np.linspace(0.02, 0.04, 25)}, weight=2.0),
        scores_of({"primary_only": own}),
        scores_of({"primary_only": own - np.linspace(0.1, 0.2, 25)}, n_training=5).query("run == 'seed0'"),
    ])  # fmt: skip
    dilution = contrast_values(scores, "weight").set_index("weight")
    assert dilution["reference"].tolist() == [0.1, 0.1]
    assert dilution["difference"].tolist() == pytest.approx([-0.01, -0.04])
    assert (dilution["ci_high"] < 0).all()
    curve = contrast_values(scores, "n_training").iloc[0]
    assert (curve["arm"], curve["n_training"], curve["reference"]) == ("primary_only", 5, 20)
    assert curve["difference"] == pytest.approx(-0.15)  # seed0 with both numbers, not seed1
    assert contrast_values(scores_of({"joint": own}), "weight").empty
