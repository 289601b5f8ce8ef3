"""Record every batch of your own training loop.

    with Recorder("run.jsonl", classes=["cat", "dog"]) as recorder:
        for epoch in range(3):
            for inputs, labels, ids in loader:
                logits = model(inputs)
                recorder.record(epoch=epoch, phase="train", inputs=inputs, logits=logits, labels=labels, ids=ids)

Beside what capture_cli.writer promises:

* Arguments that do not fit (shapes, labels, ids, numbers) raise UsageError before anything is written or counted. The records
  stay valid, and the loop may continue.
* On the CPU a record is written before `record` returns, on CUDA one call later, so the step never synchronises; `flush` writes
  it at once. An error that only the values show (a label that is no class, NaN) is then raised by the next call; it names the
  batch it is about, and that call records nothing.
* With `on_error="warn"` nothing that goes wrong here ends the loop: one warning says so, and missed batches are counted.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy.typing as npt

from capture_cli.config import stored_inputs, top_k
from capture_cli.errors import UsageError, any_of
from capture_cli.recorder import lifetime, options, processes, soft_labels, tasks, validation
from capture_cli.recorder.appending import RecordedState
from capture_cli.recorder.opening import current_rank, open_records
from capture_cli.recorder.shapes import has_ignored, in_batch_form, is_usual, without_ignored
from capture_cli.records import Epoch, RunInfo
from capture_cli.writer import BatchWriter
from capture_cli.writer.columns import CLASSIFICATION, Forward, Header, width
from capture_cli.writer.double_softmax import RECORDER, SoftmaxCheck
from capture_cli.writer.measures import LOSS
from capture_cli.writer.sink import Sink, call_all

if TYPE_CHECKING:
    import torch
    from torch import nn

    from capture_cli.recorder.loading import WatchedLoader
    from capture_cli.recorder.unpadded import Unpadded
    from capture_cli.recorder.watching import Watch
    from capture_cli.runfolder import Output

    Ids = Sequence[int] | Sequence[str] | npt.NDArray[Any] | torch.Tensor

STATUSES = ("completed", "interrupted", "failed")


class Recorder:
    """Writes one record per batch, and one per phase and epoch with its sums."""

    def __init__(
        self,
        out: str | os.PathLike[str],
        *,
        classes: Iterable[str] | Mapping[str, int] | Mapping[int, str] | None = None,
        task: str = CLASSIFICATION,
        config: Mapping[str, Any] | None = None,
        model: nn.Module | None = None,
        every: int = 1,
        probs: str | None = None,
        inputs: str | int = "digest",
        masks: bool = False,
        numbers: Iterable[str] | None = None,
        spike: float = 10.0,
        nonfinite: str = "raise",
        repeats: bool = False,
        ignore_index: int = -100,
        sinks: Iterable[Sink] = (),
        force: bool = False,
        append: bool = False,
        on_error: str = "raise",
    ) -> None:
        """Open `out`: FILE.jsonl for the records alone, otherwise a run folder.

        `force` overwrites an existing run; `append` verifies and continues it. With `on_error="warn"`, a batch that cannot be
        recorded, or a full disk, is a single warning, counted in `missed`, and the loop continues.

        `classes` are names in the order of the logits (for `multilabel` and `regression`: names of the outputs), or a mapping
        between names and numbers; by default "0", "1", ... `task` is one of capture_cli.writer.columns.TASKS. `config` (plain
        values) and `model` go into the run record. `every`, `probs`, `inputs` and `spike` are the options of `capture train`.
        NaN logits raise UsageError unless `nonfinite` is "record", an id that repeats within an epoch of a phase unless
        `repeats`. Labels equal to `ignore_index` are padding if the task is `sequence`, and pixels that do not count if it is
        `segmentation`, for which `masks` keeps labels and predictions whole. `numbers` names the numbers that batches will
        have, default: those of the first. `sinks` see every record after it was written.

        Raises UsageError if an option is not valid or `out` exists, CaptureError if `out` cannot be written or is in use.
        """
        settings = {name: value for name, value in locals().items() if name not in ("self", "model")}
        kept = {"force": force, "append": append, "masks": masks, "every": every, "spike": spike, "config": config}
        options.check_choices(task, nonfinite=nonfinite, on_error=on_error, ignore_index=ignore_index, **kept)
        self._classes = validation.class_names(classes)
        top_k(probs, 2, option="probs")
        needs = 'inputs="all"' if stored_inputs(inputs, option="inputs") is None else "masks=True" if masks else ""
        self._number_names = tasks.check_number_names(numbers)
        self._task, self._ignore_index = task, ignore_index
        self._config = validation.check_plain("config", dict(config or {}))
        self._model = options.described(model)
        self._unique_ids, self._may_skip = not repeats, every > 1
        self._watch: Watch | None = None
        self._unpadded: Unpadded | None = None
        self._softmax = SoftmaxCheck(RECORDER)
        self._device: torch.device | None = None
        self._rank: int | None = None
        """Known with the first batch: a trainer may start the process group after the recorder."""
        self._closed, self._entered, self._pid = False, vars(self).get("_entered", False), os.getpid()
        self._on_error, self._broken, self._sent = on_error, False, False
        self.missed = 0
        """Batches that were not recorded because something went wrong, with `on_error="warn"`."""
        out = os.fspath(out)
        if force or append:
            lifetime.take_over(out)
        settings |= {"out": out, "classes": self._classes, "numbers": self._number_names or None, "sinks": list(sinks)}
        self._settings: dict[str, Any] = settings
        self.begin(*open_records(out, rank=current_rank(), force=force, append=append, needs_folder=needs))

    def begin(self, output: Output, previous: RecordedState | None) -> None:
        """Write to an output that is open, after what is there."""
        settings, self._output = self._settings, output
        try:
            self._writer = BatchWriter(output, **options.of_writer(settings), run_info=self._run_info)
            if previous:
                self._continue(previous)
        except BaseException:
            output.close()
            raise
        lifetime.register(self, settings["out"])

    @property
    def task(self) -> str:
        """The task that it was opened for."""
        return self._task

    @property
    def step(self) -> int:
        """Updates so far: batches whose phase is `train`."""
        return self._writer.step

    def record(
        self,
        *,
        epoch: int,
        phase: str,
        inputs: torch.Tensor,
        logits: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        ids: Ids,
        files: Sequence[str] | None = None,
        losses: torch.Tensor | None = None,
        loss: torch.Tensor | float | None = None,
        lr: float | None = None,
        extra: Mapping[str, Sequence[Any]] | None = None,
        numbers: Mapping[str, Any] | None = None,
        loader: Iterable[Any] | None = None,
    ) -> None:
        """Record one batch after its forward pass and before its update. An empty batch is no batch.

        `inputs` [B, ...] of any dtype, as the model got them, or a tuple, list or mapping of such tensors. `logits` and
        `labels` in the shapes of the task, see capture_cli.writer.columns; capture_cli.recorder.shapes has more. `ids` [B]
        name the samples: all integers or all strings, as a list, an array or a tensor. `files` [B] where the samples come
        from. `losses` [B], for sequences [B, T], are the plain cross-entropy in nats; computed here by default. `loss` is the
        scalar that is differentiated, by default their mean. `lr` is the learning rate of the update that follows. `extra`
        adds columns of B plain values each (string, number, bool, None, or lists and objects of them), `numbers` numbers by
        name: B each, or one for the whole batch. `loader` is what all batches of the phase come from: samples that its sampler
        repeats so that all processes get equally many are then counted as padding.

        Batches count from 0 within each phase of each epoch, steps over all batches whose phase is `train`. An epoch of a phase
        ends, and its sums are written, when the phase comes with a later epoch, at `end_phase`, or at the end.

        Raises UsageError, naming the argument, if one does not fit. Nothing is written or counted then.
        """
        phase = validation.standard_phase(phase)
        if loader is not None:
            batch = {name: value for name, value in locals().items() if name not in ("self", "loader")}
            self.attempt(self._record_of, loader, batch)
            return
        header = Header(phase=phase, epoch=epoch, lr=lr, ids=ids, files=files, extra=extra, numbers=numbers)
        self.attempt(self._record, header, inputs, Forward(logits, labels, losses, loss))  # type: ignore[arg-type]

    def attempt(self, record: Callable[..., None], *args: Any) -> None:
        """Record a batch by this call, outside of a compiled step; raise its error, or warn, as `on_error` says."""
        import torch

        if torch.compiler.is_compiling():  # the graph is broken here
            torch.compiler.disable(self.attempt)(record, *args)  # type: ignore[no-untyped-call]
            return
        if self._broken:
            self.missed += 1
            return
        try:
            record(*args)
        except Exception as error:
            if self._on_error == "raise":
                raise
            self.missed += 1
            self._broken = not isinstance(error, UsageError)  # else only this batch does not fit
            if self.missed == 1:
                more = "nothing more is recorded" if self._broken else "the batch is not recorded"
                warnings.warn(f"{more}, and the training continues: {error}", stacklevel=3)

    def _record(self, header: Header, inputs: torch.Tensor, forward: Forward) -> None:
        self._require_open()
        writer, phase, epoch = self._writer, header.phase, header.epoch
        if usual := is_usual(self._task, inputs, forward):
            b = inputs.shape[0]
        else:
            inputs, forward, header.ids = in_batch_form(self._task, inputs, forward, header.ids, self._ignore_index)
            if validation.is_empty(inputs, forward):
                return None
            if soft_labels.are_given(self._task, forward):
                header.soft_labels, forward = soft_labels.harden(forward)
            b = validation.check_tensors(self._task, inputs, forward)
        writer.flush()  # the checks below need the counts after the previous batch
        classes = width(self._task, forward.logits)
        if self._task != LOSS and classes != writer.classes:
            tasks.check_width(forward.logits, classes, names=self._classes, before=writer.classes)
        writer.phases.check(phase, epoch)
        if phase not in self._softmax.known:
            self._softmax.look(phase, forward.logits, self._task)
        if self._may_skip and usual and not header.numbers and not 0 <= self._ignore_index < classes:
            header.ids = validation.listed(header.ids)
            if validation.may_be_ids(header.ids, b) and writer.skip(header, inputs, forward):
                return None
        device_ids = validation.check_device_ids(header.ids, b)
        header.ids = None if device_ids is not None else validation.check_ids(header.ids, b)
        if self._unique_ids and header.ids is not None:
            writer.phases.check_ids(phase, epoch, header.ids)
        if header.files is not None:
            header.files = validation.check_files(header.files, b)
        if header.extra is not None:
            header.extra = validation.check_extra(header.extra, b)
        if header.lr is not None:
            header.lr = validation.check_lr(header.lr)
        if header.numbers:
            header.numbers = tasks.check_numbers(header.numbers, b, known=self._number_names, begun=writer.classes > 0)
        if self._rank is None:
            self._rank = current_rank()
        header.rank, self._device = self._rank, (inputs if self._task == LOSS else forward.logits).device
        ignored = self._task == CLASSIFICATION and device_ids is None
        # Samples to be ignored are rare: they are looked for where a label is no class, which the writer finds.
        at_once = ignored and (0 <= self._ignore_index < classes or not inputs.is_cpu)
        if not at_once or not has_ignored(forward.labels, self._ignore_index):
            try:
                return writer.record(header, inputs, forward, device_ids=device_ids)
            except UsageError:
                if at_once or not ignored or not has_ignored(forward.labels, self._ignore_index):
                    raise
        inputs, forward = without_ignored(header, inputs, forward, self._ignore_index)
        if validation.is_empty(inputs, forward):
            return None
        if self._unique_ids:
            writer.phases.check_ids(phase, epoch, header.ids)  # now without those
        return writer.record(header, inputs, forward)

    def _record_of(self, loader: Iterable[Any], batch: dict[str, Any]) -> None:
        from capture_cli.recorder.unpadded import Unpadded

        self._unpadded = self._unpadded or Unpadded(self, ignore_index=self._ignore_index)
        self._unpadded.record_of(loader, batch)

    def watch(self, criterion: nn.Module, *, model: nn.Module | None = None, name: str | None = None) -> None:
        """Record every call `criterion(logits, labels)` for batches of a loader that `loader` returned.

        `criterion` is a torch.nn.Module such as nn.CrossEntropyLoss; a forward hook reads its logits and labels. The inputs are
        the first tensor that `model` is called with. A further criterion needs a `name`, under which its losses are numbers of
        the same batch. The limits are in capture_cli.recorder.watching. Raises UsageError for a criterion or model that cannot
        be watched; the call of `criterion` raises it for a batch that does not fit. `close` removes the hooks.
        """
        self._require_open()
        self._number_names += [one for one in tasks.check_number_names(name) if one not in self._number_names]
        self._watching().criterion(criterion, model, name)

    def loader(
        self, loader: Iterable[Any], *, phase: str = "train", ids: Sequence[int] | Sequence[str] | None = None
    ) -> WatchedLoader:
        """Wrap a loader, such as a DataLoader: the ids of its batches go to the records; see `watch`.

        Ids are the indices that its sampler draws, or `ids[index]`, and the batches stay as they are. Batches of an
        `identified` dataset come without their ids. Where they come from otherwise: capture_cli.recorder.loading. Raises
        UsageError if there are none, or `phase` is not valid.
        """
        self._require_open()
        self._writer.phases.check(phase := validation.standard_phase(phase), 2**62)
        return self._watching().loader(loader, phase, ids)

    def _watching(self) -> Watch:
        if self._watch is None:
            from capture_cli.recorder.watching import Watch

            self._watch = Watch(self, task=self._task, ignore_index=self._ignore_index)
        return self._watch

    def is_open(self, phase: str) -> bool:
        """Return True if the phase has a batch since its last end."""
        self._writer.flush()
        return validation.recorded_phase(phase) in self._writer.phases.open

    def ended(self, phase: str) -> int:
        """Return the last epoch of a phase that has ended, 0 if none has."""
        return self._writer.phases.ended.get(validation.recorded_phase(phase), 0)

    def end_phase(self, phase: str | None = None) -> Epoch:
        """Write and return the sums of a phase, by default the most recent one. Raises UsageError if it is not open."""
        return self._writer.end_phase(validation.standard_phase(phase) if phase else phase)

    def flush(self) -> None:
        """Write what is pending, waiting for the device if need be. Raises UsageError for a batch that does not fit."""
        self._writer.flush()

    def sync(self) -> None:
        """Write what is pending; return once everything would survive a power cut."""
        self._writer.sync()

    def close(self, status: str = "completed", *, error: BaseException | None = None) -> None:
        """Write what is pending and the sums of open phases, seal the records with `status`, close. May be called twice.

        `status` is completed, interrupted or failed; `with` chooses it. `error` is why it failed, which the events of a run
        folder keep. Everything is closed, whatever fails on the way; then the first error is raised.
        """
        if processes.is_waiting(self) or self._closed or os.getpid() != self._pid:  # a forked process must not write
            return
        validation.require(status in STATUSES, "status", status, any_of(STATUSES))
        self._closed = True
        begin, watches = ([self._watch.release], [self._watch.close]) if self._watch else ([], [])
        taken = processes.is_taken(self._output.journal)
        why = lifetime.one_line(error) if error else ""
        if self._watch and self._watch.saw_nothing and status == "completed" and not taken:
            status, why = "failed", "nothing was recorded: the watched loss function was never called"
            warnings.warn(why, stacklevel=2)
        classes = len(self._classes or ("0",))
        seal = [] if taken else [lambda: lifetime.seal(self._writer, self._output, status, why, classes=classes)]
        try:
            call_all([*begin, self._softmax.finish, *seal, *watches, self._writer.close, self._output.close])
        except Exception as error:
            if self._on_error == "raise":
                raise
            if not self._broken:
                warnings.warn(f"the records have no end: {error}", stacklevel=2)
        if self.missed:
            warnings.warn(f"{self.missed} batches were not recorded", stacklevel=2)

    def __deepcopy__(self, _: object = None) -> Self:
        """Return the recorder itself: there is one writer of a run, whatever holds it is copied."""
        return self

    __copy__ = __deepcopy__

    def __reduce__(self) -> tuple[Any, ...]:
        """Hand the run over to the processes that get this recorder; see capture_cli.recorder.processes."""
        return processes.received, (processes.to_send(self),)

    def __getattr__(self, name: str) -> Any:
        """Open a recorder that came from another process, with its first use."""
        processes.open_received(self, name)
        return getattr(self, name)

    def __enter__(self) -> Self:
        vars(self)["_entered"] = True
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None or error is None:
            self.close()
            return
        try:
            self.close("failed" if issubclass(kind, Exception) else "interrupted", error=error)
        except Exception as second:  # noqa: BLE001 - the error that ended the block is the one to raise
            error.add_note(f"also raised: {second!r}")

    def _continue(self, previous: RecordedState) -> None:
        """Continue where an earlier process ended."""
        previous.demand(self._task, self._classes)
        info = previous.info
        self._number_names = list((info and info.number_names) or self._number_names)
        self._writer.append(previous.step, previous.open, previous.ended, info)

    def _require_open(self) -> None:
        if self._closed or os.getpid() != self._pid or not self._writer.classes:
            processes.require_here(self)

    def _run_info(self, classes: int) -> RunInfo:
        """Make the run record, given the width of the logits."""
        names = self._classes or [str(number) for number in range(classes if self._task != LOSS else 0)]
        config, model, numbers = self._config, self._model, self._number_names
        return options.run_info(names, self._task, config=config, model=model, numbers=numbers, device=self._device)
