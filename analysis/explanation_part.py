"""What the models look at, in the report: importance, Shapley values, stability of the choice, single features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from .exports import CONTENTS, Section
from .figures import Album, Picture
from .importance import choice_stability, feature_importance, plot_importance, plot_shap
from .panel import Panel
from .reliability import univariate_screening
from .views import Cell, Row, View
from .wording import interval, number, p_value

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CONTENTS.update({
    "importance": "Permutation importance and mean absolute Shapley value of every feature that a fold chose",
    "selection_stability": "Stability of the chosen features over folds, corrected for chance",
    "explanations": "Shapley values of unseen patients: one row per model, patient and feature",
    "univariate_screening": "Every feature alone between patients with and without the event, with the FDR",
})  # fmt: skip

SHOWN: Final = 10
"""Features of each set in the tables of the page."""


def explanation_tables(
    explanations: pd.DataFrame | None,
    features: pd.DataFrame | None,
    panel: Panel,
    *,
    candidates: Mapping[str, int] | None = None,
    n_bootstrap: int,
    seed: int,
    level: float,
) -> dict[str, pd.DataFrame]:
    """Compute the tables of this part that are possible, unrounded.

    Parameters
    ----------
    explanations : DataFrame or None
        From :func:`hybrid.pipelines.explain_models`.
    features : DataFrame or None
        Feature table; screened where every patient has one row.
    panel : Panel
        Outcomes.
    candidates : mapping, optional
        See :func:`hybrid.analysis.choice_stability`.
    n_bootstrap, seed, level
        See :func:`hybrid.analysis.feature_importance`.
    """
    tables: dict[str, pd.DataFrame] = {}
    if explanations is not None and len(explanations):
        known = candidates or explanations.attrs.get("candidates")
        tables["importance"] = feature_importance(
            explanations, n_bootstrap=min(n_bootstrap, 1000), seed=seed, level=level
        )
        if known and explanations[["repeat", "fold"]].drop_duplicates().shape[0] > 1:
            tables["selection_stability"] = choice_stability(explanations, known, level=level)
        shown = [name for name in explanations.columns if not str(name).startswith("permuted_")]
        tables["explanations"] = explanations[shown]
    if features is not None and panel.n_patients == panel.y.size and features.index.nlevels == 1:
        screened = _screening(features, panel)
        if screened is not None:
            tables["univariate_screening"] = screened
    return tables


def _screening(features: pd.DataFrame, panel: Panel) -> pd.DataFrame | None:
    table = features.set_index("case_id") if "case_id" in features.columns else features
    cases = panel.units["case_id"].astype(str)
    table = table.set_axis(table.index.astype(str), axis=0)
    numeric = table.select_dtypes("number").dropna(axis=1, how="all")
    known = cases.isin(numeric.index).to_numpy()
    if numeric.shape[1] == 0 or len(np.unique(panel.y[known])) < 2:
        return None
    return univariate_screening(numeric.loc[cases[known]], panel.y[known].astype(int), missing="drop")


def explanation_figures(album: Album, tables: Mapping[str, pd.DataFrame]) -> dict[str, str]:
    """Draw importance and Shapley values of each explained set; give the captions by name."""
    captions: dict[str, str] = {}
    if "importance" not in tables:
        return captions
    for i, name in enumerate(dict.fromkeys(tables["importance"]["feature_set"])):
        own = tables["importance"][tables["importance"]["feature_set"] == name]
        values = tables["explanations"][tables["explanations"]["feature_set"] == name]
        shown = min(len(own), SHOWN)

        def draw_importance(ax: Axes, own: pd.DataFrame = own) -> object:
            return plot_importance(own, ax=ax, most=SHOWN)

        def draw_shap(ax: Axes, values: pd.DataFrame = values) -> object:
            return plot_shap(values, ax=ax, most=SHOWN)

        for kind, draw, height in (("importance", draw_importance, 0.9), ("shap", draw_shap, 1.2)):
            album.add(f"{kind}_{i}", draw, height=height + 0.24 * shown, alt=f"{kind} of the features of {name}")
        captions[f"importance_{i}"] = f"{name}: fall of the AUC when a feature is permuted among unseen patients."
        captions[f"shap_{i}"] = (
            f"{name}: Shapley values of unseen patients, one point each; colour: value of the feature, standardised."
        )
    return captions


def explanation_section(
    tables: Mapping[str, pd.DataFrame], pictures: Mapping[str, Picture], level: float
) -> Section | None:
    """Build the section from its tables; None without them."""
    views: list[View] = []
    text: list[tuple[str, str]] = []
    if "importance" in tables:
        text.append(("", _IMPORTANCE))
        views.append(_importance_view(tables["importance"]))
    if "selection_stability" in tables:
        views.append(_stability_view(tables["selection_stability"], level))
    if "univariate_screening" in tables:
        views.append(_screening_view(tables["univariate_screening"]))
    if not views:
        return None
    shown = [picture for name, picture in pictures.items() if name.startswith(("importance_", "shap_"))]
    return Section("What the models look at", text, views, shown)


_IMPORTANCE: Final = (
    "Which features carry the prediction? Every model is explained on patients that it has not seen. Importance does "
    "not mean cause, and of two features that correlate either can stand for the other: read names only where the "
    "choice is stable over folds."
)


def _importance_view(table: pd.DataFrame) -> View:
    rows: list[Row] = []
    for name, own in table.groupby("feature_set", sort=False):
        rows.append(Row([Cell(str(name), f"AUC {number(own['auc'].iloc[0])}")], "group"))
        rows += [Row(_importance_cells(row)) for row in own.head(SHOWN).to_dict("records")]
    first = table.iloc[0]
    note = (
        f"Fall of the AUC when the feature is permuted among unseen patients; {first['method']}. Fisher et al. 2019, "
        "https://jmlr.org/papers/v20/18-760.html. Mean |SHAP|: mean absolute change of the probability (Lundberg and "
        "Lee 2017, arXiv:1705.07874). Direction: + when a higher value raises the probability. A feature that a fold "
        f"did not choose counts as 0 there. The {SHOWN} leading features of each set; all are in the file."
    )
    columns = ["Feature", "Folds", "Fall of the AUC", "Mean |SHAP|", "Direction"]
    return View("Features by importance on unseen patients", columns, rows, note)


def _importance_cells(row: Mapping[Any, Any]) -> list[Cell]:
    sign = "–" if not np.isfinite(row["direction"]) else ("+" if row["direction"] > 0 else "−")
    bounds = interval(float(row["lower"]), float(row["upper"]), 3)
    return [
        Cell(str(row["feature"])), Cell(f"{int(row['n_chosen'])} of {int(row['n_folds'])}"),
        Cell(number(row["importance"], 3), bounds), Cell(number(row["mean_abs_shap"], 3)), Cell(sign),
    ]  # fmt: skip


def _stability_view(table: pd.DataFrame, level: float) -> View:
    rows = [
        Row([
            Cell(str(row["feature_set"])), Cell(str(row["n_folds"])), Cell(str(row["n_candidates"])),
            Cell(number(row["mean_chosen"], 1)), Cell(str(row["n_ever_chosen"])),
            Cell(number(row["stability"]), interval(float(row["lower"]), float(row["upper"]))),
        ])
        for row in table.to_dict("records")
    ]  # fmt: skip
    note = (
        "Stability of Nogueira et al. (2018, https://jmlr.org/papers/v18/17-514.html): 1 when every fold chooses the "
        "same, 0 when no more alike than by chance; below 0.4 poor, above 0.75 excellent. Below: "
        f"{level:.0%} interval; training sets of folds overlap, which makes it look better."
    )
    columns = ["Features", "Folds", "Candidates", "Chosen, mean", "Ever chosen", "Stability"]
    return View("Stability of the choice of features", columns, rows, note)


def _screening_view(table: pd.DataFrame) -> View:
    shown = table.sort_values("p", kind="stable").head(SHOWN)
    rows = [
        Row([Cell(str(row[0])), Cell(number(row[1])), Cell(p_value(row[2])), Cell(p_value(row[3]))])
        for row in shown[list(table.columns[:4])].itertuples(index=False)
    ]
    found = int((table.iloc[:, 3] <= 0.05).sum())
    note = (
        f"{found} of {len(table)} features have a false discovery rate (Benjamini and Hochberg 1995, "
        "doi:10.1111/j.2517-6161.1995.tb02031.x) of 0.05 or less. Mann-Whitney tests. AUC: that a patient with the "
        "event has the higher value, never turned round. This describes; it chose nothing for the models above, which "
        f"select inside each fold. The {SHOWN} smallest p-values; all are in the file."
    )
    return View("Each feature alone", ["Feature", "AUC", "p", "False discovery rate"], rows, note)
