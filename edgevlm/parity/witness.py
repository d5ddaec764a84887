"""The second witness of a model that talks: does an app's own runner say what the file says when we ask it.

The runner brings its own loop, state, order of calls and reading of pictures. What it says is held against the logits
that our loop gets from the same file along the same answer.

Where a runner reckons pixels in another order, their last bits differ. Integers that come from rounding may then be
other ones, which most models hardly notice; one of many layers whose weights nobody trained may come to another answer.
How much a file's logits depend on the last bits of pixels is measured where a runner answers otherwise, and forgiven.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

import numpy as np

from edgevlm.bundle.dialogue import FEATURES
from edgevlm.bundle.golden_dialogues import GoldenDialogue, GoldenDialogues
from edgevlm.bundle.manifest import ParityCheck
from edgevlm.bundle.recipe import Recipe
from edgevlm.errors import BundleError
from edgevlm.inference.generator import Seen
from edgevlm.inputs.chat import Written
from edgevlm.parity.generation import Asked, is_grey
from edgevlm.process.progress import Progress, silent
from edgevlm.targets.app_runner import Part, Runner


def measure(
    model: Asked, runner: Runner, called: str, golden: GoldenDialogues, recipe: Recipe, progress: Progress = silent
) -> tuple[ParityCheck, ...]:
    """Asks a runner the golden dialogues.

    Args:
        model: The same file, asked by our loop.
        runner: Whom to ask.
        called: Its name.
        golden: What to ask: one dialogue about each picture, but the grey one, and one without.
        recipe: Of the file.
        progress: Told how far it is.

    Returns:
        `same_answers`, the share of these dialogues in which each token that the runner gave is the most probable one
        by our loop's logits, or as probable but for rounding; all must be. Before it `rounding`, how far logits move
        with the last bits of pixels, where anything was forgiven for that.

    Raises:
        BundleError: the runner says nothing at all.
    """
    same, rounding, dialogues = [], 0.0, _dear_once(golden.dialogues)
    for number, dialogue in enumerate(dialogues):
        progress(f"asking {called}", number / len(dialogues))
        written, seen = model.write(dialogue.picture, dialogue.question)
        said = runner.ids(parts(written, seen), len(dialogue.answer_ids))
        if not said:
            raise BundleError(f"{called} answers {dialogue.question[:60]!r} with nothing")
        logits = model.follow(written, seen, said)
        behind = logits.max(1) - logits[np.arange(len(said)), said]
        ended = next((place for place, each in enumerate(said) if each in model.model.dialogue.end_ids), len(said))
        most, tie = float(behind[: ended + 1].max()), _tie(recipe)
        if most > tie and seen is not None:
            moved = float(np.abs(model.follow(written, _shaken(model, seen), said) - logits)[: ended + 1].max())
            rounding, tie = max(rounding, moved), max(tie, 2 * moved)  # a logit may fall by it, and another one rise
        same.append(most <= tie)
    value = float(np.mean(same))
    answers = ParityCheck.of(called, "same_answers", value, 1.0)
    return (ParityCheck.of(called, "rounding", rounding, None), answers) if rounding else (answers,)


def _dear_once(dialogues: Sequence[GoldenDialogue]) -> list[GoldenDialogue]:
    """The last about each picture that shows something, and the last about none: a runner encodes pictures anew."""
    return [*{each.picture: each for each in dialogues if not is_grey(each.picture)}.values()]


def parts(written: Written, seen: Seen | None) -> list[Part]:
    """A dialogue as a runner is asked it: words and tiles, in the order of their positions.

    A picture that has none among the words comes before them.
    """
    if seen is not None and not written.places:
        return [*seen.pixels, [*written.ids]]
    found: list[Part] = []
    tiles = iter(()) if seen is None else zip(seen.pixels, seen.answers, strict=True)
    for shown, group in groupby(range(len(written.ids)), key=frozenset(written.places).__contains__):
        run = list(group)
        if not shown:
            found.append([written.ids[place] for place in run])
            continue
        while run:
            pixels, answer = next(tiles)
            found.append(pixels)
            run = run[answer[FEATURES].shape[1] :]
    return found


def _shaken(model: Asked, seen: Seen) -> Seen:
    """The same picture, each pixel larger by its last bit."""
    pixels = np.nextafter(seen.pixels, np.float32(np.inf))
    return replace(seen, pixels=pixels, answers=model.model.encode(pixels))


def _tie(recipe: Recipe) -> float:
    """What two logits may differ by that rounding may exchange: rows are summed in other groups where a runner cuts a
    prompt elsewhere, and rounded to other integers then."""
    return 1e-3 if recipe.precision == "fp32" and not recipe.quantises else 0.02
