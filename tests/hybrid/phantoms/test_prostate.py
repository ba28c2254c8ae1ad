import numpy as np
import pytest

from hybrid import InputError
from hybrid.images import to_array
from hybrid.phantoms.prostate import CLASSES, PROSTATE_SITES, simulate_prostate_patient


def values(series):
    return {name: to_array(image).astype(float) for name, image in series.items()}


@pytest.fixture(scope="module")
def patients():
    return {centre: simulate_prostate_patient(3, centre=centre, seed=1) for centre in PROSTATE_SITES}


def test_the_same_seed_gives_the_same_series_and_another_patient_does_not(patients):
    again, other = (values(simulate_prostate_patient(n, centre="A", seed=1)) for n in (3, 4))
    for name, array in values(patients["A"]).items():
        np.testing.assert_array_equal(array, again[name])
        assert array.shape != other[name].shape or not np.array_equal(array, other[name])


def test_every_patient_has_all_five_series_on_one_matrix(patients):
    for series in patients.values():
        assert tuple(series) == CLASSES
        assert len({array.shape for array in values(series).values()}) == 1


def test_centres_differ_in_matrix_and_voxel_size(patients):
    assert len({image["t2"].GetSize() for image in patients.values()}) == 3
    assert len({image["t2"].GetSpacing() for image in patients.values()}) == 3


def test_intensity_units_do_not_tell_the_sequence():
    scales = {name: [] for name in CLASSES}
    for number in range(6):
        for name, array in values(simulate_prostate_patient(number, centre="B", seed=5)).items():
            scales[name].append(np.percentile(array, 95))
    ranges = {name: (min(found), max(found)) for name, found in scales.items()}
    overlaps = [
        a != b and ranges[a][0] < ranges[b][1] and ranges[b][0] < ranges[a][1] for a in CLASSES for b in CLASSES
    ]
    assert sum(overlaps) >= 0.5 * (len(CLASSES) * (len(CLASSES) - 1))


def test_unknown_centre_is_named():
    with pytest.raises(InputError, match="centre 'Z'"):
        simulate_prostate_patient(0, centre="Z", seed=0)
