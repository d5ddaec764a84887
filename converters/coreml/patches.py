"""coremltools 9.0's faults that our models meet, each mended for that version alone.

They are applied while a conversion runs and taken back after it, so that importing EdgeVLM changes nothing for
other users of coremltools in the process, but for what `bring_in` says. Each has a test that fails once upstream has
mended it.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.export import ExportedProgram

PATCHED_VERSION = "9.0"

# This pass turns `x * scale + shift`, a channel each, into `batch_norm` with a variance of 1 and the op's default
# epsilon of 1e-5: every product comes out 5e-6 too small, in float32 as well. Pixels are normalised just so.
_WRONG_PASS = "common::fuse_elementwise_to_batchnorm"

_LOOKED_FOR = ("executorch", "sklearn", "torchao", "transformers")


def bring_in() -> None:
    """Imports coremltools, hiding from it the frameworks that it imports only to see whether they are there.

    They take three quarters of its ten seconds, and our programs hold nothing of theirs. Who converts scikit-learn's
    models, ExecuTorch's dialects or torchao's weights with coremltools in the same process imports it before.
    """
    if "coremltools" in sys.modules or version("coremltools") != PATCHED_VERSION:
        return
    hidden = [name for name in _LOOKED_FOR if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None is how an import is refused
    try:
        importlib.import_module("coremltools")
    finally:
        for name in hidden:
            del sys.modules[name]


def sound_passes() -> Any:
    """coremltools' default graph passes without the one that computes wrongly in `PATCHED_VERSION`."""
    import coremltools as ct  # type: ignore[import-untyped]

    passes = ct.PassPipeline.DEFAULT
    if version("coremltools") == PATCHED_VERSION:
        passes.remove_passes({_WRONG_PASS})
    return passes


def tell_apart(exported: ExportedProgram) -> None:
    """Renames results that are called as another op's keyword says: 9.0 knows both by their text alone.

    Beside a result `tanh`, which is what torch calls the first one, `gelu(x, approximate="tanh")` was taken for
    `approximate=` that tensor, and became the exact form in silence; a `floor` stands as near to `div`'s rounding.
    """
    if version("coremltools") != PATCHED_VERSION:
        return
    nodes = list(exported.graph.nodes)
    said = {each for node in nodes for each in (*node.args, *node.kwargs.values()) if isinstance(each, str)}
    for node in nodes:
        if node.op == "call_function" and node.name in said:
            before = node.name
            node._rename(f"{before}_result")
            exported.graph_signature.replace_all_uses(before, node.name)


@contextlib.contextmanager
def applied() -> Iterator[None]:
    """Mends coremltools for as long as the block runs; any other version is left as it is."""
    if version("coremltools") != PATCHED_VERSION:
        yield
        return
    from coremltools.converters.mil import Builder  # type: ignore[import-untyped]
    from coremltools.converters.mil.frontend.torch import torch_op_registry  # type: ignore[import-untyped]

    # Ops without a name are numbered through the process: a program's bytes would tell what was converted before it.
    numbers, Builder.name_count = Builder.name_count, defaultdict(int)
    converters: dict[str, Callable[[Any, Any], None]] = torch_op_registry._TORCH_OPS_REGISTRY.name_to_func_mapping
    before = {name: converters.get(name) for name in _PATCHES}
    converters.update(_PATCHES)
    try:
        with _validated_once():
            yield
    finally:
        Builder.name_count = numbers
        for name, original in before.items():
            if original is None:
                del converters[name]
            else:
                converters[name] = original


@contextlib.contextmanager
def _validated_once() -> Iterator[None]:
    """Leaves out the checks of a program after each of some eighty passes, which take a third of their time.

    Before it is written it is checked as ever.
    """
    from coremltools.converters.mil.mil import Program  # type: ignore[import-untyped]
    from coremltools.converters.mil.mil.passes.pass_pipeline import (  # type: ignore[import-untyped]
        PassPipelineManager,
    )

    apply, validate = PassPipelineManager.apply_pipeline, Program.validate

    def apply_unchecked(*given: Any, **named: Any) -> None:
        Program.validate = lambda *_, **__: None
        try:
            apply(*given, **named)
        finally:
            Program.validate = validate

    PassPipelineManager.apply_pipeline = staticmethod(apply_unchecked)
    try:
        yield
    finally:
        PassPipelineManager.apply_pipeline = staticmethod(apply)


def _gelu(context: Any, node: Any) -> None:
    """`gelu(approximate="tanh")`: the export route passes it by keyword, which 9.0 drops, leaving the exact form.

    The two differ by up to 4.7e-4 an activation (https://github.com/apple/coremltools/pull/2863).
    """
    from coremltools.converters.mil import Builder
    from coremltools.converters.mil.frontend.torch import ops

    inputs = ops._get_inputs(context, node)
    given = inputs[1] if len(inputs) > 1 else ops._get_kwinputs(context, node, "approximate", default=["none"])[0]
    approximate = given if isinstance(given, str) else given.val
    mode = "TANH_APPROXIMATION" if approximate == "tanh" else "EXACT"
    context.add(Builder.gelu(x=inputs[0], mode=mode, name=node.name))


def _alias(context: Any, node: Any) -> None:
    """`alias`, a no-op that programs of torch 2.9 and later hold and 9.0 has no converter for."""
    from coremltools.converters.mil import Builder
    from coremltools.converters.mil.frontend.torch import ops

    (x,) = ops._get_inputs(context, node, expected=1)
    context.add(Builder.identity(x=x, name=node.name))


_PATCHES: dict[str, Callable[[Any, Any], None]] = {"gelu": _gelu, "alias": _alias}
