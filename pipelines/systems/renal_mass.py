"""System a: renal masses on CT. Kidneys, then masses inside them, then the class of every mass.

After Zhao et al. 2023 (doi:10.3389/fonc.2023.1169922). Stage resolutions, patches, losses and post-processing of the
paper could not be read; ours are stated in the cascade's card and in the report.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from hybrid.cases import Case, Cohort
from hybrid.errors import InputError
from hybrid.files import write_csv
from hybrid.provenance import hashed_patient, versions
from hybrid.tables import require_columns

from ..evaluate_masks import DEFAULT_SIZES_MM, evaluate_masks
from ..files import read_exact, write_json
from ..runner import Rows, run_cases
from ..segment import LESIONS, segment_cohort
from ..train import PlannedSegmenter, networks_at_once, plan_segmenter, train_planned
from ..training_cases import SPLIT_COLUMN, one_image, read_pair, split_of, training_folds
from .baselines import renal_baselines
from .lesion_mri import split_cohort
from .second_look import train_second_look

logger = logging.getLogger(__name__)

SHARES: Final = {"train": 0.65, "validation": 0.1, "test": 0.25}
STRUCTURES: Final = {"kidney_and_mass": [1, 2, 3], "mass": [2, 3]}
MASS_LABELS: Final = (2, 3)
DEFAULT_KINDS: Final = {2: "solid", 3: "cyst"}
"""Class of a lesion by its label when no table of lesions says more."""

KIDNEY_SHARE: Final = 0.2
"""Of the training time, for stage 1."""

KIDNEY_MINUTES: Final = 8.0
"""Longest training of stage 1: it only has to find the kidneys, and stage 2 gets the rest. On two cores its validation
Dice was .944 after 5 minutes and .950 after 15 (.939 after the 8 of another run, whose masks were no worse)."""

LESION_PATCHES: Final = 0.85
"""Share of the training patches of stage 2 that are centred on a kidney or a mass."""

MASS_PATCH_MM: Final = 96.0
"""Longest edge of the patches of stage 2 without a GPU. In the same time a network sees three times as many patches as
with edges of 144 mm, and small masses need many; a kidney still fits in."""

MASS_WEIGHT: Final = 10.0
"""With a second look, a voxel may be of a mass from a tenth of the probability of kidney and background on. Chosen on
patients that the networks were not trained on, none of them a test patient."""

MASS_PLAN: Final[Mapping[str, Any]] = {
    "modality": "ct", "labels": {"kidney": 1, "mass": 2}, "label_map": {3: 2}, "lesions": ("mass",),
    "foreground_share": LESION_PATCHES,
}  # fmt: skip
"""Of stage 2."""

ON_CPU: Final[Mapping[str, Mapping[str, Any]]] = {
    "plan": {"width": 8, "memory_gib": 0.25},
    "settings": {"learning_rate": 3e-3, "growing": 0.5},
}
"""Both stages without a GPU: half the features see twice as many patches in the same time, growing patches still more
(measured for stage 2: ``masks_quality.py growing``)."""

NARROWED: Final = ("dynunet", "unet")
"""Networks that were seen to learn more in the same time that way."""

FOLDS: Final = 5
"""Each network of stage 2 validates on another fifth of the patients, unless there are more networks."""


def run_renal_mass(
    cohort: Cohort,
    out: str | Path,
    *,
    lesions: str | Path | pd.DataFrame | None = None,
    model: str | Path | None = None,
    network: str = "dynunet",
    minutes: float | None = None,
    epochs: int | None = None,
    members: int = 2,
    kidney_spacing_mm: float = 4.0,
    mass_spacing_mm: float | None = None,
    inference: Mapping[str, Any] | None = None,
    sizes_mm: Sequence[float] = DEFAULT_SIZES_MM,
    seed: int = 0,
    title: str = "Renal masses on CT",
    simulated: bool = False,
    resume: bool = True,
    n_jobs: int = 1,
    backend: str = "loky",
    progress: bool = True,
) -> Path:
    """Train the cascade (or take a trained one), segment the test patients, judge everything, write the report.

    Parameters
    ----------
    cohort : Cohort
        CT and masks with labels 1 kidney, 2 tumour, 3 cyst. A column ``split`` (train, validation, test, external)
        fixes the sets; otherwise patients are drawn 65 : 10 : 25.
    out : path-like
        Folder for ``cascade/``, ``predicted/``, ``masks.csv``, ``tables/`` and ``report.html``.
    lesions : path-like or DataFrame, optional
        ``case_id, centre_x, centre_y, centre_z, kind``: the class of each lesion (mm, LPS). Default: label 2 is
        ``solid``, 3 is ``cyst``.
    model : path-like, optional
        A cascade folder; nothing is trained.
    network : str
        Of both segmentation stages.
    minutes, epochs : optional
        Of the whole training (a fifth, at most 8 minutes, for stage 1, the rest for stage 2, whose members share it
        as far as they are not trained side by side by several jobs), or epochs of each network.
    members : int
        Networks of stage 2, each with another part of the patients for validation.
    kidney_spacing_mm, mass_spacing_mm : float
        Voxel size of the stages; stage 2 by default the median of the cohort.
    inference : mapping, optional
        Fields of :class:`hybrid.deep.segmentation.InferenceOptions`, for example ``{"engine": "openvino"}``.
    sizes_mm : sequence of float
        Edges of the size strata (mm).
    seed, resume, n_jobs, backend, progress
        See :func:`hybrid.pipelines.train_segmenter`.
    title : str
        Of the report.
    simulated : bool
        Said at the top of the report.

    Returns
    -------
    Path
        ``report.html``.
    """
    from hybrid.deep.segmentation.segmenter import read_card

    from ..mask_report import write_mask_report

    out = Path(out)
    cohort = split_cohort(cohort, seed, SHARES)
    work: dict[str, Any] = {"n_jobs": n_jobs, "backend": backend, "progress": progress}
    kinds = _read_kinds(lesions)
    folder = Path(model) if model is not None else out / "cascade"
    if model is None:
        train_cascade(
            cohort, folder, kinds, network=network, minutes=minutes, epochs=epochs, members=members,
            kidney_spacing_mm=kidney_spacing_mm, mass_spacing_mm=mass_spacing_mm, inference=inference, seed=seed,
            resume=resume, **work,
        )  # fmt: skip
    judged = Cohort(case for case in cohort if split_of(case) in ("test", "external"))
    segment_cohort(judged, folder, out / "predicted", options=inference, **work)
    table = evaluate_masks(
        judged, out / "predicted", out, structures=STRUCTURES, lesions="mass", sizes_mm=sizes_mm, report=False, **work
    )
    classified = classify_reference_lesions(judged, folder, out, kinds, work)
    write_csv(classified, out / "classified_lesions.csv")
    baselines = renal_baselines(cohort, out, STRUCTURES, work)
    look = read_card(folder).get("second_look")
    record = {
        "settings": {"network": network, "minutes": minutes, "epochs": epochs, "members": members, "seed": seed,
                     "kidney_spacing_mm": kidney_spacing_mm, "mass_spacing_mm": mass_spacing_mm,
                     "inference": dict(inference or {}), "sizes_mm": list(sizes_mm)},
        "second_look": look["card"] if look is not None else None,
        "versions": versions(),
    }  # fmt: skip
    write_json(record, out / "record.json")
    return write_mask_report(
        table, out, cohort=judged, masks=out / "predicted" / "masks", lesions="mass", lesion_labels=STRUCTURES["mass"],
        sizes_mm=sizes_mm, title=title, classified=classified, baselines=baselines, published="renal_mass",
        simulated=simulated, record=record, curves=_curves(folder),
    )  # fmt: skip


def _curves(folder: Path) -> dict[str, pd.DataFrame]:
    """Training curves of both stages, as far as the cascade's folder has them."""
    files = {"Kidneys": folder / "kidney" / "curves.csv"}
    members = sorted((folder / "mass").glob("fold_*/curves.csv")) or [folder / "mass" / "curves.csv"]
    files |= {f"Masses, network {number}": path for number, path in enumerate(members, start=1)}
    return {name: read_exact(path) for name, path in files.items() if path.is_file()}


def _read_kinds(lesions: str | Path | pd.DataFrame | None) -> pd.DataFrame | None:
    if lesions is None:
        return None
    table = lesions if isinstance(lesions, pd.DataFrame) else read_exact(lesions, text=("case_id", "kind"))
    require_columns(table, ("case_id", "centre_x", "centre_y", "centre_z", "kind"), "lesions")
    return table


def train_cascade(
    cohort: Cohort,
    folder: str | Path,
    kinds: pd.DataFrame | None = None,
    *,
    network: str = "dynunet",
    minutes: float | None = None,
    epochs: int | None = None,
    members: int = 2,
    kidney_spacing_mm: float = 4.0,
    mass_spacing_mm: float | None = None,
    inference: Mapping[str, Any] | None = None,
    seed: int = 0,
    plan: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    resume: bool = True,
    n_jobs: int = 1,
    backend: str = "loky",
    progress: bool = True,
) -> Path:
    """Train the three stages and the second look, and write the cascade's folder.

    Parameters
    ----------
    cohort : Cohort
        CT and masks with labels 1 kidney, 2 tumour, 3 cyst; ``split`` as in :func:`run_renal_mass`, test cases are not
        touched.
    folder : path-like
        Gets ``kidney/``, ``mass/``, ``classifier/``, ``candidates.csv`` and ``model.json``.
    kinds : DataFrame, optional
        Class of each lesion, see :func:`run_renal_mass`. With one class only there is no third stage.
    network, minutes, epochs, members, kidney_spacing_mm, mass_spacing_mm, seed, resume, n_jobs, backend, progress
        As in :func:`run_renal_mass`.
    inference : mapping, optional
        As in :func:`run_renal_mass`, for the candidates that the second look learns from.
    plan, settings : mapping, optional
        Overrides of the plans and training settings of both segmentation stages.

    Returns
    -------
    Path
        The folder.
    """
    from hybrid.deep.segmentation.cascade import CascadeRules, save_cascade

    folder, rules = Path(folder), CascadeRules()
    work: dict[str, Any] = {"n_jobs": n_jobs, "backend": backend, "progress": progress}
    wanted = {"modality": "ct", **(plan or {})}
    small = _small_network(network, wanted)
    common = {**small.get("plan", {}), **wanted}
    fine: dict[str, Any] = {} if mass_spacing_mm is None else {"spacing": (mass_spacing_mm,) * 3}
    narrow = {"patch_mm": MASS_PATCH_MM} if small else {}
    part, ensemble = _minutes(minutes, members, n_jobs), _ensemble(cohort, members)
    length = {**small.get("settings", {}), **(settings or {}), "epochs": epochs, "seed": seed}
    stages = [
        _Stage(
            f"Stage 1: kidneys at {kidney_spacing_mm:g} mm", folder / "kidney", cohort, part["kidney"],
            {**common, "spacing": (kidney_spacing_mm,) * 3, "label_map": {2: 1, 3: 1}, "labels": {"kidney": 1}},
        ),
        _Stage(
            f"Stage 2: masses inside the kidneys, {members} network(s)", folder / "mass", _for_folds(cohort, members),
            part["mass"], {**MASS_PLAN, **narrow, **common, **fine, "crop_margin_mm": rules.margin_mm}, ensemble,
        ),
    ]  # fmt: skip
    together = minutes is None and networks_at_once(members + 1, n_jobs) > members
    for group in [stages] if together else [[stage] for stage in stages]:
        train_planned([stage.planned(network, length, work) for stage in group], resume=resume, **work)
    cases, folds = training_folds(_for_folds(cohort, members), **ensemble, seed=seed)
    names = [f"mass/fold_{number}" for number in range(members)] if members > 1 else ["mass"]
    wider = replace(rules, mass_weight=MASS_WEIGHT)
    look = train_second_look(
        cases, folder, wider, dict(zip(names, folds, strict=True)), inference=inference, seed=seed, **work
    )
    classified = _train_classes(cohort, folder, kinds, seed, resume=resume, progress=progress)
    used = rules if look is None else wider
    return save_cascade(folder, used, classifier=classified, second_look=look, card={"versions": versions()})


@dataclass(frozen=True)
class _Stage:
    """A segmentation stage before it is trained."""

    title: str
    folder: Path
    cohort: Cohort
    minutes: float | None
    plan: dict[str, Any]
    ensemble: dict[str, Any] = field(default_factory=dict)

    def planned(self, network: str, settings: Mapping[str, Any], work: Mapping[str, Any]) -> PlannedSegmenter:
        """Plan the networks and prepare their images."""
        from hybrid.deep.segmentation.training import TrainingSettings

        logger.info(self.title)
        chosen = TrainingSettings(**{**settings, "minutes": self.minutes})
        return plan_segmenter(
            one_image(self.cohort, None), self.folder, chosen, network=network, plan=self.plan, **self.ensemble, **work
        )


def _minutes(minutes: float | None, members: int, n_jobs: int) -> dict[str, float | None]:
    """Training time of stage 1 and of each network of stage 2."""
    if minutes is None:
        return {"kidney": None, "mass": None}
    kidney = min(KIDNEY_SHARE * minutes, KIDNEY_MINUTES)
    return {"kidney": kidney, "mass": (minutes - kidney) / math.ceil(members / networks_at_once(members, n_jobs))}


def _small_network(network: str, wanted: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    """Plan and settings of a stage for training without a GPU, unless the width was chosen."""
    import torch

    chosen = "width" in wanted or torch.cuda.is_available()
    return ON_CPU if network in NARROWED and not chosen else {}


def _train_classes(
    cohort: Cohort, folder: Path, kinds: pd.DataFrame | None, seed: int, *, resume: bool, progress: bool
) -> bool:
    """Train stage 3 on the reference lesions; False when they have one class only."""
    from hybrid.deep.segmentation.lesion_classes import save_lesion_classifier, train_lesion_classifier

    logger.info("Stage 3: class of each mass")
    trained = Cohort(case for case in cohort if split_of(case) not in ("test", "external"))
    inputs, names = lesion_inputs(trained, kinds)
    if len(set(names)) < 2:
        logger.warning("Stage 3 is left out: the training lesions have one class only (%s).", ", ".join(set(names)))
        return False
    patients = sorted({hashed_patient(case.patient_id) for case in trained})
    checkpoint = folder / "classifier" / "checkpoint.pt"
    if not resume:
        checkpoint.unlink(missing_ok=True)
    classifier = train_lesion_classifier(
        inputs, names, seed=seed, checkpoint=checkpoint, progress=progress, card={"patients": patients}
    )
    save_lesion_classifier(folder / "classifier", classifier)
    return True


def _ensemble(cohort: Cohort, members: int) -> dict[str, Any]:
    """Folds of stage 2 and how many of them are trained; none for a single network."""
    if members < 2:
        return {}
    trained = {case.patient_id for case in cohort if split_of(case) not in ("test", "external")}
    return {"folds": max(members, min(FOLDS, len(trained))), "members": members}


def _for_folds(cohort: Cohort, members: int) -> Cohort:
    """For an ensemble the validation patients join the folds."""
    if members < 2:
        return cohort
    return Cohort(
        replace(case, covariates={**case.covariates, SPLIT_COLUMN: "train"}) if split_of(case) == "validation" else case
        for case in cohort
    )


def reference_lesions(case: Case, kinds: pd.DataFrame | None) -> list[tuple[Any, Any, str, dict[str, Any]]]:
    """Image, mask of one lesion, class and table row for every reference lesion of a case.

    A lesion is a connected region (26-neighbourhood) of one label; its class is that of the nearest row of ``kinds``.
    """
    from hybrid.images import from_array, to_array
    from hybrid.lesions import label_lesions, lesion_table

    image, mask = read_pair(case)
    labels = to_array(mask)
    rows = None if kinds is None else kinds[kinds["case_id"].astype(str) == case.case_id]
    found = []
    for value in MASS_LABELS:
        region = labels == value
        if not region.any():
            continue
        numbers, _ = label_lesions(region, image.GetSpacing()[::-1])
        for row in lesion_table(region, image).to_dict("records"):
            single = from_array((numbers == row["lesion_id"]).astype(np.uint8), image)
            found.append((image, single, _kind(row, value, rows, case.case_id), {**row, "label": value}))
    return found


def _kind(row: Mapping[str, Any], label: int, rows: pd.DataFrame | None, case_id: str) -> str:
    if rows is None:
        return DEFAULT_KINDS[label]
    if "label" in rows:
        rows = rows[rows["label"].astype(int) == label]
    if rows.empty:
        raise InputError(
            f"The table of lesions has no row for a lesion with label {label}.",
            advice="Add it with its centre in mm (LPS) and its kind.",
            case_id=case_id,
        )
    offsets = rows[["centre_x", "centre_y", "centre_z"]].to_numpy(float) - [row[f"centre_{axis}"] for axis in "xyz"]
    return str(rows.iloc[int(np.linalg.norm(offsets, axis=1).argmin())]["kind"])


def lesion_inputs(cohort: Cohort, kinds: pd.DataFrame | None) -> tuple[list[np.ndarray], list[str]]:
    """Network inputs and classes of all reference lesions of a cohort."""
    from hybrid.deep.segmentation.lesion_classes import default_preprocessing, lesion_input

    preprocessing = default_preprocessing("ct")
    inputs, names = [], []
    for case in cohort:
        for image, single, kind, _ in reference_lesions(case, kinds):
            inputs.append(lesion_input(image, single, preprocessing, case_id=case.case_id))
            names.append(kind)
    return inputs, names


def classify_case(case: Case, seed: int, *, model: str, kinds: list[dict[str, Any]] | None, predicted: str) -> Rows:
    """Rows of one case: every reference lesion, its class by the network from the reference and the predicted mask."""
    from hybrid.deep.segmentation.cascade import load_cascade
    from hybrid.images import read_mask, to_array

    cascade = load_cascade(model)
    if cascade.classifier is None or not isinstance(case.mask, Mapping):
        return []
    single_case = replace(case, mask=case.mask["reference"])
    found = reference_lesions(single_case, None if kinds is None else pd.DataFrame(kinds))
    if not found:
        return []
    inputs = [cascade.classifier.input(image, single, case_id=case.case_id) for image, single, _, _ in found]
    probabilities, _ = cascade.classifier.classify(inputs)
    masses = to_array(read_mask(case.mask["masses"], case_id=case.case_id))
    named = pd.DataFrame(_predicted(Path(predicted), case.case_id)).set_index("lesion_id") if masses.any() else None
    rows = []
    for (_, single, kind, row), values in zip(found, probabilities, strict=True):
        inside = masses[to_array(single) > 0]
        hits = np.bincount(inside[inside > 0]) if (inside > 0).any() else np.zeros(0)
        best = int(hits.argmax()) if hits.size else 0
        rows.append({
            "case_id": case.case_id, "patient_id": case.patient_id, "lesion_id": f"{row['label']}-{row['lesion_id']}",
            "label": int(row["label"]), "max_diameter_mm": float(row["max_diameter_mm"]),
            "volume_ml": float(row["volume_ml"]), "y_true": kind,
            "y_pred_reference_mask": cascade.classes[int(values.argmax())],
            "detected": int(best > 0),
            "y_pred": str(named.loc[best, "predicted_class"]) if best and named is not None else "",
            **{f"y_prob_{name}": float(v) for name, v in zip(cascade.classes, values, strict=True)},
        })  # fmt: skip
    return rows


def _predicted(path: Path, case_id: str) -> list[dict[str, Any]]:
    table = read_exact(path, text=("case_id", "patient_id", "label_name", "predicted_class"))
    return list(table[table["case_id"] == case_id].to_dict("records"))


def classify_reference_lesions(
    cohort: Cohort, model: Path, out: Path, kinds: pd.DataFrame | None, work: Mapping[str, Any]
) -> pd.DataFrame:
    """List all reference lesions with their true class and the classes that the network gave them.

    ``y_pred_reference_mask`` comes from the reference mask; ``y_pred``, empty when the lesion was missed, is the class
    of the predicted mass that covers most of it.
    """
    from urllib.parse import quote

    predicted = out / "predicted"
    cases = []
    for case in cohort:
        masses = predicted / "masses" / f"{quote(case.case_id, safe=' ()+,=@')}.nii.gz"
        reference = next(iter(case.masks.values()))
        if masses.is_file():
            cases.append(replace(case, mask={"reference": reference, "masses": masses}))
    rows = None if kinds is None else kinds.to_dict("records")
    function = functools.partial(
        classify_case, model=str(model), kinds=rows, predicted=str(predicted / LESIONS)
    )  # fmt: skip
    results = run_cases(function, Cohort(cases), stage="classify", settings={"kinds": rows}, out=out, **work)
    splits = {case.case_id: split_of(case) for case in cohort}
    table = pd.DataFrame([row for found in results.rows.values() for row in found])
    if table.empty:
        return pd.DataFrame(columns=["case_id", "patient_id", "split", "lesion_id", "y_true", "y_pred"])
    return table.assign(split=table["case_id"].map(splits))
