"""Four published feature tables through the whole study: design checks, cross-validation, comparison, report.

``pytest -m slow -s tests/pipelines/test_feature_tables.py`` prints the AUC of each feature set and the time. The tables
(radMLBench, commit f757f7b; three of them CC BY 4.0) are in the folder that ``HYBRID_BENCHMARKS`` names.

===========  ==========================================================  ==============================
table        outcome                                                     source
===========  ==========================================================  ==============================
Arita2018    IDH mutation in glioma, MR                                  doi:10.1038/s41598-018-30273-4
Dong2022     tuberculous granuloma or adenocarcinoma of the lung, CT     doi:10.7717/peerj.14127
Zhang2023    invasiveness of subsolid nodules, CT (lesions as patients)  doi:10.7717/peerj.14559
Zhang2024B   lymph node metastasis of gastric cancer, CT                 doi:10.7717/peerj.17111
===========  ==========================================================  ==============================

All columns were standardised over the whole table by whoever published it. That looks at test patients, but not at the
outcome; ranks and AUCs of single columns do not change.
"""

from __future__ import annotations

import re
import sys
import time

import numpy as np
import pandas as pd
import pytest

from hybrid import Case, Cohort
from hybrid.analysis import Report, check_design, compare_models, evaluate_models, export_report
from hybrid.pipelines import cross_validate, permutation_null
from hybrid.tables import SELECTED

pytestmark = pytest.mark.slow

UNFILTERED = {
    "Arita2018": ["rad_T2_*"],
    "Dong2022": ["rad_original_*"],
    "Zhang2023": ["rad_original_*"],
    "Zhang2024B": ["rad_original_*"],
}
"""Columns of the smaller feature set: one sequence of the MR table, the unfiltered image of the CT tables."""

SIZES = {"Arita2018": (168, 111), "Dong2022": (279, 136), "Zhang2023": (203, 104), "Zhang2024B": (192, 126)}
"""Patients, and patients with the event."""

CLASSIFIERS = ("logistic", "random_forest")
SETTINGS = {"classifiers": CLASSIFIERS, "folds": 5, "inner_folds": 3, "progress": False}
PERMUTATIONS = 4


def read_cohort(folder, name):
    """Feature table with column names that are identifiers, and the cohort."""
    table = pd.read_csv(folder / "feature_tables" / f"{name}.csv.gz")
    ids = table["ID"].astype(str)
    features = table.drop(columns=["ID", "Target"])
    features.columns = ["rad_" + re.sub(r"\W+", "_", column).strip("_") for column in features.columns]
    features.index = pd.Index(ids, name="case_id")
    return features, Cohort(Case(case, case, outcome=int(y)) for case, y in zip(ids, table["Target"], strict=True))


def feature_sets(name):
    return {"all_columns": ["rad_*"], "unfiltered": UNFILTERED[name]}


def run_study_on(features, cohort, name, out):
    """All steps of a study but the extraction; returns tables and CPU seconds."""
    began = time.process_time()
    y = cohort.outcomes.astype(int)
    design = check_design(features, y, patients=pd.Series(features.index, features.index))
    sets = feature_sets(name)
    predictions = cross_validate(features, cohort, feature_sets=sets, repeats=2, out=out, **SETTINGS)
    only = {"all_columns": sets["all_columns"]}
    null = permutation_null(features, cohort, feature_sets=only, n_permutations=PERMUTATIONS, out=out, **SETTINGS)
    metrics = evaluate_models(predictions)
    result = compare_models(predictions, contrast=[("all_columns", "unfiltered")], null=null)
    report = Report(
        cohort, features, predictions, result, metrics=metrics, null=null, design=design, title=name,
        outcome_name="outcome",
    )  # fmt: skip
    page = report.save(out / "report.html")
    export_report(report, out)
    return page, metrics, result, null, time.process_time() - began


def show(name, features, metrics, null, seconds):
    chosen = metrics[(metrics["classifier"] == SELECTED) & (metrics["metric"] == "auc")]
    areas = ", ".join(
        f"{row.feature_set} AUC {row.estimate:.3f} ({row.lower:.3f} to {row.upper:.3f})" for row in chosen.itertuples()
    )
    sys.stdout.write(
        f"\n{name}: {features.shape[0]} x {features.shape[1]}, {areas}; shuffled outcome {null['auc'].mean():.3f}, "
        f"{PERMUTATIONS} permutations; {seconds / 60:.1f} CPU minutes\n"
    )


@pytest.mark.parametrize("name", UNFILTERED)
def test_feature_table_goes_through_the_whole_study(benchmarks, tmp_path, name):
    features, cohort = read_cohort(benchmarks, name)
    assert (len(features), cohort.outcomes.sum()) == SIZES[name]
    page, metrics, result, null, seconds = run_study_on(features, cohort, name, tmp_path)
    show(name, features, metrics, null, seconds)
    chosen = metrics[(metrics["classifier"] == SELECTED) & (metrics["metric"] == "auc")].set_index("feature_set")
    assert (chosen["n_patients"] == len(features)).all()
    # Measured: 0.61 to 0.77. An AUC of such a cohort scatters by 0.04 under chance, a mean of four by 0.02.
    assert 0.55 < chosen.loc["all_columns", "estimate"] < 0.95
    assert 0.4 < null["auc"].mean() < 0.6
    assert null["auc"].mean() < chosen.loc["all_columns", "estimate"]
    assert len(result.table) == 1
    assert seconds < 20 * 60
    for file in (page, tmp_path / "report.docx"):
        assert file.stat().st_size > 10_000


def test_permuted_outcome_gives_chance(benchmarks):
    features, cohort = read_cohort(benchmarks, "Zhang2024B")
    settings = SETTINGS | {"classifiers": ["logistic"], "inner_folds": 2}
    sets = feature_sets("Zhang2024B")
    null = permutation_null(features, cohort, feature_sets=sets, n_permutations=8, **settings)
    # The AUC of 192 patients scatters by 0.044 under chance; the mean of eight shuffles by 0.016.
    means = null.groupby("feature_set")["auc"].mean()
    np.testing.assert_allclose(means, 0.5, atol=0.06)
