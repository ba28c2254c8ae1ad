"""Survival predictions as arrays, and the measures of many of them under bootstrap weights.

What the words mean is said in :mod:`.survival`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import integrate

from hybrid.errors import InputError
from hybrid.tables import check_survival, require_columns

from .panel import mean_over_repeats
from .resampling import Resampled, bootstrap, weighted_auc

FloatArray = NDArray[np.float64]


BoolArray = NDArray[np.bool_]


SURVIVAL_COLUMNS: Final = (
    "repeat", "fold", "case_id", "patient_id", "feature_set", "time", "event", "risk", "group",
)  # fmt: skip
"""Columns of a table of survival predictions, one row per repeat, case and feature set.

``risk`` is out of fold; ``group`` is ``"high"`` when it lies above the median risk of the training patients, otherwise
``"low"``. Columns ``survival_at_<time>`` hold the predicted probability of no event until that time.
"""


HORIZON_PREFIX: Final = "survival_at_"


GROUPS: Final = ("low", "high")


def check_risk(risk: ArrayLike, n: int) -> FloatArray:
    """Validate one risk per patient: finite numbers."""
    values = np.asarray(risk, dtype=np.float64)
    if values.shape != (n,) or not np.isfinite(values).all():
        raise InputError(
            f"Expected {n} finite risk scores; found shape {values.shape}, {int((~np.isfinite(values)).sum())} of them "
            "missing or infinite.",
            advice="Pass one score for each case.",
        )
    return values


# Concordance -------------------------------------------------------------------------------------------------------


def comparable_pairs(time: FloatArray, event: BoolArray) -> BoolArray:
    """Pairs in which the first patient is known to have had the event before the second.

    Returns
    -------
    ndarray of bool, shape (n, n)
        True at (i, j) when i has an event and j's time is later, or equal and censored.
    """
    earlier = time[:, None] < time[None, :]
    same_but_censored = (time[:, None] == time[None, :]) & ~event[None, :]
    return np.asarray(event[:, None] & (earlier | same_but_censored))


def won_pairs(pairs: BoolArray, risk: FloatArray) -> FloatArray:
    """1 for each comparable pair in the right order, one half for equal risks."""
    gap = risk[:, None] - risk[None, :]
    return np.asarray(pairs * (0.5 + 0.5 * np.sign(gap)), dtype=np.float64)


def censoring_survival(
    time: FloatArray, event: BoolArray, weights: FloatArray, horizons: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Kaplan-Meier estimate of staying uncensored, under many weightings.

    Patients with an event leave before those censored at the same time.

    Parameters
    ----------
    time, event : ndarray of shape (n,)
        Follow-up.
    weights : ndarray of shape (n, b)
        Weight of each patient in each draw.
    horizons : ndarray of shape (h,)
        Times.

    Returns
    -------
    before : ndarray of shape (n, b)
        Just before each patient's own time.
    at : ndarray of shape (h, b)
        At each horizon.
    """
    levels, position = np.unique(time, return_inverse=True)
    order = np.argsort(position, kind="stable")
    starts = np.searchsorted(position[order], np.arange(levels.size))
    failed = np.add.reduceat(weights[order] * event[order, None], starts, axis=0)
    censored = np.add.reduceat(weights[order] * ~event[order, None], starts, axis=0)
    at_risk = np.cumsum((failed + censored)[::-1], axis=0)[::-1] - failed
    # A sum of weights that should be 0 may be off by rounding.
    factor = 1 - np.divide(censored, at_risk, out=np.zeros_like(censored), where=at_risk > 1e-12)
    steps = np.concatenate([np.ones((1, weights.shape[1])), np.cumprod(np.maximum(factor, 0.0), axis=0)])
    return steps[position], steps[np.searchsorted(levels, horizons, side="right")]


@dataclass(frozen=True)
class SurvivalPanel:
    """Survival predictions as arrays, one entry per patient, sorted by id.

    Attributes
    ----------
    feature_sets : tuple of str
        In order of first appearance.
    patients : tuple of str
        Identifiers.
    time : ndarray of shape (n,)
        Follow-up.
    event : ndarray of bool, shape (n,)
        Events.
    risk : ndarray of shape (n_sets, n_repeats, n)
        Risk scores; the mean over the rows of a patient.
    high : ndarray of shape (n_sets, n_repeats, n), optional
        Share of the patient's rows that were called high risk.
    horizons : ndarray of shape (h,)
        Times of the predicted probabilities.
    survival : ndarray of shape (n_sets, n_repeats, h, n), optional
        Predicted probability of no event until each horizon.
    """

    feature_sets: tuple[str, ...]
    patients: tuple[str, ...]
    time: FloatArray
    event: BoolArray
    risk: FloatArray
    high: FloatArray | None = None
    horizons: FloatArray | None = None
    survival: FloatArray | None = None

    @classmethod
    def single(cls, time: FloatArray, event: BoolArray, risk: FloatArray, **arrays: FloatArray) -> SurvivalPanel:
        """One score of each patient; ``arrays`` may hold ``horizons`` and ``survival`` of shape (h, n)."""
        survival = arrays.pop("survival", None)
        return cls(
            ("model",), row_names(time.size), time, event, risk[None, None], **arrays,
            survival=None if survival is None else survival[None, None],
        )  # fmt: skip

    @classmethod
    def from_predictions(cls, predictions: pd.DataFrame) -> SurvivalPanel:
        """Read a table of survival predictions.

        Parameters
        ----------
        predictions : DataFrame
            Columns :data:`SURVIVAL_COLUMNS`; not modified.

        Raises
        ------
        InputError
            For missing columns, a patient with two times or events, or a patient without prediction in a repeat.
        """
        require_columns(predictions, SURVIVAL_COLUMNS, "survival predictions")
        table = predictions.assign(high=(predictions["group"] == "high").astype(float))
        patients, time, event = one_time_per_patient(table["patient_id"], table["time"], table["event"])
        sets = tuple(str(name) for name in pd.unique(table["feature_set"]))
        repeats = sorted(table["repeat"].unique())
        columns = {name: value for value, name in sorted(horizon_columns(table.columns).items())}
        values = table.groupby(["feature_set", "repeat", "patient_id"])[["risk", "high", *columns]].mean()
        every = pd.MultiIndex.from_product([sets, repeats, patients], names=values.index.names)
        values = values.reindex(every)
        if values["risk"].isna().any():
            name, repeat, patient = values.index[values["risk"].isna().to_numpy()][0]
            raise InputError(
                f"Feature set {name!r} has no risk for patient {patient!r} in repeat {repeat}.",
                advice="Predict every patient in every repeat.",
            )
        shape = (len(sets), len(repeats), len(patients))
        survival = values[list(columns)].to_numpy(dtype=np.float64).reshape(*shape, len(columns))
        return cls(
            sets, tuple(patients), time, event, values["risk"].to_numpy(dtype=np.float64).reshape(shape),
            values["high"].to_numpy(dtype=np.float64).reshape(shape), np.array(list(columns.values())),
            np.moveaxis(survival, -1, 2) if columns else None,
        )  # fmt: skip

    def groups(self) -> NDArray[np.str_]:
        """Risk group of each patient, shape (n_sets, n): ``"high"`` when at least half of the repeats say so."""
        if self.high is None:
            raise InputError("The predictions hold no risk groups.", advice="Add the column 'group'.")
        return np.where(self.high.mean(axis=1) >= 0.5, "high", "low")


def row_names(n: int) -> tuple[str, ...]:
    """Name patients that have no ids by their row."""
    return tuple(map(str, range(n)))


def horizon_columns(columns: Sequence[Any] | pd.Index) -> dict[float, str]:
    """Columns of predicted survival probabilities by time: ``survival_at_2_5`` holds those at 2.5."""
    return {
        float(str(name).removeprefix(HORIZON_PREFIX).replace("_", ".")): str(name)
        for name in columns
        if str(name).startswith(HORIZON_PREFIX)
    }


def horizon_column(horizon: float) -> str:
    """Name of the column of predicted survival probabilities at a time."""
    return f"{HORIZON_PREFIX}{np.format_float_positional(horizon, trim='-').replace('.', '_')}"


def one_time_per_patient(
    patients: ArrayLike, time: ArrayLike, event: ArrayLike
) -> tuple[list[str], FloatArray, BoolArray]:
    """Follow-up of each patient from rows of cases.

    Returns
    -------
    patients : list of str
        Sorted.
    time, event : ndarray of shape (n_patients,)
        Follow-up.

    Raises
    ------
    InputError
        When rows of a patient disagree; the patients are named.
    """
    times, events = check_survival(time, event, cases=[str(name) for name in np.asarray(patients)])
    table = pd.DataFrame({"patient": np.asarray(patients).astype(str), "time": times, "event": events})
    distinct = table.drop_duplicates().sort_values("patient")
    doubled = distinct.loc[distinct["patient"].duplicated(), "patient"].unique()
    if doubled.size:
        shown = ", ".join(doubled[:5]) + (f" and {doubled.size - 5} more" if doubled.size > 5 else "")
        raise InputError(
            f"{doubled.size} patient(s) have rows with different times or events: {shown}.",
            advice="A patient has one follow-up time and one event; correct the table.",
        )
    return distinct["patient"].tolist(), distinct["time"].to_numpy(), distinct["event"].to_numpy()


def resample_panel(
    panel: SurvivalPanel,
    statistic: Callable[..., FloatArray],
    n_bootstrap: int,
    seed: int,
    *,
    is_stratified: bool = True,
) -> Resampled:
    """Bootstrap a measure over patients, repeats staying together.

    Draws keep the number of patients with the event where ``is_stratified``: for measures that compare patients with
    each other. What depends on how many have the event (risks, Brier scores) must not be stratified by it.
    """

    def of_weights(weights: FloatArray) -> FloatArray:
        return statistic(panel, weights)

    strata = panel.event.astype(int) if is_stratified else np.zeros(panel.event.size, dtype=int)
    return bootstrap(of_weights, strata, n_bootstrap=n_bootstrap, seed=seed)


def concordances(
    panel: SurvivalPanel, weights: FloatArray, *, uno: bool = False, tau: float | None = None
) -> FloatArray:
    """C-index of each feature set, averaged over repeats, shape (n_sets, b)."""
    pairs = comparable_pairs(panel.time, panel.event)
    outer = weights
    if uno:
        before, _ = censoring_survival(panel.time, panel.event, weights, np.empty(0))
        counts = np.ones(panel.time.size, bool) if tau is None else panel.time < tau
        outer = np.divide(weights * counts[:, None], before**2, out=np.zeros_like(weights), where=before > 0)
    total = np.einsum("ib,ib->b", outer, pairs.astype(np.float64) @ weights)
    found = np.empty((*panel.risk.shape[:2], weights.shape[1]))
    for place in np.ndindex(*panel.risk.shape[:2]):
        earned = np.einsum("ib,ib->b", outer, won_pairs(pairs, panel.risk[place]) @ weights)
        found[place] = np.divide(earned, total, out=np.full_like(total, np.nan), where=total > 0)
    return mean_over_repeats(found, axis=1)


def uno_concordances(panel: SurvivalPanel, weights: FloatArray) -> FloatArray:
    """Uno's C-index of every feature set under many weights, up to the last horizon."""
    has_horizons = panel.horizons is not None and panel.horizons.size > 0
    return concordances(panel, weights, uno=True, tau=float(panel.horizons.max()) if has_horizons else None)  # type: ignore[union-attr]


def survival_aucs(panel: SurvivalPanel, weights: FloatArray) -> FloatArray:
    """AUC at each horizon, shape (n_sets * h, b)."""
    horizons = horizons_of(panel)
    before, _ = censoring_survival(panel.time, panel.event, weights, horizons)
    inverse = np.divide(weights, before, out=np.zeros_like(weights), where=before > 0)
    found = np.full((*panel.risk.shape[:2], horizons.size, weights.shape[1]), np.nan)
    for k, horizon in enumerate(horizons):
        case, control = panel.event & (panel.time <= horizon), panel.time > horizon
        used = case | control
        if not (case.any() and control.any()):
            continue
        own = np.where(case[used, None], inverse[used], weights[used])
        for place in np.ndindex(*panel.risk.shape[:2]):
            found[(*place, k)] = weighted_auc(case[used], panel.risk[place][used], own)
    return mean_over_repeats(found, axis=1).reshape(-1, weights.shape[1])


def brier_scores(panel: SurvivalPanel, weights: FloatArray) -> FloatArray:
    """Brier score at each horizon, shape (n_sets * h, b)."""
    horizons = horizons_of(panel)
    if panel.survival is None:
        raise InputError("The predictions hold no survival probabilities.", advice="Add columns 'survival_at_<time>'.")
    before, at = censoring_survival(panel.time, panel.event, weights, horizons)
    inverse = np.divide(weights, before, out=np.zeros_like(weights), where=before > 0)
    found = np.full((*panel.risk.shape[:2], horizons.size, weights.shape[1]), np.nan)
    for k, horizon in enumerate(horizons):
        case, control = panel.event & (panel.time <= horizon), panel.time > horizon
        if not control.any():
            continue
        scale = np.divide(1.0, at[k], out=np.full_like(at[k], np.nan), where=at[k] > 0)
        for place in np.ndindex(*panel.risk.shape[:2]):
            predicted = panel.survival[(*place, k)]
            failed = (predicted[case] ** 2) @ inverse[case]
            alive = ((1 - predicted[control]) ** 2) @ weights[control] * scale
            found[(*place, k)] = (failed + alive) / weights.sum(axis=0)
    return mean_over_repeats(found, axis=1).reshape(-1, weights.shape[1])


def integrated_briers(panel: SurvivalPanel, weights: FloatArray) -> FloatArray:
    """Brier score integrated over the horizons, of every feature set under many weights."""
    horizons = horizons_of(panel)
    if horizons.size < 2:
        return np.full((len(panel.feature_sets), weights.shape[1]), np.nan)
    scores = brier_scores(panel, weights).reshape(len(panel.feature_sets), horizons.size, -1)
    return np.asarray(integrate.trapezoid(scores, horizons, axis=1) / (horizons[-1] - horizons[0]))


def horizons_of(panel: SurvivalPanel) -> FloatArray:
    """Horizons of a panel; raises :class:`~hybrid.errors.InputError` when it has none."""
    if panel.horizons is None or not panel.horizons.size:
        raise InputError("The predictions name no horizons.", advice="Add columns 'survival_at_<time>'.")
    return panel.horizons
