"""Importing the analysis must stay cheap: it works where torch and SimpleITK are not installed."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import hybrid.analysis as analysis
for name in analysis.__all__:
    getattr(analysis, name)
import sys
print(*sys.modules)
"""


def test_using_every_public_name_loads_neither_torch_nor_simpleitk():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert not loaded & {"torch", "SimpleITK", "radiomics", "monai", "sklearn", "xgboost"}
