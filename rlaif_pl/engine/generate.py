"""Write texts token by token: prompts once for all their samples, rows leave the batch as they end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rlaif_pl import ops
from rlaif_pl.engine.batch import send, to_device
from rlaif_pl.engine.forward import eval_mode
from rlaif_pl.engine.generation_state import (
    EqualLengthState,
    GenerationState,
    LanguageModel,
    PackedState,
    pack_prompts,
    runners_of,
)
from rlaif_pl.engine.response_batch import TrunkStates
from rlaif_pl.engine.sampling import SamplingParams, StopStrings, sample_from_logits, sample_noise

STEPS_PER_SYNC = 16  # tokens that a GPU draws before the host looks which texts have ended


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
    return 1 if device.type == "cpu" else STEPS_PER_SYNC


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
        state: Prompts that are already run, with room for ``max_new_tokens`` (two more with
            ``close_with``).
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
    noise = sample_noise(seeds, longest, device) if params.temperature else None
    drawn = torch.full((count, longest), -1, dtype=torch.int64, device=device)
    end_list = sorted({*end_ids, *params.stop_token_ids})
    ends, room = to_device([end_list, limits or [longest] * count], device)
    progress = _Progress(room)
    every = steps_per_sync(device)
    closing = -1 if close_with is None else close_with
    token = first_tokens
    for step in range(longest if close_with is None else longest + 2):
        below = state.forward_trunk(token)
        is_due = step % every == 0 or step >= longest
        if close_with is not None and step and is_due:  # an end token too goes through the trunk
            below = progress.drop(state, below, drawn, stop)
        if not progress.rows:
            break
        if step >= longest:  # not drawn: the reward of a cut text is read there
            token = torch.full_like(token[: len(progress.rows)], closing)
            continue
        logits = state.next_logits(below)
        uniform = logits.new_zeros(len(logits)) if noise is None else noise[progress.places, step]
        token, is_valid = sample_from_logits(logits, uniform, params)
        drawn[progress.places, step] = token
        progress.failed |= ~is_valid
        # torch.isin would make a GPU sort, and the host wait, where many tokens end a text
        progress.ended |= (token[:, None] == ends).any(1) | ~is_valid
        if close_with is not None:  # whatever ended a text, its reward is read at this token
            token = token.masked_fill(progress.ended, closing)
        else:
            progress.ended |= progress.room <= step + 1
            if (step + 1) % every == 0 or step + 1 == longest:
                token = progress.drop(state, token, drawn, stop)
                if not progress.rows:
                    break
    return _collect(drawn, progress, params, end_ids, limits, stop, state.trunk_states())


class _Progress:
    """Which texts are still being written; ``room`` is the most tokens of each. ``(N,)``."""

    def __init__(self, room: Tensor) -> None:
        self.room = room
        self.rows = list(range(len(room)))
        self.places = torch.arange(len(room), device=room.device)
        self.ended = torch.zeros_like(room, dtype=torch.bool)
        self.failed = torch.zeros_like(self.ended)
        self.failures: set[int] = set()

    def drop(
        self, state: GenerationState, carried: Tensor, drawn: Tensor, stop: StopStrings | None
    ) -> Tensor:
        """Drop the texts that have ended; returns what is left of ``carried`` ``(n, ...)``."""
        columns = [self.ended.long()[:, None], self.failed.long()[:, None]]
        if stop is not None:
            columns.append(drawn[self.places])
        read = torch.cat(columns, 1).tolist()  # waits for the device, once
        ended = [bool(end) for end, *_ in read]
        if stop is not None:
            new = steps_per_sync(drawn.device)
            ended = [
                end or stop.is_met([t for t in text if t >= 0], new)
                for end, (_, _, *text) in zip(ended, read, strict=True)
            ]
        self.failures |= {row for row, flags in zip(self.rows, read, strict=True) if flags[1]}
        kept = [n for n, end in enumerate(ended) if not end]
        if len(kept) == len(self.rows):
            return carried
        self.rows = [self.rows[n] for n in kept]
        (index,) = to_device([kept], self.places.device)
        parts = (self.room, self.places, self.ended, self.failed)
        self.room, self.places, self.ended, self.failed = (part[index] for part in parts)
        if kept:
            state.select_rows(kept, index)
        return carried[index]


def _collect(
    drawn: Tensor,
    progress: _Progress,
    params: SamplingParams,
    end_ids: Iterable[int],
    limits: Sequence[int] | None,
    stop: StopStrings | None,
    below: TrunkStates | None,
) -> Generated:
    ends = {*end_ids, *params.stop_token_ids}
    tokens, finished = [], []
    for n, row in enumerate(drawn.tolist()):
        limit = len(row) if limits is None else min(limits[n], len(row))
        text = [token for token in row[:limit] if token >= 0]
        last = next((place for place, token in enumerate(text) if token in ends), None)
        text = text if last is None else text[: last + 1]
        cut = None if stop is None else stop.cut(text)
        tokens.append(text if cut is None else text[:cut])
        finished.append(last is not None or cut is not None)
    failed = [n in progress.failures for n in range(len(tokens))]
    return Generated(tokens, finished, failed, below)


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
        stop: Looks for stop strings.
        keep_trunk: Also return the trunk's states of the tokens that another was drawn after, where
            the model is packed and has a trunk.
        close_with: With ``keep_trunk``: also of the end tokens, and of this one after every response
            that was cut, which costs two more passes.

    Raises:
        ValueError: The number of seeds is not ``G * n``, or nobody looks for stop strings.
    """
    if len(seeds) != len(prompts) * params.n:
        raise ValueError(f"expected {len(prompts) * params.n} seeds, got {len(seeds)}")
    if params.stop and stop is None:
        raise ValueError(f"expected a stop checker for stop strings {params.stop}, got none")
    ends, runners = list(end_ids), runners_of(model)
    with eval_mode(nn.ModuleList(runners)), weights_cast_once(model.top.device.type):
        if not all(runner.capabilities.decodes for runner in runners):
            return _sample_unpacked(model, prompts, params, seeds, ends, stop)
        closes = close_with if keep_trunk and model.trunk is not None else None
        device = model.top.device
        (last,) = to_device([[prompt[-1] for prompt in prompts for _ in range(params.n)]], device)
        ids, batch = pack_prompts([prompt[:-1] for prompt in prompts], device)
        leaves = [n // params.n for n in range(len(seeds))]
        room = params.max_new_tokens + (0 if closes is None else 2)
        state = PackedState(model, ids, batch, leaves, room, keep_trunk=keep_trunk)
        return generate_tokens(state, last, params, seeds, ends, stop=stop, close_with=closes)


def _sample_unpacked(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    params: SamplingParams,
    seeds: Sequence[int],
    ends: Sequence[int],
    stop: StopStrings | None,
) -> Generated:
    groups: dict[int, list[int]] = {}
    for n in range(len(seeds)):
        groups.setdefault(len(prompts[n // params.n]), []).append(n)
    parts: dict[int, tuple[list[int], bool, bool]] = {}
    for rows in groups.values():
        ids = torch.tensor([list(prompts[n // params.n]) for n in rows], dtype=torch.int64)
        ids = send(ids, model.top.device)
        state = EqualLengthState(model, ids[:, :-1])
        own = generate_tokens(state, ids[:, -1], params, [seeds[n] for n in rows], ends, stop=stop)
        parts |= dict(zip(rows, zip(*own[:3], strict=True), strict=True))
    tokens, finished, failed = zip(*(parts[n] for n in range(len(seeds))), strict=True)
    return Generated(list(tokens), list(finished), list(failed))
