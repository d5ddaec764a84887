"""An index of the pictures below a folder: their embeddings as small codes, in one file, searched by text or picture.

The file is in safetensors' format. Its tensors are

    codes     float32 [N, D], int8 [N, D] or uint8 [N, ceil(D / 8)]: what `edgevlm.inference.codes` makes of embeddings
    mean      float32 [D], which binary codes were made with; of no other codes
    names     uint8: the pictures' paths below the folder in UTF-8, with forward slashes, each followed by a zero byte
    stamps    int64 [N, 2]: each picture's size in bytes and time of change in nanoseconds, when it was embedded

and its metadata, all texts,

    edgevlm_index         the version of this description, "1"
    embedding_space_id    the bundle's: embeddings of another space cannot be compared with these
    folder, bundle        where both are, from the folder of the index on
    graph                 sha256 of the file beside it with `.usearch` behind the name, where there is one

Up to `LONG` pictures every code is compared with a query. From there on usearch's graph (HNSW: Malkov and Yashunin,
arXiv 1603.09320) finds a shortlist, which the codes put in order.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from edgevlm.bundle.bundle import hash_file
from edgevlm.bundle.spec import F32
from edgevlm.errors import DataError, ImageError
from edgevlm.inference import codes as coding
from edgevlm.inference import graph
from edgevlm.inference.codes import Codes
from edgevlm.inference.embedder import BundleModel
from edgevlm.inputs.folders import printable
from edgevlm.process import scratch
from edgevlm.process.notes import note
from edgevlm.process.progress import Progress, silent
from edgevlm.process.writing import write_atomically

Form = Literal["int8", "binary", "float32"]
FORMS: tuple[Form, ...] = get_args(Form)
VERSION = "1"
LONG = 100_000
"""How many pictures are searched one by one; above that it takes usearch."""

_DTYPES: dict[Form, type] = {"int8": np.int8, "binary": np.uint8, "float32": np.float32}
_AT_ONCE = 256
_ENOUGH_FOR_A_MEAN = 32
_SAVE_SECONDS = 60.0


@dataclass(frozen=True, eq=False)
class PictureIndex:
    """Pictures and what they are found by.

    Attributes:
        space: `embedding_space_id` of the bundle that embedded them.
        folder: Where they are.
        bundle: Where that bundle is.
        names: Paths below the folder with forward slashes, sorted.
        stamps: int64 [N, 2], size and time of change.
        codes: A row a picture.
        mean: float32 [D] of binary codes.
        graph: usearch's file for the codes, where there is one.
    """

    space: str
    folder: Path
    bundle: Path
    names: tuple[str, ...]
    stamps: NDArray[np.int64]
    codes: F32 | Codes
    mean: F32 | None = None
    graph: Path | None = None

    @property
    def form(self) -> Form:
        """What the codes are."""
        return next(form for form, dtype in _DTYPES.items() if self.codes.dtype == dtype)

    def path(self, place: int) -> Path:
        """Where a picture is."""
        return self.folder / self.names[place]

    def changed(self, place: int) -> bool:
        """Whether a picture is gone, or has changed since it was embedded, so that its codes tell of another one."""
        return _stamp(self.path(place)) != tuple(self.stamps[place].tolist())

    def search(self, queries: F32, k: int) -> coding.Found:
        """The k best pictures for each query.

        >>> index = load("photos.index")
        >>> with edgevlm.open(index.bundle) as model:
        ...     found = index.search(model.encode_text(["a yellow star"]), k=10)
        >>> [index.path(place) for place in found.places[0]]

        Args:
            queries: float32 [Q, D], of the index's space.
            k: How many to find.

        Raises:
            TensorError: queries of another size, or that are not unit vectors.
            MissingDependency: the index is long, and usearch is not installed.
        """
        among = None
        if self.graph is not None:
            among = graph.shortlist(self.graph, _encode(queries, self.form, self.mean), k)
        return coding.search(queries, self.codes, k, mean=self.mean, among=among)


@dataclass(frozen=True)
class Indexed:
    """What building or updating an index came to.

    Attributes:
        index: The index, as it was written.
        embedded: How many pictures were embedded now.
        dropped: How many that had been in the index are there no more, or cannot be read any more.
        unreadable: Of each picture that could not be read, the reason; the next update tries it again.
    """

    index: PictureIndex
    embedded: int
    dropped: int
    unreadable: Mapping[str, ImageError]


def load(path: str | Path) -> PictureIndex:
    """Reads an index.

    Raises:
        DataError: there is none, or it is damaged.
    """
    path = Path(path)
    if not path.is_file():
        found = "what is no file" if path.exists() else "nothing"
        raise DataError(f"{path}: expected an index, found {found}", hint="edgevlm index makes one")
    try:
        with safe_open(path, framework="numpy") as file:
            about = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path}: expected an index: {error}", hint="edgevlm index makes one") from error
    if about.get("edgevlm_index") != VERSION:
        found = about.get("edgevlm_index", "none")
        raise DataError(f"{path}: expected an index of version {VERSION}, got {found}", hint="edgevlm index makes one")
    try:
        names = tuple(map(os.fsdecode, tensors["names"].tobytes().split(b"\0")[:-1]))
        index = PictureIndex(
            space=about["embedding_space_id"],
            folder=Path(os.path.realpath(path.parent / about["folder"])),
            bundle=Path(os.path.realpath(path.parent / about["bundle"])),
            names=names,
            stamps=tensors["stamps"],
            codes=tensors["codes"],
            mean=tensors.get("mean"),
        )
    except (KeyError, ValueError) as error:
        raise DataError(f"{path}: damaged: {error!r}", hint="make it again") from error
    if not _fits(index):
        raise DataError(f"{path}: damaged: its tensors do not belong together", hint="make it again")
    if "graph" not in about:
        return index
    beside = graph.path_of(path)
    if beside.is_file() and hash_file(beside) == about["graph"]:
        return replace(index, graph=beside)
    note(f"{path}: {beside.name} is missing or another's, so every picture is compared; edgevlm index writes it again")
    return index


def _fits(index: PictureIndex) -> bool:
    """Whether an index's tensors belong together."""
    count, rows, stamps, mean = len(index.names), index.codes, index.stamps, index.mean
    if any(name.startswith("/") or ".." in name.split("/") for name in index.names):
        return False
    if rows.ndim != 2 or rows.dtype not in _DTYPES.values() or len(rows) != count:
        return False
    if rows.dtype != np.uint8 and not (np.isfinite(rows).all() and rows.any(1).all()):
        return False
    if stamps.shape != (count, 2) or stamps.dtype != np.int64:
        return False
    if mean is None or rows.dtype != np.uint8:
        return mean is None and rows.dtype != np.uint8
    return mean.ndim == 1 and mean.dtype == np.float32 and rows.shape[1] == (mean.size + 7) // 8


def write(
    path: Path,
    folder: Path,
    names: Sequence[str],
    model: BundleModel,
    form: Form = "int8",
    progress: Progress = silent,
) -> Indexed:
    """Embeds pictures into an index, or brings one that is there up to date: only what is new or changed is embedded.

    While it works it saves every minute, so that an index that was stopped goes on from there.

    Args:
        path: The index's file.
        folder: Where the pictures are.
        names: Their paths below it, sorted, as `edgevlm.inputs.folders.find_pictures` gives them.
        model: What embeds them.
        form: How embeddings are kept.
        progress: Told how far it is.

    Raises:
        DataError: the file is there and no index, or that of another folder.
        MissingDependency: the index gets long, and usearch is not installed.
        TensorError: the bundle has no `encode_image`.
        OutputError: it cannot be written.
    """
    if len(names) > LONG:
        graph.require()
    scratch.sweep(path.parent)  # of a run that was killed, even where nothing is left to write
    space = model.bundle.manifest.embedding.space_id
    old = load(path) if path.exists() else None
    if old is not None and old.folder != folder.resolve():
        raise DataError(f"{path}: indexes {old.folder}, not {folder}", hint="choose another file with --out")
    if old is not None and (old.space, old.form) != (space, form):
        note(f"{path}: made by another bundle, or in another form: all pictures are embedded again")
        old = None
    for place in (folder, model.bundle.path):
        _from(path, place.resolve())  # which refuses what cannot be written down, before the work
    stamps = {name: _stamp(folder / name) for name in names}
    draft = _Draft(model, folder, form, old, stamps)
    wanted = [name for name in names if name not in draft.kept]
    unreadable: dict[str, ImageError] = {}
    saved = time.monotonic()
    for start in range(0, len(wanted), _AT_ONCE):
        embeddings: dict[str, F32] = {}
        for number, name in enumerate(wanted[start : start + _AT_ONCE], start):
            progress(f"embedding picture {number + 1:,} of {len(wanted):,}", number / len(wanted))
            try:
                embeddings[name] = model.encode_image([folder / name])[0]
            except ImageError as error:
                unreadable[name] = error
        draft.add(embeddings)
        if time.monotonic() - saved > _SAVE_SECONDS:
            _save(path, draft.index())
            saved = time.monotonic()
    index = draft.index()
    changed = old is None or len(wanted) > len(unreadable) or index.names != old.names
    if len(names) > LONG:
        index = replace(index, graph=graph.path_of(path))
        if changed or old is None or old.graph is None:
            progress("building the graph", None)
            graph.build(graph.path_of(path), index.codes)
            changed = True
    if changed:
        _save(path, index)
    if old is not None and old.graph is not None and index.graph is None:
        old.graph.unlink()
    dropped = 0 if old is None else len({*old.names} - {*index.names})
    return Indexed(index, len(wanted) - len(unreadable), dropped, unreadable)


class _Draft:
    """An index that pictures are being added to.

    Args:
        model: Whose embeddings are added.
        folder: Where the pictures are.
        form: How embeddings are kept.
        old: Where to begin: what of it is still there, and unchanged, is kept.
        stamps: Of all pictures that are there.

    Attributes:
        kept: The names that are kept.
    """

    def __init__(
        self,
        model: BundleModel,
        folder: Path,
        form: Form,
        old: PictureIndex | None,
        stamps: Mapping[str, tuple[int, int]],
    ) -> None:
        self._model, self._folder, self._form, self._stamps = model, folder, form, stamps
        self._names: list[str] = []
        self._rows: list[F32 | Codes] = []
        self._mean = None if old is None else old.mean
        if old is not None:
            known = zip(old.names, old.stamps.tolist(), strict=True)
            places = [place for place, (name, stamp) in enumerate(known) if stamps.get(name) == tuple(stamp)]
            self._names += [old.names[place] for place in places]
            self._rows.append(old.codes[places])
        self.kept = {*self._names}

    def add(self, embeddings: Mapping[str, F32]) -> None:
        """Adds pictures by name, float32 [D] each."""
        if not embeddings:
            return
        rows = np.stack(list(embeddings.values()))
        if self._form == "binary" and self._mean is None and len(rows) >= _ENOUGH_FOR_A_MEAN:
            self._mean = np.asarray(rows.mean(0, dtype=np.float64), np.float32)
        self._names += embeddings
        self._rows.append(_encode(rows, self._form, self._settled_mean()))

    def index(self) -> PictureIndex:
        """What there is so far."""
        manifest = self._model.bundle.manifest
        empty = _encode(np.zeros((0, manifest.embedding.dim), np.float32), self._form, self._settled_mean())
        rows = np.concatenate([empty, *self._rows])
        order = sorted(range(len(self._names)), key=self._names.__getitem__)
        names = tuple(self._names[place] for place in order)
        return PictureIndex(
            space=manifest.embedding.space_id,
            folder=self._folder.resolve(),
            bundle=self._model.bundle.path.resolve(),
            names=names,
            stamps=np.array([self._stamps[name] for name in names], np.int64).reshape(-1, 2),
            codes=rows[order],
            mean=self._settled_mean(),
        )

    def _settled_mean(self) -> F32 | None:
        """That of the first pictures, or the bundle's own where these are few; the same from then on."""
        if self._form == "binary" and self._mean is None:
            self._mean = self._model.mean_embedding
        return self._mean


def _encode(embeddings: F32, form: Form, mean: F32 | None) -> F32 | Codes:
    if form == "binary" and mean is not None:
        return coding.to_binary(embeddings, mean)
    return coding.to_int8(embeddings) if form == "int8" else embeddings


def _save(path: Path, index: PictureIndex) -> None:
    tensors = {
        "codes": index.codes,
        "names": np.frombuffer(b"".join(os.fsencode(name) + b"\0" for name in index.names), np.uint8),
        "stamps": index.stamps,
    }
    about = {
        "edgevlm_index": VERSION,
        "embedding_space_id": index.space,
        "folder": _from(path, index.folder),
        "bundle": _from(path, index.bundle),
    }
    if index.mean is not None:
        tensors["mean"] = index.mean
    if index.graph is not None:
        about["graph"] = hash_file(index.graph)
    write_atomically(path, save(tensors, about))


def _from(path: Path, other: Path) -> str:
    """Where something is from a file's folder on, so that both can be moved; absolute on another drive.

    Raises:
        DataError: its name is not in UTF-8.
    """
    try:
        found = Path(os.path.relpath(other, path.resolve().parent)).as_posix()
    except ValueError:
        found = str(other)
    if printable(found) != found:
        raise DataError(f"{printable(found)}: its name is not in UTF-8, or has control characters", hint="rename it")
    return found


def _stamp(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_size, found.st_mtime_ns
