"""A student taken apart: what the trainer hands over, and what a folder is read into."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from torch import Tensor, nn

from edgevlm.bundle.manifest import Labels
from edgevlm.bundle.spec import ImagePreprocessing, TextPreprocessing
from edgevlm.errors import UnsupportedError
from edgevlm.models.model import Model
from edgevlm.models.students.config import ImageTowerConfig, TextTowerConfig
from edgevlm.models.students.text_tower import TextTower

if TYPE_CHECKING:
    from edgevlm.models.network import Network


@dataclass(frozen=True)
class SmallText:
    """A small text tower of the student's own.

    Attributes:
        config: Its sizes.
        tower: int32 [N, T] -> unit vectors [N, D].
        text: The tokenizer's rules, mostly the teacher's.
        tokenizer_json: Content of the `tokenizer.json`.
    """

    config: TextTowerConfig
    tower: TextTower
    text: TextPreprocessing
    tokenizer_json: bytes


@dataclass(frozen=True)
class BorrowedText:
    """The text half of a CLIP or SigLIP teacher, unchanged.

    Attributes:
        network: Has `text_model`, and `text_projection` where it is CLIP's: transformers' `CLIPModel` or
            `SiglipModel`, or what `edgevlm.models.network.build_text_half` gave.
        text: The tokenizer's rules.
        tokenizer_json: Content of the `tokenizer.json`.
    """

    network: Network
    text: TextPreprocessing
    tokenizer_json: bytes

    @property
    def family(self) -> Literal["clip", "siglip"]:
        """Whose text half it is."""
        return "clip" if self.network.text_model.config.model_type == "clip_text_model" else "siglip"


@dataclass(frozen=True)
class FixedLabels:
    """No text tower: labels embedded once, by the teacher.

    Attributes:
        labels: Their names, in the order of the embeddings, and the templates they were put into.
        embeddings: Unit vectors, float32 [L, D].
    """

    labels: Labels
    embeddings: Tensor


TextSide: TypeAlias = SmallText | BorrowedText | FixedLabels


@dataclass(frozen=True)
class StudentParts:
    """All that a student's folder holds.

    Attributes:
        image_tower: In its training form (`edgevlm.models.students.towers.build_image_tower`), on any device.
        image_config: What it was built from.
        embedding_dim: D, the length of an embedding.
        logit_scale: Factor on the cosine of a picture and a text before softmax, `exp` already applied.
        text: The text side.
        image: How a picture becomes pixels, e.g. `square_pictures(image_config.image_size)`.
        provenance: Teacher, data, recipe, ...: whatever says where it came from, in JSON's plain values.
        licence: SPDX id; with `BorrowedText`, whose weights are copied, the teacher's.
    """

    image_tower: nn.Module
    image_config: ImageTowerConfig
    embedding_dim: int
    logit_scale: float
    text: TextSide
    image: ImagePreprocessing
    provenance: Mapping[str, Any] = field(default_factory=dict)
    licence: str = "unknown"


class Towers(nn.Module):
    """`Model.network` of a student that was loaded from a folder: its original towers, as trained.

    Args:
        image: The image tower in its training form.
        text: A small text tower, a CLIP's or SigLIP's text half, or None.
        label_embeddings: float32 [L, D] where there is no text tower.
    """

    label_embeddings: Tensor | None

    def __init__(self, image: nn.Module, text: nn.Module | None, label_embeddings: Tensor | None) -> None:
        super().__init__()
        self.image = image
        self.text = text
        self.register_buffer("label_embeddings", label_embeddings)


def teacher_text(teacher: Model) -> SmallText | BorrowedText:
    """The teacher's own text tower, to be kept by its student; weights are shared until the student is saved.

    Raises:
        UnsupportedError: the teacher has none.
    """
    if teacher.text is None or teacher.tokenizer_json is None:
        raise UnsupportedError(
            f"{teacher.source.name} has no text tower that its student could keep",
            hint="give the dual encoder that it was distilled from",
        )
    own = getattr(teacher.network, "text", teacher.network)
    if isinstance(own, TextTower):
        return SmallText(own.config, own, teacher.text, teacher.tokenizer_json)
    return BorrowedText(own, teacher.text, teacher.tokenizer_json)
