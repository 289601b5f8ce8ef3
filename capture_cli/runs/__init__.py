"""THE DOOR to a run: `open_run`."""

from capture_cli.runs.reading import BATCHES, RECORDS, Ending, Line, Reading, batch_beginning, open_run

__all__ = ["BATCHES", "RECORDS", "Ending", "Line", "Reading", "batch_beginning", "open_run"]
