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
* What does not fit (shapes, labels, ids, numbers) is an error before anything is written or counted, so the records stay valid.
* On the CPU a record is written before `record` returns. On CUDA results are copied to pinned memory without waiting and
  written one call later, so that the step never synchronises; `flush` writes what is pending.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, fields
from math import isfinite
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from capture_cli import columns
from capture_cli.config import kept_inputs, kept_probs
from capture_cli.errors import CaptureError, UsageError
from capture_cli.flight import SpikeRule
from capture_cli.inputs import digests
from capture_cli.pack import Pack
from capture_cli.pending import Pending, to_host
from capture_cli.phases import Phases, Sums
from capture_cli.records import MAX_SAMPLES_PER_LINE, Batch, Epoch, Inputs, Numbers, Record, Run, Samples, Skip, inputs_to_json
from capture_cli.runfolder import INPUTS, Output, open_output

if TYPE_CHECKING:
    import torch
    from torch import nn

    from capture_cli.watching import Watch, WatchedLoader

PACK, FLIGHT = "pack-00000.bin", "flight.bin"
"""Files below inputs/: of `inputs="all"`, and of batches whose loss went wrong."""


class Sink(Protocol):
    """What sees the records beside the journal: the terminal, a tracker."""

    def begin(self, output: Output) -> None:
        """Be told, before anything else, where the records go."""

    def write(self, record: Record, inputs: npt.NDArray[Any] | None) -> None:
        """Take a record as it was written; with a batch, `inputs` [B, ...] as the network saw them.

        Not to be changed, and to be copied if they are to be kept: the next step may overwrite them.
        """

    def close(self) -> None:
        """Let go; nothing more comes."""


Ids = Sequence[int] | Sequence[str] | npt.NDArray[np.int64]


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
        without them they are called 0, 1, ... `task` is one of capture_cli.columns.TASKS. `config` (plain values) and `model`
        are named in the run record. `every`, `probs`, `inputs` and `spike` are the options of `capture train`.
        Logits that are NaN `raise`, unless `nonfinite` is `record`. An id that comes twice in a phase of an epoch is an
        error unless `repeats`. Labels that are `ignore_index` are padding where the task is `sequence`.

        Raises UsageError for what cannot be honoured, CaptureError if `out` exists, cannot be written or is in use.
        A caller that hands over an open Output writes its run record itself, and closes it.
        """
        _demand("task", task, task in columns.TASKS, " or ".join(columns.TASKS))
        _demand("nonfinite", nonfinite, nonfinite in ("raise", "record"), "raise or record")
        _demand("every", every, type(every) is int and every >= 1, "a whole number from 1 up")
        _demand("spike", spike, spike >= 0, "a number of standard deviations, 0 for never")
        _demand(
            "classes", classes, classes is None or (len(classes) > 0 and all(isinstance(one, str) for one in classes)), "names"
        )
        self.step = 0
        """Updates so far: batches whose phase is `train`."""
        self.nonfinite: Batch | Numbers | None = None
        """The first batch whose loss was NaN or infinite."""
        self._task, self._classes, self._config = task, classes, dict(config or {})
        self._model = {"name": type(model).__name__, "parameters": _parameters(model)} if model is not None else {}
        self._every, self._probs, self._ignore_index = every, probs, ignore_index
        kept_probs(probs, 2)  # says what is wrong with it, if anything is
        stored = kept_inputs(inputs)
        self._stored_inputs = stored or 0
        self._raises, self._repeats = nonfinite == "raise", repeats
        self._watch: Watch | None = None
        self._rule = SpikeRule(spike)
        self._before: Pending | None = None
        self._pending: Pending | None = None
        self._phases = Phases()
        self._own = not isinstance(out, Output)
        self._closed = False
        self._begun = isinstance(out, Output)
        if isinstance(out, Output):
            self._output = out
        else:
            needs = 'inputs="all"' if stored is None else ""
            self._output = open_output(os.fspath(out), name=None, model="", force=force, needs_folder=needs)
        self._journal = self._output.journal
        self._pack = self._new_pack(PACK) if stored is None else None
        self._flight = self._new_pack(FLIGHT)
        self._sinks = list(sinks)
        for sink in self._sinks:
            sink.begin(self._output)

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
        loss: torch.Tensor | None = None,
        lr: float | None = None,
        extra: Mapping[str, Sequence[Any]] | None = None,
    ) -> None:
        """Take one batch after its forward pass and before its update.

        `inputs` [B, ...] as they went into the model; `logits` and `labels` as capture_cli.columns says for the task; `ids` [B]
        what the samples are called, all integers or all strings; `files` [B] where they come from. `losses` ([B], for sequences
        [B, T]) are plain cross-entropy in nats, computed here where they are not given; `loss` is the scalar that is
        differentiated (else their mean), `lr` the learning rate of the update that follows. `extra` holds further columns of
        plain values, one for each of the B.

        Batches are counted from 0 in each phase of each epoch, steps over all batches whose phase is `train`. A phase of an
        epoch ends, and its sums are written, when the same phase comes with a later epoch, at `end_phase`, or at the end.

        Raises UsageError, naming the argument, for what does not fit; nothing is written or counted then.
        """
        self._demand_open()
        columns.check(self._task, logits=logits, labels=labels, losses=losses)
        b = len(logits)
        names: Any = (
            self._checked(phase, epoch, ids, b) if self._own else ids
        )  # who hands over an Output has numbered its samples
        columns.check_beside(b, inputs=inputs, files=files, extra=extra)
        self.flush()
        classes = 1 if logits.ndim == 1 else logits.shape[-1]
        if not self._begun:
            self._begin(logits, classes)
        if self._phases.is_over(phase, epoch):
            self.end_phase(phase)
        sums = self._phases.enter(phase, epoch)
        header = {"phase": phase, "epoch": epoch, "batch": sums.batches, "step": self.step, "lr": lr, "ids": names}
        header |= {"files": files, "extra": extra}
        results = columns.measured(
            self._task, logits, labels, losses, loss, top_k=kept_probs(self._probs, classes), ignore_index=self._ignore_index
        )
        captured = sums.batches % self._every == 0
        if captured:
            results["inputs"] = inputs
        pending = Pending(header, inputs.detach(), captured, classes, *to_host(results))
        if pending.arrived is None:
            self._finish(pending)
        else:
            self._pending = pending
        sums.batches += 1
        self.step += phase == "train"
        if self._own and not self._repeats:
            self._phases.note(phase, names)

    def watch(self, criterion: nn.Module, *, model: nn.Module | None = None) -> None:
        """Record whatever `criterion(logits, labels)` is called with, for the batches of a loader that `loader` returned.

        What can and cannot be known this way: capture_cli.watching.
        """
        self._watching().criterion(criterion, model)

    def loader(self, loader: Iterable[Any], *, phase: str = "train") -> WatchedLoader:
        """The batches of a loader over an `identified` dataset, without the ids, which go to the records: see `watch`."""
        return self._watching().loader(loader, phase)

    def _watching(self) -> Watch:
        if self._watch is None:
            from capture_cli.watching import Watch

            self._watch = Watch(self.record, self.end_phase)
        return self._watch

    def end_phase(self, phase: str | None = None) -> Epoch:
        """Write and return the sums of a phase, by default the one that the last batch was of.

        Raises UsageError if it is not open.
        """
        self.flush()
        record = self._phases.leave(phase).record(accuracy=self._task != "regression")
        self._emit(record, None)
        return record

    def flush(self) -> None:
        """Write what is pending, waiting for the device if need be."""
        pending, self._pending = self._pending, None
        if pending is not None:
            self._finish(pending)

    def sync(self) -> None:
        """Write what is pending and return when everything would survive a power cut."""
        self.flush()
        for pack in self._packs():
            pack.sync()
        self._journal.sync()

    def close(self, status: str = "completed") -> None:
        """Write what is pending and the sums of open phases, seal the records with `status`, close. May be called twice.

        `status` is completed, interrupted or failed: what `with` makes of how its block ended.
        """
        if self._closed:
            return
        try:
            self.flush()
            if not self._begun:
                self._begin(None, len(self._classes or ("0",)))
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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self.close()
            return
        with suppress(CaptureError, OSError):  # the error that ended the block is what its caller must hear
            self.close("failed" if issubclass(kind, Exception) else "interrupted")

    # What capture train needs besides: to write what is not of a batch, and to go on after a checkpoint.

    def write(self, record: Run | Samples | Skip | Epoch) -> None:
        """Write a record that is not of a batch."""
        self._emit(record, None)

    def samples(self, whole: Samples) -> None:
        """Announce samples, at most 1,024 a line."""
        for start in range(0, len(whole.ids), MAX_SAMPLES_PER_LINE):
            part = slice(start, start + MAX_SAMPLES_PER_LINE)
            cut = {field.name: getattr(whole, field.name)[part] for field in fields(Samples)}
            self._emit(Samples(**cut), None)

    def end(self, status: str) -> None:
        """Write what is pending and seal the journal with `status`."""
        self.flush()
        for pack in self._packs():
            pack.sync()
            pack.close()
        self._journal.seal(status)

    @property
    def place(self) -> dict[str, Any]:
        """What a checkpoint keeps of a recorder with nothing pending: steps, the sums of the phase, the pack's length."""
        sums = next(iter(self._phases.open.values()), Sums())
        return {"step": self.step, "sums": asdict(sums), "pack": self._pack.length if self._pack else 0} | {
            "flight": self._flight.length if self._flight else 0,
            "losses": self._rule.state(),
        }

    def go_on(self, place: Mapping[str, Any], stored: Mapping[str, Mapping[str, int]]) -> None:
        """Take up the place of an earlier recorder of the same run; `stored` says which inputs lie where in its packs."""
        self.step, sums = place["step"], Sums(**place["sums"])
        self._phases.open = {sums.phase: sums} if sums.phase else {}
        self._rule.restore(place["losses"])
        if self._pack:
            self._pack = self._new_pack(PACK, length=place["pack"], offsets=stored.get(PACK))
        self._flight = self._new_pack(FLIGHT, length=place["flight"], offsets=stored.get(FLIGHT))

    def precede(self, *, phase: str, epoch: int, batch: int, ids: npt.NDArray[np.int64], inputs: torch.Tensor) -> None:
        """Be told the batch before, which an earlier process has recorded: if the next goes wrong, it is kept whole too."""
        header = {"phase": phase, "epoch": epoch, "batch": batch, "ids": ids}
        self._before = Pending(header, inputs.detach(), False, 0, {}, None)

    def _new_pack(self, name: str, *, length: int = 0, offsets: Mapping[str, int] | None = None) -> Pack | None:
        folder = self._output.folder
        return Pack(folder / INPUTS / name, length=length, offsets=offsets) if folder else None

    def _packs(self) -> Iterator[Pack]:
        yield from (pack for pack in (self._pack, self._flight) if pack)

    def _demand_open(self) -> None:
        if self._closed:
            raise UsageError(f"the recorder of '{self._output.where}' is closed", "record inside its `with` block")

    def _begin(self, logits: torch.Tensor | None, classes: int) -> None:
        """Write the run record, which says what all others are about."""
        import torch

        from capture_cli.runtime import device_name, versions

        if self._classes is not None and len(self._classes) != classes:
            raise UsageError(
                f"logits {columns.described(logits) if logits is not None else ''} have {classes} classes, "
                f"classes names {len(self._classes)}",
                "name each once, in the order of the logits",
            )
        self._begun = True
        self._emit(
            Run(
                config=self._config,
                folder="",
                classes=self._classes or [str(number) for number in range(classes)],
                task=None if self._task == columns.CLASSIFICATION else self._task,
                model=self._model,
                recipe={},
                versions=versions(),
                device=device_name(logits.device) if logits is not None else "cpu",
                threads=torch.get_num_threads(),
            ),
            None,
        )

    def _checked(self, phase: str, epoch: int, ids: Ids, b: int) -> list[int] | list[str]:
        """The ids as a list. Raises UsageError where they, the phase or the epoch cannot be of this batch."""
        names = columns.checked_ids(ids, b)
        self._phases.check(phase, epoch)
        if not self._repeats:
            self._phases.check_ids(phase, epoch, names)
        return names

    def _finish(self, pending: Pending) -> None:
        host = pending.wait()
        inputs = host.pop("inputs") if pending.captured else None
        results = columns.as_columns(self._task, host, classes=pending.classes, ignore_index=self._ignore_index)
        losses = results["losses"]
        total = float(losses.sum(dtype=np.float64))
        finite = isfinite(total)
        problem = columns.not_numbers(results) if self._raises and not finite else ""
        if problem:
            raise UsageError(
                f"logits are NaN: {problem}", 'Recorder(nonfinite="record") records such batches, and keeps their inputs whole'
            )
        sums = self._phases.open[pending.header["phase"]]
        sums.n += len(losses)
        sums.loss += total
        sums.correct += columns.count_right(self._task, results)
        wrong = self._rule.judge(float(results["loss"])) if pending.header["phase"] == "train" else ""
        before, self._before = self._before, pending
        if not (pending.captured or wrong or not finite):  # what went wrong is captured whatever `every` says
            return
        sums.captured += len(losses)
        if inputs is None:
            inputs = pending.copy_inputs()
        batch = self._batch(pending, results, self._inputs(pending, inputs, whole=bool(wrong)), wrong, before)
        if not finite and self.nonfinite is None:
            self.nonfinite = batch
        self._emit(batch, inputs)

    def _batch(
        self, pending: Pending, results: dict[str, Any], inputs: Inputs, wrong: str, before: Pending | None
    ) -> Batch | Numbers:
        flight = {"reason": wrong, "before": self._kept_whole(before)} if wrong else None
        header = pending.header
        if "probs" not in results:
            return Numbers(**header, **results, inputs=inputs, flight=flight)
        if self._task == "sequence":
            length, counted = results.pop("length"), results.pop("counted")
            header, ids = dict(header), header["ids"]
            results["sequences"] = {"ids": ids, "length": length, "counted": counted, "ignore_index": self._ignore_index}
            for name in ("ids", "files"):
                if header[name] is not None:
                    header[name] = [one for one, count in zip(header[name], counted, strict=True) for _ in range(count)]
        not_kept = pending.classes - results["probs"].shape[1]
        return Batch(**header, **results, not_kept=not_kept or None, inputs=inputs, flight=flight)

    def _inputs(self, pending: Pending, inputs: npt.NDArray[Any], *, whole: bool = False) -> Inputs:
        shape, dtype, names = inputs.shape[1:], pending.dtype, digests(inputs)
        pack = self._pack or (self._flight if whole else None)
        if pack:
            return Inputs(shape=shape, dtype=dtype, digests=names, stored=pack.store(inputs, names))
        values = [base64.b64encode(one.tobytes()).decode() for one in inputs[: None if whole else self._stored_inputs]]
        return Inputs(shape=shape, dtype=dtype, digests=names, values=values or None, not_stored=len(inputs) - len(values))

    def _kept_whole(self, before: Pending | None) -> dict[str, Any] | None:
        if before is None:
            return None
        named = {name: before.header[name] for name in ("phase", "epoch", "batch", "ids")}
        return named | {"inputs": inputs_to_json(self._inputs(before, before.copy_inputs(), whole=True))}

    def _emit(self, record: Record, inputs: npt.NDArray[Any] | None) -> None:
        self._journal.append(record)
        for sink in self._sinks:
            sink.write(record, inputs)


def _demand(name: str, value: object, fits: object, wanted: str) -> None:
    if not fits:
        raise UsageError(f"{name}={value!r} cannot be honoured", f"it takes {wanted}")


def _parameters(model: nn.Module) -> int:
    return sum(one.numel() for one in model.parameters())
