"""The view of a training on stderr.

    with closing(make_view(sys.stderr, animate=True, classes=classes, epochs=10, total_images=480_000)) as view:
        view.write(record, inputs)      # as a sink of the records
        view.advance(64)                # after every batch, captured or not
        view.note("a sentence")         # printed above the live area; warn() is printed even if quiet

LiveView draws on a terminal: a line for every finished epoch, a progress bar, loss curves and a preview of the last captured
batch. PlainView writes one line for every finished phase, or if quiet, warnings only.

It promises:

* Names go through views.terminal.text: none reaches the terminal as a control sequence or as markup.
* `write` and `advance` keep references and counts. A frame is drawn at most twice a second and is followed by a pause of at
  least 150 times what the last two took on average: less than 1 % of the time goes into drawing, on slow terminals too.
* The state of the terminal is never changed, so nothing has to be restored however the process ends (views.terminal.area).
* `note` and `warn` may be called from a signal handler, in the middle of a frame.
"""

from __future__ import annotations

import warnings
from collections import Counter, deque
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, TextIO

import numpy.typing as npt
from rich.console import Console, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from capture_cli.answers.best import BestEpochs
from capture_cli.records import Batch, Epoch, Record, RunInfo, Skip
from capture_cli.views.terminal.area import Area
from capture_cli.views.terminal.epochs import EpochTable, clock, phase_line
from capture_cli.views.terminal.preview import NARROWEST, preview
from capture_cli.views.terminal.sparkline import Curve
from capture_cli.views.terminal.tables import number
from capture_cli.views.terminal.text import plain, safe

SECONDS_PER_FRAME = 0.5
SECONDS_PER_PREVIEW = 1.0
"""Pictures change no faster than people can look at them."""
PAUSE = 150
"""The pause after a frame, as a multiple of the time that frames take."""
WIDEST = 100
"""Cells of the widest bar line."""
SKIPPED_NAMES = 3

Inputs = npt.NDArray[Any]


def make_view(
    stderr: TextIO,
    *,
    classes: Sequence[str],
    epochs: int,
    total_images: int,
    phases: Sequence[str] = ("train", "val"),
    preview: int = 4,
    quiet: bool = False,
    best: BestEpochs | None = None,
    lists_skipped: bool = True,
    animate: bool,
) -> LiveView | PlainView:
    """Make a LiveView if `animate` is set and the terminal `stderr` can be drawn on, else a PlainView.

    `total_images` counts all `epochs` and `phases`; `preview` is the number of samples to show of a batch; `best` knows the
    best epoch before the first that is shown; without `lists_skipped` nothing is said of skipped files. Colours follow the
    terminal, NO_COLOR and FORCE_COLOR.
    """
    if animate and not quiet:
        console = Console(file=stderr, markup=False, emoji=False, highlight=False)
        options = console.options
        limited = options.legacy_windows or options.ascii_only or options.max_width <= NARROWEST
        if console.is_interactive and not limited:
            sizes: dict[str, Any] = {"epochs": epochs, "total_images": total_images, "preview": preview}
            return LiveView(console, classes=classes, phases=phases, best=best, lists_skipped=lists_skipped, **sizes)
    return PlainView(stderr, epochs=epochs, quiet=quiet, best=best, lists_skipped=lists_skipped)


class PlainView:
    """One line for every finished phase, and notes; if quiet, only warnings."""

    every_input = False

    def __init__(
        self,
        stream: TextIO,
        *,
        epochs: int,
        quiet: bool = False,
        best: BestEpochs | None = None,
        lists_skipped: bool = True,
        now: Callable[[], float] = monotonic,
    ) -> None:
        self._best = best or BestEpochs()
        self._stream: TextIO | None = stream
        self._epochs = epochs
        self._quiet = quiet
        self._now = now
        self._phase_began = now()
        self._skipped = _SkipCount(lists_skipped)
        self._pending: deque[str] = deque()
        self._writing = False

    def begin(self, output: object) -> None:
        """Do nothing: the caller says where the records go."""

    def write(self, record: Record, inputs: Inputs | None) -> None:  # noqa: ARG002 - the signature of a sink
        """Print the totals of a phase; count skipped files."""
        if isinstance(record, RunInfo):
            self._phase_began = self._now()
        elif isinstance(record, Skip):
            self._skipped.add(record)
        elif isinstance(record, Epoch):
            began, self._phase_began = self._phase_began, self._now()
            self._best.update(record)
            best = self._best.is_best(record) and self._epochs > 1
            self.note(phase_line(record, epochs=self._epochs, seconds=self._phase_began - began, best=best))

    def advance(self, images: int) -> None:
        """Do nothing: single batches are not shown."""

    def note(self, text: str) -> None:
        """Print `text` as one line, unless quiet."""
        if not self._quiet:
            self._line(text)

    def warn(self, text: str) -> None:
        """Print `text` as a warning, quiet or not."""
        self._line(f"warning: {text}")

    def close(self) -> None:
        """Print the skipped files. May be called twice."""
        if line := self._skipped.take():
            self.note(line)

    def _line(self, text: str) -> None:
        if self._stream is None:
            return
        self._pending.append(safe(text) + "\n")
        if self._writing:  # called from a signal handler in the middle of a line
            return
        self._writing = True
        try:
            while self._stream and self._pending:
                self._stream.write(self._pending.popleft())
                self._stream.flush()
        except (OSError, ValueError):  # nobody reads any more, or the stream is closed, which is no reason to stop the training
            self._stream = None
        finally:
            self._writing = False


class LiveView:
    """Lines of finished epochs, above an area that is redrawn: bar, loss curves, preview."""

    every_input = False

    def __init__(
        self,
        console: Console,
        *,
        classes: Sequence[str],
        epochs: int,
        total_images: int,
        phases: Sequence[str] = ("train", "val"),
        preview: int = 4,
        best: BestEpochs | None = None,
        lists_skipped: bool = True,
        now: Callable[[], float] = monotonic,
    ) -> None:
        """Draw on the terminal of `console`, which nothing else may write to until `close`. For the rest see `make_view`."""
        self._area = Area(console)
        self._best = best or BestEpochs()
        self._classes = classes
        self._epochs = epochs
        self._phases = phases
        self._samples = preview
        self._now = now
        self._table = EpochTable(epochs=epochs, phases=phases)
        self._meter = _Meter(total_images)
        self._curves = {phase: Curve() for phase in phases}
        self._last: tuple[Batch, Inputs] | None = None
        self._previewed: tuple[Batch, Inputs] | None = None
        self._phase_sizes: dict[str, int] = {}
        self._skipped = _SkipCount(lists_skipped)
        self._above: list[RenderableType] = []
        """Lines to print above the area with the next frame."""
        self._drawing = self._closed = self._broken = False
        self._phase_began = now()
        self._next_frame = self._next_preview = self._phase_began
        self._frames, self._last_took = 0, 0.0

    def begin(self, output: object) -> None:
        """Do nothing: the caller says where the records go."""

    def write(self, record: Record, inputs: Inputs | None) -> None:
        """Keep the last captured batch, count skipped files, and add the totals of a phase to the table."""
        if isinstance(record, Batch):
            if record.phase == self._phases[0]:
                self._curves[record.phase].add(float(record.loss))
            if inputs is not None:
                self._last = record, inputs
        elif isinstance(record, Epoch):
            self._end_phase(record)
        elif isinstance(record, Skip):
            self._skipped.add(record)
        elif isinstance(record, RunInfo):
            self._phase_began = self._now()
            self._draw()

    def _end_phase(self, totals: Epoch) -> None:
        began, self._phase_began = self._phase_began, self._now()
        self._best.update(totals)
        self._table.add(totals, seconds=self._phase_began - began, best=self._best.is_best(totals) and self._epochs > 1)
        if totals.phase in self._curves and totals.phase != self._phases[0]:
            self._curves[totals.phase].add(totals.loss)
        self._phase_sizes[totals.phase] = totals.n  # fewer than were scanned, if some turned out unusable
        if len(self._phase_sizes) == len(self._phases):
            self._meter.total = self._epochs * sum(self._phase_sizes.values())

    def advance(self, images: int) -> None:
        """Move the bar on by `images`; draw a frame if it is time."""
        self._meter.done += images
        if self._now() >= self._next_frame:
            self._draw()

    def note(self, text: str) -> None:
        """Print `text` above the area, wrapped at words."""
        self._print(plain(text))

    def warn(self, text: str) -> None:
        """Print `text` above the area as a warning."""
        self._print(Text.assemble(("warning: ", "yellow"), safe(text)))

    def _print(self, line: RenderableType) -> None:
        self._above.append(line)
        if not self._drawing:
            self._draw()

    def close(self) -> None:
        """Remove the area; the lines of the epochs, the curves and the skipped files stay. May be called twice."""
        if self._closed:
            return
        self._closed = True
        self._table.finish()
        rows = self._table.take(self._area.size[0])
        if rows or self._phase_sizes:
            rows.append(self._curve_line(self._area.size[0]))
        if line := self._skipped.take():
            rows.append(plain(line))
        self._above.extend(rows)
        self._draw()

    def _draw(self) -> None:
        began = self._now()
        self._drawing = True
        try:
            self._frame(began)
            while self._above:  # a signal handler has called note() meanwhile
                self._frame(began)
        finally:
            self._drawing = False
        ended = self._now()
        took = ended - began if self._frames else 0.0  # the first frame warms up what the others find ready
        self._next_frame = ended + max(SECONDS_PER_FRAME, PAUSE * (took + self._last_took) / 2)
        self._last_took = took
        self._frames += 1

    def _frame(self, now: float) -> None:
        columns, rows = self._area.size
        notes, self._above = self._above, []
        lines = [*self._table.take(columns), *notes]
        try:
            self._area.draw(None if self._closed or self._broken else self._body(now, columns, rows), above=lines)
        except Exception as error:  # noqa: BLE001 - a picture is no reason to end a run
            self._broken = True
            self._area.draw(None, above=lines)
            warnings.warn(f"progress is no longer drawn: {type(error).__name__}: {error}", stacklevel=1)

    def _body(self, now: float, columns: int, rows: int) -> RenderableType:
        if self._last is not self._previewed and now >= self._next_preview:
            self._previewed = self._last
            self._next_preview = now + SECONDS_PER_PREVIEW
        body: list[RenderableType] = [self._bar_line(now, min(columns, WIDEST)), self._curve_line(columns)]
        if self._previewed is not None:
            batch, inputs = self._previewed
            shown = preview(batch, inputs, classes=self._classes, samples=self._samples, columns=columns, rows=rows - 6)
            body += [Text(), shown] if shown else []
        return Group(*body)

    def _bar_line(self, now: float, columns: int) -> RenderableType:
        """Render epoch, bar and percentage; then time left, speed and phase as far as they fit."""
        meter = self._meter
        rate, left = meter.read(now)
        epoch, phase = (self._last[0].epoch, self._last[0].phase) if self._last else (1, self._phases[0])
        start, percent = self._table.label(epoch), f" {meter.fraction:4.0%}"
        extras = [f"{clock(left):>7} left", f"{rate:>9,.0f} images/s"] if rate else [" " * 12, " " * 18]
        end = ""
        for extra in [*extras, f"  {safe(phase).ljust(max(map(len, self._phases)))}"]:
            if len(start + "  " + percent + end + extra) + 10 <= columns:
                end += extra
        width = max(1, columns - len(start + "  " + percent + end))
        line = Table.grid()
        bar = ProgressBar(
            meter.total, meter.done, width=width, style="bright_black", complete_style="cyan", finished_style="cyan"
        )
        line.add_row(f"{start}  ", bar, percent, Text(end, "dim"))
        return line

    def _curve_line(self, columns: int) -> Text:
        """Render the loss so far, batch by batch in the first phase and epoch by epoch in the others, as many as fit."""
        line = Text("loss".rjust(self._table.label_width), "dim")
        curve_width = min(30, max(6, columns // 4))
        for phase, curve in self._curves.items():
            if len(curve.means) > 1:
                drawn, value = curve.line(curve_width), f" {number(curve.last)} {safe(phase)}"
                if line.cell_len + 2 + len(drawn + value) <= columns:
                    line.append("  ").append(drawn, "cyan").append(value, "dim")
        return line


class _SkipCount:
    """Skipped files, counted by reason, and the names of the first few."""

    def __init__(self, lists: bool) -> None:
        self._lists = lists
        self._reasons: Counter[str] = Counter()
        self._names: list[str] = []

    def add(self, skip: Skip) -> None:
        self._reasons[skip.reason] += 1
        if len(self._names) < SKIPPED_NAMES:
            self._names.append(skip.file)

    def take(self) -> str:
        """Return the line to print, the most frequent reason first; empty if nothing was skipped since."""
        if not self._reasons or not self._lists:
            return ""
        total = self._reasons.total()
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in self._reasons.most_common())
        names = ", ".join([*self._names, *["..."] * (total > len(self._names))])
        self._reasons, self._names = Counter(), []
        return f"skipped {total:,} {'file' if total == 1 else 'files'} ({reasons}): {names}"


class _Meter:
    """Images done of a total, and their rate over the last half minute or so."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.done = 0
        self._marks: deque[tuple[float, int]] = deque(maxlen=60)
        """(time, images done) at each frame."""

    @property
    def fraction(self) -> float:
        """0 to 1."""
        return min(1.0, self.done / self.total) if self.total else 0.0

    def read(self, now: float) -> tuple[float, float]:
        """Return images per second, 0 while unknown, and seconds left; the time before the first batch does not count."""
        if self.done:
            self._marks.append((now, self.done))
        began, before = self._marks[0] if self._marks else (now, 0)
        if before == self.done or began >= now:
            return 0.0, 0.0
        rate = (self.done - before) / (now - began)
        return rate, max(0, self.total - self.done) / rate
