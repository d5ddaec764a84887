"""Writes a caption for each picture below a folder, as CSV with a line a picture.

python examples/caption_folder.py BUNDLE FOLDER > captions.csv

Pictures that cannot be read are named, and the others captioned; the exit code is then 2.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

import edgevlm
from edgevlm.inputs.folders import find_pictures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--question", help="what is asked of each; the model's own question, if left out")
    parser.add_argument("--max-tokens", type=int, default=64)
    options = parser.parse_args()
    rows = csv.writer(sys.stdout)
    rows.writerow(["picture", "caption"])
    failed = False
    with edgevlm.open(options.bundle, threads=1) as model:
        for name in find_pictures(options.folder).pictures:
            try:
                answer = model.generate(options.folder / name, options.question, max_tokens=options.max_tokens)
                rows.writerow([name, answer.text.strip()])
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
