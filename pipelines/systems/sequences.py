"""System d: which MRI sequence (or modality) is a volume, from pixels and geometry alone.

After Sun et al. 2024 (doi:10.13929/j.issn.1003-3289.2024.05.028), who tell five sequences of prostate MRI apart with a
3D residual network and report every class against the rest at above 0.99. Here patients, not images, are divided; a
centre may be held out; and a logistic regression on the histogram of grey values stands beside the network.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from hybrid.cases import Cohort
from hybrid.deep.classification.inputs import VolumeInput
from hybrid.errors import InputError, unknown_name
from hybrid.files import write_csv
from hybrid.provenance import code_version, digest, file_digest, versions

from ..files import write_json
from ..image_tables import EXTERNAL, STAGE, TRAIN, TUNING, image_table
from ..runner import Rows, Task, run_tasks, write_failures
from ..train_classifier import PREDICTIONS, read_predictions
from ..train_classifier import train_classifier as train

logger = logging.getLogger(__name__)

MODEL: Final = "model"
BASELINE: Final = "histogram_predictions.csv"
HISTOGRAMS: Final = "histograms"
PROBABILITY: Final = "y_prob_"

DEMO_INPUT: Final = VolumeInput((16, 48, 48))
DEMO_PATIENTS: Final = 48
DEMO_EPOCHS: Final = 40


def run_sequence_study(
    table: pd.DataFrame | Cohort | str | Path,
    out: str | Path,
    *,
    split: tuple[float, float, float] = (8, 1, 1),
    held_out_site: str | None = None,
    network: str = "resnet18",
    input: VolumeInput | None = None,
    minutes: float | None = None,
    epochs: int | None = None,
    accuracy: float = 0.99,
    baseline: bool = True,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    network_options: Mapping[str, Any] | None = None,
    weights: str | Path | None = None,
    on_problem: str = "raise",
    title: str = "Which sequence is this?",
    simulated: bool = False,
    folder: str | Path | None = None,
    n_boot: int = 2000,
    n_jobs: int = 1,
    backend: str = "loky",
    progress: bool = True,
) -> Path:
    """Train a classifier of sequences, judge it on patients and a centre it never saw, and report.

    Parameters
    ----------
    table : DataFrame, Cohort or path-like
        One row per volume, see :func:`hybrid.pipelines.train_classifier.image_table`: ``case_id`` or ``series_id``,
        ``image``, ``label``, and optionally ``patient_id``, ``site`` and ``split``.
    out : path-like
        Folder for ``model/``, ``histogram_predictions.csv``, ``tables/``, ``figures/`` and ``report.html``.
    split : tuple of three numbers
        Shares of the patients for training, tuning and testing; a column ``split`` has precedence.
    held_out_site : str, optional
        Centre whose patients are neither trained nor tuned on: reported beside the internal test.
    network, input, minutes, epochs, seed, settings, network_options, weights, on_problem, folder
        See :func:`hybrid.pipelines.train_classifier`.
    accuracy : float
        The threshold on the confidence is the smallest that reaches this accuracy on the tuning patients.
    baseline : bool
        Fit the logistic regression on histograms, on the same training and tuning patients.
    title : str
        Of the report.
    simulated : bool
        Said at the top of the report.
    n_boot : int
        Draws of the bootstrap intervals.
    n_jobs, backend, progress
        See :func:`hybrid.pipelines.run_tasks`.

    Returns
    -------
    Path
        ``report.html``.

    Raises
    ------
    InputError
        For an unknown centre, rows that cannot be used, or whatever ``train_classifier`` refuses.
    """
    from hybrid.analysis.per_class import choose_abstention
    from hybrid.analysis.sequence_report import SequenceReport

    out = Path(out)
    work: dict[str, Any] = {"n_jobs": n_jobs, "backend": backend, "progress": progress}
    images, problems = image_table(table, folder=folder)
    _report_problems(problems, out, on_problem)
    images = _hold_out(images, held_out_site)
    model = train(
        images.rename(columns={"id": "series_id"}), out / MODEL, network=network, input=input, ratio=split,
        minutes=minutes, epochs=epochs, accuracy=accuracy, seed=seed, settings=settings,
        network_options=network_options, weights=weights, on_problem=on_problem,  # type: ignore[arg-type]
        **work,
    )  # fmt: skip
    predictions = read_predictions(model / PREDICTIONS)
    classes = [name[len(PROBABILITY) :] for name in predictions.columns if name.startswith(PROBABILITY)]
    beside = histogram_predictions(predictions, images, out, seed=seed, **work) if baseline else None
    chosen = choose_abstention(predictions[predictions["split"] == TUNING], accuracy, n_bootstrap=n_boot)
    card = json.loads((model / "model.json").read_text(encoding="utf-8"))
    record = {
        "settings": {
            **{name: card[name] for name in ("network", "preprocessing", "settings", "counts", "epochs", "warnings")},
            "ratio": list(split), "held_out_site": held_out_site, "seed": seed,
        },
        "versions": versions(),
    }  # fmt: skip
    write_json(record, out / "record.json")
    report = SequenceReport(
        predictions=predictions, baseline=beside, classes=classes, threshold=chosen.threshold or 0.0,
        abstention=chosen, title=title, simulated=simulated, run_record=record, n_boot=n_boot, seed=seed,
    )  # fmt: skip
    return report.save(out / "report.html")


def _report_problems(problems: pd.DataFrame, out: Path, on_problem: str) -> None:
    """Stop for rows without an image or label, or leave them out; they are rows of ``failures.csv`` either way."""
    if on_problem not in ("raise", "skip"):
        raise unknown_name("value of 'on_problem'", on_problem, ("raise", "skip"))
    write_failures(problems, out, STAGE)
    if len(problems) and on_problem == "raise":
        first = problems.iloc[0]
        raise InputError(
            f"{len(problems)} rows cannot be used. First: {first['message']}",
            advice=f"{first['advice']} All are in failures.csv; on_problem='skip' leaves them out.",
            case_id=str(first["case_id"]),
        )


def _hold_out(images: pd.DataFrame, site: str | None) -> pd.DataFrame:
    """Images with the split ``external`` at one centre."""
    if site is None:
        return images
    sites = images["site"].dropna().unique()
    if site not in sites:
        raise unknown_name("centre", site, sites)
    return images.assign(split=images["split"].mask(images["site"] == site, EXTERNAL))


def histogram_predictions(
    predictions: pd.DataFrame,
    images: pd.DataFrame,
    out: Path,
    *,
    seed: int = 0,
    n_jobs: int = 1,
    backend: str = "loky",
    progress: bool = True,
) -> pd.DataFrame:
    """Predict the same images from their histograms of grey values alone.

    Parameters
    ----------
    predictions : DataFrame
        Of the network: splits and true classes.
    images : DataFrame
        From :func:`hybrid.pipelines.train_classifier.image_table`.
    out : Path
        Gets ``histogram_predictions.csv``, and a cache.
    seed, n_jobs, backend, progress
        See :func:`run_sequence_study`.

    Returns
    -------
    DataFrame
        As ``predictions``, with the baseline's ``y_pred``, ``confidence`` and ``y_prob_<class>``; fitted on training
        and tuning images. An image without a histogram has no answer.
    """
    from hybrid.image_baselines import fit_histogram_baseline

    own = images.set_index("id").loc[predictions["id"]]
    tasks = [
        Task(name, digest([file_digest(path), code_version()]), {"id": name, "path": str(path)})
        for name, path in own["image"].items()
    ]
    options = {"n_jobs": n_jobs, "backend": backend, "progress": progress}
    results = run_tasks(histogram_of, tasks, stage=HISTOGRAMS, out=out, **options)  # type: ignore[arg-type]
    features = pd.DataFrame({name: list(rows[0].values()) for name, rows in results.rows.items()}).T
    known = predictions["id"].isin(features.index)
    fitted = known & predictions["split"].isin([TRAIN, TUNING])
    rows = predictions[fitted]
    model = fit_histogram_baseline(
        features.loc[rows["id"]].to_numpy(), rows["y_true"].to_numpy(str), patients=rows["patient_id"].to_numpy(str),
        seed=seed,
    )  # fmt: skip
    found = np.full((len(predictions), len(model.classes_)), np.nan)
    found[known.to_numpy()] = model.predict_proba(features.loc[predictions.loc[known, "id"]].to_numpy())
    table = predictions.drop(columns=[name for name in predictions.columns if name.startswith(PROBABILITY)])
    best = np.where(known, model.classes_[np.nan_to_num(found).argmax(axis=1)], "")
    table = table.assign(
        y_pred=best, confidence=found.max(axis=1), abstained=False,
        **{f"{PROBABILITY}{name}": found[:, i] for i, name in enumerate(model.classes_)},
    )  # fmt: skip
    write_csv(table, out / BASELINE)
    return table


def histogram_of(payload: Mapping[str, str], seed: int) -> Rows:
    """Histogram of one volume, scaled by its own percentiles; bins by number."""
    from hybrid.image_baselines import histogram_features
    from hybrid.images import read_image, to_array

    values = to_array(read_image(payload["path"], case_id=payload["id"]))
    shares = histogram_features(values, case_id=payload["id"])
    return [{str(number): float(share) for number, share in enumerate(shares)}]


def demo_sequences(
    out: str | Path,
    *,
    n: int = DEMO_PATIENTS,
    epochs: int = DEMO_EPOCHS,
    seed: int = 0,
    n_jobs: int = 1,
    backend: str = "loky",
    progress: bool = True,
) -> Path:
    """Simulate prostate MRI of three centres, train on two, and name the series of patients that nobody knows.

    Parameters
    ----------
    out : path-like
        Gets ``cohort/``, the study (``report.html``), ``new/`` with unlabelled series and ``identified/`` with what the
        tool says of them.
    n : int
        Patients, five series each.
    epochs : int
        Passes over the training series.
    seed : int
        Of patients, split and training.
    n_jobs, backend, progress
        See :func:`hybrid.pipelines.run_tasks`.

    Returns
    -------
    Path
        ``report.html`` of the study.
    """
    from hybrid.phantoms.prostate import simulate_prostate_cohort

    from ..sequence_id import identify_sequences

    out = Path(out)
    table = simulate_prostate_cohort(out / "cohort", n=n, seed=seed, progress=progress)
    report = run_sequence_study(
        table, out, held_out_site="C", network="resnet10", input=DEMO_INPUT, epochs=epochs, split=(6, 2, 2),
        settings={"learning_rate": 2e-3, "ema": 0.95, "batch": 8}, network_options={"widen": 0.25}, seed=seed,
        title="Sequences of prostate MRI", simulated=True, n_jobs=n_jobs, backend=backend,
        progress=progress,
    )  # fmt: skip
    simulate_prostate_cohort(out / "new", n=2, seed=seed + 1, progress=False)
    identify_sequences(out / "new", out / MODEL, out / "identified", n_jobs=n_jobs, backend=backend, progress=progress)
    return report
