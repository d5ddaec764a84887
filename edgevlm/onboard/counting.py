"""The job `count`: runs one component between marks, for an emulator that counts what is executed between them.

    {"job": "count", "bundle": PATH, "component": NAME, "inputs": {NAME: PATH.npy}, "runs": N}

A mark is a system call that changes nothing: it asks for the priority of a process whose number is higher than any
process has. The labels are `BEFORE`, `LOADED`, and then one after each run, the first one included. The result has the
last run's outputs, `{"outputs": {NAME: [...]}}`.

Of a bundle that talks the component is a part of an answer, which has no inputs; between `LOADED` and `PREPARED` it
comes to where the part begins. The result has the part's answer alone, and the positions that one run takes.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from edgevlm.bundle.bundle import Bundle
from edgevlm.process.progress import Progress
from edgevlm.targets import registry

MARK = 0x51AE0000
BEFORE, LOADED, FIRST_RUN = 0, 1, 2
PREPARED = 0xFFFF
_LIBRARIES = {"tflite": "ai_edge_litert.interpreter"}


def count(job: Mapping[str, Any], progress: Progress) -> Mapping[str, Any]:
    """Opens a bundle and runs a component, with one thread and without Python's collector."""
    bundle = Bundle.open(job["bundle"])
    if bundle.manifest.dialogue is not None:
        return _count_part(bundle, job["component"], job["runs"])
    runtime = registry.runtime(bundle.manifest.target)
    inputs = {name: np.load(path) for name, path in job["inputs"].items()}
    with contextlib.suppress(ImportError, KeyError):  # the runtime says what is missing, and what to do
        importlib.import_module(_LIBRARIES[bundle.manifest.target])
    gc.collect()
    gc.disable()
    _mark(BEFORE)
    with runtime.open(bundle, threads=1) as session:
        _mark(LOADED)
        for run in range(1 + job["runs"]):
            outputs = session.run(job["component"], inputs)
            _mark(FIRST_RUN + run)
    return {"outputs": {name: [float(value) for value in output.ravel()] for name, output in outputs.items()}}


def _count_part(bundle: Bundle, part: str, runs: int) -> Mapping[str, Any]:
    from edgevlm.onboard.engines import AnswerEngine  # which takes an emulated core seconds to import

    engine = AnswerEngine(bundle, part, 1)
    gc.collect()
    gc.disable()
    _mark(BEFORE)
    engine.load()
    _mark(LOADED)
    engine.prepare()
    _mark(PREPARED)
    for run in range(1 + runs):
        answer = engine.run()
        _mark(FIRST_RUN + run)
    return {"outputs": {part: [float(value) for value in answer.ravel()]}, "positions": engine.positions}


def _mark(label: int) -> None:
    with contextlib.suppress(OSError):  # there is no such process
        os.getpriority(os.PRIO_PROCESS, MARK | label)
