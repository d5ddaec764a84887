"""Mutators of what lies on the disk: bytes, records of weights, the manifest, links."""

from __future__ import annotations

import json
import struct
from random import Random
from typing import Any

from edgevlm.benchmarks.fuzzing.corpus import MANIFEST, MODEL, WEIGHTS
from edgevlm.benchmarks.fuzzing.mutants import NUMBERS, Mutant, mutator

ELSEWHERE = ("/etc/passwd", "../../../../../../etc/passwd", "/dev/zero")
"""Paths that no package may lead to; a sound copy of it lies beside it, in `sound`."""
ODD = ("", ".", "/", "..", "\0", "a\0b", "x" * 300, "x/" * 3000, "\u202e", "~", "%s", "Data", "-", "\n", "CON", "🦉")
"""Names with which code that handles files or texts may not have reckoned."""


def damaged(content: bytes, rng: Random) -> bytes:
    """The bytes, differing in one of the ways in which files are damaged."""
    size = len(content)
    start, length = rng.randrange(size + 1), min(1 << rng.randrange(9), size)
    way = rng.randrange(6)
    if way == 0:  # one bit
        position = rng.randrange(max(size, 1))
        return content[:position] + bytes(each ^ 1 << rng.randrange(8) for each in content[position : position + 1]) + (
            content[position + 1 :]
        )  # fmt: skip
    if way == 1:  # cut short
        return content[:start]
    if way == 2:  # noise in between
        return content[:start] + rng.randbytes(length) + content[start:]
    if way == 3:  # a piece lost
        return content[:start] + content[start + length :]
    if way == 4:  # overwritten with noise, with zeros, or with ones
        noise = rng.choice((rng.randbytes(length), bytes(length), b"\xff" * length))
        return content[:start] + noise + content[start + length :]
    source = rng.randrange(size + 1)  # overwritten with another piece of itself
    return content[:start] + content[source : source + length] + content[start + length :]


def _damage(mutant: Mutant, path: str, rng: Random) -> bool:
    if path not in mutant.files:
        return False
    content = mutant.files[path]
    for _ in range(1 + rng.randrange(3)):
        content = damaged(content, rng)
    mutant.files[path] = content
    return True


@mutator()
def bytes_of_the_specification(mutant: Mutant, rng: Random) -> bool:
    return _damage(mutant, MODEL, rng)


@mutator()
def bytes_of_the_weights(mutant: Mutant, rng: Random) -> bool:
    return _damage(mutant, WEIGHTS, rng)


@mutator()
def bytes_of_the_manifest(mutant: Mutant, rng: Random) -> bool:
    return _damage(mutant, MANIFEST, rng)


@mutator()
def record_of_a_weight(mutant: Mutant, rng: Random) -> bool:
    """One of the five numbers before a blob, or one of the file's header."""
    content = bytearray(mutant.files.get(WEIGHTS, b""))
    records = [at for at in range(0, len(content) - 63, 64) if content[at : at + 4] == b"\xef\xbe\xad\xde"]
    if not records:
        return False
    if rng.random() < 0.1:
        content[:8] = struct.pack("<II", *(rng.choice(NUMBERS) & 0xFFFFFFFF for _ in range(2)))
    else:
        record = rng.choice(records)
        at, form = rng.choice(((0, "<I"), (4, "<I"), (8, "<Q"), (16, "<Q"), (24, "<Q")))
        (old,) = struct.unpack_from(form, content, record + at)
        new = rng.choice((old + 1, old - 1, old + 64, 2 * old, rng.choice(NUMBERS), rng.randrange(16)))
        struct.pack_into(form, content, record + at, new % (1 << 8 * struct.calcsize(form)))
    mutant.files[WEIGHTS] = bytes(content)
    return True


@mutator()
def a_file_is_missing(mutant: Mutant, rng: Random) -> bool:
    del mutant.files[rng.choice(sorted(mutant.files))]
    return True


@mutator()
def manifest(mutant: Mutant, rng: Random) -> bool:
    """One value in the manifest, or one less, or a nest of lists in its place."""
    content = json.loads(mutant.files[MANIFEST])
    places: list[tuple[Any, str]] = []
    waiting = [content]
    while waiting:
        inner = waiting.pop()
        places += [(inner, key) for key in inner]
        waiting += [each for each in inner.values() if isinstance(each, dict)]
    inner, key = rng.choice(places)
    values: tuple[Any, ...] = (*ODD, *NUMBERS, None, True, 0.5, [], {}, ["path"], {"path": MODEL}, "\ud800")
    if rng.random() < 0.2:
        del inner[key]
    else:
        inner[key] = rng.choice(values)
    mutant.files[MANIFEST] = json.dumps(content).encode()
    if rng.random() < 0.1:
        depth = rng.choice((10, 1000, 100_000))
        mutant.files[MANIFEST] = b"[" * depth + b"]" * depth
    return True


@mutator(expects="refused")
def manifest_leads_elsewhere(mutant: Mutant, rng: Random) -> bool:
    content = json.loads(mutant.files[MANIFEST])
    entry = content["itemInfoEntries"][content["rootModelIdentifier"]]
    entry["path"] = rng.choice((*ELSEWHERE, f"../../sound/{MODEL}", "com.apple.CoreML", "../Manifest.json"))
    mutant.files[MANIFEST] = json.dumps(content).encode()
    return True


@mutator(expects="refused")
def a_link_leads_elsewhere(mutant: Mutant, rng: Random) -> bool:
    """A file or a folder of files, in whose place stands a link to the like outside the package."""
    path = rng.choice((MANIFEST, MODEL, WEIGHTS, "Data", "Data/com.apple.CoreML", "Data/com.apple.CoreML/weights"))
    gone = [each for each in mutant.files if each == path or each.startswith(f"{path}/")]
    for each in gone:
        del mutant.files[each]
    mutant.links[path] = rng.choice(("{outside}/" + path, "/dev/zero", "/etc/passwd", path.split("/")[-1]))
    return bool(gone)


@mutator(expects="refused")
def no_plain_file(mutant: Mutant, rng: Random) -> bool:
    """A pipe or a folder where a file belongs."""
    path = rng.choice(sorted(mutant.files))
    del mutant.files[path]
    if rng.random() < 0.5:
        mutant.files[f"{path}/inside"] = b""
    else:
        mutant.files[f"{path}.beside"] = b""  # so that the folder is there
        mutant.fifos.append(path)
    return True
