"""Does a model do as well in every centre? The AUC of each centre against that of all other patients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from .auc_inference import unpaired_delong_test
from .exports import CONTENTS, Section
from .multiplicity import adjust
from .panel import FloatArray, Model, Panel
from .plots import model_names
from .roc import delong_interval
from .views import Cell, Row, View
from .wording import MISSING, interval, number, p_value

CONTENTS.update({
    "auc_by_site": "AUC of each compared model in each centre, and against all other patients (unpaired DeLong)",
})  # fmt: skip

SITE: Final = "site"
"""Column of the cohort that names the centre."""

MIN_OF_CLASS: Final = 10
"""A centre stands on its own with so many patients with and without the event: DeLong's variance of fewer is poor."""

SITE_COLUMNS: Final = (
    "feature_set", "classifier", "site", "n_patients", "n_events", "auc", "auc_lower", "auc_upper", "n_others",
    "events_others", "auc_others", "difference", "lower", "upper", "p", "p_holm", "n_comparisons", "method",
)  # fmt: skip
"""Columns of the table that :func:`compare_sites` returns; ``difference`` is the centre minus all other patients."""


def compare_sites(
    panel: Panel,
    sites: Mapping[str, str],
    models: Sequence[Model],
    *,
    min_of_class: int = MIN_OF_CLASS,
    level: float = 0.95,
) -> pd.DataFrame:
    """Compare the AUC of every centre with that of all other patients.

    Parameters
    ----------
    panel : Panel
        Predictions, one outcome per patient.
    sites : mapping of str to str
        Centre of each case; cases without one are left out.
    models : sequence of (str, str)
        Which models.
    min_of_class : int
        A centre is listed when it has so many patients with the event, and without it.
    level : float
        Confidence level.

    Returns
    -------
    DataFrame
        Columns :data:`SITE_COLUMNS`, one row per model and centre. Centre and other patients share nobody, so that the
        test is unpaired DeLong; Holm over all tests of the table. Of two centres the second test would repeat the
        first and is left out (NaN). No row with fewer than two centres that are large enough, for a patient of two
        centres, or rows of a patient that differ in outcome.
    """
    empty = pd.DataFrame(columns=list(SITE_COLUMNS))
    chosen = panel.select(models)
    averaged, site = chosen.by_patient(), _site_of_patients(chosen, sites)
    if averaged is None or site is None:
        return empty
    y, scores = averaged
    known = np.array([bool(name) for name in site])
    listed = [name for name in sorted(set(site[known])) if _is_large(y[site == name], min_of_class)]
    if len(listed) < 2:
        return empty
    is_one_test = len(set(site[known])) == 2
    rows = []
    for model, score in zip(models, scores, strict=True):
        seen = known & np.isfinite(score)
        for i, name in enumerate(listed):
            groups = (y[seen], score[seen], site[seen] == name)
            rows.append({"feature_set": model[0], "classifier": model[1], "site": name}
                        | _site_row(*groups, level=level, is_tested=not (is_one_test and i)))  # fmt: skip
    table = pd.DataFrame(rows, columns=list(SITE_COLUMNS))
    tested = table["p"].notna().to_numpy()
    table.loc[tested, "p_holm"] = adjust(table.loc[tested, "p"].to_numpy(dtype=np.float64), "holm").p
    table["n_comparisons"] = int(tested.sum())
    return table


def _site_of_patients(panel: Panel, sites: Mapping[str, str]) -> NDArray[np.str_] | None:
    """Centre of each patient, empty where unknown; None when a patient has rows of two centres."""
    names = pd.Series([sites.get(case, "") for case in panel.units["case_id"].astype(str)])
    by_patient = names.groupby(panel.patient)
    if (by_patient.nunique() > 1).any():
        return None
    return by_patient.first().to_numpy().astype(str)


def _is_large(y: NDArray[np.bool_], min_of_class: int) -> bool:
    return min(int(y.sum()), int((~y).sum())) >= max(min_of_class, 2)


def _site_row(
    y: NDArray[np.bool_], score: FloatArray, inside: NDArray[np.bool_], *, level: float, is_tested: bool
) -> dict[str, Any]:
    """AUC of a centre with interval, and its difference to all other patients."""
    own, others = y[inside], y[~inside]
    row: dict[str, Any] = {"n_patients": own.size, "n_events": int(own.sum())}
    if not (_is_large(own, 2) and _is_large(others, 2)):
        return row
    area, lower, upper = delong_interval(own.astype(int), score[inside], level=level)
    row |= {"auc": area, "auc_lower": lower, "auc_upper": upper}
    if not is_tested:
        return row
    test = unpaired_delong_test(own.astype(int), score[inside], others.astype(int), score[~inside], level=level)
    return row | {
        "n_others": others.size, "events_others": int(others.sum()), "auc_others": test.auc_2,
        "difference": test.difference, "lower": test.lower, "upper": test.upper, "p": test.p, "method": test.method,
    }  # fmt: skip


def sites_of(cohort: pd.DataFrame | None) -> dict[str, str]:
    """Centre of each case of a cohort table; empty without the column ``site``.

    Parameters
    ----------
    cohort : DataFrame or None
        With ``case_id``.
    """
    if cohort is None or SITE not in cohort.columns:
        return {}
    known = cohort.dropna(subset=[SITE])
    return dict(zip(known["case_id"].astype(str), known[SITE].astype(str), strict=True))


def site_section(tables: Mapping[str, pd.DataFrame], split: str) -> Section | None:
    """Build the section from its table; None without it.

    Parameters
    ----------
    tables : mapping of str to DataFrame
        With ``auc_by_site``.
    split : str
        ``"external"`` for frozen models; otherwise patients of all centres were trained on.
    """
    table = tables.get("auc_by_site")
    if table is None or table.empty:
        return None
    models = list(dict.fromkeys(zip(table["feature_set"], table["classifier"], strict=True)))
    rows: list[Row] = []
    for model, name in zip(models, model_names(models), strict=True):
        own = table[(table["feature_set"] == model[0]) & (table["classifier"] == model[1])]
        rows += [Row([Cell(name)], "group")] if len(models) > 1 else []
        rows += [Row(_site_cells(row)) for row in own.to_dict("records")]
    trained = "" if split == "external" else f" {_TRAINED}"
    methods = table["method"].dropna()
    tested = f"{methods.iloc[0]}; Holm over {int(table['n_comparisons'].iloc[0])} test(s). " if len(methods) else ""
    note = (
        f"One probability per patient, averaged over repeats; intervals on the log-odds. Difference and p: {tested}"
        f"Centres with at least {MIN_OF_CLASS} patients with and without the event; smaller ones count among the "
        f"others.{trained}"
    )
    columns = ["Centre", "Patients (with the event)", "AUC", "AUC of the others", "Difference", "p", "p, Holm"]
    return Section(TITLE, [("", _SITES)], [View("AUC by centre", columns, rows, note)])


TITLE: Final = "By centre"

_SITES: Final = (
    "Does the model do as well in every centre? Scanner, protocol and patients differ between centres. A centre in "
    "which the AUC is clearly lower shows where the model should not be used without further work; a difference that "
    "cannot be shown in few patients is no proof that there is none."
)
_TRAINED: Final = (
    "The models were trained on patients of all centres, so that this is no external validation: freeze a model and "
    "apply it to another centre for that."
)


def _site_cells(row: Mapping[Any, Any]) -> list[Cell]:
    return [
        Cell(str(row["site"])), Cell(f"{int(row['n_patients'])} ({int(row['n_events'])})"),
        _with_bounds(row["auc"], row["auc_lower"], row["auc_upper"]), Cell(number(row["auc_others"])),
        _with_bounds(row["difference"], row["lower"], row["upper"]), Cell(p_value(row["p"])),
        Cell(p_value(row["p_holm"])),
    ]  # fmt: skip


def _with_bounds(estimate: float, lower: float, upper: float) -> Cell:
    bounds = interval(float(lower), float(upper))
    return Cell(number(float(estimate)), "" if bounds == MISSING else bounds)
