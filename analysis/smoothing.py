"""Smoothers of observed outcomes over predicted probabilities, for one sample or for many bootstrap draws at once.

Numbers read off a smooth calibration curve depend on the smoother, so each has a name that tables repeat:

======================  ================================================================================================
name                    computation
======================  ================================================================================================
``"loess"``             R's ``loess`` with its defaults: local quadratic, tricube weights, span 0.75, evaluated at the
                        vertices of a k-d tree and joined by cubic polynomials (``surface = "interpolate"``)
``"loess_direct"``      the same fit at every point (``surface = "direct"``)
``"lowess"``            local line, tricube weights, span 2/3, no robustness iterations (statsmodels' ``lowess``)
======================  ================================================================================================

Cleveland 1979 (doi:10.1080/01621459.1979.10481038); Cleveland and Devlin 1988 (doi:10.1080/01621459.1988.10478639);
vertices and joining as in Cleveland and Grosse 1991 (doi:10.1007/BF01890836).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from scipy.interpolate import CubicHermiteSpline

from hybrid.errors import unknown_name

from .resampling import FloatArray

Smoother = Literal["loess", "loess_direct", "lowess"]

SMOOTHERS: Final = ("loess", "loess_direct", "lowess")
"""Names of the smoothers."""

SMOOTHER_NAMES: Final = {
    "loess": "loess (degree 2, span 0.75, interpolated; R's default)",
    "loess_direct": "loess (degree 2, span 0.75, direct)",
    "lowess": "lowess (degree 1, span 2/3, no robustness iterations)",
}
"""What a table or a figure says about the smoother."""

LOESS_SPAN: Final = 0.75
LOWESS_SPAN: Final = 2 / 3

LEAF_SHARE: Final = 0.2
"""A cell of loess' tree is cut while it holds more than this share of the span's points."""

BOX_MARGIN: Final = 0.005
"""Share of the range by which loess' outer vertices stand off the data."""

SINGULAR: Final = 1e-9
"""Local designs with a relative determinant below this are fitted with a lower degree."""

_DEGREE: Final = {"loess": 2, "loess_direct": 2, "lowess": 1}
_SPAN: Final = {"loess": LOESS_SPAN, "loess_direct": LOESS_SPAN, "lowess": LOWESS_SPAN}


@dataclass(frozen=True)
class _Moments:
    """Weighted sums of one neighbourhood, each of shape (b,): of powers of z, and of y times powers of z."""

    of_z: FloatArray
    of_y: FloatArray


def smooth(x: FloatArray, y: FloatArray, at: FloatArray, *, smoother: Smoother = "loess") -> FloatArray:
    """Smooth one sample.

    Parameters
    ----------
    x, y : ndarray of shape (n,)
        Predicted probabilities and outcomes.
    at : ndarray of shape (m,)
        Where to evaluate; within the range of ``x``.
    smoother : {"loess", "loess_direct", "lowess"}
        See the table of this module.

    Returns
    -------
    ndarray of shape (m,)
        Not confined to [0, 1]: a local polynomial may leave it by a little.

    Raises
    ------
    InputError
        For an unknown smoother.
    """
    return smooth_draws(x, y, at, np.ones((x.size, 1)), smoother=smoother)[:, 0]


def smooth_draws(
    x: FloatArray, y: FloatArray, at: FloatArray, weights: FloatArray, *, smoother: Smoother = "loess"
) -> FloatArray:
    """Smooth a sample under many weightings of its rows.

    A row of weight 2 counts as two rows, also when the neighbourhood is measured. The vertices of ``"loess"`` are those
    of the unweighted sample.

    Parameters
    ----------
    x, y : ndarray of shape (n,)
        Predicted probabilities and outcomes.
    at : ndarray of shape (m,)
        Where to evaluate.
    weights : ndarray of shape (n, b)
        Weight of each row in each draw.
    smoother : {"loess", "loess_direct", "lowess"}
        See the table of this module.

    Returns
    -------
    ndarray of shape (m, b)
        Smoothed outcome; NaN in a draw without weight.

    Raises
    ------
    InputError
        For an unknown smoother.
    """
    if smoother not in SMOOTHERS:
        raise unknown_name("smoother", smoother, SMOOTHERS)
    span, degree = _SPAN[smoother], _DEGREE[smoother]
    if smoother != "loess":
        points, inverse = np.unique(at, return_inverse=True)
        return np.stack([_fit_at(point, x, y, weights, span, degree)[0] for point in points])[inverse]
    vertices = loess_vertices(x)
    if vertices.size < 2:
        return np.repeat(_fit_at(float(x[0]), x, y, weights, span, degree)[0][None], at.size, axis=0)
    fits = [_fit_at(vertex, x, y, weights, span, degree) for vertex in vertices]
    values, slopes = (np.stack(part) for part in zip(*fits, strict=True))
    return np.asarray(CubicHermiteSpline(vertices, values, slopes, axis=0)(at))


def loess_vertices(x: FloatArray) -> FloatArray:
    """Points at which R's ``loess`` fits before it interpolates.

    Cells are cut at their median point until they hold at most a fifth of the span's points; a cut between equal values
    moves to the nearest place where neighbours differ.

    Parameters
    ----------
    x : ndarray of shape (n,)
        Predicted probabilities.

    Returns
    -------
    ndarray of shape (k,)
        Sorted; one value when all of ``x`` are equal.
    """
    ordered = np.sort(x)
    low, high = float(ordered[0]), float(ordered[-1])
    if low == high:
        return np.array([low])
    leaf = int(np.floor(x.size * LOESS_SPAN * LEAF_SHARE))
    margin = BOX_MARGIN * (high - low)
    found = {low - margin, high + margin}
    cells = [(0, x.size - 1)]
    while cells:
        first, last = cells.pop()
        if last - first + 1 <= max(leaf, 1):
            continue
        cut = _cut(ordered, first, last)
        if ordered[cut] not in found:
            found.add(float(ordered[cut]))
            cells += [(first, cut), (cut + 1, last)]
    return np.array(sorted(found))


def _cut(ordered: FloatArray, first: int, last: int) -> int:
    """Position nearest the middle whose right neighbour differs; the middle itself when there is none."""
    middle = (first + last + 2) // 2 - 1
    places = np.flatnonzero(np.diff(ordered[first : last + 1]) > 0) + first
    places = places[np.abs(places - middle) < last - middle]
    if places.size == 0:
        return middle
    # Of two equally near places the right one is taken.
    return int(places[np.lexsort((-places, np.abs(places - middle)))[0]])


def _fit_at(
    point: float, x: FloatArray, y: FloatArray, weights: FloatArray, span: float, degree: int
) -> tuple[FloatArray, FloatArray]:
    """Value and slope of the local polynomial at one point, each of shape (b,)."""
    distance = np.abs(x - point)
    order = np.argsort(distance, kind="stable")
    near = weights[order]
    wanted = np.floor(near.sum(axis=0) * span + 1e-5)
    # Half a row of slack: weights nudged by the jackknife of the bootstrap must not change the neighbourhood.
    last = np.argmax(np.cumsum(near, axis=0) > wanted - 0.5, axis=0)
    width = distance[order][last]
    relative = np.divide(distance[order][:, None], width, out=np.ones_like(near), where=width > 0)
    relative[distance[order] == 0] = 0.0
    kernel = near * (1 - np.minimum(relative, 1.0) ** 3) ** 3
    # All neighbours equally far, as for a vertex beside many equal values: each counts the same.
    kernel = np.where(kernel.any(axis=0), kernel, near * (relative <= 1.0))
    signed = relative * np.sign(x[order] - point)[:, None]
    powers = [kernel]
    for _ in range(2 * degree):
        powers.append(powers[-1] * signed)
    of_z = np.stack([power.sum(axis=0) for power in powers])
    of_y = np.stack([y[order] @ power for power in powers[: degree + 1]])
    value, slope = _solve(_Moments(of_z, of_y), degree)
    return value, np.divide(slope, width, out=np.zeros_like(slope), where=width > 0)


def _solve(moments: _Moments, degree: int) -> tuple[FloatArray, FloatArray]:
    """Intercept and slope from the normal equations; the degree drops where they are singular."""
    s, t = moments.of_z, moments.of_y
    with np.errstate(divide="ignore", invalid="ignore"):
        value, slope = t[0] / s[0], np.zeros_like(t[0])
        line = s[0] * s[2] - s[1] ** 2
        usable = line > SINGULAR * s[0] * s[2]
        value = np.where(usable, (t[0] * s[2] - t[1] * s[1]) / line, value)
        slope = np.where(usable, (t[1] * s[0] - t[0] * s[1]) / line, slope)
        if degree == 1:
            return value, slope
        c00, c01, c02 = s[2] * s[4] - s[3] ** 2, s[2] * s[3] - s[1] * s[4], s[1] * s[3] - s[2] ** 2
        c11, c12 = s[0] * s[4] - s[2] ** 2, s[1] * s[2] - s[0] * s[3]
        whole = s[0] * c00 + s[1] * c01 + s[2] * c02
        usable = whole > SINGULAR * s[0] * s[2] * s[4]
        value = np.where(usable, (t[0] * c00 + t[1] * c01 + t[2] * c02) / whole, value)
        slope = np.where(usable, (t[0] * c01 + t[1] * c11 + t[2] * c12) / whole, slope)
    return value, slope
