"""Table 1 against R, and the summary of features."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from hybrid.analysis import describe_cohort, describe_features, format_description
from hybrid.analysis.describe import (
    DESCRIPTION_COLUMNS,
    FEATURE_SUMMARY_COLUMNS,
    MONTE_CARLO,
    TEST_COLUMNS,
    describe_by_split,
)
from hybrid.errors import InputError, LeakageError

BIRTHWT = json.loads(
    (Path(__file__).parents[1] / "reference/statistics/table1_birthwt.json").read_text(encoding="utf-8")
)


@pytest.fixture
def birthwt(benchmarks):
    table = pd.read_csv(benchmarks / "statistics" / "birthwt.csv")
    return table.assign(case_id=[f"c{i}" for i in range(len(table))])


@pytest.fixture
def cohort(small_predictions, make_cohort):
    return make_cohort(small_predictions)


def rows(description, variable, group=None, level=None):
    found = description[description["variable"] == variable]
    for column, value in (("group", group), ("level", level)):
        if value is not None:
            found = found[found[column] == value]
    return found


@pytest.mark.parametrize("variable", ["age", "lwt", "bwt"])
def test_numeric_variables_equal_r_on_birthwt(birthwt, variable):
    description = describe_cohort(birthwt, by="low")
    expected = BIRTHWT[variable]
    for i, group in enumerate(["0", "1"]):
        row = rows(description, variable, group).iloc[0]
        for ours, theirs in (("mean", "mean"), ("sd", "sd"), ("median", "median"), ("q1", "q25"), ("q3", "q75")):
            assert row[ours] == pytest.approx(expected[theirs][i], rel=1e-12), (group, ours)
        assert row["smd"] == pytest.approx(abs(expected["smd"]), rel=1e-12)


@pytest.mark.parametrize("variable", ["smoke", "ht", "ui"])
def test_counts_equal_r_on_birthwt(birthwt, variable):
    description = describe_cohort(birthwt, by="low")
    for level, counts in zip("01", BIRTHWT[variable]["counts"], strict=True):
        for group, count in zip("01", counts, strict=True):
            assert rows(description, variable, group, level)["count"].iloc[0] == count


def test_smd_of_two_known_groups():
    # Means 2 and 4, variances 1 and 4: 2 / sqrt(2.5). Shares 1/2 and 1/4: 0.25 / sqrt((0.25 + 0.1875) / 2).
    table = pd.DataFrame(
        {"case_id": list("abcdefgh"), "outcome": [0] * 4 + [1] * 4, "x": [1, 2, 3, np.nan, 2, 4, 6, np.nan],
         "sex": ["f", "f", "m", "m", "f", "m", "m", "m"]}
    )  # fmt: skip
    description = describe_cohort(table)
    assert rows(description, "x")["smd"].iloc[0] == pytest.approx(2 / np.sqrt(2.5))
    assert rows(description, "sex")["smd"].iloc[0] == pytest.approx(0.25 / np.sqrt(0.21875))


def test_smd_of_three_levels_equals_the_mahalanobis_form():
    table = pd.DataFrame({"case_id": range(12), "outcome": [0] * 6 + [1] * 6, "grade": list("aabbcc") + list("abbccc")})
    t, c = np.array([2, 2]) / 6, np.array([2, 3]) / 6
    spread = (np.diag(t) - np.outer(t, t) + np.diag(c) - np.outer(c, c)) / 2
    expected = np.sqrt((t - c) @ np.linalg.inv(spread) @ (t - c))
    assert rows(describe_cohort(table), "grade")["smd"].iloc[0] == pytest.approx(expected)


def test_columns_and_sizes(cohort):
    description = describe_cohort(cohort)
    assert tuple(description.columns) == DESCRIPTION_COLUMNS
    sizes = rows(description, "patients").set_index("group")["count"]
    assert sizes.to_dict() == {"all": 26, "0": 18, "1": 8}


def test_identifiers_and_paths_are_not_described(cohort):
    assert set(describe_cohort(cohort)["variable"]) == {"patients", "cases", "site", "age", "sex", "grade"}


def test_free_text_is_not_described(cohort):
    table = cohort.assign(comment=[f"note {i}" for i in range(len(cohort))])
    assert "comment" not in set(describe_cohort(table)["variable"])


def test_missing_values_are_counted(cohort):
    table = cohort.assign(age=[np.nan, *cohort["age"].fillna(50)[1:]])
    row = rows(describe_cohort(table), "age", "all").iloc[0]
    assert (row["n"], row["missing"]) == (25, 1)


def test_a_patient_with_several_cases_counts_once_where_the_value_is_the_patients(cohort):
    twice = pd.concat([cohort, cohort.assign(case_id=cohort["case_id"] + "b")]).assign(size=lambda t: range(len(t)))
    description = describe_cohort(twice)
    assert rows(description, "patients", "all")["count"].iloc[0] == 26
    assert rows(description, "cases", "all")["count"].iloc[0] == 52
    pd.testing.assert_frame_equal(
        rows(description, "age").reset_index(drop=True), rows(describe_cohort(cohort), "age").reset_index(drop=True)
    )
    assert rows(description, "size", "all")[["unit", "n"]].iloc[0].tolist() == ["case", 52]


def test_without_outcome_there_is_one_group(cohort):
    assert set(describe_cohort(cohort.drop(columns="outcome"))["group"]) == {"all"}


def test_misspelt_variable_names_the_nearest(cohort):
    with pytest.raises(InputError, match="Did you mean 'grade'"):
        describe_cohort(cohort, variables=["grad"])


def test_the_table_holds_numbers_and_the_formatter_text(cohort):
    before = cohort.copy()
    description = describe_cohort(cohort)
    for column in ("n", "missing", "mean", "sd", "median", "count", "percent", "smd"):
        assert pd.api.types.is_numeric_dtype(description[column]), column
    text = format_description(description)
    assert text.loc[0, ["variable", "all", "0", "1"]].tolist() == ["patients", "26", "18", "8"]
    assert "(" in text.set_index("variable").loc["age", "all"]
    pd.testing.assert_frame_equal(cohort, before)


# R 4.2.2 on MASS::birthwt by low: t.test, wilcox.test (with continuity correction), chisq.test(correct = FALSE) and
# fisher.test. Of the 12 women with hypertension 3.7 are expected to have a light child, hence the exact test.
BIRTHWT_TESTS = {
    "age": ("Mann-Whitney test", 0.247146581731148),
    "lwt": ("Mann-Whitney test", 0.012782242220945),
    "bwt": ("Mann-Whitney test", 3.65849585559151e-28),
    "race": ("chi-squared test", 0.0818876981247951),
    "smoke": ("chi-squared test", 0.0264906425305024),
    "ht": ("Fisher's exact test", 0.0516118715676477),
    "ui": ("chi-squared test", 0.020127924203652),
}
BIRTHWT_WELCH = {"age": 0.0783400332066352, "lwt": 0.0130803341792026, "bwt": 2.80705889139089e-39}


@pytest.mark.parametrize("variable", BIRTHWT_TESTS)
def test_chosen_test_and_p_equal_r_on_birthwt(birthwt, variable):
    table = birthwt.assign(race=birthwt["race"].map({1: "white", 2: "black", 3: "other"}))
    row = rows(describe_cohort(table, by="low", variables=[variable], tests=True), variable).iloc[0]
    assert row["test_name"] == BIRTHWT_TESTS[variable][0]
    assert row["p"] == pytest.approx(BIRTHWT_TESTS[variable][1], rel=1e-9)


@pytest.mark.parametrize("variable", BIRTHWT_WELCH)
def test_welch_test_of_declared_normal_variables_equals_r_on_birthwt(birthwt, variable):
    found = describe_cohort(birthwt, by="low", variables=[variable], tests=True, normal=[variable])
    row = rows(found, variable).iloc[0]
    assert row["test_name"] == "Welch's t-test"
    assert row["p"] == pytest.approx(BIRTHWT_WELCH[variable], rel=1e-9)


def test_freeman_halton_test_agrees_with_r_on_birthwt(birthwt):
    # fisher.test of premature labours (0 to 3): 0.00031055; 20 000 draws have a standard error of 0.00012.
    table = birthwt.assign(ptl="n" + birthwt["ptl"].astype(str))
    row = rows(describe_cohort(table, by="low", variables=["ptl"], tests=True), "ptl").iloc[0]
    assert row["test_name"].startswith("Fisher-Freeman-Halton")
    assert row["p"] == pytest.approx(0.000310553998557963, abs=4e-4)
    assert row["p"] >= 1 / (1 + MONTE_CARLO)


def three_by_two(counts):
    """Cohort with these counts of grades (rows) by split (columns)."""
    cells = [(f"g{i}", f"s{j}") for i, row in enumerate(counts) for j, n in enumerate(row) for _ in range(n)]
    grades, splits = zip(*cells, strict=True)
    return pd.DataFrame({"case_id": range(len(cells)), "grade": grades, "split": splits})


def test_freeman_halton_test_agrees_with_all_tables_of_the_margins():
    counts = np.array([[5, 1], [2, 3], [0, 4]])
    totals, first = counts.sum(axis=1), counts[:, 0].sum()
    every = [t for t in itertools.product(*(range(n + 1) for n in totals)) if sum(t) == first]
    chances = {t: stats.multivariate_hypergeom.pmf(t, m=totals, n=first) for t in every}
    exact = sum(chance for chance in chances.values() if chance <= chances[5, 2, 0] * (1 + 1e-9))
    found = describe_cohort(three_by_two(counts), by="split", tests=True)
    assert rows(found, "grade")["p"].iloc[0] == pytest.approx(exact, abs=4 * np.sqrt(exact / MONTE_CARLO))


def splits_of(cohort):
    """Three cohort tables of 12, 8 and 6 patients."""
    return {"train": cohort[:12], "test": cohort[12:20], "external": cohort[20:]}


def test_splits_stand_side_by_side_in_the_given_order(cohort):
    before = cohort.copy()
    description = describe_by_split(splits_of(cohort))
    assert tuple(description.columns) == (*DESCRIPTION_COLUMNS, *TEST_COLUMNS)
    sizes = rows(description, "patients").set_index("group")["count"]
    assert list(sizes.items()) == [("all", 26), ("train", 12), ("test", 8), ("external", 6)]
    assert {"outcome", "age", "sex", "site", "grade"} <= set(description["variable"])
    pd.testing.assert_frame_equal(cohort, before)


def test_split_column_is_shown_in_the_order_of_a_study(cohort):
    names = ["external", "test", "validation", "train"]
    table = cohort.assign(split=[names[i % 4] for i in range(len(cohort))])
    groups = describe_cohort(table, by="split")["group"].drop_duplicates().tolist()
    assert groups == ["all", "train", "validation", "test", "external"]


def test_smd_of_three_groups_is_the_largest_of_the_pairs(cohort):
    parts = splits_of(cohort)
    whole = describe_by_split(parts)
    pairs = [describe_by_split({a: parts[a], b: parts[b]}) for a, b in itertools.combinations(parts, 2)]
    for variable in ("age", "sex", "site"):
        expected = max(rows(pair, variable)["smd"].iloc[0] for pair in pairs)
        assert rows(whole, variable)["smd"].iloc[0] == expected > 0, variable


def test_three_groups_are_compared_by_kruskal_wallis_or_welch(cohort):
    parts = splits_of(cohort)
    values = [part["age"].dropna().to_numpy() for part in parts.values()]
    found = rows(describe_by_split(parts), "age").iloc[0]
    assert found["test_name"] == "Kruskal-Wallis test"
    assert found["p"] == pytest.approx(stats.kruskal(*values).pvalue, rel=1e-12)
    welch = rows(describe_by_split(parts, normal=["age"]), "age").iloc[0]
    assert welch["test_name"] == "Welch's analysis of variance"
    assert 0 < welch["p"] < 1


def test_order_of_rows_does_not_change_a_test(cohort):
    shuffled = {name: part.sample(frac=1, random_state=1) for name, part in splits_of(cohort).items()}
    pd.testing.assert_frame_equal(describe_by_split(splits_of(cohort)), describe_by_split(shuffled))


def test_rows_of_one_patient_are_not_tested_as_if_independent(cohort):
    lesions = pd.concat([cohort, cohort.assign(case_id=cohort["case_id"] + "b")]).assign(size=lambda t: range(len(t)))
    description = describe_cohort(lesions, tests=True)
    size = rows(description, "size").iloc[0]
    assert (size["test_name"], np.isnan(size["p"])) == ("not tested: several rows per patient", True)
    once = describe_cohort(cohort, tests=True)
    assert rows(description, "age")["p"].iloc[0] == rows(once, "age")["p"].iloc[0]


def test_a_patient_in_two_groups_is_not_tested(cohort):
    table = cohort.assign(patient_id=["same"] * 2 + list(cohort["patient_id"][2:]), age=50, split=list("ab" * 13))
    row = rows(describe_cohort(table, by="split", variables=["age"], tests=True), "age").iloc[0]
    assert (row["test_name"], np.isnan(row["p"])) == ("not tested: a patient is in several groups", True)


@pytest.mark.parametrize(
    ("values", "reason"),
    [([7.0] * 26, "one value only"), ([1.0, 2.0, 3.0] + [np.nan] * 23, "a group has fewer than two values")],
)
def test_what_cannot_be_tested_says_why(cohort, values, reason):
    table = cohort.assign(score=values, split=["train"] * 13 + ["test"] * 13)
    row = rows(describe_cohort(table, by="split", variables=["score"], tests=True), "score").iloc[0]
    assert row["test_name"] == f"not tested: {reason}"
    assert np.isnan(row["p"])


def test_a_patient_in_two_splits_is_refused(cohort):
    with pytest.raises(LeakageError, match="'patient012' is in the splits 'train' and 'test'"):
        describe_by_split({"train": cohort[:13], "test": cohort[12:]})


@pytest.mark.parametrize(
    ("splits", "message"), [(["train"], "two splits or more; found 1"), (["train", "empty"], "'empty' has no rows")]
)
def test_too_few_splits_or_rows_are_refused(cohort, splits, message):
    parts = {"train": cohort, "empty": cohort[:0]}
    with pytest.raises(InputError, match=message):
        describe_by_split({name: parts[name] for name in splits})


def test_a_misspelt_normal_variable_names_the_nearest(cohort):
    with pytest.raises(InputError, match="Did you mean 'age'"):
        describe_cohort(cohort, tests=True, normal=["agee"])


def test_formatted_splits_end_with_test_and_p(cohort):
    text = format_description(describe_by_split(splits_of(cohort)))
    assert list(text.columns) == [
        "variable", "level", "all", "train", "test", "external", "missing", "smd", "test_name", "p",
    ]  # fmt: skip
    assert text.set_index("variable").loc["age", "test_name"] == "Kruskal-Wallis test"
    assert text.loc[0, ["test_name", "p"]].tolist() == ["", ""]


def test_features_are_counted_by_family(cohort, make_features):
    features = make_features(cohort)
    features.iloc[0] = np.nan
    features["deep_0003"] = 1.0
    summary = describe_features(features)
    assert tuple(summary.columns) == FEATURE_SUMMARY_COLUMNS
    table = summary.set_index("family")
    assert table["n_features"].to_dict() == {"handcrafted": 12, "deep": 16}
    assert table.loc["handcrafted", ["n_rows_without_values", "n_missing_cells"]].tolist() == [1, 12]
    assert table.loc["deep", "n_constant"] == 1


def test_a_dictionary_names_families_and_images(cohort, make_features):
    features = make_features(cohort, n_handcrafted=2, n_deep=1)
    dictionary = pd.DataFrame(
        {"name": features.columns, "family": ["firstorder", "shape", "embedding"], "image": ["ct", "ct", None]}
    )
    summary = describe_features(features, dictionary)
    assert summary[["family", "image"]].to_numpy().tolist() == [
        ["firstorder", "ct"],
        ["shape", "ct"],
        ["embedding", ""],
    ]
