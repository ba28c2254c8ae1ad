"""Adjusting the p-values of one family of tests.

A family is every test that was planned to answer one question, also those that turned out to be undefined. The
arithmetic is that of :func:`statsmodels.stats.multitest.multipletests`; this module adds checks, undefined
p-values, and the size of the family beside the result, so that a table can state it.

Bonferroni, Holm, Hochberg and Hommel control the probability of one or more false claims (family-wise error);
Benjamini-Hochberg and Benjamini-Yekutieli control the expected share of false claims among the claims (false discovery
rate). Hochberg, Hommel and Benjamini-Hochberg need independent or positively dependent tests.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hybrid.errors import InputError, unknown_name

FloatArray = NDArray[np.float64]
Method = Literal["holm", "hochberg", "hommel", "bonferroni", "benjamini_hochberg", "benjamini_yekutieli"]

METHODS: Final = {
    "holm": "Holm 1979 (https://www.jstor.org/stable/4615733)",
    "hochberg": "Hochberg 1988 (doi:10.1093/biomet/75.4.800)",
    "hommel": "Hommel 1988 (doi:10.1093/biomet/75.2.383)",
    "bonferroni": "Bonferroni: p-value times size of the family (Dunn 1961, doi:10.1080/01621459.1961.10482090)",
    "benjamini_hochberg": "Benjamini and Hochberg 1995 (doi:10.1111/j.2517-6161.1995.tb02031.x)",
    "benjamini_yekutieli": "Benjamini and Yekutieli 2001 (doi:10.1214/aos/1013699998)",
}
"""Methods that :func:`adjust` knows, with their source."""

_STATSMODELS: Final = {
    "holm": "holm", "hochberg": "simes-hochberg", "hommel": "hommel", "bonferroni": "bonferroni",
    "benjamini_hochberg": "fdr_bh", "benjamini_yekutieli": "fdr_by",
}  # fmt: skip


@dataclass(frozen=True)
class Adjusted:
    """P-values adjusted for the size of their family.

    Attributes
    ----------
    p : ndarray of shape (n,)
        Adjusted p-values in the order of the input; NaN where the input was.
    method : str
        A key of :data:`METHODS`.
    n_family : int
        Number of tests that the adjustment accounts for.
    n_undefined : int
        Number of p-values that were NaN.
    """

    p: FloatArray
    method: str
    n_family: int
    n_undefined: int

    @property
    def sentence(self) -> str:
        """What was done, with the source."""
        undefined = f", of which {self.n_undefined} were undefined" if self.n_undefined else ""
        return f"P-values were adjusted over a family of {self.n_family} tests{undefined}: {METHODS[self.method]}."


def adjust(p: ArrayLike, method: Method = "holm", *, count_undefined: bool = True) -> Adjusted:
    """Adjust the p-values of one family of tests.

    Parameters
    ----------
    p : array-like of shape (n,)
        P-values of the whole family, in any order; NaN for a test that is not defined (for example a constant feature).
    method : str
        A key of :data:`METHODS`.
    count_undefined : bool
        Whether a planned but undefined test is a member of the family, as if its p-value were 1. This is the cautious
        choice and the default; with False the family consists of the defined tests (as in R's ``p.adjust``).

    Returns
    -------
    Adjusted
        Adjusted p-values, with the size of the family.

    Raises
    ------
    InputError
        For an unknown method, more than one dimension, or values outside [0, 1].

    Examples
    --------
    >>> adjust([0.01, 0.04, float("nan")], "bonferroni").p
    array([0.03, 0.12,  nan])
    """
    if method not in METHODS:
        raise unknown_name("method of adjustment", method, METHODS)
    values = np.asarray(p, dtype=np.float64)
    if values.ndim != 1:
        raise InputError(
            f"P-values must be one list; found an array of shape {values.shape}.",
            advice="Pass the p-values of one family, for example one column of a table.",
        )
    undefined = np.isnan(values)
    wrong = values[~undefined & ~((values >= 0) & (values <= 1))]
    if wrong.size:
        raise InputError(f"P-values must lie between 0 and 1; found {wrong[0]}.", advice="Pass unadjusted p-values.")
    member = np.full(values.shape, True) if count_undefined else ~undefined
    adjusted = np.full(values.shape, np.nan)
    if member.any():
        adjusted[member] = _adjusted(np.where(undefined, 1.0, values)[member], method)
    adjusted[undefined] = np.nan
    return Adjusted(adjusted, method, int(member.sum()), int(undefined.sum()))


def _adjusted(p: FloatArray, method: str) -> FloatArray:
    from statsmodels.stats.multitest import multipletests

    return np.asarray(multipletests(p, method=_STATSMODELS[method])[1], dtype=np.float64)
