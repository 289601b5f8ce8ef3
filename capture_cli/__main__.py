"""`capture ...` and `python -m capture_cli ...`."""

import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line in sys.argv and leave with its exit code."""
    from capture_cli.cli import run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
