"""Masks of a whole cohort from a model folder: one mask file per case, one table of lesions."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd

from hybrid.cases import UNNAMED, Case, Cohort
from hybrid.errors import InputError, LeakageError
from hybrid.files import write_csv
from hybrid.images import read_image, write_image
from hybrid.provenance import file_digest

from .runner import Rows, run_cases

logger = logging.getLogger(__name__)

MASKS = "masks"
LESIONS = "lesions.csv"
DROPPED = "dropped"
"""Folder, and name of the table, of what the second look of a cascade dropped."""


def segment_cohort(
    cohort: Cohort,
    model: str | Path,
    out: str | Path,
    *,
    image: str | None = None,
    split: str | None = None,
    options: Mapping[str, Any] | None = None,
    n_jobs: int = 1,
    backend: str = "loky",
    progress: bool = True,
) -> Cohort:
    """Segment every case with a trained model.

    Parameters
    ----------
    cohort : Cohort
        Cases with images; their masks are not read.
    model : path-like
        Model folder: one network, an ensemble, or a cascade.
    out : path-like
        Folder for ``masks/<case_id>.nii.gz``, ``lesions.csv``, ``cohort.csv`` (the cohort with these masks),
        ``failures.csv`` and the cache; a cascade adds ``kidneys/``, ``masses/``, ``classes/`` and ``embeddings.csv``,
        and with a second look ``dropped/`` and ``dropped.csv``: what it dropped, for the FROC curve.
    image : str, optional
        Name of the image when cases have several.
    split : {"train"}, optional
        Without it a patient that the model was trained on is a :class:`~hybrid.errors.LeakageError`.
    options : mapping, optional
        Fields of :class:`hybrid.deep.segmentation.InferenceOptions`.
    n_jobs, backend, progress
        See :func:`hybrid.pipelines.run_tasks`.

    Returns
    -------
    Cohort
        With the predicted masks; a case that failed has none. Its ``failures`` are in ``failures.csv``.

    Raises
    ------
    LeakageError
        For a patient of the training cohort unless ``split="train"``.
    InputError
        For a folder that is no model, or unknown options.
    """
    from hybrid.deep.segmentation.cascade import load_model

    out = Path(out)
    loaded = load_model(model).with_options(**(options or {}))
    if split != "train":
        loaded.refuse_trained(case.patient_id for case in cohort)
    function = functools.partial(
        segment_case, model=str(Path(model).resolve()), options=dict(options or {}), out=str(out), image=image
    )
    scans = Cohort(_image_only(case, image) for case in cohort)
    results = run_cases(
        function, scans, stage="segment", settings={"model": loaded.digest}, out=out, n_jobs=n_jobs, backend=backend,
        progress=progress, valid=functools.partial(_files_unchanged, out=out),
    )  # fmt: skip
    rows = [row for case_rows in results.rows.values() for row in case_rows]
    _write_tables(rows, out)
    if len(results.failures):
        logger.warning("Not segmented: %s. See failures.csv.", ", ".join(results.failures["case_id"]))
    found = {row["case_id"]: out / row["mask"] for row in rows if row["table"] == "case"}
    segmented = Cohort(_with_mask(case, found.get(case.case_id), image) for case in cohort)
    write_csv(_relative(segmented, out), out / "cohort.csv")
    return segmented


def _image_only(case: Case, name: str | None) -> Case:
    images = case.images
    chosen = name or (next(iter(images)) if len(images) == 1 else UNNAMED)
    if chosen not in images:
        raise InputError(
            f"The case has the images {list(images)}.",
            advice="Name the one to segment with --image.",
            case_id=case.case_id,
        )
    return Case(case.case_id, case.patient_id, images[chosen], site=case.site)


def _with_mask(case: Case, mask: Path | None, name: str | None) -> Case:
    from dataclasses import replace

    images = case.images
    chosen = name or (next(iter(images)) if len(images) == 1 else UNNAMED)
    if len(images) == 1:
        return replace(case, mask=mask, roi_label=None)
    return replace(case, mask={chosen: mask} if mask else None, roi_label=None)


def _relative(cohort: Cohort, out: Path) -> pd.DataFrame:
    import os

    table = cohort.to_frame()
    for column in table.columns:
        if column == "image" or column == "mask" or column.startswith(("image_", "mask_")):
            table[column] = [
                os.path.relpath(value, out) if isinstance(value, str) and value else value for value in table[column]
            ]
    return table


@functools.lru_cache(maxsize=2)
def _model(path: str, options: tuple[tuple[str, Any], ...]) -> Any:
    from hybrid.deep.segmentation.cascade import load_model

    return load_model(path).with_options(**dict(options))


def segment_case(case: Case, seed: int, *, model: str, options: Mapping[str, Any], out: str, image: str | None) -> Rows:
    """Segment one case, write its mask, and return rows of the tables ``case``, ``lesion``, ``embedding``, ``file``."""
    if not isinstance(case.image, Path):
        raise InputError("The case has no image.", case_id=case.case_id)
    segmenter = _model(model, tuple(sorted(options.items())))
    found = segmenter.segment(read_image(case.image, case_id=case.case_id), case_id=case.case_id)
    name = f"{quote(case.case_id, safe=' ()+,=@')}.nii.gz"
    files = {f"{MASKS}/{name}": found.mask}
    folders = {"kidney": "kidneys", "mass": "masses", "class": "classes"}
    files |= {f"{folders.get(kind, kind)}/{name}": content for kind, content in found.maps.items()}
    rows: Rows = []
    for relative, content in files.items():
        path = write_image(content, Path(out) / relative)
        rows.append({"table": "file", "path": relative, "sha256": file_digest(path)})
    identity = {"case_id": case.case_id, "patient_id": case.patient_id}
    rows.append(
        {"table": "case", **identity, "mask": f"{MASKS}/{name}", "lesions": len(found.lesions), **found.details}
    )
    tables = {"lesion": found.lesions, "embedding": found.embeddings, "dropped": found.dropped}
    rows.append({"table": "columns", **{kind: list(table.columns) for kind, table in tables.items()}})
    for kind, table in tables.items():
        rows += [{"table": kind, **identity, **row} for row in table.to_dict("records")]
    return rows


def _files_unchanged(rows: Rows, out: Path) -> bool:
    files = [row for row in rows if row["table"] == "file"]
    return all((out / row["path"]).is_file() and file_digest(out / row["path"]) == row["sha256"] for row in files)


def _write_tables(rows: Rows, out: Path) -> None:
    """Write the tables of all cases; one without rows has its columns all the same."""
    names = {"lesion": LESIONS, "embedding": "embeddings.csv", "dropped": f"{DROPPED}.csv", "case": "segmented.csv"}
    known = next((row for row in rows if row["table"] == "columns"), {})
    for kind, name in names.items():
        chosen = [{k: v for k, v in row.items() if k != "table"} for row in rows if row["table"] == kind]
        columns = ["case_id", "patient_id", *known.get(kind, [])]
        if chosen or kind == "lesion":
            write_csv(pd.DataFrame(chosen, columns=None if chosen else columns), out / name)


__all__ = ["LESIONS", "MASKS", "LeakageError", "segment_case", "segment_cohort"]
