"""Presets, parameter files and their errors."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest

from hybrid.errors import InputError, MissingDependencyError
from hybrid.handcrafted import PRESETS, HandcraftedSettings, backend, describe_preset, load_settings, write_preset


@pytest.mark.parametrize("name", ["ct", "mr", "pet"])
def test_every_value_of_a_preset_has_a_reason(name):
    table = describe_preset(name)
    assert list(table.columns) == ["section", "parameter", "value", "unit", "reason"]
    assert (table["reason"].str.len() > 20).all()
    document = load_settings(name).parameters
    values = len(document["setting"]) + len(document["featureClass"])
    values += sum(max(len(own), 1) for own in document["imageType"].values())
    assert len(table) == values


@pytest.mark.parametrize("name", ["ct", "mr", "pet"])
def test_preset_written_as_parameter_file_reads_back_the_same(name, tmp_path):
    from radiomics.featureextractor import RadiomicsFeatureExtractor

    path = write_preset(name, tmp_path / "mine.yaml")
    assert load_settings(path).parameters == PRESETS[name]
    assert "# " in path.read_text(encoding="utf-8")
    RadiomicsFeatureExtractor(str(path))


def test_presets_cannot_be_changed_through_a_loaded_copy():
    before = json.dumps(PRESETS["ct"])
    load_settings("ct").parameters["setting"]["binWidth"] = 1
    load_settings("ct").image_types["LoG"]["sigma"].append(9)
    assert json.dumps(PRESETS["ct"]) == before
    assert load_settings("ct").value("binWidth") == 10.0


@pytest.mark.parametrize(
    ("document", "wrong", "nearest"),
    [
        ({"setting": {"binwidth": 5}}, "binwidth", "binWidth"),
        ({"settings": {"binWidth": 5}}, "settings", "setting"),
        ({"imageType": {"Wavelett": {}}}, "Wavelett", "Wavelet"),
        ({"imageType": {"LoG": {"sigmas": [1.0]}}}, "sigmas", "sigma"),
        ({"featureClass": {"first_order": []}}, "first_order", "firstorder"),
        ({"featureClass": {"glcm": ["Contrasts"]}}, "Contrasts", "Contrast"),
    ],
)
def test_misspelt_name_lists_the_nearest_valid_one(document, wrong, nearest):
    with pytest.raises(InputError, match=f"{wrong}.*Did you mean '{nearest}'"):
        load_settings(document)


def test_misspelt_preset_lists_the_nearest_one():
    with pytest.raises(InputError, match=r"Unknown preset.*'pett'.*'pet'"):
        load_settings("pett")


def test_missing_parameter_file_is_named():
    with pytest.raises(InputError, match=r"absent/settings\.yaml.*does not exist"):
        load_settings("absent/settings.yaml")


@pytest.mark.parametrize("value", [-5, "wide", [25]])
def test_value_that_pyradiomics_refuses_is_one_error(value):
    with pytest.raises(InputError, match="binWidth"):
        load_settings({"setting": {"binWidth": value}})


@pytest.mark.parametrize(("name", "text"), [("a.yaml", "setting: [1, 2"), ("b.json", "{"), ("c.yaml", "hello")])
def test_unreadable_parameter_file_is_one_error(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=name):
        load_settings(tmp_path / name)


def test_parameter_files_are_read_as_pyradiomics_reads_them(tmp_path):
    path = tmp_path / "params.yml"
    # YAML 1.2: 1e-1 is a number, and a class without a list means all of its features.
    path.write_text("setting:\n  binWidth: 1e-1\n  label: 2\nimageType:\n  Original: {}\nfeatureClass:\n  shape:\n")
    settings = load_settings(str(path))
    assert settings.value("binWidth") == 0.1
    assert settings.parameters["featureClass"] == {"shape": None}
    assert settings.name == "params.yml"


def test_numpy_values_are_accepted_and_other_objects_refused():
    settings = load_settings(
        {"setting": {"binCount": np.int64(32), "resampledPixelSpacing": np.array([1.0, 1.0, 0.0])}}
    )
    assert settings.parameters == {"setting": {"binCount": 32, "resampledPixelSpacing": [1.0, 1.0, 0.0]}}
    with pytest.raises(InputError, match="no parameter file could hold"):
        load_settings({"setting": {"binWidth": {1, 2}}})


def test_loading_loaded_settings_returns_them():
    settings = load_settings("mr")
    assert load_settings(settings) is settings
    assert isinstance(settings, HandcraftedSettings)


def test_loggers_keep_their_levels_after_loading():
    logger = logging.getLogger("radiomics")
    logger.setLevel(logging.INFO)
    load_settings("ct")
    assert logger.level == logging.INFO


def test_absent_pyradiomics_names_distribution_and_compiler():
    with pytest.raises(MissingDependencyError, match=r"pyradiomics-cuda.*C compiler"):
        backend.load_radiomics("radiomics.no_such_module")
