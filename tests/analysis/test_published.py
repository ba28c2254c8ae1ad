"""Published figures beside ours: the right row of ours, percentages as printed, a gap where we have nothing."""

import numpy as np
import pandas as pd
import pytest

from hybrid.analysis.published import PUBLISHED_COLUMNS, SYSTEMS, published_table, published_view
from hybrid.errors import InputError


@pytest.fixture
def overlap():
    rows = [
        ("test", "kidney_and_mass", "dice", 0.95, 0.94, 0.96, 60),
        ("test", "mass", "iou", 0.4, 0.3, 0.5, 60),
        ("test", "mass", "dice", 0.8, 0.7, 0.9, 60),
        ("external", "mass", "dice", 0.6, 0.5, 0.7, 60),
        ("train", "lesion", "dice", 0.9, 0.85, 0.95, 20),
    ]
    return pd.DataFrame(rows, columns=["split", "structure", "metric", "mean", "ci_low", "ci_high", "n_cases"])


@pytest.fixture
def detection():
    rows = [("test", "all", 0.85, 0.8, 0.9, 100), ("test", "< 5 mm", 0.1, 0.0, 0.2, 10)]
    return pd.DataFrame(rows, columns=["split", "stratum", "recall", "ci_low", "ci_high", "n_lesions"])


def test_each_published_figure_meets_the_row_of_the_judged_set(overlap, detection):
    table = published_table("renal_mass", split="test", overlap=overlap, detection=detection)
    assert list(table.columns) == list(PUBLISHED_COLUMNS)
    own = table.set_index("figure")["value"]
    assert own["Dice, kidneys"] == 0.95
    assert own["Dice, masses"] == 0.8
    assert own["Lesion recall"] == 0.85
    assert np.isnan(own["Accuracy of the class, below 5 mm"])
    assert published_table("renal_mass", split="external", overlap=overlap).set_index("figure").loc[
        "Dice, masses", ["published_low", "published_high", "value"]
    ].tolist() == [0.75, 0.83, 0.6]


def test_a_figure_of_the_training_set_is_not_taken_from_the_test_set(overlap):
    table = published_table("lesion_mri", split="test", overlap=overlap).set_index("figure")
    assert table.loc["Dice, training patients", ["published_low", "value"]].tolist() == [0.9975, 0.9]
    assert np.isnan(table.loc["Dice, test patients", "value"])


def test_the_report_prints_the_figures_as_their_source_does(overlap, detection):
    view = published_view(
        "renal_mass", published_table("renal_mass", split="test", overlap=overlap, detection=detection)
    )
    shown = {row.cells[0].text: (row.cells[1].text, row.cells[2].text, row.cells[2].below) for row in view.rows}
    assert shown["Dice, masses"] == ("0.75 and 0.83", "0.800", "0.700–0.900; 60 cases")
    assert shown["Lesion recall"] == ("75.90 % and 84.54 %", "85.0 %", "80.0–90.0; 100 lesions")
    assert shown["Accuracy of the class, 5 mm or more"] == ("91.97 %", "–", "")
    assert "doi:" in view.note


def test_an_unknown_system_is_refused_with_the_known_ones(overlap):
    with pytest.raises(InputError, match="renal_mass"):
        published_table("renal_mas", split="test", overlap=overlap)
    assert set(SYSTEMS) == {"renal_mass", "transfer", "lesion_mri"}
