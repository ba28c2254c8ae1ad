"""One progress bar for networks that other processes train: each leaves a small file, this process reads them."""

from __future__ import annotations

import contextlib
import json
import math
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tqdm.auto import tqdm

from .files import write_json

PROGRESS_FILE: Final = "progress.json"

SECONDS: Final = 2.0
"""Between two looks at the files."""


@dataclass(frozen=True)
class ProgressFile:
    """Writes how far a training is; a ``monitor`` of :func:`hybrid.deep.segmentation.training.train_network`.

    Parameters
    ----------
    folder : Path
        Model folder of the network.
    """

    folder: Path

    def __call__(self, row: Mapping[str, Any]) -> None:
        """Write the share that is done and, where it was computed after this epoch, the validation Dice."""
        dice = float(row["validation_dice"])
        self._write({"progress": float(row["progress"]), **({"dice": dice} if math.isfinite(dice) else {})})

    def finish(self) -> None:
        """Write that the network is trained."""
        self._write({"progress": 1.0})

    def _write(self, content: Mapping[str, float]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(content, self.folder / PROGRESS_FILE)


@contextlib.contextmanager
def training_bar(folders: Mapping[str, Path], *, shown: bool = True) -> Iterator[None]:
    """Show the mean share of several trainings, and their validation Dice, while the block runs.

    Parameters
    ----------
    folders : mapping of str to Path
        Model folder of each network by its name; their progress files are removed before and after.
    shown : bool
        False shows nothing.
    """
    stop = threading.Event()
    _remove(folders)
    with tqdm(total=100, desc=f"training {len(folders)} networks", unit="%", disable=not shown) as bar:
        watch = threading.Thread(target=_watch, args=(bar, folders, stop), daemon=True)
        watch.start()
        try:
            yield
        finally:
            stop.set()
            watch.join()
            _remove(folders)


def _watch(bar: tqdm, folders: Mapping[str, Path], stop: threading.Event) -> None:
    """Bring the bar up to date until told to stop, and once more then."""
    dice: dict[str, str] = {}
    while True:
        last = stop.wait(SECONDS)
        states = {name: state for name, folder in folders.items() if (state := _read(folder)) is not None}
        dice |= {name: f"{state['dice']:.3f}" for name, state in states.items() if "dice" in state}
        bar.set_postfix(dice, refresh=False)
        bar.update(round(100 * sum(state["progress"] for state in states.values()) / len(folders)) - bar.n)
        if last:
            return


def _read(folder: Path) -> dict[str, float] | None:
    try:
        return dict(json.loads((folder / PROGRESS_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None


def _remove(folders: Mapping[str, Path]) -> None:
    for folder in folders.values():
        (folder / PROGRESS_FILE).unlink(missing_ok=True)
