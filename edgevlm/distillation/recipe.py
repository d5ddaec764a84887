"""How a student is trained: a recipe of the papers by name, or a strict YAML file that a user copied and edited.

name: my-domain
losses:
  - {loss: classification, weight: 1.0, options: {temperature: 0.07}}
  - {loss: feature_mse}
schedule: {epochs: 20, batch_size: 128, learning_rate: 0.001}
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from itertools import takewhile
from pathlib import Path
from typing import Any

from edgevlm import schema
from edgevlm.errors import RecipeError, shown
from edgevlm.models.students.presets import TEXT_PRESETS
from edgevlm.process.limits import MOST_EPOCHS, MOST_PICTURES

_SHIPPED = files("edgevlm.distillation.recipes")
TEXT_TOWERS = ("teacher", "none", *TEXT_PRESETS)
BUILTIN = ("ood", "tinyclip", "clip-kd", "mobileclip", "recovery", "labels-only")


@dataclass(frozen=True)
class LossTerm:
    """One summand of the training loss.

    Attributes:
        loss: Its name in `edgevlm.distillation.losses`.
        weight: Its factor.
        options: Its options by name, such as `temperature`; the loss's own defaults where left out.
    """

    loss: str
    weight: float = 1.0
    options: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Schedule:
    """How long and how fast; AdamW with a linear warm-up and a cosine decay to zero.

    Attributes:
        epochs: Passes over the pictures.
        batch_size: Pictures a step, over all processes and accumulated parts together.
        learning_rate: At its highest.
        weight_decay: On matrices and kernels; biases, norms and the logit scale have none.
        warmup: Share of the steps in which the rate rises from zero.
        gradient_clip: Largest norm of the gradient; 0 does not clip.
    """

    epochs: int = 20
    batch_size: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warmup: float = 0.05
    gradient_clip: float = 1.0


@dataclass(frozen=True)
class Augmentation:
    """What happens to a picture before the student sees it.

    Attributes:
        crop_scale: Range of a random square crop's area, as a share of the largest square's.
        mirror: Chance of a left-right flip; 0 where words tell left from right.
        jitter: Largest relative change of brightness, contrast and saturation.
        stored: Number of augmented views a picture whose teacher embeddings are stored, so that teacher and student
            see the same crop (multi-modal reinforced training, arXiv 2311.17049). With 0 the teacher sees the whole,
            unchanged picture, and the student a fresh view every time (arXiv 2307.03135).
    """

    crop_scale: tuple[float, float] = (0.7, 1.0)
    mirror: float = 0.0
    jitter: float = 0.2
    stored: int = 0


@dataclass(frozen=True)
class FewShot:
    """How a few pictures of new classes are mixed in (arXiv 2307.03135: up to half of each batch, 20 epochs).

    Attributes:
        shots: Pictures a class that are drawn from the few-shot data.
        share: Their part of every batch.
    """

    shots: int = 5
    share: float = 0.5


@dataclass(frozen=True)
class DistillRecipe:
    """A resolved recipe, as it is written beside the student.

    >>> import dataclasses, edgevlm
    >>> shipped = edgevlm.DistillRecipe.load("ood")  # or a YAML file; `edgevlm recipes ood --copy my.yaml` writes one
    >>> [term.loss for term in shipped.losses]
    ['classification', 'feature_mse', 'image_contrastive', 'proximity']
    >>> mine = dataclasses.replace(shipped, name="mine", templates=("a drawing of a {}",))  # for `edgevlm.distill`

    Attributes:
        name: What the record of a run calls it.
        losses: What is added up to the training loss; `edgevlm recipes` lists them with their options.
        summary: What it is for.
        templates: Prompts in which `{}` stands for a label; a picture is paired with any of them.
        text_tower: `teacher` keeps the teacher's, a preset such as `text-s` (`edgevlm models` lists them) trains a
            small one along, `none` bakes the labels.
    """

    name: str
    losses: tuple[LossTerm, ...]
    summary: str = ""
    templates: tuple[str, ...] = ("a photo of a {}",)
    text_tower: str = "teacher"
    schedule: Schedule = Schedule()
    augmentation: Augmentation = Augmentation()
    few_shot: FewShot = FewShot()

    @classmethod
    def load(cls, name_or_file: str | Path) -> DistillRecipe:
        """The shipped recipe of that name, or the one in that YAML file; see `resolve`."""
        return resolve(name_or_file)


def builtin() -> tuple[DistillRecipe, ...]:
    """The shipped recipes."""
    return tuple(resolve(name) for name in BUILTIN)


def resolve(name_or_file: str | Path) -> DistillRecipe:
    """The shipped recipe of that name, or the one in that YAML file.

    Raises:
        RecipeError: no such recipe; or the file has an unknown key, a wrong type or a value out of range.
    """
    name = str(name_or_file)
    if name in BUILTIN:
        where = f"{name}.yaml"
        return _read(schema.parse_yaml(_shipped(name), where=where, error=RecipeError), where)
    path = Path(name_or_file)
    if not os.path.isfile(path):  # which, unlike Path's, says no to a name that is too long for one
        raise RecipeError(
            f"no distillation recipe {name!r}: expected one of {', '.join(BUILTIN)}, or the path of a YAML file",
            hint="edgevlm recipes lists the built-in ones; --recipe NAME.yaml takes your own",
        )
    return _read(schema.read_yaml(path, error=RecipeError), str(path))


def origin(name: str) -> str:
    """What a shipped recipe's file says at its top of where it comes from, a line each."""
    lines = takewhile(lambda line: line.startswith("#"), _shipped(name).splitlines())
    return "\n".join(line.removeprefix("#").strip() for line in lines)


def _shipped(name: str) -> str:
    return _SHIPPED.joinpath(f"{name}.yaml").read_text(encoding="utf-8")


def _read(data: Mapping[str, Any], where: str) -> DistillRecipe:
    recipe = schema.read(DistillRecipe, {"name": Path(where).stem, **data}, where=where, error=RecipeError)
    check(recipe, where)
    return recipe


def check(recipe: DistillRecipe, where: str) -> None:
    """Raises RecipeError for a number out of range; whether the losses exist, `edgevlm.distillation.losses` says."""
    schedule, augmentation, few_shot = recipe.schedule, recipe.augmentation, recipe.few_shot
    low, high = augmentation.crop_scale
    rate, decay, clip = schedule.learning_rate, schedule.weight_decay, schedule.gradient_clip
    batch, weights = schedule.batch_size, [each.weight for each in recipe.losses]
    rules: list[tuple[str, Any, bool, str]] = [
        ("losses", weights, any(weights), "at least one loss with a weight above 0"),
        ("templates", recipe.templates, bool(recipe.templates), "at least one template"),
        ("templates", recipe.templates, all("{}" in text for text in recipe.templates), "{} in every template"),
        ("text_tower", recipe.text_tower, recipe.text_tower in TEXT_TOWERS, f"one of {', '.join(TEXT_TOWERS)}"),
        ("schedule.epochs", schedule.epochs, 1 <= schedule.epochs <= MOST_EPOCHS, f"1 to {MOST_EPOCHS:,}"),
        ("schedule.batch_size", batch, 2 <= batch <= MOST_PICTURES, f"2 to {MOST_PICTURES:,}"),
        ("schedule.learning_rate", rate, 0 < rate <= 1e30, "a number above 0, at most 1e30"),
        ("schedule.weight_decay", decay, 0 <= decay < math.inf, "a finite number, at least 0"),
        ("schedule.warmup", schedule.warmup, 0 <= schedule.warmup < 1, "a share from 0 to below 1"),
        ("schedule.gradient_clip", clip, 0 <= clip < math.inf, "a finite number, at least 0"),
        ("augmentation.crop_scale", augmentation.crop_scale, 0 < low <= high <= 1, "0 < low <= high <= 1"),
        ("augmentation.mirror", augmentation.mirror, 0 <= augmentation.mirror <= 1, "a chance from 0 to 1"),
        ("augmentation.jitter", augmentation.jitter, 0 <= augmentation.jitter < 1, "a share from 0 to below 1"),
        ("augmentation.stored", augmentation.stored, 0 <= augmentation.stored <= 1000, "0 to 1000"),
        ("few_shot.shots", few_shot.shots, 1 <= few_shot.shots <= MOST_PICTURES, f"1 to {MOST_PICTURES:,}"),
        ("few_shot.share", few_shot.share, 0 < few_shot.share < 1, "a share between 0 and 1"),
    ]
    for key, value, holds, expected in rules:
        if not holds:
            raise RecipeError(f"{where}: {key}: expected {expected}, got {shown(value)}")
