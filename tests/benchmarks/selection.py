"""Speed of mRMR against the loop that the formula suggests. Run by hand; prints the ratio and whether both agree.

200 patients x 1600 correlated features, 20 selected, all four criteria. The loop goes over candidates and, for each,
over the columns chosen so far; "remembering" computes each pair once. Every statistic of a pair is itself fast NumPy
(one ``bincount``, one dot product). CPU seconds in one process, on one thread::

    OMP_NUM_THREADS=1 python tests/benchmarks/selection.py [--patients 200] [--columns 1600] [--selected 20]
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from sklearn.feature_selection import f_classif
from threadpoolctl import threadpool_limits

from hybrid.mrmr import MRMR_SCHEMES, MRMRSelector

OWN_CALLS = 10


def simulated(patients, columns, seed=0):
    """Correlated features in blocks, the first of which carry the outcome."""
    rng = np.random.default_rng(seed)
    y = np.arange(patients) % 2
    factors = rng.normal(size=(patients, 40))
    factors[:, :5] += y[:, None]
    values = factors @ rng.normal(size=(40, columns)) / 6 + rng.normal(size=(patients, columns))
    return values, y


def states_of(column):
    """0 below, 1 within, 2 above mean +- one standard deviation."""
    mean, spread = column.mean(), column.std(ddof=1)
    return np.where(column < mean - spread, 0, np.where(column > mean + spread, 2, 1))


def information(a, b):
    """Mutual information in nats of two variables with states 0, 1, 2."""
    joint = np.bincount(3 * a + b, minlength=9).reshape(3, 3) / len(a)
    expected = joint.sum(axis=1)[:, None] * joint.sum(axis=0)[None, :]
    there = joint > 0
    return (joint[there] * np.log(joint[there] / expected[there])).sum()


def loop(relevance, redundancy, k, scheme, remember):
    """Select as the formula is written; redundancy(i, j) is the statistic of a pair."""
    known = {}

    def pair(i, j):
        if not remember:
            return redundancy(i, j)
        if (i, j) not in known:
            known[i, j] = redundancy(i, j)
        return known[i, j]

    chosen = [int(np.argmax(relevance))]
    while len(chosen) < k:
        best, best_value = -1, -np.inf
        for i in range(len(relevance)):
            if i in chosen:
                continue
            mean = sum(pair(i, j) for j in chosen) / len(chosen)
            value = relevance[i] / max(mean, 1e-12) if scheme.endswith("Q") else relevance[i] - mean
            if value > best_value:
                best, best_value = i, value
        chosen.append(best)
    return chosen


def naive(values, y, k, scheme, remember):
    if scheme.startswith("MI"):
        states = [states_of(values[:, i]) for i in range(values.shape[1])]
        relevance = np.array([information(column, y) for column in states])
        return loop(relevance, lambda i, j: information(states[i], states[j]), k, scheme, remember)
    centred = values - values.mean(axis=0)
    unit = np.ascontiguousarray((centred / np.sqrt((centred**2).sum(axis=0))).T)
    return loop(f_classif(values, y)[0], lambda i, j: abs(unit[i] @ unit[j]), k, scheme, remember)


def seconds_of(run, calls=1):
    start = time.process_time()
    for _ in range(calls):
        result = run()
    return (time.process_time() - start) / calls, result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", type=int, default=200)
    parser.add_argument("--columns", type=int, default=1600)
    parser.add_argument("--selected", type=int, default=20)
    options = parser.parse_args()
    values, y = simulated(options.patients, options.columns)
    k = options.selected
    print(f"mRMR, {options.patients} patients x {options.columns} features, {k} selected, CPU seconds")
    print("scheme      loop  remembering    hybrid   loop/hybrid  remembering/hybrid  same features in the same order")
    with threadpool_limits(1):
        for scheme in MRMR_SCHEMES:
            slow, first = seconds_of(lambda scheme=scheme: naive(values, y, k, scheme, remember=False))
            less, second = seconds_of(lambda scheme=scheme: naive(values, y, k, scheme, remember=True))
            run = MRMRSelector(k, scheme=scheme)
            run.fit(values, y)
            fast, fitted = seconds_of(lambda run=run: run.fit(values, y), OWN_CALLS)
            same = "yes" if first == second == fitted.order_.tolist() else "NO"
            print(f"{scheme:6} {slow:9.2f} {less:12.2f} {fast:9.4f} {slow / fast:13.0f} {less / fast:19.0f}  {same}")


if __name__ == "__main__":
    main()
