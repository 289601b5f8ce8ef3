"""Refusals that say which run it is about, and why: no model, no labels, nothing to compare, nothing recorded."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from calling import Caller
from capture_cli.answers.lesson import RUN, Finding
from capture_cli.answers.summary import summarise
from capture_cli.errors import UsageError
from capture_cli.records import Batch, Epoch, Record, RunInfo
from capture_cli.runs import open_run
from capture_cli.training.loading import model_file
from capture_cli.views.terminal.inspect import show_summary
from runs import chained, run_records, write_run


def changed(status: str | None = "completed", **fields: Any) -> Iterator[Record]:
    """Yield the usual records, with these fields of the run record."""
    for one in run_records(status=status):
        yield replace(one, **fields) if isinstance(one, RunInfo) else one


def predictions() -> Iterator[Record]:
    """Yield the records of a prediction."""
    model = {"name": "cnn", "file": "runs/a/best.safetensors"}
    for one in run_records(epochs=1, val_every=0):
        if isinstance(one, RunInfo):
            yield replace(one, config={"weights_digest": "00"}, images={"predict": 36}, model=model)
        else:
            yield replace(one, phase="predict") if isinstance(one, Batch | Epoch) else one


@pytest.mark.parametrize(
    ("name", "last", "message"),
    [
        ("images", False, "'images' is not a run; name a run of `capture train`, or a .safetensors file"),
        ("loop", False, "'loop' has no model: a Recorder keeps predictions, not weights; name a run"),
        ("predicted", False, "'predicted' used the model of runs/a, and has none of its own; name that run"),
        (
            "killed",
            False,
            "'killed' has no model yet: it was cut off after 1 of 3 epochs; `capture train --resume killed` continues it",
        ),
        ("early", False, "'early' has no model yet: it was cut off; `capture train --resume early` continues it"),
        (
            "stopped",
            False,
            "'stopped' has no model yet: it was interrupted after 1 of 3 epochs; `capture train --resume stopped`",
        ),
        (
            "first",
            False,
            "'first' has no model yet: it failed after 0 of 3 epochs; `capture train --resume first` continues it",
        ),
        (
            "best",
            True,
            "'best' has no model of its last epoch: it was cut off after 1 of 3 epochs; `capture train --resume best` "
            "continues it; drop",
        ),
        ("gone", False, "'gone' has no model any more: its file is gone"),
    ],
)
def test_a_folder_without_a_model_says_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, last: bool, message: str
) -> None:
    """A run that a Recorder wrote or that was cut off is no unfinished file."""
    monkeypatch.chdir(tmp_path)
    trained = {"config": {"epochs": 3}}
    Path("images").mkdir()
    write_run(Path("loop"), changed(config={}))
    write_run(Path("predicted"), predictions())
    write_run(Path("killed"), changed(None, **trained))
    write_run(Path("stopped"), changed("interrupted", **trained))
    write_run(Path("first"), (one for one in changed("failed", **trained) if not isinstance(one, Epoch)))
    write_run(Path("gone"), changed(**trained))
    write_run(Path("best"), changed(None, **trained))
    (Path("best") / "best.safetensors").touch()
    Path("early").mkdir()
    (Path("early") / "config.toml").touch()
    (Path("early") / "records.jsonl").write_bytes(chained(run_records())[0][:100])
    with pytest.raises(UsageError) as raised:
        model_file(Path(name), last=last)
    assert str(raised.value).startswith(message)
    assert model_file(Path("best")).name == "best.safetensors"


def test_commands_that_need_a_model_or_labels(call: Caller) -> None:
    """Exit code 2 and one line, before anything is read."""
    write_run(Path("loop"), changed(config={}))
    write_run(Path("predicted"), predictions())
    Path("images").mkdir()
    for args, message in {
        ("evaluate", "images", "loop"): "'loop' is one; the run comes first: capture evaluate loop images",
        ("evaluate", "loop", "images"): "'loop' has no model: a Recorder keeps predictions",
        ("train", "images", "--weights", "loop"): "'loop' has no model: a Recorder keeps predictions",
        ("suspects", "predicted"): "predicted/records.jsonl has predictions of images without labels; name a training",
        ("diff", "loop"): "diff needs at least two runs; name another one: capture diff loop OTHER",
        ("train", "--name", ""): "the argument after '--name' is empty",
        ("inspect", ""): "the argument after 'inspect' is empty",
    }.items():
        done = call(*args)
        assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
        assert message in done.err


def test_diff_says_why_nothing_is_compared(call: Caller) -> None:
    """In its first line: the phases of each run, or the run that has no records."""
    write_run(Path("a"))
    write_run(Path("predicted"), predictions())
    Path("empty.jsonl").touch()
    shown = call("diff", "predicted", "a").out
    assert shown.startswith("no predictions to compare: A has predict (without labels), B has train and val; both need labels")
    assert shown.count("no predictions to compare") == 1
    done = call("diff", "a", "empty.jsonl")
    assert (done.code, done.out.partition("\n")[0]) == (4, "undecided: B: empty.jsonl: no records")
    assert "cut off before its first record: `capture train --resume RUN` continues it" in done.err


def test_two_sentences_with_one_command_show_it_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The best epoch and overfitting are both told by the table of epochs."""
    with open_run(write_run(tmp_path / "run")) as run:
        summary = summarise(run)
    epochs = ("rows", RUN, "--per", "epoch")
    findings = tuple(Finding(kind="best_epoch", text=f"Sentence {n}.", command=epochs) for n in range(2))
    show_summary(replace(summary, lesson=findings), run="run")
    shown = capsys.readouterr().out
    assert shown.count("Sentence") == 2
    assert shown.count("capture rows run --per epoch\n") == 1
