"""`edgevlm evaluate`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from edgevlm.commands.options import (
    PATH,
    Whole,
    as_json,
    max_unreadable,
    refuse_given,
    refuse_unwritable,
    whole_numbers,
)
from edgevlm.errors import InputError
from edgevlm.process import terminal

if TYPE_CHECKING:
    from edgevlm.evaluation.asking import Choosing
    from edgevlm.evaluation.evaluation import Evaluation
    from edgevlm.evaluation.few_shot import FewShot
    from edgevlm.evaluation.index import Index
    from edgevlm.evaluation.judging import Share
    from edgevlm.evaluation.measurement import SetEvaluation
    from edgevlm.evaluation.retrieval import Recall
    from edgevlm.evaluation.scene_zero_shot import SceneAccuracy
    from edgevlm.evaluation.speaking import AnswerEvaluation

E = TypeVar("E", "Evaluation", "AnswerEvaluation")
T = TypeVar("T")

_NAMED = re.compile(r"(?P<name>[\w .+-]+)=(?P<spec>.+)")
_CLASSES_SHOWN = 10
_FEW = 5
_SKIPPED_SHOWN = 5
_NOTHING = "–"
_KEPT = Path("evaluated")
_OF_ENCODERS = ("templates", "descriptions", "shots", "attributes", "index", "threshold", "teacher")
_OF_TALKERS = ("answers", "prompt", "choose", "max_tokens", "keep")
"""Parameters of `evaluate`."""


@click.command()
@click.argument("model")
@click.option(
    "--data", "data", multiple=True, required=True, metavar="[NAME=]DATA",
    help="Image folder, captions .json, WebDataset .tar shards, scenes:… or objects:…; questions; may repeat.",
)  # fmt: skip
@click.option(
    "--template",
    "templates",
    multiple=True,
    help='Prompt around each label, "a photo of a {}" if left out; may repeat.',
)
@click.option("--descriptions", type=PATH, help="Sentences about the labels, from edgevlm enrich.")
@click.option("--shots", help='Pictures of each class for a linear probe, e.g. "1,5".')
@click.option("--seeds", type=Whole(), default=5, show_default=True, help="Draws of these pictures.")
@click.option("--attributes", is_flag=True, help="Tell rendered scenes from wrong descriptions, by attribute.")
@click.option(
    "--index", is_flag=True, help="Search in int8 and binary codes of the embeddings, for an index on a device."
)
@click.option(
    "--threshold", is_flag=True, help="Find the cosine from which on a picture shows one of the labels at all."
)
@click.option("--teacher", help="Model or bundle to compare the embeddings with.")
@click.option("--limit", type=Whole(), help="Pictures of each data set, evenly spread over it.")
@click.option("--images", type=PATH, help="Folder of the pictures that a captions file names.")
@click.option("--answers", type=PATH, help="People's answers to VQAv2's questions, if not beside them.")
@click.option("--prompt", help="What a model that talks is asked with; {} is the question.")
@click.option(
    "--choose", type=click.Choice(("letter", "likelihood")),
    help="How it chooses an option: it says its letter, or the likeliest text counts.",
)  # fmt: skip
@click.option("--max-tokens", type=Whole(), help="Of each of its answers.")
@click.option(
    "--keep", type=PATH, help="Folder of its answers, from which a stopped run goes on; evaluated if left out."
)
@max_unreadable
@click.option("--out", type=PATH, help="Also write the JSON to this file.")
@as_json
def evaluate(
    model: str,
    data: tuple[str, ...],
    templates: tuple[str, ...],
    descriptions: Path | None,
    shots: str | None,
    seeds: int,
    attributes: bool,
    index: bool,
    threshold: bool,
    teacher: str | None,
    limit: int | None,
    images: Path | None,
    answers: Path | None,
    prompt: str | None,
    choose: Choosing | None,
    max_tokens: int | None,
    keep: Path | None,
    max_unreadable: float,
    out: Path | None,
    as_json: bool,
) -> None:
    """Measure how good MODEL, or a bundle, is on your pictures.

    Pictures with labels are classified zero-shot, and with --shots by a linear probe; pictures with captions are
    retrieved, and retrieve. Several data sets stand side by side: name them, such as seen and unseen classes.

    A bundle is run as it ships, and the first line says what that proves: host-runtime (the target's own, here),
    program-semantics (each op as it is specified) or device; a model in torch is the reference.

    A model that talks is asked questions, in the files of VQAv2, GQA, POPE, ChartQA, DocVQA (.json) and of MMBench and
    SEED (.tsv), or describes pictures that have captions; each answer is judged by the benchmark's own rule, and kept.

    To train on a few pictures of new classes: edgevlm distill --student MODEL --few-shot DATA.

    \b
    Examples:
      edgevlm evaluate my-student --data photos/
      edgevlm evaluate dist/my-student-tflite-fp16.edgevlm --data coco_val.json --images val2017
      edgevlm evaluate my-student --data seen=photos/ --data unseen=other/ --descriptions both.json --shots 1,5
      edgevlm evaluate my-student --data photos/ --teacher openai/clip-vit-base-patch32 --out report.json
      edgevlm evaluate dist/my-student-tflite-fp16.edgevlm --data photos/ --threshold
      edgevlm evaluate edgevlm-student --data scenes:combinations:2000:1:held-out --index
      edgevlm evaluate dist/my-smolvlm-tflite-int8.edgevlm --data coco_pope_random.json --images val2014
      edgevlm evaluate my-smolvlm --data mmbench_dev_en.tsv --choose likelihood --limit 500
      edgevlm evaluate edgevlm-student --attributes --data seen=scenes:train:500:1:held-out \\
        --data unseen=scenes:combinations:500:1:held-out --data styles=scenes:styles:500:1:held-out
    """
    from edgevlm.evaluation.evaluation import evaluate as measure
    from edgevlm.evaluation.speaking import evaluate_answers, talks

    numbers = _parse_shots(shots)
    if out is not None:
        refuse_unwritable(out)
    if talks(model):
        refuse_given(_OF_ENCODERS, f"models that give embeddings, and {model} talks")
        with terminal.progress_bar() as progress:
            asked = evaluate_answers(
                model,
                _parse_data(data),
                images=images,
                answers=answers,
                prompt=prompt,
                choosing=choose or "letter",
                max_tokens=max_tokens,
                limit=limit,
                keep=keep or _KEPT,
                max_unreadable=max_unreadable,
                progress=progress,
            )
        _tell(asked, out, as_json, _show_answers)
        return
    refuse_given(_OF_TALKERS, f"models that talk, and {model} gives embeddings")
    with terminal.progress_bar() as progress:
        found = measure(
            model,
            _parse_data(data),
            templates=templates or None,
            descriptions=descriptions,
            shots=numbers,
            seeds=seeds,
            attributes=attributes,
            index=index,
            threshold=threshold,
            teacher=teacher,
            limit=limit,
            images=images,
            max_unreadable=max_unreadable,
            progress=progress,
        )
    _tell(found, out, as_json, _show)


def _tell(found: E, out: Path | None, as_json: bool, show: Callable[[E], None]) -> None:
    from edgevlm import schema

    if out is not None:
        _write(out, terminal.json_text(schema.write(found)))
        terminal.say(f"wrote {out}", err=True)
    if as_json:
        terminal.print_json(schema.write(found))
    else:
        show(found)


def _parse_data(data: Sequence[str]) -> dict[str, str]:
    """Name -> what to open. A path that exists is not taken apart, whatever its name."""
    found: dict[str, str] = {}
    for text in data:
        match = None if Path(text).exists() else _NAMED.fullmatch(text)
        name, spec = (match["name"], match["spec"]) if match else (text, text)
        if name in found:
            raise InputError(f"--data: {name!r} is given twice", hint="name them: --data seen=… --data unseen=…")
        found[name] = spec
    return found


def _parse_shots(text: str | None) -> tuple[int, ...]:
    return () if text is None else tuple(sorted(set(whole_numbers("--shots", text, "1,5"))))


def _write(path: Path, text: str) -> None:
    from edgevlm.process.writing import output_errors

    with output_errors(path):
        path.write_text(text + "\n", encoding="utf-8")  # in place: it may be a device, such as /dev/stdout


def _show(found: Evaluation) -> None:
    rows = [row for row in _rows(found.sets) if any(cell != _NOTHING for cell in row[1:])]
    terminal.say(f"{found.model}: {found.precision}, evidence: {found.evidence}")
    if found.templates and any(each.zero_shot for each in found.sets):
        terminal.say(f"prompts: {'; '.join(found.templates)}")
    terminal.table(None, ("", *(f">{each.name}" for each in found.sets)), rows)
    _show_attributes(found.sets)
    for each in found.sets:
        if each.index:
            _show_index(each.name, each.index)
        _show_classes(each)
        for note in each.notes:
            terminal.say(f"{each.name}: {note}")
        _show_skipped(each.name, each.skipped)


def _show_answers(found: AnswerEvaluation) -> None:
    sets = found.sets
    kinds = sorted({kind for each in sets for kind in each.judged.by_category})
    words = [each.judged.captions for each in sets]
    yes = [each.judged.yes_no for each in sets]
    rows = [
        _row("questions", sets, lambda each: f"{each.judged.total.questions:,}"),
        _row("judged by", sets, lambda each: each.judged.rule),
        _row("score", [None if each.form == "captions" else each.judged.total for each in sets], _interval),
        *(_row(f"  {kind}", [each.judged.by_category.get(kind) for each in sets], _interval) for kind in kinds),
        _row("right in every order of the options", [each.judged.circular for each in sets], _interval),
        _row("CIDEr-D", [each.judged.total if each.form == "captions" else None for each in sets], _of_ten),
        _row("BLEU-4", words, lambda found: f"{100 * found.bleu4:.1f}"),
        _row("ROUGE-L", words, lambda found: f"{100 * found.rouge_l:.1f}"),
        _row("precision / recall of yes", yes, lambda found: f"{found.precision:.1%} / {found.recall:.1%}"),
        _row("F1", yes, lambda found: _percent(found.f1)),
        _row("says yes", yes, lambda found: _percent(found.yes_ratio)),
        _row("letters said", [each.judged.letters or None for each in sets], _letters),
        _row("answers that name no option", [each.judged.unread or None for each in sets], lambda count: f"{count:,}"),
    ]
    terminal.say(f"{found.model}: {found.precision}, evidence: {found.evidence}")
    shown = [row for row in rows if any(cell != _NOTHING for cell in row[1:])]
    terminal.table(None, ("", *(f">{each.name}" for each in sets)), shown)
    for each in sets:
        prompt = each.prompt.replace("\n", "\\n")
        terminal.say(f"{each.name}: asked with {prompt!r}; answers: {each.answers}")
        _show_skipped(each.name, each.judged.skipped)


def _interval(share: Share) -> str:
    return f"{share.score:.1%} ({share.low:.1%} to {share.high:.1%})"


def _of_ten(share: Share) -> str:
    """CIDEr-D as papers print it: a hundred times the mean of what is 0..10."""
    return f"{100 * share.score:.1f} ({100 * share.low:.1f} to {100 * share.high:.1f})"


def _letters(letters: Mapping[str, int]) -> str:
    return ", ".join(f"{letter} {count:,}" for letter, count in letters.items())


def _rows(sets: Sequence[SetEvaluation]) -> list[tuple[str, ...]]:
    """A row a measure, a column a dataset; chance below each group of measures."""
    zero = [each.zero_shot for each in sets]
    least = [each.threshold for each in sets]
    shots = sorted({probe.shots for each in sets for probe in each.few_shot})
    first_probe = [next(iter(each.few_shot), None) for each in sets]
    words = [each.retrieval for each in sets]
    pairs = [each.diagnostics for each in sets]
    near = _joined(pair.neighbours_k for pair in pairs if pair)
    best = _joined(pair.inversions_k for pair in pairs if pair)
    return [
        _row("pictures", sets, lambda each: f"{each.pictures:,}"),
        _row("labels to choose from", zero, lambda z: f"{z.classes:,}"),
        _row("zero-shot top-1", zero, lambda z: _percent(z.top1)),
        _row("zero-shot top-5", zero, lambda z: _percent(z.top5)),
        _row("zero-shot, mean per class", zero, lambda z: _percent(z.mean_per_class)),
        _row("  the teacher's top-1", [each.teacher_zero_shot for each in sets], lambda z: _percent(z.top1)),
        _row("  chance", zero, lambda z: _percent(z.chance)),
        _row("least cosine of a label that fits", least, lambda t: f"{t.cosine:.4f}"),
        _row("  keeps, of pictures whose label is there", least, lambda t: _percent(t.kept)),
        _row("  refuses, of those whose label is not", least, lambda t: _percent(t.refused)),
        _row("  area under the curve of all such", least, lambda t: f"{t.auroc:.3f}"),
        *(_row(f"{k}-shot probe, mean per class", [_probe(each, k) for each in sets], _spread) for k in shots),
        _row("  chance", first_probe, lambda probe: _percent(probe.chance)),
        _row("different captions", words, lambda r: f"{r.texts:,}"),
        _row("image → text, recall at 1 / 5 / 10", words, lambda r: _recalls(r.image_to_text)),
        _row("  chance", words, lambda r: _chances(r.image_to_text)),
        _row("text → image, recall at 1 / 5 / 10", words, lambda r: _recalls(r.text_to_image)),
        _row("  chance", words, lambda r: _chances(r.text_to_image)),
        _row("M_rel: nearest to its own place at the teacher's", pairs, lambda d: _percent(d.relation)),
        _row("  chance", pairs, lambda d: _percent(None if d.relation is None else d.relation_chance)),
        _row(f"M_neigh({near}): neighbours shared with the teacher", pairs, lambda d: _percent(d.neighbours)),
        _row("  chance", pairs, lambda d: _percent(d.neighbours_chance)),
        _row(
            f"M_vlalign({best}): its best texts' pairs out of order, 0 is best",
            pairs,
            lambda d: _number(d.inversions),
        ),
        _row("  chance", pairs, lambda d: _number(None if d.inversions is None else d.inversions_chance)),
    ]


def _row(title: str, of: Iterable[T | None], show: Callable[[T], str]) -> tuple[str, ...]:
    return title, *(_NOTHING if one is None else show(one) for one in of)


def _probe(each: SetEvaluation, shots: int) -> FewShot | None:
    return next((probe for probe in each.few_shot if probe.shots == shots), None)


def _show_attributes(sets: Sequence[SetEvaluation]) -> None:
    from edgevlm.evaluation.scene_zero_shot import CANDIDATES, VARIED

    measured = [(each.name, each.attributes) for each in sets if each.attributes]
    if not measured:
        return
    scenes = [found for _, found in measured]
    rows = [
        _row(f"among {CANDIDATES} descriptions", scenes, lambda found: f"{found.top1:.1%} ({1 / CANDIDATES:.0%})"),
        _row("among all that differ in one attribute", scenes, lambda found: _percent(found.top1_one_attribute)),
    ]
    for name in VARIED:
        rows.append(_row(f"  in the {name}", scenes, partial(_show_attribute, name)))
    title = "The true description scores highest (by chance)"
    terminal.table(title, ("", *(f">{name}" for name, _ in measured)), rows)


def _show_attribute(name: str, found: SceneAccuracy) -> str:
    return f"{found.by_attribute[name]:.1%} ({found.chance[name]:.0%})" if name in found.chance else _NOTHING


def _show_index(name: str, index: Index) -> None:
    rows = [
        (
            form.name,
            f"{form.embedding_bytes:,}",
            _percent(form.kept_nearest),
            _percent(form.kept_neighbours),
            _NOTHING if form.text_to_image is None else " / ".join(map(_percent, form.text_to_image)),
        )
        for form in index.forms
    ]
    near = f">{index.neighbours_k} nearest kept"
    columns = ("stored as", ">bytes a picture", ">nearest kept", near, ">text → image, at 1 / 5 / 10")
    terminal.table(f"{name}: an index of {index.pictures:,} pictures", columns, rows)


def _show_skipped(name: str, skipped: Mapping[str, str]) -> None:
    if not skipped:
        return
    pictures = "picture" if len(skipped) == 1 else "pictures"
    terminal.say(f"{name}: {len(skipped):,} unreadable {pictures} skipped:")
    for reason in list(skipped.values())[:_SKIPPED_SHOWN]:
        terminal.say(f"  {reason}")
    if len(skipped) > _SKIPPED_SHOWN:
        terminal.say(f"  and {len(skipped) - _SKIPPED_SHOWN:,} more; --json lists all")


def _show_classes(each: SetEvaluation) -> None:
    if each.zero_shot is None:
        return
    if len(each.zero_shot.by_class) > 1 and each.pictures < _FEW * len(each.zero_shot.by_class):
        terminal.say(f"{each.name}: fewer than {_FEW} pictures a class, too few for accuracy by class (--json has it)")
        return
    classes = sorted(each.zero_shot.by_class, key=lambda found: found.accuracy)
    few = f", the {_CLASSES_SHOWN} hardest of {len(classes)}" if len(classes) > _CLASSES_SHOWN else ""
    rows = [
        (found.label, f"{found.pictures:,}", _percent(found.accuracy), found.mistaken_for or "")
        for found in classes[:_CLASSES_SHOWN]
    ]
    terminal.table(f"{each.name}: by class{few}", ("class", ">pictures", ">accuracy", "mostly taken for"), rows)


def _joined(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, dict.fromkeys(numbers)))


def _percent(share: float | None) -> str:
    return _NOTHING if share is None else f"{share:.1%}"


def _spread(probe: FewShot) -> str:
    spread = "" if probe.spread is None else f" ± {100 * probe.spread:.1f}"
    return f"{probe.mean_per_class:.1%}{spread}"


def _number(value: float | None) -> str:
    return _NOTHING if value is None else f"{value:.1f}"


def _recalls(recall: Recall) -> str:
    return " / ".join(map(_percent, (recall.at_1, recall.at_5, recall.at_10)))


def _chances(recall: Recall) -> str:
    return " / ".join(map(_percent, recall.chance))
