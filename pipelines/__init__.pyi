from .config import StudyConfig
from .demo import run_demo
from .evaluate import cross_validate, permutation_null
from .evaluate_masks import evaluate_masks
from .extract import extract_features
from .files import read_features, read_predictions
from .models import FrozenModel, fit_model, load_model, validate_model
from .resample import DeclaredPipeline, bootstrap_632, leave_pair_out, optimism_bootstrap
from .runner import Task, run_cases, run_tasks
from .segment import segment_cohort
from .study import fit_study, run_study, validate_study
from .systems.lesion_mri import run_lesion_mri
from .systems.renal_mass import run_renal_mass, train_cascade
from .systems.transfer import TransferStudy
from .train import train_segmenter
from .train_classifier import train_classifier

__all__ = [
    "DeclaredPipeline",
    "FrozenModel",
    "StudyConfig",
    "Task",
    "TransferStudy",
    "bootstrap_632",
    "cross_validate",
    "evaluate_masks",
    "extract_features",
    "fit_model",
    "fit_study",
    "leave_pair_out",
    "load_model",
    "optimism_bootstrap",
    "permutation_null",
    "read_features",
    "read_predictions",
    "run_cases",
    "run_demo",
    "run_lesion_mri",
    "run_renal_mass",
    "run_study",
    "run_tasks",
    "segment_cohort",
    "train_cascade",
    "train_classifier",
    "train_segmenter",
    "validate_model",
    "validate_study",
]
