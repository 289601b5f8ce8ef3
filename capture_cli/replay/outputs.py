"""Model outputs recomputed from the weights in a checkpoint and from reproduced inputs, and compared bit for bit.

    outputs = Outputs(run.folder)
    for reproduced in Replay(run, selection, whole=True):
        report.add(outputs.compare(reproduced))         # nothing if there are no weights for this batch
    outputs.batches                                     # how many were compared

A checkpoint holds the weights after some step, and a batch record has the number of steps before it. So a checkpoint serves the
next training batch and every batch evaluated at that step. Without checkpoints, the final model serves the last evaluation.

Equal bits are promised for whole batches on the same software, threads and device, so nothing is compared elsewhere: UsageError
names the difference. The forward pass is that of capture_cli.training.captured_loss, and its results go through the same
BatchWriter. A file of code that the records name as the model is not trusted: it runs only if the caller names it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from capture_cli import checkpoint, models
from capture_cli.config import EVALUATIONS, TrainConfig
from capture_cli.errors import CaptureError, RecordsError, UsageError
from capture_cli.journal import Journal
from capture_cli.models import saved
from capture_cli.models.freezing import freeze
from capture_cli.objective import PLAIN, Objective
from capture_cli.records import AnyBatch, Batch, RunInfo
from capture_cli.replay import Reproduced, place
from capture_cli.replay.report import Difference
from capture_cli.runfolder import CHECKPOINT, MODEL, PREVIOUS, RECORDS, Output
from capture_cli.runtime import Runtime, seed_step, start, versions
from capture_cli.writer import BatchWriter
from capture_cli.writer.columns import Forward, Header
from capture_cli.writer.sink import ListSink

COMPARED = ("loss", "losses", "probs", "preds", "topk", "p_labels")
"""Fields of a batch record that depend on the model."""
_CHAIN_TAIL = 32 + len('"}\n')

Weights = Mapping[str, torch.Tensor]


class Outputs:
    """Recomputes the outputs of the batches whose weights a run folder still has."""

    def __init__(self, run_folder: Path | None, *, model: str | None = None) -> None:
        """Read the checkpoints, or the final model; `model` is the FILE.py:FACTORY that may run.

        Raises UsageError if no weights can be used.
        """
        if run_folder is None:
            raise UsageError("--outputs needs the checkpoints of a run folder", "give the run folder, not its records alone")
        self.batches = 0
        """Batches that were compared."""
        self.warnings: list[str] = []
        """Checkpoints that cannot be used, a sentence each."""
        self._code = model
        self._steps: dict[int, Weights] = {}
        self._evaluated: dict[int, Weights] = {}
        """The weights of evaluations, which may be averages (`--ema`)."""
        self._final: Weights | None = None
        self._model: RestoredModel | None = None
        self._loaded: object = None
        for name in (CHECKPOINT, PREVIOUS):
            if os.path.lexists(run_folder / name):
                self._read_checkpoint(run_folder, name)
        if not self._steps and not self.warnings and _is_regular(run_folder / MODEL):
            self._final = saved.read(run_folder / MODEL)[1]
        if not self._steps and self._final is None:
            why = "; ".join(self.warnings) or f"there is no {CHECKPOINT} and no {MODEL}"
            raise UsageError(f"no weights in '{run_folder}': {why}", "--outputs needs the checkpoints of the run")

    @property
    def available(self) -> str:
        """For which moments there are weights, a clause."""
        if self._steps:
            return f"the checkpoints are of step {' and '.join(map(str, sorted(self._steps)))}"
        return "the weights are those after the last epoch"

    def compare(self, reproduced: Reproduced) -> list[Difference]:
        """Run the model on a batch and compare, if it was reproduced whole and its weights are here.

        Raises UsageError if software, threads, device or code differ from the run's, or the weights are of another model.
        """
        batch = reproduced.batch
        if self._model is None or self._model.info is not reproduced.info:
            self._model, self._loaded = restored_model(reproduced.info, self._code), None
        weights = self._weights(batch, self._model)
        if weights is None or not isinstance(batch, Batch) or not len(reproduced.equal) == reproduced.n == len(batch.ids):
            return []
        if self._loaded is not weights:
            self._model.load(weights)
        # In training the forward pass changes the statistics of batch normalisation.
        self._loaded = None if batch.phase == "train" else weights
        self.batches += 1
        detail = differing_fields(batch, self._model.recompute(batch, reproduced.inputs))
        if detail and self._model.has_other_code:
            detail += "; the code in --model is not that of the run"
        return [Difference("outputs", place(batch), detail, reproduced.line, f"{len(batch.ids)} samples")] if detail else []

    def _weights(self, batch: AnyBatch, model: RestoredModel) -> Weights | None:
        if self._final is None:
            return (self._steps if batch.phase == "train" else self._evaluated).get(batch.step)
        return self._final if batch.phase != "train" and batch.epoch == model.config.epochs else None

    def _read_checkpoint(self, folder: Path, name: str) -> None:
        """Keep the weights of a checkpoint, if it is whole and belongs to these records."""
        try:
            progress, tensors = checkpoint.read(folder / name)
            fits = _chain_at(folder / RECORDS, progress.journal["bytes"]) == progress.journal["chain"]
        except (CaptureError, OSError) as error:
            reason = error.message if isinstance(error, CaptureError) else error
            self.warnings.append(f"{name} cannot be used: {reason}")
            return
        if fits:
            step, weights = progress.writer["step"], checkpoint.weights(tensors)
            self._steps[step] = weights
            self._evaluated[step] = checkpoint.weights(tensors, "average") or weights
        else:
            self.warnings.append(f"{name} does not belong to these records: their chain is another")


@dataclass(frozen=True, kw_only=True)
class RestoredModel:
    """The model that a run record describes, on the device of the run."""

    info: RunInfo
    config: TrainConfig
    runtime: Runtime
    model: nn.Module
    forward: Any
    """The model, or its compiled form."""
    frozen: Sequence[nn.Module] = ()
    """Modules that stay in evaluation mode."""
    has_other_code: bool = False
    """The file of code that may run is not the one that the run was made with."""

    @property
    def objective(self) -> Objective:
        """The loss that the run minimised."""
        weights = self.info.class_weights
        return Objective(
            class_weights=None if weights is None else torch.tensor(weights, device=self.runtime.device),
            label_smoothing=self.config.label_smoothing,
        )

    def load(self, weights: Weights) -> None:
        """Raise UsageError for weights of another model."""
        try:
            self.model.load_state_dict(dict(weights))
        except RuntimeError as error:
            raise UsageError(
                "the checkpoint is of another model than the records", "has the code of the model changed?"
            ) from error

    def recompute(self, batch: Batch, inputs: npt.NDArray[np.float32]) -> Batch:
        """The record that the batch would have now, from its inputs [B, C, H, W]."""
        device, train = self.runtime.device, batch.phase == "train"
        on_device, labels = torch.from_numpy(inputs).to(device), torch.from_numpy(batch.labels).to(device)
        sink = ListSink()
        nowhere = Output(Journal(os.open(os.devnull, os.O_WRONLY), os.devnull), None, os.devnull)
        writer = BatchWriter(nowhere, sinks=[sink], probs=self.config.probs)
        self.model.train(train)
        for module in self.frozen:
            module.eval()
        objective, other_labels, weight = PLAIN, None, 1.0
        if train:
            objective = self.objective
            if batch.mix:
                other_labels, weight = torch.tensor(batch.mix["labels"], device=device), float(batch.mix["weight"])
            seed_step(self.config.seed, "step", batch.step)
        with torch.set_grad_enabled(train), self.runtime.autocast():
            logits = self.forward(on_device)
        loss = objective.loss(logits, labels, other_labels, weight)
        header = Header(phase=batch.phase, epoch=batch.epoch, ids=batch.ids, files=batch.files)
        writer.record(header, on_device, Forward(logits, labels, loss=loss))
        writer.seal("completed")
        (record,) = sink.batches
        assert isinstance(record, Batch)  # noqa: S101 - the task is a classification
        return record


def restored_model(info: RunInfo, code: str | None) -> RestoredModel:
    """Build the model of a run; `code` is the FILE.py:FACTORY that may run.

    Raises UsageError if it cannot give the same bits here, RecordsError for options that this version does not know.
    """
    if "weights_digest" in info.config:
        raise UsageError(
            "the weights that `capture evaluate` used are not in its run folder", "--outputs is for `capture train`"
        )
    try:
        config = TrainConfig(**{name: value for name, value in info.config.items() if name != EVALUATIONS})
    except (TypeError, UsageError) as error:
        raise RecordsError(f"a run record with options that this version does not know: {error}") from error
    spec = config.model
    if models.notice(spec):
        if code is None:
            raise UsageError(
                f"the model of this run is {spec}, a file of code", "read it, then allow it with --model FILE.py:FACTORY"
            )
        spec = code
    elif code is not None and code != spec:
        raise UsageError(f"--model {code} is not the model of this run, {spec}", "omit --model")
    runtime = start(config.device, amp=config.amp)
    if changes := _environment_changes(info, runtime):
        hint = f"OMP_NUM_THREADS={info.threads} sets the threads" if "threads" in changes[-1] else "replay without --outputs"
        raise UsageError(f"outputs would not be the same bits here: {'; '.join(changes)}", hint)
    size = {name: int(info.recipe[name]) for name in ("channels", "height", "width")}
    size["classes"] = len(info.classes)
    model = models.build(spec, original_stem=info.model.get("original_stem") is True, **size).to(runtime.device)
    frozen = freeze(model, config.freeze, classes=len(info.classes))
    forward = torch.compile(model) if config.compile else model
    return RestoredModel(
        info=info,
        config=config,
        runtime=runtime,
        model=model,
        forward=forward,
        frozen=frozen,
        has_other_code=info.model.get("code_digest", now := models.code_digest(spec)) != now,
    )


def _environment_changes(info: RunInfo, runtime: Runtime) -> list[str]:
    """Differences from the environment of the run; threads last."""
    then, now = info.versions, versions()
    names = [*then, *(name for name in now if name not in then)]
    changes = [f"{name} was {then.get(name)}, is {now.get(name)}" for name in names if then.get(name) != now.get(name)]
    if info.device != runtime.name:
        changes.append(f"device was {info.device}, is {runtime.name}")
    if info.threads != runtime.threads:
        changes.append(f"threads were {info.threads}, are {runtime.threads}")
    return changes


def _is_regular(path: Path) -> bool:
    """Return whether it is a regular file: a run folder may come from anywhere, and reading a FIFO in it would never end."""
    return path.is_file() and not path.is_symlink()


def _chain_at(path: Path, until: int) -> str:
    """The chain of the line that ends after `until` bytes of a file of records."""
    with path.open("rb") as file:
        file.seek(max(0, until - _CHAIN_TAIL))
        return file.read(_CHAIN_TAIL)[:32].decode("ascii", "replace")


def differing_fields(recorded: Batch, now: Batch) -> str:
    """The fields that differ, and in how many samples; empty if every bit is equal."""
    found = []
    for name in COMPARED:
        one, other = getattr(recorded, name), getattr(now, name)
        if (one is None) != (other is None) or np.shape(one) != np.shape(other):
            found.append(f"{name} of another shape")
        elif one is not None:
            kind = np.int64 if name in ("preds", "topk") else np.float32
            equal = _equal_bits(np.atleast_1d(one).astype(kind), np.atleast_1d(other).astype(kind))
            if not equal.all():
                count = int((~equal.reshape(len(equal), -1)).any(1).sum())
                found.append(f"loss was {one}, is {other}" if name == "loss" else f"{name} of {count:,} samples")
    return ", ".join(found)


def _equal_bits(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Compare element by element; any NaN equals any other, since a record does not tell them apart."""
    bits = np.int64 if one.dtype == np.int64 else np.int32
    same: npt.NDArray[np.bool_] = one.view(bits) == other.view(bits)
    same |= np.isnan(one) & np.isnan(other)
    return same
