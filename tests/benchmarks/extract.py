"""Handcrafted extraction against a plain PyRadiomics loop on the same real cases; run by hand.

    HYBRID_BENCHMARKS=DATA python tests/benchmarks/extract.py            speed, same values
    HYBRID_BENCHMARKS=DATA python tests/benchmarks/extract.py --memory   peak memory against the number of patients

Both sides read the files, write no result, and run on one thread per process. The plain loop is what PyRadiomics'
documentation shows: one extractor, ``execute(image, mask)`` for each case. Repeats are interleaved; the median counts.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import joblib
import pandas as pd
import SimpleITK as sitk

from hybrid.cases import Case, Cohort
from hybrid.handcrafted import column_name, load_settings
from hybrid.pipelines import extract_features

UNRESAMPLED = {
    "setting": {"binCount": 32},
    "imageType": {"Original": {}, "LoG": {"sigma": [1.0, 2.0, 3.0, 4.0, 5.0]}, "Wavelet": {}},
}
SETTINGS = {"preset ct": "ct", "original + 5 LoG + wavelet, own grid": UNRESAMPLED}
STS = ("STS_008", "STS_002", "STS_012", "STS_010", "STS_004")


def benchmark_cohort(data: Path) -> Cohort:
    """Three MR cases of PyRadiomics, five sarcoma CTs and one brain MR at full resolution."""
    cases = [
        Case(name, name, data / f"pyradiomics/{name}_image.nrrd", data / f"pyradiomics/{name}_label.nrrd", roi_label=1)
        for name in ("brain1", "brain2", "breast1")
    ]
    folder = data / "sts_cohort"
    cases += [Case(n, n, folder / n / "CT.nii.gz", folder / n / "CT_gtv.nii.gz", roi_label=1) for n in STS]
    image, mask = sorted((data / "upenn_gbm_00002").rglob("*.nii.gz"), key=lambda path: "seg" in path.name)
    return Cohort([*cases, Case("gbm", "gbm", image, mask, roi_label=1)])


def plain_case(image: Path, mask: Path, parameters: dict, label: int) -> dict[str, float]:
    """One case as PyRadiomics' documentation shows it."""
    import radiomics
    from radiomics.featureextractor import RadiomicsFeatureExtractor

    radiomics.setVerbosity(60)
    values = RadiomicsFeatureExtractor(parameters).execute(str(image), str(mask), label=label)
    return {column_name(name): float(v) for name, v in values.items() if not name.startswith("diagnostics")}


def plain(cohort: Cohort, settings: object, n_jobs: int) -> pd.DataFrame:
    """Loop over the cases, or the same loop in joblib."""
    parameters = load_settings(settings).parameters
    one = joblib.delayed(plain_case)
    jobs = (one(case.images["image"], case.masks["image"], parameters, case.roi_label) for case in cohort)
    rows = joblib.Parallel(n_jobs=n_jobs)(jobs)
    return pd.DataFrame(rows, index=pd.Index([case.case_id for case in cohort], name="case_id"))


def ours(cohort: Cohort, settings: object, n_jobs: int) -> pd.DataFrame:
    """Run the package's own pipeline."""
    return extract_features(cohort, handcrafted=settings, n_jobs=n_jobs, progress=False)


def timed(function: Callable[..., pd.DataFrame], *arguments: object) -> tuple[float, pd.DataFrame]:
    """Seconds and result."""
    start = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - start, result


def compare(cohort: Cohort, repeats: int) -> None:
    """Print cases per minute of both, and whether the values agree."""
    for name, settings in SETTINGS.items():
        for n_jobs in (1, 2):
            for function in (plain, ours):
                function(cohort[:2], settings, n_jobs)  # imports, worker processes
            seconds: dict[str, list[float]] = {"plain": [], "ours": []}
            for _ in range(repeats):
                for key, function in (("plain", plain), ("ours", ours)):
                    spent, table = timed(function, cohort, settings, n_jobs)
                    seconds[key].append(spent)
                    if key == "plain":
                        expected = table
            identical = expected.equals(table[expected.columns])
            rate = {key: 60 * len(cohort) / statistics.median(values) for key, values in seconds.items()}
            print(f"{name}; {n_jobs} process(es); {len(cohort)} cases x {table.shape[1]} features:")
            print(
                f"  plain {rate['plain']:.0f}, ours {rate['ours']:.0f} cases/min, "
                f"ratio {rate['ours'] / rate['plain']:.2f}, bit-identical: {identical}"
            )


def case_by_case(cohort: Cohort) -> None:
    """Print the seconds of each case, one process."""
    for name, settings in SETTINGS.items():
        print(name)
        for case in cohort:
            size = sitk.ReadImage(str(case.images["image"])).GetSize()
            slow, fast = (min(timed(f, Cohort([case]), settings, 1)[0] for _ in range(2)) for f in (plain, ours))
            print(f"  {case.case_id:8} {size!s:16} plain {slow:6.2f} s, ours {fast:6.2f} s, ratio {slow / fast:5.2f}")


def peak_memory(cohort: Cohort, patients: int) -> None:
    """Print the peak of this process after so many patients (the cases over and over, under new names)."""
    cases = [cohort[i % len(cohort)] for i in range(patients)]
    many = Cohort(
        Case(f"{i:03d}", f"{i:03d}", case.images["image"], case.masks["image"], roi_label=1)
        for i, case in enumerate(cases)
    )
    ours(many, "ct", 1)
    print(f"{patients:4d} patients: peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--patients", type=int)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    data = os.environ.get("HYBRID_BENCHMARKS")
    if not data:
        sys.exit("Set HYBRID_BENCHMARKS to the folder of benchmark data.")
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    cohort = benchmark_cohort(Path(data))
    if arguments.patients:
        peak_memory(cohort, arguments.patients)
    elif arguments.memory:
        for patients in (9, 18, 36, 72):
            subprocess.run([sys.executable, __file__, "--patients", str(patients)], check=True)
    else:
        compare(cohort, arguments.repeats)
        case_by_case(cohort)


if __name__ == "__main__":
    main()
