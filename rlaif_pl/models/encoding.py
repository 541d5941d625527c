"""Text to tokens: prompts as shared prefixes, responses as continuations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rlaif_pl.text import Template


class PrefixBatch(NamedTuple):
    """``G`` prefixes, each with the same number of continuations, ``N = G * K`` in all.

    The last prompt token opens the continuation, so a continuation's hidden state at column j is the
    state before its response token j, and column ``length`` is the state at its last token.
    Both parts are padded on the right: a padded column then always has real keys to look at.
    """

    prefix_ids: Tensor  # (G, P) int64, prompt without its last token
    prefix_is_real: Tensor  # (G, P) bool
    ids: Tensor  # (N, 1 + R) int64, last prompt token, then the response
    is_real: Tensor  # (N, 1 + R) bool

    @property
    def per_prefix(self) -> int:
        """Continuations of each prefix, ``K``."""
        return self.ids.shape[0] // self.prefix_ids.shape[0]

    @property
    def response_ids(self) -> Tensor:
        """Response tokens ``(N, R)``."""
        return self.ids[:, 1:]

    @property
    def is_response(self) -> Tensor:
        """True at response tokens ``(N, R)``."""
        return self.is_real[:, 1:]

    @property
    def inputs(self) -> PrefixBatch:
        """The texts without the last token of each, which nothing is predicted from. ``(N, R)``.

        Column j of its continuations is the token before response token j.
        """
        return PrefixBatch(self.prefix_ids, self.prefix_is_real, self.ids[:, :-1], self.is_response)

    @property
    def lengths(self) -> Tensor:
        """Response tokens a row ``(N,)``."""
        return self.is_response.sum(1)

    def to(self, device: torch.device) -> PrefixBatch:
        """Move every tensor to a device."""
        return PrefixBatch(*(tensor.to(device) for tensor in self))


def pad_right(rows: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Stack rows of token ids.

    Returns:
        ``(ids, is_real)``, each ``(N, longest row)``; padded places hold ``pad`` and False.
    """
    width = max((len(row) for row in rows), default=0)
    ids = torch.full((len(rows), width), pad, dtype=torch.int64)
    is_real = torch.zeros(len(rows), width, dtype=torch.bool)
    for n, row in enumerate(rows):
        ids[n, : len(row)] = torch.tensor(row, dtype=torch.int64)
        is_real[n, : len(row)] = True
    return ids, is_real


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
) -> PrefixBatch:
    """Encode ``G`` prompts with ``K`` responses each; all prompts must have the same K."""
    rows = encode_prompts(tokenizer, template, prompts)
    flat = [text for group in responses for text in group]
    return assemble(
        rows, encode_responses(tokenizer, template, flat, max_response_tokens), pad_of(tokenizer)
    )


def assemble(
    prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], pad: int
) -> PrefixBatch:
    """Build a batch from token rows; response ``n`` belongs to prompt ``n // K``."""
    if not prompts or len(responses) % len(prompts):
        raise ValueError(
            f"expected the same number of responses for each of {len(prompts)} prompts, "
            f"got {len(responses)} responses"
        )
    per_prefix = len(responses) // len(prompts)
    prefix_ids, prefix_is_real = pad_right([row[:-1] for row in prompts], pad)
    rows = [[prompts[n // per_prefix][-1], *row] for n, row in enumerate(responses)]
    return PrefixBatch(prefix_ids, prefix_is_real, *pad_right(rows, pad))


def pad_of(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return an id to fill padded places with; masks, never ids, say what is padding."""
    pad = tokenizer.pad_token_id
    return int(pad if pad is not None else tokenizer.eos_token_id)  # type: ignore[arg-type]
