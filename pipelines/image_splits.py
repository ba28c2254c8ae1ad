"""Training, tuning and test images: by patient, as declared, at random or in folds."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import pandas as pd

from hybrid.errors import InputError, LeakageError, unknown_name

from .image_tables import EXTERNAL, TEST, TRAIN, TUNING

SplitBy = Literal["patient", "image"]


def make_splits(
    images: pd.DataFrame,
    *,
    ratio: tuple[float, float, float] = (8, 1, 1),
    folds: int | None = None,
    split_by: SplitBy = "patient",
    seed: int = 0,
) -> list[pd.Series]:
    """Split patients into training, tuning and test, stratified by class.

    Parameters
    ----------
    images : DataFrame
        As returned by :func:`image_table`. Rows whose ``split`` is ``external`` stay out; if other rows are declared,
        all must be.
    ratio : tuple of three numbers
        Shares for training, tuning and testing.
    folds : int, optional
        Number of folds, each tested once.
    split_by : {"patient", "image"}
        What must not be torn apart.
    seed : int
        Of the random order.

    Returns
    -------
    list of Series
        One for each fold, or one: ``train``, ``tuning``, ``test`` or ``external`` by image id.

    Raises
    ------
    InputError
        For fewer than two classes, a class with one patient, too many folds, or rows without a declared split.
    LeakageError
        When a declared split tears a patient apart.
    """
    _check_design(ratio, folds, split_by)
    inside = images[images["split"] != EXTERNAL]
    groups = inside["patient_id"] if split_by == "patient" else inside["id"]
    _check_classes(inside, groups, split_by)
    unknown = sorted(set(images["label"]) - set(inside["label"]))
    if unknown:
        raise InputError(f"Only external images have the class {unknown[0]!r}.", advice="Leave these images out.")
    fixed = pd.Series(EXTERNAL, index=images.loc[images["split"] == EXTERNAL, "id"], dtype=object)
    if inside["split"].notna().any():
        if folds is not None:
            raise InputError("The column 'split' fixes the split.", advice="Remove it, or leave out folds.")
        made = [_declared(inside, groups, ratio, split_by, seed)]
    elif folds is not None:
        made = _cross_validation(inside, groups, ratio, folds, seed)
    else:
        # Where a class has two patients only, a test image is worth more than a tuning image.
        made = [_random_split(inside, groups, {TRAIN: ratio[0], TEST: ratio[2], TUNING: ratio[1]}, seed)]
    for split in made:
        _require_all_classes(inside, split)
    return [pd.concat([split, fixed]).reindex(images["id"]) for split in made]


def _check_design(ratio: Sequence[float], folds: int | None, split_by: str) -> None:
    if len(ratio) != 3 or min(ratio) < 0 or ratio[0] <= 0:
        raise InputError(f"Expected ratio=(training, tuning, test) with a share for training; found {tuple(ratio)}.")
    if folds is not None and folds < 2:
        raise InputError(f"Expected at least two folds; found {folds}.")
    if split_by not in ("patient", "image"):
        raise unknown_name("value of 'split_by'", split_by, ("patient", "image"))


def _check_classes(images: pd.DataFrame, groups: pd.Series, split_by: str) -> None:
    counts = groups.groupby(images["label"]).nunique()
    if len(counts) < 2:
        found = ", ".join(f"{name} ({count} {split_by}s)" for name, count in counts.items()) or "none"
        raise InputError(f"A classifier needs at least two classes; found {found}.", advice="Check the column 'label'.")
    single = [str(name) for name, count in counts.items() if count < 2]
    if single:
        raise InputError(
            f"Class {single[0]!r} has one {split_by} only, so that it cannot be both trained and tested"
            + (f" (also {', '.join(single[1:])})." if single[1:] else "."),
            advice="Collect more, merge the class with another, or leave it out.",
        )


def _require_all_classes(images: pd.DataFrame, split: pd.Series) -> None:
    trained = set(images.loc[images["id"].map(split) == TRAIN, "label"])
    absent = sorted(set(images["label"]) - trained)
    if absent:
        raise InputError(
            f"Class {absent[0]!r} has no training images.", advice="Use fewer folds, another seed, or another split."
        )


def _declared(images: pd.DataFrame, groups: pd.Series, ratio: Sequence[float], split_by: str, seed: int) -> pd.Series:
    if images["split"].isna().any():
        raise InputError(
            f"{int(images['split'].isna().sum())} rows have no split although others do.",
            advice="Fill the column 'split' for every row, or for none.",
            case_id=images.loc[images["split"].isna(), "id"].iloc[0],
        )
    if split_by == "patient":
        torn = images.groupby("patient_id")["split"].nunique()
        if (torn > 1).any():
            raise LeakageError(
                f"Patient {torn.index[torn > 1][0]!r} lies in several splits ({int((torn > 1).sum())} patients do).",
                advice="Put all images of a patient into one split.",
            )
    split = pd.Series(images["split"].to_numpy(), index=images["id"], dtype=object)
    if TUNING in set(split) or not ratio[1]:
        return split
    training = images[images["split"] == TRAIN]
    carved = _random_split(training, groups[training.index], {TRAIN: ratio[0], TUNING: ratio[1]}, seed)
    return carved.combine_first(split)


def _cross_validation(
    images: pd.DataFrame, groups: pd.Series, ratio: Sequence[float], folds: int, seed: int
) -> list[pd.Series]:
    from sklearn.model_selection import StratifiedGroupKFold

    if folds > groups.nunique():
        raise InputError(f"Expected at most {groups.nunique()} folds, one patient each; found {folds}.")
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    made = []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class")
        parts = list(splitter.split(images, images["label"], groups))
    for number, (rest, test) in enumerate(parts):
        training = images.iloc[rest]
        split = _random_split(training, groups.iloc[rest], {TRAIN: ratio[0], TUNING: ratio[1]}, seed + number)
        made.append(pd.concat([split, pd.Series(TEST, index=images["id"].iloc[test], dtype=object)]))
    return made


def _random_split(images: pd.DataFrame, groups: pd.Series, shares: Mapping[str, float], seed: int) -> pd.Series:
    """Greedy stratified split of groups; splits earlier in ``shares`` get a patient of a rare class first."""
    used = {name: share for name, share in shares.items() if share > 0}
    counts = pd.crosstab(groups, images["label"]).sort_index()
    order = np.random.default_rng([seed, 23]).permutation(len(counts))
    counts = counts.iloc[order]
    chosen = greedy_split(counts.to_numpy(), np.array(list(used.values())) / sum(used.values()))
    by_group = dict(zip(counts.index, np.array(list(used), dtype=object)[chosen], strict=True))
    return pd.Series(groups.map(by_group).to_numpy(), index=images["id"], dtype=object)


def greedy_split(counts: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Assign groups to splits so that every split gets its share of the images and of the groups of each class.

    Each class is first seen to in every split, in the order of the splits, as far as it has groups. Then groups, those
    with the rarest class and the most images first, go where the squared distance from the wanted shares, divided by
    the share, grows least.

    Parameters
    ----------
    counts : ndarray of int, shape (groups, classes)
        Images of each class in each group; the order of the groups breaks ties.
    shares : ndarray of float, shape (splits,)
        They add up to 1.

    Returns
    -------
    ndarray of int, shape (groups,)
        Number of the split.
    """
    present = counts > 0
    parts = np.concatenate([counts / counts.sum(axis=0), present / present.sum(axis=0)], axis=1)
    chosen = np.full(len(counts), -1)
    rarity = np.argsort(present.sum(axis=0), kind="stable")
    for label in rarity:
        for split in range(len(shares)):
            if not (present[:, label] & (chosen == split)).any():
                free = np.flatnonzero(present[:, label] & (chosen < 0))
                fitting = free[parts[free, label] <= shares[split]]
                if len(free):
                    chosen[fitting[0] if len(fitting) else free[np.argmin(parts[free, label])]] = split
    filled = np.stack([parts[chosen == split].sum(axis=0) for split in range(len(shares))])
    rank = np.argmax(present[:, rarity], axis=1)
    for group in sorted(np.flatnonzero(chosen < 0), key=lambda g: (rank[g], -parts[g].sum())):
        cost = (parts[group] * (parts[group] + 2 * (filled - shares[:, None])) / shares[:, None]).sum(axis=1)
        chosen[group] = int(np.argmin(cost))
        filled[chosen[group]] += parts[group]
    return chosen
