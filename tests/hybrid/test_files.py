import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk

from hybrid.files import replacing, write_csv, write_text
from hybrid.images import read_image, write_image


def _write_half(path):
    with replacing(path) as partial:
        partial.write_text("hal", encoding="utf-8")
        raise ValueError("The second half is missing.")


def test_a_file_that_could_not_be_written_leaves_the_old_one(tmp_path):
    path = write_text("whole\n", tmp_path / "new" / "table.csv")
    with pytest.raises(ValueError, match="second half"):
        _write_half(path)
    assert path.read_text(encoding="utf-8") == "whole\n"
    assert list(path.parent.iterdir()) == [path]


def test_two_writers_of_one_file_have_names_of_their_own(tmp_path):
    path = tmp_path / "scan.nii.gz"
    with replacing(path) as first, replacing(path) as second:
        assert first != second
        assert first.parent == second.parent == tmp_path
        assert {"".join(name.suffixes) for name in (first, second)} == {".nii.gz"}
        first.write_text("first", encoding="utf-8")
        second.write_text("second", encoding="utf-8")
    assert path.read_text(encoding="utf-8") == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_tables_keep_every_digit_and_the_same_line_ends_everywhere(tmp_path):
    table = pd.DataFrame({"name": ["ä", "b"], "value": [0.1 + 0.2, 1e-17]})
    path = write_csv(table, tmp_path / "table.csv")
    assert path.read_bytes() == "name,value\nä,0.30000000000000004\nb,1e-17\n".encode()


def test_images_are_written_in_the_format_of_their_ending(tmp_path):
    path = write_image(sitk.GetImageFromArray(np.ones((3, 2, 4), np.uint8)), tmp_path / "a" / "m.nii.gz")
    assert read_image(path).GetSize() == (4, 2, 3)
    assert [file.name for file in path.parent.iterdir()] == ["m.nii.gz"]
