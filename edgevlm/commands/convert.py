"""`edgevlm convert`."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgevlm.commands import options
from edgevlm.commands.options import PATH, as_json, whole_numbers
from edgevlm.errors import CheckFailed, InputError, UnsupportedError

if TYPE_CHECKING:
    from edgevlm.bundle.manifest import Labels
    from edgevlm.bundle.recipe import Recipe
    from edgevlm.compression.calibration import CalibrationSource
    from edgevlm.conversion.pipeline import Request

_HUGE_PAGES = ("THP_MEM_ALLOC_ENABLE", "1")
"""Has torch ask for large results' memory in huge pages: to get that in small ones is up to a quarter of its work."""


def _lengths(context: click.Context, option: click.Parameter, given: str | None) -> tuple[int, ...] | None:
    return None if given is None else whole_numbers("--lengths", given, "1,64")


@click.command()
@click.argument("model", required=False, default="edgevlm-student")
@click.option("--target", required=True, help="coreml, executorch, tflite, or all.")
@click.option(
    "--recipe",
    "recipes",
    multiple=True,
    default=("fp16",),
    show_default="fp16",
    help="Name of a built-in recipe, or a YAML file. With --dry-run it may repeat, or be all.",
)
@click.option("--labels", type=PATH, help="Label file, one per line (# begins a comment): bakes a classify component.")
@click.option(
    "--template", "templates", multiple=True, help='Prompt around each label, e.g. "a photo of a {}"; may repeat.'
)
@click.option("--descriptions", type=PATH, help="Sentences about the labels, from edgevlm enrich.")
@click.option("--image-only", is_flag=True, help="Leave the text tower out; with --labels, only classify remains.")
@click.option(
    "--calibration",
    metavar="DATA",
    help="Pictures to measure ranges on, and to audit float16 with; see edgevlm evaluate --data.",
)
@click.option("--calibration-texts", type=PATH, help="Texts to measure ranges on, one a line; else DATA's own.")
@click.option("--images", type=PATH, help="Folder of the pictures that a captions file in --calibration names.")
@click.option("--out", type=PATH, default="dist", show_default=True, help="Folder for the bundles.")
@click.option("--name", help="Name of the bundles; the model's own, and the label file's, if left out.")
@click.option("--revision", help="Branch, tag or commit of a hub id.")
@options.context
@click.option(
    "--lengths",
    metavar="1,N",
    callback=_lengths,
    help="Of a model that talks: rows decoded at once, 1 for an answer, more for a prompt; 1,64 if left out.",
)
@options.picture_size
@click.option("--force", is_flag=True, help="Replace existing bundles.")
@click.option("--no-cache", is_flag=True, help="Convert again even if nothing has changed.")
@click.option("--dry-run", is_flag=True, help="Say what would come of it, in seconds; convert and write nothing.")
@click.option(
    "--device",
    "devices",
    multiple=True,
    help="With --dry-run: how much of this device's memory it would take; see edgevlm devices; may repeat.",
)
@as_json
def convert(
    model: str,
    target: str,
    recipes: tuple[str, ...],
    labels: Path | None,
    templates: tuple[str, ...],
    descriptions: Path | None,
    image_only: bool,
    calibration: str | None,
    calibration_texts: Path | None,
    images: Path | None,
    out: Path,
    name: str | None,
    revision: str | None,
    context_length: int | None,
    lengths: tuple[int, ...] | None,
    picture_size: tuple[int, int] | None,
    force: bool,
    no_cache: bool,
    dry_run: bool,
    devices: tuple[str, ...],
    as_json: bool,
) -> None:
    """Convert MODEL to bundles, and prove that they compute what it computes.

    MODEL is a built-in name, a folder in Hugging Face format, or a hub id; left out, it is the built-in student.

    \b
    Examples:
      edgevlm convert --target coreml
      edgevlm convert ./my-clip --target all --recipe fp32 --out dist
      edgevlm convert --target tflite --labels labels.txt --template "a photo of a {}" --image-only
      edgevlm convert --target coreml --labels birds.txt --descriptions birds.descriptions.json
      edgevlm convert --target all --recipe int8
      edgevlm convert --target tflite --recipe int8-static --calibration photos/ --calibration-texts queries.txt
      edgevlm convert ./my-smolvlm --target tflite --context 2048 --lengths 1,64
      edgevlm convert ./my-qwen2.5-vl --target executorch --recipe int8 --picture-size 448x672
      edgevlm convert ./my-clip --target all --recipe all --dry-run
      edgevlm convert ./my-smolvlm --target all --recipe all --context 8192 --dry-run --device raspberry-pi-4

    --dry-run estimates the size of what an app would ship, what its engine adds to a process's memory at most, and says
    the least system: before the long work, and without calibration data. It reads no options about the output. Of a
    model that talks, a dialogue's state is in that memory, and grows with --context.
    """
    from edgevlm.commands import showing

    os.environ.setdefault(*_HUGE_PAGES)
    from edgevlm.conversion import pipeline
    from edgevlm.inputs.labels import set_name
    from edgevlm.process import terminal
    from edgevlm.targets import registry

    known = registry.targets()
    if target != "all" and target not in known:
        raise InputError(f"no target {target!r}: expected all or one of {', '.join(known)}")
    chosen = _resolve(recipes, several=dry_run)
    if devices and not dry_run:
        raise InputError("--device needs --dry-run", hint="edgevlm bench BUNDLE --device NAME asks about a bundle")
    request = pipeline.Request(
        model=model,
        revision=revision,
        targets=known if target == "all" else (target,),
        recipe=chosen[0],
        out=out,
        labels=_read_labels(labels, templates, descriptions),
        label_set=set_name(labels) if labels else "",
        image_only=image_only,
        name=name,
        force=force,
        use_cache=not no_cache,
        calibration=_calibration(calibration, calibration_texts, images),
        context_length=context_length,
        lengths=lengths,
        picture_size=picture_size,
    )
    if dry_run:
        _forecast(request, chosen, devices, as_json=as_json)
        return
    with terminal.progress_bar() as progress:
        outcomes = pipeline.convert(request, progress)
    if as_json:
        terminal.print_json({"outcomes": [showing.outcome_json(outcome) for outcome in outcomes]})
    else:
        showing.outcomes(outcomes)
    errors = [outcome.error for outcome in outcomes if outcome.error]
    if errors:
        sys.exit(max(error.exit_code for error in errors))
    if any(outcome.status != "passed" for outcome in outcomes):
        sys.exit(CheckFailed.exit_code)


def _resolve(names: tuple[str, ...], *, several: bool) -> tuple[Recipe, ...]:
    """The recipes of these names, each once.

    Raises:
        RecipeError: there is no such recipe.
        InputError: there are several, and one is expected; or two of one name.
    """
    from edgevlm.bundle.recipe import BUILTIN, resolve

    if not several and (len(names) > 1 or "all" in names):
        raise InputError(
            f"--recipe: expected one, got {', '.join(names)}", hint="--dry-run compares several, and converts nothing"
        )
    wanted = dict.fromkeys(each for name in names for each in (BUILTIN if name == "all" else (name,)))
    found = tuple(resolve(name) for name in wanted)
    for recipe in found:
        if sum(other.name == recipe.name for other in found) > 1:
            raise InputError(f"--recipe: two are called {recipe.name}", hint="give them different names")
    return found


def _forecast(request: Request, recipes: tuple[Recipe, ...], devices: tuple[str, ...], *, as_json: bool) -> None:
    from edgevlm.commands import showing
    from edgevlm.conversion.forecast import components, forecast
    from edgevlm.devices import profile
    from edgevlm.process import terminal

    memories = {name: profile.find(name, profile.builtin()).memory_mb << 20 for name in devices}
    for name in (name for name, size in memories.items() if not size):
        raise InputError(f"--device {name}: expected a device whose memory is known", hint="edgevlm devices lists them")
    with terminal.progress_bar() as progress:
        progress("reading the model", None)
        model = components(request.load(), labels=request.labels, image_only=request.image_only)
        progress("looking at its layers", None)
        found = forecast(model, request.targets, recipes)
    if as_json:
        terminal.print_json({"forecasts": [showing.forecast_json(each, memories) for each in found]})
    else:
        showing.forecasts(found, memories)
    if all(each.refused for each in found):
        sys.exit(UnsupportedError.exit_code)


def _calibration(data: str | None, texts: Path | None, images: Path | None) -> CalibrationSource | None:
    if data is None:
        for option, given in (("--calibration-texts", texts), ("--images", images)):
            if given is not None:
                raise InputError(f"{option} needs --calibration: it goes with its pictures")
        return None
    from edgevlm.compression.calibration import CalibrationSource

    return CalibrationSource(data, texts, images)


def _read_labels(path: Path | None, templates: tuple[str, ...], descriptions: Path | None) -> Labels | None:
    from edgevlm.enrichment.descriptions import Descriptions, label_texts
    from edgevlm.inputs import labels

    if path is None:
        for option, given in (("--template", templates), ("--descriptions", descriptions)):
            if given:
                raise InputError(f"{option} needs --labels: it is for them")
        return None
    wanted = labels.read(path, templates)
    if descriptions is None:
        return wanted
    return replace(wanted, texts=label_texts(wanted.names, wanted.templates, Descriptions.read(descriptions)))
