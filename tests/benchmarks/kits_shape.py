"""Real anatomy, real labels: does the shape of a renal tumour tell malignancy or grade? Run by hand; minutes.

    export HYBRID_BENCHMARKS=...
    python tests/benchmarks/kits_shape.py --out run/kits_shape

Shape features of PyRadiomics in the tumour masks of kits_masks/kits23/t15 (1.5 mm), outcomes from
kits23_cases_000-299.csv: malignant against benign, and ISUP grade 3-4 against 1-2 (cases with a grade). The volume
alone stands beside them. Repeated nested cross-validation; these files have no grey values, so there is no texture.

Then external validation: each outcome and feature set is frozen on the patients of the first challenge (cases 0 to 209)
as `hybrid fit` does, applied to the patients that came with the second (210 to 299) as `hybrid validate` does, and the
table of both sides is printed; `--external-only` leaves the rest out.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import pandas as pd

from hybrid.analysis import compare_models
from hybrid.analysis.roc import delong_interval
from hybrid.cases import Case, Cohort
from hybrid.pipelines import StudyConfig, cross_validate, extract_features, fit_study, validate_study
from hybrid.pipelines.study import new_patients

TUMOUR = 2
SHAPE_ONLY = {"imageType": {"Original": {}}, "featureClass": {"shape": []}, "setting": {"label": TUMOUR}}
SETS = {"shape": ["rad_original_shape_*"], "volume": ["rad_original_shape_MeshVolume"]}

LAST_OF_FIRST_CHALLENGE = 209
"""Cases up to this number were in kits19, the later ones came with kits23."""


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


def cross_validated(features: pd.DataFrame, outcome: pd.Series, name: str, out: Path, work: dict[str, Any]) -> None:
    """Shape against volume by repeated nested cross-validation over all cases."""
    kept = [case for case in features.index if case in outcome.index]
    cohort = Cohort(Case(case, case, outcome=int(outcome[case])) for case in kept)
    predictions = cross_validate(
        features.loc[kept], cohort, feature_sets=SETS, classifiers=("logistic",), repeats=10, folds=5, out=out / name,
        **work,
    )  # fmt: skip
    result = compare_models(predictions, contrast=[("shape", "volume")])
    print(f"\n{name}: {int(outcome[kept].sum())} of {len(kept)} positive (kits23_cases_000-299.csv)")
    print(result.models[["model", "auc", "lower", "upper"]].round(3).to_string(index=False))
    print(result.table[["model_a", "model_b", "difference", "lower", "upper", "p"]].round(3).to_string(index=False))


def external(features: pd.DataFrame, outcome: pd.Series, name: str, out: Path, work: dict[str, Any]) -> None:
    """Freeze on the patients of the first challenge, validate on those of the second; print both sides."""
    kept = [case for case in features.index if case in outcome.index]
    folder = out / f"external_{name}"
    folder.mkdir(parents=True, exist_ok=True)
    is_first = pd.Series([int(case.removeprefix("case_")) <= LAST_OF_FIRST_CHALLENGE for case in kept], index=kept)
    for part, chosen in (("development", is_first), ("new", ~is_first)):
        table = features.loc[is_first.index[chosen]].assign(outcome=outcome)
        table.rename_axis("case_id").to_csv(folder / f"{part}.csv")
    config = StudyConfig.from_dict(
        {"title": f"Shape of renal tumours: {name}", "cohort": "development.csv", "features": "development.csv",
         "outcome_name": name, "feature_sets": SETS, "contrast": [["shape", "volume"]], "classifiers": ["logistic"],
         "calibration": "sigmoid", "repeats": 10, "folds": 5},
        source=folder / "study.yaml",
    )  # fmt: skip
    for feature_set in SETS:
        model = fit_study(config, folder / f"model_{feature_set}", feature_set=feature_set, **work)
        new = folder / "new.csv"
        run = folder / feature_set
        validate_study(model, new_patients(model, new, new), run, features=new, **work)
        print_both_sides(run / "tables", f"{name}, {feature_set}")


def print_both_sides(tables: Path, title: str) -> None:
    """Print internal and external performance side by side, then the unpaired test of the AUC."""
    table = pd.read_csv(tables / "validation.csv")
    first = table.iloc[0]
    print(f"\n{title}: internal {first['events_internal']} of {first['n_internal']} positive, external "
          f"{first['events_external']} of {first['n_external']}")  # fmt: skip
    bounds = {side: (f"{side}_lower", f"{side}_upper") for side in ("internal", "external")}
    shown = {"measure": table["metric"]} | {
        side: [f"{e:.3f} ({a:.3f} to {b:.3f})" for e, a, b in table[[side, *names]].to_numpy()]
        for side, names in (bounds | {"difference": ("lower", "upper")}).items()
    }
    print(pd.DataFrame(shown).to_string(index=False))
    test = pd.read_csv(tables / "validation_auc.csv").iloc[0]
    bounds_of = f"({test['lower']:.3f} to {test['upper']:.3f})"
    print(f"Unpaired DeLong, averaged probability: {test['auc_external']:.3f} against {test['auc_internal']:.3f}")
    print(f"difference {test['difference']:.3f} {bounds_of}, p {test['p']:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--external-only", action="store_true")
    options = parser.parse_args()
    folder = Path(os.environ["HYBRID_BENCHMARKS"]) / "kits_masks"
    if not options.external_only:
        volume_alone(folder)
    table = pd.read_csv(folder / "kits23_cases_000-299.csv").set_index("case")
    paths = {name: folder / "kits23" / "t15" / f"{name}.nii.gz" for name in table.index}
    cases = [Case(name, name, path, path, roi_label=TUMOUR) for name, path in paths.items() if path.is_file()]
    work: dict[str, Any] = {"n_jobs": options.jobs, "progress": False}
    features = extract_features(Cohort(cases), handcrafted=SHAPE_ONLY, out=options.out, **work)
    features = features.dropna(how="all")
    print(f"{len(features)} of {len(table)} cases with a tumour mask")
    for name, outcome in outcomes(table).items():
        if not options.external_only:
            cross_validated(features, outcome, name, options.out, work)
        external(features, outcome, name, options.out, work)


if __name__ == "__main__":
    main()
