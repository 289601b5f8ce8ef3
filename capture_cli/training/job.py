"""One whole run: the device, the model, the output, and how it ends.

    ready = prepare(plan)                                # capture_cli.training.preparing
    run_training(ready, Session(output, view, stopping), every=every, resources=resources)

Whatever ends a run, its records are sealed with its status, as far as they can still be written.
"""

import contextlib
import functools
import os
import platform
import sys
import threading
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import Any, Protocol

import torch
from torch import nn

from capture_cli.answers.best import BestEpochs
from capture_cli.checkpoint import Progress, save
from capture_cli.config import EVALUATIONS, Every
from capture_cli.errors import CaptureError
from capture_cli.mixing import Mixing
from capture_cli.models.pretrained import Initial
from capture_cli.models.saved import ModelHeader, to_bytes
from capture_cli.pixels.store import Store, open_store
from capture_cli.records import Epoch, RunInfo, Skip
from capture_cli.resources import Resources
from capture_cli.runfolder import BEST, MODEL, Output
from capture_cli.training import BEGINNING, Setup, Stopped, evaluate, train
from capture_cli.training.batches import Data
from capture_cli.training.best import Best
from capture_cli.training.loading import Trained
from capture_cli.training.preparing import Ready, make_learning
from capture_cli.training.resuming import PreviousRun, as_begun
from capture_cli.training.seen import trained_digests
from capture_cli.writer import BatchWriter
from capture_cli.writer.sink import Sink

BATCHING_SECONDS = 0.05
"""Records of batches on the CPU wait this long to be written together."""


NO_DIGESTS: Mapping[str, str | None] = {}


@dataclass(frozen=True, kw_only=True)
class Shared:
    """Pixels and digests that several trainings on the same images have in common."""

    pixels: Store
    digests: Mapping[str, str | None]
    """File -> digest of its bytes, None if it could not be used, of files that a training of an earlier process has read."""


class View(Sink, Protocol):
    """A sink that shows the run to a person."""

    def advance(self, images: int) -> None:
        """Count the images of a finished batch."""

    def note(self, text: str) -> None:
        """Show a sentence."""

    def warn(self, text: str) -> None:
        """Show a warning."""


@dataclass(frozen=True)
class Session:
    """The surroundings of a run."""

    output: Output
    view: View
    stopping: Callable[[], bool]
    """Returns True once the user has asked to stop."""
    sinks: Sequence[Sink] = ()
    """Further sinks of the records; closed once the records are sealed."""
    notes: list[str] = field(default_factory=list)
    """Sentences to show when the run has ended."""
    warned: set[str] = field(default_factory=set)
    """Warnings that were shown, which are not shown again."""

    def warn(self, text: str, category: str) -> None:
        """Show a warning, and note it among the events."""
        self.output.event("warning", text=text, category=category)
        if threading.current_thread() is threading.main_thread():  # the view is not for the threads of sinks
            if text not in self.warned:
                self.view.warn(text.splitlines()[0])
            self.warned.add(text)


def run_training(
    ready: Ready,
    session: Session,
    *,
    every: Every,
    resources: Resources,
    previous: PreviousRun | None = None,
    repeat_info: bool = False,
    shared: Shared | None = None,
) -> None:
    """Train, record, save a checkpoint as often as `every` says and the model at the end, and seal the records.

    `shared` is what it has in common with other trainings. With `previous`, continue that run; `repeat_info` writes the run
    record again, since something in it has changed. Raises Stopped if the user asked to stop, CaptureError if the run failed,
    BrokenPipeError if the reader of a pipe has gone.
    """
    plan, config, output = ready.plan, ready.plan.config, session.output
    checkpoint = previous.checkpoint if previous else None
    output.write_config({"folder": plan.folder} | config.to_dict())
    info = as_begun(ready.run_info(), previous.info if previous else None)
    seen = _seen_by_weights(plan.initial)
    with _recording(info, ready, session, previous) as writer, _pixels(ready, session, resources, shared) as store:
        if checkpoint is None or repeat_info:
            writer.write(info)
        setup = _set_up(ready, writer, store, session, previous, shared.digests if shared else {})
        learning = make_learning(ready)
        average = learning.average.model if learning.average else None
        if checkpoint:
            checkpoint.restore(ready.model, learning.optimizer, average)
        checkpoints = _Checkpoints(every, output, writer, ready.model, learning.optimizer, average)
        save_model = functools.partial(_save_model, ready, average or ready.model, output)
        best = Best(BestEpochs(config.best), config.patience, functools.partial(save_model, BEST))
        best.restore(previous.epochs if previous else ())

        def phase_ended(totals: Epoch, seconds: float, steps: int) -> None:
            best.add(totals)
            _note_phase(output, totals, seconds, steps)
            if seen and totals.phase == "val":
                _warn_of_seen(setup.data.count_in(seen, "val"), totals.n, str(config.weights), session)
                seen.clear()  # once is enough

        setup = replace(setup, save_checkpoint=checkpoints.save, phase_ended=phase_ended, is_exhausted=best.is_exhausted)
        setup.data.look_ahead(session.stopping, session.view.note)
        train(setup, learning, previous.progress if previous else BEGINNING)
        save_model(MODEL, best.epochs.last)
    session.notes.extend(best.sentences(config.epochs))


def _seen_by_weights(initial: Initial | None) -> set[bytes]:
    """Return the digests of the files that the weights to begin with were trained on, as far as records beside them tell."""
    with contextlib.suppress(CaptureError):  # the weights were read, whatever became of the records
        return set(trained_digests(initial.path) or ()) if initial and initial.path else set()
    return set()


def _warn_of_seen(known: int, total: int, weights: str, session: Session) -> None:
    """Warn of validation images that the weights were trained on."""
    if known:
        images = f"{known:,} of the {total:,}" if known < total else f"all {total:,}"
        session.warn(
            f"--weights {weights} were trained on {images} validation images: the validation accuracy is too high", "trained-on"
        )


def _save_model(ready: Ready, model: nn.Module, output: Output, name: str, epoch: int | None) -> None:
    plan = ready.plan
    header = ModelHeader(
        original_stem=ready.original_stem,
        code_digest=ready.code_digest,
        model=plan.config.model,
        classes=plan.scan.classes,
        recipe=plan.recipe.to_dict(),
        labels=plan.scan.rule.name,
        table=plan.config.labels if plan.scan.table else None,
        table_digest=plan.scan.table.digest if plan.scan.table else None,
        epoch=epoch,
        kinds=plan.kinds,
    )
    output.write_model(to_bytes(model, header), name)


def run_evaluation(
    ready: Ready, session: Session, *, trained: Trained, seen: Collection[bytes] | None, resources: Resources
) -> tuple[Epoch, int | None]:
    """Record one pass over the images with the model as it is. Raises as `run_training` does.

    `seen` are the digests of the files that it was trained on, see capture_cli.training.seen. Returns the totals, and how many
    of the images are among those: the user is warned of them.
    """
    config = ready.plan.config
    options = {"weights_digest": trained.digest, "model": config.model, "max_pixels": config.max_pixels}
    info = ready.run_info(options | {"batch_size": config.batch_size, "amp": config.amp})
    with _recording(info, ready, session, None) as writer, _pixels(ready, session, resources) as store:
        writer.write(replace(info, model={**info.model, **trained.origin}))
        setup = _set_up(ready, writer, store, session, None)
        totals = evaluate(setup, "test", 1)
        known = None if seen is None else setup.data.count_in(seen, "test")
        if known:
            images = f"{known:,} of these {totals.n:,} images" if known < totals.n else f"all of these {totals.n:,} images"
            session.warn(f"the model was trained on {images}: the accuracy is too high", "trained-on")
        return totals, known


@contextlib.contextmanager
def _recording(info: RunInfo, ready: Ready, session: Session, previous: PreviousRun | None) -> Iterator[BatchWriter]:
    """Open a writer for the run that `info` describes; seal the records with the status that the body ends with."""
    output, config = session.output, ready.plan.config
    writer = BatchWriter(
        output,
        sinks=[session.view, *session.sinks],
        every=config.capture_every,
        whole_evaluations=EVALUATIONS in info.config,
        probs=config.probs,
        inputs=config.inputs,
        spike=config.spike,
        batching_seconds=BATCHING_SECONDS,
    )
    with _warnings_to(session), writer:
        if previous and previous.checkpoint:
            writer.resume(previous.progress.writer, previous.stored)
        output.event(  # none of this may go into the records
            "start",
            folder_absolute=ready.plan.scan.source.location,
            command=sys.argv[1:],
            host=platform.node(),
            platform=platform.platform(),
            pid=os.getpid(),
            cpus=os.cpu_count(),
        )
        try:
            yield writer
            writer.seal("completed")
            output.event("end", status="completed")
        except Stopped:
            writer.seal("interrupted")
            output.event("end", status="interrupted")
            raise
        except BrokenPipeError:
            raise
        except Exception as error:
            with contextlib.suppress(CaptureError, OSError):
                writer.seal("failed")
            with contextlib.suppress(CaptureError, OSError):
                output.event("end", status="failed", error=str(error) or type(error).__name__)
            if isinstance(error, torch.OutOfMemoryError):
                raise CaptureError("the device is out of memory", "lower --batch-size or --img-size") from error
            raise


@contextlib.contextmanager
def _pixels(ready: Ready, session: Session, resources: Resources, shared: Shared | None = None) -> Iterator[Store]:
    """Open the pixel store, unless one is shared; afterwards note among the events how it went."""
    scan = ready.plan.scan
    warn = functools.partial(session.warn, category="pixels")
    store = shared.pixels if shared else open_store(len(scan.files), ready.plan.geometry, resources, warn=warn)
    with contextlib.closing(scan.source), contextlib.closing(store):
        yield store
    session.output.event("pixels", held=store.held, decoded=store.tally.decoded, from_cache=store.tally.from_cache)


def _set_up(
    ready: Ready,
    writer: BatchWriter,
    store: Store,
    session: Session,
    previous: PreviousRun | None,
    digests: Mapping[str, str | None] = NO_DIGESTS,
) -> Setup:
    """Set up the passes over the images. Skipped files are recorded; files that `previous` has read are read again.

    `digests` are those of files that must not have changed.
    """
    plan, config = ready.plan, ready.plan.config
    data = Data(
        plan.scan,
        store,
        plan.recipe,
        writer,
        seed=config.seed,
        batch_size=config.batch_size,
        device=ready.runtime.device,
        strict=config.strict,
        sampler=config.sampler,
        mixing=Mixing(mixup=config.mixup, cutmix=config.cutmix, seed=config.seed) if config.mixup or config.cutmix else None,
        warn=functools.partial(session.warn, category="images"),
    )
    if previous or digests:
        later = previous.later_files if previous and session.output.journal.comparing else {}
        data.expect(previous.files if previous else {}, {**digests, **later})
    if not (previous and previous.checkpoint):
        for file, reason, detail in plan.scan.skipped:
            writer.write(Skip(file=file, reason=reason, detail=detail))
    return Setup(
        model=ready.model,
        forward=torch.compile(ready.model) if config.compile else ready.model,
        data=data,
        runtime=ready.runtime,
        writer=writer,
        advance=session.view.advance,
        phase_ended=functools.partial(_note_phase, session.output),
        stopping=session.stopping,
        allow_nonfinite=config.allow_nonfinite or "test" in plan.scan.splits,
    )


class _Checkpoints:
    """Saves checkpoints when they are due, if there is a run folder."""

    def __init__(
        self,
        every: Every,
        output: Output,
        writer: BatchWriter,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        average: nn.Module | None,
    ) -> None:
        self._every, self._output, self._writer = every, output, writer
        self._model, self._optimizer, self._average = model, optimizer, average
        self._steps, self._saved_at = 0, monotonic()

    def save(self, progress: Progress, now: bool) -> None:
        """Save a checkpoint if it is due, or `now`."""
        self._steps += 1
        folder = self._output.folder
        if folder is None or not (now or self._every.due(self._steps, monotonic() - self._saved_at)):
            return
        self._writer.sync()
        progress = replace(progress, journal=self._output.journal.position, writer=self._writer.state)
        descriptor = self._output.descriptor
        save(folder, self._model, self._optimizer, progress, average=self._average, descriptor=descriptor)
        self._steps, self._saved_at = 0, monotonic()


@contextlib.contextmanager
def _warnings_to(session: Session) -> Iterator[None]:
    """Note each warning of a library once, instead of letting it break into the terminal."""
    with warnings.catch_warnings():

        def show(message: Warning | str, category: type[Warning], *_: Any) -> None:
            session.warn(str(message), category.__name__)

        warnings.simplefilter("default")
        warnings.showwarning = show  # type: ignore[assignment]
        yield


def _note_phase(output: Output, totals: Epoch, seconds: float, steps: int) -> None:
    speed = round(totals.n / seconds, 1) if seconds else None
    output.event(
        "epoch",
        phase=totals.phase,
        epoch=totals.epoch,
        records_bytes=output.journal.position["bytes"],  # the end of the epoch record, for `capture runs`
        seconds=seconds,
        steps=steps,
        images_per_second=speed,
    )
