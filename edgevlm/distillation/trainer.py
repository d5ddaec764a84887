"""The training loop, on Hugging Face Accelerate: one process or many, on one machine or several, float32 or bfloat16.

Losses over a batch see the pictures of all processes: embeddings are gathered with their gradients, so that the
number of processes changes the speed and not the result.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
import torch.distributed
from accelerate import Accelerator  # type: ignore[import-untyped]
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from edgevlm.distillation import checkpoints
from edgevlm.distillation.batches import Batch, Batches
from edgevlm.distillation.losses import LossInputs, Term, total
from edgevlm.distillation.recipe import Schedule
from edgevlm.distillation.run_folder import RunFolder
from edgevlm.errors import EdgeVLMError, TrainingFailed
from edgevlm.models.students.dual_encoder import DualEncoder
from edgevlm.process import interrupts
from edgevlm.process.progress import Progress

_LOG_EVERY = 10
_LARGEST_LOG_SCALE = math.log(100)


@dataclass(frozen=True)
class Training:
    """How the loop runs, beside the recipe's schedule.

    Attributes:
        terms: The losses.
        schedule: Steps and rates.
        checkpoint_seconds: Time between checkpoints.
        workers: Processes that read pictures ahead; 0 reads them in this one.
    """

    terms: Sequence[Term]
    schedule: Schedule
    checkpoint_seconds: float = 60.0
    workers: int = 1


def train(
    network: DualEncoder,
    batches: Batches,
    label_text: Tensor | None,
    how: Training,
    run: RunFolder,
    accelerator: Accelerator,
    progress: Progress,
) -> int:
    """Trains `network` in place, from the run's newest checkpoint if it has one; gives that one's step, else 0.

    A SIGINT, SIGTERM or SIGHUP, to any of the processes, waits for the step's end and a checkpoint; a second one does
    not.

    Raises:
        TrainingFailed: the loss or a weight is not finite; names the step and the last good checkpoint.
    """
    network.image.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # up to twice as fast on a CPU
    optimiser = torch.optim.AdamW(_groups(network, how.schedule), lr=how.schedule.learning_rate, betas=(0.9, 0.98))
    wrapped, prepared = accelerator.prepare(network, optimiser)
    start = checkpoints.resume(run.checkpoints, network, optimiser)
    if accelerator.is_main_process:
        run.rewind(start)
    loop = _Loop(network, wrapped, prepared, optimiser, label_text, how, run, accelerator)
    items = range(start * batches.shares.accumulate, len(batches))
    loader = DataLoader(
        _Answers(batches),
        sampler=items,
        batch_size=None,
        num_workers=how.workers,
        prefetch_factor=4 if how.workers else None,
        worker_init_fn=_outlive_a_signal if how.workers else None,
    )
    network.train()
    loop.begin(start)
    with interrupts.at_leisure() as asked:
        parts, stopped = iter(loader), 0
        for step in range(start, batches.steps):
            loop.step(step, batches, [_made(next(parts)) for _ in range(batches.shares.accumulate)], progress)
            stopped = loop.agree(asked() or 0)
            if stopped:
                loop.end(step + 1)
                break
        del parts  # ends the processes that read ahead
    if stopped:
        signal.raise_signal(stopped)  # in a process that was not told itself
        raise KeyboardInterrupt  # should its handler return: there is no student
    loop.end(batches.steps)
    return start


class _Loop:
    """One run's moving parts."""

    def __init__(
        self,
        network: DualEncoder,
        wrapped: nn.Module,
        prepared: Any,
        optimiser: torch.optim.Optimizer,
        label_text: Tensor | None,
        how: Training,
        run: RunFolder,
        accelerator: Accelerator,
    ) -> None:
        self.network, self.wrapped, self.prepared, self.optimiser = network, wrapped, prepared, optimiser
        self.label_text = None if label_text is None else label_text.to(accelerator.device)
        self.how, self.run, self.accelerator = how, run, accelerator
        self.sums: dict[str, float] = {}

    def begin(self, step: int) -> None:
        self.logged_step = step
        self.logged_at = self.kept_at = time.monotonic()

    def step(self, step: int, batches: Batches, parts: Sequence[Batch], progress: Progress) -> None:
        rate = learning_rate(self.how.schedule, step, batches.steps)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        found: dict[str, float] = {}
        for number, part in enumerate(parts):
            last = number == len(parts) - 1
            with torch.enable_grad() if last else self.accelerator.no_sync(self.wrapped):
                loss, each = self._loss(part)
                self._check(step, loss)
                self.accelerator.backward(loss / len(parts))
            for name, value in {"loss": loss, **each}.items():
                found[name] = found.get(name, 0.0) + value.item() / len(parts)
        if self.how.schedule.gradient_clip:
            self.accelerator.clip_grad_norm_(self.network.parameters(), self.how.schedule.gradient_clip)
        self.prepared.step()
        self.prepared.zero_grad()
        with torch.no_grad():
            self.network.log_scale.clamp_(max=_LARGEST_LOG_SCALE)  # CLIP's ceiling
        if self.accelerator.is_main_process:
            self._record(step, batches, found, rate, progress)

    def agree(self, number: int) -> int:
        """The largest number that any process has: all stop after the same step, for each waits for all others."""
        if self.accelerator.num_processes == 1:
            return number
        largest = torch.tensor(number, device=self.accelerator.device)
        torch.distributed.all_reduce(largest, torch.distributed.ReduceOp.MAX)
        return int(largest)

    def end(self, steps: int) -> None:
        if self.accelerator.is_main_process:
            self._keep(steps)

    def _keep(self, step: int) -> None:
        # The loss is computed before the step: what the last one broke shows in the weights alone.
        if not all(bool(parameter.isfinite().all()) for parameter in self.network.parameters()):
            self._stop("the weights are not finite", step)
        checkpoints.write(self.run.checkpoints, step, self.network, self.optimiser)

    def _loss(self, part: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        device = self.accelerator.device
        with self.accelerator.autocast():
            ids = None if part.token_ids is None else part.token_ids.to(device)
            image, text, scale = self.wrapped(part.pixels.to(device), ids)
        inputs = LossInputs(
            image=gather(image),
            teacher_image=gather(part.teacher_image),
            text=gather(text),
            teacher_text=gather(part.teacher_text),
            label=gather(part.label),
            label_text=self.label_text,
            group=gather(part.group),
            scale=scale,
        )
        return total(inputs, self.how.terms)

    def _check(self, step: int, loss: Tensor) -> None:
        if not bool(loss.isfinite()):
            self._stop(f"the loss is {loss.item()}", step)

    def _stop(self, what: str, step: int) -> NoReturn:
        kept = checkpoints.find(self.run.checkpoints)
        good = f"{kept[-1]} (step {checkpoints.step_of(kept[-1])})" if kept else "none was written yet"
        raise TrainingFailed(
            f"{what} at step {step}; the last good checkpoint: {good}",
            hint="lower the learning rate, raise the temperature, or train in fp32",
        )

    def _record(self, step: int, batches: Batches, found: Mapping[str, float], rate: float, progress: Progress) -> None:
        for name, value in found.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        done, now = step + 1, time.monotonic()
        if done % _LOG_EVERY == 0 or done == batches.steps:
            count = done - self.logged_step
            speed = count * batches.shares.batch_size / (now - self.logged_at)
            means = {name: round(value / count, 6) for name, value in self.sums.items()}
            self.run.log({"step": done, **means, "learning_rate": rate, "pictures_per_second": round(speed, 1)})
            epoch = step // batches.steps_an_epoch + 1
            said = f"epoch {epoch} of {self.how.schedule.epochs}, step {done:,} of {batches.steps:,}"
            said += f", loss {means['loss']:.4f}, {speed:,.0f} pictures/s"
            progress(said, done / batches.steps)
            self.logged_step, self.logged_at, self.sums = done, now, {}
        if now - self.kept_at >= self.how.checkpoint_seconds:
            self._keep(done)
            self.kept_at = time.monotonic()


def learning_rate(schedule: Schedule, step: int, steps: int) -> float:
    """Of step `step`, from 0: a linear rise over the warm-up, then half a cosine down to zero."""
    warmup = round(schedule.warmup * steps)
    if step < warmup:
        return schedule.learning_rate * (step + 1) / (warmup + 1)
    return schedule.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def gather(rows: Tensor | None) -> Any:
    """The rows of all processes, [B, ...] -> [processes * B, ...], through which gradients flow back."""
    if rows is None or not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
        return rows
    return _Gather.apply(rows)  # type: ignore[no-untyped-call]


class _Gather(torch.autograd.Function):
    """All processes' rows in their order; each has its own gradient from the losses of all of them."""

    @staticmethod
    def forward(context: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        summed = gradients[0].contiguous()
        torch.distributed.all_reduce(summed)
        return summed.chunk(torch.distributed.get_world_size())[torch.distributed.get_rank()]


class _Answers(Dataset[Batch | EdgeVLMError]):
    """The batches, and in the place of one that cannot be made its error: a DataLoader makes a traceback's text of it.

    Args:
        batches: Read ahead by other processes.
    """

    def __init__(self, batches: Batches) -> None:
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, item: int) -> Batch | EdgeVLMError:
        try:
            return self._batches[item]
        except EdgeVLMError as error:
            return error


def _made(answer: Batch | EdgeVLMError) -> Batch:
    if isinstance(answer, EdgeVLMError):
        raise answer
    return answer


def _outlive_a_signal(_: int) -> None:
    """For a process that reads ahead: what ends a whole group of processes must not take it from under a step."""
    for number in interrupts.FROM_A_TERMINAL:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, _: signal.signal(number, signal.SIG_DFL))  # torch's own may follow


def _groups(network: nn.Module, schedule: Schedule) -> list[dict[str, Any]]:
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": schedule.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
