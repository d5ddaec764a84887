"""Says which of some descriptions fits each picture best.

python examples/classify_pictures.py BUNDLE PICTURE... --labels "a red circle, two green triangles"
"""

from __future__ import annotations

import argparse
from pathlib import Path

import edgevlm


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("pictures", type=Path, nargs="+")
    parser.add_argument("--labels", required=True, help="descriptions with commas between them")
    options = parser.parse_args()
    labels = [label.strip() for label in options.labels.split(",")]
    with edgevlm.open(options.bundle, threads=1) as model:
        scores = model.classify(options.pictures, labels)  # float32 [pictures, labels], rows sum to 1
    for picture, row in zip(options.pictures, scores, strict=True):
        print(f"{picture.name}: {labels[row.argmax()]} ({row.max():.0%})")


if __name__ == "__main__":
    main()
