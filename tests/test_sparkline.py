"""capture_cli.views.terminal.sparkline: the shape of a series in one line."""

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capture_cli.views.terminal.sparkline import BARS, NOT_A_NUMBER, Curve, sparkline

values = st.lists(st.floats(-1e6, 1e6), max_size=300)


def test_bars_go_from_the_minimum_to_the_maximum() -> None:
    """The minimum is the lowest bar, the maximum the highest."""
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], width=8) == BARS
    assert sparkline([2.3, 1.1, 0.7, 0.6], width=10) == "█▃▁▁"


def test_more_values_than_the_width_are_averaged() -> None:
    """Equal spans of values share a bar."""
    assert sparkline([0, 0, 7, 7, 14, 14], width=3) == "▁▅█"


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_nan_and_infinity_are_marked(odd: float) -> None:
    """They neither raise nor spoil the scale of the others."""
    assert sparkline([0, odd, 1], width=3) == f"▁{NOT_A_NUMBER}█"
    assert sparkline([math.inf, -math.inf], width=1) == NOT_A_NUMBER


def test_without_a_range_it_is_flat() -> None:
    """One value, equal values, no value, no width."""
    assert sparkline([5], width=3) == "▁"
    assert sparkline([5, 5, 5], width=3) == "▁▁▁"
    assert sparkline([], width=3) == ""
    assert sparkline([1, 2], width=0) == ""


@given(values, st.integers(0, 100))
def test_it_is_never_wider(series: list[float], width: int) -> None:
    """As many bars as values, at most `width`."""
    assert len(sparkline(series, width)) == min(len(series), width)


@given(st.lists(st.floats(-1e3, 1e3), max_size=500))
def test_a_curve_is_bounded_and_exact(series: list[float]) -> None:
    """It keeps fewer than `size` means, each over equally many values."""
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
