"""Where a slice classifier looked: pictures, NIfTI maps on the grid of the source, pointing figures, a sanity check."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import numpy as np
import pandas as pd
import SimpleITK as sitk

from hybrid.files import write_csv
from hybrid.images import to_array, write_image
from hybrid.provenance import code_version, digest

from .runner import Rows, Task, run_tasks
from .slice_ct import count_slices, files_of, loaded_classifier, mask_on, opened_image

if TYPE_CHECKING:
    from hybrid.deep.classification.classifier import ImageClassifier
    from hybrid.deep.explain import SliceMap

MAPS: Final = "saliency"
MAP_COLUMNS: Final = (
    "case_id", "patient_id", "slice", "probability", "threshold", "kind", "target", "layer", "method", "flat", "cells",
    "picture", "nifti", "hit", "distance_mm", "chance", "centre_hit",
)  # fmt: skip
"""Columns of ``saliency/maps.csv``; the last four are empty where the slice has no reference mask."""

LAYERS: Final = "layers"
LAYER_COLUMNS: Final = (
    "case_id", "patient_id", "slice", "kind", "layer", "cells", "hit", "distance_mm", "chance", "centre_hit",
)  # fmt: skip
"""Columns of the table that :func:`point_by_layer` returns."""

KINDS: Final = ("true positive", "false positive", "false negative", "called positive")
"""Why a slice has a map; the last one where the true class is not known."""

CHECKED_MAPS: Final = 6
"""Slices that the maps of untrained copies are compared on."""


def explain_slices(
    slices: pd.DataFrame, rows: pd.DataFrame, where: Mapping[str, Any], chosen: Mapping[str, Any], out: Path,
    work: Mapping[str, Any],
) -> tuple[pd.DataFrame, pd.DataFrame]:  # fmt: skip
    """Make maps of slices called positive and of missed ones.

    Parameters
    ----------
    slices : DataFrame
        Content of ``slices.csv``.
    rows : DataFrame
        From :func:`hybrid.pipelines.slice_ct.slice_rows`.
    where : mapping
        ``model`` (folder), ``model_digest`` and ``device``.
    chosen : mapping
        ``method``, ``layer`` and ``negative``.
    out : Path
        Maps go to ``saliency/`` in it.
    work : mapping
        ``n_jobs``, ``backend``, ``progress``.

    Returns
    -------
    maps : DataFrame
        Columns :data:`MAP_COLUMNS`, one row per map; empty when no slice needs one.
    failures : DataFrame
        Columns :data:`hybrid.tables.FAILURE_COLUMNS`.
    """
    tasks = _tasks(slices, rows, where, chosen)
    function = functools.partial(
        explain_file, folder=out / MAPS, method=chosen["method"], layer=chosen["layer"], model=where["model"],
        model_digest=where["model_digest"], device=where["device"],
    )  # fmt: skip
    results = run_tasks(
        function, tasks, stage=MAPS, out=out, **work,
        valid=lambda found: all((out / MAPS / row[file]).is_file() for row in found for file in ("picture", "nifti")),
    )  # fmt: skip
    maps = pd.DataFrame([row for found in results.rows.values() for row in found], columns=list(MAP_COLUMNS))
    write_csv(maps, out / MAPS / "maps.csv")
    return maps, results.failures


def point_by_layer(
    slices: pd.DataFrame, rows: pd.DataFrame, where: Mapping[str, Any], chosen: Mapping[str, Any], out: Path,
    work: Mapping[str, Any],
) -> pd.DataFrame:  # fmt: skip
    """Play the pointing game with maps of several layers; no picture is drawn.

    Parameters
    ----------
    slices, rows, where, out, work
        See :func:`explain_slices`.
    chosen : mapping
        ``method``, ``layers`` and ``negative``.

    Returns
    -------
    DataFrame
        Columns :data:`LAYER_COLUMNS`, one row per layer and slice with a reference mask that is called positive or
        missed.
    """
    function = functools.partial(
        point_file, method=chosen["method"], layers=tuple(chosen["layers"]), model=where["model"],
        model_digest=where["model_digest"], device=where["device"],
    )  # fmt: skip
    results = run_tasks(function, _tasks(slices, rows, where, chosen), stage=LAYERS, out=out, **work)
    return pd.DataFrame([row for found in results.rows.values() for row in found], columns=list(LAYER_COLUMNS))


def _tasks(
    slices: pd.DataFrame, rows: pd.DataFrame, where: Mapping[str, Any], chosen: Mapping[str, Any]
) -> list[Task]:  # fmt: skip
    """One task per file with slices that were called positive or missed."""
    wanted = slices.assign(kind=_kinds(slices, chosen["negative"]), target=_targets(slices, chosen["negative"]))
    wanted = wanted[wanted["kind"] != ""]
    tasks = []
    for name, own in files_of(rows).items():
        mine = wanted[(wanted["case_id"] == own["rows"][0]["case_id"])]
        listed = {row["slice"] for row in own["rows"]}
        mine = mine if None in listed else mine[mine["slice"].isin(listed)]
        if mine.empty:
            continue
        picked = mine[["case_id", "patient_id", "slice", "probability", "threshold", "kind", "target"]]
        payload = {**own, "name": name, "rows": [_plain_row(row) for row in picked.to_dict("records")]}
        key = digest([own["content"], payload["rows"], where["model_digest"], dict(chosen), code_version()])
        tasks.append(Task(name, key, payload))
    return tasks


def point_file(
    payload: Mapping[str, Any], seed: int, *, method: str, layers: tuple[str, ...], model: Path, model_digest: str,
    device: str,
) -> Rows:  # fmt: skip
    """Pointing figures of each layer on the slices of one file that have a mask."""
    from hybrid.deep.explain import canonical_plane, slice_map

    classifier, path = loaded_classifier(model, model_digest, device), Path(payload["image"])
    image, mask = opened_image(path), mask_on(path, payload["mask"])
    rows: Rows = []
    if mask is None or image is None:
        return rows
    for row in payload["rows"]:
        outline = canonical_plane(to_array(mask)[int(row["slice"])] > 0, image)
        for layer in layers if outline.any() else ():
            found = slice_map(
                classifier, path, int(row["slice"]), target=row["target"], layer=layer, method=method,
                case_id=row["case_id"],
            )  # fmt: skip
            rows.append({
                **{name: row[name] for name in ("case_id", "patient_id", "slice", "kind")}, "layer": layer,
                "cells": _cells(found), **_pointing(found, outline),
            })  # fmt: skip
    return rows


def _cells(found: SliceMap) -> str:
    return " x ".join(map(str, found.saliency.cells.shape))


def _plain_row(row: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(name): value.item() if hasattr(value, "item") else value for name, value in row.items()}


def _kinds(slices: pd.DataFrame, negative: str) -> list[str]:
    """Why each slice gets a map; empty where it gets none."""
    kinds = []
    for row in slices.itertuples():
        called, known, ill = row.prediction not in ("", negative), row.y_true != "", row.y_true not in ("", negative)
        if not row.prediction:
            kinds.append("")
        elif called:
            kinds.append(KINDS[3] if not known else KINDS[0] if ill else KINDS[1])
        else:
            kinds.append(KINDS[2] if ill else "")
    return kinds


def _targets(slices: pd.DataFrame, negative: str) -> list[str]:
    """Class that each map explains: the most probable finding."""
    names = [name for name in slices.columns if name.startswith("y_prob_") and name != f"y_prob_{negative}"]
    best = slices[names].fillna(-1).to_numpy().argmax(axis=1)
    return [names[number].removeprefix("y_prob_") for number in best]


def explain_file(
    payload: Mapping[str, Any], seed: int, *, folder: Path, method: str, layer: str | None, model: Path,
    model_digest: str, device: str,
) -> Rows:  # fmt: skip
    """Make the maps of the wanted slices of one file: a picture each, and one NIfTI on the grid of the file."""
    from hybrid.deep.explain import canonical_plane, slice_map, stored_plane

    classifier = loaded_classifier(model, model_digest, device)
    path, name = Path(payload["image"]), quote(payload["name"], safe=" ()+,=@")
    image, mask = opened_image(path), mask_on(path, payload["mask"])
    inside = None if mask is None else to_array(mask) > 0
    volume: np.ndarray | None = None
    rows: Rows = []
    for row in payload["rows"]:
        number = int(row["slice"])
        found = slice_map(
            classifier, path, number, target=row["target"], layer=layer, method=method, case_id=row["case_id"]
        )
        outline = None if inside is None or image is None else canonical_plane(inside[number], image)
        picture = f"{name}_{number:03d}.png"
        _draw(found, classifier, outline, row, folder / picture)
        plane = found.values if image is None or image.GetDimension() == 2 else stored_plane(found.values, image)
        shape = (count_slices(path), *plane.shape)
        volume = np.zeros(shape, np.float32) if volume is None else volume
        volume[number] = plane
        rows.append({
            **row, "layer": found.saliency.layer, "method": found.saliency.method, "flat": found.saliency.is_flat,
            "cells": _cells(found), "picture": picture, "nifti": f"{name}.nii.gz",
            **_pointing(found, outline),
        })  # fmt: skip
    if volume is not None:
        write_image(_on_grid(volume, image), folder / f"{name}.nii.gz")
    return rows


def _on_grid(volume: np.ndarray, image: sitk.Image | None) -> sitk.Image:
    """Put maps into an image on the grid of the file; pixels of a PNG or JPEG count as 1 mm."""
    placed = sitk.GetImageFromArray(np.ascontiguousarray(volume))
    if image is not None and image.GetDimension() == 3:
        placed.CopyInformation(image)
    return placed


def _draw(
    found: SliceMap, classifier: ImageClassifier, outline: np.ndarray | None, row: Mapping[str, Any], path: Path
) -> None:  # fmt: skip
    from hybrid.deep.saliency_pictures import overlay_png

    window = None
    if classifier.input.intensity == "ct":
        level, width = classifier.input.windows[0]
        window = (level - width / 2, level + width / 2)
    title = f"{row['case_id']}, slice {row['slice']}: {row['kind']}, p = {row['probability']:.2f}"
    overlay_png(
        found.grey, found.values, path, title=title, spacing=found.spacing, window=window, outline=outline, dpi=90
    )  # fmt: skip


def _pointing(found: SliceMap, outline: np.ndarray | None) -> dict[str, Any]:
    """Pointing game of one map; empty figures where the slice has no reference mask."""
    from hybrid.deep.saliency import pointing_score

    names = ("hit", "distance_mm", "chance", "centre_hit")
    if outline is None or not outline.any():
        return dict.fromkeys(names)
    row = pointing_score([found.values], [outline], found.spacing).table.iloc[0]
    return {name: row[name].item() if hasattr(row[name], "item") else row[name] for name in names}


def check_maps(maps: pd.DataFrame, classifier: ImageClassifier, rows: pd.DataFrame, out: Path) -> pd.DataFrame:
    """Compare the maps of the surest slices, one for each of several patients, with those of untrained copies.

    Parameters
    ----------
    maps, rows, out
        See :func:`explain_slices`.
    classifier : ImageClassifier
        Its first network is looked at.

    Returns
    -------
    DataFrame
        See :func:`hybrid.deep.saliency.randomisation_check`; with ``case_id`` and ``slice``. Also written to
        ``saliency/randomisation.csv``.
    """
    from hybrid.deep.saliency import randomisation_check

    surest = maps.sort_values(["probability", "case_id"], ascending=[False, True]).drop_duplicates("patient_id")
    surest = surest.head(CHECKED_MAPS)
    inputs, targets = [], []
    for row in surest.itertuples():
        own = rows[(rows["case_id"] == row.case_id) & rows["slice"].map(lambda n, r=row: n is None or n == r.slice)]
        inputs.append(classifier.input.read(own["image"].iloc[0], int(row.slice), case_id=row.case_id))
        targets.append(classifier.classes.index(row.target))
    first = surest.iloc[0]
    check = randomisation_check(
        classifier.networks[0], inputs, targets=targets, layer=first["layer"], method=first["method"], copies=3
    )
    named = check.assign(
        case_id=surest["case_id"].to_numpy()[check["image"]], slice=surest["slice"].to_numpy()[check["image"]]
    )  # fmt: skip
    write_csv(named, out / MAPS / "randomisation.csv")
    return named
