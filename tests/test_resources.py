"""capture_cli.resources: sizes as people write them, and the memory that is available."""

import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch

from capture_cli import resources, runtime
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


MEMINFO = "MemTotal: 9000 kB\nMemAvailable:    8000 kB\n"
V2 = "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
V1 = (
    "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n"
    "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
    "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Pretend to be on a machine with these texts in files: keywords are names below /proc/self, texts those of groups."""

    def pretend(cgroup: str, mountinfo: str, texts: dict[str, str]) -> None:
        files = {"/proc/meminfo": MEMINFO, "/proc/self/cgroup": cgroup, "/proc/self/mountinfo": mountinfo}
        files |= {f"/sys/fs/cgroup/{name}": text for name, text in texts.items()}
        monkeypatch.setattr(resources, "_text", lambda path: files.get(path, ""))

    return pretend


def test_a_container_has_what_its_limit_leaves(machine: Callable[..., None]) -> None:
    """The page cache can be reclaimed, so it counts as available. The mount shows the container's own group as its root."""
    own = {"memory.max": "3000000\n", "memory.current": "2500000\n", "memory.stat": "anon 1500000\ninactive_file 900000\n"}
    machine("0::/docker/abc\n", V2.replace(" / /sys", " /docker/abc /sys"), own)
    assert memory_available() == 1_400_000
    machine("0::/\n", V2, own)
    assert memory_available() == 1_400_000


def test_the_smallest_memory_limit_of_nested_groups_holds(machine: Callable[..., None]) -> None:
    """A job of Slurm or systemd is limited in its own group, one above it, or both."""
    for limits, left in (
        ({"a": "4000000", "a/b": "3000000", "a/b/c": "max"}, 2_000_000),
        ({"a": "2000000", "a/b": "3000000", "a/b/c": "4000000"}, 1_000_000),
        ({"a": "max", "a/b": "max", "a/b/c": "1500000"}, 500_000),
    ):
        texts = {f"{group}/memory.max": f"{limit}\n" for group, limit in limits.items()}
        machine("0::/a/b/c\n", V2, texts | {f"{group}/memory.current": "1000000\n" for group in limits})
        assert memory_available() == left


def test_version_1_and_soft_limits_count_too(machine: Callable[..., None]) -> None:
    """memory.high slows a process down instead of killing it; -1 and `max` are no limits."""
    texts = {"memory/job/memory.limit_in_bytes": "3000000\n", "memory/job/memory.usage_in_bytes": "1000000\n"}
    machine("5:memory:/job/step\n2:cpu,cpuacct:/\n0::/\n", V1, texts)
    assert memory_available() == 2_000_000
    machine("0::/job\n", V2, {"job/memory.high": "1000000\n", "job/memory.max": "max\n", "job/memory.current": "400000\n"})
    assert memory_available() == 600_000


def test_a_group_that_is_full_leaves_nothing(machine: Callable[..., None]) -> None:
    """And never less than nothing."""
    machine("0::/a\n", V2, {"a/memory.max": "1000\n", "a/memory.current": "5000\n"})
    assert memory_available() == 0


def test_the_smallest_processor_quota_of_nested_groups_holds(machine: Callable[..., None]) -> None:
    """Of both versions; a share of a processor is one thread."""
    usable = len(os.sched_getaffinity(0))
    machine("0::/a/b\n", V2, {"a/cpu.max": "100000 100000\n", "a/b/cpu.max": "max 100000\n"})
    assert resources.processors() == 1
    machine("0::/a/b\n", V2, {"a/cpu.max": "max 100000\n", "a/b/cpu.max": "20000 100000\n"})
    assert resources.processors() == 1
    texts = {"cpu,cpuacct/job/cpu.cfs_quota_us": "150000\n", "cpu,cpuacct/job/cpu.cfs_period_us": "100000\n"}
    machine("2:cpu,cpuacct:/job\n5:memory:/\n", V1, texts)
    assert resources.processors() == 1
    machine("2:cpu,cpuacct:/job\n", V1, {**texts, "cpu,cpuacct/job/cpu.cfs_quota_us": "-1\n"})
    assert resources.processors() == usable
    machine("", "", {})
    assert resources.processors() == usable


def test_no_more_threads_compute_than_the_quota_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container with one of 64 processors is not throttled 63 times; `--threads` means what it says."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        monkeypatch.setattr(runtime, "processors", lambda: 1)
        runtime.use_threads(None)
        assert torch.get_num_threads() == 1
        runtime.use_threads(3)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("kind", ["RLIMIT_AS", "RLIMIT_DATA"])
def test_a_limit_of_the_process_counts(kind: str) -> None:
    """As `ulimit -v` and `ulimit -d` set it, in a process of its own."""
    code = (
        "import resource; from capture_cli.resources import memory_available\n"
        f"resource.setrlimit(resource.{kind}, (2**30, 2**30)); print(memory_available())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert 2**28 < int(done.stdout) < 2**30
