"""What each family of models that talk is read into."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from edgevlm.bundle.dialogue import FEATURES, Chat, Turn
from edgevlm.bundle.spec import ImagePreprocessing, TensorSpec
from edgevlm.errors import CheckpointError


@dataclass(frozen=True)
class Pieces:
    """How a family writes a picture into a text, without the token and its number; see `bundle.dialogue.Spelling`.

    `around` is what stands around all tiles; a dialogue's own pieces have it.
    """

    tile: str = ""
    end_of_row: str = ""
    end_of_tiles: str = ""
    whole: Turn = Turn("", "")  # noqa: RUF009 (frozen)
    around: Turn = Turn("", "")  # noqa: RUF009 (frozen)


@dataclass(frozen=True)
class Parts:
    """A checkpoint's network, taken apart.

    Attributes:
        encode_image: Its `forward(pixels)` returns what `seen` says.
        seen: What it returns.
        embed_tokens: The table of tokens.
        decode: Its `forward(embeddings, positions, *beside, *state)` returns logits and the new state.
        original: transformers' own forward of `encode_image` and `embed_tokens`.
        original_decode: A cache, embeddings, positions and what is beside them -> logits of the last row.
        image_token_id: Id that a picture's rows stand at in a text, or that stands for what `decode` takes beside it;
            None where there is no picture in the text.
        pieces: What is written around them.
        begin_ids: Ids that every text begins with, where that is not the tokenizer's business.
        end_ids: Ids that end an answer.
        talks: Whether there is a chat template; without one the model goes on from a text, or is `asked` otherwise.
        describe: What is asked where nothing is.
        written: The text that transformers' own processor puts in place of a picture, by the tokenizer, the rows and
            columns of tiles, and the positions of one: `pieces` must say the same. None where that is the token alone.
        asked: By the token of a picture and the tokenizer, the texts that transformers' own processor puts around a
            question, where that is no chat template's business.
        behind_words: How many zeros stand behind each row of a word, where a picture's rows say more than words do.
        marked_token_id: Id of a token whose row has 1 in place of the last of these.
        longest: Positions that the decoder was trained with, where its configuration does not say.
    """

    encode_image: nn.Module
    seen: tuple[TensorSpec, ...]
    embed_tokens: nn.Embedding
    decode: Any
    original: Mapping[str, Callable[..., Any]]
    original_decode: Callable[..., torch.Tensor]
    image_token_id: int | None
    pieces: Pieces
    begin_ids: tuple[int, ...] | None
    end_ids: tuple[int, ...]
    talks: bool
    describe: str
    written: Callable[[Any, int, int, int], str] | None = None
    asked: Callable[[str, Any], Chat] | None = None
    behind_words: int = 0
    marked_token_id: int | None = None
    longest: int | None = None

    @property
    def beside(self) -> bool:
        """Whether `decode` takes what is seen beside its rows, rather than among them."""
        return all(tensor.name != FEATURES for tensor in self.seen)

    @property
    def prefix(self) -> bool:
        """Whether picture and question are put at once; see `ComponentSpec`."""
        return bool(getattr(self.decode, "prefix", False))


def check_context(context_length: int, longest: int, where: str) -> None:
    """Refuses more positions than a decoder was trained with.

    Args:
        context_length: Positions that are asked for.
        longest: That there are.
        where: The place of the decoder's configuration, for errors.
    """
    if context_length > longest:
        raise CheckpointError(
            f"{where}: expected a context of at most max_position_embeddings, {longest:,}, got {context_length:,}"
        )


def token_of(tokenizer: Any, name: str) -> str:
    """A tokenizer's own, such as `bos_token`.

    Raises:
        CheckpointError: it has none.
    """
    found = getattr(tokenizer, name, None)
    if not isinstance(found, str):
        raise CheckpointError(
            f"tokenizer_config.json: {name}: expected a token, got none",
            hint="take the tokenizer's files of the original checkpoint",
        )
    return found


def normalised(pixels: torch.Tensor, rescale: float, mean: Any, std: Any) -> torch.Tensor:
    """What a processor makes of pixels in 0..255, [N, 3, H, W]."""
    centre, spread = (torch.tensor(numbers).reshape(1, 3, 1, 1) for numbers in (mean, std))
    return (pixels * rescale - centre) / spread


def rows_of_layers(model: Any, image: ImagePreprocessing) -> Callable[[torch.Tensor], torch.Tensor]:
    """transformers' own rows of a picture, from the layers of the tower that its configuration names.

    Args:
        model: Whose `get_image_features` takes layers and a strategy, such as a `LlavaModel`.
        image: Normalisation of the pixels.
    """

    def original(pixels: torch.Tensor) -> torch.Tensor:
        found = model.get_image_features(
            normalised(pixels, image.rescale, image.mean, image.std),
            vision_feature_layer=model.config.vision_feature_layer,
            vision_feature_select_strategy=model.config.vision_feature_select_strategy,
        )
        return torch.stack(list(found.pooler_output))

    return original


def causal_decode(model: nn.Module, head: nn.Module) -> Callable[..., torch.Tensor]:
    """transformers' own run of a causal decoder, on new rows behind those of a cache.

    Args:
        model: A `LlamaModel` or one of its kin.
        head: Gives logits of a row.
    """

    def decode(cache: Any, embeddings: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        found = model(inputs_embeds=embeddings, position_ids=positions, cache=cache, use_cache=True)
        return head(found.last_hidden_state[:, -1])  # type: ignore[no-any-return]

    return decode


def shuffled(rows: torch.Tensor, side: int, scale: int) -> torch.Tensor:
    """[1, side^2, C] -> [1, (side / scale)^2, C * scale^2]: patches of a square of `scale` become one row, in order."""
    width = rows.shape[-1]
    squares = rows.reshape(side // scale, scale, side // scale, scale * width).transpose(1, 2)
    return squares.reshape(1, (side // scale) ** 2, scale * scale * width)


def scaled(linear: nn.Linear, scale: torch.Tensor) -> nn.Linear:
    """A linear layer and a scale of each of its channels, as one: converters would make it of weights in integers, too.

    Args:
        linear: Whose weights are left as they are.
        scale: Of its outputs, [W] or a number for all.
    """
    made = nn.Linear(linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta")
    with torch.no_grad():
        factor = scale.reshape(-1).expand(linear.out_features)
        made.weight = nn.Parameter(linear.weight * factor[:, None], requires_grad=False)
        if linear.bias is not None:
            made.bias = nn.Parameter(linear.bias * factor, requires_grad=False)
    return made


def keys_and_values(layers: int, shape: tuple[int, ...]) -> tuple[TensorSpec, ...]:
    """What a decoder keeps of the rows so far: keys and values of each layer in turn.

    Args:
        layers: How many there are.
        shape: Of keys, and of values, of a layer, such as [1, H, S, D].
    """
    return tuple(
        TensorSpec(f"{kind}_{layer}", "float32", shape, f"{kind} of layer {layer}, by place")
        for layer in range(layers)
        for kind in ("keys", "values")
    )


def keys_and_values_of_picture(layers: int, shape: tuple[int, ...]) -> tuple[TensorSpec, ...]:
    """What `encode_image` answers where a decoder looks at a picture beside its words, of each layer that looks.

    Args:
        layers: How many of these there are.
        shape: Of keys, and of values, of a layer: [1, heads, P, D].
    """
    return tuple(
        TensorSpec(f"picture_{kind}_{layer}", "float32", shape, f"{kind} of the picture, layer {layer}")
        for layer in range(layers)
        for kind in ("keys", "values")
    )


def features(width: int, rows: int) -> TensorSpec:
    """What `encode_image` answers where a picture's rows stand among those of words."""
    return TensorSpec(FEATURES, "float32", (1, rows, width), "rows of the picture, like those of words")
