"""The images of a run, found again wherever they are now, and nothing else."""

import json
import os
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path

import pytest

from capture_cli.errors import Unusable, UsageError
from capture_cli.runs import Run, open_run
from capture_cli.sources import Source
from conftest import make_images
from runs import run_records, write_run


def run_of(images: Path, run: Path, *, folder: str, noted: Iterable[object] = ()) -> Run:
    """A run on the images in a folder, recorded as `folder`; `noted` are folders in events.jsonl, oldest first."""
    files = sorted(path.name for path in images.iterdir())
    digests = [blake2b((images / file).read_bytes(), digest_size=16).hexdigest() for file in files]
    write_run(run, run_records(files=files, digests=digests, folder=folder, epochs=1))
    events = [json.dumps({"event": "start", "folder_absolute": str(one)}) for one in noted]
    (run / "events.jsonl").write_text("\n".join(['[]\nno json\n{"event":"start"}\n{"folder_absolute":5}', *events]))
    return open_run(run)


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Real images, in a folder that no relative path leads to from the current directory."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return make_images(tmp_path / "there" / "images")


def reason(run: Run, name: str) -> str:
    with pytest.raises(Unusable) as raised:
        run.images.read(name)
    return raised.value.reason


def test_the_images_are_those_that_the_run_names(there: Path, tmp_path: Path) -> None:
    """`list` has the samples in the order of the records, `read` the bytes that were used."""
    with run_of(there, tmp_path / "run", folder=str(there)) as run:
        source: Source = run.images
        names = source.list().files
        assert (source.name, source.location) == (str(there), str(there))
        assert names == sorted(path.name for path in there.iterdir())
        assert [run.images.read(name) for name in names] == [(there / name).read_bytes() for name in names]
        (there / "new.png").write_bytes((there / names[0]).read_bytes())
        assert reason(run, "new.png") == "missing"


def test_a_file_that_is_not_what_it_was_is_refused(there: Path, tmp_path: Path) -> None:
    """Changed, gone, or no regular file any more: each has its reason."""
    first, second, third, fourth, *_ = sorted(there.iterdir())
    with run_of(there, tmp_path / "run", folder=str(there)) as run:
        first.write_bytes(second.read_bytes())
        second.unlink()
        third.unlink()
        third.symlink_to(fourth)
        fourth.unlink()
        os.mkfifo(fourth)
        reasons = [reason(run, path.name) for path in (first, second, third, fourth)]
        assert reasons == ["changed", "missing", "symlink", "not-a-regular-file"]


def test_the_recorded_folder_comes_before_noted_ones_and_the_newest_of_these_first(there: Path, tmp_path: Path) -> None:
    """As recorded, seen from here; then where the run was last, then where it was before that."""
    (tmp_path / "here" / "images").mkdir()
    (tmp_path / "older").mkdir()
    noted = [tmp_path / "older", tmp_path / "gone", there, tmp_path / "gone"]
    with run_of(there, tmp_path / "run", folder="images", noted=noted) as run:
        assert [folder.resolve() for folder in run.images.folders] == [tmp_path / "here" / "images", there, tmp_path / "older"]


def test_another_folder_of_the_same_name_does_no_harm(there: Path, tmp_path: Path) -> None:
    """Its files are not those of the run: they are found where the run was."""
    make_images(tmp_path / "here" / "images", each=9, size=(9, 9))
    with run_of(there, tmp_path / "run", folder="images", noted=[there]) as run:
        assert run.images.read("ant_000.png") == (there / "ant_000.png").read_bytes()
        (there / "ant_000.png").unlink()
        assert reason(run, "ant_000.png") == "changed"


def test_a_folder_that_is_named_is_the_only_one(there: Path, tmp_path: Path) -> None:
    """What the user says is not second-guessed; the caller may know the digest."""
    moved = there.rename(tmp_path / "moved")
    with run_of(moved, tmp_path / "run", folder="images", noted=[there]) as run:
        with pytest.raises(UsageError, match="folder 'images' of this run is not here"):
            _ = run.images
        data = (moved / "ant_000.png").read_bytes()
        images = run.images_in(moved)
        assert images.read("ant_000.png", blake2b(data, digest_size=16).hexdigest()) == data
        with pytest.raises(UsageError, match="no such folder"):
            run.images_in(tmp_path / "nowhere")


@pytest.mark.parametrize("folder", ["", "a\0b", "x" * 5000, "events.jsonl", "/dev/null"])
def test_a_hostile_folder_is_no_folder(there: Path, tmp_path: Path, folder: str) -> None:
    """Names that no folder can have are passed over."""
    with run_of(there, tmp_path / "run", folder=folder, noted=[folder, "\udce9", there]) as run:
        assert run.images.folders == [there]


def test_a_name_cannot_leave_the_folder(there: Path, tmp_path: Path) -> None:
    """Not even to a file whose digest the records have."""
    secret = tmp_path / "there" / "secret.png"
    secret.write_bytes(b"secret")
    digest = blake2b(b"secret", digest_size=16).hexdigest()
    names = ["../secret.png", str(secret), "./../secret.png", "link/secret.png", "", "a\0b"]
    (there / "link").symlink_to(tmp_path / "there")
    write_run(tmp_path / "run", run_records(files=names, digests=[digest] * 6, folder=str(there), val_every=0))
    with open_run(tmp_path / "run") as run:
        assert [reason(run, name) for name in names] == ["bad-path", "bad-path", "bad-path", "symlink", "bad-path", "bad-path"]


def test_hostile_events_cost_little(there: Path, tmp_path: Path) -> None:
    """A FIFO is not waited for, a huge file is not read, and of very many folders only some are tried."""
    with run_of(there, tmp_path / "run", folder="images", noted=[tmp_path / str(n) for n in range(10_000)]) as run:
        for number in range(9_990, 10_000):
            (tmp_path / str(number)).mkdir()
        assert run.images.folders == [tmp_path / str(n) for n in range(9_999, 9_992, -1)]
    events = tmp_path / "run" / "events.jsonl"
    events.unlink()
    os.mkfifo(events)
    with open_run(tmp_path / "run") as run, pytest.raises(UsageError, match="of this run is not here"):
        _ = run.images
    events.unlink()
    with events.open("wb") as file:
        file.truncate(1 << 40)
    with open_run(tmp_path / "run") as run, pytest.raises(UsageError, match="of this run is not here"):
        _ = run.images
