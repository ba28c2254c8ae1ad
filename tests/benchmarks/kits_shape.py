"""Real anatomy, real labels: does the shape of a renal tumour tell malignancy or grade? Run by hand; minutes.

    export HYBRID_BENCHMARKS=...
    python tests/benchmarks/kits_shape.py --out run/kits_shape

Shape features of PyRadiomics in the tumour masks of kits_masks/kits23/t15 (1.5 mm), outcomes from
kits23_cases_000-299.csv: malignant against benign, and ISUP grade 3-4 against 1-2 (cases with a grade). The volume
alone stands beside them. Repeated nested cross-validation; these files have no grey values, so there is no texture.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import pandas as pd

from hybrid.analysis import compare_models
from hybrid.analysis.roc import delong_interval
from hybrid.cases import Case, Cohort
from hybrid.pipelines import cross_validate, extract_features

TUMOUR = 2
SHAPE_ONLY = {"imageType": {"Original": {}}, "featureClass": {"shape": []}, "setting": {"label": TUMOUR}}
SETS = {"shape": ["rad_original_shape_*"], "volume": ["rad_original_shape_MeshVolume"]}


def outcomes(table: pd.DataFrame) -> dict[str, pd.Series]:
    """Malignancy, and high against low ISUP grade, by case; cases without the label are left out."""
    malignant = table["malignant"].astype(str).str.lower().eq("true").astype(int)
    grade = pd.to_numeric(table["tumor_isup_grade"], errors="coerce").dropna()
    grade = grade[grade.isin([1, 2, 3, 4])]
    return {"malignant": malignant, "isup_3_4": (grade >= 3).astype(int)}


def volume_alone(folder: Path) -> None:
    """AUC of the volume as it stands in both tables, without any model."""
    for file in ("kits19_cases.csv", "kits23_cases_000-299.csv"):
        table = pd.read_csv(folder / file).set_index("case")
        for name, outcome in outcomes(table).items():
            area, low, high = delong_interval(outcome.to_numpy(), table.loc[outcome.index, "tumor_ml"].to_numpy())
            print(f"{file}, {name}: volume alone, no model: {area:.3f} ({low:.3f} to {high:.3f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    folder = Path(os.environ["HYBRID_BENCHMARKS"]) / "kits_masks"
    volume_alone(folder)
    table = pd.read_csv(folder / "kits23_cases_000-299.csv").set_index("case")
    paths = {name: folder / "kits23" / "t15" / f"{name}.nii.gz" for name in table.index}
    cases = [Case(name, name, path, path, roi_label=TUMOUR) for name, path in paths.items() if path.is_file()]
    work = {"n_jobs": options.jobs, "progress": False}
    features = extract_features(Cohort(cases), handcrafted=SHAPE_ONLY, out=options.out, **work)
    features = features.dropna(how="all")
    print(f"{len(features)} of {len(table)} cases with a tumour mask")
    for name, outcome in outcomes(table).items():
        kept = [case for case in features.index if case in outcome.index]
        cohort = Cohort(Case(case, case, outcome=int(outcome[case])) for case in kept)
        predictions = cross_validate(
            features.loc[kept], cohort, feature_sets=SETS, classifiers=("logistic",), repeats=10,
            folds=5, out=options.out / name, **work,
        )  # fmt: skip
        result = compare_models(predictions, contrast=[("shape", "volume")])
        print(f"\n{name}: {int(outcome[kept].sum())} of {len(kept)} positive (kits23_cases_000-299.csv)")
        print(result.models[["model", "auc", "lower", "upper"]].round(3).to_string(index=False))
        print(result.table[["model_a", "model_b", "difference", "lower", "upper", "p"]].round(3).to_string(index=False))


if __name__ == "__main__":
    main()
