import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from hybrid.deep.segmentation.planning import SegmentationPlan, make_plan


def ball(shape, centre, radius):
    grid = np.ogrid[tuple(slice(0, n) for n in shape)]
    return sum((g - c) ** 2 for g, c in zip(grid, centre, strict=True)) <= radius**2


def blob_case(seed, shape=(28, 30, 26), spacing=(1.0, 1.0, 1.0)):
    """A noisy image with a bright ball (label 1) that holds a darker one (label 2)."""
    rng = np.random.default_rng(seed)
    centre = np.array(shape) / 2 + rng.uniform(-3, 3, 3)
    labels = np.zeros(shape, np.uint8)
    labels[ball(shape, centre, 8)] = 1
    labels[ball(shape, centre + np.array([2, 0, 1]), 4)] = 2
    values = np.choose(labels, [0.0, 100.0, 50.0]) + 8 * ndimage.gaussian_filter(rng.standard_normal(shape), 0.7)
    image, mask = sitk.GetImageFromArray(values.astype(np.float32)), sitk.GetImageFromArray(labels)
    for item in (image, mask):
        item.SetSpacing(spacing[::-1])
        item.SetOrigin((5.0, -3.0, 11.0))
    return image, mask


@pytest.fixture
def plan():
    return SegmentationPlan(
        network="unet", modality="mr", labels=(1, 2), label_names=("organ", "lesion"), spacing=(1.0, 1.0, 1.0),
        patch=(16, 16, 16), batch=2, width=8, kernels=((3, 3, 3),) * 3, strides=((1, 1, 1), (2, 2, 2), (2, 2, 2)),
        intensity={"low": -3.0, "high": 3.0, "mean": 0.0, "sd": 1.0},
    )  # fmt: skip


@pytest.fixture
def prints():
    from hybrid.deep.segmentation.planning import fingerprint

    return [fingerprint(*blob_case(seed), case_id=f"c{seed}") for seed in range(3)]


__all__ = ["ball", "blob_case", "make_plan"]
