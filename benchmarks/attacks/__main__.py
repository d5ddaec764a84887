"""A campaign of attacks, counted by what became of them: no wrong answer that `verify` passes, no traceback, no death.

python -m edgevlm.benchmarks.attacks --work WORK [--count 200] [--seed 0] [--keep | --json FILE]
python -m edgevlm.benchmarks.attacks --work WORK --kind "bytes of files" --only 17     one attack of each specimen again
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

from edgevlm.benchmarks.attacks import bundles, documents, kills, readers, threads, workers
from edgevlm.benchmarks.attacks.bundles import Specimen
from edgevlm.benchmarks.attacks.outcomes import Outcome
from edgevlm.benchmarks.attacks.page import PAGE, figures, page
from edgevlm.benchmarks.attacks.readers import READERS, Reader
from edgevlm.benchmarks.measuring import keep, make_parser
from edgevlm.bundle.bundle import Bundle

TARGETS = ("tflite", "executorch")
"""Whose files native code reads; Core ML's are the study's of `benchmarks/fuzzing`."""
KINDS = ("readers", *bundles.CHANGES, "kills", "threads")
_OF_A_DOCUMENT = 5
"""Mutants for one of a bundle."""
_SECONDS = 120.0
"""That one attack may take; a machine that others use as well needs some patience."""


def main() -> None:
    """Attacks, prints what is found, and counts."""
    parser = make_parser(__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder of the bundles, which are made once")
    parser.add_argument(
        "--count", type=int, default=200, metavar="N", help="mutants of a bundle of each kind, default 200"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=KINDS, action="append", help="this kind alone; may be given several times")
    parser.add_argument("--only", type=int, metavar="NUMBER", help="this attack of each specimen alone")
    options = parser.parse_args()
    numbers = range(options.count) if options.only is None else (options.only,)
    kinds = options.kind or KINDS
    outcomes = []
    began = time.perf_counter()
    os.environ["EDGEVLM_CACHE_DIR"] = str((options.work / "cache").resolve())
    with tempfile.TemporaryDirectory(prefix="attacks-") as scratch:
        for outcome in _attacks(kinds, numbers, options.seed, options.work, Path(scratch)):
            outcomes.append(outcome)
            if outcome.is_finding or options.only is not None:
                where = f"{outcome.kind} {outcome.number} ({outcome.what})"
                print(f"{where}: {outcome.result}\n    {outcome.message}", flush=True)
    found = figures(outcomes, time.perf_counter() - began)
    for row in found["rows"]:
        print(f"{row['kind']:20} {row['what']:24} {row['results']}")
    print(f"{found['attacks']} attacks, {len(found['findings'])} findings")
    if options.keep or options.json:
        command = f"python -m edgevlm.benchmarks.attacks --work WORK --count {options.count} --seed {options.seed}"
        kept = keep("attacks", {"seed": options.seed, **found}, command, options.json)
        if options.keep:
            PAGE.write_text(page(json.loads(kept.read_text(encoding="utf-8"))), encoding="utf-8")
    sys.exit(bool(found["findings"]))


def _attacks(kinds: Sequence[str], numbers: Sequence[int], seed: int, work: Path, scratch: Path) -> Iterator[Outcome]:
    for target in TARGETS if {*kinds} - {"readers"} else ():
        bundle = _converted(target, work)
        for kind in (each for each in bundles.CHANGES if each in kinds):
            one = partial(_attack_bundle, kind, bundle, seed, scratch)
            yield from workers.run(kind, target, numbers, one, seconds=_SECONDS)
        if "threads" in kinds:
            yield from workers.run("threads", target, range(4), partial(threads.attack, bundle), seconds=_SECONDS)
    if "kills" in kinds:
        for name, writing in kills.writings(bundle).items():
            steps = range(kills.steps(writing, scratch) + 1)
            one = partial(_kill, name, writing, scratch)
            yield from workers.run("kills", name, steps, one, seconds=_SECONDS)
    if "readers" in kinds:  # last, since some need a framework to make their documents with
        for reader in READERS.values():
            yield from _read(reader, _more(numbers), seed, scratch)


def _more(numbers: Sequence[int]) -> Sequence[int]:
    """Of a document there are more mutants, which take milliseconds."""
    return range(_OF_A_DOCUMENT * len(numbers)) if len(numbers) > 1 else numbers


def _read(reader: Reader, numbers: Sequence[int], seed: int, folder: Path) -> Iterator[Outcome]:
    place = folder / "readers" / reader.name
    place.mkdir(parents=True)
    reader.prepare(place)
    file = place / reader.file
    whole = file.read_bytes()

    def work(number: int) -> Outcome:
        (mutant,) = islice(documents.mutants(whole, reader.form, f"{seed}/{reader.name}/{number}"), 1)
        file.write_bytes(mutant)
        return Outcome("readers", reader.name, number, *readers.trial(reader, file))

    yield from workers.run("readers", reader.name, numbers, work, seconds=_SECONDS)


def _converted(target: str, folder: Path) -> Bundle:
    """The built-in student in int8, made in a process of its own: one that has run a framework is none to fork."""
    made = folder / "dist" / f"edgevlm-student-{target}-int8.edgevlm"
    if not made.exists():
        command = [sys.executable, "-m", "edgevlm", "convert", "--target", target, "--recipe", "int8"]
        subprocess.run([*command, "--out", str(made.parent)], check=True, capture_output=True)
    return Bundle.open(made)


_SPECIMENS: dict[Path, Specimen] = {}
"""What a worker has asked already."""


def _attack_bundle(kind: str, bundle: Bundle, seed: int, scratch: Path, number: int) -> Outcome:
    if bundle.path not in _SPECIMENS:
        _SPECIMENS[bundle.path] = Specimen.of(bundle)
    return bundles.attack(kind, _SPECIMENS[bundle.path], number, seed, scratch)


def _kill(name: str, writing: kills.Writing, scratch: Path, number: int) -> Outcome:
    return kills.attack(name, writing, number, scratch)


if __name__ == "__main__":
    main()
