"""What an earlier process of the same run left, and whether the run that goes on now is the same run.

earlier = read_earlier(folder)                  # its options, its samples, where it stopped
continuation(earlier, run_record, ...)          # raises, naming what differs
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from capture_cli.checkpoint import Checkpoint, load
from capture_cli.errors import RecordsError, UsageError
from capture_cli.journal import BEGINNING, Rest
from capture_cli.records import Batch, End, Run, Samples, Skip, decode, open_envelope
from capture_cli.runfolder import RECORDS

T = TypeVar("T", Run, Samples, Skip, Batch, End)

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
    stored: Mapping[str, Mapping[str, int]]
    """Inputs kept before the checkpoint, by file below inputs/: digest -> offset."""
    completed: bool

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
        return self.checkpoint.place.journal if self.checkpoint else BEGINNING


def read_earlier(folder: Path) -> Earlier:
    """Read what is needed to go on with the run in `folder`.

    Raises UsageError if there is none, RecordsError where its records cannot be read; that they verify is the journal's to say.
    """
    path = folder / RECORDS
    if not path.is_file():
        raise UsageError(f"'{folder}' is no run folder: there is no {RECORDS} in it", "give --resume the folder of a run")
    checkpoint = load(folder)
    until = checkpoint.place.journal["bytes"] if checkpoint else 0
    run, known, stored, completed, offset = None, dict[str, str | None](), defaultdict[str, dict[str, int]](dict), False, 0
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.endswith(b"\n"):
                break
            try:
                kind = open_envelope(line).kind
                if kind == Run.kind:
                    run = _decoded(line, Run)
                elif kind == Samples.kind and offset < until:
                    samples = _decoded(line, Samples)
                    known.update(zip(samples.files, samples.digests, strict=True))
                elif kind == Skip.kind and offset < until:
                    known[_decoded(line, Skip).file] = None
                elif kind == Batch.kind and offset < until and b'"stored":' in line:
                    for digests, where in _stored(_decoded(line, Batch)):
                        stored[Path(where["pack"]).name].update(zip(digests, where["offsets"], strict=True))
                completed = kind == End.kind and _decoded(line, End).status == "completed"
            except RecordsError as error:
                message = f"'{path}' is damaged at line {number}: {error.message}"
                raise RecordsError(
                    message, f"capture verify {folder} --repair NEWFILE saves what verifies", line=number
                ) from error
            offset += len(line)
    return Earlier(folder=folder, run=run, checkpoint=checkpoint, known=known, stored=stored, completed=completed)


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
    if earlier.completed and place is None:
        raise UsageError(f"'{earlier.folder}' has no checkpoint to add epochs to", "start a new run with more --epochs")
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
    options: list[str] = []
    environment: list[str] = []
    for field in fields(Run):
        was, is_now = getattr(before, field.name), getattr(now, field.name)
        if field.name == "config" and may_have_more_epochs:
            was = dict(was) | {"epochs": is_now["epochs"]}
        if was != is_now:
            (environment if field.name in ENVIRONMENT else options).extend(_differences(field.name, was, is_now))
    return options, environment


def _differences(name: str, was: Any, is_now: Any) -> list[str]:
    if isinstance(was, Mapping) and isinstance(is_now, Mapping):
        keys = [*was, *(key for key in is_now if key not in was)]
        return [f"{name}.{key} was {was.get(key)}, is {is_now.get(key)}" for key in keys if was.get(key) != is_now.get(key)]
    if isinstance(was, Sequence) and not isinstance(was, str):
        return [f"{name} were {', '.join(map(str, was))}, are {', '.join(map(str, is_now))}"]
    return [f"{name} was {was}, is {is_now}"]


def _decoded(line: bytes, kind: type[T]) -> T:
    record = decode(line)[1]
    if not isinstance(record, kind):
        raise RecordsError(f"not a {kind.__name__} record")
    return record
