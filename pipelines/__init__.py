"""The verbs that run over a whole cohort: everything that touches disk, time, cores, resume and failure."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
