"""What converters ask of a program before they lower it."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from edgevlm.capture import capture, quiet
from edgevlm.errors import MissingDependency
from edgevlm.interfaces import Programs, Unsupported

if TYPE_CHECKING:
    import torch

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
