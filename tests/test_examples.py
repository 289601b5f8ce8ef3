"""The examples run unchanged, each in a process of its own, and their records verify."""

import functools
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from calling import called
from recordings import records, verified

EXAMPLES = Path(__file__).parent.parent / "examples"


def capture(*args: str | Path) -> str:
    """Run a command of capture; return its output."""
    done = called(*args, cwd=Path.cwd())
    assert done.returncode == 0, done.stderr
    return done.stdout


class Ran(NamedTuple):
    """An example that has ended."""

    place: Path
    """Its records."""
    out: str


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Ran]:
    """Run an example, once for all tests that read its records."""

    @functools.cache
    def ran(name: str) -> Ran:
        place = tmp_path_factory.mktemp(name) / "run"
        command = [sys.executable, EXAMPLES / f"{name}.py", place]
        done = subprocess.run(command, cwd=place.parent, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return Ran(place, done.stdout)

    return ran


WANTED = {
    "tabular_loop": {("train", epoch): 100 for epoch in range(5)},
    "image_loop": {(phase, epoch): n for epoch in range(3) for phase, n in (("train", 480), ("val", 120))},
    "mlflow_loop": {(phase, epoch): n for epoch in range(5) for phase, n in (("train", 480), ("val", 120))},
    "watched_loop": {("train", epoch): 300 for epoch in range(1, 5)},
    "lightning_loop": {(phase, epoch): n for epoch in range(3) for phase, n in (("train", 240), ("val", 60))},
}
"""Example -> samples captured in each pass."""


@pytest.mark.parametrize("name", WANTED)
def test_every_sample_of_every_pass_is_captured_once(name: str, run: Callable[[str], Ran]) -> None:
    """The records verify; the sums are those of the batches; each pass has each sample once, by its id."""
    place, _ = run(name)
    assert verified(place) == "completed"
    batches = records(place, "batch")
    seen: dict[tuple[str, int], list[object]] = {}
    for batch in batches:
        seen.setdefault((batch.phase, batch.epoch), []).extend(batch.ids)
    assert {one: len(set(ids)) for one, ids in seen.items()} == {one: len(ids) for one, ids in seen.items()} == WANTED[name]
    epochs = {(one.phase, one.epoch): one for one in records(place, "epoch")}
    assert {one: epoch.n for one, epoch in epochs.items()} == WANTED[name]
    assert all(epoch.captured == epoch.n for epoch in epochs.values())
    rows = capture("rows", place, "--format", "csv").splitlines()
    assert len(rows) == 1 + sum(WANTED[name].values())
    assert f"{max(epoch for _, epoch in epochs)}  " in capture("inspect", place)
    losses = [epoch.loss for (phase, _), epoch in epochs.items() if phase == "train"]
    assert losses[-1] < losses[0], "nothing was learned"


def test_ids_of_images_are_their_files(run: Callable[[str], Ran]) -> None:
    """Ids are file names whatever the sampler and the workers did, and the labels match them."""
    place, _ = run("image_loop")
    (head,) = records(place, "run")
    for batch in records(place, "batch"):
        assert batch.files == batch.ids
        assert [head.classes[label] for label in batch.labels] == [name.split("_")[0] for name in batch.ids]
    history = capture("inspect", place, "--sample", "shirt_0001.png")
    assert history.startswith("shirt_0001.png\n")
    assert len(re.findall(r"^(?:train|val) +[0-2] ", history, re.MULTILINE)) == 3


def test_a_translation_is_traced_from_text_to_tokens_to_predictions(run: Callable[[str], Ran]) -> None:
    """Each position has the id of its sentence, and the text of the sentence spells the labels."""
    place, said = run("translation")
    assert verified(place) == "completed"
    (head,) = records(place, "run")
    batches = records(place, "batch")
    for batch in batches:
        texts = dict(zip(batch.sequences["ids"], batch.extra["target"], strict=True))
        for name, text in texts.items():
            at = [row for row, one in enumerate(batch.ids) if one == name]
            assert [batch.positions[row] for row in at] == list(range(len(at)))
            assert [head.classes[batch.labels[row]] for row in at] == [*text[:198], "<end>"]
    assert len({name for batch in batches for name in batch.sequences["ids"]}) == 60
    rows = capture("rows", place, "--where", "epoch = 2 and id = '4.1'").splitlines()
    assert {json.loads(row)["extra"]["source"].split(";")[0] for row in rows} == {
        "No one shall be held in slavery or servitude"
    }
    assert re.search(r"article \d+\.\d+.*: [A-Z].*\nposition \d+ of its translation is '.*', predicted '.*'", said)


@pytest.mark.parametrize(("task", "outputs"), [("multilabel", 3), ("regression", 1)])
def test_numeric_targets(task: str, outputs: int, run: Callable[[str], Ran]) -> None:
    """Ten epochs of 64 cities each, by name."""
    path = run("number_targets").place / f"{task}.jsonl"
    assert verified(path) == "completed"
    batches = records(path, "numbers")
    assert sorted(batches[0].ids + batches[1].ids + batches[2].ids + batches[3].ids) == sorted(f"city-{i}" for i in range(64))
    assert {batch.outputs.shape for batch in batches} == {(16, outputs)}
    epochs = records(path, "epoch")
    assert epochs[-1].loss < epochs[0].loss
    assert len(capture("rows", path).splitlines()) == 640
    assert f"task      {task}" in capture("inspect", path)


def test_a_language_model_of_transformers(run: Callable[[str], Ran]) -> None:
    """Two epochs, each evaluated; every position but the first of each text is a sample."""
    place, _ = run("transformers_loop")
    assert verified(place) == "completed"
    epochs = [(one.phase, one.epoch) for one in records(place, "epoch")]
    assert epochs == [("train", 0), ("val", 0), ("train", 1), ("val", 1)]
    for batch in records(place, "batch"):
        assert len(set(batch.sequences["ids"])) == len(batch.sequences["ids"])
        assert batch.sequences["padded_length"] == 63
    assert "task      sequence" in capture("inspect", place)


def test_every_example_is_run_here_and_listed() -> None:
    """A new example needs a test and a line in examples/README.md; each is short and shows its usage."""
    there = {path.stem for path in EXAMPLES.glob("*.py")}
    assert there == {*WANTED, "translation", "number_targets", "transformers_loop"}
    page = (EXAMPLES / "README.md").read_text("utf-8")
    for name in there:
        text = (EXAMPLES / f"{name}.py").read_text("utf-8")
        assert f"python examples/{name}.py [RUN]" in text
        assert len(text.splitlines()) <= 90
        assert f"({name}.py)" in page
