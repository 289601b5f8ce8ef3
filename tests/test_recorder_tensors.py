"""Tensors and columns of unexpected kinds are recorded or refused with a hint, and never change the recorder."""

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its name in every PyTorch program
from torch.utils.data import TensorDataset

from capture_cli import Recorder, identified
from capture_cli.errors import UsageError
from recordings import batch_of, records, verified

LABELS = torch.tensor([0, 1, 2, 0])
IMAGES = torch.rand(4, 3)


class Subclass(torch.Tensor):
    """A tensor with a name of its own."""


class Wrapper(torch.Tensor):
    """A tensor that holds another one, as those of distributed and quantised training do."""

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> "Wrapper":
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)  # type: ignore[attr-defined]

    @classmethod
    def __torch_dispatch__(cls, *_: Any, **__: Any) -> Any:
        raise RuntimeError("a foreign error")


def quantised() -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(IMAGES, 0.1, 0, torch.quint8)


def nested(layout: torch.layout) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.nested.nested_tensor([torch.rand(n + 1, 3) for n in range(4)], layout=layout)


def sparse(tensor: torch.Tensor) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tensor.to_sparse_csr() if tensor.ndim == 2 else tensor.to_sparse()


REFUSED: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "sparse inputs": (lambda: {"inputs": IMAGES.to_sparse()}, r"inputs: .*sparse_coo.*pass x.to_dense\(\)"),
    "compressed inputs": (lambda: {"inputs": sparse(IMAGES)}, r"inputs: .*sparse_csr.*pass x.to_dense\(\)"),
    "sparse logits": (lambda: {"logits": torch.rand(4, 3).to_sparse()}, r"logits: .*sparse_coo"),
    "sparse labels": (lambda: {"labels": sparse(LABELS)}, r"labels: .*sparse_coo"),
    "sparse losses": (lambda: {"losses": sparse(torch.rand(4))}, r"losses: .*sparse_coo"),
    "sparse ids": (lambda: {"ids": sparse(LABELS)}, r"ids: .*sparse_coo"),
    "a sparse column": (lambda: {"extra": {"a": sparse(LABELS)}}, r"extra\['a'\]: .*sparse_coo"),
    "opaque inputs": (lambda: {"inputs": IMAGES.to_mkldnn()}, r"inputs: .*_mkldnn"),
    "nested inputs": (lambda: {"inputs": nested(torch.strided)}, r"inputs: .*nested.*to_padded_tensor"),
    "jagged inputs": (lambda: {"inputs": nested(torch.jagged)}, r"inputs: .*nested.*to_padded_tensor"),
    "inputs on meta": (lambda: {"inputs": IMAGES.to("meta")}, r"inputs: a tensor on the device meta has no values"),
    "everything on meta": (
        lambda: {"logits": torch.rand(4, 3, device="meta"), "labels": LABELS.to("meta")},
        r"logits: .*meta",
    ),
    "a loss on meta": (lambda: {"loss": torch.tensor(1.0, device="meta")}, r"loss: .*meta"),
    "ids on meta": (lambda: {"ids": LABELS.to("meta")}, r"ids: .*meta"),
    "a wrapper": (lambda: {"inputs": Wrapper(IMAGES)}, r"inputs: a Wrapper wraps other tensors.*full_tensor"),
    "complex logits": (lambda: {"logits": torch.rand(4, 3, dtype=torch.complex64)}, r"logits complex64 .*floating-point"),
    "complex losses": (lambda: {"losses": torch.rand(4, dtype=torch.complex64)}, r"losses: complex64 \[4\].*real numbers"),
    "a complex loss": (lambda: {"loss": torch.tensor(1j)}, r"loss: complex64 \[\].*real numbers"),
    "a set of ids": (lambda: {"ids": {1, 2, 3, 4}}, r"ids: a set is not a list of ids"),
    "a mapping of ids": (lambda: {"ids": {1: 1, 2: 2, 3: 3, 4: 4}}, r"ids: a dict is not a list of ids"),
    "a set of files": (lambda: {"files": {"a", "b", "c", "d"}}, r"files: a set is not a list of strings"),
    "a column that is a set": (lambda: {"extra": {"a": frozenset("abcd")}}, r"extra\['a'\]: a frozenset is not a column"),
}

RECORDED: dict[str, tuple[Callable[[], dict[str, Any]], Callable[[], dict[str, Any]]]] = {
    "strided labels": (lambda: {"labels": LABELS[:, None].repeat(1, 2)[:, 0]}, lambda: {"labels": LABELS}),
    "strided logits": (lambda: {"logits": IMAGES.T.contiguous().T}, lambda: {"logits": IMAGES}),
    "strided losses": (lambda: {"losses": IMAGES[:, 0]}, lambda: {"losses": IMAGES[:, 0].clone()}),
    "expanded labels": (lambda: {"labels": torch.tensor([1]).expand(4)}, lambda: {"labels": torch.ones(4).long()}),
    "narrow labels": (lambda: {"labels": LABELS.to(torch.uint16)}, lambda: {"labels": LABELS}),
    "whole losses": (lambda: {"losses": torch.ones(4).int()}, lambda: {"losses": torch.ones(4)}),
    "subclasses": (
        lambda: {"logits": IMAGES.as_subclass(Subclass), "inputs": IMAGES.as_subclass(Subclass)},
        lambda: {"logits": IMAGES, "inputs": IMAGES},
    ),
    "conjugates": (
        lambda: {"inputs": torch.complex(IMAGES, IMAGES).conj()},
        lambda: {"inputs": torch.complex(IMAGES, -IMAGES)},
    ),
    "negatives": (lambda: {"inputs": torch.complex(IMAGES, IMAGES).conj().imag}, lambda: {"inputs": -IMAGES}),
    "a parameter": (lambda: {"inputs": nn.Parameter(IMAGES)}, lambda: {"inputs": IMAGES}),
    "ids of a generator": (lambda: {"ids": (n for n in range(4))}, lambda: {"ids": [0, 1, 2, 3]}),
    "keys of a mapping": (lambda: {"ids": {"b": 0, "a": 1, "d": 2, "c": 3}.keys()}, lambda: {"ids": ["b", "a", "d", "c"]}),
    "files of a generator": (
        lambda: {"files": (f"{n}.png" for n in range(4))},
        lambda: {"files": [f"{n}.png" for n in range(4)]},
    ),
    "a column of a generator": (lambda: {"extra": {"a": (n for n in range(4))}}, lambda: {"extra": {"a": [0, 1, 2, 3]}}),
}


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_recorded_is_refused_with_a_hint(tmp_path: Path, case: str, first: bool) -> None:
    """Nothing is written or counted, and the next batch is recorded as if it had never come."""
    make, pattern = REFUSED[case]
    with Recorder(tmp_path / "a.jsonl") as recorder, Recorder(tmp_path / "b.jsonl") as plain:
        if not first:
            recorder.record(**batch_of(4, 3, first=10))
            plain.record(**batch_of(4, 3, first=10))
        with pytest.raises(UsageError) as caught:
            recorder.record(**batch_of(4, 3) | make())
        assert re.search(pattern, str(caught.value)), caught.value
        recorder.record(**batch_of(4, 3))
        plain.record(**batch_of(4, 3))
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()


def test_a_quantised_tensor_is_recorded_by_its_integers(tmp_path: Path) -> None:
    """Its type says so."""
    with Recorder(tmp_path / "a.jsonl") as recorder:
        recorder.record(**batch_of(4, 3) | {"inputs": quantised()})
    assert [batch.inputs.dtype for batch in records(tmp_path / "a.jsonl", "batch")] == ["quint8"]


@pytest.mark.parametrize("case", RECORDED)
def test_what_can_be_recorded_gives_the_same_bytes(tmp_path: Path, case: str) -> None:
    """As the plain tensor or list of the same values does."""
    for name, make in zip(("a.jsonl", "b.jsonl"), RECORDED[case], strict=True):
        with Recorder(tmp_path / name) as recorder:
            recorder.record(**batch_of(4, 3) | make())
    assert verified(tmp_path / "a.jsonl") == "completed"
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()


CHANGES: dict[str, Callable[[torch.Tensor, torch.Tensor], object]] = {
    "probabilities in the memory of NumPy": lambda _, log_probs: np.exp(array := log_probs.detach().numpy(), out=array),
    "probabilities in the memory of data": lambda _, log_probs: log_probs.data.exp_(),
    "other logits": lambda logits, _: logits.data.mul_(5),
}


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("change", CHANGES)
def test_memory_of_the_loss_function_is_not_trusted(tmp_path: Path, change: str, every: int) -> None:
    """Records are of the logits as they are, whatever a loop wrote into the tensors that the loss was computed from."""
    for name in ("graph", "number"):
        with Recorder(tmp_path / name, every=every) as recorder:
            for number in range(4):
                batch = batch_of(16, 3, seed=number, first=16 * number)
                batch["logits"].requires_grad_()
                log_probs = F.log_softmax(batch["logits"], -1)
                loss = F.nll_loss(log_probs, batch["labels"])
                CHANGES[change](batch["logits"], log_probs)
                recorder.record(**batch | {"loss": loss if name == "graph" else loss.item()})
                if number == 0:
                    (record,) = records(tmp_path / name, "batch")
                    np.testing.assert_allclose(record.probs, batch["logits"].detach().softmax(1), rtol=1e-5)
    assert (tmp_path / "graph/records.jsonl").read_bytes() == (tmp_path / "number/records.jsonl").read_bytes()


def test_logits_of_a_teacher_beside_a_loss_with_gradients(tmp_path: Path) -> None:
    """Tensors of inference mode are recorded outside of it."""
    with Recorder(tmp_path / "run.jsonl", every=2) as recorder:
        for number in range(2):
            batch = batch_of(4, 3, first=4 * number)
            with torch.inference_mode():
                batch["logits"] = batch["logits"] * 2
            recorder.record(**batch, loss=F.mse_loss(torch.ones(4, requires_grad=True), torch.zeros(4)))
    assert verified(tmp_path / "run.jsonl") == "completed"


@pytest.mark.parametrize("every", [1, 4])
def test_many_classes_in_inference_mode_and_then_outside(tmp_path: Path, every: int) -> None:
    """Memory that is kept between batches can be written to in every mode."""
    with Recorder(tmp_path / "run.jsonl", probs="top:2", every=every) as recorder:
        for number in range(4):
            with torch.inference_mode(number < 2):
                recorder.record(**batch_of(32, 9_000 + every, first=32 * number))
    assert verified(tmp_path / "run.jsonl") == "completed"


def test_a_tensor_that_fails_when_it_is_read_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever torch raises for a kind of tensor that nobody has thought of, the next batch is recorded."""
    with Recorder(tmp_path / "a.jsonl") as recorder:
        monkeypatch.setattr(torch.Tensor, "log_softmax", lambda *_: (_ for _ in ()).throw(NotImplementedError("ouch\nmore")))
        with pytest.raises(UsageError, match="batch 0 of epoch 0: its tensors cannot be read: ouch"):
            recorder.record(**batch_of(4, 3))
        monkeypatch.undo()
        assert recorder.step == 0
        recorder.record(**batch_of(4, 3))
    assert [batch.step for batch in records(tmp_path / "a.jsonl", "batch")] == [0]


@pytest.mark.parametrize(
    "classes",
    [
        {"dog": 2, "cat": 1, "ant": 0},
        {1: "cat", 0: "ant", 2: "dog"},
        (name for name in ("ant", "cat", "dog")),
        np.array(["ant", "cat", "dog"]),
        {"ant": "x", "cat": "y", "dog": "z"}.keys(),
    ],
    ids=["name to number", "number to name", "generator", "array", "keys"],
)
def test_classes_are_understood_in_their_order(tmp_path: Path, classes: Any) -> None:
    """Mappings by their numbers; iterables are read once."""
    with Recorder(tmp_path / "a.jsonl", classes=classes) as recorder:
        recorder.record(**batch_of(4, 3))
    assert records(tmp_path / "a.jsonl", "run")[0].classes == ["ant", "cat", "dog"]


@pytest.mark.parametrize(
    "classes",
    [{"ant", "cat"}, frozenset({"ant"}), {"ant": 1, "cat": 2}, {"ant": 0, "cat": 0}, {"ant": "x"}, {0: 0}, {"ant": 0.0}, "ant"],
    ids=["set", "frozenset", "from 1", "one number", "text", "number", "real number", "str"],  # the order of a set changes
)
def test_classes_without_an_order_are_refused(tmp_path: Path, classes: Any) -> None:
    """A set has another order in each process, and numbers with gaps name no outputs."""
    with pytest.raises(UsageError, match="choose a list of different names, or a mapping"):
        Recorder(tmp_path / "a.jsonl", classes=classes)
    assert not list(tmp_path.iterdir())


def test_a_wrapped_dataset_passes_attributes_on() -> None:
    """To set a transform on it sets that of the dataset."""
    dataset = TensorDataset(IMAGES)
    dataset.transform = None  # type: ignore[attr-defined]
    identified(dataset).transform = "new"  # type: ignore[attr-defined]
    assert dataset.transform == "new"  # type: ignore[attr-defined]
