"""The sink process: follows the records of a run and sends them on.

    python -m capture_cli.sinks.process             # capture_cli.sinks.follower starts it

Standard input has two lines of JSON: the tracker and its options, then the run. Once another line comes, or the training is
gone, the rest is sent and the process ends. Standard output takes a line when the tracker is ready, when the run has begun
there, and when all is sent or something went wrong. The process is niced, so that the training has the processors first, and
what libraries print goes to standard error.
"""

import json
import os
import re
import select
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from capture_cli.errors import CaptureError, UsageError
from capture_cli.runfolder import RECORDS
from capture_cli.runs import open_run
from capture_cli.sinks import event_files, mlflow_run
from capture_cli.sinks.pictures import Spool
from capture_cli.sinks.sending import Destination, Sending, alone, described

NICENESS = 10
SECONDS = 1.0
"""Between two looks at the records."""
TRACKERS: dict[str, Callable[..., Destination]] = {
    mlflow_run.NAME: mlflow_run.MlflowRun,
    event_files.NAME: event_files.EventFiles,
}


def main() -> None:
    """Send one run."""
    os.nice(NICENESS)
    calls = open(0, "rb", buffering=0, closefd=False)  # noqa: SIM115 - without a buffer, so that `select` sees everything
    reports = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)

    def report(**values: Any) -> None:
        with suppress(BrokenPipeError):  # the training is gone
            reports.write(json.dumps(values).encode() + b"\n")

    destination = None
    with tempfile.TemporaryDirectory(prefix="capture-") as scratch:
        try:
            options = json.loads(calls.readline())
            destination = TRACKERS[options.pop("tracker")](**options)
            report(scratch=scratch, uri=getattr(destination, "uri", ""))
            if run := calls.readline():
                lines = _send(destination, Path(scratch), calls, report, json.loads(run))
                report(run=destination.identity, sent=destination.sent, lines=lines)
        except Exception as error:  # noqa: BLE001 - whatever a tracker's library raises is for the training to tell of
            hint = error.hint if isinstance(error, CaptureError) else ""
            text = re.sub(r"/proc/self/fd/\d+/?", "", described(error))  # how this process calls the run folder
            failure = {"error": text, "hint": hint, "usage": isinstance(error, UsageError)}
            known = {"run": destination.identity, "sent": destination.sent} if destination else {}
            report(**failure, **known)


def _send(destination: Destination, scratch: Path, calls: BinaryIO, report: Callable[..., None], run: dict[str, Any]) -> int:
    """Send a run until it ends; return how many records that were. Raises RecordsError where they do not verify.

    An earlier process wrote its first `until` bytes: inputs of the evaluations in them are made again.
    """
    parent, identity = os.getppid(), destination.identity
    place = _held(run["place"], run["held"])
    copy = scratch / RECORDS
    copy.touch()  # where the training copies records that go into a pipe
    with alone(destination.open(**place)), open_run(place["records"] or copy) as records:
        sending = Sending(records, destination, Spool(scratch), worst=run["worst"])
        if run["until"]:
            sending.reproduce(until=run["until"])
        while not sending.advance(SECONDS):
            if destination.identity != identity:
                identity = destination.identity
                report(run=identity)
            if select.select([calls], [], [], 0 if sending.behind else SECONDS)[0] or os.getppid() != parent:
                break
        if error := sending.finish():
            raise error
    return sending.lines


def _held(place: dict[str, Any], folder: str | None) -> dict[str, Any]:
    """Reach the run folder by a descriptor, as the training does, so that it may be moved; `folder` is the training's own."""
    try:
        descriptor = os.open(folder or "", os.O_RDONLY | os.O_DIRECTORY)
    except OSError:  # no folder, or a system without /proc
        return place
    held = f"/proc/self/fd/{descriptor}"
    return {**place, "folder": held, "records": f"{held}/{RECORDS}"}


if __name__ == "__main__":
    main()
