"""ExecuTorch: one `model.pte` whose methods are the components, for XNNPACK on a phone's or a board's CPU.

Format: https://docs.pytorch.org/executorch/stable/pte-file-format.html
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgevlm.bundle.dialogue import DECODE, EMBED_TOKENS, ENCODE_IMAGE, Dialogue
from edgevlm.bundle.recipe import Recipe
from edgevlm.bundle.spec import Array
from edgevlm.converters.executorch import patches
from edgevlm.converters.executorch.footprint import footprint
from edgevlm.converters.requirements import require
from edgevlm.graphs import patches as torch_patches
from edgevlm.graphs.capture import capture, place, plain_attention
from edgevlm.graphs.program import Program, Programs, components
from edgevlm.process.progress import Countdown, Progress, silent
from edgevlm.process.quiet import quiet
from edgevlm.targets.converter import BundleFile, OpRange, Unsupported

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import torch
    from torch import Tensor
    from torch.export import ExportedProgram

    from edgevlm.graphs.outline import Outline
    from edgevlm.targets.converter import Footprint

FILE = "model.pte"
RUNNER = {ENCODE_IMAGE: "vision_encoder", EMBED_TOKENS: "token_embedding", DECODE: "text_decoder"}
"""What ExecuTorch's own MultimodalRunner, which is in its Swift and Kotlin packages too, calls the components."""
_ROWS = 512
"""That a method of a model that talks takes at once, as far as the context has so many."""
_GROUP = 32


class ExecuTorchConverter:
    """Lowers components to one .pte file; equal weights are stored once."""

    target = "executorch"

    def unsupported(self, programs: Programs, recipe: Recipe) -> tuple[Unsupported, ...]:
        """Weights that XNNPACK has no kernel for."""
        weights, ranges = recipe.weights, recipe.activations.ranges
        if weights.dtype.startswith("palette"):
            return (Unsupported("XNNPACK has no palettes", instead="--recipe int4-weights"),)
        if recipe.quantises and ranges == "float":
            return (
                Unsupported(
                    "XNNPACK has no kernel for integer weights beside float activations", instead="--recipe int8"
                ),
            )
        if weights.dtype == "int4" and weights.group_size % _GROUP:
            return (
                Unsupported(
                    f"XNNPACK's int4 groups are multiples of {_GROUP}, not {weights.group_size}",
                    instead=f"weights: {{group_size: {_GROUP}}}",
                ),
            )
        return ()

    def arrange(self, programs: Programs, dialogue: Dialogue) -> Programs:
        """A model that talks as ExecuTorch's runner wants it: each component once, for any number of rows."""
        longest = max(program.lengths[-1] for program in programs.values())
        picture = max((output.shape[1] for output in programs[ENCODE_IMAGE].spec.outputs), default=1)
        most = min(dialogue.context_length, max(_ROWS, longest, picture))
        constants = {
            "get_max_seq_len": most,
            "get_max_context_len": dialogue.context_length,
            "get_eos_ids": list(dialogue.end_ids),
            "use_kv_cache": True,
            "enable_dynamic_shape": True,
        }
        arranged = {RUNNER[name]: program.ranged(most) for name, program in programs.items()}
        return arranged | {RUNNER[DECODE]: replace(arranged[RUNNER[DECODE]], constants=constants)}

    def audit(
        self, programs: Programs, recipe: Recipe, samples: Mapping[str, Array], progress: Progress
    ) -> tuple[OpRange, ...]:
        """What float16 would make of the ops as they are lowered: attention and GELU's tanh form written out."""
        from edgevlm.converters.audit import audit
        from edgevlm.converters.half import half_ops

        if not _computes_in_fp16(recipe):
            return ()
        with quiet():
            graphs = {name: _capture(program) for name, program in programs.items()}
            return audit(graphs, programs, recipe, samples, half_ops, progress)

    def lower(
        self, programs: Programs, recipe: Recipe, out_dir: Path, progress: Progress = silent
    ) -> tuple[BundleFile, ...]:
        """Writes `model.pte`.

        In fp16, weights and arithmetic are float16 (XNNPACK computes them natively on Armv8.2-A with FP16 and
        on x86 with F16C), inputs and outputs float32.

        Raises:
            MissingDependency: executorch is not installed.
            OSError: the file cannot be written.
        """
        require("executorch", extra=self.target)
        countdown = Countdown(progress, "executorch: lowering", len(programs) + 1)
        with quiet(), torch_patches.applied(), patches.applied():
            exported = {}
            for name, program in programs.items():
                countdown.next(name)
                exported[name] = _prepare(program, recipe)
            countdown.next(FILE)
            constants = {name: value for program in programs.values() for name, value in program.constants.items()}
            lowered = _lower(exported, constants)
        with (out_dir / FILE).open("wb") as file:
            lowered.write_to_file(file)  # in pieces: `lowered.buffer` would be a second copy of the weights
        return (BundleFile(FILE, components(programs), requires=_requires(recipe)),)

    def forecast(self, outlines: Mapping[str, Outline], recipe: Recipe) -> Footprint:
        """What the file is expected to take, and the least runtime: that of the executorch that is installed.

        Raises:
            MissingDependency: none is.
        """
        require("executorch", extra=self.target)
        return footprint(outlines, recipe, _requires(recipe))


def _requires(recipe: Recipe) -> dict[str, str]:
    requires = {"executorch": _version()}
    if _computes_in_fp16(recipe):
        requires["cpu"] = "Armv8.2-A FP16 or x86-64 F16C"
    return requires


def _computes_in_fp16(recipe: Recipe) -> bool:
    """XNNPACK's integer kernels take and give float32."""
    return recipe.precision == "fp16" and not recipe.quantises


def _capture(program: Program) -> ExportedProgram:
    # Only the ops in the table are replaced; every other one stays whole.
    exported: ExportedProgram = capture(program).run_decompositions(decompositions())
    return exported


def _written_out(exported: ExportedProgram) -> ExportedProgram:
    """A graph of the ops that XNNPACK's partitioner takes whole, and of core ATen's.

    `to_edge_transform_and_lower` writes a graph out so too, but not one that is already: one time replaces two.
    """
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner  # type: ignore[import-untyped]

    table: dict[Any, Any] = dict(torch.export.default_decompositions())
    whole, _ = XnnpackPartitioner().ops_to_not_decompose(exported)
    for op in whole:
        table.pop(op, None)
    table.update(decompositions())
    result: ExportedProgram = exported.run_decompositions(table)
    return result


def _prepare(program: Program, recipe: Recipe) -> ExportedProgram:
    if recipe.quantises:
        from edgevlm.converters.integers import with_dynamic_activations, with_int8_embeddings

        program = with_int8_embeddings(program)
        if recipe.activations.ranges == "dynamic":
            program = with_dynamic_activations(program)
    if not _computes_in_fp16(recipe):
        return _as_called(program, program.module) if program.most else _written_out(capture(program))
    from edgevlm.converters.half import to_half

    name = program.spec.name
    halved = to_half(_capture(program), program, lambda node: recipe.keeps_float32(place(name, node)))
    return _as_called(program, halved.module(check_guards=False)) if program.most else halved


def _as_called(program: Program, module: torch.nn.Module) -> ExportedProgram:
    """A function as ExecuTorch's runner calls it: ids and positions are int64, and it keeps its state itself.

    Args:
        program: The function.
        module: What computes it, called as the program's.
    """
    import torch

    from edgevlm.converters.executorch.called import Called

    called = Called(program.spec, module)
    rows = torch.export.Dim("rows", min=1, max=program.most)
    shapes = (tuple(dict.fromkeys(axes, rows) for axes in called.axes()),)
    with plain_attention():
        exported = torch.export.export(called, called.inputs(program.example), dynamic_shapes=shapes, strict=False)
    return _written_out(exported)


def _lower(programs: dict[str, ExportedProgram], constants: dict[str, Any]) -> Any:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.backends.xnnpack.utils import configs  # type: ignore[import-untyped]
    from executorch.exir import ExecutorchBackendConfig, to_edge_transform_and_lower  # type: ignore[import-untyped]
    from executorch.exir.passes import MemoryPlanningPass  # type: ignore[import-untyped]

    edge = to_edge_transform_and_lower(
        programs,
        partitioner={name: [XnnpackPartitioner()] for name in programs},
        transform_passes=configs.get_transform_passes(),
        compile_config=configs.get_xnnpack_edge_compile_config(),
        constant_methods=constants or None,
    )
    if not constants:
        return edge.to_executorch()
    # In one arena with what other methods compute, a state would be overwritten where one runtime serves all methods.
    apart = MemoryPlanningPass(share_mutable_buffers=True)
    # Written in place, a state is not copied for each row.
    return edge.to_executorch(ExecutorchBackendConfig(memory_planning_pass=apart, run_reinplace_pass=True))


def decompositions() -> dict[Any, Callable[..., Any]]:
    """Ops that XNNPACK would compute wrongly or leave outside, written out in ops that it takes whole."""
    import torch

    from edgevlm.graphs import kv_cache
    from edgevlm.graphs.attention import attention

    return {
        kv_cache.UPDATE: kv_cache.written_out,
        torch.ops.aten.gelu.default: _gelu,
        torch.ops.aten.scaled_dot_product_attention.default: attention,
    }


def _gelu(x: Tensor, *, approximate: str = "none") -> Any:
    """GELU's tanh form; XNNPACK has only the exact one and would use it in silence (4.7e-4 an activation)."""
    import torch

    if approximate != "tanh":
        return NotImplemented
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * (x * x * x))))


def _version() -> str:
    """Runtimes read files of their own minor version and of older ones."""
    from importlib.metadata import version

    return ".".join(version("executorch").split(".")[:2])
