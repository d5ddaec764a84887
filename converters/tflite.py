"""TFLite: one `model.tflite` whose named signatures are the components, for LiteRT and XNNPACK.

Format: https://ai.google.dev/edge/litert/models/model_analyzer and the schema in its repository (schema.fbs).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from edgevlm.errors import UnsupportedError
from edgevlm.interfaces import BundleFile, Programs, Unsupported
from edgevlm.recipe import Recipe

from .capture import examples, named, plain_attention, quiet, require

FILE = "model.tflite"


class TFLiteConverter:
    """Lowers components to one .tflite file; equal weights are stored once."""

    target = "tflite"

    def unsupported(self, programs: Programs, recipe: Recipe) -> tuple[Unsupported, ...]:
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
            data = _convert(programs)
            if recipe.precision == "fp16":
                data = _halve_weights(data)
        (out_dir / FILE).write_bytes(data)
        return (BundleFile(path=FILE, components=tuple(programs), requires=_required_runtimes(data)),)


def _convert(programs: Programs) -> bytes:
    import litert_torch  # type: ignore[import-untyped]

    converter: Any = litert_torch.Converter()
    for name, program in programs.items():
        converter = converter.signature(name, named(program), sample_kwargs=examples(program))
    try:
        with plain_attention():
            return bytes(converter.convert().model_content())
    except Exception as error:
        first_line = str(error).strip().partition("\n")[0]
        raise UnsupportedError(f"{', '.join(programs)}: litert-torch cannot convert: {first_line}") from error


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
