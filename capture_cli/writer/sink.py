"""What may see the records beside the journal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy.typing as npt

if TYPE_CHECKING:
    from capture_cli.records import Record
    from capture_cli.runfolder import Output


class Sink(Protocol):
    """What sees the records beside the journal: the terminal, a tracker."""

    @property
    def every_input(self) -> bool | str:
        """Whether it needs the inputs of every batch, which is taken for granted where it does not say.

        False: it is content with those of the last of some batches that are written together. `evaluation`: so it is in
        training.
        """

    def begin(self, output: Output) -> None:
        """Be told, before anything else, where the records go."""

    def write(self, record: Record, inputs: npt.NDArray[Any] | None) -> None:
        """Take a record as it was written, and with a batch its `inputs` [B, ...] as the network saw them, if they are there.

        Not to be changed, and to be copied if they are to be kept: the next step may overwrite them.
        """

    def close(self) -> None:
        """Let go; nothing more comes."""
