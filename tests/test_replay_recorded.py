"""Replay of runs recorded in a loop of your own: only stored inputs can be compared."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from capture_cli import Recorder
from recordings import batch_of

Capture = Callable[..., subprocess.CompletedProcess[str]]

DTYPES = ["float32", "float64", "float16", "bfloat16", "float8_e5m2", "uint8", "int64", "int32", "int16", "bool", "complex64"]


def recorded(path: Path, *, shape: tuple[int, ...] = (5, 2), dtype: str = "float32", batches: int = 3, **options: Any) -> Path:
    """A run with batches of 4 samples and inputs of this shape and dtype."""
    with Recorder(path, **options) as recorder:
        for number in range(batches):
            values = torch.rand(4, *shape, generator=torch.Generator().manual_seed(number)) * 100
            given = batch_of(4, 3, seed=number, first=4 * number)
            recorder.record(**given | {"inputs": values.to(getattr(torch, dtype))})
    return path


@pytest.mark.parametrize("run", ["r.jsonl", "run"])
@pytest.mark.parametrize("args", [[], ["--npy", "x.npy"], ["--stored", "--npy", "x.npy"]], ids=" ".join)
def test_a_run_without_recipe_is_refused_in_one_line(capture: Capture, tmp_path: Path, run: str, args: list[str]) -> None:
    """A run without recipe is refused in one line with a way out, and no file is left."""
    recorded(tmp_path / run)
    done = capture("replay", run, *args)
    assert (done.returncode, done.stdout) == (2, "")
    assert "recorded in a loop of your own, so it does not say how its inputs were made; use --stored alone" in done.stderr
    assert not (tmp_path / "x.npy").exists()


def test_its_outputs_cannot_be_recomputed(capture: Capture, tmp_path: Path) -> None:
    """A recorder saves no weights; one line says so."""
    recorded(tmp_path / "run")
    done = capture("replay", "run", "--outputs")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("capture: no weights in 'run'")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kept", ["all", 2])
def test_stored_inputs_of_any_type_are_compared(capture: Capture, tmp_path: Path, dtype: str, kept: str | int) -> None:
    """Stored inputs are compared from packs and from lines."""
    recorded(tmp_path / "run", dtype=dtype, inputs=kept)
    done = capture("replay", "run", "--stored")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"{12 if kept == 'all' else 6} stored inputs compared, all equal"


@pytest.mark.parametrize("shape", [(), (7,), (3, 4, 4), (2, 3, 4, 5)], ids=str)
def test_stored_inputs_of_any_shape_are_compared(capture: Capture, tmp_path: Path, shape: tuple[int, ...]) -> None:
    """Inputs may be numbers, rows, pictures or clips."""
    recorded(tmp_path / "run", shape=shape, inputs="all")
    done = capture("replay", "run", "--stored", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["stored"] == 12


def test_a_changed_stored_input_is_named(capture: Capture, tmp_path: Path) -> None:
    """One changed byte of the pack is exit code 4, and names the sample, batch and line."""
    recorded(tmp_path / "run", inputs="all")
    (pack,) = (tmp_path / "run/inputs").iterdir()
    data = bytearray(pack.read_bytes())
    data[5 * 40] ^= 1  # of sample 5; an input has 40 bytes
    pack.write_bytes(data)
    done = capture("replay", "run", "--stored")
    assert done.returncode == 4
    assert done.stdout == "12 stored inputs compared, 1 differs\n"
    assert done.stderr.startswith("5: the stored input does not match the recorded digest")
    assert "train batch 1 of epoch 0, sample 1 (line 3)" in done.stderr


@pytest.mark.parametrize(("args", "count"), [(["--batch", "1"], 4), (["--sample", "9"], 1), (["--limit", "6"], 6)])
def test_a_selection_narrows(capture: Capture, tmp_path: Path, args: list[str], count: int) -> None:
    """A selection narrows stored inputs too."""
    recorded(tmp_path / "run", inputs="all")
    assert capture("replay", "run", "--stored", *args).stdout.startswith(f"{count} stored input")


def test_sequences_and_numbers_have_their_own_names(capture: Capture, tmp_path: Path) -> None:
    """There is one input per sequence, and one per sample with numeric targets."""
    with Recorder(tmp_path / "s", task="sequence", inputs="all") as recorder:
        given = batch_of(2, 3) | {"logits": torch.rand(2, 5, 3), "labels": torch.zeros(2, 5).long(), "ids": ["one", "two"]}
        recorder.record(**given | {"inputs": torch.ones(2, 5).long()})
    assert capture("replay", "s", "--stored").stdout == "2 stored inputs compared, all equal\n"
    assert capture("replay", "s", "--stored", "--sample", "two").stdout == "1 stored input compared, all equal\n"
    with Recorder(tmp_path / "n", task="regression", inputs="all") as recorder:
        recorder.record(**batch_of(4, 3) | {"labels": torch.rand(4, 3)})
    assert capture("replay", "n", "--stored").stdout == "4 stored inputs compared, all equal\n"


def test_the_flight_recorders_inputs_are_compared_too(capture: Capture, tmp_path: Path) -> None:
    """The batch with a NaN loss and the one before it are compared."""
    with Recorder(tmp_path / "run", nonfinite="record") as recorder:
        recorder.record(**batch_of(4, 3))
        recorder.record(**batch_of(4, 3, first=4) | {"logits": torch.full((4, 3), torch.nan)})
    assert capture("replay", "run", "--stored").stdout == "8 stored inputs compared, all equal\n"


def test_nothing_stored_is_an_error(capture: Capture, tmp_path: Path) -> None:
    """Comparing nothing is an error, since it proves nothing."""
    recorded(tmp_path / "r.jsonl")
    done = capture("replay", "r.jsonl", "--stored")
    assert (done.returncode, done.stdout) == (2, "")
    assert "none of these inputs was stored" in done.stderr
