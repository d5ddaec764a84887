"""The page of what leaving each point out comes to, from the kept results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from edgevlm.benchmarks.measuring import RESULTS
from edgevlm.process.pages import fill


def page(results: Mapping[str, Any]) -> str:
    """The page.

    Args:
        results: As kept in benchmarks/results/calibration.json.
    """
    fit, rows = results["fit"], results["cpu"]
    single = max(abs(row["error"]) for row in rows if row["threads"] == 1)
    boards = [row for row in rows if row["device"] == "Raspberry Pi 4" and "fp32" in row["network"]]
    sources = list(dict.fromkeys(row["source"] for row in (*rows, *results["accelerators"])))
    return fill(
        RESULTS.parent,
        "calibration/page.md.jinja",
        command=results["command"],
        lanes=_lanes(fit),
        rates=_rates(fit),
        share=_percent(fit["parallel_share"]),
        pairs=len(fit["parallel_shares"]),
        least=_percent(fit["parallel_shares"][0]),
        most=_percent(fit["parallel_shares"][-1]),
        cpu=[(*_cpu(row), str(1 + sources.index(row["source"]))) for row in rows],
        worst_single=_percent(single),
        pi_4=f"{max(row['published_ms'] / row['predicted_ms'] for row in boards):.1f}",
        widths=[
            (own["network"], own["device"], str(row["fma_lanes"]), *_figures(row))
            for own, row in zip(rows, results["other_widths"], strict=True)
        ],
        bands=[_band(row) for row in results["bands"]],
        accelerators=[(*_accelerator(row), str(1 + sources.index(row["source"]))) for row in results["accelerators"]],
        sources=sources,
    )


def _lanes(fit: Mapping[str, Any]) -> list[int]:
    return sorted({each["fma_lanes"] for each in fit["instructions_a_cycle"]})


def _rates(fit: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    found = {(each["fma_lanes"], each["precision"]): each["rate"] for each in fit["instructions_a_cycle"]}
    for precision in ("fp32", "int8"):
        yield precision, *(f"{found[width, precision]:.2f}" for width in _lanes(fit))


def _cpu(row: Mapping[str, Any]) -> tuple[str, ...]:
    names = (row["network"], row["device"], row["core"], str(row["fma_lanes"]))
    return (*names, f"{row['instructions'] / 1e6:.1f} M", f"{row['instructions_a_cycle']:.2f}", *_figures(row))


def _band(row: Mapping[str, Any]) -> tuple[str, ...]:
    what = (row["cores"], row["precision"], str(row["fma_lanes"]), str(row["threads"]))
    return (*what, f"{row['low']:.2f}", f"{row['high']:.2f}", _percent(row["worst"]))


def _accelerator(row: Mapping[str, Any]) -> tuple[str, ...]:
    return row["network"], row["device"], f"{row['multiply_adds_millions'] / 1e3:.2f} G", *_figures(row)[1:]


def _figures(row: Mapping[str, Any]) -> list[str]:
    return [
        str(row["threads"]),
        f"{row['published_ms']:g} ms",
        f"{row['predicted_ms']:.3g} ms",
        f"{row['error']:+.0%}".replace("%", " %"),
    ]


def _percent(share: float) -> str:
    return f"{share:.0%}".replace("%", " %")
