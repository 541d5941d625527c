import json
import math

import pytest

from rlaif_pl.data.metric_files import write_metrics
from rlaif_pl.reporting.run import read_run
from rlaif_pl.reporting.sections import metric_rows
from rlaif_pl.reporting.verdict import judge


def test_every_file_is_read(run_dir):
    run = read_run(run_dir)
    assert run.problems == []
    assert run.name == "quick-run"
    assert [stage.name for stage in run.stages] == ["sft", "a2c", "evaluate"]
    assert run.stages[1].history["a2c/kl"][:2] == [(0, 0.0), (1, 0.1)]
    assert run.stages[0].history["sft/val_loss"] == [(1, 2.5)]
    assert run.stages[0].facts["torch"] == "2.13"
    assert len(run.samples) == 12
    assert run.win_rates[1].low is None
    assert run.reliability[1].accuracy == 0.5


def test_an_empty_folder_is_an_empty_run(tmp_path):
    run = read_run(tmp_path)
    assert (run.stages, run.samples, run.win_rates, run.problems) == ([], [], [], [])


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="there is none at .*nowhere"):
        read_run(tmp_path / "nowhere")


def test_an_unfinished_stage_is_last_and_has_no_time(run_dir):
    (run_dir / "sft/done.json").rename(run_dir / "sft/started.json")
    stage = read_run(run_dir).stages[-1]
    assert (stage.name, stage.is_finished, stage.seconds) == ("sft", False, None)


def test_other_folders_are_no_stages(run_dir):
    (run_dir / "replaced" / "sft-1").mkdir(parents=True)
    (run_dir / "replaced" / "sft-1" / "done.json").write_text("{}")
    assert "replaced" not in [stage.name for stage in read_run(run_dir).stages]


def test_evaluation_files_may_be_in_another_stage(run_dir):
    (run_dir / "evaluate/win_rates.json").rename(run_dir / "a2c/win_rates.json")
    assert len(read_run(run_dir).win_rates) == 2


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("metrics.json", "{", "quick-run/metrics.json could not be read"),
        ("metrics.json", '{"a": "b"}', "expected a number for 'a'"),
        ("sft/run_facts.json", "[]", "expected a JSON object, got list"),
        ("evaluate/win_rates.json", '{"a": 1}', "expected a JSON list, got dict"),
        ("evaluate/win_rates.json", '[{"name": "x"}]', "entry 1 lacks judge, value, low, high, n"),
        ("evaluate/samples.jsonl", '{"prompt": "x"}', "entry 1 lacks reference, sft, policy"),
        ("sft/labels.json", '{"order_gap_counts": [1, -2]}', "to be a list of counts"),
        ("evaluate/samples.jsonl", "{\n", "evaluate/samples.jsonl could not be read"),
    ],
)
def test_a_damaged_file_is_named_and_counts_as_missing(run_dir, name, content, said):
    (run_dir / name).write_text(content)
    assert any(said in problem for problem in read_run(run_dir).problems)


def test_samples_without_a_reward_each_are_refused(run_dir):
    path = run_dir / "evaluate/samples.jsonl"
    path.write_text(path.read_text().replace("[-0.25]", "[]"))
    assert "expected one reward a response" in read_run(run_dir).problems[0]


def test_numbers_that_are_not_finite_count_as_not_measured(run_dir):
    (run_dir / "metrics.json").write_text('{"a": null, "b": 1}')
    assert read_run(run_dir).metrics == {"b": 1}
    (run_dir / "sft/history.csv").write_text("step,loss\n0,nan\n1,2.0\n2")
    assert read_run(run_dir).stages[0].history == {"loss": [(1, 2.0)]}
    (run_dir / "sft/history.csv").write_text(
        "step,loss\n1,2.5\n2,12.3"
    )  # of "12.375", cut by a kill
    assert read_run(run_dir).stages[0].history == {"loss": [(1, 2.5)]}
    assert not any(math.isnan(v) for v in read_run(run_dir).metrics.values())


def measured(folder, stage, time, metrics):
    (folder / stage).mkdir(exist_ok=True)
    (folder / stage / "done.json").write_text(json.dumps({"time": time, "command": "x"}))
    write_metrics(folder / stage / "metrics.json", metrics)


def test_a_metric_of_several_stages_is_that_of_evaluate_and_all_are_kept(tmp_path):
    measured(tmp_path, "evaluate", 1, {"a2c/n": 4, "a2c/kl": 1.0, "a2c/kl_low": 0.5})
    measured(tmp_path, "other", 2, {"a2c/n": 4, "a2c/kl": 2.0, "x": 1.0})
    measured(tmp_path, "last", 3, {"x": 2.0})
    write_metrics(tmp_path / "metrics.json", {"run/seconds": 3.0, "other:x": 1.0, "last:x": 2.0})
    run = read_run(tmp_path)
    assert run.metrics == {
        "run/seconds": 3.0, "a2c/n": 4, "a2c/kl": 1.0, "a2c/kl_low": 0.5, "x": 2.0,
    }  # fmt: skip
    assert run.by_stage == {
        "run/seconds": 3.0, "a2c/n": 4, "evaluate:a2c/kl": 1.0, "evaluate:a2c/kl_low": 0.5,
        "other:a2c/kl": 2.0, "other:x": 1.0, "last:x": 2.0,
    }  # fmt: skip


def test_figures_of_two_measurements_are_not_mixed(tmp_path):
    found = {"labeler/alignment": 0.6, "labeler/same_slot": 0.9, "labeler/verdicts_by_synthetic": 9}
    limits = {"a2c/length_ratio_low": 1.1, "a2c/length_ratio_high": 1.3}
    measured(tmp_path, "older", 1, found | {"a2c/length_ratio": 1.2, "label/pairs": 4} | limits)
    newer = {"labeler/alignment": 0.7, "labeler/verdicts_by_human": 8, "a2c/length_ratio": 1.5}
    measured(tmp_path, "newer", 2, newer)
    run = read_run(tmp_path)
    assert run.metrics == newer | {"label/pairs": 4}
    said = [finding.text for finding in judge(run).findings]
    assert any(text.startswith("The labeler agrees with people in 70.0 %") for text in said)


def test_each_stage_is_said_to_agree_with_those_it_was_measured_by(tmp_path):
    for time, (judges, share) in enumerate({"reading": 0.6, "synthetic": 0.7}.items()):
        gold = {"labeler/alignment": share, f"labeler/verdicts_by_{judges}": 200 + time}
        measured(tmp_path, judges, time, gold)
    measured(tmp_path, "more", 3, {"labeler/alignment": 0.8, "labeler/verdicts_by_reading": 500})
    said = {(row.stage, row.meaning) for row in metric_rows(read_run(tmp_path)) if row.meaning}
    assert said == {
        ("reading", "labeler agrees with a language model's blind reading"),
        ("synthetic", "labeler agrees with synthetic verdicts"),
        ("more", "labeler agrees with a language model's blind reading"),
    }


def test_metrics_of_an_unfinished_stage_do_not_count(tmp_path):
    measured(tmp_path, "evaluate", 1, {"x": 1.0})
    (tmp_path / "evaluate/done.json").rename(tmp_path / "evaluate/started.json")
    assert read_run(tmp_path).metrics == {}


def test_win_rates_of_other_stages_follow_unless_they_are_the_same(run_dir):
    path = run_dir / "evaluate/win_rates.json"
    rates = json.loads(path.read_text())
    rates[0] |= {"judge": "another", "value": 0.6}
    (run_dir / "a2c/win_rates.json").write_text(json.dumps(rates))
    found = read_run(run_dir).win_rates
    assert [(rate.name, rate.stage) for rate in found] == [
        ("policy_vs_sft", ""), ("policy_vs_reference", ""), ("policy_vs_sft", "a2c"),
    ]  # fmt: skip
