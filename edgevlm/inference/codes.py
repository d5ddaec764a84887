"""Small codes of embeddings, for an index on a device, and search in them. It takes numpy alone.

x is a unit vector of D numbers in float32, as `encode_image` gives it: 4 D bytes. It is kept as one of

    int8      c[d] = round(x[d] / a * 127), where a = max |x[d]|; halves go to the even number
              D bytes, int8 in -127..127; x is about c / |c|
    binary    bit d is 1 where x[d] > m[d], else 0; m is the mean embedding of pictures, float32 [D]
              ceil(D / 8) bytes: bit d has the value 128 >> (d mod 8) in byte d div 8; bits past D are 0
              x is about y / |y|, where y[d] = m[d] + r if the bit is 1, else m[d] - r, and r = sqrt((1 - |m|^2) / D)

all computed in float32, in the order written, except for |m|^2 and r, in float64.

int8 needs no number besides the code: since x has length 1, |c| says what 127 stood for. A scale for all vectors would
have to be recorded, cuts off what exceeds it, and leaves steps unused in the others: it keeps fewer neighbours. Binary
codes need their m. Embeddings of pictures share a large mean (Levi and Gilboa, arXiv 2411.14517): without m, many bits
would be the same for most pictures. r makes |y|^2 = 1 on average, since the mean of |x - m|^2 is 1 - |m|^2.

A query stays in float32 and is compared with what the codes stand for: asymmetric search (Gordo, Perronnin, Gong and
Lazebnik, TPAMI 2014, for binary codes). That keeps more neighbours than coding it too, above all where it is a text:
texts have another mean (Liang et al., arXiv 2203.02053). Where speed matters more, queries are coded as well: int8
codes are compared by dot products of integers, binary ones by Hamming distance. Binary codes are best for a shortlist,
put in order by something finer (Yamada et al., arXiv 2106.00882): here int8 codes, as in Sentence Transformers
(sbert.net, "Embedding Quantization"). `edgevlm evaluate --index` measures what each keeps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevlm.bundle.spec import F32
from edgevlm.errors import InputError, TensorError

Codes = NDArray[np.int8] | NDArray[np.uint8]

_KINDS = {
    np.dtype(np.float32): "float32 embeddings",
    np.dtype(np.int8): "int8 codes",
    np.dtype(np.uint8): "binary codes",
}
_UNIT = 0.01  # how far from 1 a length may be: fp16 models normalise to about 0.001
_BIT_COUNTS = np.array([value.bit_count() for value in range(256)], np.uint8)  # numpy 1 has no bitwise_count
_QUERIES_AT_ONCE = 64
_CODES_AT_ONCE = 4096  # at most 100 MB at once, for a thousand numbers each


@dataclass(frozen=True)
class Found:
    """The best of an index for each query, the best first; the earlier one first where two are equal.

    Attributes:
        places: int64 [Q, k], rows of the index.
        scores: float32 [Q, k]: cosines, as far as the codes tell; minus the Hamming distance for binary queries.
    """

    places: NDArray[np.int64]
    scores: F32


def to_int8(embeddings: F32) -> NDArray[np.int8]:
    """Unit vectors, float32 [N, D] -> int8 [N, D], by the formula above.

    >>> to_int8(np.array([[0.6, -0.8]], np.float32))
    array([[  95, -127]], dtype=int8)

    Raises:
        TensorError: another dtype or shape, or not unit vectors.
    """
    _refuse_non_units(embeddings, "embeddings")
    largest = np.abs(embeddings).max(1, keepdims=True)
    return np.asarray(np.rint(embeddings / largest * np.float32(127)), np.int8)


def to_binary(embeddings: F32, mean: F32) -> NDArray[np.uint8]:
    """Unit vectors, float32 [N, D] -> uint8 [N, ceil(D / 8)], by the formula above.

    >>> to_binary(np.array([[0.6, -0.8]], np.float32), mean=np.zeros(2, np.float32))
    array([[128]], dtype=uint8)

    Args:
        embeddings: Of pictures.
        mean: float32 [D], the same for a whole index: `BundleModel.mean_embedding`, or the mean of the first pictures
            that the index is for, of which a few dozen do.

    Raises:
        TensorError: another dtype or shape, or not unit vectors.
    """
    _refuse_non_units(embeddings, "embeddings")
    _refuse_wrong_mean(mean, embeddings.shape[1])
    return np.packbits(embeddings > mean, axis=1)


def decode(codes: Codes, mean: F32 | None = None) -> F32:
    """The unit vectors that codes stand for, float32 [N, D].

    >>> decode(np.array([[95, -127]], np.int8)).round(3)
    array([[ 0.599, -0.801]], dtype=float32)

    Args:
        codes: int8 [N, D], or uint8 [N, ceil(D / 8)].
        mean: float32 [D], what binary codes were made with; they need it.

    Raises:
        TensorError: another dtype or shape, or binary codes without their mean.
    """
    _refuse_unknown(codes, "codes")
    if codes.dtype == np.uint8:
        if mean is None:
            raise TensorError("binary codes need the mean that they were made with", hint="give it as mean=")
        dim = mean.size
        _refuse_wrong_mean(mean, dim)
        _refuse_width("codes", codes, (dim + 7) // 8)
        radius = np.float32(np.sqrt(max(0.0, 1 - float(np.square(mean, dtype=np.float64).sum())) / dim))
        vectors = np.where(np.unpackbits(np.asarray(codes, np.uint8), axis=1, count=dim), mean + radius, mean - radius)
    else:
        vectors = codes.astype(np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def search(
    queries: F32 | Codes,
    index: F32 | Codes,
    k: int,
    *,
    mean: F32 | None = None,
    among: NDArray[np.int64] | None = None,
) -> Found:
    """The k best of an index for each query. Every row is compared: there is nothing to build.

    >>> index = to_int8(np.array([[0.6, -0.8], [0.8, 0.6], [1, 0]], np.float32))
    >>> search(np.array([[0, 1]], np.float32), index, k=2).places
    array([[1, 2]])

    A long index of binary codes is searched for some more than are wanted, and int8 codes choose among these:

        near = search(queries, binary, 40, mean=mean)
        best = search(queries, int8, 10, among=near.places)

    Args:
        queries: Unit vectors, float32 [Q, D]; or codes of the index's own kind.
        index: Unit vectors, float32 [N, D]; or codes of them, int8 [N, D] or uint8 [N, ceil(D / 8)].
        k: How many to find; all where there are fewer.
        mean: float32 [D], what binary codes were made with; they need it for queries in float32.
        among: int64 [Q, S], for each query the rows to choose from; all if None.

    Raises:
        TensorError: dtypes or shapes that do not belong together, or queries that are not unit vectors.
        InputError: k is less than one.
    """
    if k < 1:
        raise InputError(f"expected to search for k of at least 1, got {k}")
    _refuse_mismatch(queries, index, mean)
    if among is not None:
        if among.ndim != 2 or len(among) != len(queries):
            raise TensorError(f"among: expected rows to choose from, [{len(queries)}, S], got {list(among.shape)}")
        parts = [_score(queries[[row]], index[some], mean) for row, some in enumerate(among)]
        found = _take_best(np.concatenate(parts) if parts else np.zeros(among.shape, np.float32), k)
        return Found(np.take_along_axis(among, found.places, 1), found.scores)
    starts = range(0, max(len(queries), 1), _QUERIES_AT_ONCE)
    blocks = [_take_best(_score(queries[start : start + _QUERIES_AT_ONCE], index, mean), k) for start in starts]
    return Found(np.concatenate([b.places for b in blocks]), np.concatenate([b.scores for b in blocks]))


def _score(queries: NDArray[Any], index: NDArray[Any], mean: F32 | None) -> F32:
    starts = range(0, max(len(index), 1), _CODES_AT_ONCE)
    return np.concatenate([_compare(queries, index[start : start + _CODES_AT_ONCE], mean) for start in starts], axis=1)


def _compare(queries: NDArray[Any], some: NDArray[Any], mean: F32 | None) -> F32:
    if queries.dtype == np.uint8:
        return np.asarray(-_BIT_COUNTS[queries[:, None] ^ some].sum(2, dtype=np.float32))
    if queries.dtype == np.int8:
        products = queries.astype(np.int32) @ some.T.astype(np.int32)  # at most 127^2 D: fits up to D = 133,000
        lengths = [np.linalg.norm(codes.astype(np.float32), axis=1) for codes in (queries, some)]
        return np.asarray(products / np.outer(*lengths), np.float32)
    vectors = some if some.dtype == np.float32 else decode(some, mean)
    return np.asarray(queries @ vectors.T, np.float32)


def _take_best(scores: F32, k: int) -> Found:
    places = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return Found(places, np.take_along_axis(scores, places, 1))


def _refuse_mismatch(queries: NDArray[Any], index: NDArray[Any], mean: F32 | None) -> None:
    for what, array in (("queries", queries), ("index", index)):
        _refuse_unknown(array, what)
        if array.dtype == np.float32:
            _refuse_non_units(array, what)
    if queries.dtype not in (np.float32, index.dtype):
        raise TensorError(
            f"{_KINDS[queries.dtype]} as queries cannot be compared with an index of {_KINDS[index.dtype]}",
            hint="give the queries as float32 embeddings, or code both alike",
        )
    dim = queries.shape[1]
    if index.dtype != queries.dtype and index.dtype == np.uint8:
        _refuse_width("index", index, (dim + 7) // 8)
        if mean is not None:
            _refuse_wrong_mean(mean, dim)
    else:
        _refuse_width("index", index, dim)


def _refuse_unknown(array: NDArray[Any], what: str) -> None:
    if array.ndim != 2 or array.dtype not in _KINDS:
        raise TensorError(
            f"{what}: expected float32 or int8 [N, D] or uint8 [N, ceil(D / 8)], got {array.dtype} {list(array.shape)}",
            hint="one vector is array[None]",
        )


def _refuse_width(what: str, array: NDArray[Any], width: int) -> None:
    if array.shape[1] != width:
        raise TensorError(
            f"{what}: expected {array.dtype} [N, {width}] for embeddings of this size, got {list(array.shape)}",
            hint="an index serves one model: compare embedding_space_id, and encode the pictures again",
        )


def _refuse_non_units(embeddings: F32, what: str) -> None:
    if embeddings.dtype != np.float32 or embeddings.ndim != 2 or not embeddings.shape[1]:
        raise TensorError(f"{what}: expected float32 [N, D], got {embeddings.dtype} {list(embeddings.shape)}")
    lengths = np.linalg.norm(embeddings, axis=1)
    good = np.abs(lengths - 1) <= _UNIT  # NaN is not
    if not good.all():
        row = int(np.argmin(good))
        raise TensorError(
            f"{what}: expected unit vectors, but number {row} has the length {lengths[row]:.4g}",
            hint="divide each by its length",
        )


def _refuse_wrong_mean(mean: F32, dim: int) -> None:
    if mean.dtype != np.float32 or mean.shape != (dim,):
        raise TensorError(f"mean: expected float32 [{dim}], got {mean.dtype} {list(mean.shape)}")
    length = float(np.linalg.norm(mean))
    if not length <= 1 + _UNIT:
        raise TensorError(f"mean: expected the mean of unit vectors, which is no longer than 1, got {length:.4g}")
