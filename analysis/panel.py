"""Predictions as arrays: the one place where the long table is read."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hybrid.errors import InputError, LeakageError, unknown_name
from hybrid.tables import check_predictions

FloatArray = NDArray[np.float64]
Model = tuple[str, str]

UNIT_KEYS: Final = ("case_id", "lesion_id", "slice")
"""Columns that together name what a row is about; the last two only when present."""

TIE_DECIMALS: Final = 12
"""Averaged probabilities that agree to this many decimals are ties."""

EVALUATED_SPLITS: Final = ("test", "external")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Panel:
    """Predictions of several models on one set of cases.

    Units (cases, or lesions and slices of cases) are sorted by id, so that no number depends on the order of rows.

    Attributes
    ----------
    models : tuple of (str, str)
        Feature set and classifier, in order of first appearance.
    split : str
        ``"test"``, ``"external"`` or ``"train"``.
    units : DataFrame of n_units rows
        ``case_id, patient_id`` and, where present, ``lesion_id`` and ``slice``.
    y : ndarray of bool, shape (n_units,)
        Outcome.
    patient : ndarray of int, shape (n_units,)
        Position of each unit's patient.
    strata : ndarray of int, shape (n_patients,)
        1 for a patient with at least one positive unit.
    probability, threshold : ndarray of shape (n_models, n_repeats, n_units)
        NaN where a model has no prediction.
    """

    models: tuple[Model, ...]
    split: str
    units: pd.DataFrame
    y: NDArray[np.bool_]
    patient: NDArray[np.int64]
    strata: NDArray[np.int64]
    probability: FloatArray
    threshold: FloatArray

    @classmethod
    def from_predictions(cls, predictions: pd.DataFrame, *, split: str | None = None) -> Panel:
        """Read a predictions table.

        Parameters
        ----------
        predictions : DataFrame
            See :func:`hybrid.tables.check_predictions`; not modified.
        split : str, optional
            Rows to use; by default those of ``"test"`` if there are any, otherwise ``"external"``.

        Raises
        ------
        InputError
            For an invalid table, a case with two outcomes or two patients, or an outcome with one class.
        LeakageError
            When the table has rows of training patients only and ``split="train"`` was not asked for.
        """
        table = check_predictions(predictions)
        split = _choose_split(table, split)
        table = table[table["split"] == split]
        keys = [key for key in UNIT_KEYS if key in table.columns]
        units, unit = _units(table, keys)
        model, models = pd.factorize(
            pd.MultiIndex.from_frame(table[["feature_set", "classifier"]].astype(str)), sort=False
        )
        repeat, repeats = pd.factorize(table["repeat"], sort=True)
        shape = (len(models), len(repeats), len(units))
        probability, threshold = np.full(shape, np.nan), np.full(shape, np.nan)
        probability[model, repeat, unit] = table["y_prob"]
        threshold[model, repeat, unit] = table["threshold"]
        panel = cls._assemble(tuple(map(tuple, models)), split, units, probability, threshold)
        panel._require_two_classes()
        return panel

    @classmethod
    def _assemble(
        cls, models: tuple[Model, ...], split: str, units: pd.DataFrame, probability: FloatArray, threshold: FloatArray
    ) -> Panel:
        y = units["y_true"].to_numpy() == 1
        patient = pd.factorize(units["patient_id"], sort=True)[0].astype(np.int64)
        strata = np.zeros(patient.max() + 1, dtype=np.int64)
        np.maximum.at(strata, patient, y.astype(np.int64))
        return cls(models, split, units, y, patient, strata, probability, threshold)

    def _require_two_classes(self) -> None:
        if self.y.all() or not self.y.any():
            raise InputError(
                f"The outcome has one class only: all {self.y.size} cases are {int(self.y.any())}.",
                advice="Discrimination can be measured only with cases of both classes.",
            )
        present = np.isfinite(self.probability)
        for i, model in enumerate(self.models):
            for r in np.flatnonzero(present[i].any(axis=1)):
                seen = self.y[present[i, r]]
                if seen.all() or not seen.any():
                    raise InputError(
                        f"Model {label(model)!r} has predictions of one outcome class only in repeat {r}.",
                        advice="Predict every case in every repeat.",
                    )

    @property
    def n_patients(self) -> int:
        """Number of patients."""
        return int(self.strata.size)

    @property
    def n_events(self) -> int:
        """Number of patients with at least one positive unit."""
        return int(self.strata.sum())

    def position(self, model: Model) -> int:
        """Position of a model.

        Raises
        ------
        InputError
            For a model that is not there; the nearest name is given.
        """
        if model not in self.models:
            raise unknown_name("model", label(model), [label(other) for other in self.models])
        return self.models.index(model)

    def select(self, models: Sequence[Model], *, common: bool = False) -> Panel:
        """Panel of some models, in the order given.

        Parameters
        ----------
        models : sequence of (str, str)
            Which.
        common : bool
            Keep only units that all of these models predicted.
        """
        positions = [self.position(model) for model in models]
        probability, threshold = self.probability[positions], self.threshold[positions]
        predicted = np.isfinite(probability).any(axis=1)
        keep = predicted.all(axis=0) if common else predicted.any(axis=0)
        if keep.all():
            return dataclasses.replace(self, models=tuple(models), probability=probability, threshold=threshold)
        if not keep.any():
            raise InputError("The models have no case in common.", advice="Evaluate them on the same cases.")
        if common:
            logger.warning("%d of %d rows are not shared by all compared models.", int((~keep).sum()), keep.size)
        units = self.units[keep].reset_index(drop=True)
        panel = self._assemble(tuple(models), self.split, units, probability[:, :, keep], threshold[:, :, keep])
        panel._require_two_classes()
        return panel

    def n_repeats(self, i: int) -> int:
        """Count the repeats in which model ``i`` has predictions."""
        return int(np.isfinite(self.probability[i]).any(axis=1).sum())

    def by_patient(self) -> tuple[NDArray[np.bool_], FloatArray] | None:
        """One averaged probability per patient and model, over repeats and rows.

        Returns
        -------
        y : ndarray of bool, shape (n_patients,)
            Outcome.
        averaged : ndarray of shape (n_models, n_patients)
            NaN for a patient whom a model did not predict.

        None when a patient has rows with different outcomes, so that averaging would mix them.
        """
        positives = np.bincount(self.patient, weights=self.y, minlength=self.n_patients)
        rows = np.bincount(self.patient, minlength=self.n_patients)
        if not np.isin(positives / rows, (0.0, 1.0)).all():
            return None
        per_unit = mean_over_repeats(self.probability, axis=1)
        averaged = np.empty((len(self.models), self.n_patients))
        for i, values in enumerate(per_unit):
            seen = np.isfinite(values)
            total = np.bincount(self.patient[seen], weights=values[seen], minlength=self.n_patients)
            count = np.bincount(self.patient[seen], minlength=self.n_patients)
            averaged[i] = np.where(count > 0, total / np.maximum(count, 1), np.nan)
        # The same probabilities summed in another order differ in the last digits, which would break ties.
        return positives > 0, averaged.round(TIE_DECIMALS)


def label(model: Model) -> str:
    """Name of a model: its feature set and classifier."""
    return f"{model[0]} / {model[1]}"


def mean_over_repeats(values: FloatArray, axis: int = 0) -> FloatArray:
    """Mean over an axis, leaving out undefined (NaN) entries; NaN where all are undefined."""
    defined = np.isfinite(values)
    count = defined.sum(axis=axis)
    total = np.where(defined, values, 0.0).sum(axis=axis)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _choose_split(table: pd.DataFrame, split: str | None) -> str:
    present = [str(name) for name in table["split"].unique()]
    if split is not None:
        if split not in present:
            raise unknown_name("split", split, present)
        return split
    for name in EVALUATED_SPLITS:
        if name in present:
            return name
    raise LeakageError(
        f"The predictions have rows of split {', '.join(map(repr, present))} only, none of unseen patients.",
        advice="Evaluate out-of-fold or external predictions, or ask for split='train' (apparent performance).",
    )


def _units(table: pd.DataFrame, keys: list[str]) -> tuple[pd.DataFrame, NDArray[np.int64]]:
    described = table[[*keys, "patient_id", "y_true"]]
    for column, what in (("y_true", "outcomes"), ("patient_id", "patients")):
        count = described.groupby(keys, sort=False, dropna=False)[column].nunique()
        if (count > 1).any():
            first = count.index[(count > 1).to_numpy()][0]
            raise InputError(
                f"The case has two different {what} in the predictions table.",
                advice="Correct the table: a case has one outcome and one patient in every model and repeat.",
                case_id=str(first[0] if isinstance(first, tuple) else first),
            )
    units = described.drop_duplicates(keys).sort_values(keys, ignore_index=True)
    index = pd.MultiIndex.from_frame(units[keys])
    unit = index.get_indexer(pd.MultiIndex.from_frame(table[keys]))
    return units, unit.astype(np.int64)
