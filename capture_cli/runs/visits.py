"""Visits as NumPy columns: consecutive batches of one phase and epoch, one row per sample and visit.

    visits["loss"]              # float32 [N], in nats
    visits["label"]             # int64 [N], positions in visits.info.classes
    visits.starts               # int64 [B+1]: batch i has the rows starts[i] to starts[i + 1]

A column is found in the bytes of its line and parsed on first use; the rest of the line is not parsed. Columns of one record
with different lengths, and class numbers out of range, raise RecordsError.

    column              dtype, shape        tasks
    batch, step         int64 [N]           all; counted from 0
    id                  int64 or object [N] all; object if ids are text
    file                object [N]          all; the id as text if samples have no files
    position            int64 [N]           sequence; place in the sequence, from 0
    label, pred         int64 [N]           classification, sequence; label NO_LABEL where a sample has none
    correct             bool [N]            all with predictions but regression; False where the loss is not finite, or there
                                            is no label
    p_label, p_pred     float32 [N]         classification, sequence; p_label NaN where there is no label
    margin              float32 [N]         classification, sequence; in nats, see `margins`
    loss                float32 [N]         all; nats (regression: squared error)
    batch_loss          float32 [N]         loss; that of the whole batch
    probs               float32 [N, C or K] classification, sequence; with `topk`, the K largest, descending
    topk                int64 [N, K]        the classes of `probs`, only if not all were kept
    targets, outputs    float32 [N, K]      multilabel, regression
    counted, ignored    int64 [N]           segmentation; pixels
    accuracy, mean_iou  float32 [N]         segmentation; of an image's pixels, and over the classes that it has
    a named number      float32 [N]         all; those of `info.number_names`
    extra               object [N]          the values passed as `extra=`: a dict, or None

A number that was not finite reads as NaN.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt
import orjson

from capture_cli.errors import RecordsError, UsageError, did_you_mean
from capture_cli.records import NO_LABEL, AnyBatch, Batch, Measures, Numbers, RunInfo
from capture_cli.records.values import loads
from capture_cli.runs import masks

if TYPE_CHECKING:
    from capture_cli.runs.lines import Line

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
T = TypeVar("T", np.float32, np.int64)

SMALLEST = float(np.finfo(np.float32).smallest_subnormal)
"""The smallest float32 above 0, about 1.4e-45: stands for a probability of 0 in a margin."""
NUMBER_TASKS = ("multilabel", "regression")
"""Tasks whose targets are numbers."""
_EVERY_TASK = ("batch", "step", "id", "file")
_CLASSES = ("label", "pred", "correct", "p_label", "p_pred", "margin", "loss")
_BATCH_AND_STEP = re.compile(rb'"batch":([0-9]{1,18}),"step":([0-9]{1,18}),')
_AFTER_FILES = (
    *(b'],"positions":[', b'],"labels":[', b'],"targets":[', b'],"losses":[', b'],"extra":{', b'],"numbers":{'),
    *(b'],"batch_numbers":{', b'],"inputs":{'),
)
_COLUMNS = {
    **dict.fromkeys(NUMBER_TASKS, ("targets", "outputs", "correct", "loss")),
    masks.SEGMENTATION: ("counted", "ignored", "accuracy", "mean_iou", "loss"),
    masks.LOSS: ("loss", "batch_loss"),
    "sequence": ("position", *_CLASSES),
}


def column_names(task: str | None, numbers: Sequence[str] = ()) -> tuple[str, ...]:
    """Columns with one plain value a row, as tables order them; `numbers` are the named numbers of the run."""
    return (*_EVERY_TASK, *_COLUMNS.get(task or "", _CLASSES), *numbers)


def predicts_classes(task: str | None) -> bool:
    """Tell if each row of a task has one label and one predicted class."""
    return task in (None, "sequence")


def margins(losses: Floats, labels: Ints, probs: Floats, topk: Ints | None) -> Floats:
    """Compute margins [N] in nats: the logit of the label minus the highest logit of another class.

        margin = logit[label] - max(logit[k] for k != label) = -loss - ln max(p[k] for k != label)

    Positive if the prediction is right, near 0 if it is a toss-up. The loss keeps its digits where p[label] has none left. A
    probability of 0 counts as SMALLEST, so a margin is at most about 103.3. NaN if no other class was kept, or if the loss or
    the probabilities are not finite.
    """
    rows = np.arange(len(labels))
    if topk is None:
        others = probs.copy()
        others[rows, labels] = -1.0
    else:
        others = np.where(topk == labels[:, None], np.float32(-1.0), probs)
    best = others.max(axis=1, initial=-1.0).astype(np.float64)
    with np.errstate(invalid="ignore"):
        found = -losses.astype(np.float64) - np.log(np.maximum(best, SMALLEST))
    return np.where((best < 0) | ~np.isfinite(found), np.nan, found).astype(np.float32)


class Visits:
    """Consecutive batches of one phase and epoch as columns, listed above."""

    def __init__(self, info: RunInfo, phase: str, epoch: int, lines: Sequence[Line], *, name: str) -> None:
        """`lines` are verified batch lines; `name` names the run in errors."""
        self.info = info
        """The run record in force."""
        self.phase = phase
        self.epoch = epoch
        self.lines = lines
        self._name = name
        self._columns: dict[str, Array] = {}

    def __len__(self) -> int:
        """The number N of rows."""
        return int(self.starts[-1])

    @property
    def size_bytes(self) -> int:
        """Length of the lines in bytes."""
        return sum(line.end - line.start for line in self.lines)

    @cached_property
    def starts(self) -> Ints:
        """First row of each batch, and N: int64 [B+1]."""
        self["loss"]
        return self._starts

    def __contains__(self, name: str) -> bool:
        """Tell if there is such a column."""
        return name in self.names or (name == "topk" and self._has_topk)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Columns of the run's task, `topk` and `extra` aside."""
        known = column_names(self.info.task, self.info.number_names or ())
        known += ("probs",) if predicts_classes(self.info.task) else ()
        return tuple(name for name in known if name != "correct" or self.info.task != "regression")

    def __getitem__(self, name: str) -> Array:
        """One column, parsed on first use. Raises UsageError if the task has no such column, RecordsError for a bad record."""
        if name not in self._columns:
            reader = masks.reader(self, name)
            if reader is None and name in (*self.names, "topk", "extra"):
                reader = getattr(self, f"_{name}", None)
            if reader is None:
                hint = did_you_mean(name, self.names, f"the columns are {', '.join(self.names)}")
                raise UsageError(f"no column '{name}' in {self._name}", hint)
            try:
                self._columns[name] = reader()
            except RecordsError as error:
                raise self._located(error) from error
        return self._columns[name]

    def batch(self, number: int) -> Visits:
        """One of the batches, by its position in the block, as a block of its own."""
        return Visits(self.info, self.phase, self.epoch, [self.lines[number]], name=self._name)

    def batches_with(self, ids: Collection[int | str]) -> Iterator[Visits]:
        """The batches that hold one of these samples, as blocks of their own. Only ids are parsed. Raises RecordsError."""
        wanted = set(ids)
        try:
            found = [
                not wanted.isdisjoint(column) for column in self.loaded("ids", [line.column("ids") for line in self.lines])
            ]
        except TypeError as error:  # not hashable: no ids
            raise self.error("a batch record whose ids are neither numbers nor texts") from error
        except RecordsError as error:
            raise self._located(error) from error
        return (self.batch(number) for number, holds in enumerate(found) if holds)

    def record(self, batch: int) -> AnyBatch:
        """Decode and check the record of one of the batches, by its position in the block. Raises RecordsError."""
        line = self.lines[batch]
        try:
            record = line.record()
        except RecordsError as error:
            raise self._located(error) from error
        classes = len(self.info.classes)
        if isinstance(record, Numbers):
            fits = self.info.task in NUMBER_TASKS and (not len(record.losses) or record.outputs.shape[1] == classes)
        elif isinstance(record, Batch):
            numbers = [record.labels - NO_LABEL, record.preds, *([] if record.topk is None else [record.topk])]
            limits = [classes - NO_LABEL, *[classes] * (len(numbers) - 1)]
            known = all(one.min(initial=0) >= 0 and one.max(initial=0) < n for one, n in zip(numbers, limits, strict=True))
            wide = record.topk is not None or not len(record.labels) or record.probs.shape[1] == classes
            right_task = predicts_classes(self.info.task) and (record.sequences is None) == (self.info.task != "sequence")
            fits = known and wide and right_task
        else:
            fits = isinstance(record, Measures) and masks.fits(record, self.info.task, classes)
        if not fits or not isinstance(record, AnyBatch):
            raise self.error(f"this {line.kind} record does not fit the run's task and its {classes:,} classes", batch)
        return record

    def error(self, message: str, batch: int = 0) -> RecordsError:
        """An error that names the run and the line of one of the batches."""
        return self._located(self.lines[batch].error(message))

    def _located(self, error: RecordsError) -> RecordsError:
        if error.message.startswith(f"{self._name}: "):  # from a column on which another depends
            return error
        return located(error, self._name)

    # Readers of columns, by the public name.

    def _loss(self) -> Array:
        if masks.lacks_losses(self):
            sizes, losses = masks.losses_or_nan(self)
        else:
            sizes, losses = self._flat("losses", np.float32)
        self._starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        return losses

    def _label(self) -> Array:
        return self._class_numbers("labels", lowest=NO_LABEL)

    def _pred(self) -> Array:
        return self._class_numbers("preds")

    def _position(self) -> Array:
        return self.of_rows("positions", np.int64)

    def _probs(self) -> Array:
        return self._table("probs", None if self._has_topk else len(self.info.classes))

    def _topk(self) -> Array:
        return self._demand_classes(self._table("topk", self["probs"].shape[1]).astype(np.int64), "topk")

    def _targets(self) -> Array:
        return self._table("targets", len(self.info.classes))

    def _outputs(self) -> Array:
        return self._table("outputs", len(self.info.classes))

    def _p_label(self) -> Array:
        if self._has_topk:
            return self.of_rows("p_labels", np.float32)
        labels = self["label"]
        of_label: Array = self["probs"][np.arange(len(self)), labels]
        return np.where(labels == NO_LABEL, np.float32(np.nan), of_label)

    def _p_pred(self) -> Array:
        probs = self["probs"]
        if not len(self):
            return np.zeros(0, np.float32)
        return probs[:, 0] if self._has_topk else probs[np.arange(len(self)), self["pred"]]

    def _margin(self) -> Array:
        return margins(self["loss"], self["label"], self["probs"], self["topk"] if self._has_topk else None)

    def _correct(self) -> Array:
        if self.info.task == "multilabel":
            targets, outputs = self["targets"], self["outputs"]
            same: Array = ((outputs > 0.5) == (targets > 0.5)) & ~np.isnan(outputs)
            return np.asarray(same.all(axis=1))
        return np.asarray((self["label"] == self["pred"]) & np.isfinite(self["loss"]))

    def _batch(self) -> Array:
        return np.repeat(self._batches_and_steps[:, 0], np.diff(self.starts))

    def _step(self) -> Array:
        return np.repeat(self._batches_and_steps[:, 1], np.diff(self.starts))

    def _id(self) -> Array:
        ids = self._parsed("ids", [line.column("ids") for line in self.lines])
        types = set(map(type, ids))
        are_texts = types == {str}
        self.demand(len(ids) == len(self) and (are_texts or str not in types), "ids")
        return _objects(ids) if are_texts else self.array("ids", ids, np.int64)

    def _file(self) -> Array:
        names = [self._files_text(line) for line in self.lines]
        if names and names[0] is None:
            return _objects([str(one) for one in self["id"].tolist()])
        files = self._parsed("files", [text or b"[]" for text in names])
        self.demand(len(files) == len(self) and set(map(type, files)) <= {str}, "files")
        return _objects(files)

    def _extra(self) -> Array:
        rows: list[dict[str, Any] | None] = []
        for number, line in enumerate(self.lines):
            n = int(self.starts[number + 1] - self.starts[number])
            if line.block.find(b',"extra":{', line.start, line.end) < 0:
                rows += [None] * n
                continue
            batch = self.record(number)
            at = list(range(n))
            if isinstance(batch, Batch) and batch.sequences is not None:
                at = np.repeat(np.arange(len(batch.sequences["n_valid"])), batch.sequences["n_valid"]).tolist()
            rows += [{name: column[i] for name, column in (batch.extra or {}).items()} for i in at]
        return _objects(rows)

    # Finding and parsing.

    @cached_property
    def _has_topk(self) -> bool:
        """Tell if only the largest probabilities were kept; the same in all batches of a run."""
        return predicts_classes(self.info.task) and bool(self.lines) and self.lines[0].has_column("topk")

    @cached_property
    def _batches_and_steps(self) -> Ints:
        """[B, 2]"""
        found = [_BATCH_AND_STEP.search(line.block, line.start, min(line.end, line.start + 256)) for line in self.lines]
        if not all(found):
            raise self.lines[found.index(None)].error("this batch record has no batch and step")
        return np.array([[int(one[1]), int(one[2])] for one in found if one], np.int64).reshape(-1, 2)

    def _class_numbers(self, field: str, *, lowest: int = 0) -> Array:
        return self._demand_classes(self.of_rows(field, np.int64), field, lowest=lowest)

    def _demand_classes(self, numbers: Ints, field: str, *, lowest: int = 0) -> Ints:
        classes = len(self.info.classes)
        if numbers.size and (numbers.min() < lowest or numbers.max() >= classes):
            raise self.lines[0].error(f"in this batch record {field} are outside the {classes:,} classes")
        return numbers

    def of_rows(self, field: str, dtype: type[T]) -> npt.NDArray[T]:
        """A column with one number a row, as long in each batch as its losses."""
        sizes, array = self._flat(field, dtype)
        self.demand(np.array_equal(sizes, np.diff(self.starts)), field)
        return array

    def _flat(self, field: str, dtype: type[T]) -> tuple[list[int], npt.NDArray[T]]:
        """A column with one number a row: its length in each batch, and its values."""
        columns = self.loaded(field, [line.column(field) for line in self.lines])
        sizes = [len(column) for column in columns]
        return sizes, self.array(field, list(chain.from_iterable(columns)), dtype)

    def _table(self, field: str, width: int | None) -> Floats:
        """A column [N, K] with K numbers a row; `width` is K, if it is known."""
        columns = self.loaded(field, [line.table(field) for line in self.lines])
        self.demand([len(column) for column in columns] == np.diff(self.starts).tolist(), field)
        rows = list(chain.from_iterable(columns))
        widths = set(map(len, rows)) or {width or 0}
        self.demand(len(widths) == 1 and (width is None or widths == {width}), field)
        flat = self.array(field, list(chain.from_iterable(rows)), np.float32)
        return flat.reshape(len(rows), widths.pop())

    def _parsed(self, field: str, texts: Sequence[bytes]) -> list[Any]:
        return list(chain.from_iterable(self.loaded(field, texts)))

    def loaded(self, field: str, texts: Sequence[bytes]) -> list[Any]:
        """Parse JSON arrays, one for each batch, in one go."""
        joined = b"[%b]" % b",".join(texts)
        try:
            columns = orjson.loads(joined)
        except ValueError:
            columns = loads(b'{"it":%b}' % joined)["it"]  # names that are not UTF-8; raises RecordsError
        self.demand(len(columns) == len(self.lines) and all(type(one) is list for one in columns), field)
        return list(columns)

    def array(self, field: str, values: list[Any], dtype: type[T]) -> npt.NDArray[T]:
        try:
            with np.errstate(over="ignore"):  # a number too large for float32 reads as infinite
                array = np.array(values, dtype)
        except (ValueError, TypeError, OverflowError) as error:
            raise self.lines[0].error(f"in this batch record {field} are not numbers") from error
        self.demand(array.ndim == 1, field)
        return array

    def _files_text(self, line: Line) -> bytes | None:
        """The JSON text of `files`, or None."""
        start = line.block.find(b',"files":[', line.start, line.end)
        if start < 0:
            return None
        ends = (line.block.find(after, start, line.end) for after in _AFTER_FILES)
        end = min((one for one in ends if one >= 0), default=-1)
        if end < 0:
            raise line.error("in this batch record files have no end")
        return line.block[start + len(b',"files":') : end + 1]

    def demand(self, fits: object, field: str) -> None:
        if not fits:
            raise self.lines[0].error(f"in this batch record {field} do not fit the other columns")


def located(error: RecordsError, name: str) -> RecordsError:
    """The error of a line as one that names its run."""
    return RecordsError(f"{name}: {error.message}", error.hint or "later lines are not shown", line=error.line)


def _objects(values: Sequence[Any]) -> Array:
    array = np.empty(len(values), object)
    array[:] = values
    return array
