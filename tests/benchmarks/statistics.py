"""Speed of the statistics: ``python tests/benchmarks/statistics.py``, see ``statistics_speed.py`` beside this file.

Python's own module ``statistics`` has the same name, and a script finds the files of its own folder first. Imported
from another script here, this file therefore hands over to Python's.
"""

from __future__ import annotations

import importlib.util
import sys
import sysconfig
from pathlib import Path

if __name__ == "__main__":
    from statistics_speed import main

    main()
else:
    path = Path(sysconfig.get_path("stdlib")) / "statistics.py"
    spec = importlib.util.spec_from_file_location(__name__, path)
    sys.modules[__name__] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[__name__])
