"""The verbs ``hybrid survival``, ``survival-fit`` and ``survival-validate``: Cox models of features."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from hybrid.cases import Cohort

Say = Callable[[str], None]


def add_verbs(verbs: Any, work: argparse.ArgumentParser, say: Say) -> None:
    """Add the verbs to the command's parser."""
    parser = verbs.add_parser(
        "survival", parents=[work], help="time to an event: Cox models, C-index, risk groups, report"
    )
    _add_study(parser)
    parser.add_argument(
        "--feature-sets", nargs="+", metavar="NAME", default=["handcrafted", "deep", "fused"],
        help="sets that are compared",
    )  # fmt: skip
    parser.add_argument("--permutations", type=int, default=0, help="shuffles of the follow-up")
    parser.add_argument("--title", default="Survival", help="of the report")
    parser.add_argument("--out", required=True, help="folder for predictions.csv, tables/, figures/ and report.html")
    parser.set_defaults(verb=_survival, say=say)
    parser = verbs.add_parser("survival-fit", parents=[work], help="freeze a Cox model on all patients")
    _add_study(parser)
    parser.add_argument("--feature-set", default="handcrafted", help="features of the model")
    parser.add_argument("--horizon", type=float, metavar="TIME", help="when calibration is judged (default: middle)")
    parser.add_argument("--out", required=True, help="model folder to write")
    parser.set_defaults(verb=_fit, say=say)
    parser = verbs.add_parser("survival-validate", parents=[work], help="apply a frozen Cox model to new patients")
    parser.add_argument("model", help="model folder written by `hybrid survival-fit`")
    parser.add_argument("cohort", help="cohort table of the new patients with their follow-up")
    parser.add_argument("--features", required=True, help="features.csv of the new patients")
    parser.add_argument("--time", metavar="COLUMN", help="follow-up (default: as in the model)")
    parser.add_argument("--event", metavar="COLUMN", help="event (default: as in the model)")
    parser.add_argument("--event-value", metavar="VALUE", help="value that means an event (default: as in the model)")
    parser.add_argument("--title", default="External validation: survival", help="of the report")
    parser.add_argument("--out", required=True, help="folder for predictions.csv, tables/, figures/ and report.html")
    parser.set_defaults(verb=_validate, say=say)


def _add_study(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that describe a survival study."""
    parser.add_argument("cohort", help="cohort table with the follow-up: CSV or Excel")
    parser.add_argument("--features", required=True, help="features.csv")
    parser.add_argument(
        "--time", required=True, metavar="COLUMN", help="follow-up from inclusion to event or last contact"
    )
    parser.add_argument("--event", required=True, metavar="COLUMN", help="1: event, 0: censored (see --event-value)")
    parser.add_argument("--event-value", metavar="VALUE", help="value of the event column that means an event")
    parser.add_argument("--time-unit", default="", help="unit of the follow-up, for the report: days, months, years")
    parser.add_argument(
        "--horizons",
        nargs="+",
        type=float,
        metavar="TIME",
        help="times of the time-dependent results (default: eight over most of the events)",
    )
    parser.add_argument("--covariates", nargs="+", default=[], help="clinical columns of the cohort table")
    parser.add_argument(
        "--volume", metavar="FEATURE", help="feature of the volume baseline (default: the shape volume)"
    )
    parser.add_argument("--repeats", type=int, default=5, help="of the cross-validation")
    parser.add_argument("--folds", type=int, default=5, help="of the cross-validation")
    parser.add_argument("--inner-folds", type=int, default=3, help="that choose the penalty")
    parser.add_argument("--seed", type=int, default=0, help="of everything random")


def _survival(options: argparse.Namespace) -> int:
    from .files import read_features
    from .survival import run_survival

    report = run_survival(
        read_features(options.features), Cohort.read(options.cohort), options.out, time=options.time,
        event=options.event, event_value=options.event_value, feature_sets=options.feature_sets,
        covariates=options.covariates, volume=options.volume, horizons=options.horizons, repeats=options.repeats,
        folds=options.folds, inner_folds=options.inner_folds, n_permutations=options.permutations,
        time_unit=options.time_unit, title=options.title, seed=options.seed, n_jobs=options.jobs,
        backend=options.backend, progress=not options.quiet,
    )  # fmt: skip
    options.say(f"Report: {report.resolve()}")
    return 0


def _fit(options: argparse.Namespace) -> int:
    from .files import read_features
    from .survival_validation import fit_survival_study

    folder = fit_survival_study(
        read_features(options.features), Cohort.read(options.cohort), options.out, time=options.time,
        event=options.event, event_value=options.event_value, feature_set=options.feature_set,
        covariates=options.covariates, volume=options.volume, horizons=options.horizons, horizon=options.horizon,
        repeats=options.repeats, folds=options.folds, inner_folds=options.inner_folds, time_unit=options.time_unit,
        seed=options.seed, n_jobs=options.jobs, backend=options.backend, progress=not options.quiet,
    )  # fmt: skip
    options.say(f"Model: {folder.resolve()}")
    return 0


def _validate(options: argparse.Namespace) -> int:
    from .files import read_features
    from .survival_validation import validate_survival

    report = validate_survival(
        options.model, read_features(options.features), Cohort.read(options.cohort), options.out, time=options.time,
        event=options.event, event_value=options.event_value, title=options.title,
    )  # fmt: skip
    options.say(f"Report: {report.resolve()}")
    return 0
