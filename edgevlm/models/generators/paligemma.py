"""PaliGemma (Beyer et al., 2024, arXiv 2407.07726) and PaliGemma 2 (arXiv 2412.03555), made ready for export.

A SigLIP tower, one linear layer, and a decoder of Gemma's kind. Picture and question are a prefix, whose rows all see
each other, so that they are put at once; the answer's see what is before them.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from edgevlm.bundle.dialogue import Chat, Turn
from edgevlm.bundle.spec import ImagePreprocessing
from edgevlm.errors import CheckpointError
from edgevlm.models.generators import decoder
from edgevlm.models.generators.decoder import Places, RMSNorm
from edgevlm.models.generators.parts import Parts, Pieces, features, normalised
from edgevlm.models.generators.towers import Tower

_BEYOND = 60_000.0
"""Of a logit, within float16."""


class EncodeImage(nn.Module):
    """Pixels float32 [1, 3, H, W] in 0..255 -> features float32 [1, P, W], rows like those of a text's tokens.

    Args:
        model: transformers' `PaliGemmaModel`.
        image: Size and normalisation of the pixels.
        where: The config's file, for errors.

    Raises:
        CheckpointError: another tower than SigLIP's.
    """

    def __init__(self, model: Any, image: ImagePreprocessing, *, where: str) -> None:
        super().__init__()
        vision = model.config.vision_config
        if vision.model_type != "siglip_vision_model":
            raise CheckpointError(
                f"{where}: vision_config.model_type: expected siglip_vision_model, got {vision.model_type!r}"
            )
        self.tower = Tower(model.vision_tower, image, (vision.num_hidden_layers,))
        self.last_norm: nn.LayerNorm = model.vision_tower.post_layernorm
        self.projection: nn.Linear = model.multi_modal_projector.linear

    def forward(self, pixels: Tensor) -> Tensor:
        (rows,) = self.tower(pixels)
        return self.projection(self.last_norm(rows))  # type: ignore[no-any-return]


class Layer(decoder.Layer):
    """Attention and an MLP, each between two norms and beside its own input, as Gemma 2 has them.

    Args:
        layer: transformers' `Gemma2DecoderLayer`, whose weights are taken.
        rotation: Shared by all layers.
    """

    def __init__(self, layer: Any, rotation: decoder.Rotation) -> None:
        super().__init__(layer, rotation)
        self.attention_out_norm = RMSNorm(layer.post_attention_layernorm)
        self.mlp_norm = RMSNorm(layer.pre_feedforward_layernorm)
        self.mlp_out_norm = RMSNorm(layer.post_feedforward_layernorm)

    def forward(
        self, rows: Tensor, places: Places, angles: tuple[Tensor, Tensor], keys: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        mixed, keys, values = self.attention(self.attention_norm(rows), places, angles, keys, values)
        rows = rows + self.attention_out_norm(mixed)
        return rows + self.mlp_out_norm(self.mlp(self.mlp_norm(rows))), keys, values


class Decoder(decoder.Decoder):
    """A decoder whose rows of a run that begins a dialogue all see each other; else as every `Decoder`.

    Args:
        model: transformers' `GemmaModel` or `Gemma2Model`.
        head, context_length, where: See `edgevlm.models.generators.decoder.Decoder`.
    """

    kinds: ClassVar = ("gemma", "gemma2")
    prefix: ClassVar = True

    def __init__(self, model: Any, head: nn.Linear, context_length: int, *, where: str) -> None:
        super().__init__(model, head, context_length, where=where)
        self.largest: float | None = getattr(model.config, "final_logit_softcapping", None)
        """Of logits, which tanh keeps below it."""

    def layer_of(self, layer: Any) -> decoder.Layer:
        own = Layer if hasattr(layer, "pre_feedforward_layernorm") else decoder.Layer
        return own(layer, self.rotation)

    def answer(self, places: Places, rows: Tensor) -> Tensor:
        logits = super().answer(places, rows)
        if self.largest is None:
            return logits
        # Cut where tanh has long been 1: litert-torch would make one of the factor and the head's weights, which NNCF
        # has decided on.
        return (logits.clamp(-_BEYOND, _BEYOND) / self.largest).tanh() * self.largest


def take_apart(network: Any, image: ImagePreprocessing, context_length: int, *, where: str) -> Parts:
    """The network's parts.

    Args:
        network: transformers' `PaliGemmaForConditionalGeneration`.
        image: Size and normalisation of the pixels.
        context_length: Positions that the state holds.
        where: The config's file, for errors.

    Raises:
        CheckpointError: a tower or a decoder that is not carried; see `EncodeImage` and `Decoder`.
    """
    model, config, table = network.model, network.config, network.get_input_embeddings()
    patch = config.vision_config.patch_size

    def original(pixels: Tensor) -> Tensor:
        found = model.get_image_features(normalised(pixels, image.rescale, image.mean, image.std))
        return found.pooler_output  # type: ignore[no-any-return]

    def original_decode(cache: Any, embeddings: Tensor, positions: Tensor) -> Tensor:
        given: dict[str, Any] = {}
        if not cache.get_seq_length():
            given["token_type_ids"] = torch.zeros_like(positions)
        found = network(inputs_embeds=embeddings, position_ids=positions + 1, cache=cache, use_cache=True, **given)
        return found.logits[:, -1]  # type: ignore[no-any-return]

    return Parts(
        encode_image=EncodeImage(model, image, where=where),
        seen=(features(config.text_config.hidden_size, (image.height // patch) * (image.width // patch)),),
        embed_tokens=table,
        decode=Decoder(model.language_model, network.lm_head, context_length, where=f"{where}: text_config"),
        original={"encode_image": original, "embed_tokens": table},
        original_decode=original_decode,
        image_token_id=config.image_token_id,
        pieces=Pieces(),
        begin_ids=(),
        end_ids=(),
        talks=False,
        describe="caption en",
        asked=_asked,
    )


def _asked(token: str, tokenizer: Any) -> Chat:
    """As transformers' `PaliGemmaProcessor` writes a picture and what it calls a prefix."""
    begin = str(tokenizer.bos_token)
    return Chat(
        begin="",
        system=None,
        user=Turn(begin, "\n"),
        user_with_picture=Turn(token + begin, "\n"),
        assistant=None,
        ask="",
    )
