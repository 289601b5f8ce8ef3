"""Losses without labels, named numbers, and several loss functions in one loop, as the commands show them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - its name in every PyTorch program
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from calling import Caller
from capture_cli import Recorder, open_run
from capture_cli.errors import UsageError
from recordings import batch_of, records, verified


def train_autoencoder(path: Path, *, epochs: int = 2, seed: int = 0, **options: Any) -> list[torch.Tensor]:
    """Train an autoencoder on 12 vectors in batches of 6; return the losses of the samples, batch by batch."""
    torch.manual_seed(seed)
    data = torch.rand(12, 5, generator=torch.Generator().manual_seed(1))
    encoder, decoder = nn.Linear(5, 2), nn.Linear(2, 5)
    optimizer = torch.optim.SGD([*encoder.parameters(), *decoder.parameters()], lr=0.2)
    kept = []
    with Recorder(path, task="loss", **options) as recorder:
        for epoch in range(1, epochs + 1):
            for first in (0, 6):
                inputs, ids = data[first : first + 6], [f"v{n}" for n in range(first, first + 6)]
                code = encoder(inputs)
                losses = F.mse_loss(decoder(code), inputs, reduction="none").mean(1)
                numbers = {"norm": code.norm(dim=1), "scale": decoder.weight.abs().mean()}
                recorder.record(epoch=epoch, phase="train", inputs=inputs, ids=ids, losses=losses, numbers=numbers)
                kept.append(losses.detach())
                optimizer.zero_grad()
                losses.mean().backward()
                optimizer.step()
    return kept


def test_losses_and_numbers_are_recorded_as_they_are(tmp_path: Path) -> None:
    """One loss a sample, one number a sample or a batch; the loss of the batch is their mean."""
    kept = train_autoencoder(tmp_path / "r.jsonl")
    assert verified(tmp_path / "r.jsonl") == "completed"
    batches, totals = records(tmp_path / "r.jsonl", "measures"), records(tmp_path / "r.jsonl", "epoch")
    for batch, losses in zip(batches, kept, strict=True):
        np.testing.assert_array_equal(batch.losses, losses.numpy())
        assert batch.loss == pytest.approx(float(losses.mean()), rel=1e-6)
        assert (len(batch.numbers["norm"]), list(batch.batch_numbers)) == (6, ["scale"])
    norms = np.concatenate([one.numbers["norm"] for one in batches[:2]])
    assert totals[0].number_means["norm"] == {"mean": pytest.approx(float(norms.mean())), "n": 12}
    assert totals[0].accuracy is None


def test_equal_runs_write_equal_bytes(tmp_path: Path) -> None:
    """Numbers change nothing about that."""
    for name in ("a", "b"):
        train_autoencoder(tmp_path / f"{name}.jsonl")
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()


def test_inspect_shows_means_and_the_largest_losses(tmp_path: Path, call: Caller) -> None:
    """By epoch the loss and each number, and the samples with the largest loss."""
    kept = train_autoencoder(tmp_path / "r.jsonl")
    found = json.loads(call("inspect", "r.jsonl", "--worst", 3, "--json").out)
    last = torch.cat(kept[2:])
    assert [one["id"] for one in found["phase"]["worst"]] == [f"v{n}" for n in last.argsort(descending=True)[:3].tolist()]
    assert found["epochs"][1]["train"]["loss"] == pytest.approx(float(last.mean()))
    assert {one["name"] for one in found["phase"]["numbers"]} == {"norm", "scale"}
    shown = call("inspect", "r.jsonl").out
    assert all(part in shown for part in ("train norm", "train scale", "highest loss"))
    assert "train norm" not in call("inspect", "r.jsonl", "--sample", "v3").out


def test_rows_have_a_column_for_each_number(tmp_path: Path, call: Caller) -> None:
    """A number of the whole batch stands in each of its rows; conditions may use them."""
    train_autoencoder(tmp_path / "r.jsonl")
    rows = [json.loads(line) for line in call("rows", "r.jsonl").out.splitlines()]
    assert list(rows[0])[4:] == ["id", "file", "loss", "batch_loss", "norm", "scale"]
    with open_run(tmp_path / "r.jsonl") as run:
        table = run.to_pandas()
    for name in ("loss", "batch_loss", "norm", "scale"):
        np.testing.assert_array_equal(np.array([one[name] for one in rows], np.float32), table[name])
    some = call("rows", "r.jsonl", "--where", "norm > 0.5 and scale < 9", "--columns", "id,norm").out.splitlines()
    assert len(some) == sum(one["norm"] > 0.5 for one in rows)
    assert call("rows", "r.jsonl", "--columns", "nrom").code == 2
    by_epoch = [json.loads(line) for line in call("rows", "r.jsonl", "--per", "epoch").out.splitlines()]
    assert by_epoch[0]["norm"] == pytest.approx(np.mean([one["norm"] for one in rows if one["epoch"] == 1]))


def test_a_loss_for_the_whole_batch_is_enough(tmp_path: Path, call: Caller) -> None:
    """GANs and detectors have no loss per sample: the batch has one, and rows say null."""
    with Recorder(tmp_path / "r.jsonl", task="loss") as recorder:
        for epoch in (1, 2):
            numbers = {"discriminator": 0.7, "generator": 1.2}
            recorder.record(epoch=epoch, phase="train", inputs=torch.rand(3, 2), ids=[0, 1, 2], loss=1.9, numbers=numbers)
    batch, totals = records(tmp_path / "r.jsonl", "measures", "epoch")[:2]
    assert (batch.losses, batch.loss, totals.loss) == (None, pytest.approx(1.9), pytest.approx(1.9))
    first = json.loads(call("rows", "r.jsonl", "--limit", 1).out)
    assert [first[name] for name in ("loss", "batch_loss", "discriminator")] == [None, 1.9, 0.7]
    found = json.loads(call("inspect", "r.jsonl", "--json").out)["phase"]
    assert (found["loss"], found["worst"]) == (pytest.approx(1.9), [])


def test_diff_compares_losses_sample_by_sample(tmp_path: Path, call: Caller) -> None:
    """Samples whose loss rose or fell, and a gate on the mean."""
    first, second = train_autoencoder(tmp_path / "a.jsonl"), train_autoencoder(tmp_path / "b.jsonl", seed=5)
    change = torch.cat(second[2:]) - torch.cat(first[2:])
    found = json.loads(call("diff", "a.jsonl", "b.jsonl", "--json").out)["losses"]
    assert (found["both"], found["risen"]["count"], found["fallen"]["count"]) == (12, (change > 0).sum(), (change < 0).sum())
    largest = f"v{int(change.abs().argmax())}"
    assert largest in (found["risen"]["first"] or found["fallen"]["first"])[0]["file"]
    assert "higher in B" in call("diff", "a.jsonl", "b.jsonl").out
    assert call("diff", "a.jsonl", "b.jsonl", "--fail-if", f"loss_rise > {float(change.mean()) - 0.01}").code == 5


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "neither losses nor loss is given"),
        ({"losses": torch.rand(4)}, "not one per sample"),
        ({"loss": 1.0, "labels": torch.zeros(3).long(), "logits": torch.rand(3, 2)}, "the task loss has none"),
        ({"loss": 1.0, "numbers": {"kl": torch.rand(4)}}, "neither one number nor one per sample"),
        ({"loss": 1.0, "numbers": {"loss": 1.0}}, "is the name of a column"),
        ({"loss": 1.0, "numbers": {"k l": 1.0}}, "is no name for a number"),
        ({"loss": 1.0, "numbers": {"kl": "high"}}, "is not a number"),
        ({"losses": torch.tensor([0.1, torch.nan, 0.2])}, "losses are NaN: 1 of 3"),
    ],
)
def test_what_does_not_fit_is_said(tmp_path: Path, given: dict[str, Any], message: str) -> None:
    """Before anything is written."""
    with Recorder(tmp_path / "r.jsonl", task="loss") as recorder:
        with pytest.raises(UsageError) as caught:
            recorder.record(epoch=1, phase="train", inputs=torch.rand(3, 2), ids=[0, 1, 2], **given)
        assert message in str(caught.value)
        recorder.record(epoch=1, phase="train", inputs=torch.rand(3, 2), ids=[0, 1, 2], loss=1.0)
    assert len(records(tmp_path / "r.jsonl", "measures")) == 1


def test_numbers_go_with_every_task(tmp_path: Path, call: Caller) -> None:
    """Also with classes: a column after those of the task; ignored samples take their numbers with them."""
    numbers = {"weight": torch.arange(8.0)}
    given = batch_of(8, 3)
    given["labels"][2] = -100
    with Recorder(tmp_path / "r.jsonl") as recorder:
        recorder.record(**given, numbers=numbers)
        with pytest.warns(UserWarning, match="numbers late come after the first batch"):
            recorder.record(**batch_of(8, 3, first=8), numbers={"weight": torch.ones(8), "late": 2.0})
    rows = [json.loads(line) for line in call("rows", "r.jsonl").out.splitlines()]
    assert list(rows[0])[-2:] == ["loss_nats", "weight"]
    assert [one["weight"] for one in rows] == [0, 1, 3, 4, 5, 6, 7, *[1] * 8]
    assert call("inspect", "r.jsonl").code == 0


VALUES = torch.tensor([0.5, -2.0, 3.25])


@pytest.mark.parametrize(
    "given",
    [
        torch.stack([VALUES, VALUES], -1)[:, 0],
        torch._neg_view(-VALUES),
        VALUES.clone().requires_grad_(),
        VALUES.bfloat16(),
        VALUES.double().numpy(),
        VALUES.tolist(),
        tuple(VALUES),
    ],
    ids=["strided", "negative view", "with a graph", "bfloat16", "NumPy", "list", "tuple"],
)
def test_numbers_may_come_in_any_form(tmp_path: Path, given: Any) -> None:
    """They are recorded as float32, with the values that they have."""
    with Recorder(tmp_path / "r.jsonl", task="loss") as recorder:
        recorder.record(epoch=1, phase="train", inputs=VALUES, ids=[0, 1, 2], loss=1.0, numbers={"kl": given})
    assert records(tmp_path / "r.jsonl", "measures")[0].numbers["kl"].tolist() == VALUES.tolist()


@pytest.mark.parametrize("kind", ["sparse", "meta", "nested", "complex"])
@pytest.mark.parametrize("name", ["losses", "numbers"])
def test_tensors_without_one_value_a_place_are_refused(tmp_path: Path, name: str, kind: str) -> None:
    """With a hint, and no change to the recorder."""
    odd = {
        "sparse": lambda: VALUES.to_sparse(),
        "meta": lambda: VALUES.to("meta"),
        "nested": lambda: torch.nested.nested_tensor([VALUES, VALUES], layout=torch.jagged),
        "complex": lambda: VALUES.to(torch.complex64),
    }[kind]()
    with Recorder(tmp_path / "r.jsonl", task="loss") as recorder:
        given = {"losses": odd} if name == "losses" else {"loss": 1.0, "numbers": {"kl": odd}}
        with pytest.raises(UsageError) as caught:
            recorder.record(epoch=1, phase="train", inputs=VALUES, ids=[0, 1, 2], **given)
        assert name in caught.value.message
        assert caught.value.hint
        recorder.record(epoch=1, phase="train", inputs=VALUES, ids=[0, 1, 2], losses=VALUES)
    assert verified(tmp_path / "r.jsonl") == "completed"


@pytest.mark.parametrize("cut", [False, True], ids=["interrupted", "killed"])
def test_means_of_numbers_continue(tmp_path: Path, cut: bool) -> None:
    """`append=True` adds to the means of the epoch that was under way, whether its sums were written or not."""

    def record(recorder: Recorder, first: int) -> None:
        numbers = {"kl": torch.arange(first, first + 4.0), "weight": float(first)}
        ids = list(range(first, first + 4))
        recorder.record(epoch=1, phase="train", inputs=torch.rand(4, 2), ids=ids, losses=torch.rand(4), numbers=numbers)

    path = tmp_path / "r.jsonl"
    with Recorder(path, task="loss") as recorder:
        record(recorder, 0)
        recorder.close("interrupted")
    if cut:
        path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-2]))
    with Recorder(path, task="loss", append=True) as recorder:
        record(recorder, 4)
    means = records(path, "epoch")[-1].number_means
    assert means == {"kl": {"mean": 3.5, "n": 8}, "weight": {"mean": 2.0, "n": 8}}
    assert len(records(path, "run")) == 1


class TwoHeads(nn.Module):
    """A network with an auxiliary output."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.second = nn.Linear(4, 8), nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return two logits [B, 3]."""
        found = self.body(inputs).relu()
        return self.head(found), self.second(found)


def watch_two(path: Path, *, first: bool, named: bool = True, kind: str = "mean") -> None:
    """Train for two epochs with two loss functions; the auxiliary one comes `first` or last."""
    torch.manual_seed(0)
    net, criterion = TwoHeads(), nn.CrossEntropyLoss()
    other = nn.CrossEntropyLoss(reduction=kind)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    loader = DataLoader(TensorDataset(torch.rand(10, 4), torch.arange(10) % 3), batch_size=4)
    with Recorder(path) as recorder:
        recorder.watch(criterion, model=net)
        recorder.watch(other, name="aux" if named else None)
        for _ in range(2):
            for inputs, labels in recorder.loader(loader):
                logits, more = net(inputs)
                extra = other(more, labels) if first else None
                loss = criterion(logits, labels)
                extra = other(more, labels.clone()) if extra is None else extra
                optimizer.zero_grad()
                (loss + 0.3 * extra.mean()).backward()
                optimizer.step()


@pytest.mark.parametrize("kind", ["mean", "none"])
def test_a_named_loss_function_belongs_to_the_same_batch(tmp_path: Path, kind: str) -> None:
    """Before or after the first one, per sample where it is not reduced: the same bytes, and no batch of its own."""
    for name, first in (("a", True), ("b", False)):
        watch_two(tmp_path / f"{name}.jsonl", first=first, kind=kind)
    assert verified(tmp_path / "a.jsonl") == "completed"
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    batches = records(tmp_path / "a.jsonl", "batch")
    assert [len(one.labels) for one in batches] == [4, 4, 2] * 2
    assert [one.step for one in batches] == list(range(6))
    if kind == "mean":
        assert all(one.batch_numbers["aux"] > 0 and one.numbers is None for one in batches)
    else:
        assert [len(one.numbers["aux"]) for one in batches] == [4, 4, 2] * 2
    assert records(tmp_path / "a.jsonl", "run")[0].number_names == ["aux"]
    assert records(tmp_path / "a.jsonl", "epoch")[0].number_means["aux"]["n"] == 10


def test_two_loss_functions_without_names_are_an_error(tmp_path: Path) -> None:
    """That says how to name one; on the same labels the second is an auxiliary output, as before."""
    with pytest.raises(UsageError, match='name="aux"'):
        watch_two(tmp_path / "a.jsonl", first=False, named=False)
    recorder, criterion = Recorder(tmp_path / "b.jsonl"), nn.CrossEntropyLoss()
    recorder.watch(criterion)
    with pytest.raises(UsageError, match="another name"):
        recorder.watch(criterion, name="aux")
    recorder.close("failed")


def test_a_loss_without_labels_can_be_watched(tmp_path: Path) -> None:
    """A contrastive loss takes two embeddings; what it returns is the loss, one per sample if it is not reduced."""
    data = TensorDataset(torch.rand(6, 4), torch.rand(6, 4))
    for kind in ("mean", "none"):
        net, criterion = nn.Linear(4, 2), nn.CosineEmbeddingLoss(reduction=kind)
        with Recorder(tmp_path / f"{kind}.jsonl", task="loss") as recorder:
            recorder.watch(criterion, model=net)
            for one, other in recorder.loader(DataLoader(data, batch_size=3)):
                criterion(net(one), net(other).detach(), torch.ones(3)).mean().backward()
        batches = records(tmp_path / f"{kind}.jsonl", "measures")
        assert [one.ids for one in batches] == [[0, 1, 2], [3, 4, 5]]
        assert all((one.losses is None) == (kind == "mean") and one.loss >= 0 for one in batches)
        assert batches[0].phase == "train"
