import math
import re
import xml.etree.ElementTree as ET

import pytest

from rlaif_pl.reporting import plots
from rlaif_pl.reporting.run import ShownWinRate
from rlaif_pl.statistics import Interval, ReliabilityBin

SOME, NO_LIMITS = Interval(0.5, 0.4, 0.6, 9), Interval(0.7, math.nan, math.nan, 9)
PLOTS = {
    "curve": lambda: plots.curve([(n, n * 0.5) for n in range(20)], "reward $x_1$ & <b>", 1, 2.0),
    "one point": lambda: plots.curve([(3, 1.0)], "x"),
    "forest": lambda: plots.forest(
        [
            ShownWinRate("a_vs_b", "j", 0.7, 0.6, 0.8, 9),
            ShownWinRate("a_vs_c", "j", 0.4, None, None, 9),
        ]
    ),
    "reliability": lambda: plots.reliability([ReliabilityBin(0.5, 0.4, 3)]),
    "histogram": lambda: plots.histogram([3, 0, 1], "gap"),
    "bars": lambda: plots.bars([("x", SOME, False), ("y", NO_LIMITS, True)]),
}


@pytest.mark.parametrize("name", PLOTS)
def test_a_plot_is_well_formed_and_takes_every_color_from_the_page(name):
    svg = PLOTS[name]()
    root = ET.fromstring(svg)
    assert root.get("role") == "img"
    assert root.get("viewBox")
    assert root.get("width") is None
    assert re.findall(r"#[0-9a-fA-F]{6}\b", svg) == []
    assert "var(--series-" in svg or "var(--muted)" in svg


@pytest.mark.parametrize("name", PLOTS)
def test_identifiers_are_unique_and_references_lead_somewhere(name):
    svg = PLOTS[name]()
    ids = re.findall(r'\bid="([^"]+)"', svg)
    assert len(ids) == len(set(ids))
    used = re.findall(r'(?:url\(#|href="#)([^)"]+)', svg)
    assert set(used) <= set(ids)


def test_text_is_text_and_not_taken_for_a_formula():
    assert "reward $x_1$ &amp; &lt;b&gt;" in PLOTS["curve"]()


def test_a_plot_is_the_same_each_time():
    assert PLOTS["forest"]() == PLOTS["forest"]()


def test_moving_mean_by_hand():
    # 10 points at share 0.2: half a window is 1, so three points, two at the ends.
    values = [0.0, 3.0, 6.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]
    mean = plots.moving_mean(values, 0.2)
    assert mean[:4] == [1.5, 3.0, 3.0, 2.0]
    assert mean[-1] == 0.5
    assert len(mean) == 10
