"""Figures about masks and lesions: FROC, recall by size, Dice, volumes, training, overfitting, overlays.

Each ``plot_*`` function draws a table or result of :mod:`hybrid.analysis.overlap` or :mod:`hybrid.analysis.detection`
on the Axes it is given, or on a new figure of journal column width, and returns the Axes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from hybrid.errors import InputError
from hybrid.tables import require_columns

from .detection import FROC_COLUMNS, FROC_RATES, Froc, RecallCurve
from .overlap import GAP_COLUMNS, SPLITS, BlandAltman, GeneralisationGap, check_masks, structure_rows
from .plots import COLOURS, DASHES, INK, MUTED, _axes, _style
from .resampling import FloatArray
from .wording import words

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SPLIT_COLOURS: Final = dict(zip(SPLITS, ("#0072B2", "#56B4E9", "#D55E00", "#009E73"), strict=True))
"""One colour per set of patients, the same in every figure."""

MARKERS: Final = "os^Dv<>p"

CURVE_COLUMNS: Final = ("epoch", "train_dice", "validation_dice", "train_loss", "learning_rate")
"""Columns that :func:`plot_training_curves` draws."""

DIGIT_WIDTH: Final = 0.03
"""Share of the axis that a digit of a tick's label needs, with the gap beside it."""

LABEL_DISTANCE: Final = 0.13
"""Least distance of two names of lines as a share of the axis: two lines of text at a height of 3 inches."""

CT_WINDOW: Final = (-160.0, 240.0)
"""Soft tissue (HU)."""

CT_AIR_HU: Final = -500.0
"""A slice whose darkest hundredth lies below this is a CT in Hounsfield units."""

SLICE_KEYS: Final = ("case_id", "title", "image", "reference", "prediction", "spacing")
"""Keys of each slice of :func:`plot_overlays`."""


def plot_froc(froc: Froc, *, ax: Axes | None = None) -> Axes:
    """Draw sensitivity against false positives per case, as steps between attainable points.

    Parameters
    ----------
    froc : Froc
        From :func:`hybrid.analysis.froc`.
    ax : Axes, optional
        Where to draw.

    Returns
    -------
    Axes
        The horizontal axis is linear up to 1/8 and logarithmic beyond, with ticks at LUNA16's rates; a curve stops at
        its last threshold. A dot marks the model's own cut-off; beyond it the line is thin.
    """
    ax = _axes(ax, height=3.4)
    by = [name for name in froc.points.columns if name not in FROC_COLUMNS]
    for i, (name, curve) in enumerate(_named_groups(froc.points, by)):
        text = f"{_title(name) or 'All cases'} ({_count(curve['n_lesions'].iloc[0], 'lesion')})"
        colour = _colour(name, i)
        x, y = curve["fp_per_case"].to_numpy(), curve["sensitivity"].to_numpy()
        own = int((~curve["dropped"].to_numpy(bool)).sum())
        steps: dict[str, Any] = {"color": colour, "linestyle": DASHES[i % 4], "drawstyle": "steps-post"}
        ax.plot(x[:own], y[:own], linewidth=1.6, label=text, **steps)
        ax.plot(x[own - 1 :], y[own - 1 :], linewidth=0.8, **steps)
        ax.plot(x[own - 1], y[own - 1], "o", color=colour, markersize=3.5)
    ax.set_xscale("symlog", linthresh=FROC_RATES[0], linscale=0.6, base=2)
    ax.set_xticks([0, *FROC_RATES], ["0", "1/8", "1/4", "1/2", "1", "2", "4", "8"], minor=False)
    ax.minorticks_off()
    last = max(8.0, float(froc.points["fp_per_case"].max()))
    ax.set(
        xlim=(-0.01, last * 1.1), ylim=(-0.02, 1.02), xlabel="False positives per case", ylabel="Sensitivity per lesion"
    )
    _style(ax)
    _legend(ax)
    return ax


def plot_recall_by_diameter(curve: RecallCurve, *, ax: Axes | None = None) -> Axes:
    """Draw the recall of each bin of diameters with its interval; every lesion is a tick (found: top, missed: bottom).

    Parameters
    ----------
    curve : RecallCurve
        From :func:`hybrid.analysis.recall_by_diameter`.
    ax : Axes, optional
        Where to draw.
    """
    ax = _axes(ax, height=3.4)
    by = [name for name in curve.points.columns if name in ("split", "structure", "site")]
    names = [name for name, _ in _named_groups(curve.points, by)]
    bins = dict(_named_groups(curve.bins, by)) if len(curve.bins) else {}
    for i, (name, lesions) in enumerate(_named_groups(curve.points, by)):
        colour, shift = _colour(name, i), 1 + 0.03 * (i - (len(names) - 1) / 2)
        own = bins[name]
        x = own["median_mm"].to_numpy(dtype=np.float64) * shift
        ax.vlines(x, _floats(own["ci_low"]), _floats(own["ci_high"]), color=colour, linewidth=1.1, alpha=0.7)
        ax.plot(
            x, own["recall"], color=colour, linestyle=DASHES[i % 4], marker=MARKERS[i % 8], markersize=4, linewidth=1.3,
            label=f"{_title(name) or 'All cases'} ({_count(len(lesions), 'lesion')})",
        )  # fmt: skip
        for found, level in ((1, 1.045 + 0.045 * i), (0, -0.045 - 0.045 * i)):
            at = lesions.loc[lesions["detected"] == found, "max_diameter_mm"]
            ax.plot(at, np.full(len(at), level), "|", color=colour, markersize=5, markeredgewidth=0.7, alpha=0.8)
    room = 0.06 + 0.045 * len(names)
    ax.set_xscale("log")
    _diameter_ticks(ax)
    ax.set(ylim=(-room, 1 + room), xlabel="Maximum diameter (mm)", ylabel="Recall")
    ax.set_yticks(np.linspace(0, 1, 6))
    _style(ax)
    _legend(ax)
    return ax


def _diameter_ticks(ax: Axes) -> None:
    low, high = ax.get_xlim()
    candidates = [1, 2, 3, 5, 10, 20, 30, 50, 70, 100, 150, 200]
    places = ax.transAxes.inverted().transform(ax.transData.transform([(tick, 0.5) for tick in candidates]))[:, 0]
    inside: list[int] = []
    last = -1.0
    for tick, place in zip(candidates, places, strict=True):
        if low <= tick <= high and place - last > DIGIT_WIDTH * len(str(tick)):
            inside.append(tick)
            last = place
    if len(inside) < 2:  # a narrow range has its ends instead
        inside = sorted({int(np.ceil(low)), int(np.floor(high))})
    ax.set_xticks(inside, [str(tick) for tick in inside])
    ax.minorticks_off()


def plot_dice_box(
    table: pd.DataFrame, *, metric: str = "dice", seed: int = 0, label: str | None = None, ax: Axes | None = None
) -> Axes:
    """Box of a metric per structure and split, with every case as a point.

    Parameters
    ----------
    table : DataFrame
        See :data:`hybrid.tables.MASK_COLUMNS`.
    metric : str
        What to draw.
    seed : int
        Of the sideways scatter, which only keeps points apart.
    label : str, optional
        Of the vertical axis; default: from the name of the metric.
    ax : Axes, optional
        Where to draw.

    Returns
    -------
    Axes
        Boxes hold the middle half, whiskers reach to the last case within 1.5 box heights. Undefined values are left
        out.

    Raises
    ------
    InputError
        For an invalid table, or one without finite values of the metric.
    """
    rows = structure_rows(check_masks(table))
    rows = rows[(rows["metric"] == metric) & np.isfinite(rows["value"])]
    if rows.empty:
        raise InputError(f"The masks table has no finite value of {metric!r}.", advice="Pass metric=.")
    ax = _axes(ax, height=3.2)
    structures, splits = list(rows["structure"].unique()), [name for name in SPLITS if name in set(rows["split"])]
    rng, width = np.random.default_rng(seed), 0.8 / len(splits)
    for j, split in enumerate(splits):
        for i, structure in enumerate(structures):
            values = rows.loc[(rows["split"] == split) & (rows["structure"] == structure), "value"].to_numpy()
            at = i + (j - (len(splits) - 1) / 2) * width
            _box(ax, values, at, width, SPLIT_COLOURS[split], rng, split if i == 0 else None)
    ax.set_xticks(range(len(structures)), [words(name) for name in structures])
    ax.set(xlim=(-0.55, len(structures) - 0.45), ylabel=label or _title(metric))
    if metric in ("dice", "iou", "precision", "sensitivity", "specificity", "surface_dice"):
        low = np.floor(10 * (rows["value"].min() - 0.02)) / 10
        ax.set_ylim(max(low, -0.02), 1.02)
    _style(ax)
    _legend(ax, columns=2, inches=0.3)
    return ax


def _box(
    ax: Axes, values: FloatArray, at: float, width: float, colour: str, rng: np.random.Generator, text: str | None
) -> None:
    if text is not None:
        ax.plot([], [], "s", color=colour, markersize=5, label=text.capitalize())
    if not values.size:
        return
    line = {"color": colour, "linewidth": 1.0}
    ax.boxplot(
        [values], positions=[at], widths=0.75 * width, showfliers=False, manage_ticks=False, boxprops=line,
        whiskerprops=line, capprops=line, medianprops={"color": INK, "linewidth": 1.5},
    )  # fmt: skip
    x = at + rng.uniform(-0.22, 0.22, values.size) * width
    ax.plot(x, values, "o", color=colour, markersize=2.6, alpha=0.55, markeredgewidth=0)


def plot_bland_altman(result: BlandAltman, *, ax: Axes | None = None) -> Axes:
    """Draw the difference of volumes against their mean, with bias and limits of agreement and their intervals.

    Parameters
    ----------
    result : BlandAltman
        From :func:`hybrid.analysis.bland_altman`.
    ax : Axes, optional
        Where to draw.
    """
    ax = _axes(ax, height=3.0)
    summary = result.summary.iloc[0]
    ax.plot(
        result.table["mean_ml"], result.table["difference_ml"], "o", color=COLOURS[0], markersize=3.6, alpha=0.7,
        markeredgewidth=0,
    )  # fmt: skip
    lines = (
        ("bias_ml", "bias", "Bias", "-"), ("lower_limit_ml", "lower_limit", "Lower limit", DASHES[1]),
        ("upper_limit_ml", "upper_limit", "Upper limit", DASHES[1]),
    )  # fmt: skip
    for name, bounds, _, dash in lines:
        value, low, high = summary[name], summary[f"{bounds}_ci_low"], summary[f"{bounds}_ci_high"]
        if not np.isfinite(value):
            continue
        ax.axhline(value, color=INK, linewidth=1.0, linestyle=dash, zorder=1)
        if np.isfinite(low) and np.isfinite(high):
            ax.axhspan(low, high, color=COLOURS[5 if name == "bias_ml" else 4], alpha=0.2, linewidth=0, zorder=0)
    ax.axhline(0, color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)), zorder=0)
    _name_lines(ax, {text: summary[name] for name, _, text, _ in lines})
    ax.set(xlabel="Mean of both volumes (ml)", ylabel="Predicted − reference (ml)")
    _style(ax)
    return ax


def _name_lines(ax: Axes, values: Mapping[str, float]) -> None:
    """Write name and value of horizontal lines beside the axes, pushed apart where the lines are close."""
    low, high = ax.get_ylim()
    apart, last = LABEL_DISTANCE * (high - low), -np.inf
    for text, value in sorted(values.items(), key=lambda item: item[1]):
        if not np.isfinite(value):
            continue
        last = max(value, last + apart)
        ax.annotate(
            f"{text}\n{value:.3g}".replace("-", "−"), (1.01, last), xycoords=("axes fraction", "data"), fontsize=7.5,
            color=INK, va="center",
        )  # fmt: skip


def plot_training_curves(curves: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw training and validation Dice by epoch; loss and learning rate, scaled to their largest value, behind them.

    Parameters
    ----------
    curves : DataFrame
        Columns :data:`CURVE_COLUMNS`, one row per epoch; a Dice that was not computed in an epoch is NaN.
    ax : Axes, optional
        Where to draw.

    Returns
    -------
    Axes
        The epoch of the highest validation Dice is marked; the model's card says which
        weights were kept. Loss and learning rate share the axis from 0 to 1 because only their shape matters
        here; the legend states what 1 stands for.

    Raises
    ------
    InputError
        For a missing column or an empty table.
    """
    from matplotlib.ticker import MaxNLocator

    require_columns(curves, CURVE_COLUMNS, "training curves")
    if curves.empty:
        raise InputError("The training curves have no rows.", advice="Was the training run for an epoch?")
    ax = _axes(ax, height=4.0)
    table = curves.sort_values("epoch")
    for split, name, dash in (("train", "train_dice", "-"), ("validation", "validation_dice", DASHES[1])):
        values = table[["epoch", name]].dropna()
        ax.plot(
            values["epoch"], values[name], color=COLOURS[0] if split == "train" else COLOURS[1], linestyle=dash,
            linewidth=1.6, label=f"{'Training' if split == 'train' else 'Validation'} Dice",
        )  # fmt: skip
    _mark_best(ax, table)
    for name, text, own in (("train_loss", "Training loss", DASHES[3]), ("learning_rate", "Learning rate", DASHES[2])):
        values = table[["epoch", name]].dropna()
        largest = float(values[name].abs().max()) if len(values) else 0.0
        if largest > 0:
            ax.plot(
                values["epoch"], values[name] / largest, color=MUTED, linestyle=own, linewidth=1.0, zorder=1,
                label=f"{text} (1 = {largest:.2g})",
            )  # fmt: skip
    low = min(0.0, float(np.nanmin([0.0, *(table["train_loss"] / table["train_loss"].abs().max())])))
    ax.set(ylim=(low - 0.02, 1.02), xlabel="Epoch", ylabel="Dice (others scaled)")
    ax.xaxis.set_major_locator(MaxNLocator(nbins="auto", steps=[1, 2, 5, 10], integer=True))
    _style(ax)
    _legend(ax)
    return ax


def _mark_best(ax: Axes, table: pd.DataFrame) -> None:
    values = table[["epoch", "validation_dice"]].dropna()
    if values.empty:
        return
    best = values.loc[values["validation_dice"].idxmax()]
    text = f"Highest, epoch {best['epoch']:g}: {best['validation_dice']:.3f}"
    ax.plot([best["epoch"]], [best["validation_dice"]], "D", color=COLOURS[1], markersize=5, label=text, zorder=4)


def plot_gap(table: pd.DataFrame | GeneralisationGap, *, ax: Axes | None = None) -> Axes:
    """Draw generalisation gaps with intervals against the threshold; raised flags are filled.

    Parameters
    ----------
    table : DataFrame or GeneralisationGap
        From :func:`hybrid.analysis.generalisation_gap` (rows of several structures may be concatenated) or
        :func:`hybrid.analysis.gap_by_training_size`, which is drawn as a learning curve.
    ax : Axes, optional
        Where to draw.

    Raises
    ------
    InputError
        For a missing column or an empty table.
    """
    rows = table.table if isinstance(table, GeneralisationGap) else table
    require_columns(rows, GAP_COLUMNS, "generalisation gap")
    if rows.empty:
        raise InputError("There is no gap to draw.", advice="Pass the result of generalisation_gap.")
    by_size = "training_size" in rows.columns
    ax = _axes(ax, height=3.4 if by_size else 1.4 + 0.3 * len(rows))
    positions = rows["training_size"].to_numpy() if by_size else np.arange(len(rows))[::-1]
    gap, low, high = (_floats(rows[name]) for name in ("gap", "ci_low", "ci_high"))
    flagged = rows["overfit"].to_numpy(dtype=bool)
    draw_line, draw_span = (ax.axhline, ax.vlines) if by_size else (ax.axvline, ax.hlines)
    for value in rows["threshold"].unique():
        draw_line(value, color=COLOURS[1], linewidth=1.0, linestyle=DASHES[1], label=f"Threshold {value:g}", zorder=1)
    draw_line(0, color=MUTED, linewidth=0.8, zorder=0)
    draw_span(positions, low, high, color=COLOURS[0], linewidth=1.3, zorder=2)
    if by_size:
        ax.plot(positions, gap, color=COLOURS[0], linewidth=1.0, alpha=0.6, zorder=2)
    for chosen, face, text in ((flagged, COLOURS[0], "Overfitting flagged"), (~flagged, "white", "Not flagged")):
        if chosen.any():
            x, y = (positions[chosen], gap[chosen]) if by_size else (gap[chosen], positions[chosen])
            ax.plot(x, y, "o", color=COLOURS[0], markerfacecolor=face, markersize=5.5, label=text, zorder=3)
    _gap_labels(ax, rows, positions, by_size)
    return ax


def _gap_labels(ax: Axes, rows: pd.DataFrame, positions: Any, by_size: bool) -> None:
    first = rows.iloc[0]
    text = f"{_title(first['metric'])}: {first['train_split']} − {first['test_split']}"
    if by_size:
        ax.set(xlabel="Training patients", ylabel=text)
        ax.set_xticks(positions, [f"{size:g}" for size in positions])
    else:
        ax.set_yticks(positions, [words(name) for name in rows["structure"]])
        ax.set(xlabel=text, ylim=(-0.6, len(rows) - 0.4))
    _style(ax)
    if not by_size:
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)
    _legend(ax, columns=2)


def plot_overlays(
    slices: Sequence[Mapping[str, Any]], *, window: tuple[float, float] | None = None, max_columns: int = 3
) -> Figure:
    """Grey slices with the contours of reference and prediction, for example of the best, median and worst case.

    Parameters
    ----------
    slices : sequence of mapping
        Keys :data:`SLICE_KEYS`: ``image`` of shape (rows, columns), ``reference`` and ``prediction`` label arrays of
        the same shape (0 is background; every label gets its own contour), ``spacing`` of rows and columns in mm.
    window : (float, float), optional
        Grey values shown as black and white; default: :data:`CT_WINDOW` for a slice with air in HU, else the 1st and
        99th percentile of each slice.
    max_columns : int
        Slices per row.

    Returns
    -------
    Figure
        Contours: reference solid, prediction dashed. Pixels keep their physical aspect.

    Raises
    ------
    InputError
        Without slices, or for one that lacks a key or whose arrays do not fit together.
    """
    if not slices:
        raise InputError("There is no slice to draw.", advice="Pass at least one.")
    for item in slices:
        _check_slice(item)
    from matplotlib import pyplot
    from matplotlib.lines import Line2D

    columns = min(max_columns, len(slices))
    n_rows = -(-len(slices) // columns)
    edges_mm = np.array([np.shape(item["image"]) * np.asarray(item["spacing"], dtype=np.float64) for item in slices])
    tallest = float(np.max(edges_mm[:, 0] / edges_mm[:, 1]))
    size = (2.4 * columns, (2.3 * min(tallest, 1.0) + 0.45) * n_rows + 0.3)
    figure, axes = pyplot.subplots(n_rows, columns, figsize=size, layout="constrained", squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    for ax, item in zip(axes.flat, slices, strict=False):
        _overlay(ax, item, window)
    lines = [
        Line2D([], [], color=COLOURS[5], linewidth=1.8, label="Reference"),
        Line2D([], [], color=COLOURS[4], linewidth=1.8, linestyle=DASHES[1], label="Prediction"),
    ]
    figure.legend(handles=lines, loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    return figure


def _check_slice(item: Mapping[str, Any]) -> None:
    missing = [key for key in SLICE_KEYS if key not in item]
    if missing:
        raise InputError(f"A slice lacks {', '.join(missing)}.", advice=f"Expected: {', '.join(SLICE_KEYS)}.")
    shapes = [np.shape(item[key]) for key in ("image", "reference", "prediction")]
    if len(shapes[0]) != 2 or len(set(shapes)) != 1 or min(shapes[0]) < 2:
        raise InputError(
            f"Image, reference and prediction must be 2D and of one shape; found {shapes}.",
            case_id=str(item["case_id"]),
        )
    spacing = np.asarray(item["spacing"], dtype=np.float64)
    if spacing.shape != (2,) or not (np.isfinite(spacing) & (spacing > 0)).all():
        raise InputError(f"Spacing must be two positive mm; found {item['spacing']}.", case_id=str(item["case_id"]))


def _overlay(ax: Axes, item: Mapping[str, Any], window: tuple[float, float] | None) -> None:
    image = np.asarray(item["image"], dtype=np.float64)
    finite = image[np.isfinite(image)]
    low, high = window or _usual_window(finite)
    row_mm, column_mm = (float(value) for value in item["spacing"])
    ax.imshow(image, cmap="gray", vmin=low, vmax=high, aspect=row_mm / column_mm, interpolation="nearest")
    for key, colour, dash in (("reference", COLOURS[5], "-"), ("prediction", COLOURS[4], DASHES[1])):
        labels = np.asarray(item[key])
        for value in np.unique(labels[labels > 0]):
            # A margin of background closes contours at the edge of the slice.
            region = np.pad((labels == value).astype(np.float64), 1)
            rows, columns = (np.arange(-1, n + 1) for n in labels.shape)
            ax.contour(columns, rows, region, levels=[0.5], colors=[colour], linewidths=1.2, linestyles=[dash])
    ax.set(xlim=(-0.5, image.shape[1] - 0.5), ylim=(image.shape[0] - 0.5, -0.5), anchor="N")  # titles in one line
    ax.set_title(f"{item['title']}\n{item['case_id']}", fontsize=8, color=INK)


def _usual_window(values: FloatArray) -> tuple[float, float]:
    low, high = np.percentile(values, [1, 99]) if values.size else (0.0, 1.0)
    return CT_WINDOW if low < CT_AIR_HU else (float(low), float(high))


def _named_groups(table: pd.DataFrame, by: Sequence[str]) -> list[tuple[str, pd.DataFrame]]:
    """Return groups with a readable name, in order of appearance."""
    if not by:
        return [("", table)]
    return [(", ".join(words(str(part)) for part in key), own) for key, own in table.groupby(list(by), sort=False)]


def _colour(name: str, i: int) -> str:
    return SPLIT_COLOURS.get(name, COLOURS[i % 8])


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _floats(values: pd.Series) -> FloatArray:
    return values.to_numpy(dtype=np.float64)


def _title(name: str) -> str:
    text = words(name)
    return text[:1].upper() + text[1:]


def _legend(ax: Axes, *, columns: int = 1, inches: float = 0.48) -> None:
    """Legend below the axes, at a distance that does not depend on the height of the axes."""
    from matplotlib.transforms import ScaledTranslation

    shift = ScaledTranslation(0.0, -inches, ax.figure.dpi_scale_trans)
    ax.legend(
        loc="upper center", bbox_to_anchor=(0.5, 0.0), bbox_transform=ax.transAxes + shift, frameon=False, fontsize=8,
        ncols=columns, handlelength=2.4, columnspacing=1.4, borderaxespad=0.0,
    )  # fmt: skip
