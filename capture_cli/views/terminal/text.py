"""The one door from untrusted text to the terminal.

File names, class names and every text that quotes them are hostile: an escape sequence in a name can move the cursor, write to
the clipboard or hide its neighbours, and square brackets are markup to Rich. Every text for people goes through here, once,
when it is printed:

    safe("a\\x1b[2Jb.png")              # 'a\\\\x1b[2Jb.png': text for any stream
    plain(name)                         # the same as a rich Text: no markup, no emoji codes, no highlighting
    shorten(name, 20)                   # safe text in at most 20 cells, with an ellipsis in the middle
    error_line(error)                   # 'capture: <message>; <hint>'

The result is one line of printable, visible characters. Ordinary names are unchanged, and two different texts never come out
alike. Pass the raw text: text that `repr` or `safe` has escaped already would be escaped again.

Nothing heavy is imported here; only the functions that need Rich import it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from capture_cli.errors import CaptureError

if TYPE_CHECKING:
    from rich.text import Text

_SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}
_AFTER_BACKSLASH = frozenset("\\nrtxuU")
"""The characters that follow the backslash of our escapes: before these, a backslash of the text is doubled."""

_INVISIBLE = frozenset(
    [
        0x034F,
        0x115F,
        0x1160,
        0x17B4,
        0x17B5,
        0x3164,
        0xFFA0,
        *range(0x180B, 0x1810),
        *range(0xFE00, 0xFE10),
        *range(0xE0100, 0xE01F0),
    ]
)
"""Invisible code points that `isprintable` accepts: fillers and variation selectors."""


def safe(text: str) -> str:
    r"""Return `text` as one line of printable characters.

    Controls (C0, DEL, C1), bidirectional and other format characters, line and paragraph separators, blanks other than the
    space, invisible, private and unassigned characters and lone surrogates become `\n`, `\x1b`, `\u202e`, `\U000e0001`.
    A backslash is doubled only where it could be read as the start of such an escape.
    """
    if text.isascii() and text.isprintable() and "\\" not in text:
        return text
    return "".join(_units(text))


def _units(text: str) -> list[str]:
    """Return one string per character of `text`: itself or its escape."""
    units: list[str] = []
    following = ""  # the next character of the output
    for char in reversed(text):
        unit = _unit(char, following)
        units.append(unit)
        following = unit[0]
    units.reverse()
    return units


def _unit(char: str, following: str) -> str:
    if char == "\\":
        return r"\\" if following in _AFTER_BACKSLASH else char
    code = ord(char)
    if char.isprintable() and code not in _INVISIBLE:
        return char
    if char in _SHORT:
        return _SHORT[char]
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def shorten(text: str, width: int) -> str:
    """Return `text`, made safe, in at most `width` terminal cells.

    If it is too long, an ellipsis replaces the middle. Two thirds of the width go to the end: number and extension tell one
    file from the next.
    """
    from rich.cells import cell_len

    whole = safe(text)
    if cell_len(whole) <= width:
        return whole
    if width < 1:
        return ""
    units = _units(text)
    head = _fitting(units, (width - 1) // 3)
    tail = _fitting(units[::-1], width - 1 - cell_len("".join(head)))[::-1]
    while tail and cell_len(tail[0]) == 0:  # a combining accent would land on the ellipsis
        del tail[0]
    return f"{''.join(head)}…{''.join(tail)}"


def _fitting(units: list[str], width: int) -> list[str]:
    """Return the first of `units` that fit into `width` cells together; no escape is cut in two."""
    from rich.cells import cell_len

    for count, unit in enumerate(units):
        width -= cell_len(unit)
        if width < 0:
            return units[:count]
    return units


def plain(text: str, style: str = "") -> Text:
    """Return `text`, made safe, as a Rich Text: no markup, emoji codes or highlighting."""
    from rich.text import Text

    return Text(safe(text), style)


def error_line(error: CaptureError) -> str:
    """Return `capture: <message>; <hint>`, made safe, without a newline."""
    return safe(f"capture: {error}")
