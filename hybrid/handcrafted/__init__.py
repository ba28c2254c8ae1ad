"""PyRadiomics features of one case, settings with documented presets, and a dictionary of feature names."""

from .dictionary import DICTIONARY_COLUMNS, feature_dictionary
from .extractor import (
    RegionFeatures,
    column_name,
    count_bins,
    extract_handcrafted,
    extract_regions,
    scale_image,
)
from .settings import PRESETS, HandcraftedSettings, describe_preset, load_settings, write_preset

__all__ = [
    "DICTIONARY_COLUMNS",
    "PRESETS",
    "HandcraftedSettings",
    "RegionFeatures",
    "column_name",
    "count_bins",
    "describe_preset",
    "extract_handcrafted",
    "extract_regions",
    "feature_dictionary",
    "load_settings",
    "scale_image",
    "write_preset",
]
