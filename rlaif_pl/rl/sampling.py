"""Sample responses: shared prefill, finished rows leave the batch, noise keyed by what is sampled."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from rlaif_pl.models.backbone import attention_window
from rlaif_pl.models.causal import CausalModel
from rlaif_pl.models.encoding import pad_right
from rlaif_pl.models.shared_prefix import positions_of, spread_cache


class Samples(NamedTuple):
    """Sampled responses; ``N = G * K``, those of a prompt next to each other."""

    tokens: list[list[int]]  # each ends in EOS where it finished
    finished: Tensor  # (N,) bool, False where the length limit cut the text

    def texts(self, model: CausalModel) -> list[str]:
        """Decode, without EOS and surrounding white space."""
        return [
            text.strip()
            for text in model.tokenizer.batch_decode(self.tokens, skip_special_tokens=True)
        ]


def noise_seed(*key: int | str) -> int:
    """Turn (seed, step, prompt, sample) into a generator seed that no sharding changes."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def uniforms(seeds: Sequence[int], length: int) -> Tensor:
    """One uniform a row and token, in [0, 1). ``(N, length)`` float64"""
    rows = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        rows.append(torch.rand(length, generator=generator, dtype=torch.float64))
    return torch.stack(rows)


def draw(logits: Tensor, uniform: Tensor, temperature: float) -> Tensor:
    """Draw tokens by inverting the cumulative distribution.

    Args:
        logits: ``(N, V)``
        uniform: One number in [0, 1) a row. ``(N,)`` float64
        temperature: Divides the logits; 0 takes the most likely token.

    Returns:
        Token ids ``(N,)``.
    """
    if temperature == 0:
        return logits.argmax(-1)
    cumulative = torch.softmax(logits.double() / temperature, -1).cumsum(-1)
    point = uniform.to(logits.device)[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, point, right=True).squeeze(1).clamp(max=logits.shape[1] - 1)


@torch.no_grad()
def sample(
    model: CausalModel,
    prompts: Sequence[Sequence[int]],
    *,
    per_prompt: int,
    max_new_tokens: int,
    temperature: float,
    seeds: Sequence[int],
) -> Samples:
    """Sample ``per_prompt`` responses to each prompt.

    Args:
        model: Policy; its prompt is computed once for all samples of a prompt.
        prompts: Token ids of each prompt, ``G`` rows.
        per_prompt: Samples a prompt, ``K``.
        max_new_tokens: Length limit, EOS included.
        temperature: Divides the logits; 0 is greedy.
        seeds: One a sample (see ``noise_seed``), ``N = G * K``.

    Raises:
        ValueError: The number of seeds is not ``G * K``, or a text would outgrow the model's sliding
            window, whose keys are counted by place in the (padded) cache.
    """
    if len(seeds) != len(prompts) * per_prompt:
        raise ValueError(f"expected {len(prompts) * per_prompt} seeds, got {len(seeds)}")
    device = model.device
    longest = max(len(prompt) for prompt in prompts) + max_new_tokens
    window = attention_window(model.config)
    if window is not None and longest > window:
        raise ValueError(
            f"expected prompt and response within the model's sliding window of {window} tokens, "
            f"got up to {longest}; shorten prompts (template.max_prompt_words) or max_new_tokens"
        )
    ids, is_real = (tensor.to(device) for tensor in pad_right([p[:-1] for p in prompts], model.pad))
    stacks = model.stacks
    caches = [stack.new_cache() for stack in stacks]
    if ids.shape[1]:
        hidden = ids
        for stack, cache in zip(stacks, caches, strict=True):
            hidden = stack(hidden, is_real, positions_of(is_real), cache)
        for cache in caches:
            spread_cache(cache, per_prompt)
    keys = is_real.repeat_interleave(per_prompt, 0)
    position = keys.sum(1)
    token = torch.tensor([p[-1] for p in prompts], device=device).repeat_interleave(per_prompt)
    noise = uniforms(seeds, max_new_tokens)
    rows = torch.arange(len(seeds), device=device)
    tokens: list[list[int]] = [[] for _ in seeds]
    finished = torch.zeros(len(seeds), dtype=torch.bool)
    for step in range(max_new_tokens):
        keys = torch.cat([keys, keys.new_ones(len(rows), 1)], 1)
        hidden = token[:, None]
        for stack, cache in zip(stacks, caches, strict=True):
            hidden = stack(hidden, keys, position[:, None], cache)
        token = draw(model.logits(hidden[:, -1]), noise[rows.cpu(), step], temperature)
        for row, new in zip(rows.tolist(), token.tolist(), strict=True):
            tokens[row].append(new)
        ended = token == model.eos
        finished[rows[ended].cpu()] = True
        if ended.any():
            left = (~ended).nonzero().squeeze(1)
            if len(left) == 0:
                break
            rows, token, keys, position = rows[left], token[left], keys[left], position[left]
            for cache in caches:
                cache.batch_select_indices(left)
        position = position + 1
    return Samples(tokens, finished)

