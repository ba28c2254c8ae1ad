"""Slices of one scan speak together: each probability becomes a weighted mean over the neighbouring slices.

A finding reaches through several slices, and what fools a network on one slice (a sulcus cut along its length, noise)
is seldom there on the next. Averaging along the scan is the simplest form of what sequence models do in the challenges
on intracranial haemorrhage (Flanders et al. 2020, https://doi.org/10.1148/ryai.2020190211).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import pandas as pd

from hybrid.errors import InputError
from hybrid.tables import require_columns

LARGEST: Final = 20


def triangular_weights(half: int) -> np.ndarray:
    """Weights of the slices -half to half: 1 in the middle, falling along a line to 0 one slice further.

    Raises
    ------
    InputError
        For a number outside 0 to :data:`LARGEST`.
    """
    if half != int(half) or not 0 <= half <= LARGEST:
        raise InputError(f"Expected smoothing over 0 to {LARGEST} slices on either side; found {half}.")
    return 1 - np.abs(np.arange(-half, half + 1)) / (half + 1)


def smooth_along_scan(
    table: pd.DataFrame, columns: Sequence[str], half: int, *, by: Sequence[str] = ("case_id",)
) -> pd.DataFrame:
    """Average probabilities over neighbouring slices of the same scan.

    Parameters
    ----------
    table : DataFrame
        ``slice`` and the columns below; any order; not modified.
    columns : sequence of str
        Probabilities.
    half : int
        Slices on either side that take part, with :func:`triangular_weights`; 0 returns the table as it is.
    by : sequence of str
        Columns that name a scan.

    Returns
    -------
    DataFrame
        Same rows and order. Slices that the table lacks, or that have no probability, take no part: their weight goes
        to the others. A slice without a probability keeps none.
    """
    weights = triangular_weights(half)
    require_columns(table, ["slice", *columns, *by], "slices")
    if not half:
        return table
    result = table.copy()
    for place in table.groupby(list(by), sort=False, dropna=False).indices.values():
        numbers = table["slice"].iloc[place].to_numpy(dtype=float)
        values = table[list(columns)].iloc[place].to_numpy(dtype=float)
        result.iloc[place, [result.columns.get_loc(name) for name in columns]] = _averaged(numbers, values, weights)
    return result


def _averaged(numbers: np.ndarray, values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted means of the rows of ``values``, by the distance of their slice numbers."""
    half = len(weights) // 2
    away = numbers[:, None] - numbers[None]
    near = np.abs(away) <= half
    shares = np.where(near, weights[np.where(near, away, 0).astype(int) + half], 0.0)
    known = np.isfinite(values).all(axis=1)
    shares[:, ~known] = 0
    total = shares.sum(axis=1, keepdims=True)
    mean = shares @ np.where(known[:, None], values, 0) / np.where(total > 0, total, 1)
    return np.where(known[:, None], mean, values)
