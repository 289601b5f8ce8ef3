"""What the model answered, computed again: from the weights that a checkpoint holds and inputs made again, bit for bit.

    outputs = Outputs(run_folder)
    for made in Replay(run, selection, whole=True):
        if outputs.can_tell(made):
            differences += outputs.compare(made)

A checkpoint holds the weights after so many steps, and a batch record says after how many it was taken. So a checkpoint can
tell of the training batch that comes next, and of every evaluated batch until then and since the step before. A run folder
without checkpoints may still have its final model, which can tell of the last evaluation.

Equal bits are promised for the same software, threads and device, and for whole batches, so nothing is compared elsewhere:
UsageError names what differs. The forward pass is that of capture_cli.training.captured_loss, and what comes out of it goes
through the same BatchWriter.

A record that names a person's own file as its model is not believed: that file runs only if the caller names it.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812 - its name in every PyTorch program
from torch import nn

from capture_cli import checkpoint, models
from capture_cli.config import TrainConfig
from capture_cli.errors import CaptureError, RecordsError, UsageError
from capture_cli.journal import Journal
from capture_cli.models import saved
from capture_cli.records import Batch, RunInfo
from capture_cli.replay import Made, place
from capture_cli.replay.findings import Difference
from capture_cli.runfolder import CHECKPOINT, MODEL, PREVIOUS, RECORDS, Output
from capture_cli.runtime import Runtime, seed_step, start, versions
from capture_cli.writer import BatchWriter
from capture_cli.writer.columns import Forward, Header
from capture_cli.writer.sink import ListSink

COMPARED = ("loss", "losses", "probs", "preds", "topk", "p_labels")
"""Fields of a batch record that the model decides."""
_CHAIN_TAIL = 32 + len('"}\n')

Weights = Mapping[str, torch.Tensor]


class Outputs:
    """The moments of a run whose weights are kept, and the model to put them into."""

    def __init__(self, run_folder: Path | None, *, model: str | None = None) -> None:
        """Read the checkpoints, or the final model, of a run folder; `model` is the FILE.py:FACTORY that may be run.

        Raises UsageError where there is none that can be used.
        """
        if run_folder is None:
            raise UsageError("--outputs needs the checkpoints of a run folder", "give the run folder, not its records alone")
        self.batches = 0
        """How many were compared."""
        self.doubts: list[str] = []
        """What could not be used, a sentence each."""
        self._code = model
        self._steps: dict[int, Weights] = {}
        self._final: Weights | None = None
        self._ready: _Ready | None = None
        self._loaded: object = None
        for name in (CHECKPOINT, PREVIOUS):
            if os.path.lexists(run_folder / name):
                self._take(run_folder, name)
        if not self._steps and not self.doubts and _is_regular(run_folder / MODEL):
            self._final = saved.read(run_folder / MODEL)[1]
        if not self._steps and self._final is None:
            why = "; ".join(self.doubts) or f"there is no {CHECKPOINT} and no {MODEL}"
            raise UsageError(f"no weights in '{run_folder}': {why}", "--outputs needs the checkpoints of the run")

    @property
    def moments(self) -> str:
        """Of when the weights are, for a person."""
        if self._steps:
            return f"the checkpoints are of step {' and '.join(map(str, sorted(self._steps)))}"
        return "the weights are those after the last epoch"

    def can_tell(self, made: Made) -> bool:
        """Whether the weights of this batch are here and it was made again whole.

        Raises UsageError where software, threads, device or code are not those of the run.
        """
        if self._ready is None or self._ready.run is not made.run:
            self._ready, self._loaded = _prepare(made.run, self._code), None
        return self._weights(made.batch) is not None and len(made.equal) == made.n == len(made.batch.names)

    def compare(self, made: Made) -> list[Difference]:
        """Run the model on a batch of which `can_tell` is true. Raises UsageError where the weights are of another model."""
        ready, weights = self._ready, self._weights(made.batch)
        if ready is None or weights is None:
            raise CaptureError(f"there are no weights for the {place(made.batch)}")
        if self._loaded is not weights:
            ready.load(weights)
        # In training the forward pass changes the statistics of batch normalisation.
        self._loaded = None if made.batch.phase == "train" else weights
        self.batches += 1
        detail = _differences(made.batch, ready.again(made))
        subject = place(made.batch)
        return [Difference("outputs", subject, detail, made.line.seq + 1, f"{len(made.batch.names)} samples")] if detail else []

    def _weights(self, batch: Batch) -> Weights | None:
        if self._final is not None and self._ready is not None:
            last = batch.phase != "train" and batch.epoch == self._ready.config.epochs
            return self._final if last else None
        return self._steps.get(batch.step)

    def _take(self, folder: Path, name: str) -> None:
        """The weights of one checkpoint, if it is whole and of these records."""
        try:
            at, tensors = checkpoint.read(folder / name)
            fits = _chain_at(folder / RECORDS, at.journal["bytes"]) == at.journal["chain"]
        except CaptureError as error:
            self.doubts.append(f"{name} cannot be used: {error.message}")
            return
        except OSError as error:
            self.doubts.append(f"{name} cannot be used: {error}")
            return
        if not fits:
            self.doubts.append(f"{name} is not of these records: their chain does not lead there")
            return
        self._steps[at.recorder["step"]] = checkpoint.weights(tensors)


@dataclass(frozen=True, kw_only=True)
class _Ready:
    """A model that can answer for one run record."""

    run: RunInfo
    config: TrainConfig
    runtime: Runtime
    model: nn.Module
    forward: Any
    """The model, or its compiled form."""

    def load(self, weights: Weights) -> None:
        try:
            self.model.load_state_dict(dict(weights))
        except RuntimeError as error:
            raise UsageError(
                "the checkpoint is of another model than the records", "has the code of the model changed?"
            ) from error

    def again(self, made: Made) -> Batch:
        """The record that the batch would have now."""
        batch, device, train = made.batch, self.runtime.device, made.batch.phase == "train"
        if len(batch.labels) == 0 or not (batch.labels.min() >= 0 and batch.labels.max() < len(self.run.classes)):
            raise made.line.error(f"a batch record with labels that are none of the {len(self.run.classes):,} classes")
        inputs, labels = torch.from_numpy(made.inputs).to(device), torch.from_numpy(batch.labels).to(device)
        sink = ListSink()
        nowhere = Output(Journal(os.open(os.devnull, os.O_WRONLY), os.devnull), None, os.devnull)
        writer = BatchWriter(nowhere, sinks=[sink], probs=self.config.probs)
        self.model.train(train)
        if train:
            seed_step(self.config.seed, "step", batch.step)
        with torch.set_grad_enabled(train), self.runtime.autocast():
            logits = self.forward(inputs)
        header = Header(phase=batch.phase, epoch=batch.epoch, ids=batch.ids, files=batch.files)
        writer.record(header, inputs, Forward(logits, labels, loss=F.cross_entropy(logits.float(), labels)))
        writer.seal("completed")
        (record,) = sink.batches
        assert isinstance(record, Batch)  # noqa: S101 - the task is a classification
        return record


def _prepare(run: RunInfo, code: str | None) -> _Ready:
    if "weights_digest" in run.config:
        raise UsageError(
            "the weights that `capture evaluate` used are not in its run folder", "--outputs is for `capture train`"
        )
    try:
        config = TrainConfig(**run.config)
    except (TypeError, UsageError) as error:
        raise RecordsError(f"a run record with options that this version does not know: {error}") from error
    spec = config.model
    if models.notice(spec):
        if code is None:
            raise UsageError(
                f"the model of this run is {spec}, a file of code", "look at it, then let it run with --model FILE.py:FACTORY"
            )
        spec = code
    elif code is not None and code != spec:
        raise UsageError(f"--model {code} is not the model of this run, {spec}", "leave --model out")
    runtime = start(config.device, amp=config.amp)
    if differing := _environment(run, runtime):
        hint = f"OMP_NUM_THREADS={run.threads} sets the threads" if "threads" in differing[-1] else "replay without --outputs"
        raise UsageError(f"outputs would not be the same bits here: {'; '.join(differing)}", hint)
    size = {name: int(run.recipe[name]) for name in ("channels", "height", "width")}
    model = models.build(spec, classes=len(run.classes), **size).to(runtime.device)
    forward = torch.compile(model) if config.compile else model
    return _Ready(run=run, config=config, runtime=runtime, model=model, forward=forward)


def _environment(run: RunInfo, runtime: Runtime) -> list[str]:
    """What differs from where the run was computed; threads last."""
    now = versions()
    names = [*run.versions, *(name for name in now if name not in run.versions)]
    found = [
        f"{name} was {run.versions.get(name)}, is {now.get(name)}" for name in names if run.versions.get(name) != now.get(name)
    ]
    if run.device != runtime.name:
        found.append(f"device was {run.device}, is {runtime.name}")
    if run.threads != runtime.threads:
        found.append(f"threads were {run.threads}, are {runtime.threads}")
    return found


def _is_regular(path: Path) -> bool:
    """And no link: a run folder may come from anywhere, and a FIFO in it would never end."""
    return path.is_file() and not path.is_symlink()


def _chain_at(path: Path, until: int) -> str:
    """The chain of the line that ends so many bytes into a file of records."""
    with path.open("rb") as file:
        file.seek(max(0, until - _CHAIN_TAIL))
        return file.read(_CHAIN_TAIL)[:32].decode("ascii", "replace")


def _differences(recorded: Batch, now: Batch) -> str:
    """The fields that differ and in how many samples; empty if every bit is equal."""
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
    """bool, element by element; any NaN equals any other, since a record does not tell them apart."""
    bits = np.int64 if one.dtype == np.int64 else np.int32
    same: npt.NDArray[np.bool_] = one.view(bits) == other.view(bits)
    same |= np.isnan(one) & np.isnan(other)
    return same
