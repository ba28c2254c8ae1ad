"""Figures: ROC curves, AUCs with intervals, calibration, predicted probabilities.

Each ``plot_*`` function draws on the Axes it is given, or on a new figure of single-column journal width, and returns
the Axes. Legends stand outside the data. The numbers behind a curve come from :func:`roc_curves` and
:func:`calibration_curves`. Colours are those of Okabe and Ito (https://jfly.uni-koeln.de/color/), safe for colour-blind
readers; lines also differ in dash, so that a grey print can be read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from hybrid.errors import InputError
from hybrid.tables import SELECTED, require_columns

from .compare import REFERENCE, is_reference
from .metrics import auc_interval, bootstrap_metrics, find_models
from .panel import FloatArray, Model, Panel, label, mean_over_repeats
from .resampling import Resampled, bootstrap

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#8C6D1F", "#555555")
DASHES: Final = ("-", (0, (5, 1.5)), (0, (3, 1, 1, 1)), (0, (1, 1)))
INK: Final = "#222222"
MUTED: Final = "#767676"
BAR: Final = "#DDDDDD"

COLUMN_WIDTH: Final = 3.5
"""Width of a journal column in inches (89 mm)."""

MAX_BANDS: Final = 3
"""With more curves than this, bands would hide each other and are left out."""

GRID: Final = np.linspace(0.0, 1.0, 101)
"""False positive rates at which curves are averaged."""

ROC_CURVE_COLUMNS: Final = (
    "feature_set", "classifier", "false_positive_rate", "sensitivity", "lower", "upper", "auc", "auc_lower",
    "auc_upper",
)  # fmt: skip
"""Columns of the table that :func:`roc_curves` returns."""

CALIBRATION_COLUMNS: Final = ("feature_set", "classifier", "bin", "predicted", "observed", "lower", "upper", "n_rows")
"""Columns of the table that :func:`calibration_curves` returns."""


def default_models(panel: Panel, baselines: Sequence[str] = ()) -> list[Model]:
    """Models that a figure shows unless told otherwise.

    Those whose classifier was chosen in the inner loop; without any, all that are not references. More than eight must
    be chosen by name.

    Raises
    ------
    InputError
        For more than eight models.
    """
    contenders = [model for model in panel.models if not is_reference(model, baselines)] or list(panel.models)
    models = [model for model in contenders if model[1] == SELECTED] or contenders
    if len(models) > len(COLOURS):
        raise InputError(
            f"{len(models)} curves cannot be told apart in one figure; at most {len(COLOURS)} are drawn.",
            advice="Pass models=[(feature_set, classifier), ...].",
        )
    return models


def roc_curves(
    predictions: pd.DataFrame,
    *,
    models: Sequence[str | Model] | None = None,
    n_bootstrap: int = 2000,
    seed: int = 0,
    level: float = 0.95,
    split: str | None = None,
) -> pd.DataFrame:
    """Mean ROC curve of each model with a pointwise band.

    Parameters
    ----------
    predictions : DataFrame
        See :func:`hybrid.tables.check_predictions`.
    models : sequence, optional
        ``(feature_set, classifier)`` pairs, or feature sets with one classifier; see :func:`default_models`.
    n_bootstrap, seed, level, split
        See :func:`hybrid.analysis.evaluate_models`.

    Returns
    -------
    DataFrame
        Columns :data:`ROC_CURVE_COLUMNS`. At each false positive rate the sensitivity (linear between attainable
        points) is averaged over repeats; the band holds percentiles of the patient bootstrap at that rate, and is no
        band for the whole curve.

    Raises
    ------
    InputError
        For an invalid table or an unknown model.
    """
    panel = Panel.from_predictions(predictions, split=split)
    chosen = default_models(panel) if models is None else find_models(panel, models)
    tables = []
    for model in chosen:
        own = panel.select([model])
        settings = {"n_bootstrap": n_bootstrap, "seed": seed}
        area = bootstrap_metrics(own, ["auc"], **settings)
        curve = _bootstrap_curve(own, **settings)
        band = curve.interval(level=level, kind="percentile")
        auc_lower, auc_upper, _ = auc_interval(own, area, n_bootstrap=n_bootstrap, level=level)
        columns = (
            model[0], model[1], GRID, curve.estimate, band[:, 0], band[:, 1], area.estimate[0], auc_lower, auc_upper,
        )  # fmt: skip
        tables.append(pd.DataFrame(dict(zip(ROC_CURVE_COLUMNS, columns, strict=True))))
    return pd.concat(tables, ignore_index=True)


def _bootstrap_curve(panel: Panel, *, n_bootstrap: int, seed: int) -> Resampled:
    curves = [(scores[seen := np.isfinite(scores)], seen) for scores in panel.probability[0]]
    curves = [(scores, seen) for scores, seen in curves if scores.size]

    def statistic(weights: FloatArray) -> FloatArray:
        rows = weights[panel.patient]
        return mean_over_repeats(
            np.stack([_weighted_curve(panel.y[seen], scores, rows[seen]) for scores, seen in curves])
        )

    return bootstrap(statistic, panel.strata, n_bootstrap=n_bootstrap, seed=seed, n_rows=panel.y.size * 4)


def _weighted_curve(positive: Any, scores: FloatArray, weights: FloatArray) -> FloatArray:
    """Sensitivity on :data:`GRID` under many weightings, shape (len(GRID), n_draws)."""
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    is_positive = positive[order, None]
    sensitivity = _from_zero(np.cumsum(weights[order] * is_positive, axis=0)[ends])
    false_rate = _from_zero(np.cumsum(weights[order] * ~is_positive, axis=0)[ends])
    with np.errstate(divide="ignore", invalid="ignore"):
        sensitivity, false_rate = sensitivity / sensitivity[-1], false_rate / false_rate[-1]
    return np.stack(
        [_upper_interpolation(false_rate[:, b], sensitivity[:, b]) for b in range(weights.shape[1])], axis=1
    )


def _from_zero(cumulative: FloatArray) -> FloatArray:
    return np.concatenate([np.zeros((1, cumulative.shape[1])), cumulative])


def _upper_interpolation(x: FloatArray, y: FloatArray) -> FloatArray:
    """Interpolate at :data:`GRID`, taking the upper end of vertical steps (a step at 0 starts the curve there)."""
    if not np.isfinite(x[-1]) or not np.isfinite(y[-1]):
        return np.full(GRID.size, np.nan)
    last = np.searchsorted(x, GRID, side="right") - 1
    after = np.minimum(last + 1, x.size - 1)
    width = x[after] - x[last]
    share = np.divide(GRID - x[last], width, out=np.zeros(GRID.size), where=width > 0)
    return y[last] + share * (y[after] - y[last])


def plot_roc(
    predictions: pd.DataFrame,
    *,
    ax: Axes | None = None,
    models: Sequence[str | Model] | None = None,
    n_bootstrap: int = 2000,
    seed: int = 0,
    level: float = 0.95,
    split: str | None = None,
) -> Axes:
    """Draw mean ROC curves with pointwise bands; see :func:`roc_curves` for the numbers and the arguments.

    Returns
    -------
    Axes
        The legend, with AUC and interval, stands below the axes.
    """
    curves = roc_curves(predictions, models=models, n_bootstrap=n_bootstrap, seed=seed, level=level, split=split)
    return draw_roc(curves, ax=ax)


def draw_roc(curves: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the table that :func:`roc_curves` returns."""
    require_columns(curves, ROC_CURVE_COLUMNS, "ROC curve")
    ax = _axes(ax, height=4.1)
    groups = list(curves.groupby(["feature_set", "classifier"], sort=False))
    names = model_names([key for key, _ in groups])
    for i, (_, curve) in enumerate(groups):
        first = curve.iloc[0]
        x = np.concatenate([[0.0], curve["false_positive_rate"]])
        y = np.concatenate([[0.0], curve["sensitivity"]])
        text = f"{names[i]}: {_with_interval(first['auc'], first['auc_lower'], first['auc_upper'])}"
        ax.plot(x, y, color=COLOURS[i % 8], linestyle=DASHES[i % 4], linewidth=1.6, label=text)
        if len(groups) <= MAX_BANDS:
            band = curve[["lower", "upper"]].to_numpy(dtype=np.float64).T
            ax.fill_between(curve["false_positive_rate"], *band, color=COLOURS[i % 8], alpha=0.13, linewidth=0)
    ax.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)), label="Chance")
    ax.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal", xlabel="1 − specificity", ylabel="Sensitivity")
    _style(ax)
    _legend_below(ax, title="AUC (95 % interval)" if len(groups) else None)
    return ax


def plot_auc(table: pd.DataFrame, *, ax: Axes | None = None, baselines: Sequence[str] = ()) -> Axes:
    """AUC of each model with its interval, one row per model (a forest plot).

    Parameters
    ----------
    table : DataFrame
        :attr:`hybrid.analysis.Comparison.models`, or the table of :func:`hybrid.analysis.evaluate_models`.
    ax : Axes, optional
        Where to draw.
    baselines : sequence of str
        Feature sets to draw as references; only for a table of metrics.

    Returns
    -------
    Axes
        References are drawn hollow; a grey bar shows the permutation null where it is known.
    """
    rows = _forest_rows(table, baselines)
    ax = _axes(ax, height=0.6 + 0.19 * len(rows) + 0.16 * rows["group"].nunique())
    positions = _forest_positions(rows)
    for y, row in zip(positions, rows.itertuples(), strict=True):
        colour = MUTED if row.is_reference else COLOURS[row.colour % 8]
        if np.isfinite(row.null_lower):
            ax.plot(
                [row.null_lower, row.null_upper], [y, y], color="#DDDDDD", linewidth=6, solid_capstyle="butt", zorder=1
            )
        ax.plot([row.lower, row.upper], [y, y], color=colour, linewidth=1.3, zorder=2)
        face = "white" if row.is_reference else colour
        ax.plot([row.auc], [y], marker="o", markersize=4.5, color=colour, markerfacecolor=face, zorder=3)
    ax.axvline(0.5, color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)), zorder=0)
    ax.set_yticks(positions, rows["text"])
    low = float(np.nanmin([rows["lower"].min(), rows["auc"].min(), rows["null_lower"].min(), 0.45]))
    ax.set(xlim=(max(-0.01, low - 0.05), 1.01), ylim=(max(positions) + 0.7, -0.7), xlabel="AUC with 95 % interval")
    _style(ax)
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0)
    return ax


plot_forest = plot_auc


def _forest_rows(table: pd.DataFrame, baselines: Sequence[str]) -> pd.DataFrame:
    if "metric" in table.columns:
        rows = table[table["metric"] == "auc"].rename(columns={"estimate": "auc"})
        models = list(zip(rows["feature_set"], rows["classifier"], strict=True))
        rows = rows.assign(group=rows["feature_set"], text=[label(model) for model in models])
        rows["is_reference"] = [is_reference(model, baselines) for model in models]
    else:
        require_columns(table, ("role", "model", "feature_set", "auc", "lower", "upper"), "models")
        rows = table.assign(group=table["role"], text=table["model"], is_reference=table["role"] == REFERENCE)
    if rows.empty:
        raise InputError("There is no AUC to draw.", advice="Pass Comparison.models or the metrics table.")
    rows = rows.assign(colour=pd.factorize(rows["feature_set"])[0])
    for name in ("null_lower", "null_upper"):
        rows[name] = rows[name].astype(np.float64) if name in rows.columns else np.nan
    return rows.reset_index(drop=True)


def _forest_positions(rows: pd.DataFrame) -> list[float]:
    """Rows from top to bottom with a gap between groups."""
    new_group = rows["group"].ne(rows["group"].shift()).to_numpy()
    return [float(i + 0.8 * (new_group[: i + 1].sum() - 1)) for i in range(len(rows))]


def calibration_curves(
    predictions: pd.DataFrame,
    *,
    models: Sequence[str | Model] | None = None,
    n_bins: int | None = None,
    n_bootstrap: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    split: str | None = None,
) -> pd.DataFrame:
    """Observed event rate against mean predicted probability, in bins with equally many patients.

    Parameters
    ----------
    predictions : DataFrame
        See :func:`hybrid.tables.check_predictions`.
    models : sequence, optional
        See :func:`roc_curves`.
    n_bins : int, optional
        Number of bins (quantiles of the probability averaged over repeats); fewer where probabilities are tied. By
        default one per 20 rows, but three to ten.
    n_bootstrap, seed, level, split
        See :func:`hybrid.analysis.evaluate_models`.

    Returns
    -------
    DataFrame
        Columns :data:`CALIBRATION_COLUMNS`; the bounds of the observed rate are percentiles of the patient bootstrap
        with the bins kept fixed, and exact (Clopper-Pearson) where the rate is 0 or 1.
    """
    panel = Panel.from_predictions(predictions, split=split)
    chosen = default_models(panel) if models is None else find_models(panel, models)
    tables = [_calibration_rows(panel.select([model]), n_bins, n_bootstrap, seed, level) for model in chosen]
    return pd.DataFrame([row for rows in tables for row in rows], columns=list(CALIBRATION_COLUMNS))


def _calibration_rows(
    panel: Panel, n_bins: int | None, n_bootstrap: int, seed: int, level: float
) -> list[tuple[Any, ...]]:
    from .roc import perfect_interval

    probability = mean_over_repeats(panel.probability[0])
    n_bins = n_bins or int(np.clip(probability.size // 20, 3, 10))
    edges = np.unique(np.quantile(probability, np.linspace(0, 1, n_bins + 1)[1:-1]))
    bins = np.searchsorted(edges, probability, side="right")
    names = np.unique(bins)
    member = (bins == names[:, None]).astype(np.float64)

    def statistic(weights: FloatArray) -> FloatArray:
        rows = weights[panel.patient]
        with np.errstate(divide="ignore", invalid="ignore"):
            return (member @ (rows * panel.y[:, None])) / (member @ rows)

    resampled = bootstrap(
        statistic, np.zeros(panel.n_patients), n_bootstrap=n_bootstrap, seed=seed, n_rows=panel.y.size
    )
    bounds = resampled.interval(level=level, kind="percentile")
    table = []
    for i, (observed, (lower, upper)) in enumerate(zip(resampled.estimate, bounds, strict=True)):
        inside = member[i] > 0
        if observed in (0.0, 1.0):
            trials = int(np.unique(panel.patient[inside]).size)
            lower, upper = perfect_interval(float(observed), trials, level=level)
        predicted = float(probability[inside].mean())
        table.append((*panel.models[0], i, predicted, observed, lower, upper, int(inside.sum())))
    return table


def plot_calibration(
    predictions: pd.DataFrame,
    *,
    ax: Axes | None = None,
    models: Sequence[str | Model] | None = None,
    n_bins: int | None = None,
    n_bootstrap: int = 1000,
    seed: int = 0,
    split: str | None = None,
) -> Axes:
    """Draw observed against predicted risk; see :func:`calibration_curves` for the numbers and the arguments."""
    curves = calibration_curves(
        predictions, models=models, n_bins=n_bins, n_bootstrap=n_bootstrap, seed=seed, split=split
    )
    return draw_calibration(curves, ax=ax)


def draw_calibration(curves: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the table that :func:`calibration_curves` returns."""
    require_columns(curves, CALIBRATION_COLUMNS, "calibration")
    ax = _axes(ax, height=4.1)
    groups = list(curves.groupby(["feature_set", "classifier"], sort=False))
    names = model_names([key for key, _ in groups])
    ax.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)), label="Ideal")
    for i, (_, curve) in enumerate(groups):
        # Side by side, so that bars of different models do not hide each other.
        x = curve["predicted"] + 0.008 * (i - (len(groups) - 1) / 2)
        colour = COLOURS[i % 8]
        ax.vlines(x, curve["lower"], curve["upper"], color=colour, linewidth=1.0, alpha=0.6)
        ax.plot(
            x, curve["observed"], color=colour, linestyle=DASHES[i % 4], linewidth=1.3, marker="os^Dv<>p"[i % 8],
            markersize=4, label=names[i],
        )  # fmt: skip
    ax.set(
        xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal", xlabel="Mean predicted probability",
        ylabel="Observed fraction with event",
    )  # fmt: skip
    _style(ax)
    _legend_below(ax)
    return ax


def plot_probabilities(
    predictions: pd.DataFrame,
    *,
    ax: Axes | None = None,
    models: Sequence[str | Model] | None = None,
    seed: int = 0,
    split: str | None = None,
) -> Axes:
    """Predicted probability of each patient by outcome, averaged over repeats, with the median of each group.

    Parameters
    ----------
    predictions : DataFrame
        See :func:`hybrid.tables.check_predictions`.
    ax : Axes, optional
        Where to draw.
    models : sequence, optional
        See :func:`roc_curves`.
    seed : int
        Of the sideways scatter, which only keeps points apart.
    split : str, optional
        See :func:`hybrid.analysis.evaluate_models`.
    """
    panel = Panel.from_predictions(predictions, split=split)
    chosen = default_models(panel) if models is None else find_models(panel, models)
    ax = _axes(ax, height=2.9)
    rng = np.random.default_rng(seed)
    names = model_names(chosen)
    for i, model in enumerate(chosen):
        own = panel.select([model])
        values = mean_over_repeats(own.probability[0])
        for positive, shift, colour, marker in ((False, -0.17, COLOURS[4], "o"), (True, 0.17, COLOURS[1], "^")):
            group = values[own.y == positive]
            x = i + shift + rng.uniform(-0.09, 0.09, group.size)
            text = ("With event" if positive else "Without event") if i == 0 else None
            ax.plot(x, group, marker, markersize=3.4, color=colour, alpha=0.75, markeredgewidth=0, label=text)
            ax.hlines(np.median(group), i + shift - 0.13, i + shift + 0.13, color=INK, linewidth=1.4)
    ax.set_xticks(range(len(chosen)), names)
    if len(chosen) > 4:
        ax.tick_params(axis="x", rotation=30)
    ax.set(xlim=(-0.5, len(chosen) - 0.5), ylim=(-0.02, 1.02), ylabel="Predicted probability")
    _style(ax)
    _legend_below(ax, offset=-0.14 if len(chosen) <= 4 else -0.3, columns=2)
    return ax


def model_names(models: Sequence[Model]) -> list[str]:
    """Shortest names that tell models apart: the feature set where classifiers are equal, else both."""
    if len({model[1] for model in models}) == 1:
        return [model[0] if model[0] != "model" or len(models) > 1 else "Model" for model in models]
    if len({model[0] for model in models}) == 1:
        return [model[1] for model in models]
    return [label(model) for model in models]


def _axes(ax: Axes | None, *, height: float) -> Axes:
    if ax is not None:
        return ax
    from matplotlib import pyplot

    return pyplot.subplots(figsize=(COLUMN_WIDTH, height), layout="constrained")[1]


def _style(ax: Axes) -> None:
    ax.tick_params(labelsize=8, colors=INK, width=0.7, length=3)
    for text in (ax.xaxis.label, ax.yaxis.label):
        text.set_fontsize(8.5)
        text.set_color(INK)
    for side, spine in ax.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(INK)
        spine.set_linewidth(0.7)


def _legend_below(ax: Axes, *, title: str | None = None, offset: float = -0.17, columns: int = 1) -> None:
    legend = ax.legend(
        loc="upper center", bbox_to_anchor=(0.5, offset), frameon=False, fontsize=8, title=title, title_fontsize=8,
        ncols=columns, handlelength=2.6, borderaxespad=0.0,
    )  # fmt: skip
    legend.get_title().set_color(INK)


def _with_interval(estimate: float, lower: float, upper: float) -> str:
    if not (np.isfinite(lower) and np.isfinite(upper)):
        return f"{estimate:.2f}"
    return f"{estimate:.2f} ({lower:.2f}–{upper:.2f})"
