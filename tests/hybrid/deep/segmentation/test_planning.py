import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hybrid.deep.segmentation.planning import SegmentationPlan, fingerprint, make_plan, stages, training_gib
from hybrid.errors import InputError

from .conftest import blob_case


def test_plan_of_small_isotropic_images_covers_them_whole(prints):
    plan = make_plan(prints)
    assert plan.modality == "mr"
    assert plan.labels == (1, 2)
    assert plan.spacing == (1.0, 1.0, 1.0)
    assert all(p >= n for p, n in zip(plan.patch, (28, 30, 26), strict=True))
    assert all(p % d == 0 for p, d in zip(plan.patch, plan.divisor, strict=True))


def test_plan_survives_json(prints):
    plan = make_plan(prints, label_map={2: 1}, mirror_axes=(0, 2))
    assert SegmentationPlan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


def test_plan_file_with_an_unknown_field_is_refused(prints):
    values = make_plan(prints).to_dict() | {"pathc": [1, 2, 3]}
    with pytest.raises(InputError, match="pathc"):
        SegmentationPlan.from_dict(values)


def test_spacing_is_the_median_and_thick_slices_are_kept_thick():
    cases = [
        fingerprint(*blob_case(s, (12, 40, 40), (z, 0.7, 0.7)), case_id=str(s)) for s, z in enumerate((8.0, 8.0, 6.0))
    ]
    plan = make_plan(cases)
    assert plan.spacing[1:] == (0.7, 0.7)
    assert 6.0 <= plan.spacing[0] < 8.0
    assert plan.kernels[0] == (1, 3, 3)
    assert plan.strides[1] == (1, 2, 2)


def test_pooling_stops_at_four_voxels():
    _, strides = stages((40, 56, 40), (1.0, 1.0, 1.0))
    assert strides == ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2))
    _, short = stages((8, 64, 64), (1.0, 1.0, 1.0))
    assert np.prod([s[0] for s in short]) == 2


def test_a_network_that_pools_every_axis_gets_equal_strides(prints):
    plan = make_plan(prints, network="segresnet")
    assert all(len(set(stride)) == 1 for stride in plan.strides)


def test_less_memory_gives_a_smaller_patch(prints):
    large, small = make_plan(prints, memory_gib=2.0), make_plan(prints, memory_gib=0.05)
    assert math.prod(small.patch) < math.prod(large.patch)
    assert small.memory_gib <= 0.05


def test_longest_edge_limits_the_patch_where_memory_does_not():
    thick = [fingerprint(*blob_case(s, (20, 60, 60), (4.0, 2.0, 2.0)), case_id=str(s)) for s in range(2)]
    assert make_plan(thick, patch_mm=64.0).patch == (16, 32, 32)
    assert make_plan(thick, patch_mm=64.0, memory_gib=0.02) == make_plan(thick, memory_gib=0.02)


def test_memory_that_holds_no_patch_is_refused_with_the_number(prints):
    with pytest.raises(InputError, match=r"needs about .* GiB"):
        make_plan(prints, memory_gib=0.001)


def test_undeclared_label_names_the_case(prints):
    with pytest.raises(InputError, match="labels \\[2\\]") as caught:
        make_plan(prints, labels={"organ": 1})
    assert caught.value.case_id == "c0"


def test_declared_label_that_no_mask_holds_is_refused(prints):
    with pytest.raises(InputError, match="label 7"):
        make_plan(prints, labels={"organ": 1, "lesion": 2, "stone": 7})


def test_merged_labels_become_one(prints):
    assert make_plan(prints, labels={"all": 1}, label_map={2: 1}).labels == (1,)


def test_images_of_hounsfield_values_are_taken_for_ct():
    image, mask = blob_case(0)
    cases = [fingerprint(image - 1000.0, mask, case_id="a")]
    assert make_plan(cases).modality == "ct"


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="the peak memory of a process is read from /proc")
def test_estimate_of_memory_is_near_what_a_step_takes():
    code = """
import re, torch
from pathlib import Path
from hybrid.deep.segmentation.planning import SegmentationPlan
from hybrid.deep.segmentation.networks import build_segmenter, outputs
torch.set_num_threads(1)
strides = ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2))
plan = SegmentationPlan("dynunet", "mr", (1,), ("a",), (1.,) * 3, (56,) * 3, 2, 16, ((3, 3, 3),) * 4, strides, {})
network = build_segmenter(plan).train()
def peak():
    return int(re.search("VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text(encoding="utf-8"))[1])
before = peak()
for _ in range(2):
    sum(depth.softmax(1).square().mean() for depth in outputs(network(torch.randn(2, 1, 56, 56, 56)))).backward()
print((peak() - before) * 1024)
"""
    grown = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert 0.5 < training_gib((56, 56, 56), 2, 16) * 2**30 / grown < 2.5
