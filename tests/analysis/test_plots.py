"""Figures: what is drawn equals the tables, nothing global is touched, legends keep off the data."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from hybrid.analysis import (
    auc,
    calibration_curves,
    compare_models,
    evaluate_models,
    plot_auc,
    plot_calibration,
    plot_forest,
    plot_probabilities,
    plot_roc,
    roc_curves,
)
from hybrid.errors import InputError

FAST = {"n_bootstrap": 100}


@pytest.fixture
def ax():
    return Figure(figsize=(3.5, 4.5), layout="constrained").add_subplot()


def test_mean_curve_of_one_repeat_passes_through_the_attainable_points():
    table = pd.DataFrame({"case_id": list("abcd"), "y_true": [0, 1, 0, 1], "y_prob": [0.1, 0.4, 0.6, 0.9]})
    curve = roc_curves(table, **FAST).set_index("false_positive_rate")["sensitivity"]
    assert curve[0.0] == 0.5
    assert curve[0.49] == 0.5
    assert curve[0.5] == 1.0
    assert curve[1.0] == 1.0


def test_area_under_the_mean_curve_is_close_to_the_mean_auc(small_predictions):
    model = small_predictions.query("feature_set == 'deep' and classifier == 'logistic'")
    curve = roc_curves(model, **FAST)
    repeats = [auc(part["y_true"], part["y_prob"]) for _, part in model.groupby("repeat")]
    assert curve["auc"].iloc[0] == pytest.approx(np.mean(repeats), abs=1e-12)
    area = np.trapezoid(curve["sensitivity"], curve["false_positive_rate"])
    assert area == pytest.approx(np.mean(repeats), abs=0.01)


def test_band_contains_the_curve(small_predictions):
    curves = roc_curves(small_predictions, n_bootstrap=400)
    inside = (curves["lower"] <= curves["sensitivity"] + 1e-9) & (curves["sensitivity"] <= curves["upper"] + 1e-9)
    assert inside.all()


def test_roc_draws_the_selected_models_with_auc_and_interval(small_predictions, ax):
    plot_roc(small_predictions, ax=ax, **FAST)
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert [text.split(":")[0] for text in texts] == ["handcrafted", "deep", "fused", "Chance"]
    found = evaluate_models(small_predictions, **FAST)
    row = found[(found["feature_set"] == "deep") & (found["classifier"] == "selected")].iloc[0]
    assert f"{row['estimate']:.2f} ({row['lower']:.2f}–{row['upper']:.2f})" in texts[1]


@pytest.mark.parametrize("plot", [plot_roc, plot_calibration, plot_probabilities])
def test_legend_never_covers_the_data(small_predictions, ax, plot):
    plot(small_predictions, ax=ax)
    renderer = ax.figure.canvas.get_renderer() if hasattr(ax.figure.canvas, "get_renderer") else None
    ax.figure.draw_without_rendering()
    assert ax.get_legend().get_window_extent(renderer).y1 < ax.get_window_extent(renderer).y0


def test_models_can_be_named(small_predictions, ax):
    plot_roc(small_predictions, ax=ax, models=[("deep", "logistic"), ("fused", "random_forest")], **FAST)
    assert [text.get_text().split(":")[0] for text in ax.get_legend().get_texts()][:2] == [
        "deep / logistic", "fused / random_forest",
    ]  # fmt: skip


def test_a_feature_set_stands_for_the_classifier_chosen_in_the_inner_loop(small_predictions, ax):
    plot_roc(small_predictions, ax=ax, models=["deep"], **FAST)
    curves = roc_curves(small_predictions, models=["deep"], **FAST)
    assert set(curves["classifier"]) == {"selected"}
    alone = small_predictions[small_predictions["classifier"] != "selected"]
    with pytest.raises(InputError, match="'deep' has 2 classifiers"):
        plot_roc(alone, models=["deep"], **FAST)


def test_a_misspelt_model_names_the_nearest(small_predictions):
    with pytest.raises(InputError, match="Did you mean 'deep / logistic'"):
        plot_roc(small_predictions, models=[("deep", "logistik")], **FAST)


def test_more_curves_than_colours_must_be_chosen(make_predictions):
    table = make_predictions(classifiers=("a", "b", "c"), repeats=1)
    with pytest.raises(InputError, match="9 curves cannot be told apart"):
        plot_roc(table, **FAST)


def test_forest_has_one_row_per_model(small_predictions, ax):
    plot_auc(evaluate_models(small_predictions, **FAST), ax=ax)
    assert len(ax.get_yticklabels()) == 9
    assert ax.get_yticklabels()[0].get_text() == "handcrafted / logistic"


def test_comparison_plots_its_models(small_predictions, make_null, ax):
    result = compare_models(small_predictions, null=make_null(), **FAST)
    assert result.plot(ax) is ax
    assert [text.get_text() for text in ax.get_yticklabels()] == ["handcrafted", "deep", "fused"]
    assert plot_forest is plot_auc


def test_calibration_bins_hold_every_row_and_the_observed_rate(small_predictions):
    model = small_predictions.query("feature_set == 'deep' and classifier == 'logistic'")
    curve = calibration_curves(model, n_bins=4)
    assert curve["n_rows"].sum() == 26
    assert (curve["observed"] * curve["n_rows"]).sum() == pytest.approx(8)
    assert curve["predicted"].is_monotonic_increasing
    assert ((curve["lower"] <= curve["observed"]) & (curve["observed"] <= curve["upper"])).all()


def test_constant_probabilities_have_one_calibration_bin():
    table = pd.DataFrame({"case_id": [f"c{i}" for i in range(20)], "y_true": [0, 1] * 10, "y_prob": 0.4})
    curve = calibration_curves(table)
    assert curve[["predicted", "observed", "n_rows"]].to_numpy().tolist() == [[pytest.approx(0.4), 0.5, 20]]


def test_new_figures_leave_the_settings_of_the_user_alone(small_predictions):
    from matplotlib import pyplot as plt

    before = dict(mpl.rcParams)
    axes = plot_roc(small_predictions, **FAST)
    assert dict(mpl.rcParams) == before
    assert axes.figure.get_size_inches()[0] == pytest.approx(3.5)
    plt.close(axes.figure)
