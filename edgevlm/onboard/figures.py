"""What a device says of an artefact that it ran, and of itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from edgevlm.schema import Quantity


@dataclass(frozen=True)
class Spread:
    """Repeated times of one thing, in milliseconds; of several processes see `pooled`."""

    median: float
    p90: float
    p95: float
    min: float
    max: float
    runs: int


def spread(times_ms: Sequence[float]) -> Spread:
    """The figures of repeated times in milliseconds."""
    median, p90, p95 = np.percentile(times_ms, [50, 90, 95])
    return Spread(float(median), float(p90), float(p95), min(times_ms), max(times_ms), len(times_ms))


@dataclass(frozen=True)
class Times:
    """Latency on a machine that ran it.

    Attributes:
        cold_load_ms: Opening the artefact in a fresh process, its libraries imported.
        page_cache_share: Share of the artefact's pages that were in memory just before, 0..1; None where the system
            does not tell.
        first_ms: The first inference, which packs weights and allocates.
        engine_ms: Later inferences.
        decode_ms: From a JPEG file's bytes to a picture; None for a text tower.
        preprocess_ms: From a decoded picture to the pixels that the component takes; None for a text tower.
        tokenise_ms: From a text to token ids; None for an image tower.
        postprocess_ms: From the component's output to the answer that an app shows; None where there is nothing to do.
        yardstick_ms: What the same small computation took the machine meanwhile, whatever the artefact: how fast it
            was, and how busy. None where nobody looked.
        positions: Of a model's context that one inference takes: a prompt's, and one for a token. None of a picture,
            and of models that do not talk.
    """

    cold_load_ms: float
    page_cache_share: float | None
    first_ms: float
    engine_ms: Spread
    preprocess_ms: Spread | None = None
    tokenise_ms: Spread | None = None
    postprocess_ms: Spread | None = None
    yardstick_ms: Annotated[float, Quantity("milliseconds", above=0)] | None = None
    decode_ms: Spread | None = None
    positions: Annotated[int, Quantity("positions", least=1)] | None = None

    @property
    def stages(self) -> dict[str, Spread]:
        """What a picture or a text goes through up to the answer, in order; what nobody timed is left out."""
        every = {
            "decode": self.decode_ms,
            "resize": self.preprocess_ms,
            "tokenise": self.tokenise_ms,
            "model": self.engine_ms,
            "compare": self.postprocess_ms,
        }
        return {name: times for name, times in every.items() if times is not None}

    @property
    def per_second(self) -> float:
        """Inferences a second, one after the other."""
        return 1e3 / self.engine_ms.median


def pooled(several: Sequence[Times]) -> Times:
    """The figures of several processes that timed the same: the middle one's of each, so that one in a burst of other
    work moves none. What only some of them looked at is the first's of these.
    """
    spreads = [each.engine_ms for each in several]
    median, p90, p95 = np.median([(each.median, each.p90, each.p95) for each in spreads], axis=0)
    least, most = min(each.min for each in spreads), max(each.max for each in spreads)
    engine = Spread(float(median), float(p90), float(p95), least, most, sum(each.runs for each in spreads))
    shares = [each.page_cache_share for each in several if each.page_cache_share is not None]
    yardsticks = [each.yardstick_ms for each in several if each.yardstick_ms is not None]
    return Times(
        cold_load_ms=float(np.median([each.cold_load_ms for each in several])),
        page_cache_share=max(shares, default=None),
        first_ms=float(np.median([each.first_ms for each in several])),
        engine_ms=engine,
        decode_ms=next((each.decode_ms for each in several if each.decode_ms), None),
        preprocess_ms=next((each.preprocess_ms for each in several if each.preprocess_ms), None),
        tokenise_ms=next((each.tokenise_ms for each in several if each.tokenise_ms), None),
        postprocess_ms=next((each.postprocess_ms for each in several if each.postprocess_ms), None),
        yardstick_ms=float(np.median(yardsticks)) if yardsticks else None,
        positions=several[0].positions,
    )


@dataclass(frozen=True)
class Memory:
    """Peaks of a process that opens the artefact and runs one component a few times, in bytes.

    Attributes:
        anonymous_bytes: Memory of its own, which cannot be dropped: what counts against an app.
        file_mapped_bytes: Pages of mapped files, which the system may drop and read again.
        resident_bytes: Both together.
        before_bytes: What was resident of both before the artefact was opened: the interpreter and its libraries. None
            where nobody looked.
    """

    anonymous_bytes: int
    file_mapped_bytes: int
    resident_bytes: int
    before_bytes: int | None

    @property
    def own_bytes(self) -> int:
        """What opening and running the artefact added at most; where nobody looked before, all of the process."""
        return max(0, self.resident_bytes - (self.before_bytes or 0))


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
        dot_products: `sdot`, `udot`, `usdot` and `sudot` instructions.
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
