"""Predictions with an ML Program, on torch's CPU kernels."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from edgevlm.errors import BundleError, TensorError, UnsupportedError
from edgevlm.interfaces import OpCount
from edgevlm.runtimes.mlprogram.dtypes import BY_NAME
from edgevlm.runtimes.mlprogram.ops import CARRIERS
from edgevlm.runtimes.mlprogram.package import Function, ImageLayout, NamedTensor, count_ops, read_function
from edgevlm.runtimes.mlprogram.plan import fits, make_plan, round_to, shown

Precision = Literal["declared", "fp32"]
_IMAGE_CHANNELS: Mapping[ImageLayout, int] = {"rgb": 3, "bgr": 3, "grey": 1}


@dataclass(frozen=True)
class Feature:
    """An input or output of a program.

    Attributes:
        name: Its name in `predict`.
        dtype: MIL's name of its element type; `fp32` for a picture, whatever the program does with it.
        shape: None where a size may vary.
        image: For an input that the model declares as a picture, the channel order that its graph wants. Here
            it is given as float32 in 0..255, [1, 3, height, width] in R G B always, [1, 1, height, width] if grey.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]
    image: ImageLayout | None = None


class MLProgram:
    """One function of an ML Program, open for prediction.

    Arithmetic inside an op is float32. With precision `declared`, each result that the program declares as fp16
    is then rounded to IEEE 754 binary16: to nearest, ties to even, beyond 65504 to infinity, subnormals kept.
    That is storage in fp16 with float32 accumulation; hardware that accumulates in fp16 or fuses ops differs.
    With `fp32` nothing but the weights is fp16, which separates faults of structure from those of precision.

    Attributes:
        inputs, outputs: What `predict` takes and returns, in the program's order.
    """

    inputs: tuple[Feature, ...]
    outputs: tuple[Feature, ...]

    def __init__(self, function: Function, *, precision: Precision = "declared", threads: int | None = None) -> None:
        if precision not in ("declared", "fp32"):
            raise UnsupportedError(f"precision: expected 'declared' or 'fp32', got {precision!r}")
        self._function = function
        self._rounds = precision == "declared"
        self._threads = threads
        self.inputs = tuple(_input(tensor, function.images.get(tensor.name)) for tensor in function.inputs)
        self.outputs = _outputs(function)
        with self._torch():
            self._plan = make_plan(function, rounds=self._rounds)
            self._rehearse()

    @classmethod
    def open(
        cls, path: Path, *, function: str | None = None, precision: Precision = "declared", threads: int | None = None
    ) -> MLProgram:
        """Reads, checks and plans a package, and runs it once on ones where its shapes are fixed.

        Args:
            path: The `.mlpackage` folder. Its fp32 weights stay mapped from the file; fp16 ones are held as
                float32, twice their size.
            function: Name of the function; None stands for the default one.
            precision: `declared` rounds each result to its declared type, `fp32` does not round.
            threads: CPU threads while this program runs; None leaves torch's setting.

        Raises:
            BundleError: the package is damaged, is no ML Program, or contradicts itself.
            UnsupportedError: it has ops, arguments or types that are not known here; all unknown ops are named.
            MissingDependency: coremltools is not installed.
        """
        return cls(read_function(path, function), precision=precision, threads=threads)

    def op_counts(self) -> tuple[OpCount, ...]:
        """How many ops of each kind and result type there are, constants left out."""
        return count_ops(self._function)

    def predict(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Runs the function once.

        Args:
            inputs: An array for each of `self.inputs`: floating point for floating point and integer for
                integer, of any width.

        Returns:
            An array for each of `self.outputs`, of its declared type; with precision `fp32`, float32 for fp16.

        Raises:
            TensorError: a name, kind of type or shape is wrong, or an index computed from the inputs is out
                of range.
            BundleError: an op's result is not what the program declares.
        """
        if set(inputs) != {feature.name for feature in self.inputs}:
            expected = ", ".join(feature.name for feature in self.inputs)
            raise TensorError(f"expected the inputs {expected}, got {', '.join(inputs) or 'none'}")
        with self._torch():
            results = self._plan.run(
                {
                    feature.name: self._accept(feature, declared, inputs[feature.name])
                    for feature, declared in zip(self.inputs, self._function.inputs, strict=True)
                },
                rounds=self._rounds,
            )
            return {feature.name: self._export(results[feature.name], feature) for feature in self.outputs}

    def _accept(self, feature: Feature, declared: NamedTensor, array: NDArray[Any]) -> torch.Tensor:
        is_float = BY_NAME[feature.dtype].is_float
        if array.dtype.kind not in ("f" if is_float else "iu"):
            raise TensorError(f"input {feature.name!r}: expected {feature.dtype}, got {array.dtype}")
        if not fits(array.shape, feature.shape):
            raise TensorError(f"input {feature.name!r}: expected {shown(feature.shape)}, got {shown(array.shape)}")
        tensor = torch.from_numpy(np.array(array)).to(CARRIERS[declared.type.dtype])
        if feature.image == "bgr":
            tensor = tensor.flip(1)
        return round_to(tensor, declared.type.dtype, rounds=self._rounds)

    def _export(self, tensor: Any, feature: Feature) -> NDArray[Any]:
        dtype = feature.dtype if self._rounds or feature.dtype != "fp16" else "fp32"
        return np.array(tensor.numpy(), dtype=BY_NAME[dtype].storage)

    def _rehearse(self) -> None:
        """Runs once on ones, so that a program that contradicts itself is refused at open.

        Ones rather than zeros, because integers may be sizes and divisors.
        """
        if any(None in feature.shape for feature in self.inputs):
            return
        ones = {
            tensor.name: torch.ones([size or 0 for size in tensor.type.shape], dtype=CARRIERS[tensor.type.dtype])
            for tensor in self._function.inputs
        }
        with contextlib.suppress(TensorError):  # an index that only these inputs put out of range
            self._plan.run(ones, rounds=self._rounds)

    @contextlib.contextmanager
    def _torch(self) -> Iterator[None]:
        """Without gradients, on the asked number of threads: torch has one setting for the whole process."""
        before = torch.get_num_threads()
        if self._threads is not None:
            torch.set_num_threads(self._threads)
        try:
            with torch.inference_mode():
                yield
        finally:
            if self._threads is not None:
                torch.set_num_threads(before)


def _input(tensor: NamedTensor, image: ImageLayout | None) -> Feature:
    if tensor.type.dtype not in CARRIERS:
        raise UnsupportedError(f"input {tensor.name!r}: of type {tensor.type.dtype}, which the evaluator cannot hold")
    if image is None:
        return Feature(tensor.name, tensor.type.dtype, tensor.type.shape)
    if len(tensor.type.shape) != 4 or tensor.type.shape[1] != _IMAGE_CHANNELS[image]:
        raise BundleError(f"input {tensor.name!r}: declared as a {image} picture and as {shown(tensor.type.shape)}")
    return Feature(tensor.name, "fp32", tensor.type.shape, image)


def _outputs(function: Function) -> tuple[Feature, ...]:
    types = {tensor.name: tensor.type for tensor in function.inputs}
    types |= {tensor.name: tensor.type for operation in function.operations for tensor in operation.outputs}
    for name in function.outputs:
        if name not in types:
            raise BundleError(f"function {function.name!r} returns {name!r}, which nothing computes")
    return tuple(Feature(name, types[name].dtype, types[name].shape) for name in function.outputs)
