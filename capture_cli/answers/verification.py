"""Verification of a run: its records are what was written, every line, and nothing follows the end line.

    with open_run("runs/mine") as run:
        verification = verify(run)
        verification = repair(run, Path("saved.jsonl"))     # the same, and the lines that verify are saved

A run verifies if the sequence and the chain of its lines hold, every record can be read, and an end line seals it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from capture_cli.errors import CaptureError, RecordsError, UsageError
from capture_cli.runs import Ending, Run, Visits


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """The result of verifying a run."""

    ending: Ending
    error: RecordsError | None
    """None if the run verifies."""

    def to_json(self) -> dict[str, Any]:
        """The verification as plain values."""
        return {
            "verified": self.error is None,
            "state": self.ending.state,
            "status": self.ending.status,
            "lines": self.ending.lines,
            "bytes": self.ending.bytes,
            "counts": dict(self.ending.counts),
            "chain": self.ending.chain,
            "line": self.error.line if self.error and self.error.line else None,
            "reason": self.error.message if self.error else None,
        }


def verify(run: Run, keep: Callable[[bytes], object] = lambda _line: None) -> Verification:
    """Read all of a run.

    `keep` is given each line that verifies, newline included, up to the first that does not. A record of a kind that this
    version does not know is checked by its chain alone.
    """
    try:
        for block, lines in run.blocks_and_lines():
            for number, line in enumerate(lines):
                if isinstance(block, Visits):
                    block.record(number)
                keep(line.data + b"\n")
    except RecordsError as found:
        return Verification(ending=run.ending, error=found)
    ending = run.ending
    if ending.state == "sealed":
        return Verification(ending=ending, error=None)
    verified = "one line verifies" if ending.lines == 1 else f"{ending.lines:,} lines verify"
    error = RecordsError(f"{run.name} is not sealed: {ending.sentence}", f"its {verified}")
    return Verification(ending=ending, error=error)


def repair(run: Run, target: Path) -> Verification:
    """Verify a run, and save the lines up to the first that does not verify in the new file `target`, durably.

    The run itself is not changed. If all of it verifies, or not even the first line, no file is left. Lines after one that does
    not verify are not saved: nothing proves that they belong there.
    Raises UsageError if the file exists or the run is in several, CaptureError if it cannot be written.
    """
    if len(run.file_names) > 1:
        raise UsageError(f"{run.name} has {len(run.file_names)} files", f"repair them one by one, as {run.file_names[0]}")
    if target.suffix in (".gz", ".zst"):
        raise UsageError(f"the lines are not compressed, as the name '{target}' says", "give --repair FILE.jsonl")
    try:
        with target.open("xb") as file:
            verification = verify(run, file.write)
            file.flush()
            os.fsync(file.fileno())
            saved = file.tell()
    except FileExistsError as failure:
        raise UsageError(f"'{target}' exists", "give --repair the name of a new file") from failure
    except OSError as failure:
        raise CaptureError(
            f"'{target}' cannot be written: {failure.strerror}", "give --repair the name of a new file"
        ) from failure
    if verification.error is None or not saved:
        target.unlink()
    return verification
