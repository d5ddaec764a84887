"""How a picture becomes the pixels that an artefact takes, equal to the checkpoint's own processor to the bit.

The reference is Hugging Face transformers' Pillow backend (`CLIPImageProcessorPil`, `SiglipImageProcessorPil`), whose
sizes, antialiased resampling and padding are followed exactly. This module needs Pillow and numpy alone, so that the
same code runs at conversion and on a small board.
"""

from __future__ import annotations

import io
import math
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeGuard

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from edgevlm.bundle.spec import ImagePreprocessing, Resample
from edgevlm.errors import CheckpointError, ImageError

Picture: TypeAlias = str | Path | bytes | bytearray | memoryview | Image.Image | NDArray[np.uint8]

# Pillow's numbering, which is also that of `resample` in preprocessor_config.json.
_RESAMPLES: tuple[Resample, ...] = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")

# What the two processors assume where their config says nothing.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "CLIP": {
        "size": {"shortest_edge": 224},
        "crop_size": {"height": 224, "width": 224},
        "do_center_crop": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    },
    "Siglip": {
        "size": {"height": 224, "width": 224},
        "do_center_crop": False,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    },
}
_COMMON_DEFAULTS: dict[str, Any] = {
    "do_resize": True,
    "do_rescale": True,
    "do_normalize": True,
    "resample": 3,
    "rescale_factor": 1 / 255,
    "default_to_square": False,
}
_SUFFIXES = ("ImageProcessor", "ImageProcessorFast", "ImageProcessorPil", "FeatureExtractor")
_PROCESSORS = {family + suffix: family for family in _DEFAULTS for suffix in _SUFFIXES}
_NOT_CARRIED = ("do_pad", "use_square_size")

# What Pillow's decoders raise on damaged input and closed files, besides UnidentifiedImageError (an OSError).
_DECODING_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    AssertionError,
    RuntimeError,
    MemoryError,
    struct.error,
    zlib.error,
)


def from_config(config: Mapping[str, Any], *, image_size: tuple[int, int], where: str) -> ImagePreprocessing:
    """Reads a checkpoint's `preprocessor_config.json`, or a `processor_config.json` that nests it.

    Missing and null keys have the values that transformers' `CLIPImageProcessor` and `SiglipImageProcessor` give
    them. `do_convert_rgb` is not looked at: the networks take three channels, so `decode` always gives three.

    Args:
        config: The file's content.
        image_size: (height, width) in pixels that the network was trained with. Used only where the config neither
            resizes nor crops: elsewhere the config's own final size counts, since CLIP's positions can be interpolated.
        where: The file's name, for errors.

    Raises:
        CheckpointError: another processor, a value of the wrong type or range, or a config that leaves the size of
            the pixels to the picture.
    """
    nested = config.get("image_processor")
    if isinstance(nested, Mapping):
        config, where = nested, f"{where}: image_processor"
    values = _with_defaults(config, where)
    resize: Literal["shortest_edge", "exact", "none"] = "none"
    resize_height, resize_width = 0, 0
    if _flag(values, "do_resize", where):
        resize, resize_height, resize_width = _resize_rule(values, where)
    centre_crop = _flag(values, "do_center_crop", where)
    if centre_crop:
        height, width = _crop_size(values, where)
    elif resize == "shortest_edge":
        raise CheckpointError(
            f"{where}: size sets the shorter side only and do_center_crop is off, so that every picture has another "
            "size: expected one size for all",
            hint='set do_center_crop and crop_size, or give size as {"height": H, "width": W}',
        )
    else:
        height, width = (resize_height, resize_width) if resize == "exact" else image_size
    normalise = _flag(values, "do_normalize", where)
    return ImagePreprocessing(
        height=height,
        width=width,
        resize=resize,
        resize_height=resize_height,
        resize_width=resize_width,
        resample=_resample(values["resample"], where),
        centre_crop=centre_crop,
        rescale=_number(values["rescale_factor"], "rescale_factor", where, positive=True)
        if _flag(values, "do_rescale", where)
        else 1.0,
        mean=_channels(values["image_mean"], "image_mean", where) if normalise else (0.0, 0.0, 0.0),
        std=_channels(values["image_std"], "image_std", where, positive=True) if normalise else (1.0, 1.0, 1.0),
    )


def decode(source: Picture) -> Image.Image:
    """Decodes a picture to upright RGB.

    - EXIF orientation is applied, all eight of them.
    - Transparency, of any mode, is composited onto white: what the processors' `convert_to_rgb` does.
    - 16-bit grey keeps its high byte, as Pillow itself does with 16-bit colour; Pillow's own conversion of 16-bit
      grey would clip all but the darkest 256 of 65,536 levels to white.
    - Of an animation, the first frame.

    Args:
        source: A path, an encoded picture's bytes, a PIL image, or a uint8 array: [H, W, 3] in RGB or [H, W] in grey.

    Raises:
        ImageError: no such file, not a picture, truncated, past Pillow's limit on decompression bombs, 32-bit pixels,
            or an array of another dtype or shape.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, Image.Image):
        return _to_upright_rgb(source, "the picture")
    if isinstance(source, bytes | bytearray | memoryview):
        file: io.BytesIO | Path = io.BytesIO(source)
        name = "the picture"
    elif isinstance(source, str | Path):
        file, name = Path(source), str(source)
    else:
        raise ImageError(
            f"expected a path, bytes, a PIL image or a uint8 array, got {type(source).__name__}",
            hint="a torch tensor goes in as its .numpy(), shape [H, W, 3]",
        )
    try:
        with Image.open(file) as image:
            # Pillow would hand these to Ghostscript, if there is one: not for pictures from anywhere.
            if image.format == "EPS":
                raise ImageError(f"{name}: EPS is a program, not a picture", hint="convert it to PNG first")
            return _to_upright_rgb(image, name)
    except FileNotFoundError as error:
        raise ImageError(f"{name}: no such file", hint="paths are relative to the current folder") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name}: too many pixels: {error}", hint="shrink the picture first") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{name}: not a picture in a format that Pillow reads", hint="convert it to PNG") from error
    except _DECODING_ERRORS as error:
        raise ImageError(f"{name}: cannot be opened: {error}") from error


def resize_and_crop(image: Image.Image, spec: ImagePreprocessing) -> NDArray[np.uint8]:
    """Scales and cuts an RGB picture, equal to the bit to the processor's pixels before rescale and normalise.

    Args:
        image: What `decode` returned.
        spec: Sizes and filter.

    Returns:
        uint8 [height, width, 3], 0..255.

    Raises:
        ImageError: the spec does not resize and the picture has another size; or the picture is so narrow that
            scaling its shorter side would pass Pillow's limit on pixels.
    """
    if spec.resize != "none":
        height, width = _resized(image.height, image.width, spec)
        image = _resize(image, height, width, spec.resample)
    pixels = np.asarray(image, dtype=np.uint8)
    if spec.centre_crop:
        return _centre_crop(pixels, spec.height, spec.width)
    if pixels.shape != (spec.height, spec.width, 3):
        raise ImageError(
            f"expected a picture of {spec.height} x {spec.width} pixels (height x width), since this model's "
            f"preprocessing neither resizes nor crops, got {image.height} x {image.width}",
            hint="resize the picture first",
        )
    return pixels


def preprocess(source: Picture, spec: ImagePreprocessing) -> NDArray[np.float32]:
    """Decodes, scales and cuts a picture to what an artefact takes.

    Returns:
        float32 [1, 3, height, width], RGB in 0..255, contiguous.

    Raises:
        ImageError: see `decode` and `resize_and_crop`.
    """
    pixels = resize_and_crop(decode(source), spec)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[np.newaxis], dtype=np.float32)


def _from_array(array: NDArray[Any]) -> Image.Image:
    grey_or_rgb = array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)
    if array.dtype != np.uint8 or not grey_or_rgb or array.size == 0:
        raise ImageError(
            f"expected a uint8 array [H, W, 3] or [H, W], got {array.dtype} {list(array.shape)}",
            hint="channels come last, values are 0..255",
        )
    return Image.fromarray(np.ascontiguousarray(array)).convert("RGB")


def _to_upright_rgb(image: Image.Image, name: str) -> Image.Image:
    if 0 in image.size:
        raise ImageError(f"{name}: expected at least one pixel, got {image.height} x {image.width}")
    try:
        image = ImageOps.exif_transpose(image)
        if image.mode in ("I", "F"):
            raise ImageError(
                f"{name}: 32-bit pixels have no agreed range to scale to 0..255", hint="save it with 8 or 16 bits"
            )
        if image.mode.startswith("I;16"):
            return _from_16_bit_grey(image)
        if "A" in image.getbands() or image.info.get("transparency") is not None:
            image = image.convert("RGBA")
            white = Image.new("RGBA", image.size, (255, 255, 255, 255))
            image = Image.alpha_composite(white, image)
        return image.convert("RGB")
    except _DECODING_ERRORS as error:
        raise ImageError(f"{name}: damaged, truncated or closed: {error}", hint="save or download it again") from error


def _from_16_bit_grey(image: Image.Image) -> Image.Image:
    levels = np.asarray(image)
    grey = (levels >> 8).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[levels == transparent] = 255
    return Image.fromarray(grey).convert("RGB")


def _resize(image: Image.Image, height: int, width: int, resample: Resample) -> Image.Image:
    """As Pillow 13 does it, one pass after the other: Pillow until 12 has them in another order for tall pictures.

    Rounding to 8 bits in between, the order changes pixels. The bundle's format has one, on whatever Pillow is there.
    """
    kept = Image.Resampling[resample.upper()]
    if resample != "nearest":
        columns_first = height < image.height and image.height - height > 2 * (image.width - width)
        image = image.resize((image.width, height) if columns_first else (width, image.height), kept)
    return image.resize((width, height), kept)


def _resized(height: int, width: int, spec: ImagePreprocessing) -> tuple[int, int]:
    """(height, width) after scaling; the longer side is rounded down, as in the processors."""
    if spec.resize == "exact":
        return spec.resize_height, spec.resize_width
    short, long = sorted((height, width))
    new_long = spec.resize_height * long // short
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and spec.resize_height * new_long > 2 * limit:
        raise ImageError(
            f"a picture of {height} x {width} pixels is too narrow: scaling its shorter side to {spec.resize_height} "
            f"would make the longer one {new_long}",
            hint="crop the picture first",
        )
    return (new_long, spec.resize_height) if width <= height else (spec.resize_height, new_long)


def _centre_crop(pixels: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Cuts [H, W, 3] to [height, width, 3]; where it is smaller, black is put around it."""
    (rows_from, rows_to), (columns_from, columns_to) = (
        _centred(have, want) for have, want in zip(pixels.shape[:2], (height, width), strict=True)
    )
    out = np.zeros((height, width, 3), np.uint8)
    out[rows_to, columns_to] = pixels[rows_from, columns_from]
    return out


def _centred(have: int, want: int) -> tuple[slice, slice]:
    """Where to read and where to write along one side; an odd remainder goes as transformers has it."""
    if have >= want:
        start = (have - want) // 2
        return slice(start, start + want), slice(0, want)
    start = math.ceil((want - have) / 2)
    return slice(0, have), slice(start, start + have)


def _with_defaults(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    name = config.get("image_processor_type", config.get("feature_extractor_type"))
    family = _PROCESSORS.get(name) if isinstance(name, str) else None
    if family is None:
        raise CheckpointError(
            f"{where}: image_processor_type: expected CLIPImageProcessor or SiglipImageProcessor, got {name!r}",
            hint="other processors scale or cut differently; if this one does not, name one of the two in the file",
        )
    for key in _NOT_CARRIED:
        if config.get(key):
            raise CheckpointError(f"{where}: {key}: expected false or nothing, got {config[key]!r}")
    given = {key: value for key, value in config.items() if value is not None}
    return {"crop_size": None, **_COMMON_DEFAULTS, **_DEFAULTS[family], **given}


def _resize_rule(values: Mapping[str, Any], where: str) -> tuple[Literal["shortest_edge", "exact"], int, int]:
    size = values["size"]
    if _is_length(size):
        size = {"height": size, "width": size} if values["default_to_square"] else {"shortest_edge": size}
    if isinstance(size, Mapping) and set(size) == {"shortest_edge"} and _is_length(size["shortest_edge"]):
        return "shortest_edge", size["shortest_edge"], size["shortest_edge"]
    return "exact", *_height_and_width(size, "size", where, also='a number or {"shortest_edge": N}')


def _crop_size(values: Mapping[str, Any], where: str) -> tuple[int, int]:
    size = values["crop_size"]
    if _is_length(size):
        return size, size
    return _height_and_width(size, "crop_size", where, also="a number")


def _height_and_width(size: Any, key: str, where: str, *, also: str) -> tuple[int, int]:
    if isinstance(size, list | tuple) and len(size) == 2:
        size = {"height": size[0], "width": size[1]}
    if isinstance(size, Mapping) and set(size) == {"height", "width"} and all(map(_is_length, size.values())):
        return size["height"], size["width"]
    raise CheckpointError(
        f'{where}: {key}: expected {{"height": H, "width": W}} in whole pixels, or {also}, got {size!r}'
    )


def _is_length(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _resample(value: Any, where: str) -> Resample:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(_RESAMPLES):
        return _RESAMPLES[value]
    names = ", ".join(f"{number} ({name})" for number, name in enumerate(_RESAMPLES))
    raise CheckpointError(f"{where}: resample: expected one of {names}, got {value!r}")


def _flag(values: Mapping[str, Any], key: str, where: str) -> bool:
    value = values[key]
    if not isinstance(value, bool):
        raise CheckpointError(f"{where}: {key}: expected true or false, got {value!r}")
    return value


def _number(value: Any, key: str, where: str, *, positive: bool) -> float:
    ok = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not ok or (positive and value <= 0):
        raise CheckpointError(f"{where}: {key}: expected a {'positive ' if positive else ''}number, got {value!r}")
    return float(value)


def _channels(value: Any, key: str, where: str, *, positive: bool = False) -> tuple[float, float, float]:
    values = value if isinstance(value, list | tuple) else [value] * 3
    if len(values) != 3:
        raise CheckpointError(f"{where}: {key}: expected three numbers, for R, G and B, got {value!r}")
    red, green, blue = (_number(channel, key, where, positive=positive) for channel in values)
    return red, green, blue
