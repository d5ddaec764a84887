"""Structured pruning: a model, ratios and pictures in; a smaller model of the same kind out, for any command."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias, cast, get_args

import torch
from torch import Tensor, nn

from edgevlm import schema
from edgevlm.compression.importance import select
from edgevlm.compression.pruned_folder import Cut, write_checkpoint, write_student
from edgevlm.compression.structures import Group, Kind, find_hub_mlps, find_structures
from edgevlm.data.dataset import Dataset, read_pictures
from edgevlm.data.sources import open_data
from edgevlm.data.subsets import limit
from edgevlm.errors import DataError, InputError, OutputError, UnsupportedError
from edgevlm.graphs.outline import outline
from edgevlm.inputs.rows import PIXELS, TOKEN_IDS, make_rows, takes
from edgevlm.models import catalogue
from edgevlm.models.model import Model
from edgevlm.models.students import folder as folders
from edgevlm.models.students.layout import is_student
from edgevlm.models.students.parts import SmallText, StudentParts
from edgevlm.models.students.towers import parameters
from edgevlm.process.limits import LARGEST_SEED, MOST, check_whole
from edgevlm.process.progress import Progress
from edgevlm.process.writing import staged_folder

Component: TypeAlias = Literal["encode_image", "encode_text"]
FEWEST = 16
"""Pictures below which an importance is chance."""
_AT_ONCE = 32
_WORDS: dict[Kind, str] = {"heads": "attention heads", "mlp": "MLP channels", "channels": "convolution channels"}


@dataclass(frozen=True)
class Ratios:
    """Share of the structures of each kind to remove, at least 0 and below 1.

    Attributes:
        heads: Attention heads.
        mlp: Channels of MLPs.
        channels: Channels of convolutional stages.
    """

    heads: float = 0.0
    mlp: float = 0.0
    channels: float = 0.0


@dataclass(frozen=True)
class Request:
    """What to prune, and by what.

    Attributes:
        model: What `edgevlm.models.catalogue.load` takes.
        ratios: How much to remove.
        data: What `edgevlm.data.sources.open_data` takes, or a dataset; captions or labels are the texts.
        out: The folder to be made.
        components: Whose towers are pruned.
        images: Folder of the pictures that a captions file names.
        pictures: How many of the data's are looked at, at most.
        seed: Of the draw of the pictures and of the importance's directions.
        revision: Branch, tag or commit of a hub id.
    """

    model: str
    ratios: Ratios
    data: str | Path | Dataset
    out: Path
    components: tuple[Component, ...] = ("encode_image",)
    images: Path | None = None
    pictures: int = 256
    seed: int = 0
    revision: str | None = None


@dataclass(frozen=True)
class Change:
    """A number before and after."""

    before: int
    after: int


@dataclass(frozen=True)
class PrunedTower:
    """What became of a tower.

    Attributes:
        component: Its name.
        parameters, multiply_adds: As it is on the device, fused; multiply-adds for one picture, or one text.
        structures: How many it has of each kind.
        mean_cosine, min_cosine: Of its embeddings with those of the original, on the calibration data.
    """

    component: Component
    parameters: Change
    multiply_adds: Change
    structures: dict[Kind, Change]
    mean_cosine: float
    min_cosine: float


@dataclass(frozen=True)
class Pruned:
    """What came of it.

    Attributes:
        folder: Where the smaller model is.
        recovery: The distillation recipe that trains it to answer as before; None for what is no student.
        teacher: Whom it can learn from: the original, or None where that has no text tower, and so cannot teach.
        pictures: How many were looked at.
        towers: Of those that were pruned.
    """

    folder: Path
    recovery: Literal["recovery", "clip-kd"] | None
    teacher: str | None
    pictures: int
    towers: tuple[PrunedTower, ...]


@dataclass(frozen=True)
class _Tower:
    """A tower to be pruned: where its structures' names start, how it is run, and on what."""

    component: Component
    network: nn.Module
    groups: tuple[Group, ...]
    embed: Callable[[Tensor], Tensor]
    samples: Tensor


def prune(request: Request, progress: Progress = lambda stage, share: None) -> Pruned:
    """Removes the least important structures of a model's towers, and writes what is left as a model.

    The smaller model computes what the whole one does with the removed structures' weights at zero. A student becomes
    a student's folder, to be trained on by `edgevlm distill`; a CLIP or SigLIP one in Hugging Face format.

    Raises:
        InputError: a ratio out of range, or ratios that remove nothing.
        UnsupportedError: the model has none of the structures.
        DataError: data that cannot be read, is too small, or lacks texts for a text tower.
        ImageError: a picture cannot be read.
        CheckpointError: there is no such model.
        OutputError: the folder exists already, or cannot be written.
    """
    _check_ratios(request.ratios)
    if request.out.exists():
        raise OutputError(f"{request.out} exists already", hint="--out writes elsewhere")
    data = _open_data(request)
    progress("loading the model", None)
    source = catalogue.find_folder(request.model, revision=request.revision)
    parts = folders.read(source) if is_student(source) else None
    model = catalogue.load(request.model, revision=request.revision)
    found = {component: _find(model, parts, component, request.model) for component in request.components}
    _check_structures(request, [group for _, groups in found.values() for group in groups])
    towers = [
        _Tower(
            component,
            network,
            groups,
            partial(model.original.forward, component),
            _samples(model, component, data, progress),
        )
        for component, (network, groups) in found.items()
    ]
    kept = {tower.component: _judge(tower, request, progress) for tower in towers}
    _refuse_nothing(towers, kept)
    cuts: dict[str, Cut] = {tower.component: (tower.groups, kept[tower.component]) for tower in towers}
    with staged_folder(request.out, replace=False) as stage:
        progress("writing the model", None)
        if parts is None:
            write_checkpoint(stage.folder, source, cuts)
        else:
            write_student(stage.folder, parts, cuts, provenance=_provenance(request, model, data))
        smaller = catalogue.load(stage.folder)
        pruned = tuple(_compare(tower, kept[tower.component], model, smaller, progress) for tower in towers)
    return Pruned(
        folder=request.out,
        recovery=_recovery(parts, request.components),
        teacher=request.model if model.text else None,
        pictures=len(data),
        towers=pruned,
    )


def _recovery(parts: StudentParts | None, components: Sequence[Component]) -> Literal["recovery", "clip-kd"] | None:
    if parts is None:
        return None
    # Only a small text tower can be trained on.
    return "clip-kd" if "encode_text" in components and isinstance(parts.text, SmallText) else "recovery"


def _check_ratios(ratios: Ratios) -> None:
    for kind, ratio in schema.write(ratios).items():
        if not 0 <= ratio < 1:
            raise InputError(
                f"{kind}: expected the share of {_WORDS[kind]} to remove, at least 0 and below 1, got {ratio}"
            )
    if ratios == Ratios():
        raise InputError(
            "nothing to prune: every ratio is 0",
            hint="say what to remove, such as --mlp 50%, --heads 25% or --channels 25%",
        )


def _open_data(request: Request) -> Dataset:
    check_whole("seed", request.seed, 0, LARGEST_SEED)
    check_whole("pictures", request.pictures, 1, MOST)
    data = request.data
    opened = open_data(data, images=request.images, unlabelled=True) if isinstance(data, str | Path) else data
    drawn = limit(opened, request.pictures, request.seed)
    if len(drawn) < FEWEST:
        raise DataError(
            f"{drawn.name}: expected at least {FEWEST} pictures to judge importance by, got {len(drawn)}",
            hint="give some hundred pictures of what the model will see; they need no labels",
        )
    return drawn


def _find(
    model: Model, parts: StudentParts | None, component: Component, name: str
) -> tuple[nn.Module, tuple[Group, ...]]:
    """What a component's structures are, and the module where their names start."""
    network = model.network
    if component not in model.programs:
        raise UnsupportedError(f"{name} has no text tower to prune", hint="leave out --tower, which is image then")
    if parts is None:
        half: Literal["vision_model", "text_model"] = "vision_model" if component == "encode_image" else "text_model"
        return network, find_hub_mlps(network, half)
    tower = cast(nn.Module, network.image if component == "encode_image" else network.text)
    if component == "encode_image":
        return tower, find_structures(tower, parts.image_config)
    if isinstance(parts.text, SmallText):
        return tower, find_structures(tower, parts.text.config)
    return tower, find_hub_mlps(tower, "text_model")


def _check_structures(request: Request, groups: Sequence[Group]) -> None:
    there = {group.kind for group in groups}
    for kind in get_args(Kind):
        if getattr(request.ratios, kind) and kind not in there:
            hints = {
                "heads": "the hub's format has no place for the size of a head; --mlp can be pruned",
                "channels": "students of the grid and hybrid families have some; --heads and --mlp prune transformers",
            }
            raise UnsupportedError(f"{request.model} has no {_WORDS[kind]} that can be removed", hint=hints.get(kind))


def _samples(model: Model, component: Component, data: Dataset, progress: Progress) -> Tensor:
    """What the tower takes: a picture each, float32 [N, 3, H, W], or a text each, int32 [N, T]."""
    if takes(model.programs[component].spec, PIXELS):
        return torch.from_numpy(make_rows(read_pictures(data, progress), (), model.image, None)[PIXELS])
    texts = [text for text in (_text(data, index) for index in range(len(data))) if text]
    if len(texts) < FEWEST:
        raise DataError(
            f"{data.name}: expected at least {FEWEST} captions or labels to judge a text tower by, got {len(texts)}",
            hint="give captioned pictures, or prune the image tower alone with --tower image",
        )
    return torch.from_numpy(make_rows((), texts, model.image, model.tokenizer)[TOKEN_IDS])


def _text(data: Dataset, index: int) -> str | None:
    example = data.example(index)
    if example.captions:
        return example.captions[0]
    return None if example.label is None else data.labels[example.label]


def _judge(tower: _Tower, request: Request, progress: Progress) -> list[Tensor]:
    return select(
        tower.network,
        tower.groups,
        tower.embed,
        tower.samples,
        schema.write(request.ratios),
        request.seed,
        lambda share: progress(f"judging {tower.component}", share),
    )


def _refuse_nothing(towers: Sequence[_Tower], kept: dict[Component, list[Tensor]]) -> None:
    counts = [sum(group.count for group in tower.groups) for tower in towers]
    if sum(counts) == sum(len(each) for several in kept.values() for each in several):
        raise InputError(
            "the ratios remove nothing: of channels a multiple of 8 is kept, of heads at least one",
            hint="take higher ratios",
        )


def _compare(tower: _Tower, kept: Sequence[Tensor], model: Model, smaller: Model, progress: Progress) -> PrunedTower:
    before, after = model.programs[tower.component], smaller.programs[tower.component]
    batches = torch.split(tower.samples, _AT_ONCE)
    cosines = []
    for place, batch in enumerate(batches):
        progress(f"comparing {tower.component}", place / len(batches))
        with torch.no_grad():
            cosines.append((tower.embed(batch) * smaller.original.forward(tower.component, batch)).sum(-1))
    cosine = torch.cat(cosines)
    structures: dict[Kind, Change] = {}
    for group, left in zip(tower.groups, kept, strict=True):
        so_far = structures.get(group.kind, Change(0, 0))
        structures[group.kind] = Change(so_far.before + group.count, so_far.after + len(left))
    return PrunedTower(
        component=tower.component,
        parameters=Change(parameters(before.module), parameters(after.module)),
        multiply_adds=Change(outline(before).multiply_adds, outline(after).multiply_adds),
        structures=structures,
        mean_cosine=cosine.mean().item(),
        min_cosine=cosine.min().item(),
    )


def _provenance(request: Request, model: Model, data: Dataset) -> dict[str, object]:
    return {
        "model": request.model,
        "revision": model.source.revision,
        "ratios": schema.write(request.ratios),
        "components": list(request.components),
        "data": data.name,
        "pictures": len(data),
        "seed": request.seed,
    }
