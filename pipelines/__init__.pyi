from .config import StudyConfig
from .demo import run_demo, run_system_demo
from .evaluate import cross_validate, permutation_null
from .evaluate_masks import evaluate_masks
from .explain_lesions import explain_lesions
from .explain_models import explain_models
from .extract import extract_features
from .files import read_features, read_predictions
from .models import FrozenModel, fit_model, load_model, validate_model
from .resample import DeclaredPipeline, bootstrap_632, leave_pair_out, optimism_bootstrap
from .runner import Task, run_cases, run_tasks
from .segment import segment_cohort
from .sequence_id import identify_sequences, require_sequence
from .slice_ct import find_in_slices
from .small_sample import SmallSampleSettings, run_small_sample
from .study import fit_study, run_study, validate_study
from .survival import cross_validate_survival, run_survival, survival_null
from .survival_models import FrozenSurvivalModel, fit_survival, load_survival
from .survival_validation import fit_survival_study, validate_survival
from .systems.head_slices import run_head_ct_study
from .systems.lesion_mri import run_lesion_mri
from .systems.renal_mass import run_renal_mass, train_cascade
from .systems.sequences import run_sequence_study
from .systems.transfer import TransferStudy
from .systems.transfer_features import classify_transfer
from .train import train_segmenter
from .train_classifier import train_classifier

__all__ = [
    "DeclaredPipeline",
    "FrozenModel",
    "FrozenSurvivalModel",
    "SmallSampleSettings",
    "StudyConfig",
    "Task",
    "TransferStudy",
    "bootstrap_632",
    "classify_transfer",
    "cross_validate",
    "cross_validate_survival",
    "evaluate_masks",
    "explain_lesions",
    "explain_models",
    "extract_features",
    "find_in_slices",
    "fit_model",
    "fit_study",
    "fit_survival",
    "fit_survival_study",
    "identify_sequences",
    "leave_pair_out",
    "load_model",
    "load_survival",
    "optimism_bootstrap",
    "permutation_null",
    "read_features",
    "read_predictions",
    "require_sequence",
    "run_cases",
    "run_demo",
    "run_head_ct_study",
    "run_lesion_mri",
    "run_renal_mass",
    "run_sequence_study",
    "run_small_sample",
    "run_study",
    "run_survival",
    "run_system_demo",
    "run_tasks",
    "segment_cohort",
    "survival_null",
    "train_cascade",
    "train_classifier",
    "train_segmenter",
    "validate_model",
    "validate_study",
    "validate_survival",
]
