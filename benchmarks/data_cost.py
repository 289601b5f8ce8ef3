"""The cost of loading images, without any model: `capture` beside torchvision's ImageFolder and DataLoader.

    python benchmarks/data_cost.py [--repeats 5]                     # the table
    python benchmarks/data_cost.py --side capture FOLDER             # one process: a JSON object per epoch

Both sides yield batches of 64 float32 inputs, 3 x 224 x 224, of the 2,000 photographs of photographs.py, shuffled. The first
epoch of capture reads, digests, decodes and resizes every file and records it; it keeps the pixels, so that later epochs only
gather and normalise. ImageFolder with Resize, ToTensor and Normalize does all of it in every epoch, in two persistent worker
processes. The page cache is warm on both sides. `cached` is capture in a second process, which finds the decoded pixels in its
cache; the other rows use no cache.
"""

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence, Sized
from pathlib import Path
from statistics import median

from measuring import DATA, HERE, Row, machine, ran, table
from photographs import folder_of

SIZE, BATCH_SIZE, EPOCHS = 224, 64, 3


def photographs(repeats: int) -> list[Row]:
    """Milliseconds an image: the first epoch, a later one, and the first where the cache has the pixels."""
    folder = folder_of(DATA)
    classes = _by_class(folder)
    times: dict[str, list[float]] = {name: [] for name in ("cold", "warm", "cached", "torchvision")}
    for _ in range(repeats):
        with tempfile.TemporaryDirectory(dir=DATA) as cache:
            cold, *warm = _epochs("capture", folder, "--no-cache")
            times["cold"].append(cold)
            times["warm"] += warm
            times["torchvision"] += _epochs("torchvision", classes)
            _epochs("capture", folder, cache=cache)
            times["cached"].append(_epochs("capture", folder, cache=cache)[0])
    ms = {name: median(values) * 1e3 for name, values in times.items()}
    beside = ms["torchvision"]
    return [
        _row("photographs: data cost an image, first epoch", ms["cold"], beside, 1.0),
        _row("photographs: data cost an image, later epochs", ms["warm"], beside, 0.1),
        _row("photographs: data cost an image, first epoch, pixels in the cache", ms["cached"], beside, None),
    ]


def _row(what: str, ms: float, beside: float, wanted: float | None) -> Row:
    ratio = ms / beside
    met = wanted is None or ratio <= wanted
    return Row(what, f"{ms:.3f} ms", f"{beside:.3f} ms", f"{ratio:.3f}", f"at most {wanted}" if wanted else "-", met)


def _epochs(side: str, folder: Path, *options: str, cache: str | None = None) -> list[float]:
    """Seconds an image of each epoch, in a process of its own."""
    command = [sys.executable, str(HERE / "data_cost.py"), "--side", side, str(folder), *options]
    environment = [f"XDG_CACHE_HOME={cache}"] if cache else []
    return [json.loads(line)["seconds"] for line in ran(["env", *environment, *command]).stdout.splitlines()]


def _by_class(folder: Path) -> Path:
    """The same files as ImageFolder wants them: in a folder for each class. Hard links, so that both sides read the same."""
    target = folder.resolve().with_name(f"{folder.name}-by-class")
    if not target.exists():
        half = target.with_suffix(".part")
        for file in sorted(folder.iterdir()):
            below = half / file.name.split("_")[0]
            below.mkdir(parents=True, exist_ok=True)
            os.link(file.resolve(), below / file.name)
        half.rename(target)
    return target


Batches = Iterable[Sequence[Sized]]
"""Each of inputs and labels."""


def _capture(folder: Path, *, cache: bool) -> Iterator[Batches]:
    """The batches of each epoch, made by what `capture train` makes them with."""
    from capture_cli.config import TrainConfig
    from capture_cli.pixels.store import open_store
    from capture_cli.plan import make_plan
    from capture_cli.resources import Resources
    from capture_cli.runfolder import open_output
    from capture_cli.runtime import start
    from capture_cli.training.batches import Data
    from capture_cli.writer import BatchWriter

    plan = make_plan(str(folder), TrainConfig(img_size=str(SIZE), channels=3, val_split=0.0))
    runtime = start("cpu", amp=False)
    resources = Resources.parse(ram="2G", workers=None, cache=cache)
    store = open_store(len(plan.scan.files), plan.geometry, resources, warn=sys.exit)
    with contextlib.closing(store), tempfile.TemporaryDirectory() as out:
        writer = BatchWriter(open_output(f"{out}/records.jsonl", name=None, model="", force=False))
        data = Data(plan.scan, store, plan.recipe, writer, seed=0, batch_size=BATCH_SIZE, device=runtime.device)
        for epoch in range(1, EPOCHS + 1):
            yield ((batch.inputs, batch.labels) for batch in data.batches("train", epoch))


def _torchvision(folder: Path) -> Iterator[Batches]:
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms

    prepare = transforms.Compose(
        [transforms.Resize((SIZE, SIZE)), transforms.ToTensor(), transforms.Normalize((0.5,) * 3, (0.5,) * 3)]
    )
    data = datasets.ImageFolder(str(folder), prepare)
    loader = DataLoader(data, BATCH_SIZE, shuffle=True, num_workers=2, persistent_workers=True)
    for _ in range(EPOCHS):
        yield loader


def main() -> None:
    """Measure one side, or both and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--side", choices=("capture", "torchvision"))
    parser.add_argument("--no-cache", action="store_true")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    if not options.side:
        print(f"{machine()}\n\n{table(photographs(options.repeats))}")
        return
    epochs = _capture(options.folder, cache=not options.no_cache) if options.side == "capture" else _torchvision(options.folder)
    for batches in epochs:
        images, started = 0, time.perf_counter()
        for batch in batches:
            images += len(batch[1])
        print(json.dumps({"seconds": (time.perf_counter() - started) / images}), flush=True)


if __name__ == "__main__":
    main()
