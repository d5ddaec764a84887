"""What leaving each point out comes to, as plain values."""

from __future__ import annotations

from itertools import product
from typing import Any

from edgevlm.bench.estimates.latency_model import (
    Fit,
    LeftOut,
    accelerators_left_out,
    fit,
    left_out,
    parallel_shares,
    predict,
    speedup,
)
from edgevlm.bench.estimates.published import Calibration, CpuPoint


def tables(known: Calibration) -> dict[str, Any]:
    """The fit, every point that was left out, and the bands that follow.

    Returns:
        `fit`, and rows: `cpu`, `other_widths` (without all points on cores as wide), `accelerators` and `bands`.
    """
    found = fit(known.cpu)
    shares = parallel_shares(known.cpu)
    return {
        "fit": {
            "instructions_a_cycle": [
                {"fma_lanes": width, "precision": "int8" if integer else "fp32", "rate": round(rate, 3)}
                for (width, integer), rate in sorted(found.instructions_a_cycle.items())
            ],
            "parallel_share": round(found.parallel_share, 3),
            "parallel_shares": [round(share, 3) for share in sorted(shares)],
        },
        "cpu": _cpu_rows(known, found),
        "other_widths": [_figures(row) | {"fma_lanes": row.fma_lanes} for row in left_out(known.cpu, whole_width=True)],
        "accelerators": _accelerator_rows(known),
        "bands": _bands(known),
    }


def _cpu_rows(known: Calibration, found: Fit) -> list[dict[str, Any]]:
    rows = iter(left_out(known.cpu))
    return [
        {
            "network": point.network,
            "library": point.library,
            "device": point.device,
            "core": point.core,
            "fma_lanes": point.fma_lanes,
            "instructions": point.instructions,
            "instructions_a_cycle": round(_rate(point, threads, latency_ms, found), 2),
            **_figures(next(rows)),
            "source": point.source,
        }
        for point in known.cpu
        for threads, latency_ms in point.figures
    ]


def _accelerator_rows(known: Calibration) -> list[dict[str, Any]]:
    rows = []
    for device in dict.fromkeys(point.device for point in known.accelerators):
        own = [point for point in known.accelerators if point.device == device]
        for point, row in zip(own, accelerators_left_out(own), strict=True):
            rows.append(
                {
                    "network": point.network,
                    "device": point.device,
                    "unit": point.unit,
                    "multiply_adds_millions": point.multiply_adds_millions,
                    **_figures(row),
                    "source": point.source,
                }
            )
    return rows


def _bands(known: Calibration) -> list[dict[str, Any]]:
    """How wide an estimate is, for each width of cores and number of threads that devices have."""
    rows = []
    for lanes, width in ((4, "A72, A73, A75"), (8, "A76, A77, A78"), (16, "X1 to X4")):
        for precision, threads in product(("fp32", "int8"), (1, 4)):
            found = predict(
                10**8,
                fma_lanes=lanes,
                clock_mhz=1000,
                threads=threads,
                reads_bytes=0,
                bandwidth_gb_s=0,
                integer=precision == "int8",
                known=known.cpu,
            )
            rows.append(
                {
                    "cores": width,
                    "fma_lanes": lanes,
                    "precision": precision,
                    "threads": threads,
                    "low": round(found.low_ms / found.middle_ms, 2),
                    "high": round(found.high_ms / found.middle_ms, 2),
                    "worst": round(found.error, 3),
                }
            )
    return rows


def _rate(point: CpuPoint, threads: int, latency_ms: float, found: Fit) -> float:
    """Instructions a cycle of each core, the parallel share taken into account."""
    return point.instructions / (latency_ms * point.clock_mhz * 1e3) / speedup(found.parallel_share, threads)


def _figures(row: LeftOut) -> dict[str, Any]:
    return {
        "threads": row.threads,
        "published_ms": row.published_ms,
        "predicted_ms": round(row.predicted_ms, 3),
        "error": round(row.error, 3),
    }
