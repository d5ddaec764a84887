"""Writes a pruned model in the form of the whole one: a student's folder, or a checkpoint as the hub has them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from edgevlm.compression.structures import Group, keep, resize
from edgevlm.models.checkpoints import files, weights
from edgevlm.models.network import build_text_half
from edgevlm.models.students import folder as folders
from edgevlm.models.students.parts import BorrowedText, SmallText, StudentParts, TextSide
from edgevlm.models.students.towers import build_image_tower, build_text_tower

Cut: TypeAlias = tuple[Sequence[Group], Sequence[Tensor]]
"""What a tower has, and of each group the structures that stay."""

_HALVES = {"encode_image": "vision", "encode_text": "text"}
_WEIGHTS = (".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json", ".pt", ".pth", ".h5", ".msgpack")


def write_student(
    folder: Path, student: StudentParts, cuts: Mapping[str, Cut], *, provenance: Mapping[str, Any]
) -> None:
    """Writes the student with smaller towers.

    Args:
        folder: Where to.
        student: The whole one.
        cuts: By component; a tower that has none stays as it is.
        provenance: What is added to the student's own, as the last entry of `pruned`.
    """
    told = {**student.provenance, "pruned": [*student.provenance.get("pruned", ()), provenance]}
    student = replace(student, provenance=told)
    if "encode_image" in cuts:
        config = resize(student.image_config, *cuts["encode_image"])
        with torch.device("meta"):
            tower = build_image_tower(config, student.embedding_dim)
        _fill(tower, student.image_tower, cuts["encode_image"])
        student = replace(student, image_tower=tower, image_config=config)
    if "encode_text" in cuts:
        student = replace(student, text=_cut_text(student.text, cuts["encode_text"], student.embedding_dim))
    folders.save(folder, student)


def write_checkpoint(folder: Path, source: Path, cuts: Mapping[str, Cut]) -> None:
    """Writes a CLIP or SigLIP checkpoint with smaller MLPs; its tokenizer, preprocessing and card are copied.

    Args:
        folder: Where to.
        source: The whole one's folder.
        cuts: By component; of each the groups keep equally many.
    """
    config = json.loads(json.dumps(files.read_json(source / "config.json")))
    state: dict[str, Tensor] = {}
    for file in weights.find_files(source):
        state |= load_file(file)
    for component, (groups, kept) in cuts.items():
        state = keep(state, groups, kept)
        # Where the second is there, transformers lays it over the first.
        for key in (f"{_HALVES[component]}_config", f"{_HALVES[component]}_config_dict"):
            if isinstance(config.get(key), dict):
                config[key]["intermediate_size"] = len(kept[0])
    for path in source.iterdir():
        if path.is_file() and not path.name.startswith(".") and not path.name.endswith(_WEIGHTS):
            shutil.copyfile(path, folder / path.name)
    tensors = {name: tensor.contiguous() for name, tensor in state.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _cut_text(side: TextSide, cut: Cut, embedding_dim: int) -> TextSide:
    if isinstance(side, SmallText):
        config = resize(side.config, *cut)
        with torch.device("meta"):
            tower = build_text_tower(config, side.text, embedding_dim)
        _fill(tower, side.tower, cut)
        return replace(side, config=config, tower=tower)
    if isinstance(side, BorrowedText):
        sizes = {"intermediate_size": len(cut[1][0])}
        network = build_text_half(side.network.text_model.config.to_dict() | sizes, side.family, where="text_tower")
        _fill(network, side.network, cut)
        return replace(side, network=network)
    return side


def _fill(smaller: nn.Module, whole: nn.Module, cut: Cut) -> None:
    smaller.load_state_dict(keep(whole.state_dict(), *cut), assign=True)
