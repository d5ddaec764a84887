"""Writes a dataset into files, in a form that EdgeVLM and other tools read: to try training on files.

python examples/write_scenes.py OUT --form folder --data objects:train:2000
python examples/write_scenes.py OUT --form shards --data objects:train:2000 --per-shard 500
python examples/write_scenes.py OUT --form coco --data scenes:train:2000
python examples/write_scenes.py OUT --form folder --data objects:train:2000 --label shape

folder   OUT/LABEL/000000.png, without captions
shards   OUT/shards-000000.tar and so on, WebDataset: 000000.png, 000000.txt (captions) and 000000.cls (label) each
coco     OUT/captions.json and OUT/pictures/000000.png, without labels

An object's label is all of it, such as "glossy red striped heart", or one attribute: `--label shape` makes it "heart".
The same data gives the same bytes.
"""

from __future__ import annotations

import argparse
import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from PIL import Image

from edgevlm.data.dataset import Dataset, Example
from edgevlm.data.rendered import RenderedObjects
from edgevlm.data.scene import ATTRIBUTES
from edgevlm.data.sources import open_data
from edgevlm.errors import DataError, EdgeVLMError


def write_folder(data: Dataset, out: Path) -> None:
    """A sub-folder for each label that has pictures."""
    for name, example, picture in _named(data):
        if example.label is None:
            raise DataError(f"{example.key} has no label: write --form coco or shards")
        folder = out / data.labels[example.label]
        folder.mkdir(parents=True, exist_ok=True)
        picture.save(folder / f"{name}.png")


def write_shards(data: Dataset, out: Path, per_shard: int) -> None:
    """Tar files of `per_shard` samples each."""
    out.mkdir(parents=True, exist_ok=True)
    samples = _named(data)
    for number in range(-(-len(data) // per_shard)):
        with tarfile.open(out / f"shards-{number:06d}.tar", "w", format=tarfile.USTAR_FORMAT) as shard:
            for _, (name, example, picture) in zip(range(per_shard), samples, strict=False):
                png = io.BytesIO()
                picture.save(png, "PNG")
                _add(shard, f"{name}.png", png.getvalue())
                if example.captions:
                    _add(shard, f"{name}.txt", "\n".join(example.captions).encode())
                if example.label is not None:
                    _add(shard, f"{name}.cls", data.labels[example.label].encode())


def write_coco(data: Dataset, out: Path) -> None:
    """Pictures, and a captions file that names them."""
    (out / "pictures").mkdir(parents=True, exist_ok=True)
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for number, (name, example, picture) in enumerate(_named(data), 1):
        if not example.captions:
            raise DataError(f"{example.key} has no caption: write --form folder or shards")
        picture.save(out / "pictures" / f"{name}.png")
        size = {"width": picture.width, "height": picture.height}
        images.append({"id": number, "file_name": f"pictures/{name}.png", **size})
        annotations += [
            {"id": len(annotations) + place, "image_id": number, "caption": caption}
            for place, caption in enumerate(example.captions, 1)
        ]
    text = json.dumps({"images": images, "annotations": annotations}, ensure_ascii=False)
    (out / "captions.json").write_text(text, encoding="utf-8")


class OneAttribute:
    """Rendered objects, labelled by one of their attributes."""

    def __init__(self, data: RenderedObjects, attribute: str) -> None:
        self.name, self.fingerprint, self.data = data.name, f"{data.fingerprint} {attribute}", data
        self.attribute, self.labels = attribute, tuple(sorted(ATTRIBUTES[attribute]))

    def __len__(self) -> int:
        return len(self.data)

    def example(self, index: int) -> Example:
        _, scene = self.data.scene(index)
        return replace(self.data.example(index), label=self.labels.index(getattr(scene.groups[0], self.attribute)))

    def picture(self, index: int) -> Image.Image:
        return self.data.picture(index)


def _named(data: Dataset) -> Iterator[tuple[str, Example, Image.Image]]:
    for index in range(len(data)):
        yield f"{index:06d}", data.example(index), data.picture(index)


def _add(shard: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)  # no time and no owner, so that the bytes are the same every time
    entry.size = len(content)
    shard.addfile(entry, io.BytesIO(content))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--form", choices=["folder", "shards", "coco"], required=True)
    parser.add_argument(
        "--data", default="objects:train:2000", help="what edgevlm distill takes (default: %(default)s)"
    )
    parser.add_argument("--label", choices=sorted(ATTRIBUTES), help="label objects by this attribute alone")
    parser.add_argument("--per-shard", type=int, default=1000, help="samples in each shard (default: %(default)s)")
    options = parser.parse_args()
    if options.per_shard < 1:
        parser.error(f"--per-shard: expected at least 1, got {options.per_shard}")
    if options.out.exists() and (not options.out.is_dir() or any(options.out.iterdir())):
        parser.error(f"{options.out} exists already and is not empty")
    try:
        data = open_data(options.data)
        if options.label and not isinstance(data, RenderedObjects):
            parser.error(f"--label is for objects, and {options.data} has no labels")
        if options.label:
            data = OneAttribute(data, options.label)
        if options.form == "folder":
            write_folder(data, options.out)
        elif options.form == "shards":
            write_shards(data, options.out, options.per_shard)
        else:
            write_coco(data, options.out)
    except EdgeVLMError as error:
        parser.exit(error.exit_code, f"error: {error.message}\n")
    except OSError as error:
        parser.error(f"{options.out}: cannot be written: {error}")
    print(f"wrote {len(data):,} pictures to {options.out}")


if __name__ == "__main__":
    main()
