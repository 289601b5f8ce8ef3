"""Runs of the task `segmentation`, read: IoU by epoch, class and image, and records that contradict themselves."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - its name in every PyTorch program

from calling import Caller
from capture_cli import Recorder, open_run
from capture_cli.records import encode
from capture_cli.records.chain import GENESIS
from recordings import records
from test_masks import CLASSES, IGNORED, TinyUNet, scenes, train


def test_inspect_shows_iou_from_sums(tmp_path: Path, call: Caller) -> None:
    """Loss, pixel accuracy and mean IoU by epoch, IoU by class, and the worst images; IoU is summed before it is divided."""
    train(tmp_path / "r.jsonl", epochs=3)
    shown = call("inspect", "r.jsonl").out
    assert all(part in shown for part in ("train IoU", "highest loss", "of label"))
    found = json.loads(call("inspect", "r.jsonl", "--json").out)
    batches = [one for one in records(tmp_path / "r.jsonl", "measures") if one.epoch == 3]
    both = {one: [0, 0] for one in range(4)}
    for batch in batches:
        for row in zip(batch.present, batch.intersections, batch.unions, strict=True):
            for one, i, u in zip(*row, strict=True):
                both[one] = [both[one][0] + i, both[one][1] + u]
    ious = [i / u for i, u in both.values()]
    masks = found["phase"]["masks"]
    assert [one["iou"] for one in masks["classes"]] == pytest.approx(ious)
    assert masks["mean_iou"] == pytest.approx(sum(ious) / 4)
    assert found["epochs"][2]["train"]["mean_iou"] == pytest.approx(sum(ious) / 4)
    losses = {one["id"]: one["loss"] for one in found["phase"]["worst"]}
    assert list(losses.values()) == sorted(losses.values(), reverse=True)
    assert masks["ignored"] == 4 * 16


def test_rows_are_flat(tmp_path: Path, call: Caller) -> None:
    """One row an image and visit with its pixels, accuracy, mean IoU and loss, equal to the columns of `open_run`."""
    train(tmp_path / "r.jsonl", epochs=1)
    rows = [json.loads(line) for line in call("rows", "r.jsonl").out.splitlines()]
    assert list(rows[0])[4:] == ["id", "file", "counted", "ignored", "accuracy", "mean_iou", "loss"]
    with open_run(tmp_path / "r.jsonl") as run:
        table = run.to_pandas()
    for name in ("counted", "ignored", "accuracy", "mean_iou", "loss"):
        np.testing.assert_allclose([one[name] for one in rows], table[name])
    few = call("rows", "r.jsonl", "--where", "mean_iou < 0.1", "--columns", "file,mean_iou", "--csv").out
    assert len(few.splitlines()) == 1 + sum(one["mean_iou"] < 0.1 for one in rows)


@pytest.mark.parametrize("command", [["suspects"], ["inspect", "--dynamics"], ["rows", "--per", "sample"]])
def test_questions_about_one_label_a_sample_are_refused(tmp_path: Path, call: Caller, command: list[str]) -> None:
    """In a sentence, with exit code 2."""
    train(tmp_path / "r.jsonl", epochs=1)
    refused = call(*command[:1], "r.jsonl", *command[1:])
    assert (refused.code, refused.out) == (2, "")
    assert "the task of this run is segmentation" in refused.err


def test_diff_compares_losses_and_iou(tmp_path: Path, call: Caller) -> None:
    """Epoch by epoch, class by class and image by image; a gate can be put on mean IoU."""
    train(tmp_path / "a.jsonl", epochs=1)
    train(tmp_path / "b.jsonl", epochs=3)
    found = json.loads(call("diff", "a.jsonl", "b.jsonl", "--json").out)
    losses, epochs = found["losses"], found["epochs"]
    assert losses["both"] == 12
    assert losses["risen"]["count"] + losses["fallen"]["count"] == 12
    assert losses["mean_iou_a"] == epochs[0]["mean_iou_a"] == epochs[0]["mean_iou_b"]
    assert losses["mean_iou_b"] == epochs[2]["mean_iou_b"] > losses["mean_iou_a"]
    for one in losses["classes"]:
        assert one["change"] == pytest.approx(one["iou_b"] - one["iou_a"])
    shown = call("diff", "a.jsonl", "b.jsonl").out
    assert all(part in shown for part in ("mean IoU A", "lower loss", "IoU A"))
    assert call("diff", "a.jsonl", "b.jsonl", "--fail-if", "mean_iou_drop > 0").code == 0
    assert call("diff", "b.jsonl", "a.jsonl", "--fail-if", "mean_iou_drop > 0").code == 5


def test_rows_per_class_and_epoch_sum_the_pixels(tmp_path: Path, call: Caller) -> None:
    """The same IoU as in `inspect`."""
    train(tmp_path / "r.jsonl")
    classes = json.loads(call("inspect", "r.jsonl", "--json").out)["phase"]["masks"]["classes"]
    rows = [json.loads(line) for line in call("rows", "r.jsonl", "--per", "class", "--where", "epoch = 2").out.splitlines()]
    assert [(one["label"], one["iou"], one["labelled"]) for one in rows] == [
        (one["name"], one["iou"], one["labelled"]) for one in classes
    ]
    (last,) = [json.loads(line) for line in call("rows", "r.jsonl", "--per", "epoch", "--where", "epoch = 2").out.splitlines()]
    assert last["mean_iou"] == pytest.approx(sum(one["iou"] for one in classes) / 4)


def test_the_files_of_two_ranks_are_one_run(tmp_path: Path, call: Caller) -> None:
    """Their pixels are added up: IoU and accuracy are those of one process that saw all images."""
    images, masks = scenes(9)
    logits = TinyUNet(4)(images).detach()
    options: dict[str, Any] = {"task": "segmentation", "classes": CLASSES, "ignore_index": IGNORED}
    parts = {"whole": range(9), "records": range(4), "records-rank1": range(4, 9)}
    (tmp_path / "run").mkdir()
    for name, ids in parts.items():
        rows = list(ids)
        with Recorder(tmp_path / "run" / f"{name}.jsonl", **options) as recorder:
            given = {"inputs": images[rows], "logits": logits[rows], "labels": masks[rows], "ids": rows}
            recorder.record(epoch=1, phase="val", **given, numbers={"weight": torch.tensor(rows)})
    whole, both = (json.loads(call("inspect", name, "--json").out)["epochs"][0]["val"] for name in ("run/whole.jsonl", "run"))
    assert both["n"] == 9
    for name in ("loss", "accuracy", "mean_iou"):
        assert both[name] == pytest.approx(whole[name], rel=1e-6)
    assert both["numbers"] == {"weight": {"mean": 4.0, "n": 9}} == whole["numbers"]


def test_validation_is_judged_by_mean_iou(tmp_path: Path, call: Caller) -> None:
    """In the lesson of `inspect`, and as scalars of TensorBoard, with the named numbers."""
    _, masks = scenes(6)
    right = F.one_hot(masks.where(masks != IGNORED, 0), 4).movedim(-1, 1).float()
    with Recorder(tmp_path / "run", task="segmentation", ignore_index=IGNORED) as recorder:
        for epoch, share in ((1, 0.2), (2, 0.9), (3, 0.5)):
            noise = torch.rand(right.shape, generator=torch.Generator().manual_seed(0))
            given = {"inputs": right, "logits": share * right + (1 - share) * noise, "labels": masks, "ids": range(6)}
            for phase in ("train", "val"):
                recorder.record(epoch=epoch, phase=phase, **given, numbers={"dice": share})
    found = json.loads(call("inspect", "run", "--json").out)
    assert (found["best"]["metric"], found["best"]["epoch"]) == ("mean_iou", 2)
    assert "Best epoch 2 of 3 (mean IoU 1.000)" in call("inspect", "run").out
    assert call("log", "run", "--tensorboard").code == 0
    (event_file,) = (tmp_path / "run" / "tensorboard").iterdir()
    written = event_file.read_bytes()
    assert all(name in written for name in (b"val/mean_iou", b"val/dice", b"train/accuracy"))


@pytest.mark.parametrize("worse", [True, False])
def test_the_lesson_names_the_class_whose_masks_are_worst(tmp_path: Path, call: Caller, worse: bool) -> None:
    """And what its pixels are taken for; nothing where all classes are alike."""
    masks = torch.arange(4).repeat(4, 4, 1)
    preds = masks.clone()
    if worse:
        preds[:3, :, 2] = 1  # three of four pixels of cars are road
    logits = F.one_hot(preds, 4).movedim(-1, 1).float()
    with Recorder(tmp_path / "r.jsonl", task="segmentation", classes=CLASSES) as recorder:
        recorder.record(epoch=1, phase="val", inputs=logits, logits=logits, labels=masks, ids=range(4))
    found = [one for one in json.loads(call("inspect", "r.jsonl", "--json").out)["lesson"] if one["kind"] == "iou"]
    assert len(found) == worse
    for one in found:
        assert one["text"] == (
            "The masks of car are the worst in val: IoU 0.25, mean 0.71; 75% of its pixels are predicted as road."
        )
        assert "capture rows r.jsonl --per class" in one["command"]


@pytest.mark.parametrize(
    "change",
    [
        {"present": [[9]] * 2},
        {"confusions": [[[0, 7, 3]], []]},
        {"labelled": [[1], [2, 3, 4]]},
        {"unions": [["x"], [1, 2]]},
        {"unions": [[-1], [1, 2]]},
        {"counted": np.array([1, 2, 3])},
        {"losses": np.zeros(1, np.float32)},
        {"numbers": {"loss": np.zeros(2, np.float32)}},
        {"numbers": {"kl": np.zeros(3, np.float32)}},
        {"masks": {"labels": {"shape": "x"}}},
    ],
    ids=lambda change: " ".join(change),
)
def test_records_that_contradict_themselves_are_refused(tmp_path: Path, call: Caller, change: dict[str, Any]) -> None:
    """A line that verifies but makes no sense is named, with exit code 4, by every command that reads it."""
    masks = torch.tensor([[[0, 0]], [[0, 1]]])
    with Recorder(tmp_path / "good.jsonl", task="segmentation") as recorder:
        given = {"inputs": masks, "logits": F.one_hot(masks, 3).movedim(-1, 1).float(), "labels": masks, "ids": [0, 1]}
        recorder.record(epoch=1, phase="val", **given)
    lines, chain = [], GENESIS
    for seq, record in enumerate(records(tmp_path / "good.jsonl")):
        bad = replace(record, **change) if record.kind == "measures" else record
        line, chain = encode(bad, seq=seq, previous=chain)
        lines.append(line)
    (tmp_path / "bad.jsonl").write_bytes(b"".join(lines))
    for command in (["inspect"], ["inspect", "--json"], ["rows", "--per", "class"]):
        refused = call(command[0], "bad.jsonl", *command[1:])
        assert refused.code == 4, command
        assert "line 2" in refused.err
    assert call("rows", "bad.jsonl").code in (0, 4)  # only the columns that it reads are parsed
    assert call("diff", "good.jsonl", "bad.jsonl").code == 4
