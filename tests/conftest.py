"""Fixtures shared by all tests: small real files on disk and the folder of benchmark data."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk


def pytest_configure(config):
    """Share the cores between the processes of pytest-xdist: each of them would take them all."""
    if not hasattr(config, "workerinput"):
        return
    import threadpoolctl
    import torch

    threads = max(1, (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))
    torch.set_num_threads(threads)
    threadpoolctl.threadpool_limits(threads)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))  # of the processes that a test starts


@pytest.fixture(scope="session")
def benchmarks() -> Path:
    """Folder of the benchmark data; tests that need it are skipped when ``HYBRID_BENCHMARKS`` is unset."""
    folder = os.environ.get("HYBRID_BENCHMARKS")
    if not folder:
        pytest.skip("HYBRID_BENCHMARKS is not set: no benchmark data")
    return Path(folder)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Fail a test that skips although the benchmark data that it asks for are there."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and "benchmarks" in item.fixturenames and has_benchmarks():
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} skipped although HYBRID_BENCHMARKS names a folder: {call.excinfo.value}"
    return report


def has_benchmarks() -> bool:
    """Whether the folder of the benchmark data is named and exists."""
    folder = os.environ.get("HYBRID_BENCHMARKS")
    return bool(folder) and Path(folder).is_dir()


@pytest.fixture
def write_scan(tmp_path):
    """Write a small image and a mask with one cube, and return their paths."""

    def write(name: str, *, label: int = 1, seed: int = 0, size: int = 20, spacing=(1.0, 1.0, 2.0), cube: int = 8):
        rng = np.random.default_rng(seed)
        values = rng.normal(50, 20, (size, size, size)).astype(np.float32)
        mask = np.zeros(values.shape, np.uint8)
        mask[5 : 5 + cube, 5 : 5 + cube, 5 : 5 + cube] = label
        paths = []
        for kind, array in (("image", values), ("mask", mask)):
            image = sitk.GetImageFromArray(array)
            image.SetSpacing(spacing)
            path = tmp_path / f"{name}_{kind}.nii.gz"
            sitk.WriteImage(image, str(path))
            paths.append(path)
        return paths[0], paths[1]

    return write
