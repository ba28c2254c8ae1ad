"""All models of one cross-validation as one family: tests over its folds, and ranks over its patients.

Folds share training patients, so that differences over folds go to the corrected resampled t-test (Nadeau and Bengio
2003) and its Bayesian reading (Benavoli et al. 2017). Friedman's test needs independent blocks: here patients, each
with the squared error of the averaged probability of every model. That all patients were predicted by models with
overlapping training sets is ignored by it, and said.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pandas as pd

from hybrid.errors import InputError
from hybrid.tables import SELECTED, check_predictions

from .compare import is_reference
from .many_models import bayesian_correlated_t, corrected_resampled_t, friedman
from .multiplicity import Method, adjust
from .panel import Model, Panel, label
from .roc import auc

ROPE: Final = 0.02
"""Half width of the region of practical equivalence, in units of the AUC: smaller differences change no decision."""

FAMILY_COLUMNS: Final = (
    "model_a", "model_b", "feature_set_a", "classifier_a", "feature_set_b", "classifier_b", "difference", "lower",
    "upper", "t", "df", "p", "p_holm", "p_hochberg", "p_benjamini_hochberg", "n_comparisons", "p_a_better",
    "p_equivalent", "p_b_better", "rope", "n_folds", "n_folds_left_out", "n_train", "n_test", "method",
)  # fmt: skip
"""Columns of the table that :func:`compare_family` returns."""

ADJUSTMENTS: Final[tuple[Method, ...]] = ("holm", "hochberg", "benjamini_hochberg")
"""Adjustments of the whole family: two of the family-wise error, one of the false discovery rate."""

FRIEDMAN_COLUMNS: Final = (
    "model", "feature_set", "classifier", "mean_rank", "mean_squared_error", "f", "df1", "df2", "p", "chi2", "p_chi2",
    "n_blocks", "n_models", "method",
)  # fmt: skip
"""Columns of the table that :func:`rank_models` returns."""


def family_pairs(models: Sequence[Model], contrast: Sequence[tuple[str, str]]) -> list[tuple[Model, Model]]:
    """List the comparisons of one family: every declared pair of feature sets, with each classifier.

    Parameters
    ----------
    models : sequence of (str, str)
        Feature sets and classifiers that there are.
    contrast : sequence of (str, str)
        Pairs of feature sets, declared beforehand.

    Returns
    -------
    list of (model, model)
        Within one classifier each. The classifier chosen in the inner loop has a family of its own, the declared
        comparison; it is used here only where there is no other.
    """
    names = list(dict.fromkeys(name for _, name in models))
    names = [name for name in names if name != SELECTED] or names
    pairs = [((a, name), (b, name)) for name in names for a, b in contrast]
    return [pair for pair in pairs if set(pair) <= set(models)]


def compare_family(
    predictions: pd.DataFrame,
    pairs: Sequence[tuple[Model, Model]],
    *,
    rope: float = ROPE,
    level: float = 0.95,
    split: str | None = None,
) -> pd.DataFrame:
    """Compare pairs of models by the AUC of each test fold; Holm, Hochberg and Benjamini-Hochberg over all pairs.

    Parameters
    ----------
    predictions : DataFrame
        See :func:`hybrid.tables.check_predictions`; two test folds or more.
    pairs : sequence of (model, model)
        The family; see :func:`family_pairs`.
    rope : float
        Half width of the region of practical equivalence.
    level : float
        Confidence level.
    split : str, optional
        See :func:`hybrid.analysis.evaluate_models`.

    Returns
    -------
    DataFrame
        Columns :data:`FAMILY_COLUMNS`, one row per pair. ``difference`` is the mean over folds of the AUC of a minus
        that of b; ``lower`` and ``upper`` are both the corrected interval and the credible one. Folds in which one
        outcome is missing have no AUC and are left out; a pair with fewer than two folds has NaN and still counts in
        the family.

    Raises
    ------
    InputError
        For a model without predictions, or predictions of one fold.
    """
    panel = Panel.from_predictions(predictions, split=split)
    table = check_predictions(predictions)
    areas = _fold_areas(table[table["split"] == panel.split])
    for model in {model for pair in pairs for model in pair}:
        panel.position(model)
    n_splits = int(table.groupby("repeat")["fold"].nunique().max())
    if n_splits < 2:
        raise InputError("Tests over folds need two folds or more; found 1.", advice="Use the predictions of a study.")
    n_test = max(1, round(panel.n_patients / n_splits))
    sizes = {"n_train": panel.n_patients - n_test, "n_test": n_test}
    rows = [_family_row(areas, a, b, sizes, rope, level) for a, b in pairs]
    found = pd.DataFrame(rows, columns=list(FAMILY_COLUMNS))
    for method in ADJUSTMENTS:
        found[f"p_{method}"] = adjust(found["p"].to_numpy(dtype=np.float64), method).p
    found["n_comparisons"] = len(found)
    return found[list(FAMILY_COLUMNS)]


def _fold_areas(table: pd.DataFrame) -> pd.DataFrame:
    """AUC of each model (columns) in each repeat and fold (rows); NaN where a fold has one outcome."""
    keys = ["feature_set", "classifier", "repeat", "fold"]
    areas = {
        key: auc(rows["y_true"], rows["y_prob"]) if rows["y_true"].nunique() == 2 else np.nan
        for key, rows in table.groupby(keys, sort=False)
    }
    return pd.Series(areas, dtype=np.float64).rename_axis(keys).unstack(["feature_set", "classifier"])


def _family_row(
    areas: pd.DataFrame, a: Model, b: Model, sizes: dict[str, int], rope: float, level: float
) -> dict[str, Any]:
    differences = (areas[a] - areas[b]).to_numpy(dtype=np.float64)
    known = differences[np.isfinite(differences)]
    row: dict[str, Any] = {
        "model_a": label(a), "model_b": label(b), "feature_set_a": a[0], "classifier_a": a[1],
        "feature_set_b": b[0], "classifier_b": b[1], "rope": rope, "n_folds": known.size,
        "n_folds_left_out": differences.size - known.size, **sizes,
    }  # fmt: skip
    if known.size < 2:
        return row
    n_train, n_test = sizes["n_train"], sizes["n_test"]
    test = corrected_resampled_t(known, n_train=n_train, n_test=n_test, level=level)
    posterior = bayesian_correlated_t(known, n_train=n_train, n_test=n_test, rope=rope, level=level)
    return row | {
        "difference": test.mean, "lower": test.lower, "upper": test.upper, "t": test.t, "df": test.df, "p": test.p,
        "p_a_better": posterior.p_better, "p_equivalent": posterior.p_equivalent, "p_b_better": posterior.p_worse,
        "method": f"{test.method}; {posterior.method}",
    }  # fmt: skip


def squared_errors(
    predictions: pd.DataFrame, models: Sequence[Model] | None = None, *, split: str | None = None
) -> pd.DataFrame:
    """Squared distance of each model's averaged probability from the outcome of each patient.

    Parameters
    ----------
    predictions, split
        See :func:`compare_family`.
    models : sequence of (str, str), optional
        By default every model that is no yardstick, without the classifier chosen in the inner loop where there are
        three others.

    Returns
    -------
    DataFrame of shape (n_patients, n_models)
        Columns are names of models; for :func:`hybrid.analysis.friedman` and :func:`hybrid.analysis.nemenyi`.

    Raises
    ------
    InputError
        When a patient has rows with different outcomes.
    """
    panel = Panel.from_predictions(predictions, split=split)
    if models is None:
        contenders = [model for model in panel.models if not is_reference(model)]
        own = [model for model in contenders if model[1] != SELECTED]
        models = own if len(own) >= 3 else contenders
    averaged = panel.select(models, common=True).by_patient()
    if averaged is None:
        raise InputError("A patient has rows with different outcomes.", advice="Rank models over patients only.")
    y, probability = averaged
    return pd.DataFrame(((probability - y) ** 2).T, columns=[label(model) for model in models])


def rank_models(errors: pd.DataFrame) -> pd.DataFrame:
    """Test over patients, by Friedman, whether models differ in how close they come to the outcome.

    Parameters
    ----------
    errors : DataFrame
        From :func:`squared_errors`; three models or more.

    Returns
    -------
    DataFrame
        Columns :data:`FRIEDMAN_COLUMNS`, one row per model, the best mean rank first; the test stands in every row.

    Raises
    ------
    InputError
        See :func:`hybrid.analysis.friedman`.
    """
    test = friedman(errors, higher_is_better=False)
    ranks = test.mean_ranks.sort_values(kind="stable")
    names = [str(name).rsplit(" / ", 1) for name in ranks.index]
    columns = (
        ranks.index, [name[0] for name in names], [name[-1] for name in names], ranks.to_numpy(),
        errors.mean()[ranks.index].to_numpy(), test.f, test.df1, test.df2, test.p, test.chi2, test.p_chi2,
        test.n_blocks, test.n_models, test.method,
    )  # fmt: skip
    return pd.DataFrame(dict(zip(FRIEDMAN_COLUMNS, columns, strict=True)))
