"""Nested cross-validation with shared preprocessing against scikit-learn's GridSearchCV for each model alone.

Both sides use the same outer folds, inner folds, prefixes, candidates and seeds, on one thread::

    python tests/benchmarks/evaluate.py [--patients 150] [--columns 1600] [--folds 5] [--inner 5]
        [--selector lasso] [--first 2]

Prints the seconds of both, their ratio, and whether every prediction is identical. ``--selector`` puts a costly
selector into the prefix; ``--first`` runs both sides on the first outer folds only, which leaves the ratio as it is.
"""

from __future__ import annotations

import argparse
import time
import warnings

import numpy as np
import pandas as pd
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from threadpoolctl import threadpool_limits

from hybrid.classifiers import make_prefix, resolve_classifiers
from hybrid.fusion import FeatureSet
from hybrid.pipelines.crossval import Settings, fit_models, inner_splits
from hybrid.pipelines.evaluate import outer_splits

CLASSIFIERS = ("logistic", "elastic_net", "rbf_svm", "random_forest", "xgboost", "naive_bayes")


def simulated(patients: int, columns: int, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Correlated features, ten of which carry the outcome; outcome; patient ids."""
    rng = np.random.default_rng(seed)
    y = np.arange(patients) % 2
    factors = rng.normal(size=(patients, 40))
    values = factors @ rng.normal(size=(40, columns)) + 3 * rng.normal(size=(patients, columns))
    values[:, :10] += 4 * y[:, None]
    table = pd.DataFrame(values, columns=[f"rad_{i}" for i in range(columns)])
    return table, y, np.asarray([f"p{i}" for i in range(patients)])


def shared(table, y, groups, folds, inner, feature_set, classifiers, selector):
    """Ours: prefixes fitted once per training set."""
    settings = Settings(classifiers, inner, selector=selector)
    predictions = {}
    for fold, (train, test) in enumerate(folds):
        models = fit_models(table.iloc[train], y[train], groups[train], {"all": feature_set}, settings, fold)
        for name in classifiers:
            predictions[fold, name] = models["all", name].predict(table.iloc[test])
    return predictions


def alone(table, y, groups, folds, inner, feature_set, classifiers, selector):
    """GridSearchCV over the whole pipeline, once per classifier."""
    predictions = {}
    for fold, (train, test) in enumerate(folds):
        splits = list(inner_splits(y[train], groups[train], inner, fold))
        for name, classifier in classifiers.items():
            prefix = make_prefix(feature_set, selector=selector, seed=fold)
            pipeline = Pipeline([("prefix", prefix), ("model", clone(classifier.make(fold)))])
            grid = {f"model__{key}": list(values) for key, values in classifier.grid.items()}
            search = GridSearchCV(pipeline, grid, scoring="roc_auc", cv=splits).fit(table.iloc[train], y[train])
            predictions[fold, name] = search.predict_proba(table.iloc[test])[:, 1].astype(np.float64)
    return predictions


def main() -> None:
    """Run both and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patients", type=int, default=150)
    parser.add_argument("--columns", type=int, default=1600)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--inner", type=int, default=5)
    parser.add_argument("--selector", help="name of a selector, in place of the ten best columns")
    parser.add_argument("--first", type=int, help="how many of the outer folds are run (default: all)")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    table, y, groups = simulated(options.patients, options.columns)
    folds = outer_splits(y, groups, options.folds, 0)[: options.first]
    feature_set = FeatureSet("all", (tuple(table.columns),))
    classifiers = resolve_classifiers(CLASSIFIERS)
    results, seconds = {}, {}
    print(f"nested {options.folds} x {options.inner} folds (the first {len(folds)} outer folds are run), "
          f"{len(classifiers)} models, {options.patients} patients x {options.columns} columns, "
          f"selector {options.selector or 'top'}")  # fmt: skip
    with threadpool_limits(1):
        for name, run in (("shared preprocessing", shared), ("GridSearchCV per model", alone)):
            began = time.process_time()
            results[name] = run(table, y, groups, folds, options.inner, feature_set, classifiers, options.selector)
            seconds[name] = time.process_time() - began
            print(f"{name:25} {seconds[name]:8.1f} CPU s")
    ours, theirs = results.values()
    same = sum(np.array_equal(ours[key], theirs[key]) for key in ours)
    print(f"ratio {seconds['GridSearchCV per model'] / seconds['shared preprocessing']:.2f}")
    print(f"identical predictions in {same} of {len(ours)} fits (fold x classifier)")


if __name__ == "__main__":
    main()
