"""Modules over policies, rewards and records in memory, and their checkpoints."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from rlaif_pl.models import ActorCritic, Lora, Policy, RewardModel
from rlaif_pl.training import (
    A2CModule,
    DPOModule,
    PreferenceDataModule,
    RewardModule,
    SFTModule,
)

LORA = Lora(r=4, alpha=8)  # as in conftest.py


@pytest.fixture
def sft(tiny_model_folder):
    return Policy.from_pretrained(tiny_model_folder, trunk_layers=2, lora=LORA)


@pytest.fixture
def data(small_prompts, small_pairs):
    given = {"demonstrations": small_prompts, "prompts": small_prompts, "preferences": small_pairs}
    named = {"demonstrations": "demonstrations", "prompts": "prompts", "pairs": "preferences"}

    def make(task):
        own = {named[task]: given[named[task]]}
        return PreferenceDataModule(task, **own, validation_fraction=0, batch_size=4)

    return make


def recipe(rate=1e-2):
    return {"optimizer": lambda parameters: torch.optim.AdamW(parameters, lr=rate)}


def test_sft_trains_the_policy_itself(sft, data, trainer):
    module = SFTModule(sft, **recipe())
    assert module.policy is sft
    before = sft.identity()
    trainer(3).fit(module, data("demonstrations"))
    assert sft.identity() != before


def test_sft_leaves_a_frozen_policy(tiny_model_folder, data, trainer):
    start = Policy.from_pretrained(tiny_model_folder, trunk_layers=2, frozen=True)
    before = start.identity()
    module = SFTModule(start, lora=Lora(r=4), **recipe())
    trainer(2).fit(module, data("demonstrations"))
    assert start.identity() == before
    assert module.policy.identity() != before
    with pytest.raises(ValueError, match="expected lora=None with a policy that has weights"):
        SFTModule(module.policy, lora=Lora(r=8))


def test_in_memory_and_by_name_are_the_same_fit(build, sft, data, trainer, weights):
    named, files = build("sft")
    own = SFTModule(sft, optimizer=named.optimizer, scheduler=named.scheduler)
    found = []
    for module in (named, own):
        source = data("demonstrations")
        trainer(3).fit(module, source)
        found.append(weights(module))
    del files
    torch.testing.assert_close(*found, rtol=0, atol=0)


@pytest.mark.parametrize("kind", [SFTModule, DPOModule, ActorCritic, RewardModel])
def test_a_name_is_no_policy(kind, tiny_model_folder):
    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder)
    for given, said in ((str(tiny_model_folder), "model'"), (model, "LlamaForCausalLM")):
        with pytest.raises(
            TypeError, match=rf"expected a Policy, got .*{said}; make one of a name"
        ):
            kind(given)


def test_what_a_module_cannot_train_is_refused(sft, data, tiny_model_folder):
    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder)
    with pytest.raises(TypeError, match="expected a RewardModel, got Policy; make one"):
        RewardModule(sft)
    with pytest.raises(TypeError, match="expected a Policy or an ActorCritic, got str"):
        A2CModule("smollm2-135m", len)
    made = torch.optim.SGD(sft.parameters(), lr=1.0)
    with pytest.raises(
        TypeError, match=r"optimizer to be what makes one.* got SGD; give the class"
    ):
        SFTModule(sft, optimizer=made)
    with pytest.raises(TypeError, match="expected a tokenizer of transformers, got str"):
        Policy.from_pretrained(model, "smollm2-135m")
    with pytest.raises(ValueError, match=r"none are read yet; call setup\('fit'\)"):
        data("pairs").train_dataloader()


def test_a_plain_data_loader_is_refused(sft, trainer):
    rows = torch.utils.data.DataLoader(["a", "b"], batch_size=2)
    with pytest.raises(ValueError, match=r"PreferenceDataModule for SFTModule, got list; give"):
        trainer(1).fit(SFTModule(sft, **recipe()), rows)


def test_a2c_takes_a_policy_and_a_function(sft, data, trainer):
    asked = []

    def reward(prompts, responses):
        asked.extend(zip(prompts, responses, strict=True))
        return [float(len(text)) for text in responses]

    before = sft.identity()
    module = A2CModule(sft, reward, **recipe())
    assert module.actor.value_network == "adapter"
    trainer(2).fit(module, data("prompts"))
    assert len(asked) == 2 * 4 * 4
    assert sft.identity() == before
    assert module.policy.identity() != before
    assert {row.reward for row in module.latest_samples} <= {float(len(r)) for _, r in asked}


def test_the_chain_shares_one_trunk(sft, data, trainer):
    reward = RewardModel.from_pretrained(sft, lora=Lora(r=4))
    trainer(2).fit(RewardModule(reward, **recipe()), data("pairs"))
    module = A2CModule(ActorCritic(sft, lora=Lora(r=4)), reward, **recipe())
    assert reward.reads_states_of(module.policy)
    trainer(1).fit(module, data("prompts"))
    assert module.policy.trunk is sft.trunk is reward.model.trunk


@pytest.fixture
def checkpoint(sft, data, trainer, tmp_path):
    """A checkpoint of a policy in memory, and the policy."""
    trainer(2, tmp_path).fit(SFTModule(sft, **recipe()), data("demonstrations"))
    return tmp_path / "last.ckpt", sft


def test_a_checkpoint_holds_no_model(checkpoint):
    path, policy = checkpoint
    content = torch.load(path, weights_only=True)  # nothing pickled that is no plain data
    assert "hyper_parameters" not in content
    trained = {f"policy.{n}" for n, p in policy.named_parameters() if p.requires_grad}
    assert content["state_dict"].keys() == trained


def test_a_checkpoint_loads_over_the_same_model(checkpoint, tiny_model_folder, data, trainer):
    path, policy = checkpoint
    fresh = Policy.from_pretrained(tiny_model_folder, trunk_layers=2, lora=LORA)
    loaded = SFTModule.load_from_checkpoint(path, backbone=fresh)
    assert loaded.policy is fresh
    assert fresh.identity() == policy.identity()
    resumed = trainer(4)
    resumed.fit(SFTModule(fresh, **recipe()), data("demonstrations"), ckpt_path=path)
    assert resumed.global_step == 4
    assert fresh.identity() != policy.identity()


def test_a_checkpoint_is_refused_over_another_model(checkpoint, tiny_model_folder):
    path, _ = checkpoint
    other = Policy.from_pretrained(tiny_model_folder, trunk_layers=2, lora=LORA)
    next(p for p in other.parameters() if not p.requires_grad).data += 1e-3
    with pytest.raises(ValueError, match="given in memory, so no name can load them again"):
        SFTModule.load_from_checkpoint(path, backbone=other)
