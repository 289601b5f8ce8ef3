"""What a run tells the process of its sinks: one JSON object a line, without pickle.

    line = dumps({"call": "evaluation", "worst": [sample_to_json(sample)]})
    call = loads(line)

Numbers that are not finite are written as Python's json does, and names that are not UTF-8 as `\\udcXX`, so all come back.
"""

import base64
import json
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from capture_cli.sinks.gathering import Sample


def dumps(message: dict[str, Any]) -> bytes:
    """One line."""
    return json.dumps(message, default=_plain).encode() + b"\n"


def loads(line: bytes) -> dict[str, Any]:
    """The message of a line."""
    message: dict[str, Any] = json.loads(line)
    return message


def sample_to_json(sample: Sample) -> dict[str, Any]:
    """All of a sample, its image as base64 of the bytes."""
    image = sample.image
    body = asdict(replace(sample, image=None))
    if image is not None:
        body["image"] = {"shape": image.shape, "dtype": str(image.dtype), "data": base64.b64encode(image.tobytes()).decode()}
    return body


def sample_from_json(body: dict[str, Any]) -> Sample:
    """The same sample."""
    image = body["image"]
    if image is not None:
        image = np.frombuffer(base64.b64decode(image["data"]), np.dtype(image["dtype"])).reshape(image["shape"])
    return Sample(**{**body, "image": image})


def _plain(value: object) -> object:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return str(value)
