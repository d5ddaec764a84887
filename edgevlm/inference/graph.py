"""Approximate search in long indexes: usearch builds and walks a graph over the codes, in a file beside them."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevlm.bundle.spec import F32
from edgevlm.errors import DataError, MissingDependency, named_failures
from edgevlm.inference.codes import Codes
from edgevlm.process.writing import replacing

SHORTLIST = 100
"""How many times as many as are wanted the graph finds, for the codes themselves to put in order."""


def path_of(index: Path) -> Path:
    """Where an index's graph is."""
    return index.with_name(f"{index.name}.usearch")


def require() -> None:
    """Raises MissingDependency where usearch is not installed."""
    if find_spec("usearch") is None:
        raise MissingDependency("usearch", extra="search")


def build(path: Path, codes: F32 | Codes) -> None:
    """Writes the graph of an index's rows.

    Raises:
        MissingDependency: usearch is not installed.
        OutputError: it cannot be written.
    """
    graph = _empty(codes)
    with named_failures("usearch"):
        graph.add(np.arange(len(codes), dtype=np.uint64), np.ascontiguousarray(codes))
    with replacing(path) as new:
        graph.save(str(new))


def shortlist(path: Path, queries: F32 | Codes, k: int) -> NDArray[np.int64]:
    """Rows that may be the best for each query, int64 [Q, S].

    Args:
        path: What `build` wrote.
        queries: Codes of the index's own kind, [Q, ...].
        k: How many are wanted of them.

    Raises:
        MissingDependency: usearch is not installed.
        DataError: the graph is of other codes.
    """
    graph = _empty(queries)
    with named_failures("usearch"):
        graph.view(str(path))
        if graph.ndim != _bits(queries):
            raise DataError(f"{path}: a graph of {graph.ndim} dimensions, of other codes", hint="make the index again")
        wanted = min(SHORTLIST * k, len(graph))
        graph.expansion_search = wanted
        keys = graph.search(np.ascontiguousarray(queries), wanted).keys
    return np.asarray(keys, np.int64).reshape(len(queries), -1)


def _empty(codes: F32 | Codes) -> Any:
    require()
    from usearch.index import Index, MetricKind

    if codes.dtype == np.uint8:
        return Index(ndim=_bits(codes), metric=MetricKind.Hamming, dtype="b1")
    return Index(ndim=_bits(codes), metric=MetricKind.Cos, dtype="i8" if codes.dtype == np.int8 else "f32")


def _bits(codes: F32 | Codes) -> int:
    """How many dimensions usearch sees: each bit of binary codes is one."""
    return int(codes.shape[1]) * (8 if codes.dtype == np.uint8 else 1)
