"""The comparison's page in words; every figure in it, and every verdict, comes from the results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from edgevlm.benchmarks.compression.claims import CLAIMS, Claim
from edgevlm.benchmarks.compression.conversions import CALIBRATION, MODELS
from edgevlm.benchmarks.compression.results import Contender, Figures, Peers, Results, Row, Run
from edgevlm.benchmarks.measuring import RESULTS
from edgevlm.process.pages import fill


@dataclass(frozen=True)
class _Table:
    """What was measured of a model on a target.

    Attributes:
        lines: A recipe's cells each.
        beyond_limits: The recipes that are, and what says so: the notes to the mark ¹.
        unmeasured: Why figures lack: the notes to the mark ².
    """

    lines: Sequence[Sequence[str]]
    beyond_limits: Sequence[tuple[str, Sequence[str]]]
    unmeasured: Sequence[str]


def page(results: Results, plot: str, figures: str) -> str:
    """The page in Markdown; `plot` and `figures` are where it finds the picture and the results."""
    models = dict.fromkeys(row.model for row in results.rows)
    return fill(
        RESULTS.parent,
        "compression/page.md.jinja",
        plot=plot,
        figures=figures,
        claims=[_claim(each, each.measure(results)) for each in CLAIMS],
        vnni_without_amx=_vnni_without_amx(results),
        calibration=CALIBRATION.data,
        models={model: _tables(results, model) for model in models},
        described={model: MODELS.get(model, "a model of your own") for model in models},
        peers={each.model: [_contender(each, one) for one in each.contenders] for each in results.peers},
        runs=[_run(key, run) for key, run in results.runs.items()],
    )


def _claim(claim: Claim, ratio: float | None) -> dict[str, str]:
    said = {"says": Markup(claim.says), "limit": f"{claim.limit:.2f}x"}
    if ratio is None:
        return {**said, "measured": "not measured yet", "verdict": "open"}
    return {**said, "measured": f"{ratio:.3f}x", "verdict": "holds" if ratio <= claim.limit else "fails"}


def _vnni_without_amx(results: Results) -> bool:
    """Whether a machine that measured has the one and not the other, which sets CPU ratios a floor."""
    instructions = {each for run in results.runs.values() for each in _list(run.machine.get("instructions"))}
    return "avx512_vnni" in instructions and "amx_int8" not in instructions


def _tables(results: Results, model: str) -> dict[str, _Table]:
    """By target."""
    tables = {}
    for target in dict.fromkeys(row.target for row in results.rows if row.model == model):
        rows = [row for row in results.rows if row.model == model and row.target == target]
        measured = [(row.recipe, row.figures) for row in rows if row.figures]
        tables[target] = _Table(
            [_row(row, results.find(model, target, "fp32")) for row in rows],
            [(recipe, figures.beyond_limits) for recipe, figures in measured if figures.beyond_limits],
            list(dict.fromkeys(figures.unmeasured for _, figures in measured if figures.unmeasured)),
        )
    return tables


def _row(row: Row, fp32: Figures | None) -> tuple[str, ...]:
    figures = row.figures
    if figures is None:
        return row.recipe, f"refused: {row.refused}", *["refused"] * 10
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


def _run(key: str, run: Run) -> dict[str, object]:
    versions = run.machine.get("versions")
    return {
        **{name: run.machine.get(name) for name in ("processor", "cores", "load_at_end", "system", "python")},
        "key": key,
        "instructions": _list(run.machine.get("instructions")),
        "versions": [f"{name} {version}" for name, version in versions.items()] if isinstance(versions, dict) else [],
        "command": run.command,
    }


def _list(value: object) -> list[str]:
    return [str(each) for each in value] if isinstance(value, list) else []
