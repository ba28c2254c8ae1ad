"""Figures of masks and lesions: what is drawn equals the tables, nothing global is touched, legends stay inside."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot
from matplotlib.figure import Figure

from hybrid.analysis.detection import froc, recall_by_diameter
from hybrid.analysis.mask_plots import (
    plot_bland_altman,
    plot_dice_box,
    plot_froc,
    plot_gap,
    plot_overlays,
    plot_recall_by_diameter,
    plot_training_curves,
)
from hybrid.analysis.overlap import bland_altman, gap_by_training_size, generalisation_gap
from hybrid.errors import InputError
from hybrid.tables import MASK_COLUMNS


@pytest.fixture(scope="module")
def masks():
    """Two splits with ten patients each, three structures' Dice, volumes of one, a few lesions."""
    rng = np.random.default_rng(0)
    rows = []
    for split, level in (("train", 0.92), ("test", 0.8)):
        for i in range(10):
            head = (f"{split}{i}", f"{split}{i}", "A", split)
            for structure in ("kidney_and_mass", "mass", "tumor"):
                rows.append((*head, structure, "", "", "dice", level + 0.03 * rng.normal(), "kits"))
            volume = float(rng.uniform(5, 50))
            rows.append((*head, "mass", "", "", "reference_volume_ml", volume, "kits"))
            rows.append((*head, "mass", "", "", "predicted_volume_ml", volume + rng.normal(), "kits"))
            found, confidence = float(i > 2), float(rng.random())
            lesion = {"max_diameter_mm": 4.0 + 5 * i, "detected": found, "confidence": confidence if found else np.nan}
            wrong = {"max_diameter_mm": 5.0, "true_positive": 0.0, "confidence": confidence / 2}
            for name, measured in (("r1", lesion), ("p1", wrong)):
                rows += [(*head, "mass", name, "", metric, value, "any_overlap") for metric, value in measured.items()]
    return pd.DataFrame(rows, columns=list(MASK_COLUMNS))


@pytest.fixture
def ax():
    return Figure(figsize=(3.5, 3.6), layout="constrained").add_subplot()


def texts(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def slices(n=3):
    rng = np.random.default_rng(0)
    reference = np.zeros((20, 30), dtype=int)
    reference[5:12, 8:20] = 1
    return [
        {"case_id": f"case{i}", "title": title, "image": rng.normal(size=(20, 30)), "reference": reference,
         "prediction": np.roll(reference, i, axis=1), "spacing": (2.0, 1.0)}
        for i, title in zip(range(n), ("best", "median", "worst", "other"), strict=False)
    ]  # fmt: skip


def test_froc_draws_the_points_of_the_table(masks, ax):
    curve = froc(masks)
    assert plot_froc(curve, ax=ax) is ax
    assert texts(ax) == ["Train (10 lesions)", "Test (10 lesions)"]
    drawn = next(line for line in ax.lines if line.get_label().startswith("Test"))
    own = curve.points.query("split == 'test'")
    assert list(drawn.get_ydata()) == list(own["sensitivity"])
    assert list(drawn.get_xdata()) == list(own["fp_per_case"])


def test_froc_is_thin_behind_the_cut_off_of_the_model(masks, ax):
    first = masks[(masks["split"] == "test") & (masks["lesion_id"] != "")].iloc[0]
    rows = [{**first, "lesion_id": "d1", "metric": name, "value": value, "convention": "any_overlap"}
            for name, value in (("true_positive", 0.0), ("confidence", 1e-6))]  # fmt: skip
    curve = froc(pd.concat([masks, pd.DataFrame(rows)]))
    plot_froc(curve, ax=ax)
    own = curve.points.query("split == 'test'")
    thick, thin, dot = (line for line in ax.lines if line.get_color() == ax.lines[-1].get_color())
    assert list(thick.get_xdata()) == list(own["fp_per_case"][:-1])
    assert list(thin.get_xdata()) == list(own["fp_per_case"][-2:])
    assert thin.get_linewidth() < thick.get_linewidth()
    assert dot.get_xdata() == own["fp_per_case"].iloc[-2]


def test_recall_draws_each_bin_and_each_lesion(masks, ax):
    curve = recall_by_diameter(masks, n_bins=2)
    plot_recall_by_diameter(curve, ax=ax)
    drawn = next(line for line in ax.lines if line.get_label().startswith("Train"))
    assert list(drawn.get_ydata()) == list(curve.bins.query("split == 'train'")["recall"])
    ticks = [line for line in ax.lines if line.get_marker() == "|"]
    assert sum(len(line.get_xdata()) for line in ticks) == len(curve.points)


def test_dice_box_shows_every_case(masks, ax):
    plot_dice_box(masks, ax=ax)
    points = [line for line in ax.lines if line.get_marker() == "o"]
    assert sorted(np.concatenate([line.get_ydata() for line in points])) == sorted(
        masks.loc[masks["metric"] == "dice", "value"]
    )
    assert [label.get_text() for label in ax.get_xticklabels()] == ["kidney and mass", "mass", "tumor"]
    assert texts(ax) == ["Train", "Test"]


def test_box_of_an_absent_metric_is_refused(masks, ax):
    with pytest.raises(InputError, match="hd95_mm"):
        plot_dice_box(masks, metric="hd95_mm", ax=ax)


def test_bland_altman_draws_bias_and_limits(masks, ax):
    result = bland_altman(masks, "mass", split="test")
    plot_bland_altman(result, ax=ax)
    levels = {float(line.get_ydata()[0]) for line in ax.lines if len(line.get_ydata()) == 2}
    row = result.summary.iloc[0]
    assert {row["bias_ml"], row["lower_limit_ml"], row["upper_limit_ml"]} <= levels


def test_training_curves_leave_room_for_the_lines_beside_a_long_legend():
    epochs = pd.DataFrame({"epoch": range(1, 26), "train_dice": 0.8512, "validation_dice": 0.7512})
    epochs = epochs.assign(train_loss=1.2345, learning_rate=0.00123)
    figure = Figure(figsize=(3.5, 3.0), layout="constrained")
    ax = plot_training_curves(epochs, ax=figure.add_subplot())
    figure.canvas.draw()
    assert ax.get_position().width > 0.5


def test_a_ct_is_shown_with_a_soft_tissue_window_and_other_images_by_their_percentiles():
    ct, mr = slices(2)
    ct = {**ct, "image": np.where(np.asarray(ct["image"]) > np.median(ct["image"]), 50.0, -1000.0)}
    mr = {**mr, "image": np.linspace(0, 900, np.asarray(mr["image"]).size).reshape(np.shape(mr["image"]))}
    shown = [ax.images[0].get_clim() for ax in plot_overlays([ct, mr]).axes[:2]]
    assert shown[0] == (-160.0, 240.0)
    assert shown[1] == pytest.approx((9.0, 891.0))


def test_names_of_close_limits_do_not_overlap(masks, ax):
    flat = masks.copy()
    wide = flat["metric"] == "predicted_volume_ml"
    flat.loc[wide, "value"] = flat.loc[flat["metric"] == "reference_volume_ml", "value"].to_numpy() + 40
    flat.loc[np.flatnonzero(wide)[0], "value"] += 0.01
    plot_bland_altman(bland_altman(flat, structure="mass", split="test"), ax=ax)
    low, high = ax.get_ylim()
    places = sorted(text.xy[1] for text in ax.texts)
    assert len(places) == 3
    assert min(np.diff(places)) > 0.12 * (high - low)


def test_diameters_of_a_narrow_range_have_readable_ticks(masks, ax):
    narrow = masks.copy()
    diameters = narrow["metric"] == "max_diameter_mm"
    narrow.loc[diameters, "value"] = 26.2 + narrow.loc[diameters, "value"].rank() / 10
    plot_recall_by_diameter(recall_by_diameter(narrow), ax=ax)
    ax.figure.canvas.draw()
    shown = [label.get_text() for label in ax.get_xticklabels(which="both")]
    assert 1 <= len(shown) <= 6
    assert all(text.isdigit() for text in shown)


def test_training_curves_mark_the_best_validation_epoch(ax):
    curves = pd.DataFrame({
        "epoch": [0, 1, 2, 3], "train_dice": [0.1, 0.5, 0.8, 0.9], "validation_dice": [0.1, np.nan, 0.6, 0.5],
        "train_loss": [2.0, 1.0, 0.5, 0.2], "learning_rate": [0.01, 0.008, 0.004, 0.001],
    })  # fmt: skip
    plot_training_curves(curves, ax=ax)
    assert "Highest, epoch 2: 0.600" in texts(ax)
    loss = next(line for line in ax.lines if line.get_label().startswith("Training loss"))
    assert list(loss.get_ydata()) == [1.0, 0.5, 0.25, 0.1]
    assert loss.get_label() == "Training loss (1 = 2)"
    with pytest.raises(InputError, match="learning_rate"):
        plot_training_curves(curves.drop(columns="learning_rate"))


def test_gap_fills_flagged_points_only(masks, ax):
    loose, strict = (generalisation_gap(masks, structure="mass", threshold=t, n_boot=100) for t in (0.01, 0.5))
    plot_gap(pd.concat([loose.table, strict.table]), ax=ax)
    assert {"Overfitting flagged", "Not flagged"} <= set(texts(ax))
    flagged = next(line for line in ax.lines if line.get_label() == "Overfitting flagged")
    assert list(flagged.get_xdata()) == [loose.table["gap"].iloc[0]]
    assert flagged.get_markerfacecolor() != "white"


def test_gap_by_size_has_sizes_on_the_horizontal_axis(masks, ax):
    table = gap_by_training_size({10: masks, 40: masks}, structure="mass", n_boot=50)
    plot_gap(table, ax=ax)
    assert ax.get_xlabel() == "Training patients"
    assert [label.get_text() for label in ax.get_xticklabels()] == ["10", "40"]


def test_overlays_have_contours_of_both_masks_in_physical_aspect():
    figure = plot_overlays([*slices(3), *slices(1)])
    shown = [ax for ax in figure.axes if ax.images]
    assert len(shown) == 4
    assert shown[0].get_aspect() == 2.0
    assert all(len(ax.collections) == 2 for ax in shown)
    assert shown[2].get_title() == "worst\ncase2"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["Reference", "Prediction"]
    pyplot.close(figure)


def test_overlay_of_empty_masks_and_flat_image_is_drawn():
    item = slices(1)[0]
    empty = np.zeros_like(item["reference"])
    figure = plot_overlays([{**item, "prediction": empty, "reference": empty, "image": np.zeros((20, 30))}])
    figure.draw_without_rendering()
    pyplot.close(figure)


@pytest.mark.parametrize(
    "change", [{"reference": np.zeros((3, 3))}, {"spacing": (0.0, 1.0)}, {"image": np.zeros((2, 2, 2))}]
)
def test_slices_that_do_not_fit_are_refused(change):
    with pytest.raises(InputError, match="case0"):
        plot_overlays([{**slices(1)[0], **change}])


def test_slices_must_be_complete():
    with pytest.raises(InputError, match="spacing"):
        plot_overlays([{key: value for key, value in slices(1)[0].items() if key != "spacing"}])
    with pytest.raises(InputError, match="no slice"):
        plot_overlays([])


def test_new_figures_keep_their_legend_inside_and_touch_no_settings(masks):
    before = dict(mpl.rcParams)
    gap = generalisation_gap(masks, structure="mass", n_boot=50)
    axes = [
        plot_froc(froc(masks)),
        plot_recall_by_diameter(recall_by_diameter(masks)),
        plot_dice_box(masks),
        plot_gap(gap),
    ]
    for ax in axes:
        ax.figure.draw_without_rendering()
        box, page = ax.get_legend().get_window_extent(), ax.figure.bbox
        assert page.x0 <= box.x0
        assert box.x1 <= page.x1
        assert page.y0 <= box.y0
        pyplot.close(ax.figure)
    assert dict(mpl.rcParams) == before
