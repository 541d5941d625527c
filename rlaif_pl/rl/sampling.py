"""Sample responses: shared prefill, finished rows leave the batch, noise keyed by what is sampled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rlaif_pl.models.backbone import attention_window
from rlaif_pl.models.causal import CausalModel
from rlaif_pl.models.drawing import draw, uniforms
from rlaif_pl.models.shared_prefix import States
from rlaif_pl.rl.decoding import Decoding, decoding_of


class Samples(NamedTuple):
    """Sampled responses; ``N = G * K``, those of a prompt next to each other."""

    tokens: list[list[int]]  # each ends in EOS where it finished
    finished: Tensor  # (N,) bool, False where the length limit cut the text
    below: States | None = None  # trunk states of all tokens that another was drawn after, at least

    def texts(self, model: CausalModel) -> list[str]:
        """Decode, without EOS and surrounding white space."""
        return [
            text.strip()
            for text in model.tokenizer.batch_decode(self.tokens, skip_special_tokens=True)
        ]


@torch.no_grad()
def sample(
    model: CausalModel,
    prompts: Sequence[Sequence[int]],
    *,
    per_prompt: int,
    max_new_tokens: int,
    temperature: float,
    seeds: Sequence[int],
    keep_trunk: bool = False,
    to_eos: bool = False,
) -> Samples:
    """Sample ``per_prompt`` responses to each prompt; finished rows leave the batch.

    Args:
        model: Policy; its prompt is computed once for all samples of a prompt.
        prompts: Token ids of each prompt, ``G`` rows.
        per_prompt: Samples a prompt, ``K``.
        max_new_tokens: Length limit, EOS included.
        temperature: Divides the logits; 0 is greedy.
        seeds: One a sample (see ``noise_seed``), ``N = G * K``.
        keep_trunk: Also return the trunk's states: of the tokens that another was drawn after.
        to_eos: Also of the others: of an EOS after every response, which costs two more passes.

    Raises:
        ValueError: The number of seeds is not ``G * K``, the temperature is negative, or a text would
            outgrow the model's sliding window, whose keys are counted by place in the (padded) cache.
    """
    if len(seeds) != len(prompts) * per_prompt:
        raise ValueError(f"expected {len(prompts) * per_prompt} seeds, got {len(seeds)}")
    if temperature < 0:
        raise ValueError(f"temperature must be at least 0, got {temperature}")
    keep_trunk = keep_trunk and model.trunk is not None
    to_eos = to_eos and keep_trunk
    check_window(model, prompts, max_new_tokens + to_eos)
    with eval_mode(model):
        noise = uniforms(seeds, max_new_tokens)
        return write(model, prompts, noise, temperature, keep_trunk, to_eos)


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Leave train mode for a while: there, layers that recompute activations keep no cache."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def write(
    model: CausalModel,
    prompts: Sequence[Sequence[int]],
    noise: Tensor,
    temperature: float,
    keep_trunk: bool,
    to_eos: bool,
) -> Samples:
    """Draw token after token until every response has ended or is cut.

    Args:
        model: Policy, in eval mode.
        prompts: Token ids of each prompt, ``G`` rows.
        noise: One uniform a response and token. ``(G * K, max_new_tokens)``
        temperature: Divides the logits; 0 is greedy.
        keep_trunk: Also return the trunk's states; the model has one.
        to_eos: Also those of an EOS after every response.
    """
    count, max_new_tokens = noise.shape
    per_prompt = count // len(prompts)
    decoding = decoding_of(model, prompts, per_prompt, max_new_tokens + (2 if to_eos else 0))
    last = torch.tensor([prompt[-1] for prompt in prompts], device=model.device)
    token = last.repeat_interleave(per_prompt)
    draft = Draft(count, model.device)
    for step in range(max_new_tokens + 2 if to_eos else max_new_tokens):
        below = decoding.lower(token)
        if keep_trunk:
            draft.columns.append(spread(below[:, 0], draft.rows, count))
        if to_eos:  # an EOS too goes through the trunk, and only then its row leaves
            below = draft.leave(token, model.eos if step else None, decoding, below)
        if len(draft.rows) == 0:
            break
        if step >= max_new_tokens:  # not drawn: the reward of a cut response is read there
            token = torch.full_like(draft.rows, model.eos)
            decoding.position = decoding.position + 1
            continue
        logits = model.logits(decoding.upper(below))
        token = draw(logits, noise[draft.rows.cpu(), step], temperature)
        draft.write(token, model.eos)
        if not to_eos:
            token = draft.leave(token, model.eos, decoding, token)
            if len(draft.rows) == 0:
                break
    states = None
    if keep_trunk and decoding.prefix is not None:
        states = States(decoding.prefix, torch.stack(draft.columns, 1))
    return Samples(draft.tokens, draft.finished, states)


class Draft:
    """Responses as far as they are written.

    Args:
        count: Responses, ``N``.
        device: Where token ids are.
    """

    def __init__(self, count: int, device: torch.device) -> None:
        self.rows = torch.arange(count, device=device)  # those still being written
        self.tokens: list[list[int]] = [[] for _ in range(count)]
        self.finished = torch.zeros(count, dtype=torch.bool)
        self.columns: list[Tensor] = []  # trunk states by place in the text, each (N, D)

    def write(self, token: Tensor, eos: int) -> None:
        """Append one token to each row that is being written."""
        for row, new in zip(self.rows.tolist(), token.tolist(), strict=True):
            self.tokens[row].append(new)
        self.finished[self.rows[token == eos].cpu()] = True

    def leave(self, token: Tensor, eos: int | None, decoding: Decoding, carried: Tensor) -> Tensor:
        """Drop the rows whose token is EOS; returns what is left of ``carried`` ``(n, ...)``."""
        going = (token != eos) if eos is not None else torch.ones_like(token, dtype=torch.bool)
        if going.all():
            return carried
        left = going.nonzero().squeeze(1)
        self.rows = self.rows[left]
        decoding.keep(left)
        return carried[left]


def spread(states: Tensor, rows: Tensor, count: int) -> Tensor:
    """Put states ``(n, D)`` at their rows of ``(count, D)``; the others are 0."""
    return states.new_zeros(count, states.shape[-1]).index_copy(0, rows, states)


def check_window(model: CausalModel, prompts: Sequence[Sequence[int]], new_tokens: int) -> None:
    """Refuse texts that would outgrow a sliding window."""
    longest = max(len(prompt) for prompt in prompts) + new_tokens
    window = attention_window(model.config)
    if window is not None and longest > window:
        raise ValueError(
            f"expected prompt and response within the model's sliding window of {window} tokens, "
            f"got up to {longest}; shorten prompts (template.max_prompt_words) or max_new_tokens"
        )
