"""System e: is there a finding on this slice of a head CT, and where does the network see it.

After Zhang et al., J Pract Radiol 2020(10):1670-1675 (ResNet-50 and Grad-CAM on non-contrast head CT, 7 : 2 : 1). They
split by image; here patients are split, and a second network, split by image, shows what that would have promised.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import pandas as pd

from hybrid.analysis.shortcut_audit import audit_shortcuts
from hybrid.analysis.slices import SLICE_COLUMNS, negative_class, split_row
from hybrid.errors import InputError
from hybrid.files import write_csv
from hybrid.image_baselines import fit_histogram_baseline, histogram_features, mean_grey
from hybrid.provenance import code_version, digest
from hybrid.shortcuts import image_facts

from ..image_tables import TEST, TRAIN, image_table
from ..runner import Rows, Task, run_tasks
from ..slice_ct import as_slices, files_of, find_in_slices, operating_point, save_threshold, slice_rows
from ..train_classifier import PREDICTIONS, read_predictions, train_classifier

if TYPE_CHECKING:
    from hybrid.deep.classification.inputs import SliceInput

logger = logging.getLogger(__name__)

RATIO: Final = (7.0, 2.0, 1.0)
"""Training, tuning and test patients, as published."""

MODEL: Final = "model"
MODEL_BY_IMAGE: Final = "model_by_image"
GREY: Final = "grey"
BINS: Final = 32
MEAN_GREY: Final = "Mean grey value"
HISTOGRAM: Final = "Histogram"

DEMO_PATIENTS: Final = 40
DEMO_MINUTES: Final = 1.2
DEMO_SIZE: Final = 96
DEMO_RATIO: Final = (3.0, 1.0, 1.0)
"""With 40 patients a tenth would be four, too few for an interval."""

DEMO_LAYER: Final = "layer3"
"""At 96 pixels the last stage of a ResNet has 3 x 3 cells, 70 mm each; this one has 6 x 6."""


COLUMNS: Final = 1
"""Axis of a slice that runs from left to right."""


def run_head_ct_study(
    table: pd.DataFrame | str | Path,
    out: str | Path,
    *,
    network: str = "resnet50",
    size: int = 224,
    ratio: tuple[float, float, float] = RATIO,
    minutes: float | None = None,
    epochs: int | None = None,
    weights: str | Path | None = None,
    negative: str | None = None,
    saliency: str | None = "gradcam",
    target_layer: str | None = None,
    compare_layers: Sequence[str] = (),
    mirror: bool = True,
    neighbours: int = 0,
    mask_weight: float = 0.0,
    smoothing: int = 0,
    compare_splits: bool = True,
    audit: bool = True,
    settings: Mapping[str, Any] | None = None,
    network_options: Mapping[str, Any] | None = None,
    input: SliceInput | None = None,
    on_problem: Literal["raise", "skip"] = "raise",
    title: str = "Findings on head CT slices",
    simulated: bool = False,
    seed: int = 0,
    folder: str | Path | None = None,
    n_boot: int = 2000,
    resume: bool = True,
    n_jobs: int = 1,
    backend: str = "loky",
    progress: bool = True,
) -> Path:
    """Audit, train, choose the threshold, judge on test patients, and show what a split by image would have promised.

    Parameters
    ----------
    table : DataFrame or path-like
        One row per slice: ``case_id, patient_id, image, slice, label`` and optionally ``mask``, ``site`` and ``split``.
    out : path-like
        Folder for ``model/``, ``model_by_image/``, ``slices.csv``, ``patients.csv``, ``saliency/``, ``tables/`` and
        ``report.html``.
    network : str
        As published, a ResNet-50; ``"resnet18"`` and a smaller ``size`` without a GPU.
    size : int
        Rows and columns that slices are resampled to; brain, subdural and bone windows become three channels.
    ratio, minutes, epochs, weights, settings, network_options, seed, resume
        See :func:`hybrid.pipelines.train_classifier`; each of the two networks is trained for so long.
    negative, saliency, target_layer, compare_layers
        See :func:`hybrid.pipelines.slice_ct.find_in_slices`.
    mirror : bool
        Show half of the training slices mirrored left to right: a finding may lie on either side.
    neighbours : int
        Slices below and above that the network sees, too; see
        :class:`hybrid.deep.classification.inputs.SliceInput`.
    mask_weight : float
        Above 0, the masks of training patients teach the network where findings are, see
        :mod:`hybrid.deep.classification.localisation`. New slices need no mask. The published system had labels only.
    smoothing : int
        Average the probability of a slice over so many slices on either side, with weights that fall along a line; see
        :mod:`hybrid.analysis.slice_smoothing`. It goes with the model.
    compare_splits : bool
        Train a second network on a split by image.
    audit : bool
        Look for shortcuts (image size, mean grey value, centre and so on) before the training.
    input : SliceInput, optional
        Other preparation than windows at ``size``, for example of PNG slices.
    on_problem : {"raise", "skip"}
        Whether rows that cannot be used stop the study or are left out; see :func:`hybrid.pipelines.train_classifier`.
    title, simulated : optional
        Of the report.
    folder : path-like, optional
        Relative paths resolve against it; default: the folder of the table's file.
    n_boot : int
        Bootstrap draws of the intervals.
    n_jobs, backend, progress
        See :func:`hybrid.pipelines.run_tasks`.

    Returns
    -------
    Path
        ``report.html``.

    Raises
    ------
    InputError
        When the table cannot be used, see :func:`hybrid.pipelines.train_classifier`, or there are no test patients.
    """
    from hybrid.deep.classification.inputs import SliceInput

    out = Path(out)
    work: dict[str, Any] = {"n_jobs": n_jobs, "backend": backend, "progress": progress}
    chosen = input or SliceInput(size=(size, size), neighbours=neighbours)
    settings = {**({"mask_weight": mask_weight} if mask_weight else {}), **(settings or {})}
    common: dict[str, Any] = {
        "task": "slice", "network": network, "input": chosen, "ratio": ratio, "minutes": minutes, "epochs": epochs,
        "weights": weights, "settings": settings, "network_options": network_options, "seed": seed, "folder": folder,
        "resume": resume, "on_problem": on_problem, "augmentation": {"mirror": (COLUMNS,)} if mirror else True, **work,
    }  # fmt: skip
    rows, _ = slice_rows(table, folder=folder)
    nothing = negative_class(sorted(set(rows["label"].dropna())), negative)
    grey = measure_grey(rows, chosen, out, work)
    shortcuts = audit_slices(grey, rows, seed=seed) if audit else None
    train_classifier(table, out / MODEL, split_by="patient", **common)
    save_threshold(out / MODEL, negative=nothing, smoothing=smoothing)
    predictions = read_predictions(out / MODEL / PREDICTIONS)
    test = set(predictions.loc[predictions["split"] == TEST, "patient_id"])
    if not test:
        raise InputError("There are no test patients, so that nothing can be judged.", advice="Change the ratio.")
    splits = None
    if compare_splits:
        plain = (
            image_table(table, task="slice", folder=folder)[0].drop(columns="split").rename(columns={"id": "slice_id"})
        )
        train_classifier(plain, out / MODEL_BY_IMAGE, split_by="image", **common)
        save_threshold(out / MODEL_BY_IMAGE, negative=nothing, smoothing=smoothing)
        splits = compare_models([out / MODEL, out / MODEL_BY_IMAGE], negative=nothing)
        write_csv(splits, out / "splits.csv")
    trained = set(predictions.loc[predictions["split"] == TRAIN, "patient_id"])
    find_in_slices(
        rows[rows["patient_id"].isin(test)], out / MODEL, out, negative=nothing, saliency=saliency,
        target_layer=target_layer, compare_layers=compare_layers, splits=splits, shortcuts=shortcuts, title=title,
        simulated=simulated, n_boot=n_boot,
        baselines=fit_baselines(grey, rows, trained, test, negative=nothing, seed=seed), **work,
    )  # fmt: skip
    return out / "report.html"


def measure_grey(rows: pd.DataFrame, input: SliceInput, out: str | Path, work: Mapping[str, Any]) -> pd.DataFrame:
    """Measure what can be known of each slice without looking at anatomy.

    Parameters
    ----------
    rows : DataFrame
        From :func:`hybrid.pipelines.slice_ct.slice_rows`, with slice numbers (or one slice per file).
    input : SliceInput
        What the network is given; the grey values are those.
    out : path-like
        Folder of the cache.
    work : mapping
        ``n_jobs``, ``backend``, ``progress``.

    Returns
    -------
    DataFrame
        ``case_id``, ``slice``, ``grey_mean``, ``grey_00`` and so on, and ``fact_<name>`` for each fact of
        :func:`hybrid.shortcuts.image_facts`. Slices that cannot be read are absent.
    """
    described = input.to_dict()
    tasks = [
        Task(name, digest([own["content"], [r["slice"] for r in own["rows"]], described, code_version()]), own)
        for name, own in files_of(rows).items()
    ]
    found = run_tasks(functools.partial(grey_of_file, input=described), tasks, stage=GREY, out=out, **work)
    table = pd.DataFrame([row for own in found.rows.values() for row in own])
    if table.empty:
        raise InputError("None of the slices could be read.", advice="See failures.csv.", path=out)
    return table.assign(slice=table["slice"].astype("Int64"))


def grey_of_file(payload: Mapping[str, Any], seed: int, *, input: Mapping[str, Any]) -> Rows:
    """Mean, histogram and facts of the wanted slices of one file."""
    from hybrid.deep.classification.inputs import input_from_dict

    prepare, path = input_from_dict(input), Path(payload["image"])
    result: Rows = []
    for row in payload["rows"]:
        values = prepare.read(path, row["slice"], case_id=row["case_id"])[0]
        shares = histogram_features(values, bins=BINS, limits=(-1.0, 1.0))
        facts = image_facts(path, row["slice"], case_id=row["case_id"])
        result.append({
            "case_id": row["case_id"], "slice": row["slice"] or 0, "grey_mean": mean_grey(values),
            **{f"grey_{number:02d}": float(share) for number, share in enumerate(shares)},
            **{f"fact_{name}": value for name, value in facts.items()},
        })  # fmt: skip
    return result


def audit_slices(grey: pd.DataFrame, rows: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """Audit shortcuts: the facts of :func:`measure_grey` and the centre.

    Returns
    -------
    DataFrame
        See :func:`hybrid.analysis.shortcut_audit.audit_shortcuts`.
    """
    known = _joined(grey, rows)
    facts = known[[name for name in grey.columns if name.startswith("fact_")]]
    facts = facts.rename(columns=lambda name: name.removeprefix("fact_"))
    if known["site"].notna().any():
        facts = facts.assign(site=known["site"])
    return audit_shortcuts(facts, known["label"], known["patient_id"], seed=seed)


def _joined(grey: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Measured slices with label, patient and centre."""
    named = rows.assign(slice=rows["slice"].map(lambda value: 0 if value is None else value).astype("Int64"))
    known = named.loc[named["label"].notna(), ["case_id", "slice", "patient_id", "label", "site"]]
    return grey.merge(known, on=["case_id", "slice"]).reset_index(drop=True)


def fit_baselines(
    grey: pd.DataFrame, rows: pd.DataFrame, trained: set[str], test: set[str], *, negative: str, seed: int = 0
) -> pd.DataFrame:
    """Fit trivial models on the slices of training patients and apply them to those of test patients.

    Parameters
    ----------
    grey, rows
        See :func:`measure_grey`.
    trained, test : set of str
        Patients.
    negative : str
        Class that means that nothing was found.
    seed : int
        Of the folds that choose the penalty.

    Returns
    -------
    DataFrame
        ``model, case_id, slice, probability`` of any finding: logistic models of the mean grey value and of the
        histogram of what the network is given (first channel).
    """
    known = _joined(grey, rows)
    first, last = known[known["patient_id"].isin(trained)], known[known["patient_id"].isin(test)]
    bins = [f"grey_{number:02d}" for number in range(BINS)]
    tables = []
    for name, columns in ((MEAN_GREY, ["grey_mean"]), (HISTOGRAM, bins)):
        ill = (first["label"] != negative).astype(int)
        model = fit_histogram_baseline(first[columns].to_numpy(), ill, patients=first["patient_id"], seed=seed)
        probability = model.predict_proba(last[columns].to_numpy())[:, 1]
        tables.append(last[["case_id", "slice"]].assign(model=name, probability=probability))
    return pd.concat(tables, ignore_index=True)[["model", "case_id", "slice", "probability"]]


def compare_models(models: Sequence[str | Path], *, negative: str) -> pd.DataFrame:
    """Test figures of model folders that were split in different ways, side by side.

    Parameters
    ----------
    models : sequence of path-like
        Model folders with ``predictions.csv``.
    negative : str
        Class that means that nothing was found.

    Returns
    -------
    DataFrame
        One row per model, see :func:`hybrid.analysis.slices.split_row`. Thresholds come from the tuning slices of each
        model.
    """
    import json

    rows = []
    for model in models:
        card = json.loads((Path(model) / "model.json").read_text(encoding="utf-8"))
        predictions = read_predictions(Path(model) / PREDICTIONS)
        test = predictions[predictions["split"] == TEST]
        others = predictions.loc[predictions["split"] != TEST, "patient_id"]
        point = operating_point(model, negative=negative)
        slices = as_slices(test, negative=negative, threshold=point.threshold, smoothing=point.smoothing)
        shared = int(np.isin(test["patient_id"].unique(), others.unique()).sum())
        rows.append(
            split_row(slices[list(SLICE_COLUMNS)], split_by=card["split_by"], negative=negative, shared_patients=shared)
        )
    return pd.DataFrame(rows)


def demo_slices(
    out: str | Path,
    *,
    n: int = DEMO_PATIENTS,
    minutes: float = DEMO_MINUTES,
    seed: int = 0,
    n_jobs: int = 1,
    backend: str = "loky",
    progress: bool = True,
) -> Path:
    """Simulate head CT and run the whole study on it, small enough for a few minutes without a GPU.

    Parameters
    ----------
    out : path-like
        Folder for the simulated patients (``cohort/``) and everything that :func:`run_head_ct_study` writes.
    n : int
        Simulated patients.
    minutes : float
        Training time of each of the two networks.
    seed : int
        Of simulation and training.
    n_jobs, backend, progress
        See :func:`hybrid.pipelines.run_tasks`.

    Returns
    -------
    Path
        ``report.html``.
    """
    from hybrid.phantoms.head_ct import simulate_head_ct_cohort

    out = Path(out)
    logger.info("Simulating %d head CT in %s", n, out / "cohort")
    table = simulate_head_ct_cohort(out / "cohort", n=n, size=DEMO_SIZE, seed=seed, n_jobs=n_jobs, progress=progress)
    return run_head_ct_study(
        table, out, network="resnet10", size=DEMO_SIZE, minutes=minutes, seed=seed, simulated=True,
        ratio=DEMO_RATIO, target_layer=DEMO_LAYER, settings={"batch": 16, "learning_rate": 1e-3},
        title="Findings on simulated head CT", n_jobs=n_jobs, backend=backend, progress=progress,
    )  # fmt: skip
