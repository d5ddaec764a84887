"""Pictures along other grids, and boxes: pixel by pixel in plain Python, from MIL's pages of these ops."""

from __future__ import annotations

from itertools import product
from typing import Any

import coremltools as ct
import numpy as np
from mlprograms import Array

from mlprogram_cases.case import RNG, Case, positive, real
from mlprogram_cases.resampling import point

MODES = ("DEFAULT", "STRICT_ALIGN_CORNERS", "ALIGN_CORNERS", "OFFSET_CORNERS", "UNALIGN_CORNERS")


def within(i: int, size: int, padding: str) -> int | None:
    """The pixel that stands at place i of the padded axis; None for the padding value."""
    if 0 <= i < size:
        return i
    if padding == "constant":
        return None
    if padding == "border":
        return min(max(i, 0), size - 1)
    # |1, 2, 3| -> |2, 3, 2, 1, 2, 3, 2, 1, 2| and |3, 2, 1, 1, 2, 3, 3, 2, 1|
    line = [*range(size), *(range(size - 2, 0, -1) if padding == "reflection" else range(size - 1, -1, -1))]
    return line[i % len(line)]


def sample(plane: Array, y: float, x: float, sampling: str, padding: str, value: float) -> float:
    """One place of one channel [H, W], counted in pixels."""

    def at(row: int, column: int) -> float:
        places = within(row, plane.shape[0], padding), within(column, plane.shape[1], padding)
        return value if None in places else float(plane[places])

    if sampling == "nearest":
        return at(round(y), round(x))
    top, left = int(np.floor(y)), int(np.floor(x))
    down, right = y - top, x - left
    return (
        at(top, left) * (1 - down) * (1 - right)
        + at(top, left + 1) * (1 - down) * right
        + at(top + 1, left) * down * (1 - right)
        + at(top + 1, left + 1) * down * right
    )


def pixel(place: float, size: int, mode: str, align: bool) -> float:
    if mode == "unnormalized":
        return place
    if mode == "normalized_minus_one_to_one":
        place = (place + 1) / 2
    return place * (size - 1) if align else place * size - 0.5


def resampled(x: Array, coordinates: Array, sampling: str, padding: str, value: float, mode: str, align: bool) -> Array:
    result = np.zeros((len(x), x.shape[1], *coordinates.shape[1:3]))
    for b, c, h, w in np.ndindex(*result.shape):
        column, row = coordinates[b, h, w]
        y, z = pixel(row, x.shape[2], mode, align), pixel(column, x.shape[3], mode, align)
        result[b, c, h, w] = sample(x[b, c], y, z, sampling, padding, value)
    return result


def transformed(x: Array, transform_matrix: Array, height: int, width: int) -> Array:
    grid = np.zeros((len(x), height, width, 2))
    for b, h, w in np.ndindex(len(x), height, width):
        a = transform_matrix[b % len(transform_matrix)]
        right, down = -1 + 2 * w / (width - 1), -1 + 2 * h / (height - 1)
        grid[b, h, w] = a[0] * right + a[1] * down + a[2], a[3] * right + a[4] * down + a[5]
    return resampled(x, grid, "bilinear", "constant", 0.0, "normalized_minus_one_to_one", True)


def cropped(picture: Array, box: Array, height: int, width: int, how: dict[str, Any]) -> Array:
    """One box of one picture [C, H, W] -> [C, height, width]."""
    a, b, c, d = (float(each) for each in box)
    order = how["box_coordinate_mode"]
    if "WIDTH_FIRST" in order:
        a, b, c, d = b, a, d, c
    if "CENTER" in order:
        a, b, c, d = a - c / 2, b - d / 2, a + c / 2, b + d / 2
    rows, columns = picture.shape[1:]
    if how["normalized_coordinates"]:
        a, b, c, d = a * (rows - 1), b * (columns - 1), c * (rows - 1), d * (columns - 1)
    a, b, c, d = (each * how["spatial_scale"] for each in (a, b, c, d))
    result = np.zeros((len(picture), height, width))
    for channel, i, j in np.ndindex(*result.shape):
        y = a + point(i, c - a + 1, height, how["sampling_mode"])
        x = b + point(j, d - b + 1, width, how["sampling_mode"])
        inside = -1e-6 <= y <= rows - 1 + 1e-6 and -1e-6 <= x <= columns - 1 + 1e-6
        value = how.get("pad_value", 0.0)
        result[channel, i, j] = sample(picture[channel], y, x, "bilinear", "border", 0.0) if inside else value
    return result


def chosen(boxes: Array, scores: Array, iou: float, least: float, most: int, per_class: bool) -> tuple[Array, ...]:
    """Non-maximum suppression of [n, B, 4] and [n, B, K], box against box."""

    def overlap(p: Array, q: Array) -> float:
        sides = [
            max(0.0, min(p[i] + p[i + 2] / 2, q[i] + q[i + 2] / 2) - max(p[i] - p[i + 2] / 2, q[i] - q[i + 2] / 2))
            for i in (0, 1)
        ]
        common = sides[0] * sides[1]
        return common / (p[2] * p[3] + q[2] * q[3] - common)

    n, count, k = scores.shape
    found = np.zeros((n, most, 4)), np.zeros((n, most, k)), np.full((n, most), -1), np.zeros(n)
    for b in range(n):
        order = sorted(range(count), key=lambda i: -scores[b, i].max())
        taken: list[int] = []
        for i in order:
            rivals = [j for j in taken if not per_class or scores[b, i].argmax() == scores[b, j].argmax()]
            if scores[b, i].max() >= least and all(overlap(boxes[b, i], boxes[b, j]) <= iou for j in rivals):
                taken.append(i)
        taken = taken[:most] or order[:1]
        found[0][b, : len(taken)], found[1][b, : len(taken)] = boxes[b, taken], scores[b, taken]
        found[2][b, : len(taken)], found[3][b] = taken, len(taken)
    return found


def sampling() -> list[Case]:
    return [*_resample(), *_affine(), *_crop_resize(), *_suppression()]


def _resample() -> list[Case]:
    cases = []
    paddings = ("constant", "border", "reflection", "symmetric")
    spans = {"unnormalized": (-7, 9), "normalized_minus_one_to_one": (-3, 3), "normalized_zero_to_one": (-1, 2)}
    for kind, padding, mode, align in product(("bilinear", "nearest"), paddings, spans, (True, False)):
        places = RNG.uniform(*spans[mode], (2, 3, 4, 2)).astype(np.float32)
        cases.append(
            Case(
                "resample",
                {"x": real(2, 3, 4, 5), "coordinates": places},
                lambda x, coordinates, how=(kind, padding, 1.5, mode, align): resampled(x, coordinates, *how),
                {
                    "sampling_mode": kind,
                    "padding_mode": padding,
                    "padding_value": 1.5,
                    "coordinates_mode": mode,
                    "align_corners": align,
                },
            )
        )
    whole = np.array([[[[0, 0], [1, 2], [-1, 3]]]], np.int32)
    return [
        *cases,
        Case(
            "resample",
            {"x": real(1, 2, 1, 3), "coordinates": whole},
            lambda x, coordinates: resampled(x, coordinates, "bilinear", "reflection", 0.0, "unnormalized", True),
            {
                "sampling_mode": "bilinear",
                "padding_mode": "reflection",
                "padding_value": 0.0,
                "coordinates_mode": "unnormalized",
                "align_corners": True,
            },
        ),
    ]


def _affine() -> list[Case]:
    return [
        Case(
            "affine",
            {"x": real(2, 3, 4, 5), "transform_matrix": real(matrices, 6) / 2},
            lambda x, transform_matrix, h=height, w=width: transformed(x, transform_matrix, h, w),
            {
                "output_height": height,
                "output_width": width,
                "sampling_mode": "bilinear",
                "padding_mode": "constant",
                "padding_value": 0.0,
                "coordinates_mode": "normalized_minus_one_to_one",
                "align_corners": True,
            },
        )
        for matrices, height, width in ((1, 3, 7), (2, 5, 2))
    ]


def _crop_resize() -> list[Case]:
    cases = []
    orders = ("CORNERS_HEIGHT_FIRST", "CORNERS_WIDTH_FIRST", "CENTER_SIZE_HEIGHT_FIRST", "CENTER_SIZE_WIDTH_FIRST")
    for (sampling_mode, order), normalized in product(product(MODES, orders), (True, False)):
        how = {
            "box_coordinate_mode": order,
            "sampling_mode": sampling_mode,
            "normalized_coordinates": normalized,
            "spatial_scale": 1.0 if normalized else 0.5,
            "pad_value": 2.0,
        }
        corners = np.sort(RNG.uniform(0, 1.2, (3, 2, 2)), axis=1).reshape(3, 4)  # starts before ends
        boxes = (corners if normalized else corners * 7).astype(np.float32)
        of = np.array([1, 0, 1], np.int32)
        cases.append(
            Case(
                "crop_resize",
                {"x": real(2, 2, 5, 4), "boxes": boxes},
                lambda x, boxes, h=how, o=of: np.stack(
                    [cropped(x[i], box, 3, 2, h) for i, box in zip(o, boxes, strict=True)]
                ),
                {"box_indices": of, "target_height": 3, "target_width": 2, **how},
            )
        )
    how = {
        "box_coordinate_mode": "CORNERS_HEIGHT_FIRST",
        "sampling_mode": "DEFAULT",
        "normalized_coordinates": False,
        "spatial_scale": 1.0,
    }
    regions = np.array([[0, 1, 2, 3], [1, 0, 3, 2]], np.float32)
    numbered = np.array([[0, 0, 1, 2, 3], [0, 1, 0, 3, 2]], np.float32)
    return [
        *cases,
        Case(
            "crop_resize",
            {"x": real(2, 2, 5, 4), "boxes": regions},
            lambda x, boxes: np.stack([cropped(x[i], box, 1, 1, how) for i, box in enumerate(boxes)]),
        ),
        Case(
            "crop_resize",
            {"x": real(2, 2, 5, 4), "roi": regions.reshape(2, 1, 4, 1, 1)},
            lambda x, roi: np.stack([[cropped(each, box.ravel(), 2, 3, how) for each in x] for box in roi]),
            {"target_height": 2, "target_width": 3},
            opset=ct.target.iOS15,
        ),
        Case(
            "crop_resize",
            {"x": real(1, 2, 5, 4), "roi": numbered.reshape(2, 1, 5, 1, 1)},
            lambda x, roi: np.stack([[cropped(x[int(box.flat[0])], box.ravel()[1:], 2, 3, how)] for box in roi]),
            {"target_height": 2, "target_width": 3},
            opset=ct.target.iOS16,
        ),
    ]


def _suppression() -> list[Case]:
    cases = []
    for classes, per_class, iou, least, most in (
        (1, False, 0.3, 0.0, 4),
        (3, False, 0.1, 0.5, 20),
        (3, True, 0.1, -9.0, 20),
        (2, True, 0.6, 9.0, 5),
    ):
        boxes = np.concatenate([RNG.uniform(0, 6, (2, 12, 2)), positive(2, 12, 2)], -1).astype(np.float32)
        common = {"iou_threshold": iou, "max_boxes": most, "per_class_suppression": per_class}
        cases += [
            Case(
                "non_maximum_suppression",
                {"boxes": boxes, "scores": real(2, 12, classes)},
                lambda boxes, scores, h=(iou, least, most, per_class): list(chosen(boxes, scores, *h)),
                {**common, "score_threshold": least},
                opset=ct.target.iOS16,
            ),
            Case(
                "non_maximum_suppression",
                {"boxes": boxes.swapaxes(1, 2), "scores": real(2, classes, 12)},
                lambda boxes, scores, h=(iou, -np.inf, most, per_class): _last_axis(
                    chosen(boxes.swapaxes(1, 2), scores.swapaxes(1, 2), *h)
                ),
                common,
            ),
        ]
    return cases


def _last_axis(found: tuple[Array, ...]) -> list[Array]:
    """iOS 17's layout of the results."""
    boxes, scores, indices, _ = found
    return [boxes.swapaxes(1, 2), scores.swapaxes(1, 2), indices]
