"""The state of a run after a pass over it: its ending, and what is wrong with it. Every answer has one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from capture_cli.errors import RecordsError
from capture_cli.runs import Ending, Run


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """The end of the latest pass over a run."""

    name: str
    """The name of the run in messages."""
    ending: Ending
    error: RecordsError | None
    """The reason why nothing after a certain line is part of the answer; None if all lines are."""

    @classmethod
    def of(cls, run: Run, error: RecordsError | None = None) -> Self:
        """The state of `run` after a pass; `error` is what the answer itself found wrong."""
        return cls(name=run.name, ending=run.ending, error=run.error() or error)

    @property
    def is_finished(self) -> bool:
        """True if the run was completed, so that no more records will come."""
        return self.ending.state == "sealed" and self.ending.status == "completed"

    def to_json(self) -> dict[str, Any]:
        """The state as plain values."""
        return {
            "state": self.ending.state,
            "status": self.ending.status,
            "error": self.error.message if self.error else None,
            "lines": self.ending.lines,
            "chain": self.ending.chain,
            "counts": dict(self.ending.counts),
        }
