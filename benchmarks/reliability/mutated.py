"""Mutated logs read like `inspect`, `rows`, `verify` and `--resume` do: only CaptureError, nothing bad shown as good.

Half of the logs have damaged bytes. The other half have damaged lines whose sequence and chain were made to fit again, as an
attacker would: those only have to fail with errors that name the problem, since a chain is no signature.
"""

import random
import re
import shutil
import string
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from benchmarks.reliability.world import RECORDS, Result, make_images, reference, warm
from capture_cli.answers.history import sample_history
from capture_cli.answers.summary import summarise
from capture_cli.answers.verification import verify
from capture_cli.errors import CaptureError
from capture_cli.records import RunInfo, decode
from capture_cli.records.chain import GENESIS, link
from capture_cli.runs import open_run
from capture_cli.tables.rows import rows

OPTIONS = (
    *("images", "-m", "linear", "-e", "2", "-b", "6", "--device=cpu"),
    *("--checkpoint-every=1000", "--inputs=1", "--probs=top:2"),
)
_TAIL = re.compile(rb',"chain":"[0-9a-f]{32}"\}\n$')
_SEQ = re.compile(rb'^\{"seq":[^,]*,')
VALUES = (
    *(
        b"null",
        b"-1",
        b"1e999",
        b"1e-999",
        b"NaN",
        b"true",
        b'""',
        b'"\\u0000"',
        b'"\\ud800"',
        b'"\xff"',
        b"{}",
        b"[]",
        b"[[]]",
    ),
    *(
        b"[null]",
        b"9" * 400,
        b"0.1",
        b"[" * 2000 + b"]" * 2000,
        b'"' + b"x" * 70000 + b'"',
        b'{"a":{"b":[]}}',
        b"18446744073709551616",
    ),
)


def figure(place: Path, result: Result, *, large: bool) -> None:
    """2,000 or 1,000,000 logs; `rows` of every fiftieth, since each takes an SQL engine."""
    warm()
    make_images(place / "images", count=16, broken=1)
    options = (OPTIONS, (*OPTIONS[:-2], "--inputs=all"))
    logs = [reference(place, one, f"reference-{number}").lines for number, one in enumerate(options)]
    draw = random.Random(5)
    whole = [_rows(place / f"reference-{number}") for number in range(len(logs))]
    for number in range(len(logs)):  # mutated in a copy of its run, with the checkpoint
        shutil.copytree(place / f"reference-{number}", place / f"mutated-{number}")
    firsts = [run for lines in logs if isinstance(run := decode(lines[0])[1], RunInfo)]
    sealed_again = 0
    for number in range(1_000_000 if large else 2_000):
        which = draw.randrange(len(logs))
        chained = draw.random() < 0.5
        data = _resealed(draw, logs[which]) if chained else _damaged(draw, b"".join(logs[which]))
        path = place / f"mutated-{which}" / RECORDS
        path.write_bytes(data)
        result.tried += 1
        is_whole = data == b"".join(logs[which])
        fault = _read(
            path, draw, firsts[which], with_rows=number % 50 == 0, chained=chained or is_whole, rows_of_whole=whole[which]
        )
        sealed_again += chained
        kept = place.parent / f"capture-mutated-{number}.jsonl"
        if fault:
            kept.write_bytes(data)
        result.expect(not fault, f"{fault} (kept as {kept.name} beside the temporary folder)")
    result.note = (
        f"logs read as `inspect`, `rows`, `verify`, `--resume` read them; in {sealed_again:,} the chain was made to fit"
    )


def _damaged(draw: random.Random, data: bytes) -> bytes:
    """One to three changes of bytes."""
    bad = bytearray(data)
    for _ in range(draw.randint(1, 3)):
        at, size = draw.randrange(len(bad)), draw.choice((1, 1, 2, 16, 300))
        match draw.randrange(6):
            case 0:
                bad[at] ^= 1 << draw.randrange(8)
            case 1:
                bad[at : at + size] = draw.randbytes(size)
            case 2:
                del bad[at : at + size]
            case 3:
                bad[at:at] = draw.choice((b"\n", b"\0", b"\xef\xbb\xbf", b"\r\n", draw.randbytes(size)))
            case 4:
                other = draw.randrange(len(bad))
                bad[at:at] = bad[other : other + size * 8]
            case 5:
                del bad[at:]
        if not bad:
            return b""
    return bytes(bad)


def _resealed(draw: random.Random, lines: list[bytes]) -> bytes:
    """One to three changes of lines or of values in them, with sequence and chain made to fit again."""
    bodies = [_TAIL.sub(b"", line) for line in lines]
    for _ in range(draw.randint(1, 3)):
        at = draw.randrange(len(bodies))
        match draw.randrange(6):
            case 0:
                bodies.insert(at, draw.choice(bodies))
            case 1 if len(bodies) > 1:
                del bodies[at]
            case 2:
                other = draw.randrange(len(bodies))
                bodies[at], bodies[other] = bodies[other], bodies[at]
            case 3:
                bodies[at] = _other_letter(draw, bodies[at])
            case _:
                bodies[at] = _other_value(draw, bodies[at])
    chain, out = GENESIS, []
    for seq, body in enumerate(bodies):
        text = _SEQ.sub(b'{"seq":%d,' % seq, body)
        chain = link(chain, text)
        out.append(b'%b,"chain":"%b"}\n' % (text, chain.hex().encode()))
    return b"".join(out)


def _other_letter(draw: random.Random, body: bytes) -> bytes:
    at = draw.randrange(len(body))
    return body[:at] + draw.choice(string.printable.replace("\n", "")).encode() + body[at + 1 :]


def _other_value(draw: random.Random, body: bytes) -> bytes:
    """Put something else where a value begins and the next comma or bracket stands."""
    starts = [found.end() for found in re.finditer(rb'[:\[,](?=[-\d"\[{tfn])', body)]
    at = draw.choice(starts)
    end = min((place for mark in (b",", b"]", b"}") if (place := body.find(mark, at)) > 0), default=len(body))
    return body[:at] + draw.choice(VALUES).replace(b"\n", b"") + body[end:]


def _rows(path: Path) -> list[bytes]:
    with open_run(path) as run:
        return b"".join(rows(run)).splitlines()


def _read(
    path: Path, draw: random.Random, first: RunInfo, *, with_rows: bool, chained: bool, rows_of_whole: list[bytes]
) -> str:
    """Read the log in every way; what was wrong with how it was read, or nothing."""
    shown: list[bytes] = []
    verified: list[bool] = []

    def all_rows() -> None:
        with open_run(path) as run:
            for block in rows(run):
                shown.extend(block.splitlines())

    def summary() -> None:
        with open_run(path) as run:
            summarise(run)

    def history() -> None:
        with open_run(path) as run:
            sample_history(run, draw.choice(("ant_0002.png", "bee", "\udcff")))

    def verification() -> None:
        with open_run(path) as run:
            verified.append(verify(run).error is None)

    def resumption() -> None:
        from capture_cli.training.resuming import check_continuation, read_previous_run

        images = ("ant_0002.png", "ant_0004.png", "bee_0001.png")
        more = replace(first, config={**first.config, "epochs": 3})
        check_continuation(read_previous_run(path.parent), more, images, allow_env_change=draw.random() < 0.5)

    ways: tuple[Callable[[], None], ...] = (summary, history, verification, resumption, *((all_rows,) if with_rows else ()))
    for way in ways:
        try:
            way()
        except CaptureError:
            continue
        except Exception as error:  # noqa: BLE001 - it is what is looked for
            return f"{way.__name__}: {type(error).__name__}: {error}"
    if not chained and any(verified):
        return "verify: a damaged log verifies"
    if not chained and shown != rows_of_whole[: len(shown)]:
        return "rows: shows rows that were not written"
    return ""
