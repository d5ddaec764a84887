"""Archives that a Linux kernel unpacks into its first file system: cpio's "newc" format."""

from __future__ import annotations

from collections.abc import Mapping

_FOLDER, _FILE = 0o040755, 0o100755
_END = "TRAILER!!!"
_ALIGNMENT_BYTES = 512


def archive(files: Mapping[str, bytes]) -> bytes:
    """An archive of files by path, with the folders that they lie in; all are root's, and can be executed.

    Its length is such that another archive, compressed or not, may follow: the kernel unpacks one after the other.
    """
    folders = {"/".join(parts[:n]) for parts in (name.split("/") for name in files) for n in range(1, len(parts))}
    entries = [_entry(name, _FOLDER, b"") for name in sorted(folders)]
    entries += [_entry(name, _FILE, content) for name, content in files.items()]
    return _padded(b"".join([*entries, _entry(_END, 0, b"")]), _ALIGNMENT_BYTES)


def _entry(name: str, mode: int, content: bytes) -> bytes:
    inode = owner = group = time = device = 0
    links = 1
    numbers = (inode, mode, owner, group, links, time, len(content), *(device,) * 4, len(name) + 1, 0)
    header = "070701" + "".join(f"{number:08X}" for number in numbers) + name + "\0"
    return _padded(header.encode("ascii"), 4) + _padded(content, 4)


def _padded(data: bytes, alignment: int) -> bytes:
    return data + bytes(-len(data) % alignment)
