"""Folders whose config contradicts the weights, and heads that do more than multiply."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GraniteConfig, GraniteForCausalLM

from rlaif_pl.engine.decoder_layers import decoder_of
from rlaif_pl.engine.sampling import SamplingParams
from rlaif_pl.engine.score import CappedHead
from rlaif_pl.models import ActorCritic
from rlaif_pl.models.adapters import Lora
from rlaif_pl.models.export import save_policy
from rlaif_pl.models.model_folder import save_causal
from rlaif_pl.models.policy import BackboneOptions, for_role, load_policy
from rlaif_pl.models.prepare import output_head
from rlaif_pl.text import Template

IDS = torch.arange(5, 25)[None]


def change_config(folder, **values):
    path = Path(folder) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.fixture
def diverged(make_model, tokenizer, tmp_path):
    """A folder with two different embeddings whose config says that they are one."""
    folder = save_causal(tmp_path / "m", make_model("llama"), tokenizer)
    change_config(folder, tie_word_embeddings=True)
    return str(folder)


def logprobs_of(folder):
    return AutoModelForCausalLM.from_pretrained(folder).eval()(IDS).logits.log_softmax(-1)


@pytest.mark.parametrize("lora", [None, Lora(r=2)])
@pytest.mark.parametrize("trunk_layers", [0, 2])
@torch.no_grad()
def test_embeddings_that_differ_stay_two_whatever_the_config_says(
    diverged, tmp_path, lora, trunk_layers
):
    policy = load_policy(BackboneOptions(diverged, trunk_layers=trunk_layers), Template())
    twin = for_role(policy, lora, 0)
    batch = policy.encode(["the cat"], [["a dog"]])
    torch.testing.assert_close(twin.logprobs(batch), policy.logprobs(batch), rtol=0, atol=1e-5)
    for number, model in enumerate((policy, twin)):
        folder = save_policy(tmp_path / str(number), model)
        assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] is False
        assert "lm_head.weight" in load_file(folder / "model.safetensors")
        torch.testing.assert_close(logprobs_of(folder), logprobs_of(diverged), rtol=0, atol=1e-5)


@torch.no_grad()
def test_the_kl_of_embeddings_that_differ_is_0_at_the_first_step(diverged):
    actor = ActorCritic(BackboneOptions(diverged), value_network="none")
    batch = actor.policy.encode(["the cat"], [["a dog", "the mat"]])
    reference, _ = actor.reference_pass(batch, None, SamplingParams())
    assert torch.equal(
        actor.evaluate(batch, None, None, SamplingParams()).tokens.logprobs, reference
    )


@pytest.mark.parametrize("copied", [True, False])
def test_equal_embeddings_of_a_tied_model_stay_one(make_model, tokenizer, tmp_path, copied):
    folder = save_causal(tmp_path / "gpt2", make_model("gpt2"), tokenizer)
    if copied:  # as .bin files hold it: twice the same
        weights = load_file(folder / "model.safetensors")
        weights["lm_head.weight"] = weights["transformer.wte.weight"].clone()
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
    twin = for_role(load_policy(BackboneOptions(str(folder)), Template()), None, 0)
    assert twin.unembedding.weight is twin.top.decoder.wte.weight
    out = save_policy(tmp_path / "out", twin)
    assert "lm_head.weight" not in load_file(out / "model.safetensors")


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2"])
def test_the_head_gives_the_models_own_logits(make_model, name):
    model = make_model(name)
    head = output_head(model)
    hidden = decoder_of(model)(IDS).last_hidden_state
    torch.testing.assert_close(head(hidden), model(IDS).logits, rtol=1e-4, atol=1e-4)
    assert isinstance(head, CappedHead) == (name == "gemma2")


def test_an_unknown_kind_of_head_is_refused():
    settings = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    heads = {"vocab_size": 40, "num_attention_heads": 2, "num_key_value_heads": 1}
    model = GraniteForCausalLM(GraniteConfig(**settings, **heads, logits_scaling=2.0)).eval()
    with pytest.raises(ValueError, match="GraniteForCausalLM"):
        output_head(model)
