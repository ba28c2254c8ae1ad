"""What leakage does: the same cross-validation, with features chosen before the folds or inside them.

Pure noise, 60 patients and 1000 features. The outcome cannot be predicted, so that an honest AUC lies about 0.5. When
the ten features that separate the classes best are chosen from all patients first, the test patients have taken part in
the choice, and the cross-validation that follows reports an AUC about 0.9 (Ambroise and McLachlan 2002,
doi:10.1073/pnas.102102699).
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

from hybrid import Case, Cohort
from hybrid.analysis import auc
from hybrid.classifiers import make_prefix
from hybrid.fusion import FeatureSet
from hybrid.pipelines import cross_validate

PATIENTS, FEATURES, TABLES = 60, 1000, 5


def noise(seed):
    """Features without any relation to the outcome, and the cohort."""
    rng = np.random.default_rng(seed)
    names = [f"rad_{i:04d}" for i in range(FEATURES)]
    ids = [f"c{i:02d}" for i in range(PATIENTS)]
    table = pd.DataFrame(rng.normal(size=(PATIENTS, FEATURES)), pd.Index(ids, name="case_id"), names)
    return table, Cohort(Case(case, f"p{i:02d}", outcome=i % 2) for i, case in enumerate(ids))


def chosen_from_all_patients(table, cohort):
    """The mistake: selection sees every patient, those of the test folds too."""
    y = np.array([case.outcome for case in cohort])
    prefix = make_prefix(FeatureSet("all", (tuple(table.columns),)))
    chosen = prefix.fit(table, y).get_feature_names_out()
    return table[list(chosen)]


def cross_validated_auc(table, cohort):
    predictions = cross_validate(
        table, cohort, feature_sets=["handcrafted"], classifiers={"logistic": LogisticRegression()}, repeats=1,
        inner_folds=2, baselines=(), progress=False,
    )  # fmt: skip
    rows = predictions[predictions["classifier"] == "logistic"]
    assert len(rows) == PATIENTS
    return auc(rows["y_true"], rows["y_prob"])


@pytest.fixture(scope="module")
def aucs():
    """AUCs of both ways on the same tables of noise."""
    tables = [noise(seed) for seed in range(TABLES)]
    return pd.DataFrame(
        {
            "selected_outside": [
                cross_validated_auc(chosen_from_all_patients(table, cohort), cohort) for table, cohort in tables
            ],
            "selected_inside": [cross_validated_auc(table, cohort) for table, cohort in tables],
        }
    )


def test_selection_outside_the_folds_finds_an_auc_of_about_09_in_noise(aucs):
    assert 0.85 < aucs["selected_outside"].mean() < 0.98
    assert aucs["selected_outside"].min() > 0.8


def test_selection_inside_the_folds_finds_an_auc_of_about_05_in_noise(aucs):
    # A single table of 60 patients scatters by about 0.08 around one half; the mean of five by 0.04.
    assert 0.4 < aucs["selected_inside"].mean() < 0.6
    assert aucs["selected_inside"].max() < 0.75


def test_the_mistake_changes_nothing_but_the_place_of_the_selection():
    table, cohort = noise(0)
    chosen = chosen_from_all_patients(table, cohort)
    assert chosen.shape == (PATIENTS, 10)
    pd.testing.assert_frame_equal(chosen, table[chosen.columns])
