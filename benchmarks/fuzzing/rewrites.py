"""Mutators that leave a program what it is: the mutant must answer what the sound package answers, bit for bit."""

from __future__ import annotations

import json
import struct
from random import Random
from typing import Any

from edgevlm.benchmarks.fuzzing.bombs import operation
from edgevlm.benchmarks.fuzzing.corpus import MANIFEST, MODEL, WEIGHTS
from edgevlm.benchmarks.fuzzing.edits import blobs, names, operations
from edgevlm.benchmarks.fuzzing.mutants import Mutant, mutator

_FLOAT = 11


def _arguments(operations_: list[Any]) -> list[Any]:
    return [binding for each in operations_ for name in sorted(each.inputs) for binding in each.inputs[name].arguments]


@mutator(expects="same", weight=0.5)
def other_names_within(mutant: Mutant, rng: Random) -> bool:
    """Every value but the functions' inputs and outputs is called otherwise."""
    kept = {each.name for each in mutant.function.inputs}
    kept |= {name for body in mutant.bodies for name in body.outputs}
    new = {
        name: f"{rng.randrange(1 << 30)}.{i}" for i, name in enumerate(dict.fromkeys(names(mutant))) if name not in kept
    }
    for binding in _arguments(operations(mutant)):
        if binding.WhichOneof("binding") == "name":
            binding.name = new.get(binding.name, binding.name)
    for block in mutant.blocks():
        for each in (*block.inputs, *(output for made in block.operations for output in made.outputs)):
            each.name = new.get(each.name, each.name)
        block.outputs[:] = [new.get(name, name) for name in block.outputs]
    return True


@mutator(expects="same", weight=0.5)
def neighbours_swapped(mutant: Mutant, rng: Random) -> bool:
    """Two ops of which neither reads the other nor touches a state."""
    listed = rng.choice(mutant.bodies).operations
    for _ in range(20):
        at = rng.randrange(max(len(listed) - 1, 1))
        pair = listed[at : at + 2]
        if len(pair) == 2 and not any(each.blocks or each.type.endswith("_state") for each in pair):
            read = {binding.name for binding in _arguments([pair[1]])}
            if not read & {each.name for each in pair[0].outputs}:
                listed.insert(at, listed.pop(at + 1))
                return True
    return False


@mutator(expects="same", weight=0.5)
def ops_that_nothing_reads(mutant: Mutant, rng: Random) -> bool:
    for body in mutant.bodies:
        for i in range(rng.randrange(1, 4)):
            added = operation("fill", {"shape": [2], "value": float(i)}, {f"unread {i}": (_FLOAT, [2])})
            body.operations.insert(rng.randrange(len(body.operations) + 1), added)
    return True


@mutator(expects="same", weight=0.5)
def constants_in_place(mutant: Mutant, rng: Random) -> bool:
    """Arguments that are read from const ops are written where they are read."""
    known = {each.outputs[0].name: each.attributes["val"] for each in operations(mutant) if each.type == "const"}
    for binding in _arguments(operations(mutant)):
        if binding.name in known and rng.random() < 0.8:
            binding.value.CopyFrom(known[binding.name])
    return True


@mutator(expects="same", weight=0.5)
def weights_elsewhere_in_their_file(mutant: Mutant, rng: Random) -> bool:
    """Every blob is further from the file's beginning, and the file has another name."""
    content, found = mutant.files.get(WEIGHTS), blobs(mutant)
    if content is None or not found:
        return False
    gap = 64 * rng.randrange(1, 5)
    moved = bytearray(content[:64] + rng.randbytes(gap) + content[64:])
    for offset in {each.offset for each in found}:
        (start,) = struct.unpack_from("<Q", moved, offset + gap + 16)
        struct.pack_into("<Q", moved, offset + gap + 16, start + gap)
    folder, name = "Data/com.apple.CoreML", rng.choice(("weights/weight.bin", "w.bin", "weights/é ü.bin"))
    del mutant.files[WEIGHTS]
    mutant.files[f"{folder}/{name}"] = bytes(moved)
    for each in found:
        each.offset, each.fileName = each.offset + gap, f"@model_path/{name}"
    return True


@mutator(expects="same", weight=0.5)
def words_about_it(mutant: Mutant, rng: Random) -> bool:
    """Doc strings, metadata, and a field that no version of the format knows."""
    mutant.spec.mlProgram.docString = "\0" * rng.randrange(100)
    mutant.spec.description.metadata.shortDescription = "a" * rng.randrange(10_000)
    mutant.spec.description.metadata.userDefined["../../x"] = "{}"
    mutant.appended = b"\xfa\xff\x7f\x03abc"  # field 262143, three bytes
    return True


@mutator(expects="same", weight=0.5)
def another_function(mutant: Mutant, rng: Random) -> bool:
    """A function that is not run, and does not run."""
    functions = mutant.spec.mlProgram.functions
    functions["unused"].opset = "CoreML99"
    functions["unused"].block_specializations["CoreML8"].operations.add().type = "bend"
    return True


@mutator(expects="same", weight=0.5)
def specification_elsewhere(mutant: Mutant, rng: Random) -> bool:
    """Another path of the model's file, which takes its weights along."""
    folder = rng.choice(("a", "a/b/c", "Data", "com.apple.CoreML.", "...", "~"))
    old = "Data/com.apple.CoreML/"
    mutant.files = {path.replace(old, f"Data/{folder}/"): content for path, content in mutant.files.items()}
    content = json.loads(mutant.files[MANIFEST])
    content["itemInfoEntries"][content["rootModelIdentifier"]]["path"] = f"{folder}/model.mlmodel"
    mutant.files[MANIFEST] = json.dumps(content).encode()
    return True


@mutator(expects="same", weight=0.5)
def a_link_within(mutant: Mutant, rng: Random) -> bool:
    """A file that is reached by a link which stays inside the package."""
    path = rng.choice((MODEL, WEIGHTS))
    if path not in mutant.files:
        return False
    mutant.files["Data/com.apple.CoreML/kept"] = mutant.files.pop(path)
    mutant.links[path] = "../kept" if path == WEIGHTS else "kept"
    return True
