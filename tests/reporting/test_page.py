import json
import shutil

import pytest

from rlaif_pl.reporting.run import Run, read_run
from rlaif_pl.reporting.sections import fact_rows, metric_rows, reinforced, training_curves
from rlaif_pl.tables import duration

SECTIONS = {
    "verdict", "warnings", "win-rates", "training", "labeler", "reward-model", "samples",
    "metrics", "time", "facts", "configs",
}  # fmt: skip


def test_a_report_has_every_section_and_plot_and_nothing_outside_itself(run_dir, page_of):
    page = page_of(run_dir)
    assert set(page.sections) == SECTIONS
    # 3 curves, then each metric again: 3 of a2c and sft's one with two points.
    assert page.plots == ["win-rates", *["training"] * 7, "labeler", "reward-model"]
    assert len(page.ids) == len(set(page.ids))
    assert page.outside == []
    assert page.scripts == 0
    assert "ot measured" not in "".join(page.sections.values()).replace(
        "– not measured", ""
    ).replace("(ROUGE-L): not measured", "")


def test_texts_are_escaped(run_dir, page_of):
    page = page_of(run_dir)
    assert "A post <script>alert(1)</script> & more 0" in page.sections["samples"]
    assert "beta: <0.05>" in page.sections["configs"]
    assert "<judge>" in page.sections["win-rates"]


def test_samples_beyond_the_first_are_folded_and_rewards_stand_beside_them(run_dir, page_of):
    samples = page_of(run_dir).sections["samples"]
    assert "4 more" in samples
    assert "-0.25" in samples
    assert "0.5" in samples


def test_the_verdict_says_what_is_not_confirmed(run_dir, page_of):
    verdict = page_of(run_dir).sections["verdict"]
    assert "an independent judge neither confirms nor denies it" in verdict
    assert "66.0 % [59.0, 73.0]" in verdict


def test_times_are_shown_with_attempts(run_dir, page_of):
    text = " ".join(page_of(run_dir).sections["time"].split())
    assert "sft1 min 05 s a2c1 h 02 min (2 attempts) evaluate4.2 s (3 attempts)" in text
    assert text.endswith("all1 h 03 min")


def test_an_empty_run_gives_a_page_that_says_so(tmp_path, page_of):
    page = page_of(tmp_path)
    assert set(page.sections) == SECTIONS
    assert page.plots == []
    for name in SECTIONS - {"warnings", "configs"}:
        assert "ot measured" in page.sections[name], name


@pytest.mark.parametrize(
    "name",
    [
        "metrics.json", "a2c", "sft/history.csv", "sft/run_facts.json", "evaluate/samples.jsonl",
        "evaluate/win_rates.json", "evaluate/reliability.json", "evaluate",
    ],
)  # fmt: skip
def test_any_part_may_be_missing_or_damaged(run_dir, name, page_of):
    history = run_dir / "a2c/history.csv"  # of one metric: a plot of each is drawn for every page
    history.write_text("step,a2c/kl\n0,0.1\n1,0.2\n")
    if (run_dir / name).is_file():
        (run_dir / name).write_text("{ damaged")
        assert set(page_of(run_dir).sections) == SECTIONS
        (run_dir / name).unlink()
    else:
        shutil.rmtree(run_dir / name)
    assert set(page_of(run_dir).sections) == SECTIONS


def test_the_metrics_table_keeps_limits_beside_their_estimates():
    metrics = {"z": 1.0, "run/seconds": 1209.4, "a2c/kl": 2.0, "a2c/kl_low": 1.5,
               "a2c/kl_high": 2.5, "very_low": 3.25}  # fmt: skip
    rows = metric_rows(Run("run", metrics, [], [], [], [], []))
    assert [(row.name, row.value) for row in rows] == [
        ("a2c/kl", "2 [1.5, 2.5]"),
        ("run/seconds", "1209"),
        ("very_low", "3.25"),
        ("z", "1"),
    ]


def test_the_metrics_of_greedy_responses_say_so():
    metrics = {"a2c/empty": 0.5, "greedy/a2c/empty": 0.25}
    sampled, greedy = metric_rows(Run("run", metrics, [], [], [], [], []))
    assert sampled.meaning == "share of the policy's responses without text"
    assert greedy.meaning == f"{sampled.meaning} (likeliest responses)"


def test_curves_are_found_under_the_names_a_module_may_give_them(run_dir):
    path = run_dir / "a2c/history.csv"
    path.write_text(
        "step,a2c/kl_coef,a2c/train_kl,a2c/train_reward_std,a2c/train_reward\n0,1,2,3,4\n"
    )
    stage = reinforced(read_run(run_dir))
    shown = dict(training_curves(stage))
    assert "(a2c/train_reward)" in shown["reward"]
    assert "(a2c/train_kl)" in shown["KL from SFT, nats"]
    assert shown["response length"] is None


def test_facts_that_differ_are_shown_for_each_stage(run_dir):
    rows = dict(fact_rows(read_run(run_dir).stages))
    assert rows["torch"] == ["2.13"]
    assert rows["seed"] == ["sft: 1", "a2c: 2"]
    assert rows["parameters"] == ["134,515,008"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (59.9, "59.9 s"),
        (65, "1 min 05 s"),
        (3599.7, "1 h 00 min"),
        (7620, "2 h 07 min"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_bars_of_the_labeler_say_whose_verdicts_it_agrees_with(run_dir, page_of):
    path = run_dir / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"labeler/verdicts_by_reading": 86}))
    text = " ".join(page_of(run_dir).sections["labeler"].split())
    assert "Agreement with a language model's blind reading, beside a rule that only" in text
