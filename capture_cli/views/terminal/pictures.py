"""Small pictures for the terminal: model inputs drawn in half blocks.

    picture = Thumbnail(inputs[0], columns=16, rows=8)      # float32 [C, H, W] in [-1, 1], or uint8 [C, H, W]
    console.print(picture)
    console.print(Gallery([Card(picture, [plain(file)]), ...], card_width=20))     # side by side, captions below

A terminal cell is about twice as high as it is wide, so one cell shows two pixels, one above the other. In true colour and 256
colours the upper pixel is the colour of a half block and the lower one its background. With 16 colours or none (`NO_COLOR`),
characters show shades of grey, dark to light as on a dark background.

A picture is reduced when it is made and keeps no reference to its tensor.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from rich.color import Color, ColorSystem
from rich.measure import Measurement
from rich.segment import Segment
from rich.style import Style

from capture_cli.preprocessing import to_pixels

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.text import Text

HALF_BLOCK = "▀"
SHADES = " ░▒▓█"
ASCII_SHADES = " .:-=+*#%@"
_SYSTEMS = {"truecolor": ColorSystem.TRUECOLOR, "256": ColorSystem.EIGHT_BIT}

Pixels = npt.NDArray[np.uint8]


class Thumbnail:
    """One image, reduced to at most `columns` by `rows` cells with its aspect ratio; small ones are not enlarged."""

    def __init__(self, image: npt.NDArray[Any], *, columns: int = 16, rows: int = 8) -> None:
        """`image` [C, H, W] is uint8, or float32, clipped to [-1, 1]. Three channels are red, green and blue; of any other
        number the mean is shown in grey.
        """
        height, width = image.shape[1:]
        scale = min(columns / width, 2 * rows / height, 1.0)
        self.columns = max(1, round(width * scale))
        self.rows = max(1, round(height * scale / 2))
        self.pixels = reduce(_rgb(image), 2 * self.rows, self.columns)
        """uint8 [2 * rows, columns, 3]"""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line in self.lines(console, options):
            yield from line
            yield Segment.line()

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(self.columns, self.columns)

    def lines(self, console: Console, options: ConsoleOptions) -> list[list[Segment]]:
        """Return one list of segments per row of cells, each `columns` wide."""
        if console.color_system in _SYSTEMS and not console.no_color and not options.ascii_only:
            return _half_blocks(self.pixels, _SYSTEMS[console.color_system])
        return _shades(self.pixels, ASCII_SHADES if options.ascii_only else SHADES)


def _rgb(image: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Convert [C, H, W] to float32 [3, H, W] from 0 to 255, or [1, H, W] if grey."""
    pixels = to_pixels(image).astype(np.float32)
    return pixels if len(pixels) in (1, 3) else pixels.mean(0, keepdims=True)


def reduce(image: npt.NDArray[np.float32], height: int, width: int) -> Pixels:
    """Reduce [C, H, W] from 0 to 255 to uint8 [height, width, 3]; each pixel is the mean of its area."""
    small = _areas(image.shape[1], height) @ image @ _areas(image.shape[2], width).T  # [C, height, width]
    pixels = np.rint(small).clip(0, 255).astype(np.uint8)
    return np.broadcast_to(pixels.transpose(1, 2, 0), (height, width, 3))


@lru_cache(maxsize=16)
def _areas(size: int, parts: int) -> npt.NDArray[np.float32]:
    """Return [parts, size]: the weights of `size` pixels in the means of `parts` equal areas; rows sum to 1."""
    edges = np.linspace(0, size, parts + 1)[:, None]
    covered = (edges - np.arange(size)).clip(0, 1)  # [parts + 1, size]: how much of each pixel lies before each edge
    return (np.diff(covered, axis=0) * (parts / size)).astype(np.float32)


def _half_blocks(pixels: Pixels, system: ColorSystem) -> list[list[Segment]]:
    # 32 levels per channel are enough at this size, and let styles be reused: making one is slow.
    coarse = pixels & 0xF8 | pixels >> 5
    cells = np.concatenate([coarse[0::2], coarse[1::2]], axis=2)  # [rows, columns, 6]
    return [
        [Segment(HALF_BLOCK * len(list(run)), _style(system, *key)) for key, run in groupby(map(tuple, row))]
        for row in cells.tolist()
    ]


@lru_cache(maxsize=4096)
def _style(system: ColorSystem, red: int, green: int, blue: int, below_red: int, below_green: int, below_blue: int) -> Style:
    # A Rich style caches the escape codes of the terminal it was first shown on, so each kind of terminal needs its own.
    return Style.from_color(_color(system, red, green, blue), _color(system, below_red, below_green, below_blue))


@lru_cache(maxsize=4096)
def _color(system: ColorSystem, red: int, green: int, blue: int) -> Color:
    return Color.from_rgb(red, green, blue).downgrade(system)


def _shades(pixels: Pixels, shades: str) -> list[list[Segment]]:
    """Draw characters by the brightness (ITU-R BT.601 luma) of both pixels of a cell."""
    luma = pixels.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    cells = (luma[0::2] + luma[1::2]) / 2
    numbers = (cells * (len(shades) / 256)).astype(int).tolist()
    return [[Segment("".join(shades[number] for number in row))] for row in numbers]


@dataclass(frozen=True, slots=True)
class Card:
    """A picture and the lines of its caption. Lines that are too long are cut: shorten them before."""

    picture: Thumbnail | None
    caption: Sequence[Text]


class Gallery:
    """Cards side by side, as many as fit."""

    def __init__(self, cards: Iterable[Card], *, card_width: int, gap: int = 2, indent: int = 0) -> None:
        """Every card is `card_width` cells wide, with `gap` cells between two."""
        self._cards = list(cards)
        self._card_width = card_width
        self._gap = gap
        self._indent = indent

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        cards = self._cards[: fitting(options.max_width - self._indent, self._card_width, self._gap)]
        pictures = [card.picture.lines(console, options) if card.picture else [] for card in cards]
        captions = [_caption_lines(card.caption, console, options, self._card_width) for card in cards]
        for blocks in (pictures, captions):
            for row in range(max(map(len, blocks), default=0)):
                yield from self._row([block[row] if row < len(block) else [] for block in blocks])

    def _row(self, parts: Sequence[list[Segment]]) -> Iterable[Segment]:
        """Yield one line with every part in its column."""
        spaces = self._indent
        for part in parts:
            if part:
                if spaces:
                    yield Segment(" " * spaces)
                line = Segment.adjust_line_length(part, self._card_width, pad=False)
                yield from line
                spaces = self._gap + self._card_width - Segment.get_line_length(line)
            else:
                spaces += self._gap + self._card_width
        yield Segment.line()


def fitting(width: int, card_width: int, gap: int = 2) -> int:
    """Return how many cards of `card_width` fit into `width` cells."""
    return max(0, (width + gap) // (card_width + gap))


def _caption_lines(caption: Sequence[Text], console: Console, options: ConsoleOptions, width: int) -> list[list[Segment]]:
    one_line = options.update(width=width, no_wrap=True, overflow="ellipsis", height=None)
    return [console.render_lines(text, one_line, pad=False)[0] for text in caption]
