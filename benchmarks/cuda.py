"""A step on a GPU with everything captured, beside the same loop without; and a check that nothing waits for the device.

    python benchmarks/cuda.py [--repeats 5] [--device cuda]

* resnet18 at 224x224, batch 256, bfloat16, and one_conv (peer_models.py) at 32x32, batch 512: step.py with `--device cuda`,
  which waits for the device before and after each epoch.
* A profile (torch.profiler) of ten captured steps in the middle of an epoch of each: how often the host waited for the device
  (the CUDA calls in WAITS), and how many copies used memory that is not pinned, for which CUDA itself waits. The writer waits
  for the event of the batch one step before, so one such wait per step is right.

It needs no data set: the images are links to those of sample_data/, resized. `--device cpu` only checks that the script works;
then there is nothing to count.
"""

import argparse
import itertools
import json
import sys
from collections import Counter
from collections.abc import Iterator
from statistics import median
from typing import Any, NamedTuple

from measuring import HERE, NotMeasuredError, Row, json_lines, linked_images, machine, per_step, ran, ratio_row, table

WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaMemcpy", "cudaEventSynchronize")
PROFILED, BEFORE = 10, 5
"""Steps in the profile, and before it."""


class Case(NamedTuple):
    """What is trained, on how many images, and what is wanted."""

    what: str
    options: str
    images: int
    at_most: float


CASES = [
    Case(
        "resnet18 at 224, batch 256, bf16", "--model=torchvision:resnet18 --size=224 --batch=256 --amp --probs=all", 5_120, 1.02
    ),
    Case("one_conv at 32, batch 512", "--model=one_conv --size=32 --batch=512 --probs=all", 20_480, 1.05),
]


def cuda(repeats: int, device: str = "cuda") -> Iterator[Row]:
    """The rows of both. Raises NotMeasuredError where torch finds no GPU."""
    if device != "cpu" and ran([sys.executable, "-c", "import torch; print(torch.cuda.is_available())"]).stdout != "True\n":
        raise NotMeasuredError("torch finds no GPU here")
    for case in CASES:
        with linked_images(case.images) as folder:
            options = [str(folder), *case.options.split(), f"--device={device}"]
            yield from _steps(case, options, repeats)
            (counted,) = json_lines(ran([sys.executable, str(HERE / "cuda.py"), "--profile", *options]).stdout)
            yield _row(case, counted)


def _steps(case: Case, options: list[str], repeats: int) -> Iterator[Row]:
    seconds: dict[str, list[float]] = {"captured": [], "bare": [], "ready": []}
    for _ in range(repeats):
        epochs = json_lines(ran([sys.executable, str(HERE / "step.py"), *options, "--epochs=4"]).stdout)
        for side, found in seconds.items():
            found += per_step([epoch for epoch in epochs if epoch.get("side") == side])
    ms = {side: median(found) * 1e3 for side, found in seconds.items()}
    what = f"CUDA: step of {case.what}, beside"
    yield ratio_row(f"{what} its own loop without recorder", ms["captured"], ms["bare"], "ms", case.at_most)
    yield ratio_row(f"{what} ready tensors on the device", ms["captured"], ms["ready"], "ms", None)


def _row(case: Case, counted: dict[str, int]) -> Row:
    found = ", ".join(f"{count} {name}" for name, count in counted.items() if count) or "none"
    events = counted.pop("cudaEventSynchronize")
    met = not any(counted.values()) and events <= PROFILED + 1
    wanted = "none but one cudaEventSynchronize a step, for a batch that is one step old"
    return Row(f"CUDA: waits in {PROFILED} captured steps of {case.what}", found, "-", "-", wanted, met)


def profile(arguments: list[str]) -> dict[str, int]:
    """In this process: how often each of WAITS was called in some captured steps, and copies with pageable memory."""
    from torch.profiler import ProfilerActivity, record_function
    from torch.profiler import profile as profiler

    import step
    from capture_cli.runtime import keep_compiler_out

    options = step.parser().parse_args(arguments)
    keep_compiler_out()
    bench = step.Bench(options)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if bench.runtime.device.type == "cuda" else [])]
    with step.recording(options) as (recorder, _):
        data = bench.data(recorder)
        step_of = bench.step(data, recorder)
        for batch in data.batches("train", 0):  # reads and decodes
            step_of(0, batch)
        batches = data.batches("train", 1)
        for batch in itertools.islice(batches, BEFORE):
            step_of(1, batch)
        with profiler(activities=activities) as found:
            step_of(1, next(batches))  # the profiler's own start may wait
            with record_function("steady"):
                for batch in itertools.islice(batches, PROFILED):
                    step_of(1, batch)
        recorder.flush()
    return _waits(found.events())


def _waits(events: Any) -> dict[str, int]:
    """Of the events that lie within the one called `steady`."""
    (window,) = (event.time_range for event in events if event.name == "steady" and "CPU" in str(event.device_type))
    inside = [event.name for event in events if window.start <= event.time_range.start <= window.end]
    names = Counter(inside)
    pageable = sum(count for name, count in names.items() if name.startswith("Memcpy") and "Pageable" in name)
    return {name: names[name] for name in WAITS} | {"copies with pageable memory": pageable}


def main() -> int:
    """Measure and print the table."""
    if sys.argv[1:2] == ["--profile"]:
        print(json.dumps(profile(sys.argv[2:])))
        return 0
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    try:
        print(f"{machine()}\n\n{table(list(cuda(options.repeats, options.device)))}")
    except NotMeasuredError as reason:
        print(f"not measured: {reason}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
