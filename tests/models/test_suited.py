"""Models that suit no policy or reward."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import BertConfig, BertLMHeadModel, T5Config, T5ForConditionalGeneration

from rlaif_pl.models import ActorCritic
from rlaif_pl.models.adapters import Lora
from rlaif_pl.models.backbone import load_backbone
from rlaif_pl.models.export import save_policy
from rlaif_pl.models.model_folder import save_causal
from rlaif_pl.models.policy import BackboneOptions, for_role, load_policy
from rlaif_pl.models.reward import RewardModel
from rlaif_pl.text import Template

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


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
