"""Chance, folds and refits in the report: what the AUC of a procedure owes to luck and to its own patients."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd

from hybrid.errors import InputError

from .exports import CONTENTS, Section
from .optimism import permutation_p, repeated_cv_auc
from .panel import Model
from .plots import model_names
from .roc import auc
from .views import Cell, Row, View
from .wording import MISSING, interval, number, p_value, percent

CONTENTS.update({
    "permutation_test": "One-sided permutation test of the AUC of each compared model",
    "repeated_cv": "Mean AUC over test folds with a variance that allows for overlapping training sets",
    "resampled": "Resubstitution, out-of-bag, .632, .632+ and optimism-corrected performance of one declared pipeline",
})  # fmt: skip

METHOD_NAMES: Final = {
    "resubstitution": "Resubstitution: on the patients it was fitted on",
    "optimism_corrected": "Optimism-corrected (Harrell's bootstrap)",
    "632": ".632 bootstrap",
    "632_plus": ".632+ bootstrap",
    "out_of_bag": "Out-of-bag: on patients outside each bootstrap sample",
    "leave_pair_out": "Leave-pair-out",
}
"""Resampling methods in the order of the page, the most optimistic first."""

PERMUTATION_COLUMNS: Final = (
    "feature_set", "classifier", "auc", "null_mean", "p", "p_lower", "p_upper", "smallest_p", "n_permutations",
    "method",
)  # fmt: skip
"""Columns of the table that :func:`permutation_tests` returns; ``auc`` is that of the first repeat."""


def resampling_tables(
    predictions: pd.DataFrame,
    models: Sequence[Model],
    null: pd.DataFrame | None,
    resampled: pd.DataFrame | None,
    *,
    level: float,
) -> dict[str, pd.DataFrame]:
    """Compute the tables of this part that are possible, unrounded.

    Parameters
    ----------
    predictions : DataFrame
        Of the evaluated split.
    models : sequence of (str, str)
        Models of the figures.
    null : DataFrame or None
        Permutation null, ``feature_set, permutation, auc``.
    resampled : DataFrame or None
        From :func:`hybrid.pipelines.bootstrap_632`, :func:`hybrid.pipelines.optimism_bootstrap` and
        :func:`hybrid.pipelines.leave_pair_out`, below each other.
    level : float
        Confidence level.
    """
    tables: dict[str, pd.DataFrame] = {}
    tested = permutation_tests(predictions, models, null)
    if len(tested):
        tables["permutation_test"] = tested
    is_own = pd.MultiIndex.from_frame(predictions[["feature_set", "classifier"]].astype(str)).isin(list(models))
    # Predictions without folds, or whose folds have one outcome, have no variance over folds.
    with contextlib.suppress(InputError):
        tables["repeated_cv"] = repeated_cv_auc(predictions[is_own], level=level)
    if resampled is not None and len(resampled):
        tables["resampled"] = resampled.drop_duplicates(["feature_set", "metric", "method"], ignore_index=True)
    return tables


def permutation_tests(predictions: pd.DataFrame, models: Sequence[Model], null: pd.DataFrame | None) -> pd.DataFrame:
    """Compare the AUC of the first repeat of each model with AUCs of the same procedure on shuffled outcomes.

    Parameters
    ----------
    predictions, models, null
        See :func:`resampling_tables`. One repeat is compared with permutations of one repeat: the mean of several
        varies less than any of them.

    Returns
    -------
    DataFrame
        Columns :data:`PERMUTATION_COLUMNS`, one row per model with a null; see
        :func:`hybrid.analysis.optimism.permutation_p`.
    """
    rows = []
    first = predictions[predictions["repeat"] == predictions["repeat"].min()]
    for feature_set, classifier in models:
        if null is None or null.empty or ("classifier" in null.columns and classifier not in set(null["classifier"])):
            continue
        drawn = null.loc[null["feature_set"] == feature_set].groupby("permutation")["auc"].mean().to_numpy(float)
        own = first[(first["feature_set"] == feature_set) & (first["classifier"] == classifier)]
        if not drawn.size or own["y_true"].nunique() < 2:
            continue
        observed = auc(own["y_true"], own["y_prob"])
        test = permutation_p(observed, drawn)
        rows.append(
            (feature_set, classifier, observed, float(drawn.mean()), test.p, test.lower, test.upper, test.smallest,
             test.n_permutations, test.method)
        )  # fmt: skip
    return pd.DataFrame(rows, columns=list(PERMUTATION_COLUMNS))


def resampling_section(tables: Mapping[str, pd.DataFrame], level: float) -> Section | None:
    """Build the section from its tables; None without them."""
    views = []
    if "permutation_test" in tables:
        views.append(_permutation_view(tables["permutation_test"]))
    if "repeated_cv" in tables:
        views.append(_folds_view(tables["repeated_cv"], level))
    if "resampled" in tables:
        views.append(resampled_view(tables["resampled"], level))
    return Section(TITLE, [("", _RESAMPLING)], views) if views else None


TITLE: Final = "Chance, folds and refits"

_RESAMPLING: Final = (
    "How much of the AUC is luck, and how much would it move with other training patients? Intervals elsewhere in this "
    "report draw other patients to test; here the whole procedure is repeated, with shuffled outcomes or with other "
    "training patients."
)


def _permutation_view(table: pd.DataFrame) -> View:
    models = list(zip(table["feature_set"], table["classifier"], strict=True))
    rows = [
        Row([
            Cell(name), Cell(number(row["auc"])), Cell(number(row["null_mean"])),
            Cell(p_value(row["p"]), _bounds(row["p_lower"], row["p_upper"])),
        ])
        for name, row in zip(model_names(models), table.to_dict("records"), strict=True)
    ]  # fmt: skip
    first = table.iloc[0]
    note = (
        f"{first['method']}, one-sided: is the AUC of the first repeat higher than that of the same procedure on "
        f"shuffled outcomes? {int(first['n_permutations'])} permutations, so that p cannot be below "
        f"{p_value(first['smallest_p'])}; below each p: where the p of all permutations lies. Not adjusted for the "
        "number of models."
    )
    columns = ["Model", "AUC, first repeat", "AUC, shuffled outcomes (mean)", "p"]
    return View("Permutation test: is there any signal?", columns, rows, note)


def _folds_view(table: pd.DataFrame, level: float) -> View:
    models = list(zip(table["feature_set"], table["classifier"], strict=True))
    rows = [
        Row([Cell(name), Cell(number(row["estimate"]), _bounds(row["lower"], row["upper"])),
             Cell(number(row["standard_error"], 3)), Cell(f"{int(row['n_fits']) - int(row['n_folds_left_out'])}")])
        for name, row in zip(model_names(models), table.to_dict("records"), strict=True)
    ]  # fmt: skip
    note = (
        f"The AUC inside each test fold, averaged; {percent(level)} interval. {table['interval'].iloc[0]}. Training "
        "sets of folds share patients, which a plain standard error over folds ignores. Folds are small, so that this "
        "interval is wide; folds with one outcome only are left out."
    )
    return View("AUC over test folds", ["Model", "AUC", "Standard error", "Folds"], rows, note)


def resampled_view(table: pd.DataFrame, level: float) -> View:
    """Build the table of refits on bootstrap samples.

    Parameters
    ----------
    table : DataFrame
        From :func:`hybrid.pipelines.bootstrap_632` and :func:`hybrid.pipelines.optimism_bootstrap`.
    level : float
        Confidence level of its intervals.
    """
    rows: list[Row] = []
    for feature_set, part in table.groupby("feature_set", sort=False):
        rows += [Row([Cell(str(feature_set))], "group")] if table["feature_set"].nunique() > 1 else []
        for method, name in METHOD_NAMES.items():
            own = part[part["method"] == method].set_index("metric")
            if len(own):
                rows.append(Row([Cell(name), *(_resampled_cell(own, metric) for metric in _MEASURES)]))
    is_pair = table["method"] == "leave_pair_out"
    pairs = f" {_PAIRS} ({int(table.loc[is_pair, 'n_fits'].max())} fits)." if is_pair.any() else ""
    n_fits = int(table.loc[~is_pair, "n_fits"].max())
    optimistic = " *: known to be too good for this pipeline." if bool(table["is_optimistic"].any()) else ""
    note = (
        f"The whole procedure, selection and tuning included, refitted {n_fits} times; "
        f"{percent(level)} intervals.{optimistic} Efron and Tibshirani 1997 (doi:10.1080/01621459.1997.10474007), "
        "Harrell et al. 1996 (doi:10.1002/(SICI)1097-0258(19960229)15:4<361::AID-SIM168>3.0.CO;2-4). For one pipeline "
        "that was declared beforehand, never for the best of several. Error: share of wrong calls at the model's own "
        f"cut-off.{pairs}"
    )
    return View("Refits on bootstrap samples of patients", ["Estimate", *_MEASURES.values()], rows, note)


_PAIRS: Final = (
    "Leave-pair-out: refitted without each pair of a patient with and one without the event (Airola et al. 2011, "
    "doi:10.1016/j.csda.2010.11.018)"
)

_MEASURES: Final = {"auc": "AUC", "brier": "Brier", "error": "Error"}


def _resampled_cell(own: pd.DataFrame, metric: str) -> Cell:
    if metric not in own.index:
        return Cell(MISSING)
    row: Any = own.loc[metric]
    mark = " *" if bool(row["is_optimistic"]) else ""
    return Cell(f"{number(row['estimate'])}{mark}", _bounds(row["lower"], row["upper"]))


def _bounds(lower: float, upper: float, digits: int = 2) -> str:
    if not np.isfinite([lower, upper]).all():
        return ""
    return interval(float(lower), float(upper), digits)
