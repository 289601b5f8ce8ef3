"""Options of `capture train` that affect its results: each default once, all checks in one place.

    config = TrainConfig(epochs=3, lr=0.01)      # raises UsageError if an option is not valid
    options = read_toml("config.toml")

The command line shows these defaults. Below `train` there are plain arguments only.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self, get_args, get_type_hints

from capture_cli import augmentation
from capture_cli.errors import UsageError, any_of, shown
from capture_cli.pixels.geometry import MAX_PIXELS, MOST_PIXELS, RESIZES, WHITE, Background, is_depth, parse_background

DEFAULT_LR = {"adamw": 1e-3, "adam": 1e-3, "sgd": 0.05}
OPTIMIZERS = tuple(DEFAULT_LR)
SCHEDULES = ("cosine", "constant", "step", "onecycle")
BEST_BY = ("val_accuracy", "val_loss", "balanced_accuracy")
ALL_PROBS_UP_TO_CLASSES = 100
DEFAULT_TOP_K = 10
OFF: Mapping[str, Any] = {
    "patience": 0,
    "grad_accum": 1,
    **dict.fromkeys(("warmup", "clip", "ema", "label_smoothing", "mixup", "cutmix"), 0.0),
    "class_weights": "none",
    "sampler": "shuffle",
}
"""Options that records leave out while they are off, so that what is on can be seen."""
EVALUATIONS = "evaluations"
"""Marks, among the options of a run record, that evaluations are captured whole although `capture_every` is above 1.

Earlier versions thinned them too, and a run continues as it began.
"""
MOST_FOLDS = 1000
CHECKPOINT_EVERY = "60s"


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Options of `capture train` that decide what its records say."""

    model: str = "cnn"
    """linear, mlp, cnn, torchvision:NAME, timm:NAME or FILE.py:FACTORY."""
    weights: str | None = None
    """Initial weights: DEFAULT, a name, a file or a run (capture_cli.models.pretrained)."""
    freeze: str | None = None
    """backbone, or the number of layers from the first that are not trained."""
    epochs: int = 10
    batch_size: int = 64
    lr: float | None = None
    """Peak learning rate; None: DEFAULT_LR of the optimizer."""
    lr_head: float | None = None
    """Peak learning rate of the last layer; None: lr."""
    opt: str = "adamw"
    sched: str = "cosine"
    weight_decay: float = 0.01
    warmup: float = 0.0
    """Epochs in which the learning rate rises to its peak."""
    grad_accum: int = 1
    """Batches for one update."""
    clip: float = 0.0
    """The largest norm of the gradients; 0: unlimited."""
    ema: float = 0.0
    """Decay of the average of the weights, which is evaluated and saved in place of the weights; 0: off."""
    class_weights: str = "none"
    sampler: str = "shuffle"
    label_smoothing: float = 0.0
    mixup: float = 0.0
    """alpha of the weight's Beta distribution, as for cutmix; 0: off."""
    cutmix: float = 0.0
    best: str = BEST_BY[0]
    """The metric by which the weights of the best epoch are kept."""
    patience: int = 0
    """Stop after so many epochs without a better one; 0: never."""
    seed: int = 0
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    amp: bool = False
    """Forward and backward in bfloat16 where that is safe; probabilities and losses stay float32."""
    compile: bool = False
    img_size: str | None = None
    """N or HEIGHTxWIDTH in pixels; None: the images decide."""
    channels: int | None = None
    """1 (grey) or 3 (RGB); None: 1 if all images are grey."""
    resize: str | None = None
    """stretch, pad or crop; None: the images decide."""
    background: str = "white"
    """white, black or R,G,B: behind transparent pixels and around padded pictures."""
    depth: str = "auto"
    """auto, high-byte, minmax or a number of bits: how more than 8 bits become 8."""
    max_pixels: int = MAX_PIXELS
    """Larger images are skipped."""
    augment: str = "none"
    val_split: float = 0.2
    """Share of the images held out for validation."""
    folds: int | None = None
    """Trainings of which each holds out other images, in place of val_split; None: one training."""
    labels: str = "auto"
    unmatched: str = "error"
    """error or skip: how to treat files that the label rule does not match."""
    include: Sequence[str] | None = None
    """Glob patterns of the files to use; None: all."""
    exclude: Sequence[str] | None = None
    keep_companions: bool | None = None
    """Use masks and twins of other images as images of their own."""
    split_folders: str | None = None
    """use, pool or ignore words such as train and test in paths; None: use."""
    val: str | None = None
    """A folder of images for validation."""
    group: str | None = None
    """Regular expression, rule or column: images that share what it finds stay on one side of the split."""
    merge_names: bool | None = None
    """Make one class of names that differ only in case, spaces or Unicode form."""
    capture_every: int = 1
    """Capture every N-th training batch; the others are only counted. Evaluations are captured whole."""
    probs: str | None = None
    """all or top:K; None: all up to 100 classes, then top:10."""
    inputs: str = "digest"
    """digest, N (also store the first N inputs of each batch) or all."""
    spike: float = 10.0
    """A training loss so many standard deviations above the mean saves its batch and the one before whole; 0: off."""
    strict: bool = False
    """Stop at an image that cannot be used, instead of skipping it."""
    allow_nonfinite: bool = False
    """Continue after a loss that is NaN or infinite."""

    def __post_init__(self) -> None:
        """Raise UsageError, naming the option, its value and the choices, for the first option that is not valid."""
        _check_types(self)
        for name, choices in (
            ("opt", OPTIMIZERS),
            ("sched", SCHEDULES),
            ("best", BEST_BY),
            ("class_weights", ("none", "balanced")),
            ("sampler", ("shuffle", "balanced")),
            ("unmatched", ("error", "skip")),
            ("split_folders", (None, "use", "pool", "ignore")),
        ):
            self._require(name, getattr(self, name) in choices, any_of(filter(None, choices)))
        for name in ("epochs", "batch_size", "capture_every", "grad_accum"):
            self._require(name, getattr(self, name) >= 1, "a whole number from 1")
        self._require("patience", self.patience >= 0, "a number of epochs, or 0 for off")
        self._require("freeze", re.fullmatch(r"backbone|[1-9]\d{0,4}", self.freeze or "1"), "backbone, or a number of layers")
        self._require("lr_head", self.lr_head is None or 0 < self.lr_head < float("inf"), "a number above 0")
        self._require("lr", self.lr is None or 0 < self.lr < float("inf"), "a number above 0")
        self._require("weight_decay", 0 <= self.weight_decay < float("inf"), "a number from 0")
        self._check_augment()
        self._check_regularisation()
        self._require("spike", 0 <= self.spike < float("inf"), "a number of standard deviations, or 0 for off")
        self._require("val_split", 0 <= self.val_split < 1, "a share from 0 to below 1")
        self._require("folds", self.folds is None or 2 <= self.folds <= MOST_FOLDS, f"a number from 2 to {MOST_FOLDS:,}")
        if self.folds is not None and self.val is not None:
            raise UsageError("--folds and --val both say which images are held out", "give one of them")
        self._require("seed", 0 <= self.seed < 2**63, "a whole number from 0 to 2^63 - 1")
        self._require("channels", self.channels in (None, 1, 3), "1 or 3")
        self._require("device", re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", self.device), "auto, cpu, cuda or cuda:N")
        self._require("resize", self.resize is None or self.resize in RESIZES, any_of(RESIZES))
        self._require("background", parse_background(self.background) is not None, "white, black or R,G,B, each from 0 to 255")
        self._require("depth", self.depth == "auto" or is_depth(self.depth), "auto, high-byte, minmax or 1 to 16 bits")
        self._require("max_pixels", 1 <= self.max_pixels <= MOST_PIXELS, f"a number from 1 to {MOST_PIXELS:,}")
        self._require("img_size", self.img_size is None or image_size(self.img_size), "N or HxW, each from 1 to 4096")
        top_k(self.probs, 2)
        stored_inputs(self.inputs)

    def _check_augment(self) -> None:
        try:
            object.__setattr__(self, "augment", augmentation.canonical(self.augment).replace("+", ","))
        except ValueError as error:
            raise UsageError(f"--augment {self.augment} is not valid: {error}", f"choose {augmentation.CHOICES}") from error

    def _check_regularisation(self) -> None:
        self._require("warmup", 0 <= self.warmup < self.epochs, f"a number of epochs from 0 to below {self.epochs}")
        self._require("warmup", not self.warmup or self.sched != "onecycle", "0: the schedule onecycle has its own warm-up")
        self._require("clip", 0 <= self.clip < float("inf"), "a norm, or 0 for off")
        self._require("ema", 0 <= self.ema < 1, "a decay such as 0.999, or 0 for off")
        self._require("label_smoothing", 0 <= self.label_smoothing < 1, "a share from 0 to below 1")
        for name in ("mixup", "cutmix"):
            self._require(name, 0 <= getattr(self, name) < float("inf"), "alpha, such as 0.2 or 1, or 0 for off")
        both = self.class_weights == self.sampler == "balanced"
        if both:
            raise UsageError(
                "--class-weights balanced and --sampler balanced both make up for rare classes, so together they overdo it",
                "give one of them",
            )

    def _require(self, name: str, valid: object, choices: str) -> None:
        _require(valid, f"--{name.replace('_', '-')}", getattr(self, name), choices)

    @property
    def learning_rate(self) -> float:
        """The peak learning rate."""
        return DEFAULT_LR[self.opt] if self.lr is None else self.lr

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) in pixels, None if the images decide."""
        return None if self.img_size is None else image_size(self.img_size)

    @property
    def background_levels(self) -> Background:
        """The background as a grey level, or (red, green, blue)."""
        levels = parse_background(self.background)
        return WHITE if levels is None else levels  # checked when it was set

    def to_dict(self) -> dict[str, Any]:
        """Return the options by name, without those that are None or switched off."""
        unused = "val_split" if self.folds is not None else ""
        values = asdict(self).items()
        return {name: value for name, value in values if value is not None and value != OFF.get(name) and name != unused}


@dataclass(frozen=True)
class Every:
    """An interval of steps or of seconds."""

    steps: int = 0
    seconds: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `500` (steps) or `60s`. Raises UsageError."""
        match = re.fullmatch(r"([1-9]\d{0,8})(s?)", text)
        _require(match, "--checkpoint-every", text, "a number of steps, or of seconds as in 60s")
        number, unit = match.groups()  # type: ignore[union-attr] # checked above
        return cls(seconds=float(number)) if unit else cls(steps=int(number))

    def due(self, steps: int, seconds: float) -> bool:
        """Return True if the interval is over after so many steps and seconds."""
        return steps >= self.steps if self.steps else seconds >= self.seconds


def image_size(text: str) -> tuple[int, int] | None:
    """Parse `28` -> (28, 28) or `375x500` -> (375, 500) as (height, width); None if it is neither."""
    match = re.fullmatch(r"(\d{1,4})(?:x(\d{1,4}))?", text)
    if not match:
        return None
    height, width = int(match[1]), int(match[2] or match[1])
    return (height, width) if 1 <= height <= 4096 and 1 <= width <= 4096 else None


def read_toml(path: Path) -> dict[str, Any]:
    """Read options from a config file, with `_` for `-` in their names. Raises UsageError."""
    import tomllib  # --help does not need it

    try:
        values = tomllib.loads(path.read_text("utf-8-sig"))  # some editors put a byte order mark before UTF-8
    except OSError as error:
        raise UsageError(f"--config '{path}' cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"--config '{path}' is not UTF-8 text", "save it as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"--config '{path}' is not TOML: {error}", "see the config.toml of a run") from error
    except ValueError as error:  # of Python itself, for a number of more than 4,300 digits
        raise UsageError(f"--config '{path}' has a number of too many digits", "see the config.toml of a run") from error
    return {name.replace("-", "_"): value for name, value in values.items()}


def top_k(probs: str | None, classes: int, *, option: str = "--probs") -> int | None:
    """Return how many probabilities per sample `all`, `top:K` or None keeps; None for all. Raises UsageError."""
    if probs is None:
        return DEFAULT_TOP_K if classes > ALL_PROBS_UP_TO_CLASSES else None
    match = re.fullmatch(r"all|top:(\d{1,6})", probs)
    k = int(match[1]) if match and match[1] else classes
    _require(match and (k >= 2 or not match[1]), option, probs, "all or top:K with K from 2")
    return k if k < classes else None


def stored_inputs(inputs: str | int, *, option: str = "--inputs") -> int | None:
    """Return how many inputs per batch `digest`, N or `all` stores; None for all. Raises UsageError."""
    text = inputs if isinstance(inputs, str) else shown(inputs)
    _require(re.fullmatch(r"digest|all|\d{1,6}", text), option, text, "digest, all or a number of samples")
    return None if text == "all" else 0 if text == "digest" else int(text)


def _check_types(config: TrainConfig) -> None:
    """Check the types of values from a file; those of the command line are right already."""
    hints = get_type_hints(TrainConfig)
    for field in fields(config):
        value, allowed = getattr(config, field.name), get_args(hints[field.name]) or (hints[field.name],)
        if isinstance(value, list | tuple) and Sequence[str] in allowed:
            if not all(isinstance(one, str) for one in value):
                raise UsageError(f"--{field.name.replace('_', '-')} {value!r} is not a list of texts")
            object.__setattr__(config, field.name, list(value) or None)
        elif float in allowed and type(value) is int:
            object.__setattr__(config, field.name, float(value))
        elif type(value) not in allowed:
            wanted = any_of(kind.__name__ for kind in allowed if kind is not type(None))
            raise UsageError(f"--{field.name.replace('_', '-')} {value!r} is not of the type {wanted}")


def _require(valid: object, option: str, value: object, choices: str) -> None:
    if not valid:
        raise UsageError(f"{option} {value} is not valid", f"choose {choices}")
