"""Bad input of every kind gives one clear error, wherever it enters: tables of predictions, outcomes, scores."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from hybrid.analysis import (
    Report,
    auc_intervals,
    brier_score,
    calibration_metrics,
    compare_models,
    decision_curve,
    delong_test,
    evaluate_models,
    hand_till,
    hosmer_lemeshow,
    mcnemar_predictions,
    measure_validation,
    partial_auc,
    reclassification,
    spiegelhalter_test,
    unpaired_delong_test,
)
from hybrid.analysis.optimism import repeated_cv_auc
from hybrid.errors import InputError

Y, P = np.array([0, 0, 0, 1, 1, 1]), np.array([0.1, 0.3, 0.6, 0.4, 0.7, 0.9])
OF_TABLES = {
    "evaluate": lambda table: evaluate_models(table, n_bootstrap=20),
    "compare": lambda table: compare_models(table, n_bootstrap=20),
    "calibration": lambda table: calibration_metrics(table, n_bootstrap=20),
    "decision curve": lambda table: decision_curve(table, n_bootstrap=20),
    "validation": lambda table: measure_validation(table, n_bootstrap=20),
    "report": lambda table: Report(None, None, table, n_bootstrap=20),
}
OF_SCORES = {
    "auc": auc_intervals,
    "paired": lambda y, p: delong_test(y, p, P),
    "unpaired": lambda y, p: unpaired_delong_test(y, p, Y, P),
    "partial": partial_auc,
}
OF_PROBABILITIES = {
    "brier": brier_score,
    "hosmer_lemeshow": hosmer_lemeshow,
    "spiegelhalter": spiegelhalter_test,
    "reclassification": lambda y, p: reclassification(y, p, P),
}


def changed(table, column, value):
    """Table with another value in one row."""
    values = table[column].to_numpy(dtype=object).copy()
    values[3] = value
    kind = float if column.startswith("y_") else object
    return table.assign(**{column: values.astype(kind)})


@pytest.mark.parametrize("name", OF_TABLES)
def test_probabilities_outside_and_missing_ones_name_the_case(name, small_predictions):
    with pytest.raises(InputError, match=r"case case003.*'y_prob' must lie in \[0, 1\]; found 1.2"):
        OF_TABLES[name](changed(small_predictions, "y_prob", 1.2))
    with pytest.raises(InputError, match=r"case case003.*'y_prob' must hold numbers"):
        OF_TABLES[name](changed(small_predictions, "y_prob", np.nan))


@pytest.mark.parametrize("name", OF_TABLES)
def test_one_class_duplicated_cases_and_repeats_without_events(name, small_predictions):
    with pytest.raises(InputError, match="one class only"):
        OF_TABLES[name](small_predictions.assign(y_true=1))
    with pytest.raises(InputError, match="appears twice"):
        OF_TABLES[name](pd.concat([small_predictions, small_predictions.head(1)]))
    lost = small_predictions[~((small_predictions["repeat"] == 1) & (small_predictions["y_true"] == 1))]
    with pytest.raises(InputError, match="one outcome class only in repeat 1"):
        OF_TABLES[name](lost)


@pytest.mark.parametrize("name", OF_SCORES | OF_PROBABILITIES)
def test_arrays_of_unequal_length_with_gaps_or_of_one_class(name):
    function = (OF_SCORES | OF_PROBABILITIES)[name]
    with pytest.raises(InputError, match=r"one entry per case|same cases"):
        function(Y[:5], P)
    with pytest.raises(InputError, match="finite"):
        function(Y, np.r_[P[:5], np.nan])
    with pytest.raises(InputError, match="one class"):
        function(np.ones(6, dtype=int), P)


@pytest.mark.parametrize("name", OF_PROBABILITIES)
def test_scores_that_are_no_probabilities(name):
    with pytest.raises(InputError, match=r"\[0, 1\]; found 3"):
        OF_PROBABILITIES[name](Y, 10 * P)


def test_calls_and_classes_of_unequal_length():
    with pytest.raises(InputError):
        mcnemar_predictions(Y, Y[:5], Y)
    with pytest.raises(InputError, match="one row of probabilities per case"):
        hand_till(Y, np.ones((5, 2)) / 2)


def test_folds_without_an_event_are_counted_and_none_left_is_an_error(small_predictions):
    one_model = small_predictions.query("feature_set == 'deep' and classifier == 'selected'")
    by_outcome = one_model.assign(fold=one_model["y_true"] + 2 * (one_model.index % 2))
    with pytest.raises(InputError, match="two or more test folds with both classes; found 0"):
        repeated_cv_auc(by_outcome)
    mixed = by_outcome.assign(fold=np.where(by_outcome["repeat"] == 0, by_outcome["fold"], by_outcome.index % 3))
    assert repeated_cv_auc(mixed)["n_folds_left_out"].iloc[0] == 4
