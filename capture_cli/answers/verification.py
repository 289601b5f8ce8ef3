"""Whether a run is what was written: every line, the whole of it, and nothing after it.

    with open_run("runs/mine") as run:
        ending = verify(run)

A run verifies if the sequence and the chain of its lines hold, every record can be read, and an end line seals it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from capture_cli.answers.visits import checked_batch
from capture_cli.errors import RecordsError
from capture_cli.records import KINDS, Run

if TYPE_CHECKING:
    from capture_cli.reader import Reading


def verify(reading: Reading) -> RecordsError | None:
    """Read all of it; what it was is in `reading.ending` afterwards. Returns what is wrong, or None.

    A kind of record that this version does not know is checked by its chain alone.
    """
    run: Run | None = None
    try:
        for line in reading:
            if line.kind == "run":
                run = line.run(run)
            elif line.kind == "batch" and run is not None:
                checked_batch(line, len(run.classes))
            elif line.kind in KINDS:
                line.record()
    except RecordsError as error:
        return reading.located(error)
    ending = reading.ending
    damage = ending.error(reading.name)
    if damage or ending.state == "sealed":
        return damage
    what = "one line verifies" if ending.lines == 1 else f"{ending.lines:,} lines verify"
    return RecordsError(f"{reading.name} is not sealed: {ending.sentence}", f"its {what}")
