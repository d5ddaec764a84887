"""What torch 2.13 does slowly whenever it captures or decomposes a program, mended for this version alone meanwhile.

Each target has more of its own in its folder. A test fails once upstream has mended one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.fx import GraphModule

PATCHED_TORCH = "2.13."


@contextlib.contextmanager
def applied() -> Iterator[None]:
    """Mends all for as long as the block runs; any other version is left as it is."""
    with contextlib.ExitStack() as stack:
        if version("torch").startswith(PATCHED_TORCH):
            stack.enter_context(_shared_histories())
            stack.enter_context(_ops_made_known_once())
            stack.enter_context(_code_written_when_asked_for())
            stack.enter_context(_no_stack_traces())
        yield


@contextlib.contextmanager
def _shared_histories() -> Iterator[None]:
    """A node's history refers to those before it.

    2.13 copies them, whole, for every node of every pass, though nothing changes them: with ExecuTorch's many passes
    that is a sixth of a conversion.
    """
    from torch.fx.traceback import NodeSource

    NodeSource.__deepcopy__ = lambda self, memo: self  # type: ignore[attr-defined]
    try:
        yield
    finally:
        del NodeSource.__deepcopy__  # type: ignore[attr-defined]


@contextlib.contextmanager
def _ops_made_known_once() -> Iterator[None]:
    """The dispatcher's composite ops are made known to Python once for a conversion.

    2.13 does so for each of some forty namespaces at each decomposition, a thousand ops a time, in case one was added:
    of a small tower that is a fifth of a conversion. An op that is added meanwhile is known once a program has it.
    """
    from torch._export import utils

    make_known = utils._materialize_cpp_cia_ops
    make_known()
    utils._materialize_cpp_cia_ops = lambda: None
    try:
        yield
    finally:
        utils._materialize_cpp_cia_ops = make_known


@contextlib.contextmanager
def _code_written_when_asked_for() -> Iterator[None]:
    """A graph's Python code is written and compiled once somebody calls the graph, or prints it.

    2.13 does so after each edit, in case somebody will: between a conversion's hundreds of passes nobody does, and that
    is a fifth of it.
    """
    from torch.fx import GraphModule
    from torch.fx.graph import _PyTreeCodeGen

    write = GraphModule.recompile

    def put_off(self: GraphModule) -> None:
        codegen = self.graph._codegen
        if isinstance(codegen, _PyTreeCodeGen):
            self._in_spec, self._out_spec = codegen.pytree_info.in_spec, codegen.pytree_info.out_spec
        for name in _WRITTEN:
            self.__dict__.pop(name, None)
            setattr(type(self), name, _Unwritten(name, write))

    GraphModule.recompile = put_off  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        GraphModule.recompile = write  # type: ignore[method-assign]


@contextlib.contextmanager
def _no_stack_traces() -> Iterator[None]:
    """No op keeps which lines of Python it came from: nobody reads them, and they are looked up once a node."""
    from torch.fx import config

    before = config.do_not_emit_stack_traces
    config.do_not_emit_stack_traces = True
    try:
        yield
    finally:
        config.do_not_emit_stack_traces = before


_WRITTEN = ("forward", "_code", "_lineno_map", "_prologue_start")
"""What a graph has of its code: attributes of its own, or of the class that each graph has to itself."""


@dataclass(frozen=True)
class _Unwritten:
    """Stands for one of these until it is asked for."""

    name: str
    write: Callable[[GraphModule], object]

    def __get__(self, graph: GraphModule | None, owner: type[GraphModule]) -> Any:
        if graph is None:
            return self
        for name in _WRITTEN:
            if isinstance(vars(owner).get(name), _Unwritten):
                delattr(owner, name)
        self.write(graph)
        return getattr(graph, self.name)
