"""The arrows between the three packages, and what importing them may load."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ALLOWED_IN_ANALYSIS = {"hybrid.tables", "hybrid.errors", "hybrid.files"}


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module)
    return names


@pytest.mark.parametrize("path", sorted((ROOT / "hybrid").rglob("*.py")), ids=lambda path: path.name)
def test_hybrid_imports_neither_pipelines_nor_analysis(path):
    assert not {name for name in imported(path) if name.startswith(("hybrid.pipelines", "hybrid.analysis"))}


@pytest.mark.parametrize("path", sorted((ROOT / "analysis").rglob("*.py")), ids=lambda path: path.name)
def test_analysis_imports_only_tables_errors_and_files(path):
    ours = {name for name in imported(path) if name.split(".")[0] == "hybrid"}
    assert ours <= ALLOWED_IN_ANALYSIS


@pytest.mark.parametrize(
    ("statement", "forbidden"),
    [
        ("import hybrid; hybrid.Cohort", {"torch", "monai", "radiomics", "sklearn"}),
        ("import hybrid.analysis; hybrid.analysis.compare_models", {"torch", "SimpleITK", "radiomics"}),
        ("import hybrid.pipelines; hybrid.pipelines.run_tasks", {"torch", "radiomics"}),
    ],
)
def test_importing_stays_light(statement, forbidden):
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent)
    assert not forbidden & set(loaded.stdout.split())


def test_python_started_in_a_checkout_finds_all_three_packages():
    """Also without an editable installation, which maps the folders: Jupyter in a fresh clone, for example."""
    code = """
import sys
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
import hybrid, hybrid.analysis, hybrid.pipelines
print(hybrid.pipelines.__file__)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert Path(found.stdout.strip()).parent == ROOT / "pipelines"
