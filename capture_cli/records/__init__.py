"""THE FORMAT, version 2: what one line of `records.jsonl` says, encoded and decoded here and nowhere else.

A file of records is JSON Lines in UTF-8. Every line is one object, begins `{"seq":N,"kind":"..."` and ends
`,"chain":"<32 hex digits>"}`, with its keys always in the same order. The kinds, in the order a run writes them:

    run      what was trained on what, with what            first line
    skip     a file left out, and why                       as soon as it is known
    samples  up to 1,024 samples, column by column          before the first batch that names them
    batch    one captured batch, column by column           as it happens
    numbers  the same where targets are numbers              as it happens
    epoch    the sums of one phase of one epoch             after the phase
    end      how it ended, and counts by kind               last line: seals the file

    line = encode(record, seq=0, previous=GENESIS).line     # record -> bytes; the chain: capture_cli.records.chain
    seq, record = decode(line)                              # bytes -> record

What it promises:

* Exact. A float32 is written in its shortest form that reads back as the same float32. JSON has no NaN or infinity: such a
  number is written as null, and `nonfinite` says for each field, in order, which values its nulls stand for.
* Chained. `chain` is BLAKE2b (16 bytes) over the chain of the line before (16 zero bytes for the first) and the line's own
  bytes up to `,"chain"`. Equal runs end in equal chains; a changed, lost, doubled or swapped line breaks the chain.
* Any file name. Names that are not UTF-8 are held as Python holds them (surrogateescape) and written as `\\udcXX`.

Units: `losses` and `loss` in nats, `sizes` in bytes, `batch`, `step` and `rank` count from 0. `epoch` counts from 1 in `capture train`.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from math import isfinite
from operator import attrgetter
from typing import Any, ClassVar, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
import orjson

from capture_cli.errors import RecordsError
from capture_cli.records.chain import link, open_envelope

FORMAT = 2
MAX_SAMPLES_PER_LINE = 1024

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInfo:
    """The first line: everything that decides what the other lines say."""

    kind: ClassVar[str] = "run"
    format: int = FORMAT
    config: Mapping[str, Any]
    """The options that affect results."""
    folder: str
    """As the user gave it."""
    images: Mapping[str, Any] = field(default_factory=dict)
    """How many each split has by the scan, and `listing`: BLAKE2b (16 bytes, hex) of every file's name, label and split."""
    classes: Sequence[str]
    """Class names; labels and predictions are indices into it. Of a multi-label or regression task: names of the K outputs."""
    task: str | None = None
    """None: classification. `sequence` (a class for each position), `multilabel` or `regression`."""
    model: Mapping[str, Any]
    """`name`, and `parameters` (how many)."""
    recipe: Mapping[str, Any]
    """How pixels become inputs: see capture_cli.preprocessing.Recipe."""
    versions: Mapping[str, str]
    device: str
    threads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Up to 1,024 samples, before the first batch that names them. All columns have the same length."""

    kind: ClassVar[str] = "samples"
    ids: Sequence[int]
    files: Sequence[str]
    """Relative to the folder, POSIX separators."""
    labels: Sequence[int]
    splits: Sequence[str]
    """`train` or `val`; `test` where a trained model is evaluated on a folder."""
    sizes: Sequence[int]
    digests: Sequence[str]
    """BLAKE2b (16 bytes, 32 hex digits) of each file's bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Skip:
    """One file that was left out."""

    kind: ClassVar[str] = "skip"
    file: str
    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What identifies the tensors that went into the model, one digest a sample."""

    shape: Sequence[int]
    """Of one sample, [C, H, W]."""
    dtype: str
    digests: Sequence[str]
    """xxh3-64, 16 hex digits, of each sample's contiguous little-endian bytes."""
    values: Sequence[str] | None = None
    """base64 of the same bytes for the first samples of the batch, where asked for."""
    stored: Mapping[str, Any] | None = None
    """`pack` (a file below the run folder) and `offsets` in bytes, one a sample, where all inputs are kept."""
    not_stored: int = 0
    """Samples of this batch whose values were asked for neither way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One captured batch of B samples, taken after the forward pass and before the update.

    Where the task is `sequence`, each position whose label counts is a sample here, and B counts them; `sequences` says which
    sequences they are of. `inputs` and `extra` then have one value for each sequence.
    """

    kind: ClassVar[str] = "batch"
    phase: str
    epoch: int
    batch: int
    step: int
    """Updates done before this batch, over the whole run."""
    rank: int = 0
    loss: float
    """The value that was differentiated (in evaluation: the mean of `losses`)."""
    lr: float | None
    """Learning rate of the update that follows; null where none follows."""
    ids: Sequence[int] | Sequence[str] | Ints
    """What the samples are called, all numbers or all texts."""
    files: Sequence[str] | None = None
    """None where samples have no files."""
    positions: Ints | None = None
    """[B] the place in its sequence, from 0, where the task is `sequence`."""
    labels: Ints
    preds: Ints
    """argmax of the probabilities, the lowest class number among equals."""
    losses: Floats
    """[B] plain cross-entropy, -ln p(label), in nats."""
    probs: Floats
    """[B, C] softmax of the logits; with `topk`, [B, K] the K largest, falling."""
    topk: Ints | None = None
    """[B, K] the classes that `probs` are of, where not all were kept."""
    p_labels: Floats | None = None
    """[B] p(label), where not all probabilities were kept."""
    not_kept: int | None = None
    """Probabilities per sample left out, where not all were kept."""
    sequences: Mapping[str, Any] | None = None
    """`ids` of the S sequences in the order of the batch, `length` (positions of each, with padding), `counted` (how many of
    these have a label that counts: what is left is padding) and `ignore_index` (the label of padding)."""
    extra: Mapping[str, Sequence[Any]] | None = None
    """Columns that the caller added, one plain value for each sample (or sequence)."""
    inputs: Inputs
    flight: Mapping[str, Any] | None = None
    """Where this batch's loss went wrong: `reason` (`nan`, `inf`, `spike`: capture_cli.writer.flight), and `before`: the
    batch before it (`phase`, `epoch`, `batch`, `ids`, `inputs`). The inputs of both are kept whole."""

    @property
    def names(self) -> Sequence[str]:
        """[B] what to call each sample: its file, else its id."""
        return self.files if self.files is not None else [str(one) for one in self.ids]


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """One captured batch of B samples whose targets are numbers, K each: tasks `multilabel` and `regression`."""

    kind: ClassVar[str] = "numbers"
    phase: str
    epoch: int
    batch: int
    step: int
    rank: int = 0
    loss: float
    """As in Batch, like every field that has the same name there."""
    lr: float | None
    ids: Sequence[int] | Sequence[str] | Ints
    files: Sequence[str] | None = None
    targets: Floats
    """[B, K]; 0 or 1 where the task is `multilabel`."""
    outputs: Floats
    """[B, K] what the model answered: for `multilabel` the sigmoid of its logits, for `regression` its output."""
    losses: Floats
    """[B] mean over the K of the binary cross-entropy in nats, or of the squared error, unless the caller gave others."""
    extra: Mapping[str, Sequence[Any]] | None = None
    inputs: Inputs
    flight: Mapping[str, Any] | None = None

    @property
    def names(self) -> Sequence[str]:
        """[B] what to call each sample: its file, else its id."""
        return self.files if self.files is not None else [str(one) for one in self.ids]


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """The sums of one phase of one epoch, over every sample, captured or not."""

    kind: ClassVar[str] = "epoch"
    phase: str
    epoch: int
    n: int
    loss: float
    """Mean of `losses` over the n samples, nats; NaN where n is 0."""
    accuracy: float | None
    """Share of right predictions; for `multilabel` of outputs on the right side of 0.5; None for `regression`,
    and where n is 0."""
    captured: int
    """Samples whose batch was written; captured + not_captured = n."""
    not_captured: int


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """The last line: seals the file."""

    kind: ClassVar[str] = "end"
    status: str
    """`completed`, `interrupted` or `failed`."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Lines by kind before this one."""


Record = RunInfo | Samples | Skip | Batch | Numbers | Epoch | End
KINDS: dict[str, type[Any]] = {kind.kind: kind for kind in (RunInfo, Samples, Skip, Batch, Numbers, Epoch, End)}
_FLOATS = {"losses", "probs", "p_labels", "targets", "outputs"}
_INTS = {"labels", "preds", "topk", "positions"}
_TABLES = {"probs", "topk", "targets", "outputs"}
"""[B, K]: also where B is 0, since a batch of sequences may be all padding."""
_NAMES = {kind: tuple(one.name for one in fields(kind)) for kind in KINDS.values()}
_VALUES: dict[type[Any], Callable[[Any], tuple[Any, ...]]] = {kind: attrgetter(*names) for kind, names in _NAMES.items()}
_NUMBERS = {
    kind: [one.name for one in fields(kind) if one.name in _FLOATS or float in (one.type, *get_args(one.type))]
    for kind in KINDS.values()
}
"""The fields of each kind that may be NaN or infinite."""


class Encoded(NamedTuple):
    """A line as it is written, newline included, and its chain (16 bytes), which the next line takes."""

    line: bytes
    chain: bytes


def encode(record: Record, *, seq: int, previous: bytes) -> Encoded:
    """Write `record` as line number `seq` (from 0) after the line whose chain is `previous`."""
    body: dict[str, Any] = {"seq": seq, "kind": record.kind}
    body.update(zip(_NAMES[type(record)], _VALUES[type(record)](record), strict=True))
    for name in [name for name, value in body.items() if value is None and name not in _ALWAYS]:
        del body[name]
    if "inputs" in body:
        body["inputs"] = inputs_to_json(body["inputs"])
    text = _dumps(body)
    if not all(_is_finite(body.get(name)) for name in _NUMBERS[type(record)]):
        nonfinite = {name: texts for name in _NUMBERS[type(record)] if (texts := _nonfinite(body.get(name)))}
        if nonfinite:
            text = _dumps(body | {"nonfinite": nonfinite})
    text = text[:-1]
    chain = link(previous, text)
    return Encoded(b"".join((text, b',"chain":"', chain.hex().encode(), b'"}\n')), chain)


def decode(line: bytes) -> tuple[int, Record]:
    """Read one line into (seq, record); arrays come back as float32 and int64.

    The chain is not checked here, which needs the line before: see capture_cli.journal. Raises RecordsError for anything
    that `encode` would not have written.
    """
    envelope = open_envelope(line)
    cls = KINDS.get(envelope.kind)
    if cls is None:
        raise RecordsError(f"records of the kind {envelope.kind!r} are unknown", "read them with a newer capture")
    body = loads(line)
    if cls is RunInfo and body.get("format") != FORMAT:
        raise _other_format(body.get("format"))
    try:
        nonfinite = body.get("nonfinite", {})
        values = {name: _field(name, body[name], nonfinite.get(name, ())) for name in _NAMES[cls] if name in body}
        if cls in (Batch, Numbers):
            values["inputs"] = Inputs(**values["inputs"])
        record: Record = cls(**values)
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError, StopIteration) as error:
        raise RecordsError(f"a {envelope.kind} record whose fields are not of format {FORMAT}") from error
    return envelope.seq, record


def _other_format(number: object) -> RecordsError:
    age = "an older" if isinstance(number, int) and number < FORMAT else "another"
    return RecordsError(
        f"written by {age} version of capture, in record format {number}; this version reads format {FORMAT}",
        "read it with the version that wrote it, or train again",
    )


def loads(line: bytes) -> dict[str, Any]:
    """The JSON object of one line as plain Python values. Raises RecordsError where it is not one."""
    try:
        body = orjson.loads(line)
    except orjson.JSONDecodeError:
        try:
            body = json.loads(line.decode("utf-8"))  # orjson refuses the lone surrogates of names that are not UTF-8
        except (ValueError, RecursionError) as error:
            raise RecordsError("a line that is not JSON") from error
    if not isinstance(body, dict):
        raise RecordsError("a line that is not a JSON object")
    return body


_ALWAYS = {"lr", "loss", "accuracy"}
"""Fields that are written even when they are None."""


def inputs_to_json(inputs: Inputs) -> dict[str, Any]:
    """As they stand in a record, what was not asked for left out."""
    body: dict[str, Any] = {"shape": inputs.shape, "dtype": inputs.dtype, "digests": inputs.digests}
    if inputs.values is not None:
        body["values"] = inputs.values
    if inputs.stored is not None:
        body["stored"] = inputs.stored
    if inputs.not_stored:
        body["not_stored"] = inputs.not_stored
    return body


def _is_finite(value: Any) -> bool:
    """Whether a number is, or all those of an array: else the sum of their squares is not. To search the text takes longer."""
    return value is None or isfinite(np.vdot(value, value) if isinstance(value, np.ndarray) else value)


def _nonfinite(value: Any) -> list[str]:
    """Which values the nulls of a float or float array stand for, in order: nan, inf or -inf."""
    if value is None:
        return []
    array = np.asarray(value)
    return [str(v) for v in array[~np.isfinite(array)].tolist()]


def _field(name: str, value: Any, nonfinite: Sequence[str]) -> Any:
    if value is None and not nonfinite:
        return None
    if name in _FLOATS:
        with np.errstate(over="ignore"):  # a number too large for float32 reads as infinite
            array = np.array(value, np.float32)  # null reads as nan
        if nonfinite:
            array[np.isnan(array)] = np.array(nonfinite, np.float32)
        return array if array.size or name not in _TABLES else array.reshape(0, 0)
    if name in _INTS:
        array = np.array(value, np.int64)
        return array if array.size or name not in _TABLES else array.reshape(0, 0)
    if nonfinite:
        return float(nonfinite[0])
    return value


def _dumps(body: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
    except TypeError:  # a name that is not UTF-8: orjson refuses surrogates, json writes them as \udcXX
        return orjson.dumps({key: _escaped(value) for key, value in body.items()}, option=orjson.OPT_SERIALIZE_NUMPY)


def _escaped(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value
    return orjson.Fragment(json.dumps(value, separators=(",", ":"), allow_nan=False))
