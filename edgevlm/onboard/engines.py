"""An artefact and a sample to run it on, whoever's engine it is."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgevlm.bundle.bundle import Bundle
from edgevlm.bundle.spec import F32, Array, TensorSpec
from edgevlm.errors import DeviceError, MissingDependency
from edgevlm.inference.embeddings import label_scores
from edgevlm.inference.generator import generator_of
from edgevlm.inputs.pictures import decode, preprocess
from edgevlm.inputs.rows import PIXELS, TOKEN_IDS, embeds, takes
from edgevlm.inputs.texts import Tokenizer
from edgevlm.onboard import tensorrt
from edgevlm.onboard.answers import Part
from edgevlm.process.progress import Progress
from edgevlm.targets import registry
from edgevlm.targets.boundary import find_component
from edgevlm.targets.runtime import Session

PICTURE_SHAPE = (960, 1280, 3)
"""Of the sample picture, [H, W, C]: what a camera's preview has."""
LABELS = 100
"""Labels that a picture's embedding is compared with after the engine."""
TEXT = "a photo of two green triangles to the left of a red bicycle"

_LIBRARIES = {
    "tflite": ("ai_edge_litert.interpreter", "tflite_runtime.interpreter"),
    "executorch": ("torch", "executorch.extension.pybindings._C", "executorch.kernels.quantized"),
}


class Engine(Protocol):
    """An artefact that is loaded when asked, and then runs one component on the same sample each time."""

    files: tuple[Path, ...]
    """What loading reads."""
    positions: int | None
    """Of a context that one inference takes; None where there is none. Known once it is prepared."""

    def load(self) -> None:
        """Opens the artefact; its libraries are imported before."""

    def prepare(self) -> None:
        """What has to happen once before the first inference, and is no part of one."""

    def run(self) -> F32:
        """One inference."""

    def stages(self) -> Mapping[str, Callable[[], object]]:
        """What comes before and after an inference: by the names of `edgevlm.onboard.figures.Times`, without `_ms`."""


def make(job: Mapping[str, Any]) -> Engine:
    """The engine that a job names, with so many `threads`.

    It names a `bundle` and a `component`, of one that talks a part of an answer; or a peer's `onnx` or `openvino` file.

    Raises:
        DeviceError: its times would say nothing, or the device lacks the provider.
        BundleError: the bundle is damaged.
        MissingDependency: a package is not installed.
    """
    if "bundle" in job:
        bundle = Bundle.open(job["bundle"])
        kind = BundleEngine if bundle.manifest.dialogue is None else AnswerEngine
        return kind(bundle, job["component"], job["threads"])
    tensor = TensorSpec(**job["input"])
    if "onnx" in job:
        return OnnxEngine(Path(job["onnx"]), job["provider"], job["threads"], tensor)
    return OpenVINOEngine(Path(job["openvino"]), job["threads"], tensor)


def sample_picture() -> NDArray[np.uint8]:
    """uint8 of `PICTURE_SHAPE`: smooth, with some noise, the same everywhere."""
    height, width, _ = PICTURE_SHAPE
    picture = np.random.default_rng(0).integers(0, 32, PICTURE_SHAPE, np.uint8)
    picture[..., 0] += np.linspace(0, 220, height, dtype=np.uint8)[:, None]
    picture[..., 1] += np.linspace(0, 220, width, dtype=np.uint8)
    picture[..., 2] += np.linspace(220, 0, width, dtype=np.uint8)
    return picture


def sample_jpeg() -> bytes:
    """The same as a camera's file: a JPEG of quality 90."""
    file = io.BytesIO()
    Image.fromarray(sample_picture()).save(file, "JPEG", quality=90)
    return file.getvalue()


class _OfBundle:
    """One of ours, and what it reads; see `Engine`."""

    positions: int | None = None

    def __init__(self, bundle: Bundle, components: Collection[str], threads: int) -> None:
        self.bundle, self._threads = bundle, threads
        read = {find_component(dict(bundle.components), each).file for each in components}
        self.files = tuple(sorted(bundle.path / name for name in bundle.manifest.files if name.split("/")[0] in read))
        for library in _LIBRARIES.get(bundle.manifest.target, ()):
            with contextlib.suppress(ImportError):  # the runtime says what is missing, and what to do
                importlib.import_module(library)
        self._runtime = registry.runtime(bundle.manifest.target)
        self._session: Session | None = None

    def load(self) -> None:
        """Opens the bundle.

        Raises:
            DeviceError: what runs it here is not what an app would run.
        """
        self._session = self._runtime.open(self.bundle, threads=self._threads)
        if self._session.evidence == "program-semantics":
            raise DeviceError(
                "this computer evaluates Core ML op by op, which proves answers and says nothing about a device's time",
                hint="run this on a Mac, or ask for an estimate with --device iphone-12-pro-max",
            )

    @property
    def _opened(self) -> Session:
        if self._session is None:
            raise ValueError("not loaded")
        return self._session


class BundleEngine(_OfBundle):
    """A component of a dual encoder's bundle; see `Engine`."""

    def __init__(self, bundle: Bundle, component: str, threads: int) -> None:
        super().__init__(bundle, [component], threads)
        self.component, self.inputs = component, sample_inputs(bundle, component)

    def prepare(self) -> None:
        """Nothing."""

    def run(self) -> F32:
        """One inference: its first output, float32 [1, D]."""
        return next(iter(self._opened.run(self.component, self.inputs).values()))

    def stages(self) -> Mapping[str, Callable[[], object]]:
        """See `stages`."""
        return stages(self.bundle, self.component)


class AnswerEngine(_OfBundle):
    """A part of an answer of a bundle that talks, which takes all of its files; see `Engine`."""

    def __init__(self, bundle: Bundle, part: str, threads: int) -> None:
        super().__init__(bundle, bundle.components, threads)
        self._name = part
        self._part: Part | None = None

    def prepare(self) -> None:
        """Comes to where the part begins: a picture is encoded before a prompt, a context filled before a token."""
        self._part = Part(generator_of(self.bundle, self._opened), self._name, sample_jpeg())
        self.positions = self._part.positions

    def run(self) -> F32:
        """The part, once."""
        return self._prepared.run()

    def stages(self) -> Mapping[str, Callable[[], object]]:
        """What comes before the part."""
        return self._prepared.stages

    @property
    def _prepared(self) -> Part:
        if self._part is None:
            raise ValueError("not prepared")
        return self._part


def sample_inputs(bundle: Bundle, component: str) -> dict[str, Array]:
    """The sample as a component of a bundle takes it."""
    spec = find_component(dict(bundle.components), component).spec
    inputs: dict[str, Array] = {}
    if takes(spec, PIXELS):
        inputs[PIXELS] = preprocess(sample_picture(), bundle.manifest.image)
    if takes(spec, TOKEN_IDS):
        tokenizer = Tokenizer.of_bundle(bundle)
        if tokenizer is None:
            raise DeviceError(f"{bundle.path}: {component} takes token ids, and the bundle has no tokenizer")
        inputs[TOKEN_IDS] = tokenizer.encode([TEXT])
    return inputs


def stages(bundle: Bundle, component: str) -> dict[str, Callable[[], object]]:
    """What comes before and after an inference of a component: see `Engine`."""
    manifest, tokenizer = bundle.manifest, Tokenizer.of_bundle(bundle)
    spec = find_component(dict(bundle.components), component).spec
    found: dict[str, Callable[[], object]] = {}
    if takes(spec, TOKEN_IDS) and tokenizer is not None:
        found["tokenise"] = lambda: tokenizer.encode([TEXT])
    if takes(spec, PIXELS):
        file = sample_jpeg()
        picture = decode(file)
        found["decode"] = lambda: decode(file)
        found["preprocess"] = lambda: preprocess(picture, manifest.image)
        if embeds(spec):
            labels = np.full((LABELS, manifest.embedding.dim), manifest.embedding.dim**-0.5, np.float32)
            found["postprocess"] = lambda: label_scores(
                labels[:1], labels, manifest.embedding.logit_scale, manifest.embedding.logit_bias
            )
    return found


class _PeerEngine:
    """Another toolchain's, once its `load` has set `_answer`; see `Engine`."""

    positions: int | None = None

    def __init__(self, files: tuple[Path, ...], tensor: TensorSpec) -> None:
        self.files = files
        self._sample = _arbitrary(tensor)
        self._answer: Callable[[Array], F32] | None = None

    def prepare(self) -> None:
        """Nothing."""

    def run(self) -> F32:
        """One inference."""
        return self.answer(self._sample)

    def stages(self) -> Mapping[str, Callable[[], object]]:
        """Nothing."""
        return {}

    def answer(self, inputs: Array) -> F32:
        """One inference on other inputs of the same shape."""
        if self._answer is None:
            raise ValueError("not loaded")
        return self._answer(inputs)


class OnnxEngine(_PeerEngine):
    """ONNX Runtime on one execution provider; see `Engine`.

    Args:
        provider: Such as `CPUExecutionProvider`; `CUDAExecutionProvider` and `TensorrtExecutionProvider` on a Jetson.
    """

    def __init__(self, path: Path, provider: str, threads: int, tensor: TensorSpec) -> None:
        self._provider, self._threads = provider, threads
        super().__init__((path,), tensor)
        self._library = _require("onnxruntime")
        if provider not in self._library.get_available_providers():
            raise DeviceError(
                f"ONNX Runtime has no {provider} here: {', '.join(self._library.get_available_providers())}",
                hint="JetPack's own build of onnxruntime-gpu has CUDA and TensorRT",
            )

    def load(self) -> None:
        """Opens the file."""
        options = self._library.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self._threads, 1
        session = self._library.InferenceSession(str(self.files[0]), options, providers=[self._provider])
        ran_on = session.get_providers()[0]
        if ran_on != self._provider:
            raise DeviceError(f"{self._provider} did not start, and ONNX Runtime fell back on {ran_on}")
        name = session.get_inputs()[0].name
        self._answer = lambda inputs: session.run(None, {name: inputs})[0]


class OpenVINOEngine(_PeerEngine):
    """OpenVINO on the CPU, in float32 where the file is; see `Engine`."""

    def __init__(self, path: Path, threads: int, tensor: TensorSpec) -> None:
        super().__init__((path, path.with_suffix(".bin")), tensor)
        self._threads = threads
        self._library = _require("openvino")

    def load(self) -> None:
        """Opens and compiles the file."""
        exact = {"INFERENCE_NUM_THREADS": self._threads, "INFERENCE_PRECISION_HINT": "f32"}  # else bf16 where it can
        request = self._library.Core().compile_model(self.files[0], "CPU", exact).create_infer_request()
        self._answer = lambda inputs: request.infer([inputs], share_inputs=True)[0]


def providers(job: Mapping[str, Any], progress: Progress) -> Mapping[str, Any]:
    """The job `providers`: what other toolchains' files could run here."""
    found: list[str] = []
    with contextlib.suppress(ImportError):
        found = list(importlib.import_module("onnxruntime").get_available_providers())
    return {
        "onnxruntime": found,
        "openvino": importlib.util.find_spec("openvino") is not None,
        "trtexec": tensorrt.find() is not None,
    }


def _arbitrary(tensor: TensorSpec) -> Array:
    random = np.random.default_rng(0)
    if tensor.dtype == "float32":
        return random.uniform(0, 255, tensor.shape).astype(np.float32)
    return random.integers(1, 40, tensor.shape).astype(np.int32)


def without_telemetry() -> None:
    """Has OpenVINO send nothing: its telemetry forks a process for that, which hangs and stays where there are threads.

    The variable is the switch that openvino-telemetry has (`utils/opt_in_checker.py`); for a process of our own.
    """
    os.environ["CI"] = "true"


def _require(package: str) -> Any:
    without_telemetry()
    try:
        return importlib.import_module(package)
    except ImportError:
        raise MissingDependency(package, extra="peers") from None
