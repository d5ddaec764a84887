"""The table of what was planted and what was blamed, from the kept results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgevlm.benchmarks.tables import table

_PAGE = """# What `edgevlm verify --blame` finds

One fault at a time is planted in what a converter is given, the sound model's answers being the reference. Right is a
fault that is blamed on the layer in which it was planted, and nothing blamed in a sound file: {right} of {of}. This
page is made by `{command}` from the [results](../results/blame.json).

{faults}

The error is the distance of the blamed op's result from the closest of the sound model's, relative to how much that one
varies. Names of ops are those of the shipped file; where a backend makes several ops of one, the first that differs is
named. A mask that was dropped shows first in what it should have masked.
"""
_TARGETS = {"coreml": "Core ML", "executorch": "ExecuTorch", "tflite": "TFLite"}


def page(results: Mapping[str, Any]) -> str:
    """The page.

    Args:
        results: As kept in benchmarks/results/blame.json.
    """
    headings = ("planted", "in", "target", "blamed", "of", "right", "error")
    return _PAGE.format(
        right=results["right"],
        of=results["of"],
        command=results["command"],
        faults=table(headings, [_row(each) for each in _by_fault(results["rows"])], words=6),
    )


def _by_fault(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    faults = list(dict.fromkeys(each["planted"] for each in rows))
    return sorted(rows, key=lambda each: faults.index(each["planted"]))


def _row(found: Mapping[str, Any]) -> list[str]:
    error = "" if found["error"] is None else f"{found['error']:.2g}"
    layers = [f"`{found[name]}`" if found[name] else "" for name in ("in", "of")]
    verdict = "yes" if found["right"] else "**no**"
    return [found["planted"], layers[0], _TARGETS[found["target"]], found["blamed"], layers[1], verdict, error]
