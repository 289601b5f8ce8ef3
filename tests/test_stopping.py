"""capture_cli.stopping: the first signal sets a flag, and handlers are restored."""

import signal

import pytest

from capture_cli.stopping import Stopping


@pytest.mark.parametrize(
    ("signum", "code", "name"),
    [(signal.SIGINT, 130, "Ctrl-C"), (signal.SIGTERM, 143, "SIGTERM"), (signal.SIGHUP, 143, "SIGHUP")],
)
def test_the_first_signal_asks_to_stop(signum: signal.Signals, code: int, name: str) -> None:
    """The flag is set, the user is told how to stop at once, and the exit code is that of the design."""
    before = signal.getsignal(signum)
    told: list[str] = []
    with Stopping(told.append) as stopping:
        assert (stopping(), stopping.exit_code) == (False, 0)
        signal.raise_signal(signum)
        assert (stopping(), stopping.exit_code) == (True, code)
    assert told == [f"stopping after this batch; {name} again stops at once"]
    assert signal.getsignal(signum) == before


def test_nohup_is_respected() -> None:
    """A SIGHUP that the shell had ignored stays ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Stopping(lambda _: None) as stopping:
            signal.raise_signal(signal.SIGHUP)
            assert not stopping()
    finally:
        signal.signal(signal.SIGHUP, before)
