"""Draws the example pictures: the kind that anyone would draw to try a model, not the renderer's own scenes.

python examples/draw_pictures.py [FOLDER]
"""

from __future__ import annotations

import sys
from math import cos, pi, sin
from pathlib import Path

from PIL import Image, ImageDraw


def draw(folder: Path) -> None:
    """Writes three pictures into the folder."""
    picture = Image.new("RGB", (320, 240), (236, 232, 220))
    pen = ImageDraw.Draw(picture)
    pen.ellipse((30, 75, 120, 165), fill=(214, 32, 32))
    pen.rectangle((195, 75, 280, 160), fill=(28, 60, 220))
    picture.save(folder / "circle-and-square.png")

    picture = Image.new("RGB", (240, 240), (250, 250, 250))
    pen = ImageDraw.Draw(picture)
    for left in (35, 135):
        pen.polygon([(left + 35, 85), (left + 70, 150), (left, 150)], fill=(24, 150, 50))
    picture.save(folder / "two-triangles.png")

    picture = Image.new("RGB", (240, 240), (60, 62, 70))
    tips = [(168 + r * sin(pi * i / 5), 72 - r * cos(pi * i / 5)) for i, r in enumerate((52, 23) * 5)]
    ImageDraw.Draw(picture).polygon(tips, fill=(245, 200, 30))
    picture.save(folder / "yellow-star.png")


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "pictures")
    try:
        target.mkdir(parents=True, exist_ok=True)
        draw(target)
    except OSError as error:
        print(f"error: {target}: cannot be written: {error}", file=sys.stderr)
        sys.exit(2)
