"""Second look at the masses of a cascade: what is measured, and what the ranking learns."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from hybrid.deep.segmentation import candidates
from hybrid.deep.segmentation.candidates import FEATURES, SecondLook, fit_second_look, measure_candidates
from hybrid.errors import InputError

SPACING = (2.0, 2.0, 2.0)


def ball(shape, centre, radius):
    grid = np.indices(shape)
    return sum((grid[axis] - centre[axis]) ** 2 for axis in range(3)) <= radius**2


@pytest.fixture
def kidney():
    """A ball with an inner mass (1), an outer one (2), and a gap on one side that is its sinus."""
    shape = (44, 44, 44)
    organ = ball(shape, (22, 22, 22), 15) & ~ball(shape, (22, 22, 33), 5)
    numbers = np.zeros(shape, int)
    numbers[ball(shape, (22, 16, 20), 3)] = 1
    numbers[ball(shape, (22, 6, 22), 4)] = 2
    values = np.where(organ, 150.0, -100.0)
    values[numbers == 1], values[numbers == 2] = 10.0, 90.0
    return numbers, organ | (numbers > 0), values


def test_measurements_of_two_masses(kidney):
    numbers, organ, values = kidney
    chance = np.where(numbers == 1, 0.6, 0.0)
    chance[22, 16, 20] = 0.9
    table = measure_candidates(numbers, organ, chance, values, SPACING)
    assert list(table) == list(FEATURES)
    inner, outer = table.to_dict("records")
    count = (numbers == 1).sum()
    assert inner["max_probability"] == pytest.approx(0.9)
    assert inner["mean_probability"] == pytest.approx(0.6 + 0.3 / count)
    assert inner["log_volume"] == pytest.approx(math.log(8 * count))
    assert (inner["density"], inner["density_sd"], inner["contrast"]) == pytest.approx((10, 0, -140))
    assert inner["kidney_border"] == pytest.approx(1.0)
    assert inner["elongation"] == pytest.approx(1.0, abs=0.01)
    assert inner["fill"] == pytest.approx(count / 7**3)
    assert outer["outside_border"] > 0.3
    assert outer["kidney_border"] + outer["outside_border"] + outer["sinus_border"] == pytest.approx(1.0)
    assert inner["depth_mm"] > outer["depth_mm"]


def test_a_candidate_at_the_sinus_is_told_from_one_at_the_surface(kidney):
    numbers, organ, values = kidney
    numbers = np.zeros_like(numbers)
    numbers[ball(numbers.shape, (22, 22, 28), 1)] = 1
    numbers[ball(numbers.shape, (22, 22, 8), 1)] = 2
    table = measure_candidates(numbers, organ | (numbers > 0), numbers * 0.5, values, SPACING)
    assert table["sinus_border"][0] > 0.2
    assert table["sinus_border"][1] == 0


def test_a_row_of_voxels_is_elongated():
    numbers = np.zeros((9, 9, 20), int)
    numbers[4, 4, 2:12] = 1
    table = measure_candidates(numbers, numbers > 0, numbers * 1.0, numbers * 1.0, (3.0, 3.0, 3.0))
    assert table["elongation"].item() == pytest.approx(10)
    assert table["fill"].item() == 1


def test_no_candidate_gives_an_empty_table():
    empty = np.zeros((4, 4, 4))
    assert measure_candidates(empty.astype(int), empty > 0, empty, empty, SPACING).shape == (0, len(FEATURES))


def simulated(patients=60, seed=0):
    """Two masses and three other candidates in each patient; volume and probability tell them apart, but not always."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(rng.normal(size=(5 * patients, len(FEATURES))), columns=list(FEATURES))
    table["is_mass"] = np.tile([1, 1, 0, 0, 0], patients)
    table[["log_volume", "max_probability"]] += 1.5 * table[["is_mass"]].to_numpy()
    return table.assign(patient_id=np.repeat([f"p{number}" for number in range(patients)], 5))


def test_ranking_separates_masses_in_new_patients_and_keeps_to_the_false_positives():
    look = fit_second_look(simulated(), 60, false_positives=0.5)
    new = simulated(patients=400, seed=1)
    scores, real = look.scores(new), new["is_mass"].to_numpy() == 1
    assert look.card["left_out"]["false_positives"] <= 0.5
    assert (scores[~real] >= look.threshold).sum() / 400 == pytest.approx(0.5, abs=0.2)
    assert (scores[real] >= look.threshold).mean() > 0.75
    assert (new["max_probability"].to_numpy()[real, None] > new["max_probability"].to_numpy()[~real]).mean() < (
        scores[real, None] > scores[~real]
    ).mean()


def test_nothing_is_dropped_when_all_false_positives_are_allowed():
    look = fit_second_look(simulated(), 60, false_positives=3.0)
    assert look.threshold == 0
    assert look.card["left_out"]["masses_kept"] == 1


@pytest.mark.parametrize("kept", [0, 1])
def test_too_few_of_either_kind_give_no_ranking(kept):
    table = simulated()
    few = table[(table["is_mass"] == kept) | (table.index < 15)]
    assert min(few["is_mass"].sum(), (1 - few["is_mass"]).sum()) < candidates.FEWEST
    assert fit_second_look(few, 60) is None


def test_masses_of_too_few_patients_give_no_ranking():
    table = simulated()
    few = table.assign(patient_id=[f"p{number % 4}" for number in range(len(table))])
    assert fit_second_look(few, 4) is None


def test_plain_data_gives_the_same_scores_and_another_version_is_refused():
    look = fit_second_look(simulated(), 60)
    content = look.to_dict()
    again = SecondLook.from_dict(content)
    np.testing.assert_array_equal(again.scores(simulated()), look.scores(simulated()))
    assert again == replace(look)
    with pytest.raises(InputError, match="measures other things"):
        SecondLook.from_dict({**content, "features": ["volume"]})
    with pytest.raises(InputError, match="measures other things"):
        SecondLook.from_dict({name: value for name, value in content.items() if name != "products"})


def test_a_mass_can_be_what_two_measurements_say_together():
    rng = np.random.default_rng(4)
    table = pd.DataFrame(rng.normal(size=(400, len(FEATURES))), columns=list(FEATURES))
    table["is_mass"] = (table["contrast"] * table["depth_mm"] > 0).astype(int)  # neither alone tells anything
    table["patient_id"] = [f"p{number // 4}" for number in range(400)]
    look = fit_second_look(table[:200], 50)
    scores, real = look.scores(table[200:]), table["is_mass"].to_numpy()[200:] == 1
    assert (scores[real, None] > scores[~real]).mean() > 0.7  # 0.5 without products
