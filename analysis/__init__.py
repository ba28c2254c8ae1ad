"""Statistics, figures and a report from tables: no images, no models, no torch.

Everything here starts from a predictions table (``case_id, y_true, y_prob`` are enough), so that it works on a
radiologist's scores from a spreadsheet as well. Names are loaded on first use (see ``__init__.pyi``).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
