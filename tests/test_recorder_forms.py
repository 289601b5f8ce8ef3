"""Batches in the forms in which loops have them: columns, soft labels, ignored samples, several inputs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - its name in every PyTorch program
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from capture_cli import Recorder
from recordings import batch_of, records, verified


class TestShapes:
    """Forms of a batch that mean the same."""

    @pytest.mark.parametrize(
        ("task", "logits", "labels", "shape"),
        [
            ("classification", torch.zeros(4, 3), torch.zeros(4, 1).long(), (4,)),
            ("regression", torch.zeros(4, 1), torch.zeros(4), (4, 1)),
            ("regression", torch.zeros(4), torch.zeros(4, 1), (4, 1)),
            ("multilabel", torch.zeros(4, 1), torch.zeros(4), (4, 1)),
        ],
    )
    def test_a_dimension_of_one_does_not_matter(
        self, tmp_path: Path, task: str, logits: torch.Tensor, labels: torch.Tensor, shape: tuple[int, ...]
    ) -> None:
        """Labels as a column, and outputs as one."""
        with Recorder(tmp_path / "r.jsonl", task=task) as recorder:
            recorder.record(epoch=1, phase="train", inputs=torch.zeros(4, 2), logits=logits, labels=labels, ids=range(4))
        (batch,) = records(tmp_path / "r.jsonl", "batch", "numbers")
        assert (batch.labels if task == "classification" else batch.targets).shape == shape

    def test_one_sample_is_a_batch_of_one_and_none_is_no_batch(self, tmp_path: Path) -> None:
        """A loader without batches, and a filter that left nothing."""
        with Recorder(tmp_path / "r.jsonl") as recorder:
            recorder.record(
                epoch=1, phase="train", inputs=torch.zeros(2), logits=torch.zeros(3), labels=torch.tensor(1), ids="a"
            )
            recorder.record(
                epoch=1, phase="train", inputs=torch.zeros(0, 2), logits=torch.zeros(0, 3), labels=torch.zeros(0).long(), ids=[]
            )
        (batch,) = records(tmp_path / "r.jsonl", "batch")
        assert (batch.ids, list(batch.inputs.shape)) == (["a"], [2])

    @pytest.mark.parametrize("form", [lambda a, b: (a, b), lambda a, b: {"image": a, "more": [b]}])
    def test_digests_of_several_inputs_are_of_all_their_bytes(self, tmp_path: Path, form: Any) -> None:
        """A change in any of them changes the digest."""
        image, tokens = torch.rand(4, 3), torch.arange(8).reshape(4, 2)
        found = []
        for number, change in enumerate((0, 1)):
            with Recorder(tmp_path / f"{number}.jsonl") as recorder:
                recorder.record(**batch_of(4, 3) | {"inputs": form(image, tokens + torch.tensor([[0, 0], [0, change]] * 2))})
            found.append(records(tmp_path / f"{number}.jsonl", "batch")[0].inputs)
        assert (list(found[0].shape), found[0].dtype) == ([12 + 16], "uint8")
        assert [a == b for a, b in zip(found[0].digests, found[1].digests, strict=True)] == [True, False, True, False]


class TestSoftLabels:
    """Labels that are probabilities."""

    def test_the_label_is_the_most_probable_class(self, tmp_path: Path) -> None:
        """The losses of samples are plain, the loss of the batch is that of the soft labels."""
        batch, soft = batch_of(4, 3), torch.tensor([[0.7, 0.3, 0], [0, 0.5, 0.5], [0, 0, 1], [0.2, 0.2, 0.6]])
        with Recorder(tmp_path / "r.jsonl") as recorder:
            recorder.record(**batch | {"labels": soft})
        (found,) = records(tmp_path / "r.jsonl", "batch")
        assert found.labels.tolist() == [0, 1, 2, 2]
        assert found.losses == pytest.approx(F.cross_entropy(batch["logits"], torch.tensor([0, 1, 2, 2]), reduction="none"))
        assert found.loss == pytest.approx(F.cross_entropy(batch["logits"], soft).item())
        assert found.soft_labels["classes"] == [[0, 1, 2], [1, 2, 0], [2, 0, 1], [2, 0, 1]]
        assert np.allclose(found.soft_labels["weights"], [[0.7, 0.3, 0], [0.5, 0.5, 0], [1, 0, 0], [0.6, 0.2, 0.2]])
        assert verified(tmp_path / "r.jsonl") == "completed"

    def test_of_many_classes_the_most_probable_are_kept(self, tmp_path: Path) -> None:
        """Ten of them, as of the predictions."""
        with Recorder(tmp_path / "r.jsonl") as recorder:
            recorder.record(**batch_of(4, 300) | {"labels": torch.rand(4, 300).softmax(1)})
        (found,) = records(tmp_path / "r.jsonl", "batch")
        assert np.array(found.soft_labels["weights"]).shape == (4, 10)

    @pytest.mark.parametrize("criterion", [nn.CrossEntropyLoss(), nn.BCEWithLogitsLoss()])
    def test_a_watched_loss_function_may_take_them(self, tmp_path: Path, criterion: nn.Module) -> None:
        """Cross-entropy of mixed labels, and binary cross-entropy of one-hot ones."""
        targets = F.one_hot(torch.arange(12) % 3).float()
        model = nn.Linear(4, 3)
        with Recorder(tmp_path / "r.jsonl") as recorder:
            recorder.watch(criterion, model=model)
            for inputs, labels in recorder.loader(DataLoader(TensorDataset(torch.rand(12, 4), targets), batch_size=12)):
                loss = criterion(model(inputs), labels)
        (found,) = records(tmp_path / "r.jsonl", "batch")
        assert found.labels.tolist() == [0, 1, 2] * 4
        assert found.loss == pytest.approx(loss.item())


def test_samples_to_be_ignored_are_not_recorded(tmp_path: Path) -> None:
    """As the loss function ignores them; a batch of nothing else is no batch."""
    labels = torch.tensor([0, -100, 2, -100])
    with Recorder(tmp_path / "r.jsonl") as recorder:
        recorder.record(**batch_of(4, 3) | {"labels": labels, "files": list("abcd"), "extra": {"n": [1, 2, 3, 4]}})
        recorder.record(**batch_of(4, 3, first=4) | {"labels": torch.full((4,), -100)})
    (found,) = records(tmp_path / "r.jsonl", "batch")
    assert (found.ids, found.files, found.extra, found.labels.tolist()) == ([0, 2], ["a", "c"], {"n": [1, 3]}, [0, 2])
    assert found.loss == pytest.approx(F.cross_entropy(batch_of(4, 3)["logits"], labels).item())
    assert len(found.inputs.digests) == 2
