"""The table of ReST, and how the report shows it."""

from rlaif_pl.cli.commands.rest import write_steps
from rlaif_pl.recipes import rest
from rlaif_pl.recipes.rest import Step


def result(reward, half=0.1, **fit):
    limits = {"reward_low": reward - half, "reward_high": reward + half}
    return {"reward": reward, **limits, "words": 12.5, "unfinished": 0.25, **fit}


def fitted(reward, level, kept, half=0.1):
    return result(reward, half, kept=kept, demonstrations=3.0, level=level, lr=1e-4)


STEPS = [
    Step(0, 0, True, result(0.5) | {"demonstration_reward": 0.75}),
    Step(1, 1, True, fitted(0.55, 0.0, 24.0)),
    Step(1, 2, True, fitted(0.9, 0.7, 12.0)),
    Step(2, 1, False, fitted(0.85, 0.0, 30.0)),
]


def test_steps_stand_below_each_other():
    found = rest.page_of(STEPS).tables[0].cells()
    assert found[0] == [
        "start", "", "–", "–", "–", "–", "0.5 [0.4, 0.6]", "12.5", "25.0", "",
    ]  # fmt: skip
    assert found[3] == [
        "2", "1", "0", "30", "3", "0.0001", "0.85 [0.75, 0.95]", "12.5", "25.0", "not kept",
    ]  # fmt: skip


def test_the_report_shows_every_round(stage, page_of):
    folder = stage("rest", "rest")
    write_steps(folder, STEPS)
    page = page_of(folder.parent)
    text = " ".join(page.sections["results-rest"].split())
    assert text.startswith("ReST rounds stage rest")
    assert "2 of 3 Improve steps were kept" in text
    assert "from 0.5 to 0.9; their intervals are apart" in text
    assert "That reward decided which steps were kept" in text
    assert len(page.images) == 1
    assert "A study" not in page.sections["verdict"]


def test_the_plot_has_a_point_a_step():
    (axes,) = rest.plot(STEPS).axes
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["start", "1.1", "1.2", "2.1"]
    assert axes.lines[0].get_ydata().tolist() == [0.5, 0.55, 0.9, 0.85]


def test_intervals_that_overlap_and_loops_that_never_helped_are_said():
    assert "their intervals overlap" in rest.reading([STEPS[0], STEPS[1]])
    assert "The policy is the one it started from" in rest.reading([STEPS[0], STEPS[3]])
