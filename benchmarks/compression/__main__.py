"""Every built-in recipe on every target: what it saves, what it costs, and how others do it.

    python -m edgevlm.benchmarks.compression --work WORK                               the whole table: many hours
    python -m edgevlm.benchmarks.compression --work WORK --models edgevlm-student      a part of it: half an hour
    python -m edgevlm.benchmarks.compression --work WORK --models clip-vit-b32 --recipes int8 --targets tflite --peers
    python -m edgevlm.benchmarks.compression --work WORK --report-only                 the page of what is there

Rows that were measured before stay, and those measured again are replaced; bundles in WORK are not converted again, so
that it may be stopped at any moment. With --keep the results and their page are those of the checkout, else WORK's.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path

import torch

from edgevlm import schema
from edgevlm.benchmarks.compression import conversions, report
from edgevlm.benchmarks.compression.measurement import ONE_THREAD, PACKAGE, measure
from edgevlm.benchmarks.compression.results import Peers, Results, Row, Run, read
from edgevlm.benchmarks.measuring import in_fresh_process, machine, plain_errors
from edgevlm.bundle.recipe import BUILTIN
from edgevlm.errors import InputError
from edgevlm.models import catalogue
from edgevlm.process import terminal
from edgevlm.process.progress import Progress
from edgevlm.process.writing import write_atomically
from edgevlm.targets.registry import CONVERTERS


def main() -> None:
    parser = _parser()
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds: expected 1 or more")
    torch.set_num_threads(1)
    places = report.IN_CHECKOUT if options.keep else report.beside(options.work)
    with plain_errors():
        if not options.report_only:
            with terminal.progress_bar() as progress:
                compare(options, places, progress)
        report.write(read(places.figures), places)


def compare(options: argparse.Namespace, places: report.Places, progress: Progress) -> None:
    """Measures what was asked for; every row is written as soon as it is known."""
    key, command = f"{datetime.now():%Y-%m-%d %H:%M:%S}", " ".join(("python -m", PACKAGE, *sys.argv[1:]))

    def keep(change: Callable[[Results], Results]) -> None:
        known = read(places.figures).with_run(key, Run(command, machine()))
        places.figures.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(places.figures, json.dumps(schema.write(change(known)), indent=1) + "\n")

    for model in options.models:
        for recipe in dict.fromkeys(("fp32", *options.recipes)):  # what all ratios are to
            for row in measure_rows(model, recipe, options.targets, options.work, options.rounds, key, progress):
                keep(partial(Results.with_row, row=row))
                print(f"{' '.join(row.key)}: {report.tell(row)}", flush=True)
        if options.peers:
            progress(f"{model}: other toolchains", None)
            keep(partial(Results.with_peers, peers=measure_peers(model, options.work, options.rounds, key)))


def measure_rows(
    model: str, recipe: str, targets: Sequence[str], work: Path, rounds: int, run: str, progress: Progress
) -> Iterator[Row]:
    """The rows of one recipe, after converting what is not in the work folder yet, fp32 included.

    Args:
        model: One of `conversions.MODELS`, or whatever else `edgevlm convert` takes.
        recipe: A built-in one.
        targets: A row each.
        work: Folder of the bundles.
        rounds: How often each component is timed.
        run: Key that the rows will bear.
        progress: Told the stages.
    """
    floats = conversions.convert(model, "fp32", targets, work, progress)
    made = conversions.convert(model, recipe, targets, work, progress)
    programs = catalogue.load(conversions.locate_model(model, work)).programs
    name = catalogue.short_name(model)
    for target in targets:
        progress(f"{name}, {target}, {recipe}: measuring", None)
        bundle, refused = made[target].bundle, made[target].refused
        figures = measure(bundle, floats[target].bundle, programs, rounds) if bundle else None
        yield Row(name, target, recipe, run, figures, refused)


def measure_peers(model: str, work: Path, rounds: int, run: str) -> Peers:
    """All toolchains' image encoders in one fresh process."""
    found = in_fresh_process(f"{PACKAGE}.peers", model, str(work), str(rounds), environment=ONE_THREAD)
    return schema.read(
        Peers, {"model": catalogue.short_name(model), "run": run, **found}, where=f"{PACKAGE}.peers", error=InputError
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m {PACKAGE}", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="folder of the checkpoints, bundles and peers' files")
    for name, known, kind in (
        ("models", conversions.MODELS, "MODEL"),
        ("targets", CONVERTERS, "TARGET"),
        ("recipes", BUILTIN, "RECIPE"),
    ):
        parser.add_argument(
            f"--{name}",
            nargs="+",
            metavar=kind,
            choices=None if name == "models" else list(known),
            default=list(known),
            help=f"default all: {', '.join(known)}",
        )
    parser.add_argument("--peers", action="store_true", help="other toolchains on the models' image encoders, too")
    parser.add_argument("--rounds", type=int, default=30, metavar="N", help="runs of each component, default 30")
    parser.add_argument("--report-only", action="store_true", help="measure nothing")
    parser.add_argument("--keep", action="store_true", help="write results and page into the checkout instead of WORK")
    return parser


if __name__ == "__main__":
    main()
