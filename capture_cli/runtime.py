"""Where the numbers are computed: device, precision, threads, determinism, versions.

    runtime = start("auto", amp=False)      # raises UsageError where the device is not there; never falls back in silence
    with runtime.autocast():
        logits = model(inputs)

Everything random in a run comes from `seed_step` and from capture_cli.keyed_random; there is no generator state to keep.
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

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Of <malloc.h>."""


_AS_IT_IS = nullcontext()


@dataclass(frozen=True)
class Runtime:
    """A device and how to compute on it."""

    device: torch.device
    amp: bool
    threads: int

    def autocast(self) -> AbstractContextManager[object]:
        """bfloat16 for the operations that bear it if `amp`, else no change."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.amp else _AS_IT_IS

    @property
    def name(self) -> str:
        """What a record says it was computed on."""
        return device_name(self.device)


def device_name(device: torch.device) -> str:
    """`cpu`, or `cuda:N` with the name of the GPU."""
    return f"{device} {torch.cuda.get_device_name(device)}" if device.type == "cuda" else str(device)


def start(device: str, *, amp: bool) -> Runtime:
    """Choose the device and make its operations deterministic.

    `auto` is the first GPU if there is one, else the CPU. Raises UsageError if a device asked for is not there.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before cuBLAS is first used
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    chosen = torch.device(device)
    if chosen.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        index = chosen.index or 0
        if index >= count:
            there = f"there are {count} GPUs here" if count else "torch finds no GPU here"
            raise UsageError(f"--device {device} cannot be honoured: {there}", "use --device cpu, or auto")
        chosen = torch.device("cuda", index)
        torch.cuda.set_device(chosen)
    torch.set_deterministic_debug_mode("warn")  # the same as use_deterministic_algorithms, which imports the compiler too
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined] # a guard that costs every step
    torch.backends.cudnn.benchmark = False
    _keep_freed_memory()
    return Runtime(chosen, amp, torch.get_num_threads())


def _keep_freed_memory() -> None:
    """Let glibc keep what a step frees for the next step, instead of giving it back and fetching it again page by page.

    A step frees some tens of MB at once; with the default thresholds 1,700 page faults a step took a third of its time. Nor may
    a large block be a mapping of its own, which is given back when it is freed: the inputs of 64 pictures of 224x224 are
    one, and their pages took four times as long as what was written to them. The process grows to its peak and stays there.
    Elsewhere than with glibc nothing is changed.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def without_compiler(optimizer: torch.optim.Optimizer) -> Callable[[], object]:
    """The optimizer's step, for a model that is not compiled, without importing torch's compiler (seconds at every start).

    torch wraps `step` so that torch.compile stops there; what is called here is the function it wraps, without gradients as
    the wrapper has it. Hooks on the optimizer would not be called.
    """
    return torch.no_grad()(partial(inspect.unwrap(type(optimizer).step), optimizer))


def keep_compiler_out() -> None:
    """Let optimizers be made, saved and restored without importing torch's compiler; for runs that do not use it.

    torch._compile._disable_dynamo looks up what to call in this attribute; where another version does not, nothing changes.
    """
    for method in vars(torch.optim.Optimizer).values():
        inner = getattr(method, "__wrapped__", None)
        if inner is not None:
            inner.__dynamo_disable = inner


def seed_step(seed: int, purpose: str, step: int) -> None:
    """Seed torch's generators for one step (dropout and the like), or for building the model.

    The seed is a hash, so that neighbouring steps and runs share no stream; with it no generator state has to be kept.
    """
    number = xxhash.xxh3_64_intdigest(f"{seed} {purpose} {step}".encode()) >> 1
    torch.default_generator.manual_seed(number)  # torch.manual_seed takes a stack trace first, 0.35 ms a call
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.default_generators[torch.cuda.current_device()].manual_seed(number)


def versions() -> dict[str, str]:
    """The software and CPU features on which equal results depend."""
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
