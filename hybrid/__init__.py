"""Handcrafted radiomics and 3D deep features, compared honestly.

One case or one table at a time: cases, images, features, classifiers. Whole cohorts are run by :mod:`hybrid.pipelines`,
statistics and reports are made by :mod:`hybrid.analysis`. Names are loaded on first use (see ``__init__.pyi``).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
