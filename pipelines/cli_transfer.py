"""The verbs of system b: ``hybrid transfer``, and ``hybrid small-sample`` for the classification."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hybrid.analysis.transfer import ARMS
from hybrid.cases import Cohort
from hybrid.selection import MIN_ICC

from .cli_masks import labels_of_word, split_word, values_of_words

if TYPE_CHECKING:
    from .small_sample import SmallSampleSettings

Say = Callable[[str], None]


def add_verbs(verbs: Any, work: argparse.ArgumentParser, say: Say) -> None:
    """Add the verb to the command's parser."""
    parser = verbs.add_parser(
        "transfer", parents=[work], help="system b: does a small cohort gain from a large auxiliary one?"
    )
    parser.add_argument("primary", help="table of the small cohort: image, mask, optional split (train, test)")
    parser.add_argument("auxiliary", help="table of the cohort to borrow from: image, mask")
    parser.add_argument("--label-map", nargs="+", default=[], metavar="AUX=OWN", help="auxiliary to primary labels")
    parser.add_argument("--labels", nargs="+", default=[], help="NAME=VALUE of each primary label (default: all)")
    parser.add_argument("--structures", nargs="+", default=[], help="NAME=LABEL,LABEL judged together")
    parser.add_argument(
        "--arms",
        nargs="+",
        default=list(ARMS),
        choices=list(ARMS),
        help="ways to borrow that are compared",
    )
    parser.add_argument("--epochs", type=int, default=20, help="epochs of every arm")
    parser.add_argument("--pretraining-epochs", type=int, default=60, help="epochs of the auxiliary network")
    parser.add_argument("--steps", type=int, default=50, help="training steps per epoch")
    parser.add_argument("--seeds", type=int, default=3, help="repeats with a fixed test set")
    parser.add_argument("--folds", type=int, default=5, help="folds of patients, without a fixed test set")
    parser.add_argument("--repeats", type=int, default=1, help="repeats of the folds")
    parser.add_argument("--sizes", nargs="+", type=int, default=[], help="training-set sizes of the learning curve")
    parser.add_argument("--weights", nargs="+", type=float, default=[], help="auxiliary weights of the dilution test")
    parser.add_argument("--spacing", nargs=3, type=float, metavar="MM", help="voxel size z y x of the networks")
    parser.add_argument("--engine", choices=("torch", "openvino"), default="torch", help="what runs the networks")
    parser.add_argument("--locate", type=float, metavar="MM", help="look for the region at this voxel size first")
    parser.add_argument("--seed", type=int, default=0, help="of everything random")
    parser.add_argument("--title", default="Transfer to a small cohort", help="of the report")
    parser.add_argument("--simulated", action="store_true", help="say in the report that the images are simulated")
    parser.add_argument(
        "--classify", metavar="STRUCTURE", help="then classify the outcome by features of this structure's masks"
    )
    parser.add_argument("--mask-arm", default="zero_shot", choices=list(ARMS), help="arm whose masks are classified")
    parser.add_argument("--out", required=True, help="folder for models, tables and report.html")
    _add_classification(parser)
    parser.set_defaults(verb=_transfer, say=say)
    parser = verbs.add_parser(
        "small-sample", parents=[work], help="system b: handcrafted against deep features with about twenty patients"
    )
    parser.add_argument("cohort", help="table: image, mask, outcome, optional split (test: held out)")
    parser.add_argument("--predicted", help="table of the same cases with predicted masks")
    parser.add_argument("--features", help="feature table in place of images")
    parser.add_argument("--label", type=int, help="label of the lesion in the masks")
    parser.add_argument("--seed", type=int, default=0, help="of everything random")
    parser.add_argument("--title", default="Handcrafted against deep features in a small cohort", help="of the report")
    parser.add_argument("--simulated", action="store_true", help="say in the report that the images are simulated")
    parser.add_argument("--out", required=True, help="folder for features, tables and report.html")
    _add_classification(parser)
    parser.set_defaults(verb=_small_sample, say=say)


def _add_classification(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("classification")
    group.add_argument("--positive", help="outcome that counts as positive (default: 1)")
    group.add_argument("--handcrafted", default="ct", help="preset or PyRadiomics parameter file")
    group.add_argument("--encoder", default="bundled", help="bundled, or a weight file or model folder")
    group.add_argument("--min-icc", type=float, default=MIN_ICC, help="smallest ICC between both masks")
    group.add_argument("--cv-folds", type=int, default=5, help="folds of the cross-validation")
    group.add_argument("--cv-repeats", type=int, default=10, help="repeats of the cross-validation")
    group.add_argument("--bootstraps", type=int, default=200, help="bootstrap draws of the .632+ estimate")
    group.add_argument("--permutations", type=int, default=100, help="shuffles of the outcome")


def _declared(options: argparse.Namespace) -> SmallSampleSettings:
    from .small_sample import SmallSampleSettings

    return SmallSampleSettings(
        repeats=options.cv_repeats, folds=options.cv_folds, bootstraps=options.bootstraps,
        permutations=options.permutations, min_icc=options.min_icc, seed=options.seed,
    )  # fmt: skip


def _small_sample(options: argparse.Namespace) -> int:
    from .files import read_features
    from .small_sample import run_small_sample

    report = run_small_sample(
        Cohort.read(options.cohort), options.out,
        predicted=Cohort.read(options.predicted) if options.predicted else None,
        features=read_features(options.features) if options.features else None, label=options.label,
        handcrafted=options.handcrafted, encoder=options.encoder, positive=options.positive,
        settings=_declared(options), title=options.title, simulated=options.simulated, n_jobs=options.jobs,
        backend=options.backend, progress=not options.quiet,
    )  # fmt: skip
    options.say(f"Report: {report.resolve()}")
    return 0


def _transfer(options: argparse.Namespace) -> int:
    from .systems.transfer import TransferStudy

    structures = {name: labels_of_word(values) for name, values in map(split_word, options.structures)}
    study = TransferStudy(
        Cohort.read(options.primary), Cohort.read(options.auxiliary), options.out,
        label_map={int(old): new for old, new in values_of_words(options.label_map, "--label-map").items()},
        labels=values_of_words(options.labels, "--labels"), structures=structures, arms=options.arms,
        epochs=options.epochs, pretraining_epochs=options.pretraining_epochs, steps=options.steps,
        seeds=options.seeds, folds=options.folds, repeats=options.repeats, sizes=options.sizes,
        weights=options.weights, plan={"spacing": options.spacing} if options.spacing else None,
        locate_mm=options.locate, inference={"engine": options.engine},
        seed=options.seed, title=options.title, simulated=options.simulated,
        n_jobs=options.jobs, backend=options.backend, progress=not options.quiet,
    )  # fmt: skip
    options.say(f"Report: {study.run().resolve()}")
    if options.classify:
        from .systems.transfer_features import classify_transfer

        report = classify_transfer(
            study, structure=options.classify, arm=options.mask_arm, handcrafted=options.handcrafted,
            encoder=options.encoder, positive=options.positive, settings=_declared(options),
        )  # fmt: skip
        options.say(f"Classification: {report.resolve()}")
    return 0
