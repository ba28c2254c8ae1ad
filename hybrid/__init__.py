"""Handcrafted radiomics and 3D deep features, compared honestly.

One case or one table at a time: cases, images, features, classifiers. Whole cohorts are run by :mod:`hybrid.pipelines`,
statistics and reports are made by :mod:`hybrid.analysis`. Names are loaded on first use (see ``__init__.pyi``).
"""

import os
from pathlib import Path

import lazy_loader

# Threads of OpenMP that wait burn their core by default: with one other busy program, a training step on two cores took
# six times as long. Counts only before PyTorch is imported; your own setting wins.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Python started in a checkout finds this folder before the installed package; its two companions lie beside it.
_root = Path(__file__).parents[1]
if (_root / "pyproject.toml").is_file() and (_root / "pipelines").is_dir():
    __path__.append(str(_root))

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
