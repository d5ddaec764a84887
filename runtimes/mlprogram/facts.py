"""What is known of Core ML and of Apple's Neural Engine: the condition that shows it, what to do, and who says so.

To add a fact, write it into `OF_OPS` or `OF_FUNCTIONS`, with who can act on it, a condition from `conditions` and the
address of its source; what no source states is left out. Apple publishes no list of what the Neural Engine runs, and it
changes with devices and systems: each message says what was seen, and the performance report in Xcode decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from edgevlm.runtimes.mlprogram import conditions as has
from edgevlm.runtimes.mlprogram.conditions import of
from edgevlm.runtimes.mlprogram.program import Function
from edgevlm.runtimes.mlprogram.uses import Use
from edgevlm.targets.inspection import Addressee, AdviceKind

COREMLTOOLS = "https://github.com/apple/coremltools"
CODE = f"{COREMLTOOLS}/blob/9.0/coremltools"
GUIDE = "https://apple.github.io/coremltools/docs-guides/source"
ARRAYS = "https://developer.apple.com/documentation/coreml/mlmultiarraydatatype"
ARTICLE = "https://machinelearning.apple.com/research/neural-engine-transformers"
RULES = "https://www.skills.sh/apple/coreai-models/model-authoring"
"""Apple's rules for authoring models for the Neural Engine, `neural_engine_rules.md`, written for Core AI."""
MOST_WEIGHT_BYTES = 1_000_000_000


@dataclass(frozen=True)
class OpFact:
    """Something known about single ops."""

    to: Addressee
    kind: AdviceKind
    holds: Callable[[Use], bool]
    message: str
    source: str


@dataclass(frozen=True)
class FunctionFact:
    """Something known about a function as a whole, by the names of the inputs, states or results that show it."""

    to: Addressee
    kind: AdviceKind
    names: Callable[[Function], Iterable[str]]
    message: str
    source: str


OF_OPS = (
    OpFact(
        "converter",
        "refused",
        has.has_more_than_five_axes,
        "Core ML has no tensors of more than 5 axes: merge some before and part them again after",
        f"{COREMLTOOLS}/issues/2536",
    ),
    # Wrong answers, or none
    OpFact(
        "converter",
        "accuracy",
        of("softplus", dtype="fp16"),
        "on the Neural Engine the result falls to 0 where the input passes 10.4, as exp(x) overflows: write "
        "max(x, 0) + log(1 + exp(-|x|))",
        f"{COREMLTOOLS}/issues/2687",
    ),
    OpFact(
        "converter",
        "accuracy",
        of("reduce_log_sum_exp", dtype="fp16"),
        "on the Neural Engine the sum of exp(x) overflows, for 32 equal inputs from 7.6 on, and the result falls to 0: "
        "subtract the maximum before and add it after",
        f"{COREMLTOOLS}/issues/2690",
    ),
    OpFact(
        "converter",
        "accuracy",
        has.is_log_of_softmax,
        "a share below what fp16 holds is 0 and its logarithm -inf: take the logarithm of the sum instead, with the "
        "maximum subtracted",
        f"{COREMLTOOLS}/issues/2728",
    ),
    OpFact(
        "app",
        "accuracy",
        of("reduce_argmax", dtype="fp16"),
        "places found in fp16 were wrong on the Neural Engine of an iPhone 17 Pro, through Core AI; after a cast to "
        "fp32, or by topk, they were right: check on the device, or find the place outside the graph",
        "https://github.com/apple/coreai-torch/issues/116",
    ),
    OpFact(
        "converter",
        "accuracy",
        has.masks_with_infinity,
        "the Neural Engine's softmax does not handle infinity, and a row that is masked throughout becomes NaN: mask "
        "with a finite number such as -40000; torch.finfo(torch.float32).min is infinite in fp16",
        RULES,
    ),
    OpFact(
        "converter",
        "accuracy",
        has.masks_with_nan,
        "a constant holds NaN, as a mask does that was multiplied or added up after it became infinite in fp16: every "
        "answer that it reaches is NaN. Mask with a finite number such as -40000",
        f"{COREMLTOOLS}/pull/2669",
    ),
    OpFact(
        "converter",
        "accuracy",
        has.casts_what_fp16_has_not,
        "a constant beyond 65504 becomes infinite in fp16, and a softmax over a row of such is NaN: mask with a finite "
        "number such as -40000",
        f"{COREMLTOOLS}/pull/2669",
    ),
    OpFact(
        "converter",
        "accuracy",
        has.loses_its_epsilon,
        "its epsilon is 0 in fp16, so that a row of equal values is divided by 0: Apple's own transformers take 1e-7",
        "https://github.com/apple/ml-ane-transformers/blob/da64000fa56cc85b0859bc17cb16a3d753b8304a/"
        "ane_transformers/huggingface/distilbert.py",
    ),
    OpFact(
        "app",
        "accuracy",
        has.squares_what_may_be_large,
        "a value beyond 256 overflows fp16 when it is squared: keep the op in fp32, by float32_ops of a recipe, where "
        "values come near it; edgevlm audit tells how far they are",
        f"{CODE}/converters/mil/frontend/torch/ops.py",
    ),
    # Work that leaves the Neural Engine
    OpFact(
        "app",
        "neural engine",
        has.computes_in("fp32"),
        "fp32 runs on the GPU and the CPU alone: convert in fp16, with few float32_ops, where the answers allow it",
        f"{GUIDE}/typed-execution-example.html",
    ),
    OpFact(
        "converter",
        "neural engine",
        has.computes_in("int32"),
        "Apple names fp16, int8 and int16 as the Neural Engine's types: int32 is for the CPU, which costs a change of "
        "processor where it stands between others: cast where values may be fp16",
        RULES,
    ),
    OpFact(
        "model",
        "neural engine",
        of("rnn", "gru", "lstm"),
        "recurrent layers do not run on the Neural Engine",
        f"{COREMLTOOLS}/issues/1780",
    ),
    OpFact(
        "model",
        "neural engine",
        of("while_loop"),
        "loops were not seen on the Neural Engine or the GPU: unroll what has a fixed number of rounds",
        f"{COREMLTOOLS}/issues/2208",
    ),
    OpFact(
        "converter",
        "neural engine",
        of("scatter", "scatter_nd"),
        "scatters fall off the Neural Engine, and gathers may stay: express the result by where its elements come from",
        f"{CODE}/converters/mil/frontend/torch/ops.py",
    ),
    OpFact(
        "model",
        "neural engine",
        of("topk", "gather_along_axis"),
        "was placed on the CPU, in a detector whose other ops were not (M3 Pro, macOS 27): leave the choice of the "
        "best to the app",
        "https://github.com/roboflow/rf-detr/pull/1495",
    ),
    OpFact(
        "model",
        "neural engine",
        of("resample"),
        "grid sampling was seen off the Neural Engine (M2, macOS 15)",
        f"{COREMLTOOLS}/issues/2299",
    ),
    OpFact(
        "converter",
        "neural engine",
        has.looks_up_many_rows,
        f"coremltools leaves indices into more than {has.MOST_ROWS:,} rows at 32 bits, which is none of the types that "
        "Apple names for the Neural Engine: look embeddings up outside, or split the table",
        f"{CODE}/converters/mil/mil/passes/defs/quantization.py",
    ),
    OpFact(
        "converter",
        "neural engine",
        has.has_a_long_axis,
        f"ONNX Runtime hands no tensor with an axis of more than {has.LONGEST_AXIS:,} to Core ML, which had refused "
        "some: split it where the op leaves the Neural Engine or does not load",
        "https://github.com/microsoft/onnxruntime/issues/19543",
    ),
    OpFact(
        "app",
        "neural engine",
        has.is_scaled_by_block,
        "the Neural Engine takes scales per output channel or per tensor; layers with scales per block run on the CPU "
        "or the GPU: int8 per channel, or a palette, stays",
        f"{COREMLTOOLS}/issues/2510",
    ),
    # Slower than it need be
    OpFact(
        "app",
        "speed",
        of("quantize"),
        "activations as integers are for the Neural Engine, and fastest from A17 Pro and M4 on; the CPU, and sometimes "
        "the GPU, is slower than with integer weights alone",
        f"{GUIDE}/opt-quantization-perf.html",
    ),
    OpFact(
        "app",
        "speed",
        has.has_palettes_of_few_channels,
        "many palettes a weight cost time: groups of 8 or 16 channels were still faster than no palette",
        f"{GUIDE}/opt-palettization-perf.html",
    ),
    OpFact(
        "converter",
        "speed",
        has.ends_in_an_axis_of_one,
        "the Neural Engine pads the last axis to 64 bytes, so that a last axis of 1 takes 32 times the memory in fp16: "
        "move a longer one there",
        ARTICLE,
    ),
    OpFact(
        "converter",
        "speed",
        of("linear", dtype="fp16"),
        "Apple's own transformers for the Neural Engine have 1x1 convolutions of [batch, channels, 1, sequence]",
        ARTICLE,
    ),
    OpFact(
        "model",
        "speed",
        has.strides_by_other_factors,
        "the Neural Engine takes strides with the factors 2 and 3 alone well, such as 8, 12 or 16",
        RULES,
    ),
    OpFact("model", "speed", has.pools_by_other_strides, "the Neural Engine pools well by strides of 2 and 4", RULES),
    OpFact(
        "model",
        "speed",
        has.is_widely_dilated,
        "wide dilations cost much on the Neural Engine: several of 2 and 3 after one another reach as far",
        RULES,
    ),
)

OF_FUNCTIONS = (
    FunctionFact(
        "converter",
        "refused",
        has.boundary_of_other_types,
        "an app hands arrays of float16, float32, double, int32 or int8 over, and no others: cast inside",
        ARRAYS,
    ),
    FunctionFact(
        "converter",
        "refused",
        has.inputs_without_bounds,
        "ML Programs take no size without an upper bound: give one",
        f"{GUIDE}/flexible-inputs.html",
    ),
    FunctionFact(
        "converter",
        "neural engine",
        has.inputs_of_a_range,
        "with sizes from a range, only the default one runs on the Neural Engine, and of enumerated shapes all may; "
        "from iOS 17.4 on the hint reshapeFrequency = infrequent lets ranges run there",
        "https://developer.apple.com/forums/thread/724930",
    ),
    FunctionFact(
        "model",
        "neural engine",
        has.results_of_sizes_computed,
        "sizes that depend on values make layers dynamic, which the Neural Engine does not run: fix them",
        f"{GUIDE}/faqs.html",
    ),
    FunctionFact(
        "converter",
        "neural engine",
        has.states_of_other_widths,
        "a state whose last axis is no multiple of 32 failed on the Neural Engine (M4, macOS 15): pad it",
        f"{COREMLTOOLS}/issues/2631",
    ),
)
