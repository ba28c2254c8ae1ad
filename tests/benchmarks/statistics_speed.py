"""Speed of the statistics against named peers. Run by hand; prints seconds and ratios measured in the same run.

CPU seconds in one process, on one thread::

    OMP_NUM_THREADS=1 python tests/benchmarks/statistics.py [PART ...] [--peers FOLDER]

Parts: ``bootstrap`` and ``metrics`` (2000 draws of the AUC, and of ten metrics, against a loop over scikit-learn's
functions), ``delong`` and ``pairs`` (against the kernel over all pairs of a positive and a negative case), ``icc``
(``reliability.py``, goal 1000), ``mrmr`` (``selection.py``, goal 100) and ``nested`` (``evaluate.py`` with a costly
selector, goal 5). All of them by default. Every part also prints how far the numbers of both sides differ. A peer that
would take minutes runs on the first draws or folds only, and the line says so.
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn import metrics as peer
from threadpoolctl import threadpool_limits

from hybrid.analysis.metrics import METRICS, bootstrap_metrics
from hybrid.analysis.panel import Panel
from hybrid.analysis.resampling import bootstrap, patient_weights, weighted_auc
from hybrid.analysis.roc import delong_covariance, delong_pairs

PATIENTS, DRAWS = 200, 2000
CUT_OFF = 0.5


def seconds_of(run, calls=1):
    """Mean CPU seconds of a call after one call to warm up when there are several, and the result."""
    if calls > 1:
        run()
    start = time.process_time()
    for _ in range(calls):
        result = run()
    return (time.process_time() - start) / calls, result


def show(what, ours, theirs, goal, note, difference):
    ratio = theirs / ours
    verdict = "reached" if ratio >= goal else "MISSED"
    print(f"{what}: peer {theirs:.4g} s{note}, hybrid {ours:.4g} s, {ratio:.0f} times faster (goal {goal}: {verdict})")
    print(f"    largest difference {difference:.1e}")


def simulated(n=PATIENTS, curves=1, seed=0):
    """Outcomes of half the patients, and probabilities."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2 == 1
    return y, 1 / (1 + np.exp(-(rng.normal(size=(curves, n)) + 1.2 * y - 0.6)))


def run_bootstrap():
    """The interval of one AUC: draws, and the influence values that BCa needs."""
    y, (score,) = simulated()
    order = np.argsort(~y, kind="stable")
    y, score = y[order], score[order]
    ours, drawn = seconds_of(lambda: bootstrap(lambda w: weighted_auc(y, score, w)[None], y, n_bootstrap=DRAWS), 20)
    # The same draws: the rows of each draw, repeated as often as they were drawn.
    weights = patient_weights(y.astype(np.int64), DRAWS, np.random.default_rng(0)).astype(int)
    rows = [np.repeat(np.arange(PATIENTS), column) for column in weights.T]
    theirs, expected = seconds_of(lambda: np.array([peer.roc_auc_score(y[i], score[i]) for i in rows]))
    show(f"{DRAWS} AUC bootstraps, n = {PATIENTS}, sklearn loop", ours, theirs, 100, "",
         np.abs(drawn.draws[0] - expected).max())  # fmt: skip


def sklearn_metrics(y, probability):
    """The ten metrics, one scikit-learn call each."""
    called = probability >= CUT_OFF
    return [
        peer.roc_auc_score(y, probability),
        peer.accuracy_score(y, called),
        peer.balanced_accuracy_score(y, called),
        peer.recall_score(y, called),
        peer.recall_score(y, called, pos_label=False),
        peer.precision_score(y, called),
        peer.precision_score(y, called, pos_label=False),
        peer.f1_score(y, called),
        peer.cohen_kappa_score(y, called),
        peer.brier_score_loss(y, probability),
    ]


def run_metrics(counted=200):
    y, (probability,) = simulated()
    ids = [f"p{i:03d}" for i in range(PATIENTS)]
    table = pd.DataFrame(
        {"case_id": ids, "patient_id": ids, "feature_set": "all", "classifier": "logistic", "split": "test",
         "repeat": 0, "fold": 0, "y_true": y.astype(int), "y_prob": probability, "threshold": CUT_OFF}
    )  # fmt: skip
    panel = Panel.from_predictions(table)
    ours, drawn = seconds_of(lambda: bootstrap_metrics(panel, METRICS, n_bootstrap=DRAWS), 20)
    weights = patient_weights(panel.strata, DRAWS, np.random.default_rng(0)).astype(int)
    rows = [np.repeat(np.arange(PATIENTS), column) for column in weights.T[:counted]]
    seen, values = panel.y, panel.probability[0, 0]
    part, expected = seconds_of(lambda: np.array([sklearn_metrics(seen[i], values[i]) for i in rows]))
    show(f"{len(METRICS)} metrics x {DRAWS} draws, n = {PATIENTS}, sklearn loop", ours, part * DRAWS / counted, 1000,
         f" (from its first {counted} draws)", np.abs(drawn.draws[:, :counted].T - expected).max())  # fmt: skip


def kernel_covariance(y, scores):
    """AUCs and covariance from all pairs of a positive and a negative case, as DeLong et al. 1988 write them."""
    of_positives, of_negatives = [], []
    for score in scores:
        positive, negative = score[y][:, None], score[~y][None, :]
        kernel = (positive > negative) + 0.5 * (positive == negative)
        of_positives.append(kernel.mean(axis=1))
        of_negatives.append(kernel.mean(axis=0))
    covariance = np.cov(of_positives) / y.sum() + np.cov(of_negatives) / (~y).sum()
    return np.mean(of_positives, axis=1), covariance


def run_delong(n=10_000):
    y, scores = simulated(n, curves=2)
    ours, (areas, covariance) = seconds_of(lambda: delong_covariance(y, scores), 20)
    theirs, (expected_areas, expected) = seconds_of(lambda: kernel_covariance(y, scores), 3)
    difference = max(np.abs(areas - expected_areas).max(), np.abs(covariance - expected).max())
    show(f"DeLong, two curves, n = {n}, full kernel", ours, theirs, 200, "", difference)


def run_pairs(models=30):
    y, scores = simulated(PATIENTS, curves=models)
    pairs = list(itertools.combinations(range(models), 2))
    ours, table = seconds_of(lambda: delong_pairs(y, scores, pairs), 200)
    theirs, results = seconds_of(lambda: [kernel_covariance(y, scores[list(pair)]) for pair in pairs])
    contrast = np.array([1.0, -1.0])
    expected = np.array([(areas @ contrast) / np.sqrt(contrast @ cov @ contrast) for areas, cov in results])
    verdict = "reached" if ours < 1e-3 else "MISSED"
    print(f"{len(pairs)} pairs of {models} models, n = {PATIENTS}: {1000 * ours:.3f} ms a call (goal 1 ms: {verdict});")
    print(f"    kernel for each pair {1000 * theirs:.0f} ms, {theirs / ours:.0f} times more; "
          f"largest difference of z {np.abs(table['z'] - expected).max():.1e}")  # fmt: skip


def run_script(name, *arguments):
    """Another script of this folder, in a process of its own."""
    sys.stdout.flush()
    subprocess.run([sys.executable, str(Path(__file__).with_name(name)), *arguments], check=True)


PARTS = {
    "bootstrap": lambda peers: run_bootstrap(),
    "metrics": lambda peers: run_metrics(),
    "delong": lambda peers: run_delong(),
    "pairs": lambda peers: run_pairs(),
    "icc": lambda peers: run_script("reliability.py", *(["--peers", peers] if peers else [])),
    "mrmr": lambda peers: run_script("selection.py"),
    "nested": lambda peers: run_script("evaluate.py", "--columns", "800", "--selector", "lasso", "--first", "2"),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all by default")
    parser.add_argument("--peers", help="folder of the virtual environment with pingouin (default: temporary)")
    options = parser.parse_args()
    unknown = [part for part in options.parts if part not in PARTS]
    if unknown:
        parser.error(f"unknown part {unknown[0]!r}; choose from {', '.join(PARTS)}")
    for part in options.parts or PARTS:
        print(f"-- {part}")
        with threadpool_limits(1):
            PARTS[part](options.peers)


if __name__ == "__main__":
    main()
