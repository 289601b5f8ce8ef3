"""Whether two runs are equal, and else where they part, what they were told differently, and what came of it.

    with open_run("runs/a") as a, open_run("runs/b") as b:
        diff = compare(a, b, limit=10)
    diff.relation           # equal, a_begins_b, b_begins_a, differ, or undecided where one is damaged before they part
    diff.first              # the first record that differs: its fields, the files in it whose values differ
    diff.changes            # what differs in the run records: options, images, versions, device
    diff.outcome            # which images one run has right and the other wrong

What it promises:

* Both are read once, side by side, so either may be a pipe; memory grows with the images and classes, not with the records.
* Only lines that verify are compared. Images are matched by their path, never by their number.
* An `end` that does not say `completed` is no difference to a run that went on: the one is a beginning of the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any

from capture_cli.answers.files import Few, FileChanges, FileTable
from capture_cli.answers.outcome import Outcome, Phases, outcome
from capture_cli.errors import RecordsError
from capture_cli.records import Batch, End, Epoch, Numbers, RunInfo, Samples, Skip, loads
from capture_cli.records.comparing import Change, changes
from capture_cli.runs import BATCHES, Ending

if TYPE_CHECKING:
    from capture_cli.runs import Line, Run

MAX_FILES = 5
"""Files that are named of those that differ."""

_OF_SAMPLES = ("digests", "sizes", "labels", "splits")
_COLUMNS = ("inputs", *_OF_SAMPLES, "targets", "losses", "preds", "outputs", "p_labels", "topk", "probs")
"""Columns of samples and batches, what other differences come from first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a record stands, and what it is of."""

    seq: int
    kind: str
    phase: str | None
    """As `epoch` and `batch`, None where the kind has none."""
    epoch: int | None
    batch: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FileDifference:
    """The first value of one image in which two records differ."""

    file: str
    field: str
    """A column, with the place in it where there are several values an image: `losses`, `inputs.digests`, `probs[3]`."""
    a: Any
    b: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Two records that should be the same."""

    a: Place
    b: Place
    fields: tuple[str, ...]
    """The fields that differ, in the order of the format; `kind` alone where these are records of two kinds."""
    same_inputs: bool | None
    """Of two batches: whether they are of the same images, and every tensor that went into the model was the same."""
    files: Few[FileDifference]
    """Images in both whose values differ."""
    only_a: Few[str]
    only_b: Few[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of the two runs."""

    name: str
    ending: Ending
    error: RecordsError | None
    """What is wrong with it, and why nothing behind a certain line is in the answer."""

    @property
    def unfinished(self) -> bool:
        """Whether more could come."""
        return self.ending.state != "sealed" or self.ending.status != "completed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Diff:
    """What differs between run a and run b."""

    a: Side
    b: Side
    relation: str
    """equal, a_begins_b, b_begins_a, differ; undecided where one is damaged and no record before that differs."""
    common: int
    """Lines at the beginning that are equal."""
    first: Difference | None
    """The first record that differs; None unless `relation` is differ, or where the record cannot be read."""
    first_batch: Difference | None
    """The first batch that differs by more than the numbers of its images, where `first` is of another kind than batch."""
    changes: tuple[Change, ...]
    """What differs in the run records: `was` in a, `now` in b."""
    files: FileChanges
    outcome: Outcome | None
    """None where the runs are equal, or no phase was captured in both."""

    @property
    def error(self) -> RecordsError | None:
        """What is wrong with one of them."""
        return self.a.error or self.b.error


def compare(a: Run, b: Run, *, limit: int = 10) -> Diff:
    """Compare two runs; at most `limit` images are listed that turned from right to wrong, and as many the other way."""
    names: dict[str, int] = {}
    files = FileTable()
    left, right = _Side(a, names, files.take_a), _Side(b, names, files.take_b)
    common = 0
    one, other = left.next(), right.next()
    while one and other and one.data == other.data:
        common += 1
        one, other = left.next(), right.next()
    relation = _relation(left, right, one, other)
    first = first_batch = None
    if one and other and relation == "differ":
        first = _difference(left, one, right, other, _body)
        if one.kind not in BATCHES or other.kind not in BATCHES:
            first_batch = _first_batch(left, one, right, other)
    left.drain()
    right.drain()
    return Diff(
        relation=relation,
        common=common,
        first=first,
        first_batch=first_batch,
        changes=tuple(changes(left.run, right.run)) if left.run and right.run else (),
        files=files.changes(),
        outcome=None if relation == "equal" else _outcome(left, right, limit),
        a=left.answer(),
        b=right.answer(),
    )


class _Side:
    """Goes through one run, and remembers on the way what is asked of it at the end."""

    def __init__(self, reading: Run, names: dict[str, int], take_file: Callable[[Line, Samples | Skip, RunInfo], None]) -> None:
        self.run: RunInfo | None = None
        """The last run record: a run that went on with other software has more than one."""
        self.phases = Phases(names)
        self.error: RecordsError | None = None
        self._reading = reading
        self._lines: Iterator[Line] = reading.lines()
        self._take_file = take_file

    def next(self) -> Line | None:
        """The next line; None at the end, or where what follows cannot be trusted."""
        if self.error is None:
            for line in self._lines:
                try:
                    self._take(line)
                except RecordsError as error:
                    self.fails(error)
                    break
                return line
        return None

    def _take(self, line: Line) -> None:
        if self.run is None or line.kind == "run":
            self.run = line.run(self.run)
        elif line.kind == "batch":
            self.phases.take(line, self.run)
        elif line.kind in ("samples", "skip", "epoch"):
            record = line.record()
            if isinstance(record, Epoch):
                self.phases.finish(record)
            elif isinstance(record, Samples | Skip):
                self._take_file(line, record, self.run)

    def next_batch(self, line: Line | None) -> Line | None:
        """`line` if it is of a batch, else the next that is."""
        while line and line.kind not in BATCHES:
            line = self.next()
        return line

    def drain(self) -> None:
        """Go to the end."""
        while self.next():
            pass

    def fails(self, error: RecordsError) -> None:
        """Remember what is wrong; the first counts."""
        self.error = self.error or RecordsError(f"{self._reading.name}: {error.message}", error.hint, line=error.line)

    def place(self, line: Line) -> Place | None:
        """Where a record stands; None, with the error kept, where its fields do not fit together."""
        try:
            record = line.record()
        except RecordsError as error:
            self.fails(error)
            return None
        phase, epoch = (record.phase, record.epoch) if isinstance(record, Batch | Numbers | Epoch) else (None, None)
        batch = record.batch if isinstance(record, Batch | Numbers) else None
        return Place(seq=line.seq, kind=line.kind, phase=phase, epoch=epoch, batch=batch)

    def broken(self) -> bool:
        """Whether it ended because of damage, or has no records at all."""
        return self.run is None or self.error is not None or self._reading.ending.state == "damaged"

    def answer(self) -> Side:
        """What is said of it in the end."""
        ending = self._reading.ending
        return Side(name=self._reading.name, ending=ending, error=self.error or ending.error(self._reading.name))


def _relation(left: _Side, right: _Side, one: Line | None, other: Line | None) -> str:
    """What the first pair of lines that is not equal, or a missing one, says of the two runs."""
    if (one is None and left.broken()) or (other is None and right.broken()):
        return "undecided"
    if one is None or other is None:
        return "equal" if one is other else "a_begins_b" if one is None else "b_begins_a"
    if _stops(one) == _stops(other):
        return "differ"
    return "a_begins_b" if _stops(one) else "b_begins_a"


def _stops(line: Line) -> bool:
    """Whether this is an end line of a run that was not done: resuming takes it off."""
    if line.kind != "end":
        return False
    record = line.record()  # the reader has looked at it
    return isinstance(record, End) and record.status != "completed"


def _first_batch(left: _Side, one: Line | None, right: _Side, other: Line | None) -> Difference | None:
    """The first pair of batches, counted in each run, in which anything but the numbers of images came out differently."""
    one, other = left.next_batch(one), right.next_batch(other)
    while one and other:
        if _content(one) != _content(other):
            if not (left.place(one) and right.place(other)):
                return None
            if _differing(_results(one), _results(other)):
                return _difference(left, one, right, other, _results)
        one, other = left.next_batch(left.next()), right.next_batch(right.next())
    return None


def _content(line: Line) -> bytes:
    """A line without its place: what stands between `seq` and `chain`."""
    return line.data[line.data.index(b",") : line.data.rindex(b',"chain":"')]


def _body(line: Line) -> dict[str, Any]:
    """The fields of a line, without its place."""
    return {name: value for name, value in loads(line.data).items() if name not in ("seq", "chain")}


def _results(line: Line) -> dict[str, Any]:
    """What a batch says wherever its images stand in the folder, and however much of the inputs was kept."""
    body = {name: value for name, value in _body(line).items() if name != "flight"}
    if "files" in body:
        del body["ids"]
    if isinstance(body.get("inputs"), dict):
        body["inputs"] = {name: body["inputs"].get(name) for name in ("shape", "dtype", "digests")}
    return body


def _differing(left: dict[str, Any], right: dict[str, Any]) -> tuple[str, ...]:
    """The names of the fields in which two bodies differ; `kind` alone where they are of two kinds."""
    if left.get("kind") != right.get("kind"):
        return ("kind",)
    return tuple(name for name in dict.fromkeys([*left, *right]) if left.get(name) != right.get(name))


def _difference(left: _Side, one: Line, right: _Side, other: Line, body: Callable[[Line], dict[str, Any]]) -> Difference | None:
    """Look closely at two lines that differ; None where one of them cannot be read."""
    a, b = left.place(one), right.place(other)
    if a is None or b is None:
        return None
    bodies = body(one), body(other)
    mine, others = map(_values, bodies) if a.kind == b.kind else ({}, {})
    found = [found for file in mine if file in others and (found := _first_value(file, mine[file], others[file]))]
    only_a, only_b = [file for file in mine if file not in others], [file for file in others if file not in mine]
    same_inputs = None
    if a.kind == b.kind and a.kind in BATCHES:
        same_inputs = not only_a and not only_b and not any(one.field == "inputs.digests" for one in found)
        if "positions" in bodies[0]:
            same_inputs = same_inputs and bodies[0].get("inputs") == bodies[1].get("inputs")
    return Difference(
        a=a,
        b=b,
        fields=_differing(*bodies),
        same_inputs=same_inputs,
        files=Few.of(found, MAX_FILES),
        only_a=Few.of(only_a, MAX_FILES),
        only_b=Few.of(only_b, MAX_FILES),
    )


def _values(body: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The columns of a samples or batch record by name, a file or an id: what it says of each image or position."""
    names = body.get("files") or body.get("ids")
    if not isinstance(names, list):
        return {}
    columns: dict[str, Any] = {name: body[name] for name in _COLUMNS if name in body}
    if "inputs" in columns:
        columns = {"inputs.digests": columns.pop("inputs")["digests"], **columns}
    if "positions" in body:  # where inputs are of whole sequences
        columns.pop("inputs.digests", None)
        names = [f"{name}:{position}" for name, position in zip(names, body["positions"], strict=True)]
    return {
        str(name): {field: column[i] if i < len(column) else None for field, column in columns.items()}
        for i, name in enumerate(names)
    }


def _first_value(file: str, mine: dict[str, Any], others: dict[str, Any]) -> FileDifference | None:
    for name in [*mine, *(name for name in others if name not in mine)]:
        a, b = mine.get(name), others.get(name)
        if a == b:
            continue
        if isinstance(a, list) and isinstance(b, list):
            where = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
            name = f"{name}[{where}]"
            a, b = (values[where] if where < len(values) else None for values in (a, b))
        return FileDifference(file=file, field=name, a=_plain(a), b=_plain(b))
    return None


def _plain(value: Any) -> Any:
    """What JSON can say: a number too large to be one is none."""
    return None if isinstance(value, float) and not isfinite(value) else value


def _outcome(left: _Side, right: _Side, limit: int) -> Outcome | None:
    """What came of it, as far as the records of both can be read."""
    pair = left.phases.common(right.phases)
    if pair is None:
        return None
    captured = []
    for side, one in zip((left, right), pair, strict=True):
        try:
            captured.append(one.answers())
        except RecordsError as error:
            side.fails(error)
            return None
    return outcome(*captured, limit=limit)
