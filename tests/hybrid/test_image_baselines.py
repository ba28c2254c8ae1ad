import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from hybrid.errors import InputError
from hybrid.image_baselines import PENALTIES, fit_histogram_baseline, histogram_features, mean_grey
from hybrid.images import read_image, to_array


def scan(seed, bright, shape=(6, 20, 20)):
    """Noise around two grey values; ``bright`` is the share of the brighter one."""
    rng = np.random.default_rng(seed)
    return 10 + 2 * rng.normal(size=shape) + 20 * (rng.random(shape) < bright)


def test_histogram_counts_pixels_between_limits_and_beyond_in_the_outer_bins():
    values = np.array([[-50, 0, 24, 25], [50, 99, 100, 900]])
    np.testing.assert_array_equal(histogram_features(values, bins=4, limits=(0, 100)), [3 / 8, 1 / 8, 1 / 8, 3 / 8])


@pytest.mark.parametrize(("factor", "shift"), [(1000.0, 0.0), (0.01, -3.0), (1.0, 5000.0)])
def test_unit_and_place_of_the_grey_values_do_not_change_the_histogram(factor, shift):
    values = scan(0, 0.3)
    shuffled = np.random.default_rng(1).permutation(values.ravel()) * factor + shift
    np.testing.assert_allclose(histogram_features(shuffled), histogram_features(values), atol=0.01)
    assert histogram_features(values).sum() == pytest.approx(1)


def test_mean_grey_is_exact_on_many_small_integers():
    assert mean_grey(np.full((600, 600), 255, np.uint8)) == 255.0
    assert mean_grey(np.array([[-1.0, 0.0], [1.0, 2.0]], np.float32)) == 0.5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: histogram_features(np.ones((4, 4)), case_id="c2"), "case c2.*empty"),
        (lambda: histogram_features(np.array([1.0, np.nan])), "NaN"),
        (lambda: histogram_features(np.arange(9), bins=1), "at least 2 bins"),
        (lambda: histogram_features(np.arange(9), limits=(5, 5)), "upper limit"),
        (lambda: mean_grey(np.empty((0, 3))), "no pixels"),
        (lambda: fit_histogram_baseline(np.ones((4, 2)), [0, 1, 0]), "found shapes"),
        (lambda: fit_histogram_baseline(np.ones((4, 2)), [0, 0, 0, 0]), "at least two classes"),
        (lambda: fit_histogram_baseline([[1.0], [np.inf]], [0, 1]), "infinite"),
    ],
)
def test_images_and_tables_that_cannot_be_used_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_the_baseline_separates_classes_whose_grey_values_differ_and_no_others():
    features, labels = [], []
    for number in range(90):
        label = number % 3
        features.append(histogram_features(scan(number, (0.1, 0.1, 0.5)[label]), bins=16))
        labels.append("abc"[label])
    features, labels = np.array(features), np.array(labels)
    patients = np.arange(90) // 3
    train = patients < 20
    model = fit_histogram_baseline(features[train], labels[train], patients=patients[train])
    found = model.predict_proba(features[~train])
    np.testing.assert_allclose(found.sum(axis=1), 1)
    rest = labels[~train]
    assert roc_auc_score(rest == "c", found[:, 2]) > 0.98
    inner = rest != "c"
    assert 0.1 < roc_auc_score(rest[inner] == "b", found[inner, 1]) < 0.9


def test_the_mean_grey_baseline_takes_one_number_for_each_image():
    labels = np.arange(40) % 2
    means = [mean_grey(scan(number, 0.2 + 0.3 * (number % 2))) for number in range(40)]
    model = fit_histogram_baseline(means, labels, patients=np.arange(40))
    assert model.score(np.array(means)[:, None], labels) == 1


def test_patients_choose_a_strong_penalty_where_the_grey_values_say_nothing():
    # 10 slices of a patient look alike; between patients there is nothing to learn.
    rng = np.random.default_rng(4)
    patients = np.repeat(np.arange(20), 10)
    features = rng.normal(size=(20, 12))[patients] + 0.1 * rng.normal(size=(200, 12))
    labels = (np.arange(20) % 2)[patients]
    grouped = fit_histogram_baseline(features, labels, patients=patients).named_steps["logistic"].C
    alone = fit_histogram_baseline(features, labels, patients=np.arange(200)).named_steps["logistic"].C
    assert grouped <= 0.1
    assert alone == max(PENALTIES)
    assert fit_histogram_baseline(features, labels).named_steps["logistic"].C == 1


def test_the_baseline_repeats_and_copes_with_a_class_of_one_patient():
    rng = np.random.default_rng(5)
    features, labels = rng.normal(size=(30, 4)), np.array(["a"] * 20 + ["b"] * 10)
    patients = np.r_[np.arange(20), np.full(10, 99)]
    assert fit_histogram_baseline(features, labels, patients=patients).named_steps["logistic"].C == 1
    patients = np.arange(30) // 2
    first, second = (
        fit_histogram_baseline(features, labels, patients=patients, seed=3).predict_proba(features) for _ in range(2)
    )
    np.testing.assert_array_equal(first, second)


def test_the_histogram_alone_tells_real_ct_mr_and_pet_apart(benchmarks):
    cohort = pd.read_csv(benchmarks / "sts_cohort" / "index.csv").head(36)
    arrays = [to_array(read_image(benchmarks / "sts_cohort" / name)) for name in cohort["image"]]
    features = np.array([histogram_features(array) for array in arrays])
    train = np.arange(36) < 24
    patients = cohort["patient"].to_numpy()
    model = fit_histogram_baseline(features[train], cohort["modality"][train], patients=patients[train])
    assert model.score(features[~train], cohort["modality"][~train]) >= 11 / 12
