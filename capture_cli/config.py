"""What a training can be told: every option that affects results, each default once, all checks in one place.

    config = TrainConfig(epochs=3, lr=0.01)      # raises UsageError for what cannot be honoured
    config = from_toml("config.toml")

The command line shows these defaults and hands over what it was given; nothing below `train` sees a TrainConfig.
"""

import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self, get_args, get_type_hints

from capture_cli.errors import UsageError

DEFAULT_LR = {"adamw": 1e-3, "adam": 1e-3, "sgd": 0.05}
OPTIMIZERS = tuple(DEFAULT_LR)
SCHEDULES = ("cosine", "constant")
AUGMENTATIONS = ("none", "flip", "crop", "flip+crop")
ALL_PROBS_UP_TO_CLASSES = 100
DEFAULT_TOP_K = 10
CHECKPOINT_EVERY = "60s"


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The options of `capture train` that decide what its records say."""

    model: str = "cnn"
    """linear, mlp, cnn, torchvision:NAME or FILE.py:FACTORY."""
    epochs: int = 10
    batch_size: int = 64
    lr: float | None = None
    """Peak learning rate; None: DEFAULT_LR of the optimizer."""
    opt: str = "adamw"
    sched: str = "cosine"
    weight_decay: float = 0.01
    seed: int = 0
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    amp: bool = False
    """Forward and backward in bfloat16 where that is safe; probabilities and losses are float32 all the same."""
    compile: bool = False
    img_size: str | None = None
    """N or HEIGHTxWIDTH in pixels; None: the size most images have."""
    channels: int | None = None
    """1 (grey) or 3 (RGB); None: 1 if all images are grey."""
    augment: str = "none"
    val_split: float = 0.2
    """Share of the images that are only evaluated."""
    labels: str = "auto"
    unmatched: str = "error"
    """error or skip: what to do with files that the label rule does not fit."""
    capture_every: int = 1
    """Every N-th batch is captured; the others are counted."""
    probs: str | None = None
    """all or top:K; None: all up to 100 classes, then top:10."""
    inputs: str = "digest"
    """digest, N (the values of the first N inputs of each batch as well) or all."""
    spike: float = 10.0
    """A training loss so many standard deviations above the mean keeps its batch and the one before whole; 0: never."""
    strict: bool = False
    """An image that cannot be used stops the run instead of being left out."""
    allow_nonfinite: bool = False
    """Go on after a loss that is NaN or infinite."""

    def __post_init__(self) -> None:
        """Raise UsageError, naming option, value and what would do, for the first option that cannot be honoured."""
        _check_types(self)
        for name, choices in (
            ("opt", OPTIMIZERS),
            ("sched", SCHEDULES),
            ("augment", AUGMENTATIONS),
            ("unmatched", ("error", "skip")),
        ):
            _demand(name, getattr(self, name), getattr(self, name) in choices, " or ".join(choices))
        for name in ("epochs", "batch_size", "capture_every"):
            _demand(name, getattr(self, name), getattr(self, name) >= 1, "a whole number from 1 up")
        _demand("lr", self.lr, self.lr is None or 0 < self.lr < float("inf"), "a number above 0")
        _demand("weight_decay", self.weight_decay, 0 <= self.weight_decay < float("inf"), "a number from 0 up")
        _demand("spike", self.spike, 0 <= self.spike < float("inf"), "a number of standard deviations, 0 for never")
        _demand("val_split", self.val_split, 0 <= self.val_split < 1, "a share from 0 up to, not including, 1")
        _demand("seed", self.seed, 0 <= self.seed < 2**63, "a whole number from 0 to 2^63 - 1")
        _demand("channels", self.channels, self.channels in (None, 1, 3), "1 or 3")
        _demand("device", self.device, re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", self.device), "auto, cpu, cuda or cuda:N")
        top_k(self.probs, 2)
        stored_inputs(self.inputs)
        _demand(
            "img_size",
            self.img_size,
            self.img_size is None or image_size(self.img_size),
            "N or HxW, each 1 to 4096",
        )

    @property
    def learning_rate(self) -> float:
        """The peak learning rate that is used."""
        return DEFAULT_LR[self.opt] if self.lr is None else self.lr

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) in pixels, None where the images decide."""
        return None if self.img_size is None else image_size(self.img_size)

    def to_dict(self) -> dict[str, Any]:
        """The options by name, those that were left open left out."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Every:
    """How often: after so many steps, or so many seconds."""

    steps: int = 0
    seconds: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Self:
        """`500` steps or `60s`. Raises UsageError."""
        match = re.fullmatch(r"([1-9]\d{0,8})(s?)", text)
        if not match:
            raise UsageError(
                f"--checkpoint-every {text} cannot be honoured", "it takes a number of steps, or of seconds as in 60s"
            )
        return cls(seconds=float(match[1])) if match[2] else cls(steps=int(match[1]))

    def due(self, steps: int, seconds: float) -> bool:
        """Whether so many steps and seconds after the last one it is time for the next."""
        return steps >= self.steps if self.steps else seconds >= self.seconds


def image_size(text: str) -> tuple[int, int] | None:
    """`28` -> (28, 28), `375x500` -> (375, 500) as (height, width); None if it is neither."""
    match = re.fullmatch(r"(\d{1,4})(?:x(\d{1,4}))?", text)
    if not match:
        return None
    height, width = int(match[1]), int(match[2] or match[1])
    return (height, width) if 1 <= height <= 4096 and 1 <= width <= 4096 else None


def read_toml(path: Path) -> dict[str, Any]:
    """The options in a config file by their names with `_` for `-`. Raises UsageError for what is not one."""
    import tomllib  # not needed for help

    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"--config '{path}' cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"--config '{path}' is not TOML: {error}") from error
    return {name.replace("-", "_"): value for name, value in values.items()}


def top_k(probs: str | None, classes: int) -> int | None:
    """Return how many probabilities per sample `all`, `top:K` or None keeps; None for all. Raises UsageError."""
    if probs is None:
        return DEFAULT_TOP_K if classes > ALL_PROBS_UP_TO_CLASSES else None
    k = _parse_top_k(probs)
    _demand("probs", probs, k is not False, "all or top:K with K from 2 up")
    return k if k and k < classes else None


def stored_inputs(inputs: str | int) -> int | None:
    """Return how many inputs per batch `digest`, N or `all` stores; None for all. Raises UsageError."""
    text = str(inputs)
    _demand("inputs", text, re.fullmatch(r"digest|all|\d{1,6}", text), "digest, all or a number of samples")
    return None if text == "all" else 0 if text == "digest" else int(text)


def _parse_top_k(probs: str) -> int | bool | None:
    """K of `top:K`, None for `all`, False for anything else."""
    if probs == "all":
        return None
    match = re.fullmatch(r"top:(\d{1,6})", probs)
    return int(match[1]) if match and int(match[1]) >= 2 else False


def _check_types(config: TrainConfig) -> None:
    """A value from a file may be of any type; the command line's are right already."""
    hints = get_type_hints(TrainConfig)
    for field in fields(config):
        value, allowed = getattr(config, field.name), get_args(hints[field.name]) or (hints[field.name],)
        if float in allowed and type(value) is int:
            object.__setattr__(config, field.name, float(value))
        elif type(value) not in allowed:
            wanted = " or ".join(kind.__name__ for kind in allowed if kind is not type(None))
            raise UsageError(f"--{field.name.replace('_', '-')} {value!r} is not of the type {wanted}")


def _demand(name: str, value: object, fits: object, wanted: str) -> None:
    if not fits:
        raise UsageError(f"--{name.replace('_', '-')} {value} cannot be honoured", f"it takes {wanted}")
