"""Mutators after which a program asks for more than any machine has: memory, time, depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

import numpy as np
from coremltools.proto import MIL_pb2  # type: ignore[import-untyped]

from edgevlm.benchmarks.fuzzing.edits import operations, tensor_of
from edgevlm.benchmarks.fuzzing.mutants import Mutant, mutator

_FLOAT, _INT, _BOOL, _STRING = 11, 23, 1, 2
_RESULTS = {"non_maximum_suppression": 4, "topk": 2}


def _typed(value_type: Any, code: int, sizes: Sequence[int | None]) -> None:
    tensor = value_type.tensorType
    tensor.dataType, tensor.rank = code, len(sizes)
    for size in sizes:
        dimension = tensor.dimensions.add()
        if size is None:
            dimension.unknown.variadic = False
        else:
            dimension.constant.size = size


def constant(value: Any) -> Any:
    """A constant: a text, a truth value, a whole number, a real one, or an array of numbers."""
    made = MIL_pb2.Value()
    content = made.immediateValue.tensor
    if isinstance(value, str):
        _typed(made.type, _STRING, ())
        content.strings.values.append(value)
        return made
    array = np.asarray(value)
    code, field = {"b": (_BOOL, content.bools), "i": (_INT, content.ints), "f": (_FLOAT, content.floats)}[
        array.dtype.kind
    ]
    _typed(made.type, code, array.shape)
    field.values.extend(array.reshape(-1).tolist())
    return made


def operation(kind: str, inputs: Mapping[str, Any], outputs: Mapping[str, tuple[int, Sequence[int | None]]]) -> Any:
    """An op.

    Args:
        kind: Its type.
        inputs: Arguments: constants, or names as `@name`, or lists of such.
        outputs: Name -> element type and sizes.
    """
    made = MIL_pb2.Operation(type=kind)
    for name, given in inputs.items():
        for each in given if isinstance(given, tuple) else (given,):
            binding = made.inputs[name].arguments.add()
            if isinstance(each, str) and each.startswith("@"):
                binding.name = each[1:]
            else:
                binding.value.CopyFrom(constant(each))
    for name, (code, sizes) in outputs.items():
        output = made.outputs.add(name=name)
        _typed(output.type, code, sizes)
    return made


def _with_source(mutant: Mutant, rng: Random) -> tuple[Any, list[Any]]:
    """A body, and ops of the mutator's own to begin it with: `bomb_x`, ones [1, 2, 4, 4] computed at run time.

    At run time: out of an input's shape, of which only a rank is known to be.
    """
    function = mutant.function
    source = next((each.name for each in function.inputs if each.type.WhichOneof("type") == "tensorType"), None)
    if source is None or function.opset not in function.block_specializations or rng.random() < 0.3:
        begin = [operation("fill", {"shape": [1, 2, 4, 4], "value": 1.0}, {"bomb_x": (_FLOAT, [1, 2, 4, 4])})]
    else:
        begin = [
            operation("shape", {"x": f"@{source}"}, {"bomb_shape": (_INT, [None])}),
            operation("reduce_prod", {"x": "@bomb_shape", "keep_dims": False}, {"bomb_count": (_INT, [])}),
            operation("minimum", {"x": "@bomb_count", "y": 1}, {"bomb_one": (_INT, [])}),
            operation("cast", {"x": "@bomb_one", "dtype": "fp32"}, {"bomb_real": (_FLOAT, [])}),
            operation("tile", {"x": "@bomb_wide", "reps": [1, 2, 4, 4]}, {"bomb_x": (_FLOAT, [1, 2, 4, 4])}),
        ]
        wide = operation("reshape", {"x": "@bomb_real", "shape": [1, 1, 1, 1]}, {"bomb_wide": (_FLOAT, [1] * 4)})
        begin.insert(-1, wide)
    bodies = sorted(function.block_specializations)
    return function.block_specializations[function.opset if function.opset in bodies else bodies[0]], begin


def _large(n: int) -> Mapping[str, Mapping[str, Any]]:
    """By op, arguments with which its result is large, by n."""
    image = {"x": "@bomb_x"}
    span = {"normalized_coordinates": True, "target_height": n, "target_width": n}
    place = {"sampling_mode": "bilinear", "padding_mode": "constant", "padding_value": 0.0, "align_corners": True}
    place["coordinates_mode"] = "normalized_minus_one_to_one"
    return {
        "fill": {"shape": [n, n], "value": 1.0},
        "tile": {**image, "reps": [n, 1, n, 1]},
        "pad": {**image, "pad": [0, n, n, 0]},
        "range_1d": {"start": 0.0, "end": 1.0, "step": 1.0 / n**2},
        "one_hot": {"indices": [1, 2], "one_hot_vector_size": n},
        "resize_bilinear": {**image, "target_size_height": n, "target_size_width": n},
        "resize_nearest_neighbor": {**image, "target_size_height": n // 4 * 4, "target_size_width": n // 4 * 4},
        "resize": {**image, "shape": [n, n], "resized_dims": 2, "interpolation_mode": "NEAREST_NEIGHBOR"},
        "upsample_bilinear": {**image, "scale_factor_height": float(n), "scale_factor_width": float(n)},
        "upsample_nearest_neighbor": {**image, "scale_factor_height": float(n), "scale_factor_width": float(n)},
        "random_normal": {"shape": [n, n], "seed": 1},
        "random_bernoulli": {"shape": [n, n], "seed": 1},
        "random_categorical": {"x": [[1.0, 2.0]], "size": n, "seed": 1},
        "affine": {
            **image, "transform_matrix": np.ones((1, 6), np.float32), "output_height": n, "output_width": n, **place,
        },
        "crop_resize": {**image, "boxes": [[0.0, 0.0, 1.0, 1.0]], **span},
        "conv": {**image, "weight": np.ones((1, 2, 1, 1), np.float32), "pad_type": "custom", "pad": [n] * 4},
        "conv_transpose": {**image, "weight": np.ones((2, 1, 1, 1), np.float32), "strides": [n, n]},
        "max_pool": {**image, "kernel_sizes": [1, 1], "pad_type": "custom", "pad": [n] * 4},
        "local_response_norm": {**image, "size": n},
        "space_to_batch": {**image, "block_shape": [1, 1], "paddings": [[n, n], [n, n]]},
        "non_maximum_suppression": {
            "boxes": np.ones((1, 4, 2), np.float32), "scores": np.ones((1, 1, 2), np.float32),
            "iou_threshold": 0.5, "max_boxes": n,
        },
        "make_list": {"init_length": n, "elem_shape": (n, n)},
        "sliding_windows": {**image, "axis": 3, "size": 1, "stride": n},
        "topk": {**image, "k": n},
        "split": {**image, "axis": 3, "num_splits": n},
        "stack": {"values": ("@bomb_x",) * min(n, 5000), "axis": 0},
    }  # fmt: skip


@mutator(weight=0.4)
def a_huge_result(mutant: Mutant, rng: Random) -> bool:
    """An op whose result is larger than it declares, or as large."""
    n = rng.choice((100, 3000, 20_000, 60_000, 1 << 20, 1 << 24, (1 << 31) - 1))
    kind, arguments = rng.choice(sorted(_large(n).items()))
    body, begin = _with_source(mutant, rng)
    sizes: Sequence[int | None] = rng.choice(([], [1], [None], [None] * 4, [n, n], [1, 2, n, n]))
    bomb = operation(kind, arguments, {f"bomb{i}": (_FLOAT, sizes) for i in range(_RESULTS.get(kind, 1))})
    _put(body, [*begin, bomb, _read("bomb0", rng)])
    return True


def _read(name: str, rng: Random) -> Any:
    """An op that reads a value, so that it is computed and something depends on it."""
    return operation("identity", {"x": f"@{name}"}, {"bomb_read": (_FLOAT, rng.choice(([None], [None] * 2, [1])))})


def _put(body: Any, made: Sequence[Any]) -> None:
    copies = [MIL_pb2.Operation.FromString(each.SerializeToString()) for each in body.operations]
    del body.operations[:]
    body.operations.extend([*made, *copies])


@mutator(weight=0.4)
def a_result_that_doubles(mutant: Mutant, rng: Random) -> bool:
    """A chain whose every result is twice the one before, or its square."""
    body, begin = _with_source(mutant, rng)
    made = begin
    kind, last = rng.choice(("concat", "add", "matmul", "stack", "mul")), "bomb_x"
    made.append(operation("reshape", {"x": "@bomb_x", "shape": [32, 1]}, {"bomb_flat": (_FLOAT, [32, 1])}))
    last = "bomb_flat"
    for i in range(rng.choice((5, 12, 40))):
        sizes: list[int | None] = [None, None]
        if kind == "concat":
            step = [operation(kind, {"values": (f"@{last}", f"@{last}"), "axis": 0}, {f"bomb{i}": (_FLOAT, sizes)})]
        elif kind == "stack":
            step = [
                operation(
                    kind, {"values": (f"@{last}", f"@{last}"), "axis": 0}, {f"bomb{i}": (_FLOAT, [None] * (i + 3))}
                )
            ]
        else:
            turned = operation("transpose", {"x": f"@{last}", "perm": [1, 0]}, {f"turned{i}": (_FLOAT, sizes)})
            square = operation(kind, {"x": f"@{last}", "y": f"@turned{i}"}, {f"square{i}": (_FLOAT, sizes)})
            flat = operation("reshape", {"x": f"@square{i}", "shape": [-1, 1]}, {f"bomb{i}": (_FLOAT, sizes)})
            step = [turned, square, flat]
        made += step
        last = f"bomb{i}"
    _put(body, made)
    return True


@mutator(weight=0.4)
def many_large_results(mutant: Mutant, rng: Random) -> bool:
    """Each of them could be held, but not all of them together."""
    body, begin = _with_source(mutant, rng)
    names = [f"bomb{i}" for i in range(rng.choice((20, 100)))]
    size = rng.choice((100_000, 5_000_000))
    tiled = {"reps": [1, 1, 1, size // 32], "x": "@bomb_x"}
    begin += [operation("tile", tiled, {name: (_FLOAT, [None] * 4)}) for name in names]
    joined = operation(
        "concat", {"values": tuple(f"@{each}" for each in names), "axis": 0}, {"bomb": (_FLOAT, [None] * 4)}
    )
    _put(body, [*begin, joined])
    return True


@mutator(weight=0.4)
def a_long_loop(mutant: Mutant, rng: Random) -> bool:
    """A condition that is always true, of a loop in the program or of one that is added."""
    body, begin = _with_source(mutant, rng)
    loops = [each for each in operations(mutant) if each.type == "while_loop" and len(each.blocks) == 2]
    if loops:
        condition = rng.choice(loops).blocks[0]
        if condition.outputs:
            endless = operation("less", {"x": 1, "y": 2}, {"endless": (_BOOL, [])})
            condition.operations.add().CopyFrom(endless)
            condition.outputs[0] = "endless"
        return True
    grow = rng.choice(("identity", "tile", "none"))
    _put(body, [*begin, _loop("bomb_loop", "@bomb_x", rng.choice((1, 1, 2, 3)), grow)])
    return True


def _loop(name: str, source: str, depth: int, grow: str) -> Any:
    """An endless loop that has, depth times, one in its body."""
    made = operation("while_loop", {"loop_vars": source}, {name: (_FLOAT, [None] * 4)})
    condition, inside = made.blocks.add(), made.blocks.add()
    for block, taken in ((condition, f"{name}_c"), (inside, f"{name}_b")):
        parameter = block.inputs.add(name=taken)
        _typed(parameter.type, _FLOAT, [None] * 4)
    condition.operations.add().CopyFrom(operation("less", {"x": 1, "y": 2}, {f"{name}_true": (_BOOL, [])}))
    condition.outputs.append(f"{name}_true")
    if depth > 1:
        inside.operations.add().CopyFrom(_loop(f"{name}{depth}", f"@{name}_b", depth - 1, grow))
        inside.outputs.append(f"{name}{depth}")
    elif grow == "none":
        inside.outputs.append(f"{name}_b")
    else:
        more = {"reps": [1, 1, 1, 2]} if grow == "tile" else {}
        inside.operations.add().CopyFrom(
            operation(grow, {"x": f"@{name}_b", **more}, {f"{name}_more": (_FLOAT, [None] * 4)})
        )
        inside.outputs.append(f"{name}_more")
    return made


@mutator(weight=0.4)
def deep_nests(mutant: Mutant, rng: Random) -> bool:
    """Branches in branches, or lists of lists."""
    depth = rng.choice((5, 20, 30, 100, 1000, 20_000))
    if depth > 30:  # protobuf's own classes write no deeper
        mutant.appended = _nest(depth)
        return True
    body, begin = _with_source(mutant, rng)
    if rng.random() < 0.3:
        value = constant(1.0)
        for _ in range(depth):
            outer = MIL_pb2.Value()
            outer.type.listType.type.CopyFrom(value.type)
            outer.immediateValue.list.values.add().CopyFrom(value)
            value = outer
        made = MIL_pb2.Operation(type="const")
        made.outputs.add(name="bomb").type.CopyFrom(value.type)
        made.attributes["val"].CopyFrom(value)
        _put(body, [made])
        return True
    inner = operation("identity", {"x": "@bomb_x"}, {"bomb_inner": (_FLOAT, [1, 2, 4, 4])})
    for i in range(depth):
        name = inner.outputs[0].name
        outer = operation("cond", {"pred": True}, {f"bomb_outer{i}": (_FLOAT, [1, 2, 4, 4])})
        for content in (inner, operation("identity", {"x": "@bomb_x"}, {f"other{i}": (_FLOAT, [1, 2, 4, 4])})):
            block = outer.blocks.add()
            block.operations.add().CopyFrom(content)
            block.outputs.append(name if content is inner else f"other{i}")
        inner = outer
    _put(body, [*begin, inner])
    return True


def _nest(depth: int) -> bytes:
    """A model specification, to be merged into another: ops with blocks with ops with blocks."""

    def wrapped(field: int, content: bytes) -> bytes:
        return _varint(field << 3 | 2) + _varint(len(content)) + content

    nest = b""
    for _ in range(depth):
        nest = wrapped(4, wrapped(3, nest))  # Operation.blocks, Block.operations
    body = wrapped(1, b"CoreML8") + wrapped(2, wrapped(3, nest))
    function = wrapped(1, b"main") + wrapped(2, wrapped(2, b"CoreML8") + wrapped(3, body))
    return wrapped(502, wrapped(2, function))  # Model.mlProgram, Program.functions


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    return bytes([*encoded, number])


@mutator(weight=0.4)
def a_long_program(mutant: Mutant, rng: Random) -> bool:
    body, begin = _with_source(mutant, rng)
    last = "bomb_x"
    for i in range(rng.choice((20, 400))):
        begin.append(operation("relu", {"x": f"@{last}"}, {f"bomb{i}": (_FLOAT, [1, 2, 4, 4])}))
        last = f"bomb{i}"
    _put(body, begin)
    return True


@mutator(weight=0.4)
def huge_inputs(mutant: Mutant, rng: Random) -> bool:
    """An input or a state of a size that nothing holds, described as it is declared."""
    function = mutant.function
    if not function.inputs:
        return False
    chosen = rng.choice(function.inputs)
    tensor = tensor_of(chosen.type)
    if not tensor.dimensions:
        return False
    size = rng.choice((1 << 20, 1 << 31, 1 << 40, 1 << 62, (1 << 63) - 1, 1 << 63))
    rng.choice(tensor.dimensions).constant.size = size
    sizes = [min(each.constant.size, (1 << 63) - 1) for each in tensor.dimensions]
    for feature in (*mutant.spec.description.input, *mutant.spec.description.state):
        if feature.name == chosen.name:
            kind = feature.type.WhichOneof("Type")
            array = feature.type.stateType.arrayType if kind == "stateType" else feature.type.multiArrayType
            if kind != "imageType":
                del array.shape[:]
                array.shape.extend(sizes)
            elif len(sizes) == 4:
                feature.type.imageType.height, feature.type.imageType.width = sizes[2:]
    return True
