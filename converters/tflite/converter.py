"""TFLite: one `model.tflite` whose named signatures are the components, for LiteRT and XNNPACK.

A model that talks becomes a `model.litertlm`, which holds three such files and what LiteRT-LM asks them with.

Format: https://ai.google.dev/edge/litert/models/model_analyzer and the schema in its repository (schema.fbs).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from edgevlm.bundle.dialogue import DECODE, EMBED_TOKENS, ENCODE_IMAGE, Dialogue
from edgevlm.bundle.recipe import Recipe
from edgevlm.bundle.spec import Array
from edgevlm.converters.requirements import require
from edgevlm.converters.tflite import patches
from edgevlm.converters.tflite.footprint import footprint
from edgevlm.converters.tflite.template import continuation, template
from edgevlm.converters.tflite.tokenizer import spelled
from edgevlm.errors import UnsupportedError
from edgevlm.graphs import patches as torch_patches
from edgevlm.graphs.capture import examples, named, plain_attention
from edgevlm.graphs.program import Program, Programs, components, unrolled
from edgevlm.process.progress import Countdown, Progress, silent
from edgevlm.process.quiet import quiet
from edgevlm.targets import litert_lm
from edgevlm.targets.converter import BundleFile, OpRange, Unsupported
from edgevlm.targets.litert_lm import DECODER, EMBEDDER, MODELS, PLACEHOLDER, VISION_ENCODER, Beside

if TYPE_CHECKING:
    from edgevlm.bundle.manifest import Manifest
    from edgevlm.graphs.outline import Outline
    from edgevlm.targets.converter import Footprint

T = TypeVar("T")
FILE = "model.tflite"
CONTAINER = f"model{litert_lm.SUFFIX}"
_GROUPS = (32, 64, 128, 256)
_PROMPT = 64


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

    def arrange(self, programs: Programs, dialogue: Dialogue) -> Programs:
        """As LiteRT-LM wants a model that talks.

        Raises:
            UnsupportedError: no length beside 1, or one that a context is no multiple of.
        """
        words = programs[EMBED_TOKENS]
        if words.lengths == (1,):
            raise UnsupportedError(
                "lengths: expected another one beside 1, by which LiteRT-LM reads a prompt, got none",
                hint=f"--lengths 1,{min(_PROMPT, dialogue.context_length)}",
            )
        longest, context = words.lengths[-1], dialogue.context_length
        if context % longest and not programs[DECODE].spec.prefix:
            raise UnsupportedError(
                f"lengths: expected a last one of which the context of {context:,} is a multiple, since LiteRT-LM "
                f"fills up a prompt's last run, got {longest:,}",
                hint=f"--context {context + longest - context % longest}, or leave --lengths out",
            )
        return {
            VISION_ENCODER: replace(programs[ENCODE_IMAGE], answers=(1,)),
            EMBEDDER: replace(words.explicit(1), answers=words.lengths),
            **unrolled({DECODE: programs[DECODE]}),
        }

    def audit(
        self, programs: Programs, recipe: Recipe, samples: Mapping[str, Array], progress: Progress
    ) -> tuple[OpRange, ...]:
        """Nothing: in fp16 the weights are float16 and the arithmetic stays float32, so nothing overflows."""
        return ()

    def lower(
        self, programs: Programs, recipe: Recipe, out_dir: Path, progress: Progress = silent
    ) -> tuple[BundleFile, ...]:
        """Writes `model.tflite`, or `model.litertlm`.

        In fp16, the weights of matrix products, convolutions and embeddings are float16; XNNPACK widens them once,
        as it packs them, so that the arithmetic is float32 and runs on every CPU.

        Raises:
            MissingDependency: litert-torch is not installed.
            UnsupportedError: an op that litert-torch cannot convert.
            OSError: the file cannot be written.
        """
        require("litert_torch", extra=self.target)
        os.environ.setdefault("LITERT_TORCH_SHOW_PROGRESS", "n")  # read once, when litert-torch is imported
        if EMBEDDER in programs:
            return (_lower_container(programs, recipe, out_dir, Countdown(progress, "tflite: lowering", len(MODELS))),)
        with quiet(), torch_patches.applied():
            data = _lower(programs, recipe)
        (out_dir / FILE).write_bytes(data)
        return (BundleFile(FILE, components(programs), requires=_required_runtimes(data)),)

    def describe(self, manifest: Manifest, folder: Path) -> None:
        """Puts the tokenizer, the template and what else LiteRT-LM asks for into a container."""
        path, dialogue = folder / CONTAINER, manifest.dialogue
        if dialogue is None:
            return
        spelling, image = dialogue.spelling, manifest.image
        beside = litert_lm.beside_of(manifest.components)
        tokenizer_json = (folder / dialogue.tokenizer_file).read_bytes()
        if dialogue.chat is None:  # ids of its own the runtime puts before a picture
            tokenizer_json, begin = spelled(tokenizer_json, dialogue.begin_ids, where=dialogue.tokenizer_file)
            written = continuation(begin)
        else:
            written = template(dialogue.chat)
        metadata = litert_lm.about(
            written,
            begin_ids=() if dialogue.chat is None else dialogue.begin_ids,
            end_ids=dialogue.end_ids,
            context_length=beside.positions + dialogue.context_length,
            placeholder=PLACEHOLDER if spelling is None else spelling.token,
            around=("", "") if spelling is None else (spelling.whole.before, spelling.whole.after),
            size=(image.height, image.width),
        )
        with tempfile.TemporaryDirectory(prefix="edgevlm-", dir=folder) as scratch:
            tokenizer = Path(scratch, "tokenizer.json")
            tokenizer.write_bytes(tokenizer_json)
            litert_lm.pack(litert_lm.unpack(path), path, metadata=metadata, tokenizer=tokenizer)

    def forecast(self, outlines: Mapping[str, Outline], recipe: Recipe) -> Footprint:
        """What the file is expected to take, and the least runtime."""
        if EMBEDDER not in outlines:
            return footprint((outlines,), recipe)
        found = footprint([_in_model(name, outlines) for name in MODELS], recipe)
        return replace(found, requires={**found.requires, "litert-lm": litert_lm.LEAST_RUNTIME})


def _in_model(model: str, functions: Mapping[str, T]) -> dict[str, T]:
    """Those of a container's functions that stand in one of its models."""
    return {name: each for name, each in functions.items() if model == (name if name in MODELS else DECODER)}


def _lower_container(programs: Programs, recipe: Recipe, out_dir: Path, countdown: Countdown) -> BundleFile:
    """The three models of a model that talks; `describe` adds what it is asked with."""
    from edgevlm.converters.tflite.called import as_called

    longest = max(length for each in programs.values() if each.spec.name == DECODE for length in each.answers)
    prefix = any(each.spec.prefix for each in programs.values())
    finish = partial(as_called, beside=Beside.of(programs[VISION_ENCODER].spec, longest, prefix=prefix))
    models: dict[str, bytes] = {}
    requires: list[dict[str, str]] = []
    for name in MODELS:
        countdown.next(name)
        with quiet(), torch_patches.applied():
            models[name] = _lower(_in_model(name, programs), recipe, finish)
        requires.append(_required_runtimes(models[name]))
    litert_lm.pack(models, out_dir / CONTAINER)
    newest = max(requires, key=lambda each: [int(part) for part in each.get("tflite", "0").split(".")])
    return BundleFile(CONTAINER, components(programs), requires={**newest, "litert-lm": litert_lm.LEAST_RUNTIME})


def _lower(
    programs: Programs, recipe: Recipe, finish: Callable[[str, Program], Program] = lambda _, same: same
) -> bytes:
    """A TFLite model.

    Args:
        programs: By signature.
        recipe: What to make of the weights.
        finish: What stands around a program that is otherwise ready.
    """
    if recipe.quantises:
        return _lower_quantised(programs, recipe, finish)
    data = _convert({name: finish(name, program) for name, program in programs.items()})
    return _halve_weights(data) if recipe.precision == "fp16" else data


def _lower_quantised(programs: Programs, recipe: Recipe, finish: Callable[[str, Program], Program]) -> bytes:
    from edgevlm.converters.integers import baked, requantising
    from edgevlm.converters.tflite.weights import store_integers

    static = recipe.activations.ranges == "static"
    rewrite = requantising if static else baked
    rewritten = {name: rewrite(program) for name, program in programs.items()}
    data = _convert({name: finish(name, program) for name, (program, _) in rewritten.items()}, static=static)
    weights = [weight for _, weights in rewritten.values() for weight in weights]
    return store_integers(data, weights, dynamic=recipe.activations.ranges == "dynamic")


def _convert(programs: Programs, *, static: bool = False) -> bytes:
    import litert_torch  # type: ignore[import-untyped]
    from litert_torch.fx_infra import decomp  # type: ignore[import-untyped]

    from edgevlm.converters.tflite.kv_cache import written_out
    from edgevlm.graphs import kv_cache

    decomp.add_pre_lower_decomp(kv_cache.UPDATE, written_out)
    converter: Any = litert_torch.Converter()
    for name, program in programs.items():
        converter = converter.signature(name, named(program), sample_kwargs=examples(program))
    try:
        with plain_attention(), patches.applied():
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
    with patches.applied():
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
