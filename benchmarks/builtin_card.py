"""Writes a built-in model's card from its folder's config and figures."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgevlm.process.pages import fill

_SPLITS = {"train": "seen combinations", "combinations": "unseen combinations", "styles": "unseen styles"}


def write_card(folder: Path) -> None:
    """Writes `README.md` from `config.json` and `figures.json`."""
    (folder / "README.md").write_text(model_card(folder), encoding="utf-8")


def model_card(folder: Path) -> str:
    """The card in Markdown."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    figures = json.loads((folder / "figures.json").read_text(encoding="utf-8"))
    teacher = figures["beside"].get("edgevlm-teacher")
    beside = {f"edgevlm-{folder.name}": figures, **figures["beside"]} if figures["beside"] else {}
    return fill(
        Path(__file__).parent,
        "builtin_card.md.jinja",
        kind=folder.name,
        figures=figures,
        splits=_SPLITS.values(),
        parameters=f"{figures['parameters'] / 1e6:.1f}",
        image_parameters=f"{figures['image_parameters'] / 1e6:.2f}",
        multiply_adds=f"{figures['multiply_adds'] / 1e6:.0f}",
        stem=", ".join(map(str, config["image_tower"]["stem_channels"])),
        blocks=config["image_tower"]["blocks"],
        attributes=list(_attributes([figures["accuracy"][split] for split in _SPLITS])),
        beside={
            name: [*_top1(found["accuracy"]), f"{found['multiply_adds'] / 1e6:.1f}"] for name, found in beside.items()
        },
        kept=_kept(figures, teacher) if teacher else None,
        shipped=[(f"{each['what']} ({each['evidence']})", *_top1(each["accuracy"])) for each in figures["shipped"]],
        making=[_made(key, value) for key, value in figures["provenance"].items()],
    )


def _attributes(columns: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, object]]:
    """The rows of the first table; `columns` are the splits' accuracies."""

    def row(label: str, shares: Iterable[float], chance: float | None, strong: bool = False) -> dict[str, object]:
        said = "" if chance is None else f"{100 * chance:.0f}"
        return {"label": label, "shares": [f"{100 * share:.1f}" for share in shares], "chance": said, "strong": strong}

    yield row("top-1 among 50 descriptions", (each["top1"] for each in columns), 1 / 50, strong=True)
    for number in columns[0]["top1_by_groups"]:
        kind = "group" if number == "1" else "groups"
        yield row(f"of scenes with {number} {kind}", (each["top1_by_groups"][number] for each in columns), 1 / 50)
    one = (each["top1_one_attribute"] for each in columns)
    yield row("against every change of one attribute", one, None, strong=True)
    for name, chance in columns[0]["chance"].items():
        yield row(f"of the {name}", (each["by_attribute"][name] for each in columns), chance)


def _top1(accuracy: Mapping[str, Any]) -> list[str]:
    return [f"{100 * accuracy[split]['top1']:.1f}" for split in _SPLITS]


def _kept(figures: Mapping[str, Any], teacher: Mapping[str, Any]) -> dict[str, str]:
    """What a student keeps of its teacher."""
    own, whole = figures["accuracy"], teacher["accuracy"]
    kept = {split: f"{own[split]['top1'] / whole[split]['top1']:.1%}" for split in ("combinations", "styles")}
    return {**kept, "work": f"{figures['multiply_adds'] / teacher['multiply_adds']:.1%}"}


def _made(key: str, value: object) -> dict[str, str]:
    """A line of how the model was made, whose value is JSON, to be copied as it is, or words."""
    said = {"json": json.dumps(value)} if isinstance(value, dict | list) else {"json": "", "words": str(value)}
    return {"what": key.replace("_", " "), **said}
