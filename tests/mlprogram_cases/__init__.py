"""Calls of each op, and what they should give: ranks, negative axes, broadcasting, sizes of 1, defaults."""

from mlprogram_cases.arithmetic import elementwise, linear, normalisation, quantisation, reduction
from mlprogram_cases.arrangement import convolution, indexing, shape
from mlprogram_cases.case import RNG, Case, positive, real, whole
from mlprogram_cases.movement import rearrangement, scattering, sorting
from mlprogram_cases.recurrence import recurrence
from mlprogram_cases.resampling import resampling
from mlprogram_cases.sampling import sampling

CASES = [
    *elementwise(),
    *linear(),
    *normalisation(),
    *reduction(),
    *quantisation(),
    *convolution(),
    *shape(),
    *indexing(),
    *rearrangement(),
    *sorting(),
    *scattering(),
    *recurrence(),
    *resampling(),
    *sampling(),
]

__all__ = ["CASES", "RNG", "Case", "positive", "real", "whole"]
