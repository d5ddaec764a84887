"""Asks a model that talks about a picture, and shows the answer as it comes.

python examples/stream_answer.py BUNDLE PICTURE "How many triangles are there?"

Without a question the model describes the picture.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import edgevlm


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("question", nargs="?")
    parser.add_argument("--max-tokens", type=int, default=128)
    options = parser.parse_args()
    with edgevlm.open(options.bundle, threads=1) as model:
        answer = model.generate(options.picture, options.question, max_tokens=options.max_tokens)
        for piece in answer:
            print(piece, end="", flush=True)
        print()
        times = answer.times
        said = f"first word after {times.first_token_ms:.0f} ms, then {times.tokens_per_second:.0f} tokens/s"
        print(f"({len(answer.token_ids)} tokens; {said}; ended by {answer.finish})", file=sys.stderr)


if __name__ == "__main__":
    try:
        main()
    except edgevlm.EdgeVLMError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
