"""Plain values and arrays through a pipe, between two processes of which one is not to be trusted: nothing is a pickle.

A frame is the length of a JSON text, 8 bytes, little-endian; the text, in which an array is its dtype and shape; and
the arrays' bytes, in the order in which they stand there.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

_ARRAY = "\0array"
_LENGTH_BYTES = 8
_LARGEST_TEXT_BYTES = 1 << 28
_KINDS = "biuf"


def send(stream: IO[bytes], value: Any) -> None:
    """Writes plain values, dataclasses of such, and arrays.

    Raises:
        OSError: nobody reads any more.
    """
    arrays: list[NDArray[Any]] = []
    text = json.dumps(_pack(value, arrays)).encode()
    stream.write(len(text).to_bytes(_LENGTH_BYTES, "little") + text)
    for array in arrays:
        stream.write(array.data)
    stream.flush()


def receive(stream: IO[bytes]) -> Any:
    """What was sent; dataclasses come as dicts, tuples as lists.

    Raises:
        EOFError: the stream ended before it.
        ValueError: it is no frame.
    """
    length = int.from_bytes(_exactly(stream, _LENGTH_BYTES), "little")
    if length > _LARGEST_TEXT_BYTES:
        raise ValueError(f"expected a text of at most {_LARGEST_TEXT_BYTES:,} bytes, got one of {length:,}")
    return _unpack(json.loads(_exactly(stream, length)), stream)


def _pack(value: Any, arrays: list[NDArray[Any]]) -> Any:
    if isinstance(value, np.ndarray):
        arrays.append(np.ascontiguousarray(value))
        return {_ARRAY: [value.dtype.str, list(value.shape)]}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _pack(getattr(value, field.name), arrays) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: _pack(item, arrays) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_pack(item, arrays) for item in value]
    return value


def _unpack(value: Any, stream: IO[bytes]) -> Any:
    if isinstance(value, list):
        return [_unpack(item, stream) for item in value]
    if not isinstance(value, dict):
        return value
    if _ARRAY in value:
        return _read_array(value[_ARRAY], stream)
    return {key: _unpack(item, stream) for key, item in value.items()}


def _read_array(described: Any, stream: IO[bytes]) -> NDArray[Any]:
    try:
        name, shape = described
        dtype, size = np.dtype(name), math.prod(shape)
        plain = dtype.kind in _KINDS and all(isinstance(side, int) and side >= 0 for side in shape)
    except (TypeError, ValueError):
        plain = False
    if not plain:
        raise ValueError(f"expected an array's dtype and shape, got {str(described)[:100]}")
    return np.frombuffer(bytearray(_exactly(stream, size * dtype.itemsize)), dtype).reshape(shape)


def _exactly(stream: IO[bytes], length: int) -> bytes:
    content = stream.read(length)
    if len(content) < length:
        raise EOFError
    return content
