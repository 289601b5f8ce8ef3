"""Observers of the records in the training process."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol

import numpy.typing as npt

from capture_cli.records import Batch, Numbers

if TYPE_CHECKING:
    from capture_cli.records import Record
    from capture_cli.runfolder import Output


class Sink(Protocol):
    """An observer of the records, such as the terminal view or a tracker."""

    @property
    def every_input(self) -> bool | str:
        """Batches that must come with their inputs: True for all (the default for a sink without this attribute), `evaluation`
        for those of other phases than `train`, False for none.
        """

    def begin(self, output: Output) -> None:
        """Prepare to observe the records that will go to `output`. Called once, before anything else."""

    def write(self, record: Record, inputs: npt.NDArray[Any] | None) -> None:
        """Observe a record after it was written; a batch may come with its `inputs` [B, ...] as the model saw them.

        Change neither. Copy inputs to keep them: the next step may overwrite them.
        """

    def close(self) -> None:
        """Release everything. Called once, after the last record."""


class ListSink:
    """Keeps records in a list, to test a loop or another sink.

    sink = ListSink()
    with Recorder("run.jsonl", sinks=[sink]) as recorder: ...
    assert [record.kind for record in sink.records] == ["run", "batch", "epoch", "end"]
    """

    def __init__(self, *, inputs: bool = False) -> None:
        """Keep the records, and with `inputs` a copy of the inputs of each batch."""
        self.every_input = inputs
        self.records: list[Record] = []
        self.inputs: list[npt.NDArray[Any]] = []
        """Inputs [B, ...] of each batch, if they are kept; bfloat16 and float8 as integers of the same bytes."""
        self.output: Output | None = None
        self.closed = False

    @property
    def batches(self) -> list[Batch | Numbers]:
        """The records of batches."""
        return [record for record in self.records if isinstance(record, Batch | Numbers)]

    def begin(self, output: Output) -> None:
        """Keep where the records go."""
        self.output = output

    def write(self, record: Record, inputs: npt.NDArray[Any] | None) -> None:
        """Keep a record, and its inputs if asked to."""
        self.records.append(record)
        if self.every_input and inputs is not None:
            self.inputs.append(inputs.copy())

    def close(self) -> None:
        """Remember that it was closed."""
        self.closed = True


class Sinks:
    """Several sinks that observe the same records, and are all closed whatever one of them raises."""

    def __init__(self, sinks: Iterable[Sink], output: Output) -> None:
        """Begin each sink. If one raises, those that have begun are closed."""
        self._begun: list[Sink] = []
        try:
            for sink in sinks:
                sink.begin(output)
                self._begun.append(sink)
        except BaseException as error:  # noqa: BLE001 - raised by call_all
            call_all([self.close], first=error)
        self._wanted = {getattr(sink, "every_input", True) for sink in self._begun}

    def need_inputs(self, phase: str) -> bool:
        """Return True if a sink must get the inputs of every batch of the phase."""
        return True in self._wanted or ("evaluation" in self._wanted and phase != "train")

    def write(self, record: Record, inputs: npt.NDArray[Any] | None) -> None:
        """Show a record to each sink."""
        for sink in self._begun:
            sink.write(record, inputs)

    def close(self) -> None:
        """Close the sinks, the last one first. Raises the first error after all are closed. May be called twice."""
        begun, self._begun = self._begun, []
        call_all([sink.close for sink in reversed(begun)])


def call_all(functions: Iterable[Callable[[], object]], *, first: BaseException | None = None) -> None:
    """Call each function, whatever another one raises; then raise the first error, with a note of each later one."""
    for function in functions:
        try:
            function()
        except BaseException as error:  # noqa: BLE001 - raised below, or noted there
            if first is None:
                first = error
            else:
                first.add_note(f"also raised: {error!r}")
    if first is not None:
        raise first
