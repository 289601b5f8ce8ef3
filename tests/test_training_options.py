"""The options of a training: each run is killed, resumed to equal bytes, and its inputs and outputs are replayed."""

import json
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - its name in every PyTorch program

from capture_cli.config import EVALUATIONS, TrainConfig
from capture_cli.keyed_random import path_keys
from capture_cli.mixing import Mix, Mixing
from capture_cli.objective import Objective, balanced_weights
from capture_cli.training.learning import learning_rate
from capture_cli.training.sampling import balanced_order
from cutting import Trainer, kept, trainer

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trainer:
    """Call `capture train ARGS` beside `images/`: 34 images, 18 of them ants."""
    call = trainer(tmp_path, monkeypatch)
    for number in range(10):
        shutil.copy(f"images/ant_00{number % 8}.png", f"images/ant_9{number:02}.png")
    return call


def batches(run: str) -> list[dict[str, Any]]:
    """Return the training batches."""
    lines = map(json.loads, Path(run, "records.jsonl").read_bytes().splitlines())
    return [one for one in lines if one["kind"] == "batch" and one["phase"] == "train"]


MATRIX = (
    "-m mlp --opt=sgd --sched=step --warmup=0.5 --sampler=balanced --mixup=0.4 --ema=0.9 --clip=1",
    "-m mlp --opt=adam --sched=onecycle --class-weights=balanced --cutmix=1 --grad-accum=3 --ema=0.99",
    "-m mlp --opt=adamw --sched=cosine --warmup=1 --label-smoothing=0.1 --sampler=balanced --grad-accum=2",
    "-m linear --opt=sgd --sched=constant --class-weights=balanced --label-smoothing=0.2 --mixup=0.2 --cutmix=1 --clip=0.5",
    "-m net.py:make --opt=adam --sched=step --mixup=1 --label-smoothing=0.1 --ema=0.9 --patience=1 --best=balanced_accuracy",
    "-m net.py:make --opt=sgd --sched=onecycle --sampler=balanced --cutmix=0.5 --grad-accum=4 --augment=flip --clip=2",
)
"""Every option with several others; together nearly all pairs."""
NORMALISED = """
from torch import nn

def make(classes, channels, height, width):
    layers = nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3)
    return nn.Sequential(*layers, nn.Linear(4 * (height - 2) * (width - 2), classes))
"""
LOCKED = """
import threading
from torch import nn

class Net(nn.Sequential):
    def __init__(self, classes, channels, height, width):
        super().__init__(nn.Flatten(), nn.Linear(channels * height * width, classes))
        self.lock = threading.Lock()
"""


@pytest.mark.parametrize("options", MATRIX)
def test_killed_resumed_and_replayed(train: Trainer, options: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A kill in the middle of an epoch, in its evaluation or near the end leaves equal bytes; every input is made again."""
    Path("net.py").write_text(NORMALISED)
    arguments = ("images", "-e", "3", *options.split(), "--val-split=0.3", "--checkpoint-every=5")
    assert train(*arguments, "-o", "whole") == 0
    lines = len(Path("whole/records.jsonl").read_bytes().splitlines())
    for cut_after in (lines // 2, lines - 2):
        shutil.rmtree("cut", ignore_errors=True)
        assert train(*arguments, "-o", "cut", cut_after=cut_after) == -9
        assert train("--resume", "cut") == 0
        assert kept(Path("cut")) == kept(Path("whole"))
    capsys.readouterr()
    assert train("cut", "--json", command="replay") == 0
    assert json.loads(capsys.readouterr().out)["equal"] > 60
    code = ("--model", "net.py:make") if "net.py" in options else ()
    assert train("cut", "--outputs", *code, "--json", command="replay") == 0
    assert train(*arguments[:-1], "--checkpoint-every=1", "-o", "begun", cut_after=lines // 2) == -9
    capsys.readouterr()
    assert train("begun", "--outputs", *code, "--json", command="replay") == 0
    assert json.loads(capsys.readouterr().out)["outputs"] > 0


def test_the_record_has_both_labels_and_the_weight(train: Trainer) -> None:
    """The loss that was differentiated follows from the record; the losses of the samples are those of their own labels."""
    assert train("images", "-e", "1", "--mixup=1", "--label-smoothing=0.1", "-o", "run") == 0
    for batch in batches("run"):
        probs, labels, mix = np.array(batch["probs"]), np.array(batch["labels"]), batch["mix"]
        rows = np.arange(len(labels))
        assert batch["losses"] == pytest.approx(-np.log(probs[rows, labels]), abs=1e-5)
        assert mix["labels"] == labels[mix["partners"]].tolist()
        targets = np.zeros_like(probs)
        np.add.at(targets, (rows, labels), mix["weight"])
        np.add.at(targets, (rows, mix["labels"]), 1 - mix["weight"])
        targets = 0.9 * targets + 0.1 / probs.shape[1]
        assert batch["loss"] == pytest.approx(-(targets * np.log(probs)).sum(1).mean(), abs=1e-5)
    weights = [batch["mix"]["weight"] for batch in batches("run")]
    assert min(weights) < 0.4 < 0.6 < max(weights)


def test_cutmix_pastes_a_part_of_the_partner() -> None:
    """Its area is the share of the partner's label; with both methods, batches take turns at random."""
    inputs = np.arange(2 * 3 * 8 * 6, dtype=np.float32).reshape(2, 3, 8, 6)
    mixes = [Mixing(mixup=0.0, cutmix=1.0, seed=1).draw(epoch=1, batch=n, size=2, height=8, width=6) for n in range(20)]
    for mix in mixes:
        assert mix is not None
        mixed = mix.apply(inputs, inputs[mix.partners])
        assert (mixed == mix.apply(torch.from_numpy(inputs), torch.from_numpy(inputs[mix.partners])).numpy()).all()
        assert (mixed == inputs).mean() == pytest.approx(mix.weight)
        assert ((mixed == inputs) | (mixed == inputs[::-1])).all()
    both = [Mixing(mixup=0.2, cutmix=1.0, seed=1).draw(epoch=1, batch=n, size=2, height=8, width=6) for n in range(20)]
    assert {mix.method for mix in both if mix} == {"mixup", "cutmix"}
    assert Mixing(mixup=1.0, cutmix=0.0, seed=0).draw(epoch=1, batch=0, size=1, height=8, width=6) is None


def test_mixup_has_the_same_bits_in_torch_and_numpy() -> None:
    """Products and sums are rounded one by one."""
    inputs = np.random.default_rng(0).normal(size=(64, 3, 9, 7)).astype(np.float32)
    mix = Mix(method="mixup", weight=float(np.float32(0.3)), partners=[(i - 1) % 64 for i in range(64)])
    tensor = torch.from_numpy(inputs)
    assert (mix.apply(inputs, inputs[mix.partners]) == mix.apply(tensor, tensor[mix.partners]).numpy()).all()


def test_balanced_epochs_have_each_class_equally_often(train: Trainer) -> None:
    """Samples of rare classes come again, with another augmentation; the record counts how often."""
    assert train("images", "-e", "2", "--sampler=balanced", "--augment=crop", "-o", "run") == 0
    for epoch in (1, 2):
        found = [one for one in batches("run") if one["epoch"] == epoch]
        labels = [label for one in found for label in one["labels"]]
        assert np.ptp(np.bincount(labels)) <= 1
        ids = [sample for one in found for sample in one["ids"]]
        repeats = [count for one in found for count in one.get("repeats", [0] * len(one["ids"]))]
        assert sorted(zip(ids, repeats, strict=True)) == sorted({*zip(ids, repeats, strict=True)})
        assert all((ids.count(sample) > 1) == (sample in {a for a, r in zip(ids, repeats, strict=True) if r}) for sample in ids)
        inputs = [digest for one in found for digest in one["inputs"]["digests"]]
        assert len({*inputs}) > len({*ids})


def test_a_balanced_order_uses_every_sample_of_a_class_before_one_comes_again() -> None:
    """Whatever the sizes of the classes; other files do not change the draw of a class."""
    labels = np.repeat([0, 1, 2], [50, 7, 3])
    keys = path_keys([f"{number}.png" for number in range(60)])
    order, repeats = balanced_order(keys, labels, seed=0, epoch=1)
    assert np.bincount(labels[order]).tolist() == [20, 20, 20]
    for label in (1, 2):
        counts = np.bincount(order[labels[order] == label], minlength=60)[labels == label]
        assert np.ptp(counts) <= 1
    assert (repeats[np.argsort(order, kind="stable")] >= 0).all()
    assert not np.array_equal(order, balanced_order(keys, labels, seed=0, epoch=2)[0])


def test_class_weights_make_classes_count_alike(train: Trainer) -> None:
    """The weights are in the run record, and the loss follows from them."""
    assert train("images", "-e", "1", "--class-weights=balanced", "-b", "5", "-o", "run") == 0
    info = json.loads(Path("run/records.jsonl").read_bytes().splitlines()[0])
    labels = [label for one in batches("run") for label in one["labels"]]
    assert info["class_weights"] == balanced_weights(np.bincount(labels).tolist())
    for batch in batches("run"):
        weights = np.array(info["class_weights"])[batch["labels"]]
        assert batch["loss"] == pytest.approx((weights * batch["losses"]).sum() / weights.sum(), rel=1e-5)
    assert balanced_weights([2, 0, 6]) == [2.0, 0.0, 8 / 12]


def test_the_objective_without_options_is_the_cross_entropy() -> None:
    """Bit for bit."""
    logits, labels = torch.randn(64, 10), torch.randint(10, (64,))
    assert torch.equal(Objective().loss(logits, labels), F.cross_entropy(logits, labels))


def test_accumulated_gradients_are_those_of_one_large_batch(train: Trainer) -> None:
    """Also the few at the end of an epoch; one learning rate holds for a group."""
    options = ("images", "-e", "2", "--opt=sgd", "--augment=none", "--sched=constant", "--val-split=0")
    assert train(*options, "-b", "16", "-o", "large") == 0
    assert train(*options, "-b", "2", "--grad-accum=8", "-o", "small") == 0
    one, other = ([loss for batch in batches(run) for loss in batch["losses"]] for run in ("large", "small"))
    assert one == pytest.approx(other, rel=1e-4)
    assert train(*options[:-2], "-b", "4", "--grad-accum=3", "-o", "grouped") == 0
    rates = [batch["lr"] for batch in batches("grouped") if batch["epoch"] == 1]
    assert [len(set(rates[at : at + 3])) for at in range(0, len(rates), 3)] == [1] * -(-len(rates) // 3)


@pytest.mark.parametrize(
    ("sched", "warmup", "expected"),
    [
        ("cosine", 0.0, {0: 1, 0.5: 0.5, 1: 0}),
        ("cosine", 0.2, {0: 0.01, 0.1: 0.505, 0.2: 1, 0.6: 0.5, 1: 0}),
        ("constant", 0.5, {0: 0.01, 0.5: 1, 1: 1}),
        ("step", 0.0, {0: 1, 0.49: 1, 0.5: 0.1, 0.75: 0.01, 1: 0.01}),
        ("onecycle", 0.0, {0: 0.04, 0.3: 1, 1: 4e-6}),
    ],
)
def test_schedules(sched: str, warmup: float, expected: dict[float, float]) -> None:
    """Fractions of the peak after fractions of the training."""
    for progress, rate in expected.items():
        assert learning_rate(2.0, sched, progress, warmup=warmup) == pytest.approx(2 * rate, abs=1e-6)


@pytest.mark.parametrize(
    ("given", "equal"), [("--lr 0.001", True), ("--lr-head 0.001", False), ("--probs all", False), ("--capture-every 2", False)]
)
def test_options_have_one_order_in_records(train: Trainer, given: str, equal: bool) -> None:
    """A default that is resolved late stands where the option does: given on the command line it changes no byte."""
    for name, options in (("plain", []), ("given", given.split())):
        assert train("images", "-m", "linear", "-e", "1", "-o", name, *options) == 0
    plain, other = (Path(run, "records.jsonl").read_bytes() for run in ("plain", "given"))
    assert (plain == other) is equal
    names = [field.name for field in fields(TrainConfig)] + [EVALUATIONS]
    for one in (plain, other):
        config = list(json.loads(one.splitlines()[0])["config"])
        assert config == sorted(config, key=names.index)


def test_averaged_weights_are_evaluated_and_saved(train: Trainer) -> None:
    """`capture evaluate` finds the accuracy of the last validation again; the weights themselves are others."""
    assert train("images", "-e", "2", "--ema=0.9", "--val-split=0.3", "-o", "run") == 0
    assert train("images", "-e", "2", "--val-split=0.3", "-o", "plain") == 0
    assert [one["losses"] for one in batches("run")] == [one["losses"] for one in batches("plain")]
    assert kept(Path("run"))["model.safetensors"] != kept(Path("plain"))["model.safetensors"]
    names = {name for name, split in _splits("run").items() if split == "val"}
    Path("held").mkdir()
    for name in names:
        shutil.copy(f"images/{name}", "held")
    assert train("run", "held", "-o", "test", "-q", command="evaluate") == 0
    ends = [json.loads(line) for line in Path("run/records.jsonl").read_bytes().splitlines() if b'"kind":"epoch"' in line]
    test = [json.loads(line) for line in Path("test/records.jsonl").read_bytes().splitlines() if b'"kind":"epoch"' in line]
    assert test[0]["loss"] == pytest.approx(ends[-1]["loss"], rel=1e-6)


def _splits(run: str) -> dict[str, str]:
    lines = map(json.loads, Path(run, "records.jsonl").read_bytes().splitlines())
    samples = [one for one in lines if one["kind"] == "samples"]
    return {name: split for one in samples for name, split in zip(one["files"], one["splits"], strict=True)}


def test_clipping_limits_the_update(train: Trainer) -> None:
    """With a tiny norm the model hardly moves."""
    options = ("images", "-e", "1", "--opt=sgd", "--weight-decay=0")
    assert train(*options, "-o", "free") == train(*options, "--clip=1e-6", "-o", "clipped") == 0
    first, last = batches("clipped")[0], batches("clipped")[-1]
    again = dict(zip(last["ids"], last["probs"], strict=True))
    assert first["lr"] != last["lr"]
    assert again
    free = dict(zip(batches("free")[-1]["ids"], batches("free")[-1]["probs"], strict=True))
    assert all(np.abs(np.subtract(again[one], free[one])).max() > 1e-3 for one in again)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--warmup=3 -e 3", "--warmup 3.0 is not valid"),
        ("--warmup=1 --sched=onecycle", "the schedule onecycle has its own warm-up"),
        ("--class-weights=balanced --sampler=balanced", "so together they overdo it; give one of them"),
        ("--ema=1", "a decay such as 0.999"),
        ("--grad-accum=0", "--grad-accum 0 is not valid"),
        ("--mixup=-1", "--mixup -1.0 is not valid"),
        ("--label-smoothing=1", "a share from 0 to below 1"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    train: Trainer, capsys: pytest.CaptureFixture[str], options: str, said: str
) -> None:
    """Before anything is written."""
    assert train("images", *options.split(), "-o", "run") == 2
    assert said in capsys.readouterr().err
    assert not Path("run").exists()


def test_a_model_that_cannot_be_averaged_is_refused(train: Trainer, capsys: pytest.CaptureFixture[str]) -> None:
    """Before an image is read or anything is written; with --folds too."""
    Path("net.py").write_text(LOCKED)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("capture_cli.training.job.open_store", lambda *_, **__: pytest.fail("images are read"))
        assert train("images", "-m", "net.py:Net", "--ema=0.9", "-o", "run") == 2
        assert train("images", "-m", "net.py:Net", "--ema=0.9", "--folds=2", "-o", "run") == 2
    assert capsys.readouterr().err.count("--ema needs a copy of the model, which fails") == 2
    assert not Path("run").exists()


def test_hostile_mixes_are_refused(train: Trainer) -> None:
    """A record from anywhere cannot make replay read beyond a batch."""
    from capture_cli.errors import RecordsError

    body = {"method": "cutmix", "weight": 0.5, "partners": [1, 0], "labels": [0, 1], "box": [0, 0, 2, 2]}
    assert Mix.from_json(body, size=2).box == [0, 0, 2, 2]
    for wrong in ({"partners": [2, 0]}, {"weight": 2}, {"box": None}, {"method": "other"}, {"box": [0, 0, -1, 2]}):
        with pytest.raises(RecordsError):
            Mix.from_json(body | wrong, size=2)
