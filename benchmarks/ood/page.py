"""The study's page in words; every figure in it, and every verdict, comes from the results."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from edgevlm.benchmarks.ood.arms import ARMS, TEXTS
from edgevlm.benchmarks.ood.results import CLAIMS, COLUMNS, TEXT_TITLES, Results, Row, say_mean, verdict

_PAGE = """# Does distilling a teacher's visual space help with classes never trained on?

A reproduction, on rendered scenes, of the claim of "Distilling Large Vision-Language Model with Out-of-Distribution
Generalizability" (Li et al., ICCV 2023, [arXiv 2307.03135](https://arxiv.org/abs/2307.03135)): a student that also learns
the teacher's visual space, and is told what its classes look like, recognises classes that it was never trained on.
This page is made by `python -m edgevlm.benchmarks.ood`, and every figure and verdict on it from the results.

![zero-shot accuracy on unseen classes]({plot})

## Setting
{setting}

## Results
Accuracies in %, {spread}. M_rel and M_neigh: share of pictures that
lie where the teacher puts them, and of their neighbours that are the teacher's (%, higher is better). M_vlalign: pairs of
texts, of {pairs:.0f}, that the student ranks otherwise than the teacher (lower is better). All three on the unseen classes.
{missing}
{table}

## What the paper says or implies, tested
The claims were fixed before the first training, and each is tested seed by seed, with the same pictures and test. A claim
holds or fails where all seeds agree, which chance alone brings about in one of {odds:.0f} cases in either direction; else it
is undecided. Of {tested} claims about nothing, {accidents:.1f} would be decided so by chance. Unless said otherwise a claim is
about zero-shot accuracy on the unseen classes.

{claims}

In the paper, on real photos with CLIP ViT-L/14 as the teacher (means over its five datasets, from the authors' poster),
zero-shot accuracy on unseen classes went from 12.6 % with label texts alone to 21.9 % with visual and vision-language
alignment and to 23.6 % with descriptions too; with five shots from 30.8 % to 41.5 % and 42.2 %.

## To be kept in mind
- Descriptions are oracles: they state exactly the attributes that make a class, in words that the teacher knows. That
  flatters enrichment. The rows with attributes left out, with wrong ones and with another class's say how much of it
  depends on that; what a language model writes about real things should be expected there rather than at the oracle.
- The teacher has seen the unseen classes, {named} pictures of each by name and many like them by description. Unseen is what
  the student was not trained on, as in the paper.
- The spread is over students (weights, training pictures, order), with one teacher and one draw of the classes.
- A class here is a combination of five attributes, all of which the student meets in other combinations. Nothing follows
  for classes with parts that it has never met.
- MSE alone never reads a label text, so it has one training for both kinds of text.

## Cost, and what was cut
{cost}

## Again
    pip install -e ".[distill]"
    python -m edgevlm.benchmarks.ood --out OUT --keep

It may be stopped at any moment, and the same command goes on. `--seeds 1` is a first look, `--arms` chooses arms
({arms}), `--processes` says how many trainings run
side by side, `--report-only` makes this page of what is there. The figures of every training, and the versions of all that
shaped them, are in `benchmarks/results/ood.json`.
"""


def page(results: Results, plot: str) -> str:
    """The page, in Markdown.

    Args:
        results: All that is there; what is missing is said.
        plot: The picture's place, seen from the page.
    """
    seeds = results.seeds
    best = min(10, results.plan.classes // 2)
    return _PAGE.format(
        plot=plot,
        setting="\n".join(_setting(results)),
        spread=f"mean ± standard deviation over the seeds {', '.join(map(str, seeds))}" if len(seeds) > 1 else "one seed",
        pairs=best * (best - 1) / 2,
        missing="".join(_missing(results)),
        table="\n".join(_table(results)),
        odds=2 ** len(seeds),
        tested=len(CLAIMS),
        accidents=len(CLAIMS) * 2 ** (1 - len(seeds)),
        claims="\n".join(_claims(results)),
        named=results.plan.teacher.named,
        cost="\n".join(_cost(results)),
        arms=", ".join(f"`{name}`" for name in ARMS),
    )  # fmt: skip


def _setting(results: Results) -> Iterator[str]:
    plan, teacher = results.plan, results.plan.teacher
    half = plan.classes // 2
    yield (
        f"- {plan.classes} classes with meaningless names, each an exact combination of shape, colour, texture, finish and "
        f"count, in any size, place, style and background. {half} are trained on, {half} are not; chance is {100 / half:.0f} %."
    )
    yield (
        f"- The teacher: `{teacher.image_tower}` with `{teacher.text_tower}`, trained from nothing with CLIP's loss for "
        f"{teacher.epochs} epochs on {teacher.pictures:,} pictures of one group of like objects. {teacher.named * plan.classes:,} "
        f"of them show the {plan.classes} classes and are told by name alone; the others show anything and are told by "
        "attributes, 15 % of them after a word that means nothing. Names are that rare because with many more the teacher "
        "learns them perfectly, and a description has nothing to add; CLIP knows rare names badly, too."
    )
    schedule = plan.schedule
    yield (
        f"- The student: `{plan.student}` with the teacher's text tower; {plan.pictures} pictures of each of the {half} "
        f"classes, {schedule.epochs} epochs in batches of {schedule.batch_size}, AdamW at {schedule.learning_rate:g}; losses, "
        "temperatures and augmentation are those of the shipped recipe `ood`, and the training is `edgevlm.distill`'s."
    )
    yield (
        '- Texts: "a photo of a NAME", or "a photo of a NAME . DESCRIPTION", in training and in the test alike. '
        f"The test: {plan.tested} pictures of each class; the probe learns from {plan.shots} of them, in five draws."
    )


def _missing(results: Results) -> Iterator[str]:
    lacking = [
        f"{name} {seed}"
        for name in ARMS
        for seed in results.seeds
        if not any(run["arm"] == name and run["seed"] == seed for run in results.runs)
    ]
    if lacking:
        yield f"\n**Unfinished: {len(lacking)} trainings are missing ({', '.join(lacking)}).**\n"


def _table(results: Results) -> Iterator[str]:
    yield f"| losses | {' | '.join(COLUMNS.values())} |"
    yield f"|---|{'---:|' * len(COLUMNS)}"
    for text in TEXTS:
        yield f"| **{TEXT_TITLES[text]}** |{' |' * len(COLUMNS)}"
        yield from (_line(row) for row in results.arms.values() if row.text == text)
        yield _line(results.teacher[text])


def _line(row: Row) -> str:
    cells = []
    for column in COLUMNS:
        values = list(row.figures.get(column, {}).values())
        cells.append(say_mean(values, 1 if column == "inversions" else 100) if values else "")
    return f"| {row.title} | {' | '.join(cells)} |"


def _claims(results: Results) -> Iterator[str]:
    yield "| claim | difference in points | seeds for it | verdict |"
    yield "|---|---:|---:|---|"
    for claim in CLAIMS:
        found = claim.test(results)
        if found:
            agreeing = sum(difference > 0 for difference in found)
            said = verdict(found)
            shown = f"**{said}**" if said != "holds" else said
            yield f"| {claim.says} | {say_mean(found, signed=True)} | {agreeing} of {len(found)} | {shown} |"


def _cost(results: Results) -> Iterator[str]:
    minutes = [run["cpu_seconds"] / 60 for run in results.runs if run.get("resumed_at") == 0]
    host, teacher = results.machine, results.teacher_made
    if teacher.get("resumed_at") == 0:
        yield f"- The teacher's training: {teacher['cpu_seconds'] / 60:.0f} minutes of CPU time, one thread."
    if minutes:
        yield (
            f"- {len(results.runs)} trainings with their tests, {statistics.median(minutes):.1f} minutes of CPU time each (median; one "
            f"thread; {host['processor']}, {host['cores']} cores, where other work ran at the same time): "
            f"{len(results.runs) * statistics.median(minutes) / 60:.1f} hours one after the other, half of that on two free cores."
        )
    yield (
        "- Cut to fit a small machine: the students' size, pictures and epochs; one teacher and one draw of classes; the "
        "paper's ResNet-18 and ViT-B/32 students and real photos; its few-shot fine-tuning, for which a linear probe stands; "
        "its caption loss; descriptions by a language model; and any search for better weights or rates."
    )
