"""Benign or malignant with twenty patients: every honest estimate of the AUC, the volume alone always beside it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import pandas as pd

from hybrid.analysis.compare import compare_models
from hybrid.analysis.metrics import evaluate_models
from hybrid.analysis.sample_size import sample_size_verdict
from hybrid.analysis.small_sample import VOLUME, estimate_rows
from hybrid.analysis.small_sample_report import SmallSampleReport
from hybrid.cases import Cohort
from hybrid.errors import InputError
from hybrid.files import write_csv
from hybrid.provenance import versions
from hybrid.selection import MAX_FEATURES, MIN_ICC
from hybrid.tables import HANDCRAFTED_PREFIX

from .evaluate import cross_validate, permutation_null, prepare_table
from .files import write_json
from .mask_features import SOURCES, BothMasks, features_of_both_masks
from .models import fit_model, validate_model
from .resample import DeclaredPipeline, bootstrap_632, leave_pair_out, optimism_bootstrap
from .training_cases import split_of

logger = logging.getLogger(__name__)

VOLUME_COLUMNS: Final = (f"{HANDCRAFTED_PREFIX}*shape_MeshVolume",)
HELD_OUT: Final = ("test", "external")
CONTRAST: Final = (("handcrafted", "deep"), ("fused", "handcrafted"), ("handcrafted", VOLUME), ("deep", VOLUME))


@dataclass(frozen=True)
class SmallSampleSettings:
    """What is declared before the data are looked at.

    Attributes
    ----------
    classifiers : tuple of str
        Candidates of the inner folds; few, because twenty patients cannot choose among many.
    declared : str
        The feature set whose pipeline gets the .632+ bootstrap; one only.
    repeats, folds, inner_folds : int
        Of the nested cross-validation.
    bootstraps, permutations : int
        Fits of the .632+ bootstrap, and permuted outcomes; 0 leaves either out.
    min_icc : float
        Features with a smaller ICC(2,1) between the two masks are dropped inside each fold.
    max_features : int
        Most features of a block.
    seed : int
        Of everything.
    """

    classifiers: tuple[str, ...] = ("logistic",)
    declared: str = "handcrafted"
    repeats: int = 10
    folds: int = 5
    inner_folds: int = 3
    bootstraps: int = 200
    permutations: int = 100
    min_icc: float = MIN_ICC
    max_features: int = MAX_FEATURES
    seed: int = 0


def run_small_sample(
    cohort: Cohort,
    out: str | Path,
    *,
    predicted: Cohort | None = None,
    features: pd.DataFrame | None = None,
    label: int | None = None,
    handcrafted: Any = "ct",
    encoder: str | Path | None = "bundled",
    positive: Any = None,
    settings: SmallSampleSettings | None = None,
    title: str = "Handcrafted against deep features in a small cohort",
    simulated: bool = False,
    n_jobs: int = 1,
    backend: str = "loky",
    progress: bool = True,
) -> Path:
    """Classify with handcrafted, deep and fused features, and with the volume alone.

    Parameters
    ----------
    cohort : Cohort
        Images, reference masks and a binary outcome. Cases whose column ``split`` is ``test`` or ``external`` are held
        out: frozen models are applied to them, nothing is fitted on them.
    out : path-like
        Folder for features, tables and ``report.html``.
    predicted : Cohort, optional
        The same cases with predicted masks. Everything is then done twice, with the features of either mask, and only
        features that agree between the masks enter, chosen inside each fold.
    features : DataFrame, optional
        In place of images: a feature table, index ``case_id``.
    label : int, optional
        Label of the lesion in the masks.
    handcrafted, encoder
        See :func:`hybrid.pipelines.extract_features`.
    positive : optional
        Outcome that counts as positive.
    settings : SmallSampleSettings, optional
        What is declared beforehand.
    title, simulated
        Of the report.
    n_jobs, backend, progress
        See :func:`hybrid.pipelines.run_tasks`.

    Returns
    -------
    Path
        The report.

    Raises
    ------
    InputError
        For one outcome only, fewer patients of an outcome than folds, or missing features.
    """
    out, chosen = Path(out), settings or SmallSampleSettings()
    work: dict[str, Any] = {"n_jobs": n_jobs, "backend": backend, "progress": progress}
    own = Cohort(case for case in cohort if split_of(case) not in HELD_OUT)
    size = check_size(own, chosen, positive)
    both: BothMasks | None = None
    if features is not None:
        tables = {"given": features}
    elif predicted is None:
        from .extract import extract_features

        table = extract_features(
            cohort if label is None else Cohort(replace(case, roi_label=label) for case in cohort),
            handcrafted=handcrafted, encoder=encoder, out=out, **work,
        )  # fmt: skip
        tables = {"reference": table.dropna(how="all")}
    else:
        both = features_of_both_masks(
            cohort, predicted, label=label, handcrafted=handcrafted, encoder=encoder, out=out, **work
        )
        tables = {source: both.of(source) for source in SOURCES}
    studied = {
        source: _study_source(source, table, cohort, own, chosen, positive, out / source, work)
        for source, table in tables.items()
    }
    record = {
        "settings": {**asdict(chosen), "positive": positive, "label": label, "handcrafted": str(handcrafted),
                     "encoder": None if encoder is None else Path(encoder).name},
        "versions": versions(), "size": size,
    }  # fmt: skip
    write_json(record, out / "record.json")
    report = SmallSampleReport(
        pd.concat([found["estimates"] for found in studied.values()], ignore_index=True),
        pd.concat([found["contrasts"] for found in studied.values()], ignore_index=True),
        resampled=pd.concat([found["resampled"] for found in studied.values()], ignore_index=True),
        agreement=None if both is None else both.agreement, missing=None if both is None else both.missing,
        run_record=record, title=title, simulated=simulated,
    )  # fmt: skip
    return report.save(out / "report.html")


def check_size(cohort: Cohort, settings: SmallSampleSettings, positive: Any) -> str:
    """Refuse too few patients for the folds, and warn by Riley's criteria before anything is trained.

    Returns
    -------
    str
        The verdict as a sentence.

    Raises
    ------
    InputError
        For one outcome only, or fewer patients of an outcome than folds.
    """
    empty = pd.DataFrame({"none": 0.0}, index=pd.Index([case.case_id for case in cohort], name="case_id"))
    study = prepare_table(empty, cohort, positive=positive)
    outcome = pd.Series(study.y).groupby(study.patients).max()
    n, events = len(outcome), int(outcome.sum())
    smaller = min(events, n - events)
    if smaller < settings.folds:
        raise InputError(
            f"{settings.folds} folds need {settings.folds} patients of each outcome; found {events} positive and "
            f"{n - events} negative.",
            advice=f"Use {max(2, smaller)} folds or fewer, or collect more patients of the rarer outcome.",
        )
    verdict = sample_size_verdict(n, events, settings.max_features)
    if not verdict.enough:
        logger.warning("%s", verdict.sentence)
    return verdict.sentence


def _study_source(
    source: str, features: pd.DataFrame, cohort: Cohort, own: Cohort, settings: SmallSampleSettings, positive: Any,
    out: Path, work: Mapping[str, Any],
) -> dict[str, pd.DataFrame]:  # fmt: skip
    """All estimates and contrasts with the features of one mask."""
    names = {case.case_id for case in own}
    inside = features[[str(name) in names for name in features.index.get_level_values(0)]]
    sets = _feature_sets(features.columns)
    contrast = [pair for pair in CONTRAST if set(pair) <= set(sets)]
    common: dict[str, Any] = {
        "classifiers": settings.classifiers, "inner_folds": settings.inner_folds, "seed": settings.seed,
        "positive": positive, "max_features": settings.max_features, "min_icc": settings.min_icc,
    }  # fmt: skip
    predictions = cross_validate(
        inside, own, feature_sets=sets, repeats=settings.repeats, folds=settings.folds, baselines=("majority",),
        out=out, **common, **work,
    )  # fmt: skip
    null = None
    if settings.permutations:
        null = permutation_null(
            inside, own, feature_sets=sets, n_permutations=settings.permutations, folds=settings.folds, out=out,
            **common, **work,
        )  # fmt: skip
        write_csv(null, out / "permutation_null.csv")
    resampled, refits = _resampled(inside, own, sets, settings, positive, out, work)
    external = _held_out(features, cohort, names, sets, common, work)
    comparison = compare_models(predictions, contrast=contrast, seed=settings.seed)
    contrasts = [comparison.table.assign(source=source, estimate="nested_cv")]
    if external is not None:
        write_csv(external, out / "held_out.csv")
        found = evaluate_models(external, seed=settings.seed)
        for row in found[found["metric"] == "auc"].to_dict("records"):
            resampled[row["feature_set"], "held_out"] = pd.Series({**row, "interval": row["method"]})
        judged = compare_models(external, contrast=contrast, seed=settings.seed)
        contrasts.append(judged.table.assign(source=source, estimate="held_out"))
    write_csv(predictions, out / "predictions.csv")
    estimates = estimate_rows(source, comparison, resampled, null)
    return {
        "estimates": estimates, "contrasts": pd.concat(contrasts, ignore_index=True),
        "resampled": refits.assign(source=source),
    }  # fmt: skip


def _feature_sets(columns: Iterable[str]) -> dict[str, str | Sequence[str]]:
    """Feature sets that the table has columns for."""
    names = list(columns)
    sets: dict[str, str | Sequence[str]] = {}
    handcrafted = any(name.startswith(HANDCRAFTED_PREFIX) for name in names)
    deep = any(name.startswith("deep_") for name in names)
    if handcrafted:
        sets["handcrafted"] = "handcrafted"
    if deep:
        sets["deep"] = "deep"
    if handcrafted and deep:
        sets["fused"] = "fused"
    if any(name.endswith("shape_MeshVolume") for name in names):
        sets[VOLUME] = VOLUME_COLUMNS
    else:
        logger.warning("There is no column of the volume (shape_MeshVolume); the volume-only baseline is left out.")
    return sets


def _resampled(
    features: pd.DataFrame, cohort: Cohort, sets: Mapping[str, str | Sequence[str]], settings: SmallSampleSettings,
    positive: Any, out: Path, work: Mapping[str, Any],
) -> tuple[dict[tuple[str, str], pd.Series], pd.DataFrame]:  # fmt: skip
    """Leave-pair-out of every set, and .632+ of the declared one; below, every resampling estimate of the latter."""
    rows: dict[tuple[str, str], pd.Series] = {}
    tables: list[pd.DataFrame] = []
    for name, what in sets.items():
        pipeline = DeclaredPipeline(
            feature_set={name: what}, classifiers=settings.classifiers, inner_folds=settings.inner_folds,
            max_features=settings.max_features, min_icc=settings.min_icc,
        )  # fmt: skip
        common: dict[str, Any] = {"seed": settings.seed, "positive": positive, "out": out / name, **work}
        pairs = leave_pair_out(features, cohort, pipeline, **common)
        rows[name, "leave_pair_out"] = pairs.iloc[0]
        if name == settings.declared and settings.bootstraps:
            table = bootstrap_632(features, cohort, pipeline, n_bootstrap=settings.bootstraps, **common)
            chosen = table[(table["metric"] == "auc") & (table["method"] == "632_plus")]
            rows[name, "632_plus"] = chosen.iloc[0]
            corrected = optimism_bootstrap(features, cohort, pipeline, n_bootstrap=settings.bootstraps, **common)
            tables += [table, corrected[corrected["method"] == "optimism_corrected"], pairs]
    return rows, pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def _held_out(
    features: pd.DataFrame, cohort: Cohort, fitted: set[str], sets: Mapping[str, str | Sequence[str]],
    common: Mapping[str, Any], work: Mapping[str, Any],
) -> pd.DataFrame | None:  # fmt: skip
    """Predictions of frozen models for the held-out patients; None without any."""
    others = Cohort(case for case in cohort if case.case_id not in fitted)
    ids = features.index.get_level_values(0)
    new = features[[str(name) in {case.case_id for case in others} for name in ids]]
    if not len(others) or not len(new):
        return None
    own = Cohort(case for case in cohort if case.case_id in fitted)
    inside = features[[str(name) in fitted for name in ids]]
    parts = []
    for name, what in sets.items():
        model = fit_model(inside, own, feature_set={name: what}, **common)
        parts.append(validate_model(model, new, others))
    return pd.concat(parts, ignore_index=True)
