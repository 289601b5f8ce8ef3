"""capture_cli.views.terminal.live: the live view on a terminal in memory, with a clock of ours."""

import io
from collections.abc import Callable

import pytest
from rich.console import Console

from capture_cli.records import Skip
from capture_cli.views.terminal.live import LiveView, PlainView
from pretend import CLASSES, HOSTILE, INPUTS, RUN, SHOWN, batch, sums
from terminal import Screen


class Clock:
    """A clock that tests set."""

    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


class Stage:
    """A LiveView on a terminal in memory, with such a clock."""

    def __init__(self, *, columns: int = 80, rows: int = 30, **options: object) -> None:
        self.file = io.StringIO()
        self.clock = Clock()
        console = Console(file=self.file, force_terminal=True, color_system="truecolor", width=columns, height=rows)
        given: dict[str, object] = {"classes": CLASSES, "epochs": 2, "total_images": 400, "now": self.clock, **options}
        self.view = LiveView(console, **given)  # type: ignore[arg-type]
        self.columns = columns

    @property
    def screen(self) -> Screen:
        """The screen now."""
        screen = Screen(self.columns)
        screen.feed(self.file.getvalue())
        return screen

    def advance(self, images: int = 0) -> str:
        """Finish a batch when a frame is due; return the text on the screen."""
        self.clock.seconds += 10
        self.view.advance(images)
        return self.screen.text


def test_a_sample_is_shown_with_all_its_facts() -> None:
    """Picture, file, label, prediction, p(label) and loss; a sign marks a wrong prediction, not only colour."""
    stage = Stage()
    stage.view.write(batch(label=0, pred=1), INPUTS)
    lines = stage.advance(2).splitlines()
    assert any("▀▀▀▀▀▀▀▀" in line for line in lines)
    assert [line[:26].rstrip() for line in lines[-4:]] == ["boot_0001.png", "label boot", "pred  coat ✗", "p 0.031 loss 3.474"]
    assert "pred  coat ✓" in lines[-2][26:]


def test_only_as_many_samples_as_asked_for() -> None:
    """`preview=1` shows one, `preview=0` none."""
    for samples in (0, 1):
        stage = Stage(preview=samples)
        stage.view.write(batch(), INPUTS)
        text = stage.advance(2)
        assert text.count("pred  ") == samples
        assert "coat_0002.png" not in text


def test_hostile_names_are_harmless() -> None:
    """File and class names are shown escaped, and control nothing."""
    stage = Stage(columns=300, classes=[HOSTILE, "coat"], preview=1)
    stage.view.write(batch(file=HOSTILE), INPUTS)
    stage.view.note(HOSTILE)
    stage.view.warn(HOSTILE)
    lines = stage.advance(2).splitlines()
    assert SHOWN in lines
    assert f"warning: {SHOWN}" in lines
    assert any(line.startswith(r"\x1b[2J…") and line.endswith(".png") for line in lines)
    assert any(line.startswith(r"label \x1b") for line in lines)
    assert any(line.startswith(r"pred  \x1b") for line in lines)
    assert "31" not in stage.screen.styles


@pytest.mark.parametrize("columns", [20, 25, 40, 60, 80, 200])
@pytest.mark.parametrize("rows", [3, 10, 24, 50])
def test_any_terminal_is_large_enough(columns: int, rows: int) -> None:
    """No line is as wide as the terminal (Screen checks it), and the area is never higher."""
    stage = Stage(columns=columns, rows=rows, classes=["漢字" * 30, "coat"], epochs=100, total_images=10**9)
    stage.view.write(batch(file="漢字/" * 60 + "_0001.png"), INPUTS)
    stage.view.write(batch(file="猫" * 80), INPUTS)
    for _ in range(2):
        text = stage.advance(123_456)
        assert len(text.splitlines()) < max(rows, 4)
    stage.view.write(sums("train"), None)
    stage.view.write(sums("val"), None)
    stage.view.note("a sentence that is longer than any of the narrow terminals, and is wrapped at its words")
    assert "0.750" in stage.screen.text
    if columns >= 40 and rows >= 24:
        assert "1.png" in stage.screen.text or "猫" in stage.screen.text


def test_the_bar_counts_batches_that_are_not_captured() -> None:
    """Bar, speed and time left count all images."""
    stage = Stage()
    stage.view.write(RUN, None)
    stage.advance(100)
    line = next(line for line in stage.advance(100).splitlines() if "%" in line)
    assert " 50% " in line
    assert "0:20 left" in line
    assert "10 images/s" in line


def test_the_bar_ends_where_the_images_end() -> None:
    """Files that turn out unusable are subtracted from the total after their phase."""
    stage = Stage(epochs=1, total_images=400)
    stage.view.write(sums("train", n=180), None)
    stage.view.write(sums("val", n=20), None)
    assert "100%" in stage.advance(200)


def test_a_finished_epoch_leaves_a_line() -> None:
    """Both phases and their time; the line stays when the view is closed, the area does not."""
    stage = Stage()
    stage.view.write(RUN, None)
    for epoch in (1, 2):
        for phase in ("train", "val"):
            stage.view.write(batch(phase, epoch), INPUTS)
            stage.advance(100)
            stage.view.write(sums(phase, epoch), None)
    assert "label boot" in stage.screen.text
    stage.view.close()
    assert stage.screen.lines == [
        "",
        "                 train              val",
        "epoch     loss     acc     loss     acc      time",
        "  1/2    0.500   0.750    0.500   0.750    20.0 s *",
        "  2/2    0.500   0.750    0.500   0.750    20.0 s",
        " loss  ▁▁ 0.500 train  ▁▁ 0.500 val",
        "",
    ]


def test_skipped_files_are_named_at_the_end() -> None:
    """By reason, the most frequent first, and the first three by name; closing twice prints nothing twice."""
    stage = Stage()
    for file, reason in (("a.txt", "unsupported-extension"), ("b.png", "truncated"), ("c.png", "truncated")):
        stage.view.write(Skip(file=file, reason=reason), None)
    stage.view.close()
    stage.view.close()
    assert stage.screen.lines == ["skipped 3 files (2 truncated, 1 unsupported-extension): a.txt, b.png, c.png"[:79], ""]


def test_only_the_first_skipped_files_are_named() -> None:
    """A thousand take one line."""
    stream = io.StringIO()
    view = PlainView(stream, epochs=1)
    for number in range(1000):
        view.write(Skip(file=f"{number}.png", reason="truncated"), None)
    view.close()
    view.close()
    assert stream.getvalue() == "skipped 1,000 files (1,000 truncated): 0.png, 1.png, 2.png, ...\n"


def test_frames_are_few() -> None:
    """At most two per second, however fast the batches are; a preview stays for a second."""
    stage = Stage()
    frames, shown = [], []
    for i in range(400):
        stage.clock.seconds = i / 100
        before = len(stage.file.getvalue())
        stage.view.write(batch(file=f"image_{i:04}.png"), INPUTS)
        stage.view.advance(1)
        if len(stage.file.getvalue()) > before:
            frames.append(stage.clock.seconds)
            shown.append(next(line[:14] for line in stage.screen.lines if line.startswith("image_")))
    assert len(frames) == 8
    assert len(set(shown)) == 4


def test_drawing_takes_less_than_a_hundredth_of_the_time() -> None:
    """If a frame takes 20 ms, as on a slow terminal, there are fewer frames."""
    clock = Clock()

    class Slow(io.StringIO):
        """A stream that takes 20 ms per write."""

        frames = 0

        def write(self, text: str) -> int:
            if text:
                self.frames += 1
                clock.seconds += 0.02
            return len(text)

    file = Slow()
    console = Console(file=file, force_terminal=True, width=80, height=30)
    view = LiveView(console, classes=CLASSES, epochs=1, total_images=100_000, now=clock)
    for _ in range(100_000):
        clock.seconds += 0.001
        view.advance(1)
    assert 30 <= file.frames <= 0.01 * clock.seconds / 0.02


def test_a_signal_handler_may_print_in_the_middle_of_a_frame() -> None:
    """Its note appears whole, after the frame."""

    class Interrupted(io.StringIO):
        """A stream with a signal that arrives at the first write."""

        speak: Callable[[], None] | None = None

        def write(self, text: str) -> int:
            if text and self.speak:
                speak, self.speak = self.speak, None
                speak()
            return super().write(text)

    file = Interrupted()
    view = LiveView(Console(file=file, force_terminal=True, width=80, height=30), classes=CLASSES, epochs=1, total_images=9)
    file.speak = lambda: view.note("stopping")
    view.note("hello")
    screen = Screen(80)
    screen.feed(file.getvalue())
    assert screen.lines[:2] == ["hello", "stopping"]

    lines = Interrupted()
    plain = PlainView(lines, epochs=1)
    lines.speak = lambda: plain.note("stopping")
    plain.note("hello")
    assert lines.getvalue() == "hello\nstopping\n"
