"""The terminal while training, on stderr: what a person sees of a run as it goes.

    with make_view(sys.stderr, classes=classes, epochs=10, total_images=480_000) as view:
        recorder = Recorder(journal, sinks=[view])      # records come in by view.write(record, inputs)
        view.advance(64)                                # after every batch, captured or not
        view.note("a sentence")                         # printed above whatever is shown; warn() is heard when quiet, too

On a terminal a LiveView shows a line for every finished epoch, a progress bar, the curve of the loss and a preview of the last
captured batch. Anywhere else a PlainView writes one line for every finished phase; if quiet, warnings only.

What it promises:

* Names are shown by views.text: nothing in one reaches the terminal as a control sequence or as markup.
* It costs the training next to nothing: `write` and `advance` keep references and counts. A frame is drawn at most twice a
  second, and the pause after it is at least 150 times what the last two took on average; so less than 1 % of the time goes into
  drawing, on a slow terminal as well.
* The state of the terminal is never changed, so nothing has to be put right however the process ends; see views.area.
* `note` and `warn` may be called from a signal handler, in the middle of a frame.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from time import monotonic
from types import TracebackType
from typing import Any, Protocol, Self, TextIO

import numpy.typing as npt
from rich.console import Console, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from capture_cli.records import Batch, Epoch, Record, RunInfo, Skip
from capture_cli.views.terminal.area import Area
from capture_cli.views.terminal.epochs import EpochTable, clock, number, phase_line
from capture_cli.views.terminal.preview import NARROWEST, preview
from capture_cli.views.terminal.sparkline import Curve
from capture_cli.views.terminal.text import plain, safe

SECONDS_PER_FRAME = 0.5
SECONDS_PER_PREVIEW = 1.0
"""Pictures change no faster than they can be looked at."""
PAUSE = 150
"""A frame is followed by a pause of this many times what frames take."""
WIDEST = 100
"""Cells of the widest bar and curve with what stands beside them."""

Inputs = npt.NDArray[Any]


class View(Protocol):
    """What a run tells a person through; a sink of the recorder, and a context manager that closes itself."""

    every_input: bool

    def begin(self, output: object) -> None:
        """Be told where the records go."""

    def write(self, record: Record, inputs: Inputs | None) -> None:
        """Take a record as it was written, and with a Batch its inputs [B, C, H, W]."""

    def advance(self, images: int) -> None:
        """A batch of so many images is done, captured or not."""

    def note(self, text: str) -> None:
        """Say something that is good to know; if quiet, it is not said."""

    def warn(self, text: str) -> None:
        """Say something that must be heard."""

    def close(self) -> None:
        """Show what is left to show. Nothing more comes."""

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...


def make_view(
    stderr: TextIO,
    *,
    classes: Sequence[str],
    epochs: int,
    total_images: int,
    phases: Sequence[str] = ("train", "val"),
    preview: int = 4,
    quiet: bool = False,
    animate: bool = True,
) -> View:
    """The view that suits `stderr`: live on a terminal that can be drawn on, plain lines elsewhere, warnings only if `quiet`.

    `total_images` are those of all `epochs` and `phases` together, `preview` the samples to show of a batch. Say
    `animate=False` where other output, such as records on stdout, goes to the same terminal. Colours are left to the
    terminal and NO_COLOR; FORCE_COLOR animates nothing that is not a terminal.
    """
    if animate and not quiet and stderr.isatty():
        console = Console(file=stderr, markup=False, emoji=False, highlight=False)
        if _can_be_drawn_on(console):
            return LiveView(console, classes=classes, epochs=epochs, total_images=total_images, phases=phases, preview=preview)
    return PlainView(stderr, epochs=epochs, quiet=quiet)


def _can_be_drawn_on(console: Console) -> bool:
    options = console.options
    return console.is_interactive and not options.legacy_windows and not options.ascii_only and options.max_width > NARROWEST


class PlainView:
    """One line for every finished phase, and what is said; nothing that moves. If quiet, only warnings."""

    def __init__(self, stream: TextIO, *, epochs: int, quiet: bool = False, now: Callable[[], float] = monotonic) -> None:
        self._stream: TextIO | None = stream
        self._epochs = epochs
        self._quiet = quiet
        self._now = now
        self._phase_began = now()
        self._left_out: Counter[str] = Counter()
        self._unsaid: deque[str] = deque()
        self._writing = False

    every_input = False

    def begin(self, output: object) -> None:
        """Where the records go is said by whoever opened the output."""

    def write(self, record: Record, inputs: Inputs | None) -> None:  # noqa: ARG002 - a sink is given both
        """Say how a phase went; count files left out."""
        if isinstance(record, RunInfo):
            self._phase_began = self._now()
        elif isinstance(record, Skip):
            self._left_out[record.reason] += 1
        elif isinstance(record, Epoch):
            began, self._phase_began = self._phase_began, self._now()
            self.note(phase_line(record, epochs=self._epochs, seconds=self._phase_began - began))

    def advance(self, images: int) -> None:
        """Nothing is shown of a batch."""

    def note(self, text: str) -> None:
        """Write `text` as one line."""
        if not self._quiet:
            self._line(text)

    def warn(self, text: str) -> None:
        """Write `text` as one line, quiet or not."""
        self._line(f"warning: {text}")

    def close(self) -> None:
        """Say what was left out."""
        if self._left_out:
            self.note(_left_out(self._left_out))
            self._left_out.clear()

    def _line(self, text: str) -> None:
        if self._stream is None:
            return
        self._unsaid.append(safe(text) + "\n")
        if self._writing:  # a signal handler speaks in the middle of a line
            return
        self._writing = True
        try:
            while self._stream and self._unsaid:
                self._stream.write(self._unsaid.popleft())
                self._stream.flush()
        except OSError:  # nobody is listening any more, which is no reason to stop the work
            self._stream = None
        finally:
            self._writing = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class LiveView:
    """Lines of finished epochs, and below them an area that is redrawn: bar, curve of the loss, preview."""

    def __init__(
        self,
        console: Console,
        *,
        classes: Sequence[str],
        epochs: int,
        total_images: int,
        phases: Sequence[str] = ("train", "val"),
        preview: int = 4,
        now: Callable[[], float] = monotonic,
    ) -> None:
        """`console` writes to a terminal, and nothing else does until `close`; the other arguments are those of `make_view`."""
        self._area = Area(console)
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
        self._sizes: dict[str, int] = {}
        self._left_out: Counter[str] = Counter()
        self._above: list[RenderableType] = []
        """What is to be printed above the area with the next frame."""
        self._drawing = self._closed = False
        self._phase_began = now()
        self._next_frame = self._next_preview = self._phase_began
        self._frames, self._took = 0, 0.0

    every_input = False

    def begin(self, output: object) -> None:
        """Where the records go is said by whoever opened the output."""

    def write(self, record: Record, inputs: Inputs | None) -> None:
        """Keep the batch that was captured last, count files left out, and take the sums of phases."""
        if isinstance(record, Batch):
            if record.phase == self._phases[0]:
                self._curves[record.phase].add(float(record.loss))
            if inputs is not None:
                self._last = record, inputs
        elif isinstance(record, Epoch):
            self._end_phase(record)
        elif isinstance(record, Skip):
            self._left_out[record.reason] += 1
        elif isinstance(record, RunInfo):
            self._phase_began = self._now()
            self._draw()

    def _end_phase(self, sums: Epoch) -> None:
        began, self._phase_began = self._phase_began, self._now()
        self._table.add(sums, seconds=self._phase_began - began)
        if sums.phase in self._curves and sums.phase != self._phases[0]:
            self._curves[sums.phase].add(sums.loss)
        # How many images there are is known once all were read: some may have turned out unusable.
        self._sizes[sums.phase] = sums.n
        if len(self._sizes) == len(self._phases):
            self._meter.total = self._epochs * sum(self._sizes.values())

    def advance(self, images: int) -> None:
        """Move the bar on by `images`; draw a frame if it is time."""
        self._meter.done += images
        if self._now() >= self._next_frame:
            self._draw()

    def note(self, text: str) -> None:
        """Print `text` above the area, wrapped at words."""
        self._say(plain(text))

    def warn(self, text: str) -> None:
        """Print `text` above the area as a warning."""
        self._say(Text.assemble(("warning: ", "yellow"), safe(text)))

    def _say(self, line: RenderableType) -> None:
        self._above.append(line)
        if not self._drawing:
            self._draw()

    def close(self) -> None:
        """Remove the area; what stays are the lines of the epochs, the curve and the count of files left out."""
        if self._closed:
            return
        self._closed = True
        self._table.finish()
        rows = self._table.take(self._area.size[0])
        if rows or self._sizes:
            rows.append(self._curve_line(self._area.size[0]))
        if self._left_out:
            rows.append(plain(_left_out(self._left_out)))
        self._above.extend(rows)
        self._draw()

    def _draw(self) -> None:
        began = self._now()
        self._drawing = True
        try:
            self._frame(began)
            while self._above:  # a signal handler had something to say meanwhile
                self._frame(began)
        finally:
            self._drawing = False
        ended = self._now()
        took = ended - began if self._frames else 0.0  # the first one pays for what all others find ready
        self._next_frame = ended + max(SECONDS_PER_FRAME, PAUSE * (took + self._took) / 2)
        self._took = took
        self._frames += 1

    def _frame(self, now: float) -> None:
        columns, rows = self._area.size
        said, self._above = self._above, []
        lines = [*self._table.take(columns), *said]
        self._area.draw(None if self._closed else self._body(now, columns, rows), above=lines)

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
        """Epoch, bar, share done; then time left, speed and phase as far as they fit."""
        meter = self._meter
        rate, left = meter.read(now)
        epoch, phase = (self._last[0].epoch, self._last[0].phase) if self._last else (1, self._phases[0])
        start, percent = self._table.label(epoch), f" {meter.share:4.0%}"
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
        """The loss so far, batch by batch in the first phase and epoch by epoch in the others; as many as fit."""
        line = Text("loss".rjust(self._table.label_width), "dim")
        curve_width = min(30, max(6, columns // 4))
        for phase, curve in self._curves.items():
            if len(curve.means) > 1:
                drawn, said = curve.line(curve_width), f" {number(curve.last)} {safe(phase)}"
                if line.cell_len + 2 + len(drawn + said) <= columns:
                    line.append("  ").append(drawn, "cyan").append(said, "dim")
        return line

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class _Meter:
    """Images done of a total, and how fast, over the last half minute or so."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.done = 0
        self._marks: deque[tuple[float, int]] = deque(maxlen=60)
        """(time, images done) at each frame."""

    @property
    def share(self) -> float:
        """0 to 1."""
        return min(1.0, self.done / self.total) if self.total else 0.0

    def read(self, now: float) -> tuple[float, float]:
        """Images per second, 0 while unknown, and seconds left; the time before the first batch does not count."""
        if self.done:
            self._marks.append((now, self.done))
        began, before = self._marks[0] if self._marks else (now, 0)
        if before == self.done or began >= now:
            return 0.0, 0.0
        rate = (self.done - before) / (now - began)
        return rate, max(0, self.total - self.done) / rate


def _left_out(reasons: Counter[str]) -> str:
    listed = ", ".join(f"{count:,} {reason}" for reason, count in reasons.most_common())
    total = reasons.total()
    return f"left out: {total:,} {'file' if total == 1 else 'files'} ({listed})"
