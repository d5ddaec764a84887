"""A student's folder, which every command takes as a model.

    config.json           what follows in numbers; `"model_type": "edgevlm-student"`
    model.safetensors     `image.*`, and `text.*` of a small text tower or `label_embeddings`; float32 or float16
    tokenizer.json        unless it has no text tower
    text_tower/           the teacher's text half, where it is kept: config.json and model.safetensors, as transformers'
                          `CLIPTextModelWithProjection` and `SiglipTextModel` read them
    README.md             the model card; its `license` is the student's

It may hold other files too, such as a training run's.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save as save_weights
from torch import Tensor, nn

from edgevlm import schema
from edgevlm.bundle.spec import ImagePreprocessing, Source
from edgevlm.errors import CheckpointError
from edgevlm.inputs.texts import TOKENIZER_FILE
from edgevlm.models.checkpoints import weights
from edgevlm.models.checkpoints.files import read_json, read_licence
from edgevlm.models.layers import causal_mask
from edgevlm.models.model import Model, assemble_programs
from edgevlm.models.reference import Forward, Original, text_reference
from edgevlm.models.students import text_sides
from edgevlm.models.students.card import model_card
from edgevlm.models.students.config import read_image_tower, square_pictures
from edgevlm.models.students.layout import FORMAT_VERSION, MODEL_TYPE, TEXT_TOWER, list_files
from edgevlm.models.students.parts import BorrowedText, FixedLabels, SmallText, StudentParts, TextSide, Towers
from edgevlm.models.students.reparameterised import fuse
from edgevlm.models.students.text_tower import TextTower
from edgevlm.models.students.towers import build_image_tower
from edgevlm.process.writing import output_errors, write_atomically


@dataclass(frozen=True)
class _Config:
    """What `config.json` holds. Field order is the file's."""

    model_type: Literal["edgevlm-student"]
    format_version: int
    embedding_dim: int
    logit_scale: float
    image_tower: Mapping[str, object]
    image: ImagePreprocessing
    text: Mapping[str, object]
    provenance: Mapping[str, object]


def save(folder: Path, student: StudentParts, *, dtype: torch.dtype = torch.float32) -> None:
    """Writes a student's files into a folder, which may hold others.

    Each file is written beside its place and renamed; `config.json` is removed first and written last, so that a
    folder that was left half-written is no student.

    Args:
        folder: Made if it is not there.
        student: Its towers may be on any device, in training or eval mode; they are not changed.
        dtype: Of the stored weights, float32 or float16.

    Raises:
        OutputError: the folder cannot be written, or the disk is full.
    """
    config = _Config(
        model_type=MODEL_TYPE,
        format_version=FORMAT_VERSION,
        embedding_dim=student.embedding_dim,
        logit_scale=student.logit_scale,
        image_tower=schema.write(student.image_config),
        image=student.image,
        text=text_sides.describe(student.text),
        provenance=student.provenance,
    )
    content, card, side = _json(schema.write(config)), model_card(student).encode(), student.text
    with output_errors(folder):
        for each in (folder, folder / TEXT_TOWER) if isinstance(side, BorrowedText) else (folder,):
            each.mkdir(parents=True, exist_ok=True)
            (each / "config.json").unlink(missing_ok=True)
    _write_weights(folder / "model.safetensors", _gather(student.image_tower, side).state_dict(), dtype)
    if isinstance(side, BorrowedText):
        _write_text_half(folder / TEXT_TOWER, side, dtype)
    if not isinstance(side, FixedLabels):
        write_atomically(folder / TOKENIZER_FILE, side.tokenizer_json)
    write_atomically(folder / "README.md", card)
    write_atomically(folder / "config.json", content)


def read(folder: Path, *, trusted: bool = False) -> StudentParts:
    """What `save` wrote, in float32 and eval mode, without gradients.

    Args:
        folder: The student's.
        trusted: Whether its tokenizer may be read in this process; that of any other is tried in one of its own first.

    Raises:
        CheckpointError: a file is missing or damaged; the config has an unknown version, family, key or value; or
            config, weights and tokenizer contradict each other.
    """
    file = folder / "config.json"
    data = read_json(file)
    if data.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{file}: format_version: expected {FORMAT_VERSION}, got {data.get('format_version')!r}",
            hint="update edgevlm, or train the student again with this one",
        )
    config = schema.read(_Config, data, where=str(file), error=CheckpointError)
    image_config = read_image_tower(config.image_tower, where=f"{file}: image_tower", error=CheckpointError)
    _check(config, image_config.image_size, where=str(file))
    side = text_sides.read(config.text, folder, config.embedding_dim, where=f"{file}: text", trusted=trusted)
    with torch.device("meta"):
        image_tower = build_image_tower(image_config, config.embedding_dim)
    towers = _gather(image_tower, side).eval()
    weights.fill_network(towers, weights.find_files(folder))
    _make_constants(towers)
    if isinstance(side, FixedLabels) and towers.label_embeddings is not None:
        side = replace(side, embeddings=towers.label_embeddings)
    return StudentParts(
        image_tower=image_tower,
        image_config=image_config,
        embedding_dim=config.embedding_dim,
        logit_scale=config.logit_scale,
        text=side,
        image=config.image,
        provenance=config.provenance,
        licence=read_licence(folder / "README.md"),
    )


def load(folder: Path, *, name: str | None = None, commit: str | None = None, trusted: bool = False) -> Model:
    """The student as a model: its reference is the training form in eval mode, its program is fused.

    Args:
        folder: What `save` wrote.
        name: What it is called; the folder's own name where None.
        commit: Of a hub id.
        trusted: See `read`.

    Raises:
        CheckpointError: see `read`.
    """
    student = read(folder, trusted=trusted)
    side = student.text
    fixed = side if isinstance(side, FixedLabels) else None
    text = None if isinstance(side, FixedLabels) else side.text
    network = _gather(student.image_tower, side)
    encode_text: nn.Module | None = None
    forwards: dict[str, Forward] = {"encode_image": student.image_tower}
    if isinstance(side, SmallText):
        encode_text = forwards["encode_text"] = side.tower
    elif isinstance(side, BorrowedText):
        network.text = side.network
        encode_text, _ = text_sides.FAMILIES[side.family].build_text_tower(side.network, side.text, where=str(folder))
        forwards["encode_text"] = text_reference(side.network)
    files = [path for path in list_files(folder) if path.suffix != ".md"]
    programs = assemble_programs(
        fuse(student.image_tower), encode_text, image=student.image, text=text, embedding_dim=student.embedding_dim
    )
    return Model(
        source=Source(
            name=name or folder.resolve().name,
            family="student",
            revision=commit or f"sha256:{weights.hash_files(files)}",
            licence=student.licence,
        ),
        image=student.image,
        text=text,
        tokenizer_json=None if isinstance(side, FixedLabels) else side.tokenizer_json,
        trusted=trusted,
        embedding_dim=student.embedding_dim,
        logit_scale=student.logit_scale,
        programs=programs,
        original=Original(network, forwards, {name: program.spec for name, program in programs.items()}),
        labels=fixed.labels if fixed else None,
        label_embeddings=fixed.embeddings if fixed else None,
    )


def _gather(image_tower: nn.Module, side: TextSide) -> Towers:
    """What `model.safetensors` holds."""
    return Towers(
        image_tower,
        side.tower if isinstance(side, SmallText) else None,
        side.embeddings if isinstance(side, FixedLabels) else None,
    )


def _check(config: _Config, image_size: int, *, where: str) -> None:
    image, expected = config.image, square_pictures(image_size)
    if (image.height, image.width) != (image_size, image_size):
        raise CheckpointError(
            f"{where}: image: expected the image tower's {image_size} x {image_size} pixels, "
            f"got {image.height} x {image.width}"
        )
    if (image.rescale, image.mean, image.std) != (expected.rescale, expected.mean, expected.std):
        raise CheckpointError(
            f"{where}: image: expected rescale, mean and std that normalise to -1..1, as every student's tower does"
        )
    if config.embedding_dim < 1:
        raise CheckpointError(f"{where}: embedding_dim: expected at least 1, got {config.embedding_dim}")
    if not 0 < config.logit_scale < math.inf:
        raise CheckpointError(f"{where}: logit_scale: expected a number above 0, got {config.logit_scale}")


def _make_constants(towers: Towers) -> None:
    """What no file holds and the meta device left without values."""
    for module in towers.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.num_batches_tracked = torch.tensor(0)
        elif isinstance(module, TextTower):
            module.causal_mask = causal_mask(module.causal_mask.shape[-1])


def _write_text_half(folder: Path, side: BorrowedText, dtype: torch.dtype) -> None:
    """In the names of the teacher's own checkpoint, which transformers' text-only classes know too."""
    network = side.network
    config = network.text_model.config.to_dict() | {"architectures": ["SiglipTextModel"]}
    if side.family == "clip":
        # The teacher's own is in its outer config; the text config's is often left at a default.
        length = network.text_projection.out_features
        config |= {"architectures": ["CLIPTextModelWithProjection"], "projection_dim": length}
    names = ("text_model.", "text_projection.")
    state = {name: tensor for name, tensor in network.state_dict().items() if name.startswith(names)}
    _write_weights(folder / "model.safetensors", state, dtype)
    write_atomically(folder / "config.json", _json(config))


def _write_weights(path: Path, state: Mapping[str, Tensor], dtype: torch.dtype) -> None:
    # BatchNorm's step counters are integers, of no use after training.
    floats = {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}
    tensors = {name: tensor.to("cpu", dtype).contiguous() for name, tensor in floats.items()}
    write_atomically(path, save_weights(tensors, metadata={"format": "pt"}))


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
