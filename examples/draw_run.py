"""Makes examples/run.svg, the picture in the README, from a real run.

python examples/draw_run.py BUNDLE
"""

from __future__ import annotations

import base64
import html
import sys
from pathlib import Path

import edgevlm

ROOT = Path(__file__).parent.parent
QUESTIONS = {
    "circle-and-square.png": (
        "a red circle to the left of a blue square",
        "a blue square to the left of a red circle",
        "a red square to the left of a blue circle",
    ),
    "two-triangles.png": ("two green triangles", "three green triangles", "two green circles"),
    "yellow-star.png": ("a yellow star in the top right", "a yellow star in the top left", "a yellow heart"),
}
ROW, BAR = 118, 220


def main(bundle: str) -> None:
    parts = []
    with edgevlm.open(bundle) as model:
        for row, (name, labels) in enumerate(QUESTIONS.items()):
            path = ROOT / "examples" / "pictures" / name
            (scores,) = model.classify([path], labels)
            data = base64.b64encode(path.read_bytes()).decode()
            top = 12 + row * ROW
            parts.append(f'<image x="12" y="{top}" width="134" height="100" href="data:image/png;base64,{data}"/>')
            for line, index in enumerate(scores.argsort()[::-1]):
                y, share = top + 8 + 32 * line, float(scores[index])
                parts.append(
                    f'<rect x="160" y="{y}" width="{BAR}" height="20" rx="3" fill="#8883"/>'
                    f'<rect x="160" y="{y}" width="{max(share * BAR, 1):.0f}" height="20" rx="3" fill="#2f7d4f"/>'
                    f'<text x="{172 + BAR}" y="{y + 15}">{share:.1%}</text>'
                    f'<text x="{236 + BAR}" y="{y + 15}">{html.escape(labels[index])}</text>'
                )
    height = 12 + ROW * len(QUESTIONS)
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 800 {height}" width="800" height="{height}" '
        f'font-family="sans-serif" font-size="15" fill="#888">\n' + "\n".join(parts) + "\n</svg>\n"
    )
    (ROOT / "examples" / "run.svg").write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
