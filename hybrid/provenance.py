"""Versions, digests, seeds and device: what is written beside every result."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Final

PACKAGES: Final = (
    "hybrid-radiomics", "pyradiomics-cuda", "SimpleITK", "torch", "monai", "numpy", "scipy", "pandas", "scikit-learn",
    "xgboost", "statsmodels",
)  # fmt: skip
"""Distributions whose versions are recorded and enter the key of every cached result."""

SUBPACKAGES: Final = ("analysis", "pipelines")
"""Packages below ``hybrid`` that an editable installation maps to other folders."""


@functools.cache
def _installed_versions() -> tuple[tuple[str, str], ...]:
    found = []
    for name in PACKAGES:
        try:
            found.append((name, metadata.version(name)))
        except metadata.PackageNotFoundError:
            found.append((name, "not installed"))
    return tuple(found)


def versions() -> dict[str, str]:
    """Distribution names and versions of this installation, Python and platform included.

    Returns
    -------
    dict of str to str
        PyRadiomics appears under the name of its distribution (``pyradiomics-cuda``), because the version string of
        the imported module is that of a development build.
    """
    return {"python": platform.python_version(), "platform": platform.platform(), **dict(_installed_versions())}


@functools.cache
def code_version() -> str:
    """Digest of the source files of ``hybrid``, ``hybrid.pipelines`` and ``hybrid.analysis``, and of :data:`PACKAGES`.

    A cached result of another code version is computed again. An editable and a regular installation of the same
    sources have the same version.
    """
    parts = [f"{name}:{file_digest(path)}" for name, path in sorted(source_files().items())]
    return digest([parts, _installed_versions(), platform.python_version()])


def source_files() -> dict[str, Path]:
    """Python files of the package by their place in it, for example ``"pipelines/cli.py"``.

    Returns
    -------
    dict of str to Path
        Subpackages are looked up where they are installed: in an editable installation they lie beside ``hybrid``.
    """
    folder = Path(__file__).parent
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*.py")}
    for name in SUBPACKAGES:
        spec = importlib.util.find_spec(f"{__package__}.{name}")
        for place in (spec.submodule_search_locations or []) if spec is not None else []:
            root = Path(place)
            found |= {f"{name}/{path.relative_to(root).as_posix()}": path for path in root.rglob("*.py")}
    return found


def digest(value: Any) -> str:
    """Digest of plain data (dicts, lists, strings, numbers, paths), independent of dictionary order.

    Returns
    -------
    str
        64 hexadecimal digits (SHA-256).
    """
    text = json.dumps(_plain(value), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted((_plain(item) for item in value), key=str)
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, Path):
        return value.as_posix()
    if hasattr(value, "tolist"):
        return value.tolist()
    return repr(value)


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file's bytes; of a folder (a DICOM series) the digest over the names and contents of its files."""
    path = Path(path)
    if path.is_dir():
        files = sorted(item for item in path.rglob("*") if item.is_file())
        return digest([[item.relative_to(path).as_posix(), file_digest(item)] for item in files])
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def hashed_patient(patient_id: str) -> str:
    """Digest of a patient identifier, as written into model files in place of the identifier itself."""
    return hashlib.sha256(f"hybrid-patient:{patient_id}".encode()).hexdigest()


def seed_from(key: str) -> int:
    """Seed in [0, 2**32) derived from a hexadecimal digest, so that a task's seed follows from its content."""
    return int(key[:8], 16)
