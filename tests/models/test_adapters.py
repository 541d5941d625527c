import subprocess
import sys

import pytest
import torch
from torch import nn
from transformers import Gemma3Config, Gemma3ForConditionalGeneration

from rlaif_pl.engine.decoder_layers import decoder_of
from rlaif_pl.engine.runner import DecoderRunner
from rlaif_pl.models.adapters import Lora, clone, merged

IDS = torch.tensor([[5, 6, 7, 8]])
REAL = torch.ones_like(IDS, dtype=torch.bool)
PLACES = torch.arange(4)[None]


@pytest.fixture
def stack(make_model):
    return DecoderRunner(decoder_of(make_model("llama")))


def out(stack):
    return stack(IDS, REAL, PLACES)


def trainable(stack):
    return {name: p for name, p in stack.named_parameters() if p.requires_grad}


def train_a_step(stack):
    optimizer = torch.optim.SGD(trainable(stack).values(), lr=0.5)
    for _ in range(2):  # the first step moves B only, because it starts at 0
        optimizer.zero_grad()
        out(stack).square().mean().backward()
        optimizer.step()


def test_an_untrained_adapter_changes_nothing(stack):
    torch.testing.assert_close(out(clone(stack, Lora(r=4))), out(stack), rtol=0, atol=0)


def test_adapters_share_the_base_and_train_alone(stack):
    twin = clone(stack, Lora(r=4))
    base = {p.data_ptr() for p in stack.parameters()}
    own = [p for p in twin.parameters() if p.data_ptr() not in base]
    names = trainable(twin)
    assert len(own) == len(names)
    assert all("lora_" in name for name in names)
    # 7 linear layers a block, two matrices each, 4 blocks.
    assert len(names) == 7 * 2 * 4


@pytest.mark.parametrize("named", ["q_proj", ["q_proj"]])
def test_one_name_is_one_layer(stack, named):
    names = trainable(clone(stack, Lora(r=4, target_modules=named)))
    assert len(names) == 2 * 4
    assert all("q_proj" in name for name in names)


def test_training_an_adapter_leaves_the_original_untouched(stack):
    before = out(stack)
    twin = clone(stack, Lora(r=4))
    train_a_step(twin)
    assert not torch.allclose(out(twin), before)
    torch.testing.assert_close(out(stack), before, rtol=0, atol=0)
    assert not any(p.requires_grad or p.grad is not None for p in stack.parameters())


def test_two_roles_have_adapters_of_their_own(stack):
    policy, value = clone(stack, Lora(r=4), seed=0), clone(stack, Lora(r=4), seed=1)
    before = out(value)
    train_a_step(policy)
    torch.testing.assert_close(out(value), before, rtol=0, atol=0)


def test_the_seed_decides_the_adapter_and_the_global_stream_is_left_alone(stack):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    twins = [clone(stack, Lora(r=4), seed=s) for s in (0, 0, 1)]
    torch.testing.assert_close(torch.rand(2), expected, rtol=0, atol=0)
    first, again, other = (next(p for n, p in trainable(t).items() if "lora_A" in n) for t in twins)
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert not torch.equal(first, other)


def test_only_the_named_modules_are_adapted(stack):
    names = trainable(clone(stack, Lora(r=2, target_modules=["q_proj", "v_proj"])))
    assert len(names) == 2 * 2 * 4
    assert all("q_proj" in name or "v_proj" in name for name in names)


def test_merged_equals_the_adapter_forward_and_is_plain(stack):
    twin = clone(stack, Lora(r=4))
    train_a_step(twin)
    with torch.no_grad():
        expected = out(twin)
        flat = merged(twin)
        torch.testing.assert_close(out(flat), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(out(twin), expected, rtol=0, atol=0)  # left as it was
    plain = {name for name, _ in stack.named_parameters()}
    assert {name for name, _ in flat.named_parameters()} == plain
    assert {type(m) for m in flat.modules() if isinstance(m, nn.Linear)} == {nn.Linear}


def test_lora_by_hand(stack):
    # update = (alpha / r) B A x; alpha 8, r 2: factor 4. With A = 0.1, B = 0.2 and x = ones(32):
    # A x = 0.1 * 32 = 3.2 in each of 2 ranks; B (A x) = 0.2 * 3.2 * 2 = 1.28; times 4 = 5.12.
    layer = clone(stack, Lora(r=2, alpha=8)).decoder.layers[0].self_attn.q_proj
    x = torch.ones(1, 32)
    with torch.no_grad():
        layer.lora_A["default"].weight.fill_(0.1)
        layer.lora_B["default"].weight.fill_(0.2)
        update = layer(x) - layer.get_base_layer()(x)
    torch.testing.assert_close(update, torch.full((1, 32), 5.12), rtol=1e-4, atol=1e-4)


def test_a_full_copy_is_independent_and_trainable(stack):
    twin = clone(stack, None)
    before = out(stack)
    assert all(p.requires_grad for p in twin.parameters())
    pointers = {p.data_ptr() for p in stack.parameters()}
    assert not any(p.data_ptr() in pointers for p in twin.parameters())
    train_a_step(twin)
    torch.testing.assert_close(out(stack), before, rtol=0, atol=0)


@pytest.mark.parametrize("lora", [Lora(r=2), None])
def test_of_a_model_with_a_vision_tower_the_language_model_alone_is_trained(lora):
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
    vision = {**sizes, "num_attention_heads": 2, "image_size": 32, "patch_size": 16}
    config = Gemma3Config(
        text_config={**sizes, **heads, "vocab_size": 40},
        vision_config={**vision, "vision_use_head": False},
        mm_tokens_per_image=4,
        image_token_index=37,
        boi_token_index=38,
        eoi_token_index=39,
    )
    model = Gemma3ForConditionalGeneration(config).eval().requires_grad_(False)
    twin = clone(DecoderRunner(decoder_of(model)), lora)
    trained = [name for name, p in twin.named_parameters() if p.requires_grad]
    assert trained
    assert all(name.startswith("decoder.language_model.") for name in trained)


WITHOUT_PEFT = """
import sys

sys.modules["peft"] = None  # as where it is not installed
import torch
from rlaif_pl.models import BackboneOptions, Lora
from rlaif_pl.models.adapters import clone
from rlaif_pl.models.policy import for_role, load_policy

import rlaif_pl.cli.main
import rlaif_pl.training

policy = load_policy(BackboneOptions(sys.argv[1]))
trained = for_role(policy, None, 0)
assert any(weight.requires_grad for weight in trained.parameters())
try:
    for_role(policy, Lora(), 0)
except ImportError as error:
    print(error)
"""


def test_without_peft_all_but_adapters_works(tiny_model_folder):
    asked = [sys.executable, "-c", WITHOUT_PEFT, str(tiny_model_folder)]
    found = subprocess.run(asked, capture_output=True, text=True, check=True)
    assert "expected the package peft to train adapters, it is not installed" in found.stdout
    assert "pip install" in found.stdout


def test_adapters_are_drawn_on_the_host_alone(stack, monkeypatch):
    """With several GPUs each process would warn of, and seed, all of them."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda *_: pytest.fail("a GPU was read"))
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda _: pytest.fail("GPUs were seeded"))
    state = torch.get_rng_state()
    one, same, other = (clone(stack, Lora(r=4), seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    name = next(name for name in one if "lora_A" in name)
    assert torch.equal(one[name], same[name])
    assert not torch.equal(one[name], other[name])
