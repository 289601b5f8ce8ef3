"""capture_cli.views.terminal.pictures: images drawn as faithfully as the terminal allows."""

import io
import subprocess
import sys

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console, RenderableType
from rich.text import Text

from capture_cli.views.terminal.pictures import Card, Gallery, Thumbnail, fitting, reduce


def shown(what: RenderableType, color_system: str | None = "truecolor", *, width: int = 80, no_color: bool = False) -> str:
    """Return the output for the terminal."""
    file = io.StringIO()
    Console(file=file, force_terminal=True, color_system=color_system, width=width, no_color=no_color).print(what)  # type: ignore[arg-type]
    return file.getvalue()


def colours(*columns: tuple[list[int], list[int]]) -> npt.NDArray[np.uint8]:
    """Make an image [3, 2, W] from (upper, lower) pixels."""
    return np.array(columns, np.uint8).transpose(2, 1, 0)


def test_a_cell_shows_two_pixels() -> None:
    """The upper one is the half block's colour, the lower one its background."""
    red_over_blue = colours(([255, 0, 0], [0, 0, 255]))
    assert shown(Thumbnail(red_over_blue)) == "\x1b[38;2;255;0;0;48;2;0;0;255m▀\x1b[0m\n"


def test_256_colours_if_the_terminal_has_no_more() -> None:
    """Colours are rounded to the palette."""
    red_over_blue = colours(([255, 0, 0], [0, 0, 255]))
    assert shown(Thumbnail(red_over_blue), "256") == "\x1b[38;5;196;48;5;21m▀\x1b[0m\n"


@pytest.mark.parametrize(("color_system", "no_color"), [("standard", False), (None, False), ("truecolor", True)])
def test_shades_without_colours(color_system: str | None, no_color: bool) -> None:
    """Characters by brightness, without an escape sequence: 16 colours, none, NO_COLOR."""
    ramp = np.array([[[0, 60, 120, 180, 255]] * 2], np.uint8)
    assert shown(Thumbnail(ramp), color_system, no_color=no_color) == " ░▒▓█\n"


def test_ascii_if_the_encoding_has_no_more() -> None:
    """An ASCII terminal gets ASCII characters."""
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    Console(file=file, force_terminal=True, color_system="truecolor", width=80).print(
        Thumbnail(np.array([[[0, 128, 255]] * 2], np.uint8))
    )
    file.seek(0)
    assert file.read() == " +@\n"


def test_inputs_and_pixels_look_the_same() -> None:
    """float32 from -1 to 1 is 0 to 255; values outside are clipped, NaN is black."""
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    inputs = (pixels.astype(np.float32) - 127.5) * np.float32(1 / 127.5)
    assert np.array_equal(Thumbnail(inputs).pixels, Thumbnail(pixels).pixels)
    odd = np.array([[[-3, 7, np.nan, np.inf, -np.inf]] * 2], np.float32)
    assert Thumbnail(odd).pixels[0, :, 0].tolist() == [0, 255, 0, 255, 0]


def test_one_channel_is_grey() -> None:
    """Red, green and blue are that channel; for two or five channels, their mean."""
    pixels = np.random.default_rng(0).integers(0, 256, (1, 8, 8), dtype=np.uint8)
    assert np.array_equal(Thumbnail(pixels).pixels, Thumbnail(np.repeat(pixels, 3, axis=0)).pixels)
    assert np.array_equal(Thumbnail(pixels).pixels, Thumbnail(np.repeat(pixels, 5, axis=0)).pixels)


def test_a_pixel_is_the_mean_of_its_area() -> None:
    """Reducing averages, also if the areas do not align with pixels."""
    image = np.array([[[0, 30, 60], [0, 30, 60], [90, 90, 90]]], np.float32)
    assert reduce(image, 1, 1)[0, 0].tolist() == [50, 50, 50]  # the mean of all nine
    assert reduce(image, 3, 2)[:, :, 0].tolist() == [[10, 50], [10, 50], [90, 90]]


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 40), st.integers(1, 20))
def test_a_picture_fits_and_keeps_its_shape(height: int, width: int, columns: int, rows: int) -> None:
    """Never larger than the limit, never enlarged, and its aspect ratio is kept to within a cell."""
    picture = Thumbnail(np.zeros((1, height, width), np.uint8), columns=columns, rows=rows)
    assert picture.columns <= min(columns, width)
    assert picture.rows <= min(rows, (height + 1) // 2)
    assert picture.pixels.shape == (2 * picture.rows, picture.columns, 3)
    if picture.columns > 1 and picture.rows > 1:
        assert abs(picture.columns - 2 * picture.rows * width / height) <= 1 + width / height


def test_a_picture_keeps_no_reference_to_the_image() -> None:
    """The image may be changed or freed afterwards."""
    image = np.zeros((3, 16, 16), np.uint8)
    picture = Thumbnail(image)
    image[:] = 255
    assert picture.pixels.max() == 0


def test_captions_are_below_their_pictures() -> None:
    """Side by side, each caption where its picture begins, whatever their sizes."""
    wide, small = np.full((1, 4, 4), 255, np.uint8), np.full((1, 2, 2), 255, np.uint8)
    cards = [Card(Thumbnail(wide), [Text("one"), Text("1")]), Card(None, []), Card(Thumbnail(small), [Text("three is long")])]
    text = shown(Gallery(cards, card_width=6, gap=1), None)
    assert text.splitlines() == [
        "████          ██",
        "████",
        "one           three…",
        "1",
    ]


@pytest.mark.parametrize("width", [5, 6, 13, 20, 33, 80])
def test_only_as_many_cards_as_fit(width: int) -> None:
    """The others are dropped, nothing is wrapped."""
    cards = [Card(Thumbnail(np.full((1, 8, 8), 255, np.uint8)), [Text(f"card{i}")]) for i in range(4)]
    lines = shown(Gallery(cards, card_width=6, gap=1), None, width=width).splitlines()
    assert all(len(line) <= width for line in lines)
    assert sum(line.count("card") for line in lines) == min(4, fitting(width, 6, 1))


def test_no_torch_is_needed() -> None:
    """Commands that only read show pictures too."""
    script = "import sys, capture_cli.views.terminal.pictures; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
