"""A trained model on another folder of labelled images.

ready, weights_digest = prepare_evaluation(Path("runs/first"), Path("test_images"), config)
"""

from dataclasses import replace
from pathlib import Path

from capture_cli.config import TrainConfig
from capture_cli.errors import UsageError
from capture_cli.plan import plan_evaluation
from capture_cli.training.loading import Trained, read_trained
from capture_cli.training.preparing import Ready, prepare


def prepare_evaluation(
    model: Path, folder: Path, config: TrainConfig, *, last: bool = False, labels: str | None = None, part: str = "auto"
) -> tuple[Ready, str]:
    """Load a model, see capture_cli.training.loading.read_trained, to evaluate the images of `folder`.

    Labels are read by the rule that the model was trained with, unless `labels` is another; `part` is the split to evaluate, as
    in capture_cli.labels.scan.

    Returns it with the digest of its file: BLAKE2b (16 bytes, hex). Raises UsageError, and DataError for the folder.
    """
    trained = read_trained(model, last=last)
    header = trained.header
    config = replace(config, model=header.model, labels=labels or _rule(trained))
    plan = plan_evaluation(str(folder), classes=list(header.classes), recipe=trained.recipe, config=config, part=part)
    ready = prepare(plan, original_stem=header.original_stem)
    trained.fill(ready.model)
    return ready, trained.digest


def _rule(trained: Trained) -> str:
    """Return the rule that the model was trained with. Raises UsageError if it has none."""
    labels = trained.header.labels
    if labels is None:
        raise UsageError(
            f"'{trained.path}' was saved by an older version of capture, without the rule of its labels",
            "name the rule that it was trained with, such as --labels prefix; `capture inspect RUN` shows names and labels",
        )
    if labels == "table":
        raise UsageError(
            f"the labels of '{trained.path}' came from a table", "name a table of these images, or a rule: --labels labels.csv"
        )
    return labels
