"""`edgevlm distill`."""

from __future__ import annotations

import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from edgevlm.commands.options import PATH, Number, Whole, as_json, max_unreadable
from edgevlm.errors import InputError
from edgevlm.process.limits import (
    LARGEST_SEED,
    LONGEST_SIDE,
    MOST_EPOCHS,
    MOST_PICTURES,
    MOST_THREADS,
    MOST_WORKERS,
)

if TYPE_CHECKING:
    from edgevlm.distillation.distillation import Distilled
    from edgevlm.distillation.recipe import DistillRecipe


@click.command()
@click.option(
    "--teacher",
    "teachers",
    multiple=True,
    help="Built-in name, folder or hub id; several are an ensemble. [default: edgevlm-teacher]",
)
@click.option(
    "--student", default="hybrid-s", show_default=True, help="A preset, or a distilled student to go on with."
)
@click.option("--data", required=True, help="Image folder, captions .json, .tar shards, scenes:… or objects:…")
@click.option("--recipe", default="ood", show_default=True, help="Name of a distillation recipe, or a YAML file.")
@click.option("--out", type=PATH, required=True, help="The run's folder, which becomes the student's.")
@click.option("--images", type=PATH, help="Folder of the pictures that a captions file names.")
@click.option("--descriptions", type=PATH, help="Sentences about the labels, from edgevlm enrich.")
@click.option("--few-shot", help="Data of new classes, of which a few pictures are mixed into every batch.")
@click.option("--shots", type=Whole(1, MOST_PICTURES), help="Pictures of each new class; the recipe's if left out.")
@click.option(
    "--compress",
    metavar="RECIPE",
    help="Train with its pruning or int8 rounding in place: recovers what it costs the tower that is trained.",
)
@click.option(
    "--text-tower",
    metavar="teacher|none|PRESET",
    help="Keep the teacher's, bake the labels instead, or train text-xs, text-s or text-m, with a recipe that does, "
    "such as clip-kd; the recipe's choice if left out.",
)
@click.option("--image-size", type=Whole(16, LONGEST_SIDE), help="Side of the student's pictures, in pixels.")
@click.option("--epochs", type=Whole(1, MOST_EPOCHS), help="Instead of the recipe's.")
@click.option("--batch-size", type=Whole(2, MOST_PICTURES), help="Instead of the recipe's.")
@click.option("--learning-rate", type=Number(min=0, min_open=True), help="Instead of the recipe's.")
@click.option("--seed", type=Whole(0, LARGEST_SEED), default=0, show_default=True, help="Of weights, order and views.")
@click.option("--precision", type=click.Choice(["fp32", "bf16"]), default="fp32", show_default=True)
@click.option("--accumulate", type=Whole(1, MOST_PICTURES), default=1, show_default=True, help="Parts of a batch.")
@click.option("--workers", type=Whole(0, MOST_WORKERS), default=1, show_default=True, help="Processes that read ahead.")
@click.option("--threads", type=Whole(1, MOST_THREADS), help="CPU threads of torch.")
@click.option("--checkpoint-every", type=Number(min=0), default=60.0, show_default=True, help="Seconds.")
@click.option("--cache", type=PATH, help="Folder of teacher embeddings, shared by runs.")
@max_unreadable
@click.option("--force", is_flag=True, help="Throw away what another run left in the folder.")
@as_json
def distill(
    teachers: tuple[str, ...],
    student: str,
    data: str,
    recipe: str,
    out: Path,
    images: Path | None,
    descriptions: Path | None,
    few_shot: str | None,
    shots: int | None,
    compress: str | None,
    text_tower: str | None,
    image_size: int | None,
    epochs: int | None,
    batch_size: int | None,
    learning_rate: float | None,
    seed: int,
    precision: Literal["fp32", "bf16"],
    accumulate: int,
    workers: int,
    threads: int | None,
    checkpoint_every: float,
    cache: Path | None,
    max_unreadable: float,
    force: bool,
    as_json: bool,
) -> None:
    """Train a small student from a large teacher on your pictures.

    OUT becomes a model folder: edgevlm convert, evaluate and run take it. A run that was stopped goes on when the same
    command is given again. `accelerate launch -m edgevlm distill ...` uses several processes, GPUs or machines.

    \b
    Examples:
      edgevlm distill --teacher edgevlm-teacher --data objects:train:2000 --student hybrid-xs --out my-student
      edgevlm distill --teacher openai/clip-vit-base-patch32 --data photos/ --descriptions photos.json --out my-student
      edgevlm distill --teacher ./clip-l --teacher ./siglip --data "shards-{000..009}.tar" --recipe mobileclip --out s
      edgevlm distill --teacher ./clip-l --student my-student --data photos/ --few-shot new-classes/ --out my-student-2
      edgevlm distill --student my-student --recipe recovery --compress prune-50 --data photos/ --out my-pruned-student
    """
    from edgevlm.enrichment.descriptions import Descriptions
    from edgevlm.models import builtin
    from edgevlm.process import terminal

    if few_shot is None and shots is not None:
        raise InputError("--shots needs --few-shot: it says how many pictures of each new class are taken")
    _require_packages()
    with terminal.progress_bar() as progress:
        from edgevlm.bundle.recipe import resolve
        from edgevlm.data.sources import open_data

        # What there is to say of these is said before torch is imported, which takes seconds.
        rules = _recipe(recipe, shots, epochs, batch_size, learning_rate)
        compression = None if compress is None else resolve(compress)
        sentences = None if descriptions is None else Descriptions.read(descriptions)
        pictures, new = open_data(data, images=images), None if few_shot is None else open_data(few_shot)

        from edgevlm.distillation.distillation import Request
        from edgevlm.distillation.distillation import distill as run

        _set_threads(threads)
        request = Request(
            teachers=teachers or (builtin.TEACHER,),
            student=student,
            data=pictures,
            recipe=rules,
            out=out,
            few_shot=new,
            compress=compression,
            descriptions=sentences,
            text_tower=text_tower,
            image_size=image_size,
            seed=seed,
            precision=precision,
            accumulate=accumulate,
            workers=workers,
            checkpoint_seconds=checkpoint_every,
            cache=cache,
            max_unreadable=max_unreadable,
            force=force,
        )
        distilled = run(request, progress)
    if os.environ.get("RANK", "0") != "0":  # of several processes, one speaks
        return
    if as_json:
        terminal.print_json(asdict(distilled) | {"folder": str(distilled.folder)})
    else:
        _tell(distilled, compress)


def _recipe(
    name: str, shots: int | None, epochs: int | None, batch_size: int | None, learning_rate: float | None
) -> DistillRecipe:
    from edgevlm.distillation.recipe import resolve

    recipe = resolve(name)
    changes = {"epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate}
    schedule = replace(recipe.schedule, **{key: value for key, value in changes.items() if value is not None})  # type: ignore[arg-type]
    few_shot = recipe.few_shot if shots is None else replace(recipe.few_shot, shots=shots)
    return replace(recipe, schedule=schedule, few_shot=few_shot)


def _require_packages() -> None:
    from importlib.util import find_spec

    from edgevlm.errors import MissingDependency

    for package in ("torch", "transformers", "accelerate", "matplotlib"):
        if find_spec(package) is None:
            raise MissingDependency(package, extra="distill")


def _set_threads(threads: int | None) -> None:
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def _tell(distilled: Distilled, compress: str | None) -> None:
    from edgevlm.process import terminal

    text = {
        "teacher": "the teacher's",
        "none": "none, the labels are baked in",
        "own": "the student's own, trained on" if distilled.text_parameters else "the student's own, as it was",
    }.get(distilled.text_tower, f"{distilled.text_parameters / 1e6:.2f} M parameters")
    anew = "; the student's last layer was trained anew for it" if distilled.new_projection else ""
    before = f", {distilled.resumed_at:,} of them before" if distilled.resumed_at else ""
    words = f", {distilled.labels:,} labels" if distilled.labels else ""
    rows = [
        ("student", str(distilled.folder)),
        ("learned from", f"{distilled.pictures:,} pictures{words}"),
        ("image tower", f"{distilled.image_parameters / 1e6:.2f} M parameters"),
        ("text tower", text),
        ("embedding", f"{distilled.embedding_dim} numbers, by a trained projection into the teacher's space{anew}"),
        ("steps", f"{distilled.steps:,}{before}"),
        ("last loss", f"{distilled.loss:.4f}"),
        ("pictures skipped", f"{len(distilled.skipped):,}" + (" (see skipped.txt)" if distilled.skipped else "")),
    ]
    terminal.table(None, ("", ""), rows)
    terminal.say(f"losses: {distilled.folder / 'losses.png'}")
    recipe = f" --recipe {compress}" if compress else ""
    terminal.say(f"next: edgevlm convert {distilled.folder} --target all{recipe}", err=True)
    if compress and not distilled.text_parameters:
        terminal.say(f"the text tower was not trained: {compress} costs it what it did before", err=True)
