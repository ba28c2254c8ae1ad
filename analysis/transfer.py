"""Does borrowing from another cohort help? Arms of a transfer study compared patient by patient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
from scipy import stats

from hybrid.errors import InputError, unknown_name
from hybrid.tables import require_columns

from .multiplicity import adjust
from .resampling import bootstrap
from .wording import signed

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ARMS: Final = {
    "primary_only": "Primary cohort only",
    "zero_shot": "Auxiliary cohort only",
    "fine_tune": "Fine-tuning of all layers",
    "fine_tune_frozen": "Fine-tuning, encoder frozen at first",
    "joint": "Joint training with domain tag",
    "dual_branch": "Dual branch, FS-Net-style",
}
"""Arms of a transfer study, in the order of the report."""

AUXILIARY_WEIGHT: Final = 0.5
"""Usual weight of the auxiliary loss: of joint training, and at the start of the dual branch."""

SCORE_COLUMNS: Final = ("arm", "run", "case_id", "patient_id", "structure", "metric", "value")
"""Columns of the table of scores; ``run`` tells repeats (seeds, folds) of an arm apart."""

COMPARED: Final = ("dice", "surface_dice")
"""Metrics that arms are compared by."""

SUMMARY_COLUMNS: Final = ("arm", "structure", "metric", "n_patients", "n_runs", "mean", "ci_low", "ci_high", "run_sd")

FOLD: Final = r"_fold\d+$"
"""What the folds of one repeat differ by in the name of the run; together they have judged every patient once."""

UNSTABLE_SD: Final = 0.1
"""SD of the Dice between an arm's trainings above which the report warns."""

TEST_COLUMNS: Final = ("structure", "metric", "n_patients", "difference", "ci_low", "ci_high", "p", "p_holm")
CONTRAST_COLUMNS: Final = ("arm", "reference", *TEST_COLUMNS)


def check_scores(scores: pd.DataFrame, *, within: Sequence[str] = ()) -> pd.DataFrame:
    """Validate a table of scores.

    Parameters
    ----------
    scores : DataFrame
        See :data:`SCORE_COLUMNS`.
    within : sequence of str
        Further columns that tell trainings of a run apart.

    Raises
    ------
    InputError
        For absent columns, unknown arms or two values of one case in a run.
    """
    require_columns(scores, SCORE_COLUMNS, "scores")
    for arm in scores["arm"].unique():
        if arm not in ARMS:
            raise unknown_name("arm", arm, ARMS)
    key = ["arm", "run", "case_id", "structure", "metric", *within]
    twice = scores.duplicated(key)
    if twice.any():
        raise InputError("A case has two values in one run.", case_id=str(scores.loc[twice, "case_id"].iloc[0]))
    return scores


def usual_scores(scores: pd.DataFrame) -> pd.DataFrame:
    """Scores with all training patients and the usual auxiliary weight: what the arms are compared by."""
    most = scores.groupby("run")["n_training"].transform("max")
    return scores[(scores["n_training"] == most) & (scores["weight"] == AUXILIARY_WEIGHT)]


def varied_scores(scores: pd.DataFrame, column: str) -> pd.DataFrame:
    """Scores of the arms that were trained with several values of a column, all else as usual.

    Parameters
    ----------
    scores : DataFrame
        With ``n_training`` and ``weight``.
    column : {"n_training", "weight"}
        What varies.
    """
    if column == "n_training":
        own = scores[scores["weight"] == AUXILIARY_WEIGHT]
    else:
        own = scores[scores["n_training"] == scores.groupby("run")["n_training"].transform("max")]
    counts = own.groupby("arm")[column].nunique()
    return own[own["arm"].isin(counts[counts > 1].index)]


def summarise_arms(scores: pd.DataFrame, *, n_boot: int = 2000, seed: int = 0, level: float = 0.95) -> pd.DataFrame:
    """Mean of each arm with an interval over patients.

    Parameters
    ----------
    scores : DataFrame
        See :data:`SCORE_COLUMNS`; values that are not defined (NaN) are left out.
    n_boot, seed : int
        Bootstrap draws over patients, and their seed.
    level : float
        Confidence level.

    Returns
    -------
    DataFrame
        Columns :data:`SUMMARY_COLUMNS`. A patient's value is the mean over cases and runs. ``run_sd`` is the standard
        deviation of the means over all patients of each seed, or of each repeat of the folds: the part that comes from
        training again (NaN when nothing was repeated).
    """
    rows = []
    for (arm, structure, metric), group in check_scores(scores).groupby(["arm", "structure", "metric"], sort=False):
        values = group.groupby("patient_id")["value"].mean().dropna()
        low, high = _interval(values.to_numpy(), n_boot, seed, level)
        repeats = group.groupby(group["run"].astype(str).str.replace(FOLD, "", regex=True))["value"].mean()
        spread = float(repeats.std(ddof=1)) if len(repeats) > 1 else np.nan
        rows.append((arm, structure, metric, len(values), group["run"].nunique(), values.mean(), low, high, spread))
    table = pd.DataFrame(rows, columns=list(SUMMARY_COLUMNS))
    order = {arm: i for i, arm in enumerate(ARMS)}
    return table.sort_values(
        ["structure", "metric", "arm"], key=lambda c: c.map(order) if c.name == "arm" else c, kind="stable",
        ignore_index=True,
    )  # fmt: skip


def contrast_arms(
    scores: pd.DataFrame,
    *,
    reference: str = "primary_only",
    metrics: Sequence[str] = COMPARED,
    n_boot: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> pd.DataFrame:
    """Paired differences of every arm from one of them.

    Parameters
    ----------
    scores : DataFrame
        See :data:`SCORE_COLUMNS`.
    reference : str
        Arm that the others are compared with.
    metrics : sequence of str
        Metrics to compare, as far as the table has them.
    n_boot, seed, level
        See :func:`summarise_arms`.

    Returns
    -------
    DataFrame
        Columns :data:`CONTRAST_COLUMNS`: mean difference over patients (means over their cases and runs) with a
        bootstrap interval, p of Wilcoxon's signed-rank test (1945, doi:10.2307/3001968), and p adjusted by Holm's
        method over the whole table, all metrics and structures together.

    Raises
    ------
    InputError
        When the reference arm or every metric is absent from the table.
    """
    table = check_scores(scores)
    if reference not in set(table["arm"]):
        raise unknown_name("arm", reference, table["arm"].unique())
    arms = [arm for arm in ARMS if arm != reference and arm in set(table["arm"])]
    rows = _paired_tests(table, "arm", arms, reference, metrics, n_boot, seed, level)
    return _with_holm(rows)[list(CONTRAST_COLUMNS)]


def contrast_values(
    scores: pd.DataFrame,
    column: str,
    *,
    metrics: Sequence[str] = COMPARED,
    n_boot: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> pd.DataFrame:
    """Paired differences within an arm: fewer training patients, or a heavier auxiliary loss.

    Parameters
    ----------
    scores : DataFrame
        As for :func:`varied_scores`.
    column : {"n_training", "weight"}
        What varies. Numbers of patients are compared with the largest one, weights with the smallest one.
    metrics, n_boot, seed, level
        See :func:`contrast_arms`.

    Returns
    -------
    DataFrame
        ``arm``, the column, ``reference`` (its value) and as in :func:`contrast_arms`, adjusted over the whole table.
        A run (seed or fold) counts only if it was trained with both values.
    """
    parts = []
    table = check_scores(scores, within=("n_training", "weight"))
    for arm, own in varied_scores(table, column).groupby("arm", sort=False):
        reference = own[column].max() if column == "n_training" else own[column].min()
        for value in sorted(set(own[column]) - {reference}):
            pair = own[own[column].isin([value, reference])]
            both = pair.groupby("run")[column].nunique() == 2
            pair = pair[pair["run"].isin(both.index[both])]
            if pair.empty:
                continue
            parts.append(_paired_tests(pair, column, [value], reference, metrics, n_boot, seed, level).assign(arm=arm))
    columns = ["arm", column, "reference", *TEST_COLUMNS]
    return _with_holm(pd.concat(parts, ignore_index=True))[columns] if parts else pd.DataFrame(columns=columns)


def _paired_tests(
    table: pd.DataFrame, column: str, values: Sequence[Any], reference: Any, metrics: Sequence[str], n_boot: int,
    seed: int, level: float,
) -> pd.DataFrame:  # fmt: skip
    """Rows in which ``column`` has one of the values minus those with the reference, by metric, structure and value."""
    known = [metric for metric in metrics if metric in set(table["metric"])]
    if not known:
        raise unknown_name("metric", next(iter(metrics), ""), table["metric"].unique())
    means = table.groupby(["metric", "structure", "patient_id", column])["value"].mean().unstack(column)
    rows = []
    for metric in known:
        for structure in table.loc[table["metric"] == metric, "structure"].unique():
            wide = means.loc[(metric, structure)]
            for value in [value for value in values if value in wide.columns]:
                difference = (wide[value] - wide[reference]).dropna().to_numpy()
                low, high = _interval(difference, n_boot, seed, level)
                mean = float(difference.mean()) if difference.size else np.nan
                test = (difference.size, mean, low, high, _wilcoxon(difference))
                rows.append((value, reference, structure, metric, *test))
    return pd.DataFrame(rows, columns=[column, "reference", *TEST_COLUMNS[:-1]])


def _with_holm(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(p_holm=adjust(table["p"].to_numpy(dtype=float), "holm").p)


def _interval(values: np.ndarray, n_boot: int, seed: int, level: float) -> tuple[float, float]:
    if values.size < 2:
        return np.nan, np.nan
    drawn = bootstrap(
        lambda weights: (values @ weights / weights.sum(axis=0))[None],
        np.zeros(values.size, dtype=np.int64), n_bootstrap=n_boot, seed=seed,
    )  # fmt: skip
    low, high = drawn.interval(level=level)[0]
    return float(low), float(high)


def _wilcoxon(difference: np.ndarray) -> float:
    """P-value of the signed-rank test; 1 for differences that are all zero, NaN for fewer than two."""
    if difference.size < 2:
        return np.nan
    return float(stats.wilcoxon(difference).pvalue) if np.any(difference != 0) else 1.0


def plot_arms(summary: pd.DataFrame, *, metric: str = "dice", ax: Axes | None = None) -> Axes:
    """Draw the mean of every arm with its interval, one colour for each structure.

    Parameters
    ----------
    summary : DataFrame
        From :func:`summarise_arms`.
    metric : str
        Metric to draw.
    ax : Axes, optional
        Where to draw.
    """
    from .plots import _axes, _legend_below, _style

    ax = _axes(ax, height=3.4)
    rows = summary[summary["metric"] == metric]
    arms = [arm for arm in ARMS if arm in set(rows["arm"])]
    structures = list(dict.fromkeys(rows["structure"]))
    for number, structure in enumerate(structures):
        own = rows[rows["structure"] == structure].set_index("arm").loc[arms]
        places = np.arange(len(arms)) + 0.16 * (number - (len(structures) - 1) / 2)
        errors = np.abs(own[["ci_low", "ci_high"]].to_numpy().T - own["mean"].to_numpy())
        ax.errorbar(own["mean"], places, xerr=errors, fmt="o", capsize=2, label=structure, color=COLOURS[number % 4])
    ax.set_yticks(np.arange(len(arms)), [ARMS[arm].replace(", ", ",\n") for arm in arms])
    ax.invert_yaxis()
    ax.set_xlabel(metric.replace("_", " ").capitalize())
    _style(ax)
    _legend_below(ax)
    return ax


COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")


def plot_curve(table: pd.DataFrame, *, x: str, label: str, metric: str = "dice", ax: Axes | None = None) -> Axes:
    """Draw means with intervals against a number: training patients, or the weight of the auxiliary loss.

    Parameters
    ----------
    table : DataFrame
        Rows of :func:`summarise_arms` for every value of the column ``x``.
    x : str
        Column of the horizontal axis.
    label : str
        Its text.
    metric : str
        Metric to draw.
    ax : Axes, optional
        Where to draw.
    """
    from .plots import _axes, _legend_below, _style

    ax = _axes(ax, height=3.4)
    rows = table[table["metric"] == metric]
    styles = ("-", "--", ":", "-.")
    arms = [arm for arm in ARMS if arm in set(rows["arm"])]
    for i, structure in enumerate(dict.fromkeys(rows["structure"])):
        for j, arm in enumerate(arms):
            own = rows[(rows["structure"] == structure) & (rows["arm"] == arm)].sort_values(x)
            errors = np.abs(own[["ci_low", "ci_high"]].to_numpy().T - own["mean"].to_numpy())
            ax.errorbar(
                own[x], own["mean"], yerr=errors, capsize=2, marker="o", ls=styles[i % 4], color=COLOURS[j % 4],
                label=f"{ARMS[arm]}, {structure}",
            )  # fmt: skip
    ax.set(xlabel=label, ylabel=metric.replace("_", " ").capitalize())
    ax.set_xticks(sorted(set(rows[x])))
    _style(ax)
    _legend_below(ax, offset=-0.24)
    return ax


def plot_wiring(ax: Axes | None = None) -> Axes:
    """Draw how the FS-Net-style network is wired; a figure for the report."""
    from .plots import _axes

    ax = _axes(ax, height=2.6)
    ax.set(xlim=(0, 10), ylim=(0, 6))
    ax.axis("off")
    boxes = {
        "Image": (0.2, 2.5), "Primary\nencoder": (2.2, 4.1), "Auxiliary\nencoder": (2.2, 0.9),
        "Mix\n1×1×1": (4.1, 0.9), "Gate\n(starts at 0)": (6.3, 0.9), "Decoder\n(shared)": (7.6, 4.1),
    }  # fmt: skip
    for text, (left, bottom) in boxes.items():
        ax.text(
            left + 0.7, bottom + 0.5, text, ha="center", va="center", fontsize=8,
            bbox={"boxstyle": "round,pad=0.35", "fc": "#eef4fa", "ec": "#0072B2"},
        )  # fmt: skip
    arrow: dict[str, Any] = {"arrowstyle": "->", "color": "#333333", "lw": 1.0, "shrinkA": 2, "shrinkB": 2}
    for start, stop in (
        ((1.5, 3.2), (2.1, 4.4)), ((1.5, 2.8), (2.1, 1.6)), ((3.6, 1.4), (4.25, 1.4)), ((5.35, 1.4), (6.05, 1.4)),
        ((3.6, 4.6), (5.5, 4.6)), ((5.9, 4.6), (7.5, 4.6)), ((6.7, 1.9), (5.8, 4.3)),
    ):  # fmt: skip
        ax.annotate("", xy=stop, xytext=start, arrowprops=arrow)
    circle = {"boxstyle": "circle", "fc": "white", "ec": "#333333"}
    ax.text(5.7, 4.6, "+", ha="center", va="center", fontsize=12, bbox=circle)
    ax.text(4.6, 5.3, "at every scale", ha="center", fontsize=7, color="#555555")
    return ax


def first_sentence(contrasts: pd.DataFrame) -> str:
    """Say whether borrowing helped, from the contrasts of Dice with the primary cohort alone.

    Parameters
    ----------
    contrasts : DataFrame
        From :func:`contrast_arms`.
    """
    rows = contrasts[contrasts["metric"] == "dice"].sort_values("difference", ascending=False)
    better = rows[(rows["ci_low"] > 0) & (rows["p_holm"] < 0.05)]
    worse = rows[(rows["ci_high"] < 0) & (rows["p_holm"] < 0.05)]
    if better.empty and worse.empty:
        return "No arm differs from training on the primary cohort alone by more than chance explains."
    parts = []
    if len(better):
        best = better.iloc[0]
        parts.append(
            f"Borrowing helps: {_inline(best['arm'])} gains most, {signed(best['difference'])} Dice for "
            f"{best['structure']} (95 % CI {signed(best['ci_low'])} to {signed(best['ci_high'])})"
        )
    if len(worse):
        names = ", ".join(f"{_inline(row['arm'])} ({row['structure']})" for _, row in worse.iterrows())
        parts.append(f"worse than the primary cohort alone: {names}")
    return "; ".join(parts) + "."


def claim_sentence(contrasts: pd.DataFrame) -> str:
    """Say whether the dual branch beats plain fine-tuning, which is what was published; empty without both arms.

    Parameters
    ----------
    contrasts : DataFrame
        From :func:`contrast_arms` with the reference ``fine_tune``.
    """
    rows = contrasts[(contrasts["arm"] == "dual_branch") & (contrasts["metric"] == "dice")]
    if rows.empty:
        return ""
    parts = [
        f"{signed(row['difference'])} Dice for {row['structure']} "
        f"(95 % CI {signed(row['ci_low'])} to {signed(row['ci_high'])}, "
        f"{'different' if row['p_holm'] < 0.05 else 'not different'} after Holm's adjustment)"
        for _, row in rows.iterrows()
    ]
    return f"Against plain fine-tuning, the FS-Net-style network: {'; '.join(parts)}."


def trainings_sentence(summary: pd.DataFrame) -> str:
    """Say that nothing was repeated, or which arms' trainings ended far apart; empty when neither holds.

    Parameters
    ----------
    summary : DataFrame
        From :func:`summarise_arms`.
    """
    trained = summary[summary["arm"] != "zero_shot"]
    if trained["run_sd"].isna().all():
        return (
            "Each arm judged a patient by one training: the intervals are about other patients; other trainings would "
            "differ, too."
        )
    rows = trained[(trained["metric"] == "dice") & (trained["run_sd"] > UNSTABLE_SD)]
    if rows.empty:
        return ""
    worst = rows.groupby("arm", sort=False)["run_sd"].max()
    names = "; ".join(f"{_inline(arm)} (SD of Dice {spread:.2f})" for arm, spread in worst.items())
    return (
        f"Trainings of one arm ended far apart: {names}. Some of them have hardly learnt in so few steps, "
        "and differences from such an arm say little; train longer."
    )


def _inline(arm: str) -> str:
    """Name of an arm within a sentence."""
    return ARMS[arm][0].lower() + ARMS[arm][1:]
