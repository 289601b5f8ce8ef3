"""Kept inputs: everything a checkpoint refers to survives a power cut, file names included."""

import os
from pathlib import Path

import pytest

from capture_cli.cli import run as command
from conftest import make_images

OPTIONS = ("-m", "linear", "-e", "4", "-b", "1", "--device=cpu", "-q", "--checkpoint-every=100", "-o", "run")


@pytest.mark.parametrize(
    ("pack", "options"),
    [("pack-00000.bin", ["--inputs=all"]), ("flight.bin", ["--spike=0.1", "--lr=1e-6"])],
    ids=["pack", "flight"],
)
def test_a_checkpoint_is_written_after_everything_it_refers_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pack: str, options: list[str]
) -> None:
    """The bytes of the pack, its name in inputs/ and that of inputs/ are synced before the checkpoint gets its name."""
    make_images(tmp_path / "images")
    monkeypatch.chdir(tmp_path)
    calls: list[tuple[str, str]] = []
    fsync, replace, opened = os.fsync, os.replace, os.open

    def place(path: str | Path, folder: int | None) -> str:
        """Return a path from here; `path` may be below an open folder."""
        above = Path() if folder is None else Path(f"/proc/self/fd/{folder}").readlink()
        return os.path.relpath(above / path)

    def noted_fsync(descriptor: int) -> None:
        calls.append(("sync", place("", descriptor)))
        fsync(descriptor)

    def noted_replace(source: Path, target: Path, **folders: int) -> None:
        calls.append(("name", place(target, folders.get("dst_dir_fd"))))
        replace(source, target, **folders)

    def noted_open(path: str | Path, flags: int, *args: int, **options: int) -> int:
        if flags & os.O_CREAT:
            calls.append(("make", place(path, options.get("dir_fd"))))
        return opened(path, flags, *args, **options)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    monkeypatch.setattr(os, "open", noted_open)
    assert command(["train", "images", *OPTIONS, *options]) == 0
    made = calls.index(("make", f"run/inputs/{pack}"))
    checkpoint = calls.index(("name", "run/checkpoint.safetensors"), made)
    assert {("sync", f"run/inputs/{pack}"), ("sync", "run/inputs"), ("sync", "run")} <= set(calls[made:checkpoint])


def test_the_name_of_a_run_folder_is_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each new folder is synced into its parent."""
    make_images(tmp_path / "images")
    monkeypatch.chdir(tmp_path)
    synced: list[str] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        synced.append(os.fspath(Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    assert command(["train", "images", "-m", "linear", "-e", "1", "-b", "8", "--device=cpu", "-q", "--name", "new"]) == 0
    assert {os.fspath(tmp_path), os.fspath(tmp_path / "runs"), os.fspath(tmp_path / "runs/new")} <= set(synced)
