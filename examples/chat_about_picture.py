"""Talks about a picture, question after question, a line each; an empty line ends it.

python examples/chat_about_picture.py BUNDLE PICTURE

Each question costs its own words alone: the conversation keeps what was said before.
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
    parser.add_argument("--system", help="how to answer, for models that were trained with such a text")
    parser.add_argument("--max-tokens", type=int, default=128)
    options = parser.parse_args()
    with edgevlm.open(options.bundle, threads=1) as model:
        chat = model.chat(options.picture, system=options.system)
        for question in map(str.strip, sys.stdin):
            if not question:
                break
            for piece in chat.ask(question, max_tokens=options.max_tokens):
                print(piece, end="", flush=True)
            print(flush=True)


if __name__ == "__main__":
    try:
        main()
    except edgevlm.EdgeVLMError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
