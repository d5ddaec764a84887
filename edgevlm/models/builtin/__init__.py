"""The models that ship, a student's folder each (`edgevlm.models.students.folder`), with what was measured beside it.

figures.json      size, and accuracy by split and attribute
README.md         the card, made from these
training.jsonl    the log of its training
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parent
STUDENT, TEACHER = "edgevlm-student", "edgevlm-teacher"
FOLDERS = {STUDENT: _HERE / "student", TEACHER: _HERE / "teacher"}


def figures(name: str) -> dict[str, Any]:
    """What was measured of a built-in model: `parameters`, `multiply_adds`, and `accuracy` by split and attribute."""
    found: dict[str, Any] = json.loads((FOLDERS[name] / "figures.json").read_text(encoding="utf-8"))
    return found
