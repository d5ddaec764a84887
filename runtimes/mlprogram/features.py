"""What a program takes and returns, and how arrays and pictures become its inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgevlm.errors import BundleError, TensorError, UnsupportedError
from edgevlm.runtimes.mlprogram.dtypes import BY_NAME
from edgevlm.runtimes.mlprogram.memory import require_room
from edgevlm.runtimes.mlprogram.ops import CARRIERS
from edgevlm.runtimes.mlprogram.program import IMAGE_CHANNELS, Described, Function, ImageLayout, Named, Shape
from edgevlm.runtimes.mlprogram.steps import fits, shown

if TYPE_CHECKING:
    from PIL.Image import Image

_MODES: Mapping[ImageLayout, str] = {"rgb": "RGB", "bgr": "RGB", "grey": "L", "grey fp16": "F"}
"""The modes of PIL in which coremltools takes them; it returns RGB ones as RGBA."""


@dataclass(frozen=True)
class Feature:
    """An input, output or state of a program.

    Attributes:
        name: Its name in `predict`.
        dtype: MIL's name of its element type in the program.
        shape: None where a size may vary, None altogether where the rank may.
        image: For what the model declares as a picture, the channel order that its graph wants. To `predict` it is
            given as a PIL image, or as an array of 0..255 (of any halves if `grey fp16`), [1, 3, height, width] in
            R G B always, [1, 1, height, width] if grey. `predict` returns it as a PIL image.
        sizes, choices: The sizes and shapes that are allowed, where the model's description bounds them.
        example: A shape that is allowed, if one is known.
        default: For an input that may be left out, the value that its elements then have.
        plain: Whether it is returned as a plain whole number or text.
    """

    name: str
    dtype: str
    shape: Shape | None
    image: ImageLayout | None = None
    sizes: tuple[tuple[int, int | None], ...] | None = None
    choices: tuple[tuple[int, ...], ...] = ()
    example: tuple[int, ...] | None = None
    default: float | None = None
    plain: bool = False


def features_of(function: Function) -> tuple[tuple[Feature, ...], tuple[Feature, ...], tuple[Feature, ...]]:
    """The inputs, outputs and states of a function.

    Raises:
        BundleError: the description contradicts the program, or an output is not computed.
        UnsupportedError: an input or state is of a type that cannot be held here.
    """
    types = {each.name: each for each in function.inputs}
    types |= {each.name: each for operation in function.operations for each in operation.outputs}
    for name in function.outputs:
        if name not in types:
            raise BundleError(f"function {function.name!r} returns {name!r}, which nothing computes")
    inputs = [_input(each, function.described) for each in function.inputs if each.type.kind != "state"]
    states = [_state(each) for each in function.inputs if each.type.kind == "state"]
    return tuple(inputs), tuple(_output(types[name], function.described) for name in function.outputs), tuple(states)


def accept(feature: Feature, value: Any, *, role: str = "input") -> torch.Tensor:
    """What a caller gives for a feature, as the tensor that the program computes with; a copy.

    Args:
        role: What the feature is called in messages.

    Raises:
        TensorError: it is no array or picture, its shape is not allowed, or it does not hold whole numbers where
            those are wanted.
    """
    place = f"{role} {feature.name!r}"
    try:
        array = _pixels(value, feature, place) if feature.image is not None else np.asarray(value)
    except ValueError as error:
        raise TensorError(f"{place}: expected an array of {feature.dtype}: {error}") from None
    if array.dtype.kind not in "fiub":
        raise TensorError(f"{place}: expected {feature.dtype}, got {type(value).__name__} of {array.dtype}")
    _check_shape(array.shape, feature, place)
    dtype = BY_NAME[feature.dtype]
    target = np.dtype(np.float32 if dtype.is_float or feature.image is not None else dtype.storage)
    with np.errstate(invalid="ignore", over="ignore"):
        held = array.astype(target)
    if not (array.dtype.kind == "f" and target.kind == "f") and not np.array_equal(held, array):
        raise TensorError(f"{place}: {feature.dtype} does not hold the values of this {array.dtype}")
    tensor = torch.from_numpy(held).to(CARRIERS[feature.dtype])
    return tensor.flip(1) if feature.image == "bgr" else tensor


def picture(layout: ImageLayout, planes: torch.Tensor) -> Image:
    """A result as the picture that a model declares it to be.

    Args:
        layout: The channel order of the graph.
        planes: float32 [1, channels, height, width]: 0..255, or any halves if `grey fp16`. What lies beyond is cut off,
            fractions are rounded; a device may round otherwise.

    Returns:
        As from coremltools: of mode RGBA, opaque, L or F.
    """
    from PIL import Image

    pixels = (planes.flip(1) if layout == "bgr" else planes)[0].permute(1, 2, 0).numpy()
    if layout == "grey fp16":
        return Image.fromarray(pixels[..., 0].astype(np.float16).astype(np.float32))
    levels = np.rint(np.nan_to_num(pixels, nan=0.0)).clip(0, 255).astype(np.uint8)
    if layout == "grey":
        return Image.fromarray(levels[..., 0])
    return Image.fromarray(np.concatenate((levels, np.full_like(levels[..., :1], 255)), -1))


def _pixels(value: Any, feature: Feature, place: str) -> NDArray[Any]:
    """A PIL image as [1, channels, height, width]; an array as it is."""
    from PIL import Image

    if not isinstance(value, Image.Image):
        return np.asarray(value)
    assert feature.image is not None
    mode = _MODES[feature.image]
    if value.mode != mode:  # coremltools refuses it as well, so that nobody is surprised on a device
        raise TensorError(f"{place}: expected a picture of mode {mode}, got {value.mode}", hint=f"convert({mode!r})")
    planes = np.asarray(value, np.float32)
    return planes.reshape(*planes.shape[:2], -1).transpose(2, 0, 1)[None]


def _check_shape(shape: tuple[int, ...], feature: Feature, place: str) -> None:
    allowed = fits(shape, feature.shape) and (not feature.choices or shape in feature.choices)
    if allowed and feature.sizes is not None:
        bounds = zip(shape, feature.sizes, strict=False)
        allowed = len(shape) == len(feature.sizes) and all(
            low <= size and (high is None or size <= high) for size, (low, high) in bounds
        )
    if not allowed:
        raise TensorError(f"{place}: expected {_wanted(feature)}, got {shown(shape)}")


def _wanted(feature: Feature) -> str:
    if feature.choices:
        return " or ".join(shown(each) for each in feature.choices)
    if feature.sizes is not None:
        spans = [f"{low}" if low == high else f"{low} to {high or '?'}" for low, high in feature.sizes]
        return f"[{', '.join(spans)}]"
    return shown(feature.shape)


def _input(named: Named, described: Mapping[str, Described]) -> Feature:
    if named.type.kind != "tensor" or named.type.dtype not in CARRIERS:
        raise UnsupportedError(
            f"input {named.name!r}: a {named.type.kind} of {named.type.dtype}, which the evaluator cannot hold"
        )
    about = described.get(named.name, Described())
    shape = named.type.shape
    for each in (*about.choices, *([about.example] if about.example else [])):
        if not fits(each, shape):
            raise BundleError(f"input {named.name!r}: described as {shown(each)}, declared as {shown(shape)}")
    if about.sizes is not None and shape is not None and len(about.sizes) != len(shape):
        raise BundleError(f"input {named.name!r}: described with {len(about.sizes)} axes, declared as {shown(shape)}")
    _require_planes(f"input {named.name!r}", about, shape)
    fixed = None if shape is None or None in shape else tuple(size or 0 for size in shape)
    example = fixed if fixed is not None else about.example
    require_room(f"input {named.name!r}", named.type.dtype, example or ())
    return Feature(
        named.name,
        named.type.dtype,
        shape,
        about.image,
        about.sizes,
        about.choices,
        example,
        about.default,
    )


def _require_planes(place: str, about: Described, shape: Shape | None) -> None:
    if about.image is not None and (shape is None or len(shape) != 4 or shape[1] != IMAGE_CHANNELS[about.image]):
        raise BundleError(f"{place}: declared as a {about.image} picture and as {shown(shape)}")


def _state(named: Named) -> Feature:
    shape = named.type.shape
    if named.type.dtype not in CARRIERS or shape is None or None in shape:
        raise UnsupportedError(
            f"state {named.name!r}: {named.type.dtype} {shown(shape)}, which the evaluator cannot hold"
        )
    require_room(f"state {named.name!r}", named.type.dtype, [size or 0 for size in shape])
    return Feature(named.name, named.type.dtype, shape)


def _output(named: Named, described: Mapping[str, Described]) -> Feature:
    about = described.get(named.name, Described())
    _require_planes(f"output {named.name!r}", about, named.type.shape)
    return Feature(named.name, named.type.dtype, named.type.shape, about.image, plain=about.plain)
