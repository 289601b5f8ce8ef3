"""Checkpoints changed under a digest that fits: each is refused with a message or resumed, and none causes a crash.

A digest is no signature, so other weights cannot be recognised; runs that end with them are counted, not judged. A refusal
needs a message, and leaves records and stored inputs as they were; where the checkpoint before it is used, the run must end
with equal bytes. Most are refused when they are read: every tenth of those is resumed, and all others.
"""

import copy
import functools
import json
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.reliability.every_step import _after_checkpoint, _after_record
from benchmarks.reliability.kills import MODEL
from benchmarks.reliability.world import (
    Done,
    Reference,
    Result,
    capture,
    go_on,
    kept_files,
    make_images,
    reference,
    warm,
)

NEWEST, PREVIOUS = "checkpoint.safetensors", "checkpoint-previous.safetensors"
BASE = ("images", "-m", "net.py:net", "-e", "2", "-b", "4", "--device=cpu")
RUNS: tuple[tuple[tuple[str, ...], Callable[[], None]], ...] = (
    ((*BASE, "--checkpoint-every=3", "--inputs=all"), functools.partial(_after_record, 8)),
    ((*BASE, "--checkpoint-every=2", "--opt=sgd", "--capture-every=2"), functools.partial(_after_checkpoint, 3)),
)
"""Options, and when to die: with records behind the checkpoint, and with none."""
VALUES: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 2, 999, 2**31, 2**53, 2**64, 10**400, -0.0, 0.5, 1e308, float("nan"), float("inf")),
    *("", "val", "test", "0", "\ud800", "\0", "../x", "f" * 32, [], {}, [[]], {"seq": {}}, [0] * 1000),
)
DTYPES = ("float64", "float16", "bfloat16", "int64", "int8", "uint8", "bool", "complex64", "float8_e4m3fn")


class _Run(NamedTuple):
    """A run that ended early."""

    ref: Reference
    name: str
    body: dict[str, Any]
    tensors: dict[str, Any]


def figure(place: Path, result: Result, *, large: bool) -> None:
    """100 or 20,000 checkpoints; half of them the only one of their run."""
    warm()
    from safetensors import safe_open

    from capture_cli.checkpoint import KEY, read, to_bytes

    draw = random.Random(6)
    make_images(place / "images", count=24, broken=1)
    (place / "net.py").write_text(MODEL)
    runs = []
    for number, (options, die) in enumerate(RUNS):
        ref = reference(place, options, f"reference-{number}")
        done = capture(["train", *options, "-o", f"half-{number}", "-q"], place, before=die)
        assert done.code == -signal.SIGKILL, done
        path = place / f"half-{number}" / NEWEST
        with safe_open(path, "pt") as file:
            runs.append(_Run(ref, path.parent.name, json.loads(file.metadata()[KEY]), read(path)[1]))
    unread = resumed = refused = equal = 0
    crafted = place / "crafted.safetensors"
    for number in range(20_000 if large else 100):
        run = draw.choice(runs)
        what, text, tensors = _crafted(draw, run)
        data, alone = to_bytes(text, tensors), draw.random() < 0.5
        case = f"case {number}: {what} of {run.name}{', the only checkpoint' if alone else ''}"
        result.tried += 1
        crafted.write_bytes(data)
        if _is_refused(crafted, case, result):
            unread += 1
            if unread % 10:
                continue
        done = _resumed(place, run, data, alone=alone)
        resumed += 1
        refused += done.code != 0
        equal += done.code == 0 and not run.ref.difference(place / "run")
        _judge(place, run, done, case, result)
    others = resumed - refused - equal
    result.note = (
        f"changed under a digest that fits: {unread:,} refused when read; of {resumed:,} resumed, {refused:,} were refused"
    )
    result.note += f", {equal:,} ended with equal bytes, {others:,} with those of other weights or sums"


def _is_refused(path: Path, case: str, result: Result) -> bool:
    """Whether the file by itself is seen to be none."""
    from capture_cli.checkpoint import read
    from capture_cli.errors import CaptureError

    try:
        read(path)
    except CaptureError:
        return True
    except Exception as error:  # noqa: BLE001 - it is what is looked for
        result.expect(False, f"{case}, read: {type(error).__name__}: {error}")
        return True
    return False


def _resumed(place: Path, run: _Run, data: bytes, *, alone: bool) -> Done:
    shutil.rmtree(place / "run", ignore_errors=True)
    shutil.copytree(place / run.name, place / "run")
    (place / "run" / NEWEST).write_bytes(data)
    if alone:
        (place / "run" / PREVIOUS).unlink(missing_ok=True)
    return capture(go_on(run.ref, "run", place), place)


def _judge(place: Path, run: _Run, done: Done, case: str, result: Result) -> None:
    told = done.stderr.splitlines()
    result.expect("bug in capture" not in done.stderr and "Traceback" not in done.stderr, f"{case}: {done}")
    if done.code == 0:
        if "the one before it is used" in done.stderr:
            result.expect(not (what := run.ref.difference(place / "run")), f"{case}: the one before it, and {what} not equal")
        return
    result.expect(done.code in (1, 2, 4) and bool(told) and told[-1].startswith("capture: "), f"{case}: {done}")
    before, after = kept_files(place / run.name), kept_files(place / "run")
    changed = [name for name, data in before.items() if not after.get(name, b"").startswith(data)]
    result.expect(not changed, f"{case}: refused, and {changed} no longer begin as they did: {done}")


def _crafted(draw: random.Random, run: _Run) -> tuple[str, str, dict[str, Any]]:
    """What was changed, and the JSON and the tensors with one to three changes."""
    body, tensors = copy.deepcopy(run.body), dict(run.tensors)
    if draw.random() < 0.05:
        text = json.dumps(body)
        at = draw.randrange(len(text))
        return (
            f"JSON cut or changed at {at}",
            text[:at] + draw.choice(("", "[" * 100_000, "{", "9" * 5000, text[at + 1 :])),
            tensors,
        )
    said = [
        _other_value(draw, body) if draw.random() < 0.6 else _other_tensor(draw, tensors)
        for _ in range(draw.choice((1, 1, 1, 2, 3)))
    ]
    return ", ".join(said), json.dumps(body), tensors


def _other_value(draw: random.Random, body: dict[str, Any]) -> str:
    """Change, remove or add a value anywhere."""
    inside, names = body, []
    while True:
        if not inside:
            inside["other"] = 0
        name = draw.choice(list(inside))
        names.append(name)
        if not isinstance(inside[name], dict) or draw.random() < 0.1:
            break
        inside = inside[name]
    where, value = ".".join(names), inside[name]
    match draw.randrange(6):
        case 0:
            del inside[name]
            return f"{where} removed"
        case 1:
            inside[draw.choice(("other", "__class__", ""))] = copy.deepcopy(value)
            return f"{where} doubled"
        case 2 | 3 if isinstance(value, int | float):
            inside[name] = value + draw.choice((-1, 1, 4, 100))
        case _:
            inside[name] = copy.deepcopy(draw.choice(VALUES))
    return f"{where} = {str(inside[name])[:30]}"


def _other_tensor(draw: random.Random, tensors: dict[str, Any]) -> str:
    """Change, remove, rename or add a tensor."""
    import torch

    if not tensors:
        return "no tensors"
    name = draw.choice(list(tensors))
    tensor = tensors[name]
    match draw.randrange(8):
        case 0:
            del tensors[name]
            return f"{name} removed"
        case 1:
            other = draw.choice(
                ("optimizer.x.step", "optimizer.99.step", "optimizer.0", "optimizer.-1.step", "model.", "", name + ".0")
            )
            tensors[other] = tensors.pop(name)
            return f"{name} called {other}"
        case 2:
            tensors[name] = tensor.reshape(-1)[:-1].clone()
        case 3:
            tensors[name] = tensor.reshape(1, *tensor.shape).clone()
        case 4:
            tensors[name] = torch.zeros(0)
        case 5:
            tensors[name] = tensor.to(getattr(torch, draw.choice(DTYPES)))
        case 6 if tensor.is_floating_point():
            tensors[name] = torch.full_like(tensor, draw.choice((float("nan"), float("inf"), -1.0, 1e38)))
        case _:
            tensors[name] = tensors[draw.choice(list(tensors))].clone()
    return f"{name} made {tensors[name].dtype} {list(tensors[name].shape)}"
