"""Pictures that hurt: every mode, orientation and size that cameras, phones and drawing programs leave behind."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import ExifTags, Image

ORIENTATIONS = tuple(range(1, 9))


def scene(height: int, width: int, *, seed: int = 0) -> Image.Image:
    """An RGB picture with smooth and busy parts, no two pixels' neighbourhoods alike."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:height, 0:width]
    smooth = np.stack([rows * 255 / max(height - 1, 1), columns * 255 / max(width - 1, 1), (rows + columns) % 256], -1)
    noise = rng.integers(-60, 60, (height, width, 3))
    return Image.fromarray(np.clip(smooth + noise, 0, 255).astype(np.uint8))


def encode(image: Image.Image, file_format: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def oriented(orientation: int) -> bytes:
    """A JPEG whose EXIF says that it is to be turned or mirrored."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return encode(scene(20, 30), "JPEG", exif=exif, quality=95)


def rgba() -> bytes:
    alpha = Image.fromarray(np.linspace(0, 255, 20 * 30).reshape(20, 30).astype(np.uint8))
    image = scene(20, 30)
    image.putalpha(alpha)
    return encode(image)


def grey_with_alpha() -> bytes:
    return encode(Image.open(io.BytesIO(rgba())).convert("LA"))


def palette_with_one_clear_colour() -> bytes:
    return encode(scene(20, 30).quantize(16), transparency=3)


def palette_with_alpha_for_each_colour() -> bytes:
    return encode(scene(20, 30).quantize(16), transparency=bytes(range(0, 256, 16)))


def gif_with_clear_colour() -> bytes:
    return encode(scene(20, 30).quantize(16), "GIF", transparency=5)


def colour_with_one_clear_colour() -> bytes:
    image = scene(20, 30)
    return encode(image, transparency=image.getpixel((4, 4)))


def grey_with_one_clear_level() -> bytes:
    return encode(scene(20, 30).convert("L"), transparency=90)


def cmyk() -> bytes:
    return encode(scene(20, 30).convert("CMYK"), "JPEG", quality=95)


def bilevel() -> bytes:
    return encode(scene(20, 30).convert("1"))


def grey() -> bytes:
    return encode(scene(20, 30).convert("L"))


def progressive() -> bytes:
    return encode(scene(20, 30), "JPEG", progressive=True)


EVERY_MODE: dict[str, Callable[[], bytes]] = {
    make.__name__: make
    for make in (
        rgba,
        grey_with_alpha,
        palette_with_one_clear_colour,
        palette_with_alpha_for_each_colour,
        gif_with_clear_colour,
        colour_with_one_clear_colour,
        grey_with_one_clear_level,
        cmyk,
        bilevel,
        grey,
        progressive,
    )
}


def sixteen_bit_png(levels: np.ndarray) -> bytes:
    """A PNG of uint16 [H, W] in grey or [H, W, 3] in colour; Pillow writes no 16-bit colour, so by hand."""
    height, width = levels.shape[:2]
    colour_type = 0 if levels.ndim == 2 else 2
    lines = b"".join(b"\0" + line.tobytes() for line in levels.astype(">u2"))
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def bomb_png(height: int = 30_000, width: int = 30_000) -> bytes:
    """A PNG of a few bytes that says it has 900 million pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(b"\0")) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
