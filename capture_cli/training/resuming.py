"""What an earlier process of the same run left, and whether the run that goes on now is the same run.

earlier = read_earlier(folder)                  # its options, its samples, where it stopped
continuation(earlier, run_record, ...)          # raises, naming what differs
"""

import math
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from capture_cli.checkpoint import Checkpoint, Place, load
from capture_cli.errors import DataError, FormatError, RecordsError, UsageError
from capture_cli.journal import BEGINNING, Rest
from capture_cli.records import Batch, End, Epoch, Record, RunInfo, Samples, Skip, decode, inputs_to_json
from capture_cli.records.chain import follow
from capture_cli.records.checking import check
from capture_cli.records.comparing import changes
from capture_cli.runfolder import RECORDS
from capture_cli.writer.kept_inputs import FLIGHT, PACK

_WANTED = {RunInfo.kind, Samples.kind, Skip.kind, End.kind}
_COUNTED = {Batch.kind, Epoch.kind}
_NUMBER_BYTES = {"float32": 4}
"""Of one number of an input, by dtype."""

ENVIRONMENT = ("versions", "device", "threads")
"""Fields of a run record that `--allow-env-change` lets differ."""


@dataclass(frozen=True, kw_only=True)
class Earlier:
    """A run folder as it was found."""

    folder: Path
    run: RunInfo | None
    """None where not even the first line was written."""
    checkpoint: Checkpoint | None
    known: dict[str, str | None]
    """What was found out before the checkpoint: file -> digest of its bytes, or None if it could not be used."""
    later: dict[str, str | None]
    """The same of files that were first read behind it."""
    stored: Mapping[str, Mapping[str, int]]
    """Inputs kept before the checkpoint, by file below inputs/: digest -> offset."""
    completed: bool
    begun_again: Mapping[str, Any] | None
    """The place of a run record behind the checkpoint: of more epochs, or of another environment, that had not come far."""

    @property
    def sentence(self) -> str:
        """Where it goes on, for a person."""
        if self.checkpoint is None:
            return "going on from the beginning: there is no checkpoint"
        place = self.checkpoint.place
        return f"going on from {place.phase} batch {place.batch + 1} of epoch {place.epoch}"

    @property
    def place(self) -> Mapping[str, Any]:
        """Where its journal goes on."""
        return self.begun_again or (self.checkpoint.place.journal if self.checkpoint else BEGINNING)


def read_earlier(folder: Path) -> Earlier:
    """Read what is needed to go on with the run in `folder`.

    Raises UsageError if there is none, RecordsError, naming the line, where its records do not verify, and where the
    checkpoint is not of them.
    """
    path = folder / RECORDS
    if not path.is_file():
        raise UsageError(f"'{folder}' is no run folder: there is no {RECORDS} in it", "give --resume the folder of a run")
    _refuse_another_format(path)
    checkpoint = load(folder)
    until = checkpoint.place.journal["bytes"] if checkpoint else 0
    known, later = dict[str, str | None](), dict[str, str | None]()
    stored, lengths = defaultdict[str, dict[str, int]](dict), defaultdict[str, int](int)
    run, last, completed, begun_again = None, None, False, None
    try:
        for line in _lines(path):
            behind = line.place["bytes"] >= until
            if line.kind in _COUNTED and not behind:
                last = line
            record = line.record() if line.kind in _WANTED or (b'"stored":' in line.data and not behind) else None
            if isinstance(record, RunInfo):
                run, begun_again = record, line.place if checkpoint and behind else None
            elif isinstance(record, Samples):
                (later if behind else known).update(zip(record.files, record.digests, strict=True))
            elif isinstance(record, Skip):
                (later if behind else known)[record.file] = None
            elif isinstance(record, Batch):
                for kept in _stored(line, record):
                    stored[kept.pack].update(kept.offsets)
                    lengths[kept.pack] = max(lengths[kept.pack], kept.end)
            completed = isinstance(record, End) and record.status == "completed"
        before = last.record() if last else None
    except RecordsError as error:
        hint = f"capture verify {folder} --repair NEWFILE saves what verifies"
        raise RecordsError(f"'{path}' is damaged: {error.message}", hint, line=error.line) from error
    if checkpoint and run and not _leads_to(before, lengths, checkpoint.place, run):
        raise RecordsError(f"the checkpoint is not of the records in '{path}'", "give the run folder as it was")
    return Earlier(
        folder=folder,
        run=run,
        checkpoint=checkpoint,
        known=known,
        later=later,
        stored=stored,
        completed=completed,
        begun_again=begun_again,
    )


def _refuse_another_format(path: Path) -> None:
    """Raise FormatError for a run of another version, before its checkpoint and its other records are read."""
    with path.open("rb") as lines:
        try:
            decode(lines.readline())
        except FormatError as error:
            raise FormatError(f"'{path}': {error.message}", error.hint) from error
        except RecordsError:
            pass  # it is read again below, which names the line


class _Line(NamedTuple):
    """A line that verifies."""

    place: Mapping[str, Any]
    """Where it begins."""
    kind: str
    data: bytes

    def record(self) -> Record:
        """What it says. Raises RecordsError where that makes no sense."""
        try:
            record = decode(self.data)[1]
            check(record)
        except RecordsError as error:
            raise self.error(error.message, error.hint) from error
        return record

    def error(self, message: str, hint: str = "") -> RecordsError:
        """Something is wrong with it."""
        number = self.place["seq"] + 1
        return RecordsError(f"line {number}: {message}", hint, line=number)


def _lines(path: Path) -> Iterator[_Line]:
    """The whole lines of a file, each verified. Raises RecordsError at the first that does not verify."""
    place: dict[str, Any] = dict(BEGINNING)
    with path.open("rb") as lines:
        for data in lines:
            if not data.endswith(b"\n"):
                return
            envelope = follow(data, seq=place["seq"], previous=bytes.fromhex(place["chain"]))
            yield _Line(place, envelope.kind, data)
            place = {"seq": place["seq"] + 1, "bytes": place["bytes"] + len(data), "chain": envelope.chain.hex()}


def _leads_to(last: Record | None, lengths: Mapping[str, int], place: Place, run: RunInfo) -> bool:
    """Whether a run may be at `place` after this batch or epoch record, with kept inputs that take so many bytes."""
    if (lengths.get(PACK, 0), lengths.get(FLIGHT, 0)) != (place.recorder["pack"], place.recorder["flight"]):
        return False
    if isinstance(last, Epoch):
        return (place.epoch, place.phase, place.batch) == (last.epoch + 1, "train", 0)
    if not isinstance(last, Batch):
        return False
    every, further = run.config.get("capture_every"), place.batch - last.batch
    steps = further if place.phase == "train" else 0
    return (
        (place.phase, place.epoch, place.recorder["step"]) == (last.phase, last.epoch, last.step + steps)
        and isinstance(every, int)
        and 1 <= further <= every
    )


class _Stored(NamedTuple):
    """Inputs that a batch record says are kept."""

    pack: str
    """The file below inputs/."""
    offsets: Mapping[str, int]
    """Digest -> offset in bytes."""
    end: int
    """Where the last of them ends."""


def _stored(line: _Line, batch: Batch) -> Iterator[_Stored]:
    """Those of the batch, and of the one before it where the flight recorder kept that. Raises RecordsError."""
    try:
        before = (batch.flight or {}).get("before") or {"inputs": {}}
        for inputs in (inputs_to_json(batch.inputs), before["inputs"]):
            where = inputs.get("stored")
            if where is None:
                continue
            offsets = dict(zip(inputs["digests"], where["offsets"], strict=True))
            size = _NUMBER_BYTES[inputs["dtype"]] * math.prod(inputs["shape"])
            kept = _Stored(Path(where["pack"]).name, offsets, max(offsets.values()) + size)
            if not all(type(number) is int and 0 <= number < 2**53 for number in (*offsets.values(), kept.end)):
                raise line.error("a batch record whose offsets are none")
            yield kept
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise line.error("a batch record whose stored inputs do not fit") from error


def continuation(earlier: Earlier, now: RunInfo, files: Collection[str], *, allow_env_change: bool) -> tuple[list[str], Rest]:
    """Warnings, and what becomes of the records behind its checkpoint.

    `now` is the run record as it would be written today, `files` are the images of today. Raises UsageError, naming what
    differs, where that would be another run: other options (a completed run may get more epochs), or an environment in which
    results may come out otherwise, unless that is allowed; DataError, naming images that are gone or new.
    """
    before, place = earlier.run, earlier.checkpoint.place if earlier.checkpoint else None
    epochs = before.config.get("epochs") if before else None
    doubts = []
    if earlier.checkpoint and earlier.checkpoint.damaged:
        doubts.append(f"a checkpoint is damaged, the one before it is used ({earlier.checkpoint.damaged})")
    if before is None:
        return doubts, "compare"
    if not isinstance(epochs, int):
        raise UsageError(f"'{earlier.folder}' is of no training: its run record has no epochs", "start a new run")
    if earlier.completed and not now.config["epochs"] > epochs:
        raise UsageError(f"'{earlier.folder}' is completed: {epochs} epochs", "give more with --epochs")
    if earlier.completed and (place is None or place.epoch <= epochs):  # the last one may be damaged
        raise UsageError(
            f"'{earlier.folder}' has no checkpoint of its end to add epochs to", "start a new run with more --epochs"
        )
    options, environment = _changes(before, now, may_have_more_epochs=earlier.completed)
    if images := _other_images(earlier, before, files):  # whatever else differs may be what comes of it
        raise DataError(f"the images are not those of the run: {'; '.join(images)}", "put them back, or start a new run")
    if options:
        raise UsageError(f"this would be another run: {'; '.join(options)}", "give the options and images it began with")
    if environment and not allow_env_change:
        message = f"results might not be the same: {'; '.join(environment)}"
        raise UsageError(message, "--allow-env-change goes on and says so in the records")
    doubts += [f"from here on {text}" for text in environment]
    return doubts, "keep" if earlier.completed else "aside" if environment else "compare"


def _other_images(earlier: Earlier, run: RunInfo, files: Collection[str]) -> list[str]:
    """Which images are gone and which are new, as far as the records can tell: none but those that were read is named."""
    read = earlier.known | earlier.later
    gone = sorted(file for file, digest in read.items() if digest is not None and file not in files)
    there = sum(digest is not None or file in files for file, digest in read.items())
    total = sum(count for name, count in run.images.items() if name != "listing_digest" and isinstance(count, int))
    new = sorted(set(files) - read.keys()) if there == total else []  # else some of these it had not come to yet
    return [
        f"'{names[0]}'{f' and {len(names) - 1:,} more' if len(names) > 1 else ''} {what}"
        for names, what in ((gone, "gone"), (new, "new"))
        if names
    ]


def _changes(before: RunInfo, now: RunInfo, *, may_have_more_epochs: bool) -> tuple[list[str], list[str]]:
    """What differs in options and images, and what in the environment."""
    if may_have_more_epochs:
        before = replace(before, config={**before.config, "epochs": now.config["epochs"]})
    options: list[str] = []
    environment: list[str] = []
    for change in changes(before, now):
        (environment if change.name.partition(".")[0] in ENVIRONMENT else options).append(str(change))
    return options, environment
