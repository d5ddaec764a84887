"""The task and the bench of a model that talks: what it says about pictures, converted with each recipe.

Every recipe is converted and asked as it would ship. What a part of the model costs is compared in torch, a block of
layers at a time: a large decoder has some three hundred layers, each of which would take a minute.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from edgevlm.bundle.bundle import Bundle
from edgevlm.bundle.golden_dialogues import GoldenDialogue
from edgevlm.bundle.recipe import Recipe
from edgevlm.compression.layers import layer_names
from edgevlm.compression.quantisation import quantise
from edgevlm.conversion import pipeline
from edgevlm.conversion.prepared_talker import PreparedTalker
from edgevlm.data.questions import Questions
from edgevlm.errors import CheckFailed, RecipeError
from edgevlm.evaluation.answers import spread
from edgevlm.evaluation.asking import MOST_TOKENS, PROMPTS, Asked, ask_questions, words
from edgevlm.evaluation.judging import judge
from edgevlm.graphs.session import ProgramSession
from edgevlm.inference.generator import Generator, generator_of
from edgevlm.models.talker import Talker
from edgevlm.parity import generation
from edgevlm.process.processors import usable_processors
from edgevlm.process.progress import Countdown, Progress, silent
from edgevlm.targets import registry
from edgevlm.tuning.score import Score
from edgevlm.tuning.sensitivity import LayerCost, literal
from edgevlm.tuning.trial import Trial
from edgevlm.tuning.workbench import ROUNDS, failed, kept, latency_ratio

_BLOCK_QUESTIONS = 8
"""That a block's cost is measured on: there are more blocks than recipes."""


class DialogueTask:
    """Questions about pictures, and what the float model says to them.

    Accuracy is the benchmark's own, of questions whose right answers are known; of pictures that are to be described,
    it is agreement with the float model.

    Args:
        model: The float model.
        data: The questions.
        questions: How many are asked, evenly spread over all.
        progress: Told of each.

    Raises:
        ImageError: a picture cannot be read.
    """

    def __init__(self, model: Talker, data: Questions, *, questions: int, progress: Progress) -> None:
        self._data, self._progress = data, progress
        self._how = Asked(PROMPTS[data.form], max_tokens=MOST_TOKENS[data.form], limit=questions)
        self.judged = data.form != "captions"
        rows, original = spread(len(data), questions), model.generator
        self._said: list[GoldenDialogue] = []
        for number, row in enumerate(rows):
            progress("asking the float model", number / len(rows))
            text, _ = words(original, data[row], self._how)
            self._said.append(generation.answer(self._asked(original), str(row), text))
        self.accuracy = self._accuracy(original) if self.judged else 1.0
        self.questions = len(rows)

    def score(self, talker: Generator, most: int | None = None) -> Score:
        """How well a model does.

        Args:
            talker: An open bundle, or components in torch.
            most: How many questions it is asked, without being judged; None asks all.

        Raises:
            CheckFailed: an answer is NaN or infinite.
        """
        agreements, divergences = list[bool](), list[float]()
        for number, said in enumerate(asked := self._said[:most]):
            self._progress("following the float model's answers", number / len(asked))
            model = self._asked(talker)
            logits = model.follow(*model.write(said.picture, said.question), said.answer_ids)
            if not np.isfinite(logits).all():
                raise CheckFailed(f"the answer to {said.question[:60]!r} is not finite")
            for step, got in zip(said.steps, logits, strict=True):
                _, divergence, agrees = generation.compare(step, got)
                agreements.append(agrees)
                divergences.append(divergence)
        agreement = float(np.mean(agreements))
        judged = self.judged and most is None
        return Score(self._accuracy(talker) if judged else agreement, agreement, float(np.mean(divergences)))

    @property
    def prompt(self) -> str:
        """The first question."""
        return self._said[0].question

    def _asked(self, talker: Generator) -> generation.Asked:
        """One for each question, since it keeps the pixels of what it has seen."""
        return generation.Asked(talker, lambda row: self._data.picture(int(row)))

    def _accuracy(self, talker: Generator) -> float:
        said = ask_questions(talker, self._data, self._how, None, model="", progress=self._progress)
        return judge(self._data, said).total.score


class DialogueBench:
    """What recipes are converted and measured with; see `edgevlm.tuning.search.Bench`.

    Args:
        request: What is converted, for one target, with the float32 recipe.
        model: The float model.
        task: With the float model's answers.
        baseline: What `request` came to.
        progress: Told of each block.
    """

    words = 0
    measures = "distance: mean Kullback-Leibler divergence of a token's probabilities from the float model's, in nats"

    def __init__(
        self,
        request: pipeline.Request,
        model: Talker,
        task: DialogueTask,
        baseline: Bundle,
        progress: Progress = silent,
    ) -> None:
        (self._target,) = request.targets
        self._request, self._model, self._task = request, model, task
        self._baseline, self._progress = baseline, progress
        self.accuracy, self.pictures = task.accuracy, task.questions
        self.counts = "answered right" if task.judged else "of tokens as in float32"

    def holds(self, recipe: Recipe) -> bool:
        refused = registry.converter(self._target).unsupported(self._model.programs, recipe)
        return not refused and not PreparedTalker(self._model).unsupported(recipe)

    def nearest(self, rivals: Sequence[Recipe], progress: Progress) -> Recipe:
        """The first: rivals differ in ranges, and a model that talks has none that are measured."""
        return rivals[0]

    def measure(self, recipe: Recipe, progress: Progress) -> Trial:
        """Converts with a recipe, asks the artefact, and times a token beside the float32 one's."""
        bundle = self._baseline
        if recipe != self._request.recipe:
            (outcome,) = pipeline.convert(replace(self._request, recipe=recipe, force=True), progress)
            if outcome.bundle is None or outcome.status != "passed":
                return failed(recipe, outcome.error.message if outcome.error else outcome.status)
            bundle = outcome.bundle
        with registry.runtime(self._target).open(bundle, threads=usable_processors()) as session:
            talker = generator_of(bundle, session)
            try:
                score = self._task.score(talker)
            except CheckFailed as error:
                return failed(recipe, error.message)
            ratio = None if session.evidence == "program-semantics" else self._latency_ratio(talker)
        size, download = bundle.artefact_bytes, bundle.manifest.compressed_size_bytes
        drop = 100 * (self.accuracy - score.accuracy)
        return Trial(recipe, score, size, download or size, ratio, drop, kept(bundle))

    def measure_layers(self, recipe: Recipe, *, skip: frozenset[str]) -> Iterator[LayerCost]:
        """Each block's cost, one after another."""
        model, programs = self._model, self._model.programs
        found = {name: _blocks(layer_names(program)) for name, program in programs.items()}
        every = [f"{component}/{block}" for component, blocks in found.items() for block in blocks]
        countdown = Countdown(self._progress, f"measuring blocks under {recipe.name},", len(every) - len(skip))
        for block in every:
            if block in skip:
                continue
            countdown.next(block)
            component = block.partition("/")[0]
            alone = replace(recipe, weights=replace(recipe.weights, float_layers=tuple({*every} - {block})))
            try:
                quantised, _ = quantise(programs[component].ranged(model.dialogue.context_length), alone, ())
            except RecipeError:  # a block that this recipe leaves in float anyway
                continue
            session = ProgramSession({**programs, component: replace(programs[component], module=quantised.module)})
            yield LayerCost(block, self._task.score(model.through(session), _BLOCK_QUESTIONS))

    def _latency_ratio(self, talker: Generator) -> float:
        """A token behind a question, in turn with the float32 artefact."""
        ids = talker.tokenizer.pieces(self._task.prompt)[: talker.dialogue.context_length // 2]
        with registry.runtime(self._target).open(self._baseline, threads=usable_processors()) as other:
            places = [each.place() for each in (talker, generator_of(self._baseline, other))]
            for place in places:
                place.put(ids)
            ours, theirs = (partial(place.put, ids[:1]) for place in places)
            return latency_ratio(ours, theirs, min(ROUNDS, places[0].left))


def _blocks(names: Sequence[str]) -> list[str]:
    """Globs, each of which matches the layers of a block, or one that is in none.

    >>> _blocks(["patches", "layers.0.query", "layers.0.key", "layers.1.query"])
    ['patches', 'layers.0.*', 'layers.1.*']
    """
    found = [re.match(r"(.*?\.\d+)\.", name) for name in names]
    globs = [
        literal(name) if each is None else f"{literal(each[1])}.*" for name, each in zip(names, found, strict=True)
    ]
    return list(dict.fromkeys(globs))
