"""The pixel cache through the command line: how pixels are held, decoded and kept never shows in the records."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from capture_cli.pixels.cache import WORTH_BYTES

Capture = Callable[..., subprocess.CompletedProcess[str]]
OPTIONS = ("-m", "linear", "-e", "2", "-b", "16", "--img-size", "48", "--augment", "flip+crop", "--device", "cpu", "-q")
COUNT = 60


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 noisy pictures whose files are large enough to be worth a cache, and one that is broken."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(COUNT):
        noise = np.random.default_rng(number).integers(0, 256, (176, 176, 3), np.uint8)
        Image.fromarray(noise).save(folder / f"{'ab'[number % 2]}_{number:02d}.png")
    assert sum(file.stat().st_size for file in folder.iterdir()) > WORTH_BYTES
    (folder / "a_99.png").write_bytes(b"no image")
    return folder


class Trainer:
    """Commands in a folder of its own, with a cache of its own."""

    def __init__(self, capture: Capture, folder: Path, pictures: Path) -> None:
        self.folder, self.pictures, self.cache = folder, pictures, folder / "cache"
        self._capture = capture

    def __call__(self, *args: object, code: int = 0, stderr: str | None = "", env: dict[str, str] | None = None) -> str:
        """Run `capture ARGS`; what it writes to standard output."""
        done = self._capture(*args, env={"XDG_CACHE_HOME": str(self.cache), **(env or {})})
        assert done.returncode == code, done.stderr
        assert stderr is None or done.stderr == stderr
        return done.stdout

    def train(self, name: str, *options: object, **how: Any) -> tuple[bytes, tuple[str, int, int]]:
        """Train into the run folder `name`; its records, and how pixels were held, how many decoded and how many found."""
        self("train", self.pictures, *OPTIONS, "-o", name, *options, **how)
        return (self.folder / name / "records.jsonl").read_bytes(), self.held(name)

    def held(self, name: str) -> tuple[str, int, int]:
        """The pixels event of the run's last start: memory or disk, decoded, from the cache."""
        events = map(json.loads, (self.folder / name / "events.jsonl").read_text().splitlines())
        last = [event for event in events if event["event"] == "pixels"][-1]
        return last["held"], last["decoded"], last["from_cache"]

    def warned(self, name: str) -> list[str]:
        """The warnings among the run's events."""
        events = map(json.loads, (self.folder / name / "events.jsonl").read_text().splitlines())
        return [event["text"] for event in events if event["event"] == "warning"]

    def listed(self) -> dict[str, Any]:
        """The listing of `capture cache`."""
        return dict(json.loads(self("cache", "--json")))


@pytest.fixture
def trainer(capture: Capture, tmp_path: Path, pictures: Path) -> Trainer:
    """The command, for this test alone."""
    return Trainer(capture, tmp_path, pictures)


def test_records_are_equal_however_pixels_are_held(trainer: Trainer) -> None:
    """With and without the cache, filled or not, in memory or on disk, with any number of workers: byte for byte."""
    expected, held = trainer.train("plain", "--no-cache", "--workers", "0")
    assert held == ("memory", COUNT, 0)
    assert trainer.listed()["parts"] == []
    found = [
        (trainer.train("disk", "--no-cache", "--ram", "100K", "--workers", "3"), ("disk", COUNT, 0)),
        (trainer.train("first"), ("memory", COUNT, 0)),
        (trainer.train("second", "--workers", "1"), ("memory", 0, COUNT)),
        (trainer.train("both", "--ram", "0"), ("disk", 0, COUNT)),
    ]
    for (records, held), wanted in found:
        assert records == expected
        assert held == wanted
    assert json.loads(expected.splitlines()[1])["file"] == "a_99.png"  # the broken one is judged each time
    config = {name: (trainer.folder / name / "config.toml").read_text() for name in ("plain", "disk", "both")}
    assert config["plain"] == config["disk"] == config["both"]


def test_a_resumed_run_ends_the_same_from_the_cache(trainer: Trainer) -> None:
    """More epochs from found pixels, on disk and with another number of workers, are those of a run that decoded."""
    trainer.train("whole", "--no-cache")
    trainer("train", "--resume", "whole", "-e", "3", "-q", "--no-cache", stderr=None)
    trainer.train("other")
    trainer("train", "--resume", "other", "-e", "3", "-q", "--ram", "0", "--workers", "2", stderr=None)
    assert trainer.held("other") == ("disk", 0, COUNT)
    assert (trainer.folder / "other/records.jsonl").read_bytes() == (trainer.folder / "whole/records.jsonl").read_bytes()


def test_an_image_that_changed_is_noticed_though_its_pixels_are_kept(trainer: Trainer, tmp_path: Path) -> None:
    """The cache is asked by what the file holds now: --resume refuses, a new run decodes that one file."""
    copied = tmp_path / "copied"
    copied.mkdir()
    for file in trainer.pictures.iterdir():
        (copied / file.name).write_bytes(file.read_bytes())
    trainer.pictures = copied
    trainer.train("run")
    Image.linear_gradient("L").resize((176, 176)).convert("RGB").save(copied / "a_00.png")
    trainer("train", "--resume", "run", "-e", "3", "-q", code=3, stderr=None)
    assert trainer.train("new")[1] == ("memory", 1, COUNT - 1)


def test_a_damaged_cache_changes_nothing(trainer: Trainer) -> None:
    """Every picture in it damaged: all are decoded again, and the records are what they were."""
    expected, _ = trainer.train("first")
    (pixels,) = trainer.cache.rglob("*.pixels")
    damaged = bytearray(pixels.read_bytes())
    damaged[::100] = bytes(byte ^ 255 for byte in damaged[::100])
    pixels.write_bytes(damaged)
    assert trainer.train("second") == (expected, ("memory", COUNT, 0))
    assert trainer.train("third", "--ram", "0") == (expected, ("disk", 0, COUNT))


def test_evaluate_finds_what_train_kept(trainer: Trainer) -> None:
    """The same store, with the same options."""
    trainer.train("run")
    for name, options in (("a", []), ("b", ["--ram", "0", "--workers", "2"]), ("c", ["--no-cache"])):
        trainer("evaluate", "run", trainer.pictures, "-q", "-o", name, *options, stderr=None)
    assert [trainer.held(name) for name in "abc"] == [("memory", 0, COUNT), ("disk", 0, COUNT), ("memory", COUNT, 0)]
    records = [(trainer.folder / name / "records.jsonl").read_bytes() for name in "abc"]
    assert records[0] == records[1] == records[2]


def test_what_is_kept_is_listed_and_cleared(trainer: Trainer) -> None:
    """As a table and as JSON: where, how large, how many images, when last used."""
    assert trainer("cache") == f"{trainer.cache}/capture/pixels: 0 B of at most 10.0 GB\n"
    trainer.train("run")
    body = trainer.listed()
    (part,) = body["parts"]
    assert body["path"] == f"{trainer.cache}/capture/pixels"
    assert (part["inputs"], part["images"]) == ("48x48x3", COUNT)
    files = [file for file in trainer.cache.rglob("*") if file.is_file()]
    assert body["bytes"] == part["bytes"] == sum(file.stat().st_size for file in files)
    assert {Path(part["path"])} == {file.with_suffix("") for file in files}
    assert part["used"] == pytest.approx(max(file.stat().st_mtime for file in files), abs=1e-3)
    heading, _, columns, row = trainer("cache", env={"CAPTURE_CACHE_SIZE": "1.5G"}).splitlines()
    assert heading.endswith("of at most 1.5 GB")
    assert columns.split()[:2] == ["last", "used"]
    assert "48x48x3" in row
    stdout = trainer("cache", "--clear", stderr=f"cleared {trainer.cache}/capture/pixels: {COUNT} images, 406 KB\n")
    assert stdout == ""
    assert [file for file in trainer.cache.rglob("*") if file.is_file()] == []
    assert trainer.listed()["bytes"] == 0


def test_small_folders_leave_nothing(capture: Capture, images: Path, tmp_path: Path) -> None:
    """24 thumbnails are decoded sooner than anyone has looked for them."""
    done = capture("train", images, "-m", "linear", "-e", "1", "-q", "-o", "r", env={"XDG_CACHE_HOME": str(tmp_path / "c")})
    assert done.returncode == 0
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("ram", ["1G", "0"])
def test_a_cache_that_cannot_be_written_is_one_warning(trainer: Trainer, ram: str) -> None:
    """A file is in its place: training continues, and the records are the same."""
    expected, _ = trainer.train("plain", "--no-cache")
    trainer.cache.write_text("in the way")
    reason = "Not a directory"
    warning = f"decoded pixels are no longer kept in '{trainer.cache}/capture/pixels': {reason}"
    assert trainer.train("run", "--ram", ram, stderr=f"warning: {warning}\n")[0] == expected
    assert trainer.warned("run") == [warning]


def test_a_limit_that_is_too_small_is_one_warning(trainer: Trainer) -> None:
    """All that fits is kept, and found the next time; the rest is decoded."""
    small = {"CAPTURE_CACHE_SIZE": "200K"}
    expected, _ = trainer.train("first", stderr=None, env=small)
    assert len(trainer.warned("first")) == 1
    records, (_, decoded, found) = trainer.train("second", stderr=None, env=small)
    assert records == expected
    assert found > 10
    assert decoded + found == COUNT
    assert trainer.listed()["bytes"] <= 200 * 1024


@pytest.mark.parametrize(
    ("options", "env", "said"),
    [
        (["--ram", "lots"], {}, "--ram lots is not valid"),
        (["--ram", "-1G"], {}, "--ram -1G is not valid"),
        (["--workers", "-1"], {}, "-1"),
        ([], {"CAPTURE_CACHE_SIZE": "huge"}, "CAPTURE_CACHE_SIZE huge is not valid"),
    ],
)
def test_values_that_are_not_valid(capture: Capture, images: Path, options: list[str], env: dict[str, str], said: str) -> None:
    """Named in one line, before any work."""
    done = capture("train", images, "-o", "run", *options, env=env)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert said in done.stderr
