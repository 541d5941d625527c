import os
from pathlib import Path

import pytest

from rlaif_pl.cli import main as cli

DATA = Path(os.environ.get("RLAIF_PL_DATA", Path(__file__).parents[4] / "shared" / "data"))
INTERVALS = ("alignment", "length_baseline", "gain_over_length", "length_matched")


def test_alignment_has_every_figure_with_its_interval(command, labeler, capsys):
    words = ["--data=tiny_tldr/dev", "--data.limit=10", "--draws=50", "--gate.action=off"]
    metrics = command("evaluate alignment", *words, *labeler)
    for name in INTERVALS:
        figure, low, high = (metrics[f"labeler/{name}{end}"] for end in ("", "_low", "_high"))
        assert low <= figure <= high
    said = capsys.readouterr().out
    assert "10" in said


def test_alignment_of_real_comparisons(labeler, capsys):
    file = DATA / "tldr_comparisons" / "batch13.json"
    if not file.is_file():
        pytest.skip(f"no real data at {file}; set RLAIF_PL_DATA")
    words = ["--data", str(file), "--data.confidence", "1", "2", "8", "9", "--data.limit", "6"]
    assert cli.main(["evaluate", "alignment", *words, *labeler, "--gate.action=off"]) == 0
    said = capsys.readouterr().out
    assert "length" in said
    assert "%" in said


def test_the_gate_can_stop(command, labeler, capsys):
    words = [
        "--data=tiny_tldr/dev",
        "--data.limit=6",
        "--gate.action=stop",
        "--gate.min_alignment=1.0",
    ]
    metrics = command("evaluate alignment", *words, *labeler, status=1)
    assert "alignment with a language model's blind reading" in capsys.readouterr().err
    assert "labeler/alignment" in metrics


def test_an_unknown_labeler_names_the_known_ones(command, capsys):
    command("evaluate alignment", "--data=tiny_tldr/dev", "--labeler=likelyhood", status=1)
    said = capsys.readouterr().err
    assert "'likelihood', 'listwise', 'pairwise'" in said
    assert "got 'likelyhood'" in said


def test_reward_accuracy_and_calibration(command, out, tiny_reward_folder, data_files):
    metrics = command(
        "evaluate reward",
        "--reward=rlaif_pl.models.RewardModel",
        f"--reward.backbone.name={tiny_reward_folder}",
        "--reward.frozen=true",
        "--gold.name=tiny_tldr/dev",
        "--gold.limit=10",
        f"--ai_labeled={data_files.pairs}",
        "--draws=50",
    )
    assert 0 <= metrics["reward/pair_accuracy_low"] <= metrics["reward/pair_accuracy"] <= 1
    assert metrics["reward/ece"] >= 0
    assert (out / "reliability.json").is_file()


def test_a_policy_beside_itself_wins_half_and_has_no_kl(
    command, out, tiny_model_folder, tiny_reward_folder, data_files, labeler
):
    metrics = command(
        "evaluate policy",
        f"--policy.name={tiny_model_folder}",
        f"--sft.name={tiny_model_folder}",
        "--policy.trunk_layers=2",
        "--reward=rlaif_pl.models.RewardModel",
        f"--reward.backbone.name={tiny_reward_folder}",
        "--reward.frozen=true",
        f"--prompts={data_files.prompts}",
        "--sampling.n=2",
        "--sampling.max_new_tokens=6",
        "--reporting.independent=false",
        "--reporting.draws=50",
        *labeler,
    )
    assert metrics["a2c/kl"] == pytest.approx(0.0, abs=1e-4)
    assert metrics["a2c/reward_gain"] == 0.0
    assert metrics["a2c/length_ratio"] == 1.0
    assert metrics["winrate/policy_vs_sft"] == 0.5
    assert (out / "samples.jsonl").is_file()
    assert (out / "win_rates.json").is_file()
