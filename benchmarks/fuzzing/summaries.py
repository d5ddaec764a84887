"""What became of many mutants."""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from edgevlm.benchmarks.fuzzing.trials import Outcome


def figures(outcomes: Sequence[Outcome], corpus: str, seconds: float) -> dict[str, Any]:
    """Counts of results, of refusals by their class, and of results by mutator and by what was mutated.

    Args:
        outcomes: Of one run.
        corpus: Its digest.
        seconds: Wall time that the run took.
    """
    results = Counter(each.result for each in outcomes)
    refusals = Counter(each.error for each in outcomes if each.result == "refused")
    by_mutator: dict[str, Counter[str]] = defaultdict(Counter)
    by_specimen: dict[str, Counter[str]] = defaultdict(Counter)
    for each in outcomes:
        by_specimen[each.specimen][each.result] += 1
        for mutator in each.mutators:
            by_mutator[mutator][each.result] += 1
    return {
        "corpus": corpus,
        "mutants": len(outcomes),
        "mutants_per_second": round(len(outcomes) / seconds, 1),
        "results": dict(results.most_common()),
        "refusals": dict(refusals.most_common()),
        "by_mutator": {name: dict(counts.most_common()) for name, counts in sorted(by_mutator.items())},
        "by_specimen": {name: dict(counts.most_common()) for name, counts in sorted(by_specimen.items())},
        "findings": [dataclasses.asdict(each) for each in outcomes if each.is_finding],
    }


def text(figures: Mapping[str, Any]) -> str:
    """The figures, but for the tables, as lines."""
    found = len(figures["findings"])
    return "\n".join((
        f"{figures['mutants']} mutants of corpus {figures['corpus']}, {figures['mutants_per_second']} a second",
        *(f"{count:8} {result}" for result, count in figures["results"].items()),
        *(f"{count:8}   of those {kind}" for kind, count in figures["refusals"].items()),
        f"findings: {found or 'none'}",
    ))  # fmt: skip


def tell(outcome: Outcome) -> str:
    """An outcome in a line or two."""
    how = f"{outcome.error}: {outcome.message}" if outcome.error else outcome.message
    return f"{outcome.number} ({outcome.specimen}; {', '.join(outcome.mutators)}): {outcome.result}\n    {how}"
