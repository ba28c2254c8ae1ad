"""Second look at the masses of a cascade: a classifier says which candidates are masses, from what is measured on each.

A network judges voxels. Whether a region of them is one lesion, a calyx or a piece of bowel beside the kidney shows in
its size, its density beside that of the kidney, and its place. So a logistic regression on a dozen measurements, their
squares and their products ranks what stage 2 marked (candidates first, then fewer false ones: Setio et al. 2017,
doi:10.1016/j.media.2017.06.015). It learns from patients that the networks did not train on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
from scipy import ndimage

from hybrid.errors import InputError
from hybrid.regions import closed

FEATURES: Final[Mapping[str, str]] = {
    "max_probability": "largest probability of a mass",
    "mean_probability": "mean probability of a mass",
    "log_volume": "logarithm of the volume (mm^3)",
    "density": "mean of the voxels (HU)",
    "density_sd": "their standard deviation (HU)",
    "contrast": "density minus that of the kidney within two voxels (HU); 0 where there is none",
    "kidney_border": "share of the surroundings (two voxels) that is kidney",
    "outside_border": "share of the surroundings that lies outside the kidney and its sinus",
    "sinus_border": "share of the surroundings that lies in the sinus",
    "depth_mm": "mean depth below the surface of the kidney with its sinus (mm)",
    "elongation": "longest by shortest principal axis",
    "fill": "volume by that of the box around it",
}
"""What is measured on a candidate."""

SINUS_MM: Final = 21.0
"""Gaps of a kidney up to twice as wide count as its sinus."""

FALSE_POSITIVES: Final = 1.0
"""False positives a patient that the threshold of the second look allows."""

FEWEST: Final = 20
"""Masses, and other candidates, that a second look needs to learn from."""

LIMIT: Final = 3.0
"""Standard deviations beyond which a measurement counts as this."""

PENALTY: Final = 0.1
"""Inverse strength of the quadratic penalty (``C`` of :class:`sklearn.linear_model.LogisticRegression`); candidates of
patients left out of the fit were ranked alike from 0.06 to 0.3."""

FOLDS: Final = 5
"""Parts of the patients that are left out in turn, to choose the threshold."""

SURROUNDINGS: Final = 2
"""Voxels around a candidate whose tissue is measured."""

_CROSS: Final = ndimage.generate_binary_structure(3, 1)


def measure_candidates(
    numbers: np.ndarray,
    organ: np.ndarray,
    probability: np.ndarray,
    values: np.ndarray,
    spacing: Sequence[float],
) -> pd.DataFrame:
    """Measure numbered candidates.

    Parameters
    ----------
    numbers : ndarray of int, shape (z, y, x)
        Candidates, numbered from 1; 0 elsewhere.
    organ : ndarray of bool, shape (z, y, x)
        Kidneys with all masses that were marked.
    probability : ndarray of float, shape (z, y, x)
        Of a mass.
    values : ndarray of float, shape (z, y, x)
        The image (HU).
    spacing : sequence of float
        Voxel size (z, y, x) in mm.

    Returns
    -------
    DataFrame
        One row per candidate, in the order of their numbers, with the columns of :data:`FEATURES`.
    """
    if not numbers.any():
        return pd.DataFrame(columns=list(FEATURES), dtype=float)
    filled = closed(organ, SINUS_MM, spacing)
    depth = ndimage.distance_transform_edt(np.pad(filled, 1), sampling=spacing)[1:-1, 1:-1, 1:-1]
    kidney = organ & (numbers == 0)
    rows = []
    for number, box in enumerate(ndimage.find_objects(numbers), start=1):
        wide = tuple(slice(max(0, part.start - SURROUNDINGS), part.stop + SURROUNDINGS) for part in box)
        region = numbers[wide] == number
        around = ndimage.binary_dilation(region, _CROSS, iterations=SURROUNDINGS) & ~region
        beside, inside = around & kidney[wide], filled[wide]
        density, count = values[wide][region], max(1, int(around.sum()))
        points = np.argwhere(region) * np.asarray(spacing)
        rows.append({
            "max_probability": probability[wide][region].max(),
            "mean_probability": probability[wide][region].mean(),
            "log_volume": math.log(len(points) * math.prod(spacing)),
            "density": density.mean(),
            "density_sd": density.std(),
            "contrast": density.mean() - values[wide][beside].mean() if beside.any() else 0.0,
            "kidney_border": beside.sum() / count,
            "outside_border": (around & ~inside).sum() / count,
            "sinus_border": (around & inside & ~organ[wide]).sum() / count,
            "depth_mm": depth[wide][region].mean(),
            "elongation": _elongation(points, spacing),
            "fill": region.sum() / math.prod(part.stop - part.start for part in box),
        })  # fmt: skip
    return pd.DataFrame(rows, columns=list(FEATURES), dtype=float)


def _elongation(points: np.ndarray, spacing: Sequence[float]) -> float:
    """Longest by shortest axis of the ellipsoid with the region's moments; a voxel counts as a box, not as a point."""
    moments = np.cov(points.T, bias=True) + np.diag(np.square(spacing)) / 12
    axes = np.linalg.eigvalsh(moments)
    return float(np.sqrt(axes[-1] / axes[0]))


@dataclass(frozen=True)
class SecondLook:
    """Logistic regression that ranks candidates; below the threshold they are dropped.

    Parameters
    ----------
    mean, scale : tuple of float
        That standardise the :data:`FEATURES`, in their order.
    linear, products : tuple of float
        Coefficients of the standardised features, limited to :data:`LIMIT` standard deviations, and of the product of
        each with itself and with those after it.
    intercept : float
        Of the logit.
    threshold : float
        Candidates with a lower score are dropped.
    card : dict
        What it learned from: patients, candidates, and the recall of candidates at the threshold on patients left out.
    """

    mean: tuple[float, ...]
    scale: tuple[float, ...]
    linear: tuple[float, ...]
    products: tuple[float, ...]
    intercept: float
    threshold: float
    card: dict[str, Any]

    def scores(self, table: pd.DataFrame) -> np.ndarray:
        """Probability of being a mass, for every row of :func:`measure_candidates`.

        It is right for as many masses among the candidates as in the training, and is meant for ranking.
        """
        values = (table[list(FEATURES)].to_numpy(float) - self.mean) / self.scale
        logit = _with_products(values) @ np.asarray([*self.linear, *self.products]) + self.intercept
        return np.asarray(1 / (1 + np.exp(-logit)), dtype=float)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, with the names of the features."""
        return {**asdict(self), "features": list(FEATURES)}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> SecondLook:
        """Read what :meth:`to_dict` gave.

        Raises
        ------
        InputError
            When it measures other things than this version.
        """
        if content["features"] != list(FEATURES) or "products" not in content:
            raise InputError(
                "The cascade's second look measures other things than this version.",
                advice="Train the cascade again, or install the version that trained it.",
            )
        numbers = {name: tuple(map(float, content[name])) for name in ("mean", "scale", "linear", "products")}
        return cls(**numbers, intercept=content["intercept"], threshold=content["threshold"], card=content["card"])


def fit_second_look(
    table: pd.DataFrame, patients: int, *, false_positives: float = FALSE_POSITIVES, seed: int = 0
) -> SecondLook | None:
    """Fit the ranking of candidates and its threshold.

    Parameters
    ----------
    table : DataFrame
        :data:`FEATURES`, ``is_mass`` (0 or 1) and ``patient_id``, of patients that the networks did not train on.
    patients : int
        How many patients were looked at, those without a candidate included.
    false_positives : float
        Of each patient, on average: the threshold is the lowest that stays below it in patients left out of the fit.
    seed : int
        Of the folds.

    Returns
    -------
    SecondLook or None
        None when there are fewer than :data:`FEWEST` masses or other candidates, or when fewer than :data:`FOLDS`
        patients have them: too few to learn from.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, StandardScaler

    real = table["is_mass"].to_numpy(int)
    groups = table["patient_id"].to_numpy()
    kinds = [groups[real == kind] for kind in (0, 1)]
    if any(len(own) < FEWEST or len(set(own)) < FOLDS for own in kinds):
        return None
    values = table[list(FEATURES)].to_numpy(float)
    regression = LogisticRegression(C=PENALTY, max_iter=1000)
    model = make_pipeline(StandardScaler(), FunctionTransformer(_with_products), StandardScaler(), regression)
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    left_out = cross_val_predict(model, values, real, groups=groups, cv=folds, method="predict_proba")[:, 1]
    threshold = _threshold(left_out[real == 0], math.floor(false_positives * patients))
    scaler, _, terms, _ = (step for _, step in model.fit(values, real).steps)
    card = {
        "patients": patients, "masses": int(real.sum()), "others": int((1 - real).sum()),
        "false_positives_allowed": false_positives,
        "left_out": {"masses_kept": float((left_out[real == 1] >= threshold).mean()),
                     "false_positives": float((left_out[real == 0] >= threshold).sum() / patients)},
    }  # fmt: skip
    weights = regression.coef_[0] / terms.scale_
    linear, products = np.split(weights, [len(FEATURES)])
    numbers = {"mean": scaler.mean_, "scale": scaler.scale_, "linear": linear, "products": products}
    parts = {name: tuple(map(float, column)) for name, column in numbers.items()}
    intercept = float(regression.intercept_[0] - weights @ terms.mean_)
    return SecondLook(**parts, intercept=intercept, threshold=threshold, card=card)


def _with_products(values: np.ndarray) -> np.ndarray:
    """Limited features, and the products of every two of them, squares included."""
    values = np.clip(values, -LIMIT, LIMIT)
    first, second = np.triu_indices(values.shape[1])
    return np.hstack([values, values[:, first] * values[:, second]])


def _threshold(scores: np.ndarray, allowed: int) -> float:
    """Lowest threshold that keeps at most ``allowed`` of the scores; 0 when all may stay."""
    ordered = np.sort(scores)[::-1]
    return 0.0 if len(ordered) <= allowed else float(np.nextafter(ordered[allowed], 1.0))
