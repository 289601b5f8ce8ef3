"""Write the records of a loop: tensors become columns, columns become records, records go to the journal and to sinks.

    writer = BatchWriter(output, probs="all", sinks=[view])
    writer.record(epoch=1, phase="train", inputs=inputs, logits=logits, labels=labels, ids=ids, loss=loss)
    writer.end_phase()
    writer.seal("completed")
    writer.close()

Both `capture train` and the public Recorder write through this class. It trusts its caller: capture_cli.recorder checks the
arguments of loops that are not our own. It promises:

* Every number comes from the forward pass that trains. Nothing passed in is changed, no graph is kept alive, and only the
  inputs of the last batch are held.
* On CUDA the step never waits: results are copied to pinned memory and written when the next batch comes.
* Ctrl-C at any moment leaves whole records, and sums that count exactly what was written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from math import isfinite
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from capture_cli.config import stored_inputs, top_k
from capture_cli.errors import UsageError
from capture_cli.preprocessing import digests
from capture_cli.records import MAX_SAMPLES_PER_LINE, Batch, End, Epoch, Numbers, Record, RunInfo, Samples, Skip
from capture_cli.writer.columns import (
    CLASSIFICATION,
    ClassColumns,
    Columns,
    Forward,
    Results,
    check_finite,
    count_correct,
    measure,
    slice_rows,
    to_columns,
    to_record,
)
from capture_cli.writer.flight import SpikeRule
from capture_cli.writer.kept_inputs import KeptInputs
from capture_cli.writer.pending import Header, Pending
from capture_cli.writer.phases import Phases, Sums
from capture_cli.writer.sink import Sink, Sinks, call_all
from capture_cli.writer.staging import Staging

if TYPE_CHECKING:
    import torch

    from capture_cli.runfolder import Output


class BatchWriter:
    """Writes one record per captured batch, and one per phase and epoch with its sums."""

    def __init__(
        self,
        output: Output,
        *,
        task: str = CLASSIFICATION,
        every: int = 1,
        probs: str | None = None,
        inputs: str | int = "digest",
        spike: float = 10.0,
        ignore_index: int = -100,
        reject_nan: bool = False,
        unique_ids: bool = False,
        batching_seconds: float = 0.0,
        run_info: Callable[[int], RunInfo] | None = None,
        sinks: Iterable[Sink] = (),
    ) -> None:
        """Write to an open `output`, which the caller closes. Options are those of the Recorder; besides:

        `reject_nan` refuses batches with NaN logits, `unique_ids` those with an id that the epoch has seen. `batching_seconds`
        lets records of batches on the host wait to be written together; the caller must not overwrite their inputs, and all
        labels must be classes. `run_info` makes the run record, given the width of the logits, just before the first record.

        If a sink fails to begin, the others are closed and its error is raised.
        """
        self.step = 0
        """Updates so far: batches whose phase is `train`."""
        self.classes = 0
        """Width of the logits of the last batch written, 0 before the first."""
        self.first_nonfinite: Batch | Numbers | None = None
        """The first batch whose loss was NaN or infinite."""
        self.phases = Phases()
        self._task, self._ignore_index = task, ignore_index
        self._every, self._probs = every, probs
        self._reject_nan, self._unique_ids = reject_nan, unique_ids
        self._run_info = run_info
        self._rule = SpikeRule(spike)
        self._previous: Pending | None = None
        self._waiting: list[Pending] = []
        """Batches not written yet, all of one phase of one epoch: one on a device, or several to be written together."""
        self._waiting_since = 0.0
        self._staging = Staging()
        self._uncounted: _Count | None = None
        self._journal = output.journal
        self._kept = KeptInputs(output.folder, stored_inputs(inputs))
        batches = task == CLASSIFICATION and output.journal.is_file and not self._kept.keeps_some
        self._batching_seconds = batching_seconds if batches else 0.0
        self._sinks = Sinks(sinks, output)

    def record(
        self,
        *,
        epoch: int,
        phase: str,
        inputs: torch.Tensor,
        logits: torch.Tensor,
        labels: torch.Tensor,
        ids: Any,
        files: Sequence[str] | None = None,
        losses: torch.Tensor | None = None,
        loss: torch.Tensor | float | None = None,
        lr: float | None = None,
        extra: Mapping[str, Sequence[Any]] | None = None,
        rank: int = 0,
        device_ids: torch.Tensor | None = None,
    ) -> None:
        """Take one batch after its forward pass and before its update; arguments as in Recorder.record.

        `device_ids` [B] int64 replaces `ids` that are on a device. Raises UsageError if a value does not fit: of this batch
        on the host, of the one before on a device. That batch then counts as if it had never come.
        """
        first = self._waiting[0] if self._waiting else None
        if self._uncounted or (first and not (first.arrived is None and first.belongs_to(phase, epoch))):
            self.flush()
        batch = self.phases.batches(phase, epoch) + len(self._waiting)
        header = Header(
            phase=phase, epoch=epoch, batch=batch, step=self.step, rank=rank, lr=lr, ids=ids, files=files, extra=extra
        )
        captured = batch % self._every == 0
        classes = 1 if logits.ndim == 1 else logits.shape[-1]
        rows: slice | None = None
        results: Results | None = None
        if self._batching_seconds and logits.is_cpu and loss is not None and losses is None:
            rows = self._staging.add(logits, labels)
        if rows is None:
            results = forward = _forward(logits, labels, losses, loss)
            if not (logits.is_cpu and inputs.is_cpu and device_ids is None):  # the caller may overwrite logits on the host
                results = measure(self._task, forward, top_k=top_k(self._probs, classes))
        pending = Pending.start(header, inputs, results, captured=captured, classes=classes, device_ids=device_ids)
        if rows is not None and loss is not None:
            pending.rows, pending.loss = rows, loss if isinstance(loss, float | int) else loss.item()
        self.step += phase == "train"
        self._waiting.append(pending)
        if pending.arrived is None and not self._may_wait(pending):
            self.flush()

    def _may_wait(self, pending: Pending) -> bool:
        """Return True if a batch on the host may be written together with those that follow.

        Right after a backward pass the caches hold nothing of what writes records, so one record takes as long as three in a
        row. Digests are taken and the loss is judged at once.
        """
        if pending.rows is None:
            return False
        loss = pending.loss
        if pending.captured and (inputs := pending.input_array()) is not None:
            pending.digests, pending.copied = digests(inputs), None
        pending.reason = self._rule.judge(loss) if pending.header.phase == "train" else ""
        if len(self._waiting) == 1:
            self._waiting_since = monotonic()
        if pending.reason or not isfinite(loss):
            return False
        previous = self._waiting[-2] if len(self._waiting) > 1 else self._previous
        if previous and not self._sinks.need_inputs(previous.header.phase):  # the flight recorder no longer needs them
            previous.inputs = None
        return monotonic() - self._waiting_since < self._batching_seconds

    def flush(self) -> None:
        """Write all pending batches, waiting for the device if need be. Raises UsageError for one that does not fit."""
        self._settle()
        columns: list[Columns] = []
        while self._waiting:
            columns = columns or self._columns()
            self._finish(self._waiting.pop(0), columns.pop(0))
        self._staging.clear()

    def _columns(self) -> list[Columns]:
        """Make the columns of all staged batches in one go, or else those of the first waiting batch."""
        first = self._waiting[0]
        first.wait()
        results, classes = first.results or self._staging.staged(), first.classes
        kept = top_k(self._probs, classes)
        try:
            columns = to_columns(self._task, results, top_k=kept, classes=classes, ignore_index=self._ignore_index)
        except UsageError as error:
            raise self._refuse(self._waiting.pop(0), error) from error
        if isinstance(columns, ClassColumns) and first.rows:
            return [slice_rows(columns, one.rows, one.loss) for one in self._waiting if one.rows]
        return [columns]

    def _refuse(self, pending: Pending, error: UsageError) -> UsageError:
        """Forget a batch that cannot be recorded; return an error that names it."""
        header = pending.header
        self.step -= header.phase == "train"
        return UsageError(f"{header.phase} batch {header.batch} of epoch {header.epoch}: {error.message}", error.hint)

    def _finish(self, pending: Pending, columns: Columns) -> None:
        """Check the values of a batch; only then write and count it."""
        header = pending.header
        phase, epoch = header.phase, header.epoch
        total = float(columns.losses.sum(dtype=np.float64))
        finite = isfinite(total)
        try:
            if pending.device_ids is not None:
                ids = pending.device_ids.tolist()
                if self._unique_ids:
                    self.phases.check_ids(phase, epoch, ids)
                header = pending.header = replace(header, ids=ids)
            # Losses computed here are NaN where a prediction is; those passed by the caller need not be.
            if self._reject_nan and (not finite or (pending.results and pending.results.losses is not None)):
                check_finite(columns)
        except UsageError as error:
            raise self._refuse(pending, error) from error
        self.begin(pending.classes)
        self.classes = pending.classes
        if self.phases.is_over(phase, epoch):
            self.end_phase(phase)
        sums = self.phases.enter(phase, epoch)
        wrong = pending.reason
        if wrong is None:
            wrong = self._rule.judge(float(columns.loss)) if phase == "train" else ""
        previous, self._previous = self._previous, pending
        pending.results = None
        captured = pending.captured or bool(wrong) or not finite  # a loss that goes wrong is captured whatever `every` is
        correct = count_correct(self._task, columns)
        count = _Count(
            sums.plus(n=len(columns.losses), loss=total, correct=correct, captured=captured),
            header.ids,
            self._journal.lines + captured,
        )
        if captured:
            inputs, pending.copied = pending.input_array(), None
            record = to_record(
                header,
                columns,
                classes=pending.classes,
                ignore_index=self._ignore_index,
                inputs=self._kept.describe(pending, inputs, whole=bool(wrong)),
                flight=self._kept.flight(wrong, previous),
            )
            if not finite and self.first_nonfinite is None:
                self.first_nonfinite = record
            self._uncounted = count
            self._emit(record, inputs)
        self._count(count)

    def _count(self, count: _Count) -> None:
        self.phases.open[count.sums.phase] = count.sums
        if self._unique_ids:
            self.phases.add_ids(count.sums.phase, count.ids)
        self._uncounted = None

    def _settle(self) -> None:
        """After an interruption such as Ctrl-C: count the batch if its line was written, else forget it."""
        count, self._uncounted = self._uncounted, None
        if count and self._journal.lines >= count.lines:
            self._count(count)

    def end_phase(self, phase: str | None = None) -> Epoch:
        """Write and return the sums of a phase, by default the most recent one. Raises UsageError if it is not open."""
        self.flush()
        record = self.phases.sums(phase).to_record(accuracy=self._task != "regression")
        self._emit(record, None)
        self.phases.leave(record.phase)
        return record

    def begin(self, classes: int) -> None:
        """Write the record that `run_info` makes, unless it is written."""
        if self._run_info and not self._journal.counts[RunInfo.kind]:
            self._emit(self._run_info(classes), None)

    def write(self, record: RunInfo | Skip) -> None:
        """Write a record that is not of a batch."""
        self.flush()
        self._emit(record, None)

    def write_samples(self, samples: Samples) -> None:
        """Write the records of samples, at most 1,024 a line."""
        self.flush()
        for start in range(0, len(samples.ids), MAX_SAMPLES_PER_LINE):
            rows = slice(start, start + MAX_SAMPLES_PER_LINE)
            self._emit(Samples(**{field.name: getattr(samples, field.name)[rows] for field in fields(Samples)}), None)

    def sync(self) -> None:
        """Write all pending batches; return once everything would survive a power cut."""
        self.flush()
        self._kept.sync()
        self._journal.sync()

    def seal(self, status: str) -> None:
        """Write all pending batches and the end record; sinks see it once it is durable."""
        self.flush()
        self._kept.sync()
        end = End(status=status, counts=dict(self._journal.counts))
        self._journal.seal(status)
        self._sinks.write(end, None)

    def close(self) -> None:
        """Close the sinks and the kept inputs, whatever one of them raises; then raise the first error."""
        call_all([self._sinks.close, self._kept.close])

    @property
    def state(self) -> dict[str, Any]:
        """State for a checkpoint when nothing is pending: steps, sums of the open phase, losses, lengths of kept inputs."""
        sums = next(iter(self.phases.open.values()), Sums())
        return {"step": self.step, "sums": asdict(sums), "losses": asdict(self._rule)} | self._kept.state

    def resume(self, state: Mapping[str, Any], offsets: Mapping[str, Mapping[str, int]]) -> None:
        """Continue at the `state` of an earlier writer of the same run; `offsets` as in KeptInputs.resume."""
        self.step, sums = state["step"], Sums(**state["sums"])
        self.phases.open = {sums.phase: sums} if sums.phase else {}
        self._rule = SpikeRule(**state["losses"])
        self._kept.resume(state, offsets)

    def set_previous(self, *, phase: str, epoch: int, batch: int, ids: npt.NDArray[np.int64], inputs: torch.Tensor) -> None:
        """Set the batch before a checkpoint, whose inputs are saved if the loss of the next batch goes wrong."""
        self._previous = Pending.start(Header(phase=phase, epoch=epoch, batch=batch, ids=ids), inputs, None)

    def _emit(self, record: Record, inputs: npt.NDArray[Any] | None) -> None:
        self._journal.append(record)
        self._sinks.write(record, inputs)


class _Count(NamedTuple):
    """What changes once the record of a batch is written."""

    sums: Sums
    """The sums of its phase with the batch."""
    ids: Any
    lines: int
    """Lines in the journal once it is written."""


def _forward(
    logits: torch.Tensor, labels: torch.Tensor, losses: torch.Tensor | None, loss: torch.Tensor | float | None
) -> Forward:
    if loss is not None:
        import torch

        loss = loss.detach() if isinstance(loss, torch.Tensor) else torch.tensor(float(loss))
    return Forward(logits.detach(), labels, losses if losses is None else losses.detach(), loss)
