"""Folders of frozen classical models: a skops file and a card beside it that knows its digest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import skops.io

from hybrid.errors import InputError
from hybrid.files import replacing
from hybrid.provenance import file_digest

from .files import write_json

TRUSTED_PACKAGES: Final = ("hybrid.", "sklearn.", "xgboost.", "numpy.", "scipy.", "collections.")
"""Types that a model file may contain; anything else is refused."""


@dataclass(frozen=True)
class ModelFiles:
    """What the two files of a kind of model are called, and the command that writes them.

    Parameters
    ----------
    model, card : str
        File names inside the folder.
    command : str
        Named in the error when a file is missing.
    """

    model: str
    card: str
    command: str

    def write(self, folder: str | Path, content: Any, card: Mapping[str, Any]) -> Path:
        """Write the fitted objects, then the card with their digest; return the folder."""
        folder = Path(folder)
        with replacing(folder / self.model) as partial:
            skops.io.dump(content, partial)
        write_json({**card, "sha256": file_digest(folder / self.model)}, folder / self.card)
        return folder

    def read(self, folder: str | Path) -> tuple[Any, dict[str, Any]]:
        """Return the fitted objects and the card; nothing in the folder is executed.

        Raises
        ------
        InputError
            When a file is missing or changed, or the model holds types other than those of :data:`TRUSTED_PACKAGES`.
        """
        folder = Path(folder)
        for name in (self.model, self.card):
            if not (folder / name).is_file():
                raise InputError(
                    f"A model folder of `{self.command}` holds {self.model} and {self.card}; {name} is missing.",
                    advice=f"Was the folder written by `{self.command}`, and copied whole?",
                    path=folder,
                )
        card = json.loads((folder / self.card).read_text(encoding="utf-8"))
        if card["sha256"] != file_digest(folder / self.model):
            raise InputError(
                f"{self.model} is not the one that {self.card} describes.", advice="Copy the folder again.", path=folder
            )
        return skops.io.load(folder / self.model, trusted=_trusted_types(folder / self.model)), card


def _trusted_types(file: Path) -> list[str]:
    """Types that a model file holds; raises when one of them is not from :data:`TRUSTED_PACKAGES`."""
    unknown = [str(name) for name in skops.io.get_untrusted_types(file=file)]
    refused = [name for name in unknown if not name.startswith(TRUSTED_PACKAGES)]
    if refused:
        raise InputError(
            f"The model holds the type {refused[0]!r}, which is not trusted.", advice="Do not use it.", path=file.parent
        )
    return unknown
