"""Feature sets by name: handcrafted, deep, early fusion, late fusion, stacking, with or without clinical columns."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from sklearn.linear_model import LogisticRegression

from .errors import InputError, unknown_name
from .tables import CLINICAL_PREFIX, DEEP_PREFIX, HANDCRAFTED_PREFIX

INFOLD_PREFIX: Final = "deep_infold_"
"""Columns of an encoder that is trained inside the fold."""

CLINICAL_SUFFIX: Final = "+clinical"

Fusion = Literal["early", "late", "stacking"]

NAMED_SETS: Final[dict[str, tuple[tuple[str, ...], Fusion]]] = {
    "handcrafted": ((HANDCRAFTED_PREFIX,), "early"),
    "deep": ((DEEP_PREFIX,), "early"),
    "fused": ((HANDCRAFTED_PREFIX, DEEP_PREFIX), "early"),
    "early": ((HANDCRAFTED_PREFIX, DEEP_PREFIX), "early"),
    "late": ((HANDCRAFTED_PREFIX, DEEP_PREFIX), "late"),
    "stacking": ((HANDCRAFTED_PREFIX, DEEP_PREFIX), "stacking"),
    "clinical": ((), "early"),
    "deep_infold": ((INFOLD_PREFIX,), "early"),
    "fused_infold": ((HANDCRAFTED_PREFIX, INFOLD_PREFIX), "early"),
}
"""Feature sets by name: the column prefixes of their blocks, and how the blocks are joined."""


@dataclass(frozen=True)
class FeatureSet:
    """What a model may look at.

    Attributes
    ----------
    name : str
        Name in tables.
    blocks : tuple of tuple of str
        Columns of each block. Blocks are reduced separately, so that a thousand handcrafted columns do not drown a
        hundred deep ones.
    fusion : {"early", "late", "stacking"}
        ``"early"`` joins the reduced columns, ``"late"`` averages the probabilities of one model per block,
        ``"stacking"`` weighs them by a logistic model fitted on out-of-fold probabilities of training patients.
    clinical : tuple of str
        Clinical columns, added to every block's model without selection.
    """

    name: str
    blocks: tuple[tuple[str, ...], ...]
    fusion: Fusion = "early"
    clinical: tuple[str, ...] = ()

    @property
    def parts(self) -> tuple[FeatureSet, ...]:
        """The set itself for early fusion, one set per block otherwise."""
        if self.fusion == "early":
            return (self,)
        return tuple(
            FeatureSet(f"{self.name}:{i}", (block,), "early", self.clinical) for i, block in enumerate(self.blocks)
        )

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns of all blocks and the clinical ones."""
        return (*(column for block in self.blocks for column in block), *self.clinical)

    @property
    def infold(self) -> bool:
        """Whether it needs an encoder that is trained inside the fold."""
        return any(column.startswith(INFOLD_PREFIX) for column in self.columns)


def resolve_feature_sets(
    feature_sets: Iterable[str] | Mapping[str, str | Sequence[str]],
    columns: Iterable[str],
    clinical: Sequence[str] = (),
) -> dict[str, FeatureSet]:
    """Turn names and column patterns into columns.

    Parameters
    ----------
    feature_sets : iterable of str, or mapping
        Names of :data:`NAMED_SETS`, with ``"+clinical"`` appended to add the clinical columns; or a mapping of your
        own name to such a name, or to a list of column names and shell patterns.
    columns : iterable of str
        Columns of the feature table.
    clinical : sequence of str
        Clinical columns, with their prefix.

    Returns
    -------
    dict of str to FeatureSet
        In the order given.

    Raises
    ------
    InputError
        For an unknown name or pattern (with the nearest valid one), or a set without columns.
    """
    columns = list(columns)
    wanted = feature_sets if isinstance(feature_sets, Mapping) else {name: name for name in feature_sets}
    if not wanted:
        raise InputError("No feature set was given.", advice=f"Choose from {', '.join(NAMED_SETS)}.")
    return {
        name: _named(name, what, columns, clinical) if isinstance(what, str) else _listed(name, what, columns, clinical)
        for name, what in wanted.items()
    }


def _named(name: str, what: str, columns: list[str], clinical: Sequence[str]) -> FeatureSet:
    base = what.removesuffix(CLINICAL_SUFFIX)
    if base not in NAMED_SETS:
        raise unknown_name("feature set", what, [*NAMED_SETS, *(f"{key}{CLINICAL_SUFFIX}" for key in NAMED_SETS)])
    prefixes, fusion = NAMED_SETS[base]
    needs_clinical = base == "clinical" or what.endswith(CLINICAL_SUFFIX)
    if needs_clinical and not clinical:
        raise InputError(f"Feature set {what!r} needs clinical columns.", advice="Name them with covariates=[...].")
    blocks = tuple(_block(what, prefix, columns) for prefix in prefixes)
    return FeatureSet(name, blocks, fusion, tuple(clinical) if needs_clinical else ())


def _block(what: str, prefix: str, columns: list[str]) -> tuple[str, ...]:
    block = tuple(
        column
        for column in columns
        if column.startswith(prefix) and (prefix == INFOLD_PREFIX or not column.startswith(INFOLD_PREFIX))
    )
    if not block:
        kinds = {HANDCRAFTED_PREFIX: "handcrafted", DEEP_PREFIX: "deep", INFOLD_PREFIX: "in-fold"}
        advice = "Give encoder= a factory." if prefix == INFOLD_PREFIX else "Extract them, or leave the set out."
        raise InputError(
            f"Feature set {what!r} needs {kinds[prefix]} features, of which the table has none.", advice=advice
        )
    return block


def _listed(name: str, patterns: Sequence[str], columns: list[str], clinical: Sequence[str]) -> FeatureSet:
    chosen: dict[str, None] = {}
    for pattern in patterns:
        matches = fnmatch.filter([*columns, *clinical], pattern)
        if not matches:
            raise unknown_name(f"column in feature set {name!r}:", pattern, [*columns, *clinical])
        chosen |= dict.fromkeys(matches)
    block = tuple(column for column in chosen if not column.startswith(CLINICAL_PREFIX))
    return FeatureSet(
        name, (block,) if block else (), "early", tuple(c for c in chosen if c.startswith(CLINICAL_PREFIX))
    )


def logit(probabilities: np.ndarray) -> np.ndarray:
    """Log-odds, with probabilities kept 1e-6 away from 0 and 1."""
    clipped = np.clip(probabilities, 1e-6, 1 - 1e-6)
    return np.log(clipped / (1 - clipped))


def fit_stacker(out_of_fold: np.ndarray, y: np.ndarray) -> LogisticRegression:
    """Logistic model on the log-odds of each block's out-of-fold probabilities.

    Parameters
    ----------
    out_of_fold : ndarray of shape (n, blocks)
        Of training patients.
    y : ndarray of shape (n,)
        Their outcomes, 0 or 1.
    """
    return LogisticRegression(C=1.0).fit(logit(out_of_fold), y)


def combine(probabilities: np.ndarray, stacker: LogisticRegression | None) -> np.ndarray:
    """One probability per row from those of the blocks, shape (n, blocks): the mean, or what the stacker says."""
    if stacker is None:
        return probabilities.mean(axis=1)
    return stacker.predict_proba(logit(probabilities))[:, 1]
