"""Write the records of a loop: tensors become columns, columns become records, records go to the journal and to sinks.

    with BatchWriter(output, probs="all", sinks=[view]) as writer:
        writer.record(Header(phase="train", epoch=1, ids=ids), inputs, Forward(logits, labels, loss=loss))
        writer.end_phase()
        writer.seal("completed")

`capture train` and the public Recorder both write through this class. It trusts its caller: capture_cli.recorder checks what
comes from somebody else's loop. It promises:

* Every number comes from the forward pass that trains. Nothing passed in is changed, no graph is kept alive, and only the
  inputs of the last batch are held.
* On CUDA the step never waits: results are copied to pinned memory and written when the next batch comes.
* Ctrl-C at any moment leaves whole records, and sums that count exactly what was written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from math import isfinite
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from capture_cli.config import stored_inputs, top_k
from capture_cli.errors import UsageError, quoted
from capture_cli.preprocessing import digests
from capture_cli.records import AnyBatch, End, Epoch, Record, RunInfo, Samples, Skip
from capture_cli.writer import columns as cols
from capture_cli.writer.columns import CLASSIFICATION, Columns, Forward, Header, Results
from capture_cli.writer.flight import SpikeRule
from capture_cli.writer.kept_inputs import KeptInputs
from capture_cli.writer.measures import LOSS, SEGMENTATION, MeasureColumns, number_sums, split_numbers
from capture_cli.writer.pending import Pending
from capture_cli.writer.phases import Phases, Sums
from capture_cli.writer.sink import Sink, Sinks, call_all
from capture_cli.writer.skipping import summary
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
        whole_evaluations: bool = False,
        probs: str | None = None,
        inputs: str | int = "digest",
        masks: bool = False,
        spike: float = 10.0,
        ignore_index: int = -100,
        reject_nan: bool = False,
        unique_ids: bool = False,
        batching_seconds: float = 0.0,
        run_info: Callable[[int], RunInfo] | None = None,
        sinks: Iterable[Sink] = (),
    ) -> None:
        """Write to an open `output`, which the caller closes. The first options are those of the Recorder; besides:

        With `whole_evaluations`, `every` thins batches of `train` alone.
        `reject_nan` refuses batches with NaN logits, `unique_ids` those with an id that the epoch has seen. `batching_seconds`
        lets records of batches on the host wait to be written together; the caller must not overwrite their inputs, and all
        labels must be classes. `run_info` makes the run record, given the width of the logits, just before the first record.

        If a sink fails to begin, the others are closed and its error is raised.
        """
        self.step = 0
        """Updates so far: batches whose phase is `train`."""
        self.classes = 0
        """Width of the logits of the last batch written, 0 before the first."""
        self.first_nonfinite: AnyBatch | None = None
        """The first batch whose loss was NaN or infinite."""
        self.phases = Phases()
        self._task, self._ignore_index = task, ignore_index
        self._every, self._probs, self._masks = every, probs, masks
        self._whole_evaluations = whole_evaluations
        self._reject_nan, self._unique_ids = reject_nan, unique_ids
        self._run_info = run_info
        self._previous_info: RunInfo | None = None
        self._rule = SpikeRule(spike)
        self._previous: Pending | None = None
        self._waiting: list[Pending] = []
        """Batches not written yet, all of one phase of one epoch: one on a device, or several to be written together."""
        self._waiting_since = 0.0
        self._staging = Staging()
        self._uncounted: _Count | None = None
        self._evaluated_at: dict[str, int] = {}
        """Phase of an evaluation that is open -> the step it began after."""
        self._journal = output.journal
        self._kept = KeptInputs(output, stored_inputs(inputs), masks=masks)
        batches = task == CLASSIFICATION and output.journal.is_file and not self._kept.keeps_some
        self._batching_seconds = batching_seconds if batches else 0.0
        self._sinks = Sinks(sinks, output)

    def record(self, header: Header, inputs: torch.Tensor, forward: Forward, *, device_ids: torch.Tensor | None = None) -> None:
        """Take one batch after its forward pass and before its update; number it in `header`.

        `inputs` [B, ...] as the model got them; `device_ids` [B] int64 replaces `header.ids` if the ids are on a device. Raises
        UsageError if a value does not fit: of this batch on the host, of the one before on a device. That batch then counts as
        if it had never come.
        """
        first = self._waiting[0] if self._waiting else None
        together = first and first.arrived is None and (first.header.phase, first.header.epoch) == (header.phase, header.epoch)
        if self._uncounted or (first and not together):
            self.flush()
        header.step, header.batch = self.step, self.phases.batches(header.phase, header.epoch) + len(self._waiting)
        logits, labels, losses, loss = forward
        classes = cols.width(self._task, logits)
        rows: slice | None = None
        results: Results | None = None
        if self._batching_seconds and logits.is_cpu and loss is not None and losses is None:
            rows = self._staging.add(logits, labels)
        if rows is None:
            results = detached = forward.detached()
            on_host = logits is not None and logits.is_cpu and inputs.is_cpu and device_ids is None
            if not on_host:  # otherwise at once, since the caller may overwrite logits on the host
                kept, ignored = top_k(self._probs, classes), self._ignore_index
                try:
                    results = cols.measure(self._task, detached, top_k=kept, ignore_index=ignored, masks=self._masks)
                except (RuntimeError, TypeError, ValueError) as error:  # a kind of tensor that nobody here has thought of
                    raise _unreadable(error) from error
        captured = header.batch % self._every == 0 or (self._whole_evaluations and header.phase != "train")
        pending = Pending.start(header, inputs, results, captured=captured, classes=classes, device_ids=device_ids)
        if rows is not None and loss is not None:
            pending.rows, pending.loss = rows, loss if isinstance(loss, float | int) else loss.item()
        self.step += header.phase == "train"
        self._waiting.append(pending)
        if pending.arrived is None and (rows is None or not self._may_wait(pending)):
            self.flush()

    def _may_wait(self, pending: Pending) -> bool:
        """Return True if a batch on the host may be written together with those that follow.

        Right after a backward pass the caches hold nothing of what writes records, so one record takes as long as three in a
        row. Digests are taken and the loss is judged at once.
        """
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
        if self._uncounted:
            self._count_interrupted()
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
        kept, ignored = top_k(self._probs, classes), self._ignore_index
        try:
            made = cols.to_columns(self._task, results, top_k=kept, classes=classes, ignore_index=ignored, masks=self._masks)
        except UsageError as error:
            raise self._refuse(self._waiting.pop(0), error) from error
        except (RuntimeError, TypeError, ValueError) as error:  # a kind of tensor that nobody here has thought of
            raise self._refuse(self._waiting.pop(0), _unreadable(error)) from error
        if isinstance(made, cols.ClassColumns) and first.rows:
            return [cols.slice_rows(made, one.rows, one.loss) for one in self._waiting if one.rows]
        return [made]

    def _refuse(self, pending: Pending, error: UsageError) -> UsageError:
        """Forget a batch that cannot be recorded; return an error that names it."""
        header = pending.header
        self.step -= header.phase == "train"
        return UsageError(f"{header.phase} batch {header.batch} of epoch {header.epoch}: {error.message}", error.hint)

    def _finish(self, pending: Pending, columns: Columns) -> None:
        """Check the values of a batch; only then write and count it."""
        header = pending.header
        phase, epoch = header.phase, header.epoch
        n, total = cols.count_and_sum(columns, pending.size)
        finite = isfinite(total)
        try:
            if pending.device_ids is not None:
                header.ids = pending.device_ids.tolist()
                if self._unique_ids:
                    self.phases.check_ids(phase, epoch, header.ids)
            # Losses computed here are NaN where a prediction is; those passed by the caller need not be.
            if self._reject_nan and (not finite or (pending.results and pending.results.losses is not None)):
                cols.check_finite(columns)
            array = pending.input_array() if pending.captured else None
        except UsageError as error:
            raise self._refuse(pending, error) from error
        except (RuntimeError, TypeError, ValueError) as error:
            raise self._refuse(pending, _unreadable(error)) from error
        sums = self._enter(header, pending.classes)
        wrong = pending.reason
        if wrong is None:
            wrong = self._rule.judge(float(columns.loss)) if phase == "train" else ""
        previous, self._previous = self._previous, pending
        pending.results = None
        captured = pending.captured or bool(wrong) or not finite  # a loss that goes wrong is captured whatever `every` is
        correct = cols.count_correct(self._task, columns, finite=finite)
        counted = self._task == SEGMENTATION or (self._task == CLASSIFICATION and phase != "train")
        by_class = cols.class_counts(columns, pending.classes) if counted else None
        sums = sums.plus(n=n, loss=total, correct=correct, captured=captured, classes=by_class)
        if header.numbers:
            split_numbers(header)
            sums = sums.with_numbers(number_sums(header))
        count = _Count(sums, self._journal.lines + captured)
        if captured:
            array, pending.copied = pending.input_array() if array is None else array, None
            inputs = self._kept.describe(pending, array, whole=bool(wrong))
            flight = self._kept.flight(wrong, previous) if wrong else None
            if isinstance(columns, MeasureColumns) and columns.masks:
                columns.masks = self._kept.describe_masks(columns.masks)
            record = cols.to_record(header, columns, classes=pending.classes, inputs=inputs, flight=flight)
            if not finite and self.first_nonfinite is None:
                self.first_nonfinite = record
            self._uncounted = count
            self._emit(record, array)
        self._count(count)

    def skip(self, header: Header, inputs: torch.Tensor, forward: Forward) -> bool:
        """Count a usual batch of a classification that `every` skips, for little more than its loss.

        Return False, with nothing counted, for a batch that must be taken by `record`: it is not skipped, is on a device, or
        its loss goes wrong. `header.ids` may be a list that nobody checked.
        """
        phase = header.phase
        header.step, header.batch = self.step, self.phases.batches(phase, header.epoch)
        if not header.batch % self._every:
            return False
        logits, labels, _, loss = forward
        if not (logits.is_cpu and inputs.is_cpu) or (found := summary(logits, labels, loss)) is None:
            return False
        if not (isfinite(found.total) and isfinite(found.loss)) or (phase == "train" and self._rule.is_spike(found.loss)):
            return False
        sums = self._enter(header, logits.shape[1])
        by_class = None
        if phase == "train":
            self.step += 1
            self._rule.judge(found.loss)
        else:
            by_class = cols.count_classes(found.labels, found.preds, found.right, logits.shape[1])
        self._previous = Pending.of_inputs(header, inputs)
        n, correct = len(found.labels), int(np.count_nonzero(found.right))
        self.phases.open[phase] = sums.plus(n=n, loss=found.total, correct=correct, captured=False, classes=by_class)
        return True

    def pad(self, phase: str, epoch: int, count: int, *, classes: int, whole: bool) -> None:
        """Count visits that are not recorded, because a sampler repeated samples; `whole`: they are all of a batch."""
        self.flush()
        sums = self._enter(Header(phase=phase, epoch=epoch, step=self.step, ids=None), classes)
        self.phases.open[phase] = replace(sums, padded=sums.padded + count)
        self.step += whole and phase == "train"

    def _enter(self, header: Header, classes: int) -> Sums:
        """Return the sums of the phase of the next batch; before them comes the run record, or the end of another epoch."""
        phase, epoch = header.phase, header.epoch
        if not self.classes:
            self.begin(classes)
        self.classes = classes
        if phase in self.phases.open and self.phases.open[phase].epoch != epoch:
            self._end_phase(phase)
        if self._run_info and phase not in self.phases.open and phase != "train":
            self._evaluated_at[phase] = header.step
        return self.phases.enter(phase, epoch)

    def _count(self, count: _Count) -> None:
        self.phases.open[count.sums.phase] = count.sums
        if self._unique_ids:
            self.phases.add_ids(count.sums.phase)
        self._uncounted = None

    def _count_interrupted(self) -> None:
        """Count the batch whose write Ctrl-C interrupted if its line is there, else forget it."""
        count, self._uncounted = self._uncounted, None
        if count and self._journal.lines >= count.lines:
            self._count(count)

    def end_phase(self, phase: str | None = None) -> Epoch:
        """Write and return the sums of a phase, by default the most recent one. Raises UsageError if it is not open."""
        self.flush()
        return self._end_phase(phase)

    def _end_phase(self, phase: str | None) -> Epoch:
        record = self.phases.sums(phase).to_record(accuracy=self._task not in ("regression", LOSS))
        if step := self._evaluated_at.pop(record.phase, 0):
            record = replace(record, step=step)
        self._emit(record)
        self.phases.leave(record.phase)
        return record

    def begin(self, classes: int) -> None:
        """Write the record that `run_info` makes, unless it is written; in continued records, after an end or a change."""
        if self._run_info and (self._previous_info or not self._journal.counts[RunInfo.kind]):
            info, before, self._previous_info = self._run_info(classes), self._previous_info, None
            if info != before or self._journal.counts[End.kind]:
                self._emit(info)

    def write(self, record: RunInfo | Samples | Skip) -> None:
        """Write a record that is not of a batch."""
        self.flush()
        self._emit(record)

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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self.close()
        except Exception as second:
            if error is None:
                raise
            error.add_note(f"also raised: {second!r}")  # the error that ended the block is the one to raise

    @property
    def state(self) -> dict[str, Any]:
        """State for a checkpoint when nothing is pending: steps, sums of the open phase, losses, lengths of kept inputs."""
        sums = next(iter(self.phases.open.values()), Sums())
        return {"step": self.step, "sums": sums.to_json(), "losses": asdict(self._rule)} | self._kept.state

    def resume(self, state: Mapping[str, Any], offsets: Mapping[str, Mapping[str, int]]) -> None:
        """Continue at the `state` of an earlier writer of the same run; `offsets` as in KeptInputs.resume."""
        self.step, sums = state["step"], Sums.from_json(state["sums"])
        self.phases.open = {sums.phase: sums} if sums.phase else {}
        self._rule = SpikeRule(**state["losses"])
        self._kept.resume(state, offsets)

    def append(self, step: int, open_phases: Mapping[str, Sums], ended: Mapping[str, int], info: RunInfo | None) -> None:
        """Continue the records of an earlier loop, after `step` updates; `info` is their last run record."""
        self.step, self._previous_info = step, info
        self.phases.resume(open_phases, ended)
        self._kept.append()

    def set_previous(self, header: Header, inputs: torch.Tensor) -> None:
        """Set the batch before a checkpoint, whose inputs are saved if the loss of the next batch goes wrong."""
        self._previous = Pending.of_inputs(header, inputs)

    def _emit(self, record: Record, inputs: npt.NDArray[Any] | None = None) -> None:
        self._journal.append(record)
        self._sinks.write(record, inputs)


class _Count(NamedTuple):
    """The changes to make once the record of a batch is written."""

    sums: Sums
    """The sums of its phase with the batch."""
    lines: int
    """Lines in the journal once it is written."""


def _unreadable(error: Exception) -> UsageError:
    return UsageError(f"its tensors cannot be read: {quoted(error)}", "pass plain dense tensors")
