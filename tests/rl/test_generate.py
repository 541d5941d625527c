from collections import Counter
from dataclasses import replace

import pytest
import torch

from rlaif_pl.engine.sampling import SamplingParams
from rlaif_pl.rl.generate import DrawingOptions, generate
from rlaif_pl.types import Prompt

PROMPTS = [
    Prompt("a dog that sat on a mat and then on a cat", "p0"),
    Prompt("a cat", "p1"),
    Prompt("the dog sat", "p2"),
    Prompt("b", "p3"),
]
PARAMS = SamplingParams(n=3, max_new_tokens=10, seed=4)


@pytest.fixture
def policy(policy_of):
    """Return a policy that ends some of its texts: the token it writes most is its EOS."""
    model = policy_of(trunk_layers=2)
    model.eos = -1
    model.stop_token_ids = frozenset({model.eos})
    drawn = generate(model, PROMPTS, PARAMS)
    counts = Counter(token for group in drawn.tokens for row in group for token in row)
    model.eos = counts.most_common(1)[0][0]
    model.stop_token_ids = frozenset({model.eos})
    return model


def test_results_come_in_the_order_of_the_prompts_whatever_the_batches(policy):
    whole = generate(policy, PROMPTS, PARAMS)
    assert [len(group) for group in whole.texts] == [3] * 4
    assert len({text for group in whole.texts for text in group}) > 6
    for size in (1, 3):
        assert generate(policy, PROMPTS, PARAMS, batch_size=size) == whole
    shuffled = generate(policy, PROMPTS[::-1], PARAMS)
    assert shuffled.tokens[::-1] == whole.tokens
    assert generate(policy, PROMPTS[2:3], PARAMS).texts == whole.texts[2:3]


def test_more_samples_go_on_from_fewer(policy):
    whole = generate(policy, PROMPTS, PARAMS)
    fewer = generate(policy, PROMPTS, replace(PARAMS, n=1))
    assert fewer.tokens == [group[:1] for group in whole.tokens]


def test_another_seed_or_group_gives_other_noise(policy):
    first = generate(policy, PROMPTS[:1], PARAMS)
    assert generate(policy, PROMPTS[:1], replace(PARAMS, seed=5)) != first
    assert generate(policy, [Prompt(PROMPTS[0].text, "other")], PARAMS) != first


def test_unfinished_texts_are_those_that_do_not_end_in_eos(policy):
    result = generate(policy, PROMPTS, PARAMS)
    rows = [row for group in result.tokens for row in group]
    flags = [flag for group in result.unfinished for flag in group]
    assert flags == [row[-1] != policy.eos for row in rows]
    assert set(flags) == {True, False}
    written = [row[:-1] if row[-1] == policy.eos else row for row in rows]
    decoded = policy.tokenizer.batch_decode(written, skip_special_tokens=True)
    assert [t for group in result.texts for t in group] == [text.strip() for text in decoded]


def test_no_text_holds_what_stopped_it(policy):
    whole = generate(policy, PROMPTS, PARAMS)
    texts = [text for group in whole.texts for text in group]
    string = max(texts, key=len)[2:4]
    found = generate(policy, PROMPTS, replace(PARAMS, stop=string))
    cut = [text.partition(string)[0].strip() for text in texts]
    assert [text for group in found.texts for text in group] == cut != texts
    token = whole.tokens[0][0][2]
    found = generate(policy, PROMPTS, replace(PARAMS, stop_token_ids=(token,)))
    rows = [row for group in whole.tokens for row in group]
    before = [row[: row.index(token)] if token in row else row for row in rows]
    assert [text for group in found.texts for text in group] == policy.texts(before)
    assert before != rows


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_policy_whose_logits_are_not_finite_writes_nothing(policy_of, temperature):
    broken = policy_of()
    with torch.no_grad():
        next(broken.top.parameters())[5:] = float("nan")
    params = replace(PARAMS, temperature=temperature)
    with pytest.raises(
        ValueError, match="expected finite logits from .*, got NaN or infinity after p"
    ):
        generate(broken, PROMPTS, params)


def test_no_prompts_give_no_responses(policy):
    assert generate(policy, [], PARAMS).texts == []


def test_a_batch_without_prompts_is_refused():
    with pytest.raises(ValueError, match="batch_size of at least 1, got 0"):
        DrawingOptions(batch_size=0)
