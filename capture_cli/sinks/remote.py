"""A process of its own for what a sink's libraries do, so that neither their work nor their faults are the training's.

    remote = Remote("mlflow", uri=uri)              # raises UsageError, as that process finds out
    remote.call("points", points=[...])             # waits for the answer; raises CaptureError with what went wrong there
    remote.close()

In a thread such work would cost the training as much time as it takes, since the interpreter runs one thread at a time. The
process (capture_cli.sinks.process) is niced, takes calls on its standard input, and ends when that is closed, however this one
ends. It may be killed at any time.
"""

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from capture_cli.errors import CaptureError, UsageError
from capture_cli.sinks.messages import dumps, loads

END_SECONDS = 2.0
"""For an end of its own, once nothing more comes."""


class Remote:
    """One process. Only one thread may call it at a time."""

    def __init__(self, kind: str, **options: Any) -> None:
        """Start it with what `kind` is made of. Raises UsageError where that cannot be had."""
        root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "capture_cli.sinks.process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if os.environ.get("CAPTURE_DEBUG") else subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C is for the training, which then says how it ended
        )
        try:
            self.made = self.call("make", kind=kind, **options)
            """What is known of it once it is made."""
        except BaseException:
            self.close(at_once=True)
            raise

    def call(self, name: str, **arguments: Any) -> dict[str, Any]:
        """Have something done there, and return what is said of it. Raises CaptureError, or UsageError if it was one."""
        calls, answers = self._process.stdin, self._process.stdout
        assert calls is not None  # noqa: S101 - both are pipes
        assert answers is not None  # noqa: S101
        try:
            calls.write(dumps({"call": name, **arguments}))
            calls.flush()
            line = answers.readline()
        except (OSError, ValueError) as error:  # ValueError: closed here
            raise CaptureError("its process has ended") from error
        if not line:
            raise CaptureError("its process has ended")
        answer = loads(line)
        if "error" in answer:
            raise (UsageError if answer["usage"] else CaptureError)(answer["error"], answer["hint"])
        return answer

    def close(self, *, at_once: bool = False) -> None:
        """Let it end, and end it if it does not, or `at_once`. May be called twice."""
        if at_once:
            self.kill()
        with contextlib.suppress(OSError):
            if self._process.stdin:
                self._process.stdin.close()
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
        if self._process.stdout:
            self._process.stdout.close()

    def kill(self) -> None:
        """End it at once; a call that waits raises CaptureError."""
        self._process.kill()
        self._process.wait()
