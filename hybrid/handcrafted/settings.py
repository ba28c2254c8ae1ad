"""Settings of the handcrafted features: three documented presets, or any PyRadiomics parameter file.

A settings document is a PyRadiomics parameter document: sections ``setting``, ``imageType`` and ``featureClass``. What
works with PyRadiomics works here unchanged; a misspelt name is an error that lists the nearest valid one.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd
import yaml

from hybrid.errors import InputError, unknown_name

from .backend import load_radiomics, quiet_radiomics
from .presets import PRESET_ROWS, PresetRow

SECTIONS: Final = ("setting", "imageType", "featureClass", "voxelSetting")
"""Top-level keys of a PyRadiomics parameter document."""


def _document(rows: Iterable[PresetRow]) -> dict[str, Any]:
    """Nested parameter document of a preset's rows."""
    document: dict[str, Any] = {"setting": {}, "imageType": {}, "featureClass": {}}
    for row in rows:
        section, _, group = row.section.partition(".")
        target = document[section].setdefault(group, {}) if group else document[section]
        target[row.parameter] = copy.deepcopy(row.value)
    return document


PRESETS: Final[Mapping[str, dict[str, Any]]] = {name: _document(rows) for name, rows in PRESET_ROWS.items()}
"""PyRadiomics parameter documents by preset name; every value and its reason: :func:`describe_preset`."""


@dataclass(frozen=True)
class HandcraftedSettings:
    """A validated PyRadiomics parameter document.

    Attributes
    ----------
    name : str
        Preset name, file name, or ``"custom"``; a label only, it has no influence on the features.
    text : str
        The document as JSON, in its own order: feature columns follow the order of image types and classes.
    """

    name: str
    text: str

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameter document, a new copy at each access; ``RadiomicsFeatureExtractor`` takes it as it is."""
        return json.loads(self.text)

    @property
    def image_types(self) -> dict[str, dict[str, Any]]:
        """Image types (filters) with their own settings; the original image alone when the document names none."""
        return self.parameters.get("imageType") or {"Original": {}}

    def value(self, name: str, default: Any = None) -> Any:
        """One entry of the section ``setting``."""
        return (self.parameters.get("setting") or {}).get(name, default)

    def __repr__(self) -> str:
        return f"HandcraftedSettings({self.name!r}, image types {list(self.image_types)})"


def load_settings(source: str | Path | Mapping[str, Any] | HandcraftedSettings) -> HandcraftedSettings:
    """Read and validate settings.

    Parameters
    ----------
    source : str, path-like, mapping or HandcraftedSettings
        A preset (``"ct"``, ``"mr"``, ``"pet"``), the path of a PyRadiomics parameter file (YAML or JSON), or a
        parameter document.

    Returns
    -------
    HandcraftedSettings
        Validated settings.

    Raises
    ------
    InputError
        For an unknown preset, section, setting, image type, feature class or feature (with the nearest valid name),
        a value that PyRadiomics refuses, or a file that cannot be read.
    MissingDependencyError
        Without PyRadiomics.
    """
    if isinstance(source, HandcraftedSettings):
        return source
    path: Path | None = None
    if isinstance(source, Mapping):
        name, document = "custom", _plain_document(source)
    elif str(source) in PRESETS:
        name, document = str(source), copy.deepcopy(PRESETS[str(source)])
    else:
        path = _parameter_file(source)
        name, document = path.name, _read_document(path)
    _check_names(document, path)
    _check_values(document, path)
    return HandcraftedSettings(name, json.dumps(document))


def _plain_document(source: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy in plain Python types: NumPy numbers and arrays are common where settings are computed."""
    try:
        return json.loads(json.dumps(source, default=lambda value: value.tolist()))
    except (TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"The settings hold a value that no parameter file could hold: {_one_line(error)}",
            advice="Use numbers, text, lists and dicts.",
        ) from error


def _parameter_file(source: str | Path) -> Path:
    path = Path(source).expanduser()
    if path.is_file():
        return path
    if path.suffix or path.parent != Path():
        raise InputError("The parameter file does not exist.", advice=f"Presets: {', '.join(PRESETS)}.", path=path)
    raise unknown_name("preset or parameter file", source, PRESETS)


def _read_document(path: Path) -> dict[str, Any]:
    """Read with PyRadiomics' own reader: YAML 1.2, in which ``1e-3`` is a number."""
    validator = load_radiomics("pykwalify.core")
    try:
        with quiet_radiomics():
            document = validator.Core(source_file=str(path), schema_data={"type": "any"}).source
    # The reader raises errors of its own and of two parsers; they share no narrower base.
    except Exception as error:
        raise InputError(
            f"The parameter file cannot be read: {_one_line(error)}",
            advice="Expected a PyRadiomics parameter file with the ending .yaml, .yml or .json.",
            path=path,
        ) from error
    if not isinstance(document, Mapping):
        raise InputError(
            f"Expected the sections {', '.join(SECTIONS[:3])}; found {type(document).__name__}.",
            advice="See the documentation of PyRadiomics on parameter files.",
            path=path,
        )
    return json.loads(json.dumps(document))


def known_settings() -> list[str]:
    """Names that PyRadiomics accepts in the section ``setting``, from its own schema.

    Raises
    ------
    MissingDependencyError
        Without PyRadiomics.
    """
    schema_file, _ = load_radiomics().getParameterValidationFiles()
    schema = yaml.safe_load(Path(schema_file).read_text(encoding="utf-8"))
    return sorted(schema["mapping"]["setting"]["mapping"])


def _check_names(document: Mapping[str, Any], path: Path | None) -> None:
    radiomics = load_radiomics()
    _require(document, SECTIONS, "section of the parameter document", path)
    settings, classes = known_settings(), radiomics.getFeatureClasses()
    _require(document.get("setting"), settings, "setting", path)
    _require(document.get("imageType"), radiomics.getImageTypes(), "image type", path)
    for image_type, own in (document.get("imageType") or {}).items():
        _require(own, settings, f"setting of image type {image_type}", path)
    _require(document.get("featureClass"), classes, "feature class", path)
    for name, features in (document.get("featureClass") or {}).items():
        _require(features, classes[name].getFeatureNames(), f"feature of class {name}", path)


def _require(names: Any, valid: Iterable[str], kind: str, path: Path | None) -> None:
    """Raise for the first name that is not valid; values of another form are left to PyRadiomics' schema."""
    valid = list(valid)
    if isinstance(names, (Mapping, list, tuple)):
        for name in names:
            if name not in valid:
                raise unknown_name(kind, name, valid, path=path)


def _check_values(document: dict[str, Any], path: Path | None) -> None:
    """Let PyRadiomics validate types and ranges; nothing global is changed."""
    schema_file, functions = load_radiomics().getParameterValidationFiles()
    validator = load_radiomics("pykwalify.core")
    try:
        with quiet_radiomics():
            core = validator.Core(
                source_data=copy.deepcopy(document), schema_files=[schema_file], extensions=[functions]
            )
            core.validate()
    # The validator raises errors of its own and whatever its check functions raise.
    except Exception as error:
        raise InputError(
            f"PyRadiomics refuses the settings: {_one_line(error)}",
            advice="Correct the value; the presets show the expected forms.",
            path=path,
        ) from error


def _one_line(error: Exception) -> str:
    text = getattr(error, "msg", None) or str(error) or type(error).__name__
    return " ".join(str(text).replace("\n", " ").split())


def describe_preset(name: str) -> pd.DataFrame:
    """Every value of a preset with its reason.

    Parameters
    ----------
    name : str
        ``"ct"``, ``"mr"`` or ``"pet"``.

    Returns
    -------
    DataFrame
        ``section, parameter, value, unit, reason``, in the order of the document.

    Raises
    ------
    InputError
        For an unknown preset.
    """
    if name not in PRESET_ROWS:
        raise unknown_name("preset", name, PRESET_ROWS)
    return pd.DataFrame(
        [
            {
                "section": row.section,
                "parameter": row.parameter,
                "value": "all" if row.section == "featureClass" else json.dumps(row.value),
                "unit": row.unit,
                "reason": row.reason,
            }
            for row in PRESET_ROWS[name]
        ]
    )


def write_preset(name: str, path: str | Path) -> Path:
    """Write a preset as a PyRadiomics parameter file with the reasons as comments, to be edited.

    Parameters
    ----------
    name : str
        ``"ct"``, ``"mr"`` or ``"pet"``.
    path : path-like
        A file ending in ``.yaml``.

    Returns
    -------
    Path
        Where the file is.

    Raises
    ------
    InputError
        For an unknown preset.
    """
    if name not in PRESET_ROWS:
        raise unknown_name("preset", name, PRESET_ROWS)
    lines, headings = [f"# Preset '{name}'"], []
    for row in PRESET_ROWS[name]:
        section, _, group = row.section.partition(".")
        for depth, heading in enumerate((section, group)):
            if heading and heading not in headings:
                lines.append(f"{'  ' * depth}{heading}:")
                headings.append(heading)
        indent = "  " * (2 if group else 1)
        lines += [f"{indent}# {row.reason}", f"{indent}{row.parameter}: {json.dumps(row.value)}"]
    path = Path(path)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
