"""Makes `tests.session` importable however pytest was started."""

from __future__ import annotations

import sys
from pathlib import Path

_REPOSITORY = str(Path(__file__).parents[2])
if _REPOSITORY not in sys.path:
    sys.path.insert(0, _REPOSITORY)
