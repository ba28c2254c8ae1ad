"""Files that are whole or not there: written under another name, then moved into place."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a name beside ``path`` to write to; move the file to ``path`` at the end, or delete it after an error.

    The name is one of its own, so that processes that write the same file do not mix, and has the same ending.

    Parameters
    ----------
    path : path-like
        Where the file goes; its folder is created.

    Yields
    ------
    Path
        Where to write it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".part-{uuid.uuid4().hex[:8]}-{path.name}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_bytes(content: bytes, path: str | Path) -> Path:
    """Write a file; returns where it is."""
    with replacing(path) as partial:
        partial.write_bytes(content)
    return Path(path)


def write_text(text: str, path: str | Path) -> Path:
    """Write a text file (UTF-8, line ends as given); returns where it is."""
    return write_bytes(text.encode(), path)


def write_csv(table: pd.DataFrame, path: str | Path, *, index: bool = False) -> Path:
    """Write a table as CSV with every digit (the shortest text that reads back as the same number)."""
    return write_text(table.to_csv(index=index, lineterminator="\n"), path)
