"""Annotations of objects in images, which are no labels of whole images: YOLO, COCO and Pascal VOC.

annotations(source, files, skipped)     # "YOLO boxes such as 'labels/train/1.txt'", or an empty string
"""

import re
from collections.abc import Sequence

from capture_cli.errors import Unusable
from capture_cli.sources import Skipped, TypedSource

_COCO = re.compile(r"(?:instances|person_keypoints|panoptic|stuff)_[^/]*\.json|_annotations\.coco\.json")
_YOLO_LINE = re.compile(r"\s*[0-9]+(?:\s+[0-9.eE+-]+){4,}\s*")
_VOC_OBJECT = b"<object>"


def annotations(source: TypedSource, files: Sequence[str], skipped: Sequence[Skipped]) -> str:
    """Describe annotations of objects among the `skipped` files, if they are there for images in `files`."""
    stems = {_stem(file) for file in files}
    for one in (one.file for one in skipped if one.reason == "unsupported-extension"):
        if _COCO.fullmatch(one.rpartition("/")[2]):
            return f"COCO annotations in '{one}'"
        if _stem(one) not in stems:
            continue
        if one.endswith(".txt") and _YOLO_LINE.fullmatch(_text(source, one).partition(b"\n")[0].decode("latin-1")):
            return f"YOLO boxes such as '{one}'"
        if one.endswith(".xml") and _VOC_OBJECT in _text(source, one):
            return f"Pascal VOC annotations such as '{one}'"
    return ""


def _stem(file: str) -> str:
    return file.rpartition("/")[2].rpartition(".")[0]


def _text(source: TypedSource, file: str) -> bytes:
    try:
        return source.read(file, max_bytes=2**20)
    except Unusable:
        return b""
