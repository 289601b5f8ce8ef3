"""A trained model on another folder of labelled images.

ready, trained = prepare_evaluation(Path("runs/first"), Path("test_images"), config)
"""

import shlex
from dataclasses import replace
from pathlib import Path

from capture_cli.config import TrainConfig
from capture_cli.errors import CaptureError, UsageError
from capture_cli.labels.tables import digest_of_table
from capture_cli.plan import plan_evaluation
from capture_cli.runs import open_run
from capture_cli.training.loading import Trained, read_trained
from capture_cli.training.preparing import Ready, prepare


def prepare_evaluation(
    model: Path, folder: Path, config: TrainConfig, *, last: bool = False, labels: str | None = None, part: str = "auto"
) -> tuple[Ready, Trained]:
    """Load a model, see capture_cli.training.loading.read_trained, to evaluate the images of `folder`.

    Labels are read by the rule or the table that the model was trained with, unless `labels` is another; `part` is the split to
    evaluate, as in capture_cli.labels.scan.

    Raises UsageError, and DataError for the folder.
    """
    trained = read_trained(model, last=last)
    header = trained.header
    config = replace(config, model=header.model, labels=labels or _rule(trained, str(folder)))
    classes = list(header.classes)
    plan = plan_evaluation(str(folder), classes=classes, recipe=trained.recipe, config=config, part=part, kinds=header.kinds)
    ready = prepare(plan, original_stem=header.original_stem)
    trained.fill(ready.model)
    return ready, trained


def _rule(trained: Trained, folder: str) -> str:
    """Return the rule that the model was trained with, or, for the images of its run, its table if that is what it was.

    Raises UsageError.
    """
    header = trained.header
    if header.labels is None:
        raise UsageError(
            f"'{trained.path}' was saved by an older version of capture, without the rule of its labels",
            "name the rule that it was trained with, such as --labels prefix; `capture inspect RUN` shows names and labels",
        )
    if header.labels != "table":
        return header.labels
    source = f"the labels of '{trained.path}' came from the table '{header.table}'" if header.table else ""
    if not header.table or not _is_of_run(trained.path.parent, folder):
        of_others = f"{source}, which is of other images" if source else f"the labels of '{trained.path}' came from a table"
        raise UsageError(of_others, "name a table of these images, or a rule, with --labels")
    found = digest_of_table(header.table, folder)
    if found is None:
        raise UsageError(f"{source}, which is not here", "name where it is now with --labels")
    if found != header.table_digest:
        hint = f"use it as it is with --labels {shlex.quote(header.table)}, or name another table"
        raise UsageError(f"{source}, which has changed since", hint)
    return header.table


def _is_of_run(run: Path, folder: str) -> bool:
    """Return True if the images of a run are in `folder`: in another, equal names may be other images."""
    try:
        with open_run(run) as opened:
            return any(one.samefile(folder) for one in opened.images.folders)
    except (CaptureError, OSError):
        return False
