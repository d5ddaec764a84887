"""The process that `edgevlm.targets.isolation` starts: it is asked about a bundle, tokenizer or chat template, within
limits.

It reads frames (`edgevlm.process.frames`) from stdin and writes as many to stdout, `{"error": ..., "result": ...}`, one
of them null. When stdin ends, so does it.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevlm import errors, schema
from edgevlm.bundle.bundle import Bundle
from edgevlm.bundle.manifest import Manifest
from edgevlm.errors import BundleError, CheckpointError, EdgeVLMError
from edgevlm.inputs.texts import Tokenizer, without_rules
from edgevlm.process import frames
from edgevlm.targets import registry
from edgevlm.targets.app_runner import Runner, RunnerTarget
from edgevlm.targets.inspection import Adviser
from edgevlm.targets.isolation import LONGEST_SECONDS, TEMPLATE_SECONDS
from edgevlm.targets.runtime import Session, State

_MEMORY_BYTES = 2_000_000_000
"""Of the libraries and of activations; what weights take comes to it."""
_COPIES_OF_WEIGHTS = 8
_OF_TOKENIZER = ("ids", "pieces", "text")


class _AskedBundle:
    """A bundle, and its session once that is open.

    Args:
        path: Of the bundle, whose files were checked by whoever asks.
        manifest: What its manifest says, in plain values.
    """

    def __init__(self, path: str, manifest: Mapping[str, Any]) -> None:
        read = schema.read(Manifest, manifest, where=path, error=BundleError)
        self._bundle = Bundle(Path(path), read)
        _limit_memory(_MEMORY_BYTES + _COPIES_OF_WEIGHTS * self._bundle.artefact_bytes)
        self._runtime = registry.runtime(read.target)
        self._session: Session | None = None
        self._tokenizer: Tokenizer | None = None
        self._states: list[State | None] = []
        self._runner: Runner | None = None

    def answer(self, ask: str, **asked: Any) -> Any:
        """What a method of the target's runtime, of the session or of the tokenizer gives."""
        if ask == "open":
            self._session = self._runtime.open(self._bundle, **asked)
            return self._session.evidence
        if ask == "run" and self._session is not None:
            return self._session.run(**asked)
        if ask == "make_state" and self._session is not None:
            self._states.append(self._session.make_state(**asked))
            return len(self._states) - 1
        if ask == "run_on" and self._session is not None:
            for number in asked["forgotten"]:
                self._states[number] = None
            return self._session.run(asked["component"], asked["inputs"], self._states[asked["state"]])
        if ask == "runner_ids" and isinstance(self._runtime, RunnerTarget):
            self._runner = self._runner or self._runtime.open_runner(self._bundle)
            return self._runner.ids(**asked)
        if ask == "highest_id":
            return self._read_tokenizer().highest_id
        if ask in _OF_TOKENIZER:
            return getattr(self._read_tokenizer(), ask)(**asked)
        if ask == "inspect":
            return self._runtime.inspect(self._bundle)
        if ask == "advice":
            return self._runtime.advice(self._bundle) if isinstance(self._runtime, Adviser) else {}
        if ask == "stored_weights":
            return self._runtime.stored_weights(self._bundle)
        if ask == "trace":
            return self._runtime.trace(self._bundle, **asked)
        raise ValueError(f"expected a question, got {ask!r}")

    def _read_tokenizer(self) -> Tokenizer:
        dialogue = self._bundle.manifest.dialogue
        if dialogue is not None:
            self._tokenizer = self._tokenizer or Tokenizer(without_rules(dialogue.tokenizer_file), self._bundle.path)
        self._tokenizer = self._tokenizer or Tokenizer.of_bundle(self._bundle)
        if self._tokenizer is None:
            raise BundleError(f"{self._bundle.path}: expected a tokenizer, got none")
        return self._tokenizer


class _AskedTemplate:
    """The chat template of a checkpoint: Jinja may loop for as long as it likes, and multiply what it is given.

    Args:
        content: The template, uint8 [bytes].
        where: Its place.
    """

    def __init__(self, content: NDArray[np.uint8], where: str) -> None:
        _limit_memory(_MEMORY_BYTES)
        from transformers.utils.chat_template_utils import render_jinja_template

        self._render, self._template, self._where = render_jinja_template, content.tobytes().decode(), where

    def answer(self, ask: str, *, conversation: Any, to_answer: bool, words: Mapping[str, Any]) -> str:
        """What the template makes of a conversation, as transformers renders it."""
        if ask != "render":
            raise ValueError(f"expected a question, got {ask!r}")
        signal.setitimer(signal.ITIMER_PROF, TEMPLATE_SECONDS)
        try:
            rendered: Any = self._render(
                conversations=[conversation],
                chat_template=self._template,
                add_generation_prompt=to_answer,
                **words,
            )
        except Exception as error:  # Jinja's own, and whatever the template's expressions raise
            said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise CheckpointError(
                f"{self._where}: the chat template fails: {said}",
                hint="take the template of the checkpoint that this one was tuned from",
            ) from error
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        return str(rendered[0][0])


class _AskedTokenizer:
    """The tokenizer of a checkpoint, of which a process may be told several, one after the other.

    Args:
        content: Of its file, uint8 [bytes].
        where: The file's name.
    """

    def __init__(self, content: NDArray[np.uint8], where: str) -> None:
        _limit_memory(_MEMORY_BYTES)
        self._tokenizer = Tokenizer.from_bytes(without_rules(where), content.tobytes())

    def answer(self, ask: str, **asked: Any) -> Any:
        """What a method of the tokenizer gives."""
        if ask == "highest_id":
            return self._tokenizer.highest_id
        if ask in _OF_TOKENIZER:
            return getattr(self._tokenizer, ask)(**asked)
        raise ValueError(f"expected a question, got {ask!r}")


_Asked = _AskedBundle | _AskedTokenizer | _AskedTemplate


def _subject(question: dict[str, Any], before: _Asked | None) -> _Asked:
    """What is asked about from this question on, which it is taken out of; where it is not in there, that of before."""
    bundle, tokenizer, template, where = (
        question.pop(key, None) for key in ("bundle", "tokenizer", "template", "where")
    )
    if tokenizer is not None:
        return _AskedTokenizer(tokenizer, where)
    if template is not None:
        return _AskedTemplate(template, where)
    if bundle is not None:
        return _AskedBundle(**bundle)
    if before is None:
        raise ValueError("expected a bundle or a tokenizer in the first question")
    return before


def main() -> None:
    """Answers until nobody asks any more."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # no image of the memory of what is going to crash
    source, sink = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what backends print goes to stderr
    asked: _Asked | None = None
    with suppress(EOFError):
        while True:
            question = frames.receive(source)
            signal.alarm(LONGEST_SECONDS)
            error, result = None, None
            try:
                asked = _subject(question, asked)
                result = asked.answer(**question)
            except EdgeVLMError as problem:
                error = errors.to_json(problem)
            except MemoryError as problem:
                error = errors.to_json(BundleError(f"the artefact needs more memory than there is: {problem}"))
            except Exception as problem:  # of whatever kind: the bundle is nobody's that this machine knows
                said = f"the artefact cannot be read: {type(problem).__name__}: {str(problem)[:500]}"
                error = errors.to_json(BundleError(said, hint="convert the model again"))
            frames.send(sink, {"error": error, "result": result})
            signal.alarm(0)


def _limit_memory(most_bytes: int) -> None:
    """Data, not address space: files may be mapped, and libraries reserve what they never touch."""
    with suppress(OSError, ValueError):  # a lower limit than this is in force already
        resource.setrlimit(resource.RLIMIT_DATA, (most_bytes, most_bytes))


if __name__ == "__main__":
    main()
    os._exit(0)  # some backends' threads crash when the interpreter is taken down around them
