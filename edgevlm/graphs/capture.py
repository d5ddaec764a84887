"""Programs as graphs: what compression and every converter do before their own work starts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from edgevlm.errors import UnsupportedError
from edgevlm.graphs.program import Program

if TYPE_CHECKING:
    import torch
    from torch.export import ExportedProgram
    from torch.fx import Node


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
            arguments = [tensors[name] for name in inputs]
            if isinstance(self.module, torch.fx.GraphModule):
                # Called as a module, it would be traced as one: its nodes would forget which layers they come from.
                with torch.fx.traceback.preserve_node_meta():
                    answer = torch.fx.Interpreter(self.module).run(*arguments)
            else:
                answer = self.module(*arguments)
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


def unlifted(module: torch.nn.Module, example: tuple[torch.Tensor, ...]) -> torch.fx.GraphModule:
    """The module as a graph of ATen ops over its own parameters, to be rewritten."""
    import torch

    graph: torch.fx.GraphModule = torch.export.export(module, example, strict=False).module(check_guards=False)
    return graph


def place(component: str, node: Node) -> str:
    """Where an op stands: `component/module`, such as `encode_image/blocks.3.mlp.fc1`; a constant, where it is read."""
    if node.op == "get_attr" and node.users:
        return place(component, next(iter(node.users)))
    stack = node.meta.get("nn_module_stack") or {"": ("", None)}
    module = next(reversed(stack.values()))[0].removeprefix("module").removeprefix(".")  # `named` is around it
    return f"{component}/{module}" if module else component


def kind(node: Node) -> str:
    """ATen's name of an op, such as `linear`."""
    if node.op != "call_function":
        return {"get_attr": "constant", "placeholder": "input"}.get(node.op, node.op)
    return str(getattr(node.target, "__name__", node.target)).partition(".")[0]


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
