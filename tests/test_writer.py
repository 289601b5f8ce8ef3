"""The writer: batches written together give the same bytes as each alone, and sinks cannot keep each other from closing."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from capture_cli import ListSink, Recorder
from capture_cli.errors import CaptureError
from capture_cli.journal import Journal
from capture_cli.records import Batch, Record, decode
from capture_cli.runfolder import Output
from capture_cli.writer import BatchWriter, staging
from capture_cli.writer.columns import Forward, Header
from recordings import batch_of, verified

SIZES = [64, 64, 1, 2, 3, 7, 64, 31, 64, 64, 5]
FOREVER = 1e9


def batches(classes: int) -> list[dict[str, Any]]:
    """One training batch of each size, with logits that are small, huge, equal, infinite and NaN."""
    generator = torch.Generator().manual_seed(classes)
    made = []
    for number, size in enumerate(SIZES):
        logits = torch.randn(size, classes, generator=generator) * 10 ** (number - 4)
        logits[0] = 1.0
        if number == 6:
            logits[1, 0], logits[2, 1], logits[3] = torch.inf, -torch.inf, torch.nan
        labels = torch.randint(classes, (size,), generator=generator)
        inputs = torch.rand(size, 3, 4, 4, generator=generator)
        made.append({"ids": np.arange(size), "inputs": inputs, "logits": logits, "labels": labels})
    return made


def record(writer: BatchWriter, batch: dict[str, Any]) -> None:
    """Record a batch as the training loop does, with gradients."""
    logits = batch["logits"].clone().requires_grad_()
    loss = torch.nn.functional.cross_entropy(logits, batch["labels"])
    header = Header(phase="train", epoch=1, ids=batch["ids"])
    writer.record(header, batch["inputs"], Forward(logits, batch["labels"], loss=loss))


def writer_to(path: Path, **options: Any) -> BatchWriter:
    """Open a writer as `capture train` does."""
    return BatchWriter(Output(Journal.create(path), None, str(path)), **{"batching_seconds": FOREVER} | options)


def lines(path: Path) -> list[bytes]:
    """Return the lines written so far."""
    return path.read_bytes().splitlines(keepends=True)


def written(path: Path, classes: int, **options: Any) -> bytes:
    """Write all batches; return the bytes."""
    writer = writer_to(path, **options)
    for batch in batches(classes):
        record(writer, batch)
    writer.seal("completed")
    return path.read_bytes()


class TestStaging:
    """Batches that wait to be written together."""

    @pytest.mark.parametrize(
        ("classes", "probs"),
        [(2, None), (3, None), (10, None), (10, "top:3"), (16, None), (37, "all"), (130, None), (130, "all")],
    )
    def test_no_byte_depends_on_it(
        self, classes: int, probs: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Written at once, staged one at a time, all that fit, and few that fit."""
        alone = written(tmp_path / "alone", classes, probs=probs, batching_seconds=0.0)
        assert written(tmp_path / "singly", classes, probs=probs, batching_seconds=1e-9) == alone
        assert written(tmp_path / "together", classes, probs=probs) == alone
        monkeypatch.setattr(staging, "MAX_LOGITS", 100 * classes)
        assert written(tmp_path / "crowded", classes, probs=probs) == alone

    def test_batches_wait_until_the_buffer_is_full_or_a_loss_is_nan(self, tmp_path: Path) -> None:
        """A batch whose loss is NaN is written at once with all before it."""
        path = tmp_path / "r.jsonl"
        writer = writer_to(path)
        counts = []
        for batch in batches(10):
            record(writer, batch)
            counts.append(len(lines(path)))
        assert counts == [0] * 6 + [7] + [7] * 4
        writer.flush()
        assert len(lines(path)) == len(SIZES)

    def test_tasks_that_drop_padding_never_wait(self, tmp_path: Path) -> None:
        """Their rows are not those of the logits, so each batch is written at once."""
        writer = writer_to(tmp_path / "r.jsonl", task="sequence")
        for _ in range(3):
            labels = torch.tensor([[1, 2, -100], [0, -100, -100]])
            header, forward = Header(phase="train", epoch=1, ids=[0, 1]), Forward(torch.randn(2, 3, 4), labels, loss=1.0)
            writer.record(header, torch.ones(2, 3), forward)
        assert [len(json.loads(line)["labels"]) for line in lines(tmp_path / "r.jsonl")] == [3, 3, 3]

    @pytest.mark.parametrize("at", range(1, 7))
    def test_batches_behind_an_interruption_are_written_later(self, at: int, tmp_path: Path) -> None:
        """The same lines, each once, and the same sums."""
        found = []
        for name, sinks in (("whole", []), ("broken", [Interrupting(at)])):
            path = tmp_path / name
            writer = writer_to(path, sinks=sinks)
            for batch in batches(10)[:6]:
                record(writer, batch)
            if sinks:
                with pytest.raises(KeyboardInterrupt):
                    writer.flush()
            record(writer, batches(10)[7])
            writer.end_phase()
            writer.seal("completed")
            found.append(path.read_bytes())
        assert found[0] == found[1]

    def test_an_epoch_that_ends_by_itself_keeps_the_order(self, tmp_path: Path) -> None:
        """The sums of an epoch come before the first batch of the next, and no batch overtakes another."""
        writer = writer_to(tmp_path / "r.jsonl")
        for epoch in (1, 2):
            for number in range(3):
                batch = batches(10)[number]
                header, loss = Header(phase="train", epoch=epoch, ids=batch["ids"]), torch.tensor(1.0)
                writer.record(header, batch["inputs"], Forward(batch["logits"], batch["labels"], loss=loss))
        writer.seal("completed")
        written = [json.loads(line) for line in lines(tmp_path / "r.jsonl")]
        assert [(one["epoch"], one.get("batch")) for one in written if one["kind"] != "end"] == [
            *[(1, 0), (1, 1), (1, 2), (1, None), (2, 0), (2, 1), (2, 2)]
        ]

    def test_bfloat16_logits_are_recorded_as_float32(self, tmp_path: Path) -> None:
        """NumPy has no such type."""
        writer = writer_to(tmp_path / "r.jsonl")
        logits = batches(10)[0]["logits"].bfloat16()
        record(writer, batches(10)[0] | {"logits": logits})
        writer.seal("completed")
        _, batch = decode(lines(tmp_path / "r.jsonl")[0])
        assert isinstance(batch, Batch)
        assert np.allclose(batch.probs, logits.float().softmax(1).numpy(), atol=1e-6)


class Interrupting(ListSink):
    """A sink that Ctrl-C interrupts once."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def write(self, record: Record, inputs: npt.NDArray[Any] | None) -> None:
        super().write(record, inputs)
        if len(self.records) == self.at:
            raise KeyboardInterrupt


class Raising(ListSink):
    """A sink that raises in one of its methods."""

    def __init__(self, method: str, error: BaseException, closed: list[Any]) -> None:
        super().__init__()
        self.method, self.error, self.order = method, error, closed

    def begin(self, output: Output) -> None:
        self._raise_in("begin")
        super().begin(output)

    def write(self, record: Record, inputs: npt.NDArray[Any] | None) -> None:
        self._raise_in(record.kind)
        super().write(record, inputs)

    def close(self) -> None:
        super().close()
        self.order.append(self)
        self._raise_in("close")

    def _raise_in(self, method: str) -> None:
        if self.method == method:
            raise self.error


class TestSinks:
    """Sinks that raise."""

    def sinks(self, *methods: str) -> tuple[list[Raising], list[Raising]]:
        """Make one sink per method, each raising its own error there, and the list in which they are closed."""
        closed: list[Raising] = []
        return [Raising(method, CaptureError(f"sink {n}"), closed) for n, method in enumerate(methods)], closed

    def test_all_are_closed_the_last_first_and_the_first_error_is_raised(self, tmp_path: Path) -> None:
        """Later errors are notes of the first; the records are sealed, and the file may be opened again."""
        path = tmp_path / "r.jsonl"
        sinks, closed = self.sinks("", "close", "", "close", "")
        recorder = Recorder(path, sinks=sinks)
        recorder.record(**batch_of(4, 3))
        with pytest.raises(CaptureError, match="sink 3") as caught:
            recorder.close()
        assert closed == sinks[::-1]
        assert any("sink 1" in note for note in caught.value.__notes__)
        assert verified(path) == "completed"
        recorder.close()
        assert len(closed) == 5
        Recorder(path, force=True).close()

    def test_those_that_began_are_closed_if_one_does_not(self, tmp_path: Path) -> None:
        """Its error is raised, and the file is free again."""
        sinks, closed = self.sinks("", "close", "begin", "")
        with pytest.raises(CaptureError, match="sink 2"):
            Recorder(tmp_path / "r.jsonl", sinks=sinks)
        assert closed == [sinks[1], sinks[0]]
        assert sinks[3].output is None
        Recorder(tmp_path / "r.jsonl", force=True).close()

    def test_one_that_fails_at_the_end_record_is_closed_with_the_others(self, tmp_path: Path) -> None:
        """The records were sealed before any sink saw it."""
        sinks, closed = self.sinks("end", "close")
        recorder = Recorder(tmp_path / "r.jsonl", sinks=sinks)
        with pytest.raises(CaptureError, match="sink 0"):
            recorder.close()
        assert closed == sinks[::-1]
        assert verified(tmp_path / "r.jsonl") == "completed"

    @pytest.mark.parametrize("error", [CaptureError("in close"), RuntimeError("in close"), KeyboardInterrupt()], ids=repr)
    def test_the_error_that_ended_the_block_is_raised(self, tmp_path: Path, error: BaseException) -> None:
        """An error while closing is a note of it; only Ctrl-C takes its place."""
        closed: list[Raising] = []
        recorder = Recorder(tmp_path / "r.jsonl", sinks=[Raising("close", error, closed)])
        wanted = ValueError if isinstance(error, Exception) else KeyboardInterrupt
        with pytest.raises(wanted) as caught, recorder:
            raise ValueError("in the block")
        if wanted is ValueError:
            assert any("in close" in note for note in caught.value.__notes__)
        assert len(closed) == 1
        assert verified(tmp_path / "r.jsonl") == "failed"
        Recorder(tmp_path / "r.jsonl", force=True).close()

    def test_those_of_a_training_are_all_closed(self, tmp_path: Path) -> None:
        """`capture train` uses the writer itself."""
        sinks, closed = self.sinks("close", "close")
        with pytest.raises(CaptureError, match="sink 1"), writer_to(tmp_path / "r.jsonl", sinks=sinks) as writer:
            writer.seal("completed")
        assert closed == sinks[::-1]

    def test_an_error_of_a_training_is_raised_before_theirs(self, tmp_path: Path) -> None:
        """The error of a sink is a note of it."""
        sinks, closed = self.sinks("", "close")
        with pytest.raises(ValueError, match="in training") as caught, writer_to(tmp_path / "r.jsonl", sinks=sinks):
            raise ValueError("in training")
        assert any("sink 1" in note for note in caught.value.__notes__)
        assert closed == sinks[::-1]


class TestListSink:
    """The sink for tests."""

    def test_it_keeps_what_is_written(self, tmp_path: Path) -> None:
        """Every record in order; the output it was begun with; whether it is closed."""
        sink = ListSink()
        with Recorder(tmp_path / "r.jsonl", sinks=[sink]) as recorder:
            recorder.record(**batch_of(4, 3))
            assert not sink.closed
        assert [one.kind for one in sink.records] == ["run", "batch", "epoch", "end"]
        assert [one.ids for one in sink.batches] == [[0, 1, 2, 3]]
        assert sink.closed
        assert sink.output is not None
        assert sink.output.records == tmp_path / "r.jsonl"
        assert sink.inputs == []

    def test_it_keeps_inputs_if_asked(self, tmp_path: Path) -> None:
        """Copies, one for each batch: the loop may overwrite its tensor."""
        sink = ListSink(inputs=True)
        buffer, kept = torch.zeros(4, 3, 4, 4), []
        with Recorder(tmp_path / "r.jsonl", sinks=[sink]) as recorder:
            for number in range(3):
                batch = batch_of(4, 3, seed=number, first=4 * number)
                kept.append(batch["inputs"].numpy())
                buffer.copy_(batch["inputs"])
                recorder.record(**batch | {"inputs": buffer})
        assert np.array_equal(sink.inputs, kept)
