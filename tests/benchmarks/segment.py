"""Speed and memory of segmenting one large CT. Run by hand; prints ratios against peers measured in the same run.

Two comparisons, each method in a process of its own, so that the peak memory is its own:

1. The cascade against MONAI's default sliding window (stage 2's network over the whole scan, full export of every
   class), same weights, on a 512 x 512 x 300 CT painted on a patient's label map. Labels inside the region of interest
   must be equal. ``--model CASCADE`` takes a trained one; without it the script trains one for minutes, enough to find
   the kidneys (kidneys at 4 mm, masses at 1.5 mm, planned as ``hybrid renal-mass`` does).
2. The export alone, 4 classes, 150 x 256 x 256 logits to 300 x 512 x 512 labels, against nnU-Net's default
   (``resample_data_or_seg_to_shape``, order 1, then argmax), installed into a virtual environment of its own by this
   script (``--out`` keeps it). Labels must be identical.

    export HYBRID_BENCHMARKS=...
    python tests/benchmarks/segment.py --out run/segment
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

import numpy as np

SIZE = (300, 512, 512)
SPACING = (1.0, 0.8, 0.8)
COARSE, CLASSES = (150, 256, 256), 4
TRAINED = 12
"""Patients that the small cascade is trained on."""


def measure(function):
    """CPU and wall seconds of a call, and the peak of the memory above that at its start (MiB; Linux)."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak is forgotten: imports and reading count for neither method
    held = resident_mib("VmRSS")
    before = resource.getrusage(resource.RUSAGE_SELF)
    start = time.monotonic()
    result = function()
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return result, {
        "cpu_s": cpu,
        "wall_s": time.monotonic() - start,
        "peak_mib": resident_mib("VmHWM") - held,
    }


def resident_mib(field):
    """Resident memory of this process (MiB): now (``VmRSS``) or at its peak (``VmHWM``)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def logits():
    """Smooth random logits with a few blobs of foreground: the kind of map an organ gives."""
    from scipy import ndimage

    rng = np.random.default_rng(0)
    small = rng.standard_normal((CLASSES, *(n // 10 for n in COARSE))).astype(np.float32)
    small[0] += 2.0
    zoomed = [
        ndimage.zoom(channel, [n / s for n, s in zip(COARSE, channel.shape, strict=True)], order=1) for channel in small
    ]
    return np.stack(zoomed).astype(np.float32) * 4


def export_ours(values):
    from hybrid.deep.segmentation.export import SlabExporter

    exporter = SlabExporter(SIZE, COARSE)
    for start in range(0, COARSE[0], 16):
        exporter.add(values[:, start : start + 16], start, slice(0, COARSE[1]), slice(0, COARSE[2]))
    return exporter.finish()


def export_nnunet(values):
    from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape

    full = resample_data_or_seg_to_shape(
        values, SIZE, (2.0, 2.0, 2.0), (1.0, 1.0, 1.0), is_seg=False, order=1, order_z=0, force_separate_z=None
    )
    return full.argmax(0).astype(np.uint8)


def whole_scan(model, image):
    """MONAI's defaults: sliding window over the whole resampled scan, every class at full resolution, argmax."""
    import torch
    from monai.inferers import sliding_window_inference

    from hybrid.deep.segmentation.cascade import load_cascade
    from hybrid.deep.segmentation.preprocessing import network_array, open_scan

    stage = load_cascade(model).mass
    scan = open_scan(image)
    values = torch.from_numpy(network_array(scan, stage.plan))[None, None]

    def probabilities(patch):
        return sum(torch.softmax(network(patch), 1) for network in stage.networks) / len(stage.networks)

    with torch.inference_mode():
        found = sliding_window_inference(values, stage.plan.patch, 1, probabilities)
        full = torch.nn.functional.interpolate(found, size=scan.array.shape, mode="trilinear")
        return full[0].argmax(0).to(torch.uint8).numpy()


def cascade(model, image, engine):
    """The cascade up to the labels of stage 2; returns them and the region of interest."""
    from hybrid.deep.segmentation.cascade import keep_kidneys, load_cascade
    from hybrid.deep.segmentation.preprocessing import open_scan
    from hybrid.regions import widened

    loaded = load_cascade(model)
    loaded = loaded.with_options(overlap=0.25, blending="constant", precision="float32", device="cpu", engine=engine)
    scan = open_scan(image)
    coarse = loaded.kidney.run(scan, export=False)
    kidneys = keep_kidneys(coarse.coarse > 0, loaded.kidney.plan.spacing, loaded.rules)
    relevant = widened(kidneys, loaded.rules.margin_mm, loaded.kidney.plan.spacing)
    found = loaded.mass.run(scan, relevant=relevant)
    return found.labels, relevant, {"windows": found.windows.total, "run": found.windows.run}


def label_maps():
    """Label maps of real patients."""
    return sorted((Path(os.environ["HYBRID_BENCHMARKS"]) / "kits_masks" / "kits23" / "k3").glob("*.nii.gz"))


def train_small_cascade(folder):
    """Train a cascade on a few painted patients; it must find the kidneys, its masses do not matter here."""
    from hybrid.phantoms import ScanStyle, simulate_painted_cohort
    from hybrid.pipelines.systems.renal_mass import train_cascade

    style = ScanStyle("fine", "portal", 15.0, 0.7, 1.5, 1.5, 1.5)
    cohort = simulate_painted_cohort(folder / "cohort", label_maps()[:TRAINED], style=style, seed=5)
    return train_cascade(cohort, folder / "cascade", epochs=6, members=1, plan={"width": 16}, progress=False)


def large_ct(path):
    """Paint a CT of 512 x 512 x 300 voxels on the label map of a patient that the small cascade has not seen."""
    import SimpleITK as sitk

    from hybrid.phantoms import ScanStyle
    from hybrid.phantoms.painted import paint_ct

    style = ScanStyle("large", "portal", 15.0, 0.7, 1.2, SPACING[0], SPACING[1])
    field = tuple(n * s for n, s in zip(SIZE, SPACING, strict=True))
    image = paint_ct(sitk.ReadImage(str(label_maps()[TRAINED])), style, seed=3, field_mm=field).image
    if image.GetSize() != SIZE[::-1]:
        raise SystemExit(f"The painted CT has {image.GetSize()} voxels, not {SIZE[::-1]}.")
    sitk.WriteImage(image, str(path))


def child(name, arguments, python=sys.executable):
    """Run one method in a process of its own and return what it printed."""
    command = [python, __file__, "--child", name, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def run_child(name, arguments):
    if name in ("export_ours", "export_nnunet"):
        values = np.load(arguments[0])
        labels, cost = measure(lambda: globals()[name](values))
        np.save(arguments[1], labels)
    else:
        import monai.inferers  # noqa: F401  # imports count for neither method
        import SimpleITK as sitk
        import torch

        import hybrid.deep.segmentation.cascade  # noqa: F401

        torch.set_num_threads(1)
        image = sitk.ReadImage(arguments[1])
        extra = {}
        if name == "whole_scan":
            labels, cost = measure(lambda: whole_scan(arguments[0], image))
        else:
            (labels, relevant, extra), cost = measure(lambda: cascade(arguments[0], image, arguments[3]))
            np.save(f"{arguments[2]}.roi.npy", relevant)
        np.save(arguments[2], labels)
        cost |= extra
    print(json.dumps(cost))


def peer_python(folder):
    """Interpreter of a virtual environment with nnU-Net, made when absent."""
    folder = Path(folder)
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    ready = subprocess.run([python, "-c", "import nnunetv2"], capture_output=True, check=False).returncode == 0
    if not ready:
        constraints = Path(__file__).parents[2] / "constraints.txt"
        torch = next(
            line for line in constraints.read_text(encoding="utf-8").splitlines() if line.startswith("torch==")
        )
        subprocess.run([python, "-m", "pip", "install", "-q", torch, "nnunetv2"], check=True)
    return str(python)


def compare_exports(folder, peers):
    np.save(folder / "logits.npy", logits())
    theirs = child("export_nnunet", [folder / "logits.npy", folder / "theirs.npy"], peer_python(peers))
    ours = child("export_ours", [folder / "logits.npy", folder / "ours.npy"])
    different = int((np.load(folder / "ours.npy") != np.load(folder / "theirs.npy")).sum())
    print(f"export, {CLASSES} classes, {COARSE} to {SIZE}")
    report("nnU-Net default", theirs)
    report("hybrid, slabs inside the foreground box", ours)
    print(f"  {theirs['cpu_s'] / ours['cpu_s']:.1f} times less CPU time; {different} voxels differ")


def compare_cascade(folder, model):
    from hybrid.deep.segmentation.inference import _on_grid

    path = folder / "ct.nii.gz"
    if not path.is_file():
        large_ct(path)
    whole = child("whole_scan", [model, path, folder / "whole.npy"])
    print(f"cascade, CT of {SIZE}, one thread")
    report("MONAI's sliding window over the scan, full export", whole)
    for engine in ("torch", "openvino"):
        ours = child("cascade", [model, path, folder / "ours.npy", engine])
        roi = _on_grid(np.load(folder / "ours.npy.roi.npy"), SIZE)
        expected, found = np.load(folder / "whole.npy"), np.load(folder / "ours.npy")
        inside = _eroded(roi)
        different = int((expected[inside] != found[inside]).sum())
        report(f"hybrid cascade, {engine} ({ours['run']} of {ours['windows']} windows)", ours)
        print(
            f"  {whole['cpu_s'] / ours['cpu_s']:.1f} times less CPU time, "
            f"{whole['peak_mib'] / max(ours['peak_mib'], 1):.1f} times less memory (at least 1 MiB is counted);\n"
            f"  {different} of {int(inside.sum())} voxels in the region of interest differ, "
            f"{int((expected[inside] > 0).sum())} of them are foreground"
        )


def _eroded(region):
    """Voxels whose interpolation touches nothing outside the region."""
    from scipy import ndimage

    return ndimage.binary_erosion(region, iterations=6)


def report(name, cost):
    print(f"  {name:55} {cost['cpu_s']:8.2f} CPU s {cost['wall_s']:8.2f} s {cost['peak_mib']:8.0f} MiB")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=("all", "cascade", "export"), default="all")
    parser.add_argument("--out", type=Path, help="for the small cascade, the CT and the peers (default: temporary)")
    parser.add_argument("--model", help="cascade folder (default: a small one is trained)")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        run_child(options.child[0], options.child[1:])
        return
    with tempfile.TemporaryDirectory() as name:
        folder = options.out or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        if options.part != "cascade":
            compare_exports(folder, folder / "peers")
        if options.part != "export":
            compare_cascade(folder, options.model or train_small_cascade(folder))


if __name__ == "__main__":
    main()
