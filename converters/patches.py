"""What torch 2.13 does slowly whenever it decomposes a program, mended for this version alone while one is lowered.

Each target has more of its own in its folder. A test fails once upstream has mended one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from importlib.metadata import version

PATCHED_TORCH = "2.13."


@contextlib.contextmanager
def applied() -> Iterator[None]:
    """Mends both for as long as the block runs; any other version is left as it is."""
    with contextlib.ExitStack() as stack:
        if version("torch").startswith(PATCHED_TORCH):
            stack.enter_context(_shared_histories())
            stack.enter_context(_ops_made_known_once())
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
