"""The section on ReST, from files that the command writes."""

import pytest

from rlaif_pl.cli.commands.rest import write_steps
from rlaif_pl.recipes.rest import Step
from rlaif_pl.reporting.rest_steps import read_rest, reading, table_of


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


def test_steps_are_read_as_they_were_written(tmp_path):
    write_steps(tmp_path, STEPS)
    found = read_rest(tmp_path / "steps.json")
    assert [step.name for step in found] == ["start", "1.1", "1.2", "2.1"]
    assert table_of(found).cells()[0] == [
        "start", "", "–", "–", "–", "–", "0.5 [0.4, 0.6]", "12.5", "25.0", "",
    ]  # fmt: skip
    assert table_of(found).cells()[3] == [
        "2", "1", "0", "30", "3", "0.0001", "0.85 [0.75, 0.95]", "12.5", "25.0", "not kept",
    ]  # fmt: skip


def test_the_section_shows_every_round(stage, page_of):
    folder = stage("rest", "rest")
    write_steps(folder, STEPS)
    page = page_of(folder.parent)
    text = " ".join(page.sections["rest"].split())
    assert "2 of 3 Improve steps were kept" in text
    assert "from 0.5 to 0.9; their intervals are apart" in text
    assert "That reward decided which steps were kept" in text
    assert page.plots.count("rest") == 1


def test_intervals_that_overlap_and_loops_that_never_helped_are_said(tmp_path):
    def said(*steps):
        write_steps(tmp_path, steps)
        return reading(read_rest(tmp_path / "steps.json"))

    assert "their intervals overlap" in said(STEPS[0], STEPS[1])
    assert "The policy is the one it started from" in said(STEPS[0], STEPS[3])


@pytest.mark.parametrize(
    "text", ["{}", "[1]", '[{"grow": 1, "improve": 1, "is_kept": true, "result": {}}]']
)
def test_a_damaged_file_is_named(stage, page_of, text):
    folder = stage("rest", "rest")
    (folder / "steps.json").write_text(text)
    page = page_of(folder.parent)
    assert "rest/steps.json could not be read" in page.sections["warnings"]
    assert "rest" not in page.sections
