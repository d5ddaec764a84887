"""What the comparison found, a row for each model, target and recipe, and what it was hoped to find."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from edgevlm import schema
from edgevlm.benchmarks.measuring import Times
from edgevlm.bundle.recipe import BUILTIN
from edgevlm.errors import InputError


@dataclass(frozen=True)
class Speed:
    """Times of one component on one thread, taken in turns with the same target's fp32."""

    own: Times
    fp32: Times

    @property
    def cpu_ratio(self) -> float:
        return self.own.cpu_ms / self.fp32.cpu_ms

    @property
    def wall_ratio(self) -> float:
        return self.own.wall_ms / self.fp32.wall_ms


@dataclass(frozen=True)
class Memory:
    """Of a fresh process that opens a bundle and runs all its components, in MB of 10^6 bytes.

    Attributes:
        imports_mb: Resident once the runtime is imported.
        peak_mb: Most that was resident beyond that.
        mapped_mb: Of what is resident at the end: pages of mapped files, which the system can drop and read again.
    """

    imports_mb: float
    peak_mb: float
    mapped_mb: float


@dataclass(frozen=True)
class Figures:
    """What was measured of one bundle.

    Attributes:
        size_bytes: Of the artefact's files, without the bundle's tokenizer and golden fixtures.
        compressed_size_bytes: What these come to in a compressed download.
        weights: How many weights were decided by NNCF.
        identical: How many of these the file holds with the same integers, scales and zero points.
        shares: Component -> type -> share of the component's multiply-adds whose weight the file holds as `int8` or
            `int4`. Attention's own products have no weight.
        cosine: Component -> least cosine with the float reference.
        centred_cosine: Component -> mean cosine once the reference's mean embedding is taken from both sides.
        zero_shot: Share of the pictures whose best text is the reference's.
        beyond_limits: Checks of parity that failed the recipe's limits.
        speed: Component -> times; empty where `unmeasured` says why.
        memory: None where `unmeasured` says why.
        unmeasured: Why there is neither.
    """

    size_bytes: int
    compressed_size_bytes: int
    weights: int
    identical: int
    shares: Mapping[str, Mapping[str, float]]
    cosine: Mapping[str, float]
    centred_cosine: Mapping[str, float]
    zero_shot: float
    beyond_limits: tuple[str, ...]
    speed: Mapping[str, Speed] = field(default_factory=dict)
    memory: Memory | None = None
    unmeasured: str = ""


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        run: Key of the run that measured it.
        figures: None where `refused` says why there is no bundle.
    """

    model: str
    target: str
    recipe: str
    run: str
    figures: Figures | None = None
    refused: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        return self.model, self.target, self.recipe


@dataclass(frozen=True)
class Contender:
    """One toolchain's image encoder, timed in turns with all others on the same weights.

    Attributes:
        name: Whose, and in which type.
        float_name: The contender that is its own fp32; itself for an fp32 one.
        size_bytes: Of its file.
        times: On one thread; None where it is missing.
        centred_cosine: With the float reference; None for fp32.
        missing: Why nothing was measured; else empty.
    """

    name: str
    float_name: str
    size_bytes: int = 0
    times: Times | None = None
    centred_cosine: float | None = None
    missing: str = ""


@dataclass(frozen=True)
class Peers:
    """All contenders on one model.

    Attributes:
        run: Key of the run that measured them.
    """

    model: str
    run: str
    contenders: tuple[Contender, ...]

    def cpu_ratio(self, name: str, other: str) -> float | None:
        """None where one of them is missing."""
        times = {each.name: each.times.cpu_ms for each in self.contenders if each.times}
        return times[name] / times[other] if name in times and other in times else None


@dataclass(frozen=True)
class Run:
    """A command that measured some rows, and what `edgevlm.benchmarks.measuring.machine` says of where."""

    command: str
    machine: Mapping[str, object]


@dataclass(frozen=True)
class Results:
    """All rows that were ever measured; a later run replaces those that it measures again."""

    runs: Mapping[str, Run] = field(default_factory=dict)
    rows: tuple[Row, ...] = ()
    peers: tuple[Peers, ...] = ()

    def with_row(self, row: Row) -> Results:
        return self._tidied(rows=(*(each for each in self.rows if each.key != row.key), row), peers=self.peers)

    def with_peers(self, peers: Peers) -> Results:
        return self._tidied(rows=self.rows, peers=(*(each for each in self.peers if each.model != peers.model), peers))

    def with_run(self, key: str, run: Run) -> Results:
        return replace(self, runs={**self.runs, key: run})

    def find(self, model: str, target: str, recipe: str) -> Figures | None:
        """None where it was refused, or not measured yet."""
        return next((row.figures for row in self.rows if row.key == (model, target, recipe)), None)

    def _tidied(self, rows: tuple[Row, ...], peers: tuple[Peers, ...]) -> Results:
        """In the table's order, without the runs that no row refers to any more."""
        ordered = tuple(sorted(rows, key=lambda row: (row.model, row.target, list(BUILTIN).index(row.recipe))))
        used = {row.run for row in rows} | {each.run for each in peers}
        return Results({key: run for key, run in self.runs.items() if key in used}, ordered, peers)


def read(path: Path) -> Results:
    """What was kept; nothing where there is no such file.

    Raises:
        InputError: the file is something else.
    """
    if not path.is_file():
        return Results()
    return schema.read(Results, json.loads(path.read_text(encoding="utf-8")), where=str(path), error=InputError)
