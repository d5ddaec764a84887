"""Programs as graphs: what every converter does before its own work starts."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from edgevlm.errors import MissingDependency, UnsupportedError
from edgevlm.interfaces import Program, Programs, Unsupported

if TYPE_CHECKING:
    import torch
    from torch.export import ExportedProgram

FP16_MAX = 65504.0

# Ops through which a huge negative number, such as a mask's -1e9, may pass on its way to a softmax, where it
# means no more than "zero" and so may become -inf.
_MASK_CARRIERS = {
    "add", "sub", "mul", "where", "masked_fill", "expand", "view", "reshape", "unsqueeze", "clone", "slice", "to",
    "_to_copy", "alias", "triu", "contiguous",
}  # fmt: skip


def require(package: str, *, extra: str) -> None:
    """Raises `MissingDependency` where a top-level package is not installed; imports nothing."""
    if importlib.util.find_spec(package) is None:
        raise MissingDependency(package, extra=extra)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps third-party chatter off stdout; logs and warnings below an error, and progress bars, out of sight."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    level, start_bar = logging.root.manager.disable, tqdm.__init__
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        tqdm.__init__ = _start_hidden(start_bar)  # converters have no switch for theirs
        try:
            yield
        finally:
            tqdm.__init__ = start_bar
            logging.disable(level)


def _start_hidden(start_bar: Callable[..., None]) -> Callable[..., None]:
    def start(bar: object, *args: object, **options: object) -> None:
        start_bar(bar, *args, **{**options, "disable": True})

    return start


def named(program: Program) -> torch.nn.Module:
    """The program's module, taking keyword arguments and returning a dict, both by the names of its spec.

    Converters name an artefact's tensors after these, so the file itself speaks the bundle's language.
    """
    import torch

    inputs = [tensor.name for tensor in program.spec.inputs]
    outputs = [tensor.name for tensor in program.spec.outputs]

    class Named(torch.nn.Module):
        def __init__(self, module: torch.nn.Module) -> None:
            super().__init__()
            self.module = module

        def forward(self, **tensors: torch.Tensor) -> dict[str, torch.Tensor]:
            answer = self.module(*(tensors[name] for name in inputs))
            answers = answer if isinstance(answer, tuple) else (answer,)
            return dict(zip(outputs, answers, strict=True))

    return Named(program.module).eval()


def examples(program: Program) -> dict[str, torch.Tensor]:
    """The program's example inputs by name."""
    return {spec.name: tensor for spec, tensor in zip(program.spec.inputs, program.example, strict=True)}


def capture(program: Program) -> ExportedProgram:
    """The program as a graph of ATen ops, with the names of its spec at both ends.

    Raises:
        UnsupportedError: torch.export cannot follow the module, mostly for control flow that depends on data.
    """
    import torch

    try:
        with plain_attention():
            return torch.export.export(named(program), (), examples(program), strict=False)
    except Exception as error:
        first_line = str(error).strip().partition("\n")[0]
        raise UnsupportedError(
            f"{program.spec.name}: torch.export cannot capture it: {first_line}",
            hint="a component is a fixed graph: no Python branch may depend on a tensor's values",
        ) from error


@contextlib.contextmanager
def plain_attention() -> Iterator[None]:
    """nn.MultiheadAttention as the ops it is made of.

    In eval mode torch takes a fused fast path (SigLIP's pooling head does), an op that no target has.
    """
    import torch

    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def fp16_overflows(programs: Programs) -> tuple[Unsupported, ...]:
    """The first op of each component whose value leaves float16's range on the component's example.

    Masks are not counted: a value that reaches nothing but a softmax may become -inf.
    """
    import torch

    found: dict[str, str] = {}
    for name, program in programs.items():
        exported = capture(program)

        class Watch(torch.fx.Interpreter):
            def run_node(self, node: torch.fx.Node, component: str = name) -> object:
                value = super().run_node(node)
                if component not in found and node.op in ("call_function", "get_attr"):
                    peak = _peak(value)
                    if peak > FP16_MAX and not _only_masks(node):
                        found[component] = f"{_op_name(node)} reaches {peak:.3g}"
                return value

        with torch.no_grad(), quiet():
            Watch(exported.module(check_guards=False)).run(*program.example, enable_io_processing=False)
    return tuple(
        Unsupported(f"{component}: {what}, beyond float16's range", instead="--recipe fp32")
        for component, what in found.items()
    )


def _peak(value: object) -> float:
    import torch

    if isinstance(value, torch.Tensor) and value.is_floating_point() and value.numel():
        return float(value.abs().max())
    return 0.0


def _op_name(node: torch.fx.Node) -> str:
    return str(node.target).removeprefix("aten.").partition(".")[0]


def _only_masks(node: torch.fx.Node) -> bool:
    def harmless(user: torch.fx.Node) -> bool:
        kind = _op_name(user)
        return "softmax" in kind or "scaled_dot_product" in kind or (kind in _MASK_CARRIERS and _only_masks(user))

    return bool(node.users) and all(harmless(user) for user in node.users)
