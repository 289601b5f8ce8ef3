"""From the tensors of one forward pass to the columns of a record.

    check("classification", inputs=inputs, logits=logits, ...)                 # shapes and types, before anything else
    results = taken("classification", logits, labels, losses, loss, probs="all", at_once=False)           # on the device
    columns = made("classification", {name: tensor.cpu() for ...}, probs="all", classes=10, ignore_index=-100)

Four tasks are known:

    task            logits      labels                      a sample of the record is
    classification  [B, C]      [B] class numbers           one of the B
    sequence        [B, T, C]   [B, T] class numbers,       one position whose label is not `ignore_index`
                                `ignore_index` is padding
    multilabel      [B, K], [B] like the logits, 0 and 1    one of the B, with K targets and outputs
    regression      [B, K], [B] like the logits, numbers    one of the B, with K targets and outputs

`taken` waits for nothing on the device. What needs values (are labels classes? are logits numbers?) is asked on the host,
before a record is made. What is on the host already is measured there too, and batches that wait are measured together: no row
depends on another, so the bits are the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from capture_cli.config import kept_probs
from capture_cli.errors import UsageError
from capture_cli.records import Batch, Inputs, Numbers

if TYPE_CHECKING:
    import torch

CLASSIFICATION = "classification"
TASKS = (CLASSIFICATION, "sequence", "multilabel", "regression")
_EXPECTED = {
    CLASSIFICATION: "logits [B, C] and labels [B], whole numbers",
    "sequence": "logits [B, T, C] and labels [B, T], whole numbers",
    "multilabel": "logits [B, K] or [B] and labels of the same shape, 0 and 1",
    "regression": "logits [B, K] or [B] and labels of the same shape",
}

Host = Mapping[str, npt.NDArray[Any]]


def check(
    task: str,
    *,
    inputs: torch.Tensor,
    logits: torch.Tensor,
    labels: torch.Tensor,
    losses: torch.Tensor | None,
    loss: torch.Tensor | float | None,
) -> None:
    """Raise UsageError, naming the argument and its shape, unless the tensors are those of the task."""
    import torch

    tensor = torch.Tensor
    if not (isinstance(inputs, tensor) and isinstance(logits, tensor) and isinstance(labels, tensor)) or (
        losses is not None and not isinstance(losses, tensor)
    ):
        raise _no_tensor(task, {"inputs": inputs, "logits": logits, "labels": labels, "losses": losses})
    shape = logits.shape
    if not logits.is_floating_point() or not _fits(task, shape, labels):
        raise UsageError(
            f"logits {described(logits)} and labels {described(labels)} do not fit together",
            f"the task {task} has {_EXPECTED[task]}{_way_out(task, logits, labels)}",
        )
    if labels.device != logits.device:
        raise UsageError(
            f"labels are on {labels.device}, logits on {logits.device}", "give both as the loss function takes them"
        )
    if not shape.numel():
        raise UsageError(f"logits {described(logits)} hold nothing", "leave empty batches out")
    if not inputs.ndim or len(inputs) != len(logits):
        raise UsageError(
            f"inputs {described(inputs)} are not those of {len(logits)} samples", "give them as the model took them, [B, ...]"
        )
    if losses is not None:
        rows = labels.shape[: 2 if task == "sequence" else 1]
        if losses.shape != rows:
            raise UsageError(
                f"losses {described(losses)} are not one for each sample, {list(rows)}",
                'use reduction="none", or leave them out',
            )
    if loss is not None and not (loss.ndim == 0 if isinstance(loss, torch.Tensor) else type(loss) in (int, float)):
        given = described(loss) if isinstance(loss, torch.Tensor) else named(loss)
        raise UsageError(f"loss: {given} is no single number", "give the scalar that is differentiated, or leave it out")


def _no_tensor(task: str, given: Mapping[str, object]) -> UsageError:
    import torch

    name, value = next((name, value) for name, value in given.items() if not isinstance(value, torch.Tensor))
    return UsageError(f"{name}: {named(value)} is no tensor", f"the task {task} has {_EXPECTED[task]}")


def _fits(task: str, logits: torch.Size, labels: torch.Tensor) -> bool:
    if task in (CLASSIFICATION, "sequence"):
        whole = not (labels.is_floating_point() or labels.is_complex())
        return len(logits) == (2 if task == CLASSIFICATION else 3) and labels.shape == logits[:-1] and whole
    return labels.shape == logits and len(logits) in (1, 2) and not labels.is_complex()


def _way_out(task: str, logits: torch.Tensor, labels: torch.Tensor) -> str:
    """A further clause of the hint, where it can be guessed what was meant."""
    shape = logits.shape
    if not logits.is_floating_point():
        return "; logits are floating point numbers"
    if task == "sequence" and logits.ndim == 3 and labels.shape == (shape[0], shape[2]):
        return "; give logits.transpose(1, 2)"
    if task == CLASSIFICATION and labels.is_floating_point() and labels.shape == shape:
        return '; of probabilities as labels give labels.argmax(1); where each is 0 or 1, give the recorder task="multilabel"'
    if task == CLASSIFICATION and labels.shape == (shape[0], 1):
        return "; give labels.squeeze(1)"
    other = next((name for name in TASKS if name != task and _fits(name, shape, labels)), "")
    return f'; for these, give the recorder task="{other}"' if other else ""


def taken(
    task: str,
    logits: torch.Tensor,
    labels: torch.Tensor,
    losses: torch.Tensor | None,
    loss: torch.Tensor | float | None,
    *,
    probs: str | None,
    at_once: bool,
) -> dict[str, torch.Tensor]:
    """What `made` needs of one batch, detached: measured if it is on a device, or `at_once`; else as it is."""
    results = {"logits": logits.detach(), "labels": labels}
    if losses is not None:
        results["losses"] = losses.detach()
    if loss is not None:
        import torch

        results["loss"] = loss.detach() if isinstance(loss, torch.Tensor) else torch.tensor(float(loss))
    return results if logits.is_cpu and not at_once else _measured(task, results, probs)


def made(task: str, taken: Mapping[str, torch.Tensor], *, probs: str | None, classes: int, ignore_index: int) -> dict[str, Any]:
    """Columns of a record, from what was `taken` of a batch and is on the host by now.

    Losses that were not given are plain: -ln p(label) in nats, the mean binary cross-entropy in nats, or the mean squared
    error. A `loss` that was not given is their mean. Padding is left out. Raises UsageError, naming the first sample, where a
    label is no class.
    """
    results = _measured(task, taken, probs) if "logits" in taken else taken
    return _as_columns(task, {name: tensor.numpy() for name, tensor in results.items()}, classes, ignore_index)


def part(columns: Mapping[str, Any], rows: slice, loss: float) -> dict[str, Any]:
    """The columns of one of several batches whose columns were made together; `loss` is its own."""
    return {name: column[rows] for name, column in columns.items() if name != "loss"} | {"loss": np.float32(loss)}


def _measured(task: str, taken: Mapping[str, torch.Tensor], probs: str | None) -> dict[str, torch.Tensor]:
    """float32 and int64, where the tensors are; what can as well be computed on the host is left to it."""
    logits, losses = taken["logits"].float(), taken.get("losses")
    if task in (CLASSIFICATION, "sequence"):
        results = _of_classes(logits, taken["labels"].long(), kept_probs(probs, logits.shape[-1]))
    else:
        results = _of_numbers(task, logits, taken["labels"].detach().float(), losses)
    return results | {name: taken[name].float() for name in ("losses", "loss") if name in taken}


def _of_classes(logits: torch.Tensor, labels: torch.Tensor, top_k: int | None) -> dict[str, torch.Tensor]:
    """Logarithms of probabilities: one operation, from which probabilities, predictions and losses all follow."""
    log_probs = logits.log_softmax(-1)
    if top_k is None:
        return {"labels": labels, "log_probs": log_probs}
    kept, topk = log_probs.topk(top_k)
    own = log_probs.gather(-1, labels.clamp(0, logits.shape[-1] - 1)[..., None])[..., 0]
    return {"labels": labels, "log_probs": kept, "topk": topk, "own_log_probs": own}


def _of_numbers(task: str, logits: torch.Tensor, targets: torch.Tensor, losses: torch.Tensor | None) -> dict[str, torch.Tensor]:
    import torch.nn.functional as F  # noqa: N812 - its name in every PyTorch program

    outputs = logits.reshape(len(logits), -1)
    targets = targets.reshape(outputs.shape)
    if losses is None:
        plain = F.binary_cross_entropy_with_logits if task == "multilabel" else F.mse_loss
        losses = plain(outputs, targets, reduction="none").mean(1)
    outputs = outputs.sigmoid() if task == "multilabel" else outputs
    return {"targets": targets, "outputs": outputs, "losses": losses}


def _as_columns(task: str, host: Host, classes: int, ignore_index: int) -> dict[str, Any]:
    columns = dict(host)
    beside: dict[str, Any] = {}
    if task == "sequence":
        counts = columns["labels"] != ignore_index
        columns = {name: column[counts] if name != "loss" else column for name, column in columns.items()}
        beside = {
            "positions": np.ascontiguousarray(np.nonzero(counts)[1]),
            "counted": counts.sum(1).tolist(),
            "length": counts.shape[1],
        }
    if "log_probs" in columns:
        hint = f"or {ignore_index} where there is nothing to predict" if task == "sequence" else ""
        _check_labels(columns["labels"], classes, hint=hint)
        columns = _class_columns(columns)
    elif task == "multilabel":
        targets = columns["targets"]
        if not ((targets == 0) | (targets == 1)).all():
            first = int(np.argwhere((targets != 0) & (targets != 1))[0, 0])
            raise UsageError(f"labels: sample {first} has a target that is neither 0 nor 1", "give 0 and 1")
    losses = columns["losses"]
    loss = columns["loss"][()] if "loss" in columns else losses.mean() if len(losses) else np.float32("nan")
    return columns | beside | {"loss": loss}


def _class_columns(found: dict[str, Any]) -> dict[str, Any]:
    """Columns of a Batch from logarithms of probabilities [N, C], or of the K largest. Few operations: this is every step."""
    labels, log_probs, topk = found["labels"], found["log_probs"], found.get("topk")
    probs = np.exp(log_probs)
    if topk is None:
        preds = probs.argmax(1)
        own = log_probs[np.arange(len(labels)), labels] if "losses" not in found else None
        columns = {"labels": labels, "preds": preds, "probs": probs}
    else:
        own = found["own_log_probs"]
        preds = np.where(probs == probs[:, :1], topk, np.iinfo(np.int64).max).min(1)  # the lowest class among equals
        columns = {"labels": labels, "preds": preds, "probs": probs, "topk": topk, "p_labels": np.exp(own)}
    columns["losses"] = found["losses"] if own is None or "losses" in found else 0.0 - own  # and never -0.0
    return columns | ({"loss": found["loss"]} if "loss" in found else {})


def as_record(
    header: Mapping[str, Any],
    columns: dict[str, Any],
    *,
    classes: int,
    ignore_index: int,
    inputs: Inputs,
    flight: Mapping[str, Any] | None,
) -> Batch | Numbers:
    """The record of a batch with these columns; of a sequence, what stands for a sample is repeated for its positions."""
    if "probs" not in columns:
        return Numbers(**header, **columns, inputs=inputs, flight=flight)
    if "counted" in columns:
        length, counted = columns.pop("length"), columns.pop("counted")
        header, ids = dict(header), header["ids"]
        columns["sequences"] = {"ids": ids, "padded_length": length, "n_valid": counted, "ignore_index": ignore_index}
        for name in ("ids", "files"):
            if header[name] is not None:
                header[name] = [one for one, count in zip(header[name], counted, strict=True) for _ in range(count)]
    omitted = classes - columns["probs"].shape[1]
    return Batch(**header, **columns, probs_omitted=omitted or None, inputs=inputs, flight=flight)


def _check_labels(labels: npt.NDArray[Any], classes: int, *, hint: str = "") -> None:
    if len(labels) and int(labels.view(np.uint64).max()) >= classes:  # a negative number is a very large one
        first = int(np.flatnonzero((labels < 0) | (labels >= classes))[0])
        raise UsageError(
            f"labels: {labels[first]} (number {first}) is none of the {classes} classes",
            f"labels are class numbers from 0 to {classes - 1} {hint}".rstrip(),
        )


def count_right(task: str, columns: Mapping[str, Any]) -> float:
    """How many samples were answered right: whole, but for `multilabel`, where each output is a share of its sample.

    What is no number is no right answer, though the largest of ten NaN is the first of them.
    """
    if task in (CLASSIFICATION, "sequence"):
        return int(np.count_nonzero((columns["preds"] == columns["labels"]) & np.isfinite(columns["losses"])))
    if task == "multilabel":
        right = (columns["outputs"] > 0.5) == (columns["targets"] > 0.5)
        return float((right & ~np.isnan(columns["outputs"])).mean(1).sum())
    return 0.0


def check_numbers(columns: Mapping[str, Any]) -> None:
    """Raise UsageError, naming the first sample, where answers that count are NaN, as softmax makes of infinite logits."""
    answers = columns["probs"] if "probs" in columns else columns["outputs"]
    bad = np.isnan(answers)
    if not bad.any():
        return
    rows: Sequence[int] = np.unique(np.argwhere(bad)[:, 0]).tolist()
    raise UsageError(
        f"logits are NaN or infinite: {len(rows)} of {len(answers)} samples, the first is number {rows[0]}",
        'they are not recorded; Recorder(nonfinite="record") does, and keeps their inputs whole',
    )


def described(tensor: torch.Tensor) -> str:
    """Type and shape, as `float32 [64, 10]`."""
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def named(value: object) -> str:
    """What a person would call a value that does not fit, in few characters."""
    text = repr(value) if isinstance(value, str | bytes | int | float | None) else ""
    if not text or len(text) > 60:
        return f"a {type(value).__name__}"
    return text
