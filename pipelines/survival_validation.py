"""From a survival study to a frozen model, and from a frozen model to its external validation, with reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pandas as pd

from hybrid.analysis.survival_report import SurvivalReport
from hybrid.cases import Cohort
from hybrid.files import write_csv
from hybrid.provenance import versions

from .evaluate import FeatureSets
from .survival import cross_validate_survival
from .survival_fit import BASELINE_SETS
from .survival_models import fit_survival, load_survival

INTERNAL_FILE: Final = "internal_performance.csv"
"""Beside a frozen model: what cross-validation on its own patients measured."""


def fit_survival_study(
    features: pd.DataFrame,
    cohort: Cohort,
    out: str | Path,
    *,
    time: str,
    event: str,
    event_value: Any = None,
    feature_set: str | FeatureSets = "handcrafted",
    covariates: Sequence[str] = (),
    volume: str | None = None,
    horizons: Sequence[float] | None = None,
    horizon: float | None = None,
    repeats: int = 5,
    folds: int = 5,
    inner_folds: int = 3,
    time_unit: str = "",
    seed: int = 0,
    n_boot: int = 2000,
    **running: Any,
) -> Path:
    """Freeze the declared Cox model and its baselines, and measure the procedure by cross-validation.

    Parameters
    ----------
    features, cohort, time, event, event_value, feature_set, covariates, volume, horizons, inner_folds, seed
        See :func:`fit_survival`.
    out : path-like
        Model folder to write; the cross-validation is cached in ``<out>/work``.
    horizon : float, optional
        Time at which calibration is judged, here and in :func:`validate_survival`; by default the middle horizon.
    repeats, folds
        Of the cross-validation.
    time_unit : str
        Unit of ``time``, for reports.
    n_boot : int
        Bootstrap draws of all intervals.
    **running
        ``n_jobs, backend, progress``.

    Returns
    -------
    Path
        The model folder.

    Raises
    ------
    InputError
        See :func:`fit_survival`; also for a ``horizon`` that survival is not predicted for.
    """
    out = Path(out)
    shared: dict[str, Any] = {
        "time": time, "event": event, "event_value": event_value, "covariates": covariates, "volume": volume,
        "inner_folds": inner_folds, "seed": seed,
    }  # fmt: skip
    wanted = sorted({*(horizons or ()), *([horizon] if horizon is not None else [])}) or None
    model = fit_survival(features, cohort, feature_set=feature_set, horizons=wanted, **shared)
    predictions = cross_validate_survival(
        features, cohort, feature_sets=[feature_set] if isinstance(feature_set, str) else feature_set,
        horizons=model.card["horizons"], repeats=repeats, folds=folds, out=out / "work", **shared, **running,
    )  # fmt: skip
    report = SurvivalReport(predictions, horizon=horizon, baselines=BASELINE_SETS, n_boot=n_boot, seed=seed)
    judged = float(report.calibration["horizon"].max()) if report.calibration is not None else None
    settings = model.card["settings"] | {"repeats": repeats, "folds": folds}
    replace(model, card=model.card | {"settings": settings, "horizon": judged, "time_unit": time_unit}).save(out)
    write_csv(report.performance, out / INTERNAL_FILE)
    return out


def validate_survival(
    model_folder: str | Path,
    features: pd.DataFrame,
    cohort: Cohort,
    out: str | Path,
    *,
    time: str | None = None,
    event: str | None = None,
    event_value: Any = None,
    title: str = "External validation: survival",
    n_boot: int = 2000,
    seed: int = 0,
) -> Path:
    """Apply frozen Cox models to new patients, untouched, and report beside their internal performance.

    Parameters
    ----------
    model_folder : path-like
        Written by :func:`fit_survival_study`.
    features, cohort
        Of the new patients.
    out : path-like
        Folder for ``predictions.csv``, ``tables/``, ``figures/`` and ``report.html``.
    time, event, event_value : optional
        Columns of the follow-up where they are called differently than in the development cohort.
    title : str
        Heading of the report.
    n_boot, seed : int
        Of all intervals.

    Returns
    -------
    Path
        The report.

    Raises
    ------
    LeakageError
        When a patient was among those that the models were fitted on.
    InputError
        See :meth:`FrozenSurvivalModel.predict`.
    """
    out, model = Path(out), load_survival(model_folder)
    predictions = model.predict(features, cohort, time=time, event=event, event_value=event_value)
    write_csv(predictions, out / "predictions.csv")
    internal = Path(model_folder) / INTERNAL_FILE
    horizon = model.card.get("horizon")
    is_reached = horizon is not None and horizon < predictions["time"].max()
    report = SurvivalReport(
        predictions, internal=pd.read_csv(internal) if internal.is_file() else None, is_external=True,
        horizon=horizon if is_reached else None, time_unit=model.card.get("time_unit", ""), title=title,
        left_out=predictions.attrs["left_out"], baselines=BASELINE_SETS, n_boot=n_boot, seed=seed,
        run_record={"settings": _described(model.card, model_folder), "versions": versions()},
    )  # fmt: skip
    return report.save(out / "report.html")


def _described(card: dict[str, Any], folder: str | Path) -> dict[str, Any]:
    """Facts of the card that a reader wants to see: neither hashes nor every column."""
    hidden = ("patients", "columns", "versions", "sha256")
    return {"model": Path(folder).name, **{name: value for name, value in card.items() if name not in hidden}}
