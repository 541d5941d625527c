"""Sample from a policy over a whole data set, with a progress bar; pairs of what was sampled."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from rich.progress import Progress

from rlaif_pl.engine.generate import Generated
from rlaif_pl.engine.sampling import SamplingParams, sample_seed
from rlaif_pl.errors import at_least
from rlaif_pl.models.causal import CausalModel
from rlaif_pl.models.sampled_policy import SampledPolicy
from rlaif_pl.rl.generation_backend import GenerationBackend, LocalGenerator
from rlaif_pl.types import Preference, Prompt, Provenance

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
        """Refuse a batch without prompts."""
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
        batch_size: Prompts at a time.
        title: Name of the progress bar.
        generator: Who draws: this process (None), or servers; see ``serving``.
        draw: What ``serving`` gave for the policy, where several calls share it; in place of
            ``generator``.

    Raises:
        ValueError: ``batch_size`` is below 1, or a text could outgrow the model: nothing is sampled
            then; or the policy's logits are not finite; or what ``serving`` raises.
        OSError: No server is left.
    """
    at_least(1, batch_size=batch_size)
    encoded = policy.encode_prompts([prompt.text for prompt in prompts])
    if encoded:
        policy.info.check_length(max(map(len, encoded)), params.max_new_tokens, "max_new_tokens")
    with serving(policy, params, generator) if draw is None else nullcontext(draw) as drawing:
        return _draw_all(policy, prompts, encoded, params, drawing, batch_size, title)


@contextmanager
def serving(
    policy: CausalModel,
    params: SamplingParams,
    generator: GenerationBackend | None = None,
    *,
    send_whole: bool = False,
) -> Iterator[Draw]:
    """Have a policy drawn from: within it servers hold its weights, afterwards they are taken back.

    Args:
        policy: Policy to sample from.
        params: How to draw.
        generator: Who draws: this process (None), or servers, which are first sent what the policy
            differs from their model by and asked whether they then draw from it.
        send_whole: They serve another model: send all weights.

    Raises:
        ValueError: A server lacks something, or draws from other weights.
        OSError: No server is left.
    """
    backend, served = generator or LocalGenerator(), SampledPolicy(policy, send_whole=send_whole)
    try:
        backend.prepare(served, params, for_training=False)
        backend.update(served)
        yield partial(backend.generate, served)
    finally:
        backend.close()


def _draw_all(
    policy: CausalModel,
    prompts: Sequence[Prompt],
    encoded: Sequence[Sequence[int]],
    params: SamplingParams,
    draw: Draw,
    batch_size: int,
    title: str,
) -> Responses:
    order = sorted(range(len(prompts)), key=lambda n: (len(prompts[n].text), n))
    texts: list[list[str]] = [[] for _ in prompts]
    unfinished: list[list[bool]] = [[] for _ in prompts]
    tokens: list[list[list[int]]] = [[] for _ in prompts]
    with Progress() as progress:
        task = progress.add_task(title, total=len(prompts))
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            seeds = [
                sample_seed(params.seed or 0, "sample", prompts[n].group, k)
                for n in rows
                for k in range(params.n)
            ]
            chosen = [encoded[n] for n in rows]
            drawn = draw(chosen, params, seeds)
            if any(drawn.failed):
                raise ValueError(
                    f"expected finite logits from {policy.info.name}, got NaN or infinity after prompt "
                    f"{rows[drawn.failed.index(True) // params.n] + 1} of {len(prompts)}; its weights "
                    "are broken, or its type overflows: look at the run that trained it, or take "
                    "float32"
                )
            decoded, ended = policy.texts(drawn.tokens, params), drawn.finished
            for place, n in enumerate(rows):
                part = slice(place * params.n, (place + 1) * params.n)
                texts[n], tokens[n] = decoded[part], drawn.tokens[part]
                unfinished[n] = [not end for end in ended[part]]
            progress.advance(task, len(rows))
    return Responses(texts, unfinished, tokens)


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
