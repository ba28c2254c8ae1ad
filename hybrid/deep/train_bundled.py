"""Train and evaluate the encoder that comes with this package.

``python -m hybrid.deep.train_bundled --out DIR`` trains it: simulated lesions with known properties are cut out as real
ones are, and the network learns to estimate the properties. ``--evaluate`` measures what a linear probe reads from the
embeddings of lesions that training has not seen, beside the same network before training.

Absolute intensities mean something in CT only. A part of the training inputs therefore goes through a random grey scale
(gamma, inversion, percentile normalisation); on those, properties in HU are not asked for. Lengths are multiplied at
random, so that the voxel-size channel is learnt far beyond the range of the generator.
"""

from __future__ import annotations

import argparse
import functools
import logging
import sys
import time
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import SimpleITK as sitk
import torch
from monai.networks.nets.resnet import ResNet
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from tqdm.auto import tqdm

from hybrid.phantoms.lesions import PROPERTY_NAMES, LesionProperties, draw_properties, paint_lesion

from .augmentation import jitter, other_scanner, random_symmetry
from .embeddings import BUNDLED, Encoder, load_encoder, one_thread
from .networks import architecture_of, build_network
from .preprocessing import NORMALISERS, Crop, Preprocessing, crop_lesion, network_input, stack_channels
from .weights import save_model

logger = logging.getLogger(__name__)

SEED: Final = 20
HELD_OUT_SEED: Final = 777
"""Seeds of the training lesions (and start weights) and of the held-out lesions."""

PREPROCESSING: Final = Preprocessing(size=48, margin_mm=10.0, channels=("image", "mask", "voxel_size"))
LENGTHS: Final = ("radius_mm", "texture_scale_mm", "edge_mm")
INTENSITIES: Final = ("contrast_hu", "texture_contrast_hu", "rim_hu")
"""Properties that scale with the world's size, and properties that only mean something in HU."""

SHARE_CT: Final = 0.6
"""Share of training inputs with CT normalisation; the others go through a random grey scale."""


@dataclass(frozen=True)
class SimulatedLesion:
    """A painted lesion, cut out.

    Attributes
    ----------
    crop : Crop
        HU in half precision.
    targets : ndarray of float32, shape (properties,)
        Its properties, lengths as logarithms; see :func:`property_vector`.
    """

    crop: Crop
    targets: np.ndarray


def property_vector(properties: LesionProperties, zoom: float = 1.0) -> np.ndarray:
    """Properties in the order of ``PROPERTY_NAMES``; lengths times ``zoom``, as natural logarithms of mm."""
    pairs = zip(PROPERTY_NAMES, astuple(properties), strict=True)
    return np.asarray([np.log(value * zoom) if name in LENGTHS else value for name, value in pairs], np.float32)


def simulate_lesion(rng: np.random.Generator, *, vary: bool) -> SimulatedLesion:
    """Paint one lesion on a CT-like grid and cut it out as a real one is.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    vary : bool
        For training: random margin, and all lengths multiplied by 0.5 to 4.

    Returns
    -------
    SimulatedLesion
        Slices of 1 to 5 mm, pixels of 0.7 to 1.2 mm before multiplication.
    """
    properties = draw_properties(rng)
    spacing = (float(rng.uniform(1.0, 5.0)), *[float(rng.uniform(0.7, 1.2))] * 2)
    zoom = float(np.exp(rng.uniform(np.log(0.5), np.log(4.0)))) if vary else 1.0
    half_edge = 1.4 * properties.radius_mm * properties.elongation ** (2 / 3) + 14.0
    size = [max(8, int(np.ceil(2 * half_edge / step))) for step in spacing]
    voxels, region = paint_lesion(properties, rng=rng, size=size, spacing=spacing)
    image, mask = sitk.GetImageFromArray(voxels), sitk.GetImageFromArray(region)
    for volume in (image, mask):
        volume.SetSpacing([step * zoom for step in reversed(spacing)])
    margin = float(rng.uniform(6.0, 16.0)) * zoom ** rng.uniform(0, 1) if vary else PREPROCESSING.margin_mm
    crop = crop_lesion(image, mask, replace(PREPROCESSING, margin_mm=margin))
    small = replace(crop, image=crop.image.astype(np.float16), mask=(crop.mask * 255).astype(np.uint8))
    return SimulatedLesion(small, property_vector(properties, zoom))


def simulate_lesions(count: int, seed: int, *, vary: bool, progress: bool = False) -> list[SimulatedLesion]:
    """Paint lesions, each from its own generator, so that any of them can be painted alone."""
    seeds = np.random.SeedSequence(seed).spawn(count)
    bar = tqdm(seeds, desc="lesions", unit="lesion", disable=not progress)
    return [simulate_lesion(np.random.default_rng(child), vary=vary) for child in bar]


def lesion_input(lesion: SimulatedLesion, modality: str) -> np.ndarray:
    """Input of the network for one simulated lesion, without augmentation, shape (C, D, H, W)."""
    return network_input(_full_precision(lesion.crop), replace(PREPROCESSING, modality=modality))


def _full_precision(crop: Crop) -> Crop:
    return replace(crop, image=crop.image.astype(np.float32), mask=crop.mask.astype(np.float32) / 255)


def _training_input(lesion: SimulatedLesion, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Augmented input, and which properties are asked for."""
    crop = _full_precision(lesion.crop)
    is_ct = rng.random() < SHARE_CT
    inside = np.ones_like(crop.inside)
    values = NORMALISERS["own"]["ct" if is_ct else "any"](crop.image, inside)
    if is_ct:
        values = jitter(values, rng, noise=0.08, contrast=0.02)
    else:
        values = jitter(other_scanner(values, rng), rng, noise=0.15, contrast=0.15)
    asked = np.asarray([is_ct or name not in INTENSITIES for name in PROPERTY_NAMES], np.float32)
    tensor = stack_channels(values, crop.mask, crop.spacing_mm, PREPROCESSING.channels)
    return random_symmetry(tensor, rng).copy(), asked


def train(
    *, lesions: int = 4000, epochs: int = 15, batch_size: int = 16, seed: int = SEED, progress: bool = True
) -> tuple[ResNet, dict[str, Any]]:
    """Train the encoder on one thread; the same seed gives the same weights on one machine type.

    Returns
    -------
    network : monai.networks.nets.ResNet
        Trained, in evaluation mode.
    record : dict
        Settings, loss of each epoch, seconds.
    """
    began = time.perf_counter()
    with one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pool = simulate_lesions(lesions, seed, vary=True, progress=progress)
        network = build_network("narrow", seed=seed)
        losses = _optimise(network, pool, epochs, batch_size, seed, progress)
    record = {
        "script": "python -m hybrid.deep.train_bundled", "seed": seed, "lesions": lesions, "epochs": epochs,
        "batch_size": batch_size, "loss": [round(loss, 4) for loss in losses],
        "seconds": round(time.perf_counter() - began), "properties": list(PROPERTY_NAMES),
    }  # fmt: skip
    return network.eval(), record


def _optimise(
    network: ResNet, pool: list[SimulatedLesion], epochs: int, batch_size: int, seed: int, progress: bool
) -> list[float]:
    targets = np.stack([lesion.targets for lesion in pool])
    standard = torch.from_numpy((targets - targets.mean(axis=0)) / targets.std(axis=0))
    model = nn.Sequential(network, nn.Linear(architecture_of(network).dim, targets.shape[1])).train()
    optimiser = torch.optim.AdamW(model.parameters(), 3e-3, weight_decay=1e-2)
    steps = epochs * max(1, len(pool) // batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps, pct_start=0.15)
    rng = np.random.default_rng([seed, 1])
    losses: list[float] = []
    with tqdm(total=steps, desc="training", unit="step", disable=not progress) as bar:
        for _ in range(epochs):
            order = rng.permutation(len(pool))[: steps // epochs * batch_size].reshape(-1, batch_size)
            total = [_step(model, optimiser, schedule, pool, standard, batch, rng, bar) for batch in order]
            losses.append(float(np.mean(total)))
            bar.set_postfix(loss=f"{losses[-1]:.3f}")
            logger.info("epoch %d: loss %.4f", len(losses), losses[-1])
    return losses


def _step(
    model: nn.Module, optimiser: Any, schedule: Any, pool: list[SimulatedLesion], standard: torch.Tensor,
    batch: np.ndarray, rng: np.random.Generator, bar: Any,
) -> float:  # fmt: skip
    inputs, asked = zip(*(_training_input(pool[i], rng) for i in batch), strict=True)
    weight = torch.from_numpy(np.stack(asked))
    errors = nn.functional.smooth_l1_loss(model(torch.from_numpy(np.stack(inputs))), standard[batch], reduction="none")
    loss = (errors * weight).sum() / weight.sum()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    schedule.step()
    bar.update()
    return loss.item()


def probe(
    trained: Encoder,
    untrained: Encoder,
    lesions: list[SimulatedLesion],
    *,
    modality: str = "ct",
    resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Compare what a ridge regression reads from two encoders, on lesions that neither has seen.

    Parameters
    ----------
    trained, untrained : Encoder
        Same preprocessing.
    lesions : list of SimulatedLesion
        The first half fits the probe, the second half tests it.
    modality : str
        Normalisation of the inputs.
    resamples : int
        Bootstrap resamples of the test lesions.
    seed : int
        Seed of the bootstrap.

    Returns
    -------
    DataFrame
        ``property, modality, r2_trained, r2_untrained, difference, ci_low, ci_high, n_fit, n_test``; R² on the test
        half; percentile bootstrap 95 % interval of the paired difference. Row ``mean`` averages the properties.
    """
    targets = np.stack([lesion.targets for lesion in lesions]).astype(np.float64)
    inputs = [lesion_input(lesion, modality) for lesion in lesions]
    half = len(lesions) // 2
    squared = []
    for encoder in (trained, untrained):
        values = np.stack([encoder.embed_input(tensor) for tensor in inputs])
        model = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-2, 4, 13)))
        squared.append((model.fit(values[:half], targets[:half]).predict(values[half:]) - targets[half:]) ** 2)
    test = targets[half:]
    rng = np.random.default_rng(seed)
    draws = [rng.integers(len(test), size=len(test)) for _ in range(resamples)]
    point = np.stack([_r2(errors, test) for errors in squared])
    boot = np.stack([_r2(squared[0][i], test[i]) - _r2(squared[1][i], test[i]) for i in draws])
    low, high = np.percentile(boot, [2.5, 97.5], axis=0)
    names = [*PROPERTY_NAMES, "mean"]
    return pd.DataFrame(
        {
            "property": names, "modality": modality, "r2_trained": point[0], "r2_untrained": point[1],
            "difference": point[0] - point[1], "ci_low": low, "ci_high": high, "n_fit": half, "n_test": len(test),
        }
    )  # fmt: skip


def _r2(squared_errors: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """R² of every property and, last, their mean."""
    each = 1 - squared_errors.mean(axis=0) / targets.var(axis=0)
    return np.append(each, each.mean())


def evaluate(
    path: str | Path = BUNDLED, *, lesions: int = 700, seed: int = HELD_OUT_SEED, progress: bool = False
) -> pd.DataFrame:
    """Probe a trained folder and its own random start on held-out lesions, as CT and as an image without unit.

    Parameters
    ----------
    path : path-like
        Model folder; the bundled one by default.
    lesions : int
        Held-out lesions; half fit the probe, half test it.
    seed : int
        Their seed, other than that of training.
    progress : bool
        Show a progress bar.

    Returns
    -------
    DataFrame
        See :func:`probe`.
    """
    encoder = load_encoder(path)
    pool = simulate_lesions(lesions, seed, vary=False, progress=progress)
    start = replace(encoder, name="untrained", network=build_network("narrow", seed=SEED), spec=None)
    return pd.concat([probe(encoder, start, pool, modality=name) for name in ("ct", "any")], ignore_index=True)


def main(arguments: list[str] | None = None) -> int:
    """Command line: ``--out DIR`` trains, evaluates and writes a model folder; ``--evaluate`` only evaluates."""
    parser = argparse.ArgumentParser(prog="python -m hybrid.deep.train_bundled", description=__doc__)
    parser.add_argument("--out", type=Path, help="train, evaluate and write the model folder here")
    parser.add_argument("--evaluate", action="store_true", help="evaluate --out, or the bundled encoder")
    parser.add_argument("--lesions", type=int, default=4000, help="training lesions")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--held-out", type=int, default=700, help="held-out lesions")
    options = parser.parse_args(arguments)
    if not options.evaluate and options.out is None:
        parser.error("give --out DIR to train, or --evaluate")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    folder = options.out or BUNDLED
    save = None
    if not options.evaluate:
        network, record = train(lesions=options.lesions, epochs=options.epochs)
        save = functools.partial(save_model, folder, network, PREPROCESSING, name="bundled", training=record)
        save()
    table = evaluate(folder, lesions=options.held_out, progress=True)
    if save is not None:
        save(metrics={"held_out_seed": HELD_OUT_SEED, "probe": table.to_dict("records")})
    sys.stdout.write(table.round(3).to_string(index=False) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
