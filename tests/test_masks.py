"""The task `segmentation`: a small U-Net recorded image by image, compared with plain counts."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - its name in every PyTorch program
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from capture_cli import Recorder
from capture_cli.errors import UsageError
from recordings import records, verified

CLASSES = ["sky", "road", "car", "tree"]
IGNORED = 255


class TinyUNet(nn.Module):
    """One step down, one up, and the skip between them."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.down, self.deep = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.up, self.head = nn.ConvTranspose2d(8, 8, 2, stride=2), nn.Conv2d(16, classes, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits [B, C, H, W]."""
        wide = self.down(images).relu()
        deep = self.deep(F.max_pool2d(wide, 2)).relu()
        return self.head(torch.cat([wide, self.up(deep)], 1))


def scenes(n: int, *, size: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images [N, 3, S, S] and the masks [N, S, S] that their brightness shows; some pixels are ignored."""
    generator = torch.Generator().manual_seed(0)
    masks = torch.randint(4, (n, size // 4, size // 4), generator=generator).repeat_interleave(4, 1).repeat_interleave(4, 2)
    images = masks[:, None] / 4 + 0.1 * torch.rand(n, 3, size, size, generator=generator)
    masks[::3, 0] = IGNORED
    return images, masks


def train(path: Path, *, epochs: int = 2, watch: bool = False, **options: Any) -> None:
    """Train on 12 scenes in batches of 4."""
    torch.manual_seed(0)
    net, criterion = TinyUNet(4), nn.CrossEntropyLoss(ignore_index=IGNORED)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    loader: Any = DataLoader(TensorDataset(*scenes(12)), batch_size=4)
    with Recorder(path, task="segmentation", classes=CLASSES, ignore_index=IGNORED, **options) as recorder:
        if watch:
            recorder.watch(criterion, model=net)
            loader = recorder.loader(loader)
        for epoch in range(1, epochs + 1):
            for number, (images, masks) in enumerate(loader):
                logits = net(images)
                loss = criterion(logits, masks)
                if not watch:
                    ids = list(range(4 * number, 4 * number + 4))
                    recorder.record(epoch=epoch, phase="train", inputs=images, logits=logits, labels=masks, ids=ids, loss=loss)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()


def counts_of(preds: torch.Tensor, mask: torch.Tensor) -> dict[int, tuple[int, int, int]]:
    """Labelled, intersection and union of each class of one image, pixel set by pixel set."""
    valid = mask != IGNORED
    found = {}
    for one in range(4):
        own, said = (mask == one) & valid, (preds == one) & valid
        if (own | said).any():
            found[one] = (int(own.sum()), int((own & said).sum()), int((own | said).sum()))
    return found


def test_each_image_has_its_loss_and_the_pixels_of_its_classes(tmp_path: Path) -> None:
    """Losses, intersections, unions and confusions are those of plain PyTorch, image by image; the loss is the criterion's."""
    images, masks = scenes(6)
    logits = TinyUNet(4)(images)
    loss = F.cross_entropy(logits, masks, ignore_index=IGNORED)
    with Recorder(tmp_path / "r.jsonl", task="segmentation", ignore_index=IGNORED) as recorder:
        recorder.record(epoch=1, phase="val", inputs=images, logits=logits, labels=masks, ids=list(range(6)), loss=loss)
    batch, totals = records(tmp_path / "r.jsonl", "measures", "epoch")
    preds = logits.argmax(1)
    assert batch.loss == pytest.approx(loss.item(), rel=1e-6)
    for i in range(6):
        plain = F.cross_entropy(logits[i : i + 1], masks[i : i + 1], ignore_index=IGNORED).item()
        assert batch.losses[i] == pytest.approx(plain, rel=1e-5)
        columns = (batch.present[i], batch.labelled[i], batch.intersections[i], batch.unions[i])
        assert {one: tuple(rest) for one, *rest in zip(*columns, strict=True)} == counts_of(preds[i], masks[i])
        valid = masks[i] != IGNORED
        assert (batch.counted[i], batch.ignored[i]) == (int(valid.sum()), int((~valid).sum()))
        assert batch.correct[i] == int((preds[i] == masks[i])[valid].sum())
        for label, pred, pixels in batch.confusions[i]:
            assert pixels == int(((masks[i] == label) & (preds[i] == pred)).sum())
        assert sum(pixels for _, _, pixels in batch.confusions[i]) == batch.counted[i] - batch.correct[i]
    assert totals.accuracy == batch.correct.sum() / batch.counted.sum()
    assert totals.loss == pytest.approx(float(batch.losses.mean()), rel=1e-6)
    assert sum(totals.class_counts["correct"]) == batch.correct.sum()


def test_watching_records_what_record_does(tmp_path: Path) -> None:
    """A watched cross-entropy over masks writes the same batches, byte for byte, as calls of `record`."""
    train(tmp_path / "a.jsonl")
    train(tmp_path / "b.jsonl", watch=True)
    assert verified(tmp_path / "a.jsonl") == "completed"
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()


def test_an_image_costs_about_a_kilobyte(tmp_path: Path) -> None:
    """Also of 512 x 512 pixels and 21 classes that all occur: pixels are counted, not listed."""
    logits, masks = torch.randn(2, 21, 512, 512), torch.randint(21, (2, 512, 512))
    with Recorder(tmp_path / "r.jsonl", task="segmentation") as recorder:
        recorder.record(
            epoch=1, phase="val", inputs=torch.rand(2, 3, 512, 512), logits=logits, labels=masks, ids=["a.png", "b.png"]
        )
    (line,) = [line for line in (tmp_path / "r.jsonl").read_bytes().splitlines() if b'"kind":"measures"' in line]
    assert len(line) / 2 < 1300
    (batch,) = records(tmp_path / "r.jsonl", "measures")
    assert batch.confusions_omitted[0] + sum(n for *_, n in batch.confusions[0]) == batch.counted[0] - batch.correct[0]


@pytest.mark.parametrize("classes", [3, 1200])
def test_many_classes_are_counted_like_few(tmp_path: Path, classes: int) -> None:
    """On the host as where the tensors are: 1,200 classes have too many pairs for the one."""
    generator = torch.Generator().manual_seed(1)
    masks = torch.randint(3, (2, 6, 6), generator=generator)
    logits = F.one_hot(masks.roll(1, 2), classes).movedim(-1, 1).float() * 9
    masks[0, 0] = 2
    options = {"task": "segmentation", "ignore_index": 2}
    with Recorder(tmp_path / "r.jsonl", **options) as recorder:  # type: ignore[arg-type]
        recorder.record(epoch=1, phase="val", inputs=masks, logits=logits, labels=masks, ids=[0, 1])
    (batch,) = records(tmp_path / "r.jsonl", "measures")
    valid = masks != 2
    assert batch.correct.tolist() == ((logits.argmax(1) == masks) & valid).flatten(1).sum(1).tolist()
    assert batch.ignored.tolist() == (~valid).flatten(1).sum(1).tolist()
    assert [sum(row) for row in batch.labelled] == batch.counted.tolist()


def test_one_logit_a_pixel_is_two_classes(tmp_path: Path) -> None:
    """Binary masks, with BCEWithLogitsLoss and labels as floats, have the loss of the binary cross-entropy."""
    logits, masks = torch.randn(3, 1, 8, 8), (torch.rand(3, 1, 8, 8) > 0.5).float()
    with Recorder(tmp_path / "r.jsonl", task="segmentation", classes=["ground", "lesion"]) as recorder:
        recorder.record(epoch=1, phase="val", inputs=logits, logits=logits, labels=masks, ids=[0, 1, 2])
        with pytest.raises(UsageError, match="none of the 2 classes"):
            recorder.record(epoch=1, phase="val", inputs=logits, logits=logits, labels=masks * 0.5, ids=[3, 4, 5])
    (batch,) = records(tmp_path / "r.jsonl", "measures")
    plain = F.binary_cross_entropy_with_logits(logits, masks, reduction="none").flatten(1).mean(1)
    np.testing.assert_allclose(batch.losses, plain.numpy(), rtol=1e-5)
    assert batch.correct.tolist() == ((logits > 0) == (masks > 0.5)).flatten(1).sum(1).tolist()


def test_an_image_without_counted_pixels_counts_nowhere(tmp_path: Path) -> None:
    """It is recorded, with loss 0, and the means are those of the others."""
    logits, masks = torch.randn(2, 3, 4, 4), torch.randint(3, (2, 4, 4))
    masks[0] = -100
    with Recorder(tmp_path / "r.jsonl", task="segmentation") as recorder:
        recorder.record(epoch=1, phase="val", inputs=logits, logits=logits, labels=masks, ids=[0, 1])
    batch, totals = records(tmp_path / "r.jsonl", "measures", "epoch")
    assert (batch.losses[0], batch.counted[0], batch.present[0], totals.n) == (0, 0, [], 1)
    assert [totals.loss, batch.loss] == pytest.approx([float(batch.losses[1])] * 2, rel=1e-6)


def test_masks_are_kept_once_each(tmp_path: Path) -> None:
    """With `masks=True` labels and predictions can be read back; the labels of a second epoch take no more room."""
    train(tmp_path / "run", masks=True)
    batches = records(tmp_path / "run" / "records.jsonl", "measures")
    _, masks = scenes(12)
    pack = (tmp_path / "run" / "inputs" / "masks.bin").read_bytes()
    for batch in batches:
        kept = batch.masks["labels"]
        for i, offset in zip(batch.ids, kept["stored"]["offsets"], strict=True):
            mask = np.frombuffer(pack[offset : offset + 256], kept["dtype"]).reshape(kept["shape"])
            np.testing.assert_array_equal(mask, masks[i].numpy())
    first, second = (one.masks["labels"]["stored"]["offsets"] for one in (batches[0], batches[3]))
    assert first == second
    with pytest.raises(UsageError, match="masks=True"):
        Recorder(tmp_path / "r.jsonl", task="segmentation", masks=True)


def test_a_run_that_was_interrupted_continues_to_the_same_sums(tmp_path: Path) -> None:
    """`append=True` counts the pixels of what is there."""
    images, masks = scenes(8)
    logits = TinyUNet(4)(images).detach()

    def record(recorder: Recorder, first: int) -> None:
        part = slice(first, first + 4)
        ids = list(range(first, first + 4))
        recorder.record(epoch=1, phase="val", inputs=images[part], logits=logits[part], labels=masks[part], ids=ids)

    options: dict[str, Any] = {"task": "segmentation", "ignore_index": IGNORED}
    with Recorder(tmp_path / "whole.jsonl", **options) as recorder:
        record(recorder, 0)
        record(recorder, 4)
    with Recorder(tmp_path / "parts.jsonl", **options) as recorder:
        record(recorder, 0)
        recorder.close("interrupted")
    with Recorder(tmp_path / "parts.jsonl", append=True, **options) as recorder:
        record(recorder, 4)
    whole, parts = (records(tmp_path / f"{name}.jsonl", "epoch") for name in ("whole", "parts"))
    assert parts[-1].class_counts == whole[-1].class_counts
    assert parts[-1].accuracy == whole[-1].accuracy
    assert parts[-1].loss == pytest.approx(whole[-1].loss)


@pytest.mark.parametrize(
    ("task", "change", "message"),
    [
        ("classification", {}, r'these tensors fit Recorder\(task="segmentation"\)'),
        ("sequence", {}, r'these tensors fit Recorder\(task="segmentation"\)'),
        ("segmentation", {"labels": torch.zeros(2, 5, 4, dtype=torch.int64)}, "do not fit together"),
        ("segmentation", {"labels": torch.full((2, 4, 4), 9)}, "16 pixels of image 0 have labels that are none"),
        ("segmentation", {"logits": torch.full((2, 3, 4, 4), torch.nan)}, "losses are NaN: 2 of 2"),
        ("segmentation", {"losses": torch.rand(2, 3)}, "not one per sample"),
    ],
)
def test_what_does_not_fit_is_said(tmp_path: Path, task: str, change: dict[str, Any], message: str) -> None:
    """Four-dimensional logits are never recorded as something else."""
    logits = torch.randn(2, 3, 4, 4)
    given = {"inputs": logits, "logits": logits, "labels": torch.zeros(2, 4, 4, dtype=torch.int64), "ids": [0, 1]} | change
    with Recorder(tmp_path / "r.jsonl", task=task) as recorder, pytest.raises(UsageError) as caught:
        recorder.record(epoch=1, phase="train", **given)
    assert re.search(message, str(caught.value))
    assert not records(tmp_path / "r.jsonl", "measures", "batch")


def test_skipped_batches_count_in_the_sums(tmp_path: Path) -> None:
    """With `every=2` half of the batches are recorded, and the pixels of all are in the totals."""
    train(tmp_path / "all.jsonl", epochs=1)
    train(tmp_path / "half.jsonl", epochs=1, every=2)
    whole, half = (records(tmp_path / f"{name}.jsonl", "epoch")[0] for name in ("all", "half"))
    assert (half.captured, half.not_captured) == (8, 4)
    assert (half.class_counts, half.loss, half.accuracy) == (whole.class_counts, whole.loss, whole.accuracy)
