"""Which features the models use: permutation importance, Shapley values and stability of the choice, out of fold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from hybrid.errors import InputError
from hybrid.tables import require_columns

from .panel import FloatArray
from .plots import COLOURS, COLUMN_WIDTH, INK, MUTED
from .reliability import selection_stability
from .resampling import bootstrap, weighted_auc

if TYPE_CHECKING:
    from matplotlib.axes import Axes

EXPLANATION_COLUMNS: Final = (
    "feature_set", "repeat", "fold", "case_id", "patient_id", "y_true", "y_prob", "base", "feature", "value", "shap",
)  # fmt: skip
"""Columns of a table of explanations, see :func:`hybrid.pipelines.explain_models`."""

IMPORTANCE_COLUMNS: Final = (
    "feature_set", "feature", "n_folds", "n_chosen", "share_chosen", "auc", "importance", "lower", "upper",
    "mean_abs_shap", "direction", "n_patients", "n_repeats", "method",
)  # fmt: skip
"""Columns of the table that :func:`feature_importance` returns."""

STABILITY_COLUMNS: Final = (
    "feature_set", "n_folds", "n_candidates", "mean_chosen", "n_ever_chosen", "stability", "lower", "upper",
)  # fmt: skip
"""Columns of the table that :func:`choice_stability` returns."""

PERMUTED: Final = "permuted_"


def feature_importance(
    explanations: pd.DataFrame, *, n_bootstrap: int = 1000, seed: int = 0, level: float = 0.95
) -> pd.DataFrame:
    """Permutation importance and mean absolute Shapley value of every feature that a fold chose.

    Importance is the fall of the AUC when the feature is permuted among patients whom the model has not seen (Breiman
    2001, doi:10.1023/A:1010933404324; Fisher et al. 2019, https://jmlr.org/papers/v20/18-760.html). A fold that did
    not choose the feature counts with a fall of 0. Of correlated features each can hide the other.

    Parameters
    ----------
    explanations : DataFrame
        From :func:`hybrid.pipelines.explain_models`; not modified.
    n_bootstrap, seed, level
        Of the percentile intervals: patients are resampled with all their rows and repeats; the variance of training
        is not in them.

    Returns
    -------
    DataFrame
        Columns :data:`IMPORTANCE_COLUMNS`, the most important feature of each set first. ``auc`` is that of the model,
        the mean over repeats. ``direction`` is Spearman's correlation of a feature's value with its Shapley value,
        the mean over the folds that chose it: above 0 when a higher value raises the predicted probability.

    Raises
    ------
    InputError
        For missing columns, or an outcome with one class.
    """
    columns = _check(explanations)
    tables = [
        _of_set(str(name), own, columns, n_bootstrap, seed, level)
        for name, own in explanations.groupby("feature_set", sort=False)
    ]
    return pd.concat(tables, ignore_index=True)


def _check(explanations: pd.DataFrame) -> list[str]:
    require_columns(explanations, EXPLANATION_COLUMNS, "explanation")
    columns = [name for name in explanations.columns if str(name).startswith(PERMUTED)]
    if not columns:
        raise InputError("The table of explanations has no permuted predictions.", advice="Use explain_models.")
    if explanations["y_true"].nunique() < 2:
        raise InputError("The outcome has one class only.", advice="Importance needs cases of both classes.")
    return columns


def _of_set(
    name: str, own: pd.DataFrame, columns: list[str], n_bootstrap: int, seed: int, level: float
) -> pd.DataFrame:
    keys = ["case_id", *(["lesion_id"] if "lesion_id" in own.columns else [])]
    units = own.drop_duplicates(keys).sort_values(keys, ignore_index=True)
    y = units["y_true"].to_numpy() == 1
    patient, names = pd.factorize(units["patient_id"].astype(str), sort=True)
    strata = np.zeros(len(names), dtype=np.int64)
    np.maximum.at(strata, patient, y.astype(np.int64))
    features = list(dict.fromkeys(own["feature"].astype(str)))
    predicted = [_predicted(part, units, keys, features, columns) for _, part in own.groupby("repeat", sort=True)]

    def areas(weights: FloatArray) -> FloatArray:
        """AUC of the model, then its fall for each feature; means over repeats and permutations."""
        rows = weights[patient]
        found = np.zeros((len(features) + 1, weights.shape[1]))
        for base, permuted in predicted:
            area = weighted_auc(y, base, rows)
            found[0] += area
            for j, draws in enumerate(permuted):
                if draws is not None:
                    found[j + 1] += area - np.mean([weighted_auc(y, draw, rows) for draw in draws], axis=0)
        return found / len(predicted)

    drawn = bootstrap(areas, strata, n_bootstrap=n_bootstrap, seed=seed)
    bounds = drawn.interval(level=level, kind="percentile")
    n_folds = own[["repeat", "fold"]].drop_duplicates().shape[0]
    chosen = own[["repeat", "fold", "feature"]].drop_duplicates().groupby("feature")["fold"].size()
    table = pd.DataFrame({
        "feature_set": name, "feature": features, "n_folds": n_folds, "n_chosen": chosen.loc[features].to_numpy(),
        "share_chosen": chosen.loc[features].to_numpy() / n_folds, "auc": drawn.estimate[0],
        "importance": drawn.estimate[1:], "lower": bounds[1:, 0], "upper": bounds[1:, 1],
        "mean_abs_shap": _mean_abs(own, features, len(units) * len(predicted)),
        "direction": [_direction(own[own["feature"] == feature]) for feature in features],
        "n_patients": len(names), "n_repeats": len(predicted),
        "method": f"mean over repeats and {len(columns)} permutations, percentile interval of {n_bootstrap} patient "
        "bootstraps",
    })  # fmt: skip
    return table.sort_values(["importance", "feature"], ascending=[False, True], ignore_index=True)[
        list(IMPORTANCE_COLUMNS)
    ]


def _predicted(
    part: pd.DataFrame, units: pd.DataFrame, keys: list[str], features: list[str], columns: list[str]
) -> tuple[FloatArray, list[list[FloatArray] | None]]:
    """Predictions of one repeat in the order of the units, plain and with each feature permuted."""
    index = pd.MultiIndex.from_frame(units[keys])
    plain = part.drop_duplicates(keys).set_index(keys)["y_prob"]
    plain.index = pd.MultiIndex.from_frame(plain.index.to_frame(index=False))
    base = plain.reindex(index).to_numpy(dtype=np.float64)
    if not np.isfinite(base).all():
        raise InputError("A case is not explained in every repeat.", advice="Explain whole repeats.")
    permuted: list[list[FloatArray] | None] = []
    by_feature = dict(list(part.groupby("feature")))
    for feature in features:
        rows = by_feature.get(feature)
        if rows is None:
            permuted.append(None)
            continue
        place = index.get_indexer(pd.MultiIndex.from_frame(rows[keys]))
        draws = []
        for column in columns:
            draw = base.copy()
            draw[place] = rows[column]
            draws.append(draw)
        permuted.append(draws)
    return base, permuted


def _mean_abs(own: pd.DataFrame, features: list[str], n: int) -> NDArray[np.float64]:
    """Mean absolute Shapley value over all rows; 0 where a fold did not choose the feature."""
    total = own["shap"].abs().groupby(own["feature"]).sum()
    return np.asarray(total.loc[features] / n, dtype=np.float64)


def _direction(rows: pd.DataFrame) -> float:
    """Mean over folds: each has its own background, so that values of several folds are not on one scale."""
    found = [
        float(stats.spearmanr(own["value"], own["shap"]).statistic)
        for _, own in rows.groupby(["repeat", "fold"])
        if own["value"].nunique() > 1 and own["shap"].nunique() > 1
    ]
    return float(np.mean(found)) if found else float("nan")


def choice_stability(
    explanations: pd.DataFrame, candidates: Mapping[str, int] | None = None, *, level: float = 0.95
) -> pd.DataFrame:
    """How alike the features are that the folds chose, corrected for chance.

    Parameters
    ----------
    explanations : DataFrame
        From :func:`hybrid.pipelines.explain_models`.
    candidates : mapping of str to int, optional
        Candidate columns of each feature set; by default ``explanations.attrs["candidates"]``.
    level : float
        Of the interval.

    Returns
    -------
    DataFrame
        Columns :data:`STABILITY_COLUMNS`; see :func:`hybrid.analysis.selection_stability` (Nogueira et al. 2018,
        https://jmlr.org/papers/v18/17-514.html). 1: every fold chose the same, 0: no more alike than by chance.

    Raises
    ------
    InputError
        When the number of candidates of a set is not known, or is smaller than what was chosen.
    """
    require_columns(explanations, ("feature_set", "repeat", "fold", "feature"), "explanation")
    known = dict(candidates if candidates is not None else explanations.attrs.get("candidates", {}))
    rows = []
    for name, own in explanations.groupby("feature_set", sort=False):
        chosen = pd.crosstab([own["repeat"], own["fold"]], own["feature"]).to_numpy() > 0
        if known.get(str(name), 0) < chosen.shape[1]:
            raise InputError(
                f"The number of candidate columns of {name!r} must be {chosen.shape[1]} or more; found "
                f"{known.get(str(name))}.",
                advice="Pass candidates={...}: how many columns the folds chose from.",
            )
        every = np.zeros((len(chosen), known[str(name)]), dtype=bool)
        every[:, : chosen.shape[1]] = chosen
        found = selection_stability(every, level=level)
        rows.append(
            (name, len(chosen), every.shape[1], float(chosen.sum(axis=1).mean()), chosen.shape[1], found.stability,
             found.lower, found.upper)
        )  # fmt: skip
    return pd.DataFrame(rows, columns=list(STABILITY_COLUMNS))


def plot_importance(importance: pd.DataFrame, *, ax: Axes | None = None, most: int = 12) -> Axes:
    """Draw the permutation importance of the leading features of one set, with intervals.

    Parameters
    ----------
    importance : DataFrame
        From :func:`feature_importance`, rows of one feature set.
    ax : Axes, optional
        Where to draw.
    most : int
        Features shown.

    Returns
    -------
    Axes
    """
    require_columns(importance, IMPORTANCE_COLUMNS, "importance")
    shown = importance.head(most).iloc[::-1]
    ax = ax if ax is not None else _new_axes(0.9 + 0.24 * len(shown))
    y = np.arange(len(shown))
    ax.hlines(y, shown["lower"], shown["upper"], color=COLOURS[0], linewidth=1.1)
    ax.plot(shown["importance"], y, "o", color=COLOURS[0], markersize=4)
    ax.axvline(0, color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)))
    _label_features(ax, shown["feature"])
    ax.set_xlabel("Fall of the AUC when permuted", fontsize=8)
    return ax


def plot_shap(explanations: pd.DataFrame, *, ax: Axes | None = None, most: int = 12) -> Axes:
    """Draw the Shapley values of unseen patients for the leading features of one set, coloured by the value.

    Parameters
    ----------
    explanations : DataFrame
        From :func:`hybrid.pipelines.explain_models`, rows of one feature set.
    ax : Axes, optional
        Where to draw.
    most : int
        Features shown, those with the largest sum of absolute values.

    Returns
    -------
    Axes
    """
    require_columns(explanations, EXPLANATION_COLUMNS, "explanation")
    strength = explanations["shap"].abs().groupby(explanations["feature"]).sum().sort_values(kind="stable")
    names = list(strength.index[-most:])
    ax = ax if ax is not None else _new_axes(1.1 + 0.24 * len(names))
    rng = np.random.default_rng(0)
    for i, name in enumerate(names):
        own = explanations[explanations["feature"] == name]
        shade = np.clip(own["value"], -2, 2)
        points = ax.scatter(
            own["shap"], i + rng.uniform(-0.28, 0.28, len(own)), c=shade, cmap="cividis", vmin=-2, vmax=2, s=6,
            linewidths=0, rasterized=True,
        )  # fmt: skip
    ax.axvline(0, color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)), zorder=0)
    _label_features(ax, names)
    ax.set_xlabel("Change of the probability", fontsize=8)
    bar = ax.figure.colorbar(points, ax=ax, orientation="horizontal", fraction=0.05, pad=0.02, aspect=40)
    bar.set_ticks([-2, 0, 2], labels=["low", "value", "high"])
    bar.ax.tick_params(labelsize=7, length=0)
    return ax


def _label_features(ax: Axes, names: pd.Series | list[str]) -> None:
    ax.set_yticks(range(len(names)), [_short(str(name)) for name in names])
    ax.tick_params(labelsize=7, colors=INK, width=0.7, length=3)
    ax.set_ylim(-0.6, len(names) - 0.4)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)


def _short(name: str, most: int = 34) -> str:
    """Shorten long names in the middle: both ends tell features apart."""
    plain = name.removeprefix("rad_")
    return plain if len(plain) <= most else f"{plain[: most // 2 - 1]}…{plain[-most // 2 :]}"


def _new_axes(height: float) -> Axes:
    from matplotlib import pyplot

    return pyplot.subplots(figsize=(COLUMN_WIDTH, height), layout="constrained")[1]
