"""Writes a built-in model's card from its folder's config and figures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_SPLITS = {"train": "seen combinations", "combinations": "unseen combinations", "styles": "unseen styles"}


def write_card(folder: Path) -> None:
    """Writes `README.md` from `config.json` and `figures.json`."""
    (folder / "README.md").write_text(model_card(folder), encoding="utf-8")


def model_card(folder: Path) -> str:
    """The card in Markdown."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    figures = json.loads((folder / "figures.json").read_text(encoding="utf-8"))
    kind = folder.name
    return _CARD.format(
        kind=kind,
        purpose=_PURPOSE[kind],
        parameters=figures["parameters"] / 1e6,
        image_parameters=figures["image_parameters"] / 1e6,
        multiply_adds=figures["multiply_adds"] / 1e6,
        stem=", ".join(map(str, config["image_tower"]["stem_channels"])),
        blocks=config["image_tower"]["blocks"],
        scenes=figures["scenes"],
        attributes=_attribute_table([figures["accuracy"][split] for split in _SPLITS]),
        comparison=_comparison(kind, figures),
        making=_making(figures["provenance"]),
    )


def _attribute_table(columns: list[Mapping[str, Any]]) -> str:
    rows = [_row("**top-1 among 50 descriptions**", [column["top1"] for column in columns], 1 / 50)]
    for number in columns[0]["top1_by_groups"]:
        kind = "group" if number == "1" else "groups"
        rows.append(_row(f"of scenes with {number} {kind}", [c["top1_by_groups"][number] for c in columns], 1 / 50))
    rows.append(_row("**against every change of one attribute**", [c["top1_one_attribute"] for c in columns], None))
    for name, chance in columns[0]["chance"].items():
        rows.append(_row(f"of the {name}", [column["by_attribute"][name] for column in columns], chance))
    return "\n".join([f"| | {' | '.join(_SPLITS.values())} | chance |", "|---|---|---|---|---|", *rows])


def _comparison(kind: str, figures: Mapping[str, Any]) -> str:
    """Top-1 of other models on the same scenes, and of the artefacts on the first of them."""
    head = [f"| | {' | '.join(_SPLITS.values())} |", "|---|---|---|---|"]
    text = ""
    if figures["beside"]:
        compared = {f"**edgevlm-{kind}**": figures, **figures["beside"]}
        rows = [
            _row(name, [found["accuracy"][split]["top1"] for split in _SPLITS])
            + f" {found['multiply_adds'] / 1e6:.1f} |"
            for name, found in compared.items()
        ]
        text += "\nBeside others, top-1 among the 50 descriptions of the same scenes:\n\n"
        text += "\n".join([f"{head[0]} M multiply-adds |", f"{head[1]}---|", *rows]) + "\n"
    if teacher := figures["beside"].get("edgevlm-teacher"):
        kept = [
            f"{figures['accuracy'][split]['top1'] / teacher['accuracy'][split]['top1']:.1%} {where}"
            for split, where in (("combinations", "on unseen combinations"), ("styles", "in unseen styles"))
        ]
        work = figures["multiply_adds"] / teacher["multiply_adds"]
        text += f"\nIt keeps {kept[0]} and {kept[1]} of its teacher's accuracy, with {work:.1%} of the multiply-adds.\n"
    if figures["shipped"]:
        rows = [
            _row(f"{each['what']} ({each['evidence']})", [each["accuracy"][split]["top1"] for split in _SPLITS])
            for each in figures["shipped"]
        ]
        scenes = f"the first {figures['shipped_scenes']} scenes of each column"
        text += f"\nBefore and after conversion, top-1 on {scenes}:\n\n" + "\n".join([*head, *rows]) + "\n"
    return text


def _row(label: str, shares: list[float], *chance: float | None) -> str:
    figures = " | ".join(f"{100 * share:.1f}" for share in shares)
    return f"| {label} | {figures} |" + "".join(" |" if each is None else f" {100 * each:.0f} |" for each in chance)


def _making(provenance: Mapping[str, Any]) -> str:
    return "\n".join(f"- **{key.replace('_', ' ')}:** {_said(value)}" for key, value in provenance.items())


def _said(value: object) -> str:
    return f"`{json.dumps(value)}`" if isinstance(value, dict | list) else str(value)


_PURPOSE = {
    "student": """It is the model that `edgevlm convert` converts when it is given none: small enough to convert in seconds, and good
enough that a wrong answer means a fault in the toolchain. It was distilled from `edgevlm-teacher`.""",
    "teacher": """It is the model that `edgevlm distill` learns from when it is told no other.""",
}

_CARD = """---
license: Apache-2.0
library_name: edgevlm
pipeline_tag: zero-shot-image-classification
---

# edgevlm-{kind}

A dual encoder of {parameters:.1f} M parameters that puts pictures of simple scenes and their descriptions into one space.
{purpose}

- **Pictures:** 64 x 64, RGB. A convolutional stem ({stem} channels), 8 x 8 tokens, {blocks} transformer blocks:
  {image_parameters:.2f} M parameters, {multiply_adds:.0f} M multiply-adds.
- **Texts:** up to 48 tokens of byte-level BPE (CLIP's kind, lower case). Three causal transformer blocks.
- **It knows** one to three objects in one to three groups: nine shapes, ten colours, three finishes, four textures, two
  sizes, counts up to three, places in the frame, left-right and top-bottom order; on several backgrounds and in several
  drawing styles. It has never seen a photograph, and its answers about one mean nothing.

## Accuracy

Zero-shot, in per cent, on {scenes} held-out scenes a column; scenes of the last two columns have no combination of shape,
colour, texture and finish, or no style and background, that training showed. The 49 wrong descriptions of a scene differ
from the true one in one to seven attributes. The lower rows ask more: *every* description that differs in one attribute
of one group competes. The weights measured are the shipped ones (float16), by `python -m edgevlm.benchmarks.builtin`.

{attributes}
{comparison}
## How it was made

{making}

No other data than rendered scenes (`edgevlm.data.scenes`). `training.jsonl` beside this file is the log.

## Licence

Apache-2.0, weights and data.
"""
