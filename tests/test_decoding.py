"""Good image files: every kind is shown as it is meant."""

import io
import warnings
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from capture_cli.pixels import decoding
from capture_cli.pixels.decoding import Pixels, decode, decoder_id, peek
from capture_cli.pixels.geometry import Geometry
from image_bytes import GOOD, NOISE, chunk, exif, into_jpeg, png, saved, segment, shown


@pytest.mark.parametrize("kind", GOOD)
def test_five_formats_are_read_by_content(kind: str) -> None:
    """PNG, JPEG, WebP, BMP and GIF are decoded to what Pillow makes of them when nothing special has to be done."""
    with Image.open(io.BytesIO(GOOD[kind])) as image:
        assert np.array_equal(shown(GOOD[kind]), np.asarray(image.convert("RGB")))
    assert peek(GOOD[kind]) == (18, 24, False, False, False)


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    """The high 8 of 16 bits are kept; Pillow alone would turn everything above 255 into 255."""
    grey = np.array([[0, 255, 256, 0x1234, 65535]], np.uint16)
    assert shown(saved(grey), 1).tolist() == [[0, 0, 1, 0x12, 255]]
    assert shown(saved(grey))[..., 2].tolist() == [[0, 0, 1, 0x12, 255]]
    assert peek(saved(grey)).grey
    rgb = png(1, 1, depth=16, colour=2, rows=b"\0\x12\x34\xff\xff\x00\xff")
    assert shown(rgb).tolist() == [[[0x12, 0xFF, 0x00]]]
    grey_alpha = png(1, 1, depth=16, colour=4, rows=b"\0\x12\x34\xff\xff")
    assert shown(grey_alpha, 1).tolist() == [[0x12]]
    assert peek(grey_alpha).grey


RED, HIDDEN = (255, 0, 0), (1, 2, 3)
KEY = b"\x12\x34"


def two_pixels(mode: str, first: object, second: object) -> Image.Image:
    image = Image.new(mode, (2, 1), first)  # type: ignore[arg-type]
    image.putpixel((1, 0), second)  # type: ignore[arg-type]
    return image


def palette_image() -> Image.Image:
    image = two_pixels("P", 0, 1)
    image.putpalette([*RED, *HIDDEN])
    return image


@pytest.mark.parametrize(
    ("data", "left"),
    [
        (saved(two_pixels("RGBA", (*RED, 255), (*HIDDEN, 0))), RED),
        (saved(two_pixels("RGBA", (*RED, 255), (*HIDDEN, 0)), "WEBP", lossless=True, exact=True), RED),
        (saved(two_pixels("LA", (9, 255), (3, 0))), (9, 9, 9)),
        (saved(palette_image(), transparency=1), RED),
        (saved(palette_image(), transparency=b"\xff\x00"), RED),
        (saved(palette_image(), "GIF", transparency=1), RED),
        (saved(two_pixels("RGB", RED, HIDDEN), transparency=HIDDEN), RED),
        (saved(two_pixels("L", 9, 3), transparency=3), (9, 9, 9)),
        (saved(two_pixels("1", 0, 1), transparency=1), (0, 0, 0)),
        (png(2, 1, depth=2, rows=b"\0\x10", extra=chunk(b"tRNS", b"\0\1")), (0, 0, 0)),
        (png(2, 1, depth=4, rows=b"\0\x35", extra=chunk(b"tRNS", b"\0\5")), (51, 51, 51)),
        (png(2, 1, depth=16, rows=b"\0\x09\0" + KEY, extra=chunk(b"tRNS", KEY)), (9, 9, 9)),
        (png(2, 1, depth=16, colour=2, rows=b"\0" + b"\x09\0\x09\0\x09\0" + KEY * 3, extra=chunk(b"tRNS", KEY * 3)), (9, 9, 9)),
    ],
)
def test_transparency_is_laid_on_white(data: bytes, left: tuple[int, int, int]) -> None:
    """The colour that a transparent pixel hides is never seen; white is, and the pixel beside it keeps its colour."""
    assert shown(data)[0].tolist() == [list(left), [255, 255, 255]]
    assert shown(data, 1)[0, 1] == 255


def test_half_transparency_is_half_white() -> None:
    """alpha * colour + (1 - alpha) * 255, rounded to the nearest."""
    assert shown(saved(Image.new("RGBA", (1, 1), (0, 100, 255, 51)))).tolist() == [[[204, 224, 255]]]
    assert shown(saved(Image.new("LA", (1, 1), (100, 51))), 1).tolist() == [[224]]


def test_cmyk_becomes_rgb() -> None:
    """A CMYK JPEG as Adobe writes it (inverted, APP14) shows its colours, as a YCCK one does."""
    data = saved(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=100)
    assert np.abs(shown(data)[5, 5].astype(int) - RED).max() <= 2
    start = data.index(b"Adobe") + 11
    ycck = data[:start] + b"\2" + data[start + 1 :]
    with Image.open(io.BytesIO(ycck)) as image:
        assert np.array_equal(shown(ycck), np.asarray(image.convert("RGB")))
    assert not np.array_equal(shown(ycck), shown(data))


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP"])
@pytest.mark.parametrize("mode", ["1", "L", "P"])
def test_bits_greys_and_palettes_show_their_colours(kind: str, mode: str) -> None:
    """1-bit, grey and palette images are their colours, not their numbers."""
    image = Image.fromarray(NOISE).convert(mode)
    assert np.array_equal(shown(saved(image, kind)), np.asarray(image.convert("RGB")))
    assert peek(saved(image, kind)).grey == (mode != "P")


def test_a_palette_of_greys_is_grey() -> None:
    """Grey GIFs are palette images as a rule; what matters is whether a colour is in the palette."""
    image = Image.fromarray(NOISE[..., 0]).convert("P")
    image.putpalette([255 - i // 3 for i in range(768)])
    for kind in ("PNG", "GIF", "BMP"):
        assert peek(saved(image, kind)).grey
        assert np.array_equal(shown(saved(image, kind), 1), 255 - np.asarray(image))


UPRIGHT: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[:, ::-1],
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
    8: lambda a: a.swapaxes(0, 1)[::-1],
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation_is_applied(orientation: int) -> None:
    """All eight orientations, in either byte order, in JPEG, PNG and WebP, are turned upright, in `peek` too."""
    expected = UPRIGHT[orientation](NOISE)
    for order in "<>":
        block = exif(orientation, order)
        assert np.array_equal(shown(saved(NOISE, exif=block)), expected)
        assert np.array_equal(shown(saved(NOISE, "WEBP", lossless=True, exif=block)), expected)
        jpeg = into_jpeg(GOOD["JPEG"], segment(0xE1, block))
        assert np.array_equal(shown(jpeg), UPRIGHT[orientation](shown(GOOD["JPEG"])))
        assert peek(jpeg)[:2] == expected.shape[1::-1]


def test_exif_behind_the_pixels_of_a_png_counts() -> None:
    """The eXIf chunk may stand after the image data."""
    data = GOOD["PNG"][:-12] + chunk(b"eXIf", exif(3)[6:]) + GOOD["PNG"][-12:]
    assert np.array_equal(shown(data), UPRIGHT[3](NOISE))


def test_exif_as_imagemagick_wrote_it_counts() -> None:
    """PNG had no chunk for EXIF until 2017: it stood in a text, in hexadecimal. A text that is none is ignored."""
    for text, expected in ((exif(8).hex(), UPRIGHT[8](NOISE)), (exif(8).hex()[1:], NOISE), ("", NOISE), ("zz", NOISE)):
        profile = chunk(b"tEXt", b"Raw profile type exif\0" + f"\nexif\n      99\n{text}\n".encode())
        assert np.array_equal(shown(GOOD["PNG"][:33] + profile + GOOD["PNG"][33:]), expected)


BAD_EXIF = [
    exif(0),
    exif(9),
    exif(65535),
    exif(6, kind=2),
    exif(6, count=70_000),
    exif(6)[:20],
    exif(6)[:6],
    b"Exif\0\0XX*\0" + bytes(20),
    b"Exif\0\0II*\0\xff\xff\xff\xff",
    b"Exif\0\0II*\0\x08\0\0\0\xff\xff",
]


@pytest.mark.parametrize("block", BAD_EXIF)
def test_bad_exif_is_ignored(block: bytes) -> None:
    """EXIF that is cut, points nowhere or gives an orientation that is none leaves the picture as it lies, without a word."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(shown(into_jpeg(GOOD["JPEG"], segment(0xE1, block))), shown(GOOD["JPEG"]))
        assert np.array_equal(shown(saved(NOISE, exif=block)), NOISE)


def test_odd_but_legal_jpeg_headers_are_read() -> None:
    """Comments, profiles, fill bytes before a marker and a second EXIF segment change no pixel."""
    odd = segment(0xFE, b"hello\xff\xda") + segment(0xE2, b"ICC_PROFILE\0\1\1" + bytes(5000)) + b"\xff\xff\xff"
    data = into_jpeg(GOOD["JPEG"], segment(0xE1, exif(1)) + segment(0xE1, exif(6)) + odd)
    assert np.array_equal(shown(data), shown(GOOD["JPEG"]))


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "MPO"])
def test_the_first_frame_is_the_picture(kind: str) -> None:
    """An animated GIF, PNG or WebP, or a JPEG with several pictures, is its first picture."""
    second = Image.new("RGB", (18, 24), (0, 255, 0))
    options = {"lossless": True} if kind == "WEBP" else {}
    first = Image.new("RGB", (18, 24), RED)
    data = saved(first, kind, save_all=True, append_images=[second], **options)
    assert len(data) > len(saved(first, "JPEG" if kind == "MPO" else kind, **options))
    assert np.abs(shown(data).astype(int) - RED).max() <= (1 if kind == "MPO" else 0)


def test_a_picture_of_the_right_size_is_not_resampled() -> None:
    """Height and width as asked for: the pixels are those of the file."""
    assert np.array_equal(decode(GOOD["PNG"], Geometry(height=24, width=18, channels=3)), NOISE.transpose(2, 0, 1))


def test_other_sizes_are_stretched_with_antialiasing() -> None:
    """The size is exactly the one asked for, and shrinking takes the mean of what falls together."""
    board = np.indices((64, 32)).sum(0) % 2 * 255
    small = decode(saved(board.astype(np.uint8)), Geometry(height=8, width=16, channels=1))
    assert small.shape == (1, 8, 16)
    assert np.abs(small[0, 1:-1, 1:-1].astype(int) - 127).max() <= 2
    halves = Image.new("L", (4, 2))
    halves.paste(200, (2, 0, 4, 2))
    wide = decode(saved(halves), Geometry(height=2, width=40, channels=1))
    assert wide[0, 0, 0] == 0
    assert wide[0, 0, -1] == 200
    assert (np.diff(wide[0, 0].astype(int)) >= 0).all()


@pytest.mark.parametrize("size", [(7, 5), (24, 18), (50, 60)])
@pytest.mark.parametrize("mode", ["L", "1", "LA"])
def test_grey_pictures_in_colour_are_three_times_the_grey_one(mode: str, size: tuple[int, int]) -> None:
    """As Pillow makes them, which resizes three equal planes: here one is resized and copied."""
    data = saved(Image.fromarray(NOISE).convert("L").convert(mode))
    colour = decode(data, Geometry(height=size[0], width=size[1], channels=3))
    whole = Image.fromarray(shown(data)).resize(size[::-1], Image.Resampling.BILINEAR)
    assert np.array_equal(colour, np.array(whole).transpose(2, 0, 1))


def test_the_decoder_is_known_by_its_code_and_libraries() -> None:
    """The cache of decoded pixels tells decoders apart by it."""
    from PIL import __version__

    said = decoder_id()
    code = blake2b(digest_size=8)
    for name in ("decoding", "depth", "formats", "geometry"):
        code.update(Path(decoding.__file__).with_name(f"{name}.py").read_bytes())
    assert code.hexdigest() in said
    assert f"pillow {__version__}" in said
    assert all(f"{name} " in said for name in ("libjpeg", "libwebp", "zlib"))
