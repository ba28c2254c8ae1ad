"""One self-contained HTML report about a classifier of sequences: how good it is, or what it said of a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hybrid.errors import InputError
from hybrid.files import write_text
from hybrid.tables import require_columns

from .figures import Album, Picture, write_tables
from .multiclass_part import multiclass_table, multiclass_view
from .pages import render
from .per_class import (
    OVERALL,
    PER_CLASS_METRICS,
    Abstention,
    confusion_table,
    coverage_table,
    per_class_table,
    per_group_table,
)
from .plots import COLOURS, DASHES, INK, MUTED, _axes, _legend_below, _style
from .views import METRIC_NAMES, Cell, Row, View
from .wording import interval, joined, number, settings_text, versions_text, with_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SETS: Final = {"test": "Internal test", "external": "Held-out centre"}
"""Sets of images that are judged, by the value of ``split``."""

NETWORK: Final = "network"
HISTOGRAM: Final = "histogram"
MODELS: Final = {NETWORK: "Network", HISTOGRAM: "Histogram only"}
TOO_EASY: Final = 0.99
"""From this accuracy on a histogram solves the task, and the network's figures show little."""

DISAGREEMENT_COLUMNS: Final = ("series", "class", "confidence", "decision", "tag_class", "tag_reason")
MAX_ROWS: Final = 60
COLUMNS_OF_THUMBNAILS: Final = 4


@dataclass(frozen=True)
class Thumbnail:
    """A slice of a series.

    Attributes
    ----------
    title, text : str
        The series, and what was said of it.
    pixels : ndarray of shape (rows, columns)
        Any unit.
    aspect : float
        Height of a pixel over its width.
    """

    title: str
    text: str
    pixels: NDArray[Any]
    aspect: float = 1.0


class SequenceReport:
    """What a classifier of sequences is worth (``predictions``), or what it said of new series (``series``), or both.

    Parameters
    ----------
    predictions : DataFrame, optional
        Labelled images of the splits ``test`` and ``external`` (others are left out): ``patient_id, site, split,
        y_true, y_pred, confidence, y_prob_<class>``.
    baseline : DataFrame, optional
        The same images as a classifier saw them that knows the histogram of grey values alone.
    series : DataFrame, optional
        From :func:`hybrid.pipelines.identify_sequences`.
    classes : sequence of str
        In the order of the tables.
    threshold : float
        Confidence below which the classifier abstains.
    abstention : Abstention, optional
        How the threshold was chosen.
    thumbnails : sequence of Thumbnail
        Slices of the series that a reader should look at.
    title : str
        Heading.
    simulated : bool
        Said at the top.
    run_record : mapping, optional
        Settings and versions.
    n_boot, seed : int
        Of all bootstrap intervals.

    Raises
    ------
    InputError
        Without predictions and series, or without an image of a judged split.
    """

    def __init__(
        self,
        *,
        predictions: pd.DataFrame | None = None,
        baseline: pd.DataFrame | None = None,
        series: pd.DataFrame | None = None,
        classes: Sequence[str],
        threshold: float = 0.0,
        abstention: Abstention | None = None,
        thumbnails: Sequence[Thumbnail] = (),
        title: str = "Which sequence is this?",
        simulated: bool = False,
        run_record: Mapping[str, Any] | None = None,
        n_boot: int = 2000,
        seed: int = 0,
    ) -> None:
        if predictions is None and series is None:
            raise InputError("A report needs labelled predictions or a table of series.")
        self.predictions = None if predictions is None else _judged(predictions)
        self.baseline = None if baseline is None or predictions is None else _judged(baseline)
        self.series, self.classes, self.threshold = series, tuple(classes), threshold
        self.abstention, self.thumbnails, self.title = abstention, tuple(thumbnails), title
        self.simulated, self.record = simulated, dict(run_record or {})
        self._settings: dict[str, Any] = {"n_bootstrap": n_boot, "seed": seed}

    @property
    def sets(self) -> dict[str, str]:
        """Judged sets with their names."""
        there = set() if self.predictions is None else set(self.predictions["split"])
        names = dict(SETS)
        if self.predictions is not None and "external" in there:
            outside = self.predictions.loc[self.predictions["split"] == "external", "site"].dropna().astype(str)
            sites = sorted(set(outside) - {"", "None", "nan"})
            names["external"] = f"Held-out centre {joined(sites)}" if sites else "External"
        return {split: name for split, name in names.items() if split in there}

    @cached_property
    def per_class(self) -> pd.DataFrame:
        """:func:`~hybrid.analysis.per_class.per_class_table` of every set and model."""
        parts = [
            per_class_table(rows[rows["split"] == split], self.classes, **self._settings).assign(
                split=split, model=model
            )
            for model, rows in ((NETWORK, self.predictions), (HISTOGRAM, self.baseline))
            if rows is not None
            for split in self.sets
        ]
        table = pd.concat(parts, ignore_index=True)
        return table[["split", "model", *(name for name in table.columns if name not in ("split", "model"))]]

    @cached_property
    def multiclass(self) -> pd.DataFrame:
        """:func:`~hybrid.analysis.multiclass_part.multiclass_table` of every set and model, where it is defined."""
        parts = [
            multiclass_table(rows[rows["split"] == split], self.classes, **self._settings).assign(
                split=split, model=model
            )
            for model, rows in ((NETWORK, self.predictions), (HISTOGRAM, self.baseline))
            if rows is not None
            for split in self.sets
        ]
        return pd.concat([part for part in parts if len(part)], ignore_index=True) if parts else pd.DataFrame()

    def tables(self) -> dict[str, pd.DataFrame]:
        """Every table behind the report, unrounded, by the name of its file."""
        tables: dict[str, pd.DataFrame] = {}
        if self.predictions is not None:
            tables["per_class"] = self.per_class
            parts = {split: self.predictions[self.predictions["split"] == split] for split in self.sets}
            tables["confusion"] = _stacked({s: confusion_table(rows, self.classes) for s, rows in parts.items()})
            tables["coverage"] = _stacked({split: coverage_table(rows) for split, rows in parts.items()})
            if len(self.multiclass):
                tables["multiclass"] = self.multiclass
            if self.predictions["site"].notna().any():
                tables["per_centre"] = _stacked(
                    {s: per_group_table(rows, self.classes, **self._settings) for s, rows in parts.items()}
                )
        if self.series is not None:
            tables["disagreements"] = disagreements(self.series)
        return tables

    def save(self, path: str | Path) -> Path:
        """Write the report, ``tables/*.csv`` and ``figures/`` beside it.

        Returns
        -------
        Path
            The same path.
        """
        path, tables = Path(path), self.tables()
        write_tables(tables, path)
        page = render(
            "sequence.html.j2", title=self.title, simulated=self.simulated, sentences=self.sentences(),
            sets=[self._class_view(split) for split in self.sets], beside=self._beside_view(),
            areas=self._areas_view(),
            centres=self._centre_view(tables.get("per_centre")), answering=self._answering_view(),
            counts=self._counts_view(), listing=self._series_view(), disagreeing=self._disagreement_view(),
            pictures=self._pictures(path.parent / "figures", tables), methods=self._methods(),
            settings=settings_text(self.record),
            versions=versions_text(self.record.get("versions")),
            files=sorted(tables),
        )  # fmt: skip
        return write_text(page, path)

    # Sentences

    def sentences(self) -> list[str]:
        """First sentences of the report."""
        said = []
        if self.predictions is not None:
            said += [self._set_sentence(split) for split in self.sets]
            if self.baseline is not None:
                said.append(self._baseline_sentence())
        if self.series is not None:
            said.append(self._series_sentence(self.series))
        return said

    def _value(self, split: str, metric: str, *, model: str = NETWORK, name: str = OVERALL) -> pd.Series:
        own = self.per_class
        rows = own[
            (own["split"] == split) & (own["model"] == model) & (own["class"] == name) & (own["metric"] == metric)
        ]
        return rows.iloc[0]

    def _set_sentence(self, split: str) -> str:
        accuracy, kappa = self._value(split, "accuracy"), self._value(split, "kappa")
        patients = "patient" if accuracy["n_patients"] == 1 else "patients"
        where = {"test": "Of patients who were not used for training", "external": f"At the {_lower(self.sets[split])}"}
        right = round(accuracy["value"] * accuracy["n"])
        return (
            f"{where[split]}, the network named {right} of {accuracy['n']} series ({accuracy['n_patients']} "
            f"{patients}) correctly: accuracy {_cell(accuracy)}, kappa {_cell(kappa)}."
        )

    def _baseline_sentence(self) -> str:
        found = {split: self._value(split, "accuracy", model=HISTOGRAM) for split in self.sets}
        parts = [f"{_cell(row)} ({_lower(self.sets[split])})" for split, row in found.items()]
        easy = [row["value"] >= TOO_EASY for row in found.values()]
        judgement = (
            " That is nearly everything: this task is too easy to show what the network adds." if any(easy) else ""
        )
        return f"A logistic regression on the histogram of grey values alone reaches {joined(parts)}.{judgement}"

    def _series_sentence(self, series: pd.DataFrame) -> str:
        counts = series["decision"].value_counts()
        parts = [f"{counts.get('accepted', 0)} named with enough confidence"]
        parts += [
            f"{counts[name]} {text}"
            for name, text in (
                ("abstained", "to be looked at (confidence below the threshold)"),
                ("unreadable", "unreadable"),
                ("no scan", "no scan"),
            )
            if counts.get(name, 0)
        ]
        n = len(disagreements(series))
        tags = f"The DICOM tags say something else for {n}." if n else "No DICOM tag says anything else."
        if not series["agrees"].notna().any():
            tags = "No DICOM tags were there to compare with."
        return f"{len(series)} series: {joined(parts)}. {tags}"

    # Tables as shown

    def _class_view(self, split: str) -> View:
        own = self.per_class[(self.per_class["split"] == split) & (self.per_class["model"] == NETWORK)]
        rows = [self._class_row(own, name) for name in (*self.classes, OVERALL)]
        accuracy = self._value(split, "accuracy")
        notes = own[own["note"] != ""]
        note = "Every class against the rest; the last line is all classes together. "
        if notes["value"].isna().any():
            note += "A dash: not defined, because no image is, or was called, of the class. "
        if notes["value"].notna().any():
            note += "Some values rest on fewer than 10 images or 5 patients: see tables/per_class.csv."
        caption = f"{self.sets[split]}: {accuracy['n']} series of {accuracy['n_patients']} patients, 95 % CI below"
        columns = ["Class", "Series", *(METRIC_NAMES[name] for name in PER_CLASS_METRICS)]
        return View(caption, columns, rows, note=note)

    def _class_row(self, own: pd.DataFrame, name: str) -> Row:
        found = own[own["class"] == name].set_index("metric")
        n = found.loc["accuracy" if name == OVERALL else "sensitivity", "n"]
        cells = [Cell("All classes" if name == OVERALL else name), Cell(str(n))]
        for metric in PER_CLASS_METRICS:
            if metric in found.index:
                row = found.loc[metric]
                cells.append(Cell(number(row["value"], 3), interval(row["low"], row["high"], 3)))
            else:
                cells.append(Cell(""))
        return Row(cells, "strong" if name == OVERALL else "")

    def _beside_view(self) -> View | None:
        """F1 of every class, and overall accuracy, of the network beside the histogram."""
        if self.baseline is None:
            return None
        rows = []
        for name, metric in [*((name, "f1") for name in self.classes), (OVERALL, "accuracy"), (OVERALL, "kappa")]:
            label = f"{name}: F1" if name != OVERALL else f"All classes: {METRIC_NAMES[metric].lower()}"
            cells = [Cell(label)]
            for split in self.sets:
                for model in MODELS:
                    row = self._value(split, metric, model=model, name=name)
                    cells.append(Cell(number(row["value"], 3), interval(row["low"], row["high"], 3)))
            rows.append(Row(cells, "strong" if name == OVERALL else ""))
        columns = ["", *(f"{text}: {_lower(MODELS[m])}" for text in self.sets.values() for m in MODELS)]
        note = "Histogram only: logistic regression on the histogram of the grey values of each volume; no anatomy."
        return View("Beside a histogram", columns, rows, note=note)

    def _areas_view(self) -> View | None:
        """Hand and Till's M and one class against the rest, of every set and model."""
        table = self.multiclass
        if table.empty:
            return None
        several = table["model"].nunique() > 1
        columns = {
            f"{text}: {_lower(MODELS[model])}" if several else text: own
            for split, text in self.sets.items()
            for model in MODELS
            if len(own := table[(table["split"] == split) & (table["model"] == model)])
        }
        return multiclass_view(columns, "Discrimination without a threshold, 95 % CI below")

    def _centre_view(self, table: pd.DataFrame | None) -> View | None:
        if table is None:
            return None
        rows = []
        for (split, site), own in table.groupby(["split", "site"], sort=False):
            found = own[own["class"] == OVERALL].set_index("metric")
            weakest = own[own["metric"] == "f1"].dropna(subset="value").sort_values("value").iloc[0]
            accuracy, kappa = found.loc["accuracy"], found.loc["kappa"]
            rows.append(Row([
                Cell(str(site)), Cell(self.sets[split] if split == "test" else "Held out"), Cell(str(accuracy["n"])),
                Cell(str(accuracy["n_patients"])),
                Cell(number(accuracy["value"], 3), interval(accuracy["low"], accuracy["high"], 3)),
                Cell(number(kappa["value"], 3), interval(kappa["low"], kappa["high"], 3)),
                Cell(number(weakest["value"], 3), str(weakest["class"])),
            ]))  # fmt: skip
        columns = ["Centre", "Set", "Series", "Patients", "Accuracy", "Kappa", "Lowest F1"]
        return View("By centre, 95 % CI below", columns, rows, n_names=2)

    def _answering_view(self) -> View | None:
        """Coverage and accuracy at the threshold, in every set."""
        chosen = self.abstention
        if self.predictions is None or chosen is None:
            return None
        rows = [
            Row([
                Cell("Tuning (threshold chosen here)"), Cell(f"{100 * chosen.coverage:.1f} %"), Cell(str(chosen.n)),
                Cell(number(chosen.accuracy, 3), interval(chosen.low, chosen.high, 3)),
            ])
        ]  # fmt: skip
        for split, name in self.sets.items():
            own = self.predictions[self.predictions["split"] == split]
            answered = own[own["confidence"] >= self.threshold]
            value = Cell("–")
            if len(answered):
                table = per_class_table(answered, self.classes, **self._settings)
                row = table[(table["class"] == OVERALL) & (table["metric"] == "accuracy")].iloc[0]
                value = Cell(number(row["value"], 3), interval(row["low"], row["high"], 3))
            share = f"{100 * len(answered) / len(own):.1f} %"
            rows.append(Row([Cell(name), Cell(share), Cell(str(len(answered))), value]))
        note = f"Wanted accuracy: {chosen.wanted:g}." + (f" Note: {chosen.note}." if chosen.note else "")
        text = (
            "Every series is answered"
            if chosen.threshold is None
            else f"Answered from a confidence of {chosen.threshold:.3f}"
        )
        return View(f"{text}, 95 % CI below", ["Set", "Answered", "Series", "Accuracy of the answers"], rows, note=note)

    def _counts_view(self) -> View | None:
        if self.series is None:
            return None
        named = self.series[self.series["class"] != ""]
        rows = []
        for name in self.classes:
            own = named[named["class"] == name]
            accepted = int((own["decision"] == "accepted").sum())
            rows.append(Row([
                Cell(name), Cell(str(accepted)), Cell(str(len(own) - accepted)),
                Cell(number(own["confidence"].median(), 3) if len(own) else "–"),
            ]))  # fmt: skip
        columns = ["Class", "Accepted", "Below the threshold", "Median confidence"]
        return View(f"Series by class, threshold {self.threshold:.3f}", columns, rows)

    def _series_view(self) -> View | None:
        if self.series is None:
            return None
        rows = [
            Row([
                Cell(str(row["series"]), str(row["note"])), Cell(str(row["class"]) or "–"),
                Cell(number(row["confidence"], 3)), Cell(str(row["decision"])), Cell(str(row["tag_class"]) or "–"),
            ], "strong" if row["agrees"] is False or row["decision"] == "abstained" else "")
            for row in self.series.head(MAX_ROWS).to_dict("records")
        ]  # fmt: skip
        hidden = len(self.series) - len(rows)
        note = f"{hidden} more series are in series.csv. " if hidden > 0 else ""
        note += "Marked: the confidence is below the threshold, or the tags disagree."
        columns = ["Series", "Pixels say", "Confidence", "Decision", "Tags say"]
        return View("Every series", columns, rows, note=note, n_names=2)

    def _disagreement_view(self) -> View | None:
        if self.series is None or not len(found := disagreements(self.series)):
            return None
        rows = [
            Row([
                Cell(row["series"]), Cell(row["class"]), Cell(number(row["confidence"], 3)), Cell(row["tag_class"]),
                Cell(row["tag_reason"]),
            ])
            for row in found.head(MAX_ROWS).to_dict("records")
        ]  # fmt: skip
        columns = ["Series", "Pixels say", "Confidence", "Tags say", "Because of"]
        note = (
            "Either may be wrong: headers are typed and copied by people, and classifiers err on what they never saw."
        )
        return View("Pixels and DICOM tags disagree", columns, rows, note=note, n_names=2)

    # Figures

    def _pictures(self, folder: Path, tables: Mapping[str, pd.DataFrame]) -> dict[str, Picture]:
        album, captions = Album(folder), {}
        for split, name in self.sets.items():
            own = tables["confusion"][tables["confusion"]["split"] == split]
            key = f"confusion_{split}"
            album.add(key, partial(_draw_confusion, own), height=3.3, alt=f"Confusion matrix, {_lower(name)}")
            captions[key] = f"{name}: series by true class and by the class that the network gave."
        if "coverage" in tables:
            draw = partial(_draw_coverage, tables["coverage"], self.sets, self.threshold)
            album.add("coverage", draw, height=3.3, alt="Accuracy against coverage")
            captions["coverage"] = (
                "Accuracy of the answered series against their share, while the threshold on the confidence falls. "
                "Circles: the threshold in use."
            )
        if self.thumbnails:
            album.add_figure("thumbnails", plot_thumbnails(self.thumbnails), alt="Middle slices of doubtful series")
            captions["thumbnails"] = "Middle slices of the series to look at: class and confidence."
        return album.with_captions(**captions)

    def _methods(self) -> list[tuple[str, str]]:
        said = [
            (
                "Classifier",
                "A 3D residual network that sees the pixels on a common grid, scaled by the volume's own percentiles; "
                "no header reaches it.",
            )
        ]
        if self.predictions is not None:
            n_boot = self._settings["n_bootstrap"]
            said += [
                (
                    "Figures",
                    "Every class against the rest. Proportions: Wilson's interval where every patient gives one "
                    f"series, else a bootstrap of patients ({n_boot} draws, percentiles); F1 and kappa always by "
                    "bootstrap; exact bounds with patients as trials for values of 0 and 1.",
                ),
                (
                    "Splits",
                    "Patients, not series, were divided. The threshold on the confidence was chosen on the tuning "
                    "patients; test patients were used for nothing but these figures.",
                ),
            ]
        if self.series is not None:
            said.append((
                "DICOM tags",
                "Written rules on modality, image type, b-value (high from 500 s/mm²), description, fat saturation, "
                "echo and repetition time give the tags' opinion. It is compared, never used to classify.",
            ))  # fmt: skip
        return said


def _judged(predictions: pd.DataFrame) -> pd.DataFrame:
    require_columns(predictions, ("patient_id", "split", "y_true", "y_pred"), "predictions")
    judged = predictions[predictions["split"].isin(list(SETS))]
    if judged.empty:
        raise InputError(
            "The predictions hold no test image.", advice="Split with a share for testing, or hold out a centre."
        )
    return judged if "site" in judged.columns else judged.assign(site=None)


def _stacked(parts: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Tables of every split below each other, the split in the first column."""
    return pd.concat([part.assign(split=split) for split, part in parts.items()], ignore_index=True)[
        ["split", *next(iter(parts.values())).columns]
    ]


def disagreements(series: pd.DataFrame) -> pd.DataFrame:
    """Series whose DICOM tags say another sequence than the pixels, the surest first.

    Parameters
    ----------
    series : DataFrame
        From :func:`hybrid.pipelines.identify_sequences`.
    """
    require_columns(series, (*DISAGREEMENT_COLUMNS, "agrees"), "series")
    found = series[series["agrees"].eq(False)].sort_values("confidence", ascending=False, kind="stable")
    return found[list(DISAGREEMENT_COLUMNS)].reset_index(drop=True)


def _lower(name: str) -> str:
    return name[0].lower() + name[1:]


def _cell(row: pd.Series) -> str:
    return with_interval(row["value"], row["low"], row["high"], 3)


def plot_confusion(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw a confusion matrix: counts, coloured by the share of the true class.

    Parameters
    ----------
    table : DataFrame
        From :func:`hybrid.analysis.per_class.confusion_table`.
    ax : Axes, optional
        Where to draw.
    """
    ax = _axes(ax, height=3.3)
    truths, answers = (list(dict.fromkeys(table[name])) for name in ("y_true", "y_pred"))
    shape = (len(truths), len(answers))
    counts, shares = (table[name].to_numpy(dtype=float).reshape(shape) for name in ("n", "share"))
    ax.imshow(np.nan_to_num(shares), cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (i, j), n in np.ndenumerate(counts):
        colour = "white" if shares[i, j] > 0.55 else (MUTED if n == 0 else INK)
        ax.text(j, i, f"{int(n)}", ha="center", va="center", color=colour, fontsize=8.5)
    crowded = sum(map(len, answers)) > 26
    ax.set_xticks(range(len(answers)), answers, rotation=35 if crowded else 0, ha="right" if crowded else "center")
    ax.set_yticks(range(len(truths)), truths)
    ax.set(xlabel="The network says", ylabel="True class")
    _style(ax)
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)
    return ax


def _draw_confusion(table: pd.DataFrame, ax: Axes) -> None:
    plot_confusion(table, ax=ax)


def plot_coverage(
    table: pd.DataFrame, *, names: Mapping[str, str] | None = None, threshold: float = 0.0, ax: Axes | None = None
) -> Axes:
    """Draw accuracy against coverage.

    Parameters
    ----------
    table : DataFrame
        Rows of :func:`hybrid.analysis.per_class.coverage_table` with the column ``split``.
    names : mapping of str to str, optional
        What to call the splits.
    threshold : float
        Marked on every curve.
    ax : Axes, optional
        Where to draw.
    """
    ax = _axes(ax, height=3.3)
    for i, (split, own) in enumerate(table.groupby("split", sort=False)):
        curve = own.sort_values("coverage")
        label = (names or {}).get(str(split), str(split))
        ax.plot(curve["coverage"], curve["accuracy"], color=COLOURS[i], ls=DASHES[i], lw=1.6, label=label)
        answered = curve[curve["threshold"] >= threshold]
        if len(answered):
            last = answered.iloc[-1]
            ax.plot(last["coverage"], last["accuracy"], "o", color=COLOURS[i], ms=5, mec="white", mew=0.8)
    lowest = float(table["accuracy"].min())
    ax.set(xlim=(0, 1.02), ylim=(min(0.9, np.floor(20 * lowest) / 20) - 0.005, 1.005))
    ax.set(xlabel="Coverage (share of series answered)", ylabel="Accuracy of the answers")
    _style(ax)
    _legend_below(ax)
    return ax


def _draw_coverage(table: pd.DataFrame, names: Mapping[str, str], threshold: float, ax: Axes) -> None:
    plot_coverage(table, names=names, threshold=threshold, ax=ax)


def plot_thumbnails(thumbnails: Sequence[Thumbnail]) -> Figure:
    """Draw slices side by side, each scaled by its own percentiles.

    Parameters
    ----------
    thumbnails : sequence of Thumbnail
        At least one.
    """
    from matplotlib.figure import Figure

    # Always as wide: a single slice must not fill the page.
    columns = COLUMNS_OF_THUMBNAILS
    rows = -(-len(thumbnails) // columns)
    figure = Figure(figsize=(1.75 * columns, 2.15 * rows), layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    for ax, item in zip(axes, thumbnails, strict=False):
        low, high = np.percentile(item.pixels, [1, 99])
        ax.imshow(item.pixels, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), aspect=item.aspect)
        name = item.title if len(item.title) <= 26 else f"…{item.title[-25:]}"
        ax.set_title(f"{item.text}\n{name}", fontsize=6.5, color=INK, pad=3)
    for ax in axes:
        ax.axis("off")
    return figure
