"""Parts of the report beyond the main results: agreement, many models, reclassification, external validation.

Each part says in one sentence what it answers, then shows a table (and the method with its source below). A part that
the predictions do not allow is left out; :func:`part_tables` and :func:`report_parts` agree on which ones these are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pandas as pd

from .compare import Comparison, is_reference
from .detail_part import detail_section
from .explanation_part import explanation_section
from .exports import CONTENTS, Section
from .figures import Picture
from .many_models import nemenyi, plot_critical_difference
from .model_agreement import compare_all_calls, compare_calls, reclassify_pairs
from .model_family import compare_family, family_pairs, rank_models, squared_errors
from .panel import Model, Panel
from .planning_part import plan_next_study, planning_section
from .resampling_part import resampling_section
from .site_part import site_section
from .usefulness import RECLASSIFICATION_CAUTION
from .validation import compare_validation, compare_validation_auc, join_measures
from .views import (
    agreement_view,
    family_view,
    ranks_view,
    reclassification_view,
    validation_auc_view,
    validation_view,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# What the tables hold, for the first sheet of the workbook.
CONTENTS.update({
    "validation": "Internal and external performance of the frozen model side by side, with their difference",
    "agreement": "Calls of pairs of models on the same patients: accuracy, McNemar's test and Cohen's kappa",
    "agreement_overall": "Cochran's Q: whether the compared models are right equally often",
    "model_family": "Corrected resampled t-test and Bayesian t-test of every pair of the family of models",
    "model_ranks": "Mean rank of every model over patients, with Friedman's test",
    "nemenyi": "Nemenyi's test: all pairs of models by their mean ranks",
    "reclassification": "NRI and IDI of the declared pairs, each with its two components",
    "reclassification_categories": "NRI of the declared pairs over the declared risk categories",
    "validation_auc": "Unpaired DeLong test of the external against the internal AUC of the frozen model",
})  # fmt: skip

MAX_RANKED: Final = 24
"""With more models than this the diagram of ranks cannot be read."""


@dataclass(frozen=True)
class Part:
    """A section of the page with the anchor that its contents link to."""

    anchor: str
    section: Section


def part_tables(
    predictions: pd.DataFrame,
    panel: Panel,
    result: Comparison | None,
    *,
    baselines: Sequence[str],
    risk_categories: Sequence[float] = (),
    n_bootstrap: int,
    seed: int,
    level: float,
) -> dict[str, pd.DataFrame]:
    """Compute the tables of all parts that the predictions allow, unrounded, by name.

    Parameters
    ----------
    predictions : DataFrame
        Of the evaluated split.
    panel : Panel
        The same predictions.
    result : Comparison or None
        The declared comparison, whose pairs are taken up.
    baselines : sequence of str
        Trivial feature sets.
    risk_categories : sequence of float
        Declared borders between categories of risk; none leave the categorical NRI out.
    n_bootstrap, seed, level
        See :func:`hybrid.analysis.evaluate_models`.
    """
    pairs = declared_pairs(result)
    if not pairs:
        return {}
    split, tables = panel.split, {}
    models = list(dict.fromkeys(model for pair in pairs for model in pair))
    is_one_row = panel.n_patients == panel.y.size
    has_classes = min(panel.n_events, panel.n_patients - panel.n_events) >= 2
    if is_one_row:
        tables["agreement"] = compare_calls(predictions, pairs, level=level, split=split)
        if len(models) > 2:
            tables["agreement_overall"] = compare_all_calls(predictions, models, split=split)
    tables |= _family_tables(predictions, panel, result, baselines, level)
    if has_classes and panel.select(models, common=True).by_patient() is not None:
        options: dict[str, Any] = {"n_bootstrap": min(n_bootstrap, 1000), "seed": seed, "level": level, "split": split}
        tables["reclassification"] = reclassify_pairs(predictions, pairs, **options)
        if len(risk_categories):
            tables["reclassification_categories"] = reclassify_pairs(
                predictions, pairs, cutoffs=list(risk_categories), **options
            )
    tables["next_study"] = plan_next_study(panel, pairs[0], level=level)
    return {name: table for name, table in tables.items() if len(table)}


def declared_pairs(result: Comparison | None) -> list[tuple[Model, Model]]:
    """Pairs of a comparison that was declared: those of one classifier, with a headline."""
    if result is None or result.headline is None:
        return []
    return [
        ((row["feature_set_a"], row["classifier_a"]), (row["feature_set_b"], row["classifier_b"]))
        for row in result.table.to_dict("records")
    ]


def _family_tables(
    predictions: pd.DataFrame, panel: Panel, result: Comparison | None, baselines: Sequence[str], level: float
) -> dict[str, pd.DataFrame]:
    tables: dict[str, pd.DataFrame] = {}
    contenders = [model for model in panel.models if not is_reference(model, baselines)]
    contrast = [(a[0], b[0]) for a, b in declared_pairs(result)]
    pairs = family_pairs(contenders, contrast)
    if pairs and predictions["fold"].nunique() > 1:
        tables["model_family"] = compare_family(predictions, pairs, level=level, split=panel.split)
    own = [model for model in contenders if model[1] != "selected"]
    ranked = own if len(own) >= 3 else contenders
    if 3 <= len(ranked) <= MAX_RANKED and panel.select(ranked, common=True).by_patient() is not None:
        errors = squared_errors(predictions, ranked, split=panel.split)
        tables["model_ranks"] = rank_models(errors)
        tables["nemenyi"] = nemenyi(errors, alpha=1 - level, higher_is_better=False)
    return tables


def validation_tables(
    internal: pd.DataFrame | None, metrics: pd.DataFrame, calibration: pd.DataFrame
) -> dict[str, pd.DataFrame]:
    """Compute the table of external validation; nothing without internal performance.

    Parameters
    ----------
    internal : DataFrame or None
        From :func:`hybrid.analysis.validation.measure_validation`, stored with the frozen model.
    metrics, calibration : DataFrame
        Of the new patients.
    """
    if internal is None:
        return {}
    tested = compare_validation_auc(internal, metrics)
    return {"validation": compare_validation(internal, join_measures(metrics, calibration))} | (
        {"validation_auc": tested} if len(tested) else {}
    )


def rank_figure(tables: Mapping[str, pd.DataFrame]) -> tuple[Any, float] | None:
    """Give what draws the diagram of critical differences, and its height in inches; None without ranks."""
    if "nemenyi" not in tables:
        return None

    def draw(ax: Axes) -> object:
        return plot_critical_difference(tables["nemenyi"], ax=ax)

    return draw, 1.2 + 0.19 * len(tables["model_ranks"])


RANK_CAPTION: Final = (
    "Mean rank of each model over patients by the squared error of its probability; 1 is best. Models that share a bar "
    "do not differ by more than the critical difference (Nemenyi's test)."
)


def report_parts(
    tables: Mapping[str, pd.DataFrame], pictures: Mapping[str, Picture], level: float, split: str = "test"
) -> list[Part]:
    """Build the parts from their tables, in the order of the page; ``split`` is that of the predictions."""
    found = {
        "validation": _validation_section(tables),
        "sites": site_section(tables, split),
        "details": detail_section(tables, level),
        "agreement": _agreement_section(tables, level),
        "family": _family_section(tables, pictures, level),
        "reclassification": _reclassification_section(tables, level),
        "resampling": resampling_section(tables, level),
        "explanation": explanation_section(tables, pictures, level),
        "planning": planning_section(tables, level),
    }
    return [Part(anchor, section) for anchor, section in found.items() if section is not None]


def _validation_section(tables: Mapping[str, pd.DataFrame]) -> Section | None:
    if "validation" not in tables:
        return None
    tested = [validation_auc_view(tables["validation_auc"])] if "validation_auc" in tables else []
    return Section("Internal and external", [("", _VALIDATION)], [validation_view(tables), *tested])


def _agreement_section(tables: Mapping[str, pd.DataFrame], level: float) -> Section | None:
    if "agreement" not in tables:
        return None
    return Section("Agreement of the models", [("", _AGREEMENT)], [agreement_view(tables, level)])


def _family_section(
    tables: Mapping[str, pd.DataFrame], pictures: Mapping[str, Picture], level: float
) -> Section | None:
    views = [view for view in (family_view(tables, level), ranks_view(tables)) if view is not None]
    figures = [pictures["ranks"]] if "ranks" in pictures else []
    return Section("All models as one family", [("", _FAMILY)], views, figures) if views else None


def _reclassification_section(tables: Mapping[str, pd.DataFrame], level: float) -> Section | None:
    if "reclassification" not in tables:
        return None
    caution = RECLASSIFICATION_CAUTION.removeprefix("Caution: ")
    text = [("", _RECLASSIFICATION), ("Caution.", caution[0].upper() + caution[1:])]
    names = [name for name in ("reclassification", "reclassification_categories") if name in tables]
    return Section("Reclassification", text, [reclassification_view(tables[name], level) for name in names])


_VALIDATION: Final = (
    "Does the model do in new patients what it promised? Internal: the same procedure, cross-validated in the patients "
    "that the model was developed on. External: the frozen model, its cut-off and calibration untouched, in patients "
    "who are new to it. A fall is usual; new patients may also be easier or harder to tell apart."
)
_AGREEMENT: Final = (
    "Do the models err on the same patients? Two models can be equally accurate and wrong on different patients. Only "
    "patients on whom exactly one of the two is right tell them apart, and McNemar's test counts those."
)
_FAMILY: Final = (
    "Is a difference more than the luck of one classifier? Every declared pair of feature sets is compared with every "
    "classifier, and all these tests count as one family, so that the best of many rows cannot pass for a finding."
)
_RECLASSIFICATION: Final = (
    "Does the second model move patients in the right direction? The NRI counts whose predicted risk goes up and down, "
    "the IDI by how much, separately for patients with and without the event."
)
