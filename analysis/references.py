"""The papers and programs that methods rest on, numbered in the order in which a text cites them."""

from __future__ import annotations

from typing import Final

REFERENCES: Final = {
    "pyradiomics": (
        "van Griethuysen et al. Computational radiomics system to decode the radiographic phenotype. Cancer Res 2017",
        "https://doi.org/10.1158/0008-5472.CAN-17-0339",
    ),
    "ibsi": (
        "Zwanenburg et al. The Image Biomarker Standardization Initiative. Radiology 2020",
        "https://doi.org/10.1148/radiol.2020191145",
    ),
    "monai": (
        "Cardoso et al. MONAI: an open-source framework for deep learning in healthcare. 2022",
        "https://doi.org/10.48550/arXiv.2211.02701",
    ),
    "resnet": (
        "He et al. Deep residual learning for image recognition. CVPR 2016",
        "https://doi.org/10.1109/CVPR.2016.90",
    ),
    "sklearn": (
        "Pedregosa et al. Scikit-learn: machine learning in Python. J Mach Learn Res 2011;12:2825",
        "https://jmlr.org/papers/v12/pedregosa11a.html",
    ),
    "nested": (
        "Varma, Simon. Bias in error estimation when using cross-validation for model selection. BMC Bioinform 2006",
        "https://doi.org/10.1186/1471-2105-7-91",
    ),
    "permutation": (
        "Ojala, Garriga. Permutation tests for studying classifier performance. J Mach Learn Res 2010;11:1833",
        "https://jmlr.org/papers/v11/ojala10a.html",
    ),
    "delong": (
        "DeLong, DeLong, Clarke-Pearson. Comparing the areas under two or more correlated ROC curves. Biometrics 1988",
        "https://doi.org/10.2307/2531595",
    ),
    "sun": (
        "Sun, Xu. Fast implementation of DeLong's algorithm. IEEE Signal Process Lett 2014",
        "https://doi.org/10.1109/LSP.2014.2337313",
    ),
    "bca": (
        "Efron. Better bootstrap confidence intervals. J Am Stat Assoc 1987",
        "https://doi.org/10.1080/01621459.1987.10478410",
    ),
    "davison": (
        "Davison, Hinkley. Bootstrap methods and their application. Cambridge University Press 1997",
        "https://doi.org/10.1017/CBO9780511802843",
    ),
    "holm": (
        "Holm. A simple sequentially rejective multiple test procedure. Scand J Stat 1979;6:65",
        "https://www.jstor.org/stable/4615733",
    ),
    "clopper": (
        "Clopper, Pearson. The use of confidence or fiducial limits. Biometrika 1934",
        "https://doi.org/10.1093/biomet/26.4.404",
    ),
    "brier": (
        "Brier. Verification of forecasts expressed in terms of probability. Mon Weather Rev 1950",
        "https://doi.org/10.1175/1520-0493(1950)078%3C0001:VOFEIT%3E2.0.CO;2",
    ),
    "kappa": (
        "Cohen. A coefficient of agreement for nominal scales. Educ Psychol Meas 1960",
        "https://doi.org/10.1177/001316446002000104",
    ),
    "smd": (
        "Austin. Balance diagnostics for comparing the distribution of baseline covariates. Stat Med 2009",
        "https://doi.org/10.1002/sim.3697",
    ),
}
"""Key to citation and address."""


class Citations:
    """Numbers references in the order of their first citation."""

    def __init__(self) -> None:
        self._keys: list[str] = []

    def __call__(self, *keys: str) -> str:
        """Return the citation of some references as text, for example ``"[3, 4]"``."""
        for key in keys:
            if key not in self._keys:
                self._keys.append(key)
        return f"[{', '.join(str(self._keys.index(key) + 1) for key in keys)}]"

    def entries(self) -> list[tuple[int, str, str]]:
        """Return number, citation and address of everything that was cited."""
        return [(i + 1, *REFERENCES[key]) for i, key in enumerate(self._keys)]
