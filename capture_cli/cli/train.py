"""`capture train FOLDER`: train on a folder of images and capture every batch."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from capture_cli.cli.arguments import DEFAULT_STORE
from capture_cli.config import AUGMENTATIONS, CHECKPOINT_EVERY, OPTIMIZERS, SCHEDULES, Every, TrainConfig, read_toml
from capture_cli.errors import UsageError

if TYPE_CHECKING:
    from capture_cli.cli.sinks import Wanted
    from capture_cli.plan import Plan
    from capture_cli.resources import Resources

TRAINING, DATA, CAPTURE, OUTPUT, RESUME = "Training", "Data", "What is captured", "Output", "Going on"
MACHINE = "The machine"


def _take_options(ctx: typer.Context, path: Path) -> None:
    """Take the options of a config file as defaults, before the others are read; the command line wins."""
    values = read_toml(path)
    known = {parameter.name for parameter in ctx.command.params}
    for name in values:
        if name not in known:
            raise UsageError(f"--config '{path}' has an unknown option '{name}'", "see `capture train --help`")
    ctx.default_map = values


def _config_file(ctx: typer.Context, path: str | None) -> str | None:
    if path is not None:
        _take_options(ctx, Path(path))
    return path


def _run_config(ctx: typer.Context, run: str | None) -> str | None:
    if run is not None:
        from capture_cli.runfolder import CONFIG

        path = Path(run) / CONFIG
        if not path.is_file():
            raise UsageError(f"'{run}' is no run folder: there is no {CONFIG} in it", "give --resume the folder of a run")
        _take_options(ctx, path)
    return run


def train(
    folder: Annotated[str | None, typer.Argument(help="Folder of images whose names or sub-folders carry the labels.")] = None,
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            help="linear, mlp, cnn, torchvision:NAME, or FILE.py:FACTORY (runs that file's code).",
            rich_help_panel=TRAINING,
        ),
    ] = TrainConfig.model,
    epochs: Annotated[int, typer.Option("--epochs", "-e", rich_help_panel=TRAINING)] = TrainConfig.epochs,
    batch_size: Annotated[int, typer.Option("--batch-size", "-b", rich_help_panel=TRAINING)] = TrainConfig.batch_size,
    lr: Annotated[
        float | None, typer.Option(help="Peak learning rate; by default what suits --opt.", rich_help_panel=TRAINING)
    ] = TrainConfig.lr,
    opt: Annotated[str, typer.Option(help=f"{', '.join(OPTIMIZERS)}.", rich_help_panel=TRAINING)] = TrainConfig.opt,
    sched: Annotated[str, typer.Option(help=f"{', '.join(SCHEDULES)}.", rich_help_panel=TRAINING)] = TrainConfig.sched,
    weight_decay: Annotated[float, typer.Option(rich_help_panel=TRAINING)] = TrainConfig.weight_decay,
    seed: Annotated[
        int, typer.Option(help="Equal seeds and files give equal records.", rich_help_panel=TRAINING)
    ] = TrainConfig.seed,
    device: Annotated[
        str, typer.Option(help="auto, cpu, cuda or cuda:N; never falls back.", rich_help_panel=TRAINING)
    ] = TrainConfig.device,
    amp: Annotated[
        bool, typer.Option("--amp", help="Compute in bfloat16 where safe.", rich_help_panel=TRAINING)
    ] = TrainConfig.amp,
    compile: Annotated[
        bool, typer.Option("--compile", help="Use torch.compile.", rich_help_panel=TRAINING)
    ] = TrainConfig.compile,
    allow_nonfinite: Annotated[
        bool, typer.Option("--allow-nonfinite", help="Go on after a loss that is NaN or infinite.", rich_help_panel=TRAINING)
    ] = TrainConfig.allow_nonfinite,
    img_size: Annotated[
        str | None,
        typer.Option(
            metavar="N|HxW", help="Size of the inputs; by default the size most images have, else 32.", rich_help_panel=DATA
        ),
    ] = TrainConfig.img_size,
    channels: Annotated[
        int | None, typer.Option(help="1 (grey) or 3 (RGB); by default 1 if all images are grey.", rich_help_panel=DATA)
    ] = TrainConfig.channels,
    augment: Annotated[str, typer.Option(help=f"{', '.join(AUGMENTATIONS)}.", rich_help_panel=DATA)] = TrainConfig.augment,
    val_split: Annotated[
        float, typer.Option(help="Share of the images that are only evaluated.", rich_help_panel=DATA)
    ] = TrainConfig.val_split,
    labels: Annotated[
        str,
        typer.Option(
            metavar="RULE",
            help="auto, parent, field:N, prefix, suffix or a regular expression with a group `label`.",
            rich_help_panel=DATA,
        ),
    ] = TrainConfig.labels,
    unmatched: Annotated[
        str, typer.Option(help="error or skip: what to do with files that the rule does not fit.", rich_help_panel=DATA)
    ] = TrainConfig.unmatched,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at an image that cannot be used.", rich_help_panel=DATA)
    ] = TrainConfig.strict,
    capture_every: Annotated[
        int, typer.Option(metavar="N", help="Capture every N-th batch; the others are counted.", rich_help_panel=CAPTURE)
    ] = TrainConfig.capture_every,
    probs: Annotated[
        str | None,
        typer.Option(
            metavar="all|top:K",
            help="Probabilities kept; by default all up to 100 classes, then top:10.",
            rich_help_panel=CAPTURE,
        ),
    ] = TrainConfig.probs,
    inputs: Annotated[
        str,
        typer.Option(
            metavar="digest|N|all",
            help="Inputs kept: digests only, the first N of each batch, or all.",
            rich_help_panel=CAPTURE,
        ),
    ] = TrainConfig.inputs,
    spike: Annotated[
        float,
        typer.Option(
            metavar="N",
            help="A loss N standard deviations above the mean keeps its batch and the one before whole; 0: never.",
            rich_help_panel=CAPTURE,
        ),
    ] = TrainConfig.spike,
    ram: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Memory for pixels, as 4G or 500M; what does not fit is read from disk. By default half of what is free.",
            rich_help_panel=MACHINE,
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            help="Threads that decode; 0: the training thread does. By default one a processor, where that pays.",
            rich_help_panel=MACHINE,
        ),
    ] = None,
    no_cache: Annotated[
        bool,
        typer.Option(
            "--no-cache", help="Neither use nor fill the cache of decoded pixels (`capture cache`).", rich_help_panel=MACHINE
        ),
    ] = False,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            "-o",
            metavar="PATH|-",
            help="Run folder, FILE.jsonl for the records alone, or - for stdout.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the run folder below runs/.", rich_help_panel=OUTPUT)] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite the records of an earlier run.", rich_help_panel=OUTPUT)
    ] = False,
    mlflow: Annotated[
        str | None,
        typer.Option(metavar="[URI]", help=f"Send the run to MLflow, too: {DEFAULT_STORE}.", rich_help_panel=OUTPUT),
    ] = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write event files for TensorBoard, too.", rich_help_panel=OUTPUT)
    ] = False,
    preview: Annotated[
        int, typer.Option(metavar="N", min=0, help="Images of the last batch shown while training.", rich_help_panel=OUTPUT)
    ] = 4,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Say nothing but warnings and errors.", rich_help_panel=OUTPUT)
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Show what would be trained on, and how, and stop.", rich_help_panel=OUTPUT)
    ] = False,
    resume: Annotated[
        str | None,
        typer.Option(
            metavar="RUN",
            is_eager=True,
            callback=_run_config,
            help="Go on with a run that ended early, or with more --epochs.",
            rich_help_panel=RESUME,
        ),
    ] = None,
    moved: Annotated[
        str | None, typer.Option("--folder", help="Where the images of the run are now.", rich_help_panel=RESUME)
    ] = None,
    allow_env_change: Annotated[
        bool,
        typer.Option(
            "--allow-env-change", help="Go on with other software or hardware; the records say so.", rich_help_panel=RESUME
        ),
    ] = False,
    checkpoint_every: Annotated[
        str,
        typer.Option(metavar="STEPS|SECONDSs", help="How often a checkpoint is left, as 500 or 60s.", rich_help_panel=RESUME),
    ] = CHECKPOINT_EVERY,
    config: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.toml", is_eager=True, callback=_config_file, help="Take options from a file.", rich_help_panel=OUTPUT
        ),
    ] = None,
) -> int:
    """Train an image classifier and write one record for every batch: files, inputs, probabilities, labels, losses.

    Records go to a run folder (runs/<time>-<model>), progress to the terminal. Look at them with `capture inspect RUN`.
    """
    options: dict[str, Any] = locals()
    settings = TrainConfig(**{field: options[field] for field in TrainConfig.__dataclass_fields__})
    every = Every.parse(checkpoint_every)
    from capture_cli.cli.sinks import Wanted
    from capture_cli.resources import Resources

    resources = Resources.parse(ram=ram, workers=workers, cache=not no_cache)
    _demand_fitting(options)
    if folder is None:
        raise UsageError("which folder?", "capture train FOLDER")
    from capture_cli.plan import make_plan

    plan = make_plan(folder, settings, moved_to=moved)
    if dry_run:
        _show(plan)
        return 0
    wanted = Wanted(mlflow=mlflow, tensorboard=tensorboard, run_name=name)
    if resume is not None:
        run = Path(resume)
        return _resume(plan, run, every, resources, wanted, allow_env_change=allow_env_change, preview=preview, quiet=quiet)
    return _train(plan, every, resources, wanted, out=out, name=name, force=force, preview=preview, quiet=quiet)


def _demand_fitting(options: dict[str, Any]) -> None:
    """Raise UsageError for an option that could only be ignored."""
    run = options["resume"]
    if run is None:
        for name, option in (("moved", "--folder"), ("allow_env_change", "--allow-env-change")):
            if options[name]:
                raise UsageError(f"{option} is for a run that goes on", "give --resume RUN as well, or leave it out")
        return
    for name in ("out", "name", "force"):
        if options[name]:
            raise UsageError(f"--{name} cannot be honoured with --resume", f"the records go on in '{run}'; leave it out")


def _show(plan: "Plan") -> None:
    """The plan on stdout, in the form of a config file after the labels."""
    import tomli_w

    from capture_cli.cli.terminal import terminal_width
    from capture_cli.views.terminal.labels import show_scan

    show_scan(plan.scan, width=terminal_width())
    size, config = plan.geometry, plan.config
    typer.echo(f"inputs: {size.channels} x {size.height} x {size.width} (channels, height, width)\n")
    typer.echo(tomli_w.dumps(config.to_dict() | {"lr": config.learning_rate}).rstrip())


def _train(
    plan: "Plan",
    every: Every,
    resources: "Resources",
    wanted: "Wanted",
    *,
    out: str | None,
    name: str | None,
    force: bool,
    preview: int,
    quiet: bool,
) -> int:
    from capture_cli.cli.session import session
    from capture_cli.cli.sinks import make_ready
    from capture_cli.runfolder import open_output
    from capture_cli.training.job import run_training

    ready, sinks = make_ready(plan, wanted)
    needs = "--inputs all" if plan.config.inputs == "all" else "--tensorboard" if wanted.tensorboard else ""
    open_it = partial(open_output, out, name=name, model=plan.config.model, force=force, needs_folder=needs)
    with session(ready, open_it, piped=out == "-", preview=preview, quiet=quiet, sinks=sinks) as (around, stopping):
        run_training(ready, around, every=every, resources=resources)
    return stopping.exit_code if stopping() else 0


def _resume(
    plan: "Plan",
    run: Path,
    every: Every,
    resources: "Resources",
    wanted: "Wanted",
    *,
    allow_env_change: bool,
    preview: int,
    quiet: bool,
) -> int:
    from capture_cli.cli.session import session
    from capture_cli.cli.sinks import make_ready
    from capture_cli.runfolder import reopen_output
    from capture_cli.training.job import run_training
    from capture_cli.training.resuming import continuation, read_earlier

    earlier = read_earlier(run)
    ready, sinks = make_ready(plan, wanted)
    doubts, rest = continuation(earlier, ready.run_record(), plan.scan.files, allow_env_change=allow_env_change)
    open_it = partial(reopen_output, run, earlier.place, rest)
    notes = [earlier.sentence]
    with session(ready, open_it, piped=False, preview=preview, quiet=quiet, notes=notes, doubts=doubts, sinks=sinks) as (
        around,
        stopping,
    ):
        anew = rest != "compare" or bool(earlier.begun_again)
        run_training(ready, around, every=every, resources=resources, earlier=earlier, anew=anew)
    return stopping.exit_code if stopping() else 0
