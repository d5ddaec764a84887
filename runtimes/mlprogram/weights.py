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


def require_file(file: Path, folder: Path, missing: str) -> None:
    """Refuses what is no plain file, and what leads out of a folder.

    Args:
        missing: What to say of a file that is not there.

    Raises:
        BundleError: see above.
    """
    name = f"{str(file)!r:.300}"
    try:
        inside, there = file.resolve().is_relative_to(folder.resolve()), file.is_file()
    except (OSError, RuntimeError, ValueError) as error:  # links in a circle, or a name that no file can have
        raise BundleError(f"{name}: not the path of a file: {error!r:.100}", hint=_HINT) from None
    if not inside:
        raise BundleError(f"{name}: lies outside the package {folder}, which no sound package asks for")
    if not there:
        raise BundleError(f"{name}: {missing}", hint=_HINT)


class WeightFile:
    """A memory-mapped weight.bin: only what is read is loaded, and fp16 and fp32 constants are never copied.

    Args:
        folder: What the file must not lie outside of.
        name: Its path within.

    Raises:
        BundleError: the file is missing, lies elsewhere, is too short for its header, or of another version.
    """

    def __init__(self, folder: Path, name: str) -> None:
        path = folder / name
        self._name = repr(str(path))
        require_file(path, folder, "the program's weights are missing")
        if path.stat().st_size < _RECORD_BYTES:
            raise BundleError(
                f"{self._name}: expected at least {_RECORD_BYTES} bytes, got {path.stat().st_size}", hint=_HINT
            )
        # Copy-on-write: torch wants memory that it could write to, and the file must not change.
        try:
            self._bytes = np.memmap(path, np.uint8, mode="c")
        except OSError as error:
            raise BundleError(f"{self._name}: the program's weights cannot be read: {error}", hint=_HINT) from error
        _, version = struct.unpack("<II", self._bytes[:8].tobytes())
        if version != _VERSION:
            raise BundleError(f"{self._name}: expected blob storage version {_VERSION}, got {version}", hint=_HINT)

    def read(self, offset: int, dtype: DType, count: int) -> NDArray[np.generic]:
        """One blob, shape [count].

        Args:
            offset: Of the blob's record, in bytes.

        Raises:
            BundleError: no intact record is there, it has another type or too few elements, or its data
                lie outside the file.
        """
        where = f"{self._name}: blob at byte {offset}"
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
