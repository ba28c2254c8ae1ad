"""Does a cohort of 20 gain from an auxiliary one (system b)? Run by hand; each part takes up to two hours on two cores.

    export HYBRID_BENCHMARKS=...
    python tests/benchmarks/transfer_quality.py kits --out run/transfer_kits
    python tests/benchmarks/transfer_quality.py hippocampus --out run/transfer_hippocampus
    python tests/benchmarks/transfer_quality.py curves --out run/transfer_curves
    python tests/benchmarks/transfer_quality.py folds --out run/transfer_folds
    python tests/benchmarks/transfer_quality.py kits_curves --out run/transfer_kits
    python tests/benchmarks/transfer_quality.py kits_folds --out run/transfer_kits
    python tests/benchmarks/transfer_quality.py kits_curves_full --out run/transfer_kits_full --jobs 1  # wants a GPU
    python tests/benchmarks/transfer_quality.py kits_folds_full --out run/transfer_kits_full --jobs 1  # wants a GPU

Fixed before the first run: styles, cases, budget, seeds. ``kits``: the 300 label maps of kits_masks/kits23/k3,
painted as CT of 3 mm; the paint does not depend on malignancy, so that only shape, size and place can tell it.
Primary: 10 benign and 10 malignant patients; test: 70 patients in the primary style (the other 15 benign, 55
malignant); auxiliary: the other 210, with another phase and noise. ``hippocampus``: 20 primary, 100 auxiliary after a
shift of intensities and resolution, and the last 30 files as the test set. After ``kits`` the 20 primary patients are
classified (benign against malignant) by features of the reference masks and of those that the auxiliary network draws,
which has seen none of them; the 70 test patients are held out. Needs the extra ``openvino``. ``curves``: hippocampus
with 5, 10, 15 and 20 primary patients and four weights of the auxiliary loss; one seed, 200 steps, half the width.
``folds``: the 20 primary patients alone, in two repeats of three folds, every arm with 200 steps and half the width.
``kits_curves`` and ``kits_folds``: both on the painted CT, with 3000 steps for the auxiliary network, whose training
they share in one folder; the report there is that of the last one, and each is written again in seconds.
``kits_curves_full`` and ``kits_folds_full`` (never run so far): with 4800 steps an arm.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import SimpleITK as sitk

from hybrid.cases import Cohort
from hybrid.phantoms import ScanStyle, simulate_painted_cohort
from hybrid.pipelines import TransferStudy
from hybrid.pipelines.systems.transfer_features import classify_transfer

AUXILIARY_STYLE = ScanStyle("auxiliary3", "nephrographic", 10.0, 1.5, 2.5, 3.0, 3.0)
PRIMARY_STYLE = ScanStyle("primary3", "portal", 18.0, 0.7, 1.8, 3.0, 3.0)
DRAW_SEED = 20
TEST_PATIENTS = 70
INFERENCE = {"engine": "openvino", "overlap": 0.25}
"""1120 predictions of large scans; the same for all arms."""

TABLES = (
    "arms", "contrasts", "contrasts_fine_tuning",
    "learning_curve", "learning_curve_tests", "dilution", "dilution_tests",
)  # fmt: skip
"""Printed, as far as a part has them."""

CURVES = {
    "arms": ("primary_only", "fine_tune", "joint", "dual_branch"), "epochs": 2, "pretraining_epochs": 15, "steps": 100,
    "seeds": 1, "sizes": (5, 10, 15), "weights": (0.0, 1.0, 2.0), "plan": {"width": 8},
}  # fmt: skip
"""200 steps an arm, half the width: 16 trainings in about 22 minutes."""

FOLDS = {
    "epochs": 2, "pretraining_epochs": 15, "steps": 100, "folds": 3, "repeats": 2, "plan": {"width": 8},
}  # fmt: skip
"""Without a fixed test set: every patient is judged twice, by networks that have not seen the patient."""

PAINTED = {"pretraining_epochs": 30, "plan": {"width": 8, "patch": (48, 48, 48)}}
"""Painted tumours are harder to learn than a hippocampus: twice the steps for the auxiliary network. The patch is that
of ``kits``; half the width would fit a larger one into the same memory."""

FULL = {"epochs": 24, "pretraining_epochs": 120, "steps": 200}
FULL_CURVES = {"seeds": 3, "sizes": (5, 10, 15), "weights": (0.0, 1.0, 2.0)}

BUDGET = {"epochs": 3, "pretraining_epochs": 15, "steps": 200, "seeds": 3}
"""600 steps an arm, in long epochs, after each of which the Dice of whole scans is computed."""


def data() -> Path:
    """Folder of the benchmark data."""
    return Path(os.environ["HYBRID_BENCHMARKS"])


def draw_kits() -> tuple[list[str], list[str], list[str]]:
    """Primary, test and auxiliary cases, drawn once for all runs."""
    table = pd.read_csv(data() / "kits_masks" / "kits23_cases_000-299.csv")
    rng = np.random.default_rng(DRAW_SEED)
    malignant = table["malignant"].astype(str).str.lower() == "true"
    benign, rest = (list(rng.permutation(table.loc[mask, "case"])) for mask in (~malignant, malignant))
    primary = benign[:10] + rest[:10]
    test = benign[10:] + rest[10 : 10 + TEST_PATIENTS - len(benign[10:])]
    return primary, test, [case for case in table["case"] if case not in {*primary, *test}]


def kits(out: Path, jobs: int, *, fixed: bool = True, **settings: Any) -> TransferStudy:
    """Paint both cohorts and set up the study, with the 70 test patients or with folds of the 20 primary ones."""
    folder = data() / "kits_masks" / "kits23" / "k3"
    primary, test, auxiliary = draw_kits()
    own = [folder / f"{case}.nii.gz" for case in (*primary, *test)]
    simulate_painted_cohort(out / "primary", own, style=PRIMARY_STYLE, seed=31, progress=True)
    simulate_painted_cohort(
        out / "auxiliary",
        [folder / f"{case}.nii.gz" for case in auxiliary],
        style=AUXILIARY_STYLE,
        seed=32,
        progress=True,
    )
    table = pd.read_csv(out / "primary" / "cohort.csv", dtype=str)
    if fixed:
        table["split"] = ["train" if case in primary else "test" for case in table["case_id"]]
    else:
        table = table[table["case_id"].isin(primary)]
    truth = pd.read_csv(data() / "kits_masks" / "kits23_cases_000-299.csv").set_index("case")["malignant"]
    table["outcome"] = [int(str(truth[case]).lower() == "true") for case in table["case_id"]]
    path = out / "primary" / ("split.csv" if fixed else "folds.csv")
    table.to_csv(path, index=False)
    return TransferStudy(
        Cohort.from_csv(path), Cohort.from_csv(out / "auxiliary" / "cohort.csv"),
        out / "study",
        labels={"kidney": 1, "tumour": 2, "cyst": 3}, structures={"kidney": [1, 2, 3], "tumour": [2]}, locate_mm=6.0,
        inference=INFERENCE,
        title="Renal tumours: 20 own and 210 auxiliary patients", simulated=True, n_jobs=jobs, progress=False,
        **(settings or BUDGET),
    )  # fmt: skip


def kits_curves(out: Path, jobs: int) -> TransferStudy:
    """Learning curve and dilution test on painted CT."""
    return kits(out, jobs, **{**CURVES, **PAINTED})


def kits_folds(out: Path, jobs: int) -> TransferStudy:
    """Folds of the 20 primary patients on painted CT, drawn once."""
    return kits(out, jobs, fixed=False, **{**FOLDS, **PAINTED, "repeats": 1})


def kits_curves_full(out: Path, jobs: int) -> TransferStudy:
    """Learning curve and dilution test on painted CT."""
    return kits(out, jobs, **FULL, **FULL_CURVES)


def kits_folds_full(out: Path, jobs: int) -> TransferStudy:
    """Repeated folds of the 20 primary patients on painted CT."""
    return kits(out, jobs, fixed=False, **FULL, folds=5, repeats=2)


def hippocampus(out: Path, jobs: int, *, fixed: bool = True, **settings: Any) -> TransferStudy:
    """Shift the auxiliary images and set up the study, with the last 30 files as the test set or with folds."""
    folder = data() / "hippocampus"
    names = sorted(file.name for file in (folder / "images").iterdir())
    order = np.random.default_rng(DRAW_SEED).permutation(names[:-30])
    rows = {"primary": [], "auxiliary": []}
    for name in (*order[:20], *(names[-30:] if fixed else ())):
        split = ("test" if name in names[-30:] else "train") if fixed else ""
        rows["primary"].append((name, folder / "images" / name, folder / "labels" / name, split))
    for name in order[20:]:
        path = out / "auxiliary" / name
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            sitk.WriteImage(shifted(sitk.ReadImage(str(folder / "images" / name), sitk.sitkFloat32)), str(path))
        rows["auxiliary"].append((name, path, folder / "labels" / name, ""))
    cohorts = {}
    for kind, found in rows.items():
        table = pd.DataFrame(found, columns=["case_id", "image", "mask", "split"])
        table["case_id"] = table["case_id"].str.removesuffix(".nii.gz")
        table.insert(1, "patient_id", table["case_id"])
        table.to_csv(out / f"{kind}.csv", index=False)
        cohorts[kind] = Cohort.from_csv(out / f"{kind}.csv")
    return TransferStudy(
        cohorts["primary"], cohorts["auxiliary"], out / "study", labels={"anterior": 1, "posterior": 2},
        title="Hippocampus: 20 own and 100 shifted auxiliary patients", n_jobs=jobs, progress=False,
        **(settings or BUDGET),
    )  # fmt: skip


def curves(out: Path, jobs: int) -> TransferStudy:
    """Learning curve and dilution test."""
    return hippocampus(out, jobs, **CURVES)


def folds(out: Path, jobs: int) -> TransferStudy:
    """Repeated folds of the 20 primary patients."""
    return hippocampus(out, jobs, fixed=False, **FOLDS)


def shifted(image: sitk.Image) -> sitk.Image:
    """Another scanner: contrast bent (gamma 0.6 over the 99th percentile), blur of 0.8 mm, slices of 2 mm."""
    values = sitk.GetArrayFromImage(image)
    top = float(np.percentile(values, 99))
    bent = sitk.GetImageFromArray((top * np.clip(values / top, 0, None) ** 0.6).astype(np.float32))
    bent.CopyInformation(image)
    smooth = sitk.DiscreteGaussian(bent, 0.64)
    size = [image.GetSize()[0], image.GetSize()[1], max(1, image.GetSize()[2] // 2)]
    spacing = [*image.GetSpacing()[:2], 2 * image.GetSpacing()[2]]
    thick = sitk.Resample(
        smooth, size, sitk.Transform(), sitk.sitkLinear, image.GetOrigin(), spacing, image.GetDirection(), 0.0
    )
    return sitk.Resample(thick, image, sitk.Transform(), sitk.sitkLinear, 0.0, sitk.sitkFloat32)


PARTS = {
    "kits": kits, "hippocampus": hippocampus, "curves": curves, "folds": folds, "kits_curves": kits_curves,
    "kits_folds": kits_folds, "kits_curves_full": kits_curves_full, "kits_folds_full": kits_folds_full,
}  # fmt: skip


def main() -> None:
    began = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=tuple(PARTS))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    study = PARTS[options.part](options.out, options.jobs)
    report = study.run()
    for name in TABLES:
        path = report.parent / "tables" / f"{name}.csv"
        if path.is_file():
            print(pd.read_csv(path).to_string())
    print(f"{(time.monotonic() - began) / 60:.1f} minutes", flush=True)
    if options.part == "kits":
        report = classify_transfer(study, structure="tumour")
        for name in ("estimates", "contrasts"):
            print(pd.read_csv(report.parent / "tables" / f"{name}.csv").to_string())
    print(f"{(time.monotonic() - began) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
