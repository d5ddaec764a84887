"""Calls of each op, and what they should give: ranks, negative axes, broadcasting, sizes of 1, defaults."""

from mlprogram_cases.arithmetic import elementwise, linear, normalisation, quantisation, reduction
from mlprogram_cases.arrangement import convolution, indexing, shape
from mlprogram_cases.case import RNG, Case, positive, real, whole

CASES = [
    *elementwise(),
    *linear(),
    *normalisation(),
    *reduction(),
    *quantisation(),
    *convolution(),
    *shape(),
    *indexing(),
]

__all__ = ["CASES", "RNG", "Case", "positive", "real", "whole"]
