from .config import StudyConfig
from .demo import run_demo
from .evaluate import cross_validate, permutation_null
from .extract import extract_features
from .files import read_features, read_predictions
from .models import FrozenModel, fit_model, load_model, validate_model
from .runner import Task, run_cases, run_tasks
from .study import fit_study, run_study, validate_study

__all__ = [
    "FrozenModel",
    "StudyConfig",
    "Task",
    "cross_validate",
    "extract_features",
    "fit_model",
    "fit_study",
    "load_model",
    "permutation_null",
    "read_features",
    "read_predictions",
    "run_cases",
    "run_demo",
    "run_study",
    "run_tasks",
    "validate_model",
    "validate_study",
]
