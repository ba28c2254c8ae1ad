"""Shapley values of single predictions, for any model: how much each column moved it away from the average."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Final

import numpy as np

from .errors import InputError

Model = Callable[[np.ndarray], np.ndarray]

PAIRS: Final = 1
"""Random orders per row and row of the background, each followed by its reverse."""

MAX_EXACT: Final = 6
"""Up to so many columns every coalition is evaluated, and the values are exact."""

MAX_ROWS: Final = 100_000
"""Rows given to the model at once."""


def shapley_values(
    model: Model, rows: np.ndarray, background: np.ndarray, *, pairs: int = PAIRS, seed: int = 0
) -> np.ndarray:
    """Interventional Shapley values (Lundberg and Lee 2017, https://arxiv.org/abs/1705.07874).

    The value of a set of columns is the mean prediction over the background when these columns are those of the row.
    With few columns every set is evaluated; with more, the columns of each row of the background are replaced one by
    one in a random order and in its reverse (Strumbelj and Kononenko 2014, doi:10.1007/s10115-013-0679-x; Mitchell et
    al. 2022, https://jmlr.org/papers/v23/21-0439.html), which is unbiased. In both cases the values of a row sum
    exactly to its prediction less the mean of the background.

    Parameters
    ----------
    model : callable
        Takes rows of shape (m, p) and returns predictions of shape (m,).
    rows : ndarray of shape (n, p)
        What is explained.
    background : ndarray of shape (b, p)
        Rows that stand for absent columns, from training patients.
    pairs : int
        Orders per row and row of the background, each followed by its reverse.
    seed : int
        Of the orders.

    Returns
    -------
    ndarray of shape (n, p)
        In the unit of the prediction.

    Raises
    ------
    InputError
        For shapes that do not fit, or values that are missing.
    """
    rows, background = np.asarray(rows, dtype=np.float64), np.asarray(background, dtype=np.float64)
    if rows.ndim != 2 or background.ndim != 2 or rows.shape[1] != background.shape[1] or not len(background):
        raise InputError(
            f"Rows and background must have the same columns; found {rows.shape} and {background.shape}.",
            advice="Pass both after the same preprocessing.",
        )
    if not (np.isfinite(rows).all() and np.isfinite(background).all()):
        raise InputError("Rows or background have missing or infinite values.", advice="Impute them before.")
    if pairs < 1:
        raise InputError(f"There must be one pair of orders or more; found {pairs}.", advice="Use the default.")
    if not rows.size:
        return np.zeros(rows.shape)
    if rows.shape[1] <= MAX_EXACT:
        return np.stack([_exact(model, row, background) for row in rows])
    return _sampled(model, rows, np.tile(background, (pairs, 1)), np.random.default_rng(seed))


def _predictions(model: Model, rows: np.ndarray) -> np.ndarray:
    """Predictions for any number of rows, :data:`MAX_ROWS` at once."""
    parts = [model(rows[start : start + MAX_ROWS]) for start in range(0, len(rows), MAX_ROWS)]
    return np.concatenate(parts)


def _exact(model: Model, row: np.ndarray, background: np.ndarray) -> np.ndarray:
    p = row.size
    members = np.array(list(itertools.product([False, True], repeat=p)))
    mixed = np.where(members[:, None, :], row, background)
    values = _predictions(model, mixed.reshape(-1, p)).reshape(len(members), -1).mean(axis=1)
    sizes, place = members.sum(axis=1), 2 ** np.arange(p)[::-1]
    result = np.empty(p)
    for j in range(p):
        without = np.flatnonzero(~members[:, j])
        share = np.array([math.factorial(s) * math.factorial(p - s - 1) / math.factorial(p) for s in sizes[without]])
        result[j] = share @ (values[without + place[j]] - values[without])
    return result


def _sampled(model: Model, rows: np.ndarray, background: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Follow one order and its reverse from every row of the background to every row."""
    p, paths = rows.shape[1], 2 * len(background)
    starts = np.tile(background, (2, 1))
    first, last = np.tile(model(background), 2), model(rows)
    result = np.zeros(rows.shape)
    at_once = max(1, MAX_ROWS // (paths * (p - 1)))
    for begin in range(0, len(rows), at_once):
        own = rows[begin : begin + at_once]
        forward = rng.permuted(np.broadcast_to(np.arange(p), (len(own), len(background), p)), axis=-1)
        orders = np.concatenate([forward, forward[..., ::-1]], axis=1)
        # After k steps the k columns that come first in the order are those of the row.
        replaced = np.argsort(orders, axis=-1)[..., None, :] < np.arange(1, p)[:, None]
        mixed = np.where(replaced, own[:, None, None, :], starts[:, None, :])
        inner = _predictions(model, mixed.reshape(-1, p)).reshape(len(own), paths, p - 1)
        for row, (order, values) in enumerate(zip(orders, inner, strict=True), start=begin):
            steps = np.column_stack([first, values, np.full(paths, last[row])])
            np.add.at(result[row], order, np.diff(steps, axis=1))
    return result / paths
