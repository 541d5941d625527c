import io
from dataclasses import replace

import pytest
from rich.console import Console

from rlaif_pl.evaluation.harmlessness.rates import HarmlessRates, notes, page_of, write
from rlaif_pl.statistics import Interval

RATES = HarmlessRates(
    "a [judge]",
    Interval(0.5, 0.4, 0.6, 40),
    Interval(0.75, 0.65, 0.85, 40),
    Interval(0.25, 0.1, 0.4, 40),
    200.0,
    120.0,
    0,
)


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(0.1, 0.4, "is higher"), (-0.1, 0.4, "does not clearly differ"), (-0.4, -0.1, "is lower")],
)
def test_the_gain_is_read_by_its_interval(low, high, said):
    rates = replace(RATES, gain=Interval((low + high) / 2, low, high, 40))
    assert said in notes(rates)[0]


def test_missing_grades_and_short_responses_are_said():
    assert len(notes(RATES)) == 2
    text = " ".join(notes(replace(RATES, missing=3, chars_policy=90.0)))
    assert "3 responses have no grade" in text
    assert "look at helpfulness too" in text


def test_table_plot_and_terminal_agree(tmp_path):
    write(RATES, tmp_path)
    page = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert page == page_of(RATES).markdown()
    assert "| policy | 75.0 [65.0, 85.0] | 120 |" in page
    assert "(rates.svg)" in page
    assert "95 % interval" in (tmp_path / "rates.svg").read_text(encoding="utf-8")
    stream = io.StringIO()
    page_of(RATES).render(Console(file=stream, width=120))
    assert "75.0 [65.0, 85.0]" in stream.getvalue()
    assert "a [judge]" in stream.getvalue()
