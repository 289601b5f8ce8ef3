"""`capture cache`: list or clear the decoded pixels that runs keep in the user's cache folder."""

from typing import Annotated

import typer


def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Delete the cache. No run depends on it.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of a table.")] = False,
) -> int:
    """List the cache of decoded pixels, which saves later runs the decoding.

    Each row is what one run decoded: the shape of its inputs, the number of
    images, the size, and when a run last used it. CAPTURE_CACHE_SIZE (10G)
    limits the total; the least recently used entries go first.
    """
    from capture_cli.cli.terminal import terminal_width
    from capture_cli.pixels.cache import cache_folder, parts, remove
    from capture_cli.resources import cache_limit
    from capture_cli.views.terminal.cache import cleared, show_parts, to_json

    folder, limit = cache_folder(), cache_limit()
    found = sorted(parts(folder), key=lambda part: -part.used)
    if clear:
        for part in found:
            remove(part)
        typer.echo(cleared(folder, found), err=True)
        found = []
    if as_json:
        typer.echo(to_json(folder, found, limit))
    elif not clear:
        show_parts(folder, found, limit, width=terminal_width())
    return 0
