"""Our own measurements of many devices, for predictors that learn across them (`measured/maple`)."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent / "measured" / "maple"
