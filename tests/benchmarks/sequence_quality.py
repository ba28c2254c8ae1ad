"""Quality of sequence identification on real and simulated volumes. Run by hand; an hour in all on two cores.

    export HYBRID_BENCHMARKS=...
    python tests/benchmarks/sequence_quality.py sts --out run/sts --epochs 40  # CT, T1 and PET of 26 real patients
    python tests/benchmarks/sequence_quality.py prostate --out run/prostate --patients 150 --epochs 30

``sts``: the 78 real volumes of sts_cohort (CT, T1, PET), patients divided 8:1:1 and, with ``--folds``, cross-validated
so that every patient is tested once. Intensities are scaled by each volume's own percentiles, so that HU and SUV do not
give the modality away; matrix and voxel size still differ between the three, and are resampled to one grid.

``prostate``: five simulated sequences at three centres, one held out, with the histogram baseline beside both; then the
real series of ``prostate/`` (two patients) are listed with prediction and confidence. The network has seen simulated
patients only: the list shows what it does with real ones, and two patients make no metrics.
"""

from __future__ import annotations

import argparse
import os
import zipfile
from pathlib import Path

import pandas as pd

from hybrid.analysis.per_class import layout_table, per_class_table
from hybrid.analysis.sequence_report import SequenceReport
from hybrid.deep.classification.inputs import VolumeInput
from hybrid.phantoms.prostate import simulate_prostate_cohort
from hybrid.pipelines.image_tables import image_table
from hybrid.pipelines.sequence_id import identify_sequences
from hybrid.pipelines.systems.sequences import histogram_predictions, run_sequence_study
from hybrid.pipelines.train_classifier import read_predictions, train_classifier

ARCHIVES = ("ProstateX-0000_7series.zip", "QIN-PROSTATE-001_ADC_with_SEG.zip")
SHORT = {"network": "resnet10", "network_options": {"widen": 0.25}}
SETTINGS = {"learning_rate": 2e-3, "ema": 0.95, "batch": 8}


def data() -> Path:
    """Folder of the benchmark data."""
    return Path(os.environ["HYBRID_BENCHMARKS"])


def show(title: str, predictions: pd.DataFrame) -> None:
    """Print the published layout of one set."""
    print(f"\n{title}: {len(predictions)} volumes of {predictions['patient_id'].nunique()} patients")
    print(layout_table(per_class_table(predictions), digits=3).to_string())


def sts_table() -> pd.DataFrame:
    """One row per volume of the sarcoma cohort."""
    folder = data() / "sts_cohort"
    index = pd.read_csv(folder / "index.csv")
    return pd.DataFrame({
        "case_id": index["patient"] + "_" + index["modality"], "patient_id": index["patient"],
        "image": [str(folder / name) for name in index["image"]], "label": index["modality"],
    })  # fmt: skip


def sts(options: argparse.Namespace) -> None:
    """Real modalities, patient-grouped; prints the tables of network and histogram."""
    out, table, size = options.out, sts_table(), options.size or (32, 32, 32)
    common = {**SHORT, "settings": SETTINGS, "input": VolumeInput(size), "epochs": options.epochs, "progress": False}
    if options.folds:
        model = train_classifier(table, out / "model", folds=options.folds, accuracy=0.99, **common)
        predictions = read_predictions(model / "predictions.csv")
        beside = pd.concat([
            histogram_predictions(rows, image_table(table)[0], out / f"fold_{fold}", progress=False)
            for fold, rows in predictions.groupby("fold")
        ])  # fmt: skip
        classes = [name.removeprefix("y_prob_") for name in predictions.columns if name.startswith("y_prob_")]
        report = SequenceReport(
            predictions=predictions, baseline=beside, classes=classes, title="CT, T1 or PET: every patient tested once"
        )
        report.save(out / "report.html")
    else:
        run_sequence_study(table, out, title="CT, T1 or PET", **common)
        predictions = read_predictions(out / "model" / "predictions.csv")
        beside = read_predictions(out / "histogram_predictions.csv")
    show("sts test, network", predictions[predictions["split"] == "test"])
    show("sts test, histogram only", beside[beside["split"] == "test"])


def prostate(options: argparse.Namespace) -> None:
    """Simulated sequences with a held-out centre, then the real series."""
    out, size = options.out, options.size or (16, 48, 48)
    table = simulate_prostate_cohort(out / "cohort", n=options.patients, seed=0)
    run_sequence_study(
        table, out, held_out_site="C", input=VolumeInput(size), epochs=options.epochs, settings=SETTINGS,
        title="Sequences of simulated prostate MRI", simulated=True, progress=False, **SHORT,
    )  # fmt: skip
    for name, path in (("network", out / "model" / "predictions.csv"), ("histogram", out / BASELINE)):
        predictions = read_predictions(path)
        for split in ("test", "external"):
            show(f"prostate {split}, {name}", predictions[predictions["split"] == split])
    real = out / "real"
    for name in ARCHIVES:
        with zipfile.ZipFile(data() / "prostate" / name) as archive:
            archive.extractall(real)
    found = identify_sequences(real, out / "model", out / "real_identified", progress=False)
    print("\nReal series, network trained on simulated patients only:")
    found["series"] = found["series"].str[-48:]
    print(found[["series", "class", "confidence", "decision", "tag_class", "agrees"]].to_string())


BASELINE = "histogram_predictions.csv"
PARTS = {"sts": (sts, 40), "prostate": (prostate, 30)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=sorted(PARTS))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--folds", type=int, help="sts: cross-validation instead of one split")
    parser.add_argument("--patients", type=int, default=150, help="prostate: simulated patients")
    parser.add_argument("--size", type=int, nargs=3, help="voxels z y x of the network's input")
    options = parser.parse_args()
    function, epochs = PARTS[options.part]
    options.epochs = options.epochs or epochs
    options.size = tuple(options.size) if options.size else None
    function(options)


if __name__ == "__main__":
    main()
