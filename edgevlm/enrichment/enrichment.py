"""`enrich`: descriptions of labels from a file or a language model, into a file that people review."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from edgevlm.enrichment import from_file, questions
from edgevlm.enrichment.descriptions import Author, Descriptions, Entry
from edgevlm.enrichment.endpoint import Endpoint
from edgevlm.enrichment.language_model import LanguageModel, LocalModel, Tell
from edgevlm.errors import EnrichmentError, LabelError
from edgevlm.process import interrupts, scratch
from edgevlm.process.locking import locked
from edgevlm.process.paths import user_path
from edgevlm.process.progress import Progress
from edgevlm.process.writing import made, output_errors

KEY_ENV = "OPENAI_API_KEY"
_SAMPLING_TEMPERATURE = 0.8
_LISTED = 10


@dataclass(frozen=True)
class Question:
    """How a language model is asked; the file a user gives instead answers none of it.

    Attributes:
        prompt: The question, in which `{}` stands for the label.
        count: Descriptions a label.
        attributes: Whether it is asked for attributes as well.
        temperature: Of sampling, 0 is greedy; where None, greedy for one description and 0.8 for several.
        seed: Of the first answer about a label; each further one has the next.
        most_tokens: Of an answer.
        model: The model's name at an endpoint; where None, the only one there.
        key_env: Environment variable with the endpoint's key.
    """

    prompt: str = questions.DESCRIBE
    count: int = 1
    attributes: bool = False
    temperature: float | None = None
    seed: int = 0
    most_tokens: int = 512
    model: str | None = None
    key_env: str = KEY_ENV

    def __post_init__(self) -> None:
        questions.check_prompt(self.prompt)
        if self.count < 1 or self.most_tokens < 1 or not 0 <= (self.temperature or 0) <= 2:
            raise EnrichmentError("expected a count and tokens of at least 1, and a temperature of 0 to 2")
        if self.count > 1 and self.temperature == 0:
            raise EnrichmentError(
                f"{self.count} descriptions a label need a temperature above 0: greedily, all would be the same"
            )

    @property
    def sampling(self) -> float:
        """The temperature."""
        if self.temperature is not None:
            return self.temperature
        return _SAMPLING_TEMPERATURE if self.count > 1 else 0.0


@dataclass(frozen=True)
class Enriched:
    """What `enrich` did.

    Attributes:
        out: The file.
        descriptions: All that is in it.
        labels: The labels asked for.
        kept: Those of them that the file had already.
        asked: Questions answered by a language model in this run.
        missing: Labels without a description still.
        failures: Label, and what was wrong with answers about it in this run.
    """

    out: Path
    descriptions: Descriptions
    labels: tuple[str, ...]
    kept: tuple[str, ...]
    asked: int
    missing: tuple[str, ...]
    failures: tuple[tuple[str, str], ...]


def enrich(
    labels: Sequence[str],
    source: str | Path,
    out: str | Path,
    *,
    question: Question | None = None,
    allow_missing: bool = False,
    force: bool = False,
    progress: Progress = lambda stage, share: None,
) -> Enriched:
    """Adds what is missing to a file of descriptions: what the file says already, people may have reviewed.

    Every answer is in the file before the next question is asked, so that a run that was stopped goes on where it was.

    >>> enriched = edgevlm.enrich(["red circle", "blue square"], "examples/descriptions.csv", "descriptions.json")
    >>> enriched.descriptions.labels["red circle"].descriptions
    ('a round red shape',)

    Args:
        labels: What is described.
        source: A JSON, CSV or TSV file (see `edgevlm.enrichment.from_file`); a causal language model's folder or hub
            id; or the URL of an OpenAI-compatible endpoint.
        out: The file; made if it is not there.
        question: How a language model is asked.
        allow_missing: Whether labels that a file does not describe are left out.
        force: Whether labels that `out` describes already are described anew.
        progress: Told how far it is.

    Raises:
        LabelError: no labels, an empty one, or one twice.
        EnrichmentError: a file cannot be read or lacks labels, or a language model cannot be loaded or reached, or
            stops answering; what it answered until then is in `out`.
        CheckpointError: a language model's folder is incomplete or damaged.
        OutputError: `out` cannot be written.
        MissingDependency: a local language model needs torch and transformers.
    """
    _check_labels(labels)
    with _alone(Path(out)):
        return _enrich(labels, source, Path(out), question, allow_missing=allow_missing, force=force, progress=progress)


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """While the block runs, no other run adds to the file: each would overwrite the other's answers."""
    if out.is_dir():
        raise EnrichmentError(f"{out}: expected a file to write, found a folder", hint="--out FILE.json")
    lock = out.with_name(f".{out.name}.lock")
    with ExitStack() as held:
        with output_errors(out):  # before an answer is paid for that could not be kept
            held.enter_context(made(out.parent))
            held.enter_context(locked(lock, f"{out}: another run is adding to this file"))
        yield


def _enrich(
    labels: Sequence[str],
    source: str | Path,
    out: Path,
    question: Question | None,
    *,
    allow_missing: bool,
    force: bool,
    progress: Progress,
) -> Enriched:
    book = _Book.open(out, labels, force=force)
    kept = tuple(label for label in labels if book.entry(label).descriptions)
    if from_a_file(source):
        if question is not None:
            raise EnrichmentError(
                f"{source} is a file, which is asked nothing", hint="leave the questions' options out"
            )
        _copy(from_file.read(Path(source)), book, labels, str(source), allow_missing=allow_missing)
        return book.report(labels, kept)
    asked = question or Question()
    if any(_wants(book.entry(label), asked) for label in labels):
        progress("opening the language model", None)
        model = _open(str(source), asked)
        with interrupts.advice("what was answered is kept; the same command goes on from there"):
            _ask_all(model, asked, book, labels, progress)
    return book.report(labels, kept)


def from_a_file(source: str | Path) -> bool:
    """Whether a source is a file of descriptions, by its name, rather than a language model."""
    return not _is_url(source) and (os.path.isfile(source) or Path(source).suffix.lower() in from_file.SUFFIXES)


@dataclass
class _Book:
    """The file under work."""

    path: Path
    descriptions: Descriptions
    asked: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)

    @classmethod
    def open(cls, path: Path, labels: Sequence[str], *, force: bool) -> _Book:
        scratch.sweep(path.parent)  # of a run that was killed, even where nothing is left to write
        found = Descriptions.read(path) if path.exists() else Descriptions({}, {})
        if force:
            left = {label: entry for label, entry in found.labels.items() if label not in set(labels)}
            found = replace(found, labels=left)
        return cls(path, found)

    def entry(self, label: str) -> Entry:
        return self.descriptions.labels.get(label, Entry())

    def put(self, label: str, entry: Entry) -> None:
        self.descriptions = replace(self.descriptions, labels={**self.descriptions.labels, label: entry})

    def fail(self, label: str, entry: Entry, reason: str) -> None:
        self.failures.append((label, reason))
        self.put(label, replace(entry, failures=(*entry.failures, reason)))

    def sign(self, entry: Entry, author: Author) -> tuple[str, ...]:
        """The entry's authors with this one."""
        return tuple(dict.fromkeys((*entry.authors, self.know(author.name, author))))

    def know(self, key: str, author: Author) -> str:
        """The key under which the author is known, which is another one where the wish is taken by someone else."""
        known, number = self.descriptions.authors, 1
        for name, other in known.items():
            if other == author:
                return name
        wish = key
        while key in known:
            number += 1
            key = f"{wish} ({number})"
        self.descriptions = replace(self.descriptions, authors={**known, key: author})
        return key

    def write(self) -> None:
        self.descriptions.write(self.path)

    def report(self, labels: Sequence[str], kept: tuple[str, ...]) -> Enriched:
        missing = tuple(label for label in labels if not self.entry(label).descriptions)
        return Enriched(self.path, self.descriptions, tuple(labels), kept, self.asked, missing, tuple(self.failures))


def _check_labels(labels: Sequence[str]) -> None:
    if not labels:
        raise LabelError("expected labels, got none")
    seen: set[str] = set()
    for label in labels:
        if not label.strip() or label != label.strip() or label in seen:
            raise LabelError(f"expected each label once, without blanks around it, got {label!r}")
        seen.add(label)


def _copy(found: Descriptions, book: _Book, labels: Sequence[str], where: str, *, allow_missing: bool) -> None:
    wanted = [label for label in labels if not book.entry(label).descriptions]
    missing = [label for label in wanted if label not in found.labels or not found.labels[label].descriptions]
    if missing and not allow_missing:
        unused = sorted(found.labels.keys() - set(labels))
        raise EnrichmentError(
            f"{where}: no description of {_some(missing)}, {len(missing)} of {len(labels)} labels"
            + (f"; it describes {_some(unused)}, which are no labels" if unused else ""),
            hint="add them to the file, or leave them out with --allow-missing",
        )
    names: dict[str, str] = {}
    for label in wanted:
        if label in missing:
            continue
        entry = found.labels[label]
        for key in entry.authors:
            names.setdefault(key, book.know(key, found.authors[key]))
        book.put(label, replace(entry, authors=tuple(names[key] for key in entry.authors)))
    book.write()


def _open(source: str, question: Question) -> LanguageModel:
    from edgevlm.models.checkpoints import hub

    if _is_url(source):
        key = os.environ.get(question.key_env)
        if key is None and question.key_env != KEY_ENV:
            raise EnrichmentError(f"the environment variable {question.key_env} is not set", hint="export it")
        return Endpoint(source, model=question.model, key=key, key_env=question.key_env)
    if question.model is not None:
        raise EnrichmentError(f"--model names a model at an endpoint, and {source!r} is no URL")
    if user_path(source).is_dir() or hub.is_hub_id(source):
        return LocalModel(source)
    raise EnrichmentError(
        f"expected a {', '.join(from_file.SUFFIXES)} file, a URL such as http://localhost:8080/v1, or a language "
        f"model's folder or hub id, got {source!r}"
    )


def _wants(entry: Entry, question: Question) -> bool:
    return len(entry.descriptions) < question.count or (question.attributes and not entry.attributes)


def _ask_all(model: LanguageModel, question: Question, book: _Book, labels: Sequence[str], progress: Progress) -> None:
    author = model.author(prompt=question.prompt, temperature=question.sampling, seed=question.seed)
    for number, label in enumerate(labels):
        stage, share = f"asking about {label} ({number + 1} of {len(labels)})", number / len(labels)
        progress(stage, share)
        tell = partial(_tell_wait, progress, stage, share)
        for _ in range(question.count - len(book.entry(label).descriptions)):
            _add_description(book, label, _ask(model, question, question.prompt, book, label, tell), author)
        if question.attributes and not book.entry(label).attributes:
            answer = _ask(model, question, questions.LIST_ATTRIBUTES, book, label, tell)
            _add_attributes(book, label, answer, author)


def _ask(model: LanguageModel, question: Question, prompt: str, book: _Book, label: str, tell: Tell) -> str:
    entry = book.entry(label)
    answer = model.ask(
        questions.ask(prompt, label),
        temperature=question.sampling,
        # Each answer, used or not, moves the seed on: what failed is not asked in the same way.
        seed=question.seed + len(entry.descriptions) + len(entry.failures),
        most_tokens=question.most_tokens,
        tell=tell,
    )
    book.asked += 1
    return answer


def _tell_wait(progress: Progress, stage: str, share: float, why: str) -> None:
    progress(f"{stage}: {why}", share)


def _add_description(book: _Book, label: str, answer: str, author: Author) -> None:
    entry = book.entry(label)
    try:
        sentence = questions.read_sentence(answer)
        if sentence in entry.descriptions:
            raise ValueError(f"expected another sentence, got the same again: {sentence!r}")
    except ValueError as error:
        book.fail(label, entry, f"description: {error}")
    else:
        book.put(label, replace(entry, descriptions=(*entry.descriptions, sentence), authors=book.sign(entry, author)))
    book.write()


def _add_attributes(book: _Book, label: str, answer: str, author: Author) -> None:
    entry = book.entry(label)
    try:
        attributes = questions.read_attributes(answer)
    except ValueError as error:
        book.fail(label, entry, f"attributes: {error}")
    else:
        book.put(label, replace(entry, attributes=attributes, authors=book.sign(entry, author)))
    book.write()


def _is_url(source: str | Path) -> bool:
    return str(source).lower().startswith(("http://", "https://"))


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(map(repr, names[:_LISTED])) + more
