"""Pixels that are held on disk are those that would be held in memory, whatever becomes of the files they lie in."""

import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from capture_cli.errors import DataError, Unusable
from capture_cli.pixels import cache as cache_module
from capture_cli.pixels import store as store_module
from capture_cli.pixels.admission import Loader
from capture_cli.pixels.cache import cache_folder
from capture_cli.pixels.decoding import decode
from capture_cli.pixels.geometry import Geometry
from capture_cli.pixels.store import DiskStore, MemoryStore, Store, open_store
from capture_cli.resources import Resources
from image_bytes import GOOD, NOISE, png, saved

SIZE = Geometry(height=6, width=5, channels=3)
FILES = [saved(NOISE[:, :k]) for k in range(1, 19)] + [*GOOD.values(), b"", png(9000, 9000)]
BAD = [len(FILES) - 2, len(FILES) - 1]
GOOD_IDS = [i for i in range(len(FILES)) if i not in BAD]
IDS = np.random.default_rng(0).permutation(GOOD_IDS)
CACHED, UNCACHED = 2**30, 0

Read = Callable[[int], bytes]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def store(*, ram: int = 0, cache: int = CACHED, workers: int | None = None) -> tuple[Store, list[str]]:
    """A store with no memory for pixels by default, and what it warns of."""
    said: list[str] = []
    resources = Resources(ram_bytes=ram, workers=workers, cache_bytes=cache)
    return open_store(len(FILES), SIZE, resources, warn=said.append), said


def demand_equal(held: Store) -> None:
    """Every batch has the pixels of its images, in their order."""
    for ids in (IDS, IDS[:1], IDS[[3, 3, 1]], IDS[:0]):
        pixels, places = held.rows(ids)
        assert len(places) == len(ids)
        for i, place in zip(ids.tolist(), places.tolist(), strict=True):
            assert np.array_equal(pixels[place], decode(FILES[i], Geometry(height=6, width=5, channels=3)))


def cache_files(ending: str) -> list[Path]:
    return sorted(cache_folder().rglob(f"*{ending}"))


def test_what_fits_is_in_memory_and_what_does_not_on_disk() -> None:
    """The line is the size of all pixels together."""
    needed = len(FILES) * 90
    assert isinstance(store(ram=needed)[0], MemoryStore)
    assert isinstance(store(ram=needed - 1)[0], DiskStore)


@pytest.mark.parametrize("cache", [CACHED, UNCACHED])
@pytest.mark.parametrize("workers", [None, 0, 1, 3])
def test_on_disk_or_in_memory_is_the_same(cache: int, workers: int | None) -> None:
    """Admissions and pixels; with the cache twice, since the second time they are found there."""
    expected = MemoryStore(len(FILES), Loader(SIZE)).admit(range(len(FILES)), FILES.__getitem__)
    for turn in range(2):
        held, said = store(cache=cache, workers=workers)
        with closing(held):
            admission = held.admit(range(len(FILES)), FILES.__getitem__)
            assert admission[:3] == expected[:3]
            assert [(i, str(u)) for i, u in admission.skipped] == [(i, str(u)) for i, u in expected.skipped]
            assert np.flatnonzero(~held.usable).tolist() == BAD
            demand_equal(held)
        decoded = 0 if turn and cache else len(GOOD_IDS)
        assert (held.tally.decoded, held.tally.from_cache) == (decoded, len(GOOD_IDS) - decoded)
        assert said == []


def test_memory_finds_what_disk_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the other way round: how pixels are held is no part of what they are found by."""
    monkeypatch.setattr(cache_module, "WORTH_BYTES", 1)
    for rams in ((0, 2**30), (2**30, 0)):
        for turn, ram in enumerate(rams):
            held, _ = store(ram=ram)
            with closing(held):
                held.admit(range(len(FILES)), FILES.__getitem__)
                demand_equal(held)
            assert bool(held.tally.decoded) == (turn == 0)
        for file in cache_files(""):
            if file.is_file():
                file.unlink()


def test_without_a_cache_nothing_is_left_on_disk() -> None:
    """The file that pixels are read from has no name."""
    held, _ = store(cache=UNCACHED)
    with closing(held):
        held.admit(range(len(FILES)), FILES.__getitem__)
        assert cache_files("") == []
        demand_equal(held)


@pytest.mark.parametrize("ram", [0, 2**30])
def test_damage_in_the_cache_is_decoded_again(ram: int) -> None:
    """A byte of each picture changed between two runs: the second decodes all of them and shows none of it."""
    held, _ = store()
    with closing(held):
        held.admit(GOOD_IDS, FILES.__getitem__)
    (file,) = cache_files(".pixels")
    damaged = bytearray(file.read_bytes())
    damaged[::90] = bytes(byte ^ 1 for byte in damaged[::90])
    file.write_bytes(damaged)
    held, said = store(ram=ram)
    with closing(held):
        held.admit(GOOD_IDS, FILES.__getitem__)
        demand_equal(held)
    assert held.tally.decoded == len(GOOD_IDS)
    assert said == []


def test_damage_while_a_run_reads_it_is_not_shown() -> None:
    """Pixels that were damaged or cut off after admission are decoded again at each visit."""
    held, _ = store()
    with closing(held):
        held.admit(GOOD_IDS, FILES.__getitem__)
        (file,) = cache_files(".pixels")
        whole = file.read_bytes()
        file.write_bytes(bytes(len(whole) // 2) + whole[len(whole) // 2 :])
        demand_equal(held)
        with file.open("r+b") as cut:
            cut.truncate(len(whole) // 3)
        demand_equal(held)


def test_an_image_that_changed_meanwhile_is_an_error() -> None:
    """If its pixels have to be decoded again, no other pixels are shown than those on record."""
    files = list(FILES)
    held, _ = store()
    with closing(held):
        held.admit(GOOD_IDS, files.__getitem__)
        files[:] = files[1:] + files[:1]
        demand_equal(held)  # as long as the cache has what was decoded, nothing is read again
        cache_files(".pixels")[0].write_bytes(b"")
        with pytest.raises(DataError, match="changed during the run"):
            held.rows(IDS[:1])

    def read(i: int) -> bytes:
        if gone:
            raise Unusable("missing")
        return FILES[i]

    gone = False
    held, _ = store()
    with closing(held):
        held.admit(GOOD_IDS, read)
        gone = True
        for file in cache_files(".pixels"):
            file.write_bytes(b"")
        with pytest.raises(DataError, match="missing"):
            held.rows(IDS[:1])


def test_on_a_full_disk_images_are_decoded_at_each_visit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk is one warning for the cache and one for the rest, in the thread that uses the store; training continues."""
    monkeypatch.setattr(cache_module, "RESERVE_BYTES", 2**62)
    monkeypatch.setattr(store_module, "RESERVE_BYTES", 2**62)
    threads: set[int] = set()
    said: list[str] = []

    def warn(text: str) -> None:
        threads.add(threading.get_ident())
        said.append(text)

    resources = Resources(ram_bytes=0, workers=3, cache_bytes=CACHED)
    read: list[int] = []

    def reread(i: int) -> bytes:
        read.append(i)
        return FILES[i]

    with closing(open_store(len(FILES), SIZE, resources, warn=warn)) as held:
        held.admit(range(len(FILES)), reread)
        read.clear()
        demand_equal(held)
    assert len(said) == 2
    assert "decoded again at each visit" in said[1]
    assert threads == {threading.get_ident()}
    assert set(read) == set(GOOD_IDS)


GROWN = """
import io, re, sys
import numpy as np
from PIL import Image
from contextlib import closing
from capture_cli.pixels.geometry import Geometry
from capture_cli.resources import Resources
from capture_cli.pixels.store import open_store

def memory(name):
    return int(re.search(rf"{name}:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024

count, side, ram = 400, 256, int(sys.argv[1])
def read(i):
    file = io.BytesIO()
    Image.new("RGB", (side, side), (i % 256, i // 256, 7)).save(file, "PNG", compress_level=1)
    return file.getvalue()
resources = Resources(ram_bytes=ram, workers=2, cache_bytes=0 if sys.argv[2] == "no cache" else 2**30)
ids = np.arange(count)
with closing(open_store(count, Geometry(height=side, width=side, channels=3), resources, warn=sys.exit)) as store:
    store.admit(ids[:32], read), store.rows(ids[:32])
    before = memory("VmRSS")
    for start in range(32, count, 32):
        store.admit(ids[start : start + 32], read)
    for start in range(0, count, 32):
        store.rows(ids[start : start + 32])
    print(memory("VmHWM") - before)
"""


@pytest.mark.parametrize("cache", ["cache", "no cache"])
def test_memory_stays_below_the_allowance(cache: str) -> None:
    """Pixels of four times as much as --ram allows, all read: the process grows by less than that; in memory by all of it."""

    def grown(ram: int) -> float:
        done = subprocess.run([sys.executable, "-c", GROWN, str(ram), cache], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return float(done.stdout)

    pixels = 400 * 256 * 256 * 3
    assert grown(pixels // 4) < pixels / 4 / 2**20
    assert grown(pixels) > 0.8 * pixels / 2**20  # the measure sees what is there to be seen
