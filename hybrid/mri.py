"""Preparing MR images: coil bias field, intensity scale.

MR signals have no unit: receive coils shade the image smoothly, and each scan has its own gain. Both are removed here,
without looking at any other patient. One image in, one image out, on the same grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from .errors import GeometryError, InputError
from .images import from_array, to_array

ESTIMATION_MM: Final = 8.0
"""Voxel size (mm) that the bias field is estimated at, per axis; coil shading varies over centimetres."""

FEWEST_VOXELS: Final = 12
"""An axis is not shrunk below this many voxels."""

ITERATIONS: Final = (50, 40, 30)
"""Largest number of iterations per level of the field; each level halves the distance of its control points."""


def foreground_mask(image: sitk.Image, *, case_id: str | None = None) -> sitk.Image:
    """Find the head or body: Otsu's threshold on log values, the largest part, its holes filled slice by slice.

    Values are cut off at their 90th percentile, and a tenth of it is added before taking the logarithm. On the plain
    values, the bright tissues of fat-suppressed T2 images pull the threshold above muscle.

    Parameters
    ----------
    image : SimpleITK.Image
        Scalar 3D MR image, not negative.
    case_id : str, optional
        Named in errors.

    Returns
    -------
    SimpleITK.Image
        uint8, 1 in the foreground; never empty.

    Raises
    ------
    InputError
        For values that are negative, not finite or all the same.

    Notes
    -----
    Otsu 1979, https://doi.org/10.1109/TSMC.1979.4310076.
    """
    values = _checked(image, case_id)
    cut = float(np.quantile(values[values > 0], 0.9))
    smooth = ndimage.gaussian_filter(values / cut, [0.7 * (n > 4) for n in values.shape])
    logarithm = np.log(np.minimum(smooth, 1.0) + 0.1)
    inside = logarithm > _otsu(logarithm)
    parts, count = ndimage.label(inside)
    if count > 1:
        inside = parts == 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))
    filled = np.stack([ndimage.binary_fill_holes(plane) for plane in inside])
    return from_array(filled.astype(np.uint8), image)


def correct_bias(
    image: sitk.Image,
    *,
    shrink: int | Sequence[int] | None = None,
    mask: sitk.Image | None = None,
    iterations: Sequence[int] = ITERATIONS,
    case_id: str | None = None,
) -> sitk.Image:
    """Remove the smooth shading of MR coils (N4).

    The field is estimated on a shrunk image and divided out at full resolution. It is scaled to a geometric mean of 1
    inside the mask, and outside is held within the range it has inside. The same image gives the same voxels: the
    filter runs on one thread.

    Parameters
    ----------
    image : SimpleITK.Image
        Scalar 3D MR image, not negative.
    shrink : int or three int, optional
        Voxels that are averaged (x, y, z) for the estimate. By default as many as fit into :data:`ESTIMATION_MM`, as
        long as :data:`FEWEST_VOXELS` remain: thick slices are not shrunk.
    mask : SimpleITK.Image, optional
        Where to estimate (values above 0); by default :func:`foreground_mask`.
    iterations : sequence of int
        Largest number of iterations per level.
    case_id : str, optional
        Named in errors.

    Returns
    -------
    SimpleITK.Image
        float32, on the grid of ``image``.

    Raises
    ------
    InputError
        For values that are negative, not finite or all the same; an empty mask; wrong ``shrink`` or ``iterations``.
    GeometryError
        When the mask has another size than the image.

    Notes
    -----
    Tustison et al. 2010, https://doi.org/10.1109/TMI.2010.2046908.
    """
    values = _checked(image, case_id)
    factors = _shrink_factors(image, shrink, case_id)
    if not len(iterations) or min(iterations) < 1:
        raise InputError(f"Expected iterations of 1 or more per level; found {tuple(iterations)}.", case_id=case_id)
    inside = _inside(image, mask, case_id) & (values > 0)
    if not inside.any():
        raise InputError("No voxel of the mask has signal.", advice="Is it this image's mask?", case_id=case_id)
    log_field = to_array(_log_field(from_array(values, image), from_array(inside.astype(np.float32), image),
                                    factors, iterations))  # fmt: skip
    known = log_field[inside]
    log_field = np.clip(log_field, known.min(), known.max()) - known.mean(dtype=np.float64)
    return from_array((values / np.exp(log_field)).astype(np.float32), image)


def robust_normalise(
    image: sitk.Image,
    *,
    lower: float = 1.0,
    upper: float = 99.0,
    inside: sitk.Image | None = None,
    case_id: str | None = None,
) -> sitk.Image:
    """Give an MR image a common scale: median 0 and robust spread 1 in the foreground.

    Values are cut off at two percentiles of the foreground; then its median is subtracted and the result divided by
    its interquartile range / 1.349 (the standard deviation, for a normal distribution). Neither changes with the gain
    of the scanner, nor, much, with the size of a bright lesion.

    Parameters
    ----------
    image : SimpleITK.Image
        Scalar 3D MR image, not negative.
    lower, upper : float
        Percentiles (0 to 100) of the foreground at which all values are cut off; background falls to the lower one.
    inside : SimpleITK.Image, optional
        Foreground (values above 0); by default :func:`foreground_mask`.
    case_id : str, optional
        Named in errors.

    Returns
    -------
    SimpleITK.Image
        float32, on the grid of ``image``.

    Raises
    ------
    InputError
        For values that are negative, not finite or all the same (also: within the foreground); an empty foreground;
        percentiles out of order.
    GeometryError
        When ``inside`` has another size than the image.
    """
    if not 0 <= lower < upper <= 100:
        raise InputError(f"Expected 0 <= lower < upper <= 100; found lower={lower} and upper={upper}.", case_id=case_id)
    values = _checked(image, case_id)
    known = values[_inside(image, inside, case_id)]
    low, first, median, third, high = np.percentile(known, (lower, 25, 50, 75, upper))
    # Coarsely quantised images can have equal quartiles.
    spread = (third - first) / 1.349 or float(np.clip(known, low, high).std())
    if not spread > 0:
        raise InputError("The foreground has one grey value only.", advice="Look at the image.", case_id=case_id)
    return from_array(((np.clip(values, low, high) - median) / spread).astype(np.float32), image)


def prepare_mr(image: sitk.Image, *, bias: bool = True, case_id: str | None = None) -> sitk.Image:
    """Correct the bias field, then normalise: :func:`correct_bias` and :func:`robust_normalise` as they come.

    Parameters
    ----------
    image : SimpleITK.Image
        Scalar 3D MR image, not negative.
    bias : bool
        Whether to correct the bias field; leave it out for images that the scanner has corrected.
    case_id : str, optional
        Named in errors.

    Returns
    -------
    SimpleITK.Image
        float32, on the grid of ``image``.

    Raises
    ------
    InputError
        For values that are negative, not finite or all the same.
    """
    inside = foreground_mask(image, case_id=case_id)
    if bias:
        image = correct_bias(image, mask=inside, case_id=case_id)
    return robust_normalise(image, inside=inside, case_id=case_id)


def _checked(image: sitk.Image, case_id: str | None) -> np.ndarray:
    """Voxel values as float32 (z, y, x), or the error that says why they are not an MR image."""
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise InputError("Expected a 3D image with one value per voxel.", case_id=case_id)
    values = to_array(image).astype(np.float32)
    broken = int((~np.isfinite(values)).sum())
    if broken:
        raise InputError(
            f"{broken} voxels are NaN or infinite.", advice="Export the image again.", case_id=case_id
        )  # fmt: skip
    lowest, highest = float(values.min()), float(values.max())
    if lowest < 0:
        raise InputError(
            f"Expected MR magnitudes of 0 or more; found values down to {lowest:.6g}.",
            advice="Is it CT, a phase image, or normalised before? Set small negatives from resampling to 0.",
            case_id=case_id,
        )
    if lowest == highest:
        raise InputError(f"Every voxel is {lowest:.6g}: the image is constant.", advice="Is it a mask?",
                         case_id=case_id)  # fmt: skip
    return values


def _inside(image: sitk.Image, mask: sitk.Image | None, case_id: str | None) -> np.ndarray:
    """Foreground as bool (z, y, x)."""
    if mask is None:
        mask = foreground_mask(image, case_id=case_id)
    if mask.GetSize() != image.GetSize():
        raise GeometryError(
            f"The mask has size {mask.GetSize()} (x, y, z), the image {image.GetSize()}.",
            advice="Resample the mask to the image.",
            case_id=case_id,
        )
    inside = to_array(mask) > 0
    if not inside.any():
        raise InputError("The mask is empty.", advice="Leave it out to have one found.", case_id=case_id)
    return inside


def _otsu(values: np.ndarray) -> float:
    """Threshold that separates two classes best (256 bins)."""
    counts, edges = np.histogram(values, 256)
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1].astype(float)
    above = counts.sum() - below
    total = np.cumsum(counts * centres)
    gap = total[:-1] / below - (total[-1] - total[:-1]) / np.maximum(above, 1)
    return float(edges[1 + int(np.argmax(below * above * gap**2))])


def _shrink_factors(image: sitk.Image, shrink: int | Sequence[int] | None, case_id: str | None) -> list[int]:
    """Voxels to average along x, y, z."""
    sizes = image.GetSize()
    if shrink is None:
        wanted = [int(ESTIMATION_MM / step + 1e-6) for step in image.GetSpacing()]
        return [max(1, min(want, size // FEWEST_VOXELS)) for want, size in zip(wanted, sizes, strict=True)]
    factors = [shrink] * 3 if isinstance(shrink, int) else [int(factor) for factor in shrink]
    if len(factors) != 3 or any(not 1 <= factor <= size for factor, size in zip(factors, sizes, strict=False)):
        raise InputError(
            f"Expected shrink factors from 1 to the image's size {sizes} (x, y, z); found {shrink}.", case_id=case_id
        )
    return factors


def _log_field(image: sitk.Image, inside: sitk.Image, factors: list[int], iterations: Sequence[int]) -> sitk.Image:
    """Logarithm of the bias field on the grid of ``image``, estimated on the shrunk grid."""
    signal = sitk.BinShrink(image * inside, factors)
    share = sitk.BinShrink(inside, factors)
    # Mean over the voxels inside; all voxels of the shrunk grid that hold any are used.
    coarse = signal / sitk.Maximum(share, 1e-6)
    coarse = coarse / float(to_array(coarse).max()) + 1e-6
    n4 = sitk.N4BiasFieldCorrectionImageFilter()
    n4.SetNumberOfThreads(1)
    n4.SetNumberOfWorkUnits(1)
    n4.SetMaskLabel(1)
    n4.SetMaximumNumberOfIterations([int(count) for count in iterations])
    n4.Execute(coarse, sitk.Cast(share > 0, sitk.sitkUInt8))
    field = sitk.Cast(n4.GetLogBiasFieldAsImage(coarse), sitk.sitkFloat32)
    resampler = sitk.ResampleImageFilter()
    resampler.SetReferenceImage(image)
    resampler.SetInterpolator(sitk.sitkLinear)
    resampler.SetUseNearestNeighborExtrapolator(True)
    return resampler.Execute(field)
