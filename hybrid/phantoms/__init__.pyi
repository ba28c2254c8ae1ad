from .lesions import LesionProperties, draw_properties, paint_lesion
from .malformation import simulate_malformation_cohort, simulate_malformation_patient
from .painted import STYLES, PaintedCase, ScanStyle, paint_ct, simulate_painted_cohort
from .prostate import PROSTATE_SITES, simulate_prostate_cohort, simulate_prostate_patient
from .renal import SITES, TRIVIAL_BASELINES, simulate_renal_cohort, simulate_renal_patient

__all__ = [
    "PROSTATE_SITES",
    "SITES",
    "STYLES",
    "TRIVIAL_BASELINES",
    "LesionProperties",
    "PaintedCase",
    "ScanStyle",
    "draw_properties",
    "paint_ct",
    "paint_lesion",
    "simulate_malformation_cohort",
    "simulate_malformation_patient",
    "simulate_painted_cohort",
    "simulate_prostate_cohort",
    "simulate_prostate_patient",
    "simulate_renal_cohort",
    "simulate_renal_patient",
]
