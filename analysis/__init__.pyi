from .agreement import cochran_q, cohen_kappa, cohen_kappa_table, mcnemar, mcnemar_predictions
from .auc_inference import (
    auc_difference_power,
    auc_intervals,
    auc_power,
    pilot_difference_power,
    pilot_difference_sample_size,
    sample_size_auc,
    sample_size_auc_difference,
    unpaired_delong_from_summary,
    unpaired_delong_test,
)
from .calibration import (
    brier_score,
    calibration_errors,
    calibration_metrics,
    calibration_smooth,
    hosmer_lemeshow,
    log_loss,
    logistic_recalibration,
    plot_calibration_smooth,
    spiegelhalter_test,
)
from .checklists import fill_checklist, summarise_checklist, write_checklists
from .clustered import clustered_auc, clustered_auc_test
from .compare import Comparison, compare_models
from .conventions import CONVENTIONS, by_convention
from .cut_offs import (
    at_cut_off,
    cut_off_table,
    optimal_cut_off,
    optimal_cut_off_intervals,
    sensitivity_at_specificity,
    specificity_at_sensitivity,
)
from .describe import describe_by_split, describe_cohort, describe_features, format_description
from .design_checks import check_design
from .detection import classification_by_size, detection_table, froc, recall_by_diameter
from .exports import export_report
from .importance import choice_stability, feature_importance, plot_importance, plot_shap
from .interop import read_kits_csv, read_nnunet_summary, write_kits_csv, write_nnunet_summary
from .many_models import (
    bayesian_correlated_t,
    corrected_resampled_t,
    critical_difference,
    friedman,
    nemenyi,
    plot_critical_difference,
)
from .mask_plots import (
    plot_bland_altman,
    plot_dice_box,
    plot_froc,
    plot_gap,
    plot_overlays,
    plot_recall_by_diameter,
    plot_training_curves,
)
from .lesion_map_report import LesionMapReport
from .mask_report import MaskReport
from .metrics import confusion, evaluate_models
from .model_agreement import compare_all_calls, compare_calls
from .model_family import compare_family, rank_models
from .multiclass import hand_till, multiclass_aucs
from .multiplicity import adjust
from .overlap import bland_altman, gap_by_training_size, generalisation_gap, summarise_overlap
from .partial_auc import partial_auc, partial_auc_difference, partial_auc_intervals
from .per_class import choose_abstention, confusion_table, coverage_table, per_class_table, per_group_table
from .planning_part import plan_next_study
from .plots import calibration_curves, plot_auc, plot_calibration, plot_forest, plot_probabilities, plot_roc, roc_curves
from .reliability import concordance, icc, limits_of_agreement, selection_stability, stack_raters, univariate_screening
from .report import Report
from .resampling import bootstrap
from .roc import DelongTest, auc, delong_covariance, delong_interval, delong_pairs, delong_test, roc_points
from .sample_size import sample_size_binary, sample_size_continuous, sample_size_survival, sample_size_verdict
from .sequence_report import SequenceReport
from .shortcut_audit import audit_shortcuts
from .site_part import compare_sites
from .slice_report import SliceReport
from .small_sample_report import SmallSampleReport
from .survival import (
    brier_survival,
    concordance_difference,
    concordance_index,
    concordance_interval,
    integrated_brier,
    survival_auc,
    uno_concordance,
)
from .survival_calibration import calibrate_survival, calibration_groups, compare_survival_validation
from .survival_curves import hazard_ratio, kaplan_meier, log_rank, median_survival, restricted_mean
from .survival_plots import plot_kaplan_meier, plot_survival_auc, plot_survival_calibration
from .survival_report import SurvivalReport
from .survival_tables import compare_survival, evaluate_survival
from .transfer import contrast_arms, contrast_values, summarise_arms
from .transfer_report import TransferReport
from .usefulness import (
    compare_reclassification,
    decision_curve,
    decision_curve_survival,
    net_benefit,
    net_benefit_difference,
    plot_decision_curve,
    reclassification,
    reclassification_table,
)
from .validation import compare_validation, compare_validation_auc, measure_validation

__all__ = [
    "CONVENTIONS",
    "Comparison",
    "DelongTest",
    "LesionMapReport",
    "MaskReport",
    "Report",
    "SequenceReport",
    "SliceReport",
    "SmallSampleReport",
    "SurvivalReport",
    "TransferReport",
    "adjust",
    "at_cut_off",
    "auc",
    "auc_difference_power",
    "auc_intervals",
    "auc_power",
    "audit_shortcuts",
    "bayesian_correlated_t",
    "bland_altman",
    "bootstrap",
    "brier_score",
    "brier_survival",
    "by_convention",
    "calibrate_survival",
    "calibration_curves",
    "calibration_errors",
    "calibration_groups",
    "calibration_metrics",
    "calibration_smooth",
    "check_design",
    "choice_stability",
    "choose_abstention",
    "classification_by_size",
    "clustered_auc",
    "clustered_auc_test",
    "cochran_q",
    "cohen_kappa",
    "cohen_kappa_table",
    "compare_all_calls",
    "compare_calls",
    "compare_family",
    "compare_models",
    "compare_sites",
    "compare_reclassification",
    "compare_survival",
    "compare_survival_validation",
    "compare_validation",
    "compare_validation_auc",
    "concordance",
    "concordance_difference",
    "concordance_index",
    "concordance_interval",
    "confusion",
    "confusion_table",
    "contrast_arms",
    "contrast_values",
    "corrected_resampled_t",
    "coverage_table",
    "critical_difference",
    "cut_off_table",
    "decision_curve",
    "decision_curve_survival",
    "delong_covariance",
    "delong_interval",
    "delong_pairs",
    "delong_test",
    "describe_by_split",
    "describe_cohort",
    "describe_features",
    "detection_table",
    "evaluate_models",
    "evaluate_survival",
    "export_report",
    "feature_importance",
    "fill_checklist",
    "format_description",
    "friedman",
    "froc",
    "gap_by_training_size",
    "generalisation_gap",
    "hand_till",
    "hazard_ratio",
    "hosmer_lemeshow",
    "icc",
    "integrated_brier",
    "kaplan_meier",
    "limits_of_agreement",
    "log_loss",
    "log_rank",
    "logistic_recalibration",
    "mcnemar",
    "mcnemar_predictions",
    "measure_validation",
    "median_survival",
    "multiclass_aucs",
    "nemenyi",
    "net_benefit",
    "net_benefit_difference",
    "optimal_cut_off",
    "optimal_cut_off_intervals",
    "partial_auc",
    "partial_auc_difference",
    "partial_auc_intervals",
    "per_class_table",
    "per_group_table",
    "pilot_difference_power",
    "pilot_difference_sample_size",
    "plan_next_study",
    "plot_auc",
    "plot_bland_altman",
    "plot_calibration",
    "plot_calibration_smooth",
    "plot_critical_difference",
    "plot_decision_curve",
    "plot_dice_box",
    "plot_forest",
    "plot_froc",
    "plot_gap",
    "plot_importance",
    "plot_kaplan_meier",
    "plot_overlays",
    "plot_probabilities",
    "plot_recall_by_diameter",
    "plot_roc",
    "plot_shap",
    "plot_survival_auc",
    "plot_survival_calibration",
    "plot_training_curves",
    "rank_models",
    "read_kits_csv",
    "read_nnunet_summary",
    "recall_by_diameter",
    "reclassification",
    "reclassification_table",
    "restricted_mean",
    "roc_curves",
    "roc_points",
    "sample_size_auc",
    "sample_size_auc_difference",
    "sample_size_binary",
    "sample_size_continuous",
    "sample_size_survival",
    "sample_size_verdict",
    "selection_stability",
    "sensitivity_at_specificity",
    "specificity_at_sensitivity",
    "spiegelhalter_test",
    "stack_raters",
    "summarise_arms",
    "summarise_checklist",
    "summarise_overlap",
    "survival_auc",
    "univariate_screening",
    "uno_concordance",
    "unpaired_delong_from_summary",
    "unpaired_delong_test",
    "write_checklists",
    "write_kits_csv",
    "write_nnunet_summary",
]
