"""What a device needs to run a bundle, gathered here: wheels for its Python and processor, and EdgeVLM's own code."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from edgevlm.bundle.bundle import hash_file
from edgevlm.errors import DeviceError
from edgevlm.process.progress import Progress, silent
from edgevlm.process.store import keep

PACKAGES = ("numpy", "pillow", "tokenizers")
"""What every bundle needs."""
BACKENDS = {"tflite": "ai-edge-litert"}
"""What a target needs besides. ExecuTorch's bindings need torch, which no board is sent."""
OF_TALKERS = "flatbuffers"
"""What bundles that talk need besides."""

_GLIBC = {"x86_64": ("2_28", "2_27", "2_17"), "aarch64": ("2_28", "2_27", "2_17")}
_LEGACY = "manylinux2014"  # what 2_17 was called
_OWN = (".py", ".json", ".yaml")


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
    inputs = (*sorted(requirements), python, architecture)
    return keep("devices/site", inputs, partial(_install, requirements, python, platforms, progress))


def own_sources() -> Path:
    """A folder with EdgeVLM's own modules, for a `PYTHONPATH`: no weights, no converters, no benchmarks."""
    parts = {"": Path(__file__).parent.parent, "runtimes": _package("edgevlm.runtimes")}
    sources = {
        Path("edgevlm") / name / path.relative_to(root): path
        for name, root in parts.items()
        for path in sorted(root.rglob("*"))
        if path.suffix in _OWN and not {"builtin", "__pycache__"} & set(path.relative_to(root).parts)
    }

    def copy(folder: Path) -> None:
        for target, path in sources.items():
            (folder / target).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / target)

    return keep("devices/edgevlm", [f"{target} {hash_file(path)}" for target, path in sources.items()], copy)


def _install(
    requirements: Sequence[str], python: str, platforms: Sequence[str], progress: Progress, folder: Path
) -> None:
    progress(f"fetching {', '.join(requirements)} for {platforms[-1]}, Python {python}", None)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--no-compile", "--implementation", "cp", "--python-version", python]
    command += [word for each in platforms for word in ("--platform", each)]
    done = subprocess.run(
        [*command, "--target", str(folder), "--upgrade", *requirements], capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["pip failed"]
        raise DeviceError(
            f"cannot fetch {', '.join(requirements)} for {platforms[-1]} and Python {python}: {said[-1]}",
            hint="this needs pip and a network, once; a device that has the packages needs neither",
        )


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise DeviceError(f"{name} is not installed, so it cannot be sent to a device", hint="pip install edgevlm")
    return Path(spec.origin).parent
