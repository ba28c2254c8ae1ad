"""One self-contained HTML report of a slice classifier: figures, baselines, splits, shortcuts, maps of errors."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from hybrid.errors import InputError
from hybrid.files import write_text

from . import slices as own
from .figures import Album, Picture, write_tables
from .pages import render
from .slices import FINDING, NO_FINDING, PUBLISHED_SOURCE, TOP_SLICES, figure
from .views import Cell, Row, View, failures_view
from .wording import MISSING, interval, number, p_value, settings_text, versions_text, with_interval

METRIC_NAMES: Final = {
    "precision": "Precision", "recall": "Recall", "f1": "F1", "specificity": "Specificity", "npv": "NPV",
    "accuracy": "Accuracy", "kappa": "Kappa", "auc": "AUC",
}  # fmt: skip
SHOWN_METRICS: Final = ("precision", "recall", "f1", "specificity", "kappa")
GALLERY: Final = (
    ("false positive", "False positives", 8), ("false negative", "False negatives", 8),
    ("true positive", "True positives", 4), ("called positive", "Called positive", 8),
)  # fmt: skip
"""Kind of map, heading, and how many are shown."""

LISTED: Final = 20
"""Rows of a list that the page shows; the table beside it holds all."""

CONSTANT: Final = "constant fact"
"""Method of the audit's rows whose fact is the same for all slices."""

FLAGGED: Final = 0.7
"""A shortcut whose AUC is above this is marked red when the table does not say which are."""

TAUGHT: Final = 0.5
"""Mean rank correlation with untrained copies below which the maps depend on what was learnt (our convention)."""


class SliceReport:
    """A report on slices with and without findings.

    Parameters
    ----------
    slices, patients : DataFrame
        See :data:`hybrid.analysis.slices.SLICE_COLUMNS` and :data:`~hybrid.analysis.slices.PATIENT_COLUMNS`; labels may
        be unknown for some or all.
    classes : sequence of str
        Of the classifier.
    negative : str
        Class that means that nothing was found.
    operating : str
        How the threshold was chosen.
    smoothing : int
        Slices on either side that probabilities were averaged over.
    title : str
        Heading.
    maps : DataFrame, optional
        One row per saliency map: ``case_id, patient_id, slice, kind, layer, method, cells, picture, hit, distance_mm,
        chance, centre_hit``; ``picture`` is a file in ``folder/saliency``.
    folder : path-like, optional
        Where the pictures lie.
    randomisation : DataFrame, optional
        Comparison with untrained copies: ``correlation, changed, layer``.
    layers : DataFrame, optional
        One row per layer and slice, with the columns of ``maps`` that the pointing score needs: layers are compared.
    baselines : DataFrame, optional
        ``model, case_id, slice, probability`` of trivial models.
    splits : DataFrame, optional
        Rows of :func:`hybrid.analysis.slices.split_row`: by patient and by image.
    shortcuts : DataFrame, optional
        ``fact, auc, low, high, flagged, remedy``.
    failures : DataFrame, optional
        Rows that could not be used.
    simulated : bool
        Said at the top.
    run_record : mapping, optional
        Settings and versions.
    n_boot, seed : int
        Of the intervals.

    Raises
    ------
    InputError
        For a table that is not as described.
    """

    def __init__(
        self,
        slices: pd.DataFrame,
        patients: pd.DataFrame,
        *,
        classes: Sequence[str],
        negative: str,
        operating: str = "",
        smoothing: int = 0,
        title: str = "Findings on slices",
        maps: pd.DataFrame | None = None,
        folder: str | Path = ".",
        randomisation: pd.DataFrame | None = None,
        layers: pd.DataFrame | None = None,
        baselines: pd.DataFrame | None = None,
        splits: pd.DataFrame | None = None,
        shortcuts: pd.DataFrame | None = None,
        failures: pd.DataFrame | None = None,
        simulated: bool = False,
        run_record: Mapping[str, Any] | None = None,
        n_boot: int = 2000,
        seed: int = 0,
    ) -> None:
        self.slices, self.patients = own.check_slices(slices), patients
        self.classes, self.negative = tuple(classes), negative
        if negative not in self.classes:
            raise InputError(f"The class {negative!r} is none of {', '.join(self.classes)}.")
        self.operating, self.smoothing, self.title, self.simulated = operating, smoothing, title, simulated
        self.maps, self.folder, self.randomisation, self.layers = maps, Path(folder), randomisation, layers
        self.baselines, self.splits, self.shortcuts, self.failures = baselines, splits, shortcuts, failures
        self.record = dict(run_record or {})
        self._settings: dict[str, Any] = {"n_bootstrap": n_boot, "seed": seed}

    @property
    def is_labelled(self) -> bool:
        """Whether any slice has a known class."""
        return bool((self.slices["y_true"] != "").any())

    @property
    def finding(self) -> str:
        """Name of the positive class; ``finding`` for more than two classes."""
        others = [name for name in self.classes if name != self.negative]
        return others[0] if len(others) == 1 else FINDING

    @cached_property
    def figures(self) -> pd.DataFrame:
        """See :func:`hybrid.analysis.slices.slice_figures`; empty without labels."""
        if not self.is_labelled:
            return pd.DataFrame(columns=list(own.FIGURE_COLUMNS))
        return own.slice_figures(
            self.slices, self.patients, self.classes, negative=self.negative, **self._settings
        )  # fmt: skip

    @cached_property
    def tables(self) -> dict[str, pd.DataFrame]:
        """Every table behind the report, unrounded, by the name of its file."""
        tables: dict[str, pd.DataFrame] = {}
        if self.is_labelled:
            tables["figures"] = self.figures
            tables["confusion"] = own.confusion_counts(self.slices, self.classes).reset_index()
            tables["roc"] = own.slice_curves(
                self.slices, self.patients, negative=self.negative, baselines=self.baselines
            )
            tables["published"] = own.published_table(self.figures, self.classes, self.negative)
        if self.is_labelled and self.baselines is not None:
            tables["baselines"] = own.compare_baselines(self.slices, self.baselines, negative=self.negative)
        pointed = self._pointed()
        if len(pointed):
            tables["pointing"] = own.pointing_table(pointed, **self._settings)
        if self.layers is not None and self.layers["hit"].notna().any():
            table = own.pointing_table(self.layers[self.layers["hit"].notna()], **self._settings)
            cells = self.layers.drop_duplicates("layer")[["layer", "cells"]]
            tables["layers"] = table.merge(cells, on="layer", how="left")
        for name in ("splits", "shortcuts", "randomisation", "failures"):
            table = getattr(self, name)
            if table is not None and len(table):
                tables[name] = table
        return tables

    def _pointed(self) -> pd.DataFrame:
        if self.maps is None or "hit" not in self.maps.columns:
            return pd.DataFrame()
        known = self.maps[self.maps["hit"].notna()]
        return known[known["kind"].isin(("true positive", "false negative"))]

    def save(self, path: str | Path) -> Path:
        """Write the report, ``tables/*.csv`` and ``figures/`` beside it.

        Parameters
        ----------
        path : path-like
            The HTML file.

        Returns
        -------
        Path
            The same path.
        """
        path = Path(path)
        write_tables(self.tables, path)
        page = render(
            "slices.html.j2", title=self.title, simulated=self.simulated, sentences=self.sentences(),
            tiles=self._tiles(), performance=self._performance(), pictures=self._pictures(path.parent / "figures"),
            patients=self._patient_views(), baselines=self._baseline_view(), splits=self._split_view(),
            shortcuts=self._shortcut_view(), flagged=self._flagged(), pointing=self._pointing_view(),
            layers=self._layer_view(), sanity=self._sanity(), gallery=self._gallery(),
            failures=failures_view(self.failures, "Not read"), methods=self._methods(),
            settings=settings_text(self.record),
            versions=versions_text(self.record.get("versions")),
            files=sorted(self.tables),
        )  # fmt: skip
        return write_text(page, path)

    # Sentences

    def sentences(self) -> list[tuple[str, str]]:
        """Lead and text of the summary's parts."""
        parts = self._figures_in_words() if self.is_labelled else [self._calls_in_words()]
        if "baselines" in self.tables:
            rows = self.tables["baselines"].iloc[1:]
            text = "; ".join(f"{row.model} {with_interval(row.auc, row.low, row.high, 3)}" for row in rows.itertuples())
            parts.append(("Trivial models.", f"AUC on the same slices: {text}."))
        if self.splits is not None and len(self.splits) > 1:
            parts.append(("Split.", self._split_sentence()))
        pointing = self.tables.get("pointing")
        if pointing is not None and (pointing["kind"] == "true positive").any():
            row = pointing[pointing["kind"] == "true positive"].iloc[0]
            parts.append((
                "Maps.",
                f"The maximum of the map lies in the lesion or within 15 mm of it in {int(row['hits'])} of "
                f"{int(row['n'])} true positives ({_percent(row)}); chance would reach {100 * row['chance']:.0f} %.",
            ))  # fmt: skip
        unread = int(self.slices["probability"].isna().sum())
        if unread or (self.failures is not None and len(self.failures)):
            lost = 0 if self.failures is None else len(self.failures)
            parts.append(("Not read.", f"{unread} slices could not be read; {lost} problems are listed at the end."))
        return parts

    def _figures_in_words(self) -> list[tuple[str, str]]:
        area = figure(self.figures, "slice", "auc")
        people = figure(self.figures, "patient", "auc")
        if area is None:
            raise InputError("The figures hold no AUC.")
        text = (
            f"On {int(area['n'])} slices of {int(area['n_patients'])} patients the AUC is "
            f"{number(area['value'], 3)} ({_interval_in_words(area)})."
        )
        if people is not None and np.isfinite(people["value"]):
            text += f" By patient it is {with_interval(people['value'], people['low'], people['high'], 3)}."
        called = "; ".join(
            f"{word} {with_interval(row['value'], row['low'], row['high'])}"
            for name, word in (("precision", "precision"), ("recall", "recall"), ("f1", "F1"))
            if (row := figure(self.figures, "slice", name, self._positive_class())) is not None
        )
        return [
            ("Discrimination.", text),
            ("At the threshold.", f"For {self.finding}: {called}. Threshold {self._threshold()} ({self.operating})."),
        ]

    def _positive_class(self) -> str:
        return self.finding if self.finding in self.classes else next(c for c in self.classes if c != self.negative)

    def _threshold(self) -> str:
        return number(float(self.slices["threshold"].iloc[0]), 3)

    def _calls_in_words(self) -> tuple[str, str]:
        read = self.slices[self.slices["probability"].notna()]
        called = read[read["prediction"] != self.negative]
        people, n = self.patients[self.patients["prediction"] == FINDING], self.patients["patient_id"].nunique()
        return (
            "Calls.",
            f"{len(called)} of {len(read)} slices and {len(people)} of {n} patients were called positive "
            f"at a threshold of {self._threshold()} ({self.operating}). No slice is labelled, so that nothing is said "
            "about how often this is right.",
        )

    def _split_sentence(self) -> str:
        rows = self.splits.set_index("split_by") if self.splits is not None else pd.DataFrame()
        if not {"patient", "image"} <= set(rows.index):
            return "Splits are compared below."
        image, patient = rows.loc["image"], rows.loc["patient"]
        inflation = image["auc"] - patient["auc"]
        return (
            f"Split by image, {int(image['n_shared_patients'])} of {int(image['n_patients'])} test patients were also "
            f"trained or tuned on: AUC {number(image['auc'], 3)} there against {number(patient['auc'], 3)} by patient, "
            f"a difference of {number(inflation, 3)}. Only the figure by patient holds for new patients."
        )

    def _tiles(self) -> list[tuple[str, str, str]]:
        if not self.is_labelled:
            return []
        tiles, name = [], self._positive_class()
        wanted = [
            ("AUC, slices", "slice", "auc", None), ("AUC, patients", "patient", "auc", None),
            ("F1, slices", "slice", "f1", name), ("Recall, slices", "slice", "recall", name),
        ]  # fmt: skip
        for label, level, metric, of_class in wanted:
            row = figure(self.figures, level, metric, of_class)
            if row is not None:
                digits = 3 if metric == "auc" else 2
                bounds = _below(row["low"], row["high"], digits)
                tiles.append((label, number(row["value"], digits), f"95 % CI {bounds}" if bounds else "no interval"))
        return tiles

    # Tables

    def _performance(self) -> list[View]:
        if not self.is_labelled:
            return []
        views = [self._class_view("slice", self.classes, "Slices: every class against the rest")]
        published = self.tables["published"]
        if len(published):
            rows = [
                Row([
                    Cell(str(row["class"])), Cell(METRIC_NAMES[row["metric"]]),
                    Cell(f"{row['published']:.3f}".rstrip("0")),
                    _estimate(pd.Series(row)),
                ])
                for row in published.to_dict("records")
            ]  # fmt: skip
            note = f"{PUBLISHED_SOURCE}. Ours: 95 % interval below."
            views.append(View("Published and own figures", ["Class", "Metric", "Published", "Ours"], rows, note, 2))
        return views

    def _class_view(self, level: str, classes: Sequence[str], caption: str) -> View:
        rows = []
        for name in classes:
            found = [figure(self.figures, level, metric, name) for metric in SHOWN_METRICS]
            count = figure(self.figures, level, "recall", name)
            cells = [Cell(str(name)), Cell("0" if count is None else str(int(count["n"])))]
            rows.append(Row([*cells, *(_estimate(row) for row in found)]))
        columns = ["Class", "n", *(METRIC_NAMES[name] for name in SHOWN_METRICS)]
        note = (
            "95 % interval below: Wilson where every patient gives one row, else by resampling patients; a dash is not "
            "defined. A slice that could not be read counts as wrong."
        )
        return View(caption, columns, rows, note)

    def _patient_views(self) -> list[View]:
        views = []
        if (self.patients["y_true"] != "").any():
            views.append(self._class_view("patient", (NO_FINDING, FINDING), "Patients"))
        ordered = self.patients.sort_values(["probability", "patient_id"], ascending=[False, True])
        wrong = ordered[(ordered["y_true"] != "") & (ordered["y_true"] != ordered["prediction"])]
        shown, what = (wrong, "called wrongly") if self.is_labelled else (ordered, "with the highest scores")
        if len(shown):
            rows = [
                Row([
                    Cell(str(row.patient_id)), Cell(row.y_true or MISSING), Cell(row.prediction or MISSING),
                    Cell(number(row.probability)), Cell(f"{row.n_called} / {row.n_slices}"),
                ])
                for row in shown.head(LISTED).itertuples()
            ]  # fmt: skip
            note = "" if len(shown) <= LISTED else f"The first {LISTED} of {len(shown)}; all are in patients.csv."
            columns = ["Patient", "True", "Predicted", "Score", "Slices called positive"]
            views.append(View(f"Patients {what}", columns, rows, note, 3))
        return views

    def _baseline_view(self) -> View | None:
        table = self.tables.get("baselines")
        if table is None:
            return None
        rows = []
        for place, row in enumerate(table.to_dict("records")):
            bounds = _below(row["difference_low"], row["difference_high"])
            cells = [Cell(str(row["model"])), Cell(number(row["auc"], 3), _below(row["low"], row["high"]))]
            cells += [Cell(number(row["difference"], 3), bounds), Cell(p_value(row["p"]))]
            rows.append(Row(cells, "" if place else "strong"))
        note = (
            "AUC of the same slices. Trivial models know grey values only and were fitted on training slices: where "
            "one of them is good, the labels can be told without looking at anatomy. p: paired test that respects "
            "several slices per patient (Obuchowski 1997)."
        )
        columns = ["Model", "AUC", "Network minus model", "p"]
        return View("The network and trivial models", columns, rows, note)

    def _split_view(self) -> View | None:
        if self.splits is None or self.splits.empty:
            return None
        names = {"patient": "By patient (honest)", "image": "By image (inflated)"}
        rows = [
            Row([
                Cell(names.get(row["split_by"], row["split_by"])), Cell(f"{row['n_slices']} / {row['n_patients']}"),
                Cell(str(row["n_shared_patients"])), Cell(number(row["auc"], 3), _below(row["low"], row["high"])),
                Cell(number(row["accuracy"], 3)), Cell(number(row["precision"], 3)), Cell(number(row["recall"], 3)),
                Cell(number(row["f1"], 3)),
            ], "strong" if row["split_by"] == "patient" else "")
            for row in self.splits.to_dict("records")
        ]  # fmt: skip
        columns = ["Split", "Test slices / patients", "Also trained on", "AUC", "Accuracy", "Precision", "Recall", "F1"]
        note = (
            "The same slices, network and settings; each split has a network of its own. Split by image, slices beside "
            "a test slice were trained on, so that the network can recognise the patient."
        )
        return View("Split by patient and by image", columns, rows, note)

    def _flagged(self) -> list[str]:
        if self.shortcuts is None:
            return []
        return [str(row["fact"]) for row in self.shortcuts.to_dict("records") if _is_flagged(row)]

    def _shortcut_view(self) -> View | None:
        if self.shortcuts is None or self.shortcuts.empty:
            return None
        constant = self.shortcuts.get("method", pd.Series("", self.shortcuts.index)).astype(str) == CONSTANT
        rows = [
            Row([
                Cell(str(row["fact"])),
                Cell(with_interval(row["auc"], row.get("low", np.nan), row.get("high", np.nan))),
                Cell("yes" if _is_flagged(row) else "no"), Cell(_text(row.get("remedy"))),
            ], "flagged" if _is_flagged(row) else "")
            for row in self.shortcuts[~constant].head(LISTED).to_dict("records")
        ]  # fmt: skip
        note = "How well a fact that says nothing about the anatomy predicts the label alone, out of fold by patient."
        same = ", ".join(self.shortcuts.loc[constant, "fact"].astype(str))
        note += f" The same for every slice: {same}." if same else ""
        return View("Shortcuts", ["Fact", "AUC (95 % interval)", "Above the limit", "Remedy"], rows, note, 4)

    def _pointing_view(self) -> View | None:
        table = self.tables.get("pointing")
        if table is None:
            return None
        rows = [
            Row([
                Cell(str(row["kind"]).capitalize() + "s"), Cell(f"{int(row['hits'])} / {int(row['n'])}"),
                Cell(f"{100 * row['score']:.0f} %", _bounds(row)), Cell(f"{100 * row['chance']:.0f} %"),
                Cell(f"{100 * row['centre']:.0f} %"), Cell(number(row["median_distance_mm"], 1)),
            ])
            for row in table.to_dict("records")
        ]  # fmt: skip
        note = (
            f"Layer: {table['layer'].iloc[0]}. A hit: the maximum of the map lies in the mask or within 15 mm of it "
            "(pointing game, Zhang et al. 2018, doi:10.1007/s11263-017-1059-x). Chance: a random point of the "
            "slice; middle: the centre of the slice. Intervals respect several slices per patient."
        )
        columns = ["Slices", "Hits", "Pointing score", "Chance", "Middle", "Median distance (mm)"]
        return View("Does the map point at the lesion?", columns, rows, note)

    def _layer_view(self) -> View | None:
        table = self.tables.get("layers")
        if table is None:
            return None
        rows = [
            Row([
                Cell(str(row["layer"])), Cell(str(row["cells"])), Cell(str(row["kind"]).capitalize() + "s"),
                Cell(f"{int(row['hits'])} / {int(row['n'])}"), Cell(f"{100 * row['score']:.0f} %", _bounds(row)),
                Cell(number(row["median_distance_mm"], 1)),
            ])
            for row in table.sort_values(["kind", "layer"], ascending=[False, True], kind="stable").to_dict("records")
        ]  # fmt: skip
        note = "Early layers have fine cells and know little; late layers know more and have coarse cells."
        columns = ["Layer", "Cells", "Slices", "Hits", "Pointing score", "Median distance (mm)"]
        return View("Pointing score by layer", columns, rows, note, 3)

    def _sanity(self) -> str:
        """Say the result of the comparison with untrained copies, in words."""
        if self.randomisation is None or self.randomisation.empty:
            return ""
        table = self.randomisation
        mean, changed = float(table["correlation"].mean()), int(table["changed"].sum())
        verdict = (
            "so that the maps depend on what was learnt" if not mean >= TAUGHT
            else "so that they hardly depend on what was learnt: do not use them"
        )  # fmt: skip
        return (
            f"Maps (layer: {table['layer'].iloc[0]}) were compared with those of untrained copies of the network: the "
            f"mean rank correlation is {number(mean)}, and {changed} of {len(table)} maps changed, {verdict} "
            "(Adebayo et al. 2018, doi:10.48550/arXiv.1810.03292)."
        )

    def _gallery(self) -> list[tuple[str, str, list[Picture]]]:
        """Heading, explanation and pictures of each kind of slice."""
        if self.maps is None:
            return []
        shown = []
        for kind, heading, count in GALLERY:
            rows = self.maps[self.maps["kind"] == kind]
            if rows.empty:
                continue
            # One picture per patient first, the surest errors before the others.
            rows = rows.sort_values("probability", ascending=kind == "false negative", kind="stable")
            turn = rows.groupby("patient_id").cumcount()
            rows = rows.assign(turn=turn).sort_values("turn", kind="stable").head(count)
            pictures = [self._picture(row) for row in rows.to_dict("records")]
            total = int((self.maps["kind"] == kind).sum())
            shown.append((heading, f"{len(pictures)} of {total}, the surest of each patient first.", pictures))
        return shown

    def _picture(self, row: Mapping[str, Any]) -> Picture:
        content = (self.folder / "saliency" / str(row["picture"])).read_bytes()
        source = f"data:image/png;base64,{base64.b64encode(content).decode()}"
        caption = f"{row['case_id']}, slice {row['slice']}: probability {number(float(row['probability']))}"
        name = Path(str(row["picture"])).stem.replace(" ", "_")
        return Picture(f"map_{name}", source, f"Map of {row['case_id']}, slice {row['slice']}, {row['kind']}", caption)

    # Figures and methods

    def _pictures(self, folder: Path) -> dict[str, Picture]:
        if not self.is_labelled:
            return {}
        album, captions = Album(folder), {}
        if len(self.tables["roc"]):
            album.add("roc", partial(_draw_roc, self.tables["roc"]), height=4.4, alt="ROC curves")
            captions["roc"] = f"ROC curves. A patient's score is the mean of the {TOP_SLICES} highest slices."
        counts = self.tables["confusion"].set_index("y_true")
        album.add("confusion", partial(_draw_counts, counts), height=3.2, alt="Confusion matrix of the slices")
        captions["confusion"] = f"Slices at the threshold of {self._threshold()}: counts and share of each true class."
        return album.with_captions(**captions)

    def _methods(self) -> list[tuple[str, str]]:
        parts = [
            (
                "Calls",
                f"A slice is called positive when the probability of any finding is at least {self._threshold()} "
                f"({self.operating}). A patient's score is the mean of the {TOP_SLICES} highest slices; a patient has "
                "a finding when any slice has one.",
            ),
        ]
        if self.smoothing:
            slices = "one slice" if self.smoothing == 1 else f"{self.smoothing} slices"
            parts.append((
                "Neighbours",
                f"Probabilities are weighted means over up to {slices} of the scan on either side, the weights falling "
                "along a line; slices.csv also holds those of each slice alone. Maps are of the slice alone.",
            ))  # fmt: skip
        if self.is_labelled:
            parts.append((
                "Intervals",
                "95 %. AUC: Obuchowski 1997 (doi:10.2307/2533958), which sums over the slices of a patient first. "
                f"Other figures: {self._settings['n_bootstrap']} bootstrap draws of patients (seed "
                f"{self._settings['seed']}), or Wilson's interval where every patient gives one row.",
            ))  # fmt: skip
        if self.maps is not None and len(self.maps):
            row = self.maps.iloc[0]
            source = (
                "Selvaraju et al. 2017, doi:10.1109/ICCV.2017.74" if row["method"] == "gradcam"
                else "Chattopadhay et al. 2018, doi:10.1109/WACV.2018.00097"
            )  # fmt: skip
            parts.append((
                "Maps",
                f"{'Grad-CAM' if row['method'] == 'gradcam' else 'Grad-CAM++'} ({source}) of the most probable finding "
                f"at layer {row['layer']} ({row['cells']} cells), interpolated to the source grid; "
                "saliency/ holds every map as picture and as NIfTI. A map shows which region this network used; it is "
                "no segmentation.",
            ))  # fmt: skip
        return parts


def _draw_roc(curves: pd.DataFrame, ax: Any) -> None:
    own.plot_slice_roc(curves, ax=ax)


def _draw_counts(counts: pd.DataFrame, ax: Any) -> None:
    own.plot_counts(counts, ax=ax)


def _estimate(row: pd.Series | None) -> Cell:
    if row is None or not np.isfinite(row["value"]):
        return Cell(MISSING)
    return Cell(number(row["value"], 3), _below(row["low"], row["high"]))


def _below(low: float, high: float, digits: int = 3) -> str:
    """Format an interval; empty where there is none."""
    bounds = interval(low, high, digits)
    return "" if bounds == MISSING else bounds


def _bounds(row: Mapping[str, Any] | pd.Series) -> str:
    if not np.isfinite(row["low"]):
        return ""
    return f"{100 * row['low']:.0f}–{100 * row['high']:.0f} %"


def _interval_in_words(area: pd.Series) -> str:
    bounds = interval(area["low"], area["high"], 3)
    if bounds != MISSING:
        return f"95 % CI {bounds}, slices of one patient not taken as independent"
    if np.isfinite(area["value"]):
        return "no interval: fewer than two patients with positive or with negative slices"
    return "not defined: all slices have one class"


def _percent(row: Mapping[str, Any] | pd.Series) -> str:
    bounds = _bounds(row)
    return f"{100 * row['score']:.0f} %" + (f", 95 % CI {bounds}" if bounds else "")


def _text(value: Any) -> str:
    return "" if value is None or pd.isna(value) else str(value)


def _is_flagged(row: Mapping[str, Any]) -> bool:
    return bool(row["flagged"]) if "flagged" in row else bool(row["auc"] > FLAGGED)
