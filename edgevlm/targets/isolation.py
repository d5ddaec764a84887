"""A bundle in a process of its own, with limits: what a damaged file does there to native code is an error here.

Runtimes check their files, and not all of them: a few bytes in a `.tflite` or `.pte` end the process that loads it, a
file that is cut while it is mapped ends it later. The process is another Python, which imports the target's runtime in
place of this one: it costs a Python's start, 0.4 s and 45 MB, and with each call what it takes to copy pictures and
answers through a pipe, one or two milliseconds a picture.
"""

from __future__ import annotations

import signal
import subprocess
import threading
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import IO, Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from edgevlm import errors, schema
from edgevlm.bundle.bundle import Bundle
from edgevlm.bundle.integer_weights import StoredWeight
from edgevlm.bundle.spec import Array, ComponentSpec, TextPreprocessing
from edgevlm.errors import BundleError, TensorError, debugging
from edgevlm.inputs.texts import Tokenizer
from edgevlm.process import children, frames
from edgevlm.targets.boundary import find_component, validate_inputs, validate_threads
from edgevlm.targets.inspection import Advice, OpCount
from edgevlm.targets.runtime import SerialSession, Session, TracedOp

PROGRAM = "edgevlm.targets.isolated"
LONGEST_SECONDS = 300
"""That one answer may take."""
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
        process = _Process(bundle)
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


class IsolatedSession(SerialSession[None]):
    """An open bundle in a process of its own."""

    def __init__(self, bundle: Bundle, isolated: _Process, evidence: str) -> None:
        super().__init__({name: (component.spec, None) for name, component in bundle.components.items()})
        self.evidence = str(evidence)
        self._text = bundle.manifest.text
        self._isolated: _Process | None = isolated

    def tokenizer(self) -> Tokenizer | None:
        """The bundle's, which may be used after the session is closed; None where no component takes texts."""
        return None if self._text is None else IsolatedTokenizer(self._text, self._opened())

    def _compute(
        self, spec: ComponentSpec, program: None, arrays: Mapping[str, Array]
    ) -> dict[str, NDArray[np.float32]]:
        found = self._opened().ask("run", component=spec.name, inputs=arrays)
        got = {name: (rows.dtype.name, rows.shape) for name, rows in found.items()}
        expected = {tensor.name: (tensor.dtype, tensor.shape) for tensor in spec.outputs}
        if got != expected:
            raise BundleError(f"{spec.name}: expected the outputs {expected}, got {got}", hint=_HINT)
        return dict(found)

    def close(self) -> None:
        super().close()
        self._isolated = None

    def _opened(self) -> _Process:
        if self._isolated is None:
            raise TensorError("this session is closed", hint="open the bundle again")
        return self._isolated


class IsolatedTokenizer(Tokenizer):
    """The tokenizer of a bundle, in a process of its own: a file of a few hundred bytes can multiply every text."""

    def __init__(self, spec: TextPreprocessing, isolated: _Process) -> None:
        self.spec = spec
        self._isolated = isolated
        self._highest_id = int(isolated.ask("highest_id"))

    @property
    def highest_id(self) -> int:
        """The highest token id: an embedding table needs a row more."""
        return self._highest_id

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """See `Tokenizer`.

        Raises:
            BundleError: the tokenizer ended the process.
        """
        return [list(map(int, each)) for each in self._isolated.ask("ids", texts=list(texts))]


def tokenizer_of(bundle: Bundle, session: Session) -> Tokenizer | None:
    """The tokenizer that a bundle ships, in the process that its session runs in; None where no component takes texts.

    Raises:
        CheckpointError: its file is damaged.
        BundleError: it ended the process.
    """
    if isinstance(session, IsolatedSession):
        return session.tokenizer()
    return Tokenizer.of_bundle(bundle)


class _Process:
    """The other process, which knows one bundle, is asked one thing at a time, and ends when it is held no more."""

    def __init__(self, bundle: Bundle) -> None:
        self._where = bundle.path
        command, environment = children.process_of(PROGRAM)
        self._process = children.start(command, None if debugging() else subprocess.DEVNULL, environment)
        self._to, self._from = cast(IO[bytes], self._process.stdin), cast(IO[bytes], self._process.stdout)
        self._end = weakref.finalize(self, children.end, self._process)
        self._turn = threading.Lock()
        self._was_stopped = False
        self._known = {"path": str(bundle.path.resolve()), "manifest": schema.write(bundle.manifest)}

    def ask(self, what: str, **asked: Any) -> Any:
        """The answer to one question; `edgevlm.targets.isolated` has which there are.

        Raises:
            EdgeVLMError: what the target's runtime raised.
            BundleError: the process has ended.
        """
        with self._turn:
            if not self._end.alive:
                raise self._ended()
            known, self._known = self._known, {}
            try:
                with suppress(BrokenPipeError):  # it has ended already; its exit code says why
                    frames.send(self._to, {"ask": what, **known, **asked})
                answer = frames.receive(self._from)
                error, result = answer["error"], answer["result"]
            except (EOFError, ValueError, LookupError, TypeError) as problem:
                raise self._ended() from problem
            except BaseException:  # what comes next in the pipe would be the answer to this
                self._was_stopped = True
                self._process.kill()
                raise
        if error is not None:
            raise errors.from_json(error, otherwise=BundleError)
        return result

    def _ended(self) -> BundleError:
        """What became of it, once it says nothing more, or nothing that can be understood."""
        self._end()
        died = children.signal_of(self._process.returncode)
        if self._was_stopped:
            what = "was stopped"
        elif died == signal.SIGALRM:
            what = f"took longer than {LONGEST_SECONDS} s"
        elif died == signal.SIGKILL:
            what = "was killed: it needed more memory than there is"
        else:
            what = f"ended with {died.name if died else f'exit code {self._process.returncode}'}"
        return BundleError(f"{self._where}: the process that this bundle was opened in {what}", hint=_HINT)


def _once(bundle: Bundle, what: str, **asked: Any) -> Any:
    return _Process(bundle).ask(what, **asked)


def _tables(kind: type[T], found: Mapping[str, Sequence[Any]], bundle: Bundle) -> dict[str, tuple[T, ...]]:
    where = f"{bundle.path}: what the isolated process says"
    return {
        name: tuple(schema.read(kind, each, where=where, error=BundleError) for each in rows)
        for name, rows in found.items()
    }
