"""The updates of a training: optimizer, learning rate, accumulated and clipped gradients, averaged weights.

    learning = Learning(optimizer=..., update=optimizer.step, epochs=10, lr=1e-3, ...)
    lr = learning.begin_batch(epoch=3, progress=0.25)
    (loss / learning.accumulate).backward()
    learning.end_batch()                # updates the weights after every `accumulate` batches
    learning.end_epoch()                # and with what is left at the end of an epoch

Between updates there is no checkpoint, so gradients are never saved.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from capture_cli.errors import UsageError, quoted
from capture_cli.objective import PLAIN, Objective

STEPS_AT, STEP = (0.5, 0.75), 0.1
"""The schedule `step` multiplies the learning rate by STEP after these fractions of the training."""
ONECYCLE_PEAK, ONECYCLE_BEGIN, ONECYCLE_END = 0.3, 1 / 25, 1 / 250_000
"""The schedule `onecycle`: fraction of the training at its peak, and first and last learning rate as fractions of the peak."""
WARMUP_BEGIN = 0.01
"""Learning rate of the first update of a warm-up, as a fraction of the peak."""


@dataclass(kw_only=True)
class Learning:
    """The optimizer and its schedule."""

    optimizer: torch.optim.Optimizer
    update: Callable[[], object]
    """The optimizer's step."""
    epochs: int
    lr: float
    """Peak learning rate."""
    sched: str
    seed: int
    warmup: float = 0.0
    """Epochs in which the learning rate rises to its peak."""
    lr_factors: tuple[float, ...] = (1.0,)
    """Learning rate of each group of parameters, as a multiple of `lr`."""
    accumulate: int = 1
    """Batches for one update."""
    clip: float = 0.0
    """The largest norm of all gradients together; 0: unlimited."""
    objective: Objective = PLAIN
    frozen: Sequence[nn.Module] = ()
    """Modules that stay in evaluation mode: they are not trained."""
    average: "Average | None" = None
    """Averaged weights, which are evaluated and saved in place of the model's."""
    _parameters: list[nn.Parameter] = field(init=False)
    _pending: int = field(init=False, default=0)
    _lr: float = field(init=False, default=0.0)
    _batches: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        """Collect the parameters that the optimizer updates."""
        self._parameters = [one for group in self.optimizer.param_groups for one in group["params"]]

    @property
    def is_between_updates(self) -> bool:
        """True while gradients of some batches wait for others."""
        return self._pending > 0

    def set_training_mode(self, model: nn.Module) -> None:
        """Put a model into training mode, but for what is frozen."""
        model.train()
        for module in self.frozen:
            module.eval()

    def begin_batch(self, epoch: int, progress: float) -> float:
        """Return the learning rate of the update that the batch belongs to; set it, and clear the gradients, for the first."""
        if not self._pending:
            done = (epoch - 1 + progress) / self.epochs
            self._lr = learning_rate(self.lr, self.sched, done, warmup=self.warmup / self.epochs)
            for group, factor in zip(self.optimizer.param_groups, self.lr_factors, strict=True):
                group["lr"] = self._lr * factor
            for parameter in self._parameters:  # what Optimizer.zero_grad does, in a twentieth of its time
                parameter.grad = None
        return self._lr

    def end_batch(self, step: int) -> None:
        """Update the weights if enough gradients have come; `step` counts the batches of the run."""
        self._pending += 1
        self._batches = step
        if self._pending == self.accumulate:
            self._update()

    def end_epoch(self) -> None:
        """Update the weights with the gradients that wait; the update is as large as a whole one."""
        if self._pending:
            for parameter in self._parameters:
                if parameter.grad is not None:
                    parameter.grad.mul_(self.accumulate / self._pending)
            self._update()

    def _update(self) -> None:
        self._pending = 0
        if self.clip:
            nn.utils.clip_grad_norm_(self._parameters, self.clip)
        self.update()
        if self.average:
            self.average.update(self._batches)


class Average:
    """An exponential moving average of a model's weights and statistics (Polyak and Juditsky 1992).

    After s batches the average keeps min(decay, (1 + s) / (10 + s)) of itself at each update, so that it soon forgets the
    first weights.
    """

    def __init__(self, model: nn.Module, decay: float, *, compiled: bool = False) -> None:
        """Copy the model. Raises UsageError for one that cannot be copied."""
        self.forward: Callable[[torch.Tensor], torch.Tensor]
        """The averaged model, or its compiled form."""
        self.model = copied(model).requires_grad_(False)
        self.forward = torch.compile(self.model) if compiled else self.model
        self._decay = decay
        pairs = list(zip(self.model.state_dict().values(), model.state_dict().values(), strict=True))
        self._averages = [one for one, _ in pairs if one.is_floating_point()]
        self._weights = [other for one, other in pairs if one.is_floating_point()]
        self._counters = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average towards the model's weights, after `step` batches."""
        kept = min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._averages, self._weights, 1 - kept)
        for mine, theirs in self._counters:
            mine.copy_(theirs)


def copied(model: nn.Module) -> nn.Module:
    """Return a copy to average in. Raises UsageError for a model that cannot be copied."""
    try:
        return copy.deepcopy(model)
    except Exception as error:
        raise UsageError(f"--ema needs a copy of the model, which fails: {quoted(error)}", "drop --ema") from error


def learning_rate(peak: float, sched: str, progress: float, *, warmup: float = 0.0) -> float:
    """Return the learning rate after `progress` (0 to 1) of the training, `warmup` of which it rises linearly to its peak.

    constant    stays at the peak
    cosine      falls to 0, as in Loshchilov and Hutter 2017, eq. 5
    step        a tenth after half of the training, a hundredth after three quarters
    onecycle    rises from 1/25 for 30 % of the training, then falls to 1/250,000, both as a cosine (Smith and Topin 2018)
    """
    if progress < warmup:
        return peak * (WARMUP_BEGIN + (1 - WARMUP_BEGIN) * progress / warmup)
    if sched == "constant":
        return peak
    if sched == "step":
        return peak * STEP ** sum(progress >= at for at in STEPS_AT)
    if sched == "onecycle":
        if progress < ONECYCLE_PEAK:
            return peak * _between(ONECYCLE_BEGIN, 1.0, progress / ONECYCLE_PEAK)
        return peak * _between(1.0, ONECYCLE_END, (progress - ONECYCLE_PEAK) / (1 - ONECYCLE_PEAK))
    if warmup:
        progress = (progress - warmup) / (1 - warmup)
    return peak * 0.5 * (1 + math.cos(math.pi * progress))


def _between(begin: float, end: float, progress: float) -> float:
    return end + (begin - end) * 0.5 * (1 + math.cos(math.pi * progress))


def make_optimizer(
    model: nn.Module, *, opt: str, lr: float, weight_decay: float, head: nn.Module | None = None
) -> torch.optim.Optimizer:
    """Make the optimizer named `opt`, in its fused form; sgd has Nesterov momentum 0.9.

    The parameters of the `head` form a group of their own, the last.
    """
    params: Any = [p for p in model.parameters() if p.requires_grad]
    if not params:
        raise UsageError("the model has no parameters to train", "choose another --model")
    if head is not None:
        last = set(head.parameters())
        groups = [p for p in params if p not in last], [p for p in params if p in last]
        params = [{"params": group} for group in groups if group]
    if opt == "sgd":
        return torch.optim.SGD(params, lr=lr, momentum=0.9, nesterov=True, weight_decay=weight_decay, fused=True)
    kind = torch.optim.AdamW if opt == "adamw" else torch.optim.Adam
    return kind(params, lr=lr, weight_decay=weight_decay, fused=True)
