"""SigLIP (Zhai et al., 2023, arXiv 2303.15343), made ready for export from transformers' `SiglipModel`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from edgevlm.bundle.spec import ImagePreprocessing, TextPreprocessing
from edgevlm.errors import CheckpointError
from edgevlm.models.encoders.positions import image_positions
from edgevlm.models.layers import Block, PixelNormalisation, attend, unit_norm

if TYPE_CHECKING:
    from edgevlm.models.network import Network


class AttentionPooling(nn.Module):
    """One learned query looks at all tokens, [1, T, C] -> [1, C] (Lee et al., 2019, arXiv 1810.00825).

    Args:
        head: transformers' `SiglipMultiheadAttentionPoolingHead`. Its `nn.MultiheadAttention` is taken apart into
            linears; the query, which no picture changes, is projected here once.
    """

    query: Tensor

    def __init__(self, head: Any) -> None:
        super().__init__()
        attention: nn.MultiheadAttention = head.attention
        weights = attention.in_proj_weight.detach().chunk(3)
        biases = attention.in_proj_bias.detach().chunk(3)
        self.heads = attention.num_heads
        self.register_buffer("query", nn.functional.linear(head.probe.detach(), weights[0], biases[0]))
        self.key, self.value = (_linear(weight, bias) for weight, bias in zip(weights[1:], biases[1:], strict=True))
        self.out = nn.Linear(attention.embed_dim, attention.embed_dim, device="meta")
        self.out.weight, self.out.bias = attention.out_proj.weight, attention.out_proj.bias
        self.norm: nn.LayerNorm = head.layernorm
        self.mlp: nn.Module = head.mlp

    def forward(self, tokens: Tensor) -> Tensor:
        pooled = self.out(attend(self.query, self.key(tokens), self.value(tokens), self.heads)).squeeze(1)
        return pooled + self.mlp(self.norm(pooled))  # type: ignore[no-any-return]


class ImageTower(nn.Module):
    """Pixels float32 [1, 3, H, W] in 0..255 -> unit vector float32 [1, D]."""

    positions: Tensor

    def __init__(self, network: Network, image: ImagePreprocessing) -> None:
        super().__init__()
        vision = network.vision_model
        self.normalise = PixelNormalisation(image.rescale, image.mean, image.std)
        self.patch_embedding = vision.embeddings.patch_embedding
        self.register_buffer("positions", image_positions(vision.embeddings, image, extra=0))
        self.blocks = nn.ModuleList(Block(layer) for layer in vision.encoder.layers)
        self.last_norm = vision.post_layernorm
        self.pooling = AttentionPooling(vision.head)

    def forward(self, pixels: Tensor) -> Tensor:
        tokens = self.patch_embedding(self.normalise(pixels)).flatten(2).transpose(1, 2) + self.positions
        for block in self.blocks:
            tokens = block(tokens)
        return unit_norm(self.pooling(self.last_norm(tokens)))


class TextTower(nn.Module):
    """Token ids int32 [1, L], padded to the full length -> unit vector float32 [1, D]: the last token's."""

    positions: Tensor

    def __init__(self, network: Network, text: TextPreprocessing) -> None:
        super().__init__()
        model = network.text_model
        self.token_embedding = model.embeddings.token_embedding
        weight = model.embeddings.position_embedding.weight.detach()
        self.register_buffer("positions", weight[None, : text.context_length])
        self.blocks = nn.ModuleList(Block(layer) for layer in model.encoder.layers)
        self.last_norm = model.final_layer_norm
        self.projection = model.head

    def forward(self, token_ids: Tensor) -> Tensor:
        tokens = self.token_embedding(token_ids) + self.positions
        *blocks, last_block = self.blocks
        for block in blocks:
            tokens = block(tokens)
        pooled = last_block(tokens, queried=tokens[:, -1:]).squeeze(1)
        return unit_norm(self.projection(self.last_norm(pooled)))


def build_towers(
    network: Network, image: ImagePreprocessing, text: TextPreprocessing, *, where: str
) -> tuple[nn.Module, nn.Module, int]:
    """The two programs' modules, which share the network's weights, and the length of an embedding.

    Args:
        network: transformers' `SiglipModel`, float32.
        image, text: Sizes of what the modules take, and the pixels' normalisation.
        where: The config's file, for errors.

    Raises:
        CheckpointError: no pooling head, or towers whose embeddings differ in length.
    """
    vision_config, text_config = network.config.vision_config, network.config.text_config
    if not vision_config.vision_use_head:
        raise CheckpointError(
            f"{where}: vision_config.vision_use_head: expected true, got false",
            hint="without the pooling head the family defines no picture embedding, and transformers returns none",
        )
    if vision_config.hidden_size != text_config.projection_size:
        raise CheckpointError(
            f"{where}: expected embeddings of one length, got {vision_config.hidden_size} for pictures "
            f"(vision_config.hidden_size) and {text_config.projection_size} for texts (text_config.projection_size)"
        )
    text_tower, embedding_dim = build_text_tower(network, text, where=where)
    return ImageTower(network, image), text_tower, embedding_dim


def build_text_tower(network: Network, text: TextPreprocessing, *, where: str) -> tuple[nn.Module, int]:
    """The text program's module, which shares the network's weights, and the length of an embedding.

    Args:
        network: transformers' `SiglipModel`, or its text half (`edgevlm.models.network.build_text_half`), float32.
        text: Sizes of what the module takes.
        where: The text config's place, for errors.
    """
    return TextTower(network, text), network.text_model.config.projection_size


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    linear.weight, linear.bias = nn.Parameter(weight.clone()), nn.Parameter(bias.clone())
    return linear
