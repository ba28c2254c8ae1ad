"""Where a network looked when it named a lesion or described it: Grad-CAM over the lesions of a cohort.

For the third stage of a cascade, a classifier of lesions, or an encoder. Every lesion gives a map on the grid of its
image, a picture, and the share of the map that lies on the lesion; untrained copies show whether the maps depend on
what was learnt.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import numpy as np
import pandas as pd
import SimpleITK as sitk

from hybrid.cases import Case, Cohort
from hybrid.errors import InputError, unknown_name
from hybrid.files import write_csv
from hybrid.provenance import versions

from .runner import Rows, run_cases
from .training_cases import one_image, read_pair

if TYPE_CHECKING:
    from hybrid.deep.embeddings import Encoder
    from hybrid.deep.segmentation.lesion_classes import LesionClassifier

    Explained = LesionClassifier | Encoder

FOLDER: Final = "saliency"
TABLE: Final = "lesion_maps.csv"
SANITY: Final = "randomisation.csv"
KIDNEY: Final = 1
"""Label that is no lesion where a cascade's masks are explained."""

MAP_COLUMNS: Final = (
    "case_id", "patient_id", "lesion_id", "label", "volume_ml", "max_diameter_mm", "explained", "probability", "layer",
    "method", "flat", "on_lesion", "lesion_share", "picture", "nifti",
)  # fmt: skip
"""Columns of ``lesion_maps.csv``. ``probability`` is empty for an encoder; ``on_lesion`` is the share of the map that
lies on the lesion, ``lesion_share`` that of the crop that is lesion."""

CHECKED_LESIONS: Final = 6
"""Lesions that the maps of untrained copies are compared on."""


def explain_lesions(
    cohort: Cohort,
    model: str | Path,
    out: str | Path,
    *,
    image: str | None = None,
    modality: str | None = None,
    labels: Sequence[int] | None = None,
    target: str | None = None,
    layer: str | None = None,
    method: str = "gradcam",
    report: bool = True,
    title: str = "Where the network looks",
    simulated: bool = False,
    n_jobs: int = 1,
    backend: str = "loky",
    progress: bool = True,
) -> pd.DataFrame:
    """Make a saliency map of every lesion of a cohort.

    Parameters
    ----------
    cohort : Cohort
        Images and masks, reference or predicted.
    model : str or path-like
        Folder of a cascade (:func:`hybrid.pipelines.train_cascade`; its third stage is explained) or of a classifier
        of lesions; or an encoder, by name or file (:func:`hybrid.deep.load_encoder`).
    out : path-like
        Gets ``saliency/`` (``lesion_maps.csv``, ``randomisation.csv``, maps and pictures), ``failures.csv`` and
        ``report.html``.
    image : str, optional
        Name of the image when cases have several.
    modality : str, optional
        Intensity normalisation of an encoder: ct, mr, pet.
    labels : sequence of int, optional
        Labels of lesions in the masks. Default: for an encoder the whole mask as one lesion, as features see it; for a
        classifier every label but 1, the kidney, or label 1 when it is the only one. Every connected region of a label
        is a lesion.
    target : str, optional
        Class to explain; default: the most probable one of each lesion.
    layer, method
        See :func:`hybrid.deep.saliency.saliency_map`.
    report : bool
        Write the report.
    title, simulated
        Of the report.
    n_jobs, backend, progress
        See :func:`hybrid.pipelines.run_tasks`.

    Returns
    -------
    DataFrame
        :data:`MAP_COLUMNS`, one row per lesion.

    Raises
    ------
    InputError
        When the folder holds no network of lesions, for an unknown class or layer, or when no case has a lesion.
    """
    out, cohort = Path(out), one_image(cohort, image)
    explained = load_explained(str(model), modality)
    _check_target(explained, target)
    chosen = {"labels": None if labels is None else list(labels), "target": target, "layer": layer, "method": method}
    function = functools.partial(
        explain_case, model=str(model), modality=modality, folder=out / FOLDER, chosen=chosen
    )  # fmt: skip
    results = run_cases(
        function, cohort, stage=FOLDER, settings={**chosen, "modality": modality, "model": explained.digest}, out=out,
        valid=lambda rows: all((out / FOLDER / row[kind]).is_file() for row in rows for kind in ("picture", "nifti")),
        n_jobs=n_jobs, backend=backend, progress=progress,
    )  # fmt: skip
    maps = pd.DataFrame([row for rows in results.rows.values() for row in rows], columns=list(MAP_COLUMNS))
    write_csv(maps, out / FOLDER / TABLE)
    if maps.empty:
        first = results.failures["message"].iloc[0] if len(results.failures) else "the masks hold no such label"
        raise InputError(f"No lesion could be explained: {first}.", advice="See failures.csv, and check --labels.")
    check = check_lesion_maps(maps, cohort, explained, chosen)
    write_csv(check, out / FOLDER / SANITY)
    if report:
        from hybrid.analysis.lesion_map_report import LesionMapReport

        record = {"settings": {"model": Path(model).name, **chosen}, "versions": versions()}
        page = LesionMapReport(
            maps, out, randomisation=check, failures=results.failures, title=title, simulated=simulated,
            run_record=record,
        )  # fmt: skip
        page.save(out / "report.html")
    return maps


def load_explained(model: str, modality: str | None = None) -> Explained:
    """Load what is explained: a cascade's third stage, a classifier of lesions, or an encoder.

    Raises
    ------
    InputError
        For a folder of another kind, or a cascade without a third stage.
    """
    files = [path for path in (Path(model), Path(model) / "model.json") if path.exists()]
    return _loaded(model, modality, tuple(path.stat().st_mtime_ns for path in files))


@functools.lru_cache(maxsize=2)
def _loaded(model: str, modality: str | None, stamp: tuple[int, ...]) -> Explained:
    from hybrid.deep.embeddings import load_encoder
    from hybrid.deep.segmentation import cascade, lesion_classes

    kind = cascade.read_card(Path(model)).get("format", "") if (Path(model) / "model.json").is_file() else ""
    if kind == lesion_classes.FORMAT:
        return lesion_classes.load_lesion_classifier(model)
    if kind == cascade.FORMAT:
        found = cascade.load_cascade(model).classifier
        if found is None:
            raise InputError(
                "The cascade has no third stage, which names masses: nothing to explain.",
                advice="Train it on lesions of at least two classes.",
                path=model,
            )
        return found
    if kind.startswith(("hybrid-segmenter", "hybrid-classifier")):
        raise InputError(
            "The folder holds a network of whole images; lesions are explained here.",
            advice="Maps of slices come from: hybrid slice-ct. Name a cascade, a lesion classifier or an encoder.",
            path=model,
        )
    return load_encoder(model, modality=modality)


def _check_target(explained: Explained, target: str | None) -> None:
    if target is None:
        return
    classes = getattr(explained, "classes", ())
    if not classes:
        raise InputError("An encoder has no classes.", advice="Leave --target out.")
    if target not in classes:
        raise unknown_name("class", target, classes)


def lesions_of(case: Case, explained: Explained, labels: Sequence[int] | None) -> Iterator[tuple[Any, Any, dict]]:
    """Image, mask of one lesion, and its table row, for every lesion of a case."""
    from hybrid.images import from_array, labels_in, to_array
    from hybrid.lesions import label_lesions, lesion_table

    image, mask = read_pair(case)
    values, held = to_array(mask), sorted(labels_in(mask))
    if labels is None and not hasattr(explained, "classes"):
        groups = [(0, values > 0)] if held else []
    else:
        default = [value for value in held if value != KIDNEY] or held
        wanted = default if labels is None else [value for value in labels if value in held]
        groups = [(value, values == value) for value in wanted]
    for label, region in groups:
        if not label:
            yield image, from_array(region.astype(np.uint8), image), {**_whole(region, image), "label": label}
            continue
        numbers, _ = label_lesions(region, image.GetSpacing()[::-1])
        for row in lesion_table(region, image).to_dict("records"):
            single = from_array((numbers == row["lesion_id"]).astype(np.uint8), image)
            yield image, single, {**row, "label": label}


def _whole(region: np.ndarray, image: sitk.Image) -> dict[str, Any]:
    from hybrid.lesions import max_diameter_mm

    spacing = image.GetSpacing()[::-1]
    volume = float(region.sum()) * float(np.prod(spacing)) / 1000
    return {"lesion_id": 1, "volume_ml": volume, "max_diameter_mm": max_diameter_mm(region, spacing)}


def explain_case(
    case: Case, seed: int, *, model: str, modality: str | None, folder: Path, chosen: Mapping[str, Any]
) -> Rows:
    """Draw and write the maps of one case; returns a row for each lesion."""
    from hybrid.deep.explain import explain_encoder, explain_lesion
    from hybrid.deep.segmentation.lesion_classes import LesionClassifier

    explained = load_explained(model, modality)
    rows = []
    for image, single, lesion in lesions_of(case, explained, chosen["labels"]):
        name = f"{quote(case.case_id, safe=' ()+,=@')}_{lesion['label']}-{lesion['lesion_id']}"
        common = {"layer": chosen["layer"], "method": chosen["method"], "case_id": name}
        probability = None
        if isinstance(explained, LesionClassifier):
            found = explain_lesion(explained, image, single, folder, target=chosen["target"], **common)
            values, _ = explained.classify([explained.input(image, single, case_id=case.case_id)])
            probability = float(values[0][explained.classes.index(found.explained)])
        else:
            found = explain_encoder(explained, image, single, folder, **common)
        rows.append({
            "case_id": case.case_id, "patient_id": case.patient_id,
            "lesion_id": f"{lesion['label']}-{lesion['lesion_id']}", "label": int(lesion["label"]),
            "volume_ml": float(lesion["volume_ml"]), "max_diameter_mm": float(lesion["max_diameter_mm"]),
            "explained": found.explained, "probability": probability, "layer": found.saliency.layer,
            "method": found.saliency.method, "flat": bool(found.saliency.is_flat), "on_lesion": found.on_lesion,
            "lesion_share": found.lesion_share, "picture": found.picture.name, "nifti": found.nifti.name,
        })  # fmt: skip
    return rows


def check_lesion_maps(
    maps: pd.DataFrame, cohort: Cohort, explained: Explained, chosen: Mapping[str, Any]
) -> pd.DataFrame:
    """Compare the maps of a few lesions, one of each patient, with those of untrained copies of the network.

    Returns
    -------
    DataFrame
        See :func:`hybrid.deep.saliency.randomisation_check`; with ``case_id`` and ``lesion_id``.
    """
    from torch import nn

    from hybrid.deep.explain import EmbeddingLength
    from hybrid.deep.preprocessing import crop_lesion, network_input
    from hybrid.deep.saliency import randomisation_check
    from hybrid.deep.segmentation.lesion_classes import LesionClassifier

    largest = maps.sort_values(["volume_ml", "case_id"], ascending=[False, True]).drop_duplicates("patient_id")
    largest = largest.head(CHECKED_LESIONS)
    inputs = []
    for row in largest.itertuples():
        for image, single, lesion in lesions_of(cohort[row.case_id], explained, chosen["labels"]):
            if f"{lesion['label']}-{lesion['lesion_id']}" == row.lesion_id:
                crop = crop_lesion(image, single, explained.preprocessing, case_id=row.case_id)
                inputs.append(network_input(crop, explained.preprocessing))
    if isinstance(explained, LesionClassifier):
        network = nn.Sequential(explained.network, explained.head)
        targets = [explained.classes.index(name) for name in largest["explained"]]
    else:
        network, targets = nn.Sequential(explained.network, EmbeddingLength()), [0] * len(largest)
    layer = None if chosen["layer"] is None else f"0.{chosen['layer']}"
    check = randomisation_check(network, inputs, targets=targets, layer=layer, method=chosen["method"])
    names = largest[["case_id", "lesion_id"]].iloc[check["image"]].reset_index(drop=True)
    return pd.concat([names, check.assign(layer=check["layer"].str.removeprefix("0."))], axis=1)
