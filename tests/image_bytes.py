"""Bytes of image files for the tests: good ones, and the parts to write bad ones by hand."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

from capture_cli.errors import Unusable
from capture_cli.pixels.decoding import Pixels, decode, peek
from capture_cli.pixels.geometry import Geometry

REASONS = {
    "not-an-image",
    "format-not-allowed",
    "too-large",
    "metadata-too-large",
    "too-many-scans",
    "wrong-depth",
    "truncated",
    "broken",
    "out-of-memory",
}
NOISE = np.random.default_rng(0).integers(0, 256, (24, 18, 3), np.uint8)
"""[H, W, 3]"""


def saved(image: Image.Image | Pixels, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, *, depth: int = 8, colour: int = 0, rows: bytes = b"", extra: bytes = b"") -> bytes:
    """A PNG written by hand; `colour` 0 grey, 2 RGB, 3 palette; `rows` with a filter byte before each; `extra` chunks."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def into_jpeg(jpeg: bytes, segments: bytes) -> bytes:
    return jpeg[:2] + segments + jpeg[2:]


def exif(orientation: int, order: str = "<", *, kind: int = 3, count: int = 1) -> bytes:
    """An EXIF block with one tag besides the orientation."""
    magic = b"II*\0" if order == "<" else b"MM\0*"
    tags = struct.pack(f"{order}HHII", 0x010F, 4, 1, 7) + struct.pack(f"{order}HHIHH", 0x0112, kind, count, orientation, 0)
    return b"Exif\0\0" + magic + struct.pack(f"{order}IH", 8, 2) + tags + bytes(4)


def shown(data: bytes, channels: int = 3) -> Pixels:
    """Decoded at its own size, [H, W] or [H, W, 3]."""
    size = peek(data)
    pixels = decode(data, Geometry(height=size.height, width=size.width, channels=channels))
    assert pixels.dtype == np.uint8
    assert pixels.shape == (channels, size.height, size.width)
    assert pixels.flags.c_contiguous
    return pixels[0] if channels == 1 else pixels.transpose(1, 2, 0)


def outcome(data: bytes, channels: int = 3) -> Pixels | str:
    """Return the result of `shown`, or the reason why the file cannot be used; any other error is raised."""
    try:
        return shown(data, channels)
    except Unusable as unusable:
        refused = unusable
    assert refused.reason in REASONS
    assert "0x" not in refused.detail  # no addresses
    return refused.reason


def reason(data: bytes) -> str:
    """Why `data` cannot be used."""
    said = outcome(data)
    assert isinstance(said, str), "it can be used"
    return said


GOOD = {
    "PNG": saved(NOISE),
    "JPEG": saved(NOISE, "JPEG"),
    "progressive JPEG": saved(NOISE, "JPEG", progressive=True),
    "WebP": saved(NOISE, "WEBP"),
    "lossless WebP": saved(NOISE, "WEBP", lossless=True),
    "BMP": saved(NOISE, "BMP"),
    "GIF": saved(NOISE, "GIF"),
}
