"""Messages say what is the case: what lies at a path, what was done to a file, in whatever encoding its name is."""

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from capture_cli.cli import run as command
from conftest import Capture, make_images
from runs import run_records, write_run

Said = Callable[..., str]


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Said:
    """Run a command that fails in the folder of the test; return its one line on stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*args: str) -> str:
        capsys.readouterr()
        assert command(args) != 0
        (line,) = capsys.readouterr().err.splitlines()
        return line.removeprefix("capture: ")

    return run


@pytest.mark.parametrize(
    "args",
    [
        ["train", "images", "-o", "link"],
        ["train", "images", "-o", "link/below"],
        ["train", "link"],
        ["labels", "link"],
        ["inspect", "link"],
        ["diff", "run", "link"],
        ["evaluate", "link", "images"],
        ["log", "run", "--tensorboard", "--folder", "link"],
    ],
    ids=" ".join,
)
def test_a_dangling_link_is_called_one(said: Said, tmp_path: Path, args: list[str]) -> None:
    """Not a file, and not a thing that is not there."""
    make_images(tmp_path / "images")
    write_run(tmp_path / "run")
    Path("link").symlink_to("gone")
    assert said(*args).startswith("'link' is a link to 'gone', which does not exist; ")


@pytest.mark.parametrize(
    ("out", "what"), [("images/ant_000.png", "a file"), ("images/ant_000.png/below", "a file"), ("pipe/run", "no folder")]
)
def test_what_is_in_the_way_of_a_run_folder_is_named(said: Said, tmp_path: Path, out: str, what: str) -> None:
    """The part of the path that is no folder, and what it is."""
    make_images(tmp_path / "images")
    os.mkfifo("pipe")
    name = out.partition("/below")[0].partition("/run")[0]
    assert said("train", "images", "-m", "linear", "-o", out).startswith(f"'{name}' is {what}; give a folder")


def test_its_own_checkpoint_is_called_one(said: Said, tmp_path: Path) -> None:
    """Not a file that capture did not write."""
    make_images(tmp_path / "images")
    assert command(["train", "images", "-m", "linear", "-e", "1", "-q", "-o", "run", "--device", "cpu"]) == 0
    message = "'run/checkpoint.safetensors' is a checkpoint, not a model; give the run folder 'run'"
    assert said("evaluate", "run/checkpoint.safetensors", "images") == message
    assert "not a safetensors file" in said("evaluate", "run/records.jsonl", "images")


CONVERTED: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "CR LF": (lambda data: data.replace(b"\n", b"\r\n"), "it ends in CR LF, which `dos2unix` turns back into LF"),
    "a byte order mark": (lambda data: b"\xef\xbb\xbf" + data, "the file is UTF-8 behind a byte order mark"),
    "UTF-16": (lambda data: data.decode().encode("utf-16"), "the file is UTF-16 text"),
    "bzip2": (lambda _: b"BZh91AY&SY\n", "the file is compressed by bzip2"),
    "zip": (lambda _: b"PK\x03\x04....\n", "the file is a zip archive"),
}


@pytest.mark.parametrize("conversion", CONVERTED)
def test_converted_records_are_named(said: Said, tmp_path: Path, conversion: str) -> None:
    """Git, an editor or a mail program has changed them: that is said, by every command that reads them."""
    convert, message = CONVERTED[conversion]
    path = write_run(tmp_path / "run", run_records()) / "records.jsonl"
    path.write_bytes(convert(path.read_bytes()))
    (tmp_path / "run/config.toml").write_text("folder = 'images'\n")
    make_images(tmp_path / "images")
    for args in (["inspect", "run"], ["verify", "run"], ["rows", "run"], ["train", "--resume", "run"]):
        line = said(*args)
        assert message in line
        assert "--repair" not in line  # there is nothing before it to save


def test_compressed_records_are_not_resumed(said: Said, tmp_path: Path) -> None:
    """They are named for what they are, whatever they are called."""
    path = write_run(tmp_path / "run", run_records()) / "records.jsonl"
    path.write_bytes(gzip.compress(path.read_bytes()))
    (tmp_path / "run/config.toml").write_text("folder = 'images'\n")
    make_images(tmp_path / "images")
    assert "the file is compressed by gzip" in said("train", "--resume", "run")


def test_a_config_file_may_begin_with_a_byte_order_mark(said: Said, tmp_path: Path) -> None:
    """Some editors write one; UTF-16 is named."""
    make_images(tmp_path / "images")
    Path("c.toml").write_bytes(b"\xef\xbb\xbf" + b'folder = "images"\nepochs = 3\n')
    assert command(["train", "--config", "c.toml", "-n"]) == 0
    Path("c.toml").write_text('folder = "images"\n', encoding="utf-16")
    assert said("train", "--config", "c.toml", "-n") == "--config 'c.toml' is not UTF-8 text; save it as UTF-8"


def test_a_folder_is_called_the_same_in_every_locale(capture: Capture, tmp_path: Path) -> None:
    """The folder of the images is decoded as the names in it are, where the locale has another encoding."""
    name = "é日本"
    make_images(tmp_path / name / "x")
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    encoding = [sys.executable, "-c", "import sys; print(sys.getfilesystemencoding())"]
    done = subprocess.run(encoding, env={**os.environ, **ascii_only}, capture_output=True, text=True, check=True)
    assert done.stdout != "utf-8\n"
    for out, extra in (("a", {}), ("b", ascii_only)):
        options = ["-m", "linear", "-e", "1", "-q", "--device", "cpu", "-o", f"{name}-{out}"]
        assert capture("train", f"{name}/x", *options, env=extra).returncode == 0
    first, second = ((tmp_path / f"{name}-{out}/records.jsonl").read_bytes() for out in "ab")
    assert first == second
    assert json.loads(first.splitlines()[0])["folder"] == f"{name}/x"


def test_a_name_that_says_another_format_is_refused(said: Said, tmp_path: Path) -> None:
    """No folder is called x.jsonl.gz, and no text is written under the name of compressed data."""
    make_images(tmp_path / "images")
    write_run(tmp_path / "run", list(run_records())[:-1])
    message = "'x.jsonl.gz' has the name of a file that is not written; give a folder, or FILE.jsonl for the records"
    assert said("train", "images", "-m", "linear", "-o", "x.jsonl.gz") == f"{message}, or -o - and a pipe: | gzip > x.jsonl.gz"
    assert said("train", "images", "-m", "linear", "-o", "x.csv").startswith("'x.csv' has the name of a file")
    assert said("verify", "run", "--repair", "x.jsonl.gz").endswith("give --repair FILE.jsonl")
    assert not list(tmp_path.glob("x.*"))


def test_an_image_in_place_of_a_run_is_told(said: Said, tmp_path: Path) -> None:
    """With the way to see one image of a run."""
    make_images(tmp_path / "images")
    message = said("inspect", "images/ant_000.png")
    assert "the file is an image; name the run, and the image with --sample" in message
