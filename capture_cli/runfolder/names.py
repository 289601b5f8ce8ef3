"""Names of files in a run folder."""

import re

RECORDS, EVENTS, CONFIG, MODEL, INPUTS = "records.jsonl", "events.jsonl", "config.toml", "model.safetensors", "inputs"
BEST = "best.safetensors"
TENSORBOARD = "tensorboard"
CHECKPOINT, PREVIOUS = "checkpoint.safetensors", "checkpoint-previous.safetensors"
FOLD = re.compile("fold-([1-9][0-9]{0,3})")
"""The run folder of one training with `--folds`, in the folder of the run."""
