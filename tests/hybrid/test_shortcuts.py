import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from PIL import Image

from hybrid.analysis.shortcut_audit import OTHER_REMEDY, REMEDIES, SHORTCUT_COLUMNS, audit_shortcuts
from hybrid.deep.classification.inputs import read_slice
from hybrid.errors import InputError
from hybrid.images import read_image, to_array
from hybrid.shortcuts import (
    CORNERS,
    HEADER_FACTS,
    PIXEL_FACTS,
    array_facts,
    blank_corners,
    border_box,
    crop_border,
    image_facts,
    neutralise,
    to_grey,
)


def picture(seed, shape=(48, 40), low=20.0, high=230.0):
    """Smooth blobs on a grey gradient: the same kind of picture at every size."""
    rng = np.random.default_rng(seed)
    y, x = np.meshgrid(*[np.linspace(0, 1, n) for n in shape], indexing="ij")
    values = 0.3 * x + 0.2 * y
    for _ in range(4):
        cy, cx, width = *rng.uniform(0.1, 0.9, 2), rng.uniform(0.1, 0.2)
        values = values + np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * width**2))
    return low + (high - low) * (values - values.min()) / np.ptp(values)


def write_png(path, values, mode=None):
    image = Image.fromarray(values)
    (image.convert(mode) if mode else image).save(path)
    return path


def write_series(folder, values, spacing=(3.0, 0.5, 0.7), series=2):
    """A DICOM series; spacing along slices, rows and columns (mm)."""
    folder.mkdir(exist_ok=True)
    for number, plane in enumerate(values):
        image = sitk.GetImageFromArray(plane[None].astype(np.int16))
        image.SetSpacing(spacing[::-1])
        image.SetOrigin((0.0, 0.0, number * spacing[0]))
        image.SetMetaData("0008|0060", "CT")
        image.SetMetaData("0020|000e", f"1.2.826.0.{series}")
        image.SetMetaData("0020|0032", f"0\\0\\{number * spacing[0]}")
        image.SetMetaData("0020|0037", "1\\0\\0\\0\\1\\0")
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        image.SetMetaData("0008|0018", f"1.2.826.0.1.{series}.{number}")
        writer.SetFileName(str(folder / f"{series}_{number}.dcm"))
        writer.Execute(image)
    return folder


def write_nifti(path, values, spacing=(2.0, 1.0, 0.5)):
    image = sitk.GetImageFromArray(values)
    image.SetSpacing(spacing[::-1])
    sitk.WriteImage(image, str(path))
    return path


# Facts of files


@pytest.mark.parametrize(
    ("name", "mode", "bits"), [("a.png", "L", 8), ("b.png", "RGBA", 8), ("c.jpg", "L", 8), ("d.png", "P", 8)]
)
def test_facts_of_png_and_jpeg_say_format_mode_bits_and_size(tmp_path, name, mode, bits):
    path = write_png(tmp_path / name, picture(0).astype(np.uint8), mode)
    facts = image_facts(path)
    assert tuple(facts) == HEADER_FACTS + PIXEL_FACTS
    assert (facts["file_format"], facts["pixel_mode"], facts["bit_depth"]) == (
        "jpeg" if name.endswith("jpg") else "png",
        mode,
        bits,
    )
    assert (facts["rows"], facts["columns"], facts["n_slices"], facts["aspect_ratio"]) == (48, 40, 1, 40 / 48)
    assert facts["file_bytes"] == path.stat().st_size
    assert np.isnan(facts["spacing_rows_mm"])
    assert facts["mean_grey"] == pytest.approx(picture(0).astype(np.uint8).mean(), abs=1)


def test_a_png_of_16_bits_keeps_its_grey_values(tmp_path):
    values = (picture(1) * 200).astype(np.uint16)
    facts = image_facts(write_png(tmp_path / "deep.png", values))
    assert facts["bit_depth"] == 16
    assert (facts["min_grey"], facts["max_grey"]) == (values.min(), values.max())


def test_a_photograph_that_is_shown_turned_has_its_shown_size(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture(0).astype(np.uint8)).save(tmp_path / "turned.jpg", exif=exif)
    facts = image_facts(tmp_path / "turned.jpg")
    assert (facts["rows"], facts["columns"]) == (40, 48)


def test_facts_of_a_dicom_series_come_from_its_headers_and_all_its_files(tmp_path):
    values = np.stack([picture(i, (20, 24)) for i in range(4)])
    folder = write_series(tmp_path / "series", values)
    facts = image_facts(folder)
    assert (facts["file_format"], facts["pixel_mode"], facts["bit_depth"]) == ("dicom", "MONOCHROME2", 16)
    assert (facts["n_slices"], facts["rows"], facts["columns"]) == (4, 20, 24)
    spacings = [facts[f"spacing_{axis}_mm"] for axis in ("slices", "rows", "columns")]
    assert spacings == pytest.approx([3.0, 0.5, 0.7])
    assert facts["file_bytes"] == sum(path.stat().st_size for path in folder.iterdir())
    assert facts["mean_grey"] == pytest.approx(values.astype(np.int16).mean(), abs=0.01)
    one = image_facts(folder / "2_2.dcm")
    assert (one["n_slices"], one["mean_grey"]) == (1, pytest.approx(values[2].astype(np.int16).mean(), abs=0.01))


def test_facts_of_one_slice_of_a_volume_are_those_of_its_pixels(tmp_path):
    values = np.stack([np.full((12, 10), 7 * i) + picture(i, (12, 10)) for i in range(5)]).astype(np.float32)
    path = write_nifti(tmp_path / "scan.nii.gz", values)
    facts = image_facts(path, 3)
    assert (facts["file_format"], facts["pixel_mode"], facts["bit_depth"]) == ("nii.gz", "32-bit float", 32)
    assert (facts["n_slices"], facts["orientation"], facts["spacing_slices_mm"]) == (5, "LPS", 2.0)
    assert facts["mean_grey"] == pytest.approx(values[3].mean(), rel=1e-5)
    assert image_facts(path)["mean_grey"] == pytest.approx(values.mean(), rel=1e-5)


def test_header_facts_need_no_pixels(tmp_path):
    path = write_nifti(tmp_path / "scan.nii", np.zeros((3, 6, 5), np.int16))
    path.write_bytes(path.read_bytes()[:-40])
    facts = image_facts(path, pixels=False)
    assert tuple(facts) == HEADER_FACTS
    assert (facts["n_slices"], facts["bit_depth"]) == (3, 16)


@pytest.mark.parametrize("problem", ["missing", "damaged", "nan", "no_slice", "empty_folder", "two_series"])
def test_files_that_cannot_be_used_are_named(tmp_path, problem):
    path, index = tmp_path / "scan.nii.gz", None
    values = picture(0)[None].repeat(3, axis=0).astype(np.float32)
    if problem == "damaged":
        path = tmp_path / "a.png"
        path.write_bytes(b"no image")
    elif problem == "nan":
        values[1, 2, 3] = np.nan
        write_nifti(path, values)
    elif problem == "no_slice":
        index = 3
        write_nifti(path, values)
    elif problem == "empty_folder":
        path = tmp_path / "empty"
        path.mkdir()
    elif problem == "two_series":
        path = write_series(write_series(tmp_path / "folder", values), values, series=3)
    with pytest.raises(InputError, match=r"case c7, file .*") as caught:
        image_facts(path, index, case_id="c7")
    assert str(path) in str(caught.value)


# Facts of pixels, and their removal


@pytest.mark.parametrize(("factor", "shift"), [(1.0, 0.0), (0.01, -3.0), (40.0, -1024.0)])
def test_a_frame_is_found_whatever_the_unit(factor, shift):
    framed = np.pad(picture(2), ((3, 5), (7, 0))) * factor + shift
    assert border_box(framed) == (slice(3, 51), slice(7, 47))
    assert array_facts(framed)["border_share"] == pytest.approx(1 - 48 * 40 / framed.size)


def test_bars_of_different_grey_on_each_side_are_cut_off():
    inner = picture(3)
    framed = np.pad(np.pad(inner, ((0, 0), (4, 6)), constant_values=255), ((5, 2), (0, 0)), constant_values=0)
    np.testing.assert_array_equal(crop_border(framed), inner)


def test_a_jpeg_frame_is_found_although_it_is_not_exactly_constant(tmp_path):
    framed = np.pad(picture(4, (64, 64), low=60), 16).astype(np.uint8)
    Image.fromarray(framed).save(tmp_path / "frame.jpg", quality=70)
    rows, columns = border_box(to_grey(read_slice(tmp_path / "frame.jpg").values))
    assert (rows, columns) == (slice(16, 80), slice(16, 80))


def test_a_volume_loses_empty_slices_and_a_constant_image_nothing():
    volume = np.pad(np.stack([picture(i, (10, 12)) for i in range(6)]), ((2, 1), (0, 3), (0, 0)))
    assert border_box(volume) == (slice(2, 8), slice(0, 10), slice(0, 12))
    assert border_box(np.full((5, 4), 3)) == (slice(0, 5), slice(0, 4))
    assert array_facts(np.full((5, 4), 3))["border_share"] == 1


def test_background_share_counts_the_darkest_pixels_and_ignores_the_unit():
    values = np.full((40, 40), 100.0) + np.arange(40)
    values[:, :10] = 0
    for image in (values, values * 37 - 1024):
        assert array_facts(image)["background_share"] == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize("name", list(CORNERS))
def test_a_burned_in_mark_raises_its_own_corner_and_can_be_blanked(name):
    clean = np.pad(picture(5), 10).astype(np.uint8)
    marked = clean.copy()
    row, column = (2 if side == 0 else -5 for side in CORNERS[name])
    marked[row : row + 3, column : column + 3] = 255
    before, after = array_facts(clean), array_facts(marked)
    raised = [fact for fact in PIXEL_FACTS if fact.startswith("corner") and after[fact] > before[fact] + 0.05]
    assert raised == [f"corner_{name}"]
    np.testing.assert_array_equal(blank_corners(marked), blank_corners(clean))


@pytest.mark.parametrize("fit", ["stretch", "pad"])
def test_frame_unit_and_mark_do_not_change_a_neutralised_slice(fit):
    clean = picture(6)
    framed = np.pad(clean, ((30, 10), (12, 0)))
    framed[:4, -4:] = 255
    other = neutralise(framed * 16 - 1000, (32, 32), fit=fit, corners=["top_right"])
    np.testing.assert_allclose(other, neutralise(clean, (32, 32), fit=fit), atol=1e-3)
    assert (other.shape, other.dtype) == ((32, 32), np.float32)
    assert (other.min(), other.max()) == (-1, 1)


def test_colour_and_grey_slices_become_the_same(tmp_path):
    values = picture(7).astype(np.uint8)
    grey, colour = write_png(tmp_path / "a.png", values), write_png(tmp_path / "b.png", values, "RGBA")
    made = [neutralise(read_slice(path).values, (24, 24)) for path in (grey, colour)]
    np.testing.assert_allclose(*made, atol=1e-5)


def test_a_neutralised_volume_has_the_wanted_grid():
    volume = np.pad(np.stack([picture(i, (20, 24)) for i in range(6)]), ((1, 1), (3, 3), (0, 9)))
    assert neutralise(volume, (8, 16, 16), spacing=(4.0, 1.0, 1.0), fit="pad").shape == (8, 16, 16)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: neutralise(np.ones((4, 5, 6)), (8, 8)), "red, green and blue"),
        (lambda: neutralise(picture(0), (4, 8, 8)), "as many sizes"),
        (lambda: neutralise(np.ones((9, 9)), (8, 8), case_id="c1"), "case c1.*empty"),
        (lambda: neutralise(picture(0), (8, 8), corners=["top"]), "Did you mean"),
        (lambda: neutralise(picture(0), (8, 8), fit="crop"), "Valid: pad, stretch"),
        (lambda: array_facts(np.array([[1.0, np.nan]])), "NaN"),
        (lambda: border_box(picture(0), tolerance=1.5), "tolerance"),
    ],
)
def test_images_and_settings_that_cannot_be_used_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_every_fact_has_a_remedy():
    assert set(REMEDIES) == {*HEADER_FACTS, *PIXEL_FACTS}


# Audit


def row_of(table, fact):
    return table.set_index("fact").loc[fact]


def test_planted_image_sizes_are_flagged_and_gone_after_neutralising(tmp_path):
    labels, patients, before, after = [], [], [], []
    for number in range(40):
        case = number // 2 % 2
        shape = (72 + number % 3, 60) if case else (50 + number % 2, 44)
        values = np.pad(picture(number, shape), 6 if case else 0).astype(np.uint8)
        path = write_png(tmp_path / f"{number}.png", values)
        before.append(image_facts(path))
        neutral = neutralise(read_slice(path).values, (40, 40))
        after.append(array_facts(neutral) | {"rows": neutral.shape[0], "columns": neutral.shape[1]})
        labels.append("case" if case else "control")
        patients.append(f"p{number // 2}")
    found = audit_shortcuts(pd.DataFrame(before), labels, patients)
    assert tuple(found.columns) == SHORTCUT_COLUMNS
    for fact in ("rows", "columns", "border_share"):
        row = row_of(found, fact)
        assert row["auc"] > 0.9
        assert row["flagged"]
        assert row["low"] > 0.65
        assert row["remedy"] == REMEDIES[fact]
    assert not row_of(found, "bit_depth")["flagged"]
    assert (found["n_images"] == 40).all()
    assert (found["n_patients"] == 20).all()
    clean = audit_shortcuts(pd.DataFrame(after), labels, patients)
    assert not clean["flagged"].any()
    assert (clean["remedy"] == "").all()
    assert row_of(clean, "rows")["auc"] == 0.5


def test_grid_and_unit_give_real_modalities_away_until_they_are_neutralised(benchmarks):
    cohort = pd.read_csv(benchmarks / "sts_cohort" / "index.csv").head(24)
    paths = [benchmarks / "sts_cohort" / name for name in cohort["image"]]
    found = audit_shortcuts(pd.DataFrame([image_facts(path) for path in paths]), cohort["modality"], cohort["patient"])
    for fact in ("spacing_rows_mm", "min_grey", "mean_grey"):
        assert row_of(found, fact)["auc"] > 0.95
        assert row_of(found, fact)["flagged"]
    after = [array_facts(neutralise(to_array(read_image(path)), (24, 24, 24))) for path in paths]
    table = audit_shortcuts(pd.DataFrame(after), cohort["modality"], cohort["patient"])
    assert not table[table["fact"].isin(["min_grey", "max_grey"])]["flagged"].any()


def test_facts_without_information_lie_about_a_half():
    rng = np.random.default_rng(0)
    facts = pd.DataFrame({f"number{i}": rng.normal(size=100) for i in range(8)})
    facts["rows"], facts["site"] = rng.choice([512, 256, 1024], 100), rng.choice(list("abcd"), 100)
    table = audit_shortcuts(facts, np.arange(100) % 2, np.arange(100))
    assert table["auc"].between(0.5, 0.65).all()
    # Of ten intervals of 95 % one or none may miss.
    assert ((table["low"] <= 0.5) & (table["high"] >= 0.5)).sum() >= 9
    assert (table["high"] > 0.55).all()
    assert not table["flagged"].any()


def test_a_number_of_the_patient_is_not_learned_by_heart():
    # 30 slices of each of 30 patients: a model that saw other slices of the patient would be right every time.
    rng = np.random.default_rng(3)
    patients = np.repeat(np.arange(30), 30)
    facts = pd.DataFrame({"spacing": rng.normal(size=30)[patients], "scanner": patients % 15})
    facts["scanner"] = "s" + facts["scanner"].astype(str)
    table = audit_shortcuts(facts, (np.arange(30) // 15)[patients], patients)
    assert not table["flagged"].any()


def test_one_level_for_each_patient_says_nothing():
    patients = np.repeat(np.arange(20), 3)
    facts = pd.DataFrame({"accession": [f"A-{p}" for p in patients]})
    row = audit_shortcuts(facts, patients % 2, patients).iloc[0]
    assert (row["auc"], row["kind"], row["flagged"]) == (0.5, "categorical", False)
    assert np.isnan(row["low"])
    assert "one patient" in row["method"]


def test_a_constant_fact_has_a_half():
    table = audit_shortcuts(
        pd.DataFrame({"a": 1.0, "b": "x", "c": None}, index=range(8)), [0, 1] * 4, range(8)
    )  # fmt: skip
    assert (table[["auc", "low", "high"]] == 0.5).all(axis=None)
    assert set(table["method"]) == {"constant fact"}


def test_a_header_field_of_the_site_is_flagged_with_what_cannot_be_removed():
    rng = np.random.default_rng(1)
    y = np.arange(60) % 2
    site = np.where(rng.random(60) < 0.1, rng.choice(["A", "B"], 60), np.where(y, "A", "B"))
    row = audit_shortcuts(pd.DataFrame({"site": site}), y, np.arange(60)).iloc[0]
    assert row["auc"] > 0.85
    assert row["flagged"]
    assert row["remedy"] == OTHER_REMEDY


@pytest.mark.parametrize("kind", ["number", "text"])
def test_a_missing_value_is_a_level_of_its_own(kind):
    y = np.arange(40) % 2
    values = np.random.default_rng(2).integers(0, 3, 40)
    column = pd.Series(values, dtype=float) if kind == "number" else pd.Series(values).map({0: "a", 1: "b", 2: "c"})
    row = audit_shortcuts(pd.DataFrame({"tag": column.where(y == 1)}), y, np.arange(40)).iloc[0]
    assert row["kind"] == ("numeric" if kind == "number" else "categorical")
    assert row["auc"] > 0.95


@pytest.mark.parametrize("direction", [1, -1])
def test_numbers_count_in_either_direction_and_at_both_ends(direction):
    rng = np.random.default_rng(4)
    y = np.arange(100) % 2
    facts = pd.DataFrame({"one_way": direction * (rng.normal(size=100) + 3 * y)})
    facts["levels"] = np.where(y, rng.choice([128, 512], 100), rng.choice([256, 1024], 100))
    facts["both_ends"] = rng.normal(size=100) + np.where(y, rng.choice([-6, 6], 100), 0)
    table = audit_shortcuts(facts, y, np.arange(100))
    assert (table["auc"] > 0.9).all()


def test_scores_of_a_continuous_fact_come_near_its_own_auc():
    # Two normal distributions 1.19 standard deviations apart: an AUC of 0.80.
    rng = np.random.default_rng(5)
    y = np.arange(400) % 2
    row = audit_shortcuts(pd.DataFrame({"mean_grey": rng.normal(size=400) + 1.19 * y}), y, np.arange(400)).iloc[0]
    assert row["auc"] == pytest.approx(0.80, abs=0.05)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["512", "630", "512.5", ""], "numeric"),
        (["2020-01-05", "2021-03-04", "2019-12-31", None], "numeric"),
        (pd.to_datetime(["2020-01-05", "2021-03-04", "2019-12-31", None]), "numeric"),
        (["GE", "Siemens", "GE", "n/a"], "categorical"),
        ([True, False, True, True], "categorical"),
        ([1.0, np.inf, 2.0, np.nan], "numeric"),
    ],
)
def test_text_that_holds_numbers_or_dates_is_numeric(values, kind):
    facts = pd.DataFrame({"field": pd.Series(list(values) * 4)})
    row = audit_shortcuts(facts, [0, 0, 1, 1] * 4, range(16)).iloc[0]
    assert row["kind"] == kind


def test_with_several_classes_the_best_separated_one_is_reported():
    rng = np.random.default_rng(6)
    y = np.array(["CT", "MR", "PET"])[np.arange(90) % 3]
    facts = pd.DataFrame({"rows": np.where(y == "PET", 128.0, 512.0), "noise": rng.normal(size=90)})
    table = audit_shortcuts(facts, y, np.arange(90) // 3)
    rows, noise = row_of(table, "rows"), row_of(table, "noise")
    assert (rows["class"], rows["auc"], rows["flagged"]) == ("PET", 1.0, True)
    assert not noise["flagged"]
    assert "highest of 3" in rows["method"]
    assert table["fact"].tolist() == ["rows", "noise"]


def test_a_fact_that_only_differs_between_patients_cannot_tell_their_own_images_apart():
    # Every patient has an image of each class, as with CT, MR and PET of one examination.
    patients = np.repeat(np.arange(12), 3)
    table = audit_shortcuts(pd.DataFrame({"site": patients % 4, "age": 40 + patients}), ["a", "b", "c"] * 12, patients)
    assert table["auc"].tolist() == [0.5, 0.5]
    assert not table["flagged"].any()


def test_the_same_seed_gives_the_same_table_and_the_input_stays():
    rng = np.random.default_rng(7)
    facts = pd.DataFrame({"a": rng.normal(size=30), "b": rng.choice(["x", "y"], 30)})
    kept = facts.copy()
    first, second = (audit_shortcuts(facts, np.arange(30) % 2, np.arange(30) // 2, seed=5) for _ in range(2))
    pd.testing.assert_frame_equal(first, second)
    pd.testing.assert_frame_equal(facts, kept)
    assert audit_shortcuts(facts, np.arange(30) % 2, np.arange(30) // 2, columns=["b"])["fact"].tolist() == ["b"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": [0, 0, 0, 0, 0, 1]}, "class '1' has one patient"),
        ({"y": [0] * 6}, "one class only"),
        ({"y": [0, 1, 0]}, "6 images"),
        ({"y": [0, 1, None, 1, 0, 1]}, "1 missing"),
        ({"y": pd.Series([0, 1, 0, 1, 0, 1], index=range(10, 16))}, "index of y"),
        ({"patients": [1, 2, None, 4, 5, 6]}, "patient"),
        ({"columns": ["row"]}, "Did you mean 'rows'"),
        ({"limit": 1.2}, "limit"),
        ({"level": 95}, "level"),
        ({"facts": pd.DataFrame(index=range(6))}, "found none"),
    ],
)
def test_tables_that_cannot_be_audited_are_refused(change, message):
    good = {"facts": pd.DataFrame({"rows": range(6)}), "y": [0, 1] * 3, "patients": range(6)}
    with pytest.raises(InputError, match=message):
        audit_shortcuts(**(good | change))
