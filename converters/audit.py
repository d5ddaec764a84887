"""What float16 would do to a float32 graph: the range of each op's values, measured before anything is converted.

Judged is what float16 would hold: values that an op computes in it, and values that an op reads in it.

- overflow: a magnitude beyond 65,504, which becomes infinite.
- mask: the same, negative, and read by nothing but a softmax, to which it means zero, infinite or not. Sums and
  selections on the way leave it so; a product makes NaN of it (0 * inf), and so does a softmax whose row has nothing
  else.
- near: within a factor of four of the limit, where another picture may be beyond.
- underflow: the values' root mean square, zeros aside, is below the smallest normal number, 2^-14 = 6.1e-5. Numbers
  below it are off by up to 3e-8, and vanish on hardware that flushes them to zero: weighed by energy, that is more of
  the op than the 11 bits that float16 promises, whereas a few values near zero among larger ones are not. What a sum
  takes in that is 2^11 times as large does not count: there it is rounded away in any case.

The squares that a norm adds up inside are reported, not judged: converters keep norms in float32, all but Core ML's
layer norm, which is an op of its own, and Apple does not say in which precision it adds up.
"""

from __future__ import annotations

import difflib
import fnmatch
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node

from edgevlm.bundle.recipe import AUTO, Recipe
from edgevlm.bundle.spec import Array
from edgevlm.converters.half import FP16_MAX
from edgevlm.errors import RecipeError
from edgevlm.graphs.capture import kind, place
from edgevlm.graphs.program import Program, Programs
from edgevlm.process.progress import Progress
from edgevlm.targets.converter import OpRange, Verdict

FP16_SMALLEST_NORMAL = 2.0**-14
_NEAR = 4.0
_DIGITS = 2.0**11

_MOVES = {
    "_to_copy", "_unsafe_view", "alias", "clone", "contiguous", "detach", "expand", "flatten", "getitem", "permute",
    "reshape", "select", "slice", "split", "squeeze", "t", "to", "transpose", "unflatten", "unsqueeze", "view",
}  # fmt: skip
_SUMS = {"add", "sub", "rsub"}
# Ops that leave a large negative number large and negative.
_MASKS = {"add", "where", "masked_fill"}

Choice: TypeAlias = Callable[[GraphModule, Callable[[Node], bool]], set[Node]]
"""A target's own: which ops of a graph it computes in float16, given which must stay in float32."""


def audit(
    graphs: Mapping[str, ExportedProgram],
    programs: Programs,
    recipe: Recipe,
    samples: Mapping[str, Array],
    choose: Choice,
    progress: Progress,
) -> tuple[OpRange, ...]:
    """Runs each component's graph on samples, and judges every op but those that only move values.

    Args:
        graphs: What the target lowers, by component; float32.
        programs: What they were captured from.
        recipe: Whose `float32_ops` are kept out of float16.
        samples: Rows by the name of the input tensor; a component of which some are missing runs on its example.
        choose: The target's choice of float16 ops.
        progress: Told of each sample.

    Raises:
        RecipeError: a pattern of `recipe.float32_ops` names no op.
    """
    modules: dict[str, Any] = {name: exported.module(check_guards=False) for name, exported in graphs.items()}
    _refuse_unmatched(recipe, {place(name, node) for name, module in modules.items() for node in _ops(module)})
    found: list[OpRange] = []
    for name, module in modules.items():
        meter = _Meter(module)
        rows = _inputs(programs[name], samples)
        for done, inputs in enumerate(rows):
            progress(f"measuring the range of {name}", done / len(rows))
            with torch.no_grad():
                meter.run(*inputs, enable_io_processing=False)
        half = choose(module, lambda node, name=name: recipe.keeps_float32(place(name, node)))  # type: ignore[misc]
        found += _Judge(name, meter, {node for node in half if node.users}).judge()
    return tuple(found)


def _ops(module: GraphModule) -> Iterator[Node]:
    return (node for node in module.graph.nodes if node.op == "call_function")


def _inputs(program: Program, samples: Mapping[str, Array]) -> Sequence[tuple[Tensor, ...]]:
    names = [tensor.name for tensor in program.spec.inputs]
    if not all(len(samples.get(name, ())) for name in names):
        return [program.example]
    rows = zip(*(torch.from_numpy(samples[name])[:, None] for name in names), strict=True)
    return [tuple(row) for row in rows]


def _refuse_unmatched(recipe: Recipe, places: set[str]) -> None:
    for pattern in recipe.float32_ops:
        if pattern != AUTO and not fnmatch.filter(places, pattern):
            close = difflib.get_close_matches(pattern, places, n=3, cutoff=0) or sorted(places)[:3]
            raise RecipeError(
                f"float32_ops: no op stands at {pattern!r}",
                hint=f"places are component/module, such as {', '.join(close)}; a * stands for any characters",
            )


@dataclass
class _Span:
    """The values of one op, over all samples; infinite ones, which float16 has as well, aside."""

    low: float = 0.0
    high: float = 0.0
    least: float = float("inf")
    count: int = 0
    below_normal: int = 0
    energy: float = 0.0
    sum_of_squares: float | None = None

    def add(self, value: Tensor) -> None:
        if not value.numel():
            return
        low, high = (float(end) for end in value.aminmax())
        if not (math.isfinite(low) and math.isfinite(high)):  # to look at each takes longer than all the rest
            self.add(value[value.isfinite()])
            return
        magnitude = value.abs()
        zeros = value.numel() - int(value.count_nonzero())
        self.low, self.high = min(self.low, low), max(self.high, high)
        self.least = min(self.least, float(torch.where(magnitude > 0, magnitude, torch.inf).amin()))
        self.count += value.numel() - zeros
        self.below_normal += int((magnitude < FP16_SMALLEST_NORMAL).count_nonzero()) - zeros
        self.energy += float(torch.linalg.vector_norm(value, dtype=torch.float64)) ** 2

    @property
    def peak(self) -> float:
        return max(self.high, -self.low)

    @property
    def typical(self) -> float:
        return (self.energy / self.count) ** 0.5 if self.count else 0.0


class _Meter(torch.fx.Interpreter):
    """Runs a graph, keeping the span of each op's values, and the softmaxes that a row of masked keys alone reaches."""

    def __init__(self, module: GraphModule) -> None:
        super().__init__(module)
        self.spans: dict[Node, _Span] = {}
        self.starved: set[Node] = set()

    def run_node(self, node: Node) -> Any:
        value = super().run_node(node)
        known = _moves(node) or (node.op == "get_attr" and node in self.spans)
        if isinstance(value, Tensor) and value.is_floating_point() and not known:
            span = self.spans.setdefault(node, _Span())
            span.add(value)
            self._look_inside(node, span)
        return value

    def _look_inside(self, node: Node, span: _Span) -> None:
        """The squares that a norm adds up, and the row that a softmax has least of."""
        of = kind(node)
        if of in ("norm", "linalg_vector_norm"):
            span.sum_of_squares = span.peak**2
        elif of in ("layer_norm", "group_norm"):
            x = self.env[_argument(node, "input")]
            shape, groups = _argument(node, "normalized_shape"), _argument(node, "num_groups")
            rows = x.flatten(-len(shape)) if shape else x.reshape(len(x) * groups, -1)
            squares = float((rows - rows.mean(-1, keepdim=True)).square().sum(-1).amax())
            span.sum_of_squares = max(span.sum_of_squares or 0.0, squares)
        elif "softmax" in of:
            scores = self.env[_argument(node, "self")]
            if scores.amax(_argument(node, "dim")).amin() < -FP16_MAX:
                self.starved.add(node)


@dataclass
class _Judge:
    """What float16 makes of one component's values."""

    component: str
    meter: _Meter
    half: set[Node]

    def judge(self) -> list[OpRange]:
        return [self._judge(node, span) for node, span in self.meter.spans.items() if span.count]

    def _judge(self, node: Node, span: _Span) -> OpRange:
        holders = self._holders(node)
        verdict = self._verdict(node, span) if holders else "fits"
        lost = verdict in ("overflow", "underflow")
        return OpRange(
            place=place(self.component, node),
            kind=kind(node),
            precision="fp16" if node in self.half or (holders and node.op != "call_function") else "fp32",
            peak=span.peak,
            least=span.least,
            typical=span.typical,
            below_normal=span.below_normal / span.count,
            sum_of_squares=span.sum_of_squares,
            verdict=verdict,
            float32_ops=tuple(sorted({place(self.component, each) for each in holders})) if lost else (),
        )

    def _holders(self, node: Node) -> set[Node]:
        """The ops that would hold these values in float16: the node itself and its readers, past what moves them."""
        found = {node} & self.half
        for user in node.users:
            found |= self._holders(user) if _moves(user) else {user} & self.half
        return found

    def _verdict(self, node: Node, span: _Span) -> Verdict:
        masks = -span.low * _NEAR > FP16_MAX and self._only_masks(node)
        peak = span.high if masks else span.peak
        if peak > FP16_MAX:
            return "overflow"
        if span.typical < FP16_SMALLEST_NORMAL and not self._is_absorbed(node, span.typical):
            return "underflow"
        if peak * _NEAR > FP16_MAX:
            return "near"
        return "mask" if span.peak > FP16_MAX else "fits"

    def _only_masks(self, node: Node) -> bool:
        """Whether large negative values may become -inf: a softmax reads them, and each of its rows has others."""

        def is_harmless(user: Node) -> bool:
            of = kind(user)
            if "softmax" in of:
                return user not in self.meter.starved
            if of == "scaled_dot_product_attention":
                return node is _argument(user, "attn_mask")
            return (of in _MASKS or _moves(user)) and self._only_masks(user)

        scaled = kind(node) == "mul" and any(isinstance(x, float | int) and abs(x) > FP16_MAX for x in node.args)
        return not scaled and bool(node.users) and all(map(is_harmless, node.users))

    def _is_absorbed(self, node: Node, typical: float) -> bool:
        def absorbs(user: Node) -> bool:
            if _moves(user):
                return self._is_absorbed(user, typical)
            adds = kind(user) in _SUMS or node is _argument(user, "bias")
            return adds and user in self.meter.spans and self.meter.spans[user].typical >= _DIGITS * typical

        return bool(node.users) and all(map(absorbs, node.users))


def _moves(node: Node) -> bool:
    """Whether the values are its input's, elsewhere; those of a cast are, unless they were integers."""
    source = node.all_input_nodes[0].meta.get("val") if node.all_input_nodes else None
    return kind(node) in _MOVES and (not isinstance(source, Tensor) or source.is_floating_point())


def _argument(node: Node, name: str) -> Any:
    """What a node passes for an argument of its op; None where it passes nothing, or the op has none of that name."""
    schema = getattr(node.target, "_schema", None)
    names = [argument.name for argument in schema.arguments] if schema else []
    return dict(zip(names, node.args, strict=False)).get(name, node.kwargs.get(name))
