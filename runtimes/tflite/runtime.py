"""The TFLite runtime: LiteRT's interpreter, or its predecessor `tflite_runtime` where only that is installed.

LiteRT's newer `CompiledModel` is left alone: it accepts a short buffer and a wrong dtype, and a truncated file
ends the process.
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgevlm.bundle.dialogue import DECODE, EMBEDDINGS, FEATURES, LOGITS, POSITIONS
from edgevlm.bundle.integer_weights import StoredWeight
from edgevlm.bundle.manifest import BundledComponent
from edgevlm.bundle.spec import Array, ComponentSpec
from edgevlm.errors import TensorError
from edgevlm.runtimes.tflite import runner
from edgevlm.runtimes.tflite.file import (
    alone,
    contents,
    interpreter_class,
    is_container,
    load,
    require_schema,
    signature,
)
from edgevlm.targets import litert_lm
from edgevlm.targets.boundary import find_component, length_of, validate_inputs, validate_threads
from edgevlm.targets.inspection import Advice, OpCount
from edgevlm.targets.litert_lm import AMONG_WORDS, EMBEDDER, IMAGES, INPUT_POS, VISION_ENCODER, Beside
from edgevlm.targets.runtime import SerialSession, TracedOp

if TYPE_CHECKING:
    from edgevlm.bundle.bundle import Bundle

_WEIGHTED = {"FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D", "EMBEDDING_LOOKUP"}
_DTYPES = {"float32": "fp32", "float16": "fp16", "bool_": "bool"}


class TFLiteRuntime:
    """Opens bundles of one .tflite whose signatures are the components, or of LiteRT-LM's container."""

    target = "tflite"

    def open(self, bundle: Bundle, *, threads: int | None = None) -> TFLiteSession:
        """Loads the file; memory for a component is allocated when it first runs.

        Args:
            threads: CPU threads; None leaves the choice to the interpreter, which takes one.

        Raises:
            BundleError: the file is damaged, or lacks a signature or a tensor that the manifest names.
            MissingDependency: neither ai-edge-litert nor tflite-runtime is installed.
        """
        validate_threads(threads)
        files = {file: bundle.path / file for file in {each.file for each in bundle.components.values()}}
        interpreters, beside = {file: load(path, threads) for file, path in files.items()}, _beside(bundle)
        runners = {
            name: (each.spec, signature(interpreters[each.file], each.spec, files[each.file], beside))
            for name, each in bundle.functions.items()
        }
        kind = ContainerSession if any(map(is_container, files.values())) else TFLiteSession
        return kind(runners, bundle.components)

    def inspect(self, bundle: Bundle) -> dict[str, tuple[OpCount, ...]]:
        """The ops of each component, and which of them XNNPACK takes on this machine.

        Raises:
            BundleError: the file is damaged.
            MissingDependency: neither ai-edge-litert nor tflite-runtime is installed.
        """
        return {
            name: _count_ops(_operators(bundle.path / component.file, component.spec, _beside(bundle)))
            for name, component in bundle.functions.items()
        }

    def stored_weights(self, bundle: Bundle) -> dict[str, tuple[StoredWeight, ...]]:
        """The integer weights of each component, read from the file.

        Raises:
            BundleError: the file is damaged.
            MissingDependency: ai-edge-litert is not installed.
        """
        found: dict[str, dict[str, tuple[StoredWeight, ...]]] = {}
        for file in {component.file for component in bundle.components.values()}:
            load(bundle.path / file, None)
            require_schema()
            from edgevlm.runtimes.tflite.weights import stored_weights

            found[file] = {
                name: weights
                for content in contents(bundle.path / file)
                for name, weights in stored_weights(content).items()
            }
        return {name: found[component.file][name] for name, component in bundle.functions.items()}

    def runner_name(self, bundle: Bundle) -> str | None:
        """LiteRT-LM; None where it is not installed, or the bundle is no container of its that it can ask."""
        held = _is_contained(bundle) and not _refusal(bundle)
        return runner.NAME if held and runner.is_installed() else None

    def advice(self, bundle: Bundle) -> dict[str, tuple[Advice, ...]]:
        """What an app should know of LiteRT-LM, by component; nothing where the bundle is no container of its."""
        dialogue, image = bundle.manifest.dialogue, bundle.manifest.image
        if dialogue is None or not _is_contained(bundle):
            return {}
        if refused := _refusal(bundle):
            return runner.advice_refused(refused)
        return runner.advice(dialogue, (image.height, image.width), _beside(bundle))

    def open_runner(self, bundle: Bundle) -> runner.LiteRTLM:
        """See `edgevlm.targets.app_runner.RunnerTarget`."""
        decoder, dialogue, image = bundle.components[DECODE], bundle.manifest.dialogue, bundle.manifest.image
        assert dialogue is not None
        vocabulary = next(tensor.shape[-1] for tensor in decoder.spec.outputs if tensor.name == LOGITS)
        context = _beside(bundle).positions + dialogue.context_length
        return runner.LiteRTLM(bundle.path / decoder.file, dialogue, vocabulary, context, (image.height, image.width))

    def trace(self, bundle: Bundle, component: str, inputs: Mapping[str, Array]) -> tuple[TracedOp, ...]:
        """Runs one component once on the interpreter's own kernels: XNNPACK keeps to itself what it computes.

        Raises:
            TensorError: there is no such component, or an input is not what its spec says.
            BundleError: the file is damaged.
            MissingDependency: ai-edge-litert is not installed.
        """
        found = find_component(dict(bundle.components), component)
        name = found.function(length_of(found.spec, validate_inputs(found.spec, inputs)))
        path, spec = bundle.path / found.file, bundle.functions[name].spec
        tracing = _Tracing(path, spec, _beside(bundle))
        kind = ContainerSession if is_container(path) else TFLiteSession
        with kind({name: (spec, tracing)}, bundle.components) as session:
            session.run(component, inputs, session.make_state(component) if found.spec.state else None)
        return tracing.ops


class TFLiteSession(SerialSession[Any]):
    """An open TFLite bundle, with the interpreter's runner of each signature."""

    evidence = "host-runtime"

    def _compute(self, spec: ComponentSpec, runner: Any, arrays: Mapping[str, Array]) -> dict[str, NDArray[np.float32]]:
        try:
            answers: dict[str, NDArray[np.float32]] = runner(**arrays)
        except (RuntimeError, ValueError) as error:
            raise TensorError(
                f"{spec.name}: the interpreter refused to run: {error}", hint="token ids must be in the vocabulary"
            ) from error
        return answers


class ContainerSession(TFLiteSession):
    """An open container of LiteRT-LM's, whose functions are called as `edgevlm.targets.litert_lm.called` says.

    A picture that is beside the words is given as the caches that it would be written into.
    """

    def __init__(
        self, functions: Mapping[str, tuple[ComponentSpec, Any]], components: Mapping[str, BundledComponent]
    ) -> None:
        super().__init__(functions, components)
        self._beside = litert_lm.beside_of(components)

    def _compute(self, spec: ComponentSpec, runner: Any, arrays: Mapping[str, Array]) -> dict[str, NDArray[np.float32]]:
        if spec.name == VISION_ENCODER:
            [pixels] = arrays.values()
            images = np.ascontiguousarray(pixels.transpose(0, 2, 3, 1), np.float32) / np.float32(255)
            answers = super()._compute(spec, runner, {IMAGES: images})
            return self._apart(answers[FEATURES]) if self._beside.tensors else answers
        if spec.name == EMBEDDER:
            [(name, ids)], width = arrays.items(), spec.outputs[0].shape[-1]
            rows = [
                super(ContainerSession, self)._compute(spec, runner, {name: ids[:, place : place + 1]})[EMBEDDINGS]
                for place in range(ids.shape[1])
            ]
            return {EMBEDDINGS: np.concatenate([row[..., :width] for row in rows], axis=1)}
        return self._decode(spec, runner, arrays)

    def _apart(self, rows: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Rows as the tensors that stand in them side by side, [1, heads, P, D] each."""
        tensors, widths = self._beside.tensors, self._beside.widths
        patches = rows.reshape(-1, sum(widths))[: tensors[0].shape[2]]
        parts = np.split(patches, np.cumsum(widths)[:-1], axis=-1)
        return {
            each.name: part.reshape(1, len(part), each.shape[1], each.shape[3]).transpose(0, 2, 1, 3)
            for each, part in zip(tensors, parts, strict=True)
        }

    def _decode(self, spec: ComponentSpec, runner: Any, arrays: Mapping[str, Array]) -> dict[str, NDArray[np.float32]]:
        """Where there is padding the last row is run once more, alone: a container answers for the last of all rows.

        But one whose rows may all see each other, which is told which of them are padding.
        """
        rows, places, *_ = (arrays[name] for name in (EMBEDDINGS, POSITIONS))
        count, first = int((places >= 0).sum()), int(places[0, 0])
        if first < 0 or not np.array_equal(places[0, :count], np.arange(first, first + count)):
            raise TensorError(
                f"{spec.name}: expected positions that stand behind each other, and -1 behind them, got "
                f"{places[0, :8].tolist()}"
            )
        beside = self._beside
        missing = beside.width(rows.shape[-1]) - rows.shape[-1]
        wide = np.pad(np.asarray(rows, np.float32), ((0, 0), (0, 0), (0, missing)))
        first += beside.positions
        caches = {each.name: beside.cache(each) for each in spec.inputs if each.name not in (EMBEDDINGS, POSITIONS)}
        state = {there.name: arrays[name].reshape(there.shape) for name, there in caches.items()}
        asked = places[0] if spec.prefix else first + np.arange(rows.shape[1], dtype=np.int32)
        answers = super()._compute(spec, runner, {EMBEDDINGS: wide, INPUT_POS: asked, **state})
        if count < rows.shape[1] and not spec.prefix:
            state |= {name: answers[name] for name in state.keys() & answers.keys()}
            last: dict[str, Array] = {
                EMBEDDINGS: wide[:, count - 1 : count],
                INPUT_POS: np.array([first + count - 1], np.int32),
            }
            answers = super()._compute(spec, self._functions[DECODE][1], {**last, **state})
        kept = [each for each in spec.inputs if each.written in {answer.name for answer in spec.outputs}]
        written = {each.written: answers[caches[each.name].name].reshape(each.shape) for each in kept}
        return {LOGITS: answers[LOGITS][:, 0], **written}


def _refusal(bundle: Bundle) -> str:
    """Why LiteRT-LM cannot ask a container, if it cannot."""
    dialogue = bundle.manifest.dialogue
    if bundle.components[DECODE].spec.prefix:
        return "it puts the last token of a question in a run of its own, and this decoder takes it with the picture"
    if dialogue is not None and dialogue.spelling is not None and _beside(bundle).tensors:
        return (
            "it puts rows in the place of a picture's token, and this decoder takes the token, and the picture beside"
        )
    return ""


def _beside(bundle: Bundle) -> Beside:
    """What a decoder in a container takes beside its rows."""
    return litert_lm.beside_of(bundle.components) if _is_contained(bundle) else AMONG_WORDS


def _is_contained(bundle: Bundle) -> bool:
    return any(is_container(bundle.path / component.file) for component in bundle.components.values())


class _Tracing:
    """A function of a file, called as the runner of its signature is, which keeps what each op computed the last time.

    Args:
        path: The file.
        spec: The function's, by its name there.
        beside: What a decoder in a container takes beside its rows.
    """

    def __init__(self, path: Path, spec: ComponentSpec, beside: Beside) -> None:
        content, *_ = alone(path, spec, beside)
        module = importlib.import_module(interpreter_class().__module__)
        self._interpreter = module.Interpreter(
            model_content=content,
            num_threads=1,
            experimental_preserve_all_tensors=True,
            experimental_op_resolver_type=module.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )
        self._interpreter.allocate_tensors()
        self._tensors = self._interpreter._get_full_signature_list()[spec.name]
        self.ops: tuple[TracedOp, ...] = ()

    def __call__(self, **arrays: Array) -> dict[str, NDArray[np.float32]]:
        for name, index in self._tensors["inputs"].items():
            self._interpreter.set_tensor(index, arrays[name])
        self._interpreter.invoke()
        self.ops = tuple(_traced(self._interpreter))
        return {name: self._interpreter.get_tensor(index) for name, index in self._tensors["outputs"].items()}


def _traced(interpreter: Any) -> Iterator[TracedOp]:
    tensors = {detail["index"]: detail for detail in interpreter.get_tensor_details()}
    computed = {detail["index"] for detail in interpreter.get_input_details()}
    for op in interpreter._get_ops_details():
        for index in map(int, op["outputs"]):
            detail = tensors[index]
            scale, zero_point = detail["quantization"]
            value = interpreter.get_tensor(index).astype(np.float32)
            yield TracedOp(
                name=f"tensor {index}",
                kind=op["op_name"],
                reads=tuple(f"tensor {each}" for each in map(int, op["inputs"]) if each in computed),
                value=np.asarray((value - zero_point) * scale if scale else value, np.float32),
                origin=detail["name"],
            )
            computed.add(index)


def _operators(path: Path, spec: ComponentSpec, beside: Beside) -> list[dict[str, Any]]:
    """The interpreter's own account of a component's ops after delegation, and what the file stores weights as."""
    content, whole, subgraph = alone(path, spec, beside)
    interpreter = interpreter_class()(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    operators: list[dict[str, Any]] = interpreter._get_ops_details()
    schema = require_schema()
    graph = schema.Model.GetRootAs(whole).Subgraphs(subgraph)
    integers = {schema.TensorType.INT8: "int8", schema.TensorType.INT4: "int4"}
    for op in operators:
        weighted = op["op_name"] in _WEIGHTED and len(op["inputs"]) > 1
        op["weights"] = integers.get(graph.Tensors(int(op["inputs"][1])).Type(), "") if weighted else ""
    return operators


def _count_ops(ops: list[dict[str, Any]]) -> tuple[OpCount, ...]:
    """One row per kind, type and place.

    A delegate replaces ops in the plan and leaves them in the list, so what it took is found by walking from its
    outputs back to its inputs.
    """
    delegates = [op for op in ops if op["op_name"] == "DELEGATE"]
    originals = [op for op in ops if op["op_name"] != "DELEGATE"]
    producers = {int(tensor): op for op in originals for tensor in op["outputs"]}
    delegated: set[int] = set()
    for delegate in delegates:
        borders = {int(tensor) for tensor in delegate["inputs"]}
        pending = [int(tensor) for tensor in delegate["outputs"]]
        while pending:
            op = producers.get(pending.pop())
            if op is not None and op["index"] not in delegated:
                delegated.add(op["index"])
                pending += [int(tensor) for tensor in op["inputs"] if int(tensor) not in borders]
    rows = Counter(
        (op["op_name"], _dtype(op), "xnnpack" if op["index"] in delegated else "builtin", op["weights"])
        for op in originals
    )
    return tuple(OpCount(kind, count, *rest) for (kind, *rest), count in sorted(rows.items()))


def _dtype(op: dict[str, Any]) -> str:
    """The type that an op computes in: its result's, or its operand's where that is the point of the op."""
    if op["weights"] and op["op_name"] != "EMBEDDING_LOOKUP":
        return "int8"  # float inputs of such an op are quantised as they come
    types: list[str] = [np.dtype(each).name for each in op["result_types"]]
    if op["op_name"] == "DEQUANTIZE" or types[0].startswith("bool"):
        types = [np.dtype(each).name for each in op["operand_types"]]
    return _DTYPES.get(types[0], types[0])
