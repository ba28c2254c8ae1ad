"""Second half of system b: benign or malignant, from features of the masks that the networks drew."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from hybrid.analysis.transfer import ARMS
from hybrid.cases import Case, Cohort
from hybrid.errors import InputError, LeakageError, unknown_name
from hybrid.images import read_image, write_image
from hybrid.provenance import file_digest

from ..runner import Rows, run_cases
from ..small_sample import SmallSampleSettings, run_small_sample
from .transfer import LOCATOR, PRETRAINING, TransferStudy, drawn_labels

CLASSIFICATION: Final = "classification"


def classify_transfer(
    study: TransferStudy,
    *,
    structure: str,
    arm: str = "zero_shot",
    handcrafted: Any = "ct",
    encoder: str | Path | None = "bundled",
    positive: Any = None,
    settings: SmallSampleSettings | None = None,
) -> Path:
    """Classify the primary patients by features of their reference and of their predicted masks.

    Parameters
    ----------
    study : TransferStudy
        After :meth:`~hybrid.pipelines.TransferStudy.run`; its primary cohort has outcomes.
    structure : str
        Which of the study's structures is measured; it must be one label.
    arm : str
        Whose masks are taken, declared beforehand. Every mask comes from a network that has not seen the patient: with
        a fixed test set only ``zero_shot`` has one for all patients, with folds any arm has.
    handcrafted, encoder, positive, settings
        See :func:`hybrid.pipelines.run_small_sample`.

    Returns
    -------
    Path
        ``<out>/classification/report.html``.

    Raises
    ------
    InputError
        For an unknown structure or arm, or one that was not trained.
    LeakageError
        When a patient's only masks come from networks that were trained on it.
    """
    if structure not in study.structures:
        raise unknown_name("structure", structure, study.structures)
    labels = study.structures[structure]
    if len(labels) != 1:
        raise InputError(
            f"Structure {structure!r} joins the labels {labels}; features are measured in one label.",
            advice="Name a structure with one label.",
        )
    predicted = predicted_masks(study, arm)
    return run_small_sample(
        study.primary, study.out / CLASSIFICATION, predicted=predicted, label=labels[0], handcrafted=handcrafted,
        encoder=encoder, positive=positive, settings=settings, simulated=study.simulated,
        title=f"{study.title}: handcrafted against deep features", **study.work,
    )  # fmt: skip


def predicted_masks(study: TransferStudy, arm: str) -> Cohort:
    """Primary cohort with the masks of one arm, each drawn by a network that has not seen the patient.

    Parameters
    ----------
    study : TransferStudy
        After its run.
    arm : str
        Name in :data:`hybrid.analysis.transfer.ARMS`.

    Raises
    ------
    InputError, LeakageError
        See :func:`classify_transfer`.
    """
    if arm not in ARMS:
        raise unknown_name("arm", arm, ARMS)
    models = _models(study, arm)
    located = study.locate(study.primary)
    found: list[Case] = []
    for model in dict.fromkeys(models.values()):
        cases = Cohort(case for case in study.primary if models[case.case_id] == model)
        folder = study.out / "predicted" / arm
        function = functools.partial(
            draw_case, model=str(model), located=located, out=str(folder), inference=study.inference
        )
        used = [model] if located is None else [model, study.out / LOCATOR]
        digests = [file_digest(path / "model.safetensors") for path in used]
        results = run_cases(
            function, cases, stage=f"draw_{model.name}", settings={"models": digests, "inference": study.inference},
            out=folder,
            valid=functools.partial(_is_there, out=str(folder)), **study.work,
        )  # fmt: skip
        drawn = {name: folder / rows[0]["mask"] for name, rows in results.rows.items()}
        found += [replace(case, mask=drawn[case.case_id]) for case in cases if case.case_id in drawn]
    return Cohort(found)


def _models(study: TransferStudy, arm: str) -> dict[str, Path]:
    """Folder of a network for every primary case that was not among its training cases."""
    models: dict[str, Path] = {}
    for run in study.runs:
        if run.arm != arm:
            continue
        names = [case.case_id for case in study.primary] if arm == "zero_shot" else list(run.test)
        for name in names:
            models.setdefault(name, study.out / (PRETRAINING if arm == "zero_shot" else run.folder))
    if not models:
        raise InputError(f"The arm {arm!r} was not trained in this study.", advice="Add it to arms=, or name another.")
    missing = [case.case_id for case in study.primary if case.case_id not in models]
    if missing:
        raise LeakageError(
            f"{len(missing)} primary cases, the first is {missing[0]}, have masks of {arm!r} only from networks that "
            "were trained on them.",
            advice="Take arm='zero_shot', or run the study with folds in place of a fixed test set.",
        )
    return models


def draw_case(
    case: Case, seed: int, *, model: str, located: Path | None, out: str, inference: Mapping[str, Any]
) -> Rows:
    """Write the mask of one case; its row names the file."""
    image = read_image(next(iter(case.images.values())), case_id=case.case_id)
    name = f"masks/{case.case_id}.nii.gz"
    write_image(drawn_labels(image, case.case_id, model=model, located=located, inference=inference), Path(out) / name)
    return [{"mask": name, "digest": file_digest(Path(out) / name)}]


def _is_there(rows: Rows, out: str) -> bool:
    """Whether the mask of a cached row is still what was written."""
    path = Path(out) / rows[0]["mask"]
    return path.is_file() and file_digest(path) == rows[0]["digest"]
