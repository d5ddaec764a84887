"""The counts of a campaign, and the page that shows them."""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgevlm.benchmarks.attacks.outcomes import FINDINGS, Outcome
from edgevlm.process.pages import fill

PAGE = Path(__file__).with_name("README.md")


def figures(outcomes: Sequence[Outcome], seconds: float) -> dict[str, Any]:
    """Counts of results by kind and by what was attacked, and the findings whole.

    Args:
        outcomes: Of one campaign.
        seconds: Wall time that it took.
    """
    counts: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for each in outcomes:
        counts[each.kind, each.what][each.result] += 1
    return {
        "attacks": len(outcomes),
        "seconds": round(seconds),
        "rows": [{"kind": kind, "what": what, "results": dict(found)} for (kind, what), found in counts.items()],
        "findings": [dataclasses.asdict(each) for each in outcomes if each.is_finding],
    }


def page(results: Mapping[str, Any]) -> str:
    """The page.

    Args:
        results: As kept in benchmarks/results/attacks.json.
    """
    readers = [row for row in results["rows"] if row["kind"] == "readers"]
    rows = [_shown(row["kind"], row["what"], [row]) for row in results["rows"] if row["kind"] != "readers"]
    rows.insert(0, _shown("readers", f"{len(readers)} readers", readers))
    return fill(Path(__file__).parent, "page.md.jinja", results=results, rows=rows, attacks=f"{results['attacks']:,}")


def _shown(kind: str, what: str, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A line of the table: how many there were, what became of them, and each kind of finding."""
    total: Counter[str] = Counter()
    for row in rows:
        total.update(row["results"])
    fine = ", ".join(f"{count:,} {name}" for name, count in total.most_common() if name not in FINDINGS)
    return {
        "kind": kind, "what": what, "attacks": f"{total.total():,}", "fine": fine,
        "findings": [total[name] for name in FINDINGS],
    }  # fmt: skip
