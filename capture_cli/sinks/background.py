"""What makes a sink harmless: its work is done by one thread, from a queue that is never waited for.

    background = Background("mlflow", rest="`capture log RUN --mlflow URI` sends the rest")
    background.put(job, metrics=200)            # returns at once: queued, or dropped and counted
    background.close(seconds=30)                # waits so long for what is queued, says what was not sent
    background.counts()                         # for events.jsonl

A job is a function without arguments. One that raises is the last: the caller is warned once, from its own thread, and whatever
comes later is counted as dropped.
"""

import time
import warnings
from collections import Counter
from collections.abc import Callable
from queue import Full, Queue
from threading import Event, Lock, Thread
from typing import Any, NamedTuple

from capture_cli.errors import CaptureError

CAPACITY = 64
"""Jobs that may wait: some minutes of them at a job every few seconds."""
WAIT_SECONDS = 60.0
"""At the end of a run, for what is still to be sent."""
MAX_CHARACTERS = 200
"""Of an error in a warning."""


class _Job(NamedTuple):
    run: Callable[[], object]
    parts: dict[str, int]


class Background:
    """One thread that does jobs in the order they came."""

    def __init__(self, name: str, *, rest: str = "", capacity: int = CAPACITY) -> None:
        """`name` is what warnings call the sink; `rest` how what was not sent can be had after all."""
        self.error = ""
        """Why it gave up; empty if it did not."""
        self._name, self._rest = name, rest
        self._sent: Counter[str] = Counter()
        self._dropped: Counter[str] = Counter()
        self._failed: Counter[str] = Counter()
        self._queue: Queue[_Job | None] = Queue(capacity)
        self._abandoned = Event()
        self._under_way: _Job | None = None
        self._settling = Lock()
        self._warned = False
        self._thread = Thread(target=self._work, name=f"capture-{name}", daemon=True)
        self._thread.start()

    @property
    def abandoned(self) -> bool:
        """Whether nobody waits any more: a long job asks between its parts, and ends."""
        return self._abandoned.is_set()

    def put(self, job: Callable[[], object], **parts: int) -> bool:
        """Have a job done, without waiting; False if it was dropped. `parts` are what it holds, by name, for the counts."""
        self._warn_of_error()
        if not self.error:
            try:
                self._queue.put_nowait(_Job(job, parts))
            except Full:
                pass
            else:
                return True
        self._dropped.update(parts)
        return False

    def close(self, seconds: float) -> None:
        """Wait at most so long until everything is done, and warn, unless it was done before, of what was not sent."""
        until = time.monotonic() + seconds
        with warnings.catch_warnings():  # a tracker's own while it is waited for; ours follow below
            warnings.simplefilter("ignore")
            try:
                self._queue.put(None, timeout=seconds)
            except Full:
                pass
            else:
                self._thread.join(max(0.0, until - time.monotonic()))
        if self._thread.is_alive():
            self._abandoned.set()
            if job := self._under_way:
                self._settle(job, self._failed)
            self.error = self.error or f"no end within {seconds:g} seconds"
        self._count_what_is_left()
        self._warn_of_error()
        if self._dropped and not self._warned:
            self._warn(f"{self._name}: not sent, since it is slower than the run: {_listed(self._dropped)}")

    def counts(self) -> dict[str, Any]:
        """What was sent, dropped and failed, by name, and the error."""
        counts = {"sent": dict(self._sent), "dropped": dict(self._dropped), "failed": dict(self._failed)}
        return counts | ({"error": self.error} if self.error else {})

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            if self.error or self._abandoned.is_set():
                self._dropped.update(job.parts)
                continue
            self._under_way = job
            try:
                job.run()
            except Exception as error:  # noqa: BLE001 - whatever a tracker's library raises must not reach the training
                self._settle(job, self._failed, described(error))
            else:
                self._settle(job, self._sent)

    def _settle(self, job: _Job, counts: Counter[str], error: str = "") -> None:
        """Count what became of a job, once: the thread may be given up while it is at it."""
        with self._settling:
            if self._under_way is job:
                counts.update(job.parts)
                self.error = self.error or error
                self._under_way = None

    def _count_what_is_left(self) -> None:
        with self._queue.mutex:
            left = [job for job in self._queue.queue if job]
            self._queue.queue.clear()
        for job in left:
            self._dropped.update(job.parts)
        if self._thread.is_alive():
            self._queue.put_nowait(None)  # its end, once what is under way has come to one

    def _warn_of_error(self) -> None:
        if self.error and not self._warned:
            self._warn(f"{self._name}: {self.error}; the run goes on without it")

    def _warn(self, text: str) -> None:
        self._warned = True
        warnings.warn(f"{text}; {self._rest}" if self._rest else text, stacklevel=4)


def described(error: BaseException) -> str:
    """The first line of what an error says, not too long for one line on a terminal; what we raise names all there is to it."""
    text = next(iter(str(error).strip().splitlines()), "")
    if isinstance(error, CaptureError):
        return text[:MAX_CHARACTERS]
    return f"{type(error).__name__}: {text}"[:MAX_CHARACTERS] if text else type(error).__name__


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{n:,} {what}" for what, n in counts.items() if n)
