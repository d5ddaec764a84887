"""Runs a Core ML ML Program numerically on any machine that has torch.

    from edgevlm.runtimes.mlprogram import MLProgram

    program = MLProgram.open("model.mlpackage")
    program.predict({"image": picture})  # as coremltools' MLModel.predict: names, arrays, PIL images, states

Apple's runtime exists on Apple's systems only, so elsewhere a converted model could be shipped but not checked.
This package reads an `.mlpackage` as the format's specification describes it and evaluates the program op by
op. What it shows is that the *program* computes what the model computed; how a given device rounds, fuses or
reorders those ops is not modelled, and no figure from here may be called a device's.

    dtypes, weights     element types, and weight.bin: one record a blob
    program             functions, blocks and ops as plain values
    package             Manifest.json and the spec, read into those; needs coremltools' generated protobuf classes
    ops/                one function an op, by kind of op; needs torch
    values, steps, plan   what ops compute with; one call after the other; what is settled before a prediction
    memory              what a program's results may take
    features            inputs and outputs, and how arrays and pictures become them
    evaluator           opening and predicting
    audit, calibration, tracing   what results come to: beside float16, over samples, one by one
    stand_in            coremltools' own `predict()` on the evaluator
    opsets, coverage    from which system on each op can be written, and what shows that it is computed
    deployment, facts   advice on a package before it meets a device, and its sources

Format: https://apple.github.io/coremltools/mlmodel/Format/MIL.html
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgevlm.runtimes.mlprogram.evaluator import MLProgram, State

__all__ = ["MLProgram", "State"]

_MODULES = {"MLProgram": "evaluator", "State": "evaluator"}


def __getattr__(name: str) -> Any:
    """Imports torch only when a program is to run: reading a package does not need it."""
    if name in _MODULES:
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
