"""`edgevlm describe`, and what `run --ask` does: pictures in, text out as it comes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgevlm.commands.options import PATH, Number, Whole, as_json, threads
from edgevlm.process.limits import LARGEST_SEED

if TYPE_CHECKING:
    from edgevlm.bundle.dialogue import Sampling
    from edgevlm.errors import ImageError
    from edgevlm.inference.embedder import BundleModel
    from edgevlm.inference.generator import Answer


OF_ANSWERS = ("system", "max_tokens", "temperature", "seed")
"""Parameters of `answer_options`."""


def answer_options(command: Callable[..., None]) -> Callable[..., None]:
    """How an answer is given: the options of every command that has one given."""
    for option in reversed((
        click.option("--system", help="How to answer, for models that were trained with such a text."),
        click.option("--max-tokens", type=Whole(), default=256, show_default=True, help="Of an answer."),
        click.option(
            "--temperature", type=Number(min=0), help="0 takes the likeliest word; left out, the model's own."
        ),
        click.option("--seed", type=Whole(0, LARGEST_SEED), default=0, show_default=True, help="Of what is drawn."),
    )):  # fmt: skip
        command = option(command)
    return command


@click.command()
@click.argument("bundle", type=PATH)
@click.argument("images", nargs=-1, required=True, metavar="PICTURE|FOLDER...")
@answer_options
@threads
@as_json
def describe(
    bundle: Path,
    images: tuple[str, ...],
    system: str | None,
    max_tokens: int,
    temperature: float | None,
    seed: int,
    threads: int | None,
    as_json: bool,
) -> None:
    """Have BUNDLE, of a model that talks, describe pictures, by the question that it was made for.

    \b
    Examples:
      edgevlm describe dist/my-smolvlm-tflite-fp16.edgevlm photo.png
      edgevlm describe dist/my-blip-tflite-fp16.edgevlm photos/ --json
    """
    answer(
        bundle, images, None, system=system, max_tokens=max_tokens, temperature=temperature, seed=seed,
        threads=threads, as_json=as_json,
    )  # fmt: skip


def answer(
    bundle: Path,
    images: tuple[str, ...],
    question: str | None,
    *,
    system: str | None,
    max_tokens: int,
    temperature: float | None,
    seed: int,
    threads: int | None,
    as_json: bool,
) -> None:
    """Asks a bundle about each picture, and prints the answers as they come; Ctrl-C ends one, and keeps what came."""
    from edgevlm import api
    from edgevlm.commands import pictures, showing
    from edgevlm.process import interrupts, terminal

    with terminal.progress_bar() as progress:
        given = pictures.read_given(images)
        progress("opening the bundle", None)
        model = api.open(bundle, threads=threads)
    stopped = False
    with model, interrupts.at_leisure() as asked:
        talker, sampling = model.talker, _sampling(model, temperature)

        def ask(picture: str) -> dict[str, Any]:
            nonlocal stopped
            found = talker.generate(
                picture, question, system=system, max_tokens=max_tokens, sampling=sampling, seed=seed
            )
            pieces = iter(found)
            with terminal.progress_bar() as progress:
                progress(f"looking at {picture}", None)
                first = next(pieces, "")
            if not as_json:
                terminal.say(f"{picture}: {first}" if len(given.paths) > 1 else first, end="")
            for piece in pieces:
                if not as_json:
                    terminal.say(piece, end="")
                if asked():
                    found.stop()
                    stopped = True
            if not as_json:
                terminal.say("")
            return _told(picture, talker.dialogue.describe if question is None else question, found)

        answers: list[dict[str, Any]] = []
        unreadable: dict[str, ImageError] = {}
        for path in given.paths:
            if stopped or asked():
                break
            one = pictures.ask_each([path], ask, lambda stage, share: None)
            answers += [told for _, told in one.found]
            unreadable |= one.unreadable
        showing.notes(model.bundle)
        if as_json:
            terminal.print_json({"answers": answers} | pictures.told(given, unreadable))
    pictures.refuse_unreadable(unreadable, len(given.paths))


def _sampling(model: BundleModel, temperature: float | None) -> Sampling | None:
    from dataclasses import replace

    return None if temperature is None else replace(model.talker.dialogue.sampling, temperature=temperature)


def _told(picture: str, question: str, found: Answer) -> dict[str, Any]:
    return {
        "image": picture,
        "question": question,
        "text": found.text,
        "finish": found.finish,
        "tokens": len(found.token_ids),
        "times": asdict(found.times),
    }
