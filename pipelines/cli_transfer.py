"""The verb ``hybrid transfer``: a small cohort borrows from a large one (system b)."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from hybrid.analysis.transfer import ARMS
from hybrid.cases import Cohort

from .cli_masks import labels_of_word, split_word, values_of_words

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
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS), help="default: all six")
    parser.add_argument("--epochs", type=int, default=20, help="of every arm (default: %(default)s)")
    parser.add_argument("--pretraining-epochs", type=int, default=60, help="of the auxiliary network (%(default)s)")
    parser.add_argument("--steps", type=int, default=50, help="per epoch (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="repeats with a fixed test set (default: %(default)s)")
    parser.add_argument("--folds", type=int, default=5, help="without a fixed test set (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=1, help="of the folds")
    parser.add_argument("--sizes", nargs="+", type=int, default=[], help="training-set sizes of the learning curve")
    parser.add_argument("--weights", nargs="+", type=float, default=[], help="auxiliary weights of the dilution test")
    parser.add_argument("--spacing", nargs=3, type=float, metavar="MM", help="voxel size z y x of the networks")
    parser.add_argument("--locate", type=float, metavar="MM", help="look for the region at this voxel size first")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--title", default="Transfer to a small cohort")
    parser.add_argument("--simulated", action="store_true", help="say in the report that the images are simulated")
    parser.add_argument("--out", required=True, help="folder for models, tables and report.html")
    parser.set_defaults(verb=_transfer, say=say)


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
        locate_mm=options.locate, seed=options.seed, title=options.title, simulated=options.simulated,
        n_jobs=options.jobs, backend=options.backend, progress=not options.quiet,
    )  # fmt: skip
    options.say(f"Report: {study.run().resolve()}")
    return 0
