"""Core ML: one `<component>.mlpackage` each, an ML Program that Xcode takes as it is; of a model that talks, two.

Format: https://apple.github.io/coremltools/mlmodel/index.html
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgevlm.bundle.dialogue import DECODE, EMBED_TOKENS
from edgevlm.bundle.recipe import Recipe
from edgevlm.bundle.spec import Array, TensorSpec
from edgevlm.converters.coreml import patches
from edgevlm.converters.coreml.footprint import footprint
from edgevlm.converters.coreml.metadata import SPECIFICATION
from edgevlm.converters.coreml.weights import (
    compress_with_coremltools,
    integer_weights_pass,
    require_compressed,
)
from edgevlm.converters.requirements import require
from edgevlm.errors import UnsupportedError
from edgevlm.graphs import patches as torch_patches
from edgevlm.graphs.capture import capture, kind, place
from edgevlm.graphs.program import Program, Programs, components
from edgevlm.process import interrupts
from edgevlm.process.progress import Countdown, Progress, silent
from edgevlm.process.quiet import quiet
from edgevlm.targets.converter import BundleFile, OpRange, Unsupported

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from torch.fx import GraphModule, Node

    from edgevlm.bundle.manifest import Manifest
    from edgevlm.graphs.outline import Outline
    from edgevlm.targets.converter import Footprint

LANGUAGE = "language"
"""The package of a model that talks that takes words and gives them."""
# https://apple.github.io/coremltools/mlmodel/Format/Model.html: the first systems to read a specification version.
_SYSTEMS = {
    6: {"iOS": "15", "macOS": "12"},
    7: {"iOS": "16", "macOS": "13"},
    8: {"iOS": "17", "macOS": "14"},
    9: {"iOS": "18", "macOS": "15"},
    10: {"iOS": "26", "macOS": "26"},
}
_FUNCTIONS = "iOS18"
"""The first system that has packages of several functions, and states."""
# Squares summed in float16 overflow from a norm of 256 on; the norm of one embedding costs nothing in float32.
_FLOAT32_OPS = {"reduce_l2_norm", "reduce_sum_square", "square", "pow", "cumsum"}
_FLOAT32_KINDS = {"linalg_vector_norm", "norm", "square", "pow", "cumsum"}  # what becomes these


class CoreMLConverter:
    """Lowers each component to an ML Program that takes a CVPixelBuffer and returns float32."""

    target = "coreml"

    def unsupported(self, programs: Programs, recipe: Recipe) -> tuple[Unsupported, ...]:
        """Nothing."""
        return ()

    def audit(
        self, programs: Programs, recipe: Recipe, samples: Mapping[str, Array], progress: Progress
    ) -> tuple[OpRange, ...]:
        """What float16 would make of the ops, of which all but a few are computed in it."""
        from edgevlm.converters.audit import audit

        with quiet():
            graphs = {name: _capture(program) for name, program in programs.items()}
            return audit(graphs, programs, recipe, samples, _half_ops, progress)

    def lower(
        self, programs: Programs, recipe: Recipe, out_dir: Path, progress: Progress = silent
    ) -> tuple[BundleFile, ...]:
        """Writes one `.mlpackage` a component, or one for words, for the oldest system that has all its ops.

        Raises:
            MissingDependency: coremltools is not installed.
            UnsupportedError: an op that coremltools cannot convert; the message names it.
            OSError: a package cannot be written.
        """
        require("coremltools", extra=self.target)
        with quiet():
            patches.bring_in()
        files, countdown = [], Countdown(progress, "coreml: lowering", len(programs))
        for name in dict.fromkeys(map(_package, components(programs))):
            package = out_dir / f"{name}.mlpackage"
            group = {key: program for key, program in programs.items() if _package(program.spec.name) == name}
            if [*group] == [name]:
                countdown.next(name)
                files.append(_lower(group[name], recipe, package, _least_system(recipe)))
            else:
                files.append(_lower_functions(group, recipe, package, countdown))
        return tuple(files)

    def describe(self, manifest: Manifest, folder: Path) -> None:
        """Fills in what Xcode shows of each package, and what an app can read of a model without its manifest."""
        from edgevlm.converters.coreml.metadata import describe

        for file in {component.file for component in manifest.components.values()}:
            describe(folder / file, manifest)

    def forecast(self, outlines: Mapping[str, Outline], recipe: Recipe) -> Footprint:
        """What the packages are expected to take, and the least systems."""
        packages: dict[str, dict[str, Outline]] = {}
        for name, outline in outlines.items():
            packages.setdefault(_package(outline.component or name), {})[name] = outline
        version = {None: 6, "iOS16": 7, "iOS17": 8, "iOS18": 9}[_least_system(recipe)]
        return footprint([*packages.values()], recipe, _SYSTEMS[9 if LANGUAGE in packages else version])


def _package(component: str) -> str:
    """Which package answers a component: what reads words and what says them share a table of tokens."""
    return LANGUAGE if component in (EMBED_TOKENS, DECODE) else component


def _lower_functions(programs: Programs, recipe: Recipe, package: Path, countdown: Countdown) -> BundleFile:
    """One package with several functions, which share their weights; it takes iOS 18.

    The default one is the first of the last component.
    """
    from coremltools.models.utils import MultiFunctionDescriptor, save_multifunction  # type: ignore[import-untyped]

    with interrupts.temporary_folder() as folder:
        descriptor = MultiFunctionDescriptor()
        for name, program in programs.items():
            countdown.next(name)
            path = folder / f"{name}.mlpackage"
            _lower(program.implicit() if _keeps_state(recipe) else program, recipe, path, _FUNCTIONS)
            descriptor.add_function(str(path), src_function_name="main", target_function_name=name)
        last = components(programs)[-1]
        descriptor.default_function_name = next(name for name, each in programs.items() if each.spec.name == last)
        with quiet(), patches.applied():
            save_multifunction(descriptor, str(package))
    _make_reproducible(package)
    return BundleFile(package.name, components(programs), requires=_SYSTEMS[9])


def _lower(program: Program, recipe: Recipe, package: Path, least: str | None) -> BundleFile:
    name = program.spec.name
    with quiet(), torch_patches.applied(), patches.applied():
        model = _convert(program, recipe, least)
        require_compressed(model, program, recipe)
        # The rest of what coremltools writes here (its version and torch's) depends on the inputs alone.
        model.user_defined_metadata.pop("com.github.apple.coremltools.conversion_date", None)
        model.save(str(package))
        _make_reproducible(package)
    version = model.get_spec().specificationVersion
    pictures = tuple(tensor.name for tensor in program.spec.inputs if is_image(tensor))
    return BundleFile(path=package.name, components=(name,), requires=_SYSTEMS[version], pictures=pictures)


def _capture(program: Program) -> ExportedProgram:
    from edgevlm.graphs import kv_cache

    # coremltools takes no other dialect
    exported: ExportedProgram = capture(program).run_decompositions({kv_cache.UPDATE: kv_cache.written_out})
    patches.tell_apart(exported)
    return exported


def _convert(program: Program, recipe: Recipe, least: str | None) -> Any:
    import coremltools as ct  # type: ignore[import-untyped]

    passes = patches.sound_passes()
    compress_with_coremltools(passes, program, recipe)
    if recipe.quantises:
        from edgevlm.converters.integers import baked

        program, weights = baked(program)
        passes.append_pass(integer_weights_pass(weights))
    exported = _capture(program)
    precision = (
        ct.precision.FLOAT32
        if recipe.precision == "fp32"
        else ct.transform.FP16ComputePrecision(op_selector=_op_selector(exported, program.spec.name, recipe))
    )
    try:
        return ct.convert(
            exported,
            convert_to="mlprogram",
            inputs=[_input_type(tensor) for tensor in program.spec.inputs],
            # Without a dtype, a float16 program returns float16 where the system allows it.
            outputs=[ct.TensorType(name=tensor.name, dtype=_dtype(tensor)) for tensor in program.spec.outputs],
            compute_precision=precision,
            minimum_deployment_target=getattr(ct.target, least) if least else None,
            pass_pipeline=passes,
            skip_model_load=True,
        )
    except (NotImplementedError, ValueError, RuntimeError) as error:
        first_line = str(error).strip().partition("\n")[0]
        raise UnsupportedError(f"{program.spec.name}: coremltools cannot convert it: {first_line}") from error


def _keeps_state(recipe: Recipe) -> bool:
    """Whether a component's state is the package's own, which is float16; float32 goes in and comes out."""
    return recipe.precision == "fp16"


def _least_system(recipe: Recipe) -> str | None:
    """The first system whose ops hold what the recipe asks for; None leaves the choice to coremltools."""
    if recipe.weights.dtype == "int4" or (recipe.quantises and recipe.weights.sparsity):
        return "iOS18"  # constexpr_blockwise_shift_scale, constexpr_sparse_blockwise_shift_scale
    if recipe.activations.ranges == "static":
        return "iOS17"  # quantize, dequantize
    if recipe.weights.dtype != "float" or recipe.weights.sparsity:
        return "iOS16"  # constexpr_affine_dequantize, constexpr_lut_to_dense, constexpr_sparse_to_dense
    return None


def is_image(tensor: TensorSpec) -> bool:
    """Whether Core ML should take this input as a picture, so that an app can pass a CVPixelBuffer."""
    return tensor.name == "pixels" and tensor.dtype == "float32" and len(tensor.shape) == 4 and tensor.shape[1] == 3


def _input_type(tensor: TensorSpec) -> Any:
    import coremltools as ct

    if is_image(tensor):
        return ct.ImageType(name=tensor.name, shape=tensor.shape, color_layout=ct.colorlayout.RGB)
    return ct.TensorType(name=tensor.name, shape=tensor.shape, dtype=_dtype(tensor))


def _dtype(tensor: TensorSpec) -> Any:
    import numpy as np

    return {"float32": np.float32, "int32": np.int32}[tensor.dtype]


def _op_selector(exported: ExportedProgram, component: str, recipe: Recipe) -> Callable[[Any], bool]:
    """Whether a MIL op computes in float16. coremltools hands a node's debug handle on to all ops that come of it."""
    from coremltools.converters.mil.mil.scope import ScopeSource  # type: ignore[import-untyped]

    kept = set()
    for handle, node in enumerate(exported.graph.nodes):
        node.meta["debug_handle"] = handle
        if recipe.keeps_float32(place(component, node)):
            kept.add(handle)

    def computes_in_fp16(op: Any) -> bool:
        return _tolerates_fp16(op) and kept.isdisjoint(op.scopes.get(ScopeSource.EXIR_DEBUG_HANDLE, ()))

    return computes_in_fp16


def _tolerates_fp16(op: Any) -> bool:
    """All but norms, and ops on numbers that were integers: float16 counts to 2048 only, a vocabulary further."""
    if op.op_type in _FLOAT32_OPS:
        return False
    producers = [value.op for value in op.inputs.values() if getattr(value, "op", None) is not None]
    return not any(producer.op_type == "cast" and producer.x.dtype.__name__.startswith("int") for producer in producers)


def _half_ops(module: GraphModule, keeps: Callable[[Node], bool]) -> set[Node]:
    """The same, asked before there are MIL ops: what of a graph will be computed in float16."""

    def was_integer(value: Node) -> bool:
        return kind(value) in ("to", "_to_copy") and "int" in str(value.all_input_nodes[0].meta["val"].dtype)

    return {
        node
        for node in module.graph.nodes
        if node.op == "call_function"
        and kind(node) not in _FLOAT32_KINDS
        and not any(map(was_integer, node.all_input_nodes))
        and not keeps(node)
    }


def _make_reproducible(package: Path) -> None:
    """Removes what differs between two runs: a debugging file, random item ids, the order of map entries."""
    from coremltools.proto import Model_pb2  # type: ignore[import-untyped]

    (package / "executorch_debug_handle_mapping.json").unlink(missing_ok=True)
    path = package / SPECIFICATION
    spec = Model_pb2.Model.FromString(path.read_bytes())
    path.write_bytes(spec.SerializeToString(deterministic=True))
    manifest = package / "Manifest.json"
    data = json.loads(manifest.read_text(encoding="utf-8"))
    items = data["itemInfoEntries"]
    ids = {item: str(uuid.uuid5(uuid.NAMESPACE_URL, entry["path"])) for item, entry in items.items()}
    data["itemInfoEntries"] = {ids[item]: items[item] for item in sorted(items, key=ids.__getitem__)}
    data["rootModelIdentifier"] = ids[data["rootModelIdentifier"]]
    manifest.write_text(json.dumps(data, indent=4, sort_keys=True) + "\n", encoding="utf-8")
