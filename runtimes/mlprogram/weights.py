"""weight.bin, the file in which an ML Program keeps its large constants (MIL's blob storage, version 2).

A header of 64 bytes, then for each blob a record of 64 bytes and, 64-byte aligned, its data. A record begins
with five little-endian numbers: the sentinel 0xDEADBEEF, the element type, the size in bytes, the data's offset
in the file and the unused bits at its end.
Layout: mlmodel/src/MILBlob/Blob/StorageFormat.hpp in https://github.com/apple/coremltools
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgevlm.errors import BundleError
from edgevlm.runtimes.mlprogram.dtypes import DType, decode

_RECORD = struct.Struct("<IIQQQ")
_RECORD_BYTES = 64
_SENTINEL = 0xDEADBEEF
_VERSION = 2
_HINT = "the package is damaged or was cut short when it was copied: copy or convert it again"


class WeightFile:
    """A memory-mapped weight.bin: only what is read is loaded, and fp16 and fp32 constants are never copied.

    Raises:
        BundleError: the file is missing, too short for its header, or of another version.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        if not path.is_file():
            raise BundleError(f"{path}: the program's weights are missing", hint=_HINT)
        if path.stat().st_size < _RECORD_BYTES:
            raise BundleError(f"{path}: expected at least {_RECORD_BYTES} bytes, got {path.stat().st_size}", hint=_HINT)
        # Copy-on-write: torch wants memory that it could write to, and the file must not change.
        self._bytes = np.memmap(path, np.uint8, mode="c")
        _, version = struct.unpack("<II", self._bytes[:8].tobytes())
        if version != _VERSION:
            raise BundleError(f"{path}: expected blob storage version {_VERSION}, got {version}", hint=_HINT)

    def read(self, offset: int, dtype: DType, count: int) -> NDArray[np.generic]:
        """One blob, shape [count].

        Args:
            offset: Of the blob's record, in bytes.

        Raises:
            BundleError: no intact record is there, it has another type or too few elements, or its data
                lie outside the file.
        """
        where = f"{self._path}: blob at byte {offset}"
        if offset + _RECORD_BYTES > self._bytes.size:
            raise BundleError(f"{where}: lies beyond the file's end at {self._bytes.size}", hint=_HINT)
        sentinel, code, size_bytes, start, _ = _RECORD.unpack(self._bytes[offset : offset + _RECORD.size].tobytes())
        if sentinel != _SENTINEL:
            raise BundleError(f"{where}: expected the sentinel {_SENTINEL:#x}, got {sentinel:#x}", hint=_HINT)
        if code != dtype.blob_code:
            raise BundleError(
                f"{where}: expected element type {dtype.name} (code {dtype.blob_code}), got code {code}", hint=_HINT
            )
        if start + size_bytes > self._bytes.size:
            raise BundleError(
                f"{where}: its {size_bytes} bytes from {start} on pass the file's end at {self._bytes.size}", hint=_HINT
            )
        try:
            return decode(self._bytes[start : start + size_bytes].view(np.ndarray), dtype, count)
        except BundleError as error:
            raise BundleError(f"{where}: {error.message}", hint=_HINT) from None
