"""Features, covariates, batches and outcomes joined into the one table that models are fitted on."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from hybrid.cases import Cohort
from hybrid.errors import InputError, unknown_name
from hybrid.fold_options import BATCH_COLUMN
from hybrid.tables import CLINICAL_PREFIX, check_features

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StudyTable:
    """Features, covariates and outcomes of the cases that can be evaluated.

    Attributes
    ----------
    table : DataFrame
        One row per case (or region): feature columns, then ``clin_`` columns, then
        :data:`~hybrid.fold_options.BATCH_COLUMN` where a batch was asked for.
    cases, patients : ndarray of str
        Identifiers of the rows.
    regions : ndarray of int or None
        ``roi_label`` of the rows when cases have several.
    y : ndarray of int
        1 for the positive class.
    categorical : tuple of str
        Clinical columns that hold categories.
    left_out : DataFrame
        ``case_id, reason``: cases without outcome or features. None is lost silently.
    """

    table: pd.DataFrame = field(repr=False)
    cases: np.ndarray
    patients: np.ndarray
    regions: np.ndarray | None
    y: np.ndarray
    categorical: tuple[str, ...]
    left_out: pd.DataFrame


def prepare_table(
    features: pd.DataFrame,
    cohort: Cohort,
    *,
    covariates: Sequence[str] = (),
    positive: Any = None,
    need_both: bool = True,
    harmonise: str | None = None,
) -> StudyTable:
    """Join features, covariates and outcomes; say what is left out.

    Parameters
    ----------
    features, cohort, covariates, positive
        See :func:`hybrid.pipelines.cross_validate`.
    need_both : bool
        Whether both outcomes must occur (a model is to be fitted).
    harmonise : str, optional
        ``"site"`` or a column of the cohort: its values become the column that names the batch.

    Returns
    -------
    StudyTable
        Rows in the order of the cohort.

    Raises
    ------
    InputError
        When ids do not match, a covariate is unknown, the outcome is not binary, or a case has no batch.
    """
    cohort.require_unique_ids()
    table = check_features(features)
    known = {case.case_id for case in cohort}
    ids = table.index.get_level_values("case_id")
    for case_id in ids:
        if case_id not in known:
            error = unknown_name("case", case_id, known)
            raise InputError(
                f"The feature table has case {case_id!r}, which is not in the cohort.", advice=error.advice
            )
    outcome = _binary(cohort, positive, need_both)
    reasons = {case.case_id: "no row in the feature table" for case in cohort if case.case_id not in set(ids)}
    reasons |= dict.fromkeys(outcome.index[outcome.isna()], "no outcome")
    usable = table.notna().any(axis=1).to_numpy() & outcome.reindex(ids).notna().to_numpy()
    failed = set(ids[~table.notna().any(axis=1).to_numpy()]) - set(ids[usable])
    reasons |= {case_id: "no features (extraction failed)" for case_id in ids if case_id in failed}
    left_out = pd.DataFrame(sorted(reasons.items()), columns=["case_id", "reason"])
    if len(left_out):
        logger.warning("%d case(s) left out: %s", len(left_out), "; ".join(f"{c} ({r})" for c, r in reasons.items()))
    order = {case.case_id: i for i, case in enumerate(cohort)}
    rows = sorted(np.flatnonzero(usable), key=lambda i: (order[ids[i]], str(table.index[i])))
    chosen = table.iloc[rows]
    cases = chosen.index.get_level_values("case_id").to_numpy().astype(str)
    clinical, categorical = _clinical(cohort, cases, covariates)
    batches = [] if harmonise is None else [prepare_batches(cohort, cases, harmonise)]
    joined = pd.concat([chosen.reset_index(drop=True), clinical, *batches], axis=1)
    joined.columns = joined.columns.astype(object)  # scikit-learn asks for every name by itself: slow with Arrow text
    y = outcome.reindex(cases).to_numpy(dtype=np.int64)
    if len(np.unique(y)) < 1 + need_both:
        raise InputError(
            f"The {len(y)} usable cases do not show both outcomes.", advice="See above which cases are left out."
        )
    if harmonise is not None and need_both:
        _refuse_confounded(joined[BATCH_COLUMN], y, harmonise)
    regions = chosen.index.get_level_values("roi_label").to_numpy() if chosen.index.nlevels > 1 else None
    patients = np.asarray([cohort[case_id].patient_id for case_id in cases])
    return StudyTable(joined, cases, patients, regions, y, categorical, left_out)


def _binary(cohort: Cohort, positive: Any, need_both: bool) -> pd.Series:
    """Outcomes as 1 and 0, NaN where missing."""
    outcomes = cohort.outcomes
    classes = sorted(outcomes.dropna().unique(), key=str)
    names = ", ".join(map(repr, classes))
    if not classes:
        raise InputError("The cohort has no outcomes.", advice="Fill the 'outcome' column.")
    if len(classes) > 2:
        raise InputError(
            f"The outcome has {len(classes)} classes: {names}; expected two.",
            advice="Only binary outcomes can be evaluated; join classes, or leave cases out.",
        )
    if len(classes) == 1 and need_both:
        raise InputError(f"Every case has the outcome {names}.", advice="Nothing can be predicted.")
    if positive is None:
        if not set(classes) <= {0, 1}:
            raise InputError(f"The outcome has the classes {names}.", advice="Name the positive one: positive=...")
        positive = 1
    match = [value for value in classes if value == positive or str(value) == str(positive)]
    if not match and need_both:
        raise unknown_name("positive outcome", positive, classes)
    return outcomes.map(lambda value: np.nan if value is None else float(value in match)).astype(float)


def feature_columns(table: pd.DataFrame) -> list[str]:
    """Feature columns of a joined table: all but the clinical ones and the batch."""
    return [column for column in table.columns if column != BATCH_COLUMN and not column.startswith(CLINICAL_PREFIX)]


def clinical_columns(table: pd.DataFrame) -> tuple[str, ...]:
    """Clinical columns of a joined table."""
    return tuple(column for column in table.columns if column.startswith(CLINICAL_PREFIX))


def _clinical(cohort: Cohort, cases: np.ndarray, covariates: Sequence[str]) -> tuple[pd.DataFrame, tuple[str, ...]]:
    columns, categorical = {}, []
    for name in covariates:
        values = _cohort_values(cohort, cases, name, "covariate")
        column = f"{CLINICAL_PREFIX}{name}"
        if all(value is None or isinstance(value, (int, float)) for value in values):
            columns[column] = pd.Series([np.nan if value is None else float(value) for value in values])
        else:
            columns[column] = pd.Series(["missing" if value is None else str(value) for value in values], dtype=object)
            categorical.append(column)
    return pd.DataFrame(columns, index=range(len(cases))), tuple(categorical)


def _cohort_values(cohort: Cohort, cases: Iterable[str], name: str, what: str) -> list[Any]:
    """Site or covariate of each row; None where it is missing."""
    available = {name for case in cohort for name in case.covariates} | {"site"}
    if name not in available:
        raise unknown_name(what, name, available)
    return [cohort[case].site if name == "site" else cohort[case].covariates.get(name) for case in cases]


def _refuse_confounded(batches: pd.Series, y: np.ndarray, name: str) -> None:
    """Raise when every batch has one outcome: no adjustment can tell the two apart."""
    by_batch = pd.Series(y).groupby(batches.to_numpy()).nunique()
    if len(by_batch) > 1 and (by_batch == 1).all():
        raise InputError(
            f"Every value of {name!r} has one outcome only: harmonisation would remove the outcome with it.",
            advice="Without patients of both outcomes in a batch, such data cannot answer the question.",
        )


def prepare_batches(cohort: Cohort, cases: Iterable[str], name: str) -> pd.Series:
    """Batch of each row as text; 3 and 3.0 are the same batch.

    Parameters
    ----------
    cohort : Cohort
        The cases.
    cases : iterable of str
        Case of each row.
    name : str
        ``"site"`` or a column of the cohort.

    Raises
    ------
    InputError
        For an unknown column, or a case without a batch.
    """
    labels = []
    cases = list(cases)
    for case, value in zip(cases, _cohort_values(cohort, cases, name, "column to harmonise"), strict=True):
        if value is None or value == "" or value != value:
            raise InputError(
                f"Column {name!r} must name the batch of every case; it is empty.",
                advice="Look the scanner or site up, leave the case out, or leave harmonisation out.",
                case_id=str(case),
            )
        is_whole = isinstance(value, float) and value.is_integer()
        labels.append(str(int(value)) if is_whole else str(value))
    return pd.Series(labels, name=BATCH_COLUMN, dtype=object)
