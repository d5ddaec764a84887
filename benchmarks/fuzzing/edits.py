"""Mutators of the program: shapes, types, names, ops, constants, weights' places, the description."""

from __future__ import annotations

import math
from random import Random
from typing import Any

from edgevlm.benchmarks.fuzzing.corpus import WEIGHTS
from edgevlm.benchmarks.fuzzing.damage import ELSEWHERE, ODD
from edgevlm.benchmarks.fuzzing.mutants import NUMBERS, Mutant, mutator
from edgevlm.runtimes.mlprogram.ops import OPS

_REALS = (0.0, -0.0, 1.0, -1.0, 0.5, 1e-9, 1e9, 1e30, -1e30, math.inf, -math.inf, math.nan)
_CODES = (*range(0, 3), *range(10, 14), *range(21, 26), *range(31, 42), 99, -1)
"""Element types, those that there are not included."""
_KINDS = sorted(OPS)


def operations(mutant: Mutant) -> list[Any]:
    return [operation for block in mutant.blocks() for operation in block.operations]


def names(mutant: Mutant) -> list[str]:
    """Every name of a value in the program."""
    found = [each.name for operation in operations(mutant) for each in operation.outputs]
    found += [each.name for block in mutant.blocks() for each in block.inputs]
    return found + [each.name for each in mutant.function.inputs]


def constants(mutant: Mutant) -> list[Any]:
    """Every constant: the values of const ops and those written in place."""
    found = []
    for operation in operations(mutant):
        found += [operation.attributes[name] for name in sorted(operation.attributes) if name != "name"]
        found += [
            binding.value
            for name in sorted(operation.inputs)
            for binding in operation.inputs[name].arguments
            if binding.WhichOneof("binding") == "value"
        ]
    return found


def types(mutant: Mutant) -> list[Any]:
    """Every type that the program declares."""
    found = [each.type for operation in operations(mutant) for each in operation.outputs]
    found += [each.type for block in mutant.blocks() for each in block.inputs]
    found += [each.type for each in mutant.function.inputs]
    return found + [each.type for each in constants(mutant)]


def tensor_of(value_type: Any) -> Any:
    """The type of the tensors that a type speaks of."""
    kind = value_type.WhichOneof("type")
    inner = {"listType": lambda: value_type.listType.type, "stateType": lambda: value_type.stateType.wrappedType}
    return inner[kind]().tensorType if kind in inner else value_type.tensorType


def called(mutant: Mutant, rng: Random) -> str:
    """A name: most often one of the program's."""
    return rng.choice(names(mutant)) if rng.random() < 0.9 else rng.choice(ODD).encode("utf-8", "replace").decode()


@mutator(weight=3)
def shape(mutant: Mutant, rng: Random) -> bool:
    """Sizes, or the number of axes, of one to all types."""
    chosen = types(mutant)
    chosen = chosen if rng.random() < 0.05 else rng.sample(chosen, min(len(chosen), 1 + rng.randrange(3)))
    new, way = rng.choice(NUMBERS) % (1 << 64), rng.randrange(8)
    for each in chosen:
        tensor = tensor_of(each)
        sizes = tensor.dimensions
        if way == 0:
            sizes.add().constant.size = new
            tensor.rank = len(sizes)
        elif way == 1 and sizes:
            del sizes[rng.randrange(len(sizes))]
            tensor.rank = len(sizes)
        elif way == 2 and sizes:
            rng.choice(sizes).unknown.variadic = rng.random() < 0.3
        elif way == 3:
            tensor.rank = rng.choice((-1, 0, 1, 9, -(1 << 63)))
        elif sizes:
            size = rng.choice(sizes)
            size.constant.size = rng.choice((new, size.constant.size + 1, max(size.constant.size, 1) - 1))
    return bool(chosen)


@mutator()
def element_type(mutant: Mutant, rng: Random) -> bool:
    tensor_of(rng.choice(types(mutant))).dataType = rng.choice(_CODES)
    return True


@mutator()
def kind_of_type(mutant: Mutant, rng: Random) -> bool:
    """A tensor becomes a list, a state, a tuple, a dictionary or nothing."""
    changed = rng.choice(types(mutant))
    old = type(changed)()
    old.CopyFrom(changed)
    way = rng.randrange(6)
    if way == 0:
        changed.listType.type.CopyFrom(old)
    elif way == 1:
        changed.stateType.wrappedType.CopyFrom(old)
    elif way == 2:
        changed.tupleType.types.add().CopyFrom(old)
    elif way == 3:
        changed.dictionaryType.keyType.CopyFrom(old)
    elif way == 4:
        changed.Clear()
    else:
        changed.tensorType.SetInParent()
    return True


@mutator(weight=3)
def kind_of_op(mutant: Mutant, rng: Random) -> bool:
    rng.choice(operations(mutant)).type = rng.choice((*_KINDS, "const", ""))
    return True


@mutator(expects="refused")
def unknown_op(mutant: Mutant, rng: Random) -> bool:
    rng.choice(operations(mutant)).type = rng.choice(("bend", "custom_layer", "Const", "add ", *ODD[:3]))
    return True


@mutator(expects="refused")
def unknown_opset(mutant: Mutant, rng: Random) -> bool:
    function, new = mutant.function, rng.choice(("CoreML99", "", "coreml8", "iOS18", "CoreML"))
    for opset in sorted(function.block_specializations):
        if rng.random() < 0.5:
            function.block_specializations[new].CopyFrom(function.block_specializations[opset])
    function.opset = new
    return True


@mutator(weight=3)
def arguments(mutant: Mutant, rng: Random) -> bool:
    """One less, one by another's name, two in each other's place, one twice, or nothing given."""
    listed = [each.inputs for each in operations(mutant) if each.inputs]
    if not listed:
        return False
    inputs = rng.choice(listed)
    first, other, way = rng.choice(sorted(inputs)), rng.choice(sorted(inputs)), rng.randrange(6)
    if way == 0:
        del inputs[first]
    elif way == 1:
        parameters = sorted({name for op in OPS.values() for name in op.parameters})
        inputs[rng.choice((*parameters, *ODD[:4]))].CopyFrom(inputs[first])
    elif way == 2:
        kept = type(inputs[first])()
        kept.CopyFrom(inputs[first])
        inputs[first].CopyFrom(inputs[other])
        inputs[other].CopyFrom(kept)
    elif way == 3:
        inputs[first].arguments.add()
        inputs[first].arguments[-1].CopyFrom(inputs[first].arguments[0])
    elif way == 4:
        inputs[first].ClearField("arguments")
    else:
        rng.choice([*inputs[first].arguments, inputs[first].arguments.add()]).Clear()
    return True


@mutator(weight=3)
def read_another(mutant: Mutant, rng: Random) -> bool:
    """An argument is bound to another name: a later one, its own, one in another block, or none at all."""
    bindings = [
        binding
        for operation in operations(mutant)
        for name in sorted(operation.inputs)
        for binding in operation.inputs[name].arguments
    ]
    if not bindings:
        return False
    rng.choice(bindings).name = called(mutant, rng)
    return True


@mutator(expects="refused")
def cycle(mutant: Mutant, rng: Random) -> bool:
    """An op reads its own result."""
    readers = [
        (operation, binding)
        for operation in operations(mutant)
        for name in sorted(operation.inputs)
        for binding in operation.inputs[name].arguments
        if operation.outputs and operation.type != "const"
    ]
    if not readers:
        return False
    operation, binding = rng.choice(readers)
    binding.name = operation.outputs[0].name
    return True


@mutator()
def ops(mutant: Mutant, rng: Random) -> bool:
    """One less, one twice, or in another order."""
    listed = rng.choice([block for block in mutant.blocks() if block.operations]).operations
    first, way = rng.randrange(len(listed)), rng.randrange(4)
    if way == 0:
        del listed[first]
    elif way == 1:
        listed.add().CopyFrom(listed[first])
    elif way == 2:
        moved = listed.pop(first)
        listed.insert(rng.randrange(len(listed) + 1), moved)
    else:
        shuffled = [listed.pop() for _ in range(len(listed))]
        rng.shuffle(shuffled)
        listed.extend(shuffled)
    return True


@mutator()
def names_of_results(mutant: Mutant, rng: Random) -> bool:
    """Another name, a name given twice, a result more or less."""
    operation = rng.choice(operations(mutant))
    if not operation.outputs or rng.random() < 0.2:
        added = operation.outputs.add()
        added.CopyFrom(rng.choice(operations(mutant)[0].outputs or [added]))
    elif rng.random() < 0.2:
        del operation.outputs[rng.randrange(len(operation.outputs))]
    else:
        rng.choice(operation.outputs).name = called(mutant, rng)
    return True


@mutator(weight=3)
def constant(mutant: Mutant, rng: Random) -> bool:
    """One element, one more, one less; of another field; or one constant in another's place."""
    chosen = constants(mutant)
    value = rng.choice(chosen)
    tensor = value.immediateValue.tensor
    field = tensor.WhichOneof("value")
    way = rng.randrange(8)
    if way == 0:
        value.CopyFrom(rng.choice(chosen))
    elif way == 1:
        new = rng.choice(("floats", "ints", "bools", "strings", "longInts", "doubles", "bytes"))
        getattr(tensor, new).SetInParent()
        _fill(getattr(tensor, new), new, rng)
    elif way == 2:
        item = rng.choice(chosen).SerializeToString()  # protobuf cannot copy a message into itself
        value.immediateValue.list.values.add().ParseFromString(item)
    elif field is None:
        return False
    else:
        _change(getattr(tensor, field), field, rng)
    return True


def _drawn(field: str, rng: Random) -> Any:
    bits = 64 if field == "longInts" else 32
    number = (rng.choice(NUMBERS) + (1 << bits - 1)) % (1 << bits) - (1 << bits - 1)
    real = rng.choice((*_REALS, *map(float, NUMBERS[:8])))
    text = rng.choice((*ODD, "fp16", "int32", "same", "custom", "valid", "relu"))
    return {
        "bools": rng.random() < 0.5,
        "ints": number,
        "longInts": number,
        "floats": real if abs(real) < 1e38 else math.copysign(math.inf, real),
        "doubles": real,
        "strings": text.encode("utf-8", "ignore").decode(),
    }[field]


def _fill(content: Any, field: str, rng: Random) -> None:
    if field == "bytes":
        content.values = rng.randbytes(rng.randrange(40))
    else:
        content.values.extend(_drawn(field, rng) for _ in range(rng.randrange(5)))


def _change(content: Any, field: str, rng: Random) -> None:
    if field == "bytes":
        position = rng.randrange(len(content.values) + 1)
        extra = rng.choice((b"", b"\xff", b"\0\0", rng.randbytes(4)))
        content.values = content.values[:position] + extra + content.values[position + rng.randrange(5) :]
    elif not content.values or rng.random() < 0.15:
        content.values.append(_drawn(field, rng))
    elif rng.random() < 0.15:
        del content.values[rng.randrange(len(content.values))]
    else:
        position = rng.randrange(len(content.values))
        old = content.values[position]
        near = field == "ints" and abs(old) < 1 << 30 and rng.random() < 0.5
        content.values[position] = old + rng.choice((-1, 1)) if near else _drawn(field, rng)


def blobs(mutant: Mutant) -> list[Any]:
    """Every reference to a weight file."""
    return [each.blobFileValue for each in constants(mutant) if each.WhichOneof("value") == "blobFileValue"]


@mutator()
def place_of_a_weight(mutant: Mutant, rng: Random) -> bool:
    found = blobs(mutant)
    if not found:
        return False
    blob, other = rng.choice(found), rng.choice(found)
    near = blob.offset + rng.choice((-64, -1, 1, 8, 64, 128))
    end = len(mutant.files.get(WEIGHTS, b""))
    blob.offset = rng.choice((near, other.offset, end, end - 64, end - 8, rng.choice(NUMBERS))) % (1 << 64)
    return True


@mutator()
def file_of_a_weight(mutant: Mutant, rng: Random) -> bool:
    found = blobs(mutant)
    if not found:
        return False
    name = rng.choice(
        (*ODD, "weights", "model.mlmodel", "weights/weight.bin", "@model_path/", "@model_path/@model_path/w")
    )
    rng.choice(found).fileName = rng.choice(("", "@model_path/", "@model_path/weights/")) + name
    return True


@mutator(expects="refused")
def weight_from_elsewhere(mutant: Mutant, rng: Random) -> bool:
    found = blobs(mutant)
    if not found:
        return False
    up = "../" * rng.choice((3, 4, 20))
    name = rng.choice((*ELSEWHERE, f"{up}sound/{WEIGHTS}", f"weights/../{up}sound/{WEIGHTS}"))
    rng.choice(found).fileName = rng.choice(("", "@model_path/")) + name
    return True


@mutator()
def results(mutant: Mutant, rng: Random) -> bool:
    """What a block returns."""
    outputs = rng.choice(list(mutant.blocks())).outputs
    way = rng.randrange(4)
    if way == 0 or not outputs:
        outputs.append(called(mutant, rng))
    elif way == 1:
        del outputs[rng.randrange(len(outputs))]
    elif way == 2:
        outputs[rng.randrange(len(outputs))] = called(mutant, rng)
    else:
        del outputs[:]
    return True


@mutator()
def parameters(mutant: Mutant, rng: Random) -> bool:
    """What a function or a nested block takes."""
    listed = rng.choice([mutant.function.inputs, *(block.inputs for block in mutant.blocks())])
    way = rng.randrange(4)
    if way == 0 or not listed:
        added = listed.add()
        added.name = called(mutant, rng)
        added.type.CopyFrom(rng.choice(types(mutant)))
    elif way == 1:
        del listed[rng.randrange(len(listed))]
    elif way == 2:
        listed.add().CopyFrom(rng.choice(listed))
    else:
        rng.choice(listed).name = called(mutant, rng)
    return True


@mutator()
def nested_blocks(mutant: Mutant, rng: Random) -> bool:
    """A block more or less, or one in another's place."""
    operation, block = rng.choice(operations(mutant)), rng.choice(list(mutant.blocks()))
    copy = type(block)()
    copy.CopyFrom(block)
    if len(copy.operations) > 100:
        return False
    if operation.blocks and rng.random() < 0.5:
        operation.blocks[rng.randrange(len(operation.blocks))].CopyFrom(copy)
    elif operation.blocks and rng.random() < 0.5:
        del operation.blocks[rng.randrange(len(operation.blocks))]
    else:
        operation.blocks.add().CopyFrom(copy)
    return True


@mutator()
def functions(mutant: Mutant, rng: Random) -> bool:
    """Another name, one less, one more, another default, another body."""
    program, description = mutant.spec.mlProgram, mutant.spec.description
    name, new = rng.choice(sorted(program.functions)), rng.choice((*ODD, "main", "second"))
    way = rng.randrange(4)
    if way == 0:
        description.defaultFunctionName = new
    elif way == 1:
        program.functions[new].CopyFrom(program.functions[name])
    elif way == 2:
        del program.functions[name]
    else:
        del program.functions[name].block_specializations[program.functions[name].opset]
    return True


@mutator(weight=3)
def description(mutant: Mutant, rng: Random) -> bool:
    """What the description says of an input or output."""
    about = mutant.spec.description
    listed = [
        about.input,
        about.output,
        *(each for function in about.functions for each in (function.input, function.output)),
    ]
    features = rng.choice([each for each in listed if each] or [about.input])
    if not features:
        return False
    feature, way = rng.choice(features), rng.randrange(10)
    array, picture = feature.type.multiArrayType, feature.type.imageType
    number = min(max(rng.choice(NUMBERS), -(1 << 63)), (1 << 63) - 1)
    if way == 0:
        feature.name = called(mutant, rng)
    elif way == 1:
        features.remove(feature)
    elif way == 2:
        picture.width, picture.height, picture.colorSpace = (
            number,
            rng.choice((0, 8, 16)),
            rng.choice((0, 10, 20, 30, 40, 7)),
        )
    elif way == 3:
        sides = [picture.imageSizeRange.widthRange, picture.imageSizeRange.heightRange]
        for side in sides:
            side.lowerBound, side.upperBound = rng.choice(NUMBERS) % (1 << 64), number
        picture.colorSpace = rng.choice((10, 20, 30, 40))
    elif way == 4:
        size = picture.enumeratedSizes.sizes.add()
        size.width, size.height = rng.choice(NUMBERS) % (1 << 64), 8
    elif way == 5:
        for _ in range(rng.randrange(1, 6)):
            span = array.shapeRange.sizeRanges.add()
            span.lowerBound, span.upperBound = rng.choice((0, 1, 99)), number
    elif way == 6:
        array.enumeratedShapes.shapes.add().shape.extend([number, *list(array.shape)[1:]])
    elif way == 7:
        del array.shape[:]
        array.shape.extend(rng.choice(([], [number], [number] * 4, [-1, -1], [0])))
    elif way == 8:
        feature.type.isOptional = True
        field = rng.choice(("intDefaultValue", "floatDefaultValue", "doubleDefaultValue"))
        setattr(array, field, rng.choice((0, 1, -1, (1 << 31) - 1)) if field[0] == "i" else rng.choice(_REALS))
    else:
        rng.choice(
            (feature.type.stringType, feature.type.int64Type, feature.type.dictionaryType, feature.type)
        ).SetInParent()
    return True


@mutator(weight=3)
def any_field(mutant: Mutant, rng: Random) -> bool:
    """Anything in the specification, wherever it stands."""
    message = mutant.spec
    while True:
        inner = [each for field, content in message.ListFields() for each in _messages(field, content)]
        if not inner or rng.random() < 0.1:
            break
        message = rng.choice(inner)
    fields = [*message.DESCRIPTOR.fields, *(field for field, _ in message.ListFields())]
    _set(message, rng.choice(fields), mutant, rng)
    return True


def _messages(field: Any, content: Any) -> list[Any]:
    if field.message_type is None:
        return []
    if field.message_type.GetOptions().map_entry:
        return [content[key] for key in sorted(content) if hasattr(content[key], "ListFields")]
    return list(content) if field.is_repeated else [content]


def _set(message: Any, field: Any, mutant: Mutant, rng: Random) -> None:
    """Clears a field, sets it, or takes from or adds to it."""
    content = getattr(message, field.name)
    if rng.random() < 0.2:
        message.ClearField(field.name)
    elif field.is_repeated and field.message_type is not None:
        if field.message_type.GetOptions().map_entry:
            if content and rng.random() < 0.5:
                del content[rng.choice(sorted(content))]
        elif content and rng.random() < 0.5:
            del content[rng.randrange(len(content))]
        else:
            content.add().CopyFrom(rng.choice(content)) if content else content.add()
    elif field.message_type is not None:
        content.SetInParent()
    elif field.is_repeated:
        content.append(_scalar(field, mutant, rng))
    else:
        setattr(message, field.name, _scalar(field, mutant, rng))


def _scalar(field: Any, mutant: Mutant, rng: Random) -> Any:
    if field.cpp_type == field.CPPTYPE_STRING:
        return rng.randbytes(5) if field.type == field.TYPE_BYTES else called(mutant, rng)
    if field.cpp_type in (field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE):
        return rng.choice(_REALS)
    if field.cpp_type == field.CPPTYPE_BOOL:
        return rng.random() < 0.5
    bits = 64 if field.cpp_type in (field.CPPTYPE_INT64, field.CPPTYPE_UINT64) else 32
    number = rng.choice(NUMBERS) % (1 << bits)
    if field.cpp_type == field.CPPTYPE_ENUM:
        return number % 64
    unsigned = field.cpp_type in (field.CPPTYPE_UINT32, field.CPPTYPE_UINT64)
    return number if unsigned or number < 1 << bits - 1 else number - (1 << bits)
