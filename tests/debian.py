"""A repository of small arm64 packages that apt reads as it reads Debian's own, in a folder instead of a network."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Mapping
from pathlib import Path

Files = Mapping[str, bytes]
"""What a package holds, by where it goes."""


def repository(folder: Path, suite: str, packages: Mapping[str, Files], needs: Mapping[str, str] | None = None) -> Path:
    """Writes the packages, and `etc/sources.list` beside them, which names the suite.

    Args:
        folder: Where; it is made.
        suite: Such as `bookworm`.
        packages: By name.
        needs: What a package depends on.

    Returns:
        The folder to take for `/etc/apt`.
    """
    index = "".join(_package(folder, name, files, (needs or {}).get(name)) for name, files in packages.items()).encode()
    suites, etc = folder / "dists" / suite, folder / "etc"
    (suites / "main" / "binary-arm64").mkdir(parents=True)
    (suites / "main" / "binary-arm64" / "Packages").write_bytes(index)
    hashed = f" {hashlib.sha256(index).hexdigest()} {len(index)} main/binary-arm64/Packages\n"
    head = f"Suite: {suite}\nCodename: {suite}\nArchitectures: arm64\nComponents: main\n"
    (suites / "Release").write_text(f"{head}SHA256:\n{hashed}")
    etc.mkdir()
    (etc / "sources.list").write_text(f"deb [trusted=yes] copy:{folder} {suite} main\n")
    return etc


def _package(folder: Path, name: str, files: Files, needs: str | None) -> str:
    """Builds a package, and gives its entry of the index."""
    tree, deb = folder / "trees" / name, folder / f"{name}.deb"
    control = f"Package: {name}\nVersion: 1\nArchitecture: arm64\nMaintainer: nobody\nDescription: small\n"
    control += f"Depends: {needs}\n" if needs else ""
    for path, content in {"DEBIAN/control": control.encode(), **files}.items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_bytes(content)
    subprocess.run(["dpkg-deb", "--build", tree, deb], check=True, stdout=subprocess.DEVNULL)
    size, sha256 = deb.stat().st_size, hashlib.sha256(deb.read_bytes()).hexdigest()
    return f"{control}Filename: {deb.name}\nSize: {size}\nSHA256: {sha256}\n\n"
