"""What a device needs to run a bundle, gathered here: wheels for its Python and processor, and EdgeVLM's own sources.

The folders are kept in EdgeVLM's cache, below `devices`; they may be removed at any time.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from edgevlm import cache, interrupts
from edgevlm.errors import DeviceError
from edgevlm.interfaces import Progress
from edgevlm.progress import silent

PACKAGES = ("numpy", "pillow", "tokenizers")
"""What every bundle needs."""
BACKENDS = {"tflite": "ai-edge-litert"}
"""What a target needs besides. ExecuTorch's bindings need torch, which no board is sent."""

_GLIBC = {"x86_64": ("2_28", "2_27", "2_17"), "aarch64": ("2_28", "2_27", "2_17")}
_LEGACY = "manylinux2014"  # what 2_17 was called
_OWN = (".py", ".json", ".yaml")


def folder() -> Path:
    """Where all that is fetched or built for devices is kept."""
    return cache.folder() / "devices"


def pinned(package: str) -> str:
    """The version that is installed here, so that a device runs the same; any where it is not.

    Returns:
        A requirement such as `numpy==2.4.6`.
    """
    try:
        return f"{package}=={version(package)}"
    except PackageNotFoundError:
        return package


def site_packages(requirements: Sequence[str], *, python: str, architecture: str, progress: Progress = silent) -> Path:
    """A folder of wheels of another machine, unpacked, to put on its `PYTHONPATH`.

    Args:
        requirements: Without their dependencies, which are to be named too.
        python: Version of its CPython, such as `3.11`.
        architecture: As `uname -m` has it.
        progress: Told how far it is.

    Raises:
        DeviceError: there is no wheel for such a machine, or no network.
    """
    if architecture not in _GLIBC:
        raise DeviceError(
            f"expected a machine of {' or '.join(_GLIBC)}, got {architecture}",
            hint="a 32-bit system on a 64-bit Raspberry Pi shows as armv7l: install the 64-bit one",
        )
    platforms = [f"manylinux_{glibc}_{architecture}" for glibc in _GLIBC[architecture]]
    platforms.append(f"{_LEGACY}_{architecture}")
    inputs = json.dumps([sorted(requirements), python, architecture])
    kept = folder() / f"site-{hashlib.sha256(inputs.encode()).hexdigest()[:16]}"
    if kept.is_dir():
        return kept
    progress(f"fetching {', '.join(requirements)} for {architecture}, Python {python}", None)
    folder().mkdir(parents=True, exist_ok=True)
    with interrupts.temporary_folder(folder(), ".site-") as stage:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--only-binary=:all:", "--no-compile", "--implementation", "cp", "--python-version", python]
        command += [word for each in platforms for word in ("--platform", each)]
        done = subprocess.run(
            [*command, "--target", str(stage / "site"), *requirements], capture_output=True, text=True, check=False
        )
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["pip failed"]
            raise DeviceError(
                f"cannot fetch {', '.join(requirements)} for {architecture} and Python {python}: {said[-1]}",
                hint="this needs pip and a network, once; a device that has the packages needs neither",
            )
        with interrupts.put_off():
            (stage / "site").rename(kept)
    return kept


def own_sources() -> Path:
    """A folder with EdgeVLM's own modules, for a `PYTHONPATH`: no weights, no converters, no benchmarks."""
    parts = {"": Path(__file__).parent.parent, "runtimes": _package("edgevlm.runtimes")}
    sources = {
        (Path("edgevlm") / name / path.relative_to(root)): path
        for name, root in parts.items()
        for path in sorted(root.rglob("*"))
        if path.suffix in _OWN and "builtin" not in path.parts and "__pycache__" not in path.parts
    }
    digest = hashlib.sha256()
    for target, path in sources.items():
        digest.update(target.as_posix().encode() + path.read_bytes())
    kept = folder() / f"edgevlm-{digest.hexdigest()[:16]}"
    if kept.is_dir():
        return kept
    folder().mkdir(parents=True, exist_ok=True)
    with interrupts.temporary_folder(folder(), ".edgevlm-") as stage:
        for target, path in sources.items():
            (stage / "site" / target).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, stage / "site" / target)
        with interrupts.put_off():
            (stage / "site").rename(kept)
    return kept


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise DeviceError(f"{name} is not installed, so it cannot be sent to a device", hint="pip install edgevlm")
    return Path(spec.origin).parent
