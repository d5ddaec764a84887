"""The table of what became of models that talk, from the kept results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgevlm.process.pages import fill

_TARGETS = {"coreml": "Core ML", "executorch": "ExecuTorch", "tflite": "TFLite"}


def page(results: Mapping[str, Any]) -> str:
    """The page.

    Args:
        results: As kept in benchmarks/results/talkers.json.
    """
    rows = [{**row, "target": _TARGETS[row["target"]], **_shown(row)} for row in results["rows"]]
    passed = sum(row["status"] == "passed" for row in results["rows"])
    return fill(Path(__file__).parent, "page.md.jinja", results=results, rows=rows, passed=passed, asked=_asked(rows))


def _asked(rows: Sequence[Mapping[str, Any]]) -> str:
    """What the original was asked; results that do not say it are of when BLIP was asked, and shipped, otherwise."""
    counts = {row["checkpoint"]: row["dialogues"] for row in rows if row.get("dialogues")}
    if not counts:
        return (
            "seven dialogues, the last of which reaches the far end of the context "
            "(five of BLIP's, of which none does, and which no runner was asked)"
        )
    each = ", ".join(f"{count} dialogues with {checkpoint}" for checkpoint, count in counts.items())
    return f"{each}, the last of which begins with a picture and reaches the far end of the context"


def _shown(row: Mapping[str, Any]) -> dict[str, str]:
    checks, runners = row["checks"], row["runners"]
    return {
        "size": "" if row["bytes"] is None else f"{row['bytes'] / 1e3:,.0f}",
        "error": f"{checks['max_abs_error']:.1e}" if "max_abs_error" in checks else "",
        "kl": f"{checks['mean_kl']:.1e}" if "mean_kl" in checks else "",
        "top1": f"{checks['top1_agreement']:.0%}" if "top1_agreement" in checks else "",
        "same": f"{checks['same_answers']:.0%}" if "same_answers" in checks else "",
        "runner": ", ".join(f"{name} {share:.0%}" for name, share in runners.items()) or "none",
        "outcome": row["status"] if row["error"] is None else row["error"],
    }
