"""Figures of a slice classifier: the published matrix, clustering, patients, baselines, splits, pointing, the page."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from sklearn.metrics import precision_recall_fscore_support

from hybrid.analysis.clustered import clustered_auc
from hybrid.analysis.roc import auc
from hybrid.analysis.slice_report import SliceReport
from hybrid.analysis.slices import (
    FINDING,
    NO_FINDING,
    PUBLISHED,
    SLICE_COLUMNS,
    aggregate_patients,
    choose_threshold,
    compare_baselines,
    confusion_counts,
    figure,
    negative_class,
    plot_counts,
    plot_slice_roc,
    pointing_table,
    published_table,
    slice_curves,
    slice_figures,
    split_row,
)
from hybrid.errors import InputError

CLASSES = ("no_finding", "finding")
FAST = {"n_bootstrap": 200}


def rows(truth, called, patients, probability=None, threshold=0.5):
    """A table of slices from true and called positives (0 or 1)."""
    score = np.where(called, 0.9, 0.1) if probability is None else probability
    columns = (
        [f"c{p}" for p in patients], [f"p{p}" for p in patients], pd.Series(patients).groupby(patients).cumcount(),
        [CLASSES[int(t)] for t in truth], score, [CLASSES[int(c)] for c in called], threshold,
    )  # fmt: skip
    return pd.DataFrame(dict(zip(SLICE_COLUMNS, columns, strict=True)))


def simulated(n=30, slices=10, seed=0, spread=1.0):
    """Patients whose slices resemble each other: each has a level of its own."""
    rng = np.random.default_rng(seed)
    patients = np.repeat(np.arange(n), slices)
    ill = rng.random(n) < 0.5
    truth = ill[patients] & (rng.random(n * slices) < 0.7)
    score = 1.5 * truth + spread * rng.normal(size=n)[patients] + rng.normal(size=n * slices)
    probability = 1 / (1 + np.exp(1 - score))
    return rows(truth, probability >= 0.5, patients, probability)


def people(slices, **options):
    return aggregate_patients(slices, negative="no_finding", threshold=0.5, **options)


def figures(slices):
    return slice_figures(slices, people(slices), CLASSES, negative="no_finding", **FAST)


def test_the_published_confusion_matrix_gives_the_published_figures():
    """TP 347, FN 14, FP 67, TN 506 (Zhang et al. 2020), one slice per patient."""
    truth = np.repeat([1, 1, 0, 0], [347, 14, 67, 506])
    called = np.repeat([1, 0, 1, 0], [347, 14, 67, 506])
    slices = rows(truth, called, np.arange(934))
    found = figures(slices)
    exact = {
        ("finding", "precision"): 347 / 414, ("no_finding", "precision"): 506 / 520, ("finding", "recall"): 347 / 361,
        ("no_finding", "recall"): 506 / 573, ("finding", "f1"): 694 / 775, ("no_finding", "f1"): 1012 / 1093,
    }  # fmt: skip
    for (name, metric), value in exact.items():
        assert figure(found, "slice", metric, name)["value"] == pytest.approx(value)
    beside = published_table(found, CLASSES, "no_finding")
    own = beside[beside["metric"] != "auc"]
    # F1 is .8955 and was printed as .896.
    assert own["value"].tolist() == pytest.approx(own["published"].tolist(), abs=0.0006)
    assert set(own["published"]) == {0.838, 0.973, 0.961, 0.883, 0.896, 0.926}
    assert len(beside) == len(PUBLISHED)
    counts = confusion_counts(slices, CLASSES)
    assert counts.loc["finding"].tolist() == [14, 347]
    assert counts.loc["no_finding"].tolist() == [506, 67]


def test_figures_equal_scikit_learn_and_the_clustered_auc():
    slices = simulated()
    found = figures(slices)
    expected = precision_recall_fscore_support(slices["y_true"], slices["prediction"], labels=list(CLASSES))
    for place, name in enumerate(CLASSES):
        for metric, values in zip(("precision", "recall", "f1"), expected, strict=False):
            assert figure(found, "slice", metric, name)["value"] == pytest.approx(values[place])
    area = figure(found, "slice", "auc")
    whole = clustered_auc(slices["y_true"] == "finding", slices["probability"], slices["patient_id"])
    assert (area["value"], area["low"], area["high"]) == pytest.approx((whole.auc, whole.lower, whole.upper))
    independent = clustered_auc(slices["y_true"] == "finding", slices["probability"], np.arange(len(slices)))
    assert area["high"] - area["low"] > 1.5 * (independent.upper - independent.lower)


def test_patients_are_ill_when_a_slice_is_and_score_the_mean_of_the_highest():
    slices = rows([0, 1, 0, 0, 0, 0], [0, 1, 1, 0, 0, 0], [0, 0, 0, 0, 1, 1], [0.1, 0.9, 0.8, 0.2, 0.3, 0.4])
    table = people(slices).set_index("patient_id")
    assert table["probability"].to_dict() == pytest.approx({"p0": (0.9 + 0.8 + 0.2) / 3, "p1": 0.35})
    assert table["y_true"].to_dict() == {"p0": FINDING, "p1": NO_FINDING}
    assert table["n_called"].to_dict() == {"p0": 2, "p1": 0}
    assert people(slices, top=1).set_index("patient_id")["probability"].to_dict() == {"p0": 0.9, "p1": 0.4}
    # A patient without a finding on the known slices may have one on the others.
    unknown = slices.assign(y_true=["", "", "", "", "no_finding", ""])
    assert people(unknown)["y_true"].tolist() == ["", ""]
    assert people(unknown, labels={"p0": "finding", "p1": "no_finding"})["y_true"].tolist() == [FINDING, NO_FINDING]
    with pytest.raises(InputError, match="at least one"):
        people(slices, top=0)


def test_a_slice_that_could_not_be_read_counts_as_wrong_and_has_no_part_in_the_auc():
    slices = simulated(seed=3)
    lost = slices.copy()
    positive = lost.index[(lost["y_true"] == "finding") & (lost["prediction"] == "finding")][0]
    lost.loc[positive, ["probability", "prediction"]] = [np.nan, ""]
    before, after = figures(slices), figures(lost)
    n = (slices["y_true"] == "finding").sum()
    recalls = [figure(table, "slice", "recall", "finding")["value"] for table in (before, after)]
    assert recalls[0] - recalls[1] == pytest.approx(1 / n)
    assert figure(after, "slice", "auc")["n"] == len(slices) - 1
    assert people(lost)["n_failed"].sum() == 1


def test_the_threshold_is_the_best_youden_index_and_falls_back():
    rng = np.random.default_rng(0)
    truth = rng.random(200) < 0.4
    score = truth * 0.3 + rng.random(200)
    chosen = choose_threshold(truth, score)
    reached = (score[truth] >= chosen).mean() + (score[~truth] < chosen).mean()
    assert reached == pytest.approx(max((score[truth] >= c).mean() + (score[~truth] < c).mean() for c in score))
    assert choose_threshold([True, True], [0.2, 0.3]) == 0.5
    assert choose_threshold([True, False], [0.2, 0.3]) == 0.5


def test_the_negative_class_is_read_from_its_name_or_asked_for():
    assert negative_class(("bleed", "normal")) == "normal"
    assert negative_class(("0", "1")) == "0"
    assert negative_class(("a", "b"), "b") == "b"
    with pytest.raises(InputError, match="--negative"):
        negative_class(("a", "b"))
    with pytest.raises(InputError, match="'c'"):
        negative_class(("a", "b"), "c")


def baselines(slices, seed=0):
    rng = np.random.default_rng(seed)
    same = slices[["case_id", "slice", "probability"]].assign(model="Copy")
    noise = slices[["case_id", "slice"]].assign(model="Noise", probability=rng.random(len(slices)))
    return pd.concat([same, noise], ignore_index=True)


def test_baselines_are_compared_on_the_same_slices():
    slices = simulated(seed=1, spread=0.3)
    table = compare_baselines(slices, baselines(slices), negative="no_finding").set_index("model")
    assert table.loc["Copy", "difference"] == 0
    assert table.loc["Copy", "p"] == 1
    assert table.loc["Noise", "difference"] == pytest.approx(table.loc["Network", "auc"] - table.loc["Noise", "auc"])
    assert table.loc["Noise", "p"] < 0.001
    part = baselines(slices.head(100))
    assert compare_baselines(slices, part, negative="no_finding")["n"].tolist() == [300, 100, 100]


def test_a_split_row_holds_the_figures_of_a_finding():
    slices = simulated(seed=2)
    row = split_row(slices, split_by="image", negative="no_finding", shared_patients=7)
    found = figures(slices)
    for metric in ("precision", "recall", "f1"):
        assert row[metric] == pytest.approx(figure(found, "slice", metric, "finding")["value"])
    assert row["auc"] == pytest.approx(auc(slices["y_true"] == "finding", slices["probability"]))
    assert (row["n_slices"], row["n_patients"], row["n_shared_patients"]) == (300, 30, 7)


def maps(n=20):
    return pd.DataFrame({
        "case_id": "c1", "patient_id": [f"p{i // 4}" for i in range(n)], "slice": range(n), "probability": 0.9,
        "kind": "true positive", "layer": "layer4", "method": "gradcam", "cells": "4 x 4",
        "hit": [i % 4 != 0 or i < 8 for i in range(n)], "distance_mm": 4.0, "chance": 0.1, "centre_hit": False,
    })  # fmt: skip


def test_the_pointing_score_resamples_patients():
    table = pointing_table(maps()).iloc[0]
    assert (table["n"], table["n_patients"], table["hits"], table["score"]) == (20, 5, 17, 0.85)
    assert table["method"] == "patient bootstrap"
    assert table["low"] == pytest.approx(0.75, abs=0.02)
    alone = maps().assign(patient_id=[f"p{i}" for i in range(20)])
    assert pointing_table(alone).iloc[0]["method"] == "Wilson"


def test_curves_and_matrix_are_drawn_from_their_tables():
    slices = simulated(seed=4)
    curves = slice_curves(slices, people(slices), negative="no_finding", baselines=baselines(slices))
    assert curves["curve"].unique().tolist() == ["Slices", "Patients", "Copy", "Noise"]
    ax = plot_slice_roc(curves, ax=Figure(layout="constrained").add_subplot())
    drawn = next(line for line in ax.lines if line.get_label().startswith("Slices"))
    own = curves[curves["curve"] == "Slices"]
    assert sorted(drawn.get_ydata()) == sorted(own["sensitivity"])
    assert np.trapezoid(drawn.get_ydata(), drawn.get_xdata()) == pytest.approx(own["auc"].iloc[0])
    counts = confusion_counts(slices, CLASSES)
    ax = plot_counts(counts, ax=Figure(layout="constrained").add_subplot())
    assert [int(text.get_text().split("\n")[0]) for text in ax.texts] == counts.to_numpy().ravel().tolist()


def report(slices, **options):
    return SliceReport(slices, people(slices), classes=CLASSES, negative="no_finding", n_boot=200, **options)


def test_the_first_sentence_holds_the_auc_and_its_interval(tmp_path):
    slices = simulated(seed=5)
    page = (
        report(slices, operating="largest Youden index of 40 tuning slices")
        .save(tmp_path / "report.html")
        .read_text(encoding="utf-8")
    )
    area = figure(figures(slices), "slice", "auc")
    lead = page[page.index('id="summary"') :]
    assert f"the AUC is {area['value']:.3f} (95 % CI {area['low']:.3f}–{area['high']:.3f}" in lead[:600]
    assert "largest Youden index of 40 tuning slices" in page
    written = pd.read_csv(tmp_path / "tables" / "figures.csv")
    assert written["value"].to_numpy() == pytest.approx(figures(slices)["value"].to_numpy(), nan_ok=True)


def test_shortcuts_above_the_limit_are_red_and_splits_are_side_by_side(tmp_path):
    slices = simulated(seed=6)
    shortcuts = pd.DataFrame({
        "fact": ["width", "mean"], "auc": [0.93, 0.55], "low": [0.9, 0.5], "high": [0.96, 0.6],
        "flagged": [True, False], "remedy": ["Resample", ""],
    })  # fmt: skip
    splits = pd.DataFrame(
        [split_row(slices, split_by=name, negative="no_finding", shared_patients=3 * (name == "image"))
         for name in ("patient", "image")]
    )  # fmt: skip
    page = report(slices, shortcuts=shortcuts, splits=splits).save(tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count('<tr class="flagged">') == 1
    assert "Shortcuts: width alone can tell the label" in page
    assert page.index("By patient (honest)") < page.index("By image (inflated)")
    assert "3 of 30 test patients were also trained" in page


def test_maps_that_do_not_depend_on_the_weights_are_condemned(tmp_path):
    slices = simulated(seed=7)
    for correlation, words in ((0.9, "do not use them"), (0.1, "depend on what was learnt")):
        check = pd.DataFrame({"correlation": [correlation] * 3, "changed": correlation < 0.5, "layer": "layer4"})
        assert words in report(slices, randomisation=check).save(tmp_path / "report.html").read_text(encoding="utf-8")


def test_labels_are_not_needed_and_one_class_has_no_auc(tmp_path):
    slices = simulated(seed=8)
    unlabelled = report(slices.assign(y_true="")).save(tmp_path / "a" / "report.html").read_text(encoding="utf-8")
    assert "No slice is labelled" in unlabelled
    healthy = slices.assign(y_true="no_finding")
    found = slice_figures(healthy, people(healthy), CLASSES, negative="no_finding", **FAST)
    assert np.isnan(figure(found, "slice", "auc")["value"])
    page = report(healthy).save(tmp_path / "b" / "report.html").read_text(encoding="utf-8")
    assert "AUC is – (not defined: all slices have one class)" in page
    with pytest.raises(InputError, match="No slice has a label"):
        slice_figures(slices.assign(y_true=""), people(slices), CLASSES, negative="no_finding")


def test_a_slice_in_two_rows_is_refused():
    slices = simulated(n=3, slices=2)
    with pytest.raises(InputError, match="several rows"):
        people(pd.concat([slices, slices.head(1)]))
