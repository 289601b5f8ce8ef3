"""Arguments that several commands share: RUN, and the options of both `train` and `evaluate`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from capture_cli.labels import Scan
    from capture_cli.runs import Run


def find_run(name: str, *, having: str | tuple[str, ...] = (), trainings: bool = False, quiet: bool = False) -> str:
    """Return the path of the run that `name` stands for, see `runs.names.find_run`; `-` is returned as it is.

    The run that `last` or `@N` stands for is named on stderr, unless the command itself names it (`quiet`), and so is a run in
    runs/ that a path hides. With `trainings` evaluations and predictions are not counted.
    """
    from pathlib import Path

    from capture_cli import runs
    from capture_cli.runs.names import find_run
    from capture_cli.views.terminal.text import safe

    if name == "-":
        return name
    path = find_run(name, having=having, counts=runs.is_training if trainings else None)
    if path == Path(name):
        tell_hidden(name)
        return name
    if not quiet and (name == "last" or name.startswith("@")):
        typer.echo(safe(f"{name} is {path}"), err=True)
    return str(path)


def tell_hidden(path: str) -> None:
    """Name, on stderr, the run or the folder of runs in runs/ that a path of its name hides."""
    from capture_cli.runs.names import hidden_by
    from capture_cli.views.terminal.text import safe

    if hidden := hidden_by(path):
        typer.echo(safe(f"{path} is ./{path}; there is {hidden} too"), err=True)


def warn(text: str) -> None:
    """Print a warning on stderr, unless it is empty."""
    from capture_cli.views.terminal.text import safe

    if text:
        typer.echo(safe(f"warning: {text}"), err=True)


RUN_HELP = "Name of a run in runs/, last, @2 (the one before), a run folder, a .jsonl file (also .gz or .zst), or - for stdin."


def _path_of_run(name: str) -> str:  # Typer takes a second parameter of a callback for the context
    return find_run(name)


def _path_of_model(name: str) -> str:
    return (
        name if name.endswith(".safetensors") else find_run(name, having=("model.safetensors", "best.safetensors"), quiet=True)
    )


A_RUN = partial(typer.Argument, callback=_path_of_run, show_default=False)
RunArgument = Annotated[str, A_RUN(metavar="RUN", help=RUN_HELP)]
MODEL_HELP = "Name of a run in runs/, last, @2 (the one before), a run folder, or a model.safetensors."

ModelArgument = Annotated[
    str, typer.Argument(metavar="RUN|MODEL", callback=_path_of_model, show_default=False, help=MODEL_HELP)
]

Last = Annotated[bool, typer.Option("--last", help="Use the model of the last epoch, not that of the best.")]

_EPOCH = "The epoch that is shown: its number, best (which predict, evaluate and export use) or last."


def _epoch_name(text: str) -> str:
    if text == "last":  # the default; nothing is loaded for it
        return text
    from capture_cli.answers.best import demand_epoch_name

    return demand_epoch_name(text, "--epoch")


Epoch = Annotated[str, typer.Option("--epoch", metavar="N|best|last", callback=_epoch_name, help=_EPOCH)]

Data = partial(typer.Option, rich_help_panel="Data")
Machine = partial(typer.Option, rich_help_panel="Machine")
Output = partial(typer.Option, rich_help_panel="Output")

BatchSize = Annotated[int, Machine("--batch-size", "-b", min=1, help="Images per batch.")]
Device = Annotated[str, Machine(help="auto, cpu, cuda or cuda:N; never falls back.")]
Amp = Annotated[bool, Machine("--amp", help="Compute in bfloat16 where it is safe.")]
_THREADS = "Threads that compute. Results may differ in the last digits. Default: OMP_NUM_THREADS, or one per core."
Threads = Annotated[int | None, Machine(metavar="N", min=1, max=1024, help=_THREADS)]
_RULES = (
    "auto, parent, field:N, prefix, suffix, folder:N, a regular expression with a group `label`, "
    "or a table FILE.csv[:FILE_COLUMN,LABEL_COLUMN]."
)
Labels = Annotated[str, Data(metavar="RULE|TABLE", help=_RULES)]
Unmatched = Annotated[str, Data(metavar="error|skip", help="What to do with files that the label rule does not match.")]
Include = Annotated[list[str] | None, Data(metavar="GLOB", help="Use only files that match, such as 'cat/*'; may be repeated.")]
Exclude = Annotated[list[str] | None, Data(metavar="GLOB", help="Skip files that match, such as '*_old.png'; may be repeated.")]
_COMPANIONS = "Use masks, and twins with another extension, as images of their own."
KeepCompanions = Annotated[bool | None, Data("--keep-companions", help=_COMPANIONS, show_default=False)]
_SPLIT_FOLDERS = (
    "Words such as train and test in paths: they decide the split (use), say nothing (pool), or are labels (ignore)."
)
SplitFolders = Annotated[str | None, Data(metavar="use|pool|ignore", help=_SPLIT_FOLDERS, show_default="use")]
_MERGE = "Make one class of names that differ only in case, spaces or Unicode form."
MergeNames = Annotated[bool | None, Data("--merge-names", help=_MERGE, show_default=False)]
_VAL = "Folder of images for validation, beside or in FOLDER."
Val = Annotated[str | None, Data(metavar="FOLDER", help=_VAL)]
_GROUP = (
    "Keep images that share this part of the path, or this column of the table, on one side of the split: 'patient_[0-9]+'."
)
Group = Annotated[str | None, Data(metavar="REGEX|COLUMN", help=_GROUP)]
_VAL_SPLIT = "Fraction of the images of each class held out for validation, if no folder is."
ValSplit = Annotated[float, Data(metavar="SHARE", help=_VAL_SPLIT)]
Strict = Annotated[bool, Data("--strict", help="Stop at an image that cannot be used.")]
_SIZE = "Size of the inputs; by default the size most images have, photographs 224."
ImgSize = Annotated[str | None, Data(metavar="N|HxW", help=_SIZE)]
Channels = Annotated[int | None, Data(help="1 (greyscale) or 3 (RGB); by default 1 if all images are greyscale.")]
_RESIZE = "How images of other proportions fit; by default the images decide."
Resize = Annotated[str | None, Data(metavar="stretch|pad|crop", help=_RESIZE)]
_BACKGROUND = "Colour behind transparent pixels and around padded images."
Background = Annotated[str, Data(metavar="white|black|R,G,B", help=_BACKGROUND)]
_DEPTH = "How more than 8 bits become 8: the high byte, the range of each image, or the high 8 of so many bits."
Depth = Annotated[str, Data(metavar="auto|high-byte|minmax|BITS", help=_DEPTH)]
MaxPixels = Annotated[int, Data(metavar="N", help="Skip images of more pixels than this.")]
_RAM = "Memory for pixels, such as 4G or 500M; the rest is read from disk. Default: half of what is free."
Ram = Annotated[str | None, Machine(metavar="SIZE", help=_RAM)]
_WORKERS = "Threads that decode images; 0: decode in the main thread. Default: one per processor, where that pays."
Workers = Annotated[int | None, Machine(metavar="N", min=0, help=_WORKERS)]
NoCache = Annotated[bool, Machine("--no-cache", help="Neither read nor write the cache of decoded pixels (`capture cache`).")]
_OUT = "Run folder, FILE.jsonl for the records alone, or - for stdout."
Out = Annotated[str | None, Output("--out", "-o", metavar="PATH|-", help=_OUT)]
Name = Annotated[str | None, Output(help="Name of the run folder in runs/.")]
Force = Annotated[bool, Output("--force", help="Overwrite an earlier run.")]
MLFLOW = "--mlflow"
DEFAULT_STORE = "a URI such as http://host:5000; default: MLFLOW_TRACKING_URI, or sqlite:///mlflow.db"
Mlflow = Annotated[str | None, Output(metavar="[URI]", help=f"Also send the run to MLflow: {DEFAULT_STORE}.")]
Tensorboard = Annotated[bool, Output("--tensorboard", help="Also write event files for TensorBoard.")]
Preview = Annotated[int, Output(metavar="N", min=0, help="Images of the last batch to show while it runs.")]
Quiet = Annotated[bool, Output("--quiet", "-q", help="Print only warnings and errors.")]


def refuse_val_split(ctx: typer.Context, found: Scan) -> None:
    """Raise UsageError for a `--val-split` on the command line where the validation images are not drawn."""
    source = ctx.get_parameter_source("val_split")
    if source is None or source.name != "COMMANDLINE" or "val" not in found.split_names:
        return
    from capture_cli.errors import UsageError

    share = f"--val-split {ctx.params['val_split']:g}"
    if found.source.val is not None:
        raise UsageError(f"{share} and --val both say which images are held out", "give one of them")
    by_table = found.table is not None and "val" in found.table.splits.values()
    teller = f"the column `{found.table.split_column}` of '{found.table.name}' tells" if found.table and by_table else ""
    pool = "take that column out of the table" if by_table else "add --split-folders pool to divide all images anew"
    raise UsageError(
        f"{share} has no effect: {teller or 'folders or names tell'} which images are for validation", f"drop it, or {pool}"
    )


def demand_run_first(command: str, model: str, others: Sequence[str]) -> None:
    """Raise UsageError if the last of the `others`, images or a folder, is a run and the model is not: they were swapped."""
    import shlex
    from pathlib import Path

    from capture_cli.errors import UsageError
    from capture_cli.runs.names import RUNS, holds_run

    last = others[-1]
    if model.endswith(".safetensors") or holds_run(Path(model)):
        return
    if last.endswith(".safetensors") or any(holds_run(one) for one in (Path(last), RUNS / last)):
        name, named = shlex.quote(last), shlex.quote(model) if len(others) == 1 else "IMAGES..."
        raise UsageError(f"'{model}' is no run, and '{last}' is one", f"the run comes first: capture {command} {name} {named}")


def refuse_empty(args: Sequence[str]) -> None:
    """Raise UsageError for an argument or the value of an option that is empty, as a shell variable that is not set is."""
    from capture_cli.errors import UsageError

    for before, arg in zip(["", *args], args, strict=False):
        option, is_value, value = arg.partition("=") if arg.startswith("--") else ("", "=", arg)
        if is_value and not value.strip():
            what = f"the value of {option}" if option else f"the argument after '{before}'" if before else "an argument"
            raise UsageError(f"{what} is empty", "give a value, or leave the option out; is a shell variable not set?")


def with_values(args: Sequence[str]) -> list[str]:
    """Give every `--mlflow` on the command line a value, which Typer needs: the next argument if it is a URI, else nothing.

    So `capture train --mlflow FOLDER` has a folder, and `--mlflow=NAME` takes anything.
    """
    done: list[str] = []
    rest = list(args)
    while rest and rest[0] != "--":
        arg = rest.pop(0)
        if arg == MLFLOW:
            arg = f"{MLFLOW}={rest.pop(0) if rest and '://' in rest[0] else ''}"
        done.append(arg)
    return done + rest


def open_run(name: str) -> Run:
    """Open the run that a RUN argument names, as `runs.open_run` does. Raises UsageError for `-` where stdin is a terminal."""
    import sys

    from capture_cli import runs
    from capture_cli.errors import UsageError

    if name == "-" and sys.stdin.isatty():
        raise UsageError("stdin is a terminal, not records", "pipe a run into it, or name a run folder or file")
    return runs.open_run(name)
