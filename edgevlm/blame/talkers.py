"""Blame for a bundle that talks: each function of its files, on the picture or the dialogue that it answers worst."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from edgevlm.blame.blame import Blame, blame, worst_row
from edgevlm.bundle.bundle import Bundle
from edgevlm.bundle.dialogue import DECODE, POSITIONS
from edgevlm.bundle.spec import F32, Array
from edgevlm.graphs.program import Program, function_name
from edgevlm.graphs.session import ProgramSession
from edgevlm.inference.generator import TalkingSession
from edgevlm.inputs.chat import Message
from edgevlm.models.talker import Talker
from edgevlm.parity.generation import golden_questions
from edgevlm.process.progress import Progress, silent
from edgevlm.process.quiet import quiet
from edgevlm.targets import registry


def blame_talker(bundle: Bundle, model: Talker, progress: Progress = silent) -> tuple[Blame, ...]:
    """Where each function parts from the model, on what golden's dialogues give it.

    A component that keeps no state is run for as few rows as it takes. `decode` is run at each of its lengths, and
    finds a context in which nothing was put: at its end, where positions are large. A question that is put at once
    stands at its beginning, and a word behind it, whose place depends on where that ended, in its middle.

    Args:
        bundle: What was shipped.
        model: The float model that it was made of, with the bundle's context and lengths.
        progress: Told how far it is.

    Raises:
        MissingDependency: the target's runtime is not installed.
        BundleError: the file is damaged.
    """
    asked, found = _asked(model, progress), []
    runtime, own = registry.runtime_of(bundle), ProgramSession(model.programs)
    with runtime.open(bundle, threads=1) as session:
        for name, program in model.programs.items():
            for length in program.lengths if program.spec.state else program.lengths[:1]:
                function = function_name(name, length, program.spec.lengths) if program.spec.state else name
                progress(f"looking for what {function} answers worst", None)
                given = [_cut(program, each, length) for each in asked[name]]
                worst = worst_row(_answers(own, program, given), _answers(session, program, given))
                inputs = _moved(program, given[worst], model.dialogue.context_length)
                progress(f"tracing {function}", None)
                with quiet():
                    ops = runtime.trace(bundle, name, inputs)
                    progress(f"comparing {len(ops)} ops of {function} with the model's", None)
                    alone = program.explicit(length) if program.spec.lengths else program
                    alone = replace(alone, spec=replace(alone.spec, name=function))
                    state = {each.name: np.zeros(each.shape, np.float32) for each in program.spec.state}
                    found.append(blame(alone, ops, {**inputs, **state}, bundle.manifest.recipe, sample=worst))
    return tuple(found)


def _asked(model: Talker, progress: Progress) -> dict[str, list[Mapping[str, Array]]]:
    """What each component is given when golden's dialogues begin: `decode` once a dialogue, the others each time."""
    recorder = _Recorder(model)
    asking = model.through(recorder)
    questions = golden_questions(model.generator)
    for number, (picture, question) in enumerate(questions):
        progress("putting dialogues", number / len(questions))
        seen = None if picture is None else asking.see(picture)
        asking.begin(asking.place(), asking.write([Message("user", question, int(seen is not None))], seen), seen)
    return recorder.given


class _Recorder(ProgramSession):
    """Notes what it is asked."""

    def __init__(self, model: Talker) -> None:
        super().__init__(model.programs)
        self.given: dict[str, list[Mapping[str, Array]]] = {name: [] for name in model.programs}

    def run(self, component: str, inputs: Mapping[str, Array], state: object = None) -> dict[str, NDArray[np.float32]]:
        if component != DECODE or inputs[POSITIONS][0, 0] == 0:
            self.given[component].append(dict(inputs))
        return super().run(component, inputs, state)  # type: ignore[arg-type]


def _cut(program: Program, given: Mapping[str, Array], length: int) -> Mapping[str, Array]:
    """The first so many of the rows: where there are fewer, again from the first, or padding behind a question."""
    if not program.spec.lengths:
        return given
    cut = {each.name: each.shape.index(-1) for each in program.spec.inputs if -1 in each.shape}
    count = next(given[name].shape[axis] for name, axis in cut.items())
    if POSITIONS in cut:
        count = int((given[POSITIONS] >= 0).sum())
    places = np.arange(length) % count
    found = {name: np.take(rows, places, cut[name]) if name in cut else rows for name, rows in given.items()}
    if POSITIONS in cut:
        found[POSITIONS] = np.arange(length, dtype=np.int32)[None]
        if program.spec.prefix:
            found[POSITIONS][:, count:] = -1
    return found


def _moved(program: Program, given: Mapping[str, Array], context_length: int) -> Mapping[str, Array]:
    """The same rows at the end of the context; one behind a question that is put at once, in its middle."""
    if POSITIONS not in given:
        return given
    length = given[POSITIONS].shape[1]
    at = context_length - length
    if program.spec.prefix:
        at = context_length // 2 if length == 1 else 0
    return {**given, POSITIONS: given[POSITIONS] + np.int32(at)}


def _answers(session: TalkingSession, program: Program, asked: Sequence[Mapping[str, Array]]) -> dict[str, F32]:
    """Of each by itself, float32 [N, ...] an output."""
    name, found = program.spec.name, list[Mapping[str, F32]]()
    for given in asked:
        state = session.make_state(name) if program.spec.state else None
        found.append(session.run(name, given, state))
    return {each.name: np.concatenate([answers[each.name] for answers in found]) for each in program.spec.outputs}
