"""LLaVA 1.5 (Liu et al., 2023, arXiv 2310.03744), made ready for export: a tower, a projector and a decoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from edgevlm.bundle.spec import ImagePreprocessing
from edgevlm.errors import CheckpointError
from edgevlm.models.generators.decoder import Decoder
from edgevlm.models.generators.parts import Parts, Pieces, causal_decode, features, rows_of_layers
from edgevlm.models.generators.towers import Tower

_TOWERS = ("clip_vision_model", "siglip_vision_model")


class EncodeImage(nn.Module):
    """Pixels float32 [1, 3, H, W] in 0..255 -> features float32 [1, P, W], rows like those of a text's tokens.

    Args:
        model: transformers' `LlavaModel`.
        image: Size and normalisation of the pixels.
        where: The config's file, for errors.

    Raises:
        CheckpointError: another tower than CLIP's or SigLIP's, or layers that it does not have.
    """

    def __init__(self, model: Any, image: ImagePreprocessing, *, where: str) -> None:
        super().__init__()
        config, vision = model.config, model.config.vision_config
        if vision.model_type not in _TOWERS:
            raise CheckpointError(
                f"{where}: vision_config.model_type: expected {' or '.join(_TOWERS)}, got {vision.model_type!r}"
            )
        named = config.vision_feature_layer
        layers = [layer % (vision.num_hidden_layers + 1) for layer in ([named] if isinstance(named, int) else named)]
        self.order = [sorted(set(layers)).index(layer) for layer in layers]
        self.tower = Tower(model.vision_tower, image, tuple(sorted(set(layers))))
        self.first = 1 if config.vision_feature_select_strategy == "default" else 0
        self.projector: nn.Module = model.multi_modal_projector

    def forward(self, pixels: Tensor) -> Tensor:
        taken = self.tower(pixels)
        rows = torch.cat([taken[place][:, self.first :] for place in self.order], -1)
        return self.projector(rows)  # type: ignore[no-any-return]


def take_apart(network: Any, image: ImagePreprocessing, context_length: int, *, where: str) -> Parts:
    """The network's parts.

    Args:
        network: transformers' `LlavaForConditionalGeneration`.
        image: Size and normalisation of the pixels.
        context_length: Positions that the state holds.
        where: The config's file, for errors.

    Raises:
        CheckpointError: a tower or a decoder that is not carried; see `EncodeImage` and `Decoder`.
    """
    config = network.config
    encode_image = EncodeImage(network.model, image, where=where)
    rows = (image.height // config.vision_config.patch_size) * (image.width // config.vision_config.patch_size)
    rows += int(encode_image.tower.has_class_token) - encode_image.first
    original = rows_of_layers(network.model, image)
    return assemble(network, encode_image, rows, original, context_length, where=where)


def assemble(
    network: Any,
    encode_image: nn.Module,
    rows: int,
    original: Callable[[Tensor], Tensor],
    context_length: int,
    *,
    where: str,
) -> Parts:
    """The parts of a network whose pictures are rows among words, of a decoder of Llama's kind.

    Args:
        network: Such as transformers' `LlavaForConditionalGeneration`.
        encode_image: Gives rows of a picture.
        rows: How many.
        original: transformers' own of `encode_image`.
        context_length: Positions that the state holds.
        where: The config's file, for errors.

    Raises:
        CheckpointError: a decoder that is not carried; see `Decoder`.
    """
    model, config = network.model, network.config
    return Parts(
        encode_image=encode_image,
        seen=(features(config.text_config.hidden_size, rows),),
        embed_tokens=network.get_input_embeddings(),
        decode=Decoder(model.language_model, network.lm_head, context_length, where=f"{where}: text_config"),
        original={"encode_image": original, "embed_tokens": network.get_input_embeddings()},
        original_decode=causal_decode(model.language_model, network.lm_head),
        image_token_id=config.image_token_id,
        pieces=Pieces(),
        begin_ids=None,
        end_ids=(),
        talks=True,
        describe="Describe this picture.",
    )
