"""Text to tokens: prompts as shared prefixes, responses as continuations."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from transformers import PreTrainedTokenizerBase

from rlaif_pl.engine.response_batch import ResponseBatch, assemble
from rlaif_pl.models.control_tokens import ControlTokens, added_around
from rlaif_pl.text import Template


def control_tokens_of(
    tokenizer: PreTrainedTokenizerBase, template: Template, stop_token_ids: Collection[int] = ()
) -> ControlTokens:
    """Return a policy's control tokens: special ones, the template's, and those that end a text."""
    return ControlTokens(tokenizer, f"{template.prompt}\0{template.response}", stop_token_ids)


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase,
    template: Template,
    prompts: Sequence[str],
    stop_token_ids: Collection[int] = (),
) -> list[list[int]]:
    """Render prompts by the template and tokenize them; each has at least one token.

    Args:
        tokenizer: Tokenizer of the model.
        template: How prompts are written; its control tokens are those of the row.
        prompts: Data: control tokens that it spells are text.
        stop_token_ids: Tokens that end a text, which are control tokens too.
    """
    control = control_tokens_of(tokenizer, template, stop_token_ids)
    rows = tokenize_open(control, [template.render(text) for text in prompts])
    if any(len(row) == 0 for row in rows):
        raise ValueError("expected every prompt to have at least one token, got an empty one")
    return rows


def tokenize_open(control: ControlTokens, texts: Sequence[str]) -> list[list[int]]:
    """Tokenize texts that go on: with what the tokenizer puts before one, without an EOS after it.

    Some tokenizers (Llama's with ``add_eos_token``) close every text; a model that reads EOS there
    takes what follows for another document.
    """
    rows = control.tokenize(texts, special=True)
    eos = control.tokenizer.eos_token_id
    if eos is None or all(row[-1:] != [eos] for row in rows):
        return rows
    _, after = added_around(control.tokenizer)
    return [row[:-1] if after[-1:] == row[-1:] == [eos] else row for row in rows]


def encode_responses(
    tokenizer: PreTrainedTokenizerBase,
    template: Template,
    responses: Sequence[str],
    max_tokens: int | None = None,
    stop_token_ids: Collection[int] = (),
) -> list[list[int]]:
    """Tokenize responses as they follow the prompt and close each with EOS, its only end token.

    A response longer than ``max_tokens`` (EOS included) loses its tail but keeps the EOS, because a
    reward is read there.
    """
    eos = int(tokenizer.eos_token_id)  # type: ignore[arg-type]
    texts = [template.continuation(text) for text in responses]
    control = control_tokens_of(tokenizer, template, stop_token_ids)
    rows = control.tokenize(texts, special=False)
    room = None if max_tokens is None else max_tokens - 1
    return [[*row[:room], eos] for row in rows]


def encode(
    tokenizer: PreTrainedTokenizerBase,
    template: Template,
    prompts: Sequence[str],
    responses: Sequence[Sequence[str]],
    max_response_tokens: int | None = None,
    *,
    pad: int = 0,
    stop_token_ids: Collection[int] = (),
) -> ResponseBatch:
    """Encode ``G`` prompts with ``K`` responses each; all prompts must have the same K."""
    rows = encode_prompts(tokenizer, template, prompts, stop_token_ids)
    flat = [text for group in responses for text in group]
    closed = encode_responses(tokenizer, template, flat, max_response_tokens, stop_token_ids)
    return assemble(rows, closed, pad)
