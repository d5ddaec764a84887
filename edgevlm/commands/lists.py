"""`edgevlm targets`, `models` and `recipes`: what there is to choose from."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgevlm.commands.options import PATH, as_json
from edgevlm.errors import InputError, OutputError, RecipeError, UnsupportedError

if TYPE_CHECKING:
    from edgevlm.bundle.recipe import Recipe
    from edgevlm.distillation.losses import Loss
    from edgevlm.distillation.recipe import DistillRecipe


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
    terminal.say(f"{covered} of {len(found)} ops are computed")


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
@click.argument("name", required=False)
@click.option("--copy", type=PATH, metavar="FILE", help="Write the recipe NAME to a YAML file, to be edited.")
@click.option("--force", is_flag=True, help="Replace FILE where it exists.")
@as_json
def recipes(name: str | None, copy: Path | None, force: bool, as_json: bool) -> None:
    """List the built-in recipes, and the losses that a distillation recipe of your own may mix.

    With NAME, print that recipe as a YAML file with what each key means, or write it with --copy: edit the copy, which
    is a recipe of its own, called after its file. `--json` prints recipes in full.

    \b
    Examples:
      edgevlm recipes
      edgevlm recipes int8 --copy my-int8.yaml && edgevlm convert --target tflite --recipe my-int8.yaml
      edgevlm recipes ood --copy my-ood.yaml
    """
    if name is not None:
        _show_recipe(name, copy, force=force, as_json=as_json)
    elif copy is not None:
        raise InputError("--copy needs a recipe to copy", hint=f"edgevlm recipes NAME --copy {copy}")
    else:
        _list_recipes(as_json)


def _show_recipe(name: str, copy: Path | None, *, force: bool, as_json: bool) -> None:
    from edgevlm import schema
    from edgevlm.bundle import recipe as compression
    from edgevlm.distillation import recipe as distillation
    from edgevlm.process import terminal

    file = "FILE" if copy is None else shlex.quote(str(copy))
    recipe: Recipe | DistillRecipe
    if name in compression.BUILTIN:
        recipe, origin = compression.BUILTIN[name], ""
        use = f"edgevlm convert --target TARGET --recipe {file}"
    elif name in distillation.BUILTIN:
        recipe, origin = distillation.resolve(name), distillation.origin(name)
        use = f"edgevlm distill --teacher TEACHER --student STUDENT --data DATA --out OUT --recipe {file}"
    else:
        known = ", ".join((*compression.BUILTIN, *distillation.BUILTIN))
        raise RecipeError(f"no built-in recipe {name!r}: expected one of {known}")
    if as_json and copy is None:
        terminal.print_json({"recipe": schema.write(recipe)})
        return
    if copy is not None:
        recipe = replace(recipe, name=_name_of_copy(copy, name))
    head = [
        f"The built-in recipe {name}, to be edited. A key that is left out has its default.",
        use,
        *origin.splitlines(),
    ]
    text = "".join(f"# {line}\n" for line in head) + "\n" + schema.to_yaml(recipe, schema.meanings(type(recipe)))
    if copy is None:
        terminal.say(text, end="")
        return
    _write_new(copy, text, force=force)
    if as_json:
        terminal.print_json({"recipe": schema.write(recipe), "file": str(copy)})
    else:
        terminal.say(f"wrote {copy}")
        terminal.say(f"next: edit it, then {use}", err=True)


def _name_of_copy(path: Path, name: str) -> str:
    """What the copy of a recipe is called: once it is edited, the built-in name would be refused."""
    from edgevlm.bundle.recipe import BUILTIN, refuse_bad_name

    if path.suffix not in (".yaml", ".yml"):
        raise InputError(f"{path}: expected a file that ends in .yaml", hint=f"--copy {path}.yaml")
    refuse_bad_name(path.stem, f"{path}: the file's name, which becomes the recipe's")
    if path.stem in BUILTIN and path.stem != name:
        raise InputError(f"{path}: {path.stem!r} is another built-in recipe's name", hint="choose another file")
    return path.stem


def _write_new(path: Path, text: str, *, force: bool) -> None:
    from edgevlm.process.writing import output_errors, write_atomically

    if path.exists() and not force:
        raise OutputError(f"{path} exists already", hint="--force replaces it, or choose another file")
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text)


def _list_recipes(as_json: bool) -> None:
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
    return f"no: pip install 'edgevlm[{target}]'"
