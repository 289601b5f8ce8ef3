"""`make bench`: the cost of capture beside what one would do without it, measured in one run on one machine.

    python benchmarks/bench.py [--only NAME] [--repeats 5] [--json FILE]
    python benchmarks/bench.py --table FILE

Each measurement is a module of its own; most can be run alone, with more options. The sides of a comparison take turns, so
that a slow moment of the machine hits both. Figures are medians unless a row says otherwise. Rows are printed as they finish,
as one Markdown table. `--json` also saves them, in place of earlier rows of the same measurement, so that a run can be made in
parts; `--table` prints such a file. docs/benchmarks.md explains each row and holds one run.

What cannot be measured here, because a package, data or a GPU is missing, has a row that says so. That is no failure, nor is a
missed target; exit code 1 means that a command failed.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import peers
import reading
from cuda import cuda
from data_cost import photographs
from debian import NoDataError
from growth import growth, memory
from measuring import HERE, NotMeasuredError, Row, machine, table, table_line
from neighbours import neighbours
from record_cost import record_cost
from scan import scan
from sinks import sinks
from startup import startup
from steps import step, thousand
from whole import whole

MEASUREMENTS: dict[str, Callable[[int], Iterable[Row]]] = {
    "step": step,
    "thousand": thousand,
    "whole": whole,
    "mlflow": peers.mlflow,
    "lightning": peers.lightning,
    "weightslab": peers.weightslab,
    "record": record_cost,
    "sinks": sinks,
    "photographs": photographs,
    "memory": memory,
    "growth": growth,
    "inspect": reading.inspect,
    "rows": reading.rows,
    "startup": startup,
    "neighbours": neighbours,
    "scan": scan,
    "large": reading.large,
    "cuda": cuda,
}
"""Name -> what measures it, so often in turn as it is told."""
ONLY_IF_NAMED = {"large", "cuda"}
"""One needs 10 GB on the disk, the other a GPU."""


def main() -> int:
    """Measure what was asked for and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", choices=MEASUREMENTS, action="append", help="measure this alone (may be repeated)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE", help="put the rows into this file as well")
    parser.add_argument("--table", type=Path, metavar="FILE", help="measure nothing, print the rows of such a file")
    options = parser.parse_args()
    if options.table:
        print(told(json.loads(options.table.read_text())))
        return 0
    print(machine() + "\n\n" + table([]), flush=True)
    failed = []
    for name in options.only or [name for name in MEASUREMENTS if name not in ONLY_IF_NAMED]:
        print(f"measuring {name} ...", file=sys.stderr, flush=True)
        rows = []
        try:
            for row in MEASUREMENTS[name](options.repeats):
                print(table_line(row), flush=True)
                rows.append(row)
        except (NoDataError, NotMeasuredError) as reason:
            rows.append(Row(name, "not measured", str(reason), "-", "-", False))
            print(table_line(rows[-1]), flush=True)
        except subprocess.CalledProcessError as error:
            said = (error.stderr or "").strip()[-500:]
            failed.append(f"{name} not measured: {' '.join(error.cmd[:4])} ... left with exit code {error.returncode}: {said}")
        if options.json and rows:
            keep(options.json, name, rows, options.repeats)
    for line in failed:
        print(line, file=sys.stderr)
    return 1 if failed else 0


def keep(file: Path, name: str, rows: list[Row], repeats: int) -> None:
    """Put the rows of a measurement into a file, in place of those that it has."""
    kept: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    kept[name] = {"machine": machine(), "commit": commit(), "repeats": repeats, "rows": rows}
    file.write_text(json.dumps({each: kept[each] for each in MEASUREMENTS if each in kept}, indent=1) + "\n")


def commit() -> str:
    """Of the checkout, with a + where files of it were changed since; empty where there is no git."""
    command = ["git", "-C", str(HERE), "describe", "--always", "--dirty=+", "--exclude=*"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def told(kept: dict[str, Any]) -> str:
    """The table of a file, below what was measured on and of which commits."""
    machines = dict.fromkeys(one["machine"] for one in kept.values())
    commits = dict.fromkeys(one["commit"] for one in kept.values())
    rows = [Row(*row) for one in kept.values() for row in one["rows"]]
    return f"{'; '.join(machines)}; commit {', '.join(commits)}\n\n{table(rows)}"


if __name__ == "__main__":
    sys.exit(main())
