"""The bytes of an image file before they are decoded: its format, by content, and which way up it is.

    FORMATS[format_of(data)]                        # Pillow's name of the one decoder that is started
    data, metadata = lean_jpeg(data)                # a JPEG without the metadata that Pillow would trip over
    turn = orientation(exif, xmp)                   # 1 to 8

Only what Pillow's slower and laxer readers need not see is read here.
"""

from __future__ import annotations

import re
import struct
from typing import NamedTuple

from capture_cli.errors import Unusable

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "DIB", "AVIF", "HEIF")
"""Decoders that may be started, by their names in Pillow. HEIF needs the extra `heif`."""
MAX_SCANS = 100  # encoders write about ten

_SIGNATURES = re.compile(
    rb"""(?P<PNG>\x89PNG\r\n\x1a\n) | (?P<JPEG>\xff\xd8\xff) | (?P<WEBP>RIFF....WEBP) | (?P<GIF>GIF8[79]a) | (?P<BMP>BM)
       | (?P<TIFF>II[*+]\0|MM\0[*+]) | (?P<PDF>%PDF) | (?P<PostScript>%!PS|\xc5\xd0\xd3\xc6) | (?P<PSD>8BPS)
       | (?P<FITS>SIMPLE\ \ =) | (?P<DDS>DDS\ ) | (?P<BLP>BLP[12]) | (?P<ICO>\0\0[\1\2]\0) | (?P<PPM>P[1-6]\s)
       | (?P<PFM>P[Ff]\s) | (?P<PAM>P7\s)
       | (?P<AVIF>....ftyp(?:avi[fs]|(?:mif1|msf1|miaf|MA1[AB])....(?:....){0,15}?avi[fs]))
       | (?P<HEIF>....ftyp(?:hei[cxms]|hev[cxms]|mif1|msf1|heif)) | (?P<ISO>....ftyp)
       | (?P<JPEG2000>\0\0\0\x0cjP\ \ |\xff\x4f\xff\x51) | (?P<JPEGXL>\xff\x0a|\0\0\0\x0cJXL\ )
       | (?P<DIB>[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0(?:....|........)\x01\0[\x01\x04\x08\x10\x18\x20]\0)""",
    re.DOTALL | re.VERBOSE,
)


def format_of(data: bytes) -> str:
    """Tell the format, one of FORMATS, by content. Raises Unusable for any other."""
    match = _SIGNATURES.match(data)
    if match is None or match.lastgroup is None:
        raise Unusable("not-an-image", "" if data else "an empty file")
    if match.lastgroup not in FORMATS:
        raise Unusable("format-not-allowed", match.lastgroup)
    return match.lastgroup


class Metadata(NamedTuple):
    """Blocks of metadata as they are in a file; empty where there is none."""

    exif: bytes = b""
    xmp: bytes = b""


def lean_jpeg(data: bytes) -> tuple[bytes, Metadata]:
    """Strip a JPEG of the metadata in its header; return it, and its first EXIF and its last XMP segment.

    The decoder needs no metadata, and Pillow is vulnerable there: it joins EXIF segments in time quadratic in their number,
    follows the tags in them, and opens a multi-picture file as another format. Raises Unusable beyond MAX_SCANS scans.
    """
    kept, exif, xmp, at = [data[:2]], b"", b"", 2
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
            if marker == 0xE1 and not exif and data.startswith(b"Exif\0\0", start + 4):
                exif = data[start + 4 : at]
            elif marker == 0xE1 and data.startswith(_XMP, start + 4):
                xmp = data[start + 4 + len(_XMP) : at]
        else:
            kept.append(data[start:at])
    if data.count(b"\xff\xda", at) > MAX_SCANS:  # within pixels 0xFF is followed by 0, so these are scans
        raise Unusable("too-many-scans", "JPEG")
    kept.append(data[at:])
    return b"".join(kept), Metadata(exif, xmp)


_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_METADATA = {0xFE, *range(0xE1, 0xF0)} - {0xEE}  # comments and APP1 to APP15 without APP14, where Adobe notes how to read CMYK
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')


def orientation(metadata: Metadata) -> int:
    """Read the orientation, 1 to 8: of EXIF, or where that has none, of XMP; 1 (upright) if neither has a valid one."""
    turn = _exif_orientation(metadata.exif)
    if turn is None:
        found = _XMP_ORIENTATION.search(metadata.xmp)
        turn = int(found[1]) if found else 1
    return turn if 1 <= turn <= 8 else 1


def _exif_orientation(exif: bytes) -> int | None:
    """Read the orientation in EXIF; None if it has none, or the EXIF is damaged before it. TIFF 6.0, section 2."""
    # Not by Pillow, which would load every tag, warn about some and raise at others.
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return None
    try:
        (start,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, length, value = struct.unpack_from(f"{order}HHIH", tiff, entry)
            if tag == 0x0112:
                return value if kind == 3 and length == 1 else 1
    except struct.error:  # it points behind its own end
        pass
    return None
