import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedConfig,
)
from unpacked import unpack

from rlaif_pl.models import reward as reward_file
from rlaif_pl.models.adapters import Lora
from rlaif_pl.models.model_folder import save_causal
from rlaif_pl.models.policy import BackboneOptions, load_policy
from rlaif_pl.models.reward import RewardModel
from rlaif_pl.models.reward_folder import is_reward_folder
from rlaif_pl.text import Template

PROMPTS = ["the dog sat", "a cat", "POST: the cat sat on the mat"]
RESPONSES = [["a dog", "the cat sat on the mat"], ["cat", "b"], ["on the mat", "dog dog dog"]]
FLAT_PROMPTS = [prompt for prompt in PROMPTS for _ in range(2)]
FLAT = [response for group in RESPONSES for response in group]
WAYS = [(None, 0), (None, 2), (Lora(r=4), 0), (Lora(r=4), 2)]


@pytest.fixture
def options(make_model, tokenizer, tmp_path):
    """Return a builder of options for a saved tiny model."""

    def build(name="llama", **changes):
        folder = save_causal(tmp_path / name, make_model(name), tokenizer)
        return BackboneOptions(str(folder), **changes)

    return build


def train_a_few_steps(model):
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=0.02)
    for _ in range(3):
        optimizer.zero_grad()
        rewards = model(PROMPTS, RESPONSES)
        torch.nn.functional.softplus(rewards[:, 1] - rewards[:, 0]).mean().backward()
        optimizer.step()


def classifier_rewards(folder, prompts, responses):
    """Read the folder with transformers alone: one padded batch, logits minus the shift."""
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = [
        tokenizer(Template().render(p)).input_ids
        + tokenizer(f" {r}").input_ids
        + [tokenizer.eos_token_id]
        for p, r in zip(prompts, responses, strict=True)
    ]
    batch = tokenizer.pad({"input_ids": rows}, padding_side="right", return_tensors="pt")
    assert not batch.attention_mask.all()
    with torch.no_grad():
        logits = model.eval()(**batch).logits[:, 0]
    return logits.float() - model.config.reward_shift


@pytest.mark.parametrize("name", ["llama", "qwen2", "gemma2", "gpt2"])
def test_a_saved_model_gives_its_rewards_in_transformers(options, tmp_path, name):
    trunk_layers, lora = 2, Lora(r=4)
    if name == "gpt2":  # not cut; its layers are no nn.Linear, so they are named
        trunk_layers, lora = 0, Lora(r=4, target_modules=["c_attn", "c_proj"])
    model = RewardModel(options(name, trunk_layers=trunk_layers), lora=lora)
    train_a_few_steps(model)
    model.shift.fill_(0.75)
    folder = model.save_pretrained(tmp_path / "reward")
    expected = classifier_rewards(folder, FLAT_PROMPTS, FLAT)
    torch.testing.assert_close(model.score(FLAT_PROMPTS, FLAT), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("lora", "trunk_layers"), WAYS)
def test_a_reloaded_model_gives_the_same_rewards(options, tmp_path, lora, trunk_layers):
    source = options(trunk_layers=trunk_layers)
    model = RewardModel(source, lora=lora)
    untrained = model.score(FLAT_PROMPTS, FLAT)
    train_a_few_steps(model)
    model.shift.fill_(-0.5)
    expected = model.score(FLAT_PROMPTS, FLAT)
    assert (expected - untrained - 0.5).abs().max() > 0.1  # trained far enough to tell
    saved = dataclasses.replace(source, name=str(model.save_pretrained(tmp_path / "reward")))
    again = RewardModel(saved, frozen=True)
    torch.testing.assert_close(again.score(FLAT_PROMPTS, FLAT), expected, rtol=0, atol=1e-4)
    assert again.shift == -0.5


@pytest.mark.parametrize(("lora", "trunk_layers"), WAYS)
def test_whatever_is_trained_gets_a_gradient(options, lora, trunk_layers):
    model = RewardModel(options(trunk_layers=trunk_layers), lora=lora)
    model(PROMPTS, RESPONSES)[:, 0].sum().backward()
    idle = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert idle == []


def test_a_saved_model_can_be_trained_on(options, tmp_path):
    first = RewardModel(options(trunk_layers=2), lora=Lora(r=4))
    train_a_few_steps(first)
    folder = str(first.save_pretrained(tmp_path / "reward"))
    assert is_reward_folder(folder)
    model = RewardModel(BackboneOptions(folder, trunk_layers=2), lora=Lora(r=4))
    before = model.score(FLAT_PROMPTS, FLAT)
    torch.testing.assert_close(before, first.score(FLAT_PROMPTS, FLAT), rtol=0, atol=1e-4)
    names = {n for n, p in model.named_parameters() if p.requires_grad}
    assert "head.weight" in names
    assert all("lora_" in n for n in names - {"head.weight"})
    train_a_few_steps(model)
    margins = model.score(FLAT_PROMPTS, FLAT) - before
    assert (margins[::2] > margins[1::2]).all()


def test_a_saved_model_trained_whole_has_no_idle_weight(options, tmp_path):
    folder = str(
        RewardModel(options("gpt2")).save_pretrained(tmp_path / "reward")
    )  # tied embeddings
    model = RewardModel(BackboneOptions(folder))
    model(PROMPTS, RESPONSES).sum().backward()
    idle = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert idle == []


def test_a_saved_model_recomputes_activations_when_asked(options, tmp_path):
    folder = str(RewardModel(options()).save_pretrained(tmp_path / "reward"))
    model = RewardModel(BackboneOptions(folder, gradient_checkpointing=True))
    layers = [m for m in model.modules() if getattr(m, "gradient_checkpointing", False)]
    assert len(layers) >= 4


def test_dropout_of_a_folder_is_off_where_layers_recompute(options, tmp_path):
    folder = RewardModel(options("gpt2")).save_pretrained(tmp_path / "reward")
    path = folder / "config.json"
    rates = dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.5)  # as of the hub's
    path.write_text(json.dumps(json.loads(path.read_text()) | rates))
    model = RewardModel(BackboneOptions(str(folder), gradient_checkpointing=True)).train()
    torch.testing.assert_close(model(PROMPTS, RESPONSES), model(PROMPTS, RESPONSES), rtol=0, atol=0)
    assert model.model.config.resid_pdrop == 0.0


def test_every_file_of_a_folder_is_read_at_the_revision(options, tmp_path, monkeypatch):
    folder = str(RewardModel(options()).save_pretrained(tmp_path / "reward"))
    asked, known = [], PreTrainedConfig.get_config_dict

    def get(name, **more):
        asked.append(more.get("revision"))
        return known(name, **more)

    monkeypatch.setattr(PreTrainedConfig, "get_config_dict", get)
    RewardModel(BackboneOptions(folder, revision="old"), frozen=True)
    assert set(asked) == {"old"}


def test_a_frozen_model_trains_nothing(options, tmp_path):
    folder = str(RewardModel(options(trunk_layers=2)).save_pretrained(tmp_path / "reward"))
    model = RewardModel(BackboneOptions(folder, trunk_layers=2), lora=Lora(r=4), frozen=True)
    assert not any(p.requires_grad for p in model.parameters())
    assert not any("lora_" in name for name, _ in model.named_parameters())
    assert not model(PROMPTS, RESPONSES).requires_grad


def test_scoring_with_a_random_head_is_refused(options):
    source = options()
    with pytest.raises(ValueError, match="expected a reward folder with frozen=true, got .*llama"):
        RewardModel(source, frozen=True)
    RewardModel(source)  # to be trained


def test_adapters_of_a_reward_model_are_to_be_merged(options, tmp_path):
    written = {"base_model_name_or_path": options().name, "task_type": "SEQ_CLS"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(written))
    for frozen in (True, False):
        with pytest.raises(ValueError, match="got SEQ_CLS; merge them"):
            RewardModel(BackboneOptions(str(tmp_path)), frozen=frozen)


def test_states_may_be_narrower_than_the_layers(tokenizer, tmp_path):
    config = OPTConfig(
        vocab_size=320,
        hidden_size=32,
        word_embed_proj_dim=16,
        ffn_dim=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        do_layer_norm_before=False,
        eos_token_id=1,
    )
    folder = save_causal(tmp_path / "opt", OPTForCausalLM(config), tokenizer)
    model = RewardModel(BackboneOptions(str(folder)))
    train_a_few_steps(model)
    model.save_pretrained(tmp_path / "reward")
    again = RewardModel(BackboneOptions(str(tmp_path / "reward")), frozen=True)
    torch.testing.assert_close(again(PROMPTS, RESPONSES), model(PROMPTS, RESPONSES).detach())


def damaged(folder, rename=None):
    """Take the score out of a reward folder's weights, or give it another name."""
    path = folder / "model.safetensors"
    weights = load_file(path)
    score = weights.pop("score.weight")
    save_file(weights if rename is None else {**weights, rename: score}, path, {"format": "pt"})
    return BackboneOptions(str(folder))


@pytest.mark.parametrize("frozen", [True, False])
def test_a_folder_without_its_score_is_refused(options, tmp_path, frozen):
    folder = RewardModel(options()).save_pretrained(tmp_path / "reward")
    with pytest.raises(ValueError, match=r"reward, missing \['score.weight'\]; "):
        RewardModel(damaged(folder), frozen=frozen)


def test_a_score_under_another_name_is_refused(options, tmp_path):
    folder = RewardModel(options()).save_pretrained(tmp_path / "reward")
    with pytest.raises(ValueError, match=r"score.weight'\], found \['classifier.weight'\]"):
        RewardModel(damaged(folder, "classifier.weight"), frozen=True)


def test_a_language_models_folder_that_says_classifier_is_refused(options):
    source = options()
    path = Path(source.name) / "config.json"
    settings = json.loads(path.read_text()) | {"architectures": ["LlamaForSequenceClassification"]}
    path.write_text(json.dumps(settings | {"num_labels": 1}))
    with pytest.raises(ValueError, match=r"missing \['score.weight'\]"):
        RewardModel(source, frozen=True)


def test_a_saved_models_card_names_where_it_came_from(options, tmp_path):
    folder = RewardModel(options()).save_pretrained(tmp_path / "reward")
    again = RewardModel(BackboneOptions(str(folder))).save_pretrained(tmp_path / "again")
    assert "/reward`" in (again / "README.md").read_text()


def test_the_head_starts_at_one_over_the_root_of_width_plus_one(options):
    # Width 32: std 1 / sqrt(33) = 0.17408. Of 12 x 32 draws the estimate's own error is 3.6 %.
    source = options()
    heads = [RewardModel(source, seed=n).head.weight.detach() for n in range(12)]
    weights = torch.cat(heads).flatten()
    assert weights.std().item() == pytest.approx(0.17408, rel=0.11)
    assert abs(weights.mean().item()) < 3 * 0.17408 / len(weights) ** 0.5
    assert torch.equal(heads[3], RewardModel(source, seed=3).head.weight)


@pytest.mark.parametrize("pooling", ["eos", "mean"])
def test_the_last_layer_asks_and_ends_only_where_the_head_reads(options, pooling):
    plain = unpack(RewardModel(options(), pooling=pooling))
    model = RewardModel(options(), pooling=pooling)
    model(PROMPTS, RESPONSES)  # tests itself
    batch, rows = model.encode(PROMPTS, RESPONSES), []
    mlps = [layer.mlp for layer in model.model.top.decoder.layers]
    for mlp in mlps:
        mlp.up_proj.register_forward_hook(lambda _, inputs, __: rows.append(inputs[0].shape[1]))
    last, parts = model.model.top.decoder.layers[-1].self_attn, {}
    for name, part in last.named_children():
        part.register_forward_hook(lambda _, i, __, n=name: parts.update({n: i[0].shape[1]}))
    rewards = model.rewards(batch)
    every = len(batch.packed_ids)
    read = {"eos": len(FLAT), "mean": int(batch.lengths.sum())}[pooling]
    assert rows == [every, every, every, read]
    assert parts == {"q_proj": read, "k_proj": every, "v_proj": every, "o_proj": read}
    torch.testing.assert_close(rewards, plain.rewards(batch), rtol=0, atol=1e-4)
    weights = torch.arange(1.0, len(FLAT) + 1)
    found, expected = (
        torch.autograd.grad(r @ weights, m.model.top.decoder.layers[-1].mlp.up_proj.weight)[0]
        for r, m in ((rewards, model), (plain.rewards(batch), plain))
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * expected.abs().max().item())


def test_rewards_are_float32_under_autocast(options):
    model = RewardModel(options())
    with torch.autocast("cpu", torch.bfloat16):
        rewards = model(PROMPTS, RESPONSES)
    assert rewards.dtype == torch.float32
    assert (rewards != rewards.bfloat16().float()).any()
    torch.testing.assert_close(rewards, model(PROMPTS, RESPONSES), rtol=0, atol=0.1)


def test_the_shift_is_subtracted(options):
    model = RewardModel(options())
    before = model.score(["a"], ["b"])
    model.shift.fill_(0.5)
    torch.testing.assert_close(model.score(["a"], ["b"]), before - 0.5)


def test_the_reward_is_the_head_on_the_state_at_eos(options, make_model, tokenizer):
    model = RewardModel(options())
    model.head.weight.data.zero_()
    model.head.weight.data[0, 5] = 2.0  # twice entry 5 of the last state
    ids = tokenizer(Template().render("a cat")).input_ids
    ids += [*tokenizer(" cat").input_ids, tokenizer.eos_token_id]
    states = make_model("llama").model(input_ids=torch.tensor([ids])).last_hidden_state
    found = model(["a cat", "the dog"], [["cat", "the cat sat"], ["a", "b"]])[0, 0]
    torch.testing.assert_close(found, 2 * states[0, -1, 5], rtol=0, atol=1e-4)


def test_a_long_response_is_cut_and_still_read_at_eos(options, tokenizer):
    model = RewardModel(options(), max_response_tokens=4)
    batch = model.encode(["a"], [["the cat sat on the mat"]])
    assert batch.lengths.tolist() == [4]
    assert batch.response_ids[0, -1] == tokenizer.eos_token_id


def test_a_length_limit_without_room_for_a_token_is_refused(options):
    with pytest.raises(ValueError, match="max_response_tokens of at least 2.*got 1"):
        RewardModel(options(), max_response_tokens=1)


def test_an_unknown_pooling_is_refused(options):
    with pytest.raises(ValueError, match="expected pooling to be 'eos' or 'mean', got 'last'"):
        RewardModel(options(), pooling="last")


def test_scores_depend_neither_on_order_nor_on_company(options, monkeypatch):
    model = RewardModel(options(trunk_layers=2))
    scores = model.score(FLAT_PROMPTS, FLAT)
    torch.testing.assert_close(model(PROMPTS, RESPONSES).flatten(), scores, rtol=0, atol=1e-5)
    monkeypatch.setattr(reward_file, "SCORE_ROWS", 2)
    order = [4, 0, 5, 2, 1, 3]
    shuffled = model.score([FLAT_PROMPTS[n] for n in order], [FLAT[n] for n in order])
    torch.testing.assert_close(shuffled, scores[order], rtol=0, atol=1e-5)
    assert model.score([], []).shape == (0,)


def test_an_equal_trunk_is_adopted_and_its_states_give_the_same_rewards(options):
    source = options(trunk_layers=2)
    model = RewardModel(source, lora=Lora(r=4))
    policy = load_policy(source, Template())
    batch = policy.encode(PROMPTS, RESPONSES)
    expected = model.rewards(batch)
    assert model.adopt_trunk(policy.trunk)
    assert model.model.trunk is policy.trunk
    found = model.rewards(batch, policy.trunk_states(batch))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize(("ours", "theirs"), [(2, 3), (0, 2), (2, 0), (0, 0)])
def test_trunks_of_other_depths_are_not_adopted(options, ours, theirs):
    source = options()
    model = RewardModel(dataclasses.replace(source, trunk_layers=ours))
    other = load_policy(dataclasses.replace(source, trunk_layers=theirs), Template()).trunk
    own = model.model.trunk
    assert not model.adopt_trunk(other)
    assert model.model.trunk is own


def test_a_trunk_of_other_weights_is_not_adopted(options):
    source = options(trunk_layers=2)
    model = RewardModel(source)
    other = load_policy(source, Template()).trunk
    other.decoder.layers[0].mlp.up_proj.weight.data[0, 0] += 1
    assert not model.adopt_trunk(other)


@pytest.mark.parametrize("lora", [None, Lora(r=4)])
def test_a_bfloat16_trunk_trains_float32_weights(options, lora):
    plain = RewardModel(options(trunk_layers=2), lora=lora)
    model = RewardModel(options(trunk_layers=2, dtype="bfloat16"), lora=lora)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in model.model.trunk.parameters()} == {torch.bfloat16}
    rewards = model(PROMPTS, RESPONSES)
    assert rewards.dtype == torch.float32
    # bfloat16 has 8 bits: each of 4 layers rounds its state by up to 2^-9 of its size.
    torch.testing.assert_close(rewards, plain(PROMPTS, RESPONSES), rtol=0, atol=0.1)
    before = rewards.detach()
    train_a_few_steps(model)
    moved = (model(PROMPTS, RESPONSES) - before).detach()
    assert (moved[:, 0] > moved[:, 1]).all()


def test_a_classifier_of_several_labels_is_refused(options, tmp_path):
    folder = RewardModel(options()).save_pretrained(tmp_path / "reward")
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=2, ignore_mismatched_sizes=True
    )
    model.save_pretrained(folder)
    with pytest.raises(ValueError, match="one score a text .score.weight with one row"):
        RewardModel(BackboneOptions(str(folder)), frozen=True)
    with pytest.raises(ValueError, match="one score a text"):
        RewardModel.from_pretrained(model, dtype="bfloat16")
    assert all(p.requires_grad and p.dtype == torch.float32 for p in model.parameters())


def test_a_reward_folder_cannot_lose_layers(options, tmp_path):
    folder = RewardModel(options()).save_pretrained(tmp_path / "reward")
    with pytest.raises(ValueError, match="num_layers=null"):
        RewardModel(BackboneOptions(str(folder), num_layers=2), frozen=True)


def test_a_missing_folder_names_the_command_that_makes_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="make it with: make reward"):
        RewardModel(BackboneOptions(str(tmp_path / "none"), create_with="make reward"))


def test_a_response_is_scored_for_each_prompt(options):
    model = RewardModel(options())
    with pytest.raises(ValueError, match="got 1 prompts and 2 responses; repeat a prompt"):
        model.score(["a"], ["b", "c"])
    with pytest.raises(ValueError, match="expected prompts to be a list of texts"):
        model.score("abc", "def")
