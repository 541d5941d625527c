import json

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    Ernie4_5Config,
    Ernie4_5ForCausalLM,
    PreTrainedTokenizerFast,
    dynamic_module_utils,
)

from rlaif_pl.engine.decoder_layers import decoder_of
from rlaif_pl.engine.generation_state import runners_of
from rlaif_pl.models import RewardModel, model_folder
from rlaif_pl.models import export as export_file
from rlaif_pl.models.adapters import Lora
from rlaif_pl.models.export import (
    check_policy_export,
    check_reward_export,
    decoder_weights,
    load_into,
    save_policy,
    save_reward,
)
from rlaif_pl.models.model_folder import save_causal
from rlaif_pl.models.policy import BackboneOptions, for_role, load_policy
from rlaif_pl.text import Template

IDS = torch.arange(5, 15)[None]
CUTS = [
    ("llama", 0),
    ("llama", 2),
    ("qwen2", 0),
    ("qwen2", 1),
    ("gemma2", 0),
    ("gemma2", 2),
    ("gpt2", 0),
]


@pytest.fixture
def load(make_model, tokenizer, tmp_path):
    """Return a loader of policies over saved tiny models."""

    def build(name, **changes):
        folder = save_causal(tmp_path / name, make_model(name), tokenizer)
        return load_policy(BackboneOptions(str(folder), **changes), Template())

    return build


def read(folder):
    return AutoModelForCausalLM.from_pretrained(folder)


def disturb(model):
    """Move everything that is trained."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)


def logits_of(policy):
    """Logits of one unpadded text, by the stacks themselves."""
    is_real, places = torch.ones_like(IDS, dtype=torch.bool), torch.arange(10)[None]
    hidden = IDS
    for stack in runners_of(policy):
        hidden = stack(hidden, is_real, places)
    return policy.unembedding(hidden)  # of all rows, those without a token too


@pytest.mark.parametrize(("name", "trunk_layers"), CUTS)
def test_an_untouched_policy_is_written_as_it_was_read(
    load, make_model, tmp_path, name, trunk_layers
):
    folder = save_policy(tmp_path / "out", load(name, trunk_layers=trunk_layers))
    expected, found = make_model(name).state_dict(), read(folder).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize(("name", "trunk_layers"), CUTS)
@torch.no_grad()
def test_a_trained_policy_says_the_same_in_transformers(
    load, tmp_path, name, trunk_layers, adapted
):
    # GPT-2's layers are no nn.Linear, so they are named.
    lora = Lora(r=4, target_modules=["c_attn", "c_proj"] if name == "gpt2" else "all-linear")
    policy = for_role(load(name, trunk_layers=trunk_layers), lora if adapted else None, 0)
    before = logits_of(policy)
    disturb(policy)
    expected = logits_of(policy)
    assert (expected - before).abs().max() > 0.1
    found = read(save_policy(tmp_path / "out", policy))(IDS).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-4)


def test_a_pruned_policy_is_written_with_the_layers_it_has(load, tmp_path):
    folder = save_policy(tmp_path / "out", load("qwen2", num_layers=3, trunk_layers=2))
    assert json.loads((folder / "config.json").read_text())["num_hidden_layers"] == 3
    assert len(read(folder).model.layers) == 3


def test_weights_are_written_in_float32(load, tmp_path):
    policy = for_role(load("llama", dtype="bfloat16"), Lora(r=4), 0)
    folder = save_policy(tmp_path / "out", policy)
    assert json.loads((folder / "config.json").read_text())["dtype"] == "float32"
    assert {p.dtype for p in read(folder).parameters()} == {torch.float32}


def test_a_small_update_of_a_bfloat16_weight_survives(load, tmp_path):
    # An update of 2^-12 of a weight of 1 is lost in bfloat16, which has 8 bits.
    policy = for_role(load("llama", dtype="bfloat16"), Lora(r=2, alpha=2), 0)
    layer = policy.top.decoder.layers[0].mlp.up_proj
    layer.get_base_layer().weight.data.fill_(1)
    layer.lora_A["default"].weight.data.fill_(2**-6)
    layer.lora_B["default"].weight.data.fill_(2**-7)  # B A = 2 ranks * 2^-13, times alpha / r = 1
    written = read(save_policy(tmp_path / "out", policy)).model.layers[0].mlp.up_proj.weight
    torch.testing.assert_close(written, torch.full_like(written, 1 + 2**-12), rtol=0, atol=0)


def test_saving_leaves_the_policy_as_it_was(load, tmp_path):
    policy = for_role(load("llama", trunk_layers=2), Lora(r=4), 0)
    disturb(policy)
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    save_policy(tmp_path / "out", policy)
    after = policy.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert policy.tokenizer.pad_token is None


@pytest.mark.parametrize("empty", [export_file._empty_policy, export_file._empty_classifier])
def test_no_weights_are_drawn_for_an_export(load, empty):
    assert all(weight.is_meta for weight in empty(load("llama")).parameters())


def test_layers_above_the_trunk_get_their_old_numbers(load):
    weights = decoder_weights(load("llama", trunk_layers=3))
    numbers = {int(name.split(".")[1]) for name in weights if name.startswith("layers.")}
    assert numbers == {0, 1, 2, 3}
    assert {"embed_tokens.weight", "norm.weight"} < weights.keys()


def test_weights_without_a_place_are_an_error(make_model):
    decoder = decoder_of(make_model("llama"))
    weights = dict(decoder.state_dict())
    weights["layers.9.extra"] = weights.pop("norm.weight")
    with pytest.raises(ValueError, match=r"missing \['norm.weight'\], unexpected \['layers.9.ext"):
        load_into(decoder, weights)


def test_a_reward_folder_pads_with_another_token_than_eos(load, tmp_path):
    policy = load("llama")
    folder = save_reward(tmp_path / "out", policy, torch.nn.Linear(32, 1, bias=False), 0.25)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    assert tokenizer.pad_token == "<s>"
    assert config["pad_token_id"] == tokenizer.pad_token_id != tokenizer.eos_token_id
    assert config["reward_shift"] == 0.25
    assert config["architectures"] == ["LlamaForSequenceClassification"]
    assert policy.tokenizer.pad_token is None


def alone(folder, tokenizer, text):
    """What transformers says of one text without padding."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    return model(input_ids=tokenizer(text, return_tensors="pt").input_ids).logits[:, 0]


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox"])
@torch.no_grad()
def test_a_tokenizer_with_eos_alone_gets_a_token_to_pad_with(load, tokenizer, tmp_path, name):
    core = tokenizer.backend_tokenizer
    bare = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>", bos_token="</s>")
    policy = load(name)
    policy.tokenizer = bare
    head = torch.nn.Linear(32, 1, bias=False)
    folder = save_reward(tmp_path / "out", policy, head, 0.0)
    again = AutoTokenizer.from_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    assert again.pad_token not in (None, "</s>")
    assert config["pad_token_id"] == again.pad_token_id < config["vocab_size"]
    assert bare.pad_token is None
    texts = ["the cat</s>", "the dog sat on the mat</s>"]
    batch = again(texts, padding=True, padding_side="right", return_tensors="pt")
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    found = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits[:, 0]
    expected = torch.cat([alone(folder, again, text) for text in texts])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    reward = RewardModel(BackboneOptions(str(folder)), frozen=True)  # reads it, too
    reward.score(["the cat"], ["sat"])


@torch.no_grad()
def test_a_pad_token_without_a_row_gets_one_in_the_export(load, tokenizer, tmp_path):
    policy = load("llama")
    rows = policy.config.vocab_size
    spare = [f"<spare{n}>" for n in range(rows - len(tokenizer))]
    tokenizer.add_tokens(spare)
    tokenizer.add_special_tokens({"pad_token": "<fill>"})
    assert tokenizer.pad_token_id == rows
    policy.tokenizer = tokenizer
    folder = save_reward(tmp_path / "out", policy, torch.nn.Linear(32, 1, bias=False), 0.0)
    config = json.loads((folder / "config.json").read_text())
    assert (config["pad_token_id"], config["vocab_size"]) == (rows, rows + 1)


def test_what_was_written_wrong_takes_no_ones_place(load, tmp_path, monkeypatch):
    policy = load("llama")
    folder = save_policy(tmp_path / "out", policy)
    before = (folder / "model.safetensors").read_bytes()
    wrong = decoder_weights(policy)
    wrong["layers.1.mlp.up_proj.weight"] = wrong["layers.1.mlp.up_proj.weight"] * 1.01
    monkeypatch.setattr(export_file, "decoder_weights", lambda model: wrong)
    with pytest.raises(ValueError, match="trained model's logits within .*nothing was exported"):
        save_policy(folder, policy)
    assert (folder / "model.safetensors").read_bytes() == before
    head = torch.nn.Linear(32, 1, bias=False)
    with pytest.raises(ValueError, match="trained model's rewards within"):
        save_reward(tmp_path / "reward", policy, head, 0.0)
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == ["out"]
    assert not (tmp_path / "reward").exists()


def test_another_tokenizer_than_the_trained_one_is_not_exported(load, tmp_path, monkeypatch):
    policy = load("llama")
    saved = model_folder.save_tokenizer

    def lose(folder, tokenizer, revision=None):
        saved(folder, tokenizer, revision)
        path = folder / "tokenizer.json"
        content = json.loads(path.read_text())
        content["model"]["merges"] = []
        path.write_text(json.dumps(content))

    monkeypatch.setattr(model_folder, "save_tokenizer", lose)
    with pytest.raises(ValueError, match="give the ids of the one trained with"):
        save_policy(tmp_path / "out", policy)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("scale", [1.0, 300.0])
@torch.no_grad()
def test_large_activations_do_not_keep_a_right_model_from_its_export(load, tmp_path, dtype, scale):
    policy = for_role(load("llama", dtype=dtype), Lora(r=4), 0)
    disturb(policy)
    for layer in policy.top.decoder.layers:
        layer.mlp.down_proj.get_base_layer().weight.mul_(scale)
    save_policy(tmp_path / "out", policy)


CODE = """
from transformers import LlamaConfig, LlamaForCausalLM

class OwnConfig(LlamaConfig):
    model_type = "own_llama"

class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
"""


def test_a_model_with_code_of_its_own_is_read_again_with_it(
    make_model, tokenizer, tmp_path, monkeypatch
):
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    folder = save_causal(tmp_path / "own", make_model("llama"), tokenizer)
    (folder / "modeling_own.py").write_text(CODE)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own_llama", "architectures": ["OwnForCausalLM"]}
    names = {"AutoConfig": "OwnConfig", "AutoModelForCausalLM": "OwnForCausalLM"}
    config["auto_map"] = {auto: f"modeling_own.{name}" for auto, name in names.items()}
    (folder / "config.json").write_text(json.dumps(config))
    policy = load_policy(BackboneOptions(str(folder), trust_remote_code=True), Template())
    out = save_policy(tmp_path / "out", for_role(policy, Lora(r=2), 0))
    again = load_policy(BackboneOptions(str(out), trust_remote_code=True), Template())
    torch.testing.assert_close(logits_of(again), logits_of(policy), rtol=0, atol=2e-4)


def test_an_export_is_tried_on_shapes_alone(load):
    for name, trunk_layers in CUTS:
        policy = for_role(load(name, trunk_layers=trunk_layers), Lora(r=2), 0)
        check_policy_export(policy)
        check_reward_export(policy)


def test_an_architecture_without_a_classifier_is_named_before_training(tokenizer, tmp_path):
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "head_dim": 8}
    heads = {"vocab_size": 320, "num_attention_heads": 2, "num_key_value_heads": 1}
    model = Ernie4_5ForCausalLM(Ernie4_5Config(**small, **heads, eos_token_id=1)).eval()
    folder = str(save_causal(tmp_path / "ernie", model, tokenizer))
    policy = load_policy(BackboneOptions(folder), Template())
    check_policy_export(policy)
    with pytest.raises(ValueError, match="a sequence classifier for.*got Ernie4_5 .*ernie"):
        check_reward_export(policy)
    with pytest.raises(ValueError, match="got Ernie4_5"):
        save_reward(tmp_path / "out", policy, torch.nn.Linear(16, 1, bias=False), 0.0)
