"""`edgevlm prune`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgevlm.commands.options import PATH, Share, Whole, as_json
from edgevlm.process.limits import LARGEST_SEED

if TYPE_CHECKING:
    from edgevlm.compression.structured import Change, Component, Pruned

_TOWERS: dict[str, tuple[Component, ...]] = {
    "image": ("encode_image",),
    "text": ("encode_text",),
    "both": ("encode_image", "encode_text"),
}
_SHARE = Share(below=True)


@click.command()
@click.argument("model")
@click.option("--heads", type=_SHARE, default="0%", help="Share of the attention heads to remove, such as 25%.")
@click.option("--mlp", type=_SHARE, default="0%", help="Share of the channels of MLPs.")
@click.option("--channels", type=_SHARE, default="0%", help="Share of the channels of convolutions.")
@click.option("--data", required=True, help="Image folder, captions .json, .tar shards, scenes:… or objects:…")
@click.option("--out", type=PATH, required=True, help="Folder of the smaller model, to be made.")
@click.option(
    "--tower",
    type=click.Choice(list(_TOWERS)),
    default="image",
    show_default=True,
    help="A text tower is judged by the data's captions, or its labels.",
)
@click.option("--images", type=PATH, help="Folder of the pictures that a captions file names.")
@click.option("--pictures", type=Whole(), default=256, show_default=True, help="Of the data, at most.")
@click.option("--seed", type=Whole(0, LARGEST_SEED), default=0, show_default=True, help="Of the draw of the pictures.")
@click.option("--revision", help="Branch, tag or commit of a hub id.")
@as_json
def prune(
    model: str,
    heads: float,
    mlp: float,
    channels: float,
    data: str,
    out: Path,
    tower: str,
    images: Path | None,
    pictures: int,
    seed: int,
    revision: str | None,
    as_json: bool,
) -> None:
    """Remove what MODEL's embeddings depend on least: attention heads, MLP channels, convolution channels.

    The smaller model needs no support from a backend: all of its bundles shrink, and run faster. It computes what
    MODEL does with these structures at zero; distill then trains it to answer as before.

    A student's folder can lose all three; of a CLIP or SigLIP checkpoint the MLPs shrink alike, as the hub's format
    has it. Pictures like those that the model will see judge what goes; they need no labels.

    \b
    Examples:
      edgevlm prune edgevlm-student --mlp 50% --heads 25% --data scenes:train:256:5 --out smaller
      edgevlm prune my-student --channels 25% --data photos/ --out my-smaller-student
      edgevlm prune openai/clip-vit-base-patch32 --mlp 30% --tower both --data coco_val.json --images val2017 --out clip
      edgevlm distill --student smaller --recipe recovery --data scenes:train:5000 --out recovered
    """
    from edgevlm import schema
    from edgevlm.process import terminal

    _require()
    with terminal.progress_bar() as progress:
        from edgevlm.compression.structured import Ratios, Request
        from edgevlm.compression.structured import prune as run

        request = Request(
            model=model,
            ratios=Ratios(heads, mlp, channels),
            data=data,
            out=out,
            components=_TOWERS[tower],
            images=images,
            pictures=pictures,
            seed=seed,
            revision=revision,
        )
        pruned = run(request, progress)
    if as_json:
        terminal.print_json(schema.write(pruned) | {"folder": str(pruned.folder)})
    else:
        _tell(pruned)
        terminal.say(f"next: {_next(pruned, data)}", err=True)


def _require() -> None:
    from importlib.util import find_spec

    from edgevlm.errors import MissingDependency

    for package in ("torch", "transformers"):
        if find_spec(package) is None:
            raise MissingDependency(package, extra="convert")


def _tell(pruned: Pruned) -> None:
    from edgevlm.process import terminal

    rows = []
    for tower in pruned.towers:
        left = [f"{kind} {change.before:,} → {change.after:,}" for kind, change in tower.structures.items()]
        rows.append(
            (
                tower.component,
                "\n".join(left),
                _in_millions(tower.parameters),
                _in_millions(tower.multiply_adds),
                f"mean {tower.mean_cosine:.4f}\nmin {tower.min_cosine:.4f}",
            )
        )
    headings = ("component", "structures", ">parameters, M", ">multiply-adds, M", "cosine with the original")
    terminal.table(None, headings, rows)
    terminal.say(f"{pruned.folder}, judged by {pruned.pictures:,} pictures")


def _in_millions(change: Change) -> str:
    saved = 1 - change.after / change.before
    return f"{change.before / 1e6:,.2f} → {change.after / 1e6:,.2f}\n−{saved:.0%}"


def _next(pruned: Pruned, data: str) -> str:
    """What to do with it: a student is trained on, and its texts with it where its text tower was pruned."""
    folder = shlex.quote(str(pruned.folder))
    if pruned.recovery is None:
        return f"edgevlm convert {folder} --target all"
    return (
        f"edgevlm distill --student {folder} --teacher {shlex.quote(pruned.teacher or 'TEACHER')} "
        f"--recipe {pruned.recovery} --data {shlex.quote(data)} --out {folder}-recovered"
    )
