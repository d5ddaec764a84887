"""Loads a CLIP or SigLIP checkpoint in Hugging Face format."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import TYPE_CHECKING

import tokenizers

from edgevlm.bundle.spec import ImagePreprocessing, Source
from edgevlm.errors import CheckpointError, MissingDependency
from edgevlm.models.checkpoints import picture_rules, text_rules, weights
from edgevlm.models.checkpoints.files import read_json, read_licence
from edgevlm.models.families import Family, read_family
from edgevlm.models.reference import Original, image_reference, text_reference
from edgevlm.models.sizes import check_sizes

if TYPE_CHECKING:
    from edgevlm.models.model import Model
    from edgevlm.models.network import Network


def load(folder: Path, *, name: str, commit: str | None = None) -> Model:
    """Reads a checkpoint and makes export-ready programs of it.

    Args:
        folder: With `config.json`, a preprocessor config, tokenizer files and safetensors.
        name: What the model is called.
        commit: Of a hub id; a folder's revision is the hash of its weights.

    Returns:
        The model in float32, whatever dtype its weights are stored in.

    Raises:
        CheckpointError: another family; files that are missing, damaged or cut short; or a config, weights,
            preprocessor and tokenizer that contradict each other.
        MissingDependency: torch or transformers is not installed.
    """
    config_file = folder / "config.json"
    config = read_json(config_file)
    family = read_family(config, str(config_file))
    check_sizes(config, str(config_file))
    files = weights.find_files(folder)
    picture_rules.find_files(folder)
    for package in ("torch", "transformers"):
        if importlib.util.find_spec(package) is None:
            raise MissingDependency(package, extra="convert")
    # What the small files tell is refused above: torch alone takes seconds to import.
    from edgevlm.models.encoders import clip, siglip
    from edgevlm.models.model import Model, assemble_programs
    from edgevlm.models.network import build_network

    network = build_network(config, where=str(config_file))
    image = _read_image_preprocessing(folder, network)
    tokenizer = _read_tokenizer(folder, family, network)
    weights.fill_network(network, files)
    towers = {"clip": clip, "siglip": siglip}[family]
    encode_image, encode_text, embedding_dim = towers.build_towers(
        network, image, tokenizer.spec, where=str(config_file)
    )
    programs = assemble_programs(
        encode_image, encode_text, image=image, text=tokenizer.spec, embedding_dim=embedding_dim
    )
    forwards = {"encode_image": image_reference(network, image), "encode_text": text_reference(network)}
    return Model(
        source=Source(
            name=name,
            family=family,
            revision=commit or f"sha256:{weights.hash_files([config_file, *files])}",
            licence=read_licence(folder / "README.md"),
        ),
        image=image,
        text=tokenizer.spec,
        tokenizer_json=tokenizer.tokenizer_json,
        embedding_dim=embedding_dim,
        logit_scale=_read_logit_scale(network, files[0]),
        logit_bias=float(network.logit_bias) if hasattr(network, "logit_bias") else None,
        notes=(*picture_rules.notes(folder), *text_rules.notes(folder), *weights.notes(folder)),
        programs=programs,
        original=Original(network, forwards, {name: program.spec for name, program in programs.items()}),
    )


def _read_logit_scale(network: Network, where: Path) -> float:
    """The factor of a cosine, whose logarithm was trained."""
    factor = float(network.logit_scale.exp())
    if not 0 < factor < math.inf:
        raise CheckpointError(
            f"{where}: logit_scale: expected the logarithm of a factor of cosines, such as 4.6, got "
            f"{float(network.logit_scale):g}, whose exponential is {factor}",
            hint="the training has diverged: take an earlier state",
        )
    return factor


def _read_image_preprocessing(folder: Path, network: Network) -> ImagePreprocessing:
    vision = network.config.vision_config
    size = (vision.image_size, vision.image_size)
    return picture_rules.from_checkpoint(folder, image_size=size, patch_size=vision.patch_size)


def _read_tokenizer(folder: Path, family: Family, network: Network) -> text_rules.CheckpointTokenizer:
    config = network.config.text_config
    tokenizer = text_rules.from_checkpoint(
        folder,
        family=family,
        context_length=config.max_position_embeddings,
        vocabulary_size=config.vocab_size,
    )
    highest = max(tokenizers.Tokenizer.from_buffer(tokenizer.tokenizer_json).get_vocab().values())
    if highest >= config.vocab_size:
        raise CheckpointError(
            f"{folder}: expected a tokenizer with ids below text_config.vocab_size, {config.vocab_size}, got {highest}",
            hint="take the tokenizer's files and the weights from the same checkpoint",
        )
    return tokenizer
