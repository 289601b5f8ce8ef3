"""The text of table files: its encoding, what parts its cells, and what spreadsheet programs write around them.

    columns, rows = read_cells(Path("labels.csv"), limit=None)
    undecoded("Hose gr\\udcfcn")        # True: a byte that is not UTF-8

UTF-8 and UTF-16 with a byte order mark are read. Bytes that are not UTF-8 become surrogates, for a file on disk may have such a
name. A first line `sep=;` parts the cells, and columns without a name and without a value are dropped.
"""

import csv
import itertools
import json
import re
from collections.abc import Iterable
from pathlib import Path

_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


def read_cells(path: Path, limit: int | None) -> tuple[list[str], list[list[str]]]:
    """Read the columns of a table, and its rows or the first of them. Raises OSError, csv.Error, ValueError, RecursionError."""
    with path.open("rb") as file:
        is_utf_16 = file.read(2) in _UTF_16
    with path.open(encoding="utf-16" if is_utf_16 else "utf-8-sig", errors="surrogateescape", newline="") as text:
        suffix = path.suffix.lower()
        return _json_lines(text, limit) if suffix == ".jsonl" else _separated(text, suffix, limit)


def undecoded(text: str) -> bool:
    """Tell text with bytes that are not UTF-8."""
    return not text.isascii() and re.search("[\udc80-\udcff]", text) is not None


def guessed(text: str) -> str:
    """Read the bytes of `text` as Windows-1252, which older spreadsheet programs write."""
    return text.encode("utf-8", "surrogateescape").decode("cp1252", "replace")


def _separated(file: Iterable[str], suffix: str, limit: int | None) -> tuple[list[str], list[list[str]]]:
    lines = iter(file)
    header = next(lines, "")
    told = re.fullmatch(r"(?i)\"?sep=(.)\"?[\r\n]*", header)  # spreadsheet programs write and read it
    if told:
        header = next(lines, "")
    head = [header, *itertools.islice(lines, 2)]
    separator = told[1] if told else _separator(head, suffix)
    reader = csv.reader(itertools.chain(head, lines), delimiter=separator, skipinitialspace=separator == " ")
    columns = [name.strip() for name in next(reader, [])]
    if "\0" in header:
        raise ValueError("it is binary, or UTF-16 without a byte order mark")
    if len(columns) < 2:
        raise ValueError("its header line does not name two columns or more, each once")
    found = [row for row in itertools.islice(reader, limit) if any(cell.strip() for cell in row)]
    if found and all(len(row) == 1 for row in found):
        raise ValueError(f"no row has what parts its first line, '{header.strip()}': if that is a title, take it out")
    rows = [[*row, *[""] * (len(columns) - len(row))] for row in found]
    kept = [at for at, name in enumerate(columns) if name or any(row[at].strip() for row in rows)]
    return [columns[at] for at in kept], [[row[at] for at in kept] for row in rows]


def _separator(head: list[str], suffix: str) -> str:
    """Choose what parts the cells: what the first lines have equally often, else what the first one has most of."""
    if suffix == ".tsv":
        return "\t"
    equal = [one for one in ",;\t" if head[0].count(one) and len({line.count(one) for line in head}) == 1]
    separator = max(equal or ",;\t", key=head[0].count)
    return " " if suffix == ".txt" and separator not in head[0] else separator


def _json_lines(file: Iterable[str], limit: int | None) -> tuple[list[str], list[list[str]]]:
    objects = []
    for line in itertools.islice(file, limit):
        if line.strip():
            one = json.loads(line)
            if not isinstance(one, dict):
                raise ValueError("a line is not a JSON object")
            objects.append(one)
    columns = list(dict.fromkeys(name for one in objects for name in one))
    return columns, [[_text(one.get(name)) for name in columns] for one in objects]


def _text(value: object) -> str:
    return "" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
