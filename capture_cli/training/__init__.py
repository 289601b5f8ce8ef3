"""The training, read top to bottom.

    train(setup, learning)          # epochs of training and evaluation, every batch recorded

`train_step` is the seam: one forward pass, from which the update and the record both take their numbers.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter

import torch
import torch.nn.functional as F  # noqa: N812 - its name in every PyTorch program
from torch import nn

from capture_cli.checkpoint import Place
from capture_cli.errors import CaptureError, UsageError
from capture_cli.records import Batch, Epoch, Numbers
from capture_cli.runtime import Runtime, seed_step
from capture_cli.training.batches import Data, Minibatch
from capture_cli.writer import BatchWriter
from capture_cli.writer.columns import Forward, Header

BEGINNING = Place()


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What a pass over the images needs."""

    model: nn.Module
    forward: Callable[[torch.Tensor], torch.Tensor]
    """The model, or its compiled form: [B, C, H, W] -> logits [B, classes]."""
    data: Data
    runtime: Runtime
    writer: BatchWriter
    advance: Callable[[int], object]
    """Told how many images each batch had, captured or not."""
    timed: Callable[[Epoch, float, int], object]
    """Told of each phase its sums, the seconds of its loop alone, and its steps."""
    stopping: Callable[[], bool]
    """Asked after each batch; True ends the run there."""
    keep: Callable[[Place, bool], object] = lambda _place, _now: None
    """Given the place after each batch, for a checkpoint; True where the run ends there."""
    allow_nonfinite: bool = False


@dataclass(frozen=True, kw_only=True)
class Learning:
    """What learning needs besides."""

    optimizer: torch.optim.Optimizer
    parameters: Sequence[nn.Parameter]
    """Those that the optimizer updates."""
    update: Callable[[], object]
    """The optimizer's step."""
    epochs: int
    lr: float
    """Peak learning rate."""
    sched: str
    seed: int


class Stopped(Exception):  # noqa: N818 - not an error: somebody asked for it
    """The run was asked to stop, and did after a whole batch."""


def train(setup: Setup, learning: Learning, start: Place = BEGINNING) -> None:
    """Train for `learning.epochs`, from `start` on, evaluating after each where there are images for it.

    Raises Stopped once `setup.stopping()` says so, and CaptureError at a loss that is not a number unless that is allowed.
    """
    phases = ("train", "val") if len(setup.data.ids("val")) else ("train",)
    visits = [(epoch, phase) for epoch in range(1, learning.epochs + 1) for phase in phases]
    first = (start.epoch, start.phase)
    if start.batch:
        before = next(setup.data.batches(start.phase, start.epoch, start=start.batch - 1), None)
        if before is None:
            raise CaptureError(
                f"the checkpoint is of no such run: {start.phase} epoch {start.epoch} has no {start.batch} batches",
                "remove it to go on from the one before, or from the beginning",
            )
        setup.writer.set_previous(
            Header(phase=start.phase, epoch=start.epoch, batch=start.batch - 1, ids=before.ids), before.inputs
        )
    for epoch, phase in visits[visits.index(first) if first in visits else len(visits) :]:  # not in it: all of them were done
        done = start.batch if (epoch, phase) == (start.epoch, start.phase) else 0
        if phase == "train":
            setup.model.train()
            _run_phase(setup, phase, epoch, partial(train_step, setup, learning, epoch), done)
        else:
            evaluate(setup, phase, epoch, done)
    setup.keep(Place(epoch=learning.epochs + 1), True)


def evaluate(setup: Setup, phase: str, epoch: int, done: int = 0) -> Epoch:
    """One pass over the images of a phase with nothing learnt, `done` batches of it earlier; its sums. Raises as `train`."""
    setup.model.eval()
    with torch.no_grad():
        return _run_phase(setup, phase, epoch, partial(captured_loss, setup, phase, epoch), done)


def train_step(setup: Setup, learning: Learning, epoch: int, batch: Minibatch) -> None:
    """Forward and record, backward, update."""
    seed_step(learning.seed, "step", setup.writer.step)
    lr = learning_rate(learning.lr, learning.sched, (epoch - 1 + batch.progress) / learning.epochs)
    loss = captured_loss(setup, "train", epoch, batch, lr=lr)
    for group in learning.optimizer.param_groups:
        group["lr"] = lr
    for parameter in learning.parameters:  # what Optimizer.zero_grad comes to, in a twentieth of its time
        parameter.grad = None
    loss.backward()  # type: ignore[no-untyped-call]
    learning.update()


def captured_loss(setup: Setup, phase: str, epoch: int, batch: Minibatch, *, lr: float | None = None) -> torch.Tensor:
    """The mean cross-entropy of a batch, in nats, after the record of its forward pass was taken."""
    with setup.runtime.autocast():
        logits = setup.forward(batch.inputs)  # [B, C]
    loss = F.cross_entropy(logits.float(), batch.labels)
    header = Header(phase=phase, epoch=epoch, ids=batch.ids, files=batch.files, lr=lr)
    setup.writer.record(header, batch.inputs, Forward(logits, batch.labels, loss=loss))
    return loss


def _run_phase(setup: Setup, phase: str, epoch: int, step: Callable[[Minibatch], object], done: int) -> Epoch:
    number, started = done, perf_counter()
    for batch in setup.data.batches(phase, epoch, start=done):
        step(batch)
        number += 1
        setup.advance(len(batch.ids))
        if setup.writer.first_nonfinite and not setup.allow_nonfinite:
            raise _not_a_number(setup.writer.first_nonfinite)
        stopping = setup.stopping()
        setup.keep(Place(epoch=epoch, phase=phase, batch=number), stopping)
        if stopping:
            raise Stopped
    sums = setup.writer.end_phase()
    setup.timed(sums, perf_counter() - started, number - done)
    return sums


def learning_rate(peak: float, sched: str, progress: float) -> float:
    """The learning rate after `progress` (0 to 1) of the training; cosine as in Loshchilov and Hutter 2017, eq. 5, to 0."""
    return peak if sched == "constant" else peak * 0.5 * (1 + math.cos(math.pi * progress))


def make_optimizer(model: nn.Module, *, opt: str, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """The optimizer called `opt`, in its fused form; sgd has Nesterov momentum 0.9."""
    params = [p for p in model.parameters() if p.requires_grad]
    if not params:
        raise UsageError("the model has no parameters to train", "choose another --model")
    if opt == "sgd":
        return torch.optim.SGD(params, lr=lr, momentum=0.9, nesterov=True, weight_decay=weight_decay, fused=True)
    kind = torch.optim.AdamW if opt == "adamw" else torch.optim.Adam
    return kind(params, lr=lr, weight_decay=weight_decay, fused=True)


def _not_a_number(batch: Batch | Numbers) -> CaptureError:
    files = [name for name, loss in zip(batch.names, batch.losses.tolist(), strict=True) if not math.isfinite(loss)]
    return CaptureError(
        f"the loss of {batch.phase} batch {batch.batch} of epoch {batch.epoch} is not a number; "
        f"{len(files)} of its {len(batch.names)} images: {', '.join(files[:5])}{', ...' if len(files) > 5 else ''}",
        "it is in the records; lower --lr, look at these files, or go on with --allow-nonfinite",
    )
