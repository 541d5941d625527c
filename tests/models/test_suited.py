"""Models that suit no policy or reward, and folders whose config contradicts the weights."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertLMHeadModel,
    T5Config,
    T5ForConditionalGeneration,
)

from rlaif_pl.engine.sampling import SamplingParams
from rlaif_pl.models import ActorCritic
from rlaif_pl.models.adapters import Lora
from rlaif_pl.models.backbone import load_backbone
from rlaif_pl.models.export import save_policy
from rlaif_pl.models.model_folder import save_causal
from rlaif_pl.models.policy import BackboneOptions, for_role, load_policy
from rlaif_pl.models.reward import RewardModel
from rlaif_pl.text import Template

IDS = torch.arange(5, 25)[None]
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def change_config(folder, **values):
    path = Path(folder) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.fixture
def t5(tokenizer, tmp_path):
    settings = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    model = T5ForConditionalGeneration(
        T5Config(vocab_size=320, decoder_start_token_id=0, eos_token_id=1, **settings)
    )
    return str(save_causal(tmp_path / "t5", model, tokenizer))


@pytest.mark.parametrize("role", [RewardModel, ActorCritic])
def test_an_encoder_decoder_is_refused_by_every_trained_role(t5, role):
    with pytest.raises(ValueError, match=r"t5, an encoder-decoder \(T5\); .*labelers"):
        role(BackboneOptions(t5))


def test_a_labeler_takes_an_encoder_decoder(t5):
    assert load_backbone(BackboneOptions(t5)).model.config.is_encoder_decoder


def test_an_encoder_is_refused(tokenizer, tmp_path):
    model = BertLMHeadModel(BertConfig(vocab_size=320, intermediate_size=16, **SIZES))
    folder = str(save_causal(tmp_path / "bert", model, tokenizer))
    with pytest.raises(ValueError, match="an encoder .Bert. whose tokens see those after them"):
        load_policy(BackboneOptions(folder), Template())


def test_a_reward_folder_is_no_policy(make_model, tokenizer, tmp_path):
    source = BackboneOptions(str(save_causal(tmp_path / "gpt2", make_model("gpt2"), tokenizer)))
    reward = str(
        RewardModel(source).save_pretrained(tmp_path / "reward")
    )  # GPT-2 ties: no weight is missing
    with pytest.raises(ValueError, match="reward folder .GPT2ForSequenceClassification"):
        load_policy(BackboneOptions(reward), Template())


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


@torch.no_grad()
def test_experts_are_written_as_they_were_read_and_adapters_pass_them_by(
    make_model, tokenizer, tmp_path
):
    folder = save_causal(tmp_path / "mixtral", make_model("mixtral"), tokenizer)
    policy = load_policy(BackboneOptions(str(folder)), Template())
    with pytest.warns(UserWarning, match=r"experts .*gate_up_proj and the like., \d\d% of the wei"):
        role = for_role(policy, Lora(r=2), 0)
    assert not any("experts" in n for n, p in role.named_parameters() if p.requires_grad)
    out = save_policy(tmp_path / "out", role)
    before, after = (load_file(each / "model.safetensors") for each in (folder, out))
    assert before.keys() == after.keys()  # one tensor an expert, as other programs read them
    assert all(torch.equal(before[name], after[name]) for name in before)
