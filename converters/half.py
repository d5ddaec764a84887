"""Float16 arithmetic for a captured graph, where a target takes its precision from the graph itself.

`module.half()` is not enough: it breaks on modules that name a dtype (`.float()`, `softmax(dtype=float32)`),
rounds the 0..255 pixels' normalisation, and squares an embedding in float16 to find its norm. Here precision
follows the data: float32 in, float16 from the first matrix product on, float32 for norms, float32 out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node

from edgevlm.graphs.capture import recapture
from edgevlm.graphs.program import Program

_aten = torch.ops.aten
FP16_MAX = 65504.0

# Where the time and the bytes go: always float16.
_HALF = {
    _aten.linear.default, _aten.conv2d.default, _aten.matmul.default, _aten.bmm.default, _aten.mm.default,
    _aten.addmm.default, _aten.embedding.default,
}  # fmt: skip
# Sums of squares leave float16's range, or lose its last digits, where the values themselves do not: above all
# in ExecuTorch's portable layer norm, which sums in its input's type. GELU is delegated in float32 only.
_FLOAT = {
    _aten.layer_norm.default, _aten.group_norm.default, _aten.linalg_vector_norm.default,
    _aten.norm.ScalarOpt_dim, _aten.pow.Tensor_Scalar, _aten.sum.dim_IntList, _aten.mean.dim, _aten.var.correction,
    _aten.rsqrt.default, _aten.cumsum.default, _aten.gelu.default,
}  # fmt: skip
_CASTS = {_aten.to.dtype, _aten._to_copy.default, _aten.to.dtype_layout}


def to_half(exported: ExportedProgram, program: Program, keeps: Callable[[Node], bool]) -> ExportedProgram:
    """The same program with float16 weights and arithmetic between float32 inputs and outputs.

    Args:
        exported: A captured program, its attention already decomposed.
        program: Which.
        keeps: Whether an op must stay in float32.
    """
    module: Any = exported.module(check_guards=False)
    _HalfGraph(module, half_ops(module, keeps)).rewrite()
    return recapture(module, program)


def half_ops(module: GraphModule, keeps: Callable[[Node], bool]) -> set[Node]:
    """The ops of a float32 graph that will be computed in float16.

    Args:
        module: The graph.
        keeps: Whether an op must stay in float32.
    """
    half: set[Node] = set()
    for node in module.graph.nodes:
        follows = any(value in half and _is_float(module, value) for value in node.all_input_nodes)
        chosen = node.target in _HALF or (follows and node.target not in _FLOAT)
        if node.op == "call_function" and chosen and not keeps(node):
            half.add(node)
    return half


class _HalfGraph:
    """One graph on its way to float16: which nodes are or will be there, and the casts made so far."""

    def __init__(self, module: GraphModule, half: set[Node]) -> None:
        self.module = module
        self.graph = module.graph
        self.half = half
        self.casts: dict[tuple[Node, bool], Node] = {}

    def rewrite(self) -> None:
        for node in list(self.graph.nodes):
            if node.op == "call_function":
                self._rewrite(node)
            elif node.op == "output":
                for value in node.all_input_nodes:
                    node.replace_input_with(value, self._cast(value, node, half=False))
        self.graph.eliminate_dead_code()
        self.graph.lint()
        self.module.recompile()

    def _rewrite(self, node: Node) -> None:
        if node.target is _aten._assert_tensor_metadata.default:
            self.graph.erase_node(node)  # it insists on the dtype that is about to change
            return
        half = node in self.half
        if half and node.target in _CASTS:
            self._drop_cast(node)
            return
        for value in node.all_input_nodes:
            node.replace_input_with(value, self._cast(value, node, half=half))
        if half:
            _forget_dtype(node)

    def _drop_cast(self, node: Node) -> None:
        """A cast from float16 to float32 has lost its purpose; one to an integer or bool keeps it."""
        if _is_float(self.module, node):
            node.replace_all_uses_with(node.all_input_nodes[0])
            self.graph.erase_node(node)

    def _cast(self, value: Node, user: Node, *, half: bool) -> Node:
        if not _is_float(self.module, value) or (value in self.half) == half:
            return value
        key = (value, half)
        if key not in self.casts:
            with self.graph.inserting_after(value):
                self.casts[key] = self._new_cast(value, half)
        return self.casts[key]

    def _new_cast(self, value: Node, half: bool) -> Node:
        if value.op == "get_attr":  # a weight: cast once, here, rather than on every call
            name = f"{str(value.target).replace('.', '_')}_half"
            weight = _attribute(self.module, str(value.target)).detach().clamp(-FP16_MAX, FP16_MAX).half()
            self.module.register_buffer(name, weight)
            node = self.graph.get_attr(name)
        else:
            node = self.graph.call_function(_aten.to.dtype, (value, torch.float16 if half else torch.float32))
        if half:
            self.half.add(node)
        node.meta["val"] = value.meta.get("val")
        return node


def _is_float(module: GraphModule, node: Node) -> bool:
    value: Any = node.meta.get("val")
    if value is None and node.op == "get_attr":
        value = _attribute(module, str(node.target))
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def _forget_dtype(node: Node) -> None:
    """`softmax(x, dim, dtype=float32)` computes in float32 only because it says so."""
    node.args = tuple(None if isinstance(value, torch.dtype) else value for value in node.args)
    node.kwargs = {key: value for key, value in node.kwargs.items() if not isinstance(value, torch.dtype)}


def _attribute(module: torch.nn.Module, path: str) -> torch.Tensor:
    value: Any = module
    for name in path.split("."):
        value = getattr(value, name)
    return value  # type: ignore[no-any-return]
