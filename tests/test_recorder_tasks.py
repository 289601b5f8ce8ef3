"""Columns of every task compared with slow and obvious versions; ids, inputs and extra columns."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - its name in every PyTorch program
import xxhash

from capture_cli import Recorder
from capture_cli.writer.columns import TASKS
from recordings import batch_of, records, verified


def plain_probs(logits: list[float]) -> list[float]:
    """Softmax in plain Python."""
    top = max(logits)
    powers = [math.exp(one - top) for one in logits]
    return [one / sum(powers) for one in powers]


def recorded(path: Path, *, options: dict[str, Any] | None = None, **given: Any) -> Any:
    """Record one batch with these options; return its record."""
    with Recorder(path, **(options or {})) as recorder:
        recorder.record(**{"epoch": 0, "phase": "train", **given})
    assert verified(path) == "completed"
    (batch,) = records(path, "batch", "numbers", "measures")
    return batch


class TestClassification:
    """Logits [B, C] and labels [B]."""

    def test_every_column_is_what_plain_python_says(self, tmp_path: Path) -> None:
        """Probabilities, predictions, losses and their mean, sample by sample."""
        given = batch_of(20, 7)
        batch = recorded(tmp_path / "r.jsonl", **given)
        for i, (logits, label) in enumerate(zip(given["logits"].double().tolist(), given["labels"].tolist(), strict=True)):
            probs = plain_probs(logits)
            np.testing.assert_allclose(batch.probs[i], probs, rtol=2e-6)
            assert batch.preds[i] == probs.index(max(probs))
            assert batch.losses[i] == pytest.approx(-math.log(probs[label]), rel=1e-5, abs=1e-6)
        assert batch.labels.tolist() == given["labels"].tolist()
        assert batch.loss == pytest.approx(float(batch.losses.mean()), rel=1e-6)
        assert (batch.ids, batch.files, batch.lr, batch.rank) == (list(range(20)), None, None, 0)

    def test_default_losses_are_those_of_torch(self, tmp_path: Path) -> None:
        """By default they equal cross_entropy without reduction bit for bit; losses passed in are kept."""
        given = batch_of(50, 10)
        plain = F.cross_entropy(given["logits"], given["labels"], reduction="none")
        np.testing.assert_array_equal(recorded(tmp_path / "a.jsonl", **given).losses, plain.numpy())
        other = torch.rand(50)
        np.testing.assert_array_equal(recorded(tmp_path / "b.jsonl", losses=other, **given).losses, other.numpy())

    @pytest.mark.parametrize("loss", [torch.tensor(2.5, requires_grad=True), torch.tensor(2.5, dtype=torch.float64), 2.5])
    def test_a_loss_that_is_passed_is_kept(self, tmp_path: Path, loss: torch.Tensor | float) -> None:
        """As a scalar tensor or a number, whatever the losses are."""
        assert recorded(tmp_path / "r.jsonl", loss=loss, lr=1e-3, **batch_of(4, 3)).loss == 2.5

    def test_the_lowest_of_equally_probable_classes_is_predicted(self, tmp_path: Path) -> None:
        """The format promises it."""
        given = batch_of(3, 4) | {"logits": torch.tensor([[1.0, 2, 2, 0], [0, 0, 0, 0], [3, 3, 3, 3]])}
        assert recorded(tmp_path / "r.jsonl", **given).preds.tolist() == [1, 0, 0]

    @pytest.mark.parametrize("k", [2, 5])
    def test_top_k_keeps_the_largest_probabilities_and_the_label(self, tmp_path: Path, k: int) -> None:
        """`probs` fall, `topk` are their classes, `p_labels` is the label's own; the omitted ones are counted."""
        given = batch_of(30, 12)
        whole = recorded(tmp_path / "whole.jsonl", **given)
        batch = recorded(tmp_path / "top.jsonl", options={"probs": f"top:{k}"}, **given)
        for i, probs in enumerate(whole.probs):
            order = sorted(range(12), key=lambda c: -probs[c])[:k]
            assert batch.topk[i].tolist() == order
            assert batch.probs[i].tolist() == [probs[c] for c in order]
            assert batch.p_labels[i] == probs[given["labels"][i]]
        assert batch.probs_omitted == 12 - k
        np.testing.assert_array_equal(batch.preds, whole.preds)

    def test_above_100_classes_ten_probabilities_are_kept(self, tmp_path: Path) -> None:
        """As on the command line."""
        batch = recorded(tmp_path / "r.jsonl", **batch_of(4, 200))
        assert (batch.probs.shape, batch.probs_omitted) == ((4, 10), 190)

    def test_half_precision_logits_are_taken_exactly(self, tmp_path: Path) -> None:
        """The softmax of bfloat16 logits is taken in float32."""
        given = batch_of(6, 5)
        half = given["logits"].bfloat16()
        batch = recorded(tmp_path / "r.jsonl", **{**given, "logits": half})
        np.testing.assert_allclose(batch.probs, half.float().softmax(1).numpy(), rtol=1e-6)

    def test_a_mask_of_minus_infinity_is_a_probability_of_0(self, tmp_path: Path) -> None:
        """The model rules the class out, which is not NaN."""
        given = batch_of(2, 3) | {"logits": torch.tensor([[0.0, -torch.inf, 0.0]] * 2), "labels": torch.tensor([0, 1])}
        batch = recorded(tmp_path / "r.jsonl", **given)
        assert batch.probs.tolist() == [[0.5, 0.0, 0.5]] * 2
        assert batch.losses.tolist()[1] == math.inf


class TestSequence:
    """Logits [B, T, C] and labels [B, T] with padding."""

    @pytest.fixture
    def given(self) -> dict[str, Any]:
        """Three sequences of 5 positions with 5, 2 and 3 valid ones; 11 classes."""
        generator = torch.Generator().manual_seed(1)
        labels = torch.randint(11, (3, 5), generator=generator)
        labels[1, 2:] = -100
        labels[2, [1, 4]] = -100
        return {
            "inputs": torch.randint(50, (3, 5), generator=generator),
            "logits": torch.randn(3, 5, 11, generator=generator),
            "labels": labels,
            "ids": ["first", "second", "third"],
            "extra": {"source": ["a b", "c", "d"], "target": ["x", "y y", "z"]},
        }

    def test_valid_positions_are_samples(self, tmp_path: Path, given: dict[str, Any]) -> None:
        """Each position has its label, probabilities and loss, the id of its sequence and its index."""
        batch = recorded(tmp_path / "r.jsonl", options={"task": "sequence"}, **given)
        counted = [(b, t) for b in range(3) for t in range(5) if given["labels"][b, t] != -100]
        assert batch.ids == [given["ids"][b] for b, _ in counted]
        assert batch.positions.tolist() == [t for _, t in counted]
        for row, (b, t) in enumerate(counted):
            probs = plain_probs(given["logits"][b, t].double().tolist())
            np.testing.assert_allclose(batch.probs[row], probs, rtol=2e-6)
            assert batch.labels[row] == given["labels"][b, t]
            assert batch.losses[row] == pytest.approx(-math.log(probs[given["labels"][b, t]]), rel=1e-5)
        assert batch.sequences == {"ids": given["ids"], "padded_length": 5, "n_valid": [5, 2, 3], "ignore_index": -100}
        assert batch.extra == given["extra"]
        assert (batch.inputs.shape, batch.inputs.dtype, len(batch.inputs.digests)) == ([5], "int64", 3)
        (run,) = records(tmp_path / "r.jsonl", "run")
        assert run.task == "sequence"

    def test_losses_and_loss_are_those_of_torch(self, tmp_path: Path, given: dict[str, Any]) -> None:
        """They equal cross_entropy with ignore_index, position by position and on average."""
        batch = recorded(tmp_path / "r.jsonl", options={"task": "sequence"}, **given)
        logits, labels = given["logits"].transpose(1, 2), given["labels"]
        each = F.cross_entropy(logits, labels, reduction="none")[labels != -100]
        np.testing.assert_allclose(batch.losses, each.numpy(), rtol=1e-6)
        assert batch.loss == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-6)
        (epoch,) = records(tmp_path / "r.jsonl", "epoch")
        assert (epoch.n, epoch.captured) == (10, 10)
        assert epoch.accuracy == pytest.approx((batch.preds == batch.labels).mean())

    def test_padding_may_be_any_class(self, tmp_path: Path, given: dict[str, Any]) -> None:
        """With ignore_index=0, as for a padding token 0; files belong to sequences."""
        labels = given["labels"].clamp(min=0)
        options = {"task": "sequence", "ignore_index": 0, "probs": "top:3"}
        batch = recorded(tmp_path / "r.jsonl", options=options, **given | {"labels": labels, "files": ["a", "b", "c"]})
        counts = (labels != 0).sum(1).tolist()
        assert batch.sequences["n_valid"] == counts
        assert batch.files == [name for name, count in zip("abc", counts, strict=True) for _ in range(count)]
        assert 0 not in batch.labels
        assert batch.topk.shape == (sum(counts), 3)

    def test_a_batch_that_is_all_padding_has_no_samples(self, tmp_path: Path, given: dict[str, Any]) -> None:
        """It is recorded, and the sums come from the other batches."""
        with Recorder(tmp_path / "r.jsonl", task="sequence", spike=0, repeats=True) as recorder:
            recorder.record(epoch=0, phase="val", **given)
            recorder.record(epoch=0, phase="val", **given | {"labels": torch.full((3, 5), -100)})
        assert verified(tmp_path / "r.jsonl") == "completed"
        _, empty = records(tmp_path / "r.jsonl", "batch")
        assert (empty.ids, empty.sequences["n_valid"], empty.probs.size) == ([], [0, 0, 0], 0)
        assert records(tmp_path / "r.jsonl", "epoch")[0].n == 10
        with Recorder(tmp_path / "e.jsonl", task="sequence", spike=0) as recorder:
            recorder.record(epoch=0, phase="val", **given | {"labels": torch.full((3, 5), -100)})
        assert verified(tmp_path / "e.jsonl") == "completed"
        (sums,) = records(tmp_path / "e.jsonl", "epoch")
        assert (sums.n, math.isnan(sums.loss), sums.accuracy) == (0, True, None)

    def test_values_at_padding_do_not_matter(self, tmp_path: Path, given: dict[str, Any]) -> None:
        """NaN at padded positions, as attention over nothing gives, is no error."""
        logits = given["logits"].clone()
        logits[given["labels"] == -100] = torch.nan
        batch = recorded(tmp_path / "r.jsonl", options={"task": "sequence"}, **given | {"logits": logits})
        assert np.isfinite(batch.losses).all()
        assert math.isfinite(batch.loss)


class TestNumbers:
    """Numeric targets: multilabel and regression."""

    def test_multilabel_outputs_are_sigmoids(self, tmp_path: Path) -> None:
        """Targets, outputs, mean binary cross-entropy per sample, and the share of correct outputs."""
        logits = torch.randn(8, 4, generator=torch.Generator().manual_seed(2))
        labels = (torch.rand(8, 4, generator=torch.Generator().manual_seed(3)) > 0.5).float()
        given = batch_of(8, 4) | {"logits": logits, "labels": labels}
        batch = recorded(tmp_path / "r.jsonl", options={"task": "multilabel", "classes": list("wxyz")}, **given)
        rights = 0
        for i in range(8):
            terms = []
            for x, y in zip(logits[i].double().tolist(), labels[i].tolist(), strict=True):
                p = 1 / (1 + math.exp(-x))
                terms.append(-(y * math.log(p) + (1 - y) * math.log(1 - p)))
                rights += (p > 0.5) == (y == 1)
            assert batch.losses[i] == pytest.approx(sum(terms) / 4, rel=1e-5)
        np.testing.assert_allclose(batch.outputs, 1 / (1 + np.exp(-logits.numpy())), rtol=1e-5)
        np.testing.assert_array_equal(batch.targets, labels.numpy())
        run, epoch = records(tmp_path / "r.jsonl", "run", "epoch")
        assert (run.task, run.classes, epoch.accuracy) == ("multilabel", list("wxyz"), pytest.approx(rights / 32))

    @pytest.mark.parametrize("shape", [(6,), (6, 1)])
    def test_one_logit_for_two_classes_is_multilabel_with_one_output(self, tmp_path: Path, shape: tuple[int, ...]) -> None:
        """A binary classifier with [B] or [B, 1], and labels of the same shape and any type."""
        given = batch_of(6, 2) | {"logits": torch.linspace(-2, 2, 6).reshape(shape)}
        given["labels"] = torch.tensor([0, 1, 0, 1, 0, 1]).reshape(shape)
        batch = recorded(tmp_path / "r.jsonl", options={"task": "multilabel"}, **given)
        assert batch.outputs.shape == (6, 1)
        plain = F.binary_cross_entropy_with_logits(given["logits"], given["labels"].float(), reduction="none")
        np.testing.assert_allclose(batch.losses, plain.reshape(-1).numpy(), rtol=1e-6)

    @pytest.mark.parametrize("shape", [(5,), (5, 3)])
    def test_regression_outputs_are_kept_as_they_are(self, tmp_path: Path, shape: tuple[int, ...]) -> None:
        """The loss of a sample is its mean squared error; there is no accuracy."""
        outputs, targets = torch.randn(shape), torch.randn(shape)
        given = batch_of(5, 2) | {"logits": outputs, "labels": targets}
        batch = recorded(tmp_path / "r.jsonl", options={"task": "regression"}, **given)
        np.testing.assert_array_equal(batch.outputs, outputs.reshape(5, -1).numpy())
        np.testing.assert_array_equal(batch.targets, targets.reshape(5, -1).numpy())
        errors = ((outputs - targets) ** 2).reshape(5, -1).mean(1)
        np.testing.assert_allclose(batch.losses, errors.numpy(), rtol=1e-5)
        assert records(tmp_path / "r.jsonl", "epoch")[0].accuracy is None


@pytest.mark.parametrize("task", [one for one in TASKS if one != "loss"])
def test_class_names_default_to_numbers(tmp_path: Path, task: str) -> None:
    """In the order of the logits, for every task."""
    logits = torch.randn({"sequence": (4, 2, 3), "segmentation": (4, 3, 2, 2)}.get(task, (4, 3)))
    labels = torch.zeros_like(logits) if task in ("multilabel", "regression") else torch.zeros(logits.shape[:-1]).long()
    labels = labels[:, 0, :, None].repeat(1, 1, 2) if task == "segmentation" else labels
    given = batch_of(4, 3) | {"logits": logits, "labels": labels}
    recorded(tmp_path / "a.jsonl", options={"task": task}, **given)
    recorded(tmp_path / "b.jsonl", options={"task": task, "classes": ["ant", "bee", "cat"]}, **given)
    assert [records(tmp_path / name, "run")[0].classes for name in ("a.jsonl", "b.jsonl")] == [
        ["0", "1", "2"],
        ["ant", "bee", "cat"],
    ]


@pytest.mark.parametrize(
    ("ids", "wanted"),
    [
        ([5, 6, 7], [5, 6, 7]),
        ((5, 6, 7), [5, 6, 7]),
        (range(5, 8), [5, 6, 7]),
        (np.array([5, 6, 7], np.int32), [5, 6, 7]),
        (torch.tensor([5, 6, 7]), [5, 6, 7]),
        ([np.int64(5), np.int64(6), 7], [5, 6, 7]),
        ([torch.tensor(5), torch.tensor(6), torch.tensor(7)], [5, 6, 7]),
        ([-1, 0, 2**63 - 1], [-1, 0, 2**63 - 1]),
        (["a", "b/c.png", "d e"], ["a", "b/c.png", "d e"]),
        (np.array(["a", "b", "c"]), ["a", "b", "c"]),
        (["caf\udce9", "é", "日本"], ["caf\udce9", "é", "日本"]),
    ],
    ids=str,
)
def test_ids_may_be_integers_or_strings_of_any_kind(tmp_path: Path, ids: Any, wanted: list[Any]) -> None:
    """Lists, ranges, arrays and tensors, and strings that are not UTF-8, come back as they were."""
    assert recorded(tmp_path / "r.jsonl", **batch_of(3, 4) | {"ids": ids}).ids == wanted


INPUTS = {
    "float32": torch.rand(4, 3, 2, 2),
    "float64": torch.rand(4, 5, dtype=torch.float64),
    "float16": torch.rand(4, 5).half(),
    "bfloat16": torch.rand(4, 5).bfloat16(),
    "float8_e4m3fn": torch.rand(4, 8).to(torch.float8_e4m3fn),
    "uint8": torch.randint(255, (4, 3, 2, 2)).byte(),
    "int64": torch.randint(1000, (4, 7)),
    "int32": torch.randint(1000, (4,)).int(),
    "bool": torch.rand(4, 6) > 0.5,
    "complex64": torch.randn(4, 3, dtype=torch.complex64),
}


@pytest.mark.parametrize("dtype", INPUTS)
@pytest.mark.parametrize("kept", ["all", 2, "digest"])
def test_inputs_of_any_type_are_kept_byte_for_byte(tmp_path: Path, dtype: str, kept: str | int) -> None:
    """Digests cover each sample's bytes; `all` and N keep exactly these; the others are counted."""
    inputs = INPUTS[dtype]
    wanted = [bytes(one.contiguous().reshape(-1).view(torch.uint8).tolist()) for one in inputs]
    with Recorder(tmp_path / "run", inputs=kept) as recorder:
        recorder.record(**batch_of(4, 3) | {"inputs": inputs})
    (batch,) = records(tmp_path / "run", "batch")
    found = batch.inputs
    assert (found.dtype, found.shape) == (dtype, list(inputs.shape[1:]))
    assert found.digests == [xxhash.xxh3_64_hexdigest(one) for one in wanted]
    assert found.not_stored == {"all": 0, 2: 2, "digest": 4}[kept]
    if kept == "all":
        pack = (tmp_path / "run" / found.stored["pack"]).read_bytes()
        assert [pack[at : at + len(one)] for at, one in zip(found.stored["offsets"], wanted, strict=True)] == wanted
    if kept == 2:
        import base64

        assert [base64.b64decode(one) for one in found.values] == wanted[:2]


def test_inputs_that_are_not_contiguous_are_their_values(tmp_path: Path) -> None:
    """Channels last or strided: the digest is that of the same values in order."""
    plain = torch.rand(4, 3, 6, 6)
    views = [plain, plain.to(memory_format=torch.channels_last), torch.stack([plain, plain], -1)[..., 0]]
    found = [recorded(tmp_path / f"{i}.jsonl", **batch_of(4, 3) | {"inputs": one}) for i, one in enumerate(views)]
    assert len({tuple(batch.inputs.digests) for batch in found}) == 1


EXTRA = {
    "source": ["ein Haus", "", 'a "quoted" \n text', "caf\udce9"],
    "length": [1, 2, 3, -4],
    "score": [0.5, 1e-300, -2.0, 3.25],
    "flag": [True, False, None, True],
    "box": [[1, 2], [], {"x": 1.5}, [[None]]],
}


def test_extra_columns_hold_any_plain_value(tmp_path: Path) -> None:
    """Strings, numbers, bools, None, lists and objects come back as they were; tensors and arrays as lists."""
    assert recorded(tmp_path / "a.jsonl", extra=EXTRA, **batch_of(4, 3)).extra == EXTRA
    extra = {"a": torch.tensor([1, 2, 3, 4]), "b": np.array([0.5, 1.5, 2.5, 3.5]), "c": ("w", "x", "y", "z")}
    assert recorded(tmp_path / "b.jsonl", extra=extra, **batch_of(4, 3)).extra == {
        "a": [1, 2, 3, 4],
        "b": [0.5, 1.5, 2.5, 3.5],
        "c": ["w", "x", "y", "z"],
    }
