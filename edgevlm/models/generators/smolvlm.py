"""SmolVLM (Marafioti et al., 2025, arXiv 2504.05299) and Idefics3, made ready for export.

A tile at a time: a SigLIP tower, pixel shuffle, one linear layer, and a decoder of Llama's kind.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from edgevlm.bundle.dialogue import Turn
from edgevlm.bundle.spec import ImagePreprocessing
from edgevlm.errors import CheckpointError
from edgevlm.models.generators.decoder import Decoder
from edgevlm.models.generators.parts import Parts, Pieces, causal_decode, features, normalised, shuffled
from edgevlm.models.layers import Block, PixelNormalisation

_PIECES = Pieces(
    tile="<fake_token_around_image><row_{row}_col_{column}>",
    end_of_row="\n",
    end_of_tiles="\n",
    whole=Turn("<fake_token_around_image><global-img>", "<fake_token_around_image>"),
)
"""As transformers' `Idefics3Processor` and `SmolVLMProcessor` write a picture; `_written` asks them."""


class EncodeImage(nn.Module):
    """Pixels of a tile, float32 [1, 3, S, S] in 0..255 -> features float32 [1, P, W], rows like those of tokens.

    Args:
        model: transformers' `Idefics3Model` or `SmolVLMModel`.
        image: Size and normalisation of the pixels; tiles are square, of the size that the tower was trained with.
        where: The config's file, for errors.

    Raises:
        CheckpointError: tiles of another size, or patches that do not divide into the squares that become one row.
    """

    positions: Tensor

    def __init__(self, model: Any, image: ImagePreprocessing, *, where: str) -> None:
        super().__init__()
        embeddings, vision = model.vision_model.embeddings, model.config.vision_config
        side = vision.image_size // vision.patch_size
        self.scale: int = model.connector.scale_factor
        if (image.height, image.width) != (vision.image_size, vision.image_size):
            raise CheckpointError(
                f"{where}: expected tiles of vision_config.image_size, {vision.image_size} x {vision.image_size} "
                f"pixels, got {image.height} x {image.width} from the processor"
            )
        if side % self.scale:
            raise CheckpointError(
                f"{where}: expected a scale_factor that divides the {side} patches of a side, got {self.scale}"
            )
        self.normalise = PixelNormalisation(image.rescale, image.mean, image.std)
        self.patch_embedding: nn.Conv2d = embeddings.patch_embedding
        self.register_buffer("positions", embeddings.position_embedding.weight.detach()[None])
        self.blocks = nn.ModuleList(Block(layer) for layer in model.vision_model.encoder.layers)
        self.last_norm: nn.LayerNorm = model.vision_model.post_layernorm
        self.projection: nn.Linear = model.connector.modality_projection.proj
        self.side = side

    def forward(self, pixels: Tensor) -> Tensor:
        rows = self.patch_embedding(self.normalise(pixels)).flatten(2).transpose(1, 2) + self.positions
        for block in self.blocks:
            rows = block(rows)
        return self.projection(shuffled(self.last_norm(rows), self.side, self.scale))  # type: ignore[no-any-return]


def take_apart(network: Any, image: ImagePreprocessing, context_length: int, *, where: str) -> Parts:
    """The network's parts.

    Args:
        network: transformers' `SmolVLMForConditionalGeneration` or `Idefics3ForConditionalGeneration`.
        image: Size and normalisation of a tile's pixels.
        context_length: Positions that the state holds.
        where: The config's file, for errors.

    Raises:
        CheckpointError: tiles or a decoder that are not carried; see `EncodeImage` and `Decoder`.
    """
    model, config = network.model, network.config
    encode_image = EncodeImage(model, image, where=where)

    def original(pixels: Tensor) -> Tensor:
        given = normalised(pixels, image.rescale, image.mean, image.std)
        # A tile of zeros alone is padding to the class: a mask of what is there tells it otherwise only behind that.
        given = torch.where(given == 0, torch.full_like(given, 1e-30), given)
        return torch.stack(list(model.get_image_features(given[None]).pooler_output))

    return Parts(
        encode_image=encode_image,
        seen=(features(config.text_config.hidden_size, (encode_image.side // encode_image.scale) ** 2),),
        embed_tokens=network.get_input_embeddings(),
        decode=Decoder(model.text_model, network.lm_head, context_length, where=f"{where}: text_config"),
        original={"encode_image": original, "embed_tokens": network.get_input_embeddings()},
        original_decode=causal_decode(model.text_model, network.lm_head),
        image_token_id=config.image_token_id,
        pieces=_PIECES,
        begin_ids=None,
        end_ids=(),
        talks=True,
        describe="Can you describe this image?",
        written=_written(config.model_type),
    )


def _written(kind: str) -> Callable[[Any, int, int, int], str]:
    """What a family's processor writes for a picture: SmolVLM's by names that a tokenizer may change."""
    from transformers import Idefics3Processor, SmolVLMProcessor

    named: Any = {"idefics3": Idefics3Processor, "smolvlm": SmolVLMProcessor}[kind]
    own = ("fake_image_token", "image_token", "global_image_token") if kind == "smolvlm" else ()

    def write(tokenizer: Any, rows: int, columns: int, positions: int) -> str:
        names = {
            "fake_image_token": "<fake_token_around_image>",
            "image_token": "<image>",
            "global_image_token": "<global-img>",
        }
        names |= {name: getattr(tokenizer, name, names[name]) for name in own}
        # Not a processor of its own: SmolVLM's needs num2words and a reader of videos.
        processor = SimpleNamespace(**names, global_image_tag=names["global_image_token"], image_seq_len=positions)
        return str(named.replace_image_token(processor, {"rows": [[rows]], "cols": [[columns]]}, 0))

    return write
