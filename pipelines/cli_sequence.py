"""The verb ``hybrid sequence-id``: which sequence is every series of a folder (system d)."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hybrid.cases import Cohort
from hybrid.errors import InputError

Say = Callable[[str], None]


def add_verbs(verbs: Any, work: argparse.ArgumentParser, say: Say) -> None:
    """Add the verb to the command's parser."""
    parser = verbs.add_parser(
        "sequence-id", parents=[work], help="system d: which sequence is every series, from pixels alone"
    )
    parser.add_argument("folder", help="folder with DICOM series or NIfTI files at any depth, or a cohort table")
    parser.add_argument("--model", required=True, help="model folder of a classifier of volumes")
    parser.add_argument("--out", required=True, help="folder for series.csv, failures.csv and report.html")
    parser.add_argument("--threshold", type=float, help="confidence below which it abstains (default: the model's)")
    parser.add_argument(
        "--expect", nargs="+", default=[], metavar="IMAGE=CLASS",
        help="with a cohort table: stop when an image is another sequence",
    )  # fmt: skip
    parser.add_argument("--title", default="Which sequence is this?", help="of the report")
    parser.set_defaults(verb=_identify, say=say)


def _identify(options: argparse.Namespace) -> int:
    from .sequence_id import identify_sequences, require_sequence

    expected = dict(_expectation(word) for word in options.expect)
    if expected and not Path(options.folder).is_file():
        raise InputError("--expect needs a cohort table, whose images have names.", path=options.folder)
    work: dict[str, Any] = {
        "threshold": options.threshold, "n_jobs": options.jobs, "backend": options.backend,
        "progress": not options.quiet,
    }  # fmt: skip
    table = identify_sequences(options.folder, options.model, options.out, title=options.title, **work)
    if expected:
        require_sequence(Cohort.read(options.folder), options.model, expected, out=options.out, **work)
    counts = ", ".join(f"{n} {name}" for name, n in table["decision"].value_counts(sort=False).items())
    disagree = int(table["agrees"].eq(False).sum())
    options.say(f"{len(table)} series: {counts}; the DICOM tags disagree with {disagree}.")
    options.say(f"Table: {(Path(options.out) / 'series.csv').resolve()}")
    return 0


def _expectation(word: str) -> tuple[str, str]:
    name, sign, label = word.partition("=")
    if not (name and sign and label):
        raise InputError(f"Expected IMAGE=CLASS after --expect; found {word!r}.", advice="For example t2=T2.")
    return name, label
