from __future__ import annotations

import numpy as np
import pytest

from hybrid.errors import InputError
from hybrid.fusion import NAMED_SETS, FeatureSet, combine, fit_stacker, logit, resolve_feature_sets
from hybrid.selection import univariate_auc

COLUMNS = ["rad_a", "rad_b", "deep_0000", "deep_0001", "deep_infold_0000"]
CLINICAL = ["clin_age", "clin_sex"]


def resolve(what, columns=COLUMNS, clinical=CLINICAL):
    return resolve_feature_sets(what, columns, clinical)


@pytest.mark.parametrize("name", NAMED_SETS)
def test_every_named_set_takes_the_columns_of_its_prefixes(name):
    prefixes, fusion = NAMED_SETS[name]
    found = resolve([name])[name]
    assert found.fusion == fusion
    assert len(found.blocks) == len(prefixes)
    for prefix, block in zip(prefixes, found.blocks, strict=True):
        assert block
        assert all(column.startswith(prefix) for column in block)
    assert found.clinical == (tuple(CLINICAL) if name == "clinical" else ())


def test_deep_features_are_not_those_of_an_encoder_trained_in_the_fold():
    sets = resolve(["deep", "fused", "deep_infold", "fused_infold"])
    assert sets["deep"].blocks == (("deep_0000", "deep_0001"),)
    assert sets["fused"].blocks == (("rad_a", "rad_b"), ("deep_0000", "deep_0001"))
    assert sets["deep_infold"].blocks == (("deep_infold_0000",),)
    assert [name for name, found in sets.items() if found.infold] == ["deep_infold", "fused_infold"]


@pytest.mark.parametrize("name", ["handcrafted", "fused", "late", "stacking"])
def test_clinical_columns_join_by_name_and_reach_every_part(name):
    found = resolve([f"{name}+clinical"])[f"{name}+clinical"]
    assert found.clinical == tuple(CLINICAL)
    assert found.columns[-2:] == tuple(CLINICAL)
    assert all(part.clinical == tuple(CLINICAL) for part in found.parts)


def test_only_late_fusion_has_a_part_for_each_block():
    sets = resolve(["early", "late", "stacking"])
    assert sets["early"].parts == (sets["early"],)
    for name in ("late", "stacking"):
        parts = sets[name].parts
        assert [part.blocks for part in parts] == [((block),) for block in sets[name].blocks]
        assert all(part.fusion == "early" for part in parts)


def test_own_names_stand_for_named_sets_and_for_patterns():
    sets = resolve({"mine": "handcrafted", "some": ["rad_a", "deep_0*", "clin_age"], "age": ["clin_age"]})
    assert sets["mine"].blocks == (("rad_a", "rad_b"),)
    assert sets["some"] == FeatureSet("some", (("rad_a", "deep_0000", "deep_0001"),), "early", ("clin_age",))
    assert sets["age"].blocks == ()
    assert sets["age"].columns == ("clin_age",)


def test_a_column_that_two_patterns_match_is_taken_once_in_the_order_of_the_patterns():
    found = resolve({"x": ["rad_b", "rad_*"]})["x"]
    assert found.blocks == (("rad_b", "rad_a"),)


def test_sets_keep_the_order_in_which_they_were_asked_for():
    assert list(resolve(["fused", "clinical", "deep"])) == ["fused", "clinical", "deep"]


@pytest.mark.parametrize(
    ("what", "columns", "clinical", "message"),
    [
        ([], COLUMNS, CLINICAL, "No feature set was given"),
        (["handcraft"], COLUMNS, CLINICAL, "Unknown feature set 'handcraft'.*'handcrafted'"),
        (["deep+clinic"], COLUMNS, CLINICAL, "Unknown feature set 'deep.clinic'.*'deep.clinical'"),
        (["deep+clinical"], COLUMNS, [], "'deep.clinical' needs clinical columns"),
        (["clinical"], COLUMNS, [], "'clinical' needs clinical columns"),
        (["fused"], ["rad_a"], [], "'fused' needs deep features, of which the table has none"),
        (["deep"], ["deep_infold_0000"], [], "'deep' needs deep features"),
        (["deep_infold"], ["rad_a"], [], "needs in-fold features.*encoder="),
        ({"x": ["rad_c"]}, COLUMNS, CLINICAL, "Unknown column in feature set 'x': 'rad_c'.*rad_a"),
    ],
)
def test_sets_that_cannot_be_built_are_refused_with_the_nearest_name(what, columns, clinical, message):
    with pytest.raises(InputError, match=message):
        resolve(what, columns, clinical)


def test_log_odds_invert_the_logistic_function_and_stay_finite():
    values = np.array([-10.0, -1.0, 0.0, 2.0])
    np.testing.assert_allclose(logit(1 / (1 + np.exp(-values))), values, atol=1e-9)
    np.testing.assert_allclose(logit(np.array([0.0, 1.0])), np.log([1e-6, 1e6]), rtol=1e-5)


def out_of_fold(n=300, seed=0):
    """Probabilities of a good block, a useless one, and the outcome."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    good = 1 / (1 + np.exp(-(1.5 * (2 * y - 1) + rng.normal(size=n))))
    return np.column_stack([good, rng.uniform(0.05, 0.95, n)]), y


def test_late_fusion_is_the_mean():
    probabilities, _ = out_of_fold()
    np.testing.assert_array_equal(combine(probabilities, None), probabilities.mean(axis=1))


def test_stacking_weighs_blocks_by_what_they_know():
    probabilities, y = out_of_fold()
    stacker = fit_stacker(probabilities, y)
    good, useless = stacker.coef_[0]
    assert good > 0.5
    assert abs(useless) < 0.2 * good
    fresh, outcome = out_of_fold(seed=1)
    stacked = combine(fresh, stacker)
    assert ((stacked > 0) & (stacked < 1)).all()
    area = univariate_auc(np.column_stack([stacked, combine(fresh, None)]), outcome)
    assert area[0] > area[1] + 0.01


def test_stacking_survives_probabilities_of_zero_and_one():
    probabilities, y = out_of_fold()
    probabilities[:10, 0], probabilities[10:20, 1] = 0.0, 1.0
    assert np.isfinite(combine(probabilities, fit_stacker(probabilities, y))).all()
