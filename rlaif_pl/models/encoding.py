"""Text to tokens: prompts as shared prefixes, responses as continuations."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from rlaif_pl.engine.response_batch import ResponseBatch, assemble
from rlaif_pl.text import Template


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase, template: Template, prompts: Sequence[str]
) -> list[list[int]]:
    """Render prompts by the template and tokenize them; each has at least one token."""
    rows = tokenize_open(tokenizer, [template.render(text) for text in prompts])
    if any(len(row) == 0 for row in rows):
        raise ValueError("expected every prompt to have at least one token, got an empty one")
    return rows


def tokenize_open(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Tokenize texts that go on: with what the tokenizer puts before one, without an EOS after it.

    Some tokenizers (Llama's with ``add_eos_token``) close every text; a model that reads EOS there
    takes what follows for another document.
    """
    eos, eos_id = tokenizer.eos_token, tokenizer.eos_token_id
    rows = tokenizer(list(texts), add_special_tokens=True).input_ids
    return [
        list(row[:-1]) if row and row[-1] == eos_id and not text.endswith(str(eos)) else list(row)
        for text, row in zip(texts, rows, strict=True)
    ]


def encode_responses(
    tokenizer: PreTrainedTokenizerBase,
    template: Template,
    responses: Sequence[str],
    max_tokens: int | None = None,
) -> list[list[int]]:
    """Tokenize responses as they follow the prompt and close each with EOS.

    A response longer than ``max_tokens`` (EOS included) loses its tail but keeps the EOS, because a
    reward is read there.
    """
    eos = int(tokenizer.eos_token_id)  # type: ignore[arg-type]
    texts = [template.continuation(text) for text in responses]
    rows = tokenizer(texts, add_special_tokens=False).input_ids
    room = None if max_tokens is None else max_tokens - 1
    return [[*row[:room], eos] for row in rows]


def encode(
    tokenizer: PreTrainedTokenizerBase,
    template: Template,
    prompts: Sequence[str],
    responses: Sequence[Sequence[str]],
    max_response_tokens: int | None = None,
) -> ResponseBatch:
    """Encode ``G`` prompts with ``K`` responses each; all prompts must have the same K."""
    rows = encode_prompts(tokenizer, template, prompts)
    flat = [text for group in responses for text in group]
    return assemble(
        rows, encode_responses(tokenizer, template, flat, max_response_tokens), pad_of(tokenizer)
    )


def pad_of(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return an id to fill padded places with; masks, never ids, say what is padding."""
    pad = tokenizer.pad_token_id
    return int(pad if pad is not None else tokenizer.eos_token_id)  # type: ignore[arg-type]
