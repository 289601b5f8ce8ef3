"""The terminal that stdout may be: views are told its width, and draw plain lines without one."""

import shutil
import sys


def terminal_width() -> int | None:
    """Cells of a line of the terminal that stdout is; None for a pipe or a file."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None
