"""The study, from nothing to its table; stopped, the same command goes on.

    python -m edgevlm.benchmarks.ood --out OUT                  all of it
    python -m edgevlm.benchmarks.ood --out OUT --seeds 1        a first look
    python -m edgevlm.benchmarks.ood --out OUT --report-only    the table and the plot of what is there

With --keep the table, the plot and every run's figures are written into the checkout.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from edgevlm.benchmarks.measuring import plain_errors
from edgevlm.benchmarks.ood import report
from edgevlm.benchmarks.ood.arms import ARMS
from edgevlm.benchmarks.ood.side_by_side import make_runs
from edgevlm.benchmarks.ood.study import Plan, Run, is_done, make_teacher, open_study
from edgevlm.process import terminal


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m edgevlm.benchmarks.ood",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the teacher and the results")
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="trainings of each arm, default 5")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), metavar="ARM", help=", ".join(ARMS))
    parser.add_argument("--processes", type=int, default=2, metavar="N", help="trainings at a time, default 2")
    parser.add_argument("--report-only", action="store_true", help="train nothing")
    parser.add_argument("--keep", action="store_true", help="write the report into the checkout instead of OUT/report")
    options = parser.parse_args()
    if options.seeds < 1 or options.processes < 1:
        parser.error("--seeds and --processes: expected 1 or more")
    with plain_errors():
        if not options.report_only:
            study(options.out, Plan(), options.arms, options.seeds, options.processes)
        report.write(options.out, report.IN_CHECKOUT if options.keep else report.beside(options.out))


def study(out: Path, plan: Plan, arms: list[str], seeds: int, processes: int) -> None:
    """Trains and measures what is not done yet; all arms with one seed before the next."""
    open_study(out, plan)
    with terminal.progress_bar() as progress:
        make_teacher(out, plan, progress)
        runs = [Run(arm, seed) for seed in range(seeds) for arm in arms]
        make_runs(out, plan, [run for run in runs if not is_done(out, run)], processes, progress)


if __name__ == "__main__":
    main()
