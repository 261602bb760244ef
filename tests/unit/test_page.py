"""The elements of a page: escaped, in few digits, and the same each time."""

from __future__ import annotations

import pytest

from benchmarks.harness.html import NOTHING, Line, Piece, bars, change, number, percent, tag
from benchmarks.harness.svg import Curve, lines
from tests.unit.report_runs import Seen


def test_bars_of_nothing_or_of_no_number_are_empty() -> None:
    assert "width" not in bars([Line("a", [Piece(0.0, "ours")])], about="")
    assert "width" not in bars([Line("a", [Piece(float("nan"), "ours")])], about="", whole=1.0)
    assert "width:50.00%" in bars([Line("a", [Piece(1.0, "ours")])], about="", whole=2.0)


def test_what_is_not_html_is_escaped_in_text_and_in_attributes() -> None:
    made = tag("p", "a < b", tag("b", "&"), class_='"', title=None)
    assert made == '<p class="&quot;">a &lt; b<b>&amp;</b></p>'


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, NOTHING), (float("nan"), NOTHING), (0.0, "0"), (0.01234, "0.0123"),
        (2.463, "2.46"), (48.22, "48.2"), (1160.4, "1,160"), (3.0, "3"),
        (-0.5, "\N{MINUS SIGN}0.5"), (1e-7, "1.00e\N{MINUS SIGN}07"),
    ],
)  # fmt: skip
def test_figures_have_three_digits(value: float | None, text: str) -> None:
    assert number(value) == text


def test_shares_are_percent() -> None:
    assert (percent(-0.001), change(-0.001), change(0.12)) == ("0%", "0%", "+12%")
    assert (percent(0.123), percent(-0.123, 1), percent(None)) == (
        "12%",
        "\N{MINUS SIGN}12.3%",
        "\N{EN DASH}",
    )


@pytest.mark.parametrize("most", [8.0, 80.0, 8e6])
def test_a_logarithmic_axis_has_figures_that_are_read_at_a_glance(most: float) -> None:
    made = lines([Curve("a", [1.0, most], [0.05, 1.3])], x="x", y="y", log="xy")
    shown = [each for each in Seen(made).text.split() if each[0].isdigit()]
    assert "1" in shown
    assert 4 <= len(shown) <= 24
    assert "mathdefault" not in made
    assert "{" not in Seen(made).text


def test_a_plot_is_text_in_the_pages_colour_and_the_same_each_time() -> None:
    def made() -> str:
        curves = [Curve("_$ours$", [1.0, 10.0], [2.0, 20.0])]
        return lines(curves, x="x", y="y", log="xy", limit=("most", 9.0))

    assert made() == made()
    assert "$ours$" in made()
    assert "currentColor" in made()
    assert "<?xml" not in made()
