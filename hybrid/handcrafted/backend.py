"""The border to PyRadiomics: the only place that imports it, and the only place that touches its logging."""

from __future__ import annotations

import contextlib
import importlib
import logging
import threading
from collections.abc import Iterator
from types import ModuleType
from typing import Final

from hybrid.errors import MissingDependencyError

LOGGERS: Final = ("radiomics", "pykwalify")

_lock = threading.Lock()
_depth = 0
_levels: dict[str, int] = {}


def load_radiomics(module: str = "radiomics") -> ModuleType:
    """Import PyRadiomics or one of its modules.

    Parameters
    ----------
    module : str
        For example ``"radiomics.featureextractor"``.

    Returns
    -------
    module
        The imported module.

    Raises
    ------
    MissingDependencyError
        When it is not installed, or its compiled part cannot be loaded.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingDependencyError(
            f"PyRadiomics (import name 'radiomics') cannot be imported: {error}.",
            advice="Install it with 'pip install \"pyradiomics-cuda>=1.0.4,<2\"'. It is built during installation and "
            "needs a C compiler: gcc on Linux, the Xcode command line tools on macOS, the Visual Studio Build Tools "
            "on Windows.",
        ) from error


@contextlib.contextmanager
def quiet_radiomics() -> Iterator[None]:
    """Let PyRadiomics log errors only, for the time of one extraction.

    Only the levels of PyRadiomics' own loggers change, and they are put back when the last of the extractions that
    run at the same time (threads) has ended. Handlers stay as they are.
    """
    global _depth
    # Its import sets these levels itself; it must not happen inside.
    load_radiomics()
    with _lock:
        if _depth == 0:
            _levels.update({name: logging.getLogger(name).level for name in LOGGERS})
            logging.getLogger("radiomics").setLevel(logging.ERROR)
            # Its validator logs each problem that it also raises.
            logging.getLogger("pykwalify").setLevel(logging.CRITICAL)
        _depth += 1
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if _depth == 0:
                for name, level in _levels.items():
                    logging.getLogger(name).setLevel(level)
