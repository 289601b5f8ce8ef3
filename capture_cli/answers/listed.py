"""The images of a run by name, with label and split: those that it used, and those of a test split that it left alone.

listed = ListedImages()
run.fold(listed)
listed.labels["cat/1.png"], listed.splits["cat/1.png"]
"""

from __future__ import annotations

from collections.abc import Sequence

from capture_cli.records import RunInfo, Samples, Skip
from capture_cli.runs import Block, folds_of


class ListedImages:
    """A fold that collects them, in the order of the records."""

    def __init__(self) -> None:
        self.labels: dict[str, str] = {}
        """File -> name of its class, empty where that is not known."""
        self.splits: dict[str, str] = {}
        """File -> train, val or test. In a run with folds, which holds out every image once, only those of the test split."""
        self._classes: Sequence[str] = ()
        self._has_folds = False

    def update(self, block: Block) -> None:
        """Take the next block."""
        if isinstance(block, RunInfo):
            self._classes, self._has_folds = block.classes, bool(folds_of(block))
        elif isinstance(block, Samples):
            names = (self._classes[label] if label >= 0 else "" for label in block.labels)
            self.labels.update(zip(block.files, names, strict=True))
            if not self._has_folds:
                self.splits.update(zip(block.files, block.splits, strict=True))
        elif isinstance(block, Skip) and block.reason == "test-split":
            self.labels[block.file], self.splits[block.file] = block.detail, "test"
