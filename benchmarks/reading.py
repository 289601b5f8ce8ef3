"""`capture inspect` and `capture rows` over a large file of records, beside jq, Python's json module and DuckDB.

    python benchmarks/reading.py [--megabytes 1000] [--repeats 3]
    python benchmarks/reading.py --make DIR --megabytes 10000       # only the records

The records are those of a real `capture train` run, one epoch of Fashion-MNIST's 60,000 training images with default options,
repeated as the epochs of a longer run: `epoch`, `step` and the chain are made anew, so the file verifies and is sealed. It is
kept in benchmarks/data/.

* inspect: `capture inspect --json`, which verifies every line, beside three ways to compute the loss and accuracy of every
  phase and epoch from the batches, which verify nothing. All four must agree.
* rows: `capture rows` to JSON Lines beside jq making the same rows. Their first rows must be the same.

jq is slow, so it gets a file with a tenth of the records, and its time is scaled by the sizes of the two. Each command is a
process of its own; they take turns; times are medians, memory is the largest peak.
"""

import argparse
import json
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from fashion import folder_of
from measuring import CAPTURE, DATA, NotMeasuredError, Ran, Row, ran, table

if TYPE_CHECKING:
    from capture_cli.records import Record

MEGABYTES = 1000
MEMORY_MB = 400
COMPARED_ROWS = 10_000

JQ_AGGREGATE = """
reduce (inputs | select(.kind == "batch")) as $b ({};
  ([$b.labels, $b.preds] | transpose | map(select(.[0] == .[1])) | length) as $right
  | .["\\($b.phase) \\($b.epoch)"] |= [.[0] + ($b.losses | length), .[1] + ($b.losses | add), .[2] + $right])
| to_entries[] | [.key, .value[1] / .value[0], .value[2] / .value[0]]
"""
JQ_ROWS = """
foreach inputs as $b (null; if $b.kind == "run" then $b.classes else . end;
  . as $classes | select($b.kind == "batch") | range($b.ids | length) as $i
  | $b.labels[$i] as $l | $b.preds[$i] as $k | $b.probs[$i] as $p
  | {phase: $b.phase, epoch: $b.epoch, batch: $b.batch, step: $b.step, id: $b.ids[$i], file: $b.files[$i],
     label: $classes[$l], pred: $classes[$k], correct: ($l == $k), p_label: $p[$l], p_pred: $p[$k],
     margin: (-$b.losses[$i] - ([$p[:$l][], $p[$l + 1:][], 1.4e-45] | max | log)), loss_nats: $b.losses[$i]})
"""
JSON_AGGREGATE = """
import json, sys
sums = {}
for line in open(sys.argv[1], "rb"):
    batch = json.loads(line)
    if batch["kind"] == "batch":
        one = sums.setdefault((batch["phase"], batch["epoch"]), [0, 0.0, 0])
        one[0] += len(batch["losses"])
        one[1] += sum(batch["losses"])
        one[2] += sum(label == pred for label, pred in zip(batch["labels"], batch["preds"]))
for (phase, epoch), (n, loss, right) in sums.items():
    print(json.dumps([f"{phase} {epoch}", loss / n, right / n]))
"""
DUCKDB_AGGREGATE = """
import json, sys, duckdb
duckdb.sql("set enable_progress_bar = false")  # where a query is slow it would be among the answers
columns = {"kind": "VARCHAR", "phase": "VARCHAR", "epoch": "INTEGER", "labels": "INTEGER[]", "preds": "INTEGER[]"}
columns |= {"losses": "FLOAT[]"}
batches = duckdb.read_json(sys.argv[1], columns=columns, format="newline_delimited")
visits = duckdb.sql(
    "select phase, epoch, unnest(labels) as label, unnest(preds) as pred, unnest(losses) as loss"
    " from batches where kind = 'batch'"
)
query = "select phase || ' ' || epoch, avg(loss), avg((label = pred)::int) from visits group by phase, epoch"
for row in duckdb.sql(query).fetchall():
    print(json.dumps(row))
"""


def reading(repeats: int, megabytes: int = MEGABYTES) -> list[Row]:
    """Seconds and peak memory of both commands beside the others. Raises NoDataError where there is no Fashion-MNIST."""
    return [*inspect(repeats, megabytes), *rows(repeats, megabytes)]


def inspect(repeats: int, megabytes: int = MEGABYTES) -> list[Row]:
    """`capture inspect` alone. Raises NotMeasuredError where there is no jq."""
    _prepare()
    return _inspect(min(repeats, 3), records_file(megabytes), records_file(megabytes // 10))


def rows(repeats: int, megabytes: int = MEGABYTES) -> list[Row]:
    """`capture rows` alone. Raises NotMeasuredError where there is no jq."""
    _prepare()
    return _rows(min(repeats, 3), records_file(megabytes), records_file(megabytes // 10))


def large(_repeats: int) -> Iterator[Row]:
    """Peak memory of both with ten times as many records, once: 10 GB on the disk."""
    whole = records_file(10 * MEGABYTES)
    for name, options in {"inspect": ["--json"], "rows": []}.items():
        command = [*CAPTURE, name, str(whole), *options]
        yield _memory(f"{name}, 10 GB", [ran(["bash", "-c", 'exec "$@" > /dev/null', "-", *command])])


def _prepare() -> None:
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # modules are compiled once, as for anyone who has installed capture
    if not shutil.which("jq"):
        raise NotMeasuredError("there is no jq on the PATH")


def _inspect(repeats: int, whole: Path, tenth: Path) -> list[Row]:
    commands = {
        "capture": [*CAPTURE, "inspect", str(whole), "--json"],
        "jq": ["jq", "-nc", JQ_AGGREGATE, str(tenth)],
        "json module": [sys.executable, "-c", JSON_AGGREGATE, str(whole)],
        "DuckDB": [sys.executable, "-c", DUCKDB_AGGREGATE, str(whole)],
    }
    runs = _taking_turns(commands, repeats)
    answers = {name: _aggregate(one[0].stdout) for name, one in runs.items()}
    for name, answer in answers.items():
        _check_same(answer, answers["capture"], name)
    scale = {"jq": _size(whole) / _size(tenth)}
    wanted = {"jq": 10, "json module": 4, "DuckDB": 0.8}
    rows = [_beside("inspect", name, runs, scale.get(name, 1), at_least) for name, at_least in wanted.items()]
    return [*rows, _memory("inspect", runs["capture"])]


def _rows(repeats: int, whole: Path, tenth: Path) -> list[Row]:
    jq = ["jq", "-nc", JQ_ROWS, str(tenth)]
    _check_rows(ran([*CAPTURE, "rows", str(tenth), "--limit", f"{COMPARED_ROWS}"]).stdout, jq)
    # Into nothing: written to a disk, the rows would measure the disk.
    commands = {"capture": [*CAPTURE, "rows", str(whole)], "jq": jq}
    nowhere = {name: ["bash", "-c", 'exec "$@" > /dev/null', "-", *command] for name, command in commands.items()}
    runs = _taking_turns(nowhere, repeats)
    return [_beside("rows", "jq", runs, _size(whole) / _size(tenth), 10), _memory("rows", runs["capture"])]


def _check_rows(ours: str, jq: list[str]) -> None:
    theirs = ran(["bash", "-c", f'"$@" | head -n {COMPARED_ROWS}', "-", *jq]).stdout
    for number, (one, other) in enumerate(zip(ours.splitlines(), theirs.splitlines(), strict=True)):
        if not _same_row(json.loads(one), json.loads(other)):
            raise ValueError(f"row {number} is not the same: {one} and {other}")


def _taking_turns(commands: dict[str, list[str]], repeats: int) -> dict[str, list[Ran]]:
    runs: dict[str, list[Ran]] = {name: [] for name in commands}
    for _ in range(repeats):
        for name, command in commands.items():
            runs[name].append(ran(command))
    return runs


def _beside(what: str, name: str, runs: dict[str, list[Ran]], scale: float, at_least: float) -> Row:
    ours, theirs = median(one.seconds for one in runs["capture"]), median(one.seconds for one in runs[name]) * scale
    ratio = theirs / ours
    beside = f"{theirs:.1f} s" + (" (from a tenth)" if scale > 1 else "")
    return Row(
        f"{what}, beside {name}",
        f"{ours:.2f} s",
        beside,
        f"{ratio:.1f} times as fast",
        f"at least {at_least}",
        ratio >= at_least,
    )


def _memory(what: str, runs: list[Ran]) -> Row:
    peak = max(one.peak_mb for one in runs)
    return Row(f"{what}: peak memory", f"{peak:.0f} MB", "-", "-", f"at most {MEMORY_MB} MB", peak <= MEMORY_MB)


Aggregate = dict[str, tuple[float, float]]
"""Loss and accuracy of each phase and epoch."""


def _aggregate(stdout: str) -> Aggregate:
    lines = [json.loads(line) for line in stdout.splitlines()]
    if isinstance(lines[0], dict):
        epochs = lines[0]["epochs"]
        named = {f"{phase} {one['epoch']}": one[phase] for one in epochs for phase in ("train", "val")}
        return {name: (sums["loss"], sums["accuracy"]) for name, sums in named.items()}
    return {name: (loss, accuracy) for name, loss, accuracy in lines}


def _check_same(few: Aggregate, many: Aggregate, name: str) -> None:
    """Sums are added up in another order, of numbers that were rounded to seven digits."""
    for key, values in few.items():
        if not all(math.isclose(a, b, rel_tol=1e-5) for a, b in zip(values, many[key], strict=True)):
            raise ValueError(f"{name} comes to something else for {key}: {values} and {many[key]}")


def _same_row(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Exactly, but for the margin, which jq leaves as a double."""
    close = math.isclose(one["margin"], other["margin"], rel_tol=1e-6, abs_tol=1e-6)
    return close and list(one) == list(other) and {**one, "margin": 0} == {**other, "margin": 0}


def _size(path: Path) -> int:
    return path.stat().st_size


def records_file(megabytes: int) -> Path:
    """A sealed file of records of about that size, made if it is not there yet."""
    path = DATA / f"records-{megabytes}MB.jsonl"
    if not path.exists():
        print(f"making {path.name} ...", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(dir=DATA) as folder:
            made = Path(folder, "made.jsonl")
            # In a process of its own: what this one holds in memory would be counted as that of every command it starts.
            ran([sys.executable, __file__, "--extend", str(_one_epoch()), "--to", str(made), f"--megabytes={megabytes}"])
            made.rename(path)
    return path


def _one_epoch() -> Path:
    path = DATA / "records-one-epoch.jsonl"
    if not path.exists():
        folder = folder_of("fashion60k", DATA)
        ran([*CAPTURE, "train", str(folder), "--epochs=1", "--quiet", f"--out={path.with_suffix('.made.jsonl')}"])
        path.with_suffix(".made.jsonl").rename(path)
    return path


def extend(run: Path, to: Path, megabytes: int) -> None:
    """Write the epoch of `run` again and again into the file `to`, until it has about that many bytes."""
    from collections import Counter

    from capture_cli.records import Batch, Epoch, decode, encode
    from capture_cli.records.chain import GENESIS

    with run.open("rb") as file:
        lines = [(len(line), decode(line)[1]) for line in file]
    once = sum(size for size, record in lines if not isinstance(record, Batch | Epoch))
    epochs = round((megabytes * 1e6 - once) / (_size(run) - once))
    counts: Counter[str] = Counter()
    chain = GENESIS
    with to.open("wb") as file:
        for record in _epochs([record for _, record in lines], epochs, counts):
            line, chain = encode(record, seq=counts.total(), previous=chain)
            counts[record.kind] += 1
            file.write(line)


def _epochs(one_epoch: "Sequence[Record]", epochs: int, counts: dict[str, int]) -> "Iterator[Record]":
    from dataclasses import replace

    from capture_cli.records import Batch, End, Epoch, RunInfo

    steps = sum(isinstance(record, Batch) and record.phase == "train" for record in one_epoch)
    for epoch in range(1, epochs + 1):
        for record in one_epoch:
            if isinstance(record, Batch):
                yield replace(record, epoch=epoch, step=record.step + (epoch - 1) * steps)
            elif isinstance(record, Epoch):
                yield replace(record, epoch=epoch)
            elif epoch == 1 and isinstance(record, RunInfo):
                yield replace(record, config={**record.config, "epochs": epochs})
            elif epoch == 1 and not isinstance(record, End):
                yield record
    yield End(status="completed", counts=dict(counts))


def main() -> int:
    """Measure and print the table, or make a file of records."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--megabytes", type=int, default=MEGABYTES, help="of records")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--extend", type=Path, metavar="RECORDS", help="write this run's epoch again and again")
    parser.add_argument("--to", type=Path, metavar="FILE", help="into this file, instead of measuring")
    options = parser.parse_args()
    if options.extend:
        extend(options.extend, options.to, options.megabytes)
    else:
        print(table(reading(options.repeats, options.megabytes)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
