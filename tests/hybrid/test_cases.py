from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from hybrid import Case, Cohort, InputError


def test_identifiers_stay_text_and_paths_resolve_against_the_file(tmp_path):
    (tmp_path / "cohort.csv").write_text("case_id,patient_id,image,mask,outcome,age\n007,01,img\\a.nii,m/a.nii,1,61\n")
    case = Cohort.from_csv(tmp_path / "cohort.csv")[0]
    assert (case.case_id, case.patient_id, case.outcome) == ("007", "01", 1)
    assert case.image == tmp_path / "img" / "a.nii"
    assert case.covariates == {"age": 61}


def test_several_images_come_as_named_pairs(tmp_path):
    (tmp_path / "c.csv").write_text("case_id,image_ct,mask_ct,image_pet,mask_pet\na,ct.nii,ctm.nii,pet.nii,petm.nii\n")
    case = Cohort.from_csv(tmp_path / "c.csv")["a"]
    assert list(case.images) == ["ct", "pet"]
    assert case.masks["pet"] == tmp_path / "petm.nii"


def test_an_image_without_its_own_mask_uses_the_plain_mask():
    case = Case("a", image={"ct": "ct.nii", "t2": "t2.nii"}, mask={"image": "m.nii", "t2": "m2.nii"})
    assert case.masks == {"ct": Path("m.nii"), "t2": Path("m2.nii")}


def test_semicolon_separated_table_with_decimal_commas_is_read(tmp_path):
    (tmp_path / "c.csv").write_text("case_id;image;age\na;a.nii;61,5\n")
    assert Cohort.from_csv(tmp_path / "c.csv")[0].covariates == {"age": 61.5}


def test_excel_and_csv_give_the_same_cohort(tmp_path):
    table = pd.DataFrame({"case_id": ["a", "b"], "image": ["a.nii", "b.nii"], "outcome": [0, 1], "sex": ["f", None]})
    table.to_csv(tmp_path / "c.csv", index=False)
    table.to_excel(tmp_path / "c.xlsx", index=False)
    assert list(Cohort.read(tmp_path / "c.csv")) == list(Cohort.read(tmp_path / "c.xlsx"))


def test_frame_round_trip_keeps_every_case(tmp_path):
    (tmp_path / "c.csv").write_text(
        "case_id,image_ct,mask_ct,roi_label,outcome,site,age\na,i.nii,m.nii,2,1,A,50\nb,j.nii,,,0,,\n"
    )
    cohort = Cohort.from_csv(tmp_path / "c.csv")
    assert list(Cohort.from_frame(cohort.to_frame())) == list(cohort)


def test_input_frame_is_not_modified():
    table = pd.DataFrame({"case_id": [1, 2], "outcome": [0.0, None]})
    before = table.copy(deep=True)
    Cohort.from_frame(table)
    pd.testing.assert_frame_equal(table, before)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ("caseid,image", "Did you mean 'case_id'|case_id"),
        ("case_id,image,outcom", "misspelt 'outcome'"),
        ("case_id,image,Patient_ID", "misspelt 'patient_id'"),
        ("case_id,image_ct,mask_tc", "no column 'image_tc'"),
    ],
)
def test_misspelt_column_names_its_nearest_neighbour(tmp_path, columns, message):
    (tmp_path / "c.csv").write_text(f"{columns}\n" + ",".join("x" for _ in columns.split(",")) + "\n")
    with pytest.raises(InputError, match=message):
        Cohort.from_csv(tmp_path / "c.csv")


def test_missing_file_names_a_similar_one(tmp_path):
    (tmp_path / "cohort.csv").write_text("case_id\na\n")
    with pytest.raises(InputError, match=r"cohort\.csv"):
        Cohort.from_csv(tmp_path / "cohrt.csv")


def test_row_without_id_is_named_by_its_number(tmp_path):
    (tmp_path / "c.csv").write_text("case_id,image\na,a.nii\n,b.nii\n")
    with pytest.raises(InputError, match="Row 2"):
        Cohort.from_csv(tmp_path / "c.csv")


def test_roi_label_must_be_a_positive_whole_number(tmp_path):
    (tmp_path / "c.csv").write_text("case_id,image,roi_label\na,a.nii,1.5\n")
    with pytest.raises(InputError, match="roi_label"):
        Cohort.from_csv(tmp_path / "c.csv")


def test_unknown_case_id_names_its_nearest_neighbour():
    with pytest.raises(InputError, match="'case_01'"):
        Cohort([Case("case_01"), Case("case_02")])["case_1"]


def test_table_not_in_utf8_says_how_to_save_it(tmp_path):
    (tmp_path / "c.csv").write_bytes("case_id,image,ort\na,a.nii,M\xfcnchen\n".encode("latin-1"))
    with pytest.raises(InputError, match="UTF-8"):
        Cohort.from_csv(tmp_path / "c.csv")
