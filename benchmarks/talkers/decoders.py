"""A decoder as each toolchain makes and runs it: what `speed` times side by side.

    python -m edgevlm.benchmarks.talkers.decoders NAME FOLDER --threads 1

Ours are functions of a bundle's file, called as apps' runtimes call them: LiteRT's caches are given for the old state
and the new one, ExecuTorch keeps its own. The peers' are of the same weights, as `LlamaForCausalLM`, made by their own
documented calls: ONNX Runtime GenAI's model builder, and the stateful form that OpenVINO GenAI runs, weights compressed
by NNCF.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgevlm.benchmarks.measuring import peak_rss_mb, plain_errors

CONTEXT, CHUNK = 2048, 128
"""Positions, and how many of them a prompt is read by at once."""
FILLS = (512, 2048)
"""Positions that are taken, the timed token's included."""
_ROWS = np.random.default_rng(0).standard_normal((1, CHUNK, 4096)).astype(np.float32)
IDS = np.random.default_rng(0).integers(5, 60, CONTEXT).astype(np.int32)


class Decoder(Protocol):
    """One that is open."""

    def fill(self, count: int) -> None:
        """Makes so many positions taken."""

    def token(self, fill: int) -> object:
        """Puts one more, which is the last of `fill`."""

    def prompt(self) -> object:
        """Puts `CHUNK` into an empty context."""


# Ours


def make_ours(checkpoint: Path, target: str, recipe: str, folder: Path) -> None:
    """The decoder's functions of a target's file, without a proof."""
    from edgevlm.bundle.recipe import BUILTIN
    from edgevlm.conversion.prepared_talker import PreparedTalker
    from edgevlm.models.checkpoints import talking
    from edgevlm.process.progress import silent
    from edgevlm.targets import registry

    model = talking.load(checkpoint, name=checkpoint.name, context_length=CONTEXT, lengths=(1, CHUNK))
    converter = registry.converter(target)
    programs = PreparedTalker(model).compress(BUILTIN[recipe], converter, silent).programs
    decoder = {name: each for name, each in programs.items() if each.spec.name == "decode"}
    converter.lower(decoder, BUILTIN[recipe], folder)


class Placed:
    """One that is told where its rows stand, so that any of them can be put again.

    A subclass has `_put`, which puts so many rows from a position on: one, or up to `CHUNK`.
    """

    def _put(self, start: int, count: int) -> object:
        raise NotImplementedError

    def fill(self, count: int) -> None:
        for start in range(0, count, CHUNK):
            self._put(start, min(CHUNK, count - start))

    def token(self, fill: int) -> object:
        return self._put(fill - 1, 1)

    def prompt(self) -> object:
        return self._put(0, CHUNK)


def _positions(start: int, count: int) -> NDArray[np.int32]:
    """Of one row, or of `CHUNK` with padding behind those that there are, int32 [1, T]."""
    positions = np.full((1, 1 if count == 1 else CHUNK), -1, np.int32)
    positions[0, :count] = np.arange(start, start + count)
    return positions


class LiteRT(Placed):
    """LiteRT's CompiledModel, as LiteRT-LM runs one: a cache's memory is that of the new one too."""

    def __init__(self, folder: Path, threads: int) -> None:
        from ai_edge_litert.compiled_model import CompiledModel  # type: ignore[import-untyped]
        from ai_edge_litert.options import CpuOptions, Options  # type: ignore[import-untyped]

        options = Options(cpu_options=CpuOptions(num_threads=threads))
        self._model = CompiledModel.from_file(str(folder / "model.tflite"), options=options)
        self._state: dict[str, Any] = {}
        self._functions = {length: self._bind(name) for length, name in ((1, "decode"), (CHUNK, f"prefill_{CHUNK}"))}

    def _bind(self, name: str) -> Callable[[NDArray[np.float32], NDArray[np.int32]], None]:
        index = self._model.get_signature_index(name)
        names = self._model.get_signature_by_index(index)
        given = dict(zip(names["inputs"], self._model.create_input_buffers(index), strict=True))
        answers = dict(zip(names["outputs"], self._model.create_output_buffers(index), strict=True))
        for each in given.keys() - {"embeddings", "positions"}:
            self._state.setdefault(each, given[each])
        written = {each: self._state[_before(each)] for each in answers if _before(each) in self._state}
        inputs = [self._state.get(each, given[each]) for each in names["inputs"]]
        outputs = [written.get(each, answers[each]) for each in names["outputs"]]
        width = self._model.get_input_tensor_details(name)["embeddings"]["shape"][-1]

        def run(rows: NDArray[np.float32], positions: NDArray[np.int32]) -> None:
            given["embeddings"].write(np.ascontiguousarray(rows[..., :width]))
            given["positions"].write(positions)
            self._model.run_by_index(index, inputs, outputs)

        return run

    def _put(self, start: int, count: int) -> None:
        positions = _positions(start, count)
        length = positions.shape[1]
        self._functions[length](_ROWS[:, :length], positions)


def _before(output: str) -> str:
    """The cache that an output is the new one of."""
    return output.removesuffix(_written(""))


def _written(cache: str) -> str:
    """The output that is the new one of a cache; see `edgevlm.bundle.spec.TensorSpec.written`."""
    return f"{cache}_written"


class ExecuTorch(Placed):
    """The method that ExecuTorch's runner calls `text_decoder`."""

    def __init__(self, folder: Path, threads: int) -> None:
        import torch

        from edgevlm.runtimes.executorch.runtime import _bindings, _set_threads

        bindings = _bindings()
        _set_threads(bindings, threads)
        self._program = bindings._load_program(str(folder / "model.pte"))
        self._method = self._program.load_method("text_decoder")
        width = self._program.method_meta("text_decoder").input_tensor_meta(0).sizes()[-1]
        self._rows, self._arange = torch.from_numpy(_ROWS[..., :width].copy()), torch.arange(CONTEXT)

    def _put(self, start: int, count: int) -> object:
        return self._method((self._rows[:, :count].contiguous(), self._arange[start : start + count].contiguous()))


class Evaluator(Placed):
    """The ML Program evaluator on a Core ML package, whose time says nothing about Apple's."""

    def __init__(self, folder: Path, threads: int) -> None:
        from edgevlm.runtimes.mlprogram import MLProgram

        path, names = folder / "language.mlpackage", {1: "decode", CHUNK: f"prefill_{CHUNK}"}
        self._programs = {each: MLProgram.open(path, function=name, threads=threads) for each, name in names.items()}
        shapes = {each.name: [size or 0 for size in each.shape or ()] for each in self._programs[1].inputs}
        self._width = shapes["embeddings"][-1]
        self._kept = self._programs[1].make_state()
        answers = {each.name for each in self._programs[1].outputs}
        caches = {name: shape for name, shape in shapes.items() if _written(name) in answers}
        self._given: dict[str, Any] = {name: np.zeros(shape, np.float32) for name, shape in caches.items()}

    def _put(self, start: int, count: int) -> None:
        positions = _positions(start, count)
        length = positions.shape[1]
        inputs = {"embeddings": _ROWS[:, :length, : self._width], "positions": positions, **self._given}
        answer = self._programs[length].predict(inputs, self._kept)
        self._given = {name: answer[_written(name)] for name in self._given}


class Eager:
    """transformers' own decoder on torch, in float32."""

    def __init__(self, folder: Path, threads: int) -> None:
        import torch
        from transformers import DynamicCache, LlamaForCausalLM

        torch.set_num_threads(threads)
        self._torch, self._cache_class = torch, DynamicCache
        self._model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self._cache = DynamicCache()

    def _put(self, count: int) -> object:
        rows = self._torch.from_numpy(_ROWS[:, :count, : self._model.config.hidden_size].copy())
        with self._torch.inference_mode():
            return self._model(inputs_embeds=rows, past_key_values=self._cache, logits_to_keep=1).logits

    def fill(self, count: int) -> None:
        self._cache = self._cache_class()
        while left := count - self._cache.get_seq_length():
            self._put(min(CHUNK, left))

    def token(self, fill: int) -> object:
        beyond = self._cache.get_seq_length() - (fill - 1)
        if beyond:
            self._cache.crop(-beyond)
        return self._put(1)

    def prompt(self) -> object:
        self._cache = self._cache_class()
        return self._put(CHUNK)


# The peers


def make_llama(checkpoint: Path, folder: Path) -> None:
    """The decoder of a SmolVLM as a causal language model of its own."""
    import torch
    from transformers import AutoModelForImageTextToText, AutoTokenizer, LlamaForCausalLM

    whole = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=torch.float32)
    decoder = LlamaForCausalLM(whole.model.text_model.config)
    decoder.model, decoder.lm_head = whole.model.text_model, whole.lm_head
    decoder.config.tie_word_embeddings = whole.lm_head.weight is whole.get_input_embeddings().weight
    decoder.save_pretrained(folder)
    AutoTokenizer.from_pretrained(checkpoint).save_pretrained(folder)


def make_onnx(llama: Path, precision: str, folder: Path) -> None:
    """What ONNX Runtime GenAI's builder makes of it; integers in blocks of 32, activations int8 as they come."""
    builder = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(llama), "-o", str(folder)]
    options = ["accuracy_level=4", "block_size=32"] if precision != "fp32" else []
    asked = [*builder, "-p", precision, "-e", "cpu", "-c", str(folder / "cache")]
    done = subprocess.run(
        [*asked, *(["--extra_options", *options] if options else [])], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(asked)} ended with {done.returncode}: {done.stderr[-2000:]}")


def make_openvino(llama: Path, precision: str, folder: Path) -> None:
    """OpenVINO's stateful form, which optimum-intel makes too; of int4 the head is int8, as its default is."""
    import nncf  # type: ignore[import-untyped]
    import openvino
    import torch
    from openvino._offline_transformations import apply_make_stateful_transformation
    from transformers import DynamicCache, LlamaForCausalLM
    from transformers.cache_utils import DynamicLayer

    model = LlamaForCausalLM.from_pretrained(llama, dtype=torch.float32, attn_implementation="sdpa").eval()
    layers, config = model.config.num_hidden_layers, model.config
    head_dim = config.hidden_size // config.num_attention_heads

    class WithCache(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(
            self, input_ids: torch.Tensor, attention_mask: torch.Tensor, position_ids: torch.Tensor, *past: torch.Tensor
        ) -> tuple[torch.Tensor, ...]:
            cache = DynamicCache()
            for keys, values in zip(past[::2], past[1::2], strict=True):
                layer = DynamicLayer()
                layer.lazy_initialization(keys, values)
                layer.keys, layer.values = keys, values
                cache.layers.append(layer)
            slots = torch.arange(attention_mask.shape[1])  # transformers' own mask would be that of the example
            unseen = (slots > position_ids[..., None]).float()[:, None] * torch.finfo(torch.float32).min
            answer = self.model(
                input_ids=input_ids,
                attention_mask=unseen,
                position_ids=position_ids,
                past_key_values=cache,
                logits_to_keep=1,
            )
            kept = [each for layer in cache.layers for each in (layer.keys, layer.values)]
            return answer.logits, *kept

    past = [torch.zeros(1, config.num_key_value_heads, 2, head_dim) for _ in range(2 * layers)]
    example = (torch.ones(1, 3, dtype=torch.long), torch.ones(1, 5, dtype=torch.long), torch.tensor([[2, 3, 4]]), *past)
    with torch.no_grad():
        converted = openvino.convert_model(WithCache(), example_input=example)
    names = ["input_ids", "attention_mask", "position_ids", *(f"past_{number}" for number in range(2 * layers))]
    for port, name in zip(converted.inputs, names, strict=True):
        port.get_tensor().set_names({name})
        shape = [1, -1] if port.partial_shape.rank.get_length() == 2 else [1, past[0].shape[1], -1, head_dim]
        port.get_node().set_partial_shape(openvino.PartialShape(shape))
    for port, name in zip(
        converted.outputs, ["logits", *(f"present_{number}" for number in range(2 * layers))], strict=True
    ):
        port.get_tensor().set_names({name})
    _follow_beams(converted)
    apply_make_stateful_transformation(converted, {f"past_{n}": f"present_{n}" for n in range(2 * layers)})
    _begin_empty(converted)
    if precision == "int8":
        converted = nncf.compress_weights(converted, mode=nncf.CompressWeightsMode.INT8_SYM)
    elif precision == "int4":
        converted = nncf.compress_weights(converted, mode=nncf.CompressWeightsMode.INT4_SYM, group_size=32, ratio=1.0)
    folder.mkdir(parents=True, exist_ok=True)
    openvino.save_model(converted, folder / "openvino_model.xml", compress_to_fp16=False)


def _follow_beams(model: Any) -> None:
    """Puts a choice of beams before each cache, as optimum-intel does: OpenVINO knows attention with caches by that."""
    from openvino import opset13

    beams = opset13.parameter([1], np.int32, name="beam_idx")
    beams.output(0).get_tensor().set_names({"beam_idx"})
    for port in model.inputs:
        if port.get_any_name().startswith("past_"):
            cache = port.get_node().output(0)
            readers = list(cache.get_target_inputs())
            chosen = opset13.gather(cache, beams, opset13.constant(0, dtype=np.int32))
            for reader in readers:
                reader.replace_source_output(chosen.output(0))
    model.add_parameters([beams])
    model.validate_nodes_and_infer_types()


def _begin_empty(model: Any) -> None:
    """Says what is in a cache at first, which OpenVINO takes such a form by too."""
    from openvino import opset13

    for op in model.get_ops():
        if op.get_type_name() == "ReadValue":
            shape = [size.get_min_length() for size in op.get_output_partial_shape(0)]
            zero = opset13.constant(0.0, dtype=op.get_output_element_type(0))
            op.set_arguments([opset13.broadcast(zero, opset13.constant(np.array(shape, np.int64))).output(0)])
    model.validate_nodes_and_infer_types()


class OnnxGenAI:
    """ONNX Runtime GenAI's generator."""

    def __init__(self, folder: Path, threads: int) -> None:
        import onnxruntime_genai

        config = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))
        config["model"]["decoder"]["session_options"]["intra_op_num_threads"] = threads
        (folder / "genai_config.json").write_text(json.dumps(config), encoding="utf-8")
        model = onnxruntime_genai.Model(str(folder))
        parameters = onnxruntime_genai.GeneratorParams(model)
        parameters.set_search_options(max_length=min(CONTEXT, config["model"]["context_length"]), do_sample=False)
        self._generator = onnxruntime_genai.Generator(model, parameters)

    def fill(self, count: int) -> None:
        self._generator.rewind_to(0)
        for start in range(0, count, CHUNK):
            self._generator.append_tokens(IDS[start : min(start + CHUNK, count)])

    def token(self, fill: int) -> None:
        if self._generator.token_count() > fill - 1:
            self._generator.rewind_to(fill - 1)
        self._generator.append_tokens(IDS[:1])

    def prompt(self) -> NDArray[np.float32]:
        self._generator.rewind_to(0)
        self._generator.append_tokens(IDS[:CHUNK])
        return np.asarray(self._generator.get_logits(), np.float32)


class OpenVino:
    """OpenVINO's runtime on the stateful form; no token can be taken back, so that the timed ones go on from a fill."""

    def __init__(self, folder: Path, threads: int) -> None:
        import openvino

        hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
        self._request = (
            openvino.Core().compile_model(folder / "openvino_model.xml", "CPU", hints).create_infer_request()
        )
        self._count = 0

    def _put(self, count: int) -> None:
        after = self._count + count
        self._request.infer(
            {
                "input_ids": IDS[None, :count].astype(np.int64),
                "attention_mask": np.ones((1, after), np.int64),
                "position_ids": np.arange(self._count, after)[None],
                "beam_idx": np.zeros(1, np.int32),
            }
        )
        self._count = after

    def fill(self, count: int) -> None:
        self._request.reset_state()
        self._count = 0
        while left := count - self._count:
            self._put(min(CHUNK, left))

    def token(self, fill: int) -> None:
        self._put(1)

    def prompt(self) -> NDArray[np.float32]:
        self._request.reset_state()
        self._count = 0
        self._put(CHUNK)
        return np.array(self._request.get_output_tensor(0).data)


OPENED: Mapping[str, Callable[[Path, int], Decoder]] = {
    "eager": Eager,
    "tflite": LiteRT,
    "executorch": ExecuTorch,
    "coreml": Evaluator,
    "onnxruntime-genai": OnnxGenAI,
    "openvino": OpenVino,
}


def clocked(decoder: Decoder, fills: Sequence[int], tokens: int, prompts: int) -> dict[str, list[float]]:
    """Milliseconds of each run: of a token at each fill, and of a prompt."""

    def clock(run: Callable[[], object]) -> float:
        began = time.perf_counter()
        run()
        return 1e3 * (time.perf_counter() - began)

    found = {}
    for fill in fills:
        decoder.fill(fill - 1)
        found[f"token_at_{fill}"] = [clock(partial(decoder.token, fill)) for _ in range(tokens + 2)][2:]
    found[f"prompt_{CHUNK}"] = [clock(decoder.prompt) for _ in range(prompts + 1)][1:]
    return found


def main() -> None:
    """Opens one, and prints its times as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("toolchain", choices=OPENED)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--prompts", type=int, default=3)
    options = parser.parse_args()
    decoder = OPENED[options.toolchain](options.folder, options.threads)
    times = clocked(decoder, FILLS, options.tokens, options.prompts)
    print(json.dumps({"ms": times, "peak_rss_mb": round(peak_rss_mb(), 1)}))


if __name__ == "__main__":
    with plain_errors():
        main()
