"""Policies and reward models of models in memory: the same numbers as by name, and their own copies."""

import copy

import pytest
import torch
from peft import LoraConfig
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertModel,
)

from rlaif_pl.engine.sampling import SamplingParams
from rlaif_pl.models import ActorCritic, BackboneOptions, Lora, Policy, RewardModel
from rlaif_pl.models.adapter_export import check_export, export_policy
from rlaif_pl.models.policy import for_role, frozen_copy, load_policy
from rlaif_pl.models.sampled_policy import SampledPolicy
from rlaif_pl.text import Template

PROMPTS = ["the dog sat", "a cat"]
RESPONSES = [["a dog", "the cat sat on the mat"], ["cat", "b"]]
WAYS = [(None, 0), (None, 2), (Lora(r=4), 0), (Lora(r=4), 2)]


@pytest.fixture
def loaded(tiny_model_folder):
    """Return a maker of the tiny model and its tokenizer, as transformers loads them."""

    def load(folder=tiny_model_folder, kind=AutoModelForCausalLM):
        model = kind.from_pretrained(folder, dtype=torch.float32)
        return model, AutoTokenizer.from_pretrained(folder)

    return load


@torch.no_grad()
def logprobs(policy):
    return policy.logprobs(policy.encode(PROMPTS, RESPONSES))


def stir(policy):
    """Move every trained weight, as training would."""
    for parameter in policy.parameters():
        if parameter.requires_grad:
            parameter.data += 0.02 * torch.randn_like(parameter)


@pytest.mark.parametrize(("lora", "trunk_layers"), WAYS)
def test_a_loaded_model_gives_what_its_folder_gives(loaded, tiny_model_folder, lora, trunk_layers):
    own = Policy.from_pretrained(*loaded(), trunk_layers, lora)
    named = Policy.from_pretrained(tiny_model_folder, trunk_layers=trunk_layers, lora=lora)
    torch.testing.assert_close(logprobs(own), logprobs(named), rtol=0, atol=0)
    assert own.info.stop_token_ids == named.info.stop_token_ids
    assert own.info.vocab_size == named.info.vocab_size
    trained = {name for name, p in own.named_parameters() if p.requires_grad}
    assert trained == {name for name, p in named.named_parameters() if p.requires_grad} != set()


def test_the_tokenizer_beside_the_weights_is_found(loaded):
    policy = Policy.from_pretrained(loaded()[0])
    assert policy.texts([policy.encode_prompts(["a cat"])[0]]) == ["POST: a cat\n\nTL;DR:"]


def test_frozen_trains_nothing_and_keeps_its_name(tiny_model_folder):
    policy = Policy.from_pretrained(tiny_model_folder, frozen=True)
    assert not any(p.requires_grad for p in policy.parameters())
    assert policy.identity() == policy.fingerprint != "unnamed"


def test_the_identity_follows_the_weights(loaded):
    policy = Policy.from_pretrained(*loaded(), lora=Lora(r=4))
    before = policy.identity()
    assert before == Policy.from_pretrained(*loaded(), lora=Lora(r=4)).identity()
    stir(policy)
    assert policy.identity() != before


@pytest.mark.parametrize(("lora", "trunk_layers"), WAYS)
def test_a_frozen_copy_is_the_policy_of_now(tiny_model_folder, lora, trunk_layers):
    policy = Policy.from_pretrained(tiny_model_folder, trunk_layers=trunk_layers, lora=lora)
    stir(policy)
    kept = frozen_copy(policy)
    known = logprobs(policy)
    torch.testing.assert_close(logprobs(kept), known, rtol=1e-4, atol=1e-4)
    assert kept.trunk is policy.trunk
    assert not any(p.requires_grad for p in kept.parameters())
    assert any(p.requires_grad for p in policy.parameters())
    stir(policy)
    torch.testing.assert_close(logprobs(kept), known, rtol=1e-4, atol=1e-4)
    assert (logprobs(policy) - known).abs().max() > 1e-3


@pytest.mark.parametrize(("lora", "trunk_layers"), WAYS)
def test_an_actor_critic_starts_from_the_policy_at_a_kl_of_0(tiny_model_folder, lora, trunk_layers):
    sft = Policy.from_pretrained(tiny_model_folder, trunk_layers=trunk_layers, lora=lora)
    stir(sft)
    before = logprobs(sft)
    actor = ActorCritic(sft, lora=lora)
    batch = actor.policy.encode(PROMPTS, RESPONSES)
    expected, _ = actor.reference_pass(batch, None, SamplingParams())
    torch.testing.assert_close(logprobs(actor.policy), expected, rtol=0, atol=0)
    torch.testing.assert_close(expected, before, rtol=1e-4, atol=1e-4)
    stir(actor.policy)
    torch.testing.assert_close(logprobs(sft), before, rtol=0, atol=0)
    assert any(p.requires_grad for p in sft.parameters())


@pytest.mark.parametrize("lora", [Lora(r=4), None])
def test_adapters_on_a_policy_trained_in_memory_never_go_alone(tiny_model_folder, tmp_path, lora):
    sft = Policy.from_pretrained(tiny_model_folder, trunk_layers=2, lora=lora)
    stir(sft)
    actor = ActorCritic(sft, lora=Lora(r=4), value_network="none")
    stir(actor.policy)
    with pytest.raises(ValueError, match="export it whole, or name the saved SFT folder"):
        check_export(actor.policy, "adapter")
    assert SampledPolicy(sft).changed == ("whole" if lora is None else "adapter")
    assert SampledPolicy(actor.policy).changed == "whole"
    assert SampledPolicy(actor.reference).changed == "whole"  # it is frozen, and no server has it
    again = Policy.from_pretrained(SampledPolicy(actor.policy).write(tmp_path / "out"), frozen=True)
    torch.testing.assert_close(logprobs(again), logprobs(actor.policy), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("way", ["fewer layers", "handed over"])
def test_adapters_on_what_no_name_gives_never_go_alone(loaded, tiny_model_folder, tmp_path, way):
    if way == "handed over":
        model, tokenizer = loaded()
        stir(model)  # as a fine-tuning or a merge does; its name stays
        policy = Policy.from_pretrained(model, tokenizer, lora=Lora(r=4))
    else:
        options = BackboneOptions(str(tiny_model_folder), num_layers=3)
        policy = for_role(load_policy(options), Lora(r=4), 0)
    with pytest.raises(ValueError, match="export it whole"):
        check_export(policy, "adapter")
    assert SampledPolicy(policy).changed == "whole"
    assert SampledPolicy(frozen_copy(policy)).changed == "whole"
    again = Policy.from_pretrained(export_policy(tmp_path / "out", policy), frozen=True)
    torch.testing.assert_close(logprobs(again), logprobs(policy), rtol=1e-4, atol=1e-4)


def test_adapters_on_a_folder_of_adapters_are_sent_whole(tiny_model_folder, tmp_path):
    sft = Policy.from_pretrained(tiny_model_folder, trunk_layers=2, lora=Lora(r=4))
    assert SampledPolicy(sft).changed == "adapter"
    check_export(sft, "adapter")
    folder = export_policy(tmp_path / "sft", sft, "adapter")
    assert SampledPolicy(Policy.from_pretrained(folder, frozen=True)).changed == "adapter"
    assert SampledPolicy(Policy.from_pretrained(folder, lora=Lora(r=4))).changed == "whole"


def test_a_reward_on_a_policy_is_a_reward_on_its_folder(tiny_model_folder):
    sft = Policy.from_pretrained(tiny_model_folder, trunk_layers=2, lora=Lora(r=4))
    own = RewardModel.from_pretrained(sft, lora=Lora(r=4), seed=3)
    options = BackboneOptions(str(tiny_model_folder), trunk_layers=2)
    named = RewardModel(options, lora=Lora(r=4), seed=3)
    torch.testing.assert_close(own(PROMPTS, RESPONSES), named(PROMPTS, RESPONSES))
    assert own.model.trunk is sft.trunk
    with pytest.raises(ValueError, match="trunk_layers to be the policy's own 2, got 3"):
        RewardModel.from_pretrained(sft, trunk_layers=3)


def test_a_reward_takes_a_loaded_model_and_a_loaded_classifier(loaded, tiny_reward_folder):
    with torch.no_grad():
        start = RewardModel.from_pretrained(*loaded(), seed=5)
        assert start(PROMPTS, RESPONSES).isfinite().all()
        given = loaded(tiny_reward_folder, AutoModelForSequenceClassification)
        own = RewardModel.from_pretrained(*given, frozen=True, trunk_layers=2)
        named = RewardModel.from_pretrained(tiny_reward_folder, frozen=True, trunk_layers=2)
        torch.testing.assert_close(own(PROMPTS, RESPONSES), named(PROMPTS, RESPONSES))
        assert float(own.shift) == float(named.shift)


def test_a_saved_policy_is_loaded_by_name(loaded, tmp_path):
    policy = Policy.from_pretrained(*loaded(), lora=Lora(r=4))
    stir(policy)
    again = Policy.from_pretrained(policy.save_pretrained(tmp_path / "policy"), frozen=True)
    torch.testing.assert_close(logprobs(again), logprobs(policy), rtol=1e-4, atol=1e-4)


def test_dropout_of_a_loaded_model_is_off(make_model, tokenizer):
    policy = Policy.from_pretrained(make_model("gpt2"), tokenizer, frozen=True)  # 10 % by default
    policy.train()
    torch.testing.assert_close(logprobs(policy), logprobs(policy), rtol=0, atol=0)


def test_weights_in_16_bits_stay_so_and_what_is_trained_is_float32(loaded):
    model, tokenizer = loaded()
    policy = Policy.from_pretrained(model.bfloat16(), tokenizer, 2, Lora(r=4))
    types = {p.requires_grad: p.dtype for p in policy.parameters()}
    assert types == {False: torch.bfloat16, True: torch.float32}
    kept = frozen_copy(policy)
    assert {p.dtype for p in kept.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": 3}, "expected the name of a model, a folder, or a transformers model, got int"),
        ({"frozen": True, "lora": Lora()}, "expected lora only for a policy that is trained"),
        ({"trunk_layers": 4}, r"trunk_layers must be in \[0, 3\]"),
        ({"model": "smollm2-135m"}, "expected a tokenizer only with a loaded model"),
    ],
)
def test_arguments_that_contradict_are_refused(loaded, change, said):
    model, tokenizer = loaded()
    with pytest.raises((TypeError, ValueError), match=said):
        Policy.from_pretrained(**{"model": model, "tokenizer": tokenizer, **change})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"lora": True}, r"lora as a Lora, got bool; write Lora\(r=16"),
        ({"lora": LoraConfig(r=2)}, "lora as a Lora, got LoraConfig"),
        ({"template": "chat"}, r"template as a Template, got 'chat'; .*Template\(chat=True\)"),
    ],
)
def test_arguments_of_another_kind_say_what_to_write(loaded, tiny_model_folder, change, said):
    for given in (loaded(), (tiny_model_folder,)):
        with pytest.raises(TypeError, match=said):
            Policy.from_pretrained(*given, **change)
    with pytest.raises(ValueError, match="expected r of at least 1, got 0"):
        Lora(r=0)


def test_a_device_may_be_torchs(tiny_model_folder):
    policy = Policy.from_pretrained(tiny_model_folder, frozen=True, device=torch.device("cpu"))
    assert policy.device.type == "cpu"


def test_models_that_are_none_are_refused(loaded, tiny_reward_folder, tokenizer):
    classifier, own = loaded(tiny_reward_folder, AutoModelForSequenceClassification)
    with pytest.raises(ValueError, match="got a reward folder"):
        Policy.from_pretrained(classifier, own)
    bert = BertModel(BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1))
    with pytest.raises(ValueError, match="expected a causal language model, got BertModel"):
        Policy.from_pretrained(bert, tokenizer)
    model = copy.deepcopy(loaded()[0])
    model.config._name_or_path = model.name_or_path = ""
    with pytest.raises(ValueError, match="pass tokenizer="):
        Policy.from_pretrained(model)


def test_a_policy_has_a_template_of_its_own(tiny_model_folder):
    own = Template("Q: {prompt}\nA:", " {response}")
    policy = Policy.from_pretrained(tiny_model_folder, template=own)
    assert ActorCritic(policy).policy.template == own
    assert RewardModel(policy, template=own).model.template == own
    with pytest.raises(ValueError, match="expected the policy's own template"):
        ActorCritic(policy, template=Template("P: {prompt}", " {response}"))
