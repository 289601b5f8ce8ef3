"""The memory, threads and disk a run may use. No result depends on them, so they are in neither records nor config.toml.

resources = Resources.parse(ram="4G", workers=2, cache=True)      # raises UsageError
memory_available()                                                # bytes this process could take now
processors()                                                      # threads that can compute at a time
"""

import os
import re
import resource
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Self

from capture_cli.errors import UsageError

CACHE_SIZE = "CAPTURE_CACHE_SIZE"
"""Environment variable with the size limit of the cache of decoded pixels."""
DEFAULT_CACHE_SIZE = "10G"
SHARE_OF_MEMORY = 0.5
"""Fraction of the available memory that pixels may take without --ram."""
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True, kw_only=True)
class Resources:
    """The limits of one run."""

    ram_bytes: int | None = None
    """Memory for pixels; None: SHARE_OF_MEMORY of what is available."""
    workers: int | None = None
    """Threads that decode images; None: one per processor. With 0 and 1 the training thread decodes."""
    cache_bytes: int = 0
    """Size limit of the cache of decoded pixels; 0: it is neither read nor written."""

    @classmethod
    def parse(cls, *, ram: str | None, workers: int | None, cache: bool) -> Self:
        """Parse the command line options, and CAPTURE_CACHE_SIZE from the environment. Raises UsageError."""
        return cls(
            ram_bytes=None if ram is None else size_in_bytes(ram, "--ram"),
            workers=workers,
            cache_bytes=cache_limit() if cache else 0,
        )

    @property
    def pixel_bytes(self) -> int:
        """Memory that pixels may take, in bytes."""
        return int(memory_available() * SHARE_OF_MEMORY) if self.ram_bytes is None else self.ram_bytes


def cache_limit(environment: Mapping[str, str] = os.environ) -> int:
    """Return the size limit of the cache in bytes. Raises UsageError where CAPTURE_CACHE_SIZE is not a size."""
    return size_in_bytes(environment.get(CACHE_SIZE, DEFAULT_CACHE_SIZE), CACHE_SIZE)


def size_in_bytes(text: str, name: str) -> int:
    """Parse `4G` -> 4 * 2^30, `500M`, `1.5G`, `4096`. Raises UsageError, which calls the option `name`."""
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,6})?)([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE | re.ASCII)
    if not match:
        raise UsageError(f"{name} {text} is not valid", "give a size in bytes such as 500M, 4G or 0")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def memory_available() -> int:
    """Return the bytes this process could take now without swapping: the least of machine, control groups and rlimits."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    found = re.search(r"^MemAvailable:\s+(\d+) kB", _text("/proc/meminfo"), re.MULTILINE)
    left = [int(found[1]) * 1024 if found else physical // 2]
    for group in control_groups("memory"):
        limits = (_number(f"{group}/{name}") for name in ("memory.max", "memory.high", "memory.limit_in_bytes"))
        used = max(_number(f"{group}/memory.current") or 0, _number(f"{group}/memory.usage_in_bytes") or 0)
        reclaimable = re.search(r"^(?:total_)?inactive_file (\d+)", _text(f"{group}/memory.stat"), re.MULTILINE)
        left += [limit - used + (int(reclaimable[1]) if reclaimable else 0) for limit in limits if limit is not None]
    taken = re.match(r"(\d+) \d+ \d+ \d+ \d+ (\d+)", _text("/proc/self/statm"))
    for limit, pages in ((resource.RLIMIT_AS, 1), (resource.RLIMIT_DATA, 2)):
        most = resource.getrlimit(limit)[0]
        if most != resource.RLIM_INFINITY:
            left.append(most - (int(taken[pages]) * resource.getpagesize() if taken else 0))
    return max(0, min(left))


def processors() -> int:
    """Return how many threads can compute at a time: the least of the processors allowed and the quotas of control groups."""
    least = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    for group in control_groups("cpu"):
        quota, period = [*_text(f"{group}/cpu.max").split(), "", ""][:2]  # "max 100000" has no limit
        if not quota:
            quota, period = _text(f"{group}/cpu.cfs_quota_us").strip(), _text(f"{group}/cpu.cfs_period_us").strip()
        if quota.isdigit() and period.isdigit() and int(period):  # version 1 has -1 for no limit
            least = min(least, int(quota) / int(period))
    return max(1, int(least))


def control_groups(controller: str) -> Iterator[str]:
    """Yield the folders of the control groups that this process is in, from its own to the top, for versions 1 and 2.

    Paths in /proc/self/cgroup begin at the mount's root, which mountinfo names: in a container that is often its own group.
    """
    mounts = [line.partition(" - ") for line in _text("/proc/self/mountinfo").splitlines()]
    for line in _text("/proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        for place, _, rest in mounts:
            kind, _, options = rest.split(" ", 2)
            mine = (
                kind == "cgroup2" if not controllers else kind == "cgroup" and controller in options.split(" ")[-1].split(",")
            )
            if not mine or (controllers and controller not in controllers.split(",")):
                continue
            root, mount = place.split(" ")[3:5]
            below = PurePosixPath(path).relative_to(root) if PurePosixPath(path).is_relative_to(root) else ""
            own = PurePosixPath(mount, below)
            yield from (str(one) for one in (own, *own.parents) if one.is_relative_to(mount))


def _number(path: str) -> int | None:
    """Return the number in a file; None if there is none, or it is `max`."""
    text = _text(path).strip()
    return int(text) if text.isdigit() else None


def _text(path: str) -> str:
    try:
        return Path(path).read_text("utf-8", "replace")
    except OSError:
        return ""
