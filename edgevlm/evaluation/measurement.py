"""Everything that one dataset allows to be measured: asked once, then computed on arrays."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from edgevlm.bundle.spec import F32
from edgevlm.data.dataset import Dataset
from edgevlm.data.rendered import RenderedScenes
from edgevlm.enrichment.descriptions import Descriptions, label_texts
from edgevlm.errors import DataError, UnsupportedError
from edgevlm.evaluation import diagnostics, few_shot, index, retrieval, scene_zero_shot, threshold, zero_shot
from edgevlm.evaluation.answers import Answers, Question, ask_pictures, ask_texts, spread
from edgevlm.evaluation.diagnostics import Diagnostics
from edgevlm.evaluation.encoders import Encoder, choose_speaker
from edgevlm.evaluation.few_shot import FewShot
from edgevlm.evaluation.index import Index
from edgevlm.evaluation.retrieval import Retrieval
from edgevlm.evaluation.scene_zero_shot import SceneAccuracy
from edgevlm.evaluation.threshold import Threshold
from edgevlm.evaluation.zero_shot import ZeroShot
from edgevlm.inference.embeddings import average
from edgevlm.inputs.labels import check_lengths, quoted, same_to_model
from edgevlm.process.progress import Progress


@dataclass(frozen=True)
class Options:
    """How a dataset is asked about; see `edgevlm.evaluation.evaluation.evaluate`."""

    templates: tuple[str, ...]
    descriptions: Descriptions | None
    shots: tuple[int, ...]
    seeds: int
    attributes: bool
    index: bool
    threshold: bool
    limit: int | None
    max_unreadable: float


@dataclass(frozen=True)
class SetEvaluation:
    """What was measured on one dataset.

    Attributes:
        name: What a user called it.
        pictures: How many were read.
        skipped: Key of each picture that could not be read, and why.
        zero_shot: Where the pictures have labels, and there are texts for them or those very labels are baked in.
        threshold: Likewise, and it was asked for.
        few_shot: Where they have labels and shots were asked for, one each.
        teacher_zero_shot: The teacher's own, where one was given: what there is to reach.
        retrieval: Where they have captions, and there is a text tower.
        attributes: Where they are rendered scenes, and it was asked for.
        index: Where the model has embeddings, and it was asked for.
        diagnostics: Where a teacher was given.
        notes: What was left out or cut, and why.
        seconds: Wall time.
    """

    name: str
    pictures: int
    skipped: Mapping[str, str]
    zero_shot: ZeroShot | None
    threshold: Threshold | None
    few_shot: tuple[FewShot, ...]
    teacher_zero_shot: ZeroShot | None
    retrieval: Retrieval | None
    attributes: SceneAccuracy | None
    index: Index | None
    diagnostics: Diagnostics | None
    notes: tuple[str, ...]
    seconds: float


class Measurement:
    """A dataset and what will be measured on it.

    Args:
        name: What a user called it.
        data: The pictures.
        student: What is evaluated.
        teacher: What the student is compared with, if anything.
        options: How.

    Raises:
        DataError: the data is empty or has no words, or a class has too few pictures for the shots.
        LabelError: a label's text is longer than the context of a text tower, or has no description.
        UnsupportedError: nothing can be measured on this data with this model.
    """

    def __init__(self, name: str, data: Dataset, student: Encoder, teacher: Encoder | None, options: Options) -> None:
        self.name, self._data, self._options = name, data, options
        self._student, self._teacher, self._speaker = student, teacher, choose_speaker(student, teacher)
        self._rows = spread(len(data), options.limit)
        if not self._rows:
            raise DataError(f"{name}: expected pictures to evaluate, got none")
        examples = [data.example(row) for row in self._rows]
        self._truth = np.array([-1 if each.label is None else each.label for each in examples])
        self._captions = tuple(each.captions for each in examples)
        labelled = bool((self._truth >= 0).any())
        if not labelled and not any(self._captions):
            raise DataError(f"{name}: expected labels or captions, got pictures without words")
        # Labels that are baked in are what ships, where the student cannot read others.
        self._scores = labelled and self._speaker is not student and set(data.labels) <= set(student.labels)
        self._probes = labelled and bool(options.shots) and student.embedding_dim is not None
        self._scenes = data if options.attributes and self._speaker and isinstance(data, RenderedScenes) else None
        self._asks = self._choose_questions()
        self._label_texts: tuple[tuple[str, ...], ...] = ()
        if labelled and self._speaker:
            self._label_texts = label_texts(data.labels, options.templates, options.descriptions)
        self._notes = tuple(self._find_gaps())
        if not self._asks:
            baked = f"; or evaluate it on pictures of its baked labels, {quoted(student.labels)}, a folder each"
            raise UnsupportedError(
                f"{name}: nothing to measure: {'; '.join(self._notes)}",
                hint="give --teacher a model with a text tower; or convert one, without --image-only"
                + baked * bool(student.labels),
            )
        if self._probes:
            few_shot.refuse_rare(self._truth[self._truth >= 0], data.labels, max(options.shots), where=name)
        for encoder in filter(None, (student, teacher)):
            if encoder.tokenizer is not None and self._label_texts:
                context = f"the context of {encoder.name}"
                check_lengths(data.labels, self._label_texts, encoder.tokenizer, context=context)

    def run(self, progress: Progress) -> SetEvaluation:
        """Asks, and measures.

        Raises:
            DataError: too many pictures cannot be read.
            CheckFailed: an embedding is not finite.
        """
        began = time.monotonic()
        answers = ask_pictures(
            self._data,
            self._rows,
            self._asks,
            max_unreadable=self._options.max_unreadable,
            progress=progress,
            stage=self.name,
        )
        words = _Words(self._label_texts, [self._captions[place] for place in answers.places])
        texts = self._ask_texts(self._speaker, words, progress)
        told = texts
        if self._teacher is not self._speaker and "teacher" in answers.by:
            told = self._ask_texts(self._teacher, words, progress)
        cosines = self._label_cosines(answers, texts, words)
        truth = self._truth[answers.places]
        return SetEvaluation(
            name=self.name,
            pictures=len(answers.places),
            skipped=answers.skipped,
            zero_shot=self._compare(cosines, truth),
            threshold=self._threshold(cosines, truth),
            few_shot=self._few_shot(answers, progress),
            teacher_zero_shot=self._compare(self._cosines_of(answers, "teacher", told, words), truth),
            retrieval=self._retrieval(answers, texts, words),
            attributes=self._tell_attributes(answers, progress),
            index=self._index(answers, texts, words, progress),
            diagnostics=self._diagnose(answers, texts, told, words),
            notes=self._notes,
            seconds=time.monotonic() - began,
        )

    def _choose_questions(self) -> dict[str, Question]:
        asks: dict[str, Question] = {}
        if self._scores:
            asks["labels"] = self._student.score_labels
        if self._student.embedding_dim is not None and (
            self._speaker or self._probes or self._teacher or self._options.index
        ):
            asks["student"] = self._student.encode_pictures
            if self._teacher:
                asks["teacher"] = self._teacher.encode_pictures
        return asks

    def _find_gaps(self) -> Iterator[str]:
        """What the data and the model do not allow to be measured, or only in part."""
        student, teacher, data, options = self._student, self._teacher, self._data, self._options
        labelled, captioned = self._truth >= 0, any(self._captions)
        towerless = f"{student.name} has no text tower"
        if self._speaker and self._speaker is not student:
            yield f"{towerless}: texts are encoded by {self._speaker.name}"
        if labelled.any():
            if self._speaker is None and not self._scores:
                yield f"no zero-shot: {towerless}, and {_say_lacking(student.labels, data.labels)}"
            if empty := len(data.labels) - len(np.unique(self._truth[labelled])):
                yield f"{empty:,} of the {len(data.labels):,} labels have no pictures, but can be mistaken for others"
            if self._label_texts and self._speaker and self._speaker.tokenizer:
                for group in same_to_model(data.labels, self._label_texts, self._speaker.tokenizer):
                    yield f"the labels {', '.join(map(repr, group))} are one and the same to {self._speaker.name}"
            if unlabelled := int((~labelled).sum()):
                yield f"{unlabelled:,} of the {len(labelled):,} pictures have no label"
        if captioned and self._speaker is None:
            yield f"no retrieval: {towerless}"
        if options.shots and not self._probes:
            why = f"{student.name} has only `classify`, no embeddings" if labelled.any() else "the data has no labels"
            yield f"no few-shot probe: {why}"
        if options.attributes and self._scenes is None:
            why = towerless if self._speaker is None else "the data are no rendered scenes"
            yield f"no accuracy by attribute: {why}"
        if options.threshold and (len(data.labels) < 2 or (self._speaker is None and not self._scores)):
            yield "no threshold: it takes two labels at least, and their texts"
        if options.index and student.embedding_dim is None:
            yield f"no index: {student.name} has only `classify`, no embeddings"
        if teacher and student.embedding_dim is None:
            yield f"no comparison with {teacher.name}: {student.name} has only `classify`, no embeddings"
        elif teacher and teacher.embedding_dim != student.embedding_dim:
            yield f"no M_rel: embeddings of {student.embedding_dim} and of {teacher.embedding_dim} numbers"
        for encoder in filter(None, (self._speaker, teacher if teacher is not self._speaker else None)):
            yield from _say_cut(encoder, self._captions)

    def _ask_texts(self, encoder: Encoder | None, words: _Words, progress: Progress) -> F32 | None:
        if encoder is None or encoder.tokenizer is None or not words.texts:
            return None
        return ask_texts(encoder.encode_texts, words.texts, progress=progress, stage=self.name)

    def _label_cosines(self, answers: Answers, texts: F32 | None, words: _Words) -> F32 | None:
        """Of each picture with each label, as the student sees them; None where it cannot."""
        if not self._scores:
            return self._cosines_of(answers, "student", texts, words)
        order = [self._student.labels.index(label) for label in self._data.labels]
        return answers.by["labels"][:, order]

    def _cosines_of(self, answers: Answers, who: str, texts: F32 | None, words: _Words) -> F32 | None:
        """Of somebody's pictures with the labels' texts."""
        if who not in answers.by or texts is None or not self._label_texts:
            return None
        found: F32 = answers.by[who] @ words.of_labels(texts).T
        return found

    def _compare(self, cosines: F32 | None, truth: NDArray[np.int64]) -> ZeroShot | None:
        labelled = truth >= 0
        if cosines is None or not labelled.any():
            return None
        return zero_shot.measure(cosines[labelled], truth[labelled], self._data.labels)

    def _threshold(self, cosines: F32 | None, truth: NDArray[np.int64]) -> Threshold | None:
        labelled = truth >= 0
        if not self._options.threshold or cosines is None:
            return None
        return threshold.measure(cosines[labelled], truth[labelled])

    def _few_shot(self, answers: Answers, progress: Progress) -> tuple[FewShot, ...]:
        if not self._probes:
            return ()
        truth = self._truth[answers.places]
        embeddings, truth = answers.by["student"][truth >= 0], truth[truth >= 0]
        # Again: a picture that could not be read may have been one of few.
        few_shot.refuse_rare(truth, self._data.labels, max(self._options.shots), where=self.name)
        return tuple(
            few_shot.measure(
                embeddings, truth, shots, self._options.seeds, partial(progress, f"{self.name}: {shots}-shot probe")
            )
            for shots in self._options.shots
        )

    def _retrieval(self, answers: Answers, texts: F32 | None, words: _Words) -> Retrieval | None:
        if texts is None or not words.captions:
            return None
        captioned = [place for place, own in enumerate(words.own) if own]
        own = [words.own[place] for place in captioned]
        return retrieval.measure(answers.by["student"][captioned], words.of_captions(texts), own)

    def _tell_attributes(self, answers: Answers, progress: Progress) -> SceneAccuracy | None:
        if self._scenes is None or self._speaker is None:
            return None
        scenes = [self._scenes.scene(self._rows[place]) for place in answers.places]
        step = partial(progress, f"{self.name}: accuracy by attribute")
        return scene_zero_shot.measure(answers.by["student"], scenes, self._speaker.encode_texts, step)

    def _index(self, answers: Answers, texts: F32 | None, words: _Words, progress: Progress) -> Index | None:
        if not self._options.index or "student" not in answers.by:
            return None
        progress(f"{self.name}: searching in small codes", None)
        asked = None if texts is None or not words.captions else words.of_captions(texts)
        return index.measure(answers.by["student"], self._student.mean_embedding, asked, words.own)

    def _diagnose(self, answers: Answers, texts: F32 | None, told: F32 | None, words: _Words) -> Diagnostics | None:
        if self._teacher is None or "teacher" not in answers.by:
            return None
        pick = words.of_labels if len(self._label_texts) > 1 else words.of_captions
        pairs = None if texts is None or told is None else (pick(texts), pick(told))
        return diagnostics.measure(answers.by["student"], answers.by["teacher"], pairs, teacher_name=self._teacher.name)


class _Words:
    """Every text that is asked about: the labels' own, then each different caption once."""

    def __init__(self, labels: Sequence[Sequence[str]], captions: Sequence[Sequence[str]]) -> None:
        places: dict[str, int] = {}
        self.own = [tuple(places.setdefault(text, len(places)) for text in several) for several in captions]
        self.captions = tuple(places)
        self.texts = (*(text for several in labels for text in several), *self.captions)
        self._sizes = [len(several) for several in labels]

    def of_labels(self, embeddings: F32) -> F32:
        """A vector a label, of the embeddings of `texts`."""
        return average(embeddings[: sum(self._sizes)], self._sizes)

    def of_captions(self, embeddings: F32) -> F32:
        """A vector a caption."""
        return embeddings[sum(self._sizes) :]


def _say_cut(encoder: Encoder, captions: Sequence[Sequence[str]]) -> Iterator[str]:
    if encoder.tokenizer is None:
        return
    length = encoder.tokenizer.spec.context_length
    different = {text for several in captions for text in several}
    if cut := sum(encoder.tokenizer.token_count(text) > length for text in different):
        yield f"{encoder.name}: {cut:,} of {len(different):,} captions were cut to its {length} tokens"


def _say_lacking(baked: Sequence[str], wanted: Sequence[str]) -> str:
    if not baked:
        return "no labels are baked in"
    return f"its baked labels lack {quoted(sorted(set(wanted) - set(baked)), most=3)}"
