"""Qwen2-VL (Wang et al., 2024, arXiv 2409.12191), Qwen2.5-VL (arXiv 2502.13923) and Qwen3-VL, made ready for export.

A vision transformer with rotary positions, four patches of a square as one row, and a decoder of Qwen's kind whose
heads are turned by three positions: a row of words stands at one place on all three axes, the rows of a picture at one
in time and at their row and column in space; what follows goes on behind the largest of these (M-RoPE).

The network takes pictures of any proportions; a file takes those of one size, at which all that depends on it is a
constant. What a runtime hands from component to component is rows alone, so a row says itself where in a picture it
stands: behind its W numbers are three marks, and behind these what Qwen3-VL adds to it after the first layers of the
decoder (DeepStack, arXiv 2406.04334). Rows of words have zeros there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from edgevlm.bundle.dialogue import ENDED
from edgevlm.bundle.spec import ImagePreprocessing, TensorSpec
from edgevlm.models.generators import decoder
from edgevlm.models.generators.decoder import Places, Rotation, half_safe_norm, quarter_turn
from edgevlm.models.generators.parts import Parts, Pieces, features, normalised
from edgevlm.models.layers import PixelNormalisation

_MARKS = 3
"""Of a picture's row: 1, of its last 2; its row and column."""


class Attention(nn.Module):
    """Attention of patches that are turned by their rows and columns, [1, N, C] -> [1, N, C].

    Args:
        attention: transformers' `VisionAttention`, whose weights are taken.
    """

    turn: Tensor

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.size: int = attention.head_dim
        self.together: nn.Linear = attention.qkv
        self.out: nn.Linear = attention.proj
        self.register_buffer("turn", quarter_turn(self.size))

    def forward(self, rows: Tensor, cos: Tensor, sin: Tensor, windows: int) -> Tensor:
        """Of rows that stand window by window, each sees those of its own window."""
        query, key, value = (
            part.reshape(rows.shape[1], -1, self.size).transpose(0, 1) for part in self.together(rows).chunk(3, -1)
        )
        query = query * self.size**-0.5
        query, key = (heads * cos + (heads @ self.turn) * sin for heads in (query, key))
        if windows > 1:
            shape = len(query) * windows, -1, self.size
            query, key, value = (heads.reshape(shape) for heads in (query, key, value))
        mixed = (query @ key.transpose(1, 2)).softmax(-1) @ value
        mixed = mixed.reshape(-1, rows.shape[1], self.size).transpose(0, 1).reshape(rows.shape)
        return self.out(mixed)  # type: ignore[no-any-return]


class Block(nn.Module):
    """A pre-norm transformer block, [1, N, C] -> [1, N, C].

    Args:
        block: transformers' `Qwen2VLVisionBlock` or one of its kin, whose weights are taken.
    """

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.attention_norm, self.mlp_norm = half_safe_norm(block.norm1), half_safe_norm(block.norm2)
        self.attention = Attention(block.attn)
        self.mlp: nn.Module = block.mlp

    def forward(self, rows: Tensor, cos: Tensor, sin: Tensor, windows: int) -> Tensor:
        rows = rows + self.attention(self.attention_norm(rows), cos, sin, windows)
        return rows + self.mlp(self.mlp_norm(rows))  # type: ignore[no-any-return]


class Merger(nn.Module):
    """Patches of a square, which stand one behind the other, as one row of the decoder, [1, N, C] -> [1, P, W].

    Args:
        merger: transformers' `PatchMerger`, of Qwen2-VL and 2.5-VL, or `Qwen3VLVisionPatchMerger`.
    """

    def __init__(self, merger: Any) -> None:
        super().__init__()
        self.width: int = merger.hidden_size
        if hasattr(merger, "ln_q"):
            self.norm, self.layers, self.joined_first = half_safe_norm(merger.ln_q), merger.mlp, False
        else:
            self.norm, self.joined_first = half_safe_norm(merger.norm), bool(merger.use_postshuffle_norm)
            self.layers = nn.Sequential(merger.linear_fc1, merger.act_fn, merger.linear_fc2)

    def forward(self, rows: Tensor) -> Tensor:
        if self.joined_first:
            return self.layers(self.norm(rows.reshape(1, -1, self.width)))  # type: ignore[no-any-return]
        return self.layers(self.norm(rows).reshape(1, -1, self.width))  # type: ignore[no-any-return]


class EncodeImage(nn.Module):
    """Pixels float32 [1, 3, H, W] in 0..255 -> features float32 [1, P, W + marks], rows like those of tokens.

    Args:
        model: transformers' `Qwen2VLModel` or one of its kin.
        image: Size and normalisation of the pixels.
    """

    cos: Tensor
    sin: Tensor
    positions: Tensor
    marks: Tensor

    def __init__(self, model: Any, image: ImagePreprocessing) -> None:
        from transformers.vision_utils import get_vision_position_ids

        super().__init__()
        tower, vision = model.visual, model.config.vision_config
        self.merge: int = vision.spatial_merge_size
        patch = _side(vision.patch_size)
        grid = torch.tensor([[1, image.height // patch, image.width // patch]])
        self.rows, self.columns = (int(side) // self.merge for side in grid[0, 1:])
        """Of the picture, as the decoder sees it."""
        self.normalise = PixelNormalisation(image.rescale, image.mean, image.std)
        self.patch_embedding = _of_a_still(tower.patch_embed.proj)
        self.side = getattr(vision, "window_size", 0) // self.merge // patch
        """Of a window, in rows of the decoder; 0 where there are none."""
        self.windows = self.rows * self.columns // self.side**2 if self.side else 1
        with torch.no_grad():
            angles = tower.rotary_pos_emb(torch.zeros(1), get_vision_position_ids(grid, self.merge))
        for name, table in zip(("cos", "sin"), angles, strict=True):
            self.register_buffer(name, self._by_windows(table.float()[None])[0])
        self.register_buffer("positions", _learned_positions(tower, vision, grid))
        self.register_buffer("marks", _marks(self.rows, self.columns))
        self.whole = frozenset(getattr(vision, "fullatt_block_indexes", range(len(tower.blocks))))
        """Blocks in which patches see those of other windows."""
        self.blocks = nn.ModuleList(Block(block) for block in tower.blocks)
        self.merger = Merger(tower.merger)
        self.deep_layers: tuple[int, ...] = tuple(getattr(vision, "deepstack_visual_indexes", ()))
        self.deep_mergers = nn.ModuleList(Merger(each) for each in getattr(tower, "deepstack_merger_list", ()))

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.patch_embedding(self.normalise(pixels))
        width, side = patches.shape[1], self.merge
        squares = patches.reshape(width, self.rows, side, self.columns, side).permute(1, 3, 2, 4, 0)
        rows = self._by_windows(squares.reshape(1, -1, width) + self.positions)
        deep = []
        for number, block in enumerate(self.blocks):
            rows = block(rows, self.cos, self.sin, 1 if number in self.whole else self.windows)
            if number in self.deep_layers:
                deep.append(self.deep_mergers[self.deep_layers.index(number)](rows))
        return torch.cat([self._by_rows(self.merger(rows)), self.marks, *deep], -1)

    def _by_windows(self, patches: Tensor) -> Tensor:
        """Patches [1, N, C], square by square, as they stand window by window."""
        if self.windows == 1:
            return patches
        across = self.rows // self.side, self.side, self.columns // self.side, self.side
        return patches.reshape(*across, -1).transpose(1, 2).reshape(patches.shape)

    def _by_rows(self, merged: Tensor) -> Tensor:
        """The contrary, of rows of the decoder [1, P, W]."""
        if self.windows == 1:
            return merged
        across = self.rows // self.side, self.columns // self.side, self.side, self.side
        return merged.reshape(*across, -1).transpose(1, 2).reshape(merged.shape)


class MarkedRotation(Rotation):
    """Rotary positions on three axes, from tables: each number of a head is turned by the place on one of them.

    Args:
        rotary: transformers' `Qwen2VLRotaryEmbedding` or one of its kin.
        context_length: How many positions there are.
    """

    axes: Tensor

    def __init__(self, rotary: Any, context_length: int) -> None:
        super().__init__(rotary, context_length)
        with torch.no_grad():
            found = [rotary(torch.zeros(1), torch.eye(3)[axis][:, None, None])[1][0] for axis in range(3)]
        self.register_buffer("axes", torch.stack([(sin != 0).float() for sin in found]))
        """[3, 1, D]: 1 for what an axis turns."""

    def angles(self, places: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Cosines and sines [1, T, D] of rows at int32 [1, T] on each axis."""
        cos, sin = (
            sum(nn.functional.embedding(place, table) * axis for place, axis in zip(places, self.axes, strict=True))
            for table in (self.cos, self.sin)
        )
        return cos, sin


class Decoder(decoder.Decoder):
    """Embeddings float32 [1, T, W + marks], positions int32 [1, T], state -> logits float32 [1, V], state.

    The state is keys and values of each layer, and where a picture ended, float32 [1, 1, S, 1]: rows behind it stand
    nearer than their slots say.

    Args:
        model: transformers' `Qwen2VLTextModel` or one of its kin.
        head: Gives logits of a row.
        context_length: S, the positions that the state holds.
        rows, columns: Of a picture.
        where: The text config's place, for errors.

    Raises:
        CheckpointError: see `edgevlm.models.generators.decoder.Decoder`.
    """

    kinds: ClassVar = ("qwen2_vl_text", "qwen2_5_vl_text", "qwen3_vl_text")
    rope_keys: ClassVar = decoder.Decoder.rope_keys | {"mrope_section", "mrope_interleaved"}
    rotation: MarkedRotation

    def __init__(
        self,
        model: Any,
        head: nn.Linear,
        context_length: int,
        *,
        rows: int,
        columns: int,
        where: str,
    ) -> None:
        super().__init__(model, head, context_length, where=where)
        self.rotation = MarkedRotation(model.rotary_emb, context_length)
        for layer in self.layers:
            layer.attention.rotation = self.rotation  # type: ignore[union-attr]
        self.width: int = model.config.hidden_size
        self.columns = columns
        self.saved = rows * columns - max(rows, columns)
        """Places that a picture's rows do not take from those behind it."""

    @property
    def state(self) -> tuple[TensorSpec, ...]:
        """Keys and values of each layer in turn, and where a picture ended."""
        ended = TensorSpec(ENDED, "float32", (1, 1, len(self.slots), 1), "1 where a picture's last row stands")
        return (*super().state, ended)

    def forward(self, embeddings: Tensor, positions: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        places = Places(positions, self.slots, self.groups)
        rows, marks, deep = _parts(embeddings, self.width)
        # Not last of all: coremltools' canonicalize_inplace_pattern fails on that.
        kept = places.write(state[-1], (marks[..., :1] - 1).clamp(min=0))
        angles = self.rotation.angles(self._axes(places, marks, kept.squeeze(0)))
        written = []
        for number, layer in enumerate(self.layers):
            rows, keys, values = layer(rows, places, angles, *state[2 * number : 2 * number + 2])
            written += [keys, values]
            if number < len(deep):
                rows = rows + deep[number]
        return self.head(self.norm(places.newest @ rows)).squeeze(1), *written, kept

    def _axes(self, places: Places, marks: Tensor, ended: Tensor) -> list[Tensor]:
        """Where rows stand in time, height and width, int32 [1, T] each.

        They are counted as integers: float16 knows those up to 2,048 alone, which is enough for marks.
        """
        pictures = ((self.slots < places.looked_up.unsqueeze(-1)).float() @ ended).squeeze(-1).to(torch.int32)
        row, column = (marks[..., place].to(torch.int32) for place in (1, 2))
        begun = places.looked_up - row * self.columns - column - pictures * self.saved
        return [begun, begun + row, begun + column]


def take_apart(network: Any, image: ImagePreprocessing, context_length: int, *, where: str) -> Parts:
    """The network's parts.

    Args:
        network: transformers' `Qwen2VLForConditionalGeneration` or one of its kin.
        image: Size and normalisation of the pixels.
        context_length: Positions that the state holds.
        where: The config's file, for errors.

    Raises:
        CheckpointError: a decoder that is not carried; see `Decoder`.
    """
    model, config = network.model, network.config
    encode_image, table = EncodeImage(model, image), network.get_input_embeddings()
    width = config.text_config.hidden_size
    behind = _MARKS + len(encode_image.deep_layers) * width
    size = encode_image.rows, encode_image.columns
    decode = Decoder(
        *(model.language_model, network.lm_head, context_length),
        rows=size[0], columns=size[1], where=f"{where}: text_config",
    )  # fmt: skip

    return Parts(
        encode_image=encode_image,
        seen=(features(width + behind, size[0] * size[1]),),
        embed_tokens=table,
        decode=decode,
        original={
            "encode_image": _original_encode_image(model, image),
            "embed_tokens": lambda token_ids: nn.functional.pad(table(token_ids), (0, behind)),
        },
        original_decode=_original_decode(model, network.lm_head, size),
        image_token_id=config.image_token_id,
        pieces=Pieces(),
        begin_ids=None,
        end_ids=(),
        talks=True,
        describe="Describe this picture.",
        behind_words=behind,
    )


def _original_encode_image(model: Any, image: ImagePreprocessing) -> Callable[[Tensor], Tensor]:
    """transformers' own rows of a picture, cut into patches by its own processor, and where they stand."""
    from transformers import Qwen2VLImageProcessorPil

    vision = model.config.vision_config
    patch, merge = _side(vision.patch_size), vision.spatial_merge_size

    def original(pixels: Tensor) -> Tensor:
        (given,) = normalised(pixels, image.rescale, image.mean, image.std).numpy()
        processor: Any = Qwen2VLImageProcessorPil
        patches, rows, columns = processor.patchify(None, given, patch, merge, _side(vision.temporal_patch_size))
        found = model.get_image_features(torch.tensor(patches), image_grid_thw=torch.tensor([[1, rows, columns]]))
        deep = [each[0] for each in getattr(found, "deepstack_features", None) or ()]
        marks = _marks(rows // merge, columns // merge)[0]
        return torch.cat([found.pooler_output[0], marks, *deep], -1)[None]

    return original


def _original_decode(model: Any, head: nn.Module, size: tuple[int, int]) -> Callable[..., Tensor]:
    """transformers' own run of the decoder, at the places that its `get_rope_index` gives the dialogue so far."""
    width, merge = model.config.text_config.hidden_size, model.config.vision_config.spatial_merge_size
    count = size[0] * size[1]

    def decode(cache: Any, embeddings: Tensor, positions: Tensor) -> Tensor:
        rows, marks, deep = _parts(embeddings, width)
        before, seen = cache.get_seq_length(), marks[..., 0] > 0
        kinds = [*getattr(cache, "kinds", ())[:before], *seen[0].tolist()]
        cache.kinds = kinds
        # A picture whose rows have not all come yet is looked at as if they had: the places of the first are the same.
        whole = [*kinds, *[True] * (-sum(kinds) % count)]
        grids = torch.tensor([[1, size[0] * merge, size[1] * merge]] * (sum(whole) // count))
        ids = torch.zeros(1, len(whole), dtype=torch.long)
        places, _ = model.get_rope_index(
            ids, mm_token_type_ids=torch.tensor([whole]).int(), image_grid_thw=grids if len(grids) else None
        )
        given: dict[str, Any] = {}
        if deep:
            given["visual_pos_masks"] = seen
            given["deepstack_visual_embeds"] = [each[seen] for each in deep]
        found = model.language_model(
            inputs_embeds=rows, position_ids=places[:, :, before : len(kinds)], cache=cache, use_cache=True, **given
        )
        return head(found.last_hidden_state[:, -1])  # type: ignore[no-any-return]

    return decode


def _parts(embeddings: Tensor, width: int) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Of rows [1, T, W + marks]: those of words and pictures, marks [1, T, 3], and what is added behind layers."""
    starts = range(width + _MARKS, embeddings.shape[-1], width)
    return (
        embeddings[..., :width],
        embeddings[..., width : width + _MARKS],
        [embeddings[..., start : start + width] for start in starts],
    )


def _marks(rows: int, columns: int) -> Tensor:
    """[1, P, 3]: what a picture's rows say of themselves."""
    kind = torch.ones(rows * columns)
    kind[-1] = 2
    row, column = torch.arange(rows).repeat_interleave(columns), torch.arange(columns).repeat(rows)
    return torch.stack([kind, row.float(), column.float()], -1)[None]


def _of_a_still(patches: nn.Conv3d) -> nn.Conv2d:
    """A convolution over frames that are all the same picture, as one over that picture."""
    flat = nn.Conv2d(
        patches.in_channels, patches.out_channels, patches.kernel_size[1:], patches.stride[1:],  # type: ignore[arg-type]
        bias=patches.bias is not None, device="meta",
    )  # fmt: skip
    flat.weight = nn.Parameter(patches.weight.detach().sum(2), requires_grad=False)
    if patches.bias is not None:
        flat.bias = patches.bias
    return flat


def _learned_positions(tower: Any, vision: Any, grid: Tensor) -> Tensor:
    """Added to patches, [1, N, C], or zeros [1, 1, 1] where their turns alone say where they stand."""
    from transformers.vision_utils import get_vision_interpolation_indices_and_weights

    if not hasattr(tower, "pos_embed"):
        return torch.zeros(1, 1, 1)
    places, weights = get_vision_interpolation_indices_and_weights(
        grid,
        num_grid_per_side=tower.num_grid_per_side,
        mode=tower.interpolation_mode,
        align_corners=tower.interpolation_align_corners,
        spatial_merge_size=vision.spatial_merge_size,
    )
    table: Tensor = tower.pos_embed.weight.detach()
    found: Tensor = (table[places] * weights[..., None]).sum(1)[None]
    return found


def _side(size: Any) -> int:
    """Of a square, which configurations give as a number or as two of them."""
    return int(size if isinstance(size, int) else size[0])
