"""A recorder that ended with an error keeps it in the run folder, and `capture inspect` shows it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from calling import Caller
from capture_cli import Recorder
from capture_cli.recorder.lifetime import one_line
from capture_cli.runfolder import open_output
from capture_cli.runs.failing import failure
from recordings import batch_of, verified


class MuteError(Exception):
    """An error whose text cannot be made."""

    def __str__(self) -> str:
        raise ValueError


def fail(out: Path, error: BaseException, *, batches: int = 1) -> None:
    """Record, then raise the error, which must reach the caller."""

    def loop() -> None:
        with Recorder(out) as recorder:
            for number in range(batches):
                recorder.record(**batch_of(4, 3, first=4 * number))
            raise error

    with pytest.raises(type(error)):
        loop()


def test_inspect_says_why(tmp_path: Path, call: Caller) -> None:
    """Also if nothing was recorded before, and after a tracker noted something."""
    fail(tmp_path / "run", ValueError("the images\n  are gone"))
    fail(tmp_path / "early", RuntimeError("no images"), batches=0)
    assert "\nerror     ValueError: the images are gone\n" in call("inspect", "run").out
    assert json.loads(call("inspect", "run", "--json").out)["failure"] == "ValueError: the images are gone"
    with (tmp_path / "run/events.jsonl").open("a") as events:
        events.write('{"event":"sink","sent":2}\n')
    assert "\nerror     ValueError: the images are gone\n" in call("inspect", "run").out
    assert "\nerror     RuntimeError: no images\n" in call("inspect", "early").out


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError(), "ValueError"),
        (MuteError(), "MuteError"),
        (KeyError("cat"), "KeyError: 'cat'"),
        (OSError(2, "No such file", "caf\udce9.png"), "FileNotFoundError: [Errno 2] No such file: 'caf\\udce9.png'"),
        (ValueError("x" * 1000), "ValueError: " + "x" * 285 + "..."),
    ],
    ids=["no text", "unwritable", "key", "not UTF-8", "long"],
)
def test_an_error_is_one_line(tmp_path: Path, error: Exception, text: str) -> None:
    """Its type and its text, of limited length."""
    assert one_line(error) == text
    fail(tmp_path / "run", error)
    assert failure(tmp_path / "run") == text
    assert verified(tmp_path / "run") == "failed"


def test_only_a_failure_has_an_error(tmp_path: Path) -> None:
    """A run that completed, or that Ctrl-C ended, has none; nor has one that is continued and completed."""
    fail(tmp_path / "stopped", KeyboardInterrupt("mine"))
    Recorder(tmp_path / "done").close()
    fail(tmp_path / "again", ValueError("mine"))
    with Recorder(tmp_path / "again", append=True) as recorder:
        recorder.record(**batch_of(4, 3, epoch=1))
    assert [failure(tmp_path / one) for one in ("stopped", "done", "again")] == [""] * 3


def test_a_recorder_that_nobody_closes_keeps_the_error_of_the_program(tmp_path: Path) -> None:
    """And one that is closed by hand that of its argument."""
    code = "import torch; from capture_cli import Recorder; r = Recorder('run'); raise ValueError('mine')"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False, capture_output=True, timeout=120)
    Recorder(tmp_path / "by hand").close("failed", error=TypeError("mine"))
    Recorder(tmp_path / "unknown").close("failed")
    found = [failure(tmp_path / one) for one in ("run", "by hand", "unknown")]
    assert found == ["ValueError: mine", "TypeError: mine", ""]


def test_a_watch_that_saw_nothing_says_so(tmp_path: Path, call: Caller) -> None:
    """No exception ended it."""
    with pytest.warns(UserWarning, match="never called"), Recorder(tmp_path / "run") as recorder:
        recorder.watch(torch.nn.CrossEntropyLoss())
    assert "\nerror     nothing was recorded: the watched loss function was never called\n" in call("inspect", "run").out


def test_events_hold_names_that_are_not_utf8(tmp_path: Path) -> None:
    """Of a folder of images, on the command line, or in an error."""
    with open_output(str(tmp_path / "run"), name=None, model="", force=False) as output:
        output.event("start", command=["train", "caf\udce9"])
        output.event("end", status="failed", error="no such folder: 'caf\udce9'")
    assert failure(tmp_path / "run") == "no such folder: 'caf\udce9'"
