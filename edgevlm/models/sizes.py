"""The sizes that a `config.json` may give; needs no framework, so that others are refused at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgevlm.errors import CheckpointError

_SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
_TEXT_SIZES = ("vocab_size", "max_position_embeddings")
_VISION_SIZES = ("image_size", "patch_size")
_LAYERS = ("num_hidden_layers", "encoder_layers", "decoder_layers", "depths")
"""What towers call their number; one of several stages has a list."""
_MOST_LAYERS = 1_000
"""Of a tower: an empty network of more takes minutes to build, before its weights could be missed."""


def check_sizes(config: Mapping[str, Any], where: str) -> None:
    """Refuses sizes that transformers would only fail at later, or misread.

    Args:
        config: The content of `config.json`, or of transformers' configuration, which has the defaults as well: a size
            that is not there is not looked at.
        where: The file's name, for errors.

    Raises:
        CheckpointError: one cannot be, or contradicts another.
    """
    text, vision = (_tower(config, f"{side}_config") for side in ("text", "vision"))
    check_text_sizes(text, f"{where}: text_config")
    _check_tower(vision, _VISION_SIZES, f"{where}: vision_config")
    if vision.get("num_channels", 3) != 3:
        raise CheckpointError(f"{where}: vision_config.num_channels: expected 3, got {vision['num_channels']!r}")
    side, patch = vision.get("image_size"), vision.get("patch_size")
    if side is not None and patch is not None and patch > side:
        raise CheckpointError(f"{where}: vision_config.patch_size: expected at most image_size, {side}, got {patch}")


def check_text_sizes(config: Mapping[str, Any], place: str) -> None:
    """Those of a text tower alone; else as `check_sizes`."""
    _check_tower(config, _TEXT_SIZES, place)


def check_layers(config: Mapping[str, Any], where: str) -> None:
    """Refuses a tower of so many layers that transformers would build them for minutes; else as `check_sizes`.

    >>> check_layers({"text_config": {"num_hidden_layers": 4096}}, "config.json")
    Traceback (most recent call last):
        ...
    edgevlm.errors.CheckpointError: config.json: text_config.num_hidden_layers: expected at most 1,000, got 4,096
    """
    for side, values in config.items():
        if isinstance(values, Mapping):
            _check_layers(values, f"{where}: {side}")


def _check_layers(values: Mapping[str, Any], place: str) -> None:
    for key in _LAYERS:
        layers = values.get(key)
        if isinstance(layers, list) and all(type(each) is int for each in layers):
            layers = sum(layers)
        if isinstance(layers, int) and layers > _MOST_LAYERS:  # what is no number, transformers refuses at once
            raise CheckpointError(
                f"{place}.{key}: expected at most {_MOST_LAYERS:,}, got {layers:,}",
                hint="take config.json and the weights from the same checkpoint",
            )


def _tower(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = config.get(key)
    return found if isinstance(found, Mapping) else {}


def _check_tower(values: Mapping[str, Any], sizes: tuple[str, ...], place: str) -> None:
    for key in (*_SIZES, *sizes):
        if key in values:
            _check_positive(values[key], f"{place}.{key}")
    _check_layers(values, place)
    if {"hidden_size", "num_attention_heads"} <= values.keys() and values["hidden_size"] % values[
        "num_attention_heads"
    ]:
        raise CheckpointError(
            f"{place}: expected a hidden_size that num_attention_heads divides, got {values['hidden_size']} and "
            f"{values['num_attention_heads']}"
        )


def _check_positive(value: Any, place: str) -> None:
    if not isinstance(value, int) or value < 1:
        raise CheckpointError(f"{place}: expected a whole number of at least 1, got {value!r}")
