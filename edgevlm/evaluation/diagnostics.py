"""How far a student sees pictures as its teacher does, after Li et al. (ICCV 2023, arXiv 2307.03135).

S(x) and T(x) are the two models' embeddings of picture x, t(y) a model's own embedding of text y; all are unit vectors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgevlm.bundle.spec import F32
from edgevlm.errors import DataError

NEIGHBOURS = 10
"""k of M_neigh and of M_vlalign, where there are as many."""
_ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class Diagnostics:
    """What sets a student apart from its teacher on a dataset.

    Attributes:
        teacher: What a user called it.
        relation: `relation`, M_rel; None where the two spaces have different sizes.
        relation_chance: Of a random student.
        neighbours: `neighbours`, M_neigh(k).
        neighbours_k: Its k.
        neighbours_chance: Of a random student.
        inversions: `inversions`, M_vlalign(k); None where there are no texts to rank.
        inversions_k: Its k.
        inversions_chance: Of a random student.
    """

    teacher: str
    relation: float | None
    relation_chance: float
    neighbours: float
    neighbours_k: int
    neighbours_chance: float
    inversions: float | None
    inversions_k: int
    inversions_chance: float


def measure(student: F32, teacher: F32, texts: tuple[F32, F32] | None, *, teacher_name: str) -> Diagnostics:
    """Computes all three.

    Args:
        student, teacher: Pictures, float32 [N, D]; the sizes of the two spaces may differ.
        texts: The same texts as the student and as the teacher has them, float32 [T, D] each; a student without a text
            tower has its teacher's, as in the paper.
        teacher_name: What a user called it.

    Raises:
        DataError: there are fewer than three pictures.
    """
    if len(student) < 3:
        raise DataError(f"a comparison with {teacher_name} needs at least three pictures, got {len(student)}")
    near = min(NEIGHBOURS, len(student) - 2)
    turned, best = None, 0
    if texts is not None and len(texts[0]) > 1:
        best = min(NEIGHBOURS, len(texts[0]))
        turned = inversions(student, texts[0], teacher, texts[1], best)
    return Diagnostics(
        teacher=teacher_name,
        relation=relation(student, teacher) if student.shape[1] == teacher.shape[1] else None,
        relation_chance=1 / len(student),
        neighbours=neighbours(student, teacher, near),
        neighbours_k=near,
        neighbours_chance=near / (len(student) - 1),
        inversions=turned,
        inversions_k=best,
        inversions_chance=best * (best - 1) / 4,
    )


def relation(student: F32, teacher: F32) -> float:
    """M_rel = share of i with argmax_j S(x_i) . T(x_j) = i: pictures that the student puts nearest to their own place.

    In 0..1, the larger the better; 1/N by chance. It compares positions in one space, so it says something only
    about a student that was trained into its teacher's. A picture that another one equals does not count as found.

    Args:
        student, teacher: float32 [N, D].
    """
    found = 0
    for start in range(0, len(student), _ROWS_AT_ONCE):
        scores = student[start : start + _ROWS_AT_ONCE] @ teacher.T
        rows = np.arange(len(scores))
        own = scores[rows, start + rows].copy()
        scores[rows, start + rows] = -np.inf
        found += int((own > scores.max(1)).sum())
    return found / len(student)


def neighbours(student: F32, teacher: F32, k: int) -> float:
    """M_neigh(k) = mean over i of |kNN_S(i) & kNN_T(i)| / k: how many of a picture's neighbours the two have in common.

    The neighbours of a picture are the k others with the highest cosine in the model's own space. In 0..1, the larger
    the better; k / (N - 1) by chance.

    Args:
        student, teacher: float32 [N, D], the sizes of the two spaces may differ.
        k: Less than N.
    """
    shared = 0
    for start in range(0, len(student), _ROWS_AT_ONCE):
        near = np.zeros((2, min(_ROWS_AT_ONCE, len(student) - start), len(student)), np.bool_)
        for model, marks in zip((student, teacher), near, strict=True):
            np.put_along_axis(marks, _nearest_others(model, start, k), True, axis=1)
        shared += int((near[0] & near[1]).sum())
    return shared / (k * len(student))


def inversions(student: F32, student_texts: F32, teacher: F32, teacher_texts: F32, k: int) -> float:
    """M_vlalign(k) = mean over x of the pairs of texts, among the teacher's k best for x, that the student turns round.

    The pair (y, y') is turned round where T(x) . t(y) > T(x) . t(y') and S(x) . t(y) <= S(x) . t(y'). In
    0..k(k - 1)/2, the smaller the better; half of that by chance.

    Args:
        student, teacher: Pictures, float32 [N, D]; the sizes of the two spaces may differ.
        student_texts, teacher_texts: The same texts in both, float32 [T, D].
        k: 2..T.
    """
    turned = 0
    above, below = np.triu_indices(k, 1)
    for start in range(0, len(student), _ROWS_AT_ONCE):
        told = teacher[start : start + _ROWS_AT_ONCE] @ teacher_texts.T
        order = _highest(told, k)
        told = np.take_along_axis(told, order, 1)
        answered = np.take_along_axis(student[start : start + _ROWS_AT_ONCE] @ student_texts.T, order, 1)
        turned += int(((told[:, above] > told[:, below]) & (answered[:, above] <= answered[:, below])).sum())
    return turned / len(student)


def _nearest_others(model: F32, start: int, k: int) -> NDArray[np.int64]:
    scores = model[start : start + _ROWS_AT_ONCE] @ model.T
    rows = np.arange(len(scores))
    scores[rows, start + rows] = -np.inf
    return _highest(scores, k)


def _highest(scores: F32, k: int) -> NDArray[np.int64]:
    """Places of the k highest scores of each row, the highest first."""
    some = np.argpartition(-scores, k - 1, axis=1)[:, :k]
    order = np.argsort(-np.take_along_axis(scores, some, 1), axis=1, kind="stable")
    return np.take_along_axis(some, order, 1)
