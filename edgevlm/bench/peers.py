"""Other toolchains' files of the model that a bundle was made of: what a user would get without EdgeVLM.

Each is made by its own documented call from the very checkpoint, once, and kept among what is fetched and built for
devices. ONNX Runtime quantises dynamically what torch exports; OpenVINO gets NNCF's static quantisation, calibrated on
rendered scenes: its speed is that of any data, and its answers on photographs would want photographs.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgevlm import interrupts, parity, schema
from edgevlm.bench.results import Artefact
from edgevlm.bundle import Bundle, hash_file
from edgevlm.capture import plain_attention, quiet
from edgevlm.devices import site
from edgevlm.devices.machine import Machine
from edgevlm.errors import MissingDependency
from edgevlm.interfaces import Program, Progress
from edgevlm.recipe import BUILTIN, ParityLimits
from edgevlm.spec import TensorSpec

if TYPE_CHECKING:
    from edgevlm.models.model import Model

CALIBRATION = "scenes:train:500:3"
ON_CPU = "CPUExecutionProvider"
_ACCELERATED = {"TensorrtExecutionProvider": "TensorRT", "CUDAExecutionProvider": "CUDA"}
_EXPORTS = ("onnx", "onnxruntime", "onnxscript")


@dataclass(frozen=True)
class PeerSubject:
    """A component in another toolchain's file; see `edgevlm.bench.artefacts.Subject`.

    Attributes:
        folder: Holds the file, and what belongs to it.
        job_name, key: The job on the device, and what it calls the file: `onnx`, `openvino`.
        provider: ONNX Runtime's.
    """

    artefact: Artefact
    component: str
    on_cpu: bool
    folder: Path
    file: str
    job_name: str
    key: str
    provider: str
    tensor: TensorSpec
    bundle: str

    def job(self, machine: Machine, progress: Progress) -> Mapping[str, Any]:
        """Sends the file."""
        there = f"{machine.put(self.folder, progress)}/{self.file}"
        return {"job": self.job_name, self.key: there, "provider": self.provider, "input": schema.write(self.tensor)}

    def command(self, device: str) -> str:
        """`edgevlm bench ... --peers`."""
        return f"edgevlm bench {self.bundle} --device {device} --component {self.component} --peers"


def offers(machine: Machine) -> Mapping[str, Any]:
    """What a machine says that it could run; see the job `providers`."""
    said = list(machine.ask({"job": "providers"}, timeout_seconds=60.0))
    found: Mapping[str, Any] = said[-1]["result"]
    return found


def make_peers(
    model: Model, bundle: Bundle, components: Sequence[str], offered: Mapping[str, Any], progress: Progress
) -> Iterator[PeerSubject]:
    """The peers that a device can run.

    Args:
        model: In float32.
        bundle: One that was made of it.
        components: Which of them.
        offered: What the job `providers` says of the device.
        progress: Told how far it is.

    Raises:
        MissingDependency: what exports the model is not installed here.
    """
    for component in components:
        program = model.programs[component]
        for kind, recipe in (("onnx", "fp32"), ("onnx", "int8"), ("openvino", "fp32"), ("openvino", "int8")):
            if kind == "onnx" and (offered["onnxruntime"] or offered["trtexec"]):
                made = _made(model, component, program, kind, recipe, progress)
                yield from _onnx_subjects(made, program, component, recipe, bundle, model, offered)
            elif kind == "openvino" and offered["openvino"]:
                made = _made(model, component, program, kind, recipe, progress)
                artefact = _artefact(model, made, "openvino", recipe, f"OpenVINO {recipe}")
                tensor = program.spec.inputs[0]
                yield PeerSubject(
                    artefact, component, True, made, "model.xml", "time", "openvino", "", tensor, str(bundle.path)
                )


def _onnx_subjects(
    made: Path,
    program: Program,
    component: str,
    recipe: str,
    bundle: Bundle,
    model: Model,
    offered: Mapping[str, Any],
) -> Iterator[PeerSubject]:
    tensor, path = program.spec.inputs[0], str(bundle.path)
    if ON_CPU in offered["onnxruntime"]:
        artefact = _artefact(model, made, "onnxruntime", recipe, f"ONNX Runtime {recipe}")
        yield PeerSubject(artefact, component, True, made, "model.onnx", "time", "onnx", ON_CPU, tensor, path)
    if recipe != "fp32":
        return  # dynamic quantisation is the CPU's; TensorRT takes float16 of its own accord
    for provider, name in _ACCELERATED.items():
        if provider in offered["onnxruntime"]:
            artefact = _artefact(model, made, "onnxruntime", f"fp32 ({name})", f"ONNX Runtime on {name}")
            yield PeerSubject(artefact, component, False, made, "model.onnx", "time", "onnx", provider, tensor, path)
    if offered["trtexec"]:
        artefact = _artefact(model, made, "tensorrt", "fp16", "TensorRT fp16")
        yield PeerSubject(artefact, component, False, made, "model.onnx", "tensorrt", "onnx", "", tensor, path)


def _artefact(model: Model, made: Path, target: str, recipe: str, name: str) -> Artefact:
    facts = json.loads((made / "facts.json").read_text(encoding="utf-8"))
    exact = recipe in ("fp32", "int8")
    return Artefact(
        name=f"{model.source.name}, {name}",
        model=model.source.name,
        target=target,
        recipe=recipe,
        sha256=facts["sha256"],
        size_bytes=facts["size_bytes"],
        accuracy=facts["accuracy"] if exact else None,
    )


def _made(model: Model, component: str, program: Program, kind: str, recipe: str, progress: Progress) -> Path:
    """A folder with a file, and what it keeps of the float model's answers; made once."""
    packages = _EXPORTS if kind == "onnx" else ("openvino", "nncf")
    for package in packages:
        if find_spec(package) is None:
            raise MissingDependency(package, extra="peers")
    inputs = [model.source.revision, component, kind, recipe, *(f"{each} {version(each)}" for each in packages)]
    kept = site.folder() / f"peer-{hashlib.sha256(json.dumps(inputs).encode()).hexdigest()[:16]}"
    if (kept / "facts.json").is_file():
        return kept
    progress(f"making {kind} {recipe} of {component}", None)
    site.folder().mkdir(parents=True, exist_ok=True)
    with interrupts.temporary_folder(site.folder(), ".peer-") as stage, quiet():
        folder = stage / kept.name
        folder.mkdir()
        if kind == "onnx":
            file = _write_onnx(program, folder, quantised=recipe == "int8")
        else:
            file = _write_openvino(model, component, program, folder, quantised=recipe == "int8")
        facts = {
            "sha256": hash_file(file),
            "size_bytes": sum(each.stat().st_size for each in folder.iterdir()),
            "accuracy": _accuracy(model, component, program, kind, file),
        }
        (folder / "facts.json").write_text(json.dumps(facts), encoding="utf-8")
        with interrupts.put_off(), contextlib.suppress(OSError):  # another process may have been quicker
            folder.rename(kept)
    return kept


def _write_onnx(program: Program, folder: Path, *, quantised: bool) -> Path:
    import onnx  # type: ignore[import-not-found]
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic  # type: ignore[import-not-found]

    with plain_attention():
        exported: Any = torch.onnx.export(program.module, program.example, dynamo=True)
    proto = exported.model_proto
    del proto.graph.value_info[:]  # shapes as before the exporter's folding, which the quantiser refuses
    path = folder / "model.onnx"
    if not quantised:
        onnx.save(proto, path)
        return path
    with interrupts.temporary_folder() as scratch:
        onnx.save(proto, scratch / "fp32.onnx")
        quantize_dynamic(scratch / "fp32.onnx", path, weight_type=QuantType.QInt8, per_channel=True)
    return path


def _write_openvino(model: Model, component: str, program: Program, folder: Path, *, quantised: bool) -> Path:
    import openvino  # type: ignore[import-not-found]

    with plain_attention():
        captured = openvino.convert_model(program.module, example_input=program.example[0])
    captured.reshape({0: list(program.example[0].shape)})
    if quantised:
        import nncf  # type: ignore[import-untyped]

        rows = _calibration(model, component, program)
        captured = nncf.quantize(captured, nncf.Dataset(rows), model_type=nncf.ModelType.TRANSFORMER)
    openvino.save_model(captured, folder / "model.xml", compress_to_fp16=False)
    return folder / "model.xml"


def _calibration(model: Model, component: str, program: Program) -> list[Any]:
    from edgevlm.compression.calibration import CalibrationData, CalibrationSource
    from edgevlm.tokenizing import Tokenizer

    data = CalibrationData(CalibrationSource(CALIBRATION), BUILTIN["int8-static"].calibration)
    tokenizer = None
    if model.text is not None and model.tokenizer_json is not None:
        tokenizer = Tokenizer.from_bytes(model.text, model.tokenizer_json)
    inputs = data.inputs({component: program}, model.image, tokenizer, lambda *_: None)
    return [each.numpy() for each in inputs[component]]


def _accuracy(model: Model, component: str, program: Program, kind: str, file: Path) -> float:
    """The centred cosine of its embeddings with the float model's, on the parity samples; see `edgevlm.parity`."""
    from edgevlm.onboard.engines import OnnxEngine, OpenVINOEngine
    from edgevlm.prepared import Prepared

    prepared = Prepared(model, None, wanted=None, image_only=False)
    tensor = program.spec.inputs[0]
    engine = OnnxEngine(file, ON_CPU, 1, tensor) if kind == "onnx" else OpenVINOEngine(file, 1, tensor)
    engine.load()
    image = tensor.name == "pixels"
    rows = prepared.samples.pixels if image else prepared.samples.token_ids
    wanted = prepared.embed(component, rows)
    answers = np.concatenate([np.array(engine.answer(row[None])) for row in rows])
    reference, asked = (parity.Answers(each, None, None) for each in (wanted, answers))
    checks = parity.compare(reference, asked, ParityLimits())
    return next((check.value for check in checks if check.measure == "centred_cosine"), 1.0)
