"""`capture ...` and `python -m capture_cli ...`."""

import gc
import sys
from typing import NoReturn

NEED_CLEANUP = {"duckdb", "mlflow", "triton"}
"""Packages that complain on stderr about objects left at exit, so these must be collected."""


def main() -> NoReturn:
    """Run the command line in sys.argv and exit with its code.

    Garbage collection is on while a command runs, but not before and after: imported modules stay anyway.
    """
    gc.disable()
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


if __name__ == "__main__":
    main()
