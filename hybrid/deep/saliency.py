"""Where a classification network looks: Grad-CAM maps, and checks of them; as files: ``saliency_pictures.py``.

Grad-CAM (Selvaraju et al. 2017, doi:10.1109/ICCV.2017.74) weights the feature maps of one layer by the mean gradient of
a class score and adds them up; Grad-CAM++ (Chattopadhay et al. 2018, doi:10.1109/WACV.2018.00097) weights the positive
gradients voxel by voxel. A map shows which region *this network* used. It is no segmentation and no proof that the
region is the reason: look at :func:`randomisation_check` and :func:`pointing_score` before a map goes into a paper.

The maps are as coarse as the layer. The last stage of a ResNet sees a cube of 48 voxels as 3 x 3 x 3 cells, so that a
map can only say "left" or "right"; ``layer="layer2"`` or a network with ``dilated=True`` is finer.

MONAI's ``GradCAM`` gives the same numbers (a test), but leaves its hooks in the network, needs weights that require
gradients, and fails in front of an in-place activation; its ``GradCAMpp`` adds 1e-7 to a denominator that is often
smaller than that in 3D and exponentiates the score. Therefore the two formulas are written here.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage, stats
from torch import nn

from hybrid.errors import InputError, unknown_name

from .hooks import watching

METHODS: Final = ("gradcam", "gradcam++")
"""``"gradcam"`` (Selvaraju et al. 2017) and ``"gradcam++"`` (Chattopadhay et al. 2018)."""

MAX_CORRELATION: Final = 0.5
"""A map whose rank correlation with that of an untrained copy is not below this has hardly changed (our convention;
Adebayo et al. 2018 give no limit)."""

TOLERANCE_MM: Final = 15.0
"""Distance from the mask within which a maximum counts as a hit. Zhang et al. 2018 (doi:10.1007/s11263-017-1059-x) use
15 pixels of a photograph; here it is a length."""


_NOT_A_STAGE: Final = (
    nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
    nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d, nn.Dropout, nn.Dropout2d, nn.Dropout3d, nn.Identity,
)  # fmt: skip
_STRIDED: Final = (nn.Conv2d, nn.Conv3d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool2d, nn.AvgPool3d)

FloatArray = NDArray[np.floating[Any]]
TensorLike = torch.Tensor | np.ndarray


@dataclass(frozen=True)
class Saliency:
    """A saliency map and what it was made from.

    Attributes
    ----------
    values : ndarray of float32, shape (H, W) or (D, H, W)
        0 to 1 at the resolution of the input; the maximum is 1, unless no cell speaks for the target: then all are 0.
    layer : str
        Layer whose feature maps were used.
    method : str
        One of :data:`METHODS`.
    target : int
        Output of the network that the map explains.
    score : float
        Value of that output (before any softmax).
    cells : ndarray of float32, one axis per axis of ``values``
        The map on the layer's own grid, not scaled.
    step, offset : tuple of float
        Cell ``i`` is centred on voxel ``offset + i * step`` of the input.
    """

    values: FloatArray
    layer: str
    method: str
    target: int
    score: float
    cells: FloatArray
    step: tuple[float, ...]
    offset: tuple[float, ...]

    @property
    def is_flat(self) -> bool:
        """Whether nothing at this layer speaks for the target: the map is 0 everywhere."""
        return not self.values.any()

    def describe(self) -> str:
        """One line for a figure legend: method, output, layer and how fine the map really is."""
        grid = " x ".join(str(n) for n in self.cells.shape)
        step = " x ".join(f"{n:g}" for n in self.step)
        return (
            f"{self.method} of output {self.target} at layer {self.layer!r} ({grid} cells, one every {step} voxels)"
            + ("; nothing there speaks for this output" if self.is_flat else "")
        )


def saliency_map(
    network: nn.Module,
    image_tensor: TensorLike,
    *,
    target: int | None = None,
    layer: str | None = None,
    method: str = "gradcam",
) -> Saliency:
    """Map of the regions that speak for an output of a network.

    Parameters
    ----------
    network : torch.nn.Module
        Maps ``(1, C, H, W)`` or ``(1, C, D, H, W)`` to ``(1, outputs)``, scores before softmax. A lesion classifier is
        ``torch.nn.Sequential(classifier.network, classifier.head)``. It is run in evaluation mode and left as it was.
    image_tensor : torch.Tensor or ndarray, shape (C, H, W) or (C, D, H, W)
        One input, as the network was trained on.
    target : int, optional
        Output to explain; None takes the highest one. A network with a single output is explained for the positive
        class.
    layer : str, optional
        Name of a layer, see :func:`list_layers`; None takes the last one whose output still has positions, which in a
        ResNet is ``"layer4"``. The name is part of the result.
    method : {"gradcam", "gradcam++"}
        See :data:`METHODS`.

    Returns
    -------
    Saliency
        Map in [0, 1] at the resolution of the input, with the layer's name.

    Raises
    ------
    InputError
        For an unknown method, layer or output, an image that is not finite, or a network that does not give one score
        per class.

    Notes
    -----
    Cells are put where their receptive field is centred and interpolated linearly. Stretching the cells to the size of
    the input, as is common, shifts the map by half a cell: 7.5 voxels after four strides of 2.
    """
    if method not in METHODS:
        raise unknown_name("saliency method", method, METHODS)
    batch = _as_batch(image_tensor, network)
    with _evaluating(network):
        shapes = _spatial_outputs(network, batch)
        name = _default_layer(shapes) if layer is None else layer
        if name not in shapes:
            raise unknown_name("layer with positions", name, shapes)
        features, gradient, score, chosen = _features_and_gradient(network, batch, name, target)
        step, offset = _cell_positions(network, batch, tuple(features.shape[1:]))
    cells = (gradcam if method == "gradcam" else gradcam_plus_plus)(features, gradient)
    values = _to_input_grid(cells, tuple(batch.shape[2:]), step, offset)
    return Saliency(values, name, method, chosen, score, cells.astype(np.float32), step, offset)


def list_layers(network: nn.Module, image_tensor: TensorLike) -> pd.DataFrame:
    """Layers that a map can be made from, in the order in which they are computed.

    Parameters
    ----------
    network, image_tensor
        See :func:`saliency_map`.

    Returns
    -------
    DataFrame
        Columns ``layer, kind, channels, cells`` (cells along each axis, as text) and ``default``.

    Raises
    ------
    InputError
        See :func:`saliency_map`.
    """
    batch = _as_batch(image_tensor, network)
    with _evaluating(network):
        shapes = _spatial_outputs(network, batch)
    default = _default_layer(shapes)
    rows = [
        {
            "layer": name,
            "kind": type(network.get_submodule(name)).__name__,
            "channels": shape[0],
            "cells": " x ".join(map(str, shape[1:])),
            "default": name == default,
        }
        for name, shape in shapes.items()
    ]
    return pd.DataFrame(rows)


def gradcam(features: FloatArray, gradient: FloatArray) -> FloatArray:
    """Grad-CAM on the layer's own grid (Selvaraju et al. 2017, doi:10.1109/ICCV.2017.74, eq. 1 and 2).

    Parameters
    ----------
    features, gradient : ndarray, shape (channels, ...)
        Feature maps of the layer, and the gradient of the class score with respect to them.

    Returns
    -------
    ndarray, shape (...)
        Not negative, not scaled.
    """
    weights = gradient.reshape(len(gradient), -1).mean(axis=1)
    return np.maximum(np.tensordot(weights, features, axes=1), 0.0)


def gradcam_plus_plus(features: FloatArray, gradient: FloatArray) -> FloatArray:
    """Grad-CAM++ on the layer's own grid (Chattopadhay et al. 2018, doi:10.1109/WACV.2018.00097).

    The paper explains the exponential of the class score; its derivative carries a common factor ``exp(score)``, which
    does not change the map but for its scale, and is left out.

    Parameters
    ----------
    features, gradient : ndarray, shape (channels, ...)
        See :func:`gradcam`; the features should not be negative (after a ReLU).

    Returns
    -------
    ndarray, shape (...)
        Not negative, not scaled.
    """
    total = features.reshape(len(features), -1).sum(axis=1).reshape(-1, *[1] * (features.ndim - 1))
    # Both sides of the fraction are divided by the squared gradient, which may be too small to be squared.
    denominator = 2.0 + total * gradient
    share = np.divide(1.0, denominator, out=np.zeros_like(denominator), where=(denominator != 0) & (gradient != 0))
    weights = (share * np.maximum(gradient, 0.0)).reshape(len(gradient), -1).sum(axis=1)
    return np.maximum(np.tensordot(weights, features, axes=1), 0.0)


def _as_batch(image_tensor: TensorLike, network: nn.Module) -> torch.Tensor:
    tensor = torch.as_tensor(image_tensor)
    if tensor.ndim not in (3, 4):
        raise InputError(
            f"Expected one input of shape (C, H, W) or (C, D, H, W), found {tuple(tensor.shape)}.",
            advice="Pass one image at a time, with its channel axis and without a batch axis.",
        )
    if not torch.isfinite(tensor).all():
        raise InputError("The input holds NaN or infinity.", advice="Normalise it as for training.")
    like = next(network.parameters(), torch.zeros(1))
    return tensor.detach()[None].to(device=like.device, dtype=like.dtype)


@contextlib.contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Switch to evaluation mode; afterwards every part is in the mode it was in."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _watch(network: nn.Module, batch: torch.Tensor) -> list[tuple[str, nn.Module, tuple[int, ...], tuple[int, ...]]]:
    """One forward pass: name, module, input shape and output shape of whatever maps one tensor to one tensor."""
    seen: list[tuple[str, nn.Module, tuple[int, ...], tuple[int, ...]]] = []

    def note(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            if inputs and isinstance(inputs[0], torch.Tensor) and isinstance(output, torch.Tensor):
                seen.append((name, module, tuple(inputs[0].shape), tuple(output.shape)))

        return hook

    with contextlib.ExitStack() as stack:
        for name, module in network.named_modules():
            if name:
                stack.enter_context(watching(module, note(name)))
        stack.enter_context(torch.no_grad())
        network(batch)
    return seen


def _spatial_outputs(network: nn.Module, batch: torch.Tensor) -> dict[str, tuple[int, ...]]:
    """Layers whose output still has positions, in the order in which they are finished, with (channels, cells...)."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, module, _, shape in _watch(network, batch):
        if len(shape) == batch.ndim and np.prod(shape[2:]) > 1 and not isinstance(module, _NOT_A_STAGE):
            shapes.pop(name, None)
            shapes[name] = shape[1:]
    if not shapes:
        raise InputError(
            "No layer of the network has an output with positions.",
            advice="Grad-CAM needs a convolutional network and an input large enough for its strides.",
        )
    return shapes


def _default_layer(shapes: dict[str, tuple[int, ...]]) -> str:
    return list(shapes)[-1]


def _features_and_gradient(
    network: nn.Module, batch: torch.Tensor, layer: str, target: int | None
) -> tuple[FloatArray, FloatArray, float, int]:
    kept: list[torch.Tensor] = []

    def keep(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        kept.append(output.detach().requires_grad_())
        return kept[-1].clone()  # an in-place activation may follow and overwrite what it is given

    with watching(network.get_submodule(layer), keep), torch.enable_grad():
        scores = network(batch)
    chosen = _chosen_output(scores, target)
    score = scores.reshape(-1)[chosen]
    gradient = torch.autograd.grad(score, kept[-1], allow_unused=True)[0] if score.requires_grad else None
    if gradient is None:
        raise InputError(
            f"The output does not depend on layer {layer!r}.", advice="Choose a layer on the way to it: list_layers."
        )
    features, slopes = (tensor.detach().double().cpu().numpy()[0] for tensor in (kept[-1], gradient))
    return features, slopes, float(score.detach()), chosen


def _chosen_output(scores: Any, target: int | None) -> int:
    shape = tuple(scores.shape) if isinstance(scores, torch.Tensor) else type(scores).__name__
    if not isinstance(scores, torch.Tensor) or scores.ndim not in (1, 2) or (scores.ndim == 2 and len(scores) != 1):
        raise InputError(
            f"Expected a network that gives one row of scores, shape (1, outputs), found {shape}.",
            advice="Pass the classifier: trunk and head as torch.nn.Sequential(network, head).",
        )
    outputs = scores.numel()
    if target is None:
        return int(scores.argmax())
    if not 0 <= target < outputs:
        raise InputError(
            f"The network has {outputs} outputs; found target {target}.", advice=f"Use 0 to {outputs - 1}."
        )
    return int(target)


def _cell_positions(
    network: nn.Module, batch: torch.Tensor, cells: tuple[int, ...]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Distance between the centres of the cells' receptive fields and the centre of the first one, in voxels.

    Follows the layers that change the size from the input to the feature map. Where they cannot be followed (a size
    changes outside of a layer), the cells are spread evenly over the input.
    """
    start = tuple(batch.shape[2:])
    size, step, offset = start, np.ones(len(start)), np.zeros(len(start))
    changes: dict[tuple[int, ...], tuple[nn.Module, tuple[int, ...]]] = {}
    for _, module, before, after in _watch(network, batch):
        if isinstance(module, _STRIDED) and before[2:] != after[2:]:
            changes.setdefault(before[2:], (module, after[2:]))
    for _ in range(len(changes)):
        if size == cells or size not in changes:
            break
        layer, size = changes[size]
        first, stride = _first_centre_and_stride(layer, len(start))
        step, offset = step * stride, offset + step * first
    if size != cells:
        step = np.asarray(start) / np.asarray(cells)
        offset = (step - 1) / 2
    return tuple(float(v) for v in step), tuple(float(v) for v in offset)


def _first_centre_and_stride(layer: nn.Module, axes: int) -> tuple[FloatArray, FloatArray]:
    """Centre of the window that gives the first output of a convolution or pooling, and the step to the next."""

    def each(name: str, default: int) -> FloatArray:
        value = getattr(layer, name, default)
        return np.broadcast_to(np.asarray(value, dtype=np.float64), axes)

    reach = (each("kernel_size", 1) - 1) * each("dilation", 1) / 2
    padding = reach if getattr(layer, "padding", 0) == "same" else each("padding", 0)
    return reach - padding, each("stride", 1)


def _to_input_grid(
    cells: FloatArray, size: tuple[int, ...], step: tuple[float, ...], offset: tuple[float, ...]
) -> FloatArray:
    spread = ndimage.affine_transform(
        cells.astype(np.float64),
        1 / np.asarray(step),
        -np.asarray(offset) / np.asarray(step),
        output_shape=size,
        order=1,
        mode="nearest",
    )
    top = spread.max()
    return (spread / top if top > 0 else np.zeros_like(spread)).astype(np.float32)


def randomisation_check(
    network: nn.Module,
    images: Sequence[TensorLike],
    *,
    targets: Sequence[int | None] | None = None,
    layer: str | None = None,
    method: str = "gradcam",
    copies: int = 3,
    seed: int = 0,
) -> pd.DataFrame:
    """Compare the maps of a trained network with those of untrained copies, which must be different.

    A map that stays the same when the weights are random shows edges of the image or the shape of the network, and
    nothing that was learnt (Adebayo et al. 2018, Sanity Checks for Saliency Maps, doi:10.48550/arXiv.1810.03292).

    Parameters
    ----------
    network : torch.nn.Module
        See :func:`saliency_map`; it is not changed.
    images : sequence of torch.Tensor or ndarray
        Inputs, each as in :func:`saliency_map`.
    targets : sequence of int or None, optional
        Output to explain for each image; default: the trained network's highest, for the copies, too.
    layer, method
        See :func:`saliency_map`.
    copies : int
        Untrained copies: all weights drawn again as at the start of a training.
    seed : int
        Of the first copy.

    Returns
    -------
    DataFrame
        One row per image and copy: ``image`` (position), ``copy``, ``target``, ``layer``, ``correlation`` (Spearman,
        over the voxels; NaN where a map is 0 everywhere) and ``changed`` (correlation below :data:`MAX_CORRELATION`,
        or the copy's map is 0 everywhere while the trained one is not). Coarse maps correlate by chance with either
        sign: judge the mean over images and copies, not single rows.

    Raises
    ------
    InputError
        Without images or copies, or when ``targets`` has another length; else see :func:`saliency_map`.
    """
    wanted = [None] * len(images) if targets is None else list(targets)
    if not len(images) or copies < 1 or len(wanted) != len(images):
        raise InputError(
            f"Expected at least one image, one copy and one target per image; found {len(images)} images, {copies} "
            f"copies and {len(wanted)} targets."
        )
    trained = [
        saliency_map(network, image, target=target, layer=layer, method=method)
        for image, target in zip(images, wanted, strict=True)
    ]
    rows = []
    for number in range(copies):
        other = randomised_copy(network, seed=seed + number)
        for position, (image, own) in enumerate(zip(images, trained, strict=True)):
            random = saliency_map(other, image, target=own.target, layer=own.layer, method=method)
            correlation = _rank_correlation(own.values, random.values)
            changed = not own.is_flat and (random.is_flat or correlation < MAX_CORRELATION)
            rows.append(
                {
                    "image": position, "copy": number, "target": own.target, "layer": own.layer,
                    "correlation": correlation, "changed": changed,
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def randomised_copy(network: nn.Module, *, seed: int = 0) -> nn.Module:
    """Copy of a network with untrained weights; the network and the global random state are left alone.

    Layers draw their weights as when they are made; values of parameters that belong to no standard layer are
    shuffled.

    Parameters
    ----------
    network : torch.nn.Module
        Any network.
    seed : int
        Of the weights.

    Returns
    -------
    torch.nn.Module
        In evaluation mode.
    """
    other = copy.deepcopy(network)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for module in other.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
            else:
                for own in module.parameters(recurse=False):
                    own.copy_(own.flatten()[torch.randperm(own.numel()).to(own.device)].reshape(own.shape))
    return other.eval()


def _rank_correlation(first: FloatArray, second: FloatArray) -> float:
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan")
    return float(stats.spearmanr(first.ravel(), second.ravel()).statistic)


@dataclass(frozen=True)
class PointingScore:
    """Result of the pointing game.

    Attributes
    ----------
    table : DataFrame
        One row per map: ``hit``, ``distance_mm`` (from the maximum to the nearest mask voxel, 0 inside; NaN for a map
        that is 0 everywhere, which is no hit), ``chance`` (share of the voxels that would be a hit) and
        ``centre_hit`` (whether the middle of the image would be one).
    score : float
        Share of hits.
    lower, upper : float
        95 % interval (Wilson 1927, doi:10.1080/01621459.1927.10502953) of independent maps. With several maps per
        patient give ``table["hit"]`` and the patients to ``hybrid.analysis.clustered_interval``.
    chance, centre : float
        Means of the two columns: what random points and the middle of the image reach. A crop centred on the lesion
        makes the middle always right: such a score says nothing.
    method : str
        For the methods section.
    """

    table: pd.DataFrame
    score: float
    lower: float
    upper: float
    chance: float
    centre: float
    method: str


def pointing_score(
    maps: Sequence[Saliency | ArrayLike],
    masks: Sequence[ArrayLike],
    spacing: float | Sequence[float],
    tolerance_mm: float = TOLERANCE_MM,
) -> PointingScore:
    """Share of maps whose maximum lies on the mask or near it: the pointing game (Zhang et al. 2018).

    Parameters
    ----------
    maps : sequence of Saliency or array-like, shape (H, W) or (D, H, W)
        Saliency maps.
    masks : sequence of array-like
        Masks of the same shapes, above 0 inside; none may be empty.
    spacing : float or sequence of float
        Voxel size in mm along each axis of the maps (z, y, x), the same for all of them.
    tolerance_mm : float
        Distance from the mask that still counts as a hit.

    Returns
    -------
    PointingScore
        Share of hits with its interval, beside what chance and the middle of the image reach.

    Raises
    ------
    InputError
        For no map, unequal numbers or shapes, an empty mask, or a tolerance or voxel size that is not positive.
    """
    if not len(maps) or len(maps) != len(masks):
        raise InputError(f"Expected one mask per map, at least one; found {len(maps)} maps and {len(masks)} masks.")
    if tolerance_mm < 0 or np.any(np.asarray(spacing) <= 0):
        raise InputError(f"Expected tolerance_mm >= 0 and spacing > 0; found {tolerance_mm} and {spacing}.")
    rows = [
        _pointing_row(number, saliency, mask, spacing, tolerance_mm)
        for number, (saliency, mask) in enumerate(zip(maps, masks, strict=True))
    ]
    table = pd.DataFrame(rows)
    hits = int(table["hit"].sum())
    interval = stats.binomtest(hits, len(table)).proportion_ci(method="wilson")
    return PointingScore(
        table, hits / len(table), float(interval.low), float(interval.high), float(table["chance"].mean()),
        float(table["centre_hit"].mean()),
        f"pointing game (Zhang et al. 2018, doi:10.1007/s11263-017-1059-x), tolerance {tolerance_mm:g} mm",
    )  # fmt: skip


def _pointing_row(
    number: int, saliency: Saliency | ArrayLike, mask: ArrayLike, spacing: float | Sequence[float], tolerance: float
) -> dict[str, Any]:
    values = np.asarray(saliency.values if isinstance(saliency, Saliency) else saliency)
    inside = np.asarray(mask) > 0
    if values.shape != inside.shape or not inside.any():
        raise InputError(
            f"Map {number} needs a mask of its own shape {values.shape} with at least one voxel; found shape "
            f"{inside.shape} with {int(inside.sum())} voxels.",
            advice="Leave images without a lesion out; they have nothing to point at.",
        )
    sampling = np.broadcast_to(np.asarray(spacing, dtype=np.float64), values.ndim)
    distance = ndimage.distance_transform_edt(~inside, sampling=sampling)
    reached = distance <= tolerance
    middle = tuple(n // 2 for n in values.shape)
    found = float("nan") if np.ptp(values) == 0 else float(distance[peak_of(values)])
    return {
        "hit": bool(found <= tolerance),
        "distance_mm": found,
        "chance": float(reached.mean()),
        "centre_hit": bool(reached[middle]),
    }


def peak_of(values: FloatArray) -> tuple[int, ...]:
    """Voxel of the maximum; of several, the one nearest to their mean position."""
    highest = np.argwhere(values == values.max())
    nearest = np.linalg.norm(highest - highest.mean(axis=0), axis=1).argmin()
    return tuple(int(i) for i in highest[nearest])
