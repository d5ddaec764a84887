"""Each fault of a third party that EdgeVLM works around: that it is mended here, and that it is still there.

When a "still needed" test fails, upstream has mended the fault: remove the patch.
"""

from __future__ import annotations

import contextlib
import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import coremltools as ct
import library
import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder
from coremltools.converters.mil.mil import Program
from coremltools.converters.mil.mil.passes.pass_pipeline import PassPipelineManager
from torch import Tensor, nn
from torch.export import ExportedProgram, default_decompositions
from torch.fx.traceback import NodeSource

from edgevlm.bundle.recipe import BUILTIN
from edgevlm.converters.coreml import patches as coreml_patches
from edgevlm.converters.executorch import patches as executorch_patches
from edgevlm.converters.executorch.converter import decompositions
from edgevlm.converters.tflite import patches as tflite_patches
from edgevlm.graphs import patches as torch_patches
from edgevlm.targets import registry


class TanhGelu(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.gelu(x, approximate="tanh")


class Alias(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.aten.alias.default(x) * 2


EXAMPLE = torch.linspace(-4, 4, 64)[None]


def export(module: nn.Module, example: Tensor = EXAMPLE) -> ExportedProgram:
    return torch.export.export(module.eval(), (example,), strict=False)


def mil_ops(module: nn.Module) -> list[object]:
    program = ct.convert(export(module).run_decompositions({}), convert_to="milinternal")
    return list(program.functions["main"].operations)


def run_xnnpack(program: ExportedProgram, example: Tensor) -> Tensor:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower
    from executorch.extension.pybindings import _C

    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch()
    return _C._load_program_from_buffer(bytes(lowered.buffer)).load_method("forward")([example])[0]


def gelu_mode(module: nn.Module) -> str:
    (op,) = (op for op in mil_ops(module) if op.op_type == "gelu")
    return str(op.mode.val) if op.mode is not None else "EXACT"


def test_core_ml_tanh_gelu_stays_tanh() -> None:
    with coreml_patches.applied():
        assert gelu_mode(TanhGelu()) == "TANH_APPROXIMATION"
        assert gelu_mode(nn.GELU()) == "EXACT"


def test_core_ml_tanh_gelu_patch_is_still_needed() -> None:
    assert gelu_mode(TanhGelu()) == "EXACT"


class TanhBesideGelu(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.gelu(x.tanh(), approximate="tanh")


class FloorBesideDivision(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.floor(), torch.div(x, 3, rounding_mode="floor")


def mil_of(module: nn.Module, *, apart: bool) -> list[Any]:
    program = export(module).run_decompositions({})
    if apart:
        coreml_patches.tell_apart(program)
    with coreml_patches.applied():
        return list(ct.convert(program, convert_to="milinternal").functions["main"].operations)


def test_core_ml_takes_no_result_for_what_a_keyword_says() -> None:
    (gelu,) = (op for op in mil_of(TanhBesideGelu(), apart=True) if op.op_type == "gelu")
    assert gelu.mode.val == "TANH_APPROXIMATION"
    assert [op.op_type for op in mil_of(FloorBesideDivision(), apart=True)].count("floor_div") == 1


def test_telling_results_and_keywords_apart_is_still_needed() -> None:
    (gelu,) = (op for op in mil_of(TanhBesideGelu(), apart=False) if op.op_type == "gelu")
    assert gelu.mode.val == "EXACT"


def test_core_ml_converts_alias() -> None:
    with coreml_patches.applied():
        assert "mul" in [op.op_type for op in mil_ops(Alias())]


def test_core_ml_alias_patch_is_still_needed() -> None:
    with pytest.raises(NotImplementedError, match="alias"):
        mil_ops(Alias())


def test_core_ml_patches_are_taken_back_even_after_an_error() -> None:
    from coremltools.converters.mil.frontend.torch.torch_op_registry import _TORCH_OPS_REGISTRY

    before = dict(_TORCH_OPS_REGISTRY.name_to_func_mapping)
    with pytest.raises(KeyError), coreml_patches.applied():
        raise KeyError
    assert _TORCH_OPS_REGISTRY.name_to_func_mapping == before


def op_names() -> list[str]:
    @Builder.program(input_specs=[Builder.TensorSpec((1,))])
    def program(x: Any) -> Any:
        return Builder.relu(x=x)  # whoever writes it gives it no name

    return [op.name for op in program.functions["main"].operations]


def test_core_ml_programs_do_not_tell_what_was_converted_before() -> None:
    found = []
    for _ in range(2):
        with coreml_patches.applied():
            found.append(op_names())
    assert found[0] == found[1]


def test_numbering_ops_anew_is_still_needed() -> None:
    assert op_names() != op_names()


def times_checked(monkeypatch: pytest.MonkeyPatch) -> int:
    checked = []
    monkeypatch.setattr(Program, "validate", lambda self, **_: checked.append(self))

    @Builder.program(input_specs=[Builder.TensorSpec((1,))])
    def program(x: Any) -> Any:
        return Builder.relu(x=x, name="y")

    with coreml_patches.applied():
        PassPipelineManager.apply_pipeline(program, ct.PassPipeline.DEFAULT)
    program.validate()  # as before a program is written
    return len(checked)


def test_core_ml_programs_are_checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert times_checked(monkeypatch) == 1


def test_checking_core_ml_programs_once_is_still_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coreml_patches, "_validated_once", contextlib.nullcontext)
    assert times_checked(monkeypatch) > 50


def test_core_ml_patches_leave_another_version_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coreml_patches, "version", lambda package: "9.1")
    with coreml_patches.applied():
        assert gelu_mode(TanhGelu()) == "EXACT"


IMPORTED = """
import sys
{bring_in}
print([name for name in ("executorch", "sklearn", "torchao", "transformers") if name in sys.modules])
import coremltools.optimize, executorch
"""


def imported_with(bring_in: str) -> str:
    code = IMPORTED.format(bring_in=bring_in)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_core_ml_tools_come_without_the_frameworks_that_they_look_for() -> None:
    assert imported_with("from edgevlm.converters.coreml.patches import bring_in; bring_in()") == "[]"


@pytest.mark.slow
def test_hiding_the_frameworks_that_core_ml_tools_look_for_is_still_needed() -> None:
    assert imported_with("import coremltools") == "['executorch', 'sklearn', 'torchao', 'transformers']"


@pytest.mark.slow
def test_xnnpack_computes_tanh_gelu_once_it_is_written_out() -> None:
    answer = run_xnnpack(export(TanhGelu()).run_decompositions(decompositions()), EXAMPLE)
    torch.testing.assert_close(answer, TanhGelu()(EXAMPLE), atol=2e-6, rtol=0)


@pytest.mark.slow
def test_xnnpack_tanh_gelu_decomposition_is_still_needed() -> None:
    answer = run_xnnpack(export(TanhGelu()), EXAMPLE)
    torch.testing.assert_close(answer, nn.GELU()(EXAMPLE), atol=2e-6, rtol=0)
    assert (answer - TanhGelu()(EXAMPLE)).abs().max() > 1e-4


@pytest.mark.slow
def test_executorch_layer_norm_in_float32_is_still_needed() -> None:
    example = (torch.randn(1, 4, 768, generator=torch.Generator().manual_seed(0)) * 30).half()
    norm = nn.LayerNorm(768).half()
    answer = run_xnnpack(export(norm, example), example).float()
    expected = norm(example).float()
    assert not np.allclose(answer.numpy(), expected.detach().numpy(), atol=0.05)


def test_patches_are_pinned_to_the_installed_version() -> None:
    pinned = (Path(__file__).parents[1] / "pyproject.toml").read_text()
    assert f'"coremltools=={coreml_patches.PATCHED_VERSION}"' in pinned
    assert f'"executorch=={executorch_patches.PATCHED_VERSION}"' in pinned
    assert f'"litert-torch=={tflite_patches.PATCHED_VERSION}"' in pinned
    assert f'"torch>={torch_patches.PATCHED_TORCH.rstrip(".")},<' in pinned


class ScaleAndShift(nn.Module):
    """What normalises pixels: a product and a sum, a channel each."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.tensor([2.0, 3.0, 4.0]).reshape(1, 3, 1, 1) + torch.ones(1, 3, 1, 1)


def fused_ops(passes: ct.PassPipeline) -> dict[str, object]:
    program = ct.convert(
        export(nn.Sequential(ScaleAndShift(), nn.Flatten()), torch.ones(1, 3, 2, 2)).run_decompositions({}),
        convert_to="milinternal",
        pass_pipeline=passes,
    )
    return {op.op_type: op for op in program.functions["main"].operations}


def test_core_ml_normalises_pixels_without_an_epsilon() -> None:
    assert "batch_norm" not in fused_ops(coreml_patches.sound_passes())


def test_the_patch_of_the_fused_normalisation_is_still_needed() -> None:
    fused = fused_ops(ct.PassPipeline.DEFAULT)["batch_norm"]
    assert fused.epsilon.val == pytest.approx(1e-5)  # type: ignore[attr-defined]


class NormalisedPatches(nn.Module):
    """Pixels normalised by one number for all channels, then a convolution whose input is quantised as it comes."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4, bias=False).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        patches: Tensor = self.patches(x * 2.0 - 1.0)
        return patches


def dynamic_int8(module: nn.Module, pixels: Tensor) -> ExportedProgram:
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True, is_dynamic=True))
    prepared = prepare_pt2e(export(module, pixels).module(), quantizer)
    prepared(pixels)
    return torch.export.export(convert_pt2e(prepared), (pixels,), strict=False)


@pytest.mark.slow
def test_executorch_quantises_normalised_pixels_as_they_come() -> None:
    pixels = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    module = NormalisedPatches().eval()
    with executorch_patches.applied():
        answer = run_xnnpack(dynamic_int8(module, pixels), pixels)
    torch.testing.assert_close(answer, module(pixels), atol=0.05, rtol=0)


@pytest.mark.slow
def test_the_patch_of_executorchs_layouts_is_still_needed() -> None:
    pixels = torch.rand(1, 3, 8, 8)
    program = dynamic_int8(NormalisedPatches().eval(), pixels)
    with pytest.raises(RuntimeError, match="execute"):
        run_xnnpack(program, pixels)


# torch: a node's history is copied for every node of every pass


def test_a_history_is_shared_while_a_program_is_lowered() -> None:
    node = next(iter(export(Alias()).graph.nodes))
    node.meta["from_node"] = [NodeSource(node)]
    with torch_patches.applied():
        assert NodeSource(node).from_node[0] is node.meta["from_node"][0]
    assert NodeSource(node).from_node[0] is not node.meta["from_node"][0]  # else the patch is no longer needed


# torch: the dispatcher's ops are made known to Python for each namespace, at each decomposition


def times_made_known(monkeypatch: pytest.MonkeyPatch) -> int:
    """How often the dispatcher is asked for its ops while a program is decomposed."""
    asked = []
    ask = torch._C._dispatch_get_registrations_for_dispatch_key
    monkeypatch.setattr(torch._C, ask.__name__, lambda key: asked.append(key) or ask(key))
    decomposed = export(Alias()).run_decompositions()
    assert [node.target for node in decomposed.graph.nodes if node.op == "call_function"]
    return len(asked)


def test_ops_are_made_known_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with torch_patches.applied():
        assert times_made_known(monkeypatch) == 0


def test_making_ops_known_once_is_still_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert times_made_known(monkeypatch) > 2


# torch: a graph's code is written after each edit


def edited() -> tuple[torch.fx.GraphModule, bool]:
    """A product by three that was by two, and whether its code was written before anybody asked."""
    graph_module = export(Alias()).graph_module
    (product,) = (node for node in graph_module.graph.nodes if node.target is torch.ops.aten.mul.Tensor)
    product.args = (product.args[0], 3)
    graph_module.recompile()
    return graph_module, "_code" in vars(graph_module)


def test_a_graphs_code_is_written_when_it_is_asked_for() -> None:
    with torch_patches.applied():
        (called, written), (printed, _), (copied, _), (kept, _) = edited(), edited(), edited(), edited()
        assert not written
        assert called(torch.ones(1))[0] == 3
        called.graph.output_node().args = ((called.graph.find_nodes(op="placeholder")[0],),)
        called.recompile()
        assert called(torch.ones(1))[0] == 1
        assert ", 3)" in printed.code
        assert ", 3)" in str(printed)
        assert copy.deepcopy(copied)(torch.ones(1))[0] == 3
    assert kept(torch.ones(1))[0] == 3
    assert ", 3)" in kept.code


def test_writing_a_graphs_code_late_is_still_needed() -> None:
    assert edited()[1]


# ExecuTorch: what was decomposed is decomposed into nothing in particular


class Halved(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.silu(x) / 2


def test_what_was_decomposed_is_not_decomposed_for_nothing() -> None:
    def again(table: dict[Any, Any]) -> bool:
        program = export(Alias())
        once = program.run_decompositions(table)
        assert once is not program
        return once.run_decompositions({}) is once and once.run_decompositions(default_decompositions()) is once

    with executorch_patches.applied():
        assert again({})
        assert again(decompositions())
        halved = export(Halved()).run_decompositions({})  # by an op that the table takes apart
        assert halved.run_decompositions(default_decompositions()) is not halved
    assert not again({})  # else the patch is no longer needed


# ExecuTorch: every pass replays the graph, also one that changes nothing


def replays() -> tuple[bool, bool, bool]:
    """Whether a graph is another one after a pass that finds nothing, edits it, or computes each op in its own way."""
    from executorch.exir.pass_base import ExportPass
    from torch.fx import GraphModule

    class FindsNothing(ExportPass):  # type: ignore[misc]
        def call(self, graph_module: GraphModule) -> Any:
            return super().call(graph_module)

    class Edits(ExportPass):  # type: ignore[misc]
        def call(self, graph_module: GraphModule) -> Any:
            (product,) = (node for node in graph_module.graph.nodes if node.target is torch.ops.aten.mul.Tensor)
            product.args = (product.args[0], 3)
            return super().call(graph_module)

    class Computes(ExportPass):  # type: ignore[misc]
        def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
            return super().call_operator(op, args, kwargs, meta)

    def another(kind: Any) -> bool:
        graph_module = export(Alias()).graph_module
        result = kind()(graph_module)
        assert result.modified == (result.graph_module is not graph_module)
        return bool(result.modified)

    return another(FindsNothing), another(Edits), another(Computes)


def test_a_pass_that_changes_nothing_leaves_the_graph() -> None:
    with executorch_patches.applied():
        assert replays() == (False, True, True)


def test_leaving_the_graph_is_still_needed() -> None:
    assert replays() == (True, True, True)


# ExecuTorch: networks are exported to find what is written out in a graph, whether it has any such op or not


class Attention(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.scaled_dot_product_attention(x, x, x, attn_mask=torch.zeros(len(x), len(x)))


def patterns_looked_for(module: nn.Module, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    from executorch.backends.xnnpack._passes import convert_to_sdpa, convert_to_upsample_bilinear2d
    from executorch.backends.xnnpack.partition.graphs import bilinear_2d, sdpa
    from executorch.exir import to_edge

    found = set[str]()
    with monkeypatch.context() as patched:
        patched.setattr(sdpa, "get_graphs", lambda: found.add("attention") or ())
        patched.setattr(bilinear_2d, "get_graphs_dict", lambda: found.add("enlarging") or {})
        program = to_edge(export(module)).exported_program()
        for kind in (convert_to_sdpa.ConvertToSDPAPass, convert_to_upsample_bilinear2d.ConvertToUpsampleBilinear2d):
            kind(program)(program.graph_module)
    return found


def test_patterns_are_looked_for_where_their_ops_are(monkeypatch: pytest.MonkeyPatch) -> None:
    with executorch_patches.applied():
        assert patterns_looked_for(Alias(), monkeypatch) == set()
        assert patterns_looked_for(Attention(), monkeypatch) == {"attention"}


def test_looking_for_patterns_where_their_ops_are_is_still_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert patterns_looked_for(Alias(), monkeypatch) == {"attention", "enlarging"}


@pytest.mark.slow
def test_patterns_have_the_ops_that_they_are_looked_for_by() -> None:
    from executorch.backends.xnnpack.partition.graphs import bilinear_2d, sdpa
    from executorch.exir.dialects._ops import ops

    for graphs, op in (
        (sdpa.get_graphs(), ops.edge.aten.any.dim),
        (bilinear_2d.get_graphs(), ops.edge.aten.upsample_bilinear2d.vec),
    ):
        assert graphs
        assert all(any(node.target is op for node in each.graph.nodes) for each in graphs)


# LiteRT: a signature is decomposed twice, and what JAX lowers is kept for one signature


def litert_work(monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """How often a module is decomposed, and how many of its ops JAX lowers when it is converted once more."""
    import litert_torch
    from litert_torch.backend.jax_bridge import _wrap

    decomposed, lowered = [], []
    run, pack = ExportedProgram.run_decompositions, _wrap._stablehlo_to_vhlo
    with monkeypatch.context() as patched:
        patched.setattr(ExportedProgram, "run_decompositions", lambda *given: decomposed.append(1) or run(*given))
        patched.setattr(_wrap, "_stablehlo_to_vhlo", lambda text: lowered.append(1) or pack(text))
        for _ in range(2):
            decomposed.clear(), lowered.clear()
            with tflite_patches.applied():
                litert_torch.convert(Halved().eval(), (EXAMPLE,))
    return len(decomposed), len(lowered)


@pytest.mark.slow
def test_litert_does_each_once(monkeypatch: pytest.MonkeyPatch) -> None:
    decomposed, lowered = litert_work(monkeypatch)
    assert lowered == 0
    monkeypatch.setattr(tflite_patches, "PATCHED_VERSION", "another")  # else a patch is no longer needed
    more, lowered = litert_work(monkeypatch)
    assert more > decomposed
    assert lowered > 0


# ExecuTorch: a graph is copied to be sorted, for each partition


def sorted_graph() -> tuple[bool, bool]:
    """Whether a graph that was out of order is in order, and whether it is still the same one."""
    from executorch.exir import lowered_backend_module

    graph_module = export(Alias()).graph_module
    graph = graph_module.graph
    (product,) = (node for node in graph.nodes if node.target is torch.ops.aten.mul.Tensor)
    next(iter(graph.nodes)).prepend(product)
    lowered_backend_module.legalize_graph(graph_module)
    in_order = [(node.op, str(node.target)) for node in graph_module.graph.nodes]
    expected = [(node.op, str(node.target)) for node in export(Alias()).graph_module.graph.nodes]
    graph_module.graph.lint()
    return in_order == expected, graph_module.graph is graph


def test_a_graph_is_sorted_where_it_is() -> None:
    with executorch_patches.applied():
        assert sorted_graph() == (True, True)


def test_sorting_a_graph_where_it_is_is_still_needed() -> None:
    assert sorted_graph() == (True, False)


# ExecuTorch: partitions that need one another; all nodes behind each user of each pair of them are gone through


class Branches(torch.nn.Module):
    """Two branches that meet, one of them by way of what is in no partition."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        one, other = x.relu(), x.neg()
        return (one.exp() + other) * (one + 1).sin()


class Crossed(torch.nn.Module):
    """The sine needs the rectified, and the cosine the negated, each by way of what is in no partition."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x.relu().exp().sin(), x.neg().exp().cos()


def partitioner(network: torch.nn.Module, *together: str) -> Any:
    """Of all but exponentials: ops of these names in one partition, and the others by themselves at first."""
    from executorch.exir.backend.canonical_partitioners.group_partitioner import GroupBasedPartitioner
    from torch.fx.passes.operator_support import OperatorSupportBase

    class AllButExp(OperatorSupportBase):
        def is_node_supported(self, submodules: Any, node: torch.fx.Node) -> bool:
            return node.op == "call_function" and node.target is not torch.ops.aten.exp.default

    program = torch.export.export(network, (torch.ones(3),)).module()
    nodes = [node for node in program.graph.nodes if node.op == "call_function" and "exp" not in node.name]
    groups = [[node] for node in nodes if node.name not in together]
    groups += [[node for node in nodes if node.name in together]] if together else []
    return GroupBasedPartitioner(program, AllButExp(), allows_single_node_partition=True, node_groups=groups)


def partitions(made: Any) -> tuple[list[set[str]], int]:
    """Of each the names of its ops; how many sets of nodes were asked."""
    asked = []
    behind = made.dependency_viewer.downstreams_of
    made.dependency_viewer.downstreams_of = lambda node: asked.append(node) or behind(node)
    found = made.propose_partitions()
    return sorted(({node.name for node in each.nodes} for each in found), key=sorted), len(asked)


def test_partitions_are_told_by_bits() -> None:
    with executorch_patches.applied():
        found, asked = partitions(partitioner(Branches()))
    assert asked == 0
    assert len(found) == 2
    assert found == partitions(partitioner(Branches()))[0]


def test_telling_partitions_by_bits_is_still_needed() -> None:
    assert partitions(partitioner(Branches()))[1] > 0


def test_partitions_need_one_another_in_one_order() -> None:
    with executorch_patches.applied():
        made = partitioner(Crossed(), "relu", "cos")
        found = made.propose_partitions()
    assert sorted(sorted(node.name for node in each.nodes) for each in found) == [["cos", "relu"], ["neg"], ["sin"]]
    made.fuse_partitions(found)


def test_keeping_an_order_of_partitions_is_still_needed() -> None:
    made = partitioner(Crossed(), "relu", "cos")
    with pytest.raises(AssertionError, match="dependency cycles"):
        made.fuse_partitions(made.propose_partitions())


@pytest.mark.slow
@pytest.mark.parametrize("target", ["coreml", "executorch", "tflite"])
def test_the_same_bytes_are_written_without_what_saves_time(
    target: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    text = {"encode_text": library.towers()["encode_text"]}

    def lowered(folder: Path) -> dict[Path, bytes]:
        folder.mkdir()
        registry.converter(target).lower(text, BUILTIN["fp16"], folder)
        return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    patched = lowered(tmp_path / "patched")
    needless = ("_no_needless_decompositions", "_no_needless_replays", "_no_needless_patterns", "_partitions_in_order")
    for patch in needless:
        monkeypatch.setattr(executorch_patches, patch, contextlib.nullcontext)
    monkeypatch.setattr(tflite_patches, "applied", contextlib.nullcontext)
    monkeypatch.setattr(torch_patches, "applied", contextlib.nullcontext)
    monkeypatch.setattr(coreml_patches, "_validated_once", contextlib.nullcontext)
    assert lowered(tmp_path / "plain") == patched


# torch: the gradient of a strided 1x1 convolution of few channels, channels last, reads beyond its memory

STRIDED = """
import torch
torch.set_num_threads(1)
pixels = torch.rand(2, 3, 128, 128).to(memory_format=torch.channels_last)
{network}
network(pixels).sum().backward()
"""


def survives(network: str) -> bool:
    process = subprocess.run([sys.executable, "-c", STRIDED.format(network=network)], capture_output=True, check=False)
    return process.returncode == 0


@pytest.mark.slow
def test_a_hybrid_learns_from_pictures_of_128_pixels() -> None:
    assert survives(
        "from edgevlm.models.students.reparameterised import RepConv\n"
        "network = RepConv(3, 24, 3, stride=2).train().to(memory_format=torch.channels_last)"
    )


@pytest.mark.slow
def test_strided_pointwise_gradients_are_still_needed_to_be_avoided() -> None:
    mended = survives("network = torch.nn.Conv2d(3, 24, 1, stride=2).to(memory_format=torch.channels_last)")
    if mended and torch.__version__.startswith("2.13."):
        pytest.skip("this processor's kernels do not have the fault")
    assert not mended, "RepConv need not sample its input itself any more"
