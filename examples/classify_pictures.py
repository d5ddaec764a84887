"""Says which of some descriptions fits each picture best.

python examples/classify_pictures.py BUNDLE PICTURE... --labels "a red circle, two green triangles"

Pictures that cannot be read are named, and the others answered; the exit code is then 2.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import edgevlm


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("pictures", type=Path, nargs="+")
    parser.add_argument("--labels", required=True, help="descriptions with commas between them")
    options = parser.parse_args()
    labels = [label.strip() for label in options.labels.split(",")]
    failed = False
    with edgevlm.open(options.bundle, threads=1) as model:
        ask = model.classifier(labels)
        for picture in options.pictures:
            try:
                scores = ask(picture)  # float32 [labels], adds up to 1
                print(f"{picture.name}: {labels[scores.argmax()]} ({scores.max():.0%})")
            except edgevlm.ImageError as error:
                print(f"error: {error}", file=sys.stderr)
                failed = True
    return 2 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except edgevlm.EdgeVLMError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
