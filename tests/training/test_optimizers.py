"""The learning rate where no optimizer is named: of the kind of module, and of what it trains."""

import dataclasses
import inspect

import pytest
import torch
import yaml
from torch import nn

from rlaif_pl.cli import main as cli
from rlaif_pl.models import ActorCritic, Lora, RewardModel
from rlaif_pl.training import (
    A2CModule,
    ConstantWithWarmup,
    FineTuningAdamW,
    RewardModule,
    SFTModule,
)
from rlaif_pl.training.optimizers import mark_adapters

MODULES = {"sft": SFTModule, "reward": RewardModule, "a2c": A2CModule}
ADAPTERS = Lora(r=4, alpha=8)


def default_of(module):
    return inspect.signature(module).parameters["optimizer"].default


@pytest.mark.parametrize(
    ("stage", "lora", "rate"),
    [
        ("sft", None, 2e-5),
        ("sft", ADAPTERS, 2e-4),
        ("reward", None, 1e-5),
        ("reward", ADAPTERS, 1e-4),
        ("a2c", None, 1e-6),
        ("a2c", ADAPTERS, 1e-5),
    ],
)
def test_every_module_has_a_rate_for_layers_and_one_for_adapters(
    build, backbone, stage, lora, rate
):
    whole = dataclasses.replace(backbone, trunk_layers=0)
    changes = {
        "sft": lambda: {"backbone": whole, "lora": lora},
        "reward": lambda: {"reward": RewardModel(whole, lora=lora)},
        "a2c": lambda: {"actor": ActorCritic(whole, lora=lora)},
    }[stage]()
    own = {"optimizer": default_of(MODULES[stage]), "scheduler": ConstantWithWarmup}
    module, _ = build(stage, **own, **changes)
    optimizer = module.configure_optimizers()["optimizer"]
    found = [group["lr"] for group in optimizer.param_groups]
    assert found == pytest.approx([rate, 10 * rate] if stage == "a2c" else [rate])
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0}


def test_a_step_is_adamw_s_at_the_rate_of_adapters():
    weights = [nn.Parameter(torch.tensor([1.0, -2.0])) for _ in range(2)]
    mark_adapters({"top.lora_A.default.weight": weights[0]})
    ours = FineTuningAdamW(weights[:1], lr=1.0, adapter_lr=0.1, weight_decay=0.5)
    peer = torch.optim.AdamW(weights[1:], lr=0.1, weight_decay=0.5)
    for weight, optimizer in zip(weights, (ours, peer), strict=True):
        weight.grad = torch.tensor([0.3, 0.0])
        optimizer.step()
    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=0)


def test_a_state_of_torch_s_adamw_is_taken_over():
    weight = nn.Parameter(torch.ones(3))
    before = torch.optim.AdamW([weight], lr=1e-3)
    weight.grad = torch.ones(3)
    before.step()
    after = FineTuningAdamW([weight])
    after.load_state_dict(before.state_dict())
    assert after.param_groups[0]["lr"] == 1e-3
    assert after.state[weight]["step"] == 1


@pytest.mark.parametrize(("words", "lr"), [([], 2e-5), (["--model.optimizer.lr=3e-5"], 3e-5)])
def test_the_default_is_printed_with_its_rates_and_each_can_be_changed(capsys, words, lr):
    words = ["fit", "--model=rlaif_pl.training.SFTModule", *words, "--print_config"]
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    assert stop.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]
    optimizer = printed["optimizer"]
    assert optimizer["class_path"] == "rlaif_pl.training.FineTuningAdamW"
    assert (optimizer["init_args"]["lr"], optimizer["init_args"]["adapter_lr"]) == (lr, 2e-4)
    assert printed["scheduler"]["class_path"] == "rlaif_pl.training.ConstantWithWarmup"


@pytest.mark.parametrize("turn", [1, -1])
def test_another_optimizer_has_the_defaults_of_its_own_class(capsys, turn):
    options = ["--model.optimizer=torch.optim.AdamW", "--model.optimizer.lr=3e-5"][::turn]
    with pytest.raises(SystemExit):
        cli.main(["fit", "--model=rlaif_pl.training.SFTModule", *options, "--print_config"])
    printed = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]["optimizer"]
    assert printed["class_path"] == "torch.optim.AdamW"
    assert (printed["init_args"]["lr"], printed["init_args"]["weight_decay"]) == (3e-5, 0.01)


def test_what_is_called_alike_and_means_another_thing_is_not_handed_on(capsys, tmp_path):
    settings = {"lr": 1e-3, "scale_parameter": False, "relative_step": False}
    optimizer = {"class_path": "transformers.Adafactor", "init_args": settings}
    model = {"class_path": "rlaif_pl.training.SFTModule", "init_args": {"optimizer": optimizer}}
    (tmp_path / "fit.yaml").write_text(yaml.safe_dump({"model": model}))
    with pytest.raises(SystemExit):
        cli.main(["fit", f"--config={tmp_path / 'fit.yaml'}", "--print_config"])
    printed = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]["optimizer"]
    assert printed["init_args"]["eps"] == [1e-30, 1e-3]
