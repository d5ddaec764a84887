"""Lets coremltools predict where Apple's framework is missing: the evaluator in the framework's place.

    with stand_in():
        model = coremltools.models.MLModel("model.mlpackage")
        model.predict({"x": x})

Within, what coremltools itself builds on predictions works as well, such as the calibration of activations in
`coremltools.optimize.coreml.linear_quantize_activations`; there coremltools 9.0 forgets all samples but the last
(`record_intermediate_output` overwrites what it should widen), which is mended for as long.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from edgevlm.errors import EdgeVLMError
from edgevlm.runtimes.mlprogram.calibration import activation_ranges
from edgevlm.runtimes.mlprogram.evaluator import MLProgram, Precision, State
from edgevlm.runtimes.mlprogram.opsets import SYSTEMS

_MACOS = (26, 0)
"""The system that coremltools is told it runs on: the one of the newest opset."""


class _Framework:
    """What coremltools calls of its bridge to Core ML (`libcoremlpython._MLModelProxy`), on the evaluator."""

    precision: Precision = "declared"
    watch: Callable[[Path], None] = staticmethod(lambda path: None)

    def __init__(self, path: str, compute_units: str, function: str, hints: object, asset: object) -> None:
        self._path = Path(path)
        try:
            self._program = MLProgram.open(path, function=function or None, precision=self.precision)
        except EdgeVLMError as error:
            if self._path.is_dir():  # a file is a model of the older format, which is none of the evaluator's
                type(self).watch(self._path)
            raise RuntimeError(str(error)) from error  # what coremltools expects of a model that cannot be loaded

    @staticmethod
    def maximum_supported_specification_version() -> int:
        return SYSTEMS[-1].specification_version

    def predict(self, data: Mapping[str, Any], state: State | None = None) -> dict[str, Any]:
        type(self).watch(self._path)
        try:
            return dict(self._program.predict(data, state))
        except EdgeVLMError as error:  # in the framework's own words, by which callers know it
            raise RuntimeError(f"Unable to compute the prediction using ML Program: {error}") from error

    def batchPredict(self, data: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        return [self.predict(each) for each in data]

    def get_compiled_model_path(self) -> str:
        raise RuntimeError("compiled models exist on Apple's systems alone")

    def newState(self) -> State:
        return self._program.make_state()


def _ranges(
    calibration: Any, model: Any, samples: Sequence[Mapping[str, Any]], group_size: int = -1
) -> dict[str, dict[str, float]]:
    """coremltools' `_get_activation_calibration_stats`: ranges over all samples, without outputs, concats widened."""
    program = MLProgram.open(model.package_path)
    outputs = {feature.name for feature in program.outputs}
    ranges = activation_ranges(program, samples).items()
    found = {name: {"rmin": low, "rmax": high} for name, (low, high) in ranges if name not in outputs}
    concats = calibration.ModelDebugger(model)._get_concat_op_info()
    calibration._adjust_concat_surrounding_activation_stats(concats, found)
    return found


@contextlib.contextmanager
def stand_in(*, precision: Precision = "declared", watch: Callable[[Path], None] = lambda path: None) -> Iterator[None]:
    """While it lasts, coremltools opens ML Programs with the evaluator and takes this system for a Mac.

    Args:
        precision: Of the evaluator; see `MLProgram`.
        watch: Called with the package before each prediction, and when it cannot be opened.
    """
    model, utils = (importlib.import_module(f"coremltools.models.{name}") for name in ("model", "utils"))
    optimize = "coremltools.optimize.coreml"
    calibration: Any = importlib.import_module(f"{optimize}.experimental._post_training_quantization")
    caller = importlib.import_module(f"{optimize}._post_training_quantization")
    framework = type("Framework", (_Framework,), {"precision": precision, "watch": staticmethod(watch)})
    replaced: dict[tuple[Any, str], Any] = {
        (model, "_MLModelProxy"): framework,
        (caller, "_get_activation_calibration_stats"): partial(_ranges, calibration),
    }
    for module in (model, utils):
        replaced[module, "_is_macos"] = lambda: True
        replaced[module, "_macos_version"] = lambda: _MACOS
    before = {(module, name): getattr(module, name) for module, name in replaced}
    try:
        for (module, name), value in replaced.items():
            setattr(module, name, value)
        yield
    finally:
        for (module, name), value in before.items():
            setattr(module, name, value)
