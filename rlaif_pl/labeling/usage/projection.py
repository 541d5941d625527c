"""What a job will take: calls, tokens and money beforehand, time and replies as it runs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from rlaif_pl.data.disk_rows import key_codes
from rlaif_pl.labeling.calls import (
    Backend,
    Call,
    GenerateRequest,
    LoglikelihoodRequest,
    Response,
    ThinkRequest,
    Watch,
)
from rlaif_pl.labeling.strategies.ensemble import EnsembleLabeler
from rlaif_pl.labeling.strategy import ModelLabeler
from rlaif_pl.labeling.thinking import thoughtful
from rlaif_pl.labeling.usage.spending import Price
from rlaif_pl.tables import duration
from rlaif_pl.types import Labeler, Preference

CHARACTERS_PER_TOKEN = 4.0  # English text, until something was measured
LONG_ENOUGH = 10.0  # seconds after which a pace is worth telling


@dataclass(frozen=True, slots=True)
class Projection:
    """A guess at what labeling will take, from the real prompts of a sample."""

    pairs: int  # pairs to label
    sampled: int  # pairs whose prompts were written out
    calls: int  # calls for all pairs
    rounds: int  # calls that must wait for one another
    read: int  # tokens read for all pairs
    written: int  # tokens written at most, as if every text went up to its limit
    cost_usd: float | None  # cost of the tokens above; None without a price
    reread: int = 0  # of the tokens read, those that a prefix cache cannot spare

    def line(self) -> str:
        """Say it in a sentence."""
        cost, reread = "no price given", ""
        if self.cost_usd is not None:
            cost = f"at most about {self.cost_usd:.4g} USD"
        if self.reread:
            reread = (
                f"; {self.reread:,} of them are read anew whatever the server's prefix cache holds, "
                "since log-probabilities of given text bypass it"
            )
        return (
            f"{self.pairs} pairs to label: about {self.calls:,} calls in {self.rounds} round(s), "
            f"{self.read:,} tokens read and at most {self.written:,} written, {cost} "
            f"(from the prompts of {self.sampled} pairs){reread}"
        )


def members_of(labeler: object) -> list[ModelLabeler]:
    """Return who asks a model: the labeler itself, or the members of an ensemble and theirs."""
    if isinstance(labeler, EnsembleLabeler):
        return [each for member in labeler.labelers for each in members_of(member)]
    return [labeler] if isinstance(labeler, ModelLabeler) else []


def backends_of(labeler: object) -> list[Backend]:
    """Return who answers a labeler's calls; those of an ensemble's members."""
    return [each.backend for each in members_of(labeler)]


def estimate_cost(
    labeler: Labeler,
    pairs: Sequence[Preference],
    prices: Price | None = None,
    sample: int = 20,
    text_tokens: float | None = None,
    total: int | None = None,
) -> Projection | None:
    """Write out a labeler's calls for a sample of pairs, without asking anybody, and extrapolate.

    Calls of a later round hold texts that are not there yet; a text of the length written stands in.
    An ensemble takes what its members do, one after another, each counted by itself. Where only some
    have a price, the cost is that of those.

    Args:
        labeler: Whose calls; None is returned where nothing is known about them.
        pairs: What is to be labeled.
        prices: Of back ends without a price of their own.
        sample: Prompts to write out, evenly spread over all, each with up to so many of its pairs:
            labelers may share calls between the pairs of a prompt.
        text_tokens: Mean tokens of an answer that is a text; None takes each call's limit.
        total: Pairs to be labeled, where ``pairs`` are a few that stand for all; None: only those.
    """
    prompts = key_codes([pair.prompt] for pair in pairs)  # as numbers: files may be large
    count, total = len(np.unique(prompts)), len(pairs) if total is None else total
    spread = sorted({n * count // min(sample, count) for n in range(min(sample, count))})
    chosen = [pairs[int(at)] for n in spread for at in np.flatnonzero(prompts == n)[:sample]]
    parts = [_project(each, chosen, total, prices, text_tokens) for each in members_of(labeler)]
    if not parts:
        return None
    costs = [part.cost_usd for part in parts if part.cost_usd is not None]
    names = ("calls", "rounds", "read", "written", "reread")
    sums = {name: sum(getattr(part, name) for part in parts) for name in names}
    return replace(parts[0], cost_usd=math.fsum(costs) if costs else None, **sums)


def _project(
    labeler: ModelLabeler,
    chosen: Sequence[Preference],
    total: int,
    prices: Price | None,
    text_tokens: float | None,
) -> Projection:
    asked: dict[Call, None] = {}
    rounds = 0

    def ask(calls: Sequence[Call]) -> list[Response]:
        nonlocal rounds
        rounds += 1
        asked.update(dict.fromkeys(calls))
        return [_stand_in(call, text_tokens) for call in calls]

    if chosen:
        labeler.judge(chosen, thoughtful(ask, labeler.thinking))
    scale = total / max(len(chosen), 1)
    rereads = getattr(labeler.backend, "rereads_scored", False)
    scored = [call for call in asked if rereads and isinstance(call, LoglikelihoodRequest)]
    read, reread = (round(scale * sum(map(_read, calls))) for calls in (asked, scored))
    written = round(scale * sum(_written(call, text_tokens) for call in asked))
    price = getattr(labeler.backend, "price", None) or prices
    cost = None if price is None else price.of(read, written)
    calls = round(scale * len(asked))
    return Projection(total, len(chosen), calls, rounds, read, written, cost, reread)


@dataclass(eq=False)
class ThroughputEstimator:
    """Measures a job against its projection and tells once how long it is going to take.

    Progress is counted in projected tokens, from the first reply on: what came before it is loading a
    model. Replies of a batch come at once, so the first of the next batch completes a fair measure.
    """

    projection: Projection  # what the job was said to take
    tell: Callable[[str], None]  # told a line once `LONG_ENOUGH` has passed and more is ahead
    clock: Callable[[], float] = time.monotonic  # seconds
    # time of the first reply, and tokens till then
    _begun: tuple[float, float] | None = field(default=None, init=False)
    _done: float = field(default=0.0, init=False)
    _told: bool = field(default=False, init=False)

    def count(self, call: Call, reply: Response) -> None:
        """Add one reply."""
        self._done += _read(call) + (reply.written or _written(call))
        if self._begun is None:
            self._begun = (self.clock(), self._done)
            return
        passed, left = self.clock() - self._begun[0], self.seconds_left()
        if not self._told and passed >= LONG_ENOUGH and left > LONG_ENOUGH:
            self._told = True
            self.tell(f"at the pace of the first calls {self.line()}")

    def seconds_left(self) -> float:
        """Seconds to go at the pace so far; infinite until a second after the first reply."""
        began, before = self._begun or (math.inf, 0.0)
        passed, counted = self.clock() - began, self._done - before
        if passed < 1.0 or not counted:
            return math.inf
        left = self.projection.read + self.projection.written - self._done
        return passed * max(left, 0.0) / counted

    def line(self) -> str:
        """Say how long it still takes."""
        left = self.seconds_left()
        return "" if math.isinf(left) else f"about {duration(left)} to go"


def _read(call: Call) -> float:
    """Tokens a model reads for a call, as far as that is known without its tokenizer."""
    if isinstance(call, LoglikelihoodRequest):
        return len(call.context + call.target) / CHARACTERS_PER_TOKEN
    q = call.question
    return len(q.text + (q.thoughts or "") + q.assistant_prefix) / CHARACTERS_PER_TOKEN


def _written(call: Call, text_tokens: float | None = None) -> float:
    """Tokens a model writes for a call: thoughts and, without ``text_tokens``, texts at most."""
    if isinstance(call, GenerateRequest) and text_tokens is not None:
        return min(call.decoding.max_tokens, text_tokens)
    return call.decoding.max_tokens if isinstance(call, GenerateRequest | ThinkRequest) else 1


def _stand_in(call: Call, text_tokens: float | None) -> Response:
    """Return a reply that says nothing, in place of one that would cost something."""
    if isinstance(call, GenerateRequest | ThinkRequest):
        tokens = round(_written(call, text_tokens))
        # of four characters each; samples differ, so that what is asked about them does
        return Response(text=f"{call.sample:x<4}" + "word" * (tokens - 1))
    if isinstance(call, LoglikelihoodRequest):
        return Response(logprobs=(-1.0,) * max(len(call.target.split()), 1))
    return Response(logprobs=(-math.log(len(call.options)),) * len(call.options))


@contextmanager
def watched(labeler: Labeler, watch: Watch) -> Iterator[None]:
    """Tell ``watch``, too, of a labeler's new replies inside the block."""
    before = {each.asker: each.asker.watch for each in members_of(labeler)}

    def both(told: Watch | None, call: Call, reply: Response) -> None:
        if told is not None:
            told(call, reply)
        watch(call, reply)

    for client, told in before.items():
        client.watch = partial(both, told)
    try:
        yield
    finally:
        for client, told in before.items():
            client.watch = told


@contextmanager
def counted_replies(labeler: Labeler, title: str) -> Iterator[None]:
    """Count a labeler's new replies on the terminal while it judges; nothing where it asks no model."""
    if not members_of(labeler):
        yield
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}: {task.completed} replies"))
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=None, visible=False)  # until there is a reply
        with watched(labeler, lambda *_: bar.update(task, advance=1, visible=True)):
            yield
