"""Figures and tables as files, and figures as pictures inside a page."""

from __future__ import annotations

import base64
import dataclasses
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hybrid.files import write_bytes, write_csv

from .plots import COLUMN_WIDTH

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PNG_DPI: Final = 300


@dataclass(frozen=True)
class Picture:
    """A figure inside a page: ``source`` is a data address, so that the page needs no other file."""

    name: str
    source: str
    alt: str
    caption: str = ""


class Album:
    """Draws figures, writes each as SVG and PNG into a folder and keeps it for the page.

    Parameters
    ----------
    folder : Path
        Where the files go.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pictures: list[Picture] = []

    def add(self, name: str, draw: Callable[[Axes], object], *, height: float, alt: str) -> None:
        """Draw one figure of single-column width.

        Parameters
        ----------
        name : str
            File name without ending.
        draw : callable
            Takes the Axes to draw on.
        height : float
            Inches.
        alt : str
            Description for readers who cannot see it.
        """
        from matplotlib.figure import Figure

        # A figure of its own: no pyplot state, no backend of the user touched.
        figure = Figure(figsize=(COLUMN_WIDTH, height), layout="constrained")
        draw(figure.add_subplot())
        self.add_figure(name, figure, alt=alt)

    def add_figure(self, name: str, figure: Figure, *, alt: str) -> None:
        """Keep a figure that is drawn already; see :meth:`add`."""
        import matplotlib as mpl

        # A fixed salt and no date, so that the same numbers give the same file; the user's settings return.
        with mpl.rc_context({"svg.hashsalt": "hybrid"}):
            svg = _rendered(figure, "svg", metadata={"Date": None})
        write_bytes(svg, self._folder / f"{name}.svg")
        write_bytes(_rendered(figure, "png", dpi=PNG_DPI), self._folder / f"{name}.png")
        source = f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"
        self._pictures.append(Picture(name, source, alt))

    def with_captions(self, **captions: str) -> dict[str, Picture]:
        """Pictures by name, each with its caption."""
        return {item.name: dataclasses.replace(item, caption=captions[item.name]) for item in self._pictures}


def _rendered(figure: Figure, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format=kind, facecolor="white", bbox_inches="tight", pad_inches=0.03, **options)
    return stream.getvalue()


def write_tables(tables: Mapping[str, pd.DataFrame], report: Path, *, optional: Sequence[str] = ()) -> None:
    """Write the tables behind a report into the folder ``tables`` beside it, one file for each name.

    Tables named in ``optional`` that this report does not have are removed: an earlier report left them.
    """
    for name in set(optional) - set(tables):
        (report.parent / "tables" / f"{name}.csv").unlink(missing_ok=True)
    for name, table in tables.items():
        write_csv(table, report.parent / "tables" / f"{name}.csv")
