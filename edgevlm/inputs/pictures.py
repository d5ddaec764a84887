"""How a picture becomes the pixels that an artefact takes, equal to the checkpoint's own processor to the bit.

The reference is Hugging Face transformers' Pillow backend (`CLIPImageProcessorPil`, `SiglipImageProcessorPil`), whose
sizes, antialiased resampling and padding are followed exactly. This module needs Pillow and numpy alone, so that the
same code runs at conversion and on a small board.
"""

from __future__ import annotations

import io
import math
import stat
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from edgevlm.bundle.spec import ImagePreprocessing, Resample
from edgevlm.errors import ImageError
from edgevlm.inputs.resampling import columns_first, resize_part

Picture: TypeAlias = str | Path | bytes | bytearray | memoryview | Image.Image | NDArray[np.uint8]

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif", ".tif", ".tiff", ".bmp", ".dib"),
    *(".tga", ".ppm", ".pgm", ".pbm", ".pnm", ".qoi", ".jp2", ".j2k", ".jpf", ".jpx", ".j2c", ".jpc"),
    *(".avif", ".avifs", ".heic", ".heif", ".hif", ".jxl"),
)
"""How the name of a picture ends, in lower case, wherever pictures are looked for. Of the last line Pillow may need a
plug-in to read some: such a picture is met, and named as unreadable. `decode` itself goes by what a file holds."""

_MOST_PIXELS = 1 << 27
"""Of a file: as RGB, 0.54 GB in Pillow's memory, and a board has 1 GB. Few phones take larger ones, of 200 million."""
_LARGEST_WHOLE = 1 << 22
"""Pixels of a scaled picture, 28 MB with numpy's copy: of a larger one only what the crop keeps is computed. As many
of one that is not RGB are made so at once."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""By EXIF's orientation. Pillow's `exif_transpose` also writes EXIF anew, and fails at what cannot be written."""

# What Pillow's decoders raise on damaged input and closed files, besides UnidentifiedImageError (an OSError).
DECODING_ERRORS = (
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
        ImageError: no such file, not a picture, truncated, a file of more than 2^27 pixels, 32-bit pixels, or an array
            of another dtype or shape.
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
        if isinstance(file, Path):
            _refuse_what_is_no_file(file, name)
        with Image.open(file) as image:
            # Pillow would hand these to Ghostscript, if there is one: not for pictures from anywhere.
            if image.format == "EPS":
                raise ImageError(f"{name}: EPS is a program, not a picture", hint="convert it to PNG first")
            if image.height * image.width > _MOST_PIXELS:
                raise ImageError(
                    f"{name}: too many pixels: expected at most {_MOST_PIXELS:,}, got {image.height} x {image.width}",
                    hint="shrink the picture first",
                )
            return _to_upright_rgb(image, name)
    except FileNotFoundError as error:
        raise ImageError(f"{name}: no such file", hint="paths are relative to the current folder") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name}: too many pixels: {error}", hint="shrink the picture first") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{name}: not a picture in a format that Pillow reads", hint="convert it to PNG") from error
    except DECODING_ERRORS as error:
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
    height, width = _resized(image.height, image.width, spec)
    if not spec.centre_crop:
        if (height, width) != (spec.height, spec.width):
            raise ImageError(
                f"expected a picture of {spec.height} x {spec.width} pixels (height x width), since this model's "
                f"preprocessing neither resizes nor crops, got {image.height} x {image.width}",
                hint="resize the picture first",
            )
        return np.asarray(scale(image, height, width, spec.resample), dtype=np.uint8)
    (rows_from, rows_to), (columns_from, columns_to) = (
        _centred(have, want) for have, want in ((height, spec.height), (width, spec.width))
    )
    out = np.zeros((spec.height, spec.width, 3), np.uint8)
    if height * width > _LARGEST_WHOLE:
        part = resize_part(image, height, width, spec.resample, rows_from, columns_from)
    else:
        part = np.asarray(scale(image, height, width, spec.resample), dtype=np.uint8)[rows_from, columns_from]
    out[rows_to, columns_to] = part
    return out


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


def _refuse_what_is_no_file(path: Path, name: str) -> None:
    """To open a pipe that nobody writes to is to wait for ever."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        found = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
        raise ImageError(f"{name}: cannot be opened: expected a file, got {found}")


def _to_upright_rgb(image: Image.Image, name: str) -> Image.Image:
    if 0 in image.size:
        raise ImageError(f"{name}: expected at least one pixel, got {image.height} x {image.width}")
    try:
        image.load()
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
        image = image if turn is None else image.transpose(turn)
        if image.mode in ("I", "F"):
            raise ImageError(
                f"{name}: 32-bit pixels have no agreed range to scale to 0..255", hint="save it with 8 or 16 bits"
            )
        if image.mode.startswith("I;16"):
            return _in_bands(image, _from_16_bit_grey)
        if "A" in image.getbands() or image.info.get("transparency") is not None:
            return _in_bands(image, _on_white)
        return image if image.mode == "RGB" else image.convert("RGB")
    except DECODING_ERRORS as error:
        raise ImageError(f"{name}: damaged, truncated or closed: {error}", hint="save or download it again") from error


def _in_bands(image: Image.Image, to_rgb: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """What a step by pixels makes of a picture, some rows at a time: at once, it takes copies of four bytes a pixel."""
    out, rows = Image.new("RGB", image.size), max(1, _LARGEST_WHOLE // image.width)
    for top in range(0, image.height, rows):
        out.paste(to_rgb(image.crop((0, top, image.width, min(top + rows, image.height)))), (0, top))
    return out


def _on_white(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image).convert("RGB")


def _from_16_bit_grey(image: Image.Image) -> Image.Image:
    levels = np.asarray(image)
    grey = (levels >> 8).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[levels == transparent] = 255
    return Image.fromarray(grey).convert("RGB")


def scale(image: Image.Image, height: int, width: int, resample: Resample) -> Image.Image:
    """As Pillow 13 does it, one pass after the other: Pillow until 12 has them in another order for tall pictures.

    Rounding to 8 bits in between, the order changes pixels. The bundle's format has one, on whatever Pillow is there.
    """
    kept = Image.Resampling[resample.upper()]
    if resample != "nearest":
        is_columns_first = columns_first(image.height, image.width, height, width)
        image = image.resize((image.width, height) if is_columns_first else (width, image.height), kept)
    return image.resize((width, height), kept)


def _resized(height: int, width: int, spec: ImagePreprocessing) -> tuple[int, int]:
    """(height, width) after scaling; the longer side is rounded down, as in the processors."""
    if spec.resize == "none":
        return height, width
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


def _centred(have: int, want: int) -> tuple[slice, slice]:
    """Where a crop reads and where it writes along one side, black being around what is smaller than the crop.

    An odd remainder goes as transformers has it.
    """
    if have >= want:
        start = (have - want) // 2
        return slice(start, start + want), slice(0, want)
    start = math.ceil((want - have) / 2)
    return slice(0, have), slice(start, start + have)
