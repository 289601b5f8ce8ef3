"""Runs for tests of reading: realistic records without any training.

    records = run_records(classes=("cat", "dog"), epochs=2)     # Run, Samples, Batch, Epoch, ..., End
    path = write_run(tmp_path / "run", records)                 # a run folder with records.jsonl
    lines = chained(records)                                    # the same as a list of lines, newline included

A sample's logits drift towards its label from epoch to epoch, so that there is something to be found: most samples are
right in the end, some never are.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from capture_cli.records import Batch, End, Epoch, Inputs, Numbers, Record, RunInfo, Samples, Skip, encode
from capture_cli.records.chain import GENESIS, link

ANIMALS = ("cat", "dog", "great pyrenees")


def run_records(
    *,
    classes: Sequence[str] = ANIMALS,
    per_class: int = 12,
    files: Sequence[str] | None = None,
    epochs: int = 2,
    batch_size: int = 8,
    val_every: int = 4,
    top_k: int | None = None,
    status: str | None = "completed",
    seed: int = 0,
    folder: str = "photos",
    skips: int = 1,
    digests: Sequence[str] | None = None,
) -> Iterator[Record]:
    """Yield what a run writes. Every `val_every`-th sample is in the val split (0: none); `status` None: no end line."""
    rng = np.random.default_rng(seed)
    n = len(files) if files is not None else per_class * len(classes)
    labels = np.arange(n) % len(classes)
    names = list(files) if files is not None else [f"{classes[k]}_{i // len(classes):04d}.png" for i, k in enumerate(labels)]
    counts: Counter[str] = Counter()
    is_val = np.arange(n) % val_every == val_every - 1 if val_every else np.zeros(n, bool)
    for record in _head(classes, folder, batch_size, epochs, skips, seed):
        counts[record.kind] += 1
        yield record
    announced = False
    skill = rng.normal(1.0, 1.0, n)
    step = 0
    for epoch in range(epochs):
        for phase, member in (("train", ~is_val), ("val", is_val)):
            ids = np.flatnonzero(member)
            if phase == "train":
                ids = rng.permutation(ids)
            sums: list[tuple[float, int]] = []
            for number, start in enumerate(range(0, len(ids), batch_size)):
                chosen = ids[start : start + batch_size]
                if not announced:
                    for samples in _samples(np.arange(n), names, labels, is_val, digests):
                        counts["samples"] += 1
                        yield samples
                    announced = True
                batch = _batch(rng, chosen, names, labels, len(classes), skill * (epoch + 1), top_k)
                sums += zip(batch.losses.tolist(), (batch.preds == batch.labels).tolist(), strict=True)
                counts["batch"] += 1
                yield replace(batch, phase=phase, epoch=epoch, batch=number, step=step, lr=1e-3 if phase == "train" else None)
                step += phase == "train"
            if sums:
                counts["epoch"] += 1
                loss, accuracy = (float(mean) for mean in np.mean(sums, axis=0))
                size = len(sums)
                yield Epoch(phase=phase, epoch=epoch, n=size, loss=loss, accuracy=accuracy, captured=size, not_captured=0)
    if status is not None:
        yield End(status=status, counts=dict(counts))


def _head(classes: Sequence[str], folder: str, batch_size: int, epochs: int, skips: int, seed: int) -> Iterator[Record]:
    yield RunInfo(
        config={"epochs": epochs, "batch_size": batch_size, "lr": 1e-3, "opt": "adamw", "seed": seed},
        folder=folder,
        classes=list(classes),
        model={"name": "cnn", "parameters": 12345},
        recipe={"height": 8, "width": 8, "channels": 3},
        versions={"python": "3.11.7", "torch": "2.15.0", "capture": "0.1.0"},
        device="cpu",
        threads=1,
    )
    for number in range(skips):
        yield Skip(file=f"broken_{number}.png", reason="truncated", detail="the file ends early")


def _samples(
    ids: np.ndarray, names: Sequence[str], labels: np.ndarray, is_val: np.ndarray, digests: Sequence[str] | None
) -> Iterator[Samples]:
    for start in range(0, len(ids), 1024):
        part = ids[start : start + 1024].tolist()
        yield Samples(
            ids=part,
            files=[names[i] for i in part],
            labels=[int(labels[i]) for i in part],
            splits=["val" if is_val[i] else "train" for i in part],
            sizes=[100 + i for i in part],
            digests=[digests[i] if digests else hashlib.blake2b(b"%d" % i, digest_size=16).hexdigest() for i in part],
        )


def _batch(
    rng: np.random.Generator,
    ids: np.ndarray,
    names: Sequence[str],
    labels: np.ndarray,
    classes: int,
    skill: np.ndarray,
    top_k: int | None,
) -> Batch:
    logits = rng.normal(0, 1.5, (len(ids), classes))
    logits[np.arange(len(ids)), labels[ids]] += skill[ids]
    logits -= np.log(np.exp(logits).sum(1, keepdims=True))
    probs = np.exp(logits).astype(np.float32)
    losses = -logits[np.arange(len(ids)), labels[ids]].astype(np.float32)
    kept = None if top_k is None else np.argsort(-probs, axis=1, kind="stable")[:, :top_k].copy()
    return Batch(
        phase="",
        epoch=0,
        batch=0,
        step=0,
        loss=float(losses.mean()),
        lr=None,
        ids=ids,
        files=[names[i] for i in ids],
        labels=labels[ids],
        preds=probs.argmax(1),
        losses=losses,
        probs=probs if kept is None else np.ascontiguousarray(np.take_along_axis(probs, kept, 1)),
        topk=kept,
        p_labels=None if kept is None else probs[np.arange(len(ids)), labels[ids]],
        probs_omitted=None if top_k is None else classes - top_k,
        inputs=Inputs(
            shape=[3, 8, 8],
            dtype="float32",
            digests=[hashlib.blake2b(b"input %d" % i, digest_size=8).hexdigest() for i in ids.tolist()],
            not_stored=len(ids),
        ),
    )


def chained(records: Iterable[Record]) -> list[bytes]:
    """Encode `records` as consecutive lines from seq 0, newline included."""
    return list(_encoded(records))


def _encoded(records: Iterable[Record]) -> Iterator[bytes]:
    chain = GENESIS
    for seq, record in enumerate(records):
        line, chain = encode(record, seq=seq, previous=chain)
        yield line


def body(line: bytes) -> bytes:
    """Return the part of a line that the chain covers."""
    return line[: line.rindex(b',"chain":"')]


def rechained(bodies: Iterable[bytes]) -> list[bytes]:
    """Chain lines again, given their text up to the chain: damage that the chain does not show."""
    chain, lines = GENESIS, []
    for body in bodies:
        chain = link(chain, body)
        lines.append(b'%b,"chain":"%b"}\n' % (body, chain.hex().encode()))
    return lines


def write_run(folder: Path, records: Iterable[Record] | None = None) -> Path:
    """Make a run folder with records.jsonl (by default of a small run) and return the folder."""
    folder.mkdir(parents=True)
    with (folder / "records.jsonl").open("wb") as file:
        file.writelines(_encoded(run_records() if records is None else records))
    return folder


def task_records(
    task: str | None, *, text_ids: bool = True, extra: bool = True, files: bool = False, epochs: int = 2, seed: int = 0
) -> Iterator[Record]:
    """Yield what a Recorder in your own loop writes: no samples records, ids as names, the columns of `task`."""
    rng = np.random.default_rng(seed)
    yield RunInfo(
        config={}, folder="", classes=["a", "b", "é"], task=task, model={}, recipe={}, versions={}, device="cpu", threads=1
    )
    counts = Counter({"run": 1})
    for epoch in range(epochs):
        for phase in ("train", "val"):
            n = 0
            for number in range(3):
                header = {"phase": phase, "epoch": epoch, "batch": number, "step": 3 * epoch + number, "loss": 1.5, "lr": None}
                names = [
                    f"{phase}-{number}-{i} \udce9" if text_ids else 4 * number + i + 100 * (phase == "val") for i in range(4)
                ]
                beside = {"source": [f'text {i}, "\\ \udce9' for i in range(4)], "n": [1, None, [2.5], {"x": "y"}]}
                digests = [f"{i:016x}" for i in range(4)]
                record = _task_batch(rng, task, names, empty=number == 2 and task == "sequence")
                record |= {"extra": beside if extra else None, "inputs": Inputs(shape=[5], dtype="int64", digests=digests)}
                record |= {"files": [f"{one}.txt" for one in record["ids"]]} if files else {}
                kind = Batch if task in (None, "sequence") else Numbers
                counts[kind.kind] += 1
                n += len(record["losses"])
                yield kind(**header, **record)
            counts["epoch"] += 1
            accuracy = None if task == "regression" else 0.5
            yield Epoch(phase=phase, epoch=epoch, n=n, loss=1.0, accuracy=accuracy, captured=n, not_captured=0)
    yield End(status="completed", counts=dict(counts))


def _task_batch(rng: np.random.Generator, task: str | None, names: list[Any], *, empty: bool) -> dict[str, Any]:
    """Return the columns of four samples: for sequences of 5, 3, 0 and 1 positions, or none at all."""
    if task in ("multilabel", "regression"):
        outputs = rng.random((4, 3)).astype(np.float32)
        targets = (rng.random((4, 3)) > 0.5).astype(np.float32) if task == "multilabel" else -outputs
        return {"ids": names, "targets": targets, "outputs": outputs, "losses": rng.random(4).astype(np.float32)}
    beside: dict[str, Any] = {}
    counted = [0, 0, 0, 0] if empty else [5, 3, 0, 1]
    if task == "sequence":
        beside["sequences"] = {"ids": names, "padded_length": 5, "n_valid": counted, "ignore_index": -100}
        beside["positions"] = np.array([i for one in counted for i in range(one)], np.int64)
        names = [name for name, one in zip(names, counted, strict=True) for _ in range(one)]
    logits = rng.normal(size=(len(names), 3))
    probs = (np.exp(logits) / np.exp(logits).sum(1, keepdims=True)).astype(np.float32)
    labels = rng.integers(3, size=len(names))
    losses = -np.log(probs[np.arange(len(names)), labels])
    return {"ids": names, **beside, "labels": labels, "preds": probs.argmax(1), "losses": losses, "probs": probs}
