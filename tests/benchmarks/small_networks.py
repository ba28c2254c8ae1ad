"""CPU time of a small 3D network, sliding and training, on one thread. Run by hand; prints ratios.

Sliding: a DynUNet over an array of 64 x 64 x 96 voxels in windows of 48, MONAI's ``sliding_window_inference`` with one
window at a time (``sw_batch_size=1``) against ours; labels must be equal. Training: a step on two patches with the
weights as torch lays them out, and with channels last, which training takes for networks narrower than 16 features.

    python tests/benchmarks/small_networks.py
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from monai.inferers import sliding_window_inference

from hybrid.deep.segmentation import SegmentationPlan
from hybrid.deep.segmentation.engines import InferenceOptions, make_engine
from hybrid.deep.segmentation.inference import predict_array
from hybrid.deep.segmentation.losses import SegmentationLoss
from hybrid.deep.segmentation.networks import build_segmenter, outputs

PATCH = (48, 48, 48)
SHAPE = (64, 64, 96)


def small_plan(width):
    """Plan of a DynUNet with two labels."""
    return SegmentationPlan(
        network="dynunet", modality="ct", labels=(1, 2), label_names=("kidney", "mass"), spacing=(3.0, 3.0, 3.0),
        patch=PATCH, batch=2, width=width, kernels=((3, 3, 3),) * 4, strides=((1, 1, 1), *((2, 2, 2),) * 3),
        intensity={"low": -3.0, "high": 3.0, "mean": 0.0, "sd": 1.0},
    )  # fmt: skip


def cpu_seconds(function, repeats):
    """Least CPU time of a call, after one that does not count, and its result."""
    result, spent = function(), []
    for _ in range(repeats):
        start = time.process_time()
        result = function()
        spent.append(time.process_time() - start)
    return min(spent), result


def compare_sliding(width, repeats):
    plan, options = small_plan(width), InferenceOptions(overlap=0.25, blending="constant", precision="float32")
    network = build_segmenter(plan).eval()
    values = np.random.default_rng(0).standard_normal(SHAPE, dtype=np.float32)
    engine = make_engine([network], options, patch=PATCH)

    def theirs():
        with torch.inference_mode():
            batch = torch.from_numpy(values)[None, None]
            return sliding_window_inference(batch, PATCH, 1, lambda x: torch.softmax(network(x), 1), overlap=0.25)

    slow, whole = cpu_seconds(theirs, repeats)
    fast, labels = cpu_seconds(lambda: predict_array(values, plan, engine, options), repeats)
    different = int((whole[0].argmax(0).numpy() != labels).sum())
    print(
        f"sliding, {width} features: MONAI {slow:.2f} CPU s, ours {fast:.2f} CPU s, {slow / fast:.2f} times less; "
        f"{different} of {labels.size} labels differ"
    )


def compare_steps(width, repeats):
    loss, generator = SegmentationLoss(), torch.Generator().manual_seed(0)
    patches = torch.randn((2, 1, *PATCH), generator=generator)
    labels = (torch.rand((2, 1, *PATCH), generator=generator) > 0.9).int()
    spent = {}
    for name, layout in (("contiguous", torch.contiguous_format), ("channels last", torch.channels_last_3d)):
        network = build_segmenter(small_plan(width)).train().to(memory_format=layout)
        images = patches.to(memory_format=layout)
        optimiser = torch.optim.AdamW(network.parameters())

        def step(network=network, optimiser=optimiser, images=images):
            depths = [nearest(depth, labels) for depth in outputs(network(images))]
            optimiser.zero_grad(set_to_none=True)
            torch.stack([loss(depth, labels) for depth in depths]).sum().backward()
            optimiser.step()

        spent[name], _ = cpu_seconds(step, repeats)
    text = ", ".join(f"{name} {seconds:.2f}" for name, seconds in spent.items())
    print(
        f"training step, {width} features, CPU s: {text}; {spent['contiguous'] / spent['channels last']:.2f} times less"
    )


def nearest(depth, labels):
    """Logits of a coarser depth on the labels' grid."""
    return torch.nn.functional.interpolate(depth, labels.shape[2:], mode="trilinear")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for width in (8, 16, 32):
        compare_sliding(width, options.repeats)
    for width in (8, 16):
        compare_steps(width, options.repeats)


if __name__ == "__main__":
    main()
