"""Makes examples/run.svg, the picture in the README, from a real run.

python examples/draw_run.py BUNDLE
"""

from __future__ import annotations

import base64
import sys
from pathlib import Path

import edgevlm
from edgevlm.process.pages import fill

EXAMPLES = Path(__file__).parent
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
    pictures = []
    with edgevlm.open(bundle) as model:
        for row, (name, labels) in enumerate(QUESTIONS.items()):
            path = EXAMPLES / "pictures" / name
            (scores,) = model.classify([path], labels)
            top = 12 + row * ROW
            answers = [
                answer(top + 8 + 32 * line, float(scores[index]), labels[index])
                for line, index in enumerate(scores.argsort()[::-1])
            ]
            pictures.append({"top": top, "png": base64.b64encode(path.read_bytes()).decode(), "answers": answers})
    drawn = fill(EXAMPLES, "run.svg.jinja", pictures=pictures, height=12 + ROW * len(QUESTIONS), bar=BAR)
    (EXAMPLES / "run.svg").write_text(drawn, encoding="utf-8")


def answer(top: int, share: float, label: str) -> dict[str, object]:
    return {"top": top, "width": f"{max(share * BAR, 1):.0f}", "share": f"{share:.1%}", "label": label}


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    try:
        main(sys.argv[1])
    except edgevlm.EdgeVLMError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
