"""The comparison's page in words; every figure in it, and every verdict, comes from the results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from edgevlm.benchmarks.compression.claims import CLAIMS
from edgevlm.benchmarks.compression.conversions import CALIBRATION, MODELS
from edgevlm.benchmarks.compression.results import Contender, Figures, Peers, Results, Row, Run
from edgevlm.benchmarks.tables import table

_PAGE = """# What compression saves, and what it costs

Every built-in recipe on every target, and int8 beside what other toolchains make of the same weights. This page is made
by `python -m edgevlm.benchmarks.compression`, and every figure and verdict on it from the
[results]({figures}).

![size against CPU time, both beside fp32]({plot})

## What int8 was to reach on a CLIP of ViT-B/32's size
{claims}
{ceiling}
## How it was measured
- Ranges of `int8-static` are calibrated with `{calibration}`, rendered scenes, for all models.
- CPU times are medians on one thread, artefact and fp32 in turns in one process after a warm-up; CPU time is the
  process's own, wall time suffers from whatever else the machine does. Ratios are to the same target's fp32.
- Memory is a fresh process's that opens the bundle and runs both components: the most that was resident beyond what
  importing the runtime costs. Pages of the mapped file count, although the system may drop and read them again.
- Size is that of the files that a runtime loads; in brackets what they come to in a compressed download (deflate).
- Share: of the component's multiply-adds in the float model, those whose weight the file holds as int8 or int4, counted
  from the integers read back from the file. Attention's own products have no weight.
- Cosine: the least of 200 rendered scenes and 50 texts with the float reference, and the mean once the reference's mean
  embedding is taken from both sides, which plain cosines hide behind. Zero-shot: pictures whose best text is the same.
- Weights: as many as NNCF decided on, and how many the file holds with the same integers, scales and zero points.
- Two figures with a stroke between them are `encode_image` / `encode_text`.

{tables}
{peers}
## Machines
{runs}

## Again
    pip install -e ".[all,bench]"
    python -m edgevlm.benchmarks.compression --work WORK --peers --keep

It may be stopped at any moment, and the same command goes on. `--models`, `--targets` and `--recipes` choose rows, and
those measured before stay; bundles in WORK are not converted again.
"""
_HEADINGS = (
    *("recipe", "size, MB (download)", "of fp32", "int8, int4 share", "least cosine", "centred cosine", "zero-shot"),
    *("CPU of fp32", "wall of fp32", "peak memory, MB", "of fp32", "weights as decided"),
)


def page(results: Results, plot: str, figures: str) -> str:
    """The page in Markdown; `plot` and `figures` are where it finds the picture and the results."""
    return _PAGE.format(
        plot=plot,
        figures=figures,
        claims=table(("ratio", "at most", "measured", "verdict"), _claims(results)),
        ceiling=_ceiling(results),
        calibration=CALIBRATION.data,
        tables="\n".join(_models(results)),
        peers="\n".join(_peers(results)),
        runs="\n".join(_run(key, run) for key, run in results.runs.items()),
    )


def _claims(results: Results) -> Iterator[tuple[str, ...]]:
    for claim in CLAIMS:
        ratio = claim.measure(results)
        if ratio is None:
            yield claim.says, f"{claim.limit:.2f}x", "not measured yet", "open"
        else:
            yield claim.says, f"{claim.limit:.2f}x", f"{ratio:.3f}x", "holds" if ratio <= claim.limit else "**fails**"


def _ceiling(results: Results) -> str:
    """Why CPU ratios differ between machines, where that matters on the one that measured."""
    instructions = {each for run in results.runs.values() for each in _list(run.machine.get("instructions"))}
    if "avx512_vnni" not in instructions or "amx_int8" in instructions:
        return ""
    return """
This machine's processor has AVX-512 VNNI and no AMX: one instruction does four times as many int8 multiply-adds as
float32 ones, so that products alone could reach 0.25x at best, and attention's own products, norms and activations
stay in float32. Where AI Edge Quantizer's artefact, which runs in the same kernels, has the same ratio (see below), it
is the processor's and not the artefact's.
"""


def _models(results: Results) -> Iterator[str]:
    for model in dict.fromkeys(row.model for row in results.rows):
        yield f"## {model}: {MODELS.get(model, 'a model of your own')}"
        if "random" in MODELS.get(model, ""):
            yield "Its weights are random: cosines rank the recipes, and say nothing of a trained model's.\n"
        for target in dict.fromkeys(row.target for row in results.rows if row.model == model):
            rows = [row for row in results.rows if row.model == model and row.target == target]
            yield f"### {target}\n"
            yield table(_HEADINGS, (_row(row, results.find(model, target, "fp32")) for row in rows))
            yield from _notes(rows)


def _row(row: Row, fp32: Figures | None) -> tuple[str, ...]:
    figures = row.figures
    if figures is None:
        return row.recipe, f"refused: {row.refused}", *("refused" for _ in _HEADINGS[2:])
    memory = figures.memory
    of_fp32 = memory.peak_mb / fp32.memory.peak_mb if memory and fp32 and fp32.memory else None
    return (
        row.recipe + (" ¹" if figures.beyond_limits else ""),
        f"{figures.size_bytes / 1e6:.2f} ({figures.compressed_size_bytes / 1e6:.2f})",
        f"{figures.size_bytes / fp32.size_bytes:.3f}x" if fp32 else "no fp32",
        _both(figures.shares, lambda share: f"{share['int8']:.0%}, {share['int4']:.0%}"),
        _both(figures.cosine, lambda cosine: f"{cosine:.4f}"),
        _both(figures.centred_cosine, lambda cosine: f"{cosine:.4f}"),
        f"{figures.zero_shot:.1%}",
        _speed(figures, "cpu_ratio"),
        _speed(figures, "wall_ratio"),
        f"{memory.peak_mb:.0f}, {memory.mapped_mb:.0f} of it mapped" if memory else "²",
        f"{of_fp32:.3f}x" if of_fp32 is not None else "²",
        f"{figures.identical} of {figures.weights}" if figures.weights else "none decided",
    )


def _speed(figures: Figures, ratio: str) -> str:
    return _both(figures.speed, lambda speed: f"{getattr(speed, ratio):.3f}x") if figures.speed else "²"


def _both(by_component: Mapping[str, Any], say: Callable[[Any], str]) -> str:
    return " / ".join(say(value) for value in by_component.values())


def _notes(rows: Sequence[Row]) -> Iterator[str]:
    """What the marks in a table stand for."""
    yield ""
    for row in rows:
        if row.figures and row.figures.beyond_limits:
            yield f"¹ {row.recipe} is beyond its own limits of parity: {'; '.join(row.figures.beyond_limits)}.\n"
    for reason in dict.fromkeys(row.figures.unmeasured for row in rows if row.figures and row.figures.unmeasured):
        yield f"² {reason}.\n"


def _peers(results: Results) -> Iterator[str]:
    for peers in results.peers:
        yield f"## Other toolchains: {peers.model}'s image encoder\n"
        yield (
            "All in one process, in turns, on one thread. The peers are called bare, ours through a session. OpenVINO "
            "is quantised by NNCF with static ranges, the others choose ranges as inputs come.\n"
        )
        headings = ("encoder", "size, MB", "of its own fp32", "CPU, ms", "of its own fp32", "of ours on tflite")
        yield table((*headings, "centred cosine"), (_contender(peers, each) for each in peers.contenders))
        yield "\nAI Edge Quantizer's file and ours hold the text encoder as well.\n"


def _contender(peers: Peers, contender: Contender) -> tuple[str, ...]:
    if contender.times is None:
        return contender.name, contender.missing, *("missing" for _ in range(5))
    own_size = next(each.size_bytes for each in peers.contenders if each.name == contender.float_name)
    ratios = (peers.cpu_ratio(contender.name, other) for other in (contender.float_name, "ours, tflite int8"))
    return (
        contender.name,
        f"{contender.size_bytes / 1e6:.1f}",
        f"{contender.size_bytes / own_size:.3f}x",
        f"{contender.times.cpu_ms:.1f}",
        *(f"{ratio:.3f}x" if ratio is not None else "missing" for ratio in ratios),
        "reference" if contender.centred_cosine is None else f"{contender.centred_cosine:.4f}",
    )


def _run(key: str, run: Run) -> str:
    machine = run.machine
    versions = machine.get("versions")
    told = ", ".join(f"{name} {version}" for name, version in versions.items()) if isinstance(versions, dict) else ""
    instructions = ", ".join(_list(machine.get("instructions")))
    return (
        f"- {key}: {machine.get('processor')} ({instructions}), {machine.get('cores')} cores, "
        f"load {machine.get('load_at_end')}; {machine.get('system')}, Python {machine.get('python')}; {told}; "
        f"`{run.command}`"
    )


def _list(value: object) -> list[str]:
    return [str(each) for each in value] if isinstance(value, list) else []
