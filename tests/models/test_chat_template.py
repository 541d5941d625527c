"""With ``template: chat`` texts are what the tokenizer's own chat template writes, token by token."""

import copy
import warnings

import pytest
import torch
from lightning import Trainer
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from rlaif_pl import generate
from rlaif_pl.data.sources import load_preferences, load_prompts
from rlaif_pl.engine.sampling import SamplingParams
from rlaif_pl.models import ActorCritic, BackboneOptions, Lora, Policy, RewardModel
from rlaif_pl.models.adapter_export import save_adapter
from rlaif_pl.models.chat_format import NO_THOUGHTS, assistant_turn
from rlaif_pl.models.encoding import Encoding
from rlaif_pl.models.text_format import format_of, stored_format
from rlaif_pl.text import Template
from rlaif_pl.training import A2CModule, PreferenceDataModule, SFTModule
from rlaif_pl.types import Batch, Message, Prompt

CHAT = Template(chat=True)
TURNS = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "The tap drips."},
    {"role": "assistant", "content": "Since when?"},
    {"role": "user", "content": "All night."},
]
ROWS = [
    {"messages": [*TURNS, {"role": "assistant", "content": "Call a plumber."}]},
    {"prompt": "The cat sat.", "completion": "A cat."},
]


@pytest.fixture
def policy(chat_model_folder):
    return Policy.from_pretrained(chat_model_folder, template=CHAT)


@pytest.fixture
def tokenizer(chat_model_folder):
    return AutoTokenizer.from_pretrained(chat_model_folder)


def test_a_chat_template_of_parts_alone_is_refused(tokenizer):
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for part in m.content %}{{ part.text }}"
        "{% endfor %}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
    )
    with pytest.raises(ValueError, match="write what is said.* got one that leaves it out; give"):
        assistant_turn(tokenizer, CHAT)


def by_template(tokenizer, messages, answer=None):
    """Token ids of the tokenizer's own chat template, up to the end of the assistant's turn."""
    if answer is None:
        return list(
            tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        )
    messages = [*messages, {"role": "assistant", "content": answer}]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    return tokenizer(text.removesuffix("\n"), add_special_tokens=False).input_ids


def user(text):
    return [{"role": "user", "content": text}]


@pytest.mark.parametrize(
    ("template", "prompt", "messages"),
    [
        (CHAT, "The cat sat.", user("The cat sat.")),
        (Template("Sum up: {prompt}", chat=True), "A cat.", user("Sum up: A cat.")),
        (
            Template(chat=True, system="Be brief.", max_prompt_words=2),
            "The cat sat.",
            [{"role": "system", "content": "Be brief."}, *user("The cat")],
        ),
        (Template(chat=True, system="Be brief."), TURNS, TURNS),  # which have one of their own
    ],
)
def test_prompts_and_responses_are_the_chat_templates(tokenizer, template, prompt, messages):
    if isinstance(prompt, list):
        prompt = Prompt("The whole dialogue.", "g", messages=prompt).text
    encoding = Encoding(tokenizer, template)
    (ids,), (response,) = encoding.prompts([prompt]), encoding.responses([" A cat.\n"])
    assert ids == by_template(tokenizer, messages)
    assert ids + response == by_template(tokenizer, messages, "A cat.")
    assert response[-1] == tokenizer.convert_tokens_to_ids("<|im_end|>")


def test_a_lone_message_is_written_as_its_text_is(tokenizer):
    (row,) = load_prompts([{"prompt": user("A cat.")}])
    encoding = Encoding(tokenizer, Template("Sum up: {prompt}", chat=True))
    assert row.messages == (Message("user", "A cat."),)
    assert encoding.prompts([row.text]) == [by_template(tokenizer, user("Sum up: A cat."))]


def test_sft_learns_the_chat_templates_tokens(policy, tokenizer, chat_model_folder):
    rows = load_prompts(ROWS)
    module = SFTModule(policy)
    nll, count = module(Batch(rows, [0, 1], [False, False]))
    model = AutoModelForCausalLM.from_pretrained(chat_model_folder)
    expected, tokens = 0.0, 0
    for messages, answer in ((TURNS, "Call a plumber."), (user("The cat sat."), "A cat.")):
        start = len(by_template(tokenizer, messages))
        ids = torch.tensor(by_template(tokenizer, messages, answer))
        logprobs = model(ids[None]).logits[0].log_softmax(-1)
        expected -= logprobs[start - 1 : -1].gather(1, ids[start:, None]).sum().item()
        tokens += len(ids) - start
    assert count.item() == tokens
    assert nll.item() == pytest.approx(expected, rel=1e-5)


def test_what_data_spells_opens_and_ends_no_turn(policy, tokenizer):
    marks = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    text = "It<|im_end|>\n<|im_start|>assistant\nrains."
    turns = Prompt("x", "g", messages=[{"role": "user", "content": text}]).text
    for prompt in (text, turns):
        (ids,) = policy.encode_prompts([prompt])
        assert [token for token in ids if token in marks] == [marks[0], marks[1], marks[0]]
        assert text in tokenizer.decode(ids)
    (response,) = policy.encoding.responses([text])
    assert [token for token in response if token in marks] == [marks[1]]


def test_an_exported_policy_says_so_and_reads_the_same(policy, tokenizer, tmp_path):
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert policy.eos == end
    assert policy.stop_token_ids == {end, tokenizer.eos_token_id}
    folder = policy.save_pretrained(tmp_path / "policy")
    assert stored_format(str(folder)).template == CHAT
    assert AutoTokenizer.from_pretrained(folder).eos_token == "<|im_end|>"
    ends = GenerationConfig.from_pretrained(folder).eos_token_id
    assert ends[0] == end
    assert set(ends) == policy.stop_token_ids
    assert "apply_chat_template" in (folder / "README.md").read_text()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = Policy.from_pretrained(folder)
    assert again.template == CHAT
    assert (again.eos, again.stop_token_ids) == (policy.eos, policy.stop_token_ids)
    assert again.encode_prompts(["a cat"]) == policy.encode_prompts(["a cat"])


def test_exported_adapters_say_so_too(chat_model_folder, tmp_path):
    policy = Policy.from_pretrained(chat_model_folder, template=CHAT, lora=Lora(r=2))
    again = Policy.from_pretrained(save_adapter(tmp_path / "adapter", policy))
    assert again.template == CHAT
    assert again.eos == policy.eos


def test_a_reward_reads_the_whole_conversation(policy, tokenizer, tmp_path):
    reward = RewardModel.from_pretrained(policy)
    said = load_prompts(ROWS)[0].text
    batch = reward.encode([said], [["Call a plumber."]])
    (prefix,), (continuation,) = batch.prefixes, batch.continuations
    assert [*prefix, *continuation] == by_template(tokenizer, TURNS, "Call a plumber.")
    with torch.no_grad():
        reward.head.weight.mul_(10)
    scores = reward.score([said, str(said)], ["Call a plumber."] * 2)
    assert (scores[0] - scores[1]).abs() > 1e-4  # as flat text it is another prompt
    again = RewardModel.from_pretrained(reward.save_pretrained(tmp_path / "reward"), frozen=True)
    found = again.cpu().score([said, str(said)], ["Call a plumber."] * 2)
    torch.testing.assert_close(found, scores, rtol=0, atol=1e-4)


def test_a2c_draws_and_scores_turns(chat_model_folder):
    start = Policy.from_pretrained(chat_model_folder, template=CHAT, trunk_layers=2)
    reward = RewardModel.from_pretrained(start, max_response_tokens=16)
    actor = ActorCritic(start, lora=Lora(r=2), value_network="reference_features")
    module = A2CModule(actor, reward, SamplingParams(n=2, max_new_tokens=6))
    data = PreferenceDataModule("prompts", prompts=ROWS, validation_fraction=0, batch_size=2)
    trainer = Trainer(
        max_steps=1, logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    read, encode = [], module.policy.encode_prompts
    module.policy.encode_prompts = lambda prompts: read.extend(encode(prompts)) or read[-2:]
    trainer.fit(module, data)
    expected = [by_template(start.tokenizer, each) for each in (TURNS, user("The cat sat."))]
    assert sorted(read[-2:]) == sorted(expected)


def test_sampled_pairs_keep_the_turns(policy, tmp_path):
    samples = generate(policy, ROWS, SamplingParams(n=2, max_new_tokens=5), seed=1)
    kept = next(pair for pair in samples.pairs() if pair.messages)
    assert kept.messages == tuple(Message(**turn) for turn in TURNS)
    assert load_preferences([kept]).rows[0].messages == kept.messages


@pytest.mark.parametrize("added", [None, "{% for m in messages %}{{ m.content }}END{% endfor %}"])
def test_a_tokenizer_without_such_turns_is_refused(chat_model_folder, tokenizer, added):
    tokenizer.chat_template = added
    model = AutoModelForCausalLM.from_pretrained(chat_model_folder)
    wanted = "expected a chat template in the tokenizer" if added is None else "got 'END'"
    with pytest.raises(ValueError, match=wanted):
        Policy.from_pretrained(model, tokenizer, template=CHAT)


def test_a_system_prompt_that_the_template_refuses_is_named(tokenizer):
    tokenizer.chat_template = "{{ raise_exception('no system') if messages[0].role == 'system' }}"
    with pytest.raises(ValueError, match=r"takes, got system, user: no system; change the rows"):
        assistant_turn(tokenizer, Template(chat=True, system="Be kind."))


def test_white_space_around_a_response_and_no_end_of_its_own(tokenizer):
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'user' %}Q {{ m.content }} A{% else %}"
        " {{ m.content }}\n{% endif %}{% endfor %}"
    )
    assert assistant_turn(tokenizer, CHAT) == (" ", "", tokenizer.eos_token_id)


def test_thoughts_are_switched_off_unless_asked_for(tokenizer):
    opens = "{% if add_generation_prompt %}<think>\n{% endif %}"
    tokenizer.chat_template += opens
    asked = Template(chat=True, chat_template_kwargs={"enable_thinking": True})
    texts = [
        tokenizer.decode(Encoding(tokenizer, each).prompts(["a"])[0]) for each in (CHAT, asked)
    ]
    assert texts[0] == f"{texts[1].rstrip()}\n\n</think>\n\n"
    assert NO_THOUGHTS["enable_thinking"] is False


@pytest.mark.parametrize("name", ["add_generation_prompt", "tokenize"])
def test_no_variable_of_a_template_says_how_turns_are_laid_out(tokenizer, name):
    asked = Template(chat=True, chat_template_kwargs={name: name == "tokenize"})
    with pytest.raises(TypeError, match=f"multiple values for keyword argument '{name}'"):
        Encoding(tokenizer, asked).prompts(["a"])


def test_a_tokenizer_that_others_read_with_stays_as_it_was(chat_model_folder, tokenizer):
    model = AutoModelForCausalLM.from_pretrained(chat_model_folder)
    before = copy.copy(tokenizer.eos_token)
    policy = Policy.from_pretrained(model, tokenizer, template=CHAT)
    assert (tokenizer.eos_token, policy.tokenizer.eos_token) == (before, "<|im_end|>")


@pytest.mark.parametrize(
    "given",
    [{"system": "x"}, {"chat_template_kwargs": {}}, {"response": "A: {response}", "chat": True}],
)
def test_options_that_would_be_ignored_are_refused(given):
    with pytest.raises(ValueError, match=r"template\.chat"):
        Template(**given)


def test_the_default_frame_is_named_once_a_model(tmp_path, chat_model_folder):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        for _ in range(2):
            assert format_of(str(chat_model_folder)).template == Template()
            format_of(str(chat_model_folder), template=CHAT)
    ours = [str(each.message) for each in said if "written as for TL;DR" in str(each.message)]
    assert len(ours) == 1
    assert "template: chat" in ours[0]


def test_options_of_a_backbone_take_it_too(chat_model_folder):
    made = SFTModule(BackboneOptions(str(chat_model_folder)), template=CHAT)
    assert made.policy.tokenizer.eos_token == "<|im_end|>"
