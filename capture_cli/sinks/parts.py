"""The records in immutable parts, and the table of labels that they hold.

    parts = Parts(read, folder)                     # read(offset, count) -> bytes of records.jsonl
    parts.pass_over(known_bytes, known_parts)       # what an earlier process has sent
    for path in parts.cut(until): ...               # folder/part-00007.jsonl: whole lines, nothing encoded anew
    parts.table.path                                # folder/labels.csv: file,label,split

The parts one after the other are the file. Each holds whole lines, and is never written to again.
"""

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from capture_cli.errors import RecordsError
from capture_cli.records import loads

Read = Callable[[int, int], bytes]
PART_BYTES = 16 << 20
"""A part is sent when so much has come."""
MAX_PART_BYTES = 64 << 20
"""What has come since is cut into parts of at most this size, a longer line aside."""
PART_SECONDS = 60.0
"""At the end of an epoch less is sent, too, where the last part is so long ago."""
_BLOCK_BYTES = 1 << 20
TABLE = "labels.csv"
_PHASE = re.compile(rb'"phase":"([^"]+)"')


class Parts:
    """Goes through the records once, from the beginning."""

    def __init__(self, read: Read, folder: Path) -> None:
        """`folder` is where parts and table are written."""
        self.run: dict[str, Any] = {}
        """The run record that holds where it is, as plain values."""
        self.table = Table(folder / TABLE)
        self.offset = 0
        """Bytes of the records that are in parts."""
        self.number = 0
        """Of the next part."""
        self._read, self._folder = read, folder

    def pass_over(self, until: int, number: int) -> None:
        """Read up to `until` bytes, which are in the first `number` parts already."""
        while self.offset < until:
            block = self._lines(min(until, self.offset + _BLOCK_BYTES))
            self._look_at(block)
            self.offset += len(block)
        self.number = number

    def cut(self, until: int) -> Iterator[Path]:
        """The records up to `until` bytes, which end a line, as parts; each is removed before the next is made.

        Only a part that the caller comes back from counts as sent.
        """
        while self.offset < until:
            path = self._folder / f"part-{self.number:05d}.jsonl"
            size = 0
            with path.open("wb") as file:
                while size < MAX_PART_BYTES and self.offset + size < until:
                    block = self._lines(min(until, self.offset + size + _BLOCK_BYTES), start=self.offset + size)
                    file.write(block)
                    self._look_at(block)
                    size += len(block)
            yield path
            path.unlink()
            self.offset += size
            self.number += 1

    def _lines(self, until: int, start: int | None = None) -> bytes:
        """Whole lines from `start` (by default where it is) to about `until`: at least one."""
        begin = self.offset if start is None else start
        block = whole(self._read, begin, until - begin)
        if (end := block.rfind(b"\n")) >= 0:
            return block[: end + 1]
        while (end := block.find(b"\n")) < 0:
            more = whole(self._read, begin + len(block), _BLOCK_BYTES)
            if not more:
                raise RecordsError("the records ended before they should", "they were cut or closed meanwhile")
            block += more
        return block[: end + 1]

    def _look_at(self, block: bytes) -> None:
        for line in block.removesuffix(b"\n").split(b"\n"):
            kind = line[line.find(b'"kind":"') + 8 : 64].partition(b'"')[0]
            if kind == b"run":
                self.run = loads(line)
            self.table.take(kind, line, self.run.get("classes", ()))


def whole(read: Read, offset: int, count: int) -> bytes:
    """`count` bytes from `offset` on, less where there are no more."""
    parts = []
    while count and (data := read(offset, count)):
        parts.append(data)
        offset, count = offset + len(data), count - len(data)
    return b"".join(parts)


def first_line(read: Read) -> bytes:
    """The run record with which the records begin. Raises RecordsError if it is not all there."""
    line = b""
    while b"\n" not in line:
        more = read(len(line), _BLOCK_BYTES)
        if not more:
            raise RecordsError("the records have no whole line yet")
        line += more
    return line[: line.index(b"\n")]


class Table:
    """What every sample was called and labelled, in the order of the records: a CSV file with a header."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = 0
        self._announced = False
        self._over: set[bytes] = set()
        path.write_text("file,label,split\n")

    def take(self, kind: bytes, line: bytes, classes: Sequence[str]) -> None:
        """Look at one line. Where no samples are announced, they are those of the first epoch of each phase."""
        if kind == b"samples":
            self._announced = True
            record = loads(line)
            self._write(zip(record["files"], record["labels"], record["splits"], strict=True), classes)
        elif kind in (b"batch", b"epoch") and not self._announced:
            found = _PHASE.search(line, 0, 200)
            if found and kind == b"epoch":
                self._over.add(found[1])
            elif found and found[1] not in self._over:
                record = loads(line)
                if "sequences" not in record:
                    names = record.get("files") or map(str, record["ids"])
                    rows = ((name, label, record["phase"]) for name, label in zip(names, record["labels"], strict=True))
                    self._write(rows, classes)

    def _write(self, rows: Iterable[tuple[str, int, str]], classes: Sequence[str]) -> None:
        named = [(name, classes[label], split) for name, label, split in rows]
        with self.path.open("a", encoding="utf-8", errors="surrogateescape", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(named)
        self.rows += len(named)
