"""The command: its fits are processes of their own, and what it leaves behind."""

import csv
import json

import pytest
import yaml

from rlaif_pl.cli import main as cli
from rlaif_pl.reporting.files import read_results


@pytest.mark.slow
def test_the_command_trains_a_policy_and_skips_what_is_done(
    tiny_model_folder, tiny_reward_folder, data_files, tmp_path, monkeypatch
):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    out = tmp_path / "rest"
    config = {
        "policy": {"name": str(tiny_model_folder), "trunk_layers": 2},
        "prompts": {"name": data_files.prompts, "limit": 6},
        "validation": {"name": "tiny_tldr/dev", "limit": 3},
        "reward": {
            "class_path": "rlaif_pl.models.RewardModel",
            "init_args": {"backbone": {"name": str(tiny_reward_folder)}, "frozen": True},
        },
        "out": str(out),
        "drawing": {"sampling": {"n": 2, "max_new_tokens": 6}},
        "improve": {
            "by": "max_mean",
            "levels": [0.5],
            "keep_unfinished": True,
            "early_stop": False,
            "lora": {"r": 2, "alpha": 4},
            "trainer": {"accelerator": "cpu"},
        },
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    words = ["rest", "--config", str(tmp_path / "config.yaml")]
    assert cli.main(words) == 0
    log = (out / "improve-1-1" / "log.txt").read_text(encoding="utf-8")
    assert "Model written to" in log  # a process of its own, with a log of its own
    assert (out / "policy" / "config.json").is_file()
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    assert (metrics["rest/improve_steps"], metrics["rest/steps_kept"]) == (1, 1)
    assert metrics["rest/reward_before_low"] <= metrics["rest/reward_before"]
    with (out / "history.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["0", "1"]
    assert float(rows[1]["rest/val_reward"]) == pytest.approx(metrics["rest/reward_after"])
    assert [row[-1] for row in read_results(out / "tables.json").page.tables[0].rows] == [
        "",
        "kept",
    ]
    steps = json.loads((out / "steps.json").read_text(encoding="utf-8"))
    assert steps[1]["result"]["kept"] == float(rows[1]["rest/kept"])
    assert cli.main(words) == 0
    again = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    assert again["rest/parts_skipped"] == 3
    assert again["rest/reward_after"] == metrics["rest/reward_after"]
