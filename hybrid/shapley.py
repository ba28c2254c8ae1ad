"""Shapley values of single predictions, for any model: how much each column moved it away from the average."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Final

import numpy as np

from .errors import InputError

Model = Callable[[np.ndarray], np.ndarray]

PAIRS: Final = 4
"""Random orders per row, each followed by its reverse."""

MAX_EXACT: Final = 6
"""Up to so many columns every coalition is evaluated, and the values are exact."""

MAX_ROWS: Final = 100_000
"""Rows given to the model at once."""


def shapley_values(
    model: Model, rows: np.ndarray, background: np.ndarray, *, pairs: int = PAIRS, seed: int = 0
) -> np.ndarray:
    """Interventional Shapley values (Lundberg and Lee 2017, https://arxiv.org/abs/1705.07874).

    The value of a set of columns is the mean prediction over the background when these columns are those of the row.
    With few columns every set is evaluated; with more, random orders and their reverses are followed (Strumbelj and
    Kononenko 2014, doi:10.1007/s10115-013-0679-x; Mitchell et al. 2022, https://jmlr.org/papers/v23/21-0439.html),
    which is unbiased. In both cases the values of a row sum exactly to its prediction less the mean of the background.

    Parameters
    ----------
    model : callable
        Takes rows of shape (m, p) and returns predictions of shape (m,).
    rows : ndarray of shape (n, p)
        What is explained.
    background : ndarray of shape (b, p)
        Rows that stand for absent columns, from training patients.
    pairs : int
        Orders per row, each followed by its reverse.
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
    p = rows.shape[1]
    if p == 0:
        return np.zeros(rows.shape)
    if p <= MAX_EXACT:
        return np.stack([_exact(model, row, background) for row in rows]) if len(rows) else np.zeros((0, p))
    rng = np.random.default_rng(seed)
    return np.stack([_sampled(model, row, background, pairs, rng) for row in rows]) if len(rows) else np.zeros((0, p))


def _values(model: Model, row: np.ndarray, background: np.ndarray, members: np.ndarray) -> np.ndarray:
    """Mean prediction of each coalition (k, p) over the background."""
    at_once = max(1, MAX_ROWS // len(background))
    found = []
    for start in range(0, len(members), at_once):
        own = members[start : start + at_once]
        mixed = np.where(own[:, None, :], row, background[None])
        found.append(model(mixed.reshape(-1, row.size)).reshape(len(own), -1).mean(axis=1))
    return np.concatenate(found)


def _exact(model: Model, row: np.ndarray, background: np.ndarray) -> np.ndarray:
    p = row.size
    members = np.array(list(itertools.product([False, True], repeat=p)))
    values = _values(model, row, background, members)
    sizes, place = members.sum(axis=1), 2 ** np.arange(p)[::-1]
    result = np.empty(p)
    for j in range(p):
        without = np.flatnonzero(~members[:, j])
        share = np.array([math.factorial(s) * math.factorial(p - s - 1) / math.factorial(p) for s in sizes[without]])
        result[j] = share @ (values[without + place[j]] - values[without])
    return result


def _sampled(model: Model, row: np.ndarray, background: np.ndarray, pairs: int, rng: np.random.Generator) -> np.ndarray:
    p = row.size
    forward = [rng.permutation(p) for _ in range(pairs)]
    orders = [*forward, *(order[::-1] for order in forward)]
    members = np.zeros((len(orders), p + 1, p), dtype=bool)
    for own, order in zip(members, orders, strict=True):
        for k, column in enumerate(order):
            own[k + 1 :, column] = True
    # Every order starts without and ends with all columns.
    inner = _values(model, row, background, members[:, 1:-1].reshape(-1, p)).reshape(len(orders), -1)
    ends = _values(model, row, background, members[0, [0, -1]])
    steps = np.column_stack([np.full(len(orders), ends[0]), inner, np.full(len(orders), ends[1])])
    result = np.zeros(p)
    for order, values in zip(orders, steps, strict=True):
        result[order] += np.diff(values)
    return result / len(orders)
