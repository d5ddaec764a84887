"""Recurrent layers, step by step in NumPy as MIL's pages and coremltools' tests write them; and torch's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product

import coremltools as ct
import numpy as np
import torch
from mlprogram_oracles import sigmoid
from mlprograms import Array

from mlprogram_cases.case import Case, real

Step = Callable[[Array, Array], Array]
Function = Callable[[Array], Array]
ACTIVATIONS: dict[str, Function] = {
    "tanh": np.tanh,
    "scaled_tanh": np.tanh,  # a scale of 1, as coremltools writes it
    "sigmoid": sigmoid,
    "hard_sigmoid": lambda x: np.clip(0.2 * x + 0.5, 0, 1),
    "relu": lambda x: np.maximum(x, 0),
    "linear": lambda x: x,
}
WAYS = tuple(product(("forward", "reverse"), (True, False)))


def recurrence() -> list[Case]:
    return [*rnns(), *grus(), *lstms()]


def steps(x: Array, h: Array, cell: Step, direction: str, whole: bool) -> list[Array]:
    """A reversed layer's states come in the order in which they were computed."""
    states = []
    for step in x if direction == "forward" else x[::-1]:
        h = cell(step, h)
        states.append(h)
    return [np.stack(states) if whole else h[None], h]


def rnns() -> list[Case]:
    x, h, w, v, b = real(4, 2, 3), real(2, 5), real(5, 3), real(5, 5), real(5)
    weights = {"weight_ih": w, "weight_hh": v}

    def case(arguments: dict[str, object], cell: Step, direction: str = "forward", whole: bool = False) -> Case:
        return Case(
            "rnn",
            {"x": x, "initial_h": h},
            lambda x, initial_h: steps(x, initial_h, cell, direction, whole),
            {**weights, **arguments},
        )

    return [
        *(
            case(
                {"bias": b, "direction": direction, "output_sequence": whole},
                lambda step, state: np.tanh(step @ w.T + state @ v.T + b),
                direction,
                whole,
            )
            for direction, whole in WAYS
        ),
        case({}, lambda step, state: np.tanh(step @ w.T + state @ v.T)),
        *(
            case({"activation": name}, lambda step, state, f=f: f(step @ w.T + state @ v.T))
            for name, f in (*ACTIVATIONS.items(), ("sigmoid_hard", ACTIVATIONS["hard_sigmoid"]))
        ),
    ]


def grus() -> list[Case]:
    x, h = real(4, 2, 3), real(2, 5)
    weight_ih, weight_hh, bias, input_bias = real(15, 3), real(15, 5), real(15), real(15)
    (w_r, w_o, w_z), (v_r, v_o, v_z) = np.split(weight_ih, 3), np.split(weight_hh, 3)
    weights = {"weight_ih": weight_ih, "weight_hh": weight_hh}

    def cell(biases: Array, of_gates: Function = sigmoid, of_state: Function = np.tanh) -> Step:
        b_r, b_o, b_z = np.split(biases, 3)

        def step(x: Array, h: Array) -> Array:
            r, z = of_gates(x @ w_r.T + h @ v_r.T + b_r), of_gates(x @ w_z.T + h @ v_z.T + b_z)
            return (1 - z) * of_state(x @ w_o.T + (r * h) @ v_o.T + b_o) + z * h

        return step

    def torchs(x: Array, initial_h: Array) -> list[Array]:
        """torch's gates are reset, update, output; its reset comes after the product."""
        layer = torch.nn.GRU(3, 5).requires_grad_(False)
        parts = {"weight_ih_l0": weight_ih, "weight_hh_l0": weight_hh, "bias_ih_l0": input_bias, "bias_hh_l0": bias}
        for name, array in parts.items():
            reset, output, update = np.split(array, 3)
            getattr(layer, name).copy_(torch.from_numpy(np.concatenate((reset, update, output))))
        states, last = layer(torch.from_numpy(x), torch.from_numpy(initial_h)[None])
        return [states.numpy(), last[0].numpy()]

    return [
        *(
            Case(
                "gru",
                {"x": x, "initial_h": h},
                lambda x, initial_h, d=direction, w=whole: steps(x, initial_h, cell(bias), d, w),
                {**weights, "bias": bias, "direction": direction, "output_sequence": whole},
                opset=ct.target.iOS17,
            )
            for direction, whole in WAYS
        ),
        Case(
            "gru",
            {"x": x, "initial_h": h},
            lambda x, initial_h: steps(x, initial_h, cell(np.zeros(15)), "forward", False),
            weights,
            opset=ct.target.iOS17,
        ),
        Case(
            "gru",
            {"x": x, "initial_h": h},
            torchs,
            {**weights, "bias": bias, "input_bias": input_bias, "reset_after": True, "output_sequence": True},
            oracle="torch",
        ),
        Case(
            "gru",
            {"x": x, "initial_h": h},
            lambda x, initial_h: steps(x, initial_h, cell(bias), "forward", False),
            {**weights, "bias": bias, "reset_after": False},
        ),
        *(
            Case(
                "gru",
                {"x": x / 9, "initial_h": h / 9},
                lambda x, initial_h, g=of_gates, s=of_state: steps(x, initial_h, cell(bias, g, s), "forward", False),
                {**weights, "bias": bias, "recurrent_activation": gates, "activation": state},
                opset=ct.target.iOS17,
            )
            for (gates, of_gates), (state, of_state) in around()
        ),
    ]


def around() -> Iterator[tuple[tuple[str, Function], tuple[str, Function]]]:
    """Pairs of activations in which each is once the first and once the second."""
    of = list(ACTIVATIONS.items())
    return zip(of, of[1:] + of[:1], strict=True)


def lstms() -> list[Case]:
    x, h, c = real(4, 2, 3), real(2, 5), real(2, 5)
    there = {"weight_ih": real(20, 3), "weight_hh": real(20, 5), "bias": real(20)}
    back = {f"{name}_back": real(*array.shape) for name, array in there.items()}
    peephole, peephole_back = real(15), real(15)

    def by_torch(x: Array, h: Array, c: Array, sides: list[dict[str, Array]]) -> list[Array]:
        """torch's gates are input, forget, cell, output."""
        layer = torch.nn.LSTM(3, 5, bidirectional=len(sides) == 2).requires_grad_(False)
        for suffix, side in zip(("", "_reverse"), sides, strict=False):
            for kind, array in zip(("weight_ih", "weight_hh", "bias_ih"), side.values(), strict=True):
                i, f, o, z = np.split(array, 4)
                getattr(layer, f"{kind}_l0{suffix}").copy_(torch.from_numpy(np.concatenate((i, f, z, o))))
            getattr(layer, f"bias_hh_l0{suffix}").zero_()
        first = tuple(torch.from_numpy(np.stack(np.split(each, len(sides), -1))) for each in (h, c))
        states, last = layer(torch.from_numpy(x), first)
        return [states.numpy(), *(np.concatenate(list(each.numpy()), -1) for each in last)]

    def ended(found: list[Array], whole: bool) -> list[Array]:
        return [found[0] if whole else found[1][None], *found[1:]]

    def peeping(
        x: Array,
        h: Array,
        c: Array,
        weights: list[Array],
        peephole: Array,
        of: tuple[Function, Function, Function] = (sigmoid, np.tanh, np.tanh),
        limit: float = np.inf,
    ) -> list[Array]:
        (of_gates, of_cell, of_state), (p_i, p_f, p_o), (w, v, b) = of, np.split(peephole, 3), weights
        for step in x:
            i, f, o, z = np.split(step @ w.T + h @ v.T + b, 4, -1)
            c = np.clip(of_gates(f + c * p_f) * c + of_gates(i + c * p_i) * of_cell(z), -limit, limit)
            h = of_gates(o + c * p_o) * of_state(c)
        return [h[None], h, c]

    def both_ways(x: Array, h: Array, c: Array) -> list[Array]:
        ways = ((x, there, peephole), (x[::-1], back, peephole_back))
        ended_ = [
            peeping(steps, *(each[:, 5 * i : 5 * i + 5] for each in (h, c)), list(weights.values()), peep)
            for i, (steps, weights, peep) in enumerate(ways)
        ]
        return [np.concatenate(pair, -1) for pair in zip(*ended_, strict=True)]

    return [
        *(
            Case(
                "lstm",
                {"x": x, "initial_h": h, "initial_c": c},
                lambda x, initial_h, initial_c, d=direction, w=whole: ended(
                    by_torch(x if d == "forward" else x[::-1].copy(), initial_h, initial_c, [there]), w
                ),
                {**there, "direction": direction, "output_sequence": whole},
                opset=ct.target.iOS17,
                oracle="torch",
            )
            for direction, whole in WAYS
        ),
        *(
            Case(
                "lstm",
                {"x": x, "initial_h": real(2, 10), "initial_c": real(2, 10)},
                lambda x, initial_h, initial_c, w=whole: ended(by_torch(x, initial_h, initial_c, [there, back]), w),
                {**there, **back, "direction": "bidirectional", "output_sequence": whole},
                opset=ct.target.iOS17,
                oracle="torch",
            )
            for whole in (True, False)
        ),
        Case(
            "lstm",
            {"x": x, "initial_h": h, "initial_c": c},
            lambda x, initial_h, initial_c: peeping(x, initial_h, initial_c, list(there.values()), peephole, limit=0.5),
            {**there, "peephole": peephole, "clip": 0.5},
            opset=ct.target.iOS17,
        ),
        Case(
            "lstm",
            {"x": x, "initial_h": real(2, 10), "initial_c": real(2, 10)},
            lambda x, initial_h, initial_c: both_ways(x, initial_h, initial_c),
            {**there, **back, "peephole": peephole, "peephole_back": peephole_back, "direction": "bidirectional"},
            opset=ct.target.iOS17,
        ),
        *(
            Case(
                "lstm",
                {"x": x / 9, "initial_h": h / 9, "initial_c": c / 9},
                lambda x, initial_h, initial_c, f=(of_gates, of_cell, of_gates): peeping(
                    x, initial_h, initial_c, list(there.values()), peephole, f
                ),
                {
                    **there,
                    "peephole": peephole,
                    "recurrent_activation": gates,
                    "cell_activation": cell,
                    "activation": gates,
                },
                opset=ct.target.iOS17,
            )
            for (gates, of_gates), (cell, of_cell) in around()
        ),
    ]
