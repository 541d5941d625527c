"""Write texts token by token: prompts once for all their samples, rows leave the batch as they end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rlaif_pl import ops
from rlaif_pl.engine.batch import Segment, pack_segments, send, to_device
from rlaif_pl.engine.decoder_layers import eval_mode
from rlaif_pl.engine.generation_state import (
    EqualLengthState,
    GenerationState,
    LanguageModel,
    PackedState,
    runners_of,
)
from rlaif_pl.engine.response_batch import TrunkStates
from rlaif_pl.engine.sampling import SamplingParams, StopStrings, sample_from_logits, sample_noise


class Generated(NamedTuple):
    """Texts, those of a prompt next to each other."""

    tokens: list[list[int]]  # each ends in an end token where it finished by one
    finished: list[bool]  # False where the length limit cut the text
    failed: list[bool]  # True where a logit was NaN
    below: TrunkStates | None = None  # trunk states of the tokens that another was drawn after
    # nats, by who drew them, where another than the policy
    logprobs: list[list[float]] | None = None


def steps_per_sync(device: torch.device) -> int:
    """Tokens after which the host looks which texts have ended; a CPU waits for nothing."""
    return 1 if device.type == "cpu" else 16


@torch.no_grad()
@ops.widened_once()
def generate_tokens(
    state: GenerationState,
    first_tokens: Tensor,
    params: SamplingParams,
    seeds: Sequence[int],
    end_ids: Iterable[int],
    *,
    limits: Sequence[int] | None = None,
    stop: StopStrings | None = None,
    close_with: int | None = None,
) -> Generated:
    """Draw token after token until every text has ended or is cut.

    Args:
        state: Prompts that are run, with room for ``max_new_tokens``, two more with ``close_with``.
        first_tokens: Last token of each text's prompt, which opens it. ``(N,)`` int64
        params: How to draw.
        seeds: Seed of each text's noise.
        end_ids: Tokens that end a text.
        limits: Most tokens of each text; ``params.max_new_tokens`` for all where None.
        stop: Looks for stop strings.
        close_with: Run this token, and end tokens, through the trunk too after every text that does
            not end in it, so that the trunk's states reach to the end of the closed text.
    """
    count, device = len(seeds), first_tokens.device
    longest = params.max_new_tokens if limits is None else min(max(limits), params.max_new_tokens)
    limits = [longest] * count if limits is None else [min(limit, longest) for limit in limits]
    noise = sample_noise(seeds, longest, device) if params.temperature else None
    all_ends = {*end_ids, *params.stop_token_ids}
    ends, room = to_device([sorted(all_ends), limits], device)
    progress = _Progress(state, room, longest, stop)
    every = steps_per_sync(device)
    token = first_tokens
    for step in range(longest if close_with is None else longest + 2):
        below = state.forward_trunk(token)
        is_due = step % every == 0 or step >= longest
        if close_with is not None and step and is_due:  # an end token too goes through the trunk
            below = progress.drop(below)
        if not progress.count:
            break
        if step >= longest:  # not drawn: the reward of a cut text is read there
            token = torch.full_like(token[: progress.count], close_with)  # type: ignore[arg-type]
            continue
        logits = state.next_logits(below)
        uniform = logits.new_zeros(len(logits)) if noise is None else noise[progress.places, step]
        token, is_valid = sample_from_logits(logits, uniform, params)
        progress.drawn[progress.places, step] = token
        progress.failed[progress.places] |= ~is_valid
        # torch.isin would make a GPU sort, and the host wait, where many tokens end a text
        progress.ended |= (token[:, None] == ends).any(1) | ~is_valid
        if close_with is not None:  # whatever ended a text, its reward is read at this token
            token = token.masked_fill(progress.ended, close_with)
            continue
        progress.ended |= progress.room <= step + 1
        if (step + 1) % every == 0 or step + 1 == longest:
            token = progress.drop(token)
            if not progress.count:
                break
    return progress.collect(limits, all_ends)


class _Progress:
    """Which texts are still being written, and what was drawn of all; ``room`` is the most of each."""

    def __init__(
        self, state: GenerationState, room: Tensor, longest: int, stop: StopStrings | None
    ) -> None:
        self.state, self.room, self.stop = state, room, stop
        self.count = len(room)
        self.places = torch.arange(len(room), device=room.device)
        self.drawn = room.new_full((len(room), longest), -1)
        self.ended = torch.zeros_like(room, dtype=torch.bool)
        self.failed = torch.zeros_like(self.ended)  # of all texts

    def drop(self, carried: Tensor) -> Tensor:
        """Drop the texts that have ended; returns what is left of ``carried`` ``(n, ...)``."""
        columns = [self.ended.long()[:, None]]
        if self.stop is not None:
            columns.append(self.drawn[self.places])
        kept, new = [], steps_per_sync(carried.device)
        for n, (ended, *text) in enumerate(torch.cat(columns, 1).tolist()):  # waits, once
            written = [token for token in text if token >= 0]
            if not ended and not (self.stop is not None and self.stop.is_met(written, new)):
                kept.append(n)
        if len(kept) == self.count:
            return carried
        self.count = len(kept)
        (index,) = to_device([kept], self.places.device)
        parts = (self.room, self.places, self.ended)
        self.room, self.places, self.ended = (part[index] for part in parts)
        if kept:
            self.state.select_rows(kept, index)
        return carried[index]

    def collect(self, limits: Sequence[int], ends: set[int]) -> Generated:
        """Read all texts, up to what ended each."""
        tokens, finished = [], []
        rows = torch.cat([self.failed.long()[:, None], self.drawn], 1).tolist()
        for row, limit in zip(rows, limits, strict=True):
            text = [token for token in row[1 : 1 + limit] if token >= 0]
            last = next((place for place, token in enumerate(text, 1) if token in ends), None)
            text = text[:last]
            cut = None if self.stop is None else self.stop.cut(text)
            tokens.append(text[:cut])
            finished.append(last is not None or cut is not None)
        failed = [row[0] > 0 for row in rows]
        return Generated(tokens, finished, failed, self.state.trunk_states())


@contextmanager
def weights_cast_once(device_type: str) -> Iterator[None]:
    """Under autocast without a cache (Lightning's), cast trained weights once and not for each token.

    Only without gradients: a cached cast is of no use to a backward pass.
    """
    if not torch.is_autocast_enabled(device_type) or torch.is_autocast_cache_enabled():
        yield
        return
    try:
        with torch.autocast(device_type, torch.get_autocast_dtype(device_type), cache_enabled=True):
            yield
    finally:
        torch.clear_autocast_cache()  # memory that the update needs


@torch.no_grad()
def sample_responses(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    params: SamplingParams,
    seeds: Sequence[int],
    end_ids: Iterable[int],
    *,
    stop: StopStrings | None = None,
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
        stop: Looks for stop strings; ValueError without it where ``params`` has some.
        keep_trunk: Also return the trunk's states of the tokens that another was drawn after, where
            the model is packed and has a trunk.
        close_with: With ``keep_trunk``: also of the end tokens, and of this one after every response
            that was cut, which costs two more passes.
    """
    if len(seeds) != len(prompts) * params.n:
        raise ValueError(f"expected {len(prompts) * params.n} seeds, got {len(seeds)}")
    if params.stop and stop is None:
        raise ValueError(f"expected a stop checker for stop strings {params.stop}, got none")
    ends, runners, device = list(end_ids), runners_of(model), model.top.device
    with eval_mode(nn.ModuleList(runners)), weights_cast_once(device.type):
        if all(runner.capabilities.decodes for runner in runners):
            closes = close_with if keep_trunk and model.trunk is not None else None
            leaves = [n // params.n for n in range(len(seeds))]
            rows = [token for prompt in prompts for token in prompt[:-1]]
            ids, last = to_device([rows, [prompts[n][-1] for n in leaves]], device)
            batch = pack_segments([[Segment(len(prompt) - 1) for prompt in prompts]], device)
            room = params.max_new_tokens + (0 if closes is None else 2)
            state = PackedState(model, ids, batch, leaves, room, keep_trunk=keep_trunk)
            return generate_tokens(state, last, params, seeds, ends, stop=stop, close_with=closes)
        groups: dict[int, list[int]] = {}  # of unpacked texts by the length of their prompts
        for n in range(len(seeds)):
            groups.setdefault(len(prompts[n // params.n]), []).append(n)
        parts: dict[int, tuple[list[int], bool, bool]] = {}
        for rows in groups.values():
            ids = torch.tensor([list(prompts[n // params.n]) for n in rows], dtype=torch.int64)
            ids, own = send(ids, device), [seeds[n] for n in rows]
            equal = EqualLengthState(model, ids[:, :-1])
            found = generate_tokens(equal, ids[:, -1], params, own, ends, stop=stop)
            parts |= dict(zip(rows, zip(*found[:3], strict=True), strict=True))
    tokens, finished, failed = zip(*(parts[n] for n in range(len(seeds))), strict=True)
    return Generated(list(tokens), list(finished), list(failed))
