"""What of the machine a run may take: sizes as people write them, and what is left."""

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
def test_what_is_no_size_is_refused(text: str) -> None:
    """The message names option, value and what would do."""
    with pytest.raises(UsageError, match=r"--ram .*cannot be honoured") as caught:
        size_in_bytes(text, "--ram")
    assert "4G" in caught.value.hint


def test_the_limit_of_the_cache_is_in_the_environment() -> None:
    """10G where it is not; what is no size is said with the variable's name."""
    assert cache_limit({}) == 10 * 2**30
    assert cache_limit({"CAPTURE_CACHE_SIZE": "2G"}) == 2**31
    with pytest.raises(UsageError, match="CAPTURE_CACHE_SIZE big"):
        cache_limit({"CAPTURE_CACHE_SIZE": "big"})


def test_without_a_cache_the_environment_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """--no-cache works whatever the variable says."""
    monkeypatch.setenv("CAPTURE_CACHE_SIZE", "nonsense")
    assert Resources.parse(ram="1G", workers=None, cache=False).cache_bytes == 0


def test_by_default_half_of_what_is_free_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what was asked for where something was."""
    monkeypatch.setattr(resources, "memory_available", lambda: 1000)
    assert Resources.parse(ram=None, workers=None, cache=True).pixel_bytes == 500
    assert Resources.parse(ram="7", workers=None, cache=True).pixel_bytes == 7


def test_available_memory_is_some_and_not_more_than_there_is() -> None:
    """On this machine."""
    assert 2**20 < memory_available() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_a_container_has_what_its_limit_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it holds of files would be given back, and counts as available."""
    said = {
        "/proc/meminfo": "MemTotal: 9000 kB\nMemAvailable:    8000 kB\n",
        "/sys/fs/cgroup/memory.max": "3000000\n",
        "/sys/fs/cgroup/memory.current": "2500000\n",
        "/sys/fs/cgroup/memory.stat": "anon 1500000\ninactive_file 900000\n",
    }
    monkeypatch.setattr(resources, "_text", lambda path: said.get(path, ""))
    assert memory_available() == 1_400_000
    said["/sys/fs/cgroup/memory.max"] = "max\n"
    assert memory_available() == 8000 * 1024
