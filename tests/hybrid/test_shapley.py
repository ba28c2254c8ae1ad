"""Shapley values against their definition and against what is known of linear models."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from hybrid import InputError
from hybrid.shapley import shapley_values


def by_definition(model, row, background):
    """Mean over all orders of what each column adds."""
    p = row.size
    total = np.zeros(p)
    for order in itertools.permutations(range(p)):
        mixed = background.copy()
        before = model(mixed).mean()
        for column in order:
            mixed[:, column] = row[column]
            after = model(mixed).mean()
            total[column] += after - before
            before = after
    return total / math.factorial(p)


def curved(x):
    return 1 / (1 + np.exp(-(x[:, 0] * x[:, 1] + np.maximum(x[:, 2], 0) - x[:, 3] * x[:, 0])))


def test_exact_values_equal_the_mean_over_all_orders():
    rng = np.random.default_rng(0)
    rows, background = rng.normal(size=(3, 5)), rng.normal(size=(20, 5))
    found = shapley_values(curved, rows, background)
    expected = [by_definition(curved, row, background) for row in rows]
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert np.abs(found[:, 4]).max() < 1e-12


@pytest.mark.parametrize("p", [4, 12])
def test_values_of_a_linear_model_are_its_terms(p):
    rng = np.random.default_rng(1)
    rows, background, weights = rng.normal(size=(4, p)), rng.normal(size=(30, p)), rng.normal(size=p)
    found = shapley_values(lambda x: x @ weights + 3, rows, background)
    np.testing.assert_allclose(found, (rows - background.mean(axis=0)) * weights, atol=1e-12)


def test_sampled_values_sum_to_the_prediction_and_approach_the_exact_ones():
    rng = np.random.default_rng(2)
    rows, background = rng.normal(size=(3, 8)), rng.normal(size=(20, 8))
    found = shapley_values(curved, rows, background, pairs=4)
    np.testing.assert_allclose(found.sum(axis=1), curved(rows) - curved(background).mean(), atol=1e-12)
    exact = np.array([by_definition(curved, row[:4], background[:, :4]) for row in rows])
    many = shapley_values(curved, rows, background, pairs=400)
    np.testing.assert_allclose(many[:, :4], exact, atol=0.01)
    np.testing.assert_allclose(many[:, 4:], 0, atol=1e-12)


def test_the_same_seed_gives_the_same_values_and_no_column_gives_none():
    rng = np.random.default_rng(3)
    rows, background = rng.normal(size=(2, 9)), rng.normal(size=(10, 9))
    np.testing.assert_array_equal(shapley_values(curved, rows, background), shapley_values(curved, rows, background))
    assert shapley_values(lambda x: np.zeros(len(x)), rows[:, :0], background[:, :0]).shape == (2, 0)


@pytest.mark.parametrize(
    ("rows", "background", "message"),
    [
        (np.ones((2, 3)), np.ones((2, 4)), "same columns"),
        (np.ones((2, 3)), np.ones((0, 3)), "same columns"),
        (np.full((2, 3), np.nan), np.ones((2, 3)), "missing"),
    ],
)
def test_unusable_input_is_refused(rows, background, message):
    with pytest.raises(InputError, match=message):
        shapley_values(curved, rows, background)
