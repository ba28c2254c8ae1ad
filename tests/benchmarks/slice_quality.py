"""Quality of the slice classifier (system e) on simulated head CT. Run by hand.

    python tests/benchmarks/slice_quality.py --out run/heads  # 28,800 slices of 1200 patients, two networks
    python tests/benchmarks/slice_quality.py --out run/small --patients 40 --minutes 2 --no-comparison

Prints the AUC with its interval on test patients (patients split 7 : 2 : 1), the trivial models beside it, the figures
of a split by image, and the share of true positives whose map points at the lesion, for several layers.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import pandas as pd

from hybrid.phantoms.head_ct import simulate_head_ct_cohort
from hybrid.pipelines.systems.head_slices import run_head_ct_study


def main() -> None:
    """Simulate, run the study, print its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--patients", type=int, default=1200)
    parser.add_argument("--size", type=int, default=96, help="pixels of the network's input")
    parser.add_argument("--network", default="resnet18")
    parser.add_argument("--widen", type=float, default=0.5, help="factor on the channels of the network")
    parser.add_argument("--max-pool", action="store_true", help="pool after the first convolution: coarser, faster")
    parser.add_argument("--neighbours", type=int, default=1, help="slices on either side that the network sees, too")
    parser.add_argument("--mask-weight", type=float, default=2.0, help="0: learn from labels alone, as published")
    parser.add_argument("--smoothing", type=int, default=3, help="slices on either side that scores are averaged over")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--minutes", type=float, default=40, help="training time of each network")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--target-layer", default="layer3")
    parser.add_argument("--layers", nargs="*", default=["layer2", "layer3", "layer4"], help="layers that are compared")
    parser.add_argument("--no-comparison", action="store_true", help="without the network split by image")
    options = parser.parse_args()

    start = time.monotonic()
    table = simulate_head_ct_cohort(options.out / "cohort", n=options.patients, seed=options.seed, n_jobs=options.jobs)
    print(f"simulated {options.patients} patients in {time.monotonic() - start:.0f} s")
    run_head_ct_study(
        table, options.out, network=options.network, size=options.size, seed=options.seed, simulated=True,
        minutes=None if options.epochs else options.minutes, epochs=options.epochs, target_layer=options.target_layer,
        compare_layers=options.layers, compare_splits=not options.no_comparison, neighbours=options.neighbours,
        mask_weight=options.mask_weight, smoothing=options.smoothing,
        settings={"batch": 16, "learning_rate": options.learning_rate},
        network_options={"widen": options.widen, "max_pool": options.max_pool}, n_jobs=options.jobs, progress=False,
        title="Findings on simulated head CT",
    )  # fmt: skip
    tables = options.out / "tables"
    figures = pd.read_csv(tables / "figures.csv")
    shown = figures[figures["metric"].isin(["auc", "precision", "recall", "f1"])]
    for name in ("published", "baselines", "splits", "pointing", "layers"):
        if (tables / f"{name}.csv").is_file():
            print(f"\n{name}\n{pd.read_csv(tables / f'{name}.csv').round(3).to_string(index=False)}")
    print(f"\nfigures\n{shown.drop(columns=['method', 'note']).round(3).to_string(index=False)}")
    print(f"in all {(time.monotonic() - start) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
