"""A bundle, or a checkpoint's tokenizer or chat template, in a process of its own, with limits: what a damaged file
does there to native code is an error here.

Runtimes check their files, and not all of them: a few bytes in a `.tflite` or `.pte` end the process that loads it, a
file that is cut while it is mapped ends it later, and a small `tokenizer.json` asks for more memory than there is. The
process is another Python, which imports the target's runtime in place of this one: it costs a Python's start, 0.4 s and
45 MB, and with each call what it takes to copy pictures and answers through a pipe, one or two milliseconds a picture.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import IO, Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from edgevlm import errors, schema
from edgevlm.bundle.bundle import Bundle
from edgevlm.bundle.integer_weights import StoredWeight
from edgevlm.bundle.spec import Array, ComponentSpec, TextPreprocessing
from edgevlm.errors import BundleError, CheckpointError, EdgeVLMError, TensorError, debugging
from edgevlm.inputs.texts import Tokenizer, without_rules
from edgevlm.process import children, frames
from edgevlm.targets.app_runner import Part
from edgevlm.targets.boundary import find_component, validate_inputs, validate_threads
from edgevlm.targets.inspection import Advice, OpCount
from edgevlm.targets.runtime import SerialSession, Session, State, TracedOp, refuse_fork

PROGRAM = "edgevlm.targets.isolated"
LONGEST_SECONDS = 300
"""That one answer may take."""
TEMPLATE_SECONDS = 5
"""Of a processor, that a chat template may take for one conversation."""
_HINT = "it is damaged, or was made to do harm: take it again from whoever published it, and compare its digest"

T = TypeVar("T")


class IsolatedRuntime:
    """A target's runtime, which does all in another process; see `edgevlm.targets.runtime.Runtime`.

    Its methods raise what the runtime's own raise, and:

    Raises:
        BundleError: the artefact ended the process, or took more memory or time than there is.
    """

    def __init__(self, target: str) -> None:
        self.target = target

    def open(self, bundle: Bundle, *, threads: int | None = None) -> IsolatedSession:
        """A session whose process lives until nothing of it, be it its tokenizer, is held any more."""
        validate_threads(threads)
        process = _BundleProcess(bundle)
        return IsolatedSession(bundle, process, process.ask("open", threads=threads))

    def inspect(self, bundle: Bundle) -> dict[str, tuple[OpCount, ...]]:
        """What each component of the shipped file consists of."""
        return _tables(OpCount, _once(bundle, "inspect"), bundle)

    def advice(self, bundle: Bundle) -> dict[str, tuple[Advice, ...]]:
        """What is known against each component; nothing where the target's runtime gives no advice."""
        return _tables(Advice, _once(bundle, "advice"), bundle)

    def stored_weights(self, bundle: Bundle) -> dict[str, tuple[StoredWeight, ...]]:
        """The integer weights of each component, read back from the shipped file."""
        found = _once(bundle, "stored_weights")
        return {name: tuple(StoredWeight(**each) for each in weights) for name, weights in found.items()}

    def trace(self, bundle: Bundle, component: str, inputs: Mapping[str, Array]) -> tuple[TracedOp, ...]:
        """What each op of a component computed, in the order in which they ran."""
        arrays = validate_inputs(find_component(dict(bundle.components), component).spec, inputs)
        found = _once(bundle, "trace", component=component, inputs=arrays)
        return tuple(TracedOp(**{**each, "reads": tuple(each["reads"])}) for each in found)


class IsolatedSession(SerialSession[str]):
    """An open bundle in a process of its own, which keeps states as well."""

    def __init__(self, bundle: Bundle, isolated: _BundleProcess, evidence: str) -> None:
        functions = bundle.functions
        names = {
            component.function(length): name
            for name, component in bundle.components.items()
            for length in component.spec.lengths or (1,)
        }
        super().__init__({each: (functions[each].spec, name) for each, name in names.items()}, bundle.components)
        self._forgotten: list[int] = []
        self.evidence = str(evidence)
        self._text = bundle.manifest.text
        self._isolated: _BundleProcess | None = isolated

    def tokenizer(self) -> Tokenizer | None:
        """The bundle's, which may be used after the session is closed; None where no component takes texts."""
        return None if self._text is None else IsolatedTokenizer(self._text, self._opened().ask)

    def make_state(self, component: str) -> State:
        self._stateful(component)
        number = int(self._opened().ask("make_state", component=component))
        state = State(component, {}, id(self), number)  # its arrays are kept over there, for as long as this is
        weakref.finalize(state, self._forgotten.append, state.number)
        return state

    def _compute(
        self, spec: ComponentSpec, program: str, arrays: Mapping[str, Array]
    ) -> dict[str, NDArray[np.float32]]:
        return self._checked(spec, self._opened().ask("run", component=program, inputs=arrays))

    def _compute_on(
        self, state: State, spec: ComponentSpec, program: str, arrays: Mapping[str, Array]
    ) -> dict[str, NDArray[np.float32]]:
        forgotten, self._forgotten[:] = list(self._forgotten), []
        asked = {"component": program, "inputs": arrays, "state": state.number, "forgotten": forgotten}
        return self._checked(spec, self._opened().ask("run_on", **asked), but={each.written for each in spec.inputs})

    def _checked(
        self, spec: ComponentSpec, found: Mapping[str, NDArray[np.float32]], but: Collection[str] = ()
    ) -> dict[str, NDArray[np.float32]]:
        got = {name: (rows.dtype.name, rows.shape) for name, rows in found.items()}
        expected = {tensor.name: (tensor.dtype, tensor.shape) for tensor in spec.outputs if tensor.name not in but}
        if got != expected:
            raise BundleError(f"{spec.name}: expected the outputs {expected}, got {got}", hint=_HINT)
        return dict(found)

    def ask(self, what: str, **asked: Any) -> Any:
        """See `_BundleProcess`."""
        return self._opened().ask(what, **asked)

    def close(self) -> None:
        super().close()
        self._isolated = None

    def _opened(self) -> _BundleProcess:
        if self._isolated is None:
            raise TensorError("this session is closed", hint="open the bundle again")
        return self._isolated


class IsolatedRunner:
    """An app's own runner of a bundle, in a process of its own: it prints what it says, and some errors end it."""

    def __init__(self, bundle: Bundle) -> None:
        self._process = _BundleProcess(bundle)

    def ids(self, parts: Sequence[Part], most: int) -> list[int]:
        """See `edgevlm.targets.app_runner.Runner`.

        Raises:
            BundleError: the runner refused, or ended the process.
        """
        return [int(each) for each in self._process.ask("runner_ids", parts=list(parts), most=most)]


class IsolatedTokenizer(Tokenizer):
    """A tokenizer in a process of its own: a file of a few hundred bytes can multiply every text.

    Args:
        spec: The rules.
        ask: Asks the other process: `highest_id`, `ids` of `texts`, `pieces` of a `text`, or the `text` of `ids`.
    """

    def __init__(self, spec: TextPreprocessing, ask: Callable[..., Any]) -> None:
        self.spec = spec
        self._ask = ask
        self._highest_id = int(ask("highest_id"))

    @classmethod
    def from_bytes(cls, spec: TextPreprocessing, tokenizer_json: bytes) -> IsolatedTokenizer:
        """That of a checkpoint, whose file has this content; all of them share one process, which asks them in turn.

        Raises:
            CheckpointError: the content is damaged, or ended the process.
        """
        return cls(spec, partial(_CHECKPOINTS.ask, tokenizer_json, spec.tokenizer_file))

    @property
    def highest_id(self) -> int:
        """The highest token id: an embedding table needs a row more."""
        return self._highest_id

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """See `Tokenizer`.

        Raises:
            EdgeVLMError: the tokenizer ended the process: a CheckpointError of a checkpoint's, else a BundleError.
        """
        return [list(map(int, each)) for each in self._ask("ids", texts=list(texts))]

    def pieces(self, text: str) -> list[int]:
        """See `Tokenizer`; raises as `ids`."""
        return list(map(int, self._ask("pieces", text=text)))

    def text(self, ids: Sequence[int]) -> str:
        """See `Tokenizer`; raises as `ids`."""
        return str(self._ask("text", ids=list(map(int, ids))))


def rehearse(tokenizer_json: bytes, where: str, texts: Sequence[str]) -> None:
    """Has a checkpoint's tokenizer read, and asked about texts, where it can do no harm.

    Raises:
        CheckpointError: the content is damaged, or ended the process.
        InputError: the tokenizer fails on a text.
    """
    _CHECKPOINTS.ask(tokenizer_json, where, "ids", texts=list(texts))


def render_template(
    template: str, where: str, conversation: Sequence[Mapping[str, Any]], words: Mapping[str, Any], *, to_answer: bool
) -> str:
    """What a checkpoint's chat template makes of a conversation, where it can do no harm.

    Args:
        template: In Jinja.
        where: Its place, for errors.
        conversation: As transformers' processors take it.
        words: Of the tokenizer, which templates may name.
        to_answer: Whether what opens an answer is written behind it.

    Raises:
        CheckpointError: the template fails, or ended the process.
    """
    asked = {"conversation": list(conversation), "words": dict(words), "to_answer": to_answer}
    return str(_CHECKPOINTS.ask(template.encode(), where, "render", kind="template", **asked))


def tokenizer_of(bundle: Bundle, session: Session) -> Tokenizer | None:
    """The tokenizer that a bundle ships, in the process that its session runs in; None where no component takes texts.

    Raises:
        CheckpointError: its file is damaged.
        BundleError: it ended the process.
    """
    if isinstance(session, IsolatedSession):
        return session.tokenizer()
    return Tokenizer.of_bundle(bundle)


def words_of(bundle: Bundle, tokenizer_file: str, session: Session) -> Tokenizer:
    """The tokenizer of a model that talks, in the process that its session runs in.

    Raises:
        CheckpointError: its file is damaged.
        BundleError: it ended the process.
    """
    if isinstance(session, IsolatedSession):
        return IsolatedTokenizer(without_rules(tokenizer_file), session.ask)
    return Tokenizer(without_rules(tokenizer_file), bundle.path)


class _Ended(Exception):
    """The other process is no more; the message says what became of it."""


class _Process:
    """The other process, which is asked one thing at a time, and ends when it is held no more."""

    def __init__(self) -> None:
        command, environment = children.process_of(PROGRAM)
        self._process = children.start(command, None if debugging() else subprocess.DEVNULL, environment)
        self._to, self._from = cast(IO[bytes], self._process.stdin), cast(IO[bytes], self._process.stdout)
        self._end = weakref.finalize(self, children.end, self._process)
        self._turn = threading.Lock()
        self._was_stopped = False
        self._opener = os.getpid()

    def ask(self, question: Mapping[str, Any], otherwise: type[EdgeVLMError]) -> Any:
        """The answer to one question; `edgevlm.targets.isolated` has which there are.

        Raises:
            EdgeVLMError: what was raised there; `otherwise` where that is of no kind that is known.
            UnsupportedError: this process is a fork of the one that started it.
            _Ended: the process has ended.
        """
        refuse_fork(str(question["ask"]), self._opener)
        with self._turn:
            if not self._end.alive:
                raise self._ended()
            try:
                with suppress(BrokenPipeError):  # it has ended already; its exit code says why
                    frames.send(self._to, question)
                answer = frames.receive(self._from)
                error, result = answer["error"], answer["result"]
            except (EOFError, ValueError, LookupError, TypeError) as problem:
                raise self._ended() from problem
            except BaseException:  # what comes next in the pipe would be the answer to this
                self._was_stopped = True
                self._process.kill()
                raise
        if error is not None:
            raise errors.from_json(error, otherwise=otherwise)
        return result

    def _ended(self) -> _Ended:
        """What became of it, once it says nothing more, or nothing that can be understood."""
        self._end()
        died = children.signal_of(self._process.returncode)
        if self._was_stopped:
            return _Ended("was stopped")
        if died == signal.SIGALRM:
            return _Ended(f"took longer than {LONGEST_SECONDS} s")
        if died == signal.SIGPROF:
            return _Ended(f"took longer than {TEMPLATE_SECONDS} s of a processor")
        if died == signal.SIGKILL:
            return _Ended("was killed: it needed more memory than there is")
        return _Ended(f"ended with {died.name if died else f'exit code {self._process.returncode}'}")


class _BundleProcess:
    """The process of one bundle."""

    def __init__(self, bundle: Bundle) -> None:
        self._where = bundle.path
        self._process = _Process()
        self._known = {"bundle": {"path": str(bundle.path.resolve()), "manifest": schema.write(bundle.manifest)}}

    def ask(self, what: str, **asked: Any) -> Any:
        """See `_Process`.

        Raises:
            BundleError: the process has ended.
        """
        known, self._known = self._known, {}
        try:
            return self._process.ask({"ask": what, **known, **asked}, BundleError)
        except _Ended as ended:
            said = f"{self._where}: the process that this bundle was opened in {ended}"
            raise BundleError(said, hint=_HINT) from ended


class _CheckpointsProcess:
    """The process of all checkpoints' tokenizers and templates: started at need, and anew where one has ended it."""

    def __init__(self) -> None:
        self._begin()
        if sys.platform != "win32":
            os.register_at_fork(after_in_child=self._begin)  # the parent goes on with what there is

    def _begin(self) -> None:
        self._process: _Process | None = None
        self._holds: tuple[str, str, bytes] | None = None
        self._turn = threading.Lock()

    def ask(self, content: bytes, where: str, what: str, *, kind: str = "tokenizer", **asked: Any) -> Any:
        """See `_Process`.

        Args:
            content: Of the file of what is asked.
            where: The file's name, for errors.
            what: The question.
            kind: What is asked: a `tokenizer`, or a chat `template`.

        Raises:
            CheckpointError: the process has ended.
        """
        with self._turn:
            if self._process is None:
                self._process, self._holds = _Process(), None
            holds = (kind, where, content)
            known = {} if self._holds == holds else {kind: np.frombuffer(content, np.uint8), "where": where}
            self._holds = None
            try:
                answer = self._process.ask({"ask": what, **known, **asked}, CheckpointError)
            except _Ended as ended:
                self._process = None
                said = f"{where}: the process that this {kind} was read in {ended}"
                raise CheckpointError(said, hint="take the file again from where the checkpoint came from") from ended
            self._holds = holds
            return answer


_CHECKPOINTS = _CheckpointsProcess()


def _once(bundle: Bundle, what: str, **asked: Any) -> Any:
    return _BundleProcess(bundle).ask(what, **asked)


def _tables(kind: type[T], found: Mapping[str, Sequence[Any]], bundle: Bundle) -> dict[str, tuple[T, ...]]:
    where = f"{bundle.path}: what the isolated process says"
    return {
        name: tuple(schema.read(kind, each, where=where, error=BundleError) for each in rows)
        for name, rows in found.items()
    }
