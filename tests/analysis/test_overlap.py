"""Overlap over cases: means, patient-clustered intervals, the flag for overfitting, limits of agreement."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from hybrid.analysis.overlap import (
    GAP_COLUMNS,
    SUMMARY_COLUMNS,
    bland_altman,
    gap_by_training_size,
    generalisation_gap,
    summarise_overlap,
)
from hybrid.errors import InputError, LeakageError
from hybrid.tables import MASK_COLUMNS


def masks(values, *, metric="dice", split="test", structure="tumor", patients=None, convention="kits", first=0):
    """One row per case; ``patients`` gives each case's patient."""
    rows = []
    for i, value in enumerate(values):
        case = f"{split}{first + i}"
        patient = case if patients is None else patients[i]
        rows.append((case, patient, "A", split, structure, np.nan, "", metric, value, convention))
    return pd.DataFrame(rows, columns=list(MASK_COLUMNS))


def volumes(reference, predicted, **settings):
    return pd.concat([
        masks(reference, metric="reference_volume_ml", **settings),
        masks(predicted, metric="predicted_volume_ml", **settings),
    ], ignore_index=True)  # fmt: skip


def test_mean_sd_and_median_are_those_of_the_defined_cases():
    row = summarise_overlap(masks([0.5, 0.7, 0.9, np.nan]), n_boot=100).iloc[0]
    assert (row["n_cases"], row["n_patients"], row["n_undefined"]) == (4, 4, 1)
    assert row["mean"] == pytest.approx(0.7)
    assert row["sd"] == pytest.approx(0.2)
    assert row["median"] == pytest.approx(0.7)
    assert row["ci_low"] < 0.7 < row["ci_high"]
    assert row["convention"] == "kits"
    assert "patient bootstrap" in row["method"]


def test_summary_is_tidy_and_leaves_the_input_alone():
    table = pd.concat([masks([0.8, 0.9]), masks([0.6, 0.7], split="train")])
    before = table.copy(deep=True)
    summary = summarise_overlap(table, n_boot=50)
    assert list(summary.columns) == ["split", "structure", *SUMMARY_COLUMNS]
    assert list(summary["split"]) == ["train", "test"]
    pd.testing.assert_frame_equal(table, before)


def test_cases_of_one_patient_widen_the_interval():
    values = np.repeat(np.linspace(0.4, 0.9, 8), 4)
    together = summarise_overlap(masks(values, patients=[f"p{i // 4}" for i in range(32)])).iloc[0]
    apart = summarise_overlap(masks(values)).iloc[0]
    assert together["mean"] == pytest.approx(apart["mean"])
    assert (together["n_patients"], apart["n_patients"]) == (8, 32)
    ratio = (together["ci_high"] - together["ci_low"]) / (apart["ci_high"] - apart["ci_low"])
    assert ratio == pytest.approx(2.0, rel=0.2)


def test_one_patient_with_many_cases_has_no_interval():
    row = summarise_overlap(masks([0.5, 0.6, 0.7], patients=["p"] * 3), n_boot=50).iloc[0]
    assert np.isnan(row["ci_low"])
    assert row["method"] == "none"


def test_an_infinite_distance_is_not_dropped_silently():
    row = summarise_overlap(masks([1.0, 2.0, np.inf], metric="hd95_mm"), n_boot=50).iloc[0]
    assert row["mean"] == np.inf
    assert row["median"] == 2.0
    assert row["n_undefined"] == 0
    assert np.isnan([row["sd"], row["ci_low"]]).all()


def test_same_seed_gives_the_same_interval():
    table = masks(np.linspace(0.2, 0.9, 12))
    pd.testing.assert_frame_equal(summarise_overlap(table, seed=3), summarise_overlap(table, seed=3))


def test_two_conventions_in_one_mean_are_refused():
    table = pd.concat([masks([0.5, 0.6]), masks([1.0], convention="nnunet", first=2)])
    with pytest.raises(InputError, match="conventions"):
        summarise_overlap(table)


def test_structures_are_not_mixed_into_one_mean():
    table = pd.concat([masks([0.5, 0.6]), masks([0.9, 0.9], structure="kidney")])
    with pytest.raises(InputError, match="'structure'"):
        summarise_overlap(table, by=("split",))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"split": "tset"}, "'test'"),
        ({"value": "high"}, "numbers"),
        ({"case_id": "test0"}, "twice"),
    ],
)
def test_unusable_tables_are_refused_with_a_reason(change, text):
    with pytest.raises(InputError, match=text):
        summarise_overlap(masks([0.5, 0.6]).assign(**change))


def test_missing_column_and_unknown_metric_are_named():
    with pytest.raises(InputError, match="structure"):
        summarise_overlap(masks([0.5]).drop(columns="structure"))
    with pytest.raises(InputError, match="'dice'"):
        summarise_overlap(masks([0.5]), metrics=["dise"])


def test_gap_is_train_minus_test_and_flags_a_clear_one():
    rng = np.random.default_rng(0)
    table = pd.concat([
        masks(0.9 + 0.01 * rng.normal(size=20), split="train"), masks(0.7 + 0.01 * rng.normal(size=20)),
    ])  # fmt: skip
    gap = generalisation_gap(table, structure="tumor", n_boot=500)
    row = gap.table.iloc[0]
    assert list(gap.table.columns) == list(GAP_COLUMNS)
    assert row["gap"] == pytest.approx(row["train_mean"] - row["test_mean"])
    assert gap.overfit
    assert row["ci_low"] > 0.05
    assert "is raised" in gap.method
    assert "<table" in gap._repr_html_()


def test_gap_interval_matches_the_normal_theory_of_independent_samples():
    rng = np.random.default_rng(1)
    train, test = 0.9 + 0.05 * rng.normal(size=60), 0.8 + 0.05 * rng.normal(size=60)
    row = generalisation_gap(pd.concat([masks(train, split="train"), masks(test)]), structure="tumor").table.iloc[0]
    half = 1.96 * np.sqrt(train.var() / 60 + test.var() / 60)
    assert (row["ci_high"] - row["ci_low"]) / 2 == pytest.approx(half, rel=0.07)


def test_large_gap_with_a_wide_interval_is_not_flagged():
    table = pd.concat([masks([0.9, 0.9, 0.9], split="train"), masks([0.95, 0.5, 0.95])])
    gap = generalisation_gap(table, structure="tumor")
    assert gap.table["gap"].iloc[0] == pytest.approx(0.1)
    assert not gap.overfit
    assert "not raised" in gap.method


def test_flag_follows_the_threshold_that_was_set_beforehand():
    table = pd.concat([masks([0.9] * 5, split="train"), masks([0.8] * 5)])
    assert generalisation_gap(table, structure="tumor", threshold=0.05, n_boot=50).overfit
    assert not generalisation_gap(table, structure="tumor", threshold=0.15, n_boot=50).overfit


def test_a_single_test_patient_leaves_the_verdict_open():
    gap = generalisation_gap(pd.concat([masks([0.9, 0.8], split="train"), masks([0.2])]), structure="tumor", n_boot=50)
    assert not gap.overfit
    assert np.isnan(gap.table["ci_low"].iloc[0])
    assert "not decided" in gap.method


def test_a_patient_in_both_sets_is_a_leak():
    table = pd.concat([masks([0.9, 0.8], split="train", patients=["a", "b"]), masks([0.7, 0.7], patients=["b", "c"])])
    with pytest.raises(LeakageError, match="'b'"):
        generalisation_gap(table, structure="tumor")


def test_gap_refuses_metrics_whose_direction_differs():
    with pytest.raises(InputError, match="hd95_mm"):
        generalisation_gap(masks([1.0], metric="hd95_mm"), metric="hd95_mm", structure="tumor")


def test_learning_curve_has_one_row_per_size_in_ascending_order():
    tables = {
        size: pd.concat([masks([0.9] * 4, split="train"), masks([value] * 4)])
        for size, value in ((40, 0.88), (10, 0.6))
    }
    curve = gap_by_training_size(tables, structure="tumor", n_boot=50)
    assert list(curve["training_size"]) == [10, 40]
    assert curve["gap"].to_numpy() == pytest.approx([0.3, 0.02])
    assert list(curve["overfit"]) == [True, False]


def test_bland_altman_matches_a_calculation_by_hand():
    result = bland_altman(volumes([10, 20, 30, 40], [12, 21, 33, 46]), "tumor")
    row = result.summary.iloc[0]
    sd = np.sqrt(14 / 3)  # differences 2, 1, 3, 6 around 3
    assert row["bias_ml"] == pytest.approx(3.0)
    assert row["sd_ml"] == pytest.approx(sd)
    assert row["upper_limit_ml"] == pytest.approx(3 + 1.96 * sd)
    t = 3.182446305284263  # 97.5 % quantile, 3 degrees of freedom
    assert row["bias_ci_high"] == pytest.approx(3 + t * sd / 2)
    assert row["lower_limit_ci_low"] == pytest.approx(3 - 1.96 * sd - t * sd * np.sqrt(3 / 4))
    assert list(result.table["mean_ml"]) == [11, 20.5, 31.5, 43]
    assert list(result.table["difference_ml"]) == [2, 1, 3, 6]


def test_bland_altman_resamples_patients_with_several_cases():
    table = volumes([10, 20, 30, 40], [12, 21, 33, 46], patients=["a", "a", "b", "c"])
    row = bland_altman(table, "tumor", n_boot=200).summary.iloc[0]
    assert row["n_patients"] == 3
    assert "patient bootstrap" in row["interval_method"]
    assert row["bias_ci_low"] <= 3.0 <= row["bias_ci_high"]


def test_bland_altman_asks_which_split_is_meant():
    table = pd.concat([volumes([10, 20], [11, 19]), volumes([10, 20], [10, 20], split="train")])
    with pytest.raises(InputError, match="several splits"):
        bland_altman(table, "tumor")
    assert bland_altman(table, "tumor", split="train").summary["bias_ml"].iloc[0] == 0.0
