"""A fit that was stopped and resumed equals the unbroken one bit for bit; so do two equal fits."""

import dataclasses

import pytest
import torch
from lightning.pytorch import Callback

from rlaif_pl.models import ActorCritic, Lora, RewardModel
from rlaif_pl.rl.kl import AdaptiveKL
from rlaif_pl.rl.shaping import RewardShaping

STAGES = ["sft", "reward", "a2c"]
STEPS, STOP = 7, 4  # 10 training rows in batches of 4: step 4 is the first of the second epoch


class Modes(Callback):
    """Counts the layers that recompute activations as the first step begins."""

    recomputing = -1

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):  # noqa: ARG002
        if self.recomputing < 0:
            layers = [m for m in pl_module.modules() if getattr(m, "gradient_checkpointing", False)]
            self.recomputing = sum(layer.training for layer in layers)


@pytest.mark.parametrize("stage", STAGES)
def test_a_resumed_fit_equals_the_unbroken_one(stage, build, trainer, weights, tmp_path):
    whole, data = build(stage)
    unbroken = trainer(STEPS)
    unbroken.fit(whole, data)
    first, data = build(stage)
    before = weights(first)
    trainer(STOP, tmp_path).fit(first, data)
    second, data = build(stage)
    resumed = trainer(STEPS)
    resumed.fit(second, data, ckpt_path=tmp_path / "last.ckpt")
    assert resumed.global_step == STEPS
    assert resumed.current_epoch == unbroken.current_epoch > 1
    expected, found = weights(whole), weights(second)
    assert any((expected[name] != before[name]).any() for name in expected)
    assert any((expected[name] != weights(first)[name]).any() for name in expected)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("placement", ["reward", "loss"])
def test_the_adaptive_kl_coefficient_survives(placement, build, trainer, weights, tmp_path):
    def make(rule=AdaptiveKL(target=0.5, gain=2.0)):  # noqa: B008 - frozen
        return build(
            "a2c",
            shaping=RewardShaping(kl_coef=0.2, kl_placement=placement, adaptive_kl=rule),
        )

    whole, data = make()
    trainer(STEPS).fit(whole, data)
    first, data = make()
    trainer(STOP, tmp_path).fit(first, data)
    second, data = make()
    trainer(STEPS).fit(second, data, ckpt_path=tmp_path / "last.ckpt")
    assert second.kl_control.kl_coef == whole.kl_control.kl_coef
    assert len({0.2, first.kl_control.kl_coef, whole.kl_control.kl_coef}) == 3
    torch.testing.assert_close(weights(second), weights(whole), rtol=0, atol=0)
    if placement == "reward":
        trainer(1, tmp_path / "kept").fit(*make(rule=None))
        with pytest.raises(ValueError, match="expected the KL coefficient in the checkpoint"):
            trainer(STEPS).fit(*make(), ckpt_path=tmp_path / "kept" / "last.ckpt")


def test_a_head_that_started_from_a_probe_is_not_probed_again(build, trainer, weights, tmp_path):
    def make():
        return build("reward", probe_penalty=0.1)

    whole, data = make()
    before = whole.reward.head.weight.clone()
    trainer(3).fit(whole, data)
    assert (whole.reward.head.weight - before).abs().max() > 0.1  # three steps move it by 0.03
    trainer(1, tmp_path).fit(*make())
    second, data = make()
    trainer(3).fit(second, data, ckpt_path=tmp_path / "last.ckpt")
    torch.testing.assert_close(weights(second), weights(whole), rtol=0, atol=0)


@pytest.mark.parametrize("stage", STAGES)
def test_the_same_seed_gives_the_same_numbers_whatever_the_global_one(
    stage, build, trainer, weights
):
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        module, data = build(stage)
        trainer(3).fit(module, data)
        found.append(weights(module))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


def test_another_seed_gives_other_numbers(build, trainer, weights):
    found = []
    for seed in (0, 1):
        module, data = build("a2c", seed=seed)
        trainer(2).fit(module, data)
        found.append(weights(module)["actor.value_head.weight"])
    assert (found[0] != found[1]).any()


@pytest.mark.parametrize("stage", STAGES)
def test_a_fit_resumed_within_an_epoch_still_recomputes_activations(
    stage, build, trainer, backbone, tmp_path
):
    def make():
        options = dataclasses.replace(backbone, gradient_checkpointing=True)
        lora = Lora(r=2, alpha=4)
        changes = {
            "sft": lambda: {"backbone": options},
            "reward": lambda: {"reward": RewardModel(options, lora=lora)},
            "a2c": lambda: {"actor": ActorCritic(options, lora=lora)},
        }
        return build(stage, **changes[stage]())

    trainer(STOP, tmp_path).fit(*make())
    modes = Modes()
    module, data = make()
    trainer(STOP + 1, callbacks=[modes]).fit(module, data, ckpt_path=tmp_path / "last.ckpt")
    assert modes.recomputing > 0
