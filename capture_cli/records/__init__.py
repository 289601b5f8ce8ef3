"""THE FORMAT, version 2: what each line of `records.jsonl` holds. Lines are encoded and decoded here and nowhere else.

    line = encode(record, seq=0, previous=GENESIS).line     # record -> bytes; for the chain see capture_cli.records.chain
    seq, record = decode(line)                              # bytes -> record

The file is JSON Lines in UTF-8. Every line is one object that begins `{"seq":N,"kind":"..."`, ends
`,"chain":"<32 hex digits>"}` and has its keys in a fixed order. The kinds, in the order a run writes them:

    run      the options, model, software and hardware      first line
    skip     a file that was skipped, and why               as soon as it is known
    samples  up to 1,024 samples, column by column          before the first batch that names them
    batch    one captured batch, column by column           as it happens
    numbers  the same for targets that are numbers          as it happens
    measures the same for masks, and for losses alone       as it happens
    epoch    totals of one phase of one epoch               after the phase
    end      how the run ended, and line counts by kind     last line: seals the file

It promises:

* Exact. A float32 is written in the shortest form that reads back as the same float32. JSON has no NaN or infinity: such a
  number is written as null, and `nonfinite` lists, field by field and in order, what its nulls stand for.
* Chained. `chain` is BLAKE2b (16 bytes) over the chain of the line before (16 zero bytes for the first line) and this line up
  to `,"chain"`. Equal runs end in equal chains. A changed, lost, doubled or swapped line breaks the chain.
* Any file name. A name that is not UTF-8 is held with surrogateescape, as in Python, and written as `\\udcXX`.

Units: `losses` and `loss` in nats, `sizes` in bytes. `epoch` counts from 1 in `capture train`; `batch`, `step` and `rank`
count from 0.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import Any, ClassVar, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from capture_cli.errors import FormatError, RecordsError
from capture_cli.records.chain import link, open_envelope
from capture_cli.records.values import FLOATS, NAMED, dumps, inputs_to_json, is_finite, loads, nonfinite_values, to_field

FORMAT = 2
NO_LABEL = -1
"""Stands in `labels` for a sample without a label, in the phase `predict`. Its loss is NaN."""
MAX_SAMPLES_PER_LINE = 1024
MAX_COUNTED_CLASSES = 1000
"""The most classes whose samples are counted in the totals of a phase."""

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInfo:
    """The first line: everything that determines the lines that follow."""

    kind: ClassVar[str] = "run"
    format: int = FORMAT
    config: Mapping[str, Any]
    """The options that affect results."""
    folder: str
    """As the user gave it."""
    images: Mapping[str, Any] = field(default_factory=dict)
    """Images per split as scanned, and `listing_digest`: BLAKE2b (16 bytes, hex) of all files' names, labels and splits."""
    classes: Sequence[str]
    """Class names; labels and predictions index this list. For `multilabel` and `regression`: names of the K outputs."""
    fold: Mapping[str, int] | None = None
    """With `--folds`: the `number` of this training, from 1, and how many there are (`of`). Each holds out other samples."""
    label_rule: str | None = None
    """The rule that the labels were read by, as `--labels` takes it; `table` if a table gave them."""
    task: str | None = None
    """None for classification, else `sequence` (one class per position), `multilabel`, `regression`, `segmentation` (one class
    per pixel) or `loss` (no labels, and no classes)."""
    number_names: Sequence[str] | None = None
    """Names of the `numbers` and `batch_numbers` of its batches, as far as the first one tells."""
    class_weights: Sequence[float] | None = None
    """Weight of each class in the loss that is differentiated, with `--class-weights`."""
    model: Mapping[str, Any]
    """`name`, the number of `parameters`, of a training `initial_digest`: of the weights before the first update; of a file of
    code its `code_digest`; of an evaluation or a prediction the model's `file` and `epoch`."""
    recipe: Mapping[str, Any]
    """The conversion of a file's pixels to an input: capture_cli.preprocessing.Recipe."""
    versions: Mapping[str, str]
    device: str
    threads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Up to 1,024 samples, written before the first batch that names them. All columns have the same length."""

    kind: ClassVar[str] = "samples"
    ids: Sequence[int]
    files: Sequence[str]
    """Relative to the folder, POSIX separators."""
    labels: Sequence[int]
    splits: Sequence[str]
    """`train`, `val`, or in `capture evaluate` `test`."""
    sizes: Sequence[int]
    digests: Sequence[str]
    """BLAKE2b (16 bytes, hex) of each file's bytes."""
    pixels: Sequence[str] | None = None
    """XXH3-64 (16 hex digits) of each file's decoded pixels, uint8 [C, H, W] before augmentation: equal for copies."""
    phash: Sequence[str] | None = None
    """Perceptual hash (128 bits, 32 hex digits): near-duplicates differ in few bits (capture_cli.pixels.similarity)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Skip:
    """One file that was skipped."""

    kind: ClassVar[str] = "skip"
    file: str
    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """Digests of the tensors that went into the model, and where they are stored."""

    shape: Sequence[int]
    """The shape of one sample, [C, H, W]."""
    dtype: str
    digests: Sequence[str]
    """XXH3-64 (16 hex digits) of each sample's contiguous little-endian bytes."""
    values: Sequence[str] | None = None
    """base64 of the same bytes for the first samples of the batch, with `--inputs N`."""
    stored: Mapping[str, Any] | None = None
    """`pack` (a file in the run folder) and the byte `offsets` of the samples in it, where the whole batch is stored."""
    not_stored: int = 0
    """Samples of this batch whose inputs are stored in neither way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One captured batch of B samples, from the forward pass that trains, before the update.

    For the task `sequence` each position that is not padding is a sample, and B counts positions. `sequences` describes the
    whole sequences; `inputs` and `extra` then have one value per sequence.
    """

    kind: ClassVar[str] = "batch"
    phase: str
    epoch: int
    batch: int
    step: int
    """Batches of the phase `train` before this one, over the whole run; each is one update, or part of one."""
    rank: int = 0
    loss: float
    """The loss that was differentiated, with class weights, label smoothing and mixed labels if there are any; in evaluation
    the mean of `losses`."""
    lr: float | None
    """Learning rate of the update that follows; None in evaluation."""
    ids: Sequence[int] | Sequence[str] | Ints
    """[B] sample ids, all integers or all strings."""
    files: Sequence[str] | None = None
    """[B] None where samples have no files."""
    positions: Ints | None = None
    """[B] position in its sequence, from 0, for the task `sequence`."""
    labels: Ints
    preds: Ints
    """[B] argmax of the probabilities; on a tie the lowest class number."""
    losses: Floats
    """[B] cross-entropy per sample, -ln p(label), in nats."""
    probs: Floats
    """[B, C] softmax of the logits; with `topk` [B, K], the K largest in falling order."""
    topk: Ints | None = None
    """[B, K] the classes of `probs`, with `--probs top:K`."""
    p_labels: Floats | None = None
    """[B] p(label), where `topk` is given."""
    probs_omitted: int | None = None
    """Classes per sample whose probability is not in `probs`, where `topk` is given."""
    sequences: Mapping[str, Any] | None = None
    """`ids` of the S sequences in batch order, `padded_length` (positions per sequence, padding included), `n_valid` (positions
    of each sequence that are not padding) and `ignore_index` (the label that marks padding)."""
    extra: Mapping[str, Sequence[Any]] | None = None
    """Columns added by the caller, one plain value per sample (or sequence)."""
    numbers: Mapping[str, Floats] | None = None
    """[B] numbers that the caller named, one per sample (or sequence); losses of further criteria among them."""
    batch_numbers: Mapping[str, float] | None = None
    """Named numbers of the whole batch."""
    repeats: Ints | None = None
    """[B] how often each sample came before in this epoch, with `--sampler balanced`; None where none did."""
    mix: Mapping[str, Any] | None = None
    """Mixed inputs (`--mixup`, `--cutmix`): `method`, `weight` (of a sample's own label in the loss), `partners` ([B] positions
    in the batch), `labels` ([B] those of the partners), and for cutmix `box`: top, left, height and width of the part that
    comes from the partner."""
    soft_labels: Mapping[str, Any] | None = None
    """Labels that were probabilities: `classes` [B, K] in falling order of their `weights` [B, K]; `labels` has the first of
    each, and `loss` is the loss of them all."""
    inputs: Inputs
    flight: Mapping[str, Any] | None = None
    """The flight recorder, where the loss is NaN, infinite or jumps: `reason` (`nan`, `inf`, `spike`) and `before`, the batch
    before this one (`phase`, `epoch`, `batch`, `ids`, `inputs`). The inputs of both batches are stored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """One captured batch of B samples with K numeric targets each: the tasks `multilabel` and `regression`.

    Fields that Batch has too hold the same.
    """

    kind: ClassVar[str] = "numbers"
    phase: str
    epoch: int
    batch: int
    step: int
    rank: int = 0
    loss: float
    lr: float | None
    ids: Sequence[int] | Sequence[str] | Ints
    files: Sequence[str] | None = None
    targets: Floats
    """[B, K]; 0 or 1 for `multilabel`."""
    outputs: Floats
    """[B, K] the prediction: for `multilabel` the sigmoid of the logits, for `regression` the output."""
    losses: Floats
    """[B] mean over K of the binary cross-entropy (nats) or of the squared error, unless the caller passed `losses`."""
    extra: Mapping[str, Sequence[Any]] | None = None
    numbers: Mapping[str, Floats] | None = None
    batch_numbers: Mapping[str, float] | None = None
    inputs: Inputs
    flight: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Measures:
    """One captured batch of B samples that have more than a class or less: the tasks `segmentation` and `loss`.

    Fields that Batch has too hold the same. Those from `counted` to `masks` are only for segmentation.
    """

    kind: ClassVar[str] = "measures"
    phase: str
    epoch: int
    batch: int
    step: int
    rank: int = 0
    loss: float
    lr: float | None
    ids: Sequence[int] | Sequence[str] | Ints
    files: Sequence[str] | None = None
    losses: Floats | None = None
    """[B] mean cross-entropy of an image's counted pixels, in nats, 0 if it has none; for `loss` as the caller passed them,
    None where only `loss` is known."""
    counted: Ints | None = None
    """[B] pixels that count."""
    ignored: Ints | None = None
    """[B] pixels whose label is `ignore_index`."""
    correct: Ints | None = None
    """[B] counted pixels that are predicted as their label."""
    present: Sequence[Sequence[int]] | None = None
    """[B][P] classes that an image has, as a label or a prediction of counted pixels, in rising order."""
    labelled: Sequence[Sequence[int]] | None = None
    """[B][P] pixels with that label."""
    intersections: Sequence[Sequence[int]] | None = None
    """[B][P] pixels with that label that are predicted as it."""
    unions: Sequence[Sequence[int]] | None = None
    """[B][P] pixels with that label, or predicted as it."""
    confusions: Sequence[Sequence[Sequence[int]]] | None = None
    """[B][Q] (label, prediction, pixels) of wrong pixels, the most frequent pairs first."""
    confusions_omitted: Ints | None = None
    """[B] wrong pixels of further pairs."""
    masks: Mapping[str, Any] | None = None
    """`labels` and `preds` as masks, each an object like `inputs`; only where they are kept."""
    extra: Mapping[str, Sequence[Any]] | None = None
    numbers: Mapping[str, Floats] | None = None
    batch_numbers: Mapping[str, float] | None = None
    inputs: Inputs
    flight: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """Totals of one phase of one epoch, over every sample, captured or not."""

    kind: ClassVar[str] = "epoch"
    phase: str
    epoch: int
    n: int
    loss: float
    """Mean of `losses` over the n samples, in nats; NaN where n is 0."""
    accuracy: float | None
    """Fraction of correct predictions; for `multilabel`, of outputs on the correct side of 0.5; for `segmentation`, of counted
    pixels. None for `regression` and `loss`, and where n is 0."""
    captured: int
    """Samples whose batch was recorded; captured + not_captured = n."""
    not_captured: int
    step: int | None = None
    """Batches of the phase `train` before an evaluation, over the whole run; only in somebody's own loop."""
    class_counts: Mapping[str, Sequence[int]] | None = None
    """Samples by class: `labelled`, `predicted` and `correct`, one count for each class. For `segmentation` they count pixels.
    None in the phase `train` of a classification, for other tasks and for more than 1,000 classes."""
    number_means: Mapping[str, Mapping[str, Any]] | None = None
    """By name, the `mean` of each number, None where that is not finite, and `n`, the samples that had it."""
    padded: int | None = None
    """Visits of samples that a sampler repeated so that all processes get equally many: in no batch and not in `n`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """The last line: seals the file."""

    kind: ClassVar[str] = "end"
    status: str
    """`completed`, `interrupted` or `failed`."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Lines of each kind before this one."""


Record = RunInfo | Samples | Skip | Batch | Numbers | Measures | Epoch | End
AnyBatch = Batch | Numbers | Measures
KINDS: dict[str, type[Any]] = {kind.kind: kind for kind in (RunInfo, Samples, Skip, Batch, Numbers, Measures, Epoch, End)}
_ALWAYS_WRITTEN = {"lr", "loss", "accuracy"}
"""Fields that are written as null where they are None."""
_NAMES = {kind: tuple(one.name for one in fields(kind)) for kind in KINDS.values()}
_VALUES: dict[type[Any], Callable[[Any], tuple[Any, ...]]] = {kind: attrgetter(*names) for kind, names in _NAMES.items()}
_MAY_BE_NONFINITE = {
    kind: [one.name for one in fields(kind) if one.name in FLOATS | NAMED or float in (one.type, *get_args(one.type))]
    for kind in KINDS.values()
}


def sample_names(batch: AnyBatch) -> Sequence[str]:
    """Return the name of each sample [B]: its file, else its id."""
    return batch.files if batch.files is not None else [str(one) for one in batch.ids]


class Encoded(NamedTuple):
    """A line as it is written, newline included, and its chain (16 bytes), which the next line needs."""

    line: bytes
    chain: bytes


def encode(record: Record, *, seq: int, previous: bytes) -> Encoded:
    """Encode `record` as line number `seq` (from 0), after the line whose chain is `previous`."""
    kind = type(record)
    values = zip(_NAMES[kind], _VALUES[kind](record), strict=True)
    body: dict[str, Any] = {"seq": seq, "kind": record.kind}
    body |= {name: value for name, value in values if value is not None or name in _ALWAYS_WRITTEN}
    if "inputs" in body:
        body["inputs"] = inputs_to_json(body["inputs"])
    text = dumps(body)
    numbers = _MAY_BE_NONFINITE[kind]
    for name in numbers:
        value = body.get(name)
        if value is not None and not is_finite(value):
            nonfinite = {name: texts for name in numbers if (texts := nonfinite_values(body.get(name)))}
            text = dumps(body | {"nonfinite": nonfinite}) if nonfinite else text
            break
    start = memoryview(text)[:-1]
    chain = link(previous, start)
    return Encoded(b"".join((start, b',"chain":"', chain.hex().encode(), b'"}\n')), chain)


def decode(line: bytes) -> tuple[int, Record]:
    """Decode one line into (seq, record); arrays come back as float32 and int64.

    The chain is not checked, since that needs the line before (capture_cli.records.chain). Raises RecordsError for anything
    that `encode` cannot have written, FormatError for a run in another format.
    """
    envelope = open_envelope(line)
    cls = KINDS.get(envelope.kind)
    if cls is None:
        raise RecordsError(f"unknown kind of record: {envelope.kind!r}", "read it with a newer version of capture")
    body = loads(line)
    if cls is RunInfo and body.get("format") != FORMAT:
        raise _other_format(body.get("format"))
    try:
        nonfinite = body.get("nonfinite", {})
        values = {name: to_field(name, body[name], nonfinite.get(name, ())) for name in _NAMES[cls] if name in body}
        if cls in (Batch, Numbers, Measures):
            values["inputs"] = Inputs(**values["inputs"])
        record: Record = cls(**values)
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError, StopIteration) as error:
        raise RecordsError(f"the fields of this {envelope.kind} record are not those of format {FORMAT}") from error
    return envelope.seq, record


def _other_format(number: object) -> FormatError:
    age = "an older" if isinstance(number, int) and number < FORMAT else "another"
    return FormatError(
        f"written by {age} version of capture (record format {number}; this version reads format {FORMAT})",
        "read it with the version that wrote it, or train again",
    )
