"""How often 95 % intervals of an AUC hold the true one: 4000 simulated studies of 60 patients each.

Binormal scores with a true AUC of 0.8, 30 or 12 of 60 patients with the event. A Monte-Carlo standard error of 4000
studies is 0.0034 at 95 % coverage. The logit interval and the BCa bootstrap keep their level. DeLong's interval on the
scale of the AUC does not, and that is no mistake of the code: the AUC of a small sample is skewed, and a symmetric
interval misses on the side of 1. The reports therefore print the logit and the BCa intervals.

``pytest -m slow -s tests/analysis/test_coverage.py`` prints the table.
"""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from hybrid.analysis import auc_intervals
from hybrid.analysis.auc_inference import INTERVAL_METHODS

pytestmark = pytest.mark.slow

PATIENTS, TRUE_AUC, STUDIES, DRAWS = 60, 0.8, 4000, 2000
DESIGNS = {"balanced": 30, "20 % events": 12}


def simulated_studies(n_events, seed):
    """Outcomes of shape (patients,) and scores of shape (studies, patients)."""
    y = np.arange(PATIENTS) < n_events
    scores = np.random.default_rng(seed).normal(size=(STUDIES, PATIENTS))
    return y, scores + np.sqrt(2) * stats.norm.ppf(TRUE_AUC) * y


def coverage_of(n_events):
    """One row per method: coverage, how often it misses on either side, mean width."""
    y, scores = simulated_studies(n_events, seed=n_events)
    tables = [auc_intervals(y, row, n_bootstrap=DRAWS, seed=i) for i, row in enumerate(scores)]
    every = pd.concat(tables).assign(
        covered=lambda t: (t["ci_low"] <= TRUE_AUC) & (t["ci_high"] >= TRUE_AUC),
        below=lambda t: t["ci_high"] < TRUE_AUC,
        above=lambda t: t["ci_low"] > TRUE_AUC,
        width=lambda t: t["ci_high"] - t["ci_low"],
    )
    return every.groupby("method", sort=False)[["covered", "below", "above", "width"]].mean()


@pytest.fixture(scope="module")
def coverage():
    table = pd.concat({name: coverage_of(n) for name, n in DESIGNS.items()}, names=["design"])
    sys.stdout.write(f"\n{STUDIES} studies of {PATIENTS} patients, AUC {TRUE_AUC}\n{table.round(4).to_string()}\n")
    return table


def test_simulated_scores_have_the_intended_auc():
    y, scores = simulated_studies(30, seed=0)
    pairs = scores[:, y][:, :, None] > scores[:, ~y][:, None, :]
    assert pairs.mean() == pytest.approx(TRUE_AUC, abs=0.004)


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("method", ["logit", "bca"])
def test_logit_and_bca_intervals_hold_the_true_auc_in_95_percent(coverage, design, method):
    assert 0.93 <= coverage.loc[(design, method), "covered"] <= 0.97


@pytest.mark.parametrize("design", DESIGNS)
def test_delong_interval_holds_the_true_auc_less_often(coverage, design):
    # A correct DeLong interval gives about .91 to .93 here; more would mean that it is not DeLong's.
    covered = coverage.loc[design]["covered"]
    assert 0.90 <= covered["delong"] <= 0.945
    assert covered["delong"] < covered["logit"]


@pytest.mark.parametrize("design", DESIGNS)
def test_delong_interval_misses_on_one_side(coverage, design):
    missed = coverage.loc[(design, "delong")]
    assert missed["above"] > 2 * missed["below"]


def test_every_method_is_simulated(coverage):
    assert set(coverage.index.get_level_values("method")) == set(INTERVAL_METHODS)
