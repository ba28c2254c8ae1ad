"""One self-contained HTML report of a transfer study."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Final

import pandas as pd

from hybrid.files import write_text

from . import transfer as study
from .figures import Album, Picture, write_tables
from .pages import render
from .published import published_table, published_view
from .transfer import (
    ARMS,
    claim_sentence,
    contrast_arms,
    contrast_values,
    first_sentence,
    summarise_arms,
    trainings_sentence,
    usual_scores,
    varied_scores,
)
from .views import Cell, Row, View
from .wording import interval, number, p_value, settings_text, signed, versions_text

OPTIONAL: Final = (
    "contrasts", "contrasts_fine_tuning", "learning_curve", "learning_curve_tests", "dilution", "dilution_tests",
    "published",
)  # fmt: skip
"""Tables that not every study has."""

METRIC_NAMES: Final = {"dice": "Dice", "surface_dice": "Surface Dice", "hd95_mm": "HD95 (mm)"}
REFERENCE: Final = "primary_only"
FINE_TUNING: Final = "fine_tune"
TESTED: Final = ("Structure", "Metric", "Difference", "p", "p (Holm)")
VARIED: Final = (
    ("learning_curve", "n_training", "What fewer primary patients cost", "Patients",
     "Trained on fewer patients minus trained on all"),
    ("dilution", "weight", "Does the auxiliary cohort dilute the primary one?", "Weight",
     "A heavier auxiliary loss minus the lightest one: below zero, it hurts"),
)  # fmt: skip
"""Table, column, title, heading of the column and note of what varies within an arm."""


class TransferReport:
    """Which way of borrowing from an auxiliary cohort helps, with intervals.

    Parameters
    ----------
    scores : DataFrame
        See :data:`hybrid.analysis.transfer.SCORE_COLUMNS`, with ``n_training`` and ``weight``.
    title : str
        Heading.
    simulated : bool
        Said at the top.
    run_record : mapping, optional
        Settings and versions.
    n_boot, seed : int
        Of all intervals.
    """

    def __init__(
        self,
        scores: pd.DataFrame,
        *,
        title: str = "Transfer to a small cohort",
        simulated: bool = False,
        run_record: Mapping[str, Any] | None = None,
        n_boot: int = 2000,
        seed: int = 0,
    ) -> None:
        self.scores, self.title, self.simulated = scores, title, simulated
        self.record = dict(run_record or {})
        self._settings: dict[str, Any] = {"n_boot": n_boot, "seed": seed}

    @cached_property
    def summary(self) -> pd.DataFrame:
        """Mean of every arm, see :func:`~hybrid.analysis.transfer.summarise_arms`."""
        return summarise_arms(usual_scores(self.scores), **self._settings)

    @cached_property
    def contrasts(self) -> pd.DataFrame | None:
        """Differences from the primary cohort alone; None when that arm was not trained."""
        usual = usual_scores(self.scores)
        return contrast_arms(usual, reference=REFERENCE, **self._settings) if REFERENCE in set(usual["arm"]) else None

    @cached_property
    def borrowed(self) -> pd.DataFrame | None:
        """Differences of the arms that borrow from fine-tuning of all layers; None without it or without another."""
        usual = usual_scores(self.scores)
        usual = usual[usual["arm"] != REFERENCE]
        if not {FINE_TUNING} < set(usual["arm"]):
            return None
        return contrast_arms(usual, reference=FINE_TUNING, **self._settings)

    def tables(self) -> dict[str, pd.DataFrame]:
        """Every table behind the report, unrounded, by the name of its file."""
        tables = {"arms": self.summary}
        if self.contrasts is not None:
            tables["contrasts"] = self.contrasts
        if self.borrowed is not None:
            tables["contrasts_fine_tuning"] = self.borrowed
        for name, column in (("learning_curve", "n_training"), ("dilution", "weight")):
            rows = varied_scores(self.scores, column)
            if len(rows):
                parts = [
                    summarise_arms(group, **self._settings).assign(**{column: value})
                    for value, group in rows.groupby(column)
                ]
                tables[name] = pd.concat(parts, ignore_index=True)
                tables[f"{name}_tests"] = contrast_values(self.scores, column, **self._settings)
        published = self._published()
        return tables if published is None else {**tables, "published": published}

    def _published(self) -> pd.DataFrame | None:
        """Lay the printed figures beside the dual branch; None when nothing of ours is called as theirs."""
        own = self.summary[self.summary["arm"] == "dual_branch"].rename(columns={"n_patients": "n_cases"})
        table = published_table("transfer", split="test", overlap=own.assign(split="test"))
        return table if table["value"].notna().any() else None

    def save(self, path: str | Path) -> Path:
        """Write the report, ``tables/*.csv`` and ``figures/`` beside it.

        Returns
        -------
        Path
            The same path.
        """
        path, tables = Path(path), self.tables()
        write_tables(tables, path, optional=OPTIONAL)
        pictures = self._pictures(path.parent / "figures", tables)
        page = render(
            "transfer.html.j2", title=self.title, simulated=self.simulated, sentence=self.sentence(),
            arms=[self._arms_view(structure) for structure in self.summary["structure"].unique()],
            contrasts=self._contrasts_views(), varied=_varied_views(tables), published=_published_view(tables),
            pictures=pictures, methods=self._methods(),
            settings=settings_text(self.record),
            versions=versions_text(self.record.get("versions")),
            files=sorted(tables),
        )  # fmt: skip
        return write_text(page, path)

    def sentence(self) -> str:
        """First sentence of the report."""
        if self.contrasts is None:
            return "The arm without any borrowing was not trained, so nothing can be said about its use."
        claim = "" if self.borrowed is None else claim_sentence(self.borrowed)
        parts = (first_sentence(self.contrasts), claim, trainings_sentence(self.summary))
        return " ".join(part for part in parts if part)

    def _arms_view(self, structure: str) -> View:
        own = self.summary[self.summary["structure"] == structure]
        metrics = [name for name in METRIC_NAMES if name in set(own["metric"])]
        rows = []
        for arm in [name for name in ARMS if name in set(own["arm"])]:
            cells = [Cell(ARMS[arm])]
            for metric in metrics:
                row = own[(own["arm"] == arm) & (own["metric"] == metric)].iloc[0]
                digits = 1 if metric == "hd95_mm" else 3
                cells.append(Cell(number(row["mean"], digits), interval(row["ci_low"], row["ci_high"], digits)))
            spread = own[(own["arm"] == arm) & (own["metric"] == "dice")]["run_sd"]
            single = arm == "zero_shot" or spread.empty
            cells.append(Cell("one network" if single else number(float(spread.iloc[0]), 3)))
            rows.append(Row(cells))
        n = int(own["n_patients"].max())
        columns = ["Arm", *(METRIC_NAMES[name] for name in metrics), "SD of Dice between trainings"]
        return View(f"{structure}: mean over {n} test patients, 95 % CI", columns, rows)

    def _contrasts_views(self) -> list[View]:
        views = []
        for title, reference, table in (
            ("Does borrowing help?", REFERENCE, self.contrasts),
            ("Does anything beat plain fine-tuning?", FINE_TUNING, self.borrowed),
        ):
            if table is not None:
                rows = [_tested_row(row, ARMS[row["arm"]]) for row in table.to_dict("records")]
                note = f"The arm minus '{ARMS[reference]}', paired by patient. {_test_note(table)}"
                views.append(View(title, ["Arm", *TESTED], rows, note=note, n_names=3))
        return views

    def _pictures(self, folder: Path, tables: Mapping[str, pd.DataFrame]) -> dict[str, Picture]:
        album, captions = Album(folder), {}
        album.add("arms", partial(_draw_arms, self.summary), height=3.4, alt="Dice of every arm")
        captions["arms"] = "Mean Dice of every arm with its 95 % interval over patients."
        if "learning_curve" in tables:
            draw = partial(_draw_curve, tables["learning_curve"], "n_training", "Primary training patients")
            album.add("learning_curve", draw, height=3.4, alt="Dice against number of training patients")
            captions["learning_curve"] = "Mean Dice against the number of primary training cases."
        if "dilution" in tables:
            draw = partial(_draw_curve, tables["dilution"], "weight", "Weight of the auxiliary loss")
            album.add("dilution", draw, height=3.4, alt="Dice against the weight of the auxiliary loss")
            captions["dilution"] = "Dilution: mean Dice of joint training against the weight of the auxiliary loss."
        if "dual_branch" in set(self.summary["arm"]):
            album.add("wiring", _draw_wiring, height=2.6, alt="Wiring of the dual-branch network")
            captions["wiring"] = "The FS-Net-style network: closed gates pass the primary branch alone."
        return album.with_captions(**captions)

    def _methods(self) -> list[tuple[str, str]]:
        return [
            (
                "Comparison",
                "All arms share the plan, the number of steps, the test patients and the auxiliary network that they "
                "start from. A patient's value is the mean over trainings; intervals resample patients "
                f"({self._settings['n_boot']} draws, BCa).",
            ),
            (
                "Arms",
                "Primary cohort only: from random weights. Auxiliary cohort only: its network as it is. Fine-tuning: "
                "all layers, or with the encoder frozen for the first half. Joint training: half of every step's "
                "patches are auxiliary, a second input channel tells the cohorts apart, and classes that a cohort does "
                "not draw count as its background. Dual branch: see the figure; the auxiliary loss fades to nothing.",
            ),
            (
                "Source",
                "After the dual-channel FS-Net of Zhu et al. 2022 (doi:10.1007/s11548-022-02587-2), whose wiring is "
                "not public: ours is in that style, not a copy.",
            ),
        ]


def _tested_row(row: Mapping[str, Any], *names: str) -> Row:
    return Row([
        *map(Cell, names), Cell(str(row["structure"])), Cell(METRIC_NAMES.get(row["metric"], row["metric"])),
        Cell(signed(row["difference"]), interval(row["ci_low"], row["ci_high"], 3)),
        Cell(p_value(row["p"])), Cell(p_value(row["p_holm"])),
    ])  # fmt: skip


def _test_note(table: pd.DataFrame) -> str:
    return f"p: Wilcoxon signed-rank test; Holm's adjustment over all {len(table)} comparisons."


def _varied_views(tables: Mapping[str, pd.DataFrame]) -> list[View]:
    """Paired tests of the learning curve and of the dilution test, as far as they were run."""
    views = []
    for name, column, title, heading, note in VARIED:
        table = tables.get(f"{name}_tests")
        if table is None or table.empty:
            continue
        shown = table[table["metric"] == "dice"]
        rows = [
            _tested_row(row, ARMS[row["arm"]], f"{row[column]:g} against {row['reference']:g}")
            for row in shown.to_dict("records")
        ]
        note = f"{note}, paired by patient. {_test_note(table)} Surface Dice is in tables/{name}_tests.csv."
        views.append(View(title, ["Arm", heading, *TESTED], rows, note=note, n_names=4))
    return views


def _published_view(tables: Mapping[str, pd.DataFrame]) -> View | None:
    return published_view("transfer", tables["published"]) if "published" in tables else None


def _draw_arms(summary: pd.DataFrame, ax: Any) -> None:
    study.plot_arms(summary, ax=ax)


def _draw_curve(table: pd.DataFrame, x: str, label: str, ax: Any) -> None:
    study.plot_curve(table, x=x, label=label, ax=ax)


def _draw_wiring(ax: Any) -> None:
    study.plot_wiring(ax=ax)
