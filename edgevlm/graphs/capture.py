"""Programs as graphs: what compression and every converter do before their own work starts."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from edgevlm.errors import UnsupportedError
from edgevlm.graphs.program import Program

if TYPE_CHECKING:
    import torch
    from torch.export import ExportedProgram
    from torch.fx import Node


def named(program: Program) -> torch.nn.Module:
    """The program's module, taking keyword arguments and returning a dict, both by the names of its spec.

    Converters name an artefact's tensors after these, so the file itself speaks the bundle's language. A state is kept
    in buffers of its names, zeros at first.
    """
    import torch

    spec = program.spec

    class Named(torch.nn.Module):
        def __init__(self, module: torch.nn.Module) -> None:
            super().__init__()
            self.module = module
            for tensor in spec.state:
                self.register_buffer(tensor.name, torch.zeros(tensor.shape))

        def forward(self, **tensors: torch.Tensor) -> dict[str, torch.Tensor]:
            state = [getattr(self, tensor.name) for tensor in spec.state]
            answers = answers_of(self.module, *(tensors[tensor.name] for tensor in spec.inputs), *state)
            for kept, written in zip(state, answers[len(spec.outputs) :], strict=True):
                kept.copy_(written)
            return {tensor.name: answer for tensor, answer in zip(spec.outputs, answers, strict=False)}

    return Named(program.module).eval()


def answers_of(module: torch.nn.Module, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """What a program's module answers, in a module around it that is captured."""
    import torch

    if isinstance(module, torch.fx.GraphModule):
        # Called as a module, it would be traced as one: its nodes would forget which layers they come from.
        with torch.fx.traceback.preserve_node_meta():
            answer = torch.fx.Interpreter(module).run(*inputs)
    else:
        answer = module(*inputs)
    return answer if isinstance(answer, tuple) else (answer,)


def examples(program: Program) -> dict[str, torch.Tensor]:
    """The program's example inputs by name; those of its state stand behind them."""
    return {spec.name: tensor for spec, tensor in zip(program.spec.inputs, program.example, strict=False)}


def capture(program: Program) -> ExportedProgram:
    """The program as a graph of ATen ops, with the names of its spec at both ends.

    One that takes any number of rows has its inputs and outputs by position: torch.export finds no ranges for names.

    Raises:
        UnsupportedError: torch.export cannot follow the module, mostly for control flow that depends on data.
    """
    try:
        with plain_attention():
            return recapture(program.module if program.most else named(program), program)
    except Exception as error:
        first_line = str(error).strip().partition("\n")[0]
        raise UnsupportedError(
            f"{program.spec.name}: torch.export cannot capture it: {first_line}",
            hint="a component is a fixed graph: no Python branch may depend on a tensor's values",
        ) from error


def recapture(module: torch.nn.Module, program: Program) -> ExportedProgram:
    """A module that is called as `capture` has a program called, such as a captured one rewritten, as a graph."""
    import torch

    if program.most:
        return _export(module, program.example, list(shapes_of(program).values()))
    return torch.export.export(module, (), examples(program), strict=False)


def unlifted(
    module: torch.nn.Module, example: tuple[torch.Tensor, ...], shapes: Sequence[Any] | None = None
) -> torch.fx.GraphModule:
    """The module as a graph of ATen ops over its own parameters, to be rewritten.

    Args:
        module: Whose `forward` takes tensors by position.
        example: Inputs that it accepts.
        shapes: torch.export's `dynamic_shapes`, an input each; None where all sizes stay what they are.
    """
    graph: torch.fx.GraphModule = _export(module, example, shapes).module(check_guards=False)
    return graph


def _export(
    module: torch.nn.Module, example: tuple[torch.Tensor, ...], shapes: Sequence[Any] | None
) -> ExportedProgram:
    import torch

    given = None if shapes is None else dict(inspect.signature(module.forward).bind(*shapes).arguments)
    return torch.export.export(module, example, dynamic_shapes=given, strict=False)


def shapes_of(program: Program) -> dict[str, dict[int, Any]]:
    """Which axes of the inputs are as long as there are rows, by the inputs' names: torch.export's `dynamic_shapes`."""
    import torch

    rows = torch.export.Dim("rows", min=1, max=program.most)
    return {
        tensor.name: {axis: rows for axis, size in enumerate(tensor.shape) if size == -1}
        for tensor in program.spec.inputs
    }


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
