"""Faults of ExecuTorch 1.5.1 that our models meet, mended for this version alone.

They are mended while a program is lowered and restored after it, as coremltools' are (`converters/coreml/patches.py`).
A test fails once upstream has mended one.
"""

from __future__ import annotations

import contextlib
import functools
import heapq
import inspect
import itertools
import operator
from collections.abc import Collection, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, WeakSet

if TYPE_CHECKING:
    from torch.fx import GraphModule, Node

PATCHED_VERSION = "1.5.1"


@contextlib.contextmanager
def applied() -> Iterator[None]:
    """Mends all for as long as the block runs; any other version is left as it is."""
    with contextlib.ExitStack() as stack:
        if version("executorch") == PATCHED_VERSION:
            stack.enter_context(_sound_layouts())
            stack.enter_context(_no_needless_decompositions())
            stack.enter_context(_no_needless_replays())
            stack.enter_context(_no_needless_patterns())
            stack.enter_context(_sorted_in_place())
            stack.enter_context(_partitions_in_order())
        yield


@contextlib.contextmanager
def _no_needless_decompositions() -> Iterator[None]:
    """A program that comes of a decomposition is not decomposed once more where it has no op to be decomposed.

    1.5.1 does so with each, to be sure that nothing in it writes to its inputs, and once more after it has hidden the
    ops that XNNPACK takes whole: a sixth of a conversion.
    """
    from torch.export import ExportedProgram

    decompose = ExportedProgram.run_decompositions
    sound: WeakSet[ExportedProgram] = WeakSet()

    def run_decompositions(self: ExportedProgram, table: dict[Any, Any] | None = None, **more: Any) -> Any:
        if table is not None and not more and self in sound and not _has_any(self.graph_module, table):
            return self
        result = decompose(self, table, **more)
        sound.add(result)
        return result

    ExportedProgram.run_decompositions = run_decompositions  # type: ignore[method-assign]
    try:
        yield
    finally:
        ExportedProgram.run_decompositions = decompose  # type: ignore[method-assign]


def _has_any(graph_module: GraphModule, table: Mapping[Any, Any]) -> bool:
    """Whether an op of a graph, or of one within it, is decomposed by a table into anything but itself."""
    import torch

    graphs = [each.graph for each in graph_module.modules() if isinstance(each, torch.fx.GraphModule)]
    found = {node.target for graph in graphs for node in graph.nodes if node.op == "call_function"}
    ops = {each if isinstance(each, torch._ops.OpOverload) else getattr(each, "_op", each) for each in found}
    return any(op in table for op in ops - {torch.ops.aten.sym_size.int})


@contextlib.contextmanager
def _no_needless_replays() -> Iterator[None]:
    """A pass that has changed nothing leaves the graph as it is.

    1.5.1 replays the graph after every pass, node by node on fake tensors into a new one, whether the pass found
    anything or not: some fifteen times for each partition that goes to XNNPACK, a quarter of a conversion.
    """
    from executorch.exir.pass_base import ExportPass  # type: ignore[import-untyped]
    from torch.fx.passes.infra.pass_base import PassResult

    (owner,) = ExportPass.__bases__
    run, replay = owner.__call__, owner.call
    found: list[list[object]] = []  # by the passes that run, one within another

    def call(self: Any, graph_module: GraphModule) -> PassResult:
        if found and found[-1] == _nodes(graph_module):
            return PassResult(graph_module, False)
        result: PassResult = replay(self, graph_module)
        return result

    def run_and_see(self: Any, graph_module: GraphModule) -> PassResult:
        alike = _replays_alike(type(self), ExportPass) and _has_values(graph_module)
        found.append(_nodes(graph_module) if alike else [])
        try:
            result: PassResult = run(self, graph_module)
        finally:
            before = found.pop()
        same = result.graph_module is graph_module and before == _nodes(graph_module)
        return PassResult(graph_module, False) if same else result

    owner.__call__, owner.call = run_and_see, call
    try:
        yield
    finally:
        owner.__call__, owner.call = run, replay


def _nodes(graph_module: GraphModule) -> list[object]:
    return [(node, node.target, node.args, node.kwargs) for node in graph_module.graph.nodes]


def _has_values(graph_module: GraphModule) -> bool:
    """Whether every node knows its own: a replay would find them."""
    return all("val" in node.meta for node in graph_module.graph.nodes if node.op != "output")


def _replays_alike(kind: type, plain: type) -> bool:
    """Whether a pass does its work on the graph itself: its replay is any other's."""
    hooks = [name for name, member in inspect.getmembers(plain, inspect.isroutine) if not name.startswith("__")]
    return all(getattr(kind, name) is getattr(plain, name) for name in (*hooks, "ExportInterpreter") if name != "call")


@contextlib.contextmanager
def _no_needless_patterns() -> Iterator[None]:
    """A pattern is looked for only where an op is that it has.

    1.5.1 exports and lowers six networks, once a process, to find attention and enlarged pictures as they are written
    out by itself, which takes seconds; and it writes each partition out in words for a log that nobody keeps.
    """
    from executorch.backends.xnnpack._passes import (  # type: ignore[import-untyped]
        convert_to_sdpa,
        convert_to_upsample_bilinear2d,
    )
    from executorch.exir.dialects._ops import ops  # type: ignore[import-untyped]

    needed = {
        convert_to_sdpa.ConvertToSDPAPass: ops.edge.aten.any.dim,
        convert_to_upsample_bilinear2d.ConvertToUpsampleBilinear2d: ops.edge.aten.upsample_bilinear2d.vec,
    }
    before = {owner: owner.call for owner in needed}

    def call(self: Any, graph_module: GraphModule) -> Any:
        owner = type(self)
        has_it = any(node.target is needed[owner] for node in graph_module.graph.nodes)
        return before[owner](self, graph_module) if has_it else super(owner, self).call(graph_module)

    for owner in needed:
        owner.call = call
    try:
        yield
    finally:
        for owner, method in before.items():
            owner.call = method


@contextlib.contextmanager
def _sorted_in_place() -> Iterator[None]:
    """A graph is sorted where it is.

    1.5.1 copies a graph into another one, and writes its code anew, for each partition that it takes out of it: of a
    decoder of thirty layers, with a hundred of them, that is half of a conversion.
    """
    from executorch.exir import lowered_backend_module  # type: ignore[import-untyped]

    before = lowered_backend_module.legalize_graph
    lowered_backend_module.legalize_graph = _sort
    try:
        yield
    finally:
        lowered_backend_module.legalize_graph = before


def _sort(graph_module: GraphModule) -> GraphModule:
    """Puts each node behind what it reads, and else as early as it stood."""
    nodes = list(graph_module.graph.nodes)
    place = {node: number for number, node in enumerate(nodes)}
    waits_for = {node: len(node.all_input_nodes) for node in nodes}
    ready = [place[node] for node in nodes if not waits_for[node]]
    in_order: list[Node] = []
    while ready:
        in_order.append(nodes[heapq.heappop(ready)])
        for user in in_order[-1].users:
            waits_for[user] -= 1
            if not waits_for[user]:
                heapq.heappush(ready, place[user])
    if len(in_order) < len(nodes):
        raise RuntimeError("a partition reads what it computes by way of nodes that are not in it")
    for node, behind in itertools.pairwise(in_order):
        node.append(behind)
    return graph_module


@contextlib.contextmanager
def _partitions_in_order() -> Iterator[None]:
    """Two partitions become one only where all can still be computed one after another, which a bit a node tells soon.

    1.5.1 asks whether the two are computed by way of nodes outside of them, not by way of another partition whole: of
    an attention whose heads share one key, two partitions then need one another's results, and lowering fails. It also
    asks each pair, going through sets of all nodes behind each of their users, and lists all parameters anew for each
    node: of a decoder of thirty layers that is more than half of a conversion.
    """
    from executorch.exir.backend.canonical_partitioners import config_partitioner  # type: ignore[import-untyped]
    from executorch.exir.backend.canonical_partitioners.group_partitioner import (  # type: ignore[import-untyped]
        GroupBasedPartitioner,
    )

    merges, is_constant = GroupBasedPartitioner._can_merge_partitions, config_partitioner.is_constant_data
    orders: WeakKeyDictionary[Any, _Order] = WeakKeyDictionary()

    def can_merge(self: Any, one: int, other: int, partitions_by_id: dict[int, Any]) -> bool:
        if self not in orders:
            orders[self] = _Order.of(self.graph_module)
        nodes = {*partitions_by_id[one].nodes, *partitions_by_id[other].nodes}
        return orders[self].keeps(nodes) and _in_order(nodes, [each.nodes for each in partitions_by_id.values()])

    def is_constant_input(program: Any, node: Node) -> bool:
        return node.op == "placeholder" and bool(is_constant(program, node))

    GroupBasedPartitioner._can_merge_partitions, config_partitioner.is_constant_data = can_merge, is_constant_input
    try:
        yield
    finally:
        GroupBasedPartitioner._can_merge_partitions, config_partitioner.is_constant_data = merges, is_constant


@dataclass(frozen=True)
class _Order:
    """What comes of what in a graph: of each node its own bit, and the bits of all that is computed by way of it."""

    own: Mapping[Node, int]
    behind: Mapping[Node, int]

    @classmethod
    def of(cls, graph_module: GraphModule) -> _Order:
        own = {node: 1 << place for place, node in enumerate(graph_module.graph.nodes)}
        behind: dict[Node, int] = {}
        for node in reversed(graph_module.graph.nodes):
            behind[node] = functools.reduce(operator.or_, (own[user] | behind[user] for user in node.users), 0)
        return cls(own, behind)

    def keeps(self, nodes: Collection[Node]) -> bool:
        """Whether nothing outside of these nodes is computed from some of them and read by others."""
        together = functools.reduce(operator.or_, (self.own[node] for node in nodes), 0)
        users = {user for node in nodes for user in node.users}
        return not any(self.behind[user] & together for user in users if not self.own[user] & together)


def _in_order(nodes: Set[Node], partitions: Iterable[Collection[Node]]) -> bool:
    """Whether nodes that are computed at once need no other partition, computed at once, that needs some of them."""
    partition_of = {node: partition for partition in partitions for node in partition}
    waiting = [user for node in nodes for user in node.users if user not in nodes]
    reached: set[Node] = set()
    while waiting:
        node = waiting.pop()
        if node in nodes:
            return False
        if node not in reached:
            together = partition_of.get(node, (node,))
            reached.update(together)
            waiting += [user for each in together for user in each.users]
    return True


@contextlib.contextmanager
def _sound_layouts() -> Iterator[None]:
    from executorch.backends.xnnpack._passes.channels_last_tagged_reshape_pass import (  # type: ignore[import-untyped]
        ChannelsLastTaggedReshapePass,
    )

    before = ChannelsLastTaggedReshapePass.input_to_nhwc
    ChannelsLastTaggedReshapePass.input_to_nhwc = _mended(ChannelsLastTaggedReshapePass)
    try:
        yield
    finally:
        ChannelsLastTaggedReshapePass.input_to_nhwc = before


def _mended(owner: Any) -> Any:
    """`input_to_nhwc` for the input of a convolution that is quantised as it comes.

    1.5.1 looks for what is quantised and goes on to the program's own input, which it makes channels-last with all that
    is computed from it, but not the constants in between. Afterwards it puts right products and sums with constants by
    channel, and not those with one number for all: pixels that are normalised so then meet a mean of the other layout,
    and XNNPACK refuses to run.
    """
    from executorch.backends.xnnpack.utils.quant_utils import is_dynamic_qdq  # type: ignore[import-untyped]

    original = owner.input_to_nhwc

    def input_to_nhwc(self: Any, graph_module: GraphModule, input_node: Node, target_node: Node) -> None:
        if not is_dynamic_qdq(input_node) or owner.is_nhwc_node(input_node):
            original(self, graph_module, input_node, target_node)
            return
        widen, narrow = input_node, input_node.all_input_nodes[0]
        source = narrow.all_input_nodes[0]
        for reader in (narrow.all_input_nodes[1].all_input_nodes[0], narrow):  # what chooses the range, what uses it
            original(self, graph_module, source, reader)
        for node in (narrow, widen):
            self.mark_as_nhwc_node(node)

    return input_to_nhwc
