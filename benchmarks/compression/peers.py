"""Other toolchains' int8 beside ours: one image encoder, the same weights, one process; prints JSON.

    python -m edgevlm.benchmarks.compression.peers MODEL WORK ROUNDS

AI Edge Quantizer reads our fp32 .tflite and quantises it dynamically. ONNX Runtime quantises dynamically, too, what
torch exports. OpenVINO gets NNCF's static quantisation, calibrated with the pictures that our own static recipes get.
Each is made by its own documented call (`edgevlm/bench/peers/exports.py`), kept, and compared with its own fp32.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgevlm import schema
from edgevlm.bench.peers.exports import FACTS, FILES, ON_CPU, Kind, make
from edgevlm.benchmarks.compression import conversions
from edgevlm.benchmarks.compression.results import Contender
from edgevlm.benchmarks.compression.speed import inputs
from edgevlm.benchmarks.measuring import clock_turns
from edgevlm.bundle.bundle import Bundle
from edgevlm.bundle.recipe import ParityLimits
from edgevlm.bundle.spec import F32
from edgevlm.inputs.rows import make_rows
from edgevlm.models import catalogue
from edgevlm.onboard.engines import OnnxEngine, OpenVINOEngine
from edgevlm.parity import comparison, golden
from edgevlm.process.progress import silent
from edgevlm.process.quiet import quiet
from edgevlm.targets import registry
from edgevlm.targets.runtime import Session

if TYPE_CHECKING:
    from edgevlm.models.model import Model

Encode = Callable[[F32], F32]
"""Pixels float32 [1, 3, H, W] to an embedding float32 [1, D]."""

OURS = ("tflite", "executorch")
AEQ, ONNX_RUNTIME, OPENVINO = "AI Edge Quantizer", "ONNX Runtime", "OpenVINO (NNCF)"
_NEEDS = {
    AEQ: ("ai_edge_quantizer",),
    ONNX_RUNTIME: ("onnx", "onnxruntime", "onnxscript"),
    OPENVINO: ("openvino", "nncf"),
}


@dataclass(frozen=True)
class Made:
    """An encoder that is ready to run; see `Contender`."""

    float_name: str
    size_bytes: int
    encode: Encode


class Peers:
    """Makes the peers' files once, and opens them.

    Args:
        model: In float32.
        fp32: Our own .tflite of it.
        folder: Where the files are kept.
    """

    def __init__(self, model: Model, fp32: Bundle, folder: Path) -> None:
        self._model, self._fp32, self._folder = model, fp32, folder
        self._tensor = model.programs["encode_image"].spec.inputs[0]
        folder.mkdir(parents=True, exist_ok=True)

    def open(self, peer: str) -> dict[str, Made]:
        """A peer's int8 and, where it has its own, fp32."""
        return {AEQ: self._open_aeq, ONNX_RUNTIME: self._open_onnx_runtime, OPENVINO: self._open_openvino}[peer]()

    def _open_aeq(self) -> dict[str, Made]:
        from ai_edge_litert.interpreter import Interpreter  # type: ignore[import-untyped]
        from ai_edge_quantizer import quantizer, recipe  # type: ignore[import-untyped]

        path = self._folder / "aeq-int8.tflite"
        if not path.is_file():
            source = self._fp32.path / self._fp32.components["encode_image"].file
            quantize = quantizer.Quantizer(str(source))
            quantize.load_quantization_recipe(recipe.dynamic_wi8_afp32())
            quantize.quantize(enable_progress_report=False).export_model(str(path), overwrite=True)
        run = Interpreter(model_path=str(path), num_threads=1).get_signature_runner("encode_image")
        size = path.stat().st_size
        return {f"{AEQ} int8": Made("ours, tflite fp32", size, lambda pixels: run(pixels=pixels)["embedding"])}

    def _open_onnx_runtime(self) -> dict[str, Made]:
        return self._open_exported("onnx", ONNX_RUNTIME, lambda path: OnnxEngine(path, ON_CPU, 1, self._tensor))

    def _open_openvino(self) -> dict[str, Made]:
        return self._open_exported("openvino", OPENVINO, lambda path: OpenVINOEngine(path, 1, self._tensor))

    def _open_exported(
        self, kind: Kind, peer: str, engine: Callable[[Path], OnnxEngine | OpenVINOEngine]
    ) -> dict[str, Made]:
        found = {}
        for recipe in ("fp32", "int8"):
            folder = make(self._model, "encode_image", kind, recipe == "int8", silent)
            opened = engine(folder / FILES[kind])
            opened.load()
            size = json.loads((folder / FACTS).read_text(encoding="utf-8"))["size_bytes"]
            found[f"{peer} {recipe}"] = Made(f"{peer} fp32", size, opened.answer)
        return found


def measure(
    model: Model, bundles: Mapping[str, Mapping[str, Bundle]], folder: Path, rounds: int
) -> tuple[Contender, ...]:
    """All that are installed, in turns.

    Args:
        model: In float32.
        bundles: Target -> recipe (fp32 and int8) -> ours.
        folder: Where the peers' files are kept.
        rounds: How often each is timed.
    """
    made: dict[str, Made] = {}
    missing: list[Contender] = []
    with ExitStack() as stack:
        for target, recipes in bundles.items():
            for recipe, bundle in recipes.items():
                session = stack.enter_context(registry.runtime(target).open(bundle, threads=1))
                made[f"ours, {target} {recipe}"] = Made(
                    f"ours, {target} fp32", bundle.artefact_bytes, _own_encoder(session)
                )
        peers = Peers(model, bundles["tflite"]["fp32"], folder)
        for peer, packages in _NEEDS.items():
            lacking = [package for package in packages if find_spec(package) is None]
            if lacking:
                why = f"not installed: {', '.join(lacking)}; pip install 'edgevlm[peers]' brings it"
                missing.append(Contender(f"{peer} int8", "", missing=why))
            else:
                with quiet():
                    made |= peers.open(peer)
        pixels = inputs(model.programs["encode_image"].spec)["pixels"].astype(np.float32)
        times = clock_turns({name: partial(each.encode, pixels) for name, each in made.items()}, rounds)
        encoders = {name: each.encode for name, each in made.items() if name != each.float_name}
        fidelity = _compare(encoders, bundles["tflite"]["fp32"])
    return (
        *(
            Contender(name, each.float_name, each.size_bytes, times[name], fidelity.get(name))
            for name, each in made.items()
        ),
        *missing,
    )


def _own_encoder(session: Session) -> Encode:
    return lambda pixels: session.run("encode_image", {"pixels": pixels})["embedding"]


def _compare(encoders: Mapping[str, Encode], fp32: Bundle) -> dict[str, float]:
    """The centred cosine of each with the float reference, on the pictures of our own parity samples."""
    _, pictures, reference = golden.read(fp32.path)
    pixels = make_rows(pictures, (), fp32.manifest.image, None)["pixels"]
    found = {}
    for name, encode in encoders.items():
        answers = np.concatenate([encode(picture[None]) for picture in pixels])
        checks = comparison.compare(
            {"encode_image": reference["encode_image"]}, {"encode_image": {"embedding": answers}}, ParityLimits()
        )
        found[name] = next(check.value for check in checks if check.measure == "centred_cosine")
    return found


def main() -> None:
    model, work, rounds = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    bundles: dict[str, dict[str, Bundle]] = {target: {} for target in OURS}
    for recipe in ("fp32", "int8"):
        for target, conversion in conversions.convert(model, recipe, OURS, work).items():
            if conversion.bundle is None:
                raise SystemExit(f"{model}, {target}, {recipe}: {conversion.refused}")
            bundles[target][recipe] = conversion.bundle
    loaded = catalogue.load(conversions.locate_model(model, work))
    contenders = measure(loaded, bundles, work / "peers" / Path(model).name, rounds)
    print(json.dumps({"contenders": schema.write(contenders)}))


if __name__ == "__main__":
    main()
