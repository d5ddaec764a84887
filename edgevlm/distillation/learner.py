"""The student while it learns: a preset with fresh weights or a folder's student, and the text side it will have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgevlm.bundle.manifest import Labels
from edgevlm.bundle.spec import ImagePreprocessing
from edgevlm.distillation.material import Material
from edgevlm.distillation.teacher import Teacher
from edgevlm.errors import InputError, UnsupportedError
from edgevlm.inputs.texts import Tokenizer
from edgevlm.models import builtin
from edgevlm.models.students import folder as folders
from edgevlm.models.students.config import ImageTowerConfig, square_pictures
from edgevlm.models.students.dual_encoder import DualEncoder
from edgevlm.models.students.layout import is_student
from edgevlm.models.students.parts import FixedLabels, SmallText, StudentParts, TextSide, teacher_text
from edgevlm.models.students.presets import PRESETS, TEXT_PRESETS, preset, text_preset
from edgevlm.models.students.towers import build_image_tower, build_text_tower
from edgevlm.process.paths import user_path


@dataclass(frozen=True)
class Learner:
    """A student in training.

    Attributes:
        network: What is trained.
        config: The image tower's.
        image: How a picture becomes its pixels.
        text: Its text side; None until it is baked from the data's labels.
        kept_text: Whether that is the folder's student's own, kept as it was.
        teacher: Whom it learns from.
        new_projection: Whether a folder's student had embeddings of another length than the teacher's, so that its
            last layer is trained anew.
    """

    network: DualEncoder
    config: ImageTowerConfig
    image: ImagePreprocessing
    text: TextSide | None
    kept_text: bool
    teacher: Teacher
    new_projection: bool

    def tokenize(self, texts: Sequence[str]) -> NDArray[np.int32] | None:
        """Token ids of the texts, int32 [N, T], T the longest one's length; None without a text tower to train."""
        if self.network.text is None or not isinstance(self.text, SmallText):
            return None
        ids = Tokenizer.from_bytes(self.text.text, self.text.tokenizer_json).encode(texts)
        # A text is read at its first end-of-text id, and attention is causal: what follows changes nothing.
        longest = int((ids == self.text.text.eot_id).argmax(1).max()) + 1
        return ids[:, :longest]

    def save(
        self,
        folder: Path,
        material: Material,
        templates: Sequence[str],
        *,
        described: bool,
        provenance: Mapping[str, Any],
    ) -> None:
        """Writes the student into the run's folder; `described` where the labels' texts are more than templates."""
        text = self.text
        if text is None:
            if material.label_text is None:
                raise InputError("a student without a text tower needs labels, and the data has none")
            labels = Labels(material.labels, tuple(templates), material.label_texts if described else None)
            text = FixedLabels(labels, torch.from_numpy(material.label_text))
        licences = sorted({model.source.licence for model in self.teacher.models})
        folders.save(
            folder,
            StudentParts(
                image_tower=self.network.image,
                image_config=self.config,
                embedding_dim=self.teacher.dim,
                logit_scale=self.network.log_scale.exp().item(),
                text=text,
                image=self.image,
                provenance=provenance,
                licence=" AND ".join(licences),
            ),
        )


def find_former(student: str, image_size: int | None) -> StudentParts | None:
    """The student that goes on; None where a preset begins anew.

    Raises:
        InputError: it is neither a preset nor a student's folder, or cannot have that image size.
        CheckpointError: the folder is damaged.
    """
    if student in PRESETS:
        preset(student, image_size=image_size)
        return None
    folder = builtin.FOLDERS.get(student) or user_path(student)
    if not is_student(folder):
        raise InputError(
            f"no student {student!r}: expected one of {', '.join(PRESETS)}, or a distilled student: its folder, or "
            f"{' or '.join(builtin.FOLDERS)}",
            hint="edgevlm models lists what each preset costs",
        )
    if image_size is not None:
        raise InputError(f"{student}: a trained student keeps its image size", hint="leave out --image-size")
    return folders.read(folder)


def refuse_ensemble(teachers: int) -> None:
    """Raises UnsupportedError where a student cannot keep its teacher's text tower, as it has several teachers."""
    if teachers > 1:
        raise UnsupportedError(
            "a student of several teachers cannot keep the text tower of one",
            hint="a recipe such as mobileclip trains a small one; --text-tower none bakes the labels",
        )


def make_learner(
    student: str,
    former: StudentParts | None,
    teacher: Teacher,
    text_tower: str,
    image_size: int | None,
    *,
    keep_text: bool,
    needs_scale: bool,
) -> Learner:
    """Builds a student, with torch's own random numbers where its weights are fresh.

    Args:
        student: A preset's name.
        former: The student that goes on instead.
        teacher: Whom it learns from; its embeddings are as long as the teacher's.
        text_tower: One of `edgevlm.distillation.recipe.TEXT_TOWERS`.
        image_size: Side of the pixels; the preset's own where None.
        keep_text: Whether `former` keeps its own text tower instead, if it has one, and that fits.
        needs_scale: Whether a loss trains the logit scale; else it stays the teacher's.

    Raises:
        UnsupportedError: the teacher is an ensemble, whose text tower a student cannot take.
    """
    tower: nn.Module
    if former is None:
        config = preset(student, image_size=image_size)
        image = square_pictures(config.image_size)
        tower = build_image_tower(config, teacher.dim)
    else:
        config, image, tower = former.image_config, former.image, former.image_tower
        if former.embedding_dim != teacher.dim:
            tower = _with_new_projection(former, teacher.dim)
    fits = former is not None and former.embedding_dim == teacher.dim
    keeps = former is not None and fits and keep_text and not isinstance(former.text, FixedLabels)
    kept = former.text if former is not None and keeps else None
    text = kept or _text_side(text_tower, teacher)
    trained = text.tower if isinstance(text, SmallText) and text_tower in TEXT_PRESETS else None
    if trained is not None:
        trained.train().requires_grad_(True)
    network = DualEncoder(tower.train().requires_grad_(True), trained, teacher.logit_scale)
    network.log_scale.requires_grad_(needs_scale)
    return Learner(
        network=network,
        config=config,
        image=image,
        text=text,
        kept_text=kept is not None,
        teacher=teacher,
        new_projection=former is not None and not fits,
    )


def _with_new_projection(former: StudentParts, embedding_dim: int) -> nn.Module:
    """The student's tower with all its weights but those of its last layer, whose shape is another."""
    tower = build_image_tower(former.image_config, embedding_dim)
    before, state = former.image_tower.state_dict(), tower.state_dict()
    tower.load_state_dict(state | {name: t for name, t in before.items() if t.shape == state[name].shape})
    return tower


def _text_side(kind: str, teacher: Teacher) -> TextSide | None:
    if kind == "none":
        return None
    first = teacher.models[0]
    if kind == "teacher":
        refuse_ensemble(len(teacher.models))
        return teacher_text(first)
    text, tokenizer_json = first.text, first.tokenizer_json
    if text is None or tokenizer_json is None:
        raise UnsupportedError(f"{first.source.name} has no tokenizer that a text tower could use")
    tokenizer = Tokenizer.from_bytes(text, tokenizer_json)
    config = text_preset(kind, vocabulary_size=tokenizer.highest_id + 1)
    return SmallText(config, build_text_tower(config, text, teacher.dim), text, tokenizer_json)
