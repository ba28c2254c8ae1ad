"""Details of discrimination and usefulness in the report: intervals by method, operating points, cut-offs, net benefit.

All of them use one averaged probability per patient. Where the rows of a patient differ in outcome (lesions, slices),
averaging would mix them: then the AUC of the rows stands here with the variance of clustered data instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd

from .auc_inference import auc_intervals
from .clustered import clustered_auc
from .cut_offs import optimal_cut_off_intervals, sensitivity_at_specificity, specificity_at_sensitivity
from .exports import CONTENTS, Section
from .panel import FloatArray, Model, Panel, mean_over_repeats
from .partial_auc import partial_auc_intervals
from .plots import model_names
from .usefulness import net_benefit_difference
from .views import Cell, Row, View
from .wording import MISSING, interval, number

CONTENTS.update({
    "auc_intervals": "Interval of the AUC of each compared model by four methods",
    "auc_clustered": "AUC over all rows (lesions, slices) with the variance of clustered data",
    "operating_points": "Sensitivity at fixed specificity and back: attainable and interpolated, with intervals",
    "cut_offs": "Cut-offs by the Youden index and by cost with intervals and optimism",
    "partial_auc": "Partial AUC over high specificities, raw and corrected",
    "net_benefit_difference": "Difference in net benefit of the declared pairs at four thresholds",
})  # fmt: skip

RATES: Final = (0.9, 0.95)
"""Specificities and sensitivities at which the other one is shown."""

THRESHOLDS: Final = (0.1, 0.2, 0.3, 0.5)
"""Risks at which net benefits are compared: fixed beforehand."""

PREFERRED: Final = "logit"
"""Interval of :data:`~hybrid.analysis.auc_inference.INTERVAL_METHODS` that the report prefers for one AUC."""

METHOD_NAMES: Final = {"delong": "DeLong", "logit": "DeLong, logit", "hanley_mcneil": "Hanley-McNeil", "bca": "BCa"}


def detail_tables(
    predictions: pd.DataFrame,
    panel: Panel,
    models: Sequence[Model],
    pairs: Sequence[tuple[Model, Model]],
    *,
    relative_cost: float,
    n_bootstrap: int,
    seed: int,
    level: float,
) -> dict[str, pd.DataFrame]:
    """Compute the tables of this part that the predictions allow, unrounded.

    Parameters
    ----------
    predictions, panel
        Of the evaluated split.
    models : sequence of (str, str)
        Models of the figures.
    pairs : sequence of pairs of models
        Declared comparisons.
    relative_cost : float
        How many false positives are as bad as one missed case, for the cut-off by cost.
    n_bootstrap, seed, level
        See :func:`hybrid.analysis.evaluate_models`.
    """
    chosen = panel.select(models)
    by_patient = chosen.by_patient()
    if by_patient is None:
        return {"auc_clustered": _clustered(chosen, level)}
    y, averaged = by_patient
    if min(int(y.sum()), int((~y).sum())) < 2:
        return {}
    options = {"level": level, "n_bootstrap": min(n_bootstrap, 2000), "seed": seed}
    parts: dict[str, list[pd.DataFrame]] = {}
    for (feature_set, classifier), score in zip(models, averaged, strict=True):
        known = np.isfinite(score)
        for name, table in _of_model(y[known], score[known], relative_cost, options).items():
            table.insert(0, "feature_set", feature_set)
            table.insert(1, "classifier", classifier)
            parts.setdefault(name, []).append(table)
    tables = {name: pd.concat(found, ignore_index=True) for name, found in parts.items()}
    if pairs:
        found = [
            net_benefit_difference(
                predictions, a, b, thresholds=THRESHOLDS, n_bootstrap=min(n_bootstrap, 1000), seed=seed, level=level,
                split=panel.split,
            )
            for a, b in pairs
        ]  # fmt: skip
        tables["net_benefit_difference"] = pd.concat(found, ignore_index=True)
    return tables


def _of_model(y: Any, score: FloatArray, relative_cost: float, options: dict[str, Any]) -> dict[str, pd.DataFrame]:
    found = auc_intervals(y, score, **options)
    found["is_preferred"] = found["method"] == PREFERRED
    points = []
    for fixed, function in (("specificity", sensitivity_at_specificity), ("sensitivity", specificity_at_sensitivity)):
        table = function(y, score, RATES, **options)
        plain = {fixed: "wanted", f"attained_{fixed}": "attained"}
        points.append(table.rename(columns=plain).assign(fixed=fixed))
    cuts = [
        optimal_cut_off_intervals(y, score, criterion="youden", **options).assign(relative_cost=np.nan),
        optimal_cut_off_intervals(y, score, criterion="cost", relative_cost=relative_cost, **options).assign(
            relative_cost=relative_cost
        ),
    ]
    return {
        "auc_intervals": found,
        "operating_points": pd.concat(points, ignore_index=True),
        "cut_offs": pd.concat(cuts, ignore_index=True),
        "partial_auc": partial_auc_intervals(y, score, low=0.9, high=1.0, **options),
    }


def _clustered(panel: Panel, level: float) -> pd.DataFrame:
    """AUC of the rows of each model, averaged over repeats, as Obuchowski (1997)."""
    rows = []
    for model, score in zip(panel.models, mean_over_repeats(panel.probability, axis=1), strict=True):
        known = np.isfinite(score)
        found = clustered_auc(panel.y[known], score[known], panel.patient[known], level=level)
        rows.append(
            (*model, found.auc, found.se, found.lower, found.upper, found.n_rows, found.n_patients,
             found.design_effect, found.method)
        )  # fmt: skip
    names = ("auc", "se", "lower", "upper", "n_rows", "n_patients", "design_effect", "method")
    return pd.DataFrame(rows, columns=["feature_set", "classifier", *names])


def detail_section(tables: Mapping[str, pd.DataFrame], level: float) -> Section | None:
    """Build the section from its tables; None without them."""
    if "auc_clustered" in tables:
        return Section(TITLE, [("", _CLUSTERED)], [_clustered_view(tables["auc_clustered"])])
    if "auc_intervals" not in tables:
        return None
    views = [
        _intervals_view(tables["auc_intervals"], level), _points_view(tables["operating_points"]),
        _cut_offs_view(tables["cut_offs"]), _partial_view(tables["partial_auc"]),
    ]  # fmt: skip
    if "net_benefit_difference" in tables:
        views.append(_benefit_view(tables["net_benefit_difference"]))
    return Section(TITLE, [("", _DETAILS)], views)


TITLE: Final = "Operating points, cut-offs and intervals"

_DETAILS: Final = (
    "How would the models do in use? Each patient has one probability here, averaged over the repeats. Cut-offs in "
    "this section are chosen on the patients that are shown: they describe, and the cut-offs of the tables above, "
    "chosen on training patients, are the ones to cite."
)
_CLUSTERED: Final = (
    "Patients have rows (lesions, slices) with and without the event. Rows of one patient are not independent: the "
    "variance of the AUC is that of clustered data, and resampling draws patients."
)
_INTERVALS: Final = (
    "The log-odds interval is preferred: DeLong's own is symmetric and too narrow in small samples. In 4000 simulated "
    "studies of 60 patients with an AUC of 0.8, 95 % intervals held the truth in 92.4 % (DeLong), 95.2 % (log-odds), "
    "92.9 % (Hanley-McNeil) and 95.6 % (BCa) with balanced classes, and in 90.4, 94.0, 95.0 and 93.6 % with 20 % "
    "events. All ignore the variance of training. DeLong et al. 1988, doi:10.2307/2531595; Hanley and McNeil 1982, "
    "doi:10.1148/radiology.143.1.7063747; Efron 1987, doi:10.1080/01621459.1987.10478410."
)


def _names(table: pd.DataFrame) -> list[tuple[Model, str]]:
    models = list(dict.fromkeys(zip(table["feature_set"], table["classifier"], strict=True)))
    return list(zip(models, model_names(models), strict=True))


def _of(table: pd.DataFrame, model: Model) -> pd.DataFrame:
    return table[(table["feature_set"] == model[0]) & (table["classifier"] == model[1])]


def _cell(estimate: float, lower: float, upper: float, digits: int = 2) -> Cell:
    bounds = interval(float(lower), float(upper), digits)
    return Cell(number(float(estimate), digits), "" if bounds == MISSING else bounds)


def _bounded(
    row: pd.Series, estimate: str = "estimate", lower: str = "ci_low", upper: str = "ci_high"
) -> tuple[float, float, float]:
    """Estimate and bounds of a row."""
    return float(row[estimate]), float(row[lower]), float(row[upper])


def _intervals_view(table: pd.DataFrame, level: float) -> View:
    rows = []
    for model, name in _names(table):
        own = _of(table, model).set_index("method")
        bounds = [Cell(interval(float(own.loc[m, "ci_low"]), float(own.loc[m, "ci_high"]), 3)) for m in METHOD_NAMES]
        rows.append(Row([Cell(name), Cell(number(float(own["auc"].iloc[0]), 3)), *bounds]))
    heads = [f"{name} (preferred)" if key == PREFERRED else name for key, name in METHOD_NAMES.items()]
    return View(f"{level:.0%} intervals of the AUC by method", ["Model", "AUC", *heads], rows, _INTERVALS)


def _points_view(table: pd.DataFrame) -> View:
    rows = []
    for model, name in _names(table):
        for row in _of(table, model).to_dict("records"):
            is_attained = np.isfinite(row["cut_off"])
            other = "Sensitivity" if row["fixed"] == "specificity" else "Specificity"
            rows.append(
                Row([
                    Cell(name), Cell(f"{other} at {row['fixed']} {row['wanted']:g}"),
                    _cell(row["attainable"], row["attainable_low"], row["attainable_high"]),
                    Cell(f"{row['rule']} {row['cut_off']:.3f}" if is_attained else "no finite cut-off"),
                    _cell(row["interpolated"], row["interpolated_low"], row["interpolated_high"]),
                ])
            )  # fmt: skip
    note = (
        "Attainable: the best cut-off that reaches the wanted rate, a rule that can be applied. Interpolated: on the "
        "straight line between two points of the ROC curve, as in R's pROC; no cut-off has it. Percentile bootstrap of "
        "patients, in which the cut-off is found again."
    )
    columns = ["Model", "What", "Attainable", "Positive when", "Interpolated"]
    return View("Sensitivity at fixed specificity, and back", columns, rows, note, n_names=2)


def _cut_offs_view(table: pd.DataFrame) -> View:
    rows = []
    for model, name in _names(table):
        for criterion, own in _of(table, model).groupby("criterion", sort=False):
            by_measure = own.set_index("measure")
            cells = [
                _cell(*_bounded(by_measure.loc[measure]), 3 if measure == "cut_off" else 2)
                for measure in ("cut_off", "sensitivity", "specificity")
            ]
            corrected = by_measure.loc["youden", "corrected"]
            label = "Youden index" if criterion == "youden" else f"Cost {own['relative_cost'].iloc[0]:g}"
            rows.append(Row([Cell(name), Cell(label), *cells, Cell(number(float(corrected)))]))
    rule = str(table["rule"].iloc[0])
    note = (
        f"Positive when the probability is {rule} the cut-off. Cost: how many false positives are as bad as one missed "
        "case, at the prevalence of these patients. Percentile bootstrap of patients in which the choice is repeated; "
        "last column: sensitivity + specificity - 1 less the optimism of choosing and judging on the same patients "
        "(Efron and Gong 1983, doi:10.1080/00031305.1983.10483087). Youden 1950."
    )
    columns = ["Model", "Criterion", "Cut-off", "Sensitivity", "Specificity", "Youden index, corrected"]
    return View("Cut-offs chosen on these patients", columns, rows, note, n_names=2)


def _partial_view(table: pd.DataFrame) -> View:
    rows = []
    for model, name in _names(table):
        own = _of(table, model).set_index("measure")
        cells = [_cell(*_bounded(own.loc[m]), 3) for m in ("raw", "corrected")]
        rows.append(Row([Cell(name), *cells]))
    note = (
        "Area over specificities from 0.9 to 1: at most 0.1. Corrected: 0.5 is chance, 1 perfect (McClish 1989, "
        f"doi:10.1177/0272989X8900900307). {str(table['method'].iloc[0]).capitalize()}."
    )
    return View("Partial AUC at high specificity", ["Model", "Area", "Corrected"], rows, note)


def _benefit_view(table: pd.DataFrame) -> View:
    rows = [
        Row([
            Cell(f"{row['model_a']} − {row['model_b']}"), Cell(f"{row['threshold']:g}"),
            Cell(number(row["net_benefit_a"], 3)), Cell(number(row["net_benefit_b"], 3)),
            _cell(row["difference"], row["lower"], row["upper"], 3),
        ])
        for row in table.to_dict("records")
    ]  # fmt: skip
    note = (
        "True positives per patient, false positives counted at the odds of the threshold (Vickers and Elkin 2006, "
        "doi:10.1177/0272989X06295361); paired percentile bootstrap of patients. The thresholds were fixed beforehand."
    )
    columns = ["A − B", "Threshold", "Net benefit A", "Net benefit B", "Difference"]
    return View("Difference in net benefit", columns, rows, note, n_names=2)


def _clustered_view(table: pd.DataFrame) -> View:
    rows = [
        Row([
            Cell(name), _cell(*_bounded(_of(table, model).iloc[0], "auc", "lower", "upper"), 3),
            Cell(f"{int(_of(table, model)['n_rows'].iloc[0])} ({int(_of(table, model)['n_patients'].iloc[0])})"),
            Cell(number(float(_of(table, model)["design_effect"].iloc[0]))),
        ])
        for model, name in _names(table)
    ]  # fmt: skip
    note = f"{table['method'].iloc[0]}. Design effect: variance over that of as many independent rows."
    return View("AUC over all rows", ["Model", "AUC", "Rows (patients)", "Design effect"], rows, note)
