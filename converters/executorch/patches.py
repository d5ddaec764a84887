"""Faults of ExecuTorch 1.4.1, and of torch 2.13 under it, that our models meet, mended for these versions alone.

They are mended while a program is lowered and restored after it, as with coremltools (`coreml_patches`). A test fails
once upstream has mended one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.fx import GraphModule, Node

PATCHED_VERSION = "1.4.1"
PATCHED_TORCH = "2.13."


@contextlib.contextmanager
def applied() -> Iterator[None]:
    """Mends both for as long as the block runs; any other version is left as it is."""
    with contextlib.ExitStack() as stack:
        if version("executorch") == PATCHED_VERSION:
            stack.enter_context(_sound_layouts())
        if version("torch").startswith(PATCHED_TORCH):
            stack.enter_context(_shared_histories())
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

    1.4.1 looks for what is quantised and goes on to the program's own input, which it makes channels-last with all that
    is computed from it, but not the constants in between: pixels that are normalised by channel then meet a mean of the
    other layout, and XNNPACK refuses to run.
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
