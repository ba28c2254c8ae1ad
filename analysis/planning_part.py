"""How many patients the next study would need, in the report: for a declared difference, never for the observed one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd

from .auc_inference import auc_difference_power, sample_size_auc_difference
from .exports import CONTENTS, Section
from .panel import FloatArray, Model, Panel
from .roc import delong_covariance
from .views import Cell, Row, View
from .wording import number, percent

CONTENTS.update({
    "next_study": "Power of this study, and patients that the next one needs, for differences of the AUC that matter",
})  # fmt: skip

DIFFERENCES: Final = (0.05, 0.10)
"""Differences of two AUCs that would matter: fixed beforehand, whatever was observed."""

POWERS: Final = (0.8, 0.9)

MAX_CORRELATION: Final = 0.95
"""Two models whose AUCs correlate more are nearly one model, and a sample size planned with it would be a guess."""

PLANNING_COLUMNS: Final = (
    "model_a", "model_b", "auc_a", "auc_b", "correlation", "prevalence", "n_patients", "n_events", "difference",
    "auc_reference", "power", "n_80", "events_80", "n_90", "events_90", "method",
)  # fmt: skip
"""Columns of the table that :func:`plan_next_study` returns. ``power`` is that of this study for ``difference``;
``n_80`` and ``events_80`` are the patients, and those with the event, that a power of 80 % needs."""


def plan_next_study(
    panel: Panel, pair: tuple[Model, Model], *, differences: Sequence[float] = DIFFERENCES, level: float = 0.95
) -> pd.DataFrame:
    """Power of a comparison of two models and the patients that the next study of it needs.

    Parameters
    ----------
    panel : Panel
        Predictions, one outcome per patient.
    pair : (model, model)
        The primary comparison.
    differences : sequence of float
        Smallest differences of the two AUCs that would matter, declared beforehand.
    level : float
        One minus the level of the two-sided test.

    Returns
    -------
    DataFrame
        Columns :data:`PLANNING_COLUMNS`, one row per difference. Assumed are the weaker of the two AUCs, the other one
        better by ``difference``, the correlation of the two estimated AUCs (0 where it is not defined, at most
        :data:`MAX_CORRELATION`) and the prevalence, all as seen here. NaN where an AUC would reach 1. No row when a
        patient has rows with different outcomes or a class has fewer than two patients.
    """
    found = _pilot(panel, pair)
    if found is None:
        return pd.DataFrame(columns=list(PLANNING_COLUMNS))
    areas, correlation, n, events = found
    shared: dict[str, Any] = {
        "model_a": pair[0][0], "model_b": pair[1][0], "auc_a": areas[0], "auc_b": areas[1], "correlation": correlation,
        "prevalence": events / n, "n_patients": n, "n_events": events, "auc_reference": float(min(areas)),
    }  # fmt: skip
    rows = [shared | {"difference": float(d)} | _needed(shared, float(d), 1 - level) for d in differences]
    return pd.DataFrame(rows, columns=list(PLANNING_COLUMNS))


def _pilot(panel: Panel, pair: tuple[Model, Model]) -> tuple[FloatArray, float, int, int] | None:
    """AUCs, correlation of their estimates, patients and events of two models."""
    averaged = panel.select(pair, common=True).by_patient()
    if averaged is None or min(averaged[0].sum(), (~averaged[0]).sum()) < 2:
        return None
    y, scores = averaged
    areas, covariance = delong_covariance(y, scores)
    scale = float(np.sqrt(covariance[0, 0] * covariance[1, 1]))
    correlation = min(float(covariance[0, 1]) / scale, MAX_CORRELATION) if scale > 0 else 0.0
    return areas, correlation, int(y.size), int(y.sum())


def _needed(shared: Mapping[str, Any], difference: float, alpha: float) -> dict[str, Any]:
    reference = shared["auc_reference"]
    if not 0.0 < reference < reference + difference < 1.0:
        return {"method": "not defined: the AUC would be 0, or reach 1"}
    events, others = shared["n_events"], shared["n_patients"] - shared["n_events"]
    options: dict[str, Any] = {"correlation": shared["correlation"], "alpha": alpha}
    areas = (reference, reference + difference)
    row: dict[str, Any] = {"power": auc_difference_power(*areas, events, others, **options)}
    for power in POWERS:
        size = sample_size_auc_difference(*areas, power=power, ratio=others / events, **options)
        row |= {f"n_{100 * power:.0f}": size.n_total, f"events_{100 * power:.0f}": size.n_positive}
    return row | {"method": f"two-sided test of two AUCs of the same patients; {size.method}"}


def planning_section(tables: Mapping[str, pd.DataFrame], level: float) -> Section | None:
    """Build the section from its table; None without it."""
    table = tables.get("next_study")
    if table is None or table.empty:
        return None
    rows = [
        Row([
            Cell(f"{row['difference']:.2f}"), Cell(_percentage(row["power"])),
            *(_size(row[f"n_{power}"], row[f"events_{power}"]) for power in ("80", "90")),
        ])
        for row in table.to_dict("records")
    ]  # fmt: skip
    first = table.iloc[0]
    note = (
        f"Assumed, as seen in these patients: an AUC of {number(first['auc_reference'])} for the weaker model, the "
        f"event in {100 * first['prevalence']:.0f} % of patients, and a correlation of "
        f"{number(first['correlation'])} between the two estimated AUCs (DeLong's covariance). A two-sided test at "
        f"{percent(1 - level)}; variance of Obuchowski et al. 2004 (doi:10.1373/clinchem.2004.031823), formula of "
        "Obuchowski and McClish 1997 (doi:10.1002/(SICI)1097-0258(19970715)16:13<1529::AID-SIM565>3.0.CO;2-H). The "
        "numbers are those of unseen patients with a prediction by both models; the correlation of a small study is "
        "itself uncertain, and a lower one asks for more patients."
    )
    columns = ["Difference of the AUC that would matter", "Power of this study", "Patients for 80 % (with the event)",
               "Patients for 90 % (with the event)"]  # fmt: skip
    view = View(f"{first['model_a']} against {first['model_b']}: power and number of patients", columns, rows, note)
    return Section(TITLE, [("", _PLANNING)], [view])


TITLE: Final = "How many patients would the next study need?"

_PLANNING: Final = (
    "Could this study have found a difference that matters, and how large must one be that can? The difference to plan "
    "for is the smallest one that would change what a clinician does, fixed beforehand, and not the one that was "
    "observed: the power at an observed difference only repeats its p-value (Hoenig and Heisey 2001, "
    "doi:10.1198/000313001300339897), and differences found in small studies tend to be too large."
)


def _percentage(share: float) -> str:
    if not np.isfinite(share):
        return "–"
    return "> 99 %" if share > 0.99 else f"{100 * share:.0f} %"


def _size(patients: float, events: float) -> Cell:
    return Cell("–" if not np.isfinite(patients) else f"{int(patients):,} ({int(events):,})")
