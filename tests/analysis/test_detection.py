"""Lesions found and missed: strata, intervals, FROC with ties and misses, accuracy of classes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from hybrid.analysis.detection import (
    CLASSIFICATION_COLUMNS,
    DETECTION_COLUMNS,
    FROC_RATES,
    classification_by_size,
    detection_table,
    froc,
    lesion_table,
    recall_by_diameter,
    size_bin,
    size_labels,
)
from hybrid.analysis.proportions import clustered_interval, wilson_interval
from hybrid.analysis.resampling import patient_weights
from hybrid.errors import InputError
from hybrid.tables import MASK_COLUMNS


def row(case, patient, lesion, metric, value, structure="mass", split="test"):
    return (case, patient, "A", split, structure, lesion, "", metric, value, "any_overlap" if lesion else "kits")


def build(cases, **settings):
    """Masks table from ``{case: (patient, [(diameter, detected, confidence)], [(true_positive, confidence)])}``."""
    rows = []
    for case, (patient, reference, predicted) in cases.items():
        rows.append(row(case, patient, "", "dice", 0.5, **settings))
        for i, (diameter, detected, confidence) in enumerate(reference, 1):
            for metric, value in (("max_diameter_mm", diameter), ("detected", detected), ("confidence", confidence)):
                rows.append(row(case, patient, f"r{i}", metric, value, **settings))
        for i, (true_positive, confidence) in enumerate(predicted, 1):
            for metric, value in (
                ("max_diameter_mm", 7.0), ("true_positive", true_positive), ("confidence", confidence),
            ):  # fmt: skip
                rows.append(row(case, patient, f"p{i}", metric, value, **settings))
    return pd.DataFrame(rows, columns=list(MASK_COLUMNS))


@pytest.fixture
def four_cases():
    """Four reference lesions (three found), two false positives, one case without any lesion."""
    return build({
        "a": ("a", [(30.0, 1, 0.9), (4.0, 0, np.nan)], [(1, 0.9), (0, 0.3)]),
        "b": ("b", [(10.0, 1, 0.6)], [(1, 0.6), (0, 0.6)]),
        "c": ("c", [(80.0, 1, 0.3)], [(1, 0.3)]),
        "d": ("d", [], []),
    })  # fmt: skip


def test_wilson_interval_equals_published_values():
    # Newcombe 1998 (doi:10.1002/(SICI)1097-0258(19980430)17:8<857::AID-SIM777>3.0.CO;2-E), table I, method 3.
    assert wilson_interval(81, 263)[0] == pytest.approx([0.2553, 0.3662], abs=5e-5)
    assert wilson_interval(0, 20)[0] == pytest.approx([0.0, 0.1611], abs=5e-5)
    assert wilson_interval([1], [29])[0] == pytest.approx([0.0061, 0.1718], abs=5e-5)
    assert np.isnan(wilson_interval(0, 0)).all()


def test_impossible_counts_are_refused():
    with pytest.raises(InputError, match="Successes"):
        wilson_interval(3, 2)


def test_labels_are_readable_and_the_lower_edge_belongs_to_the_stratum():
    assert size_labels((5.0, 20.0, 70.0)) == ["< 5 mm", "5 to 20 mm", "20 to 70 mm", ">= 70 mm"]
    assert size_labels((7.5,)) == ["< 7.5 mm", ">= 7.5 mm"]
    bins = [size_bin(value) for value in (0.0, 4.99, 5.0, 19.9, 20.0, 70.0)]
    assert bins == ["< 5 mm", "< 5 mm", "5 to 20 mm", "5 to 20 mm", "20 to 40 mm", ">= 70 mm"]


@pytest.mark.parametrize("edges", [(5.0, 5.0), (20.0, 5.0), (0.0, 5.0), (np.nan,)])
def test_edges_that_make_no_strata_are_refused(edges):
    with pytest.raises(InputError, match="ascending"):
        size_labels(edges)


@pytest.mark.parametrize("diameter", [np.nan, -1.0])
def test_lesion_without_a_diameter_is_refused(diameter):
    with pytest.raises(InputError, match="diameter"):
        size_bin(diameter)


def test_recall_precision_f1_and_false_positives_by_hand(four_cases):
    table = detection_table(four_cases, n_boot=200).set_index("stratum")
    overall = table.loc["all"]
    assert list(table.reset_index()[["split", *DETECTION_COLUMNS]].columns) == ["split", *DETECTION_COLUMNS]
    assert (overall["n_lesions"], overall["detected"], overall["n_patients"], overall["n_cases"]) == (4, 3, 3, 4)
    assert overall["recall"] == 0.75
    assert overall["precision"] == pytest.approx(3 / 5)
    assert overall["f1"] == pytest.approx(2 * 0.75 * 0.6 / 1.35)
    assert overall["fp_per_case"] == 0.5  # the case without lesions counts
    assert overall["rule"] == "any_overlap"
    assert list(table["n_lesions"]) == [4, 1, 1, 1, 0, 1]
    assert table.loc["< 5 mm", "recall"] == 0.0
    assert np.isnan(table.loc["40 to 70 mm", "recall"])
    assert np.isnan(table.loc["< 5 mm", "precision"])
    assert table["too_few"].all()


def test_method_of_the_interval_follows_the_clustering(four_cases):
    table = detection_table(four_cases, n_boot=200).set_index("stratum")
    assert table.loc["all", "interval_method"] == "patient bootstrap"
    assert table.loc[">= 70 mm", "interval_method"] == "Wilson"
    assert table.loc["40 to 70 mm", "interval_method"] == "none"


def test_perfect_recall_of_clustered_lesions_uses_patients_as_trials():
    low, high, how = clustered_interval([1] * 8, ["a"] * 4 + ["b"] * 4)
    assert (low, high) == pytest.approx((0.025**0.5, 1.0))
    assert how == "exact, patients as trials"
    assert clustered_interval([1, 0, 1], ["a", "a", "a"])[2] == "none"


def test_lesions_of_the_same_patient_do_not_narrow_the_interval():
    hits = np.repeat([1, 0, 1, 1, 0, 1, 1, 0, 1, 1], 6)
    low, high, _ = clustered_interval(hits, np.repeat(np.arange(10), 6))
    alone = wilson_interval(42, 60)[0]
    assert high - low > 1.8 * (alone[1] - alone[0])


def test_strata_with_enough_lesions_are_not_marked():
    cases = {f"c{i}": (f"p{i}", [(10.0, int(i % 3 > 0), 0.5 if i % 3 else np.nan)], []) for i in range(12)}
    table = detection_table(build(cases), n_boot=50).set_index("stratum")
    assert not table.loc["all", "too_few"]
    assert table.loc["all", "interval_method"] == "Wilson"
    assert table.loc["all", ["ci_low", "ci_high"]].astype(float).to_numpy() == pytest.approx(wilson_interval(8, 12)[0])


def test_nothing_predicted_gives_zero_f1_and_undefined_precision():
    overall = detection_table(build({"a": ("a", [(9.0, 0, np.nan)], []), "b": ("b", [], [])}), n_boot=50).iloc[0]
    assert overall["f1"] == 0.0
    assert np.isnan(overall["precision"])
    assert overall["fp_per_case"] == 0.0


def test_table_without_any_lesion_counts_its_cases():
    overall = detection_table(build({"a": ("a", [], []), "b": ("b", [], [])}), n_boot=50).iloc[0]
    assert (overall["n_cases"], overall["n_lesions"], overall["false_positives"]) == (2, 0, 0)
    assert np.isnan(overall["recall"])
    assert np.isnan(overall["f1"])


def test_lesions_of_two_structures_are_kept_apart(four_cases):
    table = pd.concat([four_cases, build({"a": ("a", [(9.0, 1, 0.5)], [])}, structure="cyst")])
    with pytest.raises(InputError, match="several structures"):
        detection_table(table)
    split = detection_table(table, by=("split", "structure"), n_boot=50).query("stratum == 'all'")
    assert dict(zip(split["structure"], split["n_lesions"], strict=True)) == {"mass": 4, "cyst": 1}


def test_two_matching_rules_are_not_mixed(four_cases):
    other = build({"e": ("e", [(9.0, 1, 0.5)], [])}).replace("any_overlap", "iou_0.5")
    with pytest.raises(InputError, match="rules"):
        detection_table(pd.concat([four_cases, other]))


def test_odd_lesion_ids_and_flags_are_refused(four_cases):
    with pytest.raises(InputError, match="'x1'"):
        lesion_table(four_cases.replace("r1", "x1"))
    bad = four_cases.copy()
    bad.loc[bad["metric"] == "detected", "value"] = 0.5
    with pytest.raises(InputError, match="0 or 1"):
        lesion_table(bad)


def test_froc_counts_misses_and_takes_ties_together(four_cases):
    points = froc(four_cases).points
    assert list(points["threshold"]) == [np.inf, 0.9, 0.6, 0.3]
    # At 0.6 one lesion and one false positive enter together; the missed lesion stays in the denominator.
    assert list(points["sensitivity"]) == [0.0, 0.25, 0.5, 0.75]
    assert list(points["fp_per_case"]) == [0.0, 0.0, 0.25, 0.5]


def test_froc_reads_the_attained_sensitivity_at_the_luna_rates(four_cases):
    read = froc(four_cases).operating_points.set_index("rate")
    assert tuple(read.index) == FROC_RATES
    assert list(read["sensitivity"]) == [0.25, 0.5, 0.75, 0.75, 0.75, 0.75, 0.75]
    assert read.loc[0.125, "threshold"] == 0.9
    assert read.loc[0.125, "sensitivity_interpolated"] == pytest.approx(0.375)
    assert read.loc[8.0, "fp_per_case"] == 0.5


def test_intervals_of_the_froc_curve_are_those_of_a_loop_over_draws_of_patients():
    rng = np.random.default_rng(4)
    cases = {}
    for i in range(12):
        found = [(9.0, int(rng.random() < 0.7), round(rng.random(), 1)) for _ in range(rng.integers(0, 4))]
        predicted = [(1, confidence) for _, hit, confidence in found if hit]
        cases[f"c{i}"] = (
            f"p{i % 8}",
            found,
            predicted + [(0, round(rng.random(), 1)) for _ in range(rng.integers(0, 4))],
        )
    read = froc(build(cases), n_boot=60, seed=3).operating_points.set_index("rate")
    weights = patient_weights(np.zeros(8, dtype=np.int64), 60, np.random.default_rng(3)).astype(int)
    draws = []
    for column in weights.T:
        drawn = {
            f"{case}.{copy}": (f"{patient}.{copy}", *rest)
            for case, (patient, *rest) in cases.items()
            for copy in range(column[int(patient[1:])])
        }
        draws.append(froc(build(drawn), n_boot=1).operating_points["sensitivity"].to_numpy())
    bounds = np.nanquantile(np.stack(draws), [0.025, 0.975], axis=0)
    np.testing.assert_allclose(read[["ci_low", "ci_high"]].to_numpy(), bounds.T)
    assert (read["ci_low"] < read["ci_high"]).all()
    assert "60 draws of patients" in froc(build(cases), n_boot=60).method


def test_operating_point_is_the_strictest_threshold_of_its_sensitivity():
    table = build({"a": ("a", [(9.0, 1, 0.8)], [(1, 0.8), (0, 0.4), (0, 0.3)])})
    read = froc(table).operating_points.set_index("rate")
    assert read.loc[4.0, "threshold"] == 0.8
    assert read.loc[4.0, "fp_per_case"] == 0.0


def test_froc_needs_a_confidence_for_each_found_lesion(four_cases):
    table = four_cases.copy()
    table.loc[(table["lesion_id"] == "r1") & (table["metric"] == "confidence"), "value"] = np.nan
    with pytest.raises(InputError, match="no confidence"):
        froc(table)


def test_froc_of_cases_without_lesions_is_undefined_but_counts_false_positives():
    points = froc(build({"a": ("a", [], [(0, 0.4)]), "b": ("b", [], [])})).points
    assert points["sensitivity"].isna().all()
    assert points["fp_per_case"].iloc[-1] == 0.5


def test_dropped_candidates_carry_the_curve_on_and_change_nothing_else(four_cases):
    dropped = [
        row("a", "a", "r2", "dropped_confidence", 0.2),  # the missed lesion
        row("c", "c", "r1", "dropped_confidence", 0.1),  # found already
        *[row("a", "a", "d1", *part) for part in (("true_positive", 1), ("confidence", 0.2), ("max_diameter_mm", 5))],
        *[row("d", "d", "d1", *part) for part in (("true_positive", 0), ("confidence", 0.1), ("max_diameter_mm", 5))],
    ]
    table = pd.concat([four_cases, pd.DataFrame(dropped, columns=list(MASK_COLUMNS))])
    points, known = froc(table).points, froc(four_cases).points
    pd.testing.assert_frame_equal(points[:4], known)
    assert list(points["threshold"][4:]) == [0.2, 0.1]
    assert list(points["sensitivity"][4:]) == [1.0, 1.0]
    assert list(points["fp_per_case"][4:]) == [0.5, 0.75]
    assert list(points["dropped"]) == [False] * 4 + [True] * 2
    assert "dropped count as well" in froc(table).method
    assert "dropped" not in froc(four_cases).method
    pd.testing.assert_frame_equal(detection_table(table, n_boot=50), detection_table(four_cases, n_boot=50))


def test_a_dropped_false_positive_needs_a_confidence(four_cases):
    dropped = pd.DataFrame([row("d", "d", "d1", "true_positive", 0)], columns=list(MASK_COLUMNS))
    with pytest.raises(InputError, match="dropped candidate d1 has no confidence"):
        froc(pd.concat([four_cases, dropped]))


def test_each_split_has_its_own_curve(four_cases):
    other = build({"x": ("x", [(9.0, 1, 0.8)], [(1, 0.8)])}, split="train")
    points = froc(pd.concat([four_cases, other])).points
    assert list(points["split"].unique()) == ["train", "test"]
    assert points.query("split == 'train'")["sensitivity"].max() == 1.0


def test_recall_by_diameter_bins_equally_many_lesions():
    cases = {f"c{i}": (f"p{i}", [(float(i + 1), int(i >= 10), 0.5 if i >= 10 else np.nan)], []) for i in range(20)}
    curve = recall_by_diameter(build(cases), n_bins=2)
    assert list(curve.bins["recall"]) == [0.0, 1.0]
    assert list(curve.bins["n_lesions"]) == [10, 10]
    assert list(curve.bins["median_mm"]) == [5.5, 15.5]
    assert (curve.bins["interval_method"] == "Wilson").all()
    assert curve.bins["ci_high"].iloc[0] == pytest.approx(wilson_interval(0, 10)[0, 1])
    assert list(curve.points["max_diameter_mm"]) == [float(i + 1) for i in range(20)]


def test_recall_by_diameter_passes_over_a_split_without_lesions(four_cases):
    curve = recall_by_diameter(pd.concat([four_cases, build({"x": ("x", [], [])}, split="train")]), n_boot=50)
    assert list(curve.bins["split"]) == ["test"]
    assert len(curve.points) == 4


@pytest.fixture
def classes():
    return pd.DataFrame({
        "case_id": list("abcd"), "patient_id": list("abcd"), "lesion_id": ["r1"] * 4,
        "max_diameter_mm": [4.0, 10.0, 10.0, 30.0], "y_true": [0, 1, 2, 1], "y_pred": [np.nan, 1, 1, 1],
        "detected": [0, 1, 1, 1],
    })  # fmt: skip


def test_missed_lesions_count_as_wrong_end_to_end(classes):
    table = classification_by_size(classes).set_index(["stratum", "denominator"])
    assert list(table.reset_index()[list(CLASSIFICATION_COLUMNS)].columns) == list(CLASSIFICATION_COLUMNS)
    assert table.loc[("all", "detected"), "accuracy"] == pytest.approx(2 / 3)
    assert table.loc[("all", "end_to_end"), "accuracy"] == 0.5
    assert table.loc[("< 5 mm", "end_to_end"), "accuracy"] == 0.0
    assert table.loc[("< 5 mm", "detected"), "n_lesions"] == 0
    assert table.loc[("5 to 20 mm", "detected"), "accuracy"] == 0.5
    bounds = table.loc[("all", "end_to_end"), ["ci_low", "ci_high"]].astype(float)
    assert bounds.to_numpy() == pytest.approx(wilson_interval(2, 4)[0])


def test_found_lesion_needs_a_class_of_the_same_kind(classes):
    with pytest.raises(InputError, match="lacks a class"):
        classification_by_size(classes.assign(detected=1))
    with pytest.raises(InputError, match="predicted class"):
        classification_by_size(classes.assign(y_pred="1"))
    with pytest.raises(InputError, match="twice"):
        classification_by_size(pd.concat([classes, classes]))
