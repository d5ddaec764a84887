"""A campaign of attacks, counted by what became of them: no wrong answer that `verify` passes, no traceback, no death.

python -m edgevlm.benchmarks.attacks --work WORK [--count 200] [--seed 0] [--keep | --json FILE]
python -m edgevlm.benchmarks.attacks --work WORK --kind "bytes of files" --only 17     one attack of each specimen again
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
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

LABELS = Path(__file__).parents[2] / "examples" / "labels.txt"
SPECIMENS: dict[str, tuple[str, ...]] = {
    "edgevlm-student-tflite-int8": ("--target", "tflite"),
    "edgevlm-student-executorch-int8": ("--target", "executorch"),
    "edgevlm-student-coreml-int8": ("--target", "coreml"),
    "edgevlm-student-labels-tflite-int8": ("--target", "tflite", "--labels", str(LABELS)),
}
"""Bundles of the built-in student, and what makes them."""
KINDS = ("readers", *bundles.CHANGES, "kills", "threads")
_OF_A_DOCUMENT = 5
"""Mutants for one of a bundle."""
_SECONDS = 120.0
"""That one attack may take; a machine that others use as well needs some patience."""
_LONG_SECONDS = 600.0
"""The same of one that converts, is killed, and converts again."""


def main() -> None:
    """Attacks, prints what is found, and counts."""
    parser = make_parser(__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder of the bundles, which are made once")
    parser.add_argument(
        "--count", type=int, default=200, metavar="N", help="mutants of a bundle of each kind, default 200"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bundle", type=Path, action="append", default=[], help="one of your own, attacked as well")
    parser.add_argument("--kind", choices=KINDS, action="append", help="this kind alone; may be given several times")
    parser.add_argument("--only", type=int, metavar="NUMBER", help="this attack of each specimen alone")
    options = parser.parse_args()
    numbers = range(options.count) if options.only is None else (options.only,)
    kinds = options.kind or KINDS
    outcomes = []
    began = time.perf_counter()
    os.environ["EDGEVLM_CACHE_DIR"] = str((options.work / "cache").resolve())
    with tempfile.TemporaryDirectory(prefix="attacks-") as scratch:
        made = [(name, partial(_converted, name, asked, options.work)) for name, asked in SPECIMENS.items()]
        made += [(path.stem, partial(Bundle.open, path)) for path in options.bundle]
        for outcome in _attacks(kinds, numbers, options.seed, made, Path(scratch)):
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
        command += "".join(f" --bundle {path.name}" for path in options.bundle)
        kept = keep("attacks", {"seed": options.seed, **found}, command, options.json)
        if options.keep:
            PAGE.write_text(page(json.loads(kept.read_text(encoding="utf-8"))), encoding="utf-8")
    sys.exit(bool(found["findings"]))


def _attacks(
    kinds: Sequence[str],
    numbers: Sequence[int],
    seed: int,
    made: Sequence[tuple[str, Callable[[], Bundle]]],
    scratch: Path,
) -> Iterator[Outcome]:
    for name, bundle_of in made if {*kinds} & {*bundles.CHANGES, "threads"} else ():
        bundle = bundle_of()
        for kind in (each for each in bundles.CHANGES if each in kinds):
            if kind != bundles.FLATBUFFERS or bundle.manifest.target != "coreml":
                one = partial(_attack_bundle, kind, bundle, seed, scratch)
                yield from workers.run(kind, name, numbers, one, seconds=_SECONDS)
        if "threads" in kinds and bundle.manifest.dialogue is None:
            yield from workers.run("threads", name, range(4), partial(threads.attack, bundle), seconds=_SECONDS)
    if "kills" in kinds:
        bundle = made[0][1]()
        for name, writing in kills.writings(bundle).items():
            steps: Sequence[int] = range(kills.steps(writing, scratch) + 1)
            if writing.is_long:
                steps = sorted(random.Random(seed).sample(steps, min(len(steps), max(1, len(numbers)))))
            one = partial(_kill, name, writing, scratch)
            seconds = _LONG_SECONDS if writing.is_long else _SECONDS
            yield from workers.run("kills", name, steps, one, seconds=seconds)
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


def _converted(name: str, asked: Sequence[str], folder: Path) -> Bundle:
    """The built-in student in int8, made in a process of its own: one that has run a framework is none to fork."""
    made = folder / "dist" / f"{name}.edgevlm"
    if not made.exists():
        command = [sys.executable, "-m", "edgevlm", "convert", *asked, "--recipe", "int8", "--out", str(made.parent)]
        subprocess.run(command, check=True, capture_output=True)
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
