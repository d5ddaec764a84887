"""A model that talks, ready to be asked: pictures and words in, text out as it comes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from edgevlm.bundle.bundle import Bundle
from edgevlm.bundle.dialogue import (
    DECODE,
    EMBED_TOKENS,
    EMBEDDINGS,
    ENCODE_IMAGE,
    FEATURES,
    LOGITS,
    POSITIONS,
    Dialogue,
    Sampling,
)
from edgevlm.bundle.spec import F32, Array, ComponentSpec, ImagePreprocessing
from edgevlm.errors import EdgeVLMError, InputError, LabelError
from edgevlm.inference.decoding import Chooser, log_likelihood
from edgevlm.inference.embeddings import softmax
from edgevlm.inputs import tiles
from edgevlm.inputs.chat import Cut, Message, Written, checked, go_on, one_question, write
from edgevlm.inputs.pictures import Picture, preprocess
from edgevlm.inputs.rows import PIXELS, TOKEN_IDS
from edgevlm.inputs.sequences import listed_texts, one_picture
from edgevlm.inputs.texts import Tokenizer
from edgevlm.targets.isolation import words_of
from edgevlm.targets.runtime import Session

Finish = Literal["end", "length", "context", "stopped"]


class TalkingSession(Protocol):
    """What a generator is asked through: an open bundle, or the float original."""

    def make_state(self, component: str) -> Any: ...

    def run(
        self, component: str, inputs: Mapping[str, Array], state: Any | None = None
    ) -> dict[str, NDArray[np.float32]]: ...

    def close(self) -> None: ...


@runtime_checkable
class Batching(Protocol):
    """A session that runs several inputs of a component at once, as the float original does."""

    def run_each(
        self, component: str, inputs: Sequence[Mapping[str, Array]]
    ) -> list[dict[str, NDArray[np.float32]]]: ...


@dataclass(frozen=True)
class Times:
    """What an answer took.

    Attributes:
        picture_ms: To encode the pictures.
        first_token_ms: From the question, pictures included, to the first token.
        tokens_per_second: Of the tokens after the first.
    """

    picture_ms: float
    first_token_ms: float
    tokens_per_second: float


class Answer:
    """Text as it comes: iterable once live, whole afterwards. Nothing runs before somebody asks for it.

    Several threads may read one: each piece goes to one of those that iterate, and `text` is whole for all.

    >>> with edgevlm.open("dist/talker-tflite-int8.edgevlm") as model:
    ...     answer = model.generate("examples/pictures/yellow-star.png", "What is this?", max_tokens=8)
    ...     pieces = list(answer)  # or, as they come: for piece in answer: print(piece, end="", flush=True)
    >>> len(answer.token_ids) <= 8, answer.finish in ("end", "length")
    (True, True)

    Attributes:
        token_ids: Of the answer so far, the one that ended it left out.
        finish: Why it ended: `end` by the model's own word, `length` by `max_tokens`, `context` since no position is
            left, `stopped` by whoever asked; None while it goes on.
    """

    def __init__(
        self,
        steps: Callable[[Answer], Iterator[int]],
        tokenizer: Tokenizer,
        ends: Sequence[int],
        max_tokens: int,
    ) -> None:
        self.token_ids: list[int] = []
        self.finish: Finish | None = None
        self._steps, self._tokenizer, self._ends, self._most = steps(self), tokenizer, frozenset(ends), max_tokens
        self._said = ""
        self._error: Exception | None = None
        self._times: list[float] = []
        self._picture_ms = 0.0
        self._turn = threading.Lock()

    def __iter__(self) -> Iterator[str]:
        """The text that is not said yet, in pieces of whole characters."""
        while True:
            with self._turn:
                if self.finish is not None:
                    return
                piece = self._step()
            if piece:
                yield piece

    def stop(self) -> None:
        """Ends the answer; what came is kept."""
        self.finish = self.finish or "stopped"

    def settle(self) -> None:
        """Waits for what has not come yet; what goes wrong is told to whoever reads the answer."""
        with suppress(EdgeVLMError):
            for _ in self:
                pass

    @property
    def failed(self) -> bool:
        """Whether something went wrong, which is raised again whenever the answer is read."""
        return self._error is not None

    @property
    def text(self) -> str:
        """The whole answer; what has not come yet is waited for."""
        for _ in self:
            pass
        return self._said

    @property
    def times(self) -> Times:
        """What it took."""
        if len(self._times) < 2:
            return Times(self._picture_ms, 0.0, 0.0)
        began, first, *_, last = (*self._times, self._times[-1])
        steps = len(self._times) - 2
        return Times(
            picture_ms=self._picture_ms,
            first_token_ms=1e3 * (first - began),
            tokens_per_second=steps / (last - first) if steps and last > first else 0.0,
        )

    def looked(self, milliseconds: float) -> None:
        """Notes what it took to encode the pictures."""
        self._picture_ms += milliseconds

    def _step(self) -> str:
        """One token further: the characters that are whole by it."""
        if not self._times:
            self._times.append(time.perf_counter())
        if len(self.token_ids) >= self._most:
            self.finish = "length"
            return self._rest()
        if self._error is not None:
            raise self._error
        try:
            token_id = next(self._steps, None)
        except Exception as error:
            self._error = error
            raise
        except BaseException:
            self.finish = "stopped"
            raise
        if token_id is None:
            self.finish = "context"
            return self._rest()
        self._times.append(time.perf_counter())
        if token_id in self._ends:
            self.finish = "end"
            return self._rest()
        self.token_ids.append(token_id)
        text = self._tokenizer.text(self.token_ids)
        # A character may take several tokens, and the last of a text may change what stands before it.
        return "" if text.endswith("\ufffd") or not text.startswith(self._said) else self._say(text)

    def _rest(self) -> str:
        return self._say(self._tokenizer.text(self.token_ids)) if self.token_ids else ""

    def _say(self, text: str) -> str:
        """What of the text is not said yet: where bytes are no characters, later ones may have changed earlier ones."""
        same = next((place for place, two in enumerate(zip(self._said, text, strict=False)) if two[0] != two[1]), None)
        same = min(len(self._said), len(text)) if same is None else same
        self._said = text
        return text[same:]


class Place:
    """How far a dialogue has come in a session: the rows that were put there, and what comes behind them.

    Args:
        session: An open bundle, or the float original.
        specs: Of its components.
        dialogue: The model's rules.
    """

    def __init__(self, session: TalkingSession, specs: Mapping[str, ComponentSpec], dialogue: Dialogue) -> None:
        self._session, self._specs, self._dialogue = session, specs, dialogue
        self._state = session.make_state(DECODE)
        beside = [each for each in specs[DECODE].inputs if each.name not in (EMBEDDINGS, POSITIONS)]
        self._beside = {each.name: np.zeros(each.shape, np.float32) for each in beside}
        self.used = 0
        """Positions that are taken."""

    @property
    def left(self) -> int:
        """Positions that are free."""
        return self._dialogue.context_length - self.used

    def see(self, found: Mapping[str, F32]) -> None:
        """What `decode` takes beside its rows, from now on: of a picture that takes no positions."""
        self._beside = {name: found[name] for name in found}

    def put(self, ids: Sequence[int], rows: F32 | None = None, places: Sequence[int] = ()) -> F32:
        """Puts words, and a picture's rows in their places, behind what is there.

        Args:
            ids: Of the words; what stands at the places is not looked at.
            rows: Of pictures, float32 [N, W].
            places: N indices into `ids`.

        Returns:
            float32 [V], logits of what comes next.

        Raises:
            InputError: no ids, or more than there are positions left.
        """
        if not ids:
            raise InputError("expected at least one token to go on from, got none")
        _refuse_longer(len(ids), self.left, self._dialogue)
        if not self.used:
            _refuse_longer_prefix(len(ids), self._specs[DECODE], self._dialogue)
        lengths, start, logits = self._specs[DECODE].lengths, 0, np.zeros(0, np.float32)
        at = {place: row for row, place in enumerate(places)}
        while start < len(ids):
            left = len(ids) - start
            length = next((each for each in lengths if each >= left), lengths[-1])
            count = min(length, left)
            embeddings = self._embed(ids[start : start + count], length)
            for offset in range(count):
                if rows is not None and start + offset in at:
                    embeddings[0, offset] = rows[at[start + offset]]
            positions = np.full((1, length), -1, np.int32)
            positions[0, :count] = np.arange(self.used, self.used + count)
            given: dict[str, Array] = {EMBEDDINGS: embeddings, POSITIONS: positions, **self._beside}
            logits = self._session.run(DECODE, given, self._state)[LOGITS][0]
            self.used += count
            start += count
        return logits

    def _embed(self, ids: Sequence[int], length: int) -> F32:
        token_ids = np.zeros((1, length), np.int32)
        token_ids[0, : len(ids)] = ids
        return self._session.run(EMBED_TOKENS, {TOKEN_IDS: token_ids})[EMBEDDINGS]


def _refuse_longer(count: int, left: int, dialogue: Dialogue) -> None:
    """Refuses more positions than are left."""
    if count > left:
        raise InputError(
            f"expected at most {left:,} more positions, of a context of {dialogue.context_length:,}, got {count:,}",
            hint="shorten the text, or convert the model with a longer --context",
        )


def _refuse_longer_prefix(count: int, decode: ComponentSpec, dialogue: Dialogue) -> None:
    """Refuses more positions than are put at once, where a dialogue's first have to be."""
    if decode.prefix and count > decode.lengths[-1]:
        raise InputError(
            f"expected a picture and a question of at most {decode.lengths[-1]:,} positions, which this model takes at "
            f"once, got {count:,}",
            hint=f"shorten the question, or convert the model with --lengths 1,{dialogue.context_length}",
        )


class Generator:
    """A model that talks.

    Args:
        session: An open bundle, or the float original; closed with this.
        specs: Of its components.
        image: How a picture, or a tile of one, becomes pixels.
        dialogue: How pictures and words become positions.
        tokenizer: The model's.
    """

    def __init__(
        self,
        session: TalkingSession,
        specs: Mapping[str, ComponentSpec],
        image: ImagePreprocessing,
        dialogue: Dialogue,
        tokenizer: Tokenizer,
    ) -> None:
        self.session, self.specs, self.image, self.dialogue, self.tokenizer = session, specs, image, dialogue, tokenizer

    def generate(
        self,
        picture: Picture | None = None,
        text: str | None = None,
        *,
        system: str | None = None,
        max_tokens: int = 256,
        sampling: Sampling | None = None,
        seed: int = 0,
    ) -> Answer:
        """The answer to a question about a picture.

        >>> with edgevlm.open("dist/talker-tflite-int8.edgevlm") as model:
        ...     text = model.talker.generate("examples/pictures/yellow-star.png", "What is this?", max_tokens=8).text

        Args:
            picture: A path, a PIL image, encoded bytes or a uint8 [H, W, 3] array; None to talk without one.
            text: The question; the model's own where None.
            system: How to answer, for models that were trained with such a text.
            max_tokens: How many tokens the answer has at most.
            sampling: How tokens are chosen, an `edgevlm.Sampling`; the model's own way where None.
            seed: Of the numbers that are drawn.

        Raises:
            ImageError: the picture cannot be read.
            InputError: several pictures, where a dialogue shows one; the dialogue does not fit the context; no picture
                where the model needs one; or a text that the model's template has no place for.
        """
        return self.chat(picture, system=system).ask(text, max_tokens=max_tokens, sampling=sampling, seed=seed)

    def chat(self, picture: Picture | None = None, *, system: str | None = None) -> Conversation:
        """A conversation about a picture, which keeps its state: a further question costs its own words alone.

        >>> with edgevlm.open("dist/talker-tflite-int8.edgevlm") as model:
        ...     chat = model.chat("examples/pictures/yellow-star.png", system="Answer in one word.")
        ...     text = chat.ask("What is this?", max_tokens=8).text

        Args:
            picture: What it is about; None to talk without one.
            system: How to answer.
        """
        return Conversation(self, picture, system)

    def score(self, picture: Picture | None, text: str | None, answers: Sequence[str]) -> F32:
        """How probable each answer is: the sum of the logarithms of its tokens' probabilities.

        >>> with edgevlm.open("dist/talker-tflite-int8.edgevlm") as model:
        ...     found = model.talker.score("examples/pictures/yellow-star.png", "Is this a star?", ["Yes", "No"])
        >>> bool((found <= 0).all())
        True

        Args:
            picture: See `generate`.
            text: The question.
            answers: A of them, as they would stand behind the question.

        Returns:
            float32 [A].

        Raises:
            InputError: one text in place of several; an answer without a token, or longer than the context leaves
                room for; see `generate` for the others.
            TensorError: logits are no numbers.
        """
        pieces = self._pieces(answers)
        seen = None if picture is None else self.see(picture)
        written = self.write([Message("user", self._text(text), 0 if seen is None else 1)], seen)
        self._refuse_longer_answers(pieces, written)
        place, found = self.place(), []
        first = self.begin(place, written, seen)
        begun = place.used
        for answer in answers:
            ids, logits, total = pieces[answer], first, 0.0
            place.used = begun  # what the answer before has put there is behind what is looked at
            for number, token_id in enumerate(ids):
                total += log_likelihood(logits, token_id)
                if number < len(ids) - 1:
                    logits = place.put([token_id])
            found.append(total)
        return np.array(found, np.float32)

    def classifier(self, labels: Sequence[str], text: str | None = None) -> Callable[[Picture], F32]:
        """A function that shares one among labels, by how probable each is as the answer about a picture.

        It is the softmax of `score`: of labels of different lengths a longer one is less probable. A question that
        names them, or one that is answered by a word of each, asks for the label alone.

        >>> with edgevlm.open("dist/talker-tflite-int8.edgevlm") as model:
        ...     ask = model.talker.classifier(["Yes", "No"], "Is this a star?")
        ...     shares = ask("examples/pictures/yellow-star.png")
        >>> bool(abs(shares.sum() - 1) < 1e-5)
        True

        Args:
            labels: L answers.
            text: The question; the model's own where None.

        Raises:
            LabelError: no label, one that is no text, or two that become the same token ids.
            InputError: one text in place of several; what it returns raises as `score`.
        """
        named = listed_texts(labels, "labels")
        if not named or not all(isinstance(each, str) for each in named):
            raise LabelError(f"expected labels, a text each, got {named!r}")
        known: dict[tuple[int, ...], str] = {}
        for label in named:
            ids = tuple(self.tokenizer.pieces(label))
            if ids in known:
                raise LabelError(
                    f"the labels {known[ids]!r} and {label!r} are one and the same to the model: they become the same "
                    "token ids, and would share their score",
                    hint="leave one of them out",
                )
            known[ids] = label
        return lambda picture: softmax(self.score(picture, text, named))

    def refuse_unfit(self, text: str | None, answers: Sequence[str] = ()) -> None:
        """Refuses what fits the context behind no picture, without running anything.

        Args:
            text: The question; the model's own where None.
            answers: To be scored behind it.

        Raises:
            InputError: as `generate` or `score` would, behind a picture that is not cut into tiles.
        """
        pieces = self._pieces(answers)
        written = self._written([Message("user", self._text(text), 1)], [Cut()])
        _refuse_longer(len(written.ids), self.dialogue.context_length, self.dialogue)
        _refuse_longer_prefix(len(written.ids), self.specs[DECODE], self.dialogue)
        self._refuse_longer_answers(pieces, written)

    def see(self, picture: Picture) -> Seen:
        """A picture, encoded."""
        began = time.perf_counter()
        pixels, cut = self.cut(one_picture(picture))
        return Seen(pixels, self.encode(pixels), cut, 1e3 * (time.perf_counter() - began))

    def cut(self, picture: Picture) -> tuple[F32, Cut]:
        """A picture as the model takes it: its tiles' pixels, float32 [tiles, 3, H, W], and how many those are."""
        if self.dialogue.tiling is None:
            return preprocess(picture, self.image), Cut()
        found = tiles.cut(picture, self.dialogue.tiling)
        return found.pixels, Cut(found.rows, found.columns)

    def encode(self, pixels: F32) -> tuple[Mapping[str, F32], ...]:
        """What `encode_image` answers to each tile; it is asked once about equal ones, as a wide margin has."""
        contents = [tile.tobytes() for tile in pixels]
        distinct = {content: {PIXELS: tile[None]} for content, tile in zip(contents, pixels, strict=True)}
        given, session = distinct.values(), self.session
        if isinstance(session, Batching):
            found = session.run_each(ENCODE_IMAGE, [*given])
        else:
            found = [session.run(ENCODE_IMAGE, each) for each in given]
        answers = dict(zip(distinct, found, strict=True))
        return tuple(answers[content] for content in contents)

    def write(self, messages: Sequence[Message], seen: Seen | None) -> Written:
        """A dialogue's ids."""
        if seen is None and self.dialogue.chat is None:
            raise InputError("expected a picture, which this model describes, got none")
        return self._written(messages, [] if seen is None else [seen.cut])

    def _written(self, messages: Sequence[Message], shown: Sequence[Cut]) -> Written:
        if self.dialogue.chat is None:
            messages = [replace(message, pictures=0) for message in messages]
        return write(self.dialogue, messages, shown, self.tokenizer)

    def place(self) -> Place:
        """The beginning of a dialogue."""
        return Place(self.session, self.specs, self.dialogue)

    def begin(self, place: Place, written: Written, seen: Seen | None) -> F32:
        """Puts a dialogue where nothing was said yet; gives the logits of what comes next."""
        if seen is None:
            return place.put(written.ids)
        if FEATURES in seen.answers[0]:
            return place.put(written.ids, seen.rows, written.places)
        place.see(seen.answers[0])
        return place.put(written.ids)

    def close(self) -> None:
        """Frees the backend's memory."""
        self.session.close()

    def __enter__(self) -> Generator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _pieces(self, answers: Sequence[str]) -> dict[str, list[int]]:
        """The ids of each answer."""
        spelling = self.dialogue.spelling
        return {each: self.tokenizer.pieces(checked(each, spelling)) for each in listed_texts(answers, "answers")}

    def _refuse_longer_answers(self, pieces: Mapping[str, Sequence[int]], written: Written) -> None:
        """Refuses answers for which the context leaves no room behind a dialogue."""
        room = self.dialogue.context_length - len(written.ids) + 1
        for each, ids in pieces.items():
            if not 0 < len(ids) <= room:
                raise InputError(
                    f"expected answers of 1 to {room:,} tokens, which the context of {self.dialogue.context_length:,} "
                    f"leaves, got one of {len(ids):,}: {each[:60]!r}"
                )

    def _text(self, text: str | None) -> str:
        return self.dialogue.describe if text is None else text


def generator_of(bundle: Bundle, session: Session) -> Generator:
    """An open bundle of a model that talks.

    Raises:
        InputError: it is a dual encoder's.
        CheckpointError: its tokenizer is damaged.
    """
    dialogue = bundle.manifest.dialogue
    if dialogue is None:
        raise InputError(
            f"{bundle.path}: this model gives embeddings, and does not talk: what it has is {bundle.manifest.verbs}",
            hint="a bundle of a captioner, or of a model that is asked about pictures, answers in words",
        )
    specs = {name: component.spec for name, component in bundle.components.items()}
    tokenizer = words_of(bundle, dialogue.tokenizer_file, session)
    return Generator(session, specs, bundle.manifest.image, dialogue, tokenizer)


@dataclass(frozen=True)
class Seen:
    """A picture, encoded.

    Attributes:
        pixels: Of its tiles, float32 [tiles, 3, H, W].
        answers: Of `encode_image`, a tile each.
        cut: How many tiles there are.
        milliseconds: What it took.
    """

    pixels: F32
    answers: tuple[Mapping[str, F32], ...]
    cut: Cut
    milliseconds: float

    @property
    def rows(self) -> F32:
        """Rows of all tiles, float32 [N, W]."""
        return np.concatenate([answer[FEATURES][0] for answer in self.answers])


class Conversation:
    """Questions and answers that follow each other.

    Args:
        model: Who answers.
        picture: What the first question is about.
        system: How to answer.
    """

    def __init__(self, model: Generator, picture: Picture | None, system: str | None) -> None:
        self._model, self._system = model, system
        self._picture = None if picture is None else one_picture(picture)
        self._place = model.place()
        self._answers: list[Answer] = []
        """All that were asked for, in their order."""
        self._settled = 0
        """So many of the first are waited for; where two threads write it at once, some are asked again."""
        self._said: list[int] = []
        """Ids of an answer that are not in the state yet."""

    def ask(
        self,
        text: str | None = None,
        *,
        max_tokens: int = 256,
        sampling: Sampling | None = None,
        seed: int = 0,
    ) -> Answer:
        """The answer to the next question; what is left of the one before is waited for when it is asked.

        >>> with edgevlm.open("dist/talker-tflite-int8.edgevlm") as model:
        ...     chat = model.chat("examples/pictures/yellow-star.png")
        ...     first = chat.ask("What is this?", max_tokens=8)
        ...     second = chat.ask("And of which colour?", max_tokens=8).text
        >>> first.finish in ("end", "length")  # it was waited for
        True

        An answer that fails, such as for a question that is too long, leaves the conversation as it was.

        Raises:
            ImageError, InputError: see `Generator.generate`; and a second question to a model that has no chat
                template, or a `max_tokens` below 1.
        """
        if isinstance(max_tokens, bool) or not isinstance(max_tokens, int) or max_tokens < 1:
            raise InputError(f"max_tokens: expected a whole number of at least 1, got {max_tokens!r}")
        model = self._model
        chat = model.dialogue.chat
        if (chat is None or chat.assistant is None) and any(not each.failed for each in self._answers):
            raise one_question(model.dialogue)
        chooser = Chooser(model.dialogue.sampling if sampling is None else sampling, seed)
        question = checked(model.dialogue.describe if text is None else text, model.dialogue.spelling)
        answer = Answer(
            lambda own: self._tokens(question, chooser, own),
            model.tokenizer,
            model.dialogue.end_ids,
            max_tokens,
        )
        self._answers.append(answer)
        return answer

    def _tokens(self, question: str, chooser: Chooser, answer: Answer) -> Iterator[int]:
        """Token after token, until the context is full.

        An answer waits for those before it and for none behind it, so that threads never wait in a circle.
        """
        place = self._answers.index(answer)
        for earlier in self._answers[self._settled : place]:
            earlier.settle()
        self._settled = max(self._settled, place)
        if self._place.used:
            logits = self._place.put([*self._said, *go_on(self._model.dialogue, question, self._model.tokenizer)])
        else:
            logits = self._first(question, answer)
        while True:
            token_id = chooser.next(logits)
            # An end is not put: the template's text behind an answer has it.
            self._said = [] if token_id in self._model.dialogue.end_ids else [token_id]
            yield token_id
            if self._place.left < 1:
                return
            logits = self._place.put([token_id])

    def _first(self, question: str, answer: Answer) -> F32:
        model = self._model
        messages = [] if self._system is None else [Message("system", self._system)]
        seen = None if self._picture is None else model.see(self._picture)
        messages.append(Message("user", question, 0 if seen is None else 1))
        written = model.write(messages, seen)
        if seen is not None:
            answer.looked(seen.milliseconds)
        return model.begin(self._place, written, seen)
