"""The table of ``select``, and how the report shows it."""

import math
from dataclasses import replace
from pathlib import Path

from rlaif_pl.data.metric_files import save_figure, write_page
from rlaif_pl.evaluation import selection as text_of
from rlaif_pl.evaluation.selection import Candidate, JudgedCandidate, choose
from rlaif_pl.evaluation.win_rate import TextMeasures, WinRate
from rlaif_pl.statistics import Interval, empty_interval

TEXTS = TextMeasures(10.0, 50.0, 0.0)


def judged(step, reward, rate, half=0.05, unfinished=0.125):
    raw = Interval(rate, rate - half, rate + half, 40)
    result = WinRate("judge", raw, raw, TEXTS, TEXTS, 1.25, 40, 0, 0, {})
    return JudgedCandidate(Candidate(Path(f"step={step}.ckpt"), step, reward), result, unfinished)


def cells(*rows):
    return text_of.page_of(rows, choose(rows)).tables[0].cells()


def said(*rows):
    return text_of.reading(rows, choose(rows))


def test_candidates_stand_by_validation_reward():
    found = cells(judged(8, 1.5, 0.6), judged(16, 2.5, 0.55), judged(4, 1.0, 0.7))
    assert [row[0] for row in found] == ["16", "8", "4"]
    assert [row[-1] for row in found] == ["", "", "chosen"]
    assert found[2] == [
        "4", "1", "70.0 [65.0, 75.0]", "70.0 [65.0, 75.0]", "1.25", "12.5", "chosen",
    ]  # fmt: skip


def test_the_report_shows_the_choice_and_what_it_is_worth(stage, page_of):
    folder = stage("select", "select")
    rows = (judged(8, 1.5, 0.6, half=0.1), judged(16, 2.5, 0.65))
    write(folder, rows)
    (folder / "samples.jsonl").write_text('{"prompt": "secret", "sft": "x", "step_8": "y"}\n')
    page = page_of(folder.parent)
    text = " ".join(page.sections["results-select"].split())
    assert text.startswith("Choice of the checkpoint stage select")
    assert "Step 16 won most against SFT and was exported: 65.0 % [60.0, 70.0]" in text
    assert "Of the 1 other candidates 1 have intervals that reach up to that" in text
    assert "These prompts served to choose it" in text
    assert "40 development prompts, judged by judge" in text
    assert len(page.images) == 1
    # a choice of a checkpoint makes no study of a run
    assert "A study" not in page.sections["verdict"]
    # its samples are of another kind, and no damaged ones
    assert "could not be read" not in page.sections["warnings"]
    assert "secret" not in "".join(page.sections.values())


def write(folder, rows):
    page = text_of.page_of(rows, choose(rows))
    write_page(folder, page)
    save_figure(text_of.plot(rows, choose(rows)), folder / page.plot)


def test_the_plot_names_the_chosen():
    rows = (judged(8, 1.5, 0.6), judged(16, 2.5, 0.65))
    (axes,) = text_of.plot(rows, choose(rows)).axes
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["step 16\nchosen", "step 8"]


def test_candidates_far_apart_and_single_ones_are_read_as_such():
    assert "luck." not in said(judged(8, 1.0, 0.5), judged(16, 2.0, 0.8))
    assert "only candidate" in said(judged(8, 1.0, 0.5))


def test_what_was_not_measured_is_a_dash():
    row = judged(8, 1.0, 0.5)
    rate = replace(row.rate, length_controlled=empty_interval(), length_ratio=math.nan)
    assert cells(replace(row, rate=rate))[0][3:5] == ["–", "–"]
