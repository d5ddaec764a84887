"""The study's own teacher: a small CLIP that knows its classes better by description than by name.

A web-scale CLIP has read the name of a rare bird now and then, and words such as "orange" and "striped" all the time.
This one, trained from nothing, is made like it. Of its pictures, a few of every class, trained on by students or not,
are told as "a photo of a NAME" and nothing else; the others show any group of like objects, are told by their
attributes, and some of these texts begin with a word that means nothing.
"""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from edgevlm.benchmarks.ood.classes import StudyClass, draw_scenes, other_names, place
from edgevlm.bundle.spec import TextPreprocessing
from edgevlm.data.captions import OPENINGS, caption, leave_open
from edgevlm.data.scene import ATTRIBUTES, COUNTS, Group
from edgevlm.distillation import checkpoints
from edgevlm.distillation.builtin.batches import token_ids
from edgevlm.distillation.builtin.caption_tokenizer import build_tokenizer
from edgevlm.distillation.losses import LossInputs, clip
from edgevlm.inputs.texts import TOKENIZER_FILE
from edgevlm.models.students import folder as folders
from edgevlm.models.students.config import square_pictures
from edgevlm.models.students.dual_encoder import DualEncoder
from edgevlm.models.students.layout import is_student
from edgevlm.models.students.parts import SmallText, StudentParts
from edgevlm.models.students.presets import preset, text_preset
from edgevlm.models.students.towers import build_image_tower, build_text_tower
from edgevlm.process.progress import Progress

EMBEDDING_DIM = 128
_VOCABULARY_SIZE = 1024
_TEXT = TextPreprocessing(
    context_length=48,
    pad_id=1,
    eot_id=1,
    canonicalisation="none",
    lower_case=True,
    tokenizer_file=TOKENIZER_FILE,
)
_PEAK_RATE, _WARMUP = 1.5e-3, 0.08
_LARGEST_LOG_SCALE = 4.6052  # log(100), CLIP's ceiling
_PREFIXED_SHARE = 0.15
_CHECKPOINT_EVERY = 50


@dataclass(frozen=True)
class TeacherPlan:
    """How it is trained.

    Attributes:
        image_tower, text_tower: Names of presets.
        pictures: In all.
        named: Pictures of each class that are told by name.
        epochs: Passes over the pictures; the wordings are new each time.
        batch_size: Pictures a step.
        seed: Of weights, pictures, order and wordings.
    """

    image_tower: str = "grid-s"
    text_tower: str = "text-xs"
    pictures: int = 30_000
    named: int = 6
    epochs: int = 8
    batch_size: int = 256
    seed: int = 0


class Corpus:
    """Pictures and what is said of them; those told by name come first.

    Args:
        plan: Sizes and the seed.
        classes: Whose names are told.
    """

    def __init__(self, plan: TeacherPlan, classes: Sequence[StudyClass]) -> None:
        draws = random.Random(f"teacher {plan.seed}")
        self.plan = plan
        self._names = [told.name for told in classes for _ in range(plan.named)]
        groups = [told.group for told in classes for _ in range(plan.named)]
        groups += [_any_group(draws) for _ in range(plan.pictures - len(groups))]
        self._scenes = [place(group, draws) for group in groups]
        self.pixels = draw_scenes(self._scenes, (1 << 24) + plan.seed)
        self._others = other_names()

    def __len__(self) -> int:
        return len(self._scenes)

    def batch(self, step: int) -> tuple[NDArray[np.uint8], list[str]]:
        """Pictures uint8 [B, S, S, 3] and their texts; the same for a step every time."""
        steps_an_epoch = len(self) // self.plan.batch_size
        epoch, number = divmod(step, steps_an_epoch)
        order = np.random.default_rng([self.plan.seed, epoch]).permutation(len(self))
        rows = order[number * self.plan.batch_size : (number + 1) * self.plan.batch_size]
        draws = random.Random(f"teacher {self.plan.seed} {step}")
        return self.pixels[rows], [self._tell(row, draws) for row in rows.tolist()]

    def _tell(self, row: int, draws: random.Random) -> str:
        if row < len(self._names):
            return f"{draws.choice(OPENINGS)}a {self._names[row]}"
        scene = self._scenes[row]
        text = caption(leave_open(scene, draws, draws.choice((0.0, 0.0, 0.3, 0.6))), draws)
        if draws.random() < _PREFIXED_SHARE:
            return f"{draws.choice(OPENINGS)}a {draws.choice(self._others)} . {text}"
        return text


def _any_group(draws: random.Random) -> Group:
    values = {name: draws.choice(values) for name, values in ATTRIBUTES.items()}
    return Group(**values, count=draws.choice(COUNTS))


def train_teacher(plan: TeacherPlan, classes: Sequence[StudyClass], folder: Path, progress: Progress) -> None:
    """Writes the teacher as a student's folder, or leaves the one that is there; stopped, it goes on."""
    if is_student(folder):
        return
    began = time.process_time()
    progress("drawing the teacher's pictures", None)
    corpus = Corpus(plan, classes)
    tokenizer = build_tokenizer(_VOCABULARY_SIZE)
    text = text_preset(plan.text_tower, vocabulary_size=_VOCABULARY_SIZE)
    torch.manual_seed(plan.seed)
    image_tower = build_image_tower(preset(plan.image_tower), EMBEDDING_DIM)
    text_tower = build_text_tower(text, _TEXT, EMBEDDING_DIM)
    network = DualEncoder(image_tower, text_tower, logit_scale=1 / 0.07)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a third faster
    resumed_at = _train(network, corpus, tokenizer, folder / "checkpoints", progress)
    parts = StudentParts(
        image_tower=network.image,
        image_config=preset(plan.image_tower),
        embedding_dim=EMBEDDING_DIM,
        logit_scale=network.log_scale.exp().item(),
        text=SmallText(text, text_tower, _TEXT, tokenizer.to_str().encode()),
        image=square_pictures(preset(plan.image_tower).image_size),
        provenance={
            "data": "rendered scenes",
            **vars(plan),
            "resumed_at": resumed_at,
            "cpu_seconds": round(time.process_time() - began),
        },
        licence="Apache-2.0",
    )
    folders.save(folder, parts)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def _train(network: DualEncoder, corpus: Corpus, tokenizer: Tokenizer, kept: Path, progress: Progress) -> int:
    """CLIP's symmetric cross-entropy (Radford et al., arXiv 2103.00020); equal texts are no negatives of each other.

    Gives the step at which it went on, else 0.
    """
    steps = corpus.plan.epochs * (len(corpus) // corpus.plan.batch_size)
    trained = list(network.parameters())
    optimiser = torch.optim.AdamW(
        [
            {"params": [p for p in trained if p.ndim >= 2], "weight_decay": 0.05},
            {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
        ],
        lr=_PEAK_RATE,
        betas=(0.9, 0.98),
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _PEAK_RATE, total_steps=steps, pct_start=_WARMUP)
    first = checkpoints.resume(kept, network, optimiser)
    for _ in range(first):
        schedule.step()
    network.train()
    for step in range(first, steps):
        pixels, texts = corpus.batch(step)
        loss = _loss(network, torch.from_numpy(pixels), token_ids(tokenizer, texts), texts)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            network.log_scale.clamp_(max=_LARGEST_LOG_SCALE)
        progress(f"the teacher: step {step + 1:,} of {steps:,}, loss {loss.item():.3f}", (step + 1) / steps)
        if (step + 1) % _CHECKPOINT_EVERY == 0:
            checkpoints.write(kept, step + 1, network, optimiser)
    return first


def _loss(network: DualEncoder, pixels: Tensor, ids: Tensor, texts: Sequence[str]) -> Tensor:
    planes = pixels.permute(0, 3, 1, 2)  # channels last in memory, as the renderer writes them
    with torch.autocast("cpu", torch.bfloat16):
        image, text, scale = network(planes, ids)
    numbers = {told: number for number, told in enumerate(dict.fromkeys(texts))}
    group = torch.tensor([numbers[told] for told in texts])
    return clip(LossInputs(image, None, text, None, None, None, group, scale))
