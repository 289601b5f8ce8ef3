"""`capture ...` and `python -m capture_cli ...`."""

import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line in sys.argv and leave with its exit code."""
    try:
        from capture_cli.cli import run

        code = run(sys.argv[1:])
    except KeyboardInterrupt:  # before a command could hear of it
        code = 130
    sys.exit(code)


if __name__ == "__main__":
    main()
