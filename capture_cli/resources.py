"""What of the machine a run may take. No result depends on it, so none of it is in the records or in config.toml.

resources = Resources.parse(ram="4G", workers=2, cache=True)      # raises UsageError
memory_available()                                                # bytes that could be taken now
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from capture_cli.errors import UsageError

CACHE_SIZE = "CAPTURE_CACHE_SIZE"
"""Environment variable: how large the cache of decoded pixels may become."""
DEFAULT_CACHE_SIZE = "10G"
SHARE_OF_MEMORY = 0.5
"""Of what is available when the run begins, for the pixels of one that was not told --ram."""
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What a run may take."""

    ram_bytes: int | None = None
    """For pixels; None: SHARE_OF_MEMORY of what is available."""
    workers: int | None = None
    """Threads that decode; None: as many as there are processors for. 0 and 1 leave it to the training thread."""
    cache_bytes: int = 0
    """How large the cache of decoded pixels may become, 0: it is neither read nor written."""

    @classmethod
    def parse(cls, *, ram: str | None, workers: int | None, cache: bool) -> Self:
        """As the command line has it, with CAPTURE_CACHE_SIZE from the environment. Raises UsageError."""
        return cls(
            ram_bytes=None if ram is None else size_in_bytes(ram, "--ram"),
            workers=workers,
            cache_bytes=cache_limit() if cache else 0,
        )

    @property
    def pixel_bytes(self) -> int:
        """Memory that pixels may take."""
        return int(memory_available() * SHARE_OF_MEMORY) if self.ram_bytes is None else self.ram_bytes


def cache_limit(environment: Mapping[str, str] = os.environ) -> int:
    """How large the cache may become, in bytes. Raises UsageError where the environment says it in a way that is no size."""
    return size_in_bytes(environment.get(CACHE_SIZE, DEFAULT_CACHE_SIZE), CACHE_SIZE)


def size_in_bytes(text: str, name: str) -> int:
    """`4G` -> 4 * 2^30, `500M`, `1.5G`, `4096`. Raises UsageError, which calls the option `name`."""
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,6})?)([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE | re.ASCII)
    if not match:
        raise UsageError(f"{name} {text} cannot be honoured", "it takes a size in bytes, as in 500M, 4G or 0")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def memory_available() -> int:
    """Bytes that this process could take without pushing anything out, as far as the system tells."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    said = re.search(r"^MemAvailable:\s+(\d+) kB", _text("/proc/meminfo"), re.MULTILINE)
    left = int(said[1]) * 1024 if said else physical // 2
    for limit, used, statistics in _GROUPS:
        most, now = _text(limit).strip(), _text(used).strip()
        if most.isdigit() and now.isdigit():
            files = re.search(r"^(?:total_)?inactive_file (\d+)", _text(statistics), re.MULTILINE)  # which it would give back
            left = min(left, max(0, int(most) - int(now) + (int(files[1]) if files else 0)))
    return left


_GROUPS = [
    tuple(f"/sys/fs/cgroup/{name}" for name in ("memory.max", "memory.current", "memory.stat")),
    tuple(f"/sys/fs/cgroup/memory/memory.{name}" for name in ("limit_in_bytes", "usage_in_bytes", "stat")),
]
"""What a container may take, has taken, and of what, in both versions of control groups."""


def _text(path: str) -> str:
    try:
        return Path(path).read_text("ascii")
    except (OSError, UnicodeDecodeError):
        return ""
