"""The family's own network from transformers: built empty from a config, so that weights can be checked against it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import nn
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    SiglipConfig,
    SiglipModel,
    SiglipTextConfig,
    SiglipTextModel,
)
from transformers.activations import ACT2FN

from edgevlm.errors import CheckpointError
from edgevlm.models.families import read_family
from edgevlm.models.sizes import check_sizes, check_text_sizes
from edgevlm.process.quiet import quiet

# A `CLIPModel` or `SiglipModel`. Its types are of no help: the parts of a config, say, may be dicts or None in them.
Network: TypeAlias = Any

_CLASSES: dict[str, tuple[type[Any], type[Any]]] = {
    "clip": (CLIPConfig, CLIPModel),
    "siglip": (SiglipConfig, SiglipModel),
}
_OF_CLASSIFIERS = ("num_labels", "id2label", "label2id")
"""Keys that no dual encoder's network needs, and of which transformers makes a table with an entry a label."""


def build_network(config: Mapping[str, Any], *, where: str) -> Network:
    """The network that a `config.json` describes, in eval mode, on torch's meta device: shapes and no weights.

    Args:
        config: The file's content.
        where: The file's name, for errors.

    Raises:
        CheckpointError: a family that is not carried, or values from which no network can be built.
    """
    return _build(*_CLASSES[read_family(config, where)], config, _check, where)


class SiglipTextHalf(nn.Module):
    """A SigLIP's text half, in which its weights are called what they are in the whole."""

    def __init__(self, config: SiglipTextConfig) -> None:
        super().__init__()
        self.text_model = SiglipTextModel(config)


_TEXT_CLASSES: dict[str, tuple[type[Any], type[Any]]] = {
    "clip": (CLIPTextConfig, CLIPTextModelWithProjection),
    "siglip": (SiglipTextConfig, SiglipTextHalf),
}


def build_text_half(config: Mapping[str, Any], family: str, *, where: str) -> Network:
    """The text half of a dual encoder: `text_model`, and CLIP's `text_projection`; else as `build_network`.

    Args:
        config: The content of its own `config.json`, whose `model_type` is `clip_text_model` or `siglip_text_model`.
        family: `clip` or `siglip`.
        where: The file's name, for errors.

    Raises:
        CheckpointError: another family, or values from which no network can be built.
    """
    expected = f"{family}_text_model"
    if config.get("model_type") != expected:
        raise CheckpointError(f"{where}: model_type: expected {expected}, got {config.get('model_type')!r}")
    return _build(*_TEXT_CLASSES[family], config, _check_text, where)


def _build(
    config_class: type[Any],
    network_class: type[Any],
    config: Mapping[str, Any],
    check: Callable[[Any, str], None],
    where: str,
) -> Network:
    # Whatever transformers raises here, of many kinds, it raises about the config. At every SigLIP it warns about
    # special ids that its own defaults brought in.
    try:
        with quiet(), torch.device("meta"):
            parsed = config_class.from_dict(_without_labels(config))
            check(parsed, where)
            network = network_class(parsed)
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(f"{where}: no network can be built from it: {error}") from error
    return network.eval()


def _without_labels(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _without_labels(value) if isinstance(value, Mapping) else value
        for key, value in config.items()
        if key not in _OF_CLASSIFIERS
    }


def _check(config: Any, where: str) -> None:
    check_sizes(config.to_dict(), where)
    for side in ("text_config", "vision_config"):
        _check_activation(getattr(config, side), f"{where}: {side}")


def _check_text(config: Any, where: str) -> None:
    check_text_sizes(config.to_dict(), where)
    _check_activation(config, where)


def _check_activation(config: Any, place: str) -> None:
    if config.hidden_act not in ACT2FN:
        raise CheckpointError(
            f"{place}.hidden_act: expected a name that transformers knows, such as quick_gelu, gelu or "
            f"gelu_pytorch_tanh, got {config.hidden_act!r}"
        )
