"""Puts scenes and descriptions into words, in several wordings, and leaves attributes open."""

from __future__ import annotations

import random
from dataclasses import replace

from edgevlm.data.scene import ATTRIBUTES, AXES, Group, Scene

OPENINGS = ("", "", "", "a picture of ", "a drawing of ", "a photo of ", "an image of ", "there is ")
SYNONYMS: dict[str, tuple[str, ...]] = {
    "circle": ("circle", "circle", "disc", "round shape"),
    "crescent": ("crescent", "crescent", "moon"),
    "ring": ("ring", "ring", "donut"),
    "cross": ("cross", "cross", "plus sign"),
    "diamond": ("diamond", "diamond", "rhombus"),
    "purple": ("purple", "purple", "violet"),
    "cyan": ("cyan", "cyan", "turquoise"),
    "glossy": ("glossy", "glossy", "shiny"),
    "metallic": ("metallic", "metallic", "metal"),
    "matte": ("matte", "matte", "dull"),
    "plain": ("plain", "plain", "solid"),
    "striped": ("striped", "striped", "stripy"),
    "dotted": ("dotted", "dotted", "spotted"),
    "checked": ("checked", "checked", "checkered"),
    "small": ("small", "small", "little"),
    "large": ("large", "large", "big"),
}
_NUMBERS = {1: ("a", "a", "a", "one", ""), 2: ("two", "two", "2"), 3: ("three", "three", "3")}
_ROWS = {"top": ("top", "upper"), "bottom": ("bottom", "lower")}
_PLURALS = {"cross": "crosses", "round shape": "round shapes", "plus sign": "plus signs", "rhombus": "rhombuses"}
_OTHER_WORDS = " ".join(
    (
        "an object objects and the to left right of above below over under in on at top bottom upper lower middle",
        "centre center corner side from , with stripes dots checks pattern",
    )
).split()


def caption(description: Scene, wording: random.Random | None = None) -> str:
    """The description in words; attributes left open are not mentioned.

    Args:
        description: A scene, or one with attributes left open.
        wording: Draws the wording; without it the canonical one is used, which evaluations use.
    """
    phrases = [_group(group, wording) for group in description.groups]
    text = _ordered(phrases, description, wording) if len(phrases) > 1 else phrases[0]
    if description.cell is not None:
        text += _cell(description.cell, wording)
    return f"{wording.choice(OPENINGS)}{text}" if wording else text


def leave_open(scene: Scene, draws: random.Random, share: float) -> Scene:
    """The scene with about `share` of its attributes left open; something is always said of each group."""
    groups = tuple(_thinned(group, draws, share) for group in scene.groups)
    return replace(
        scene,
        groups=groups,
        cell=None if draws.random() < share else scene.cell,
        axis=None if draws.random() < share else scene.axis,
    )


def vocabulary() -> list[str]:
    """One text for every word that captions use, for training a tokenizer."""
    words = [word for words in SYNONYMS.values() for word in words]
    words += [value for values in ATTRIBUTES.values() for value in values]
    shapes = [word for shape in ATTRIBUTES["shape"] for word in SYNONYMS.get(shape, (shape,))]
    words += [_plural(shape) for shape in shapes]
    words += [word for forms in _NUMBERS.values() for word in forms]
    words += " ".join(OPENINGS).split()
    words += _OTHER_WORDS
    return list(dict.fromkeys(words))


def _thinned(group: Group, draws: random.Random, share: float) -> Group:
    open_names = [name for name in ATTRIBUTES if draws.random() < share]
    if len(open_names) == len(ATTRIBUTES):
        open_names.remove(draws.choice(("shape", "colour")))
    return replace(group, **dict.fromkeys(open_names)) if open_names else group  # type: ignore[arg-type]


def _word(value: str, wording: random.Random | None) -> str:
    return wording.choice(SYNONYMS.get(value, (value,))) if wording else value


def _plural(noun: str) -> str:
    return _PLURALS.get(noun, f"{noun}s")


def _group(group: Group, wording: random.Random | None) -> str:
    noun = _word(group.shape or "object", wording)
    noun = _plural(noun) if group.count > 1 else noun
    adjectives = [
        _word(value, wording) for value in (group.size, group.finish, group.texture, group.colour) if value is not None
    ]
    if wording and len(adjectives) > 1 and wording.random() < 0.25:
        wording.shuffle(adjectives)
    number = wording.choice(_NUMBERS[group.count]) if wording else _NUMBERS[group.count][0]
    if wording and len(adjectives) > 1 and wording.random() < 0.15:
        first, *rest = adjectives
        words = [number, first, noun, ",", " and ".join(rest)]
    else:
        words = [number, *adjectives, noun]
    return " ".join(filter(None, words)).replace("a orange", "an orange")


def _ordered(phrases: list[str], description: Scene, wording: random.Random | None) -> str:
    if description.axis is None:
        if wording:
            wording.shuffle(phrases)
        return " and ".join(phrases)
    horizontal = description.axis == AXES[0]
    if len(phrases) == 3:
        return f"{phrases[0]} , {phrases[1]} and {phrases[2]} from {description.axis}"
    first, second = phrases
    if wording and wording.random() < 0.4:
        relation = "to the right of" if horizontal else wording.choice(("below", "under"))
        return f"{second} {relation} {first}"
    relation = "to the left of" if horizontal else (wording.choice(("above", "over")) if wording else "above")
    return f"{first} {relation} {second}"


def _cell(cell: str, wording: random.Random | None) -> str:
    row, column = cell.split()
    middle = wording.choice(("centre", "center", "middle")) if wording else "centre"
    if row == "middle":
        return f" in the {middle}" if column == "centre" else f" on the {column}"
    if column == "centre":
        return f" at the {row}"
    corner = wording.choice(("", " corner")) if wording else ""
    return f" in the {wording.choice(_ROWS[row]) if wording else row} {column}{corner}"
