"""The table of what was planted and what was blamed, from the kept results."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgevlm.process.pages import fill

_TARGETS = {"coreml": "Core ML", "executorch": "ExecuTorch", "tflite": "TFLite"}


def page(results: Mapping[str, Any]) -> str:
    """The page.

    Args:
        results: As kept in benchmarks/results/blame.json.
    """
    faults = list(dict.fromkeys(each["planted"] for each in results["rows"]))
    rows = [
        {**each, "target": _TARGETS[each["target"]], "error": "" if each["error"] is None else f"{each['error']:.2g}"}
        for each in sorted(results["rows"], key=lambda each: faults.index(each["planted"]))
    ]
    return fill(Path(__file__).parent, "page.md.jinja", results=results, rows=rows)
