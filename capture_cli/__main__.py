"""`capture ...` and `python -m capture_cli ...`."""

import gc
import sys
from typing import NoReturn

COMPLAINING = {"duckdb", "mlflow", "triton"}
"""Packages that write to stderr what is left of them when the process ends, so that nothing may be left."""


def main() -> NoReturn:
    """Run the command line in sys.argv and leave with its exit code.

    Garbage is looked for while a command works, and not before and after: what is imported stays.
    """
    gc.disable()
    try:
        from capture_cli.cli import run

        code = run(sys.argv[1:])
    except KeyboardInterrupt:  # before a command could hear of it
        code = 130
    if "torch" in sys.modules and not COMPLAINING & sys.modules.keys():
        gc.freeze()  # else the interpreter goes through all of torch once more before it ends
    sys.exit(code)


if __name__ == "__main__":
    main()
