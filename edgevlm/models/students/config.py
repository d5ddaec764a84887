"""A student's sizes, in plain numbers: an image tower of one of three families, and a small text tower."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from edgevlm import schema
from edgevlm.bundle.spec import ImagePreprocessing
from edgevlm.errors import EdgeVLMError
from edgevlm.process.limits import LONGEST_SIDE

_MOST_BLOCKS = 1_000
"""Of a tower, every copy counted: an empty tower of more takes minutes to build, before its weights could be missed."""


@dataclass(frozen=True, kw_only=True)
class BlockSizes:
    """The sizes of a tower's transformer blocks where they differ, as pruning makes them.

    Attributes:
        block_heads: Attention heads of each block; the tower's `heads` in all of them where None. A head has
            width / `heads` channels, however many a block has.
        block_mlps: Channels of each block's MLP; three times the width where None.
    """

    block_heads: tuple[int, ...] | None = None
    block_mlps: tuple[int, ...] | None = None


@dataclass(frozen=True)
class VitConfig(BlockSizes):
    """A vision transformer: see `edgevlm.models.students.vit`.

    Attributes:
        image_size: Height and width of the pixels; a multiple of `patch_size`.
        patch_size: Pixels a side of what becomes one token.
        width: Channels of a token; a multiple of `heads`.
        blocks: Number of transformer blocks.
        heads: Attention heads a block.
    """

    image_size: int
    patch_size: int
    width: int
    blocks: int
    heads: int
    family: Literal["vit"] = "vit"


@dataclass(frozen=True)
class HybridConfig(BlockSizes):
    """Re-parameterised convolutions, then attention: see `edgevlm.models.students.hybrid`.

    Attributes:
        image_size: Height and width of the pixels; a multiple of `stride`.
        widths: Channels of each stage; each stage halves the resolution of the one before. The last one must be a
            multiple of `heads`.
        depths: Blocks of each stage; the last stage's are transformer blocks.
        heads: Attention heads a block of the last stage.
        copies: How often each k x k convolution stands side by side during training (MobileOne, arXiv 2206.04040);
            they are one on the device.
        convolution_mlps: Channels of each convolutional block's MLP, in order; three times its stage's where None.
    """

    image_size: int
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    heads: int
    copies: int = 1
    convolution_mlps: tuple[int, ...] | None = None
    family: Literal["hybrid"] = "hybrid"

    @property
    def stride(self) -> int:
        """Pixels a side that become one token of the last stage."""
        return int(2 ** (len(self.widths) + 1))


@dataclass(frozen=True)
class GridConfig(BlockSizes):
    """A convolutional stem and a grid of tokens: see `edgevlm.models.students.grid`.

    Attributes:
        image_size: Height and width of the pixels; a multiple of `stride`.
        stem_channels: Channels of the stem's stages, each of which halves the resolution.
        width: Channels of a token; a multiple of `heads`.
        blocks: Number of transformer blocks.
        heads: Attention heads a block.
        token_features: Numbers that each place of the grid adds to what the embedding is projected from.
    """

    image_size: int
    stem_channels: tuple[int, ...]
    width: int
    blocks: int
    heads: int
    token_features: int
    family: Literal["grid"] = "grid"

    @property
    def stride(self) -> int:
        """Pixels a side that become one token."""
        return int(2 ** len(self.stem_channels))


ImageTowerConfig: TypeAlias = VitConfig | HybridConfig | GridConfig
_FAMILIES: dict[str, type[ImageTowerConfig]] = {"vit": VitConfig, "hybrid": HybridConfig, "grid": GridConfig}


@dataclass(frozen=True)
class TextTowerConfig(BlockSizes):
    """A small text tower, `edgevlm.models.students.text_tower`; the tokenizer's rules say how long a text is.

    Attributes:
        width: Channels of a token; a multiple of `heads`.
        blocks: Number of causal transformer blocks.
        heads: Attention heads a block.
        vocabulary_size: Number of token ids.
    """

    width: int
    blocks: int
    heads: int
    vocabulary_size: int
    family: Literal["small"] = "small"


@dataclass(frozen=True)
class Cost:
    """What an image tower takes on the device, fused.

    Attributes:
        parameters: Number of weights.
        multiply_adds: For one picture.
    """

    parameters: int
    multiply_adds: int


def read_image_tower(data: Mapping[str, Any], *, where: str, error: type[EdgeVLMError]) -> ImageTowerConfig:
    """The config that `schema.write` wrote.

    Args:
        data: Plain values; `family` says which.
        where: What messages start with.
        error: Raised for an unknown family or key, a wrong type, or sizes from which no tower can be built.
    """
    family = data.get("family")
    if not isinstance(family, str) or family not in _FAMILIES:
        raise error(f"{where}.family: expected one of {', '.join(_FAMILIES)}, got {family!r}")
    config = schema.read(_FAMILIES[family], data, where=where, error=error)
    check_image_tower(config, where=where, error=error)
    return config


def check_image_tower(config: ImageTowerConfig, *, where: str, error: type[EdgeVLMError]) -> None:
    """Raises `error` for sizes from which no tower can be built."""
    _check_positive(config, where, error)
    if isinstance(config, HybridConfig):
        if len(config.widths) != len(config.depths) or len(config.widths) < 2:
            raise error(
                f"{where}: expected as many depths as widths, two or more, got {config.depths} and {config.widths}"
            )
        _check_count(config.convolution_mlps, sum(config.depths[:-1]), f"{where}.convolution_mlps", error)
        width, blocks, unit, what = config.widths[-1], config.depths[-1], config.stride, "the network's stride"
    elif isinstance(config, GridConfig):
        width, blocks, unit, what = config.width, config.blocks, config.stride, "the stem's stride"
    else:
        width, blocks, unit, what = config.width, config.blocks, config.patch_size, "the patch size"
    if config.image_size > LONGEST_SIDE:
        raise error(f"{where}.image_size: expected at most {LONGEST_SIDE:,}, got {config.image_size:,}")
    if config.image_size % unit:
        below = config.image_size // unit * unit
        raise error(
            f"{where}.image_size: expected a multiple of {unit}, {what}, got {config.image_size}",
            hint=f"take {below} or {below + unit}" if below else f"take {unit}",
        )
    _check_blocks(config, width, blocks, where, error)


def check_text_tower(config: TextTowerConfig, *, where: str, error: type[EdgeVLMError]) -> None:
    """Raises `error` for sizes from which no tower can be built."""
    _check_positive(config, where, error)
    _check_blocks(config, config.width, config.blocks, where, error)


def _check_positive(config: ImageTowerConfig | TextTowerConfig, where: str, error: type[EdgeVLMError]) -> None:
    for key, value in schema.write(config).items():
        if key == "family" or value is None:
            continue
        if not value or any(each < 1 for each in (value if isinstance(value, list) else [value])):
            raise error(f"{where}.{key}: expected whole numbers of at least 1, got {value!r}")
    blocks = sum(config.depths) * config.copies if isinstance(config, HybridConfig) else config.blocks
    if blocks > _MOST_BLOCKS:
        raise error(f"{where}: expected at most {_MOST_BLOCKS:,} blocks, got {blocks:,}")


def _check_blocks(
    config: ImageTowerConfig | TextTowerConfig, width: int, blocks: int, where: str, error: type[EdgeVLMError]
) -> None:
    if width % config.heads:
        raise error(f"{where}.heads: expected a number that divides the width, {width}, got {config.heads}")
    _check_count(config.block_heads, blocks, f"{where}.block_heads", error)
    _check_count(config.block_mlps, blocks, f"{where}.block_mlps", error)


def _check_count(sizes: tuple[int, ...] | None, blocks: int, where: str, error: type[EdgeVLMError]) -> None:
    if sizes is not None and len(sizes) != blocks:
        raise error(f"{where}: expected a number for each of {blocks} blocks, got {len(sizes)}")


def square_pictures(image_size: int) -> ImagePreprocessing:
    """How students take pictures: the shorter side scaled to `image_size`, the middle square cut out.

    Their towers normalise to -1..1, whatever the teacher does, so `rescale`, `mean` and `std` are always these.
    """
    return ImagePreprocessing(
        height=image_size,
        width=image_size,
        resize="shortest_edge",
        resize_height=image_size,
        resize_width=image_size,
        resample="bicubic",
        centre_crop=True,
        rescale=1 / 255,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )
