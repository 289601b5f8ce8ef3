"""One whole run, put together: the plan, the device, the model, where the records go, and how it ends.

    ready = prepare(plan)                                # device and model; nothing is written yet
    with open_output(...) as output:
        run_training(ready, output, view=view, stopping=stopping)

Whatever ends a run, its records are sealed with the status it ended with, as far as they can still be written.
"""

import contextlib
import functools
import os
import platform
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from capture_cli import models
from capture_cli.batches import Data
from capture_cli.errors import CaptureError, UsageError
from capture_cli.modelfile import Header, to_bytes
from capture_cli.pixels import PixelStore
from capture_cli.plan import Plan
from capture_cli.recorder import Recorder, Sink
from capture_cli.records import Epoch, Run
from capture_cli.runfolder import INPUTS, Output
from capture_cli.runtime import Runtime, seed_step, start, versions
from capture_cli.training import Learning, Setup, Stopped, evaluate, make_optimizer, train

PACK = "pack-00000.bin"


class View(Sink, Protocol):
    """What shows a run to a person."""

    def advance(self, images: int) -> None:
        """A batch of so many images is done."""

    def warn(self, text: str) -> None:
        """Say something that must be heard."""


@dataclass(frozen=True, kw_only=True)
class Ready:
    """A run that can begin."""

    plan: Plan
    runtime: Runtime
    model: nn.Module
    """On the device, as built."""


def prepare(plan: Plan) -> Ready:
    """Find the device and build the model. Raises UsageError for what cannot be honoured."""
    config, size = plan.config, plan.geometry
    runtime = start(config.device, amp=config.amp)
    seed_step(config.seed, "model", 0)
    model = models.build(
        config.model, classes=len(plan.scan.classes), channels=size.channels, height=size.height, width=size.width
    )
    return Ready(plan=plan, runtime=runtime, model=model.to(runtime.device))


def run_training(ready: Ready, output: Output, *, view: View, stopping: Callable[[], bool]) -> None:
    """Train, capture, save the model and seal the records.

    Raises Stopped where `stopping()` asked for it, CaptureError where the run failed, BrokenPipeError where nobody reads on.
    """
    plan, config = ready.plan, ready.plan.config
    output.write_config({"folder": plan.folder} | config.to_dict())
    with _recording(ready, output, view) as recorder:
        setup = _set_up(ready, recorder, config.to_dict() | {"lr": config.learning_rate}, output, view, stopping)
        optimizer = make_optimizer(ready.model, opt=config.opt, lr=config.learning_rate, weight_decay=config.weight_decay)
        learning = Learning(
            optimizer=optimizer, epochs=config.epochs, lr=config.learning_rate, sched=config.sched, seed=config.seed
        )
        train(setup, learning)
        header = Header(model=config.model, classes=plan.scan.classes, recipe=plan.recipe.to_dict())
        output.write_model(to_bytes(ready.model, header))


def run_evaluation(ready: Ready, output: Output, *, weights: str, view: View, stopping: Callable[[], bool]) -> Epoch:
    """Capture one pass over the images with the model as it is; `weights` is the digest of the file it came from.

    Returns the sums; raises as `run_training` does.
    """
    config = ready.plan.config
    with _recording(ready, output, view) as recorder:
        options = {"evaluates": weights, "model": config.model, "batch_size": config.batch_size, "amp": config.amp}
        return evaluate(_set_up(ready, recorder, options, output, view, stopping), "test", 0)


@contextlib.contextmanager
def _recording(ready: Ready, output: Output, view: View) -> Iterator[Recorder]:
    """A recorder as the options ask for it, sealed with the status that the body ends with."""
    config, classes = ready.plan.config, len(ready.plan.scan.classes)
    stored = config.stored_inputs()
    if stored is None and output.folder is None:
        raise UsageError("--inputs all needs a run folder to keep them in", "use -o FOLDER, or --inputs N")
    recorder = Recorder(
        output.journal,
        sinks=[view],
        every=config.capture_every,
        top_k=config.top_k(classes),
        stored_inputs=stored,
        pack=output.folder / INPUTS / PACK if output.folder else None,
    )
    _note_environment(ready, output)
    with _warnings_to(output, view):
        try:
            yield recorder
            recorder.end("completed")
            output.event("end", status="completed")
        except Stopped:
            recorder.end("interrupted")
            output.event("end", status="interrupted")
            raise
        except BrokenPipeError:
            raise
        except Exception as error:
            with contextlib.suppress(CaptureError, OSError):
                recorder.end("failed")
                output.event("end", status="failed", error=str(error))
            if isinstance(error, torch.OutOfMemoryError):
                raise CaptureError("the device has no memory left", "lower --batch-size or --img-size") from error
            raise


def _set_up(
    ready: Ready, recorder: Recorder, options: dict[str, Any], output: Output, view: View, stopping: Callable[[], bool]
) -> Setup:
    """Write what is known before the first batch, and return what the passes over the images need."""
    plan = ready.plan
    recorder.write(
        Run(
            config=options,
            folder=plan.folder,
            classes=plan.scan.classes,
            model={"name": plan.config.model, "parameters": sum(p.numel() for p in ready.model.parameters())},
            recipe=plan.recipe.to_dict(),
            versions=versions(),
            device=ready.runtime.name,
            threads=ready.runtime.threads,
        )
    )
    for skip in plan.scan.skipped:
        recorder.write(skip)
    data = Data(
        plan.scan,
        PixelStore(len(plan.scan.files), plan.geometry),
        plan.recipe,
        recorder,
        seed=plan.config.seed,
        batch_size=plan.config.batch_size,
        device=ready.runtime.device,
        strict=plan.config.strict,
    )
    return Setup(
        model=ready.model,
        forward=torch.compile(ready.model) if plan.config.compile else ready.model,
        data=data,
        runtime=ready.runtime,
        recorder=recorder,
        advance=view.advance,
        timed=functools.partial(_note_phase, output),
        stopping=stopping,
        allow_nonfinite=plan.config.allow_nonfinite,
    )


def _note_environment(ready: Ready, output: Output) -> None:
    """Leave in events.jsonl where and how this ran; nothing of it may go into the records."""
    output.event(
        "start",
        folder_absolute=str(Path(ready.plan.folder).absolute()),
        command=sys.argv[1:],
        host=platform.node(),
        platform=platform.platform(),
        pid=os.getpid(),
        cpus=os.cpu_count(),
    )


@contextlib.contextmanager
def _warnings_to(output: Output, view: View) -> Iterator[None]:
    """Let libraries' warnings be noted once each instead of breaking into the terminal."""
    with warnings.catch_warnings():

        def note(message: Warning | str, category: type[Warning], *_: Any) -> None:
            output.event("warning", text=str(message), category=category.__name__)
            view.warn(f"warning: {str(message).splitlines()[0]}")

        warnings.simplefilter("default")
        warnings.showwarning = note  # type: ignore[assignment]
        yield


def _note_phase(output: Output, sums: Epoch, seconds: float, steps: int) -> None:
    speed = round(sums.n / seconds, 1) if seconds else None
    output.event("epoch", phase=sums.phase, epoch=sums.epoch, seconds=seconds, steps=steps, images_per_second=speed)
