"""Comparing many models: over independent data sets by ranks, or over the folds of one cohort by corrected t-tests.

The two questions must not be mixed up. Friedman's and Nemenyi's tests need *independent* blocks: data sets, centres, or
patients with a score of their own (such as Dice). The folds and repeats of one cross-validation share most of their
training patients; their differences go to :func:`corrected_resampled_t` or :func:`bayesian_correlated_t`, which widen
the variance for that overlap.

Sources: Friedman 1937 (doi:10.1080/01621459.1937.10503522), Iman and Davenport 1980 (doi:10.1080/03610928008827904),
Demsar 2006 (Journal of Machine Learning Research 7:1-30), Nadeau and Bengio 2003 (doi:10.1023/A:1024068626366),
Benavoli et al. 2017 (Journal of Machine Learning Research 18(77):1-36).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from hybrid.errors import InputError, unknown_name

from .roc import ALTERNATIVES, check_level

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FloatArray = NDArray[np.float64]

NEMENYI_COLUMNS: Final = (
    "model_a", "model_b", "mean_rank_a", "mean_rank_b", "difference", "p", "critical_difference", "is_different",
    "alpha", "n_blocks", "n_models",
)  # fmt: skip
"""Columns of the table that :func:`nemenyi` returns."""


@dataclass(frozen=True)
class Friedman:
    """Comparison of several models over independent blocks.

    Attributes
    ----------
    mean_ranks : Series
        Mean rank of each model, 1 for the best.
    chi2, df, p_chi2 : float
        Friedman's statistic; 0 with p = 1 when all models are tied in every block.
    f, df1, df2, p : float
        Iman and Davenport's F, which keeps its level better than chi-square; report this one. When all blocks rank the
        models alike F is infinite, and p is the exact probability of that under random ranks.
    n_blocks, n_models : int
        Size of the table.
    ties_corrected : bool
        Whether tied ranks were accounted for.
    """

    mean_ranks: pd.Series
    chi2: float
    df: int
    p_chi2: float
    f: float
    df1: int
    df2: int
    p: float
    n_blocks: int
    n_models: int
    ties_corrected: bool
    method: str = (
        "Friedman's test (1937, doi:10.1080/01621459.1937.10503522) with the F statistic of Iman and Davenport 1980 "
        "(doi:10.1080/03610928008827904)"
    )


def friedman(scores: ArrayLike | pd.DataFrame, *, higher_is_better: bool = True, correct_ties: bool = True) -> Friedman:
    """Test whether models differ over independent blocks.

    Parameters
    ----------
    scores : DataFrame or array of shape (n_blocks, n_models)
        One score per block (row: data set, centre or patient; never a fold) and model (column).
    higher_is_better : bool
        False for errors and distances.
    correct_ties : bool
        Whether to account for tied scores (as R and SciPy do). Demsar 2006 does not; False gives his numbers.

    Returns
    -------
    Friedman
        Mean ranks, statistics and p-values.

    Raises
    ------
    InputError
        For missing scores, fewer than three models or fewer than two blocks.
    """
    table = _check_scores(scores)
    ranks = _ranks(table, higher_is_better)
    n = len(ranks)
    mean_ranks = pd.Series(ranks.mean(axis=0), index=table.columns, name="mean_rank")
    if np.ptp(ranks, axis=1).max() == 0:
        return _friedman(mean_ranks, 0.0, n, correct_ties)
    if correct_ties:
        result = _friedman(mean_ranks, float(stats.friedmanchisquare(*ranks.T).statistic), n, ties_corrected=True)
    else:
        result = friedman_from_ranks(mean_ranks, n)
    return result if math.isfinite(result.f) else _same_order(result, ranks)


def friedman_from_ranks(mean_ranks: Sequence[float] | pd.Series, n_blocks: int) -> Friedman:
    """Friedman's test from published mean ranks, without a correction for ties.

    Parameters
    ----------
    mean_ranks : sequence or Series of length n_models
        Mean rank of each model; they must add up to ``k (k + 1) / 2`` but for rounding.
    n_blocks : int
        Number of blocks (data sets).

    Returns
    -------
    Friedman
        See :func:`friedman`.

    Raises
    ------
    InputError
        For fewer than three models, fewer than two blocks, or ranks with another sum.
    """
    ranks = pd.Series(mean_ranks, dtype=np.float64, name="mean_rank")
    k = len(ranks)
    _check_size(n_blocks, k)
    if not abs(ranks.sum() - k * (k + 1) / 2) < 0.01 * k:
        raise InputError(
            f"Mean ranks of {k} models add up to {k * (k + 1) / 2:g}; found {ranks.sum():g}.", advice="Check the ranks."
        )
    chi2 = 12 * n_blocks / (k * (k + 1)) * float((ranks**2).sum() - k * (k + 1) ** 2 / 4)
    return _friedman(ranks, max(chi2, 0.0), n_blocks, ties_corrected=False)


def _friedman(mean_ranks: pd.Series, chi2: float, n: int, ties_corrected: bool) -> Friedman:
    k = len(mean_ranks)
    df1, df2 = k - 1, (k - 1) * (n - 1)
    room = n * (k - 1) - chi2
    f = (n - 1) * chi2 / room if room > 1e-9 * n * k else math.inf
    p_chi2, p = float(stats.chi2.sf(chi2, df1)), float(stats.f.sf(f, df1, df2))
    return Friedman(mean_ranks, chi2, df1, p_chi2, f, df1, df2, p, n, k, ties_corrected)


def _same_order(result: Friedman, ranks: FloatArray) -> Friedman:
    """F is infinite: p is the probability that random ranks agree in all blocks (Conover 1999, section 5.8)."""
    _, repeats = np.unique(ranks[0], return_counts=True)
    orders = math.factorial(result.n_models) / math.prod(math.factorial(int(count)) for count in repeats)
    values = {**result.__dict__, "p": float(orders ** (1 - result.n_blocks))}
    return Friedman(**values)


def nemenyi(scores: ArrayLike | pd.DataFrame, *, alpha: float = 0.05, higher_is_better: bool = True) -> pd.DataFrame:
    """Compare all pairs of models by their mean ranks (Nemenyi 1963, as in Demsar 2006, section 3.2.2).

    Parameters
    ----------
    scores, higher_is_better
        See :func:`friedman`.
    alpha : float
        Family-wise error rate over all pairs.

    Returns
    -------
    DataFrame
        Columns :data:`NEMENYI_COLUMNS`, one row per pair. ``difference`` is ``mean_rank_a - mean_rank_b`` (negative
        when a is better), ``p`` is already adjusted for all pairs, and ``is_different`` says whether the difference
        exceeds the critical difference.

    Raises
    ------
    InputError
        See :func:`friedman`.
    """
    table = _check_scores(scores)
    mean_ranks = pd.Series(_ranks(table, higher_is_better).mean(axis=0), index=table.columns)
    return nemenyi_from_ranks(mean_ranks, len(table), alpha=alpha)


def nemenyi_from_ranks(mean_ranks: Sequence[float] | pd.Series, n_blocks: int, *, alpha: float = 0.05) -> pd.DataFrame:
    """Nemenyi's test from mean ranks; see :func:`nemenyi`.

    Parameters
    ----------
    mean_ranks : sequence or Series of length n_models
        Mean ranks; the index of a Series names the models.
    n_blocks : int
        Number of blocks (data sets).
    alpha : float
        Family-wise error rate.

    Returns
    -------
    DataFrame
        See :func:`nemenyi`.
    """
    ranks = pd.Series(mean_ranks, dtype=np.float64)
    critical = critical_difference(len(ranks), n_blocks, alpha=alpha)
    first, second = (list(side) for side in zip(*itertools.combinations(range(len(ranks)), 2), strict=True))
    values = ranks.to_numpy()
    difference = values[first] - values[second]
    q = np.abs(difference) / _rank_error(len(ranks), n_blocks) * math.sqrt(2)
    columns = (
        ranks.index[first], ranks.index[second], values[first], values[second], difference,
        stats.studentized_range.sf(q, len(ranks), np.inf), critical, np.abs(difference) > critical, alpha, n_blocks,
        len(ranks),
    )  # fmt: skip
    return pd.DataFrame(dict(zip(NEMENYI_COLUMNS, columns, strict=True)))


def critical_difference(n_models: int, n_blocks: int, *, alpha: float = 0.05) -> float:
    """Smallest difference of two mean ranks that Nemenyi's test calls significant (Demsar 2006, section 3.2.2).

    Parameters
    ----------
    n_models, n_blocks : int
        Size of the table.
    alpha : float
        Family-wise error rate.

    Returns
    -------
    float
        In ranks.
    """
    _check_size(n_blocks, n_models)
    if not 0.0 < alpha < 1.0:
        raise InputError(f"The error rate must lie between 0 and 1; found {alpha}.", advice="Use 0.05 for 5 %.")
    q = float(stats.studentized_range.ppf(1 - alpha, n_models, np.inf))
    return q / math.sqrt(2) * _rank_error(n_models, n_blocks)


def _rank_error(n_models: int, n_blocks: int) -> float:
    """Give the standard error of the difference of two mean ranks."""
    return math.sqrt(n_models * (n_models + 1) / (6 * n_blocks))


def _check_scores(scores: ArrayLike | pd.DataFrame) -> pd.DataFrame:
    table = pd.DataFrame(scores)
    text = [name for name, kind in table.dtypes.items() if not pd.api.types.is_numeric_dtype(kind)]
    if text:
        raise InputError(
            f"Scores must be numbers; column {text[0]!r} is not.", advice="Make the names of blocks the index."
        )
    values = table.to_numpy(dtype=np.float64)
    _check_size(*values.shape)
    if not np.isfinite(values).all():
        block, model = np.argwhere(~np.isfinite(values))[0]
        raise InputError(
            f"Every model needs a finite score in every block; model {table.columns[model]} has none in block "
            f"{table.index[block]}.",
            advice="Remove incomplete blocks, and say how many.",
        )
    if table.columns.has_duplicates:
        name = table.columns[table.columns.duplicated()][0]
        raise InputError(f"Model {name!r} occurs twice.", advice="Give each column its own name.")
    return table


def _check_size(n_blocks: int, n_models: int) -> None:
    if n_models < 3 or n_blocks < 2:
        raise InputError(
            f"Comparing ranks needs three or more models and two or more blocks; found {n_models} models in "
            f"{n_blocks} blocks.",
            advice="Use a paired test for two models, such as Wilcoxon's.",
        )


def _ranks(table: pd.DataFrame, higher_is_better: bool) -> FloatArray:
    values = table.to_numpy(dtype=np.float64)
    return np.asarray(stats.rankdata(-values if higher_is_better else values, axis=1), dtype=np.float64)


def plot_critical_difference(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw mean ranks, and a bar beside models that do not differ (the diagram of Demsar 2006, turned for long names).

    Parameters
    ----------
    table : DataFrame
        The table that :func:`nemenyi` returns.
    ax : Axes, optional
        Where to draw.

    Returns
    -------
    Axes
        One row per model, the best on top. A bar on the right spans models of which no two differ by more than the
        critical difference, which is drawn to scale above them; see :func:`similar_groups`.
    """
    from .plots import COLOURS, INK, _axes, _style

    ranks = _mean_ranks(table)
    groups = similar_groups(table)
    critical = float(table["critical_difference"].iloc[0])
    ax = _axes(ax, height=0.9 + 0.19 * len(ranks))
    low, high = math.floor(ranks.min()), max(math.ceil(ranks.max()), ranks.min() + critical)
    step = 0.05 * (high - low)
    rows = dict(zip(ranks.index, range(len(ranks)), strict=True))
    ax.plot(ranks, range(len(ranks)), color=COLOURS[0], marker="o", markersize=4.5, linestyle="none")
    ax.plot([ranks.min(), ranks.min() + critical], [-1, -1], color=INK, linewidth=1.3, marker="|", markersize=5)
    ax.annotate(
        f"critical difference {critical:.2f}", (ranks.min(), -1), (0, 4), textcoords="offset points", fontsize=8
    )
    for i, (first, last) in enumerate(groups):
        ends = [rows[first] - 0.25, rows[last] + 0.25]
        ax.plot([high + (i + 1) * step] * 2, ends, color=INK, linewidth=3, solid_capstyle="butt")
    ax.set_yticks(range(len(ranks)), [f"{name} ({rank:.2f})" for name, rank in ranks.items()])
    ax.set_xticks(range(low, math.ceil(ranks.max()) + 1))
    right = high + (len(groups) + 1) * step
    ax.set(xlim=(low - step, right), ylim=(len(ranks) - 0.4, -2), xlabel="Mean rank (1 is best)")
    _style(ax)
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0)
    return ax


def _mean_ranks(table: pd.DataFrame) -> pd.Series:
    """Mean rank of each model, best first."""
    from hybrid.tables import require_columns

    require_columns(table, NEMENYI_COLUMNS, "Nemenyi")
    sides = [table[[f"model_{side}", f"mean_rank_{side}"]].set_axis(["model", "rank"], axis=1) for side in "ab"]
    ranks = pd.concat(sides).drop_duplicates("model").set_index("model")["rank"]
    return ranks.sort_values(kind="stable")


def similar_groups(table: pd.DataFrame) -> list[tuple[Any, Any]]:
    """Largest runs of models, ordered by rank, in which no two differ by more than the critical difference.

    Parameters
    ----------
    table : DataFrame
        The table that :func:`nemenyi` returns.

    Returns
    -------
    list of (first, last)
        Names of the best and the worst model of each run of two or more; runs within a longer one are left out.
    """
    ranks = _mean_ranks(table)
    critical = float(table["critical_difference"].iloc[0])
    runs: list[tuple[int, int]] = []
    for start in range(len(ranks)):
        end = int(np.flatnonzero(ranks.to_numpy() - ranks.iloc[start] <= critical)[-1])
        if end > start and (not runs or end > runs[-1][1]):
            runs.append((start, end))
    return [(ranks.index[start], ranks.index[end]) for start, end in runs]


@dataclass(frozen=True)
class ResampledT:
    """Mean difference of two models over the folds of one cohort, corrected for the overlap of training sets.

    Attributes
    ----------
    mean, lower, upper : float
        Mean difference with its interval; without any variance the interval is that one value.
    t, df, p : float
        0 and 1 when all differences are 0; infinite and NaN when all are equal but not 0, where no test is defined.
    n_differences : int
        Folds times repeats.
    standard_error : float
        With the correction.
    alternative : str
        Direction of the test.
    """

    mean: float
    lower: float
    upper: float
    t: float
    df: int
    p: float
    n_differences: int
    standard_error: float
    alternative: str = "two-sided"
    method: str = "Corrected resampled t-test (Nadeau and Bengio 2003, doi:10.1023/A:1024068626366)"


def corrected_resampled_t(
    differences: ArrayLike,
    *,
    n_train: int,
    n_test: int,
    alternative: Literal["two-sided", "greater", "less"] = "two-sided",
    level: float = 0.95,
) -> ResampledT:
    """Test the mean difference of two models over random splits or repeated folds of one cohort.

    Parameters
    ----------
    differences : array-like of shape (n,)
        Score of model 1 minus score of model 2, one per test fold, both trained on the same patients.
    n_train, n_test : int
        Patients in a training and in a test set (their mean, rounded, if folds differ by one).
    alternative : {"two-sided", "greater", "less"}
        Direction, of the mean difference against 0.
    level : float
        Confidence level.

    Returns
    -------
    ResampledT
        Mean with interval, t and p.

    Raises
    ------
    InputError
        For missing values, fewer than two differences, or sizes below 1.

    Notes
    -----
    The variance of the mean is ``(1/n + n_test/n_train) s^2`` with n - 1 degrees of freedom. The factor is a rule of
    thumb that treats all pairs of folds as equally correlated; it was derived for random splits, and is used for
    repeated cross-validation after Bouckaert and Frank 2004 (doi:10.1007/978-3-540-24775-3_3).
    """
    if alternative not in ALTERNATIVES:
        raise unknown_name("alternative", alternative, ALTERNATIVES)
    check_level(level)
    mean, error, n = _corrected_error(differences, n_train, n_test)
    half = float(stats.t.ppf((1 + level) / 2, n - 1)) * error
    if error > 0:
        t = mean / error
        tails = {"two-sided": 2 * stats.t.sf(abs(t), n - 1), "greater": stats.t.sf(t, n - 1)}
        p = float(tails.get(alternative, stats.t.cdf(t, n - 1)))
    else:
        undefined = (math.copysign(math.inf, mean), math.nan)
        t, p = undefined if mean != 0 else (0.0, 1.0 if alternative == "two-sided" else 0.5)
    return ResampledT(mean, mean - half, mean + half, t, n - 1, p, n, error, alternative)


@dataclass(frozen=True)
class BayesianT:
    """Posterior of the mean difference of two models.

    Attributes
    ----------
    p_better, p_equivalent, p_worse : float
        Posterior probabilities that the mean difference lies above, inside and below the region of practical
        equivalence; they add up to 1.
    mean, lower, upper : float
        Mean of the posterior and its central credible interval.
    rope : float
        Half width of the region of practical equivalence.
    df, scale : float
        The posterior is a t distribution with this many degrees of freedom and this scale about the mean.
    """

    p_better: float
    p_equivalent: float
    p_worse: float
    mean: float
    lower: float
    upper: float
    rope: float
    df: int
    scale: float
    method: str = (
        "Bayesian correlated t-test (Benavoli et al. 2017, Journal of Machine Learning Research 18(77):1-36; Corani "
        "and Benavoli 2015, doi:10.1007/s10994-015-5486-z)"
    )


def bayesian_correlated_t(
    differences: ArrayLike, *, n_train: int, n_test: int, rope: float = 0.01, level: float = 0.95
) -> BayesianT:
    """Posterior probabilities that model 1 is better than, practically equal to, or worse than model 2.

    Parameters
    ----------
    differences, n_train, n_test
        See :func:`corrected_resampled_t`. The correlation of two folds is taken to be ``n_test / (n_train + n_test)``.
    rope : float
        Half width of the region of practical equivalence, in units of the score; differences smaller than this do not
        matter in practice. 0 leaves the region empty.
    level : float
        Level of the credible interval.

    Returns
    -------
    BayesianT
        Probabilities and credible interval. The prior of mean and variance is the uninformative one, so that the
        interval equals that of :func:`corrected_resampled_t`; only its reading differs.

    Raises
    ------
    InputError
        See :func:`corrected_resampled_t`; also for a negative ``rope``.
    """
    check_level(level)
    if not (math.isfinite(rope) and rope >= 0):
        raise InputError(f"The region of practical equivalence cannot be {rope} wide.", advice="Use 0.01, for example.")
    mean, scale, n = _corrected_error(differences, n_train, n_test)
    if scale == 0:
        better, worse = float(mean > rope), float(mean < -rope)
        return BayesianT(better, 1 - better - worse, worse, mean, mean, mean, rope, n - 1, scale)
    better, worse = (float(stats.t.sf((rope - sign * mean) / scale, n - 1)) for sign in (1, -1))
    half = float(stats.t.ppf((1 + level) / 2, n - 1)) * scale
    equal = max(0.0, 1 - better - worse)
    return BayesianT(better, equal, worse, mean, mean - half, mean + half, rope, n - 1, scale)


def _corrected_error(differences: ArrayLike, n_train: int, n_test: int) -> tuple[float, float, int]:
    """Mean difference, its corrected standard error, and the number of differences."""
    values = np.asarray(differences, dtype=np.float64)
    if values.ndim != 1 or values.size < 2 or not np.isfinite(values).all():
        raise InputError(
            f"The test needs two or more finite differences in one list; found shape {values.shape}, "
            f"{int((~np.isfinite(values)).sum())} of them missing.",
            advice="Pass one difference per test fold; leave out folds without both classes, and say how many.",
        )
    if n_train < 1 or n_test < 1:
        raise InputError(
            f"Training and test sets need patients; found {n_train} and {n_test}.", advice="Pass their sizes."
        )
    equal = np.ptp(values) <= 1e-12 * np.abs(values).max()
    variance = 0.0 if equal else float(values.var(ddof=1))
    return float(values.mean()), math.sqrt((1 / values.size + n_test / n_train) * variance), values.size
