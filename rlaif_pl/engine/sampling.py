"""Draw tokens: settings, filters, stop strings, and noise that is keyed by what is drawn."""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rlaif_pl.engine.batch import send
from rlaif_pl.errors import above, at_least, within
from rlaif_pl.text import refuse_spelled_breaks

BLOCK = 512  # tokens summed together before one of them is looked for
NUCLEUS = 1024  # likeliest tokens that a CPU sorts first; more only where they fall short


@dataclass(frozen=True)
class SamplingParams:
    """How responses are drawn; names and meanings are vLLM's, but for ``max_new_tokens``.

    Attributes:
        n: Responses a prompt, at least 1.
        max_new_tokens: Length limit, end token included, at least 1.
        temperature: Divides the logits; 0 takes the likeliest token.
        top_k: Only this many likeliest tokens are drawn; 0 for all.
        top_p: Only the likeliest tokens that together reach this probability are drawn, in (0, 1].
        min_p: Only tokens with at least this share of the likeliest one's probability, in [0, 1].
        stop: Strings at which a text ends, or a single one; they are not part of it.
        stop_token_ids: Tokens at which a text ends, besides the model's own end tokens.
        seed: Seeds the noise, together with prompt and sample; None takes the seed of the command that
            samples, and 0 in training.
    """

    n: int = 1
    max_new_tokens: int = 64
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    seed: int | None = None

    def __post_init__(self) -> None:
        at_least(1, n=self.n, max_new_tokens=self.max_new_tokens)
        at_least(0, temperature=self.temperature, top_k=self.top_k)
        above(0, top_p=self.top_p)
        within(0, 1, top_p=self.top_p, min_p=self.min_p)
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        object.__setattr__(self, "stop", stop)
        refuse_spelled_breaks("stop", *stop)
        if any(not string for string in stop):
            raise ValueError("expected stop strings that are not empty, got ''")

    def __str__(self) -> str:
        """Say how was drawn, for provenance: what differs from plain sampling, and the seed."""
        given = {n: getattr(self, n) for n in ("top_k", "top_p", "min_p", "stop", "stop_token_ids")}
        parts = [f"{n}={v}" for n, v in given.items() if v != getattr(SamplingParams, n)]
        return " ".join([f"T={self.temperature}", *parts, f"seed={self.seed or 0}"])

    def seeded(self, seed: int) -> SamplingParams:
        """Return the same with a seed, unless there is one."""
        return self if self.seed is not None else replace(self, seed=seed)

    @property
    def filters(self) -> bool:
        """Whether some tokens are never drawn for being unlikely."""
        return self.temperature > 0 and (self.top_k > 0 or self.top_p < 1 or self.min_p > 0)


def sample_seed(*key: int | str) -> int:
    """Turn (seed, step, prompt, sample) into a generator seed that no sharding changes."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def sample_noise(seeds: Sequence[int], length: int, device: torch.device | str = "cpu") -> Tensor:
    """One uniform a row and token, in [0, 1), made on the host. ``(N, length)`` float32."""
    # A trainer's bf16-true makes bfloat16 the default type: 8 bits, of which tails are never drawn.
    noise = torch.empty(len(seeds), length, dtype=torch.float32)
    for row, seed in zip(noise, seeds, strict=True):
        torch.rand(length, generator=torch.Generator().manual_seed(seed), out=row)
    return send(noise, device)


@contextmanager
def cumulative_sums() -> Iterator[None]:
    """Let floats be summed up on a GPU where ``trainer.deterministic`` is set, which refuses that.

    Torch has no other sum; that of several rows has one order of its terms.
    """
    mode = torch.get_deterministic_debug_mode()  # 2 where it is an error
    torch.set_deterministic_debug_mode(mode % 2)
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)


@cumulative_sums()
def sample_from_logits(
    logits: Tensor, uniform: Tensor, params: SamplingParams
) -> tuple[Tensor, Tensor]:
    """Draw one token a row ``(N,)``, and tell whether a row is valid: False for NaN or +inf in it.

    Logits ``(N, V)`` are minus infinity where a token is never drawn; ``uniform`` ``(N,)`` in [0, 1) is
    one number a row, so noise is made ahead and no row depends on others. The cumulative sum runs over
    blocks of the vocabulary, then within one: of 150,000 terms float32 would show its rounding.
    """
    logits = logits.float()
    if params.temperature == 0:
        top, tokens = logits.max(-1)
        return tokens, top.isfinite()
    filtered = filter_logits(logits, params) / params.temperature
    weights = (filtered - filtered.amax(-1, keepdim=True)).exp()
    rows, vocabulary = weights.shape
    if spare := -vocabulary % BLOCK:
        weights = torch.nn.functional.pad(weights, (0, spare))
    blocks = weights.view(rows, -1, BLOCK)
    sums = blocks.sum(-1).cumsum(-1)
    total = sums[:, -1]
    point = (uniform.to(total) * total)[:, None]
    block = _first_above(sums, point)
    before = torch.where(block > 0, sums.gather(1, (block - 1).clamp(min=0)), 0.0)
    chosen = blocks.gather(1, block[..., None].expand(-1, 1, BLOCK))[:, 0].cumsum(-1)
    within = _first_above(chosen, point - before)
    tokens = (block * BLOCK + within).squeeze(1)
    return tokens.clamp(max=vocabulary - 1), total.isfinite()


def _first_above(sums: Tensor, point: Tensor) -> Tensor:
    """Place of the first sum above a point; of the last that grows where rounding leaves none."""
    place = torch.searchsorted(sums, point, right=True)
    last = torch.searchsorted(sums, sums[:, -1:].contiguous())
    return torch.minimum(place, last).clamp(max=sums.shape[-1] - 1)


def filter_logits(logits: Tensor, params: SamplingParams) -> Tensor:
    """Set the logits ``(N, V)``, before temperature, of tokens that are never drawn to minus infinity.

    The order is vLLM's: top-k, then min-p and top-p on what temperature makes of the rest.
    """
    if not params.filters:
        return logits
    if 0 < params.top_k < logits.shape[-1]:
        least = logits.topk(params.top_k, -1).values[..., -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if params.min_p > 0:
        top = logits.amax(-1, keepdim=True)
        # A number of the host: moved to a GPU, each token would wait for it.
        floor = top + params.temperature * torch.tensor(params.min_p, dtype=torch.float32).log()
        logits = logits.masked_fill(logits < floor, -torch.inf)
    if params.top_p < 1:
        # Compared as is: times T again it may round past itself.
        scaled = logits / params.temperature
        nucleus = _nucleus(scaled, params.top_p, params.top_k)
        logits = logits.masked_fill(scaled < nucleus, -torch.inf)
    return logits


@cumulative_sums()
def _nucleus(logits: Tensor, top_p: float, top_k: int = 0) -> Tensor:
    """Least logit among the likeliest tokens that reach a probability. ``(N, 1)``.

    ``top_k`` says how many are above minus infinity, besides others as likely as the last; 0 for all.
    """
    norm = logits.logsumexp(-1, keepdim=True)
    values = None
    if 0 < top_k < logits.shape[-1]:  # a GPU would sort the whole vocabulary for each token
        values = logits.topk(top_k, -1).values
    elif logits.device.type == "cpu" and logits.shape[-1] > NUCLEUS:
        values = logits.topk(NUCLEUS, -1).values
        if not bool(((values - norm).exp().sum(-1) >= top_p).all()):
            values = None
    if values is None:
        values = logits.sort(-1, descending=True).values
    seen = (values - norm).exp().cumsum(-1)
    kept = (seen < top_p).sum(-1, keepdim=True).clamp(max=values.shape[-1] - 1)
    return values.gather(-1, kept)


def before_stop(text: str, stop: Sequence[str]) -> str:
    """Return a text up to the first of some stop strings; the whole text where it has none."""
    places = [place for string in stop if (place := text.find(string)) >= 0]
    return text[: min(places, default=None)]


class StopStrings:
    """Finds stop strings in texts as they are decoded."""

    def __init__(self, strings: Sequence[str], decode: Callable[[Sequence[int]], str]) -> None:
        self.strings = tuple(strings)
        self.decode = decode
        # A character is at most four bytes, and a token at least one.
        self._tail = 4 * max(map(len, strings), default=0) + 4

    def is_met(self, tokens: Sequence[int], new: int) -> bool:
        """Tell whether a stop string ends in the last ``new`` tokens, decoding little before them.

        One with many tokens in it that decode to nothing is missed, until ``cut`` reads the whole text.
        """
        end = tokens[-self._tail - new :]
        return self._holds(end) and (len(end) == len(tokens) or self._holds(tokens))

    def cut(self, tokens: Sequence[int]) -> int | None:
        """Return how many tokens a text has when it first holds a stop string; None if it has none."""
        if not self._holds(tokens):
            return None
        counts = range(1, len(tokens))  # text grows with its tokens
        return 1 + bisect_left(counts, True, key=lambda count: self._holds(tokens[:count]))

    def _holds(self, tokens: Sequence[int]) -> bool:
        text = self.decode(tokens)
        return any(string in text for string in self.strings)
