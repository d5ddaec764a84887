"""TFLite: one `model.tflite` whose named signatures are the components, for LiteRT and XNNPACK.

Format: https://ai.google.dev/edge/litert/models/model_analyzer and the schema in its repository (schema.fbs).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgevlm.bundle.recipe import Recipe
from edgevlm.bundle.spec import Array
from edgevlm.converters.requirements import require
from edgevlm.converters.tflite.footprint import footprint
from edgevlm.errors import UnsupportedError
from edgevlm.graphs.capture import examples, named, plain_attention
from edgevlm.graphs.program import Programs, components
from edgevlm.process.progress import Progress
from edgevlm.process.quiet import quiet
from edgevlm.targets.converter import BundleFile, OpRange, Unsupported

if TYPE_CHECKING:
    from edgevlm.graphs.outline import Outline
    from edgevlm.targets.converter import Footprint

FILE = "model.tflite"
_GROUPS = (32, 64, 128, 256)


class TFLiteConverter:
    """Lowers components to one .tflite file; equal weights are stored once."""

    target = "tflite"

    def unsupported(self, programs: Programs, recipe: Recipe) -> tuple[Unsupported, ...]:
        """Weights that it has no kernel for."""
        weights = recipe.weights
        if weights.dtype.startswith("palette"):
            return (Unsupported("TFLite has no palettes", instead="--recipe int4-weights"),)
        if weights.dtype == "int4" and weights.group_size not in _GROUPS:
            return (
                Unsupported(
                    f"TFLite's int4 groups are of {', '.join(map(str, _GROUPS))}, not {weights.group_size}",
                    instead=f"weights: {{group_size: {_GROUPS[0]}}}",
                ),
            )
        return ()

    def audit(
        self, programs: Programs, recipe: Recipe, samples: Mapping[str, Array], progress: Progress
    ) -> tuple[OpRange, ...]:
        """Nothing: in fp16 the weights are float16 and the arithmetic stays float32, so nothing overflows."""
        return ()

    def lower(self, programs: Programs, recipe: Recipe, out_dir: Path) -> tuple[BundleFile, ...]:
        """Writes `model.tflite`.

        In fp16, the weights of matrix products, convolutions and embeddings are float16; XNNPACK widens them once,
        as it packs them, so that the arithmetic is float32 and runs on every CPU.

        Raises:
            MissingDependency: litert-torch is not installed.
            UnsupportedError: an op that litert-torch cannot convert.
            OSError: the file cannot be written.
        """
        require("litert_torch", extra=self.target)
        os.environ.setdefault("LITERT_TORCH_SHOW_PROGRESS", "n")  # read once, when litert-torch is imported
        with quiet():
            data = _lower(programs, recipe)
        (out_dir / FILE).write_bytes(data)
        return (BundleFile(FILE, components(programs), requires=_required_runtimes(data)),)

    def forecast(self, outlines: Mapping[str, Outline], recipe: Recipe) -> Footprint:
        """What the file is expected to take, and the least runtime."""
        return footprint(outlines, recipe)


def _lower(programs: Programs, recipe: Recipe) -> bytes:
    if recipe.quantises:
        return _lower_quantised(programs, recipe)
    data = _convert(programs)
    return _halve_weights(data) if recipe.precision == "fp16" else data


def _lower_quantised(programs: Programs, recipe: Recipe) -> bytes:
    from edgevlm.converters.integers import baked, requantising
    from edgevlm.converters.tflite.weights import store_integers

    static = recipe.activations.ranges == "static"
    rewrite = requantising if static else baked
    rewritten = {name: rewrite(program) for name, program in programs.items()}
    data = _convert({name: program for name, (program, _) in rewritten.items()}, static=static)
    weights = [weight for _, weights in rewritten.values() for weight in weights]
    return store_integers(data, weights, dynamic=recipe.activations.ranges == "dynamic")


def _convert(programs: Programs, *, static: bool = False) -> bytes:
    import litert_torch  # type: ignore[import-untyped]

    converter: Any = litert_torch.Converter()
    for name, program in programs.items():
        converter = converter.signature(name, named(program), sample_kwargs=examples(program))
    try:
        with plain_attention():
            return bytes(converter.convert(quant_config=_static_mode() if static else None).model_content())
    except Exception as error:
        first_line = str(error).strip().partition("\n")[0]
        raise UnsupportedError(f"{', '.join(programs)}: litert-torch cannot convert: {first_line}") from error


def _static_mode() -> Any:
    """Tells litert-torch to turn the graph's own quantize and dequantize ops into integer arithmetic.

    It reads the mode off a quantizer; the quantizer itself is not asked.
    """
    from litert_torch.quantize import pt2e_quantizer, quant_config  # type: ignore[import-untyped]

    settings = pt2e_quantizer.get_symmetric_quantization_config(is_per_channel=True, is_dynamic=False)
    return quant_config.QuantConfig(pt2e_quantizer=pt2e_quantizer.PT2EQuantizer().set_global(settings))


def _halve_weights(data: bytes) -> bytes:
    """The same model with float16 weights, each followed by a DEQUANTIZE."""
    from ai_edge_quantizer import qtyping, quantizer  # type: ignore[import-untyped]

    halver = quantizer.Quantizer(data)
    halver.add_weight_only_config(
        ".*",
        qtyping.TFLOperationName.ALL_SUPPORTED,
        num_bits=16,
        granularity=qtyping.QuantGranularity.TENSORWISE,
        algorithm_key=quantizer.AlgorithmName.FLOAT_CASTING,
    )
    return bytes(halver.quantize(enable_progress_report=False, enable_progress_bar=False).quantized_model)


def _required_runtimes(data: bytes) -> dict[str, str]:
    """What the converter wrote into the file: the first TFLite that has all its ops.

    LiteRT, TFLite's successor, counts anew from 1.0 and reads all that TFLite did.
    """
    from ai_edge_litert import schema_py_generated as schema  # type: ignore[import-untyped]

    model = schema.Model.GetRootAs(data)
    for entry in (model.Metadata(index) for index in range(model.MetadataLength())):
        if entry.Name() == b"min_runtime_version":
            version = model.Buffers(entry.Buffer()).DataAsNumpy().tobytes()
            return {"litert": "1.0", "tflite": version.rstrip(b"\0").decode("ascii")}
    return {"litert": "1.0"}
