"""The program that runs `.pte` files without torch, `runner.cpp`: built for arm64 Linux from ExecuTorch's own wheel.

The folder is whole: copied to a board with glibc, it runs there.
"""

from __future__ import annotations

import importlib.util
import shutil
from functools import partial
from importlib.resources import files
from pathlib import Path

from edgevlm.devices import site
from edgevlm.emulation import shim, tools
from edgevlm.emulation.parts import Part
from edgevlm.errors import DeviceError
from edgevlm.process.progress import Progress, silent
from edgevlm.process.store import keep

PROGRAM = "runner"
_SOURCES = ("runner.cpp", "shim.c", "packing.c")
_SHIM, _EMPTY = "libc10.so", ("libtorch.so", "libtorch_cpu.so", "libtorch_python.so")
_SYSTEM = ("ld-linux-aarch64.so.1", "libstdc++.so.6", "libc.so.6", "libm.so.6", "libgcc_s.so.1")
_LIBRARIES = "executorch/extension/pybindings/_portable_lib.*.so"


def build(python: str, progress: Progress = silent) -> Part:
    """Fetches the wheel and builds the runner, once.

    Args:
        python: Version of CPython that the wheel is for, which says nothing about the runner; such as `3.11`.
        progress: Told how far it is.

    Raises:
        DeviceError: there is no cross compiler, no network, or no torch here, whose headers describe the shim.
    """
    compiler = tools.find(f"{tools.CROSS}g++")
    tools.find(f"{tools.CROSS}gcc")
    tools.find(f"{tools.CROSS}nm")
    headers = _torch_headers()
    requirement = site.pinned("executorch")
    wheel = site.site_packages((requirement,), python=python, architecture="aarch64", progress=progress)
    sources = [
        files("edgevlm.emulation").joinpath(name).read_text(encoding="utf-8")
        for name in (*_SOURCES, "runner.py", "shim.py")
    ]
    cpuinfo = (headers / "cpuinfo.h").read_text(encoding="utf-8")
    version = tools.run([compiler, "-dumpfullversion"], "ask the cross compiler for its version").strip()
    inputs = (requirement, str(wheel.name), version, cpuinfo, *sources)
    made = keep("devices/runner", inputs, partial(_make, compiler, wheel, headers, progress))
    return Part("ExecuTorch runner", made, f"{requirement.replace('==', ' ')}, gcc {version}")


def _torch_headers() -> Path:
    spec = importlib.util.find_spec("torch")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(folder) / "include" / "cpuinfo.h").is_file():
            return Path(folder) / "include"
    raise DeviceError(
        "building a runner for .pte files needs torch's header cpuinfo.h, and torch is not installed here",
        hint="pip install 'edgevlm[executorch]'",
    )


def _make(compiler: Path, wheel: Path, headers: Path, progress: Progress, folder: Path) -> None:
    progress("building a runner for .pte files", None)
    (library,) = wheel.glob(_LIBRARIES)
    shutil.copyfile(library, folder / library.name)
    work = folder.parent / "build"
    work.mkdir()
    for name in _SOURCES:
        text = files("edgevlm.emulation").joinpath(name).read_text(encoding="utf-8")
        (work / name).write_text(text, encoding="utf-8")
    _build_shim(compiler, folder / library.name, headers, work, folder)
    include = wheel / "executorch" / "include"
    c10 = include / "executorch" / "runtime" / "core" / "portable_type" / "c10"
    options: tuple[str | Path, ...] = (
        "-O2",
        "-std=c++17",
        "-DC10_USING_CUSTOM_GENERATED_MACROS",
        "-I",
        include,
        "-I",
        c10,
    )
    # All libraries are the program's own, since only those are looked for beside it.
    libraries: tuple[str | Path, ...] = (
        "-Wl,--no-as-needed",
        "-lstdc++",
        *(folder / name for name in (library.name, _SHIM, *_EMPTY)),
    )
    linking = ("-Wl,-rpath,$ORIGIN", "-Wl,--allow-shlib-undefined", f"-Wl,-rpath-link,{folder}")
    command: list[str | Path] = [compiler, *options, "-o", folder / PROGRAM, work / "runner.cpp"]
    tools.run([*command, *libraries, *linking], "build the runner")


def _build_shim(compiler: Path, library: Path, headers: Path, work: Path, folder: Path) -> None:
    """What takes the place of torch's libraries: one with all that is needed of them, and empty ones of their names."""
    gcc = tools.find(f"{tools.CROSS}gcc")
    options = ("-O2", "-fPIC", "-shared", "-fno-builtin", "-w", "-I", headers)
    own: tuple[str | Path, ...] = (work / "shim.c", work / "packing.c", "-lm")
    tools.run([gcc, *options, "-o", work / "own.so", *own], "build the runner's shim")
    (work / "missing.c").write_text(shim.source(_missing(compiler, library, work / "own.so")), encoding="utf-8")
    (work / "empty.c").write_text("", encoding="utf-8")
    sources: dict[str, tuple[str | Path, ...]] = {_SHIM: (work / "missing.c", *own)}
    sources |= dict.fromkeys(_EMPTY, (work / "empty.c",))
    for name, words in sources.items():
        tools.run([gcc, *options, f"-Wl,-soname,{name}", "-o", folder / name, *words], f"build the runner's {name}")


def _missing(compiler: Path, library: Path, own: Path) -> set[str]:
    """What a library needs, and neither the system nor we have."""
    said = [tools.run([compiler, f"-print-file-name={name}"], f"find {name} for arm64") for name in _SYSTEM]
    there = (_symbols(path, "--defined-only") for path in (own, *(Path(each.strip()) for each in said)))
    return _symbols(library, "--undefined-only", " U ").difference(*there)


def _symbols(library: Path, which: str, kind: str = " ") -> set[str]:
    nm = tools.find(f"{tools.CROSS}nm")
    lines = tools.run([nm, "--dynamic", which, library], f"read {library.name}").splitlines()
    return {line.split()[-1].split("@")[0] for line in lines if kind in line}
