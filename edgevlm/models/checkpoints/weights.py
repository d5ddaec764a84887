"""A checkpoint's safetensors files: found, checked against the network, and read one tensor at a time.

The format: https://huggingface.co/docs/safetensors; sharding follows transformers' `model.safetensors.index.json`.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from edgevlm import schema
from edgevlm.bundle.tensors import refuse_large_header
from edgevlm.errors import CheckpointError

if TYPE_CHECKING:
    import torch

    from edgevlm.models.network import Network

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_FLOATS = ("F64", "F32", "F16", "BF16")
_LISTED = 5

# Constants that older versions of transformers stored; a network makes its own.
_HARMLESS = (".position_ids",)

_CONVERT = """this loader reads no pickle; convert the weights once, in the folder:
    import torch; from safetensors.torch import save_file
    weights = torch.load("pytorch_model.bin", weights_only=True)
    save_file({name: tensor.clone() for name, tensor in weights.items()}, "model.safetensors")"""

_FETCH = """the download has not finished; or, for a hub id, the model has only pickled weights, which are not fetched:
    run `hf download ID --local-dir FOLDER` and give FOLDER here, to be told how to convert them"""


def find_files(folder: Path) -> tuple[Path, ...]:
    """The files that together hold the weights, by name.

    Raises:
        CheckpointError: none, only pickled ones, or shards that are missing.
    """
    if (folder / _SINGLE).is_file():
        return (folder / _SINGLE,)
    if (folder / _INDEX).is_file():
        return _find_shards(folder)
    pickled = sorted(path.name for path in folder.glob("*.bin"))
    raise CheckpointError(
        f"{folder}: expected {_SINGLE} or {_INDEX}, got {', '.join(pickled) or 'neither'}",
        hint=_CONVERT if pickled else _FETCH,
    )


def notes(folder: Path) -> tuple[str, ...]:
    """Which file was taken, where both a single one and shards are there: the single one, as transformers does."""
    if (folder / _SINGLE).is_file() and (folder / _INDEX).is_file():
        return (f"weights: {_SINGLE} was taken, as transformers does, and not the shards of {_INDEX}",)
    return ()


def hash_files(files: Sequence[Path]) -> str:
    """sha256 over names, sizes and contents, as hex digits.

    Raises:
        CheckpointError: one cannot be read.
    """
    digest = hashlib.sha256()
    try:
        for path in files:
            digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
    except OSError as error:
        raise CheckpointError(f"{error.filename}: cannot be read: {error.strerror}") from error
    return digest.hexdigest()


def check_headers(files: Sequence[Path]) -> None:
    """Refuses, before anything of them is loaded, files that are cut short, and tensors that are no floats.

    Raises:
        CheckpointError: see `fill_network`.
    """
    for path in files:
        for name, (dtype, _) in _read_header(path).items():
            if dtype not in _FLOATS and not name.endswith(_HARMLESS):
                raise _no_floats(path, name, dtype)


def count_elements(files: Sequence[Path]) -> int:
    """Numbers in all tensors of the files."""
    return sum(math.prod(shape) for path in files for _, shape in _read_header(path).values())


def fill_network(network: Network, files: Sequence[Path]) -> None:
    """Puts the files' tensors into a network that has none, as float32 whatever they are stored as.

    What is float32 already stays memory-mapped, so that it costs memory only while it is read.

    Args:
        network: On the meta device.
        files: What `find_files` returned.

    Raises:
        CheckpointError: a file is damaged or cut short; the tensors are not those that the network has: the message
            names them, with the shapes expected and got; or one holds NaN or infinity.
    """
    found: dict[str, tuple[Path, list[int]]] = {}
    for path in files:
        for name, (dtype, shape) in _read_header(path).items():
            if name.endswith(_HARMLESS):
                continue
            if dtype not in _FLOATS:
                raise _no_floats(path, name, dtype)
            found[name] = (path, shape)
    expected = {name: list(tensor.shape) for name, tensor in network.state_dict().items() if tensor.is_floating_point()}
    _compare(expected, {name: shape for name, (_, shape) in found.items()}, where=str(files[0].parent))
    for path in files:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name).float() for name, (owner, _) in found.items() if owner == path}
        _refuse_what_is_no_number(path, tensors)
        network.load_state_dict(tensors, strict=False, assign=True)
    _make_constants(network)
    network.requires_grad_(False)


def _no_floats(path: Path, name: str, dtype: str) -> CheckpointError:
    return CheckpointError(
        f"{path}: {name}: expected a floating-point tensor, got {dtype}",
        hint="quantised checkpoints cannot be read back: give the one that this was made from",
    )


def _refuse_what_is_no_number(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    bad = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    if bad:
        listed = ", ".join(bad[:_LISTED]) + (f" and {len(bad) - _LISTED} more" if len(bad) > _LISTED else "")
        raise CheckpointError(
            f"{path}: expected finite numbers, got NaN or infinity in {listed}",
            hint="the training has diverged, or float16 overflowed where the weights were saved: take an earlier state",
        )


def _find_shards(folder: Path) -> tuple[Path, ...]:
    index = folder / _INDEX
    content = schema.read_json(index, error=CheckpointError, hint="download it again")
    try:
        shards = sorted(set(content["weight_map"].values()))
        foreign = [name for name in shards if Path(name).name != name]
    except (LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index}: not a readable index of shards: {error}") from error
    if foreign or not shards:
        raise CheckpointError(f"{index}: expected names of files in the same folder, got {foreign}")
    missing = [name for name in shards if not os.path.isfile(folder / name)]
    if missing:
        raise CheckpointError(
            f"{folder}: the shard {missing[0]} is missing ({len(missing)} of {len(shards)} are)",
            hint="finish the download, or copy the folder again",
        )
    return tuple(folder / name for name in shards)


def _read_header(path: Path) -> dict[str, tuple[str, list[int]]]:
    """Dtype and shape by name. Opening checks that the file is as long as its header says."""
    try:
        refuse_large_header(path, error=CheckpointError)
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            return {name: (part.get_dtype(), list(part.get_shape())) for name, part in slices.items()}
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    except SafetensorError as error:
        with path.open("rb") as raw:
            pointer = raw.read(32).startswith(b"version https://git-lfs")
        raise CheckpointError(
            f"{path.parent}: {path.name} is damaged or cut short ({path.stat().st_size:,} bytes): {error}",
            hint="it is a Git LFS pointer: run `git lfs pull` in the folder" if pointer else "download it again",
        ) from error


def _compare(expected: Mapping[str, list[int]], got: Mapping[str, list[int]], *, where: str) -> None:
    missing = [f"{name}: expected {shape}, got nothing" for name, shape in expected.items() if name not in got]
    unexpected = [
        f"{name}: expected no such tensor, got {shape}" for name, shape in got.items() if name not in expected
    ]
    differing = [
        f"{name}: expected {shape}, got {got[name]}"
        for name, shape in expected.items()
        if got.get(name, shape) != shape
    ]
    faults = [*differing, *missing, *unexpected]
    if faults:
        more = [f"and {len(faults) - _LISTED} more"] if len(faults) > _LISTED else []
        raise CheckpointError(
            "\n  ".join([f"{where}: config.json and the weights contradict each other:", *faults[:_LISTED], *more]),
            hint="take config.json and the weights from the same checkpoint; adapters and extra heads are not read",
        )


def _make_constants(network: Network) -> None:
    """The indices that networks keep as unsaved buffers, which the meta device left without values."""
    import torch

    for module in network.modules():
        ids: Any = module._buffers.get("position_ids")
        if ids is not None:
            module._buffers["position_ids"] = torch.arange(ids.shape[-1]).expand(1, -1)
