"""Quality of the slice classifier (system e) on simulated head CT. Run by hand.

    python tests/benchmarks/slice_quality.py --out run/heads --minutes 20  # 150 patients, 3,600 slices, two networks
    python tests/benchmarks/slice_quality.py --out run/small --patients 40 --minutes 2 --no-comparison

Prints the AUC with its interval on test patients (patients split 7 : 2 : 1), the trivial models beside it, the figures
of a split by image, and the share of true positives whose map points at the lesion, for several layers.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import pandas as pd

from hybrid.analysis.slices import pointing_table
from hybrid.phantoms.head_ct import simulate_head_ct_cohort
from hybrid.pipelines.slice_ct import find_in_slices, slice_rows
from hybrid.pipelines.systems.head_slices import run_head_ct_study
from hybrid.pipelines.train_classifier import read_predictions


def layers(table: Path, out: Path, names: list[str], jobs: int) -> None:
    """Pointing score of other layers of the same network on the same test slices."""
    predictions = read_predictions(out / "model" / "predictions.csv")
    test = predictions.loc[predictions["split"] == "test", "patient_id"]
    rows, _ = slice_rows(table)
    rows = rows[rows["patient_id"].isin(set(test))]
    for name in names:
        folder = out / "layers" / name
        find_in_slices(rows, out / "model", folder, target_layer=name, n_boot=100, n_jobs=jobs, progress=False)
        maps = pd.read_csv(folder / "saliency" / "maps.csv")
        own = maps[(maps["kind"] == "true positive") & maps["hit"].notna()]
        row = pointing_table(own.assign(hit=own["hit"].astype(bool))).iloc[0]
        print(
            f"pointing, {name} ({maps['cells'].iloc[0]} cells): {row['hits']} of {row['n']} = {row['score']:.3f} "
            f"({row['low']:.3f} to {row['high']:.3f}), chance {row['chance']:.3f}, middle {row['centre']:.3f}"
        )


def main() -> None:
    """Simulate, run the study, print its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--patients", type=int, default=150)
    parser.add_argument("--size", type=int, default=96, help="pixels of the network's input")
    parser.add_argument("--network", default="resnet18")
    parser.add_argument("--widen", type=float, default=1.0, help="factor on the channels of the network")
    parser.add_argument("--minutes", type=float, default=20, help="training time of each network")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--target-layer", default="layer3")
    parser.add_argument("--layers", nargs="*", default=["layer2", "layer4"], help="further layers for the maps")
    parser.add_argument("--no-comparison", action="store_true", help="without the network split by image")
    options = parser.parse_args()

    start = time.monotonic()
    table = simulate_head_ct_cohort(options.out / "cohort", n=options.patients, seed=options.seed, n_jobs=options.jobs)
    print(f"simulated {options.patients} patients in {time.monotonic() - start:.0f} s")
    run_head_ct_study(
        table, options.out, network=options.network, size=options.size, seed=options.seed, simulated=True,
        minutes=None if options.epochs else options.minutes, epochs=options.epochs, target_layer=options.target_layer,
        compare_splits=not options.no_comparison, settings={"batch": 16},
        network_options={"widen": options.widen}, n_jobs=options.jobs, progress=False,
        title="Findings on simulated head CT",
    )  # fmt: skip
    tables = options.out / "tables"
    figures = pd.read_csv(tables / "figures.csv")
    shown = figures[figures["metric"].isin(["auc", "precision", "recall", "f1"])]
    for name in ("baselines", "splits", "pointing"):
        if (tables / f"{name}.csv").is_file():
            print(f"\n{name}\n{pd.read_csv(tables / f'{name}.csv').round(3).to_string(index=False)}")
    print(f"\nfigures\n{shown.drop(columns=['method', 'note']).round(3).to_string(index=False)}")
    layers(table, options.out, options.layers, options.jobs)
    print(f"in all {(time.monotonic() - start) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
