"""A place in a run to resume reading from.

for block in run.follow(cursor): ...
cursor = run.cursor
Cursor.from_json(json.loads(json.dumps(cursor.to_json())))
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from capture_cli.errors import RecordsError, UsageError
from capture_cli.records import End, Epoch
from capture_cli.records.chain import GENESIS
from capture_cli.runs.visits import Visits

if TYPE_CHECKING:
    from capture_cli.runs.lines import Line


class Position(NamedTuple):
    """A place between two lines of a file."""

    bytes: int
    """Length of the lines before it."""
    seq: int
    """Number of the line after it, from 0."""
    chain: str
    """Chain of the line before it, 32 hex digits."""


START = Position(0, 0, GENESIS.hex())


@dataclass(frozen=True, kw_only=True)
class Cursor:
    """A place to resume reading from, and the state that is needed there: see `Run.follow`."""

    at: Position = START
    status: str | None = None
    """Status of the end line, if the line before the cursor is one."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Lines before the cursor, by kind."""
    info: Position | None = None
    """Before the run record in force."""
    before_end: Position | None = None
    """Before the end line, if the line before the cursor is one: resuming a run that did not complete takes it off."""
    phases: tuple[tuple[int, str], ...] = ()
    """Epoch and phase of batches before the cursor whose epoch record is behind it."""
    files: tuple[Cursor, ...] = ()
    """For a run in several files, the cursors of all; the other fields are unused."""

    def after(self, lines: Sequence[Line], block: object) -> Cursor:
        """Move past `block` and its lines, which verify and begin here."""
        last = lines[-1]
        phases = self.phases
        if isinstance(block, Visits | Epoch):
            phase = block.epoch, block.phase
            phases = tuple(one for one in phases if one != phase) + (phase,) * isinstance(block, Visits)
        return Cursor(
            at=Position(self.at.bytes + last.end + 1 - lines[0].start, last.seq + 1, last.chain),
            status=block.status if isinstance(block, End) else None,
            counts={**self.counts, last.kind: self.counts.get(last.kind, 0) + len(lines)},
            info=self.at if last.kind == "run" else self.info,
            before_end=self.at if last.kind == "end" else None,
            phases=phases,
        )

    def without_end(self) -> Cursor | None:
        """The cursor before the end line; None if the line before the cursor is another."""
        if self.before_end is None:
            return None
        counts = dict(Counter(self.counts) - Counter(["end"]))
        return Cursor(at=self.before_end, counts=counts, info=self.info, phases=self.phases)

    def to_json(self) -> dict[str, Any]:
        """The cursor as plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The cursor that `to_json` was called on. Raises UsageError for anything else."""
        try:
            places = {name: _position(values[name]) for name in ("info", "before_end") if values[name] is not None}
            phases = tuple((int(epoch), str(phase)) for epoch, phase in values["phases"])
            files = tuple(map(cls.from_json, values["files"]))
            cursor = cls(**{**values, **places, "at": _position(values["at"]), "phases": phases, "files": files})
        except (TypeError, ValueError, KeyError) as error:
            raise UsageError(f"{values!r} is not a cursor", "pass what Cursor.to_json returned") from error
        return cursor


def _position(values: Sequence[Any]) -> Position:
    place = Position(*values)
    if not (
        type(place.bytes) is type(place.seq) is int and place.bytes >= 0 and len(bytes.fromhex(place.chain)) == len(GENESIS)
    ):
        raise ValueError
    return place


class RewrittenError(RecordsError):
    """Lines before a cursor are no longer those that were read; start again from the beginning."""
