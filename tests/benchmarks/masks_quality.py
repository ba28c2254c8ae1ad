"""Quality of the segmentation systems on the benchmark data. Run by hand; hours in all on two cores.

    export HYBRID_BENCHMARKS=...
    python tests/benchmarks/masks_quality.py hippocampus --out run/hippocampus --minutes 15  # three seeds
    python tests/benchmarks/masks_quality.py overfit --out run/overfit  # 20 cases, far too long
    python tests/benchmarks/masks_quality.py malformation --out run/vm  # 53 simulated T2 MRI
    python tests/benchmarks/masks_quality.py renal --out run/renal --minutes 150  # simulated CT, real anatomy

``hippocampus``: ``hybrid train`` on the first 120 file names, judged on the last 30, which nothing was tuned on.
``renal``: the 300 label maps of kits_masks/kits23/k3 painted as CT of 3 mm; every fourth case is a test case, and is
painted a second time in another style (phase, noise, kernel, slices) as the external set.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import pandas as pd

from hybrid.cases import Cohort
from hybrid.phantoms import ScanStyle, simulate_malformation_cohort, simulate_painted_cohort
from hybrid.pipelines import evaluate_masks, run_lesion_mri, run_renal_mass, segment_cohort, train_segmenter

TEST_CASES = 30
INFERENCE = {"engine": "openvino", "overlap": 0.5, "mirror": True}
"""Of the 150 renal test scans; needs the extra ``openvino``."""

NARROW = {"width": 8, "memory_gib": 0.25}
"""Of the malformations: enough steps to learn the training patients by heart in minutes without a GPU."""

EXTERNAL = ScanStyle("external3", "portal", 20.0, 0.6, 1.5, 5.0, 3.0)


def data() -> Path:
    """Folder of the benchmark data."""
    return Path(os.environ["HYBRID_BENCHMARKS"])


def hippocampus_table(path: Path, train: slice = slice(None), validation: int = 0) -> Path:
    """Cohort table: the last 30 names are the test set; every ``validation``-th other case validates."""
    folder = data() / "hippocampus"
    names = sorted(file.name for file in (folder / "images").iterdir())
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
    """Three seeds, mirrored inference; prints the mean Dice of both labels on the test set."""
    cohort = Cohort.from_csv(hippocampus_table(out / "cohort.csv"))
    test = cohort.subset(case.case_id for case in cohort if case.covariates["split"] == "test")
    for seed in range(3):
        folder = out / f"seed_{seed}"
        train_segmenter(cohort, folder / "model", minutes=minutes, validation_share=0.05, seed=seed, progress=False)
        segment_cohort(test, folder / "model", folder, options={"mirror": True}, n_jobs=jobs, progress=False)
        table = evaluate_masks(test, folder, folder, title="Hippocampus on T1 MRI", n_jobs=jobs, progress=False)
        dice = table[(table["metric"] == "dice") & (table["lesion_id"] == "")]
        print(
            f"seed {seed}:", dice.groupby("structure")["value"].agg(["mean", "min", "count"]).round(4).to_dict("index")
        )


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
    maps = sorted((data() / "kits_masks" / "kits23" / "k3").glob("*.nii.gz"))
    test = maps[3::4]
    simulate_painted_cohort(out / "internal", maps, style="lowres", seed=11, progress=True)
    simulate_painted_cohort(out / "external", test, style=EXTERNAL, seed=12, progress=True)
    names = {path.name.removesuffix(".nii.gz") for path in test}
    internal, lesions = _painted(out / "internal", "")
    internal["split"] = ["test" if case in names else "train" for case in internal["case_id"]]
    internal.loc[internal.index[internal["split"] == "train"][::11], "split"] = "validation"
    external, more = _painted(out / "external", "_ext")
    cohort = pd.concat([internal, external.assign(split="external")])
    cohort.to_csv(out / "cohort.csv", index=False)
    run_renal_mass(
        Cohort.from_csv(out / "cohort.csv"), out, lesions=pd.concat([lesions, more]), minutes=minutes,
        kidney_spacing_mm=6.0, model=model, inference=INFERENCE, simulated=True, n_jobs=jobs, progress=False,
        title="Renal masses on CT, 3 mm voxels",
    )  # fmt: skip
    for name in ("masks_summary", "baselines", "detection", "froc_operating_points", "classification"):
        print(pd.read_csv(out / "tables" / f"{name}.csv").to_string())


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


VERBS = {"hippocampus": (hippocampus, 15.0), "overfit": (overfit, 6.0), "malformation": (malformation, 20.0),
         "renal": (renal, 150.0)}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=sorted(VERBS))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, help="training time (hippocampus: of each seed)")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--model", type=Path, help="renal: judge this cascade instead of training one")
    options = parser.parse_args()
    function, minutes = VERBS[options.part]
    more = {"model": options.model} if options.model else {}
    function(options.out, options.minutes or minutes, options.jobs, **more)


if __name__ == "__main__":
    main()
