"""The run that `--resume` continues: its state on disk, and whether today's options, images and software continue it.

previous = read_previous_run(folder)            # its options, its files, its position
check_continuation(previous, run_info, ...)     # raises, naming what differs
"""

import math
import shlex
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from capture_cli.answers.best import BestEpochs
from capture_cli.checkpoint import Checkpoint, Progress, load
from capture_cli.config import EVALUATIONS
from capture_cli.errors import DataError, FormatError, RecordsError, UsageError
from capture_cli.journal import BEGINNING, JournalPosition, Tail, VerifiedLine, verified_lines
from capture_cli.records import Batch, End, Epoch, Record, RunInfo, Samples, Skip, decode
from capture_cli.records.checking import check
from capture_cli.records.comparing import changes
from capture_cli.records.values import inputs_to_json
from capture_cli.runfolder import RECORDS
from capture_cli.writer.kept_inputs import FLIGHT, PACK

ENVIRONMENT = ("versions", "device", "threads", "model.initial_digest")
"""Fields of the run record, and one value in a field, that may differ with `--allow-env-change`."""
CODE = "code_digest"
"""The digest of the file of code, in the `model` of a run record."""
_ALWAYS_DECODED = {RunInfo.kind, Samples.kind, Skip.kind, Epoch.kind, End.kind}
_BYTES_PER_VALUE = {"float32": 4}

FileDigests = Mapping[str, str | None]
"""File -> digest of its bytes, None if it could not be used."""


@dataclass(frozen=True, kw_only=True)
class PreviousRun:
    """A run folder as an earlier process left it."""

    folder: Path
    info: RunInfo | None
    """The last run record; None where not even the first line is complete."""
    checkpoint: Checkpoint | None
    files: FileDigests
    """Files that were read before the checkpoint."""
    later_files: FileDigests
    """Files that were first read after it."""
    stored: Mapping[str, Mapping[str, int]]
    """Inputs stored before the checkpoint, by file in inputs/: digest -> offset in bytes."""
    epochs: Sequence[Epoch]
    """The totals of the phases before the checkpoint."""
    completed: bool
    position: JournalPosition
    """The position at which its journal continues."""
    repeats_info: bool
    """Continues with a run record that is on disk already: of more epochs or another environment, cut off soon after it."""

    @property
    def progress(self) -> Progress:
        """The first batch to compute."""
        return self.checkpoint.progress if self.checkpoint else Progress()

    @property
    def sentence(self) -> str:
        """A note for people: the batch at which the run continues."""
        if self.checkpoint is None:
            return "resuming from the beginning: there is no checkpoint"
        return f"resuming at {self.progress.phase} batch {self.progress.batch} of epoch {self.progress.epoch}"


def read_previous_run(folder: Path) -> PreviousRun:
    """Read what is needed to continue the run in `folder`.

    Raises UsageError if there is none, FormatError if another version wrote it, and RecordsError if its records do not verify,
    naming the line, or the checkpoint does not belong to them.
    """
    path = folder / RECORDS
    if not path.is_file():
        raise UsageError(f"'{folder}' is not a run folder: it has no {RECORDS}", "give --resume the folder of a run")
    _refuse_other_format(path)
    checkpoint = load(folder)
    until = checkpoint.progress.journal["bytes"] if checkpoint else 0
    files, later_files = dict[str, str | None](), dict[str, str | None]()
    stored, stored_bytes = defaultdict[str, dict[str, int]](dict), defaultdict[str, int](int)
    info, last, completed, restart, epochs = None, None, False, None, list[Epoch]()
    try:
        with path.open("rb") as lines:
            for line in verified_lines(lines):
                is_later = line.start["bytes"] >= until
                if line.kind in (Batch.kind, Epoch.kind) and not is_later:
                    last = line
                has_stored = b'"stored":' in line.data and not is_later
                record = _decoded(line) if line.kind in _ALWAYS_DECODED or has_stored else None
                completed = isinstance(record, End) and record.status == "completed"
                if isinstance(record, Epoch) and not is_later:
                    epochs.append(record)
                if isinstance(record, RunInfo):
                    info, restart = record, line.start if checkpoint and is_later else None
                elif isinstance(record, Samples):
                    (later_files if is_later else files).update(zip(record.files, record.digests, strict=True))
                elif isinstance(record, Skip):
                    (later_files if is_later else files)[record.file] = None
                elif isinstance(record, Batch):
                    for inputs in _stored_inputs(line, record):
                        stored[inputs.pack].update(inputs.offsets)
                        stored_bytes[inputs.pack] = max(stored_bytes[inputs.pack], inputs.end)
        last_record = _decoded(last) if last else None
    except RecordsError as error:
        saves = f"`capture verify {shlex.quote(str(folder))} --repair NEWFILE` saves the lines before it"
        hint = error.hint or (saves if error.line > 1 else "restore the file as it was")
        raise RecordsError(f"'{path}' is damaged: {error.message}", hint, line=error.line) from error
    if checkpoint and info and not _can_follow(checkpoint.progress, last_record, stored_bytes, info):
        raise RecordsError(f"the checkpoint does not belong to the records in '{path}'", "restore the run folder as it was")
    position: JournalPosition = checkpoint.progress.journal if checkpoint else BEGINNING  # type: ignore[assignment]
    return PreviousRun(
        folder=folder,
        info=info,
        checkpoint=checkpoint,
        files=files,
        later_files=later_files,
        stored=stored,
        epochs=epochs,
        completed=completed,
        position=restart or position,
        repeats_info=restart is not None,
    )


def _refuse_other_format(path: Path) -> None:
    """Raise FormatError for a run of another version, before its checkpoint and its other records are read."""
    with path.open("rb") as lines:
        try:
            decode(lines.readline())
        except FormatError as error:
            raise FormatError(f"'{path}': {error.message}", error.hint) from error
        except RecordsError:
            pass  # the loop over all lines raises it again and names the line


def _decoded(line: VerifiedLine) -> Record:
    try:
        record = decode(line.data)[1]
        check(record)
    except RecordsError as error:
        raise _at(line, error.message, error.hint) from error
    return record


def _at(line: VerifiedLine, message: str, hint: str = "") -> RecordsError:
    number = line.end["seq"]
    return RecordsError(f"line {number}: {message}", hint, line=number)


def _can_follow(progress: Progress, last: Record | None, stored_bytes: Mapping[str, int], info: RunInfo) -> bool:
    """Return True if a run can be at `progress` after this batch or epoch record and so many bytes of stored inputs."""
    if (stored_bytes.get(PACK, 0), stored_bytes.get(FLIGHT, 0)) != (progress.writer["pack"], progress.writer["flight"]):
        return False
    if isinstance(last, Epoch):
        return (progress.epoch, progress.phase, progress.batch) == (last.epoch + 1, "train", 0)
    if not isinstance(last, Batch):
        return False
    thinned = progress.phase == "train" or EVALUATIONS not in info.config
    every, batches = info.config.get("capture_every") if thinned else 1, progress.batch - last.batch
    steps = batches if progress.phase == "train" else 0
    return (
        (progress.phase, progress.epoch, progress.writer["step"]) == (last.phase, last.epoch, last.step + steps)
        and isinstance(every, int)
        and 1 <= batches <= every
    )


class _InputOffsets(NamedTuple):
    """Inputs that a batch record says are stored."""

    pack: str
    """The file in inputs/."""
    offsets: Mapping[str, int]
    """Digest -> offset in bytes."""
    end: int
    """The end of the last of them, in bytes."""


def _stored_inputs(line: VerifiedLine, batch: Batch) -> Iterator[_InputOffsets]:
    """Yield those of the batch, and of the one before it that the flight recorder stored. Raises RecordsError."""
    try:
        before = (batch.flight or {}).get("before") or {"inputs": {}}
        for inputs in (inputs_to_json(batch.inputs), before["inputs"]):
            where = inputs.get("stored")
            if where is None:
                continue
            offsets = dict(zip(inputs["digests"], where["offsets"], strict=True))
            end = max(offsets.values()) + _BYTES_PER_VALUE[inputs["dtype"]] * math.prod(inputs["shape"])
            if not all(type(number) is int and 0 <= number < 2**53 for number in (*offsets.values(), end)):
                raise _at(line, "a batch record whose offsets are not valid")
            yield _InputOffsets(Path(where["pack"]).name, offsets, end)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _at(line, "a batch record whose stored inputs do not fit") from error


def check_continuation(
    previous: PreviousRun, info: RunInfo, files: Collection[str], *, allow_env_change: bool
) -> tuple[list[str], Tail]:
    """Check that this is the same run; return warnings, and how the journal treats the records after the checkpoint.

    `info` is the run record as it would be written today, `files` are today's images. Raises UsageError, naming what differs,
    for other options (a completed run may get more epochs), or another environment unless that is allowed, and DataError for
    images that are gone or new.
    """
    before = previous.info
    warnings = []
    if previous.checkpoint and previous.checkpoint.damaged:
        warnings.append(f"the last checkpoint is damaged, the one before it is used ({previous.checkpoint.damaged})")
    if before is None:
        return warnings, "compare"
    epochs = before.config.get("epochs")
    if not isinstance(epochs, int):
        raise UsageError(f"'{previous.folder}' is not a training: its run record has no epochs", "start a new run")
    if previous.completed and not info.config["epochs"] > epochs:
        raise UsageError(
            f"'{previous.folder}' has completed its {epochs} epochs", f"add more with --epochs, such as {epochs + 1}"
        )
    if previous.completed and (ended := _exhausted(previous.epochs, before.config)):
        raise UsageError(f"'{previous.folder}' ended early: {ended}", "start a new run with more --patience")
    if previous.completed and (previous.checkpoint is None or previous.progress.epoch <= epochs):  # the last one is damaged
        raise UsageError(
            f"'{previous.folder}' has no checkpoint of its end to add epochs to", "start a new run with more --epochs"
        )
    if previous.completed:
        before = replace(before, config={**before.config, "epochs": info.config["epochs"]})
        if (sched := info.config.get("sched")) != "constant":
            warnings.append(
                f"the learning rate goes on as in the {sched} schedule of {info.config['epochs']} epochs, above where it had "
                "ended: this is not what so many epochs at once would give"
            )
    environment = _differences(previous, before, info, files, allow_env_change=allow_env_change)
    warnings += [f"from here on {text}" for text in environment]
    return warnings, "keep" if previous.completed else "set aside" if environment else "compare"


def is_done(previous: PreviousRun, info: RunInfo, files: Collection[str], *, allow_env_change: bool) -> bool:
    """Return True if the run has completed as many epochs as `info` says, or ended early, with the same images and options.

    Raises as `check_continuation` where they are not the same.
    """
    before, epochs = previous.info, info.config["epochs"]
    if before is None or not previous.completed:
        return False
    if before.config.get("epochs") != epochs and not _exhausted(previous.epochs, before.config):
        return False
    before = replace(before, config={**before.config, "epochs": epochs})
    _differences(previous, before, info, files, allow_env_change=allow_env_change)
    return True


def as_begun(info: RunInfo, before: RunInfo | None) -> RunInfo:
    """Return the run record of a run that continues, as the version of capture that began it writes `info`.

    Earlier versions recorded the augmentations as they were typed and `lr` at another place, thinned evaluations as well as
    batches of training, and had no digest of a model's code.
    """
    if before is None:
        return info
    config, model = dict(info.config), dict(info.model)
    if CODE not in before.model:
        model.pop(CODE, None)
    if "augment" in config and "augment" in before.config:
        config["augment"] = before.config["augment"]
    if EVALUATIONS not in before.config:
        config.pop(EVALUATIONS, None)
    order = dict.fromkeys([*before.config, *config])
    return replace(info, config={name: config[name] for name in order if name in config}, model=model)


def _differences(
    previous: PreviousRun, before: RunInfo, info: RunInfo, files: Collection[str], *, allow_env_change: bool
) -> list[str]:
    """Raise where `info` and `files` are of another run than `before`; return differences of the environment, if allowed."""
    options, environment = list[str](), list[str]()
    for change in changes(before, as_begun(info, before)):
        named = {change.name, change.name.partition(".")[0]}
        same_file = change.name == f"model.{CODE}" and change.now and before.model.get("name") == info.model["name"]
        text = f"{info.model['name'].rpartition(':')[0]} has changed since it began" if same_file else str(change)
        (environment if named.intersection(ENVIRONMENT) else options).append(text)
    if images := _changed_images(previous, before, files):  # other differences may follow from this one
        hint = "put them back, name the folder where they are now with --folder, or start a new run"
        raise DataError(f"the images are not those of the run: {'; '.join(images)}", hint)
    if options:
        hint = "resume with the options, images and code it began with, or start a new run"
        raise UsageError(f"this would be another run: {'; '.join(options)}", hint)
    if environment and not allow_env_change:
        message = f"results may differ: {'; '.join(environment)}"
        same = f"--threads {before.threads} computes as the run did; " if before.threads != info.threads else ""
        raise UsageError(message, f"{same}--allow-env-change resumes anyway and says so in the records")
    return environment


def _exhausted(epochs: Sequence[Epoch], config: Mapping[str, object]) -> str:
    """Describe why `--patience` ended a training after these phases; empty if it did not."""
    best = BestEpochs(config.get("best"))
    for one in epochs:
        best.update(one)
    patience = config.get("patience")
    if not isinstance(patience, int) or not 0 < patience <= best.epochs_since:
        return ""
    return f"its {patience} last epochs brought nothing better"


def _changed_images(previous: PreviousRun, info: RunInfo, files: Collection[str]) -> list[str]:
    """List images that are gone and images that are new, as far as the records tell: they name only files that were read."""
    read = {**previous.files, **previous.later_files}
    gone = sorted(file for file, digest in read.items() if digest is not None and file not in files)
    seen = sum(digest is not None or file in files for file, digest in read.items())
    total = sum(count for name, count in info.images.items() if name != "listing_digest" and isinstance(count, int))
    new = sorted(set(files) - read.keys()) if seen == total else []  # else the run may not have read them yet
    return [
        f"'{names[0]}'{f' and {len(names) - 1:,} more' if len(names) > 1 else ''} {what}"
        for names, what in ((gone, "gone"), (new, "new"))
        if names
    ]
