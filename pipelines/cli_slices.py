"""Verbs of the ``hybrid`` command that look for findings on slices: slice-ct and head-ct (system e)."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

Say = Callable[[str], None]


def add_verbs(verbs: Any, work: argparse.ArgumentParser, say: Say) -> None:
    """Add the verbs of this module to the command's parser."""
    for name, add, help_ in (
        ("slice-ct", _add_slice_ct, "findings on CT slices from a trained model, with maps and a report"),
        ("head-ct", _add_head_ct, "system e: train on labelled slices, judge on test patients, compare the splits"),
    ):
        parser = verbs.add_parser(name, parents=[work], help=help_)
        add(parser)
        parser.set_defaults(say=say)


def _common_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--negative", metavar="CLASS", help="class that means that nothing was found")
    parser.add_argument("--saliency", choices=("gradcam", "gradcam++", "none"), default="gradcam", help="kind of maps")
    parser.add_argument("--target-layer", metavar="LAYER", help="layer of the maps (default: the last one)")
    parser.add_argument(
        "--compare-layers", nargs="+", metavar="LAYER", default=[], help="layers compared by where their maps point"
    )
    parser.add_argument("--title", help="of the report")
    parser.add_argument("--simulated", action="store_true", help="say in the report that the images are simulated")


def _saliency(options: argparse.Namespace) -> str | None:
    return None if options.saliency == "none" else str(options.saliency)


def _add_slice_ct(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "table", help="CSV with case_id, image and optionally slice, label, mask, patient_id; without a slice number a "
        "row takes every slice of its volume",
    )  # fmt: skip
    parser.add_argument("--model", required=True, help="folder of a slice classifier (hybrid train)")
    parser.add_argument("--threshold", type=float, help="on the probability of a finding (default: the model's)")
    _common_arguments(parser)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--out", required=True, help="folder for slices.csv, patients.csv, saliency/ and report.html")
    parser.set_defaults(verb=_slice_ct)


def _slice_ct(options: argparse.Namespace) -> int:
    from .slice_ct import find_in_slices

    title = {"title": options.title} if options.title else {}
    slices = find_in_slices(
        options.table, options.model, options.out, threshold=options.threshold, negative=options.negative,
        saliency=_saliency(options), target_layer=options.target_layer, simulated=options.simulated,
        compare_layers=options.compare_layers,
        device=options.device, n_jobs=options.jobs, backend=options.backend, progress=not options.quiet, **title,
    )  # fmt: skip
    unread = int(slices["probability"].isna().sum())
    options.say(f"{len(slices)} slices, {unread} of them could not be read. Report: {options.out}/report.html")
    return 0


def _add_head_ct(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("table", help="CSV with case_id, patient_id, image, slice, label; optional mask, site, split")
    parser.add_argument("--network", default="resnet50", help="resnet10, 18, 34 or 50")
    parser.add_argument("--size", type=int, default=224, help="rows and columns of the input")
    parser.add_argument("--minutes", type=float, help="training time of each network")
    parser.add_argument("--epochs", type=int, help="number of epochs instead of minutes")
    parser.add_argument("--ratio", nargs=3, type=float, default=[7, 2, 1], help="train, tuning, test")
    parser.add_argument("--weights", metavar="PATH", help="pretrained weights of the trunk")
    parser.add_argument("--neighbours", type=int, default=0, help="slices below and above that the network sees, too")
    parser.add_argument(
        "--mask-weight", type=float, default=0.0, help="let masks of training slices teach where findings are (try 2)"
    )
    parser.add_argument(
        "--smoothing", type=int, default=0, help="average probabilities over so many slices on either side (try 3)"
    )
    parser.add_argument("--skip-problems", action="store_true", help="leave out rows that cannot be used")
    parser.add_argument("--no-comparison", action="store_true", help="do not train a second network split by image")
    parser.add_argument("--seed", type=int, default=0, help="of everything random")
    parser.add_argument("--restart", action="store_true", help="do not go on from an interrupted training")
    _common_arguments(parser)
    parser.add_argument("--out", required=True, help="folder for models, tables, saliency/ and report.html")
    parser.set_defaults(verb=_head_ct)


def _head_ct(options: argparse.Namespace) -> int:
    from .systems.head_slices import run_head_ct_study

    title = {"title": options.title} if options.title else {}
    report = run_head_ct_study(
        options.table, options.out, network=options.network, size=options.size, ratio=tuple(options.ratio),
        minutes=options.minutes, epochs=options.epochs, weights=options.weights, negative=options.negative,
        saliency=_saliency(options), target_layer=options.target_layer,
        compare_layers=options.compare_layers, neighbours=options.neighbours, mask_weight=options.mask_weight,
        smoothing=options.smoothing,
        compare_splits=not options.no_comparison,
        on_problem="skip" if options.skip_problems else "raise", simulated=options.simulated, seed=options.seed,
        resume=not options.restart, n_jobs=options.jobs,
        backend=options.backend, progress=not options.quiet, **title,
    )  # fmt: skip
    options.say(f"Report: {report.resolve()}")
    return 0
