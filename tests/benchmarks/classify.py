"""Throughput of our image classifiers against a plain PyTorch loop over MONAI transforms. Run by hand.

    python tests/benchmarks/classify.py --slices 200 --volumes 24
    python tests/benchmarks/classify.py --slices 200 --volumes 24 --device cuda
    python tests/benchmarks/classify.py --training            # steps of a training on one core, 32 bits and bfloat16

Both sides read the same files, do the same preparation and run the same network with the same weights, in one process;
each is run once before it is measured. The peer is what one would write: a ``Compose`` of MONAI's transforms
and a loop with a batch of one, and for slices also a batch of sixteen. The peer reads each volume once and cuts it into
slices, as ours does. Ours uses one thread by design (the same bits for an image whatever stands beside it), so that the
peer is shown with one thread and with all. Ratios are printed for wall time and for CPU time (on a busy machine
only the latter means anything), and beside them the largest difference of the probabilities: the peer's resampling is
not ours.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from monai.data import MetaTensor
from monai.transforms import (
    Compose,
    LoadImage,
    Orientation,
    Resize,
    ResizeWithPadOrCrop,
    ScaleIntensityRange,
)

from hybrid.deep.classification.classifier import ImageClassifier
from hybrid.deep.classification.inputs import CT_WINDOWS, SliceInput, VolumeInput
from hybrid.deep.classification.networks import build_classifier, classifier_architecture

SLICES = 24
LABELS = (("L", "R"), ("P", "A"), ("I", "S"))
"""Ends of the axes, as MONAI names them."""

WINDOWS = (CT_WINDOWS["brain"], CT_WINDOWS["subdural"], CT_WINDOWS["bone"])


def write_volumes(folder: Path, count: int, size: int) -> list[Path]:
    """Random CT volumes as NIfTI, axes as most head CT store them."""
    rng = np.random.default_rng(0)
    paths = []
    for number in range(count):
        values = rng.normal(30, 200, (SLICES, size, size)).astype(np.int16)
        image = sitk.GetImageFromArray(values)
        image.SetSpacing((240 / size, 240 / size, 5.0))
        sitk.WriteImage(image, str(folder / f"{number}.nii.gz"), useCompression=True)
        paths.append(folder / f"{number}.nii.gz")
    return paths


def model(chosen: SliceInput | VolumeInput, network: str, device: str) -> ImageClassifier:
    """An untrained classifier: speed does not depend on the weights."""
    architecture = classifier_architecture(
        network, dims=len(chosen.size), in_channels=chosen.shape[0], classes=2, max_pool=True
    )
    return ImageClassifier(chosen, ("a", "b"), (build_classifier(architecture),), ({},)).on(device)


def timed(function, threads: int):
    """Probabilities, wall seconds and CPU seconds of the second of two calls."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    function()
    wall, cpu = time.monotonic(), time.process_time()
    result = function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    wall, cpu = time.monotonic() - wall, time.process_time() - cpu
    torch.set_num_threads(before)
    return result, wall, cpu


def windowed(values: MetaTensor) -> torch.Tensor:
    """One channel for each window."""
    channels = [
        ScaleIntensityRange(level - width / 2, level + width / 2, -1, 1, clip=True)(values) for level, width in WINDOWS
    ]
    return torch.cat([torch.as_tensor(channel) for channel in channels])


def softmax(network, batch, device):
    with torch.inference_mode():
        return torch.softmax(network(batch.to(device)), dim=1).cpu().numpy()


def peer_slices(classifier, paths, batch, device):
    """MONAI transforms slice by slice, batches of a fixed size."""
    rows, columns = classifier.input.size
    load = Compose([LoadImage(ensure_channel_first=True), Orientation("LPS", labels=LABELS)])
    resize = Resize((columns, rows), mode="bilinear", anti_aliasing=False)
    found, waiting = [], []
    for path in paths:
        volume = load(path)
        for k in range(volume.shape[-1]):
            waiting.append(windowed(resize(volume[..., k])).transpose(1, 2))
            if len(waiting) == batch:
                found.append(softmax(classifier.networks[0], torch.stack(waiting).float(), device))
                waiting = []
    if waiting:
        found.append(softmax(classifier.networks[0], torch.stack(waiting).float(), device))
    return np.concatenate(found)


def our_slices(classifier, paths):
    return np.concatenate([
        classifier.probabilities_of([classifier.input.read(path, k) for k in range(SLICES)]) for path in paths
    ])  # fmt: skip


def peer_volumes(classifier, paths, device):
    """MONAI transforms volume by volume."""
    size = classifier.input.size[::-1]
    change = Compose([
        LoadImage(ensure_channel_first=True), Orientation("LPS", labels=LABELS), Resize(size, mode="trilinear"),
        ResizeWithPadOrCrop(size),
    ])  # fmt: skip
    return np.concatenate([
        softmax(classifier.networks[0], windowed(change(path)).permute(0, 3, 2, 1)[None].float(), device)
        for path in paths
    ])  # fmt: skip


def our_volumes(classifier, paths):
    return np.stack([classifier.probabilities(classifier.input.read(path)) for path in paths])


def training_speed(size: int, widen: float, max_pool: bool, half: bool) -> float:
    """Images per second of CPU time in training steps of a ResNet-18, batches of 16, one thread."""
    architecture = classifier_architecture("resnet18", dims=2, in_channels=3, classes=2, widen=widen, max_pool=max_pool)
    layout = torch.channels_last if half else torch.contiguous_format
    network = build_classifier(architecture).train().to(memory_format=layout)
    images = torch.randn(16, 3, size, size).contiguous(memory_format=layout)
    targets, optimiser = torch.arange(16) % 2, torch.optim.AdamW(network.parameters(), 1e-4)
    seconds = []
    for _ in range(5):
        begin = time.process_time()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            scores = network(images)
        optimiser.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(scores.float(), targets).backward()
        optimiser.step()
        seconds.append(time.process_time() - begin)
    return 16 / min(seconds[1:])


def show_training() -> None:
    """Print the speed of training before and after bfloat16 with channels last."""
    torch.set_num_threads(1)
    for size, widen, max_pool in ((96, 1.0, False), (128, 1.0, False), (128, 1.0, True), (128, 0.5, False)):
        full, half = (training_speed(size, widen, max_pool, which) for which in (False, True))
        print(
            f"training, resnet18, {size} pixels, width {widen:g}, {'with' if max_pool else 'without'} pooling: "
            f"{full:.1f} images per CPU second in 32 bits, {half:.1f} in bfloat16 with channels last "
            f"({half / full:.2f} times as fast)"
        )


def show(name, count, ours, peers):
    """Print items per second of both sides, the ratios, and how far the probabilities differ."""
    values, wall, cpu = ours
    print(f"{name}: ours {count / wall:.2f} per second, {1000 * cpu / count:.0f} ms of CPU each")
    for label, (other, their_wall, their_cpu) in peers.items():
        difference = float(np.abs(values - other).max())
        print(
            f"  {label}: {count / their_wall:.2f} per second, {1000 * their_cpu / count:.0f} ms of CPU each; ours is "
            f"{their_wall / wall:.2f} times as fast ({their_cpu / cpu:.2f} by CPU time); largest difference of a "
            f"probability {difference:.4f}"
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, default=192)
    parser.add_argument("--volumes", type=int, default=24)
    parser.add_argument("--source", type=int, default=256, help="rows and columns of the files")
    parser.add_argument("--size", type=int, default=96, help="rows and columns of the input of slices")
    parser.add_argument("--network", default="resnet18")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--training", action="store_true", help="measure training steps only")
    options = parser.parse_args()
    if options.training:
        show_training()
        return
    cores, device = torch.get_num_threads(), options.device
    with tempfile.TemporaryDirectory() as name:
        paths = write_volumes(Path(name), max(options.volumes, -(-options.slices // SLICES)), options.source)
        used = paths[: max(1, options.slices // SLICES)]
        slices = model(SliceInput(size=(options.size, options.size), fit="stretch"), options.network, device)
        count = len(used) * SLICES
        peers = {
            f"MONAI, batch {batch}, {threads} threads": timed(
                lambda batch=batch: peer_slices(slices, used, batch, device), threads
            )
            for batch, threads in ((1, 1), (16, 1), (16, cores))
        }
        show(f"slices ({options.network}, {device})", count, timed(lambda: our_slices(slices, used), 1), peers)
        volumes = model(
            VolumeInput((64, 64, 64), intensity="ct", windows=WINDOWS, fit="stretch"), options.network, device
        )
        used = paths[: options.volumes]
        peers = {
            f"MONAI, batch 1, {threads} threads": timed(lambda: peer_volumes(volumes, used, device), threads)
            for threads in (1, cores)
        }
        show(f"volumes ({options.network}, {device})", len(used), timed(lambda: our_volumes(volumes, used), 1), peers)


if __name__ == "__main__":
    main()
