"""Searches a folder of pictures by text: embeds each picture once, keeps an index, and answers from it.

    python examples/search_pictures.py BUNDLE FOLDER "a striped yellow circle"

The index holds int8 codes, a quarter of the embeddings' bytes; they need no number besides (see
`edgevlm.inference.codes`). It also holds the bundle's `embedding_space_id`. When that changes (other weights,
preprocessing or precision), old embeddings mean nothing, and the pictures are embedded again: an app should do the
same.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import edgevlm
from edgevlm.inference import codes

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("text")
    options = parser.parse_args()
    pictures = sorted(path for path in options.folder.iterdir() if path.suffix.lower() in SUFFIXES)
    index = options.folder / "index.safetensors"
    with edgevlm.open(options.bundle, threads=1) as model:
        space = model.bundle.manifest.embedding_space_id
        about = {"space": space, "form": "int8", "pictures": "/".join(p.name for p in pictures)}
        if not index.exists() or _about(index) != about:
            save_file({"codes": codes.to_int8(model.encode_image(pictures))}, index, metadata=about)
            print(f"embedded {len(pictures)} pictures")
        query = model.encode_text([options.text])  # float32 [1, D]: only what is stored need be small
    found = codes.search(query, load_file(index)["codes"], k=10)
    for place, cosine in zip(found.places[0], found.scores[0], strict=True):
        print(f"{cosine:.3f}  {pictures[place].name}")


def _about(index: Path) -> dict[str, str]:
    with safe_open(index, framework="numpy") as file:
        return dict(file.metadata() or {})


if __name__ == "__main__":
    main()
