"""One page on where a network looked when it named lesions or described them."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pandas as pd

from hybrid.errors import InputError
from hybrid.files import write_text
from hybrid.tables import require_columns

from .figures import Picture
from .pages import render
from .views import Cell, Row, View, failures_view
from .wording import number, settings_text, versions_text

SHOWN: Final = 12
"""Pictures on the page, by turns over what is explained."""

PARTLY, HARDLY = 0.3, 0.5
"""Mean rank correlations with untrained copies from which the maps depend partly, and hardly, on what was learnt."""

SOURCES: Final = {
    "gradcam": ("Grad-CAM", "Selvaraju et al. 2017, doi:10.1109/ICCV.2017.74"),
    "gradcam++": ("Grad-CAM++", "Chattopadhay et al. 2018, doi:10.1109/WACV.2018.00097"),
}


class LesionMapReport:
    """Maps of lesions, how much of them lies on the lesion, and whether they depend on what was learnt.

    Parameters
    ----------
    maps : DataFrame
        One row per lesion: ``case_id, patient_id, lesion_id, max_diameter_mm, explained, probability, layer, method,
        flat, on_lesion, lesion_share, picture``.
    folder : path-like
        Holds ``saliency/`` with the pictures.
    randomisation : DataFrame
        ``correlation`` and ``changed`` of each map compared with one of an untrained copy.
    failures : DataFrame, optional
        ``case_id, message, advice``.
    title : str
        Heading.
    simulated : bool
        Said at the top.
    run_record : mapping, optional
        Settings and versions.

    Raises
    ------
    InputError
        Without a map.
    """

    def __init__(
        self,
        maps: pd.DataFrame,
        folder: str | Path,
        *,
        randomisation: pd.DataFrame,
        failures: pd.DataFrame | None = None,
        title: str = "Where the network looks",
        simulated: bool = False,
        run_record: Mapping[str, Any] | None = None,
    ) -> None:
        needed = ("case_id", "patient_id", "lesion_id", "explained", "on_lesion", "lesion_share", "picture")
        require_columns(maps, needed, "maps")
        if maps.empty:
            raise InputError("There is no map to report.")
        self.maps, self.folder, self.randomisation = maps, Path(folder), randomisation
        self.failures = failures if failures is not None else pd.DataFrame()
        self.title, self.simulated, self.record = title, simulated, dict(run_record or {})

    def save(self, path: str | Path) -> Path:
        """Write the page.

        Returns
        -------
        Path
            The same path.
        """
        versions = versions_text(self.record.get("versions"))
        text = render(
            "lesion_maps.html.j2", title=self.title, simulated=self.simulated, sentences=self.sentences(),
            summary=self._summary_view(), pictures=self._pictures(), n_maps=len(self.maps),
            failures=failures_view(self.failures, "Not explained"), methods=self._methods(), versions=versions,
            settings=settings_text(self.record),
        )  # fmt: skip
        return write_text(text, Path(path))

    def summary(self) -> pd.DataFrame:
        """By what is explained: lesions, patients, median share of the map on the lesion and of lesion in the crop."""
        known = self.maps.assign(ratio=self.maps["on_lesion"] / self.maps["lesion_share"])
        return (
            known.groupby("explained", sort=True)
            .agg(
                lesions=("lesion_id", "size"), patients=("patient_id", "nunique"), flat=("flat", "sum"),
                on_lesion=("on_lesion", "median"), lesion_share=("lesion_share", "median"), ratio=("ratio", "median"),
            )
            .reset_index()
        )  # fmt: skip

    def sentences(self) -> list[tuple[str, str]]:
        """Lead words and text of the summary."""
        on, area = self.maps["on_lesion"].median(), self.maps["lesion_share"].median()
        parts = [
            (
                f"{len(self.maps)} lesions of {self.maps['patient_id'].nunique()} patients.",
                f"In the median {number(100 * on, 0)} % of a map lies on the lesion, which fills "
                f"{number(100 * area, 0)} % of what the network sees.",
            )
        ]
        correlation, changed = self.randomisation["correlation"].mean(), int(self.randomisation["changed"].sum())
        verdict = "The maps depend on what was learnt."
        if correlation >= HARDLY:
            verdict = "The maps hardly depend on what was learnt: do not use them."
        elif correlation >= PARTLY:
            verdict = "The maps depend only partly on what was learnt."
        text = (
            f"Compared with untrained copies of the network the mean rank correlation is {number(correlation)}; "
            f"{changed} of {len(self.randomisation)} maps changed."
        )
        return [*parts, (verdict, text)]

    def _summary_view(self) -> View:
        rows = [
            Row([
                Cell(str(row["explained"])), Cell(f"{row['lesions']} ({row['patients']})"),
                Cell(f"{number(100 * row['on_lesion'], 0)} %"), Cell(f"{number(100 * row['lesion_share'], 0)} %"),
                Cell(number(row["ratio"], 1)), Cell(str(int(row["flat"]))),
            ])
            for row in self.summary().to_dict("records")
        ]  # fmt: skip
        columns = [
            "Explained",
            "Lesions (patients)",
            "Of the map on the lesion",
            "Of the crop is lesion",
            "Ratio",
            "Empty",
        ]
        note = (
            "Medians over lesions. A ratio near 1: the map is spread evenly; above 1: it favours the lesion over its "
            "surroundings. Empty: nothing at this layer speaks for what is explained."
        )
        return View("How much of a map lies on the lesion", columns, rows, note)

    def _pictures(self) -> list[Picture]:
        """One lesion of each explained class by turns, the most probable first."""
        rows = self.maps.sort_values(["probability", "case_id"], ascending=[False, True], kind="stable")
        rows = rows.assign(turn=rows.groupby("explained").cumcount()).sort_values("turn", kind="stable").head(SHOWN)
        return [self._picture(row) for row in rows.to_dict("records")]

    def _picture(self, row: Mapping[str, Any]) -> Picture:
        content = (self.folder / "saliency" / str(row["picture"])).read_bytes()
        sure = "" if pd.isna(row["probability"]) else f", probability {number(float(row['probability']))}"
        caption = f"{row['case_id']}, lesion {row['lesion_id']}: {row['explained']}{sure}"
        source = f"data:image/png;base64,{base64.b64encode(content).decode()}"
        return Picture(Path(str(row["picture"])).stem.replace(" ", "_"), source, f"Map of {caption}", caption)

    def _methods(self) -> list[tuple[str, str]]:
        first = self.maps.iloc[0]
        name, source = SOURCES[str(first["method"])]
        return [
            (
                "Maps",
                f"{name} ({source}) at layer {first['layer']}, interpolated to the grid of the image; saliency/ holds "
                "every map as picture and as NIfTI. The network sees a cube around the lesion; outside of it a map is "
                "0. A map shows which region this network used; it is no segmentation, and no proof of a cause.",
            ),
            (
                "Encoders",
                "An encoder names nothing: its map shows which region makes the embedding of the lesion long.",
            ),
            (
                "Check",
                "All weights are drawn anew, and the maps compared by rank correlation (Adebayo et al. 2018, "
                "doi:10.48550/arXiv.1810.03292). No pointing score is given: the crop is centred on the lesion, so "
                "that its middle would always be right.",
            ),
        ]
