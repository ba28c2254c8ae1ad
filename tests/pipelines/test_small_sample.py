"""Small samples: features of two masks, agreement inside the fold, every estimate beside the volume alone."""

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk

from hybrid import Case, Cohort, InputError
from hybrid.analysis.small_sample import detectable_difference, permutation_p, small_sample_sentence
from hybrid.pipelines.mask_features import features_of_both_masks, join_measurements
from hybrid.pipelines.small_sample import SmallSampleSettings, check_size, run_small_sample

FAST = SmallSampleSettings(repeats=2, folds=3, inner_folds=2, bootstraps=4, permutations=3)
QUIET = {"progress": False}
SHAPE = {"imageType": {"Original": {}}, "featureClass": {"shape": []}}
VOLUME = "rad_original_shape_MeshVolume"


def table_and_cohort(n=16, signal=2.0, seed=0, held_out=0):
    """The first handcrafted column carries the outcome; deep columns and the volume do not."""
    rng = np.random.default_rng(seed)
    y = np.arange(n + held_out) % 2
    names = [f"c{i}" for i in range(n + held_out)]
    values = rng.normal(size=(n + held_out, 6))
    values[:, 0] += signal * y
    columns = ["rad_texture", "rad_other", VOLUME, "deep_0", "deep_1", "deep_2"]
    features = pd.DataFrame(values, columns=columns, index=pd.Index(names, name="case_id"))
    cases = [
        Case(name, f"p{name}", outcome=int(value), covariates={"split": "test" if i >= n else ""})
        for i, (name, value) in enumerate(zip(names, y, strict=True))
    ]
    return features, Cohort(cases)


def balls(folder, count):
    """Balls whose predicted masks are drawn a little too large, and one that was not found."""
    folder.mkdir()
    reference, predicted = [], []
    for number in range(count):
        rng = np.random.default_rng(number)
        distance = np.sqrt(sum((axis - 11) ** 2 for axis in np.ogrid[:22, :22, :22]))
        radius = rng.uniform(5, 8)
        image = rng.normal(50, 10, distance.shape).astype(np.float32) + 30 * (distance < radius)
        drawn = distance < radius + rng.uniform(-0.3, 0.8)
        arrays = {"image": image, "mask": 2 * (distance < radius), "drawn": 2 * drawn * (number != 0)}
        for name, array in arrays.items():
            kept = array.astype(np.float32 if name == "image" else np.uint8)
            sitk.WriteImage(sitk.GetImageFromArray(kept), str(folder / f"{name}{number}.nii.gz"))
        paths = {name: folder / f"{name}{number}.nii.gz" for name in arrays}
        for cases, mask in ((reference, "mask"), (predicted, "drawn")):
            cases.append(Case(f"c{number}", f"p{number}", paths["image"], paths[mask], outcome=number % 2))
    return Cohort(reference), Cohort(predicted)


def test_the_report_has_every_estimate_and_the_volume_beside_them(tmp_path):
    features, cohort = table_and_cohort(held_out=8)
    report = run_small_sample(cohort, tmp_path, features=features, settings=FAST, **QUIET)
    estimates = pd.read_csv(tmp_path / "tables" / "estimates.csv")
    by_kind = estimates.groupby("feature_set")["estimate"].agg(set)
    assert by_kind["handcrafted"] == {"nested_cv", "leave_pair_out", "632_plus", "held_out"}
    assert by_kind["volume"] == by_kind["deep"] == {"nested_cv", "leave_pair_out", "held_out"}
    wide = estimates[estimates["estimate"] == "nested_cv"].set_index("feature_set")
    assert wide.loc["handcrafted", "auc"] > 0.75 > wide.loc["volume", "auc"]
    assert wide.loc["handcrafted", "p_permutation"] == pytest.approx(0.25)
    null = wide.loc["handcrafted", ["null_lower", "null_mean", "null_upper"]].tolist()
    assert 0 < null[0] < null[1] < null[2] < 1
    assert estimates.loc[estimates["estimate"] != "nested_cv", "null_mean"].isna().all()
    page = report.read_text(encoding="utf-8")
    assert f"chance {null[1]:.2f} ({null[0]:.2f}–{null[2]:.2f})" in page
    assert "Handcrafted features" in page
    assert "the declared pipeline, by way of resampling" in page
    resampled = pd.read_csv(tmp_path / "tables" / "resampled.csv").query("metric == 'auc'").set_index("method")
    assert set(resampled["feature_set"]) == {"handcrafted"}
    assert {"632", "632_plus", "optimism_corrected", "leave_pair_out"} <= set(resampled.index)
    both = estimates.query("feature_set == 'handcrafted'").set_index("estimate")["auc"]
    assert resampled.loc["632_plus", "estimate"] == both["632_plus"]
    contrasts = pd.read_csv(tmp_path / "tables" / "contrasts.csv")
    assert set(contrasts["estimate"]) == {"nested_cv", "held_out"}
    held = estimates[(estimates["estimate"] == "held_out") & (estimates["feature_set"] == "deep")]
    assert int(held["n_patients"].iloc[0]) == 8


def test_too_few_patients_warn_before_training(caplog):
    _, cohort = table_and_cohort()
    sentence = check_size(cohort, FAST, None)
    assert "too few" in sentence
    assert sentence in caplog.text


def test_fewer_patients_of_an_outcome_than_folds_are_refused(tmp_path):
    features, cohort = table_and_cohort(n=8)
    with pytest.raises(InputError, match="5 folds need 5 patients of each outcome; found 4 positive and 4 negative"):
        run_small_sample(cohort, tmp_path, features=features, settings=SmallSampleSettings(folds=5), **QUIET)


def test_one_outcome_only_is_refused(tmp_path):
    features, cohort = table_and_cohort()
    same = Cohort(Case(case.case_id, case.patient_id, outcome=1) for case in cohort)
    with pytest.raises(InputError, match="Every case has the outcome"):
        run_small_sample(same, tmp_path, features=features, settings=FAST, **QUIET)


def test_features_of_both_masks_agree_for_balls_and_a_missed_lesion_is_listed(tmp_path):
    reference, predicted = balls(tmp_path / "data", 6)
    both = features_of_both_masks(
        reference, predicted, label=2, handcrafted=SHAPE, encoder=None, out=tmp_path / "out", **QUIET
    )
    volume = both.agreement.set_index("feature").loc[VOLUME]
    assert volume["icc"] > 0.7
    assert volume["n_subjects"] == 5
    assert volume["ccc"] == pytest.approx(volume["icc"], abs=0.15)
    grown = both.predicted[VOLUME] - both.reference[VOLUME]
    assert volume["bias"] == pytest.approx(grown.mean())
    assert volume["lower_limit"] < volume["bias"] < volume["upper_limit"]
    assert both.missing.to_dict("records") == [
        {"case_id": "c0", "source": "predicted", "reason": "no mask, or none with the label"}
    ]
    joined = both.of("reference")
    assert np.isnan(joined.loc["c0", f"{VOLUME}__repeat"])
    assert joined.loc["c1", f"{VOLUME}__repeat"] == both.predicted.loc["c1", VOLUME]


@pytest.mark.slow
def test_a_feature_that_does_not_agree_stays_out_of_every_model(tmp_path):
    features, cohort = table_and_cohort(signal=3.0)
    rng = np.random.default_rng(5)
    second = features + rng.normal(0, 0.05, features.shape)
    second["rad_texture"] = rng.normal(size=len(features))
    run_small_sample(cohort, tmp_path / "one", features=features, settings=FAST, **QUIET)
    joined = join_measurements(features, second)
    run_small_sample(cohort, tmp_path / "two", features=joined, settings=FAST, **QUIET)
    areas = [
        pd.read_csv(tmp_path / name / "tables" / "estimates.csv").set_index(["feature_set", "estimate"])["auc"]
        for name in ("one", "two")
    ]
    assert areas[0]["handcrafted", "nested_cv"] > 0.85 > areas[1]["handcrafted", "nested_cv"]
    assert areas[0]["volume", "nested_cv"] == areas[1]["volume", "nested_cv"]


def test_measurements_with_other_columns_are_refused():
    features, _ = table_and_cohort()
    with pytest.raises(InputError, match="differ in 1 features"):
        join_measurements(features, features.drop(columns="deep_0"))


def test_permutation_p_is_never_zero():
    assert permutation_p(0.9, np.full(99, 0.5)) == pytest.approx(0.01)
    assert permutation_p(0.4, np.full(99, 0.5)) == 1.0
    assert np.isnan(permutation_p(0.9, np.empty(0)))


def test_more_patients_detect_smaller_differences():
    few, many = detectable_difference(10, 10), detectable_difference(200, 200)
    assert many < 0.15 < few or np.isnan(few)


@pytest.mark.parametrize(("lower", "p", "words"), [(0.1, 0.01, "allows saying so"), (-0.1, 0.4, "do not allow saying")])
def test_the_sentence_says_whether_the_number_of_patients_is_enough(lower, p, words):
    row = pd.Series(
        {"model_a": "handcrafted", "model_b": "deep", "difference": 0.2, "lower": lower, "upper": 0.4, "p_holm": p,
         "n_patients": 20, "n_events": 10}
    )  # fmt: skip
    assert words in small_sample_sentence(row)
