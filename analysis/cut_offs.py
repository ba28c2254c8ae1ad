"""Cut-offs of a score: choosing one, sensitivity and specificity at it, and the uncertainty of both.

A rule calls a case positive when ``score >= cut_off`` or when ``score > cut_off``. The cut-off itself is an observed
score (the lowest one called positive for ``>=``, the highest one called negative for ``>``), or the midpoint between
these two, where both rules agree; R's pROC prints midpoints, scikit-learn observed scores with ``>=``.

A cut-off that was chosen on the patients it is evaluated on looks better than it is (Leeflang et al. 2008,
doi:10.1373/clinchem.2007.096032): :func:`optimal_cut_off_intervals` estimates by how much.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from hybrid.errors import InputError, unknown_name

from .proportions import wilson_interval
from .resampling import FloatArray, Resampled, bootstrap
from .roc import check_level, check_scores

BoolArray = NDArray[np.bool_]
IndexArray = NDArray[np.intp]

RULES: Final = (">=", ">")
"""Rules by which a score is called positive."""

THRESHOLDS: Final = ("observed", "midpoint")
"""What stands for a cut-off: an observed score, or the midpoint between two neighbours."""

CRITERIA: Final = {
    "youden": "sensitivity + specificity - 1 "
    "(Youden 1950, doi:10.1002/1097-0142(1950)3:1<32::AID-CNCR2820030106>3.0.CO;2-3)",
    "closest_topleft": "squared distance to the corner (Perkins and Schisterman 2006, doi:10.1093/aje/kwj063)",
    "cost": "expected cost per patient, in false positives (Zweig and Campbell 1993, doi:10.1093/clinchem/39.4.561)",
}
"""Criteria by which a cut-off is chosen, what their value is, and their sources."""

CUT_OFF_COLUMNS: Final = (
    "cut_off", "sensitivity", "specificity", "accuracy", "ppv", "npv", "youden", "closest_topleft", "tp", "fn", "fp",
    "tn",
)  # fmt: skip
"""Columns of the table that :func:`cut_off_table` returns."""

TOLERANCE: Final = 1e-9
"""Differences between rates below this are rounding: rates are ratios of counts of patients."""


@dataclass(frozen=True)
class WeightedCurve:
    """ROC curves of one score under many weightings of the rows.

    Attributes
    ----------
    scores : ndarray of shape (g,)
        Distinct scores, from the highest to the lowest.
    sensitivity, false_positive_rate : ndarray of shape (g + 1, b)
        Row ``i`` calls the ``i`` highest distinct scores positive: both rise from 0 to 1.
    """

    scores: FloatArray
    sensitivity: FloatArray
    false_positive_rate: FloatArray


def weighted_curve(positive: BoolArray, score: FloatArray, weights: FloatArray) -> WeightedCurve:
    """ROC curves of one score under many weightings: one sort, then cumulative sums of weights.

    Parameters
    ----------
    positive : ndarray of bool, shape (n,)
        Which rows are positive.
    score : ndarray of shape (n,)
        Finite scores.
    weights : ndarray of shape (n, b)
        Weight of each row in each draw; both classes need some weight in each.

    Returns
    -------
    WeightedCurve
        All draws on the same grid of scores; a score without weight in a draw repeats the point before it.
    """
    order = np.argsort(-score, kind="stable")
    ranked = score[order]
    starts = np.concatenate([[0], np.flatnonzero(np.diff(ranked)) + 1])
    rates = []
    for members in (positive, ~positive):
        groups = np.add.reduceat(np.where(members[order][:, None], weights[order], 0.0), starts, axis=0)
        rate = np.zeros((starts.size + 1, weights.shape[1]))
        np.cumsum(groups, axis=0, out=rate[1:])
        rates.append(rate / rate[-1])
    return WeightedCurve(ranked[starts], rates[0], rates[1])


def check_one_score(y: ArrayLike, score: ArrayLike) -> tuple[BoolArray, FloatArray]:
    """Validate the outcomes and the scores of one model.

    Returns
    -------
    positive : ndarray of bool, shape (n,)
        Which rows are positive.
    score : ndarray of shape (n,)
        As float64.

    Raises
    ------
    InputError
        See :func:`hybrid.analysis.roc.check_scores`; also for more than one curve.
    """
    positive, curves = check_scores(y, score)
    if curves.shape[0] != 1:
        raise InputError(
            f"One score per case was expected; found {curves.shape[0]} curves.", advice="Pass one score at a time."
        )
    return positive, curves[0]


def in_order(positive: BoolArray, *scores: FloatArray) -> tuple[BoolArray, list[FloatArray]]:
    """Sort rows by class and scores, so that the draws of a bootstrap do not depend on the order of the table.

    Parameters
    ----------
    positive : ndarray of bool, shape (n,)
        Which rows are positive.
    *scores : ndarray of shape (n,)
        One or more scores.

    Returns
    -------
    positive : ndarray of bool, shape (n,)
        Negative rows first.
    scores : list of ndarray
        Each in the same order.
    """
    order = np.lexsort((*scores[::-1], positive))
    return positive[order], [values[order] for values in scores]


def check_fraction(name: str, value: float) -> float:
    """Return a number that must lie strictly between 0 and 1.

    Raises
    ------
    InputError
        Naming it, when it does not.
    """
    if not 0.0 < value < 1.0:
        raise InputError(f"The {name} must lie between 0 and 1; found {value}.", advice="Use 0.1 for 10 %.")
    return float(value)


def _check_names(rule: str, thresholds: str) -> None:
    if rule not in RULES:
        raise unknown_name("rule", rule, RULES)
    if thresholds not in THRESHOLDS:
        raise unknown_name("thresholds", thresholds, THRESHOLDS)


def _cut_offs(curve: WeightedCurve, rows: IndexArray, rule: str, thresholds: str) -> FloatArray:
    """Cut-off that leads to a row of each curve; infinite where no observed score does."""
    draws = np.arange(rows.size)
    called = curve.sensitivity + curve.false_positive_rate
    # Scores without weight repeat a point: its first row ends at the lowest score called positive, its last row comes
    # before the highest score called negative.
    same = np.abs(called - called[rows, draws]) <= TOLERANCE
    lowest_positive = np.concatenate([[np.inf], curve.scores])[same.argmax(axis=0)]
    last = same.shape[0] - 1 - same[::-1].argmax(axis=0)
    highest_negative = np.concatenate([curve.scores, [-np.inf]])[last]
    if thresholds == "observed":
        return lowest_positive if rule == ">=" else highest_negative
    return _midpoints(lowest_positive, highest_negative, rule)


def _midpoints(upper: FloatArray, lower: FloatArray, rule: str) -> FloatArray:
    middle = 0.5 * upper + 0.5 * lower
    # Between neighbouring floating-point numbers lies none; the end that keeps the rule true stands for it.
    return np.where((lower < middle) & (middle < upper) | np.isinf(middle), middle, upper if rule == ">=" else lower)


def cut_off_table(
    y: ArrayLike,
    score: ArrayLike,
    *,
    rule: Literal[">=", ">"] = ">=",
    thresholds: Literal["observed", "midpoint"] = "observed",
    prevalence: float | None = None,
) -> pd.DataFrame:
    """Every attainable cut-off with what it would lead to.

    Parameters
    ----------
    y : array-like of shape (n,)
        0 or 1.
    score : array-like of shape (n,)
        Higher means more likely positive.
    rule : {">=", ">"}
        When a case is called positive.
    thresholds : {"observed", "midpoint"}
        Observed scores or midpoints between neighbours.
    prevalence : float, optional
        Share of positive cases among the patients to whom the cut-off is to apply, for the predictive values and the
        accuracy; that of the sample by default, which is wrong for a case-control sample.

    Returns
    -------
    DataFrame
        Columns :data:`CUT_OFF_COLUMNS`, from nobody called positive to everybody; predictive values are NaN where
        nobody gets that call.

    Raises
    ------
    InputError
        For an unknown rule or kind of threshold, or a prevalence outside (0, 1); see also
        :func:`hybrid.analysis.roc.check_scores`.
    """
    _check_names(rule, thresholds)
    positive, values = check_one_score(y, score)
    curve = weighted_curve(positive, values, np.ones((values.size, 1)))
    share = float(positive.mean()) if prevalence is None else check_fraction("prevalence", prevalence)
    sensitivity, alarms = curve.sensitivity[:, 0], curve.false_positive_rate[:, 0]
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    tp, fp = (np.rint(rate * n).astype(np.int64) for rate, n in ((sensitivity, n_positive), (alarms, n_negative)))
    # Rates from counts: their rounding must not depend on how they were summed.
    sensitivity, specificity = tp / n_positive, (n_negative - fp) / n_negative
    true_positive, false_positive = share * sensitivity, (1 - share) * (fp / n_negative)
    true_negative, false_negative = (1 - share) * specificity, share * ((n_positive - tp) / n_positive)
    with np.errstate(invalid="ignore"):
        columns: dict[str, Any] = {
            "cut_off": _all_cut_offs(curve.scores, rule, thresholds),
            "sensitivity": sensitivity,
            "specificity": specificity,
            "accuracy": true_positive + true_negative,
            "ppv": true_positive / (true_positive + false_positive),
            "npv": true_negative / (true_negative + false_negative),
            "youden": sensitivity + specificity - 1,
            "closest_topleft": (1 - sensitivity) ** 2 + (1 - specificity) ** 2,
            "tp": tp, "fn": n_positive - tp, "fp": fp, "tn": n_negative - fp,
        }  # fmt: skip
    return pd.DataFrame(columns, columns=list(CUT_OFF_COLUMNS))


def _all_cut_offs(scores: FloatArray, rule: str, thresholds: str) -> FloatArray:
    upper, lower = np.concatenate([[np.inf], scores]), np.concatenate([scores, [-np.inf]])
    if thresholds == "observed":
        return upper if rule == ">=" else lower
    return _midpoints(upper, lower, rule)


@dataclass(frozen=True)
class CutOff:
    """A chosen cut-off and what it leads to on the patients it was chosen on.

    Attributes
    ----------
    cut_off : float
        In units of the score; infinite when the best choice is to call nobody (or everybody) positive.
    rule : str
        ``">="`` or ``">"``.
    thresholds : str
        ``"observed"`` or ``"midpoint"``.
    criterion : str
        Of :data:`CRITERIA`.
    value : float
        Of the criterion: the largest Youden index, the smallest squared distance or the smallest expected cost.
    sensitivity, specificity : float
        At the cut-off; optimistic, see :func:`optimal_cut_off_intervals`.
    tp, fn, fp, tn : int
        Counts at the cut-off.
    n_tied : int
        How many points of the curve are equally good; of several, the one with the highest specificity is given.
    """

    cut_off: float
    rule: str
    thresholds: str
    criterion: str
    value: float
    sensitivity: float
    specificity: float
    tp: int
    fn: int
    fp: int
    tn: int
    n_tied: int


@dataclass(frozen=True)
class _Loss:
    """What a criterion minimises: ``miss * (1 - sensitivity) ** power + alarm * (1 - specificity) ** power``."""

    miss: float
    alarm: float
    power: int

    def of(self, curve: WeightedCurve) -> FloatArray:
        missed = (1 - curve.sensitivity) ** self.power
        return np.asarray(self.miss * missed + self.alarm * curve.false_positive_rate**self.power)


def _loss(criterion: str, positive: BoolArray, prevalence: float | None, relative_cost: float | None) -> _Loss:
    if criterion not in CRITERIA:
        raise unknown_name("criterion", criterion, CRITERIA)
    if criterion != "cost":
        if prevalence is not None or relative_cost is not None:
            raise InputError(
                f"Prevalence and relative cost have no part in the criterion {criterion!r}.",
                advice="Use criterion='cost', or leave them out.",
            )
        return _Loss(1.0, 1.0, 2 if criterion == "closest_topleft" else 1)
    share = float(positive.mean()) if prevalence is None else check_fraction("prevalence", prevalence)
    cost = 1.0 if relative_cost is None else float(relative_cost)
    if not 0.0 < cost < np.inf:
        raise InputError(
            f"The relative cost of a missed case must be positive; found {relative_cost}.",
            advice="Use 5 when a missed case is as bad as five false alarms.",
        )
    return _Loss(cost * share, 1 - share, 1)


def _best_rows(loss: FloatArray) -> tuple[IndexArray, IndexArray]:
    """First row of each draw whose loss is the smallest, and how many rows share it."""
    best = loss <= loss.min(axis=0) * (1 + TOLERANCE) + 1e-12
    return best.argmax(axis=0), best.sum(axis=0)


def optimal_cut_off(
    y: ArrayLike,
    score: ArrayLike,
    *,
    criterion: Literal["youden", "closest_topleft", "cost"] = "youden",
    prevalence: float | None = None,
    relative_cost: float | None = None,
    rule: Literal[">=", ">"] = ">=",
    thresholds: Literal["observed", "midpoint"] = "observed",
) -> CutOff:
    """Choose a cut-off by a criterion.

    Parameters
    ----------
    y : array-like of shape (n,)
        0 or 1.
    score : array-like of shape (n,)
        Higher means more likely positive.
    criterion : {"youden", "closest_topleft", "cost"}
        See :data:`CRITERIA`. ``"cost"`` minimises ``relative_cost * prevalence * (1 - sensitivity) + (1 - prevalence) *
        (1 - specificity)``; with a relative cost of ``(1 - prevalence) / prevalence`` it is the Youden index.
    prevalence : float, optional
        For ``"cost"``: share of positive cases where the cut-off will be used; that of the sample by default.
    relative_cost : float, optional
        For ``"cost"``: how many false positives are as bad as one missed case; 1 by default.
    rule, thresholds
        See :func:`cut_off_table`.

    Returns
    -------
    CutOff
        To call nobody or everybody positive is among the choices: it is the best one for a useless score or a rare
        disease.

    Raises
    ------
    InputError
        For unknown names, a prevalence or a cost out of range or without ``"cost"``; see also
        :func:`hybrid.analysis.roc.check_scores`.

    Examples
    --------
    >>> optimal_cut_off([0, 0, 1, 1], [0.1, 0.4, 0.5, 0.8]).cut_off
    0.5
    """
    _check_names(rule, thresholds)
    positive, values = check_one_score(y, score)
    loss = _loss(criterion, positive, prevalence, relative_cost)
    curve = weighted_curve(positive, values, np.ones((values.size, 1)))
    losses = loss.of(curve)
    rows, tied = _best_rows(losses)
    row = int(rows[0])
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    tp = round(float(curve.sensitivity[row, 0]) * n_positive)
    fp = round(float(curve.false_positive_rate[row, 0]) * n_negative)
    smallest = float(losses[row, 0])
    return CutOff(
        cut_off=float(_cut_offs(curve, rows, rule, thresholds)[0]),
        rule=rule,
        thresholds=thresholds,
        criterion=criterion,
        value=1 - smallest if criterion == "youden" else smallest,
        sensitivity=tp / n_positive,
        specificity=(n_negative - fp) / n_negative,
        tp=tp,
        fn=n_positive - tp,
        fp=fp,
        tn=n_negative - fp,
        n_tied=int(tied[0]),
    )


def optimal_cut_off_intervals(
    y: ArrayLike,
    score: ArrayLike,
    *,
    criterion: Literal["youden", "closest_topleft", "cost"] = "youden",
    prevalence: float | None = None,
    relative_cost: float | None = None,
    rule: Literal[">=", ">"] = ">=",
    thresholds: Literal["observed", "midpoint"] = "observed",
    level: float = 0.95,
    n_bootstrap: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Bootstrap intervals of a chosen cut-off and of what it leads to; the choice is repeated in every draw.

    Parameters
    ----------
    y, score, criterion, prevalence, relative_cost, rule, thresholds
        See :func:`optimal_cut_off`. A prevalence left out is that of the sample in every draw.
    level : float
        Confidence level.
    n_bootstrap, seed : int
        Draws of the stratified bootstrap and their seed.

    Returns
    -------
    DataFrame
        Rows ``cut_off``, ``sensitivity``, ``specificity`` and ``youden``; columns ``measure, estimate, optimism,
        corrected, ci_low, ci_high, finite_draws, criterion, rule, thresholds``. ``optimism`` is the mean difference
        between a draw and the sample at the cut-off chosen in the draw (Efron and Gong 1983,
        doi:10.1080/00031305.1983.10483087), ``corrected`` the estimate less the optimism; both are NaN for the cut-off
        itself. Intervals are percentiles, around the uncorrected estimate, of the finite draws, whose share is
        ``finite_draws``. They are rough: a cut-off is not a smooth function of the data, and the bootstrap of such a
        maximum is only approximately right. NaN when a class has fewer than two cases.

    Raises
    ------
    InputError
        See :func:`optimal_cut_off`.
    """
    _check_names(rule, thresholds)
    check_level(level)
    positive, (values,) = in_order(*check_one_score(y, score))
    loss = _loss(criterion, positive, prevalence, relative_cost)
    sample = weighted_curve(positive, values, np.ones((values.size, 1)))

    def statistic(weights: FloatArray) -> FloatArray:
        curve = weighted_curve(positive, values, weights)
        rows, _ = _best_rows(loss.of(curve))
        draws = np.arange(rows.size)
        sensitivity, specificity = curve.sensitivity[rows, draws], 1 - curve.false_positive_rate[rows, draws]
        in_sample = sample.sensitivity[rows, 0], 1 - sample.false_positive_rate[rows, 0]
        optimism = sensitivity - in_sample[0], specificity - in_sample[1]
        cut_offs = _cut_offs(curve, rows, rule, thresholds)
        youden = sensitivity + specificity - 1
        return np.stack([cut_offs, sensitivity, specificity, youden, *optimism, optimism[0] + optimism[1]])

    drawn = _quiet_bootstrap(statistic, positive, n_bootstrap, seed)
    bounds = drawn.interval(level=level, kind="percentile")[:4]
    optimism = np.concatenate([[np.nan], drawn.draws[4:].mean(axis=1)])
    if not drawn.is_estimable:
        optimism[:] = np.nan
    return pd.DataFrame(
        {
            "measure": ["cut_off", "sensitivity", "specificity", "youden"],
            "estimate": drawn.estimate[:4],
            "optimism": optimism,
            "corrected": drawn.estimate[:4] - optimism,
            "ci_low": bounds[:, 0],
            "ci_high": bounds[:, 1],
            "finite_draws": np.isfinite(drawn.draws[:4]).mean(axis=1),
            "criterion": criterion,
            "rule": rule,
            "thresholds": thresholds,
        }
    )


def _quiet_bootstrap(
    statistic: Callable[[FloatArray], FloatArray], positive: BoolArray, n_bootstrap: int, seed: int
) -> Resampled:
    # Infinite cut-offs have no derivative; percentile intervals do not use it.
    with np.errstate(invalid="ignore"):
        return bootstrap(statistic, positive, n_bootstrap=n_bootstrap, seed=seed)


def at_cut_off(
    y: ArrayLike,
    score: ArrayLike,
    cut_offs: ArrayLike,
    *,
    rule: Literal[">=", ">"] = ">=",
    level: float = 0.95,
    interval: Literal["wilson", "bootstrap"] = "wilson",
    n_bootstrap: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Sensitivity and specificity at cut-offs that were fixed beforehand.

    Parameters
    ----------
    y : array-like of shape (n,)
        0 or 1.
    score : array-like of shape (n,)
        Higher means more likely positive.
    cut_offs : float or array-like of shape (k,)
        Chosen on other patients, or from the literature; not NaN.
    rule : {">=", ">"}
        When a case is called positive.
    level : float
        Confidence level.
    interval : {"wilson", "bootstrap"}
        Score interval (Wilson 1927, doi:10.1080/01621459.1927.10502953) or percentiles of the stratified bootstrap,
        which is too narrow near 0 and 1 and has no width there.
    n_bootstrap, seed : int
        Draws of the bootstrap and their seed.

    Returns
    -------
    DataFrame
        One row per cut-off: ``cut_off, rule, sensitivity, sensitivity_low, sensitivity_high, specificity,
        specificity_low, specificity_high, tp, fn, fp, tn``.

    Raises
    ------
    InputError
        For an unknown rule or interval, or a cut-off that is NaN; see also :func:`hybrid.analysis.roc.check_scores`.
    """
    _check_names(rule, "observed")
    check_level(level)
    if interval not in ("wilson", "bootstrap"):
        raise unknown_name("interval", interval, ("wilson", "bootstrap"))
    positive, (values,) = in_order(*check_one_score(y, score))
    limits = np.atleast_1d(np.asarray(cut_offs, dtype=np.float64))
    if limits.ndim != 1 or np.isnan(limits).any():
        raise InputError("Cut-offs must be numbers; found NaN or a table.", advice="Pass one number or a list.")
    called = values[None] >= limits[:, None] if rule == ">=" else values[None] > limits[:, None]
    tp, fp = called[:, positive].sum(axis=1), called[:, ~positive].sum(axis=1)
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    if interval == "wilson":
        bounds = (
            wilson_interval(tp, np.full(limits.size, n_positive), level=level),
            wilson_interval(n_negative - fp, np.full(limits.size, n_negative), level=level),
        )
    else:
        right = np.where(positive, called, ~called).astype(np.float64)

        def statistic(weights: FloatArray) -> FloatArray:
            rates = [right[:, members] @ weights[members] / members.sum() for members in (positive, ~positive)]
            return np.concatenate(rates)

        drawn = bootstrap(statistic, positive, n_bootstrap=n_bootstrap, seed=seed)
        stacked = drawn.interval(level=level, kind="percentile")
        bounds = stacked[: limits.size], stacked[limits.size :]
    return pd.DataFrame(
        {
            "cut_off": limits, "rule": rule,
            "sensitivity": tp / n_positive, "sensitivity_low": bounds[0][:, 0], "sensitivity_high": bounds[0][:, 1],
            "specificity": (n_negative - fp) / n_negative, "specificity_low": bounds[1][:, 0],
            "specificity_high": bounds[1][:, 1], "tp": tp, "fn": n_positive - tp, "fp": fp, "tn": n_negative - fp,
        }
    )  # fmt: skip


def sensitivity_at_specificity(
    y: ArrayLike,
    score: ArrayLike,
    specificity: ArrayLike,
    *,
    rule: Literal[">=", ">"] = ">=",
    thresholds: Literal["observed", "midpoint"] = "observed",
    level: float = 0.95,
    kind: Literal["percentile", "bca"] = "percentile",
    n_bootstrap: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Sensitivity at a wanted specificity, attainable and interpolated.

    A few-level score reaches only a few specificities. *Attainable* is the highest sensitivity of a cut-off whose
    specificity is at least the wanted one: a rule that can be applied. *Interpolated* is the value of the straight line
    between the neighbouring points of the curve, as in R's pROC: no cut-off has it, only a coin toss between two.

    Parameters
    ----------
    y : array-like of shape (n,)
        0 or 1.
    score : array-like of shape (n,)
        Higher means more likely positive.
    specificity : float or array-like of shape (k,)
        Wanted values, in [0, 1].
    rule, thresholds
        Of the cut-off; see :func:`cut_off_table`.
    level : float
        Confidence level.
    kind : {"percentile", "bca"}
        Of the bootstrap interval. The attainable value jumps; its derivative, which BCa needs, means little.
    n_bootstrap, seed : int
        Draws of the stratified bootstrap, in each of which the cut-off is found again, and their seed.

    Returns
    -------
    DataFrame
        One row per wanted value: ``specificity, attainable, attainable_low, attainable_high, interpolated,
        interpolated_low, interpolated_high, attained_specificity, cut_off, rule``. ``attained_specificity`` is that of
        the attainable cut-off.

    Raises
    ------
    InputError
        For values outside [0, 1] and unknown names; see also :func:`hybrid.analysis.roc.check_scores`.
    """
    positive, (values,) = in_order(*check_one_score(y, score))
    return _at_rate(
        positive, values, specificity, "specificity", rule=rule, thresholds=thresholds, level=level, kind=kind,
        n_bootstrap=n_bootstrap, seed=seed,
    )  # fmt: skip


def specificity_at_sensitivity(
    y: ArrayLike,
    score: ArrayLike,
    sensitivity: ArrayLike,
    *,
    rule: Literal[">=", ">"] = ">=",
    thresholds: Literal["observed", "midpoint"] = "observed",
    level: float = 0.95,
    kind: Literal["percentile", "bca"] = "percentile",
    n_bootstrap: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Specificity at a wanted sensitivity, attainable and interpolated.

    Parameters
    ----------
    y, score
        See :func:`sensitivity_at_specificity`.
    sensitivity : float or array-like of shape (k,)
        Wanted values, in [0, 1].
    rule, thresholds, level, kind, n_bootstrap, seed
        See :func:`sensitivity_at_specificity`.

    Returns
    -------
    DataFrame
        As :func:`sensitivity_at_specificity`, with the two measures exchanged.

    Raises
    ------
    InputError
        See :func:`sensitivity_at_specificity`.
    """
    positive, (values,) = in_order(*check_one_score(y, score))
    return _at_rate(
        positive, values, sensitivity, "sensitivity", rule=rule, thresholds=thresholds, level=level, kind=kind,
        n_bootstrap=n_bootstrap, seed=seed,
    )  # fmt: skip


def _at_rate(
    positive: BoolArray,
    values: FloatArray,
    wanted: ArrayLike,
    fixed: str,
    *,
    rule: str,
    thresholds: str,
    level: float,
    kind: Literal["percentile", "bca"],
    n_bootstrap: int,
    seed: int,
) -> pd.DataFrame:
    _check_names(rule, thresholds)
    check_level(level)
    targets = np.atleast_1d(np.asarray(wanted, dtype=np.float64))
    if targets.ndim != 1 or not ((targets >= 0) & (targets <= 1)).all():
        raise InputError(f"The wanted {fixed} must lie in [0, 1].", advice="Use 0.9 for 90 %.")
    find = _find_sensitivity if fixed == "specificity" else _find_specificity

    def statistic(weights: FloatArray) -> FloatArray:
        curve = weighted_curve(positive, values, weights)
        found = [find(curve, target)[1:] for target in targets]
        return np.concatenate([np.stack([pair[i] for pair in found]) for i in range(2)])

    drawn = bootstrap(statistic, positive, n_bootstrap=n_bootstrap, seed=seed)
    bounds = drawn.interval(level=level, kind=kind)
    curve = weighted_curve(positive, values, np.ones((values.size, 1)))
    rows = np.array([find(curve, target)[0][0] for target in targets], dtype=np.intp)
    held = 1 - curve.false_positive_rate[rows, 0] if fixed == "specificity" else curve.sensitivity[rows, 0]
    k = targets.size
    return pd.DataFrame(
        {
            fixed: targets,
            "attainable": drawn.estimate[:k], "attainable_low": bounds[:k, 0], "attainable_high": bounds[:k, 1],
            "interpolated": drawn.estimate[k:], "interpolated_low": bounds[k:, 0], "interpolated_high": bounds[k:, 1],
            f"attained_{fixed}": held,
            "cut_off": [float(_cut_offs(curve, row[None], rule, thresholds)[0]) for row in rows],
            "rule": rule,
        }
    )  # fmt: skip


def _find_sensitivity(curve: WeightedCurve, specificity: float) -> tuple[IndexArray, FloatArray, FloatArray]:
    """Row with the highest sensitivity among those specific enough; its sensitivity; the interpolated one."""
    alarms, limit = curve.false_positive_rate, 1 - specificity
    draws = np.arange(alarms.shape[1])
    row = (alarms <= limit + TOLERANCE).sum(axis=0) - 1
    following = np.minimum(row + 1, alarms.shape[0] - 1)
    attainable = curve.sensitivity[row, draws]
    interpolated = attainable + _share(alarms[row, draws], alarms[following, draws], limit) * (
        curve.sensitivity[following, draws] - attainable
    )
    return row, attainable, interpolated


def _find_specificity(curve: WeightedCurve, sensitivity: float) -> tuple[IndexArray, FloatArray, FloatArray]:
    """Row with the highest specificity among those sensitive enough; its specificity; the interpolated one."""
    hits, alarms = curve.sensitivity, curve.false_positive_rate
    draws = np.arange(hits.shape[1])
    row = (hits < sensitivity - TOLERANCE).sum(axis=0)
    before = np.maximum(row - 1, 0)
    share = _share(hits[before, draws], hits[row, draws], sensitivity)
    crossed = alarms[before, draws] + share * (alarms[row, draws] - alarms[before, draws])
    return row, 1 - alarms[row, draws], 1 - crossed


def _share(start: FloatArray, end: FloatArray, value: float) -> FloatArray:
    """How far ``value`` lies on the way from ``start`` to ``end``; 0 where both are equal."""
    length = end - start
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(length > 0, (value - start) / length, 0.0)
    return np.clip(share, 0.0, 1.0)
