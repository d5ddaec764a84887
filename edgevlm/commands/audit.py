"""`edgevlm audit`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from edgevlm.commands.options import Whole, as_json
from edgevlm.errors import CheckFailed, InputError
from edgevlm.process import terminal

if TYPE_CHECKING:
    from edgevlm.conversion.audit import Audit
    from edgevlm.targets.converter import OpRange

_COLOURS = {"overflow": "red", "underflow": "red", "near": "yellow"}


@click.command()
@click.argument("model", required=False, default="edgevlm-student")
@click.option("--target", default="all", show_default=True, help="coreml, executorch, tflite, or all.")
@click.option("--data", help="Pictures to run it on; left out, those that parity is measured on.")
@click.option("--samples", type=Whole(), default=32, show_default=True, help="How many to draw.")
@click.option("--top", type=Whole(), default=6, show_default=True, help="Ops of each component to show.")
@as_json
def audit(model: str, target: str, data: str | None, samples: int, top: int, as_json: bool) -> None:
    """Show how close MODEL comes to the limits of float16, and the recipe that keeps it within.

    Every op is run in float32. What passes 65,504 would become infinite (overflow), and may on another picture if it
    comes within a factor of four (near); what is tiny throughout would lose its digits (underflow); a mask that only
    a softmax reads may become infinite. What norms add up inside is shown beside: ExecuTorch's norms are computed in
    float32, and so is Core ML's L2 norm; its layer norm does not say. A model that talks is asked about the pictures.

    edgevlm convert asks the same before each conversion to fp16. The exit code is 1 where it would refuse.

    \b
    Examples:
      edgevlm audit
      edgevlm audit ./my-clip --data photos/ --samples 200
      edgevlm audit ./my-clip --target coreml --json
    """
    from edgevlm.commands import showing
    from edgevlm.conversion.audit import audit as measure
    from edgevlm.conversion.audit import draw_samples
    from edgevlm.data.sources import open_data
    from edgevlm.models import catalogue
    from edgevlm.targets import registry

    known = registry.targets()
    if target != "all" and target not in known:
        raise InputError(f"no target {target!r}: expected all or one of {', '.join(known)}")
    with terminal.progress_bar() as progress:
        dataset = open_data(data, unlabelled=True) if data else None
        progress("loading the model", None)
        loaded = catalogue.load_any(model)
        progress("reading the samples", None)
        rows = draw_samples(loaded, dataset, samples, progress)
        found = measure(loaded, known if target == "all" else (target,), rows, progress)
    if as_json:
        audits = [
            {"target": each.target, "float32_ops": each.float32_ops, "ops": [showing.range_json(op) for op in each.ops]}
            for each in found
        ]
        terminal.print_json({"model": model, "audits": audits})
    else:
        for each in found:
            _show(each, top)
    if any(each.overflows for each in found):
        sys.exit(CheckFailed.exit_code)


def _show(found: Audit, top: int) -> None:
    from edgevlm.conversion.audit import recipe_lines

    if not found.ops:
        terminal.say(f"{found.target}: computes in float32 in every recipe\n")
        return
    components: dict[str, list[OpRange]] = {}
    for op in found.ops:
        components.setdefault(op.place.partition("/")[0], []).append(op)
    nearest = [sorted(ops, key=lambda op: (not op.float32_ops, op.headroom))[:top] for ops in components.values()]
    headings = ("place", "op", "in", ">peak", ">headroom", ">typical", ">below normal", ">squares inside", "in fp16")
    terminal.table(found.target, headings, [_row(op) for ops in nearest for op in ops])
    if found.float32_ops:
        terminal.say(f"a recipe for --recipe that keeps {found.target} within float16:\n")
        terminal.say(recipe_lines(found.float32_ops) + "\n")


def _row(op: OpRange) -> tuple[str | terminal.Cell, ...]:
    return (
        op.place,
        op.kind,
        op.precision,
        f"{op.peak:.3g}",
        f"{op.headroom:.3g}x",
        f"{op.typical:.2g}",
        f"{op.below_normal:.1%}",
        "" if op.sum_of_squares is None else f"{op.sum_of_squares:.3g}",
        terminal.Cell(op.verdict, _COLOURS.get(op.verdict, "")),
    )
