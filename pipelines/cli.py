"""The ``hybrid`` command: thin callers of public functions.

Each verb is one function ``_verb(arguments) -> int``. Tests call :func:`main` in process.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hybrid.cases import Cohort
from hybrid.errors import HybridError
from hybrid.provenance import versions

from . import cli_masks, cli_sequence, cli_slices, cli_survival, cli_transfer

EXIT_PROBLEMS = 1
EXIT_ERROR = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : sequence of str, optional
        Words after ``hybrid``; by default those of the process.

    Returns
    -------
    int
        0 when all is well, 1 when ``check`` found errors, 2 for an error of the user's input.
    """
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO if not options.debug else logging.DEBUG, format="%(message)s")
    for noisy in ("matplotlib", "radiomics", "fontTools", "PIL"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    try:
        return int(options.verb(options))
    except HybridError as error:
        if options.debug:
            raise
        sys.stderr.write(f"hybrid: {error}\n")
        return EXIT_ERROR


class _Help(argparse.HelpFormatter):
    """Adds the default to an option's help where it says nothing of a default."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text, value = action.help, action.default
        said = text is None or "default" in text or not action.option_strings
        if said or isinstance(value, bool) or value in (None, "", [], argparse.SUPPRESS):
            return text
        shown = " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
        return f"{text} (default: {shown.replace('%', '%%')})"


class _Verb(argparse.ArgumentParser):
    """One command."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=_Help, **options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hybrid", description="Handcrafted radiomics and 3D deep features, compared honestly."
    )
    verbs = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Verb)
    common = _Verb(add_help=False)
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    work = _Verb(add_help=False, parents=[common])
    work.add_argument("--jobs", type=int, default=_default_jobs(), help="processes")
    work.add_argument("--backend", default="loky", help="joblib backend")
    work.add_argument("--quiet", action="store_true", help="no progress bars")
    _add_demo(verbs.add_parser("demo", parents=[work], help="simulate a cohort, run the whole line, write a report"))
    _add_check(verbs.add_parser("check", parents=[common], help="look for problems in a cohort table and its images"))
    _add_extract(verbs.add_parser("extract", parents=[work], help="handcrafted and deep features of a cohort"))
    _add_evaluate(verbs.add_parser("evaluate", parents=[work], help="cross-validated predictions from features"))
    _add_compare(verbs.add_parser("compare", parents=[common], help="metrics and paired tests from predictions"))
    _add_report(verbs.add_parser("report", parents=[common], help="report of tables that exist already"))
    _add_run(verbs.add_parser("run", parents=[work], help="a whole study from its file"))
    _add_fit(verbs.add_parser("fit", parents=[work], help="freeze the declared pipeline on all patients"))
    _add_validate(verbs.add_parser("validate", parents=[work], help="apply a frozen model to new patients"))
    cli_masks.add_verbs(verbs, work, _say)
    cli_transfer.add_verbs(verbs, work, _say)
    cli_sequence.add_verbs(verbs, work, _say)
    cli_slices.add_verbs(verbs, work, _say)
    cli_survival.add_verbs(verbs, work, _say)
    info = verbs.add_parser("info", parents=[common], help="versions, studies, presets, classifiers")
    info.set_defaults(verb=_info)
    return parser


def _default_jobs() -> int:
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1), 8)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _add_demo(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", default="hybrid-demo", help="folder for everything")
    parser.add_argument(
        "--masks", choices=("predicted", "given"), default="predicted",
        help="train a small cascade that draws the masks, or take those that come with the patients",
    )  # fmt: skip
    parser.add_argument(
        "--system", choices=("a", "c", "d", "e"), default="a",
        help="a: renal masses on CT and the whole line (default); c: malformations on MRI; d: which MR sequence; "
        "e: findings on head CT",
    )  # fmt: skip
    parser.set_defaults(verb=_demo)


def _demo(options: argparse.Namespace) -> int:
    from .demo import run_demo, run_system_demo

    work = {"n_jobs": options.jobs, "backend": options.backend, "progress": not options.quiet}
    if options.system == "a":
        report = run_demo(options.out, masks=options.masks, **work)
    else:
        report = run_system_demo(options.system, options.out, **work)
    _say(f"Report: {report.resolve()}")
    return 0


def _add_check(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("cohort", help="cohort table: CSV or Excel")
    parser.add_argument("--out", help="also write the table of problems to this CSV file")
    parser.set_defaults(verb=_check)


def _check(options: argparse.Namespace) -> int:
    from hybrid.files import write_csv

    cohort = Cohort.read(options.cohort)
    problems = cohort.check(progress=True)
    if options.out:
        write_csv(problems, options.out)
    if problems.empty:
        _say(f"No problems in {len(cohort)} cases.")
        return 0
    for row in problems.itertuples():
        place = f"case {row.case_id}" if row.case_id else "cohort"
        _say(f"{row.severity.upper():7} {place}: {row.problem} {row.advice}")
    errors = int((problems["severity"] == "error").sum())
    _say(f"{errors} error(s), {len(problems) - errors} warning(s) in {len(cohort)} cases.")
    return EXIT_PROBLEMS if errors else 0


def _add_extract(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("cohort", help="cohort table: CSV or Excel")
    parser.add_argument(
        "--handcrafted", metavar="PRESET_OR_YAML", nargs="+",
        help="ct, mr, pet or a PyRadiomics parameter file; with several images NAME=PRESET for each",
    )  # fmt: skip
    parser.add_argument("--encoder", metavar="NAME_OR_PATH", help="'bundled', or a weight file or model folder")
    parser.add_argument("--scale", nargs="+", default=["1"], help="factor on voxel values, or NAME=FACTOR")
    parser.add_argument("--modality", nargs="+", help="ct, mr or pet for the encoder, or NAME=MODALITY")
    parser.add_argument("--out", required=True, help="folder for features.csv")
    parser.set_defaults(verb=_extract)


def _extract(options: argparse.Namespace) -> int:
    from .extract import extract_features

    cohort = Cohort.read(options.cohort)
    scale = _named(options.scale)
    features = extract_features(
        cohort,
        handcrafted=_named(options.handcrafted),
        encoder=options.encoder,
        scale={name: _number(value) for name, value in scale.items()} if isinstance(scale, dict) else _number(scale),
        modality=_named(options.modality),
        out=options.out,
        n_jobs=options.jobs,
        backend=options.backend,
        progress=not options.quiet,
    )
    failed = len(features.attrs["failures"])
    _say(
        f"{len(features)} rows, {features.shape[1]} features, {failed} failure(s): {Path(options.out) / 'features.csv'}"
    )
    return 0


def _named(words: Sequence[str] | None) -> str | dict[str, str] | None:
    """Read ``VALUE`` or ``NAME=VALUE NAME=VALUE``."""
    if not words:
        return None
    if len(words) == 1 and "=" not in words[0]:
        return words[0]
    pairs = [word.partition("=") for word in words]
    for name, sign, value in pairs:
        if not (name and sign and value):
            raise HybridError(f"Expected NAME=VALUE, found {name + sign + value!r}.", advice="Example: ct=ct pet=pet.")
    return {name: value for name, _, value in pairs}


def _number(text: object) -> float:
    try:
        return float(str(text))
    except ValueError:
        raise HybridError(f"--scale must be a number; found {text!r}.", advice="Example: --scale 0.001.") from None


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("features", help="features.csv")
    parser.add_argument("cohort", help="cohort table with the outcome")
    parser.add_argument(
        "--feature-sets", nargs="+", metavar="NAME", default=["handcrafted", "deep", "fused"],
        help="sets that are compared",
    )  # fmt: skip
    parser.add_argument(
        "--classifiers", nargs="+", metavar="NAME",
        default=["logistic", "elastic_net", "rbf_svm", "random_forest", "xgboost"],
        help="classifiers of every set; `hybrid info` lists all",
    )  # fmt: skip
    parser.add_argument("--covariates", nargs="+", default=[], help="clinical columns of the cohort table")
    parser.add_argument("--positive", help="outcome that counts as positive")
    parser.add_argument("--repeats", type=int, default=5, help="of the cross-validation")
    parser.add_argument("--folds", type=int, default=5, help="of the cross-validation")
    parser.add_argument("--seed", type=int, default=0, help="of everything random")
    parser.add_argument("--out", required=True, help="folder for predictions.csv")
    parser.set_defaults(verb=_evaluate)


def _evaluate(options: argparse.Namespace) -> int:
    from hybrid.files import write_csv

    from .evaluate import cross_validate
    from .files import read_features

    predictions = cross_validate(
        read_features(options.features),
        Cohort.read(options.cohort),
        feature_sets=options.feature_sets,
        classifiers=options.classifiers,
        covariates=options.covariates,
        positive=options.positive,
        repeats=options.repeats,
        folds=options.folds,
        seed=options.seed,
        out=options.out,
        n_jobs=options.jobs,
        backend=options.backend,
        progress=not options.quiet,
    )
    _say(f"{len(predictions)} predictions: {write_csv(predictions, Path(options.out) / 'predictions.csv')}")
    return 0


def _add_compare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("predictions", help="predictions.csv, or any table with case_id, y_true, y_prob")
    parser.add_argument("--out", required=True, help="folder for metrics.csv and comparison.csv")
    parser.set_defaults(verb=_compare)


def _compare(options: argparse.Namespace) -> int:
    from hybrid.analysis import compare_models, evaluate_models
    from hybrid.files import write_csv

    from .files import read_predictions

    predictions = read_predictions(options.predictions)
    metrics = evaluate_models(predictions)
    write_csv(metrics, Path(options.out) / "metrics.csv")
    comparison = compare_models(predictions)
    write_csv(comparison.table, Path(options.out) / "comparison.csv")
    _say(comparison.table.to_string(index=False))
    _say(comparison.method)
    return 0


def _add_report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("predictions", help="predictions.csv")
    parser.add_argument("--cohort", help="cohort table")
    parser.add_argument("--features", help="features.csv")
    parser.add_argument("--title", default="Model comparison", help="of the report")
    parser.add_argument("--out", required=True, help="report file, for example report.html")
    parser.set_defaults(verb=_report)


def _report(options: argparse.Namespace) -> int:
    from hybrid.analysis import Report, compare_models

    from .files import read_features, read_predictions

    predictions = read_predictions(options.predictions)
    cohort = Cohort.read(options.cohort) if options.cohort else None
    features = read_features(options.features) if options.features else None
    comparison = compare_models(predictions)
    report = Report(cohort, features, predictions, comparison, title=options.title).save(options.out)
    _say(f"Report: {report.resolve()}")
    return 0


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("study", help="study file, or the name of one that comes with the package")
    parser.add_argument("--cohort", help="cohort table in place of the one named in the study file")
    parser.add_argument("--out", required=True, help="folder for report.html, features.csv, predictions.csv, tables/")
    parser.set_defaults(verb=_run)


def _run(options: argparse.Namespace) -> int:
    from .study import run_study

    report = run_study(
        _study(options), options.out, n_jobs=options.jobs, backend=options.backend, progress=not options.quiet
    )
    _say(f"Report: {report.resolve()}")
    return 0


def _study(options: argparse.Namespace):  # type: ignore[no-untyped-def]  # StudyConfig is imported late, with pydantic
    from .config import StudyConfig, find_study

    return StudyConfig.from_yaml(find_study(options.study), cohort_file=options.cohort)


def _add_fit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("study", help="study file")
    parser.add_argument("--cohort", help="cohort table in place of the one named in the study file")
    parser.add_argument("--feature-set", help="which of the study's feature sets (default: the first)")
    parser.add_argument("--out", required=True, help="model folder to write")
    parser.set_defaults(verb=_fit)


def _fit(options: argparse.Namespace) -> int:
    from .study import fit_study

    folder = fit_study(
        _study(options),
        options.out,
        feature_set=options.feature_set,
        n_jobs=options.jobs,
        backend=options.backend,
        progress=not options.quiet,
    )
    _say(f"Model: {folder.resolve()}")
    return 0


def _add_validate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="model folder written by `hybrid fit`")
    parser.add_argument("cohort", help="cohort table of the new patients")
    parser.add_argument(
        "--features", metavar="TABLE", help="their feature table, for a model that was fitted on a ready one"
    )
    parser.add_argument(
        "--development",
        metavar="COHORT",
        help="cohort that the model was fitted on, described beside the new one",
    )
    parser.add_argument("--out", required=True, help="folder for predictions.csv, tables/ and report.html")
    parser.set_defaults(verb=_validate)


def _validate(options: argparse.Namespace) -> int:
    from .study import new_patients, validate_study

    cohort = new_patients(options.model, options.cohort, options.features)
    development = None
    if options.development:
        # Where cohort and features stand in one file, that holds for both groups of patients.
        is_one_file = options.features == options.cohort
        table = options.development if is_one_file else options.features
        development = new_patients(options.model, options.development, table)
    report = validate_study(
        options.model, cohort, options.out, features=options.features, development=development, n_jobs=options.jobs,
        backend=options.backend, progress=not options.quiet,
    )  # fmt: skip
    _say(f"Report: {report.resolve()}")
    return 0


def _info(options: argparse.Namespace) -> int:
    from hybrid.classifiers import CLASSIFIERS
    from hybrid.handcrafted import PRESETS

    from .config import study_names

    lists = {"classifiers": sorted(CLASSIFIERS), "presets": sorted(PRESETS), "studies": study_names()}
    _say(json.dumps({"versions": versions(), **lists}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
