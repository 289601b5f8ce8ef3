"""The training, read top to bottom.

    train(setup, learning)          # epochs of training and evaluation, every batch recorded

`train_step` is the seam: one forward pass yields both the update and the record.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from time import perf_counter

import torch
from torch import nn

from capture_cli.checkpoint import Progress
from capture_cli.errors import CaptureError
from capture_cli.objective import PLAIN, Objective
from capture_cli.records import AnyBatch, Epoch, sample_names
from capture_cli.runtime import Runtime, seed_step
from capture_cli.training.batches import Data, Minibatch
from capture_cli.training.learning import Learning
from capture_cli.writer import BatchWriter
from capture_cli.writer.columns import CLASSIFICATION, Forward, Header
from capture_cli.writer.double_softmax import TRAINING, SoftmaxCheck

BEGINNING = Progress()


@dataclass(frozen=True, kw_only=True)
class Setup:
    """The model, the data and the hooks of a pass over the images."""

    model: nn.Module
    forward: Callable[[torch.Tensor], torch.Tensor]
    """The model, or its compiled form: [B, C, H, W] -> logits [B, classes]."""
    data: Data
    runtime: Runtime
    writer: BatchWriter
    advance: Callable[[int], object]
    """Called with the number of images after each batch, captured or not."""
    phase_ended: Callable[[Epoch, float, int], object]
    """Called after each phase with its totals, the seconds of its loop, and its steps."""
    is_exhausted: Callable[[], bool] = lambda: False
    """Called before each epoch; True ends the training there."""
    stopping: Callable[[], bool]
    """Called after each batch; True stops the run there."""
    save_checkpoint: Callable[[Progress, bool], object] = lambda _progress, _now: None
    """Called after each batch; True as second argument demands a checkpoint, else it is saved when it is due."""
    allow_nonfinite: bool = False
    may_pause: Callable[[], bool] = lambda: True
    """Called after each batch; False where the run cannot stop and no checkpoint can be saved."""
    softmax: SoftmaxCheck = field(default_factory=lambda: SoftmaxCheck(TRAINING))


class Stopped(Exception):  # noqa: N818 - not an error: the user asked for it
    """The run was asked to stop, and did so after a whole batch."""


def train(setup: Setup, learning: Learning, start: Progress = BEGINNING) -> None:
    """Train for `learning.epochs` from `start` on, evaluating after each epoch if there are validation images.

    It ends early where `setup.is_exhausted()`. Raises Stopped after `setup.stopping()` returns True, and CaptureError for a
    loss that is NaN or infinite unless allowed.
    """
    if start.batch:
        _restore_previous_batch(setup, start)
    training = replace(setup, may_pause=lambda: not learning.is_between_updates)
    evaluation = setup
    if learning.average:
        evaluation = replace(setup, model=learning.average.model, forward=learning.average.forward)
    end = learning.epochs + 1
    for epoch, phase in _remaining_phases(setup, learning, start):
        if phase == "train" and setup.is_exhausted():
            end = epoch
            break
        done = start.batch if (epoch, phase) == (start.epoch, start.phase) else 0
        if phase == "train":
            learning.set_training_mode(setup.model)
            step = partial(train_step, setup, learning, epoch)
            _run_phase(training, phase, epoch, step, done, finish=learning.end_epoch)
        else:
            evaluate(evaluation, phase, epoch, done)
    setup.save_checkpoint(Progress(epoch=end), True)


def evaluate(setup: Setup, phase: str, epoch: int, done: int = 0) -> Epoch:
    """Run one pass over a phase without training, after its first `done` batches; return its totals. Raises as `train`."""
    setup.model.eval()
    with torch.no_grad():
        return _run_phase(setup, phase, epoch, partial(captured_loss, setup, phase, epoch), done)


def train_step(setup: Setup, learning: Learning, epoch: int, batch: Minibatch) -> None:
    """Run forward pass and record, backward pass, update."""
    seed_step(learning.seed, "step", setup.writer.step)
    lr = learning.begin_batch(epoch, batch.progress)
    loss = captured_loss(setup, "train", epoch, batch, objective=learning.objective, lr=lr)
    if learning.accumulate > 1:
        loss = loss / learning.accumulate
    loss.backward()  # type: ignore[no-untyped-call]
    learning.end_batch(setup.writer.step)


def captured_loss(
    setup: Setup, phase: str, epoch: int, batch: Minibatch, *, objective: Objective = PLAIN, lr: float | None = None
) -> torch.Tensor:
    """Return the loss of a batch in nats, by default the mean cross-entropy, after recording its forward pass."""
    with setup.runtime.autocast():
        logits = setup.forward(batch.inputs)  # [B, C]
    if phase not in setup.softmax.known:
        setup.softmax.look(phase, logits, CLASSIFICATION)
    header = Header(phase=phase, epoch=epoch, ids=batch.ids, files=batch.files, lr=lr, repeats=batch.repeats)
    if batch.mix is None or batch.other_labels is None:
        loss = objective.loss(logits, batch.labels)
    else:
        loss = objective.loss(logits, batch.labels, batch.other_labels, batch.mix.weight)
        header.mix = batch.mix.to_json(batch.other_labels.tolist())
    setup.writer.record(header, batch.inputs, Forward(logits, batch.labels, loss=loss))
    return loss


def _remaining_phases(setup: Setup, learning: Learning, start: Progress) -> Iterator[tuple[int, str]]:
    """Yield (epoch, phase) from `start` on; nothing if all epochs are done."""
    phases = ("train", "val") if len(setup.data.ids("val")) else ("train",)
    all_phases = [(epoch, phase) for epoch in range(1, learning.epochs + 1) for phase in phases]
    first = (start.epoch, start.phase)
    yield from all_phases[all_phases.index(first) :] if first in all_phases else ()


def _restore_previous_batch(setup: Setup, start: Progress) -> None:
    """Give the flight recorder the batch before `start`, which an earlier process trained on."""
    before = next(setup.data.batches(start.phase, start.epoch, start=start.batch - 1), None)
    if before is None:
        raise CaptureError(
            f"the checkpoint does not belong to this run: {start.phase} epoch {start.epoch} has no {start.batch} batches",
            "remove it to resume from the one before, or from the beginning",
        )
    header = Header(phase=start.phase, epoch=start.epoch, batch=start.batch - 1, ids=before.ids)
    setup.writer.set_previous(header, before.inputs)


def _run_phase(
    setup: Setup,
    phase: str,
    epoch: int,
    step: Callable[[Minibatch], object],
    done: int,
    *,
    finish: Callable[[], object] = lambda: None,
) -> Epoch:
    """Run `step` on each batch of a phase after its first `done` ones, then `finish`; return the totals."""
    number, started = done, perf_counter()
    for batch in setup.data.batches(phase, epoch, start=done):
        step(batch)
        number += 1
        setup.advance(len(batch.ids))
        if setup.writer.first_nonfinite and not setup.allow_nonfinite:
            raise _nonfinite_loss(setup.writer.first_nonfinite)
        if not setup.may_pause():
            continue
        stopping = setup.stopping()
        setup.save_checkpoint(Progress(epoch=epoch, phase=phase, batch=number), stopping)
        if stopping:
            raise Stopped
    finish()
    setup.softmax.finish()
    totals = setup.writer.end_phase()
    setup.phase_ended(totals, perf_counter() - started, number - done)
    return totals


def _nonfinite_loss(batch: AnyBatch) -> CaptureError:
    losses = [] if batch.losses is None else batch.losses.tolist()
    files = [name for name, loss in zip(sample_names(batch), losses, strict=True) if not math.isfinite(loss)]
    return CaptureError(
        f"the loss of {batch.phase} batch {batch.batch} of epoch {batch.epoch} is not finite; "
        f"{len(files)} of its {len(losses)} images: {', '.join(files[:5])}{', ...' if len(files) > 5 else ''}",
        "the batch is in the records; look at these files, or start a new run with a lower --lr or with --allow-nonfinite",
    )
