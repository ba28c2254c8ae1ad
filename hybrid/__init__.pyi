from .cases import Case, Cohort
from .classifiers import CLASSIFIERS, make_classifier
from .errors import GeometryError, HybridError, InputError, LeakageError, MissingDependencyError, WeightsError
from .images import read_image, read_mask, write_image
from .provenance import versions

__all__ = [
    "CLASSIFIERS",
    "Case",
    "Cohort",
    "GeometryError",
    "HybridError",
    "InputError",
    "LeakageError",
    "MissingDependencyError",
    "WeightsError",
    "make_classifier",
    "read_image",
    "read_mask",
    "versions",
    "write_image",
]
