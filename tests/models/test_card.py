"""The code in a card is run as it stands, in the folder that the card came with."""

import dataclasses
import re

import pytest
import torch
import yaml

from rlaif_pl.models import BackboneOptions, RewardModel
from rlaif_pl.models.export import save_policy
from rlaif_pl.models.model_folder import save_causal
from rlaif_pl.models.policy import load_policy
from rlaif_pl.models.text_format import model_card
from rlaif_pl.text import Template

TEMPLATE = Template('Q: "{prompt}"\nA:', " {response}", 40)


@pytest.fixture
def source(make_model, tokenizer, tmp_path):
    return BackboneOptions(str(save_causal(tmp_path / "base", make_model("llama"), tokenizer)))


def run_code(folder, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(folder)
    names = {}
    exec(code, names)
    return names


def test_the_code_of_a_policy_writes_from_its_template(source, tmp_path, monkeypatch):
    policy = load_policy(source, TEMPLATE)
    names = run_code(save_policy(tmp_path / "policy", policy), monkeypatch)
    assert names["text"] == 'Q: "What the policy is to respond to."\nA:'
    assert isinstance(names["response"], str)
    assert names["written"].shape[1] > names["asked"].input_ids.shape[1]


@pytest.mark.parametrize("pooling", ["eos", "mean"])
def test_the_code_of_a_reward_model_gives_its_reward(source, tmp_path, monkeypatch, pooling):
    model = RewardModel(source, template=TEMPLATE, pooling=pooling)
    model.shift.fill_(0.5)
    want = model.score(["What was responded to."], ["A response."])[0]
    names = run_code(model.save_pretrained(tmp_path / "reward"), monkeypatch)
    torch.testing.assert_close(names["reward"].reshape(()), want.reshape(()), rtol=0, atol=1e-4)


def front_matter(card):
    return yaml.safe_load(card.split("---\n")[1])


def test_a_base_is_declared_only_if_it_can_be_on_the_hub(tmp_path):
    assert front_matter(model_card("policy", "org/model", TEMPLATE))["base_model"] == "org/model"
    for base in ("smollm2-135m", "runs/sft/policy", str(tmp_path)):
        assert "base_model" not in front_matter(model_card("policy", base, TEMPLATE))
    assert str(tmp_path.parent) not in model_card("policy", str(tmp_path), TEMPLATE)


def test_the_card_says_how_a_text_is_read():
    card = model_card("policy", "runs/sft/policy", TEMPLATE)
    assert repr(TEMPLATE.prompt) in card
    assert repr(TEMPLATE.response) in card
    assert "more than 40 words" in card
    assert "more than" not in model_card(
        "policy", "m", dataclasses.replace(TEMPLATE, max_prompt_words=None)
    )


def test_a_model_names_what_it_was_trained_from(source, tmp_path):
    card = (RewardModel(source).save_pretrained(tmp_path / "reward") / "README.md").read_text()
    assert f"Trained from `{tmp_path.name}/base`" in card
