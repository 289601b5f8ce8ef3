"""Columns of records of the kind `measures`, for capture_cli.runs.visits: counts of pixels by class, and numbers by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from capture_cli.records import Batch, Measures

if TYPE_CHECKING:
    from capture_cli.records import Floats, Ints
    from capture_cli.runs.visits import Visits

SEGMENTATION, LOSS = "segmentation", "loss"
MEASURE_TASKS = (SEGMENTATION, LOSS)
"""Tasks whose batches are `measures`."""
_LOSS = re.compile(rb'"loss":([-+.0-9eE]{1,40}|null),')


def fits(batch: Measures, task: str | None, classes: int) -> bool:
    """Tell if a batch fits the task and the classes of its run."""
    if batch.present is None:
        return task == LOSS
    named = [*batch.present, *(pair[:2] for row in batch.confusions or () for pair in row)]
    return task == SEGMENTATION and all(0 <= one < classes for row in named for one in row)


def has_losses(visits: Visits) -> bool:
    """Tell if the first of these batches has a loss for each sample, and not only one for the whole."""
    return visits.info.task != LOSS or not visits.lines or visits.lines[0].has_column("losses")


def lacks_losses(visits: Visits) -> bool:
    """Tell if some of these batches have only a loss for the whole."""
    return visits.info.task == LOSS and not all(line.has_column("losses") for line in visits.lines)


def losses_or_nan(visits: Visits) -> tuple[list[int], Floats]:
    """The number of samples of each batch, and their losses, NaN where only that of the batch is known."""
    ids = visits.loaded("ids", [line.column("ids") for line in visits.lines])
    known = [line.has_column("losses") for line in visits.lines]
    columns = visits.loaded(
        "losses", [line.column("losses") if has else b"[]" for line, has in zip(visits.lines, known, strict=True)]
    )
    filled = [column if has else [None] * len(own) for column, has, own in zip(columns, known, ids, strict=True)]
    sizes = list(map(len, ids))
    visits.demand(list(map(len, filled)) == sizes, "losses")
    return sizes, visits.array("losses", list(chain.from_iterable(filled)), np.float32)


def reader(visits: Visits, name: str) -> Callable[[], Any] | None:
    """Return the reader of a column that only runs with measures or named numbers have; None for any other."""
    if name in (visits.info.number_names or ()):
        return partial(_number, visits, name)
    found = _READERS.get(name) if visits.info.task in MEASURE_TASKS and name in visits.names else None
    return found and partial(found, visits)


def _batch_loss(visits: Visits) -> Floats:
    """Without parsing the records; NaN where it was not finite."""
    found = [_LOSS.search(line.block, line.start, min(line.end, line.start + 512)) for line in visits.lines]
    losses = [np.nan if one is None or one[1] == b"null" else float(one[1]) for one in found]
    return np.repeat(np.array(losses, np.float32), np.diff(visits.starts))


def _accuracy(visits: Visits) -> Floats:
    counted = visits["counted"]
    shares = visits.of_rows("correct", np.int64) / np.maximum(counted, 1)
    return np.where(counted > 0, shares, np.nan).astype(np.float32)


def _mean_iou(visits: Visits) -> Floats:
    """Over the classes that an image has, as a label or a prediction; NaN for one without any."""
    columns = [
        list(chain.from_iterable(visits.loaded(name, [one.table(name) for one in visits.lines])))
        for name in ("intersections", "unions")
    ]
    visits.demand(all(len(one) == len(visits) for one in columns), "unions")
    rows = list(zip(*columns, strict=True))
    visits.demand(all(type(one) is list and set(map(type, one)) <= {int} for pair in rows for one in pair), "unions")
    means = [np.mean(np.array(i, np.float64) / np.maximum(u, 1)) if i and len(i) == len(u) else np.nan for i, u in rows]
    return np.array(means, np.float32)


def _number(visits: Visits, name: str) -> Floats:
    """One of the whole batch stands in each of its rows; NaN where a batch does not have it."""
    values = [np.zeros(0, np.float32)]
    for number, n in enumerate(np.diff(visits.starts).tolist()):
        batch = visits.record(number)
        found: Any = (batch.numbers or {}).get(name)
        found = (batch.batch_numbers or {}).get(name, np.nan) if found is None else found
        if isinstance(found, np.ndarray) and isinstance(batch, Batch) and batch.sequences is not None:
            found = np.repeat(found, batch.sequences["n_valid"])
        values.append(np.broadcast_to(np.asarray(found, np.float32), n))
    return np.concatenate(values)


_READERS: dict[str, Callable[[Visits], Any]] = {
    "batch_loss": _batch_loss,
    "counted": lambda visits: visits.of_rows("counted", np.int64),
    "ignored": lambda visits: visits.of_rows("ignored", np.int64),
    "accuracy": _accuracy,
    "mean_iou": _mean_iou,
}


def class_pixels(batch: Measures, classes: int) -> Ints:
    """The pixels of a batch by class: [3, C] labelled, predicted and correct."""
    counts = np.zeros((3, classes), np.int64)
    columns = (batch.present or (), batch.labelled or (), batch.unions or (), batch.intersections or ())
    for present, labelled, unions, right in zip(*columns, strict=True):
        own, both = np.array(labelled, np.int64), np.array(right, np.int64)
        counts[:, present] += np.stack([own, np.array(unions, np.int64) + both - own, both])
    return counts
