"""One self-contained HTML report of a segmentation: overlap, lesions, classes, overfitting."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from hybrid.errors import InputError, unknown_name
from hybrid.files import write_text

from . import mask_plots as plots
from .conventions import CONVENTIONS
from .detection import SIZE_EDGES_MM, classification_by_size, detection_table, froc, recall_by_diameter
from .exports import Section
from .figures import Album, Picture, write_tables
from .multiclass_part import multiclass_table, multiclass_view
from .overlap import SPLITS, bland_altman, check_masks, gap_by_training_size, generalisation_gap, structure_rows
from .overlap import summarise_overlap as summarise
from .pages import render
from .published import published_table, published_view
from .views import Cell, Row, View
from .wording import interval, number, settings_text, versions_text, words

METRIC_NAMES: Final = {
    "dice": "Dice", "iou": "IoU", "precision": "Precision", "sensitivity": "Sensitivity", "specificity": "Specificity",
    "surface_dice": "Surface Dice", "hd95_mm": "HD95 (mm)", "assd_mm": "ASSD (mm)",
}  # fmt: skip
SPLIT_NAMES: Final = {"train": "Training", "validation": "Validation", "test": "Test", "external": "External"}
GLOSSARY: Final = (
    ("Dice", "Twice the volume that both masks share, over the sum of their volumes. 1: identical, 0: nothing shared."),
    ("Surface Dice", "Share of both surfaces that lies within a tolerance of the other surface."),
    ("HD95", "95th percentile of the distances between the surfaces, in mm; not defined where a mask is empty."),
    ("ASSD", "Average symmetric distance between the surfaces, in mm; not defined where a mask is empty."),
    ("Recall of lesions", "Share of the reference lesions that were found, by the matching rule named in the table."),
    ("False positives per case", "Predicted lesions that match no reference lesion, per case."),
    ("FROC", "Recall against false positives per case while the confidence needed for a lesion is varied."),
    ("Generalisation gap", "Mean on training patients minus mean on test patients. Large: the model learnt by heart."),
    ("95 % CI", "Interval that holds the true value in 95 of 100 repetitions of the study; patients are resampled."),
)


class MaskReport:
    """A report on predicted masks that a clinician can read and a reviewer can check.

    Parameters
    ----------
    table : DataFrame
        Long table, see :data:`hybrid.tables.MASK_COLUMNS`.
    lesions : str
        Structure whose connected regions are lesions.
    sizes_mm : sequence of float
        Edges of the size strata (mm).
    title : str
        Heading.
    curves : DataFrame or mapping of str to DataFrame, optional
        Training curves of one network, or of several by name.
    gap : bool
        Show the generalisation gap; needs training and test cases.
    by_size : mapping of int to DataFrame, optional
        Tables by number of training patients.
    classified : DataFrame, optional
        One row per reference lesion with ``y_true, y_pred, y_pred_reference_mask, detected, max_diameter_mm, split``.
    baselines : DataFrame, optional
        Long table of trivial methods, ``structure`` naming the method.
    published : str, optional
        A system of :data:`hybrid.analysis.published.SYSTEMS`, whose printed figures are laid beside these.
    simulated : bool
        Said at the top.
    run_record : mapping, optional
        Settings and versions.
    n_boot, seed : int
        Of all intervals.

    Raises
    ------
    InputError
        For an invalid table or an unknown structure.
    """

    def __init__(
        self,
        table: pd.DataFrame,
        *,
        lesions: str,
        sizes_mm: Sequence[float] = SIZE_EDGES_MM,
        title: str = "Segmentation",
        curves: pd.DataFrame | Mapping[str, pd.DataFrame] | None = None,
        gap: bool = False,
        by_size: Mapping[int, pd.DataFrame] | None = None,
        classified: pd.DataFrame | None = None,
        baselines: pd.DataFrame | None = None,
        published: str | None = None,
        simulated: bool = False,
        run_record: Mapping[str, Any] | None = None,
        n_boot: int = 2000,
        seed: int = 0,
    ) -> None:
        self.table = check_masks(table)
        self.structures = list(dict.fromkeys(structure_rows(self.table)["structure"]))
        if lesions not in self.structures:
            raise unknown_name("structure", lesions, self.structures)
        self.lesions, self.sizes_mm, self.title = lesions, tuple(sizes_mm), title
        self.classified, self.baselines, self.published = classified, baselines, published
        self.curves = {"": curves} if isinstance(curves, pd.DataFrame) else dict(curves or {})
        self.simulated, self.record = simulated, dict(run_record or {})
        self._settings: dict[str, Any] = {"n_boot": n_boot, "seed": seed}
        self.summary = summarise(self.table, **self._settings)
        self.gap = generalisation_gap(self.table, structure=lesions, **self._settings) if gap else None
        self.gap_sizes = gap_by_training_size(dict(by_size), structure=lesions, **self._settings) if by_size else None

    @cached_property
    def _lesion_tables(self) -> dict[str, Any]:
        """Detection, FROC and recall curve; empty when no lesion was matched."""
        if not (self.table["lesion_id"] != "").any():
            return {}
        judged = self.table[self.table["split"] != "train"] if len(self.splits) > 1 else self.table
        if not (judged["lesion_id"] != "").any():
            return {}
        found = {
            "detection": detection_table(judged, size_edges_mm=self.sizes_mm, **self._settings),
            "recall": recall_by_diameter(judged, **self._settings),
        }
        try:
            found["froc"] = froc(judged, **self._settings)
        except InputError:  # masks drawn by hand or by another program have no confidences
            found["froc"] = None
        return found

    @property
    def splits(self) -> list[str]:
        """Sets of the table, in a fixed order."""
        return [name for name in SPLITS if name in set(self.table["split"])]

    @property
    def judged_split(self) -> str:
        """The set that counts: test if there is one, else the last."""
        return "test" if "test" in self.splits else self.splits[-1]

    def example_cases(self) -> dict[str, str]:
        """Title to case id of the best, median and worst case by Dice of the lesions' structure in the judged set."""
        rows = structure_rows(self.table)
        rows = rows[
            (rows["split"] == self.judged_split) & (rows["structure"] == self.lesions) & (rows["metric"] == "dice")
        ].dropna(subset="value")
        if rows.empty:
            return {}
        ordered = rows.sort_values(["value", "case_id"], ascending=False).reset_index(drop=True)
        places = {"Best": 0, "Median": (len(ordered) - 1) // 2, "Worst": len(ordered) - 1}
        return {
            f"{name}: Dice {ordered.loc[i, 'value']:.2f}": str(ordered.loc[i, "case_id"]) for name, i in places.items()
        }

    def tables(self) -> dict[str, pd.DataFrame]:
        """Every table behind the report, unrounded, by the name of its file."""
        tables = {"masks_summary": self.summary, "volumes": self._volumes().table}
        lesion = self._lesion_tables
        if lesion:
            tables |= {"detection": lesion["detection"], "recall_by_diameter": lesion["recall"].bins}
            if lesion["froc"] is not None:
                tables |= {"froc": lesion["froc"].points, "froc_operating_points": lesion["froc"].operating_points}
        if self.gap is not None:
            tables["generalisation_gap"] = self.gap.table
        if self.gap_sizes is not None:
            tables["gap_by_training_size"] = self.gap_sizes
        if self.classified is not None and len(self.classified):
            tables["classification"] = self._classification()
            if len(areas := self._areas(self.classified)):
                tables["multiclass"] = areas
        if self.baselines is not None:
            tables["baselines"] = summarise(self.baselines, metrics=("dice",), **self._settings)
        if self.published is not None:
            tables["published"] = self._published(self.published)
        if self.curves:
            named = [curves.assign(network=name) if name else curves for name, curves in self.curves.items()]
            tables["training_curves"] = pd.concat(named, ignore_index=True)
        return tables

    def save(self, path: str | Path, *, slices: Sequence[Mapping[str, Any]] = ()) -> Path:
        """Write the report, ``tables/*.csv`` and ``figures/`` beside it.

        Parameters
        ----------
        path : path-like
            The HTML file.
        slices : sequence of mapping
            Slices for the overlays, see :func:`~hybrid.analysis.mask_plots.plot_overlays`.

        Returns
        -------
        Path
            The same path.
        """
        path = Path(path)
        tables = self.tables()
        write_tables(tables, path)
        pictures = self._pictures(path.parent / "figures", slices)
        return write_text(self._render(tables, pictures), path)

    def sections(
        self, figures: Path, tables: Mapping[str, pd.DataFrame], *, slices: Sequence[Mapping[str, Any]] = ()
    ) -> list[Section]:
        """Draw the figures and return the parts of the page in order, for other formats than HTML.

        Parameters
        ----------
        figures : Path
            Folder that the figures are drawn into.
        tables : mapping of str to DataFrame
            From :meth:`tables`.
        slices : sequence of mapping
            See :meth:`save`.

        Returns
        -------
        list of Section
            With the tables and figures of the HTML page.
        """
        pictures = self._pictures(Path(figures), slices)
        named = [
            dataclasses.replace(self._overlap_view(name), caption=f"Overlap: {words(name)}") for name in self.structures
        ]
        views: dict[str, list[View | None]] = {
            "Overlap": [*named, self._baseline_view(tables.get("baselines")), self._published_view(tables)],
            "Training": [self._gap_view()],
            "Lesions": [
                self._detection_view(), self._operating_view(), self._classification_view(tables.get("classification")),
                self._areas_view(tables.get("multiclass")),
            ],
        }  # fmt: skip
        shown: dict[str, list[str]] = {
            "Overlap": [name for name in ("overlays", "dice", "volumes") if name in pictures],
            "Training": [name for name in pictures if name == "gap" or name.startswith("curves")],
            "Lesions": [name for name in ("recall", "froc") if name in pictures],
        }
        simulated = [("Simulated patients:", "a demonstration, not a medical result.")] if self.simulated else []
        body = [
            Section(title, (), [view for view in views[title] if view], [pictures[name] for name in shown[title]])
            for title in views
        ]
        versions = versions_text(self.record.get("versions"))
        return [
            Section("Summary", [*simulated, *self.sentences()]),
            *(section for section in body if section.views or section.pictures),
            Section("Methods", [(f"{heading}.", text) for heading, text in self._methods()]),
            *([Section("Run record", [("Versions:", versions)])] if versions else []),
        ]

    def _volumes(self) -> Any:
        return bland_altman(self.table, structure=self.lesions, split=self.judged_split, **self._settings)

    def _classification(self) -> pd.DataFrame:
        """Accuracy by size from the predicted masks (two denominators) and from the reference masks."""
        rows = self.classified
        if rows is None:
            raise InputError("No classified lesions were given.")
        settings: dict[str, Any] = {"size_edges_mm": self.sizes_mm, "by": ("split",), **self._settings}
        own = classification_by_size(rows, **settings)
        reference = classification_by_size(
            rows.assign(y_pred=rows["y_pred_reference_mask"], detected=1), **settings
        )  # fmt: skip
        reference = reference[reference["denominator"] == "detected"].assign(denominator="reference_mask")
        return pd.concat([own, reference], ignore_index=True)

    def _areas(self, rows: pd.DataFrame) -> pd.DataFrame:
        """AUCs of the class of each lesion, given its reference mask; nothing without probabilities."""
        settings = {"n_bootstrap": self._settings["n_boot"], "seed": self._settings["seed"]}
        parts = [multiclass_table(own, **settings).assign(split=split) for split, own in rows.groupby("split")]
        return pd.concat([part for part in parts if len(part)] or parts, ignore_index=True)

    def _areas_view(self, table: pd.DataFrame | None) -> View | None:
        if table is None:
            return None
        columns = {SPLIT_NAMES[str(split)]: own for split, own in table.groupby("split", sort=False)}
        return multiclass_view(columns, "Class of each lesion, given the reference mask: AUC, 95 % CI below")

    def _published(self, system: str) -> pd.DataFrame:
        """Lay the printed figures of a system beside ours."""
        accuracy = None
        if self.classified is not None and len(self.classified):
            by_size = classification_by_size(self.classified, size_edges_mm=(5.0,), by=("split",), **self._settings)
            accuracy = by_size[by_size["denominator"] == "detected"]
        return published_table(
            system, split=self.judged_split, overlap=self.summary, detection=self._lesion_tables.get("detection"),
            accuracy=accuracy,
        )  # fmt: skip

    def _published_view(self, tables: Mapping[str, pd.DataFrame]) -> View | None:
        return None if self.published is None else published_view(self.published, tables["published"])

    def _pictures(self, folder: Path, slices: Sequence[Mapping[str, Any]]) -> dict[str, Picture]:
        album, captions = Album(folder), {}
        if slices:
            album.add_figure("overlays", plots.plot_overlays([dict(item) for item in slices]), alt="Masks over images")
            captions["overlays"] = "Slices with the largest reference region; reference and prediction as contours."
        album.add(
            "dice", lambda ax: plots.plot_dice_box(self.table, ax=ax), height=3.0, alt="Dice by set and structure"
        )
        captions["dice"] = "Dice of each case by structure and set; boxes: quartiles and median."
        lesion = self._lesion_tables
        if lesion:
            if lesion["froc"] is not None:
                album.add("froc", lambda ax: plots.plot_froc(lesion["froc"], ax=ax), height=3.2, alt="FROC curve")
                captions["froc"] = "Recall of lesions against false positives per case."
                if lesion["froc"].points["dropped"].any():
                    captions["froc"] += " Dot: cut-off of the model. Thin: with candidates that it dropped."
            album.add(
                "recall", lambda ax: plots.plot_recall_by_diameter(lesion["recall"], ax=ax), height=3.2,
                alt="Recall against diameter",
            )  # fmt: skip
            captions["recall"] = "Recall against the lesion's maximum diameter, with 95 % intervals."
        album.add("volumes", lambda ax: plots.plot_bland_altman(self._volumes(), ax=ax), height=3.0, alt="Bland-Altman")
        captions["volumes"] = (
            f"Predicted minus reference volume ({self.lesions}, {SPLIT_NAMES[self.judged_split].lower()} cases): bias "
            "and limits of agreement (Bland & Altman 1986)."
        )
        for position, (name, curves) in enumerate(self.curves.items()):
            key = f"curves_{position}"
            album.add(key, partial(_draw_curves, curves), height=4.0, alt="Training curves")
            captions[key] = (
                f"{name}{': m' if name else 'M'}ean Dice after each epoch on up to six cases of the training and "
                "validation sets."
            )
        if self.gap_sizes is not None:
            sizes = self.gap_sizes
            album.add("gap", lambda ax: plots.plot_gap(sizes, ax=ax), height=3.0, alt="Gap against training size")
            captions["gap"] = "Generalisation gap against the number of training patients, with 95 % intervals."
        return album.with_captions(**captions)

    def _render(self, tables: Mapping[str, pd.DataFrame], pictures: Mapping[str, Picture]) -> str:
        return render(
            "masks.html.j2",
            title=self.title,
            simulated=self.simulated,
            sentences=self.sentences(),
            tiles=self._tiles(),
            overlap=[self._overlap_view(structure) for structure in self.structures],
            detection=self._detection_view(),
            operating=self._operating_view(),
            classification=self._classification_view(tables.get("classification")),
            areas=self._areas_view(tables.get("multiclass")),
            gap=self._gap_view(),
            baselines=self._baseline_view(tables.get("baselines")),
            published=self._published_view(tables),
            pictures=pictures,
            methods=self._methods(),
            settings=settings_text(self.record),
            versions=versions_text(self.record.get("versions")),
            files=sorted(tables),
            glossary=GLOSSARY,
        )

    def sentences(self) -> list[tuple[str, str]]:
        """Lead and text of the summary's parts."""
        row = self._row(self.judged_split, self.lesions, "dice")
        who = SPLIT_NAMES[self.judged_split].lower()
        parts = [(
            "Overlap.",
            f"In {int(row['n_cases'])} {who} cases of {int(row['n_patients'])} patients the mean Dice of "
            f"{words(self.lesions)} is {number(row['mean'])} (95 % CI {interval(row['ci_low'], row['ci_high'])}).",
        )]  # fmt: skip
        if self.gap is not None:
            gap = self.gap.table.iloc[0]
            verdict = (
                "The model is overfitted: it does much better on the patients that it was trained on."
                if self.gap.overfit
                else "Overfitting is not shown: the interval's lower bound does not exceed the limit of "
                f"{gap['threshold']:g} that was fixed beforehand."
            )
            parts.append((
                "Training against test.",
                f"Mean Dice {number(gap['train_mean'])} on training and {number(gap['test_mean'])} on test patients: a "
                f"gap of {number(gap['gap'])} (95 % CI {interval(gap['ci_low'], gap['ci_high'])}). {verdict}",
            ))  # fmt: skip
        lesion = self._lesion_tables
        if lesion:
            all_sizes = lesion["detection"]
            found = all_sizes[(all_sizes["split"] == self.judged_split) & (all_sizes["stratum"] == "all")]
            if len(found) and found.iloc[0]["n_lesions"]:
                d = found.iloc[0]
                low, high = 100 * d["ci_low"], 100 * d["ci_high"]
                share = f", a recall of {number(100 * d['recall'], 1)} % (95 % CI {interval(low, high, 1)})"
                parts.append((
                    "Lesions.",
                    f"{int(d['detected'])} of {int(d['n_lesions'])} lesions were found{'' if d['too_few'] else share}"
                    f", with {number(d['fp_per_case'])} false positives per case.",
                ))  # fmt: skip
        return parts

    def _row(self, split: str, structure: str, metric: str) -> pd.Series:
        chosen = self.summary[
            (self.summary["split"] == split)
            & (self.summary["structure"] == structure)
            & (self.summary["metric"] == metric)
        ]
        return chosen.iloc[0]

    def _tiles(self) -> list[tuple[str, str, str]]:
        who = SPLIT_NAMES[self.judged_split]
        tiles = []
        for structure in self.structures[-3:]:
            row = self._row(self.judged_split, structure, "dice")
            tiles.append((f"{who} Dice, {words(structure)}", number(row["mean"]), f"95 % CI {_bounds(row)}"))
        if self.gap is not None:
            row = self.gap.table.iloc[0]
            tiles.append(("Training − test", number(row["gap"]), f"95 % CI {_bounds(row)}"))
        return tiles

    def _overlap_view(self, structure: str) -> View:
        """All sets side by side: one row per metric, one column per set."""
        own = self.summary[self.summary["structure"] == structure]
        rows = []
        for metric, name in METRIC_NAMES.items():
            cells = [Cell(name)]
            for split in self.splits:
                found = own[(own["split"] == split) & (own["metric"] == metric)]
                cells.append(_estimate(found.iloc[0]) if len(found) else Cell("–"))
            rows.append(Row(cells))
        counts = own.drop_duplicates("split").set_index("split")["n_cases"]
        columns = ["Metric", *(f"{SPLIT_NAMES[split]} (n = {int(counts[split])})" for split in self.splits)]
        convention = str(own["convention"].iloc[0])
        note = f"Mean over cases, 95 % interval by resampling patients. Empty masks: {_convention_text(convention)}"
        return View(words(structure), columns, rows, note)

    def _detection_view(self) -> View | None:
        if not self._lesion_tables:
            return None
        table = self._lesion_tables["detection"]
        rows = []
        for split, part in table.groupby("split", sort=False):
            rows.append(Row([Cell(SPLIT_NAMES[str(split)])], "group"))
            for row in part[part["n_lesions"] > 0].to_dict("records"):
                text = "too few" if row["too_few"] else f"{number(100 * row['recall'], 1)} %"
                below = "" if row["too_few"] else interval(100 * row["ci_low"], 100 * row["ci_high"], 1)
                name = "All lesions" if row["stratum"] == "all" else row["stratum"]
                cells = [Cell(name), Cell(f"{int(row['detected'])} / {int(row['n_lesions'])}"), Cell(text, below)]
                cells += [_with_bounds(row, "precision"), _with_bounds(row, "f1"), _with_bounds(row, "fp_per_case")]
                rows.append(Row(cells))
        rule = str(table["rule"].iloc[0]).replace("_", " ")
        note = (
            f"Size: maximum 3D diameter of the reference lesion. Rule for found: {rule}. Strata with too few lesions "
            "for a percentage are marked. Intervals resample patients, or are Wilson's where a patient has one lesion."
        )
        columns = ["Lesions", "Found", "Recall", "Precision", "F1", "False positives per case"]
        return View(f"Detection of {self.lesions}", columns, rows, note)

    def _operating_view(self) -> View | None:
        if not self._lesion_tables or self._lesion_tables["froc"] is None:
            return None
        found = self._lesion_tables["froc"]
        rows = []
        for split, part in found.operating_points.groupby("split", sort=False):
            rows.append(Row([Cell(SPLIT_NAMES[str(split)])], "group"))
            for row in part.to_dict("records"):
                known = np.isfinite(row["ci_low"])
                below = interval(100 * row["ci_low"], 100 * row["ci_high"], 1) if known else ""
                recall = f"{number(100 * row['sensitivity'], 1)} %" if np.isfinite(row["sensitivity"]) else "–"
                rows.append(Row([Cell(f"{row['rate']:g}"), Cell(recall, below), Cell(number(row["threshold"], 3))]))
        columns = ["False positives per case, at most", "Recall", "Confidence from"]
        return View("Recall at fixed rates of false positives", columns, rows, found.method)

    def _classification_view(self, table: pd.DataFrame | None) -> View | None:
        if table is None:
            return None
        names = {
            "reference_mask": "Given the reference mask", "detected": "Lesions that were found",
            "end_to_end": "End to end (missed = wrong)",
        }  # fmt: skip
        rows = []
        for split, part in table.groupby("split", sort=False):
            rows.append(Row([Cell(SPLIT_NAMES[str(split)])], "group"))
            filled = part["stratum"].isin(part.loc[part["n_lesions"] > 0, "stratum"])
            for stratum, own in part[filled].groupby("stratum", sort=False):
                cells = [Cell("All lesions" if stratum == "all" else str(stratum))]
                for name in names:
                    cells.append(_accuracy(own[own["denominator"] == name].iloc[0]))
                rows.append(Row(cells))
        return View("Class of each lesion: accuracy", ["Lesions", *names.values()], rows)

    def _gap_view(self) -> View | None:
        if self.gap is None:
            return None
        sizes = self.gap_sizes
        table = self.gap.table.assign(training_size=self.gap.table["n_train_patients"]) if sizes is None else sizes
        rows = [
            Row([
                Cell(str(int(row["training_size"]))), Cell(number(row["train_mean"])), Cell(number(row["test_mean"])),
                Cell(number(row["gap"]), interval(row["ci_low"], row["ci_high"])),
                Cell("overfitted" if row["overfit"] else "not shown"),
            ])
            for row in table.to_dict("records")
        ]  # fmt: skip
        columns = ["Training patients", "Dice, training", "Dice, test", "Gap", "Overfitting"]
        return View("Generalisation gap", columns, rows, self.gap.method)

    def _baseline_view(self, table: pd.DataFrame | None) -> View | None:
        if table is None:
            return None
        rows = [
            Row([Cell(words(row["structure"])), Cell(SPLIT_NAMES[row["split"]]), _estimate(pd.Series(row))])
            for row in table.to_dict("records")
        ]
        note = "A threshold of the density, and the place where kidneys usually lie: what no network is needed for."
        return View("Trivial methods on the same cases", ["Method", "Set", "Dice"], rows, note=note, n_names=2)

    def _methods(self) -> list[tuple[str, str]]:
        parts = [(
            "Intervals",
            f"95 % intervals from {self._settings['n_boot']} bootstrap draws of patients with all their cases (BCa for "
            f"means, percentiles for the gap and for rates; seed {self._settings['seed']}).",
        )]  # fmt: skip
        if self.gap is not None:
            parts.append(("Overfitting", self.gap.method))
        parts.append(("Volumes", self._volumes().method))
        if look := self.record.get("second_look"):
            parts.append(("Second look", _second_look_text(look)))
        return parts


def _second_look_text(look: Mapping[str, Any]) -> str:
    left_out, allowed = look["left_out"], look["false_positives_allowed"]
    return (
        "The masses that the networks marked were ranked by a logistic regression on measurements of size, density, "
        "place and probability, their squares and products, fitted to "
        f"{look['masses']} masses and {look['others']} other "
        f"candidates of {look['patients']} patients whom the network in question was not trained on (candidates, then "
        "fewer false ones: Setio et al. 2017, doi:10.1016/j.media.2017.06.015). Its score is the confidence of a mass. "
        f"The cut-off was fixed there (false positives a patient: at most {allowed:g}): in patients left out of the "
        f"fit it kept {number(100 * left_out['masses_kept'], 1)} % of the masses among the candidates, with "
        f"{number(left_out['false_positives'])} false positives a patient."
    )


def _draw_curves(curves: pd.DataFrame, ax: Any) -> None:
    plots.plot_training_curves(curves, ax=ax)


def _bounds(row: pd.Series) -> str:
    return interval(row["ci_low"], row["ci_high"])


def _estimate(row: pd.Series) -> Cell:
    if not np.isfinite(row["mean"]):
        return Cell("–")
    digits = 2 if row["metric"] in ("hd95_mm", "assd_mm") else 3
    undefined = f"; undefined in {int(row['n_undefined'])}" if row["n_undefined"] else ""
    return Cell(number(row["mean"], digits), interval(row["ci_low"], row["ci_high"], digits) + undefined)


def _with_bounds(row: Mapping[str, Any], name: str) -> Cell:
    if not np.isfinite(row[name]):
        return Cell("")
    below = interval(row[f"{name}_low"], row[f"{name}_high"]) if np.isfinite(row[f"{name}_low"]) else ""
    return Cell(number(row[name]), below)


def _accuracy(row: pd.Series) -> Cell:
    if not row["n_lesions"]:
        return Cell("–")
    count = f"{int(row['correct'])} / {int(row['n_lesions'])}"
    if row["too_few"]:
        return Cell(count, "too few for a percentage")
    low, high = 100 * row["ci_low"], 100 * row["ci_high"]
    return Cell(f"{number(100 * row['accuracy'], 1)} %", f"{count}; {interval(low, high, 1)}")


def _convention_text(convention: str) -> str:
    return str(CONVENTIONS.get(convention.split(";")[0], convention))
