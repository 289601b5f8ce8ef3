"""The one door from untrusted text to the terminal.

File names, class names and whatever quotes them are hostile: an escape sequence in a name can move the cursor, write to the
clipboard or hide what stands beside it, and square brackets are markup to Rich. Whatever people are shown goes through here,
once, at the moment it is printed:

    safe("a\\x1b[2Jb.png")              # 'a\\\\x1b[2Jb.png': text for any stream
    plain(name)                         # the same as a rich Text: no markup, no emoji codes, no highlighting
    shorten(name, 20)                   # safe text in at most 20 cells; the middle goes, the ending stays
    error_line(error)                   # 'capture: what went wrong; the way on'

What it promises: what comes out is one line and holds printable characters only (`str.isprintable`), none of them invisible.
Ordinary names come out as they went in, and two different texts never come out alike. Give these functions the raw text:
what has been escaped already, by `repr` or by `safe`, would be escaped again.

Nothing heavy is imported here; Rich only by the functions that need it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from capture_cli.errors import CaptureError

if TYPE_CHECKING:
    from rich.text import Text

_SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}
_AFTER_BACKSLASH = frozenset("\\nrtxuU")
"""What an escape of ours has after its backslash: only before these is a backslash of the text itself doubled."""

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
"""Default-ignorable code points that `isprintable` lets pass: fillers and variation selectors, which show as nothing."""


def safe(text: str) -> str:
    r"""`text` as one line of printable characters.

    Controls (C0, DEL, C1), bidirectional and other format characters, line and paragraph separators, blanks other than the
    space, invisible, private and unassigned characters and lone surrogates are written as `\n`, `\x1b`, `\u202e`, `\U000e0001`.
    A backslash stays as it is unless it could be taken for the beginning of such an escape; then it is doubled.
    """
    if text.isascii() and text.isprintable() and "\\" not in text:
        return text
    return "".join(_units(text))


def _units(text: str) -> list[str]:
    """One string for each character of `text`: itself or its escape."""
    units: list[str] = []
    following = ""  # what the output goes on with
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
    """`text`, made safe, in at most `width` cells of the terminal.

    Where it is too long, an ellipsis takes the place of the middle. Two thirds of the room go to the end: the number and
    the ending tell one file from the next.
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
    while tail and cell_len(tail[0]) == 0:  # an accent whose letter was cut off would sit on the ellipsis
        del tail[0]
    return f"{''.join(head)}…{''.join(tail)}"


def _fitting(units: list[str], width: int) -> list[str]:
    """The first of `units` that fit into `width` cells together; no escape is cut in two."""
    from rich.cells import cell_len

    for count, unit in enumerate(units):
        width -= cell_len(unit)
        if width < 0:
            return units[:count]
    return units


def plain(text: str, style: str = "") -> Text:
    """`text`, made safe, as a Rich Text, which Rich shows literally: no markup, emoji codes or highlighting."""
    from rich.text import Text

    return Text(safe(text), style)


def error_line(error: CaptureError) -> str:
    """`capture: <message>; <hint>`, safe and without a newline."""
    parts = [part for part in (error.message, error.hint) if part]
    return safe(f"capture: {'; '.join(parts)}")
