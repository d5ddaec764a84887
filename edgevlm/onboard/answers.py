"""An answer of a model that talks, part by part: its picture, its prompt, and a token at several fills of the context.

A part is to a bundle that talks what a component is to others: what is run again and again, timed, and named by jobs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import cycle, islice

from edgevlm.bundle.dialogue import DECODE, ENCODE_IMAGE, FEATURES, Dialogue
from edgevlm.bundle.spec import F32
from edgevlm.errors import DeviceError
from edgevlm.inference.generator import Generator, Place, Seen
from edgevlm.inputs.chat import Message
from edgevlm.inputs.pictures import decode

PROMPT, TOKEN = "prompt", "token_at_"
QUESTION = "What is in this picture?"


def parts(dialogue: Dialogue) -> tuple[str, ...]:
    """What is timed of an answer, in the order in which it happens: `encode_image` of all tiles of a picture, `prompt`,
    and a token that takes the last position of a quarter of the context, of half, and of all: `token_at_512`.
    """
    context = dialogue.context_length
    fills = dict.fromkeys(max(2, context // share) for share in (4, 2, 1))
    return (ENCODE_IMAGE, PROMPT, *(f"{TOKEN}{fill}" for fill in fills))


class Part:
    """One part of an answer; see `parts`.

    Args:
        model: Whose.
        name: Of the part.
        photo: What is asked about, encoded.

    Attributes:
        positions: Of the context that one run takes; None of a picture alone.
        run: The part, once; float32, the logits of what comes next, or the features of the last tile.
        stages: What comes before it; see `edgevlm.onboard.engines.Engine`.

    Raises:
        DeviceError: there is no part of that name.
        InputError: picture and question do not fit the context.
    """

    def __init__(self, model: Generator, name: str, photo: bytes) -> None:
        if name not in parts(model.dialogue):
            raise DeviceError(f"no part {name!r}: expected one of {', '.join(parts(model.dialogue))}")
        picture = decode(photo)
        pixels, cut = model.cut(picture)
        self.positions: int | None = None
        self.run: Callable[[], F32] = lambda: next(iter(model.encode(pixels)[-1].values()))
        self.stages: Mapping[str, Callable[[], object]] = {}
        if name == ENCODE_IMAGE:
            self.stages = {"decode": lambda: decode(photo), "preprocess": lambda: model.cut(picture)}
        elif name == PROMPT:
            seen = Seen(pixels, model.encode(pixels), cut, 0.0)
            written, place = model.write(question(model), seen), model.place()
            self.positions = len(written.ids)
            self.stages = {"tokenise": lambda: model.write(question(model), seen)}
            self.run = _again(place, 0, lambda: model.begin(place, written, seen))
        elif name.startswith(TOKEN):
            place, words = model.place(), model.tokenizer.pieces(QUESTION)
            if all(each.name != FEATURES for each in model.specs[ENCODE_IMAGE].outputs):
                place.see(model.encode(pixels)[0])
            fill = int(name.removeprefix(TOKEN)) - 1
            longest = model.specs[DECODE].lengths[-1]  # of which a prefix has no more
            for start in range(0, fill, longest):
                place.put([*islice(cycle(words), min(longest, fill - start))])
            self.positions = 1
            self.run = _again(place, fill, lambda: place.put(words[:1]))


def question(model: Generator) -> list[Message]:
    """The dialogue that is timed: a picture and a question, or the picture alone where a model describes it."""
    return [Message("user", QUESTION if model.dialogue.chat else model.dialogue.describe, pictures=1)]


def _again(place: Place, used: int, put: Callable[[], F32]) -> Callable[[], F32]:
    """Puts the same in the same positions each time; what stands behind these is not looked at."""

    def run() -> F32:
        place.used = used
        return put()

    return run
