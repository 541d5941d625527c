"""Exported folders say how their model reads texts, and whoever loads one reads them so."""

import json
import warnings

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from rlaif_pl.models import text_format
from rlaif_pl.models.actor_critic import ActorCritic
from rlaif_pl.models.adapter_export import save_adapter
from rlaif_pl.models.adapters import Lora
from rlaif_pl.models.policy import BackboneOptions, Policy, load_policy
from rlaif_pl.models.reward import RewardModel
from rlaif_pl.models.text_format import FILE, TextFormat, format_of, stored_format
from rlaif_pl.text import Template
from rlaif_pl.training import SFTModule

OWN = Template("Q: {prompt}\n\nA:", "\n{response}", 3)
OTHER = Template("P: {prompt}", " {response}")
PROMPTS, RESPONSES = ["the cat sat on a mat", "a dog"], ["the cat sat on the mat", "a dog sat"]


@pytest.fixture
def reward_folder(tiny_model_folder, tmp_path):
    source = BackboneOptions(str(tiny_model_folder))
    return RewardModel(source, template=OWN, max_response_tokens=4).save_pretrained(
        tmp_path / "reward"
    )


@pytest.fixture
def policy_folder(tiny_model_folder, tmp_path):
    policy = Policy.from_pretrained(tiny_model_folder, template=OWN)
    return policy.save_pretrained(tmp_path / "policy")


@pytest.mark.parametrize("way", ["name", "options", "memory"])
def test_a_saved_reward_model_scores_as_it_was_trained(tiny_model_folder, tmp_path, way):
    trained = RewardModel(
        BackboneOptions(str(tiny_model_folder)), template=OWN, max_response_tokens=4
    )
    folder = trained.save_pretrained(tmp_path / "reward")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if way == "options":
            again = RewardModel(BackboneOptions(str(folder)), frozen=True)
        elif way == "name":
            again = RewardModel.from_pretrained(folder, frozen=True)
        else:
            whole = AutoModelForSequenceClassification.from_pretrained(folder)
            again = RewardModel.from_pretrained(whole, frozen=True)
    assert (again.model.template, again.max_response_tokens) == (OWN, 4)
    expected = trained.score(PROMPTS, RESPONSES)
    found = again.cpu().score(PROMPTS, RESPONSES)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    default = RewardModel.from_pretrained(folder, template=Template(), max_response_tokens=128)
    assert (default.cpu().score(PROMPTS, RESPONSES) - expected).abs().max() > 1e-3


def test_whatever_is_made_of_a_saved_policy_reads_as_it_does(policy_folder):
    options = BackboneOptions(str(policy_folder))
    whole = AutoModelForCausalLM.from_pretrained(policy_folder)
    for template in (
        load_policy(options).template,
        Policy.from_pretrained(policy_folder).template,
        Policy.from_pretrained(whole).template,
        ActorCritic(options).policy.template,
        SFTModule(options).policy.template,
        RewardModel(options).model.template,
        RewardModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(policy_folder)
        ).model.template,
    ):
        assert template == OWN
    assert RewardModel(options).max_response_tokens == 128  # of a policy nothing is known


def test_adapters_say_it_too_or_are_read_as_their_base(policy_folder, tmp_path):
    policy = Policy.from_pretrained(policy_folder, lora=Lora(r=2), template=OTHER)
    folder = save_adapter(tmp_path / "adapter", policy)
    assert load_policy(BackboneOptions(str(folder))).template == OTHER
    (folder / FILE).unlink()
    assert load_policy(BackboneOptions(str(folder))).template == OWN


def test_what_is_saved_again_says_what_it_was_saved_with(reward_folder, policy_folder, tmp_path):
    with pytest.warns(UserWarning, match="is now given"):
        reward = RewardModel.from_pretrained(reward_folder, template=OTHER)
    assert stored_format(str(reward.save_pretrained(tmp_path / "a"))) == TextFormat(OTHER, 4)
    with pytest.warns(UserWarning, match="is now given"):
        policy = Policy.from_pretrained(policy_folder, template=OTHER)
    assert stored_format(str(policy.save_pretrained(tmp_path / "b"))) == TextFormat(OTHER)


def test_another_template_than_the_models_own_is_said_once(reward_folder):
    options = BackboneOptions(str(reward_folder))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        for _ in range(2):
            model = RewardModel(options, template=OTHER, frozen=True)
            RewardModel(options, template=OWN, max_response_tokens=4, frozen=True)
        longer = RewardModel(options, max_response_tokens=9, frozen=True)
    assert (model.model.template, model.max_response_tokens) == (OTHER, 4)
    assert (longer.model.template, longer.max_response_tokens) == (OWN, 9)
    ours = [str(each.message) for each in said if "is now given" in str(each.message)]
    assert len(ours) == 2
    assert ours[0].startswith(f"{reward_folder} was trained with template {OWN} and is now given")
    assert "max_response_tokens 4 and is now given 9" in ours[1]


def test_folders_without_it_are_read_by_the_default(reward_folder, policy_folder):
    for folder in (reward_folder, policy_folder):
        (folder / FILE).unlink()
    reward = RewardModel.from_pretrained(reward_folder)
    assert (reward.model.template, reward.max_response_tokens) == (Template(), 128)
    assert Policy.from_pretrained(policy_folder).template == Template()
    assert format_of(str(policy_folder), template=OTHER) == TextFormat(OTHER)


@pytest.mark.parametrize(
    "written",
    [
        "{",
        "[]",
        "{}",
        '{"template": 3}',
        '{"template": {"prompt": "no place"}}',
        '{"template": {}, "max_response_tokens": 1}',
        '{"template": {}, "max_response_tokens": true}',
    ],
)
def test_a_damaged_file_is_named(policy_folder, written):
    (policy_folder / FILE).write_text(written)
    with pytest.raises(ValueError, match=rf"expected .*policy/{FILE} to say how the model reads"):
        load_policy(BackboneOptions(str(policy_folder)))


def test_keys_of_a_later_version_are_left_alone(policy_folder):
    written = json.loads((policy_folder / FILE).read_text())
    written["template"]["later"] = written["later"] = 1
    (policy_folder / FILE).write_text(json.dumps(written))
    assert stored_format(str(policy_folder)) == TextFormat(OWN)


def test_a_hub_model_is_asked_for_it_at_its_revision(policy_folder, monkeypatch):
    asked = []

    def fetch(name, file, revision=None, **_):
        asked.append((name, file, revision))
        return str(policy_folder / FILE) if name == "me/policy" else None

    monkeypatch.setattr(text_format, "cached_file", fetch)
    assert stored_format("me/policy", "v1") == TextFormat(OWN)
    assert stored_format("org/other") is None
    assert stored_format("smollm2-135m") is None  # comes with the package
    assert stored_format("/no/such/folder") is None
    assert asked == [("me/policy", FILE, "v1"), ("org/other", FILE, None)]
