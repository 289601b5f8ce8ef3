"""What an earlier process of the same run left, and whether the run that goes on now is the same run.

earlier = read_earlier(folder)                  # its options, its samples, where it stopped
continuation(earlier, run_record, ...)          # raises, naming what differs
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from capture_cli.checkpoint import Checkpoint, load
from capture_cli.comparing import changes
from capture_cli.errors import RecordsError, UsageError
from capture_cli.fields import check
from capture_cli.journal import BEGINNING, Rest
from capture_cli.records import Batch, End, Record, Run, Samples, Skip, decode, follow
from capture_cli.runfolder import RECORDS

_WANTED = {Run.kind, Samples.kind, Skip.kind, End.kind}

ENVIRONMENT = ("versions", "device", "threads")
"""Fields of a run record that `--allow-env-change` lets differ."""


@dataclass(frozen=True, kw_only=True)
class Earlier:
    """A run folder as it was found."""

    folder: Path
    run: Run | None
    """None where not even the first line was written."""
    checkpoint: Checkpoint | None
    known: Mapping[str, str | None]
    """What was found out before the checkpoint: file -> digest of its bytes, or None if it could not be used."""
    later: Mapping[str, str | None]
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
        return f"going on from epoch {place.epoch + 1}, {place.phase} batch {place.batch}"

    @property
    def place(self) -> Mapping[str, Any]:
        """Where its journal goes on."""
        return self.begun_again or (self.checkpoint.place.journal if self.checkpoint else BEGINNING)


def read_earlier(folder: Path) -> Earlier:
    """Read what is needed to go on with the run in `folder`.

    Raises UsageError if there is none, RecordsError, naming the line, where its records do not verify.
    """
    path = folder / RECORDS
    if not path.is_file():
        raise UsageError(f"'{folder}' is no run folder: there is no {RECORDS} in it", "give --resume the folder of a run")
    checkpoint = load(folder)
    until = checkpoint.place.journal["bytes"] if checkpoint else 0
    known, later, stored = dict[str, str | None](), dict[str, str | None](), defaultdict[str, dict[str, int]](dict)
    run, completed, begun_again = None, False, None
    try:
        for place, record in _records(path):
            behind = place["bytes"] >= until
            if isinstance(record, Run):
                run, begun_again = record, place if checkpoint and behind else None
            elif isinstance(record, Samples):
                (later if behind else known).update(zip(record.files, record.digests, strict=True))
            elif isinstance(record, Skip):
                (later if behind else known)[record.file] = None
            elif isinstance(record, Batch) and not behind:
                for digests, where in _stored(record):
                    stored[Path(where["pack"]).name].update(zip(digests, where["offsets"], strict=True))
            completed = isinstance(record, End) and record.status == "completed"
    except RecordsError as error:
        hint = f"capture verify {folder} --repair NEWFILE saves what verifies"
        raise RecordsError(f"'{path}' is damaged: {error.message}", hint, line=error.line) from error
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


def _records(path: Path) -> Iterator[tuple[Mapping[str, Any], Record | None]]:
    """The whole lines that verify, each with its place: its record, or None for a batch without stored inputs and for sums."""
    place: dict[str, Any] = dict(BEGINNING)
    with path.open("rb") as lines:
        for line in lines:
            if not line.endswith(b"\n"):
                return
            envelope = follow(line, seq=place["seq"], previous=bytes.fromhex(place["chain"]))
            wanted = envelope.kind in _WANTED or (envelope.kind == Batch.kind and b'"stored":' in line)
            try:
                record = decode(line)[1] if wanted else None
                if record:
                    check(record)
            except RecordsError as error:
                number = place["seq"] + 1
                raise RecordsError(f"line {number}: {error.message}", error.hint, line=number) from error
            yield place, record
            place = {"seq": place["seq"] + 1, "bytes": place["bytes"] + len(line), "chain": envelope.chain.hex()}


def _stored(batch: Batch) -> list[tuple[Sequence[str], Mapping[str, Any]]]:
    """The digests of the inputs that a batch record points at, and where they are."""
    before = ((batch.flight or {}).get("before") or {}).get("inputs", {})
    both = [(batch.inputs.digests, batch.inputs.stored), (before.get("digests", ()), before.get("stored"))]
    return [(digests, where) for digests, where in both if where]


def continuation(earlier: Earlier, now: Run, *, allow_env_change: bool) -> tuple[list[str], Rest]:
    """Warnings, and what becomes of the records behind its checkpoint.

    `now` is the run record as it would be written today. Raises UsageError, naming what differs, where that would be another
    run: other options (a completed run may get more epochs), other images, or an environment in which results may come out
    otherwise, unless that is allowed.
    """
    before, place = earlier.run, earlier.checkpoint.place if earlier.checkpoint else None
    doubts = []
    if earlier.checkpoint and earlier.checkpoint.damaged:
        doubts.append(f"a checkpoint is damaged, the one before it is used ({earlier.checkpoint.damaged})")
    if before is None:
        return doubts, "compare"
    if earlier.completed and not now.config["epochs"] > before.config["epochs"]:
        raise UsageError(f"'{earlier.folder}' is completed: {before.config['epochs']} epochs", "give more with --epochs")
    if earlier.completed and (place is None or place.epoch < before.config["epochs"]):  # the last one may be damaged
        raise UsageError(
            f"'{earlier.folder}' has no checkpoint of its end to add epochs to", "start a new run with more --epochs"
        )
    options, environment = _changes(before, now, may_have_more_epochs=earlier.completed)
    if options:
        raise UsageError(f"this would be another run: {'; '.join(options)}", "give the options and images it began with")
    if environment and not allow_env_change:
        message = f"results might not be the same: {'; '.join(environment)}"
        raise UsageError(message, "--allow-env-change goes on and says so in the records")
    doubts += [f"from here on {text}" for text in environment]
    return doubts, "keep" if earlier.completed else "aside" if environment else "compare"


def _changes(before: Run, now: Run, *, may_have_more_epochs: bool) -> tuple[list[str], list[str]]:
    """What differs in options and images, and what in the environment."""
    if may_have_more_epochs:
        before = replace(before, config={**before.config, "epochs": now.config["epochs"]})
    options: list[str] = []
    environment: list[str] = []
    for change in changes(before, now):
        (environment if change.name.partition(".")[0] in ENVIRONMENT else options).append(str(change))
    return options, environment
