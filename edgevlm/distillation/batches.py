"""The batches of a run: step `i` is a function of the seed and `i`, so that a run resumes at any step and workers
change nothing."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from edgevlm.bundle.spec import ImagePreprocessing
from edgevlm.distillation.augmentation import view
from edgevlm.distillation.material import Material
from edgevlm.distillation.recipe import DistillRecipe
from edgevlm.distillation.teacher_cache import view_draws
from edgevlm.errors import InputError
from edgevlm.inputs.pictures import resize_and_crop


@dataclass(frozen=True)
class Batch:
    """One process's part of one step, or of one accumulated part of it: B pictures.

    Attributes:
        pixels: uint8 [B, 3, H, W], with the channels last in memory.
        teacher_image: float32 [B, D]; None where no loss asks for it.
        teacher_text: float32 [B, D], of the text that each picture is paired with; None where no loss asks for it.
        token_ids: int32 [B, T], that text's; None without a text tower to train.
        label: int64 [B]; -1 where unknown.
        group: int64 [B]; equal for pictures of one class, or paired with the very same text.
    """

    pixels: Tensor
    teacher_image: Tensor | None
    teacher_text: Tensor | None
    token_ids: Tensor | None
    label: Tensor
    group: Tensor


@dataclass(frozen=True)
class Shares:
    """How a step's pictures are divided.

    Attributes:
        batch_size: Pictures a step, in all.
        accumulate: Parts that follow one another, and whose gradients are added.
        processes: Processes that work side by side on each part.
        process: The number of this one.
    """

    batch_size: int
    accumulate: int = 1
    processes: int = 1
    process: int = 0

    def __post_init__(self) -> None:
        if self.batch_size % (self.accumulate * self.processes):
            raise InputError(
                f"expected a batch size that {self.processes} processes x {self.accumulate} accumulated parts divide, "
                f"got {self.batch_size}",
                hint="change batch_size in the recipe, or --accumulate",
            )

    def own(self, step_indices: NDArray[np.int64], part: int) -> NDArray[np.int64]:
        """This process's pictures of one part of a step."""
        each = self.batch_size // (self.accumulate * self.processes)
        start = (part * self.processes + self.process) * each
        return step_indices[start : start + each]


class Batches(Dataset[Batch]):
    """The parts of all steps in order: item `step * accumulate + part`."""

    def __init__(
        self,
        material: Material,
        recipe: DistillRecipe,
        shares: Shares,
        image: ImagePreprocessing,
        seed: int,
        token_ids: NDArray[np.int32] | None,
    ) -> None:
        self.material = material
        self.augmentation = recipe.augmentation
        self.shares = shares
        self.image = image
        self.seed = seed
        self.token_ids = token_ids
        few = len(material.few_shot) > 0
        self.few_each = round(shares.batch_size * recipe.few_shot.share) if few else 0
        self.base_each = shares.batch_size - self.few_each
        self.steps_an_epoch = len(material.readable) // self.base_each
        self.steps = recipe.schedule.epochs * self.steps_an_epoch

    def __len__(self) -> int:
        return self.steps * self.shares.accumulate

    def __getitem__(self, item: int) -> Batch:
        step, part = divmod(item, self.shares.accumulate)
        epoch = step // self.steps_an_epoch
        indices = self.shares.own(self._step_indices(step), part).tolist()
        draws = [random.Random(f"{self.seed}/{epoch}/{index}") for index in indices]
        views = [draw.randrange(max(1, self.augmentation.stored)) for draw in draws]
        texts = [draw.choice(self.material.text_rows[index]) for index, draw in zip(indices, draws, strict=True)]
        labels = self.material.label_of[indices]
        groups = np.where(labels >= 0, labels, len(self.material.labels) + np.array(texts))
        pixels = [self._pixels(*each) for each in zip(indices, views, draws, strict=True)]
        teacher_image = self.material.teacher_pictures(indices, views) if self.material.pictures else None
        said = self.material.text_embeddings
        teacher_text = None if said is None else said.take(texts)
        return Batch(
            pixels=torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2),
            teacher_image=None if teacher_image is None else torch.from_numpy(teacher_image),
            teacher_text=None if teacher_text is None else torch.from_numpy(teacher_text),
            token_ids=None if self.token_ids is None else torch.from_numpy(self.token_ids[texts]),
            label=torch.from_numpy(labels),
            group=torch.from_numpy(groups),
        )

    def _step_indices(self, step: int) -> NDArray[np.int64]:
        epoch, place = divmod(step, self.steps_an_epoch)
        order = _order(self.seed, epoch, len(self.material.readable))
        base = self.material.readable[order[place * self.base_each : (place + 1) * self.base_each]]
        if not self.few_each:
            return base
        few, draws = self.material.few_shot, np.random.default_rng([self.seed, 1, step])
        mixed = np.concatenate([base, draws.choice(few, self.few_each, replace=len(few) < self.few_each)])
        return draws.permutation(mixed)  # so that every part and process has its share of both

    def _pixels(self, index: int, number: int, draws: random.Random) -> NDArray[np.uint8]:
        how = self.augmentation
        draws = view_draws(self.seed, index, number) if how.stored else draws
        return resize_and_crop(view(self.material.picture(index), how, draws), self.image)


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, 0, epoch]).permutation(count)
