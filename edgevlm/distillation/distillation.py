"""`distill`: a teacher, pictures and a recipe in; a student's folder out, which other commands take as a model."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from accelerate.state import AcceleratorState  # type: ignore[import-untyped]

from edgevlm import schema
from edgevlm.bundle.recipe import Recipe
from edgevlm.data.dataset import Dataset
from edgevlm.data.sources import open_data
from edgevlm.data.subsets import few_shot as draw_few_shot
from edgevlm.distillation import checkpoints
from edgevlm.distillation.batches import Batches, Shares
from edgevlm.distillation.learner import Learner, find_former, make_learner, refuse_ensemble
from edgevlm.distillation.losses import LOSSES, Term
from edgevlm.distillation.material import Material, gather_material
from edgevlm.distillation.plots import draw_losses
from edgevlm.distillation.recipe import TEXT_TOWERS, DistillRecipe, check
from edgevlm.distillation.run_folder import RunFolder, open_run
from edgevlm.distillation.teacher import Teacher
from edgevlm.distillation.trainer import Training, train
from edgevlm.enrichment.descriptions import Descriptions, label_texts
from edgevlm.errors import DataError, InputError, RecipeError
from edgevlm.inputs.folders import listed
from edgevlm.models import catalogue
from edgevlm.models.students.parts import FixedLabels
from edgevlm.models.students.presets import PRESETS, TEXT_PRESETS
from edgevlm.process import interrupts, store
from edgevlm.process.limits import LARGEST_SEED, MOST_PICTURES, MOST_WORKERS, check_whole
from edgevlm.process.notes import note
from edgevlm.process.progress import Progress
from edgevlm.process.writing import output_errors, write_atomically


@dataclass(frozen=True)
class Request:
    """What to train, on what, and how.

    Attributes:
        teachers: Models to learn from: built-in names, folders or hub ids; several are an ensemble.
        student: A preset's name, or the folder of a student to train further.
        data: What `edgevlm.data.sources.open_data` takes, or a dataset.
        recipe: Losses, schedule, augmentation.
        out: The run's folder, which becomes the student's.
        images: Folder of the pictures that a captions file names.
        few_shot: Data of new classes, of which a few pictures are mixed into every batch.
        compress: The image tower is trained with this recipe's pruning or rounding in place; see
            `edgevlm.compression.recovery`.
        descriptions: Sentences about the labels.
        text_tower: One of `edgevlm.distillation.recipe.TEXT_TOWERS`; None leaves it to the recipe, or to the student
            that goes on.
        image_size: Side of the student's pictures in pixels; the preset's own where None.
        seed: Of the weights, the order and the views.
        precision: Of the towers' arithmetic; weights and losses are float32.
        accumulate: Parts that a batch is divided into, one after the other; contrasts see one part.
        workers: Processes that read pictures ahead.
        cache: Folder of teacher embeddings, shared by runs; the toolchain's cache where None.
        max_unreadable: Share of the pictures that may be unreadable before the run is refused.
        checkpoint_seconds: Time between checkpoints.
        force: Throw away what another run left in `out`.
    """

    teachers: tuple[str, ...]
    student: str
    data: str | Path | Dataset
    recipe: DistillRecipe
    out: Path
    images: Path | None = None
    few_shot: str | Path | Dataset | None = None
    compress: Recipe | None = None
    descriptions: Descriptions | None = None
    text_tower: str | None = None
    image_size: int | None = None
    seed: int = 0
    precision: Literal["fp32", "bf16"] = "fp32"
    accumulate: int = 1
    workers: int = 1
    cache: Path | None = None
    max_unreadable: float = 0.01
    checkpoint_seconds: float = 60.0
    force: bool = False


@dataclass(frozen=True)
class Distilled:
    """What came of it.

    Attributes:
        folder: The student's.
        image_parameters, text_parameters: Of its towers as trained; 0 where no text tower was trained.
        text_tower: One of `edgevlm.distillation.recipe.TEXT_TOWERS`; `own` where a student went on with the one it had.
        embedding_dim: Length of an embedding.
        new_projection: Whether a student that went on had embeddings of another length than the teacher's, so that
            its last layer was trained anew.
        steps: In all; `resumed_at` of them had been made before.
        seconds: Wall time of this call.
        loss: Mean of the last logged steps.
        pictures, labels: What it learned from.
        skipped: Key of each unreadable picture, and why.
    """

    folder: Path
    image_parameters: int
    text_parameters: int
    text_tower: str
    embedding_dim: int
    new_projection: bool
    steps: int
    resumed_at: int
    seconds: float
    loss: float
    pictures: int
    labels: int
    skipped: Mapping[str, str]


def distill(request: Request, progress: Progress = lambda stage, share: None) -> Distilled:
    """Trains a student.

    Called again with the same request after it was stopped, it goes on from the last checkpoint, to the same bits on
    a CPU; Ctrl-C, SIGTERM and SIGHUP leave one. Started by `accelerate launch` or `torchrun`, the processes work on one
    run; on several machines `out` and the cache must be folders that all of them see.

    Raises:
        EdgeVLMError: what is wrong with the request, before the long work starts.
        TrainingFailed: the loss is not finite.
        OutputError: the folder is in use, belongs to another run, or cannot be written.
    """
    began = time.monotonic()
    accelerator = _start_engine(request.precision)
    recipe = request.recipe
    former = find_former(request.student, request.image_size)
    # Labels that were baked in place of a text tower are baked again, as this run's data may have others.
    baked = former is not None and isinstance(former.text, FixedLabels)
    kind = request.text_tower or ("none" if baked else recipe.text_tower)
    _check_numbers(request)
    if request.compress is not None:
        from edgevlm.compression import recovery

        recovery.check(request.compress)
    parts = _open_parts(request)
    _check_words(request, kind, parts)
    shares = Shares(
        _batch_size(recipe, parts[0]), request.accumulate, accelerator.num_processes, accelerator.process_index
    )
    with _run(request, accelerator) as run:
        progress("loading the teacher", None)
        teacher = Teacher(request.teachers, device=str(accelerator.device))
        if accelerator.is_main_process:
            run.claim(_identity(request, kind, parts, teacher, shares), force=request.force)
        accelerator.wait_for_everyone()
        material = _gather(request, parts, teacher, run, accelerator, progress)
        torch.manual_seed(request.seed)
        learner = make_learner(
            request.student,
            former,
            teacher,
            kind,
            request.image_size,
            keep_text=request.text_tower is None,
            needs_scale=_uses(recipe, "scale"),
        )
        tower = learner.network.image
        if request.compress is not None:
            learner.network.image = recovery.prepare(tower, request.compress, _example(learner))
        batches = Batches(material, recipe, shares, learner.image, request.seed, learner.tokenize(material.texts))
        how = Training(_terms(recipe, teacher), recipe.schedule, request.checkpoint_seconds, request.workers)
        label_text = None if material.label_text is None else torch.from_numpy(material.label_text)
        resumed_at = train(learner.network, batches, label_text, how, run, accelerator, progress)
        if request.compress is not None:
            recovery.finish(learner.network.image, tower, _example(learner))
            learner.network.image = tower
        if accelerator.is_main_process:
            _finish(request, learner, batches, run, progress)
        accelerator.wait_for_everyone()
        return Distilled(
            folder=request.out,
            image_parameters=_count(learner.network.image),
            text_parameters=_count(learner.network.text),
            text_tower="own" if learner.kept_text else kind,
            embedding_dim=teacher.dim,
            new_projection=learner.new_projection,
            steps=batches.steps,
            resumed_at=resumed_at,
            seconds=time.monotonic() - began,
            loss=run.lines()[-1]["loss"],
            pictures=len(material.readable) + len(material.few_shot),
            labels=len(material.labels),
            skipped=material.skipped,
        )


def _gather(
    request: Request,
    parts: tuple[Dataset, ...],
    teacher: Teacher,
    run: RunFolder,
    accelerator: Accelerator,
    progress: Progress,
) -> Material:
    material = gather_material(
        parts,
        teacher,
        request.recipe,
        request.seed,
        descriptions=request.descriptions,
        cache=request.cache or store.folder() / "teachers",
        asks_pictures=_uses(request.recipe, "teacher_image"),
        asks_texts=_uses(request.recipe, "teacher_text"),
        progress=progress,
        part=accelerator.process_index,
        of=accelerator.num_processes,
    )
    _note_skipped(request, material, run, accelerator)
    return material


def _example(learner: Learner) -> torch.Tensor:
    """Pixels of one grey picture, as the tower takes them."""
    return torch.full((1, 3, learner.image.height, learner.image.width), 128.0)


def _finish(request: Request, learner: Learner, batches: Batches, run: RunFolder, progress: Progress) -> None:
    """Writes what a run leaves: the student and the picture of its losses."""
    progress("writing the student", None)
    draw_losses(run.lines(), request.out / "losses.png")
    learner.save(
        request.out,
        batches.material,
        request.recipe.templates,
        described=request.descriptions is not None,
        provenance=_provenance(request, learner.teacher, batches),
    )
    run.finish()


def _start_engine(precision: str) -> Accelerator:
    wanted = "bf16" if precision == "bf16" else "no"
    # Accelerate keeps one precision for the life of a process, and refuses the next call's.
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != wanted:
        AcceleratorState._reset_state()
    return Accelerator(mixed_precision=wanted)


@contextmanager
def _run(request: Request, accelerator: Accelerator) -> Iterator[RunFolder]:
    """The run's folder: taken by the main process, seen by all."""
    taken = open_run(request.out, force=request.force) if accelerator.is_main_process else nullcontext()
    with output_errors(request.out), taken, interrupts.advice(lambda: _how_to_go_on(request.out)):
        accelerator.wait_for_everyone()
        yield RunFolder(request.out)


def _how_to_go_on(out: Path) -> str:
    """What a run that is stopped now says."""
    kept = checkpoints.find(RunFolder(out).checkpoints)
    if not kept:
        return "the same command begins the training, with all that the teacher has answered"
    return f"{checkpoints.step_of(kept[-1]):,} steps are kept, and the same command goes on from there"


def _open_parts(request: Request) -> tuple[Dataset, ...]:
    def opened(data: str | Path | Dataset, images: Path | None = None) -> Dataset:
        return open_data(data, images=images) if isinstance(data, str | Path) else data

    parts = [opened(request.data, request.images)]
    if request.few_shot is not None:
        parts.append(draw_few_shot(opened(request.few_shot), request.recipe.few_shot.shots, request.seed))
    for data in parts:
        if len(data) < 2:
            raise DataError(
                f"{data.name}: expected at least 2 pictures to learn from, got {len(data)}",
                hint="a contrast needs another picture; good students take thousands",
            )
    return tuple(parts)


def _check_numbers(request: Request) -> None:
    """Raises for numbers out of range, and RecipeError for losses and options that do not exist."""
    check_whole("seed", request.seed, 0, LARGEST_SEED)
    check_whole("accumulate", request.accumulate, 1, MOST_PICTURES)
    check_whole("workers", request.workers, 0, MOST_WORKERS)
    where = f"the recipe {request.recipe.name}"
    check(request.recipe, where)
    for each in request.recipe.losses:
        try:
            Term(each.loss, each.weight, each.options)
        except RecipeError as error:
            raise RecipeError(f"{where}: {error.message}", hint="edgevlm recipes lists the losses") from error


def _check_words(request: Request, text_tower: str, parts: Sequence[Dataset]) -> None:
    """Refuses, before the long work, losses that lack what they need and a text tower that nothing would train."""
    recipe = request.recipe
    labels = {label for data in parts for label in data.labels}
    label_texts(sorted(labels), recipe.templates, request.descriptions)  # raises where one is not described
    if text_tower not in TEXT_TOWERS:
        raise InputError(f"no text tower {text_tower!r}: expected one of {', '.join(TEXT_TOWERS)}")
    uses = {each.loss: LOSSES[each.loss].uses for each in recipe.losses}
    unlabelled = next((data.name for data in parts if not data.labels), None)
    for loss in uses:
        if unlabelled and "label_text" in LOSSES[loss].needs:
            raise RecipeError(
                f"the loss {loss} of the recipe {recipe.name} needs labels, and {unlabelled} has captions only",
                hint="use a recipe for captioned pictures, such as tinyclip or clip-kd, or data with labels",
            )
        if "text" in LOSSES[loss].needs and text_tower not in TEXT_PRESETS:
            raise RecipeError(
                f"the loss {loss} of the recipe {recipe.name} trains a text tower, and the student gets "
                f"{'the teacher’s as it is' if text_tower == 'teacher' else 'none'}",
                hint=f"--text-tower {next(iter(TEXT_PRESETS))} trains a small one",
            )
    if text_tower in TEXT_PRESETS and not any("text" in used for used in uses.values()):
        raise RecipeError(
            f"the recipe {recipe.name} has no loss that trains a text tower",
            hint="a recipe such as clip-kd or tinyclip does; in your own, add feature_text_mse or clip; "
            "--text-tower teacher keeps the teacher's",
        )
    if text_tower == "teacher" and request.student in PRESETS:
        refuse_ensemble(len(request.teachers))
    if text_tower == "none" and unlabelled:
        raise RecipeError(
            f"a student without a text tower answers with labels, and {unlabelled} has captions only",
            hint=f"--text-tower teacher, or {next(iter(TEXT_PRESETS))}",
        )


def _terms(recipe: DistillRecipe, teacher: Teacher) -> list[Term]:
    """The recipe's losses, with the teacher's own temperature where they ask for it and the recipe names none."""
    own = {"teacher_temperature": 1 / teacher.logit_scale}
    return [
        Term(each.loss, each.weight, {**{k: own[k] for k in own if k in LOSSES[each.loss].options}, **each.options})
        for each in recipe.losses
    ]


def _batch_size(recipe: DistillRecipe, data: Dataset) -> int:
    """The recipe's, or as many as there are pictures where those are fewer."""
    return min(recipe.schedule.batch_size, len(data) - len(data) % 2)


def _note_skipped(request: Request, material: Material, run: RunFolder, accelerator: Accelerator) -> None:
    total = sum(map(len, material.parts))
    if accelerator.is_main_process and material.skipped:
        lines = [f"{key}\t{reason}\n" for key, reason in material.skipped.items()]
        write_atomically(run.path / "skipped.txt", "".join(lines))
        note(f"{len(lines):,} of {total:,} pictures cannot be read, see skipped.txt: {listed(material.skipped)}")
    if len(material.skipped) > request.max_unreadable * total:
        key, reason = next(iter(material.skipped.items()))
        raise DataError(
            f"{len(material.skipped):,} of {total:,} pictures cannot be read, more than "
            f"{request.max_unreadable:.1%}; the first is {key}: {reason}",
            hint=f"{run.path / 'skipped.txt'} lists them; --max-unreadable allows more",
        )


def _identity(
    request: Request, kind: str, parts: Sequence[Dataset], teacher: Teacher, shares: Shares
) -> dict[str, Any]:
    """What the resulting weights depend on; how many processes share the work changes rounding only."""
    return {
        "teacher": [teacher.fingerprint, *teacher.names],
        "student": [request.student, _former(request.student)],
        "data": [f"{data.name} {data.fingerprint}" for data in parts],
        "recipe": schema.write(request.recipe),
        "text tower": request.text_tower or f"by the recipe: {kind}",
        "image size": request.image_size,
        "compress": schema.write(request.compress),
        "descriptions": schema.write(request.descriptions),
        "seed": request.seed,
        "precision": request.precision,
        "batch": [shares.batch_size, shares.accumulate],
    }


def _former(student: str) -> str | None:
    """Hash of the student that goes on; None for a preset."""
    return None if student in PRESETS else catalogue.fingerprint(student)


def _provenance(request: Request, teacher: Teacher, batches: Batches) -> dict[str, Any]:
    """What the student's config says of its making."""
    return {
        "teachers": list(teacher.names),
        "student": request.student,
        "data": [data.name for data in batches.material.parts],
        "pictures": len(batches.material.readable) + len(batches.material.few_shot),
        "recipe": schema.write(request.recipe),
        "compress": request.compress.name if request.compress else None,
        "seed": request.seed,
        "steps": batches.steps,
        "torch": torch.__version__,
    }


def _uses(recipe: DistillRecipe, field: str) -> bool:
    return any(field in LOSSES[each.loss].uses for each in recipe.losses)


def _count(module: torch.nn.Module | None) -> int:
    return 0 if module is None else sum(parameter.numel() for parameter in module.parameters())
