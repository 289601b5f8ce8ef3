"""One batch of tensors in, one record out: the capture itself, in anyone's loop.

    with Recorder("run.jsonl", classes=["cat", "dog"]) as recorder:
        for epoch in range(3):
            for inputs, labels, ids in loader:
                logits = model(inputs)
                recorder.record(epoch=epoch, phase="train", inputs=inputs, logits=logits, labels=labels, ids=ids)
                ...

`capture train` itself records through this class. What it promises:

* Every number is of the very forward pass that trains: there is no second one. Nothing it is given is changed, no graph is
  kept alive, and of the inputs it keeps those of the last batch alone.
* Losses, probabilities and predictions of every sample go into the record; what the options leave out is counted there.
* What does not fit (shapes, labels, ids, numbers) is an error before anything is written or counted, so the records stay valid
  and go on.
* On the CPU a record is written before `record` returns, in capture's own loop within 50 ms. On CUDA results are copied to
  pinned memory without waiting and
  written one call later, so that the step never synchronises; `flush` writes what is pending. What only the values show (a
  label that is no class, NaN) is then an error of the next call, which names the batch it is of and takes nothing itself.
* Ctrl-C at any moment leaves whole records, and sums that count what was written.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, fields
from math import isfinite
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from capture_cli.config import kept_inputs, kept_probs
from capture_cli.errors import CaptureError, UsageError
from capture_cli.preprocessing import digests
from capture_cli.recorder import validation
from capture_cli.records import MAX_SAMPLES_PER_LINE, Batch, End, Epoch, Numbers, Record, RunInfo, Samples, Skip
from capture_cli.runfolder import Output, open_output
from capture_cli.writer import columns
from capture_cli.writer.flight import SpikeRule
from capture_cli.writer.kept_inputs import Keeping
from capture_cli.writer.pending import Pending
from capture_cli.writer.phases import Phases, Sums
from capture_cli.writer.sink import Sink
from capture_cli.writer.staging import Room

if TYPE_CHECKING:
    import torch
    from torch import nn

    from capture_cli.recorder.watching import Watch, WatchedLoader

    Ids = Sequence[int] | Sequence[str] | npt.NDArray[Any] | torch.Tensor


SECONDS_TOGETHER = 0.05
"""How long records of our own loop wait to be written together."""


class Recorder:
    """Writes one record a batch, and keeps the sums of each phase."""

    def __init__(
        self,
        out: str | os.PathLike[str] | Output,
        *,
        classes: Sequence[str] | None = None,
        task: str = columns.CLASSIFICATION,
        config: Mapping[str, Any] | None = None,
        model: nn.Module | None = None,
        every: int = 1,
        probs: str | None = None,
        inputs: str | int = "digest",
        spike: float = 10.0,
        nonfinite: str = "raise",
        repeats: bool = False,
        ignore_index: int = -100,
        sinks: Iterable[Sink] = (),
        force: bool = False,
    ) -> None:
        """Open `out`: FILE.jsonl for the records alone, else a run folder. What exists is overwritten only with `force`.

        `classes` are their names, in the order of the logits (of a `multilabel` or `regression` task: names of the outputs);
        without them they are called 0, 1, ... `task` is one of capture_cli.writer.columns.TASKS. `config` (plain values)
        and `model` are named in the run record. `every`, `probs`, `inputs` and `spike` are the options of `capture train`.
        Logits that are NaN `raise`, unless `nonfinite` is `record`. An id that comes twice in a phase of an epoch is an
        error unless `repeats`. Labels that are `ignore_index` are padding where the task is `sequence`.

        Raises UsageError for what cannot be honoured and if `out` exists, CaptureError if it cannot be written or is in use.
        A caller that hands over an open Output writes its run record itself, and closes it.
        """
        validation.demand("task", task, task in columns.TASKS, " or ".join(columns.TASKS))
        validation.demand("nonfinite", nonfinite, nonfinite in ("raise", "record"), "raise or record")
        validation.demand("every", every, type(every) is int and every >= 1, "a whole number from 1 up")
        validation.demand(
            "spike", spike, type(spike) in (int, float) and spike >= 0, "a number of standard deviations, 0 for never"
        )
        validation.demand("ignore_index", ignore_index, type(ignore_index) is int, "a whole number")
        validation.demand("classes", classes, classes is None or validation.are_names(classes), "a list of names, each once")
        validation.demand("config", config, config is None or isinstance(config, Mapping), "names and plain values")
        self.step = 0
        """Updates so far: batches whose phase is `train`."""
        self.nonfinite: Batch | Numbers | None = None
        """The first batch whose loss was NaN or infinite."""
        self._task, self._config = task, validation.plain("config", dict(config or {}))
        self._classes = list(classes) if classes is not None else None
        self._width = 0
        """Of the logits, once there were some."""
        self._model = {"name": type(model).__name__, "parameters": _parameters(model)} if model is not None else {}
        self._every, self._probs, self._ignore_index = every, probs, ignore_index
        kept_probs(probs, 2)  # says what is wrong with it, if anything is
        stored = kept_inputs(inputs)
        self._raises, self._repeats = nonfinite == "raise", repeats
        self._watch: Watch | None = None
        self._rank = -1
        """Asked for with the first batch: a trainer may make the group of processes after the recorder."""
        self._rule = SpikeRule(spike)
        self._device: torch.device | None = None
        self._before: Pending | None = None
        self._waiting: list[Pending] = []
        """Batches that are not written yet, all of one phase of one epoch: one on a device, or some to be written together."""
        self._waits_since = 0.0
        self._room = Room()
        self._phases = Phases()
        self._uncounted: _Count | None = None
        self._own = not isinstance(out, Output)
        self._closed, self._pid = False, os.getpid()
        self._begun = isinstance(out, Output)
        if isinstance(out, Output):
            self._output = out
        else:
            self._output = _opened(os.fspath(out), force=force, needs_folder=stored is None)
        self._journal = self._output.journal
        self._keeping = Keeping(self._output.folder, stored)
        self._sinks = list(sinks)
        self._wanted = {getattr(sink, "every_input", True) for sink in self._sinks}
        self._together = not self._own and self._journal.is_file and not self._keeping.keeps_some
        """Whether records may be written together: the loop is our own, so no label can be wrong and no tensor is changed."""
        try:
            for sink in self._sinks:
                sink.begin(self._output)
        except UsageError:
            if self._own:
                self._output.close()
            raise

    def record(
        self,
        *,
        epoch: int,
        phase: str,
        inputs: torch.Tensor,
        logits: torch.Tensor,
        labels: torch.Tensor,
        ids: Ids,
        files: Sequence[str] | None = None,
        losses: torch.Tensor | None = None,
        loss: torch.Tensor | float | None = None,
        lr: float | None = None,
        extra: Mapping[str, Sequence[Any]] | None = None,
    ) -> None:
        """Take one batch after its forward pass and before its update.

        `inputs` [B, ...] of any dtype, as they went into the model; `logits` and `labels` as capture_cli.writer.columns
        says for the task; `ids` [B] what the samples are called, all integers or all strings, in a list, an array or a
        tensor; `files` [B] where they come from. `losses` ([B], for sequences [B, T]) are plain cross-entropy in nats,
        computed here where they are not given; `loss` is the scalar that is differentiated (else their mean), `lr` the
        learning rate of the update that follows. `extra` holds further columns, one plain value (text, number, true, false,
        None, or lists and objects of them) for each of the B.

        Batches are counted from 0 in each phase of each epoch, steps over all batches whose phase is `train`. A phase of an
        epoch ends, and its sums are written, when the same phase comes with a later epoch, at `end_phase`, or at the end.

        Raises UsageError, naming the argument, for what does not fit; nothing is written or counted then.
        """
        self._demand_open()
        if self._own:
            columns.check(self._task, inputs=inputs, logits=logits, labels=labels, losses=losses, loss=loss)
        first = self._waiting[0] if self._waiting else None
        if self._uncounted or (first and not (first.arrived is None and first.is_of(phase, epoch))):
            self.flush()
        classes = 1 if logits.ndim == 1 else logits.shape[-1]
        if self._rank < 0:
            self._rank = _rank()
        header: dict[str, Any] = {"phase": phase, "epoch": epoch, "step": self.step, "rank": self._rank, "lr": lr}
        header |= {"ids": ids, "files": files, "extra": extra}
        results = self._checked(header, logits, classes) if self._own else {}  # who hands over an Output numbers its samples
        header["batch"] = self._phases.batches(phase, epoch) + len(self._waiting)
        captured = header["batch"] % self._every == 0
        rows = self._room.take(logits, labels) if self._together and logits.is_cpu and loss is not None else None
        if not rows:
            at_once = bool(results) or not inputs.is_cpu  # while these come from a device, logits may be overwritten
            results |= columns.taken(self._task, logits, labels, losses, loss, probs=self._probs, at_once=at_once)
        pending = Pending.of(header, inputs, results, captured=captured, classes=classes)
        if rows and loss is not None:
            pending.rows, pending.loss = rows, loss if isinstance(loss, float | int) else loss.item()
        self._device = logits.device
        self.step += phase == "train"
        self._waiting.append(pending)
        if pending.arrived is None and not self._may_wait(pending):
            self.flush()

    def _checked(self, header: dict[str, Any], logits: torch.Tensor, classes: int) -> dict[str, torch.Tensor]:
        """Make what stands beside the tensors plain; ids that come from a device are returned. Raises UsageError."""
        phase, epoch, b = header["phase"], header["epoch"], len(logits)
        self._check_width(logits, classes)
        self._phases.check(phase, epoch)
        late = validation.still_coming(header["ids"], b)
        header["ids"] = None if late else self._fresh(phase, epoch, validation.checked_ids(header["ids"], b))
        header |= {"files": validation.checked_files(header["files"], b), "extra": validation.checked_extra(header["extra"], b)}
        validation.check_lr(header["lr"])
        return late

    def _may_wait(self, pending: Pending) -> bool:
        """Whether a batch that is on the host may be written together with those that follow.

        Right after a forward and a backward pass the caches hold nothing of what writes records, so that one record takes as
        long as three in a row. So they wait, for SECONDS_TOGETHER at most; digests are taken and the loss is judged at once.
        """
        if pending.rows is None:
            return False
        loss = pending.loss
        if pending.captured and (inputs := pending.input_array()) is not None:
            pending.digests, pending.copied = digests(inputs), None
        pending.reason = self._rule.judge(loss) if pending.header["phase"] == "train" else ""
        if len(self._waiting) == 1:
            self._waits_since = monotonic()
        if pending.reason or not isfinite(loss):
            return False
        before = self._waiting[-2] if len(self._waiting) > 1 else self._before
        if before and not self._wants_inputs(before.header["phase"]):  # as this one is well, they are of no use
            before.inputs = None
        return monotonic() - self._waits_since < SECONDS_TOGETHER

    def _wants_inputs(self, phase: str) -> bool:
        return True in self._wanted or ("evaluation" in self._wanted and phase != "train")

    def watch(self, criterion: nn.Module, *, model: nn.Module | None = None) -> None:
        """Record whatever `criterion(logits, labels)` is called with, for the batches of a loader that `loader` returned.

        `criterion` is a torch.nn.Module such as nn.CrossEntropyLoss, of which a forward hook sees logits and labels; `model`
        the one whose first tensor is the inputs. What cannot be known this way: capture_cli.recorder.watching. Raises
        UsageError for what cannot be watched; what does not fit later is raised by the call of `criterion`. The hooks go with
        `close`.
        """
        self._demand_open()
        self._watching().criterion(criterion, model)

    def loader(self, loader: Iterable[Any], *, phase: str = "train") -> WatchedLoader:
        """The batches of a loader over an `identified` dataset, without the ids, which go to the records: see `watch`.

        Raises UsageError where the samples have no ids, or `phase` is none.
        """
        self._demand_open()
        self._phases.check(phase, 2**62)
        return self._watching().loader(loader, phase)

    def _watching(self) -> Watch:
        if self._watch is None:
            from capture_cli.recorder.watching import Watch

            self._watch = Watch(self, task=self._task, ignore_index=self._ignore_index)
        return self._watch

    def is_open(self, phase: str) -> bool:
        """Whether a batch of the phase has come since its last end."""
        self.flush()
        return phase in self._phases.open

    def end_phase(self, phase: str | None = None) -> Epoch:
        """Write and return the sums of a phase, by default the one that the last batch was of.

        Raises UsageError if it is not open.
        """
        self.flush()
        record = self._phases.sums(phase).record(accuracy=self._task != "regression")
        self._emit(record, None)
        self._phases.leave(record.phase)
        return record

    def flush(self) -> None:
        """Write what is pending, waiting for the device if need be."""
        self._settle()
        made: list[dict[str, Any]] = []
        while self._waiting:
            made = made or self._columns()
            self._finish(self._waiting.pop(0), made.pop(0))
        self._room.clear()

    def _columns(self) -> list[dict[str, Any]]:
        """Of the batches that wait: made in one go of all whose answers wait in the room, else of the first."""
        first, *_ = self._waiting
        taken = self._room.taken() if first.rows else first.wait()
        try:
            made = columns.made(self._task, taken, probs=self._probs, classes=first.classes, ignore_index=self._ignore_index)
        except UsageError as error:
            raise self._refused(self._waiting.pop(0), error) from error
        return [columns.part(made, one.rows, one.loss) for one in self._waiting if one.rows] if first.rows else [made]

    def _refused(self, pending: Pending, error: UsageError) -> UsageError:
        """What is said of a batch that cannot be recorded, and is as if it had not been."""
        header = pending.header
        self.step -= header["phase"] == "train"
        return UsageError(f"{header['phase']} batch {header['batch']} of epoch {header['epoch']}: {error.message}", error.hint)

    def sync(self) -> None:
        """Write what is pending and return when everything would survive a power cut."""
        self.flush()
        self._keeping.sync()
        self._journal.sync()

    def close(self, status: str = "completed") -> None:
        """Write what is pending and the sums of open phases, seal the records with `status`, close. May be called twice.

        `status` is completed, interrupted or failed: what `with` makes of how its block ended.
        """
        if self._closed or os.getpid() != self._pid:  # a process that was forked off has no part in what is written
            return
        validation.demand(
            "status", status, status in ("completed", "interrupted", "failed"), "completed, interrupted or failed"
        )
        unfit = None
        try:
            try:
                self.flush()
            except UsageError as error:  # a batch that was on its way from the device
                unfit, status = error, "failed"
            if not self._begun:
                self._begin(len(self._classes or ("0",)))
            for phase in list(self._phases.open):
                self.end_phase(phase)
            self.end(status)
        finally:
            self._closed = True
            if self._watch:
                self._watch.close()
            for sink in self._sinks:
                sink.close()
            if self._own:
                self._output.close()
        if unfit:
            raise unfit

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self.close()
            return
        with suppress(CaptureError, OSError):  # the error that ended the block is what its caller must hear
            self.close("failed" if issubclass(kind, Exception) else "interrupted")

    # What capture train needs besides: to write what is not of a batch, and to go on after a checkpoint.

    def write(self, record: RunInfo | Samples | Skip | Epoch) -> None:
        """Write a record that is not of a batch."""
        self.flush()
        self._emit(record, None)

    def samples(self, whole: Samples) -> None:
        """Announce samples, at most 1,024 a line."""
        self.flush()
        for start in range(0, len(whole.ids), MAX_SAMPLES_PER_LINE):
            part = slice(start, start + MAX_SAMPLES_PER_LINE)
            cut = {field.name: getattr(whole, field.name)[part] for field in fields(Samples)}
            self._emit(Samples(**cut), None)

    def end(self, status: str) -> None:
        """Write what is pending and seal the journal with `status`; sinks hear of it once that is durable."""
        self.flush()
        self._keeping.close()
        end = End(status=status, counts=dict(self._journal.counts))
        self._journal.seal(status)
        for sink in self._sinks:
            sink.write(end, None)

    @property
    def place(self) -> dict[str, Any]:
        """What a checkpoint keeps of a recorder with nothing pending: steps, the sums of the phase, the pack's length."""
        sums = next(iter(self._phases.open.values()), Sums())
        return {"step": self.step, "sums": asdict(sums), "losses": self._rule.state()} | self._keeping.place

    def go_on(self, place: Mapping[str, Any], stored: Mapping[str, Mapping[str, int]]) -> None:
        """Take up the place of an earlier recorder of the same run; `stored` says which inputs lie where in its packs."""
        self.step, sums = place["step"], Sums(**place["sums"])
        self._phases.open = {sums.phase: sums} if sums.phase else {}
        self._rule.restore(place["losses"])
        self._keeping.go_on(place, stored)

    def precede(self, *, phase: str, epoch: int, batch: int, ids: npt.NDArray[np.int64], inputs: torch.Tensor) -> None:
        """Be told the batch before, which an earlier process has recorded: if the next goes wrong, it is kept whole too."""
        header = {"phase": phase, "epoch": epoch, "batch": batch, "ids": ids}
        self._before = Pending.of(header, inputs, {})

    def _demand_open(self) -> None:
        if self._closed:
            raise UsageError(f"the recorder of '{self._output.where}' is closed", "record inside its `with` block")
        if os.getpid() != self._pid:
            raise UsageError(
                f"the recorder of '{self._output.where}' is that of the process this one was forked from",
                "give each process a recorder of its own",
            )

    def _check_width(self, logits: torch.Tensor, classes: int) -> None:
        """Raise UsageError unless the logits are as wide as the names of the classes, or the logits before them."""
        named = len(self._classes) if self._classes is not None else 0
        if named and classes != named:
            raise UsageError(
                f"logits {columns.described(logits)} have {classes} classes, classes names {named}",
                "name each once, in the order of the logits",
            )
        if self._width and classes != self._width:
            raise UsageError(
                f"logits {columns.described(logits)} have {classes} classes, those before them {self._width}",
                "give each model a recorder of its own",
            )

    def _begin(self, classes: int) -> None:
        """Write the run record, which says what all others are about."""
        import torch

        from capture_cli.runtime import device_name, versions

        self._emit(
            RunInfo(
                config=self._config,
                folder="",
                classes=self._classes or [str(number) for number in range(classes)],
                task=None if self._task == columns.CLASSIFICATION else self._task,
                model=self._model,
                recipe={},
                versions=versions(),
                device=device_name(self._device) if self._device else "cpu",
                threads=torch.get_num_threads(),
            ),
            None,
        )
        self._begun = True

    def _finish(self, pending: Pending, results: dict[str, Any]) -> None:
        """Check the values of a batch; then, and only then, write it and count it."""
        header = pending.header
        phase, epoch = header["phase"], header["epoch"]
        losses = results["losses"]
        total = float(losses.sum(dtype=np.float64))
        finite = isfinite(total)
        try:
            if pending.late_ids is not None:
                header["ids"] = self._fresh(phase, epoch, pending.late_ids.tolist())
            if self._raises and (not finite or "losses" in pending.host):  # where the answer is NaN, so is a loss not given
                columns.check_numbers(results)
        except UsageError as error:
            raise self._refused(pending, error) from error
        if not self._begun:
            self._begin(pending.classes)
        self._width = pending.classes
        if self._phases.is_over(phase, epoch):
            self.end_phase(phase)
        sums = self._phases.enter(phase, epoch)
        wrong = pending.reason
        if wrong is None:
            wrong = self._rule.judge(float(results["loss"])) if phase == "train" else ""
        before, self._before = self._before, pending
        pending.host = {}
        captured = pending.captured or bool(wrong) or not finite  # what went wrong is captured whatever `every` says
        count = _Count(
            sums.plus(
                n=len(losses),
                loss=total,
                correct=columns.count_right(self._task, results),
                captured=captured,
            ),
            header["ids"],
            self._journal.lines + captured,
        )
        if captured:
            inputs, pending.copied = pending.input_array(), None
            batch = columns.as_record(
                header,
                results,
                classes=pending.classes,
                ignore_index=self._ignore_index,
                inputs=self._keeping.inputs(pending, inputs, whole=bool(wrong)),
                flight=self._keeping.flight(wrong, before),
            )
            if not finite and self.nonfinite is None:
                self.nonfinite = batch
            self._uncounted = count
            self._emit(batch, inputs)
        self._count(count)

    def _fresh(self, phase: str, epoch: int, ids: list[int] | list[str]) -> list[int] | list[str]:
        """The same ids. Raises UsageError where one has come already, and may not."""
        if not self._repeats:
            self._phases.check_ids(phase, epoch, ids)
        return ids

    def _count(self, count: _Count) -> None:
        self._phases.open[count.sums.phase] = count.sums
        if self._own and not self._repeats:
            self._phases.note(count.sums.phase, count.ids)
        self._uncounted = None

    def _settle(self) -> None:
        """Count a batch that was written when something broke in, such as Ctrl-C, and forget one that was not."""
        count, self._uncounted = self._uncounted, None
        if count and self._journal.lines >= count.lines:
            self._count(count)

    def _emit(self, record: Record, inputs: npt.NDArray[Any] | None) -> None:
        self._journal.append(record)
        for sink in self._sinks:
            sink.write(record, inputs)


class _Count(NamedTuple):
    """What is counted once a batch is written: the sums with it, its ids, and how many lines there are then."""

    sums: Sums
    ids: Any
    lines: int


def _opened(out: str, *, force: bool, needs_folder: bool) -> Output:
    """Raises what open_output raises, with the ways out in a recorder's words."""
    try:
        return open_output(out, name=None, model="", force=force, needs_folder='inputs="all"' if needs_folder else "")
    except CaptureError as error:
        ways = {
            "--force": "give another place; with force=True what is there goes",
            "-o a folder": "give a folder in place of FILE.jsonl",
            "": "give another place",
        }
        raise type(error)(error.message, next(ways[said] for said in ways if said in error.hint)) from error


def _parameters(model: nn.Module) -> int:
    return sum(one.numel() for one in model.parameters())


def _rank() -> int:
    """Of this process in a distributed training: each has a recorder, and a file, of its own."""
    from torch import distributed

    return distributed.get_rank() if distributed.is_available() and distributed.is_initialized() else 0
