"""Other toolchains' files of the model that a bundle was made of: what a user would get without EdgeVLM."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgevlm import schema
from edgevlm.bench.artefacts import command
from edgevlm.bench.peers.exports import FACTS, FILES, ON_CPU, Kind
from edgevlm.bench.results import Artefact, Failed
from edgevlm.bundle.bundle import Bundle
from edgevlm.bundle.spec import TensorSpec
from edgevlm.devices.answers import answers
from edgevlm.devices.machine import Machine
from edgevlm.inputs.rows import embeds
from edgevlm.process.children import process_of
from edgevlm.process.progress import Progress

_ACCELERATED = {"TensorrtExecutionProvider": "TensorRT", "CUDAExecutionProvider": "CUDA"}
_EXPORT_SECONDS = 3600.0


@dataclass(frozen=True)
class PeerSubject:
    """A component in another toolchain's file; see `edgevlm.bench.artefacts.Subject`.

    Attributes:
        folder: Holds the file, and what belongs to it.
        kind: What the file is.
        provider: ONNX Runtime's; empty for TensorRT's own tool and for OpenVINO.
        tensor: The input.
        bundle: Path of the bundle that it is a peer of.
        options: See `edgevlm.bench.bench.Request`.
    """

    artefact: Artefact
    component: str
    on_cpu: bool
    folder: Path
    kind: Kind
    provider: str
    tensor: TensorSpec
    bundle: Path
    options: tuple[str, ...] = ()

    def job(self, machine: Machine, progress: Progress) -> Mapping[str, Any]:
        """Sends the file."""
        there = f"{machine.put(self.folder, progress)}/{FILES[self.kind]}"
        name = "tensorrt" if self.artefact.target == "tensorrt" else "time"
        return {"job": name, self.kind: there, "provider": self.provider, "input": schema.write(self.tensor)}

    def command(self, device: str) -> str:
        """`edgevlm bench ... --peers`."""
        return command(self.bundle, device, self.component, "--peers", *self.options)


def offers(machine: Machine) -> Mapping[str, Any]:
    """What a machine says that it could run; see the job `providers`."""
    said = list(machine.ask({"job": "providers"}, timeout_seconds=60.0))
    found: Mapping[str, Any] = said[-1]["result"]
    return found


def make_peers(
    device: str, bundle: Bundle, offered: Mapping[str, Any], progress: Progress
) -> Iterator[PeerSubject | Failed]:
    """The peers of a bundle that a device can run, and those that could not be made.

    Args:
        device: Its name.
        bundle: Whose model they are made of.
        offered: What `offers` said of the device.
        progress: Told how far it is.

    Raises:
        EdgeVLMError: the model is not found, or no longer the same.
    """
    wanted = {"onnx": offered["onnxruntime"] or offered["trtexec"], "openvino": offered["openvino"]}
    job = {
        "bundle": str(bundle.path),
        "components": [name for name, each in bundle.components.items() if embeds(each.spec)],
        "kinds": [kind for kind in wanted if wanted[kind]],
    }
    made: list[Mapping[str, Any]] = []
    command, environment = process_of("edgevlm.bench.peers.exports")
    for line in answers(command, job, timeout_seconds=_EXPORT_SECONDS, environment=environment):
        if "progress" in line:
            progress(line["progress"]["stage"], line["progress"]["share"])
        else:
            made = line["result"]["made"]
    for one in made:
        if one["folder"] is None:
            what = f"{one['kind']} {one['recipe']} could not be made: {one['message']}"
            yield Failed(device, None, what, one["hint"], one["component"])
    folders: dict[tuple[Kind, str], dict[str, Path]] = {}
    for one in made:
        if one["folder"] is not None:
            folders.setdefault((one["kind"], one["recipe"]), {})[one["component"]] = Path(one["folder"])
    for (kind, recipe), by_component in folders.items():
        for way in _ways(kind, recipe, offered):
            artefact = _artefact(bundle, way, by_component)
            for component, folder in by_component.items():
                tensor = bundle.components[component].spec.inputs[0]
                yield PeerSubject(artefact, component, way.on_cpu, folder, kind, way.provider, tensor, bundle.path)


@dataclass(frozen=True)
class _Way:
    """How a device can run a file: what results call it, and ONNX Runtime's provider."""

    target: str
    recipe: str
    title: str
    provider: str = ""
    on_cpu: bool = True


def _ways(kind: Kind, recipe: str, offered: Mapping[str, Any]) -> Iterator[_Way]:
    if kind == "openvino":
        yield _Way("openvino", recipe, f"OpenVINO {recipe}")
        return
    if ON_CPU in offered["onnxruntime"]:
        yield _Way("onnxruntime", recipe, f"ONNX Runtime {recipe}", ON_CPU)
    if recipe != "fp32":
        return  # dynamic quantisation is the CPU's
    for provider, name in _ACCELERATED.items():
        if provider in offered["onnxruntime"]:
            yield _Way("onnxruntime", f"fp32 on {name}", f"ONNX Runtime on {name}", provider, on_cpu=False)
    if offered["trtexec"]:
        yield _Way("tensorrt", "fp16", "TensorRT fp16", on_cpu=False)


def _artefact(bundle: Bundle, way: _Way, folders: Mapping[str, Path]) -> Artefact:
    """The files of all components as one artefact, as a bundle is one."""
    facts: list[dict[str, Any]] = [
        json.loads((folder / FACTS).read_text(encoding="utf-8")) for folder in folders.values()
    ]
    model = bundle.manifest.source.name
    accuracies = [each["accuracy"] for each in facts]
    return Artefact(
        name=f"{model}, {way.title}",
        model=model,
        target=way.target,
        recipe=way.recipe,
        sha256=hashlib.sha256("".join(each["sha256"] for each in facts).encode()).hexdigest(),
        size_bytes=sum(each["size_bytes"] for each in facts),
        accuracy=min(accuracies) if way.on_cpu and None not in accuracies else None,
    )
