"""What a benchmark finds out: one result a line of `results.jsonl`, each with its evidence.

    {"schema_version": 5, "evidence": "measured", "device": "host", "artefact": {...}, "component": "encode_image", ...}

`evidence` says how the figures came about:

    measured    clocked on the machine that is named
    emulated    counted, or its memory watched, on an emulator of it: no times, since an emulator's are not the device's
    estimated   computed from counts and a device's published figures, with a band of error
    none        nothing: the device failed, and why

Of a model that talks, `component` is a part of an answer; see `edgevlm.onboard.answers.parts`. Versions 1 to 4 are read
as well. Version 1 was of one process a figure, and had no `processes` and no `yardstick_ms`; 2 had no `decode_ms`, 3 no
`positions`, 4 none of what was counted, and no `reads_bytes`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from edgevlm import schema
from edgevlm.errors import InputError
from edgevlm.onboard.figures import Counts, Memory, Sustained, System, Times
from edgevlm.process.writing import write_atomically
from edgevlm.schema import Quantity

SCHEMA_VERSION = 5
_READABLE = (1, 2, 3, 4, 5)
Evidence = Literal["measured", "emulated", "estimated", "none"]


@dataclass(frozen=True)
class Artefact:
    """What ran: a bundle, or a peer's file of the same model.

    Attributes:
        name: The bundle's folder without its suffix, or what a peer's files are called.
        model: What it was made from.
        target: `coreml`, `executorch`, `tflite`; or a peer, `onnxruntime`, `openvino`, `tensorrt`.
        recipe: How it was compressed, such as `int8`.
        sha256: Of the manifest, and so of all that it lists; of a peer, of its files' own.
        size_bytes: Of the files that a runtime loads.
        accuracy: What it keeps of the float model's answers, where parity was measured: the mean cosine of its
            embeddings with the float reference's once the reference's mean is taken from both, the worst component's.
    """

    name: str
    model: str
    target: str
    recipe: str
    sha256: str
    size_bytes: Annotated[int, Quantity("bytes", least=0)]
    accuracy: float | None = None

    @property
    def peer(self) -> bool:
        """Whether it is another toolchain's."""
        return self.target in ("onnxruntime", "openvino", "tensorrt")


@dataclass(frozen=True)
class Process:
    """What one of the processes found that a measured figure is made of: what a comparison needs to know of it.

    Attributes:
        median_ms: Of its inferences.
        runs: How many.
        yardstick_ms: See `Times`.
    """

    median_ms: float
    runs: int
    yardstick_ms: Annotated[float, Quantity("milliseconds", above=0)] | None


@dataclass(frozen=True)
class Measured:
    """Figures of a machine that ran the artefact.

    Attributes:
        times: Of all processes together; see `edgevlm.onboard.figures.pooled`.
        reproduce: The command.
        processes: In order; empty in results of version 1.
    """

    device: str
    artefact: Artefact
    component: str
    threads: int
    times: Times
    memory: Memory | None
    system: System
    reproduce: str
    sustained: Sustained | None = None
    processes: tuple[Process, ...] = ()


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
        positions: Of a model's context that one inference takes; None where there is none, and in older results.
        reads_bytes: What an inference is taken to read from memory; None where nothing was counted.
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
    positions: Annotated[int, Quantity("positions", least=1)] | None = None
    reads_bytes: Annotated[int, Quantity("bytes", least=0)] | None = None


@dataclass(frozen=True)
class Estimated:
    """Latency computed from counts.

    Attributes:
        threads: Of the CPU; 0 on an accelerator.
        unit: What it would run on.
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
    unit: Literal["cpu", "npu", "gpu"] = "cpu"


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


def subject(result: Result) -> tuple[object, ...]:
    """What a result is about: two of the same cannot stand beside each other."""
    artefact = result.artefact.name if result.artefact else None
    threads = result.threads if isinstance(result, Measured | Estimated) else None
    counted = isinstance(result, Emulated) and result.counts is not None
    return (evidence(result), result.device, artefact, result.component, threads, counted)


def to_json(result: Result) -> dict[str, Any]:
    """What a line of `results.jsonl` holds."""
    return {"schema_version": SCHEMA_VERSION, "evidence": evidence(result), **schema.write(result)}


def from_json(data: Any, *, where: str) -> Result:
    """The result that `to_json` wrote.

    Raises:
        InputError: it is none, or of another schema version.
    """
    if not isinstance(data, Mapping) or data.get("schema_version") not in _READABLE:
        got = data.get("schema_version") if isinstance(data, Mapping) else data
        raise InputError(
            f"{where}: expected a result with schema_version {_READABLE[0]} to {_READABLE[-1]}, got {got!r}",
            hint="edgevlm bench writes results.jsonl; a newer edgevlm may have written this one",
        )
    kind = _KINDS.get(str(data.get("evidence", "")))
    if kind is None:
        raise InputError(f"{where}: evidence: expected one of {', '.join(_KINDS)}, got {data.get('evidence')!r}")
    plain = {key: value for key, value in data.items() if key not in ("schema_version", "evidence")}
    return schema.read(kind, plain, where=where, error=InputError)


def append(path: Path, result: Result) -> None:
    """Adds a line to a `results.jsonl`."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(to_json(result), ensure_ascii=False) + "\n")


def read(path: Path) -> tuple[Result, ...]:
    """All results of a `results.jsonl`; of lines about the same, as a run that was stopped leaves them, the last one.

    A last line that a killed run left unfinished is passed over: `torn_line` says so.

    Raises:
        InputError: it is missing, or holds something else.
    """
    return latest(_read(path))


def latest(results: Iterable[Result]) -> tuple[Result, ...]:
    """Of results about the same the last one: a figure gets better with each process that finds it out again."""
    last = {(subject(each), each.message if isinstance(each, Failed) else None): each for each in results}
    return tuple(last.values())


def torn_line(path: Path) -> str | None:
    """What to tell a user about a last line that `read` passes over; None where all are whole.

    Raises:
        InputError: the file is missing.
    """
    whole, torn = _lines(path)
    return (
        f"{path}: line {len(whole) + 1} was left unfinished by a run that was killed, and is left out" if torn else None
    )


def write(path: Path, results: Iterable[Result]) -> None:
    """A `results.jsonl` of these results."""
    write_atomically(path, "".join(json.dumps(to_json(each), ensure_ascii=False) + "\n" for each in results))


def _read(path: Path) -> Iterator[Result]:
    whole, _ = _lines(path)
    for number, line in enumerate(whole, 1):
        where = f"{path}: line {number}"
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            raise InputError(f"{where}: not readable: {error}", hint="remove the line") from error
        data = schema.parse_json(text, where=where, error=InputError, hint="remove the line")
        yield from_json(data, where=where)


def _lines(path: Path) -> tuple[list[bytes], bytes]:
    """Whole lines, and the rest: a line that has no end, and is no JSON either."""
    hint = "edgevlm bench writes results.jsonl"
    *lines, last = schema.read_bytes(path, "JSON lines", error=InputError, hint=hint).split(b"\n")
    try:
        json.loads(last or b"0")
    except (ValueError, RecursionError):
        return lines, last
    return [*lines, last] if last else lines, b""
