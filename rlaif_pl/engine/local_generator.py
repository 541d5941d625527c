"""Sample from a model on this machine: packed prompts where it can, groups of one length elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import nn

from rlaif_pl.engine.batch import send, to_device
from rlaif_pl.engine.generate import Generated, StopChecker, generate_tokens
from rlaif_pl.engine.generation_state import (
    EqualLengthState,
    GenerationState,
    LanguageModel,
    PackedState,
    pack_prompts,
    runners_of,
)
from rlaif_pl.engine.modes import eval_mode
from rlaif_pl.engine.sampling import SamplingParams


def sample_responses(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    params: SamplingParams,
    seeds: Sequence[int],
    end_ids: Iterable[int],
    *,
    stop: StopChecker | None = None,
    keep_trunk: bool = False,
    close_with: int | None = None,
) -> Generated:
    """Sample ``params.n`` responses to each prompt; finished ones leave the batch.

    Args:
        model: Policy; its prompts are run once for all their samples.
        prompts: Token ids of each prompt, ``G`` rows, each at least one token.
        params: How to draw; its seed is not read here.
        seeds: One a response (see ``sample_seed``), ``N = G * n``.
        end_ids: Tokens that end a response.
        stop: Looks for stop strings.
        keep_trunk: Also return the trunk's states of the tokens that another was drawn after, where
            the model is packed and has a trunk.
        close_with: With ``keep_trunk``: also of the end tokens, and of this one after every response
            that was cut, which costs two more passes.

    Raises:
        ValueError: The number of seeds is not ``G * n``, or there are stop strings and nobody who
            looks for them.
    """
    if len(seeds) != len(prompts) * params.n:
        raise ValueError(f"expected {len(prompts) * params.n} seeds, got {len(seeds)}")
    if params.stop and stop is None:
        raise ValueError(f"expected a stop checker for stop strings {params.stop}, got none")
    ends = list(end_ids)
    if isinstance(model, nn.Module):
        with eval_mode(model):
            return _sample(model, prompts, params, seeds, ends, stop, keep_trunk, close_with)
    return _sample(model, prompts, params, seeds, ends, stop, keep_trunk, close_with)


def can_pack(model: LanguageModel) -> bool:
    """Whether prompts and texts of a model are run without padding, each prompt once."""
    if not model.share_prefix:
        return False
    return all(r.capabilities.packs and r.capabilities.decodes for r in runners_of(model))


@torch.no_grad()
def _sample(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    params: SamplingParams,
    seeds: Sequence[int],
    ends: Sequence[int],
    stop: StopChecker | None,
    keep_trunk: bool,
    close_with: int | None,
) -> Generated:
    device = model.top.device
    (last,) = to_device([[prompt[-1] for prompt in prompts for _ in range(params.n)]], device)
    if can_pack(model):
        keep_trunk = keep_trunk and model.trunk is not None
        closes = close_with if keep_trunk else None
        capacity = params.max_new_tokens + (0 if closes is None else 2)
        ids, batch = pack_prompts([prompt[:-1] for prompt in prompts], device)
        leaves = [n // params.n for n in range(len(seeds))]
        state: GenerationState = PackedState(
            model, ids, batch, leaves, capacity, keep_trunk=keep_trunk
        )
        return generate_tokens(state, last, params, seeds, ends, stop=stop, close_with=closes)
    groups: dict[int, list[int]] = {}
    for n in range(len(seeds)):
        groups.setdefault(len(prompts[n // params.n]), []).append(n)
    parts: dict[int, tuple[list[int], bool, bool]] = {}
    for rows in groups.values():
        ids = torch.tensor([list(prompts[n // params.n][:-1]) for n in rows], dtype=torch.int64)
        state = EqualLengthState(model, send(ids.view(len(rows), -1), device))
        (index,) = to_device([rows], device)
        own = generate_tokens(state, last[index], params, [seeds[n] for n in rows], ends, stop=stop)
        parts |= dict(zip(rows, zip(*own[:3], strict=True), strict=True))
    tokens, finished, failed = zip(*(parts[n] for n in range(len(seeds))), strict=True)
    return Generated(list(tokens), list(finished), list(failed))
