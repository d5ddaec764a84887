"""The Python API: distill a model, convert it, open the bundle, ask it. `edgevlm` hands these out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from edgevlm.bundle import Bundle, Labels, Recipe
from edgevlm.errors import InputError, ParityFailed
from edgevlm.inference.embedder import BundleModel
from edgevlm.inputs.labels import PLAIN
from edgevlm.inputs.sequences import listed_texts

if TYPE_CHECKING:
    from edgevlm.compression.calibration import CalibrationSource
    from edgevlm.data.dataset import Dataset
    from edgevlm.distillation.distillation import Distilled
    from edgevlm.distillation.recipe import DistillRecipe
    from edgevlm.enrichment.descriptions import Descriptions


def open(path: str | Path, *, threads: int | None = None, trusted: bool = False) -> BundleModel:
    """Opens a bundle after checking every file in it against its manifest.

    A bundle that this machine did not convert runs in a process of its own, with limits of memory and time: hashes say
    that a file is the one that was published, and not that it does no harm, and a few bytes of it can end the process
    that opens it. What dies there is a BundleError here. That costs 0.4 s and 45 MB at the start, and one or two
    milliseconds a picture. An app that ships a bundle of its own spares itself that with `trusted=True`.

    >>> with edgevlm.open("dist/edgevlm-student-coreml-fp16.edgevlm") as model:
    ...     embeddings = model.encode_text(["a cat", "a dog"])
    >>> embeddings.shape == (2, model.bundle.manifest.embedding.dim)
    True

    Args:
        path: The bundle's folder.
        threads: CPU threads of the backend; its own default where None.
        trusted: Whether the bundle may run in this process wherever it was made. It must then not be cut while it is
            open: backends map its files, and to read what is gone ends a process.

    Raises:
        BundleError: it is damaged or not a bundle; or, later, it ended the process that runs it.
        MissingDependency: the runtime of its target is not installed.
    """
    return BundleModel(Bundle.open(path), threads=threads, trusted=trusted)


def convert(
    model: str | Path = "edgevlm-student",
    *,
    target: str,
    recipe: str | Path | Recipe = "fp16",
    out: str | Path = "dist",
    labels: Sequence[str] | Labels | None = None,
    templates: Sequence[str] = (PLAIN,),
    descriptions: Descriptions | str | Path | None = None,
    image_only: bool = False,
    calibration: str | Path | CalibrationSource | None = None,
    context_length: int | None = None,
    lengths: Sequence[int] | None = None,
    picture_size: tuple[int, int] | None = None,
    force: bool = False,
) -> Bundle:
    """Converts a model to a verified bundle of one target.

    >>> bundle = edgevlm.convert("edgevlm-student", target="tflite", recipe="int8")
    >>> bundle.manifest.parity.passed
    True
    >>> bundle = edgevlm.convert("./my-clip", target="coreml", labels=["a cat", "a dog"], templates=["a photo of {}"])

    Args:
        model: `edgevlm-student`, a folder in Hugging Face format, or a hub id.
        target: `coreml`, `executorch` or `tflite`.
        recipe: A built-in recipe's name, a YAML file, or a recipe.
        out: Folder that the bundle is written into.
        labels: Labels to bake into a `classify` component; or `Labels`, which have their templates with them.
        templates: Texts in which `{}` stands for the label; their embeddings are averaged.
        descriptions: Sentences about the labels, or the file that `edgevlm enrich` wrote.
        image_only: Leave the text tower out.
        calibration: Data to measure ranges on, for recipes that need any.
        context_length: Of a model that talks, the positions of a dialogue; enough for a picture and some words if None.
        lengths: Of a model that talks, how many rows are decoded at once, ascending from 1; 1 and 64 if None, or what
            holds picture and question of one that takes both at once.
        picture_size: Of one that takes pictures of any size, such as Qwen2.5-VL, height and width in pixels.
        force: Replace an existing bundle.

    Raises:
        ParityFailed: the bundle was written aside, and its answers are too far from the reference's.
        EdgeVLMError: nothing was written; see `edgevlm.errors`.
    """
    from edgevlm.bundle.recipe import resolve
    from edgevlm.conversion import pipeline

    request = pipeline.Request(
        model=model,
        targets=(target,),
        recipe=resolve(recipe),
        out=Path(out),
        labels=_labels(labels, templates, descriptions),
        image_only=image_only,
        calibration=_calibration(calibration),
        context_length=context_length,
        lengths=None if lengths is None else tuple(lengths),
        picture_size=picture_size,
        force=force,
    )
    (outcome,) = pipeline.convert(request)
    if outcome.error is not None:
        raise outcome.error
    if outcome.bundle is None or outcome.bundle.manifest.parity is None or not outcome.bundle.manifest.parity.passed:
        failed = [check for check in outcome.bundle.manifest.parity.checks if not check.passed]  # type: ignore[union-attr]
        raise ParityFailed(
            "; ".join(f"{c.component}: {c.measure} {c.value:.3g}, allowed {c.limit}" for c in failed),
            hint=f"the bundle is kept at {outcome.bundle.path}",  # type: ignore[union-attr]
        )
    return outcome.bundle


def distill(
    teacher: str | Path | Sequence[str | Path],
    student: str | Path,
    data: str | Path | Dataset,
    out: str | Path,
    *,
    recipe: str | Path | DistillRecipe = "ood",
    images: str | Path | None = None,
    few_shot: str | Path | Dataset | None = None,
    descriptions: Descriptions | str | Path | None = None,
    text_tower: str | None = None,
    image_size: int | None = None,
    seed: int = 0,
    precision: Literal["fp32", "bf16"] = "fp32",
    accumulate: int = 1,
    workers: int = 1,
    cache: str | Path | None = None,
    max_unreadable: float = 0.01,
    checkpoint_seconds: float = 60.0,
    force: bool = False,
    progress: Callable[[str, float | None], None] = lambda stage, share: None,
) -> Distilled:
    """Trains a small student from a large teacher; `edgevlm.convert` takes the folder that it writes.

    Called again after it was stopped, it goes on where it was.

    >>> trained = edgevlm.distill("edgevlm-teacher", "hybrid-xxs", "my-pictures/", "my-student")
    >>> bundle = edgevlm.convert("my-student", target="tflite", recipe="fp32")

    Args:
        teacher: A built-in name, a folder or a hub id; several are an ensemble.
        student: A preset's name, or the folder of a student to train further.
        data: Image folder, captions JSON, WebDataset shards, `scenes:...` or `objects:...`, or a dataset.
        out: The run's folder, which becomes the student's.
        recipe: A shipped recipe's name, a YAML file, or a recipe.
        images: Folder of the pictures that a captions file names.
        few_shot: Data of new classes, of which a few pictures are mixed into every batch.
        descriptions: Sentences about the labels, or the file that `edgevlm enrich` wrote.
        text_tower: `teacher`, `none`, or a small one's preset; the recipe's if None.
        image_size: Side of the student's pictures in pixels; the preset's own if None.
        seed: Of the weights, the order and the views.
        precision: Of the towers' arithmetic.
        accumulate: Parts that a batch is divided into, one after the other.
        workers: Processes that read pictures ahead.
        cache: Folder of teacher embeddings, shared by runs; the toolchain's cache if None.
        max_unreadable: Share of the pictures that may be unreadable before the run is refused.
        checkpoint_seconds: Time between checkpoints.
        force: Throw away what another run left in `out`.
        progress: Told how far it is.

    Raises:
        EdgeVLMError: what is wrong with the request, before the long work starts; see `edgevlm.errors`.
        TrainingFailed: the loss is not finite.
    """
    from edgevlm.distillation import distillation
    from edgevlm.distillation.recipe import DistillRecipe, resolve
    from edgevlm.enrichment.descriptions import Descriptions

    request = distillation.Request(
        teachers=(str(teacher),) if isinstance(teacher, str | Path) else tuple(map(str, teacher)),
        student=str(student),
        data=data,
        recipe=recipe if isinstance(recipe, DistillRecipe) else resolve(recipe),
        out=Path(out),
        images=None if images is None else Path(images),
        few_shot=few_shot,
        descriptions=Descriptions.read(Path(descriptions)) if isinstance(descriptions, str | Path) else descriptions,
        text_tower=text_tower,
        image_size=image_size,
        seed=seed,
        precision=precision,
        accumulate=accumulate,
        workers=workers,
        cache=None if cache is None else Path(cache),
        max_unreadable=max_unreadable,
        checkpoint_seconds=checkpoint_seconds,
        force=force,
    )
    return distillation.distill(request, progress)


def _labels(
    names: Sequence[str] | Labels | None, templates: Sequence[str], descriptions: Descriptions | str | Path | None
) -> Labels | None:
    from edgevlm.enrichment.descriptions import Descriptions, label_texts

    if names is None:
        if descriptions is not None:
            raise InputError("descriptions need labels: they are for them", hint="give labels, the names to bake in")
        return None
    if isinstance(names, Labels):
        if tuple(templates) != (PLAIN,) or descriptions is not None:
            raise InputError(
                "Labels have their templates and texts with them, and got others beside them",
                hint="give the names alone: labels=labels.names",
            )
        return names
    names, templates = listed_texts(names, "labels"), listed_texts(templates, "templates")
    if isinstance(descriptions, str | Path):
        descriptions = Descriptions.read(Path(descriptions))
    texts = None if descriptions is None else label_texts(names, templates, descriptions)
    return Labels(tuple(names), tuple(templates), texts)


def _calibration(given: str | Path | CalibrationSource | None) -> CalibrationSource | None:
    if not isinstance(given, str | Path):
        return given
    from edgevlm.compression.calibration import CalibrationSource

    return CalibrationSource(str(given))
