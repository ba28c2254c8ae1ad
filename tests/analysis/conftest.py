"""Simulated predictions: what a cross-validation of a small cohort would return."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest

STRENGTH = {"handcrafted": 0.9, "deep": 0.5, "fused": 1.0, "volume": 0.3, "noise": 0.0}
CLASSIFIERS = ("logistic", "elastic_net", "rbf_svm", "random_forest", "xgboost", "knn")


def simulate_predictions(
    n=26,
    n_events=8,
    *,
    feature_sets=("handcrafted", "deep", "fused"),
    classifiers=(*CLASSIFIERS, "selected"),
    repeats=5,
    folds=5,
    seed=0,
):
    rng = np.random.default_rng(seed)
    y = np.zeros(n, dtype=int)
    y[rng.choice(n, n_events, replace=False)] = 1
    common = rng.normal(size=n)
    rows = []
    for feature_set in feature_sets:
        own = 0.6 * common + 0.8 * rng.normal(size=n) + STRENGTH.get(feature_set, 0.5) * (2 * y - 1)
        for classifier, repeat in itertools.product(classifiers, range(repeats)):
            score = own + 0.5 * rng.normal(size=n)
            probability = 1 / (1 + np.exp(-score + 0.6))
            if classifier == "majority":
                probability = np.full(n, n_events / n)
            fold = rng.permutation(n) % folds
            for i in range(n):
                rows.append(
                    (f"case{i:03d}", f"patient{i:03d}", feature_set, classifier, "test", repeat, fold[i], y[i],
                     probability[i], 0.4 + 0.02 * fold[i] if classifier != "majority" else 0.5)
                )  # fmt: skip
    columns = [
        "case_id", "patient_id", "feature_set", "classifier", "split", "repeat", "fold", "y_true", "y_prob",
        "threshold",
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def simulate_cohort(predictions, seed=0):
    rng = np.random.default_rng(seed)
    cases = predictions.drop_duplicates("case_id")[["case_id", "patient_id", "y_true"]]
    n = len(cases)
    return pd.DataFrame(
        {
            "case_id": cases["case_id"].to_numpy(),
            "patient_id": cases["patient_id"].to_numpy(),
            "image": [f"images/{case}.nii.gz" for case in cases["case_id"]],
            "mask": [f"masks/{case}.nii.gz" for case in cases["case_id"]],
            "outcome": cases["y_true"].to_numpy(),
            "site": rng.choice(["A", "B"], n),
            "age": np.where(rng.random(n) < 0.1, np.nan, rng.normal(60, 12, n).round()),
            "sex": rng.choice(["female", "male"], n),
            "grade": rng.choice([1, 2, 3], n),
        }
    )


def simulate_features(cohort, n_handcrafted=12, n_deep=16, seed=0):
    rng = np.random.default_rng(seed)
    names = [f"rad_original_firstorder_F{i}" for i in range(n_handcrafted)] + [f"deep_{i:04d}" for i in range(n_deep)]
    values = rng.normal(size=(len(cohort), len(names)))
    return pd.DataFrame(values, columns=names, index=pd.Index(cohort["case_id"], name="case_id"))


def simulate_null(feature_sets=("handcrafted", "deep", "fused"), n_permutations=20, seed=0):
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        [(name, i, 0.5 + 0.08 * rng.normal()) for name in feature_sets for i in range(n_permutations)],
        columns=["feature_set", "permutation", "auc"],
    )


@pytest.fixture(scope="session")
def make_predictions():
    return simulate_predictions


@pytest.fixture(scope="session")
def make_cohort():
    return simulate_cohort


@pytest.fixture(scope="session")
def make_features():
    return simulate_features


@pytest.fixture(scope="session")
def make_null():
    return simulate_null


@pytest.fixture(scope="session")
def small_predictions():
    """26 patients, 8 events, 3 feature sets, 2 classifiers and the selected one, 3 repeats."""
    return simulate_predictions(classifiers=("logistic", "random_forest", "selected"), repeats=3)
