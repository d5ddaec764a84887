"""Mutants of whole bundles, whose hashes are right: what `verify` says of them, and what they answer."""

from __future__ import annotations

import json
import random
import shutil
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import edgevlm
from edgevlm.benchmarks.attacks import documents
from edgevlm.benchmarks.attacks.documents import Form
from edgevlm.benchmarks.attacks.outcomes import Outcome, tell
from edgevlm.bundle.bundle import Bundle, hash_file
from edgevlm.conversion import pipeline
from edgevlm.errors import EdgeVLMError
from edgevlm.inference.embedder import BundleModel
from edgevlm.inference.embeddings import cosines

Change = Callable[[Path, random.Random], str]
"""Changes a copy of a bundle, and says what it changed."""

_TEXTS = ("a large red circle", "two small blue stars to the left of a green heart", "Ünï, a 2nd  one")
_LARGEST_STEP = 0.05
"""By which a score may differ where the embeddings are as close as the recipe demands."""
_TOKENS = 4
_FORMS: dict[str, Form] = {".json": "json", ".safetensors": "tensors"}
_WORDS = (0, 1, 0xFFFFFFFF, 0x7FFFFFFF, 0x80000000, 0x3FFFFFFF, 0x00010000, 4, 8)


@dataclass(frozen=True)
class Specimen:
    """A bundle that mutants are made of, and what it answers.

    Attributes:
        bundle: Sound, and this machine's own.
        answers: See `_answers`.
    """

    bundle: Bundle
    answers: Mapping[str, NDArray[np.float32]]

    @property
    def name(self) -> str:
        """Its target, and what is special about it."""
        manifest = self.bundle.manifest
        special = "labels" if manifest.labels else "talks" if manifest.dialogue else ""
        return ", ".join(filter(None, (manifest.target, special)))

    @classmethod
    def of(cls, bundle: Bundle) -> Specimen:
        """Asks a sound bundle, in a process of its own: one that has run a backend is none to fork."""
        with BundleModel(bundle) as model:
            return cls(bundle, _answers(model))


def attack(kind: str, specimen: Specimen, number: int, seed: int, scratch: Path) -> Outcome:
    """Makes a numbered mutant, opens it, has it verified, asks it, and judges what it did."""
    what = specimen.name
    rng = random.Random(f"{seed}/{kind}/{what}/{number}")
    folder = scratch / "mutant.edgevlm"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(specimen.bundle.path, folder)
    said = CHANGES[kind](folder, rng)
    try:
        result, message = _judged(folder, specimen)
    except EdgeVLMError as error:
        result, message = "refused", f"{type(error).__name__}: {error.message[:200]}"
    except Exception as error:
        result, message = "traceback", tell(error)
    return Outcome(kind, what, number, result, f"{said}: {message}".rstrip(": "))


def _judged(folder: Path, specimen: Specimen) -> tuple[str, str]:
    bundle = Bundle.open(folder)
    if not pipeline.verify(bundle).passed or any(proof.lost for proof in pipeline.verify_weights(bundle)):
        return "refused", "verify fails"
    with edgevlm.open(folder) as model:
        return _compared(_answers(model), specimen)


def _answers(model: BundleModel) -> dict[str, NDArray[np.float32]]:
    """What an app gets: embeddings of pictures and texts, and scores; or ids of words, and how probable some are."""
    noise = np.random.default_rng(0).integers(0, 256, (2, 90, 70, 3), np.uint8)
    pictures = [np.full((40, 60, 3), (200, 30, 40), np.uint8), *noise]
    if model.bundle.manifest.dialogue is not None:
        said = [model.generate(picture, _TEXTS[0], max_tokens=_TOKENS) for picture in pictures]
        likely = [model.score(picture, _TEXTS[0], _TEXTS[1:]) for picture in pictures]
        return {
            "words": np.array([[*each.token_ids, *[-1] * _TOKENS][:_TOKENS] for each in said], np.float32),
            "shares": np.exp(np.array(likely, np.float32)),
        }
    answers = {
        "encode_image": model.encode_image(pictures),
        "encode_text": model.encode_text(_TEXTS),
        "scores": model.classify(pictures, _TEXTS),
    }
    return {**answers, "baked scores": model.classify(pictures)} if model.labels else answers


def _compared(found: Mapping[str, NDArray[np.float32]], specimen: Specimen) -> tuple[str, str]:
    least = specimen.bundle.manifest.recipe.parity.min_cosine or 1.0
    for name, expected in specimen.answers.items():
        rows = found[name]
        if rows.shape != expected.shape or not np.isfinite(rows).all():
            return "wrong", f"{name}: shape {rows.shape}, or not finite"
        if name in ("scores", "baked scores", "shares", "words"):
            if np.abs(rows - expected).max() > _LARGEST_STEP:
                return "wrong", f"{name}: off by {np.abs(rows - expected).max():.3g}"
        elif (cosine := float(cosines(expected, rows).min())) < least:
            return "wrong", f"{name}: cosine {cosine:.6f}, the recipe demands {least}"
    return "same answers", ""


# Changes


def _change_manifest(folder: Path, rng: random.Random) -> str:
    """A field of the manifest, which no hash covers but the digest that whoever publishes the bundle says."""
    path = folder / "manifest.json"
    before = path.read_bytes()
    while True:
        (mutant,) = islice(documents.mutants(before, "json", rng.random()), 1)
        if mutant != before:
            path.write_bytes(mutant)
            return "manifest.json"


_SWAPS: dict[str, Callable[[Any, random.Random], Any]] = {
    "a number": lambda value, rng: value * rng.choice((-1, 0, 0.5, 1.1, 100)) if type(value) is float else value + 1,
    "another word": lambda value, rng: rng.choice(
        ("none", "siglip", "clip", "exact", "shortest_edge", "bilinear", "bicubic", "nearest", "lanczos", "float32",
         "int32", "fp16", "fp32", "tflite", "coreml", "executorch", "tokenizer.json", "model.tflite", "1.0", "2.0")
    ),
    "the other": lambda value, rng: not value,
    "nothing": lambda value, rng: None,
}  # fmt: skip
"""Values that a reader could take for meant."""


def _swap_value(folder: Path, rng: random.Random) -> str:
    """A field of the manifest in place of which another plausible value stands."""
    path = folder / "manifest.json"
    data = json.loads(path.read_text())
    places = [place for place in _leaves(data) if place[0] != "files"]
    while True:
        place = rng.choice(places)
        holder = data
        for key in place[:-1]:
            holder = holder[key]
        value = holder[place[-1]]
        if isinstance(value, bool):
            name = "the other"
        elif isinstance(value, int | float):
            name = "a number"
        else:
            name = rng.choice(("another word", "nothing"))
        new = _SWAPS[name](value, rng)
        if new != value:
            holder[place[-1]] = new
            path.write_text(json.dumps(data, indent=2, ensure_ascii=False))
            return f"{'.'.join(map(str, place))}: {value!r} became {new!r}"[:200]


def _leaves(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = False
    for key, item in items:
        found = True
        yield from _leaves(item, (*place, key))
    if not found and place:
        yield place


def _damage_file(folder: Path, rng: random.Random) -> str:
    """Bytes of a file, or values in one of JSON, whose hash the manifest then has."""
    names: list[str] = sorted(json.loads((folder / "manifest.json").read_text())["files"])
    name = rng.choice([*names, *(each for each in names if not each.startswith("golden/"))])
    path = folder / name
    (mutant,) = islice(documents.mutants(path.read_bytes(), _FORMS.get(path.suffix, "bytes"), rng.random()), 1)
    path.write_bytes(mutant)
    _repair(folder, name)
    return name


def _damage_tables(folder: Path, rng: random.Random) -> str:
    """Words of a flatbuffer that look like an offset, a length or a small number, where its tables are."""
    (path,) = [each for each in folder.iterdir() if each.suffix in (".tflite", ".litertlm", ".pte")]
    content = bytearray(path.read_bytes())
    words = np.frombuffer(content, "<u4", len(content) // 4)
    likely = np.flatnonzero((words > 0) & (words < len(content)) | (words > 0xFFFF0000))
    for _ in range(rng.choice((1, 1, 2, 4))):
        place = 4 * int(rng.choice(likely))
        old = struct.unpack_from("<I", content, place)[0]
        new = rng.choice((*_WORDS, old + 4, old - 4, old * 2, len(content)))
        struct.pack_into("<I", content, place, new & 0xFFFFFFFF)
    path.write_bytes(content)
    _repair(folder, path.name)
    return path.name


def _repair(folder: Path, name: str) -> None:
    """Puts the hash and the size of a file into the manifest."""
    path = folder / "manifest.json"
    data = json.loads(path.read_text())
    data["files"][name] = {"sha256": hash_file(folder / name), "size_bytes": (folder / name).stat().st_size}
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False))


FLATBUFFERS = "flatbuffer tables"
CHANGES: dict[str, Change] = {
    "manifest": _change_manifest,
    "manifest, plausible": _swap_value,
    "bytes of files": _damage_file,
    FLATBUFFERS: _damage_tables,  # which Core ML has none of
}
