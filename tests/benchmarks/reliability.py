"""Speed of intraclass correlations of many features. Run by hand; prints the ratio against pingouin in the same run.

200 features x 100 subjects x 3 raters, all six kinds with intervals: one call of ``hybrid.analysis.reliability.icc``
against a loop over features with ``pingouin.intraclass_corr``, installed into a virtual environment of its own by this
script (``--peers FOLDER`` keeps it). Each method runs in a process of its own, on one thread, without the time to
import it; CPU seconds are compared. The long table that pingouin needs is built outside its time.

    OMP_NUM_THREADS=1 python tests/benchmarks/reliability.py --peers /tmp/peers_reliability
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

import numpy as np

SUBJECTS, RATERS, FEATURES = 100, 3, 200
OWN_CALLS = 100
PEER = "pingouin==0.7.0"
COMPARED = ("icc", "f", "df1", "df2", "p", "lower", "upper")
"""Numbers that both give."""


def ratings():
    """Features with all degrees of agreement: subjects, a shift per rater, and noise."""
    rng = np.random.default_rng(0)
    subjects = rng.normal(size=(SUBJECTS, 1, FEATURES))
    shifts = 0.3 * rng.normal(size=(1, RATERS, FEATURES))
    noise = rng.normal(size=(SUBJECTS, RATERS, FEATURES))
    return 50 + 10 * (subjects + shifts + np.linspace(0.1, 2, FEATURES) * noise)


def run_hybrid(values):
    """CPU seconds of one call, and the numbers as (features, kinds, compared)."""
    from hybrid.analysis.reliability import icc

    table = icc(values)
    start = time.process_time()
    for _ in range(OWN_CALLS):
        icc(values)
    seconds = (time.process_time() - start) / OWN_CALLS
    return seconds, table[list(COMPARED)].to_numpy().reshape(FEATURES, 6, len(COMPARED))


def run_pingouin(values):
    """CPU seconds of the loop, and the numbers as (features, kinds, compared)."""
    import pandas as pd
    import pingouin

    grid = np.indices((SUBJECTS, RATERS)).reshape(2, -1)
    tables = [
        pd.DataFrame({"subject": grid[0], "rater": grid[1], "value": values[:, :, i].ravel()}) for i in range(FEATURES)
    ]
    columns = {"targets": "subject", "raters": "rater", "ratings": "value"}
    pingouin.options["round.column.CI95"] = None
    pingouin.intraclass_corr(tables[0], **columns)
    start = time.process_time()
    results = [pingouin.intraclass_corr(table, **columns) for table in tables]
    seconds = time.process_time() - start
    return seconds, np.stack([as_numbers(result) for result in results])


def as_numbers(result):
    """Pingouin's table in the order of ours."""
    interval = np.stack(result["CI95"].to_list()).astype(float)
    numbers = result[["ICC", "F", "df1", "df2", "pval"]].to_numpy(dtype=float)
    return np.concatenate([numbers, interval], axis=1)


def child(name, folder, python=sys.executable):
    """Run one method in a process of its own and return its CPU seconds and its numbers."""
    command = [str(python), __file__, "--child", name, str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1]), np.load(folder / f"{name}.npy")


def run_child(name, folder):
    seconds, numbers = globals()[f"run_{name}"](np.load(Path(folder) / "ratings.npy"))
    np.save(Path(folder) / f"{name}.npy", numbers)
    print(json.dumps(seconds))


def peer_python(folder):
    """Interpreter of a virtual environment with pingouin, made when absent."""
    folder = Path(folder)
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    if subprocess.run([python, "-c", "import pingouin"], capture_output=True, check=False).returncode:
        subprocess.run([python, "-m", "pip", "install", "-q", PEER], check=True)
    return python


def compare(folder, peers):
    np.save(folder / "ratings.npy", ratings())
    python = peer_python(peers)
    theirs, expected = child("pingouin", folder, python)
    ours, found = child("hybrid", folder)
    print(f"ICC, {FEATURES} features x {SUBJECTS} subjects x {RATERS} raters, six kinds with intervals, CPU seconds")
    print(f"  {PEER}, loop over features {theirs:10.4f}")
    print(f"  hybrid, one call               {ours:10.4f}")
    print(f"  {theirs / ours:.0f} times faster")
    for i, name in enumerate(COMPARED):
        difference = np.abs(found[..., i] - expected[..., i])
        relative = difference / np.maximum(np.abs(expected[..., i]), 1e-300)
        print(f"  {name:6} largest difference {difference.max():.1e}, relative {relative.max():.1e}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", help="folder of the virtual environment with pingouin (default: temporary)")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        run_child(*options.child)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        compare(folder, options.peers or folder / "peers")


if __name__ == "__main__":
    main()
