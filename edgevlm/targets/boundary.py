"""What every session checks before a backend sees an array.

Backends differ in what they do with a wrong input: some raise, some read past the end of a short buffer, some
answer NaN. So the check is made once, here, in numpy, and is the same for every target.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np

from edgevlm.bundle.dialogue import DECODE, EMBED_TOKENS, LOGITS, POSITIONS
from edgevlm.bundle.spec import Array, ComponentSpec, TensorSpec
from edgevlm.errors import TensorError
from edgevlm.process.limits import MOST_THREADS, check_whole

T = TypeVar("T")


def validate_inputs(spec: ComponentSpec, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """The inputs in the order of the spec, C-contiguous and aligned; copied only where they were not.

    >>> x = TensorSpec("x", "float32", (1, 2), "numbers")
    >>> validate_inputs(ComponentSpec("double", (x,), ()), {"x": np.ones((1, 3), np.float32)})
    Traceback (most recent call last):
        ...
    edgevlm.errors.TensorError: double: input 'x': expected shape [1, 2], got [1, 3]

    Args:
        spec: Names, dtypes and shapes that the component takes.
        inputs: One array a name; float32 arrays hold finite values.

    Raises:
        TensorError: a name is missing or unknown; or an array is no ndarray, has the wrong dtype or shape,
            or holds NaN or infinity.
    """
    _check_names(spec, inputs)
    length = length_of(spec, inputs)
    return {tensor.name: _validate(spec.name, tensor, inputs[tensor.name], tensor.at(length)) for tensor in spec.inputs}


def length_of(spec: ComponentSpec, inputs: Mapping[str, Array]) -> int:
    """How many rows a component is run with at once; 1 where it has no choice.

    Raises:
        TensorError: the inputs differ in it, or it is none of the component's lengths.
    """
    if not spec.lengths:
        return 1
    shapes = [(tensor.shape, np.shape(inputs[tensor.name])) for tensor in spec.inputs if -1 in tensor.shape]
    found = {got[shape.index(-1)] if len(got) == len(shape) else 0 for shape, got in shapes}
    if len(found) != 1 or not found <= {*spec.lengths}:
        raise TensorError(
            f"{spec.name}: expected {' or '.join(map(str, spec.lengths))} rows at once, the same of each input, got "
            f"{' and '.join(map(str, sorted(found)))}"
        )
    return found.pop()


def validate_dialogue(specs: Mapping[str, ComponentSpec], component: str, arrays: Mapping[str, Array]) -> None:
    """Refuses places and words that a model that talks has no rows for.

    What backends do with them differs: one reads past the end of a table, one takes a place for padding without a word.

    Args:
        specs: Of all components: the vocabulary is as large as `decode` has logits, the context as its state has rows.
        component: Which of them is run.
        arrays: Its inputs, valid otherwise.

    Raises:
        TensorError: token ids beyond the vocabulary, or positions beyond the context.
    """
    decode = specs.get(DECODE)
    if decode is None or not decode.state:
        return
    logits = [each for each in decode.outputs if each.name == LOGITS]
    if component == EMBED_TOKENS and logits:
        for name, ids in arrays.items():
            _refuse_outside(component, name, ids, 0, logits[0].shape[-1], "ids of the vocabulary")
    elif component == DECODE and POSITIONS in arrays:
        size = min(each.shape[2] for each in decode.state)
        _refuse_outside(component, POSITIONS, arrays[POSITIONS], -1, size, "places of the context, or -1 for padding")


def _refuse_outside(component: str, name: str, array: Array, least: int, size: int, what: str) -> None:
    wrong = array[(array < least) | (array >= size)]
    if wrong.size:
        raise TensorError(
            f"{component}: input {name!r}: expected {what}, {least} to {size - 1:,}, got {int(wrong.flat[0]):,}"
        )


def validate_rows(spec: ComponentSpec, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """The same for N rows at once: the first axis of every input is N, whatever the spec says.

    Raises:
        TensorError: see `validate_inputs`; or the inputs differ in their number of rows.
    """
    _check_names(spec, inputs)
    stacked = [tensor for tensor in spec.inputs if tensor.shape and np.ndim(inputs[tensor.name]) == len(tensor.shape)]
    counts = {len(inputs[tensor.name]) for tensor in stacked}
    if len(counts) > 1:
        raise TensorError(f"{spec.name}: expected as many rows of each input, got {sorted(counts)}")
    count = counts.pop() if counts else 1
    return {
        tensor.name: _validate(spec.name, tensor, inputs[tensor.name], (count, *tensor.shape[1:])[: len(tensor.shape)])
        for tensor in spec.inputs
    }


def _check_names(spec: ComponentSpec, inputs: Mapping[str, Array]) -> None:
    expected = [tensor.name for tensor in spec.inputs]
    unknown = [name for name in inputs if name not in expected]
    missing = [name for name in expected if name not in inputs]
    if unknown or missing:
        raise TensorError(
            f"{spec.name}: expected the inputs {_listed(expected)}, got {_listed(inputs)}",
            hint=_name_hint(missing, unknown),
        )


def find_component(components: Mapping[str, T], name: str) -> T:
    """The component of that name.

    >>> find_component({"encode_image": 1}, "encode_text")
    Traceback (most recent call last):
        ...
    edgevlm.errors.TensorError: no component 'encode_text': this bundle has 'encode_image'

    Raises:
        TensorError: the bundle has none of that name; the message lists those that it has.
    """
    try:
        return components[name]
    except KeyError:
        raise TensorError(f"no component {name!r}: this bundle has {_listed(components)}") from None


def validate_threads(threads: int | None) -> None:
    """Refuses what is neither None (the runtime's own choice) nor a whole number from 1 to `MOST_THREADS`.

    >>> validate_threads(0)
    Traceback (most recent call last):
        ...
    edgevlm.errors.InputError: threads: expected a whole number from 1 to 1,024, got 0

    Raises:
        InputError: anything else.
    """
    if threads is not None:
        check_whole("threads", threads, 1, MOST_THREADS, hint="without it, the backend chooses")


def _validate(component: str, tensor: TensorSpec, array: Any, shape: tuple[int, ...]) -> Array:
    where = f"{component}: input {tensor.name!r}"
    if not isinstance(array, np.ndarray):
        raise TensorError(
            f"{where}: expected a numpy array, got {type(array).__name__}", hint=f"it holds {tensor.meaning}"
        )
    if array.dtype != tensor.dtype:
        raise TensorError(
            f"{where}: expected dtype {tensor.dtype}, got {array.dtype}", hint=f"convert it: .astype({tensor.dtype!r})"
        )
    if array.shape != shape:
        raise TensorError(
            f"{where}: expected shape {list(shape)}, got {list(array.shape)}",
            hint=f"it holds {tensor.meaning}",
        )
    if tensor.dtype == "float32" and not np.isfinite(array).all():
        bad = int(array.size - np.isfinite(array).sum())
        raise TensorError(f"{where}: expected finite values, got {bad} of {array.size} that are NaN or infinite")
    return np.require(np.asarray(array), requirements=["C", "A"])


def _listed(names: Mapping[str, Any] | list[str]) -> str:
    return ", ".join(repr(name) for name in names) or "none"


def _name_hint(missing: list[str], unknown: list[str]) -> str:
    parts = [f"{word} {_listed(names)}" for word, names in (("missing:", missing), ("unknown:", unknown)) if names]
    return "; ".join(parts)
