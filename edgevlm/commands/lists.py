"""`edgevlm targets`, `models` and `recipes`: what there is to choose from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from edgevlm.commands.options import as_json
from edgevlm.errors import UnsupportedError

if TYPE_CHECKING:
    from edgevlm.distillation.losses import Loss


@click.command()
@click.option(
    "--ops", metavar="TARGET", help="List the ops of a target's format that are computed here, such as coreml's."
)
@as_json
def targets(ops: str | None, as_json: bool) -> None:
    """List the targets, and whether their packages are installed.

    With --ops, list every op of a target's format instead: the opsets that define it, whether it is computed where the
    target's own runtime is missing, and what tests compare its results with: NumPy or torch computing what the op's
    page says, coremltools' own value inference, an example on that page, a result written out by hand, or the
    statistics of many random numbers.

    \b
    Example:
      edgevlm targets --ops coreml
    """
    from importlib.util import find_spec

    from edgevlm.process import terminal
    from edgevlm.targets import registry

    if ops is not None:
        _list_ops(ops, as_json)
        return
    needs = {"coreml": "coremltools", "executorch": "executorch", "tflite": "litert_torch"}
    rows = [
        {
            "target": target,
            "summary": registry.SUMMARIES.get(target, "plug-in"),
            "converts": all(find_spec(package) for package in ("torch", "transformers", needs.get(target, "torch"))),
        }
        for target in registry.targets()
    ]
    if as_json:
        terminal.print_json({"targets": rows})
        return
    missing = [
        (str(r["target"]), str(r["summary"]), "yes" if r["converts"] else _extra(str(r["target"]))) for r in rows
    ]
    terminal.table(None, ("target", "what it is", "converts here"), missing)


def _list_ops(target: str, as_json: bool) -> None:
    from edgevlm import schema
    from edgevlm.process import terminal
    from edgevlm.targets import registry
    from edgevlm.targets.inspection import Evaluator

    runtime = registry.runtime(target)
    if not isinstance(runtime, Evaluator):
        raise UnsupportedError(f"{target} computes no ops itself: its bundles are run by its own runtime")
    found = runtime.op_coverage()
    if as_json:
        terminal.print_json({"ops": [{**schema.write(op), "covered": op.covered} for op in found]})
        return
    rows = [
        (op.kind, ", ".join(op.opsets), "yes" if op.covered else "no", ", ".join(op.oracles) or op.reason)
        for op in found
    ]
    terminal.table(None, ("op", "defined in", "computed", "compared with"), rows)
    covered = sum(op.covered for op in found)
    click.echo(f"{covered} of {len(found)} ops are computed")


@click.command()
@as_json
def models(as_json: bool) -> None:
    """List the built-in models, the families of checkpoints that can be converted, and the students to distill."""
    from edgevlm import schema
    from edgevlm.models import builtin, catalogue
    from edgevlm.models.students.presets import COST_DIM, COSTS, PRESETS, TEXT_PRESETS
    from edgevlm.process import terminal

    figures = {name: builtin.figures(name) for name in builtin.FOLDERS}
    if as_json:
        students = {name: {**schema.write(PRESETS[name]), **schema.write(cost)} for name, cost in COSTS.items()}
        terminal.print_json({"builtin": figures, "families": catalogue.FAMILIES, "students": students})
        return
    rows = [
        *((name, _tell(found)) for name, found in figures.items()),
        *((f"{family} checkpoints", what) for family, what in catalogue.FAMILIES.items()),
    ]
    terminal.table(None, ("model", "what it is"), rows)
    terminal.table(
        f"Students to distill: image towers, embeddings of {COST_DIM}",
        ("student", ">pixels", ">M parameters", ">M multiply-adds"),
        [
            (name, str(PRESETS[name].image_size), f"{cost.parameters / 1e6:.2f}", f"{cost.multiply_adds / 1e6:,.0f}")
            for name, cost in COSTS.items()
        ],
    )
    terminal.table(
        "Text towers to train along",
        ("text tower", ">width", ">blocks", ">heads"),
        [(name, *map(str, sizes)) for name, sizes in TEXT_PRESETS.items()],
    )


def _tell(figures: Mapping[str, Any]) -> str:
    accuracy = figures["accuracy"]
    return (
        f"built in: 64x64 pictures of simple scenes, {figures['multiply_adds'] / 1e6:.0f} M multiply-adds; "
        f"top-1 among 50 descriptions {accuracy['train']['top1']:.1%}, "
        f"on unseen combinations {accuracy['combinations']['top1']:.1%}, "
        f"in unseen styles {accuracy['styles']['top1']:.1%}"
    )


@click.command()
@as_json
def recipes(as_json: bool) -> None:
    """List the built-in recipes, and the losses that a distillation recipe of your own may mix.

    Such a recipe is a YAML file; examples/recipe.yaml has every key. `--json` prints the built-in ones in full.
    """
    from importlib.util import find_spec

    from edgevlm import schema
    from edgevlm.bundle.recipe import BUILTIN
    from edgevlm.distillation import recipe as distillation
    from edgevlm.process import terminal

    if as_json:
        trained = [schema.write(recipe) for recipe in distillation.builtin()]
        terminal.print_json({"recipes": [schema.write(recipe) for recipe in BUILTIN.values()], "distillation": trained})
        return
    rows = []
    for recipe in BUILTIN.values():
        limits = schema.write(recipe.parity).items()
        rows.append((recipe.name, recipe.summary, ", ".join(f"{k} {v:g}" for k, v in limits if v is not None)))
    terminal.table("edgevlm convert", ("recipe", "what it does", "parity limits"), rows)
    terminal.table(
        "edgevlm distill",
        ("recipe", "what it does", "losses"),
        [
            (recipe.name, recipe.summary, ", ".join(f"{each.weight:g} {each.loss}" for each in recipe.losses))
            for recipe in distillation.builtin()
        ],
    )
    if find_spec("torch") is None:
        return  # losses are functions on its tensors
    from edgevlm.distillation.losses import LOSSES

    terminal.table(
        "Losses",
        ("loss", "needs", "options", "from"),
        [
            (name, _needs(loss), ", ".join(f"{key} {value:g}" for key, value in loss.options.items()), loss.paper)
            for name, loss in LOSSES.items()
        ],
    )


def _needs(loss: Loss) -> str:
    wants = {
        "label": "labels",
        "teacher_text": "captions or labels",
        "text": "a text tower that is trained",
    }
    return ", ".join(wants[name] for name in loss.needs if name in wants) or "pictures alone"


def _extra(target: str) -> str:
    from rich.markup import escape

    return escape(f"no: pip install 'edgevlm[{target}]'")
