"""An ICC profile of the colours that phones' cameras store, for a picture that must not be converted from it."""

from __future__ import annotations

import struct

_D50 = (0.9642, 1.0, 0.8249)
_PRIMARIES = {"r": (0.51512, 0.2412, -0.00105), "g": (0.29198, 0.69225, 0.04189), "b": (0.1571, 0.06657, 0.78407)}
_GAMMA = 2.2
_NAME = b"Display P3, gamma 2.2"


def display_p3() -> bytes:
    """A matrix profile of version 2.4 (ICC.1:2001-04) with Display P3's primaries, adapted to D50, and a gamma of 2.2.

    >>> from PIL import ImageCms
    >>> ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(display_p3()))).strip()
    'Display P3, gamma 2.2'
    """
    curve = b"curv" + struct.pack(">IIH", 0, 1, round(_GAMMA * 256))
    description = b"desc" + struct.pack(">II", 0, len(_NAME) + 1) + _NAME + bytes(1 + 4 + 4 + 2 + 1 + 67)
    tags = {b"desc": description, b"cprt": b"text" + bytes(4) + b"none\0", b"wtpt": _xyz(_D50)}
    for letter, primary in _PRIMARIES.items():
        tags[f"{letter}XYZ".encode()] = _xyz(primary)
        tags[f"{letter}TRC".encode()] = curve
    table, content = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        table += name + struct.pack(">II", start + len(content), len(data))
        content += data + bytes(-len(data) % 4)
    header = (
        struct.pack(">III", start + len(content), 0, 0x02400000)
        + b"mntrRGB XYZ "
        + struct.pack(">6H", 2001, 4, 1, 0, 0, 0)
        + b"acsp"
        + bytes(28)
        + _xyz(_D50)[8:]
    )
    return header.ljust(128, b"\0") + table + content


def _xyz(values: tuple[float, float, float]) -> bytes:
    """The three numbers in 16.16 fixed point."""
    return b"XYZ " + struct.pack(">I3i", 0, *(round(value * 65536) for value in values))
