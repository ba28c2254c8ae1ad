"""Quality of the segmentation systems on the benchmark data. Run by hand; hours in all on two cores.

    export HYBRID_BENCHMARKS=...
    python tests/benchmarks/masks_quality.py hippocampus --out run/hippocampus --minutes 30  # four networks
    python tests/benchmarks/masks_quality.py hippocampus_monai --out run/monai --minutes 15  # peer, same cases and time
    python tests/benchmarks/masks_quality.py overfit --out run/overfit  # 20 cases, far too long
    python tests/benchmarks/masks_quality.py malformation --out run/vm  # 53 simulated T2 MRI
    python tests/benchmarks/masks_quality.py renal --out run/renal --minutes 150  # simulated CT, real anatomy
    python tests/benchmarks/masks_quality.py growing --out run/renal --minutes 27  # stage 2, two ways

``hippocampus``: ``hybrid train`` on the first 120 file names, judged on the last 30, which nothing was tuned on; with
``--jobs 2`` two networks at once, a thread each.
``renal``: the 300 label maps of kits_masks/kits23/k3 painted as CT of 3 mm; every fourth case is a test case, and is
painted a second time in another style (phase, noise, kernel, slices) as the external set.
``growing``: judged on every fifth of the patients that ``renal`` trains on, never on its test patients.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import time
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import SimpleITK as sitk
import torch
from monai.utils import set_determinism

from hybrid.cases import Case, Cohort
from hybrid.deep.segmentation.cascade import MASS, CascadeRules
from hybrid.deep.segmentation.preprocessing import open_scan
from hybrid.deep.segmentation.segmenter import load_segmenter
from hybrid.deep.segmentation.training import TrainingSettings
from hybrid.images import to_array
from hybrid.lesions import label_lesions
from hybrid.phantoms import ScanStyle, simulate_malformation_cohort, simulate_painted_cohort
from hybrid.pipelines import evaluate_masks, run_lesion_mri, run_renal_mass, segment_cohort, train_segmenter
from hybrid.pipelines.systems.renal_mass import MASS_PATCH_MM, MASS_PLAN, ON_CPU
from hybrid.pipelines.training_cases import read_pair
from hybrid.regions import widened

TEST_CASES = 30
TEST_MAPS = slice(3, None, 4)
"""Every fourth label map is a test case."""

STRENGTH = 1 / 3
"""Of turning and scaling hippocampi: chosen on the last 30 of the first 120 files, with networks of the other 90."""

INFERENCE = {"engine": "openvino", "overlap": 0.5, "mirror": True}
"""Of the 150 renal test scans; needs the extra ``openvino``."""

NARROW = {"width": 8, "memory_gib": 0.25}
"""Of the malformations: enough steps to learn the training patients by heart in minutes without a GPU."""

SIZES_MM = (5.0, 10.0, 20.0, 40.0, 70.0)
"""Lesions below 10 mm are of few voxels of 3 mm: they have strata of their own."""

EXTERNAL = ScanStyle("external3", "portal", 20.0, 0.6, 1.5, 5.0, 3.0)


def data() -> Path:
    """Folder of the benchmark data."""
    return Path(os.environ["HYBRID_BENCHMARKS"])


def hippocampus_table(path: Path, train: slice = slice(None), validation: int = 0, *, shuffled: bool = False) -> Path:
    """Cohort table: the last 30 names (or 30 at random) are the test set; every ``validation``-th other validates."""
    folder = data() / "hippocampus"
    names = sorted(file.name for file in (folder / "images").iterdir())
    if shuffled:
        names = np.random.default_rng(0).permutation(names).tolist()
    own, test = names[:-TEST_CASES][train], names[-TEST_CASES:]
    sets = ["validation" if validation and i % validation == 0 else "train" for i in range(len(own))]
    rows = [
        (name.removesuffix(".nii.gz"), folder / "images" / name, folder / "labels" / name, split)
        for name, split in zip([*own, *test], [*sets, *["test"] * len(test)], strict=True)
    ]
    table = pd.DataFrame(rows, columns=["case_id", "image", "mask", "split"])
    table.insert(1, "patient_id", table["case_id"])
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path, index=False)
    return path


def hippocampus(out: Path, minutes: float, jobs: int) -> None:
    """Three seeds on the last 30 files, one on 30 drawn at random; mirrored inference. Prints the mean Dice of labels.

    How well the seeds agree among themselves is printed, too: where they agree better with each other than with the
    reference, more training does not help.
    """
    runs = [("last", 0), ("last", 1), ("last", 2), ("random", 0)]
    parallel = joblib.Parallel(n_jobs=jobs)  # as many threads for each as there are cores for it
    found = parallel(
        joblib.delayed(_hippocampus)(out / f"{which}_{seed}", which, minutes, seed) for which, seed in runs
    )
    for (which, seed), (steps, dice) in zip(runs, found, strict=True):
        print(f"{which} {TEST_CASES} files, seed {seed}, {steps} steps:", dice)
    print("agreement of the seeds, mean Dice:", _agreement([out / f"last_{seed}" / "masks" for seed in range(3)]))


def _hippocampus(folder: Path, which: str, minutes: float, seed: int) -> tuple[int, dict[str, dict[str, float]]]:
    """Train and judge one network; its steps, and the mean, smallest and number of Dice of each label."""
    cohort = Cohort.from_csv(hippocampus_table(folder / "cohort.csv", shuffled=which == "random"))
    test = cohort.subset(case.case_id for case in cohort if case.covariates["split"] == "test")
    train_segmenter(
        cohort, folder / "model", minutes=minutes, validation_share=0.05, seed=seed, settings={"strength": STRENGTH},
        progress=False,
    )  # fmt: skip
    segment_cohort(test, folder / "model", folder, options={"mirror": True}, progress=False)
    table = evaluate_masks(test, folder, folder, title="Hippocampus on T1 MRI", progress=False)
    steps = len(pd.read_csv(folder / "model" / "curves.csv")) * TrainingSettings().steps
    dice = table[(table["metric"] == "dice") & (table["lesion_id"] == "")]
    return steps, dice.groupby("structure")["value"].agg(["mean", "min", "count"]).round(4).to_dict("index")


def _agreement(folders: list[Path]) -> dict[int, float]:
    """Mean Dice of every label between the masks of each two folders."""
    scores: dict[int, list[float]] = {1: [], 2: []}
    for path in sorted(folders[0].glob("*.nii.gz")):
        masks = [to_array(sitk.ReadImage(str(folder / path.name))) for folder in folders]
        for label, found in scores.items():
            pairs = itertools.combinations([mask == label for mask in masks], 2)
            found.extend(2 * (a & b).sum() / (a.sum() + b.sum()) for a, b in pairs)
    return {label: round(float(np.mean(found)), 4) for label, found in scores.items()}


def hippocampus_monai(out: Path, minutes: float, jobs: int) -> None:
    """Named peer: a plain MONAI script (residual U-Net, standard transforms), on the same cases for the same time."""
    from monai.data import CacheDataset, DataLoader
    from monai.losses import DiceCELoss
    from monai.metrics import DiceMetric
    from monai.networks.nets import UNet
    from monai.transforms import (
        Compose,
        EnsureChannelFirstd,
        LoadImaged,
        NormalizeIntensityd,
        RandAffined,
        RandFlipd,
        RandGaussianNoised,
        RandScaleIntensityd,
        RandShiftIntensityd,
        SpatialPadd,
    )

    both = ("image", "mask")
    torch.set_num_threads(jobs)
    cases = pd.read_csv(hippocampus_table(out / "cohort.csv"))
    prepare = (
        LoadImaged(both),
        EnsureChannelFirstd(both),
        NormalizeIntensityd("image"),
        SpatialPadd(both, (48, 64, 48)),
    )
    vary = (
        RandAffined(both, prob=0.5, rotate_range=(0.3,) * 3, scale_range=(0.15,) * 3, mode=("bilinear", "nearest")),
        *(RandFlipd(both, prob=0.5, spatial_axis=axis) for axis in range(3)),
        RandGaussianNoised("image", prob=0.2), RandScaleIntensityd("image", 0.1), RandShiftIntensityd("image", 0.1),
    )  # fmt: skip
    sets = {}
    for name, transforms in (("train", prepare + vary), ("test", prepare)):
        items = cases.loc[cases["split"] == name, list(both)].to_dict("records")
        sets[name] = CacheDataset(items, Compose(transforms), progress=False)
    for seed in range(3):
        set_determinism(seed)
        network = UNet(3, 1, 3, channels=(32, 64, 128, 256), strides=(2, 2, 2), num_res_units=2)
        loss = DiceCELoss(to_onehot_y=True, softmax=True)
        optimiser = torch.optim.AdamW(network.parameters(), 1e-3)
        loader = DataLoader(sets["train"], batch_size=4, shuffle=True, drop_last=True)
        start, steps = time.monotonic(), 0
        while (part := (time.monotonic() - start) / (60 * minutes)) < 1:
            for group in optimiser.param_groups:
                group["lr"] = 1e-3 * 0.5 * (1 + math.cos(math.pi * part))
            for batch in loader:
                optimiser.zero_grad()
                loss(network(batch["image"].as_tensor()), batch["mask"].as_tensor()).backward()
                optimiser.step()
                steps += 1
        metric = DiceMetric(include_background=False, num_classes=3)
        network.eval()
        with torch.no_grad():
            for item in sets["test"]:
                labels = network(item["image"].as_tensor()[None]).argmax(1, keepdim=True)
                metric(labels, item["mask"].as_tensor()[None])
        values = metric.aggregate("mean_batch").tolist()
        print(f"MONAI script, seed {seed}, {steps} steps: mean Dice", [round(value, 4) for value in values])


def overfit(out: Path, minutes: float, jobs: int) -> None:
    """Train on 20 cases without augmentation, far too long, and on 120 as it should be; prints both gaps."""
    for name, train, augment in (("twenty", slice(20), False), ("all", slice(None), True)):
        cohort = Cohort.from_csv(hippocampus_table(out / name / "cohort.csv", train, 8))
        run_lesion_mri(
            cohort, out / name, minutes=minutes, augment=augment, bias_correction=False, n_jobs=jobs, progress=False,
            title=f"Hippocampus as one structure, {name} training cases",
        )  # fmt: skip
        print(name, pd.read_csv(out / name / "tables" / "generalisation_gap.csv").iloc[0].to_dict())


def malformation(out: Path, minutes: float, jobs: int) -> None:
    """53 simulated patients, with the gap against the size of the training set."""
    cohort = simulate_malformation_cohort(out / "cohort", n=53, seed=0)
    run_lesion_mri(
        cohort, out, minutes=minutes, sizes=(8, 16), augment=False, plan=NARROW, n_jobs=jobs, simulated=True,
        progress=False, title="Venous malformations on T2 MRI",
    )  # fmt: skip
    for name in ("masks_summary", "generalisation_gap", "gap_by_training_size"):
        print(pd.read_csv(out / "tables" / f"{name}.csv").to_string())


def renal(out: Path, minutes: float, jobs: int, model: Path | None = None) -> None:
    """Paint, train the cascade, judge it on the internal and the external test set."""
    internal, lesions = _internal(out)
    simulate_painted_cohort(out / "external", label_maps()[TEST_MAPS], style=EXTERNAL, seed=12, progress=True)
    internal.loc[internal.index[internal["split"] == "train"][::11], "split"] = "validation"
    external, more = _painted(out / "external", "_ext")
    cohort = pd.concat([internal, external.assign(split="external")])
    cohort.to_csv(out / "cohort.csv", index=False)
    run_renal_mass(
        Cohort.from_csv(out / "cohort.csv"), out, lesions=pd.concat([lesions, more]), minutes=minutes,
        kidney_spacing_mm=6.0, model=model, inference=INFERENCE, sizes_mm=SIZES_MM, simulated=True, n_jobs=jobs,
        progress=False, title="Renal masses on CT, 3 mm voxels",
    )  # fmt: skip
    for name in ("masks_summary", "baselines", "detection", "froc_operating_points", "classification"):
        if (path := out / "tables" / f"{name}.csv").is_file():  # a cascade may lack the last stage
            print(pd.read_csv(path).to_string())


def growing(out: Path, minutes: float, jobs: int) -> None:
    """Stage 2 alone, a network with growing patches and one without; prints what they find in patients left out."""
    painted, _ = _internal(out)
    painted = painted[painted["split"] == "train"].reset_index(drop=True)
    painted.loc[painted.index[::5], "split"] = "validation"
    painted.to_csv(out / "training.csv", index=False)
    cohort = Cohort.from_csv(out / "training.csv")
    left_out = [case for case in cohort if case.covariates["split"] == "validation"]
    print(f"{len(left_out)} patients left out, {minutes:g} minutes for each network")
    parallel = joblib.Parallel(n_jobs=jobs)
    folders = {share: out / f"growing_{share:g}" for share in (0.0, ON_CPU["settings"]["growing"])}
    parallel(joblib.delayed(_train_masses)(cohort, folder, minutes, share) for share, folder in folders.items())
    for share, folder in folders.items():
        found = pd.DataFrame(parallel(joblib.delayed(_found_masses)(case, folder) for case in left_out))
        steps = len(pd.read_csv(folder / "curves.csv")) * TrainingSettings().steps
        dice = found[["kidneys", "masses"]].mean().round(4).to_dict()
        touched = f"{found['found'].sum()} of {found['lesions'].sum()} masses touched"
        print(f"growing={share:g}, {steps} steps: Dice {dice}, {touched}, {found['false'].mean():.2f} false each")


def _train_masses(cohort: Cohort, folder: Path, minutes: float, growing: float) -> None:
    """Train one network of stage 2."""
    train_segmenter(
        cohort, folder, minutes=minutes, progress=False,
        plan={**MASS_PLAN, **ON_CPU["plan"], "patch_mm": MASS_PATCH_MM, "crop_margin_mm": CascadeRules().margin_mm},
        settings={**ON_CPU["settings"], "growing": growing, "monitored": 0},
    )  # fmt: skip


def _found_masses(case: Case, folder: Path) -> dict[str, float]:
    """Dice, masses found, and false regions of one network around the kidneys of the reference; no rule drops any."""
    segmenter, rules = load_segmenter(folder), CascadeRules()
    image, mask = read_pair(case)
    scan = open_scan(image)
    reference = np.array([0, 1, 2, 2])[scan.orientation.apply(to_array(mask))]
    labels = segmenter.run(scan, relevant=widened(reference > 0, rules.margin_mm, scan.spacing)).labels
    pairs = {"kidneys": (labels > 0, reference > 0), "masses": (labels == MASS, reference == MASS)}
    dice = {name: 2 * (a & b).sum() / (a.sum() + b.sum()) for name, (a, b) in pairs.items()}
    predicted, regions = label_lesions(labels == MASS, scan.spacing, min_volume_mm3=rules.min_mass_mm3)
    lesions, count = label_lesions(reference == MASS, scan.spacing)
    found = len(np.setdiff1d(lesions[labels == MASS], 0))
    return {**dice, "found": found, "lesions": count, "false": regions - len(np.setdiff1d(predicted[lesions > 0], 0))}


def label_maps() -> list[Path]:
    """The 300 label maps of kidneys and masses, voxels of 3 mm."""
    return sorted((data() / "kits_masks" / "kits23" / "k3").glob("*.nii.gz"))


def _internal(out: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Paint all label maps; the cohort, with a column ``split`` of train and test, and its lesions."""
    simulate_painted_cohort(out / "internal", label_maps(), style="lowres", seed=11, progress=True)
    names = {path.name.removesuffix(".nii.gz") for path in label_maps()[TEST_MAPS]}
    internal, lesions = _painted(out / "internal", "")
    internal["split"] = ["test" if case in names else "train" for case in internal["case_id"]]
    return internal, lesions


def _painted(folder: Path, suffix: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Cohort and lesion tables of a painted cohort, with a suffix to the case ids."""
    cohort = pd.read_csv(folder / "cohort.csv", dtype=str)
    lesions = pd.read_csv(folder / "lesions.csv", dtype={"case_id": str})
    for column in ("image", "mask"):
        cohort[column] = folder.name + "/" + cohort[column]
    cohort["patient_id"] = cohort["case_id"]
    for table in (cohort, lesions):
        table["case_id"] += suffix
    return cohort, lesions


VERBS = {
    "hippocampus": (hippocampus, 30.0), "hippocampus_monai": (hippocampus_monai, 15.0), "overfit": (overfit, 6.0),
    "malformation": (malformation, 20.0), "renal": (renal, 150.0), "growing": (growing, 27.0),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=sorted(VERBS))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, help="training time (hippocampus, growing: of each network)")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--model", type=Path, help="renal: judge this cascade instead of training one")
    options = parser.parse_args()
    function, minutes = VERBS[options.part]
    more = {"model": options.model} if options.model else {}
    function(options.out, options.minutes or minutes, options.jobs, **more)


if __name__ == "__main__":
    main()
