"""`edgevlm bench`: every bundle on every device, into one folder that holds the results and the report on them.

results.jsonl    a result a line, written as it comes; a later run replaces what it finds out again
report.html      the report, one file that needs no network
report.md        the same as text
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from edgevlm.bench import fleet, results
from edgevlm.bench.artefacts import open_all, subjects
from edgevlm.bench.measure import Effort
from edgevlm.bench.results import Failed, Result
from edgevlm.bench.worker import Assignment
from edgevlm.devices.device import Device, resolve
from edgevlm.devices.profile import Profile
from edgevlm.errors import DeviceError, EdgeVLMError, InputError
from edgevlm.process import interrupts
from edgevlm.process.locking import locked
from edgevlm.process.progress import Progress, silent
from edgevlm.process.writing import made, output_errors, replacing

RESULTS, PAGE, MARKDOWN = "results.jsonl", "report.html", "report.md"


@dataclass(frozen=True)
class Request:
    """What to benchmark, and where.

    Attributes:
        bundles: Paths; none, to write the report on what is in `out` again.
        devices: As a user names them; see `edgevlm.devices.device.resolve`.
        profiles: By name.
        out: The folder of the report.
        components: Those of these names; all where empty.
        effort: How long is measured.
        peers: Whether other toolchains' files of the same models are measured as well.
        options: What else a user gave that a figure depends on, for the command that repeats it.
    """

    bundles: tuple[Path, ...]
    devices: tuple[str, ...]
    profiles: Mapping[str, Profile]
    out: Path
    components: tuple[str, ...] = ()
    effort: Effort = field(default_factory=Effort)
    peers: bool = False
    options: tuple[str, ...] = ()


def bench(request: Request, progress: Progress = silent) -> tuple[Result, ...]:
    """Asks every device, and writes the report. A device that fails is among the results and stops no other.

    Returns:
        What this run found out. The report also has what earlier runs into the same folder did.

    Raises:
        EdgeVLMError: what is wrong with the request itself, before the long work starts.
    """
    if not request.bundles and not (request.out / RESULTS).is_file():
        raise InputError("expected at least one bundle", hint="edgevlm convert writes bundles")
    subjects(open_all(request.bundles), request.components)
    devices, unknown = _resolve(request)
    if request.bundles and not devices:
        raise DeviceError("; ".join(each.message for each in unknown), hint=unknown[0].hint)
    kept = request.out / RESULTS
    advice = f"the results so far are in {kept}; edgevlm bench --out {request.out} writes the report on them"
    found: list[Result] = []
    busy = f"another edgevlm bench writes into {request.out}"
    with _opened(request.out), locked(request.out / ".lock", busy), interrupts.advice(advice):
        earlier = results.read(kept)
        if results.torn_line(kept):
            results.write(kept, earlier)  # so that the next line is one of its own
        for result in _examine(request, devices, progress) if request.bundles else ():
            found.append(result)
            with output_errors(request.out):
                results.append(kept, result)
        found = list(results.latest(found))
        everything = merge(earlier, found)
        results.write(kept, everything)
        write_report(everything, request.out, {name: each.title for name, each in request.profiles.items()})
    return (*unknown, *found)


def merge(earlier: Sequence[Result], later: Sequence[Result]) -> tuple[Result, ...]:
    """All results, without those earlier ones that were found out again, and without failures that were mended."""
    again = {results.subject(each) for each in later}
    tried = {results.subject(each)[1:4] for each in later}
    reached = {each.device for each in later}

    def mended(each: Result) -> bool:
        if not isinstance(each, Failed):
            return False
        return each.device in reached if each.artefact is None else results.subject(each)[1:4] in tried

    return (*(each for each in earlier if results.subject(each) not in again and not mended(each)), *later)


def write_report(found: Sequence[Result], folder: Path, titles: Mapping[str, str]) -> None:
    """Writes the page and the text.

    Args:
        found: What they are about.
        folder: Where.
        titles: What people call the devices, by name.
    """
    from edgevlm.bench.report.markdown import write_markdown
    from edgevlm.bench.report.page import write_page

    title = "How fast, how much memory, does it fit"
    for name, write in ((PAGE, write_page), (MARKDOWN, write_markdown)):
        with replacing(folder / name) as new:
            write(tuple(found), new, title=title, titles=titles)


def _resolve(request: Request) -> tuple[list[Device], list[Failed]]:
    """The devices that are meant, and the names that mean none: no report keeps these."""
    devices, unknown = [], []
    for name in dict.fromkeys(request.devices):
        try:
            devices.append(resolve(name, request.profiles))
        except EdgeVLMError as error:
            unknown.append(Failed(name, None, error.message, error.hint))
    return devices, unknown


def _examine(request: Request, devices: Sequence[Device], progress: Progress) -> Iterator[Result]:
    paths = tuple(map(str, request.bundles))  # as they were given, so that a result's command can be given again
    asked = [
        Assignment(each, paths, request.components, request.effort, request.peers, request.options) for each in devices
    ]
    return fleet.examine(asked, progress)


@contextmanager
def _opened(out: Path) -> Iterator[None]:
    """Makes the folder and its results, before the long work; a folder that nothing comes to be in is removed again."""
    with ExitStack() as held:
        with output_errors(out):
            held.enter_context(made(out, ignored=True))
            (out / RESULTS).touch()
        yield
