"""How well each model does: one tidy table of metrics with intervals.

Every metric is computed within each repeat of the cross-validation and averaged over repeats; nothing is pooled over
repeats. Intervals resample patients with all their rows and repeats.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hybrid.errors import InputError
from hybrid.tables import SELECTED

from .panel import FloatArray, Model, Panel, mean_over_repeats
from .resampling import Resampled, bootstrap, weighted_auc
from .roc import check_level, delong_bounds, delong_covariance, perfect_interval

METRICS: Final = (
    "auc",
    "accuracy",
    "balanced_accuracy",
    "sensitivity",
    "specificity",
    "ppv",
    "npv",
    "f1",
    "kappa",
    "brier",
)
"""Metrics with a patient-bootstrap interval, in the order of the table."""

AVERAGED_AUC: Final = "auc_averaged"
"""AUC of one averaged probability per patient, with DeLong's interval."""

METRIC_COLUMNS: Final = (
    "feature_set",
    "classifier",
    "metric",
    "estimate",
    "lower",
    "upper",
    "method",
    "n_patients",
    "n_events",
    "n_cases",
    "n_repeats",
    "split",
)
"""Columns of the table that :func:`evaluate_models` returns."""

CONFUSION_COLUMNS: Final = ("feature_set", "classifier", "repeat", "tp", "fn", "fp", "tn", "split")
"""Columns of the table that :func:`confusion` returns."""

_OF_PROPORTION: Final = ("accuracy", "sensitivity", "specificity", "ppv", "npv")

_INTERVAL_NAMES: Final = {"bca": "BCa", "percentile": "percentile"}


def interval_method(kind: str, n_bootstrap: int) -> str:
    """Text for the ``method`` column of a bootstrap interval."""
    return (
        f"mean over repeats; {_INTERVAL_NAMES[kind]} bootstrap of patients, stratified by outcome, {n_bootstrap} draws"
    )


NO_INTERVAL: Final = "mean over repeats; no interval: fewer than two patients in a class"
EXACT_BOUND: Final = "mean over repeats; exact bound (Clopper-Pearson), because the bootstrap has no spread at 0 or 1"
DELONG_METHOD: Final = "DeLong, logit scale; one averaged probability per patient; ignores the variance of training"
DELONG_MIXED: Final = "not defined: a patient has rows with different outcomes; use the patient bootstrap"
DELONG_TOO_FEW: Final = "DeLong not defined: fewer than two patients in a class"


def evaluate_models(
    predictions: pd.DataFrame,
    *,
    n_bootstrap: int = 2000,
    seed: int = 0,
    level: float = 0.95,
    interval: Literal["bca", "percentile"] = "bca",
    split: str | None = None,
) -> pd.DataFrame:
    """Measure every model of a predictions table.

    Parameters
    ----------
    predictions : DataFrame
        See :func:`hybrid.tables.check_predictions`. A case is called positive when ``y_prob >= threshold``, with the
        threshold that was chosen on training patients.
    n_bootstrap : int
        Draws of the patient bootstrap, shared by all models.
    seed : int
        Of the bootstrap.
    level : float
        Confidence level.
    interval : {"bca", "percentile"}
        Kind of bootstrap interval, see :meth:`hybrid.analysis.resampling.Resampled.interval`.
    split : str, optional
        Rows to use; by default ``"test"``, or ``"external"`` when there are no test rows.

    Returns
    -------
    DataFrame
        Columns :data:`METRIC_COLUMNS`, one row per model and metric: the :data:`METRICS`, and ``auc_averaged``, the AUC
        of one averaged probability per patient with DeLong's interval. ``estimate`` is NaN where a metric is not
        defined (a predictive value when nobody is called positive). ``n_events`` counts patients.

    Raises
    ------
    InputError
        For an invalid table or an outcome with one class.
    LeakageError
        When the table holds training patients only.
    """
    check_level(level)
    panel = Panel.from_predictions(predictions, split=split)
    tables = [
        _model_rows(panel.select([model]), n_bootstrap=n_bootstrap, seed=seed, level=level, kind=interval)
        for model in panel.models
    ]
    return pd.DataFrame([row for rows in tables for row in rows], columns=list(METRIC_COLUMNS))


def _model_rows(panel: Panel, *, n_bootstrap: int, seed: int, level: float, kind: Any) -> list[dict[str, Any]]:
    resampled = bootstrap_metrics(panel, METRICS, n_bootstrap=n_bootstrap, seed=seed)
    bounds = resampled.interval(level=level, kind=kind)
    feature_set, classifier = panel.models[0]
    shared = {
        "feature_set": feature_set, "classifier": classifier, "n_patients": panel.n_patients,
        "n_events": panel.n_events, "n_cases": panel.y.size, "n_repeats": panel.n_repeats(0), "split": panel.split,
    }  # fmt: skip
    rows = []
    for metric, estimate, (lower, upper) in zip(METRICS, resampled.estimate, bounds, strict=True):
        method = interval_method(kind, n_bootstrap) if resampled.is_estimable else NO_INTERVAL
        if estimate in (0.0, 1.0) and (trials := _trials(panel, metric)):
            (lower, upper), method = perfect_interval(float(estimate), trials, level=level), EXACT_BOUND
        rows.append(shared | {"metric": metric, "estimate": estimate, "lower": lower, "upper": upper, "method": method})
        if metric == "auc":
            rows.append(shared | averaged_auc(panel, level))
    return rows


def auc_interval(
    panel: Panel, resampled: Resampled, *, n_bootstrap: int, level: float = 0.95, kind: Any = "bca"
) -> tuple[float, float, str]:
    """Interval of the AUC of a one-model panel and the text of its method; ``resampled`` holds the AUC alone."""
    estimate = float(resampled.estimate[0])
    if estimate in (0.0, 1.0):
        return (*perfect_interval(estimate, _trials(panel, "auc"), level=level), EXACT_BOUND)
    lower, upper = resampled.interval(level=level, kind=kind)[0]
    return float(lower), float(upper), interval_method(kind, n_bootstrap) if resampled.is_estimable else NO_INTERVAL


def _trials(panel: Panel, metric: str) -> int:
    """Count the patients behind a metric that is 0 or 1; 0 for a metric without an exact bound."""
    if metric == "auc":
        return min(panel.n_events, panel.n_patients - panel.n_events)
    if metric not in _OF_PROPORTION:
        return 0
    seen = np.isfinite(panel.probability[0])
    called = panel.probability[0] >= panel.threshold[0]
    members = {
        "accuracy": seen, "sensitivity": seen & panel.y, "specificity": seen & ~panel.y,
        "ppv": seen & called, "npv": seen & ~called,
    }[metric]  # fmt: skip
    counts = [np.unique(panel.patient[row]).size for row in members]
    return min((count for count in counts if count), default=0)


def averaged_auc(panel: Panel, level: float = 0.95, i: int = 0) -> dict[str, Any]:
    """AUC of one averaged probability per patient with DeLong's interval, as fields of a metrics row."""
    row: dict[str, Any] = {"metric": AVERAGED_AUC, "estimate": np.nan, "lower": np.nan, "upper": np.nan}
    averaged = panel.by_patient()
    if averaged is None:
        return row | {"method": DELONG_MIXED}
    seen = np.isfinite(averaged[1][i])
    y, scores = averaged[0][seen], averaged[1][i][seen]
    smaller = int(min(y.sum(), (~y).sum()))
    if smaller < 2:
        area = weighted_auc(y, scores, np.ones((y.size, 1)))[0]
        return row | {"estimate": float(area), "method": DELONG_TOO_FEW}
    areas, covariance = delong_covariance(y, scores)
    estimate, lower, upper = delong_bounds(float(areas[0]), float(covariance[0, 0]), smaller, level=level)
    return row | {"estimate": estimate, "lower": lower, "upper": upper, "method": DELONG_METHOD}


def bootstrap_metrics(panel: Panel, metrics: Sequence[str], *, n_bootstrap: int = 2000, seed: int = 0) -> Resampled:
    """Bootstrap some metrics of all models of a panel under shared draws.

    Returns
    -------
    Resampled
        Statistics ordered by model, then metric.
    """

    def statistic(weights: FloatArray) -> FloatArray:
        return np.concatenate([_weighted_metrics(panel, i, metrics, weights) for i in range(len(panel.models))])

    return bootstrap(statistic, panel.strata, n_bootstrap=n_bootstrap, seed=seed, n_rows=panel.y.size)


def _weighted_metrics(panel: Panel, i: int, metrics: Sequence[str], weights: FloatArray) -> FloatArray:
    """Metrics of one model under patient weights, shape (n_metrics, n_draws), averaged over repeats."""
    rows = weights[panel.patient]
    per_repeat = []
    for probability, threshold in zip(panel.probability[i], panel.threshold[i], strict=True):
        seen = np.isfinite(probability)
        if seen.any():
            values = _repeat_metrics(panel.y[seen], probability[seen], threshold[seen], rows[seen], metrics)
            per_repeat.append(values)
    return mean_over_repeats(np.stack(per_repeat))


def _repeat_metrics(
    y: NDArray[np.bool_], probability: FloatArray, threshold: FloatArray, weights: FloatArray, metrics: Sequence[str]
) -> FloatArray:
    values = {"auc": weighted_auc(y, probability, weights)} if "auc" in metrics else {}
    if set(metrics) - {"auc"}:
        called = probability >= threshold
        indicators = np.stack([y & called, y & ~called, ~y & called, ~y & ~called]).astype(np.float64)
        tp, fn, fp, tn = indicators @ weights
        values |= counts_to_metrics(tp, fn, fp, tn)
        values["brier"] = _ratio((probability - y) ** 2 @ weights, weights.sum(axis=0))
    return np.stack([values[name] for name in metrics])


def counts_to_metrics(tp: FloatArray, fn: FloatArray, fp: FloatArray, tn: FloatArray) -> dict[str, FloatArray]:
    """Metrics of a two-by-two table.

    Parameters
    ----------
    tp, fn, fp, tn : ndarray
        Counts (or sums of weights) of any common shape.

    Returns
    -------
    dict of str to ndarray
        ``accuracy, balanced_accuracy, sensitivity, specificity, ppv, npv, f1`` and ``kappa`` (Cohen 1960,
        doi:10.1177/001316446002000104, between calls and outcome); NaN where a denominator is 0.
    """
    total = tp + fn + fp + tn
    sensitivity, specificity = _ratio(tp, tp + fn), _ratio(tn, tn + fp)
    agreement = _ratio(tp + tn, total)
    chance = _ratio((tp + fp) * (tp + fn) + (fn + tn) * (fp + tn), total**2)
    return {
        "accuracy": agreement,
        "balanced_accuracy": (sensitivity + specificity) / 2,
        "sensitivity": sensitivity,
        "specificity": specificity,
        "ppv": _ratio(tp, tp + fp),
        "npv": _ratio(tn, tn + fn),
        "f1": _ratio(2 * tp, 2 * tp + fp + fn),
        "kappa": _ratio(agreement - chance, 1 - chance),
    }


def _ratio(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(denominator > 0, numerator / denominator, np.nan)


def confusion(predictions: pd.DataFrame, *, split: str | None = None) -> pd.DataFrame:
    """Two-by-two counts of every model and repeat.

    Parameters
    ----------
    predictions : DataFrame
        See :func:`evaluate_models`.
    split : str, optional
        See :func:`evaluate_models`.

    Returns
    -------
    DataFrame
        Columns :data:`CONFUSION_COLUMNS`; counts are of rows (cases, or lesions where rows are smaller). A case is
        called positive when ``y_prob >= threshold``.

    Raises
    ------
    InputError
        See :func:`evaluate_models`.
    """
    panel = Panel.from_predictions(predictions, split=split)
    rows = []
    for i, (feature_set, classifier) in enumerate(panel.models):
        for repeat, probability in enumerate(panel.probability[i]):
            seen = np.isfinite(probability)
            if not seen.any():
                continue
            called = probability[seen] >= panel.threshold[i, repeat][seen]
            y = panel.y[seen]
            tp, fn = int((y & called).sum()), int((y & ~called).sum())
            fp, tn = int((~y & called).sum()), int((~y & ~called).sum())
            rows.append((feature_set, classifier, repeat, tp, fn, fp, tn, panel.split))
    return pd.DataFrame(rows, columns=list(CONFUSION_COLUMNS))


def find_models(panel: Panel, models: Sequence[str | Model] | None) -> list[Model]:
    """Models given as ``(feature_set, classifier)``, or by feature set alone.

    A feature set alone stands for its classifier ``"selected"`` (chosen in the inner loop), or for its only one.

    Raises
    ------
    InputError
        For an unknown model, or a feature set with several classifiers of which none was selected.
    """
    if models is None:
        return list(panel.models)
    found = []
    for model in models:
        if not isinstance(model, str):
            found.append(panel.models[panel.position((str(model[0]), str(model[1])))])
            continue
        matching = [other for other in panel.models if other[0] == model]
        matching = [other for other in matching if other[1] == SELECTED] or matching
        if len(matching) != 1:
            names = [other[0] for other in panel.models]
            if model not in names:
                panel.position((model, ""))
            raise InputError(
                f"Feature set {model!r} has {len(matching)} classifiers.",
                advice=f"Name one of them: ({model!r}, {matching[0][1]!r}).",
            )
        found.append(matching[0])
    return found
