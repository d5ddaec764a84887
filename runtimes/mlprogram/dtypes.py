"""Element types of an ML Program: their names, how they are stored, and their codes in the files."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgevlm.errors import BundleError


@dataclass(frozen=True)
class DType:
    """One element type.

    Attributes:
        name: MIL's own name of it, e.g. `fp16`.
        bits: Bits an element takes in a file; below 8, elements are packed from the least significant bit up.
        storage: Name of the numpy type that holds one decoded element.
        spec_code: Value of the enum `DataType` in MIL.proto.
        blob_code: Value of the enum `BlobDataType` in weight.bin; None where blobs cannot hold it.
    """

    name: str
    bits: int
    storage: str
    spec_code: int
    blob_code: int | None

    @property
    def is_float(self) -> bool:
        return self.name.startswith("fp")


_DTYPES = (
    DType("bool", 8, "bool", spec_code=1, blob_code=None),
    DType("fp16", 16, "float16", spec_code=10, blob_code=1),
    DType("fp32", 32, "float32", spec_code=11, blob_code=2),
    DType("int8", 8, "int8", spec_code=21, blob_code=4),
    DType("int16", 16, "int16", spec_code=22, blob_code=6),
    DType("int32", 32, "int32", spec_code=23, blob_code=14),
    DType("int64", 64, "int64", spec_code=24, blob_code=None),
    DType("int4", 4, "int8", spec_code=25, blob_code=8),
    DType("uint8", 8, "uint8", spec_code=31, blob_code=3),
    DType("uint16", 16, "uint16", spec_code=32, blob_code=7),
    DType("uint32", 32, "uint32", spec_code=33, blob_code=15),
    DType("uint4", 4, "uint8", spec_code=35, blob_code=11),
    DType("uint2", 2, "uint8", spec_code=36, blob_code=10),
    DType("uint1", 1, "uint8", spec_code=37, blob_code=9),
    DType("uint6", 6, "uint8", spec_code=38, blob_code=13),
    DType("uint3", 3, "uint8", spec_code=39, blob_code=12),
)
BY_SPEC_CODE = {dtype.spec_code: dtype for dtype in _DTYPES}
BY_NAME = {dtype.name: dtype for dtype in _DTYPES}


def decode(raw: NDArray[np.uint8], dtype: DType, count: int) -> NDArray[np.generic]:
    """The first `count` elements that these bytes hold; a view of them where their type and place allow.

    Args:
        raw: Little-endian bytes, shape [size_bytes].

    Raises:
        BundleError: there are fewer bytes than `count` elements take.
    """
    if raw.size * 8 < count * dtype.bits:
        raise BundleError(f"expected {count} {dtype.name} elements, got {raw.size} bytes, which hold fewer")
    if dtype.name == "bool":
        return raw[:count].astype(np.bool_)
    if dtype.bits >= 8:
        aligned: NDArray[np.generic] = np.require(raw[: count * dtype.bits // 8].view(dtype.storage), requirements="A")
        return aligned
    bits = np.unpackbits(raw, bitorder="little", count=count * dtype.bits).reshape(count, dtype.bits)
    values = bits @ (1 << np.arange(dtype.bits, dtype=np.int16))
    if dtype.name == "int4":
        values = np.where(values >= 8, values - 16, values)
    return values.astype(dtype.storage)
