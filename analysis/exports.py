"""The tables and figures of a report as Word, Excel, LaTeX and Markdown files.

Word, LaTeX and Markdown show what the HTML page shows: the rounded tables of :mod:`.views` and the same figures. The
workbook holds the tables behind them, unrounded.
"""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Protocol

import numpy as np
import pandas as pd

from hybrid.errors import InputError, MissingDependencyError, unknown_name
from hybrid.files import write_bytes, write_text

from .figures import Picture
from .views import Cell, Row, View

COLUMN_MM: Final = 84.0
"""Width of a figure in one column of a journal."""

PAGE_MM: Final = 174.0
"""Width of a figure across both columns; also the text width of the Word file."""

WIDER_THAN_COLUMN_MM: Final = 110.0
"""A figure drawn wider than this is placed across both columns."""

MAX_HEIGHT_MM: Final = 215.0
"""A taller figure is made smaller, so that its caption stays on the same page."""

MAX_SHEET_NAME: Final = 31
MAX_SHEET_ROWS: Final = 1_048_576
MAX_SHEET_COLUMNS: Final = 16_384

LONG_TABLE: Final = 40
"""LaTeX tables with more rows may break across pages."""

WIDE_TEXT: Final = 40
"""A column with longer texts is set in paragraphs."""

MAX_CHARACTERS: Final = 60
"""Longer texts are broken into lines of at most so many characters in Word, fewer where the page is full."""

CONTENTS: Final = {
    "metrics": "Every metric of every model with its interval: one row per model and metric",
    "confusion": "True and false positives and negatives of every model at its cut-off",
    "roc_curves": "Points of the ROC curves of the figure, with their bands",
    "calibration_metrics": "Slope, intercept, Brier score, ICI and further measures of calibration with intervals",
    "decision_curve": "Net benefit of every model and of acting on everybody, by threshold",
    "design_checks": "What was checked before training, with advice",
    "calibration": "Bins of the calibration figure: mean predicted probability and observed fraction",
    "excluded": "Cases that failed somewhere or were not evaluated, with the reason",
    "problems": "Problems that the check of the input found",
    "comparison": "Paired differences of the AUC: one row per pair of models",
    "models": "AUC of the compared models and of the yardsticks, with the permutation null",
    "cohort": "Description of the patients (Table 1): one row per variable, level and group",
    "cohort_by_split": "Description of the patients by split, with tests: one row per variable, level and group",
    "features_summary": "Number of features by family, missing and constant ones",
    "permutation_null": "AUC of the whole procedure on shuffled outcomes: one row per feature set and permutation",
    "masks_summary": "Overlap of predicted and reference masks: mean with interval by set, structure and metric",
    "volumes": "Volumes of predicted and reference masks of each case",
    "detection": "Lesions found and missed, by set and size",
    "recall_by_diameter": "Recall of lesions against their diameter, in bins",
    "froc": "Points of the FROC curve: recall and false positives per case",
    "froc_operating_points": "Recall at fixed rates of false positives per case",
    "generalisation_gap": "Training minus test: the gap of the mean, with its interval",
    "gap_by_training_size": "The generalisation gap against the number of training patients",
    "classification": "Accuracy of the class of each lesion, by set and size",
    "baselines": "Overlap that trivial methods reach on the same cases",
    "training_curves": "Loss and Dice after each epoch of training",
}
"""What the tables of the reports hold, by name."""


@dataclass(frozen=True)
class Section:
    """One section of a report.

    Attributes
    ----------
    title : str
        Heading.
    text : sequence of (str, str)
        Lead words and text of each paragraph.
    views : sequence of View
        Tables, rounded for readers.
    pictures : sequence of Picture
        Figures; their files lie in the folder they were drawn into.
    """

    title: str
    text: Sequence[tuple[str, str]] = ()
    views: Sequence[View] = ()
    pictures: Sequence[Picture] = ()


class Exportable(Protocol):
    """What :func:`export_report` needs: :class:`~hybrid.analysis.Report` and :class:`~hybrid.analysis.MaskReport`."""

    title: str

    def tables(self) -> dict[str, pd.DataFrame]:
        """Every table, unrounded, by name."""

    @property
    def sections(self) -> Callable[..., list[Section]]:
        """Method that draws the figures into a folder and returns the sections in order."""


def export_report(
    report: Exportable, folder: str | Path, formats: Sequence[str] = ("docx", "xlsx", "latex"), **drawing: Any
) -> dict[str, Path]:
    """Write a report in other formats than HTML.

    Parameters
    ----------
    report : Report or MaskReport
        The report.
    folder : path-like
        Receives ``report.docx``, ``report.xlsx``, ``report.md`` and ``latex/`` (one file per table, and
        ``tables.tex``, which inputs them all), and ``figures/``.
    formats : sequence of str
        Of ``"docx"``, ``"xlsx"``, ``"latex"``, ``"markdown"``.
    **drawing
        Passed to ``report.sections``; a :class:`~hybrid.analysis.MaskReport` takes ``slices``.

    Returns
    -------
    dict of str to Path
        The file of each format.

    Raises
    ------
    InputError
        For an unknown format; nothing is written then.
    MissingDependencyError
        For Word without python-docx; nothing is written then.
    """
    folder = Path(folder)
    for name in formats:
        if name not in _WRITERS:
            raise unknown_name("format", name, _WRITERS)
    if "docx" in formats:
        _docx()
    tables = report.tables()
    sections = report.sections(folder / "figures", tables, **drawing)
    return {name: _WRITERS[name](folder, report.title, sections, tables) for name in dict.fromkeys(formats)}


def _write_all_latex(folder: Path, title: str, sections: Sequence[Section], tables: Mapping[str, Any]) -> Path:
    views = [view for section in sections for view in section.views]
    names = [f"table_{i:02d}_{_slug(view.caption)}" for i, view in enumerate(views, start=1)]
    for name, view in zip(names, views, strict=True):
        write_latex(folder / "latex" / f"{name}.tex", view)
    lines = [f"% {_one_line(title)}", _LATEX_PACKAGES, *(f"\\input{{{name}}}" for name in names)]
    return write_text("\n".join(lines) + "\n", folder / "latex" / "tables.tex")


_WRITERS: Final[dict[str, Callable[[Path, str, Sequence[Section], Mapping[str, pd.DataFrame]], Path]]] = {
    "docx": lambda folder, title, sections, tables: write_docx(folder / "report.docx", title, sections),
    "xlsx": lambda folder, title, sections, tables: write_xlsx(folder / "report.xlsx", tables),
    "latex": _write_all_latex,
    "markdown": lambda folder, title, sections, tables: write_markdown(folder / "report.md", title, sections),
}


# Texts and names


def _clean(text: Any) -> str:
    """Text without the control characters that neither XML nor TeX can hold."""
    return re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]", "", str(text))


def _one_line(text: Any) -> str:
    """Text without line breaks; spaces that must not break stay."""
    return " ".join(re.split(r"[ \t\r\n]+", _clean(text).strip(" \t\r\n")))


def _slug(text: str) -> str:
    """Lower-case name for files and labels."""
    return "_".join(re.findall(r"[a-z0-9]+", text.lower())[:8]) or "table"


def _unnumbered(caption: str) -> str:
    """Caption without a number of its own: the file numbers its tables."""
    return re.sub(r"^(Table|Figure) \d+[.:]\s*", "", _one_line(caption))


def _padded(row: Row, view: View) -> list[Cell]:
    """Cells of a row, filled up to the number of columns.

    Raises
    ------
    InputError
        When the row has more cells than the table has columns.
    """
    if len(row.cells) > len(view.columns):
        raise InputError(
            f"Table {view.caption!r} has {len(view.columns)} columns; found a row with {len(row.cells)} cells.",
            advice="Give each row one cell per column.",
        )
    return [*row.cells, *[Cell("")] * (len(view.columns) - len(row.cells))]


def _file(path: str | Path, example: str) -> Path:
    path = Path(path)
    if path.is_dir():
        raise InputError("Expected a file name; found a folder.", advice=f"Example: {example}.", path=path)
    return path


# Word


def _docx() -> ModuleType:
    try:
        import docx
    except ImportError as error:
        raise MissingDependencyError(
            "python-docx, which writes Word files, is not installed.",
            advice="Install it with: pip install python-docx",
        ) from error
    return docx


def write_docx(path: str | Path, title: str, sections: Sequence[Section], *, figures: str | Path | None = None) -> Path:
    """Write sections as a Word file: real tables and numbered captions that Word can renumber and refer to.

    Parameters
    ----------
    path : path-like
        The file.
    title : str
        Heading of the document.
    sections : sequence of Section
        In order. Every table gets a caption above, a header row that is repeated on each page, numbers aligned to the
        right, and its note below. Figures are placed at the width of one column (84 mm) or of the page (174 mm),
        depending on how wide they were drawn.
    figures : path-like, optional
        Folder with ``<name>.png`` of each picture; by default ``figures`` beside the file.

    Returns
    -------
    Path
        The same path.

    Raises
    ------
    InputError
        When the path is a folder or the file of a picture is missing.
    MissingDependencyError
        Without python-docx.
    """
    path = _file(path, "report.docx")
    manuscript = _Manuscript(title, path.parent / "figures" if figures is None else Path(figures))
    for section in sections:
        manuscript.heading(section.title)
        for lead, text in section.text:
            manuscript.paragraph(lead, text)
        for view in section.views:
            manuscript.table(view)
        for picture in section.pictures:
            manuscript.picture(picture)
    return write_bytes(manuscript.content(), path)


class _Manuscript:
    """A Word document that is filled from top to bottom.

    Parameters
    ----------
    title : str
        Its first line and its title in the file's properties; no author is written.
    figures : Path
        Folder with the PNG files.
    """

    def __init__(self, title: str, figures: Path) -> None:
        self._lib = _docx()
        self._document = self._lib.Document()
        self._figures = figures
        self._count = {"Table": 0, "Figure": 0}
        self._lay_out()
        properties = self._document.core_properties
        properties.title, properties.author, properties.comments = _one_line(title)[:255], "", ""
        self._document.add_heading(_one_line(title), level=0)

    def heading(self, text: str) -> None:
        self._document.add_heading(_one_line(text), level=1)

    def paragraph(self, lead: str, text: str) -> None:
        paragraph = self._document.add_paragraph()
        if lead:
            paragraph.add_run(f"{_one_line(lead)} ").bold = True
        paragraph.add_run(_one_line(text))

    def table(self, view: View) -> None:
        self._caption("Table", view.caption).paragraph_format.keep_with_next = True
        table = self._document.add_table(rows=1 + len(view.rows), cols=len(view.columns))
        table.alignment = self._lib.enum.table.WD_TABLE_ALIGNMENT.LEFT
        table.autofit = False
        widths = [self._lib.shared.Mm(width) for width in _column_widths(view)]
        for column, width in zip(table.columns, widths, strict=True):
            column.width = width
        header = Row([Cell(column) for column in view.columns], "strong")
        for line, row in zip(table.rows, [header, *view.rows], strict=True):
            self._fill(line, row, view, widths)
        self._finish(table)
        self._document.add_paragraph(_one_line(view.note), style=_NOTE_STYLE)

    def picture(self, picture: Picture) -> None:
        file = self._figures / f"{picture.name}.png"
        if not file.is_file():
            raise InputError(
                f"The picture {picture.name!r} has no PNG file.",
                advice="Name the folder that the figures were drawn into (argument figures).",
                path=file,
            )
        paragraph = self._document.add_paragraph()
        paragraph.paragraph_format.keep_with_next = True
        run = paragraph.add_run()
        shape = run.add_picture(str(file))
        width = _figure_width(shape.width.mm, shape.height.mm)
        shape.width, shape.height = self._lib.shared.Mm(width), round(shape.height / shape.width.mm * width)
        shape._inline.docPr.set("descr", _clean(picture.alt))
        self._caption("Figure", picture.caption or picture.alt)

    def content(self) -> bytes:
        stream = io.BytesIO()
        self._document.save(stream)
        return stream.getvalue()

    def _lay_out(self) -> None:
        """A4 with the text as wide as two columns of a journal; plain black type."""
        shared = self._lib.shared
        page = self._document.sections[0]
        page.page_width, page.page_height = shared.Mm(210), shared.Mm(297)
        page.left_margin = page.right_margin = shared.Mm((210 - PAGE_MM) / 2)
        page.top_margin = page.bottom_margin = shared.Mm(20)
        styles = self._document.styles
        for fonts in styles.element.xpath("w:docDefaults//w:rFonts"):  # a theme's font would win over a name
            fonts.attrib.clear()
            fonts.set(self._lib.oxml.ns.qn("w:ascii"), _FONT)
            fonts.set(self._lib.oxml.ns.qn("w:hAnsi"), _FONT)
        paragraph_style = self._lib.enum.style.WD_STYLE_TYPE.PARAGRAPH
        for name in (_CELL_STYLE, _NOTE_STYLE):
            styles.add_style(name, paragraph_style).base_style = styles["Normal"]
        for name, points, before, after in (
            ("Normal", 10, 0, 6), ("Title", 18, 0, 12), ("Heading 1", 13, 14, 4), ("Caption", 9, 8, 3),
            (_CELL_STYLE, 8, 1, 1), (_NOTE_STYLE, 8, 2, 10),
        ):  # fmt: skip
            self._set_type(styles[name], points, before, after)
        styles["Caption"].font.bold = False
        for name in ("Title", "Heading 1"):  # no coloured line, and no linked style with a theme's type
            for part in styles[name].element.xpath("w:pPr/w:pBdr | w:link"):
                part.getparent().remove(part)

    def _set_type(self, style: Any, points: float, before: float, after: float) -> None:
        style.font.name, style.font.size = _FONT, self._lib.shared.Pt(points)
        style.font.color.rgb = self._lib.shared.RGBColor(0, 0, 0)
        style.paragraph_format.space_before = self._lib.shared.Pt(before)
        style.paragraph_format.space_after = self._lib.shared.Pt(after)

    def _caption(self, kind: str, text: str) -> Any:
        """Caption with a number field, so that Word can renumber and refer to it."""
        self._count[kind] += 1
        paragraph = self._document.add_paragraph(style="Caption")
        paragraph.add_run(f"{kind} ").bold = True
        for part in ("begin", "separate", str(self._count[kind]), "end"):
            run = paragraph.add_run("" if part in _FIELD_MARKS else part)
            run.bold = True
            if part in _FIELD_MARKS:
                run._r.append(self._element("w:fldChar", {"w:fldCharType": part}))
            if part == "begin":
                instruction = self._element("w:instrText", {"xml:space": "preserve"})
                instruction.text = f" SEQ {kind} \\* ARABIC "
                paragraph.add_run()._r.append(instruction)
        paragraph.add_run(". ").bold = True
        paragraph.add_run(_unnumbered(text))
        return paragraph

    def _fill(self, line: Any, row: Row, view: View, widths: Sequence[Any]) -> None:
        """Write one table row; headings of groups span all columns."""
        line._tr.get_or_add_trPr().append(self._element("w:cantSplit", {}))
        places = line.cells
        for place, width in zip(places, widths, strict=True):
            place.width = width
        if row.kind == "group":
            self._write(places[0].merge(places[-1]), row.cells[0], is_bold=True, is_number=False)
            return
        for i, (place, cell) in enumerate(zip(places, _padded(row, view), strict=True)):
            self._write(place, cell, is_bold=row.kind == "strong", is_number=i >= view.n_names)

    def _write(self, place: Any, cell: Cell, *, is_bold: bool, is_number: bool) -> None:
        align = self._lib.enum.text.WD_ALIGN_PARAGRAPH
        paragraph = place.paragraphs[0]
        paragraph.style = _CELL_STYLE
        paragraph.alignment = align.RIGHT if is_number else align.LEFT
        paragraph.add_run(_one_line(cell.text)).bold = is_bold or None
        if cell.below:
            below = paragraph.add_run()
            below.add_break()
            below.add_text(_one_line(cell.below))
            below.font.size = self._lib.shared.Pt(7)
            below.font.color.rgb = self._lib.shared.RGBColor(0x40, 0x40, 0x40)

    def _finish(self, table: Any) -> None:
        """Repeat the header on every page, and draw lines above it, below it and below the table."""
        header, last = table.rows[0], table.rows[-1]
        header._tr.get_or_add_trPr().append(self._element("w:tblHeader", {}))
        for cell in header._tr.tc_lst:
            self._rule(cell, ("top", "bottom"))
        for place in header.cells:
            place.vertical_alignment = self._lib.enum.table.WD_CELL_VERTICAL_ALIGNMENT.BOTTOM
        for cell in last._tr.tc_lst if len(table.rows) > 1 else ():  # a merged cell is there once
            self._rule(cell, ("bottom",))

    def _rule(self, cell: Any, sides: Iterable[str]) -> None:
        """Draw lines of half a point around a cell."""
        borders = self._element("w:tcBorders", {})
        for side in sides:
            borders.append(self._element(f"w:{side}", {"w:val": "single", "w:sz": "4", "w:color": "000000"}))
        cell.get_or_add_tcPr().append(borders)

    def _element(self, tag: str, attributes: Mapping[str, str]) -> Any:
        element = self._lib.oxml.OxmlElement(tag)
        for name, value in attributes.items():
            element.set(self._lib.oxml.ns.qn(name), value)
        return element


_FONT: Final = "Arial"
_CELL_STYLE: Final = "Table Text"
_NOTE_STYLE: Final = "Table Note"
_FIELD_MARKS: Final = ("begin", "separate", "end")


def _figure_width(width: float, height: float) -> float:
    """Width in mm of a figure that was drawn ``width`` x ``height`` mm: one column or the page, not taller than it."""
    wanted = COLUMN_MM if width <= WIDER_THAN_COLUMN_MM else PAGE_MM
    return min(wanted, MAX_HEIGHT_MM * width / height)


def _column_widths(view: View) -> list[float]:
    """Widths in mm by the longest word or number and the length of the texts; together at most the page."""
    longest = []
    for i, column in enumerate(view.columns):
        cells = [_padded(row, view)[i] for row in view.rows if row.kind != "group"]
        texts = [part for cell in cells for part in (cell.text, cell.below)]
        words = [len(word) for text in [column, *texts] for word in str(text).split(" ")]
        whole = max((len(str(text)) for text in texts), default=0)
        longest.append(max(*words, min(whole, MAX_CHARACTERS), min(len(column), 16)))
    natural = np.asarray(longest, dtype=float) * 1.75 + 5  # mm: a character of 8-point Arial, and the cell's margins
    return list(natural * min(1.0, PAGE_MM / natural.sum()))


# Excel


def write_xlsx(path: str | Path, tables: Mapping[str, pd.DataFrame], contents: Mapping[str, str] = CONTENTS) -> Path:
    """Write tables as a workbook: one sheet per table with unrounded numbers, after a sheet that lists them.

    Parameters
    ----------
    path : path-like
        The file.
    tables : mapping of str to DataFrame
        Tables by name; the index is not written. NaN becomes an empty cell, an infinite number the text ``inf``.
    contents : mapping of str to str
        What the tables hold, by name; for others the first sheet lists their columns.

    Returns
    -------
    Path
        The same path.

    Raises
    ------
    InputError
        When the path is a folder, or a table is larger than a sheet can be.

    Notes
    -----
    The file format stores numbers as decimal text; openpyxl writes 16 significant digits, so that the last bit of a
    number may differ. Texts that begin with ``=`` stay texts.
    """
    path = _file(path, "report.xlsx")
    names = _sheet_names(tables)
    overview = pd.DataFrame(
        [
            (names[name], name, contents.get(name) or f"Columns: {', '.join(map(str, table.columns))}", *table.shape)
            for name, table in tables.items()
        ],
        columns=["sheet", "table", "content", "rows", "columns"],
    )
    stream = io.BytesIO()
    with pd.ExcelWriter(stream, engine="openpyxl") as writer:
        for name, table in [("", overview), *tables.items()]:
            _check_size(name, table)
            sheet = names.get(name, _OVERVIEW)
            _writable(table).to_excel(writer, sheet_name=sheet, index=False, freeze_panes=(1, 0), inf_rep="inf")
            _finish_sheet(writer.sheets[sheet])
    return write_bytes(stream.getvalue(), path)


_OVERVIEW: Final = "contents"


def _sheet_names(tables: Iterable[str]) -> dict[str, str]:
    """Sheet name of each table: 31 characters at most, no character that Excel forbids, distinct whatever the case."""
    taken, names = {_OVERVIEW}, {}
    for table in tables:
        stem = re.sub(r"[\[\]:*?/\\']", "_", _one_line(table))[:MAX_SHEET_NAME] or "table"
        options = (stem[: MAX_SHEET_NAME - len(f"_{i}")] + f"_{i}" for i in itertools.count(2))
        names[table] = next(name for name in itertools.chain([stem], options) if name.lower() not in taken)
        taken.add(names[table].lower())
    return names


def _check_size(name: str, table: pd.DataFrame) -> None:
    if len(table) >= MAX_SHEET_ROWS or table.shape[1] > MAX_SHEET_COLUMNS:
        raise InputError(
            f"Table {name!r} has {len(table)} rows and {table.shape[1]} columns; a sheet holds at most "
            f"{MAX_SHEET_ROWS - 1} and {MAX_SHEET_COLUMNS}.",
            advice="Write this table as CSV.",
        )


def _writable(table: pd.DataFrame) -> pd.DataFrame:
    """Copy whose texts hold no control characters; times lose their zone, which a sheet cannot hold."""
    copy = table.copy()
    for i, kind in enumerate(copy.dtypes):
        values = copy.iloc[:, i]
        if isinstance(kind, pd.DatetimeTZDtype):
            copy.isetitem(i, values.dt.tz_convert("UTC").dt.tz_localize(None))
        elif not (pd.api.types.is_numeric_dtype(kind) or pd.api.types.is_datetime64_any_dtype(kind)):
            copy.isetitem(i, values.map(lambda value: _clean(value) if isinstance(value, str) else value))
    return copy


def _finish_sheet(sheet: Any) -> None:
    """Texts stay texts, the header is aligned left, and columns are as wide as their first rows need."""
    from openpyxl.styles import Alignment
    from openpyxl.utils import get_column_letter

    for line in sheet.iter_rows():
        for cell in line:
            if cell.data_type == "f":
                cell.data_type = "s"
    for cell in sheet[1]:
        cell.alignment = Alignment(horizontal="left")
    for i, column in enumerate(sheet.iter_cols(max_row=min(sheet.max_row, 50), values_only=True), start=1):
        longest = max(len(str(value)) for value in column if value is not None) if any(column) else 0
        sheet.column_dimensions[get_column_letter(i)].width = min(max(longest + 2, 8), 100)


# LaTeX

_LATEX_PACKAGES: Final = "% Needs in the preamble: \\usepackage{booktabs,array,longtable}"

_LATEX: Final = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': "''", "[": "{[}", "]": "{]}", "*": "{*}", "`": r"\textasciigrave{}",
    "\N{NO-BREAK SPACE}": "~", "\N{MINUS SIGN}": "$-$", "\N{EN DASH}": "--", "\N{EM DASH}": "---",
    "\N{LEFT DOUBLE QUOTATION MARK}": "``", "\N{RIGHT DOUBLE QUOTATION MARK}": "''",
    "\N{LEFT SINGLE QUOTATION MARK}": "`", "\N{RIGHT SINGLE QUOTATION MARK}": "'",
    "\N{GREATER-THAN OR EQUAL TO}": r"$\geq$", "\N{LESS-THAN OR EQUAL TO}": r"$\leq$",
    "\N{MULTIPLICATION SIGN}": r"$\times$", "\N{PLUS-MINUS SIGN}": r"$\pm$", "\N{MIDDLE DOT}": r"$\cdot$",
    "\N{SUPERSCRIPT TWO}": "$^2$", "\N{SUPERSCRIPT THREE}": "$^3$", "\N{DEGREE SIGN}": r"$^\circ$",
    "\N{ALMOST EQUAL TO}": r"$\approx$", "\N{NOT EQUAL TO}": r"$\neq$", "\N{RIGHTWARDS ARROW}": r"$\rightarrow$",
    "\N{MICRO SIGN}": r"$\mu$", "\N{GREEK SMALL LETTER MU}": r"$\mu$", "\N{GREEK SMALL LETTER ALPHA}": r"$\alpha$",
    "\N{GREEK SMALL LETTER BETA}": r"$\beta$", "\N{GREEK SMALL LETTER KAPPA}": r"$\kappa$",
    "\N{GREEK SMALL LETTER LAMDA}": r"$\lambda$", "\N{GREEK SMALL LETTER SIGMA}": r"$\sigma$",
    "\N{GREEK CAPITAL LETTER DELTA}": r"$\Delta$", "\N{HORIZONTAL ELLIPSIS}": r"\ldots{}",
}  # fmt: skip


def escape_latex(text: Any) -> str:
    """Text as LaTeX shows it literally: special characters escaped, signs of the report's texts as commands.

    Parameters
    ----------
    text : object
        Shown as ``str``.

    Returns
    -------
    str
        Other letters outside ASCII are kept: pdfTeX reads Latin ones, XeTeX and LuaTeX all that the font has.
    """
    return "".join(_LATEX.get(character, character) for character in _one_line(text))


def write_latex(path: str | Path, view: View) -> Path:
    """Write a table for LaTeX (booktabs): to be input into a manuscript.

    Parameters
    ----------
    path : path-like
        The file.
    view : View
        The table. Intervals stand in a smaller line below their estimates; more than 40 rows become a ``longtable``,
        which repeats its header.

    Returns
    -------
    Path
        The same path.

    Raises
    ------
    InputError
        When the path is a folder.
    """
    return write_text(latex_table(view), _file(path, "table.tex"))


def latex_table(view: View) -> str:
    """LaTeX source of a table, see :func:`write_latex`."""
    header = " & ".join(f"{{\\bfseries {escape_latex(column)}}}" for column in view.columns) + r" \\"
    body = [line for row in view.rows for line in _latex_lines(row, view)]
    columns = _latex_columns(view)
    caption = f"\\caption{{{escape_latex(_unnumbered(view.caption))}}}\\label{{tab:{_slug(view.caption)}}}"
    note = [f"\\par\\smallskip{{\\footnotesize\\raggedright {escape_latex(view.note)}\\par}}"] if view.note else []
    if len(view.rows) > LONG_TABLE:
        lines = [
            "{\\footnotesize", f"\\begin{{longtable}}{{{columns}}}", f"{caption}\\\\", "\\toprule", header, "\\midrule",
            "\\endfirsthead", "\\toprule", header, "\\midrule", "\\endhead", "\\bottomrule", "\\endfoot", *body,
            "\\end{longtable}", *note, "}",
        ]  # fmt: skip
    else:
        lines = [
            "\\begin{table}[htbp]", "\\centering\\footnotesize", f"{caption}\\smallskip",
            f"\\begin{{tabular}}{{{columns}}}",
            "\\toprule", header, "\\midrule", *body, "\\bottomrule", "\\end{tabular}", *note, "\\end{table}",
        ]  # fmt: skip
    return "\n".join([_LATEX_PACKAGES, *lines]) + "\n"


def _latex_columns(view: View) -> str:
    """``l`` for names, ``r`` for numbers, paragraphs for long texts."""
    kinds = []
    for i in range(len(view.columns)):
        cells = [_padded(row, view)[i] for row in view.rows if row.kind != "group"]
        longest = max((len(text) for cell in cells for text in (cell.text, cell.below)), default=0)
        kinds.append("r" if i >= view.n_names else "l" if longest <= WIDE_TEXT else "p")
    share = 0.8 / max(kinds.count("p"), 1) * (0.6 if kinds.count("p") < len(kinds) else 1.0)
    paragraph = f">{{\\raggedright\\arraybackslash}}p{{{share:.2f}\\linewidth}}"
    return "".join(paragraph if kind == "p" else kind for kind in kinds)


def _latex_lines(row: Row, view: View) -> Iterator[str]:
    """One line, and one below it where cells have smaller text."""
    if row.kind == "group":
        text = escape_latex(row.cells[0].text)
        yield f"\\addlinespace\\multicolumn{{{len(view.columns)}}}{{l}}{{\\itshape {text}}} \\\\"
        return
    cells = _padded(row, view)
    texts = [escape_latex(cell.text) for cell in cells]
    if row.kind == "strong":
        texts = [f"{{\\bfseries {text}}}" if text else "" for text in texts]
    yield " & ".join(texts) + r" \\"
    if any(cell.below for cell in cells):
        below = [f"{{\\scriptsize {escape_latex(cell.below)}}}" if cell.below else "" for cell in cells]
        yield " & ".join(below) + r" \\"


# Markdown


def write_markdown(path: str | Path, title: str, sections: Sequence[Section], *, figures: str = "figures") -> Path:
    """Write sections as Markdown with pipe tables, as GitHub and most editors show them.

    Parameters
    ----------
    path : path-like
        The file.
    title : str
        Heading.
    sections : sequence of Section
        In order.
    figures : str
        Folder of the PNG files, relative to the file.

    Returns
    -------
    Path
        The same path.

    Raises
    ------
    InputError
        When the path is a folder.
    """
    blocks = [f"# {_marked(title)}"]
    for section in sections:
        blocks.append(f"## {_marked(section.title)}")
        blocks += [f"{f'**{_marked(lead)}** ' if lead else ''}{_marked(text)}" for lead, text in section.text]
        for view in section.views:
            blocks += [markdown_table(view), *([_marked(view.note)] if view.note else [])]
        for picture in section.pictures:
            alt = _marked(picture.alt)
            blocks += [f"![{alt}]({figures}/{picture.name}.png)", _marked(picture.caption or picture.alt)]
    return write_text("\n\n".join(blocks) + "\n", _file(path, "report.md"))


def markdown_table(view: View) -> str:
    """Caption and pipe table; numbers are aligned to the right, smaller text stands below its value."""
    rule = ["---" if i < view.n_names else "---:" for i in range(len(view.columns))]
    lines = [f"**{_marked(view.caption)}**", "", _piped(map(_marked, view.columns)), _piped(rule)]
    for row in view.rows:
        cells = _padded(row, view)
        texts = [_marked(cell.text) for cell in cells]
        if row.kind in ("group", "strong"):
            texts = [f"**{text}**" if text else "" for text in texts]
        below = [f"<br>{_marked(cell.below)}" if cell.below else "" for cell in cells]
        lines.append(_piped(text + small for text, small in zip(texts, below, strict=True)))
    return "\n".join(lines)


def _piped(texts: Iterable[str]) -> str:
    return f"| {' | '.join(texts)} |"


def _marked(text: Any) -> str:
    """Text with Markdown's own characters escaped."""
    escaped = re.sub(r"([\\`*_\[\]|#~])", r"\\\1", _one_line(text))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
