"""What a benchmark finds out: one result a line of `results.jsonl`, each with its evidence.

    {"schema_version": 1, "evidence": "measured", "device": "host", "artefact": {...}, "component": "encode_image", ...}

`evidence` says how the figures came about:

    measured    clocked on the machine that is named
    emulated    counted, or its memory watched, on an emulator of it: no times, since an emulator's are not the device's
    estimated   computed from counts and a device's published figures, with a band of error
    none        nothing: the device failed, and why
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgevlm import schema
from edgevlm.errors import InputError

SCHEMA_VERSION = 1
Evidence = Literal["measured", "emulated", "estimated", "none"]


@dataclass(frozen=True)
class Artefact:
    """What ran: a bundle, or a peer's file of the same model.

    Attributes:
        name: The bundle's folder, or what a peer's file is called.
        model: What it was made from.
        target: `coreml`, `executorch`, `tflite`; or a peer, `onnxruntime`, `openvino`, `tensorrt`.
        recipe: How it was compressed, such as `int8`.
        sha256: Of the manifest, and so of all that it lists; of a peer, of its file.
        size_bytes: Of the files that a runtime loads.
        accuracy: What it keeps of the float model's answers, where parity was measured: the least cosine of an
            embedding with the float reference's.
    """

    name: str
    model: str
    target: str
    recipe: str
    sha256: str
    size_bytes: int
    accuracy: float | None = None

    @property
    def peer(self) -> bool:
        """Whether it is another toolchain's."""
        return self.target in ("onnxruntime", "openvino", "tensorrt")


@dataclass(frozen=True)
class Spread:
    """Repeated times of one thing, in milliseconds."""

    median: float
    p90: float
    p95: float
    min: float
    max: float
    runs: int


@dataclass(frozen=True)
class Times:
    """Latency on a machine that ran it.

    Attributes:
        cold_load_ms: Opening the artefact in a fresh process, its libraries imported.
        page_cache_share: Share of the artefact's pages that were in memory just before, 0..1; None where the system
            does not tell.
        first_ms: The first inference, which packs weights and allocates.
        engine_ms: Later inferences.
        preprocess_ms: From a decoded picture to the pixels that the component takes; None for a text tower.
        tokenise_ms: From a text to token ids; None for an image tower.
        postprocess_ms: From the component's output to the answer that an app shows; None where there is nothing to do.
    """

    cold_load_ms: float
    page_cache_share: float | None
    first_ms: float
    engine_ms: Spread
    preprocess_ms: Spread | None = None
    tokenise_ms: Spread | None = None
    postprocess_ms: Spread | None = None

    @property
    def per_second(self) -> float:
        """Inferences a second, one after the other."""
        return 1e3 / self.engine_ms.median


@dataclass(frozen=True)
class Memory:
    """Peaks of a process that opens the artefact and runs one component three times, in bytes.

    Attributes:
        anonymous_bytes: Memory of its own, which cannot be dropped: what counts against an app.
        file_mapped_bytes: Pages of mapped files, which the system may drop and read again.
        resident_bytes: Both together.
        before_bytes: What was resident of both before the artefact was opened: the interpreter and its libraries.
    """

    anonymous_bytes: int
    file_mapped_bytes: int
    resident_bytes: int
    before_bytes: int


@dataclass(frozen=True)
class Window:
    """One stretch of a sustained run.

    Attributes:
        at_seconds: When it ended, from the start of the run.
        median_ms: Of the inferences in it.
        temperature_c: The hottest sensor at its end; None where the system does not tell.
        clock_mhz: The fastest core's clock at its end; None where the system does not tell.
    """

    at_seconds: float
    median_ms: float
    temperature_c: float | None
    clock_mhz: float | None


@dataclass(frozen=True)
class Sustained:
    """Inference without a pause.

    Attributes:
        windows: In order, of about a second each.
        throttled: The system's own word, such as a Raspberry Pi's throttling flags; None where it has none.
    """

    windows: tuple[Window, ...]
    throttled: str | None = None

    @property
    def slowdown(self) -> float:
        """The last tenth's median time over the first tenth's."""
        tenth = max(1, len(self.windows) // 10)
        first, last = (
            sorted(each.median_ms for each in part)[tenth // 2]
            for part in (self.windows[:tenth], self.windows[-tenth:])
        )
        return last / first


@dataclass(frozen=True)
class System:
    """The machine that a figure comes from.

    Attributes:
        model: The board's or computer's own name for itself; empty where it has none.
        processor: Its processor's.
        architecture: As `uname -m` has it.
        cores: Logical ones that the process may use.
        memory_bytes: Of the whole machine.
        system: Operating system and its version.
        python: Version of the interpreter; empty where none ran.
        governor: The clock governor; None where the system does not tell.
        clock_mhz, most_clock_mhz: Now, and at most; None where the system does not tell.
        temperature_c: The hottest sensor; None where the system does not tell.
        load: Mean number of busy processes in the last minute.
        emulator: What plays the machine; None for a real one.
        versions: Of the packages that shape a figure.
    """

    model: str
    processor: str
    architecture: str
    cores: int
    memory_bytes: int
    system: str
    python: str
    governor: str | None
    clock_mhz: float | None
    most_clock_mhz: float | None
    temperature_c: float | None
    load: float
    emulator: str | None
    versions: Mapping[str, str]


@dataclass(frozen=True)
class Counts:
    """What one thread executes for one inference, exactly.

    Attributes:
        instructions: All of them.
        float_multiply_adds: Multiply-adds of vector float instructions, each lane counted.
        integer_multiply_adds: Multiply-adds of vector integer instructions, each lane counted, those of the next two
            included.
        dot_products: `sdot` and `udot` instructions.
        matrix_products: `smmla`, `ummla` and `usmmla` instructions.
        bytes_loaded, bytes_stored: By load and store instructions, whichever cache they hit.
    """

    instructions: int
    float_multiply_adds: int
    integer_multiply_adds: int
    dot_products: int
    matrix_products: int
    bytes_loaded: int
    bytes_stored: int


@dataclass(frozen=True)
class Measured:
    """Figures of a machine that ran the artefact. `reproduce` is the command."""

    device: str
    artefact: Artefact
    component: str
    threads: int
    times: Times
    memory: Memory | None
    system: System
    reproduce: str
    sustained: Sustained | None = None


@dataclass(frozen=True)
class Emulated:
    """Figures of an emulator of the device: no times.

    Attributes:
        cpu_model: QEMU's name of the CPU that was emulated, such as `cortex-a76`.
        stands_for: The device's own core, where QEMU has no model of that one: `cortex-a78ae`.
        counts: Of one steady inference, single-threaded.
        load_counts: Of opening the artefact and the first inference.
        memory: On a whole emulated machine with the device's memory.
        fits: Whether it ran there; None where that was not tried.
        memory_limit_bytes: The emulated machine's memory; None where that was not tried.
        system: The emulated machine, or the tools that counted.
        warnings: What is wrong with what was seen, such as no dot products where the CPU has them.
    """

    device: str
    artefact: Artefact
    component: str
    cpu_model: str
    stands_for: str | None
    counts: Counts | None
    load_counts: Counts | None
    memory: Memory | None
    fits: bool | None
    memory_limit_bytes: int | None
    system: System
    reproduce: str
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Estimated:
    """Latency computed from counts.

    Attributes:
        low_ms, middle_ms, high_ms: The band, and its middle.
        bound_by: Which of the two takes longer: executing instructions, or reading weights from memory.
        calibration: The published or measured points that the model was fitted to, each with its source.
        error: Largest relative error when one of those points was left out and predicted from the others.
    """

    device: str
    artefact: Artefact
    component: str
    threads: int
    low_ms: float
    middle_ms: float
    high_ms: float
    bound_by: Literal["instructions", "bandwidth", "calibration point"]
    calibration: tuple[str, ...]
    error: float
    reproduce: str


@dataclass(frozen=True)
class Failed:
    """A device, or one artefact on it, that gave nothing, and why."""

    device: str
    artefact: Artefact | None
    message: str
    hint: str | None = None
    component: str | None = None


Result = Measured | Emulated | Estimated | Failed
_KINDS: Mapping[str, type[Result]] = {
    "measured": Measured,
    "emulated": Emulated,
    "estimated": Estimated,
    "none": Failed,
}


def evidence(result: Result) -> Evidence:
    """How a result's figures came about."""
    for name, kind in _KINDS.items():
        if isinstance(result, kind):
            return name  # type: ignore[return-value]
    raise TypeError(f"not a result: {result!r}")


def to_json(result: Result) -> dict[str, Any]:
    """What a line of `results.jsonl` holds."""
    return {"schema_version": SCHEMA_VERSION, "evidence": evidence(result), **schema.write(result)}


def from_json(data: Any, *, where: str) -> Result:
    """The result that `to_json` wrote.

    Raises:
        InputError: it is none, or of another schema version.
    """
    if not isinstance(data, Mapping) or data.get("schema_version") != SCHEMA_VERSION:
        got = data.get("schema_version") if isinstance(data, Mapping) else data
        raise InputError(
            f"{where}: expected a result with schema_version {SCHEMA_VERSION}, got {got!r}",
            hint="edgevlm bench writes results.jsonl; a newer edgevlm may have written this one",
        )
    kind = _KINDS.get(data.get("evidence", ""))
    if kind is None:
        raise InputError(f"{where}: evidence: expected one of {', '.join(_KINDS)}, got {data.get('evidence')!r}")
    plain = {key: value for key, value in data.items() if key not in ("schema_version", "evidence")}
    return schema.read(kind, plain, where=where, error=InputError)


def append(path: Path, result: Result) -> None:
    """Adds a line to a `results.jsonl`."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(to_json(result), ensure_ascii=False) + "\n")


def read(path: Path) -> tuple[Result, ...]:
    """All results of a `results.jsonl`.

    Raises:
        InputError: it is missing, or holds something else.
    """
    return tuple(_read(path))


def write(path: Path, results: Iterable[Result]) -> None:
    """A `results.jsonl` of these results."""
    path.write_text("".join(json.dumps(to_json(each), ensure_ascii=False) + "\n" for each in results), encoding="utf-8")


def _read(path: Path) -> Iterator[Result]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not readable: {error}", hint="edgevlm bench writes results.jsonl") from error
    for number, line in enumerate(lines, 1):
        where = f"{path}: line {number}"
        try:
            data = json.loads(line)
        except ValueError as error:
            raise InputError(f"{where}: not JSON: {error}", hint="edgevlm bench writes results.jsonl") from error
        yield from_json(data, where=where)
