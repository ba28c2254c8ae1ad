from __future__ import annotations

from dataclasses import astuple, replace

import numpy as np
import pytest
from scipy import ndimage

from hybrid import InputError
from hybrid.phantoms import LesionProperties, draw_properties, paint_lesion
from hybrid.phantoms.fields import correlated_noise, deformed_ellipsoid

PLAIN = LesionProperties(12.0, 1.0, 0.0, 40.0, 2.0, 5.0, 0.0, 0.0, 1.0)


def paint(properties, seed=0, **arguments):
    return paint_lesion(properties, rng=np.random.default_rng(seed), **arguments)


def test_noise_has_unit_variance_and_the_asked_correlation_length():
    rng = np.random.default_rng(0)
    field = correlated_noise((48, 48, 48), 3.0, (2.0, 1.0, 1.0), rng)
    assert field.std() == pytest.approx(1.0, abs=1e-3)
    # A Gaussian kernel of SD s gives the autocorrelation exp(-d^2 / 4 s^2); at d = 2 mm along either axis:
    expected = np.exp(-(2.0**2) / (4 * 3.0**2))
    along_z = np.mean(field[:-1] * field[1:])
    along_x = np.mean(field[..., :-2] * field[..., 2:])
    assert along_z == pytest.approx(expected, abs=0.05)
    assert along_x == pytest.approx(expected, abs=0.05)


def test_ellipsoid_has_the_asked_volume_on_anisotropic_voxels():
    depth = deformed_ellipsoid((20, 60, 60), (3.0, 1.0, 1.0), (30, 30, 30), (15, 12, 20), 0.0, np.random.default_rng(0))
    assert (depth > 0).sum() * 3.0 == pytest.approx(4 / 3 * np.pi * 15 * 12 * 20, rel=0.03)


def test_same_generator_state_gives_the_same_lesion():
    properties = draw_properties(np.random.default_rng(3))
    for one, two in zip(paint(properties), paint(properties), strict=True):
        np.testing.assert_array_equal(one, two)


def test_contrast_is_that_of_the_property():
    contrasts = []
    for seed in range(12):
        image, mask = paint(PLAIN, seed, noise_hu=0.0)
        contrasts.append(image[ndimage.binary_erosion(mask, iterations=3)].mean() - image[mask == 0].mean())
    assert np.mean(contrasts) == pytest.approx(40.0, abs=2.0)


def test_texture_contrast_and_scale_show_in_the_voxels():
    fine, mask = paint(replace(PLAIN, texture_contrast_hu=30.0, texture_scale_mm=1.0), noise_hu=0.0)
    coarse, _ = paint(replace(PLAIN, texture_contrast_hu=30.0, texture_scale_mm=4.0), noise_hu=0.0)
    smooth, _ = paint(PLAIN, noise_hu=0.0)

    def roughness(image):
        steps = np.diff(image, axis=2)[:, :, :]
        return np.abs(steps[(mask[:, :, 1:] & mask[:, :, :-1]) == 1]).mean() / image[mask == 1].std()

    assert coarse[mask == 1].std() > 2 * smooth[mask == 1].std()
    assert roughness(fine) > 1.5 * roughness(coarse)


def test_necrosis_is_water_like_and_has_the_asked_share():
    image, mask = paint(replace(PLAIN, radius_mm=18.0, necrosis_fraction=0.4), noise_hu=0.0, size=(56, 56, 56))
    assert (image[mask == 1] < 78).mean() == pytest.approx(0.4, abs=0.1)


def test_irregular_surface_has_more_area():
    smooth, rough = (paint(replace(PLAIN, irregularity=value))[1] for value in (0.0, 0.2))
    faces = [sum(np.abs(np.diff(mask.astype(int), axis=axis)).sum() for axis in range(3)) for mask in (smooth, rough)]
    assert faces[1] / rough.sum() ** (2 / 3) > 1.1 * faces[0] / smooth.sum() ** (2 / 3)


@pytest.mark.parametrize(
    "change",
    [{"radius_mm": 0.0}, {"elongation": 0.5}, {"necrosis_fraction": 1.0}, {"irregularity": -0.1}, {"edge_mm": -1.0}],
)
def test_impossible_lesions_are_refused(change):
    with pytest.raises(InputError):
        replace(PLAIN, **change)


@pytest.mark.parametrize("arguments", [{"size": (48, 48)}, {"spacing": (1.0, 0.0, 1.0)}])
def test_impossible_grids_are_refused(arguments):
    with pytest.raises(InputError, match="order z, y, x"):
        paint(PLAIN, **arguments)


def test_properties_are_drawn_independently_of_each_other():
    rng = np.random.default_rng(0)
    drawn = np.asarray([astuple(draw_properties(rng)) for _ in range(2000)])
    correlation = np.corrcoef(drawn.T) - np.eye(drawn.shape[1])
    assert np.abs(correlation).max() < 0.08
