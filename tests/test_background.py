"""The thread of a sink: nobody waits for it, one warning, and everything is counted."""

import threading
import time
import warnings

import pytest

from capture_cli.sinks.background import Background


def test_jobs_are_done_in_order_and_counted() -> None:
    """What was put is done by one thread, in the order it came; nothing is said."""
    done: list[int] = []
    background = Background("test")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for number in range(20):
            assert background.put(lambda number=number: done.append(number), jobs=1, numbers=10)
        background.close(10)
    assert done == list(range(20))
    assert background.counts() == {"sent": {"jobs": 20, "numbers": 200}, "dropped": {}, "failed": {}}


def test_a_full_queue_drops_and_counts_and_nobody_waits() -> None:
    """While a job hangs as many wait as there is room for; the others are dropped at once, and said once at the end."""
    gate = threading.Event()
    background = Background("test", rest="see there", capacity=3)
    background.put(gate.wait, jobs=1)
    while background._queue.qsize():  # the thread has taken it
        time.sleep(0.01)
    began = time.perf_counter()
    assert [background.put(lambda: None, jobs=1) for _ in range(1000)] == [True] * 3 + [False] * 997
    assert time.perf_counter() - began < 0.5
    gate.set()
    with pytest.warns(UserWarning, match=r"^test: not sent, since it is slower than the run: 997 jobs; see there$") as heard:
        background.close(10)
    assert len(heard) == 1
    assert background.counts() == {"sent": {"jobs": 4}, "dropped": {"jobs": 997}, "failed": {}}


def test_an_error_is_the_last_job_and_one_warning() -> None:
    """The caller hears of it from its own thread, once; what comes later is dropped without being tried."""
    done: list[str] = []
    background = Background("test")

    def fail() -> None:
        raise ConnectionError("first line\nsecond line")

    background.put(lambda: done.append("before"), jobs=1)
    background.put(fail, jobs=1)
    while not background.error:
        time.sleep(0.01)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        assert not background.put(lambda: done.append("after"), jobs=1)
        assert not background.put(lambda: done.append("after"), jobs=1)
        background.close(10)
    assert [str(one.message) for one in heard] == ["test: ConnectionError: first line; the run goes on without it"]
    assert done == ["before"]
    error = "ConnectionError: first line"
    assert background.counts() == {"sent": {"jobs": 1}, "dropped": {"jobs": 2}, "failed": {"jobs": 1}, "error": error}


def test_the_end_waits_no_longer_than_it_was_told_to() -> None:
    """A job that hangs is left alone, and what stands behind it counts as dropped; the thread ends once it can."""
    gate = threading.Event()
    background = Background("test")
    background.put(gate.wait, jobs=1)
    background.put(lambda: None, jobs=1)
    began = time.monotonic()
    with pytest.warns(UserWarning, match=r"no end within 0\.2 seconds"):
        background.close(0.2)
    assert time.monotonic() - began < 2
    assert background.abandoned
    counts = background.counts()
    assert (counts["failed"], counts["dropped"]) == ({"jobs": 1}, {"jobs": 1})
    gate.set()
    background._thread.join(timeout=10)
    assert not background._thread.is_alive()
