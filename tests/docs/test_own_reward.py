"""The reward that the how-to writes down trains a policy, named as the how-to names it."""

import json
import re
import sys
from pathlib import Path

import pytest
import yaml

from rlaif_pl.cli import main as cli
from rlaif_pl.config_paths import find_config
from rlaif_pl.data.csv_rows import read_table

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "own_reward.md"


@pytest.fixture
def page(tmp_path, monkeypatch):
    """Save the page's module where it says, and hand out the config that it changes."""
    text = PAGE.read_text(encoding="utf-8")
    code = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (change, *_) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    (tmp_path / "my_reward.py").write_text("".join(code), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield yaml.safe_load(change)["reward"]
    sys.modules.pop("my_reward", None)


def fitted(reward, prompts, tiny_model_folder, tmp_path, status=0):
    """Return the mean reward of one step on some prompts, if the fit ends with 0."""
    config = yaml.safe_load(find_config("quickstart/a2c.yaml").read_text(encoding="utf-8"))
    arguments = config["model"]["init_args"]
    arguments["reward"] = reward
    arguments["actor"]["init_args"]["backbone"] |= {
        "name": str(tiny_model_folder),
        "trunk_layers": 2,
    }
    arguments["sampling"] |= {"n": 2, "max_new_tokens": 4}
    config["data"] |= {"prompts": str(prompts), "batch_size": 4, "validation": None}
    config["trainer"] |= {"max_steps": 1, "default_root_dir": str(tmp_path / "run")}
    config["trainer"] |= {"enable_progress_bar": False}
    (tmp_path / "my_a2c.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    assert cli.main(["fit", "--config", "my_a2c.yaml"]) == status
    if status:
        return None
    (row,) = read_table(tmp_path / "run" / "history.csv").rows
    return float(row["a2c/train_reward"])


def test_the_reward_of_the_page_trains_a_policy(page, tiny_model_folder, data_files, tmp_path):
    page["init_args"]["word"] = ""  # stands in every text, so each response gets the full reward
    assert fitted(page, data_files.prompts, tiny_model_folder, tmp_path) == 1


def test_its_function_compares_with_a_column(page, tiny_model_folder, tmp_path, capsys):
    prompts = tmp_path / "sums.jsonl"
    rows = [{"prompt": f"{n} + 1", "answer": ""} for n in range(8)]  # every text ends in that
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert fitted("my_reward.correct", prompts, tiny_model_folder, tmp_path) == 1
    lacking = [{"prompt": row["prompt"], "level": 1} for row in rows]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in lacking))
    capsys.readouterr()
    fitted("my_reward.correct", prompts, tiny_model_folder, tmp_path, status=1)
    said = capsys.readouterr().err
    assert "expected the columns answer, which correct asks for" in said
    assert "got level" in said
