"""capture_cli.views.terminal.epochs: the totals of phases as text."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capture_cli.records import Epoch
from capture_cli.views.terminal.epochs import EpochTable, clock, duration, phase_line
from capture_cli.views.terminal.tables import number


def sums(phase: str = "train", epoch: int = 1, *, n: int = 480, loss: float = 0.512, accuracy: float = 0.812) -> Epoch:
    """The sums of one phase."""
    return Epoch(phase=phase, epoch=epoch, n=n, loss=loss, accuracy=accuracy, captured=n, not_captured=0)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.5121, "0.512"),
        (0.0, "0.000"),
        (2.3026, "2.303"),
        (99.9994, "99.999"),
        (99.9996, "100"),
        (12345.6, "12346"),
        (1e9, "1e+09"),
        (0.0005, "0.001"),
        (0.0004, "4e-04"),
        (3e-8, "3e-08"),
        (math.nan, "nan"),
        (math.inf, "inf"),
        (-math.inf, "-inf"),
    ],
)
def test_a_number_is_readable_at_any_magnitude(value: float, shown: str) -> None:
    """A tiny probability is not shown as zero, a huge loss not as a row of digits."""
    assert number(value) == shown


@given(st.floats(0) | st.just(math.nan))
def test_a_number_fits_its_column(value: float) -> None:
    """Six characters at most."""
    assert len(number(value)) <= 6


def test_durations() -> None:
    """Seconds with a decimal up to 100, then a clock."""
    assert [duration(s) for s in (0, 12.34, 99.94, 99.96, 3722)] == ["0.0 s", "12.3 s", "99.9 s", "1:40", "1:02:02"]
    assert [clock(s) for s in (0.4, 59.6, 3599.6)] == ["0:00", "1:00", "1:00:00"]


def test_a_phase_is_one_plain_line() -> None:
    """For output that is not a terminal."""
    assert phase_line(sums(n=24_690), epochs=10, seconds=2.0) == "epoch 1/10 train loss 0.512 acc 0.812 12,345 images/s"
    assert phase_line(sums(), epochs=1, seconds=0.0) == "epoch 1/1 train loss 0.512 acc 0.812"


def test_an_epoch_is_a_line_under_a_heading() -> None:
    """Both phases and the time of both; the heading comes once."""
    table = EpochTable(epochs=10, phases=["train", "val"])
    table.add(sums(), seconds=10)
    assert table.take(80) == []
    table.add(sums("val", loss=0.412, accuracy=0.85), seconds=2.34)
    assert [line.plain for line in table.take(80)] == [
        "",
        "                 train              val",
        "epoch     loss     acc     loss     acc      time",
        " 1/10    0.512   0.812    0.412   0.850    12.3 s",
    ]
    table.add(sums("train", 2), seconds=10)
    table.add(sums("val", 2), seconds=2)
    assert [line.plain for line in table.take(80)] == [" 2/10    0.512   0.812    0.512   0.812    12.0 s"]
    assert table.take(80) == []


@pytest.mark.parametrize(
    ("width", "line"),
    [
        (45, " 1/10  0.512  0.812  0.412  0.850  12.3 s"),
        (39, " 1/10  0.512  0.812  0.412  0.850"),
        (19, " 1/10  0.412  0.850"),
    ],
)
def test_columns_are_dropped_on_a_narrow_terminal(width: int, line: str) -> None:
    """First the time, then the train phase; no line is ever wrapped."""
    table = EpochTable(epochs=10, phases=["train", "val"])
    table.add(sums(), seconds=10)
    table.add(sums("val", loss=0.412, accuracy=0.85), seconds=2.34)
    lines = [text.plain for text in table.take(width)]
    assert lines[-1] == line
    assert all(len(text) <= width for text in lines)


def test_another_width_brings_another_heading() -> None:
    """A resized terminal has other columns, which are named again."""
    table = EpochTable(epochs=2, phases=["train"])
    table.add(sums(), seconds=1)
    assert len(table.take(80)) == 4
    table.add(sums(epoch=2), seconds=1)
    assert len(table.take(30)) == 4


def test_an_epoch_without_its_last_phase_is_shown_too() -> None:
    """If the run was stopped, or continues with the next epoch."""
    table = EpochTable(epochs=2, phases=["train", "val"])
    table.add(sums(), seconds=1)
    table.add(sums(epoch=2), seconds=1)
    table.finish()
    lines = [line.plain for line in table.take(80)]
    assert lines[3:] == [
        "  1/2    0.512   0.812                      1.0 s",
        "  2/2    0.512   0.812                      1.0 s",
    ]
