"""Ranges of what a program computes, over samples: what static quantisation of activations needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch

from edgevlm.runtimes.mlprogram.evaluator import MLProgram
from edgevlm.runtimes.mlprogram.program import Operation
from edgevlm.runtimes.mlprogram.values import Value


def activation_ranges(program: MLProgram, samples: Iterable[Mapping[str, Any]]) -> dict[str, tuple[float, float]]:
    """The least and the greatest value of every input and of every op's numeric result, over all samples.

    Args:
        program: Open; of a stateful one each sample starts anew.
        samples: Inputs, as `predict` takes them.

    Raises:
        TensorError, BundleError: see `MLProgram.predict`.
    """
    ranges: dict[str, tuple[float, float]] = {}

    def widen(name: str, low: float, high: float) -> None:
        least, greatest = ranges.get(name, (low, high))
        ranges[name] = (min(least, low), max(greatest, high))

    def note(operation: Operation, results: Mapping[str, Value]) -> None:
        for name, value in results.items():
            if isinstance(value, torch.Tensor) and value.dtype != torch.bool and value.numel():
                widen(name, float(value.amin()), float(value.amax()))

    for sample in samples:
        for name, given in sample.items():
            array = np.asarray(given)
            widen(name, float(array.min()), float(array.max()))
        program.predict(sample, observe=note)
    return ranges
