from .lesions import LesionProperties, draw_properties, paint_lesion
from .renal import SITES, TRIVIAL_BASELINES, simulate_renal_cohort, simulate_renal_patient

__all__ = [
    "SITES",
    "TRIVIAL_BASELINES",
    "LesionProperties",
    "draw_properties",
    "paint_lesion",
    "simulate_renal_cohort",
    "simulate_renal_patient",
]
