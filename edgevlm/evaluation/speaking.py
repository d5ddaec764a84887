"""`evaluate` of a model that talks: it is asked benchmarks' questions, and its answers are judged by their rules."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgevlm.bundle.bundle import Bundle
from edgevlm.bundle.manifest import SUFFIX, is_bundle
from edgevlm.data.dataset import Dataset
from edgevlm.data.questions import Questions, is_questions, open_questions, to_describe
from edgevlm.data.sources import open_data
from edgevlm.errors import DataError, InputError
from edgevlm.evaluation.asking import MOST_TOKENS, PROMPTS, Asked, Choosing, ask_questions
from edgevlm.evaluation.judging import Judged, judge
from edgevlm.inference.embedder import BundleModel
from edgevlm.inference.generator import Generator
from edgevlm.models import catalogue
from edgevlm.process.paths import user_path
from edgevlm.process.progress import Progress, silent
from edgevlm.process.writing import made, output_errors

Data = str | Path | Dataset | Questions


@dataclass(frozen=True)
class AnsweredSet:
    """What was measured on one set of questions.

    Attributes:
        name: What a user called it.
        form: Of its file; `captions` of pictures to be described.
        prompt: What the model was asked with.
        judged: What its answers are worth.
        answers: Where they are kept; None where they are not.
        seconds: Wall time; what was kept from before took none.
    """

    name: str
    form: str
    prompt: str
    judged: Judged
    answers: str | None
    seconds: float


@dataclass(frozen=True)
class AnswerEvaluation:
    """What a model that talks was asked, and what its answers are worth.

    Attributes:
        model: What a user called it.
        evidence: `reference` for a float model in torch; for a bundle see `edgevlm.bundle.ParityReport`.
        precision: Of the weights.
        sets: One for each set of questions, in the order given.
    """

    model: str
    evidence: str
    precision: str
    sets: tuple[AnsweredSet, ...]


def talks(model: str | Path) -> bool:
    """Whether a bundle, a folder of a checkpoint or a hub id is a model that talks.

    Raises:
        BundleError, CheckpointError: it is damaged, or there is none.
    """
    path = user_path(model)
    if is_bundle(path):
        return Bundle.open(path).manifest.dialogue is not None
    return catalogue.talks(model)


def evaluate_answers(
    model: str | Path,
    data: Data | Mapping[str, Data],
    *,
    images: str | Path | None = None,
    answers: str | Path | None = None,
    prompt: str | None = None,
    choosing: Choosing = "letter",
    max_tokens: int | None = None,
    limit: int | None = None,
    keep: str | Path | None = None,
    max_unreadable: float = 0.01,
    progress: Progress = silent,
) -> AnswerEvaluation:
    """Asks a model that talks, and judges what it says.

    >>> found = edgevlm.evaluate_answers("dist/my-smolvlm-tflite-int8.edgevlm", "coco_pope_random.json", images="val/")
    >>> found.sets[0].judged.yes_no.f1

    Args:
        model: A bundle's folder, or what `edgevlm.convert` takes.
        data: A file of questions (`edgevlm.data.questions` has the forms), or pictures with captions, as
            `edgevlm.data.sources.open_data` takes them; or several of them by name.
        images: Folder of the pictures that a file names.
        answers: The people's answers to VQAv2's questions; where None, VQAv2's file of them beside the questions.
        prompt: In which `{}` stands for the question; LLaVA's of each form where None.
        choosing: Of several options: `letter`, that the model says, or `likelihood`, of each option's text.
        max_tokens: Of an answer; what suits the form where None.
        limit: Number of questions of each set, evenly spread over it; all if None.
        keep: Folder in which each answer is kept as it comes, and from which a run that was stopped goes on.
        max_unreadable: Share of the questions whose picture may be unreadable.
        progress: Told how far it is.

    Raises:
        EdgeVLMError: what is wrong with the question, before the long work starts.
        DataError: more pictures than that are unreadable.
    """
    if any(number is not None and number < 1 for number in (max_tokens, limit)):
        raise InputError(f"expected max_tokens and limit of at least 1, got {max_tokens} and {limit}")
    given = data if isinstance(data, Mapping) else {"": data}
    sets = {name or str(getattr(one, "name", one)): _open(one, images, answers) for name, one in given.items()}
    words = _words(sets)
    progress("opening the model", None)
    with _folder(keep), _open_talker(model) as talker:
        found = []
        for name, one in sets.items():
            how = Asked(
                PROMPTS[one.form] if prompt is None else prompt,
                choosing if one.form == "choice" else "letter",
                MOST_TOKENS[one.form] if max_tokens is None else max_tokens,
                limit,
            )
            file = None if keep is None else Path(keep) / f"{_word(talker.name)}-{words[name]}.jsonl"
            began = time.monotonic()
            said = ask_questions(talker.generator, one, how, file, model=talker.identity, progress=progress)
            judged = judge(one, said)
            if len(judged.skipped) > max_unreadable * len(said):
                raise DataError(
                    f"{name}: more than {max_unreadable:.1%} of the {len(said):,} pictures cannot be read; the first: "
                    f"{next(iter(judged.skipped.values()))}",
                    hint="--max-unreadable allows more",
                )
            seconds = time.monotonic() - began
            found.append(AnsweredSet(name, one.form, how.prompt, judged, None if file is None else str(file), seconds))
        return AnswerEvaluation(talker.name, talker.evidence, talker.precision, tuple(found))


def _open(one: Data, images: str | Path | None, answers: str | Path | None) -> Questions:
    if isinstance(one, Questions):
        return one
    if isinstance(one, str | Path) and is_questions(user_path(one)):
        return open_questions(user_path(one), images=images, answers=answers)
    if isinstance(one, str | Path):
        one = open_data(one, images=None if images is None else Path(images))
    return to_describe(one)


@contextmanager
def _folder(keep: str | Path | None) -> Iterator[None]:
    """Makes the folder of the answers, before the long work."""
    with ExitStack() as held:
        if keep is not None:
            with output_errors(Path(keep)):
                held.enter_context(made(Path(keep), ignored=True))
        yield


def _words(sets: Mapping[str, Questions]) -> dict[str, str]:
    """A part of a file's name for each set: its own, and where another has the same, the beginning of its fingerprint.

    So `a/q.json` and `b/q.json` each have a file, whatever their order.
    """
    words = {name: _word(name) for name in sets}
    counts = Counter(word.casefold() for word in words.values())  # some file systems take Q and q for one
    return {
        name: f"{word}-{sets[name].fingerprint[:8]}" if counts[word.casefold()] > 1 else word
        for name, word in words.items()
    }


def _word(name: str) -> str:
    """A part of a file's name."""
    return re.sub(r"[^\w.+-]+", "-", Path(name).name.removesuffix(SUFFIX)).strip("-.") or "set"


@dataclass(frozen=True)
class _Talker:
    """An open model, and what it is called.

    Attributes:
        identity: What tells it from every other: a bundle's digest, or a checkpoint's fingerprint.
    """

    name: str
    evidence: str
    precision: str
    identity: str
    generator: Generator


@contextmanager
def _open_talker(model: str | Path) -> Iterator[_Talker]:
    path = user_path(model)
    if is_bundle(path):
        bundle = Bundle.open(path)
        with BundleModel(bundle) as opened:
            recipe = bundle.manifest.recipe.name
            yield _Talker(str(path), opened.session.evidence, recipe, bundle.digest, opened.talker)
        return
    from edgevlm.models.talker import Talker

    loaded = catalogue.load_any(model)
    if not isinstance(loaded, Talker):
        raise InputError(f"{model}: expected a model that talks, got one that gives embeddings")
    with loaded.generator as generator:
        yield _Talker(str(model), "reference", "fp32", f"sha256:{catalogue.fingerprint(model)}", generator)
