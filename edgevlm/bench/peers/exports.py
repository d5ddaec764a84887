"""Makes other toolchains' files of a model, in a process of their own: `python -m edgevlm.bench.peers.exports`.

Each is made by its toolchain's own documented call from the very checkpoint, once, and kept among what is fetched and
built for devices. ONNX Runtime quantises dynamically what torch exports; OpenVINO gets NNCF's static quantisation,
calibrated on rendered scenes: its speed is that of any data, and its answers on photographs would want photographs.

It speaks `edgevlm.onboard`'s protocol. The process is its own because a process with OpenVINO's threads in it cannot
start another.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from edgevlm.bundle.bundle import Bundle, hash_file
from edgevlm.bundle.recipe import BUILTIN, ParityLimits
from edgevlm.errors import CheckFailed, EdgeVLMError, InputError, MissingDependency, named_failures
from edgevlm.graphs.capture import plain_attention
from edgevlm.graphs.program import Program
from edgevlm.inputs.rows import inputs_of
from edgevlm.onboard.engines import without_telemetry
from edgevlm.onboard.protocol import Say, answer, telling
from edgevlm.parity import comparison
from edgevlm.process import interrupts
from edgevlm.process.progress import Progress
from edgevlm.process.quiet import quiet
from edgevlm.process.store import keep

if TYPE_CHECKING:
    from edgevlm.models.model import Model

Kind = Literal["onnx", "openvino"]
FILES: Mapping[Kind, str] = {"onnx": "model.onnx", "openvino": "model.xml"}
FACTS = "facts.json"
CALIBRATION = "scenes:train:500:3"
ON_CPU = "CPUExecutionProvider"
_PACKAGES: Mapping[Kind, tuple[str, ...]] = {
    "onnx": ("onnx", "onnxruntime", "onnxscript"),
    "openvino": ("openvino", "nncf"),
}


def work(asked: Mapping[str, Any], say: Say) -> None:
    """Makes files of the model that a bundle was made of.

    Args:
        asked: `bundle`, a path; `components`; `kinds`.
        say: Told the progress, and the result: for each file its component, kind and recipe, and its `folder`, or the
            `message` and `hint` of what went wrong.

    Raises:
        EdgeVLMError: the model is not found, or no longer the same.
    """
    from edgevlm.blame.bundles import source_model
    from edgevlm.models.model import Model

    bundle = Bundle.open(asked["bundle"])
    try:
        model = source_model(bundle)
    except InputError as error:
        there = f"run this in the folder in which {bundle.manifest.source.name} is the checkpoint that was converted"
        raise InputError(error.message, hint=there) from error
    assert isinstance(model, Model)  # others have no peers
    made = []
    for component in asked["components"]:
        for kind in asked["kinds"]:
            for recipe in ("fp32", "int8"):
                one = {"component": component, "kind": kind, "recipe": recipe, "folder": None}
                try:
                    with named_failures(f"{kind} {recipe} of {component}"):
                        one["folder"] = str(make(model, component, kind, recipe == "int8", telling(say)))
                except EdgeVLMError as error:
                    one |= {"message": error.message, "hint": error.hint}
                made.append(one)
    say({"result": {"made": made}})


def make(model: Model, component: str, kind: Kind, quantised: bool, progress: Progress) -> Path:
    """A folder with a component in a peer's format, and what it keeps of the float model's answers; made once.

    Raises:
        MissingDependency: the peer's packages are not installed.
    """
    for package in _PACKAGES[kind]:
        if find_spec(package) is None:
            raise MissingDependency(package, extra="peers")
    versions = [f"{each} {version(each)}" for each in _PACKAGES[kind]]
    name = f"{kind} {'int8' if quantised else 'fp32'} of {component}"
    bits = "7 bits" if kind == "onnx" and quantised and _sums_overflow() else "8 bits"
    inputs = (model.source.revision, component, kind, str(quantised), bits, *versions)

    def write(folder: Path) -> None:
        progress(f"making {name}", None)
        file = folder / FILES[kind]
        with quiet():
            if kind == "onnx":
                _write_onnx(model.programs[component], file, quantised)
            else:
                _write_openvino(model, component, file, quantised)
            size = sum(each.stat().st_size for each in folder.iterdir())
            facts = {"sha256": hash_file(file), "size_bytes": size, "accuracy": _accuracy(model, component, kind, file)}
        (folder / FACTS).write_text(json.dumps(facts), encoding="utf-8")

    return keep("devices/peer", inputs, write)


def _write_onnx(program: Program, path: Path, quantised: bool) -> None:
    import onnx
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with plain_attention():
        exported: Any = torch.onnx.export(program.module, program.example, dynamo=True)
    proto = exported.model_proto
    del proto.graph.value_info[:]  # shapes as before the exporter's folding, which the quantiser refuses
    if not quantised:
        onnx.save(proto, path)
        return
    buffers = {name for name, _ in program.module.named_buffers()}  # a mask is no layer's weight
    masked = [node.name for node in proto.graph.node if node.op_type == "MatMul" and buffers.intersection(node.input)]
    with interrupts.temporary_folder() as scratch:
        onnx.save(proto, scratch / "fp32.onnx")
        quantize_dynamic(
            scratch / "fp32.onnx",
            path,
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=_sums_overflow(),
            nodes_to_exclude=masked,
        )


def _sums_overflow() -> bool:
    """Whether this computer adds products of bytes in 16 bits, as x86 does without VNNI.

    There ONNX Runtime's documentation has weights of 7 bits (`reduce_range`), without which answers are lost:
    https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
    """
    if platform.machine() not in ("x86_64", "AMD64"):
        return False
    try:
        flags = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return True
    return not any(each in flags for each in ("avx512_vnni", "avx_vnni"))


def _write_openvino(model: Model, component: str, path: Path, quantised: bool) -> None:
    import openvino

    program = model.programs[component]
    with plain_attention():
        captured = openvino.convert_model(program.module, example_input=program.example[0])
    captured.reshape({0: list(program.example[0].shape)})
    if quantised:
        import nncf  # type: ignore[import-untyped]

        dataset = nncf.Dataset(_calibration(model, component))
        captured = nncf.quantize(captured, dataset, model_type=nncf.ModelType.TRANSFORMER)
    openvino.save_model(captured, path, compress_to_fp16=False)


def _calibration(model: Model, component: str) -> list[Any]:
    from edgevlm.compression.calibration import CalibrationData, CalibrationSource, calibration_inputs

    data = CalibrationData(CalibrationSource(CALIBRATION), BUILTIN["int8-static"].calibration)
    only = {component: model.programs[component]}
    rows = data.rows(only, model, lambda *_: None)
    return [each.numpy() for each in calibration_inputs(only, rows)[component]]


def _accuracy(model: Model, component: str, kind: Kind, file: Path) -> float | None:
    """The centred cosine of its embeddings with the float model's, on the parity samples; see `edgevlm.parity`.

    Raises:
        CheckFailed: they are not finite.
    """
    from edgevlm.conversion.prepared import Prepared
    from edgevlm.onboard.engines import OnnxEngine, OpenVINOEngine

    prepared = Prepared(model, None, wanted=None, image_only=False)
    (tensor,), (output,) = model.programs[component].spec.inputs, model.programs[component].spec.outputs
    engine = OnnxEngine(file, ON_CPU, 1, tensor) if kind == "onnx" else OpenVINOEngine(file, 1, tensor)
    engine.load()
    answers = np.concatenate([np.array(engine.answer(row[None])) for row in prepared.samples[tensor.name]])
    if not np.isfinite(answers).all():
        raise CheckFailed(f"{kind}: its answers are not finite")
    wanted = prepared.original.run(component, inputs_of(model.programs[component].spec, prepared.samples))
    checks = comparison.compare({component: wanted}, {component: {output.name: answers}}, ParityLimits())
    return next((check.value for check in checks if check.measure == "centred_cosine"), None)


if __name__ == "__main__":
    without_telemetry()
    answer(work, orphaned=lambda: os._exit(3))
    sys.stderr.flush()
    os._exit(0)
