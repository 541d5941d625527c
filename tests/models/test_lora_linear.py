import copy

import pytest
import torch
from peft import LoraConfig
from peft.tuners import lora
from torch import nn

from rlaif_pl.models.lora_linear import LoraLinear, low_rank_update


def layers(dtype, **options):
    """The layer and PEFT's own with equal weights."""
    torch.manual_seed(0)
    base = nn.Linear(12, 20).to(dtype).requires_grad_(False)
    config = LoraConfig(r=4, lora_alpha=6, **options)
    made = []
    for kind in (LoraLinear, lora.Linear):
        torch.manual_seed(1)
        layer = kind(copy.deepcopy(base), "default", config=config, r=4, lora_alpha=6)
        nn.init.normal_(layer.lora_B["default"].weight)
        for each in (layer.lora_A, layer.lora_B):
            each.float()  # as ``inject_adapter_in_model`` leaves them
        made.append(layer)
    return made


def results(layer, x):
    x = x.clone().requires_grad_()
    out = layer(x)
    out.square().sum().backward()
    return out, x.grad, *(p.grad for p in layer.parameters() if p.requires_grad)


def test_the_update_and_its_gradients_are_pefts():
    x = torch.randn(2, 3, 12, dtype=torch.float64)
    own, peft = layers(torch.float64)
    own.double(), peft.double()
    for one, other in zip(results(own, x), results(peft, x), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("autocast", [False, True])
def test_beside_a_base_of_16_bits_adapters_and_their_gradients_stay_float32(autocast):
    x = torch.randn(64, 12)
    exact = results(layers(torch.float32)[1], x)
    own, _ = layers(torch.float32 if autocast else torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = results(own, x if autocast else x.bfloat16())
    assert [each.dtype for each in found] == [
        torch.bfloat16, torch.float32 if autocast else torch.bfloat16, *[torch.float32] * 2
    ]  # fmt: skip
    for one, other in zip(found, exact, strict=True):
        # four roundings of 2^-9, of the largest number
        assert (one.float() - other).abs().max() < 4 * 2**-9 * other.abs().max()


def test_it_is_the_same_with_and_without_gradients():
    x = torch.randn(2, 3, 12).bfloat16()
    own, _ = layers(torch.bfloat16)
    with torch.no_grad():
        alone = own(x)
    assert torch.equal(alone, own(x).detach())


def test_numerical_gradients():
    shapes = ((2, 3, 5), (2, 3, 4), (2, 4), (5, 2))
    args = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    assert torch.autograd.gradcheck(lambda *given: low_rank_update(*given, 1.5), args)


def test_by_hand():
    # x A^T = [1*1 + 2*3] = 7; times B = [2, -1] and 0.5: [7, -3.5]; plus the base
    base, x = torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0, 2.0]])
    found = low_rank_update(base, x, torch.tensor([[1.0, 3.0]]), torch.tensor([[2.0], [-1.0]]), 0.5)
    assert found.tolist() == [[8.0, -2.5]]


@pytest.mark.parametrize("way", ["dropout", "bias", "dora", "merged", "disabled"])
def test_all_else_is_left_to_peft(way):
    options = {"dropout": {"lora_dropout": 0.5}, "bias": {"lora_bias": True}}.get(way, {})
    own, peft = layers(torch.float32, **options, use_dora=way == "dora")
    for layer in (own, peft):
        if way == "merged":
            layer.merge()
        layer.enable_adapters(way != "disabled")
    x = torch.randn(3, 12)
    found = []
    for layer in (own, peft):
        torch.manual_seed(2)
        found.append(layer(x))
    torch.testing.assert_close(*found, rtol=1e-6, atol=1e-6)
