"""Pictures looked at along other grids: affine transforms, given coordinates, boxes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F

from edgevlm.errors import BundleError, TensorError, UnsupportedError
from edgevlm.runtimes.mlprogram.ops.registry import Ints, Tensor, op
from edgevlm.runtimes.mlprogram.ops.resampling import Sampling, grid

Coordinates: TypeAlias = Literal["unnormalized", "normalized_minus_one_to_one", "normalized_zero_to_one"]
Padding: TypeAlias = Literal["constant", "border", "reflection", "symmetric"]


def _pixels(points: Tensor, size: int, mode: Coordinates, align_corners: bool) -> Tensor:
    """Places on an axis of `size` pixels, counted in pixels from the centre of the first."""
    if mode == "unnormalized":
        return points
    unit = points if mode == "normalized_zero_to_one" else (points + 1) / 2
    return unit * (size - 1) if align_corners else unit * size - 0.5


def _inside(points: Tensor, size: int, mode: Padding) -> Tensor:
    """The same places, those beyond the picture brought back as the padding asks."""
    if mode == "constant":
        return points
    if mode == "reflection" and size > 1:  # at the centres of the outermost pixels
        points = (points.remainder(2 * (size - 1)) - (size - 1)).abs()
        points = (size - 1) - points
    elif mode == "symmetric":  # at the edges of the outermost pixels
        points = size - ((points + 0.5).remainder(2 * size) - size).abs() - 0.5
    return points.clamp(0, size - 1)


def _looked_up(x: Tensor, rows: Tensor, columns: Tensor, outside: float) -> Tensor:
    """Single pixels.

    Args:
        x: [B, C, H, W].
        rows, columns: int64 [B, H2, W2].
        outside: What lies beyond the picture.

    Returns:
        [B, C, H2, W2].
    """
    height, width = x.shape[-2:]
    there = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    batch = torch.arange(len(x))[:, None, None]
    found = x[batch, :, rows.clamp(0, height - 1), columns.clamp(0, width - 1)].movedim(-1, 1)
    return torch.where(there[:, None], found, torch.tensor(outside))


def _bilinear(x: Tensor, rows: Tensor, columns: Tensor, outside: float) -> Tensor:
    top, left = rows.floor(), columns.floor()
    down, right = (rows - top)[:, None], (columns - left)[:, None]

    def at(row: Tensor, column: Tensor) -> Tensor:
        return _looked_up(x, row.long(), column.long(), outside)

    above = at(top, left) * (1 - right) + at(top, left + 1) * right
    below = at(top + 1, left) * (1 - right) + at(top + 1, left + 1) * right
    return above * (1 - down) + below * down


def _nearest(x: Tensor, rows: Tensor, columns: Tensor, outside: float) -> Tensor:
    return _looked_up(x, rows.round().long(), columns.round().long(), outside)


_SAMPLERS: dict[str, Callable[[Tensor, Tensor, Tensor, float], Tensor]] = {"bilinear": _bilinear, "nearest": _nearest}


@op("resample")
def resample(
    x: Tensor,
    coordinates: Tensor,
    sampling_mode: Literal["bilinear", "nearest"],
    padding_mode: Padding,
    padding_value: float,
    coordinates_mode: Coordinates,
    align_corners: bool,
) -> Tensor:
    columns, rows = (
        _inside(_pixels(points.float(), size, coordinates_mode, align_corners), size, padding_mode)
        for points, size in zip(coordinates.unbind(-1), (x.shape[-1], x.shape[-2]), strict=True)
    )
    if not bool(torch.isfinite(columns).all() and torch.isfinite(rows).all()):
        raise TensorError("a coordinate is not finite")
    return _SAMPLERS[sampling_mode](x, rows, columns, padding_value)


@op("affine")
def affine(
    x: Tensor,
    transform_matrix: Tensor,
    output_height: int,
    output_width: int,
    sampling_mode: Literal["bilinear"],
    padding_mode: Literal["constant"],
    padding_value: float,
    coordinates_mode: Literal["normalized_minus_one_to_one"],
    align_corners: Literal[True],
) -> Tensor:
    if padding_value:
        raise UnsupportedError(f"padding with {padding_value}: MIL defines the op for 0 alone")
    theta = transform_matrix.reshape(-1, 2, 3).expand(len(x), 2, 3)
    places = F.affine_grid(theta, [len(x), 1, output_height, output_width], align_corners=align_corners)
    return F.grid_sample(x, places, sampling_mode, "zeros", align_corners=align_corners)


@op("crop_resize")
def crop_resize(
    x: Tensor,
    roi: Tensor | None = None,
    boxes: Tensor | None = None,
    box_indices: Ints | None = None,
    target_height: int = 1,
    target_width: int = 1,
    normalized_coordinates: bool = False,
    spatial_scale: float = 1.0,
    box_coordinate_mode: Literal[
        "CORNERS_HEIGHT_FIRST", "CORNERS_WIDTH_FIRST", "CENTER_SIZE_HEIGHT_FIRST", "CENTER_SIZE_WIDTH_FIRST"
    ] = "CORNERS_HEIGHT_FIRST",
    sampling_mode: Sampling = "DEFAULT",
    pad_value: float | None = None,
) -> Tensor:
    # The op of iOS 15 has no `pad_value`: what lies beyond the picture is not defined there.
    if boxes is not None:  # from iOS 17 on: [N, 4], and the picture of each
        of = tuple(range(len(boxes))) if box_indices is None else box_indices
        if not all(0 <= each < len(x) for each in of):
            raise TensorError(f"boxes of the pictures {list(of)}, of which there are {len(x)}")
        return _cropped(
            x[torch.tensor(of, dtype=torch.long)], boxes.float(), target_height, target_width, normalized_coordinates,
            spatial_scale, box_coordinate_mode, sampling_mode, pad_value,
        )  # fmt: skip
    if roi is None:
        raise BundleError("neither roi nor boxes is given", hint="convert the model again")
    flat = roi.reshape(len(roi), -1)  # [N, 4], the boxes of every picture; or [N, 5], each after its picture's number
    of_one = flat.shape[1] == 5
    if of_one and not all(0 <= int(each) < len(x) for each in flat[:, 0]):
        raise TensorError(f"boxes of the pictures {flat[:, 0].tolist()}, of which there are {len(x)}")
    pictures = [x[int(each) : int(each) + 1] for each in flat[:, 0]] if of_one else [x] * len(flat)
    return torch.stack([
        _cropped(
            picture, box[-4:].expand(len(picture), 4), target_height, target_width, normalized_coordinates,
            spatial_scale, box_coordinate_mode, sampling_mode, pad_value,
        )
        for picture, box in zip(pictures, flat, strict=True)
    ])  # fmt: skip


def _cropped(
    x: Tensor,
    boxes: Tensor,
    height: int,
    width: int,
    normalized: bool,
    scale: float,
    convention: str,
    sampling: Sampling,
    outside: float | None,
) -> Tensor:
    """
    Args:
        x: [N, C, H, W].
        boxes: [N, 4], one for each picture.
        outside: What lies beyond the picture; None if a box must not reach there.

    Returns:
        [N, C, height, width].
    """
    first, second, third, fourth = boxes.double().unbind(1)
    if convention.endswith("WIDTH_FIRST"):
        first, second, third, fourth = second, first, fourth, third
    if convention.startswith("CENTER"):
        first, second, third, fourth = first - third / 2, second - fourth / 2, first + third / 2, second + fourth / 2
    spans = []
    for start, end, old, new in ((first, third, x.shape[-2], height), (second, fourth, x.shape[-1], width)):
        factor = scale * (old - 1 if normalized else 1)
        low, high = start * factor, end * factor
        points = torch.stack(
            [a + grid(b - a + 1, new, sampling) for a, b in zip(low.tolist(), high.tolist(), strict=True)]
        )
        # A box that ends with the picture may end a rounding error beyond it.
        spans.append((points, ((points < -1e-6) | (points > old - 1 + 1e-6))))
    (rows, above), (columns, beside) = spans
    beyond = above[:, :, None] | beside[:, None, :]
    if outside is None and bool(beyond.any()):
        raise TensorError("a box reaches beyond its picture, and the op of iOS 15 does not say what is there")
    size = (len(boxes), height, width)
    down = rows.clamp(0, x.shape[-2] - 1).float()[:, :, None].expand(size)
    right = columns.clamp(0, x.shape[-1] - 1).float()[:, None, :].expand(size)
    return torch.where(beyond[:, None], torch.tensor(outside or 0.0), _bilinear(x, down, right, outside=0.0))
