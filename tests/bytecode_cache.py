"""Bytecode of the frameworks, which is kept, and compiled once.

Workers and the processes that tests start import the same. Without bytecode, which `pip install --no-compile` leaves
to the first import, and `PYTHONDONTWRITEBYTECODE`, as images set it, to every one, torch takes 4.9 s of a processor in
place of 1.5, and coremltools 32 in place of 12.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

_TOGETHER = (
    "torch._dynamo, executorch.exir, coremltools",
    "jax, sklearn.utils, scipy.stats, sympy, hypothesis, transformers, nncf, litert_torch",
)
"""What two processes import: one compiles torch while the other does what torch does not need."""


def keep() -> None:
    """Has this process, and those that it starts, write bytecode whatever the environment says."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False


def compile_once() -> None:
    """In a fresh environment, before workers begin that would each compile all of the same, at the same time."""
    torch = importlib.util.find_spec("torch")
    if torch is None or torch.origin is None or Path(importlib.util.cache_from_source(torch.origin)).exists():
        return
    hushed = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    running = [subprocess.Popen([sys.executable, "-c", f"import {names}"], **hushed) for names in _TOGETHER]
    for process in running:
        process.wait()
