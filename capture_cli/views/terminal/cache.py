"""`capture cache`: the parts of the cache of decoded pixels, as a table and as JSON."""

import json
import time
from collections.abc import Sequence
from pathlib import Path

from capture_cli.pixels.cache import Part
from capture_cli.views.terminal.tables import new_table, show
from capture_cli.views.terminal.text import plain, safe


def show_parts(folder: Path, parts: Sequence[Part], limit_bytes: int, *, width: int | None = None) -> None:
    """Print the folder, the total size and the parts, in this order, on stdout.

    `width` is that of the terminal in cells, None for a pipe.
    """
    total = sum(part.size for part in parts)
    heading = f"{folder}: {size(total)} of at most {size(limit_bytes)}"
    if not parts:
        show([plain(heading, "bold")], width=width)
        return
    table = new_table(("last used", ""), ("inputs", ""), ("images", "#"), ("size", "#"), ("in the folder", "fold"))
    for part in parts:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(part.used))
        where = str(part.index.with_suffix("").relative_to(folder))
        table.add_row(when, plain(part.shape), f"{part.entries:,}", size(part.size), plain(where))
    show([plain(heading, "bold"), "", table], width=width)


def to_json(folder: Path, parts: Sequence[Part], limit_bytes: int) -> str:
    """Encode the same as one JSON object; sizes in bytes, times in seconds since 1970."""
    body = {
        "path": str(folder),
        "limit_bytes": limit_bytes,
        "bytes": sum(part.size for part in parts),
        "parts": [
            {
                "path": str(part.index.with_suffix("")),
                "inputs": part.shape,
                "images": part.entries,
                "bytes": part.size,
                "used": round(part.used, 3),
            }
            for part in parts
        ],
    }
    return json.dumps(body)


def cleared(folder: Path, parts: Sequence[Part]) -> str:
    """Say what was removed."""
    images, total = sum(part.entries for part in parts), sum(part.size for part in parts)
    return safe(f"cleared {folder}: {images:,} images, {size(total)}")


def size(count: int) -> str:
    """Write bytes for a person, in steps of 1,024 as `--ram` reads them: `1.5 GB`."""
    value, units = float(count), ["B", "KB", "MB", "GB", "TB"]
    while value >= 1024 and len(units) > 1:
        value /= 1024
        units.pop(0)
    return f"{value:.0f} {units[0]}" if units[0] == "B" or value >= 100 else f"{value:.1f} {units[0]}"
