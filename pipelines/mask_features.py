"""Features measured twice, from a reference mask and from a predicted one, and how far they agree."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import pandas as pd

from hybrid.analysis.reliability import concordance, icc, limits_of_agreement, stack_raters
from hybrid.cases import Case, Cohort
from hybrid.errors import InputError
from hybrid.files import write_csv
from hybrid.images import read_mask, to_array
from hybrid.tables import DEEP_PREFIX, HANDCRAFTED_PREFIX, REPEAT_SUFFIX

from .extract import extract_features

logger = logging.getLogger(__name__)

SOURCES: Final = ("reference", "predicted")
KIND: Final = "ICC(2,1)"
FEWEST_PAIRS: Final = 3
"""Cases with both measurements that an agreement needs."""


@dataclass(frozen=True)
class BothMasks:
    """Features of both masks.

    Attributes
    ----------
    reference, predicted : DataFrame
        Index ``case_id``; a case without this mask, or whose extraction failed, has no row.
    agreement : DataFrame
        ICC(2,1) with interval of every feature over the cases with both, see :func:`hybrid.analysis.icc`; then Lin's
        ``ccc, ccc_lower, ccc_upper`` (:func:`hybrid.analysis.concordance`), ``bias, lower_limit, upper_limit`` of
        predicted minus reference (:func:`hybrid.analysis.limits_of_agreement`) and ``block`` (``handcrafted`` or
        ``deep``).
    missing : DataFrame
        ``case_id, source, reason``: measurements that are not there.
    """

    reference: pd.DataFrame = field(repr=False)
    predicted: pd.DataFrame = field(repr=False)
    agreement: pd.DataFrame
    missing: pd.DataFrame

    def of(self, source: str) -> pd.DataFrame:
        """Features from one source, each with the other measurement as ``<name>__repeat``.

        Parameters
        ----------
        source : {"reference", "predicted"}
            Whose measurement a model is fitted on; the other one only tells which features agree.
        """
        first, second = (self.reference, self.predicted) if source == SOURCES[0] else (self.predicted, self.reference)
        return join_measurements(first, second)


def join_measurements(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """Put a second measurement beside the first one.

    Parameters
    ----------
    first, second : DataFrame
        Feature tables with the same columns, index ``case_id``.

    Returns
    -------
    DataFrame
        Rows of ``first``; a column ``<name>__repeat`` beside each, NaN where a case was not measured again. Inside a
        fold :class:`hybrid.selection.RepeatFilter` compares the two and drops the repeats.

    Raises
    ------
    InputError
        When the columns differ.
    """
    different = first.columns.symmetric_difference(second.columns)
    if len(different):
        raise InputError(
            f"The two measurements differ in {len(different)} features; the first is {different[0]!r}.",
            advice="Extract both with the same settings.",
        )
    repeats = second.reindex(index=first.index, columns=first.columns).add_suffix(REPEAT_SUFFIX)
    return pd.concat([first, repeats], axis=1)


def features_of_both_masks(
    cohort: Cohort,
    predicted: Cohort,
    *,
    label: int | None = None,
    handcrafted: Any = "ct",
    encoder: str | Path | None = "bundled",
    out: str | Path,
    **work: Any,
) -> BothMasks:
    """Measure every case in its reference mask and in its predicted one.

    Parameters
    ----------
    cohort : Cohort
        Images with reference masks.
    predicted : Cohort
        The same images with predicted masks, for example from :func:`hybrid.pipelines.segment_cohort`.
    label : int, optional
        Label of the mask to measure; by default each case's own ``roi_label``.
    handcrafted, encoder
        See :func:`hybrid.pipelines.extract_features`.
    out : path-like
        Folder for ``reference/``, ``predicted/`` (features, failures, cache), ``agreement.csv`` and ``missing.csv``.
    **work
        ``n_jobs``, ``backend``, ``progress``; see :func:`hybrid.pipelines.run_tasks`.

    Returns
    -------
    BothMasks
        A predicted mask without the label is listed in ``missing``, not an error: the network did not find it.

    Raises
    ------
    InputError
        When fewer than three cases can be measured twice.
    """
    out, tables, missing = Path(out), [], []
    for source, cases in zip(SOURCES, (cohort, predicted), strict=True):
        there = [_with_label(case, label) for case in cases if _mask_has(case, label)]
        absent = sorted({case.case_id for case in cohort} - {case.case_id for case in there})
        missing += [(name, source, "no mask, or none with the label") for name in absent]
        if not there:
            raise InputError(f"No {source} mask holds the label {label}.", advice="Which label is the lesion's?")
        table = extract_features(Cohort(there), handcrafted=handcrafted, encoder=encoder, out=out / source, **work)
        failed = table.index[table.isna().all(axis=1)]
        missing += [(str(name), source, "extraction failed, see failures.csv") for name in failed]
        tables.append(table.drop(index=failed))
    agreement = _agreement(*tables)
    lost = pd.DataFrame(missing, columns=["case_id", "source", "reason"])
    write_csv(agreement, out / "agreement.csv")
    write_csv(lost, out / "missing.csv")
    for source, names in lost.groupby("source")["case_id"]:
        logger.warning("%d case(s) without features of the %s mask: %s", len(names), source, ", ".join(names))
    return BothMasks(tables[0], tables[1], agreement, lost)


def _agreement(reference: pd.DataFrame, predicted: pd.DataFrame) -> pd.DataFrame:
    both = reference.index.intersection(predicted.index)
    if len(both) < FEWEST_PAIRS:
        raise InputError(
            f"Only {len(both)} case(s) have features of both masks; agreement needs {FEWEST_PAIRS}.",
            advice="Look at the predicted masks and at failures.csv.",
        )
    columns = [name for name in reference.columns if name.startswith((HANDCRAFTED_PREFIX, DEEP_PREFIX))]
    ratings, names = stack_raters([table.loc[both, columns] for table in (reference, predicted)])
    table = icc(ratings, features=names, kinds=(KIND,), missing="drop")
    lin = concordance(ratings, features=names, missing="drop")
    table = table.assign(ccc=lin["ccc"], ccc_lower=lin["lower"], ccc_upper=lin["upper"])
    limits = limits_of_agreement(ratings, features=names, missing="drop")
    table = table.assign(**{name: limits[name] for name in ("bias", "lower_limit", "upper_limit")})
    blocks = ["handcrafted" if str(name).startswith(HANDCRAFTED_PREFIX) else "deep" for name in table["feature"]]
    return table.assign(block=blocks)


def _with_label(case: Case, label: int | None) -> Case:
    return case if label is None else replace(case, roi_label=label)


def _mask_has(case: Case, label: int | None) -> bool:
    wanted = case.roi_label if label is None else label
    for path in case.masks.values():
        values = to_array(read_mask(path, case_id=case.case_id))
        if not (values > 0).any() if wanted is None else not (values == wanted).any():
            return False
    return bool(case.masks)
