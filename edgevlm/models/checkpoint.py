"""Loads a CLIP or SigLIP checkpoint in Hugging Face format, or a student, from a folder or the hub."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tokenizers

from edgevlm.errors import CheckpointError, MissingDependency
from edgevlm.models import hub
from edgevlm.models.checkpoints import picture_rules, text_rules
from edgevlm.models.students.layout import MODEL_TYPE
from edgevlm.spec import ImagePreprocessing, Source

if TYPE_CHECKING:
    import torch

    from edgevlm.models.model import Model
    from edgevlm.models.network import Network


def load(name_or_folder: str | Path, *, revision: str | None = None) -> Model:
    """Reads a checkpoint and makes export-ready programs of it.

    Args:
        name_or_folder: A folder with `config.json`, a preprocessor config, tokenizer files and safetensors; or a hub
            id such as `openai/clip-vit-base-patch32`, which is downloaded, or read from the hub's cache when offline.
        revision: Branch, tag or commit of a hub id.

    Returns:
        The model in float32, whatever dtype its weights are stored in.

    Raises:
        CheckpointError: no such folder or hub model; another family; files that are missing, damaged or cut short; or
            a config, weights, preprocessor and tokenizer that contradict each other.
        MissingDependency: torch, transformers or huggingface_hub is not installed.
    """
    for package in ("torch", "transformers"):
        if importlib.util.find_spec(package) is None:
            raise MissingDependency(package, extra="convert")
    folder = Path(name_or_folder).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise CheckpointError(
                f"{folder} is a folder, which has no revision {revision!r}", hint="leave the revision out"
            )
        return _load_folder(folder, name=folder.resolve().name, commit=None)
    if isinstance(name_or_folder, str) and hub.is_hub_id(name_or_folder) and not folder.exists():
        snapshot = hub.download(name_or_folder, revision=revision)
        return _load_folder(snapshot, name=name_or_folder, commit=snapshot.name)
    raise CheckpointError(
        f"expected a checkpoint's folder or a hub id such as openai/clip-vit-base-patch32, got {str(name_or_folder)!r}",
        hint="a folder holds config.json, model.safetensors, preprocessor_config.json and tokenizer files",
    )


def _load_folder(folder: Path, *, name: str, commit: str | None) -> Model:
    from edgevlm.models import clip, siglip, weights
    from edgevlm.models.model import Model, assemble_programs
    from edgevlm.models.network import build_network

    config_file = folder / "config.json"
    config = read_json(config_file)
    if config.get("model_type") == MODEL_TYPE:
        from edgevlm.models.students import folder as student

        return student.load(folder, name=name, commit=commit)
    network = build_network(config, where=str(config_file))
    files = weights.find_files(folder)
    image = _read_image_preprocessing(folder, network)
    tokenizer = _read_tokenizer(folder, config["model_type"], network)
    weights.fill_network(network, files)
    family = {"clip": clip, "siglip": siglip}[config["model_type"]]
    encode_image, encode_text, embedding_dim = family.build_towers(
        network, image, tokenizer.spec, where=str(config_file)
    )
    return Model(
        source=Source(
            name=name,
            family=config["model_type"],
            revision=commit or f"sha256:{weights.hash_files([config_file, *files])}",
            licence=read_licence(folder / "README.md"),
        ),
        image=image,
        text=tokenizer.spec,
        tokenizer_json=tokenizer.tokenizer_json,
        embedding_dim=embedding_dim,
        logit_scale=float(network.logit_scale.exp()),
        programs=assemble_programs(
            encode_image, encode_text, image=image, text=tokenizer.spec, embedding_dim=embedding_dim
        ),
        reference=_reference(network, image),
        network=network,
    )


def _read_image_preprocessing(folder: Path, network: Network) -> ImagePreprocessing:
    vision = network.config.vision_config
    image = picture_rules.from_checkpoint(folder, image_size=(vision.image_size, vision.image_size))
    if min(image.height, image.width) < vision.patch_size:
        raise CheckpointError(
            f"{folder}: expected pictures of at least one patch, {vision.patch_size} pixels a side, "
            f"got {image.height} x {image.width}"
        )
    return image


def _read_tokenizer(folder: Path, family: text_rules.Family, network: Network) -> text_rules.CheckpointTokenizer:
    config = network.config.text_config
    tokenizer = text_rules.from_checkpoint(folder, family=family, context_length=config.max_position_embeddings)
    highest = max(tokenizers.Tokenizer.from_buffer(tokenizer.tokenizer_json).get_vocab().values())
    if highest >= config.vocab_size:
        raise CheckpointError(
            f"{folder}: expected a tokenizer with ids below text_config.vocab_size, {config.vocab_size}, got {highest}",
            hint="take the tokenizer's files and the weights from the same checkpoint",
        )
    return tokenizer


def _reference(network: Network, image: ImagePreprocessing) -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
    """transformers' own forward, between the programs' boundaries."""
    import torch

    mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (image.mean, image.std))

    def encode_image(pixels: torch.Tensor) -> torch.Tensor:
        normalised = (pixels * image.rescale - mean.to(pixels.device)) / std.to(pixels.device)
        return _unit_norm(network.get_image_features(normalised, interpolate_pos_encoding=True).pooler_output)

    return {"encode_image": encode_image, "encode_text": text_reference(network)}


def text_reference(network: Network) -> Callable[[torch.Tensor], torch.Tensor]:
    """transformers' own forward of the text half of a `CLIPModel` or `SiglipModel`, which may be all there is.

    It takes int32 [N, L] and returns unit vectors, float32 [N, D], on the network's device.
    """

    def encode_text(token_ids: torch.Tensor) -> torch.Tensor:
        pooled = network.text_model(token_ids.long()).pooler_output
        # CLIP's projection lies beside its text model, SigLIP's inside.
        return _unit_norm(network.text_projection(pooled) if hasattr(network, "text_projection") else pooled)

    return encode_text


def _unit_norm(features: torch.Tensor) -> torch.Tensor:
    length: torch.Tensor = features.norm(dim=-1, keepdim=True)
    return features / length


def read_json(path: Path) -> Mapping[str, Any]:
    """The object in a checkpoint's file; raises CheckpointError where it is missing, damaged or no object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path.parent}: expected {path.name}, got no such file",
            hint="the folder is no checkpoint in Hugging Face format, or its download has not finished",
        ) from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not a readable JSON file: {error}", hint="download it again") from error
    if not isinstance(value, Mapping):
        raise CheckpointError(f"{path}: expected an object, got {type(value).__name__}")
    return value


def read_licence(readme: Path) -> str:
    """`license` of the model card's front matter (https://huggingface.co/docs/hub/model-cards), else `unknown`."""
    import yaml

    try:
        _, front_matter, _ = ("\n" + readme.read_text(encoding="utf-8")).split("\n---\n", 2)
        licence = yaml.safe_load(front_matter)["license"]
    except (OSError, ValueError, LookupError, TypeError, yaml.YAMLError):
        return "unknown"
    return licence if isinstance(licence, str) and licence else "unknown"
