"""Recurrent layers: x [sequence, batch, inputs], one step after another.

Where MIL's pages leave it open, coremltools' own tests against Apple's runtime decide: a reversed layer's states come
in the order in which they were computed, the last step of the input first, but for a bidirectional one's; the cell
state, not its gate, is clipped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F

from edgevlm.errors import BundleError
from edgevlm.runtimes.mlprogram.ops.registry import Tensor, Tensors, op

Activation: TypeAlias = Literal["tanh", "scaled_tanh", "sigmoid", "hard_sigmoid", "relu", "linear"]
Direction: TypeAlias = Literal["forward", "reverse"]
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "scaled_tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "hard_sigmoid": lambda x: (0.2 * x + 0.5).clamp(0, 1),
    "sigmoid_hard": lambda x: (0.2 * x + 0.5).clamp(0, 1),
    "relu": torch.relu,
    "linear": lambda x: x,
}


def _steps(x: Tensor, direction: Direction) -> Iterator[Tensor]:
    yield from x if direction == "forward" else x.flip(0)


def _sequence(states: list[Tensor], *, whole: bool) -> Tensor:
    """Every step's state, or that of the last step, [S or 1, B, H]."""
    return torch.stack(states) if whole else states[-1][None]


@op("rnn")
def rnn(
    x: Tensor,
    initial_h: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    direction: Direction = "forward",
    output_sequence: bool = False,
    activation: Literal[Activation, "sigmoid_hard"] = "tanh",
) -> Tensors:
    h, states = initial_h, []
    for step in _steps(x, direction):
        h = _ACTIVATIONS[activation](F.linear(step, weight_ih, bias) + F.linear(h, weight_hh))
        states.append(h)
    return _sequence(states, whole=output_sequence), h


@op("gru")
def gru(
    x: Tensor,
    initial_h: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    direction: Direction = "forward",
    output_sequence: bool = False,
    recurrent_activation: Activation = "sigmoid",
    activation: Activation = "tanh",
    reset_after: bool | None = None,
    input_bias: Tensor | None = None,
) -> Tensors:
    """Gates in the order reset, output, update.

    Without `reset_after` the reset gate scales the state before its product, else what the product and its bias give:
    the two versions of the GRU (Cho et al., 2014; and cuDNN's).
    """
    of_step, of_state = _ACTIVATIONS[recurrent_activation], _ACTIVATIONS[activation]
    size = weight_hh.shape[1]
    reset_h, output_h, update_h = torch.split(weight_hh, size)
    gate_bias = bias if bias is not None else torch.zeros(3 * size)
    reset_b, output_b, update_b = torch.split(gate_bias, size)
    h, states = initial_h, []
    for step in _steps(x, direction):
        reset_x, output_x, update_x = torch.split(F.linear(step, weight_ih, input_bias), size, -1)
        r = of_step(reset_x + F.linear(h, reset_h, reset_b))
        z = of_step(update_x + F.linear(h, update_h, update_b))
        inner = r * F.linear(h, output_h, output_b) if reset_after else F.linear(r * h, output_h, output_b)
        h = (1 - z) * of_state(output_x + inner) + z * h
        states.append(h)
    return _sequence(states, whole=output_sequence), h


@op("lstm")
def lstm(
    x: Tensor,
    initial_h: Tensor,
    initial_c: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    peephole: Tensor | None = None,
    weight_ih_back: Tensor | None = None,
    weight_hh_back: Tensor | None = None,
    bias_back: Tensor | None = None,
    peephole_back: Tensor | None = None,
    direction: Literal["forward", "reverse", "bidirectional"] = "forward",
    output_sequence: bool = False,
    recurrent_activation: Activation = "sigmoid",
    cell_activation: Activation = "tanh",
    activation: Activation = "tanh",
    clip: float | None = None,
) -> Tensors:
    """Gates in the order input, forget, output, cell; peepholes in that of the first three."""
    cell = _Cell(_ACTIVATIONS[recurrent_activation], _ACTIVATIONS[cell_activation], _ACTIVATIONS[activation], clip)
    forward = _Weights(weight_ih, weight_hh, bias, peephole)
    if direction != "bidirectional":
        states, h, c = cell.run(_steps(x, direction), initial_h, initial_c, forward)
        return _sequence(states, whole=output_sequence), h, c
    if weight_ih_back is None or weight_hh_back is None:
        raise BundleError("a bidirectional lstm without weights for the way back")
    (h_there, h_back), (c_there, c_back) = initial_h.chunk(2, -1), initial_c.chunk(2, -1)
    backward = _Weights(weight_ih_back, weight_hh_back, bias_back, peephole_back)
    there, h_there, c_there = cell.run(_steps(x, "forward"), h_there, c_there, forward)
    back, h_back, c_back = cell.run(_steps(x, "reverse"), h_back, c_back, backward)
    both = [_sequence(there, whole=output_sequence), _sequence(back, whole=output_sequence).flip(0)]
    return torch.cat(both, -1), torch.cat((h_there, h_back), -1), torch.cat((c_there, c_back), -1)


@dataclass(frozen=True)
class _Weights:
    """Of one direction: [4H, I], [4H, H], [4H] and [3H]."""

    ih: Tensor
    hh: Tensor
    bias: Tensor | None
    peephole: Tensor | None


@dataclass(frozen=True)
class _Cell:
    """An LSTM's cell: its activations, and how far its state may go."""

    of_gates: Callable[[Tensor], Tensor]
    of_cell: Callable[[Tensor], Tensor]
    of_state: Callable[[Tensor], Tensor]
    clip: float | None

    def run(
        self, steps: Iterator[Tensor], h: Tensor, c: Tensor, weights: _Weights
    ) -> tuple[list[Tensor], Tensor, Tensor]:
        """The states of every step, and the last hidden and cell state."""
        peephole = weights.peephole if weights.peephole is not None else torch.zeros(3 * h.shape[-1])
        peep_i, peep_f, peep_o = peephole.chunk(3)
        states = []
        for step in steps:
            gates = F.linear(step, weights.ih, weights.bias) + F.linear(h, weights.hh)
            i, f, o, z = gates.chunk(4, -1)
            c = self.of_gates(f + c * peep_f) * c + self.of_gates(i + c * peep_i) * self.of_cell(z)
            c = c if self.clip is None else c.clamp(-self.clip, self.clip)
            h = self.of_gates(o + c * peep_o) * self.of_state(c)
            states.append(h)
        return states, h, c
