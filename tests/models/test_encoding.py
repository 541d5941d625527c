import warnings

import pytest
import torch
from tokenizers.processors import TemplateProcessing

from rlaif_pl.engine.response_batch import assemble, pad_right
from rlaif_pl.models.encoding import Encoding, warn_of_doubled
from rlaif_pl.text import Template


def test_assemble_by_hand():
    # Prompt [3, 4, 5] gives prefix [3, 4] and opens each continuation with 5; [9] has no prefix.
    batch = assemble([[3, 4, 5], [9]], [[6, 1], [7, 8, 1], [1], [2, 1]], pad=0)
    assert batch.prefixes == ([3, 4], [])
    assert batch.continuations == ([5, 6, 1], [5, 7, 8, 1], [9, 1], [9, 2, 1])
    assert batch.response_ids.tolist() == [[6, 1, 0], [7, 8, 1], [1, 0, 0], [2, 1, 0]]
    assert batch.lengths.tolist() == [2, 3, 1, 2]
    assert batch.per_prefix == 2
    assert batch.response_ids.shape == (4, 3)


def test_padding_is_told_by_the_mask_not_by_the_id():
    ids, is_real = pad_right([[1, 1], [1]], pad=1)
    assert ids.tolist() == [[1, 1], [1, 1]]
    assert is_real.tolist() == [[True, True], [True, False]]


def test_no_rows_and_empty_rows_give_empty_tensors():
    assert pad_right([], pad=0)[0].shape == (0, 0)
    assert pad_right([[], []], pad=0)[1].shape == (2, 0)


def test_every_response_ends_in_eos_even_when_cut(tokenizer):
    rows = Encoding(tokenizer, Template()).responses(["a cat", "the cat sat on the mat"], 4)
    assert all(row[-1] == tokenizer.eos_token_id and len(row) <= 4 for row in rows)
    whole = Encoding(tokenizer, Template()).responses(["the cat sat on the mat"])[0]
    assert rows[1][:3] == whole[:3]
    assert rows[1].count(tokenizer.eos_token_id) == 1


def test_encode_keeps_prompt_and_response_tokens(tokenizer):
    encoding = Encoding(tokenizer, Template())
    prompts = encoding.prompts(["the dog", "a cat sat"])
    batch = assemble(prompts, encoding.responses(["a", "b c", "d", ""]), pad=0)
    for n, (prompt, response) in enumerate(
        [("the dog", "a"), ("the dog", "b c"), ("a cat sat", "d"), ("a cat sat", "")]
    ):
        g = n // 2
        row = [*batch.prefixes[g], *batch.continuations[n]]
        expected = tokenizer(f"POST: {prompt}\n\nTL;DR:").input_ids
        expected += [*tokenizer(f" {response}").input_ids, tokenizer.eos_token_id]
        assert row == expected


def test_a_prompt_stays_open_where_the_tokenizer_closes_texts(tokenizer):
    bos, eos = tokenizer.bos_token, tokenizer.eos_token
    plain = Encoding(tokenizer, Template()).prompts(["the dog", "a cat sat"])
    ids = [(bos, tokenizer.bos_token_id), (eos, tokenizer.eos_token_id)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{bos} $A {eos}", special_tokens=ids
    )
    assert tokenizer("the dog").input_ids[-1] == tokenizer.eos_token_id
    closing = Encoding(tokenizer, Template()).prompts(["the dog", "a cat sat"])
    assert closing == [[tokenizer.bos_token_id, *row] for row in plain]
    told = Encoding(tokenizer, Template(prompt="{prompt}" + eos)).prompts(["the dog"])
    assert told[0][-1] == tokenizer.eos_token_id  # the template wants it there


@pytest.mark.parametrize(("prompts", "responses"), [([], []), ([[1], [2]], [[3], [4], [5]])])
def test_uneven_numbers_of_responses_are_refused(prompts, responses):
    with pytest.raises(ValueError, match="same number of responses"):
        assemble(prompts, responses, pad=0)


def test_to_moves_every_tensor(device):
    batch = assemble([[3, 4]], [[1]], pad=0).to(device)
    tensors = (batch.packed_ids, batch.response_ids, batch.is_response, batch.lengths)
    tensors += (batch.layout.positions, batch.response_places, batch.places([0]))
    assert {tensor.device.type for tensor in tensors} == {device.type}
    assert batch.packed_ids.dtype == batch.response_ids.dtype == torch.int64


def test_a_template_that_would_cut_everything_is_refused():
    with pytest.raises(ValueError, match="max_prompt_words must be at least 1"):
        Template(max_prompt_words=0)


def test_a_template_that_writes_what_every_text_gets_is_warned_of(tokenizer):
    bos, eos = tokenizer.bos_token, tokenizer.eos_token
    adding = Template(f"{bos}Q: {{prompt}}", f" {{response}}{eos}")
    with pytest.warns(UserWarning, match=f"template.response has '{eos}', which every text of M"):
        warn_of_doubled(tokenizer, adding, "M")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_doubled(tokenizer, Template(f"{bos}Q: {{prompt}}"), "M")  # nothing else writes it
        warn_of_doubled(tokenizer, Template(chat=True), "M")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, tokenizer.bos_token_id)]
    )
    row = Encoding(tokenizer, adding).prompts(["a"])[0]
    assert row.count(tokenizer.bos_token_id) == 2
    with pytest.warns(UserWarning, match=f"template.prompt has '{bos}'.*twice; leave it out"):
        warn_of_doubled(tokenizer, adding, "M")
