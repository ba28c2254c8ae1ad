"""The feature dictionary: what each column of a feature table means, in which unit, and under which IBSI identifier.

IBSI is the Image Biomarker Standardisation Initiative, https://doi.org/10.1148/radiol.2020191145. Its identifiers
(``Q4LE`` is the mean intensity) are given where PyRadiomics follows the same definition; where values can differ, the
note says why. Three differences concern the processing of every feature and not its definition: PyRadiomics aligns the
resampling grid at the image's corner (IBSI: centre), resamples masks by nearest neighbour (IBSI: linear, threshold
0.5), and starts fixed-width bins at multiples of the width. In 3D and with PyRadiomics' defaults, co-occurrence and
run-length features are those that IBSI calls "3D, averaged" (ITBB); zone, dependence and difference features are "3D"
(KOBO).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from importlib import resources
from typing import Any, Final

import pandas as pd

from hybrid.tables import DEEP_PREFIX, HANDCRAFTED_PREFIX

DICTIONARY_COLUMNS: Final = (
    "name", "family", "class", "feature", "image", "image_filter", "unit", "ibsi_id", "ibsi_note", "meaning",
    "pyradiomics_name",
)  # fmt: skip
"""Columns of the feature dictionary."""

CLASSES: Final = ("shape", "shape2D", "firstorder", "glcm", "glrlm", "glszm", "gldm", "ngtdm")

_FILTER: Final = (
    r"original|log_sigma_\w+?_mm_3D|wavelet\d*_[LH]+|squareroot|square|logarithm|exponential|gradient|lbp_2D|"
    r"lbp_3D_(?:m\d+|k)"
)
_HANDCRAFTED: Final = re.compile(
    rf"{HANDCRAFTED_PREFIX}(?:(?P<image>\w+?)_)?(?P<filter>{_FILTER})_(?P<class>{'|'.join(CLASSES)})_(?P<feature>[0-9A-Za-z]+)"
)
_DEEP: Final = re.compile(rf"{DEEP_PREFIX}(?:(?P<image>\w+)_)?(?P<feature>\d+)")

_BINNED: Final = frozenset({"glcm", "glrlm", "glszm", "gldm", "ngtdm"})
_BINNED_FIRSTORDER: Final = frozenset({"Entropy", "Uniformity"})

_BIN_NOTE: Final = (
    "differs from IBSI where bins have a fixed width: they start at multiples of the width, in IBSI at the lower bound "
    "of the resegmentation range"
)
_FILTER_NOTES: Final = (
    ("log_sigma", "not an IBSI-2 response: this Laplacian of Gaussian is recursive and multiplied by sigma squared"),
    ("wavelet", "not an IBSI-2 response: PyRadiomics' wavelets are periodic at the image border and not rotation "
     "invariant"),
    ("", "not an IBSI-2 response"),
)  # fmt: skip


@functools.cache
def _definitions() -> dict[tuple[str, str], dict[str, str]]:
    text = resources.files(__package__).joinpath("dictionary.csv")
    with text.open(encoding="utf-8") as stream:
        table = pd.read_csv(stream, dtype=str, keep_default_na=False)
    return {(row["class"], row["feature"]): row for row in table.to_dict("records")}


def feature_dictionary(columns: Iterable[str]) -> pd.DataFrame:
    """Explain the columns of a feature table.

    Parameters
    ----------
    columns : iterable of str
        Column names, such as ``features.columns``.

    Returns
    -------
    DataFrame
        One row per column, in the given order: ``name``; ``family`` (``handcrafted``, ``deep`` or ``other``);
        ``class`` and ``feature`` under PyRadiomics' names; ``image`` (empty when a case has one); ``image_filter``;
        ``unit`` (``intensity`` is that of the image: HU, SUV, normalised units); ``ibsi_id``; ``ibsi_note``;
        ``meaning``; ``pyradiomics_name`` (with PyRadiomics' hyphens). Text throughout, empty where it does not apply.
    """
    rows = [_row(str(column)) for column in columns]
    return pd.DataFrame(rows, columns=list(DICTIONARY_COLUMNS))


def _row(column: str) -> dict[str, Any]:
    row: dict[str, Any] = {**dict.fromkeys(DICTIONARY_COLUMNS, ""), "name": column, "family": "other"}
    handcrafted, deep = _HANDCRAFTED.fullmatch(column), _DEEP.fullmatch(column)
    if handcrafted and (handcrafted["class"], handcrafted["feature"]) in _definitions():
        return row | _handcrafted(handcrafted)
    if deep:
        meaning = f"Component {int(deep['feature'])} of the network's embedding of the lesion; no meaning of its own."
        return row | {
            "family": "deep", "class": "embedding", "feature": deep["feature"], "image": deep["image"] or "",
            "unit": "1", "meaning": meaning,
        }  # fmt: skip
    return row


def _handcrafted(match: re.Match[str]) -> dict[str, str]:
    definition = _definitions()[match["class"], match["feature"]]
    notes = [definition["ibsi_note"]]
    if match["class"] in _BINNED or match["feature"] in _BINNED_FIRSTORDER:
        notes.append(_BIN_NOTE)
    if match["filter"] != "original":
        notes.append(next(note for start, note in _FILTER_NOTES if match["filter"].startswith(start)))
    return {
        **definition,
        "family": "handcrafted",
        "image": match["image"] or "",
        "image_filter": match["filter"],
        "ibsi_note": "; ".join(note for note in notes if note),
        "pyradiomics_name": "_".join((match["filter"].replace("_", "-"), match["class"], match["feature"])),
    }
