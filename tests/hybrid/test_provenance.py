"""The code version covers the whole package, wherever an installation puts its parts."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from hybrid.provenance import code_version, source_files

ROOT = Path(__file__).parents[2]


def version_of(folder):
    """Code version of a copy of the package, computed by a fresh process."""
    code = "import hybrid; from hybrid.provenance import code_version; print(hybrid.__file__); print(code_version())"
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment, cwd=folder
    )
    place, version = done.stdout.split()
    assert place.startswith(str(folder))
    return version


def test_every_source_file_counts():
    found = source_files()
    assert {"provenance.py", "deep/__init__.py", "pipelines/cli.py", "pipelines/systems/transfer.py",
            "analysis/report.py"} <= set(found)  # fmt: skip
    assert all(path.is_file() for path in found.values())


def test_a_regular_installation_has_the_same_version_until_a_line_of_any_part_changes(tmp_path):
    for name, place in (("hybrid", "hybrid"), ("pipelines", "hybrid/pipelines"), ("analysis", "hybrid/analysis")):
        shutil.copytree(ROOT / name, tmp_path / place, ignore=shutil.ignore_patterns("__pycache__", "bundled"))
    copied = version_of(tmp_path)
    assert {path.relative_to(tmp_path / "hybrid").as_posix() for path in (tmp_path / "hybrid").rglob("*.py")} == set(
        source_files()
    )
    assert copied == code_version()
    for name in ("pipelines/cli.py", "analysis/roc.py"):
        with (tmp_path / "hybrid" / name).open("a", encoding="utf-8") as stream:
            stream.write("\n# changed\n")
        changed = version_of(tmp_path)
        assert changed != copied
        copied = changed
