"""Asks a model that talks the questions of a benchmark, and keeps each answer, so that a stopped run goes on.

    {"edgevlm_answers": 1, "model": "sha256:...", "data": "...", "prompt": "{}\\nAnswer ...", ...}
    {"key": "262148000", "answer": "down"}
    {"key": "262148001", "error": "a.jpg: cannot be read"}

The first line says what was asked of whom: with other answers none of these can be compared.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgevlm import schema
from edgevlm.data.questions import LETTERS, Form, PictureQuestion, Questions
from edgevlm.errors import ImageError, InputError, OutputError
from edgevlm.evaluation.answers import spread
from edgevlm.inference.generator import Generator
from edgevlm.process.locking import locked
from edgevlm.process.progress import Progress
from edgevlm.process.writing import output_errors

Choosing = Literal["letter", "likelihood"]
"""How one of several options is chosen: by the letter that the model says, or by how probable each option's text is."""
VERSION = 1
_SHORT = "{}\nAnswer the question using a single word or phrase."
PROMPTS: Mapping[Form, str] = {
    "vqa": _SHORT,
    "gqa": _SHORT,
    "pope": _SHORT,
    "chartqa": _SHORT,
    "docvqa": _SHORT,
    "choice": "{}\nAnswer with the option's letter from the given choices directly.",
    "captions": "{}",
}
"""What LLaVA 1.5 is asked with (https://arxiv.org/abs/2310.03744), and most models since."""
MOST_TOKENS: Mapping[Form, int] = {**dict.fromkeys(PROMPTS, 16), "docvqa": 32, "captions": 64}
_ELSEWHERE = "name another folder with --keep, or remove this file"
_UNFIT = (
    "change each such question, or take it out of the file; for longer ones convert the model with a longer --context"
)
_BEHIND_A_LETTER = ("", ".", ")", ":", ",")


@dataclass(frozen=True)
class Asked:
    """How questions are asked.

    Attributes:
        prompt: In which `{}` stands for the question.
        choosing: Of several options.
        max_tokens: Of an answer.
        limit: How many questions, evenly spread over all; None asks all.
    """

    prompt: str
    choosing: Choosing = "letter"
    max_tokens: int = 16
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.prompt.count("{}") != 1:
            raise InputError(f"expected a prompt in which {{}} stands once for the question, got {self.prompt!r:.80}")


def ask_questions(
    talker: Generator, data: Questions, how: Asked, path: Path | None, *, model: str, progress: Progress
) -> dict[str, str | ImageError]:
    """The answer to each question, or why its picture cannot be read; those that are kept already are not asked again.

    Pictures are encoded once where questions about one follow each other.

    Args:
        talker: An open bundle, or the float original.
        data: The questions.
        how: They are asked.
        path: File of the answers, which each is added to as it comes; None keeps none.
        model: What tells this model from every other: a bundle's digest, or a checkpoint's fingerprint.
        progress: Told how far it is.

    Raises:
        OutputError: the file holds the answers of another model, or to other questions, or cannot be written; or
            another run keeps its answers in it.
        InputError: questions do not fit the model's context, or have the token that stands for a picture in them:
            before the first is asked, where their words alone tell.
    """
    identity = {
        "edgevlm_answers": VERSION,
        "model": model,
        "data": data.fingerprint,
        "prompt": how.prompt,
        "choosing": how.choosing,
        "max_tokens": how.max_tokens,
    }
    rows = spread(len(data), how.limit)
    _refuse_unfit(talker, data, [data[row] for row in rows], how, progress)
    with _opened(path, identity) as (keep, found):
        shown: tuple[str, Any] | None = None
        for done, row in enumerate(rows):
            question = data[row]
            if question.key in found:
                continue
            progress(f"{data.name}: {done:,} of {len(rows):,} questions", done / len(rows))
            try:
                if shown is None or shown[0] != question.picture:
                    shown = question.picture, data.picture(row)
                answer = _answer(talker, shown[1], question, how)
                found[question.key] = answer
                line = {"key": question.key, "answer": answer}
            except ImageError as error:
                found[question.key] = error
                line = {"key": question.key, "error": error.message}
            except InputError as error:
                hint = _UNFIT if type(error) is InputError else error.hint
                raise type(error)(f"{data.name}: question {question.key}: {error.message}", hint=hint) from error
            keep(line)
        return {data[row].key: found[data[row].key] for row in rows}


def said_letter(answer: str, question: PictureQuestion) -> str | None:
    """The option that an answer names: by its letter at the beginning or in brackets, or by its text alone.

    None where it names none, or several: such an answer is wrong. (MMBench asks another language model then.)
    """
    letters = LETTERS[: len(question.options)]
    text = answer.strip()
    if text and text[0] in letters and text[1:2] in _BEHIND_A_LETTER:  # a blank behind would be an article's
        return text[0]
    named = {letter for letter in letters if f"({letter})" in text}
    if not named:
        low = text.lower().strip(" .")
        named = {letter for letter, each in zip(letters, question.options, strict=True) if each.lower() == low}
    return named.pop() if len(named) == 1 else None


def _refuse_unfit(
    talker: Generator, data: Questions, questions: Sequence[PictureQuestion], how: Asked, progress: Progress
) -> None:
    """Refuses all questions at once that cannot be asked: a file without them is another, and asked from the start."""
    known: dict[tuple[str, tuple[str, ...]], InputError | None] = {}
    unfit: list[tuple[str, InputError]] = []
    progress(f"{data.name}: reading {len(questions):,} questions", None)
    for question in questions:
        put = words(talker, question, how)
        if put not in known:
            known[put] = _what_is_unfit(talker, *put)
        if (found := known[put]) is not None:
            unfit.append((question.key, found))
    if unfit:
        key, first = unfit[0]
        raise InputError(
            f"{data.name}: {len(unfit):,} of {len(questions):,} questions cannot be asked, the first is {key}: "
            f"{first.message}",
            hint=_UNFIT,
        ) from first


def _what_is_unfit(talker: Generator, text: str, options: Sequence[str]) -> InputError | None:
    try:
        talker.refuse_unfit(text, options)
    except InputError as error:
        return error
    return None


def words(talker: Generator, question: PictureQuestion, how: Asked) -> tuple[str, tuple[str, ...]]:
    """What a model is asked, and the options that are scored behind it; none where it is to say the answer."""
    text, options = question.text or talker.dialogue.describe, question.options
    if options and how.choosing == "letter":
        named = "\n".join(f"{letter}. {each}" for letter, each in zip(LETTERS, options, strict=False))
        text, options = f"{question.text}\n{named}", ()
    return how.prompt.replace("{}", text), options


def _answer(talker: Generator, picture: Any, question: PictureQuestion, how: Asked) -> str:
    """What the model says, or the letter of the likeliest option."""
    text, options = words(talker, question, how)
    if options:
        likely = talker.score(picture, text, options)
        lengths = [len(talker.tokenizer.pieces(each)) for each in options]
        return LETTERS[max(range(len(options)), key=lambda place: likely[place] / lengths[place])]
    return talker.generate(picture, text, max_tokens=how.max_tokens).text.strip()


@contextmanager
def _opened(
    path: Path | None, identity: Mapping[str, Any]
) -> Iterator[tuple[Callable[[Mapping[str, str]], None], dict[str, str | ImageError]]]:
    """What keeps an answer, and those that are kept; a last line that a killed run tore is cut off."""
    if path is None:
        yield lambda line: None, {}
        return
    lock = path.with_name(f".{path.name}.lock")
    busy = f"{path}: another edgevlm evaluate keeps its answers in this file"
    with ExitStack() as held, output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        held.enter_context(locked(lock, busy, "wait, or name another folder with --keep"))
        lines = _whole_lines(path)
        found = kept_answers(path, identity)
        with path.open("r+" if path.exists() else "w", encoding="utf-8") as file:
            file.seek(sum(map(len, lines)))
            file.truncate()

            def keep(line: Mapping[str, Any]) -> None:
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
                file.flush()

            if not lines:
                keep(identity)
            yield keep, found


def _whole_lines(path: Path) -> list[bytes]:
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    return lines[:-1] if lines and not lines[-1].endswith(b"\n") else lines


def kept_answers(path: Path, identity: Mapping[str, Any]) -> dict[str, str | ImageError]:
    """The answers of a file, by the question's key; a last line that a killed run tore is passed over.

    Args:
        path: The file; there need be none.
        identity: What its first line has to say.

    Raises:
        OutputError: it is no file of answers, or holds others.
    """
    lines = _whole_lines(path)
    found: dict[str, str | ImageError] = {}
    if lines:
        _check(path, _line(path, 1, lines[0]), identity)
    for number, line in enumerate(lines[1:], 2):
        told = _line(path, number, line)
        answer, error, key = told.get("answer"), told.get("error"), told.get("key")
        if not isinstance(key, str) or not isinstance(answer if error is None else error, str):
            raise _other(path, f"line {number} is no answer")
        found[key] = str(answer) if error is None else ImageError(str(error))
    return found


def _line(path: Path, number: int, line: bytes) -> Mapping[str, Any]:
    where = f"{path}: line {number}"
    try:
        value = schema.parse_json(line.decode("utf-8"), where=where, error=OutputError, hint=_ELSEWHERE)
    except UnicodeDecodeError as error:
        raise _other(path, f"line {number} is no UTF-8") from error
    if not isinstance(value, Mapping):
        raise _other(path, f"line {number} is no object")
    return value


def _check(path: Path, kept: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
    """Refuses answers to other questions, or of another model."""
    if "edgevlm_answers" not in kept:
        raise _other(path, "the first line does not say what was asked")
    differing = [key for key, value in identity.items() if kept.get(key) != value]
    if differing:
        raise OutputError(
            f"{path}: holds answers with another {', '.join(differing)}: expected "
            f"{', '.join(f'{key} {identity[key]!r:.60}' for key in differing)}",
            hint=f"name the data, as in --data NAME=DATA, {_ELSEWHERE}" if "data" in differing else _ELSEWHERE,
        )


def _other(path: Path, what: str) -> OutputError:
    return OutputError(f"{path}: expected kept answers, but {what}", hint=_ELSEWHERE)
