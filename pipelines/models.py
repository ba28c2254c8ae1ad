"""Frozen models: the declared pipeline fitted on all patients, stored without pickle, applied untouched.

A model is a folder: ``classifier.skops`` (fitted prefixes and estimators) and ``model.json`` (columns, cut-off,
calibration, settings, versions, hashed patients).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from hybrid.cases import Cohort
from hybrid.classifiers import resolve_classifiers
from hybrid.errors import InputError, LeakageError
from hybrid.fold_options import BATCH_COLUMN, fold_facts
from hybrid.fusion import FeatureSet, resolve_feature_sets
from hybrid.provenance import code_version, hashed_patient, versions
from hybrid.selection import MAX_CORRELATION, MAX_FEATURES, MIN_ICC
from hybrid.tables import SELECTED, check_predictions

from .crossval import Fitted, Recalibration, Settings, fit_models
from .evaluate import DEFAULT_CLASSIFIERS, FeatureSets
from .model_files import ModelFiles
from .study_table import StudyTable, clinical_columns, feature_columns, prepare_table

logger = logging.getLogger(__name__)

FILES: Final = ModelFiles("classifier.skops", "model.json", "hybrid fit")


@dataclass(frozen=True)
class FrozenModel:
    """A fitted model and everything that was fixed with it.

    Attributes
    ----------
    fitted : Fitted
        Prefixes, estimators, cut-off and calibration.
    card : dict
        Content of ``model.json``.
    """

    fitted: Fitted
    card: dict[str, Any]

    def predict(self, features: pd.DataFrame, cohort: Cohort, *, split: str = "external") -> pd.DataFrame:
        """Predict new patients; nothing is refitted.

        Parameters
        ----------
        features : DataFrame
            Index ``case_id``, with the columns that the model was fitted on.
        cohort : Cohort
            The patients. The outcome may be missing: such cases are left out of the predictions table.
        split : {"external", "train"}
            ``"train"`` allows patients that the model was trained on.

        Returns
        -------
        DataFrame
            Predictions, see :data:`hybrid.tables.PREDICTION_COLUMNS`. A model that harmonises adds ``harmonised``:
            False for patients of a batch that training patients did not have, whose features stay as they are.

        Raises
        ------
        LeakageError
            When a patient was among the training patients and ``split`` is not ``"train"``.
        InputError
            When a column is missing, or no case has an outcome; for a new batch when the model was declared with
            ``unseen_batch="error"``.
        """
        seen = [case for case in cohort if hashed_patient(case.patient_id) in set(self.card["patients"])]
        if seen and split != "train":
            raise LeakageError(
                f"{len(seen)} of {len(cohort)} cases belong to patients that the model was trained on, the first is "
                f"case {seen[0].case_id}.",
                advice='Leave them out, or ask for split="train" to see the apparent performance.',
            )
        study = prepare_table(
            features, cohort, covariates=self.card["covariates"], positive=self.card["positive"], need_both=False,
            harmonise=self.batch_column,
        )  # fmt: skip
        self._require_columns(study.table)
        table = {
            "case_id": study.cases, "patient_id": study.patients, "feature_set": self.card["feature_set"],
            "classifier": SELECTED, "split": split, "repeat": 0, "fold": 0, "y_true": study.y,
            "y_prob": self.fitted.predict(study.table), "threshold": self.fitted.threshold,
            "chosen": self.card["chosen"],
        }  # fmt: skip
        if study.regions is not None:
            table["lesion_id"] = study.regions.astype(str)
        if self.batch_column is not None:
            table["harmonised"] = self._harmonised(study)
        predictions = check_predictions(pd.DataFrame(table))
        predictions.attrs["left_out"] = study.left_out.to_dict("records")
        return predictions

    @property
    def batch_column(self) -> str | None:
        """Column of the cohort that names the batch, None without harmonisation."""
        name = self.card["settings"].get("harmonise")
        return None if name is None else str(name)

    def _harmonised(self, study: StudyTable) -> np.ndarray:
        """Whether each row was adjusted; batches that the model does not know are logged."""
        adjusted = self.fitted.is_harmonised(study.table)
        if not adjusted.all():
            names = sorted(set(study.table.loc[~adjusted, BATCH_COLUMN]))
            logger.warning(
                "%d of %d rows are not harmonised: the model cannot adjust %s %s.",
                int((~adjusted).sum()), len(adjusted), self.batch_column, ", ".join(map(repr, names)),
            )  # fmt: skip
        return adjusted

    def _require_columns(self, table: pd.DataFrame) -> None:
        missing = [column for part in self.fitted.parts for column in part.columns if column not in table.columns]
        if missing:
            raise InputError(
                f"The feature table lacks {len(missing)} columns that the model was fitted on, the first is "
                f"{missing[0]!r}.",
                advice="Extract with the settings of the model (study.yaml in its folder).",
            )

    def save(self, folder: str | Path) -> Path:
        """Write ``classifier.skops`` and ``model.json``; return the folder."""
        content = {
            "prefixes": list(self.fitted.prefixes),
            "estimators": list(self.fitted.estimators),
            "stacker": self.fitted.stacker,
        }
        return FILES.write(folder, content, self.card)


def fit_model(
    features: pd.DataFrame,
    cohort: Cohort,
    *,
    feature_set: str | FeatureSets = "handcrafted",
    classifiers: Iterable[Any] | Mapping[str, Any] = DEFAULT_CLASSIFIERS,
    covariates: Sequence[str] = (),
    folds: int = 5,
    inner_folds: int = 3,
    seed: int = 0,
    positive: Any = None,
    max_correlation: float = MAX_CORRELATION,
    max_features: int = MAX_FEATURES,
    min_icc: float = MIN_ICC,
    calibration: str | None = None,
    selector: str | None = None,
    harmonise: str | None = None,
    unseen_batch: str = "unadjusted",
    imbalance: str | None = None,
) -> FrozenModel:
    """Fit the declared pipeline on all patients: what :func:`cross_validate` estimated the performance of.

    Classifier and hyper-parameters, cut-off and calibration are chosen by inner cross-validation over all patients,
    exactly as inside a training fold.

    Parameters
    ----------
    feature_set : str or mapping of one name
        See :func:`hybrid.fusion.resolve_feature_sets`.
    folds : int
        Of the evaluation; recorded only.
    features, cohort, classifiers, covariates, inner_folds, seed, positive, max_correlation, max_features, calibration
        See :func:`hybrid.pipelines.cross_validate`.
    min_icc, selector, harmonise, unseen_batch, imbalance
        See :func:`hybrid.pipelines.cross_validate`.

    Returns
    -------
    FrozenModel
        To be saved, and applied to new patients.

    Raises
    ------
    InputError
        See :func:`hybrid.pipelines.cross_validate`.
    """
    study = prepare_table(features, cohort, covariates=covariates, positive=positive, harmonise=harmonise)
    wanted = [feature_set] if isinstance(feature_set, str) else feature_set
    sets = resolve_feature_sets(wanted, feature_columns(study.table), clinical_columns(study.table))
    if len(sets) != 1:
        raise InputError(f"A frozen model has one feature set; found {', '.join(sets)}.", advice="Name one.")
    options: dict[str, Any] = {
        "selector": selector,
        "harmonise": harmonise,
        "unseen_batch": unseen_batch,
        "imbalance": imbalance,
    }
    limits: dict[str, Any] = {"max_correlation": max_correlation, "max_features": max_features}
    settings = Settings(
        classifiers=resolve_classifiers(classifiers), inner_folds=inner_folds, calibration=calibration,
        categorical=study.categorical, min_icc=min_icc, **limits, **options,
    )  # fmt: skip
    settings.check()
    name = next(iter(sets))
    fitted = fit_models(study.table, study.y, study.patients, sets, settings, seed)[name, SELECTED]
    card = {
        "format": 1,
        "feature_set": name,
        "chosen": fitted.chosen,
        "parts": [{"blocks": part.blocks, "clinical": part.clinical} for part in fitted.parts],
        "selected_features": [prefix.get_feature_names_out().tolist() for prefix in fitted.prefixes],
        "threshold": fitted.threshold,
        "calibration": {"intercept": fitted.recalibration.intercept, "slope": fitted.recalibration.slope},
        "inner_auc": fitted.inner_auc,
        "covariates": list(covariates),
        "positive": positive,
        "settings": {
            "classifiers": list(settings.classifiers), "inner_folds": inner_folds, "folds": folds, "seed": seed,
            "calibration": calibration, "min_icc": min_icc, **limits, **options,
        },
        "in_fold": fold_facts(**limits, **options),
        "n_patients": len(set(study.patients)),
        "n_events": int(study.y.sum()),
        "patients": sorted(hashed_patient(patient) for patient in set(study.patients)),
        "versions": versions(),
        "code_version": code_version(),
    }  # fmt: skip
    return FrozenModel(fitted, card)


def load_model(folder: str | Path) -> FrozenModel:
    """Read a model folder; nothing in it is executed.

    Raises
    ------
    InputError
        When a file is missing or changed, or the model holds types that are not trusted; see :class:`ModelFiles`.
    """
    content, card = FILES.read(folder)
    parts = tuple(
        FeatureSet("", tuple(tuple(block) for block in part["blocks"]), "early", tuple(part["clinical"]))
        for part in card["parts"]
    )
    fitted = Fitted(
        tuple(content["prefixes"]), tuple(content["estimators"]), parts, content["stacker"], card["chosen"],
        card["inner_auc"], card["threshold"], Recalibration(**card["calibration"]), np.empty(0),
    )  # fmt: skip
    return FrozenModel(fitted, card)


def trained_on(card: Mapping[str, Any], cohort: Cohort) -> Cohort:
    """Give the cases of a cohort whose patients a frozen model was trained on.

    Parameters
    ----------
    card : mapping
        Content of ``model.json``: hashed patients.
    cohort : Cohort
        Said to be the patients of the model.

    Raises
    ------
    InputError
        When patients of the model are not in the cohort.
    """
    own = set(card["patients"])
    found = [case for case in cohort if hashed_patient(case.patient_id) in own]
    lacking = len(own) - len({case.patient_id for case in found})
    if lacking:
        raise InputError(
            f"{lacking} of the {len(own)} patients that the model was fitted on are not in the development cohort.",
            advice="Pass the cohort table that `hybrid fit` was run with.",
        )
    return Cohort(found)


def validate_model(model: FrozenModel, features: pd.DataFrame, cohort: Cohort) -> pd.DataFrame:
    """Predictions of a frozen model for new patients; see :meth:`FrozenModel.predict`."""
    return model.predict(features, cohort, split="external")
