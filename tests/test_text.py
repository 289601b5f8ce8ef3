"""capture_cli.views.terminal.text: names reach the terminal as visible characters only."""

import subprocess
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from capture_cli.errors import CaptureError, UsageError
from capture_cli.views.terminal.text import error_line, plain, safe, shorten

any_text = st.text(st.characters(codec=None, exclude_categories=()))  # lone surrogates included
nasty_text = st.text(
    st.sampled_from("ab\\nrtxuU0\n\r\t\x00\x1b\x9b\u202e\u200b\ufeff\u2028\udc80\ufe0f\u0301\U000e0041é漢👍[]:")
)
names = st.one_of(any_text, nasty_text)


@pytest.mark.parametrize(
    "name",
    [
        "boot_0001.png",
        "great pyrenees-7.jpg",
        "naïve.png",
        "nai\u0308ve.png",
        "猫_3.png",
        "고양이.png",
        "שלום.png",
        "👍.png",
        "[/]",
        "[link=https://x]a[/link]",
        ":smile:",
        "-rf.jpg",
        "<img src=x onerror=y>.jpg",
        "100%.png",
        "a\\d.png",
        "a\\",
    ],
)
def test_ordinary_names_are_unchanged(name: str) -> None:
    """Letters of any script, accents, emoji, brackets and lone backslashes stay as they are."""
    assert safe(name) == name


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a\nb", r"a\nb"),
        ("a\r\tb", r"a\r\tb"),
        ("\x1b[2J", r"\x1b[2J"),
        ("\x1b]52;c;aGk=\x07", r"\x1b]52;c;aGk=\x07"),
        ("\x7f\x9b31m", r"\x7f\x9b31m"),
        ("cat\u202egnp.exe", r"cat\u202egnp.exe"),
        ("a\u200bb\ufeff\u00ad", r"a\u200bb\ufeff\xad"),
        ("a\u2028b\u2029", r"a\u2028b\u2029"),
        ("\u3164\ufe0f\u00a0", r"\u3164\ufe0f\xa0"),
        ("\U000e0041", r"\U000e0041"),
        ("\udc80.png", r"\udc80.png"),
    ],
)
def test_unreadable_characters_are_escaped(name: str, shown: str) -> None:
    """Controls, format characters, separators, invisible characters and surrogates."""
    assert safe(name) == shown


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (r"a\nb", r"a\\nb"),  # a backslash and an n: not a newline
        (r"a\d+b", r"a\d+b"),  # cannot be taken for an escape
        ("\\\\", r"\\" + "\\"),
        ("\\\n", r"\\\n"),
    ],
)
def test_a_backslash_is_doubled_only_where_it_could_mislead(name: str, shown: str) -> None:
    """`\\n` in a name and a newline in a name look different; other backslashes are left alone."""
    assert safe(name) == shown


@given(names)
def test_the_result_has_visible_characters_only(name: str) -> None:
    """No control, format, separator, surrogate or invisible character, whatever the input."""
    shown = safe(name)
    assert shown.isprintable()
    assert not {unicodedata.category(c) for c in shown} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    assert not set(shown) & set("\ufe0f\u3164\u034f")
    shown.encode("utf-8")


@given(names)
def test_two_names_never_look_alike(name: str) -> None:
    """The shown text determines the name."""
    assert _unescape(safe(name)) == name


@given(names, st.integers(0, 30))
def test_a_shortened_name_fits(name: str, width: int) -> None:
    """Never wider than the limit, never unsafe, and whole if it fits."""
    shown = shorten(name, width)
    assert cell_len(shown) <= width
    assert shown.isprintable()
    if cell_len(safe(name)) <= width:
        assert shown == safe(name)


@pytest.mark.parametrize(
    ("name", "width", "shown"),
    [
        ("great_pyrenees_0012.jpg", 16, "great…s_0012.jpg"),
        ("great_pyrenees_0012.jpg", 1, "…"),
        ("great_pyrenees_0012.jpg", 0, ""),
        ("猫猫猫猫猫猫.png", 9, "猫…猫.png"),
        ("aaaaaaaa\x1b\x1bb.png", 10, r"aaa…b.png"),  # an escape is kept whole or not at all
        ("abcdefghe\u0301\u0301xyz", 5, "a…xyz"),  # no accent without its letter
    ],
)
def test_a_long_name_loses_its_middle(name: str, width: int, shown: str) -> None:
    """Number and extension tell one file from the next."""
    assert shorten(name, width) == shown


@pytest.mark.parametrize("name", ["[bold]x[/bold]", "[/]", ":smile:", "123 'a' http://x.y", "a\x1b[31mb", "trailing\\"])
def test_rich_shows_a_name_literally(name: str) -> None:
    """No markup, emoji code, highlighting or escape sequence, even on a terminal with colours."""
    console = Console(force_terminal=True, color_system="truecolor", width=100)
    with console.capture() as shown:
        console.print(plain(name))
    assert shown.get() == safe(name) + "\n"


def test_an_error_is_one_line() -> None:
    """The message and the hint, with names made safe."""
    assert error_line(UsageError("no folder a\nb\x1b", "give one")) == r"capture: no folder a\nb\x1b; give one"
    assert error_line(CaptureError("it failed")) == "capture: it failed"


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_any_name_can_be_printed_to_stderr(encoding: str) -> None:
    """Every code point, to a real stderr of either encoding."""
    script = """if True:
        import sys
        from capture_cli.views.terminal.text import safe
        for start in range(0, sys.maxunicode + 1, 4096):
            print(safe("".join(map(chr, range(start, start + 4096)))), file=sys.stderr)
        """
    environment = {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr[-500:]
    lines = done.stderr.decode(encoding).splitlines()
    assert len(lines) == 0x110000 // 4096


def test_importing_it_imports_nothing_heavy() -> None:
    """Printing an error must not wait for Rich."""
    script = "import sys, capture_cli.views.terminal.text; print(sorted({'rich', 'numpy', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def _unescape(shown: str) -> str:
    """Undo `safe` as its documentation describes."""
    name, at = [], 0
    while at < len(shown):
        mark = shown[at + 1 : at + 2] if shown[at] == "\\" else ""
        digits = {"x": 2, "u": 4, "U": 8}.get(mark, 0)
        if digits:
            name.append(chr(int(shown[at + 2 : at + 2 + digits], 16)))
        elif mark and mark in "\\nrt":
            name.append({"\\": "\\", "n": "\n", "r": "\r", "t": "\t"}[mark])
        else:
            name.append(shown[at])
            mark = ""
        at += 1 + len(mark) + digits
    return "".join(name)
