"""The feature dictionary covers what PyRadiomics offers and never guesses."""

from __future__ import annotations

import pytest

from hybrid.handcrafted import DICTIONARY_COLUMNS, column_name, feature_dictionary


def offered() -> list[str]:
    import radiomics

    return [
        f"original_{name}_{feature}"
        for name, kind in radiomics.getFeatureClasses().items()
        for feature in kind.getFeatureNames()
    ]


def test_every_feature_that_pyradiomics_offers_is_explained():
    table = feature_dictionary([column_name(name) for name in offered()])
    assert list(table.columns) == list(DICTIONARY_COLUMNS)
    assert (table["family"] == "handcrafted").all()
    assert (table["meaning"] != "").all()
    assert (table["unit"] != "").all()
    assert table["pyradiomics_name"].tolist() == offered()


def test_ibsi_identifiers_are_well_formed_and_absences_explained():
    table = feature_dictionary([column_name(name) for name in offered()])
    given = table[table["ibsi_id"] != ""]
    assert given["ibsi_id"].str.fullmatch("[0-9A-Z]{4}").all()
    computed = given[~given["ibsi_note"].str.contains("deprecated")]
    assert computed["ibsi_id"].is_unique
    assert len(computed) == 102
    assert table.loc[table["ibsi_id"] == "", "ibsi_note"].str.contains("no IBSI counterpart").all()


@pytest.mark.parametrize(
    ("column", "image", "image_filter", "pyradiomics_name"),
    [
        ("rad_original_firstorder_Mean", "", "original", "original_firstorder_Mean"),
        ("rad_ct_original_firstorder_Mean", "ct", "original", "original_firstorder_Mean"),
        ("rad_t1_ce_wavelet_LLH_firstorder_Mean", "t1_ce", "wavelet_LLH", "wavelet-LLH_firstorder_Mean"),
        ("rad_original_original_firstorder_Mean", "original", "original", "original_firstorder_Mean"),
        ("rad_log_sigma_2_0_mm_3D_firstorder_Mean", "", "log_sigma_2_0_mm_3D", "log-sigma-2-0-mm-3D_firstorder_Mean"),
        ("rad_mr_log_sigma_3_mm_3D_firstorder_Mean", "mr", "log_sigma_3_mm_3D", "log-sigma-3-mm-3D_firstorder_Mean"),
        ("rad_wavelet2_LL_firstorder_Mean", "", "wavelet2_LL", "wavelet2-LL_firstorder_Mean"),
        ("rad_lbp_3D_k_firstorder_Mean", "", "lbp_3D_k", "lbp-3D-k_firstorder_Mean"),
    ],
)
def test_column_name_is_taken_apart(column, image, image_filter, pyradiomics_name):
    row = feature_dictionary([column]).iloc[0]
    assert (row["image"], row["image_filter"], row["pyradiomics_name"]) == (image, image_filter, pyradiomics_name)
    assert row["ibsi_id"] == "Q4LE"
    assert column_name(pyradiomics_name, image or None) == column


def test_deep_and_foreign_columns_are_listed_in_order():
    table = feature_dictionary(["deep_0000", "deep_ct_0012", "clin_age", "rad_original_shape_Volum"])
    assert table["name"].tolist() == ["deep_0000", "deep_ct_0012", "clin_age", "rad_original_shape_Volum"]
    assert table["family"].tolist() == ["deep", "deep", "other", "other"]
    assert table["image"].tolist() == ["", "ct", "", ""]


def test_filtered_images_are_marked_as_outside_ibsi():
    table = feature_dictionary(["rad_wavelet_LLH_firstorder_Mean", "rad_original_firstorder_Kurtosis"])
    assert "not an IBSI-2 response" in table.loc[0, "ibsi_note"]
    assert "differs from IBSI" in table.loc[1, "ibsi_note"]
