"""The cache of decoded pixels: found by content, never wrong, bounded, and nobody's trouble when it cannot be had."""

import os
import resource
import signal
import subprocess
import sys
import threading
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pytest

from capture_cli.pixels import cache as module
from capture_cli.pixels.cache import WORTH_BYTES, PixelCache, cache_folder, parts, remove
from capture_cli.pixels.decoding import Pixels
from capture_cli.pixels.geometry import Geometry

SHAPE = (3, 8, 10)
SLOT = 240
ENTRY = 24


def digest(number: int) -> bytes:
    return blake2b(b"%d" % number, digest_size=16).digest()


def picture(number: int, shape: tuple[int, int, int] = SHAPE) -> Pixels:
    return np.random.default_rng(number).integers(0, 256, shape, np.uint8)


def opened(folder: Path, **options: object) -> tuple[PixelCache, list[str]]:
    """A cache that keeps from the first picture on, and what it warns of."""
    said: list[str] = []
    values = {"limit_bytes": 2**30, "warn": said.append, "at_once": True, "shape": SHAPE, **options}
    channels, height, width = values.pop("shape")
    geometry = Geometry(height=height, width=width, channels=channels)
    return PixelCache(folder, geometry, **values), said  # type: ignore[arg-type]


def filled(folder: Path, numbers: range = range(20), **options: object) -> list[str]:
    """Keep these pictures, as one run does; what it warned of."""
    cache, said = opened(folder, **options)
    for number in numbers:
        cache.keep(digest(number), picture(number), 100)
    cache.close()
    return said


def found(folder: Path, numbers: range = range(20), **options: object) -> list[int]:
    """Which of these pictures are there; each must then be what was kept."""
    cache, said = opened(folder, **options)
    into = np.zeros(SHAPE, np.uint8)
    there = []
    for number in numbers:
        if cache.read(digest(number), into):
            assert np.array_equal(into, picture(number))
            there.append(number)
    cache.close()
    assert not said
    return there


def files(folder: Path, ending: str) -> list[Path]:
    return sorted(folder.rglob(f"*{ending}"))


def test_what_one_run_kept_another_finds(tmp_path: Path) -> None:
    """Under the digest of the file and no other, from as many runs as there were."""
    assert filled(tmp_path / "c") == []
    assert filled(tmp_path / "c", range(20, 30)) == []
    assert found(tmp_path / "c", range(40)) == list(range(30))


def test_another_shape_or_decoder_finds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pixels depend on both; a shape with as many pixels is another shape."""
    filled(tmp_path)
    for shape in ((3, 10, 8), (1, 24, 10)):
        cache, _ = opened(tmp_path, shape=shape)
        assert cache.read(digest(3), np.zeros(shape, np.uint8)) is None
    monkeypatch.setattr(module, "decoder_id", lambda: "pillow 99")
    assert found(tmp_path) == []


def test_little_is_not_kept_and_then_all_of_it(tmp_path: Path) -> None:
    """No file is made for a handful of thumbnails; where there is more, what came first is kept as well."""
    each = WORTH_BYTES // 10
    for count, there in ((9, []), (12, list(range(12)))):
        cache, _ = opened(tmp_path / "c", at_once=False)
        for number in range(count):
            cache.keep(digest(number), picture(number), each)
        cache.close()
        assert found(tmp_path / "c") == there
        assert (tmp_path / "c").exists() == bool(there)


def test_threads_keep_and_read_at_once(tmp_path: Path) -> None:
    """Eight of them, each picture in its own place."""
    cache, _ = opened(tmp_path)

    def work(first: int) -> None:
        for number in range(first, 400, 8):
            cache.keep(digest(number), picture(number), 100)

    threads = [threading.Thread(target=work, args=(first,)) for first in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    cache.close()
    assert found(tmp_path, range(400)) == list(range(400))
    assert len(files(tmp_path, ".pixels")) == 1


@pytest.mark.parametrize("ending", [".pixels", ".index"])
def test_no_damaged_byte_is_shown(tmp_path: Path, ending: str) -> None:
    """Whichever byte changes, its picture is not found, and all others are what they were."""
    filled(tmp_path, range(3))
    (file,) = files(tmp_path, ending)
    whole = file.read_bytes()
    size = len(whole) // 3
    for at in range(0, len(whole), 7 if ending == ".pixels" else 1):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        assert found(tmp_path, range(3)) == [number for number in range(3) if number != at // size]


@pytest.mark.parametrize("ending", [".pixels", ".index"])
def test_what_was_cut_or_moved_is_not_there(tmp_path: Path, ending: str) -> None:
    """The rest of a file that ends early is found; one whose beginning is lost has nothing in its place."""
    filled(tmp_path, range(3))
    (file,) = files(tmp_path, ending)
    whole = file.read_bytes()
    size = len(whole) // 3
    for length in (0, 1, size - 1, size, 2 * size + 5, 3 * size):
        file.write_bytes(whole[:length])
        assert found(tmp_path, range(3)) == list(range(length // size))
    file.write_bytes(whole[size:])
    assert found(tmp_path, range(3)) == []


def test_entries_that_were_swapped_are_not_believed(tmp_path: Path) -> None:
    """The mark of one picture beside the digest of another, with the pixels that fit the mark."""
    filled(tmp_path, range(2))
    (index,) = files(tmp_path, ".index")
    first, second = index.read_bytes()[:ENTRY], index.read_bytes()[ENTRY:]
    index.write_bytes(second[:16] + first[16:] + first[:16] + second[16:])
    assert found(tmp_path, range(2)) == []


WRITER = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from test_cache import digest, opened, picture
cache, said = opened(Path(sys.argv[2]))
for number in range(int(sys.argv[3]), int(sys.argv[4])):
    cache.keep(digest(number), picture(number), 100)
    print(number, flush=True)
cache.close()
assert not said, said
"""


def writer(folder: Path, first: int, end: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(Path(__file__).parent), str(folder), str(first), str(end)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_runs_fill_it_at_the_same_time(tmp_path: Path) -> None:
    """Three processes, the same pictures and others: all are found, whoever wrote them."""
    processes = [writer(tmp_path, first, first + 200) for first in (0, 100, 200)]
    assert [len(process.communicate()[0].split()) for process in processes] == [200] * 3
    assert [process.returncode for process in processes] == [0] * 3
    assert found(tmp_path, range(450)) == list(range(400))


def test_what_a_killed_run_had_written_is_found(tmp_path: Path) -> None:
    """SIGKILL in the middle: all that it reported as kept is there, and the next run adds the rest."""
    with writer(tmp_path, 0, 10**6) as process:
        assert process.stdout is not None
        said = [int(process.stdout.readline()) for _ in range(50)]
        process.send_signal(signal.SIGKILL)
        said += map(int, process.stdout.read().split())
    there = found(tmp_path, range(len(said) + 10))
    assert there[: len(said)] == said
    filled(tmp_path, range(len(said), len(said) + 10))
    assert found(tmp_path, range(len(said) + 10)) == list(range(len(said) + 10))


def test_the_part_unused_for_longest_is_removed(tmp_path: Path) -> None:
    """Together they stay below the limit; having been read counts as used."""
    limit = 70 * (SLOT + ENTRY)
    for run in range(3):
        filled(tmp_path, range(20 * run, 20 * run + 20), limit_bytes=limit)
        for index in files(tmp_path, ".index"):
            for file in (index, index.with_suffix(".pixels")):
                os.utime(file, (file.stat().st_mtime - 1000,) * 2)
    assert found(tmp_path, range(20)) == list(range(20))  # the oldest, which is used now
    filled(tmp_path, range(60, 80), limit_bytes=limit)
    assert found(tmp_path, range(80)) == [*range(20), *range(40, 80)]
    assert sum(part.size for part in parts(tmp_path)) <= limit


def test_a_run_larger_than_the_limit_keeps_what_fits_and_says_so_once(tmp_path: Path) -> None:
    """It does not drive out what it reads itself, either."""
    limit = 25 * (SLOT + ENTRY)
    (said,) = filled(tmp_path, range(100), limit_bytes=limit)
    assert "no space left" in said
    assert "CAPTURE_CACHE_SIZE" in said
    there = found(tmp_path, range(100))
    assert 20 <= len(there) <= 25
    cache, said_then = opened(tmp_path, limit_bytes=limit)
    assert cache.read(digest(0), np.zeros(SHAPE, np.uint8))
    for number in range(100, 200):
        cache.keep(digest(number), picture(number), 100)
    cache.close()
    assert len(said_then) == 1
    assert set(there) <= set(found(tmp_path, range(200)))
    assert sum(part.size for part in parts(tmp_path)) <= limit


def test_a_disk_is_not_filled_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With less than the reserve free, nothing is kept: the records need it more."""
    monkeypatch.setattr(module, "RESERVE_BYTES", 2**62)
    (said,) = filled(tmp_path)
    assert "no space left" in said
    assert found(tmp_path) == []
    assert not files(tmp_path, ".pixels")  # nor is an empty file left


def test_a_write_that_fails_is_one_warning(tmp_path: Path) -> None:
    """A limit on file sizes acts as a full disk; earlier pictures are found."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10 * SLOT + 7, before[1]))
    try:
        (said,) = filled(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "File too large" in said
    assert found(tmp_path) == list(range(10))


def test_a_folder_that_cannot_be_written_is_one_warning(tmp_path: Path) -> None:
    """A file is where the folder should be."""
    (tmp_path / "taken").write_text("not a folder")
    (said,) = filled(tmp_path / "taken" / "pixels")
    assert str(tmp_path / "taken" / "pixels") in said


def test_a_folder_that_others_can_write_to_is_not_used(tmp_path: Path) -> None:
    """Pixels that others might have put there are not shown to a network, and nothing is added."""
    filled(tmp_path / "c")
    (tmp_path / "c").chmod(0o777)
    (said,) = filled(tmp_path / "c", range(20, 30))
    assert "700" in said
    assert found(tmp_path / "c") == []
    (tmp_path / "c").chmod(0o700)
    assert found(tmp_path / "c", range(30)) == list(range(20))


def test_it_is_for_this_user_alone(tmp_path: Path) -> None:
    """Whatever the umask: pictures may be private."""
    before = os.umask(0)
    try:
        filled(tmp_path / "c")
    finally:
        os.umask(before)
    for path in [tmp_path / "c", *(tmp_path / "c").rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path


def test_links_and_pipes_in_it_are_not_followed(tmp_path: Path) -> None:
    """A FIFO is not waited for, a link shows nothing of where it leads."""
    filled(tmp_path / "c")
    (index,), (pixels,) = files(tmp_path / "c", ".index"), files(tmp_path / "c", ".pixels")
    os.mkfifo(index.with_name("fifo.index"))
    assert found(tmp_path / "c") == list(range(20))
    pixels.rename(tmp_path / "elsewhere")
    pixels.symlink_to(tmp_path / "elsewhere")
    assert found(tmp_path / "c") == []


def test_parts_are_listed_and_removed(tmp_path: Path) -> None:
    """Half of one as well, as a kill between the removal of its two files leaves it; a folder that is not there is empty."""
    assert list(parts(tmp_path / "c")) == []
    filled(tmp_path / "c", range(5))
    filled(tmp_path / "c", range(5, 12))
    files(tmp_path / "c", ".index")[0].with_name("half.pixels").write_bytes(b"x" * 10)
    there = list(parts(tmp_path / "c"))
    assert sorted(part.entries for part in there) == [0, 5, 7]
    assert sum(part.size for part in there) == 12 * (SLOT + ENTRY) + 10
    assert {part.shape for part in there} == {"8x10x3"}
    for part in there:
        remove(part)
    assert list((tmp_path / "c").rglob("*")) == []


def test_a_removed_part_can_still_be_read_by_a_run(tmp_path: Path) -> None:
    """`capture cache --clear` beside a run does it no harm."""
    filled(tmp_path)
    cache, said = opened(tmp_path)
    into = np.zeros(SHAPE, np.uint8)
    assert cache.read(digest(1), into)
    for part in parts(tmp_path):
        remove(part)
    assert cache.read(digest(2), into)
    assert np.array_equal(into, picture(2))
    cache.keep(digest(50), picture(50), 100)
    cache.close()
    assert not said
    assert found(tmp_path, range(60)) == [50]


def test_clearing_beside_runs_that_fill_it_does_neither_harm(tmp_path: Path) -> None:
    """Run after run begins its part while everything is taken away all the time, folders too."""
    ended = threading.Event()
    cleared = 0

    def clear() -> None:
        nonlocal cleared
        while not ended.is_set():
            for part in parts(tmp_path):
                remove(part)
                cleared += 1

    thread = threading.Thread(target=clear)
    thread.start()
    try:
        while cleared <= 100:
            assert filled(tmp_path, range(2)) == []
    finally:
        ended.set()
        thread.join()


@pytest.mark.parametrize(("named", "expected"), [("/x", "/x"), ("relative", "/nobody/.cache"), ("", "/nobody/.cache")])
def test_where_it_is(monkeypatch: pytest.MonkeyPatch, named: str, expected: str) -> None:
    """XDG_CACHE_HOME where it is an absolute path, as its specification asks, else ~/.cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", named)
    monkeypatch.setenv("HOME", "/nobody")
    assert cache_folder() == Path(expected) / "capture" / "pixels"
