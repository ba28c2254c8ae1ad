"""AUCs of several classes against pROC, scikit-learn, the definition, and at the edges."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from hybrid.analysis import SequenceReport, auc
from hybrid.analysis.multiclass import MULTICLASS_COLUMNS, hand_till, multiclass_aucs
from hybrid.analysis.multiclass_part import multiclass_table
from hybrid.analysis.roc import perfect_interval
from hybrid.errors import InputError

REFERENCE = Path(__file__).parents[1] / "reference" / "statistics"

IRIS_HAND_TILL = 0.9306
"""pROC 1.18.0, multiclass.roc on the probabilities of nnet::multinom on iris."""

GOS6_HAND_TILL = {"s100b": 0.653999935249935, "ndka": 0.608687608687609}
"""pROC 1.18.0, multiclass.roc(aSAH$gos6, marker): four ordered classes and one score."""


def simulated(seed, n=120, classes=3, strength=1.0, levels=None):
    """Classes and probabilities that sum to one."""
    rng = np.random.default_rng(seed)
    y = np.r_[np.repeat(np.arange(classes), 2), rng.integers(0, classes, n - 2 * classes)]
    logits = rng.normal(size=(n, classes))
    logits[np.arange(n), y] += strength
    if levels is not None:
        logits = np.round(logits * levels)
    weights = np.exp(logits)
    return y, weights / weights.sum(axis=1, keepdims=True)


def by_measure(table, measure):
    return table[table["measure"] == measure].reset_index(drop=True)


def single(table, measure):
    return by_measure(table, measure).iloc[0]


def test_hand_till_equals_proc_on_iris():
    table = pd.read_csv(REFERENCE / "iris_multinom_probs.csv")
    assert hand_till(table["y"], table[["setosa", "versicolor", "virginica"]]) == pytest.approx(
        IRIS_HAND_TILL, abs=1e-12
    )
    row = single(multiclass_aucs(table["y"], table[["virginica", "setosa", "versicolor"]]), "hand_till")
    assert row["auc"] == pytest.approx(IRIS_HAND_TILL, abs=1e-12)
    assert row["ci_low"] < IRIS_HAND_TILL < row["ci_high"]


@pytest.mark.parametrize("marker", ["s100b", "ndka"])
def test_pairs_of_classes_equal_proc_on_asah_once_its_flips_are_repeated(benchmarks, marker):
    # With one score, pROC turns each pair so that the class with the higher median counts as positive; here no score is
    # ever flipped, so the test turns the columns.
    table = pd.read_csv(benchmarks / "statistics" / "aSAH.csv")
    areas = []
    for first, second in itertools.combinations(sorted(table["gos6"].unique()), 2):
        pair = table[table["gos6"].isin([first, second])]
        medians = pair.groupby("gos6")[marker].median()
        sign = 1 if medians[second] >= medians[first] else -1
        columns = np.stack([-sign * pair[marker], sign * pair[marker]], axis=1)
        areas.append(hand_till(pair["gos6"], columns))
    assert np.mean(areas) == pytest.approx(GOS6_HAND_TILL[marker], abs=1e-12)


@pytest.mark.parametrize("levels", [None, 1])
@pytest.mark.parametrize("classes", [3, 5])
def test_averages_equal_scikit_learn(classes, levels):
    y, probabilities = simulated(1, classes=classes, levels=levels)
    table = multiclass_aucs(y, probabilities, n_bootstrap=20)
    for measure, kind, average in (
        ("hand_till", "ovo", "macro"),
        ("macro", "ovr", "macro"),
        ("weighted", "ovr", "weighted"),
    ):
        expected = roc_auc_score(y, probabilities, multi_class=kind, average=average)
        assert single(table, measure)["auc"] == pytest.approx(expected, abs=1e-12)


def test_single_classes_and_pairs_equal_two_class_aucs():
    y, probabilities = simulated(2)
    table = multiclass_aucs(y, probabilities, n_bootstrap=20)
    for row in by_measure(table, "one_vs_rest").itertuples():
        c = int(row._2)
        assert row.auc == pytest.approx(auc((y == c).astype(int), probabilities[:, c]), abs=1e-12)
        assert (row.n_class, row.n_other) == ((y == c).sum(), (y != c).sum())
    for row in by_measure(table, "one_vs_one").itertuples():
        i, j = int(row._2), int(row.other)
        pair = (y == i) | (y == j)
        forward = auc((y[pair] == i).astype(int), probabilities[pair, i])
        back = auc((y[pair] == j).astype(int), probabilities[pair, j])
        assert row.auc == pytest.approx((forward + back) / 2, abs=1e-12)
    assert by_measure(table, "one_vs_one")["auc"].mean() == pytest.approx(single(table, "hand_till")["auc"])


def test_two_classes_give_the_ordinary_auc():
    y, probabilities = simulated(3, classes=2)
    expected = auc(y, probabilities[:, 1])
    table = multiclass_aucs(y, probabilities, n_bootstrap=20)
    assert table["auc"].to_numpy() == pytest.approx(np.full(len(table), expected))


def test_table_has_the_promised_columns_and_rows():
    table = multiclass_aucs(*simulated(4, classes=4), n_bootstrap=200)
    assert tuple(table.columns) == MULTICLASS_COLUMNS
    counts = table["measure"].value_counts()
    assert counts.to_dict() == {"hand_till": 1, "macro": 1, "weighted": 1, "one_vs_rest": 4, "one_vs_one": 6}
    assert ((table["ci_low"] < table["auc"]) & (table["auc"] < table["ci_high"])).all()


def test_bootstrap_error_of_hand_till_agrees_with_drawing_patients_one_by_one():
    y, probabilities = simulated(5, n=60)
    row = single(multiclass_aucs(y, probabilities, n_bootstrap=4000, kind="percentile"), "hand_till")
    rng = np.random.default_rng(6)
    groups = [np.flatnonzero(y == c) for c in range(3)]
    draws = []
    for _ in range(1000):
        rows = np.concatenate([rng.choice(group, group.size) for group in groups])
        draws.append(hand_till(y[rows], probabilities[rows]))
    spread = np.std(draws)
    assert row["se"] == pytest.approx(spread, rel=0.08)
    expected = np.quantile(draws, [0.025, 0.975])
    # Three Monte-Carlo errors of a quantile of 1000 draws.
    assert (row["ci_low"], row["ci_high"]) == pytest.approx(tuple(expected), abs=0.26 * spread)


def test_rows_of_a_patient_are_drawn_together():
    y, probabilities = simulated(7, n=60)
    patients = np.arange(60)
    once = multiclass_aucs(y, probabilities, patients=patients, n_bootstrap=500)
    rows = np.tile(patients, 4)
    repeated = multiclass_aucs(y[rows], probabilities[rows], patients=rows, n_bootstrap=500)
    np.testing.assert_allclose(repeated[["auc", "se", "ci_low", "ci_high"]], once[["auc", "se", "ci_low", "ci_high"]])
    ignored = multiclass_aucs(y[rows], probabilities[rows], n_bootstrap=500)
    assert single(ignored, "hand_till")["se"] < 0.6 * single(once, "hand_till")["se"]


def test_patients_with_rows_of_several_classes_are_drawn_without_regard_to_class():
    y, probabilities = simulated(8, n=120)
    patients = np.arange(120) // 3
    table = multiclass_aucs(y, probabilities, patients=patients, n_bootstrap=500)
    assert table["ci_low"].notna().all()
    assert (table["ci_low"] < table["auc"]).all()


def test_row_order_changes_nothing_not_even_the_bootstrap():
    y, probabilities = simulated(9, levels=1)
    order = np.random.default_rng(10).permutation(y.size)
    for patients in (None, np.arange(y.size)):
        one = multiclass_aucs(y, probabilities, patients=patients, n_bootstrap=100)
        shuffled = None if patients is None else patients[order]
        two = multiclass_aucs(y[order], probabilities[order], patients=shuffled, n_bootstrap=100)
        pd.testing.assert_frame_equal(one, two)


def test_column_order_and_class_names_are_irrelevant():
    y, probabilities = simulated(11)
    names = np.array(["grade 1", "grade 2", "grade 3"])
    frame = pd.DataFrame(probabilities, columns=names)
    expected = hand_till(y, probabilities)
    assert hand_till(names[y], frame) == pytest.approx(expected)
    assert hand_till(names[y], frame[names[::-1]]) == pytest.approx(expected)
    assert hand_till(names[y], probabilities[:, [2, 0, 1]], classes=names[[2, 0, 1]]) == pytest.approx(expected)


def test_reversing_every_score_gives_one_minus_each_auc():
    y, probabilities = simulated(12, levels=1)
    one = multiclass_aucs(y, probabilities, n_bootstrap=20)
    two = multiclass_aucs(y, -probabilities, n_bootstrap=20)
    np.testing.assert_allclose(two["auc"], 1 - one["auc"], atol=1e-12)


def test_swapping_the_labels_of_two_classes_gives_one_minus_the_auc():
    y, probabilities = simulated(13, classes=2)
    assert hand_till(1 - y, probabilities) == pytest.approx(1 - hand_till(y, probabilities), abs=1e-12)


def test_perfect_separation_has_the_exact_interval_of_the_smallest_class():
    y = np.repeat([0, 1, 2], [9, 4, 6])
    table = multiclass_aucs(y, np.eye(3)[y], n_bootstrap=20)
    assert table["auc"].to_numpy() == pytest.approx(np.ones(len(table)))
    assert table["se"].isna().all()
    assert (single(table, "hand_till")["ci_low"], single(table, "hand_till")["ci_high"]) == perfect_interval(1.0, 4)
    last = by_measure(table, "one_vs_rest").iloc[2]
    assert (last["ci_low"], last["ci_high"]) == perfect_interval(1.0, 6)


def test_constant_probabilities_are_useless():
    y = np.repeat([0, 1, 2], 3)
    table = multiclass_aucs(y, np.full((9, 3), 1 / 3), n_bootstrap=20)
    assert (table["auc"] == 0.5).all()


def test_three_cases_have_areas_and_no_intervals():
    table = multiclass_aucs([0, 1, 2], [[0.5, 0.3, 0.2], [0.4, 0.2, 0.4], [0.6, 0.3, 0.1]], n_bootstrap=20)
    assert table["auc"].notna().all()
    inner = ~table["auc"].isin([0.0, 1.0])
    assert inner.any()
    assert table.loc[inner, ["se", "ci_low", "ci_high"]].isna().all(axis=None)


@pytest.mark.parametrize(
    ("y", "probabilities", "classes", "match"),
    [
        ([0, 0, 0], np.ones((3, 2)), None, "a class of its own|one class of its own"),
        ([0, 0, 0], np.ones((3, 2)), [0, 1], "without cases: 1"),
        ([0, 1, 2], np.ones((3, 2)), [0, 1], "unknown: 2"),
        ([0, 1], np.ones((2, 2)), [0, 0], "class of its own"),
        ([0, 1], np.ones((3, 2)), None, "One class and one row"),
        ([0, 1], np.ones(2), None, "One class and one row"),
        ([0, 1], np.array([[0.5, 0.5], [np.nan, 0.5]]), None, "missing or infinite"),
        (["a", None], np.ones((2, 2)), ["a", "b"], "missing or infinite"),
    ],
)
def test_unusable_input_is_refused(y, probabilities, classes, match):
    with pytest.raises(InputError, match=match):
        hand_till(y, probabilities, classes=classes)


def test_missing_patients_are_refused():
    y, probabilities = simulated(14)
    with pytest.raises(InputError, match="One patient per row"):
        multiclass_aucs(y, probabilities, patients=[1, 2])


def table_of_predictions(n=90, seed=0, split="test"):
    rng = np.random.default_rng(seed)
    truth = np.array(["ADC", "DWI", "T2"])[np.arange(n) % 3]
    scores = rng.random((n, 3)) + 0.5 * (truth[:, None] == np.array(["ADC", "DWI", "T2"]))
    shares = scores / scores.sum(axis=1, keepdims=True)
    named = {f"y_prob_{name}": shares[:, i] for i, name in enumerate(("ADC", "DWI", "T2"))}
    answers = np.array(["ADC", "DWI", "T2"])[shares.argmax(axis=1)]
    return pd.DataFrame(
        {"patient_id": [f"p{i // 2}" for i in range(n)], "split": split, "site": None, "y_true": truth,
         "y_pred": answers, "confidence": shares.max(axis=1), **named}
    )  # fmt: skip


def test_a_table_of_predictions_gives_the_same_aucs_with_patients_as_clusters():
    rows = table_of_predictions()
    probabilities = rows[["y_prob_ADC", "y_prob_DWI", "y_prob_T2"]].to_numpy()
    expected = multiclass_aucs(
        rows["y_true"], probabilities, classes=["ADC", "DWI", "T2"], patients=rows["patient_id"], n_bootstrap=200
    )
    found = multiclass_table(rows, n_bootstrap=200)
    pd.testing.assert_frame_equal(found.drop(columns="n_left_out"), expected)


def test_rows_without_an_answer_and_classes_without_rows_are_left_out():
    rows = table_of_predictions()
    rows.loc[:4, ["y_prob_ADC", "y_prob_DWI", "y_prob_T2"]] = np.nan
    found = multiclass_table(rows.assign(y_prob_PET=0.0), n_bootstrap=50)
    assert (found["n_left_out"] == 5).all()
    assert set(found["class"]) == {"", "ADC", "DWI", "T2"}
    assert multiclass_table(rows.query("y_true == 'T2'")).empty
    assert multiclass_table(rows[["patient_id", "y_true"]]).empty


def test_reports_of_classifiers_of_several_classes_show_m(tmp_path):
    both = pd.concat([table_of_predictions(), table_of_predictions(seed=1, split="external")], ignore_index=True)
    report = SequenceReport(predictions=both, classes=["ADC", "DWI", "T2"], n_boot=50)
    page = report.save(tmp_path / "report.html").read_text(encoding="utf-8")
    assert "All pairs of classes: M" in page
    assert "doi:10.1023/A:1010920819831" in page
    table = pd.read_csv(tmp_path / "tables" / "multiclass.csv").query("measure == 'hand_till'").set_index("split")
    own = both[both["split"] == "external"]
    m = hand_till(own["y_true"], own[["y_prob_ADC", "y_prob_DWI", "y_prob_T2"]].to_numpy(), classes=report.classes)
    assert table.loc["external", "auc"] == pytest.approx(m, rel=1e-12)
