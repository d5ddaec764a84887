"""What is looked at before a safetensors file is opened: the library reads a header of 100 MB, and takes gigabytes."""

from __future__ import annotations

from pathlib import Path

from edgevlm.errors import EdgeVLMError

LARGEST_HEADER_BYTES = 16_000_000
"""Room for more than a hundred thousand tensors."""
_LENGTH_BYTES = 8


def refuse_large_header(path: Path, *, error: type[EdgeVLMError]) -> None:
    """Refuses a safetensors file whose header says that it is larger than `LARGEST_HEADER_BYTES`.

    Args:
        path: The file; whatever else is wrong with it, the library says.
        error: Raised.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(_LENGTH_BYTES), "little")
    # What is longer than the file is cut short, or no safetensors at all.
    if LARGEST_HEADER_BYTES < header_bytes <= path.stat().st_size:
        raise error(
            f"{path}: expected a header of at most {LARGEST_HEADER_BYTES:,} bytes, got {header_bytes:,}",
            hint="no model has so many tensors: take the file from where the checkpoint came from",
        )
