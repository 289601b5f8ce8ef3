r"""Rows that sum up many visits: one per sample, per class and epoch, or per epoch, as JSON Lines or CSV.

    for block in grouped_rows(run, per="class", where="recall < 0.5 and phase = 'val'", style="csv"):
        sys.stdout.buffer.write(block)

The whole run is read before the first row. Values that are not defined are null, in CSV empty. `where` is an SQL condition on
one row, as for rows of visits.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np

from capture_cli.answers.calibration import calibration
from capture_cli.answers.class_counts import ClassCounts, balanced_accuracy, counts_of, macro_f1
from capture_cli.answers.dynamics import CLASS_TASKS, Dynamics, SampleDynamics
from capture_cli.errors import UsageError
from capture_cli.records import NO_LABEL, Epoch, RunInfo
from capture_cli.runs import Block, Visits, folds_of
from capture_cli.tables.condition import Condition, reason
from capture_cli.tables.measured import measured_rows, types_of_task
from capture_cli.tables.rows import FORMATS, unknown_column
from capture_cli.tables.sql import escape, locked_database, quoted, row_text, unescape

if TYPE_CHECKING:
    from capture_cli.runs import Run

MEAN_PROBS = "mean_probs"
"""A further column of samples, [C]: written only if it is named."""
FOLD = "fold"
"""A further first column of samples in a run with folds: the number of the training."""
_TEXT, _WHOLE, _FLOAT, _DOUBLE = "VARCHAR", "BIGINT", "FLOAT", "DOUBLE"
_MEANS = ("aum", "confidence", "variability", "correctness", "mean_loss", "el2n", "entropy", "p_mean_pred")
TYPES: dict[str, dict[str, str]] = {
    "sample": {
        "phase": _TEXT,
        "id": _WHOLE,
        "file": _TEXT,
        "label": _TEXT,
        "mean_pred": _TEXT,
        "visits": _WHOLE,
        **dict.fromkeys(("forgetting", "first_learned", "learned"), _WHOLE),
        **dict.fromkeys(_MEANS, _FLOAT),
    },
    "class": {
        "phase": _TEXT,
        "epoch": _WHOLE,
        "label": _TEXT,
        **dict.fromkeys(("n", "correct", "predicted"), _WHOLE),
        **dict.fromkeys(("recall", "precision", "f1", "loss_nats", "p_label"), _DOUBLE),
    },
    "epoch": {
        "phase": _TEXT,
        "epoch": _WHOLE,
        "n": _WHOLE,
        "correct": _WHOLE,
        **dict.fromkeys(("accuracy", "balanced_accuracy", "macro_f1", "loss_nats", "p_label", "p_pred", "ece"), _DOUBLE),
        **dict.fromkeys(("captured", "not_captured"), _WHOLE),
    },
}
"""Columns of each kind of row, with their SQL types. Ids are text where a run's ids are."""
PER = tuple(TYPES)
_ALIASES = {"loss": "loss_nats", "accuracy": "recall"}
"""Other names that columns may be asked for by, where they are not columns themselves."""
_CHUNK = 5_000
"""Rows that go through the database at once."""


@dataclass(frozen=True, slots=True)
class GroupedTable:
    """The table that rows of one kind make in SQL."""

    types: Mapping[str, str]

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column, in order."""
        return tuple(self.types)

    @property
    def names(self) -> tuple[str, ...]:
        """Every name of a column."""
        return (*self.types, *_aliases(self.types))

    def query(self, _columns: Sequence[str] = ()) -> str:
        """A query for the rows in `$lines`, JSON objects."""
        others = "".join(f', "{of}" as "{name}"' for name, of in _aliases(self.types).items())
        # Read as doubles, numbers keep their digits.
        structure = json.dumps({name: declared.replace(_FLOAT, _DOUBLE) for name, declared in self.types.items()})
        rows = f"select unnest(from_json(line, '{structure}')) from (select unnest($lines::varchar[]) as line)"  # noqa: S608
        return f"select *{others} from ({rows})"  # noqa: S608


def _aliases(types: Mapping[str, str]) -> dict[str, str]:
    """Further names of these columns, and the column of each."""
    return {name: of for name, of in _ALIASES.items() if of in types and name not in types}


def types_of(per: str, columns: Sequence[str] | None = None, info: RunInfo | None = None) -> dict[str, str]:
    """Column -> SQL type of the rows of a kind; those named, or all. Raises UsageError for a name that there is not.

    `info` is the run record, whose task may have columns of its own. In a run with folds each training has rows of its own for
    samples.
    """
    if per not in TYPES:
        raise UsageError(f"--per {per} is not valid", f"choose visit, {', '.join(PER)}")
    folds = info is not None and info.fold is not None
    own = (types_of_task(per, info) if info else None) or TYPES[per]
    usual = {**({FOLD: _WHOLE} if folds and per == "sample" else {}), **own}
    known = {**usual, **({MEAN_PROBS: "FLOAT[]"} if per == "sample" else {})}
    known |= {name: usual[of] for name, of in _aliases(usual).items()}
    listed = f"the columns are {', '.join(usual)}"
    if columns is None:
        return usual
    if not columns or len(set(columns)) < len(columns):
        raise UsageError("the same column twice" if columns else "no columns", listed)
    for name in columns:
        if name not in known:
            raise unknown_column(name, tuple(usual))
    return {name: known[name] for name in columns}


def grouped_rows(
    run: Run,
    *,
    per: str,
    where: str | None = None,
    columns: Sequence[str] | None = None,
    limit: int | None = None,
    style: str = "jsonl",
) -> Iterator[bytes]:
    """Yield rows, one for each sample and phase, class, epoch and phase, or epoch and phase, as blocks of whole lines.

    Raises UsageError at once for a `per`, condition or column that there is not; when rows are taken, for a run whose samples
    do not have one label each. Damage ends what is summed up, and is in `run.error()`.
    """
    if style not in FORMATS:
        raise UsageError(f"no such format: '{style}'", "choose jsonl, csv or parquet")
    types_of(per)
    wanted, types = types_of(per, columns, run.info), types_of(per, None, run.info)
    database = locked_database()
    condition = None if where is None else Condition(where, database, columns=tuple(types))
    if condition:
        condition.bind_to([GroupedTable(types), GroupedTable(_with_text_ids(types))])
    return _blocks(run, per, list(wanted), condition, limit, style, database)


def _with_text_ids(types: Mapping[str, str]) -> dict[str, str]:
    return {name: _TEXT if name == "id" else declared for name, declared in types.items()}


def _blocks(
    run: Run,
    per: str,
    columns: Sequence[str],
    condition: Condition | None,
    limit: int | None,
    style: str,
    database: duckdb.DuckDBPyConnection,
) -> Iterator[bytes]:
    measured = types_of_task(per, run.info) is not None
    if run.info.task not in CLASS_TASKS and not measured:
        hint = f"--per {per} needs one label a sample, as in classification"
        raise UsageError(f"the task of this run is {run.info.task}", hint)
    types = dict(types_of(per, None, run.info))
    types |= types_of(per, [MEAN_PROBS], run.info) if MEAN_PROBS in columns else {}
    rows = measured_rows(per, run) if measured else _SOURCES[per](run, MEAN_PROBS in columns)
    if rows and isinstance(rows[0].get("id"), str):
        types = _with_text_ids(types)
    if style == "csv":
        yield ",".join(columns).encode() + b"\n"
    left = limit
    for start in range(0, len(rows), _CHUNK):
        if left == 0:
            return
        most = "" if left is None else f"limit {left:d}"
        lines = [escape(json.dumps(one, ensure_ascii=False)) for one in rows[start : start + _CHUNK]]
        clause = condition.clause if condition else ""
        # The columns and types are ours and the limit is a number; the condition was checked, and DuckDB is locked.
        chosen = f"select {quoted(columns)} from ({GroupedTable(types).query()}) {clause} {most}"  # noqa: S608
        sql = f"select count(*), string_agg({row_text(columns, style, run.info.classes)}, '\n') from ({chosen}) as one"  # noqa: S608
        try:
            count, text = database.execute(sql, {"lines": lines}).fetchall()[0]
        except duckdb.Error as error:
            raise UsageError(f"--where cannot be applied: {reason(error)}", f"the columns are {', '.join(types)}") from error
        left = None if left is None else left - count
        if count:
            yield unescape(text + "\n", as_json=style == "jsonl")


class _Phases:
    """Collects the dynamics of every phase and training, in the order of their appearance. A fold."""

    def __init__(self, trainings: int) -> None:
        self.folds: dict[tuple[str, int | None], Dynamics] = {}
        """By phase and, in a run with folds, the number of the training."""
        self._share = max(1, trainings)

    def update(self, block: Block) -> None:
        if not isinstance(block, Visits) or not len(block):
            return
        key = block.phase, block.info.fold["number"] if block.info.fold else None
        if key not in self.folds:
            self.folds[key] = Dynamics(block.phase, training=key[1], share=self._share)
        self.folds[key].update(block)


def _samples(run: Run, with_probs: bool) -> list[dict[str, Any]]:
    fold = _Phases(folds_of(run.info))
    run.fold(fold)
    rows = []
    for (_, training), one in fold.folds.items():
        found = sample_rows(one.result(), with_probs=with_probs)
        rows += found if training is None else [{FOLD: training, **row} for row in found]
    return rows


def sample_rows(found: SampleDynamics, *, with_probs: bool = False) -> list[dict[str, Any]]:
    """The dynamics of one phase as rows of plain values; None where a value is not defined."""
    means, n = found.mean_probs, len(found)
    nothing = np.full(n, np.nan)
    top = None if means is None else np.nan_to_num(means, nan=-1).argmax(1)
    arrays = {
        "id": found.ids,
        "file": found.files,
        "visits": found.visits,
        **{name: getattr(found, name) for name in ("aum", "confidence", "variability", "correctness", "forgetting")},
        **{name: getattr(found, name) for name in ("first_learned", "learned", "mean_loss")},
        "el2n": nothing if found.el2n is None else found.el2n,
        "entropy": nothing if found.entropy is None else found.entropy,
        "p_mean_pred": nothing if means is None or top is None else means[np.arange(n), top],
    }
    lists = {name: _plain(array) for name, array in arrays.items()}
    for name in ("first_learned", "learned"):
        lists[name] = [None if one == -1 else one for one in lists[name]]
    lists["phase"] = [found.phase] * n
    lists["label"] = [found.classes[one] for one in found.labels.tolist()]
    lists["mean_pred"] = [None] * n if top is None else [found.classes[one] for one in top.tolist()]
    names = list(TYPES["sample"])
    if with_probs:
        lists[MEAN_PROBS] = [None] * n if means is None else [_plain(row) for row in means]
        names.append(MEAN_PROBS)
    return [dict(zip(names, row, strict=True)) for row in zip(*(lists[name] for name in names), strict=True)]


def _plain(array: Any) -> list[Any]:
    """Plain values; the shortest decimals of a float32, None where a number is not finite."""
    if array.dtype == np.float32:
        return [float(str(one)) if np.isfinite(one) else None for one in array]
    if array.dtype == np.float64:
        return [one if isfinite(one) else None for one in array.tolist()]
    return list(array.tolist())


class _Sums:
    """Sums of every phase and epoch by class, and the probabilities that calibration needs. A fold."""

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self.counts: dict[tuple[int, str], np.ndarray[Any, np.dtype[np.float64]]] = {}
        """[5, C] labelled, predicted, correct, loss and p(label), by epoch and phase."""
        self.certain: dict[tuple[int, str], list[tuple[Any, Any]]] = {}
        self.totals: dict[tuple[int, str], Epoch] = {}

    def update(self, block: Block) -> None:
        if isinstance(block, Epoch):
            self.totals[block.epoch, block.phase] = block
            self.counts.setdefault((block.epoch, block.phase), np.zeros((5, self.classes)))
        if not isinstance(block, Visits) or not len(block):
            return
        key, labels = (block.epoch, block.phase), block["label"]
        if labels.min() == NO_LABEL:
            raise UsageError("the samples of this run have no labels", "sums by class and epoch need one label a sample")
        correct = block["correct"]
        weights = (None, None, None, block["loss"].astype(float), block["p_label"].astype(float))
        columns = (labels, block["pred"], labels[correct], labels, labels)
        found = [np.bincount(one, weight, self.classes) for one, weight in zip(columns, weights, strict=True)]
        self.counts[key] = self.counts.get(key, np.zeros((5, self.classes))) + np.stack(found)
        self.certain.setdefault(key, []).append((block["p_pred"], correct))

    def of_part(self, key: tuple[int, str]) -> Epoch | None:
        """The totals of an epoch and phase that was captured in part; None of any other."""
        totals = self.totals.get(key)
        return totals if totals and totals.not_captured else None

    def all_counts(self, key: tuple[int, str]) -> ClassCounts | None:
        """The counts over all samples of an epoch and phase; None if it was captured in part and not counted by class."""
        if not (totals := self.of_part(key)):
            return ClassCounts(*self.counts[key][:3].astype(np.int64))
        found = counts_of(totals)
        return found if found and len(found.labelled) == self.classes else None


def _by_class(run: Run, _with_probs: bool) -> list[dict[str, Any]]:
    classes = run.info.classes
    fold = _Sums(len(classes))
    run.fold(fold)
    rows = []
    for (epoch, phase), captured in fold.counts.items():
        counts = fold.all_counts((epoch, phase)) or ClassCounts(*captured[:3])
        columns = zip(*(one.tolist() for one in counts), strict=True)
        for name, (n, predicted, correct), (taken, _, _, loss, p_label) in zip(
            classes, columns, captured.T.tolist(), strict=True
        ):
            values = (phase, epoch, name, int(n), int(correct), int(predicted))
            shares = (_ratio(correct, n), _ratio(correct, predicted), _ratio(2 * correct, n + predicted))
            means = (*shares, _ratio(loss, taken), _ratio(p_label, taken))
            rows.append(dict(zip(TYPES["class"], (*values, *means), strict=True)))
    return rows


def _by_epoch(run: Run, _with_probs: bool) -> list[dict[str, Any]]:
    fold = _Sums(len(run.info.classes))
    run.fold(fold)
    rows = []
    for key, sums in fold.counts.items():
        epoch, phase = key
        counts, part = fold.all_counts(key), fold.of_part(key)
        taken, correct = float(sums[0].sum()), float(sums[2].sum())
        n, accuracy, loss = taken, _ratio(correct, taken), _ratio(float(sums[3].sum()), taken)
        if part:
            n, accuracy, loss = part.n, part.accuracy, part.loss if isfinite(part.loss) else None
            correct = (accuracy or 0.0) * n
        by_class = (balanced_accuracy(counts), macro_f1(counts)) if counts else (None, None)
        pairs = fold.certain.get(key)
        found = calibration(*map(np.concatenate, zip(*pairs, strict=True))) if pairs else None
        totals = fold.totals.get(key)
        values = (phase, epoch, int(n), round(correct), accuracy, *by_class)
        means = (loss, _ratio(float(sums[4].sum()), taken))
        ends = (found.confidence if found else None, found.ece if found else None)
        captured = (totals.captured, totals.not_captured) if totals else (int(n), None)
        rows.append(dict(zip(TYPES["epoch"], (*values, *means, *ends, *captured), strict=True)))
    return rows


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole and isfinite(part) else None


_SOURCES = {"sample": _samples, "class": _by_class, "epoch": _by_epoch}
