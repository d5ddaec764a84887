"""Other toolchains' files of the model that a bundle was made of: what a user would get without EdgeVLM."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgevlm import schema
from edgevlm.bench.exports import FACTS, FILES, ON_CPU, Kind
from edgevlm.bench.results import Artefact, Failed
from edgevlm.bundle import Bundle
from edgevlm.devices.answers import answers
from edgevlm.devices.machine import Machine
from edgevlm.interfaces import Progress
from edgevlm.spec import TensorSpec

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
    """

    artefact: Artefact
    component: str
    on_cpu: bool
    folder: Path
    kind: Kind
    provider: str
    tensor: TensorSpec
    bundle: Path

    def job(self, machine: Machine, progress: Progress) -> Mapping[str, Any]:
        """Sends the file."""
        there = f"{machine.put(self.folder, progress)}/{FILES[self.kind]}"
        name = "tensorrt" if self.artefact.target == "tensorrt" else "time"
        return {"job": name, self.kind: there, "provider": self.provider, "input": schema.write(self.tensor)}

    def command(self, device: str) -> str:
        """`edgevlm bench ... --peers`."""
        return f"edgevlm bench {self.bundle} --device {device} --component {self.component} --peers"


def offers(machine: Machine) -> Mapping[str, Any]:
    """What a machine says that it could run; see the job `providers`."""
    said = list(machine.ask({"job": "providers"}, timeout_seconds=60.0))
    found: Mapping[str, Any] = said[-1]["result"]
    return found


def make_peers(
    device: str, bundle: Bundle, components: Sequence[str], offered: Mapping[str, Any], progress: Progress
) -> Iterator[PeerSubject | Failed]:
    """The peers of a bundle that a device can run, and those that could not be made.

    Args:
        device: Its name.
        bundle: Whose model they are made of.
        components: Of the model.
        offered: What `offers` said of the device.
        progress: Told how far it is.

    Raises:
        EdgeVLMError: the model is not found, or no longer the same.
    """
    wanted = {"onnx": offered["onnxruntime"] or offered["trtexec"], "openvino": offered["openvino"]}
    job = {
        "bundle": str(bundle.path),
        "components": list(components),
        "kinds": [kind for kind in wanted if wanted[kind]],
    }
    made: list[Mapping[str, Any]] = []
    for line in answers([sys.executable, "-m", "edgevlm.bench.exports"], job, timeout_seconds=_EXPORT_SECONDS):
        if "progress" in line:
            progress(line["progress"]["stage"], line["progress"]["share"])
        else:
            made = line["result"]["made"]
    for one in made:
        if one["folder"] is None:
            what = f"{one['kind']} {one['recipe']} could not be made: {one['message']}"
            yield Failed(device, None, what, one["hint"], one["component"])
        else:
            yield from _subjects(bundle, one, offered)


def _subjects(bundle: Bundle, one: Mapping[str, Any], offered: Mapping[str, Any]) -> Iterator[PeerSubject]:
    """All the ways in which a device can run a file."""
    recipe, kind = one["recipe"], one["kind"]
    ways: list[tuple[str, str, str, str]] = []  # target, recipe, what people call it, provider
    if kind == "openvino":
        ways.append(("openvino", recipe, f"OpenVINO {recipe}", ""))
    elif ON_CPU in offered["onnxruntime"]:
        ways.append(("onnxruntime", recipe, f"ONNX Runtime {recipe}", ON_CPU))
    if kind == "onnx" and recipe == "fp32":  # dynamic quantisation is the CPU's
        for provider, name in _ACCELERATED.items():
            if provider in offered["onnxruntime"]:
                ways.append(("onnxruntime", f"fp32 on {name}", f"ONNX Runtime on {name}", provider))
        if offered["trtexec"]:
            ways.append(("tensorrt", "fp16", "TensorRT fp16", ""))
    folder, model = Path(one["folder"]), bundle.manifest.source.name
    facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    for target, called, title, provider in ways:
        on_cpu = called == recipe and target != "tensorrt"
        artefact = Artefact(
            name=f"{model}, {title}",
            model=model,
            target=target,
            recipe=called,
            sha256=facts["sha256"],
            size_bytes=facts["size_bytes"],
            accuracy=facts["accuracy"] if on_cpu else None,
        )
        tensor = bundle.components[one["component"]].spec.inputs[0]
        yield PeerSubject(artefact, one["component"], on_cpu, folder, kind, provider, tensor, bundle.path)
