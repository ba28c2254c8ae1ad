"""Verbs of the ``hybrid`` command that draw, judge and explain masks: train, segment, evaluate-masks, two systems."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hybrid.cases import Cohort
from hybrid.errors import HybridError

Say = Callable[[str], None]


def add_verbs(verbs: Any, work: argparse.ArgumentParser, say: Say) -> None:
    """Add the verbs of this module to the command's parser."""
    for name, add, help_ in (
        ("train", _add_train, "train a 3D segmentation network on a cohort's masks"),
        ("segment", _add_segment, "masks and lesions of a cohort from a trained model"),
        ("evaluate-masks", _add_evaluate, "predicted against reference masks: Dice, surfaces, lesions, FROC"),
        ("renal-mass", _add_renal, "system a: kidneys, masses and their classes on CT"),
        ("lesion-mri", _add_lesion, "system c: a lesion on T2 MRI; training and test side by side"),
        ("explain", _add_explain, "Grad-CAM of lesions: where a cascade's classifier or an encoder looked"),
    ):
        parser = verbs.add_parser(name, parents=[work], help=help_)
        add(parser)
        parser.set_defaults(say=say)


def _network_arguments(parser: argparse.ArgumentParser, *, minutes: str = "training time of each network") -> None:
    parser.add_argument("--network", default="dynunet", help="dynunet, unet or segresnet (default: dynunet)")
    parser.add_argument("--minutes", type=float, help=minutes)
    parser.add_argument("--epochs", type=int, help="number of epochs instead of minutes")
    parser.add_argument("--seed", type=int, default=0, help="of everything random")
    parser.add_argument("--restart", action="store_true", help="do not go on from an interrupted training")


def _simulated_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--simulated", action="store_true", help="say in the report that the images are simulated")


def _inference_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--overlap", type=float, help="share of a window that its neighbour covers (default: 0.5)")
    parser.add_argument("--mirror", action="store_true", help="average over mirrored windows (slower)")
    parser.add_argument("--engine", choices=("torch", "openvino"), help="what runs the network (default: torch)")
    parser.add_argument("--precision", choices=("float32", "half", "auto"), help="half needs a parity check to pass")
    parser.add_argument("--device", help="cpu, cuda or auto (default)")


def _inference_options(options: argparse.Namespace) -> dict[str, Any]:
    names = ("overlap", "engine", "precision", "device")
    chosen = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    return {**chosen, "mirror": True} if options.mirror else chosen


def _add_train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("cohort", help="cohort table with image and mask; an optional column split")
    parser.add_argument(
        "--task", choices=("segmentation", "classification"), default="segmentation", help="what the network learns"
    )
    _network_arguments(parser)
    parser.set_defaults(network=None)
    _classification_arguments(parser)
    parser.add_argument("--folds", type=int, help="train an ensemble, one network per fold of the patients")
    parser.add_argument("--validation", type=float, default=0.15, help="share of patients for validation")
    parser.add_argument("--image", help="name of the image when cases have several")
    parser.add_argument("--labels", nargs="+", help="NAME=VALUE of each foreground label (default: all in the masks)")
    parser.add_argument("--merge", nargs="+", default=[], help="OLD=NEW label values to merge")
    parser.add_argument("--lesions", nargs="+", metavar="NAME", help="labels whose lesions count alike, small or large")
    parser.add_argument("--modality", choices=("ct", "mr"), help="how intensities are normalised (default: guessed)")
    parser.add_argument("--spacing", nargs=3, type=float, metavar="MM", help="voxel size z y x (default: the median)")
    parser.add_argument("--patch", nargs=3, type=int, metavar="VOXELS", help="patch z y x (default: from the memory)")
    parser.add_argument("--batch", type=int, help="patches per step (default: 2)")
    parser.add_argument("--width", type=int, help="features of the first stage (default: 16, on a GPU 32)")
    parser.add_argument("--memory", type=float, help="GiB that a training step may take (default: 0.5, on a GPU 8)")
    parser.add_argument("--bias-correction", action="store_true", help="N4 before anything else")
    parser.add_argument(
        "--mirror-axes", nargs="*", type=int, help="axes that may be mirrored: 0 z, 1 y, 2 x (default: 2)"
    )
    parser.add_argument(
        "--weights", metavar="PATH", help="weight file or model folder to start from; it sets the network"
    )
    parser.add_argument("--weights-orientation", metavar="AXES", help="axes of the weights' authors, for example RAS")
    parser.add_argument("--patience", type=int, default=0, help="stop after so many epochs without progress (0: never)")
    parser.add_argument(
        "--strength", type=float, default=1.0, help="0 to 1: how far patches are turned and scaled (1: 30 degrees)"
    )
    parser.add_argument("--workers", type=int, default=0, help="processes that prepare patches (default: none)")
    parser.add_argument("--devices", type=int, default=1, help="GPUs (Lightning Fabric)")
    parser.add_argument("--out", required=True, help="model folder to write")
    parser.set_defaults(verb=_train)


def _classification_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("classification (--task classification; networks resnet10, 18, 34, 50)")
    group.add_argument("--kind", choices=("volume", "slice"), help="default: slice when the table has a column slice")
    group.add_argument("--ratio", nargs=3, type=float, default=[8, 1, 1], help="train, tuning, test")
    group.add_argument(
        "--split-by", choices=("patient", "image"), default="patient", help="image: only to show the harm"
    )
    group.add_argument("--accuracy", type=float, help="abstain where this accuracy is not reached on the tuning set")


def _train(options: argparse.Namespace) -> int:
    return _train_images(options) if options.task == "classification" else _train_masks(options)


def _train_images(options: argparse.Namespace) -> int:
    import pandas as pd

    from .train_classifier import train_classifier

    kind = options.kind
    if kind is None:
        columns = pd.read_csv(options.cohort, nrows=0).columns if str(options.cohort).endswith(".csv") else ()
        kind = "slice" if "slice" in columns else "volume"
    folder = train_classifier(
        options.cohort, options.out, task=kind, network=options.network or "resnet18", ratio=tuple(options.ratio),
        folds=options.folds, split_by=options.split_by, minutes=options.minutes, epochs=options.epochs,
        seed=options.seed, weights=options.weights, accuracy=options.accuracy, resume=not options.restart,
        n_jobs=options.jobs, backend=options.backend, progress=not options.quiet,
    )  # fmt: skip
    options.say(f"Model: {folder.resolve()}")
    return 0


def _train_masks(options: argparse.Namespace) -> int:
    from .train import train_segmenter

    plan: dict[str, Any] = {
        "modality": options.modality, "spacing": options.spacing, "patch": options.patch, "width": options.width,
        "batch": options.batch, "memory_gib": options.memory,
        "labels": values_of_words(options.labels, "--labels") if options.labels else None,
        "label_map": {int(old): new for old, new in values_of_words(options.merge, "--merge").items()} or None,
        "mirror_axes": None if options.mirror_axes is None else tuple(options.mirror_axes),
        "bias_correction": options.bias_correction or None,
        "lesions": tuple(options.lesions) if options.lesions else None,
    }  # fmt: skip
    folder = train_segmenter(
        Cohort.read(options.cohort), options.out, network=options.network or "dynunet", minutes=options.minutes,
        epochs=options.epochs, folds=options.folds, validation_share=options.validation, image=options.image,
        seed=options.seed, plan={name: value for name, value in plan.items() if value is not None},
        settings={name: getattr(options, name) for name in ("patience", "strength", "workers", "devices")},
        weights=options.weights, weights_orientation=options.weights_orientation,
        resume=not options.restart, n_jobs=options.jobs, backend=options.backend, progress=not options.quiet,
    )  # fmt: skip
    options.say(f"Model: {folder.resolve()}")
    return 0


def values_of_words(words: Sequence[str], flag: str) -> dict[str, int]:
    """Read ``NAME=VALUE`` pairs with whole numbers."""
    found = {}
    for word in words:
        name, sign, value = word.partition("=")
        if not (name and sign and value.lstrip("-").isdigit()):
            raise HybridError(f"{flag} expects NAME=VALUE with a whole number; found {word!r}.")
        found[name] = int(value)
    return found


def _add_segment(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("cohort", help="cohort table with images")
    parser.add_argument("--model", required=True, help="model folder: one network, an ensemble or a cascade")
    parser.add_argument("--image", help="name of the image when cases have several")
    parser.add_argument("--split", choices=("train",), help="allow patients that the model was trained on")
    _inference_arguments(parser)
    parser.add_argument("--out", required=True, help="folder for masks/ and lesions.csv")
    parser.set_defaults(verb=_segment)


def _segment(options: argparse.Namespace) -> int:
    from .segment import LESIONS, segment_cohort

    cohort = segment_cohort(
        Cohort.read(options.cohort), options.model, options.out, image=options.image, split=options.split,
        options=_inference_options(options), n_jobs=options.jobs, backend=options.backend,
        progress=not options.quiet,
    )  # fmt: skip
    done = sum(case.mask is not None for case in cohort)
    options.say(f"{done} of {len(cohort)} cases segmented: {Path(options.out) / LESIONS}")
    return 0


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("cohort", help="cohort table with reference masks; an optional column split")
    parser.add_argument("--masks", required=True, help="folder written by `hybrid segment`")
    parser.add_argument("--structures", nargs="+", help="NAME=LABEL,LABEL of each structure (default: every label)")
    parser.add_argument("--kits", action="store_true", help="KiTS's classes: kidney_and_mass, mass, tumor")
    parser.add_argument("--lesions", help="structure whose regions are counted as lesions (default: the last)")
    parser.add_argument(
        "--rule",
        default="any_overlap",
        help="when a lesion counts as found: any_overlap, iou_0.1, iou_0.5 or centre_in_mask",
    )
    _sizes_argument(parser)
    parser.add_argument("--convention", default="kits", help="what an empty mask scores: kits, nnunet or monai")
    parser.add_argument("--split", choices=("train", "validation", "test", "external"), help="judge these cases only")
    parser.add_argument("--title", default="Segmentation", help="of the report")
    _simulated_argument(parser)
    parser.add_argument("--out", required=True, help="folder for masks.csv, tables/ and report.html")
    parser.set_defaults(verb=_evaluate)


def _evaluate(options: argparse.Namespace) -> int:
    from hybrid.mask_metrics import STRUCTURES_KITS

    from .evaluate_masks import evaluate_masks

    structures = {name: list(values) for name, values in STRUCTURES_KITS.items()} if options.kits else None
    if options.structures:
        structures = {
            name: labels_of_word(values) for name, values in (split_word(word) for word in options.structures)
        }
    table = evaluate_masks(
        Cohort.read(options.cohort), options.masks, options.out, structures=structures, lesions=options.lesions,
        rule=options.rule, sizes_mm=options.sizes, convention=options.convention, split=options.split,
        title=options.title, simulated=options.simulated, n_jobs=options.jobs,
        backend=options.backend, progress=not options.quiet,
    )  # fmt: skip
    failed = len(table.attrs["failures"])
    options.say(f"{table['case_id'].nunique()} cases, {failed} failure(s). Report: {Path(options.out) / 'report.html'}")
    return 0


def split_word(word: str) -> tuple[str, str]:
    """Name and labels of ``NAME=LABEL,LABEL``."""
    name, sign, value = word.partition("=")
    if not (name and sign and value):
        raise HybridError(f"--structures expects NAME=LABEL,LABEL; found {word!r}.", advice="Example: mass=2,3.")
    return name, value


def labels_of_word(text: str) -> list[int]:
    """Whole numbers between commas."""
    try:
        return [int(value) for value in text.split(",")]
    except ValueError:
        raise HybridError(f"Labels are whole numbers; found {text!r}.", advice="Example: mass=2,3.") from None


def _sizes_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sizes", nargs="+", type=float, default=[5, 20, 40, 70], help="edges of size strata in mm")


def _add_renal(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("cohort", help="cohort table: CT, masks (1 kidney, 2 tumour, 3 cyst), optional split")
    parser.add_argument("--lesions", help="table case_id, centre_x, centre_y, centre_z, kind: the class of each lesion")
    parser.add_argument("--model", help="use this cascade instead of training one")
    _network_arguments(parser, minutes="training time of all networks: a fifth, at most 15, for the kidneys")
    parser.add_argument("--members", type=int, default=2, help="networks of the second stage")
    parser.add_argument("--kidney-spacing", type=float, default=4.0, help="voxel size of stage 1 in mm")
    parser.add_argument("--mass-spacing", type=float, help="voxel size of stage 2 in mm (default: the median)")
    _sizes_argument(parser)
    _inference_arguments(parser)
    _simulated_argument(parser)
    parser.add_argument("--out", required=True, help="folder for the cascade, masks, tables and report.html")
    parser.set_defaults(verb=_renal)


def _renal(options: argparse.Namespace) -> int:
    from .systems.renal_mass import run_renal_mass

    report = run_renal_mass(
        Cohort.read(options.cohort), options.out, lesions=options.lesions, model=options.model,
        network=options.network, minutes=options.minutes, epochs=options.epochs, members=options.members,
        kidney_spacing_mm=options.kidney_spacing, mass_spacing_mm=options.mass_spacing, seed=options.seed,
        simulated=options.simulated, inference=_inference_options(options), sizes_mm=options.sizes,
        resume=not options.restart, n_jobs=options.jobs, backend=options.backend, progress=not options.quiet,
    )  # fmt: skip
    options.say(f"Report: {report.resolve()}")
    return 0


def _add_lesion(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("cohort", help="cohort table: T2 image and mask, optional split")
    _network_arguments(parser)
    parser.add_argument("--sizes", nargs="+", type=int, default=[], help="training-set sizes for the gap's curve")
    parser.add_argument("--no-bias-correction", action="store_true", help="leave out N4")
    parser.add_argument("--no-augmentation", action="store_true", help="train on the patches as they are")
    _simulated_argument(parser)
    parser.add_argument("--out", required=True, help="folder for the model, masks, tables and report.html")
    parser.set_defaults(verb=_lesion)


def _lesion(options: argparse.Namespace) -> int:
    from .systems.lesion_mri import run_lesion_mri

    report = run_lesion_mri(
        Cohort.read(options.cohort), options.out, network=options.network, minutes=options.minutes,
        epochs=options.epochs, sizes=options.sizes, bias_correction=not options.no_bias_correction,
        augment=not options.no_augmentation, seed=options.seed, simulated=options.simulated,
        resume=not options.restart, n_jobs=options.jobs,
        backend=options.backend, progress=not options.quiet,
    )  # fmt: skip
    options.say(f"Report: {report.resolve()}")
    return 0


def _add_explain(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("cohort", help="cohort table with image and mask")
    parser.add_argument("--model", required=True, help="cascade, classifier of lesions, or encoder (bundled or a file)")
    parser.add_argument("--image", help="name of the image when cases have several")
    parser.add_argument("--modality", choices=("ct", "mr", "pet"), help="how an encoder normalises intensities")
    parser.add_argument("--labels", nargs="+", type=int, help="labels of lesions in the masks (default: all but 1)")
    parser.add_argument("--target", metavar="CLASS", help="class to explain (default: the most probable one)")
    parser.add_argument("--target-layer", metavar="LAYER", help="layer of the maps (default: the last one)")
    parser.add_argument("--method", choices=("gradcam", "gradcam++"), default="gradcam", help="kind of maps")
    parser.add_argument("--title", default="Where the network looks", help="of the report")
    _simulated_argument(parser)
    parser.add_argument("--out", required=True, help="folder for saliency/ and report.html")
    parser.set_defaults(verb=_explain)


def _explain(options: argparse.Namespace) -> int:
    from .explain_lesions import explain_lesions

    maps = explain_lesions(
        Cohort.read(options.cohort), options.model, options.out, image=options.image, modality=options.modality,
        labels=options.labels, target=options.target, layer=options.target_layer, method=options.method,
        title=options.title, simulated=options.simulated, n_jobs=options.jobs, backend=options.backend,
        progress=not options.quiet,
    )  # fmt: skip
    options.say(f"{len(maps)} lesions. Report: {(Path(options.out) / 'report.html').resolve()}")
    return 0
