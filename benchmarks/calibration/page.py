"""The page of what leaving each point out comes to, from the kept results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgevlm.benchmarks.tables import table

_PAGE = """# What an estimated latency is worth

`edgevlm bench --device NAME` counts what one thread of a device's core would execute for an inference, and divides
that by the instructions a cycle that such cores are known to reach. Known is what others measured and published, in
[published.yaml](../../edgevlm/bench/estimates/published.yaml), which also says what was left out and why; their networks
are counted on an emulator of the core that each was measured on. Here each of them is left out and predicted from the
others. The tables have every row, the bad ones too, and an estimate's band is as wide as the worst row that applies
to it. This page is made by `{command}` from the [results](../results/calibration.json); the formulas are in
[latency_model.py](../../edgevlm/bench/latency_model.py).

## CPUs

Instructions a cycle on one thread, by the float32 multiply-adds that a core can begin in a cycle (its lanes):

{rates}

On several threads a share of {share} runs in parallel: the median of what {pairs} pairs of latencies say, which lie
between {least} and {most}.

{cpu}

The *rate* is instructions a cycle and core, the parallel share taken into account. An error above zero is a
prediction that is too slow.

- On one thread every figure is predicted to {worst_single}: four networks, three kinds of cores.
- On four threads the Raspberry Pi 4 takes up to {pi_4} times as long in float32 as its cores alone explain: they
  share 1 MiB of cache and a memory that reads 5.5 GB/s, of which Amdahl's law knows nothing. Estimates for four
  threads of such cores have a band that goes as far.
- No figure on one thread of a Cortex-A76 was found. One thread there is estimated from what four reach, and the band
  is widened by all that the pairs say of scaling.
- Kernels in int8 execute about one and a half times as many instructions a cycle as those in float32, on both widths.
  This was seen in these very rows, so that their errors are a little better than a new network's would be.
- All networks are convolutional. A transformer's matrix products run on the same kernels as convolutions of 1 x 1,
  but no published figure of one on a CPU said enough to be counted, so that nothing here has tested that.
- Today's XNNPACK is what is counted; the figures of phones are from 2020.

No figure of cores with 16 lanes was found. They are estimated from those with 8, times the square root of two, and
the band covers no gain and twice the rate. This is what the same rule makes of each width when it is predicted from
the other:

{widths}

The bands that follow, as factors on the estimate:

{bands}

## NPUs

A latency is fitted as a power of the number of multiply-adds, device by device, and never carried from one device to
another: networks reach 4 % to 30 % of what an NPU could do.

{accelerators}

On Snapdragons the points are few and of very different kinds: a transformer takes about twice as long as a convolution
with as many multiply-adds, and float16 nearly twice as long as int8. On the iPhone most are of one family.

## Where the figures are from

{sources}
"""


def page(results: Mapping[str, Any]) -> str:
    """The page.

    Args:
        results: As kept in benchmarks/results/calibration.json.
    """
    fit, rows = results["fit"], results["cpu"]
    single = max(abs(row["error"]) for row in rows if row["threads"] == 1)
    boards = [row for row in rows if row["device"] == "Raspberry Pi 4" and "fp32" in row["network"]]
    sources = list(dict.fromkeys(row["source"] for row in (*rows, *results["accelerators"])))
    return _PAGE.format(
        command=results["command"],
        rates=_rate_table(fit["instructions_a_cycle"]),
        share=_percent(fit["parallel_share"]),
        pairs=len(fit["parallel_shares"]),
        least=_percent(fit["parallel_shares"][0]),
        most=_percent(fit["parallel_shares"][-1]),
        cpu=_cpu_table(results, sources),
        worst_single=_percent(single),
        pi_4=f"{max(row['published_ms'] / row['predicted_ms'] for row in boards):.1f}",
        bands=_band_table(results),
        widths=_width_table(results),
        accelerators=_accelerator_table(results, sources),
        sources="\n".join(f"{number}. {source}" for number, source in enumerate(sources, 1)),
    )


def _rate_table(rates: Sequence[Mapping[str, Any]]) -> str:
    lanes = sorted({each["fma_lanes"] for each in rates})
    found = {(each["fma_lanes"], each["precision"]): each["rate"] for each in rates}
    rows = [[precision, *(f"{found[width, precision]:.2f}" for width in lanes)] for precision in ("fp32", "int8")]
    return table(("", *(f"{width} lanes" for width in lanes)), rows)


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
            row["precision"],
            str(row["fma_lanes"]),
            str(row["threads"]),
            f"{row['low']:.2f}",
            f"{row['high']:.2f}",
            _percent(row["worst"]),
        ]
        for row in results["bands"]
    ]
    return table(("cores", "precision", "lanes", "threads", "low", "high", "worst error"), rows, words=2)


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
