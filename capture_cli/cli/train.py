"""`capture train FOLDER`: train on a folder of images and record every batch."""

import os
import shlex
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from capture_cli.cli import arguments as shared
from capture_cli.cli.arguments import Data, Machine, Output
from capture_cli.config import BEST_BY, CHECKPOINT_EVERY, OPTIMIZERS, SCHEDULES, Every, TrainConfig, read_toml
from capture_cli.errors import UsageError, absent, did_you_mean

Training = partial(typer.Option, rich_help_panel="Training")
Capture = partial(typer.Option, rich_help_panel="Capture")
Resume = partial(typer.Option, rich_help_panel="Resume")
SPIKE = (
    "When the loss jumps N standard deviations above its mean, save the full inputs of that batch and the one before (0: off)."
)
WEIGHTS = "Begin with these weights: published ones, a .safetensors or .pth file, or those of another run."
FREEZE = "Train the last layer only (backbone), or all but the first N layers or blocks."
WARMUP = "Raise the learning rate to its peak over so many epochs, such as 0.5 (0: off)."
EMA = "Evaluate and save an exponential moving average of the weights, such as 0.999 (0: off)."
CLASS_WEIGHTS = "Weight the loss so that each class counts alike."
SAMPLER = "Draw each class equally often in an epoch: samples of rare classes come several times."
MIXUP = "Mix each input with another of its batch; ALPHA such as 0.2 (0: off)."
CUTMIX = "Paste a part of another input of the batch into each; ALPHA such as 1 (0: off)."
AUGMENT = "none, or some of flip, crop, rotate:15, color:0.4, randaugment:9 and erase:0.25, separated by commas."
FOLDS = "Train K times and hold out every image once, for the accuracy on held-out images; needs no --val-split."
DRY_RUN = "Build the network, show it with the labels and the options, and stop. Writes and downloads nothing."
RESUME = "Resume a run that ended early, or add epochs with --epochs."


def _use_as_defaults(ctx: typer.Context, path: Path) -> None:
    """Make the options of a config file the defaults, before the command line is parsed, which overrides them."""
    values = read_toml(path)
    known = {parameter.name for parameter in ctx.command.params}
    for name in values:
        if name not in known:
            hint = did_you_mean(name, known, "see `capture train --help`")
            raise UsageError(f"--config '{path}' has an unknown option '{name}'", hint)
        if isinstance(values[name], str) and not values[name].strip():
            raise UsageError(f"--config '{path}': the value of '{name}' is empty", "give a value, or remove the line")
    ctx.default_map = values


def _config_file(ctx: typer.Context, path: str | None) -> str | None:
    if path is not None:
        _use_as_defaults(ctx, Path(path))
    return path


def _run_config(ctx: typer.Context, run: str | None) -> str | None:
    if run is not None:
        from capture_cli.runfolder import CONFIG

        run = shared.find_run(run, having=CONFIG)
        path = Path(run) / CONFIG
        if not path.is_file():
            raise UsageError(f"'{run}' is not a run folder: it has no {CONFIG}", "give --resume the folder of a run")
        _use_as_defaults(ctx, path)
    return run


def _path_of_weights(text: str | None, model: str) -> str | None:
    """Return the path of a run whose model begins `model`; names of published weights stay."""
    if text is None or text == "DEFAULT" or Path(text).is_file():
        return text
    from capture_cli.runs.names import BEST_MODEL, MODEL, demand_one_training

    try:
        run = shared.find_run(text, having=MODEL)
    except UsageError as error:
        is_mistyped = error.hint.startswith("did you mean") and not model.startswith(("torchvision:", "timm:"))
        if is_mistyped or text == "last" or text.startswith("@"):
            raise UsageError(f"--weights: {error.message}", error.hint) from error
        return text  # it names published weights, or nothing: capture_cli.models.pretrained knows

    demand_one_training(Path(run))
    if Path(run).is_dir() and not any((Path(run) / name).is_file() for name in (BEST_MODEL, MODEL)):
        from capture_cli.runs.modelless import without_model

        raise without_model(Path(run))
    return run


def train(
    ctx: typer.Context,
    folder: Annotated[
        str | None, typer.Argument(metavar="FOLDER", help="Folder of images whose names or subfolders carry the labels.")
    ] = None,
    model: Annotated[
        str,
        Training("--model", "-m", help="linear, mlp, cnn, torchvision:NAME, timm:NAME or FILE.py:FACTORY (runs that code)."),
    ] = TrainConfig.model,
    weights: Annotated[str | None, Training(metavar="DEFAULT|NAME|FILE|RUN", help=WEIGHTS)] = TrainConfig.weights,
    freeze: Annotated[str | None, Training(metavar="backbone|N", help=FREEZE)] = TrainConfig.freeze,
    epochs: Annotated[int, Training("--epochs", "-e", help="Passes over the training images.")] = TrainConfig.epochs,
    batch_size: Annotated[int, Training("--batch-size", "-b", help="Images per update.")] = TrainConfig.batch_size,
    lr: Annotated[float | None, Training(help="Peak learning rate; the default depends on --opt.")] = TrainConfig.lr,
    lr_head: Annotated[
        float | None, Training(help="Peak learning rate of the last layer; by default that of all.")
    ] = TrainConfig.lr_head,
    opt: Annotated[str, Training(help=f"{', '.join(OPTIMIZERS)}.")] = TrainConfig.opt,
    sched: Annotated[str, Training(help=f"{', '.join(SCHEDULES)}.")] = TrainConfig.sched,
    weight_decay: Annotated[float, Training(help="Weight decay of the optimizer.")] = TrainConfig.weight_decay,
    warmup: Annotated[float, Training(metavar="EPOCHS", help=WARMUP)] = TrainConfig.warmup,
    grad_accum: Annotated[int, Training(metavar="N", help="Batches for one update.")] = TrainConfig.grad_accum,
    clip: Annotated[float, Training(metavar="NORM", help="Clip the norm of the gradients (0: off).")] = TrainConfig.clip,
    ema: Annotated[float, Training(metavar="DECAY", help=EMA)] = TrainConfig.ema,
    class_weights: Annotated[str, Training(metavar="none|balanced", help=CLASS_WEIGHTS)] = TrainConfig.class_weights,
    sampler: Annotated[str, Training(metavar="shuffle|balanced", help=SAMPLER)] = TrainConfig.sampler,
    label_smoothing: Annotated[
        float, Training(metavar="SHARE", help="Spread this share of each target over all classes.")
    ] = TrainConfig.label_smoothing,
    mixup: Annotated[float, Training(metavar="ALPHA", help=MIXUP)] = TrainConfig.mixup,
    cutmix: Annotated[float, Training(metavar="ALPHA", help=CUTMIX)] = TrainConfig.cutmix,
    best: Annotated[
        str, Training(metavar="METRIC", help=f"Also keep the weights of the best epoch, by {', '.join(BEST_BY)}.")
    ] = TrainConfig.best,
    patience: Annotated[
        int, Training(metavar="N", help="Stop after N epochs without a better one (0: off).")
    ] = TrainConfig.patience,
    seed: Annotated[int, Training(help="The same seed and files give the same records.")] = TrainConfig.seed,
    allow_nonfinite: Annotated[
        bool, Training("--allow-nonfinite", help="Continue after a loss that is NaN or infinite.")
    ] = TrainConfig.allow_nonfinite,
    img_size: shared.ImgSize = TrainConfig.img_size,
    channels: shared.Channels = TrainConfig.channels,
    resize: shared.Resize = TrainConfig.resize,
    background: shared.Background = TrainConfig.background,
    depth: shared.Depth = TrainConfig.depth,
    max_pixels: shared.MaxPixels = TrainConfig.max_pixels,
    augment: Annotated[str, Data(metavar="NAMES", help=AUGMENT)] = TrainConfig.augment,
    val_split: shared.ValSplit = TrainConfig.val_split,
    folds: Annotated[int | None, shared.Data(metavar="K", help=FOLDS)] = TrainConfig.folds,
    val: shared.Val = None,
    group: shared.Group = None,
    labels: shared.Labels = TrainConfig.labels,
    unmatched: shared.Unmatched = TrainConfig.unmatched,
    include: shared.Include = None,
    exclude: shared.Exclude = None,
    keep_companions: shared.KeepCompanions = None,
    split_folders: shared.SplitFolders = None,
    merge_names: shared.MergeNames = None,
    strict: shared.Strict = TrainConfig.strict,
    capture_every: Annotated[
        int, Capture(metavar="N", help="Record every Nth training batch; the others are only counted.")
    ] = TrainConfig.capture_every,
    probs: Annotated[
        str | None,
        Capture(metavar="all|top:K", help="Probabilities to record; by default all up to 100 classes, then top:10."),
    ] = TrainConfig.probs,
    inputs: Annotated[
        str, Capture(metavar="digest|N|all", help="Inputs to store: digests only, the first N of each batch, or all.")
    ] = TrainConfig.inputs,
    spike: Annotated[float, Capture(metavar="N", help=SPIKE)] = TrainConfig.spike,
    device: shared.Device = TrainConfig.device,
    amp: shared.Amp = TrainConfig.amp,
    compile: Annotated[bool, Machine("--compile", help="Compile the model with torch.compile.")] = TrainConfig.compile,
    threads: shared.Threads = None,
    ram: shared.Ram = None,
    workers: shared.Workers = None,
    no_cache: shared.NoCache = False,
    out: shared.Out = None,
    name: shared.Name = None,
    force: shared.Force = False,
    mlflow: shared.Mlflow = None,
    tensorboard: shared.Tensorboard = False,
    preview: shared.Preview = 4,
    quiet: shared.Quiet = False,
    dry_run: Annotated[bool, Output("--dry-run", "-n", help=DRY_RUN)] = False,
    resume: Annotated[str | None, Resume(metavar="RUN", is_eager=True, callback=_run_config, help=RESUME)] = None,
    moved: Annotated[str | None, Resume("--folder", help="Where the images of the run are now.")] = None,
    allow_env_change: Annotated[
        bool, Resume("--allow-env-change", help="Resume with other software or hardware; the records say so.")
    ] = False,
    checkpoint_every: Annotated[
        str, Resume(metavar="STEPS|SECONDSs", help="How often to save a checkpoint, such as 500 or 60s.")
    ] = CHECKPOINT_EVERY,
    config: Annotated[
        str | None, Output(metavar="FILE.toml", is_eager=True, callback=_config_file, help="Read options from a file.")
    ] = None,
) -> int:
    """Train an image classifier and record every batch: files, inputs, probabilities, labels, losses.

    Records go to a run folder (runs/<time>-<model>), progress to the terminal.
    Then look at them with `capture inspect RUN`.
    """
    options: dict[str, Any] = {**locals(), "weights": _path_of_weights(weights, model)}
    settings = TrainConfig(**{field: options[field] for field in TrainConfig.__dataclass_fields__})
    every = Every.parse(checkpoint_every)
    from capture_cli.cli.sinks import SinkOptions
    from capture_cli.resources import Resources

    resources = Resources.parse(ram=ram, workers=workers, cache=not no_cache)
    _demand_compatible(options)
    if folder is None:
        raise UsageError("no folder given", "capture train FOLDER")
    if resume and not Path(moved or folder).exists():
        raise UsageError(absent(moved or folder, "folder"), "--folder says where the images of the run are now")
    from capture_cli.plan import make_plan

    plan = make_plan(folder, settings, moved_to=moved)
    shared.refuse_val_split(ctx, plan.scan)
    from capture_cli.runtime import use_threads

    use_threads(threads)
    if dry_run:
        from capture_cli.cli.dry_run import show_plan

        show_plan(plan, options)
        return 0
    from capture_cli.cli.session import session
    from capture_cli.cli.sinks import prepared
    from capture_cli.runfolder import open_output, reopen_output
    from capture_cli.training.job import run_training
    from capture_cli.training.resuming import check_continuation, read_previous_run

    wanted = SinkOptions(mlflow=mlflow, tensorboard=tensorboard, run_name=name)
    if settings.folds is not None:
        from capture_cli.cli.folds import train_folds

        return train_folds(plan, options, every=every, resources=resources, wanted=wanted)
    previous = None if resume is None else read_previous_run(Path(resume))
    told: dict[str, Any] = {}
    repeat_info, piped = False, out == "-"
    with prepared(plan, wanted) as (ready, sinks):
        if previous is None:
            needs = "--inputs all" if settings.inputs == "all" else "--tensorboard" if tensorboard else ""
            open_run = partial(open_output, out, name=name, model=settings.model, force=force, needs_folder=needs)
        else:
            warnings, tail = check_continuation(previous, ready.run_info(), plan.scan.files, allow_env_change=allow_env_change)
            open_run = partial(reopen_output, previous.folder, previous.position, tail)
            told = {"notes": [previous.sentence], "warnings": warnings, "earlier": previous.epochs}
            repeat_info = tail != "compare" or previous.repeats_info
        with session(ready, open_run, piped=piped, preview=preview, quiet=quiet, sinks=sinks, **told) as (around, stopping):
            run_training(ready, around, every=every, resources=resources, previous=previous, repeat_info=repeat_info)
    return stopping.exit_code


def _demand_compatible(options: dict[str, Any]) -> None:
    """Raise UsageError for an option that would have no effect."""
    run = options["resume"]
    if options["folds"] is not None:
        _demand_folds(options["ctx"], run)
    if run is None:
        for name, option in (("moved", "--folder"), ("allow_env_change", "--allow-env-change")):
            if options[name]:
                raise UsageError(f"{option} is only valid with --resume RUN", f"add --resume, or drop {option}")
        return
    for name in ("out", "name", "force"):
        if options[name]:
            raise UsageError(f"--{name} is not valid with --resume", f"the run continues in '{run}'; drop --{name}")


def _demand_folds(ctx: typer.Context, run: str | None) -> None:
    """Raise UsageError where --folds meets an option that says the same, or a run that is to be resumed."""
    sources = {name: source.name for name in ("folds", "val_split") if (source := ctx.get_parameter_source(name))}
    if sources["val_split"] == "COMMANDLINE" or set(sources.values()) == {"DEFAULT_MAP"}:
        raise UsageError("--folds and --val-split both say which images are held out", "give one of them")
    if run is None:
        return
    if sources["folds"] == "COMMANDLINE":
        raise UsageError("--folds is not valid with --resume: a run keeps its folds", "drop it, or start a new run")
    if (Path(run) / "records.jsonl").exists():
        where = shlex.quote(os.path.relpath(Path(run).resolve().parent))
        raise UsageError(f"'{run}' is one fold of a run", f"resume them together: capture train --resume {where}")
