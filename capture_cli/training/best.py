"""The best epoch of a training under way: its weights are kept, and the training ends when nothing better comes any more.

    best = Best(BestEpochs("val_accuracy"), patience=3, save=save)
    best.add(totals)                    # after each phase; calls save(epoch) if this is the best epoch so far
    best.is_exhausted()

There is no state to save: a resumed run takes the totals in its records again.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from capture_cli.answers.best import BestEpoch, BestEpochs
from capture_cli.records import Epoch


@dataclass(frozen=True)
class Best:
    """Keeps the best weights, and counts the epochs since."""

    epochs: BestEpochs
    patience: int
    """Epochs without a better one after which the training ends; 0: never."""
    save: Callable[[int], object]
    """Save the weights as they are, those of this epoch."""

    def restore(self, totals: Iterable[Epoch]) -> None:
        """Take what an earlier process recorded; its weights are saved."""
        for one in totals:
            self.epochs.update(one)

    def add(self, totals: Epoch) -> None:
        """Take the totals of a phase that has just ended."""
        self.epochs.update(totals)
        if self.epochs.is_best(totals):
            self.save(totals.epoch)

    def is_exhausted(self) -> bool:
        """Return True after `patience` epochs without a better one."""
        return bool(self.patience) and self.epochs.epochs_since >= self.patience

    def sentences(self, epochs: int) -> list[str]:
        """Tell people how a training of at most `epochs` went."""
        found: BestEpoch | None = self.epochs.result()
        if found is None:
            return []
        ended = f"Ended after epoch {found.last} of {epochs}: none of the last {self.patience} was better (--patience)"
        is_early = self.is_exhausted() and found.last < epochs
        return [*[ended] * is_early, found.sentence, *filter(None, [found.gap_sentence])]
