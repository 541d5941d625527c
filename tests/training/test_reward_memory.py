"""What makes a reward fit smaller: recomputation, bfloat16, Adafactor; each resumes exactly."""

import dataclasses
from functools import partial

import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch.cli import OptimizerCallable
from transformers import Adafactor

from rlaif_pl.models import RewardModel
from rlaif_pl.types import Batch

OPTIMIZERS = {
    "adamw": partial(torch.optim.AdamW, lr=1e-2),
    "torch_adafactor": partial(torch.optim.Adafactor, lr=1e-2),
    "transformers_adafactor": partial(Adafactor, lr=1e-2, relative_step=False),
}


@pytest.fixture
def make(build, backbone):
    """Return a builder of a module that trains every layer."""

    def make(optimizer="adamw", **options):
        backbone_options = dataclasses.replace(backbone, trunk_layers=0, **options)
        return build(
            "reward", reward=RewardModel(backbone_options), optimizer=OPTIMIZERS[optimizer]
        )

    return make


def loss_of(module, pairs):
    batch = Batch(pairs, range(len(pairs)), [False] * len(pairs))
    with torch.no_grad():
        return module(batch)[0].sum().item()


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_fit_learns_and_resumes_bit_for_bit(
    make, trainer, weights, small_pairs, tmp_path, optimizer, precision
):
    settings = {"gradient_checkpointing": True}
    module, data = make(optimizer, **settings)
    before = loss_of(module, small_pairs)
    trainer(6, tmp_path / "whole", precision=precision).fit(module, data)
    expected = weights(module)
    assert loss_of(module, small_pairs) < before
    assert {value.dtype for value in expected.values()} == {torch.float32}
    trainer(3, tmp_path / "half", precision=precision).fit(*make(optimizer, **settings))
    module, data = make(optimizer, **settings)
    resumed = trainer(6, precision=precision)
    resumed.fit(module, data, ckpt_path=tmp_path / "half" / "last.ckpt")
    torch.testing.assert_close(weights(module), expected, rtol=0, atol=0)


def test_recomputation_changes_no_weight(make, trainer, weights):
    found = []
    for recompute in (False, True):
        module, data = make(gradient_checkpointing=recompute)
        trainer(3).fit(module, data)
        found.append(weights(module))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)


def test_bfloat16_stays_close_to_float32(make, trainer, small_pairs):
    losses = []
    for precision in ("32-true", "bf16-mixed"):
        module, data = make()
        trainer(3, precision=precision).fit(module, data)
        losses.append(loss_of(module, small_pairs))
    # Each of 4 layers rounds its states to 8 bits, 0.4 %.
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


def state_elements(optimizer):
    """Numbers that an optimizer keeps besides the weights."""
    return sum(
        value.numel()
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, torch.Tensor)
    )


@pytest.mark.parametrize("kind", ["torch.optim.Adafactor", "transformers.optimization.Adafactor"])
def test_adafactor_is_chosen_by_class_path_and_keeps_little(make, kind):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--optimizer", type=OptimizerCallable)
    init = {"lr": 1e-3} | ({"relative_step": False} if kind.startswith("transformers") else {})
    given = parser.parse_object({"optimizer": {"class_path": kind, "init_args": init}})
    build = parser.instantiate(given).optimizer
    module, _ = make()
    module.reward(["the dog sat"], [["a dog", "a cat"]])[0, 0].backward()
    parameters = list(module.trained().values())
    total = sum(parameter.numel() for parameter in parameters)
    kept = {}
    for name, optimizer in (
        ("adafactor", build(parameters)),
        ("adamw", torch.optim.AdamW(parameters)),
    ):
        optimizer.step()
        kept[name] = state_elements(optimizer)
    assert kept["adamw"] >= 2 * total
    # A matrix of R rows and C columns has R + C numbers instead of two times R C.
    assert kept["adafactor"] < 0.25 * total
