"""Mutants of sound ML Programs against the evaluator: each is refused with a clear error, or answers what it says.

python -m edgevlm.benchmarks.fuzzing --count 20000 --seed 0 [--keep | --json FILE]
python -m edgevlm.benchmarks.fuzzing --seed 0 --only 4711       one mutant again; --save FOLDER writes it there
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch

from edgevlm.benchmarks.fuzzing import corpus, summaries
from edgevlm.benchmarks.fuzzing.trials import Trials
from edgevlm.benchmarks.fuzzing.workers import Limits, run
from edgevlm.benchmarks.measuring import keep, make_parser
from edgevlm.process import terminal


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--count", type=int, default=20_000, metavar="N", help="mutants, default 20000")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, metavar="NUMBER", help="this mutant alone")
    parser.add_argument("--save", type=Path, metavar="FOLDER", help="with --only: write the package there, run nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    specimens = corpus.build()
    if options.only is not None and options.save is not None:
        options.save.mkdir(parents=True)
        mutant, mutators, _ = Trials(specimens, options.seed, options.save).make(options.only)
        mutant.write(options.save / "mutant.mlpackage", options.save / "sound")
        print(f"{mutant.specimen.name}: {', '.join(mutators)}: in {options.save}")
        return
    numbers = range(options.count) if options.only is None else (options.only,)
    limits = Limits()
    outcomes = []
    begin = time.perf_counter()
    with terminal.progress_bar() as progress:
        for outcome in run(specimens, options.seed, numbers, limits):
            outcomes.append(outcome)
            progress("mutants", len(outcomes) / len(numbers))
            if outcome.is_finding or options.only is not None:
                print(summaries.tell(outcome), flush=True)
    seconds = time.perf_counter() - begin
    figures = summaries.figures(outcomes, corpus.digest(specimens), seconds)
    print(summaries.text(figures))
    if options.keep or options.json:
        command = f"python -m edgevlm.benchmarks.fuzzing --count {options.count} --seed {options.seed}"
        keep("fuzzing", figures, command, options.json)
    sys.exit(bool(figures["findings"]))


if __name__ == "__main__":
    main()
