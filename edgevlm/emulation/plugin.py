"""The plugin of QEMU's that counts, `counts.c`: how it is built, named on a command line, and read."""

from __future__ import annotations

import json
from dataclasses import fields
from functools import partial
from importlib.resources import files
from pathlib import Path

from edgevlm.emulation import tools
from edgevlm.emulation.parts import Part
from edgevlm.errors import DeviceError
from edgevlm.onboard.figures import Counts
from edgevlm.process.progress import Progress, silent
from edgevlm.process.store import keep

_SOURCE = "counts.c"
_LIBRARY = "counts.so"
_KINDS = tuple(each.name for each in fields(Counts))


def build(progress: Progress = silent) -> Part:
    """Compiles the plugin for this computer, once.

    Raises:
        DeviceError: there is no compiler.
    """
    compiler = tools.find("gcc")
    version = tools.run([compiler, "-dumpfullversion"], "ask gcc for its version").strip()
    source = files("edgevlm.emulation").joinpath(_SOURCE).read_text(encoding="utf-8")
    made = keep("devices/counts", (source, version), partial(_compile, compiler, source, progress))
    return Part("counting plugin", made, f"gcc {version}")


def arguments(plugin: Part, out: Path) -> tuple[str, ...]:
    """QEMU's arguments that load it, to write the counts at each mark into a file."""
    words = (str(plugin.path / _LIBRARY), f"out={out}")
    return ("-plugin", ",".join(word.replace(",", ",,") for word in words))


def read(out: Path) -> dict[int, Counts]:
    """All that was counted before each mark, by the mark's label, in the order in which they came.

    Raises:
        DeviceError: the file is not there: QEMU did not load the plugin.
    """
    try:
        lines = out.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DeviceError(f"the emulator wrote no counts: {error}") from error
    marks = [json.loads(line) for line in lines]
    return {each["mark"]: Counts(**{kind: each[kind] for kind in _KINDS}) for each in marks}


def between(before: Counts, after: Counts) -> Counts:
    """What was counted from one mark to another."""
    return Counts(**{kind: getattr(after, kind) - getattr(before, kind) for kind in _KINDS})


def _compile(compiler: Path, source: str, progress: Progress, folder: Path) -> None:
    progress("compiling the counting plugin", None)
    (folder / _SOURCE).write_text(source, encoding="utf-8")
    options = ("-O2", "-fPIC", "-shared", "-fvisibility=hidden", "-o", folder / _LIBRARY)
    tools.run([compiler, *options, folder / _SOURCE], "compile the counting plugin", hint="sudo apt-get install gcc")
