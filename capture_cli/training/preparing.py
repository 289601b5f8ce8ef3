"""A run that can begin: the device, the model with its initial weights, and how it will be updated. Nothing is written yet.

ready = prepare(plan)
ready.run_info()                    # the first record
learning = make_learning(ready)
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

import torch
from torch import nn

from capture_cli import models
from capture_cli.config import EVALUATIONS
from capture_cli.errors import UsageError
from capture_cli.models import saved
from capture_cli.models.freezing import freeze, head_of
from capture_cli.models.pretrained import begins_with_own_stem, load
from capture_cli.objective import Objective, balanced_weights
from capture_cli.plan import Plan
from capture_cli.records import RunInfo
from capture_cli.runtime import Runtime, keep_compiler_out, seed_step, start, versions, without_compiler
from capture_cli.training.learning import Average, Learning, copied, make_optimizer


@dataclass(frozen=True, kw_only=True)
class Ready:
    """A run that can begin."""

    plan: Plan
    runtime: Runtime
    model: nn.Module
    """On the device, as built."""
    initial_digest: str
    """Digest of its weights."""
    frozen: Sequence[nn.Module] = ()
    """Modules that are not trained."""
    original_stem: bool = False
    """As in models.build."""
    code_digest: str | None = None
    """Digest of the file of code that built the model, if there is one."""
    notes: Sequence[str] = ()
    """Sentences about it, for people."""

    @property
    def class_weights(self) -> list[float] | None:
        """The weight of each class in the loss; None where all count alike."""
        scan = self.plan.scan
        if self.plan.config.class_weights == "none":
            return None
        labels = [label for label, split in zip(scan.labels, scan.splits, strict=True) if split == "train"]
        return balanced_weights([labels.count(label) for label in range(len(scan.classes))])

    def run_info(self, options: dict[str, Any] | None = None) -> RunInfo:
        """Make the first record; `options` replace those of a training."""
        config, scan = self.plan.config, self.plan.scan
        listing = blake2b(digest_size=16)
        for item in zip(scan.files, scan.labels, scan.splits, strict=True):
            listing.update(repr(item).encode())
        is_training = options is None
        if options is None:
            whole = {EVALUATIONS: "whole"} if config.capture_every > 1 else {}
            options = replace(config, lr=config.learning_rate).to_dict() | whole
        return RunInfo(
            config=options,
            folder=self.plan.root,
            images={
                **{split: scan.splits.count(split) for split in sorted(set(scan.splits))},
                "listing_digest": listing.hexdigest(),
            },
            classes=scan.classes,
            class_weights=self.class_weights if is_training else None,
            fold=self.plan.fold,
            label_rule=scan.rule.name,
            model=self._model_info(is_training=is_training),
            recipe=self.plan.recipe.to_dict(),
            versions=versions(),
            device=self.runtime.name,
            threads=self.runtime.threads,
        )

    def _model_info(self, *, is_training: bool) -> dict[str, Any]:
        info: dict[str, Any] = {"name": self.plan.config.model, "parameters": sum(p.numel() for p in self.model.parameters())}
        if is_training:
            info["initial_digest"] = self.initial_digest
        if self.code_digest:
            info["code_digest"] = self.code_digest
        if self.original_stem:
            info["original_stem"] = True
        return info


def prepare(plan: Plan, *, original_stem: bool = False, downloads: bool = True) -> Ready:
    """Choose the device and build the model, with its initial weights if the plan has some.

    `original_stem` as in models.build, `downloads` as in models.pretrained.load. Raises UsageError for an option that is not
    valid.
    """
    config, size, classes = plan.config, plan.geometry, plan.scan.classes
    runtime = start(config.device, amp=config.amp)
    seed_step(config.seed, "model", 0)
    shape = {"channels": size.channels, "height": size.height, "width": size.width}
    original_stem = original_stem or begins_with_own_stem(plan.initial)
    model = models.build(config.model, original_stem=original_stem, classes=len(classes), **shape)
    notes = [load(plan.initial, model, classes=classes, downloads=downloads)] if plan.initial else []
    if config.lr_head is not None and head_of(model, len(classes)) is None:
        raise UsageError(f"--lr-head {config.lr_head}: the model has no last layer for the classes", "drop --lr-head")
    frozen = freeze(model, config.freeze, classes=len(classes))
    if config.ema:
        copied(model)  # what cannot be averaged is refused before anything is read
    digest = saved.digest(model)
    return Ready(
        plan=plan,
        runtime=runtime,
        model=model.to(runtime.device),
        initial_digest=digest,
        frozen=frozen,
        original_stem=original_stem,
        code_digest=models.code_digest(config.model),
        notes=notes,
    )


def make_learning(ready: Ready) -> Learning:
    """Make the optimizer and all that the options say about updates."""
    model, config = ready.model, ready.plan.config
    if not config.compile:
        keep_compiler_out()
    weights = ready.class_weights
    head = None if config.lr_head is None else head_of(model, len(ready.plan.scan.classes))
    optimizer = make_optimizer(
        model, opt=config.opt, lr=config.learning_rate, weight_decay=config.weight_decay, head=head[1] if head else None
    )
    factors = (1.0, (config.lr_head or 1.0) / config.learning_rate) if head else (1.0,)
    return Learning(
        optimizer=optimizer,
        update=optimizer.step if config.compile else without_compiler(optimizer),
        epochs=config.epochs,
        lr=config.learning_rate,
        sched=config.sched,
        seed=config.seed,
        warmup=config.warmup,
        lr_factors=factors[-len(optimizer.param_groups) :],
        frozen=ready.frozen,
        accumulate=config.grad_accum,
        clip=config.clip,
        objective=Objective(
            class_weights=torch.tensor(weights, device=ready.runtime.device) if weights else None,
            label_smoothing=config.label_smoothing,
        ),
        average=Average(model, config.ema, compiled=config.compile) if config.ema else None,
    )
