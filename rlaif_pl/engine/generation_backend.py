"""Who draws responses: this process, or inference servers that are given the policy's weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from torch import Tensor

from rlaif_pl.engine.generate import Generated
from rlaif_pl.engine.sampling import SamplingParams, StopStrings

Changed = Literal["nothing", "adapter", "whole"]


class ServedPolicy(Protocol):
    """A policy as a generation backend sees it."""

    name: str  # model that it is, or started from
    is_tied: bool  # whether its output embedding is its input embedding
    end_ids: frozenset[int]  # tokens that end a text
    vocab_size: int  # ids from here on belong to no token

    @property
    def changed(self) -> Changed:
        """What differs from that model: adapters beside it, all weights, or nothing."""

    @property
    def rank(self) -> int:
        """Rank of its adapters; 0 where it has none."""

    @property
    def device_type(self) -> str:
        """Kind of device its weights are on: "cpu", "cuda", ..."""

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams,
        seeds: Sequence[int],
        *,
        keep_trunk: bool = False,
        close: bool = False,
    ) -> Generated:
        """Draw responses in this process; see ``CausalModel.sample``."""

    def stop_checker(self, params: SamplingParams) -> StopStrings | None:
        """Return what finds stop strings; None where there are none."""

    def write(self, folder: Path) -> Path:
        """Write what changed: a PEFT folder, or a whole transformers folder."""

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """All weights with adapters folded in, by their names in a transformers folder."""

    def check_prompt(self, most: int) -> list[int]:
        """Return a fixed prompt of at most so many tokens, at least 1."""

    def score(
        self, prompt: Sequence[int], response: Sequence[int], rounding: str | None = None
    ) -> list[float]:
        """Log-probability of each response token, in nats, at temperature 1.

        ``rounding`` is a type to compute in, with other rounding than usual; None the policy's own.
        """


class GenerationBackend:
    """Draws responses to prompts; by default in this process, from the policy itself.

    Attributes:
        is_remote: Whether texts are drawn elsewhere, with weights that are sent there.
        overlap: Whether training asks for the next step's texts while a step trains.
        importance_cap: Most that a token counts in training for its policy probability over its
            sampler's.
    """

    is_remote: bool = False
    overlap: bool = False
    importance_cap: float = math.inf  # the policy draws itself: there is nothing to weigh

    def prepare(self, policy: ServedPolicy, params: SamplingParams, *, for_training: bool) -> None:
        """Refuse, before any work, what could not be drawn.

        ``for_training`` says whether the log-probabilities that texts are drawn with will be needed.

        Raises:
            ValueError: Something has to be set otherwise; the message says what.
            OSError: No server can be reached.
        """

    def update(self, policy: ServedPolicy) -> None:
        """Let the texts that are asked from now on be drawn with the policy's present weights.

        Raises:
            ValueError: A server draws from other weights than the policy's.
            OSError: No server is left.
        """

    def share(self) -> Any:
        """Return, as plain values, what other processes need to ask for the weights that were sent."""

    def follow(self, state: Any) -> None:
        """Ask for the weights that another process sent; ``state`` is what its ``share`` gave."""

    def generate(
        self,
        policy: ServedPolicy,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams,
        seeds: Sequence[int],
        *,
        keep_trunk: bool = False,
        close: bool = False,
    ) -> Generated:
        """Draw ``params.n`` responses of a policy that ``update`` was called with to each prompt.

        Arguments as of ``CausalModel.sample``; only texts drawn in this process have trunk states.

        Raises:
            ValueError: A text could outgrow the servers' longest one, or a request is refused.
            OSError: No server is left.
        """
        return policy.sample(prompts, params, seeds, keep_trunk=keep_trunk, close=close)


class LocalGenerator(GenerationBackend):
    """Draws in this process, from the policy itself: no weights are sent, no text is off policy."""
