"""The task that a compressed model must not get worse at: naming pictures, with words that nobody trained it on.

Pictures with labels are to be given theirs; pictures with captions, their own among all. Both towers take part, as
they are shipped.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgevlm.bundle.spec import F32
from edgevlm.data.dataset import Dataset, read_pictures
from edgevlm.data.subsets import limit
from edgevlm.errors import DataError
from edgevlm.inference.embeddings import average, centred_cosine
from edgevlm.inputs.rows import EMBEDDING, PIXELS, TOKEN_IDS, Rows, encoder, make_rows
from edgevlm.models.model import Model
from edgevlm.parity.comparison import Answers
from edgevlm.process.progress import Progress
from edgevlm.tuning.score import Score

TEMPLATE = "a photo of a {}"


class Task:
    """Pictures, the words to choose from, and what the float model answers.

    Args:
        model: The float model; where it has no text tower, its own labels are the words.
        data: Pictures with labels or captions.
        pictures: How many are taken.
        progress: Told how far reading them is.

    Raises:
        DataError: there are too few words to choose from, or they do not fit the model.
        ImageError: a picture cannot be read.
    """

    def __init__(self, model: Model, data: Dataset, *, pictures: int, progress: Progress) -> None:
        chosen = limit(data, pictures)
        words, self._truth, self._sizes = _words(chosen, model)
        self._fixed = None if model.label_embeddings is None else model.label_embeddings.numpy()
        if self._fixed is None and model.tokenizer is None:
            raise DataError(f"{model.source.name} has neither a text tower nor labels to choose from")
        self.words = len(self._sizes)
        found = (encoder(model.original.specs.values(), taken) for taken in (PIXELS, TOKEN_IDS))
        self._images, self._texts = (None if spec is None else spec.name for spec in found)
        self.samples = make_rows(read_pictures(chosen, progress), words, model.image, model.tokenizer)
        self._float_image: F32 | None = None
        self._float_best: NDArray[np.int64] | None = None

    def first(self, pictures: int) -> Rows:
        """The first pictures, and all texts."""
        return {**self.samples, PIXELS: self.samples[PIXELS][:pictures]}

    def set_reference(self, answers: Answers) -> Score:
        """Takes the float model's answers as what others are compared with."""
        self._float_image = _embeddings(answers, self._images)
        self._float_best = self._best(answers)
        return self.score(answers)

    def score(self, answers: Answers) -> Score:
        """How well answers to `samples`, or to the `first` of them, do.

        Args:
            answers: Without embeddings of texts where the model has labels of its own.
        """
        if self._float_image is None or self._float_best is None:
            raise DataError("the float model's answers come first")
        images = _embeddings(answers, self._images)
        best, count = self._best(answers), len(images)
        return Score(
            accuracy=float((best == self._truth[:count]).mean()),
            agreement=float((best == self._float_best[:count]).mean()),
            distance=1 - centred_cosine(self._float_image[:count], images, mean=self._float_image.mean(0)),
        )

    def _best(self, answers: Answers) -> NDArray[np.int64]:
        texts = self._fixed
        if texts is None:
            texts = average(_embeddings(answers, self._texts), self._sizes)
        best: NDArray[np.int64] = (_embeddings(answers, self._images) @ texts.T).argmax(1)
        return best


def _words(data: Dataset, model: Model) -> tuple[list[str], NDArray[np.int64], list[int]]:
    """The texts to encode, each picture's right one, and how many texts each choice has."""
    examples = [data.example(index) for index in range(len(data))]
    if data.labels:
        missing = sum(example.label is None for example in examples)
        if missing:
            raise DataError(f"{data.name}: {missing} of {len(examples)} pictures have no label")
        names = list(data.labels)
        own = model.labels.names if model.labels else None
        if own is not None and tuple(names) != own:
            raise DataError(
                f"{data.name}: expected the labels that {model.source.name} knows, {', '.join(own[:5])}, ..., "
                f"got {', '.join(names[:5])}, ..."
            )
        truth = np.array([example.label for example in examples], np.int64)
        return _checked(data, [TEMPLATE.format(name) for name in names]), truth, [1] * len(names)
    captions = [example.captions[0] for example in examples if example.captions]
    if len(captions) < len(examples):
        raise DataError(
            f"{data.name}: {len(examples) - len(captions)} of {len(examples)} pictures have neither label nor caption",
            hint="the search needs to know what is right",
        )
    words = list(dict.fromkeys(captions))
    truth = np.array([words.index(caption) for caption in captions], np.int64)
    return _checked(data, words), truth, [1] * len(words)


def _checked(data: Dataset, words: list[str]) -> list[str]:
    if len(words) < 2:
        raise DataError(f"{data.name}: expected two or more labels or captions to choose from, got {len(words)}")
    return words


def _embeddings(answers: Answers, component: str | None) -> F32:
    if component is None or component not in answers:
        raise DataError(f"there are no embeddings of {component or 'texts'} to compare")
    return answers[component][EMBEDDING]
