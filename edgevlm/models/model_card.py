"""Writes the built-in student's model card from its measured figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SPLITS = {"train": "seen combinations", "combinations": "unseen combinations", "styles": "unseen styles"}


def model_card(figures: Mapping[str, Any]) -> str:
    """The card in Markdown.

    Args:
        figures: What `accuracy.json` holds: `training`, `parameters`, and `accuracy` by split.
    """
    training, accuracy = figures["training"], figures["accuracy"]
    return _CARD.format(
        parameters=figures["parameters"] / 1e6,
        scenes=accuracy["train"]["scenes"],
        table=_table([accuracy[split] for split in _SPLITS]),
        drawn=training["steps"] * training["batch_size"],
        minutes=training["seconds"] / 60,
        **training,
    )


def _table(columns: list[Mapping[str, Any]]) -> str:
    rows = [_row("**top-1 among 50 descriptions**", [column["top1"] for column in columns], 1 / 50)]
    for number in columns[0]["top1_by_groups"]:
        kind = "group" if number == "1" else "groups"
        rows.append(_row(f"of scenes with {number} {kind}", [c["top1_by_groups"][number] for c in columns], 1 / 50))
    rows.append(_row("**against every change of one attribute**", [c["top1_one_attribute"] for c in columns], None))
    for name, chance in columns[0]["chance"].items():
        rows.append(_row(f"of the {name}", [column["by_attribute"][name] for column in columns], chance))
    return "\n".join([f"| | {' | '.join(_SPLITS.values())} | chance |", "|---|---|---|---|---|", *rows])


def _row(label: str, shares: list[float], chance: float | None) -> str:
    figures = " | ".join(f"{100 * share:.1f}" for share in shares)
    return f"| {label} | {figures} | {'' if chance is None else f'{100 * chance:.0f}'} |"


_CARD = """# edgevlm-student

A dual encoder of {parameters:.1f} M parameters that puts pictures of simple scenes and their descriptions into one space.
It is the model that `edgevlm convert` converts when it is given none: small enough to convert in seconds, and good
enough that a wrong answer means a fault in the toolchain.

- **Pictures:** 64 x 64, RGB. A convolutional stem, 8 x 8 tokens, two transformer blocks.
- **Texts:** up to 48 tokens of byte-level BPE (CLIP's kind, lower case). Three causal transformer blocks.
- **It knows** one to three objects in one to three groups: nine shapes, ten colours, three finishes, four textures, two
  sizes, counts up to three, places in the frame, left-right and top-bottom order; on several backgrounds and in several
  drawing styles. It has never seen a photograph, and its answers about one mean nothing.

## Accuracy

Zero-shot, in per cent, on {scenes} held-out scenes a column; scenes of the last two columns have no combination of shape,
colour, texture and finish, or no style and background, that training showed. The 49 wrong descriptions of a scene differ
from the true one in one to seven attributes. The lower rows ask more: *every* description that differs in one attribute
of one group competes. The weights measured are the shipped ones (float16).

{table}
## Training

    python -m edgevlm.models.student_training --out OUT --seed {seed} --steps {steps} --batch-size {batch_size}

{drawn:,} rendered scenes, each seen once (`edgevlm.data.scenes`, split `train`, seed {seed}), {steps} steps of
{batch_size}, {minutes:.0f} minutes with {threads} thread and one process that draws, torch {torch}; other work shared the two cores.
No other data. The losses are in the script; `training.jsonl` beside this file is its log.

## Licence

Apache-2.0, weights and data.
"""
