from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from hybrid.deep import OutcomeEncoder, build_network, load_encoder
from hybrid.deep.embeddings import BUNDLED
from hybrid.deep.train_bundled import (
    HELD_OUT_SEED,
    PREPROCESSING,
    SEED,
    evaluate,
    probe,
    simulate_lesions,
    train,
)
from hybrid.phantoms.lesions import PROPERTY_NAMES


@pytest.fixture(scope="module")
def held_out():
    return simulate_lesions(120, 4242, vary=False)


def test_bundled_encoder_loads_and_says_what_it_is():
    encoder = load_encoder()
    assert encoder.dim == 128
    assert encoder.details["coverage"] == 1.0
    assert encoder.preprocessing == PREPROCESSING
    assert sum(path.stat().st_size for path in BUNDLED.iterdir()) < 4_000_000


def test_bundled_encoder_beats_its_own_random_start_on_new_lesions(held_out):
    trained = load_encoder()
    start = replace(trained, network=build_network("narrow", seed=SEED), spec=None)
    table = probe(trained, start, held_out, resamples=500).set_index("property")
    assert table.loc["mean", "ci_low"] > 0
    assert table.loc["mean", "r2_trained"] > 0.3


def test_model_card_holds_the_evaluation():
    card = json.loads((BUNDLED / "model.json").read_text(encoding="utf-8"))
    assert card["training"]["seed"] == SEED != card["metrics"]["held_out_seed"] == HELD_OUT_SEED
    rows = {(row["property"], row["modality"]): row for row in card["metrics"]["probe"]}
    assert {name for name, _ in rows} == {*PROPERTY_NAMES, "mean"}
    assert rows["mean", "ct"]["n_fit"] + rows["mean", "ct"]["n_test"] >= 300
    assert all(rows["mean", modality]["ci_low"] > 0 for modality in ("ct", "any"))


def test_lesions_are_the_same_for_the_same_seed_however_many_are_drawn():
    one, many = simulate_lesions(1, 5, vary=True), simulate_lesions(3, 5, vary=True)
    assert np.array_equal(one[0].crop.image, many[0].crop.image)
    assert not np.array_equal(many[0].crop.image, many[1].crop.image)


def test_training_is_reproducible():
    networks = [train(lesions=8, epochs=1, batch_size=4, progress=False)[0] for _ in range(2)]
    first, second = (network.state_dict() for network in networks)
    assert all(bool((first[name] == second[name]).all()) for name in first)


def test_outcome_encoder_starts_from_the_bundled_weights():
    assert OutcomeEncoder().describe()["start_encoder"]["sha256"] == load_encoder().sha256


@pytest.mark.slow
def test_figures_of_the_model_card_are_reproduced():
    card = json.loads((BUNDLED / "model.json").read_text(encoding="utf-8"))
    table = evaluate()
    stored = [row["r2_trained"] for row in card["metrics"]["probe"]]
    assert np.allclose(table["r2_trained"], stored, atol=0.01)
