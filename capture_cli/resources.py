"""The memory, threads and disk a run may use. No result depends on them, so they are in neither records nor config.toml.

resources = Resources.parse(ram="4G", workers=2, cache=True)      # raises UsageError
memory_available()                                                # bytes this process could take now
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
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
    """Return the bytes this process could take without swapping, within the limits of its control group."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    found = re.search(r"^MemAvailable:\s+(\d+) kB", _text("/proc/meminfo"), re.MULTILINE)
    left = int(found[1]) * 1024 if found else physical // 2
    for limit_file, used_file, statistics in _CONTROL_GROUPS:
        limit, used = _text(limit_file).strip(), _text(used_file).strip()
        if limit.isdigit() and used.isdigit():
            reclaimable = re.search(r"^(?:total_)?inactive_file (\d+)", _text(statistics), re.MULTILINE)
            left = min(left, max(0, int(limit) - int(used) + (int(reclaimable[1]) if reclaimable else 0)))
    return left


_CONTROL_GROUPS = [
    tuple(f"/sys/fs/cgroup/{name}" for name in ("memory.max", "memory.current", "memory.stat")),
    tuple(f"/sys/fs/cgroup/memory/memory.{name}" for name in ("limit_in_bytes", "usage_in_bytes", "stat")),
]
"""Limit, use and statistics of a container's memory, for versions 2 and 1 of control groups."""


def _text(path: str) -> str:
    try:
        return Path(path).read_text("ascii")
    except (OSError, UnicodeDecodeError):
        return ""
