"""Frozen Cox models: fitted on all patients, stored without pickle, applied untouched to new patients.

A model is a folder: ``survival.skops`` (fitted preprocessing and Cox models of the declared feature set and of its
baselines), ``survival_model.json`` (columns, cut between risk groups, horizons, settings, versions, hashed patients)
and ``internal_performance.csv`` (cross-validated, no patient).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from hybrid.analysis.survival_panel import SURVIVAL_COLUMNS, horizon_column
from hybrid.cases import Cohort
from hybrid.errors import InputError, LeakageError
from hybrid.fusion import FeatureSet
from hybrid.provenance import code_version, hashed_patient, versions
from hybrid.selection import MAX_CORRELATION, MAX_FEATURES

from .evaluate import FeatureSets
from .model_files import ModelFiles
from .survival_fit import BASELINE_SETS, FittedCox, SurvivalTable, fit_cox, make_plan, prepare_survival

FILES: Final = ModelFiles("survival.skops", "survival_model.json", "hybrid survival-fit")


@dataclass(frozen=True)
class FrozenSurvivalModel:
    """Fitted Cox models and everything that was fixed with them.

    Attributes
    ----------
    fitted : dict of str to FittedCox
        The declared feature set first, then the baselines.
    card : dict
        Content of ``survival_model.json``.
    """

    fitted: dict[str, FittedCox]
    card: dict[str, Any]

    def predict(
        self,
        features: pd.DataFrame,
        cohort: Cohort,
        *,
        time: str | None = None,
        event: str | None = None,
        event_value: Any = None,
        split: str = "external",
    ) -> pd.DataFrame:
        """Predict new patients; nothing is refitted.

        Parameters
        ----------
        features : DataFrame
            Index ``case_id``, with the columns that the models were fitted on.
        cohort : Cohort
            The patients with their follow-up.
        time, event, event_value : optional
            Columns of the follow-up where they are called differently than in the development cohort.
        split : {"external", "train"}
            ``"train"`` allows patients that the models were fitted on.

        Returns
        -------
        DataFrame
            As :func:`hybrid.pipelines.cross_validate_survival`, with one repeat and fold. The groups are parted by the
            median risk of the training patients; horizons beyond the longest follow-up of the new patients are left
            out.

        Raises
        ------
        LeakageError
            When a patient was among the training patients and ``split`` is not ``"train"``.
        InputError
            When a column is missing, or the follow-up cannot be used.
        """
        self._refuse_known(cohort, split)
        data = self._prepare(features, cohort, time or self.card["time"], event or self.card["event"], event_value)
        horizons = [value for value in self.card["horizons"] if value < data.time.max()]
        if not horizons:
            raise InputError(
                f"The new patients are followed until {data.time.max():g}; the first horizon of the model is "
                f"{min(self.card['horizons']):g}.",
                advice="Is the follow-up in the same unit as in the development cohort?",
            )
        tables = [self._rows(name, data, horizons) for name in self.fitted]
        predictions = pd.concat(tables, ignore_index=True)
        predictions.attrs["left_out"] = data.study.left_out.to_dict("records")
        return predictions

    def _refuse_known(self, cohort: Cohort, split: str) -> None:
        own = set(self.card["patients"])
        seen = [case for case in cohort if hashed_patient(case.patient_id) in own]
        if seen and split != "train":
            raise LeakageError(
                f"{len(seen)} of {len(cohort)} cases belong to patients that the model was trained on, the first is "
                f"case {seen[0].case_id}.",
                advice='Leave them out, or ask for split="train" to see the apparent performance.',
            )

    def _prepare(
        self, features: pd.DataFrame, cohort: Cohort, time: str, event: str, event_value: Any
    ) -> SurvivalTable:
        data = prepare_survival(
            features, cohort, time=time, event=event,
            event_value=self.card["event_value"] if event_value is None else event_value,
            covariates=self.card["covariates"], horizons=[],
        )  # fmt: skip
        wanted = [column for columns in self.card["columns"].values() for column in columns]
        missing = [column for column in wanted if column not in data.study.table.columns]
        if missing:
            raise InputError(
                f"The feature table lacks {len(set(missing))} columns that the model was fitted on, the first is "
                f"{missing[0]!r}.",
                advice="Extract with the settings of the development cohort.",
            )
        return data

    def _rows(self, name: str, data: SurvivalTable, horizons: Sequence[float]) -> pd.DataFrame:
        table = data.study.table[self.card["columns"][name]]
        risk = self.fitted[name].predict(table)
        survival = self.fitted[name].predict_survival(table, horizons)
        columns = (
            0, 0, data.study.cases, data.study.patients, name, data.time, data.event.astype(int), risk,
            np.where(risk > self.card["cuts"][name], "high", "low"),
        )  # fmt: skip
        rows = pd.DataFrame(dict(zip(SURVIVAL_COLUMNS, columns, strict=True)))
        if data.study.regions is not None:
            rows["lesion_id"] = data.study.regions.astype(str)
        return rows.assign(**{horizon_column(time): survival[k] for k, time in enumerate(horizons)})

    def save(self, folder: str | Path) -> Path:
        """Write ``survival.skops`` and ``survival_model.json``; return the folder."""
        content = {name: {"prefix": model.prefix, "estimator": model.estimator} for name, model in self.fitted.items()}
        return FILES.write(folder, content, self.card)


def fit_survival(
    features: pd.DataFrame,
    cohort: Cohort,
    *,
    time: str,
    event: str,
    event_value: Any = None,
    feature_set: str | FeatureSets = "handcrafted",
    covariates: Sequence[str] = (),
    volume: str | None = None,
    horizons: Sequence[float] | None = None,
    inner_folds: int = 3,
    seed: int = 0,
    max_correlation: float = MAX_CORRELATION,
    max_features: int = MAX_FEATURES,
) -> FrozenSurvivalModel:
    """Fit the declared Cox model and its baselines on all patients, as inside a training fold.

    Parameters
    ----------
    feature_set : str or mapping of one name
        See :func:`hybrid.fusion.resolve_feature_sets`; the baselines that the tables allow are frozen beside it.
    features, cohort, time, event, event_value, covariates, volume, horizons, inner_folds, seed
        See :func:`hybrid.pipelines.cross_validate_survival`.
    max_correlation, max_features
        See :func:`hybrid.pipelines.cross_validate_survival`.

    Returns
    -------
    FrozenSurvivalModel
        To be saved, and applied to new patients.

    Raises
    ------
    InputError
        See :func:`hybrid.pipelines.cross_validate_survival`; also for more than one feature set.
    """
    data = prepare_survival(
        features, cohort, time=time, event=event, event_value=event_value, covariates=covariates, horizons=horizons
    )
    wanted = [feature_set] if isinstance(feature_set, str) else feature_set
    plan = make_plan(data, wanted, volume, inner_folds, max_correlation, max_features, seed)
    declared = [name for name in plan.feature_sets if name not in BASELINE_SETS] or list(plan.feature_sets)[:1]
    if len(declared) != 1:
        raise InputError(f"A frozen model has one feature set; found {', '.join(declared)}.", advice="Name one.")
    outcome = np.column_stack([data.time, data.event.astype(np.float64)])
    tables = {name: data.study.table[list(chosen.columns)] for name, chosen in plan.feature_sets.items()}
    fitted = {
        name: fit_cox(plan, chosen, tables[name], outcome, data.study.patients, data.strata)
        for name, chosen in plan.feature_sets.items()
    }
    settings = {
        "inner_folds": inner_folds, "seed": seed, "max_correlation": max_correlation, "max_features": max_features,
        "volume": volume,
    }  # fmt: skip
    follow_up = {"time": time, "event": event, "event_value": event_value, "covariates": list(covariates)}
    card = {"format": 1, "feature_set": declared[0], **follow_up, "settings": settings}
    return FrozenSurvivalModel(fitted, card | _facts(plan.feature_sets, fitted, tables, data))


def _facts(
    sets: Mapping[str, FeatureSet],
    fitted: Mapping[str, FittedCox],
    tables: Mapping[str, pd.DataFrame],
    data: SurvivalTable,
) -> dict[str, Any]:
    """Gather what a frozen model says about itself; patients by hash only."""
    patients = sorted(set(data.study.patients))
    return {
        "columns": {name: list(chosen.columns) for name, chosen in sets.items()},
        "selected": {name: model.selected for name, model in fitted.items()},
        "coefficients": {name: model.estimator.coef_.tolist() for name, model in fitted.items()},
        "penalty": {
            name: {"penalty": model.estimator.penalty_, "l1_ratio": model.estimator.l1_ratio}
            for name, model in fitted.items()
        },
        "cuts": {name: float(np.median(model.predict(tables[name]))) for name, model in fitted.items()},
        "horizons": list(data.horizons),
        "n_patients": len(patients),
        "n_events": len(set(data.study.patients[data.event])),
        "patients": sorted(hashed_patient(patient) for patient in patients),
        "versions": versions(),
        "code_version": code_version(),
    }


def load_survival(folder: str | Path) -> FrozenSurvivalModel:
    """Read a model folder; nothing in it is executed.

    Raises
    ------
    InputError
        When a file is missing or changed, or the model holds types that are not trusted.
    """
    content, card = FILES.read(folder)
    return FrozenSurvivalModel(
        {name: FittedCox(part["prefix"], part["estimator"]) for name, part in content.items()}, card
    )
