"""Commands read a folder's texts as its model was trained to, unless they are told otherwise."""

import json

import pytest
import yaml

from rlaif_pl.cli import main as cli
from rlaif_pl.config_paths import find_config
from rlaif_pl.data.sources import load_preferences
from rlaif_pl.models import BackboneOptions, Policy, RewardModel
from rlaif_pl.models.policy import load_policy
from rlaif_pl.models.reward_folder import load_reward_folder
from rlaif_pl.text import Template

OWN = Template("Q: {prompt}\n\nA:", "\n{response}", 4)
GIVEN = ["--template.prompt", OWN.prompt, "--template.response", OWN.response]
GIVEN += ["--template.max_prompt_words", "4"]


@pytest.fixture
def policy_folder(tiny_model_folder, tmp_path):
    return str(
        Policy.from_pretrained(tiny_model_folder, template=OWN).save_pretrained(tmp_path / "policy")
    )


@pytest.fixture
def reward_folder(tiny_model_folder, tmp_path):
    source = BackboneOptions(str(tiny_model_folder), trunk_layers=2)
    return str(
        RewardModel(source, template=OWN, max_response_tokens=5).save_pretrained(
            tmp_path / "reward"
        )
    )


def test_samples_are_those_of_the_policys_own_template(
    command, out, policy_folder, tiny_model_folder, data_files
):
    texts = []
    for model, more in (
        (policy_folder, []),
        (tiny_model_folder, GIVEN),
        (tiny_model_folder, []),
        (policy_folder, ["--template", "{}"]),
    ):
        words = [f"--prompts={data_files.prompts}", "--sampling.max_new_tokens=6", *more]
        command("sample", f"--policy.name={model}", *words)
        texts.append(
            [(row.first, row.second) for row in load_preferences(str(out / "pairs.jsonl")).rows]
        )
    assert texts[0] == texts[1] != texts[2]
    assert texts[3] == texts[2]  # a template that is given wins, the default too


def test_a_reward_is_measured_as_it_was_trained(command, reward_folder, data_files):
    def measure(*more):
        return command(
            "evaluate reward",
            "--reward=rlaif_pl.models.RewardModel",
            f"--reward.backbone.name={reward_folder}",
            "--reward.frozen=true",
            f"--gold={data_files.pairs}",
            "--draws=20",
            *more,
        )["reward/ece"]

    own = measure()
    given = [word.replace("--template", "--reward.template") for word in GIVEN]
    assert own == measure(*given, "--reward.max_response_tokens=5")
    assert own != measure("--reward.template={}", "--reward.max_response_tokens=128")


def test_policies_of_other_templates_are_compared_each_by_its_own(
    command, out, policy_folder, tiny_model_folder, data_files
):
    policies = f"{{ours: {{name: {policy_folder}}}, base: {{name: {tiny_model_folder}}}}}"
    words = [f"--policies={policies}", f"--prompts={data_files.prompts}", "--reporting.draws=20"]
    words += ["--sampling.n=1", "--sampling.max_new_tokens=6", "--judges.independent=false"]
    command("evaluate matrix", *words)
    first = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    command("evaluate matrix", *words, "--template", json.dumps({"prompt": OWN.prompt}))
    other = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    assert all(row["ours"] != row["base"] for row in first[:3])
    assert all(row["ours"] == row["base"] for row in other)


def test_a_fit_takes_and_hands_on_the_templates_of_its_folders(
    policy_folder, reward_folder, data_files, tmp_path, monkeypatch
):
    config = yaml.safe_load(find_config("quickstart/a2c.yaml").read_text(encoding="utf-8"))
    arguments = config["model"]["init_args"]
    small = {"trunk_layers": 2, "create_with": None}
    arguments["actor"]["init_args"]["backbone"] |= {"name": policy_folder, **small}
    arguments["reward"]["init_args"]["backbone"] |= {"name": reward_folder, **small}
    arguments["sampling"] |= {"n": 2, "max_new_tokens": 4}
    config["data"] |= {"prompts": data_files.prompts, "batch_size": 4, "validation": None}
    config["trainer"] |= {"max_steps": 1, "default_root_dir": str(tmp_path / "run")}
    config["trainer"] |= {"enable_progress_bar": False}
    (tmp_path / "a2c.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.chdir(tmp_path)
    loaded = []

    def load(*options):
        loaded.append(load_reward_folder(*options))
        return loaded[-1]

    monkeypatch.setattr("rlaif_pl.models.reward.load_reward_folder", load)
    assert cli.main(["fit", "--config", "a2c.yaml"]) == 0
    assert [(each.model.template, each.max_response_tokens) for each in loaded] == [(OWN, 5)]
    assert Policy.from_pretrained(tmp_path / "run" / "policy").template == OWN


def test_the_chat_template_is_chosen_by_its_name(
    command, out, chat_model_folder, tiny_model_folder, data_files, tmp_path
):
    (tmp_path / "template.yaml").write_text("template: chat\n", encoding="utf-8")
    texts = []
    words = [f"--prompts={data_files.prompts}", "--sampling.max_new_tokens=6"]
    for more in (
        ["--template", "chat"],
        ["--template.chat", "true"],
        ["--config", str(tmp_path / "template.yaml")],
        ["--template", "{}"],
    ):
        command("sample", f"--policy.name={chat_model_folder}", *words, *more)
        texts.append([row.first for row in load_preferences(str(out / "pairs.jsonl")).rows])
    assert texts[0] == texts[1] == texts[2] != texts[3]
    with pytest.raises(ValueError, match="expected a chat template in the tokenizer"):
        load_policy(BackboneOptions(str(tiny_model_folder)), Template(chat=True))
