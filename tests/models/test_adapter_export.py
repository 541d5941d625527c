"""Adapters alone: written as PEFT writes them, read by peft and in the place of a model."""

import json

import pytest
import torch
from peft import AutoPeftModelForCausalLM, PromptTuningConfig, get_peft_model, peft_model
from transformers import AutoModelForCausalLM

from rlaif_pl.engine.generation_state import runners_of
from rlaif_pl.models.adapter_export import check_adapter_export, save_adapter
from rlaif_pl.models.adapters import Lora
from rlaif_pl.models.backbone import EMBEDDED, fingerprint_of, load_backbone
from rlaif_pl.models.model_folder import save_causal
from rlaif_pl.models.policy import BackboneOptions, for_role, load_policy
from rlaif_pl.text import Template

IDS = torch.arange(5, 15)[None]


@pytest.fixture
def train(make_model, tokenizer, tmp_path):
    """Return a maker of policies with adapters that were moved."""

    def build(name, trunk_layers=0):
        folder = save_causal(tmp_path / name, make_model(name), tokenizer)
        options = BackboneOptions(str(folder), trunk_layers=trunk_layers)
        policy = for_role(load_policy(options, Template()), Lora(r=2, alpha=6), seed=3)
        with torch.no_grad():
            for parameter in policy.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter), alpha=0.2)
        return policy

    return build


def logits_of(policy):
    hidden, is_real, places = IDS, torch.ones_like(IDS, dtype=torch.bool), torch.arange(10)[None]
    for stack in runners_of(policy):
        hidden = stack(hidden, is_real, places)
    return policy.unembedding(hidden)


@pytest.mark.parametrize(
    ("name", "trunk_layers"), [("llama", 0), ("llama", 2), ("gpt2", 0), ("gemma2", 1)]
)
@torch.no_grad()
def test_peft_and_we_read_what_was_trained(train, tmp_path, name, trunk_layers):
    policy = train(name, trunk_layers)
    folder = save_adapter(tmp_path / "adapter", policy)
    expected = logits_of(policy)
    theirs = AutoPeftModelForCausalLM.from_pretrained(folder).eval()(IDS).logits
    ours = load_policy(BackboneOptions(str(folder)), Template())
    torch.testing.assert_close(theirs, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logits_of(ours), expected, rtol=1e-4, atol=1e-4)
    base = load_backbone(BackboneOptions(policy.base)).model
    assert not torch.allclose(base(IDS).logits, expected, atol=1e-2)  # the adapters do something


def test_learned_prompts_cannot_be_folded_in(make_model, tokenizer, tmp_path):
    base = save_causal(tmp_path / "base", make_model("llama"), tokenizer)
    prompts = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), prompts)
    model.save_pretrained(tmp_path / "prompts")
    with pytest.raises(ValueError, match="PROMPT_TUNING cannot be folded into weights"):
        load_backbone(BackboneOptions(str(tmp_path / "prompts")))


def test_only_the_tops_layers_are_named(train, tmp_path):
    folder = save_adapter(tmp_path / "adapter", train("llama", 2), card=False)
    written = json.loads((folder / "adapter_config.json").read_text())
    assert written["layers_to_transform"] == [2, 3]
    assert written["r"] == 2
    assert sorted(path.name for path in folder.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


def test_the_fingerprint_is_of_base_and_adapters(train, tmp_path):
    policy = train("llama")
    first = str(save_adapter(tmp_path / "first", policy))
    again = str(save_adapter(tmp_path / "again", policy))
    with torch.no_grad():
        next(p for p in policy.parameters() if p.requires_grad).mul_(1.5)
    other = str(save_adapter(tmp_path / "other", policy))
    loaded = load_backbone(BackboneOptions(first)).fingerprint
    one, same, changed, base = (
        fingerprint_of(BackboneOptions(name)) for name in (first, again, other, policy.base)
    )
    assert one == same == loaded
    assert one != changed
    assert base in one


def test_what_makes_the_adapters_does_not_make_their_base(train, tmp_path, monkeypatch):
    folder = str(save_adapter(tmp_path / "adapter", train("llama")))
    config = tmp_path / "adapter" / "adapter_config.json"
    written = json.loads(config.read_text())
    written["base_model_name_or_path"] = EMBEDDED  # as any name of a hub, no folder
    config.write_text(json.dumps(written))
    made = BackboneOptions(folder, create_with="python -m rlaif_pl fit --config sft.yaml")
    assert fingerprint_of(made) == fingerprint_of(BackboneOptions(folder))


def test_adapters_with_a_tokenizer_of_their_own_end_texts_as_it_says(train, tokenizer, tmp_path):
    folder = save_adapter(tmp_path / "adapter", train("llama"))
    tokenizer.eos_token = "<s>"  # the base ends texts with </s>
    tokenizer.save_pretrained(folder)
    policy = load_policy(BackboneOptions(str(folder)), Template())
    start, end = tokenizer.convert_tokens_to_ids(["<s>", "</s>"])
    assert policy.eos == policy.tokenizer.eos_token_id == start
    assert policy.stop_token_ids == {start, end}
    assert policy.info.name == str(folder)


def test_a_policy_without_adapters_has_none_to_write(make_model, tokenizer, tmp_path):
    folder = save_causal(tmp_path / "llama", make_model("llama"), tokenizer)
    whole = for_role(load_policy(BackboneOptions(str(folder)), Template()), None, seed=0)
    with pytest.raises(ValueError, match="set lora, or export it whole"):
        check_adapter_export(whole)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({}, "to name a base model"),
        (
            {"base_model_name_or_path": "x", "task_type": "SEQ_CLS"},
            "expected adapters of a causal LM",
        ),
    ],
)
def test_adapters_that_cannot_be_read_are_named(tmp_path, written, message):
    (tmp_path / "adapter_config.json").write_text(json.dumps(written))
    with pytest.raises(ValueError, match=message):
        load_backbone(BackboneOptions(str(tmp_path)))


def test_adapters_belong_to_all_layers(train, tmp_path):
    folder = save_adapter(tmp_path / "adapter", train("llama"))
    with pytest.raises(ValueError, match="expected num_layers=null with the adapters"):
        load_backbone(BackboneOptions(str(folder), num_layers=1))


def test_adapters_in_files_are_read_to_the_host(train, tmp_path, monkeypatch):
    """With a GPU, PEFT's own choice is the first one, in each of several processes."""
    policy = train("llama")
    folder = save_adapter(tmp_path / "adapter", policy)
    monkeypatch.setattr(peft_model, "infer_device", lambda: pytest.fail("a GPU was looked for"))
    torch.testing.assert_close(
        logits_of(load_policy(BackboneOptions(str(folder)), Template())),
        logits_of(policy),
        rtol=1e-4,
        atol=1e-4,
    )
