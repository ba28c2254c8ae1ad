"""Do two models err on the same patients? Their calls compared patient by patient, from a predictions table.

The tests of :mod:`.agreement` need one call per independent patient. Over repeats of a cross-validation the call is the
majority of the repeats, each at its own cut-off; patients with several rows are not compared here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from hybrid.errors import InputError

from .agreement import cochran_q, cohen_kappa, mcnemar_predictions
from .metrics import find_models
from .multiplicity import adjust
from .panel import Model, Panel, label, mean_over_repeats
from .usefulness import RECLASSIFICATION_COLUMNS, compare_reclassification

AGREEMENT_COLUMNS: Final = (
    "model_a", "model_b", "feature_set_a", "classifier_a", "feature_set_b", "classifier_b", "n_patients", "accuracy_a",
    "accuracy_b", "difference", "lower", "upper", "only_a_right", "only_b_right", "p_mid_p", "p_exact",
    "p_corrected", "p_holm", "n_comparisons", "kappa", "kappa_lower", "kappa_upper", "method",
)  # fmt: skip
"""Columns of the table that :func:`compare_calls` returns."""

COCHRAN_COLUMNS: Final = ("models", "n_models", "q", "df", "p", "n_patients", "n_informative", "method")
"""Columns of the table that :func:`compare_all_calls` returns."""

SEVERAL_ROWS: Final = "Calls are compared patient by patient, and a patient has several rows."


def patient_calls(panel: Panel) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """One call per patient and model: positive when at least half of the repeats reach their cut-off.

    Parameters
    ----------
    panel : Panel
        Models that predicted the same cases, one row per patient.

    Returns
    -------
    y : ndarray of bool, shape (n_patients,)
        Outcome.
    calls : ndarray of bool, shape (n_models, n_patients)
        Calls.

    Raises
    ------
    InputError
        When a patient has several rows.
    """
    if panel.n_patients < panel.y.size:
        raise InputError(SEVERAL_ROWS, advice="Compare models of lesions by their clustered AUC.")
    reached = np.where(np.isfinite(panel.probability), panel.probability >= panel.threshold, np.nan)
    return panel.y, mean_over_repeats(reached.astype(np.float64), axis=1) >= 0.5


def compare_calls(
    predictions: pd.DataFrame,
    pairs: Sequence[tuple[str | Model, str | Model]],
    *,
    level: float = 0.95,
    split: str | None = None,
) -> pd.DataFrame:
    """McNemar's test and Cohen's kappa of pairs of models at their cut-offs; Holm over the pairs.

    Parameters
    ----------
    predictions : DataFrame
        See :func:`hybrid.tables.check_predictions`.
    pairs : sequence of (model, model)
        Feature sets, or feature sets with classifiers, declared beforehand.
    level : float
        Confidence level.
    split : str, optional
        See :func:`hybrid.analysis.evaluate_models`.

    Returns
    -------
    DataFrame
        Columns :data:`AGREEMENT_COLUMNS`, one row per pair. ``difference`` is that of the accuracies;
        ``only_a_right`` counts patients on whom only the first model is right. ``p_holm`` adjusts the mid-p values.

    Raises
    ------
    InputError
        When a patient has several rows, or a model is unknown.
    """
    panel = Panel.from_predictions(predictions, split=split)
    rows = [_pair_row(panel, find_models(panel, list(pair)), level) for pair in pairs]
    table = pd.DataFrame(rows, columns=[name for name in AGREEMENT_COLUMNS if name not in ("p_holm", "n_comparisons")])
    table["p_holm"] = adjust(table["p_mid_p"].to_numpy(dtype=np.float64), "holm").p
    table["n_comparisons"] = len(table)
    return table[list(AGREEMENT_COLUMNS)]


def _pair_row(panel: Panel, pair: Sequence[Model], level: float) -> dict[str, Any]:
    a, b = pair
    y, (first, second) = patient_calls(panel.select(pair, common=True))
    mid_p = mcnemar_predictions(y, first, second, method="mid_p", level=level)
    kappa = cohen_kappa(first, second, level=level)
    is_same = a[1] == b[1]
    return {
        "model_a": a[0] if is_same else label(a), "model_b": b[0] if is_same else label(b), "feature_set_a": a[0],
        "classifier_a": a[1], "feature_set_b": b[0], "classifier_b": b[1], "n_patients": mid_p.n,
        "accuracy_a": mid_p.proportion_1, "accuracy_b": mid_p.proportion_2, "difference": mid_p.difference,
        "lower": mid_p.lower, "upper": mid_p.upper, "only_a_right": mid_p.only_first,
        "only_b_right": mid_p.only_second, "p_mid_p": mid_p.p,
        "p_exact": mcnemar_predictions(y, first, second, method="exact").p,
        "p_corrected": mcnemar_predictions(y, first, second, method="corrected").p, "kappa": kappa.kappa,
        "kappa_lower": kappa.lower, "kappa_upper": kappa.upper, "method": f"{mid_p.method}; {kappa.method}",
    }  # fmt: skip


def compare_all_calls(
    predictions: pd.DataFrame, models: Sequence[str | Model], *, split: str | None = None
) -> pd.DataFrame:
    """Test by Cochran's Q whether several models are right equally often.

    Parameters
    ----------
    predictions, split
        See :func:`compare_calls`.
    models : sequence of str or (str, str)
        Two or more models.

    Returns
    -------
    DataFrame
        Columns :data:`COCHRAN_COLUMNS`, one row.

    Raises
    ------
    InputError
        See :func:`compare_calls`.
    """
    panel = Panel.from_predictions(predictions, split=split)
    chosen = find_models(panel, list(models))
    y, calls = patient_calls(panel.select(chosen, common=True))
    found = cochran_q((calls == y).T.astype(np.float64))
    names = ", ".join(label(model) for model in chosen)
    row = (names, len(chosen), found.q, found.df, found.p, found.n, found.n_informative, found.method)
    return pd.DataFrame([row], columns=list(COCHRAN_COLUMNS))


def reclassify_pairs(
    predictions: pd.DataFrame,
    pairs: Sequence[tuple[Model, Model]],
    *,
    cutoffs: ArrayLike | None = None,
    n_bootstrap: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    split: str | None = None,
) -> pd.DataFrame:
    """NRI and IDI of pairs of models, the first of a pair being the reference.

    Parameters
    ----------
    predictions, cutoffs, n_bootstrap, seed, level, split
        See :func:`hybrid.analysis.compare_reclassification`.
    pairs : sequence of (model, model)
        Reference and new model.

    Returns
    -------
    DataFrame
        ``model_reference, model_new``, then :data:`hybrid.analysis.usefulness.RECLASSIFICATION_COLUMNS`; six rows per
        pair. Print :data:`hybrid.analysis.usefulness.RECLASSIFICATION_CAUTION` with them.

    Raises
    ------
    InputError
        See :func:`hybrid.analysis.compare_reclassification`.
    """
    tables = []
    for reference, new in pairs:
        table = compare_reclassification(
            predictions, reference, new, cutoffs=cutoffs, n_bootstrap=n_bootstrap, seed=seed, level=level, split=split
        )
        is_same = reference[1] == new[1]
        table.insert(0, "model_reference", reference[0] if is_same else label(reference))
        table.insert(1, "model_new", new[0] if is_same else label(new))
        tables.append(table)
    columns = ["model_reference", "model_new", *RECLASSIFICATION_COLUMNS]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)
