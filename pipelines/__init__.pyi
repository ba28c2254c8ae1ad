from .demo import run_demo
from .evaluate import cross_validate, fit_model, load_model, permutation_null, validate_model
from .extract import extract_features
from .runner import Task, run_cases, run_tasks
from .study import StudyConfig, run_study

__all__ = [
    "StudyConfig",
    "Task",
    "cross_validate",
    "extract_features",
    "fit_model",
    "load_model",
    "permutation_null",
    "run_cases",
    "run_demo",
    "run_study",
    "run_tasks",
    "validate_model",
]
