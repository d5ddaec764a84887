"""`evaluate`: how good a model or a bundle is on pictures with labels or captions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from edgevlm.data.dataset import Dataset
from edgevlm.data.sources import open_data
from edgevlm.enrichment.descriptions import Descriptions
from edgevlm.errors import InputError
from edgevlm.evaluation import few_shot
from edgevlm.evaluation.encoders import choose_speaker, open_encoder
from edgevlm.evaluation.measurement import Measurement, Options, SetEvaluation
from edgevlm.process.progress import Progress

TEMPLATES = ("a photo of a {}",)
"""What students are trained with, too, unless their recipe says otherwise."""


@dataclass(frozen=True)
class Evaluation:
    """What was measured, on each dataset.

    Attributes:
        model: What a user called it.
        evidence: `reference` for a float model in torch; for a bundle see `edgevlm.bundle.ParityReport`.
        precision: Of the weights.
        templates: Put around each label; empty where there is no text tower.
        sets: One for each dataset, in the order given.
    """

    model: str
    evidence: str
    precision: str
    templates: tuple[str, ...]
    sets: tuple[SetEvaluation, ...]


def evaluate(
    model: str | Path,
    data: str | Path | Dataset | Mapping[str, str | Path | Dataset],
    *,
    templates: Sequence[str] | None = None,
    descriptions: Descriptions | str | Path | None = None,
    shots: Sequence[int] = (),
    seeds: int = 5,
    attributes: bool = False,
    index: bool = False,
    threshold: bool = False,
    teacher: str | Path | None = None,
    limit: int | None = None,
    images: str | Path | None = None,
    max_unreadable: float = 0.01,
    progress: Progress = lambda stage, share: None,
) -> Evaluation:
    """Measures what the data allows: labels zero-shot and few-shot, captions by retrieval.

    >>> found = edgevlm.evaluate("dist/my-student-tflite-fp32.edgevlm", {"seen": "my-pictures/", "unseen": "others/"})
    >>> [(each.name, each.zero_shot.top1) for each in found.sets]

    Args:
        model: A bundle's folder, or what `edgevlm.convert` takes.
        data: What `edgevlm.data.sources.open_data` takes, or a dataset; or several of them by name, such as pictures
            of the classes trained on and of others.
        templates: Texts in which `{}` stands for the label; their embeddings are averaged. `TEMPLATES` if None.
        descriptions: Sentences about the labels, or the file that `edgevlm enrich` wrote.
        shots: Pictures of each class for a linear probe; a probe for each number.
        seeds: Draws of these pictures.
        attributes: Also tell pictures of rendered scenes from wrong descriptions of them, attribute by attribute.
        index: Also measure what an index of int8 or binary codes keeps of search by float32 embeddings.
        threshold: Also find from which cosine on a picture shows one of the labels at all.
        teacher: A model or bundle to compare the embeddings with; it encodes the texts for a model that has no text
            tower.
        limit: Number of pictures of each dataset, evenly spread over it; all if None.
        images: Folder of the pictures that a captions file names.
        max_unreadable: Share of the pictures that may be unreadable; they are skipped and listed.
        progress: Told how far it is.

    Raises:
        EdgeVLMError: what is wrong with the question, before the long work starts.
        DataError: more pictures than that are unreadable.
        CheckFailed: an embedding is NaN or infinite.
        MissingDependency: a package is not installed, such as the runtime of the bundle's target.
    """
    if any(number < 1 for number in shots) or seeds < 1 or (limit is not None and limit < 1):
        raise InputError(f"expected shots, seeds and limit of at least 1, got {list(shots)}, {seeds} and {limit}")
    if shots:
        few_shot.require()
    sets = _open(data, None if images is None else Path(images))
    with ExitStack() as stack:
        progress("opening the model", None)
        student = stack.enter_context(open_encoder(model))
        guide = None if teacher is None else stack.enter_context(open_encoder(teacher))
        if guide is not None and guide.embedding_dim is None:
            raise InputError(f"{teacher}: expected a teacher with embeddings, got a bundle with only `classify`")
        speaker = choose_speaker(student, guide)
        if speaker is None and (templates or descriptions):
            raise InputError(
                f"{model} has no text tower, so templates and descriptions change nothing",
                hint="leave them out, as they were baked in with the labels, or give --teacher to encode them",
            )
        if isinstance(descriptions, str | Path):
            descriptions = Descriptions.read(Path(descriptions))
        options = Options(
            templates=tuple(templates or TEMPLATES),
            descriptions=descriptions,
            shots=tuple(shots),
            seeds=seeds,
            attributes=attributes,
            index=index,
            threshold=threshold,
            limit=limit,
            max_unreadable=max_unreadable,
        )
        measurements = [Measurement(name, each, student, guide, options) for name, each in sets.items()]
        return Evaluation(
            model=student.name,
            evidence=student.evidence,
            precision=student.precision,
            templates=options.templates if speaker else (),
            sets=tuple(measurement.run(progress) for measurement in measurements),
        )


def _open(
    data: str | Path | Dataset | Mapping[str, str | Path | Dataset], images: Path | None
) -> Mapping[str, Dataset]:
    sets = data if isinstance(data, Mapping) else {"": data}
    files = [one for one in sets.values() if isinstance(one, str | Path) and str(one).lower().endswith(".json")]

    def opened(one: str | Path | Dataset) -> Dataset:
        if not isinstance(one, str | Path):
            return one
        # Beside a captions file, which they are for, other forms are opened without; alone, they refuse them.
        return open_data(one, images=None if files and one not in files else images)

    found = [(name, opened(one)) for name, one in sets.items()]
    return {name or one.name: one for name, one in found}
