"""Every system under configs/methods runs from its own file, on the tiny model.

All write into one run folder: a stage that two systems have alike (the SFT policy, the labels) is
finished when the second one comes to it, so it is skipped, which the last test looks at too.
"""

import json
import math

import pytest
import yaml

from rlaif_pl.cli.commands import rest as command
from rlaif_pl.config_paths import config_paths
from rlaif_pl.pipeline import run

METHODS = config_paths() / "methods"
REWARD = "model.init_args.reward.init_args.labeler.init_args.backend.init_args.model"
SCORED = {"reward.init_args.labeler.init_args.backend.init_args.model": "${model}"}
# Stages that are not the quickstart's, or are so in name only; laid over after the file's own `set`.
SMALLER = {
    "rest": {
        "policy.trunk_layers": 2,
        "prompts": "${prompts}",
        "validation": {"name": "tiny_tldr/dev", "limit": 4},
        "reward.init_args.backbone.trunk_layers": 2,
        "grow_steps": 1,
        "drawing.sampling": {"n": 2, "max_new_tokens": 6},
        "improve.levels": [50],
        "improve.keep_unfinished": True,
        "improve.early_stop": False,
        "improve.lora": {"r": 2, "alpha": 4},
        "improve.trainer": {"max_steps": 3, "accelerator": "cpu"},
    },
    "dpo": {
        "trainer.max_steps": 2,
        "trainer.accelerator": "cpu",
        "model.init_args.backbone.trunk_layers": 2,
        "model.init_args.lora": {"r": 2, "alpha": 4},
        "data.batch_size": 4,
    },
    # test_quickstart draws every metric of every step and compares twice as many texts
    **{stage: {"trainer.log_every_n_steps": 3} for stage in ("sft", "reward", "a2c")},
    "evaluate": {"prompts": {"name": "${prompts}", "limit": 6}},
    "label_people": {"labeler.init_args.backend.init_args.model": "${model}"},
}


def comparisons(prompts, path):
    """Write people's comparisons: the reference wins, two of three votes on every other pair."""
    rows = []
    for n, prompt in enumerate(prompts):
        for vote in range(1 + 2 * (n % 2)):
            texts = [str(prompt.reference), "something else entirely"]
            rows.append(
                {
                    "info": {"id": prompt.group, "post": prompt.text},
                    "summaries": [{"text": text, "policy": "sup"} for text in texts],
                    "choice": int(vote == 2),
                    "worker": f"w{vote}",
                    "extra": {"confidence": 8 if vote == 2 else 1},
                }
            )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def system(experiment, launch, tmp_path, tiny_model_folder, data_files, monkeypatch, people):
    """Return a function that runs a system by the name of its file."""
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setattr(command, "launch", launch)
    quickstart = yaml.safe_load(experiment().read_text(encoding="utf-8"))["stages"]
    smaller = {stage["name"]: stage["set"] for stage in quickstart}
    known = {"model": str(tiny_model_folder), "prompts": data_files.prompts}

    def replaced(value):
        if isinstance(value, dict):
            if str(value.get("name", "")).startswith("data/"):
                return {key: item for key, item in value.items() if key != "limit"} | {
                    "name": people
                }
            return {key: replaced(item) for key, item in value.items()}
        if isinstance(value, list):
            return [replaced(item) for item in value]
        if value == "smollm2-135m":
            return known["model"]
        return next((text for key, text in known.items() if value == "${" + key + "}"), value)

    def prepare(name):
        content = yaml.safe_load((METHODS / f"{name}.yaml").read_text(encoding="utf-8"))
        for stage in content["stages"]:
            if "config" in stage:
                stage["config"] = str((METHODS / stage["config"]).resolve())
            own = stage.get("set", {})
            small = dict(smaller.get(stage["name"], {})) if "config" in stage else {}
            if name in ("direct_rlaif", "sft", "dpo"):  # these have no reward model to cut
                small = {key: v for key, v in small.items() if "reward" not in key}
            stage["set"] = replaced(small | own | SMALLER.get(stage["name"], {}))
        content["out"] = str(tmp_path / "run")
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
        return path

    return lambda name: run(prepare(name), launch=launch)


@pytest.fixture
def people(small_prompts, tmp_path):
    """Return a file of people's comparisons: 30 pairs, since a temperature wants 20."""
    more = [
        type(small_prompts[0])(f"{p.text} again {k}", f"{p.group}-{k}", p.reference)
        for k in range(3)
        for p in small_prompts[:10]
    ]
    return comparisons(more, tmp_path / "people.json")


def metrics_of(folder):
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))


def test_no_system_is_left_out():
    assert {path.stem for path in METHODS.glob("*.yaml")} >= {
        *("sft", "rlaif", "dpo", "rlhf", "hybrid", "direct_rlaif", "same_size", "rest")
    }


@pytest.mark.slow
def test_every_system_runs_from_its_config(system, tmp_path, capsys):
    out = tmp_path / "run"

    def finished(name, stage):
        capsys.readouterr()
        assert system(name) == 0, capsys.readouterr()
        assert (out / stage / "policy" / "config.json").is_file()
        assert math.isfinite(metrics_of(out / "evaluate")["winrate/policy_vs_sft"])
        assert (out / "report.html").is_file()
        return capsys.readouterr().out

    finished("rlaif", "a2c")

    finished("dpo", "dpo")  # on the labels of rlaif
    assert metrics_of(out / "dpo")["dpo/train_loss"] > 0

    shown = finished("rest", "rest")  # on the reward model of rlaif
    assert shown.count("skipped, finished in") == 6
    rest = metrics_of(out / "rest")
    assert rest["rest/improve_steps"] == 1
    gain = rest["rest/reward_after"] - rest["rest/reward_before"]
    assert rest["rest/reward_gain"] == pytest.approx(gain)

    finished("direct_rlaif", "a2c")  # the labeler scores: it is asked, and what it reads is counted
    direct = metrics_of(out / "a2c")
    assert direct["labeler_reward/calls"] == direct["labeler_reward/run_calls"] > 0
    assert direct["labeler_reward/read_tokens"] > 0
    assert (out / "a2c" / "replies.sqlite").is_file()

    assert "stage sft: skipped" in finished("sft", "sft")

    finished("rlhf", "a2c")
    config = (out / "reward" / "config.yaml").read_text(encoding="utf-8")
    assert "openai_comparisons" in config

    finished("hybrid", "a2c")
    assert (out / "label_people" / "labeled.jsonl").is_file()

    finished("same_size", "a2c")
    label = yaml.safe_load((out / "label" / "config.yaml").read_text(encoding="utf-8"))
    model = label["labeler"]["init_args"]["backend"]["init_args"]["model"]
    assert model == str(out / "sft" / "policy")
    first = json.loads((out / "label" / "labeled.jsonl").read_text().splitlines()[0])
    assert "llama@" in first["provenance"]["labeler"]
