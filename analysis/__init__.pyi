from .compare import Comparison, compare_models
from .describe import describe_cohort, describe_features, format_description
from .metrics import confusion, evaluate_models
from .plots import calibration_curves, plot_auc, plot_calibration, plot_forest, plot_probabilities, plot_roc, roc_curves
from .report import Report
from .resampling import bootstrap
from .roc import DelongTest, auc, delong_covariance, delong_interval, delong_test, roc_points

__all__ = [
    "Comparison",
    "DelongTest",
    "Report",
    "auc",
    "bootstrap",
    "calibration_curves",
    "compare_models",
    "confusion",
    "delong_covariance",
    "delong_interval",
    "delong_test",
    "describe_cohort",
    "describe_features",
    "evaluate_models",
    "format_description",
    "plot_auc",
    "plot_calibration",
    "plot_forest",
    "plot_probabilities",
    "plot_roc",
    "roc_curves",
    "roc_points",
]
