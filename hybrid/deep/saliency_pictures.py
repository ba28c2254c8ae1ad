"""Saliency maps as files: NIfTI on the grid of the image, overlays and mosaics as PNG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import SimpleITK as sitk
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from hybrid.errors import GeometryError, InputError
from hybrid.files import replacing
from hybrid.images import from_array, orientation_of, to_array, write_image

from .preprocessing import Crop
from .saliency import FloatArray, Saliency, peak_of

HEAT_COLOURS: Final = "inferno"
"""Colour map of heat maps: even in lightness, readable with any colour vision and in grey."""

_HEAT_LABEL: Final = "Evidence, relative to the maximum"


def crop_grid(crop: Crop) -> sitk.Image:
    """Empty image on the grid of a lesion's cube, to be given to :func:`write_saliency`.

    Parameters
    ----------
    crop : Crop
        From :func:`hybrid.deep.crop_lesion`: the cube that became the network's input.

    Returns
    -------
    SimpleITK.Image
        Axes along the patient's, voxel size and centre of the crop.
    """
    size = crop.image.shape[0]
    grid = sitk.Image([size] * 3, sitk.sitkUInt8)
    grid.SetSpacing([crop.spacing_mm] * 3)
    grid.SetOrigin([value - (size - 1) / 2 * crop.spacing_mm for value in crop.centre_mm])
    return grid


def write_saliency(
    saliency: Saliency | FloatArray, source_image: sitk.Image, path: str | Path, *, grid: sitk.Image | None = None
) -> Path:
    """Write a map as NIfTI on the grid of the source image, so that a viewer shows it on top.

    Parameters
    ----------
    saliency : Saliency or ndarray, shape (H, W) or (D, H, W)
        The map.
    source_image : SimpleITK.Image
        Image that the network's input was made from.
    path : path-like
        Where to write, ending in ``.nii`` or ``.nii.gz``.
    grid : SimpleITK.Image, optional
        Image on the grid of the network's input (see :func:`crop_grid`); it carries the crop, flip and resampling.
        None: the input lay on the grid of ``source_image``. For a slice give the slice as an image of one slice,
        ``source_image[:, :, k:k + 1]``.

    Returns
    -------
    Path
        The file: float32, 0 to 1, linear interpolation; 0 where the network saw nothing.

    Raises
    ------
    GeometryError
        When the map does not have the size of the grid.
    """
    values = np.asarray(saliency.values if isinstance(saliency, Saliency) else saliency, dtype=np.float32)
    seen = source_image if grid is None else grid
    if values.ndim == 2 and seen.GetDimension() == 3 and seen.GetSize()[2] == 1:
        values = values[None]
    if values.ndim != seen.GetDimension():
        raise GeometryError(
            f"The map has {values.ndim} axes, the grid of the network's input has {seen.GetDimension()}.",
            advice="For one slice of a volume pass grid=source_image[:, :, k:k + 1].",
        )
    placed = from_array(values, seen)
    if grid is not None:
        placed = sitk.Resample(placed, source_image, sitk.Transform(), sitk.sitkLinear, 0.0, sitk.sitkFloat32)
    return write_image(placed, path)


def overlay_png(
    image_2d: ArrayLike,
    map_2d: ArrayLike | Saliency,
    path: str | Path,
    *,
    title: str = "",
    spacing: Sequence[float] = (1.0, 1.0),
    window: tuple[float, float] | None = None,
    outline: ArrayLike | None = None,
    opacity: float = 0.6,
    dpi: int = 150,
) -> Path:
    """Write a picture: the image in grey, the map as a transparent heat map on top.

    Parameters
    ----------
    image_2d : array-like, shape (H, W)
        Grey values.
    map_2d : array-like or Saliency, shape (H, W)
        0 to 1; the higher, the less transparent.
    path : path-like
        PNG file.
    title : str
        Above the picture.
    spacing : sequence of float
        Height and width of a pixel, so that the picture has the right proportions.
    window : tuple of float, optional
        Grey values shown as black and white; None takes the 1st and 99th percentile.
    outline : array-like, shape (H, W), optional
        Mask whose edge is drawn.
    opacity : float
        Of the map's maximum, 0 to 1.
    dpi : int
        Dots per inch.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    InputError
        When shapes differ or are not 2D.
    """
    panel = _Panel(_plane(image_2d), _plane(map_2d), None if outline is None else _plane(outline), tuple(spacing))
    tall = panel.grey.shape[0] * spacing[0] / (panel.grey.shape[1] * spacing[1])
    figure = Figure(figsize=(5.6, float(np.clip(4.2 * tall, 2.4, 8.0)) + (0.5 if title else 0.1)), layout="constrained")
    axes = figure.subplots()
    heat = panel.draw(axes, _window(panel.grey, window), opacity)
    if title:
        figure.suptitle(title, fontsize=12)
    figure.colorbar(heat, ax=axes, label=_HEAT_LABEL, shrink=0.85, aspect=22)
    return _save(figure, path, dpi)


def mosaic_png(
    image: sitk.Image,
    values: FloatArray | Saliency,
    path: str | Path,
    *,
    title: str = "",
    window: tuple[float, float] | None = None,
    outline: sitk.Image | None = None,
    opacity: float = 0.6,
    dpi: int = 150,
) -> Path:
    """Write the axial, coronal and sagittal slice through the maximum of a 3D map.

    Slices are turned to radiological display whatever the way the image is stored (oblique images are named by their
    nearest axes): the patient's right is on the left, anterior is up, in the sagittal slice anterior is on the left.

    Parameters
    ----------
    image : SimpleITK.Image
        3D image; its header gives proportions and directions.
    values : ndarray or Saliency, shape (D, H, W)
        Map on the grid of ``image``.
    path : path-like
        PNG file.
    title, window, opacity, dpi
        See :func:`overlay_png`.
    outline : SimpleITK.Image, optional
        Mask on the same grid, whose edge is drawn.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    InputError
        When the map or the mask does not have the size of the image.
    """
    volumes = _canonical(image, values, outline)
    grey, heat_values, mask, spacing = volumes
    peak = peak_of(heat_values)
    panels = [_cut(grey, heat_values, mask, spacing, peak, axis) for axis in range(3)]
    widths = [panel.grey.shape[1] * panel.spacing[1] for panel in panels]
    height = max(panel.grey.shape[0] * panel.spacing[0] for panel in panels)
    scale = 10.5 / sum(widths)
    figure = Figure(
        figsize=(12.0, float(np.clip(height * scale, 2.2, 8.0)) + (0.9 if title else 0.5)), layout="constrained"
    )
    for axes, panel, name in zip(
        figure.subplots(1, 3, width_ratios=widths), panels, ("Axial", "Coronal", "Sagittal"), strict=True
    ):
        heat = panel.draw(axes, _window(grey, window), opacity)
        axes.set_title(name, fontsize=11)
        _letter(axes, "A" if name == "Sagittal" else "R")
    if title:
        figure.suptitle(title, fontsize=12)
    figure.colorbar(heat, ax=figure.axes, label=_HEAT_LABEL, shrink=0.85, aspect=22)
    return _save(figure, path, dpi)


@dataclass(frozen=True)
class _Panel:
    """One slice: grey values, map, mask, pixel size and, if wanted, the position of the cross-hair."""

    grey: FloatArray
    heat: FloatArray
    mask: FloatArray | None
    spacing: tuple[float, ...]
    cross: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        shapes = {self.grey.shape, self.heat.shape} | (set() if self.mask is None else {self.mask.shape})
        if len(shapes) > 1:
            raise InputError(f"Image, map and mask must have one shape; found {sorted(shapes)}.")

    def draw(self, axes: Axes, window: tuple[float, float], opacity: float) -> ScalarMappable:
        """Draw and return what the colour bar is made from."""
        aspect = self.spacing[0] / self.spacing[1]
        axes.imshow(self.grey, cmap="gray", vmin=window[0], vmax=window[1], aspect=aspect)
        shown = np.clip(self.heat, 0.0, 1.0)
        axes.imshow(
            shown, cmap=HEAT_COLOURS, vmin=0, vmax=1, alpha=opacity * np.sqrt(shown), aspect=aspect,
            interpolation="nearest",
        )  # fmt: skip
        if self.mask is not None and 0 < (self.mask > 0).sum() < self.mask.size:
            axes.contour(self.mask > 0, levels=[0.5], colors="cyan", linewidths=1.2)
        if self.cross is not None:
            axes.axhline(self.cross[0], color="white", linewidth=0.6, alpha=0.7)
            axes.axvline(self.cross[1], color="white", linewidth=0.6, alpha=0.7)
        axes.set_axis_off()
        return ScalarMappable(cmap=HEAT_COLOURS)


def _plane(values: ArrayLike | Saliency) -> FloatArray:
    plane = np.asarray(values.values if isinstance(values, Saliency) else values, dtype=np.float64)
    if plane.ndim != 2:
        raise InputError(f"Expected a 2D array, found shape {plane.shape}.", advice="For volumes use mosaic_png.")
    return plane


def _window(grey: FloatArray, window: tuple[float, float] | None) -> tuple[float, float]:
    if window is not None:
        return window
    low, high = np.percentile(grey, (1, 99))
    return float(low), float(high if high > low else low + 1)


def _canonical(
    image: sitk.Image, values: FloatArray | Saliency, outline: sitk.Image | None
) -> tuple[FloatArray, FloatArray, FloatArray | None, tuple[float, ...]]:
    """Arrays with axes towards superior, posterior, left, and the voxel size along them."""
    arrays = [to_array(image), values.values if isinstance(values, Saliency) else np.asarray(values)]
    arrays += [] if outline is None else [to_array(outline)]
    if arrays[0].ndim != 3 or any(array.shape != arrays[0].shape for array in arrays):
        raise InputError(
            f"Image, map and mask must have one 3D shape; found {[array.shape for array in arrays]}.",
            advice="Write the map with write_saliency and read it again: it then lies on the image's grid.",
        )
    turn = orientation_of(image)
    turned = [turn.apply(array) for array in arrays]
    return turned[0], turned[1], turned[2] if outline is not None else None, turn.triple(image.GetSpacing()[::-1])


def _cut(
    grey: FloatArray, heat: FloatArray, mask: FloatArray | None, spacing: tuple[float, ...], peak: tuple[int, ...],
    axis: int,
) -> _Panel:  # fmt: skip
    """Slice through the peak across one axis, superior up."""
    rest = [other for other in range(3) if other != axis]

    def plane(volume: FloatArray) -> FloatArray:
        cut = np.take(volume, peak[axis], axis=axis)
        return cut if axis == 0 else cut[::-1]

    row = peak[rest[0]] if axis == 0 else grey.shape[0] - 1 - peak[0]
    return _Panel(
        plane(grey), plane(heat), None if mask is None else plane(mask), (spacing[rest[0]], spacing[rest[1]]),
        (row, peak[rest[1]]),
    )  # fmt: skip


def _letter(axes: Axes, letter: str) -> None:
    axes.text(0.02, 0.5, letter, transform=axes.transAxes, color="white", fontsize=10, va="center")


def _save(figure: Figure, path: str | Path, dpi: int) -> Path:
    with replacing(path) as partial:
        figure.savefig(partial, dpi=dpi, format="png")
    return Path(path)
