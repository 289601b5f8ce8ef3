"""Decode the bytes of one image file to pixels. The bytes are hostile until they have been through here.

    pixels = decode(data, Geometry(height=32, width=32, channels=3))      # uint8 [3, 32, 32]
    width, height, grey, deep, alpha = peek(data)                         # from the header alone

PNG, JPEG, WebP, BMP, DIB, GIF, TIFF, PPM (also PGM and PBM) and AVIF are read, and HEIC where pillow-heif is installed, told
apart by content. No other decoder is ever started. The size is checked before decoding, which takes at most about 17 bytes per
pixel, so 1.1 GB. Nothing is printed. Any number of threads may decode at once. Every failure is `Unusable` with one of these
reasons, and a detail that depends on the file alone:

    not-an-image        empty, text, SVG, or unknown bytes
    format-not-allowed  an image of another format, which the detail names
    too-large           more than Geometry.max_pixels, or a side above MAX_SIDE
    metadata-too-large  compressed text that unpacks to more than 1 MB
    too-many-scans      a progressive JPEG of more than MAX_SCANS scans, each of which costs a pass over the image
    wrong-depth         values that Geometry.depth cannot hold (capture_cli.pixels.depth)
    truncated           the file ends too early
    broken              anything else that the decoder refuses
    out-of-memory       the machine has too little memory left

The orientation in EXIF or XMP is applied (bad EXIF is ignored). Palettes and CMYK become RGB; colour profiles (ICC) and gamma
(gAMA) are not applied. Transparency is laid on the background. An animation or multi-picture file is its first picture. Pillow
itself clips 16-bit grey, shows hidden colours under transparency and ignores orientation.

A damaged file may still decode, to other pixels: no image format notices every change. The digest of the file does.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.metadata
import importlib.util
import logging
import platform
import threading
import warnings
from hashlib import blake2b
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from capture_cli.errors import Unusable
from capture_cli.pixels.depth import alpha_to_bytes, deep_values, is_deep, to_bytes
from capture_cli.pixels.formats import Metadata, format_of, lean_jpeg, orientation
from capture_cli.pixels.geometry import MAX_PIXELS, Background, Geometry, blank, fit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from PIL import Image

MAX_SIDE = 2**16 - 1
_OWN_FILES = ("decoding.py", "depth.py", "formats.py", "geometry.py")
"""The files of this package that decide which pixels come out."""

Pixels = npt.NDArray[np.uint8]


class Peek(NamedTuple):
    """The size and colour of a picture by its header, upright."""

    width: int
    height: int
    grey: bool
    """Every pixel is grey by the file's format, or by its palette."""
    deep: bool
    """There are more than 8 bits per channel."""
    alpha: bool
    """Pixels may be transparent."""


def decode(data: bytes, geometry: Geometry, out: Pixels | None = None) -> Pixels:
    """Decode a file to uint8 [channels, height, width]: 1 channel grey (ITU-R 601-2 luma), or 3 RGB.

    `out` is filled and returned if it is given. Raises Unusable; then `out` is as it was.
    """
    height, width, channels = geometry.height, geometry.width, geometry.channels
    planes = np.empty((channels, height, width), np.uint8) if out is None else out
    with _opened(data, geometry.max_pixels) as picture:
        image = _flat(_eight_bits(picture, data, geometry), geometry.background)
        if channels == 1 and image.mode != "L":
            image = image.convert("L")
        elif channels == 3 and image.mode == "L" and geometry.resize == "pad" and isinstance(geometry.background, tuple):
            image = image.convert("RGB")
        image = fit(_upright(image, picture.turn(geometry.orientation)), geometry)
        # A grey picture is resized as one plane: three equal ones come out equal. Pillow hands out planes faster than numpy
        # takes pixels apart.
        bands = ("L",) if image.mode == "L" else ("R", "G", "B")
        for plane, band in zip(planes, bands, strict=False):
            plane[...] = np.frombuffer(image.tobytes("raw", band), np.uint8).reshape(height, width)
        planes[len(bands) :] = planes[0]
    return planes


@functools.cache
def decoder_id() -> str:
    """Identify this package's sources and the libraries below: with the same identity `decode` returns the same pixels."""
    code = blake2b(digest_size=8)
    for name in _OWN_FILES:
        code.update(Path(__file__).with_name(name).read_bytes())
    libraries = ", ".join(f"{name} {version}" for name, version in codec_versions().items())
    return f"{code.hexdigest()}, {libraries}, {platform.machine()}"


def codec_versions() -> dict[str, str]:
    """Return the versions of Pillow and of the libraries it decodes with, by their names in run records."""
    from PIL import __version__, features

    libraries = {
        "libjpeg": features.version("libjpeg_turbo") or features.version("jpg"),
        "libwebp": features.version("webp"),
        "zlib": features.version("zlib"),
        "libtiff": features.version("libtiff"),
        "libavif": features.version("avif"),
    }
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        libraries["pillow-heif"] = importlib.metadata.version("pillow-heif")
    return {"pillow": __version__, **{name: version for name, version in libraries.items() if version}}


class Measured(NamedTuple):
    """The values of one deep picture, opacity aside."""

    least: float
    most: float
    whole: bool
    """They are integers."""


def values_of(data: bytes, max_pixels: int = MAX_PIXELS) -> Measured | None:
    """Decode a deep picture for its range; None if it has 8 bits, or no finite value. Raises Unusable."""
    with _opened(data, max_pixels) as picture:
        if not is_deep(picture.image.mode, picture.rawmode):
            return None
        values = _deep(picture, data, max_pixels)
        values = values[..., : 3 if values.shape[-1] > 2 else 1] if values.ndim == 3 else values
        whole = values.dtype.kind != "f"
        values = values if whole else values[np.isfinite(values)]
        return Measured(float(values.min()), float(values.max()), whole) if values.size else None


def peek(data: bytes, max_pixels: int = MAX_PIXELS) -> Peek:
    """Read size and colour from the header, without decoding. Raises Unusable if the header already forbids decoding."""
    with _opened(data, max_pixels) as picture:
        width, height = picture.image.size
        if picture.turn() >= 5:
            width, height = height, width
        deep = is_deep(picture.image.mode, picture.rawmode)
        alpha = picture.image.has_transparency_data or picture.rawmode.startswith("LA")
        return Peek(width, height, _is_grey(picture.image, picture.rawmode), deep, alpha)


class _Picture(NamedTuple):
    image: Image.Image
    """Opened, not yet decoded."""
    rawmode: str
    """Pillow's name for the layout of the pixels in the file (`RGB;16B`), where known before decoding."""
    metadata: Metadata

    def turn(self, source: str = "exif-or-xmp") -> int:
        """Return the orientation, 1 to 8. A PNG may hold it behind the pixels: then it is known once they are decoded."""
        if self.image.format in ("TIFF", "HEIF"):  # turned upright by Pillow and pillow-heif as they decode
            return 1
        exif, xmp = self.metadata.exif or _exif_of(self.image), self.metadata.xmp or _xmp_of(self.image)
        return orientation(Metadata(exif, xmp * (source != "exif"))) if exif or xmp else 1


@contextlib.contextmanager
def _opened(data: bytes, max_pixels: int) -> Iterator[_Picture]:
    """Open an image and check its header; convert whatever is raised within the block to Unusable."""
    from PIL import Image

    found = detail = format_of(data)
    metadata = Metadata()
    try:
        if found == "JPEG":
            data, metadata = lean_jpeg(data)
        _register(found)
        with pillow_silenced(), Image.open(BytesIO(data), formats=(found,)) as image:
            width, height = image.size
            detail = f"{found}, {width} x {height} pixels"
            _demand_size(width, height, max_pixels, detail)
            arguments = image.tile[0].args if image.tile else ()
            rawmode = arguments if isinstance(arguments, str) else arguments[0] if arguments else ""
            yield _Picture(image, rawmode if isinstance(rawmode, str) else "", metadata)
    except Unusable:
        raise
    except MemoryError as error:
        raise Unusable("out-of-memory", detail) from error
    except Exception as error:  # decoders raise five families of errors on Pillow's own test files
        raise Unusable(_reason(error, data), detail) from error


def _demand_size(width: int, height: int, max_pixels: int, detail: str) -> None:
    if width * height > max_pixels or max(width, height) > MAX_SIDE:
        raise Unusable("too-large", detail)


@functools.cache
def _register(name: str) -> None:
    """Load the one plug-in of a format; Pillow would load all that it has. Raises Unusable if it is not installed."""
    if name == "HEIF":
        if importlib.util.find_spec("pillow_heif") is None:
            raise Unusable("format-not-allowed", "HEIF, which needs pip install pillow-heif")
        import pillow_heif

        pillow_heif.register_heif_opener(thumbnails=False)
        return
    if name == "TIFF":
        _silence_libtiff()
    module = {"JPEG": "Jpeg", "PNG": "Png", "WEBP": "WebP", "TIFF": "Tiff", "PPM": "Ppm", "AVIF": "Avif", "GIF": "Gif"}
    importlib.import_module(f"PIL.{module.get(name, 'Bmp')}ImagePlugin")


def _silence_libtiff() -> None:
    """Keep libtiff from printing what it finds wrong, and Pillow's log of its TIFF reader from the terminal."""
    logging.getLogger("PIL").addHandler(logging.NullHandler())
    with contextlib.suppress(OSError):
        mapped = {line.split()[-1] for line in Path("/proc/self/maps").read_text("utf-8").splitlines() if "libtiff" in line}
        for path in mapped:
            library = ctypes.CDLL(path)  # the one that Pillow has loaded
            library.TIFFSetErrorHandler(None)
            library.TIFFSetWarningHandler(None)


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


def _exif_of(image: Image.Image) -> bytes:
    """Get the EXIF block of a PNG or WebP. Before PNG had a chunk for it, ImageMagick wrote it there as hexadecimal text."""
    block: bytes = image.info.get("exif", b"")
    text = image.info.get("Raw profile type exif", "")
    if not block and text:
        with contextlib.suppress(ValueError):
            block = bytes.fromhex("".join(text.split("\n")[3:]))
    return block


def _xmp_of(image: Image.Image) -> bytes:
    """Get the XMP block of a PNG, WebP, AVIF or GIF."""
    block = image.info.get("XML:com.adobe.xmp") or image.info.get("xmp") or b""
    return block.encode("utf-8", "surrogateescape") if isinstance(block, str) else block


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    if orientation == 1:
        return image
    from PIL.Image import Transpose as T  # noqa: N817

    turns = (T.FLIP_LEFT_RIGHT, T.ROTATE_180, T.FLIP_TOP_BOTTOM, T.TRANSPOSE, T.ROTATE_270, T.TRANSVERSE, T.ROTATE_90)
    return image.transpose(turns[orientation - 2])


def _is_grey(image: Image.Image, rawmode: str) -> bool:
    if image.mode == "LAB":
        return False
    if image.mode == "P" and image.palette is not None:
        colours, step = bytes(image.palette.palette), len(image.palette.rawmode or image.palette.mode)
        return colours[0::step] == colours[1::step] == colours[2::step]
    return image.mode in ("1", "L", "LA") or image.mode.startswith("I") or rawmode.startswith("L")


def _eight_bits(picture: _Picture, data: bytes, geometry: Geometry) -> Image.Image:
    """Decode to 8 bits per channel, with a colour key made a transparent channel."""
    image, rawmode = picture.image, picture.rawmode
    image.load()
    if is_deep(image.mode, rawmode) and (geometry.depth != "high-byte" or image.mode in ("F", "I")):
        return _from_deep(_deep(picture, data, geometry.max_pixels), image.info.get("transparency"), geometry.depth)
    deep = image.mode.startswith("I")
    if image.mode not in ("1", "L", "RGB") and not deep:
        return image
    key = image.info.pop("transparency", None)
    if key is None and not deep:
        return image.convert("L") if image.mode == "1" else image
    from PIL import Image

    values = np.array(image.convert("L") if image.mode == "1" else image)
    pixels = (values >> 8).astype(np.uint8) if deep else values
    if key is None:
        return Image.fromarray(pixels)
    # Pillow leaves the key as it is in the file, while it widens 2 and 4 bits to 8 and cuts 16 down to 8.
    key = np.array(key) * {"L;2": 85, "L;4": 17}.get(rawmode, 1) >> (8 if rawmode == "RGB;16B" else 0)
    return _keyed(pixels, (values == key).all(-1) if values.ndim == 3 else values == key)


def _deep(picture: _Picture, data: bytes, max_pixels: int) -> npt.NDArray[np.generic]:
    """Read the whole values of a picture of more than 8 bits."""

    def reopened(rawmode: str) -> Image.Image:
        with _opened(data, max_pixels) as again:
            image: Any = again.image
            image.tile = [tile._replace(args=_with_rawmode(tile.args, rawmode)) for tile in image.tile]
            image.load()
            opened: Image.Image = image
            return opened

    picture.image.load()
    return deep_values(picture.image, picture.rawmode, reopened)


def _with_rawmode(arguments: Any, rawmode: str) -> Any:
    return (rawmode, *arguments[1:]) if isinstance(arguments, tuple) else rawmode


def _from_deep(values: npt.NDArray[np.generic], key: object, depth: str) -> Image.Image:
    from PIL import Image

    colours = values if values.ndim == 2 else values[..., :1] if values.shape[-1] == 2 else values[..., :3]
    pixels = to_bytes(colours, depth)
    if values.ndim == 3 and values.shape[-1] in (2, 4):
        return Image.fromarray(np.concatenate([pixels, alpha_to_bytes(values[..., -1:], depth)], axis=-1))
    if key is None:
        return Image.fromarray(pixels)
    return _keyed(pixels, (values == np.array(key)).all(-1) if values.ndim == 3 else values == np.array(key))


def _keyed(pixels: Pixels, transparent: npt.NDArray[np.bool_]) -> Image.Image:
    """Make an image, LA or RGBA, of pixels of which some are transparent."""
    from PIL import Image

    opacity = np.where(transparent, 0, 255).astype(np.uint8)[..., np.newaxis]
    return Image.fromarray(np.concatenate([pixels.reshape(*opacity.shape[:2], -1), opacity], axis=-1))


def _flat(image: Image.Image, background: Background) -> Image.Image:
    """Convert an image of 8 bits per channel to L or RGB without transparency."""
    if image.mode in ("L", "RGB"):
        return image
    if not image.has_transparency_data:
        return image.convert("RGB")
    if image.mode == "LA" and not isinstance(background, tuple):
        paper = blank("L", image.size, background)
    else:
        paper = blank("RGB", image.size, background)
        image = image if image.mode == "RGBA" else image.convert("RGBA")
    paper.paste(image, mask=image)
    return paper


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
