"""CSV for people and for `--labels`: lines end in a line feed, and any value that has a line break of whatever kind is quoted.

csv.writer(CsvLines(sys.stdout)).writerow(["a\\rb.png", "cat"])
"""

from typing import TextIO


class CsvLines:
    """A file for `csv.writer`, which quotes a carriage return only where its lines end in one."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def write(self, line: str) -> int:
        """Write one line, without the carriage return at its end."""
        return self._out.write(line.removesuffix("\r\n") + "\n")
