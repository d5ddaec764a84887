"""The program that runs `.pte` files without torch, `runner.cpp`: built for arm64 Linux from ExecuTorch's own wheel.

The folder is whole: copied to a board with glibc, it runs there.
"""

from __future__ import annotations

import shutil
from functools import partial
from importlib.resources import files
from pathlib import Path

from edgevlm.devices import site
from edgevlm.emulation import tools
from edgevlm.emulation.parts import Part
from edgevlm.process.progress import Progress, silent
from edgevlm.process.store import keep

PROGRAM = "runner"
_SOURCE = "runner.cpp"
_LIBRARIES = tuple(
    f"libexecutorch{part}.so"
    for part in ("", "_threadpool", "_backend_xnnpack", "_kernels_optimized", "_kernels_quantized")
)
# EXECUTORCH_COMPILE_DEFINITIONS of lib/cmake/executorch/executorch-config.cmake in the wheel: as its libraries are
# compiled, so that classes are of one size on both sides.
_DEFINITIONS = ("C10_USING_CUSTOM_GENERATED_MACROS", "ET_EVENT_TRACER_ENABLED")


def build(python: str, progress: Progress = silent) -> Part:
    """Fetches the wheel and builds the runner, once.

    Args:
        python: Version of CPython that the wheel is for, which says nothing about the runner; such as `3.11`.
        progress: Told how far it is.

    Raises:
        DeviceError: there is no cross compiler or no network.
    """
    compiler = tools.find(f"{tools.CROSS}g++")
    requirement = site.pinned("executorch")
    wheel = site.site_packages((requirement,), python=python, architecture="aarch64", progress=progress)
    sources = [files("edgevlm.emulation").joinpath(name).read_text(encoding="utf-8") for name in (_SOURCE, "runner.py")]
    version = tools.run([compiler, "-dumpfullversion"], "ask the cross compiler for its version").strip()
    inputs = (requirement, str(wheel.name), version, *sources)
    made = keep("devices/runner", inputs, partial(_make, compiler, wheel / "executorch", progress))
    return Part("ExecuTorch runner", made, f"{requirement.replace('==', ' ')}, gcc {version}")


def _make(compiler: Path, package: Path, progress: Progress, folder: Path) -> None:
    progress("building a runner for .pte files", None)
    for name in _LIBRARIES:
        shutil.copyfile(package / "lib" / name, folder / name)
    source = folder.parent / _SOURCE
    source.write_text(files("edgevlm.emulation").joinpath(_SOURCE).read_text(encoding="utf-8"), encoding="utf-8")
    include = package / "include"
    command: list[str | Path] = [compiler, "-O2", "-std=c++17", *(f"-D{each}" for each in _DEFINITIONS)]
    command += ["-I", include, "-I", include / "executorch" / "runtime" / "core" / "portable_type" / "c10"]
    command += ["-o", folder / PROGRAM, source]
    # Libraries of kernels register themselves when they are loaded: the program calls nothing of them.
    command += ["-Wl,--no-as-needed", *(folder / name for name in _LIBRARIES), "-Wl,-rpath,$ORIGIN"]
    tools.run(command, "build the runner")
