"""Would decisions based on the model do more good than harm? Decision curves, reclassification, discrimination.

Net benefit counts true positives and subtracts false positives at the rate at which the threshold trades them (Vickers
and Elkin 2006, doi:10.1177/0272989X06295361). At a threshold of 10 %, nine unnecessary interventions weigh as much as
one missed event. A patient is called positive when the probability reaches the threshold.

Reclassification (NRI) and the integrated discrimination improvement (IDI) are computed because reviewers ask for them;
:data:`RECLASSIFICATION_CAUTION` says why they should not decide anything and belongs wherever they are reported.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from hybrid.errors import InputError, unknown_name
from hybrid.tables import require_columns

from .calibration import MAX_UNDEFINED, check_probabilities
from .metrics import find_models
from .panel import FloatArray, Model, Panel, mean_over_repeats
from .plots import COLOURS, DASHES, INK, MAX_BANDS, MUTED, _axes, _legend_below, _style, default_models, model_names
from .resampling import Resampled, bootstrap
from .roc import check_level

if TYPE_CHECKING:
    from matplotlib.axes import Axes

THRESHOLDS: Final = tuple(round(0.01 * i, 2) for i in range(1, 100))
"""Default thresholds of a decision curve. Report a range that clinicians would act on, not all of them."""

TREAT_ALL: Final = "treat all"
TREAT_NONE: Final = "treat none"
STRATEGY: Final = "strategy"
"""``classifier`` of the rows of the two strategies without a model."""

DECISION_COLUMNS: Final = (
    "feature_set", "classifier", "threshold", "true_positive_rate", "false_positive_rate", "net_benefit", "lower",
    "upper", "standardised_net_benefit", "interventions_avoided", "prevalence",
)  # fmt: skip
"""Columns of the table that :func:`decision_curve` and :func:`decision_curve_survival` return."""

DIFFERENCE_COLUMNS: Final = (
    "model_a", "model_b", "threshold", "net_benefit_a", "net_benefit_b", "difference", "lower", "upper",
)  # fmt: skip
"""Columns of the table that :func:`net_benefit_difference` returns."""

RECLASSIFICATION_COLUMNS: Final = (
    "measure", "estimate", "standard_error", "lower", "upper", "z", "p", "bootstrap_lower", "bootstrap_upper", "method",
)  # fmt: skip
"""Columns of the table that :func:`reclassification` returns."""

VARIANCES: Final = ("multinomial", "null")
"""Variances of the NRI: 2011 (multinomial, for intervals) and 2008 (under the hypothesis of no improvement)."""

RECLASSIFICATION_CAUTION: Final = (
    "Caution: NRI and IDI can be positive for a marker that carries no information, and more so when the models are "
    "miscalibrated or were fitted on the same patients; their p-values are not valid for nested models. They mix gains "
    "in patients with and without the event at an arbitrary exchange rate. Judge added value by the difference in AUC "
    "and in net benefit, report both components of the NRI, and do not read the NRI as a percentage of patients. "
    "(Kerr et al. 2014, doi:10.1097/EDE.0000000000000018; Hilden and Gerds 2014, doi:10.1002/sim.5804; "
    "Pepe et al. 2015, doi:10.1007/s12561-014-9118-0)"
)
"""Text that a report prints with every NRI or IDI."""


def check_thresholds(thresholds: ArrayLike) -> FloatArray:
    """Validate threshold probabilities.

    Returns
    -------
    ndarray of shape (t,)
        Sorted as given.

    Raises
    ------
    InputError
        Unless all lie in [0, 1); at 1 a false positive would weigh infinitely much.
    """
    values = np.atleast_1d(np.asarray(thresholds, dtype=np.float64))
    if values.ndim != 1 or values.size == 0 or not ((values >= 0) & (values < 1)).all():
        raise InputError(
            f"Thresholds of a decision curve must be probabilities from 0 to below 1; found {thresholds!r}.",
            advice="Pass for example thresholds=np.arange(0.05, 0.55, 0.05).",
        )
    return values


def _check_prevalence(prevalence: float | None) -> None:
    if prevalence is not None and not 0.0 < prevalence < 1.0:
        raise InputError(
            f"The prevalence must lie between 0 and 1; found {prevalence}.",
            advice="Give the share of patients with the event in the population where the model would be used.",
        )


def net_benefit(
    y: ArrayLike, probability: ArrayLike, thresholds: ArrayLike = THRESHOLDS, *, prevalence: float | None = None
) -> pd.DataFrame:
    """Net benefit of one set of predictions, without intervals.

    Parameters
    ----------
    y : array-like of shape (n,)
        0 or 1.
    probability : array-like of shape (n,)
        Predicted probabilities.
    thresholds : array-like of shape (t,)
        In [0, 1).
    prevalence : float, optional
        Of the population, for a case-control sample whose own event rate means nothing.

    Returns
    -------
    DataFrame
        One row per threshold, the numeric columns of :data:`DECISION_COLUMNS` but ``lower`` and ``upper``. The rates
        are shares of all patients; ``interventions_avoided`` is the net number per patient compared with treating all
        and is NaN at threshold 0.

    Raises
    ------
    InputError
        For invalid outcomes, probabilities, thresholds or prevalence.
    """
    positive, p = check_probabilities(y, probability)
    cuts = check_thresholds(thresholds)
    _check_prevalence(prevalence)
    tp, fp, rate = _binary_rates(positive, p, np.ones((p.size, 1)), cuts, prevalence)
    return _curve_table(cuts, tp[:, 0], fp[:, 0], float(rate[0]))


def _binary_rates(
    positive: NDArray[np.bool_], p: FloatArray, weights: FloatArray, thresholds: FloatArray, prevalence: float | None
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Count true and false positives as shares of all, shape (t, b), and the prevalence, shape (b,)."""
    called = (p >= thresholds[:, None]).astype(np.float64)
    events, others = weights[positive].sum(axis=0), weights[~positive].sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        sensitivity = (called[:, positive] @ weights[positive]) / events
        false_rate = (called[:, ~positive] @ weights[~positive]) / others
        rate = events / (events + others) if prevalence is None else np.full(events.size, prevalence)
    return sensitivity * rate, false_rate * (1 - rate), rate


def _net_benefit(tp: FloatArray, fp: FloatArray, thresholds: FloatArray) -> FloatArray:
    odds = (thresholds / (1 - thresholds)).reshape(-1, *[1] * (tp.ndim - 1))
    return np.asarray(tp - fp * odds)


def _curve_table(thresholds: FloatArray, tp: FloatArray, fp: FloatArray, prevalence: float) -> pd.DataFrame:
    benefit = _net_benefit(tp, fp, thresholds)
    everybody = _net_benefit(np.full_like(tp, prevalence), np.full_like(tp, 1 - prevalence), thresholds)
    odds = thresholds / (1 - thresholds)
    avoided = np.divide(benefit - everybody, odds, out=np.full_like(odds, np.nan), where=odds > 0)
    return pd.DataFrame(
        {
            "threshold": thresholds, "true_positive_rate": tp, "false_positive_rate": fp, "net_benefit": benefit,
            "standardised_net_benefit": benefit / prevalence, "interventions_avoided": avoided,
            "prevalence": prevalence,
        }
    )  # fmt: skip


def decision_curve(
    predictions: pd.DataFrame,
    *,
    models: Sequence[str | Model] | None = None,
    thresholds: ArrayLike = THRESHOLDS,
    prevalence: float | None = None,
    n_bootstrap: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    split: str | None = None,
) -> pd.DataFrame:
    """Decision curves of models, of treating everybody and of treating nobody, with pointwise intervals.

    Parameters
    ----------
    predictions : DataFrame
        See :func:`hybrid.tables.check_predictions`. The probabilities should be calibrated: a decision curve of a
        miscalibrated model shows the harm of using it as it is.
    models : sequence, optional
        See :func:`hybrid.analysis.roc_curves`.
    thresholds : array-like of shape (t,)
        Threshold probabilities in [0, 1).
    prevalence : float, optional
        Of the population, for a case-control sample. Draws are then stratified by outcome, and the prevalence is taken
        as known; otherwise it is estimated, and draws are not stratified.
    n_bootstrap, seed, level, split
        See :func:`hybrid.analysis.evaluate_models`.

    Returns
    -------
    DataFrame
        Columns :data:`DECISION_COLUMNS`, one row per model and threshold, then the rows of ``"treat all"`` and
        ``"treat none"`` (``classifier = "strategy"``). Rates are computed within each repeat and averaged; bounds are
        percentiles of the patient bootstrap.

    Raises
    ------
    InputError
        For an invalid table, threshold or prevalence, or an unknown model.

    References
    ----------
    Vickers and Elkin 2006 (doi:10.1177/0272989X06295361); case-control: Pfeiffer and Gail 2020
    (doi:10.1002/bimj.201800240); intervals: Vickers et al. 2008 (doi:10.1186/1472-6947-8-53).
    """
    check_level(level)
    cuts = check_thresholds(thresholds)
    _check_prevalence(prevalence)
    panel = Panel.from_predictions(predictions, split=split)
    chosen = default_models(panel) if models is None else find_models(panel, models)
    settings = {"n_bootstrap": n_bootstrap, "seed": seed}
    tables = [_model_curve(panel.select([model]), cuts, prevalence, level, settings) for model in chosen]
    whole = panel.select(chosen)
    tables += _strategies(whole, cuts, prevalence, level, settings)
    return pd.concat(tables, ignore_index=True)[list(DECISION_COLUMNS)]


def _model_curve(
    panel: Panel, thresholds: FloatArray, prevalence: float | None, level: float, settings: dict[str, int]
) -> pd.DataFrame:
    drawn = _bootstrap_rates(panel, thresholds, prevalence, **settings)
    return _with_bounds(drawn, thresholds, panel.models[0], level)


def _with_bounds(drawn: Resampled, thresholds: FloatArray, model: Model, level: float) -> pd.DataFrame:
    """Table of one curve from draws of true positives, false positives and prevalence, stacked in this order."""
    n = thresholds.size
    bounds = _bounds(_benefit_draws(drawn, thresholds), level)
    table = _curve_table(thresholds, drawn.estimate[:n], drawn.estimate[n : 2 * n], float(drawn.estimate[-1]))
    return table.assign(feature_set=model[0], classifier=model[1], lower=bounds[:, 0], upper=bounds[:, 1])


def _benefit_draws(drawn: Resampled, thresholds: FloatArray, first: int = 0) -> Resampled:
    """Net benefits from rates that start at row ``first``; a rate that is undefined touches its own threshold only."""
    n = thresholds.size

    def benefit(values: FloatArray) -> FloatArray:
        return _net_benefit(values[first : first + n], values[first + n : first + 2 * n], thresholds)

    return Resampled(benefit(drawn.estimate), benefit(drawn.draws), benefit(drawn.influence), drawn.strata)


def _bounds(drawn: Resampled, level: float) -> FloatArray:
    """Percentile bounds; NaN where too many draws are undefined, which would cut off a tail."""
    undefined = 1 - np.isfinite(drawn.draws).mean(axis=1)
    bounds = drawn.interval(level=level, kind="percentile")
    bounds[undefined > MAX_UNDEFINED] = np.nan
    return bounds


def _strategies(
    panel: Panel, thresholds: FloatArray, prevalence: float | None, level: float, settings: dict[str, int]
) -> list[pd.DataFrame]:
    """Tables of treating everybody and nobody, on all rows of the panel."""

    def statistic(weights: FloatArray) -> FloatArray:
        rows = weights[panel.patient]
        rate = _binary_rates(panel.y, np.ones(panel.y.size), rows, np.zeros(1), prevalence)[2]
        return np.stack([*[rate] * thresholds.size, *[1 - rate] * thresholds.size, rate])

    return _strategy_tables(_resample(panel, statistic, prevalence, **settings), thresholds, level)


def _strategy_tables(everybody: Resampled, thresholds: FloatArray, level: float) -> list[pd.DataFrame]:
    all_treated = _with_bounds(everybody, thresholds, (TREAT_ALL, STRATEGY), level)
    zero = np.zeros(thresholds.size)
    nobody = _curve_table(thresholds, zero, zero, float(everybody.estimate[-1]))
    return [all_treated, nobody.assign(feature_set=TREAT_NONE, classifier=STRATEGY, lower=0.0, upper=0.0)]


def _bootstrap_rates(
    panel: Panel, thresholds: FloatArray, prevalence: float | None, *, n_bootstrap: int, seed: int
) -> Resampled:
    """Draws of true positives, false positives (per threshold) and prevalence of every model of a panel in turn."""

    def statistic(weights: FloatArray) -> FloatArray:
        rows = weights[panel.patient]
        return np.concatenate([_repeat_mean(panel, i, rows, thresholds, prevalence) for i in range(len(panel.models))])

    return _resample(panel, statistic, prevalence, n_bootstrap=n_bootstrap, seed=seed)


def _repeat_mean(
    panel: Panel, i: int, rows: FloatArray, thresholds: FloatArray, prevalence: float | None
) -> FloatArray:
    per_repeat = []
    for values in panel.probability[i]:
        seen = np.isfinite(values)
        if seen.any():
            tp, fp, rate = _binary_rates(panel.y[seen], values[seen], rows[seen], thresholds, prevalence)
            per_repeat.append(np.concatenate([tp, fp, rate[None]]))
    return mean_over_repeats(np.stack(per_repeat))


def _resample(
    panel: Panel,
    statistic: Callable[[FloatArray], FloatArray],
    prevalence: float | None,
    *,
    n_bootstrap: int,
    seed: int,
) -> Resampled:
    strata = np.zeros(panel.n_patients) if prevalence is None else panel.strata
    return bootstrap(statistic, strata, n_bootstrap=n_bootstrap, seed=seed, n_rows=panel.y.size)


def net_benefit_difference(
    predictions: pd.DataFrame,
    model_a: str | Model,
    model_b: str | Model,
    *,
    thresholds: ArrayLike = THRESHOLDS,
    prevalence: float | None = None,
    n_bootstrap: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    split: str | None = None,
) -> pd.DataFrame:
    """Difference of the net benefits of two models on the same patients, with paired bootstrap intervals.

    Choose the thresholds before looking: an interval at each of many thresholds is not a test of the whole curve.

    Parameters
    ----------
    predictions : DataFrame
        See :func:`hybrid.tables.check_predictions`.
    model_a, model_b : str or (str, str)
        Feature set, or feature set and classifier.
    thresholds, prevalence, n_bootstrap, seed, level, split
        See :func:`decision_curve`.

    Returns
    -------
    DataFrame
        Columns :data:`DIFFERENCE_COLUMNS`; ``difference`` is ``net_benefit_a - net_benefit_b``, in true positives per
        patient. Only patients that both models predicted are used.

    Raises
    ------
    InputError
        See :func:`decision_curve`.
    """
    check_level(level)
    cuts = check_thresholds(thresholds)
    _check_prevalence(prevalence)
    panel = Panel.from_predictions(predictions, split=split)
    panel = panel.select(find_models(panel, [model_a, model_b]), common=True)
    drawn = _bootstrap_rates(panel, cuts, prevalence, n_bootstrap=n_bootstrap, seed=seed)
    benefit_a, benefit_b = (_benefit_draws(drawn, cuts, first) for first in (0, 2 * cuts.size + 1))
    difference = Resampled(
        benefit_a.estimate - benefit_b.estimate,
        benefit_a.draws - benefit_b.draws,
        benefit_a.influence - benefit_b.influence,
        drawn.strata,
    )
    bounds = _bounds(difference, level)
    name_a, name_b = model_names(panel.models) if panel.models[0] != panel.models[1] else [panel.models[0][0]] * 2
    columns = (
        name_a, name_b, cuts, benefit_a.estimate, benefit_b.estimate, difference.estimate, bounds[:, 0], bounds[:, 1],
    )  # fmt: skip
    return pd.DataFrame(dict(zip(DIFFERENCE_COLUMNS, columns, strict=True)))


def decision_curve_survival(
    table: pd.DataFrame,
    models: Sequence[str],
    *,
    horizon: float,
    thresholds: ArrayLike = THRESHOLDS,
    n_bootstrap: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> pd.DataFrame:
    """Decision curves for the risk of an event by a time, with censoring (Vickers et al. 2008).

    Among the patients called positive, the share with the event by ``horizon`` is one minus the Kaplan-Meier estimate,
    which assumes that censoring tells nothing about the risk within this group.

    Parameters
    ----------
    table : DataFrame
        One row per case with ``time`` (follow-up, any unit), ``event`` (1 = event, 0 = censored), one column of
        predicted risks by ``horizon`` per model, and optionally ``patient_id``.
    models : sequence of str
        Columns with predicted risks in [0, 1].
    horizon : float
        Time by which the risk is meant, in the unit of ``time``.
    thresholds, n_bootstrap, seed, level
        See :func:`decision_curve`.

    Returns
    -------
    DataFrame
        Columns :data:`DECISION_COLUMNS`; ``feature_set`` is the column's name and ``classifier`` is ``"survival"``.
        NaN where the follow-up of the patients called positive ends, censored, before the horizon.

    Raises
    ------
    InputError
        For missing columns, values that cannot be, or a horizon that nobody was followed to.

    References
    ----------
    Vickers et al. 2008 (doi:10.1186/1472-6947-8-53).
    """
    check_level(level)
    cuts = check_thresholds(thresholds)
    time, event, risks, patient = _check_survival(table, models, horizon)
    settings: dict[str, Any] = {"n_bootstrap": n_bootstrap, "seed": seed, "n_rows": 4 * time.size}
    strata = np.zeros(int(patient.max()) + 1)

    def curve(called: NDArray[np.bool_]) -> Callable[[FloatArray], FloatArray]:
        def statistic(weights: FloatArray) -> FloatArray:
            return _survival_rates(time, event, called, weights[patient], horizon)

        return statistic

    tables = []
    for name in models:
        drawn = bootstrap(curve(risks[name] >= cuts[:, None]), strata, **settings)
        tables.append(_with_bounds(drawn, cuts, (name, "survival"), level))
    everybody = bootstrap(curve(np.ones((cuts.size, time.size), dtype=bool)), strata, **settings)
    tables += _strategy_tables(everybody, cuts, level)
    return pd.concat(tables, ignore_index=True)[list(DECISION_COLUMNS)]


def _check_survival(
    table: pd.DataFrame, models: Sequence[str], horizon: float
) -> tuple[FloatArray, FloatArray, dict[str, FloatArray], NDArray[np.int64]]:
    require_columns(table, ("time", "event", *models), "survival")
    time, event = (table[name].to_numpy(dtype=np.float64) for name in ("time", "event"))
    if time.size == 0 or not (np.isfinite(time) & (time >= 0)).all() or not np.isin(event, (0.0, 1.0)).all():
        raise InputError(
            "A survival table needs follow-up times of at least 0 and events coded 0 or 1 in every row.",
            advice="Remove or repair the rows with missing or negative times.",
        )
    if not 0 < horizon <= time.max():
        raise InputError(
            f"The horizon must lie within the follow-up, which ends at {time.max():g}; found {horizon:g}.",
            advice="Choose a time to which some patients were followed.",
        )
    risks = {name: table[name].to_numpy(dtype=np.float64) for name in models}
    for name, risk in risks.items():
        if not ((risk >= 0) & (risk <= 1)).all():
            raise InputError(
                f"Predicted risks must lie in [0, 1]; column {name!r} has other values.",
                advice="Pass the predicted probability of the event by the horizon, not a linear predictor.",
            )
    ids = table["patient_id"].astype(str) if "patient_id" in table.columns else pd.Series(np.arange(time.size))
    return time, event, risks, pd.factorize(ids)[0].astype(np.int64)


def _survival_rates(
    time: FloatArray, event: FloatArray, called: NDArray[np.bool_], weights: FloatArray, horizon: float
) -> FloatArray:
    """Estimate true positives, false positives (per threshold) and the prevalence, shape (2 t + 1, b)."""
    total = weights.sum(axis=0)
    patterns, which = np.unique(called, axis=0, return_inverse=True)
    share = (patterns @ weights) / total
    risk = np.stack([_event_risk(time[rows], event[rows], weights[rows], horizon) for rows in patterns])
    # Nobody called positive: no true and no false positives, whatever the risk among nobody.
    tp = np.where(share > 0, risk * share, 0.0)[which]
    fp = np.where(share > 0, (1 - risk) * share, 0.0)[which]
    return np.concatenate([tp, fp, _event_risk(time, event, weights, horizon)[None]])


def _event_risk(time: FloatArray, event: FloatArray, weights: FloatArray, horizon: float) -> FloatArray:
    """One minus the Kaplan-Meier estimate at a time under many weightings, shape (b,).

    NaN where the last patient was censored before the horizon, or where there is nobody.
    """
    if time.size == 0:
        return np.full(weights.shape[1], np.nan)
    order = np.argsort(time, kind="stable")
    times, start = np.unique(time[order], return_index=True)
    at_risk = np.cumsum(weights[order][::-1], axis=0)[::-1][start]
    died = np.add.reduceat(weights[order] * event[order, None], start, axis=0)
    early = times <= horizon
    with np.errstate(divide="ignore", invalid="ignore"):
        survived = np.where(at_risk > 0, 1 - died / at_risk, 1.0)
    survival = np.prod(survived[early], axis=0)
    followed = (weights[time >= horizon] > 0).any(axis=0) | (survival == 0)
    return np.where(followed, 1 - survival, np.nan)


def plot_decision_curve(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw net benefit against threshold probability.

    Parameters
    ----------
    table : DataFrame
        From :func:`decision_curve` or :func:`decision_curve_survival`.
    ax : Axes, optional
        Where to draw.

    Returns
    -------
    Axes
        Pointwise bands are drawn for at most three models; the vertical axis is cut a little below 0, where treating
        everybody would run out of the figure.

    Raises
    ------
    InputError
        When a column is missing.
    """
    require_columns(table, DECISION_COLUMNS, "decision curve")
    ax = _axes(ax, height=3.6)
    curves = table[table["classifier"] != STRATEGY]
    groups = list(curves.groupby(["feature_set", "classifier"], sort=False))
    names = model_names([key for key, _ in groups]) if groups else []
    for i, (_, curve) in enumerate(groups):
        x, colour = curve["threshold"], COLOURS[i % 8]
        ax.plot(x, curve["net_benefit"], color=colour, linestyle=DASHES[i % 4], linewidth=1.6, label=names[i])
        if len(groups) <= MAX_BANDS:
            band = curve[["lower", "upper"]].to_numpy(dtype=np.float64).T
            ax.fill_between(x, *band, color=colour, alpha=0.13, linewidth=0)
    for name, colour, text in ((TREAT_ALL, MUTED, "Treat all"), (TREAT_NONE, INK, "Treat none")):
        curve = table[(table["feature_set"] == name) & (table["classifier"] == STRATEGY)]
        ax.plot(curve["threshold"], curve["net_benefit"], color=colour, linewidth=0.9, label=text)
    top = float(np.nanmax([table["net_benefit"].max(), curves["upper"].max(), 0.02]))
    ax.set(
        xlim=(0, float(table["threshold"].max())), ylim=(-0.15 * top, 1.05 * top), xlabel="Threshold probability",
        ylabel="Net benefit",
    )  # fmt: skip
    _style(ax)
    _legend_below(ax, offset=-0.2)
    return ax


def reclassification(
    y: ArrayLike,
    reference: ArrayLike,
    new: ArrayLike,
    *,
    cutoffs: ArrayLike | None = None,
    variance: Literal["multinomial", "null"] = "multinomial",
    level: float = 0.95,
    n_bootstrap: int = 0,
    seed: int = 0,
) -> pd.DataFrame:
    """Net reclassification improvement and integrated discrimination improvement of a new over a reference model.

    Print :data:`RECLASSIFICATION_CAUTION` wherever these numbers appear.

    Parameters
    ----------
    y : array-like of shape (n,)
        0 or 1, one independent patient per row.
    reference, new : array-like of shape (n,)
        Predicted probabilities of the two models.
    cutoffs : array-like, optional
        Borders between risk categories, a border belonging to the higher one; without any, the NRI is continuous
        (category-free) and any change of the probability counts.
    variance : {"multinomial", "null"}
        Of the NRI: ``"multinomial"`` is that of Pencina et al. 2011 and of R's ``Hmisc::improveProb``; ``"null"`` is
        the one of 2008, which holds when up and down are equally likely.
    level : float
        Confidence level.
    n_bootstrap : int
        Draws for percentile intervals, stratified by outcome; 0 leaves them out. The bootstrap is recommended for
        intervals (Kerr et al. 2014).
    seed : int
        Of the bootstrap.

    Returns
    -------
    DataFrame
        Columns :data:`RECLASSIFICATION_COLUMNS`, with rows ``nri, nri_events, nri_nonevents, idi, idi_events,
        idi_nonevents``. ``z`` is 0 and ``p`` 1 for identical predictions; both are NaN when everybody moves alike.

    Raises
    ------
    InputError
        For invalid outcomes, probabilities or cut-offs, or fewer than two patients in a class.

    References
    ----------
    Pencina et al. 2008 (doi:10.1002/sim.2929) and 2011 (doi:10.1002/sim.4085).
    """
    check_level(level)
    if variance not in VARIANCES:
        raise unknown_name("variance", variance, VARIANCES)
    positive, old, fresh = _check_pair(y, reference, new)
    up_down = _moves(old, fresh, cutoffs)
    # Movements in the right direction: up with the event, down without.
    gains = np.where(positive, up_down, -up_down)
    changes = np.where(positive, fresh - old, old - fresh)
    rows: list[tuple[Any, ...]] = []
    kind = "continuous" if cutoffs is None else "categories cut at " + ", ".join(f"{c:g}" for c in np.ravel(cutoffs))
    estimates: list[tuple[str, float, float, str]] = []
    for name, values, text in (("nri", gains, f"{kind}; {variance} variance"), ("idi", changes, "unequal variances")):
        parts = [_mean_and_variance(values[group], name, variance) for group in (positive, ~positive)]
        estimates += [
            (name, parts[0][0] + parts[1][0], parts[0][1] + parts[1][1], text),
            (f"{name}_events", *parts[0], text),
            (f"{name}_nonevents", *parts[1], text),
        ]
    bounds = _bootstrap_means(positive, gains, changes, n_bootstrap, seed, level)
    half = float(stats.norm.ppf((1 + level) / 2))
    for (name, estimate, squared, text), (low, high) in zip(estimates, bounds, strict=True):
        error = float(np.sqrt(squared))
        z = estimate / error if error > 0 else (0.0 if estimate == 0 else np.nan)
        p = float(2 * stats.norm.sf(abs(z)))
        rows.append((name, estimate, error, estimate - half * error, estimate + half * error, z, p, low, high, text))
    return pd.DataFrame(rows, columns=list(RECLASSIFICATION_COLUMNS))


def _check_pair(y: ArrayLike, reference: ArrayLike, new: ArrayLike) -> tuple[NDArray[np.bool_], FloatArray, FloatArray]:
    positive, old = check_probabilities(y, reference)
    _, fresh = check_probabilities(y, new)
    smaller = int(min(positive.sum(), (~positive).sum()))
    if smaller < 2:
        raise InputError(
            f"Reclassification needs at least two patients of each class; found {smaller}.",
            advice="Collect more patients.",
        )
    return positive, old, fresh


def _categories(probability: FloatArray, cutoffs: ArrayLike) -> NDArray[np.int64]:
    borders = np.atleast_1d(np.asarray(cutoffs, dtype=np.float64))
    if borders.size == 0 or not ((borders > 0) & (borders < 1)).all() or not (np.diff(borders) > 0).all():
        raise InputError(
            f"Cut-offs must be increasing probabilities between 0 and 1; found {cutoffs!r}.",
            advice="Pass the borders of risk categories that clinicians use, for example (0.06, 0.2).",
        )
    return np.searchsorted(borders, probability, side="right").astype(np.int64)


def _moves(old: FloatArray, fresh: FloatArray, cutoffs: ArrayLike | None) -> FloatArray:
    """1 for a patient who moves up, -1 for one who moves down, 0 for one who stays."""
    if cutoffs is None:
        return np.sign(fresh - old)
    return np.sign(_categories(fresh, cutoffs) - _categories(old, cutoffs)).astype(np.float64)


def _mean_and_variance(values: FloatArray, name: str, variance: str) -> tuple[float, float]:
    """Mean of one class and the variance of that mean."""
    mean = float(values.mean())
    if name == "idi":
        return mean, float(values.var(ddof=1)) / values.size
    moved = float(np.mean(values**2))
    return mean, (moved - mean**2 if variance == "multinomial" else moved) / values.size


def _bootstrap_means(
    positive: NDArray[np.bool_], gains: FloatArray, changes: FloatArray, n_bootstrap: int, seed: int, level: float
) -> FloatArray:
    if n_bootstrap == 0:
        return np.full((6, 2), np.nan)

    def statistic(weights: FloatArray) -> FloatArray:
        parts = []
        for values in (gains, changes):
            means = [(values[g] @ weights[g]) / weights[g].sum(axis=0) for g in (positive, ~positive)]
            parts += [means[0] + means[1], *means]
        return np.stack(parts)

    return bootstrap(statistic, positive, n_bootstrap=n_bootstrap, seed=seed).interval(level=level, kind="percentile")


def reclassification_table(y: ArrayLike, reference: ArrayLike, new: ArrayLike, *, cutoffs: ArrayLike) -> pd.DataFrame:
    """Cross-table of risk categories under the reference and the new model, by outcome.

    Parameters
    ----------
    y, reference, new, cutoffs
        See :func:`reclassification`.

    Returns
    -------
    DataFrame
        Long: ``event`` (1 or 0), ``reference`` and ``new`` (categories counted from 0), ``n``.

    Raises
    ------
    InputError
        See :func:`reclassification`.
    """
    positive, old, fresh = _check_pair(y, reference, new)
    before, after = _categories(old, cutoffs), _categories(fresh, cutoffs)
    size = int(np.size(cutoffs)) + 1
    counts = np.zeros((2, size, size), dtype=np.int64)
    np.add.at(counts, (1 - positive.astype(np.int64), before, after), 1)
    index = pd.MultiIndex.from_product([[1, 0], range(size), range(size)], names=["event", "reference", "new"])
    return pd.Series(counts.ravel(), index=index, name="n").reset_index()


def compare_reclassification(
    predictions: pd.DataFrame,
    reference: str | Model,
    new: str | Model,
    *,
    cutoffs: ArrayLike | None = None,
    n_bootstrap: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    split: str | None = None,
) -> pd.DataFrame:
    """NRI and IDI of two models of a predictions table, from one averaged probability per patient.

    Parameters
    ----------
    predictions : DataFrame
        See :func:`hybrid.tables.check_predictions`.
    reference, new : str or (str, str)
        Feature set, or feature set and classifier.
    cutoffs, n_bootstrap, seed, level
        See :func:`reclassification`.
    split : str, optional
        See :func:`hybrid.analysis.evaluate_models`.

    Returns
    -------
    DataFrame
        See :func:`reclassification`.

    Raises
    ------
    InputError
        See :func:`reclassification`; also when a patient has rows with different outcomes.
    """
    panel = Panel.from_predictions(predictions, split=split)
    panel = panel.select(find_models(panel, [reference, new]), common=True)
    averaged = panel.by_patient()
    if averaged is None:
        raise InputError(
            "Reclassification needs one outcome per patient; a patient has rows with different outcomes.",
            advice="Evaluate lesions with net_benefit_difference, which resamples patients with all their rows.",
        )
    y, probability = averaged
    return reclassification(
        y, probability[0], probability[1], cutoffs=cutoffs, level=level, n_bootstrap=n_bootstrap, seed=seed
    )
