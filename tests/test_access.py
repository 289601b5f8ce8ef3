"""A file is read safely below a folder, or refused with a reason: nothing outside is reached and nothing is waited for."""

import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from capture_cli.errors import CaptureError, DataError, Unusable, UsageError
from capture_cli.sources.access import MAX_FILE_BYTES, opened, read_file

SECRET = b"what lies outside the folder"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with an image in a subfolder, beside a file that must not be reached."""
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    (tmp_path / "photos" / "cat" / "1.png").write_bytes(b"pixels")
    (tmp_path / "secret.png").write_bytes(SECRET)
    return tmp_path / "photos"


@contextmanager
def unprivileged() -> Iterator[None]:
    """Without root's right to read everything, where the tests run as root."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def refusal(folder: Path | int | str, relative: str, **options: int) -> tuple[str, str]:
    """The reason and detail with which a file is refused, within two seconds of computing; one that waits never ends."""
    start = time.thread_time()
    with pytest.raises(Unusable) as caught:
        read_file(folder, relative, **options)
    assert time.thread_time() - start < 2
    return caught.value.reason, caught.value.detail


def test_a_file_is_read_by_path_and_by_descriptor(folder: Path) -> None:
    """Both give the exact bytes; an empty file gives none."""
    (folder / "empty.png").touch()
    assert read_file(folder, "cat/1.png") == b"pixels"
    with opened(folder) as descriptor:
        assert read_file(descriptor, "cat/1.png") == b"pixels"
        assert read_file(descriptor, "empty.png") == b""


def test_any_name_on_disk_can_be_read(folder: Path) -> None:
    """Bytes that are not UTF-8, newlines, escapes, 255 bytes: the name goes to the system as it came."""
    names = [
        b"\xff\xfe.png",
        b"a\nb.png",
        b"\x1b[2J.png",
        b"-rf.png",
        b"x" * 251 + b".png",
        "é.png".encode(),
        "e\u0301.png".encode(),
    ]
    for i, name in enumerate(names):
        (folder / os.fsdecode(name)).write_bytes(bytes([i]))
    for i, name in enumerate(names):
        assert read_file(folder, name.decode("utf-8", "surrogateescape")) == bytes([i])


def test_a_folder_may_be_deeper_than_a_path_may_be_long(folder: Path) -> None:
    """Folders are entered one by one, so PATH_MAX is no limit."""
    part = "d" * 200
    at = os.open(folder, os.O_RDONLY)
    for _ in range(30):
        os.mkdir(part, dir_fd=at)
        below = os.open(part, os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(os.open("1.png", os.O_CREAT | os.O_WRONLY, dir_fd=at))
    os.close(at)
    assert read_file(folder, "/".join([part] * 30 + ["1.png"])) == b""


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "..",
        "../secret.png",
        "cat/../../secret.png",
        "/etc/passwd",
        "cat//1.png",
        "./cat/1.png",
        "cat/",
        "a\0b",
        "\ud800.png",
    ],
)
def test_a_path_that_no_scan_gives_is_refused(folder: Path, path: str) -> None:
    """Absolute paths, dots, NULs and empty parts, as hostile records may hold them, never reach the system."""
    assert refusal(folder, path) == ("bad-path", "")


def test_links_are_refused_wherever_they_stand(folder: Path) -> None:
    """A link as the file or on the way to it, out of the folder, within it, dangling or in a circle."""
    (folder / "out.png").symlink_to(folder.parent / "secret.png")
    (folder / "within.png").symlink_to("cat/1.png")
    (folder / "nowhere.png").symlink_to("nothing")
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "up").symlink_to("..")
    for path in ("out.png", "within.png", "nowhere.png", "loop.png", "up/secret.png"):
        assert refusal(folder, path) == ("symlink", ""), path


def test_a_hard_link_is_a_file_like_any_other(folder: Path) -> None:
    """It cannot be told from the first name, and its content lies in the folder."""
    os.link(folder / "cat" / "1.png", folder / "again.png")
    assert read_file(folder, "again.png") == b"pixels"


def test_what_is_no_regular_file_is_refused_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A FIFO without a writer would hang a plain open for ever; sockets, devices and folders are refused as well."""
    monkeypatch.chdir(folder)  # a socket's path has to be short
    os.mkfifo("fifo.png")
    (folder / "folder.png").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.png")
        for path in ("fifo.png", "folder.png", "socket.png"):
            assert refusal(folder, path) == ("not-a-regular-file", ""), path
    for device in ("null", "zero", "tty"):
        assert refusal("/dev", device) == ("not-a-regular-file", ""), device


def test_a_device_is_not_even_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening can act: a tape rewinds, a modem dials."""
    opened_names, really_open = [], os.open

    def record(path: Any, *args: Any, **kwargs: Any) -> int:
        opened_names.append(path)
        return really_open(path, *args, **kwargs)

    monkeypatch.setattr("capture_cli.sources.access.os.open", record)
    assert refusal("/dev", "zero") == ("not-a-regular-file", "")
    assert opened_names == ["/dev"]


def test_a_file_that_is_too_large_is_not_read(folder: Path) -> None:
    """The ceiling holds for the size that the system states (here a hole of 1 TB) and for what is read in the end."""
    with (folder / "large.png").open("wb") as file:
        file.truncate(2**40)
    assert refusal(folder, "large.png") == ("file-too-large", f"{2**40} bytes, more than {MAX_FILE_BYTES}")
    assert read_file(folder, "cat/1.png", max_bytes=6) == b"pixels"
    assert refusal(folder, "cat/1.png", max_bytes=5) == ("file-too-large", "6 bytes, more than 5")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc")
def test_the_ceiling_holds_for_a_file_that_states_no_size() -> None:
    """Files of /proc say 0 bytes and have more, as a file does that grows while it is read."""
    assert read_file("/proc/self", "status").startswith(b"Name:")
    assert refusal("/proc/self", "status", max_bytes=10) == ("file-too-large", "more than 10 bytes")


def test_an_unreadable_file_says_the_errno(folder: Path) -> None:
    """EACCES for the file as for the folder on the way to it."""
    (folder / "shut.png").touch(mode=0)
    (folder / "shut").mkdir(mode=0)
    with opened(folder) as descriptor, unprivileged():
        assert refusal(descriptor, "shut.png") == ("unreadable", "EACCES")
        assert refusal(descriptor, "shut/1.png") == ("unreadable", "EACCES")


def test_a_vanished_file_is_gone(folder: Path) -> None:
    """Removed since the scan, with its folder, or its folder replaced by a file."""
    (folder / "plain").touch()
    for path in ("none.png", "none/1.png", "plain/1.png"):
        assert refusal(folder, path) == ("missing", ""), path


@pytest.mark.parametrize(
    ("becomes", "reason"),
    [("a link", "symlink"), ("a FIFO", "not-a-regular-file"), ("larger", "file-too-large"), ("nothing", "missing")],
)
def test_a_file_that_is_replaced_between_look_and_open_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, becomes: str, reason: str
) -> None:
    """Whoever swaps it at the worst moment gets neither a read outside the folder nor a process that waits for ever."""
    target, look = folder / "cat" / "1.png", os.stat

    def look_and_swap(*args: Any, **kwargs: Any) -> os.stat_result:
        status = look(*args, **kwargs)
        target.unlink()
        if becomes == "a link":
            target.symlink_to(folder.parent / "secret.png")
        elif becomes == "a FIFO":
            os.mkfifo(target)
        elif becomes == "larger":
            target.write_bytes(bytes(101))
        return status

    monkeypatch.setattr("capture_cli.sources.access.os.stat", look_and_swap)
    assert refusal(folder, "cat/1.png", max_bytes=100)[0] == reason


def test_a_folder_that_becomes_a_link_on_the_way_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step is taken from the folder that was opened before it, never by the whole path again."""
    outside = folder.parent / "outside"
    outside.mkdir()
    (outside / "1.png").write_bytes(SECRET)
    look = os.stat

    def swap_and_look(*args: Any, **kwargs: Any) -> os.stat_result:
        (folder / "cat").rename(folder / "moved")
        (folder / "cat").symlink_to(outside)
        return look(*args, **kwargs)

    monkeypatch.setattr("capture_cli.sources.access.os.stat", swap_and_look)
    assert read_file(folder, "cat/1.png") == b"pixels"
    monkeypatch.undo()
    assert refusal(folder, "cat/1.png") == ("symlink", "")


def test_threads_read_at_the_same_time(folder: Path) -> None:
    """One descriptor of the folder serves them all, and none is left open."""
    (folder / "cat" / "kittens").mkdir()
    (folder / "cat" / "kittens" / "1.png").write_bytes(b"young")
    for i in range(200):
        (folder / f"{i}.png").write_bytes(i.to_bytes(2))
    before = len(list(Path("/dev/fd").iterdir()))
    with opened(folder) as descriptor, ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda i: read_file(descriptor, f"{i}.png"), range(200))) == [i.to_bytes(2) for i in range(200)]
        assert read_file(descriptor, "cat/kittens/1.png") == b"young"
        assert refusal(descriptor, "cat/kittens/none.png") == ("missing", "")
    assert len(list(Path("/dev/fd").iterdir())) == before


def test_running_out_of_descriptors_is_not_the_files_fault(folder: Path) -> None:
    """The run stops; it does not leave out one good file after the other."""
    code = (
        "import os, sys\n"
        "from capture_cli.sources.access import opened, read_file\n"
        "from capture_cli.errors import CaptureError\n"
        "with opened(sys.argv[1]) as folder:\n"
        "    for _ in range(100):\n"
        "        try: os.dup(folder)\n"
        "        except OSError: break\n"
        "    try: read_file(folder, 'cat/1.png')\n"
        "    except CaptureError as error: print(type(error).__name__, error.exit_code, error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, folder],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (50, 50)),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    said = "files can no longer be read: Too many open files; see `ulimit -n` and the memory left"
    assert done.stdout == f"CaptureError 1 {said}\n"


def test_a_folder_that_cannot_be_opened_says_why(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Missing, no folder, a NUL in the name: wrong usage. Shut: no usable images."""
    for name, text in (
        ("none", "no such folder: 'none'"),
        ("cat/1.png", "'cat/1.png' is not a folder"),
        ("a\0b", "cannot be opened"),
    ):
        monkeypatch.chdir(folder)
        with pytest.raises(UsageError, match=text), opened(name):
            pass
    (folder / "shut").mkdir(mode=0)
    with unprivileged(), pytest.raises(DataError, match="no permission to read the folder 'shut'"), opened("shut"):
        pass


def test_the_folder_itself_may_be_a_link(folder: Path) -> None:
    """Whoever names it means where it leads."""
    (folder.parent / "link").symlink_to(folder)
    assert read_file(folder.parent / "link", "cat/1.png") == b"pixels"


def test_every_refusal_is_a_capture_error() -> None:
    """The command line catches one tree."""
    assert issubclass(Unusable, CaptureError)
