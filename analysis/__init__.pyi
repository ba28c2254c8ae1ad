from .compare import Comparison, compare_models
from .conventions import CONVENTIONS, by_convention
from .describe import describe_cohort, describe_features, format_description
from .detection import classification_by_size, detection_table, froc, recall_by_diameter
from .interop import read_kits_csv, read_nnunet_summary, write_kits_csv, write_nnunet_summary
from .mask_plots import (
    plot_bland_altman,
    plot_dice_box,
    plot_froc,
    plot_gap,
    plot_overlays,
    plot_recall_by_diameter,
    plot_training_curves,
)
from .mask_report import MaskReport
from .metrics import confusion, evaluate_models
from .overlap import bland_altman, gap_by_training_size, generalisation_gap, summarise_overlap
from .plots import calibration_curves, plot_auc, plot_calibration, plot_forest, plot_probabilities, plot_roc, roc_curves
from .report import Report
from .resampling import bootstrap
from .roc import DelongTest, auc, delong_covariance, delong_interval, delong_test, roc_points

__all__ = [
    "CONVENTIONS",
    "Comparison",
    "DelongTest",
    "MaskReport",
    "Report",
    "auc",
    "bland_altman",
    "bootstrap",
    "by_convention",
    "calibration_curves",
    "classification_by_size",
    "compare_models",
    "confusion",
    "delong_covariance",
    "delong_interval",
    "delong_test",
    "describe_cohort",
    "describe_features",
    "detection_table",
    "evaluate_models",
    "format_description",
    "froc",
    "gap_by_training_size",
    "generalisation_gap",
    "plot_auc",
    "plot_bland_altman",
    "plot_calibration",
    "plot_dice_box",
    "plot_forest",
    "plot_froc",
    "plot_gap",
    "plot_overlays",
    "plot_probabilities",
    "plot_recall_by_diameter",
    "plot_roc",
    "plot_training_curves",
    "read_kits_csv",
    "read_nnunet_summary",
    "recall_by_diameter",
    "roc_curves",
    "roc_points",
    "summarise_overlap",
    "write_kits_csv",
    "write_nnunet_summary",
]
