"""What a reporting checklist draws on: run record, tables, and sentences that declare what they are written from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd


@dataclass(frozen=True)
class Key:
    """One sentence of evidence.

    Attributes
    ----------
    sources : tuple of str
        Entries of the run record (``settings.folds``) and tables (``tables.metrics``) that it is written from.
    write : callable
        Takes the facts; an empty text when they do not tell.
    """

    sources: tuple[str, ...]
    write: Callable[[Facts], str]


class Facts:
    """Run record and tables; a key's sentence can read only what the key declares.

    Parameters
    ----------
    record : mapping
        The run record.
    tables : mapping of str to DataFrame
        Tables by name.
    declared : tuple of str, optional
        What may be read; everything by default.
    """

    def __init__(
        self,
        record: Mapping[str, Any],
        tables: Mapping[str, pd.DataFrame],
        declared: tuple[str, ...] | None = None,
    ) -> None:
        self._record, self._tables, self._declared = record, tables, declared

    def only(self, declared: tuple[str, ...]) -> Facts:
        """Return the same facts, of which no more than the declared ones can be read."""
        return Facts(self._record, self._tables, declared)

    def get(self, path: str) -> Any:
        """Entry of the record, for example ``settings.folds``; None when it is absent."""
        self._check(path)
        value: Any = self._record
        for part in path.split(".", 1):
            value = value.get(part) if isinstance(value, Mapping) else None
        return value

    def has(self, path: str) -> bool:
        """Whether the record has an entry, even an empty one."""
        self._check(path)
        value: Any = self._record
        for part in path.split(".", 1):
            if not isinstance(value, Mapping) or part not in value:
                return False
            value = value[part]
        return True

    def knows(self, source: str) -> bool:
        """Whether a source of a key, an entry of the record or a table, is there."""
        is_table = source.startswith("tables.")
        return self.has_table(source.removeprefix("tables.")) if is_table else self.has(source)

    def table(self, name: str) -> pd.DataFrame | None:
        """Table by name; None when it is absent or empty."""
        self._check(f"tables.{name}")
        table = self._tables.get(name)
        return None if table is None or table.empty else table

    def has_table(self, name: str) -> bool:
        """Whether there is such a table, even an empty one."""
        self._check(f"tables.{name}")
        return self._tables.get(name) is not None

    def _check(self, path: str) -> None:
        if self._declared is not None and path not in self._declared:
            raise KeyError(f"{path} is not declared by this key.")


Writer = Callable[[Facts], str]


def registry(keys: dict[str, Key]) -> Callable[..., Callable[[Writer], Writer]]:
    """Make a decorator that puts the writer of a sentence into a dictionary, with what it is written from.

    Parameters
    ----------
    keys : dict
        Filled by the decorator: the name of the function without ``_write_`` is the name of the key.
    """

    def key(*sources: str) -> Callable[[Writer], Writer]:
        def register(write: Writer) -> Writer:
            keys[write.__name__.removeprefix("_write_")] = Key(sources, write)
            return write

        return register

    return key


def as_sentence(text: str) -> str:
    """Text that begins with a capital and ends with a full stop."""
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def plural(count: Any, noun: str) -> str:
    """Count and noun, for example ``3 cases``."""
    return f"{int(count)} {noun}" if int(count) == 1 else f"{int(count)} {noun}s"
