"""capture_cli.resources: sizes as people write them, and the memory that is available."""

import os

import pytest

from capture_cli import resources
from capture_cli.errors import UsageError
from capture_cli.resources import Resources, cache_limit, memory_available, size_in_bytes


@pytest.mark.parametrize(
    ("text", "size"),
    [("4G", 4 * 2**30), ("500M", 500 * 2**20), ("1.5k", 1536), ("0", 0), ("4096", 4096), ("2GiB", 2**31), ("1T", 2**40)],
)
def test_sizes_are_read_as_people_write_them(text: str, size: int) -> None:
    """Steps of 1,024, in either case, with or without the B."""
    assert size_in_bytes(text, "--ram") == size


@pytest.mark.parametrize("text", ["", "lots", "-1", "4 gigabytes", "1e9", "G", "٤G", "4G 4G"])
def test_an_invalid_size_is_refused(text: str) -> None:
    """The message names the option, the value and what is valid."""
    with pytest.raises(UsageError, match=r"--ram .*is not valid") as caught:
        size_in_bytes(text, "--ram")
    assert "4G" in caught.value.hint


def test_the_limit_of_the_cache_is_in_the_environment() -> None:
    """10G by default; an invalid size is an error that names the variable."""
    assert cache_limit({}) == 10 * 2**30
    assert cache_limit({"CAPTURE_CACHE_SIZE": "2G"}) == 2**31
    with pytest.raises(UsageError, match="CAPTURE_CACHE_SIZE big"):
        cache_limit({"CAPTURE_CACHE_SIZE": "big"})


def test_without_a_cache_the_environment_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """--no-cache works whatever the variable says."""
    monkeypatch.setenv("CAPTURE_CACHE_SIZE", "nonsense")
    assert Resources.parse(ram="1G", workers=None, cache=False).cache_bytes == 0


def test_by_default_pixels_take_half_of_the_available_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the size given with --ram."""
    monkeypatch.setattr(resources, "memory_available", lambda: 1000)
    assert Resources.parse(ram=None, workers=None, cache=True).pixel_bytes == 500
    assert Resources.parse(ram="7", workers=None, cache=True).pixel_bytes == 7


def test_available_memory_is_at_most_the_physical_memory() -> None:
    """On this machine."""
    assert 2**20 < memory_available() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_a_container_has_what_its_limit_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page cache can be reclaimed, so it counts as available."""
    texts = {
        "/proc/meminfo": "MemTotal: 9000 kB\nMemAvailable:    8000 kB\n",
        "/sys/fs/cgroup/memory.max": "3000000\n",
        "/sys/fs/cgroup/memory.current": "2500000\n",
        "/sys/fs/cgroup/memory.stat": "anon 1500000\ninactive_file 900000\n",
    }
    monkeypatch.setattr(resources, "_text", lambda path: texts.get(path, ""))
    assert memory_available() == 1_400_000
    texts["/sys/fs/cgroup/memory.max"] = "max\n"
    assert memory_available() == 8000 * 1024
