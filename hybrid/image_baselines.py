"""Trivial image classifiers: what the grey values alone achieve, without any look at shape or place.

They are the yardstick beside a network. Where the histogram of the whole image tells the classes apart, the task was
easy, or the images differ in something other than the disease; a network has to do clearly better.
"""

from __future__ import annotations

import warnings
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_sample_weight

from .deep.classification.inputs import robust_limits
from .errors import InputError

FloatArray = NDArray[np.float64]

PENALTIES: Final = (0.01, 0.1, 1.0, 10.0)
"""Values of C that the inner cross-validation tries; the smallest is the strongest penalty."""

DEFAULT_C: Final = 1.0
FOLDS: Final = 5


def histogram_features(
    array: np.ndarray, *, bins: int = 32, limits: tuple[float, float] | None = None, case_id: str | None = None
) -> FloatArray:
    """Shares of the pixels in equal bins of grey values.

    Parameters
    ----------
    array : ndarray of any shape
        A slice or volume in any unit.
    bins : int
        Number of bins, at least 2.
    limits : tuple of float, optional
        Grey values at which the first bin begins and the last one ends; what lies outside counts in these bins.
        Default: the image's own percentiles (:func:`hybrid.deep.classification.inputs.robust_limits`), so that a factor
        or a shift of the values, and with it the unit, changes nothing. Give limits where the unit is the same for all
        images, for example ``(-1024, 1024)`` for CT (HU).
    case_id : str, optional
        Named in errors.

    Returns
    -------
    ndarray of float64, shape (bins,)
        They add up to 1.

    Raises
    ------
    InputError
        For fewer than two bins, limits in the wrong order, an image without pixels, NaN or infinity, and, without
        limits, an image that is constant.

    Examples
    --------
    >>> histogram_features(np.array([[0.0, 1.0], [2.0, 3.0]]), bins=2, limits=(0, 4))
    array([0.5, 0.5])
    """
    if bins < 2 or int(bins) != bins:
        raise InputError(f"A histogram needs a whole number of at least 2 bins; found {bins}.", advice="Use 32.")
    values = _finite(array, case_id)
    low, high = robust_limits(values, case_id=case_id) if limits is None else limits
    if not high > low:
        raise InputError(
            f"The upper limit must exceed the lower one; found {low} and {high}.",
            advice="Give limits=(lower, upper).",
            case_id=case_id,
        )
    position = (values.astype(np.float64) - low) / (high - low) * bins
    counts = np.bincount(np.clip(position, 0, bins - 1).astype(np.intp).ravel(), minlength=bins)
    return np.asarray(counts / values.size, dtype=np.float64)


def mean_grey(array: np.ndarray, *, case_id: str | None = None) -> float:
    """Mean of all pixels, in the unit of the values.

    For the mean-grey baseline pass what the network is given (see ``SliceInput.read``): the baseline then knows no more
    than the network does.

    Parameters
    ----------
    array : ndarray of any shape
        A slice or volume.
    case_id : str, optional
        Named in errors.

    Returns
    -------
    float
        Mean, accumulated in float64.

    Raises
    ------
    InputError
        For an image without pixels, NaN or infinity.
    """
    return float(_finite(array, case_id).mean(dtype=np.float64))


def _finite(array: np.ndarray, case_id: str | None) -> np.ndarray:
    values = np.asarray(array)
    if not values.size or not np.isfinite(values).all():
        raise InputError(
            f"Expected an image with finite values; found {'NaN or infinity' if values.size else 'no pixels'}.",
            advice="Export the image again, or leave it out.",
            case_id=case_id,
        )
    return values


def fit_histogram_baseline(
    features: ArrayLike,
    y: ArrayLike,
    *,
    patients: ArrayLike | None = None,
    class_weight: str | None = "balanced",
    seed: int = 0,
) -> Pipeline:
    """Fit the baseline: standardised features and a multinomial logistic model with a ridge penalty.

    Parameters
    ----------
    features : array-like of shape (n, k) or (n,)
        Of the training images: :func:`histogram_features` of each, or the one number of :func:`mean_grey`.
    y : array-like of shape (n,)
        Class of each image.
    patients : array-like of shape (n,), optional
        Patient of each image. C is then the one of :data:`PENALTIES` with the lowest log-loss in a cross-validation
        that keeps patients together. Without it, or with one patient in a class, C is 1.
    class_weight : {"balanced", None}
        Balanced (default): all classes count the same, as in the training of the networks.
    seed : int
        Of the folds.

    Returns
    -------
    sklearn.pipeline.Pipeline
        Fitted; ``predict`` and ``predict_proba`` take features of shape (n, k), one column for a single number.

    Raises
    ------
    InputError
        For unequal lengths, missing or infinite values, or fewer than two classes.
    """
    X, labels, groups = _checked(features, y, patients)
    chosen = DEFAULT_C if groups is None else _best_penalty(X, labels, groups, class_weight, seed)
    return _model(chosen, class_weight).fit(X, labels)


def _model(penalty: float, class_weight: str | None) -> Pipeline:
    logistic = LogisticRegression(C=penalty, class_weight=class_weight, max_iter=5000)
    return Pipeline([("scale", StandardScaler()), ("logistic", logistic)])


def _best_penalty(
    X: FloatArray, labels: np.ndarray, groups: NDArray[np.str_], class_weight: str | None, seed: int
) -> float:
    """Value of C with the lowest log-loss out of fold; the stronger penalty where two are equal."""
    folds = min(FOLDS, *(len(set(groups[labels == name])) for name in np.unique(labels)))
    if folds < 2:
        return DEFAULT_C
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    weights = None if class_weight is None else compute_sample_weight(class_weight, labels)
    losses = []
    with warnings.catch_warnings():
        # Folds by patient cannot always hold every class; such a class then counts as probability 0 there.
        warnings.filterwarnings("ignore", category=RuntimeWarning, message="Number of classes in training fold")
        warnings.filterwarnings("ignore", category=ConvergenceWarning)
        for penalty in PENALTIES:
            model = _model(penalty, class_weight)
            found = cross_val_predict(model, X, labels, groups=groups, cv=splitter, method="predict_proba")
            losses.append(log_loss(labels, found, sample_weight=weights, labels=np.unique(labels)))
    return PENALTIES[int(np.argmin(losses))]


def _checked(
    features: ArrayLike, y: ArrayLike, patients: ArrayLike | None
) -> tuple[FloatArray, np.ndarray, NDArray[np.str_] | None]:
    X, labels = np.asarray(features, dtype=np.float64), np.asarray(y)
    X = X[:, None] if X.ndim == 1 else X
    groups = None if patients is None else np.asarray(patients).astype(str)
    if X.ndim != 2 or labels.shape != (len(X),) or (groups is not None and groups.shape != labels.shape):
        raise InputError(
            f"One row of features, one class and one patient per image were expected; found shapes {X.shape}, "
            f"{labels.shape}{'' if groups is None else f' and {groups.shape}'}.",
            advice="Pass them in the same order.",
        )
    if not np.isfinite(X).all():
        raise InputError("The features hold NaN or infinite values.", advice="Leave these images out.")
    if len(np.unique(labels)) < 2:
        raise InputError(
            f"A classifier needs at least two classes; found {len(np.unique(labels))}.", advice="Check the labels."
        )
    return X, labels, groups
