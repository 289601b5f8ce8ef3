"""One whole run, put together: the plan, the device, the model, where the records go, and how it ends.

    ready = prepare(plan)                                # device and model; nothing is written yet
    run_training(ready, Session(output, view, stopping))

Whatever ends a run, its records are sealed with the status it ended with, as far as they can still be written.
"""

import contextlib
import functools
import os
import platform
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from time import monotonic
from typing import Any, Protocol

import torch
from torch import nn

from capture_cli import models
from capture_cli.checkpoint import Place, save
from capture_cli.config import Every
from capture_cli.errors import CaptureError
from capture_cli.models.saved import ModelHeader, to_bytes
from capture_cli.pixels.store import Store, open_store
from capture_cli.plan import Plan
from capture_cli.records import Epoch, RunInfo, Skip
from capture_cli.resources import Resources
from capture_cli.runfolder import Output
from capture_cli.runtime import Runtime, keep_compiler_out, seed_step, start, versions, without_compiler
from capture_cli.training import BEGINNING, Learning, Setup, Stopped, evaluate, make_optimizer, train
from capture_cli.training.batches import Data
from capture_cli.training.resuming import Earlier
from capture_cli.writer import BatchWriter
from capture_cli.writer.sink import Sink

BATCHING_SECONDS = 0.05
"""Records of batches on the CPU wait this long to be written together."""


class View(Sink, Protocol):
    """What shows a run to a person."""

    def advance(self, images: int) -> None:
        """A batch of so many images is done."""

    def warn(self, text: str) -> None:
        """Say something that must be heard."""


@dataclass(frozen=True)
class Session:
    """What surrounds a run: where it goes, who watches, and who may stop it."""

    output: Output
    view: View
    stopping: Callable[[], bool]
    sinks: Sequence[Sink] = ()
    """Where the records go besides; closed where the records are sealed."""


@dataclass(frozen=True, kw_only=True)
class Ready:
    """A run that can begin."""

    plan: Plan
    runtime: Runtime
    model: nn.Module
    """On the device, as built."""

    def run_record(self, options: dict[str, Any] | None = None) -> RunInfo:
        """The first line of its records; `options` in place of those of a training."""
        config, scan = self.plan.config, self.plan.scan
        listing = blake2b(digest_size=16)
        for item in zip(scan.files, scan.labels, scan.splits, strict=True):
            listing.update(repr(item).encode())
        return RunInfo(
            config=config.to_dict() | {"lr": config.learning_rate} if options is None else options,
            folder=self.plan.folder,
            images={
                **{split: scan.splits.count(split) for split in sorted(set(scan.splits))},
                "listing_digest": listing.hexdigest(),
            },
            classes=scan.classes,
            model={"name": config.model, "parameters": sum(p.numel() for p in self.model.parameters())},
            recipe=self.plan.recipe.to_dict(),
            versions=versions(),
            device=self.runtime.name,
            threads=self.runtime.threads,
        )


def prepare(plan: Plan) -> Ready:
    """Find the device and build the model. Raises UsageError for what cannot be honoured."""
    config, size = plan.config, plan.geometry
    runtime = start(config.device, amp=config.amp)
    seed_step(config.seed, "model", 0)
    model = models.build(
        config.model, classes=len(plan.scan.classes), channels=size.channels, height=size.height, width=size.width
    )
    return Ready(plan=plan, runtime=runtime, model=model.to(runtime.device))


def run_training(
    ready: Ready,
    session: Session,
    *,
    every: Every,
    resources: Resources,
    earlier: Earlier | None = None,
    anew: bool = False,
) -> None:
    """Train, capture, leave checkpoints `every` so often and the model at the end, and seal the records.

    With `earlier` the run goes on where that ended; `anew` writes the run record once more, since something in it has changed.
    Raises Stopped where `session.stopping()` asked for it, CaptureError where the run failed, BrokenPipeError where nobody
    reads on.
    """
    plan, config, output = ready.plan, ready.plan.config, session.output
    checkpoint = earlier.checkpoint if earlier else None
    output.write_config({"folder": plan.folder} | config.to_dict())
    with _recording(ready, session, earlier) as writer, _pixels(ready, session, resources) as store:
        if checkpoint is None or anew:
            writer.write(ready.run_record())
        setup = _set_up(ready, writer, store, session, earlier)
        if not config.compile:
            keep_compiler_out()
        optimizer = make_optimizer(ready.model, opt=config.opt, lr=config.learning_rate, weight_decay=config.weight_decay)
        learning = Learning(
            optimizer=optimizer,
            parameters=[one for group in optimizer.param_groups for one in group["params"]],
            update=optimizer.step if config.compile else without_compiler(optimizer),
            epochs=config.epochs,
            lr=config.learning_rate,
            sched=config.sched,
            seed=config.seed,
        )
        if checkpoint:
            checkpoint.restore(ready.model, learning.optimizer)
        keeper = _Keeper(every, output, setup, learning.optimizer)
        train(replace(setup, keep=keeper), learning, checkpoint.place if checkpoint else BEGINNING)
        header = ModelHeader(model=config.model, classes=plan.scan.classes, recipe=plan.recipe.to_dict())
        output.write_model(to_bytes(ready.model, header))


def run_evaluation(ready: Ready, session: Session, *, weights: str, resources: Resources) -> Epoch:
    """Capture one pass over the images with the model as it is; `weights` is the digest of the file it came from.

    Returns the sums; raises as `run_training` does.
    """
    config = ready.plan.config
    with _recording(ready, session, None) as writer, _pixels(ready, session, resources) as store:
        options = {"weights_digest": weights, "model": config.model, "batch_size": config.batch_size, "amp": config.amp}
        writer.write(ready.run_record(options))
        return evaluate(_set_up(ready, writer, store, session, None), "test", 1)


@contextlib.contextmanager
def _recording(ready: Ready, session: Session, earlier: Earlier | None) -> Iterator[BatchWriter]:
    """Open a writer with the options of the run; seal the records with the status that the body ends with."""
    output, config = session.output, ready.plan.config
    writer = BatchWriter(
        output,
        sinks=[session.view, *session.sinks],
        every=config.capture_every,
        probs=config.probs,
        inputs=config.inputs,
        spike=config.spike,
        batching_seconds=BATCHING_SECONDS,
    )
    if earlier and earlier.checkpoint:
        writer.resume(earlier.checkpoint.place.recorder, earlier.stored)
    _note_environment(ready, output)
    with _warnings_to(session), contextlib.closing(writer):
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
                output.event("end", status="failed", error=str(error))
            if isinstance(error, torch.OutOfMemoryError):
                raise CaptureError("the device has no memory left", "lower --batch-size or --img-size") from error
            raise


@contextlib.contextmanager
def _pixels(ready: Ready, session: Session, resources: Resources) -> Iterator[Store]:
    """Where the pixels are held; how that went is noted among the events."""
    scan = ready.plan.scan

    def warn(text: str) -> None:
        session.output.event("warning", text=text, category="pixels")
        session.view.warn(text)

    store = open_store(len(scan.files), ready.plan.geometry, resources, warn=warn)
    with contextlib.closing(scan.source), contextlib.closing(store):
        yield store
    session.output.event("pixels", held=store.held, decoded=store.tally.decoded, from_cache=store.tally.from_cache)


def _set_up(ready: Ready, writer: BatchWriter, store: Store, session: Session, earlier: Earlier | None) -> Setup:
    """What the passes over the images need; the files that the scan left out are on record, and those known before recalled."""
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
    )
    if earlier:
        data.recall(earlier.known, earlier.later if session.output.journal.comparing else {})
    if not (earlier and earlier.checkpoint):
        for file, reason, detail in plan.scan.skipped:
            writer.write(Skip(file=file, reason=reason, detail=detail))
    return Setup(
        model=ready.model,
        forward=torch.compile(ready.model) if config.compile else ready.model,
        data=data,
        runtime=ready.runtime,
        writer=writer,
        advance=session.view.advance,
        timed=functools.partial(_note_phase, session.output),
        stopping=session.stopping,
        allow_nonfinite=config.allow_nonfinite or "test" in plan.scan.splits,
    )


class _Keeper:
    """Leaves a checkpoint so often, and where the run ends."""

    def __init__(self, every: Every, output: Output, setup: Setup, optimizer: torch.optim.Optimizer) -> None:
        self._every, self._output, self._setup, self._optimizer = every, output, setup, optimizer
        self._steps, self._at = 0, monotonic()

    def __call__(self, place: Place, now: bool) -> None:
        self._steps += 1
        folder = self._output.folder
        if folder is None or not (now or self._every.due(self._steps, monotonic() - self._at)):
            return
        writer = self._setup.writer
        writer.sync()
        place = replace(place, journal=self._output.journal.place, recorder=writer.state)
        save(folder, self._setup.model, self._optimizer, place)
        self._steps, self._at = 0, monotonic()


def _note_environment(ready: Ready, output: Output) -> None:
    """Leave in events.jsonl where and how this ran; nothing of it may go into the records."""
    output.event(
        "start",
        folder_absolute=ready.plan.scan.source.location,
        command=sys.argv[1:],
        host=platform.node(),
        platform=platform.platform(),
        pid=os.getpid(),
        cpus=os.cpu_count(),
    )


@contextlib.contextmanager
def _warnings_to(session: Session) -> Iterator[None]:
    """Let libraries' warnings be noted once each instead of breaking into the terminal."""
    with warnings.catch_warnings():

        def note(message: Warning | str, category: type[Warning], *_: Any) -> None:
            session.output.event("warning", text=str(message), category=category.__name__)
            if threading.current_thread() is threading.main_thread():  # the view is not for a sink's thread
                session.view.warn(str(message).splitlines()[0])

        warnings.simplefilter("default")
        warnings.showwarning = note  # type: ignore[assignment]
        yield


def _note_phase(output: Output, sums: Epoch, seconds: float, steps: int) -> None:
    speed = round(sums.n / seconds, 1) if seconds else None
    output.event("epoch", phase=sums.phase, epoch=sums.epoch, seconds=seconds, steps=steps, images_per_second=speed)
