"""Bad image files: each is refused with a reason, at no cost, and never with anything but Unusable."""

import re
import struct
import subprocess
import sys
import time
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, __version__

from capture_cli.errors import Unusable
from capture_cli.pixels.decoding import decode
from capture_cli.pixels.formats import MAX_SCANS
from capture_cli.pixels.geometry import MAX_PIXELS, Geometry
from image_bytes import GOOD, NOISE, chunk, into_jpeg, outcome, png, reason, saved, segment, shown


@pytest.mark.parametrize(
    "data", [b"", b"cat", b"\x89PNG", b"<svg xmlns='http://www.w3.org/2000/svg'/>", bytes(range(256)), b"\xff\xd8", b"RIFF" * 9]
)
def test_other_files_are_not_an_image(data: bytes) -> None:
    """Empty files, text, SVG and unknown bytes are not images, whatever they are called."""
    assert reason(data) == "not-an-image"


@pytest.mark.parametrize("kind", ["EPS", "PDF", "ICO", "DDS", "BLP", "JPEG2000"])
def test_other_formats_are_refused_by_name(kind: str) -> None:
    """A format that is not on the list is refused before its decoder is started, and the reason names it."""
    try:
        data = saved(Image.new("P" if kind == "BLP" else "RGB", (16, 16)), kind)
    except (KeyError, OSError):
        pytest.skip(f"this Pillow does not write {kind}")
    with pytest.raises(Unusable) as caught:
        decode(data, Geometry(height=8, width=8, channels=3))
    names = {"EPS": "PostScript"}
    assert (caught.value.reason, caught.value.detail) == ("format-not-allowed", names.get(kind, kind))


@pytest.mark.parametrize("start", [b"8BPS\0\1", b"SIMPLE  =  T", b"\xff\x0a\0", b"\xc5\xd0\xd3\xc6"])
def test_formats_that_pillow_cannot_write_are_refused_too(start: bytes) -> None:
    """PSD, FITS, JPEG XL and binary EPS have given other programs trouble."""
    assert reason(start + bytes(1000)) == "format-not-allowed"


@pytest.mark.parametrize("kind", GOOD)
def test_a_file_that_ends_early_is_truncated(kind: str) -> None:
    """A file that ends early is not trained on, and the reason says so."""
    data = GOOD[kind]
    assert reason(data[: len(data) * 3 // 4]) == "truncated"


@pytest.mark.parametrize("kind", GOOD)
def test_every_cut_has_a_reason_or_the_whole_picture(kind: str) -> None:
    """Cut at any byte, a file is refused with a reason, or it decodes to exactly what the whole file shows."""
    data, whole = GOOD[kind], shown(GOOD[kind])
    outcomes = [outcome(data[:end]) for end in range(0, len(data), max(1, len(data) // 150))]
    assert all(isinstance(one, str) or np.array_equal(one, whole) for one in outcomes)
    assert sum(isinstance(one, str) for one in outcomes) > 100


@settings(max_examples=150, deadline=None)
@given(kind=st.sampled_from(sorted(GOOD)), at=st.floats(0, 1, exclude_max=True), junk=st.binary(min_size=1, max_size=8))
def test_overwritten_bytes_give_a_picture_or_a_reason(kind: str, at: float, junk: bytes) -> None:
    """No damage makes anything but a picture of the right shape or an Unusable."""
    data = GOOD[kind]
    start = int(at * len(data))
    assert len(outcome(data[:start] + junk + data[start + len(junk) :])) > 0


@settings(max_examples=150, deadline=None)
@given(start=st.sampled_from([data[:n] for data in GOOD.values() for n in (4, 12, 30)]), junk=st.binary(max_size=300))
def test_junk_behind_a_good_beginning_gives_a_picture_or_a_reason(start: bytes, junk: bytes) -> None:
    """Random bytes that begin like an image raise nothing but Unusable."""
    assert len(outcome(start + junk, 1)) > 0


def test_a_flipped_bit_in_a_png_is_noticed() -> None:
    """PNG has checksums: one bit in its pixels makes it broken."""
    data = bytearray(GOOD["PNG"])
    data[len(data) // 2] ^= 4
    assert reason(bytes(data)) == "broken"


@pytest.mark.parametrize("data", [GOOD["JPEG"][:-2], GOOD["PNG"][:-12], GOOD["PNG"] + b"more"])
def test_a_picture_that_is_all_there_is_taken(data: bytes) -> None:
    """A JPEG without its end marker, a PNG without IEND or with bytes behind it still hold every pixel."""
    assert shown(data).shape == NOISE.shape


@pytest.mark.parametrize(
    "data",
    [
        saved(Image.new("1", (9000, 9000))),
        png(10_000, 10_000),
        png(20_000, 20_000),
        png(2**31 - 1, 2**31 - 1),
        png(2**31, 1),
        png(70_000, 1, rows=bytes(70_001)),
        b"GIF89a"
        + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0)
        + b","
        + struct.pack("<HHHHB", 0, 0, 65535, 65535, 0)
        + b"\2\0;",
        b"BM"
        + struct.pack("<IHHI", 1000, 0, 0, 54)
        + struct.pack("<IiiHHIIiiII", 40, 2**31 - 1, 2**20, 1, 24, 0, 0, 0, 0, 0, 0),
        re.sub(rb"(\xff\xc0\0\x11\x08)....", b"\\1\xff\xdc\xff\xdc", GOOD["JPEG"], count=1, flags=re.DOTALL),
        b"RIFF\x1e\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xff\xff\x00" * 2 + bytes(8),
    ],
    ids=["81M", "100M", "400M", "2^62", "2^31 wide", "70000 wide", "GIF", "BMP", "JPEG", "WebP"],
)
def test_too_many_pixels_are_refused_before_they_are_decoded(data: bytes) -> None:
    """A small file that claims to be huge costs neither time nor memory."""
    started = time.process_time()
    old = data.startswith(b"RIFF") and int(__version__.split(".")[0]) < 13  # it begins to decode WebP before it tells the size
    assert reason(data) == ("broken" if old else "too-large")
    assert time.process_time() - started < 1


def test_the_81_megapixel_bomb_takes_no_memory() -> None:
    """A 10 kB PNG of 81 megapixels, which Pillow alone would unpack, leaves the memory of the process as it was."""
    program = """
import sys
from capture_cli.pixels.decoding import decode
from capture_cli.pixels.geometry import Geometry
from capture_cli.errors import Unusable
peak = lambda: int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
small, bomb = sys.stdin.buffer.read().split(b"SPLIT")
decode(small, Geometry(height=4, width=4, channels=3))
before = peak()
try:
    decode(bomb, Geometry(height=4, width=4, channels=3))
except Unusable as unusable:
    print(unusable.reason, peak() - before)
"""
    given = GOOD["PNG"] + b"SPLIT" + saved(Image.new("1", (9000, 9000)))
    said = subprocess.run([sys.executable, "-c", program], input=given, capture_output=True, check=True).stdout.split()
    assert said[0] == b"too-large"
    assert int(said[1]) < 20_000  # kB


def test_the_ceiling_itself_is_allowed() -> None:
    """A picture of exactly MAX_PIXELS is decoded."""
    data = saved(Image.new("L", (8192, MAX_PIXELS // 8192), 7))
    assert decode(data, Geometry(height=2, width=2, channels=1)).tolist() == [[[7, 7], [7, 7]]]


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 10_000), (10_000, 1), (65_535, 1)])
def test_thin_and_tiny_pictures_are_trained_on(width: int, height: int) -> None:
    """One pixel, or one row of them, is a picture, and is stretched like any other."""
    data = saved(Image.new("RGB", (width, height), (9, 8, 7)))
    assert decode(data, Geometry(height=3, width=2, channels=3)).reshape(3, -1).T.tolist() == [[9, 8, 7]] * 6


@pytest.mark.parametrize(("width", "height"), [(0, 0), (0, 5), (5, 0)])
def test_a_picture_without_pixels_is_broken(width: int, height: int) -> None:
    """No pixels, no picture."""
    assert reason(png(width, height)) == "broken"


TEXT_BOMB = zlib.compress(bytes(50_000_000))


@pytest.mark.parametrize(
    "extra",
    [
        chunk(b"zTXt", b"Comment\0\0" + TEXT_BOMB),
        chunk(b"iTXt", b"Comment\0\1\0\0\0" + TEXT_BOMB),
        chunk(b"iCCP", b"profile\0\0" + TEXT_BOMB),
    ],
    ids=["zTXt", "iTXt", "iCCP"],
)
def test_metadata_that_unpacks_to_too_much_is_refused(extra: bytes) -> None:
    """50 MB of zeros as the comment or profile of a one-pixel PNG."""
    assert reason(png(1, 1, rows=b"\0\5", extra=extra)) == "metadata-too-large"


def test_a_million_exif_segments_cost_no_time() -> None:
    """Pillow joins EXIF segments in quadratic time, over a minute for these; they are taken off before it sees them."""
    data = into_jpeg(GOOD["JPEG"], segment(0xE1, b"Exif\0\0x") * 1_000_000)
    started = time.process_time()
    assert np.array_equal(shown(data), shown(GOOD["JPEG"]))
    assert time.process_time() - started < 20  # decoded once, peeked at once


def test_a_jpeg_of_endless_scans_is_refused() -> None:
    """Each scan of a progressive JPEG is a pass over the whole image, and a scan takes a few bytes."""
    data = saved(Image.new("RGB", (64, 64)), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    assert decode(data[:-2] + last * (MAX_SCANS - 20) + data[-2:], Geometry(height=4, width=4, channels=3)).max() == 0
    assert reason(data[:-2] + last * MAX_SCANS + data[-2:]) == "too-many-scans"


def test_nothing_is_printed_and_nothing_of_pillow_is_changed(capfd: pytest.CaptureFixture[str]) -> None:
    """Neither Python's warnings nor C libraries reach the terminal, and Pillow's own guards stay as they were."""
    limit = Image.MAX_IMAGE_PIXELS
    bad_apng = png(1, 1, rows=b"\0\5", extra=chunk(b"acTL", bytes(8)))  # Pillow warns of it
    hostile = [bad_apng, png(10_000, 10_000), *(data[:-9] for data in GOOD.values()), into_jpeg(GOOD["JPEG"], b"\xff\xff\0\1")]
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        filters = list(warnings.filters)
        for data in hostile:
            try:
                decode(data, Geometry(height=4, width=4, channels=3))
            except Unusable:
                continue
        assert warnings.filters == filters
    assert capfd.readouterr() == ("", "")
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    assert limit == Image.MAX_IMAGE_PIXELS


def test_the_same_file_has_the_same_reason() -> None:
    """Reason and detail go into the records, so they hold no address and no text of Pillow's."""

    def said(data: bytes) -> str:
        with pytest.raises(Unusable) as caught:
            decode(data, Geometry(height=4, width=4, channels=3))
        return str(caught.value)

    assert said(GOOD["PNG"][:300]) == said(bytes(GOOD["PNG"][:300])) == "truncated: PNG, 18 x 24 pixels"
    assert said(png(20_000, 20_000)) == "too-large: PNG"
    assert said(png(9000, 9000)) == "too-large: PNG, 9000 x 9000 pixels"
    assert said(b"") == "not-an-image: an empty file"


def test_running_out_of_memory_costs_one_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """MemoryError is not an Exception that Pillow's callers expect, and becomes a reason like the others."""

    def load(image: ImageFile.ImageFile) -> None:
        raise MemoryError

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    assert reason(GOOD["JPEG"]) == "out-of-memory"


def test_any_number_of_threads_decodes_the_same() -> None:
    """Eight threads at once give what one gives, and leave the warning filters as they were."""
    files = list(GOOD.values()) * 30

    def one(data: bytes) -> bytes:
        return decode(data, Geometry(height=11, width=13, channels=3)).tobytes()

    filters = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(one, files)) == [one(data) for data in files]
    assert warnings.filters == filters
