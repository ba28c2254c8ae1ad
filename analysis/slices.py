"""Figures of a slice classifier: by slice, by patient, beside the published ones, with and without shortcuts.

Slices of one patient resemble each other, so that no interval here counts them as patients: the AUC has Obuchowski's
(:mod:`hybrid.analysis.clustered`), proportions, F1 and kappa resample patients (:mod:`hybrid.analysis.per_class`).

A table of slices has the columns :data:`SLICE_COLUMNS`. A patient has a finding when any slice has one; the score of a
patient is the mean of the three highest slices (:data:`TOP_SLICES`), which a single false alarm moves less than the
maximum does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from hybrid.errors import InputError, unknown_name
from hybrid.tables import require_columns

from .clustered import METHOD, clustered_auc, clustered_auc_test
from .cut_offs import optimal_cut_off
from .per_class import confusion_table, per_class_table
from .plots import COLOURS, DASHES, MUTED, _axes, _legend_below, _style
from .proportions import clustered_interval
from .resampling import FloatArray
from .roc import auc, roc_points
from .wording import with_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SLICE_COLUMNS: Final = ("case_id", "patient_id", "slice", "y_true", "probability", "prediction", "threshold")
"""Columns of a table of slices. ``y_true`` (empty where unknown) and ``prediction`` are class names, ``probability`` is
that of any finding (NaN, and an empty prediction, where the file could not be read), and a slice is called positive
when it is at least ``threshold``. Further columns may follow."""

PATIENT_COLUMNS: Final = (
    "patient_id", "n_slices", "n_failed", "n_called", "y_true", "probability", "prediction", "threshold",
)  # fmt: skip
"""Columns of a table of patients: slices, slices that could not be read, slices called positive, and as in
:data:`SLICE_COLUMNS`."""

FIGURE_COLUMNS: Final = ("level", "class", "metric", "value", "low", "high", "method", "n", "n_patients", "note")
"""Columns of :func:`slice_figures`: ``level`` is slice or patient, ``n`` the rows behind a figure."""

TOP_SLICES: Final = 3
"""The score of a patient is the mean of so many highest slices."""

FINDING: Final = "finding"
NO_FINDING: Final = "no finding"
"""Names of the classes of a patient."""

NEGATIVE_NAMES: Final = ("0", "no", "none", "normal", "negative", "false", "no finding", "no_finding", "healthy")
"""Class names that mean that nothing was found, in small letters."""

DEFAULT_THRESHOLD: Final = 0.5
"""Used where no labelled tuning slices can choose a better one."""

PUBLISHED: Final = (
    (FINDING, "precision", 0.838), (NO_FINDING, "precision", 0.973), (FINDING, "recall", 0.961),
    (NO_FINDING, "recall", 0.883), (FINDING, "f1", 0.896), (NO_FINDING, "f1", 0.926), (FINDING, "auc", 0.99),
)  # fmt: skip
"""Figures of Zhang et al., J Pract Radiol 2020(10):1670-1675: 361 abnormal and 573 normal slices of non-contrast head
CT, ResNet-50, split by image. Printed there without intervals; the AUC is a mean."""

PUBLISHED_SOURCE: Final = (
    "Zhang et al., J Pract Radiol 2020(10):1670–1675: 934 test slices (361 with a finding), split by image, so that "
    "slices of one patient were trained and tested on; other images than ours, not a contest"
)

_NAMES: Final = {"ppv": "precision", "sensitivity": "recall"}


def negative_class(classes: Sequence[str], negative: str | None = None) -> str:
    """Class that means that nothing was found.

    Parameters
    ----------
    classes : sequence of str
        All classes of a classifier.
    negative : str, optional
        Name it; None takes the one class whose name says so (:data:`NEGATIVE_NAMES`).

    Returns
    -------
    str
        One of ``classes``.

    Raises
    ------
    InputError
        For an unknown name, or when none or several names say so.
    """
    if negative is not None:
        if negative not in classes:
            raise unknown_name("class", negative, classes)
        return negative
    found = [name for name in classes if name.strip().lower() in NEGATIVE_NAMES]
    if len(found) != 1:
        raise InputError(
            f"Which of the classes {', '.join(classes)} means that nothing was found cannot be told from their names.",
            advice="Say it: negative='...' (on the command line --negative).",
        )
    return found[0]


def choose_threshold(is_positive: Sequence[bool] | np.ndarray, probability: Sequence[float] | np.ndarray) -> float:
    """Threshold with the largest Youden index, to be called on tuning slices (never on test slices).

    Parameters
    ----------
    is_positive : array-like of bool, shape (n,)
        Which slices have a finding.
    probability : array-like of float, shape (n,)
        Of a finding.

    Returns
    -------
    float
        Midway between two observed values; :data:`DEFAULT_THRESHOLD` without slices of both classes, and for a score
        that no threshold makes useful.
    """
    outcome = np.asarray(is_positive, dtype=bool)
    if not outcome.any() or outcome.all():
        return DEFAULT_THRESHOLD
    found = optimal_cut_off(outcome.astype(int), np.asarray(probability, dtype=float), thresholds="midpoint").cut_off
    return float(found) if np.isfinite(found) else DEFAULT_THRESHOLD


def check_slices(slices: pd.DataFrame) -> pd.DataFrame:
    """Check a table of slices; unknown classes become empty texts.

    Raises
    ------
    InputError
        When a column is missing or a slice occurs twice.
    """
    require_columns(slices, SLICE_COLUMNS, "slices")
    doubled = slices.duplicated(["case_id", "slice"])
    if doubled.any():
        row = slices[doubled].iloc[0]
        raise InputError(
            f"Slice {row['slice']} stands in several rows of the table of slices.",
            advice="Leave one row for each slice.",
            case_id=str(row["case_id"]),
        )
    texts = {name: slices[name].fillna("").astype(str) for name in ("y_true", "prediction")}
    return slices.assign(**texts, probability=slices["probability"].astype(float)).reset_index(drop=True)


def labelled(slices: pd.DataFrame) -> pd.DataFrame:
    """Rows whose true class is known, of a table that :func:`check_slices` returned."""
    return slices[slices["y_true"] != ""].reset_index(drop=True)


def scored(slices: pd.DataFrame) -> pd.DataFrame:
    """Labelled rows that have a probability."""
    known = labelled(check_slices(slices))
    return known[np.isfinite(known["probability"])].reset_index(drop=True)


def aggregate_patients(
    slices: pd.DataFrame,
    *,
    negative: str,
    threshold: float,
    top: int = TOP_SLICES,
    labels: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """One row per patient from a table of slices.

    Parameters
    ----------
    slices : DataFrame
        Columns :data:`SLICE_COLUMNS`; slices of all volumes of a patient are taken together.
    negative : str
        Class that means that nothing was found.
    threshold : float
        A patient is called positive when the score is at least this.
    top : int
        Number of slices that the score is the mean of; all where there are fewer.
    labels : mapping of str to str, optional
        Class of patients known from elsewhere, for example of a whole volume whose slices have no labels.

    Returns
    -------
    DataFrame
        Columns :data:`PATIENT_COLUMNS`, sorted by patient. ``y_true`` is :data:`FINDING` when any slice has a finding,
        :data:`NO_FINDING` when every slice is known to have none, else empty.

    Raises
    ------
    InputError
        For fewer than one slice in the mean; else see :func:`check_slices`.
    """
    if top < 1:
        raise InputError(f"The score of a patient is the mean of at least one slice; found {top}.")
    rows = []
    for patient, own in check_slices(slices).groupby("patient_id", sort=True):
        scores = np.sort(own["probability"].dropna().to_numpy())[::-1]
        known, failed = own["y_true"] != "", own["probability"].isna()
        has_finding = bool((known & (own["y_true"] != negative)).any())
        truth = FINDING if has_finding else NO_FINDING if known.all() else ""
        given = (labels or {}).get(str(patient))
        truth = truth if truth or given is None else NO_FINDING if given == negative else FINDING
        score = float(scores[:top].mean()) if scores.size else np.nan
        called = "" if np.isnan(score) else FINDING if score >= threshold else NO_FINDING
        n_called = int(((own["prediction"] != negative) & ~failed).sum())
        rows.append((patient, len(own), int(failed.sum()), n_called, truth, score, called, threshold))
    return pd.DataFrame(rows, columns=list(PATIENT_COLUMNS))


def slice_figures(
    slices: pd.DataFrame,
    patients: pd.DataFrame,
    classes: Sequence[str],
    *,
    negative: str,
    level: float = 0.95,
    n_bootstrap: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Figures of the labelled slices and patients, in one long table.

    Parameters
    ----------
    slices, patients : DataFrame
        Columns :data:`SLICE_COLUMNS` and :data:`PATIENT_COLUMNS`; rows without a label are left out.
    classes : sequence of str
        Classes of the slices.
    negative : str
        Class that means that nothing was found.
    level, n_bootstrap, seed
        Of the intervals.

    Returns
    -------
    DataFrame
        Columns :data:`FIGURE_COLUMNS`: those of :func:`hybrid.analysis.per_class_table` (``ppv`` is called precision
        and ``sensitivity`` recall, as published) and the AUC of any finding for each level.

    Raises
    ------
    InputError
        When no slice is labelled.
    """
    known = labelled(check_slices(slices))
    if known.empty:
        raise InputError("No slice has a label, so there are no figures.", advice="Add a column 'label'.")
    options: dict[str, Any] = {"level": level, "n_bootstrap": n_bootstrap, "seed": seed}
    parts = [_level_figures("slice", known, classes, negative, options)]
    own = patients[patients["y_true"] != ""]
    if len(own):
        parts.append(_level_figures("patient", own, (NO_FINDING, FINDING), NO_FINDING, options))
    return pd.concat(parts, ignore_index=True)


def _level_figures(
    name: str, rows: pd.DataFrame, classes: Sequence[str], negative: str, options: Mapping[str, Any]
) -> pd.DataFrame:
    table = per_class_table(rows.rename(columns={"prediction": "y_pred"}), list(classes), **options)
    seen = rows[np.isfinite(rows["probability"])]
    area = area_row(seen["y_true"] != negative, seen["probability"], seen["patient_id"], level=options["level"])
    found = next(name for name in classes if name != negative) if len(classes) == 2 else FINDING
    whole = pd.concat([table, pd.DataFrame([{"class": found, "metric": "auc", **area}])], ignore_index=True)
    return whole.assign(level=name, metric=whole["metric"].replace(_NAMES), note=whole["note"].fillna(""))[
        list(FIGURE_COLUMNS)
    ]


def area_row(
    is_positive: pd.Series | np.ndarray, score: pd.Series | np.ndarray, patients: pd.Series, *, level: float = 0.95
) -> dict[str, Any]:
    """AUC with Obuchowski's interval as far as the data allow: ``value, low, high, method, n, n_patients``."""
    outcome = np.asarray(is_positive, dtype=bool)
    values = np.asarray(score, dtype=float)
    row: dict[str, Any] = {"value": np.nan, "low": np.nan, "high": np.nan, "method": METHOD, "n": outcome.size}
    row["n_patients"] = int(pd.Series(patients).nunique())
    if not outcome.any() or outcome.all():
        return {**row, "method": "not defined: one class only"}
    try:
        found = clustered_auc(outcome.astype(int), values, patients, level=level)
    except InputError:
        return {**row, "value": auc(outcome.astype(int), values), "method": "no interval: fewer than two patients"}
    return {**row, "value": found.auc, "low": found.lower, "high": found.upper}


def figure(figures: pd.DataFrame, level: str, metric: str, label: str | None = None) -> pd.Series | None:
    """Row of :func:`slice_figures`, or None."""
    rows = figures[(figures["level"] == level) & (figures["metric"] == metric)]
    rows = rows if label is None else rows[rows["class"] == label]
    return rows.iloc[0] if len(rows) else None


def published_table(figures: pd.DataFrame, classes: Sequence[str], negative: str) -> pd.DataFrame:
    """Put published figures beside ours, for a classifier with two classes.

    Returns
    -------
    DataFrame
        ``class, metric, published, value, low, high``; see :data:`PUBLISHED`. Empty for more than two classes.
    """
    columns = ["class", "metric", "published", "value", "low", "high"]
    if len(classes) != 2:
        return pd.DataFrame(columns=columns)
    own = {NO_FINDING: negative, FINDING: next(name for name in classes if name != negative)}
    rows = []
    for name, metric, value in PUBLISHED:
        row = figure(figures, "slice", metric, own[name])
        ours = [np.nan] * 3 if row is None else [row["value"], row["low"], row["high"]]
        rows.append((own[name], metric, value, *ours))
    return pd.DataFrame(rows, columns=columns)


def compare_baselines(
    slices: pd.DataFrame, baselines: pd.DataFrame, *, negative: str, name: str = "Network", level: float = 0.95
) -> pd.DataFrame:
    """AUC of the network and of trivial models on the same labelled slices.

    Parameters
    ----------
    slices : DataFrame
        Columns :data:`SLICE_COLUMNS`.
    baselines : DataFrame
        ``model, case_id, slice, probability``: what each trivial model gives to these slices.
    negative : str
        Class that means that nothing was found.
    name : str
        Of the network.
    level : float
        Of the intervals.

    Returns
    -------
    DataFrame
        ``model, auc, low, high, difference, difference_low, difference_high, p, n, n_patients``; differences are
        network minus model, by the paired clustered test on the slices that both have.
    """
    known = scored(slices)
    own = area_row(known["y_true"] != negative, known["probability"], known["patient_id"], level=level)
    rows = [{"model": name, "auc": own["value"], **{key: own[key] for key in ("low", "high", "n", "n_patients")}}]
    for model, scores in baselines.groupby("model", sort=False):
        both = known.merge(scores[["case_id", "slice", "probability"]], on=["case_id", "slice"], suffixes=("", "_2"))
        both = both[np.isfinite(both["probability_2"])]
        positive = (both["y_true"] != negative).to_numpy()
        area = area_row(positive, both["probability_2"], both["patient_id"], level=level)
        row = {"model": model, "auc": area["value"], **{k: area[k] for k in ("low", "high", "n", "n_patients")}}
        if np.isfinite(area["low"]):
            test = clustered_auc_test(
                positive.astype(int), both["probability"], both["probability_2"], both["patient_id"], level=level
            )
            row |= {
                "difference": test.difference, "difference_low": test.lower, "difference_high": test.upper, "p": test.p,
            }  # fmt: skip
        rows.append(row)
    columns = [
        "model", "auc", "low", "high", "difference", "difference_low", "difference_high", "p", "n", "n_patients",
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def split_row(
    predictions: pd.DataFrame, *, split_by: str, negative: str, shared_patients: int, level: float = 0.95
) -> dict[str, Any]:
    """Test figures of one way to split, for the table of inflated and honest figures.

    Parameters
    ----------
    predictions : DataFrame
        Columns :data:`SLICE_COLUMNS` of the test slices.
    split_by : {"patient", "image"}
        How the split was made.
    negative : str
        Class that means that nothing was found.
    shared_patients : int
        Test patients who also have training or tuning slices.
    level : float
        Of the interval of the AUC.

    Returns
    -------
    dict
        ``split_by, n_slices, n_patients, n_shared_patients, auc, low, high, accuracy, precision, recall, f1`` (of a
        finding, at the threshold of the tuning slices).
    """
    known = scored(predictions)
    truth, called = known["y_true"] != negative, known["prediction"] != negative
    area = area_row(truth, known["probability"], known["patient_id"], level=level)
    tp = float((truth & called).sum())
    precision, recall = _share(tp, float(called.sum())), _share(tp, float(truth.sum()))
    return {
        "split_by": split_by, "n_slices": len(known), "n_patients": area["n_patients"],
        "n_shared_patients": shared_patients, "auc": area["value"], "low": area["low"], "high": area["high"],
        "accuracy": float((truth == called).mean()), "precision": precision, "recall": recall,
        "f1": _share(2 * tp, float(called.sum() + truth.sum())),
    }  # fmt: skip


def _share(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")


def pointing_table(rows: pd.DataFrame, *, n_bootstrap: int = 2000, seed: int = 0, level: float = 0.95) -> pd.DataFrame:
    """Pointing score of saliency maps with an interval that respects several slices per patient.

    Parameters
    ----------
    rows : DataFrame
        One row per map: ``patient_id``, ``kind`` (true positive, false negative), ``layer``, ``hit``, ``distance_mm``,
        ``chance`` and ``centre_hit`` (see :func:`hybrid.deep.saliency.pointing_score`).
    n_bootstrap, seed, level
        Of the interval.

    Returns
    -------
    DataFrame
        ``kind, layer, n, n_patients, hits, score, low, high, method, median_distance_mm, chance, centre``: share of
        maps whose maximum lies in the lesion or near it, beside what random points and the middle of the image reach.
    """
    found = []
    for (kind, layer), own in rows.groupby(["kind", "layer"], sort=False):
        hits = own["hit"].to_numpy(dtype=float)
        low, high, method = clustered_interval(hits, own["patient_id"], n_boot=n_bootstrap, seed=seed, level=level)
        found.append({
            "kind": kind, "layer": layer, "n": len(own), "n_patients": int(own["patient_id"].nunique()),
            "hits": int(hits.sum()), "score": float(hits.mean()), "low": low, "high": high, "method": method,
            "median_distance_mm": float(own["distance_mm"].median()), "chance": float(own["chance"].mean()),
            "centre": float(own["centre_hit"].astype(float).mean()),
        })  # fmt: skip
    columns = [
        "kind", "layer", "n", "n_patients", "hits", "score", "low", "high", "method", "median_distance_mm", "chance",
        "centre",
    ]  # fmt: skip
    return pd.DataFrame(found, columns=columns)


def confusion_counts(slices: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """Labelled slices by true class (rows) and predicted class (columns); slices without an answer have their own."""
    table = confusion_table(labelled(check_slices(slices)).rename(columns={"prediction": "y_pred"}), list(classes))
    wide = table.pivot(index="y_true", columns="y_pred", values="n")
    return wide.loc[list(classes), list(dict.fromkeys(table["y_pred"]))]


def slice_curves(
    slices: pd.DataFrame, patients: pd.DataFrame, *, negative: str, baselines: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Points of the ROC curves of slices, patients and trivial models.

    Returns
    -------
    DataFrame
        ``curve, threshold, sensitivity, specificity, auc, low, high``; curves with one class only are left out.
    """
    known = scored(slices)
    people = patients[(patients["y_true"] != "") & patients["probability"].notna()]
    sources = [
        ("Slices", known["y_true"] != negative, known["probability"], known["patient_id"]),
        ("Patients", people["y_true"] == FINDING, people["probability"], people["patient_id"]),
    ]
    for model, own in baselines.groupby("model", sort=False) if baselines is not None else ():
        both = known.merge(own[["case_id", "slice", "probability"]], on=["case_id", "slice"], suffixes=("", "_2"))
        both = both[np.isfinite(both["probability_2"])]
        sources.append((str(model), both["y_true"] != negative, both["probability_2"], both["patient_id"]))
    tables = []
    for name, positive, score, owners in sources:
        row = area_row(positive, score, owners)
        if np.isfinite(row["value"]):
            points = roc_points(np.asarray(positive).astype(int), np.asarray(score, dtype=float))
            tables.append(points[["threshold", "sensitivity", "specificity"]].assign(
                curve=name, auc=row["value"], low=row["low"], high=row["high"]
            ))  # fmt: skip
    columns = ["curve", "threshold", "sensitivity", "specificity", "auc", "low", "high"]
    return pd.concat(tables, ignore_index=True)[columns] if tables else pd.DataFrame(columns=columns)


def plot_slice_roc(curves: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the table of :func:`slice_curves`; the legend, with AUC and interval, stands below the axes."""
    ax = _axes(ax, height=4.1)
    for number, (name, own) in enumerate(curves.groupby("curve", sort=False)):
        first = own.iloc[0]
        text = f"{name}: {with_interval(first['auc'], first['low'], first['high'], 3)}"
        points = own.sort_values(["sensitivity", "specificity"], ascending=[True, False])
        ax.plot(
            1 - points["specificity"], points["sensitivity"], color=COLOURS[number % 8], linestyle=DASHES[number % 4],
            linewidth=1.6, label=text,
        )  # fmt: skip
    ax.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)), label="Chance")
    ax.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal", xlabel="1 − specificity", ylabel="Sensitivity")
    _style(ax)
    _legend_below(ax, title="AUC (95 % interval)")
    return ax


def plot_counts(counts: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw a confusion matrix: counts and the share of each true class."""
    ax = _axes(ax, height=3.2)
    values: FloatArray = counts.to_numpy(dtype=float)
    totals = values.sum(axis=1, keepdims=True)
    shares = np.divide(values, totals, out=np.zeros_like(values), where=totals > 0)
    ax.imshow(shares, cmap="Blues", vmin=0, vmax=1.25)
    for (row, column), share in np.ndenumerate(shares):
        ax.text(
            column, row, f"{int(values[row, column])}\n{100 * share:.1f} %", ha="center", va="center", fontsize=9,
            color="white" if share > 0.6 else "#222222",
        )  # fmt: skip
    ax.set_xticks(range(len(counts.columns)), counts.columns)
    ax.set_yticks(range(len(counts.index)), counts.index)
    ax.set(xlabel="Predicted", ylabel="True")
    _style(ax)
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)
    return ax
