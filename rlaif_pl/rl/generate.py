"""Who draws responses (this process, or inference servers), and those to a whole data set."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from rich.progress import Progress

from rlaif_pl.engine.generate import Generated
from rlaif_pl.engine.sampling import SamplingParams, sample_seed
from rlaif_pl.errors import at_least
from rlaif_pl.models.causal import CausalModel
from rlaif_pl.models.sampled_policy import SampledPolicy
from rlaif_pl.types import Preference, Prompt, Provenance


class GenerationBackend:
    """Draws responses to prompts; by default in this process, from the policy itself."""

    is_remote: bool = False  # whether texts are drawn elsewhere, with weights that are sent there
    overlap: bool = False  # whether the next step's texts are asked for while a step trains
    # most that a token counts in training for its policy probability over its sampler's
    importance_cap: float = math.inf

    def prepare(self, policy: SampledPolicy, params: SamplingParams, *, for_training: bool) -> None:
        """Refuse what could not be drawn (OSError: no server); training needs its log-probabilities."""

    def update(self, policy: SampledPolicy) -> None:
        """Draw with the policy's present weights from now on; ValueError: a server has others."""

    def share(self) -> Any:
        """Return, as plain values, what other processes need to ask for the weights that were sent."""

    def follow(self, state: Any) -> None:
        """Ask for the weights that another process sent; ``state`` is what its ``share`` gave."""

    def generate(
        self,
        policy: SampledPolicy,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams,
        seeds: Sequence[int],
        *,
        keep_trunk: bool = False,
        close: bool = False,
    ) -> Generated:
        """Draw as ``CausalModel.sample``; ValueError: too long, or refused. OSError: no server left."""
        return policy.sample(prompts, params, seeds, keep_trunk=keep_trunk, close=close)

    def close(self) -> None:
        """Take back what was sent, from servers and disk; raises nothing, and may be used again."""


class LocalGenerator(GenerationBackend):
    """Draws in this process, from the policy itself: no weights are sent, no text is off policy."""


# Draws responses to prompts' tokens with a seed each, from a policy that was sent.
Draw = Callable[[Sequence[Sequence[int]], SamplingParams, Sequence[int]], Generated]


class Responses(NamedTuple):
    """Responses of one policy to ``P`` prompts, the same number to each."""

    texts: list[list[str]]  # P lists
    unfinished: list[list[bool]]  # P lists, True where the length limit cut the text
    tokens: list[list[list[int]]]  # P lists of token rows, as they were drawn


@dataclass(frozen=True)
class DrawingOptions:
    """Who draws responses, and how many at a time.

    Attributes:
        batch_size: Prompts at a time, at least 1.
        generator: Who draws: this process (None), or servers (``rlaif_pl.rl.VLLMGenerator``) that
            serve the policy, or the base of the adapters that it is.
    """

    batch_size: int = 16
    generator: GenerationBackend | None = None

    def __post_init__(self) -> None:
        at_least(1, batch_size=self.batch_size)


@torch.no_grad()
def generate(
    policy: CausalModel,
    prompts: Sequence[Prompt],
    params: SamplingParams,
    *,
    batch_size: int = 16,
    title: str = "sampling",
    generator: GenerationBackend | None = None,
    draw: Draw | None = None,
) -> Responses:
    """Sample responses; batches hold prompts of like length, the noise depends on the prompt alone.

    Args:
        policy: Policy to sample from.
        prompts: Prompts; ``Prompt.group`` keys the noise.
        params: How to draw, ``n`` responses a prompt.
        batch_size: Prompts at a time, at least 1.
        title: Name of the progress bar.
        generator: Who draws: this process (None), or servers; see ``serving``.
        draw: What ``serving`` gave for the policy, where several calls share it.

    Raises:
        ValueError: A text could outgrow the model, or its logits are not finite; or see ``serving``.
    """
    at_least(1, batch_size=batch_size)
    encoded = policy.encode_prompts([prompt.text for prompt in prompts])
    if encoded:
        policy.info.check_length(max(map(len, encoded)), params.max_new_tokens, "max_new_tokens")
    order = sorted(range(len(prompts)), key=lambda n: (len(prompts[n].text), n))
    found = Responses([[] for _ in prompts], [[] for _ in prompts], [[] for _ in prompts])
    drawing = serving(policy, params, generator) if draw is None else nullcontext(draw)
    with drawing as ask, Progress() as progress:
        task = progress.add_task(title, total=len(prompts))
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            keys = [(prompts[n].group, k) for n in rows for k in range(params.n)]
            seeds = [sample_seed(params.seed or 0, "sample", *key) for key in keys]
            drawn = ask([encoded[n] for n in rows], params, seeds)
            if any(drawn.failed):
                place = rows[drawn.failed.index(True) // params.n] + 1
                raise ValueError(
                    f"expected finite logits from {policy.info.name}, got NaN or infinity after prompt "
                    f"{place} of {len(prompts)}; its weights are broken, or its type overflows: look "
                    "at the run that trained it, or take float32"
                )
            decoded = policy.texts(drawn.tokens, params)
            for place, n in enumerate(rows):
                part = slice(place * params.n, (place + 1) * params.n)
                found.texts[n], found.tokens[n] = decoded[part], drawn.tokens[part]
                found.unfinished[n] = [not end for end in drawn.finished[part]]
            progress.advance(task, len(rows))
    return found


@contextmanager
def serving(
    policy: CausalModel,
    params: SamplingParams,
    generator: GenerationBackend | None = None,
    *,
    send_whole: bool = False,
) -> Iterator[Draw]:
    """Have a policy drawn from: within it servers hold its weights, afterwards they are taken back.

    They are sent what the policy differs from their model by (all weights where that is another:
    ``send_whole``). ValueError: one lacks something, or draws from others. OSError: none is left.
    """
    backend, served = generator or LocalGenerator(), SampledPolicy(policy, send_whole=send_whole)
    try:
        backend.prepare(served, params, for_training=False)
        backend.update(served)
        yield partial(backend.generate, served)
    finally:
        backend.close()


def pairs_of(
    rows: Sequence[Prompt], texts_of: Sequence[Sequence[str]], author: str
) -> list[Preference]:
    """Put each two of an even number of responses into a pair, unless equal or one is empty."""
    provenance = Provenance(first_policy=author, second_policy=author)
    return [
        Preference(prompt.text, texts[k], texts[k + 1], prompt.group, provenance=provenance)
        for prompt, texts in zip(rows, texts_of, strict=True)
        for k in range(0, len(texts), 2)
        if texts[k] and texts[k + 1] and texts[k] != texts[k + 1]
    ]
