"""What the built-in teacher learns from: batches of rendered scenes, true descriptions of them, and false ones."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor
from torch.utils.data import Dataset

from edgevlm.data.captions import caption, leave_open
from edgevlm.data.scene import ATTRIBUTES, AXES, CELLS, COUNTS, Scene, variants
from edgevlm.data.scenes import Scenes
from edgevlm.evaluation.scene_zero_shot import VARIED

NEGATIVES = 3
# What a scene states: its number of groups, cell and axis, then each group's attributes and count, in order.
FACTS = (3, len(CELLS), len(AXES), *(*(len(values) for values in ATTRIBUTES.values()), len(COUNTS)) * 3)


@dataclass(frozen=True)
class Batch:
    """One training step: B pictures, B descriptions, and `NEGATIVES` false ones for each picture.

    Attributes:
        pixels: uint8 [B, 3, 64, 64].
        token_ids: int32 [B * (1 + NEGATIVES), T] in all, the true ones first: parts of equal length, with the
            rows they stand for, so that short texts are not computed at the longest's length.
        also_true: bool [B, B], whether description j is true of another picture i.
        picture_facts, text_facts: int64 [B, F] and [B * (1 + NEGATIVES), F], see `FACTS`; -1 where unknown.
    """

    pixels: Tensor
    token_ids: tuple[tuple[Tensor, Tensor], ...]
    also_true: Tensor
    picture_facts: Tensor
    text_facts: Tensor


class Steps(Dataset[Batch]):
    """The batches of a run; step `i` depends on the seed and `i` alone, so that workers change nothing."""

    def __init__(self, seed: int, batch_size: int, steps: int, tokenizer: Tokenizer) -> None:
        self.scenes = Scenes(seed)
        self.batch_size = batch_size
        self.steps = steps
        self.tokenizer = tokenizer

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Batch:
        batch = self.scenes.batch(step * self.batch_size, self.batch_size)
        draws = random.Random(f"{self.scenes.seed}/{step}")
        told = [leave_open(scene, draws, draws.choice((0.0, 0.0, 0.3, 0.6))) for scene in batch.scenes]
        false = [description for scene in told for description in _false(scene, draws)]
        texts = [caption(description, draws) for description in (*told, *false)]
        pixels = torch.from_numpy(np.ascontiguousarray(batch.pixels.transpose(0, 3, 1, 2)))
        ids = token_ids(self.tokenizer, texts)
        lengths = (ids != ids[0, -1]).sum(1) + 1
        parts = tuple((rows, ids[rows, : _rounded(lengths[rows].max())]) for rows in lengths.argsort().chunk(8))
        return Batch(
            pixels,
            parts,
            torch.from_numpy(_also_true(told, batch.scenes)),
            torch.tensor([facts(scene) for scene in batch.scenes]),
            torch.tensor([facts(description) for description in (*told, *false)]),
        )


def token_ids(tokenizer: Tokenizer, texts: Sequence[str]) -> Tensor:
    """int32 [N, T], T the longest text's length, padded with its end-of-text id."""
    rows = [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]
    longest = _rounded(max(map(len, rows)))
    return torch.tensor([row + [row[-1]] * (longest - len(row)) for row in rows], dtype=torch.int32)


def _rounded(length: int | Tensor) -> int:
    # A few lengths, many times: each new shape costs the CPU kernels a compilation of its own.
    return -(-int(length) // 8) * 8


def facts(scene: Scene) -> list[int]:
    """`FACTS` of a scene or description; -1 where it leaves them open. Groups in no order have no slots."""
    found = [len(scene.groups) - 1, _index(CELLS, scene.cell), _index(AXES, scene.axis)]
    ordered = scene.groups if scene.axis is not None or len(scene.groups) == 1 else ()
    for group in ordered:
        found += [_index(values, getattr(group, name)) for name, values in ATTRIBUTES.items()]
        found.append(COUNTS.index(group.count))
    return found + [-1] * (len(FACTS) - len(found))


def _index(values: Sequence[str], value: str | None) -> int:
    return -1 if value is None else values.index(value)


def _false(description: Scene, draws: random.Random) -> list[Scene]:
    """`NEGATIVES` descriptions with one attribute changed; an attribute that is open cannot be changed."""
    names = list(VARIED)
    draws.shuffle(names)
    options = [found for found in (variants(description, name) for name in names) if found]
    return [draws.choice(options[index % len(options)]) for index in range(NEGATIVES)]


def _also_true(descriptions: Sequence[Scene], scenes: Sequence[Scene]) -> NDArray[np.bool_]:
    """bool [scenes, descriptions] off the diagonal: true, or so nearly true that it should not count as false."""
    said, is_so = _table(descriptions), _table(scenes)
    same = (said[None, :, :, None] == is_so[:, None, None, :]) | (said[None, :, :, None] == -1)
    matches: NDArray[np.bool_] = same.all(-1).any(3).all(2)
    cells = [np.array([CELLS.index(s.cell) if s.cell else -1 for s in some]) for some in (descriptions, scenes)]
    matches &= (cells[0][None] == -1) | (cells[0][None] == cells[1][:, None])
    np.fill_diagonal(matches, False)
    return matches


def _table(scenes: Sequence[Scene]) -> NDArray[np.int8]:
    """int8 [N, 3, 6]: each group's attributes and count; -1 where open, the first group again where absent."""
    names = list(ATTRIBUTES)
    rows = []
    for scene in scenes:
        groups = [
            [ATTRIBUTES[name].index(value) if (value := getattr(group, name)) else -1 for name in names]
            + [10 * len(scene.groups) + group.count]
            for group in scene.groups
        ]
        rows.append(groups + [groups[0]] * (3 - len(groups)))
    return np.array(rows, np.int8)
