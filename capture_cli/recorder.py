"""One batch of tensors in, one record out: the capture itself, usable in anyone's loop.

    recorder = Recorder(journal, classes=["cat", "dog"])
    logits = model(inputs)
    recorder.record(phase="train", epoch=0, inputs=inputs, logits=logits, labels=labels, ids=ids)
    ...
    recorder.end_phase()

What it promises:

* Every number is of the very forward pass that trains: there is no second one, and nothing it is given is changed or kept.
* Losses, probabilities and predictions of every sample go into the record; what the options leave out is counted there.
* On the CPU a record is written before `record` returns. On CUDA results are copied to pinned memory without waiting and
  written one call later, so that the step never synchronises; `flush` writes what is pending.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from capture_cli.flight import SpikeRule
from capture_cli.inputs import digests
from capture_cli.records import MAX_SAMPLES_PER_LINE, Batch, Epoch, Inputs, Record, Run, Samples, Skip, inputs_to_json

if TYPE_CHECKING:
    import torch

    from capture_cli.journal import Journal
    from capture_cli.pack import Pack


class Sink(Protocol):
    """What sees the records beside the journal: the terminal, a tracker."""

    def write(self, record: Record, inputs: npt.NDArray[Any] | None) -> None:
        """Take a record as it was written; with a Batch, `inputs` [B, C, H, W] as the network saw them (not to be changed)."""

    def close(self) -> None:
        """Let go; nothing more comes."""


class Recorder:
    """Writes one record a batch, and keeps the sums of each phase."""

    def __init__(
        self,
        journal: Journal,
        *,
        sinks: Sequence[Sink] = (),
        every: int = 1,
        top_k: int | None = None,
        stored_inputs: int = 0,
        pack: Pack | None = None,
        flight: Pack | None = None,
        spike: float = 0.0,
    ) -> None:
        """Capture every `every`-th batch of a phase, all probabilities or the `top_k` largest.

        The values of the first `stored_inputs` inputs of each batch are written into its line, those of all into a `pack`.
        A loss that is not a number, or a `spike` (capture_cli.flight.SpikeRule), has its batch and the one before kept whole:
        in `flight`, or in the line where there is none.
        """
        self.nonfinite: Batch | None = None
        """The first batch whose loss was NaN or infinite."""
        self._journal = journal
        self._sinks = sinks
        self._every = every
        self._top_k = top_k
        self._stored_inputs = stored_inputs
        self._pack = pack
        self._flight = flight
        self._rule = SpikeRule(spike)
        self._before: _Pending | None = None
        self.step = 0
        self._sums = _Sums()
        self._pending: _Pending | None = None

    @property
    def place(self) -> dict[str, Any]:
        """What a checkpoint keeps of a recorder with nothing pending: steps, the sums of the phase, the pack's length."""
        return {"step": self.step, "sums": asdict(self._sums), "pack": self._pack.length if self._pack else 0} | {
            "flight": self._flight.length if self._flight else 0,
            "losses": self._rule.state(),
        }

    def go_on(self, place: Mapping[str, Any]) -> None:
        """Take up the place of an earlier recorder of the same run."""
        self.step, self._sums = place["step"], _Sums(**place["sums"])
        self._rule.restore(place["losses"])

    def precede(self, *, phase: str, epoch: int, batch: int, ids: npt.NDArray[np.int64], inputs: torch.Tensor) -> None:
        """Be told the batch before, which an earlier process has recorded: if the next goes wrong, it is kept whole too."""
        header = {"phase": phase, "epoch": epoch, "batch": batch, "ids": ids}
        self._before = _Pending(header, inputs.detach(), False, 0, {}, None)

    def write(self, record: Run | Samples | Skip | Epoch) -> None:
        """Write a record that is not of a batch."""
        self._emit(record, None)

    def samples(self, columns: Samples) -> None:
        """Announce samples, at most 1,024 a line."""
        for start in range(0, len(columns.ids), MAX_SAMPLES_PER_LINE):
            part = slice(start, start + MAX_SAMPLES_PER_LINE)
            self._emit(
                Samples(
                    ids=columns.ids[part],
                    files=columns.files[part],
                    labels=columns.labels[part],
                    splits=columns.splits[part],
                    sizes=columns.sizes[part],
                    digests=columns.digests[part],
                ),
                None,
            )

    def record(
        self,
        *,
        phase: str,
        epoch: int,
        inputs: torch.Tensor,
        logits: torch.Tensor,
        labels: torch.Tensor,
        ids: Sequence[int] | npt.NDArray[np.int64],
        files: Sequence[str],
        losses: torch.Tensor,
        loss: torch.Tensor,
        lr: float | None = None,
    ) -> None:
        """Take one batch after its forward pass and before its update.

        `inputs` [B, C, H, W] as they went into the model, `logits` [B, C], `labels` [B] class numbers, `losses` [B] plain
        cross-entropy in nats, `loss` the scalar that is differentiated, `lr` the learning rate of the update that follows.
        Batches are counted from 0 in each phase of each epoch, steps over all batches whose phase is `train`.
        """
        if (phase, epoch) != (self._sums.phase, self._sums.epoch):
            self._sums = _Sums(phase, epoch)
        number = self._sums.batches
        header = {"phase": phase, "epoch": epoch, "batch": number, "step": self.step, "lr": lr, "ids": ids, "files": files}
        results = _results(logits, labels, losses, loss, self._top_k)
        captured = number % self._every == 0
        pending = _Pending(
            header, inputs.detach(), captured, logits.shape[1], *_to_host(results | {"inputs": inputs} if captured else results)
        )
        self._sums.batches += 1
        self.step += phase == "train"
        self.flush()
        self._pending = pending
        if pending.arrived is None:
            self.flush()

    def flush(self) -> None:
        """Write what is pending, waiting for the device if need be."""
        pending, self._pending = self._pending, None
        if pending is not None:
            self._finish(pending)

    def sync(self) -> None:
        """Write what is pending and return when everything would survive a power cut."""
        self.flush()
        for pack in (self._pack, self._flight):
            if pack:
                pack.sync()
        self._journal.sync()

    def end_phase(self) -> Epoch:
        """Write and return the sums of the phase that the last batches were of."""
        self.flush()
        sums, self._sums = self._sums, _Sums()
        record = Epoch(
            phase=sums.phase,
            epoch=sums.epoch,
            n=sums.n,
            loss=sums.loss / max(sums.n, 1),
            accuracy=sums.correct / max(sums.n, 1),
            captured=sums.captured,
            not_captured=sums.n - sums.captured,
        )
        self._emit(record, None)
        return record

    def end(self, status: str) -> None:
        """Write what is pending and seal the journal with `status`."""
        self.flush()
        for pack in (self._pack, self._flight):
            if pack:
                pack.sync()
                pack.close()
        self._journal.seal(status)

    def _finish(self, pending: _Pending) -> None:
        host = pending.wait()
        losses = host["losses"]
        self._sums.n += len(losses)
        self._sums.loss += float(losses.sum(dtype=np.float64))
        self._sums.correct += int((host["preds"] == host["labels"]).sum())
        finite = bool(np.isfinite(losses).all())
        wrong = self._rule.judge(float(host["loss"])) if pending.header["phase"] == "train" else ""
        before, self._before = self._before, pending
        if not (pending.captured or wrong or not finite):  # what went wrong is captured whatever `every` says
            return
        self._sums.captured += len(losses)
        inputs = host.pop("inputs") if pending.captured else pending.copy_inputs()
        columns: dict[str, Any] = pending.header | host
        not_kept = pending.classes - host["probs"].shape[1]
        batch = Batch(
            **columns,
            not_kept=not_kept or None,
            inputs=self._inputs(inputs, whole=bool(wrong)),
            flight={"reason": wrong, "before": self._kept_whole(before)} if wrong else None,
        )
        if not finite and self.nonfinite is None:
            self.nonfinite = batch
        self._emit(batch, inputs)

    def _inputs(self, inputs: npt.NDArray[Any], *, whole: bool = False) -> Inputs:
        shape, dtype, names = inputs.shape[1:], str(inputs.dtype), digests(inputs)
        pack = self._pack or (self._flight if whole else None)
        if pack:
            return Inputs(shape=shape, dtype=dtype, digests=names, stored=pack.store(inputs, names))
        values = [base64.b64encode(one.tobytes()).decode() for one in inputs[: None if whole else self._stored_inputs]]
        return Inputs(shape=shape, dtype=dtype, digests=names, values=values or None, not_stored=len(inputs) - len(values))

    def _kept_whole(self, before: _Pending | None) -> dict[str, Any] | None:
        if before is None:
            return None
        named = {name: before.header[name] for name in ("phase", "epoch", "batch", "ids")}
        return named | {"inputs": inputs_to_json(self._inputs(before.copy_inputs(), whole=True))}

    def _emit(self, record: Record, inputs: npt.NDArray[Any] | None) -> None:
        self._journal.append(record)
        for sink in self._sinks:
            sink.write(record, inputs)


@dataclass
class _Sums:
    phase: str = ""
    epoch: int = -1
    batches: int = 0
    n: int = 0
    loss: float = 0.0
    correct: int = 0
    captured: int = 0


@dataclass
class _Pending:
    """A batch whose results may still be on their way to the host."""

    header: dict[str, Any]
    inputs: torch.Tensor
    captured: bool
    classes: int
    host: dict[str, torch.Tensor]
    arrived: torch.cuda.Event | None
    """None where the results are there already."""

    def wait(self) -> dict[str, npt.NDArray[Any]]:
        """The results as arrays; `loss` as a scalar."""
        if self.arrived is not None:
            self.arrived.synchronize()
        arrays = {name: tensor.numpy() for name, tensor in self.host.items()}
        arrays["loss"] = arrays["loss"][()]
        return arrays

    def copy_inputs(self) -> npt.NDArray[Any]:
        """The inputs, from where they were when the model took them."""
        array: npt.NDArray[Any] = self.inputs.cpu().contiguous().numpy()
        return array


def _results(
    logits: torch.Tensor, labels: torch.Tensor, losses: torch.Tensor, loss: torch.Tensor, top_k: int | None
) -> dict[str, torch.Tensor]:
    """The columns of a batch record, still on the device; float32 and int64."""
    probs = logits.detach().float().softmax(1)
    results = {
        "labels": labels.detach(),
        "preds": probs.argmax(1),
        "losses": losses.detach().float(),
        "probs": probs,
        "loss": loss.detach().float(),
    }
    if top_k is not None:
        results["probs"], results["tops"] = probs.topk(top_k)
        results["p_labels"] = probs.gather(1, labels[:, None])[:, 0]
    return results


def _to_host(tensors: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], torch.cuda.Event | None]:
    """The same tensors on the host, and the event after which they are there (None: now).

    A copy from CUDA without waiting goes to pinned memory, which torch sees to itself.
    """
    host = {name: tensor.detach().to("cpu", non_blocking=True).contiguous() for name, tensor in tensors.items()}
    on_cuda = [tensor for tensor in tensors.values() if tensor.is_cuda]
    if not on_cuda:
        return host, None
    import torch

    arrived: torch.cuda.Event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    arrived.record(torch.cuda.current_stream(on_cuda[0].device))
    return host, arrived
