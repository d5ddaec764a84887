"""Boxes around things: the choice among those that overlap."""

from __future__ import annotations

import torch

from edgevlm.errors import BundleError
from edgevlm.runtimes.mlprogram.ops.registry import Tensor, Tensors, op


def _kept(boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float, most: int) -> list[int]:
    """Greedily the best box, then the best that does not overlap with one of its group that was taken.

    Args:
        boxes: [B, 4], centre and size.
        scores, groups: [B].
    """
    low, high = boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2
    areas = (high - low).prod(1)
    waiting = scores.argsort(descending=True, stable=True)
    taken: list[int] = []
    while len(waiting) and len(taken) < most:
        best, rest = int(waiting[0]), waiting[1:]
        taken.append(best)
        common = (torch.minimum(high[best], high[rest]) - torch.maximum(low[best], low[rest])).clamp(min=0).prod(1)
        union = areas[best] + areas[rest] - common
        waiting = rest[(common <= iou_threshold * union) | (groups[rest] != groups[best])]
    return taken


@op("non_maximum_suppression")
def non_maximum_suppression(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    max_boxes: int,
    score_threshold: float | None = None,
    per_class_suppression: bool = False,
) -> Tensors:
    # iOS 15 has a threshold of scores, boxes before coordinates and the count as fourth result; iOS 17 has not.
    older = score_threshold is not None
    if not older:
        boxes, scores = boxes.transpose(1, 2), scores.transpose(1, 2)
    if boxes.shape[2] != 4 or scores.shape[:2] != boxes.shape[:2]:
        raise BundleError(f"boxes of {list(boxes.shape)} with scores of {list(scores.shape)}")
    n, _, k = scores.shape
    chosen_boxes, chosen_scores = torch.zeros(n, max_boxes, 4), torch.zeros(n, max_boxes, k)
    indices, counts = torch.full((n, max_boxes), -1, dtype=torch.int32), torch.zeros(n, dtype=torch.int32)
    for i in range(n):
        best, classes = scores[i].max(1)
        places = torch.arange(len(best)) if score_threshold is None else (best >= score_threshold).nonzero()[:, 0]
        groups = classes if per_class_suppression else torch.zeros_like(classes)
        kept = _kept(boxes[i, places], best[places], groups[places], iou_threshold, max_boxes)
        taken = places[kept] if kept else best.argmax(0, keepdim=True)  # one box is given even if none is good enough
        counts[i] = len(taken)
        chosen_boxes[i, : len(taken)], chosen_scores[i, : len(taken)] = boxes[i, taken], scores[i, taken]
        indices[i, : len(taken)] = taken.int()
    if older:
        return chosen_boxes, chosen_scores, indices, counts
    return chosen_boxes.transpose(1, 2), chosen_scores.transpose(1, 2), indices
