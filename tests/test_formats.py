"""More formats, told apart by content: TIFF, PPM and its kin, DIB, AVIF and HEIC; and which way up they are."""

import importlib.util
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps, features

from capture_cli.errors import Unusable
from capture_cli.pixels import decoding
from capture_cli.pixels.decoding import decode, peek
from capture_cli.pixels.formats import format_of
from capture_cli.pixels.geometry import MAX_PIXELS, Geometry
from capture_cli.sources.folder import FolderSource
from image_bytes import GOOD, NOISE, exif, into_jpeg, outcome, reason, saved, segment, shown

MORE = {
    "TIFF": saved(NOISE, "TIFF"),
    "deflated TIFF": saved(NOISE, "TIFF", compression="tiff_deflate"),
    "LZW TIFF": saved(NOISE, "TIFF", compression="tiff_lzw"),
    "JPEG TIFF": saved(NOISE, "TIFF", compression="jpeg"),
    "grey TIFF": saved(NOISE[..., 0], "TIFF"),
    "PPM": saved(NOISE, "PPM"),
    "PGM": saved(NOISE[..., 0], "PPM"),
    "PBM": saved(Image.fromarray(NOISE).convert("1"), "PPM"),
    "plain PPM": b"P3\n# a comment\n18 24\n255\n" + b" ".join(b"%d" % one for one in NOISE.reshape(-1)),
    "DIB": saved(NOISE, "DIB"),
    **({"AVIF": saved(NOISE, "AVIF")} if features.check("avif") else {}),
}


@pytest.mark.parametrize("kind", MORE)
def test_they_are_decoded_as_pillow_does(kind: str) -> None:
    """By content; their header tells size and colour."""
    with Image.open(io.BytesIO(MORE[kind])) as image:
        assert np.array_equal(shown(MORE[kind]), np.asarray(image.convert("RGB")))
        assert format_of(MORE[kind]) == image.format
        assert peek(MORE[kind]) == (18, 24, image.mode in ("L", "1"), False, False)


@pytest.mark.parametrize("kind", MORE)
def test_every_cut_has_a_reason_or_the_whole_picture(kind: str) -> None:
    """As with the other formats. What a text image or a TIFF of one strip lacks at its end is not always noticed."""
    data, whole = MORE[kind], shown(MORE[kind])
    outcomes = [outcome(data[:end]) for end in range(0, len(data), max(1, len(data) // 80))]
    assert sum(isinstance(one, str) or np.array_equal(one, whole) for one in outcomes) >= len(outcomes) - 1


@settings(max_examples=300, deadline=None)
@given(kind=st.sampled_from(sorted(MORE)), at=st.floats(0, 1, exclude_max=True), junk=st.binary(min_size=1, max_size=8))
def test_overwritten_bytes_give_a_picture_or_a_reason(kind: str, at: float, junk: bytes) -> None:
    """Nothing but Unusable is raised."""
    data = MORE[kind]
    start = int(at * len(data))
    assert len(outcome(data[:start] + junk + data[start + len(junk) :])) > 0


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    """libtiff writes to the terminal by itself, and Pillow logs: neither is heard."""
    rng = np.random.default_rng(0)
    for kind in ("TIFF", "deflated TIFF", "LZW TIFF", "JPEG TIFF"):
        for _ in range(60):
            data = bytearray(MORE[kind])
            for place in rng.integers(0, len(data), 4):
                data[place] = rng.integers(256)
            outcome(bytes(data))
    assert capfd.readouterr() == ("", "")


def test_the_content_decides_not_the_extension(tmp_path: Path) -> None:
    """Every extension is listed, in any case, and a TIFF called .png is read as the TIFF that it is."""
    names = [
        "a.jfif",
        "b.JPE",
        "c.dib",
        "d.tif",
        "e.TIFF",
        "f.ppm",
        "g.pgm",
        "h.pbm",
        "i.pnm",
        "j.avif",
        "k.heic",
        "l.heif",
        "a.png",
    ]
    for name in names:
        (tmp_path / name).write_bytes(MORE["TIFF"])
    with FolderSource(tmp_path) as source:
        assert sorted(source.list().files) == sorted(names)
        assert np.array_equal(shown(source.read("a.png")), NOISE)


def xmp(orientation: int, form: str = 'tiff:Orientation="%d"') -> bytes:
    text = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description {form % orientation}/></x:xmpmeta>'
    return text.encode()


@pytest.mark.parametrize("form", ['tiff:Orientation="%d"', "><tiff:Orientation>%d</tiff:Orientation><"])
@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8, 9])
def test_orientation_in_xmp_is_applied_as_pillow_does(orientation: int, form: str) -> None:
    """In JPEG, PNG, WebP and AVIF; where EXIF has one too, EXIF counts."""
    block = xmp(orientation, form)
    files = [
        into_jpeg(GOOD["JPEG"], segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + block)),
        into_jpeg(GOOD["JPEG"], segment(0xE1, exif(3)) + segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + block)),
        saved(NOISE, "WEBP", lossless=True, xmp=block),
    ]
    for data in files:
        with Image.open(io.BytesIO(data)) as image:
            upright = ImageOps.exif_transpose(image)
        assert np.array_equal(shown(data), np.asarray(upright.convert("RGB")))
        assert peek(data)[:2] == upright.size


def test_runs_of_earlier_versions_did_not_look_into_xmp() -> None:
    """Their recipes say so, and are carried out as they were."""
    data = into_jpeg(GOOD["JPEG"], segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp(6)))
    old = decode(data, Geometry(height=24, width=18, channels=3, orientation="exif"))
    assert np.array_equal(old, shown(GOOD["JPEG"]).transpose(2, 0, 1))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_is_turned_once(orientation: int) -> None:
    """Pillow turns it as it decodes."""
    tags = Image.Exif()
    tags[0x0112] = orientation
    data = saved(NOISE, "TIFF", exif=tags)
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        assert np.array_equal(shown(data), np.asarray(image))
        assert peek(data)[:2] == image.size


def test_the_limit_of_pixels_is_an_option() -> None:
    """A phone's 50 megapixels are admitted; a lower limit refuses what is above it."""
    assert MAX_PIXELS >= 8160 * 6120
    with pytest.raises(Unusable, match="too-large: PNG, 18 x 24 pixels"):
        decode(GOOD["PNG"], Geometry(height=4, width=4, channels=3, max_pixels=18 * 24 - 1))
    assert decode(GOOD["PNG"], Geometry(height=4, width=4, channels=3, max_pixels=18 * 24)).shape == (3, 4, 4)


def test_heic_needs_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it the reason says what to install."""
    monkeypatch.setattr(decoding.importlib.util, "find_spec", lambda _name: None)
    decoding._register.cache_clear()
    with pytest.raises(Unusable, match=r"pip install pillow-heif"):
        peek(b"\0\0\0\x18ftypheic" + bytes(100))
    decoding._register.cache_clear()


@pytest.mark.skipif(importlib.util.find_spec("pillow_heif") is None, reason="pillow-heif is not installed")
def test_heic_is_decoded() -> None:
    """With the extra, and turned upright once."""
    import pillow_heif

    pillow_heif.register_heif_opener()
    smooth = Image.fromarray(NOISE[:4, :3]).resize((64, 96), Image.Resampling.BICUBIC)
    try:
        data = saved(smooth, "HEIF", quality=95)
    except (KeyError, OSError, RuntimeError) as error:
        pytest.skip(f"this pillow-heif does not write: {error}")
    assert peek(data)[:2] == (64, 96)
    assert np.abs(shown(data).astype(int) - np.asarray(smooth)).mean() < 10
    assert reason(data[: len(data) // 2]) in {"truncated", "broken"}
