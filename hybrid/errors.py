"""The errors a user can meet.

Every message says *what failed, for which case and file; expected X, found Y; what to do*. On the command line a
:class:`HybridError` is printed as one line with exit code 2; the traceback comes with ``--debug``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


class HybridError(Exception):
    """Base of every error that this package raises on purpose.

    Parameters
    ----------
    message : str
        What failed: what was expected and what was found.
    advice : str, optional
        What the reader can do about it.
    case_id : str, optional
        The case concerned.
    path : path-like, optional
        The file concerned.
    """

    def __init__(
        self,
        message: str,
        *,
        advice: str = "",
        case_id: str | None = None,
        path: str | Path | None = None,
    ) -> None:
        self.message = message
        self.advice = advice
        self.case_id = case_id
        self.path = None if path is None else str(path)
        super().__init__(message, advice, case_id, self.path)

    def __str__(self) -> str:
        place = ", ".join(
            part
            for part in (
                f"case {self.case_id}" if self.case_id is not None else "",
                f"file {self.path}" if self.path is not None else "",
            )
            if part
        )
        text = f"{place}: {self.message}" if place else self.message
        return f"{text} {self.advice}".strip()

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments do not survive the default pickling between worker processes.
        return _rebuild, (type(self), self.message, self.advice, self.case_id, self.path)


def _rebuild(kind: type[HybridError], message: str, advice: str, case_id: str | None, path: str | None) -> HybridError:
    return kind(message, advice=advice, case_id=case_id, path=path)


class InputError(HybridError, ValueError):
    """A file, table, setting or argument that cannot be used as it is."""


class GeometryError(InputError):
    """Image and mask do not lie on grids that can be brought together safely."""


class LeakageError(HybridError):
    """An evaluation would use patients that the model has already seen."""


class WeightsError(InputError):
    """A weight file that does not fit the network it is loaded into."""


class MissingDependencyError(HybridError, ImportError):
    """An optional or compiled package is not installed."""


def unknown_name(
    kind: str,
    name: object,
    valid: Iterable[object],
    *,
    case_id: str | None = None,
    path: str | Path | None = None,
) -> InputError:
    """Build the error for a name that does not exist, with the nearest valid ones.

    Parameters
    ----------
    kind : str
        What the name stands for, for example ``"classifier"``.
    name : object
        The name that was given.
    valid : iterable
        The names that exist.
    case_id : str, optional
        The case concerned.
    path : path-like, optional
        The file concerned.

    Returns
    -------
    InputError
        To be raised by the caller.
    """
    names = [str(option) for option in valid]
    near = difflib.get_close_matches(str(name), names, n=3, cutoff=0.5)
    advice = f"Did you mean {' or '.join(repr(option) for option in near)}?" if near else ""
    listing = ", ".join(sorted(names))
    return InputError(
        f"Unknown {kind} {str(name)!r}.", advice=f"{advice} Valid: {listing}.".strip(), case_id=case_id, path=path
    )
