"""Per-class statistics: published numbers, scikit-learn, clustering of images in patients, and what is undefined."""

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics

from hybrid.analysis.agreement import cohen_kappa
from hybrid.analysis.per_class import (
    NO_ANSWER,
    OVERALL,
    PER_CLASS_COLUMNS,
    PER_CLASS_METRICS,
    choose_abstention,
    classes_of,
    confusion_table,
    coverage_table,
    layout_table,
    per_class_table,
    per_group_table,
)
from hybrid.analysis.proportions import EXACT_PATIENTS, NO_INTERVAL, PATIENT_BOOTSTRAP, WILSON, wilson_interval
from hybrid.errors import InputError

FAST = {"n_bootstrap": 300}


def rows(counts, *, per_patient=1):
    """Predictions with so many images of each pair (true class, answer)."""
    pairs = [pair for pair, n in counts.items() for _ in range(n)]
    return pd.DataFrame(pairs, columns=["y_true", "y_pred"]).assign(
        id=lambda t: [f"i{n}" for n in range(len(t))],
        patient_id=lambda t: [f"p{n // per_patient}" for n in range(len(t))],
    )


def random_rows(n=400, k=4, seed=0, per_patient=1):
    rng = np.random.default_rng(seed)
    names = np.array([f"class {i}" for i in range(k)])
    truth = rng.integers(0, k, n)
    answer = np.where(rng.random(n) < 0.7, truth, rng.integers(0, k, n))
    return pd.DataFrame({
        "id": np.arange(n).astype(str), "patient_id": (np.arange(n) // per_patient).astype(str),
        "site": rng.choice(["A", "B"], n), "y_true": names[truth], "y_pred": names[answer],
        "confidence": np.where(truth == answer, rng.uniform(0.5, 1, n), rng.uniform(0.3, 0.8, n)),
    })  # fmt: skip


def cell(table, name, metric, column="value"):
    found = table[(table["class"] == name) & (table["metric"] == metric)]
    assert len(found) == 1
    return found[column].iloc[0]


# Values


def test_the_published_confusion_matrix_gives_the_published_figures():
    table = per_class_table(
        rows({("bleed", "bleed"): 347, ("bleed", "normal"): 14, ("normal", "bleed"): 67, ("normal", "normal"): 506}),
        **FAST,
    )
    for metric, bleed, normal, digits in (
        ("ppv", 0.838, 0.973, 3),
        ("sensitivity", 0.961, 0.883, 3),
        ("f1", 0.8955, 0.9259, 4),
    ):
        assert round(cell(table, "bleed", metric), digits) == bleed
        assert round(cell(table, "normal", metric), digits) == normal
    assert cell(table, "bleed", "specificity") == cell(table, "normal", "sensitivity") == 506 / 573
    assert cell(table, OVERALL, "accuracy") == (347 + 506) / 934


def test_values_equal_those_of_scikit_learn():
    data = random_rows()
    table = per_class_table(data, **FAST)
    names = sorted(data["y_true"].unique())
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        data["y_true"], data["y_pred"], labels=names
    )
    for k, name in enumerate(names):
        truth, answer = data["y_true"] == name, data["y_pred"] == name
        expected = {
            "ppv": precision[k], "sensitivity": recall[k], "f1": f1[k],
            "accuracy": metrics.accuracy_score(truth, answer), "kappa": metrics.cohen_kappa_score(truth, answer),
            "specificity": metrics.recall_score(~truth, ~answer), "npv": metrics.precision_score(~truth, ~answer),
        }  # fmt: skip
        for metric, value in expected.items():
            assert cell(table, name, metric) == pytest.approx(value, abs=1e-12), metric
        assert cell(table, name, "sensitivity", "n") == support[k]
    assert cell(table, OVERALL, "accuracy") == metrics.accuracy_score(data["y_true"], data["y_pred"])
    assert cell(table, OVERALL, "kappa") == pytest.approx(cohen_kappa(data["y_true"], data["y_pred"]).kappa, abs=1e-12)


def test_the_table_is_long_in_the_published_order():
    table = per_class_table(random_rows(80), ["class 3", "class 0", "class 1", "class 2"], **FAST)
    assert tuple(table.columns) == PER_CLASS_COLUMNS
    assert table["class"].drop_duplicates().tolist() == ["class 3", "class 0", "class 1", "class 2", OVERALL]
    assert table.loc[table["class"] == "class 0", "metric"].tolist() == list(PER_CLASS_METRICS)
    assert table.loc[table["class"] == OVERALL, "metric"].tolist() == ["accuracy", "kappa"]


# Intervals


def test_proportions_have_wilsons_interval_when_patients_give_one_image():
    data = random_rows()
    table = per_class_table(data, **FAST)
    mine = data[data["y_true"] == "class 1"]
    low, high = wilson_interval((mine["y_pred"] == "class 1").sum(), len(mine))[0]
    assert (cell(table, "class 1", "sensitivity", "low"), cell(table, "class 1", "sensitivity", "high")) == (low, high)
    proportions = table["metric"].isin(["accuracy", "sensitivity", "specificity", "ppv", "npv"])
    assert set(table.loc[proportions, "method"]) == {WILSON}
    assert set(table.loc[~proportions, "method"]) == {PATIENT_BOOTSTRAP}


def test_copies_of_an_image_within_its_patient_do_not_narrow_intervals():
    once = random_rows(150)
    copies = pd.concat([once] * 5)
    single, repeated = per_class_table(once, **FAST), per_class_table(copies, **FAST)
    assert set(repeated["method"]) == {PATIENT_BOOTSTRAP}
    np.testing.assert_allclose(repeated["value"], single["value"])
    boot = single["metric"].isin(["f1", "kappa"])
    np.testing.assert_allclose(repeated.loc[boot, ["low", "high"]], single.loc[boot, ["low", "high"]])
    width = (repeated["high"] - repeated["low"]) / (single["high"] - single["low"])
    assert width.between(0.8, 1.25).all()


def test_intervals_hold_the_value_and_the_true_value_usually():
    covered = []
    for seed in range(60):
        table = per_class_table(random_rows(150, 2, seed, per_patient=3), **FAST)
        inside = table.eval("low <= value <= high")
        assert inside.all()
        covered.append(cell(table, "class 0", "f1", "low") <= 0.85 <= cell(table, "class 0", "f1", "high"))
    # Two classes, right with probability 0.7 + 0.3 / 2 = 0.85, equally common: F1 is 0.85.
    assert np.mean(covered) > 0.85


def test_perfect_values_have_exact_bounds_not_empty_intervals():
    table = per_class_table(rows({("a", "a"): 20, ("b", "b"): 20}), **FAST)
    assert (table["value"] == 1).all()
    assert (table["high"] == 1).all()
    assert table["low"].between(0.6, 0.95).all()
    bound = 0.025 ** (1 / 20)
    assert cell(table, "a", "f1", "low") == pytest.approx(2 * bound / (1 + bound))
    assert cell(table, "a", "f1", "method") == EXACT_PATIENTS


def test_one_patient_gives_values_without_intervals():
    table = per_class_table(rows({("a", "a"): 3, ("b", "a"): 1}, per_patient=9), **FAST)
    assert cell(table, "a", "ppv") == 0.75
    several = table[table["n"] > 1]
    assert len(several) > 5
    assert several[["low", "high"]].isna().all(axis=None)
    assert set(several["method"]) == {NO_INTERVAL}


def test_the_same_seed_gives_the_same_table_in_any_order_of_rows():
    data = random_rows(90, per_patient=3)
    shuffled = data.sample(frac=1, random_state=1)
    pd.testing.assert_frame_equal(per_class_table(data, **FAST), per_class_table(shuffled, **FAST))


# What is not defined


def test_zero_denominators_are_nan_with_a_reason():
    data = rows({("a", "a"): 6, ("b", "a"): 4})
    table = per_class_table(data, ["a", "b", "c"], **FAST)
    assert np.isnan(cell(table, "b", "ppv"))
    assert cell(table, "b", "ppv", "note") == "this class was never predicted"
    assert np.isnan(cell(table, "c", "sensitivity"))
    assert cell(table, "c", "sensitivity", "n") == 0
    assert np.isnan(cell(table, "c", "f1"))
    assert np.isnan(cell(table, "c", "kappa"))
    assert cell(table, "c", "accuracy") == 1
    assert cell(table, "b", "f1") == 0
    assert 0 < cell(table, "b", "f1", "high") < 1
    assert (table.loc[table["value"].isna(), "note"] != "").all()
    assert "fewer than" in cell(table, "b", "sensitivity", "note")


def test_images_without_an_answer_count_as_wrong():
    data = rows({("a", "a"): 6, ("a", ""): 2, ("b", "b"): 8})
    table = per_class_table(data, **FAST)
    assert cell(table, "a", "sensitivity") == 0.75
    assert cell(table, "a", "ppv") == 1
    assert cell(table, OVERALL, "accuracy") == 14 / 16
    counts = confusion_table(data).set_index(["y_true", "y_pred"])["n"]
    assert counts["a", NO_ANSWER] == 2
    assert counts.sum() == 16


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.drop(columns="patient_id"), "no column 'patient_id'"),
        (lambda t: t.iloc[:0], "no rows"),
        (lambda t: t.assign(y_true=None), "no true class"),
        (lambda t: t.assign(patient_id=None), "no patient_id"),
        (lambda t: t.assign(y_pred="d"), "Unknown class in y_pred 'd'"),
    ],
)
def test_tables_that_cannot_be_judged_are_refused(change, words):
    with pytest.raises(InputError, match=words):
        per_class_table(change(rows({("a", "a"): 3, ("b", "b"): 3})), ["a", "b"], **FAST)


def test_a_class_may_not_be_called_overall():
    with pytest.raises(InputError, match="overall"):
        per_class_table(rows({("a", OVERALL): 3}), **FAST)


# Groups, counts, layout


def test_every_centre_has_the_table_of_its_images():
    data = random_rows(200)
    table = per_group_table(data, **FAST)
    assert table.columns[0] == "site"
    for site in ("A", "B"):
        own = table[table["site"] == site].drop(columns="site").reset_index(drop=True)
        pd.testing.assert_frame_equal(own, per_class_table(data[data["site"] == site], classes_of(data), **FAST))


def test_images_without_a_centre_are_a_group_of_their_own():
    data = random_rows(40).assign(site=[None] * 10 + [""] * 10 + ["A"] * 20)
    found = per_group_table(data, **FAST).query("metric == 'kappa' and `class` == @OVERALL").set_index("site")["n"]
    assert found.to_dict() == {"A": 20, "not given": 20}


def test_confusion_counts_equal_those_of_scikit_learn():
    data = random_rows()
    table = confusion_table(data)
    wide = table.pivot(index="y_true", columns="y_pred", values="n")
    np.testing.assert_array_equal(wide, metrics.confusion_matrix(data["y_true"], data["y_pred"]))
    assert table.groupby("y_true")["share"].sum().to_numpy() == pytest.approx(1)


def test_classes_follow_the_probability_columns():
    data = rows({("a", "b"): 2}).assign(y_prob_z=0.1, y_prob_b=0.9)
    assert classes_of(data) == ("z", "b", "a")


def test_layout_is_one_line_per_class():
    text = layout_table(per_class_table(rows({("a", "a"): 30, ("b", "a"): 10, ("c", "c"): 40}), **FAST))
    assert text.index.tolist() == ["a", "b", "c", OVERALL]
    assert text.columns.tolist() == list(PER_CLASS_METRICS)
    assert text.loc["a", "ppv"] == "0.75 (0.60–0.86)"
    assert text.loc["b", "ppv"] == "–"
    assert text.loc[OVERALL, "ppv"] == ""


# Abstention


def test_coverage_runs_from_every_image_to_the_surest():
    data = pd.DataFrame({
        "y_true": list("aabb"), "y_pred": list("aaba"), "confidence": [0.9, 0.6, 0.9, 0.5], "patient_id": list("1234"),
    })  # fmt: skip
    table = coverage_table(data)
    assert table["threshold"].tolist() == [0.5, 0.6, 0.9]
    assert table["coverage"].tolist() == [1.0, 0.75, 0.5]
    assert table["accuracy"].tolist() == [0.75, 1.0, 1.0]
    assert table["n"].tolist() == [4, 3, 2]
    unread = coverage_table(pd.concat([data, pd.DataFrame([{"y_true": "a", "y_pred": ""}])]))
    assert unread["coverage"].max() == 0.8


def test_the_confidence_is_the_largest_probability():
    data = rows({("a", "a"): 2}).assign(y_prob_a=[0.7, 0.2], y_prob_b=[0.3, 0.8])
    assert coverage_table(data)["threshold"].tolist() == [0.7, 0.8]


def test_the_smallest_sufficient_threshold_is_chosen():
    data = random_rows(500)
    chosen = choose_abstention(data, 0.95, **FAST)
    curve = coverage_table(data)
    below = curve[curve["threshold"] < chosen.threshold]
    assert chosen.accuracy >= 0.95
    assert (below["accuracy"] < 0.95).all()
    answered = data[data["confidence"] >= chosen.threshold]
    assert chosen.n == len(answered)
    assert chosen.accuracy == (answered["y_true"] == answered["y_pred"]).mean()
    assert chosen.low < chosen.accuracy <= chosen.high
    assert chosen.coverage == chosen.n / 500


def test_no_threshold_is_said_when_none_suffices():
    data = random_rows(50).assign(y_pred="class 9")
    chosen = choose_abstention(data, 0.9, **FAST)
    assert chosen.threshold is None
    assert chosen.accuracy == 0
    assert "no threshold" in chosen.note
    assert choose_abstention(data.iloc[:0], 0.9).threshold is None


def test_a_threshold_from_few_images_is_marked():
    assert "3 tuning images of 3 patients" in choose_abstention(rows({("a", "a"): 3}).assign(confidence=0.9)).note
