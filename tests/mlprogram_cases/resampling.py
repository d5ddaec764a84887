"""Other sizes of pictures, point by point as MIL's page of `resize_bilinear` writes them."""

from __future__ import annotations

from itertools import product

import numpy as np
from mlprograms import Array

from mlprogram_cases.case import Case, real


def point(i: int, old: int, new: int, mode: str) -> float:
    """Where the new pixel looks, its formula as it stands."""
    if mode in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS"):
        if new == 1:
            return (old - 1) / 2 if mode == "ALIGN_CORNERS" else 0.0
        return min(old - 1, max(0, i * (old - 1) / (new - 1)))
    if mode == "DEFAULT":
        return min(old - 1, max(0, i * (old - old / new) / (new - 1))) if new > 1 else 0.0
    if mode == "OFFSET_CORNERS":
        delta = max(1, old - 1) / new
        spacing = ((new - 1) * delta) / (new - 1) if new > 1 else 0.0
        return min(old - 1, max(0, 0.5 * delta + i * spacing))
    return min(old - 1, max(0, i * old / new + 0.5 * old / new - 0.5))


def resized(x: Array, axis: int, new: int, mode: str) -> Array:
    old = x.shape[axis]
    rows = []
    for i in range(new):
        where = point(i, old, new, mode)
        lower = int(np.floor(where))
        upper = min(lower + 1, old - 1)
        rows.append(x.take(lower, axis) * (1 - (where - lower)) + x.take(upper, axis) * (where - lower))
    return np.stack(rows, axis)


def resampling() -> list[Case]:
    modes = ("DEFAULT", "STRICT_ALIGN_CORNERS", "ALIGN_CORNERS", "OFFSET_CORNERS", "UNALIGN_CORNERS")
    cases = []
    for mode, (height, width) in product(modes, ((7, 9), (2, 3), (1, 1), (4, 5))):
        both = lambda x, h=height, w=width, m=mode: resized(resized(x, -2, h, m), -1, w, m)  # noqa: E731
        cases += [
            Case(
                "resize_bilinear",
                {"x": real(2, 3, 4, 5)},
                both,
                {"target_size_height": height, "target_size_width": width, "sampling_mode": mode},
            ),
            Case(
                "resize",
                {"x": real(2, 3, 4, 5)},
                both,
                {"shape": [height, width], "resized_dims": np.uint32(2), "sampling_mode": mode},
            ),
        ]
    return [
        *cases,
        Case("resize_bilinear", {"x": real(2, 4, 5)}, lambda x: x[:, :1, :1]),
        Case(  # one grid of three, as coremltools' own test has it: neither corners nor half pixels
            "upsample_bilinear",
            {"x": real(1, 2, 3, 4)},
            lambda x: resized(resized(x, -2, 6, "DEFAULT"), -1, 12, "DEFAULT"),
            {
                "scale_factor_height": 2.0,
                "scale_factor_width": 3.0,
                "align_corners": False,
                "half_pixel_centers": False,
            },
        ),
        Case(
            "upsample_bilinear",
            {"x": real(1, 2, 3, 4)},
            lambda x: resized(resized(x, -2, 6, "UNALIGN_CORNERS"), -1, 12, "UNALIGN_CORNERS"),
            {
                "scale_factor_height": 2.0,
                "scale_factor_width": 3.0,
                "align_corners": False,
                "half_pixel_centers": True,
            },
        ),
        Case(
            "upsample_nearest_neighbor",
            {"x": real(2, 4, 3)},
            lambda x: x[:, [0, 0, 1, 2, 2, 3]][:, :, [0, 1]],
            {"scale_factor_height": 1.5, "scale_factor_width": 0.67},
        ),
        Case(
            "resize",
            {"x": real(1, 2, 2)},
            lambda x: x[:, [0, 1, 1]],
            {"shape": [3, 0], "resized_dims": np.uint32(2), "interpolation_mode": "NEAREST_NEIGHBOR"},
        ),
        Case(
            "resize_nearest_neighbor",
            {"x": real(3, 4, 5)},
            lambda x: np.repeat(np.repeat(x, 2, -2), 3, -1),
            {"target_size_height": 8, "target_size_width": 15},
        ),
        Case(
            "resize",
            {"x": real(1, 3, 4, 5)},
            lambda x: np.repeat(x, 2, -2),
            {"shape": [9, 8, 0], "resized_dims": np.uint32(2), "interpolation_mode": "NEAREST_NEIGHBOR"},
        ),
        Case(
            "resize",
            {"x": real(1, 3, 4, 5)},
            lambda x: resized(x, -1, 8, "DEFAULT"),
            {"shape": [8], "resized_dims": np.uint32(1)},
        ),
    ]
