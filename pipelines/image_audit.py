"""A look at the files before an image classifier is trained: facts that alone predict the label."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pandas as pd

from hybrid.analysis.shortcut_audit import audit_shortcuts
from hybrid.files import write_csv

logger = logging.getLogger(__name__)

SHORTCUTS: Final = "shortcuts.csv"
TEST_SETS: Final = ("test", "external")


def audit_images(images: pd.DataFrame, facts: Mapping[str, Mapping[str, Any]], out: Path, *, seed: int) -> pd.DataFrame:
    """Audit the images that a classifier may learn from, warn of shortcuts and write ``shortcuts.csv``.

    Parameters
    ----------
    images : DataFrame
        ``id``, ``label``, ``patient_id``, ``split`` (test patients are left out) and ``site``.
    facts : mapping of str to mapping
        Facts of each image, see :func:`hybrid.shortcuts.image_facts`.
    out : Path
        Folder of the model.
    seed : int
        Of the folds.

    Returns
    -------
    DataFrame
        See :func:`hybrid.analysis.shortcut_audit.audit_shortcuts`; empty where a class has one patient only, of whom
        nothing can be said.
    """
    own = images[~images["split"].isin(TEST_SETS)] if "split" in images else images
    own = own.reset_index(drop=True)
    if own.groupby("label")["patient_id"].nunique().min() < 2 or own["label"].nunique() < 2:
        logger.warning("Shortcuts were not looked for: a class has one patient only.")
        return pd.DataFrame()
    table = pd.DataFrame([dict(facts[name]) for name in own["id"]])
    if "site" in own and own["site"].notna().any():
        table = table.assign(site=own["site"])
    found = audit_shortcuts(table, own["label"], own["patient_id"], seed=seed)
    write_csv(found, out / SHORTCUTS)
    for row in found[found["flagged"]].to_dict("records"):
        logger.warning(
            "Shortcut: %s alone tells %s from the rest with an AUC of %.2f (%.2f to %.2f). %s",
            row["fact"], row["class"], row["auc"], row["low"], row["high"], row["remedy"],
        )  # fmt: skip
    return found
