"""Log-probabilities of the loss function are reused where they are those of the logits, and no byte depends on it."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - its name in every PyTorch program
from torch.utils.checkpoint import checkpoint

from capture_cli import Recorder
from capture_cli.writer import columns
from capture_cli.writer.log_probs import of_loss
from recordings import batch_of, verified

WEIGHT = torch.tensor([0.0, 0.5, 2.0])
LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "plain": F.cross_entropy,
    "weighted": lambda logits, labels: F.cross_entropy(logits, labels, weight=WEIGHT),
    "smoothed": lambda logits, labels: F.cross_entropy(logits, labels, label_smoothing=0.1),
    "scaled": lambda logits, labels: (F.cross_entropy(logits, labels) + logits.square().mean()) / 4,
    "of probabilities": lambda logits, labels: F.nll_loss(logits.log_softmax(1), labels),
}
OTHERS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "of a copy": lambda logits, labels: F.cross_entropy(logits * 2, labels),
    "over the samples": lambda logits, labels: F.nll_loss(logits.log_softmax(0), labels),
    "a softmax": lambda logits, labels: logits.softmax(1)[labels == 0].sum(),
    "in double precision": lambda logits, labels: F.cross_entropy(logits.double(), labels),
    "without logits": lambda *_: torch.ones(1, requires_grad=True).sum(),
}


def forward(n: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits of three classes that a model made, and labels."""
    torch.manual_seed(0)
    return torch.nn.Linear(4, 3)(torch.randn(n, 4)), torch.randint(3, (n,))


@pytest.mark.parametrize("kind", LOSSES)
def test_what_the_loss_function_computed_is_found(kind: str) -> None:
    """The same bits as those of a second log-softmax."""
    logits, labels = forward()
    found = of_loss(logits, LOSSES[kind](logits, labels))
    assert found is not None
    assert not found.requires_grad
    assert torch.equal(found, logits.detach().log_softmax(-1))


@pytest.mark.parametrize("kind", OTHERS)
def test_nothing_else_is_taken_for_it(kind: str) -> None:
    """Of other logits, another dimension, another function or type."""
    logits, labels = forward()
    assert of_loss(logits, OTHERS[kind](logits, labels)) is None


def test_logits_that_are_no_longer_those_of_the_loss() -> None:
    """Changed in place, part of others, without gradients, or behind the backward pass."""
    logits, labels = forward()
    loss = F.cross_entropy(logits, labels)
    assert of_loss(logits.detach(), loss) is None
    assert of_loss(logits, loss.item()) is None
    both = torch.nn.Linear(4, 6)(torch.randn(16, 4)).split(3, dim=1)
    assert of_loss(both[1], F.cross_entropy(both[0], labels)) is None
    assert of_loss(both[1], F.cross_entropy(both[1], labels)) is not None
    with torch.no_grad():
        logits[0] = -1.0
    assert of_loss(logits, loss) is None
    logits, labels = forward()
    loss = F.cross_entropy(logits, labels)
    loss.backward()
    assert of_loss(logits, loss) is None


def test_a_checkpoint_is_not_computed_again() -> None:
    """It would change the running statistics of the model once more."""
    calls = []
    layer, labels = torch.nn.Linear(4, 3), torch.arange(16) % 3

    def run(inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        calls.append(1)
        logits = layer(inputs)
        return logits, F.cross_entropy(logits, labels)

    logits, loss = checkpoint(run, torch.randn(16, 4), use_reentrant=False)
    assert of_loss(logits, loss) is None
    assert len(calls) == 1


@pytest.mark.parametrize("options", [{}, {"every": 3}, {"probs": "top:2"}], ids=str)
def test_no_byte_depends_on_it(tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Records of a loss with its graph, and of its number; the first measures nothing anew."""
    written = []
    plain, measured = columns.measure, []
    monkeypatch.setattr(
        columns, "measure", lambda *args, **given: measured.append(given.get("log_probs")) or plain(*args, **given)
    )
    for name in ("graph", "number"):
        with Recorder(tmp_path / name, **options) as recorder, warnings.catch_warnings():
            warnings.simplefilter("error")
            for number, loss_of in enumerate((LOSSES | OTHERS).values()):
                batch = batch_of(16, 3, seed=number, first=16 * number)
                batch["logits"].requires_grad_()
                loss = loss_of(batch["logits"], batch["labels"])
                recorder.record(**batch | {"loss": loss if name == "graph" else loss.item()})
        assert verified(tmp_path / name) == "completed"
        written.append((tmp_path / name / "records.jsonl").read_bytes())
    assert written[0] == written[1]
    assert sum(one is not None for one in measured) == (2 if "every" in options else len(LOSSES))
