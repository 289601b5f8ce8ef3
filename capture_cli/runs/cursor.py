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
    """A place to resume reading from, with the state that is needed there; see `Run.follow`."""

    at: Position = START
    status: str | None = None
    """Status in the line before the cursor, if that is an end line."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Lines before the cursor, by kind."""
    info: Position | None = None
    """The place before the run record in force."""
    before_end: Position | None = None
    """The place before the end line that the cursor follows, if it does: resuming an unfinished run takes that line off."""
    phases: tuple[tuple[int, str], ...] = ()
    """Epoch and phase of batches before the cursor whose epoch record is after it."""
    files: tuple[Cursor, ...] = ()
    """Cursors of the files, for a run in several; the other fields are unused then."""

    def after(self, lines: Sequence[Line], block: object) -> Cursor:
        """The cursor after `block` and its lines, which begin here."""
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
        """The cursor before the end line; None if this one does not follow an end line."""
        if self.before_end is None:
            return None
        counts = dict(Counter(self.counts) - Counter(["end"]))
        return Cursor(at=self.before_end, counts=counts, info=self.info, phases=self.phases)

    def to_json(self) -> dict[str, Any]:
        """The cursor as plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`. Raises UsageError for anything else."""
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
    """Lines before a cursor have changed since they were read; start again from the beginning."""
