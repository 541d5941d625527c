import dataclasses
import json

import pytest
import torch
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel, OPTConfig, OPTForCausalLM
from unpacked import unpack

from rlaif_pl.engine.response_batch import assemble
from rlaif_pl.engine.sampling import SamplingParams
from rlaif_pl.engine.score import token_logprobs
from rlaif_pl.models.export import save_policy
from rlaif_pl.models.model_folder import save_causal
from rlaif_pl.models.model_info import exported_generation_config, model_info, require_eos
from rlaif_pl.models.policy import BackboneOptions, load_policy
from rlaif_pl.text import Template

PROMPTS = ["the dog", "a cat sat on the mat"]
RESPONSES = [["a dog", "the cat"], ["b c", "mat"]]


@pytest.fixture
def folder(make_model, tokenizer, tmp_path):
    """Write a tiny Llama; keywords change its config.json."""

    def write(name="llama", model=None, ends=None, **config):
        path = save_causal(tmp_path / name, model or make_model(name), tokenizer)
        file = path / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **config}))
        file = path / "generation_config.json"
        content = {"eos_token_id": ends} if ends is not None else {}
        file.write_text(json.dumps(content))
        return str(path)

    return write


def info_of(tokenizer, make_model, rows=320, generation=None, **written):
    model = make_model("llama")
    model.resize_token_embeddings(rows)
    model.generation_config = generation
    return model_info("tiny", tokenizer, model, written)


def test_all_named_ends_end_a_text_and_the_tokenizers_closes_it(tokenizer, make_model):
    several = GenerationConfig(eos_token_id=[1, 7])
    info = info_of(tokenizer, make_model, generation=several, eos_token_id=[9, 1, 999])
    assert info.stop_token_ids == {1, 7, 9}  # 999 is no row of the model
    assert info.eos_token_id == 1
    assert exported_generation_config(info).eos_token_id == [1, 7, 9]


def test_a_class_default_is_no_end_token(tokenizer, make_model):
    assert make_model("llama").config.eos_token_id == 1
    tokenizer.eos_token = None
    implied = GenerationConfig.from_model_config(make_model("llama").config)
    assert info_of(tokenizer, make_model, generation=implied).eos_token_id is None


def test_a_missing_end_token_is_taken_from_the_config_or_refused(tokenizer, make_model):
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match=r"set eos_token in tiny/tokenizer_config.json"):
        require_eos(info_of(tokenizer, make_model), tokenizer)
    info = info_of(tokenizer, make_model, eos_token_id=1)
    with pytest.warns(UserWarning, match=r"'</s>' \(id 1\)"):
        assert require_eos(info, tokenizer) == 1
    assert tokenizer.eos_token == "</s>"


def test_padding_is_always_a_row(tokenizer, make_model):
    assert info_of(tokenizer, make_model).pad_token_id == 1  # no pad token: the end token
    tokenizer.pad_token = "<s>"
    assert info_of(tokenizer, make_model).pad_token_id == 0
    tokenizer.add_special_tokens({"pad_token": "<new>"})
    outside = len(tokenizer) - 1
    assert info_of(tokenizer, make_model, rows=outside).pad_token_id == 1


def test_a_token_of_texts_without_a_row_is_refused_and_a_special_one_is_not(tokenizer, make_model):
    model = make_model("llama")
    model.resize_token_embeddings(len(tokenizer))
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    info = model_info("here", tokenizer, model, {})
    assert (info.vocab_size, info.pad_token_id) == (len(tokenizer) - 1, 1)
    tokenizer.add_tokens(["meow"])
    with pytest.raises(ValueError, match=r"embedding of here .* 'meow' without one; take"):
        model_info("here", tokenizer, model, {})


def test_generation_settings_that_cannot_be_written_cost_no_export(tokenizer, make_model):
    odd = GenerationConfig(eos_token_id=[1, 7], pad_token_id=0)
    odd.temperature, odd.do_sample = 0.5, False
    info = info_of(tokenizer, make_model, generation=odd)
    with pytest.warns(UserWarning, match="generation_config.json of tiny"):
        kept = exported_generation_config(info)
    assert (kept.eos_token_id, kept.pad_token_id, kept.temperature) == ([1, 7], 0, None)


def test_sampling_stops_at_every_end_and_export_keeps_them(folder, tmp_path):
    path = folder(ends=[1, 7])
    policy = load_policy(BackboneOptions(path), Template())
    policy.unembedding.weight.mul_(0.01)  # all tokens about as likely
    params = SamplingParams(n=64, max_new_tokens=200)
    drawn = policy.sample(policy.encode_prompts(["a"]), params, list(range(64)))
    lasts = {row[-1] for row, done in zip(drawn.tokens, drawn.finished, strict=True) if done}
    assert lasts == {1, 7}
    assert all(not {1, 7} & set(row[:-1]) for row in drawn.tokens)
    out = save_policy(tmp_path / "out", policy)
    assert json.loads((out / "generation_config.json").read_text())["eos_token_id"] == [1, 7]
    assert "`</s>`" in (out / "README.md").read_text()


def test_a_reward_reads_eos_where_another_end_was_drawn(folder):
    policy = load_policy(BackboneOptions(folder(ends=[1, 7]), trunk_layers=2), Template())
    policy.stop_token_ids = frozenset(range(2, 100)) | {1}
    prompts = policy.encode_prompts(["the dog"])
    params = SamplingParams(n=2, max_new_tokens=6)
    drawn = policy.sample(prompts, params, [1, 2], keep_trunk=True, close=True)
    assert any(drawn.finished)
    rows = [
        row[:-1] if done else row for row, done in zip(drawn.tokens, drawn.finished, strict=True)
    ]
    batch = assemble(prompts, [[*row, policy.eos] for row in rows], policy.pad)
    expected = policy.trunk_states(batch)
    torch.testing.assert_close(batch.gather(drawn.below), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("holes", [(), (5, 40, 41)])
@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_ids_without_a_token_have_no_probability(folder, tokenizer, name, holes):
    policy = load_policy(BackboneOptions(folder(name)), Template())
    size = len(tokenizer)
    assert policy.info.vocab_size == size < 320
    policy.info = dataclasses.replace(policy.info, unused_token_ids=holes)
    batch = policy.encode(PROMPTS, RESPONSES)
    hidden = policy.hidden(batch)
    logits = policy.logits(batch.spread(hidden))
    assert logits.shape[-1] == size
    assert (logits[..., list(holes)] == -torch.inf).all()
    table = (logits / 0.7).log_softmax(-1)
    facts = policy.token_logprobs(hidden, batch, SamplingParams(temperature=0.7))
    expected = table.gather(-1, batch.response_ids[..., None]).squeeze(-1)
    real = batch.is_response
    torch.testing.assert_close(facts.logprobs[real], expected[real], rtol=0, atol=1e-4)
    entropy = -(table.exp() * table.masked_fill(table.isinf(), 0.0)).sum(-1)
    torch.testing.assert_close(facts.entropy[real], entropy[real], rtol=0, atol=1e-4)


def test_a_trained_embedding_gets_no_gradient_where_no_token_is(folder, tokenizer):
    policy = load_policy(BackboneOptions(folder()), Template())
    weight = policy.unembedding.weight.requires_grad_(True)
    batch = policy.encode(PROMPTS, RESPONSES)
    policy.logprobs(batch).sum().backward()
    assert (weight.grad[len(tokenizer) :] == 0).all()
    assert (weight.grad[: len(tokenizer)] != 0).any()


def learned(kind, limit=24):
    torch.manual_seed(3)
    if kind == "gpt2":
        return GPT2LMHeadModel(
            GPT2Config(
                vocab_size=320,
                n_embd=32,
                n_layer=2,
                n_head=4,
                n_positions=limit,
                initializer_range=0.3,
                bos_token_id=0,
                eos_token_id=1,
            )
        )
    return OPTForCausalLM(
        OPTConfig(
            vocab_size=320,
            hidden_size=32,
            word_embed_proj_dim=32,
            ffn_dim=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=limit,
            init_std=0.3,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=0,
        )
    )


@pytest.mark.parametrize("packs", [True, False])
@pytest.mark.parametrize("kind", ["gpt2", "opt"])
def test_learned_positions_count_within_each_text(folder, tokenizer, kind, packs):
    model = learned(kind, 64).eval()
    path = folder(kind, model)
    policy = unpack(load_policy(BackboneOptions(path), Template("{prompt}:")), packs)
    batch = policy.encode(PROMPTS, RESPONSES)
    found = policy.logprobs(batch)
    for n, response in enumerate(text for group in RESPONSES for text in group):
        before = tokenizer(f"{PROMPTS[n // 2]}:").input_ids
        after = [*tokenizer(f" {response}").input_ids, 1]
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([before + after])).logits[0, :, : len(tokenizer)]
        table = logits[len(before) - 1 : -1].log_softmax(-1)
        expected = table.gather(1, torch.tensor(after)[:, None])[:, 0]
        torch.testing.assert_close(found[n, : len(after)], expected, rtol=0, atol=1e-4)
    rows = policy.encode_prompts(PROMPTS)
    drawn = policy.sample(rows, SamplingParams(max_new_tokens=8, temperature=0.0), [0, 1])
    for prompt, tokens in zip(rows, drawn.tokens, strict=True):
        text = list(prompt)
        for token in tokens:
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([text])).logits[0, -1, : len(tokenizer)]
            assert int(logits.argmax()) == token
            text.append(token)


@pytest.mark.parametrize("kind", ["gpt2", "opt"])
def test_texts_up_to_the_last_position_are_read_and_longer_ones_refused(folder, kind):
    policy = load_policy(BackboneOptions(folder(kind, learned(kind).eval())), Template("{prompt}:"))
    (prompt,) = policy.encode_prompts(["the dog sat"])
    room = 24 - len(prompt)
    drawn = policy.sample([prompt], SamplingParams(max_new_tokens=room, temperature=0.0), [0])
    assert len(drawn.tokens[0]) <= room
    with pytest.raises(ValueError, match=r"24 tokens of .*max_position_embeddings.*max_new_tokens"):
        policy.sample([prompt], SamplingParams(max_new_tokens=room + 1, temperature=0.0), [0])
    with pytest.raises(ValueError, match="max_response_tokens"):
        policy.encode(["the dog sat"], [["x y z " * 9]])
    policy.encode(["the dog sat"], [["x y z " * 9]], room)  # cut to what there is room for


def test_long_rows_are_found_before_work(folder):
    policy = load_policy(BackboneOptions(folder("gpt2", learned("gpt2").eval())), Template())
    policy.check_lengths([("a", ["b"]), ("a", None)], 8)
    with pytest.raises(ValueError, match="a prompt of .* up to 8 of response"):
        policy.check_lengths([("a", ["b"]), ("the dog " * 9, None)], 8)
    with pytest.raises(ValueError, match="max_response_tokens"):
        policy.check_lengths([("a", ["b", "long " * 40])], 30)


def test_token_logprobs_without_info_read_every_row(make_model):
    model = make_model("llama")
    hidden, tokens = torch.randn(2, 32), torch.tensor([319, 4])
    found = token_logprobs(hidden, model.get_output_embeddings(), tokens, SamplingParams()).logprobs
    table = model.get_output_embeddings()(hidden).log_softmax(-1)
    torch.testing.assert_close(found, table.gather(-1, tokens[..., None]).squeeze(-1))
