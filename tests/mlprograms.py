"""ML Programs for tests, built with coremltools' own builder or taken through its converter."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import torch
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import Function, Program, types
from numpy.typing import NDArray

from edgevlm.converters.coreml import patches

Array = NDArray[Any]


def write_program(
    path: Path,
    inputs: Mapping[str, Array],
    body: Callable[..., Any],
    *,
    opset: ct.target = ct.target.iOS18,
    fp16: bool = False,
    names: Sequence[str] = (),
    edit: Callable[[Any], None] = lambda block: None,
) -> Path:
    """Writes `main(*inputs) = body(*inputs)` as an .mlpackage, its ops left as the builder made them.

    Args:
        inputs: Arrays of the inputs' names, shapes and types, float32 or int32.
        body: Called with the builder's variables; a bool result is returned as int32, a scalar as a vector.
        fp16: Whether float32 inputs reach `body` as fp16; results are float32 either way.
        names: Of the results, instead of `out0`, `out1`, ...
        edit: Called with the protobuf block before the package is written.
    """
    program = Program()
    placeholders = {
        name: mb.placeholder(array.shape, types.fp32 if array.dtype == np.float32 else types.int32)
        for name, array in inputs.items()
    }
    with Function(placeholders, opset_version=opset) as function:
        variables = [function.inputs[name] for name in inputs]
        if fp16:
            variables = [mb.cast(x=each, dtype="fp16") if each.dtype == types.fp32 else each for each in variables]
        results = body(*variables)
        results = results if isinstance(results, list | tuple) else [results]
        function.set_outputs(
            [_returnable(result, names[i] if names else f"out{i}") for i, result in enumerate(results)]
        )
    program.add_function("main", function)
    model = ct.convert(
        program,
        convert_to="mlprogram",
        minimum_deployment_target=opset,
        compute_precision=ct.precision.FLOAT32,
        pass_pipeline=ct.PassPipeline.EMPTY,
        skip_model_load=True,
    )
    return save(model, path, edit)


def save(model: Any, path: Path, edit: Callable[[Any], None] = lambda block: None) -> Path:
    """Writes a converted model, its main block edited first."""
    from coremltools.models.utils import save_spec

    spec = model.get_spec()
    function = spec.mlProgram.functions["main"]
    edit(function.block_specializations[function.opset])
    save_spec(spec, str(path), weights_dir=model.weights_dir)
    return path


def convert(module: torch.nn.Module, example: tuple[torch.Tensor, ...], *, fp16: bool, **options: Any) -> Any:
    """Takes a module through torch.export and coremltools' converter; its result is named `embedding`."""
    exported = torch.export.export(module.eval(), example, strict=False).run_decompositions({})
    with patches.applied():
        return ct.convert(
            exported,
            convert_to="mlprogram",
            minimum_deployment_target=options.pop("target", ct.target.iOS17),
            compute_precision=ct.precision.FLOAT16 if fp16 else ct.precision.FLOAT32,
            outputs=[ct.TensorType(name="embedding", dtype=np.float32)],
            skip_model_load=True,
            **options,
        )


def _returnable(result: Any, name: str) -> Any:
    if result.rank == 0:
        result = mb.expand_dims(x=result, axes=[0])
    if result.dtype in (types.bool, types.uint16):
        return mb.cast(x=result, dtype="int32", name=name)
    return mb.cast(x=result, dtype="fp32" if types.is_float(result.dtype) else "int32", name=name)
