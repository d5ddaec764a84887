"""The study's arms: which losses, and which texts; fixed before the first training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from edgevlm.benchmarks.ood.classes import StudyClass, Telling, describe
from edgevlm.distillation.recipe import DistillRecipe, Schedule, resolve
from edgevlm.enrichment.descriptions import Descriptions, Entry

Text = Literal["name", "description", "partial", "wrong", "shuffled"]
TEXTS: tuple[Text, ...] = get_args(Text)
_TELLINGS: dict[Text, Telling] = {
    "description": "right",
    "partial": "partial",
    "wrong": "wrong",
    "shuffled": "shuffled",
}


@dataclass(frozen=True)
class Arm:
    """One way to train a student.

    Attributes:
        losses: Of the shipped recipe `ood`, by name, with its weights and temperatures.
        trained_on: What the class texts say in training.
        tested_on: And afterwards.
    """

    losses: tuple[str, ...]
    trained_on: Text
    tested_on: tuple[Text, ...]

    def recipe(self, schedule: Schedule) -> DistillRecipe:
        """The shipped recipe `ood` with this arm's losses alone."""
        shipped = resolve("ood")
        losses = tuple(each for each in shipped.losses if each.loss in self.losses)
        return DistillRecipe("-".join(self.losses), losses, schedule=schedule, augmentation=shipped.augmentation)


_LABELS, _MSE = ("classification",), ("feature_mse",)
_CONTRASTIVE = (*_LABELS, *_MSE, "image_contrastive")
_FULL = (*_CONTRASTIVE, "proximity")
STACKS: dict[str, tuple[str, ...]] = {
    "labels": _LABELS,
    "mse": _LABELS + _MSE,
    "contrastive": _CONTRASTIVE,
    "full": _FULL,
}
ARMS: dict[str, Arm] = {
    f"{name}-{text}": Arm(losses, text, (text,)) for text in ("name", "description") for name, losses in STACKS.items()
}
# Without label texts in training, one student answers both.
ARMS["mse-alone"] = Arm(_MSE, "name", ("name", "description"))
ARMS |= {f"full-{text}": Arm(_FULL, text, (text,)) for text in ("partial", "wrong", "shuffled")}


def tell(classes: Sequence[StudyClass], text: Text) -> Descriptions | None:
    """What is said of the classes beside their names.

    Args:
        classes: All of them; the first half, which is trained on, and the second exchange no sentences.
        text: Of which kind.
    """
    if text == "name":
        return None
    half = len(classes) // 2
    said = describe(classes[:half], _TELLINGS[text]) | describe(classes[half:], _TELLINGS[text])
    return Descriptions({}, {name: Entry((sentence,)) for name, sentence in said.items()})
