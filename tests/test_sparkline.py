"""capture_cli.views.terminal.sparkline: the shape of a series in one line."""

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capture_cli.views.terminal.sparkline import BARS, NOT_A_NUMBER, Curve, sparkline

values = st.lists(st.floats(-1e6, 1e6), max_size=300)


def test_from_the_least_to_the_greatest() -> None:
    """The least value is the lowest bar, the greatest the highest."""
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], width=8) == BARS
    assert sparkline([2.3, 1.1, 0.7, 0.6], width=10) == "█▃▁▁"


def test_more_values_than_room_are_averaged() -> None:
    """Equal spans of values share a bar."""
    assert sparkline([0, 0, 7, 7, 14, 14], width=3) == "▁▅█"


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_what_is_not_a_number_is_marked(odd: float) -> None:
    """It neither raises nor spoils the scale of the others."""
    assert sparkline([0, odd, 1], width=3) == f"▁{NOT_A_NUMBER}█"
    assert sparkline([math.inf, -math.inf], width=1) == NOT_A_NUMBER


def test_without_a_range_it_is_flat() -> None:
    """One value, equal values, no value, no room."""
    assert sparkline([5], width=3) == "▁"
    assert sparkline([5, 5, 5], width=3) == "▁▁▁"
    assert sparkline([], width=3) == ""
    assert sparkline([1, 2], width=0) == ""


@given(values, st.integers(0, 100))
def test_it_never_takes_more_room(series: list[float], width: int) -> None:
    """As many bars as values, at most `width`."""
    assert len(sparkline(series, width)) == min(len(series), width)


@given(st.lists(st.floats(-1e3, 1e3), max_size=500))
def test_a_curve_is_bounded_and_true(series: list[float]) -> None:
    """It keeps fewer than `size` means, each of equally many of the values."""
    curve = Curve(size=16)
    for value in series:
        curve.add(value)
    assert len(curve.means) < 16
    assert len(curve.means) >= min(len(series), 8)
    if curve.means:
        span = 1
        while len(series) // span >= 16:
            span *= 2
        expected = [statistics.fmean(series[i : i + span]) for i in range(0, len(series) - span + 1, span)]
        assert curve.means == pytest.approx(expected, abs=1e-6)
