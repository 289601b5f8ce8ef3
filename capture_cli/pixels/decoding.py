"""Decode the bytes of one image file to pixels. The bytes are hostile until they have been through here.

    pixels = decode(data, height=32, width=32, channels=3)      # uint8 [3, 32, 32]
    width, height, grey = peek(data)                            # from the header alone

PNG, JPEG, WebP, BMP and GIF are read, told apart by content. No other decoder is ever started. The size is checked before
decoding, which takes at most about 17 bytes per pixel, so 0.6 GB. Nothing is printed. Any number of threads may decode at once.
Every failure is `Unusable` with one of these reasons, and a detail that depends on the file alone:

    not-an-image        empty, text, SVG, or unknown bytes
    format-not-allowed  an image of another format, which the detail names
    too-large           more than MAX_PIXELS, or a side above MAX_SIDE
    metadata-too-large  compressed text that unpacks to more than 1 MB
    too-many-scans      a progressive JPEG of more than MAX_SCANS scans, each of which costs a pass over the image
    truncated           the file ends too early
    broken              anything else that the decoder refuses
    out-of-memory       the machine has too little memory left

EXIF orientation is applied (bad EXIF is ignored). The high 8 of 16 bits are kept. Palettes and CMYK become RGB; embedded colour
profiles are not applied. Transparency is laid on white. An animation or multi-picture file is its first picture. Pillow itself
clips 16-bit grey, shows hidden colours under transparency and ignores orientation.

A damaged file may still decode, to other pixels: no image format notices every change. The digest of the file does.
"""

from __future__ import annotations

import contextlib
import functools
import platform
import re
import struct
import threading
import warnings
from hashlib import blake2b
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from capture_cli.errors import Unusable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from PIL import Image

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
MAX_PIXELS = 2**25  # 33.5 megapixels
MAX_SIDE = 2**16 - 1
MAX_SCANS = 100  # encoders write about ten
BACKGROUND = 255  # white, in every channel, behind transparent pixels

Pixels = npt.NDArray[np.uint8]


class Peek(NamedTuple):
    """The size and colour of a picture by its header, after EXIF orientation."""

    width: int
    height: int
    grey: bool
    """Every pixel is grey by the file's format, or by its palette."""


def decode(data: bytes, *, height: int, width: int, channels: int) -> Pixels:
    """Decode a file to uint8 [channels, height, width]: 1 channel grey (ITU-R 601-2 luma), or 3 RGB.

    A picture of another size is stretched to this one, without regard to its proportions, by Pillow's bilinear filter with
    antialiasing. Raises Unusable.
    """
    from PIL import Image

    planes = np.empty((channels, height, width), np.uint8)
    with _opened(data) as picture:
        image = picture.image
        image.load()
        exif = picture.exif or _exif_of(image)  # only now: a PNG may hold it behind the pixels
        image = _flat(image, picture.rawmode)
        if channels == 1 and image.mode != "L":
            image = image.convert("L")
        image = _upright(image, _orientation(exif))
        if image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        # A grey picture is resized as one plane: three equal ones come out equal. Pillow hands out planes faster than numpy
        # takes pixels apart.
        bands = ("L",) if image.mode == "L" else ("R", "G", "B")
        for plane, band in zip(planes, bands, strict=False):
            plane[...] = np.frombuffer(image.tobytes("raw", band), np.uint8).reshape(height, width)
        planes[len(bands) :] = planes[0]
    return planes


@functools.cache
def decoder_id() -> str:
    """Identify this file's source and the libraries below it: with the same identity `decode` returns the same pixels."""
    code = blake2b(Path(__file__).read_bytes(), digest_size=8).hexdigest()
    libraries = ", ".join(f"{name} {version}" for name, version in codec_versions().items())
    return f"{code}, {libraries}, {platform.machine()}"


def codec_versions() -> dict[str, str]:
    """Return the versions of Pillow and of the libraries it decodes with, by their names in run records."""
    from PIL import __version__, features

    libraries = {
        "libjpeg": features.version("libjpeg_turbo") or features.version("jpg"),
        "libwebp": features.version("webp"),
        "zlib": features.version("zlib"),
    }
    return {"pillow": __version__, **{name: version for name, version in libraries.items() if version}}


def peek(data: bytes) -> Peek:
    """Read size and colour from the header, without decoding. Raises Unusable if the header already forbids decoding."""
    with _opened(data) as picture:
        width, height = picture.image.size
        if _orientation(picture.exif or _exif_of(picture.image)) >= 5:
            width, height = height, width
        return Peek(width, height, _is_grey(picture.image, picture.rawmode))


class _Picture(NamedTuple):
    image: Image.Image
    """Opened, not yet decoded."""
    rawmode: str
    """Pillow's name for the layout of the pixels in the file (`RGB;16B`), where known before decoding."""
    exif: bytes


@contextlib.contextmanager
def _opened(data: bytes) -> Iterator[_Picture]:
    """Open an image and check its header; convert whatever is raised within the block to Unusable."""
    from PIL import Image, WebPImagePlugin  # noqa: F401 - registers WebP; Pillow would load all of its plug-ins for it

    found = detail = _format_of(data)
    exif = b""
    try:
        if found == "JPEG":
            data, exif = _lean_jpeg(data)
        with pillow_silenced(), Image.open(BytesIO(data), formats=(found,)) as image:
            width, height = image.size
            detail = f"{found}, {width} x {height} pixels"
            _demand_size(width, height, detail)
            arguments = image.tile[0].args if image.tile else ()
            yield _Picture(image, arguments if isinstance(arguments, str) else "", exif)
    except Unusable:
        raise
    except MemoryError as error:
        raise Unusable("out-of-memory", detail) from error
    except Exception as error:  # decoders raise five families of errors on Pillow's own test files
        raise Unusable(_reason(error, data), detail) from error


def _demand_size(width: int, height: int, detail: str) -> None:
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise Unusable("too-large", detail)


def _reason(error: Exception, data: bytes) -> str:
    """Classify what Pillow raised. Its messages are not passed on: some hold addresses."""
    from PIL import Image

    text = str(error)
    if isinstance(error, Image.DecompressionBombError):
        return "too-large"
    if "MAX_TEXT" in text:
        return "metadata-too-large"
    riff_is_cut = data.startswith(b"RIFF") and int.from_bytes(data[4:8], "little") + 8 > len(data)
    if isinstance(error, EOFError) or "truncated" in text.lower() or riff_is_cut:
        return "truncated"
    return "broken"


_SIGNATURES = re.compile(
    rb"""(?P<PNG>\x89PNG\r\n\x1a\n) | (?P<JPEG>\xff\xd8\xff) | (?P<WEBP>RIFF....WEBP) | (?P<GIF>GIF8[79]a) | (?P<BMP>BM)
       | (?P<TIFF>II[*+]\0|MM\0[*+]) | (?P<PDF>%PDF) | (?P<PostScript>%!PS|\xc5\xd0\xd3\xc6) | (?P<PSD>8BPS)
       | (?P<FITS>SIMPLE\ \ =) | (?P<DDS>DDS\ ) | (?P<BLP>BLP[12]) | (?P<ICO>\0\0[\1\2]\0) | (?P<PNM>P[1-7]\s)
       | (?P<HEIF>....ftyp) | (?P<JPEG2000>\0\0\0\x0cjP\ \ |\xff\x4f\xff\x51) | (?P<JPEGXL>\xff\x0a|\0\0\0\x0cJXL\ )""",
    re.DOTALL | re.VERBOSE,
)


def _format_of(data: bytes) -> str:
    """Tell the format, one of FORMATS, by content. Raises Unusable for any other."""
    match = _SIGNATURES.match(data)
    if match is None or match.lastgroup is None:
        raise Unusable("not-an-image", "" if data else "an empty file")
    if match.lastgroup not in FORMATS:
        raise Unusable("format-not-allowed", match.lastgroup)
    return match.lastgroup


def _lean_jpeg(data: bytes) -> tuple[bytes, bytes]:
    """Strip a JPEG of the metadata in its header; return it and its first EXIF segment.

    The decoder needs no metadata, and Pillow is vulnerable there: it joins EXIF segments in time quadratic in their number,
    follows the tags in them, and opens a multi-picture file as another format. Raises Unusable beyond MAX_SCANS scans.
    """
    kept, exif, at = [data[:2]], b"", 2
    while (start := data.find(b"\xff", at)) >= 0 and start + 4 <= len(data):
        marker, length = data[start + 1], int.from_bytes(data[start + 2 : start + 4], "big")
        if marker in (0x00, 0xFF) or 0xD0 <= marker <= 0xD8:  # fill bytes, and markers without a length
            at = start + 1 + (marker != 0xFF)
            continue
        at = start
        if marker in (0xD9, 0xDA):  # end of the image, start of the pixels
            break
        at = start + 2 + length
        if marker in _METADATA:
            if not exif and marker == 0xE1 and data[start + 4 : start + 10] == b"Exif\0\0":
                exif = data[start + 4 : at]
        else:
            kept.append(data[start:at])
    if data.count(b"\xff\xda", at) > MAX_SCANS:  # within pixels 0xFF is followed by 0, so these are scans
        raise Unusable("too-many-scans", "JPEG")
    kept.append(data[at:])
    return b"".join(kept), exif


_METADATA = {0xFE, *range(0xE1, 0xF0)} - {0xEE}  # comments and APP1 to APP15 without APP14, where Adobe notes how to read CMYK


def _exif_of(image: Image.Image) -> bytes:
    """Get the EXIF block of a PNG or WebP. Before PNG had a chunk for it, ImageMagick wrote it there as hexadecimal text."""
    block: bytes = image.info.get("exif", b"")
    text = image.info.get("Raw profile type exif", "")
    if not block and text:
        with contextlib.suppress(ValueError):
            block = bytes.fromhex("".join(text.split("\n")[3:]))
    return block


def _orientation(exif: bytes) -> int:
    """Read the EXIF orientation, 1 to 8; 1 (upright) if there is none or the EXIF is damaged. TIFF 6.0, section 2."""
    # Not by Pillow, which would load every tag, warn about some and raise at others.
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, length, value = struct.unpack_from(f"{order}HHIH", tiff, entry)
            if tag == 0x0112:
                return value if kind == 3 and length == 1 and 1 <= value <= 8 else 1
    except struct.error:  # it points behind its own end
        pass
    return 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    if orientation == 1:
        return image
    from PIL.Image import Transpose as T  # noqa: N817

    turns = (T.FLIP_LEFT_RIGHT, T.ROTATE_180, T.FLIP_TOP_BOTTOM, T.TRANSPOSE, T.ROTATE_270, T.TRANSVERSE, T.ROTATE_90)
    return image.transpose(turns[orientation - 2])


def _is_grey(image: Image.Image, rawmode: str) -> bool:
    if image.mode == "P" and image.palette is not None:
        colours, step = bytes(image.palette.palette), len(image.palette.rawmode or image.palette.mode)
        return colours[0::step] == colours[1::step] == colours[2::step]
    return image.mode in ("1", "L", "LA") or image.mode.startswith("I") or rawmode.startswith("L")


def _flat(image: Image.Image, rawmode: str) -> Image.Image:
    """Convert a decoded image to 8 bits per channel without transparency: L or RGB."""
    from PIL import Image

    if image.mode in ("1", "L", "RGB") or image.mode.startswith("I"):
        return _without_key(image, rawmode)
    if not image.has_transparency_data:
        return image.convert("RGB")
    if image.mode == "LA":
        paper = Image.new("L", image.size, BACKGROUND)
    else:
        paper = Image.new("RGB", image.size, (BACKGROUND,) * 3)
        image = image if image.mode == "RGBA" else image.convert("RGBA")
    paper.paste(image, mask=image)
    return paper


def _without_key(image: Image.Image, rawmode: str) -> Image.Image:
    """Convert an image without alpha channel to L or RGB; it may name one colour that is transparent."""
    from PIL import Image

    key = image.info.pop("transparency", None)
    deep = image.mode.startswith("I")
    if key is None and not deep:
        return image.convert("L") if image.mode == "1" else image
    values = np.array(image.convert("L") if image.mode == "1" else image)
    pixels = (values >> 8).astype(np.uint8) if deep else values
    if key is not None:
        # Pillow leaves the key as it is in the file, while it widens 2 and 4 bits to 8 and cuts 16 down to 8.
        key = np.array(key) * {"L;2": 85, "L;4": 17}.get(rawmode, 1) >> (8 if rawmode == "RGB;16B" else 0)
        pixels[(values == key).all(-1) if values.ndim == 3 else values == key] = BACKGROUND
    return Image.fromarray(pixels)


_silence_lock = threading.Lock()
_silence_depth = 0
_silence = contextlib.ExitStack()


@contextlib.contextmanager
def pillow_silenced() -> Iterator[None]:
    """Ignore warnings from Pillow's modules while any thread is inside.

    `warnings.catch_warnings` alone is not thread-safe: all threads share one list of filters, and the first to leave restores
    what it found. Here the first in sets the filters and the last out restores them. `decode` and `peek` use it themselves;
    one more around many calls saves time.
    """
    global _silence_depth
    with _silence_lock:
        if _silence_depth == 0:
            _silence.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", module=r"PIL\.")
        _silence_depth += 1
    try:
        yield
    finally:
        with _silence_lock:
            _silence_depth -= 1
            if _silence_depth == 0:
                _silence.close()
