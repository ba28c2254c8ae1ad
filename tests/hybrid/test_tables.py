from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest

from hybrid import errors, tables
from hybrid.errors import InputError, unknown_name


def test_column_contracts_are_frozen():
    assert tables.COHORT_COLUMNS == ("case_id", "patient_id", "image", "mask", "roi_label", "outcome", "site")
    assert tables.PREDICTION_COLUMNS == (
        "case_id", "patient_id", "feature_set", "classifier", "split",
        "repeat", "fold", "y_true", "y_prob", "threshold",
    )  # fmt: skip
    assert tables.FAILURE_COLUMNS == ("case_id", "stage", "error", "message", "advice")
    assert tables.PROBLEM_COLUMNS == ("case_id", "severity", "problem", "advice")


def test_a_radiologists_spreadsheet_becomes_a_predictions_table():
    scores = pd.DataFrame({"case_id": [1, 2], "y_true": [0, 1], "y_prob": [0.2, 0.9]})
    before = scores.copy(deep=True)
    table = tables.check_predictions(scores)
    assert list(table.columns) == list(tables.PREDICTION_COLUMNS)
    assert table["patient_id"].tolist() == ["1", "2"]
    pd.testing.assert_frame_equal(scores, before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y_prob": [0.1, 1.2]}, r"case b: Column 'y_prob' must lie in \[0, 1\]; found 1.2"),
        ({"y_prob": [0.1, np.nan]}, "case b: Column 'y_prob' must hold numbers"),
        ({"y_true": [0, 2]}, "must be 0 or 1; found 2"),
        ({"case_id": ["a", "a"]}, "appears twice"),
    ],
)
def test_unusable_predictions_are_refused_by_case(change, message):
    table = pd.DataFrame({"case_id": ["a", "b"], "y_true": [0, 1], "y_prob": [0.2, 0.9]} | change)
    with pytest.raises(InputError, match=message):
        tables.check_predictions(table)


def test_missing_column_names_the_nearest():
    with pytest.raises(InputError, match="'y_probs'"):
        tables.check_predictions(pd.DataFrame({"case_id": ["a"], "y_true": [1], "y_probs": [0.5]}))


def test_feature_table_with_text_column_is_refused():
    with pytest.raises(InputError, match="'sex' must be numeric"):
        tables.check_features(pd.DataFrame({"case_id": ["a"], "rad_x": [1.0], "sex": ["f"]}))


def test_feature_table_with_doubled_case_is_refused():
    with pytest.raises(InputError, match="case 7"):
        tables.check_features(pd.DataFrame({"case_id": [7, 7], "rad_x": [1.0, 2.0]}))


def test_errors_survive_the_way_between_processes():
    error = errors.LeakageError("Seen before.", advice="Use others.", case_id="a", path="x.csv")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (type(error), str(error))


def test_unknown_names_list_the_nearest_valid_ones():
    assert "Did you mean 'logistic'?" in str(unknown_name("classifier", "logistc", ["logistic", "lda"]))
