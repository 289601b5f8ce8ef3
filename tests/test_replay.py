"""Replay reproduces captured inputs from files and records alone, and names every untruth in either."""

import copy
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from capture_cli.errors import CaptureError
from capture_cli.pixels.decoding import codec_versions
from capture_cli.pixels.geometry import Geometry
from capture_cli.preprocessing import Recipe, make_batch, path_keys
from capture_cli.records import Batch, Record, RunInfo, Samples, decode
from capture_cli.records.chain import GENESIS, link
from capture_cli.replay import Replay, Selection
from capture_cli.replay.images import DecodedImages, ImageFile
from capture_cli.replay.recipes import RunRecipe
from capture_cli.replay.report import CAUSES, Report
from capture_cli.runs import open_run
from plain_inputs import make_one
from replay_runs import VISITS, rewrite


def replayed(run: Path, selection: Selection | None = None, *, stored: bool = False, whole: bool = False) -> Report:
    """Replay a run with the images beside it."""
    report = Report()
    with open_run(run) as reading:
        for made in Replay(reading, selection or Selection(), folder=run.parent / "images", stored=stored, whole=whole):
            made.add_to(report)
        assert selection or reading.ending.state == "sealed"
    return report


def causes(report: Report) -> dict[str, set[str]]:
    """The files by cause."""
    named: dict[str, set[str]] = {}
    for first, _ in report.differences:
        named.setdefault(first.cause, set()).add(first.subject)
    return named


def records(run: Path) -> list[Record]:
    return [decode(line)[1] for line in (run / "records.jsonl").read_bytes().splitlines()]


class TestEqual:
    """Untouched inputs are reproduced bit for bit."""

    @pytest.mark.parametrize("run", ["whole", "grown"])
    @pytest.mark.parametrize("whole", [False, True])
    def test_every_captured_input_is_reproduced(self, place: Path, run: str, whole: bool) -> None:
        """Every digest matches, in both phases and all epochs, with flips and crops, and across two run records."""
        report = replayed(place / run, stored=True, whole=whole)
        assert (report.inputs, report.equal, report.differences) == (VISITS, VISITS, [])
        batches = [record for record in records(place / run) if isinstance(record, Batch)]
        kept = [len(b.inputs.digests) - b.inputs.not_stored for b in batches]
        assert report.stored == sum(kept) > 0

    def test_a_fresh_process_reproduces_inputs_in_any_order(self, place: Path) -> None:
        """Inputs reproduced one at a time, shuffled, without torch, do not depend on those before."""
        code = """
import random, sys
sys.modules["torch"] = None
from pathlib import Path
from capture_cli.runs import open_run
from capture_cli.records import Batch, decode
from capture_cli.replay import Replay, Selection
lines = Path("whole/records.jsonl").read_bytes().splitlines()
batches = [record for record in (decode(line)[1] for line in lines) if isinstance(record, Batch)]
visits = [(b.phase, b.epoch, b.batch, file) for b in batches for file in b.files]
random.Random(7).shuffle(visits)
equal = 0
for phase, epoch, batch, file in visits:
    with open_run("whole") as reading:
        chosen = Selection(phase=phase, epoch=epoch, batch=batch, sample=file, limit=1)
        equal += sum(len(made.equal) for made in Replay(reading, chosen))
print(len(visits), equal)
"""
        done = subprocess.run([sys.executable, "-c", code], cwd=place, capture_output=True, text=True, timeout=120)
        assert done.stdout.split() == [str(VISITS)] * 2, done.stderr

    @pytest.mark.parametrize(
        ("selection", "count"),
        [
            (Selection(epoch=1), 60),
            (Selection(phase="train", limit=11), 11),
            (Selection(batch=0), 32),
            (Selection(batch=0, epoch=1, phase="val"), 8),
            (Selection(sample="bee_003.png"), 2),
            (Selection(sample="03.png"), 10),
            (Selection(epoch=3), 0),
            (Selection(sample="é.png"), 0),
        ],
        ids=str,
    )
    def test_a_selection_narrows(self, place: Path, selection: Selection, count: int) -> None:
        """Each option narrows, and together they narrow further."""
        report = replayed(place / "whole", selection)
        assert (report.inputs, report.equal) == (count, count)

    @pytest.mark.parametrize("augment", ["none", "flip", "crop", "flip+crop"])
    @pytest.mark.parametrize("phase", ["train", "val"])
    def test_numpy_makes_the_bits_of_training(self, augment: str, phase: str) -> None:
        """NumPy, torch and the plain reading of the recipe make the same bits."""
        pixels = np.random.default_rng(1).integers(0, 256, (9, 3, 7, 5), dtype=np.uint8)
        files = [f"ä/{i}.png" for i in range(9)]
        ids, keys = np.array([4, 4, 0, 8]), path_keys(files)
        recipe = Recipe(height=7, width=5, channels=3, augment=augment)
        own = RunRecipe(recipe=recipe, geometry=Geometry(height=7, width=5, channels=3), seed=3)
        mine = own.make(pixels[ids], [files[i] for i in ids], phase=phase, epoch=2)
        options = {"recipe": recipe, "seed": 3, "epoch": 2, "augment": phase == "train"}
        theirs = make_batch(torch.from_numpy(pixels), ids, keys=keys[ids], **options).numpy()  # type: ignore[arg-type]
        assert mine.tobytes() == theirs.tobytes()
        slow = [make_one(pixels[i], key=int(keys[i]), **options) for i in ids]  # type: ignore[arg-type]
        assert mine.tobytes() == np.stack(slow).tobytes()

    def test_the_decoders_are_those_that_a_run_records(self, place: Path) -> None:
        """Decoder versions have the names and values of a run record, or a changed decoder would go unnoticed."""
        run = records(place / "whole")[0]
        assert isinstance(run, RunInfo)
        now = codec_versions()
        assert now.keys() >= {"pillow", "libjpeg", "libwebp", "zlib"}
        assert now.items() <= dict(run.versions).items()


class TestFiles:
    """A changed image is named with its cause."""

    def test_one_changed_byte_is_named_wherever_it_is(self, here: Path) -> None:
        """One changed byte is found in any file, at any position, even if the picture stays the same."""
        draw = np.random.default_rng(5)
        for path in draw.choice(sorted((here / "images").iterdir()), 12, replace=False):
            whole = path.read_bytes()
            at = int(draw.integers(len(whole)))
            path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << int(draw.integers(8)))]) + whole[at + 1 :])
            report = replayed(here / "whole")
            assert causes(report) == {"changed": {path.name}}, at
            assert report.inputs - report.equal == 2
            path.write_bytes(whole)

    def test_each_file_has_its_cause(self, here: Path) -> None:
        """A missing or swapped file, a link and a FIFO each have a cause, count their visits and stop nothing else."""
        images = here / "images"
        (images / "ant_000.png").unlink()
        shutil.copy(images / "bee_000.png", images / "ant_001.png")
        (images / "ant_002.png").unlink()
        (images / "ant_002.png").symlink_to(images / "bee_000.png")
        (images / "ant_003.png").unlink()
        os.mkfifo(images / "ant_003.png")
        report = replayed(here / "whole")
        wrong = {"missing": {"ant_000.png"}, "changed": {"ant_001.png"}, "unreadable": {"ant_002.png", "ant_003.png"}}
        assert causes(report) == wrong
        assert (report.inputs, report.equal) == (VISITS, VISITS - 8)
        assert report.causes == {"missing": 2, "changed": 2, "unreadable": 4}

    def test_few_pictures_are_held_at_a_time(self, place: Path) -> None:
        """With room for 4 of 60, each comes out right however often it is asked for, and no more than 4 are held."""
        geometry = Geometry(height=10, width=12, channels=3)
        with open_run(place / "whole") as run:
            source = run.images_in(place / "images")
            every, few = DecodedImages(source, geometry), DecodedImages(source, geometry, cache_bytes=4 * 360)
            samples = [r for r in records(place / "whole") if isinstance(r, Samples)]
            files = [ImageFile(*one) for r in samples for one in zip(r.files, r.digests, strict=True)]
            draw = np.random.default_rng(2)
            for _ in range(60):
                some = [files[i] for i in draw.integers(0, len(files), 5)]
                some[0] = ImageFile("nowhere.png", "0" * 32) if draw.random() < 0.3 else some[0]
                one, other = every.get(some), few.get(some)
                assert {i: u.reason for i, u in one.unusable.items()} == {i: u.reason for i, u in other.unusable.items()}
                assert one.found == other.found
                assert (one.pixels == other.pixels).all()
                assert len(few) <= few.capacity == 4
            assert len(every) > 40


def with_batch(change: Callable[[Batch], Batch]) -> Callable[[Record], Record]:
    """Change the first batch of epoch 1 alone."""
    return lambda r: change(r) if isinstance(r, Batch) and (r.phase, r.epoch, r.batch) == ("train", 1, 0) else r


def with_run(**fields: object) -> Callable[[Record], Record]:
    return lambda r: replace(r, **fields) if isinstance(r, RunInfo) else r  # type: ignore[arg-type]


class TestRecords:
    """Records that verify but are untrue."""

    @pytest.mark.parametrize(
        "change",
        [
            lambda b: replace(b, phase="val"),
            lambda b: replace(b, epoch=7),
            lambda b: replace(b, files=b.files[1:] + b.files[:1], ids=b.ids[1:] + b.ids[:1]),
            lambda b: replace(b, ids=[i + 1 for i in b.ids]),
            lambda b: replace(b, files=["../" + file for file in b.files]),
            lambda b: replace(b, inputs=replace(b.inputs, digests=["f" * 16] * len(b.files))),
        ],
        ids=["phase", "epoch", "files", "ids", "paths", "digests"],
    )
    def test_a_lie_about_inputs_is_a_mismatch(self, here: Path, change: Callable[[Batch], Batch]) -> None:
        """A wrong phase, epoch, file or digest in a batch shows in its inputs; other batches stay equal."""
        rewrite(here / "whole", with_batch(change))
        report = replayed(here / "whole")
        assert set(causes(report)) == {"mismatch"}
        assert 0 < VISITS - report.equal <= 8

    def test_another_decoder_is_named_before_the_record_is_doubted(self, here: Path) -> None:
        """If the file is the same and the decoder is not, the versions are named; equal inputs still count."""
        versions = {**codec_versions(), "pillow": "5.4.1"}
        rewrite(here / "whole", lambda r: with_run(versions=versions)(with_batch(lambda b: replace(b, epoch=9))(r)))
        report = replayed(here / "whole")
        assert set(causes(report)) == {"decoder"}
        assert "pillow was 5.4.1, is " in report.differences[0][0].detail

    def test_another_seed_is_another_recipe(self, here: Path) -> None:
        """Another seed changes augmented inputs, and not those of `val`."""
        seed = {"seed": 99}
        rewrite(here / "whole", lambda r: replace(r, config={**r.config, **seed}) if isinstance(r, RunInfo) else r)
        report = replayed(here / "whole")
        assert all("train" in first.place for first, _ in report.differences)
        assert set(causes(report)) == {"mismatch"}

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            (with_run(recipe={"height": 8}), "records.jsonl: the input recipe lacks"),
            (with_run(recipe=Recipe(height=8, width=8, channels=3).to_dict() | {"resize": "os.system"}), "resize 'os.system'"),
            (with_run(config={"seed": -1}), "records.jsonl: a run record with the seed -1"),
            (with_run(config={"seed": "0"}), "the seed '0'"),
            (with_run(recipe=Recipe(height=9, width=8, channels=3).to_dict()), r"inputs of shape \[3, 10, 12\]"),
            (with_run(recipe=Recipe(height=60000, width=60000, channels=3).to_dict()), "60000x60000 pixels"),
            (with_batch(lambda b: replace(b, inputs=replace(b.inputs, digests=[]))), "do not fit: inputs"),
            (with_batch(lambda b: replace(b, inputs=replace(b.inputs, dtype="object"))), "'object'"),
        ],
    )
    def test_an_unknown_recipe_is_refused(self, here: Path, change: Callable[[Record], Record], says: str) -> None:
        """A recipe, seed or shape that this version does not know ends the replay; nothing in it is run."""
        rewrite(here / "whole", change)
        with pytest.raises(CaptureError, match=says):
            replayed(here / "whole")


HOSTILE = [None, True, -1, 1.5, 2**70, 1e308, "", "../x", "\x00", "\ud800", [], [None], {"a": 1}, [0] * 8]


def test_mutated_records_raise_only_capture_errors(here: Path) -> None:
    """Records with any value replaced give a report or a CaptureError, never another exception."""
    path, draw = here / "whole" / "records.jsonl", random.Random(3)
    bodies = [json.loads(line) for line in path.read_bytes().splitlines()]
    refused = 0
    for _ in range(100):
        chosen = draw.randrange(len(bodies) - 1)
        written, chain = [], GENESIS
        for number, body in enumerate(bodies):
            text = json.dumps(mutated(body, draw) if number == chosen else body | {"chain": None}, separators=(",", ":"))
            data = text.removesuffix(',"chain":null}').encode()
            chain = link(chain, data)
            written.append(b'%b,"chain":"%b"}\n' % (data, chain.hex().encode()))
        path.write_bytes(b"".join(written))
        try:
            with open_run(here / "whole") as reading:
                list(Replay(reading, Selection(), folder=here / "images", stored=True))
        except CaptureError:
            refused += 1
        else:
            assert reading.ending.state == "sealed"
    assert 0 < refused < 100


def mutated(body: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    """A copy with one value replaced, at any depth; its chain is null."""
    changed: dict[str, Any] = copy.deepcopy(body) | {"chain": None}
    at: Any = changed
    key = draw.choice([key for key in changed if key not in ("seq", "kind", "chain")])
    while isinstance(at[key], dict | list) and at[key] and draw.random() < 0.6:
        at = at[key]
        key = draw.choice(list(at)) if isinstance(at, dict) else draw.randrange(len(at))
    at[key] = draw.choice(HOSTILE)
    return changed


def test_the_report_grows_with_files_alone(here: Path) -> None:
    """A file that differs at every visit is one entry with a count, and every cause has a sentence."""
    for path in (here / "images").iterdir():
        path.unlink()
    report = replayed(here / "whole")
    assert len(report.differences) == 60
    assert report.causes["missing"] == VISITS
    assert set(report.causes) <= set(CAUSES)
