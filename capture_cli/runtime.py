"""The runtime of a training: device, precision, threads, determinism, versions.

    runtime = start("auto", amp=False)      # raises UsageError if the device does not exist; never falls back
    with runtime.autocast():
        logits = model(inputs)

All randomness in a run comes from `seed_step` and capture_cli.keyed_random, so there is no random state to save.
"""

import ctypes
import inspect
import os
import platform
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import xxhash

from capture_cli import __version__
from capture_cli.errors import UsageError
from capture_cli.pixels.decoding import codec_versions
from capture_cli.resources import processors

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Options of mallopt, from <malloc.h>."""
_FULL_PRECISION = nullcontext()


@dataclass(frozen=True)
class Runtime:
    """A device, and how to compute on it."""

    device: torch.device
    amp: bool
    threads: int

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context of a forward pass: bfloat16 where it is safe if `amp`, else float32."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.amp else _FULL_PRECISION

    @property
    def name(self) -> str:
        """The name of the device in the records."""
        return device_name(self.device)


def device_name(device: torch.device) -> str:
    """Return `cpu`, or `cuda:N` with the name of the GPU."""
    return f"{device} {torch.cuda.get_device_name(device)}" if device.type == "cuda" else str(device)


def use_threads(threads: int | None) -> None:
    """Let so many threads compute on the CPU; None: as many as torch chooses, within the quotas of control groups."""
    wanted = min(torch.get_num_threads(), processors()) if threads is None else threads
    if wanted != torch.get_num_threads():
        torch.set_num_threads(wanted)


def start(device: str, *, amp: bool) -> Runtime:
    """Choose the device as `choose_device` does, and make its operations deterministic."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before cuBLAS is first used
    chosen = choose_device(device)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    torch.set_deterministic_debug_mode("warn")  # like use_deterministic_algorithms, which would import the compiler
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined] # it would slow every step
    torch.backends.cudnn.benchmark = False
    _keep_freed_memory()
    return Runtime(chosen, amp, torch.get_num_threads())


def choose_device(device: str) -> torch.device:
    """Return the device: `auto` is the first GPU, or the CPU if there is none. Raises UsageError if it does not exist."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise UsageError(f"the device {device} is not valid", "choose auto, cpu, cuda or cuda:N") from error
    if chosen.type != "cuda":
        return chosen
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    index = chosen.index or 0
    if index >= count:
        found = f"this machine has {count} GPUs" if count else "torch finds no GPU on this machine"
        raise UsageError(f"--device {device} is not available: {found}", "use --device cpu, or auto")
    return torch.device("cuda", index)


def _keep_freed_memory() -> None:
    """Make glibc keep the memory a step frees for the next step, instead of returning it and faulting it in page by page.

    A step frees tens of MB; with the default thresholds 1,700 page faults per step took a third of its time. Large blocks such
    as the inputs of 64 images of 224x224 may not be mappings of their own either, which are returned when freed: faulting in
    their pages took four times as long as writing them. The process grows to its peak and stays there. Without glibc, nothing
    changes.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def without_compiler(optimizer: torch.optim.Optimizer) -> Callable[[], object]:
    """Return the optimizer's step for a model that is not compiled, without torch's compiler, whose import takes seconds.

    torch wraps `step` so that torch.compile stops there. This is the wrapped function, without gradients like the wrapper;
    hooks of the optimizer are not called.
    """
    return torch.no_grad()(partial(inspect.unwrap(type(optimizer).step), optimizer))


def keep_compiler_out() -> None:
    """Let optimizers be made, saved and restored without importing torch's compiler, in runs that do not use it.

    torch._compile._disable_dynamo looks up the function to call in this attribute; other versions may ignore it.
    """
    for method in vars(torch.optim.Optimizer).values():
        inner = getattr(method, "__wrapped__", None)
        if inner is not None:
            inner.__dynamo_disable = inner


def seed_step(seed: int, purpose: str, step: int) -> None:
    """Seed torch's generators for one step (dropout and the like), or for building the model.

    The seed is a hash, so neighbouring steps and runs share no stream, and no random state has to be saved.
    """
    number = xxhash.xxh3_64_intdigest(f"{seed} {purpose} {step}".encode()) >> 1
    torch.default_generator.manual_seed(number)  # torch.manual_seed takes a stack trace first: 0.35 ms
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.default_generators[torch.cuda.current_device()].manual_seed(number)


def versions() -> dict[str, str]:
    """Return the versions of the software, and the CPU features, on which equal results depend."""
    return {
        "capture": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": _torchvision(),
        "numpy": np.__version__,
        **codec_versions(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }


def _torchvision() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("torchvision")  # importing it takes half a second, and only its models need it
    except PackageNotFoundError:
        return "absent"
