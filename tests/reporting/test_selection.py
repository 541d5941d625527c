"""The section on ``select``, from numbers that the command writes."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from rlaif_pl.data.metric_files import write_metrics
from rlaif_pl.evaluation.selection import Candidate, JudgedCandidate, choose, selection_metrics
from rlaif_pl.evaluation.win_rate import TextMeasures, WinRate
from rlaif_pl.reporting.selection import candidates, reading, table_of
from rlaif_pl.statistics import Interval, empty_interval

TEXTS = TextMeasures(10.0, 50.0, 0.0)


def judged(step, reward, rate, half=0.05, unfinished=0.125):
    raw = Interval(rate, rate - half, rate + half, 40)
    result = WinRate("judge", raw, raw, TEXTS, TEXTS, 1.25, 40, 0, 0, {})
    return JudgedCandidate(Candidate(Path(f"step={step}.ckpt"), step, reward), result, unfinished)


def written(*rows):
    return selection_metrics(rows, choose(rows))


def test_candidates_are_read_as_they_were_written():
    found = candidates(written(judged(8, 1.5, 0.6), judged(16, 2.5, 0.55), judged(4, 1.0, 0.7)))
    assert [each.step for each in found] == [16, 8, 4]
    assert [each.is_chosen for each in found] == [False, False, True]
    assert table_of(found).cells()[2] == [
        "4", "1", "70.0 [65.0, 75.0]", "70.0 [65.0, 75.0]", "1.25", "12.5", "chosen",
    ]  # fmt: skip
    assert found[0].prompts == 40


def test_the_section_shows_the_choice_and_what_it_is_worth(stage, page_of):
    folder = stage("select", "select")
    rows = (judged(8, 1.5, 0.6, half=0.1), judged(16, 2.5, 0.65))
    write_metrics(folder / "metrics.json", written(*rows))
    (folder / "samples.jsonl").write_text('{"prompt": "secret", "sft": "x", "step_8": "y"}\n')
    page = page_of(folder.parent)
    text = " ".join(page.sections["selection"].split())
    assert "step 16, chosen" in text
    assert "Step 16 won most against SFT and was exported: 65.0 % [60.0, 70.0]" in text
    assert "Of the 1 other candidates 1 have intervals that reach up to that" in text
    assert "These prompts served to choose" in text
    assert "40 development prompts" in text
    assert page.plots.count("selection") == 1
    # its samples are of another kind, and no damaged ones
    assert "could not be read" not in page.sections["warnings"]
    assert "secret" not in "".join(page.sections.values())


def test_candidates_far_apart_and_single_ones_are_read_as_such():
    apart = reading(candidates(written(judged(8, 1.0, 0.5), judged(16, 2.0, 0.8))))
    assert "luck." not in apart
    single = reading(candidates(written(judged(8, 1.0, 0.5))))
    assert "only candidate" in single


def test_what_was_not_measured_is_a_dash():
    row = judged(8, 1.0, 0.5)
    rate = replace(row.rate, length_controlled=empty_interval(), length_ratio=math.nan)
    (found,) = candidates(written(replace(row, rate=rate)))
    assert table_of([found]).cells()[0][3:5] == ["–", "–"]


@pytest.mark.parametrize("metrics", [{}, {"select/candidates": 2.0}, {"select/step_4": 0.5}])
def test_nothing_selected_is_no_candidate(metrics):
    assert candidates(metrics) == []
    assert reading([]) == "None was chosen."
