"""Table 1 against R, and the summary of features."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hybrid.analysis import describe_cohort, describe_features, format_description
from hybrid.analysis.describe import DESCRIPTION_COLUMNS, FEATURE_SUMMARY_COLUMNS
from hybrid.errors import InputError

BIRTHWT = json.loads((Path(__file__).parents[1] / "reference/statistics/table1_birthwt.json").read_text())


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
