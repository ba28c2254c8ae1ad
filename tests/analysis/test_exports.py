"""Word, Excel, LaTeX and Markdown: the same tables as the page, readable by their own readers, nothing lost."""

from __future__ import annotations

import dataclasses
import html
import re
import shutil
import subprocess
import zipfile

import numpy as np
import pandas as pd
import pytest
from openpyxl import load_workbook

from hybrid.analysis import MaskReport, Report, compare_models, evaluate_models
from hybrid.analysis.exports import (
    COLUMN_MM,
    CONTENTS,
    PAGE_MM,
    Section,
    escape_latex,
    export_report,
    latex_table,
    markdown_table,
    write_docx,
    write_latex,
    write_markdown,
    write_xlsx,
)
from hybrid.analysis.views import Cell, Row, View
from hybrid.errors import InputError, MissingDependencyError
from hybrid.tables import MASK_COLUMNS

FAST = {"n_bootstrap": 100}
EVERY_FORMAT = ("docx", "xlsx", "latex", "markdown")
HOSTILE = 'a_b & 50% #1 {x} $y$ \\ ~ ^ <z> |w| [v] *u* `t` "s"'
VIEW = View(
    "Table 1. Models & <rules>",
    ["Model", "AUC", "p"],
    [
        Row([Cell("Models")], "group"),
        Row([Cell("hand_crafted"), Cell("0.71", "0.60–0.82"), Cell("< 0.001")], "strong"),
        Row([Cell("deep"), Cell("−0.05")]),
    ],
    note="Mean ≥ 0.5 & so on.",
)


@pytest.fixture(scope="module")
def report(small_predictions, make_cohort, make_features, make_null):
    cohort = make_cohort(small_predictions)
    problems = pd.DataFrame([{"case_id": "case001", "severity": "warning", "problem": HOSTILE, "advice": "Look."}])
    failures = pd.DataFrame([{"case_id": "case002", "stage": "deep", "error": "E", "message": "=1+1", "advice": ""}])
    return Report(
        cohort, make_features(cohort), small_predictions, compare_models(small_predictions, **FAST),
        metrics=evaluate_models(small_predictions, **FAST), null=make_null(), problems=problems, failures=failures,
        title="Sarcoma <study>", simulated=True, run_record={"settings": {"bootstraps": 100}},
    )  # fmt: skip


@pytest.fixture(scope="module")
def mask_report():
    rng = np.random.default_rng(0)
    rows = [
        (f"c{i}", f"p{i}", "", split, structure, "", "", metric, value, "kits")
        for split, shift in (("train", 0.1), ("test", 0.0))
        for i in range(0 if split == "train" else 6, 6 if split == "train" else 12)
        for structure in ("kidney", "mass")
        for metric, value in (
            ("dice", 0.8 + shift - 0.1 * rng.random()),
            ("reference_volume_ml", 10.0 + i),
            ("predicted_volume_ml", 10.5 + i + rng.random()),
        )
    ]
    table = pd.DataFrame(rows, columns=list(MASK_COLUMNS))
    return MaskReport(table, lesions="mass", gap=True, simulated=True, n_boot=100, run_record={"versions": {"a": "1"}})


@pytest.fixture(scope="module")
def exported(report, tmp_path_factory):
    pytest.importorskip("docx")
    return export_report(report, tmp_path_factory.mktemp("export"), EVERY_FORMAT)


@pytest.fixture(scope="module")
def document(exported):
    import docx

    return docx.Document(str(exported["docx"]))


def captions_of_page(path):
    return [html.unescape(text) for text in re.findall(r"<caption>(.*?)</caption>", path.read_text(encoding="utf-8"))]


def captions_of(sections):
    return [view.caption for section in sections for view in section.views]


def test_sections_hold_every_table_and_figure_of_the_page(report, tmp_path):
    page = report.save(tmp_path / "report.html")
    sections = report.sections(tmp_path / "figures", report.tables())
    assert sorted(captions_of(sections)) == sorted(captions_of_page(page))
    pictures = [picture.name for section in sections for picture in section.pictures]
    assert sorted(pictures) == sorted(re.findall(r'id="figure-(\w+)"', page.read_text(encoding="utf-8")))


def test_a_second_look_is_explained_where_a_cascade_has_one(mask_report, tmp_path):
    left_out = {"masses_kept": 0.925, "false_positives": 0.98}
    look = {"patients": 90, "masses": 180, "others": 150, "false_positives_allowed": 1.0, "left_out": left_out}
    looked = MaskReport(mask_report.table, lesions="mass", n_boot=100, run_record={"second_look": look})
    page = looked.save(tmp_path / "report.html").read_text(encoding="utf-8")
    for text in (
        "fitted to 180 masses and 150 other candidates of 90 patients",
        "kept 92.5 % of the masses",
        "0.98 false",
    ):
        assert text in page
    assert "logistic regression" not in mask_report.save(tmp_path / "other.html").read_text(encoding="utf-8")


def test_sections_of_masks_hold_every_table_and_figure_of_the_page(mask_report, tmp_path):
    page = mask_report.save(tmp_path / "report.html")
    sections = mask_report.sections(tmp_path / "figures", mask_report.tables())
    captions = [caption.removeprefix("Overlap: ") for caption in captions_of(sections)]
    assert sorted(captions) == sorted(captions_of_page(page))
    pictures = [picture.name for section in sections for picture in section.pictures]
    assert sorted(pictures) == sorted(re.findall(r'id="figure-(\w+)"', page.read_text(encoding="utf-8")))
    assert sections[0].text[0][0].startswith("Simulated")


def test_both_kinds_of_report_are_exported_in_every_format(mask_report, exported, tmp_path):
    pytest.importorskip("docx")
    files = export_report(mask_report, tmp_path, EVERY_FORMAT)
    assert list(files) == list(exported) == list(EVERY_FORMAT)
    assert all(path.is_file() for path in [*files.values(), *exported.values()])


def test_unknown_format_is_refused_before_anything_is_written(report, tmp_path):
    with pytest.raises(InputError, match="Did you mean 'docx'"):
        export_report(report, tmp_path / "new", ["doc"])
    assert not (tmp_path / "new").exists()


def test_missing_library_is_named_before_anything_is_written(report, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "docx", None)
    with pytest.raises(MissingDependencyError, match="pip install python-docx"):
        export_report(report, tmp_path / "new", ["xlsx", "docx"])
    assert not (tmp_path / "new").exists()
    assert export_report(report, tmp_path / "new", ["xlsx"])["xlsx"].is_file()


def test_predictions_alone_are_enough(tmp_path):
    pytest.importorskip("docx")
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], 15)
    table = pd.DataFrame({"case_id": [f"c{i}" for i in range(30)], "y_true": y, "y_prob": rng.random(30)})
    files = export_report(Report(None, None, table, **FAST), tmp_path, EVERY_FORMAT)
    assert all(path.is_file() for path in files.values())


# Word


def test_word_tables_equal_the_views_cell_by_cell(document, report, tmp_path):
    views = [view for section in report.sections(tmp_path, report.tables()) for view in section.views]
    assert len(document.tables) == len(views)
    for table, view in zip(document.tables, views, strict=True):
        assert [cell.text for cell in table.rows[0].cells] == list(view.columns)
        for line, row in zip(table.rows[1:], view.rows, strict=True):
            if row.kind == "group":
                assert {cell.text for cell in line.cells} == {row.cells[0].text}
                continue
            shown = [f"{cell.text}\n{cell.below}" if cell.below else cell.text for cell in row.cells]
            assert [cell.text for cell in line.cells] == [*shown, *[""] * (len(view.columns) - len(shown))]


def test_word_repeats_headers_and_aligns_numbers_to_the_right(document):
    from docx.enum.text import WD_ALIGN_PARAGRAPH
    from docx.oxml.ns import qn

    for table in document.tables:
        assert table.rows[0]._tr.trPr.find(qn("w:tblHeader")) is not None
        assert all(row._tr.trPr.find(qn("w:cantSplit")) is not None for row in table.rows)
    first = document.tables[0]
    for row in first.rows:
        kinds = [cell.paragraphs[0].alignment for cell in row.cells]
        assert kinds[0] == WD_ALIGN_PARAGRAPH.LEFT
        assert set(kinds[1:]) == {WD_ALIGN_PARAGRAPH.RIGHT}


def test_word_numbers_its_captions_with_fields_and_each_stands_at_its_table(document):
    from docx.oxml.ns import qn

    body = list(document.element.body)
    text = {id(paragraph._p): paragraph.text for paragraph in document.paragraphs}
    for i, table in enumerate(document.tables, start=1):
        before = body[body.index(table._tbl) - 1]
        assert text[id(before)].startswith(f"Table {i}. ")
        assert [field.text.split()[:2] for field in before.iter(qn("w:instrText"))] == [["SEQ", "Table"]]
    captions = [p.text for p in document.paragraphs if p.style.name == "Caption"]
    assert not any(re.search(r"Table \d+\. Table", caption) for caption in captions)
    assert [c.split(".")[0] for c in captions if c.startswith("Figure")] == [f"Figure {i}" for i in range(1, 7)]


def test_word_figures_have_the_width_of_a_column_and_a_description(document):
    assert len(document.inline_shapes) == 6
    for shape in document.inline_shapes:
        assert shape.width.mm == pytest.approx(COLUMN_MM, abs=0.1)
        assert shape._inline.docPr.get("descr")
    page = document.sections[0]
    assert page.page_width.mm - page.left_margin.mm - page.right_margin.mm == pytest.approx(PAGE_MM, abs=0.1)


@pytest.mark.parametrize(("inches", "mm"), [((3.5, 3.0), COLUMN_MM), ((7.0, 3.0), PAGE_MM)])
def test_word_places_figures_by_the_width_they_were_drawn_at(inches, mm, tmp_path):
    docx = pytest.importorskip("docx")
    from matplotlib.figure import Figure

    from hybrid.analysis.figures import Album

    album = Album(tmp_path / "figures")
    album.add_figure("one", Figure(figsize=inches), alt="Empty")
    section = Section("Figures", pictures=list(album.with_captions(one="An empty figure.").values()))
    shape = docx.Document(str(write_docx(tmp_path / "r.docx", "T", [section]))).inline_shapes[0]
    assert shape.width.mm == pytest.approx(mm, abs=0.1)
    assert shape.height / shape.width == pytest.approx(inches[1] / inches[0], rel=0.05)


def test_word_says_what_the_page_says(document, report):
    text = "\n".join(paragraph.text for paragraph in document.paragraphs)
    for words in ("These patients do not exist", "Not to be concluded.", "Holm", "[1]", "doi.org/10.2307/2531595"):
        assert words in text
    assert document.core_properties.title == report.title
    assert document.core_properties.author == ""


def test_word_tables_fit_the_page(document):
    for table in document.tables:
        assert sum(column.width.mm for column in table.columns) <= PAGE_MM + 0.1


def test_word_survives_control_characters_and_a_missing_picture_is_named(tmp_path):
    docx = pytest.importorskip("docx")
    view = View("Odd\x00 text", ["A"], [Row([Cell("x\x07y")])])
    path = write_docx(tmp_path / "a.docx", "T\x01", [Section("S", [("", "a\x0bb")], [view])])
    assert docx.Document(str(path)).tables[0].rows[1].cells[0].text == "xy"
    from hybrid.analysis.figures import Picture

    with pytest.raises(InputError, match="no PNG file"):
        write_docx(tmp_path / "b.docx", "T", [Section("S", pictures=[Picture("gone", "", "Gone")])])
    assert not (tmp_path / "b.docx").exists()


def test_word_tables_of_one_column_and_without_rows(tmp_path):
    docx = pytest.importorskip("docx")
    views = [View("One", ["A"], [Row([Cell("Group")], "group"), Row([Cell("x")])]), View("None", ["A", "B"])]
    tables = docx.Document(str(write_docx(tmp_path / "r.docx", "T", [Section("S", (), views)]))).tables
    assert [[cell.text for cell in row.cells] for row in tables[0].rows] == [["A"], ["Group"], ["x"]]
    assert len(tables[1].rows) == 1


@pytest.mark.parametrize(
    ("tag", "order"),
    [("tcPr", ["tcW", "gridSpan", "tcBorders", "vAlign"]), ("trPr", ["cantSplit", "tblHeader"]),
     ("tblPr", ["tblStyle", "tblW", "jc", "tblLayout", "tblLook"])],
)  # fmt: skip
def test_word_properties_come_once_and_in_the_order_of_the_format(tag, order, tmp_path):
    # ECMA-376 part 1, CT_TcPr, CT_TrPr and CT_TblPr; Word refuses files that deviate.
    docx = pytest.importorskip("docx")
    from docx.oxml.ns import qn

    view = dataclasses.replace(VIEW, rows=[*VIEW.rows, Row([Cell("Group at the end")], "group")])
    document = docx.Document(str(write_docx(tmp_path / "r.docx", "T", [Section("S", (), [view])])))
    found = [[child.tag for child in element] for element in document.element.body.iter(qn(f"w:{tag}"))]
    assert found
    names = [qn(f"w:{name}") for name in order]
    assert all([name for name in names if name in children] == children for children in found)


def test_word_file_is_sound_xml(exported):
    from xml.etree import ElementTree

    with zipfile.ZipFile(exported["docx"]) as archive:
        assert archive.testzip() is None
        for name in archive.namelist():
            if name.endswith((".xml", ".rels")):
                ElementTree.fromstring(archive.read(name))


# Excel


def test_workbook_returns_every_number(exported, report):
    for name, table in report.tables().items():
        read = pd.read_excel(exported["xlsx"], sheet_name=name)
        assert list(read.columns) == list(table.columns)
        assert len(read) == len(table)
        for column in table.columns[[pd.api.types.is_numeric_dtype(kind) for kind in table.dtypes]]:
            # 16 significant digits are stored.
            np.testing.assert_allclose(
                read[column].to_numpy(float), table[column].to_numpy(float), rtol=2e-16 * 4, atol=0
            )


def test_workbook_begins_with_a_list_of_its_tables_and_freezes_headers(exported, report):
    book = load_workbook(exported["xlsx"])
    assert book.sheetnames == ["contents", *report.tables()]
    assert all(sheet.freeze_panes == "A2" for sheet in book)
    listed = pd.read_excel(exported["xlsx"], sheet_name="contents")
    assert listed["sheet"].tolist() == listed["table"].tolist() == list(report.tables())
    assert listed["rows"].tolist() == [len(table) for table in report.tables().values()]
    assert listed["content"].tolist() == [CONTENTS[name] for name in report.tables()]


def test_every_table_of_both_reports_is_described(report, mask_report):
    assert set(report.tables()) | set(mask_report.tables()) <= set(CONTENTS)


def test_workbook_keeps_texts_as_texts_and_names_distinct(tmp_path):
    long = "a" * 40
    tables = {
        long: pd.DataFrame({"x": ["=1+1", "b\x00c"], "y": [np.nan, np.inf]}),
        long + "b": pd.DataFrame({"x": [1]}),
        "A/B?": pd.DataFrame({"when": pd.to_datetime(["2024-01-01T12:00+02:00"])}),
        "Contents": pd.DataFrame(columns=["empty"]),
    }
    tables["twice"] = pd.DataFrame([["a", "b"]], columns=["same", "same"])
    path = write_xlsx(tmp_path / "t.xlsx", tables)
    book = load_workbook(path)
    assert len(set(book.sheetnames)) == 6
    assert all(len(name) <= 31 for name in book.sheetnames)
    first = book[book.sheetnames[1]]
    assert (first["A2"].value, first["A2"].data_type) == ("=1+1", "s")
    assert (first["A3"].value, first["B2"].value, first["B3"].value) == ("bc", None, "inf")
    assert book["A_B_"]["A2"].value.hour == 10
    listed = pd.read_excel(path, sheet_name="contents")
    assert listed["content"][0] == "Columns: x, y"
    assert tables[long]["x"][0] == "=1+1"


# LaTeX


def unescape_latex(text):
    """Read escaped text back, one command at a time."""
    commands = {
        r"\textbackslash{}": "\\", r"\textasciitilde{}": "~", r"\textasciicircum{}": "^", r"\textless{}": "<",
        r"\textgreater{}": ">", r"\textbar{}": "|", r"\textasciigrave{}": "`", "''": '"', "{[}": "[", "{]}": "]",
        "{*}": "*", r"\{": "{", r"\}": "}", r"\$": "$", r"\&": "&", r"\#": "#", r"\_": "_", r"\%": "%",
    }  # fmt: skip
    pattern = "|".join(re.escape(command) for command in sorted(commands, key=len, reverse=True))
    return re.sub(pattern, lambda found: commands[found.group()], text)


def test_latex_escapes_every_special_character_and_loses_none():
    ascii_text = "".join(map(chr, range(33, 127)))
    assert unescape_latex(escape_latex(ascii_text)) == ascii_text
    assert unescape_latex(escape_latex(HOSTILE)) == HOSTILE


@pytest.mark.parametrize(
    ("text", "latex"),
    [("−0.05", "$-$0.05"), ("0.60–0.82", "0.60--0.82"), ("p\N{NO-BREAK SPACE}≥ 1", r"p~$\geq$ 1"),
     ("“Selected”", "``Selected''"), ("Müller", "Müller"), (" a\n b ", "a b")],
)  # fmt: skip
def test_latex_signs(text, latex):
    assert escape_latex(text) == latex


def test_latex_table_has_booktabs_rules_aligned_columns_and_balanced_rows():
    source = latex_table(VIEW)
    assert r"\begin{tabular}{lrr}" in source
    positions = [source.index(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")]
    assert positions == sorted(positions)
    assert r"\caption{Models \& \textless{}rules\textgreater{}}" in source
    assert r"\multicolumn{3}{l}{\itshape Models}" in source
    assert r"{\bfseries hand\_crafted} & {\bfseries 0.71} & {\bfseries \textless{} 0.001} \\" in source
    assert r" & {\scriptsize 0.60--0.82} &  \\" in source
    assert r"deep & $-$0.05 &  \\" in source
    plain = re.sub(r"\\[{}]", "", source)
    assert plain.count("{") == plain.count("}")


def test_long_latex_tables_break_across_pages_and_repeat_their_header():
    source = latex_table(dataclasses.replace(VIEW, rows=[Row([Cell("a"), Cell("1"), Cell("2")])] * 41))
    assert r"\begin{longtable}{lrr}" in source
    assert source.count(r"{\bfseries AUC}") == 2
    assert source.index(r"\endfirsthead") < source.index(r"\endhead")


def test_latex_index_inputs_every_table_once(exported, document):
    files = sorted(path.stem for path in exported["latex"].parent.glob("table_*.tex"))
    assert re.findall(r"\\input\{(.+?)\}", exported["latex"].read_text(encoding="utf-8")) == files
    assert len(files) == len(document.tables)


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no TeX engine")
def test_latex_compiles(exported, tmp_path):
    nasty = View("All " + HOSTILE, ["Name " + HOSTILE, "n"], [Row([Cell("[" + HOSTILE), Cell("*1", "[2")])] * 45)
    write_latex(exported["latex"].parent / "nasty.tex", nasty)
    body = r"\documentclass{article}\usepackage{booktabs,array,longtable}\begin{document}\input{tables}\input{nasty}"
    (tmp_path / "all.tex").write_text(body + r"\end{document}")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", f"-output-directory={tmp_path}"]
    done = subprocess.run(
        [*command, tmp_path / "all.tex"], cwd=exported["latex"].parent, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:]


# Markdown


def test_markdown_rows_have_as_many_cells_as_columns_whatever_the_text():
    view = View("T", ["A|B", "C"], [Row([Cell("x | y"), Cell("`z`", "*low*")]), Row([Cell("only one")])])
    lines = markdown_table(view).split("\n")[2:]
    assert [len(re.findall(r"(?<!\\)\|", line)) for line in lines] == [3] * 4
    assert lines[1] == "| --- | ---: |"
    assert lines[2] == r"| x \| y | \`z\`<br>\*low\* |"


def test_markdown_file_shows_tables_and_links_figures_that_exist(exported):
    text = exported["markdown"].read_text(encoding="utf-8")
    assert text.startswith("# Sarcoma &lt;study&gt;\n")
    links = re.findall(r"!\[.*?\]\((.+?)\)", text)
    assert len(links) == 6
    assert all((exported["markdown"].parent / link).is_file() for link in links)
    assert "**Paired differences of the AUC**" in text


def test_a_row_with_too_many_cells_is_refused():
    with pytest.raises(InputError, match="has 1 columns; found a row with 2 cells"):
        markdown_table(View("T", ["A"], [Row([Cell("1"), Cell("2")])]))


@pytest.mark.parametrize("write", [lambda p: write_xlsx(p, {}), lambda p: write_latex(p, VIEW),
                                   lambda p: write_markdown(p, "T", [])])  # fmt: skip
def test_a_folder_in_place_of_a_file_is_refused(write, tmp_path):
    with pytest.raises(InputError, match="found a folder"):
        write(tmp_path)
