"""Tests on benchmark data may skip only where the data are not there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import pytest

def test_needs_a_file_that_is_not_there(benchmarks):
    pytest.skip("the table is missing")

def test_needs_no_data():
    pytest.skip("another reason")
"""


@pytest.mark.parametrize(
    ("is_set", "counted"), [(True, "1 failed, 1 skipped"), (False, "2 skipped")], ids=["data there", "no data"]
)
def test_a_skip_fails_only_while_the_data_are_there(tmp_path, is_set, counted):
    (tmp_path / "conftest.py").write_text(Path(__file__).with_name("conftest.py").read_text(encoding="utf-8"))
    (tmp_path / "test_data.py").write_text(TESTS)
    environment = {name: value for name, value in os.environ.items() if name != "HYBRID_BENCHMARKS"}
    if is_set:
        environment["HYBRID_BENCHMARKS"] = str(tmp_path)
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(words, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert counted in done.stdout
    assert done.returncode == (1 if is_set else 0)
    assert ("although HYBRID_BENCHMARKS names a folder" in done.stdout) is is_set
