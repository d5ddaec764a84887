"""The page of what leaving each point out comes to, from the kept results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgevlm.benchmarks.tables import table

_PAGE = """# What an estimated latency is worth

`edgevlm bench --device NAME` counts what one thread of a device's core would execute for an inference, and divides that by
the instructions a cycle that cores of its width are known to reach. Known is what others measured and published: the
points of [calibration.yaml](../../edgevlm/bench/calibration.yaml), whose networks are counted here on an emulator of the
core that each was measured on. Here each point is left out and predicted from the others. No row is left out of the tables,
and an estimate's band is as wide as the worst row that applies to it. This page is made by `{command}` from the
[results](../results/calibration.json); the formulas are in
[latency_model.py](../../edgevlm/bench/latency_model.py).

## CPUs

One thread executes {rates}. On several threads a share of {share} runs in parallel, the median of what {pairs} pairs of
latencies say, which are between {least} and {most}.

{cpu}

*Lanes* are the float32 multiply-adds that a core can begin in a cycle. *Instructions* are of one inference on one thread, in
millions; the *rate* is what they come to a cycle and core, had the share above applied. An error above zero is a prediction
that is too slow.

What the rows say:

- On one thread, cores of the same width are within {worst_single} of each other, over four networks and ten years of cores.
- On four threads the Raspberry Pi 4 is much slower than its cores: four of them share one cache of 1 MiB and a memory that
  reads 5.5 GB/s, and Amdahl's law knows nothing of that. A board of its kind is estimated with a band as wide as that.
- No figure on one thread of a Cortex-A76 was found. One thread there is estimated from what four reach, and the band is
  widened by all that the pairs say of scaling.
- Figures in int8 fit the rates of those in float32 about as well as these fit each other; there are {integer} of them, all
  of convolutions and on four threads. Estimates for transformers rest on convolutions too.
- No figure of cores with 16 lanes was found. They are estimated from those with 8, between no gain and twice the rate.

The bands that follow, as factors on the estimate:

{bands}

The worst error for 16 lanes is that of points that were predicted without any of their own width:

{widths}

## NPUs

A latency is fitted as a power of the multiply-adds, device by device, and never carried from one device to another:
networks reach 4 % to 30 % of what an NPU could do.

{accelerators}

Networks of very different kinds share a row's device: a transformer with tokens of odd sizes may take several times as long
as a convolution with as many multiply-adds, and int8 about half of float16. The band covers what is here, and nothing else
is promised.

## Where the figures are from

{sources}
"""


def page(results: Mapping[str, Any]) -> str:
    """The page.

    Args:
        results: As kept in benchmarks/results/calibration.json.
    """
    fit, rows = results["fit"], results["cpu"]
    rates = fit["instructions_a_cycle"].items()
    single = max(abs(row["error"]) for row in rows if row["threads"] == 1)
    sources = list(dict.fromkeys(row["source"] for row in (*rows, *results["accelerators"])))
    return _PAGE.format(
        command=results["command"],
        rates=" and ".join(f"{rate:.2f} instructions a cycle on cores with {width} lanes" for width, rate in rates),
        share=_percent(fit["parallel_share"]),
        pairs=len(fit["parallel_shares"]),
        least=_percent(fit["parallel_shares"][0]),
        most=_percent(fit["parallel_shares"][-1]),
        cpu=_cpu_table(results, sources),
        worst_single=_percent(single),
        integer=sum("int8" in row["network"] for row in rows),
        bands=_band_table(results),
        widths=_width_table(results),
        accelerators=_accelerator_table(results, sources),
        sources="\n".join(f"{number}. {source}" for number, source in enumerate(sources, 1)),
    )


def _cpu_table(results: Mapping[str, Any], sources: list[str]) -> str:
    headings = ("network", "device", "core", "lanes", "instructions", "rate", "threads", "published", "predicted")
    return table(
        (*headings, "error", "source"),
        [
            [
                row["network"],
                row["device"],
                row["core"],
                str(row["fma_lanes"]),
                f"{row['instructions'] / 1e6:.1f} M",
                f"{row['instructions_a_cycle']:.2f}",
                *_figures(row),
                str(1 + sources.index(row["source"])),
            ]
            for row in results["cpu"]
        ],
        words=3,
    )


def _width_table(results: Mapping[str, Any]) -> str:
    rows = [
        [own["network"], own["device"], str(row["fma_lanes"]), *_figures(row)]
        for own, row in zip(results["cpu"], results["other_widths"], strict=True)
    ]
    return table(("network", "device", "lanes", "threads", "published", "predicted", "error"), rows, words=2)


def _band_table(results: Mapping[str, Any]) -> str:
    rows = [
        [
            row["cores"],
            str(row["fma_lanes"]),
            str(row["threads"]),
            f"{row['low']:.2f}",
            f"{row['high']:.2f}",
            _percent(row["worst"]),
        ]
        for row in results["bands"]
    ]
    return table(("cores", "lanes", "threads", "low", "high", "worst error"), rows)


def _accelerator_table(results: Mapping[str, Any], sources: list[str]) -> str:
    rows = [
        [
            row["network"],
            row["device"],
            f"{row['multiply_adds_millions'] / 1e3:.2f} G",
            *_figures(row)[1:],
            str(1 + sources.index(row["source"])),
        ]
        for row in results["accelerators"]
    ]
    return table(("network", "device", "multiply-adds", "published", "predicted", "error", "source"), rows, words=2)


def _figures(row: Mapping[str, Any]) -> list[str]:
    return [
        str(row["threads"]),
        f"{row['published_ms']:g} ms",
        f"{row['predicted_ms']:.3g} ms",
        f"{row['error']:+.0%}".replace("%", " %"),
    ]


def _percent(share: float) -> str:
    return f"{share:.0%}".replace("%", " %")
