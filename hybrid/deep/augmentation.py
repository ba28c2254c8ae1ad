"""Random changes of a training input that leave what is to be learnt untouched."""

from __future__ import annotations

import numpy as np


def random_symmetry(tensor: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Turn or mirror a cube at random: one of its 48 symmetries.

    Parameters
    ----------
    tensor : ndarray, shape (C, n, n, n)
        Channels first.
    rng : numpy.random.Generator
        Source of randomness.

    Returns
    -------
    ndarray, same shape
        A view or copy; the input is not modified.
    """
    order = [0, *(1 + rng.permutation(3))]
    mirrored = tuple(axis for axis in (1, 2, 3) if rng.random() < 0.5)
    return np.flip(np.transpose(tensor, order), mirrored)


def jitter(values: np.ndarray, rng: np.random.Generator, *, noise: float = 0.1, contrast: float = 0.1) -> np.ndarray:
    """Scale, shift and roughen normalised intensities.

    Parameters
    ----------
    values : ndarray
        Normalised intensities, about -1 to 1.
    rng : numpy.random.Generator
        Source of randomness.
    noise : float
        Largest standard deviation of the white noise.
    contrast : float
        Largest relative change of scale, and largest shift.

    Returns
    -------
    ndarray of float32
        New values.
    """
    factor, shift = 1 + rng.uniform(-contrast, contrast), rng.uniform(-contrast, contrast)
    grain = rng.uniform(0, noise) * rng.standard_normal(values.shape, dtype=np.float32)
    return (values * factor + shift + grain).astype(np.float32)


def other_scanner(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Redraw the grey scale: random gamma and, half of the time, inversion.

    What remains is what images of any modality share: shape, texture, relative contrast.

    Parameters
    ----------
    values : ndarray
        Intensities from -1 to 1.
    rng : numpy.random.Generator
        Source of randomness.

    Returns
    -------
    ndarray of float32
        From -1 to 1.
    """
    unit = np.clip((values + 1) / 2, 0, 1) ** np.exp(rng.uniform(-0.5, 0.5))
    return ((1 - unit if rng.random() < 0.5 else unit) * 2 - 1).astype(np.float32)
