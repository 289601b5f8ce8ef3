"""`capture ...` and `python -m capture_cli ...`."""

import gc
import os
import sys
from typing import NoReturn

NEED_CLEANUP = {"duckdb", "mlflow", "triton"}
"""Packages that complain on stderr about objects left at exit, so these must be collected."""

SPIN = {"GOMP_SPINCOUNT": "10000"}
"""How long threads of OpenMP wait for work before they sleep, in rounds of a loop (docs/benchmarks.md).

By default torch's threads wait so long that two busy neighbours on two cores slow a training to a fifth."""
ABOUT_WAITING = {*SPIN, "OMP_WAIT_POLICY", "KMP_BLOCKTIME", "KMP_LIBRARY"}
"""Variables by which a user has decided it."""


def main() -> NoReturn:
    """Run the command line in sys.argv and exit with its code.

    Garbage collection is on while a command runs, but not before and after: imported modules stay anyway.
    """
    gc.disable()
    _use_utf8()
    if not ABOUT_WAITING & os.environ.keys():  # read when torch is loaded
        os.environ.update(SPIN)
    try:
        from capture_cli.cli import run
        from capture_cli.cli.streams import end_output

        code = run(sys.argv[1:])
        end_output()
    except KeyboardInterrupt:  # before a command could handle it
        code = 130
    if "torch" in sys.modules and not NEED_CLEANUP & sys.modules.keys():
        gc.freeze()  # or the interpreter would traverse all of torch once more before it exits
    sys.exit(code)


def _use_utf8() -> None:
    """Start again in Python's UTF-8 mode where the locale has another encoding.

    Arguments, file names and records are then decoded in one way. Else a folder would be another one in the records.
    """
    if sys.getfilesystemencoding() != "utf-8" and sys.executable:
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])  # noqa: S606 - this very command


if __name__ == "__main__":
    main()
