"""Calls of ops drawn at random: element types, ranks 0 to 5, sizes of 0 and 1, broadcasting, axes from the end."""

from mlprogram_draws.arithmetic import cast, comparison, one_argument, select, two_arguments
from mlprogram_draws.arrangement import axes_of_one, flattened, joined, padded, repeated, reshaped, split, transposed
from mlprogram_draws.axes import cumsum, layer_norm, place, reduction, softmax
from mlprogram_draws.draw import Call, Draw, Draws
from mlprogram_draws.indexing import gather, gather_along_axis, gather_nd, scatter, slice_by_index, slice_by_size
from mlprogram_draws.matrices import linear, matmul
from mlprogram_draws.sorting import argsort, non_zero, one_hot, topk

DRAWS: tuple[Draw, ...] = (
    one_argument,
    two_arguments,
    comparison,
    select,
    cast,
    reduction,
    place,
    cumsum,
    softmax,
    layer_norm,
    reshaped,
    axes_of_one,
    flattened,
    transposed,
    joined,
    split,
    repeated,
    padded,
    slice_by_index,
    slice_by_size,
    gather,
    gather_along_axis,
    gather_nd,
    scatter,
    matmul,
    linear,
    argsort,
    topk,
    non_zero,
    one_hot,
)

__all__ = ["DRAWS", "Call", "Draw", "Draws"]
