"""Saliency maps of this package's own networks, brought back to the image that they were made from.

Slices and volumes of an image classifier, lesions of a lesion classifier, and embeddings of an encoder: each function
prepares the input as the network was trained, computes the map (:mod:`hybrid.deep.saliency`) and puts it on the grid of
the source image, as NIfTI and as a picture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import ArrayLike
from scipy import ndimage
from torch import nn

from hybrid.errors import InputError, unknown_name
from hybrid.images import align_mask, from_array, orientation_of, read_image, to_array

from .classification.classifier import ImageClassifier
from .classification.inputs import SliceInput, VolumeInput, inner_shape, read_slice
from .embeddings import Encoder
from .preprocessing import Preprocessing, crop_lesion, network_input
from .saliency import FloatArray, Saliency, saliency_map
from .saliency_pictures import crop_grid, mosaic_png, write_saliency
from .segmentation.lesion_classes import LesionClassifier

EMBEDDING: Final = "embedding"
"""Name of what is explained when an encoder's map has no direction of its own."""


class EmbeddingLength(nn.Module):
    """Half the squared length of an embedding; its derivative is the embedding, whose map it therefore has."""

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        """Map embeddings (B, dim) to scores (B, 1)."""
        return 0.5 * embedding.square().sum(dim=1, keepdim=True)


@dataclass(frozen=True)
class Explanation:
    """A map on the grid of its source.

    Attributes
    ----------
    saliency : Saliency
        The map as the network saw it, with layer, method and score.
    explained : str
        Class, or direction of the embedding, that the map speaks for.
    nifti, picture : Path
        The written files.
    on_lesion, lesion_share : float
        Share of the map's sum that lies on the lesion, and share of the crop that is lesion: what a map that is the
        same everywhere would have. NaN without a lesion, the former also for a map of zeros.
    """

    saliency: Saliency
    explained: str
    nifti: Path
    picture: Path
    on_lesion: float = math.nan
    lesion_share: float = math.nan


@dataclass(frozen=True)
class SliceMap:
    """Map of one slice on the grid of that slice.

    Attributes
    ----------
    values : ndarray of float32, shape (rows, columns)
        0 to 1, rows towards posterior and columns towards left, as :func:`read_slice` gives the slice.
    grey : ndarray of float32, same shape
        The slice itself (HU, or grey values).
    spacing : tuple of float
        Pixel size of rows and columns in mm.
    saliency : Saliency
        The map as the (first) network saw it.
    """

    values: FloatArray
    grey: FloatArray
    spacing: tuple[float, float]
    saliency: Saliency


def to_source_grid(
    values: ArrayLike, shape: Sequence[int], spacing: Sequence[float], size: Sequence[int], fit: str
) -> FloatArray:
    """Bring a map from the grid of an image classifier's input back to that of the image it was resampled from.

    Parameters
    ----------
    values : array-like, shape ``size``
        Map on the input's grid.
    shape, spacing : sequence
        Pixels and pixel size (mm) of the image in canonical order.
    size : sequence of int
        Grid of the input.
    fit : {"pad", "stretch"}
        See :data:`hybrid.deep.classification.inputs.FITS`.

    Returns
    -------
    ndarray of float32, shape ``shape``
        Linear interpolation; centres are placed as in resampling, and the padding is cut off.
    """
    inner = np.asarray(inner_shape(shape, spacing, size, fit))
    start = (np.asarray(size) - inner) // 2
    step = inner / np.asarray(shape)
    source = np.asarray(values, dtype=np.float64)[tuple(slice(s, s + n) for s, n in zip(start, inner, strict=True))]
    placed = ndimage.affine_transform(
        source, step, (step - 1) / 2, output_shape=tuple(shape), order=1, mode="nearest"
    )  # fmt: skip
    return placed.astype(np.float32)


def slice_map(
    classifier: ImageClassifier,
    path: str | Path,
    index: int | None = None,
    *,
    target: str,
    layer: str | None = None,
    method: str = "gradcam",
    case_id: str | None = None,
) -> SliceMap:
    """Map of one slice; the mean over the members of an ensemble.

    Parameters
    ----------
    classifier : ImageClassifier
        Of slices.
    path : path-like
        As in :func:`hybrid.deep.classification.inputs.read_slice`.
    index : int, optional
        Slice, counted from 0.
    target : str
        Class to explain.
    layer, method
        See :func:`hybrid.deep.saliency.saliency_map`.
    case_id : str, optional
        Named in errors.

    Returns
    -------
    SliceMap
        On the grid of the slice.

    Raises
    ------
    InputError
        For a classifier of volumes, an unknown class, layer or method, or an image that cannot be read.
    """
    if not isinstance(classifier.input, SliceInput):
        raise InputError("The classifier sees volumes, not slices.", advice="Use explain_volume.")
    prepared = classifier.input.read(path, index, case_id=case_id)
    found = _member_maps(classifier, prepared, target, layer, method)
    source = read_slice(path, index, case_id=case_id)
    grey = source.values.mean(axis=0)
    mean = np.mean([member.values for member in found], axis=0)
    part = classifier.input.part(source)
    values = np.zeros(grey.shape, np.float32)
    values[part] = to_source_grid(
        mean, grey[part].shape, source.spacing, classifier.input.size, classifier.input.fit
    )  # fmt: skip
    return SliceMap(values, grey, source.spacing, found[0])


def _member_maps(
    classifier: ImageClassifier, prepared: FloatArray, target: str, layer: str | None, method: str
) -> list[Saliency]:
    if target not in classifier.classes:
        raise unknown_name("class", target, classifier.classes)
    number = classifier.classes.index(target)
    return [
        saliency_map(network, prepared, target=number, layer=layer, method=method) for network in classifier.networks
    ]


def stored_plane(values: FloatArray, image: sitk.Image) -> FloatArray:
    """Turn a slice in canonical order (towards posterior, towards left) to the order in which ``image`` stores it."""
    orientation = orientation_of(image)
    axes = [(axis - 1, flip) for axis, flip in zip(orientation.order, orientation.flips, strict=True) if axis > 0]
    flipped = np.flip(values, tuple(i for i in (0, 1) if axes[i][1]))
    return flipped.transpose(np.argsort([axis for axis, _ in axes]))


def canonical_plane(values: FloatArray, image: sitk.Image) -> FloatArray:
    """Inverse of :func:`stored_plane`."""
    orientation = orientation_of(image)
    axes = [(axis - 1, flip) for axis, flip in zip(orientation.order, orientation.flips, strict=True) if axis > 0]
    turned = values.transpose([axis for axis, _ in axes])
    return np.flip(turned, tuple(i for i in (0, 1) if axes[i][1]))


def explain_volume(
    classifier: ImageClassifier,
    path: str | Path,
    out: str | Path,
    *,
    target: str | None = None,
    layer: str | None = None,
    method: str = "gradcam",
    case_id: str | None = None,
) -> Explanation:
    """Where a classifier of volumes looks, on the grid of the volume.

    Parameters
    ----------
    classifier : ImageClassifier
        Of volumes.
    path : path-like
        NIfTI file or DICOM series.
    out : path-like
        Folder for ``<name>.nii.gz`` and ``<name>.png``; the name is the ``case_id``, or ``volume``.
    target : str, optional
        Class to explain; None takes the most probable one.
    layer, method
        See :func:`hybrid.deep.saliency.saliency_map`.
    case_id : str, optional
        Names the files and errors.

    Returns
    -------
    Explanation
        Map and files.

    Raises
    ------
    InputError
        As :func:`slice_map`.
    """
    if not isinstance(classifier.input, VolumeInput):
        raise InputError("The classifier sees slices, not volumes.", advice="Use slice_map.")
    image = read_image(path, case_id=case_id)
    prepared = classifier.input.prepare(image, case_id=case_id)
    name = target or classifier.classes[int(classifier.probabilities(prepared).argmax())]
    found = _member_maps(classifier, prepared, name, layer, method)
    orientation = orientation_of(image)
    shape = orientation.triple(image.GetSize()[::-1])
    spacing = orientation.triple(image.GetSpacing()[::-1])
    mean = np.mean([member.values for member in found], axis=0)
    placed = to_source_grid(mean, shape, spacing, classifier.input.size, classifier.input.fit)
    stored = np.ascontiguousarray(orientation.undo(placed))
    return _write(image, from_array(stored, image), found[0], name, Path(out), case_id or "volume", None)


def explain_lesion(
    classifier: LesionClassifier,
    image: sitk.Image,
    mask: sitk.Image,
    out: str | Path,
    *,
    label: int | None = None,
    target: str | None = None,
    layer: str | None = None,
    method: str = "gradcam",
    case_id: str | None = None,
) -> Explanation:
    """Where the classifier of a cascade's lesions looks.

    Parameters
    ----------
    classifier : LesionClassifier
        From :func:`hybrid.deep.segmentation.lesion_classes.load_lesion_classifier`, or a cascade's ``classifier``.
    image, mask : SimpleITK.Image
        Scan, and mask of the lesion.
    out : path-like
        Folder for ``<name>.nii.gz`` (0 to 1 on the grid of ``image``; 0 outside of the crop) and ``<name>.png`` (three
        slices through the maximum, the lesion outlined); the name is the ``case_id``, or ``lesion``.
    label : int, optional
        Label of the lesion; None takes every label above 0 as one region.
    target : str, optional
        Class to explain; None takes the most probable one.
    layer, method
        See :func:`hybrid.deep.saliency.saliency_map`.
    case_id : str, optional
        Names the files and errors.

    Returns
    -------
    Explanation
        Map and files.

    Raises
    ------
    InputError
        For an unknown class, layer or method, or an empty mask.
    """
    if target is not None and target not in classifier.classes:
        raise unknown_name("class", target, classifier.classes)
    network = nn.Sequential(classifier.network, classifier.head)
    number = None if target is None else classifier.classes.index(target)
    region = _region(mask, label)
    found, placed, shares = _crop_map(network, image, region, classifier.preprocessing, number, layer, method, case_id)
    name = classifier.classes[found.target]
    written = _write(image, placed, found, name, Path(out), case_id or "lesion", align_mask(image, region)[0])
    return replace(written, on_lesion=shares[0], lesion_share=shares[1])


def explain_encoder(
    encoder: Encoder,
    image: sitk.Image,
    mask: sitk.Image,
    out: str | Path,
    *,
    label: int | None = None,
    direction: ArrayLike | None = None,
    name: str = "",
    layer: str | None = None,
    method: str = "gradcam",
    case_id: str | None = None,
) -> Explanation:
    """Which part of a lesion's surroundings an embedding comes from.

    An encoder has no classes. The explained score is the embedding along a direction: the coefficients of a linear
    model that was fitted on embeddings, or, by default, the lesion's own embedding, so that the map shows what makes
    the embedding long.

    Parameters
    ----------
    encoder : Encoder
        From :func:`hybrid.deep.load_encoder`.
    image, mask, out, label, layer, method, case_id
        See :func:`explain_lesion`.
    direction : array-like of shape (encoder.dim,), optional
        Coefficients in the unit of the embedding (divide those of a standardised model by the standard deviations).
    name : str
        What the direction stands for.

    Returns
    -------
    Explanation
        Map and files.

    Raises
    ------
    InputError
        For a direction of another length, not finite or 0 throughout; else see :func:`explain_lesion`.
    """
    region = _region(mask, label)
    if direction is None:
        tensor = network_input(
            crop_lesion(image, region, encoder.preprocessing, case_id=case_id), encoder.preprocessing
        )
        along = _embedding(encoder, tensor)
    else:
        along = np.asarray(direction, dtype=np.float64)
    if along.shape != (encoder.dim,) or not np.isfinite(along).all() or not along.any():
        raise InputError(
            f"Expected a direction of {encoder.dim} finite numbers that are not all 0; found shape {along.shape}.",
            advice="Pass one coefficient for each component of the embedding.",
            case_id=case_id,
        )
    head = nn.Linear(encoder.dim, 1, bias=False).to(encoder.device)
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(along / np.linalg.norm(along)).float()[None])
    network = nn.Sequential(encoder.network, head)
    found, placed, shares = _crop_map(network, image, region, encoder.preprocessing, 0, layer, method, case_id)
    explained = name or (EMBEDDING if direction is None else "direction")
    written = _write(image, placed, found, explained, Path(out), case_id or "lesion", align_mask(image, region)[0])
    return replace(written, on_lesion=shares[0], lesion_share=shares[1])


def _embedding(encoder: Encoder, tensor: FloatArray) -> FloatArray:
    with torch.inference_mode():
        values = encoder.network(torch.from_numpy(tensor)[None].to(encoder.device))
    return np.asarray(values[0].double().cpu().numpy())


def _region(mask: sitk.Image, label: int | None) -> sitk.Image:
    return mask > 0 if label is None else mask == label


def _crop_map(
    network: nn.Module, image: sitk.Image, region: sitk.Image, preprocessing: Preprocessing, target: int | None,
    layer: str | None, method: str, case_id: str | None,
) -> tuple[Saliency, sitk.Image, tuple[float, float]]:  # fmt: skip
    """Map of a lesion's crop, the same on the grid of the image, and the shares of :class:`Explanation`."""
    crop = crop_lesion(image, region, preprocessing, case_id=case_id)
    # Trunk and head in sequence; users know a layer by its name in the trunk.
    inner = None if layer is None else f"0.{layer}"
    found = saliency_map(network, network_input(crop, preprocessing), target=target, layer=inner, method=method)
    found = replace(found, layer=found.layer.removeprefix("0."))
    cube = from_array(found.values, crop_grid(crop))
    placed = sitk.Resample(cube, image, sitk.Transform(), sitk.sitkLinear, 0.0, sitk.sitkFloat32)
    total = float(found.values.sum())
    on_lesion = float((found.values * crop.mask).sum()) / total if total > 0 else math.nan
    return found, placed, (on_lesion, float(crop.mask.mean()))


def _write(
    image: sitk.Image, placed: sitk.Image, found: Saliency, explained: str, out: Path, name: str,
    outline: sitk.Image | None,
) -> Explanation:  # fmt: skip
    values = to_array(placed)
    nifti = write_saliency(values, image, out / f"{name}.nii.gz")
    method = "Grad-CAM" if found.method == "gradcam" else "Grad-CAM++"
    title = f"{name}: {method} for {explained} ({found.layer})"
    picture = mosaic_png(image, values, out / f"{name}.png", title=title, outline=outline)
    return Explanation(found, explained, nifti, picture)
